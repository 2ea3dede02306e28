//! One backup: the source is walked and merged with the manifest before; unchanged files are taken over unread, others
//! are read by several threads; chunks are deduplicated in the order of the walk; the commit comes last.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crossbeam_channel::{Receiver, bounded};

use super::Error;
use super::merge::{Along, Item, Merge, OldManifest, Planner};
use super::readers::{Budget, Piece, Reading};
use crate::model::{Digest, Entry, EntryKind, FileContent, Moment, RelPath, SnapshotId, SnapshotRecord};
use crate::plan::rewrite::{SparseFrame, choose};
use crate::progress::{Event, Progress};
use crate::repository::{self, Counts, Draft, Problem, Repository, Session, SnapshotDraft, read_local_manifest};
use crate::source::Source;

/// Bytes of files under way at most, beside the frames and packs of the session.
const UNDER_WAY: u64 = 40 << 20;
/// Threads that read files: more than there are cores, because a cold disk answers several at a time.
const READERS: usize = 8;
/// Things skipped that a report names; the count is exact beyond.
const NAMED: usize = 1000;

/// How a source is backed up.
#[derive(Debug, Clone, Default)]
pub struct BackupOptions {
    /// Reads every file, unchanged or not.
    pub force: bool,
    /// Labels of the snapshot.
    pub tags: Vec<String>,
    /// Waits for another run of the same source instead of giving up.
    pub wait: bool,
}

/// Time and chance, which come from above.
#[derive(Clone)]
pub struct World {
    /// The clock.
    pub clock: Arc<dyn Fn() -> Moment + Send + Sync>,
    /// Ten random bytes for the snapshot's name.
    pub random: [u8; 10],
    /// The host's name.
    pub host: String,
}

/// What a backup did.
#[derive(Debug, Clone)]
pub struct BackupReport {
    /// The snapshot.
    pub record: SnapshotRecord,
    /// Chunks, bytes, packs.
    pub counts: Counts,
    /// Files that were not in the snapshot before.
    pub files_new: u64,
    /// Files whose content had changed.
    pub files_changed: u64,
    /// Files that were read again and found as they were.
    pub files_reread: u64,
    /// Files that were taken over unread.
    pub files_unmodified: u64,
    /// Files of the snapshot before, if there was one.
    pub files_before: Option<u64>,
    /// Bytes that were read.
    pub bytes_read: u64,
    /// The first of what was skipped: path and reason.
    pub skipped: Vec<(String, String)>,
    /// What the logs said on the way.
    pub problems: Vec<Problem>,
}

/// Backs a source up under a name.
pub fn backup(
    source: &dyn Source,
    name: &str,
    repository: &mut Repository,
    options: &BackupOptions,
    world: &World,
    progress: &Arc<dyn Progress>,
) -> Result<BackupReport, Error> {
    let lock = repository.folder().source_lock(name, options.wait)?;
    let _lock = lock.ok_or_else(|| Error::Busy(name.to_owned()))?;
    let began = (world.clock)();
    repository.prepare_run(name, began, &**progress)?;
    let previous = newest(repository, name)?;
    let old = previous
        .as_ref()
        .and_then(|record| read_local_manifest(&repository.folder().manifest(name), &record.id.to_string()));
    if let (Some(record), None) = (&previous, &old) {
        tracing::info!(snapshot = %record.id, "its manifest is not on this host: everything is read once");
    }
    let marked = Arc::new(sparse_frames(repository, previous.as_ref())?);
    progress.event(Event::Stage("backing up"));
    if let Some(record) = &previous {
        progress.event(Event::Expect { items: record.files, bytes: record.bytes });
    }
    let walk_trust = repository.trust(Arc::clone(&marked))?;
    let reading = Reading { source, cutter: repository.cutter(), content: repository.content_key().clone() };
    let id = SnapshotId::new(began.timestamp_millis().max(0) as u64, world.random);
    let clock = Arc::clone(&world.clock);
    let mut session = Session::begin(repository, id, name, marked, clock, Arc::clone(progress))?;
    // An archive is read whole; what it had before serves for counting alone, once its members are in order.
    let (old, before) = if source.is_ordered() { (old, None) } else { (None, old) };
    if !source.is_ordered() {
        session.take_any_order();
    }
    let merge = Merge {
        along: Along { old: old.filter(|_| !options.force), head: None },
        trust: walk_trust,
        safe_until: previous.as_ref().map(|record| record.began - chrono::TimeDelta::seconds(2)),
    };
    let mut tally = Tally::default();
    let collected = collect(&mut session, &reading, merge, &mut tally, &**progress);
    let ended = (world.clock)();
    let settled = collected.and_then(|()| match source.is_ordered() {
        true => Ok(()),
        false => settle(&mut session, before, &mut tally, &**progress),
    });
    if let Err(error) = settled.and_then(|()| Ok(source.finish()?)) {
        // What is stored stays known, so that the next run need not store it again; the first error is told.
        let _ = session.abandon();
        return Err(error);
    }
    let draft = SnapshotDraft {
        id,
        source: name.to_owned(),
        kind: source.kind().to_owned(),
        host: world.host.clone(),
        root: source.root(),
        began,
        ended,
        skipped: tally.skipped_count,
        complete: tally.skipped_count == 0,
        tags: options.tags.clone(),
    };
    progress.event(Event::Stage("committing"));
    let end = session.finish(draft)?;
    repository.run_ended(name)?;
    Ok(BackupReport {
        record: end.record,
        counts: end.counts,
        files_new: tally.new,
        files_changed: tally.changed,
        files_reread: tally.reread,
        files_unmodified: tally.unmodified,
        files_before: previous.map(|record| record.files),
        bytes_read: tally.bytes_read,
        skipped: tally.skipped,
        problems: end.problems,
    })
}

fn newest(repository: &mut Repository, name: &str) -> Result<Option<SnapshotRecord>, Error> {
    let row = repository.host_row()?;
    let all = repository.catalog().snapshots()?;
    Ok(all.into_iter().rev().find(|s| s.writer == row && s.record.source == name).map(|s| s.record))
}

/// Frames that this run stores anew: at most a twentieth of the source, or 64 MiB where that is more.
fn sparse_frames(
    repository: &mut Repository,
    previous: Option<&SnapshotRecord>,
) -> Result<std::collections::HashSet<i64>, Error> {
    let rows = repository.catalog().sparse()?;
    if rows.is_empty() {
        return Ok(std::collections::HashSet::new());
    }
    let own = repository.host_row()?;
    let mut newest: HashMap<String, SnapshotRecord> = HashMap::new();
    for snapshot in repository.catalog().snapshots()?.into_iter().filter(|s| s.writer == own) {
        newest.insert(snapshot.record.source.clone(), snapshot.record);
    }
    let uses: Vec<_> = newest.into_values().map(|record| record.uses).collect();
    let frames: Vec<SparseFrame> =
        rows.into_iter().map(|(frame, sources, used)| SparseFrame { frame: frame as u64, sources, used }).collect();
    let budget = previous.map_or(0, |record| record.bytes / 20).max(64 << 20);
    Ok(choose(&frames, &uses, budget))
}

#[derive(Default)]
struct Tally {
    new: u64,
    changed: u64,
    reread: u64,
    unmodified: u64,
    bytes_read: u64,
    skipped: Vec<(String, String)>,
    skipped_count: u64,
    /// Files that are not in the snapshot: links to them cannot be either.
    unread: HashSet<RelPath>,
}

impl Tally {
    fn skip(&mut self, path: &RelPath, why: &str, progress: &dyn Progress) {
        let what = path.to_string();
        progress.event(Event::Skipped { what: &what, why });
        self.skipped_count += 1;
        if self.skipped.len() < NAMED {
            self.skipped.push((what, why.to_owned()));
        }
    }
}

fn collect(
    session: &mut Session<'_>,
    reading: &Reading<'_>,
    merge: Merge,
    tally: &mut Tally,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let budget = Budget::new(UNDER_WAY);
    let (items_in, items) = bounded(512);
    let (jobs_in, jobs) = bounded(READERS * 4);
    std::thread::scope(|scope| {
        for _ in 0..READERS {
            let jobs = jobs.clone();
            scope.spawn(move || reading.work(&jobs));
        }
        drop(jobs);
        let budget = &budget;
        scope.spawn(move || {
            let source = reading.source;
            let mut planner = Planner { merge, items: items_in, jobs: jobs_in, budget, source, progress };
            if let Err(e) = reading.source.walk(&mut |found| planner.found(found)) {
                let _ = planner.items.send(Item::Broken(e.into()));
            }
        });
        let result = Waiting { channel: &items, progress }
            .try_for_each(|item| item.and_then(|item| take(session, item, budget, tally, reading.source, progress)));
        if result.is_err() {
            reading.source.cancel();
        }
        // Whoever still waits for us must not wait for ever: the channels close as they drop, the budget is told.
        budget.close();
        drop(items);
        result
    })
}

/// Puts the members of an archive in order, and counts them against the snapshot before.
fn settle(
    session: &mut Session<'_>,
    before: Option<OldManifest>,
    tally: &mut Tally,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let mut before = Along { old: before, head: None };
    (tally.new, tally.changed, tally.reread) = (0, 0, 0);
    let left_out = session.settle(&mut |entry| {
        let Some(content) = entry.content() else { return };
        match before.advance(&entry.path).as_ref().and_then(Entry::content) {
            None => tally.new += 1,
            Some(old) if old.digest == content.digest => tally.reread += 1,
            Some(_) => tally.changed += 1,
        }
    })?;
    for (path, why) in left_out {
        tally.skip(&path, &why, progress);
    }
    Ok(())
}

/// Receives until the channel closes; a person who asks to stop is heard even while nothing comes.
struct Waiting<'a, T> {
    channel: &'a Receiver<T>,
    progress: &'a dyn Progress,
}

impl<T> Iterator for Waiting<'_, T> {
    type Item = Result<T, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.channel.recv_timeout(std::time::Duration::from_millis(200)) {
                Ok(value) => return Some(Ok(value)),
                Err(crossbeam_channel::RecvTimeoutError::Disconnected) => return None,
                Err(crossbeam_channel::RecvTimeoutError::Timeout) if self.progress.cancelled() => {
                    return Some(Err(repository::Error::Cancelled.into()));
                }
                Err(crossbeam_channel::RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

fn take(
    session: &mut Session<'_>,
    item: Item,
    budget: &Budget,
    tally: &mut Tally,
    source: &dyn Source,
    progress: &dyn Progress,
) -> Result<(), Error> {
    if progress.cancelled() {
        return Err(repository::Error::Cancelled.into());
    }
    match item {
        Item::Broken(e) => return Err(e),
        Item::Skipped(path, why) => {
            if path.is_root() || source.all_or_nothing() {
                return Err(Error::Unreadable { what: source.root(), why });
            }
            tally.skip(&path, &why, progress);
        }
        Item::Plain(entry) => match &entry.kind {
            EntryKind::Hardlink { target } if tally.unread.contains(target) => {
                tally.skip(&entry.path, &format!("it is a link to `{target}`, which was not read"), progress);
            }
            _ => session.entry(*entry, None)?,
        },
        Item::Keep(entry) => {
            if let Some(content) = entry.content() {
                tally.unmodified += 1;
                progress.event(Event::Done { items: 1, bytes: content.size });
            }
            session.unchanged(*entry)?;
        }
        Item::File(entry, pieces, charge, known) => {
            let result = take_file(session, *entry, &pieces, tally, known, source, progress);
            budget.free(charge);
            result?;
        }
    }
    Ok(())
}

fn take_file(
    session: &mut Session<'_>,
    mut entry: Entry,
    pieces: &Receiver<Piece>,
    tally: &mut Tally,
    known: Option<Digest>,
    source: &dyn Source,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let mut draft = Draft::default();
    for piece in (Waiting { channel: pieces, progress }) {
        match piece? {
            Piece::Bytes(bytes, chunks) => {
                let mut start = 0;
                for (id, length) in chunks {
                    let end = start + length as usize;
                    session.chunk(&mut draft, id, &bytes[start..end])?;
                    start = end;
                }
                tally.bytes_read += bytes.len() as u64;
                progress.event(Event::Done { items: 0, bytes: bytes.len() as u64 });
                if progress.cancelled() {
                    return Err(repository::Error::Cancelled.into());
                }
            }
            Piece::Hole(length) => draft.hole(length),
            Piece::Failed(why) => {
                if source.all_or_nothing() {
                    return Err(Error::Unreadable { what: source.root(), why });
                }
                tally.skip(&entry.path, &why, progress);
                tally.unread.insert(entry.path);
                return Ok(());
            }
            Piece::End(end) => {
                if let Some(why) = &end.changed {
                    tally.skip(&entry.path, why, progress);
                }
                entry.xattrs = end.xattrs;
                entry.kind = EntryKind::File(FileContent { size: end.size, digest: end.digest, extents: Vec::new() });
                match known {
                    None => tally.new += 1,
                    Some(before) if before == end.digest => tally.reread += 1,
                    Some(_) => tally.changed += 1,
                }
                progress.event(Event::Done { items: 1, bytes: 0 });
                return Ok(session.entry(entry, Some(draft))?);
            }
        }
    }
    Err(repository::Error::Pipeline.into())
}
