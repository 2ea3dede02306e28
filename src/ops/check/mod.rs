//! Checking a repository: first its structure by logs and listings, then, if asked for, the stored bytes themselves.
//!
//! Without an identity names, lengths, signatures and BLAKE3 sums are checked; with one every frame is opened too, every
//! manifest read, and damage is told by the files that it hurts. What is found is remembered in the catalog: damaged
//! frames are not deduplicated against, so that the next backup stores what the source still has.

mod hurt;
mod read;

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Serialize;

use super::Error;
use crate::catalog::{FrameState, PackRow, PackState, Usage};
use crate::model::sight::{self, Sight};
use crate::model::{Moment, PackId, SnapshotId};
use crate::progress::{Event, Progress};
use crate::repository::{Problem, Repository};

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
    /// Packs that were not found in order since a moment, those longest ago first.
    Due {
        /// The moment.
        before: Moment,
    },
    /// Packs by chance until this share of the stored bytes, in percent.
    Percent(f64),
    /// Packs by chance until this many stored bytes.
    Bytes(u64),
}

/// How a check is done.
#[derive(Debug, Clone, Copy)]
pub struct CheckOptions {
    /// How much is read.
    pub read: ReadData,
    /// No further pack is begun after this; one is always read.
    pub until: Option<Instant>,
}

impl From<ReadData> for CheckOptions {
    fn from(read: ReadData) -> Self {
        Self { read, until: None }
    }
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
    /// Packs that no check has ever read and found in order.
    pub packs_never_read: u64,
    /// Packs that were to be read and were not, because time was up.
    pub packs_left: u64,
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
    /// Damaged objects of which every frame lies somewhere else too: they hurt nobody.
    pub replaced: Vec<String>,
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

    /// What `status` shall know of it.
    fn sight(&self, at: Moment) -> Sight {
        let facts = serde_json::json!(sight::Checked {
            packs_read: self.packs_read,
            bytes_read: self.bytes_read,
            packs_never_read: self.packs_never_read,
            packs_left: self.packs_left,
        });
        let damage = (self.damage.len(), "damaged or missing objects");
        let all = [damage, (self.files_hurt.len(), "hurt files"), (self.problems.len(), "problems of the logs")];
        let found: Vec<String> = all.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{what}: {n}")).collect();
        let words = (!self.is_clean()).then(|| found.join(", "));
        Sight { facts, ..Sight::new(sight::CHECK.to_owned(), at, words) }
    }
}

/// Checks. `problems` are those that opening the repository found; `chance` seeds the choice of a subset.
pub fn check(
    repository: &mut Repository,
    options: impl Into<CheckOptions>,
    problems: &[Problem],
    now: Moment,
    chance: u64,
    progress: &dyn Progress,
) -> Result<CheckReport, Error> {
    let options = options.into();
    let read = options.read;
    let mut report = CheckReport { problems: problems.iter().map(ToString::to_string).collect(), ..Default::default() };
    progress.event(Event::Stage("listing logs"));
    for problem in repository.audit_logs(read != ReadData::No, progress)? {
        let text = problem.to_string();
        if !report.problems.contains(&text) {
            report.problems.push(text);
        }
    }
    report.unfinished = repository.store().unfinished();
    if read != ReadData::No && repository.catalog_differs(progress)? {
        report.problems.push("this host's catalog says something else than the logs".to_owned());
    }
    let snapshots = repository.catalog().snapshots()?;
    report.snapshots = snapshots.len() as u64;
    let mut bad = Bad::default();
    progress.event(Event::Stage("listing packs"));
    let mut packs: Vec<(String, PackRow)> = Vec::new();
    for (row, name) in repository.catalog().writers()? {
        let listing = repository.list_packs(&name, now)?;
        // Packs of a log that no key at hand opens are named there, for all we know. What is said to be lost is no such thing.
        let lost = repository.catalog().lost(row)?;
        match repository.catalog().commits(row, false)?.iter().all(|head| lost.contains(&head.digest)) {
            true => report.unnamed += listing.unknown.len() as u64,
            false => report.logs_closed += 1,
        }
        let (known, usage) = (repository.catalog().packs(row)?, repository.catalog().usage(row)?);
        for pack in known {
            // What a prune deleted is nobody's loss, unless somebody needs it.
            if pack.deleted {
                if usage.lost_packs.contains(&pack.row) {
                    let why = "a prune has deleted it, and it is needed".to_owned();
                    bad.packs.insert(pack.row, BadPack { object: pack.key(&name), why, all_frames: true });
                }
                continue;
            }
            let needed = || needs(repository, &pack, &usage);
            if listing.gone.contains(&pack.id) && !needed()? {
                continue;
            }
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
            let why = if listing.missing.contains(&pack.id) || listing.gone.contains(&pack.id) {
                "it is missing in the store"
            } else if listing.wrong_length.contains(&pack.id) {
                "it has another length in the store"
            } else if read == ReadData::No && pack.state == PackState::Damaged {
                "it was found damaged by an earlier check"
            } else {
                packs.push((name.clone(), pack));
                continue;
            };
            repository.catalog_mut().set_verified(&[(pack.id, false)], now.timestamp())?;
            let found = BadPack { object: pack.key(&name), why: why.to_owned(), all_frames: true };
            bad.packs.insert(pack.row, found);
        }
    }
    let ids: Vec<PackId> = packs.iter().map(|(_, pack)| pack.id).collect();
    let chosen = read::choose(packs, read, chance, &repository.catalog().ledger()?);
    read::read_packs(repository, &chosen, options.until, &mut bad, &mut report, now, progress)?;
    let ledger = repository.catalog().ledger()?;
    report.packs_never_read = ids.iter().filter(|id| !ledger.contains_key(id)).count() as u64;
    report.packs_left = chosen.len() as u64 - report.packs_read;
    hurt::tell(repository, &snapshots, &bad, &mut report)?;
    if repository.can_read() {
        hurt::read_manifests(repository, &snapshots, &bad, &mut report, progress)?;
    }
    repository.catalog_mut().set_sights(sight::STORE, |_| false, &[report.sight(now)])?;
    Ok(report)
}

/// Whether a snapshot needs anything of a pack.
fn needs(repository: &Repository, pack: &PackRow, usage: &Usage) -> Result<bool, Error> {
    for frame in repository.catalog().frames_of(pack.row)? {
        if repository.catalog().rows_at(&frame)?.into_iter().any(|row| usage.needs(row)) {
            return Ok(true);
        }
    }
    Ok(false)
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
