//! A repository with two snapshots, a second writer, and another repository to take things from; copies of it that are
//! damaged; and the deeds.

use std::fs;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use lifeboat::catalog::PackRow;
use lifeboat::ops;
use lifeboat::ops::backup::backup;
use lifeboat::ops::check::{ReadData, check};
use lifeboat::ops::restore::{find_snapshot, prepare, restore};
use lifeboat::plan::restore::Wanted;
use lifeboat::progress::{Event, Progress, Silent};
use lifeboat::repository::{Keys, OpenOptions, Repository};
use lifeboat::source::{Rules, VolumeSource};
use object_store::local::LocalFileSystem;
use tempfile::TempDir;

use super::table::{Target, Way};
use crate::common::history::{Tree, assert_clear, assert_no_lies, chain};
use crate::common::{Host, Person, clock, copy_tree, plain, tree, world};

/// Where SQLite keeps the kind of a database's first page.
const PAGE_HEADER: usize = 100;

/// How a deed ended.
#[derive(Debug)]
pub enum Ended {
    /// It went through; all that each of its runs said on the way.
    Well { said: Vec<String> },
    /// It did not.
    Failed { error: String },
}

impl Ended {
    pub fn text(&self) -> String {
        match self {
            Self::Well { said } => said.join("\n"),
            Self::Failed { error } => error.clone(),
        }
    }
}

/// Warnings, to be asserted on.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Progress for Heard {
    fn event(&self, event: Event<'_>) {
        if let Event::Warning(text) = event {
            self.0.lock().unwrap().push(text.to_owned());
        }
    }
}

/// Where everything lies: `store`, `state`, `state-old`, `state-other` and `foreign` below one directory.
pub struct Scene {
    root: TempDir,
    source: Arc<TempDir>,
    person: Arc<Person>,
    trees: Arc<[Tree; 2]>,
    writer: String,
    packs: [PackRow; 2],
    frames: [Range<u64>; 2],
}

fn host_at(root: &Path, state: &str) -> Host {
    let host = Host::new(Arc::new(LocalFileSystem::new_with_prefix(root.join("store")).unwrap()));
    copy_tree(&root.join(state), host.state.path());
    host
}

fn keep(host: &Host, root: &Path, name: &str) {
    copy_tree(host.state.path(), &root.join(name));
}

impl Scene {
    pub fn new() -> Self {
        let (root, source, person) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), Person::new());
        for folder in ["store", "foreign"] {
            fs::create_dir(root.path().join(folder)).unwrap();
        }
        let local = |name: &str| Arc::new(LocalFileSystem::new_with_prefix(root.path().join(name)).unwrap());
        let (host, other, foreign) =
            (Host::new(local("store")), Host::new(local("store")), Host::new(local("foreign")));
        host.init(&person);
        foreign.init(&person);
        tree::make(source.path(), 5);
        tree::age(source.path());
        let before = tree::describe(source.path());
        host.backup(source.path()).unwrap();
        keep(&host, root.path(), "state-old");
        fs::write(source.path().join("docs/new.bin"), tree::noise(200_000, 9)).unwrap();
        tree::age(source.path());
        let after = tree::describe(source.path());
        host.backup(source.path()).unwrap();
        other.join(&person).unwrap();
        other.backup_as(source.path(), "other", &Default::default()).unwrap();
        let (mut repository, _) = host.open(None).unwrap();
        let writer = repository.host().unwrap().name.clone();
        let row = repository.host_row().unwrap();
        // The data packs of the two snapshots, the newer one first.
        let mut packs = repository.catalog().packs(row).unwrap();
        packs.retain(|pack| pack.size > 100_000);
        packs.reverse();
        let packs: [PackRow; 2] = packs.try_into().unwrap();
        let frames = [0, 1].map(|n| {
            let frames = repository.catalog().frames_of(packs[n].row).unwrap();
            frames[0].at..frames[0].at + frames[0].stored
        });
        drop(repository);
        keep(&host, root.path(), "state");
        keep(&other, root.path(), "state-other");
        let (source, person, trees) = (Arc::new(source), Arc::new(person), Arc::new([before, after]));
        Self { root, source, person, trees, writer, packs, frames }
    }

    /// A place of its own, to be damaged.
    pub fn copy(&self) -> Self {
        let root = tempfile::tempdir().unwrap();
        copy_tree(self.root.path(), root.path());
        Self {
            root,
            source: Arc::clone(&self.source),
            person: Arc::clone(&self.person),
            trees: Arc::clone(&self.trees),
            writer: self.writer.clone(),
            packs: self.packs.clone(),
            frames: self.frames.clone(),
        }
    }

    fn below(&self, folder: &str, marker: &str) -> Vec<PathBuf> {
        let (mut found, mut open) = (Vec::new(), vec![self.root.path().join(folder)]);
        while let Some(path) = open.pop() {
            if path.is_dir() {
                open.extend(fs::read_dir(path).unwrap().map(|e| e.unwrap().path()));
            } else if path.to_string_lossy().contains(marker) {
                found.push(path);
            }
        }
        found.sort();
        found
    }

    fn pack(&self, n: usize) -> PathBuf {
        self.root.path().join("store").join(self.packs[n].key(&self.writer))
    }

    /// The object that is damaged, and the one that it is swapped with or replaced by: an older one, another writer's,
    /// another repository's.
    fn objects(&self, target: Target, way: Way) -> [PathBuf; 2] {
        let (ours, foreign) = (|marker: &str| self.below("store", marker), |m: &str| self.below("foreign", m));
        let own = format!("/{}/", self.writer);
        let of_writers = |marker: &str| {
            let of_writers = ours(marker).into_iter().filter(|path| path.to_string_lossy().contains("/writers/"));
            let (a, b): (Vec<_>, Vec<_>) = of_writers.partition(|path| path.to_string_lossy().contains(&own));
            [a[0].clone(), b[0].clone()]
        };
        match target {
            Target::Commit => {
                let log = ours(&format!("{own}log/"));
                [log[1].clone(), log[0].clone()]
            }
            Target::Description => [ours("lifeboat.json")[0].clone(), foreign("lifeboat.json")[0].clone()],
            Target::WriterDescription => of_writers("/writer.json"),
            Target::RepositorySecret => [ours("keys/secret-")[0].clone(), foreign("keys/secret-")[0].clone()],
            Target::RecipientsList => [ours("keys/recipients-")[0].clone(), foreign("keys/recipients-")[0].clone()],
            Target::WriterSecret => of_writers("/secret-"),
            Target::Catalog | Target::ManifestCopy => {
                let name = if target == Target::Catalog { "catalog.db" } else { "manifests/" };
                let peer = if way == Way::Replay { "state-old" } else { "state-other" };
                let find = |folder: &str| self.below(folder, name).into_iter().next().unwrap();
                [find("state"), find(peer)]
            }
            Target::Frame | Target::PackDirectory | Target::Footer => [self.pack(0), self.pack(1)],
        }
    }

    fn range(&self, target: Target, n: usize) -> Range<u64> {
        let pack = &self.packs[n];
        let end = pack.directory_at + pack.directory_length;
        match target {
            Target::Frame => self.frames[n].clone(),
            Target::PackDirectory => pack.directory_at..end,
            _ => end..pack.size,
        }
    }

    /// Does it, and returns the name of the damaged object.
    pub fn damage(&self, target: Target, way: Way) -> String {
        let [path, peer] = self.objects(target, way);
        if target == Target::Catalog {
            // The write-ahead log of a catalog that was closed is empty and belongs to the file that it lies beside.
            for tail in ["-wal", "-shm"] {
                let _ = fs::remove_file(format!("{}{tail}", path.display()));
            }
        }
        let (mine, theirs) = (fs::read(&path).unwrap(), fs::read(&peer).unwrap());
        let parts = matches!(target, Target::Frame | Target::PackDirectory | Target::Footer);
        let (a, b) = match parts {
            true => (self.range(target, 0), self.range(target, 1)),
            false => (0..mine.len() as u64, 0..theirs.len() as u64),
        };
        let [a, b] = [a, b].map(|range| range.start as usize..range.end as usize);
        let splice = |into: &[u8], at: &Range<usize>, part: &[u8]| {
            let mut bytes = into.to_vec();
            bytes.splice(at.clone(), part.iter().copied());
            bytes
        };
        match way {
            Way::Delete if parts => fs::write(&path, splice(&mine, &a, b"")).unwrap(),
            Way::Delete => fs::remove_file(&path).unwrap(),
            Way::Truncate => fs::write(&path, &mine[..(a.start + a.end) / 2]).unwrap(),
            // What a bit elsewhere in the catalog does is tried in `rot.rs`.
            Way::Flip if target == Target::Catalog => flip(&path, PAGE_HEADER),
            Way::Flip => flip(&path, (a.start + a.end) / 2),
            Way::Swap => {
                fs::write(&path, splice(&mine, &a, &theirs[b.clone()])).unwrap();
                fs::write(&peer, splice(&theirs, &b, &mine[a])).unwrap();
            }
            Way::Replay => fs::write(&path, splice(&mine, &a, &theirs[b])).unwrap(),
        }
        path.file_name().unwrap().to_string_lossy().into_owned()
    }

    fn open(&self, host: &Host, identity: bool, heard: &Heard) -> Result<(Repository, String), ops::Error> {
        let identities = if identity { self.person.identities() } else { Default::default() };
        let keys = Keys { identities, ..Keys::default() };
        let options = OpenOptions { state: host.state.path(), catalog: None, keys, sync: true, keeper_of: None };
        let (repository, report) = Repository::open(host.store(), options, heard)?;
        let problems: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
        Ok((repository, problems.join("\n")))
    }

    /// A check of all data, without an identity and with one: both must say the same of what is damaged.
    pub fn check(&self) -> Ended {
        let host = host_at(self.root.path(), "state");
        let run = |identity| -> Result<String, ops::Error> {
            let heard = Heard::default();
            let (mut repository, said) = self.open(&host, identity, &heard)?;
            let problems: Vec<_> = host.open(None).map(|(_, problems)| problems)?;
            let report = check(&mut repository, ReadData::All, &problems, clock()(), 1, &heard)?;
            Ok(if report.is_clean() { said } else { format!("{said}\n{report:?}") })
        };
        ended([run(false), run(true)])
    }

    /// A restore of the newest snapshot, on this host or on a machine that has seen nothing.
    pub fn restore(&self, bare: bool) -> Ended {
        let host = match bare {
            true => Host::new(Arc::new(LocalFileSystem::new_with_prefix(self.root.path().join("store")).unwrap())),
            false => host_at(self.root.path(), "state"),
        };
        let (back, heard) = (tempfile::tempdir().unwrap(), Heard::default());
        let mut said = String::new();
        let mut run = || -> Result<String, ops::Error> {
            let (mut repository, problems) = self.open(&host, true, &heard)?;
            said = problems;
            let (snapshot, choice) = find_snapshot(&repository, "data", &Wanted::Latest, false)?;
            // Which snapshot it is must have been said, if it is not the newest.
            let newest = snapshot.record.entries as usize == self.trees[1].len();
            let plan = prepare(&repository, snapshot, &choice, Some(back.path()), unverified(), &Silent)?;
            let restored = restore(&mut repository, &plan, &Silent);
            let expected = if newest { &self.trees[1] } else { &self.trees[0] };
            if restored.is_ok() {
                assert_eq!(&tree::describe(back.path()), expected);
                assert!(newest || !said.is_empty(), "an older snapshot was restored without a word");
            } else {
                let mut expected = expected.clone();
                expected.insert(String::new(), tree::describe(back.path())[""].clone());
                assert_no_lies(back.path(), &expected);
            }
            restored.map(|_| String::new())
        };
        match run() {
            Ok(_) => Ended::Well { said: vec![said] },
            Err(e) => Ended::Failed { error: format!("{said}\n{}", chain(&e)) },
        }
    }

    /// The first backup of another day: what it made must restore.
    pub fn backup(&self) -> Ended {
        let host = host_at(self.root.path(), "state");
        let run = || -> Result<String, ops::Error> {
            let heard = Arc::new(Heard::default());
            let (mut repository, mut said) = self.open(&host, false, &heard)?;
            repository.catalog_mut().set_fact(&format!("packs of {} listed", self.writer), "0")?;
            let volume = VolumeSource::new(self.source.path(), &Rules::default())?;
            let progress: Arc<dyn Progress> = heard.clone();
            let report = backup(&volume, "data", &mut repository, &Default::default(), &world(), &progress)?;
            for problem in &report.problems {
                said.push_str(&format!("\n{problem}"));
            }
            drop(repository);
            self.restores_right(&host);
            said.push_str(&heard.0.lock().unwrap().join("\n"));
            Ok(said)
        };
        ended([run()])
    }
}

impl Scene {
    /// The newest snapshot comes back right, or is refused by name: never wrong bytes.
    fn restores_right(&self, host: &Host) {
        let back = tempfile::tempdir().unwrap();
        let options = unverified();
        match host.restore_with(&self.person, &Wanted::Latest, back.path(), options) {
            Ok(_) => assert_eq!(tree::describe(back.path()), self.trees[1]),
            Err(e) => {
                assert_clear(&e);
                let mut expected = self.trees[1].clone();
                expected.insert(String::new(), tree::describe(back.path())[""].clone());
                assert_no_lies(back.path(), &expected);
            }
        }
    }
}

/// Without the reading again: wrong bytes must be noticed before they are written.
fn unverified() -> lifeboat::ops::restore::RestoreOptions {
    lifeboat::ops::restore::RestoreOptions { verify: false, ..plain() }
}

/// All went through, or what the first that did not said.
fn ended<const N: usize>(runs: [Result<String, ops::Error>; N]) -> Ended {
    let all: Result<Vec<String>, ops::Error> = runs.into_iter().collect();
    match all {
        Ok(said) => Ended::Well { said },
        Err(e) => Ended::Failed { error: chain(&e) },
    }
}

fn flip(path: &Path, at: usize) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at as u64).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at as u64).unwrap();
}
