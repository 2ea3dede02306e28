//! Random histories against a small model: backups, forgetting, prunes, copies to a second store, forgetting and prunes there, crashes,
//! clocks that jump, time that passes, a second host, a clone of each, pushes into streams, listings that lag behind, and a keeper who prunes for
//! both. After each step whatever the model says that must restore does, byte for byte, in the
//! first store and in the copies, and nothing else is listed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use lifeboat::model::{SegmentPlace, SnapshotId};
use lifeboat::ops;
use lifeboat::ops::backup::{BackupOptions, World};
use lifeboat::ops::forget::ForgetError;
use lifeboat::plan::restore::Wanted;
use lifeboat::progress::Silent;
use lifeboat::repository::Problem;
use object_store::ObjectStore;
use tempfile::TempDir;

use crate::common::chance::{Chance, each_seed};
use crate::common::clocked::Clocked;
use crate::common::faulty::{Fails, Faulty};
use crate::common::pruned::{DAY, Tree, options, prune_with, try_forget};
use crate::common::{Host, Person, clock, tree, world};
use crate::{copies, keepers};

/// Hours that the keeper waits.
const HOLD: i64 = 5;

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
    second: Second,
    /// An image of the host from some time ago, which is used as well.
    clone: Host,
    /// Segments that were acknowledged, by name.
    pushed: BTreeMap<String, Vec<u8>>,
}

/// A host's copy.
struct Second {
    store: Clocked,
    host: Host,
    writer: String,
    /// Ids that a copy which ended well has taken there.
    copied: Vec<String>,
    forgotten: Vec<String>,
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
    keeper: Host,
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

/// Forgets a snapshot, unless it is the newest by the store's clock, whatever the host's own said.
fn forgets(host: &Host, id: &str) -> bool {
    match try_forget(host, &[id.to_owned()]) {
        Ok(()) => true,
        Err(ops::Error::Forget(ForgetError::Newest { .. })) => false,
        Err(e) => panic!("{e}"),
    }
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
            let name_of = |host: &Host| host.open(None).unwrap().0.host().unwrap().name.clone();
            let (writer, there) = (name_of(&host), Clocked::new());
            let copy = Host { objects: Arc::new(there.clone()), ..host.second() };
            let recipients = [person.recipient.parse().unwrap()];
            host.open(None).unwrap().0.make_copy(&copy.store(), &copy.options(&recipients)).unwrap();
            let second =
                Second { store: there, writer: name_of(&copy), host: copy, copied: Vec::new(), forgotten: Vec::new() };
            let (clone, pushed) = (host.clone_state(Arc::new(store.clone())), BTreeMap::new());
            places.push(Place { host, source, name, attempts: Vec::new(), writer, second, clone, pushed });
        }
        let keeper = Host::new(Arc::new(store.clone()));
        keeper.join(&person).unwrap();
        let name = keepers::writer_of(&keeper);
        for place in &places {
            keepers::set_keeper(&keeper, &person, &place.writer, &name, Some(HOLD)).unwrap();
        }
        Self { store, person, places, keeper, chance: Chance::new(seed), story: Vec::new() }
    }

    /// The store as it is reached this time: it may stop at some operation, and its listings may lag behind.
    fn reached(&mut self) -> Arc<dyn ObjectStore> {
        let store = match self.chance.below(6) {
            0 => {
                self.story.push("  (listings lag)".to_owned());
                let chance = &mut self.chance;
                self.store.lagging(8, &mut || chance.below(2) == 0)
            }
            _ => self.store.clone(),
        };
        self.reach(store)
    }

    fn reach(&mut self, store: Clocked) -> Arc<dyn ObjectStore> {
        let store: Arc<dyn ObjectStore> = Arc::new(store);
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
        match self.chance.below(22) {
            0..=2 => self.backup(n, false),
            3 => self.backup(n, true),
            14 | 15 | 19 => self.keep(n),
            16 | 17 => self.push(n),
            18 => {
                self.story.push(format!("an image of {} is made", self.places[n].name));
                let image = self.places[n].host.clone_state(Arc::new(self.store.clone()));
                self.places[n].clone = image;
            }
            4 | 5 => self.forget(n),
            6..=8 => self.prune(n),
            9 | 10 => self.copy(n),
            11 => self.forget_there(n),
            12 => self.prune_there(n),
            _ => {
                let hours = 1 + self.chance.below(40) as i64;
                self.story.push(format!("{hours} hours pass"));
                self.store.advance(hours);
                self.places.iter().for_each(|place| place.second.store.advance(hours));
            }
        }
    }

    /// By the host, or by its clone.
    fn backup(&mut self, n: usize, by_clone: bool) {
        let who = if by_clone { "the clone of " } else { "" };
        self.story.push(format!("{who}{} backs up", self.places[n].name));
        let objects = self.reached();
        let random: [u8; 10] = self.chance.bytes();
        let place = &mut self.places[n];
        change(place.source.path(), &mut self.chance);
        let tail = SnapshotId::new(0, random).to_string()[10..].to_owned();
        place.attempts.push(Attempt { tail, tree: tree::describe(place.source.path()), done: false, forgotten: false });
        let host = if by_clone { place.clone.second() } else { place.host.second() };
        let host = Host { objects, ..host };
        // The host's clock is a month off now and then.
        let off = chrono::TimeDelta::days(*self.chance.pick(&[0, 0, 0, 0, -30, 30]));
        let usual = world().clock;
        let world = World { random, clock: Arc::new(move || usual() + off), ..world() };
        let outcome = host.backup_in(place.source.path(), place.name, &BackupOptions::default(), &world);
        if outcome.is_ok() {
            place.attempts.last_mut().unwrap().done = true;
        }
        self.story.push(format!("  {}", outcome.map_or_else(|e| e.to_string(), |done| done.record.id.to_string())));
    }

    /// A segment of a stream: acknowledged when it is in the store and in this host's index, in a commit now or later.
    fn push(&mut self, n: usize) {
        self.story.push(format!("{} pushes", self.places[n].name));
        let objects = self.reached();
        let (size, seed, commits) = (self.chance.below(60_000), self.chance.below(1 << 40), self.chance.below(2) == 0);
        let place = &mut self.places[n];
        let (name, bytes) =
            (format!("{:024X}", (1_u64 << 32) + place.pushed.len() as u64), tree::noise(size as usize, seed));
        let host = Host { objects, ..place.host.second() };
        let push = || -> Result<(), lifeboat::repository::Error> {
            let (mut repository, _) = host.open(None)?;
            let at = SegmentPlace::new("db-1-15", "00000001", &name).unwrap();
            let record = repository.segment_writer()?.put(at, &bytes, serde_json::Value::Null, clock()())?;
            repository.note_segments(&[record])?;
            Ok(())
        };
        if push().is_ok() {
            place.pushed.insert(name, bytes);
            if commits {
                let opened = host.open(None);
                let said = opened.and_then(|(mut all, _)| all.commit_segments(clock()(), &Silent).map(drop));
                self.story.push(format!("  {said:?}"));
            }
        }
    }

    /// The keeper prunes what the host stored.
    fn keep(&mut self, n: usize) {
        self.story.push(format!("{} is kept", self.places[n].name));
        let objects = self.reached();
        let keeper = Host { objects, ..self.keeper.second() };
        let outcome = keepers::try_keep(&keeper, &self.places[n].writer, &*clock());
        self.story.push(format!("  {}", outcome.map_or_else(|e| e.to_string(), |done| format!("{done:?}"))));
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
        if !forgets(&place.host, &id) {
            return;
        }
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

    /// Both stores may stop.
    fn copy(&mut self, n: usize) {
        self.story.push(format!("{} copies", self.places[n].name));
        // Without a lag: what a listing does not show is lost to a copy, and it says so.
        let (here, there) = (self.reach(self.store.clone()), self.reach(self.places[n].second.store.clone()));
        let place = &mut self.places[n];
        let from = Host { objects: here, ..place.host.second() };
        let to = Host { objects: there, ..place.second.host.second() };
        let outcome = copies::copy(&from, &to);
        if let Ok(report) = &outcome {
            assert!(report.is_whole(), "{report:?}");
            let listed = place.listed();
            let second = &mut place.second;
            second.copied.extend(listed.into_iter().filter(|id| !second.forgotten.contains(id)));
            second.copied.sort();
            second.copied.dedup();
        }
        self.story.push(format!("  {}", outcome.map_or_else(|e| e.to_string(), |done| format!("{done:?}"))));
    }

    fn forget_there(&mut self, n: usize) {
        let second = &mut self.places[n].second;
        let listed = second.host.snapshots();
        if listed.len() < 2 {
            return;
        }
        let id = listed[self.chance.below(listed.len() as u64 - 1) as usize].clone();
        self.story.push(format!("{id} is forgotten in the copy"));
        if !forgets(&second.host, &id) {
            return;
        }
        second.copied.retain(|copied| *copied != id);
        second.forgotten.push(id);
    }

    fn prune_there(&mut self, n: usize) {
        self.story.push(format!("the copy of {} is pruned", self.places[n].name));
        let objects = self.reach(self.places[n].second.store.clone());
        let host = Host { objects, ..self.places[n].second.host.second() };
        let outcome = prune_with(&host, &options(0.0, DAY));
        self.story.push(format!("  {}", outcome.map_or_else(|e| e.to_string(), |done| format!("{done:?}"))));
    }

    /// Everything acknowledged and not forgotten is listed, and whatever is listed restores.
    fn audit(&mut self) {
        for place in &self.places {
            let (repository, problems) = place.host.open(None).unwrap();
            // Two ends are joined by whoever commits next.
            assert!(problems.iter().all(|problem| matches!(problem, Problem::Fork { .. })), "{problems:?}");
            drop(repository);
            self.reads_all_segments(place);
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
                self.restores(&place.host, &format!("{}/{}", place.writer, place.name), id, expected);
            }
            let second = &place.second;
            let (repository, problems) = second.host.open(None).unwrap();
            assert!(problems.is_empty(), "{problems:?}");
            drop(repository);
            let there = second.host.snapshots();
            assert!(second.copied.iter().all(|id| there.contains(id)), "what was copied is gone");
            for id in there {
                assert!(!second.forgotten.contains(&id), "what is forgotten came back");
                let made = place.attempts.iter().find(|attempt| id.ends_with(&attempt.tail)).expect("nobody made it");
                self.restores(&second.host, &format!("{}/{}", second.writer, place.name), &id, &made.tree);
            }
        }
    }

    fn reads_all_segments(&self, place: &Place) {
        let (repository, _) = place.host.open(Some(&self.person)).unwrap();
        let there = repository.list_stream(&place.writer, "db-1-15").unwrap();
        assert!(there.missing.is_empty(), "{:?}", there.missing);
        let read = |record| repository.read_segment(&place.writer, record).unwrap();
        let mut all: BTreeMap<String, Vec<u8>> =
            there.there.iter().map(|record| (record.place.name().to_owned(), read(record))).collect();
        // Of a push that failed half-way it may be there.
        all.retain(|name, _| place.pushed.contains_key(name));
        assert_eq!(all, place.pushed);
    }

    fn restores(&self, host: &Host, full: &str, id: &str, expected: &Tree) {
        let back = tempfile::tempdir().unwrap();
        let (mut repository, _) = host.open(Some(&self.person)).unwrap();
        let wanted = Wanted::Named(id.to_owned());
        let (snapshot, choice) = lifeboat::ops::restore::find_snapshot(&repository, full, &wanted, false).unwrap();
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
        for step in 0..60 {
            teller.0.step();
            // Each time what changed last; all of it now and then.
            if step % 4 == 3 {
                teller.0.audit();
            }
        }
        teller.0.audit();
    });
}
