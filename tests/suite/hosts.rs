//! Hosts, keys and catalogs: who can do what, and what happens to two at once.

use std::fs;
use std::sync::Arc;

use lifeboat::ops;
use lifeboat::plan::restore::Wanted;
use lifeboat::progress::Silent;
use lifeboat::repository::{self, Problem, Repository};
use lifeboat::seal::{Identities, Opener};
use object_store::ObjectStore;
use object_store::memory::InMemory;

use crate::common::{Host, Person, copy_store, merge_store, tree};

fn source(seed: u64) -> tempfile::TempDir {
    let source = tempfile::tempdir().unwrap();
    tree::make(source.path(), seed);
    tree::age(source.path());
    source
}

#[test]
fn several_recipients_each_read_everything_and_a_stranger_nothing() {
    let (host, one, two, stranger) =
        (Host::new(Arc::new(InMemory::new())), Person::new(), Person::new(), Person::new());
    host.init_for(&[&one, &two]);
    let source = source(1);
    host.backup(source.path()).unwrap();
    for person in [&one, &two] {
        let back = tempfile::tempdir().unwrap();
        // On a bare machine: no state, only the identity.
        let bare = Host::new(Arc::clone(&host.objects));
        bare.restore(person, &Wanted::Latest, back.path()).unwrap();
        assert_eq!(tree::describe(back.path()), tree::describe(source.path()));
    }
    let back = tempfile::tempdir().unwrap();
    let bare = Host::new(Arc::clone(&host.objects));
    let error = bare.restore(&stranger, &Wanted::Latest, back.path()).unwrap_err();
    assert_eq!(error.kind() as u8, 12, "{error}");
    let error = host.restore(&stranger, &Wanted::Latest, back.path()).unwrap_err();
    assert_eq!(error.kind() as u8, 12, "{error}");
}

#[test]
fn a_host_without_identity_backs_up_lists_and_checks_but_reads_nothing_back() {
    let (host, person) = (Host::new(Arc::new(InMemory::new())), Person::new());
    host.init(&person);
    let source = source(2);
    let secret = "the password is hunter2";
    fs::write(source.path().join("secret"), secret).unwrap();
    host.backup(source.path()).unwrap();
    host.backup(source.path()).unwrap();
    assert_eq!(host.snapshots().len(), 2);
    let (mut repository, problems) = host.open(None).unwrap();
    let now = crate::common::clock()();
    let report = ops::check::check(&mut repository, ops::check::ReadData::All, &problems, now, 1, &Silent).unwrap();
    assert!(report.is_clean() && report.packs_read > 0 && report.frames_opened == 0, "{report:?}");
    // With everything that lies on its disk: no frame opens.
    let keys = fs::read_to_string(repository.folder().key_file()).unwrap();
    let keys: serde_json::Value = serde_json::from_str(&keys).unwrap();
    let own = Opener::new(Identities::from_age_text(keys["identity"].as_str().unwrap()).unwrap());
    let store = host.store();
    let (mut tried, rows) = (0, repository.catalog().writers().unwrap());
    for (row, name) in rows {
        for pack in repository.catalog().packs(row).unwrap() {
            let body = store.get(&pack.key(&name), 1 << 30).unwrap();
            for frame in repository.catalog().frames_of(pack.row).unwrap() {
                let sealed = &body[frame.at as usize..(frame.at + frame.stored) as usize];
                assert!(own.open(sealed).is_err(), "the host opened a frame of its own backup");
                tried += 1;
            }
        }
    }
    assert!(tried > 1);
    // Nor is any content on its disk.
    let mut open = vec![host.state.path().to_owned()];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(path).unwrap().map(|e| e.unwrap().path()));
        } else {
            let bytes = fs::read(&path).unwrap();
            assert!(!bytes.windows(secret.len()).any(|w| w == secret.as_bytes()), "{}", path.display());
        }
    }
    let (snapshot, _) = ops::restore::find_snapshot(&repository, "data", &Wanted::Latest, false).unwrap();
    let path = lifeboat::model::RelPath::new("secret").unwrap();
    let error = ops::look::dump(&repository, &snapshot, &path, &mut Vec::new(), &Silent).unwrap_err();
    assert_eq!(error.kind() as u8, 12, "{error}");
}

#[test]
fn two_hosts_write_one_repository_and_neither_reads_the_other() {
    let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let (a, b, person) = (Host::new(Arc::clone(&objects)), Host::new(Arc::clone(&objects)), Person::new());
    a.init(&person);
    let made = b.join(&person).unwrap();
    assert!(!made.created);
    let (one, two) = (source(1), source(2));
    std::thread::scope(|scope| {
        scope.spawn(|| (0..3).for_each(|_| drop(a.backup(one.path()).unwrap())));
        scope.spawn(|| (0..3).for_each(|_| drop(b.backup(two.path()).unwrap())));
    });
    assert_eq!((a.snapshots().len(), b.snapshots().len()), (3, 3), "each lists its own");
    let (all, _) = a.open(Some(&person)).unwrap();
    assert_eq!(all.catalog().snapshots().unwrap().len(), 6, "an identity sees all");
    let error = a.restore(&person, &Wanted::Latest, tempfile::tempdir().unwrap().path()).unwrap_err();
    assert!(error.to_string().contains("several writers"), "{error}");
    let (mut repository, _) = a.open(Some(&person)).unwrap();
    let name = format!("{}/data", made.writer);
    let (snapshot, choice) = ops::restore::find_snapshot(&repository, &name, &Wanted::Latest, false).unwrap();
    let back = tempfile::tempdir().unwrap();
    let plan =
        ops::restore::prepare(&repository, snapshot, &choice, Some(back.path()), crate::common::plain(), &Silent);
    ops::restore::restore(&mut repository, &plan.unwrap(), &Silent).unwrap();
    assert_eq!(tree::describe(back.path()), tree::describe(two.path()));
}

#[test]
fn a_host_is_admitted_by_somebody_else() {
    let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let (a, b, person) = (Host::new(Arc::clone(&objects)), Host::new(objects), Person::new());
    a.init(&person);
    let (request, _) = Repository::request(&b.store(), &[], &b.options(&[])).unwrap();
    assert!(matches!(b.open(None), Err(repository::Error::NotAdmitted(_))));
    let stranger = Person::new();
    assert!(Repository::admit(&a.store(), stranger.identities(), &[], &request).is_err());
    Repository::admit(&a.store(), person.identities(), &[], &request).unwrap();
    let source = source(3);
    b.backup(source.path()).unwrap();
    let back = tempfile::tempdir().unwrap();
    b.restore(&person, &Wanted::Latest, back.path()).unwrap();
    assert_eq!(tree::describe(back.path()), tree::describe(source.path()));
}

#[test]
fn two_runs_on_one_catalog_are_both_committed() {
    let (host, person) = (Host::new(Arc::new(InMemory::new())), Person::new());
    host.init(&person);
    let (one, two) = (source(1), source(2));
    std::thread::scope(|scope| {
        for (name, tree) in [("one", &one), ("two", &two)] {
            let host = &host;
            scope.spawn(move || {
                for _ in 0..4 {
                    host.backup_as(tree.path(), name, &Default::default()).unwrap();
                }
            });
        }
    });
    let (mut repository, problems) = host.open(Some(&person)).unwrap();
    assert_eq!((repository.catalog().snapshots().unwrap().len(), problems), (8, vec![]));
    let now = crate::common::clock()();
    let report = ops::check::check(&mut repository, ops::check::ReadData::All, &[], now, 1, &Silent).unwrap();
    assert!(report.is_clean(), "{report:?}");
    for (name, tree) in [("one", &one), ("two", &two)] {
        let (snapshot, choice) = ops::restore::find_snapshot(&repository, name, &Wanted::Latest, false).unwrap();
        let back = tempfile::tempdir().unwrap();
        let plan =
            ops::restore::prepare(&repository, snapshot, &choice, Some(back.path()), crate::common::plain(), &Silent);
        ops::restore::restore(&mut repository, &plan.unwrap(), &Silent).unwrap();
        assert_eq!(tree::describe(back.path()), tree::describe(tree.path()));
    }
}

#[test]
fn a_deleted_catalog_is_rebuilt_as_it_was() {
    let (host, person) = (Host::new(Arc::new(InMemory::new())), Person::new());
    host.init(&person);
    let source = source(1);
    for round in 0..3 {
        fs::write(source.path().join("docs/round"), tree::lines(500, round)).unwrap();
        tree::age(source.path());
        host.backup(source.path()).unwrap();
    }
    let (mut repository, _) = host.open(None).unwrap();
    let comparable = |repository: &Repository| -> Vec<String> {
        // What is used sparsely is measured by the next backup, not kept in the log.
        let all = repository.catalog().dump().unwrap();
        all.into_iter().filter(|line| !line.starts_with("sparse")).collect()
    };
    let before = comparable(&repository);
    assert!(before.len() > 50);
    repository.rebuild_catalog(&Silent).unwrap();
    assert_eq!(comparable(&repository), before);
    let folder = repository.folder().path().to_owned();
    drop(repository);
    // Deleted altogether, the next backup finds everything again, and reads nothing that is unchanged.
    for file in ["catalog.db", "catalog.db-wal", "catalog.db-shm"] {
        let _ = fs::remove_file(folder.join(file));
    }
    let report = host.backup(source.path()).unwrap();
    assert_eq!((report.files_unmodified, report.counts.packs), (24, 0));
    // And without the manifest beside it: all is read once, and nothing stored twice.
    for file in ["catalog.db", "catalog.db-wal", "catalog.db-shm", "manifests/data.jsonl.zst"] {
        let _ = fs::remove_file(folder.join(file));
    }
    let report = host.backup(source.path()).unwrap();
    assert_eq!((report.files_unmodified, report.counts.packs), (0, 0));
    let back = tempfile::tempdir().unwrap();
    host.restore(&person, &Wanted::Latest, back.path()).unwrap();
    assert_eq!(tree::describe(back.path()), tree::describe(source.path()));
}

#[test]
fn a_rolled_back_host_reads_its_log_before_it_goes_on() {
    let (host, person) = (Host::new(Arc::new(InMemory::new())), Person::new());
    host.init(&person);
    let source = source(1);
    host.backup(source.path()).unwrap();
    let image = host.clone_state(Arc::clone(&host.objects));
    fs::write(source.path().join("later"), "later").unwrap();
    tree::age(source.path());
    host.backup(source.path()).unwrap();
    let report = image.backup(source.path()).unwrap();
    assert_eq!(report.problems, []);
    assert_eq!(image.snapshots().len(), 3);
    assert_eq!(report.counts.packs, 0, "what the lost days stored is used");
    let back = tempfile::tempdir().unwrap();
    image.restore(&person, &Wanted::Latest, back.path()).unwrap();
    assert_eq!(tree::describe(back.path()), tree::describe(source.path()));
}

#[test]
fn a_cloned_host_forks_the_log_and_the_next_run_joins_it() {
    let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let (host, person) = (Host::new(Arc::clone(&objects)), Person::new());
    host.init(&person);
    let (one, two) = (source(1), source(2));
    host.backup(one.path()).unwrap();
    // Two hosts of one writer that do not see each other's second commit: as if both had committed at the same moment.
    let split = copy_store(&*objects);
    let clone = host.clone_state(Arc::clone(&split));
    host.backup_as(one.path(), "one", &Default::default()).unwrap();
    fs::write(two.path().join("more"), tree::noise(400_000, 99)).unwrap();
    clone.backup_as(two.path(), "two", &Default::default()).unwrap();
    merge_store(&*split, &*objects);
    let joined = Host { objects: Arc::clone(&objects), ..clone };
    let (repository, problems) = joined.open(Some(&person)).unwrap();
    drop(repository);
    assert!(problems.iter().any(|p| matches!(p, Problem::Fork { sequence: 2, .. })), "{problems:?}");
    joined.backup_as(one.path(), "three", &Default::default()).unwrap();
    // A machine that has seen nothing reads the same.
    let bare = Host::new(Arc::clone(&objects));
    let (mut repository, _) = bare.open(Some(&person)).unwrap();
    assert_eq!(repository.catalog().snapshots().unwrap().len(), 4);
    let now = crate::common::clock()();
    let report = ops::check::check(&mut repository, ops::check::ReadData::All, &[], now, 1, &Silent).unwrap();
    assert!(report.is_clean(), "{report:?}");
    for (name, tree) in [("one", &one), ("two", &two), ("three", &one)] {
        let (snapshot, choice) = ops::restore::find_snapshot(&repository, name, &Wanted::Latest, false).unwrap();
        let back = tempfile::tempdir().unwrap();
        let plan =
            ops::restore::prepare(&repository, snapshot, &choice, Some(back.path()), crate::common::plain(), &Silent);
        ops::restore::restore(&mut repository, &plan.unwrap(), &Silent).unwrap();
        assert_eq!(tree::describe(back.path()), tree::describe(tree.path()), "{name}");
    }
    // Every snapshot's frames are those of its own manifest, whatever the branches' numbers were.
    for snapshot in repository.catalog().snapshots().unwrap() {
        let mut needed = std::collections::HashSet::new();
        let mut manifest = repository.manifest(&snapshot, &Silent).unwrap();
        while let Some(entry) = manifest.next_stored().unwrap() {
            for extent in entry.content().into_iter().flat_map(|c| &c.extents) {
                needed.extend(extent.frame.map(|id| repository.locate(snapshot.writer, &id).unwrap().id));
            }
        }
        let used: std::collections::HashSet<_> = snapshot
            .record
            .uses
            .0
            .iter()
            .flat_map(|(a, b)| *a..=*b)
            .map(|row| repository.catalog().frame(row as i64).unwrap().id)
            .collect();
        assert!(needed.is_subset(&used), "snapshot {} of {}", snapshot.record.id, snapshot.record.source);
    }
}

#[test]
fn another_repository_under_the_same_url_is_refused_by_fingerprint() {
    let (host, person) = (Host::new(Arc::new(InMemory::new())), Person::new());
    host.init(&person);
    let store = host.store();
    let text = String::from_utf8(store.get("lifeboat.json", 10_000).unwrap().to_vec()).unwrap();
    // Somebody who owns the store changes the description: another moment of creation is enough.
    let forged = text.replace("\"created\":\"20", "\"created\":\"19");
    let other: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    merge_store(&*host.objects, &*other);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    use object_store::ObjectStoreExt;
    runtime.block_on(async { other.put(&"lifeboat.json".into(), forged.into_bytes().into()).await.unwrap() });
    let deceived = host.clone_state(other);
    assert!(matches!(deceived.open(None), Err(repository::Error::Fingerprint { .. })));
}
