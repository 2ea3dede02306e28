//! `backup --pause`: the deployment stands still while its database is captured, and goes on in any case.

use std::fs;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use lifeboat::client::convex::Rights;
use lifeboat::source::convex::{ConvexOptions, KeyFrom, resolve};
use rusqlite::Connection;
use rustix::process::{Pid, Signal, kill_process};

use crate::convex_restore::Place;

fn place() -> Place {
    let place = Place::new();
    let path = place.path("db.sqlite3");
    place.configure(&format!("[sources.data]\nkind = \"sqlite\"\npath = \"{}\"\n", path.display()));
    let database = Connection::open(path).unwrap();
    database.execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (1)").unwrap();
    place
}

fn client(place: &Place) -> lifeboat::client::convex::Deployment {
    let options = ConvexOptions {
        url: Some(place.convex.url()),
        key: KeyFrom::File(place.path("key")),
        ..ConvexOptions::default()
    };
    resolve(&options, chrono::Utc::now(), Rights::Full, std::sync::Arc::default()).unwrap()
}

fn state(place: &Place) -> String {
    client(place).state().unwrap().unwrap()
}

fn wait(what: &str, is: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < Duration::from_secs(60), "waited for: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A backup that waits for the database, with the deployment paused.
fn waiting(place: &Place) -> (Connection, Child) {
    let database = Connection::open(place.path("db.sqlite3")).unwrap();
    database.execute_batch("BEGIN EXCLUSIVE; INSERT INTO t VALUES (2)").unwrap();
    let mut command = place.command(&["backup", "data", "--pause", "app"]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait("it is paused", || state(place) == "paused");
    (database, child)
}

/// The processes that a process has started.
fn children(of: &Child) -> Vec<Pid> {
    let own = of.id().to_string();
    let parent = |stat: &str| stat.rsplit_once(')').and_then(|(_, rest)| rest.split(' ').nth(2).map(str::to_owned));
    let all = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        (parent(&stat)? == own).then(|| entry.file_name().to_str()?.parse::<i32>().ok()).flatten()
    });
    all.filter_map(Pid::from_raw).collect()
}

#[test]
fn it_stands_still_for_the_capture_and_goes_on() {
    let place = place();
    let (database, child) = waiting(&place);
    assert_eq!(children(&child).len(), 1);
    drop(database);
    assert!(child.wait_with_output().unwrap().status.success());
    assert_eq!(state(&place), "running");
    let actions: Vec<String> = place.convex.audit_actions();
    let pauses: Vec<&str> = actions.iter().map(String::as_str).filter(|action| action.contains("pause")).collect();
    assert_eq!(pauses, ["pause_deployment", "unpause_deployment"]);
}

#[test]
fn a_backup_that_is_killed_leaves_it_running() {
    let place = place();
    let (_database, mut child) = waiting(&place);
    child.kill().unwrap();
    child.wait().unwrap();
    wait("it goes on", || state(&place) == "running");
}

#[test]
fn where_its_guard_is_killed_too_the_next_backup_resumes_it() {
    let place = place();
    let (database, mut child) = waiting(&place);
    for guard in children(&child) {
        kill_process(guard, Signal::KILL).unwrap();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(state(&place), "paused");
    drop(database);
    let (_, err) = place.expect(0, &["backup", "data"]);
    assert!(err.contains("`app` was left paused by a backup that was killed; it goes on now"), "{err}");
    assert_eq!(state(&place), "running");
    let (_, err) = place.expect(0, &["backup", "data"]);
    assert!(!err.contains("paused"), "it is told once: {err}");
}

#[test]
fn where_its_guard_alone_is_killed_the_backup_resumes_it() {
    let place = place();
    let (database, child) = waiting(&place);
    for guard in children(&child) {
        kill_process(guard, Signal::KILL).unwrap();
    }
    drop(database);
    assert!(child.wait_with_output().unwrap().status.success());
    assert_eq!(state(&place), "running");
}

#[test]
fn what_somebody_else_paused_stays_paused() {
    let place = place();
    client(&place).pause().unwrap();
    place.expect(0, &["backup", "data", "--pause", "app"]);
    assert_eq!(state(&place), "paused");
}

#[test]
fn a_deployment_that_cannot_be_paused_is_told() {
    let place = place();
    let (_, err) = place.expect(2, &["backup", "data", "--pause", "data"]);
    assert!(err.contains("no Convex deployment of that name"), "{err}");
    place.convex.set_disabled(true);
    // It stands still already, and stays as it is.
    place.expect(0, &["backup", "data", "--pause", "app"]);
    fs::write(place.path("key"), "convex-self-hosted|00").unwrap();
    let (_, err) = place.expect(2, &["backup", "data", "--pause", "app"]);
    assert!(err.contains("admin key"), "{err}");
    let (_, err) = place.expect(2, &["backup", "app", "--pause", "app"]);
    assert!(err.contains("`--pause` is for SQLite databases"), "{err}");
}
