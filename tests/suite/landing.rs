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

use crate::common::faulty::{Fails, Faulty};
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

/// A restore whose process dies once it has done something.
fn dies(host: &Host, person: &Person, into: &Path, options: RestoreOptions) {
    let (mut repository, _) = host.open(Some(person)).unwrap();
    let (snapshot, choice) = find_snapshot(&repository, "data", &Wanted::Latest, false).unwrap();
    let prepared = prepare(&repository, snapshot, &choice, Some(into), options, &Silent).unwrap();
    struct Dies;
    impl lifeboat::progress::Progress for Dies {
        fn event(&self, event: lifeboat::progress::Event<'_>) {
            assert!(!matches!(event, lifeboat::progress::Event::Done { bytes: 1.., .. }), "the process dies here");
        }
    }
    let died = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        ops::restore::restore(&mut repository, &prepared, &Dies)
    }));
    assert!(died.is_err() || died.is_ok_and(|result| result.is_err()));
}

#[test]
fn an_interrupted_restore_over_files_goes_on_only_by_its_flag() {
    let (source, host, person) = place(|root| {
        for name in ["f", "g"] {
            fs::write(root.join(name), "from the snapshot").unwrap();
        }
    });
    let back = tempfile::tempdir().unwrap();
    fs::write(back.path().join("f"), "mine").unwrap();
    dies(&host, &person, back.path(), options(Overwrite::Never));
    for _ in 0..2 {
        let refused = host.restore(&person, &Wanted::Latest, back.path()).unwrap_err();
        let hint = refused.hint().unwrap_or_default();
        assert!(refused.kind() as u8 == 2 && hint.contains("`--overwrite never`"), "{refused}: {hint}");
        assert_eq!(fs::read(back.path().join("f")).unwrap(), b"mine");
        dies(&host, &person, back.path(), options(Overwrite::Never));
    }
    host.restore_with(&person, &Wanted::Latest, back.path(), options(Overwrite::Never)).unwrap();
    assert_eq!(fs::read(back.path().join("f")).unwrap(), b"mine");
    assert_eq!(names(back.path()), ["", "f", "g"]);
    // One that began in an empty directory goes on by itself, whatever it was continued with meanwhile.
    let back = tempfile::tempdir().unwrap();
    dies(&host, &person, back.path(), plain());
    dies(&host, &person, back.path(), options(Overwrite::Always));
    host.restore(&person, &Wanted::Latest, back.path()).unwrap();
    assert_eq!(tree::describe(back.path()), tree::describe(source.path()));
    // A mark that does not say how it began may stand over anything.
    let back = tempfile::tempdir().unwrap();
    fs::write(back.path().join("f"), "mine").unwrap();
    let mark = mark_of(&host.snapshots()[0].parse().unwrap());
    fs::write(back.path().join(mark), "a restore has begun here and not ended; run it again to go on\n").unwrap();
    assert!(host.restore(&person, &Wanted::Latest, back.path()).is_err());
    assert_eq!(fs::read(back.path().join("f")).unwrap(), b"mine");
    fs::remove_file(back.path().join("f")).unwrap();
    host.restore(&person, &Wanted::Latest, back.path()).unwrap();
    assert_eq!(names(back.path()), ["", "f", "g"]);
}

#[test]
fn files_that_are_the_same_already_may_have_further_names() {
    let (source, host, person) = place(|root| {
        fs::write(root.join("h1"), "shared").unwrap();
        fs::hard_link(root.join("h1"), root.join("h2")).unwrap();
    });
    let back = tempfile::tempdir().unwrap();
    for overwrite in [Overwrite::Refuse, Overwrite::IfNewer, Overwrite::IfNewer] {
        host.restore_with(&person, &Wanted::Latest, back.path(), options(overwrite)).unwrap();
        assert_eq!(tree::describe(back.path()), tree::describe(source.path()));
    }
    // One that is newer stays, and is not linked to.
    fs::remove_file(back.path().join("h2")).unwrap();
    fs::write(back.path().join("h1"), "newer").unwrap();
    let hurt = host.restore_with(&person, &Wanted::Latest, back.path(), options(Overwrite::IfNewer));
    assert!(matches!(hurt, Err(ops::Error::Hurt { files: 1, .. })), "{hurt:?}");
}

#[test]
fn many_second_names_do_not_read_the_manifest_many_times() {
    let reads = |count: usize| {
        let (_, host, person) = place(|root| {
            for dir in ["a", "b"] {
                fs::create_dir(root.join(dir)).unwrap();
            }
            for n in 0..count {
                fs::write(root.join(format!("a/{n:03}")), format!("file {n}")).unwrap();
                fs::hard_link(root.join(format!("a/{n:03}")), root.join(format!("b/{n:03}"))).unwrap();
            }
        });
        let counted = Faulty::new(Arc::clone(&host.objects), 0, Fails::Before);
        let host = Host { objects: counted.clone(), ..host };
        let back = tempfile::tempdir().unwrap();
        let part = RestoreOptions { selection: selected(&["b/"], &[]), ..plain() };
        host.restore_with(&person, &Wanted::Latest, back.path(), part).unwrap();
        for n in 0..count {
            assert_eq!(fs::read_to_string(back.path().join(format!("b/{n:03}"))).unwrap(), format!("file {n}"));
        }
        counted.operations()
    };
    assert_eq!(reads(2), reads(40));
}
