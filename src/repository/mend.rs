//! Mending this host's own part of a repository: a catalog that says something else than the logs, commits that are lost
//! while the packs that they named still explain themselves, frames that lie in damaged packs or are gone.
//!
//! Invariants: nothing is deleted or overwritten; what is mended is said in a new commit, signed like any other; a frame is
//! copied only after its own bytes matched, and made anew only if its digest comes out as it was. Not here: what
//! is damaged; a check found and noted that.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use super::{Error, FrameWorker, Repository};
use crate::catalog::{Catalog, ChunkTables, FrameRow, FrameState, Head, PackRow, PackState, SnapshotRow, pack_key};
use crate::model::{
    ChunkId, ChunkList, CommitFrame, CommitLine, DirectoryPlace, FrameId, Lost, Moment, PackId, PackKind, PackLine,
    SnapshotRecord, Uses, limits,
};
use crate::pack::{Owner, PackBuilder, SealedFrame};
use crate::progress::{Event, Progress};
use crate::seal::FrameSealer;

/// Frames that are kept open while others are made from their chunks.
const OPEN_FRAMES: usize = 8;

/// What mending the log did.
#[derive(Debug, Clone, Default)]
pub struct LogMended {
    /// Commits that are lost for good, by place and digest.
    pub lost: Vec<Lost>,
    /// Packs that no commit named, and that one names now.
    pub adopted: Vec<PackId>,
    /// Snapshots that exist again.
    pub snapshots: Vec<SnapshotRecord>,
}

/// What mending frames did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FramesMended {
    /// Frames that were copied out of damaged packs.
    pub copied: u64,
    /// Frames that were made anew from chunks stored elsewhere.
    pub remade: u64,
    /// Frames that stay lost.
    pub lost: u64,
    /// Packs that were put.
    pub packs: u64,
}

impl Repository {
    /// Whether the catalog says something else than the logs: they are read into another one beside it.
    pub fn catalog_differs(&mut self, progress: &dyn Progress) -> Result<bool, Error> {
        let _lock = self.folder.compare_lock()?;
        let path = self.catalog.path().with_extension("compare");
        let remove = || {
            for end in ["", "-wal", "-shm"] {
                let _ = std::fs::remove_file(format!("{}{end}", path.display()));
            }
        };
        remove();
        let in_memory = self.catalog.path().as_os_str() == ":memory:";
        let mut fresh = if in_memory { Catalog::in_memory()? } else { Catalog::open(&path)? };
        let differs = self.differs_from(&mut fresh, progress);
        drop(fresh);
        remove();
        differs
    }

    fn differs_from(&mut self, fresh: &mut Catalog, progress: &dyn Progress) -> Result<bool, Error> {
        // A log that was read when another identity was at hand cannot be read again now.
        let mut writers: Vec<String> = self.catalog.writers()?.into_iter().map(|(_, name)| name).collect();
        writers.retain(|name| !self.log_openers(name).is_empty());
        let mut read_into = |repository: &mut Self| {
            std::mem::swap(&mut repository.catalog, fresh);
            let read = repository.sync(progress);
            std::mem::swap(&mut repository.catalog, fresh);
            read.map(|_| fresh.said_by_logs(&writers))
        };
        // All of the logs while others of this host may commit; what they added meanwhile while they wait.
        read_into(self)??;
        let _lock = self.folder.commit_lock()?;
        for _ in 0..3 {
            self.sync(progress)?;
            if read_into(self)?? == self.catalog.said_by_logs(&writers)? {
                return Ok(false);
            }
            // Other hosts do not wait for our lock.
        }
        Ok(true)
    }

    /// Commits of this host's log that cannot be read, or that are known and gone, as far as it has not been said of them.
    pub fn lost_commits(&mut self, progress: &dyn Progress) -> Result<Vec<Lost>, Error> {
        let (name, row) = (self.host()?.name.clone(), self.host_row()?);
        // Gone is what was known before the listing; unreadable is what the listing has and a reading after it has not.
        // A run of this host waits meanwhile; a clone of it, which has locks of its own, may still commit in between.
        let _lock = self.folder.commit_lock()?;
        let mut known: Vec<Head> = self.catalog.commits(row, true)?;
        known.extend(self.catalog.commits(row, false)?);
        let listed: HashSet<Head> = self.list_log(&name, None)?.into_iter().map(|listed| listed.head).collect();
        self.sync(progress)?;
        let read: HashSet<Head> = self.catalog.commits(row, true)?.into_iter().collect();
        let said = self.catalog.lost(row)?;
        let mut lost: Vec<Head> = listed.difference(&read).copied().collect();
        lost.extend(known.into_iter().filter(|head| !listed.contains(head)));
        let mut left_out = HashSet::new();
        for head in &lost {
            if self.is_left_out(&name, head)? {
                left_out.insert(*head);
            }
        }
        lost.retain(|head| !said.contains(&head.digest) && !left_out.contains(head));
        lost.sort();
        lost.dedup();
        Ok(lost.into_iter().map(|Head { sequence, digest }| Lost { sequence, digest }).collect())
    }

    /// Says of lost commits that they are lost, and again what their packs say. With `dry_run` nothing is written.
    pub fn mend_log(
        &mut self,
        lost: Vec<Lost>,
        now: Moment,
        dry_run: bool,
        progress: &dyn Progress,
    ) -> Result<LogMended, Error> {
        let name = self.host()?.name.clone();
        let mut mended = LogMended { lost, ..LogMended::default() };
        let listing = self.list_packs(&name, now)?;
        let (mut packs, mut chunks, mut records) = (Vec::new(), ChunkTables::new(), Vec::new());
        for (id, size) in &listing.unknown {
            if progress.cancelled() {
                return Err(Error::Cancelled);
            }
            if let Some(found) = self.verify_pack(&name, id, *size)? {
                mended.adopted.push(*id);
                chunks.insert(*id, found.chunks);
                packs.push(found.line);
                records.extend(found.snapshot);
            }
        }
        let lost: Vec<CommitLine> = mended.lost.iter().copied().map(CommitLine::Lost).collect();
        // What is forgotten does not come back, whether its commit is lost or not.
        let there: HashSet<String> = self.catalog.all_snapshots()?.iter().map(|s| s.record.id.to_string()).collect();
        let row = self.host_row()?;
        let mut absent = Vec::new();
        for record in records {
            let id = record.id.to_string();
            if !there.contains(&id) && !self.catalog.is_forgotten(row, &id)? {
                absent.push(record);
            }
        }
        let records: Vec<SnapshotRecord> = absent;
        if dry_run {
            mended.snapshots = records;
            return Ok(mended);
        }
        if !packs.is_empty() || !lost.is_empty() {
            let mut content = Some((packs, lost));
            self.commit(now, &chunks, progress, &mut |repository, _| {
                let (packs, lost) = content.take().unwrap_or_default();
                // Another process may have named some of them since they were listed.
                let fresh = repository.unknown_packs(packs)?;
                Ok(fresh.into_iter().map(CommitLine::Pack).chain(lost).collect())
            })?;
        }
        for record in records {
            if self.can_read() && self.recover_snapshot(&record, now, progress)? {
                mended.snapshots.push(record);
            }
        }
        Ok(mended)
    }

    /// Makes a snapshot exist again whose record a pack carries: only if every frame of it is there.
    fn recover_snapshot(
        &mut self,
        record: &SnapshotRecord,
        now: Moment,
        progress: &dyn Progress,
    ) -> Result<bool, Error> {
        let (writer, writer_name) = (self.host_row()?, self.host()?.name.clone());
        let own = record.clone();
        let snapshot = SnapshotRow {
            writer,
            writer_name,
            record: own,
            received: None,
            arrived: None,
            pinned: false,
            forgotten: false,
            accepted: false,
        };
        let frames = match self.frames_used(&snapshot, progress) {
            Ok(frames) => frames,
            Err(e @ (Error::UnknownFrame(_) | Error::Frame { .. } | Error::Manifest { .. })) => {
                let text = format!("snapshot {} cannot come back, not all of it is there: {e}", record.id);
                progress.event(Event::Warning(&text));
                return Ok(false);
            }
            Err(e) => return Err(e),
        };
        self.commit(now, &ChunkTables::new(), progress, &mut |repository, _| {
            let numbers = repository.catalog.numbers_of(frames.iter().copied())?;
            Ok(vec![CommitLine::Snapshot(SnapshotRecord { uses: Uses::from_numbers(numbers), ..record.clone() })])
        })?;
        Ok(true)
    }

    fn frames_used(&self, snapshot: &SnapshotRow, progress: &dyn Progress) -> Result<HashSet<i64>, Error> {
        let mut rows = HashSet::new();
        let mut used = |id: &FrameId| -> Result<(), Error> {
            let frame = self.locate(snapshot.writer, id)?;
            if frame.state != FrameState::Good {
                return Err(Error::UnknownFrame(*id));
            }
            rows.insert(frame.row);
            Ok(())
        };
        snapshot.record.manifest.extents.iter().filter_map(|e| e.frame.as_ref()).try_for_each(&mut used)?;
        let mut manifest = self.manifest(snapshot, progress)?;
        while let Some(entry) = manifest.next_stored()? {
            let extents = entry.content().into_iter().flat_map(|content| &content.extents);
            extents.filter_map(|e| e.frame.as_ref()).try_for_each(&mut used)?;
        }
        Ok(rows)
    }

    /// Copies frames out of damaged packs, and makes lost ones anew from chunks that lie elsewhere. With `dry_run` it only
    /// finds out what could be done. Of the packs in `worn` something else is damaged: where all their frames are in order,
    /// those are copied too.
    pub fn mend_frames(
        &mut self,
        worn: &HashSet<PackId>,
        now: Moment,
        dry_run: bool,
        progress: &dyn Progress,
    ) -> Result<FramesMended, Error> {
        let row = self.host_row()?;
        let mut mended = FramesMended::default();
        let mut hurt: Vec<(PackRow, Vec<FrameRow>)> = Vec::new();
        let usage = self.usage(row)?;
        for pack in self.catalog.packs(row)? {
            // What was retired or deleted does not come back, but for what a snapshot needs.
            if pack.deleted && !usage.lost_packs.contains(&pack.row) {
                continue;
            }
            let mut frames =
                if pack.retired { self.needed_of(&pack, &usage)? } else { self.catalog.frames_of(pack.row)? };
            if !worn.contains(&pack.id) || frames.iter().any(|frame| frame.state != FrameState::Good) {
                frames.retain(|frame| frame.state != FrameState::Good);
            }
            let mut lacking = Vec::new();
            for frame in frames {
                let best = self.catalog.find_frame_of(row, &frame.id)?;
                let elsewhere = |best: FrameRow| (best.pack_row, best.at) != (frame.pack_row, frame.at);
                if !best.is_some_and(|best| best.state == FrameState::Good && elsewhere(best)) {
                    lacking.push(frame);
                }
            }
            if !lacking.is_empty() {
                hurt.push((pack, lacking));
            }
        }
        let mut fresh = Fresh::default();
        let mut seen: HashSet<FrameId> = HashSet::new();
        for (pack, frames) in hurt {
            if progress.cancelled() {
                return Err(Error::Cancelled);
            }
            let frames = frames.into_iter().filter(|frame| seen.insert(frame.id)).collect::<Vec<_>>();
            self.mend_pack(&pack, &frames, &mut fresh, &mut mended, progress)?;
            if !dry_run && fresh.size >= limits::PACK_TARGET as u64 {
                self.store_fresh(&mut fresh, now, &mut mended, progress)?;
            } else if dry_run {
                fresh = Fresh::default();
            }
        }
        if !dry_run {
            self.store_fresh(&mut fresh, now, &mut mended, progress)?;
        }
        Ok(mended)
    }

    fn mend_pack(
        &mut self,
        pack: &PackRow,
        frames: &[FrameRow],
        fresh: &mut Fresh,
        mended: &mut FramesMended,
        progress: &dyn Progress,
    ) -> Result<(), Error> {
        let name = self.host()?.name.clone();
        let key = pack_key(&name, &pack.id);
        // What is left of it, however long: a pack that was cut off still has its first frames.
        let body = match self.store.size(&key)? {
            Some(size) if pack.state != PackState::Missing && size <= limits::PACK_MAX => {
                self.store.get(&key, limits::PACK_MAX)?
            }
            _ => Bytes::new(),
        };
        let directory = self.parse_place(&name, pack, &body);
        let reader = if self.can_read() { Some(self.frame_reader("a repair")?) } else { None };
        for frame in frames {
            progress.event(Event::Done { items: 1, bytes: frame.stored });
            let chunks = self.catalog.chunks_of(frame.row)?.filter(|chunks| !chunks.is_empty());
            let sealed = body.get(frame.at as usize..(frame.at + frame.stored) as usize);
            let whole = match (sealed, &reader) {
                (Some(sealed), Some(reader)) => reader.worker()?.open(frame, sealed).is_ok(),
                // Without an identity the directory's sum of the sealed bytes says it.
                (Some(sealed), None) => {
                    directory.get(&frame.at).is_some_and(|sum| blake3::hash(sealed).as_bytes() == sum.as_bytes())
                }
                (None, _) => false,
            };
            let found = match (sealed, whole) {
                (Some(sealed), true) => {
                    mended.copied += 1;
                    Some((Bytes::copy_from_slice(sealed), pack.recipients))
                }
                _ => match &reader {
                    Some(reader) => self.remake(frame, chunks.as_deref().unwrap_or(&[]), &mut reader.worker()?)?,
                    None => None,
                }
                .inspect(|_| mended.remade += 1),
            };
            match found {
                Some((bytes, recipients)) => {
                    fresh.size += bytes.len() as u64;
                    let kind = self.catalog.pack_kind(pack.row)?;
                    // Of a pack that lost its directory nobody knows the chunks any more. Frames and chunks are named
                    // under one key, so a frame is a chunk of its own name.
                    let chunks =
                        chunks.unwrap_or_else(|| vec![(ChunkId::new(*frame.id.as_bytes()), frame.plain as u32)]);
                    let sealed = SealedFrame { id: frame.id, bytes, plain: frame.plain, chunks };
                    fresh.frames.entry((kind, recipients)).or_default().push(sealed);
                }
                None => mended.lost += 1,
            }
        }
        Ok(())
    }

    /// The sums of a damaged pack's frames by their places, where its directory still opens.
    fn parse_place(&mut self, name: &str, pack: &PackRow, body: &[u8]) -> HashMap<u64, crate::model::Digest> {
        let place = pack.directory_at as usize..(pack.directory_at + pack.directory_length) as usize;
        let directory =
            body.get(place).and_then(|sealed| self.parse_directory(name, &pack.id, sealed, pack.directory_at).ok());
        directory.into_iter().flat_map(|directory| directory.frames).map(|frame| (frame.at, frame.sum)).collect()
    }

    /// Makes a frame anew from its chunks, where each of them lies in another frame too.
    fn remake(
        &self,
        frame: &FrameRow,
        chunks: &[(ChunkId, u32)],
        worker: &mut FrameWorker<'_>,
    ) -> Result<Option<(Bytes, crate::model::Digest)>, Error> {
        let mut plain = Vec::with_capacity(frame.plain as usize);
        let mut open: HashMap<i64, OpenFrame> = HashMap::new();
        for (id, length) in chunks {
            let before = plain.len();
            for row in self.catalog.frames_with(frame.writer, id)? {
                if !open.contains_key(&row) {
                    let Some(opened) = self.open_frame(row, worker)? else { continue };
                    if open.len() >= OPEN_FRAMES {
                        open.clear();
                    }
                    open.insert(row, opened);
                }
                let bytes = open.get(&row).and_then(|other| other.bytes.get(other.places.get(id)?.clone()));
                if let Some(bytes) = bytes {
                    plain.extend_from_slice(bytes);
                    break;
                }
            }
            if plain.len() - before != *length as usize {
                return Ok(None);
            }
        }
        if chunks.is_empty() || FrameId::from(self.content.digest(&plain)) != frame.id {
            return Ok(None);
        }
        let host = self.host()?;
        let keys = |source| Error::Keys { what: "a frame".to_owned(), source };
        let sealed = FrameSealer::new(&host.data).and_then(|mut sealer| sealer.seal_frame(&plain)).map_err(keys)?;
        Ok(Some((sealed.into(), host.recipients_list)))
    }

    /// A frame with the places of its chunks, or nothing where it is damaged.
    fn open_frame(&self, row: i64, worker: &mut FrameWorker<'_>) -> Result<Option<OpenFrame>, Error> {
        let frame = self.catalog.frame(row)?;
        if frame.state != FrameState::Good {
            return Ok(None);
        }
        let Some(bytes) = self.read_frame(&frame, worker)? else { return Ok(None) };
        let (mut places, mut at) = (HashMap::new(), 0);
        for (id, length) in self.catalog.chunks_of(row)?.unwrap_or_default() {
            places.insert(id, at..at + length as usize);
            at += length as usize;
        }
        Ok(Some(OpenFrame { bytes, places }))
    }

    /// A frame's bytes, or nothing where it is damaged after all.
    fn read_frame(&self, frame: &FrameRow, worker: &mut FrameWorker<'_>) -> Result<Option<Vec<u8>>, Error> {
        let key = pack_key(&self.host()?.name, &frame.pack);
        match self.store.get_range(&key, frame.at..frame.at + frame.stored) {
            Ok(sealed) => Ok(worker.open(frame, &sealed).ok().map(<[u8]>::to_vec)),
            Err(crate::store::Error::NotFound { .. } | crate::store::Error::Truncated { .. }) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    fn store_fresh(
        &mut self,
        fresh: &mut Fresh,
        now: Moment,
        mended: &mut FramesMended,
        progress: &dyn Progress,
    ) -> Result<(), Error> {
        let name = self.host()?.name.clone();
        let (mut lines, mut chunks) = (Vec::new(), ChunkTables::new());
        for ((kind, recipients), frames) in std::mem::take(fresh).frames {
            let mut builder = PackBuilder::new(kind, recipients);
            frames.into_iter().for_each(|frame| builder.push(frame));
            let owner = Owner { repository: self.description.repository, writer: &name };
            let host = self.host()?;
            let built = builder.finish(owner, None, &host.signing, &*self.log_sealer()?);
            let built = built.map_err(|source| Error::Pack { pack: "being made".to_owned(), source })?;
            self.store.appender().create(&pack_key(&name, &built.id), &built.parts)?;
            mended.packs += 1;
            let frames = built.directory.frames.iter().map(|f| CommitFrame(f.id, f.at, f.stored, f.plain)).collect();
            let directory = DirectoryPlace { at: built.directory_at, length: built.directory_length };
            lines.push(PackLine { id: built.id, size: built.size, kind, recipients, directory, frames });
            let tables: Vec<ChunkList> = built.directory.chunks;
            chunks.insert(built.id, tables);
        }
        if lines.is_empty() {
            return Ok(());
        }
        let mut content = Some(lines);
        self.commit(now, &chunks, progress, &mut |repository, _| {
            let fresh = repository.unknown_packs(content.take().unwrap_or_default())?;
            Ok(fresh.into_iter().map(CommitLine::Pack).collect())
        })?;
        Ok(())
    }
}

/// A frame from which chunks are taken.
struct OpenFrame {
    bytes: Vec<u8>,
    places: HashMap<ChunkId, std::ops::Range<usize>>,
}

/// Frames that wait to be put, by what a pack has in common.
#[derive(Default)]
struct Fresh {
    frames: HashMap<(PackKind, crate::model::Digest), Vec<SealedFrame>>,
    size: u64,
}
