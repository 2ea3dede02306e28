//! Freeing what nothing needs, as far as the log goes: the facts of this host's packs, copying what is needed out of packs that are
//! mostly not, and the lines that retire and keep. What goes away in the end is `sweep`'s.
//!
//! Invariants: nothing is retired where the log does not tell everything; what is retired is judged behind the lock, by a log that was
//! just read; frames are copied as they are sealed, and only after their stored bytes matched the sum in the signed directory, so that
//! no identity is needed; a frame that is needed lies in a pack of a commit before or with the line that retires its old one.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use bytes::Bytes;

use super::recipients::Reseal;
use super::{Error, Problem, Repository, SyncReport, plan_fetches};
use crate::catalog::{
    ChunkTables, FrameRow, Head, PackRow, PackState, Retired, RetiredObject, Usage, WriterRow, pack_key,
};
use crate::model::{
    ChunkList, CommitFrame, CommitLine, Digest, DirectoryPlace, FrameId, Moment, Objects, PackId, PackKind, PackLine,
    Retire, SegmentKey, SnapshotRecord, limits,
};
use crate::pack::{Built, Directory, FramePlace, Owner, PackBuilder, SealedFrame};
use crate::plan::prune::{Facts, Pack};
use crate::progress::{Event, Progress};

/// Copied bytes after which a commit is made, so that little is done twice after a crash.
const BATCH_BYTES: u64 = 256 << 20;
/// Packs that one commit empties at most.
const BATCH_PACKS: usize = 200;
/// Objects that one line names at most.
const LINE_MAX: usize = 100_000;

/// What copying did.
#[derive(Debug, Clone, Default)]
pub struct Repacked {
    /// Packs that were emptied and are retired.
    pub emptied: Vec<PackId>,
    /// Stored bytes of them.
    pub emptied_bytes: u64,
    /// Frames that were copied.
    pub frames: u64,
    /// Bytes that were copied.
    pub copied: u64,
    /// Packs that were put.
    pub packs: u64,
    /// Their bytes.
    pub stored: u64,
    /// Packs that stay, because what is stored of them does not match, with the reason.
    pub damaged: Vec<(PackId, String)>,
    /// Packs that were to be copied and were not, because time was up.
    pub left: u64,
}

/// What retiring did.
#[derive(Debug, Clone, Default)]
pub struct RetiredNow {
    /// Packs that are retired now.
    pub packs: Vec<PackId>,
    /// Segments that are retired now.
    pub segments: Vec<SegmentKey>,
    /// What was retired and is kept after all.
    pub kept: u64,
    /// What the log said on the way.
    pub problems: Vec<Problem>,
}

impl Repository {
    /// Why nothing of this host may be called unused: where its log does not tell everything. `problems` are those that reading the
    /// logs told.
    pub fn prune_unknown(&mut self, problems: &[Problem]) -> Result<Vec<String>, Error> {
        let (own, row) = (self.host()?.name.clone(), self.host_row()?);
        let folder = format!("writers/{own}/log/");
        let speaks_of_us = |problem: &&Problem| match problem {
            Problem::MissingCommit { writer, .. }
            | Problem::BadWriter { writer, .. }
            | Problem::Fork { writer, .. } => *writer == own,
            Problem::BadCommit { key, .. } | Problem::NewerCommit { key, .. } => key.starts_with(&folder),
            _ => false,
        };
        let mut why: Vec<String> = problems.iter().filter(speaks_of_us).map(ToString::to_string).collect();
        let lost = self.catalog.lost(row)?;
        for head in self.catalog.commits(row, false)?.into_iter().filter(|head| !lost.contains(&head.digest)) {
            why.push(format!(
                "commit {} ({}) of this host's log could not be read",
                head.sequence,
                head.digest.short()
            ));
        }
        if why.is_empty() && self.catalog.heads(row)?.len() > 1 {
            why.push("this host's log has two ends, which no commit has joined yet".to_owned());
        }
        for snapshot in self.catalog.unmapped(row)? {
            why.push(format!("not all frames that snapshot {snapshot} uses are known: a commit before it is lost"));
        }
        Ok(why)
    }

    /// What a prune of this host's packs decides by.
    pub fn prune_facts(&mut self, problems: &[Problem]) -> Result<(Facts, Usage), Error> {
        let (writer, row) = (self.host()?.name.clone(), self.host_row()?);
        let unknown = self.prune_unknown(problems)?;
        let usage = self.usage(row)?;
        let retired: HashMap<PackId, Retired> = self
            .catalog
            .retired(row)?
            .into_iter()
            .filter_map(|retired| match retired.object {
                RetiredObject::Pack(id) => Some((id, retired)),
                RetiredObject::Segment(_) => None,
            })
            .collect();
        let packs = self.catalog.pack_uses(row, &usage)?.into_iter().map(|pack| Pack {
            retired: retired.get(&pack.id).map(|retired| (retired.since, retired.grace)),
            id: pack.id,
            row: pack.row,
            size: pack.size,
            needed: pack.needed,
            stored: pack.stored,
            ever_used: pack.ever_used,
            named: pack.named,
            is_good: pack.is_good,
        });
        let packs = packs.collect();
        let running = self.folder.run_is_under_way()?;
        let (store_time, lost) = (self.catalog.store_time(row)?, usage.lost.len() as u64);
        Ok((Facts { writer, store_time, packs, unknown, running, lost }, usage))
    }

    /// Makes a commit that says nothing, so that the store's clock tells the time: where nothing else was committed since something was
    /// retired, nobody would ever know that its grace has passed.
    pub fn ask_store_time(&mut self, now: Moment, progress: &dyn Progress) -> Result<SyncReport, Error> {
        Ok(self.commit_even_nothing(now, &ChunkTables::new(), progress, &mut |_, _| Ok(Vec::new()))?.1)
    }

    /// Retires packs in which nothing is needed, and segments that nothing needs; keeps retired ones that are needed after all. One
    /// commit; none where nothing is to be said. Packs are judged once more behind the lock.
    pub fn retire(
        &mut self,
        packs: &[PackId],
        segments: &[SegmentKey],
        keep: &Objects,
        grace: u64,
        now: Moment,
        progress: &dyn Progress,
    ) -> Result<RetiredNow, Error> {
        let mut done = RetiredNow::default();
        let (_, report) = self.commit(now, &ChunkTables::new(), progress, &mut |repository, _| {
            done = RetiredNow::default();
            let mut lines = Vec::new();
            if repository.prune_unknown(&[])?.is_empty() {
                let row = repository.host_row()?;
                let usage = repository.usage(row)?;
                for id in packs {
                    let Some(pack) = repository.catalog.find_pack(row, id)? else { continue };
                    if !pack.deleted && repository.needed_of(&pack, &usage)?.is_empty() {
                        done.packs.push(*id);
                    }
                }
                done.segments = segments.to_vec();
                lines.extend(retire_lines(&done.packs, &done.segments, grace));
            }
            if !keep.is_empty() {
                done.kept = (keep.packs.len() + keep.segments.len()) as u64;
                lines.push(CommitLine::Keep(keep.clone()));
            }
            Ok(lines)
        })?;
        done.problems = report.problems;
        Ok(done)
    }

    /// The frames of a pack that are needed, each once.
    pub(super) fn needed_of(&self, pack: &PackRow, usage: &Usage) -> Result<Vec<FrameRow>, Error> {
        let mut frames = Vec::new();
        for frame in self.catalog.frames_of(pack.row)? {
            let rows = self.catalog.rows_at(&frame)?;
            if rows.into_iter().any(|row| usage.needs(row)) {
                frames.push(frame);
            }
        }
        Ok(frames)
    }

    /// Copies what is needed out of packs into new ones, and retires them. Needs no identity. `until` is when no further pack is begun.
    pub fn repack(
        &mut self,
        packs: &[PackId],
        usage: &Usage,
        grace: u64,
        until: Option<Instant>,
        clock: &dyn Fn() -> Moment,
        progress: &dyn Progress,
    ) -> Result<Repacked, Error> {
        if packs.is_empty() {
            return Ok(Repacked::default());
        }
        progress.event(Event::Stage("copying what is needed into new packs"));
        self.empty_packs(packs, usage, (grace, until), None, clock, progress)
    }

    /// Seals what is needed of packs anew, to the list that this host follows, into new packs, and retires them. Needs an identity that
    /// opens them.
    pub fn rewrap(
        &mut self,
        packs: &[PackId],
        usage: &Usage,
        (grace, until): (u64, Option<Instant>),
        clock: &dyn Fn() -> Moment,
        progress: &dyn Progress,
    ) -> Result<Repacked, Error> {
        let reseal = self.reseal()?;
        progress.event(Event::Stage("sealing anew"));
        self.empty_packs(packs, usage, (grace, until), Some(&reseal), clock, progress)
    }

    fn empty_packs(
        &mut self,
        packs: &[PackId],
        usage: &Usage,
        (grace, until): (u64, Option<Instant>),
        reseal: Option<&Reseal>,
        clock: &dyn Fn() -> Moment,
        progress: &dyn Progress,
    ) -> Result<Repacked, Error> {
        let (row, mut done) = (self.host_row()?, Repacked::default());
        let mut batch = Batch::default();
        for (n, id) in packs.iter().enumerate() {
            if progress.cancelled() {
                self.commit_batch(&mut batch, grace, clock(), &mut done, progress)?;
                return Err(Error::Cancelled);
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                done.left = (packs.len() - n) as u64;
                break;
            }
            let Some(pack) = self.catalog.find_pack(row, id)? else { continue };
            let taken = match (self.take_out(&pack, usage)?, reseal) {
                (Ok(taken), Some(reseal)) => self.seal_anew(&pack, taken, reseal, progress)?,
                (taken, _) => taken,
            };
            match taken {
                Ok(taken) => {
                    progress.event(Event::Done { items: 1, bytes: pack.size });
                    let list = reseal.map_or(pack.recipients, |reseal| reseal.list);
                    self.fill(&mut batch, &pack, list, taken)?;
                }
                Err(why) => done.damaged.push((*id, why)),
            }
            if batch.copied >= BATCH_BYTES || batch.sources.len() >= BATCH_PACKS {
                self.commit_batch(&mut batch, grace, clock(), &mut done, progress)?;
            }
        }
        self.commit_batch(&mut batch, grace, clock(), &mut done, progress)?;
        Ok(done)
    }

    /// What is needed of a pack: sealed bytes that match the sums of its signed directory. The inner error says what does not.
    fn take_out(&mut self, pack: &PackRow, usage: &Usage) -> Result<Result<Taken, String>, Error> {
        let name = self.host()?.name.clone();
        let wanted = self.needed_of(pack, usage)?;
        let directory = match self.directory(&name, &pack.id, pack.directory_at, pack.directory_length) {
            Ok(directory) => directory,
            Err(e @ (Error::Pack { .. } | Error::BadObject { .. })) => return Ok(Err(e.to_string())),
            Err(Error::Store(e)) if is_of_the_object(&e) => {
                self.catalog.set_pack_states(&[(pack.row, PackState::Missing)], 0)?;
                return Ok(Err(e.to_string()));
            }
            Err(e) => return Err(e),
        };
        let (mut places, snapshot) = SealedPlaces::of(directory);
        let mut frames = Vec::with_capacity(wanted.len());
        for fetch in plan_fetches(wanted) {
            let body = match self.store.get_range(&pack_key(&name, &pack.id), fetch.start..fetch.end) {
                Ok(body) => body,
                Err(e) if is_of_the_object(&e) => return Ok(Err(e.to_string())),
                Err(e) => return Err(e.into()),
            };
            for row in fetch.frames {
                let from = (row.at - fetch.start) as usize;
                if from + row.stored as usize > body.len() {
                    return Err(Error::Pipeline);
                }
                // A copy, so that a large body is not kept for a small frame.
                match places.take(&row, Bytes::copy_from_slice(&body[from..from + row.stored as usize])) {
                    Some(frame) => frames.push(frame),
                    None => {
                        // Remembered: the next backup stores anew what the source still has of it.
                        self.catalog.set_frames_damaged(&[row.row], true)?;
                        return Ok(Err(format!("the stored bytes of frame {} do not match their sum", row.id.short())));
                    }
                }
            }
        }
        let row = self.host_row()?;
        let record = match snapshot {
            Some(record) if !self.catalog.is_forgotten(row, &record.id.to_string())? => Some(record),
            _ => None,
        };
        Ok(Ok(Taken { frames, record }))
    }

    /// The frames of a pack sealed anew; the inner error says which does not open.
    fn seal_anew(
        &mut self,
        pack: &PackRow,
        Taken { frames, record }: Taken,
        reseal: &Reseal,
        progress: &dyn Progress,
    ) -> Result<Result<Taken, String>, Error> {
        match reseal.frames(frames, progress)? {
            Ok(frames) => Ok(Ok(Taken { frames, record })),
            Err((id, why)) => {
                let row = self.catalog.frames_of(pack.row)?.into_iter().find(|frame| frame.id == id);
                self.catalog.set_frames_damaged(&row.map(|frame| frame.row).into_iter().collect::<Vec<_>>(), true)?;
                Ok(Err(format!("frame {}: {why}", id.short())))
            }
        }
    }

    /// Puts frames into the open packs of their kind. What ends a manifest keeps a pack of its own, which carries the snapshot's record
    /// as the one before did: packs explain themselves.
    fn fill(
        &mut self,
        batch: &mut Batch,
        pack: &PackRow,
        list: Digest,
        Taken { frames, record }: Taken,
    ) -> Result<(), Error> {
        let kind = self.catalog.pack_kind(pack.row)?;
        batch.sources.push(Emptied {
            id: pack.id,
            size: pack.size,
            frames: frames.iter().map(|frame| frame.id).collect(),
        });
        batch.copied += frames.iter().map(|frame| frame.bytes.len() as u64).sum::<u64>();
        batch.frames += frames.len() as u64;
        if record.is_some() {
            let mut builder = PackBuilder::new(kind, list);
            frames.into_iter().for_each(|frame| builder.push(frame));
            return self.put_built(batch, builder, record);
        }
        for frame in frames {
            let place = (kind, list);
            let builder = batch.open.entry(place).or_insert_with(|| PackBuilder::new(kind, list));
            builder.push(frame);
            if builder.is_full() {
                let full = std::mem::replace(builder, PackBuilder::new(kind, list));
                self.put_built(batch, full, None)?;
            }
        }
        Ok(())
    }

    fn put_built(
        &mut self,
        batch: &mut Batch,
        builder: PackBuilder,
        record: Option<SnapshotRecord>,
    ) -> Result<(), Error> {
        if builder.is_empty() {
            return Ok(());
        }
        let host = self.host()?;
        let owner = Owner { repository: self.description.repository, writer: &host.name };
        let built = builder.finish(owner, record, &host.signing, &*self.log_sealer()?);
        let built: Built = built.map_err(|source| Error::Pack { pack: "being made".to_owned(), source })?;
        self.store.appender().create(&pack_key(&host.name, &built.id), &built.parts)?;
        let directory = built.directory;
        batch.stored += built.size;
        batch.lines.push(PackLine {
            id: built.id,
            size: built.size,
            kind: directory.kind,
            recipients: directory.recipients,
            directory: DirectoryPlace { at: built.directory_at, length: built.directory_length },
            frames: directory.frames.iter().map(|f| CommitFrame(f.id, f.at, f.stored, f.plain)).collect(),
        });
        batch.chunks.insert(built.id, directory.chunks);
        Ok(())
    }

    /// One commit: the new packs, and the old ones retired of which everything that is needed now was copied.
    fn commit_batch(
        &mut self,
        batch: &mut Batch,
        grace: u64,
        now: Moment,
        done: &mut Repacked,
        progress: &dyn Progress,
    ) -> Result<(), Error> {
        for (_, builder) in std::mem::take(&mut batch.open) {
            self.put_built(batch, builder, None)?;
        }
        let Batch { lines, chunks, sources, copied, frames, stored, .. } = std::mem::take(batch);
        if lines.is_empty() {
            return Ok(());
        }
        let (packs, mut content, mut emptied) = (lines.len() as u64, Some(lines), Vec::new());
        self.commit(now, &chunks, progress, &mut |repository, _| {
            let fresh = repository.unknown_packs(content.take().unwrap_or_default())?;
            let mut lines: Vec<CommitLine> = fresh.into_iter().map(CommitLine::Pack).collect();
            if !repository.prune_unknown(&[])?.is_empty() {
                return Ok(lines);
            }
            let row = repository.host_row()?;
            let usage = repository.usage(row)?;
            for source in &sources {
                let Some(pack) = repository.catalog.find_pack(row, &source.id)? else { continue };
                // A snapshot that was committed meanwhile may use what was not needed when it was copied.
                let needed = repository.needed_of(&pack, &usage)?;
                if needed.iter().all(|frame| source.frames.contains(&frame.id)) {
                    emptied.push((source.id, source.size));
                }
            }
            let ids: Vec<PackId> = emptied.iter().map(|(id, _)| *id).collect();
            lines.extend(retire_lines(&ids, &[], grace));
            Ok(lines)
        })?;
        done.packs += packs;
        done.stored += stored;
        done.frames += frames;
        done.copied += copied;
        done.emptied_bytes += emptied.iter().map(|(_, size)| size).sum::<u64>();
        done.emptied.extend(emptied.into_iter().map(|(id, _)| id));
        Ok(())
    }

    /// The ends of this host's log: whether they are the same tells whether anybody committed meanwhile.
    pub fn own_heads(&mut self) -> Result<Vec<Head>, Error> {
        let row: WriterRow = self.host_row()?;
        Ok(self.catalog.heads(row)?)
    }
}

/// Lines that retire packs and segments, none too long.
fn retire_lines(packs: &[PackId], segments: &[SegmentKey], grace: u64) -> Vec<CommitLine> {
    let packs = packs.chunks(LINE_MAX).map(|packs| Retire { packs: packs.to_vec(), segments: Vec::new(), grace });
    let segments =
        segments.chunks(LINE_MAX).map(|segments| Retire { packs: Vec::new(), segments: segments.to_vec(), grace });
    packs.chain(segments).map(CommitLine::Retire).collect()
}

/// The frames of a pack as its signed directory describes them: what is moved is compared with it first.
pub(super) struct SealedPlaces(HashMap<u64, (FramePlace, ChunkList)>);

impl SealedPlaces {
    /// From a directory; beside it the snapshot whose manifest ends in the pack.
    pub fn of(directory: Directory) -> (Self, Option<SnapshotRecord>) {
        let places = directory.frames.into_iter().zip(directory.chunks);
        (Self(places.map(|(frame, chunks)| (frame.at, (frame, chunks))).collect()), directory.snapshot)
    }

    /// A frame with its stored bytes, if they are what the directory says.
    pub fn take(&mut self, row: &FrameRow, sealed: Bytes) -> Option<SealedFrame> {
        let (place, chunks) = self.0.remove(&row.at)?;
        let fits = place.id == row.id && place.stored == row.stored && place.stored == sealed.len() as u64;
        let matches = fits && blake3::hash(&sealed).as_bytes() == place.sum.as_bytes();
        matches.then(|| SealedFrame { id: row.id, bytes: sealed, plain: row.plain, chunks })
    }
}

/// Whether it is this object that is wrong, and not the store.
pub(super) fn is_of_the_object(error: &crate::store::Error) -> bool {
    matches!(error, crate::store::Error::NotFound { .. } | crate::store::Error::Truncated { .. })
}

/// What is needed of a pack.
struct Taken {
    frames: Vec<SealedFrame>,
    record: Option<SnapshotRecord>,
}

/// A pack that is emptied, and what was copied out of it.
struct Emptied {
    id: PackId,
    size: u64,
    frames: HashSet<FrameId>,
}

/// What the next commit will say.
#[derive(Default)]
struct Batch {
    open: HashMap<(PackKind, Digest), PackBuilder>,
    lines: Vec<PackLine>,
    chunks: ChunkTables,
    sources: Vec<Emptied>,
    copied: u64,
    frames: u64,
    stored: u64,
}

const _: () = assert!(BATCH_BYTES >= limits::PACK_MAX);
