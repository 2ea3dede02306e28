//! Keys that a plugin of age holds: recipients on a host that seals, identities where something is opened, and stock `age` with the same plugin.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::common::tree;

fn plugin() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite/common")
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_plugin_seals_opens_and_is_missed_by_name() {
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| -> PathBuf { place.path().join(name) };
    let made = Command::new(plugin().join("age-plugin-lifeboattest")).arg("--new").output().unwrap();
    let made = String::from_utf8(made.stdout).unwrap();
    let (identity, recipient) = made.trim().split_once('\n').unwrap();
    fs::write(path("id"), format!("# held by a plugin\n{identity}\n")).unwrap();
    let usual = std::env::var("PATH").unwrap();
    let with = format!("{}:{usual}", plugin().display());
    let run = |code: i32, search: &str, args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
        command.env_clear().env("HOME", place.path()).env("TZ", "UTC").env("PATH", search);
        let output = command.current_dir(place.path()).args(["--repo", "repo", "--state-dir", "state"]).args(args);
        let output = output.output().unwrap();
        let said = text(&output);
        assert_eq!(output.status.code(), Some(code), "{args:?}\n{said}");
        said
    };
    tree::make(&path("data"), 5);
    let missed = run(12, &usual, &["init", "--recipient", recipient]);
    assert!(missed.contains("age-plugin-lifeboattest"), "{missed}");
    run(0, &with, &["init", "--recipient", recipient]);
    let backup = ["backup", "--path", "data", "--name", "data"];
    run(0, &with, &backup);
    // Where the program is gone nothing is sealed to fewer people in silence.
    fs::write(path("data/more"), tree::noise(100_000, 1)).unwrap();
    let missed = run(12, &usual, &backup);
    assert!(missed.contains("age-plugin-lifeboattest"), "{missed}");
    run(0, &with, &backup);
    // To list needs no plugin, for this host reads its own log.
    assert!(run(0, &usual, &["snapshots"]).contains("data"));
    let missed = run(12, &usual, &["--identity", "id", "restore", "data", "--into", "back"]);
    assert!(missed.contains("age-plugin-lifeboattest") && !missed.contains(identity), "{missed}");
    run(0, &with, &["--identity", "id", "restore", "data", "--into", "back"]);
    assert_eq!(tree::describe(&path("back")), tree::describe(&path("data")));
    run(0, &with, &["--identity", "id", "check", "--read-data"]);
    // The real `age`, with the same plugin.
    let mut recover = Command::new("python3");
    recover.arg(path("repo/recover.py")).env("PATH", &with).arg("--repository").arg(path("repo"));
    let output = recover.args(["--identity", path("id").to_str().unwrap(), "list"]).output().unwrap();
    assert!(output.status.success() && text(&output).contains("data"), "{}", text(&output));
    // Beside an ordinary key, either opens.
    run(0, &with, &["key", "generate", "--output", "second"]);
    let second = fs::read_to_string(path("second")).unwrap();
    let second = second.lines().find_map(|line| line.strip_prefix("# public key: ")).unwrap().to_owned();
    run(0, &with, &["--identity", "id", "key", "add", &second]);
    run(0, &with, &backup);
    run(0, &usual, &["--identity", "second", "restore", "data", "--into", "by-second"]);
    assert_eq!(tree::describe(&path("by-second")), tree::describe(&path("data")));
}
