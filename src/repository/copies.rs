//! A copy: a repository of its own elsewhere that shares this one's secret, so that frames and segments go there as they are sealed
//! (docs/decisions/0020-copies.md). Making one, and taking snapshots over.
//!
//! Invariants: no identity is needed; a sealed frame goes out only after it matched the sum in its signed directory; what is there already
//! is referred to, as a backup would; packs are in the copy before the commit that adds them, and a copied snapshot exists with one
//! commit. Not here: which snapshots (`ops::copy`), the segments of streams (`copied_streams`).

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};

use super::init::{self, InitOptions, Made};
use super::keeps::Referred;
use super::layout::{DESCRIPTION, ORIGIN};
use super::pipeline::{Pipeline, StoredPack};
use super::prune::{SealedPlaces, is_of_the_object};
use super::{Description, Error, Lock, Repository, plan_fetches};
use crate::catalog::{ChunkTables, FrameRow, PackRow, PackState, SnapshotRow, pack_key};
use crate::model::{CommitLine, Copied, Digest, FrameId, Marked, Moment, SnapshotRecord, Uses, limits};
use crate::progress::{Event, Progress};
use crate::store::Store;

/// Packs that are read ahead.
const AHEAD: usize = 3;
/// Frames that are looked up before the first of them is read: some 200 bytes each.
const WINDOW: usize = 50_000;
/// Copied bytes after which a commit is made, so that little is done twice after a crash.
const COMMIT_BYTES: u64 = 1 << 30;
/// Seconds after which one is made.
const COMMIT_EVERY: i64 = 300;
/// The name of a copying run in the copy's own state: no source can have it.
const RUN: &str = ".copy";

/// The clock that commits are dated by.
pub type Clock = Arc<dyn Fn() -> Moment + Send + Sync>;

/// What copying a snapshot did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CopiedFrames {
    /// Frames that were copied.
    pub frames: u64,
    /// Frames that were there.
    pub there: u64,
    /// Packs that were put.
    pub packs: u64,
    /// Bytes of them.
    pub stored: u64,
}

/// A run that copies into a repository: one at a time on this host.
pub struct CopyRun {
    _alone: Lock,
    _running: Lock,
}

/// What a snapshot refers to in the copy, and what is under way there.
struct Under<'c> {
    clock: &'c Clock,
    progress: &'c Arc<dyn Progress>,
    horizon: i64,
    /// Rows of frames that were there.
    old: HashSet<i64>,
    /// Frames that this run copies.
    fresh: HashSet<FrameId>,
    stored: Vec<StoredPack>,
    order: u64,
    since_commit: u64,
    last_commit: Moment,
    done: CopiedFrames,
}

/// What was read of a pack: its directory, and runs of its bytes with where they begin.
struct Fetched {
    directory: Bytes,
    runs: Vec<(u64, Bytes)>,
}

/// A pack to be read.
struct Job {
    pack: PackRow,
    frames: Vec<FrameRow>,
    answer: Sender<Result<Fetched, crate::store::Error>>,
}

impl Repository {
    /// Makes an empty copy of this repository in a store, with this host as its first writer. Needs no identity.
    pub fn make_copy(&self, store: &Store, options: &InitOptions<'_>) -> Result<Made, Error> {
        let origin = self.store.get(DESCRIPTION, limits::SMALL_MAX as u64)?;
        if blake3::hash(&origin).as_bytes() != self.fingerprint.as_bytes() {
            let why = "it changed since it was opened".to_owned();
            return Err(Error::BadObject { key: DESCRIPTION.to_owned(), why });
        }
        // A copy of a copy: who pinned the first repository opens it too, and who pinned the one between.
        let mut origins = self.origins()?;
        origins.extend_from_slice(&origin);
        init::make(store, self.secret.clone(), Some(Bytes::from(origins)), options)
    }

    /// Of a copy: the descriptions of the repositories that it comes from, a line each. One that does not fit the secret is nobody's.
    fn origins(&self) -> Result<Vec<u8>, Error> {
        let text = match self.store.get(ORIGIN, limits::SMALL_MAX as u64) {
            Ok(text) => text,
            Err(crate::store::Error::NotFound { .. }) => return Ok(Vec::new()),
            Err(e) => return Err(e.into()),
        };
        let ours = |line: &&[u8]| {
            let found = Description::parse(line, self.store.label());
            found.is_ok_and(|found| found.secret_commitment == self.description.secret_commitment)
        };
        Ok(text.split_inclusive(|byte| *byte == b'\n').filter(ours).flatten().copied().collect())
    }

    /// Whether frames of this repository may lie in another one as they are: it has the same secret and is not this one, and what this
    /// one seals opens with the same identities.
    pub fn check_copy(&self, copy: &Self) -> Result<(), Error> {
        let apart = self.description.repository != copy.description.repository;
        if !apart || self.description.secret_commitment != copy.description.secret_commitment {
            return Err(Error::NoCopy { store: copy.store.label().to_owned(), itself: !apart });
        }
        let (_, recipients) = self.sealed_to()?;
        let same = init::same_set(&recipients, &copy.host()?.recipients);
        if same { Ok(()) } else { Err(Error::CopyRecipients(copy.store.label().to_owned())) }
    }

    /// The list of recipients that frames here are sealed to: this host's, or the store's where it is no writer.
    fn sealed_to(&self) -> Result<(Digest, Vec<String>), Error> {
        match self.host() {
            Ok(host) => Ok((host.recipients_list, host.recipients.clone())),
            Err(_) => self.current_recipients().map(|(digest, list)| (digest, list.recipients)),
        }
    }

    /// Begins a run that copies into this repository. `None` where another one is under way on this host.
    pub fn begin_copies(&mut self, now: Moment, progress: &dyn Progress) -> Result<Option<CopyRun>, Error> {
        let Some(alone) = self.folder.source_lock(RUN, false)? else { return Ok(None) };
        let running = self.folder.run_lock()?;
        self.prepare_run(RUN, now, progress)?;
        Ok(Some(CopyRun { _alone: alone, _running: running }))
    }

    /// Ends it: the next one need not look for what it left.
    pub fn end_copies(&mut self, run: CopyRun) -> Result<(), Error> {
        let ended = self.run_ended(RUN);
        drop(run);
        ended
    }

    /// Frames of some snapshots that a copy lacks: how many, and their sealed bytes.
    pub fn frames_to_copy(&self, copy: &mut Self, snapshots: &[SnapshotRow]) -> Result<(u64, u64), Error> {
        let (row, mut count, mut bytes, mut seen) = (copy.host_row()?, 0, 0, HashSet::new());
        for frame in snapshots.iter().flat_map(rows_of) {
            let frame = self.catalog.frame(frame)?;
            if seen.insert(frame.id) && copy.catalog.find_frame_of(row, &frame.id)?.is_none() {
                (count, bytes) = (count + 1, bytes + frame.stored);
            }
        }
        Ok((count, bytes))
    }

    /// Whether packs of this host that are needed here are missing or damaged, as far as the last listing and whoever read them knows.
    pub fn has_lost_packs(&mut self) -> Result<bool, Error> {
        let row = self.host_row()?;
        let usage = self.usage(row)?;
        let packs = self.catalog.pack_uses(row, &usage)?;
        let bad =
            |id| Ok::<_, Error>(self.catalog.find_pack(row, id)?.is_some_and(|pack| pack.state != PackState::Good));
        for pack in packs.iter().filter(|pack| pack.needed > 0) {
            if !pack.is_good || bad(&pack.id)? {
                return Ok(true);
            }
        }
        Ok(!usage.lost.is_empty())
    }

    /// Takes a snapshot of this repository over into a copy; of one that is there already, what the copy has lost of it.
    pub fn copy_snapshot(
        &mut self,
        copy: &mut Self,
        snapshot: &SnapshotRow,
        is_there: bool,
        clock: &Clock,
        progress: &Arc<dyn Progress>,
    ) -> Result<CopiedFrames, Error> {
        // A run may take days: what was retired since it began is not referred to.
        copy.sync_own(&**progress)?;
        copy.horizon = Some(copy.catalog.last_commit_row()?);
        let plant = copy.plant(progress)?;
        let mut pipeline = Pipeline::start_sealed(Arc::new(plant));
        let mut under = Under {
            clock,
            progress,
            horizon: copy.run_horizon()?,
            old: HashSet::new(),
            fresh: HashSet::new(),
            stored: Vec::new(),
            order: 0,
            since_commit: 0,
            last_commit: clock(),
            done: CopiedFrames::default(),
        };
        let mut record = record_of(snapshot);
        let sent = self.send_frames(copy, snapshot, &mut under, &pipeline);
        match sent.and_then(|()| pipeline.finish(Some(record.clone()))) {
            Ok(rest) => under.stored.extend(rest),
            Err(e) => {
                let rest = pipeline.finish(None);
                under.stored.extend(pipeline.take_stored());
                under.stored.extend(rest.unwrap_or_default());
                // What reached the copy is committed, so that the next run need not verify it first.
                let _ = copy.commit_copied(&mut under, None);
                return Err(e);
            }
        }
        if is_there {
            if !under.stored.is_empty() {
                copy.commit_copied(&mut under, None)?;
            }
            return Ok(under.done);
        }
        record.added = under.done.stored + under.stored.iter().map(|pack| pack.line.size).sum::<u64>();
        let mut marks = Vec::new();
        let marked = Marked { snapshot: record.id };
        marks.extend(snapshot.accepted.then_some(CommitLine::Accept(marked)));
        marks.extend(snapshot.pinned.then_some(CommitLine::Pin(marked)));
        // What cannot be kept in time is found out before the snapshot is there: a copied one that is forgotten does not come again.
        copy.keep_under(&under)?;
        copy.commit_copied(&mut under, Some((record, marks)))?;
        Ok(under.done)
    }

    /// Looks up what the copy lacks, in windows, and sends it there in the order of this repository's log.
    fn send_frames(
        &mut self,
        copy: &mut Self,
        snapshot: &SnapshotRow,
        under: &mut Under<'_>,
        pipeline: &Pipeline,
    ) -> Result<(), Error> {
        let (list, _) = self.sealed_to()?;
        let mut trust = copy.trust(Arc::default())?;
        let mut rows = rows_of(snapshot);
        loop {
            let mut wanted = Vec::new();
            for row in rows.by_ref() {
                let frame = self.catalog.frame(row)?;
                if under.fresh.contains(&frame.id) {
                    continue;
                }
                match trust.frame(&frame.id)? {
                    Some(there) => under.done.there += u64::from(under.old.insert(there.row)),
                    None => {
                        under.fresh.insert(frame.id);
                        wanted.push(self.locate(snapshot.writer, &frame.id)?);
                    }
                }
                if wanted.len() >= WINDOW {
                    break;
                }
            }
            trust.pause()?;
            if wanted.is_empty() {
                return Ok(());
            }
            if let Some(other) = wanted.iter().find(|frame| frame.recipients != list) {
                let why = "it is sealed to another list of recipients".to_owned();
                return Err(Error::Frame { frame: other.id, pack: other.pack.to_string(), why });
            }
            let moved = self.send_window(copy, snapshot, wanted, under, pipeline)?;
            if !moved.is_empty() {
                // A prune has moved them since the log was read.
                self.sync(&**under.progress)?;
                let again: Result<Vec<_>, _> = moved.iter().map(|id| self.locate(snapshot.writer, id)).collect();
                if let Some(lost) = self.send_window(copy, snapshot, again?, under, pipeline)?.first() {
                    let pack = self.locate(snapshot.writer, lost)?.pack.to_string();
                    return Err(Error::Frame { frame: *lost, pack, why: "its pack is not there".to_owned() });
                }
            }
        }
    }

    /// Reads frames a pack at a time, some ahead. Returns those whose pack is not there.
    fn send_window(
        &mut self,
        copy: &mut Self,
        snapshot: &SnapshotRow,
        mut wanted: Vec<FrameRow>,
        under: &mut Under<'_>,
        pipeline: &Pipeline,
    ) -> Result<Vec<FrameId>, Error> {
        wanted.sort_by_key(|frame| (frame.pack_row, frame.at));
        let mut groups = Vec::new();
        for frames in wanted.chunk_by(|a, b| a.pack_row == b.pack_row) {
            groups.push((self.catalog.pack(frames[0].pack_row)?, frames.to_vec()));
        }
        let (mut groups, mut moved) = (groups.into_iter(), Vec::new());
        let (store, writer) = (self.store.clone(), snapshot.writer_name.clone());
        let (jobs, taken) = bounded::<Job>(AHEAD);
        std::thread::scope(|scope| {
            for _ in 0..AHEAD {
                let (store, writer, taken) = (&store, &writer, taken.clone());
                scope.spawn(move || read_packs(store, writer, &taken));
            }
            // Whoever leaves early must not leave them waiting.
            let jobs = jobs;
            drop(taken);
            let mut waiting = VecDeque::new();
            loop {
                while waiting.len() < AHEAD
                    && let Some((pack, frames)) = groups.next()
                {
                    let (answer, read) = bounded(1);
                    let job = Job { pack: pack.clone(), frames: frames.clone(), answer };
                    jobs.send(job).map_err(|_| Error::Pipeline)?;
                    waiting.push_back((pack, frames, read));
                }
                let Some((pack, frames, read)) = waiting.pop_front() else { return Ok(moved) };
                if under.progress.cancelled() {
                    return Err(Error::Cancelled);
                }
                match read.recv().map_err(|_| Error::Pipeline)? {
                    Ok(fetched) => self.send_pack(&writer, &pack, frames, fetched, under, pipeline)?,
                    Err(e) if is_of_the_object(&e) => moved.extend(frames.iter().map(|frame| frame.id)),
                    Err(e) => return Err(self.of_the_pack(&pack, &frames, e)),
                }
                under.stored.extend(pipeline.take_stored());
                let late = !(0..COMMIT_EVERY).contains(&((under.clock)() - under.last_commit).num_seconds());
                if !under.stored.is_empty() && (late || under.since_commit >= COMMIT_BYTES) {
                    copy.commit_copied(under, None)?;
                }
            }
        })
    }

    /// Whether it is this pack that cannot be read, or the store that does not answer.
    fn of_the_pack(&self, pack: &PackRow, frames: &[FrameRow], error: crate::store::Error) -> Error {
        match (self.check_there(), frames.first()) {
            (Ok(()), Some(first)) => {
                Error::Frame { frame: first.id, pack: pack.id.to_string(), why: error.to_string() }
            }
            _ => error.into(),
        }
    }

    /// Compares the frames of a pack with its directory and hands them to the packer.
    fn send_pack(
        &mut self,
        writer: &str,
        pack: &PackRow,
        frames: Vec<FrameRow>,
        fetched: Fetched,
        under: &mut Under<'_>,
        pipeline: &Pipeline,
    ) -> Result<(), Error> {
        let directory = match self.parse_directory(writer, &pack.id, &fetched.directory, pack.directory_at) {
            Ok(directory) => directory,
            Err(e @ Error::Pack { .. }) => {
                // Nothing more refers to it: the next backup stores anew what the source still has.
                self.catalog.set_pack_states(&[(pack.row, PackState::Damaged)], 0)?;
                return Err(e);
            }
            Err(e) => return Err(e),
        };
        let kind = self.catalog.pack_kind(pack.row)?;
        let (mut places, _) = SealedPlaces::of(directory);
        let (mut good, mut bad) = (Vec::with_capacity(frames.len()), Vec::new());
        for frame in frames {
            let end = frame.at + frame.stored;
            let run = fetched.runs.iter().find(|(at, run)| *at <= frame.at && end <= at + run.len() as u64);
            let sealed = run.map(|(at, run)| run.slice((frame.at - at) as usize..(end - at) as usize));
            match sealed.and_then(|sealed| places.take(&frame, sealed)) {
                Some(sealed) => good.push((frame, sealed)),
                None => bad.push(frame),
            }
        }
        if let Some(first) = bad.first() {
            let rows: Vec<i64> = bad.iter().map(|frame| frame.row).collect();
            self.catalog.set_frames_damaged(&rows, true)?;
            let why = "its stored bytes do not match their sum".to_owned();
            return Err(Error::Frame { frame: first.id, pack: pack.id.to_string(), why });
        }
        for (frame, sealed) in good {
            under.progress.event(Event::Done { items: 1, bytes: frame.stored });
            under.done.frames += 1;
            under.since_commit += frame.stored;
            pipeline.send_sealed(under.order, kind, sealed)?;
            under.order += 1;
        }
        Ok(())
    }

    /// Keeps what is referred to and was retired meanwhile, and proves it.
    fn keep_under(&mut self, under: &Under<'_>) -> Result<(), Error> {
        let (row, id) = (|row| under.old.contains(&row), |id: &FrameId| under.fresh.contains(id));
        let referred = Referred { horizon: under.horizon, row: &row, id: &id };
        self.keep_referred(&referred, (under.clock)(), &**under.progress).map(drop)
    }

    /// Commits what was copied: packs alone, or with the snapshot that they were copied for and what was said of it.
    fn commit_copied(
        &mut self,
        under: &mut Under<'_>,
        snapshot: Option<(SnapshotRecord, Vec<CommitLine>)>,
    ) -> Result<(), Error> {
        let (mut packs, mut chunks) = (Vec::new(), ChunkTables::new());
        for pack in std::mem::take(&mut under.stored) {
            under.done.packs += 1;
            under.done.stored += pack.line.size;
            chunks.insert(pack.line.id, pack.chunks);
            packs.push(pack.line);
        }
        let (old, fresh) = (&under.old, &under.fresh);
        let (row, id) = (|row| old.contains(&row), |id: &FrameId| fresh.contains(id));
        let referred = Referred { horizon: under.horizon, row: &row, id: &id };
        let now = (under.clock)();
        let late = !(0..super::session::UNNAMED_FOR).contains(&(now - under.last_commit).num_seconds());
        let (name, mut content, mut kept) = (snapshot.as_ref().map(|(r, _)| r.id), Some((packs, snapshot)), Vec::new());
        self.commit(now, &chunks, &**under.progress, &mut |copy, first_frame| {
            let (packs, snapshot) = content.take().ok_or(Error::Pipeline)?;
            let packs = copy.unknown_packs(packs)?;
            copy.check_unnamed(&packs, late)?;
            kept = copy.endangered(&referred)?;
            let mut marks = Vec::new();
            if let Some((mut record, lines)) = snapshot {
                let all = packs.iter().flat_map(|pack| pack.frames.iter().map(|frame| frame.0));
                let added = all.enumerate().map(|(n, id)| (id, first_frame + n as u64)).collect();
                let mut numbers = copy.catalog.numbers_of(old.iter().copied())?;
                for id in fresh {
                    numbers.push(copy.number(id, &added)?);
                }
                record.uses = Uses::from_numbers(numbers);
                marks.push(CommitLine::Snapshot(record));
                marks.extend(lines);
            }
            let mut all: Vec<CommitLine> = packs.into_iter().map(CommitLine::Pack).collect();
            all.extend(marks);
            all.extend(Self::keep_line(&kept));
            Ok(all)
        })?;
        (under.last_commit, under.since_commit) = (now, 0);
        match name {
            Some(id) => self.settle_snapshot(id, &kept, &referred, &**under.clock, &**under.progress),
            None => self.prove(&kept),
        }
    }
}

/// The rows of the frames that a snapshot uses.
fn rows_of(snapshot: &SnapshotRow) -> impl Iterator<Item = i64> {
    snapshot.record.uses.0.iter().flat_map(|(first, last)| *first..=*last).map(|row| row as i64)
}

/// The record as the copy will have it.
fn record_of(snapshot: &SnapshotRow) -> SnapshotRecord {
    let writer = match &snapshot.record.copied {
        Some(copied) => copied.writer.clone(),
        None => snapshot.writer_name.clone(),
    };
    let copied = Some(Copied { writer, received: snapshot.received });
    SnapshotRecord { copied, uses: Uses::default(), ..snapshot.record.clone() }
}

/// Memory that a pack was read into: given back when the last of its frames has gone out, for pages that are new cost as much as reading.
struct Lent {
    body: Vec<u8>,
    back: Sender<Vec<u8>>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let _ = self.back.try_send(std::mem::take(&mut self.body));
    }
}

/// One of the threads that read ahead.
fn read_packs(store: &Store, writer: &str, jobs: &Receiver<Job>) {
    let (back, spare) = bounded(AHEAD);
    for job in jobs {
        let body = spare.try_recv().unwrap_or_default();
        let lent = Lent { body, back: back.clone() };
        // Nobody waits any more where the run has failed.
        let _ = job.answer.send(read_pack(store, &pack_key(writer, &job.pack.id), &job.pack, job.frames, lent));
    }
}

/// Reads frames of a pack, with its directory. Where most of it is wanted it is read whole: one request.
fn read_pack(
    store: &Store,
    key: &str,
    pack: &PackRow,
    frames: Vec<FrameRow>,
    mut lent: Lent,
) -> Result<Fetched, crate::store::Error> {
    let (at, end) = (pack.directory_at, pack.directory_at + pack.directory_length);
    if frames.iter().map(|frame| frame.stored).sum::<u64>() * 2 >= pack.size && pack.size <= limits::PACK_MAX {
        store.get_range_into(key, 0..end, &mut lent.body)?;
        let whole = Bytes::from_owner(lent);
        return Ok(Fetched { directory: whole.slice(at as usize..), runs: vec![(0, whole)] });
    }
    let directory = store.get_range(key, at..end)?;
    let mut runs = Vec::new();
    for fetch in plan_fetches(frames) {
        runs.push((fetch.start, store.get_range(key, fetch.start..fetch.end)?));
    }
    Ok(Fetched { directory, runs })
}
