//! Restores of a cluster onto a directory that is there, and what pgBackRest's users type.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::common::chance::Chance;
use crate::common::postgres::Cluster;
use crate::common::scene::{ORACLE, Scene, own};
use crate::common::started::Started;

const PAGE: u64 = 8192;
/// Relation files are cut into chunks of at most this many bytes.
const CHUNK_MAX: u64 = 64 << 10;

/// Files of relations below a data directory, largest first.
fn relations(directory: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for database in fs::read_dir(directory.join("base")).unwrap().flatten() {
        for file in fs::read_dir(database.path()).unwrap().flatten() {
            let length = file.metadata().unwrap().len();
            if file.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit()) && length > 0 {
                found.push((file.path(), length));
            }
        }
    }
    found.sort_by_key(|(path, length)| (std::cmp::Reverse(*length), path.clone()));
    found
}

/// Overwrites one page in a hundred; returns how many.
fn damage(directory: &Path, seed: u64) -> u64 {
    let (mut chance, mut damaged) = (Chance::new(seed), 0);
    for (path, length) in relations(directory) {
        let file = OpenOptions::new().write(true).open(path).unwrap();
        for page in 0..length / PAGE {
            if chance.below(100) == 0 {
                file.write_all_at(&[0xA5; PAGE as usize], page * PAGE).unwrap();
                damaged += 1;
            }
        }
    }
    damaged
}

fn report(said: &str) -> serde_json::Value {
    let line = said.lines().find(|line| line.contains("\"bytes_written\"")).unwrap();
    serde_json::from_str::<serde_json::Value>(line).unwrap()["report"].clone()
}

fn only_what_is_damaged_is_written(major: u32) {
    let Some(scene) = Scene::new(major, &[]) else { return };
    scene.cluster.psql(ORACLE);
    scene.insert(60_000);
    scene.expect(0, &["backup", "db"]);
    scene.insert(40);
    let point = scene.point();
    scene.insert(1);
    scene.archive_all();
    let server = Started::new(&scene, "here");
    let into = server.directory.display().to_string();
    scene.expect(0, &["restore", "db", "--to", &point.0, "--into", &into]);
    let damaged = damage(&server.directory, 7);
    assert!(damaged > 10, "{damaged}");
    // What a server leaves behind, and another restore, and what nobody knows.
    let stale = [
        "pg_wal/0000000100000000000000AA",
        "base/5/4242424",
        "standby.signal",
        "postmaster.opts",
        "pg_wal/archive_status/x.ready",
    ];
    fs::create_dir_all(server.directory.join("pg_wal/archive_status")).unwrap();
    own(&server.directory.join("pg_wal/archive_status"));
    for name in stale {
        fs::write(server.directory.join(name), "stale").unwrap();
    }
    let said = scene.expect(0, &["--json", "restore", "db", "--to", &point.0, "--into", &into, "--delta"]);
    let report = report(&said);
    let number = |name: &str| report[name].as_u64().unwrap();
    assert!(number("bytes_written") >= damaged * PAGE, "{report}");
    assert!(number("bytes_written") <= (damaged + 4) * CHUNK_MAX, "{report}");
    assert!(number("bytes_kept") > 20 << 20, "{report}");
    for name in stale {
        assert!(!server.directory.join(name).exists(), "{name}");
    }
    // Onto what a server has written to since, and to another moment.
    assert_eq!(server.rows(&["--to", &point.0, "--delta"]), point.1);
    server.psql("DELETE FROM oracle WHERE n % 2 = 0");
    server.psql("CREATE TABLE of_the_second_life AS SELECT generate_series(1, 10000) n");
    server.stop("fast");
    assert_eq!(server.rows(&["--delta", "--verify"]), scene.cluster.psql("SELECT count(*) FROM oracle"));
    assert_eq!(server.psql("SELECT to_regclass('of_the_second_life') IS NULL"), "t");
    // Crashed, with its postmaster.pid left behind: its process is gone.
    server.stop("immediate");
    fs::write(server.directory.join("postmaster.pid"), "2000000000\n/nowhere\n1\n5432\n").unwrap();
    let said = server.restore(0, &["--to", &point.0, "--delta"]);
    assert!(said.contains("names process 2000000000, which is gone"), "{said}");
    assert_eq!(server.psql("SELECT count(*) FROM oracle"), point.1);
}

#[test]
fn onto_a_damaged_cluster_of_15_only_what_is_damaged_is_written() {
    only_what_is_damaged_is_written(15);
}

#[test]
fn onto_a_damaged_cluster_of_18_only_what_is_damaged_is_written() {
    only_what_is_damaged_is_written(18);
}

#[test]
fn directories_that_something_else_lives_in_are_refused() {
    let Some(scene) = Scene::new(15, &[]) else { return };
    scene.cluster.psql(ORACLE);
    scene.insert(10);
    scene.expect(0, &["backup", "db"]);
    let delta = |code: i32, into: &Path, more: &[&str]| {
        let into = into.display().to_string();
        scene.expect(code, &[&["restore", "db", "--delta", "--into", &into], more].concat())
    };
    let live = scene.cluster.data_dir();
    let said = delta(2, &live, &[]);
    assert!(said.contains("a server runs in") && said.contains("pg_ctl -D"), "{said}");
    delta(2, &live, &["--replace-other-cluster"]);
    assert_eq!(scene.cluster.psql("SELECT count(*) FROM oracle"), "10", "it was left alone");
    let other = Cluster::start(15).unwrap();
    other.stop();
    let said = delta(2, &other.data_dir(), &[]);
    assert!(said.contains("holds cluster") && said.contains("--replace-other-cluster"), "{said}");
    other.begin();
    other.stop();
    let plain = scene.path("plain");
    fs::create_dir(&plain).unwrap();
    own(&plain);
    fs::write(plain.join("letters.txt"), "dear").unwrap();
    let said = delta(2, &plain, &[]);
    assert!(said.contains("is not empty, and no data directory"), "{said}");
    let into = plain.display().to_string();
    let said = scene.expect(2, &["restore", "db", "--overwrite", "if-newer", "--into", &into]);
    assert!(said.contains("would be mixed"), "{said}");
    assert!(plain.join("letters.txt").exists());
    delta(0, &other.data_dir(), &["--replace-other-cluster"]);
    assert_eq!(scene.ask_restored(&other.data_dir(), "SELECT count(*) FROM oracle").unwrap(), "10");
}

#[test]
fn pgbackrests_spelling_means_the_same_as_ours() {
    let Some(scene) = Scene::new(15, &[]) else { return };
    scene.cluster.psql(ORACLE);
    scene.expect(0, &["backup", "db"]);
    scene.insert(10);
    let moment = scene.now();
    scene.expect(0, &["backup", "db"]);
    scene.insert(10);
    let later = scene.now();
    let lsn = scene.cluster.psql("SELECT pg_current_wal_insert_lsn()");
    scene.insert(1);
    scene.archive_all();
    let plan = |code: i32, args: &[&str]| {
        let all = [&["--quiet", "restore", "db", "--into", "nowhere", "--dry-run"], args].concat();
        scene.expect(code, &all)
    };
    let pairs: [(&[&str], &[&str]); 8] = [
        (&["--type=time", "--target", &moment], &["--to", &moment]),
        (&["--type", "lsn", "--target", &lsn], &["--lsn", &lsn]),
        (&["--type=xid", "--target=777"], &["--xid", "777"]),
        (&["--type=name", "--target=before"], &["--point", "before"]),
        (&["--type=immediate"], &["--immediate"]),
        (&["--type=default"], &[]),
        (&["--type=standby", "--archive-mode=off"], &["--standby", "--archive-mode-off"]),
        (&["--target-timeline=latest", "--target-action=pause"], &["--target-action", "pause"]),
    ];
    for (theirs, ours) in pairs {
        assert_eq!(plan(0, theirs), plan(0, ours), "{theirs:?}");
    }
    assert!(plan(0, &["--target-timeline=current"]).contains("on timeline 1"));
    assert!(plan(0, &["--target-timeline=0x1"]).contains("on timeline 1"));
    // A base of one's own choice, and the log replayed from there.
    let listed = scene.expect(0, &["--json", "timeline", "db"]);
    let line = listed.lines().find(|line| line.contains("\"timeline\"")).unwrap();
    let bases = serde_json::from_str::<serde_json::Value>(line).unwrap();
    let first = bases["bases"][0]["snapshot"].as_str().unwrap().to_owned();
    assert_eq!(bases["coverage"]["bases"].as_array().unwrap().len(), 2);
    assert!(bases["coverage"]["window"]["to"].is_string() && bases["age_seconds"].is_number());
    let chosen = plan(0, &["--set", &first, "--type=time", "--target", &later]);
    assert!(chosen.contains(&first) && chosen.contains("recovery_target_time"), "{chosen}");
    assert!(!plan(0, &["--to", &later]).contains(&first), "left alone, the newest before it is taken");
    for (args, says) in [
        (&["--target", "x"][..], "needs `--type`"),
        (&["--type=time"], "needs `--target`"),
        (&["--type=default", "--target", "x"], "takes no `--target`"),
        (&["--type=time", "--target", "x", "--to", "y"], "each name a target"),
        (&["--type=preserve"], "are not taken"),
        (&["--type=lsn", "--target", "x"], "16/B374D848"),
        (&["--target-timeline", "zero"], "`latest` or `current`"),
    ] {
        let said = plan(2, args);
        assert!(said.contains(says), "{args:?}\n{said}");
    }
}
