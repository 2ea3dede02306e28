//! Keepers: one host frees what another one stored, without an identity and without believing at once that something may go; the host
//! itself deletes nothing.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use lifeboat::model::{Commit, CommitHeader, CommitId, CommitLine, Marked, Moment, Objects, PackKind, Retire};
use lifeboat::ops;
use lifeboat::ops::prune::{PruneReport, plan_as_keeper, prune};
use lifeboat::progress::Silent;
use lifeboat::repository::{self, KeeperSet, Keys, OpenOptions, Problem, Repository};
use lifeboat::seal::{Sealer, SigningKey, sign_text};
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use serde_json::Value;

use crate::common::clocked::Clocked;
use crate::common::faulty::{Fails, Faulty};
use crate::common::forge::{ForgedFrame, Forger, end_of_log};
use crate::common::pruned::{DAY, Meanwhile, Nights, forget_on, options, prune_on};
use crate::common::{Host, Person, clock, merge_store, tree};

const WEEK: i64 = 7 * 24;

fn writer_of(host: &Host) -> String {
    host.open(None).unwrap().0.host().unwrap().name.clone()
}

fn set_keeper(
    by: &Host,
    person: &Person,
    of: &str,
    keeper: &str,
    hold: Option<i64>,
) -> Result<KeeperSet, repository::Error> {
    let (mut repository, _) = by.open(Some(person))?;
    let hold = hold.map(|hours| hours as u64 * 3600);
    repository.set_keeper(of, keeper, hold, clock()(), &Silent)
}

fn open_as_keeper(keeper: &Host, of: &str) -> Result<(Repository, Vec<Problem>), repository::Error> {
    let options = OpenOptions {
        state: keeper.state.path(),
        catalog: None,
        keys: Keys::default(),
        sync: true,
        keeper_of: Some(of),
    };
    Repository::open(keeper.store(), options, &Silent).map(|(repository, report)| (repository, report.problems))
}

fn keep_at(keeper: &Host, of: &str, clock: &dyn Fn() -> Moment) -> Result<PruneReport, ops::Error> {
    let (mut repository, problems) = open_as_keeper(keeper, of)?;
    let options = options(0.0, DAY);
    let plan = plan_as_keeper(&mut repository, &options, &|_| None, &problems, (clock(), &Silent))?;
    assert_eq!(plan.packs.unknown, Vec::<String>::new());
    prune(&mut repository, plan, &options, &|_| None, clock, &Silent)
}

fn keep(keeper: &Host, of: &str) -> PruneReport {
    keep_at(keeper, of, &*clock()).unwrap()
}

/// Nights of a host, and another machine that keeps its log.
struct Kept {
    nights: Nights,
    keeper: Host,
    writer: String,
    ids: Vec<String>,
}

impl Kept {
    fn new() -> Self {
        let mut nights = Nights::new();
        let ids = nights.nights(3);
        let keeper = Host::new(Arc::new(nights.store.clone()));
        keeper.join(&nights.person).unwrap();
        let writer = writer_of(&nights.host);
        let set = set_keeper(&nights.reader(), &nights.person, &writer, &writer_of(&keeper), Some(WEEK)).unwrap();
        assert!(set.ruled && set.handed_over > 3, "{set:?}");
        Self { nights, keeper, writer, ids }
    }

    fn night(&mut self) {
        let id = self.nights.night();
        self.ids.push(id);
    }

    /// Until all of it is gone that may go.
    fn settle(&mut self) {
        for hours in [WEEK + 1, 25, 25] {
            self.nights.store.advance(hours);
            // The host is there all the while: the store says what time it is.
            self.night();
            keep(&self.keeper, &self.writer);
        }
    }
}

/// Restores with nothing but `recover.py` and stock tools.
fn recover(scene: &Nights, id: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let (copy, identity, into) = (folder.path().join("copy"), folder.path().join("id"), folder.path().join("into"));
    fs::create_dir(&copy).unwrap();
    fs::write(&identity, &scene.person.identity).unwrap();
    merge_store(&scene.store, &LocalFileSystem::new_with_prefix(&copy).unwrap());
    let mut command = Command::new("python3");
    command.arg(copy.join("recover.py")).arg("--repository").arg(&copy).arg("--identity").arg(&identity);
    let output = command.args(["restore", id, "--into", into.to_str().unwrap()]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert_eq!(tree::describe(&into), scene.trees[id]);
    said
}

#[test]
fn what_a_host_forgot_goes_after_the_hold_and_the_host_goes_on() {
    let mut scene = Kept::new();
    let idle = keep(&scene.keeper, &scene.writer);
    assert_eq!((idle.packs_retired, idle.freed, idle.litter), (0, 0, 0), "{idle:?}");
    forget_on(&scene.nights.host, &scene.ids[..1]);
    let early = keep(&scene.keeper, &scene.writer);
    assert_eq!((early.packs_retired, early.emptied), (0, 0), "{early:?}");
    let (mut repository, _) = open_as_keeper(&scene.keeper, &scene.writer).unwrap();
    let held = repository.held_back().unwrap();
    assert_eq!(held.iter().map(|held| held.forgets).sum::<u64>(), 1);
    let row = repository.host_row().unwrap();
    assert!(!repository.catalog().is_forgotten(row, &scene.ids[0]).unwrap());
    drop(repository);
    // Nothing was committed meanwhile: the keeper asks the store what time it is.
    scene.nights.store.advance(WEEK - 1);
    let ahead = move || clock()() + chrono::TimeDelta::days(400);
    let almost = keep_at(&scene.keeper, &scene.writer, &ahead).unwrap();
    assert_eq!(almost.packs_retired, 0, "{almost:?}");
    scene.nights.store.advance(2);
    let first = keep_at(&scene.keeper, &scene.writer, &ahead).unwrap();
    assert!(first.packs_retired > 0 && first.emptied > 0 && first.freed == 0, "{first:?}");
    assert_eq!(scene.nights.store.take_deleted(), Vec::<String>::new());
    // The host refers to nothing that is retired, and stores nothing twice that was moved.
    scene.ids.remove(0);
    let source = scene.nights.source.path().to_owned();
    let again = scene.nights.host.backup(&source).unwrap();
    assert_eq!(again.counts.data_new, 0, "{again:?}");
    let id = again.record.id.to_string();
    scene.nights.trees.insert(id.clone(), tree::describe(&source));
    scene.ids.push(id);
    scene.nights.store.advance(25);
    scene.night();
    let later = keep(&scene.keeper, &scene.writer);
    assert_eq!(later.packs_deleted, first.packs_retired, "{later:?}");
    assert_eq!(scene.nights.store.take_deleted().len() as u64, later.packs_deleted);
    scene.nights.holds(&scene.nights.host, &scene.ids);
    scene.nights.restores(&scene.nights.reader(), &scene.ids);
    assert_eq!(scene.nights.host.stats().unused_bytes, 0);
    let said = recover(&scene.nights, &scene.ids[0]);
    assert!(!said.contains("refused") && !said.contains("left out"), "{said}");
    // A keeper that lost its state reads everything anew, without an identity.
    let folder = open_as_keeper(&scene.keeper, &scene.writer).unwrap().0.folder().path().to_owned();
    fs::remove_dir_all(folder).unwrap();
    let idle = keep(&scene.keeper, &scene.writer);
    assert_eq!((idle.packs_retired, idle.packs_deleted, idle.litter), (0, 0, 0), "{idle:?}");
    scene.nights.holds(&scene.nights.host, &scene.ids);
}

#[test]
fn it_reads_no_backup() {
    let scene = Kept::new();
    let keys = fs::read_to_string(scene.keeper.open(None).unwrap().0.folder().key_file()).unwrap();
    let keys: Value = serde_json::from_str(&keys).unwrap();
    let thief = Person { identity: keys["identity"].as_str().unwrap().to_owned(), recipient: String::new() };
    for id in &scene.ids {
        assert!(
            scene
                .nights
                .reader()
                .restore(&thief, &lifeboat::plan::restore::Wanted::Named(id.clone()), &PathBuf::from("/nowhere"))
                .is_err()
        );
    }
    // Nor does it act for a host that it does not keep, and nobody keeps who was not named.
    let other = Host::new(Arc::new(scene.nights.store.clone()));
    other.join(&scene.nights.person).unwrap();
    for (by, of) in
        [(&scene.keeper, writer_of(&other)), (&other, scene.writer.clone()), (&scene.keeper, writer_of(&scene.keeper))]
    {
        let refused = keep_at(by, &of, &*clock()).unwrap_err();
        assert!(refused.to_string().contains("no keeper"), "{refused}");
    }
}

#[test]
fn a_thief_of_the_host_loses_nothing_to_it_before_the_hold_is_over() {
    let mut scene = Kept::new();
    scene.night();
    let packs = scene.nights.store.keys("/packs/");
    let thief = Forger::thief_of(&scene.nights.host, &[&scene.nights.person]);
    // He says that all of it is gone or not needed, and stores junk under the names of the frames.
    let (repository, _) = scene.nights.host.open(None).unwrap();
    let (sequence, parents, first_frame) = end_of_log(&repository, &scene.writer);
    let row = repository.catalog().writers().unwrap().into_iter().find(|(_, name)| *name == scene.writer).unwrap().0;
    let known = repository.catalog().packs(row).unwrap();
    let mut lines = Vec::new();
    for pack in &known {
        let frames: Vec<_> = repository.catalog().frames_of(pack.row).unwrap();
        let junk: Vec<ForgedFrame> = frames.iter().map(|_| ForgedFrame::honest(&tree::noise(500, 9))).collect();
        let mut line = thief.put_pack(&thief_store(&scene), &thief.pack(PackKind::Data, &junk));
        for (said, frame) in line.frames.iter_mut().zip(&frames) {
            said.0 = frame.id;
            said.3 = frame.plain;
        }
        lines.push(CommitLine::Pack(line));
    }
    let ids: Vec<_> = known.iter().map(|pack| pack.id).collect();
    lines.push(CommitLine::Retire(Retire { packs: ids.clone(), segments: Vec::new(), grace: 0 }));
    lines.push(CommitLine::Deleted(Objects { packs: ids[..1].to_vec(), segments: Vec::new() }));
    for id in &scene.ids {
        lines.push(CommitLine::Forget(Marked { snapshot: id.parse().unwrap() }));
    }
    drop(repository);
    let header = CommitHeader {
        commit: 1,
        repository: thief.repository,
        writer: scene.writer.clone(),
        sequence: sequence + 1,
        parents,
        time: clock()(),
        first_frame,
        program: "forged".to_owned(),
    };
    // Sealed to the keeper too: he knows the ruling.
    let text = Commit { header, lines }.encode().unwrap();
    let keeper = scene.keeper.open(None).unwrap().0.folder().key_file();
    let keeper: Value = serde_json::from_str(&fs::read_to_string(keeper).unwrap()).unwrap();
    let keeper: age::x25519::Identity = keeper["identity"].as_str().unwrap().parse().unwrap();
    let readers = vec![keeper.to_public().to_string().parse().unwrap(), scene.nights.person.recipient.parse().unwrap()];
    let sealed = Sealer::new(readers).seal_compressed(&sign_text(COMMIT, &text, &thief.signing)).unwrap();
    crate::common::forge::put_as_commit(&thief_store(&scene), &scene.writer, sequence + 1, sealed);
    for _ in 0..6 {
        scene.nights.store.advance(25);
        let ahead = move || clock()() + chrono::TimeDelta::days(400);
        let kept = keep_at(&scene.keeper, &scene.writer, &ahead).unwrap();
        // His own packs may go, for nothing needs them.
        assert!(kept.packs_retired <= known.len() as u64 && kept.litter == 0 && kept.emptied == 0, "{kept:?}");
    }
    assert!(packs.iter().all(|pack| scene.nights.store.keys("/packs/").contains(pack)));
    // The break-in is noticed in time.
    let (mut repository, _) = scene.nights.reader().open(Some(&scene.nights.person)).unwrap();
    let row = repository.catalog().writers().unwrap().into_iter().find(|(_, name)| *name == scene.writer).unwrap().0;
    let last = repository.catalog().newest(row).unwrap().unwrap();
    assert!(last.sequence > sequence);
    let first = repository
        .catalog()
        .commits(row, true)
        .unwrap()
        .into_iter()
        .find(|head| head.sequence == sequence + 1)
        .unwrap();
    let since = repository.catalog().received(&first.digest).unwrap();
    repository.revoke_writer(&scene.writer, since, clock()()).unwrap();
    drop(repository);
    scene.nights.restores(&scene.nights.reader(), &scene.ids);
}

const COMMIT: &str = "lifeboat format 1 commit";

fn thief_store(scene: &Kept) -> lifeboat::store::Store {
    scene.nights.host.store()
}

/// A commit of a host's log that a keeper's key signed.
fn signed_by_keeper(scene: &Kept, lines: Vec<CommitLine>) -> String {
    let keys = fs::read_to_string(scene.keeper.open(None).unwrap().0.folder().key_file()).unwrap();
    let keys: Value = serde_json::from_str(&keys).unwrap();
    let signing = SigningKey::from_hex(keys["signing_key"].as_str().unwrap()).unwrap();
    let (repository, _) = scene.nights.host.open(None).unwrap();
    let (sequence, parents, first_frame): (u64, Vec<CommitId>, u64) = end_of_log(&repository, &scene.writer);
    let header = CommitHeader {
        commit: 1,
        repository: repository.description().repository,
        writer: scene.writer.clone(),
        sequence: sequence + 1,
        parents,
        time: clock()(),
        first_frame,
        program: "forged".to_owned(),
    };
    let text = Commit { header, lines }.encode().unwrap();
    let own: Value = serde_json::from_str(&fs::read_to_string(repository.folder().key_file()).unwrap()).unwrap();
    let own: age::x25519::Identity = own["identity"].as_str().unwrap().parse().unwrap();
    let readers = vec![scene.nights.person.recipient.parse().unwrap(), own.to_public().to_string().parse().unwrap()];
    let sealed = Sealer::new(readers).seal_compressed(&sign_text(COMMIT, &text, &signing)).unwrap();
    crate::common::forge::put_as_commit(&thief_store(scene), &scene.writer, sequence + 1, sealed)
}

#[test]
fn a_keeper_forgets_nothing_and_makes_no_snapshot() {
    let scene = Kept::new();
    let key = signed_by_keeper(&scene, vec![CommitLine::Forget(Marked { snapshot: scene.ids[0].parse().unwrap() })]);
    for (host, person) in [(&scene.nights.host, None), (&scene.nights.reader(), Some(&scene.nights.person))] {
        let problems = host.open(person).unwrap().1;
        assert!(
            matches!(&problems[..], [Problem::BadCommit { key: k, why }] if *k == key && why.contains("keeper")),
            "{problems:?}"
        );
    }
    assert_eq!(scene.nights.host.snapshots(), scene.ids);
    let said = recover(&scene.nights, &scene.ids[0]);
    assert!(said.contains("a keeper signed it"), "{said}");
}

#[test]
fn a_keeper_that_was_ended_is_refused_and_what_it_signs_since_does_not_count() {
    let mut scene = Kept::new();
    let keeper = writer_of(&scene.keeper);
    let ended = set_keeper(&scene.nights.reader(), &scene.nights.person, &scene.writer, &keeper, None).unwrap();
    assert!(ended.ruled);
    let refused = keep_at(&scene.keeper, &scene.writer, &*clock()).unwrap_err();
    assert!(refused.to_string().contains("no keeper"), "{refused}");
    signed_by_keeper(
        &scene,
        vec![CommitLine::Keep(Objects { packs: vec![lifeboat::model::PackId::new([1; 32])], segments: Vec::new() })],
    );
    scene.night();
    assert_eq!(scene.nights.host.open(None).unwrap().1, []);
    scene.nights.holds(&scene.nights.host, &scene.ids);
    assert!(recover(&scene.nights, &scene.ids[3]).contains("does not count"));
}

#[test]
fn beside_a_backup_both_ends_are_joined_and_nothing_is_lost() {
    let mut scene = Kept::new();
    forget_on(&scene.nights.host, &scene.ids[..1]);
    scene.nights.store.advance(WEEK + 1);
    scene.nights.change();
    // The keeper prunes when everything was read and nothing is committed yet.
    let (keeper, writer) = (scene.keeper.second(), scene.writer.clone());
    let ahead = move || clock()() + chrono::TimeDelta::days(400);
    let deed = move || {
        let kept = keep_at(&keeper, &writer, &ahead).unwrap();
        assert!(kept.packs_retired > 0, "{kept:?}");
    };
    let report = Meanwhile::new(scene.nights.source.path(), deed).backup(&scene.nights.host, clock()).unwrap();
    let id = report.record.id.to_string();
    scene.nights.trees.insert(id.clone(), tree::describe(scene.nights.source.path()));
    scene.ids.remove(0);
    scene.ids.push(id);
    // Two states of the same log: the keeper and the host commit at the same place.
    let (split, host) = scene.nights.fork();
    forget_on(&host, &scene.ids[..1]);
    let merged = scene.nights.store.clone();
    scene.night();
    merge_store(&split, &merged);
    scene.ids.remove(0);
    let problems = open_as_keeper(&scene.keeper, &scene.writer).unwrap().1;
    assert!(matches!(&problems[..], [Problem::Fork { .. }]), "{problems:?}");
    keep(&scene.keeper, &scene.writer);
    assert_eq!(open_as_keeper(&scene.keeper, &scene.writer).unwrap().1, []);
    assert_eq!(scene.nights.host.open(None).unwrap().1, []);
    scene.settle();
    assert!(!scene.nights.store.take_deleted().is_empty());
    scene.nights.sound(&scene.nights.host, &scene.ids);
}

#[test]
fn its_prune_may_stop_at_every_operation_of_the_store() {
    let mut scene = Kept::new();
    forget_on(&scene.nights.host, &scene.ids[..1]);
    scene.nights.store.advance(WEEK + 1);
    scene.ids.remove(0);
    scene.night();
    // Once where it retires, and once where it deletes.
    for due in [false, true] {
        if due {
            keep(&scene.keeper, &scene.writer);
            scene.nights.store.advance(25);
            scene.night();
        }
        for fails in [Fails::Before, Fails::After] {
            let mut stopped = 0;
            for n in 1.. {
                let store: Clocked = scene.nights.store.fork();
                let host = scene.nights.host.clone_state(Arc::new(store.clone()));
                let keeper = scene.keeper.clone_state(Arc::new(store.clone()));
                let faulty: Arc<dyn ObjectStore> = Faulty::new(Arc::new(store.clone()), n, fails);
                let first = keep_at(&Host { objects: faulty, ..keeper.second() }, &scene.writer, &*clock());
                stopped += u32::from(first.is_err());
                let again = keep(&keeper, &scene.writer);
                assert!(
                    !due || first.is_ok() || again.packs_deleted > 0 || !store.take_deleted().is_empty(),
                    "{again:?}"
                );
                if n % 4 == 1 || first.is_ok() {
                    scene.nights.sound(&host, &scene.ids);
                }
                if first.is_ok() {
                    break;
                }
            }
            assert!(stopped > 3, "{stopped}");
        }
    }
}

#[test]
fn a_host_that_prunes_beside_its_keeper_and_one_that_is_adopted_lose_nothing() {
    let mut scene = Kept::new();
    forget_on(&scene.nights.host, &scene.ids[..1]);
    scene.ids.remove(0);
    for _ in 0..2 {
        prune_on(&scene.nights.host).unwrap();
        scene.nights.store.advance(25);
        scene.night();
    }
    assert!(!scene.nights.store.take_deleted().is_empty());
    scene.settle();
    scene.nights.sound(&scene.nights.host, &scene.ids);
    // The host is gone, another one goes on with its log, and the keeper goes on with that one.
    let new = Host::new(Arc::new(scene.nights.store.clone()));
    let (mut repository, _) = new.open(Some(&scene.nights.person)).unwrap();
    repository.adopt_writer(&scene.writer, "new", clock()(), &Silent).unwrap();
    drop(repository);
    scene.nights.host = new;
    forget_on(&scene.nights.host, &scene.ids[..1]);
    scene.ids.remove(0);
    scene.settle();
    assert!(!scene.nights.store.take_deleted().is_empty());
    scene.nights.sound(&scene.nights.host, &scene.ids);
    assert_eq!(scene.nights.host.open(None).unwrap().1, []);
}

#[test]
fn from_the_command_line() {
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| -> PathBuf { place.path().join(name) };
    let run = |code: i32, state: &str, args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
        command.env_clear().env("HOME", place.path()).env("TZ", "UTC");
        let output = command.current_dir(place.path()).args(["--repo", "repo", "--state-dir", state]).args(args);
        let output = output.output().unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{args:?}\n{said}");
        said
    };
    tree::make(&path("data"), 5);
    run(0, "one", &["init", "--generate-identity", "id", "--host", "db1"]);
    run(0, "keep", &["--identity", "id", "init", "--host", "keep1"]);
    for night in 0..2 {
        fs::write(path("data/tonight"), tree::noise(2_000_000, night)).unwrap();
        run(0, "one", &["backup", "--path", "data", "--name", "data"]);
    }
    let listed: Value = serde_json::from_str(&run(0, "one", &["--json", "key", "list"])).unwrap();
    let name = |of: &str| {
        let all = listed["writers"].as_array().unwrap();
        all.iter().find(|writer| writer["host"] == of).unwrap()["writer"].as_str().unwrap().to_owned()
    };
    let (host, keeper) = (name("db1"), name("keep1"));
    // The mistakes that are easily made.
    let said = run(2, "keep", &["prune", "--keeper"]);
    assert!(said.contains("keeps no other writer") && said.contains("key keeper"), "{said}");
    run(12, "keep", &["key", "keeper", &keeper, "--all"]);
    run(2, "keep", &["--identity", "id", "key", "keeper", "nobody", "--all"]);
    run(2, "keep", &["--identity", "id", "key", "keeper", &keeper]);
    run(2, "keep", &["--identity", "id", "key", "keeper", &keeper, "--of", &host, "--hold", "soon"]);
    run(2, "keep", &["prune", "--of", &host]);
    let said = run(0, "keep", &["--identity", "id", "key", "keeper", &keeper, "--all", "--hold", "0h"]);
    assert!(said.contains(&format!("{keeper} of {host}, hold 0h")) && said.contains("handed over"), "{said}");
    let again = run(0, "keep", &["--identity", "id", "key", "keeper", &keeper, "--of", &host]);
    assert!(again.contains("hold 7d; 0 objects handed over"), "{again}");
    assert!(
        run(0, "keep", &["key", "list"]).contains(&format!("keeper       {keeper}  of {host}, believes it after 7d"))
    );
    let ids = run(0, "one", &["--json", "snapshots"]);
    let oldest = ids.split('"').filter(|word| word.len() == 26 && word.starts_with("01")).min().unwrap().to_owned();
    run(0, "one", &["forget", "--snapshot", &oldest]);
    let said = run(0, "keep", &["prune", "--keeper", "--grace", "0h"]);
    assert!(said.contains(&format!("keeps     {host}")) && said.contains("held      1 snapshot"), "{said}");
    run(0, "keep", &["--identity", "id", "key", "keeper", &keeper, "--all", "--hold", "0h"]);
    let said = run(0, "keep", &["prune", "--keeper", "--of", &host, "--grace", "0h", "--max-unused", "0%"]);
    assert!(said.contains("freed") && !said.contains("held "), "{said}");
    let answer: Value = serde_json::from_str(&run(0, "keep", &["--json", "prune", "--keeper"])).unwrap();
    assert_eq!(answer["plan"]["writer"], Value::from(host.clone()));
    run(0, "one", &["--identity", "id", "check", "--read-data"]);
    run(0, "one", &["backup", "--path", "data", "--name", "data"]);
    run(0, "one", &["--identity", "id", "restore", "--into", "back", "data"]);
    assert_eq!(tree::describe(&path("back")), tree::describe(&path("data")));
    run(0, "keep", &["--identity", "id", "key", "keeper", &keeper, "--all", "--end"]);
    let said = run(12, "keep", &["prune", "--keeper", "--of", &host]);
    assert!(said.contains("is no keeper of writer"), "{said}");
}
