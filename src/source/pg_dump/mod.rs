//! Databases of a PostgreSQL server as dumps: one file or directory a database, the roles and tablespaces beside them, and
//! `lifeboat-dump.json`, which says what they are.
//!
//! Each database is dumped from an exported snapshot, and its rows are counted in the same snapshot, so that a restore can
//! be compared with what was dumped. Dumps are not compressed by PostgreSQL: what has not changed then deduplicates.
//! Invariant: a dump that fails, prints an error or loses its server makes no snapshot. Not here: restoring.

mod take;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Body, Error, Found, FoundEntry, Opened, Source};
use crate::client::{self, Connection, Leash};
use crate::model::{Cutting, DumpFormat, Entry, Moment, RawText};
use crate::progress::Progress;

/// Which databases.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Databases {
    /// The one that the connection or PGDATABASE names; where none is named, all.
    #[default]
    OfConnection,
    /// All that allow connections and are no templates.
    All,
    /// These.
    Named(Vec<String>),
}

/// What is kept of roles and tablespaces.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Globals {
    /// All of it.
    #[default]
    All,
    /// Without the passwords of roles, which are not for everybody.
    NoPasswords,
    /// Nothing.
    None,
}

/// What is dumped, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PgDumpOptions {
    /// The server.
    pub connection: Connection,
    /// A file with the password.
    pub password_file: Option<PathBuf>,
    /// Which databases.
    pub databases: Databases,
    /// How.
    pub format: DumpFormat,
    /// Roles and tablespaces.
    pub globals: Globals,
    /// Counts rows.
    pub row_counts: bool,
    /// Patterns of tables to leave out.
    pub exclude_tables: Vec<String>,
    /// Patterns of schemas to take alone.
    pub schemas: Vec<String>,
    /// Tables that are dumped at a time, in the directory format.
    pub jobs: Option<u32>,
    /// Where PostgreSQL's programs lie.
    pub bin_dir: Option<PathBuf>,
    /// Where the directory format is written before it is stored.
    pub work_dir: Option<PathBuf>,
    /// Further arguments for `pg_dump`.
    pub extra_args: Vec<String>,
}

impl PgDumpOptions {
    /// Everything of what a connection names.
    pub fn new(connection: Connection) -> Self {
        Self {
            connection,
            password_file: None,
            databases: Databases::default(),
            format: DumpFormat::default(),
            globals: Globals::default(),
            row_counts: true,
            exclude_tables: Vec::new(),
            schemas: Vec::new(),
            jobs: None,
            bin_dir: None,
            work_dir: None,
            extra_args: Vec::new(),
        }
    }
}

/// Databases to dump.
pub struct PgDumpSource {
    options: PgDumpOptions,
    now: Moment,
    progress: Arc<dyn Progress>,
    leash: Leash,
}

impl PgDumpSource {
    /// A source over a server; nothing is asked of it yet. What programs warn of goes to `progress`.
    pub fn new(mut options: PgDumpOptions, now: Moment, progress: Arc<dyn Progress>) -> Result<Self, Error> {
        if let Some(path) = &options.password_file {
            let fail = |source| client::Error::Io { doing: "read the password file", path: path.clone(), source };
            let text = std::fs::read_to_string(path).map_err(fail)?;
            options.connection = options.connection.with_password(text.trim_end_matches(['\r', '\n']).to_owned());
        }
        Ok(Self { options, now, progress, leash: Leash::default() })
    }
}

/// What a run would begin with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Live {
    /// The server, without its password.
    pub server: String,
    /// Its version.
    pub version: String,
    /// The databases that would be dumped.
    pub databases: Vec<String>,
    /// The programs that would dump them.
    pub programs: Vec<client::Program>,
}

impl PgDumpSource {
    /// Connects and looks for the programs, as a run does first. Nothing is dumped.
    pub fn look_live(&self) -> Result<Live, Error> {
        take::look_live(self)
    }
}

impl Source for PgDumpSource {
    fn kind(&self) -> &'static str {
        "pg_dump"
    }

    fn root(&self) -> String {
        self.options.connection.to_string()
    }

    fn walk(&self, each: &mut dyn FnMut(Found) -> bool) -> Result<(), Error> {
        take::walk(self, each)
    }

    fn open(&self, found: &FoundEntry) -> Result<Opened<'_>, String> {
        let body = found.body.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Body { bytes, data } = body.ok_or("it was read already")?;
        let (cutting, size) = (Cutting::Fine, found.size);
        Ok(Opened { file: bytes, data, cutting, xattrs: BTreeMap::new(), size, changed: Box::new(|| None) })
    }

    fn xattrs(&self, _entry: &Entry) -> BTreeMap<String, RawText> {
        BTreeMap::new()
    }

    fn cancel(&self) {
        self.leash.pull();
    }

    /// The last file says what all others are: it comes last, wherever its name stands.
    fn is_ordered(&self) -> bool {
        false
    }

    fn finish(&self) -> Result<(), Error> {
        // The walk itself ends only when every program has ended well.
        if self.leash.is_pulled() { Err(client::Error::GivenUp.into()) } else { Ok(()) }
    }
}

fn with_body(entry: Entry, size: u64, bytes: Box<dyn Read + Send>) -> Found {
    let mut found = FoundEntry::new(entry, size, false);
    found.body = Mutex::new(Some(Body { bytes, data: None }));
    Found::Entry(Box::new(found))
}
