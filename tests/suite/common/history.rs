//! What was tried against a repository and what was acknowledged, and the audit of it: everything acknowledged is there,
//! and whatever is there restores byte for byte.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::path::Path;
use std::sync::Mutex;

use lifeboat::model::SnapshotId;
use lifeboat::ops;
use lifeboat::ops::backup::{BackupOptions, BackupReport, World};
use lifeboat::ops::restore::{find_snapshot, prepare, restore};
use lifeboat::plan::restore::Wanted;
use lifeboat::progress::Silent;
use lifeboat::repository::Problem;

use super::chance::Chance;
use super::{Host, Person, plain, tree, world};

/// A tree as [`tree::describe`] has it.
pub type Tree = BTreeMap<String, String>;

struct Attempt {
    /// The part of the snapshot's id that chance made: known before the run.
    tail: String,
    tree: Tree,
    done: bool,
}

/// Every backup that was tried.
#[derive(Default)]
pub struct History(Mutex<Vec<Attempt>>);

impl History {
    /// Backs up, and remembers what was there and whether it was acknowledged.
    pub fn backup(
        &self,
        host: &Host,
        source: &Path,
        name: &str,
        chance: &mut Chance,
    ) -> Result<BackupReport, ops::Error> {
        self.backup_in(host, source, name, World { random: chance.bytes(), ..world() })
    }

    /// The same in a world of the caller's.
    pub fn backup_in(&self, host: &Host, source: &Path, name: &str, world: World) -> Result<BackupReport, ops::Error> {
        let tail = SnapshotId::new(0, world.random).to_string()[10..].to_owned();
        self.0.lock().unwrap().push(Attempt { tail: tail.clone(), tree: tree::describe(source), done: false });
        let outcome = host.backup_in(source, name, &BackupOptions::default(), &world);
        if let Ok(report) = &outcome {
            assert!(report.record.complete && report.skipped.is_empty(), "{report:?}");
            let mut all = self.0.lock().unwrap();
            all.iter_mut().filter(|attempt| attempt.tail == tail).for_each(|attempt| attempt.done = true);
        }
        outcome
    }

    /// The tree that a snapshot must give back.
    pub fn tree_of(&self, id: &str) -> Option<Tree> {
        let all = self.0.lock().unwrap();
        all.iter().find(|attempt| id.ends_with(&attempt.tail)).map(|attempt| attempt.tree.clone())
    }

    /// How many runs were acknowledged.
    pub fn acknowledged(&self) -> usize {
        self.0.lock().unwrap().iter().filter(|attempt| attempt.done).count()
    }

    /// Restores every snapshot that the host sees with an identity and compares; everything acknowledged must be among
    /// them. Returns how many there are, and what opening found wrong.
    pub fn audit(&self, host: &Host, person: &Person) -> (usize, Vec<Problem>) {
        let (mut repository, problems) = host.open(Some(person)).unwrap();
        let rows = repository.catalog().snapshots().unwrap();
        let ids: Vec<String> = rows.iter().map(|row| row.record.id.to_string()).collect();
        for attempt in self.0.lock().unwrap().iter().filter(|attempt| attempt.done) {
            assert!(ids.iter().any(|id| id.ends_with(&attempt.tail)), "an acknowledged snapshot is gone: {problems:?}");
        }
        for row in &rows {
            let id = row.record.id.to_string();
            let expected = self.tree_of(&id).expect("nobody made this snapshot");
            let back = tempfile::tempdir().unwrap();
            let wanted = Wanted::Named(id.clone());
            let (snapshot, choice) = find_snapshot(&repository, &row.full_name(), &wanted, false).unwrap();
            let plan = prepare(&repository, snapshot, &choice, Some(back.path()), plain(), &Silent).unwrap();
            restore(&mut repository, &plan, &Silent).unwrap();
            assert_eq!(tree::describe(back.path()), expected, "snapshot {id}");
        }
        (rows.len(), problems)
    }
}

/// An error with its causes, in one line.
pub fn chain(error: &ops::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        text.push_str(&format!(": {e}"));
        cause = e.source();
    }
    text
}

/// An error must say what is wrong; it must not be the one that says that we do not know.
pub fn assert_clear(error: &ops::Error) {
    let text = chain(error);
    assert!(text.len() > 15 && !text.contains("a defect of lifeboat"), "{text}");
}

fn target(line: &str) -> Option<&str> {
    line.split_once("->").map(|(_, target)| target)
}

/// What an interrupted restore left: whatever carries a name of the snapshot has the content that the snapshot has, and
/// whatever has not says so by its name.
pub fn assert_no_lies(into: &Path, expected: &Tree) {
    if !into.exists() {
        return;
    }
    for (path, line) in tree::describe(into) {
        let name = path.rsplit('/').next().unwrap();
        match expected.get(&path) {
            Some(wanted) if wanted.starts_with("4") => assert!(line.starts_with("4"), "{path}: {line}"),
            // A link appears before its times are set.
            Some(wanted) if wanted.contains("->") => assert_eq!(target(&line), target(wanted), "{path}"),
            Some(wanted) => assert_eq!(&line, wanted, "{path}"),
            None => assert!(name.starts_with(".lifeboat-") || name.ends_with(".lifeboat-incomplete"), "{path}: {line}"),
        }
    }
}
