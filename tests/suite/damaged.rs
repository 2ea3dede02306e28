//! Damaged repositories as they lie in `fixtures/damaged`, each with the state directory of its host: what `repair` says of them, word for word,
//! and what can be restored afterwards. `LIFEBOAT_BLESS=1` writes the words anew. Their catalogs are older than this program, too.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::copy_tree;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/damaged")
}

struct Case {
    place: tempfile::TempDir,
    told: String,
}

impl Case {
    fn new(name: &str) -> Self {
        let place = tempfile::tempdir().unwrap();
        copy_tree(&folder().join(name), place.path());
        fs::copy(folder().join("identity.txt"), place.path().join("identity.txt")).unwrap();
        Self { place, told: String::new() }
    }

    /// Runs lifeboat and writes down what it said.
    fn run(&mut self, args: &[&str]) -> i32 {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
        command.env_clear().env("HOME", self.place.path()).env("TZ", "UTC").current_dir(self.place.path());
        command.args(["--repo", "repository", "--state-dir", "state", "--identity", "identity.txt"]);
        let output = command.args(args).output().unwrap();
        let code = output.status.code().unwrap();
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        let text = text.replace(self.place.path().to_str().unwrap(), "$ROOT");
        self.told += &format!("$ lifeboat {}\n{text}[{code}]\n\n", args.join(" "));
        code
    }

    /// The newest snapshot is what the source was.
    fn newest_is_whole(&mut self) {
        let told = self.told.clone();
        assert_eq!(self.run(&["--quiet", "restore", "data", "--into", "back"]), 0, "{}", self.told);
        self.told = told;
        let expected: BTreeMap<String, String> = fs::read_to_string(folder().join("newest.txt"))
            .unwrap()
            .lines()
            .map(|line| line.split_once(' ').map(|(sum, path)| (path.to_owned(), sum.to_owned())).unwrap())
            .collect();
        for (path, sum) in &expected {
            let found = fs::read(self.place.path().join("back").join(path)).unwrap();
            assert_eq!(&blake3::hash(&found).to_hex().to_string(), sum, "{path}");
        }
        fs::remove_dir_all(self.place.path().join("back")).unwrap();
    }

    fn end(self, name: &str) {
        let path = folder().join(name).join("told.txt");
        if std::env::var_os("LIFEBOAT_BLESS").is_some() {
            fs::write(&path, &self.told).unwrap();
        }
        let expected = fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(self.told, expected, "{} differs; `LIFEBOAT_BLESS=1 ./test` writes it anew", path.display());
    }
}

/// The whole of it comes back.
fn mended(name: &str) {
    let mut case = Case::new(name);
    assert_eq!(case.run(&["repair"]), 0, "{}", case.told);
    assert_eq!(case.run(&["check", "--read-data"]), 0, "{}", case.told);
    case.newest_is_whole();
    case.end(name);
}

/// Some of it is lost: what, and what is not, is said. The next backup stores anew what the source still has.
fn hurt(name: &str) {
    let mut case = Case::new(name);
    assert_eq!(case.run(&["repair", "--dry-run"]), 13, "{}", case.told);
    assert_eq!(case.run(&["repair"]), 13, "{}", case.told);
    let told = case.told.clone();
    // The source as it was: from another fixture.
    let mut other = Case::new("lost-catalog");
    assert_eq!(other.run(&["--quiet", "restore", "data", "--into", "data"]), 0, "{}", other.told);
    copy_tree(&other.place.path().join("data"), &case.place.path().join("data"));
    assert_eq!(case.run(&["backup", "--path", "data", "--name", "data"]), 0, "{}", case.told);
    case.newest_is_whole();
    case.told = told;
    case.end(name);
}

#[test]
fn a_lost_catalog() {
    mended("lost-catalog");
}

#[test]
fn a_lost_commit() {
    mended("lost-commit");
}

#[test]
fn chunks_that_are_stored_twice() {
    mended("duplicate-chunks");
}

#[test]
fn a_lost_pack() {
    hurt("lost-pack");
}

#[test]
fn a_truncated_pack() {
    hurt("truncated-pack");
}

/// What never became a repository is none, and `init` makes one there.
#[test]
fn an_init_that_did_not_end() {
    let mut case = Case::new("crashed-init");
    assert_eq!(case.run(&["repair"]), 10, "{}", case.told);
    assert_eq!(case.run(&["check"]), 10, "{}", case.told);
    let told = case.told.clone();
    let identity = fs::read_to_string(folder().join("identity.txt")).unwrap();
    let recipient = identity.split_whitespace().find(|word| word.starts_with("age1")).unwrap().to_owned();
    assert_eq!(case.run(&["init", "--recipient", &recipient]), 0, "{}", case.told);
    fs::create_dir(case.place.path().join("data")).unwrap();
    fs::write(case.place.path().join("data/file"), "text").unwrap();
    assert_eq!(case.run(&["backup", "--path", "data", "--name", "data"]), 0, "{}", case.told);
    assert_eq!(case.run(&["check", "--read-data"]), 0, "{}", case.told);
    case.told = told;
    case.end("crashed-init");
}

#[test]
fn every_fixture_has_its_test() {
    let mut found: Vec<String> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    found.sort();
    let tested = ["crashed-init", "duplicate-chunks", "lost-catalog", "lost-commit", "lost-pack", "truncated-pack"];
    assert_eq!(found, tested);
}
