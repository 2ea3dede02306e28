//! WAL to and from the repository: what `archive_command` and `restore_command` call.
//!
//! Invariants: success is told only when the file is durable in the store, named in the index on this host's disk, and the only
//! one of its name; absence is told only when it is proven, and lies behind the end of what is there (docs/postgres.md).

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::Error;
use crate::format::pg_control::ControlFile;
use crate::format::wal::{ArchiveFile, SegmentHeader, check_segment, scan};
use crate::model::base::BaseBackup;
use crate::model::lsn::{SegmentName, SystemId};
use crate::model::{Digest, Moment, SegmentPlace, SegmentRecord, limits};
use crate::progress::Progress;
use crate::repository::{Repository, SegmentWriter};

/// Segments that are sent beside the one that was asked for, at most.
pub const AHEAD: usize = 7;
/// Plain bytes of such segments at which no further one is added: clusters may have segments of 1 GiB.
const AHEAD_BYTES: usize = 128 << 20;
/// Threads that compress and send.
const SENDERS: usize = 4;
/// Seconds after which segments that no commit names yet are committed.
const COMMIT_AFTER: i64 = 60;
/// Bytes of a history, label or other small file at most.
const SMALL: u64 = 1 << 20;

/// Why a file of the log cannot be pushed or served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WalError {
    /// Its name is none that PostgreSQL gives.
    #[error("`{0}` is no name of a WAL file")]
    Name(String),
    /// It cannot be read.
    #[error("could not {doing} `{}`", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Its bytes are not what its name says.
    #[error("`{name}` is not the segment that its name says: {why}")]
    Content {
        /// The segment.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// Neither the file nor the data directory tells which cluster it belongs to.
    #[error("which cluster `{name}` belongs to cannot be told: {why}")]
    Cluster {
        /// The file.
        name: String,
        /// Why.
        why: String,
    },
    /// The server is still writing it.
    #[error("`{name}` is still being written: PostgreSQL has not marked it as ready to be archived")]
    Unfinished {
        /// The segment.
        name: String,
    },
    /// The store holds other bytes under that name.
    #[error(
        "`{name}` is in the repository already, with other bytes: two servers push to one place, or one was rolled back"
    )]
    Conflict {
        /// The file.
        name: String,
    },
    /// A segment is missing between others.
    #[error(
        "`{name}` is missing in the repository, and later segments of its timeline are there: this is a gap, not the end"
    )]
    Gap {
        /// The segment.
        name: String,
    },
    /// Which of several streams is meant is not clear.
    #[error("which stream `{name}` belongs to cannot be told: {why}")]
    Stream {
        /// The file.
        name: String,
        /// Why.
        why: String,
    },
}

/// What a push did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// Whether the file was there already, with the same bytes.
    pub known: bool,
    /// Further segments that were sent beside it.
    pub ahead: usize,
    /// The last commit of what was sent, where one is known.
    pub newest: Option<Moment>,
}

/// A cluster as its files tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cluster {
    system_id: SystemId,
    major: u32,
}

/// A file that is ready to be sent.
struct Ready {
    name: String,
    place: SegmentPlace,
    bytes: Vec<u8>,
    digest: Digest,
    facts: serde_json::Value,
    newest: Option<Moment>,
}

fn read_limited(path: &Path, limit: u64) -> Result<Vec<u8>, WalError> {
    let io = |source| WalError::Io { doing: "read", path: path.to_owned(), source };
    let mut file = File::open(path).map_err(io)?;
    let size = file.metadata().map_err(io)?.len();
    if size > limit {
        return Err(io(std::io::Error::other(format!("it has {size} bytes, more than such a file may have"))));
    }
    let mut bytes = Vec::with_capacity(size as usize);
    (&mut file).take(limit).read_to_end(&mut bytes).map_err(io)?;
    Ok(bytes)
}

/// The cluster of a data directory.
fn cluster_of(data: &Path, name: &str) -> Result<Cluster, WalError> {
    let fail = |why: String| WalError::Cluster { name: name.to_owned(), why };
    let version = read_limited(&data.join("PG_VERSION"), SMALL).map_err(|e| fail(e.to_string()))?;
    let major =
        String::from_utf8_lossy(&version).trim().parse().map_err(|_| fail("PG_VERSION is no number".to_owned()))?;
    let path = data.join("global/pg_control");
    let mut flaw = String::new();
    // The server may be writing it.
    for _ in 0..20 {
        let bytes = read_limited(&path, SMALL).map_err(|e| fail(e.to_string()))?;
        match ControlFile::parse(&bytes) {
            Ok(control) => return Ok(Cluster { system_id: control.system_id, major }),
            Err(e) => flaw = e.to_string(),
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    Err(fail(format!("pg_control: {flaw}")))
}

/// The data directory of a path as PostgreSQL gives it: `pg_wal/NAME` below the working directory, or an absolute one.
fn data_directory(path: &Path) -> PathBuf {
    let above = path.parent().and_then(Path::parent).unwrap_or_else(|| Path::new(""));
    if above.as_os_str().is_empty() { PathBuf::from(".") } else { above.to_owned() }
}

/// The timeline in a file's name, as eight digits: the epoch of its place.
fn epoch_of(file: &ArchiveFile, name: &str) -> String {
    match file {
        ArchiveFile::History(timeline) => format!("{:08X}", timeline.0),
        _ => name.chars().take(8).collect(),
    }
}

struct Preparing<'a> {
    writer: &'a SegmentWriter,
    source: &'a str,
    cluster: Option<Cluster>,
}

impl Preparing<'_> {
    /// Reads and checks a file. What it says of its commits goes into the index.
    fn prepare(&self, path: &Path, name: &str) -> Result<Ready, WalError> {
        let file = ArchiveFile::parse(name).map_err(|_| WalError::Name(name.to_owned()))?;
        let (bytes, cluster, facts, newest) = match &file {
            ArchiveFile::Segment(segment) => {
                let bytes = read_limited(path, limits::SEGMENT_MAX as u64)?;
                let (header, facts, newest) = self.examine(&bytes, *segment, name)?;
                let cluster = Cluster { system_id: header.system_id, major: header.major };
                (bytes, cluster, facts, newest)
            }
            _ => {
                let limit = if matches!(file, ArchiveFile::Partial(_)) { limits::SEGMENT_MAX as u64 } else { SMALL };
                let unknown =
                    || WalError::Cluster { name: name.to_owned(), why: "there is no pg_control above it".to_owned() };
                let bytes = read_limited(path, limit)?;
                // Short, and needed to tell which moments can be reached, by hosts that cannot open it too.
                let facts = match file {
                    ArchiveFile::History(_) => serde_json::json!({"history": String::from_utf8_lossy(&bytes)}),
                    _ => serde_json::Value::Null,
                };
                (bytes, self.cluster.ok_or_else(unknown)?, facts, None)
            }
        };
        if let Some(other) = self.cluster.filter(|other| *other != cluster) {
            let why = format!("it belongs to cluster {}, and its directory to {}", cluster.system_id, other.system_id);
            return Err(WalError::Content { name: name.to_owned(), why });
        }
        let stream = BaseBackup::stream_name(self.source, cluster.system_id, cluster.major);
        let place = SegmentPlace::new(&stream, &epoch_of(&file, name), name);
        let place = place.ok_or_else(|| WalError::Name(name.to_owned()))?;
        let digest = self.writer.digest(&place, &bytes);
        Ok(Ready { name: name.to_owned(), place, bytes, digest, facts, newest })
    }

    fn examine(
        &self,
        bytes: &[u8],
        segment: SegmentName,
        name: &str,
    ) -> Result<(SegmentHeader, serde_json::Value, Option<Moment>), WalError> {
        let bad = |why: String| WalError::Content { name: name.to_owned(), why };
        let header = check_segment(bytes, segment).map_err(|e| bad(e.to_string()))?;
        let facts = scan(bytes, segment).map_err(|e| bad(e.to_string()))?;
        let newest = facts.latest.and_then(Moment::from_timestamp_micros);
        let facts = serde_json::to_value(&facts).map_err(|e| bad(e.to_string()))?;
        Ok((header, facts, newest))
    }
}

/// Pushes a file of the log, and sends segments that wait behind it along.
pub fn push(
    repository: &mut Repository,
    source: &str,
    path: &Path,
    ahead: usize,
    now: Moment,
    progress: &dyn Progress,
) -> Result<Pushed, Error> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let writer = repository.segment_writer()?;
    let cluster = cluster_of(&data_directory(path), &name).ok();
    let preparing = Preparing { writer: &writer, source, cluster };
    let first = preparing.prepare(path, &name)?;
    refuse_unfinished(path, &name)?;
    if is_known(repository, &first)? {
        commit_if_due(repository, now, progress);
        return Ok(Pushed { known: true, ahead: 0, newest: first.newest });
    }
    let mut batch = vec![first];
    for next in waiting(path, &name, ahead) {
        if batch.iter().map(|ready| ready.bytes.len()).sum::<usize>() >= AHEAD_BYTES {
            break;
        }
        // What is asked for must not depend on what comes later: the first flaw ends the batch.
        let Ok(ready) = preparing.prepare(&path.with_file_name(&next), &next) else { break };
        match is_known(repository, &ready) {
            Ok(false) => batch.push(ready),
            Ok(true) => {}
            Err(_) => break,
        }
    }
    let sent = send(&writer, &batch, now)?;
    repository.note_segments(&sent.records)?;
    if let Some(error) = sent.failed {
        return Err(error);
    }
    commit_if_due(repository, now, progress);
    let newest = batch.iter().filter_map(|ready| ready.newest).max();
    Ok(Pushed { known: sent.known, ahead: sent.records.len().saturating_sub(1), newest })
}

/// A segment that is pushed by hand while the server writes it would stand under its name for ever, and its whole would be refused.
/// PostgreSQL marks what it wants archived, and what was; where nothing is ever marked, nothing is known.
fn refuse_unfinished(path: &Path, name: &str) -> Result<(), WalError> {
    let status = path.with_file_name("archive_status");
    let is_segment = matches!(ArchiveFile::parse(name), Ok(ArchiveFile::Segment(_)));
    let marked = ["ready", "done"].iter().any(|mark| status.join(format!("{name}.{mark}")).exists());
    match is_segment && status.is_dir() && !marked {
        true => Err(WalError::Unfinished { name: name.to_owned() }),
        false => Ok(()),
    }
}

/// Whether the index has a file already. Another digest under its name is a conflict.
fn is_known(repository: &Repository, ready: &Ready) -> Result<bool, Error> {
    let there = repository
        .catalog()
        .segments_at(&repository.host()?.name, &ready.place)
        .map_err(crate::repository::Error::from)?;
    if there.iter().any(|record| record.digest != ready.digest) {
        return Err(WalError::Conflict { name: ready.name.clone() }.into());
    }
    Ok(!there.is_empty())
}

/// Segments that PostgreSQL has marked as ready behind one, oldest first.
fn waiting(path: &Path, name: &str, limit: usize) -> Vec<String> {
    let status = path.with_file_name("archive_status");
    let listing = fs::read_dir(status).into_iter().flatten().flatten();
    let mut names: Vec<String> = listing
        .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".ready").map(str::to_owned))
        .filter(|ready| ready.as_str() > name && matches!(ArchiveFile::parse(ready), Ok(ArchiveFile::Segment(_))))
        .collect();
    names.sort();
    names.truncate(limit);
    names
}

struct Sent {
    records: Vec<SegmentRecord>,
    known: bool,
    failed: Option<Error>,
}

/// Puts a batch. The first file decides: where it fails, the call fails, whatever became of the others.
fn send(writer: &SegmentWriter, batch: &[Ready], now: Moment) -> Result<Sent, Error> {
    let places: Vec<SegmentPlace> = batch.iter().map(|ready| ready.place.clone()).collect();
    let conflict = |ready: &Ready, found: &std::collections::HashMap<SegmentPlace, Vec<(Digest, u64)>>| {
        found.get(&ready.place).is_some_and(|all| all.iter().any(|(digest, _)| *digest != ready.digest))
    };
    // Before: what a crash left is not sent twice, and what conflicts is not put at all. After: two that pushed at once both see it.
    let before = writer.look(&places)?;
    let (mut results, next) = (Vec::new(), std::sync::atomic::AtomicUsize::new(0));
    let put = |ready: &Ready| -> Result<(SegmentRecord, bool), Error> {
        if conflict(ready, &before) {
            return Err(WalError::Conflict { name: ready.name.clone() }.into());
        }
        let there = before.get(&ready.place).and_then(|all| all.iter().find(|(digest, _)| *digest == ready.digest));
        if let Some((digest, stored)) = there {
            let (place, plain) = (ready.place.clone(), ready.bytes.len() as u64);
            let facts = ready.facts.clone();
            return Ok((SegmentRecord { place, digest: *digest, plain, stored: *stored, put: now, facts }, true));
        }
        Ok((writer.put(ready.place.clone(), &ready.bytes, ready.facts.clone(), now)?, false))
    };
    std::thread::scope(|scope| {
        let work = || {
            let mut own = Vec::new();
            while let Some((at, ready)) = {
                let at = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                batch.get(at).map(|ready| (at, ready))
            } {
                own.push((at, put(ready)));
            }
            own
        };
        let threads: Vec<_> = (0..SENDERS.min(batch.len())).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            results.extend(thread.join().unwrap_or_default());
        }
    });
    results.sort_by_key(|(at, _)| *at);
    let after = writer.look(&places)?;
    let mut sent = Sent { records: Vec::new(), known: false, failed: None };
    for (at, result) in results {
        let ready = &batch[at];
        match result {
            Ok((record, known)) if !conflict(ready, &after) => {
                sent.known |= at == 0 && known;
                sent.records.push(record);
            }
            Ok(_) if at == 0 => sent.failed = Some(WalError::Conflict { name: ready.name.clone() }.into()),
            Err(error) if at == 0 => sent.failed = Some(error),
            // Its own call will tell.
            _ => {}
        }
    }
    Ok(sent)
}

/// Commits what is known of segments when the oldest has waited long enough. A failure is no failure of the push: the index on this
/// host has them, and the next call tries again.
fn commit_if_due(repository: &mut Repository, now: Moment, progress: &dyn Progress) {
    let due = repository
        .fresh_segments()
        .is_ok_and(|fresh| fresh.first().is_some_and(|oldest| (now - oldest.put).num_seconds() >= COMMIT_AFTER));
    if due && let Err(e) = repository.commit_segments(now, progress) {
        tracing::warn!("the index of segments was not committed; the next push tries again: {e}");
    }
}

/// What became of a request for a file of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Got {
    /// It is in its place.
    Placed,
    /// It is not in the repository, and nothing behind it is: the end of the log, as far as it was archived.
    Absent,
}

/// The writers that hold a stream, by their names.
fn writers_of(repository: &Repository, stream: &str) -> Result<Vec<String>, Error> {
    let mut found = Vec::new();
    for name in repository.store().folders("writers").map_err(crate::repository::Error::from)? {
        if repository.streams(&name)?.iter().any(|other| other == stream) {
            found.push(name);
        }
    }
    Ok(found)
}

/// Brings a file of the log to `target`. `stream` names the cluster's stream; `source` and the data directory above the target
/// tell it where it is not given.
pub fn get(repository: &Repository, stream: &str, name: &str, target: &Path) -> Result<Got, Error> {
    let file = ArchiveFile::parse(name).map_err(|_| WalError::Name(name.to_owned()))?;
    let place = SegmentPlace::new(stream, &epoch_of(&file, name), name);
    let place = place.ok_or_else(|| WalError::Name(name.to_owned()))?;
    let unclear = |why: &str| WalError::Stream { name: name.to_owned(), why: why.to_owned() };
    let writers = writers_of(repository, stream)?;
    let Some(writer) = writers.first() else {
        return Err(unclear("no writer of the repository has it").into());
    };
    let there = repository.segments_in_store(writer, &place)?;
    // Where two lie under one name, the one that was acknowledged is in the index.
    let named = repository.catalog().segments_at(writer, &place).map_err(crate::repository::Error::from)?;
    let chosen = match there.as_slice() {
        [] => return absence(repository, writer, &place, &file, !named.is_empty()),
        [one] => one.clone(),
        several => {
            let known = several.iter().find(|one| named.iter().any(|record| record.digest == one.digest));
            known.cloned().ok_or_else(|| unclear("two files have that name, and the index knows neither"))?
        }
    };
    let bytes = repository.read_segment(writer, &chosen)?;
    if let ArchiveFile::Segment(segment) = file {
        check_segment(&bytes, segment).map_err(|e| WalError::Content { name: name.to_owned(), why: e.to_string() })?;
    }
    put_in_place(&bytes, target)?;
    Ok(Got::Placed)
}

/// A file that is not there: the end, or a gap?
fn absence(
    repository: &Repository,
    writer: &str,
    place: &SegmentPlace,
    file: &ArchiveFile,
    is_named: bool,
) -> Result<Got, Error> {
    let gap = || WalError::Gap { name: place.name().to_owned() };
    if is_named {
        return Err(gap().into());
    }
    // Histories and labels are asked for on the chance that they exist.
    let ArchiveFile::Segment(segment) = file else { return Ok(Got::Absent) };
    let listing = repository.list_stream(writer, place.stream())?;
    let later = listing.there.iter().chain(&listing.missing).any(|record| {
        matches!(ArchiveFile::parse(record.place.name()), Ok(ArchiveFile::Segment(other))
            if other.timeline == segment.timeline && other > *segment)
    });
    if later { Err(gap().into()) } else { Ok(Got::Absent) }
}

/// Writes beside the target, syncs and renames: the server never sees half a file.
fn put_in_place(bytes: &[u8], target: &Path) -> Result<(), WalError> {
    let io = |source| WalError::Io { doing: "write", path: target.to_owned(), source };
    let mut part = target.as_os_str().to_owned();
    part.push(".lifeboat-part");
    let part = PathBuf::from(part);
    let written = File::create(&part).and_then(|mut file| {
        std::io::Write::write_all(&mut file, bytes)?;
        file.sync_data()
    });
    written.and_then(|()| fs::rename(&part, target)).map_err(io)
}

/// The stream of the cluster whose data directory a target lies in, for a source of this name.
pub fn stream_of(source: &str, target: &Path, name: &str) -> Result<String, WalError> {
    let cluster = cluster_of(&data_directory(target), name)?;
    Ok(BaseBackup::stream_name(source, cluster.system_id, cluster.major))
}
