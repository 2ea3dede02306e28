//! The crash suite: the store stops at the n-th operation of a backup, a check, a rebuild or a restore, for every n, and of
//! what writes before and after the operation took effect. Each time: reopened, every committed snapshot restores byte for
//! byte; the run repeated ends as the undisturbed one, and stores nothing twice.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use lifeboat::ops;
use lifeboat::ops::check::{ReadData, check};
use lifeboat::plan::restore::Wanted;
use lifeboat::progress::Silent;
use object_store::ObjectStore;
use object_store::memory::InMemory;

use crate::common::faulty::{Fails, Faulty};
use crate::common::history::{assert_clear, assert_no_lies};
use crate::common::{Host, Person, clock, copy_store, tree};

type Tree = BTreeMap<String, String>;

struct Scene {
    folder: tempfile::TempDir,
    memory: InMemory,
    host: Host,
    person: Person,
    before: Tree,
    after: Tree,
}

/// A repository with one snapshot, and a source that has changed since.
fn scene() -> Scene {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    tree::make(&source, 5);
    tree::age(&source);
    let (memory, person) = (InMemory::new(), Person::new());
    let host = Host::new(Arc::new(memory.fork()));
    host.init(&person);
    host.backup(&source).unwrap();
    let before = tree::describe(&source);
    std::fs::write(source.join("docs/a.jsonl"), tree::lines(3500, 2)).unwrap();
    std::fs::write(source.join("docs/new.bin"), tree::noise(700_000, 77)).unwrap();
    std::fs::remove_file(source.join("docs/deep/er/03.txt")).unwrap();
    tree::age(&source);
    let after = tree::describe(&source);
    Scene { folder, memory, host, person, before, after }
}

/// A copy of everything that the first snapshot left: the store and the host's disk.
fn fork(scene: &Scene) -> (Arc<dyn ObjectStore>, Host) {
    let store = copy_store(&*scene.host.objects);
    let host = scene.host.clone_state(Arc::clone(&store));
    (store, host)
}

fn restored(host: &Host, person: &Person, id: &str, into: &Path) -> Tree {
    let _ = std::fs::remove_dir_all(into);
    host.restore(person, &Wanted::Named(id.to_owned()), into).unwrap();
    tree::describe(into)
}

fn check_all(scene: &Scene, host: &Host, context: &str) -> usize {
    let ids = host.snapshots();
    let into = scene.folder.path().join("back");
    for (n, id) in ids.iter().enumerate() {
        let expected = if n == 0 { &scene.before } else { &scene.after };
        assert_eq!(&restored(host, &scene.person, id, &into), expected, "{context}, snapshot {n}");
    }
    ids.len()
}

#[test]
fn a_backup_may_stop_at_every_operation_of_the_store() {
    let scene = scene();
    let source = scene.folder.path().join("source");
    let (store, host) = fork(&scene);
    let counting = Faulty::new(store, 0, Fails::Before);
    let undisturbed = Host { objects: counting.clone(), ..host };
    undisturbed.backup(&source).unwrap();
    let (operations, expected) = (counting.operations(), undisturbed.stats());
    assert_eq!(check_all(&scene, &undisturbed, "undisturbed"), 2);
    assert!(operations > 8, "a backup of {operations} operations tests little");
    for fails in [Fails::Before, Fails::After] {
        for n in 1..=operations {
            let context = format!("stopped {fails:?} operation {n} of {operations}");
            let (store, host) = fork(&scene);
            let mut host = Host { objects: Faulty::new(Arc::clone(&store), n, fails), ..host };
            // The very last operation is a listing behind the commit: its failure is a warning, all others fail the run.
            let outcome = host.backup(&source);
            assert_eq!(outcome.is_err(), n < operations, "{context}");
            host.objects = store;
            let there = check_all(&scene, &host, &context);
            assert!((1..=2).contains(&there) && (there == 2 || outcome.is_err()), "{context}");
            host.backup(&source).unwrap_or_else(|e| panic!("{context}, repeated: {e}"));
            assert_eq!(check_all(&scene, &host, &context), there + 1, "{context}");
            let stats = host.stats();
            // The manifest is stored once more where the first run's commit came through with other times of its own.
            assert_eq!(stats.unique_bytes, expected.unique_bytes, "{context}: something was stored twice");
        }
    }
    drop(scene.memory);
}

/// Stops `deed` at every operation of the store. It must fail each time, everything committed must still restore, and
/// repeated it must end as the undisturbed one.
fn stops_everywhere<T: PartialEq + std::fmt::Debug>(
    scene: &Scene,
    least: u64,
    deed: impl Fn(&Host) -> Result<T, ops::Error>,
) {
    let (store, host) = fork(scene);
    let counting = Faulty::new(store, 0, Fails::Before);
    let expected = deed(&Host { objects: counting.clone(), ..host }).unwrap();
    let operations = counting.operations();
    assert!(operations >= least, "{operations} operations are fewer than there should be");
    for n in 1..=operations {
        let context = format!("stopped at operation {n} of {operations}");
        let (store, host) = fork(scene);
        let mut host = Host { objects: Faulty::new(Arc::clone(&store), n, Fails::Before), ..host };
        let error = deed(&host).expect_err(&context);
        assert_clear(&error);
        host.objects = store;
        // What it left behind must serve at once, before anything mends it.
        assert_eq!(check_all(scene, &host, &context), 1, "{context}");
        assert_eq!(deed(&host).unwrap_or_else(|e| panic!("{context}, repeated: {e}")), expected, "{context}");
        host.backup(&scene.folder.path().join("source")).unwrap_or_else(|e| panic!("{context}, a backup: {e}"));
        assert_eq!(check_all(scene, &host, &context), 2, "{context}");
    }
}

#[test]
fn a_check_may_stop_at_every_operation_of_the_store() {
    let scene = scene();
    stops_everywhere(&scene, 8, |host| {
        let (mut repository, problems) = host.open(Some(&scene.person))?;
        let report = check(&mut repository, ReadData::All, &problems, clock()(), 1, &Silent)?;
        assert!(report.is_clean(), "{report:?}");
        Ok((report.packs, report.packs_read, report.frames_opened, report.manifests_read, report.snapshots))
    });
}

#[test]
fn a_rebuild_may_stop_at_every_operation_of_the_store() {
    let scene = scene();
    stops_everywhere(&scene, 6, |host| {
        let (mut repository, _) = host.open(None)?;
        let report = repository.rebuild_catalog(&Silent)?;
        assert_eq!(report.problems, []);
        let all = repository.catalog().dump()?;
        // What is used sparsely is measured by the next backup, not kept in the log.
        Ok(all.into_iter().filter(|line| !line.starts_with("sparse")).collect::<Vec<_>>())
    });
}

#[test]
fn a_restore_may_stop_at_every_operation_of_the_store() {
    let scene = scene();
    let landing = tempfile::tempdir().unwrap();
    // Each time into the directory that the run before left: stopped, then repeated, then cleared for the next.
    let into = landing.path().join("into");
    stops_everywhere(&scene, 8, |host| {
        if into.exists() && tree::describe(&into) == scene.before {
            std::fs::remove_dir_all(&into).unwrap();
        }
        let outcome = host.restore(&scene.person, &Wanted::Latest, &into);
        assert_no_lies(&into, &scene.before);
        outcome.map(|_| tree::describe(&into)).inspect(|tree| assert_eq!(tree, &scene.before))
    });
}

#[test]
fn an_init_may_stop_at_every_operation_of_the_store() {
    let person = Person::new();
    let recipients = [person.recipient.parse().unwrap()];
    for fails in [Fails::Before, Fails::After] {
        for n in 1..100 {
            let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
            let faulty = Faulty::new(Arc::clone(&memory), n, fails);
            let mut host = Host::new(faulty.clone());
            let outcome = lifeboat::repository::init(&host.store(), &host.options(&recipients));
            if outcome.is_ok() {
                assert!(faulty.operations() < n, "operation {n} failed and nobody noticed");
                break;
            }
            host.objects = memory;
            // Either there is no repository, and init makes one, or there is one, and it can be joined.
            let exists = host.store().size("lifeboat.json").unwrap().is_some();
            let fresh = Host::new(Arc::clone(&host.objects));
            if exists {
                fresh.join(&person).unwrap();
            } else {
                fresh.init(&person);
            }
            let folder = tempfile::tempdir().unwrap();
            tree::make(folder.path(), 1);
            fresh.backup(folder.path()).unwrap();
            // What the one before left is no damage.
            let (mut repository, problems) = fresh.open(Some(&person)).unwrap();
            let report = check(&mut repository, ReadData::All, &problems, clock()(), 1, &Silent).unwrap();
            assert!(report.is_clean(), "{fails:?} {n}: {report:?}");
        }
    }
}

#[test]
fn packs_of_a_run_that_died_are_used_by_the_next() {
    let scene = scene();
    let source = scene.folder.path().join("source");
    let (store, host) = fork(&scene);
    let counting = Faulty::new(Arc::clone(&store), 0, Fails::Before);
    let host = Host { objects: counting.clone(), ..host };
    host.backup(&source).unwrap();
    let puts = |objects: &Arc<dyn ObjectStore>| {
        let store = lifeboat::store::Store::new(Arc::clone(objects), "", "m", crate::common::limits(1)).unwrap();
        store.list("writers", None).unwrap().into_iter().filter(|o| o.key.contains("/packs/")).count()
    };
    let undisturbed = puts(&store);
    // The commit is the put behind the packs: stop there.
    for n in 1..=counting.operations() {
        let (store, host) = fork(&scene);
        let before = puts(&store);
        let mut host = Host { objects: Faulty::new(Arc::clone(&store), n, Fails::Before), ..host };
        assert!(host.backup(&source).is_err());
        if puts(&store) != undisturbed || host_has_commit(&store, 2) {
            continue;
        }
        host.objects = Arc::clone(&store);
        let report = host.backup(&source).unwrap();
        assert_eq!(puts(&store), undisturbed, "of {before} packs before");
        assert_eq!((report.counts.packs, report.counts.bytes_new), (0, 0), "everything was reused");
        return;
    }
    panic!("no operation stopped between the packs and the commit");
}

fn host_has_commit(store: &Arc<dyn ObjectStore>, sequence: u64) -> bool {
    let store = lifeboat::store::Store::new(Arc::clone(store), "", "m", crate::common::limits(1)).unwrap();
    let marker = format!("/log/{sequence:012}-");
    store.list("writers", None).unwrap().iter().any(|o| o.key.contains(&marker))
}
