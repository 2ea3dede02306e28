//! Files of the log into the store: one that the server waits for, and those that wait behind it.
//!
//! Not here: reading them back, and segments that still grow.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use super::known::Identity;
use super::{Cluster, SMALL, WalError, cluster_of, data_directory, place_of, read_into};
use crate::format::wal::{ArchiveFile, SegmentHeader, check_segment, scan};
use crate::model::lsn::SegmentName;
use crate::model::{Digest, Moment, SegmentPlace, SegmentRecord, limits};
use crate::ops::Error;
use crate::progress::Progress;
use crate::repository::{Repository, SegmentWriter};
use crate::seal::FrameSealer;

/// Segments that are sent beside the one that was asked for, at most.
pub const AHEAD: usize = 7;
/// Plain bytes of such segments at which no further one is added: clusters may have segments of 1 GiB.
const AHEAD_BYTES: usize = 128 << 20;
/// Threads that compress and send.
const SENDERS: usize = 3;
/// Seconds after which segments that no commit names yet are committed.
const COMMIT_AFTER: i64 = 60;

/// What a push did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// Whether the file was there already, with the same bytes.
    pub known: bool,
    /// Further segments that are in the store now, each as it was when it was read.
    pub along: Vec<(String, Identity)>,
    /// The last commit of what was sent, where one is known.
    pub newest: Option<Moment>,
}

/// A file that is ready to be sent.
struct Ready {
    identity: Identity,
    digest: Digest,
    facts: serde_json::Value,
    newest: Option<Moment>,
}

/// What became of one file of a batch.
struct Sent {
    record: SegmentRecord,
    /// It was there before.
    known: bool,
    identity: Identity,
    newest: Option<Moment>,
}

/// What one thread works with, one file after another.
struct Desk<'a> {
    bytes: Vec<u8>,
    sealer: FrameSealer<'a>,
}

/// Reads and checks files, and puts them. Threads share it.
struct Sender<'a> {
    writer: &'a SegmentWriter,
    cluster: Cluster,
    /// What the index of this host has under each place, and what the store has.
    noted: HashMap<SegmentPlace, Vec<SegmentRecord>>,
    stored: HashMap<SegmentPlace, Vec<(Digest, u64)>>,
    now: Moment,
}

impl Sender<'_> {
    /// Reads a file and compares it with its name. What it says of its commits goes into the index.
    fn prepare(&self, path: &Path, place: &SegmentPlace, bytes: &mut Vec<u8>) -> Result<Ready, WalError> {
        let name = place.name();
        let file = ArchiveFile::parse(name).map_err(|_| WalError::Name(name.to_owned()))?;
        let limit = match file {
            ArchiveFile::Segment(_) | ArchiveFile::Partial(_) => limits::SEGMENT_MAX as u64,
            _ => SMALL,
        };
        let identity = read_into(path, limit, bytes)?;
        let (facts, newest) = match file {
            ArchiveFile::Segment(segment) => self.examine(bytes, segment, name)?,
            // Short, and needed to tell which moments can be reached, by hosts that cannot open it too.
            ArchiveFile::History(_) => (serde_json::json!({"history": String::from_utf8_lossy(bytes)}), None),
            _ => (serde_json::Value::Null, None),
        };
        Ok(Ready { digest: self.writer.digest(place, bytes), identity, facts, newest })
    }

    fn examine(
        &self,
        bytes: &[u8],
        segment: SegmentName,
        name: &str,
    ) -> Result<(serde_json::Value, Option<Moment>), WalError> {
        let bad = |why: String| WalError::Content { name: name.to_owned(), why };
        let header = check_segment(bytes, segment).map_err(|e| bad(e.to_string()))?;
        if (header.system_id, header.major) != (self.cluster.system_id, self.cluster.major) {
            let (its, ours) = (header.system_id, self.cluster.system_id);
            return Err(bad(format!("it belongs to cluster {its}, and its directory to {ours}")));
        }
        let facts = scan(bytes, segment).map_err(|e| bad(e.to_string()))?;
        let newest = facts.latest.and_then(Moment::from_timestamp_micros);
        Ok((serde_json::to_value(&facts).map_err(|e| bad(e.to_string()))?, newest))
    }

    /// Makes sure that the store has a file, and nothing else under its name.
    fn send(&self, path: &Path, place: &SegmentPlace, desk: &mut Desk<'_>) -> Result<Sent, Error> {
        let ready = self.prepare(path, place, &mut desk.bytes)?;
        let Ready { digest, identity, newest, .. } = ready;
        let noted = self.noted.get(place).map_or(&[][..], Vec::as_slice);
        let stored = self.stored.get(place).map_or(&[][..], Vec::as_slice);
        if noted.iter().any(|record| record.digest != digest) || stored.iter().any(|(other, _)| *other != digest) {
            return Err(WalError::Conflict { name: place.name().to_owned() }.into());
        }
        // The index alone is no proof: what it names could have been taken from the store.
        let (record, known) = match (noted.first(), stored.first()) {
            // One and the same object has one length.
            (Some(record), Some((_, found))) if *found != record.stored => {
                let name = place.name().to_owned();
                return Err(WalError::Damaged { name, stored: record.stored, found: *found }.into());
            }
            (Some(record), Some(_)) => (record.clone(), true),
            (None, Some((_, stored))) => {
                let (plain, place) = (desk.bytes.len() as u64, place.clone());
                (SegmentRecord { place, digest, plain, stored: *stored, put: self.now, facts: ready.facts }, true)
            }
            (_, None) => {
                let (place, facts) = (place.clone(), ready.facts);
                (self.writer.put_with(&mut desk.sealer, place, &desk.bytes, facts, self.now)?, false)
            }
        };
        Ok(Sent { record, known, identity, newest })
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
    let file = ArchiveFile::parse(&name).ok().filter(|file| !matches!(file, ArchiveFile::Piece { .. }));
    let file = file.ok_or_else(|| WalError::Name(name.clone()))?;
    if matches!(file, ArchiveFile::Segment(_)) {
        refuse_unfinished(path, &name)?;
    }
    let cluster = match (cluster_of(&data_directory(path), &name), file) {
        (Ok(cluster), _) => cluster,
        (Err(_), ArchiveFile::Segment(segment)) => cluster_of_segment(path, segment)?,
        (Err(e), _) => return Err(e.into()),
    };
    let mut names = vec![name.clone()];
    names.extend(waiting(path, &name, ahead));
    push_files(repository, &cluster.stream(source), cluster, path, names, now, progress)
}

/// A segment that is pushed by hand while the server writes it would stand under its name for ever, and its whole would be refused.
/// PostgreSQL marks what it wants archived, and what was; where nothing is ever marked, nothing is known.
pub(super) fn refuse_unfinished(path: &Path, name: &str) -> Result<(), WalError> {
    let status = path.with_file_name("archive_status");
    let marked = ["ready", "done"].iter().any(|mark| status.join(format!("{name}.{mark}")).exists());
    match status.is_dir() && !marked {
        true => Err(WalError::Unfinished { name: name.to_owned() }),
        false => Ok(()),
    }
}

/// Pushes files of one directory. The first decides: where it fails the call fails, whatever became of the others, and they
/// never make it fail.
pub fn push_files(
    repository: &mut Repository,
    stream: &str,
    cluster: Cluster,
    first: &Path,
    names: Vec<String>,
    now: Moment,
    progress: &dyn Progress,
) -> Result<Pushed, Error> {
    let writer = repository.segment_writer()?;
    let places: Vec<SegmentPlace> = names.iter().map(|name| place_of(stream, name)).collect::<Result<_, _>>()?;
    let host = repository.host()?.name.clone();
    let mut noted = HashMap::new();
    for place in &places {
        let there = repository.catalog().segments_at(&host, place).map_err(crate::repository::Error::from)?;
        noted.insert(place.clone(), there);
    }
    // Before: what a crash left is not sent twice, and what conflicts is not put at all. After: two that pushed at once both see it.
    let stored = writer.look(&places)?;
    let sender = Sender { writer: &writer, cluster, noted, stored, now };
    let results = send_all(&sender, first, &places)?;
    let after = writer.look(&places)?;
    let (mut records, mut outcome) = (Vec::new(), None);
    let mut pushed = Pushed { known: false, along: Vec::new(), newest: None };
    for (place, result) in places.iter().zip(results) {
        let result = result.and_then(|sent| match after.get(place).map_or(&[][..], Vec::as_slice) {
            [] => Err(WalError::Vanished { name: place.name().to_owned() }.into()),
            all if all.iter().all(|(other, _)| *other == sent.record.digest) => Ok(sent),
            _ => Err(WalError::Conflict { name: place.name().to_owned() }.into()),
        });
        match (result, outcome.is_none()) {
            (Ok(sent), is_first) => {
                match is_first {
                    true => pushed.known = sent.known,
                    false => pushed.along.push((place.name().to_owned(), sent.identity)),
                }
                pushed.newest = pushed.newest.max(sent.newest);
                records.push(sent.record);
                outcome.get_or_insert(Ok(()));
            }
            (Err(error), true) => outcome = Some(Err(error)),
            // Its own call will tell.
            (Err(_), false) => {}
        }
    }
    repository.note_segments(&records)?;
    outcome.unwrap_or(Ok(()))?;
    commit_if_due(repository, now, progress);
    Ok(pushed)
}

/// Sends a batch by some threads; the results are in the order of the places.
fn send_all(
    sender: &Sender<'_>,
    first: &Path,
    places: &[SegmentPlace],
) -> Result<Vec<Result<Sent, Error>>, crate::repository::Error> {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let work = || -> Result<Vec<_>, crate::repository::Error> {
        let (mut own, mut desk) = (Vec::new(), Desk { bytes: Vec::new(), sealer: sender.writer.sealer()? });
        while let Some((at, place)) = {
            let at = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            places.get(at).map(|place| (at, place))
        } {
            own.push((at, sender.send(&first.with_file_name(place.name()), place, &mut desk)));
        }
        Ok(own)
    };
    let mut all = Vec::new();
    std::thread::scope(|scope| -> Result<(), crate::repository::Error> {
        let threads: Vec<_> = (0..SENDERS.min(places.len())).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            match thread.join() {
                Ok(own) => all.extend(own?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(())
    })?;
    all.sort_by_key(|(at, _)| *at);
    Ok(all.into_iter().map(|(_, result)| result).collect())
}

/// The cluster that a segment's own header names.
fn cluster_of_segment(path: &Path, segment: SegmentName) -> Result<Cluster, WalError> {
    let io = |source| WalError::Io { doing: "read", path: path.to_owned(), source };
    let mut start = Vec::new();
    File::open(path).and_then(|file| file.take(SMALL).read_to_end(&mut start)).map_err(io)?;
    let header = SegmentHeader::parse(&start, segment)
        .map_err(|e| WalError::Content { name: segment.to_string(), why: e.to_string() })?;
    Ok(Cluster { system_id: header.system_id, major: header.major })
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
    let mut room = AHEAD_BYTES as u64;
    names.retain(|name| {
        let size = fs::metadata(path.with_file_name(name)).map_or(u64::MAX, |meta| meta.len());
        room = room.saturating_sub(size);
        room > 0
    });
    names
}

/// Commits what is known of segments when the oldest has waited long enough. A failure is no failure of the push: the index on this
/// host has them, and the next call tries again.
pub fn commit_if_due(repository: &mut Repository, now: Moment, progress: &dyn Progress) {
    let due = repository
        .fresh_segments()
        .is_ok_and(|fresh| fresh.first().is_some_and(|oldest| (now - oldest.put).num_seconds() >= COMMIT_AFTER));
    if due && let Err(e) = repository.commit_segments(now, progress) {
        tracing::warn!("the index of segments was not committed; the next push tries again: {e}");
    }
}
