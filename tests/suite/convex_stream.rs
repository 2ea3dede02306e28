//! The changes of a Convex deployment: taken as they happen, restored at any time among them, and cut where they tell less than the truth.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use deployment::{Deployment, Failure, Features, ImportFault, Options, StateAt, json};
use lifeboat::client::convex::{ImportMode, Rights, Uploading};
use lifeboat::format::convex::component_prefix;
use lifeboat::model::documents::{moment_of, time_of};
use lifeboat::ops;
use lifeboat::ops::backup::{BackupOptions, BackupReport, World, backup};
use lifeboat::ops::documents::{self, Around, FollowOptions, Heard, difference, gather, history};
use lifeboat::ops::restore::convex::{Wishes, verify, write_zip};
use lifeboat::plan::documents::{Aim, RunEnd};
use lifeboat::plan::restore::Wanted;
use lifeboat::progress::{Progress, Silent};
use lifeboat::repository::Repository;
use lifeboat::source::convex::{ConvexOptions, LaterFiles, resolve};
use object_store::ObjectStoreExt;

use crate::common::chance::{Chance, how_often};
use crate::common::convex::{ODD, Scene, assert_state, said, unzip, work};
use crate::common::pruned::{forget_on, options, prune_with};
use crate::common::world;

/// Longer than any of these takes; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(120);

/// A process that follows, and what it said.
pub struct Follower {
    stop: Arc<AtomicBool>,
    stored: Arc<AtomicI64>,
    pub heard: Arc<Mutex<Vec<String>>>,
    thread: Option<std::thread::JoinHandle<Result<(), String>>>,
}

/// Takes snapshots for a follower.
struct Taking(ConvexOptions);

impl documents::Snapshots for Taking {
    fn whole(&mut self, repository: &mut Repository) -> Result<serde_json::Value, ops::Error> {
        Ok(Scene::backup_into(self.0.clone(), repository, &today(), Arc::new(Silent))?.record.facts)
    }

    fn files(
        &mut self,
        repository: &mut Repository,
        source: &LaterFiles,
        name: &str,
    ) -> Result<Vec<String>, ops::Error> {
        let (options, silent): (_, Arc<dyn Progress>) = (BackupOptions::default(), Arc::new(Silent));
        let report = backup(source, name, repository, &options, &today(), &silent)?;
        Ok(report.skipped.into_iter().map(|(path, _)| path).collect())
    }
}

fn word(heard: &Heard) -> String {
    match heard {
        Heard::Following { .. } => "following".to_owned(),
        Heard::Stored { .. } => "stored".to_owned(),
        Heard::Cut { why } => format!("cut: {why}"),
        Heard::Files { new, lost } => format!("files: {new} new, {lost} lost"),
        Heard::FilesAway { why } => format!("files away: {why}"),
        Heard::Importing => "importing".to_owned(),
        Heard::Blind => "blind".to_owned(),
        Heard::NoChanges { why, .. } => format!("no changes: {why}"),
        Heard::Away { why } => format!("away: {why}"),
        Heard::Back => "back".to_owned(),
    }
}

pub fn follow_options(scene: &Scene) -> FollowOptions {
    FollowOptions {
        source: "app".to_owned(),
        tables: Vec::new(),
        exclude_tables: Vec::new(),
        folder: scene.path("follow"),
        interval: Duration::from_millis(1),
        heartbeat: Duration::from_secs(3600),
        export_every: Duration::from_millis(50),
        files_every: Some(Duration::ZERO),
    }
}

impl Follower {
    pub fn new(scene: &Scene) -> Self {
        Self::with(scene, follow_options(scene), scene.options())
    }

    pub fn with(scene: &Scene, options: FollowOptions, convex: ConvexOptions) -> Self {
        let (stop, stored) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI64::new(0)));
        let heard: Arc<Mutex<Vec<String>>> = Arc::default();
        let host = scene.host.second();
        let (told, ended, newest) = (Arc::clone(&heard), Arc::clone(&stop), Arc::clone(&stored));
        let thread = std::thread::spawn(move || -> Result<(), String> {
            let (mut repository, _) = host.open(None).map_err(|e| said(&e))?;
            let deployment = resolve(&convex, chrono::Utc::now(), Rights::Full, Arc::clone(&ended));
            let deployment = deployment.map_err(|e| said(&e))?;
            let mut taking = Taking(convex.clone());
            let mut hear = |heard: Heard| {
                if let Heard::Stored { to, .. } = heard {
                    newest.store(to, Ordering::SeqCst);
                }
                told.lock().unwrap().push(word(&heard));
            };
            let around = Around { clock: &chrono::Utc::now, stop: &ended, progress: &Silent };
            let done = documents::follow(&mut repository, &deployment, &options, &around, &mut taking, &mut hear);
            done.map_err(|e| said(&e))
        });
        Self { stop, stored, heard, thread: Some(thread) }
    }

    pub fn wait(&self, what: &str, is: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !is(self) {
            let over = self.thread.as_ref().is_none_or(std::thread::JoinHandle::is_finished);
            assert!(!over || is(self), "it ended before: {what}; {:?}", self.heard.lock().unwrap());
            let heard = || self.heard.lock().map(|all| all[all.len().saturating_sub(20)..].to_vec());
            assert!(began.elapsed() < PATIENCE, "waited for: {what}; {:?}", heard());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until everything that was committed is stored.
    pub fn level(&self, convex: &Deployment) {
        // Without a change there is nothing to store: one more makes that everything before it is.
        convex.insert("ticks", json("{}"));
        let latest = convex.latest();
        self.wait("everything is stored", |all| all.stored.load(Ordering::SeqCst) >= latest);
    }

    fn said(&self, begins: &str) -> usize {
        self.heard.lock().unwrap().iter().filter(|word| word.starts_with(begins)).count()
    }

    pub fn wait_said(&self, begins: &str, times: usize) {
        self.wait(begins, |all| all.said(begins) >= times);
    }

    pub fn end(mut self) -> Vec<String> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap().unwrap_or_else(|e| panic!("{e}"));
        self.heard.lock().unwrap().clone()
    }
}

/// The world with this machine's clock: times of changes and of snapshots are compared.
fn today() -> World {
    World { clock: Arc::new(chrono::Utc::now), ..world() }
}

/// A snapshot beside the changes.
pub fn back_up(scene: &Scene) -> BackupReport {
    let (mut repository, _) = scene.host.open(None).unwrap();
    Scene::backup_into(scene.options(), &mut repository, &today(), Arc::new(Silent)).unwrap()
}

/// The state without its files: those come from snapshots alone.
fn documents_at(convex: &Deployment, ts: i64) -> StateAt {
    let mut state = convex.state_at(ts);
    state.files.clear();
    state
}

pub fn assert_restores(scene: &Scene, ts: i64) {
    let wishes = Wishes { no_files: true, ..Wishes::default() };
    let (repository, restore) = scene.planned(&Wanted::At(moment_of(ts)), &wishes).unwrap();
    let archive = unzip(&write_zip(&repository, &restore, Vec::new(), &Silent).unwrap());
    let base = scene.convex.state_at(restore.facts.timestamp().unwrap());
    let mut state = documents_at(&scene.convex, ts);
    // The model makes a table a moment before its first document, and no change tells of a table without any.
    let is_told = |(component, table): &(String, String)| {
        archive.contains_key(&format!("{}{table}/documents.jsonl", component_prefix(component)))
    };
    state.tables.retain(|name, rows| !rows.is_empty() || base.tables.contains_key(name) || is_told(name));
    state.numbers.retain(|name, _| state.tables.contains_key(name));
    assert_state(&archive, &state);
    assert!(scene.work_is_empty());
}

fn import(scene: &Scene, archive: &[u8], mode: ImportMode) -> String {
    let client = resolve(&scene.options(), chrono::Utc::now(), Rights::Full, Arc::default()).unwrap();
    let path = scene.path("archive.zip");
    std::fs::write(&path, archive).unwrap();
    let file = std::fs::File::open(&path).unwrap();
    let sent = client.upload(&Uploading { file: &file, size: archive.len() as u64, mode, sent: &|_| () }).unwrap();
    loop {
        let state = client.import_state(&sent.import).unwrap();
        if matches!(state.phase, lifeboat::client::convex::ImportPhase::Waiting { .. }) {
            break;
        }
    }
    client.perform_import(&sent.import).unwrap();
    sent.import
}

#[test]
fn any_time_among_the_changes_is_restored_as_it_was() {
    for seed in 0..how_often("LIFEBOAT_STREAM_SEEDS", 3) {
        let mut chance = Chance::new(seed);
        let scene = Scene::with(Options { deltas_page: 7, ..Options::default() });
        let mut ids = Vec::new();
        work(&scene.convex, &mut chance, &mut ids, 60);
        scene.convex.insert("users", json(ODD));
        let follower = Follower::new(&scene);
        follower.wait_said("following", 1);
        let begun = scene.convex.latest();
        let mut times = vec![begun];
        for n in 0..30 {
            work(&scene.convex, &mut chance, &mut ids, 8);
            ids.push(scene.convex.insert(("late/inner", format!("made{}", n / 10).as_str()), json(ODD)));
            times.push(scene.convex.latest());
            if n == 12 {
                // A snapshot in the middle shortens the way.
                follower.level(&scene.convex);
                back_up(&scene);
            }
        }
        follower.level(&scene.convex);
        follower.end();
        for _ in 0..6 {
            let n = chance.below(times.len() as u64 - 1) as usize;
            let between = times[n] + chance.below((times[n + 1] - times[n]).max(1) as u64) as i64;
            for ts in [times[n], between] {
                assert_restores(&scene, ts);
            }
        }
        let (_, restore) = scene.planned(&Wanted::Latest, &Wishes::default()).unwrap();
        assert!(restore.plan.changes.is_some());
    }
}

#[test]
fn it_goes_on_where_it_stopped() {
    let scene = Scene::new();
    scene.convex.fill(40, 0);
    let mut times = Vec::new();
    for _ in 0..3 {
        let follower = Follower::new(&scene);
        follower.wait_said("following", 1);
        scene.convex.churn(30);
        times.push(scene.convex.latest());
        follower.level(&scene.convex);
        let heard = follower.end();
        // While nobody follows.
        scene.convex.churn(10);
        times.push(scene.convex.latest());
        assert!(heard.iter().filter(|word| word.starts_with("cut")).count() <= 1, "{heard:?}");
    }
    assert_eq!(scene.snapshots(), 1, "one snapshot is enough");
    let follower = Follower::new(&scene);
    follower.level(&scene.convex);
    follower.end();
    for ts in times {
        assert_restores(&scene, ts);
    }
    let (repository, _) = scene.host.open(Some(&scene.person)).unwrap();
    let found = gather(&repository, "app").unwrap().unwrap();
    assert_eq!((found.runs.len(), &found.runs[0].end), (1, &RunEnd::Newest));
}

#[test]
fn a_second_follower_is_refused() {
    let scene = Scene::new();
    let first = Follower::new(&scene);
    first.wait_said("following", 1);
    let mut second = Follower::new(&scene);
    let said = second.thread.take().unwrap().join().unwrap().unwrap_err();
    assert!(said.contains("another process follows"), "{said}");
    first.end();
}

#[test]
fn what_swaps_tables_cuts_the_history_and_both_sides_are_restored() {
    type Deed = fn(&Scene);
    let deeds: [(&str, Deed); 4] = [
        ("an import ended", |scene| {
            let archive = scene.zip_of(&Wanted::Latest, &Wishes { no_files: true, ..Wishes::default() });
            import(scene, &archive, ImportMode::Replace);
        }),
        ("table `gone` was dropped", |scene| assert!(scene.convex.delete_table("gone"))),
        ("the server did `clear_tables`", |scene| {
            assert!(scene.convex.clear_table("gone"));
        }),
        ("an import ended", |scene| {
            scene.convex.faults().set_import(ImportFault::Fails("no".to_owned()));
            let archive = scene.zip_of(&Wanted::Latest, &Wishes { no_files: true, ..Wishes::default() });
            import(scene, &archive, ImportMode::Replace);
        }),
    ];
    for (why, deed) in deeds {
        let scene = Scene::new();
        scene.convex.fill(30, 0);
        scene.convex.insert("gone", json(ODD));
        let follower = Follower::new(&scene);
        follower.wait_said("following", 1);
        scene.convex.churn(20);
        follower.level(&scene.convex);
        let before = scene.convex.latest();
        deed(&scene);
        // The next change shows it.
        scene.convex.insert("ticks", json("{}"));
        follower.wait_said("following", 2);
        scene.convex.churn(20);
        follower.level(&scene.convex);
        let after = scene.convex.latest();
        let heard = follower.end();
        // An import is seen in one list or in the other first.
        let fits = |told: &str| told.starts_with(why) || why.contains("import") && told.contains("snapshot_import");
        assert!(heard.iter().filter_map(|word| word.strip_prefix("cut: ")).any(fits), "{why}: {heard:?}");
        assert_restores(&scene, before);
        assert_restores(&scene, after);
        let (repository, _) = scene.host.open(Some(&scene.person)).unwrap();
        let found = gather(&repository, "app").unwrap().unwrap();
        assert!(matches!(&found.runs[0].end, RunEnd::Cut { why: told } if fits(told)), "{:?}", found.runs);
    }
}

#[test]
fn while_an_import_writes_nothing_of_it_is_taken() {
    let scene = Scene::new();
    scene.convex.fill(30, 0);
    let follower = Follower::new(&scene);
    follower.wait_said("following", 1);
    follower.level(&scene.convex);
    let before = scene.convex.latest();
    scene.convex.faults().set_import(ImportFault::StaysInProgress);
    let archive = scene.zip_of(&Wanted::Latest, &Wishes { no_files: true, ..Wishes::default() });
    import(&scene, &archive, ImportMode::Replace);
    scene.convex.insert("ticks", json("{}"));
    follower.wait_said("importing", 1);
    assert_restores(&scene, before);
    scene.convex.faults().set_import(ImportFault::Fails("given up".to_owned()));
    follower.wait_said("following", 2);
    follower.level(&scene.convex);
    let after = scene.convex.latest();
    assert_eq!(follower.said("importing"), 1, "once, however long it takes");
    follower.end();
    assert_restores(&scene, after);
}

#[test]
fn a_deployment_that_went_back_or_forgot_begins_anew() {
    type Deed = fn(&Scene);
    let deeds: [(&str, Deed); 2] = [
        ("the deployment went back", |scene| scene.convex.faults().set_cursor_back(1_000_000)),
        ("the server does not keep changes for so long", |scene| scene.convex.forget_before(scene.convex.latest())),
    ];
    for (why, deed) in deeds {
        let scene = Scene::new();
        scene.convex.fill(20, 0);
        let follower = Follower::new(&scene);
        follower.wait_said("following", 1);
        follower.level(&scene.convex);
        let before = scene.convex.latest();
        follower.end();
        scene.convex.churn(10);
        deed(&scene);
        let follower = Follower::new(&scene);
        follower.wait_said(&format!("cut: {why}"), 1);
        scene.convex.faults().set_cursor_back(0);
        follower.wait_said("following", 2);
        follower.level(&scene.convex);
        let after = scene.convex.latest();
        follower.end();
        assert_restores(&scene, before);
        assert_restores(&scene, after);
    }
}

/// As after a restore of the server's own volume: nothing but the missing revision tells, as the clock is later.
#[test]
fn another_history_under_the_same_name_is_noticed() {
    let scene = Scene::new();
    scene.convex.fill(20, 0);
    let follower = Follower::new(&scene);
    follower.wait_said("following", 1);
    follower.level(&scene.convex);
    let before = scene.convex.latest();
    follower.end();
    let other = Deployment::start(Options::default()).unwrap();
    other.fill(15, 0);
    other.insert("users", json(ODD));
    assert!(other.latest() > before);
    let convex = ConvexOptions { url: Some(other.url()), ..scene.options() };
    let follower = Follower::with(&scene, follow_options(&scene), convex);
    follower.wait_said("cut: the deployment went back", 1);
    follower.wait_said("following", 2);
    follower.level(&other);
    let after = other.latest();
    follower.end();
    assert_restores(&scene, before);
    let wishes = Wishes { no_files: true, ..Wishes::default() };
    let bytes = scene.zip_of(&Wanted::At(moment_of(after)), &wishes);
    assert_state(&unzip(&bytes), &documents_at(&other, after));
}

#[test]
fn what_lies_far_behind_comes_by_data_sync() {
    let scene = Scene::with(Options { deltas_page: 5, data_sync_page: 50, ..Options::default() });
    scene.convex.fill(20, 0);
    let follower = Follower::new(&scene);
    follower.wait_said("following", 1);
    follower.level(&scene.convex);
    follower.end();
    assert_eq!(
        scene.convex.faults().count("POST /api/v1/data/sync"),
        0,
        "it writes a row: only for what lies far behind"
    );
    scene.convex.churn(300);
    scene.convex.insert("brand_new", json(ODD));
    scene.convex.churn(300);
    let follower = Follower::new(&scene);
    follower.level(&scene.convex);
    let latest = scene.convex.latest();
    follower.end();
    assert!(scene.convex.faults().count("POST /api/v1/data/sync") > 3);
    assert_restores(&scene, latest);
}

#[test]
fn an_old_backend_is_backed_up_by_snapshots_and_that_is_said() {
    let scene = Scene::with(Options { features: Features::early_2026(), ..Options::default() });
    scene.convex.fill(10, 0);
    let follower = Follower::new(&scene);
    follower.wait("two snapshots", |_| scene.snapshots() >= 2);
    let heard = follower.end();
    assert!(heard[0].starts_with("no changes: it does not know the format"), "{heard:?}");
}

#[test]
fn a_deployment_that_is_away_is_waited_for() {
    let scene = Scene::new();
    scene.convex.fill(10, 0);
    let follower = Follower::new(&scene);
    follower.wait_said("following", 1);
    follower.level(&scene.convex);
    scene.convex.faults().fail("POST /api/document_deltas", Failure::Drop, 12);
    follower.wait_said("away", 1);
    follower.wait_said("back", 1);
    scene.convex.churn(10);
    follower.level(&scene.convex);
    let latest = scene.convex.latest();
    let heard = follower.end();
    assert_eq!(heard.iter().filter(|word| word.starts_with("cut")).count(), 1, "{heard:?}");
    assert_restores(&scene, latest);
}

#[test]
fn a_lost_segment_is_a_gap_and_never_jumped() {
    let scene = Scene::new();
    scene.convex.fill(10, 0);
    let follower = Follower::new(&scene);
    follower.wait_said("following", 1);
    let mut times = Vec::new();
    for _ in 0..4 {
        follower.level(&scene.convex);
        times.push(scene.convex.latest());
    }
    follower.end();
    let found = {
        let (repository, _) = scene.host.open(Some(&scene.person)).unwrap();
        gather(&repository, "app").unwrap().unwrap()
    };
    let way = found.way(Aim::At(times[3])).unwrap();
    let segments = found.segments(&way);
    let lost = segments[segments.len() / 2];
    let key = format!("writers/{}/{}", found.writer, lost.place.key(&lost.digest));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(scene.host.objects.delete(&object_store::path::Path::from(key.as_str()))).unwrap();
    let (repository, _) = scene.host.open(Some(&scene.person)).unwrap();
    let found = gather(&repository, "app").unwrap().unwrap();
    assert_eq!(found.missing.len(), 1);
    assert!(matches!(found.runs[0].end, RunEnd::Gap { .. }));
    let way = found.way(Aim::At(times[3])).unwrap();
    assert!(way.to < times[3], "the nearest before the gap");
    drop(repository);
    assert_restores(&scene, way.to);
    // A snapshot behind it is nearer.
    let behind = scene.convex.latest();
    back_up(&scene);
    let (_, restore) = scene.planned(&Wanted::At(chrono::Utc::now()), &Wishes::default()).unwrap();
    assert_eq!(
        (restore.plan.changes.is_some(), restore.plan.start_ts.parse::<i64>().unwrap() >= behind),
        (false, true)
    );
}

#[test]
fn differences_and_histories_are_those_of_the_model() {
    let scene = Scene::new();
    let mut chance = Chance::new(11);
    let mut ids = Vec::new();
    work(&scene.convex, &mut chance, &mut ids, 80);
    let kept = scene.convex.insert("users", json(r#"{"n":1}"#));
    let follower = Follower::new(&scene);
    follower.wait_said("following", 1);
    work(&scene.convex, &mut chance, &mut ids, 60);
    let from = scene.convex.latest();
    work(&scene.convex, &mut chance, &mut ids, 60);
    assert!(scene.convex.patch(&kept, json(r#"{"n":2}"#)));
    assert!(scene.convex.delete(&kept));
    let to = scene.convex.latest();
    follower.level(&scene.convex);
    follower.end();
    let (repository, _) = scene.host.open(Some(&scene.person)).unwrap();
    let found = gather(&repository, "app").unwrap().unwrap();
    let mut seen = std::collections::BTreeMap::new();
    let work_dir = scene.path("work");
    let all = |_: &str, _: &str| true;
    difference(&repository, &found, (from, to), &all, &work_dir, &Silent, &mut |one| {
        seen.insert((one.component, one.table, one.id), (one.before, one.after));
        Ok(())
    })
    .unwrap();
    let flat = |ts: i64| -> std::collections::BTreeMap<_, String> {
        let state = documents_at(&scene.convex, ts);
        let rows = state.tables.into_iter().flat_map(|((component, table), rows)| {
            rows.into_iter().map(move |(id, line)| ((component.clone(), table.clone(), id), line.to_string()))
        });
        rows.collect()
    };
    let (before, after) = (flat(from), flat(to));
    let keys: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).cloned().collect();
    let expected: std::collections::BTreeMap<_, _> = keys
        .into_iter()
        .map(|key| (key.clone(), (before.get(&key).cloned(), after.get(&key).cloned())))
        .filter(|(_, (before, after))| before != after)
        .collect();
    assert_eq!(seen, expected);
    let revisions = history(&repository, &found, &kept, &Silent).unwrap();
    let told: Vec<(bool, Option<bool>)> =
        revisions.iter().map(|one| (one.of_snapshot, one.line.as_ref().map(|line| line.contains("\"n\":2")))).collect();
    assert_eq!(told, [(true, Some(false)), (false, Some(true)), (false, None)]);
    let error = difference(&repository, &found, (1, to), &all, &work_dir, &Silent, &mut |_| Ok(())).unwrap_err();
    assert!(matches!(error, ops::Error::Stream(documents::StreamError::NotReached { .. })), "{error}");
}

#[test]
fn a_time_among_the_changes_goes_into_another_deployment() {
    let scene = Scene::new();
    let (mut chance, mut ids) = (Chance::new(5), Vec::new());
    work(&scene.convex, &mut chance, &mut ids, 60);
    let follower = Follower::new(&scene);
    follower.wait_said("following", 1);
    work(&scene.convex, &mut chance, &mut ids, 60);
    scene.convex.insert("brand_new", json(ODD));
    let wanted = scene.convex.latest();
    work(&scene.convex, &mut chance, &mut ids, 60);
    follower.level(&scene.convex);
    follower.end();
    back_up(&scene);
    let other = Scene::new();
    let (repository, restore) = scene.planned(&Wanted::At(moment_of(wanted)), &Wishes::default()).unwrap();
    let archive = lifeboat::ops::restore::convex::write_zip(&repository, &restore, Vec::new(), &Silent).unwrap();
    let files = restore.plan.files;
    assert!(files > 0 && restore.plan.files_until.is_some(), "files come from a later snapshot");
    let id = import(&other, &archive, ImportMode::RequireEmpty);
    let client = resolve(&other.options(), chrono::Utc::now(), Rights::Full, Arc::default()).unwrap();
    while !matches!(client.import_state(&id).unwrap().phase, lifeboat::client::convex::ImportPhase::Completed { .. }) {}
    let found = verify(&repository, &restore, &client, Some(&scene.path("work")), &Silent).unwrap();
    assert!(found.is_equal(), "{found:?}");
    let lines = |convex: &Deployment, ts: i64| documents_at(convex, ts).tables;
    assert_eq!(lines(&other.convex, i64::MAX), lines(&scene.convex, wanted));
    other.convex.insert("brand_new", json("{}"));
    let found = verify(&repository, &restore, &client, Some(&scene.path("work")), &Silent).unwrap();
    assert_eq!(found.differences.len(), 1);
}

#[test]
fn other_tables_are_another_history() {
    let scene = Scene::new();
    scene.convex.fill(10, 0);
    let follow = |exclude: &[&str]| {
        let mut options = follow_options(&scene);
        options.exclude_tables = exclude.iter().map(|table| (*table).to_owned()).collect();
        let follower = Follower::with(&scene, options, scene.options());
        follower.wait_said("following", 1);
        follower.level(&scene.convex);
        follower.end()
    };
    let cuts = |heard: Vec<String>| heard.iter().filter(|word| word.starts_with("cut: other tables")).count();
    follow(&["users"]);
    assert_eq!(cuts(follow(&["users"])), 0);
    assert_eq!(cuts(follow(&[])), 1);
    assert_restores(&scene, scene.convex.latest());
}

#[test]
fn without_its_memory_it_takes_a_new_snapshot() {
    let scene = Scene::new();
    scene.convex.fill(10, 0);
    let follower = Follower::new(&scene);
    follower.wait_said("following", 1);
    follower.level(&scene.convex);
    follower.end();
    let folder = scene.path("follow");
    let stream = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    std::fs::remove_file(Path::new(&stream).join("memory.json")).unwrap();
    let follower = Follower::new(&scene);
    follower.wait_said("cut: this host does not remember", 1);
    follower.wait_said("following", 1);
    follower.level(&scene.convex);
    follower.end();
    assert_eq!(scene.snapshots(), 2);
    assert_restores(&scene, time_of(moment_of(scene.convex.latest())));
}

#[test]
fn what_no_snapshot_needs_any_more_is_pruned_and_the_rest_restores() {
    let scene = Scene::new();
    scene.convex.fill(20, 0);
    let follower = Follower::new(&scene);
    follower.wait_said("following", 1);
    let mut times = Vec::new();
    for _ in 0..3 {
        follower.level(&scene.convex);
        times.push(scene.convex.latest());
        back_up(&scene);
    }
    follower.level(&scene.convex);
    times.push(scene.convex.latest());
    follower.end();
    let segments = || {
        let (repository, _) = scene.host.open(None).unwrap();
        let found = gather(&repository, "app").unwrap().unwrap();
        (found.pieces.len(), found.missing.len(), found.runs.clone())
    };
    let all = segments().0;
    prune_with(&scene.host, &options(1.0, 0)).unwrap();
    assert_eq!(segments().0, all, "the first snapshot leads into all of them");
    let oldest = {
        let mut ids = scene.host.snapshots();
        ids.sort();
        ids[0].clone()
    };
    forget_on(&scene.host, &[oldest]);
    let report = prune_with(&scene.host, &options(1.0, 0)).unwrap();
    let (left, missing, runs) = segments();
    assert!(left < all && report.segments_retired as usize == all - left, "{left} of {all}, {report:?}");
    assert_eq!((missing, runs.len(), &runs[0].end), (0, 1, &RunEnd::Newest), "what a prune took is no loss");
    assert_restores(&scene, times[1]);
    assert_restores(&scene, times[3]);
    let (_, restore) = scene.planned(&Wanted::Latest, &Wishes::default()).unwrap();
    assert!(restore.plan.changes.is_some());
    let follower = Follower::new(&scene);
    follower.wait_said("following", 1);
    follower.level(&scene.convex);
    let latest = scene.convex.latest();
    assert_eq!(follower.end().iter().filter(|word| word.starts_with("cut")).count(), 0);
    assert_restores(&scene, latest);
}
