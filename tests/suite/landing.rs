//! What a restore does, and does not do, to what stands in its destination.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use lifeboat::ops::restore::{Overwrite, RestoreOptions, find_snapshot, mark_of, prepare};
use lifeboat::ops::{self, Selection};
use lifeboat::plan::restore::Wanted;
use lifeboat::progress::Silent;
use object_store::memory::InMemory;
use tempfile::TempDir;

use crate::common::{Host, Person, plain, tree};

fn place(make: impl FnOnce(&Path)) -> (TempDir, Host, Person) {
    let source = tempfile::tempdir().unwrap();
    make(source.path());
    tree::age(source.path());
    let (host, person) = (Host::new(Arc::new(InMemory::new())), Person::new());
    host.init(&person);
    host.backup(source.path()).unwrap();
    (source, host, person)
}

fn options(overwrite: Overwrite) -> RestoreOptions {
    RestoreOptions { overwrite, ..plain() }
}

fn selected(include: &[&str], exclude: &[&str]) -> Selection {
    let text = |all: &[&str]| all.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>();
    Selection::new(&text(include), &text(exclude)).unwrap()
}

fn names(root: &Path) -> Vec<String> {
    tree::describe(root).into_keys().collect()
}

#[test]
fn never_touches_nothing_even_when_it_continues() {
    let (_, host, person) = place(|root| {
        fs::write(root.join("f"), "from the snapshot").unwrap();
        fs::create_dir(root.join("d")).unwrap();
    });
    let back = tempfile::tempdir().unwrap();
    fs::write(back.path().join("f"), "mine").unwrap();
    let id = host.snapshots()[0].parse().unwrap();
    fs::write(back.path().join(mark_of(&id)), "").unwrap();
    host.restore_with(&person, &Wanted::Latest, back.path(), options(Overwrite::Never)).unwrap();
    assert_eq!(fs::read(back.path().join("f")).unwrap(), b"mine");
    // A file where a directory goes is in the way, and stays.
    fs::remove_dir(back.path().join("d")).unwrap();
    fs::write(back.path().join("d"), "mine too").unwrap();
    let refused = host.restore_with(&person, &Wanted::Latest, back.path(), options(Overwrite::Never));
    assert!(matches!(refused, Err(ops::Error::Destination(lifeboat::destination::Error::InTheWay(_)))), "{refused:?}");
    assert_eq!(fs::read(back.path().join("d")).unwrap(), b"mine too");
}

#[test]
fn a_directory_with_something_in_it_goes_only_with_delete() {
    let (source, host, person) = place(|root| fs::write(root.join("x"), "a file").unwrap());
    let back = tempfile::tempdir().unwrap();
    fs::create_dir(back.path().join("x")).unwrap();
    fs::write(back.path().join("x/mine"), "mine").unwrap();
    let refused = host.restore_with(&person, &Wanted::Latest, back.path(), options(Overwrite::Always));
    assert!(matches!(refused, Err(ops::Error::Destination(lifeboat::destination::Error::InTheWay(_)))), "{refused:?}");
    assert!(back.path().join("x/mine").exists());
    let delete = RestoreOptions { delete: true, ..options(Overwrite::IfChanged) };
    host.restore_with(&person, &Wanted::Latest, back.path(), delete).unwrap();
    assert_eq!(tree::describe(back.path()), tree::describe(source.path()));
}

#[test]
fn delete_leaves_alone_what_exclude_names() {
    let (_, host, person) = place(|root| fs::write(root.join("kept"), "x").unwrap());
    let back = tempfile::tempdir().unwrap();
    for dir in ["cache", "logs", "old/deep"] {
        fs::create_dir_all(back.path().join(dir)).unwrap();
    }
    for file in ["cache/a", "logs/a.log", "logs/b.txt", "old/deep/c"] {
        fs::write(back.path().join(file), "x").unwrap();
    }
    let delete = RestoreOptions {
        delete: true,
        selection: selected(&[], &["cache/", "*.log"]),
        ..options(Overwrite::IfChanged)
    };
    host.restore_with(&person, &Wanted::Latest, back.path(), delete).unwrap();
    assert_eq!(names(back.path()), ["", "cache", "cache/a", "kept", "logs", "logs/a.log"]);
}

#[test]
fn a_second_name_restored_alone_is_the_file_itself() {
    let (_, host, person) = place(|root| {
        fs::write(root.join("h1"), "shared").unwrap();
        fs::hard_link(root.join("h1"), root.join("h2")).unwrap();
        fs::hard_link(root.join("h1"), root.join("h3")).unwrap();
    });
    let back = tempfile::tempdir().unwrap();
    fs::write(back.path().join("h1"), "a stranger").unwrap();
    let part = RestoreOptions { selection: selected(&["h2", "h3"], &[]), ..options(Overwrite::IfChanged) };
    host.restore_with(&person, &Wanted::Latest, back.path(), part).unwrap();
    assert_eq!(fs::read(back.path().join("h2")).unwrap(), b"shared");
    assert_eq!(fs::read(back.path().join("h1")).unwrap(), b"a stranger");
    use std::os::unix::fs::MetadataExt;
    let inode = |name: &str| fs::metadata(back.path().join(name)).unwrap().ino();
    assert_eq!(inode("h2"), inode("h3"));
}

#[test]
fn the_mark_follows_no_link_and_hides_no_file() {
    let (source, host, person) =
        place(|root| fs::write(root.join(".lifeboat-restore"), "a file of the source").unwrap());
    let (back, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let victim = outside.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    let id = host.snapshots()[0].parse().unwrap();
    std::os::unix::fs::symlink(&victim, back.path().join(mark_of(&id))).unwrap();
    assert!(host.restore_with(&person, &Wanted::Latest, back.path(), options(Overwrite::IfChanged)).is_err());
    assert_eq!(fs::read(&victim).unwrap(), b"precious");
    let back = tempfile::tempdir().unwrap();
    host.restore(&person, &Wanted::Latest, back.path()).unwrap();
    assert_eq!(tree::describe(back.path()), tree::describe(source.path()));
}

#[test]
fn delta_mends_more_files_than_may_be_open() {
    let (source, host, person) = place(|root| {
        for n in 0..1500 {
            fs::write(root.join(format!("{n:04}")), format!("content of file {n}")).unwrap();
        }
    });
    let back = tempfile::tempdir().unwrap();
    host.restore(&person, &Wanted::Latest, back.path()).unwrap();
    for n in 0..1500 {
        fs::write(back.path().join(format!("{n:04}")), "wrong").unwrap();
    }
    host.restore_with(&person, &Wanted::Latest, back.path(), options(Overwrite::Delta)).unwrap();
    assert_eq!(tree::describe(back.path()), tree::describe(source.path()));
}

#[test]
fn half_a_file_never_carries_its_final_name() {
    let (_, host, person) = place(|root| fs::write(root.join("f"), tree::noise(5_000_000, 1)).unwrap());
    let back = tempfile::tempdir().unwrap();
    let (mut repository, _) = host.open(Some(&person)).unwrap();
    let (snapshot, choice) = find_snapshot(&repository, "data", &Wanted::Latest, false).unwrap();
    let prepared = prepare(&repository, snapshot, &choice, Some(back.path()), plain(), &Silent).unwrap();
    /// Stops once some of the file is written.
    struct After(std::sync::atomic::AtomicBool);
    impl lifeboat::progress::Progress for After {
        fn event(&self, event: lifeboat::progress::Event<'_>) {
            if matches!(event, lifeboat::progress::Event::Done { bytes: 1.., .. }) {
                self.0.store(true, std::sync::atomic::Ordering::SeqCst);
                panic!("the process dies here");
            }
        }
    }
    let died = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        ops::restore::restore(&mut repository, &prepared, &After(false.into()))
    }));
    assert!(died.is_err() || died.is_ok_and(|result| result.is_err()));
    assert!(!back.path().join("f").exists(), "{:?}", names(back.path()));
    assert!(names(back.path()).iter().any(|name| name.starts_with(".lifeboat-restore-")));
}
