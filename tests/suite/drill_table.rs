//! What a drill does with each thing that can be wrong, for each kind: its code and its words. What the drills of `drill.rs` and
//! `convex_stream_cli.rs` show already (missing segments, SQL that is not true, objectives) is not shown again.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::postgres::{Cluster, bin_dir};
use crate::common::scene::{ORACLE, Scene};
use crate::convex_restore::Place;
use crate::convex_stream_cli::{after, drilled, follow_up_to_now};
use crate::drill::{Tree, record};
use crate::space::Small;

/// The largest object below a repository whose path has this in it.
fn largest(repository: &Path, part: &str) -> PathBuf {
    let (mut open, mut found) = (vec![repository.to_owned()], Vec::new());
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            match entry.path().is_dir() {
                true => open.push(entry.path()),
                false => found.push((entry.metadata().unwrap().len(), entry.path())),
            }
        }
    }
    found.into_iter().filter(|(_, path)| path.to_string_lossy().contains(part)).max().unwrap().1
}

/// With one bit of an object turned around; afterwards it is as it was.
fn damaged<T>(object: &Path, deed: impl FnOnce() -> T) -> T {
    let whole = fs::read(object).unwrap();
    let mut bytes = whole.clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(object, &bytes).unwrap();
    let answer = deed();
    fs::write(object, &whole).unwrap();
    answer
}

fn assert_ends(record: &Value, verdict: &str, words: &[&str]) {
    assert_eq!(record["verdict"], verdict, "{record}");
    let problem = record["problem"].as_str().unwrap();
    assert!(words.iter().any(|word| problem.contains(word)), "none of {words:?}: {problem}");
}

const DAMAGE: &[&str] = &["damaged", "does not match", "digest"];
const NO_SPACE: &[&str] = &["bytes free", "No space left"];

#[test]
fn of_a_cluster() {
    let Some(scene) = Scene::new(15, &[]) else { return };
    scene.cluster.psql(ORACLE);
    let before = scene.now();
    scene.insert(10);
    scene.expect(0, &["backup", "db"]);
    scene.insert(10);
    scene.archive_all();
    let (bin, scratch) = (scene.cluster.bin_dir().display().to_string(), scene.path("scratch").display().to_string());
    let drill = |code: i32, args: &[&str]| {
        let usual = ["drill", "db", "--json", "--quick", "--bin-dir", &bin];
        let scratch: &[&str] = if args.contains(&"--scratch-dir") { &[] } else { &["--scratch-dir", &scratch] };
        record(&scene.expect(code, &[&usual, scratch, args].concat()))
    };
    drill(0, &[]);
    // Its only base is younger than what is asked for.
    assert_ends(&drill(13, &["--at", &before]), "data-failed", &["its first complete"]);
    damaged(&largest(&scene.path("repo"), "/packs/"), || assert_ends(&drill(13, &[]), "data-failed", DAMAGE));
    // A damaged piece of its log: the server does not come to where it was promised to come.
    damaged(&scene.objects("000000010000000000000003")[0], || {
        let failed = drill(13, &[]);
        assert_eq!(failed["verdict"], "data-failed", "{failed}");
    });
    let wrong = scene.path("other-id").display().to_string();
    scene.expect(0, &["key", "generate", "--output", &wrong]);
    let alone = scene.sh(&format!(
        "./lifeboat --config lifeboat.toml --repo repo --state-dir state --identity {wrong} drill db --quick --bin-dir {bin} --scratch-dir {scratch}"
    ));
    assert_eq!(alone.status.code(), Some(12), "{}", String::from_utf8_lossy(&alone.stderr));
    // A setting that the server does not start with, in the next base backup.
    let settings = scene.cluster.data_dir().join("postgresql.conf");
    let text = fs::read_to_string(&settings).unwrap();
    fs::write(&settings, format!("{text}\nshared_buffers = 'plenty'\n")).unwrap();
    scene.expect(0, &["backup", "db"]);
    fs::write(&settings, text).unwrap();
    assert_ends(&drill(13, &[]), "data-failed", &["shared_buffers", "ended", "did not start"]);
    assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0);
    let Some(small) = Small::mount(8 << 10) else { return };
    fs::set_permissions(small.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let place = small.path().display().to_string();
    assert_ends(&drill(1, &["--scratch-dir", &place]), "not-held", NO_SPACE);
}

#[test]
fn of_dumps() {
    let Some(cluster) = Cluster::start(15) else { return };
    cluster.psql("CREATE DATABASE app");
    cluster.psql_in("app", "CREATE TABLE users AS SELECT n, md5(n::text) FROM generate_series(1, 4000) n");
    let tree = Tree::new("");
    let config = fs::read_to_string(tree.path("lifeboat.toml")).unwrap();
    let bin = bin_dir(15).unwrap().display().to_string();
    let dump = format!(
        "[sources.dump]\nkind = \"pg_dump\"\nconnection = \"{}\"\ndatabases = [\"app\"]\nbin_dir = \"{bin}\"\n",
        cluster.connection()
    );
    fs::write(tree.path("lifeboat.toml"), format!("{config}{dump}")).unwrap();
    let before = chrono::Utc::now().to_rfc3339();
    std::thread::sleep(std::time::Duration::from_millis(10));
    tree.run(0, &["backup", "dump"]);
    let scratch = tree.path("scratch").display().to_string();
    let drill = |code: i32, args: &[&str]| {
        let usual = ["drill", "dump", "--json", "--quick"];
        let scratch: &[&str] = if args.contains(&"--scratch-dir") { &[] } else { &["--scratch-dir", &scratch] };
        record(&tree.run(code, &[&usual, scratch, args].concat()))
    };
    drill(0, &[]);
    assert_ends(&drill(13, &["--at", &before]), "data-failed", &["its first complete"]);
    damaged(&largest(&tree.path("repo"), "/packs/"), || assert_ends(&drill(13, &[]), "data-failed", DAMAGE));
    tree.run(0, &["key", "generate", "--output", "other"]);
    fs::write(tree.path("bare.toml"), "[repository]\nurl = \"repo\"\n").unwrap();
    tree.run(12, &["--config", "bare.toml", "--identity", "other", "drill", "dump", "--bin-dir", &bin]);
    fs::write(tree.path("false.sql"), "SELECT false, 'why'").unwrap();
    assert_ends(&drill(13, &["--sql", "false.sql"]), "data-failed", &["(f, why)"]);
    // A server that does not start says nothing of the dumps: a shell in place of the program.
    let broken = tree.path("broken-bin");
    fs::create_dir(&broken).unwrap();
    for entry in fs::read_dir(&bin).unwrap().flatten() {
        let to = broken.join(entry.file_name());
        if entry.file_name() != "postgres" {
            std::os::unix::fs::symlink(entry.path(), to).unwrap();
        }
    }
    let script = format!("#!/bin/sh\ncase \"$*\" in *-D*) exit 1;; esac\nexec {bin}/postgres \"$@\"\n");
    fs::write(broken.join("postgres"), script).unwrap();
    fs::set_permissions(broken.join("postgres"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let broken = broken.display().to_string();
    assert_eq!(drill(1, &["--bin-dir", &broken])["verdict"], "not-held");
    assert_ends(&drill(20, &["--rto", "1s", "--sql", &slow(&tree)]), "rto-missed", &["objective is 1 s"]);
    assert_ends(&drill(21, &["--rpo", "1s"]), "rpo-missed", &["objective is 1 s"]);
    let Some(small) = Small::mount(64) else { return };
    let place = small.path().display().to_string();
    assert_ends(&drill(1, &["--scratch-dir", &place]), "not-held", NO_SPACE);
}

fn slow(tree: &Tree) -> String {
    fs::write(tree.path("slow.sql"), "SELECT pg_sleep(1.1) IS NOT NULL").unwrap();
    tree.path("slow.sql").display().to_string()
}

#[test]
fn of_a_deployment() {
    let place = Place::full();
    let before = after(place.convex.latest() - 86_400_000_000_000);
    place.expect(0, &["backup", "app"]);
    follow_up_to_now(&place);
    drilled(&place, 0, &[]);
    assert_ends(&drilled(&place, 13, &["--at", &before]), "data-failed", &["its first complete"]);
    let repository = place.path("repo");
    damaged(&largest(&repository, "/packs/"), || assert_ends(&drilled(&place, 13, &[]), "data-failed", DAMAGE));
    place.convex.insert("users", deployment::json("{}"));
    follow_up_to_now(&place);
    damaged(&largest(&repository, "/streams/app-"), || {
        let failed = drilled(&place, 13, &[]);
        assert_eq!(failed["verdict"], "data-failed", "{failed}");
    });
    place.expect(0, &["key", "generate", "--output", "other"]);
    place.expect(12, &["--identity", "other", "--config", "lifeboat.toml", "drill", "app"]);
    assert_ends(
        &drilled(&place, 20, &["--rto", "1s", "--command-line", "sleep 1.1"]),
        "rto-missed",
        &["objective is 1 s"],
    );
    assert_ends(&drilled(&place, 21, &["--rpo", "1s"]), "rpo-missed", &["objective is 1 s"]);
    assert_ends(&drilled(&place, 13, &["--command-line", "test -d nowhere"]), "data-failed", &["command"]);
    let Some(small) = Small::mount(100) else { return };
    let small_place = small.path().display().to_string();
    assert_ends(&drilled(&place, 1, &["--scratch-dir", &small_place]), "not-held", NO_SPACE);
}

#[test]
fn of_a_tree() {
    let tree = Tree::new("");
    let before = chrono::Utc::now().to_rfc3339();
    std::thread::sleep(std::time::Duration::from_millis(10));
    tree.run(0, &["backup", "data"]);
    let drill = |code: i32, args: &[&str]| record(&tree.run(code, &[&["drill", "data", "--json"], args].concat()));
    drill(0, &[]);
    assert_ends(&drill(13, &["--at", &before]), "data-failed", &["its first complete"]);
    tree.run(0, &["key", "generate", "--output", "other"]);
    fs::write(tree.path("bare.toml"), "[repository]\nurl = \"repo\"\n").unwrap();
    let told = tree.run(12, &["--config", "bare.toml", "--identity", "other", "drill", "data"]);
    assert!(told.contains("cannot be opened with the keys at hand"), "{told}");
    let Some(small) = Small::mount(100) else { return };
    let place = small.path().display().to_string();
    assert_ends(&drill(1, &["--scratch-dir", &place]), "not-held", NO_SPACE);
}
