//! A bare machine begins again: with the URL and an identity, and nothing else.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;

struct Machine {
    folder: TempDir,
}

impl Machine {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What it prints, with what it says beside.
    fn run(&self, code: i32, args: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
        command.env_clear().env("HOME", self.folder.path()).env("PATH", std::env::var_os("PATH").unwrap());
        command.env("XDG_STATE_HOME", self.path("state")).env("TZ", "UTC").current_dir(self.folder.path());
        let output = command.args(args).stdin(Stdio::null()).output().unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{args:?}\n{text}");
        text
    }
}

/// A machine that was backed up, its repository's URL, and the identity; then the machine is gone.
fn lost(config: &str) -> (TempDir, String, String) {
    let (shelf, machine) = (tempfile::tempdir().unwrap(), Machine::new());
    let url = format!("file://{}", shelf.path().join("repo").display());
    fs::create_dir(machine.path("data")).unwrap();
    fs::write(machine.path("data/a"), "first").unwrap();
    let configure = |more: &str| {
        let text = format!("{config}{more}[sources.data]\nkind = \"volume\"\npath = \"data\"\n");
        fs::write(machine.path("lifeboat.toml"), &text).unwrap();
        text
    };
    configure("# the first\n");
    machine.run(0, &["--repo", &url, "init", "--generate-identity", "id"]);
    machine.run(0, &["--repo", &url, "backup", "data"]);
    let commits = || {
        let log = fs::read_dir(shelf.path().join("repo/writers")).unwrap().next().unwrap().unwrap().path();
        walk(&log.join("streams"))
    };
    assert_eq!(commits(), 1);
    machine.run(0, &["--repo", &url, "backup", "data"]);
    assert_eq!(commits(), 1, "what is the same is not stored twice");
    fs::write(machine.path("data/a"), "second").unwrap();
    let text = configure("# the second\n");
    machine.run(0, &["--repo", &url, "backup", "data"]);
    assert_eq!(commits(), 2);
    fs::copy(machine.path("id"), shelf.path().join("id")).unwrap();
    (shelf, url, text)
}

fn walk(folder: &std::path::Path) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { walk(&entry.path()) } else { 1 }).sum()
}

#[test]
fn configuration_catalog_and_data_come_back() {
    let (shelf, url, text) = lost("# a comment that stays\n");
    let identity = shelf.path().join("id").display().to_string();
    let machine = Machine::new();
    let told = machine.run(0, &["--repo", &url, "--identity", &identity, "bootstrap"]);
    assert_eq!(fs::read_to_string(machine.path("lifeboat.toml")).unwrap(), text);
    assert!(told.contains("catalog        3 snapshots"), "{told}");
    let line = told.lines().find(|line| line.trim().starts_with("lifeboat restore ")).unwrap().trim();
    // The command that it names is one.
    let words: Vec<&str> = line.split_whitespace().skip(1).collect();
    let command: Vec<&str> = words.iter().map(|word| if *word == "DIRECTORY" { "out" } else { word }).collect();
    machine.run(0, &[&["--repo", &url, "--identity", &identity], command.as_slice()].concat());
    assert_eq!(fs::read_to_string(machine.path("out/a")).unwrap(), "second");
    // What is there stays.
    fs::write(machine.path("lifeboat.toml"), "# mine\n").unwrap();
    let told = machine.run(2, &["--repo", &url, "--identity", &identity, "bootstrap"]);
    assert!(told.contains("is there already") && told.contains("--into FILE"), "{told}");
    assert_eq!(fs::read_to_string(machine.path("lifeboat.toml")).unwrap(), "# mine\n");
    machine.run(0, &["--repo", &url, "--identity", &identity, "bootstrap", "--into", "other.toml"]);
    assert_eq!(fs::read_to_string(machine.path("other.toml")).unwrap(), text);
    let told = machine.run(2, &["--repo", &url, "--identity", &identity, "bootstrap", "--writer", "nobody"]);
    assert!(told.contains("no configuration of the writer `nobody`"), "{told}");
}

#[test]
fn without_the_right_identity_nothing_is_told() {
    let (_shelf, url, _) = lost("");
    let machine = Machine::new();
    let other = lifeboat::seal::generate_identity().0;
    fs::write(machine.path("other"), other).unwrap();
    let told = machine.run(12, &["--repo", &url, "--identity", "other", "bootstrap"]);
    assert!(!machine.path("lifeboat.toml").exists() && !told.contains("the second"), "{told}");
    let told = machine.run(10, &["--repo", "file:///nowhere/at/all", "--identity", "other", "bootstrap"]);
    assert!(told.contains("no repository") || told.contains("nowhere"), "{told}");
}
