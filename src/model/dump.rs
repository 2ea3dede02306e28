//! What a snapshot of dumps says of itself: `lifeboat-dump.json` beside them.

use serde::{Deserialize, Serialize};

use super::Moment;

/// The file's name.
pub const DUMP_INFO: &str = "lifeboat-dump.json";
/// The file with roles and tablespaces.
pub const GLOBALS: &str = "globals.sql";

/// How a database is dumped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DumpFormat {
    /// One file for `pg_restore`, not compressed.
    #[default]
    Custom,
    /// A directory with a file a table, for `pg_restore`, not compressed.
    Directory,
    /// SQL for `psql`.
    Plain,
}

/// All dumps of a snapshot. Fields are only ever added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DumpInfo {
    /// The version of this text: 1.
    pub version: u32,
    /// How the databases were dumped.
    pub format: DumpFormat,
    /// The server's version, in its own words.
    pub server_version: String,
    /// The same as a number: 150018 is 15.18.
    pub server_version_num: u32,
    /// The version of `pg_dump`.
    pub pg_dump_version: String,
    /// The file with roles and tablespaces, where they were asked for.
    pub globals: Option<String>,
    /// The databases, in the order in which they were dumped.
    pub databases: Vec<DatabaseInfo>,
}

/// One database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseInfo {
    /// Its name.
    pub name: String,
    /// Its file or directory in the snapshot.
    pub path: String,
    /// `UTF8`
    pub encoding: String,
    /// Its collation.
    pub collate: String,
    /// Its classification of characters.
    pub ctype: String,
    /// Its owner.
    pub owner: String,
    /// The moment that the dump and the counts show, by the server's clock; none where none was held.
    pub taken: Option<Moment>,
    /// Its tables; none where rows were not counted.
    pub tables: Option<Vec<TableRows>>,
}

/// How many rows a table holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TableRows {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub table: String,
    /// Rows.
    pub rows: u64,
}
