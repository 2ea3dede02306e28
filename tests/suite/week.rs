//! Eight days of an installation in minutes: every process, the store's server too, sees a clock that is set (libfaketime). Nightly backups of
//! a tree and of a deployment whose changes are followed, retention, weekly drills; a night without power, a lost segment, a day of
//! ransomware. Of each day: what `status` says, and who was told what.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use chrono::{DateTime, TimeDelta, Utc};
use deployment::{Deployment, Options, json};
use lifeboat::store::Swept;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::common::ears::Ears;
use crate::common::servers::Server;
use crate::common::tree;

/// The library that tells another time, where it is installed.
pub fn faketime() -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib").unwrap().flatten().map(|entry| entry.path().join("faketime"));
    let found = folders.map(|folder| folder.join("libfaketimeMT.so.1")).find(|path| path.is_file());
    let required = std::env::var_os("LIFEBOAT_TEST_REQUIRE").is_some();
    assert!(found.is_some() || !required, "libfaketime is not installed: scripts/install-tools faketime");
    if found.is_none() {
        eprintln!("SKIPPED: libfaketime is not installed (scripts/install-tools faketime)");
    }
    found
}

struct Week {
    folder: tempfile::TempDir,
    variables: Vec<(String, String)>,
    server: Server,
    convex: Deployment,
    ears: Ears,
    /// The midnight before the first day.
    begin: DateTime<Utc>,
    now: DateTime<Utc>,
}

impl Week {
    fn new() -> Option<Self> {
        let library = faketime()?;
        let folder = tempfile::tempdir().unwrap();
        let clock = folder.path().join("clock");
        fs::write(&clock, "+0").unwrap();
        let variables = [
            ("LD_PRELOAD", library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", clock.display().to_string()),
            // The file is read for each question.
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            // Waiting takes as long as it takes, and files have the times that the kernel gave them.
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("NO_FAKE_STAT", "1".to_owned()),
            ("TZ", "UTC".to_owned()),
        ];
        let variables: Vec<_> = variables.map(|(name, value)| (name.to_owned(), value)).to_vec();
        let server = Server::moto_with(&variables)?;
        let begin = (Utc::now() + TimeDelta::days(1)).date_naive().and_hms_opt(0, 0, 0).unwrap().and_utc();
        let convex = Deployment::start(Options::default()).unwrap();
        let week = Self { folder, variables, server, convex, ears: Ears::open(), begin, now: Utc::now() };
        tree::make(&week.path("data"), 5);
        fs::write(week.path("key"), week.convex.admin_key()).unwrap();
        week.configure();
        Some(week)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn configure(&self) {
        let credentials = self.server.credentials();
        let file = |path: &Option<PathBuf>| path.as_ref().unwrap().display().to_string();
        let text = format!(
            r#"
            [repository]
            url = "{}/week"
            endpoint = "{}"
            allow_http = true
            access_key_id_file = "{}"
            secret_access_key_file = "{}"
            region = "us-east-1"
            identity_file = "{}"
            [sources.app]
            kind = "convex"
            url = "{}"
            admin_key_file = "{}"
            [sources.files]
            kind = "volume"
            path = "{}"
            [retention]
            keep_daily = 4
            [sources.app.retention]
            keep_daily = 3
            window = "2d"
            [objectives.app]
            rpo = "26h"
            drill_every = "8d"
            [objectives.files]
            rpo = "26h"
            drill_every = "8d"
            [notify.ops]
            kind = "webhook"
            url = "{}"
            repeat = "30d"
            [notify.switch]
            kind = "ping"
            url = "{}"
            "#,
            self.server.url(),
            credentials.endpoint.as_ref().unwrap(),
            file(&credentials.access_key_id_file),
            file(&credentials.secret_access_key_file),
            self.path("id").display(),
            self.convex.url(),
            self.path("key").display(),
            self.path("data").display(),
            self.ears.url("ops"),
            self.ears.url("ping"),
        );
        fs::write(self.path("lifeboat.toml"), text).unwrap();
    }

    /// Sets all clocks. Days count from 0.
    fn at(&mut self, day: i64, hour: i64) {
        let time = self.begin + TimeDelta::days(day) + TimeDelta::hours(hour);
        assert!(time > self.now, "time goes on");
        self.now = time;
        let offset = (time - Utc::now()).num_seconds();
        let (new, clock) = (self.path("clock.new"), self.path("clock"));
        fs::write(&new, format!("+{offset}")).unwrap();
        fs::rename(new, clock).unwrap();
        self.convex.set_clock(Some(time.timestamp_nanos_opt().unwrap()));
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
        command.env_clear().envs(self.variables.iter().cloned()).env("HOME", self.folder.path());
        command.env("XDG_STATE_HOME", self.path("state")).env("PATH", std::env::var_os("PATH").unwrap());
        command.current_dir(self.folder.path()).args(args).stdin(Stdio::null());
        command
    }

    fn run(&self, code: i32, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{args:?}\n{said}");
        said
    }

    /// Somebody works: documents come and change, which is followed; files change.
    fn work(&mut self, day: i64) {
        self.at(day, 1);
        for n in 0..5 {
            self.convex.insert("orders", json(&format!(r#"{{"day":{day},"n":{n}}}"#)));
        }
        fs::write(self.path("data/docs/today"), tree::lines(30, day as u64)).unwrap();
        self.follow();
    }

    /// Follows until everything is stored.
    fn follow(&self) {
        let mut child = self
            .command(&["--json", "follow", "app", "--interval", "0s"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
        let mut wait = |event: &str| -> Value {
            loop {
                let said: Value = serde_json::from_str(&lines.next().expect("it ended").unwrap()).unwrap();
                if said["event"] == event {
                    return said;
                }
            }
        };
        wait("following");
        let latest = self.convex.latest();
        self.convex.insert("ticks", json("{}"));
        while wait("stored")["newest"].as_str().unwrap().parse::<DateTime<Utc>>().unwrap().timestamp_millis()
            < latest / 1_000_000
        {}
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        assert!(child.wait().unwrap().success());
    }

    /// The newest part of the deployment's changes is gone from the store.
    fn lose_a_segment(&self) {
        let store = self.server.store("week", false);
        let keys = store.list("writers", None).unwrap().into_iter().map(|object| object.key);
        let newest = keys.filter(|key| key.contains("/streams/app-")).max().unwrap();
        assert!(matches!(store.sweeper(newest.split('/').nth(1).unwrap()).delete(&newest), Swept::Gone), "{newest}");
    }

    /// Every file becomes noise.
    fn encrypt(&self) {
        let mut open = vec![self.path("data")];
        let mut n = 0;
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(folder).unwrap().flatten() {
                match entry.file_type().unwrap() {
                    kind if kind.is_dir() => open.push(entry.path()),
                    kind if kind.is_file() => {
                        n += 1;
                        let length = entry.metadata().unwrap().len() as usize;
                        fs::write(entry.path(), tree::noise(length.max(1000), n)).unwrap();
                    }
                    _ => {}
                }
            }
        }
    }

    /// What runs each night.
    fn night(&mut self, day: i64) {
        self.at(day, 3);
        self.run(0, &["backup", "--all"]);
        self.at(day, 4);
        self.run(0, &["forget", "--all", "--prune"]);
    }

    /// Snapshots of a source that are listed: their ids, and whether each is abnormal.
    fn snapshots(&self, source: &str) -> Vec<(String, bool)> {
        let listed: Value = serde_json::from_str(&self.run(0, &["--json", "snapshots", source])).unwrap();
        let one =
            |row: &Value| (row["id"].as_str().unwrap().to_owned(), !row["abnormal"].as_array().unwrap().is_empty());
        listed.as_array().unwrap().iter().map(one).collect()
    }

    /// In the morning: how `status` ends, the troubles that it knows, what people were told since the last morning, and how often the
    /// dead-man switch was heard.
    fn morning(&mut self, day: i64) -> (Option<i32>, Vec<String>, Vec<String>, usize) {
        self.at(day, 8);
        let output = self.command(&["--json", "status", "--notify"]).output().unwrap();
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        let mut troubles = Vec::new();
        for source in said["sources"].as_array().unwrap() {
            let of = |trouble: &Value| format!("{} {}", text(&source["source"]), text(&trouble["kind"]));
            troubles.extend(source["troubles"].as_array().unwrap().iter().map(of));
        }
        let heard = self.ears.heard();
        let pings = heard.iter().filter(|heard| heard.line.contains("/ping")).count();
        let told = heard.iter().filter(|heard| heard.line.contains("/ops")).map(|heard| {
            let body = heard.json();
            format!("{} {}", text(&body["event"]), text(&body["subject"]))
        });
        let mut told: Vec<String> = told.collect();
        told.sort();
        troubles.sort();
        (output.status.code(), troubles, told, pings)
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn list(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn every_day_of_a_week_is_told_as_it_was() {
    let Some(mut week) = Week::new() else { return };
    week.at(0, 0);
    week.run(0, &["init", "--generate-identity", "id"]);
    let good = (Some(0), list(&[]), list(&[]), 2);

    // The first day: it is set up, and drilled.
    week.work(0);
    week.night(0);
    week.at(0, 6);
    week.run(0, &["drill", "--all"]);
    assert_eq!(week.morning(0), good, "day 0");

    week.work(1);
    week.night(1);
    assert_eq!(week.morning(1), good, "day 1");

    // No power until the morning: nothing ran, and the switch that nobody held down says the same.
    // Of the two days for which the deployment keeps its changes more than one is over.
    let missed = list(&["app cursor", "app rpo", "files rpo"]);
    let told = list(&["trouble status/app/cursor", "trouble status/app/rpo", "trouble status/files/rpo"]);
    assert_eq!(week.morning(2), (Some(21), missed, told, 0), "day 2");

    week.work(3);
    week.night(3);
    let told = list(&["recovered status/app/cursor", "recovered status/app/rpo", "recovered status/files/rpo"]);
    assert_eq!(week.morning(3), (Some(0), list(&[]), told, 2), "day 3");

    // A part of the changes is gone from the store. Behind it no moment of that day can be had, and a drill says so.
    week.work(4);
    week.night(4);
    week.lose_a_segment();
    let damaged = list(&["app damaged"]);
    let told = list(&["trouble status/app/damaged"]);
    assert_eq!(week.morning(4), (Some(13), damaged.clone(), told, 2), "day 4");
    let lost = (week.begin + TimeDelta::days(4) + TimeDelta::minutes(90)).to_rfc3339();
    week.run(13, &["--quiet", "drill", "app", "--at", &lost, "--no-record"]);
    let heard = week.ears.heard();
    let told: Vec<Value> = heard.iter().filter(|heard| heard.line.contains("/ops")).map(|heard| heard.json()).collect();
    assert_eq!(told.len(), 1, "the drill told it itself: {told:?}");
    assert_eq!((&told[0]["event"], &told[0]["command"]), (&"failure".into(), &"drill".into()));

    // What was told is not told again each morning.
    week.work(5);
    week.night(5);
    assert_eq!(week.morning(5), (Some(13), damaged, list(&[]), 2), "day 5");

    // What was lost is older than the window now. And somebody encrypted everything before the backup ran; nobody followed.
    let clean = tree::describe(&week.path("data"));
    week.at(6, 1);
    week.encrypt();
    week.night(6);
    let wrong = list(&["app cursor", "files abnormal"]);
    let told = list(&["recovered status/app/damaged", "trouble status/app/cursor", "trouble status/files/abnormal"]);
    assert_eq!(week.morning(6), (Some(3), wrong, told, 2), "day 6");
    let snapshots = week.snapshots("files");
    let bad = snapshots.iter().position(|(_, abnormal)| *abnormal).unwrap();
    assert_eq!(
        (bad, snapshots.len()),
        (4, 5),
        "five nights before: one has gone, and from now on none goes: {snapshots:?}"
    );

    // Somebody looks: the tree of the night before comes back. So many changes once more are looked at once more; then the bad snapshot goes by
    // hand, and the policy counts again.
    week.at(7, 0);
    let into = week.path("data").display().to_string();
    week.run(0, &["restore", "files", "--snapshot", &snapshots[3].0, "--into", &into, "--delta", "--delete"]);
    assert_eq!(tree::describe(&week.path("data")), clean);
    week.run(2, &["forget", "--snapshot", &snapshots[4].0]);
    assert_eq!(week.ears.heard().len(), 1, "a run that is refused has failed");
    week.work(7);
    week.night(7);
    let abnormal: Vec<String> =
        week.snapshots("files").into_iter().filter(|(_, abnormal)| *abnormal).map(|(id, _)| id).collect();
    assert_eq!((abnormal.len(), &abnormal[0]), (2, &snapshots[4].0));
    week.run(0, &["accept", &abnormal[0], &abnormal[1]]);
    week.run(0, &["forget", "--snapshot", &abnormal[0]]);
    week.at(7, 6);
    week.run(0, &["drill", "app"]);
    week.run(0, &["drill", "files"]);
    let told = list(&[
        "recovered run/drill/app",
        "recovered run/forget/all",
        "recovered status/app/cursor",
        "recovered status/files/abnormal",
    ]);
    assert_eq!(week.morning(7), (Some(0), list(&[]), told, 2), "day 7");
    assert!(week.snapshots("files").iter().all(|(id, _)| *id != abnormal[0]));

    week.work(8);
    week.night(8);
    assert_eq!(week.morning(8), good, "day 8");
    assert_eq!(week.snapshots("files").len(), 4, "retention goes on as it was asked to");
    week.run(0, &["--quiet", "check", "--read-data"]);
}
