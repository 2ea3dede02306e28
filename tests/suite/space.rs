//! No space left on device, for real: small file systems in memory under the store, the state directory and the
//! destination. A clear error, nothing lost, and the next run with space goes through.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use lifeboat::ops;
use lifeboat::ops::restore::{Overwrite, RestoreOptions};
use lifeboat::plan::restore::Wanted;
use object_store::local::LocalFileSystem;
use tempfile::TempDir;

use crate::common::history::{assert_no_lies, chain};
use crate::common::{Host, Person, copy_tree, plain, tree};

/// A small file system, unmounted with the value.
pub struct Small {
    folder: TempDir,
}

impl Small {
    /// Mounts one, or says loudly that it may not; where `LIFEBOAT_TEST_REQUIRE` is set that is a failure.
    pub fn mount(kilobytes: u64) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={kilobytes}k");
        let output = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder.path()).output();
        match output {
            Ok(output) if output.status.success() => Some(Self { folder }),
            other => {
                assert!(
                    std::env::var_os("LIFEBOAT_TEST_REQUIRE").is_none(),
                    "a small file system could not be mounted, and here it must be: {other:?}"
                );
                eprintln!("SKIPPED: no small file system could be mounted (that needs root)");
                None
            }
        }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Fills it up but for so many kilobytes; the file that does is returned, to be removed.
    pub fn fill(&self, but: u64) -> PathBuf {
        let path = self.path().join("ballast");
        let stat = rustix::fs::statvfs(self.path()).unwrap();
        let bytes = (stat.f_bavail * stat.f_frsize).saturating_sub(but << 10);
        fs::write(&path, vec![0; bytes as usize]).unwrap();
        path
    }

    fn resize(&self, kilobytes: u64) {
        let size = format!("remount,size={kilobytes}k");
        assert!(Command::new("mount").args(["-o", &size]).arg(self.path()).status().unwrap().success());
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.folder.path()).status();
    }
}

fn source() -> TempDir {
    let source = tempfile::tempdir().unwrap();
    tree::make(source.path(), 5);
    tree::age(source.path());
    source
}

fn grow(source: &TempDir, bytes: usize) {
    fs::write(source.path().join("more"), tree::noise(bytes, 42)).unwrap();
    tree::age(source.path());
}

fn assert_says_full(error: &ops::Error) {
    let text = chain(error).to_lowercase();
    let words = ["no space left on device", "disk is full", "bytes free"];
    // SQLite calls some of it an I/O error: then the hint says where to look, and nobody is sent to rebuild a catalog.
    let hint = error.hint().unwrap_or_default();
    let said = words.iter().any(|word| text.contains(word)) || hint.contains("Check the free space");
    assert!(said && !hint.contains("catalog rebuild"), "{text}: {hint}");
}

fn restores(host: &Host, person: &Person, expected: &std::collections::BTreeMap<String, String>) {
    let back = tempfile::tempdir().unwrap();
    host.restore(person, &Wanted::Latest, back.path()).unwrap();
    assert_eq!(&tree::describe(back.path()), expected);
}

#[test]
fn a_full_store_fails_the_backup_and_loses_nothing() {
    let Some(small) = Small::mount(1024) else { return };
    let (source, person) = (source(), Person::new());
    let host = Host::new(Arc::new(LocalFileSystem::new_with_prefix(small.path()).unwrap()));
    host.init(&person);
    host.backup(source.path()).unwrap();
    let before = tree::describe(source.path());
    grow(&source, 3_000_000);
    for _ in 0..2 {
        let error = host.backup(source.path()).unwrap_err();
        assert_says_full(&error);
        assert_eq!(host.snapshots().len(), 1);
        restores(&host, &person, &before);
    }
    small.resize(16 << 10);
    let report = host.backup(source.path()).unwrap();
    assert_eq!(report.problems, []);
    restores(&host, &person, &tree::describe(source.path()));
}

#[test]
fn a_store_that_is_full_at_every_place_loses_nothing() {
    let Some(small) = Small::mount(16 << 10) else { return };
    let (source, person) = (source(), Person::new());
    let pristine = tempfile::tempdir().unwrap();
    let host = Host::new(Arc::new(LocalFileSystem::new_with_prefix(pristine.path()).unwrap()));
    host.init(&person);
    host.backup(source.path()).unwrap();
    let before = tree::describe(source.path());
    grow(&source, 200_000);
    let after = tree::describe(source.path());
    // From no room at all to enough: somewhere between the pack fits and the manifest or the commit does not.
    let mut failed = 0;
    for kilobytes in [0, 4, 100, 210, 216, 220, 224, 228, 232, 240, 300] {
        let store = small.path().join("store");
        copy_tree(pristine.path(), &store);
        let host = host.clone_state(Arc::new(LocalFileSystem::new_with_prefix(&store).unwrap()));
        let ballast = small.fill(kilobytes);
        match host.backup(source.path()) {
            Ok(_) => restores(&host, &person, &after),
            Err(e) => {
                failed += 1;
                assert_says_full(&e);
                restores(&host, &person, &before);
            }
        }
        fs::remove_file(ballast).unwrap();
        let report = host.backup(source.path()).unwrap();
        assert_eq!(report.problems, [], "{kilobytes}");
        restores(&host, &person, &after);
        fs::remove_dir_all(&store).unwrap();
    }
    assert!((3..11).contains(&failed), "{failed} failed: the sizes prove little");
}

#[test]
fn a_full_state_directory_fails_the_backup_and_loses_nothing() {
    let Some(small) = Small::mount(8 << 10) else { return };
    let (source, person, store) = (source(), Person::new(), tempfile::tempdir().unwrap());
    let objects = || Arc::new(LocalFileSystem::new_with_prefix(store.path()).unwrap());
    let state = tempfile::tempdir_in(small.path()).unwrap();
    let host = Host { state: state.into(), ..Host::new(objects()) };
    host.init(&person);
    host.backup(source.path()).unwrap();
    let mut failed = 0;
    for (round, kilobytes) in [0, 4, 16, 40, 64, 96, 128, 400].into_iter().enumerate() {
        // Many small files: the catalog and the copy of the manifest grow.
        for n in 0..400 {
            fs::write(source.path().join(format!("{round}-{n}")), format!("{round} {n}")).unwrap();
        }
        tree::age(source.path());
        let known = host.snapshots().len();
        let ballast = small.fill(kilobytes);
        let outcome = host.backup(source.path());
        if let Err(e) = &outcome {
            failed += 1;
            assert_says_full(e);
        }
        fs::remove_file(ballast).unwrap();
        // A run that failed behind its commit has made its snapshot all the same: the store comes first.
        let there = host.snapshots().len();
        assert!(there == known + 1 || (outcome.is_err() && there == known), "{kilobytes}");
        let report = host.backup(source.path()).unwrap();
        assert_eq!(report.problems, [], "{kilobytes}");
        restores(&host, &person, &tree::describe(source.path()));
    }
    assert!((2..8).contains(&failed), "{failed} failed: the sizes prove little");
}

#[test]
fn a_full_destination_fails_the_restore_and_it_goes_on_with_space() {
    let Some(small) = Small::mount(1024) else { return };
    let (source, person, store) = (source(), Person::new(), tempfile::tempdir().unwrap());
    let host = Host::new(Arc::new(LocalFileSystem::new_with_prefix(store.path()).unwrap()));
    host.init(&person);
    grow(&source, 3_000_000);
    host.backup(source.path()).unwrap();
    let expected = tree::describe(source.path());
    let into = small.path().join("into");
    // Told before anything is written.
    let error = host.restore(&person, &Wanted::Latest, &into).unwrap_err();
    assert!(matches!(error, ops::Error::Destination(lifeboat::destination::Error::NoSpace { .. })), "{error}");
    assert_says_full(&error);
    assert!(!into.exists());
    // Where that cannot be told beforehand, because something stands there already, it fails half-way.
    fs::create_dir(&into).unwrap();
    fs::write(into.join("mine"), "mine").unwrap();
    let over = RestoreOptions { overwrite: Overwrite::IfChanged, ..plain() };
    let error = host.restore_with(&person, &Wanted::Latest, &into, over.clone()).unwrap_err();
    assert_says_full(&error);
    fs::remove_file(into.join("mine")).unwrap();
    assert_no_lies(&into, &expected);
    small.resize(16 << 10);
    host.restore_with(&person, &Wanted::Latest, &into, over).unwrap();
    assert_eq!(tree::describe(&into), expected);
}
