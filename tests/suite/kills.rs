//! The real process, killed at random moments by a signal that it cannot hear. After each kill everything committed
//! restores byte for byte, the same command run again goes through, and what was being written is gone or is named.
//!
//! `LIFEBOAT_TEST_KILLS=n` kills more often; a failure prints its seed (see `common/chance.rs`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Instant;

use lifeboat::plan::restore::Wanted;
use object_store::local::LocalFileSystem;
use tempfile::TempDir;

use crate::common::chance::{Chance, how_often, seeds};
use crate::common::history::{Tree, assert_no_lies};
use crate::common::kill::Aim;
use crate::common::{Host, Person, tree};

struct Place {
    root: TempDir,
    /// The same repository and state directory, through the library.
    host: Host,
    person: Person,
    /// Every tree that was backed up, in order; the last one is what the source is now.
    trees: Vec<Tree>,
    seen: Vec<String>,
    chance: Chance,
}

impl Place {
    fn new(seed: u64) -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("store")).unwrap();
        let local = LocalFileSystem::new_with_prefix(root.path().join("store")).unwrap();
        let (host, person) = (Host::new(Arc::new(local)), Person::new());
        host.init(&person);
        fs::write(root.path().join("identity"), &person.identity).unwrap();
        let place = Self { root, host, person, trees: Vec::new(), seen: Vec::new(), chance: Chance::new(seed) };
        tree::make(&place.path("source"), seed);
        fs::write(place.path("source").join("large"), tree::noise(2_500_000, seed)).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn change(&mut self) {
        let name = format!("docs/{}", self.chance.below(8));
        fs::write(self.path("source").join(name), tree::noise(150_000, self.chance.next())).unwrap();
        tree::age(&self.path("source"));
        self.trees.push(tree::describe(&self.path("source")));
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
        command.env_clear().env("HOME", self.root.path()).current_dir(self.root.path());
        command.args(["--repo", "store", "--identity", "identity"]).arg("--state-dir").arg(self.host.state.path());
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn expect_well(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        assert_eq!(output.status.code(), Some(0), "{args:?}: {text}");
        text
    }

    /// Starts the command and kills it after a part of the time that it takes.
    fn kill(&mut self, args: &[&str], aim: &mut Aim) {
        aim.kill(&mut self.command(args), &mut self.chance);
    }

    /// Restores what was not there before, and one that was.
    fn everything_restores(&mut self, all: bool) {
        let ids = self.host.snapshots();
        assert!(self.seen.iter().all(|id| ids.contains(id)), "a snapshot is gone");
        let again = (!self.seen.is_empty()).then(|| self.chance.pick(&self.seen).clone());
        for id in ids.iter().filter(|id| all || !self.seen.contains(id) || Some(*id) == again.as_ref()) {
            let back = tempfile::tempdir().unwrap();
            self.host.restore(&self.person, &Wanted::Named(id.clone()), back.path()).unwrap();
            let found = tree::describe(back.path());
            assert!(self.trees.contains(&found), "snapshot {id} is no state that the source ever had");
        }
        self.seen = ids;
    }

    /// What a killed process was writing, below a directory.
    fn litter(&self, root: &Path) -> Vec<String> {
        let (mut found, mut open) = (Vec::new(), vec![root.to_owned()]);
        while let Some(path) = open.pop() {
            if path.is_dir() {
                open.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
            }
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if name.contains('#') || name.ends_with(".tmp") || name.starts_with(".writer") || name.contains("lifeboat-")
            {
                found.push(path.display().to_string());
            }
        }
        found
    }

    fn backups(&mut self, times: u64) -> u64 {
        self.change();
        let mut aim = timed(|| drop(self.expect_well(&["backup", "--path", "source", "--name", "data"])));
        for _ in 0..times {
            self.change();
            self.kill(&["backup", "--path", "source", "--name", "data"], &mut aim);
            self.everything_restores(false);
        }
        self.expect_well(&["backup", "--path", "source", "--name", "data"]);
        let state = self.host.state.path().to_owned();
        assert_eq!(self.litter(&state), [] as [&str; 0], "the next run cleans up");
        aim.killed
    }

    fn restores(&mut self, times: u64) -> u64 {
        let expected = self.trees.last().unwrap().clone();
        let into = self.path("into");
        let args = ["restore", "data", "--into", "into"];
        let mut aim = timed(|| drop(self.expect_well(&args)));
        for n in 0..times {
            if n % 3 == 0 && into.exists() {
                fs::remove_dir_all(&into).unwrap();
            }
            if into.exists() && tree::describe(&into) == expected {
                fs::remove_dir_all(&into).unwrap();
            }
            self.kill(&args, &mut aim);
            assert_no_lies(&into, &expected);
        }
        if into.exists() && tree::describe(&into) != expected {
            self.expect_well(&args);
        }
        assert!(!into.exists() || tree::describe(&into) == expected, "nothing of ours is left in it");
        aim.killed
    }

    fn checks(&mut self, times: u64) -> u64 {
        let args = ["check", "--read-data"];
        let mut aim = timed(|| drop(self.expect_well(&args)));
        for n in 0..times {
            let rebuild = n % 4 == 3;
            let deed: &[&str] = if rebuild { &["catalog", "rebuild"] } else { &args };
            self.kill(deed, &mut aim);
            if rebuild {
                self.everything_restores(false);
            }
        }
        let text = self.expect_well(&args);
        // What lies half-written in the store is no object, and no listing shows it: the check does.
        let litter = self.litter(&self.path("store"));
        for path in &litter {
            let name = Path::new(path).file_name().unwrap().to_string_lossy().into_owned();
            assert!(text.contains(&name), "`{name}` was left half-written and is not named: {text}");
        }
        aim.killed
    }
}

fn timed(work: impl FnOnce()) -> Aim {
    let started = Instant::now();
    work();
    Aim::new(started.elapsed())
}

#[test]
fn a_process_may_be_killed_at_any_moment() {
    let killed = std::sync::atomic::AtomicU64::new(0);
    let places = seeds((how_often("LIFEBOAT_TEST_KILLS", 200) / 40).max(1), |seed| {
        let mut place = Place::new(seed);
        let count = place.backups(20) + place.restores(10) + place.checks(10);
        place.everything_restores(true);
        killed.fetch_add(count, std::sync::atomic::Ordering::Relaxed);
    });
    let killed = killed.into_inner();
    assert!(killed >= places * 20, "only {killed} of {} were still running when they were killed", places * 40);
}

#[test]
fn what_a_killed_write_left_in_the_store_is_named_by_a_check() {
    let place = Place::new(0);
    let text = place.expect_well(&["check"]);
    assert!(!text.contains("unfinished"), "{text}");
    // As object_store stages what it writes; a `#` alone is nothing special.
    fs::write(place.path("store/keys/recipients-00.json#12"), "half").unwrap();
    fs::write(place.path("store/keys/recipients-00.json#x"), "other").unwrap();
    let text = place.expect_well(&["check"]);
    assert!(text.contains("1 file of writes that did not end") && text.contains("recipients-00.json#12"), "{text}");
    assert!(!text.contains("json#x"), "{text}");
}
