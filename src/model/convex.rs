//! What a snapshot of a Convex deployment says of itself: facts in its record, and counts beside its members.

use serde::{Deserialize, Serialize};

/// The directory in a snapshot with what is in no export: environment variables, schemas, scheduled functions and the rest.
pub const PARTS_DIR: &str = ".lifeboat/convex";
/// The file below it that says which parts answered.
pub const PARTS: &str = "parts.json";
/// The file below it with the number of documents of every table.
pub const COUNTS: &str = "tables.json";
/// The file below it with the environment variables.
pub const ENVIRONMENT: &str = "environment_variables.json";

/// The kind of the snapshots that hold files alone: those that were made after a deployment's snapshot.
pub const FILES_KIND: &str = "convex-files";

/// What the record of such a snapshot says. Fields are only ever added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesFacts {
    /// The version of these words: 1.
    pub version: u32,
    /// The instance's name.
    pub instance: String,
    /// The database's time of the snapshot behind which these files were made: decimal text.
    pub base: String,
    /// How many.
    pub files: u64,
}

impl FilesFacts {
    /// The database's time of the snapshot; none where the text is no such number.
    pub fn base(&self) -> Option<i64> {
        self.base.parse().ok()
    }
}

/// What a snapshot's record says. Fields are only ever added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConvexFacts {
    /// The version of these words: 1.
    pub version: u32,
    /// The instance's name.
    pub instance: String,
    /// The database's own time that the documents show: nanoseconds since 1970, decimal, as JSON readers lose such numbers.
    pub start_ts: String,
    /// The export's document id on the server.
    pub export: String,
    /// The first of the export's members that is not in the uniform format: the server is older than that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_uniform: Option<String>,
    /// Tables that are stored.
    pub tables: u64,
    /// Their documents.
    pub documents: u64,
    /// Whether only some of the tables are stored.
    #[serde(default)]
    pub partial: bool,
    /// Files that are stored; none where they were not asked for.
    pub files: Option<u64>,
    /// Files that were deleted on the server before they could be fetched.
    #[serde(default)]
    pub files_deleted: u64,
}

impl ConvexFacts {
    /// The database's own time as a number; none where the text is no such number.
    pub fn timestamp(&self) -> Option<i64> {
        self.start_ts.parse().ok()
    }
}

/// A table as it was read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TableCount {
    /// The path of its component, `a/b`; empty for the root.
    pub component: String,
    /// Its name.
    pub table: String,
    /// Documents.
    pub documents: u64,
    /// Bytes of their lines.
    pub bytes: u64,
}

impl TableCount {
    /// `users`, or `component/users`.
    pub fn full_name(&self) -> String {
        match self.component.as_str() {
            "" => self.table.clone(),
            component => format!("{component}/{}", self.table),
        }
    }
}
