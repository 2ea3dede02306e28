//! Forgetting by policy, and pins: by the time at which the store received a snapshot, on one host and on two, interrupted anywhere,
//! attacked, and obeyed by every reader of the log.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use lifeboat::model::{Commit, CommitHeader, CommitLine, Marked, Moment, Retention, SnapshotId, Uses};
use lifeboat::ops;
use lifeboat::ops::backup::World;
use lifeboat::ops::check::{ReadData, check};
use lifeboat::ops::forget::{ForgetError, Forgotten, SourcePlan, Wish, forget, pin, plan, plan_named};
use lifeboat::plan::restore::Wanted;
use lifeboat::plan::retention::Reason;
use lifeboat::progress::Silent;
use lifeboat::repository::{Problem, Repository};
use lifeboat::seal::sign_text;
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use tempfile::TempDir;

use crate::common::faulty::{Fails, Faulty};
use crate::common::forge::Forger;
use crate::common::{Host, Person, clock, copy_store, copy_tree, merge_store, tree};

type Tree = BTreeMap<String, String>;

fn policy(text: &str) -> Retention {
    toml::from_str(text).unwrap()
}

fn wish(source: &str, rules: &str) -> Vec<Wish> {
    vec![Wish { source: source.to_owned(), policy: Some(policy(rules)) }]
}

fn planned(repository: &mut Repository, problems: &[Problem], rules: &str) -> Result<Vec<SourcePlan>, ops::Error> {
    plan(repository, &wish("data", &format!("timezone = \"UTC\"\n{rules}")), problems)
}

fn forget_on(host: &Host, rules: &str) -> Result<Forgotten, ops::Error> {
    forget_with(host, None, rules)
}

fn forget_with(host: &Host, person: Option<&Person>, rules: &str) -> Result<Forgotten, ops::Error> {
    let (mut repository, problems) = host.open(person)?;
    let plans = planned(&mut repository, &problems, rules)?;
    forget(&mut repository, &plans, clock()(), &Silent)
}

/// A directory as the store, whose clock is set by hand, and a source that changes each night.
struct Scene {
    store: TempDir,
    source: TempDir,
    host: Host,
    person: Person,
    trees: BTreeMap<String, Tree>,
}

fn objects_in(store: &TempDir) -> Arc<dyn ObjectStore> {
    Arc::new(LocalFileSystem::new_with_prefix(store.path()).unwrap())
}

/// The store received the newest commit of a writer at this time, by its own clock.
fn received(store: &TempDir, writer: &str, at: Moment) {
    let log = store.path().join("writers").join(writer).join("log");
    let newest = fs::read_dir(log).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
    fs::File::open(newest).unwrap().set_modified(at.into()).unwrap();
}

fn writer_of(host: &Host) -> String {
    host.open(None).unwrap().0.host().unwrap().name.clone()
}

impl Scene {
    fn new() -> Self {
        let (store, source) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        tree::make(source.path(), 3);
        let (host, person) = (Host::new(objects_in(&store)), Person::new());
        host.init(&person);
        Self { store, source, host, person, trees: BTreeMap::new() }
    }

    /// A night's backup that ended at a time and that the store received a minute later.
    fn night(&mut self, day: &str) -> String {
        self.backup(&format!("{day}T01:00:00Z"), &format!("{day}T01:01:00Z"))
    }

    fn backup(&mut self, ended: &str, at: &str) -> String {
        fs::write(self.source.path().join("docs/tonight"), tree::lines(60, self.trees.len() as u64)).unwrap();
        tree::age(self.source.path());
        let ended: Moment = ended.parse().unwrap();
        let world = World { clock: Arc::new(move || ended), ..crate::common::world() };
        let report = self.host.backup_in(self.source.path(), "data", &Default::default(), &world).unwrap();
        received(&self.store, &writer_of(&self.host), at.parse().unwrap());
        let id = report.record.id.to_string();
        self.trees.insert(id.clone(), tree::describe(self.source.path()));
        id
    }

    fn nights(&mut self, days: &[&str]) -> Vec<String> {
        days.iter().map(|day| self.night(day)).collect()
    }

    fn restored(&self, host: &Host, wanted: &Wanted) -> Result<Tree, ops::Error> {
        let back = tempfile::tempdir().unwrap();
        host.restore(&self.person, wanted, back.path())?;
        Ok(tree::describe(back.path()))
    }

    /// Every snapshot that is listed restores byte for byte, and these are listed.
    fn holds(&self, host: &Host, ids: &[&String]) {
        let listed = host.snapshots_with(&self.person);
        assert_eq!(listed.iter().collect::<Vec<_>>(), ids, "what is listed");
        for id in ids {
            let tree = self.restored(host, &Wanted::Named((*id).clone())).unwrap();
            assert_eq!(&tree, &self.trees[*id], "snapshot {id}");
        }
    }
}

fn comparable(repository: &Repository) -> Vec<String> {
    let all = repository.catalog().dump().unwrap();
    all.into_iter().filter(|line| !line.starts_with("sparse")).collect()
}

const DAYS: [&str; 9] = [
    "2024-01-30",
    "2024-01-31",
    "2024-02-10",
    "2024-02-28",
    "2024-02-29",
    "2024-03-08",
    "2024-03-09",
    "2024-03-10",
    "2024-03-11",
];
const RULES: &str = "keep_daily = 3\nkeep_monthly = 2";

#[test]
fn what_stays_is_restored_byte_for_byte_and_what_goes_is_in_no_list() {
    let mut scene = Scene::new();
    let ids = scene.nights(&DAYS);
    let (mut repository, problems) = scene.host.open(None).unwrap();
    let before = scene.host.store().list("", None).unwrap();
    let plans = planned(&mut repository, &problems, RULES).unwrap();
    let going: Vec<String> = plans[0].going().map(|id| id.to_string()).collect();
    assert_eq!(going, [5, 3, 2, 1, 0].map(|n: usize| ids[n].clone()), "the newest first");
    assert_eq!(plans[0].facts.as_of, Some("2024-03-11T01:01:00Z".parse().unwrap()), "by the store's clock");
    let done = forget(&mut repository, &plans, clock()(), &Silent).unwrap();
    assert_eq!((done.snapshots.len(), done.spared.len(), done.problems.len()), (5, 0, 0));
    drop(repository);
    let stay = [4, 6, 7, 8].map(|n: usize| &ids[n]);
    scene.holds(&scene.host, &stay);
    // Nothing is deleted: all objects are there, and one commit more.
    let now = scene.host.store().list("", None).unwrap();
    assert!(before.iter().all(|object| now.iter().any(|other| other.key == object.key)));
    assert_eq!(now.len(), before.len() + 1);
    // A time that a forgotten one served is served by the one before it that stays; by its name it is still found.
    let at = |text: &str| Wanted::At(text.parse().unwrap());
    assert_eq!(scene.restored(&scene.host, &at("2024-03-08T12:00:00Z")).unwrap(), scene.trees[&ids[4]]);
    let error = scene.restored(&scene.host, &at("2024-02-28T12:00:00Z")).unwrap_err();
    assert_eq!(error.kind() as u8, 4, "{error}");
    assert_eq!(scene.restored(&scene.host, &Wanted::Named(ids[0].clone())).unwrap(), scene.trees[&ids[0]]);
    // The next backup goes on from the newest, and everything is in order.
    let report = scene.host.backup(scene.source.path()).unwrap();
    assert_eq!((report.files_new, report.counts.data_new), (0, 0), "{report:?}");
    let (mut repository, problems) = scene.host.open(Some(&scene.person)).unwrap();
    let report = check(&mut repository, ReadData::All, &problems, clock()(), 1, &Silent).unwrap();
    assert!(report.is_clean() && report.snapshots == 5, "{report:?}");
    assert!(ops::look::stats(&repository).unwrap().unused_bytes > 0, "what a prune could free is counted");
}

#[test]
fn a_second_time_there_is_nothing_to_do_and_no_commit() {
    let mut scene = Scene::new();
    scene.nights(&DAYS);
    forget_on(&scene.host, RULES).unwrap();
    let commits =
        || scene.host.store().list("writers", None).unwrap().iter().filter(|o| o.key.contains("/log/")).count();
    let before = commits();
    assert_eq!(forget_on(&scene.host, RULES).unwrap().snapshots, []);
    assert_eq!(commits(), before);
}

#[test]
fn a_rebuilt_catalog_and_a_bare_machine_say_the_same() {
    let mut scene = Scene::new();
    let ids = scene.nights(&DAYS);
    let (mut repository, _) = scene.host.open(None).unwrap();
    pin(&mut repository, &[ids[0].clone(), ids[1].clone()], true, clock()(), &Silent).unwrap();
    pin(&mut repository, &ids[1..2], false, clock()(), &Silent).unwrap();
    drop(repository);
    forget_on(&scene.host, RULES).unwrap();
    let stay = [0, 4, 6, 7, 8].map(|n: usize| &ids[n]);
    scene.holds(&scene.host, &stay);
    let (mut repository, _) = scene.host.open(None).unwrap();
    let before = comparable(&repository);
    assert!(
        before.iter().any(|line| line.starts_with("mark")) && before.iter().any(|line| line.starts_with("received"))
    );
    repository.rebuild_catalog(&Silent).unwrap();
    assert_eq!(comparable(&repository), before);
    assert!(!repository.catalog_differs(&Silent).unwrap());
    drop(repository);
    scene.holds(&Host::new(Arc::clone(&scene.host.objects)), &stay);
    // A catalog that an older lifeboat made knows no times: the log is listed once more, and nothing is forgotten without them.
    let path = scene.host.open(None).unwrap().0.catalog().path().to_owned();
    let db = rusqlite::Connection::open(path).unwrap();
    db.execute_batch("DELETE FROM received").unwrap();
    let (repository, _) = scene.host.open(None).unwrap();
    assert_eq!(comparable(&repository), before);
}

#[test]
fn pins_hold_until_they_are_taken_away() {
    let mut scene = Scene::new();
    let ids = scene.nights(&DAYS);
    let (mut repository, problems) = scene.host.open(None).unwrap();
    let mut pinned = |names: &[String], on: bool| pin(&mut repository, names, on, clock()(), &Silent);
    let (fresh, already) = pinned(&ids[0..1], true).unwrap();
    assert_eq!((fresh.len(), already.len()), (1, 0));
    assert_eq!(
        pinned(&[ids[0][..20].to_owned()], true).unwrap().1.len(),
        1,
        "by the beginning of its id; it is so already"
    );
    assert!(pinned(&["latest".to_owned()], true).is_err(), "of which source?");
    // A pin that comes while a plan is looked at counts.
    let plans = planned(&mut repository, &problems, RULES).unwrap();
    let (mut other, _) = scene.host.second().open(None).unwrap();
    pin(&mut other, &ids[1..2], true, clock()(), &Silent).unwrap();
    let done = forget(&mut repository, &plans, clock()(), &Silent).unwrap();
    assert_eq!(done.spared.iter().map(SnapshotId::to_string).collect::<Vec<_>>(), ids[1..2]);
    let stay = [0, 1, 4, 6, 7, 8].map(|n: usize| &ids[n]);
    scene.holds(&scene.host, &stay);
    // By name: not a pinned one, not the newest complete one, and nothing twice.
    let mut named = |id: &String| plan_named(&mut repository, std::slice::from_ref(id), &problems);
    assert!(matches!(named(&ids[0]), Err(ops::Error::Forget(ForgetError::Pinned(_)))));
    assert!(matches!(named(&ids[8]), Err(ops::Error::Forget(ForgetError::Newest { .. }))));
    assert!(matches!(named(&ids[2]), Err(ops::Error::Forget(ForgetError::Already(_)))));
    let plans = named(&ids[6]).unwrap();
    assert_eq!(forget(&mut repository, &plans, clock()(), &Silent).unwrap().snapshots.len(), 1);
    let error = pin(&mut repository, &ids[6..7], true, clock()(), &Silent).unwrap_err();
    assert!(matches!(error, ops::Error::Forget(ForgetError::Already(_))), "{error}");
    pin(&mut repository, &ids[0..2], false, clock()(), &Silent).unwrap();
    drop(repository);
    forget_on(&scene.host, RULES).unwrap();
    scene.holds(&scene.host, &[4, 7, 8].map(|n: usize| &ids[n]));
}

#[test]
fn a_clock_that_jumped_pushes_nothing_out() {
    let mut scene = Scene::new();
    let ids = scene.nights(&["2024-03-09", "2024-03-10", "2024-03-11"]);
    // The host believes that it is 2031, then 2019; the store does not.
    let ahead = scene.backup("2031-05-01T01:00:00Z", "2024-03-12T01:01:00Z");
    let behind = scene.backup("2019-05-01T01:00:00Z", "2024-03-13T01:01:00Z");
    let (mut repository, problems) = scene.host.open(None).unwrap();
    let plans = planned(&mut repository, &problems, "keep_last = 2").unwrap();
    let reasons: BTreeMap<String, Vec<Reason>> =
        plans[0].verdicts.iter().map(|verdict| (verdict.fact.id.to_string(), verdict.stays.clone())).collect();
    assert_eq!(reasons[&ids[0]], []);
    assert_eq!(reasons[&ids[1]], [Reason::Last { place: 2, of: 2, burst: false }]);
    assert_eq!(reasons[&ids[2]], [Reason::Newest, Reason::Last { place: 1, of: 2, burst: false }]);
    for odd in [&ahead, &behind] {
        assert!(matches!(reasons[odd][..], [Reason::Clock { .. }]), "{reasons:?}");
    }
    forget(&mut repository, &plans, clock()(), &Silent).unwrap();
    // A person has the last word.
    let plans = plan_named(&mut repository, &[ahead, behind], &problems).unwrap();
    forget(&mut repository, &plans, clock()(), &Silent).unwrap();
    drop(repository);
    scene.holds(&scene.host, &[&ids[1], &ids[2]]);
}

#[test]
fn an_old_commit_that_is_put_again_does_not_become_young() {
    let mut scene = Scene::new();
    let ids = scene.nights(&DAYS);
    drop(scene.host.open(None).unwrap());
    // Some stores let whoever may create put the same object again: its time is that of today then.
    let log = scene.store.path().join("writers").join(writer_of(&scene.host)).join("log");
    for entry in fs::read_dir(log).unwrap() {
        let path = entry.unwrap().path();
        fs::write(&path, fs::read(&path).unwrap()).unwrap();
    }
    forget_on(&scene.host, RULES).unwrap();
    scene.holds(&scene.host, &[4, 6, 7, 8].map(|n: usize| &ids[n]));
    // A machine that has not seen the old times takes none of them for sound: nothing goes by them.
    let (mut repository, problems) = scene.host.open(None).unwrap();
    let db = rusqlite::Connection::open(repository.catalog().path()).unwrap();
    db.execute_batch("DELETE FROM received").unwrap();
    repository.rebuild_catalog(&Silent).unwrap();
    let plans = planned(&mut repository, &problems, "keep_last = 1").unwrap();
    assert_eq!(plans[0].going().count(), 0);
}

#[test]
fn a_policy_that_keeps_nothing_and_a_source_that_is_not_there_are_refused() {
    let mut scene = Scene::new();
    scene.nights(&DAYS[..2]);
    let (mut repository, problems) = scene.host.open(None).unwrap();
    let error = planned(&mut repository, &problems, "keep_last = 0\nkeep_tag = []").unwrap_err();
    assert!(
        matches!(&error, ops::Error::Forget(ForgetError::KeepsNothing { .. })) && error.kind() as u8 == 2,
        "{error}"
    );
    let error = plan(&mut repository, &wish("elsewhere", "keep_last = 1"), &problems).unwrap_err();
    assert_eq!(error.kind() as u8, 4, "{error}");
    let error = plan(&mut repository, &wish("data", "keep_last = 1\ntimezone = \"Mars\""), &problems).unwrap_err();
    assert_eq!(error.kind() as u8, 2, "{error}");
    let all = plan(&mut repository, &[Wish { source: "data".into(), policy: None }], &problems).unwrap();
    assert!(all[0].verdicts.iter().all(|verdict| verdict.stays.contains(&Reason::NoPolicy)));
}

#[test]
fn a_host_speaks_of_its_own_snapshots_alone() {
    let mut scene = Scene::new();
    let ids = scene.nights(&DAYS);
    let other = Host::new(Arc::clone(&scene.host.objects));
    let made = other.join(&scene.person).unwrap();
    other.backup(scene.source.path()).unwrap();
    other.backup(scene.source.path()).unwrap();
    let theirs = other.snapshots();
    let ours = writer_of(&scene.host);
    // Even with an identity at hand, under which the other's snapshots are seen.
    let (mut repository, problems) = other.open(Some(&scene.person)).unwrap();
    let error = plan(&mut repository, &wish(&format!("{ours}/data"), "keep_last = 1"), &problems).unwrap_err();
    assert!(error.to_string().contains(&format!("belongs to writer `{ours}`")), "{error}");
    assert!(pin(&mut repository, &ids[..1], true, clock()(), &Silent).is_err());
    assert!(plan_named(&mut repository, &ids[..1], &problems).is_err());
    drop(repository);
    forget_on(&scene.host, RULES).unwrap();
    // Both see it, and the other's stay.
    for host in [&scene.host, &other] {
        let (repository, problems) = host.open(Some(&scene.person)).unwrap();
        assert_eq!(problems, []);
        let all = repository.catalog().snapshots().unwrap();
        let of = |writer: &str| -> Vec<String> {
            all.iter().filter(|s| s.writer_name == writer).map(|s| s.record.id.to_string()).collect()
        };
        assert_eq!(of(&ours), [4, 6, 7, 8].map(|n: usize| ids[n].clone()));
        assert_eq!(of(&made.writer), theirs);
    }
    // A thief of the other host writes into their own log what they like: it says nothing of ours.
    let thief = Forger::thief_of(&other, &[&scene.person]);
    let marks = [ids[8].clone(), theirs[0].clone()];
    put_lines(
        &other,
        &thief,
        marks.iter().map(|id| CommitLine::Forget(Marked { snapshot: id.parse().unwrap() })).collect(),
    );
    let (repository, _) = scene.host.open(Some(&scene.person)).unwrap();
    let left: Vec<String> = repository.catalog().snapshots().unwrap().iter().map(|s| s.record.id.to_string()).collect();
    assert!(left.contains(&ids[8]) && !left.contains(&theirs[0]), "{left:?}");
}

/// Puts a commit with these lines at the end of a writer's log; returns its key.
fn put_lines(host: &Host, forger: &Forger, lines: Vec<CommitLine>) -> String {
    let (repository, _) = host.open(None).unwrap();
    let catalog = repository.catalog();
    let row = catalog.writers().unwrap().into_iter().find(|(_, name)| *name == forger.writer).unwrap().0;
    let heads = catalog.heads(row).unwrap();
    let sequence = heads.iter().map(|head| head.sequence).max().unwrap() + 1;
    let header = CommitHeader {
        commit: 1,
        repository: forger.repository,
        writer: forger.writer.clone(),
        sequence,
        parents: heads.iter().map(|head| head.digest).collect(),
        time: clock()(),
        first_frame: catalog.next_numbers(row).unwrap().0,
        program: "forged".to_owned(),
    };
    let text = Commit { header, lines }.encode().unwrap();
    forger.put_commit(&host.store(), sequence, &sign_text("lifeboat format 1 commit", &text, &forger.signing))
}

#[test]
fn whoever_owns_the_store_can_forge_no_forget_and_no_unpin() {
    let mut scene = Scene::new();
    let ids = scene.nights(&DAYS[..4]);
    let (mut repository, _) = scene.host.open(None).unwrap();
    pin(&mut repository, &ids[0..1], true, clock()(), &Silent).unwrap();
    drop(repository);
    let forger = Forger::of_store(&scene.host, &[&scene.person]);
    let marked = |n: usize| Marked { snapshot: ids[n].parse().unwrap() };
    let key = put_lines(&scene.host, &forger, vec![CommitLine::Forget(marked(3)), CommitLine::Unpin(marked(0))]);
    for host in [&scene.host, &Host::new(Arc::clone(&scene.host.objects))] {
        let (_, problems) = host.open(Some(&scene.person)).unwrap();
        assert!(problems.iter().any(|problem| problem.to_string().contains(&key)), "{problems:?}");
        scene.holds(host, &ids.iter().collect::<Vec<_>>());
    }
    // A log that does not tell everything may lack a pin: nothing is forgotten by it.
    let error = forget_on(&scene.host, "keep_last = 1").unwrap_err();
    assert!(matches!(&error, ops::Error::Forget(ForgetError::Hole(why)) if why.contains(&key)), "{error}");
    assert_eq!(error.kind() as u8, 13);
}

/// Whoever has all that a host has can sign what they like, but nothing is deleted by it.
#[test]
fn what_a_thief_of_the_host_forgot_is_restored_by_its_id() {
    let mut scene = Scene::new();
    let ids = scene.nights(&DAYS[..3]);
    let thief = Forger::thief_of(&scene.host, &[&scene.person]);
    let all = ids.iter().map(|id| CommitLine::Forget(Marked { snapshot: id.parse().unwrap() })).collect();
    put_lines(&scene.host, &thief, all);
    assert_eq!(scene.host.snapshots_with(&scene.person), Vec::<String>::new());
    for wanted in [Wanted::Latest, Wanted::At("2024-03-01T00:00:00Z".parse().unwrap())] {
        assert_eq!(scene.restored(&scene.host, &wanted).unwrap_err().kind() as u8, 4);
    }
    for id in &ids {
        assert_eq!(scene.restored(&scene.host, &Wanted::Named(id.clone())).unwrap(), scene.trees[id]);
    }
    // The next backup is the newest again.
    scene.host.backup(scene.source.path()).unwrap();
    assert_eq!(scene.restored(&scene.host, &Wanted::Latest).unwrap(), scene.trees[&ids[2]]);
}

#[test]
fn an_old_log_put_in_place_of_the_new_one_brings_nothing_back_in_silence() {
    let mut scene = Scene::new();
    let ids = scene.nights(&DAYS);
    let old = tempfile::tempdir().unwrap();
    copy_tree(scene.store.path(), old.path());
    forget_on(&scene.host, RULES).unwrap();
    let deceived = scene.host.clone_state(objects_in(&old));
    let (repository, problems) = deceived.open(None).unwrap();
    assert!(matches!(problems[..], [Problem::MissingCommit { sequence: 10, .. }]), "{problems:?}");
    let left: Vec<String> = repository.catalog().snapshots().unwrap().iter().map(|s| s.record.id.to_string()).collect();
    assert_eq!(left, [4, 6, 7, 8].map(|n: usize| ids[n].clone()), "what was forgotten stays forgotten");
    drop(repository);
    let error = forget_on(&deceived, "keep_last = 1").unwrap_err();
    assert!(matches!(error, ops::Error::Forget(ForgetError::Hole(_))), "{error}");
    // A repair says that the commit is lost; a machine that has seen nothing then lists what it forgot, and reads why.
    let report =
        ops::repair::repair(&mut deceived.open(None).unwrap().0, ReadData::No, false, clock()(), &Silent).unwrap();
    assert_eq!(report.commits_lost.len(), 1, "{report:?}");
}

#[test]
fn forgetting_may_stop_at_every_operation_of_the_store() {
    let mut scene = Scene::new();
    let ids = scene.nights(&DAYS);
    drop(scene.host.open(None).unwrap());
    // Copies keep the times, because the catalog of the host has them.
    let fork = || {
        let store = copy_store(&*scene.host.objects);
        let host = scene.host.clone_state(Arc::clone(&store));
        (store, host)
    };
    let (store, host) = fork();
    let counting = Faulty::new(store, 0, Fails::Before);
    forget_on(&Host { objects: counting.clone(), ..host }, RULES).unwrap();
    let operations = counting.operations();
    assert!(operations > 5, "{operations}");
    let (all, stay) = (ids.iter().collect::<Vec<_>>(), [4, 6, 7, 8].map(|n: usize| &ids[n]));
    for fails in [Fails::Before, Fails::After] {
        for n in 1..=operations {
            let context = format!("stopped {fails:?} operation {n} of {operations}");
            let (store, host) = fork();
            let mut host = Host { objects: Faulty::new(Arc::clone(&store), n, fails), ..host };
            let outcome = forget_on(&host, RULES);
            // The last operation is the listing behind the commit: its failure is a warning.
            assert_eq!(outcome.is_err(), n < operations, "{context}");
            host.objects = store;
            let listed = host.snapshots();
            let whole = listed.iter().collect::<Vec<_>>();
            assert!(whole == all || whole == stay, "{context}: all of it or nothing: {listed:?}");
            scene.holds(&host, &whole);
            forget_on(&host, RULES).unwrap_or_else(|e| panic!("{context}, repeated: {e}"));
            assert_eq!(host.snapshots().iter().collect::<Vec<_>>(), stay, "{context}");
        }
    }
}

#[test]
fn both_branches_of_a_fork_are_obeyed() {
    let mut scene = Scene::new();
    let ids = scene.nights(&DAYS[..5]);
    drop(scene.host.open(None).unwrap());
    let split = copy_store(&*scene.host.objects);
    let clone = scene.host.clone_state(Arc::clone(&split));
    let (mut repository, problems) = scene.host.open(None).unwrap();
    let plans = plan_named(&mut repository, &ids[0..2], &problems).unwrap();
    forget(&mut repository, &plans, clock()(), &Silent).unwrap();
    drop(repository);
    let (mut repository, _) = clone.open(None).unwrap();
    pin(&mut repository, &[ids[1].clone(), ids[2].clone()], true, clock()(), &Silent).unwrap();
    drop(repository);
    merge_store(&*split, &*scene.host.objects);
    let stay = [2, 3, 4].map(|n: usize| &ids[n]);
    // Forgotten is for good, a pin on another branch or not; the other pin stands, whoever reads.
    for host in [&scene.host, &Host { objects: Arc::clone(&scene.host.objects), ..clone }] {
        scene.holds(host, &stay);
        let (repository, problems) = host.open(Some(&scene.person)).unwrap();
        assert!(problems.iter().all(|problem| matches!(problem, Problem::Fork { .. })), "{problems:?}");
        let pinned = repository.catalog().snapshots().unwrap().into_iter().filter(|s| s.pinned);
        assert_eq!(pinned.map(|s| s.record.id.to_string()).collect::<Vec<_>>(), ids[2..3]);
    }
    // Forgetting joins the fork.
    let done = forget_on(&scene.host, "keep_last = 1").unwrap();
    assert_eq!(done.snapshots.len(), 1);
    assert_eq!(scene.host.open(None).unwrap().1, []);
    scene.holds(&Host::new(Arc::clone(&scene.host.objects)), &[&ids[2], &ids[4]]);
}

#[test]
fn a_thousand_snapshots_take_as_many_requests_as_ten() {
    let operations_for = |count: u64| {
        let (host, person) = (Host::new(Arc::new(InMemory::new())), Person::new());
        host.init(&person);
        let source = tempfile::tempdir().unwrap();
        tree::make(source.path(), 1);
        let world = World { clock: Arc::new(chrono::Utc::now), ..crate::common::world() };
        host.backup_in(source.path(), "data", &Default::default(), &world).unwrap();
        // Many more like it, in one commit of the host's own hand.
        let (repository, _) = host.open(None).unwrap();
        let one = repository.catalog().snapshots().unwrap().pop().unwrap().record;
        drop(repository);
        let more = (1..count).map(|n| {
            let (mut id, ended) = ([0; 10], one.ended - chrono::TimeDelta::milliseconds(n as i64));
            id[..8].copy_from_slice(&n.to_be_bytes());
            let id = SnapshotId::new(ended.timestamp_millis() as u64, id);
            CommitLine::Snapshot(lifeboat::model::SnapshotRecord { id, ended, uses: Uses(vec![(0, 0)]), ..one.clone() })
        });
        put_lines(&host, &Forger::thief_of(&host, &[&person]), more.collect());
        assert_eq!(host.snapshots_with(&person).len() as u64, count);
        let counting = Faulty::new(Arc::clone(&host.objects), 0, Fails::Before);
        let host = Host { objects: counting.clone(), ..host };
        let done = forget_with(&host, Some(&person), "keep_last = 4").unwrap();
        assert_eq!(done.snapshots.len() as u64, count - 4);
        let first = counting.operations();
        forget_with(&host, Some(&person), "keep_last = 4").unwrap();
        (first, counting.operations() - first)
    };
    assert_eq!(operations_for(1_000), operations_for(10));
}

/// A cluster with three base backups and rows between them: with a window every moment stays within reach, without one the newest base
/// backup leads on alone.
#[test]
fn a_window_of_a_cluster_keeps_every_moment_in_it_within_reach() {
    use crate::common::scene::{ORACLE, Scene};
    let Some(scene) = Scene::new(16, &[]) else { return };
    scene.cluster.psql(ORACLE);
    scene.insert(3);
    let mut points = Vec::new();
    for _ in 0..3 {
        scene.expect(0, &["backup", "db"]);
        scene.insert(10);
        points.push(scene.point());
        scene.insert(100);
        scene.archive_all();
    }
    let stays = |said: &str| said.lines().filter(|line| line.starts_with("stays ")).count();
    let said = scene.expect(0, &["forget", "db", "--keep-last", "1", "--window", "14d"]);
    assert_eq!((stays(&said), said.matches("inside the window").count()), (3, 3), "{said}");
    let restored = |name: &str, (moment, rows): &(String, String)| {
        assert_eq!(&scene.restored_rows(name, &["--to", moment]), rows, "{name}");
    };
    restored("first", &points[0]);
    let said = scene.expect(0, &["forget", "db", "--keep-last", "1", "--dry-run"]);
    assert!(stays(&said) == 1 && said.contains("nothing was changed"), "{said}");
    let said = scene.expect(0, &["forget", "--all", "--keep-last", "1"]);
    assert!(stays(&said) == 1 && said.contains("2 go"), "{said}");
    restored("last", &points[2]);
    let early = scene.expect(4, &["restore", "db", "--to", &points[1].0, "--into", "early"]);
    assert!(early.contains("its first complete base backup ended at"), "{early}");
    // The next base backup reads what the forgotten ones stored, and is complete.
    scene.insert(10);
    scene.expect(0, &["backup", "db"]);
    let now = scene.point();
    scene.insert(1);
    scene.archive_all();
    restored("next", &now);
    scene.expect(0, &["check"]);
}

/// What a person types, and what programs read.
#[test]
fn the_command_line_tells_what_stays_and_why() {
    use std::process::Command;
    let folder = tempfile::tempdir().unwrap();
    tree::make(&folder.path().join("data"), 5);
    let run = |code: i32, args: &[&str]| -> (String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
        command.env_clear().env("HOME", folder.path()).env("TZ", "UTC").current_dir(folder.path());
        let output = command.args(args).output().unwrap();
        let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert_eq!(output.status.code(), Some(code), "{args:?}\n{out}\n{err}");
        (out, err)
    };
    let config = |rules: &str| {
        let text = format!(
            "[repository]\nurl = \"repo\"\n[sources.data]\nkind = \"volume\"\npath = \"{}/data\"\n{rules}",
            folder.path().display()
        );
        fs::write(folder.path().join("lifeboat.toml"), text).unwrap();
    };
    config("[retention]\nkeep_last = 2\nmin_snapshots = 1\n");
    run(0, &["init", "--generate-identity", "identity.txt"]);
    (0..4).for_each(|_| drop(run(0, &["backup", "data"])));
    run(0, &["backup", "--path", "data", "--name", "adhoc"]);
    let ids = |args: &[&str]| -> Vec<String> {
        let (out, _) = run(0, &[&["--json", "snapshots"], args].concat());
        let all: serde_json::Value = serde_json::from_str(&out).unwrap();
        all.as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
    };
    let all = ids(&["data"]);
    assert!(run(2, &["forget"]).1.contains("--all"));
    assert!(run(2, &["forget", "data", "--keep-last", "0", "--min-snapshots", "0"]).1.contains("keeps nothing at all"));
    assert!(run(2, &["forget", "data", "--keep-within", "6m"]).1.contains("`mo` for months"));
    assert!(run(2, &["forget", "data", "--window", "14d"]).1.contains("has no stream"));
    assert!(run(4, &["forget", "nothing"]).1.contains("no snapshot of `nothing`"));
    assert!(run(2, &["forget", "data", "--simulate", "2h"]).1.contains("number of nights"));
    assert_eq!(run(0, &["pin", &all[0]]).0.split_whitespace().next(), Some("pinned"));
    assert!(run(0, &["snapshots"]).0.contains("complete, pinned"));
    let (out, _) = run(0, &["forget", "--all", "--dry-run"]);
    assert!(out.contains("keep_last 2, min_snapshots 1; by this machine's zone"), "{out}");
    assert!(out.contains("the newest complete one; last 1 of 2; minimum 1 of 1"), "{out}");
    assert!(out.contains(&format!("goes      {}", all[1])) && out.contains("newer ones have all the places"), "{out}");
    assert!(out.contains("no policy: everything is kept"), "the source that is not in the configuration: {out}");
    assert!(out.ends_with("result    4 stay, 1 goes; nothing was changed (dry run)\n"), "{out}");
    assert_eq!(ids(&["data"]), all);
    let (out, _) = run(0, &["--json", "forget", "data"]);
    let said: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((said["stay"].as_u64(), &said["forgotten"][0]), (Some(3), &serde_json::json!(all[1])), "{said}");
    let newest = &said["sources"][0]["snapshots"][0];
    assert_eq!((&newest["stays"], &newest["reasons"][1]["rule"]), (&true.into(), &"last".into()), "{newest}");
    assert_eq!(ids(&["data"]), [0, 2, 3].map(|n: usize| all[n].clone()));
    assert_eq!(ids(&["--forgotten"]), all[1..2]);
    assert!(run(0, &["forget", "data"]).0.ends_with("3 stay, 0 go; nothing was to be done\n"));
    assert!(run(2, &["forget", "--snapshot", &all[3]]).1.contains("is the newest complete one"));
    assert!(run(2, &["forget", "--snapshot", &all[0]]).1.contains("lifeboat unpin"));
    run(0, &["unpin", &all[0]]);
    assert!(run(0, &["forget", "--snapshot", &all[0]]).0.contains("named"));
    let (out, _) = run(0, &["forget", "data", "--keep-daily", "7", "--simulate", "90d"]);
    assert!(out.contains("daily") && out.contains("7 snapshots after 90 nights"), "{out}");
    let identity = ["--identity", "identity.txt"];
    let back = [&identity[..], &["restore", "data", "--snapshot", &all[1], "--into", "back"]].concat();
    assert!(run(0, &back).1.contains("is forgotten; what it needs is there only until"));
    config("[sources.data.retention]\nkeep_last = 0\n");
    assert!(run(2, &["forget", "data"]).1.contains("[sources.data.retention]: it keeps nothing at all"));
}
