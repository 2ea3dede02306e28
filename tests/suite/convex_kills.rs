//! The real process with a deployment, killed at random moments by a signal that it cannot hear: while it follows, while it takes a
//! snapshot, while it restores. Afterwards nothing that was acknowledged is missing, and nothing is half there.
//!
//! `LIFEBOAT_TEST_KILLS=n` kills more often; a failure prints its seed.

use std::fs;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use deployment::{Deployment, Options, StateAt, json};
use rustix::process::{Pid, Signal, kill_process};

use crate::common::chance::{Chance, each_seed, how_often};
use crate::common::convex::{ODD, unzip, work};
use crate::convex_restore::Place;

fn spawn(place: &Place, args: &[&str]) -> Child {
    place.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Kills a command after some time, unless it has ended before.
fn kill_after(mut child: Child, time: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < time && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

fn moment(ts: i64) -> String {
    chrono::DateTime::from_timestamp_nanos(ts).to_rfc3339_opts(chrono::SecondsFormat::Nanos, true)
}

/// Follows until everything is stored that was committed by now.
fn catch_up(place: &Place) {
    use std::io::{BufRead, BufReader};
    // It tells whole milliseconds: the last change has one of its own.
    std::thread::sleep(std::time::Duration::from_millis(2));
    place.convex.insert("ticks", json("{}"));
    let tick = chrono::DateTime::from_timestamp_millis(place.convex.latest().div_euclid(1_000_000)).unwrap();
    let mut command = place.command(&["--json", "follow", "app", "--interval", "0s"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let said: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
        let newest = || said["newest"].as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().unwrap();
        if said["event"] == "stored" && newest() >= tick {
            break;
        }
    }
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
}

/// The documents of an archive at the times that were noted, by the model.
fn assert_documents(place: &Place, times: &[i64], chance: &mut Chance) {
    for n in 0..4 {
        let ts = if n == 0 { *times.last().unwrap() } else { *chance.pick(times) };
        let name = format!("at-{n}.zip");
        place.expect(0, &["restore", "app", "--to", &moment(ts), "--into", &name, "--no-files"]);
        let archive = unzip(&fs::read(place.path(&name)).unwrap());
        fs::remove_file(place.path(&name)).unwrap();
        let StateAt { tables, .. } = place.convex.state_at(ts);
        for ((component, table), rows) in tables.into_iter().filter(|(_, rows)| !rows.is_empty()) {
            assert_eq!(component, "");
            let lines: String = rows.values().map(|line| format!("{line}\n")).collect();
            let found = String::from_utf8_lossy(&archive[&format!("{table}/documents.jsonl")]).into_owned();
            assert_eq!(found, lines, "table `{table}` at {}", moment(ts));
        }
    }
}

#[test]
fn a_follower_that_is_killed_again_and_again_loses_nothing() {
    each_seed(1, |seed| {
        let mut chance = Chance::new(seed);
        let place = Place::new();
        place.convex.fill(50, 1);
        place.expect(0, &["backup", "app"]);
        let (over, mut uploads) = (AtomicBool::new(false), Vec::new());
        let mut times = Vec::new();
        std::thread::scope(|scope| {
            let written = scope.spawn(|| {
                let mut times = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    let id = place.convex.insert("users", json(ODD));
                    place.convex.patch(&id, json(r#"{"again":1}"#));
                    times.push(place.convex.latest());
                    std::thread::sleep(Duration::from_millis(2));
                }
                times
            });
            for n in 0..how_often("LIFEBOAT_TEST_KILLS", 12) {
                let child = spawn(&place, &["follow", "app", "--interval", "0s", "--files-every", "0s"]);
                uploads.push(place.convex.store_file("", None, format!("upload {n}")));
                kill_after(child, Duration::from_millis(chance.below(700)));
            }
            over.store(true, Ordering::Relaxed);
            times = written.join().unwrap();
        });
        catch_up(&place);
        place.expect(0, &["restore", "app", "--into", "files.zip"]);
        let archive = unzip(&fs::read(place.path("files.zip")).unwrap());
        for (n, id) in uploads.iter().enumerate() {
            assert_eq!(archive[&format!("_storage/{id}")], format!("upload {n}").into_bytes());
        }
        let (told, _) = place.expect(0, &["timeline", "app"]);
        assert!(!told.contains("GAP"), "{told}");
        // Killed before it remembered anything it begins anew with a snapshot: then times between two runs cannot be had, and that is shown.
        let runs: Vec<(&str, &str)> = told
            .lines()
            .filter_map(|line| line.strip_prefix("changes   ")?.split_once(": ")?.0.split_once(" to "))
            .collect();
        let is_told =
            |ts: &i64| runs.iter().any(|(from, to)| *from < moment(*ts).as_str() && moment(*ts).as_str() < *to);
        times.retain(is_told);
        times.push(place.convex.latest());
        assert_documents(&place, &times, &mut chance);
        place.expect(0, &["check", "--read-data"]);
    });
}

#[test]
fn a_snapshot_that_is_killed_is_none_and_the_next_one_is_whole() {
    each_seed(1, |seed| {
        let mut chance = Chance::new(seed);
        let place = Place::new();
        place.convex.fill(400, 5);
        for _ in 0..how_often("LIFEBOAT_TEST_KILLS", 12) {
            kill_after(spawn(&place, &["backup", "app"]), Duration::from_millis(chance.below(300)));
            place.convex.insert("users", json(ODD));
        }
        place.expect(0, &["backup", "app"]);
        place.expect(0, &["restore", "app", "--into", "all.zip"]);
        let archive = unzip(&fs::read(place.path("all.zip")).unwrap());
        let rows = &place.convex.state().tables[&(String::new(), "users".to_owned())];
        assert_eq!(archive["users/documents.jsonl"].split(|byte| *byte == b'\n').count() - 1, rows.len());
        place.expect(0, &["check", "--read-data"]);
        let left: Vec<_> = fs::read_dir(place.path("work")).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert!(left.is_empty(), "exports have no name on this host's disk: {left:?}");
    });
}

#[test]
fn a_restore_that_is_killed_leaves_old_or_new() {
    each_seed(1, |seed| {
        let mut chance = Chance::new(seed);
        let place = Place::new();
        let (mut first, mut ids) = (Chance::new(seed), Vec::new());
        work(&place.convex, &mut first, &mut ids, 200);
        place.expect(0, &["backup", "app"]);
        let expected = place.convex.state();
        let tables = |convex: &Deployment| {
            let mut tables = convex.state().tables;
            tables.retain(|_, rows| !rows.is_empty());
            tables
        };
        let mut wanted = expected.tables.clone();
        wanted.retain(|_, rows| !rows.is_empty());
        for _ in 0..how_often("LIFEBOAT_TEST_KILLS", 6) {
            let target = Deployment::start(Options::default()).unwrap();
            fs::write(place.path("target-key"), target.admin_key()).unwrap();
            let url = target.url();
            let args = ["restore", "app", "--into", &url, "--admin-key-file", "target-key"];
            kill_after(spawn(&place, &args), Duration::from_millis(chance.below(600)));
            let there = tables(&target);
            assert!(there.is_empty() || there == wanted, "it is half there");
        }
        for n in 0..how_often("LIFEBOAT_TEST_KILLS", 6) {
            let name = format!("{n}.zip");
            kill_after(spawn(&place, &["restore", "app", "--into", &name]), Duration::from_millis(chance.below(200)));
            if let Ok(bytes) = fs::read(place.path(&name)) {
                assert!(unzip(&bytes).contains_key("_tables/documents.jsonl"), "a file under its name is whole");
            }
        }
    });
}
