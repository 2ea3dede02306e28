//! What a snapshot of a volume says of the SQLite databases in it, and of what was left out: the `facts` of its record.

use serde::{Deserialize, Serialize};

use super::Stamp;

/// Databases that the facts name at most; the others are in the snapshot all the same.
pub const DATABASES_NAMED: usize = 1000;

/// The facts of a volume, or of a single database.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeFacts {
    /// The databases, in path order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub databases: Vec<DatabaseFact>,
    /// Databases beyond those that are named.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_databases: u64,
    /// Its files are blobs that rows of another source name: written before the row, and never deleted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub blobs: bool,
    /// What was recognised, where it was: the data directory of a Convex backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub convex: Option<ConvexFact>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The data directory of a Convex backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConvexFact {
    /// Its database, below the volume's root; none where the documents are in PostgreSQL or MySQL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// Its blobs, below the volume's root.
    pub storage: String,
    /// Patterns of what is left out.
    pub left_out: Vec<String>,
}

/// One database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseFact {
    /// Below the volume's root.
    pub path: String,
    /// Bytes of what is stored.
    pub bytes: u64,
    /// How it was had.
    pub how: How,
    /// The longest time for which a writer would have had to wait, in milliseconds.
    pub held_ms: u64,
    /// What the file was like when it was captured, where that says whether it has changed since: not where a log or a journal
    /// beside it was part of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Seen>,
    /// Why it is stored as it was found, where it begins like a database and SQLite does not open it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What tells an unchanged file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Bytes.
    pub size: u64,
    /// When its content changed.
    pub mtime: Stamp,
    /// When its inode changed.
    pub ctime: Stamp,
    /// Its number.
    pub inode: u64,
}

/// How a database was had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// Copied, and compared under a lock until nothing differed.
    Copy,
    /// Cloned by the file system.
    Clone,
    /// With its write-ahead log, while checkpoints waited.
    Log,
    /// It had not changed since the snapshot before.
    Unchanged,
    /// An old writer's journal or log was applied to the copy.
    Recovered,
}
