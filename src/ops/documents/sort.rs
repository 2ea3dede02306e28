//! Revisions in the order of their documents and times: sorted in memory up to a bound, beyond it in runs on disk that are merged.
//!
//! Invariants: memory is bounded whatever the number of revisions; the runs are files without a name, gone with the process.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::model::documents::DbTime;
use crate::source::convex::nameless;

/// Bytes that are held in memory at most.
const HELD: usize = 48 << 20;
/// The longest line of a document, written as wastefully as JSON can.
pub(super) const LINE_MAX: u64 = 64 << 20;

/// Which revision: of a table by its number in a list, of a document by the internal part of its id, at a time.
pub(super) type Key = (u32, [u8; 16], DbTime);

/// A revision: its line, none where it is the document's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    pub key: Key,
    pub line: Option<Vec<u8>>,
}

/// What is to be sorted.
pub(super) struct Sorter {
    folder: PathBuf,
    limit: usize,
    items: Vec<Item>,
    held: usize,
    runs: Vec<File>,
}

impl Sorter {
    /// An empty one; its runs lie in `folder`.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), limit: HELD, items: Vec::new(), held: 0, runs: Vec::new() }
    }

    /// Adds a revision.
    pub fn push(&mut self, item: Item) -> io::Result<()> {
        self.held += item.line.as_ref().map_or(0, Vec::capacity) + size_of::<Item>();
        self.items.push(item);
        if self.held >= self.limit { self.spill() } else { Ok(()) }
    }

    fn spill(&mut self) -> io::Result<()> {
        self.items.sort_unstable_by_key(|item| item.key);
        let file = nameless(&self.folder).map_err(io::Error::other)?;
        let mut writer = zstd::stream::write::Encoder::new(BufWriter::new(&file), 1)?;
        for item in self.items.drain(..) {
            write_item(&mut writer, &item)?;
        }
        writer.finish()?.flush()?;
        self.held = 0;
        self.runs.push(file);
        Ok(())
    }

    /// Calls `each` in order. One revision that was added twice comes once.
    pub fn each(mut self, each: &mut dyn FnMut(Item) -> io::Result<()>) -> io::Result<()> {
        self.items.sort_unstable_by_key(|item| item.key);
        let mut sources: Vec<Source<'_>> = vec![Source::Held(std::mem::take(&mut self.items).into_iter())];
        for file in &self.runs {
            let run = zstd::stream::read::Decoder::new(At { file, offset: 0 })?;
            sources.push(Source::Run(BufReader::with_capacity(64 << 10, run)));
        }
        let mut heap = BinaryHeap::new();
        for (n, source) in sources.iter_mut().enumerate() {
            heap.extend(source.next()?.map(|item| Reverse(Head(item, n))));
        }
        let mut last: Option<Key> = None;
        while let Some(Reverse(Head(item, n))) = heap.pop() {
            let next = sources.get_mut(n).map(Source::next).transpose()?.flatten();
            heap.extend(next.map(|item| Reverse(Head(item, n))));
            if last.replace(item.key) != Some(item.key) {
                each(item)?;
            }
        }
        Ok(())
    }
}

fn write_item(out: &mut dyn Write, item: &Item) -> io::Result<()> {
    let (table, internal, ts) = item.key;
    out.write_all(&table.to_le_bytes())?;
    out.write_all(&internal)?;
    out.write_all(&ts.to_le_bytes())?;
    write_line(out, item.line.as_deref())
}

/// A line with its length and one more; 0 for none.
pub(super) fn write_line(out: &mut dyn Write, line: Option<&[u8]>) -> io::Result<()> {
    let length = line.map_or(0, |line| line.len() as u64 + 1);
    out.write_all(&length.to_le_bytes())?;
    out.write_all(line.unwrap_or_default())
}

/// Reads what [`write_line`] wrote.
pub(super) fn read_line(input: &mut dyn Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 8];
    input.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length == 0 {
        return Ok(None);
    }
    if length > LINE_MAX {
        return Err(io::Error::other("a document is longer than any"));
    }
    let mut line = vec![0; length as usize - 1];
    input.read_exact(&mut line)?;
    Ok(Some(line))
}

enum Source<'s> {
    Held(std::vec::IntoIter<Item>),
    Run(BufReader<zstd::stream::read::Decoder<'s, BufReader<At<'s>>>>),
}

impl Source<'_> {
    fn next(&mut self) -> io::Result<Option<Item>> {
        match self {
            Self::Held(items) => Ok(items.next()),
            Self::Run(reader) => {
                if reader.fill_buf()?.is_empty() {
                    return Ok(None);
                }
                let (mut table, mut internal, mut ts) = ([0; 4], [0; 16], [0; 8]);
                reader.read_exact(&mut table)?;
                reader.read_exact(&mut internal)?;
                reader.read_exact(&mut ts)?;
                let key = (u32::from_le_bytes(table), internal, DbTime::from_le_bytes(ts));
                Ok(Some(Item { key, line: read_line(reader)? }))
            }
        }
    }
}

/// The first item of a source, ordered by its key.
struct Head(Item, usize);

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}
impl Eq for Head {}
impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Head {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.key.cmp(&other.0.key)
    }
}

/// A file read from its own place, so that several readers share it.
pub(super) struct At<'f> {
    pub file: &'f File,
    pub offset: u64,
}

impl Read for At<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(out, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_the_room_the_order_is_the_same() {
        let item = |n: u64| Item {
            key: ((n % 3) as u32, [(n * 7 % 11) as u8; 16], (n * 13 % 17) as DbTime),
            line: (!n.is_multiple_of(4)).then(|| vec![b'x'; (n % 50) as usize]),
        };
        let sorted = |limit: usize| {
            let folder = tempfile::tempdir().unwrap();
            let mut sorter = Sorter { limit, ..Sorter::new(folder.path()) };
            for n in (0..500).chain(0..100) {
                sorter.push(item(n)).unwrap();
            }
            assert_eq!(sorter.runs.is_empty(), limit == HELD);
            let mut keys = Vec::new();
            sorter
                .each(&mut |item| {
                    keys.push(item.key);
                    Ok(())
                })
                .unwrap();
            keys
        };
        let (roomy, narrow) = (sorted(HELD), sorted(2000));
        assert!(roomy.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(roomy, narrow);
    }
}
