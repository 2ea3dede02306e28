//! Groups: databases are captured before blobs, and all sources come back at one time, by one command.

use std::fs;

use crate::common::scene::{ORACLE, Scene};

fn scene() -> Option<Scene> {
    let scene = Scene::new(15, &[])?;
    scene.cluster.psql(ORACLE);
    let at = |name: &str| scene.path(name).display().to_string();
    let made = scene.sh(
        "mkdir -p files/storage/modules files/storage/files files/credentials vol && echo convex-self-hosted > files/credentials/instance_name \
         && echo code > files/storage/modules/m.blob && echo before > files/storage/files/a.blob \
         && python3 -c 'import sqlite3
for path in [\"vol/app.db\", \"one.sqlite3\"]:
    db = sqlite3.connect(path)
    db.execute(\"CREATE TABLE t (x)\")
    db.execute(\"INSERT INTO t VALUES (1)\")
    db.commit()'",
    );
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let config = fs::read_to_string(scene.path("lifeboat.toml")).unwrap();
    let more = format!(
        "[sources.a-files]\nkind = \"volume\"\npath = \"{}\"\n[sources.one]\nkind = \"sqlite\"\npath = \"{}\"\n\
         [sources.vol]\nkind = \"volume\"\npath = \"{}\"\n[groups.nightly]\nsources = [\"a-files\", \"db\", \"one\", \"vol\"]\n\
         [groups.empty]\nsources = []\n",
        at("files"),
        at("one.sqlite3"),
        at("vol")
    );
    fs::write(scene.path("lifeboat.toml"), config + &more).unwrap();
    Some(scene)
}

/// A blob of the volume, at this moment.
fn upload(scene: &Scene, name: &str) {
    assert!(scene.sh(&format!("echo {name} > files/storage/files/{name}.blob")).status.success());
}

#[test]
fn a_group_comes_back_at_one_time_and_blobs_follow_their_database() {
    let Some(scene) = scene() else { return };
    let early = scene.now();
    scene.insert(10);
    let said = scene.expect(0, &["backup", "--group", "nightly"]);
    let at = |what: &str| said.find(what).unwrap_or_else(|| panic!("{what} is not in {said}"));
    assert!(at("source    db") < at("source    a-files") && at("source    one") < at("source    vol"), "{said}");
    assert!(said.contains("/storage/exports/*") && said.contains("database  app.db"), "{said}");

    // A blob, then the row that names it; the moment; and the next night.
    upload(&scene, "b");
    scene.insert(5);
    let (moment, rows) = scene.point();
    scene.insert(100);
    scene.archive_all();
    let into = scene.path("restored");
    let target = into.display().to_string();
    let restore = ["restore", "--group", "nightly", "--into", &target, "--archive-mode-off", "--verify", "--to"];
    let with = |rest: &[&'static str], moment: &str| {
        let words: Vec<String> = restore.iter().chain(rest).map(|word| (*word).to_owned()).collect();
        let at = restore.len();
        let mut words: Vec<String> = words;
        words.insert(at, moment.to_owned());
        words
    };
    let run = |code: i32, words: &[String]| scene.expect(code, &words.iter().map(String::as_str).collect::<Vec<_>>());
    let said = run(0, &with(&["--dry-run"], &moment));
    assert!(said.contains("`a-files` has no snapshot that began after that time"), "{said}");
    assert!(said.contains("restore cluster") && said.contains("Nothing was written"), "{said}");
    assert!(!into.exists());

    scene.expect(0, &["backup", "--group", "nightly"]);
    let said = run(0, &with(&[], &moment));
    assert!(!said.contains("may be missing") && said.contains("group     4 of 4 sources restored"), "{said}");
    assert_eq!(said.matches("1 database is sound").count(), 2, "{said}");
    assert!(into.join("a-files/storage/files/b.blob").exists(), "the blob is there that a row names");
    for name in ["vol/app.db", "one/one.sqlite3"] {
        assert_eq!(lifeboat::client::sqlite::check(&into.join(name), &|| false).unwrap(), Vec::<String>::new());
    }
    assert_eq!(scene.ask_restored(&into.join("db"), "SELECT count(*) FROM oracle"), Ok(rows));

    // Before there was anything: nothing is written, and it is said which source, and what can be had.
    let nowhere = scene.path("nowhere").display().to_string();
    let said = scene.expect(4, &["restore", "--group", "nightly", "--into", &nowhere, "--to", &early]);
    assert!(said.contains("of the group cannot be restored so; nothing was written"), "{said}");
    assert!(!scene.path("nowhere").exists());
    scene.expect(2, &["restore", "--group", "weekly", "--into", &nowhere]);
    scene.expect(2, &["restore", "--group", "empty", "--into", &nowhere]);
    scene.expect(2, &["restore", "--into", &nowhere]);
}
