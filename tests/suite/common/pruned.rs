//! A host with a source that changes each night, on a store whose clock is set by hand: what the tests of prune are played on.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use lifeboat::model::{Entry, Moment, RawText};
use lifeboat::ops;
use lifeboat::ops::backup::{BackupOptions, BackupReport, World};
use lifeboat::ops::check::{ReadData, check};
use lifeboat::ops::forget::{forget, plan_named};
use lifeboat::ops::prune::{PruneOptions, PruneReport, plan, prune};
use lifeboat::plan::prune::Limits;
use lifeboat::plan::restore::Wanted;
use lifeboat::progress::{Progress, Silent};
use lifeboat::repository::Repository;
use lifeboat::source::{self, Found, FoundEntry, Opened, Rules, Source, VolumeSource};
use tempfile::TempDir;

use super::clocked::Clocked;
use super::{Host, Person, clock, tree};

pub type Tree = BTreeMap<String, String>;

pub const DAY: u64 = 24 * 3600;
/// Bytes of the file that is another one each night: whole frames hold nothing else, wherever the chunks end.
pub const TONIGHT: usize = 4_500_000;

pub fn options(max_unused: f64, grace: u64) -> PruneOptions {
    PruneOptions { limits: Limits { max_unused, max_repack: None, grace }, until: None }
}

/// Prunes on a host, without an identity.
pub fn prune_with(host: &Host, options: &PruneOptions) -> Result<PruneReport, ops::Error> {
    let (mut repository, problems) = host.open(None)?;
    let plan = plan(&mut repository, options, &|_| None, &problems)?;
    prune(&mut repository, plan, options, &|_| None, &*clock(), &Silent)
}

pub fn prune_on(host: &Host) -> Result<PruneReport, ops::Error> {
    prune_with(host, &options(0.0, DAY))
}

pub fn forget_on(host: &Host, ids: &[String]) {
    try_forget(host, ids).unwrap();
}

pub fn try_forget(host: &Host, ids: &[String]) -> Result<(), ops::Error> {
    let (mut repository, problems) = host.open(None).unwrap();
    let plans = plan_named(&mut repository, ids, &problems)?;
    let done = forget(&mut repository, &plans, clock()(), &Silent).unwrap();
    assert_eq!(done.snapshots.len(), ids.len());
    Ok(())
}

pub fn comparable(repository: &Repository) -> Vec<String> {
    let all = repository.catalog().dump().unwrap();
    all.into_iter().filter(|line| !line.starts_with("sparse") && !line.starts_with("received")).collect()
}

pub struct Nights {
    pub store: Clocked,
    pub source: TempDir,
    pub host: Host,
    pub person: Person,
    pub trees: BTreeMap<String, Tree>,
    night: u64,
}

impl Nights {
    pub fn new() -> Self {
        let (store, source) = (Clocked::new(), tempfile::tempdir().unwrap());
        tree::make(source.path(), 3);
        std::fs::write(source.path().join("stays"), tree::noise(2_400_000, 1000)).unwrap();
        let (host, person) = (Host::new(Arc::new(store.clone())), Person::new());
        host.init(&person);
        Self { store, source, host, person, trees: BTreeMap::new(), night: 0 }
    }

    /// Changes the source: a large file is another one each night, and some lines.
    pub fn change(&mut self) {
        self.night += 1;
        let at = |name: &str| self.source.path().join(name);
        std::fs::write(at("tonight"), tree::noise(TONIGHT, self.night)).unwrap();
        std::fs::write(at("docs/lines"), tree::lines(40, self.night)).unwrap();
        tree::age(self.source.path());
    }

    /// A night: the source changes and is backed up, a day passes.
    pub fn night(&mut self) -> String {
        self.change();
        let report = self.host.backup(self.source.path()).unwrap();
        let id = report.record.id.to_string();
        self.trees.insert(id.clone(), tree::describe(self.source.path()));
        self.store.advance(24);
        id
    }

    pub fn nights(&mut self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.night()).collect()
    }

    pub fn restored(&self, host: &Host, id: &str) -> Result<Tree, ops::Error> {
        let back = tempfile::tempdir().unwrap();
        host.restore(&self.person, &Wanted::Named(id.to_owned()), back.path())?;
        Ok(tree::describe(back.path()))
    }

    /// These and no others are listed, and each restores byte for byte.
    pub fn restores(&self, host: &Host, ids: &[String]) {
        assert_eq!(host.snapshots_with(&self.person), ids, "what is listed");
        for id in ids {
            assert_eq!(&self.restored(host, id).unwrap(), &self.trees[id], "snapshot {id}");
        }
    }

    /// The same, and a check that reads everything finds nothing.
    pub fn sound(&self, host: &Host, ids: &[String]) {
        self.restores(host, ids);
        let (mut repository, problems) = host.open(Some(&self.person)).unwrap();
        let report = check(&mut repository, ReadData::All, &problems, clock()(), 1, &Silent).unwrap();
        assert!(report.is_clean() && report.snapshots == ids.len() as u64, "{report:?}");
        let said = |repository: &Repository| {
            let writers: Vec<String> =
                repository.catalog().writers().unwrap().into_iter().map(|(_, name)| name).collect();
            repository.catalog().said_by_logs(&writers).unwrap()
        };
        let before = said(&repository);
        assert_eq!(repository.rebuild_catalog(&Silent).unwrap().problems, []);
        assert_eq!(said(&repository), before, "a catalog that is rebuilt says the same");
    }

    /// The same, and a catalog that is rebuilt is in every row what it was.
    pub fn holds(&self, host: &Host, ids: &[String]) {
        let (mut repository, _) = host.open(Some(&self.person)).unwrap();
        let writer = repository.host().unwrap().name.clone();
        repository.load_chunks(&writer, &Silent).unwrap();
        let before = comparable(&repository);
        drop(repository);
        self.sound(host, ids);
        let (repository, _) = host.open(Some(&self.person)).unwrap();
        assert_eq!(comparable(&repository), before);
    }

    /// A copy of the store and of the host's disk.
    pub fn fork(&self) -> (Clocked, Host) {
        let store = self.store.fork();
        let host = self.host.clone_state(Arc::new(store.clone()));
        (store, host)
    }

    /// Another machine, which has the identity alone.
    pub fn reader(&self) -> Host {
        Host::new(Arc::new(self.store.clone()))
    }
}

type Deed = Box<dyn FnOnce() + Send>;

/// A directory that is backed up, and something that happens when everything of it was read and nothing is committed yet.
pub struct Meanwhile {
    volume: VolumeSource,
    deed: Mutex<Option<Deed>>,
}

impl Meanwhile {
    pub fn new(source: &Path, deed: impl FnOnce() + Send + 'static) -> Self {
        let volume = VolumeSource::new(source, &Rules::default()).unwrap();
        Self { volume, deed: Mutex::new(Some(Box::new(deed))) }
    }

    /// Backs it up.
    pub fn backup(
        &self,
        host: &Host,
        clock: Arc<dyn Fn() -> Moment + Send + Sync>,
    ) -> Result<BackupReport, ops::Error> {
        let (mut repository, _) = host.open(None)?;
        let progress: Arc<dyn Progress> = Arc::new(Silent);
        let world = World { clock, ..super::world() };
        ops::backup::backup(self, "data", &mut repository, &BackupOptions::default(), &world, &progress)
    }
}

impl Source for Meanwhile {
    fn kind(&self) -> &'static str {
        self.volume.kind()
    }
    fn root(&self) -> String {
        self.volume.root()
    }
    fn walk(&self, each: &mut dyn FnMut(Found) -> bool) -> Result<(), source::Error> {
        self.volume.walk(each)
    }
    fn open(&self, found: &FoundEntry) -> Result<Opened<'_>, String> {
        self.volume.open(found)
    }
    fn xattrs(&self, entry: &Entry) -> BTreeMap<String, RawText> {
        self.volume.xattrs(entry)
    }
    fn all_or_nothing(&self) -> bool {
        self.volume.all_or_nothing()
    }
    fn finish(&self) -> Result<(), source::Error> {
        if let Some(deed) = self.deed.lock().unwrap().take() {
            deed();
        }
        self.volume.finish()
    }
}
