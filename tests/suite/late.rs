//! What comes late, or goes without a word: a write that lands after the host was started again, packs that a bucket
//! loses, a listing that another process overtakes, a hole in a log that closes, a file edited again within its tick.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use lifeboat::ops::backup::World;
use lifeboat::ops::check::{CheckReport, ReadData, check};
use lifeboat::plan::restore::Wanted;
use lifeboat::progress::Silent;
use lifeboat::repository::Problem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tempfile::TempDir;

use crate::common::chance::Chance;
use crate::common::chaos::{Chaos, Weather};
use crate::common::faulty::{Fails, Faulty};
use crate::common::history::{History, chain};
use crate::common::{Host, Person, block_on, clock, copy_store, tree, world};

fn place() -> (TempDir, Host, Person) {
    let source = tempfile::tempdir().unwrap();
    tree::make(source.path(), 5);
    tree::age(source.path());
    let (host, person) = (Host::new(Arc::new(InMemory::new())), Person::new());
    host.init(&person);
    (source, host, person)
}

fn change(source: &TempDir, round: u64) {
    fs::write(source.path().join("docs/round"), tree::noise(100_000, round)).unwrap();
    tree::age(source.path());
}

fn checked(host: &Host, person: &Person) -> CheckReport {
    let (mut repository, problems) = host.open(Some(person)).unwrap();
    check(&mut repository, ReadData::All, &problems, clock()(), 1, &Silent).unwrap()
}

#[test]
fn a_late_put_lands_after_the_host_was_started_again() {
    let (source, host, person) = place();
    let (history, mut chance) = (History::default(), Chance::new(1));
    history.backup(&host, source.path(), "data", &mut chance).unwrap();
    change(&source, 1);
    let mut forks = 0;
    for n in 1..100 {
        let store = copy_store(&*host.objects);
        let faulty = Faulty::new(Arc::clone(&store), n, Fails::Late);
        let mut again = host.clone_state(faulty.clone());
        let outcome = history.backup(&again, source.path(), "data", &mut chance);
        if faulty.operations() < n {
            assert!(n > 8, "a backup of {n} operations tests little");
            break;
        }
        again.objects = Arc::clone(&store);
        // Started again: the run goes through, as if the first had never been; then its last write lands.
        history.backup(&again, source.path(), "data", &mut chance).unwrap();
        let landed = faulty.land();
        let (_, problems) = again.open(None).unwrap();
        let commit = landed.is_some_and(|key| key.contains("/log/"));
        if commit {
            assert!(outcome.is_err());
            assert!(matches!(problems[..], [Problem::Fork { sequence: 2, .. }]), "operation {n}: {problems:?}");
            forks += 1;
        } else {
            assert_eq!(problems, [], "operation {n}");
        }
        change(&source, 1000 + n);
        history.backup(&again, source.path(), "data", &mut chance).unwrap();
        let report = checked(&again, &person);
        assert!(report.is_clean(), "operation {n}: {report:?}");
        for host in [&again, &Host::new(store)] {
            let (repository, problems) = host.open(Some(&person)).unwrap();
            assert_eq!(problems, [], "operation {n}");
            // The very last operation is a listing behind the commit: its failure is a warning.
            let first = commit || outcome.is_ok();
            assert_eq!(repository.catalog().snapshots().unwrap().len(), if first { 4 } else { 3 }, "operation {n}");
            drop(repository);
            for id in host.snapshots_with(&person) {
                let back = tempfile::tempdir().unwrap();
                host.restore(&person, &Wanted::Named(id.clone()), back.path()).unwrap();
                assert_eq!(Some(tree::describe(back.path())), history.tree_of(&id), "operation {n}");
            }
        }
    }
    assert_eq!(forks, 1, "the commit is one of the writes");
}

#[test]
fn a_bucket_that_loses_packs_without_a_word_is_found_out() {
    let (source, host, person) = place();
    let chaos = Chaos::new(Arc::clone(&host.objects), 0);
    let host = Host { objects: Arc::new(chaos.clone()), ..host };
    host.backup(source.path()).unwrap();
    let (mut repository, _) = host.open(None).unwrap();
    let (row, writer) = (repository.host_row().unwrap(), repository.host().unwrap().name.clone());
    let packs = repository.catalog().packs(row).unwrap();
    let lost = packs.iter().max_by_key(|pack| pack.size).unwrap();
    let key = lost.key(&writer);
    drop(repository);
    block_on(chaos.lose(&Path::from(key.clone())));
    // The listing still shows it: a restore and a reading check name it all the same.
    let back = tempfile::tempdir().unwrap();
    let error = host.restore(&person, &Wanted::Latest, back.path()).unwrap_err();
    assert!(chain(&error).contains(&lost.id.to_string()) && error.kind() as u8 == 13, "{}", chain(&error));
    let report = checked(&host, &person);
    assert!(report.damage.iter().any(|d| d.object == key && !d.snapshots.is_empty()), "{report:?}");
    // What the check found is not referred to any more: the next backup stores it again.
    assert!(host.backup(source.path()).unwrap().counts.bytes_new > 300_000);
    let back = tempfile::tempdir().unwrap();
    host.restore(&person, &Wanted::Latest, back.path()).unwrap();
    assert_eq!(tree::describe(back.path()), tree::describe(source.path()));
    // And once the listing is true, a check that reads nothing names it too.
    chaos.set(Weather::default());
    let (mut repository, problems) = host.open(None).unwrap();
    let report = check(&mut repository, ReadData::No, &problems, clock()(), 1, &Silent).unwrap();
    assert!(report.damage.iter().any(|d| d.object == key), "{report:?}");
}

/// What is run once.
type Once = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;

/// Runs something once, behind a listing that has been made and not yet handed over.
struct Overtaken {
    inner: Arc<dyn ObjectStore>,
    part: &'static str,
    meanwhile: Once,
}

impl fmt::Debug for Overtaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Overtaken({})", self.part)
    }
}
impl fmt::Display for Overtaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Overtaken({})", self.part)
    }
}

#[async_trait]
impl ObjectStore for Overtaken {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(location, payload, options).await
    }
    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }
    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let listing = self.inner.list(prefix);
        if !prefix.is_some_and(|prefix| prefix.as_ref().contains(self.part)) {
            return listing;
        }
        let meanwhile = Arc::clone(&self.meanwhile);
        stream::once(async move {
            let all: Vec<_> = listing.collect().await;
            let work = meanwhile.lock().unwrap().take();
            if let Some(work) = work {
                std::thread::spawn(work).join().unwrap();
            }
            stream::iter(all)
        })
        .flatten()
        .boxed()
    }
    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }
    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[test]
fn a_listing_that_another_process_overtakes_is_no_alarm() {
    for part in ["/packs", "/log"] {
        let (source, host, person) = place();
        host.backup(source.path()).unwrap();
        let second = host.second();
        let other = tempfile::tempdir().unwrap();
        tree::make(other.path(), 99);
        let work = move || drop(second.backup_as(other.path(), "other", &Default::default()).unwrap());
        let meanwhile = Once::default();
        let overtaken = Overtaken { inner: Arc::clone(&host.objects), part, meanwhile: Arc::clone(&meanwhile) };
        let slow = Host { objects: Arc::new(overtaken), ..host.second() };
        let (mut repository, problems) = slow.open(Some(&person)).unwrap();
        *meanwhile.lock().unwrap() = Some(Box::new(work));
        let report = check(&mut repository, ReadData::No, &problems, clock()(), 1, &Silent).unwrap();
        assert!(meanwhile.lock().unwrap().is_none(), "{part}: nothing was overtaken");
        assert!(report.is_clean(), "{part}: {report:?}");
        drop(repository);
        // Nor does the catalog hold what is there for missing: nothing is stored again.
        assert_eq!(host.backup(source.path()).unwrap().counts.packs, 0, "{part}");
    }
}

#[test]
fn a_commit_that_a_process_without_identity_noted_first_is_no_alarm() {
    let (source, host, person) = place();
    host.backup(source.path()).unwrap();
    let other = Host::new(Arc::clone(&host.objects));
    other.join(&person).unwrap();
    // This process has read all logs; then the other host commits, and a process without the key sees the name first.
    let (mut repository, problems) = host.open(Some(&person)).unwrap();
    other.backup_as(source.path(), "other", &Default::default()).unwrap();
    host.second().open(None).unwrap();
    let report = check(&mut repository, ReadData::No, &problems, clock()(), 1, &Silent).unwrap();
    assert!(report.is_clean(), "{report:?}");
}

#[test]
fn a_hole_in_a_log_that_closes_leaves_no_trace() {
    let (source, host, person) = place();
    for round in 0..4 {
        change(&source, round);
        host.backup(source.path()).unwrap();
    }
    let store = copy_store(&*host.objects);
    let log: Vec<Path> = block_on(async {
        let all: Vec<_> = store.list(Some(&Path::from("writers"))).collect().await;
        let mut log: Vec<_> = all.into_iter().map(|o| o.unwrap().location).collect();
        log.retain(|path| path.as_ref().contains("/log/"));
        log.sort();
        log
    });
    let hidden = block_on(async { store.get(&log[1]).await.unwrap().bytes().await.unwrap() });
    block_on(store.delete(&log[1])).unwrap();
    let bare = Host::new(Arc::clone(&store));
    let (repository, problems) = bare.open(Some(&person)).unwrap();
    assert!(problems.iter().any(|p| matches!(p, Problem::MissingCommit { sequence: 2, .. })), "{problems:?}");
    assert_eq!(repository.catalog().snapshots().unwrap().len(), 3);
    drop(repository);
    // It was not lost: a listing was old, or a disk came back.
    block_on(store.put(&log[1], hidden.into())).unwrap();
    let (mut repository, problems) = bare.open(Some(&person)).unwrap();
    assert_eq!(problems, []);
    let found = repository.catalog().dump().unwrap();
    let uses = |repository: &lifeboat::repository::Repository| -> Vec<u64> {
        repository.catalog().snapshots().unwrap().iter().map(|s| s.record.uses.count()).collect()
    };
    let counts = uses(&repository);
    repository.rebuild_catalog(&Silent).unwrap();
    assert_eq!(uses(&repository), counts, "frames that snapshots use");
    assert_eq!(repository.catalog().dump().unwrap().len(), found.len());
    assert!(checked(&bare, &person).is_clean());
}

#[test]
fn a_file_edited_again_and_again_within_its_tick_is_never_taken_for_unchanged() {
    let (source, host, person) = place();
    let path = source.path().join("edited");
    // The host's own clock: the file is younger than the reading, and its size and times stay what they were.
    let soon = || World { clock: Arc::new(chrono::Utc::now), ..world() };
    let (history, mut same) = (History::default(), 0);
    let mut before = None;
    for round in 0..30u32 {
        fs::write(&path, format!("round {round:04}")).unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        let stamp = (fs::metadata(&path).unwrap().ctime(), fs::metadata(&path).unwrap().len());
        same += u32::from(before.replace(stamp) == Some(stamp));
        history.backup_in(&host, source.path(), "data", soon()).unwrap();
    }
    assert!(same > 0, "no two edits fell into one second");
    let (found, problems) = history.audit(&host, &person);
    assert_eq!((found, problems), (30, vec![]));
}
