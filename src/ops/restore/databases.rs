//! What SQLite says of the databases that a restore laid down, and whether the blobs are there that a Convex database names.
//!
//! Nothing is written. Which files are databases is in the facts of the snapshot, so nothing is searched for. Memory is bounded: rows
//! come one after another. Not here: digests, which were compared before anything was written.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Error;
use crate::client::sqlite;
use crate::model::{ConvexFact, RelPath, SnapshotRecord, VolumeFacts};
use crate::ops::chain;
use crate::progress::{Event, Progress};
use crate::repository;

/// A database up to this size is checked without being asked for: a fraction of a second. Bytes.
pub const CHECKED_ANYWAY: u64 = 64 << 20;
/// Blobs that are missing and named.
const NAMED: usize = 20;

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DatabaseReport {
    /// Databases of which `PRAGMA integrity_check` found nothing.
    pub sound: u64,
    /// Larger ones, which nobody asked to check.
    pub unchecked: u64,
    /// Databases that are damaged: path, and what SQLite says.
    pub damaged: Vec<(String, Vec<String>)>,
    /// Files that begin like a database and that SQLite did not open when they were backed up either: they are as they were found.
    pub as_found: Vec<String>,
    /// Journals and logs that lie beside restored databases and are not theirs: of what was in the directory before.
    pub foreign: Vec<String>,
    /// Of a Convex volume.
    pub blobs: Option<BlobReport>,
}

/// The blobs that a Convex database names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct BlobReport {
    /// How many rows name one.
    pub named: u64,
    /// How many of those are not there.
    pub missing: u64,
    /// The first of them.
    pub first_missing: Vec<String>,
}

impl DatabaseReport {
    /// Whether nothing is wrong with what was looked at.
    pub fn is_sound(&self) -> bool {
        self.damaged.is_empty() && self.foreign.is_empty() && self.blobs.as_ref().is_none_or(|blobs| blobs.missing == 0)
    }
    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Checks the databases of a snapshot that was laid down in `into`: all of them, or those that are small. With `whole` everything
/// of the snapshot is there, so that what is missing is missed.
pub fn check_databases(
    record: &SnapshotRecord,
    into: &Path,
    (all, whole): (bool, bool),
    progress: &dyn Progress,
) -> Result<DatabaseReport, Error> {
    let mut report = DatabaseReport::default();
    if !matches!(record.kind.as_str(), "volume" | "sqlite") {
        return Ok(report);
    }
    let facts: VolumeFacts = serde_json::from_value(record.facts.clone()).unwrap_or_default();
    let convex = facts.convex.as_ref().filter(|_| whole);
    for fact in &facts.databases {
        if progress.cancelled() {
            return Err(repository::Error::Cancelled.into());
        }
        let Some(path) = place(into, &fact.path) else { continue };
        // SQLite would apply them to the restored file, and destroy it.
        let foreign = ["-wal", "-journal"].map(|tail| format!("{}{tail}", fact.path));
        report.foreign.extend(foreign.into_iter().filter(|name| place(into, name).is_some()));
        if !all && fact.bytes > CHECKED_ANYWAY {
            report.unchecked += 1;
            continue;
        }
        progress.event(Event::Stage("checking databases"));
        let problems = match sqlite::check(&path, &|| progress.cancelled()) {
            Err(e) if e.is_interrupted() => return Err(repository::Error::Cancelled.into()),
            found => found.unwrap_or_else(|e| vec![chain(&e)]),
        };
        if !problems.is_empty() && fact.note.is_some() {
            report.as_found.push(fact.path.clone());
            continue;
        }
        if !problems.is_empty() {
            report.damaged.push((fact.path.clone(), problems));
            continue;
        }
        report.sound += 1;
        if let Some(convex) = convex.filter(|convex| convex.database.as_deref() == Some(&fact.path)) {
            match find_blobs(&path, into, convex) {
                Ok(blobs) => report.blobs = Some(blobs),
                Err(e) => report.damaged.push((fact.path.clone(), vec![chain(&e)])),
            }
        }
    }
    Ok(report)
}

/// A regular file below `into`, and not behind a link that leads out of it.
fn place(into: &Path, path: &str) -> Option<PathBuf> {
    let path = RelPath::new(path.as_bytes().to_vec()).ok().filter(|path| !path.is_root())?;
    let place = into.join(path.to_string());
    let is_file = std::fs::symlink_metadata(&place).is_ok_and(|meta| meta.is_file());
    let inside = std::fs::canonicalize(&place).ok()?.starts_with(std::fs::canonicalize(into).ok()?);
    (is_file && inside).then_some(place)
}

fn find_blobs(database: &Path, into: &Path, convex: &ConvexFact) -> Result<BlobReport, sqlite::Error> {
    let mut report = BlobReport::default();
    sqlite::each_convex_blob(database, &mut |folder, key| {
        report.named += 1;
        let name = format!("{}/{folder}/{key}.blob", convex.storage);
        // A key is a name; one that is a path is in no folder.
        if key.is_empty() || key.contains('/') || place(into, &name).is_none() {
            report.missing += 1;
            if report.first_missing.len() < NAMED {
                report.first_missing.push(name);
            }
        }
    })?;
    Ok(report)
}
