//! The local SQLite index of a repository: a cache of its logs and pack directories.
//!
//! Invariants: nothing is in it that is not in the store, but for what this host saw itself (when it read a pack, how its last check
//! and its last looks at servers went) and would see again: it may be deleted at any time or be a month old; every change is one transaction; two processes may use one file. It decides nothing and talks to no store. SQL lives in
//! `catalog/` at the top of the project; here are the statements that read and write it.

mod drills;
mod ingest;
mod lookup;
mod packs;
mod received;
mod retired;
mod segments;
mod sights;
mod snapshots;
mod usage;

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

pub use drills::DrillRow;
pub use ingest::{ChunkTables, CommitAt, Ingested};
pub use lookup::{FrameRow, FrameState};
pub use packs::{PackRow, PackState, pack_key};
pub use retired::{Retired, RetiredObject};
pub use snapshots::{BriefRow, SnapshotRow, SparseRow};
pub use usage::{PackUse, Usage};

use crate::model::CommitId;

/// Each migration with its number; the last one leads to `catalog/schema.sql`.
const MIGRATIONS: &[(i64, &str)] = &[
    (1, include_str!("../../catalog/0001-first.sql")),
    (2, include_str!("../../catalog/0002-repair.sql")),
    (3, include_str!("../../catalog/0003-streams.sql")),
    (4, include_str!("../../catalog/0004-retention.sql")),
    (5, include_str!("../../catalog/0005-prune.sql")),
    (6, include_str!("../../catalog/0006-drills.sql")),
    (7, include_str!("../../catalog/0007-heads.sql")),
    (8, include_str!("../../catalog/0008-sights.sql")),
];

/// The whole schema, for the test that proves that the migrations meet it.
pub const SCHEMA: &str = include_str!("../../catalog/schema.sql");

/// What went wrong with the catalog.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// SQLite says no.
    #[error("could not {doing} the catalog `{}`", path.display())]
    Sqlite {
        /// `open`, `read` or `write`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// SQLite's words.
        source: rusqlite::Error,
    },
    /// The file was made by a later version.
    #[error("the catalog `{}` has schema {found}, newer than this lifeboat's {known}", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The newest known here.
        known: i64,
    },
    /// Its content contradicts itself.
    #[error("the catalog `{}` contradicts itself: {why}", path.display())]
    Inconsistent {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        why: String,
    },
    /// A commit refers to what its log does not hold.
    #[error("commit {sequence} of writer `{writer}` does not fit its log: {why}")]
    BadCommit {
        /// The writer.
        writer: String,
        /// The commit's place.
        sequence: u64,
        /// What does not fit.
        why: String,
    },
}

impl Error {
    /// The catalog that cannot be used, where that is what is wrong.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Sqlite { path, .. } | Self::Newer { path, .. } | Self::Inconsistent { path, .. } => Some(path),
            Self::BadCommit { .. } => None,
        }
    }

    /// Whether the disk under the catalog refused: it is full, or fails. Making the catalog anew would not help.
    pub fn is_of_the_disk(&self) -> bool {
        use rusqlite::ErrorCode as C;
        let code = match self {
            Self::Sqlite { source, .. } => source.sqlite_error_code(),
            _ => None,
        };
        matches!(code, Some(C::DiskFull | C::SystemIoFailure | C::CannotOpen | C::ReadOnly))
    }
}

/// An open catalog. One connection, one thread; other processes may have their own.
#[derive(Debug)]
pub struct Catalog {
    db: Connection,
    path: PathBuf,
}

/// A row number of the table `writer`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WriterRow(i64);

/// A commit's place in a writer's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Head {
    /// From 1.
    pub sequence: u64,
    /// Its name.
    pub digest: CommitId,
}

impl Catalog {
    /// Opens the file, makes it where there is none, and migrates it up. A newer schema is refused by name.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let fail = |source| Error::Sqlite { doing: "open", path: path.to_owned(), source };
        let db = Connection::open(path).map_err(fail)?;
        Self::prepare(db, path)
    }

    /// A catalog that lives as long as the process: for readers on a bare machine, and for tests.
    pub fn in_memory() -> Result<Self, Error> {
        let path = Path::new(":memory:");
        let db = Connection::open_in_memory();
        Self::prepare(db.map_err(|source| Error::Sqlite { doing: "open", path: path.to_owned(), source })?, path)
    }

    fn prepare(db: Connection, path: &Path) -> Result<Self, Error> {
        let mut catalog = Self { db, path: path.to_owned() };
        let fail = |source| Error::Sqlite { doing: "open", path: path.to_owned(), source };
        catalog.db.busy_timeout(Duration::from_secs(60)).map_err(fail)?;
        // WAL lets readers go on while a backup commits. synchronous=NORMAL may lose the last transaction in a power
        // cut, which the log in the store still has: the next run reads it from there.
        catalog.enter_wal().map_err(fail)?;
        catalog.db.execute_batch("PRAGMA synchronous = NORMAL; PRAGMA cache_size = -16000;").map_err(fail)?;
        catalog.db.set_prepared_statement_cache_capacity(64);
        // Plans must not depend on what is bound: without this SQLite plans a cached statement anew at each value.
        catalog.db.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map_err(fail)?;
        catalog.migrate()?;
        Ok(catalog)
    }

    /// Changing the journal's mode needs the file alone, and SQLite does not wait for that: two processes that make one
    /// catalog at once take turns here.
    fn enter_wal(&self) -> rusqlite::Result<()> {
        let mode = |sql: &str| self.db.query_row(sql, [], |row| row.get::<_, String>(0));
        for _ in 0..400 {
            match mode("PRAGMA journal_mode") {
                Ok(mode) if mode == "wal" || mode == "memory" => return Ok(()),
                _ => match mode("PRAGMA journal_mode = WAL") {
                    Err(rusqlite::Error::SqliteFailure(e, _)) if e.code == rusqlite::ErrorCode::DatabaseBusy => {
                        std::thread::sleep(Duration::from_millis(25));
                    }
                    other => return other.map(drop),
                },
            }
        }
        mode("PRAGMA journal_mode = WAL").map(drop)
    }

    fn migrate(&mut self) -> Result<(), Error> {
        let path = self.path.clone();
        let fail = |source| Error::Sqlite { doing: "open", path: path.clone(), source };
        let version = |db: &Connection| db.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0));
        let newest = MIGRATIONS.last().map_or(0, |(number, _)| *number);
        let found = version(&self.db).map_err(fail)?;
        if found > newest {
            return Err(Error::Newer { path, found, known: newest });
        }
        if found == newest {
            return Ok(());
        }
        // Asked again inside the transaction: another process may have migrated meanwhile.
        let transaction = self.db.transaction_with_behavior(TransactionBehavior::Immediate).map_err(fail)?;
        let found = version(&transaction).map_err(fail)?;
        for (number, sql) in MIGRATIONS.iter().filter(|(number, _)| *number > found) {
            transaction.execute_batch(sql).map_err(fail)?;
            transaction.pragma_update(None, "user_version", number).map_err(fail)?;
        }
        transaction.commit().map_err(fail)
    }

    fn read<T>(&self, query: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, Error> {
        query(&self.db).map_err(|source| Error::Sqlite { doing: "read", path: self.path.clone(), source })
    }

    /// From now on, until [`Catalog::end_reading`], everything that is read is of one moment. Many small questions cost a
    /// fraction of what they cost one by one, each with its locks; but SQLite's log grows while somebody reads for long.
    pub fn begin_reading(&self) -> Result<(), Error> {
        self.read(|db| if db.is_autocommit() { db.execute_batch("BEGIN") } else { Ok(()) })
    }

    /// Does some work whose questions are all answered as of one moment.
    pub fn at_one_moment<T, E: From<Error>>(&self, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        self.begin_reading()?;
        let result = work();
        self.end_reading()?;
        result
    }

    /// Ends it.
    pub fn end_reading(&self) -> Result<(), Error> {
        self.read(|db| if db.is_autocommit() { Ok(()) } else { db.execute_batch("COMMIT") })
    }

    fn write<T>(&mut self, change: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, Error> {
        let fail = |source| Error::Sqlite { doing: "write", path: self.path.clone(), source };
        let transaction = self.db.transaction_with_behavior(TransactionBehavior::Immediate).map_err(fail)?;
        let value = change(&transaction).map_err(fail)?;
        transaction.commit().map_err(fail)?;
        Ok(value)
    }

    fn inconsistent(&self, why: impl Into<String>) -> Error {
        Error::Inconsistent { path: self.path.clone(), why: why.into() }
    }

    /// Keeps little of the file in memory from now on: for who reads it once and lives long.
    pub fn spare_memory(&self) -> Result<(), Error> {
        self.read(|db| db.execute_batch("PRAGMA cache_size = -1000; PRAGMA shrink_memory"))
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A remembered fact.
    pub fn fact(&self, name: &str) -> Result<Option<String>, Error> {
        self.read(|db| {
            db.prepare_cached("SELECT value FROM meta WHERE name = ?1")?.query_row([name], |row| row.get(0)).optional()
        })
    }

    /// Remembers a fact.
    pub fn set_fact(&mut self, name: &str, value: &str) -> Result<(), Error> {
        self.write(|db| {
            db.execute("INSERT OR REPLACE INTO meta (name, value) VALUES (?1, ?2)", [name, value]).map(|_| ())
        })
    }

    /// The row of a writer, made where there is none.
    pub fn writer(&mut self, name: &str) -> Result<WriterRow, Error> {
        let find = |db: &Connection| {
            let mut find = db.prepare_cached("SELECT id FROM writer WHERE name = ?1")?;
            find.query_row([name], |row| row.get(0)).map(WriterRow).optional()
        };
        if let Some(found) = self.read(find)? {
            return Ok(found);
        }
        self.write(|db| {
            db.execute("INSERT OR IGNORE INTO writer (name) VALUES (?1)", [name])?;
            find(db)?.ok_or(rusqlite::Error::QueryReturnedNoRows)
        })
    }

    /// Every writer that was seen, by name.
    pub fn writers(&self) -> Result<Vec<(WriterRow, String)>, Error> {
        self.read(|db| {
            let mut rows = db.prepare_cached("SELECT id, name FROM writer ORDER BY name")?;
            rows.query_map([], |row| Ok((WriterRow(row.get(0)?), row.get(1)?)))?.collect()
        })
    }

    /// The newest commits of a writer's branches: one, or more after a fork, or none.
    pub fn heads(&self, writer: WriterRow) -> Result<Vec<Head>, Error> {
        self.read(|db| {
            let mut rows = db.prepare_cached(
                "SELECT sequence, digest FROM log_commit c WHERE writer = ?1 AND readable = 1
                 AND NOT EXISTS (SELECT 1 FROM commit_parent p WHERE p.parent = c.digest) ORDER BY sequence, digest",
            )?;
            rows.query_map([writer.0], read_head)?.collect()
        })
    }

    /// The commit with the highest place: of those that were read, or where none was, of those known by name.
    pub fn newest(&self, writer: WriterRow) -> Result<Option<Head>, Error> {
        self.read(|db| {
            let sql = "SELECT sequence, digest FROM log_commit WHERE writer = ?1
                       ORDER BY readable DESC, sequence DESC, digest LIMIT 1";
            db.prepare_cached(sql)?.query_row([writer.0], read_head).optional()
        })
    }

    /// Whether a commit of a writer is known, read or by name only.
    pub fn knows(&self, writer: WriterRow, digest: &CommitId) -> Result<bool, Error> {
        self.read(|db| {
            let sql = "SELECT EXISTS (SELECT 1 FROM log_commit WHERE digest = ?1 AND writer = ?2)";
            db.prepare_cached(sql)?.query_row(rusqlite::params![digest.as_bytes(), writer.0], |row| row.get(0))
        })
    }

    /// Whether a commit of a writer was read.
    pub fn has_read(&self, writer: WriterRow, digest: &CommitId) -> Result<bool, Error> {
        self.read(|db| {
            let sql = "SELECT EXISTS (SELECT 1 FROM log_commit WHERE digest = ?1 AND writer = ?2 AND readable = 1)";
            db.prepare_cached(sql)?.query_row(rusqlite::params![digest.as_bytes(), writer.0], |row| row.get(0))
        })
    }

    /// The parents of a commit of a writer that was read; `None` where it was not.
    pub fn parents(&self, writer: WriterRow, digest: &CommitId) -> Result<Option<Vec<CommitId>>, Error> {
        if !self.has_read(writer, digest)? {
            return Ok(None);
        }
        self.read(|db| {
            let sql = "SELECT p.parent FROM commit_parent p JOIN log_commit c ON c.id = p.child WHERE c.digest = ?1";
            let mut rows = db.prepare_cached(sql)?;
            let parents = rows.query_map([digest.as_bytes()], |row| Ok(CommitId::new(row.get(0)?)))?;
            parents.collect::<Result<_, _>>().map(Some)
        })
    }

    /// What commits say that they have seen of writers, and this catalog has not: a witness, a writer, a commit.
    pub fn unseen(&self) -> Result<Vec<(String, String, Head)>, Error> {
        self.read(|db| {
            let mut rows = db.prepare_cached(
                "SELECT w.name, s.writer, s.sequence, s.digest FROM seen s JOIN writer w ON w.id = s.witness
                 WHERE NOT EXISTS (SELECT 1 FROM log_commit c WHERE c.digest = s.digest) ORDER BY 2, 3",
            )?;
            let rows = rows.query_map([], |row| {
                let head = Head { sequence: row.get::<_, i64>(2)? as u64, digest: CommitId::new(row.get(3)?) };
                Ok((row.get(0)?, row.get(1)?, head))
            })?;
            rows.collect()
        })
    }

    /// Every commit of a writer, in the order of the log: those that were read, or those that are known by name only.
    pub fn commits(&self, writer: WriterRow, readable: bool) -> Result<Vec<Head>, Error> {
        self.read(|db| {
            let sql = "SELECT sequence, digest FROM log_commit WHERE writer = ?1 AND readable = ?2
                       ORDER BY sequence, digest";
            db.prepare_cached(sql)?.query_map(rusqlite::params![writer.0, readable], read_head)?.collect()
        })
    }

    /// Commits that their own writer says are lost.
    pub fn lost(&self, writer: WriterRow) -> Result<std::collections::HashSet<CommitId>, Error> {
        self.read(|db| {
            let mut rows = db.prepare_cached("SELECT digest FROM lost WHERE writer = ?1")?;
            rows.query_map([writer.0], |row| Ok(CommitId::new(row.get(0)?)))?.collect()
        })
    }

    /// A digest over all that the logs of some writers say, whatever rows it stands in: equal for two catalogs of one
    /// repository.
    pub fn said_by_logs(&self, writers: &[String]) -> Result<blake3::Hash, Error> {
        const QUERIES: &[&str] = &[
            "SELECT w.name, hex(c.digest), c.sequence, c.first_frame, c.frames FROM log_commit c
             JOIN writer w ON w.id = c.writer WHERE c.readable = 1 ORDER BY 1, 2",
            "SELECT w.name, hex(p.name), p.size, p.directory_at, p.directory_length || p.kind || hex(p.recipients)
             FROM pack p JOIN writer w ON w.id = p.writer ORDER BY 1, 2",
            "SELECT w.name, hex(f.name), f.number, f.at || '+' || f.stored || ':' || f.plain, hex(p.name)
             FROM frame f JOIN pack p ON p.id = f.pack JOIN writer w ON w.id = f.writer ORDER BY 1, 3, 4, 5",
            "SELECT w.name, s.id, s.ended, s.complete, json_remove(s.record, '$.uses') FROM snapshot s
             JOIN writer w ON w.id = s.writer ORDER BY 1, 2",
            "SELECT w.name, m.snapshot, m.kind, hex(c.digest), 0 FROM mark m JOIN log_commit c ON c.id = m.log_commit
             JOIN writer w ON w.id = m.writer ORDER BY 1, 2, 3, 4",
            "SELECT w.name, hex(r.object), r.deleted, r.grace, hex(c.digest) FROM retired r
             JOIN log_commit c ON c.id = r.log_commit JOIN writer w ON w.id = r.writer ORDER BY 1, 2",
            "SELECT w.name, d.id, d.source, d.began, d.record FROM drill d JOIN writer w ON w.id = d.writer ORDER BY 1, 2",
        ];
        let mut hasher = blake3::Hasher::new();
        for query in QUERIES {
            self.read(|db| {
                let mut statement = db.prepare(query)?;
                let mut rows = statement.query([])?;
                while let Some(row) = rows.next()? {
                    if !writers.contains(&row.get(0)?) {
                        continue;
                    }
                    for n in 0..5 {
                        match row.get_ref(n)? {
                            rusqlite::types::ValueRef::Integer(number) => hasher.update(&number.to_le_bytes()),
                            rusqlite::types::ValueRef::Text(text) => hasher.update(text),
                            _ => &mut hasher,
                        }
                        .update(&[0xff]);
                    }
                }
                Ok(())
            })?;
        }
        Ok(hasher.finalize())
    }

    /// Forgets commits that are known by name only, beyond a place.
    pub fn forget_unread_beyond(&mut self, writer: WriterRow, end: u64) -> Result<(), Error> {
        self.write(|db| {
            let sql = "DELETE FROM log_commit WHERE writer = ?1 AND readable = 0 AND sequence > ?2";
            db.execute(sql, rusqlite::params![writer.0, end as i64]).map(drop)
        })
    }

    /// The commit that made each snapshot of a writer.
    pub fn commits_of_snapshots(&self, writer: WriterRow) -> Result<Vec<(String, CommitId)>, Error> {
        self.read(|db| {
            let sql =
                "SELECT s.id, c.digest FROM snapshot s JOIN log_commit c ON c.id = s.log_commit WHERE s.writer = ?1";
            let mut rows = db.prepare_cached(sql)?;
            rows.query_map([writer.0], |row| Ok((row.get(0)?, CommitId::new(row.get(1)?))))?.collect()
        })
    }

    /// Forgets all, to be read anew from the store; but for what was ruled on writers, which the store might have lost.
    pub fn clear(&mut self) -> Result<(), Error> {
        self.write(|db| {
            db.execute_batch(
                "DELETE FROM lost; DELETE FROM seen; DELETE FROM renumber; DELETE FROM sparse; DELETE FROM mark;
                 DELETE FROM retirement; DELETE FROM retired; DELETE FROM unmapped; DELETE FROM drill;
                 DELETE FROM snapshot; DELETE FROM chunk; DELETE FROM frame_chunks;
                 DELETE FROM frame; DELETE FROM pack; DELETE FROM commit_parent; DELETE FROM log_commit;
                 DELETE FROM writer; DELETE FROM meta WHERE name NOT LIKE 'rulings on writer %';
                 DELETE FROM segment WHERE log_commit IS NOT NULL;",
            )
        })
    }

    /// Every row of every table as text, row numbers apart: what two catalogs of one repository must agree on.
    pub fn dump(&self) -> Result<Vec<String>, Error> {
        const QUERIES: &[&str] = &[
            "SELECT 'commit', w.name, c.sequence, hex(c.digest), c.readable, c.time, c.first_frame, c.frames
             FROM log_commit c JOIN writer w ON w.id = c.writer",
            "SELECT 'parent', hex(c.digest), hex(p.parent), '', '', '', '', ''
             FROM commit_parent p JOIN log_commit c ON c.id = p.child",
            "SELECT 'pack', hex(name), size, kind, directory_at, directory_length, chunks_known, state FROM pack",
            "SELECT 'frame', hex(f.name), f.number, hex(p.name), f.at, f.stored, f.plain, hex(c.chunks)
             FROM frame f JOIN pack p ON p.id = f.pack LEFT JOIN frame_chunks c ON c.frame = f.id",
            "SELECT 'chunk', c.key, hex(f.name), '', '', '', '', '' FROM chunk c JOIN frame f ON f.id = c.frame",
            "SELECT 'snapshot', s.id, w.name, s.source, s.ended, s.complete, s.record, ''
             FROM snapshot s JOIN writer w ON w.id = s.writer",
            "SELECT 'segment', writer, stream, epoch, name, hex(digest), record, '' FROM segment WHERE log_commit IS NOT NULL",
            "SELECT 'mark', w.name, m.snapshot, m.kind, hex(c.digest), '', '', ''
             FROM mark m JOIN log_commit c ON c.id = m.log_commit JOIN writer w ON w.id = m.writer",
            "SELECT 'retired', w.name, hex(r.object), r.deleted, r.grace, hex(c.digest), '', ''
             FROM retired r JOIN log_commit c ON c.id = r.log_commit JOIN writer w ON w.id = r.writer",
            "SELECT 'unmapped', w.name, u.snapshot, u.frames, '', '', '', '' FROM unmapped u JOIN writer w ON w.id = u.writer",
            "SELECT 'drill', w.name, d.id, d.source, d.began, d.record, '', '' FROM drill d JOIN writer w ON w.id = d.writer",
            "SELECT 'received', hex(c.digest), r.at, '', '', '', '', '' FROM received r JOIN log_commit c ON c.digest = r.digest",
            "SELECT 'sparse', s.source, hex(f.name), s.used, '', '', '', ''
             FROM sparse s JOIN frame f ON f.id = s.frame",
        ];
        let mut all = Vec::new();
        for query in QUERIES {
            let rows: Vec<String> = self.read(|db| {
                let mut statement = db.prepare(query)?;
                let rows = statement.query_map([], |row| {
                    let texts: rusqlite::Result<Vec<String>> = (0..8)
                        .map(|n| {
                            Ok(match row.get_ref(n)? {
                                rusqlite::types::ValueRef::Integer(number) => number.to_string(),
                                rusqlite::types::ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
                                _ => String::new(),
                            })
                        })
                        .collect();
                    texts.map(|texts| texts.join("|"))
                })?;
                rows.collect()
            })?;
            all.extend(rows);
        }
        all.sort();
        Ok(all)
    }
}

fn read_head(row: &rusqlite::Row<'_>) -> rusqlite::Result<Head> {
    Ok(Head { sequence: row.get::<_, i64>(0)? as u64, digest: CommitId::new(row.get(1)?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects(db: &Connection) -> Vec<String> {
        let mut rows = db.prepare("SELECT type || ' ' || name || ' ' || coalesce(sql, '') FROM sqlite_schema").unwrap();
        let mut all: Vec<String> = rows.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        all.sort();
        all
    }

    #[test]
    fn the_migrations_lead_to_the_schema() {
        let migrated = Catalog::in_memory().unwrap();
        let whole = Connection::open_in_memory().unwrap();
        whole.execute_batch(SCHEMA).unwrap();
        assert_eq!(objects(&migrated.db), objects(&whole));
    }

    #[test]
    fn a_newer_catalog_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("catalog.db");
        Catalog::open(&path).unwrap().db.pragma_update(None, "user_version", 99).unwrap();
        let error = Catalog::open(&path).unwrap_err().to_string();
        assert!(error.contains("schema 99") && error.contains("catalog.db"), "{error}");
    }

    #[test]
    fn facts_are_remembered() {
        let mut catalog = Catalog::in_memory().unwrap();
        assert_eq!(catalog.fact("x").unwrap(), None);
        catalog.set_fact("x", "1").unwrap();
        catalog.set_fact("x", "2").unwrap();
        assert_eq!(catalog.fact("x").unwrap().as_deref(), Some("2"));
    }
}
