//! The members of an export as entries of a snapshot: which are stored, in which order they are walked, and what is counted while they
//! are read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;

use super::entry;
use super::export::Snatched;
use super::files::{Files, ListReader};
use crate::format::convex::{Part, component_prefix, full_name, place_of};
use crate::format::zip::{Member, MemberReader, ZipError};
use crate::model::convex::PARTS_DIR;
use crate::model::{Digest, EntryKind, FileContent, Moment, RelPath, Stamp, TableCount};
use crate::source::{Body, Found, FoundEntry};

/// A list of tables at most: 10,000 of them.
const TABLES_MAX: u64 = 16 << 20;
/// What `generated_schema.jsonl` says where values are written exactly.
const UNIFORM: &[u8] = b"\"uniform\"";

/// What is stored of an export.
#[derive(Debug)]
pub(super) struct Members {
    file: Arc<File>,
    stored: BTreeMap<String, Member>,
    /// Lists of tables, with those alone that are stored.
    tables: BTreeMap<String, Vec<u8>>,
    /// The first table whose values are not written exactly.
    pub not_uniform: Option<String>,
    /// Whether tables were left out.
    pub partial: bool,
    /// `component/table` of all tables that are stored.
    pub names: BTreeSet<String>,
}

#[derive(Deserialize)]
struct TableLine {
    name: String,
}

impl Members {
    /// Sorts the members of an export.
    pub fn read(export: Snatched, wants: &dyn Fn(&str, &str) -> bool) -> Result<Self, ZipError> {
        let mut found = Self {
            file: Arc::new(export.file),
            stored: BTreeMap::new(),
            tables: BTreeMap::new(),
            not_uniform: None,
            partial: false,
            names: BTreeSet::new(),
        };
        for member in export.members {
            let wrong = |why: &str| ZipError::Member { name: member.name.clone(), why: why.to_owned() };
            let (component, part) = place_of(&member.name);
            match part {
                Part::Tables => {
                    let text = found.small(&member, TABLES_MAX)?;
                    let kept = keep_tables(&text, &|table| wants(&component, table));
                    let kept = kept.ok_or_else(|| wrong("is no list of tables"))?;
                    found.partial |= kept.len() < text.len();
                    found.tables.insert(member.name.clone(), kept);
                }
                Part::Documents(table) | Part::Schema(table) if wants(&component, table) => {
                    if RelPath::new(member.name.as_bytes()).is_err() {
                        return Err(wrong("has a name that leaves the archive"));
                    }
                    let full = full_name(&component, table);
                    if matches!(part, Part::Schema(_)) {
                        let text = found.small(&member, u64::MAX)?;
                        if found.not_uniform.is_none() && text.trim_ascii() != UNIFORM {
                            found.not_uniform = Some(full.clone());
                        }
                    }
                    found.names.insert(full);
                    if found.stored.insert(member.name.clone(), member.clone()).is_some() {
                        return Err(wrong("is there twice"));
                    }
                }
                _ => {}
            }
        }
        Ok(found)
    }

    /// The first bytes of a small member, checked if that is all of it.
    fn small(&self, member: &Member, limit: u64) -> Result<Vec<u8>, ZipError> {
        let wrong = |why: String| ZipError::Member { name: member.name.clone(), why };
        let limit = limit.min(TABLES_MAX);
        if member.size > limit {
            return Err(wrong(format!("has more than {limit} bytes")));
        }
        let mut text = Vec::new();
        let read = MemberReader::new(Arc::clone(&self.file), member).read_to_end(&mut text);
        read.map_err(|e| wrong(format!("cannot be read: {e}")))?;
        Ok(text)
    }

    /// Opens a member that is stored as it is.
    pub fn open(&self, path: &str) -> Option<MemberReader> {
        Some(MemberReader::new(Arc::clone(&self.file), self.stored.get(path)?))
    }
}

/// The lines of tables that are stored; none where one cannot be read.
fn keep_tables(text: &[u8], wants: &dyn Fn(&str) -> bool) -> Option<Vec<u8>> {
    let mut kept = Vec::with_capacity(text.len());
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let table: TableLine = serde_json::from_slice(line).ok()?;
        if wants(&table.name) {
            kept.extend_from_slice(line);
        }
    }
    Some(kept)
}

/// Whether a name fits a pattern, in which `*` is any run of characters.
pub fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name.strip_prefix(start).is_some_and(|tail| {
            let mut ends = tail.char_indices().map(|(at, _)| at).chain([tail.len()]);
            ends.any(|at| matches(rest, &tail[at..]))
        }),
    }
}

/// What a run passes on.
pub(super) enum Item {
    Dir(RelPath),
    Member(RelPath, u64),
    Made(RelPath, Vec<u8>),
    List(RelPath, u32),
    Blob(RelPath),
    Odd(RelPath, String),
}

impl Item {
    fn path(&self) -> &RelPath {
        match self {
            Self::Dir(path)
            | Self::Member(path, _)
            | Self::Made(path, _)
            | Self::List(path, _)
            | Self::Blob(path)
            | Self::Odd(path, _) => path,
        }
    }

    /// The entry. A blob's is the same as long as its bytes are: they never change under an id, and what stands for its inode
    /// is its digest.
    pub fn into_found(self, files: &Arc<Files>, now: Moment) -> Found {
        let with = |path: RelPath, size: u64, body: Option<Box<dyn Read + Send>>| {
            let mut found = FoundEntry::new(entry(path, empty_file(), now), size, false);
            found.body = Mutex::new(body.map(|bytes| Body { bytes, data: None }));
            Found::Entry(Box::new(found))
        };
        match self {
            Self::Dir(path) => Found::Entry(Box::new(FoundEntry::new(entry(path, EntryKind::Dir, now), 0, false))),
            Self::Member(path, size) => with(path, size, None),
            Self::Made(path, bytes) => with(path, bytes.len() as u64, Some(Box::new(Cursor::new(bytes)))),
            Self::List(path, component) => {
                // Its size is known once it was read.
                with(path, u64::MAX, Some(Box::new(ListReader::new(Arc::clone(files), component))))
            }
            Self::Odd(path, why) => Found::Skipped { path, why },
            Self::Blob(path) => {
                let text = path.to_string();
                let Some(file) = files.row(&text) else {
                    return Found::Skipped { path, why: "it is in no list".to_owned() };
                };
                let mut entry = entry(path, empty_file(), now);
                let ms = file.created_ms.clamp(-1.0e15, 1.0e15) as i64;
                entry.mtime = Stamp(ms.div_euclid(1000), (ms.rem_euclid(1000) * 1_000_000) as u32);
                let head: [u8; 8] = std::array::from_fn(|n| file.sha256[n]);
                (entry.ctime, entry.inode) = (Some(Stamp(0, 0)), Some(u64::from_be_bytes(head) >> 12));
                Found::Entry(Box::new(FoundEntry::new(entry, file.size, false)))
            }
        }
    }
}

/// A file whose content is still to be read.
pub(super) fn empty_file() -> EntryKind {
    EntryKind::File(FileContent { size: 0, digest: Digest::new([0; 32]), extents: Vec::new() })
}

/// Everything, in path order, each directory before what is in it.
pub(super) fn in_order(
    members: Option<&Members>,
    files: &Files,
    parts: BTreeMap<String, Vec<u8>>,
) -> Result<Vec<Item>, String> {
    let path = |text: &str| RelPath::new(text.as_bytes()).map_err(|e| e.to_string());
    let mut items = Vec::new();
    for (name, member) in members.iter().flat_map(|members| &members.stored) {
        items.push(Item::Member(path(name)?, member.size));
    }
    for (name, text) in members.iter().flat_map(|members| &members.tables) {
        items.push(Item::Made(path(name)?, text.clone()));
    }
    for (name, text) in parts {
        items.push(Item::Made(path(&format!("{PARTS_DIR}/{name}"))?, text));
    }
    for (number, component) in files.component_paths() {
        items.push(Item::List(path(&format!("{}_storage/documents.jsonl", component_prefix(component)))?, number));
    }
    for (name, _) in files.all() {
        items.push(Item::Blob(path(name)?));
    }
    // One that was understood in the other list is stored.
    for (name, why) in files.odd.iter().filter(|(name, _)| files.row(name).is_none()) {
        items.push(Item::Odd(path(name)?, why.clone()));
    }
    let mut dirs = BTreeSet::from([RelPath::root()]);
    for item in &items {
        let mut parent = item.path().parent();
        while let Some(dir) = parent {
            parent = dir.parent();
            if !dirs.insert(dir) {
                break;
            }
        }
    }
    items.extend(dirs.into_iter().map(Item::Dir));
    items.sort_by(|a, b| a.path().cmp(b.path()));
    match items.windows(2).find(|pair| pair[0].path() == pair[1].path()) {
        Some(pair) => Err(format!("`{}` is there twice", pair[0].path())),
        None => Ok(items),
    }
}

/// Counts the lines of a table while they are read, and remembers where that failed.
pub(super) struct Counting {
    inner: MemberReader,
    place: Option<(String, String)>,
    lines: u64,
    bytes: u64,
    last: u8,
    counts: Counts,
    broken: Arc<Mutex<Option<String>>>,
}

/// Tables as they were counted, by component and name.
pub(super) type Counts = Arc<Mutex<BTreeMap<(String, String), TableCount>>>;

impl Counting {
    pub fn new(inner: MemberReader, path: &str, counts: &Counts, broken: &Arc<Mutex<Option<String>>>) -> Self {
        let (component, part) = place_of(path);
        let place = match part {
            Part::Documents(table) => Some((component, table.to_owned())),
            _ => None,
        };
        let (counts, broken) = (Arc::clone(counts), Arc::clone(broken));
        Self { inner, place, lines: 0, bytes: 0, last: b'\n', counts, broken }
    }
}

/// Ends of lines. Counted in bytes, which a vector unit does many of at a time; 255 of them fit one.
fn lines_in(bytes: &[u8]) -> u64 {
    let ends = |part: &[u8]| part.iter().fold(0u8, |sum, byte| sum + u8::from(*byte == b'\n'));
    bytes.chunks(255).map(|part| u64::from(ends(part))).sum()
}

impl Read for Counting {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(out).inspect_err(|e| {
            let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
            broken.get_or_insert_with(|| e.to_string());
        })?;
        if let Some(last) = out[..count].last() {
            self.lines += lines_in(&out[..count]);
            (self.bytes, self.last) = (self.bytes + count as u64, *last);
        } else if !out.is_empty()
            && let Some((component, table)) = self.place.take()
        {
            let documents = self.lines + u64::from(self.last != b'\n');
            let found = TableCount { component: component.clone(), table: table.clone(), documents, bytes: self.bytes };
            self.counts.lock().unwrap_or_else(PoisonError::into_inner).insert((component, table), found);
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted() {
        let text = [b"\n".repeat(1000), b"x".repeat(700), b"a\n".repeat(300)].concat();
        for end in 0..text.len() {
            let expected = text[..end].iter().filter(|byte| **byte == b'\n').count() as u64;
            assert_eq!(lines_in(&text[..end]), expected);
        }
    }

    #[test]
    fn patterns_have_stars() {
        for (pattern, name, fits) in [
            ("users", "users", true),
            ("users", "users2", false),
            ("log*", "logs", true),
            ("*", "a/b", true),
            ("waitlist/*", "waitlist/entries", true),
            ("waitlist/*", "entries", false),
            ("*_old", "users_old", true),
            ("*_old", "users_older", false),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }

    #[test]
    fn the_list_of_tables_holds_what_is_stored() {
        let text = b"{\"name\":\"a\",\"id\":10001}\n{\"name\":\"b\",\"id\":10002}\n";
        assert_eq!(keep_tables(text, &|_| true).as_deref(), Some(&text[..]));
        assert_eq!(keep_tables(text, &|name| name == "b").as_deref(), Some(&text[24..]));
        assert_eq!(keep_tables(b"[1]\n", &|_| true), None);
    }
}
