//! Several processes at once, by seed: two on one catalog, and a second host on the same repository, in a store whose
//! answers come at odd times. All that they make is there in the end, and nobody was told of damage that there is not.
//!
//! `LIFEBOAT_TEST_SEEDS=n` tries more seeds; a failure prints its seed.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lifeboat::ops;
use lifeboat::ops::check::{ReadData, check};
use lifeboat::ops::restore::{find_snapshot, prepare, restore};
use lifeboat::plan::restore::Wanted;
use lifeboat::progress::Silent;
use lifeboat::repository;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;

use crate::common::chance::{Chance, each_seed};
use crate::common::chaos::{Chaos, Weather};
use crate::common::history::{History, assert_clear};
use crate::common::{Host, Person, clock, plain, tree};

/// One process: its host, a source of its own, and one that it shares.
struct Process<'a> {
    host: Host,
    person: &'a Person,
    name: &'static str,
    root: &'a Path,
    history: &'a History,
    chance: Chance,
}

impl Process<'_> {
    fn own(&self) -> std::path::PathBuf {
        self.root.join(self.name)
    }

    fn change_and_backup(&mut self) -> Result<(), ops::Error> {
        let path = self.own().join(format!("f{}", self.chance.below(5)));
        fs::write(&path, tree::noise(20_000 + self.chance.below(50_000) as usize, self.chance.next())).unwrap();
        tree::age(&self.own());
        self.history.backup(&self.host, &self.own(), self.name, &mut self.chance).map(drop)
    }

    fn restore_any(&mut self) -> Result<(), ops::Error> {
        let (mut repository, _) = self.host.open(Some(self.person))?;
        let rows = repository.catalog().snapshots()?;
        if rows.is_empty() {
            return Ok(());
        }
        let row = self.chance.pick(&rows);
        let (id, back) = (row.record.id.to_string(), tempfile::tempdir().unwrap());
        let (snapshot, choice) = find_snapshot(&repository, &row.full_name(), &Wanted::Named(id.clone()), false)?;
        let plan = prepare(&repository, snapshot, &choice, Some(back.path()), plain(), &Silent)?;
        restore(&mut repository, &plan, &Silent)?;
        assert_eq!(tree::describe(back.path()), self.history.tree_of(&id).unwrap());
        Ok(())
    }

    fn check(&mut self) -> Result<(), ops::Error> {
        let identity = (self.chance.below(2) == 0).then_some(self.person);
        let (mut repository, problems) = self.host.open(identity)?;
        let report = check(&mut repository, ReadData::All, &problems, clock()(), 1, &Silent)?;
        assert!(report.is_clean(), "there is no damage: {report:?}");
        Ok(())
    }

    fn any_deed(&mut self) -> Result<(), ops::Error> {
        match self.chance.below(10) {
            0..=3 => self.change_and_backup(),
            4 => self.history.backup(&self.host, &self.root.join("shared"), "shared", &mut self.chance).map(drop),
            5 | 6 => self.restore_any(),
            7 | 8 => self.check(),
            _ => Ok(self.host.open(None)?.0.rebuild_catalog(&Silent).map(drop)?),
        }
    }
}

/// What may be refused: a source that another run is backing up, a catalog that others use.
fn assert_refused(error: &ops::Error) {
    let in_use = matches!(error, ops::Error::Repository(repository::Error::CatalogInUse));
    assert!(matches!(error, ops::Error::Busy(_)) || in_use, "{error}");
    assert_clear(error);
    assert_eq!(error.kind() as u8, 11, "{error}");
}

#[test]
fn processes_and_hosts_at_random_do_not_disturb_each_other() {
    let done = AtomicU64::new(0);
    let tried = each_seed(12, |seed| {
        let (chaos, person) = (Chaos::new(Arc::new(InMemory::new()), seed), Person::new());
        chaos.set(Weather { delay: 400, ..Weather::default() });
        let (a, b) = (Host::new(Arc::new(chaos.clone())), Host::new(Arc::new(chaos.clone())));
        a.init(&person);
        b.join(&person).unwrap();
        let (root, history) = (tempfile::tempdir().unwrap(), History::default());
        for name in ["one", "two", "three", "shared"] {
            fs::create_dir(root.path().join(name)).unwrap();
            // Some of it is the same for all, so that what one stores is found by the others of its catalog.
            fs::write(root.path().join(name).join("same"), tree::noise(40_000, seed)).unwrap();
            tree::age(&root.path().join(name));
        }
        std::thread::scope(|scope| {
            for (n, (name, host)) in [("one", &a), ("two", &a), ("three", &b)].into_iter().enumerate() {
                let (root, history, person, done) = (root.path(), &history, &person, &done);
                let shared = host.second();
                scope.spawn(move || {
                    let chance = Chance::new(seed * 10 + n as u64);
                    let mut process = Process { host: shared, person, name, root, history, chance };
                    for _ in 0..6 {
                        match process.any_deed() {
                            Ok(()) => drop(done.fetch_add(1, Ordering::Relaxed)),
                            Err(e) => assert_refused(&e),
                        }
                    }
                });
            }
        });
        for host in [&a, &b, &Host::new(Arc::new(chaos.clone()))] {
            let (found, problems) = history.audit(host, &person);
            assert_eq!((found, problems), (history.acknowledged(), vec![]));
        }
    });
    assert!(done.into_inner() > 5 * tried, "most deeds are done");
}

#[test]
fn real_processes_at_once_on_one_catalog() {
    let root = tempfile::tempdir().unwrap();
    let person = Person::new();
    fs::create_dir(root.path().join("store")).unwrap();
    let local = LocalFileSystem::new_with_prefix(root.path().join("store")).unwrap();
    let host = Host::new(Arc::new(local));
    host.init(&person);
    fs::write(root.path().join("identity"), &person.identity).unwrap();
    for (n, name) in ["one", "two", "three"].into_iter().enumerate() {
        tree::make(&root.path().join(name), n as u64);
        tree::age(&root.path().join(name));
    }
    let start = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
        command.env_clear().env("HOME", root.path()).current_dir(root.path());
        command.args(["--repo", "store", "--identity", "identity"]).arg("--state-dir").arg(host.state.path());
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    for round in 0..4 {
        let mut running: Vec<_> = ["one", "two", "three"]
            .into_iter()
            .map(|name| {
                fs::write(root.path().join(name).join("round"), tree::noise(100_000, round)).unwrap();
                start(&["backup", "--path", name, "--name", name])
            })
            .collect();
        running.push(start(&["check", "--read-data"]));
        running.push(start(&["check"]));
        for child in running {
            let output = child.wait_with_output().unwrap();
            let text = [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat();
            assert_eq!(output.status.code(), Some(0), "{text}");
            assert!(!text.contains("missing"), "{text}");
        }
    }
    let (repository, problems) = host.open(Some(&person)).unwrap();
    assert_eq!((repository.catalog().snapshots().unwrap().len(), problems), (12, vec![]));
    for name in ["one", "two", "three"] {
        let (snapshot, choice) = find_snapshot(&repository, name, &Wanted::Latest, false).unwrap();
        let back = tempfile::tempdir().unwrap();
        let plan = prepare(&repository, snapshot, &choice, Some(back.path()), plain(), &Silent).unwrap();
        let (mut again, _) = host.open(Some(&person)).unwrap();
        restore(&mut again, &plan, &Silent).unwrap();
        assert_eq!(tree::describe(back.path()), tree::describe(&root.path().join(name)));
    }
}

#[test]
fn a_catalog_is_not_made_anew_under_another_run() {
    let (host, person) = (Host::new(Arc::new(InMemory::new())), Person::new());
    host.init(&person);
    let (other, _) = host.open(None).unwrap();
    let (mut repository, _) = host.open(None).unwrap();
    for _ in 0..2 {
        let error = ops::Error::from(repository.rebuild_catalog(&Silent).unwrap_err());
        assert_refused(&error);
        assert!(error.hint().is_some());
    }
    drop(other);
    assert_eq!(repository.rebuild_catalog(&Silent).unwrap().problems, []);
    // Alone no longer than it takes: others may open it again.
    host.open(None).unwrap();
}
