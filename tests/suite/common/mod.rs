//! What the tests share: places with a store and a host, trees that are compared, stores that
//! stop, do wrong or have bad weather, real servers.

pub mod broken;
pub mod browser;
pub mod chance;
pub mod chaos;
pub mod clocked;
pub mod convex;
pub mod ears;
pub mod faulty;
pub mod forge;
pub mod history;
pub mod kill;
pub mod oracle;
pub mod postgres;
pub mod proxy;
pub mod pruned;
pub mod scene;
pub mod servers;
pub mod serving;
pub mod sqlite;
pub mod started;
pub mod tls;
pub mod tree;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use lifeboat::model::Moment;
use lifeboat::ops;
use lifeboat::ops::Selection;
use lifeboat::ops::backup::{BackupOptions, BackupReport, World, backup};
use lifeboat::ops::restore::{Overwrite, RestoreOptions, RestoreReport, find_snapshot, prepare, restore};
use lifeboat::plan::restore::Wanted;
use lifeboat::progress::{Progress, Silent};
use lifeboat::repository::{self, InitOptions, Keys, Made, OpenOptions, Problem, Repository, init};
use lifeboat::seal::{Identities, generate_identity};
use lifeboat::source::{Rules, VolumeSource};
use lifeboat::store::{Limits, Patience, Store};
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use tempfile::TempDir;

/// No pauses: tests assert on work, never on time.
pub fn limits(tries: u32) -> Limits {
    let patience = Patience { tries, pause: Duration::ZERO, deadline: Duration::from_secs(60) };
    Limits { patience, ..Limits::default() }
}

/// A key pair of a person.
pub struct Person {
    pub identity: String,
    pub recipient: String,
}

impl Person {
    pub fn new() -> Self {
        let (identity, recipient) = generate_identity();
        Self { identity, recipient }
    }
    pub fn identities(&self) -> Identities {
        Identities::from_age_text(&self.identity).unwrap()
    }
}

/// A clock that ticks a minute at each look, from a fixed day: the tests' trees are older than any of its times.
pub fn clock() -> Arc<dyn Fn() -> Moment + Send + Sync> {
    static TICKS: AtomicU64 = AtomicU64::new(0);
    let start: Moment = "2036-01-01T00:00:00Z".parse().unwrap();
    Arc::new(move || start + chrono::TimeDelta::seconds(TICKS.fetch_add(1, Ordering::Relaxed) as i64))
}

pub fn world() -> World {
    let mut random = [0; 10];
    getrandom::fill(&mut random).unwrap();
    World { clock: clock(), random, host: "test-host".into() }
}

/// A host: a state directory, and a store that it reaches.
pub struct Host {
    pub objects: Arc<dyn ObjectStore>,
    /// A store elsewhere, in place of `objects`.
    pub remote: Option<Store>,
    pub state: Arc<TempDir>,
    pub tries: u32,
}

impl Host {
    pub fn new(objects: Arc<dyn ObjectStore>) -> Self {
        Self { objects, remote: None, state: Arc::new(tempfile::tempdir().unwrap()), tries: 1 }
    }

    /// A host whose store is a real server's.
    pub fn reaching(store: &Store) -> Self {
        Self { remote: Some(store.clone()), ..Self::new(Arc::new(object_store::memory::InMemory::new())) }
    }

    pub fn store(&self) -> Store {
        match &self.remote {
            Some(store) => store.clone(),
            None => Store::new(Arc::clone(&self.objects), "", "memory", limits(self.tries)).unwrap(),
        }
    }

    pub fn init(&self, person: &Person) -> Made {
        self.init_for(&[person])
    }

    pub fn init_for(&self, people: &[&Person]) -> Made {
        let recipients: Vec<_> = people.iter().map(|p| p.recipient.parse().unwrap()).collect();
        init(&self.store(), &self.options(&recipients)).unwrap()
    }

    pub fn options<'a>(&'a self, recipients: &'a [lifeboat::seal::Recipient]) -> InitOptions<'a> {
        InitOptions { recipients, state: self.state.path(), host: "test", now: clock()() }
    }

    pub fn join(&self, person: &Person) -> Result<Made, repository::Error> {
        Repository::join(&self.store(), person.identities(), &[], &self.options(&[]))
    }

    /// Opens with or without an identity.
    pub fn open(&self, person: Option<&Person>) -> Result<(Repository, Vec<Problem>), repository::Error> {
        let identities = person.map(Person::identities).unwrap_or_default();
        let keys = Keys { identities, ..Keys::default() };
        let options = OpenOptions { state: self.state.path(), catalog: None, keys, sync: true, keeper_of: None };
        Repository::open(self.store(), options, &Silent).map(|(repository, report)| (repository, report.problems))
    }

    pub fn backup(&self, source: &Path) -> Result<BackupReport, ops::Error> {
        self.backup_as(source, "data", &BackupOptions::default())
    }

    pub fn backup_as(&self, source: &Path, name: &str, options: &BackupOptions) -> Result<BackupReport, ops::Error> {
        self.backup_in(source, name, options, &world())
    }

    pub fn backup_in(
        &self,
        source: &Path,
        name: &str,
        options: &BackupOptions,
        world: &World,
    ) -> Result<BackupReport, ops::Error> {
        let (mut repository, _) = self.open(None)?;
        let volume = VolumeSource::new(source, &Rules::default())?;
        let progress: Arc<dyn Progress> = Arc::new(Silent);
        backup(&volume, name, &mut repository, options, world, &progress)
    }

    pub fn restore(&self, person: &Person, wanted: &Wanted, into: &Path) -> Result<RestoreReport, ops::Error> {
        self.restore_with(person, wanted, into, plain())
    }

    pub fn restore_with(
        &self,
        person: &Person,
        wanted: &Wanted,
        into: &Path,
        options: RestoreOptions,
    ) -> Result<RestoreReport, ops::Error> {
        let (mut repository, _) = self.open(Some(person))?;
        let (snapshot, choice) = find_snapshot(&repository, "data", wanted, false)?;
        let prepared = prepare(&repository, snapshot, &choice, Some(into), options, &Silent)?;
        restore(&mut repository, &prepared, &Silent)
    }

    /// Ids of all snapshots, oldest first.
    pub fn snapshots(&self) -> Vec<String> {
        let (repository, _) = self.open(None).unwrap();
        repository.catalog().snapshots().unwrap().iter().map(|s| s.record.id.to_string()).collect()
    }

    pub fn stats(&self) -> ops::look::Stats {
        ops::look::stats(&self.open(None).unwrap().0).unwrap()
    }

    /// The ids of all snapshots that an identity sees, oldest first.
    pub fn snapshots_with(&self, person: &Person) -> Vec<String> {
        let (repository, _) = self.open(Some(person)).unwrap();
        repository.catalog().snapshots().unwrap().iter().map(|s| s.record.id.to_string()).collect()
    }

    /// The same host for another process: the same store, the same state directory.
    pub fn second(&self) -> Self {
        Self {
            objects: Arc::clone(&self.objects),
            state: Arc::clone(&self.state),
            tries: self.tries,
            remote: self.remote.clone(),
        }
    }

    /// Copies the state directory: what a disk image of the host would hold.
    pub fn clone_state(&self, objects: Arc<dyn ObjectStore>) -> Self {
        let host = Self::new(objects);
        copy_tree(self.state.path(), host.state.path());
        host
    }
}

pub fn plain() -> RestoreOptions {
    RestoreOptions {
        selection: Selection::new(&[], &[]).unwrap(),
        overwrite: Overwrite::Refuse,
        delete: false,
        verify: true,
    }
}

/// A copy of everything in a store, in memory.
pub fn copy_store(from: &dyn ObjectStore) -> Arc<dyn ObjectStore> {
    let to = InMemory::new();
    merge_store(from, &to);
    Arc::new(to)
}

/// Puts everything that is in one store into another.
pub fn merge_store(from: &dyn ObjectStore, to: &dyn ObjectStore) {
    block_on(async {
        let mut all = from.list(None);
        while let Some(object) = all.next().await {
            let location = object.unwrap().location;
            let body = from.get(&location).await.unwrap().bytes().await.unwrap();
            to.put(&location, body.into()).await.unwrap();
        }
    });
}

/// Waits for what a store does.
pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

pub fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target: PathBuf = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
