//! The crash suite: the store stops at the n-th operation of a backup, for every n, before and after the operation took
//! effect. Each time: reopened, every committed snapshot restores byte for byte; the run repeated ends as the undisturbed
//! one, and stores nothing twice.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use lifeboat::plan::restore::Wanted;
use object_store::ObjectStore;
use object_store::memory::InMemory;

use crate::common::faulty::{Fails, Faulty};
use crate::common::{Host, Person, tree};

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

fn copy_store(from: &dyn ObjectStore) -> Arc<dyn ObjectStore> {
    use futures_util::StreamExt;
    use object_store::ObjectStoreExt;
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let to = InMemory::new();
        let mut all = from.list(None);
        while let Some(object) = all.next().await {
            let location = object.unwrap().location;
            let body = from.get(&location).await.unwrap().bytes().await.unwrap();
            to.put(&location, body.into()).await.unwrap();
        }
        Arc::new(to) as Arc<dyn ObjectStore>
    })
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
