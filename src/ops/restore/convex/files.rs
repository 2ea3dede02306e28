//! The files that a follower stored after the snapshot that files come from: those that it does not have itself.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Cursor, Read};

use serde::Deserialize;

use super::file_of;
use crate::catalog::{SnapshotRow, WriterRow};
use crate::format::convex::{Part, component_prefix, place_of};
use crate::model::Entry;
use crate::ops::restore::each_selected;
use crate::ops::{Error, Selection};
use crate::progress::Progress;
use crate::repository::Repository;

/// Files beside those of another snapshot.
pub(super) struct MoreFiles {
    /// Where they are, the newest first; all of one writer.
    from: Vec<SnapshotRow>,
    /// By path; those that the other snapshot has are taken out.
    pub entries: BTreeMap<String, Entry>,
    /// Lines of the list of files by component.
    lines: BTreeMap<String, Vec<u8>>,
}

#[derive(Deserialize)]
struct FileLine {
    #[serde(rename = "_id")]
    id: String,
}

/// A component's list of files that were made between two snapshots at most: some three million of them.
const LIST_MAX: usize = 1 << 30;

impl MoreFiles {
    /// All that snapshots of files have.
    pub fn read(repository: &Repository, from: Vec<SnapshotRow>, progress: &dyn Progress) -> Result<Self, Error> {
        let (mut entries, all) = (BTreeMap::new(), Selection::new(&[], &[])?);
        for row in &from {
            each_selected(repository, row, &all, progress, &mut |entry| {
                let path = entry.path.to_string();
                if matches!(place_of(&path).1, Part::Blob(_)) && entry.content().is_some() {
                    entries.entry(path).or_insert(entry);
                }
                Ok(())
            })?;
        }
        Ok(Self { from, entries, lines: BTreeMap::new() })
    }

    /// Whose they are.
    pub fn writer(&self) -> Option<WriterRow> {
        self.from.first().map(|row| row.writer)
    }

    /// Reads the lines of those that were left.
    pub fn settle(&mut self, repository: &Repository, progress: &dyn Progress) -> Result<(), Error> {
        let mut wanted: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for path in self.entries.keys() {
            if let (component, Part::Blob(id)) = place_of(path) {
                wanted.entry(component).or_default().insert(id.to_owned());
            }
        }
        for (component, mut ids) in wanted {
            let path = format!("{}_storage/documents.jsonl", component_prefix(&component));
            let mut lines: BTreeMap<String, Vec<u8>> = BTreeMap::new();
            for row in &self.from {
                if ids.is_empty() {
                    break;
                }
                let Some(text) = file_of(repository, row, &path, LIST_MAX, progress)? else { continue };
                for line in text.split_inclusive(|byte| *byte == b'\n') {
                    let id = serde_json::from_slice::<FileLine>(line).map(|line| line.id).unwrap_or_default();
                    if ids.remove(&id) {
                        lines.insert(id, line.to_vec());
                    }
                }
            }
            self.lines.insert(component, lines.into_values().flatten().collect());
        }
        Ok(())
    }

    /// A component's list with the lines of these files in their places.
    pub fn within<'l>(&'l self, component: &str, list: &'l mut dyn Read) -> WithLines<'l> {
        let more = self.lines.get(component).map_or(&[][..], Vec::as_slice);
        WithLines { list: BufReader::with_capacity(64 << 10, list), head: None, more, out: Cursor::default() }
    }

    /// Lines by component.
    pub fn lists(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.lines.iter().map(|(component, lines)| (component.as_str(), lines.as_slice()))
    }
}

/// Two lists in the order of their ids as one.
pub(super) struct WithLines<'l> {
    list: BufReader<&'l mut dyn Read>,
    head: Option<Vec<u8>>,
    more: &'l [u8],
    out: Cursor<Vec<u8>>,
}

/// A line of a list of files at most.
const LINE_MAX: u64 = 1 << 20;

fn id_of(line: &[u8]) -> std::io::Result<String> {
    Ok(serde_json::from_slice::<FileLine>(line).map_err(std::io::Error::other)?.id)
}

impl WithLines<'_> {
    fn step(&mut self) -> std::io::Result<bool> {
        if self.head.is_none() {
            let mut line = Vec::new();
            (&mut self.list).take(LINE_MAX).read_until(b'\n', &mut line)?;
            self.head = Some(line).filter(|line| !line.is_empty());
        }
        let length = self.more.iter().position(|byte| *byte == b'\n').map_or(self.more.len(), |end| end + 1);
        let (next, rest) = self.more.split_at(length);
        let line = match &self.head {
            None if next.is_empty() => return Ok(false),
            Some(head) if next.is_empty() || id_of(head)? < id_of(next)? => self.head.take().unwrap_or_default(),
            _ => {
                self.more = rest;
                next.to_vec()
            }
        };
        self.out = Cursor::new(line);
        Ok(true)
    }
}

impl Read for WithLines<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        loop {
            let count = self.out.read(out)?;
            if count > 0 || out.is_empty() || !self.step()? {
                return Ok(count);
            }
        }
    }
}
