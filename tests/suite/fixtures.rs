//! The repositories of every format that was ever released: never edited, read for ever.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lifeboat::plan::restore::Wanted;
use lifeboat::progress::Silent;
use object_store::local::LocalFileSystem;

use crate::common::{Host, Person, copy_tree};

/// Every fixture, and what must be found in it: path and BLAKE3 of its files' content, in the newest snapshot.
const FIXTURES: &[&str] = &["format-1"];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/repositories")
}

fn contents(root: &Path) -> BTreeMap<String, String> {
    let (mut all, mut open) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(path).unwrap().map(|e| e.unwrap().path()));
        } else if path.is_file() {
            let name = path.strip_prefix(root).unwrap().display().to_string();
            all.insert(name, blake3::hash(&fs::read(&path).unwrap()).to_hex().to_string());
        }
    }
    all
}

#[test]
fn every_fixture_is_tested() {
    let mut found: Vec<String> =
        fs::read_dir(folder()).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    found.sort();
    assert_eq!(found, FIXTURES);
}

#[test]
fn every_format_is_read_checked_restored_and_appended_to() {
    for name in FIXTURES {
        let fixture = folder().join(name);
        let copy = tempfile::tempdir().unwrap();
        copy_tree(&fixture.join("repository"), copy.path());
        let identity = fs::read_to_string(fixture.join("identity.txt")).unwrap();
        let identity = identity.lines().find(|line| line.starts_with("AGE-SECRET-KEY-1")).unwrap().to_owned();
        let person = Person { identity, recipient: String::new() };
        let host = Host::new(Arc::new(LocalFileSystem::new_with_prefix(copy.path()).unwrap()));
        let expected = fs::read_to_string(fixture.join("expected.json")).unwrap();
        let expected: BTreeMap<String, String> = serde_json::from_str(&expected).unwrap();
        {
            let (mut repository, problems) = host.open(Some(&person)).unwrap();
            assert_eq!(problems, [], "{name}");
            assert_eq!(repository.catalog().snapshots().unwrap().len(), 2, "{name}");
            use lifeboat::ops::check::{ReadData, check};
            let now = chrono::Utc::now();
            let report = check(&mut repository, ReadData::All, &problems, now, 1, &Silent).unwrap();
            assert!(report.is_clean(), "{name}: {report:?}");
        }
        let back = tempfile::tempdir().unwrap();
        host.restore(&person, &Wanted::Latest, back.path()).unwrap();
        assert_eq!(contents(back.path()), expected, "{name}");
        host.join(&person).unwrap();
        host.backup(back.path()).unwrap();
        assert_eq!(host.snapshots().len(), 3, "{name}: one more");
    }
}
