//! The threads that read files of a source: small ones in batches, large ones in blocks; cut and digested here, so that the
//! thread that deduplicates only looks up and copies.
//!
//! Invariants: pieces of one file come in its order; a file's channel holds a few pieces at most; the bytes of all files
//! under way are bounded by a [`Budget`] that is spent in the order of the walk, so that the first file in line can always
//! go on. Buffers go round: memory that the kernel has to hand out anew costs as much as reading into it.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::{Condvar, Mutex};

use crossbeam_channel::{Receiver, Sender};

use crate::chunk::Cutter;
use crate::model::{ChunkId, Cutting, Digest, RawText, limits};
use crate::seal::ContentKey;
use crate::source::{FoundEntry, Opened, Source, read_fully};

/// Pieces of one file that wait at most.
pub(super) const PIECES: usize = 3;
/// What a large file may hold in its channel and its buffers.
pub(super) const LARGE_CHARGE: u64 = 6 << 20;
/// Read, digested and cut in one go: what a core's own cache holds, so that each byte comes from memory once.
const READ_STEP: usize = 256 << 10;
/// Zeros of a hole that are digested in one go.
const HOLE_STEP: u64 = 1 << 30;
/// Buffers that wait for their next use at most.
pub(super) const SPARE: usize = 8;
/// Batches grow into larger buffers than blocks; such are not kept.
const SPARE_MAX: usize = 4 << 20;

/// Where chunks end: id and length, one after another.
pub(super) type Cuts = Vec<(ChunkId, u32)>;

/// A part of a large file.
pub(super) enum Piece {
    /// Bytes, as far as the cuts reach.
    Bytes(Vec<u8>, Cuts),
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

/// Small files that were read, one after another in `bytes`; for each its cuts and its end, or why it could not be read.
pub(super) struct SmallFiles {
    pub bytes: Vec<u8>,
    pub files: Vec<Result<(Cuts, FileEnd), String>>,
}

/// What is to be read.
pub(super) enum Job {
    Large { found: Box<FoundEntry>, pieces: Sender<Piece> },
    Small { found: Vec<FoundEntry>, done: Sender<SmallFiles> },
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
    /// Buffers that were used before.
    pub spare: (Sender<Vec<u8>>, Receiver<Vec<u8>>),
}

/// The receiver is gone: the run is over.
struct Over;

impl Reading<'_> {
    /// Works until there are no more jobs.
    pub fn work(&self, jobs: &Receiver<Job>) {
        for job in jobs {
            match job {
                Job::Small { found, done } => drop(done.send(self.read_batch(&found))),
                Job::Large { found, pieces } => {
                    let end = match self.source.open(&found) {
                        Ok(opened) => self.read_large(opened, &pieces),
                        Err(why) => Ok(Piece::Failed(why)),
                    };
                    if let Ok(piece) = end {
                        let _ = pieces.send(piece);
                    }
                }
            }
        }
    }

    /// A buffer whose bytes mean nothing.
    fn buffer(&self) -> Vec<u8> {
        self.spare.1.try_recv().unwrap_or_default()
    }

    /// Takes a buffer back.
    pub fn give_back(&self, buffer: Vec<u8>) {
        if buffer.capacity() <= SPARE_MAX {
            let _ = self.spare.0.try_send(buffer);
        }
    }

    fn read_batch(&self, found: &[FoundEntry]) -> SmallFiles {
        let mut bytes = self.buffer();
        bytes.clear();
        let mut files = Vec::with_capacity(found.len());
        for found in found {
            let start = bytes.len();
            let read = self.source.read_small(found, &mut bytes);
            if read.is_err() {
                bytes.truncate(start);
            }
            files.push(read.map(|read| {
                let content = &bytes[start..];
                let cuts = self.cut_all(read.cutting, content);
                let digest = match cuts.as_slice() {
                    // Chunks and files are named under one key: a file that is one chunk has its name already.
                    [(id, _)] => Digest::from(*id),
                    _ => self.content.digest(content),
                };
                let size = content.len() as u64;
                (cuts, FileEnd { size, digest, xattrs: read.xattrs, changed: read.changed })
            }));
        }
        SmallFiles { bytes, files }
    }

    fn read_large(&self, mut opened: Opened<'_>, pieces: &Sender<Piece>) -> Result<Piece, Over> {
        let result = match opened.data.take() {
            Some(runs) => self.read_sparse(&mut opened, &runs, pieces)?,
            None => {
                let mut hasher = self.content.hasher();
                let read = self.read_run(&mut opened.file, u64::MAX, opened.cutting, &mut hasher, pieces)?;
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

    pub fn cut_all(&self, cutting: Cutting, bytes: &[u8]) -> Cuts {
        let mut cuts = Vec::new();
        self.cut_on(cutting, bytes, 0, true, &mut cuts);
        cuts
    }

    /// Cuts what lies behind `start`, as far as it can be cut; returns where the last chunk ends.
    fn cut_on(&self, cutting: Cutting, bytes: &[u8], mut start: usize, at_end: bool, cuts: &mut Cuts) -> usize {
        while let Some(length) = self.cutter.cut(cutting, &bytes[start..], at_end) {
            let end = start + length.get();
            cuts.push((ChunkId::from(self.content.digest(&bytes[start..end])), length.get() as u32));
            start = end;
        }
        start
    }

    fn read_sparse(
        &self,
        opened: &mut Opened<'_>,
        runs: &[(u64, u64)],
        pieces: &Sender<Piece>,
    ) -> Result<std::io::Result<(u64, Digest)>, Over> {
        let mut hasher = self.content.hasher();
        let mut at = 0;
        for (start, length) in runs {
            self.hole(start - at, &mut hasher, pieces)?;
            match self.read_run(&mut opened.file, *length, opened.cutting, &mut hasher, pieces)? {
                Ok(read) => at = start + read,
                Err(e) => return Ok(Err(e)),
            }
        }
        if opened.size > at {
            self.hole(opened.size - at, &mut hasher, pieces)?;
            at = opened.size;
        }
        Ok(Ok((at, Digest::new(*hasher.finalize().as_bytes()))))
    }

    /// Digests a hole and tells of it part by part, so that a run that is over is noticed.
    fn hole(&self, mut length: u64, hasher: &mut blake3::Hasher, pieces: &Sender<Piece>) -> Result<(), Over> {
        let zeros = [0; 64 << 10];
        while length > 0 {
            let part = length.min(HOLE_STEP);
            let mut left = part;
            while left > 0 {
                let count = left.min(zeros.len() as u64);
                hasher.update(&zeros[..count as usize]);
                left -= count;
            }
            pieces.send(Piece::Hole(part)).map_err(|_| Over)?;
            length -= part;
        }
        Ok(())
    }

    /// Reads at most `limit` bytes in blocks, and sends each block with its cuts. What is left of a block behind its last
    /// cut begins the next one.
    fn read_run(
        &self,
        file: &mut dyn Read,
        limit: u64,
        cutting: Cutting,
        hasher: &mut blake3::Hasher,
        pieces: &Sender<Piece>,
    ) -> Result<std::io::Result<u64>, Over> {
        let block = limits::READ_BLOCK.max(2 * self.cutter.longest(cutting));
        let (mut rest, mut total, mut at_end) = (Vec::new(), 0u64, false);
        while !at_end {
            let mut buffer = self.buffer();
            buffer.resize(block.max(buffer.len()), 0);
            buffer[..rest.len()].copy_from_slice(&rest);
            let (mut filled, mut start, mut cuts) = (rest.len(), 0, Vec::new());
            while filled < block && !at_end {
                let left = usize::try_from(limit - total).unwrap_or(usize::MAX);
                let step = filled..filled + (block - filled).min(READ_STEP).min(left);
                match read_fully(file, &mut buffer[step.clone()]) {
                    Ok(count) => {
                        (filled, total) = (filled + count, total + count as u64);
                        at_end = count < step.len() || total >= limit;
                    }
                    Err(e) => return Ok(Err(e)),
                }
                hasher.update(&buffer[step.start..filled]);
                start = self.cut_on(cutting, &buffer[..filled], start, at_end, &mut cuts);
            }
            rest.clear();
            rest.extend_from_slice(&buffer[start..filled]);
            if start > 0 {
                pieces.send(Piece::Bytes(buffer, cuts)).map_err(|_| Over)?;
            }
        }
        Ok(Ok(total))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Moment;
    use crate::source::StdinSource;

    #[test]
    fn a_hole_comes_in_parts_so_that_a_run_that_is_over_ends() {
        let source =
            StdinSource::new(crate::model::RelPath::root(), Moment::UNIX_EPOCH, Box::new(std::io::Cursor::new([])));
        let secret = crate::seal::Secret::new([7; 32]);
        let gear = crate::chunk::GearTable::from_bytes(&secret.gear_table());
        let reading = Reading {
            source: &source,
            cutter: Cutter::new(gear, &crate::model::Chunking::default()),
            content: secret.content_key(),
            spare: crossbeam_channel::bounded(1),
        };
        let (pieces_in, pieces) = crossbeam_channel::unbounded();
        let length = (1 << 30) + 5;
        assert!(reading.hole(length, &mut blake3::Hasher::new(), &pieces_in).is_ok());
        let parts: Vec<u64> =
            pieces.try_iter().map(|piece| if let Piece::Hole(part) = piece { part } else { 0 }).collect();
        assert_eq!(parts, [1 << 30, 5]);
        drop(pieces);
        assert!(reading.hole(u64::MAX, &mut blake3::Hasher::new(), &pieces_in).is_err());
    }
}
