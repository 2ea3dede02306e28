//! Looking into snapshots: lists, searches, differences, single files, sums. All but the list of snapshots need an identity.

use std::io::{Read, Write};

use serde::Serialize;

use super::restore::each_selected;
use super::{Error, Selection};
use crate::catalog::SnapshotRow;
use crate::model::{Entry, EntryKind, RelPath};
use crate::progress::Progress;
use crate::repository::{self, ExtentReader, Repository};

/// Calls `each` for the entries at or below a path: the path itself and, with `recursive`, all below it, else what lies
/// right in it.
pub fn ls(
    repository: &Repository,
    snapshot: &SnapshotRow,
    path: &RelPath,
    recursive: bool,
    progress: &dyn Progress,
    each: &mut dyn FnMut(&Entry) -> Result<(), Error>,
) -> Result<(), Error> {
    let depth = path.components().count();
    let mut found = false;
    let all = Selection::new(&[], &[])?;
    each_selected(repository, snapshot, &all, progress, &mut |entry| {
        let near = recursive || entry.path.components().count() <= depth + 1;
        if entry.path.is_within(path) {
            found = true;
            if near {
                each(&entry)?;
            }
        }
        Ok(())
    })?;
    if found { Ok(()) } else { Err(no_such_path(path, snapshot)) }
}

fn no_such_path(path: &RelPath, snapshot: &SnapshotRow) -> Error {
    Error::NoSuchPath { path: path.to_string(), snapshot: snapshot.record.id.to_string() }
}

/// Calls `each` for the entries that the patterns mean.
pub fn find(
    repository: &Repository,
    snapshot: &SnapshotRow,
    patterns: &[String],
    progress: &dyn Progress,
    each: &mut dyn FnMut(&Entry) -> Result<(), Error>,
) -> Result<(), Error> {
    let selection = Selection::new(patterns, &[])?;
    let all = Selection::new(&[], &[])?;
    each_selected(repository, snapshot, &all, progress, &mut |entry| {
        if selection.wants(&entry.path, entry.is_dir()) { each(&entry) } else { Ok(()) }
    })
}

/// Writes the bytes of one file. Returns how many.
pub fn dump(
    repository: &Repository,
    snapshot: &SnapshotRow,
    path: &RelPath,
    output: &mut dyn Write,
    progress: &dyn Progress,
) -> Result<u64, Error> {
    let entry = find_entry(repository, snapshot, path, progress)?;
    let entry = match &entry.kind {
        EntryKind::Hardlink { target } => find_entry(repository, snapshot, target, progress)?,
        _ => entry,
    };
    let content = entry.content().ok_or_else(|| Error::NotAFile(path.to_string()))?;
    let mut bytes = ExtentReader::new(repository, snapshot.writer, "a file", &content.extents, progress)?;
    let mut hasher = repository.content_key().hasher();
    let (mut buffer, mut written) = (vec![0; 256 << 10], 0);
    loop {
        let count = match bytes.read(&mut buffer) {
            Ok(count) => count,
            Err(_) => return Err(bytes.take_failure().unwrap_or(repository::Error::Pipeline).into()),
        };
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
        let io = |source| Error::Output { what: format!("`{path}`"), source };
        output.write_all(&buffer[..count]).map_err(io)?;
        written += count as u64;
    }
    let io = |source| Error::Output { what: format!("`{path}`"), source };
    output.flush().map_err(io)?;
    if *hasher.finalize().as_bytes() != *content.digest.as_bytes() {
        let why = format!("the bytes of `{path}` do not give its digest");
        return Err(repository::Error::Manifest { snapshot: snapshot.record.id.to_string(), why }.into());
    }
    Ok(written)
}

pub(super) fn find_entry(
    repository: &Repository,
    snapshot: &SnapshotRow,
    path: &RelPath,
    progress: &dyn Progress,
) -> Result<Entry, Error> {
    let mut manifest = repository.manifest(snapshot, progress)?;
    loop {
        match manifest.next_stored()? {
            Some(entry) if entry.path == *path => return Ok(entry),
            Some(entry) if entry.path < *path => {}
            _ => return Err(no_such_path(path, snapshot)),
        }
    }
}

/// The path of the only file of a snapshot, for sources that are one stream.
pub fn only_file(repository: &Repository, snapshot: &SnapshotRow, progress: &dyn Progress) -> Result<RelPath, Error> {
    let mut manifest = repository.manifest(snapshot, progress)?;
    match (manifest.next_stored()?, manifest.next_stored()?) {
        (Some(entry), None) if entry.content().is_some() => Ok(entry.path),
        _ => Err(Error::NotAFile(snapshot.record.source.clone())),
    }
}

/// What became of a path between two snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// Only in the second.
    Added,
    /// Only in the first.
    Removed,
    /// Other content, or another kind of thing.
    Modified,
    /// The same content with other metadata.
    Metadata,
}

/// Takes a change, and the entry before and after it.
pub type Differs<'f> = &'f mut dyn FnMut(Change, Option<&Entry>, Option<&Entry>) -> Result<(), Error>;

/// Calls `each` for every path that differs, in path order: the change, and the entry in the first and the second.
pub fn diff(
    repository: &Repository,
    first: &SnapshotRow,
    second: &SnapshotRow,
    progress: &dyn Progress,
    each: Differs<'_>,
) -> Result<(), Error> {
    let mut old = repository.manifest(first, progress)?;
    let mut new = repository.manifest(second, progress)?;
    let (mut a, mut b) = (old.next_stored()?, new.next_stored()?);
    loop {
        let order = match (&a, &b) {
            (None, None) => return Ok(()),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(x), Some(y)) => x.path.cmp(&y.path),
        };
        match order {
            std::cmp::Ordering::Less => {
                each(Change::Removed, a.as_ref(), None)?;
                a = old.next_stored()?;
            }
            std::cmp::Ordering::Greater => {
                each(Change::Added, None, b.as_ref())?;
                b = new.next_stored()?;
            }
            std::cmp::Ordering::Equal => {
                if let (Some(x), Some(y)) = (&a, &b)
                    && let Some(change) = compare(x, y)
                {
                    each(change, Some(x), Some(y))?;
                }
                a = old.next_stored()?;
                b = new.next_stored()?;
            }
        }
    }
}

fn compare(old: &Entry, new: &Entry) -> Option<Change> {
    let same_content = match (&old.kind, &new.kind) {
        (EntryKind::File(a), EntryKind::File(b)) => a.digest == b.digest && a.size == b.size,
        (a, b) => a == b,
    };
    if !same_content {
        return Some(Change::Modified);
    }
    let of = |e: &Entry| (e.mode, e.uid, e.gid, e.mtime, e.xattrs.clone());
    // A directory's time changes with what is in it, which is told already.
    if of(old) == of(new) || (old.is_dir() && (old.mode, old.uid, old.gid) == (new.mode, new.uid, new.gid)) {
        None
    } else {
        Some(Change::Metadata)
    }
}

/// Sums over a repository, by its logs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Snapshots.
    pub snapshots: u64,
    /// Writers.
    pub writers: u64,
    /// Packs.
    pub packs: u64,
    /// Stored bytes of packs.
    pub stored_bytes: u64,
    /// Frames.
    pub frames: u64,
    /// Plain bytes of frames: what is stored once.
    pub unique_bytes: u64,
    /// Bytes of all files of all snapshots: what could be restored.
    pub restorable_bytes: u64,
    /// Stored bytes of frames that no snapshot needs.
    pub unused_bytes: u64,
    /// Stored bytes of packs that are retired and not gone yet.
    pub retired_bytes: u64,
}

/// Counts.
pub fn stats(repository: &Repository) -> Result<Stats, Error> {
    let catalog = repository.catalog();
    let snapshots = catalog.snapshots()?;
    let mut stats = Stats {
        snapshots: snapshots.len() as u64,
        restorable_bytes: snapshots.iter().fold(0, |sum: u64, s| sum.saturating_add(s.record.bytes)),
        ..Stats::default()
    };
    for (writer, _) in catalog.writers()? {
        stats.writers += 1;
        let usage = catalog.usage(writer)?;
        for pack in catalog.packs(writer)?.into_iter().filter(|pack| !pack.deleted) {
            stats.packs += 1;
            stats.stored_bytes += pack.size;
            stats.retired_bytes += if pack.retired { pack.size } else { 0 };
            for frame in catalog.frames_of(pack.row)? {
                stats.frames += 1;
                stats.unique_bytes += frame.plain;
                let rows = catalog.rows_at(&frame)?;
                if !rows.into_iter().any(|row| usage.needs(row)) {
                    stats.unused_bytes += frame.stored;
                }
            }
        }
    }
    Ok(stats)
}
