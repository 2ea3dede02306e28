//! Random runs of everything against a store in bad weather. Every deed ends well or with a clear error, and nothing that
//! carries a final name is ever wrong. Afterwards, in fair weather: what was acknowledged restores byte for byte, a run
//! repeated ends as an undisturbed one, the catalog is the one that a rebuild makes.
//!
//! `LIFEBOAT_TEST_SEEDS=n` tries more seeds; a failure prints its seed, and `LIFEBOAT_TEST_SEED=n` runs that one alone.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use lifeboat::model::Moment;
use lifeboat::ops;
use lifeboat::ops::backup::World;
use lifeboat::ops::check::{ReadData, check};
use lifeboat::ops::restore::{find_snapshot, prepare, restore};
use lifeboat::plan::restore::Wanted;
use lifeboat::progress::Silent;
use lifeboat::repository::Problem;
use object_store::memory::InMemory;
use tempfile::TempDir;

use crate::common::chance::{Chance, each_seed};
use crate::common::chaos::{Chaos, Weather};
use crate::common::history::{History, assert_clear, assert_no_lies};
use crate::common::{Host, Person, plain, tree, world};

struct Voyage {
    chance: Chance,
    chaos: Chaos,
    host: Host,
    person: Person,
    source: TempDir,
    landing: TempDir,
    history: History,
    time: Arc<AtomicI64>,
    round: u64,
}

/// Some kinds of weather, not all at once: what hides behind a storm is met in another seed.
fn weather(chance: &mut Chance) -> Weather {
    let mut often = |most: u64| if chance.below(5) < 2 { 1 + chance.below(most) } else { 0 };
    Weather {
        fail: often(120),
        lose: often(250),
        tear: often(120),
        delay: often(80),
        stale: often(600),
        storm: often(15),
        short: often(200),
    }
}

impl Voyage {
    fn begin(seed: u64) -> Self {
        let chaos = Chaos::new(Arc::new(InMemory::new()), seed);
        let (mut host, person) = (Host::new(Arc::new(chaos.clone())), Person::new());
        host.init(&person);
        host.tries = 3;
        let source = tempfile::tempdir().unwrap();
        for n in 0..6u64 {
            fs::create_dir_all(source.path().join(format!("dir{}", n % 3))).unwrap();
            fs::write(source.path().join(format!("dir{}/{n}", n % 3)), tree::noise(30_000, seed + n)).unwrap();
        }
        if seed % 4 == 3 {
            // Several frames, so that a run may commit what it has stored before it ends.
            fs::write(source.path().join("large"), tree::noise(5_000_000, seed)).unwrap();
        }
        tree::age(source.path());
        let start = "2036-01-01T00:00:00Z".parse::<Moment>().unwrap();
        Self {
            chance: Chance::new(seed),
            chaos,
            host,
            person,
            source,
            landing: tempfile::tempdir().unwrap(),
            history: History::default(),
            time: Arc::new(AtomicI64::new(start.timestamp())),
            round: 0,
        }
    }

    fn now(&self) -> Moment {
        Moment::from_timestamp(self.time.fetch_add(1, Ordering::SeqCst), 0).unwrap()
    }

    fn change(&mut self) {
        self.round += 1;
        let name = format!("dir{}/{}", self.chance.below(3), self.chance.below(9));
        let path = self.source.path().join(name);
        match self.chance.below(4) {
            0 => drop(fs::remove_file(&path)),
            1 => fs::write(&path, tree::lines(self.chance.below(800) as usize, self.round)).unwrap(),
            _ => fs::write(&path, tree::noise(self.chance.below(60_000) as usize, self.round)).unwrap(),
        }
        tree::age(self.source.path());
    }

    fn backup(&mut self) -> Result<(), ops::Error> {
        // Each look at the clock takes a second, or so long that a run commits in its midst.
        let (time, step) = (Arc::clone(&self.time), *self.chance.pick(&[1, 1, 400]));
        let clock = move || Moment::from_timestamp(time.fetch_add(step, Ordering::SeqCst), 0).unwrap();
        let world = World { clock: Arc::new(clock), random: self.chance.bytes(), ..world() };
        self.history.backup_in(&self.host, self.source.path(), "data", world).map(drop)
    }

    /// Restores any snapshot, on this host or on a bare machine, perhaps over what a restore before left.
    fn restore(&mut self) -> Result<(), ops::Error> {
        let bare = Host { tries: 3, ..Host::new(Arc::clone(&self.host.objects)) };
        let host = if self.chance.below(2) == 0 { &self.host } else { &bare };
        let (mut repository, _) = host.open(Some(&self.person))?;
        let rows = repository.catalog().snapshots()?;
        if rows.is_empty() {
            return Ok(());
        }
        let id = self.chance.pick(&rows).record.id.to_string();
        let into: PathBuf = self.landing.path().join(&id);
        let expected = self.history.tree_of(&id).unwrap();
        if into.exists() && tree::describe(&into) == expected {
            fs::remove_dir_all(&into).unwrap();
        }
        let (snapshot, choice) = find_snapshot(&repository, "data", &Wanted::Named(id), false)?;
        let outcome = prepare(&repository, snapshot, &choice, Some(&into), plain(), &Silent)
            .and_then(|plan| restore(&mut repository, &plan, &Silent));
        match outcome {
            Ok(_) => assert_eq!(tree::describe(&into), expected),
            Err(e) => {
                assert_no_lies(&into, &expected);
                // Files that could not be had have names that say so, and are not in the way of the next try.
                if matches!(e, ops::Error::Hurt { .. }) {
                    fs::remove_dir_all(&into).unwrap();
                }
                return Err(e);
            }
        }
        Ok(())
    }

    fn check(&mut self) -> Result<(), ops::Error> {
        let (mut repository, problems) = self.host.open(Some(&self.person))?;
        let read = *self.chance.pick(&[ReadData::No, ReadData::All]);
        let report = check(&mut repository, read, &problems, self.now(), 1, &Silent)?;
        assert!(report.snapshots as usize >= self.history.acknowledged() || !problems.is_empty(), "{report:?}");
        Ok(())
    }

    fn rebuild(&mut self) -> Result<(), ops::Error> {
        let (mut repository, _) = self.host.open(None)?;
        if self.chance.below(2) == 0 {
            return Ok(repository.rebuild_catalog(&Silent).map(drop)?);
        }
        let folder = repository.folder().path().to_owned();
        drop(repository);
        for file in ["catalog.db", "catalog.db-wal", "catalog.db-shm"] {
            let _ = fs::remove_file(folder.join(file));
        }
        Ok(())
    }

    fn any_deed(&mut self) -> Result<(), ops::Error> {
        match self.chance.below(10) {
            0..=4 => {
                self.change();
                self.backup()
            }
            5 => self.backup(),
            6 | 7 => self.restore(),
            8 => self.check(),
            _ => self.rebuild(),
        }
    }

    /// In fair weather everything is as it should be.
    fn arrive(&mut self) {
        self.chaos.set(Weather::default());
        self.history.audit(&self.host, &self.person);
        self.backup().unwrap();
        let twin = Host::new(Arc::new(InMemory::new()));
        twin.init(&self.person);
        let undisturbed = twin.backup(self.source.path()).unwrap().record;
        let newest = self.host.open(None).unwrap().0.catalog().snapshots().unwrap().pop().unwrap().record;
        let sums = |r: &lifeboat::model::SnapshotRecord| (r.entries, r.files, r.bytes, r.complete, r.manifest.digest);
        let (ours, theirs) = (sums(&newest), sums(&undisturbed));
        assert_eq!((ours.0, ours.1, ours.2, ours.3), (theirs.0, theirs.1, theirs.2, theirs.3));
        // Sparse frames may be written anew once; then nothing is stored any more.
        let quiet = (0..3).any(|_| self.host.backup(self.source.path()).unwrap().counts.packs == 0);
        assert!(quiet, "an unchanged source goes on storing");
        self.check_is_clean();
        self.catalog_is_what_a_rebuild_makes();
    }

    /// Clean, but for commits of which half is in the log: they are named, and nobody can remove them.
    fn check_is_clean(&mut self) {
        let (mut repository, problems) = self.host.open(Some(&self.person)).unwrap();
        let report = check(&mut repository, ReadData::All, &problems, self.now(), 1, &Silent).unwrap();
        let torn: Vec<String> = self.chaos.torn().into_iter().filter(|key| key.contains("/log/")).collect();
        assert!(report.damage.is_empty() && report.files_hurt.is_empty(), "{report:?}");
        for problem in &report.problems {
            assert!(torn.iter().any(|key| problem.contains(key)), "{problem}");
        }
        for key in &torn {
            assert!(report.problems.iter().any(|problem| problem.contains(key)), "{key} is not named");
        }
        assert!(problems.iter().all(|p| matches!(p, Problem::BadCommit { .. })), "{problems:?}");
    }

    fn catalog_is_what_a_rebuild_makes(&self) {
        let (mut repository, _) = self.host.open(None).unwrap();
        let writer = repository.host().unwrap().name.clone();
        repository.load_chunks(&writer, &Silent).unwrap();
        let dump = |repository: &lifeboat::repository::Repository| -> Vec<String> {
            let all = repository.catalog().dump().unwrap();
            // What is used sparsely is measured by the next backup, not kept in the log.
            all.into_iter().filter(|line| !line.starts_with("sparse")).collect()
        };
        let before = dump(&repository);
        repository.rebuild_catalog(&Silent).unwrap();
        assert_eq!(dump(&repository), before);
    }
}

#[test]
fn nothing_acknowledged_is_lost_in_bad_weather() {
    let happened: Mutex<BTreeMap<&'static str, u64>> = Mutex::default();
    let (failed, done) = (AtomicI64::new(0), AtomicI64::new(0));
    let tried = each_seed(40, |seed| {
        let mut voyage = Voyage::begin(seed);
        let weather = weather(&mut voyage.chance);
        for _ in 0..9 {
            voyage.chaos.set(weather);
            match voyage.any_deed() {
                Ok(()) => drop(done.fetch_add(1, Ordering::Relaxed)),
                Err(e) => {
                    assert_clear(&e);
                    failed.fetch_add(1, Ordering::Relaxed);
                }
            }
            voyage.time.fetch_add(voyage.chance.below(40_000) as i64, Ordering::SeqCst);
        }
        voyage.arrive();
        for (what, count) in voyage.chaos.happened() {
            *happened.lock().unwrap().entry(what).or_default() += count;
        }
    });
    if tried >= 40 {
        // The weather was bad: every kind of it came, and it hurt.
        let happened = happened.into_inner().unwrap();
        for what in ["fail", "lose", "tear", "delay", "stale", "503", "short", "well"] {
            assert!(happened.get(what).is_some_and(|n| *n >= 5), "{what}: {happened:?}");
        }
        assert!(failed.into_inner() > 20 && done.into_inner() > 100);
    }
}
