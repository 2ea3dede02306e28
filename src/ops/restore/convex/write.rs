//! The archive: members as they are stored, `_tables` with those tables alone that are in it. The same snapshot and wishes give the
//! same bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{DirBuilder, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::files::MoreFiles;
use super::{DeploymentRestore, SMALL_MAX};
use crate::catalog::WriterRow;
use crate::format::convex::{Part, component_prefix, place_of};
use crate::format::zip::{self, ZipError};
use crate::model::{Entry, Extent, RelPath};
use crate::ops::restore::each_selected;
use crate::ops::{Error, Selection};
use crate::progress::{Event, Progress};
use crate::repository::{ExtentReader, Repository};

/// Entries, and extents of them, that are fetched together.
const BATCH: usize = 256;
const BATCH_EXTENTS: usize = 100_000;

#[derive(Deserialize)]
struct TableLine {
    name: String,
    #[serde(default)]
    id: u64,
}

/// What stands beside the documents of a table whose values are written exactly.
const UNIFORM: &[u8] = b"\"uniform\"\n";

/// Where the members go.
enum Sink<W: Write> {
    Zip(Box<zip::Writer<W>>),
    /// A directory, with what is in no archive too; and what was written.
    Tree(PathBuf, Written),
}

/// The files that were written below a directory, with the BLAKE3 of each as it went out.
pub type Written = Vec<(PathBuf, blake3::Hash)>;

/// Digests what passes.
struct Digesting<'r>(&'r mut dyn Read, blake3::Hasher);

impl Read for Digesting<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.0.read(buffer)?;
        self.1.update(buffer.get(..read).unwrap_or_default());
        Ok(read)
    }
}

impl<W: Write> Sink<W> {
    fn add(&mut self, path: &str, deflate: bool, content: &mut dyn Read) -> Result<u64, ZipError> {
        let (root, written) = match self {
            Self::Zip(writer) => return writer.add(path, deflate, content),
            Self::Tree(root, written) => (root, written),
        };
        let wrong = |why: String| ZipError::Member { name: path.to_owned(), why };
        // Names of tables that are new come from the server.
        let below = RelPath::new(path.as_bytes()).map_err(|e| wrong(e.to_string()))?;
        let file = root.join(below.to_string());
        let mut write = || -> std::io::Result<u64> {
            if let Some(folder) = file.parent() {
                DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            }
            let mut output = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file)?;
            let mut content = Digesting(content, blake3::Hasher::new());
            let size = std::io::copy(&mut content, &mut output)?;
            output.sync_all()?;
            written.push((file.clone(), content.1.finalize()));
            Ok(size)
        };
        write().map_err(ZipError::Write)
    }
}

/// Writes the archive that a plan means.
pub fn write_zip<W: Write>(
    repository: &Repository,
    restore: &DeploymentRestore,
    output: W,
    progress: &dyn Progress,
) -> Result<W, Error> {
    progress.event(Event::Stage("writing the archive"));
    match write_all(repository, restore, Sink::Zip(Box::new(zip::Writer::new(output))), progress)? {
        Sink::Zip(writer) => Ok(writer.finish()?),
        Sink::Tree(..) => Err(ZipError::Archive("it is a directory".to_owned()).into()),
    }
}

/// Writes what a plan means below a directory that is there and empty: the archive's members as files.
pub fn write_tree(
    repository: &Repository,
    restore: &DeploymentRestore,
    root: &Path,
    progress: &dyn Progress,
) -> Result<Written, Error> {
    progress.event(Event::Stage("writing"));
    let tree = Sink::<std::io::Sink>::Tree(root.to_owned(), Vec::new());
    match write_all(repository, restore, tree, progress)? {
        Sink::Tree(_, written) => Ok(written),
        Sink::Zip(_) => Err(ZipError::Archive("it is an archive".to_owned()).into()),
    }
}

fn write_all<W: Write>(
    repository: &Repository,
    restore: &DeploymentRestore,
    archive: Sink<W>,
    progress: &dyn Progress,
) -> Result<Sink<W>, Error> {
    let items = restore.plan.tables.len() as u64 + restore.plan.files;
    progress.event(Event::Expect { items, bytes: restore.bytes() });
    let mut writing = Writing {
        repository,
        restore,
        writer: restore.snapshot.writer,
        archive,
        lists: BTreeSet::new(),
        file_lists: BTreeSet::new(),
        batch: Vec::new(),
        extents: 0,
        progress,
    };
    let all = Selection::new(&[], &[])?;
    each_selected(
        repository,
        &restore.snapshot,
        &all,
        progress,
        &mut |entry| match place_of(&entry.path.to_string()).1 {
            Part::FileList | Part::Blob(_) => Ok(()),
            _ => writing.take(entry),
        },
    )?;
    writing.flush()?;
    writing.add_new_tables()?;
    writing.writer = restore.files_from.writer;
    each_selected(
        repository,
        &restore.files_from,
        &all,
        progress,
        &mut |entry| match place_of(&entry.path.to_string()).1 {
            Part::FileList | Part::Blob(_) => writing.take(entry),
            _ => Ok(()),
        },
    )?;
    writing.flush()?;
    if let Some(more) = &restore.more {
        writing.add_more_lists(more)?;
        writing.writer = more.writer().unwrap_or(writing.writer);
        for entry in more.entries.values() {
            writing.take(entry.clone())?;
        }
        writing.flush()?;
    }
    Ok(writing.archive)
}

struct Writing<'w, W: Write> {
    repository: &'w Repository,
    restore: &'w DeploymentRestore,
    writer: WriterRow,
    archive: Sink<W>,
    /// Components whose list of tables is written.
    lists: BTreeSet<String>,
    /// Components whose list of files is written.
    file_lists: BTreeSet<String>,
    batch: Vec<(String, Entry)>,
    extents: usize,
    progress: &'w dyn Progress,
}

impl<W: Write> Writing<'_, W> {
    fn take(&mut self, entry: Entry) -> Result<(), Error> {
        let Some(content) = entry.content() else { return Ok(()) };
        let path = entry.path.to_string();
        let (component, part) = place_of(&path);
        let wanted = match part {
            Part::Tables => self.restore.plan.tables.iter().any(|table| table.component == component),
            Part::Documents(table) | Part::Schema(table) => self.restore.wants_table(&component, table),
            Part::FileList | Part::Blob(_) => self.restore.wants_files(&component),
            Part::Other => matches!(self.archive, Sink::Tree(..)),
        };
        if !wanted {
            return Ok(());
        }
        self.extents += content.extents.len();
        self.batch.push((path, entry));
        if self.batch.len() >= BATCH || self.extents >= BATCH_EXTENTS { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Error> {
        let contents = self.batch.iter().filter_map(|(_, entry)| entry.content());
        let extents: Vec<Extent> = contents.flat_map(|content| content.extents.iter().copied()).collect();
        let mut bytes = ExtentReader::new(self.repository, self.writer, "a restore", &extents, self.progress)?;
        for (path, entry) in std::mem::take(&mut self.batch) {
            let mut content = (&mut bytes).take(entry.size());
            let (component, part) = place_of(&path);
            let added = match part {
                Part::Tables => {
                    let mut text = Vec::new();
                    let read = (&mut content).take(SMALL_MAX as u64).read_to_end(&mut text);
                    let kept = read.ok().and_then(|_| self.kept(&component, &text));
                    let Some(kept) = kept else {
                        let why = format!("`{path}` is no list of tables");
                        let snapshot = self.restore.plan.snapshot.to_string();
                        let failure = bytes.take_failure().map(Error::from);
                        return Err(failure.unwrap_or(Error::BadDeploymentFacts { snapshot, why }));
                    };
                    self.lists.insert(component);
                    self.archive.add(&path, true, &mut kept.as_slice())
                }
                Part::Documents(table) if self.restore.changes_of(&component, table).is_some() => {
                    self.merge(&path, &component, table, Box::new(BufReader::with_capacity(256 << 10, &mut content)))
                }
                Part::Blob(_) => self.archive.add(&path, false, &mut content),
                Part::FileList => {
                    self.file_lists.insert(component.clone());
                    match &self.restore.more {
                        Some(more) => self.archive.add(&path, true, &mut more.within(&component, &mut content)),
                        None => self.archive.add(&path, true, &mut content),
                    }
                }
                _ => self.archive.add(&path, true, &mut content),
            };
            if let Err(e) = added {
                return Err(bytes.take_failure().map_or_else(|| e.into(), Error::from));
            }
            let counts = matches!(part, Part::Documents(_) | Part::Blob(_));
            self.progress.event(Event::Done { items: u64::from(counts), bytes: entry.size() });
        }
        self.extents = 0;
        Ok(())
    }

    /// Adds a table with its changes.
    fn merge(
        &mut self,
        path: &str,
        component: &str,
        table: &str,
        base: Box<dyn BufRead + '_>,
    ) -> Result<u64, ZipError> {
        let Some(folded) = self.restore.changes_of(component, table) else { return Ok(0) };
        let mut merged = folded.over(component, table, base).map_err(ZipError::Write)?;
        self.archive.add(path, true, &mut merged)
    }

    /// Adds the lists of files of components that had none.
    fn add_more_lists(&mut self, more: &MoreFiles) -> Result<(), Error> {
        let new = more.lists().filter(|(component, _)| !self.file_lists.contains(*component));
        for (component, lines) in new.filter(|(component, _)| self.restore.wants_files(component)) {
            let path = format!("{}_storage/documents.jsonl", component_prefix(component));
            self.archive.add(&path, true, &mut &*lines)?;
        }
        Ok(())
    }

    /// Adds the tables that were made since the snapshot.
    fn add_new_tables(&mut self) -> Result<(), Error> {
        let mut lists: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
        for (component, table, number) in self.restore.new_tables() {
            let folder = format!("{}{table}", component_prefix(component));
            self.merge(&format!("{folder}/documents.jsonl"), component, table, Box::new(std::io::empty()))?;
            self.archive.add(&format!("{folder}/generated_schema.jsonl"), true, &mut &*UNIFORM)?;
            lists.entry(component).or_default().extend(table_line(table, number));
        }
        for (component, list) in lists.into_iter().filter(|(component, _)| !self.lists.contains(*component)) {
            let path = format!("{}_tables/documents.jsonl", component_prefix(component));
            self.archive.add(&path, true, &mut list.as_slice())?;
        }
        Ok(())
    }

    /// The lines of the tables that are in the archive, by their numbers.
    fn kept(&self, component: &str, text: &[u8]) -> Option<Vec<u8>> {
        let mut kept: Vec<(u64, Vec<u8>)> = Vec::new();
        for line in text.split_inclusive(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
            let table: TableLine = serde_json::from_slice(line).ok()?;
            if self.restore.wants_table(component, &table.name) {
                kept.push((table.id, line.to_vec()));
            }
        }
        let new = self.restore.new_tables().into_iter().filter(|(of, _, _)| *of == component);
        kept.extend(new.map(|(_, table, number)| (u64::from(number), table_line(table, number))));
        kept.sort_by_key(|(id, _)| *id);
        Some(kept.into_iter().flat_map(|(_, line)| line).collect())
    }
}

/// A table's line in the list of its component.
pub(super) fn table_line(table: &str, number: u32) -> Vec<u8> {
    let name = serde_json::Value::from(table);
    format!("{{\"name\":{name},\"id\":{number}}}\n").into_bytes()
}
