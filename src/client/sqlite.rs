//! Sessions with SQLite databases that are ours alone: copies of captured ones, and what a restore laid down.
//!
//! Never a database that somebody else may have open: recovering it would write beside it. What a restore laid down is opened as
//! one that nobody changes, so that no file appears beside it. Not here: how a database of a running program is captured.

use std::path::{Path, PathBuf};
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

/// What went wrong with a database.
#[derive(Debug, thiserror::Error)]
#[error("SQLite cannot read `{}`", path.display())]
pub struct Error {
    path: PathBuf,
    source: rusqlite::Error,
}

impl Error {
    /// Whether it was stopped from here.
    pub fn is_interrupted(&self) -> bool {
        self.source.sqlite_error_code() == Some(rusqlite::ErrorCode::OperationInterrupted)
    }
}

/// Problems that a check names at most.
const PROBLEMS: u32 = 20;

fn fail(path: &Path) -> impl Fn(rusqlite::Error) -> Error {
    move |source| Error { path: path.to_owned(), source }
}

/// Applies the journal or the log that lies beside a copy to it, and looks whether it is a database at all. Nothing is left beside
/// it. Its journal mode stays what it was.
pub fn settle(copy: &Path) -> Result<(), Error> {
    let fail = fail(copy);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(copy, flags).map_err(&fail)?;
    // Alone, SQLite needs no shared memory for a log.
    db.execute_batch("PRAGMA locking_mode = EXCLUSIVE; PRAGMA synchronous = OFF; PRAGMA trusted_schema = OFF")
        .map_err(&fail)?;
    read_schema(&db).map_err(&fail)?;
    db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).map_err(&fail)?;
    db.close().map_err(|(_, source)| fail(source))
}

/// Looks whether a file is a database, as far as its schema says so.
pub fn look(path: &Path) -> Result<(), Error> {
    read_schema(&open_unchanging(path)?).map_err(fail(path))
}

fn read_schema(db: &Connection) -> rusqlite::Result<()> {
    db.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))
}

/// Opens a file that nobody changes; nothing is written, neither into it nor beside it.
fn open_unchanging(path: &Path) -> Result<Connection, Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(uri(path), flags).map_err(fail(path))?;
    db.pragma_update(None, "trusted_schema", false).map_err(fail(path))?;
    Ok(db)
}

/// A path as SQLite reads one in a URI: every byte that may mean something else is written in hexadecimal.
fn uri(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut text = String::from("file://");
    for byte in absolute.as_os_str().as_bytes() {
        match byte {
            b'/' | b'-' | b'_' | b'.' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => text.push(char::from(*byte)),
            other => text.push_str(&format!("%{other:02X}")),
        }
    }
    text + "?immutable=1"
}

/// Between two looks whether a check shall go on.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Runs `PRAGMA integrity_check` on a database that nobody has open. What it finds, at most twenty lines; empty is well. It ends with an
/// error when `stop` says so: of a large database it takes hours.
pub fn check(path: &Path, stop: &(dyn Fn() -> bool + Sync)) -> Result<Vec<String>, Error> {
    let db = open_unchanging(path)?;
    let (handle, (ended, end)) = (db.get_interrupt_handle(), std::sync::mpsc::channel::<()>());
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // Goes on until the check has ended: told before it has begun, it would not hear.
            loop {
                if stop() {
                    handle.interrupt();
                }
                if end.recv_timeout(LOOK_EVERY) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        });
        let found = integrity(&db, path);
        drop(ended);
        found
    })
}

fn integrity(db: &Connection, path: &Path) -> Result<Vec<String>, Error> {
    let mut query = db.prepare(&format!("PRAGMA integrity_check({PROBLEMS})")).map_err(fail(path))?;
    let lines = query.query_map([], |row| row.get::<_, String>(0)).map_err(fail(path))?;
    let lines = lines.collect::<Result<Vec<String>, _>>().map_err(fail(path))?;
    Ok(lines.into_iter().filter(|line| line != "ok").collect())
}

/// Calls `each` with the folder (`files` or `modules`) and the key of every blob that the newest revisions of a Convex database name.
/// The rows come one after another; nothing is kept. Search segments are named by the indexes' own state and are not among them.
pub fn each_convex_blob(path: &Path, each: &mut dyn FnMut(&'static str, &str)) -> Result<(), Error> {
    let fail = fail(path);
    let db = open_unchanging(path)?;
    for (table, folder) in blob_tables(&db).map_err(&fail)? {
        let mut rows = db
            .prepare(
                "SELECT json_extract(d.json_value, '$.storageKey') FROM documents d
                 WHERE d.table_id = ?1 AND d.deleted = 0 AND json_valid(d.json_value) AND NOT EXISTS
                   (SELECT 1 FROM documents n WHERE n.table_id = d.table_id AND n.id = d.id AND n.ts > d.ts)",
            )
            .map_err(&fail)?;
        let mut rows = rows.query([&table]).map_err(&fail)?;
        while let Some(row) = rows.next().map_err(&fail)? {
            if let Some(key) = row.get::<_, Option<String>>(0).map_err(&fail)? {
                each(folder, &key);
            }
        }
    }
    Ok(())
}

/// Tables with blobs that there are at most: three for each component of the deployment.
const BLOB_TABLES: usize = 10_000;

/// The tables that name blobs, and the folder in which those lie. `_tables` lists itself: its own row has its own id.
fn blob_tables(db: &Connection) -> rusqlite::Result<Vec<(Vec<u8>, &'static str)>> {
    let mut found = Vec::new();
    let mut list = db.prepare(
        "SELECT d.id, json_extract(d.json_value, '$.name') FROM documents d
         WHERE d.table_id = ?1 AND d.deleted = 0 AND json_valid(d.json_value)
           AND coalesce(json_extract(d.json_value, '$.state'), 'active') = 'active' AND NOT EXISTS
           (SELECT 1 FROM documents n WHERE n.table_id = d.table_id AND n.id = d.id AND n.ts > d.ts)",
    )?;
    for tables in own_rows(db)? {
        let mut rows = list.query([&tables])?;
        while let Some(row) = rows.next()? {
            let folder = match row.get::<_, Option<String>>(1)?.as_deref() {
                Some("_file_storage") => "files",
                Some("_source_packages" | "_external_packages") => "modules",
                _ => continue,
            };
            found.push((row.get(0)?, folder));
            if found.len() >= BLOB_TABLES {
                return Ok(found);
            }
        }
    }
    Ok(found)
}

/// Ids of tables that have a row with the same id which calls itself `_tables`. The index is skipped through, a table at a time.
fn own_rows(db: &Connection) -> rusqlite::Result<Vec<Vec<u8>>> {
    let mut next = db.prepare("SELECT min(table_id) FROM documents WHERE table_id > ?1")?;
    let mut own = db.prepare(
        "SELECT 1 FROM documents WHERE table_id = ?1 AND id = ?1 AND json_valid(json_value)
         AND json_extract(json_value, '$.name') = '_tables' LIMIT 1",
    )?;
    let (mut at, mut found) = (Vec::new(), Vec::new());
    while let Some(table) = next.query_row([&at], |row| row.get::<_, Option<Vec<u8>>>(0))? {
        if own.exists([&table])? {
            found.push(table.clone());
        }
        at = table;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_ends_when_it_shall() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("large.db");
        let db = Connection::open(&path).unwrap();
        let fill = "CREATE TABLE t (a TEXT UNIQUE); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)
                    INSERT INTO t SELECT hex(randomblob(20)) FROM n";
        db.execute_batch(fill).unwrap();
        drop(db);
        assert_eq!(check(&path, &|| false).unwrap(), Vec::<String>::new());
        let stopped = check(&path, &|| true).unwrap_err();
        assert!(stopped.is_interrupted(), "{stopped}");
    }

    #[test]
    fn a_path_with_anything_in_it_is_opened_and_nothing_appears_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a b?c#%41.db");
        let db = Connection::open(&path).unwrap();
        db.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (x)").unwrap();
        drop(db);
        assert_eq!(check(&path, &|| false).unwrap(), Vec::<String>::new());
        look(&path).unwrap();
        settle(&path).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        std::fs::write(&path, b"SQLite format 3\0 and then nothing of the kind").unwrap();
        assert!(look(&path).is_err() && settle(&path).is_err());
    }
}
