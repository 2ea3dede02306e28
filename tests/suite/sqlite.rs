//! SQLite databases captured while real writers run: what is captured was committed, and no writer ever waits too long.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lifeboat::model::How;
use lifeboat::progress::Silent;
use lifeboat::source::sqlite::{Captures, Limits, SqliteSource};
use lifeboat::source::{Error, Found, Source};
use rusqlite::Connection;

use super::common::sqlite::Writer;

/// Never in a hurry, so that a loaded machine changes nothing; and the comparison is what is tested.
pub fn patient() -> Limits {
    let seconds = Duration::from_secs;
    Limits { step: seconds(3), longest: seconds(3), tries: 1000, patience: seconds(300), small: 0 }
}

/// Opens a database as the Convex backend does: one connection, five seconds of patience.
fn open(path: &Path, mode: &str) -> Connection {
    let db = Connection::open(path).unwrap();
    db.busy_timeout(Duration::from_secs(5)).unwrap();
    db.pragma_update(None, "journal_mode", mode).unwrap();
    // Locks are the same without it, and no test waits for the disk.
    db.pragma_update(None, "synchronous", "OFF").unwrap();
    db
}

/// Tables whose rows say together whether a state was ever committed: `total` is the sum over `log` after each transaction.
fn make(path: &Path, mode: &str, rows: u32) -> Connection {
    let db = open(path, mode);
    db.execute_batch(
        "CREATE TABLE log (n INTEGER PRIMARY KEY, pad BLOB); CREATE INDEX pads ON log (pad);
         CREATE TABLE total (sum INTEGER, count INTEGER); INSERT INTO total VALUES (0, 0)",
    )
    .unwrap();
    (1..=rows).for_each(|n| commit(&db, i64::from(n)).unwrap());
    db
}

fn commit(db: &Connection, n: i64) -> rusqlite::Result<()> {
    db.execute_batch(&format!(
        "BEGIN IMMEDIATE; INSERT INTO log VALUES ({n}, randomblob(700));
         UPDATE log SET pad = randomblob(700) WHERE n = abs(random()) % {n};
         UPDATE total SET sum = sum + {n}, count = count + 1; COMMIT"
    ))
}

/// Reads what a capture gives, and says how it was had.
fn take(path: &Path, into: &Path, limits: Limits) -> Result<How, Error> {
    let staging = tempfile::tempdir().unwrap();
    let captures = Captures::new(staging.path().join("copies"), limits, Arc::new(Silent));
    let source = SqliteSource::new(path, captures)?;
    source.prepare(None)?;
    let mut found = None;
    source.walk(&mut |each| {
        if let Found::Entry(entry) = each {
            found = Some(entry);
        }
        true
    })?;
    let mut opened = source.open(&found.unwrap()).unwrap();
    let mut bytes = Vec::new();
    opened.file.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, opened.size);
    drop(opened);
    fs::write(into, bytes).unwrap();
    let facts: lifeboat::model::VolumeFacts = serde_json::from_value(source.facts()).unwrap();
    drop(source);
    assert!(!staging.path().join("copies").exists(), "nothing stays behind");
    Ok(facts.databases[0].how)
}

/// Whether a copy is whole and a state that was committed; the number of its last transaction.
pub fn prove(copy: &Path) -> i64 {
    assert_eq!(lifeboat::client::sqlite::check(copy, &|| false).unwrap(), Vec::<String>::new());
    let db = Connection::open(copy).unwrap();
    let row = |sql: &str| -> (i64, i64) { db.query_row(sql, [], |r| Ok((r.get(0)?, r.get(1)?))).unwrap() };
    let kept = row("SELECT sum, count FROM total");
    assert_eq!(row("SELECT coalesce(sum(n), 0), count(*) FROM log"), kept, "a state that was never committed");
    kept.1
}

fn keeps_running(mode: &'static str, captures: u32) {
    let folder = tempfile::tempdir().unwrap();
    let (path, copy) = (folder.path().join("db.sqlite3"), folder.path().join("copy"));
    drop(make(&path, mode, 300));
    let writer = Writer::start(&["log", path.to_str().unwrap(), mode, "301"]);
    let mut last = 0;
    for _ in 0..captures {
        take(&path, &copy, patient()).unwrap();
        let shown = prove(&copy);
        assert!(shown >= last.max(300), "{shown} after {last}");
        last = shown;
    }
    let committed = writer.finish();
    assert!(committed >= last && committed > 300, "{committed} {last}");
    take(&path, &copy, patient()).unwrap();
    assert_eq!(prove(&copy), committed);
    let mut beside: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    beside.retain(|name| !["copy", "db.sqlite3", "db.sqlite3-journal"].iter().any(|known| name == known));
    assert!(beside.is_empty(), "{beside:?}");
}

#[test]
fn a_writer_with_a_journal_runs_through_hundreds_of_captures() {
    keeps_running("DELETE", 150);
}

#[test]
fn a_writer_whose_journal_stays_runs_through_captures() {
    keeps_running("PERSIST", 50);
    keeps_running("TRUNCATE", 50);
}

#[test]
fn a_writer_with_a_log_runs_through_hundreds_of_captures() {
    keeps_running("WAL", 150);
}

#[test]
fn a_comparison_in_small_steps_goes_on_where_nothing_was_committed_and_is_given_up_where_too_much_is() {
    let folder = tempfile::tempdir().unwrap();
    let (path, copy) = (folder.path().join("db"), folder.path().join("copy"));
    let rows = 9000;
    let db = make(&path, "MEMORY", 1);
    db.execute_batch("BEGIN").unwrap();
    for n in 2..=rows {
        db.execute_batch(&format!(
            "INSERT INTO log VALUES ({n}, randomblob(700)); UPDATE total SET sum = sum + {n}, count = count + 1"
        ))
        .unwrap();
    }
    db.execute_batch("COMMIT").unwrap();
    drop(db);
    // A block for each thread and step, some forty blocks.
    let step = Duration::from_nanos(1);
    let short = Limits { step, longest: step, tries: 3, ..patient() };
    assert_eq!(take(&path, &copy, short).unwrap(), How::Copy);
    assert_eq!(prove(&copy), rows);
    let writer = Writer::start(&["log", path.to_str().unwrap(), "DELETE", &(rows + 1).to_string()]);
    let refused = (0..50).find_map(|_| take(&path, &copy, short).err());
    let said = refused.expect("somebody commits between the steps").to_string();
    assert!(said.contains("changes faster than it can be compared"), "{said}");
    assert!(writer.finish() > rows);
}

#[test]
fn what_a_dead_writer_left_is_rolled_back_in_the_copy_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (path, copy) = (folder.path().join("db"), folder.path().join("copy"));
    drop(make(&path, "DELETE", 200));
    let dead = tempfile::tempdir().unwrap();
    let left = dead.path().join("db");
    let mut writer = Writer::start(&["dead", path.to_str().unwrap(), dead.path().to_str().unwrap()]);
    writer.ready();
    let before = fs::read(dead.path().join("db-journal")).unwrap();
    assert_eq!(take(&left, &copy, patient()).unwrap(), How::Recovered);
    assert_eq!(prove(&copy), 200);
    assert_eq!(fs::read(dead.path().join("db-journal")).unwrap(), before, "the source is as it was");
    // A live transaction that has spilled holds the file for itself: the capture waits, then says so.
    let impatient = Limits { patience: Duration::from_millis(50), ..patient() };
    let error = take(&path, &copy, impatient).unwrap_err().to_string();
    assert!(error.contains("holds this SQLite database locked"), "{error}");
    writer.finish();
    assert_eq!(take(&path, &copy, patient()).unwrap(), How::Copy);
    assert_eq!(prove(&copy), 200);
}

#[test]
fn a_log_that_a_dead_writer_left_is_part_of_the_copy() {
    let folder = tempfile::tempdir().unwrap();
    let (path, copy) = (folder.path().join("db"), folder.path().join("copy"));
    let db = make(&path, "WAL", 50);
    let dead = tempfile::tempdir().unwrap();
    for name in ["db", "db-wal"] {
        fs::copy(folder.path().join(name), dead.path().join(name)).unwrap();
    }
    assert_eq!(take(&dead.path().join("db"), &copy, patient()).unwrap(), How::Log);
    assert_eq!(prove(&copy), 50);
    let names = fs::read_dir(dead.path()).unwrap().count();
    assert_eq!(names, 2, "no shared memory appears beside it");
    drop(db);
}

#[test]
fn a_database_that_is_replaced_and_deleted_meanwhile_is_captured_as_one_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let (path, copy) = (folder.path().join("db"), folder.path().join("copy"));
    drop(make(&path, "DELETE", 20));
    let (stop, told) = (Arc::<AtomicBool>::default(), path.clone());
    let over = Arc::clone(&stop);
    let replacer = std::thread::spawn(move || {
        let next = told.with_file_name("next");
        let mut rows = 20;
        while !over.load(Ordering::Relaxed) {
            rows = 20 + (rows + 1) % 10;
            drop(make(&next, "DELETE", rows));
            fs::rename(&next, &told).unwrap();
        }
    });
    for _ in 0..20 {
        match take(&path, &copy, patient()) {
            Ok(_) => assert!((20..30).contains(&prove(&copy))),
            Err(e) => assert!(e.to_string().contains("replaced"), "{e}"),
        }
    }
    stop.store(true, Ordering::Relaxed);
    replacer.join().unwrap();
    fs::remove_file(&path).unwrap();
    assert!(matches!(take(&path, &copy, patient()), Err(Error::Root { .. })));
}

#[test]
fn what_only_looks_alike_is_no_database() {
    let folder = tempfile::tempdir().unwrap();
    let (path, copy) = (folder.path().join("db"), folder.path().join("copy"));
    fs::write(&path, b"SQLite format 3\0 is what this text is about").unwrap();
    let error = take(&path, &copy, patient()).unwrap_err().to_string();
    assert!(error.ends_with("it is no SQLite database"), "{error}");
}
