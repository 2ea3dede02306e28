//! One backup run of a writer: deduplication, frames, packs, the manifest, and at the end the commit at which the
//! snapshot exists.
//!
//! Invariants: a chunk is stored once a run and referred to wherever it comes again; an entry goes into the manifest only
//! when all frames that it names are closed, because only then they have names; packs are in the store before the commit
//! that adds them; a run that is given up leaves packs and no snapshot. Long runs commit the packs that they have stored
//! every few minutes, so that a crash loses little and memory of fresh chunks stays bounded.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::by_digest::ByDigest;
use super::draft::{Counts, Draft, DraftExtent, Place, SessionEnd, SnapshotDraft};
use super::keeps::{Referred, StoredNow};
use super::local_copy::LocalCopy;
use super::pipeline::{Pipeline, PlainFrame, StoredPack};
use super::trust::Trust;
use super::unordered::Unordered;
use super::{Error, Lock, Repository};
use crate::catalog::{ChunkTables, SparseRow};
use crate::chunk::Cutter;
use crate::model::entry::push_extent;
use crate::model::{
    ChunkId, CommitLine, Cutting, Digest, Entry, EntryKind, Extent, FrameId, ManifestPlace, Moment, PackKind, RelPath,
    SnapshotId, SnapshotRecord, Uses, limits,
};
use crate::plan::gate::{Scope, Seen, judge};
use crate::progress::{Event, Progress};

/// Fresh chunks that a run remembers at most before it commits what is stored: some 50 bytes each.
const FRESH_CHUNKS_MAX: usize = 220_000;
/// Seconds after which a run commits what it has stored.
const COMMIT_EVERY: i64 = 300;
/// References to stored frames after which a run that stores nothing looks at the clock, whether it is time to read the log.
const LOOK_EVERY: u32 = 20_000;
/// Seconds after which packs that no commit names yet are looked for before one names them: a prune may have taken them for litter.
pub(super) const UNNAMED_FOR: i64 = 1_800;
/// Entries that wait for the open frame at most before it is closed for their sake.
const WAITING_MAX: usize = 4096;
/// A frame is sparse when the newest snapshots use less than this share of it, in percent.
const SPARSE_BELOW: u64 = 60;

/// A frame that is being filled.
struct OpenFrame {
    ordinal: u32,
    plain: Vec<u8>,
    chunks: Vec<(ChunkId, u32)>,
}

/// An entry that waits for its frames.
struct Waiting {
    entry: Entry,
    draft: Option<Draft>,
    /// Its line, where that is known already.
    line: Option<Vec<u8>>,
}

/// A run. Dropped without `finish`, it leaves packs and no snapshot.
pub struct Session<'r> {
    repository: &'r mut Repository,
    progress: Arc<dyn Progress>,
    clock: Arc<dyn Fn() -> Moment + Send + Sync>,
    trust: Trust,
    cutter: Cutter,
    pipeline: Pipeline,
    data: OpenFrame,
    manifest: OpenFrame,
    /// Chunks of this run by what they belong to: a file that lay in the open frame of the manifest would wait for it, and that
    /// frame for the file's line.
    fresh: HashMap<(PackKind, [u8; 16]), (u32, u32), ByDigest>,
    names: Vec<Option<FrameId>>,
    used_fresh: Vec<u32>,
    used_old: HashMap<i64, (u32, u32)>,
    waiting: VecDeque<Waiting>,
    lines: Vec<u8>,
    manifest_draft: Draft,
    manifest_hasher: blake3::Hasher,
    manifest_bytes: u64,
    local: Option<LocalCopy>,
    unordered: Option<Unordered>,
    stored: Vec<StoredPack>,
    sent: u64,
    last_commit: Moment,
    /// References since the clock was looked at.
    unlooked: u32,
    horizon: i64,
    _running: Lock,
    entries: u64,
    files: u64,
    bytes: u64,
    counts: Counts,
}

impl<'r> Session<'r> {
    /// Starts a run for a source.
    pub fn begin(
        repository: &'r mut Repository,
        draft_id: SnapshotId,
        source: &str,
        marked: Arc<std::collections::HashSet<i64>>,
        clock: Arc<dyn Fn() -> Moment + Send + Sync>,
        progress: Arc<dyn Progress>,
    ) -> Result<Self, Error> {
        let running = repository.folder.run_lock()?;
        let (trust, horizon) = (repository.trust(marked)?, repository.run_horizon()?);
        let plant = repository.plant(&progress)?;
        let pipeline = Pipeline::start(Arc::new(plant));
        let local = LocalCopy::create(repository.folder.manifest(source), draft_id)?;
        let open = |ordinal| OpenFrame { ordinal, plain: pipeline.buffer(), chunks: Vec::new() };
        let (data, manifest) = (open(0), open(1));
        let last_commit = clock();
        let mut session = Self {
            cutter: repository.cutter(),
            manifest_hasher: repository.content.hasher(),
            repository,
            progress,
            clock,
            trust,
            pipeline,
            data,
            manifest,
            fresh: HashMap::default(),
            names: vec![None, None],
            used_fresh: vec![0, 0],
            used_old: HashMap::new(),
            waiting: VecDeque::new(),
            lines: Vec::new(),
            manifest_draft: Draft::default(),
            manifest_bytes: 0,
            local: Some(local),
            unordered: None,
            stored: Vec::new(),
            sent: 0,
            last_commit,
            unlooked: 0,
            horizon,
            _running: running,
            entries: 0,
            files: 0,
            bytes: 0,
            counts: Counts::default(),
        };
        session.write_line(b"{\"manifest\":1}\n")?;
        Ok(session)
    }

    /// The frames that may be referred to: for a source that asks whether a file can be taken over unread.
    pub fn trust(&mut self) -> &mut Trust {
        &mut self.trust
    }

    /// A chunk of a file: found, or stored.
    pub fn chunk(&mut self, draft: &mut Draft, id: ChunkId, bytes: &[u8]) -> Result<(), Error> {
        self.place_chunk(PackKind::Data, draft, id, bytes)
    }

    fn place_chunk(&mut self, kind: PackKind, draft: &mut Draft, id: ChunkId, bytes: &[u8]) -> Result<(), Error> {
        let length = bytes.len() as u64;
        let mut short = [0; 16];
        short.copy_from_slice(&id.as_bytes()[..16]);
        if let Some((frame, offset)) = self.fresh.get(&(kind, short)).copied() {
            self.counts.chunks_reused += 1;
            self.used_fresh[frame as usize] = self.used_fresh[frame as usize].saturating_add(length as u32);
            self.count_reused(kind, length);
            draft.push(Place::Fresh(frame), u64::from(offset), length);
            return Ok(());
        }
        if let Some((frame, offset)) = self.trust.chunk(&id)? {
            self.counts.chunks_reused += 1;
            self.count_use(&frame, length)?;
            self.count_reused(kind, length);
            draft.push(Place::Stored(frame), u64::from(offset), length);
            return Ok(());
        }
        let open = if kind == PackKind::Data { &mut self.data } else { &mut self.manifest };
        let (ordinal, offset) = (open.ordinal, open.plain.len() as u32);
        open.plain.extend_from_slice(bytes);
        open.chunks.push((id, bytes.len() as u32));
        let full = open.plain.len() >= limits::FRAME_TARGET;
        self.fresh.insert((kind, short), (ordinal, offset));
        self.used_fresh[ordinal as usize] = self.used_fresh[ordinal as usize].saturating_add(length as u32);
        draft.push(Place::Fresh(ordinal), u64::from(offset), length);
        self.counts.chunks_new += 1;
        self.counts.bytes_new += length;
        if kind == PackKind::Data {
            self.counts.data_new += length;
        }
        if full {
            self.close_frame(kind)?;
        }
        Ok(())
    }

    fn count_reused(&mut self, kind: PackKind, length: u64) {
        if kind == PackKind::Data {
            self.counts.data_reused += length;
        }
    }

    fn count_use(&mut self, frame: &FrameId, length: u64) -> Result<(), Error> {
        let trusted = self.trust.frame(frame)?.ok_or(Error::UnknownFrame(*frame))?;
        let used = self.used_old.entry(trusted.row).or_insert((0, trusted.plain as u32));
        used.0 = used.0.saturating_add(length as u32);
        self.unlooked += 1;
        if self.unlooked >= LOOK_EVERY { self.look_around() } else { Ok(()) }
    }

    /// Whether it is time for a commit, also by a clock that was set back.
    fn is_due(&self, now: Moment) -> bool {
        !(0..COMMIT_EVERY).contains(&(now - self.last_commit).num_seconds())
    }

    /// A run that stores nothing makes no commits. What it refers to may be retired meanwhile all the same.
    fn look_around(&mut self) -> Result<(), Error> {
        self.unlooked = 0;
        let now = (self.clock)();
        if !self.is_due(now) {
            return Ok(());
        }
        self.trust.pause()?;
        let (used_old, stored) = (&self.used_old, StoredNow::new(&self.names, &self.used_fresh));
        let row = |row| used_old.contains_key(&row);
        let referred = Referred { horizon: self.horizon, row: &row, id: &|id| stored.has(id) };
        self.repository.keep_referred(&referred, now, &*self.progress)?;
        self.last_commit = now;
        Ok(())
    }

    fn close_frame(&mut self, kind: PackKind) -> Result<(), Error> {
        let next = self.names.len() as u32;
        let fresh = OpenFrame { ordinal: next, plain: self.pipeline.buffer(), chunks: Vec::new() };
        let slot = if kind == PackKind::Data { &mut self.data } else { &mut self.manifest };
        if slot.chunks.is_empty() {
            return Ok(());
        }
        let full = std::mem::replace(slot, fresh);
        self.names.push(None);
        self.used_fresh.push(0);
        let id = FrameId::from(self.repository.content.digest(&full.plain));
        self.names[full.ordinal as usize] = Some(id);
        let order = self.sent;
        self.sent += 1;
        self.pipeline.send(PlainFrame { order, kind, id, plain: full.plain, chunks: full.chunks })?;
        self.stored.extend(self.pipeline.take_stored());
        let due = self.is_due((self.clock)());
        if !self.stored.is_empty() && (due || self.fresh.len() >= FRESH_CHUNKS_MAX) {
            self.commit_packs(true)?;
        }
        if kind == PackKind::Data { self.release(false) } else { Ok(()) }
    }

    /// An entry without content of its own, or a file that was just stored: its draft says where its bytes lie.
    pub fn entry(&mut self, entry: Entry, draft: Option<Draft>) -> Result<(), Error> {
        self.wait(Waiting { entry, draft, line: None })
    }

    fn wait(&mut self, waiting: Waiting) -> Result<(), Error> {
        self.waiting.push_back(waiting);
        self.release(false)
    }

    /// A file that was taken over unread: every frame of it was found trusted. `line` is the entry as the manifest before
    /// has it.
    pub fn unchanged(&mut self, entry: Entry, line: Vec<u8>) -> Result<(), Error> {
        if let Some(content) = entry.content() {
            for Extent { frame, length, .. } in &content.extents {
                if let Some(frame) = frame {
                    self.count_use(frame, *length)?;
                    self.count_reused(PackKind::Data, *length);
                }
            }
        }
        self.wait(Waiting { entry, draft: None, line: Some(line) })
    }

    /// Writes the entries whose frames have names.
    fn release(&mut self, all: bool) -> Result<(), Error> {
        if self.waiting.len() >= WAITING_MAX || all {
            let open = self.data.ordinal;
            if self.waiting.iter().any(|w| w.draft.as_ref().is_some_and(|d| d.newest == Some(open))) {
                return self.close_frame(PackKind::Data).and_then(|()| self.release_named());
            }
        }
        self.release_named()
    }

    fn release_named(&mut self) -> Result<(), Error> {
        while let Some(front) = self.waiting.front() {
            let newest = front.draft.as_ref().and_then(|draft| draft.newest);
            if newest.is_some_and(|ordinal| self.names[ordinal as usize].is_none()) {
                return Ok(());
            }
            let Some(Waiting { mut entry, draft, line }) = self.waiting.pop_front() else { return Ok(()) };
            if let (EntryKind::File(content), Some(draft)) = (&mut entry.kind, draft) {
                content.extents = self.resolve(&draft)?;
            }
            match &mut self.unordered {
                Some(unordered) => unordered.push(&entry)?,
                None => self.write_entry(entry, line)?,
            }
        }
        Ok(())
    }

    fn write_entry(&mut self, entry: Entry, line: Option<Vec<u8>>) -> Result<(), Error> {
        self.entries += 1;
        if let Some(content) = entry.content() {
            (self.files, self.bytes) = (self.files + 1, self.bytes + content.size);
        }
        if let Some(line) = line {
            return self.write_line(&line);
        }
        if entry.content().is_some_and(|content| content.extents.len() > limits::EXTENTS_MAX) {
            let why = format!("it lies in more than {} pieces", limits::EXTENTS_MAX);
            return Err(Error::BadObject { key: entry.path.to_string(), why });
        }
        entry.write_lines(&mut |line| self.write_line(line))
    }

    /// From now on entries may come in any order, as an archive's members do; [`Session::settle`] puts them right.
    pub fn take_any_order(&mut self) {
        let folder = self.repository.folder.path().to_owned();
        self.unordered = Some(Unordered::new(&folder));
    }

    /// Writes the entries of a source without order, in path order. `each` sees them; the answer is what had to be left out.
    pub fn settle(&mut self, each: &mut dyn FnMut(&Entry)) -> Result<Vec<(RelPath, String)>, Error> {
        self.release(true)?;
        let Some(unordered) = self.unordered.take() else { return Ok(Vec::new()) };
        unordered.settle(&mut |entry| {
            each(&entry);
            self.write_entry(entry, None)
        })
    }

    fn resolve(&self, draft: &Draft) -> Result<Vec<Extent>, Error> {
        let mut extents = Vec::with_capacity(draft.extents.len());
        for DraftExtent { place, offset, length } in &draft.extents {
            let frame = match place {
                Place::Hole => None,
                Place::Stored(id) => Some(*id),
                Place::Fresh(ordinal) => {
                    let name = self.names.get(*ordinal as usize).copied().flatten();
                    Some(name.ok_or(Error::Pipeline)?)
                }
            };
            push_extent(&mut extents, Extent { frame, offset: *offset, length: *length });
        }
        Ok(extents)
    }

    fn write_line(&mut self, line: &[u8]) -> Result<(), Error> {
        self.manifest_hasher.update(line);
        self.manifest_bytes += line.len() as u64;
        if let Some(local) = &mut self.local {
            local.write(line)?;
        }
        self.lines.extend_from_slice(line);
        if self.lines.len() >= limits::READ_BLOCK { self.cut_lines(false) } else { Ok(()) }
    }

    /// Cuts the manifest's text into chunks, like any file's.
    fn cut_lines(&mut self, at_end: bool) -> Result<(), Error> {
        let (text, mut start) = (std::mem::take(&mut self.lines), 0);
        let mut draft = std::mem::take(&mut self.manifest_draft);
        while let Some(length) = self.cutter.cut(Cutting::Fine, &text[start..], at_end) {
            let bytes = &text[start..start + length.get()];
            let id = ChunkId::from(self.repository.content.digest(bytes));
            self.place_chunk(PackKind::Manifest, &mut draft, id, bytes)?;
            start += length.get();
        }
        self.lines.extend_from_slice(&text[start..]);
        self.manifest_draft = draft;
        Ok(())
    }

    /// Commits the packs that are in the store: from now on they are found by every later run.
    fn commit_packs(&mut self, goes_on: bool) -> Result<(), Error> {
        self.trust.pause()?;
        let stored = std::mem::take(&mut self.stored);
        let (now, progress) = ((self.clock)(), Arc::clone(&self.progress));
        let (lines, chunks) = split(stored, &mut self.counts);
        let late = !(0..UNNAMED_FOR).contains(&(now - self.last_commit).num_seconds());
        let (used_old, stored) = (&self.used_old, StoredNow::new(&self.names, &self.used_fresh));
        let row = |row| used_old.contains_key(&row);
        let referred = Referred { horizon: self.horizon, row: &row, id: &|id| stored.has(id) };
        let (mut content, mut kept) = (Some(lines), Vec::new());
        self.repository.commit(now, &chunks, &*progress, &mut |repository, _| {
            let packs = repository.unknown_packs(content.take().unwrap_or_default())?;
            repository.check_unnamed(&packs, late)?;
            let mut lines: Vec<CommitLine> = packs.into_iter().map(CommitLine::Pack).collect();
            // A run that is given up refers to nothing any more.
            if goes_on {
                kept = repository.endangered(&referred)?;
                lines.extend(Repository::keep_line(&kept));
            }
            Ok(lines)
        })?;
        self.repository.prove(&kept)?;
        self.last_commit = now;
        // What is in the catalog now need not be remembered here.
        let committed: std::collections::HashSet<FrameId> =
            chunks.keys().copied().filter_map(|pack| self.repository.frames_in(&pack).ok()).flatten().collect();
        let names = &self.names;
        self.fresh.retain(|_, (frame, _)| names[*frame as usize].is_none_or(|name| !committed.contains(&name)));
        self.trust.refresh()
    }

    /// Stores what is open, and makes the snapshot exist.
    pub fn finish(mut self, snapshot: SnapshotDraft) -> Result<SessionEnd, Error> {
        self.release(true)?;
        self.cut_lines(true)?;
        self.close_frame(PackKind::Data)?;
        self.close_frame(PackKind::Manifest)?;
        // An entry that still waits, or a line that is in no frame, would be missing in silence.
        if !self.waiting.is_empty() || !self.lines.is_empty() {
            return Err(Error::Pipeline);
        }
        let draft = std::mem::take(&mut self.manifest_draft);
        let manifest = ManifestPlace {
            bytes: self.manifest_bytes,
            digest: Digest::new(*self.manifest_hasher.finalize().as_bytes()),
            extents: self.resolve(&draft)?,
        };
        let history = snapshot.history.clone();
        let mut record = self.record(snapshot, manifest);
        self.trust.pause()?;
        match self.pipeline.finish(Some(record.clone())) {
            Ok(rest) => self.stored.extend(rest),
            Err(e) => {
                // What reached the store is committed, so that the next run need not verify it first.
                let _ = self.abandon();
                return Err(e);
            }
        }
        let (lines, chunks) = split(std::mem::take(&mut self.stored), &mut self.counts);
        record.added = self.counts.stored;
        if let Some(change) = &mut record.change {
            (change.new_bytes, change.new_stored) = (self.counts.bytes_new, self.counts.stored);
        }
        let seen = Seen { files: record.files, bytes: record.bytes, change: record.change };
        record.abnormal = judge(Scope::of(&record.kind), &seen, &history);
        let (used_fresh, used_old) = (self.used_by_name(), std::mem::take(&mut self.used_old));
        let (progress, clock) = (Arc::clone(&self.progress), Arc::clone(&self.clock));
        let late = !(0..UNNAMED_FOR).contains(&(clock() - self.last_commit).num_seconds());
        let (row, id) = (|row| used_old.contains_key(&row), |id: &FrameId| used_fresh.contains_key(id));
        let referred = Referred { horizon: self.horizon, row: &row, id: &id };
        let (mut content, mut committed, mut kept) = (Some((lines, record)), None, Vec::new());
        let (_, report) = self.repository.commit(clock(), &chunks, &*progress, &mut |repository, first_frame| {
            let (lines, mut record) = content.take().ok_or(Error::Pipeline)?;
            let lines = repository.unknown_packs(lines)?;
            repository.check_unnamed(&lines, late)?;
            kept = repository.endangered(&referred)?;
            // Numbers are asked for now: a fork that was joined since the frames were found has moved some.
            let mut numbers = repository.catalog.numbers_of(used_old.keys().copied())?;
            let mut fresh: HashMap<FrameId, u64> = HashMap::new();
            let all = lines.iter().flat_map(|pack| pack.frames.iter().map(|frame| frame.0));
            for (n, id) in all.enumerate() {
                fresh.insert(id, first_frame + n as u64);
            }
            for id in used_fresh.keys() {
                numbers.push(repository.number(id, &fresh)?);
            }
            record.uses = Uses::from_numbers(numbers);
            committed = Some(record.clone());
            let mut all: Vec<CommitLine> = lines.into_iter().map(CommitLine::Pack).collect();
            all.push(CommitLine::Snapshot(record));
            all.extend(Repository::keep_line(&kept));
            Ok(all)
        })?;
        let record = committed.ok_or(Error::Pipeline)?;
        self.repository.settle_snapshot(record.id, &kept, &referred, &*clock, &*progress)?;
        // The snapshot exists. What follows makes the next run faster; its failure is not this one's.
        let kept = self.local.take().map_or(Ok(()), LocalCopy::publish);
        if let Err(e) = kept.and_then(|()| self.remember_sparse(&record.source, &used_fresh, &used_old)) {
            self.progress.event(Event::Warning(&format!("the next backup will read everything once: {e}")));
        }
        Ok(SessionEnd { record, counts: self.counts, problems: report.problems })
    }

    fn record(&self, draft: SnapshotDraft, manifest: ManifestPlace) -> SnapshotRecord {
        SnapshotRecord {
            id: draft.id,
            source: draft.source,
            kind: draft.kind,
            host: draft.host,
            root: draft.root,
            began: draft.began,
            ended: draft.ended,
            complete: draft.complete,
            skipped: draft.skipped,
            entries: self.entries,
            files: self.files,
            bytes: self.bytes,
            added: 0,
            tags: draft.tags,
            facts: draft.facts,
            change: draft.change,
            abnormal: Vec::new(),
            copied: None,
            manifest,
            uses: Uses::default(),
        }
    }

    /// The frames of this run that something refers to, with the bytes used.
    fn used_by_name(&self) -> HashMap<FrameId, u32> {
        let used = self.names.iter().zip(&self.used_fresh).filter(|(_, used)| **used > 0);
        used.filter_map(|(name, used)| name.map(|name| (name, *used))).collect()
    }

    fn remember_sparse(
        &mut self,
        source: &str,
        fresh: &HashMap<FrameId, u32>,
        old: &HashMap<i64, (u32, u32)>,
    ) -> Result<(), Error> {
        let mut rows: Vec<SparseRow> = Vec::new();
        let sparse = |used: u32, plain: u64| u64::from(used) * 100 < plain * SPARSE_BELOW;
        for (row, (used, plain)) in old {
            if sparse(*used, u64::from(*plain)) {
                rows.push(SparseRow { frame: *row, used: u64::from(*used) });
            }
        }
        let writer = self.repository.host_row()?;
        let catalog = &self.repository.catalog;
        catalog.at_one_moment(|| {
            for (id, used) in fresh {
                if let Some(frame) = catalog.find_frame_of(writer, id)?
                    && sparse(*used, frame.plain)
                {
                    rows.push(SparseRow { frame: frame.row, used: u64::from(*used) });
                }
            }
            Ok::<(), Error>(())
        })?;
        Ok(self.repository.catalog.set_sparse(source, &rows)?)
    }

    /// Gives the run up, but keeps what it has stored: packs in the store are committed, so that the next run finds them.
    pub fn abandon(mut self) -> Result<(), Error> {
        let rest = self.pipeline.finish(None);
        self.stored.extend(self.pipeline.take_stored());
        self.stored.extend(rest.unwrap_or_default());
        if self.stored.is_empty() { Ok(()) } else { self.commit_packs(false) }
    }
}

fn split(stored: Vec<StoredPack>, counts: &mut Counts) -> (Vec<crate::model::PackLine>, ChunkTables) {
    let (mut lines, mut chunks) = (Vec::new(), ChunkTables::new());
    for pack in stored {
        counts.stored += pack.line.size;
        counts.packs += 1;
        chunks.insert(pack.line.id, pack.chunks);
        lines.push(pack.line);
    }
    (lines, chunks)
}
