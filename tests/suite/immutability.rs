//! What docs/immutability.md promises, with its own policies, on a server that enforces them: a host's keys can only create; what a thief overwrites
//! or deletes all the same is read as it was before.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::common::servers::Locked;
use crate::common::tree;

struct Place {
    root: tempfile::TempDir,
    server: Locked,
}

impl Place {
    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn run(&self, code: i32, user: &str, args: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
        command.env_clear().env("HOME", self.root.path()).env("TZ", "UTC").env("XDG_STATE_HOME", self.path(user));
        self.server.sign_in(&mut command, user);
        command.current_dir(self.root.path()).args(["--repo", "s3://bucket/prod"]).args(args).stdin(Stdio::null());
        let output = command.output().unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{user} {args:?}\n{said}");
        said
    }

    fn back_up(&self) {
        self.run(0, "host", &["backup", "--path", "data", "--name", "data"]);
    }
}

/// A moment that lies between what was stored and what comes: versions have whole seconds.
fn pause() -> String {
    std::thread::sleep(Duration::from_millis(1100));
    let now = chrono::Utc::now().to_rfc3339();
    std::thread::sleep(Duration::from_millis(1100));
    now
}

#[test]
fn what_a_thief_of_the_hosts_keys_overwrites_is_read_as_it_was() {
    let Some(server) = Locked::start() else { return };
    let place = Place { root: tempfile::tempdir().unwrap(), server };
    tree::make(&place.path("data"), 5);
    place.run(0, "reader", &["key", "generate", "--output", "id"]);
    let identity = fs::read_to_string(place.path("id")).unwrap();
    let recipient = identity.split_whitespace().find(|word| word.starts_with("age1")).unwrap().to_owned();
    let init = ["init", "--recipient", &recipient];
    assert!(place.run(1, "host", &init).contains("set `checksums = true` under [repository]"));
    fs::write(place.path("lifeboat.toml"), "[repository]\nchecksums = true\n").unwrap();
    place.run(0, "host", &init);
    place.back_up();
    fs::write(place.path("data/more"), tree::noise(400_000, 1)).unwrap();
    place.back_up();
    let before = tree::describe(&place.path("data"));
    let time = pause();
    // A host that may not delete goes on; what it cannot delete it puts off.
    fs::write(place.path("data/later"), tree::noise(100_000, 2)).unwrap();
    place.back_up();
    let id = |n: usize| -> String {
        let listed: Value = serde_json::from_str(&place.run(0, "host", &["--json", "snapshots"])).unwrap();
        listed[n]["id"].as_str().unwrap().to_owned()
    };
    place.run(0, "host", &["forget", "--snapshot", &id(0)]);

    let robbed: Value = serde_json::from_str(&place.server.script("rob", "host")).unwrap();
    let objects = robbed["objects"].as_u64().unwrap();
    assert!(objects > 10, "{robbed}");
    let count = |what: &str| -> (u64, u64) {
        let pair = &robbed["allowed_denied"][what];
        (pair[0].as_u64().unwrap(), pair[1].as_u64().unwrap())
    };
    for what in ["policy", "versioning", "users"] {
        assert_eq!(count(what), (0, 1), "{robbed}");
    }
    assert_eq!((count("delete"), count("delete version")), ((0, objects), (0, objects)), "{robbed}");
    assert_eq!(count("overwrite"), (objects.div_ceil(2), 0), "{robbed}");

    // The bucket of today is damaged; that of a moment ago is whole.
    place.run(12, "reader", &["--as-of", &time, "snapshots"]);
    let then = ["--identity", "id", "--as-of", &time];
    let read = |code: i32, args: &[&str]| place.run(code, "reader", &[&then[..], args].concat());
    let said = read(0, &["--quiet", "snapshots"]);
    assert_eq!(said.matches("/data ").count(), 2, "{said}");
    let said = read(0, &["check", "--read-data"]);
    assert!(said.contains("The store as of") && said.contains("all in order"), "{said}");
    read(0, &["restore", "data", "--into", "back"]);
    assert_eq!(tree::describe(&place.path("back")), before);
    let said = read(2, &["backup", "--path", "data", "--name", "data"]);
    assert!(said.contains("a store is read, never written"), "{said}");

    // Whoever may do everything hides objects behind delete markers; the locked versions stay.
    let robbed: Value = serde_json::from_str(&place.server.script("rob", "admin")).unwrap();
    assert_eq!(robbed["allowed_denied"]["delete version"][0], 0, "{robbed}");
    assert_eq!(robbed["allowed_denied"]["delete"][1], 0, "{robbed}");
    fs::remove_dir_all(place.path("back")).unwrap();
    place.run(10, "reader", &["--identity", "id", "--state-dir", "bare", "snapshots"]);
    let bare = ["--identity", "id", "--as-of", &time, "--state-dir", "bare"];
    place.run(0, "reader", &[&bare[..], &["restore", "data", "--into", "back"]].concat());
    assert_eq!(tree::describe(&place.path("back")), before);
}

/// The line of an answer that is no warning.
fn json(said: &str) -> Value {
    let is_answer = |line: &&str| line.starts_with(['{', '[']) && !line.contains("\"warning\"");
    let line = said.lines().rev().find(is_answer).unwrap_or_else(|| panic!("{said}"));
    serde_json::from_str(line).unwrap()
}

#[test]
fn a_keeper_deletes_what_hosts_may_not_and_nothing_but_packs_and_segments() {
    let Some(server) = Locked::start() else { return };
    let place = Place { root: tempfile::tempdir().unwrap(), server };
    tree::make(&place.path("data"), 5);
    fs::write(place.path("lifeboat.toml"), "[repository]\nchecksums = true\n").unwrap();
    place.run(0, "host", &["init", "--generate-identity", "id", "--host", "db1"]);
    place.run(0, "keeper", &["--identity", "id", "init", "--host", "keep1"]);
    for night in 0..2 {
        fs::write(place.path("data/tonight"), tree::noise(5_000_000, night)).unwrap();
        place.back_up();
    }
    let listed = json(&place.run(0, "keeper", &["--json", "key", "list"]));
    let keeper = listed["this_writer"].as_str().unwrap().to_owned();
    place.run(0, "keeper", &["--identity", "id", "key", "keeper", &keeper, "--all", "--hold", "0h"]);
    let ids = place.run(0, "host", &["--json", "snapshots"]);
    let oldest = ids.split('"').filter(|word| word.len() == 26 && word.starts_with("01")).min().unwrap().to_owned();
    place.run(0, "host", &["forget", "--snapshot", &oldest]);
    // The host may not: it is put off, and named.
    let prune = ["--json", "prune", "--grace", "0h", "--max-unused", "0%"];
    let put_off = json(&place.run(3, "host", &prune));
    let report = &put_off["report"];
    assert!(report["deferred"].as_u64().unwrap() > 0 && report["packs_deleted"] == 0, "{put_off}");
    let done = json(&place.run(0, "keeper", &[&prune[..], &["--keeper"]].concat()));
    let report = &done["report"];
    assert!(report["packs_deleted"].as_u64().unwrap() > 0 && report["deferred"] == 0, "{done}");
    place.run(0, "host", &["--identity", "id", "check", "--read-data"]);
    place.run(0, "host", &["--identity", "id", "restore", "data", "--into", "back"]);
    assert_eq!(tree::describe(&place.path("back")), tree::describe(&place.path("data")));
    // With its keys a thief hides packs and segments behind delete markers, and nothing else; the locked versions stay.
    let robbed: Value = serde_json::from_str(&place.server.script("rob", "keeper")).unwrap();
    let pair = |what: &str| (robbed["allowed_denied"][what][0].as_u64(), robbed["allowed_denied"][what][1].as_u64());
    let (allowed, denied) = pair("delete");
    assert!(allowed > Some(0) && denied > Some(5), "{robbed}");
    assert_eq!(pair("delete version").0, Some(0), "{robbed}");
}

#[test]
fn only_a_bucket_that_keeps_versions_has_another_time() {
    let place = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
    command.env_clear().env("HOME", place.path()).current_dir(place.path());
    let output = command.args(["--repo", "repo", "--as-of", "2h ago", "snapshots"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("only an S3 bucket that keeps versions"), "{said}");
    assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/immutability.md").is_file());
}
