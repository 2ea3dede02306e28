//! Which blocks of files that are there are wrong: their bytes are digested chunk by chunk and compared with the chunk ids
//! of the frames that the snapshot's extents name. Holes must be zeros.
//!
//! The threads that fetch frames compare first, so that reading, digesting, fetching and opening go on side by side, and a
//! frame of which nothing is wrong is not fetched. Chunk ids come from the catalog, which one thread alone may use: it
//! loads them a few requests ahead, so that a window holds few at a time. Not here: writing what is wrong.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::files::Target;
use super::{Locator, Prepared, each_selected};
use crate::catalog::PackRow;
use crate::model::{ChunkId, ChunkList};
use crate::ops::Error;
use crate::progress::Progress;
use crate::repository::{self, Repository};
use crate::seal::ContentKey;

/// Bytes that are read at once, where chunks are shorter.
const READ: usize = 256 << 10;

/// Makes sure that the chunk ids of the packs that a restore needs are in the catalog.
pub(super) fn load_chunks(
    repository: &mut Repository,
    prepared: &Prepared,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let mut packs: HashSet<i64> = HashSet::new();
    {
        let mut locator = Locator::new(repository, &prepared.snapshot);
        let mut note = |entry: crate::model::Entry| {
            for extent in entry.content().into_iter().flat_map(|content| &content.extents) {
                if let Ok(Some(row)) = locator.find_known(extent)? {
                    packs.insert(row.pack_row);
                }
            }
            Ok(())
        };
        match &prepared.entries {
            Some(entries) => entries.iter().cloned().try_for_each(&mut note)?,
            None => {
                let selection = &prepared.options.selection;
                each_selected(repository, &prepared.snapshot, selection, progress, &mut note)?;
            }
        }
    }
    for row in packs {
        let pack: PackRow = repository.catalog().pack(row)?;
        if pack.chunks_known {
            continue;
        }
        let writer = prepared.snapshot.writer_name.clone();
        match repository.directory(&writer, &pack.id, pack.directory_at, pack.directory_length) {
            Ok(directory) => repository.catalog_mut().add_chunks(&pack, &directory.chunks)?,
            // Without its directory a pack's frames count as wrong everywhere and are written again.
            Err(repository::Error::Pack { .. } | repository::Error::Store(_)) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// What the threads that compare share: the ids of frames that are about to be looked at, and what was found.
pub(super) struct Comparison {
    content: ContentKey,
    ids: Mutex<HashMap<i64, Option<ChunkList>>>,
    wrong: Mutex<HashMap<i64, Vec<Target>>>,
    right: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Comparison {
    pub fn new(content: ContentKey) -> Self {
        Self { content, ids: Mutex::default(), wrong: Mutex::default(), right: AtomicU64::new(0) }
    }

    /// Says what the chunks of a frame are: it will be compared. `None` where that is not known: all of it is wrong.
    pub fn expect(&self, frame: i64, ids: Option<ChunkList>) {
        lock(&self.ids).insert(frame, ids);
    }

    /// The chunks of a frame that is to be compared; nothing for one that is fetched in any case.
    pub fn take_chunks(&self, frame: i64) -> Option<Chunks> {
        lock(&self.ids).remove(&frame).map(Chunks::new)
    }

    /// Remembers what is left to write of a frame.
    pub fn found_wrong(&self, frame: i64, targets: Vec<Target>) {
        lock(&self.wrong).insert(frame, targets);
    }

    /// What is left to write of a frame; nothing for one that was not compared.
    pub fn take_wrong(&self, frame: i64) -> Option<Vec<Target>> {
        lock(&self.wrong).remove(&frame)
    }

    /// Counts bytes that were right already.
    pub fn found_right(&self, bytes: u64) {
        self.right.fetch_add(bytes, Ordering::Relaxed);
    }

    /// All of them.
    pub fn right(&self) -> u64 {
        self.right.load(Ordering::Relaxed)
    }

    /// The runs of a target that must be written, neighbours joined: what is not a whole chunk with the right digest.
    pub fn wrong(&self, file: &File, chunks: &Chunks, target: &Target, buffer: &mut Vec<u8>) -> Vec<Target> {
        let mut wrong: Vec<Target> = Vec::new();
        let pieces = chunks.pieces(target.frame_offset, target.length);
        let place_of = |piece: &Piece| target.file_offset + u64::from(piece.offset - target.frame_offset);
        let mut rest = pieces.as_slice();
        while let Some(first) = rest.first() {
            let (run, later) = rest.split_at(one_read(rest));
            rest = later;
            let there = if first.id.is_some() { read(file, place_of(first), length_of(run), buffer) } else { &[] };
            for piece in run {
                let start = (piece.offset - first.offset) as usize;
                let bytes = there.get(start..start + piece.length as usize);
                if bytes.is_some_and(|bytes| piece.id == Some(self.content.digest(bytes).into())) {
                    continue;
                }
                match wrong.last_mut() {
                    Some(last) if last.frame_offset + last.length == piece.offset => last.length += piece.length,
                    _ => wrong.push(Target {
                        file_offset: place_of(piece),
                        frame_offset: piece.offset,
                        length: piece.length,
                        ..*target
                    }),
                }
            }
        }
        wrong
    }
}

/// How many neighbours, one at least, are read at once.
fn one_read(pieces: &[Piece]) -> usize {
    let mut length = 0;
    let more = pieces.iter().take_while(|piece| {
        length += piece.length as usize;
        piece.id.is_some() && length <= READ
    });
    more.count().max(1)
}

fn length_of(run: &[Piece]) -> usize {
    run.iter().map(|piece| piece.length as usize).sum()
}

/// The bytes at a place, as far as there are any; what cannot be read counts as not there.
fn read<'b>(file: &File, at: u64, length: usize, buffer: &'b mut Vec<u8>) -> &'b [u8] {
    if buffer.len() < length {
        buffer.resize(length, 0);
    }
    let mut got = 0;
    while got < length {
        match file.read_at(&mut buffer[got..length], at + got as u64) {
            Ok(0) => break,
            Ok(count) => got += count,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    &buffer[..got]
}

/// The chunks of a frame, found by their places in its plain bytes.
pub(super) struct Chunks(Vec<(u32, ChunkId)>);

/// A part of a frame: a whole chunk with its id, or a part that cannot be compared.
#[derive(Debug, PartialEq, Eq)]
struct Piece {
    offset: u32,
    length: u32,
    id: Option<ChunkId>,
}

impl Chunks {
    /// Without ids nothing can be compared.
    fn new(ids: Option<ChunkList>) -> Self {
        let mut end = 0u32;
        let ends = ids.into_iter().flatten().map(|(id, length)| {
            end = end.saturating_add(length);
            (end, id)
        });
        Self(ends.collect())
    }

    /// A run of the frame by the chunks that it covers; what is not a whole chunk has no id and counts as wrong.
    fn pieces(&self, offset: u32, length: u32) -> Vec<Piece> {
        let end = offset.saturating_add(length);
        let first = self.0.partition_point(|(stop, _)| *stop <= offset);
        let mut start = first.checked_sub(1).and_then(|before| self.0.get(before)).map_or(0, |(stop, _)| *stop);
        let mut all = Vec::new();
        for (stop, id) in self.0.iter().skip(first) {
            let (from, to) = (start.max(offset), (*stop).min(end));
            if from >= to {
                break;
            }
            let whole = from == start && to == *stop;
            all.push(Piece { offset: from, length: to - from, id: whole.then_some(*id) });
            start = *stop;
        }
        // What no chunk covers, for want of a directory, cannot be right.
        let from = start.max(offset);
        if from < end {
            all.push(Piece { offset: from, length: end - from, id: None });
        }
        all
    }
}

/// Makes a run zeros, where it is not: by a hole, or by writing where the file system has none.
pub(super) fn clear(file: &File, at: u64, length: u64) -> Result<(), Error> {
    use rustix::fs::{FallocateFlags, fallocate};
    let size = file.metadata().map_or(0, |meta| meta.len());
    let length = length.min(size.saturating_sub(at));
    if length == 0 || fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, at, length).is_ok() {
        return Ok(());
    }
    let zeros = vec![0; (1 << 20).min(length as usize)];
    let mut done = 0;
    while done < length {
        let count = (length - done).min(zeros.len() as u64) as usize;
        file.write_all_at(&zeros[..count], at + done).map_err(|source| Error::Io {
            doing: "clear",
            path: "a file with holes".into(),
            source,
        })?;
        done += count as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::Secret;

    #[test]
    fn an_extent_is_compared_by_the_chunks_that_it_covers() {
        let id = |n: u8| ChunkId::new([n; 32]);
        let pieces = |chunks: Option<&[(ChunkId, u32)]>, offset, length| -> Vec<(u32, u32, Option<ChunkId>)> {
            let all = Chunks::new(chunks.map(<[_]>::to_vec)).pieces(offset, length);
            all.into_iter().map(|piece| (piece.offset, piece.length, piece.id)).collect()
        };
        let chunks = [(id(1), 10), (id(2), 5), (id(3), 5)];
        assert_eq!(pieces(Some(&chunks), 10, 10), [(10, 5, Some(id(2))), (15, 5, Some(id(3)))]);
        assert_eq!(pieces(Some(&chunks), 0, 15), [(0, 10, Some(id(1))), (10, 5, Some(id(2)))]);
        assert_eq!(pieces(Some(&chunks), 8, 4), [(8, 2, None), (10, 2, None)]);
        assert_eq!(pieces(None, 8, 4), [(8, 4, None)]);
        // What no chunk covers is wrong, and not right for want of anything to compare it with.
        assert_eq!(pieces(Some(&[]), 8, 4), [(8, 4, None)]);
        assert_eq!(pieces(Some(&chunks), 15, 10), [(15, 5, Some(id(3))), (20, 5, None)]);
        assert_eq!(pieces(Some(&chunks), 30, 10), [(30, 10, None)]);
    }

    #[test]
    fn wrong_neighbours_are_one_run_and_what_the_file_lacks_is_wrong() {
        let content = Secret::new([7; 32]).content_key();
        let chunk = |n: u8, length: usize| (vec![n; length], ChunkId::from(content.digest(&vec![n; length])));
        // Longer than one read, so that runs go on from one to the next.
        let parts = [chunk(1, 200 << 10), chunk(2, 100 << 10), chunk(3, 300 << 10), chunk(4, 10), chunk(5, 10)];
        let ids = parts.iter().map(|(bytes, id)| (*id, bytes.len() as u32)).collect();
        let mut bytes: Vec<u8> = parts.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
        let whole = bytes.len() as u32;
        bytes[(200 << 10) + 5] ^= 1;
        bytes[300 << 10] ^= 1;
        bytes.truncate(bytes.len() - 5);
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&bytes, 1000).unwrap();
        let comparison = Comparison::new(content);
        let target = Target { file: 3, file_offset: 1000, frame_offset: 0, length: whole };
        let wrong = comparison.wrong(&file, &Chunks::new(Some(ids)), &target, &mut Vec::new());
        let middle = Target { file: 3, file_offset: 1000 + (200 << 10), frame_offset: 200 << 10, length: 400 << 10 };
        let tail = Target { file: 3, file_offset: 1010 + (600 << 10), frame_offset: (600 << 10) + 10, length: 10 };
        assert_eq!(wrong, [middle, tail]);
        let unknown = comparison.wrong(&file, &Chunks::new(None), &target, &mut Vec::new());
        assert_eq!(unknown, [target], "without ids all of it is wrong");
    }
}
