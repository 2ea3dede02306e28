//! The threads behind a backup: frames are compressed and sealed by workers, gathered into packs in their order, and
//! uploaded. Channels are bounded, and every item in them has a bounded size, so memory is flat and a slow store slows
//! the source. The first error wins; the others drain.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::{Error, Repository};
use crate::catalog::pack_key;
use crate::model::{ChunkId, CommitFrame, Digest, DirectoryPlace, FrameId, PackKind, PackLine, RepositoryId};
use crate::model::{SnapshotRecord, limits};
use crate::pack::{Built, Owner, PackBuilder, SealedFrame};
use crate::progress::{Event, Progress};
use crate::seal::{FrameSealer, Sealer, SigningKey};
use crate::store::Store;

/// What the threads need to know; shared.
pub(super) struct Plant {
    pub store: Store,
    pub repository: RepositoryId,
    pub writer: String,
    pub recipients: Digest,
    pub data: Arc<Sealer>,
    pub log: Arc<Sealer>,
    pub signing: SigningKey,
    pub progress: Arc<dyn Progress>,
}

impl Repository {
    /// What the threads of a run of this host need to know.
    pub(super) fn plant(&self, progress: &Arc<dyn Progress>) -> Result<Plant, Error> {
        let host = self.host()?;
        Ok(Plant {
            store: self.store.clone(),
            repository: self.description.repository,
            writer: host.name.clone(),
            recipients: host.recipients_list,
            data: Arc::clone(&host.data),
            log: self.log_sealer()?,
            signing: host.signing.clone(),
            progress: Arc::clone(progress),
        })
    }
}

/// A frame whose plain bytes are complete.
pub(super) struct PlainFrame {
    pub order: u64,
    pub kind: PackKind,
    pub id: FrameId,
    pub plain: Vec<u8>,
    pub chunks: Vec<(ChunkId, u32)>,
}

/// A pack that is in the store.
pub(super) struct StoredPack {
    pub line: PackLine,
    pub chunks: Vec<Vec<(ChunkId, u32)>>,
}

enum ToPack {
    Frame(u64, PackKind, SealedFrame),
    /// Close the open packs; the manifest's last pack carries the record.
    Close(Box<SnapshotRecord>),
}

/// The running threads.
pub(super) struct Pipeline {
    frames: Option<Sender<PlainFrame>>,
    close: Option<Sender<ToPack>>,
    spare: Receiver<Vec<u8>>,
    stored: Receiver<StoredPack>,
    threads: Vec<JoinHandle<()>>,
    failure: Arc<Mutex<Option<Error>>>,
}

type Failure = Arc<Mutex<Option<Error>>>;

fn note(failure: &Failure, error: Error) {
    let mut first = failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    first.get_or_insert(error);
}

impl Pipeline {
    pub fn start(plant: Arc<Plant>) -> Self {
        let workers = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 16);
        Self::start_with(plant, workers)
    }

    /// The same for frames that are sealed already: they are gathered and uploaded.
    pub fn start_sealed(plant: Arc<Plant>) -> Self {
        Self::start_with(plant, 0)
    }

    fn start_with(plant: Arc<Plant>, workers: usize) -> Self {
        let failure: Failure = Arc::default();
        let (frames, frames_out) = bounded::<PlainFrame>(2);
        let (spare_in, spare) = bounded(workers + 4);
        let (sealed, sealed_out) = bounded::<ToPack>(workers.max(1));
        let (packs, packs_out) = bounded::<Built>(0);
        let (stored_in, stored) = unbounded();
        let mut threads = Vec::new();
        for _ in 0..workers {
            let (plant, frames, sealed) = (Arc::clone(&plant), frames_out.clone(), sealed.clone());
            let (spare, failure) = (spare_in.clone(), Arc::clone(&failure));
            threads.push(std::thread::spawn(move || {
                if let Err(e) = seal_frames(&plant, &frames, &sealed, &spare) {
                    note(&failure, e);
                }
            }));
        }
        let gather = (Arc::clone(&plant), Arc::clone(&failure));
        threads.push(std::thread::spawn(move || {
            if let Err(e) = gather_packs(&gather.0, &sealed_out, &packs) {
                note(&gather.1, e);
            }
        }));
        // What is sealed already comes faster than a disk flushes it.
        let uploads = if workers == 0 { 4 } else { 2 };
        for _ in 0..uploads {
            let (plant, packs, stored) = (Arc::clone(&plant), packs_out.clone(), stored_in.clone());
            let failure = Arc::clone(&failure);
            threads.push(std::thread::spawn(move || {
                if let Err(e) = upload_packs(&plant, &packs, &stored, &failure) {
                    note(&failure, e);
                }
            }));
        }
        Self { frames: Some(frames), close: Some(sealed), spare, stored, threads, failure }
    }

    /// Hands a frame over; waits while too many are under way.
    pub fn send(&self, frame: PlainFrame) -> Result<(), Error> {
        let frames = self.frames.as_ref().ok_or(Error::Pipeline)?;
        frames.send(frame).map_err(|_| self.error())
    }

    /// Hands a sealed frame over; waits while packs are uploaded.
    pub fn send_sealed(&self, order: u64, kind: PackKind, frame: SealedFrame) -> Result<(), Error> {
        let packer = self.close.as_ref().ok_or(Error::Pipeline)?;
        packer.send(ToPack::Frame(order, kind, frame)).map_err(|_| self.error())
    }

    /// A buffer for the next frame, used before where there is one.
    pub fn buffer(&self) -> Vec<u8> {
        self.spare.try_recv().unwrap_or_else(|_| Vec::with_capacity(limits::FRAME_TARGET + limits::CHUNK_MAX))
    }

    /// Packs that reached the store since the last call.
    pub fn take_stored(&self) -> Vec<StoredPack> {
        self.stored.try_iter().collect()
    }

    /// Ends the threads after all frames are stored. With a record the manifest's last pack carries it; without one
    /// open packs are thrown away.
    pub fn finish(&mut self, record: Option<SnapshotRecord>) -> Result<Vec<StoredPack>, Error> {
        self.frames = None;
        if let (Some(record), Some(close)) = (record, &self.close) {
            // The packer waits for every frame before it closes, so the order of arrival does not matter.
            let _ = close.send(ToPack::Close(Box::new(record)));
        }
        self.close = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                note(&self.failure, Error::Pipeline);
            }
        }
        let failed = self.failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        match failed {
            Some(error) => Err(error),
            None => Ok(self.take_stored()),
        }
    }

    /// The error that stopped the threads.
    fn error(&self) -> Error {
        // The thread that failed drops its channel right after it noted why; the note may be a moment away.
        for _ in 0..200 {
            let found = self.failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
            match found {
                Some(error) => return error,
                None => std::thread::sleep(std::time::Duration::from_millis(5)),
            }
        }
        Error::Pipeline
    }
}

fn seal_frames(
    plant: &Plant,
    frames: &Receiver<PlainFrame>,
    sealed: &Sender<ToPack>,
    spare: &Sender<Vec<u8>>,
) -> Result<(), Error> {
    let keys = |source| Error::Keys { what: "a frame".to_owned(), source };
    let mut sealer = FrameSealer::new(&plant.data).map_err(keys)?;
    for mut frame in frames {
        let bytes = Bytes::from(sealer.seal_frame(&frame.plain).map_err(keys)?);
        let plain = frame.plain.len() as u64;
        frame.plain.clear();
        let _ = spare.try_send(frame.plain);
        let done = SealedFrame { id: frame.id, bytes, plain, chunks: frame.chunks };
        if sealed.send(ToPack::Frame(frame.order, frame.kind, done)).is_err() {
            break;
        }
    }
    Ok(())
}

fn gather_packs(plant: &Plant, sealed: &Receiver<ToPack>, packs: &Sender<Built>) -> Result<(), Error> {
    let fresh = |kind| PackBuilder::new(kind, plant.recipients);
    let (mut data, mut manifest) = (fresh(PackKind::Data), fresh(PackKind::Manifest));
    let (mut next, mut early) = (0u64, BTreeMap::new());
    let mut record = None;
    let finish = |builder: PackBuilder, record: Option<SnapshotRecord>| -> Result<bool, Error> {
        let owner = Owner { repository: plant.repository, writer: &plant.writer };
        let built = builder.finish(owner, record, &plant.signing, &plant.log);
        let built = built.map_err(|source| Error::Pack { pack: "being made".to_owned(), source })?;
        Ok(packs.send(built).is_ok())
    };
    for message in sealed {
        match message {
            ToPack::Close(it) => record = Some(it),
            ToPack::Frame(order, kind, frame) => drop(early.insert(order, (kind, frame))),
        }
        while let Some((kind, frame)) = early.remove(&next) {
            next += 1;
            let builder = if kind == PackKind::Data { &mut data } else { &mut manifest };
            builder.push(frame);
            if builder.is_full() {
                let full = std::mem::replace(builder, fresh(kind));
                if !finish(full, None)? {
                    return Ok(());
                }
            }
        }
    }
    // Without a record the run was abandoned: what is not yet a pack is thrown away.
    if let Some(record) = record {
        if !data.is_empty() && !finish(data, None)? {
            return Ok(());
        }
        if !manifest.is_empty() {
            finish(manifest, Some(*record))?;
        }
    }
    Ok(())
}

fn upload_packs(
    plant: &Plant,
    packs: &Receiver<Built>,
    stored: &Sender<StoredPack>,
    failure: &Failure,
) -> Result<(), Error> {
    let appender = plant.store.appender();
    for built in packs {
        // One uploader's failure ends the run: the other must not keep it going for hours.
        if failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner).is_some() {
            break;
        }
        if plant.progress.cancelled() {
            return Err(Error::Cancelled);
        }
        appender.create(&pack_key(&plant.writer, &built.id), &built.parts)?;
        plant.progress.event(Event::Stored { bytes: built.size });
        let done = StoredPack { line: pack_line(&built), chunks: built.directory.chunks };
        if stored.send(done).is_err() {
            break;
        }
    }
    Ok(())
}

fn pack_line(built: &Built) -> PackLine {
    PackLine {
        id: built.id,
        size: built.size,
        kind: built.directory.kind,
        recipients: built.directory.recipients,
        directory: DirectoryPlace { at: built.directory_at, length: built.directory_length },
        frames: built.directory.frames.iter().map(|f| CommitFrame(f.id, f.at, f.stored, f.plain)).collect(),
    }
}
