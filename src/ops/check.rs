//! Checking a repository: first its structure by logs and listings, then, if asked for, the stored bytes themselves.
//!
//! Without an identity names, lengths, signatures and BLAKE3 sums are checked; with one every frame is opened too, every
//! manifest read, and damage is told by the files that it hurts. What is found is remembered in the catalog: damaged
//! frames are not deduplicated against, so that the next backup stores what the source still has.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Serialize;

use super::Error;
use super::restore::{Locator, each_selected};
use crate::catalog::{FrameRow, FrameState, PackRow, PackState, SnapshotRow};
use crate::model::{Moment, SnapshotId};
use crate::ops::Selection;
use crate::pack::{FOOTER, parse_footer};
use crate::progress::{Event, Progress};
use crate::repository::{self, FrameReader, Problem, Repository};
use crate::store;

/// How much is read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ReadData {
    /// Nothing: logs, listings and manifests only.
    No,
    /// Every pack.
    All,
    /// The `part`-th of `of` parts, by the packs' names: all parts together are everything.
    Part {
        /// From 1.
        part: u64,
        /// How many.
        of: u64,
    },
    /// Packs by chance until this share of the stored bytes, in percent.
    Percent(f64),
    /// Packs by chance until this many stored bytes.
    Bytes(u64),
}

/// Something that is wrong with stored bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// The object.
    pub object: String,
    /// What is wrong with it.
    pub why: String,
    /// Snapshots that need it.
    pub snapshots: Vec<SnapshotId>,
}

/// What a check found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct CheckReport {
    /// Packs of the logs.
    pub packs: u64,
    /// Snapshots.
    pub snapshots: u64,
    /// Manifests that were read.
    pub manifests_read: u64,
    /// Packs that were read whole.
    pub packs_read: u64,
    /// Bytes that were read.
    pub bytes_read: u64,
    /// Frames that were opened.
    pub frames_opened: u64,
    /// Packs that no commit names: what a run left that did not end.
    pub unnamed: u64,
    /// Files of a store on disk that writes left which did not end.
    pub unfinished: Vec<std::path::PathBuf>,
    /// Logs that no key at hand opens.
    pub logs_closed: u64,
    /// Damage, by object.
    pub damage: Vec<Damage>,
    /// Files that are hurt: snapshot, path, why. At most a thousand.
    pub files_hurt: Vec<(SnapshotId, String, String)>,
    /// What is wrong with the logs.
    pub problems: Vec<String>,
}

impl CheckReport {
    /// Whether everything that was looked at is in order.
    pub fn is_clean(&self) -> bool {
        self.damage.is_empty() && self.problems.is_empty() && self.files_hurt.is_empty()
    }
}

/// Checks. `problems` are those that opening the repository found; `chance` seeds the choice of a subset.
pub fn check(
    repository: &mut Repository,
    read: ReadData,
    problems: &[Problem],
    now: Moment,
    chance: u64,
    progress: &dyn Progress,
) -> Result<CheckReport, Error> {
    let mut report = CheckReport { problems: problems.iter().map(ToString::to_string).collect(), ..Default::default() };
    progress.event(Event::Stage("listing logs"));
    for problem in repository.audit_logs(read != ReadData::No, progress)? {
        let text = problem.to_string();
        if !report.problems.contains(&text) {
            report.problems.push(text);
        }
    }
    report.unfinished = repository.store().unfinished();
    let snapshots = repository.catalog().snapshots()?;
    report.snapshots = snapshots.len() as u64;
    let mut bad = Bad::default();
    progress.event(Event::Stage("listing packs"));
    let mut packs: Vec<(String, PackRow)> = Vec::new();
    for (row, name) in repository.catalog().writers()? {
        let listing = repository.list_packs(&name, now)?;
        // Packs of a log that no key at hand opens are named there, for all we know.
        if repository.catalog().commits(row, false)?.is_empty() {
            report.unnamed += listing.unknown.len() as u64;
        } else {
            report.logs_closed += 1;
        }
        for pack in repository.catalog().packs(row)? {
            report.packs += 1;
            if read == ReadData::No {
                // What an earlier reading found, and nothing has read since.
                for frame in repository.catalog().frames_of(pack.row)? {
                    if frame.state == FrameState::Damaged && pack.state == PackState::Good {
                        let why = "it was found damaged by an earlier check".to_owned();
                        bad.frames.insert(frame.row, (pack.key(&name), why));
                    }
                }
            }
            let why = if listing.missing.contains(&pack.id) {
                "it is missing in the store"
            } else if listing.wrong_length.contains(&pack.id) {
                "it has another length in the store"
            } else if read == ReadData::No && pack.state == PackState::Damaged {
                "it was found damaged by an earlier check"
            } else {
                packs.push((name.clone(), pack));
                continue;
            };
            let found = BadPack { object: pack.key(&name), why: why.to_owned(), all_frames: true };
            bad.packs.insert(pack.row, found);
        }
    }
    let chosen = choose(packs, read, chance);
    read_packs(repository, &chosen, &mut bad, &mut report, now, progress)?;
    tell(repository, &snapshots, &bad, &mut report)?;
    if repository.can_read() {
        read_manifests(repository, &snapshots, &bad, &mut report, progress)?;
    }
    Ok(report)
}

/// A pack that is not in order.
struct BadPack {
    object: String,
    why: String,
    /// Whether every frame of it must be taken for lost; else the frames themselves say.
    all_frames: bool,
}

/// What was found wrong.
#[derive(Default)]
struct Bad {
    packs: BTreeMap<i64, BadPack>,
    frames: BTreeMap<i64, (String, String)>,
}

fn choose(mut packs: Vec<(String, PackRow)>, read: ReadData, chance: u64) -> Vec<(String, PackRow)> {
    let total: u64 = packs.iter().map(|(_, pack)| pack.size).sum();
    let limit = match read {
        ReadData::No => return Vec::new(),
        ReadData::All => return packs,
        ReadData::Part { part, of } => {
            let mine = |pack: &PackRow| pack.id.prefix() as u64 % of.max(1) + 1 == part;
            packs.retain(|(_, pack)| mine(pack));
            return packs;
        }
        ReadData::Percent(percent) => (total as f64 * percent / 100.0).ceil() as u64,
        ReadData::Bytes(bytes) => bytes,
    };
    let rank = |pack: &PackRow| *blake3::keyed_hash(&seed(chance), pack.id.as_bytes()).as_bytes();
    packs.sort_by_cached_key(|(_, pack)| rank(pack));
    let mut sum = 0;
    packs.retain(|(_, pack)| {
        let before = sum;
        sum += pack.size;
        before < limit
    });
    packs
}

fn seed(chance: u64) -> [u8; 32] {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&chance.to_le_bytes());
    seed
}

/// What reading one pack found.
#[derive(Default)]
struct PackFindings {
    pack: Option<String>,
    frames: Vec<(i64, String)>,
    bytes: u64,
    opened: u64,
}

fn read_packs(
    repository: &mut Repository,
    packs: &[(String, PackRow)],
    bad: &mut Bad,
    report: &mut CheckReport,
    now: Moment,
    progress: &dyn Progress,
) -> Result<(), Error> {
    if packs.is_empty() {
        return Ok(());
    }
    progress.event(Event::Stage("reading packs"));
    let bytes = packs.iter().map(|(_, pack)| pack.size).sum();
    progress.event(Event::Expect { items: packs.len() as u64, bytes });
    let reader = if repository.can_read() { Some(repository.frame_reader("a check")?) } else { None };
    let frames: HashMap<i64, Vec<FrameRow>> = packs
        .iter()
        .map(|(_, pack)| Ok((pack.row, repository.catalog().frames_of(pack.row)?)))
        .collect::<Result<_, Error>>()?;
    let (next, store) = (AtomicUsize::new(0), repository.store().clone());
    let results: Mutex<Vec<(usize, PackFindings)>> = Mutex::default();
    let work = || -> Result<(), Error> {
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            let Some((writer, pack)) = packs.get(n) else { return Ok(()) };
            if progress.cancelled() {
                return Err(repository::Error::Cancelled.into());
            }
            let rows = frames.get(&pack.row).map_or(&[][..], Vec::as_slice);
            let findings = read_pack(&store, writer, pack, rows, reader.as_ref())?;
            progress.event(Event::Done { items: 1, bytes: pack.size });
            results.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((n, findings));
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3.min(packs.len())).map(|_| scope.spawn(work)).collect();
        let ended: Vec<_> =
            threads.into_iter().map(|t| t.join().unwrap_or(Err(repository::Error::Pipeline.into()))).collect();
        ended.into_iter().collect::<Result<(), Error>>()
    })?;
    let mut states = Vec::new();
    for (n, findings) in results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        let (writer, pack) = &packs[n];
        report.packs_read += 1;
        report.bytes_read += findings.bytes;
        report.frames_opened += findings.opened;
        let hurt: Vec<i64> = findings.frames.iter().map(|(row, _)| *row).collect();
        if reader.is_some() {
            // Only what was opened is known to be in order again.
            let all: Vec<i64> = frames.get(&pack.row).into_iter().flatten().map(|f| f.row).collect();
            repository.catalog_mut().set_frames_damaged(&all, false)?;
        }
        repository.catalog_mut().set_frames_damaged(&hurt, true)?;
        let whole_pack = findings.pack.is_some() && hurt.is_empty() && reader.is_none();
        states.push((pack.row, if whole_pack { PackState::Damaged } else { PackState::Good }));
        if let Some(why) = findings.pack {
            let found = BadPack { object: pack.key(writer), why, all_frames: reader.is_none() };
            bad.packs.insert(pack.row, found);
        }
        for (row, why) in findings.frames {
            bad.frames.insert(row, (pack.key(writer), why));
        }
    }
    Ok(repository.catalog_mut().set_pack_states(&states, now.timestamp())?)
}

fn read_pack(
    store: &store::Store,
    writer: &str,
    pack: &PackRow,
    frames: &[FrameRow],
    reader: Option<&FrameReader>,
) -> Result<PackFindings, Error> {
    let mut found = PackFindings::default();
    let body = match store.get(&pack.key(writer), crate::model::limits::PACK_MAX) {
        Ok(body) => body,
        Err(e @ (store::Error::NotFound { .. } | store::Error::Truncated { .. } | store::Error::TooLarge { .. })) => {
            found.pack = Some(e.to_string());
            found.frames = frames.iter().map(|frame| (frame.row, e.to_string())).collect();
            return Ok(found);
        }
        Err(e) => return Err(e.into()),
    };
    found.bytes = body.len() as u64;
    if blake3::hash(&body).as_bytes() != pack.id.as_bytes() {
        found.pack = Some("its bytes do not match its name".to_owned());
    }
    let footer = body.len().checked_sub(FOOTER as usize).map(|at| &body[at..]);
    let place = footer.and_then(|footer| parse_footer(footer, body.len() as u64).ok());
    if place != Some((pack.directory_at, pack.directory_length)) {
        found.pack.get_or_insert_with(|| "its footer is damaged".to_owned());
    }
    let Some(reader) = reader else { return Ok(found) };
    for frame in frames {
        let sealed = body.get(frame.at as usize..(frame.at + frame.stored) as usize);
        let opened = match sealed {
            Some(sealed) => reader.open(frame, sealed).map(drop),
            None => {
                found.frames.push((frame.row, "it lies beyond the pack's end".to_owned()));
                continue;
            }
        };
        match opened {
            Ok(()) => found.opened += 1,
            Err(e @ repository::Error::Frame { .. }) => found.frames.push((frame.row, e.to_string())),
            Err(e) => return Err(e.into()),
        }
    }
    Ok(found)
}

/// Turns what was found into damage with the snapshots that it hurts.
fn tell(repository: &Repository, snapshots: &[SnapshotRow], bad: &Bad, report: &mut CheckReport) -> Result<(), Error> {
    let hurt_by = |frames: &[i64]| -> Vec<SnapshotId> {
        let uses = |s: &&SnapshotRow| {
            frames.iter().any(|row| s.record.uses.0.iter().any(|(a, b)| (*a..=*b).contains(&(*row as u64))))
        };
        snapshots.iter().filter(uses).map(|s| s.record.id).collect()
    };
    for (row, pack) in &bad.packs {
        let mut rows: Vec<i64> = repository.catalog().frames_of(*row)?.iter().map(|frame| frame.row).collect();
        if !pack.all_frames {
            rows.retain(|row| bad.frames.contains_key(row));
        }
        report.damage.push(Damage { object: pack.object.clone(), why: pack.why.clone(), snapshots: hurt_by(&rows) });
    }
    let told: HashSet<&String> = bad.packs.values().map(|pack| &pack.object).collect();
    for (row, (object, why)) in bad.frames.iter().filter(|(_, (object, _))| !told.contains(object)) {
        report.damage.push(Damage { object: object.clone(), why: why.clone(), snapshots: hurt_by(&[*row]) });
    }
    Ok(())
}

fn read_manifests(
    repository: &Repository,
    snapshots: &[SnapshotRow],
    bad: &Bad,
    report: &mut CheckReport,
    progress: &dyn Progress,
) -> Result<(), Error> {
    progress.event(Event::Stage("reading manifests"));
    progress.event(Event::Expect { items: snapshots.len() as u64, bytes: 0 });
    let everything = Selection::new(&[], &[])?;
    for snapshot in snapshots {
        let mut locator = Locator::new(repository, snapshot);
        let id = snapshot.record.id;
        let read = each_selected(repository, snapshot, &everything, progress, &mut |entry| {
            for extent in entry.content().into_iter().flat_map(|content| &content.extents) {
                let why = match locator.find(extent) {
                    Ok(Some(row)) => match (bad.frames.get(&row.row), bad.packs.get(&row.pack_row)) {
                        (Some((_, why)), _) => why.clone(),
                        (None, Some(pack)) if pack.all_frames => pack.why.clone(),
                        _ => continue,
                    },
                    Ok(None) => continue,
                    Err(
                        e @ Error::Repository(repository::Error::UnknownFrame(_) | repository::Error::Manifest { .. }),
                    ) => e.to_string(),
                    Err(e) => return Err(e),
                };
                if report.files_hurt.len() < 1000 {
                    report.files_hurt.push((id, entry.path.to_string(), why));
                }
                break;
            }
            Ok(())
        });
        match read {
            Ok(()) => report.manifests_read += 1,
            Err(Error::Repository(
                e @ (repository::Error::Frame { .. }
                | repository::Error::Manifest { .. }
                | repository::Error::UnknownFrame(_)
                | repository::Error::BadObject { .. }),
            )) => report.damage.push(Damage {
                object: format!("manifest of snapshot {id}"),
                why: e.to_string(),
                snapshots: vec![id],
            }),
            Err(e) => return Err(e),
        }
        progress.event(Event::Done { items: 1, bytes: 0 });
    }
    Ok(())
}
