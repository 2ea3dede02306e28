//! The threads that read files of a source: small ones whole, large ones in blocks; cut and digested here, so that the
//! thread that deduplicates only looks up and copies.
//!
//! Invariants: pieces of one file come in its order; a file's channel holds a few pieces at most; the bytes of all files
//! under way are bounded by a [`Budget`] that is spent in the order of the walk, so that the first file in line can always
//! go on.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::{Condvar, Mutex};

use bytes::{Bytes, BytesMut};
use crossbeam_channel::{Receiver, Sender};

use crate::chunk::Cutter;
use crate::model::{ChunkId, Cutting, Digest, RawText, limits};
use crate::seal::ContentKey;
use crate::source::{FoundEntry, Opened, Source};

/// Pieces of one file that wait at most.
pub(super) const PIECES: usize = 3;
/// What a large file may hold in its channel and its buffers.
pub(super) const LARGE_CHARGE: u64 = 6 << 20;

/// A part of a file.
pub(super) enum Piece {
    /// Bytes, with where they are cut.
    Bytes(Bytes, Vec<(ChunkId, u32)>),
    /// Zeros that are not stored.
    Hole(u64),
    /// The file's end.
    End(FileEnd),
    /// It could not be read.
    Failed(String),
}

/// What is known of a file once it was read.
pub(super) struct FileEnd {
    pub size: u64,
    pub digest: Digest,
    pub xattrs: BTreeMap<String, RawText>,
    pub changed: Option<String>,
}

/// A file to be read.
pub(super) struct Job {
    pub found: FoundEntry,
    pub pieces: Sender<Piece>,
}

/// Bytes that may be under way.
pub(super) struct Budget {
    state: Mutex<(u64, bool)>,
    freed: Condvar,
    limit: u64,
}

impl Budget {
    pub fn new(limit: u64) -> Self {
        Self { state: Mutex::new((0, false)), freed: Condvar::new(), limit }
    }

    /// Waits until the bytes fit (a first one always does). False when the work ended meanwhile.
    pub fn spend(&self, bytes: u64) -> bool {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        while !state.1 && state.0 > 0 && state.0 + bytes > self.limit {
            state = self.freed.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        state.0 += bytes;
        !state.1
    }

    pub fn free(&self, bytes: u64) {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner).0 -= bytes;
        self.freed.notify_all();
    }

    /// Wakes whoever waits: the work is over.
    pub fn close(&self) {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner).1 = true;
        self.freed.notify_all();
    }
}

/// What every reading thread needs.
pub(super) struct Reading<'a> {
    pub source: &'a dyn Source,
    pub cutter: Cutter,
    pub content: ContentKey,
}

/// The receiver is gone: the run is over.
struct Over;

impl Reading<'_> {
    /// Works until there are no more jobs.
    pub fn work(&self, jobs: &Receiver<Job>) {
        for job in jobs {
            let end = match self.source.open(&job.found) {
                Ok(opened) => self.read(opened, &job),
                Err(why) => Ok(Piece::Failed(why)),
            };
            if let Ok(piece) = end {
                let _ = job.pieces.send(piece);
            }
        }
    }

    fn read(&self, mut opened: Opened<'_>, job: &Job) -> Result<Piece, Over> {
        let result = match opened.data.take() {
            Some(runs) => self.read_sparse(&mut opened, &runs, job)?,
            None if opened.size <= limits::SMALL_FILE_MAX => self.read_small(&mut opened, job)?,
            None => {
                let mut hasher = self.content.hasher();
                let read = self.read_run(&mut opened.file, u64::MAX, opened.cutting, &mut hasher, job)?;
                read.map(|size| (size, Digest::new(*hasher.finalize().as_bytes())))
            }
        };
        let (size, digest) = match result {
            Ok(found) => found,
            Err(e) => return Ok(Piece::Failed(e.to_string())),
        };
        let changed = (opened.changed)();
        Ok(Piece::End(FileEnd { size, digest, xattrs: opened.xattrs, changed }))
    }

    fn read_small(&self, opened: &mut Opened<'_>, job: &Job) -> Result<std::io::Result<(u64, Digest)>, Over> {
        let mut bytes = Vec::with_capacity(opened.size as usize + 1);
        // One that grew meanwhile is cut at twice the size it may have; the change is noticed at its end.
        if let Err(e) = (&mut opened.file).take(2 * limits::SMALL_FILE_MAX).read_to_end(&mut bytes) {
            return Ok(Err(e));
        }
        let chunks = self.cut_all(opened.cutting, &bytes);
        let size = bytes.len() as u64;
        let digest = match chunks.as_slice() {
            // Chunks and files are named under one key: a file that is one chunk has its name already.
            [(id, _)] => Digest::from(*id),
            _ => self.content.digest(&bytes),
        };
        if size > 0 {
            job.pieces.send(Piece::Bytes(Bytes::from(bytes), chunks)).map_err(|_| Over)?;
        }
        Ok(Ok((size, digest)))
    }

    fn cut_all(&self, cutting: Cutting, bytes: &[u8]) -> Vec<(ChunkId, u32)> {
        let (mut chunks, mut start) = (Vec::new(), 0);
        while let Some(length) = self.cutter.cut(cutting, &bytes[start..], true) {
            let end = start + length.get();
            chunks.push((ChunkId::from(self.content.digest(&bytes[start..end])), length.get() as u32));
            start = end;
        }
        chunks
    }

    fn read_sparse(
        &self,
        opened: &mut Opened<'_>,
        runs: &[(u64, u64)],
        job: &Job,
    ) -> Result<std::io::Result<(u64, Digest)>, Over> {
        let mut hasher = self.content.hasher();
        let mut at = 0;
        for (start, length) in runs {
            self.hole(start - at, &mut hasher, job)?;
            match self.read_run(&mut opened.file, *length, opened.cutting, &mut hasher, job)? {
                Ok(read) => at = start + read,
                Err(e) => return Ok(Err(e)),
            }
        }
        if opened.size > at {
            self.hole(opened.size - at, &mut hasher, job)?;
            at = opened.size;
        }
        Ok(Ok((at, Digest::new(*hasher.finalize().as_bytes()))))
    }

    fn hole(&self, length: u64, hasher: &mut blake3::Hasher, job: &Job) -> Result<(), Over> {
        let (zeros, mut left) = ([0; 64 << 10], length);
        while left > 0 {
            let count = left.min(zeros.len() as u64);
            hasher.update(&zeros[..count as usize]);
            left -= count;
        }
        if length > 0 { job.pieces.send(Piece::Hole(length)).map_err(|_| Over) } else { Ok(()) }
    }

    /// Reads at most `limit` bytes in blocks, and sends each block with its cuts. What is left of a block behind its last
    /// cut begins the next one.
    fn read_run(
        &self,
        file: &mut dyn Read,
        limit: u64,
        cutting: Cutting,
        hasher: &mut blake3::Hasher,
        job: &Job,
    ) -> Result<std::io::Result<u64>, Over> {
        let block = limits::READ_BLOCK.max(2 * self.cutter.longest(cutting));
        let (mut rest, mut total) = (BytesMut::new(), 0u64);
        loop {
            let mut buffer = vec![0; block];
            let kept = rest.len();
            buffer[..kept].copy_from_slice(&rest);
            let mut filled = kept;
            let mut at_end = false;
            while filled < block && !at_end {
                let room = (block - filled).min(usize::try_from(limit - total).unwrap_or(usize::MAX));
                match file.read(&mut buffer[filled..filled + room]) {
                    Ok(0) => at_end = true,
                    Ok(count) => (filled, total) = (filled + count, total + count as u64),
                    Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(e) => return Ok(Err(e)),
                }
                at_end |= total >= limit;
            }
            hasher.update(&buffer[kept..filled]);
            let (mut chunks, mut start) = (Vec::new(), 0);
            while let Some(length) = self.cutter.cut(cutting, &buffer[start..filled], at_end) {
                let end = start + length.get();
                chunks.push((ChunkId::from(self.content.digest(&buffer[start..end])), length.get() as u32));
                start = end;
            }
            rest = BytesMut::from(&buffer[start..filled]);
            if start > 0 {
                buffer.truncate(start);
                job.pieces.send(Piece::Bytes(Bytes::from(buffer), chunks)).map_err(|_| Over)?;
            }
            if at_end {
                return Ok(Ok(total));
            }
        }
    }
}
