//! Random histories against a small model: backups, forgetting, prunes, crashes, clocks that jump, a clone and a second host. After each
//! step whatever the model says that must restore does, byte for byte, and nothing else is listed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use lifeboat::model::SnapshotId;
use lifeboat::ops::backup::{BackupOptions, World};
use lifeboat::plan::restore::Wanted;
use object_store::ObjectStore;
use tempfile::TempDir;

use crate::common::chance::{Chance, each_seed};
use crate::common::clocked::Clocked;
use crate::common::faulty::{Fails, Faulty};
use crate::common::pruned::{DAY, Tree, forget_on, options, prune_with};
use crate::common::{Host, Person, tree, world};

/// A backup that was tried.
struct Attempt {
    tail: String,
    tree: Tree,
    done: bool,
    forgotten: bool,
}

/// A host with a source of its own.
struct Place {
    host: Host,
    source: TempDir,
    name: &'static str,
    attempts: Vec<Attempt>,
    writer: String,
}

impl Place {
    /// Its own snapshots, oldest first.
    fn listed(&self) -> Vec<String> {
        let (repository, _) = self.host.open(None).unwrap();
        let all = repository.catalog().snapshots().unwrap();
        all.into_iter().filter(|s| s.writer_name == self.writer).map(|s| s.record.id.to_string()).collect()
    }
}

struct Model {
    store: Clocked,
    person: Person,
    places: Vec<Place>,
    chance: Chance,
    story: Vec<String>,
}

fn change(source: &Path, chance: &mut Chance) {
    // Few large files of few contents: what was there comes back.
    let file = format!("large{}", chance.below(3));
    std::fs::write(source.join(file), tree::noise(1_300_000, chance.below(4))).unwrap();
    std::fs::write(source.join("small"), tree::lines(30, chance.below(50))).unwrap();
    tree::age(source);
}

impl Model {
    fn new(seed: u64) -> Self {
        let (store, person) = (Clocked::new(), Person::new());
        let mut places = Vec::new();
        for (n, name) in ["data", "other"].into_iter().enumerate() {
            let (host, source) = (Host::new(Arc::new(store.clone())), tempfile::tempdir().unwrap());
            if n == 0 {
                host.init(&person);
            } else {
                host.join(&person).unwrap();
            }
            let writer = host.open(None).unwrap().0.host().unwrap().name.clone();
            places.push(Place { host, source, name, attempts: Vec::new(), writer });
        }
        Self { store, person, places, chance: Chance::new(seed), story: Vec::new() }
    }

    /// The store as it is reached this time: it may stop at some operation.
    fn reached(&mut self) -> Arc<dyn ObjectStore> {
        let store: Arc<dyn ObjectStore> = Arc::new(self.store.clone());
        match self.chance.below(3) {
            0 => {
                let fails = *self.chance.pick(&[Fails::Before, Fails::After]);
                let n = 1 + self.chance.below(25);
                self.story.push(format!("  ({fails:?} {n})"));
                Faulty::new(store, n, fails)
            }
            _ => store,
        }
    }

    fn step(&mut self) {
        let n = self.chance.below(self.places.len() as u64) as usize;
        match self.chance.below(10) {
            0..=3 => self.backup(n),
            4 | 5 => self.forget(n),
            6..=8 => self.prune(n),
            _ => {
                let hours = 1 + self.chance.below(40) as i64;
                self.story.push(format!("{hours} hours pass"));
                self.store.advance(hours);
            }
        }
    }

    fn backup(&mut self, n: usize) {
        self.story.push(format!("{} backs up", self.places[n].name));
        let objects = self.reached();
        let random: [u8; 10] = self.chance.bytes();
        let place = &mut self.places[n];
        change(place.source.path(), &mut self.chance);
        let tail = SnapshotId::new(0, random).to_string()[10..].to_owned();
        place.attempts.push(Attempt { tail, tree: tree::describe(place.source.path()), done: false, forgotten: false });
        let host = Host { objects, ..place.host.second() };
        let world = World { random, ..world() };
        let outcome = host.backup_in(place.source.path(), place.name, &BackupOptions::default(), &world);
        if outcome.is_ok() {
            place.attempts.last_mut().unwrap().done = true;
        }
    }

    /// One of the snapshots that are listed, but not the newest.
    fn forget(&mut self, n: usize) {
        let place = &mut self.places[n];
        let listed = place.listed();
        if listed.len() < 2 {
            return;
        }
        let id = listed[self.chance.below(listed.len() as u64 - 1) as usize].clone();
        self.story.push(format!("{} forgets {id}", place.name));
        let newest = listed.last().unwrap().clone();
        if id == newest {
            return;
        }
        forget_on(&place.host, std::slice::from_ref(&id));
        place
            .attempts
            .iter_mut()
            .filter(|attempt| id.ends_with(&attempt.tail))
            .for_each(|attempt| attempt.forgotten = true);
    }

    fn prune(&mut self, n: usize) {
        let objects = self.reached();
        let unused = *self.chance.pick(&[0.0, 5.0, 50.0]);
        let grace = *self.chance.pick(&[DAY, DAY, 2 * 3600]);
        self.story.push(format!("{} prunes, {unused} %, {grace} s", self.places[n].name));
        let host = Host { objects, ..self.places[n].host.second() };
        let outcome = prune_with(&host, &options(unused, grace));
        self.story.push(format!("  {}", outcome.map_or_else(|e| e.to_string(), |done| format!("{done:?}"))));
    }

    /// Everything acknowledged and not forgotten is listed, and whatever is listed restores.
    fn audit(&mut self) {
        for place in &self.places {
            let (repository, problems) = place.host.open(None).unwrap();
            assert!(problems.is_empty(), "{problems:?}");
            drop(repository);
            let listed = place.listed();
            for attempt in place.attempts.iter().filter(|attempt| attempt.done && !attempt.forgotten) {
                assert!(listed.iter().any(|id| id.ends_with(&attempt.tail)), "an acknowledged snapshot is gone");
            }
            let trees: BTreeMap<&String, &Tree> = listed
                .iter()
                .map(|id| {
                    let attempt =
                        place.attempts.iter().find(|attempt| id.ends_with(&attempt.tail)).expect("nobody made it");
                    assert!(!attempt.forgotten, "what is forgotten is listed");
                    (id, &attempt.tree)
                })
                .collect();
            for (id, expected) in trees {
                let (back, full) = (tempfile::tempdir().unwrap(), format!("{}/{}", place.writer, place.name));
                let (mut repository, _) = place.host.open(Some(&self.person)).unwrap();
                let wanted = Wanted::Named(id.clone());
                let (snapshot, choice) =
                    lifeboat::ops::restore::find_snapshot(&repository, &full, &wanted, false).unwrap();
                let plan = lifeboat::ops::restore::prepare(
                    &repository,
                    snapshot,
                    &choice,
                    Some(back.path()),
                    crate::common::plain(),
                    &lifeboat::progress::Silent,
                )
                .unwrap();
                lifeboat::ops::restore::restore(&mut repository, &plan, &lifeboat::progress::Silent).unwrap();
                assert_eq!(&tree::describe(back.path()), expected, "snapshot {id}");
            }
        }
    }
}

/// Tells the history where something in it goes wrong.
struct Teller<'m>(&'m mut Model, u64);

impl Drop for Teller<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}:\n{}", self.1, self.0.story.join("\n"));
        }
    }
}

#[test]
fn whatever_the_model_says_must_restore_does() {
    each_seed(3, |seed| {
        let mut model = Model::new(seed);
        let teller = Teller(&mut model, seed);
        for step in 0..40 {
            teller.0.step();
            // Each time what changed last; all of it now and then.
            if step % 4 == 3 {
                teller.0.audit();
            }
        }
        teller.0.audit();
    });
}
