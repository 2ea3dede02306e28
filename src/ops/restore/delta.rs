//! Which blocks of a file that is there are wrong: its bytes are digested chunk by chunk and compared with the chunk ids
//! of the frames that the snapshot's extents name. Holes must be zeros.

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::FileExt;

use super::window::Target;
use super::{Locator, Prepared, each_selected};
use crate::catalog::{FrameRow, PackRow};
use crate::model::{ChunkId, ChunkList, FileContent};
use crate::ops::Error;
use crate::progress::Progress;
use crate::repository::{self, Repository};

/// Runs of frames, and where they go.
type Runs = Vec<(FrameRow, Target)>;

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

/// The runs of a file that must be written, neighbours joined; and why not all of it can be, where a frame is in no log.
pub(super) fn compare(
    repository: &Repository,
    locator: &mut Locator<'_>,
    file: &File,
    content: &FileContent,
    number: u32,
) -> Result<(Runs, Option<String>), Error> {
    let (mut wrong, mut lost) = (Runs::new(), None);
    let mut at = 0;
    let mut loaded: Option<(i64, Option<ChunkList>)> = None;
    for extent in &content.extents {
        let row = match locator.find_known(extent)? {
            Ok(Some(row)) => row,
            other => {
                match other {
                    Ok(_) => clear(file, at, extent.length)?,
                    Err(why) => lost = Some(why),
                }
                at += extent.length;
                continue;
            }
        };
        if loaded.as_ref().is_none_or(|(known, _)| *known != row.row) {
            loaded = Some((row.row, repository.catalog().chunks_of(row.row)?));
        }
        let chunks = loaded.as_ref().and_then(|(_, chunks)| chunks.as_deref());
        for (offset, length, id) in pieces(chunks, extent.offset, extent.length) {
            let place = at + (offset - extent.offset);
            if id.is_some_and(|id| is_right(repository, file, place, length, &id)) {
                continue;
            }
            let target =
                Target { file: number, file_offset: place, frame_offset: offset as u32, length: length as u32 };
            match wrong.last_mut() {
                Some((last_row, last))
                    if last_row.row == row.row
                        && u64::from(last.frame_offset + last.length) == offset
                        && last.file_offset + u64::from(last.length) == place =>
                {
                    last.length += length as u32;
                }
                _ => wrong.push((row, target)),
            }
        }
        at += extent.length;
    }
    Ok((wrong, lost))
}

/// An extent as the chunks that it covers whole; what is not a whole chunk has no id and counts as wrong.
fn pieces(chunks: Option<&[(ChunkId, u32)]>, offset: u64, length: u64) -> Vec<(u64, u64, Option<ChunkId>)> {
    let Some(chunks) = chunks else { return vec![(offset, length, None)] };
    let (end, mut start, mut all) = (offset + length, 0, Vec::new());
    for (id, chunk) in chunks {
        let stop = start + u64::from(*chunk);
        let (from, to) = (start.max(offset), stop.min(end));
        if from < to {
            let whole = from == start && to == stop;
            all.push((from, to - from, whole.then_some(*id)));
        }
        start = stop;
    }
    // What no chunk covers, for want of a directory, cannot be right.
    let from = start.max(offset);
    if from < end {
        all.push((from, end - from, None));
    }
    all
}

fn is_right(repository: &Repository, file: &File, at: u64, length: u64, id: &ChunkId) -> bool {
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, at).is_ok() && ChunkId::from(repository.content_key().digest(&bytes)) == *id
}

/// Makes a run zeros, where it is not: by a hole, or by writing where the file system has none.
fn clear(file: &File, at: u64, length: u64) -> Result<(), Error> {
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

    #[test]
    fn an_extent_is_compared_by_the_chunks_that_it_covers() {
        let id = |n: u8| ChunkId::new([n; 32]);
        let chunks = [(id(1), 10), (id(2), 5), (id(3), 5)];
        assert_eq!(pieces(Some(&chunks), 10, 10), [(10, 5, Some(id(2))), (15, 5, Some(id(3)))]);
        assert_eq!(pieces(Some(&chunks), 8, 4), [(8, 2, None), (10, 2, None)]);
        assert_eq!(pieces(None, 8, 4), [(8, 4, None)]);
        // What no chunk covers is wrong, and not right for want of anything to compare it with.
        assert_eq!(pieces(Some(&[]), 8, 4), [(8, 4, None)]);
        assert_eq!(pieces(Some(&chunks), 15, 10), [(15, 5, Some(id(3))), (20, 5, None)]);
        assert_eq!(pieces(Some(&chunks), 30, 10), [(30, 10, None)]);
    }
}
