//! Volumes with databases in them: which come first, which are taken over unread, what day 2 adds, what is left out.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use lifeboat::model::{How, VolumeFacts};
use lifeboat::ops;
use lifeboat::ops::backup::{BackupOptions, BackupReport, backup};
use lifeboat::ops::restore::check_databases;
use lifeboat::plan::restore::Wanted;
use lifeboat::progress::Silent;
use lifeboat::source::sqlite::{Captures, DatabaseVolume, Layout};
use lifeboat::source::{Rules, VolumeSource};
use object_store::memory::InMemory;
use rusqlite::Connection;

use super::common::sqlite::Writer;
use super::common::{Host, Person, world};
use super::sqlite::patient;

struct Place {
    person: Person,
    host: Host,
    root: tempfile::TempDir,
    work: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let (person, host) = (Person::new(), Host::new(Arc::new(InMemory::new())));
        host.init(&person);
        Self { person, host, root: tempfile::tempdir().unwrap(), work: tempfile::tempdir().unwrap() }
    }

    fn at(&self, name: &str) -> std::path::PathBuf {
        self.root.path().join(name)
    }

    fn database(&self, name: &str) -> Connection {
        let path = self.at(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        Connection::open(path).unwrap()
    }

    fn backup(&self) -> Result<(BackupReport, VolumeFacts), ops::Error> {
        self.backup_with(&BackupOptions::default())
    }

    fn backup_with(&self, options: &BackupOptions) -> Result<(BackupReport, VolumeFacts), ops::Error> {
        let (mut repository, _) = self.host.open(None)?;
        let layout = Layout::of(self.root.path());
        let exclude = layout.as_ref().map(Layout::left_out).unwrap_or_default();
        let volume = VolumeSource::new(self.root.path(), &Rules { exclude, ..Rules::default() })?;
        let captures = Captures::new(self.work.path().join("copies"), patient(), Arc::new(Silent));
        let source = DatabaseVolume::new(volume, captures, layout);
        let progress: Arc<dyn lifeboat::progress::Progress> = Arc::new(Silent);
        let report = backup(&source, "data", &mut repository, options, &world(), &progress)?;
        let facts = serde_json::from_value(report.record.facts.clone()).unwrap_or_default();
        Ok((report, facts))
    }

    fn restore(&self) -> tempfile::TempDir {
        let into = tempfile::tempdir().unwrap();
        self.host.restore(&self.person, &Wanted::Latest, into.path()).unwrap();
        into
    }
}

fn names(root: &Path) -> Vec<String> {
    super::common::tree::describe(root).into_keys().filter(|path| !path.is_empty() && path != ".").collect()
}

fn hows(facts: &VolumeFacts) -> Vec<(&str, How)> {
    facts.databases.iter().map(|fact| (fact.path.as_str(), fact.how)).collect()
}

fn rows(path: &Path) -> i64 {
    assert_eq!(lifeboat::client::sqlite::check(path, &|| false).unwrap(), Vec::<String>::new());
    Connection::open(path).unwrap().query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
}

#[test]
fn databases_are_captured_whatever_they_are_called_and_what_lies_beside_them_is_no_file() {
    let place = Place::new();
    let logged = place.database("app/state.db");
    logged.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (x); INSERT INTO t VALUES (1), (2)").unwrap();
    let odd = place.database("deep/er/unnamed");
    odd.execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (1)").unwrap();
    let large = place.database("large");
    large
        .execute_batch("CREATE TABLE t (x); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) INSERT INTO t SELECT randomblob(900) FROM n")
        .unwrap();
    fs::write(place.at("notes.db"), "SQLite format 3\0 are the first words of this text").unwrap();
    fs::write(place.at("notes.db-wal"), "and this is no log").unwrap();
    let (report, facts) = place.backup().unwrap();
    assert!(report.record.complete, "{:?}", report.skipped);
    assert_eq!(hows(&facts), [("app/state.db", How::Log), ("deep/er/unnamed", How::Copy), ("large", How::Copy)]);
    let into = place.restore();
    let expected = ["app", "app/state.db", "deep", "deep/er", "deep/er/unnamed", "large", "notes.db", "notes.db-wal"];
    assert_eq!(names(into.path()), expected);
    assert_eq!(rows(&into.path().join("app/state.db")), 2, "what was in the log alone is there");
    assert_eq!(rows(&into.path().join("deep/er/unnamed")), 1);
    assert_eq!(rows(&into.path().join("large")), 3000);

    // Nothing has changed but what was added to the log: its database is captured again, the others are not even read.
    logged.execute_batch("INSERT INTO t VALUES (3)").unwrap();
    let (second, facts) = place.backup().unwrap();
    assert_eq!(facts.databases[0].how, How::Log);
    let counted = (second.files_changed, second.files_reread, second.files_unmodified);
    assert_eq!(counted, (1, 1, 3), "the text beside which something lies is read again: {second:?}");
    assert_eq!(rows(&place.restore().path().join("app/state.db")), 3);
}

#[test]
fn a_database_that_has_not_changed_is_taken_over_unread_and_a_forced_run_captures_it() {
    let place = Place::new();
    place.database("a.sqlite3").execute_batch("CREATE TABLE t (x)").unwrap();
    let (_, facts) = place.backup().unwrap();
    assert_eq!(hows(&facts), [("a.sqlite3", How::Copy)]);
    let (second, facts) = place.backup().unwrap();
    assert_eq!(hows(&facts), [("a.sqlite3", How::Unchanged)]);
    assert_eq!((second.bytes_read, second.files_unmodified), (0, 1));
    // It is remembered from run to run, and seen when it changes.
    place.database("a.sqlite3").execute_batch("INSERT INTO t VALUES (1)").unwrap();
    let (_, facts) = place.backup().unwrap();
    assert_eq!(hows(&facts), [("a.sqlite3", How::Copy)]);
    let (forced, facts) = place.backup_with(&BackupOptions { force: true, ..BackupOptions::default() }).unwrap();
    assert_eq!((hows(&facts), forced.record.files), (vec![("a.sqlite3", How::Copy)], 1));
    assert_eq!(rows(&place.restore().path().join("a.sqlite3")), 1);
}

#[test]
fn a_second_day_adds_the_pages_that_changed() {
    let place = Place::new();
    let db = place.database("db.sqlite3");
    db.execute_batch(
        "CREATE TABLE t (n INTEGER PRIMARY KEY, x BLOB); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 8000)
         INSERT INTO t SELECT i, randomblob(3000) FROM n",
    )
    .unwrap();
    let (first, _) = place.backup().unwrap();
    let bytes = first.record.bytes;
    // One row in a hundred, spread evenly: each lies on a page of its own, and a chunk has two pages.
    db.execute_batch("UPDATE t SET x = randomblob(3000) WHERE n % 100 = 0").unwrap();
    let (second, _) = place.backup().unwrap();
    let added = second.counts.bytes_new;
    assert!(added > bytes / 100 && added < bytes * 3 / 100, "{added} of {bytes}");
    // 80 pages of rows, the first page with its counter, and the manifest.
    assert!((81..=83).contains(&second.counts.chunks_new), "{}", second.counts.chunks_new);
}

#[test]
fn what_begins_like_a_database_and_is_none_is_stored_as_it_is_and_named() {
    let place = Place::new();
    let db = place.database("broken.db");
    db.execute_batch("CREATE TABLE t (x)").unwrap();
    drop(db);
    let mut bytes = fs::read(place.at("broken.db")).unwrap();
    bytes[100..].fill(0x5a);
    fs::write(place.at("broken.db"), &bytes).unwrap();
    fs::create_dir(place.at("sub")).unwrap();
    fs::write(place.at("sub/broken.db"), &bytes).unwrap();
    fs::write(place.at("sub/broken.db-wal"), b"a log that fits nothing").unwrap();
    let (report, facts) = place.backup().unwrap();
    assert!(report.record.complete);
    let notes: Vec<_> = facts.databases.iter().map(|fact| (fact.path.as_str(), fact.note.is_some())).collect();
    assert_eq!(notes[0], ("broken.db", true));
    // It was so when it was backed up, and that was said then: what was restored is what was there.
    let into = place.restore();
    let looked = check_databases(&report.record, into.path(), (true, true), &Silent).unwrap();
    assert!(looked.is_sound() && looked.as_found.contains(&"broken.db".to_owned()), "{looked:?}");
    let into = place.restore();
    assert_eq!(fs::read(into.path().join("broken.db")).unwrap(), bytes);
    assert_eq!(fs::read(into.path().join("sub/broken.db")).unwrap(), bytes);
    assert!(into.path().join("sub/broken.db-wal").exists(), "with what lies beside it");
}

/// A directory as a Convex backend makes it.
pub fn convex(root: &Path, files: u32) -> Connection {
    for folder in ["files", "modules", "search", "exports", "snapshot_imports"] {
        fs::create_dir_all(root.join("storage").join(folder)).unwrap();
    }
    fs::create_dir_all(root.join("credentials")).unwrap();
    fs::create_dir_all(root.join("tmp")).unwrap();
    fs::write(root.join("credentials/instance_name"), "convex-self-hosted").unwrap();
    fs::write(root.join("credentials/instance_secret"), "5e").unwrap();
    fs::write(root.join("storage/exports/e1.blob"), "an old export").unwrap();
    fs::write(root.join("storage/snapshot_imports/i1.blob"), "an upload").unwrap();
    fs::write(root.join("storage/modules/m1.blob"), "code").unwrap();
    fs::write(root.join("tmp/t1"), "half of something").unwrap();
    let db = Connection::open(root.join("db.sqlite3")).unwrap();
    db.busy_timeout(std::time::Duration::from_secs(5)).unwrap();
    db.execute_batch(
        r#"CREATE TABLE documents (id BLOB NOT NULL, ts INTEGER NOT NULL, table_id BLOB NOT NULL, json_value TEXT NULL,
             deleted INTEGER NOT NULL, prev_ts INTEGER, PRIMARY KEY (ts, table_id, id));
           CREATE INDEX documents_by_table_and_id ON documents (table_id, id, ts);
           INSERT INTO documents VALUES (x'01', 1, x'01', '{"name":"_tables","state":"active"}', 0, NULL),
             (x'02', 1, x'01', '{"name":"_file_storage","state":"active"}', 0, NULL),
             (x'03', 1, x'01', '{"name":"_source_packages","state":"active"}', 0, NULL),
             (x'04', 1, x'01', '{"name":"messages","state":"active"}', 0, NULL),
             (x'70', 2, x'03', '{"storageKey":"m1"}', 0, NULL),
             (x'71', 2, x'04', '{"storageKey":"of a user, and no blob"}', 0, NULL)"#,
    )
    .unwrap();
    (0..files).for_each(|n| upload(root, &db, n));
    db
}

/// What the backend does: the blob first, then its row.
fn upload(root: &Path, db: &Connection, n: u32) {
    fs::write(root.join(format!("storage/files/f{n}.blob")), format!("file {n}")).unwrap();
    let row = format!(r#"{{"storageKey":"f{n}","storageId":"u{n}"}}"#);
    db.execute("INSERT INTO documents VALUES (?1, 10 + ?2, x'02', ?3, 0, NULL)", (n.to_be_bytes(), n, row)).unwrap();
}

#[test]
fn a_convex_volume_is_known_and_every_blob_that_its_database_names_is_in_the_snapshot() {
    let place = Place::new();
    let db = convex(place.root.path(), 20);
    drop(db);
    let writer = Writer::start(&["uploads", place.root.path().to_str().unwrap(), "20"]);
    for _ in 0..10 {
        let (_, facts) = place.backup().unwrap();
        let convex = facts.convex.unwrap();
        assert_eq!((convex.database.as_deref(), convex.storage.as_str()), (Some("db.sqlite3"), "storage"));
        let into = place.restore();
        let (mut named, mut missing) = (0, Vec::new());
        lifeboat::client::sqlite::each_convex_blob(&into.path().join("db.sqlite3"), &mut |folder, key| {
            named += 1;
            let blob = into.path().join("storage").join(folder).join(format!("{key}.blob"));
            missing.extend((!blob.exists()).then(|| key.to_owned()));
        })
        .unwrap();
        assert!(named >= 21 && missing.is_empty(), "{named} {missing:?}");
        let all = names(into.path());
        for there in
            ["credentials/instance_secret", "storage/exports", "storage/snapshot_imports", "tmp", "storage/search"]
        {
            assert!(all.iter().any(|name| name == there), "{there} is not in {all:?}");
        }
        for out in ["storage/exports/e1.blob", "storage/snapshot_imports/i1.blob", "tmp/t1", "db.sqlite3-journal"] {
            assert!(!all.iter().any(|name| name == out), "{out}");
        }
    }
    assert!(writer.finish() > 20);
}

#[test]
fn a_restore_says_what_sqlite_finds_and_which_blobs_are_not_there() {
    let place = Place::new();
    drop(convex(place.root.path(), 3));
    let db = place.database("side.db");
    db.execute_batch("CREATE TABLE t (x); CREATE INDEX xs ON t (x); INSERT INTO t VALUES (1), (2), (3)").unwrap();
    let check = || {
        let into = place.restore();
        let (repository, _) = place.host.open(None).unwrap();
        let record = repository.catalog().snapshots().unwrap().pop().unwrap().record;
        check_databases(&record, into.path(), (true, true), &Silent).unwrap()
    };
    place.backup().unwrap();
    let report = check();
    assert!(report.is_sound() && report.sound == 2, "{report:?}");
    let blobs = report.blobs.unwrap();
    assert_eq!((blobs.named, blobs.missing), (4, 0), "three files and the code; what a user's row says is no blob");

    // A page of an index is lost, and a blob.
    drop(db);
    let mut bytes = fs::read(place.at("side.db")).unwrap();
    bytes[8192 + 8..8192 + 20].fill(0);
    fs::write(place.at("side.db"), bytes).unwrap();
    fs::remove_file(place.at("storage/files/f1.blob")).unwrap();
    place.backup().unwrap();
    let report = check();
    assert_eq!((report.sound, report.damaged.len()), (1, 1), "{report:?}");
    assert_eq!(report.damaged[0].0, "side.db");
    let blobs = report.blobs.as_ref().unwrap();
    assert_eq!((blobs.missing, blobs.first_missing.as_slice()), (1, &["storage/files/f1.blob".to_owned()][..]));
    assert!(!report.is_sound());
}

#[test]
fn a_journal_of_what_was_there_before_is_named_before_it_destroys_the_restored_database() {
    let place = Place::new();
    place.database("a.db").execute_batch("CREATE TABLE t (x)").unwrap();
    let record = place.backup().unwrap().0.record;
    let into = place.restore();
    fs::write(into.path().join("a.db-journal"), b"an old one").unwrap();
    let report = check_databases(&record, into.path(), (true, true), &Silent).unwrap();
    assert_eq!((report.foreign, report.sound), (vec!["a.db-journal".to_owned()], 1));
}
