//! Entries that come in any order, put into path order: sorted in memory up to a bound, beyond it in runs on disk that are
//! merged (an external merge sort; Knuth, The Art of Computer Programming 3, 5.4).
//!
//! Invariants: memory is bounded whatever the number of entries; of entries with one path the one that came last stays.
//! The runs hold names and digests of a source, as the local manifest does: files without a name, in the state directory.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::Error;
use crate::model::{Entry, RelPath};

/// Bytes of lines that are held in memory at most.
const HELD: usize = 24 << 20;

struct Item {
    path: RelPath,
    order: u64,
    line: Vec<u8>,
}

/// What is to be sorted.
pub(super) struct Sorter {
    folder: PathBuf,
    limit: usize,
    items: Vec<Item>,
    held: usize,
    next: u64,
    runs: Vec<File>,
}

impl Sorter {
    /// An empty one; its runs lie in `folder`.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), limit: HELD, items: Vec::new(), held: 0, next: 0, runs: Vec::new() }
    }

    fn io(&self, source: std::io::Error) -> Error {
        Error::Io { doing: "sort in", path: self.folder.clone(), source }
    }

    /// Adds an entry.
    pub fn push(&mut self, entry: &Entry) -> Result<(), Error> {
        let line = serde_json::to_vec(entry)
            .map_err(|e| Error::BadObject { key: entry.path.to_string(), why: e.to_string() })?;
        self.held += line.len() + entry.path.as_bytes().len() + size_of::<Item>();
        self.items.push(Item { path: entry.path.clone(), order: self.next, line });
        self.next += 1;
        if self.held >= self.limit { self.spill() } else { Ok(()) }
    }

    fn spill(&mut self) -> Result<(), Error> {
        self.items.sort_unstable_by(|a, b| (&a.path, a.order).cmp(&(&b.path, b.order)));
        let path = self.folder.join(format!("sort-{}-{}.tmp", std::process::id(), self.runs.len()));
        let file = File::options().read(true).write(true).create_new(true).open(&path).map_err(|e| self.io(e))?;
        // Without a name it goes with the process, however that ends.
        std::fs::remove_file(&path).map_err(|e| self.io(e))?;
        let mut writer = zstd::stream::write::Encoder::new(BufWriter::new(&file), 1).map_err(|e| self.io(e))?;
        for item in self.items.drain(..) {
            let result = writer.write_all(&item.order.to_le_bytes()).and_then(|()| writer.write_all(&item.line));
            result.and_then(|()| writer.write_all(b"\n")).map_err(|e| Error::Io {
                doing: "sort in",
                path: self.folder.clone(),
                source: e,
            })?;
        }
        let written = writer.finish().and_then(|mut file| file.flush());
        written.map_err(|e| self.io(e))?;
        self.held = 0;
        self.runs.push(file);
        Ok(())
    }

    /// Nothing more comes: from now on it can be read, several times.
    pub fn settle(&mut self) {
        self.items.sort_unstable_by(|a, b| (&a.path, a.order).cmp(&(&b.path, b.order)));
    }

    /// Calls `each` in path order.
    pub fn each(&self, each: &mut dyn FnMut(Entry) -> Result<(), Error>) -> Result<(), Error> {
        let mut sources: Vec<Source<'_>> = vec![Source::Held(self.items.iter())];
        for file in &self.runs {
            let run = zstd::stream::read::Decoder::new(At { file, offset: 0 }).map_err(|e| self.io(e))?;
            sources.push(Source::Run(BufReader::new(run)));
        }
        let mut heap = BinaryHeap::new();
        for (n, source) in sources.iter_mut().enumerate() {
            heap.extend(self.next_of(source)?.map(|next| Reverse((next, n))));
        }
        let mut newest: Option<Head> = None;
        while let Some(Reverse((head, n))) = heap.pop() {
            let next = sources.get_mut(n).map(|source| self.next_of(source)).transpose()?.flatten();
            heap.extend(next.map(|next| Reverse((next, n))));
            // Of one path the highest order comes last.
            if let Some(last) = newest.replace(head)
                && newest.as_ref().is_some_and(|newest| newest.entry.path != last.entry.path)
            {
                each(last.entry)?;
            }
        }
        newest.map_or(Ok(()), |last| each(last.entry))
    }

    fn next_of(&self, source: &mut Source<'_>) -> Result<Option<Head>, Error> {
        let (order, line) = match source {
            Source::Held(items) => match items.next() {
                Some(item) => (item.order, std::borrow::Cow::Borrowed(item.line.as_slice())),
                None => return Ok(None),
            },
            Source::Run(reader) => {
                if reader.fill_buf().map_err(|e| self.io(e))?.is_empty() {
                    return Ok(None);
                }
                let (mut order, mut line) = ([0; 8], Vec::new());
                reader.read_exact(&mut order).map_err(|e| self.io(e))?;
                reader.read_until(b'\n', &mut line).map_err(|e| self.io(e))?;
                (u64::from_le_bytes(order), line.into())
            }
        };
        let entry = serde_json::from_slice(&line)
            .map_err(|e| Error::BadObject { key: "an entry being sorted".to_owned(), why: e.to_string() })?;
        Ok(Some(Head { entry, order }))
    }
}

enum Source<'s> {
    Held(std::slice::Iter<'s, Item>),
    Run(BufReader<zstd::stream::read::Decoder<'s, BufReader<At<'s>>>>),
}

/// An entry at the front of a run, ordered by path and arrival.
struct Head {
    entry: Entry,
    order: u64,
}

impl Head {
    fn key(&self) -> (&RelPath, u64) {
        (&self.entry.path, self.order)
    }
}
impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
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
        self.key().cmp(&other.key())
    }
}

/// A file read from its beginning, whatever else reads it.
struct At<'f> {
    file: &'f File,
    offset: u64,
}

impl Read for At<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let count = self.file.read_at(out, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::EntryKind;

    #[test]
    fn runs_on_disk_and_what_is_held_come_out_in_order_and_the_last_of_a_path_stays() {
        let folder = tempfile::tempdir().unwrap();
        let mut sorter = Sorter { limit: 2000, ..Sorter::new(folder.path()) };
        for n in (0..100u32).rev().chain(0..10) {
            let path = RelPath::new(format!("d{}/f{n:03}", n % 3)).unwrap();
            let mut entry = Entry::bare(path, EntryKind::Dir);
            entry.uid = sorter.next as u32;
            sorter.push(&entry).unwrap();
        }
        assert!(sorter.runs.len() > 3 && std::fs::read_dir(folder.path()).unwrap().next().is_none());
        sorter.settle();
        for _ in 0..2 {
            let mut all: Vec<Entry> = Vec::new();
            sorter
                .each(&mut |entry| {
                    all.push(entry);
                    Ok(())
                })
                .unwrap();
            assert_eq!(all.len(), 100);
            assert!(all.windows(2).all(|two| two[0].path < two[1].path));
            let first = all.iter().find(|e| e.path.to_string() == "d0/f000").unwrap();
            assert_eq!(first.uid, 100, "the one that came last");
        }
    }
}
