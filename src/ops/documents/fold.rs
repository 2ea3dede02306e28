//! Changes laid over a snapshot's documents: each document as it was at a time.
//!
//! The last revision of each document up to that time is sorted to its table; a table's lines then come from its member in the snapshot
//! and from these, merged in the order of ids, as an export has them. Invariants: memory is bounded whatever the number of changes;
//! a table that nothing changed is read as it is stored.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

use super::sort::{At, Item, LINE_MAX, Sorter, read_line, write_line};
use super::{Documents, StreamError, segment};
use crate::format::convex::DocumentId;
use crate::format::convex::change::id_of_line;
use crate::model::documents::DbTime;
use crate::ops::Error;
use crate::plan::documents::Way;
use crate::progress::{Event, Progress};
use crate::repository::Repository;
use crate::source::convex::nameless;

/// A table that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoldedTable {
    /// Its number, by the ids of its documents.
    pub number: u32,
    /// Documents that changed.
    pub documents: u64,
    offset: u64,
}

/// Tables by component and name.
pub type Tables<T> = BTreeMap<(String, String), T>;

/// What changed after a snapshot, up to a time.
#[derive(Debug)]
pub struct Folded {
    file: File,
    /// The tables that changed.
    pub tables: Tables<FoldedTable>,
    /// Revisions that were read.
    pub changes: u64,
    /// Segments that were read.
    pub segments: u64,
}

/// A document that changed: as it was before, where that was asked for and is known; and as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub internal: [u8; 16],
    pub before: Before,
    pub after: Option<Vec<u8>>,
}

/// What a document was at an earlier time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Before {
    /// No change tells: the snapshot does.
    Unknown,
    Absent,
    Line(Vec<u8>),
}

fn io_error(folder: &Path, source: io::Error) -> Error {
    StreamError::Io { doing: "sort changes in", path: folder.to_owned(), source }.into()
}

/// Reads the changes that a way needs. `wants` says which tables; with `since` documents alone that changed after it, and what they were
/// then.
pub fn fold(
    repository: &Repository,
    documents: &Documents,
    way: &Way,
    since: Option<DbTime>,
    wants: &dyn Fn(&str, &str) -> bool,
    work_dir: &Path,
    progress: &dyn Progress,
) -> Result<Folded, Error> {
    let needed = documents.segments(way);
    progress.event(Event::Stage("reading changes"));
    progress.event(Event::Expect { items: needed.len() as u64, bytes: needed.iter().map(|r| r.stored).sum() });
    let reader = repository.segment_reader(&documents.writer)?;
    let mut worker = reader.worker()?;
    let mut sorter = Sorter::new(work_dir);
    let mut names: Tables<u32> = BTreeMap::new();
    let (mut numbers, mut changes) = (Vec::new(), 0);
    for record in &needed {
        if progress.cancelled() {
            return Err(crate::repository::Error::Cancelled.into());
        }
        for change in segment::changes(worker.read(record)?) {
            let change = change?;
            if change.ts <= way.base.at || change.ts > way.to || !wants(&change.component, &change.table) {
                continue;
            }
            let id = DocumentId::parse(&change.id).map_err(|e| StreamError::Content(e.to_string()))?;
            changes += 1;
            let next = names.len() as u32;
            let table = *names.entry((change.component, change.table)).or_insert_with(|| {
                numbers.push(id.table);
                next
            });
            let line = change.line.map(String::into_bytes);
            sorter.push(Item { key: (table, id.internal, change.ts), line }).map_err(|e| io_error(work_dir, e))?;
        }
        progress.event(Event::Done { items: 1, bytes: record.stored });
    }
    let mut sections = Sections::new(work_dir, since).map_err(|e| io_error(work_dir, e))?;
    sorter.each(&mut |item| sections.take(item)).map_err(|e| io_error(work_dir, e))?;
    let (file, places) = sections.finish().map_err(|e| io_error(work_dir, e))?;
    let tables = names.into_iter().filter_map(|(name, at)| {
        let (offset, documents) = *places.get(&at)?;
        Some((name, FoldedTable { number: *numbers.get(at as usize)?, documents, offset }))
    });
    Ok(Folded { file, tables: tables.collect(), changes, segments: needed.len() as u64 })
}

/// Documents that somebody chose, to be laid over tables that are there.
pub struct Chosen {
    folder: PathBuf,
    sorter: Sorter,
    names: Tables<u32>,
    numbers: Vec<u32>,
}

impl Chosen {
    /// None yet; what is sorted lies in `folder`.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), sorter: Sorter::new(folder), names: BTreeMap::new(), numbers: Vec::new() }
    }

    /// Adds a document: its line.
    pub fn add(&mut self, component: &str, table: &str, id: &str, line: &str) -> Result<(), Error> {
        let id = DocumentId::parse(id).map_err(|e| StreamError::Content(e.to_string()))?;
        let next = self.names.len() as u32;
        let key = (component.to_owned(), table.to_owned());
        let at = *self.names.entry(key).or_insert(next);
        if at == next && self.numbers.len() as u32 == next {
            self.numbers.push(id.table);
        }
        let item = Item { key: (at, id.internal, 0), line: Some(line.as_bytes().to_vec()) };
        self.sorter.push(item).map_err(|e| io_error(&self.folder, e))
    }

    /// Ready to be laid over.
    pub fn fold(self) -> Result<Folded, Error> {
        let fail = |e| io_error(&self.folder, e);
        let mut sections = Sections::new(&self.folder, None).map_err(fail)?;
        self.sorter.each(&mut |item| sections.take(item)).map_err(fail)?;
        let (file, places) = sections.finish().map_err(fail)?;
        let tables = self.names.into_iter().filter_map(|(name, at)| {
            let (offset, documents) = *places.get(&at)?;
            Some((name, FoldedTable { number: *self.numbers.get(at as usize)?, documents, offset }))
        });
        Ok(Folded { file, tables: tables.collect(), changes: 0, segments: 0 })
    }
}

/// Where the documents of each table begin, and how many there are.
type Places = BTreeMap<u32, (u64, u64)>;

/// Writes documents table by table: each table's begin at a place of their own.
struct Sections {
    writer: BufWriter<File>,
    since: Option<DbTime>,
    places: Places,
    /// The document whose revisions come now: its table, and whether one of them is behind `since`.
    open: Option<(u32, Entry, bool)>,
}

impl Sections {
    fn new(folder: &Path, since: Option<DbTime>) -> io::Result<Self> {
        let file = nameless(folder).map_err(io::Error::other)?;
        Ok(Self { writer: BufWriter::with_capacity(1 << 20, file), since, places: BTreeMap::new(), open: None })
    }

    fn take(&mut self, item: Item) -> io::Result<()> {
        let (table, internal, ts) = item.key;
        if self.open.as_ref().is_some_and(|(at, entry, _)| (*at, entry.internal) != (table, internal)) {
            self.close()?;
        }
        let new = || (table, Entry { internal, before: Before::Unknown, after: None }, false);
        let (_, entry, counts) = self.open.get_or_insert_with(new);
        match self.since {
            Some(since) if ts <= since => {
                entry.before = item.line.clone().map_or(Before::Absent, Before::Line);
                entry.after = item.line;
            }
            _ => {
                entry.after = item.line;
                *counts = true;
            }
        }
        Ok(())
    }

    fn close(&mut self) -> io::Result<()> {
        let Some((table, entry, true)) = self.open.take() else { return Ok(()) };
        if let std::collections::btree_map::Entry::Vacant(vacant) = self.places.entry(table) {
            vacant.insert((self.writer.stream_position()?, 0));
        }
        if let Some((_, count)) = self.places.get_mut(&table) {
            *count += 1;
        }
        let out = &mut self.writer;
        out.write_all(&entry.internal)?;
        match &entry.before {
            Before::Unknown => out.write_all(&[0])?,
            Before::Absent => out.write_all(&[1])?,
            Before::Line(line) => {
                out.write_all(&[2])?;
                write_line(out, Some(line))?;
            }
        }
        write_line(out, entry.after.as_deref())
    }

    fn finish(mut self) -> io::Result<(File, Places)> {
        self.close()?;
        let file = self.writer.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok((file, self.places))
    }
}

/// The documents of a table that changed, in the order of their ids.
pub(super) struct Section<'f> {
    reader: BufReader<At<'f>>,
    left: u64,
}

impl Section<'_> {
    pub fn next(&mut self) -> io::Result<Option<Entry>> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let (mut internal, mut tag) = ([0; 16], [0]);
        self.reader.read_exact(&mut internal)?;
        self.reader.read_exact(&mut tag)?;
        let before = match tag[0] {
            0 => Before::Unknown,
            1 => Before::Absent,
            _ => read_line(&mut self.reader)?.map_or(Before::Absent, Before::Line),
        };
        Ok(Some(Entry { internal, before, after: read_line(&mut self.reader)? }))
    }
}

impl Folded {
    /// The documents of a table that changed.
    pub(super) fn section(&self, component: &str, table: &str) -> Section<'_> {
        let found = self.tables.get(&(component.to_owned(), table.to_owned()));
        let (offset, left) = found.map_or((0, 0), |table| (table.offset, table.documents));
        Section { reader: BufReader::with_capacity(256 << 10, At { file: &self.file, offset }), left }
    }

    /// Whether a table changed.
    pub fn has(&self, component: &str, table: &str) -> bool {
        self.tables.contains_key(&(component.to_owned(), table.to_owned()))
    }

    /// The lines of a table, given those of the snapshot.
    pub fn over<'r>(&'r self, component: &str, table: &str, base: Box<dyn BufRead + 'r>) -> io::Result<Merged<'r>> {
        let mut merged = Merged {
            base,
            line: Vec::new(),
            line_id: None,
            changes: self.section(component, table),
            change: None,
            out: Vec::new(),
            at: 0,
        };
        merged.next_line()?;
        merged.change = merged.changes.next()?;
        Ok(merged)
    }
}

/// A table's lines: a snapshot's with the changes in their places.
pub struct Merged<'r> {
    base: Box<dyn BufRead + 'r>,
    line: Vec<u8>,
    line_id: Option<[u8; 16]>,
    changes: Section<'r>,
    change: Option<Entry>,
    out: Vec<u8>,
    at: usize,
}

/// The next line of a table without its end, and its id; none behind the last one.
pub(super) fn next_document(input: &mut dyn BufRead, line: &mut Vec<u8>) -> io::Result<Option<DocumentId>> {
    line.clear();
    let read = input.take(LINE_MAX).read_until(b'\n', line)?;
    if line.last() == Some(&b'\n') {
        line.pop();
    } else if read as u64 == LINE_MAX {
        return Err(io::Error::other("a document is longer than any"));
    }
    if read == 0 { Ok(None) } else { id_of_line(line).map(Some).map_err(io::Error::other) }
}

impl Merged<'_> {
    fn next_line(&mut self) -> io::Result<()> {
        self.line_id = next_document(&mut self.base, &mut self.line)?.map(|id| id.internal);
        Ok(())
    }

    /// Puts the next line into `out`; false behind the last one.
    fn step(&mut self) -> io::Result<bool> {
        self.out.clear();
        self.at = 0;
        while self.out.is_empty() {
            match (&self.line_id, &mut self.change) {
                (None, None) => return Ok(false),
                (Some(id), Some(change)) if *id >= change.internal => {
                    let is_same = *id == change.internal;
                    if let Some(line) = &mut change.after {
                        self.out.append(line);
                    }
                    self.change = self.changes.next()?;
                    if is_same {
                        self.next_line()?;
                    }
                }
                (None, Some(change)) => {
                    if let Some(line) = &mut change.after {
                        self.out.append(line);
                    }
                    self.change = self.changes.next()?;
                }
                (Some(_), _) => {
                    std::mem::swap(&mut self.out, &mut self.line);
                    self.next_line()?;
                }
            }
        }
        self.out.push(b'\n');
        Ok(true)
    }
}

impl Read for Merged<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < out.len() {
            if self.at == self.out.len() && !self.step()? {
                break;
            }
            let count = (self.out.len() - self.at).min(out.len() - filled);
            out[filled..filled + count].copy_from_slice(&self.out[self.at..self.at + count]);
            (self.at, filled) = (self.at + count, filled + count);
        }
        Ok(filled)
    }
}
