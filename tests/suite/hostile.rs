//! What somebody who may write to the store can do, what a crash or a clone leaves, and what is withheld: told by name,
//! never fatal for the rest.

use std::fs;
use std::sync::Arc;

use lifeboat::ops::check::{ReadData, check};
use lifeboat::plan::restore::Wanted;
use lifeboat::progress::Silent;
use lifeboat::repository::Problem;
use object_store::local::LocalFileSystem;
use tempfile::TempDir;

use crate::common::{Host, Person, clock, copy_tree, tree};

struct Scene {
    source: TempDir,
    store: TempDir,
    host: Host,
    person: Person,
}

fn scene() -> Scene {
    let (source, store) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    tree::make(source.path(), 5);
    tree::age(source.path());
    let host = Host::new(Arc::new(LocalFileSystem::new_with_prefix(store.path()).unwrap()));
    let person = Person::new();
    host.init(&person);
    host.backup(source.path()).unwrap();
    Scene { source, store, host, person }
}

impl Scene {
    fn writer(&self) -> String {
        self.host.open(None).unwrap().0.host().unwrap().name.clone()
    }
    fn change_and_backup(&self, round: u64) {
        fs::write(self.source.path().join("docs/round"), tree::noise(3000, round)).unwrap();
        self.host.backup(self.source.path()).unwrap();
    }
    fn log(&self) -> Vec<std::path::PathBuf> {
        let folder = self.store.path().join("writers").join(self.writer()).join("log");
        let mut all: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
        all.sort();
        all
    }
    /// A machine that has seen nothing, with an identity: snapshots and problems.
    fn bare(&self) -> (usize, Vec<Problem>) {
        let bare = Host::new(Arc::clone(&self.host.objects));
        let (repository, problems) = bare.open(Some(&self.person)).unwrap();
        (repository.catalog().snapshots().unwrap().len(), problems)
    }
    fn restores(&self, host: &Host, wanted: &Wanted) {
        let back = tempfile::tempdir().unwrap();
        host.restore(&self.person, wanted, back.path()).unwrap();
        assert_eq!(tree::describe(back.path()), tree::describe(self.source.path()));
    }
}

#[test]
fn junk_in_a_log_is_told_and_changes_nothing() {
    let scene = scene();
    let folder = scene.store.path().join("writers").join(scene.writer()).join("log");
    for (sequence, bytes) in [("999999999999", b"junk one"), ("000000000007", b"junk two")] {
        fs::write(folder.join(format!("{sequence}-{}.age", blake3::hash(bytes).to_hex())), bytes).unwrap();
    }
    scene.change_and_backup(1);
    scene.change_and_backup(2);
    assert!(scene.log().iter().any(|p| p.to_string_lossy().contains("/000000000003-")), "{:?}", scene.log());
    let (snapshots, problems) = scene.bare();
    assert_eq!(snapshots, 3);
    assert_eq!(problems.iter().filter(|p| matches!(p, Problem::BadCommit { .. })).count(), 2, "{problems:?}");
    scene.restores(&Host::new(Arc::clone(&scene.host.objects)), &Wanted::Latest);
}

#[test]
fn a_pack_that_two_commits_name_is_one_pack() {
    let scene = scene();
    scene.change_and_backup(1);
    // Commit 2 is withheld while the catalog is made anew: its packs look like litter and are adopted.
    let second = scene.log()[1].clone();
    let hidden = scene.store.path().join("hidden");
    fs::rename(&second, &hidden).unwrap();
    let fresh = Host::new(Arc::clone(&scene.host.objects));
    copy_tree(scene.host.state.path(), fresh.state.path());
    let folder = fs::read_dir(fresh.state.path()).unwrap().next().unwrap().unwrap().path();
    for file in ["catalog.db", "catalog.db-wal", "catalog.db-shm"] {
        let _ = fs::remove_file(folder.join(file));
    }
    fresh.backup(scene.source.path()).unwrap();
    fs::rename(&hidden, &second).unwrap();
    let (snapshots, _) = scene.bare();
    assert_eq!(snapshots, 3);
    fresh.backup(scene.source.path()).unwrap();
    let bare = Host::new(Arc::clone(&scene.host.objects));
    scene.restores(&bare, &Wanted::Latest);
    let (mut repository, problems) = bare.open(Some(&scene.person)).unwrap();
    let report = check(&mut repository, ReadData::All, &problems, clock()(), 1, &Silent).unwrap();
    assert!(report.damage.is_empty() && report.files_hurt.is_empty(), "{report:?}");
}

#[test]
fn the_writing_host_notices_that_its_log_was_damaged_or_cut() {
    for gone in [false, true] {
        let scene = scene();
        scene.change_and_backup(1);
        scene.change_and_backup(2);
        let middle = scene.log()[1].clone();
        if gone {
            fs::remove_file(&middle).unwrap();
        } else {
            let mut bytes = fs::read(&middle).unwrap();
            bytes[50] ^= 1;
            fs::write(&middle, bytes).unwrap();
        }
        for _ in 0..2 {
            let (mut repository, problems) = scene.host.open(None).unwrap();
            let report = check(&mut repository, ReadData::All, &problems, clock()(), 1, &Silent).unwrap();
            assert!(!report.is_clean(), "gone: {gone}, told each time");
        }
        // A machine that has seen nothing is told too, each time, and what is whole restores.
        let bare = Host::new(Arc::clone(&scene.host.objects));
        for _ in 0..2 {
            let (_, problems) = bare.open(Some(&scene.person)).unwrap();
            assert!(!problems.is_empty(), "gone: {gone}");
        }
    }
}

#[test]
fn a_withheld_end_is_noticed_by_another_writers_commits() {
    let scene = scene();
    scene.change_and_backup(1);
    let other = Host::new(Arc::clone(&scene.host.objects));
    other.join(&scene.person).unwrap();
    other.backup(scene.source.path()).unwrap();
    let last = scene.log().pop().unwrap();
    fs::remove_file(last).unwrap();
    let (snapshots, problems) = scene.bare();
    assert_eq!(snapshots, 2, "one of each host is left");
    assert!(problems.iter().any(|p| matches!(p, Problem::MissingCommit { sequence: 2, .. })), "{problems:?}");
}

#[test]
fn a_repository_made_over_a_crashed_init_is_sound() {
    let (store, person) = (tempfile::tempdir().unwrap(), Person::new());
    let objects = || Arc::new(LocalFileSystem::new_with_prefix(store.path()).unwrap());
    for _ in 0..3 {
        Host::new(objects()).init(&person);
        fs::remove_file(store.path().join("lifeboat.json")).unwrap();
    }
    let host = Host::new(objects());
    host.init(&person);
    // Somebody adds junk among the keys, and a description of a writer that nobody admitted.
    fs::write(store.path().join(format!("keys/secret-{}.age", "0".repeat(64))), "junk").unwrap();
    fs::write(store.path().join(format!("keys/recipients-{}.json", "0".repeat(64))), "junk").unwrap();
    fs::create_dir_all(store.path().join("writers/evil/log")).unwrap();
    fs::write(store.path().join("writers/evil/writer.json"), vec![b'x'; 2 << 20]).unwrap();
    let source = tempfile::tempdir().unwrap();
    tree::make(source.path(), 5);
    host.backup(source.path()).unwrap();
    let further = Host::new(objects());
    further.join(&person).unwrap();
    let (repository, problems) = further.open(Some(&person)).unwrap();
    assert!(repository.current_recipients().is_ok());
    assert!(
        problems.iter().all(|p| matches!(p, Problem::BadWriter { writer, .. } if writer == "evil")),
        "{problems:?}"
    );
    let back = tempfile::tempdir().unwrap();
    further.restore(&person, &Wanted::Latest, back.path()).unwrap();
    assert_eq!(tree::describe(back.path()), tree::describe(source.path()));
}

#[test]
fn a_snapshot_is_read_from_its_own_writers_packs() {
    let scene = scene();
    let other = Host::new(Arc::clone(&scene.host.objects));
    other.join(&scene.person).unwrap();
    other.backup_as(scene.source.path(), "other", &Default::default()).unwrap();
    // The first host's packs are lost; the second has the same frames of its own.
    fs::remove_dir_all(scene.store.path().join("writers").join(scene.writer()).join("packs")).unwrap();
    let bare = Host::new(Arc::clone(&scene.host.objects));
    let (mut repository, _) = bare.open(Some(&scene.person)).unwrap();
    use lifeboat::ops::restore::{find_snapshot, prepare, restore};
    let (snapshot, choice) = find_snapshot(&repository, "other", &Wanted::Latest, false).unwrap();
    let back = tempfile::tempdir().unwrap();
    let plan = prepare(&repository, snapshot, &choice, Some(back.path()), crate::common::plain(), &Silent).unwrap();
    restore(&mut repository, &plan, &Silent).unwrap();
    assert_eq!(tree::describe(back.path()), tree::describe(scene.source.path()));
}

#[test]
fn a_tree_deeper_than_a_threads_stack_is_backed_up() {
    let scene = scene();
    let mut path = scene.source.path().to_owned();
    for _ in 0..1500 {
        path.push("d");
    }
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join("f"), "deep").unwrap();
    scene.host.backup(scene.source.path()).unwrap();
    let back = tempfile::tempdir().unwrap();
    scene.host.restore(&scene.person, &Wanted::Latest, back.path()).unwrap();
    let mut path = back.path().to_owned();
    path.extend(std::iter::repeat_n("d", 1500));
    assert_eq!(fs::read(path.join("f")).unwrap(), b"deep");
}

#[test]
fn links_to_a_file_that_was_not_read_are_skipped_with_it() {
    let scene = scene();
    fs::write(scene.source.path().join("a"), "shared").unwrap();
    fs::hard_link(scene.source.path().join("a"), scene.source.path().join("b")).unwrap();
    struct Unreadable(lifeboat::source::VolumeSource);
    use lifeboat::source::{Error, Found, FoundEntry, Opened, Source};
    impl Source for Unreadable {
        fn kind(&self) -> &'static str {
            "volume"
        }
        fn root(&self) -> String {
            self.0.root()
        }
        fn walk(&self, each: &mut dyn FnMut(Found) -> bool) -> Result<(), Error> {
            self.0.walk(each)
        }
        fn open(&self, found: &FoundEntry) -> Result<Opened<'_>, String> {
            if found.entry.path.to_string() == "a" { Err("gone".into()) } else { self.0.open(found) }
        }
        fn xattrs(
            &self,
            entry: &lifeboat::model::Entry,
        ) -> std::collections::BTreeMap<String, lifeboat::model::RawText> {
            self.0.xattrs(entry)
        }
        fn all_or_nothing(&self) -> bool {
            false
        }
        fn finish(&self) -> Result<(), Error> {
            Ok(())
        }
    }
    let volume = lifeboat::source::VolumeSource::new(scene.source.path(), &Default::default()).unwrap();
    let (mut repository, _) = scene.host.open(None).unwrap();
    let progress: Arc<dyn lifeboat::progress::Progress> = Arc::new(Silent);
    let world = crate::common::world();
    let report = lifeboat::ops::backup::backup(
        &Unreadable(volume),
        "data",
        &mut repository,
        &Default::default(),
        &world,
        &progress,
    )
    .unwrap();
    assert_eq!(report.record.skipped, 2, "{:?}", report.skipped);
    drop(repository);
    let back = tempfile::tempdir().unwrap();
    scene.host.restore(&scene.person, &Wanted::Named("latest".into()), back.path()).unwrap();
    assert!(!back.path().join("b").exists());
}
