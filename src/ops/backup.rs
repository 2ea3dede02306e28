//! One backup: the source is walked and merged with the manifest before; unchanged files are taken over unread, others
//! are read by several threads; chunks are deduplicated in the order of the walk; the commit comes last.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crossbeam_channel::{Receiver, bounded};

use super::Error;
use super::merge::{Along, Item, Merge, OldManifest, Planner, Step};
use super::readers::{Budget, Cuts, FileEnd, LARGE_CHARGE, Piece, Reading, SPARE, SmallFiles};
use crate::model::{Change, Digest, Entry, EntryKind, FileContent, Moment, RelPath, SnapshotId, SnapshotRecord};
use crate::plan::gate::Seen;
use crate::plan::rewrite::{SparseFrame, choose};
use crate::progress::{Event, Progress};
use crate::repository::{self, Counts, Draft, Problem, Repository, Session, SnapshotDraft, read_local_manifest};
use crate::source::{Late, Source};

/// Bytes of files under way at most, beside the frames and packs of the session.
const UNDER_WAY: u64 = 32 << 20;
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
    source.prepare(previous.as_ref().filter(|_| old.is_some() && !options.force))?;
    let marked = Arc::new(sparse_frames(repository, previous.as_ref())?);
    let history = history(repository, name)?;
    progress.event(Event::Stage("backing up"));
    if let Some(record) = &previous {
        progress.event(Event::Expect { items: record.files, bytes: record.bytes });
    }
    let walk_trust = repository.trust(Arc::clone(&marked))?;
    let (cutter, content) = (repository.cutter(), repository.content_key().clone());
    let reading = Reading { source, cutter, content, spare: bounded(SPARE) };
    let id = SnapshotId::new(began.timestamp_millis().max(0) as u64, world.random);
    let clock = Arc::clone(&world.clock);
    let beside = match source.beside(name).filter(|_| !options.force) {
        Some(other) => along_beside(repository, &other)?,
        None => None,
    };
    let mut session = Session::begin(repository, id, name, marked, clock, Arc::clone(progress))?;
    // An archive is read whole; what it had before serves for counting alone, once its members are in order.
    // Without the manifest before, or by a forced run, all files are new, which says nothing.
    let knew = (old.is_some() && !options.force) || previous.is_none();
    let (old, before) = if source.is_ordered() { (old, None) } else { (None, old) };
    // Files that come last stand anywhere in the manifest.
    if !source.is_ordered() || source.has_late() {
        session.take_any_order();
    }
    let merge = Merge {
        along: Along::new(old.filter(|_| !options.force), previous.as_ref().map(|record| record.began)),
        beside,
        trust: walk_trust,
    };
    let mut tally = Tally::default();
    let collected = collect(&mut session, &reading, merge, &mut tally, &**progress)
        .and_then(|()| take_late(&mut session, &reading, &mut tally));
    let ended = (world.clock)();
    let settled = collected.and_then(|()| match source.is_ordered() {
        true => Ok(session.settle(&mut |_| {}).map(drop)?),
        false => settle(&mut session, before, &mut tally, &**progress),
    });
    if let Err(error) = settled.and_then(|()| Ok(source.finish()?)) {
        // What is stored stays known, so that the next run need not store it again; the first error is told.
        let _ = session.abandon();
        return Err(error);
    }
    let change = knew.then(|| tally.change(previous.as_ref().map_or(0, |record| record.files)));
    let draft = drafted(source, (id, name), (began, ended), (&tally, change, history), (options, world));
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

/// The manifest of another source of this host, to be read along.
fn along_beside(repository: &mut Repository, name: &str) -> Result<Option<Along>, Error> {
    let Some(record) = newest(repository, name)? else { return Ok(None) };
    let old = read_local_manifest(&repository.folder().manifest(name), &record.id.to_string());
    Ok(old.map(|old| Along::new(Some(old), Some(record.began))))
}

/// What the snapshot will say of itself.
fn drafted(
    source: &dyn Source,
    (id, name): (SnapshotId, &str),
    (began, ended): (Moment, Moment),
    (tally, change, history): (&Tally, Option<Change>, Vec<Seen>),
    (options, world): (&BackupOptions, &World),
) -> SnapshotDraft {
    SnapshotDraft {
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
        facts: source.facts(),
        change,
        history,
    }
}

/// What is known of the snapshots before, but for those that are abnormal and that nobody accepted.
fn history(repository: &mut Repository, name: &str) -> Result<Vec<Seen>, Error> {
    let row = repository.host_row()?;
    let all = repository.catalog().all_snapshots()?;
    let own =
        all.into_iter().filter(|s| s.writer == row && s.record.source == name && s.record.complete && !s.is_held());
    Ok(own.map(|s| Seen { files: s.record.files, bytes: s.record.bytes, change: s.record.change }).collect())
}

fn newest(repository: &mut Repository, name: &str) -> Result<Option<SnapshotRecord>, Error> {
    let row = repository.host_row()?;
    let all = repository.catalog().snapshots()?;
    Ok(all.into_iter().rev().find(|s| s.writer == row && s.record.source == name).map(|s| s.record))
}

/// Frames that this run stores anew: at most a sixth of the source, or 64 MiB where that is more. With one document in a
/// hundred changed at random each night, that keeps what a restore reads at some one and a half times the source.
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
    let budget = previous.map_or(0, |record| record.bytes / 6).max(64 << 20);
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
    /// What is known of it before bytes are counted.
    fn change(&self, before: u64) -> Change {
        let there = self.unmodified + self.reread + self.changed;
        Change { before, new: self.new, changed: self.changed, gone: before.saturating_sub(there), ..Change::default() }
    }

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
    let (items_in, items) = bounded(64);
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
            let (steps, small) = (Vec::new(), Vec::new());
            let mut planner =
                Planner { merge, items: items_in, jobs: jobs_in, budget, source, progress, steps, small, charge: 0 };
            let walked = reading.source.walk(&mut |found| planner.found(found));
            planner.flush();
            if let Err(e) = walked {
                let _ = planner.items.send(Item::Broken(e.into()));
            }
        });
        let result = Waiting { channel: &items, progress }
            .try_for_each(|item| item.and_then(|item| Taking { session, reading, tally, progress }.take(item, budget)));
        if result.is_err() {
            reading.source.cancel();
        }
        // Whoever still waits for us must not wait for ever: the channels close as they drop, the budget is told.
        budget.close();
        drop(items);
        result
    })
}

/// Files that exist only now.
fn take_late(session: &mut Session<'_>, reading: &Reading<'_>, tally: &mut Tally) -> Result<(), Error> {
    for Late { mut entry, bytes, cutting } in reading.source.late()? {
        let (mut draft, mut start) = (Draft::default(), 0);
        for (id, length) in reading.cut_all(cutting, &bytes) {
            let end = start + length as usize;
            session.chunk(&mut draft, id, &bytes[start..end])?;
            start = end;
        }
        let (size, digest) = (bytes.len() as u64, reading.content.digest(&bytes));
        entry.kind = EntryKind::File(FileContent { size, digest, extents: Vec::new() });
        tally.bytes_read += size;
        session.entry(entry, Some(draft))?;
    }
    Ok(())
}

/// Puts the members of an archive in order, and counts them against the snapshot before.
fn settle(
    session: &mut Session<'_>,
    before: Option<OldManifest>,
    tally: &mut Tally,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let mut before = Along::new(before, None);
    (tally.new, tally.changed, tally.reread) = (0, 0, 0);
    let left_out = session.settle(&mut |entry| {
        let Some(content) = entry.content() else { return };
        match before.advance(&entry.path).as_ref().and_then(|(old, _)| old.content()) {
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

/// The thread that deduplicates: what the walk found goes into the session, in its order.
struct Taking<'t, 'r> {
    session: &'t mut Session<'r>,
    reading: &'t Reading<'t>,
    tally: &'t mut Tally,
    progress: &'t dyn Progress,
}

impl Taking<'_, '_> {
    fn take(&mut self, item: Item, budget: &Budget) -> Result<(), Error> {
        if self.progress.cancelled() {
            return Err(repository::Error::Cancelled.into());
        }
        match item {
            Item::Broken(e) => Err(e),
            Item::Batch(steps, small, charge) => {
                let result = self.take_batch(steps, small);
                budget.free(charge);
                result
            }
            Item::Large(entry, pieces, known) => {
                let result = self.take_large(*entry, &pieces, known);
                budget.free(LARGE_CHARGE);
                result
            }
        }
    }

    fn take_batch(&mut self, steps: Vec<Step>, small: Option<Receiver<SmallFiles>>) -> Result<(), Error> {
        let read = small.map(|channel| Waiting { channel: &channel, progress: self.progress }.next());
        let read = read.map(|read| read.unwrap_or(Err(repository::Error::Pipeline.into()))).transpose()?;
        let SmallFiles { bytes, files } = read.unwrap_or(SmallFiles { bytes: Vec::new(), files: Vec::new() });
        let (mut files, mut rest) = (files.into_iter(), bytes.as_slice());
        for step in steps {
            match step {
                Step::Skipped(path, why) => self.skip(path, why)?,
                Step::Plain(entry) => match &entry.kind {
                    EntryKind::Hardlink { target } if self.tally.unread.contains(target) => {
                        let why = format!("it is a link to `{target}`, which was not read");
                        self.tally.skip(&entry.path, &why, self.progress);
                    }
                    _ => self.session.entry(*entry, None)?,
                },
                Step::Keep(entry, line) => {
                    self.tally.unmodified += 1;
                    let bytes = entry.content().map_or(0, |content| content.size);
                    self.progress.event(Event::Done { items: 1, bytes });
                    self.session.unchanged(*entry, line)?;
                }
                Step::Small(entry, known) => match files.next().ok_or(repository::Error::Pipeline)? {
                    Err(why) => self.unread(entry.path, why)?,
                    Ok((cuts, end)) => {
                        let (content, others) = rest.split_at(rest.len().min(end.size as usize));
                        rest = others;
                        let mut draft = Draft::default();
                        self.take_chunks(&mut draft, content, cuts)?;
                        self.file(*entry, draft, end, known)?;
                    }
                },
            }
        }
        self.reading.give_back(bytes);
        Ok(())
    }

    fn take_large(&mut self, entry: Entry, pieces: &Receiver<Piece>, known: Option<Digest>) -> Result<(), Error> {
        let mut draft = Draft::default();
        for piece in (Waiting { channel: pieces, progress: self.progress }) {
            match piece? {
                Piece::Bytes(bytes, cuts) => {
                    self.take_chunks(&mut draft, &bytes, cuts)?;
                    self.reading.give_back(bytes);
                    if self.progress.cancelled() {
                        return Err(repository::Error::Cancelled.into());
                    }
                }
                Piece::Hole(length) => draft.hole(length),
                Piece::Failed(why) => return self.unread(entry.path, why),
                Piece::End(end) => return self.file(entry, draft, end, known),
            }
        }
        Err(repository::Error::Pipeline.into())
    }

    fn take_chunks(&mut self, draft: &mut Draft, bytes: &[u8], cuts: Cuts) -> Result<(), Error> {
        let mut start = 0;
        for (id, length) in cuts {
            let end = start + length as usize;
            self.session.chunk(draft, id, &bytes[start..end])?;
            start = end;
        }
        self.tally.bytes_read += start as u64;
        self.progress.event(Event::Done { items: 0, bytes: start as u64 });
        Ok(())
    }

    /// A file whose bytes are in the session.
    fn file(&mut self, mut entry: Entry, draft: Draft, end: FileEnd, known: Option<Digest>) -> Result<(), Error> {
        if let Some(why) = &end.changed {
            self.tally.skip(&entry.path, why, self.progress);
        }
        if self.reading.source.distrusts(&entry.path) {
            (entry.inode, entry.ctime) = (None, None);
        }
        entry.xattrs = end.xattrs;
        entry.kind = EntryKind::File(FileContent { size: end.size, digest: end.digest, extents: Vec::new() });
        match known {
            None => self.tally.new += 1,
            Some(before) if before == end.digest => self.tally.reread += 1,
            Some(_) => self.tally.changed += 1,
        }
        self.progress.event(Event::Done { items: 1, bytes: 0 });
        Ok(self.session.entry(entry, Some(draft))?)
    }

    /// A file that could not be read.
    fn unread(&mut self, path: RelPath, why: String) -> Result<(), Error> {
        if self.reading.source.forgives(&path) {
            return Ok(());
        }
        if self.reading.source.all_or_nothing() {
            return Err(Error::Unreadable { what: self.reading.source.root(), why });
        }
        self.tally.skip(&path, &why, self.progress);
        self.tally.unread.insert(path);
        Ok(())
    }

    /// Something that the walk could not look at.
    fn skip(&mut self, path: RelPath, why: String) -> Result<(), Error> {
        if path.is_root() || self.reading.source.all_or_nothing() {
            return Err(Error::Unreadable { what: self.reading.source.root(), why });
        }
        self.tally.skip(&path, &why, self.progress);
        Ok(())
    }
}
