//! Reading frames: grouped by pack, neighbours in one request, each fetched once, opened in parallel, and handed on only
//! after their keyed digest matched. Whoever takes them may say, right before they are fetched, which it can do without.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use crossbeam_channel::{Receiver, bounded};

use super::relocate::Relocator;
use super::{Error, Repository};
use crate::catalog::{FrameRow, WriterRow, pack_key};
use crate::model::{Digest, FrameId, limits};
use crate::progress::Progress;
use crate::seal::{ContentKey, FrameOpener, Opener};
use crate::store::Store;

/// A run of frames of one pack that one request reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    /// First byte in the pack.
    pub start: u64,
    /// The byte behind the last.
    pub end: u64,
    /// The frames, in order.
    pub frames: Vec<FrameRow>,
}

/// Bytes at which a request is large enough.
const REQUEST: u64 = 8 << 20;
/// Requests under way at a time, each with a thread that opens its frames.
const PARALLEL: usize = 6;

/// How often a frame is looked for again while it is being moved.
const MOVES: u32 = 3;

/// Groups frames into requests: in order of the packs in the log, neighbours together, small gaps read over.
pub fn plan_fetches(mut frames: Vec<FrameRow>) -> Vec<Fetch> {
    frames.sort_by_key(|frame| (frame.pack_row, frame.at));
    frames.dedup_by_key(|frame| frame.row);
    let mut all: Vec<Fetch> = Vec::new();
    for frame in frames {
        let end = frame.at + frame.stored;
        if let Some(last) = all.last_mut() {
            let same_pack = last.frames.last().is_some_and(|other| other.pack_row == frame.pack_row);
            let near = frame.at >= last.end && frame.at - last.end <= limits::FETCH_GAP;
            if same_pack && near && end - last.start <= REQUEST.max(frame.stored) {
                last.end = end;
                last.frames.push(frame);
                continue;
            }
        }
        all.push(Fetch { start: frame.at, end, frames: vec![frame] });
    }
    all
}

/// Makes requests smaller, so that each has at most so many plain bytes, or one frame: units of work that several threads
/// share evenly, however well the bytes compress.
pub fn split_fetches(fetches: Vec<Fetch>, plain: u64) -> Vec<Fetch> {
    let mut all: Vec<Fetch> = Vec::with_capacity(fetches.len());
    for fetch in fetches {
        let (mut frames, mut bytes) = (Vec::new(), 0);
        for frame in fetch.frames {
            if bytes + frame.plain > plain && !frames.is_empty() {
                all.extend(plan_fetches(std::mem::take(&mut frames)));
                bytes = 0;
            }
            bytes += frame.plain;
            frames.push(frame);
        }
        all.extend(plan_fetches(frames));
    }
    all
}

/// Takes frames as they come, in any order, from several threads.
pub trait Sink: Sync {
    /// Takes away the frames of a request that are not wanted after all; asked by the thread that would fetch them, right
    /// before. `buffer` is that thread's own, to work in. An error stops the reading.
    fn narrow(&self, _frames: &mut Vec<FrameRow>, _buffer: &mut Vec<u8>) -> Result<(), Error> {
        Ok(())
    }

    /// The plain bytes of a frame, or why there are none. An error of its own stops the reading.
    fn frame(&self, row: &FrameRow, plain: Result<&[u8], Error>) -> Result<(), Error>;
}

/// Reads and opens frames. Cheap to clone and shared by threads.
#[derive(Clone)]
pub struct FrameReader {
    store: Store,
    opener: Arc<Opener>,
    content: ContentKey,
    writers: Arc<HashMap<WriterRow, String>>,
    /// Lists of recipients of which a frame has opened: what does not open and is sealed to one of them is damaged.
    opened: Arc<Mutex<HashSet<Digest>>>,
    /// Finds what a prune has moved since the log was read.
    relocator: Arc<Relocator>,
}

impl Repository {
    /// What opens data frames; needs an identity.
    pub fn frame_reader(&self, what: &'static str) -> Result<FrameReader, Error> {
        Ok(FrameReader {
            store: self.store.clone(),
            opener: Arc::clone(self.data_opener(what)?),
            content: self.content.clone(),
            writers: Arc::new(self.writer_names()?),
            opened: Arc::clone(&self.opened),
            relocator: Arc::new(Relocator::new(self)),
        })
    }

    /// Where a frame of a writer lies, or an error that says that its log does not hold it. Snapshots refer to their own
    /// writer's frames only: another writer's copy has its own fate.
    pub fn locate(&self, writer: WriterRow, id: &FrameId) -> Result<FrameRow, Error> {
        self.catalog.find_frame_of(writer, id)?.ok_or(Error::UnknownFrame(*id))
    }
}

impl FrameReader {
    /// Carries out requests in parallel and hands each frame to `sink`.
    pub fn read(&self, fetches: &[Fetch], sink: &dyn Sink, progress: &dyn Progress) -> Result<(), Error> {
        self.read_with(fetches, &mut |_| Ok(()), sink, progress)
    }

    /// The same; `ready` is called for each request on the caller's thread, some requests before one of the others takes it.
    /// It may use what one thread alone may use, such as the catalog.
    pub fn read_with(
        &self,
        fetches: &[Fetch],
        ready: &mut dyn FnMut(&Fetch) -> Result<(), Error>,
        sink: &dyn Sink,
        progress: &dyn Progress,
    ) -> Result<(), Error> {
        let stop = AtomicBool::new(false);
        let one = |worker: &mut FrameWorker<'_>, fetch: &Fetch, body: &mut Vec<u8>| {
            if progress.cancelled() { Err(Error::Cancelled) } else { worker.read_wanted(fetch, body, sink) }
        };
        let threads = PARALLEL.min(fetches.len());
        if threads <= 1 {
            let (mut worker, mut body) = (self.worker()?, Vec::new());
            return fetches.iter().try_for_each(|fetch| {
                ready(fetch)?;
                one(&mut worker, fetch, &mut body)
            });
        }
        let work = |queue: Receiver<&Fetch>| -> Result<(), Error> {
            let (mut worker, mut body) = (self.worker()?, Vec::new());
            for fetch in queue {
                if stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
                one(&mut worker, fetch, &mut body).inspect_err(|_| stop.store(true, Ordering::Relaxed))?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let (ahead, queue) = bounded(threads);
            let handles: Vec<_> = (0..threads).map(|_| queue.clone()).map(|q| scope.spawn(|| work(q))).collect();
            // Once all threads have ended, whyever, nothing waits for them any more.
            drop(queue);
            let mut fed = Ok(());
            for fetch in fetches {
                fed = ready(fetch).inspect_err(|_| stop.store(true, Ordering::Relaxed));
                if fed.is_err() || ahead.send(fetch).is_err() {
                    break;
                }
            }
            drop(ahead);
            let results: Vec<_> =
                handles.into_iter().map(|handle| handle.join().unwrap_or(Err(Error::Pipeline))).collect();
            results.into_iter().chain([fed]).collect()
        })
    }

    /// What one thread opens frames with.
    pub fn worker(&self) -> Result<FrameWorker<'_>, Error> {
        let opener = FrameOpener::new(&self.opener);
        let opener = opener.map_err(|source| Error::Keys { what: "frames".to_owned(), source })?;
        Ok(FrameWorker { reader: self, opener, told: None })
    }

    /// Whether a frame that is sealed to this list of recipients has opened: an age header that is damaged looks like one
    /// that is sealed to others.
    pub fn has_opened(&self, recipients: &Digest) -> bool {
        self.opened.lock().unwrap_or_else(std::sync::PoisonError::into_inner).contains(recipients)
    }
}

/// Opens frames; keeps one thread's buffers.
pub struct FrameWorker<'f> {
    reader: &'f FrameReader,
    opener: FrameOpener<'f>,
    told: Option<Digest>,
}

impl FrameWorker<'_> {
    fn read_wanted(&mut self, fetch: &Fetch, body: &mut Vec<u8>, sink: &dyn Sink) -> Result<(), Error> {
        let mut frames = fetch.frames.clone();
        sink.narrow(&mut frames, body)?;
        if frames.len() == fetch.frames.len() {
            return self.read_one(fetch, body, sink);
        }
        plan_fetches(frames).iter().try_for_each(|fetch| self.read_one(fetch, body, sink))
    }

    fn read_one(&mut self, fetch: &Fetch, body: &mut Vec<u8>, sink: &dyn Sink) -> Result<(), Error> {
        let Some(first) = fetch.frames.first() else { return Ok(()) };
        let writer = self.reader.writers.get(&first.writer).ok_or(Error::Pipeline)?;
        let key = pack_key(writer, &first.pack);
        match self.reader.store.get_range_into(&key, fetch.start..fetch.end, body) {
            Ok(()) => {}
            // A pack that is gone or cut off costs its own frames; a store that does not answer ends the run.
            Err(
                e @ (crate::store::Error::NotFound { .. }
                | crate::store::Error::Truncated { .. }
                | crate::store::Error::Unreachable { .. }),
            ) => return self.read_separately(fetch, &key, sink, e),
            Err(e) => return Err(e.into()),
        }
        for frame in &fetch.frames {
            let start = (frame.at - fetch.start) as usize;
            let sealed = body.get(start..start + frame.stored as usize).ok_or(Error::Pipeline)?;
            sink.frame(frame, self.open(frame, sealed))?;
        }
        Ok(())
    }

    fn read_separately(
        &mut self,
        fetch: &Fetch,
        key: &str,
        sink: &dyn Sink,
        error: crate::store::Error,
    ) -> Result<(), Error> {
        let gone = matches!(error, crate::store::Error::NotFound { .. });
        for frame in &fetch.frames {
            let why = error.to_string();
            let damaged = |why: String| Error::Frame { frame: frame.id, pack: frame.pack.to_string(), why };
            if gone && let Some((moved, sealed)) = self.read_elsewhere(frame)? {
                sink.frame(frame, self.open(&moved, &sealed))?;
                continue;
            }
            let plain = match self.reader.store.get_range(key, frame.at..frame.at + frame.stored) {
                _ if gone => Err(damaged(why)),
                Ok(sealed) => self.open(frame, &sealed),
                // The size tells a short object from a store that fails.
                Err(e) => match self.reader.store.size(key) {
                    Ok(Some(size)) if size < frame.at + frame.stored => Err(damaged(e.to_string())),
                    Ok(None) => Err(damaged(e.to_string())),
                    _ => return Err(e.into()),
                },
            };
            sink.frame(frame, plain)?;
        }
        Ok(())
    }

    /// The sealed bytes of a frame whose pack is gone: a prune may have moved it, even more than once.
    fn read_elsewhere(&self, frame: &FrameRow) -> Result<Option<(FrameRow, Bytes)>, Error> {
        let writer = self.reader.writers.get(&frame.writer).ok_or(Error::Pipeline)?;
        let mut last = *frame;
        for _ in 0..MOVES {
            let Some(moved) = self.reader.relocator.find(writer, &last)? else { return Ok(None) };
            let key = pack_key(writer, &moved.pack);
            match self.reader.store.get_range(&key, moved.at..moved.at + moved.stored) {
                Ok(sealed) => return Ok(Some((moved, sealed))),
                Err(crate::store::Error::NotFound { .. }) => last = moved,
                Err(e) => return Err(e.into()),
            }
        }
        Ok(None)
    }

    /// Opens sealed bytes and checks the frame's digest.
    pub fn open(&mut self, frame: &FrameRow, sealed: &[u8]) -> Result<&[u8], Error> {
        let bad = |why: String| Error::Frame { frame: frame.id, pack: frame.pack.to_string(), why };
        let plain = match self.opener.open_frame(sealed, frame.plain as usize) {
            Ok(plain) => plain,
            Err(source @ crate::seal::Error::NoIdentity(_)) if !self.reader.has_opened(&frame.recipients) => {
                return Err(Error::Keys { what: format!("frame {}", frame.id.short()), source });
            }
            Err(e) => return Err(bad(e.to_string())),
        };
        if FrameId::from(self.reader.content.digest(plain)) != frame.id {
            return Err(bad("its digest does not match".to_owned()));
        }
        if self.told.replace(frame.recipients) != Some(frame.recipients) {
            let mut opened = self.reader.opened.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            opened.insert(frame.recipients);
        }
        Ok(plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::FrameState;
    use crate::model::PackId;

    fn frame(row: i64, pack_row: i64, at: u64, stored: u64) -> FrameRow {
        FrameRow {
            row,
            writer: crate::catalog::Catalog::in_memory().unwrap().writer("w").unwrap(),
            number: 0,
            id: FrameId::new([0; 32]),
            pack_row,
            pack: PackId::new([0; 32]),
            at,
            stored,
            plain: 1,
            state: FrameState::Good,
            recipients: Digest::new([0; 32]),
            retired: 0,
        }
    }

    #[test]
    fn neighbours_are_one_request_and_each_frame_is_fetched_once() {
        let mb = 1 << 20;
        let frames = vec![
            frame(2, 1, mb, mb),
            frame(1, 1, 0, mb),
            frame(1, 1, 0, mb),
            frame(3, 1, 2 * mb + 1000, mb),
            frame(4, 1, 6 * mb, mb),
            frame(5, 2, 7 * mb, mb),
        ];
        let ranges: Vec<_> = plan_fetches(frames).iter().map(|f| (f.start, f.end, f.frames.len())).collect();
        assert_eq!(ranges, [(0, 3 * mb + 1000, 3), (6 * mb, 7 * mb, 1), (7 * mb, 8 * mb, 1)]);
    }

    #[test]
    fn a_request_stays_below_its_size_unless_one_frame_is_larger() {
        let mb = 1 << 20;
        let frames = (0..10).map(|n| frame(n, 1, n as u64 * 3 * mb, 3 * mb)).collect();
        assert!(plan_fetches(frames).iter().all(|f| f.end - f.start <= REQUEST));
        assert_eq!(plan_fetches(vec![frame(1, 1, 0, 9 * mb)]).len(), 1);
    }

    #[test]
    fn requests_are_split_by_their_plain_bytes_and_lose_no_frame() {
        let kb = 1 << 10;
        let frames = (0..10).map(|n| FrameRow { plain: 2 << 20, ..frame(n, 1, n as u64 * kb, kb) }).collect();
        let whole = plan_fetches(frames);
        assert_eq!(whole.len(), 1);
        let split = |plain| -> Vec<_> {
            let all = split_fetches(whole.clone(), plain);
            all.iter().map(|f| (f.start / kb, f.end / kb, f.frames.len())).collect()
        };
        assert_eq!(split(8 << 20), [(0, 4, 4), (4, 8, 4), (8, 10, 2)]);
        assert_eq!(split(1).len(), 10, "a frame is never split");
        assert_eq!(split(1 << 30), [(0, 10, 10)]);
    }
}
