//! Copies: everything restores from there too, what is there is not sent again, and neither side can harm the other.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use lifeboat::ops;
use lifeboat::ops::Kind;
use lifeboat::ops::backup::{BackupOptions, World};
use lifeboat::ops::check::{ReadData, check};
use lifeboat::ops::copy::{CopyError, CopyOptions, CopyReport, plan};
use lifeboat::ops::forget;
use lifeboat::progress::{Progress, Silent};
use lifeboat::repository::{self, Keys, OpenOptions, Repository};
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use serde_json::Value;

use crate::common::chance::{Chance, how_often, seeds};
use crate::common::clocked::Clocked;
use crate::common::faulty::{Fails, Faulty};
use crate::common::kill::Aim;
use crate::common::pruned::{Nights, TONIGHT, forget_on, prune_on};
use crate::common::{Host, Person, clock, tree, world};

/// The same host, at the copy.
fn at(host: &Host, there: &Clocked) -> Host {
    Host { objects: Arc::new(there.clone()), ..host.second() }
}

fn make_copy(host: &Host, person: &Person, there: &Host) {
    let recipients = [person.recipient.parse().unwrap()];
    host.open(None).unwrap().0.make_copy(&there.store(), &there.options(&recipients)).unwrap();
}

fn copy_as(from: &Host, reads: Option<&Person>, there: &Host, wish: &CopyOptions) -> Result<CopyReport, ops::Error> {
    let (mut first, _) = from.open(reads)?;
    let (mut second, _) = there.open(reads)?;
    first.check_copy(&second)?;
    let run = second.begin_copies(clock()(), &Silent)?.expect("nobody else copies");
    let plan = plan(&mut first, &mut second, wish, clock()())?;
    let progress: Arc<dyn Progress> = Arc::new(Silent);
    let report = ops::copy::copy(&mut first, &mut second, plan, &clock(), &progress)?;
    second.end_copies(run)?;
    Ok(report)
}

pub fn copy(from: &Host, there: &Host) -> Result<CopyReport, ops::Error> {
    copy_as(from, None, there, &CopyOptions::default())
}

fn scene(nights: usize) -> (Nights, Vec<String>, Clocked, Host) {
    let mut scene = Nights::new();
    let ids = scene.nights(nights);
    let there = Clocked::new();
    let host = at(&scene.host, &there);
    make_copy(&scene.host, &scene.person, &host);
    (scene, ids, there, host)
}

#[test]
fn everything_restores_from_the_copy_and_what_is_there_is_not_sent_again() {
    let (mut scene, ids, there, second) = scene(3);
    let first = copy(&scene.host, &second).unwrap();
    assert!(first.is_whole() && first.there == 3 && first.snapshots.len() == 3, "{first:?}");
    assert!(first.snapshots[1].there > 0 && first.snapshots[1].frames > 0, "{first:?}");
    scene.holds(&second, &ids);
    // A machine that has seen nothing, with the identity alone.
    scene.restores(&Host::new(Arc::new(there.clone())), &ids);
    let frames = |host: &Host| host.stats().stored_bytes;
    assert!(frames(&second).abs_diff(frames(&scene.host)) < 20_000);

    there.take_requests();
    let objects = there.keys("");
    let idle = copy(&scene.host, &second).unwrap();
    assert_eq!((idle.snapshots.len(), idle.stored, idle.there), (0, 0, 3), "{idle:?}");
    assert_eq!(there.keys(""), objects, "nothing is written");
    assert!(there.take_requests() < 12);

    let more = scene.night();
    let next = copy(&scene.host, &second).unwrap();
    assert_eq!(next.snapshots.len(), 1, "{next:?}");
    assert!(next.snapshots[0].there >= 2 && next.stored < TONIGHT as u64 + 50_000, "{next:?}");
    scene.holds(&second, &[ids, vec![more]].concat());
    assert_eq!((scene.store.take_deleted(), there.take_deleted()), (vec![], vec![]));
}

#[test]
fn neither_side_forgets_for_the_other() {
    let (scene, ids, there, second) = scene(3);
    copy(&scene.host, &second).unwrap();
    // Here everything but the newest goes, bytes and all.
    forget_on(&scene.host, &ids[..2]);
    for _ in 0..3 {
        prune_on(&scene.host).unwrap();
        scene.store.advance(25);
    }
    assert!(!scene.store.take_deleted().is_empty());
    assert_eq!(copy(&scene.host, &second).unwrap().there, 1);
    scene.holds(&second, &ids);
    // There the newest but one goes, and does not come back.
    forget_on(&second, &ids[1..2]);
    for _ in 0..3 {
        prune_on(&second).unwrap();
        there.advance(25);
    }
    assert!(!there.take_deleted().is_empty());
    let again = copy(&scene.host, &second).unwrap();
    assert_eq!(again.snapshots.len(), 0, "{again:?}");
    let left = [ids[0].clone(), ids[2].clone()];
    scene.holds(&second, &left);
    scene.holds(&scene.host, &ids[2..]);
}

#[test]
fn what_the_copys_policy_forgot_stays_forgotten() {
    let (scene, ids, _, second) = scene(3);
    copy(&scene.host, &second).unwrap();
    forget_on(&second, &ids[..1]);
    let again = copy(&scene.host, &second).unwrap();
    assert_eq!((again.snapshots.len(), again.there), (0, 2), "{again:?}");
    scene.restores(&second, &ids[1..]);
    scene.restores(&scene.host, &ids);
}

#[test]
fn the_copy_thins_by_when_the_first_store_received_them() {
    let (mut scene, _, there, second) = scene(0);
    let mut ids = Vec::new();
    for day in 0..5 {
        scene.change();
        // The host's clock and the store's agree, or nothing would be thinned.
        let now = "2026-01-01T00:00:00Z".parse::<lifeboat::model::Moment>().unwrap() + chrono::TimeDelta::days(day);
        let world = World { clock: Arc::new(move || now), ..world() };
        let report = scene.host.backup_in(scene.source.path(), "data", &BackupOptions::default(), &world).unwrap();
        ids.push(report.record.id.to_string());
        scene.store.advance(24);
    }
    // All of them arrive there in one hour, a month later.
    there.advance(24 * 30);
    copy(&scene.host, &second).unwrap();
    let received = |host: &Host| {
        let (repository, _) = host.open(None).unwrap();
        repository.catalog().snapshots().unwrap().into_iter().map(|s| s.received).collect::<Vec<_>>()
    };
    assert_eq!(received(&second), received(&scene.host));
    assert!(received(&second)[0] != received(&second)[4]);
    let (mut repository, _) = second.open(None).unwrap();
    let policy = lifeboat::model::Retention { keep_daily: Some(3), ..Default::default() };
    let wish = forget::Wish { source: "data".to_owned(), policy: Some(policy) };
    let plans = forget::plan(&mut repository, &[wish], &[]).unwrap();
    let stay = plans[0].verdicts.iter().filter(|verdict| verdict.goes.is_none());
    let stays: Vec<String> = stay.map(|verdict| verdict.fact.id.to_string()).collect();
    assert_eq!(stays.len(), 3, "three days, not the one of their arrival: {stays:?}");
    assert!(ids[2..].iter().all(|id| stays.contains(id)));
}

#[test]
fn it_may_stop_anywhere_and_goes_on() {
    let (scene, ids, _, _) = scene(2);
    for fails in [Fails::Before, Fails::After] {
        let (mut n, mut stopped) = (1, 0);
        loop {
            let there = Clocked::new();
            let second = Host { state: Arc::new(tempfile::tempdir().unwrap()), ..at(&scene.host, &there) };
            // A state directory of its own for each try, with the keys of the first host in it.
            crate::common::copy_tree(scene.host.state.path(), second.state.path());
            make_copy(&scene.host, &scene.person, &second);
            let faulty: Arc<dyn ObjectStore> = Faulty::new(Arc::new(there.clone()), n, fails);
            let broken = Host { objects: faulty, ..second.second() };
            let done = copy(&scene.host, &broken);
            let whole = done.is_ok();
            stopped += u64::from(!whole);
            let listed = second.snapshots_with(&scene.person);
            scene.restores(&second, &listed);
            let again = copy(&scene.host, &second).unwrap();
            assert_eq!(again.snapshots.len(), 2 - listed.len(), "{again:?}");
            scene.sound(&second, &ids);
            if whole {
                break;
            }
            n += 1;
        }
        assert!(stopped > 5, "{stopped}");
    }
}

#[test]
fn a_damaged_frame_costs_its_snapshots_alone() {
    let (scene, ids, _, second) = scene(3);
    copy(&scene.host, &second).unwrap();
    let (mut scene, mut ids) = (scene, ids);
    let before = scene.store.keys("/packs/");
    ids.push(scene.night());
    let fresh: Vec<String> = scene.store.keys("/packs/").into_iter().filter(|key| !before.contains(key)).collect();
    let mut body = scene.store.remove(&fresh[0]).to_vec();
    let middle = body.len() / 3;
    body[middle] ^= 1;
    scene.store.put_there(&fresh[0], body.into());
    let done = copy(&scene.host, &second).unwrap();
    assert!(!done.is_whole() && done.there == 3, "{done:?}");
    assert!(done.snapshots[0].failed.as_deref().is_some_and(|why| why.contains("sum")), "{done:?}");
    // The next night stores anew what is damaged, and goes over whole.
    let good = scene.night();
    let done = copy(&scene.host, &second).unwrap();
    assert_eq!(done.snapshots.iter().filter(|s| s.failed.is_none()).count(), 1, "{done:?}");
    scene.sound(&second, &[ids[..3].to_vec(), vec![good]].concat());
}

#[test]
fn what_a_prune_moved_since_the_log_was_read_is_found() {
    let (scene, ids, _, _) = scene(3);
    // A person with an identity copies; what that machine knows of the log is a day old.
    let (reader, there) = (scene.reader(), Clocked::new());
    let second = at(&reader, &there);
    let (mut first, _) = reader.open(Some(&scene.person)).unwrap();
    let recipients = [scene.person.recipient.parse().unwrap()];
    first.make_copy(&second.store(), &second.options(&recipients)).unwrap();
    let writer = scene.host.open(None).unwrap().0.host().unwrap().name.clone();
    let wish = CopyOptions { writer: Some(writer), ..CopyOptions::default() };
    let (mut copied, _) = second.open(Some(&scene.person)).unwrap();
    let run = copied.begin_copies(clock()(), &Silent).unwrap().unwrap();
    assert!(second.open(Some(&scene.person)).unwrap().0.begin_copies(clock()(), &Silent).unwrap().is_none());
    let plan = plan(&mut first, &mut copied, &wish, clock()()).unwrap();
    forget_on(&scene.host, &ids[..1]);
    for _ in 0..3 {
        prune_on(&scene.host).unwrap();
        scene.store.advance(25);
    }
    assert!(!scene.store.take_deleted().is_empty());
    let progress: Arc<dyn Progress> = Arc::new(Silent);
    let done = ops::copy::copy(&mut first, &mut copied, plan, &clock(), &progress).unwrap();
    let good: Vec<bool> = done.snapshots.iter().map(|s| s.failed.is_none()).collect();
    assert_eq!(good, [false, true, true], "what was forgotten and freed is named, the others were found: {done:?}");
    copied.end_copies(run).unwrap();
    drop((first, copied));
    scene.sound(&second, &ids[1..]);
}

#[test]
fn what_is_no_copy_is_refused() {
    let (scene, _, _, second) = scene(1);
    let refused = |from: &Host, to: &Host| copy(from, to).unwrap_err();
    let itself = refused(&scene.host, &scene.host.second());
    assert!(itself.to_string().contains("this repository itself") && itself.kind() == Kind::Usage, "{itself}");
    let stranger = Host::new(Arc::new(Clocked::new()));
    stranger.init(&scene.person);
    assert!(refused(&scene.host, &stranger).to_string().contains("its secret is another"));
    // Made for somebody else.
    let evil = Person::new();
    let other = at(&scene.host, &Clocked::new());
    make_copy(&scene.host, &evil, &other);
    let error = refused(&scene.host, &other);
    assert!(matches!(error, ops::Error::Repository(repository::Error::CopyRecipients(_))), "{error}");
    // A second one where there is one.
    let recipients = [scene.person.recipient.parse().unwrap()];
    let (repository, _) = scene.host.open(None).unwrap();
    let again = repository.make_copy(&second.store(), &second.options(&recipients)).unwrap_err();
    assert!(matches!(again, repository::Error::Exists(_)), "{again}");
    let wish = CopyOptions { sources: vec!["nothing".into()], writer: None };
    let error = copy_as(&scene.host, None, &second, &wish).unwrap_err();
    assert!(matches!(error, ops::Error::Copy(CopyError::NoSource { .. })), "{error}");
}

#[test]
fn a_source_of_the_copy_comes_from_one_writer() {
    let (scene, ids, _, second) = scene(1);
    copy(&scene.host, &second).unwrap();
    let other = Host::new(Arc::clone(&scene.host.objects));
    other.join(&scene.person).unwrap();
    other.backup(scene.source.path()).unwrap();
    let writer = other.open(None).unwrap().0.host().unwrap().name.clone();
    let wish = CopyOptions { sources: Vec::new(), writer: Some(writer) };
    let report = copy_as(&scene.host, Some(&scene.person), &second, &wish).unwrap();
    let why = report.snapshots[0].failed.as_deref().unwrap();
    assert!(why.contains("source `data` already") && report.snapshots.len() == 1 && !report.is_whole(), "{report:?}");
    scene.restores(&second, &ids);
    // This host's own go on.
    let mut scene = scene;
    let more = scene.night();
    assert!(copy(&scene.host, &second).unwrap().is_whole());
    scene.restores(&second, &[ids, vec![more]].concat());
}

#[test]
fn what_another_host_took_there_is_there() {
    let (mut scene, ids, _, second) = scene(2);
    copy(&scene.host, &second).unwrap();
    let more = scene.night();
    // This host is lost. Another one joins both, and takes over what was not copied yet.
    let writer = scene.host.open(None).unwrap().0.host().unwrap().name.clone();
    let (other, there) = (Host::new(Arc::clone(&scene.host.objects)), Host::new(Arc::clone(&second.objects)));
    let there = Host { state: Arc::clone(&other.state), ..there };
    other.join(&scene.person).unwrap();
    there.join(&scene.person).unwrap();
    let wish = CopyOptions { sources: Vec::new(), writer: Some(writer) };
    let report = copy_as(&other, Some(&scene.person), &there, &wish).unwrap();
    assert_eq!((report.snapshots.len(), report.there), (1, 3), "{report:?}");
    assert_eq!(copy_as(&other, Some(&scene.person), &there, &wish).unwrap().snapshots.len(), 0);
    prune_on(&there).unwrap();
    let (repository, _) = there.open(Some(&scene.person)).unwrap();
    let all: Vec<String> = repository.catalog().snapshots().unwrap().iter().map(|s| s.record.id.to_string()).collect();
    assert_eq!(all, [ids, vec![more]].concat());
}

#[test]
fn a_snapshot_of_which_a_part_is_lost_is_named_and_not_taken_for_whole() {
    let (mut scene, ids, _, second) = scene(2);
    let first = scene.store.keys("/log/").into_iter().next().unwrap();
    scene.store.remove(&first);
    scene.host.open(None).unwrap().0.rebuild_catalog(&Silent).unwrap();
    let report = copy(&scene.host, &second).unwrap();
    let failed: Vec<_> = report.snapshots.iter().map(|s| (s.id.to_string(), s.failed.is_some())).collect();
    assert_eq!((failed, report.there), (vec![(ids[1].clone(), true)], 0), "{report:?}");
    assert_eq!(second.snapshots(), Vec::<String>::new());
    // The next backup stores anew what is not known any more, and goes over whole.
    let more = scene.night();
    let report = copy(&scene.host, &second).unwrap();
    assert_eq!((report.there, report.is_whole()), (1, false), "{report:?}");
    scene.restores(&second, &[more]);
}

#[test]
fn what_the_copy_lost_is_sent_again() {
    let (scene, ids, there, second) = scene(2);
    copy(&scene.host, &second).unwrap();
    let lost = there.keys("/packs/").into_iter().next().unwrap();
    there.remove(&lost);
    // Found by whoever lists or checks.
    let (mut repository, problems) = second.open(None).unwrap();
    let report = check(&mut repository, ReadData::No, &problems, clock()(), 1, &Silent).unwrap();
    assert!(!report.is_clean());
    drop(repository);
    let again = copy(&scene.host, &second).unwrap();
    assert!(again.is_whole() && again.snapshots.iter().any(|s| s.frames > 0), "{again:?}");
    scene.restores(&second, &ids);
    scene.restores(&Host::new(Arc::new(there.clone())), &ids);
}

/// Opens as a machine that has seen nothing, with pins.
fn open_pinned(host: &Host, person: &Person, pin: String) -> Result<(), repository::Error> {
    let state = tempfile::tempdir().unwrap();
    let keys = Keys { identities: person.identities(), fingerprints: vec![pin] };
    let options = OpenOptions { state: state.path(), catalog: None, keys, sync: true, keeper_of: None };
    Repository::open(host.store(), options, &Silent).map(drop)
}

#[test]
fn a_pin_of_the_repository_counts_for_its_copy_and_for_no_forged_one() {
    let (scene, _, there, second) = scene(1);
    copy(&scene.host, &second).unwrap();
    let pin = scene.host.open(None).unwrap().0.fingerprint().to_string();
    open_pinned(&second, &scene.person, pin.clone()).unwrap();
    open_pinned(&second, &scene.person, second.open(None).unwrap().0.fingerprint().to_string()).unwrap();
    open_pinned(&second, &scene.person, "00".repeat(32)).unwrap_err();

    // Somebody makes a repository for the same person, and says that it is a copy.
    let forged = Clocked::new();
    let evil = Host::new(Arc::new(forged.clone()));
    evil.init(&scene.person);
    let origin = there.remove("origin.json");
    forged.put_there("origin.json", origin.clone());
    let error = open_pinned(&evil, &scene.person, pin.clone()).unwrap_err();
    assert!(matches!(error, repository::Error::Fingerprint { .. }), "{error}");
    // And with the commitment of the true one.
    let text = String::from_utf8(forged.remove("lifeboat.json").to_vec()).unwrap();
    let value = |text: &str| serde_json::from_str::<Value>(text).unwrap()["secret_commitment"].clone();
    let truth = value(std::str::from_utf8(&origin).unwrap());
    let lie = text.replace(value(&text).as_str().unwrap(), truth.as_str().unwrap());
    assert_ne!(lie, text);
    forged.put_there("lifeboat.json", lie.into_bytes().into());
    assert!(open_pinned(&evil, &scene.person, pin).is_err());
}

/// A place for the real program.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        tree::make(&place.path("data"), 5);
        fs::write(place.path("data/large"), tree::noise(3_000_000, 1)).unwrap();
        place.run(0, &["--repo", "repo", "init", "--generate-identity", "id"]);
        place.configure("");
        place
    }

    fn configure(&self, rules: &str) {
        let data = self.path("data");
        let text = format!(
            "[repository]\nurl = \"repo\"\nidentity_file = \"id\"\n[sources.data]\nkind = \"volume\"\npath = \"{}\"\n{rules}",
            data.display()
        );
        fs::write(self.path("lifeboat.toml"), text).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
        command.env_clear().env("HOME", self.0.path()).env("TZ", "UTC").env("PATH", std::env::var_os("PATH").unwrap());
        command.env("XDG_STATE_HOME", self.path("state")).current_dir(self.0.path()).args(args);
        command
    }

    fn run(&self, code: i32, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{args:?}\n{said}");
        said
    }
}

#[test]
fn a_copy_of_the_configuration_follows_every_backup_and_says_how_it_stands() {
    let place = Place::new();
    assert!(place.run(2, &["copy"]).contains("nowhere to copy to"));
    assert!(place.run(10, &["copy", "--to", "second"]).contains("--create"));
    assert!(!place.path("second").exists(), "an unmounted disk is not filled");
    place.configure("[copies.offsite]\nurl = \"second\"\n");
    let status: Value = serde_json::from_str(&place.run(21, &["--json", "status"])).unwrap();
    assert_eq!(status["copies"][0]["state"], "warning", "{status}");
    let said = place.run(3, &["backup", "--all"]);
    assert!(said.contains("copy `offsite` is NOT up to date"), "{said}");

    let made = place.run(0, &["copy", "--to", "offsite", "--create"]);
    assert!(made.contains("fingerprint") && made.contains("1 snapshot is there"), "{made}");
    fs::write(place.path("data/more"), "more").unwrap();
    let said = place.run(0, &["backup", "--all"]);
    assert!(said.contains("2 snapshots are there"), "{said}");
    let status: Value = serde_json::from_str(&place.run(0, &["--json", "status"])).unwrap();
    assert_eq!((&status["copies"][0]["state"], &status["copies"][0]["snapshots"]), (&"fine".into(), &2.into()));
    // By its name in place of the repository, from the configuration that it holds too.
    place.run(0, &["--repo", "offsite", "restore", "data", "--into", "back"]);
    assert_eq!(tree::describe(&place.path("back")), tree::describe(&place.path("data")));
    assert!(place.run(0, &["--repo", "offsite", "snapshots"]).lines().count() >= 3);
    fs::rename(place.path("repo"), place.path("lost")).unwrap();
    let found = place
        .run(0, &["--repo", "second", "--state-dir", "bare", "bootstrap", "--identity", "id", "--into", "found.toml"]);
    assert!(found.contains("data"), "{found}");
    fs::rename(place.path("lost"), place.path("repo")).unwrap();

    // Away: the backup is made all the same, and the exit code says that the copy is behind.
    fs::rename(place.path("second"), place.path("away")).unwrap();
    fs::write(place.path("data/more"), "still more").unwrap();
    let said = place.run(3, &["backup", "--all"]);
    assert!(said.contains("the backup is made"), "{said}");
    fs::rename(place.path("away"), place.path("second")).unwrap();
    let plan: Value = serde_json::from_str(&place.run(0, &["--json", "copy", "--dry-run"])).unwrap();
    assert_eq!(plan["snapshots"].as_array().unwrap().len(), 1, "{plan}");
    place.run(0, &["copy"]);
    let plan: Value = serde_json::from_str(&place.run(0, &["--json", "copy", "--dry-run"])).unwrap();
    assert_eq!((plan["frames"].as_u64(), plan["there"].as_u64()), (Some(0), Some(3)), "{plan}");
    // Pinned and not there: a disk that is not mounted is not filled, whatever flags stand in cron.
    place.configure(&format!("[copies.offsite]\nurl = \"./gone/../gone\"\nfingerprint = \"{}\"\n", "0".repeat(64)));
    assert!(place.run(2, &["copy", "--create"]).contains("there was a copy"));
    place.run(10, &["copy", "--to", "third", "--create", "--dry-run"]);
    assert!(!place.path("gone").exists() && !place.path("third").exists());
    place.configure("[copies.offsite]\nurl = \"second\"\nafter_backup = false\n");
    let said = place.run(0, &["backup", "--all"]);
    assert!(!said.contains("there;"), "{said}");
}

#[test]
fn killed_at_any_moment_it_goes_on() {
    seeds(how_often("LIFEBOAT_TEST_KILLS", 6), |seed| {
        let place = Place::new();
        let mut chance = Chance::new(seed);
        for n in 0..4 {
            fs::write(place.path("data/large"), tree::noise(2_500_000, seed + n)).unwrap();
            place.run(0, &["backup", "data"]);
        }
        let started = Instant::now();
        place.run(0, &["copy", "--to", "probe", "--create"]);
        let mut aim = Aim::new(started.elapsed());
        for n in 0..100 {
            let mut copy = place.command(&["copy", "--to", "second", "--create"]);
            if !aim.kill(copy.stdout(Stdio::null()).stderr(Stdio::null()), &mut chance) {
                // All is there: something to do for the next.
                fs::write(place.path("data/large"), tree::noise(2_500_000, seed + 100 + n)).unwrap();
                place.run(0, &["backup", "data"]);
            }
            if aim.killed == 5 {
                break;
            }
        }
        assert_eq!(aim.killed, 5);
        place.run(0, &["copy", "--to", "second", "--create"]);
        place.run(0, &["--repo", "second", "check", "--read-data"]);
        let ids = |repo: &str| -> Vec<Value> {
            let all: Value = serde_json::from_str(&place.run(0, &["--repo", repo, "--json", "snapshots"])).unwrap();
            all.as_array().unwrap().iter().map(|s| s["id"].clone()).collect()
        };
        assert_eq!(ids("second"), ids("repo"));
        place.run(0, &["--repo", "second", "restore", "data", "--into", "back"]);
        assert_eq!(tree::describe(&place.path("back")), tree::describe(&place.path("data")));
    });
}

/// The local store as a real one: files that are there.
#[test]
fn it_reads_a_pack_whole_or_in_part() {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir(place.path().join("one")).unwrap();
    let local = || Arc::new(LocalFileSystem::new_with_prefix(place.path().join("one")).unwrap());
    let mut scene = Nights::new();
    let host = Host::new(local());
    host.init(&scene.person);
    scene.host = host;
    let ids = scene.nights(4);
    forget_on(&scene.host, &ids[..3]);
    // Of the first night's pack only a part is used.
    let there = Clocked::new();
    let second = at(&scene.host, &there);
    make_copy(&scene.host, &scene.person, &second);
    let done = copy(&scene.host, &second).unwrap();
    assert!(done.is_whole(), "{done:?}");
    assert!(second.stats().stored_bytes < scene.host.stats().stored_bytes / 2);
    scene.sound(&second, &ids[3..]);
}
