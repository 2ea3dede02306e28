//! The changes of a deployment through the binary: what a person types, and what is shown.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use deployment::{Deployment, Options, json};
use rustix::process::{Pid, Signal, kill_process};

use crate::common::convex::{ODD, assert_state, unzip};
use crate::convex_restore::Place;
use crate::drill::check;

/// `lifeboat follow app`, read line by line.
pub struct Following {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Following {
    pub fn new(place: &Place) -> Self {
        let mut command = place.command(&["--json", "follow", "app", "--interval", "0s"]);
        // A follower holds no identity.
        command.env_remove("LIFEBOAT_IDENTITY_FILE");
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    pub fn wait(&mut self, event: &str) -> serde_json::Value {
        loop {
            let mut line = String::new();
            assert!(self.lines.read_line(&mut line).unwrap() > 0, "it ended before `{event}`: {:?}", self.words());
            let said: serde_json::Value = serde_json::from_str(&line).unwrap();
            if said["event"] == event {
                return said;
            }
        }
    }

    /// Waits until everything up to now is stored. It tells whole milliseconds: one more change, in a millisecond of its own, shows that
    /// what was before it has come.
    pub fn wait_for_all(&mut self, place: &Place) {
        std::thread::sleep(std::time::Duration::from_millis(2));
        place.convex.insert("ticks", json("{}"));
        let tick = chrono::DateTime::from_timestamp_millis(place.convex.latest().div_euclid(1_000_000)).unwrap();
        loop {
            let newest = self.wait("stored")["newest"].as_str().unwrap().to_owned();
            if newest.parse::<chrono::DateTime<chrono::Utc>>().unwrap() >= tick {
                return;
            }
        }
    }

    fn words(&mut self) -> String {
        let mut text = String::new();
        std::io::Read::read_to_string(&mut self.child.stderr.take().unwrap(), &mut text).unwrap();
        text
    }

    pub fn end(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.words());
    }
}

/// A time as the command line takes it, a little behind one of the database.
pub fn after(ts: i64) -> String {
    let at = chrono::DateTime::from_timestamp_nanos(ts);
    at.to_rfc3339_opts(chrono::SecondsFormat::Nanos, true)
}

#[test]
fn a_bad_mutation_is_found_and_undone() {
    let place = Place::new();
    place.convex.fill(30, 2);
    let kept = place.convex.insert("users", json(r#"{"name":"zoë"}"#));
    let mut following = Following::new(&place);
    following.wait("following");
    place.convex.insert("users", json(ODD));
    let good = place.convex.latest();
    assert!(place.convex.patch(&kept, json(r#"{"name":"nobody"}"#)));
    assert!(place.convex.delete(&kept));
    let bad = place.convex.latest();
    following.wait_for_all(&place);
    following.end();

    let (told, _) = place.expect(0, &["timeline", "app"]);
    assert!(told.contains("snapshot  ") && told.contains("changes   ") && told.contains("newest    "), "{told}");
    let (told, _) = place.expect(0, &["diff", "app", "--from", &after(good), "--to", &after(bad)]);
    assert_eq!(told.lines().collect::<Vec<_>>(), [format!("-  users  {kept}")], "{told}");
    let (told, _) = place.expect(0, &["dump", "app", "--id", &kept, "--history"]);
    let kinds: Vec<&str> = told.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
    assert_eq!(kinds, ["snapshot", "written", "deleted"], "{told}");
    let (told, _) = place.expect(0, &["dump", "app", "--id", &kept, "--to", &after(good)]);
    assert!(told.contains("zoë"), "{told}");
    let (_, told) = place.expect(2, &["dump", "app", "--id", &kept]);
    assert!(told.contains("was deleted at"), "{told}");

    let (told, _) = place.expect(0, &["restore", "app", "--to", &after(good), "--into", "good.zip", "--dry-run"]);
    assert!(told.contains("changes   ") && !place.path("good.zip").exists(), "{told}");
    // From a copy the same.
    place.expect(0, &["copy", "--to", "second", "--create"]);
    fs::rename(place.path("repo"), place.path("first")).unwrap();
    fs::rename(place.path("second"), place.path("repo")).unwrap();
    place.expect(0, &["restore", "app", "--to", &after(good), "--into", "copied.zip"]);
    fs::rename(place.path("repo"), place.path("second")).unwrap();
    fs::rename(place.path("first"), place.path("repo")).unwrap();
    assert_state(&unzip(&fs::read(place.path("copied.zip")).unwrap()), &place.convex.state_at(good));
    place.expect(0, &["restore", "app", "--to", &after(good), "--into", "good.zip"]);
    let mut state = place.convex.state_at(good);
    assert_state(&unzip(&fs::read(place.path("good.zip")).unwrap()), &state);

    // The same as files, and in one step with a deployment.
    let (told, _) = place.expect(0, &["restore", "app", "--to", &after(good), "--into", "good"]);
    assert!(told.contains("restored "), "{told}");
    let users = fs::read_to_string(place.path("good/users/documents.jsonl")).unwrap();
    let lines: Vec<String> = state.tables.remove(&(String::new(), "users".into())).unwrap().into_values().collect();
    assert_eq!(users.lines().collect::<Vec<_>>(), lines);
    assert!(place.path("good/.lifeboat/convex/tables.json").exists());
    let (_, told) = place.expect(2, &["restore", "app", "--to", &after(good), "--into", "good"]);
    assert!(told.contains("not empty"), "{told}");
    let told = place.restore_into(0, &place.convex, &["--to", &after(good), "--table", "users", "--replace"]);
    assert!(told.contains("verified"), "{told}");
    assert_eq!(place.convex.state().tables[&(String::new(), "users".into())].len(), lines.len());
}

/// The record that a drill with `--json` answers with.
pub fn drilled(place: &Place, code: i32, args: &[&str]) -> serde_json::Value {
    let (out, err) = place.expect(code, &[&["--json", "drill", "app"], args].concat());
    let line = out.lines().find(|line| line.contains("\"drill\"")).unwrap_or_else(|| panic!("{out}\n{err}"));
    serde_json::from_str::<serde_json::Value>(line).unwrap()["drill"].clone()
}

#[test]
fn a_drill_folds_the_changes_and_reads_every_line() {
    let place = Place::full();
    place.expect(0, &["backup", "app"]);
    let alone = drilled(&place, 0, &[]);
    assert_eq!(
        (&alone["verdict"], &alone["kind"], &alone["segments"]),
        (&"passed".into(), &"convex".into(), &0.into())
    );
    follow_up_to_now(&place);
    let good = place.convex.latest();
    place.convex.insert("users", json(ODD));
    follow_up_to_now(&place);
    let record = drilled(&place, 0, &["--at", &after(good)]);
    assert!(record["segments"].as_u64().unwrap() > 0 && record["restored_bytes"].as_u64().unwrap() > 0, "{record}");
    assert_eq!(
        record["shows"].as_str().unwrap()[..19],
        after(good)[..19],
        "the very moment, not that of the snapshot before it"
    );
    let check = |name: &str| {
        let checks = record["checks"].as_array().unwrap();
        checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no {name}: {record}")).clone()
    };
    // As many documents as the deployment had then, by its own model.
    let state = place.convex.state_at(good);
    let documents: usize = state.tables.values().map(std::collections::BTreeMap::len).sum();
    let said = check("documents")["detail"].as_str().unwrap().to_owned();
    assert!(said.contains(&format!("documents: {documents};")), "{said}: {documents}");
    assert_eq!((&check("files")["end"], &check("written")["end"]), (&"passed".into(), &"passed".into()));
    let random = drilled(&place, 0, &["--at", "random:3"]);
    assert!(random["target"].is_string());
    assert_eq!(drilled(&place, 13, &["--sabotage"])["verdict"], "data-failed");
    place.expect(0, &["drill", "list"]);
    assert!(fs::read_dir(place.path("work")).unwrap().next().is_none(), "nothing is left behind");
    // A lost segment: the moment behind it cannot be had, and the drill says so.
    let segments = |folder: std::path::PathBuf| -> Vec<std::path::PathBuf> {
        let (mut open, mut found) = (vec![folder], Vec::new());
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(folder).unwrap().flatten() {
                if entry.path().is_dir() { open.push(entry.path()) } else { found.push(entry.path()) }
            }
        }
        found.retain(|path| path.to_string_lossy().contains("/streams/"));
        found
    };
    segments(place.path("repo")).into_iter().for_each(|path| fs::remove_file(path).unwrap());
    let behind = drilled(&place, 13, &["--at", &after(good)]);
    assert!(
        behind["problem"].as_str().unwrap().starts_with("stream: segments of its changes that are gone"),
        "{behind}"
    );
    assert!(
        behind["shows"].as_str() < record["shows"].as_str(),
        "what comes back is older, and the record says it: {behind}"
    );
}

#[test]
fn a_drill_imports_into_a_deployment_that_says_that_it_is_for_drills() {
    let place = Place::full();
    let scratch = Deployment::start(Options::default()).unwrap();
    fs::write(place.path("scratch-key"), scratch.admin_key()).unwrap();
    let drill = |url: &str| format!("[sources.app.drill]\ndeployment = \"{url}\"\nadmin_key_file = \"scratch-key\"\n");
    place.configure(&drill(&place.convex.url()));
    place.expect(0, &["backup", "app"]);
    let (_, told) = place.expect(2, &["drill", "app"]);
    assert!(told.contains("is backed up itself"), "{told}");
    place.configure(&drill(&scratch.url()));
    scratch.insert("orders", json(r#"{"n":1}"#));
    let theirs = scratch.state().tables;
    let refused = drilled(&place, 1, &[]);
    assert_eq!(refused["verdict"], "not-held");
    assert!(refused["problem"].as_str().unwrap().contains("`lifeboat_scratch`"), "{refused}");
    assert_eq!(scratch.state().tables, theirs, "nothing was written into it");
    scratch.insert("lifeboat_scratch", json("{}"));
    for _ in 0..2 {
        let held = drilled(&place, 0, &[]);
        assert_eq!(
            (&held["verdict"], &check(&held, "deployment")["end"]),
            (&"passed".into(), &"passed".into()),
            "{held}"
        );
        assert!(held["phases"].as_array().unwrap().iter().any(|phase| phase["phase"] == "start"), "{held}");
    }
    let mut there = scratch.state().tables;
    assert_eq!(there.remove(&(String::new(), "lifeboat_scratch".to_owned())).unwrap().len(), 1, "it says so again");
    assert_eq!(there, place.convex.state().tables);
    // What is there afterwards is something else than what was stored.
    let (imported, go) = (place.path("imported"), place.path("go"));
    let line = format!("touch {}; until [ -e {} ]; do sleep 0.05; done", imported.display(), go.display());
    let hurt = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !imported.exists() {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            scratch.insert("users", json("{}"));
            fs::write(&go, "").unwrap();
        });
        drilled(&place, 13, &["--command-line", &line])
    });
    assert_eq!(check(&hurt, "deployment")["end"], "failed", "{hurt}");
}

#[test]
fn mistakes_are_answered_with_what_to_do() {
    let place = Place::new();
    place.convex.fill(5, 0);
    place.expect(0, &["backup", "app"]);
    let (_, told) = place.expect(2, &["timeline", "app"]);
    assert!(told.contains("lifeboat follow"), "{told}");
    let (_, told) = place.expect(2, &["diff", "app", "--from", "1h ago", "--to", "latest"]);
    assert!(told.contains("has no stream of changes"), "{told}");
    let mut following = Following::new(&place);
    following.wait("following");
    place.convex.insert("users", json("{}"));
    following.wait("stored");
    let (_, told) = place.expect(11, &["follow", "app"]);
    assert!(told.contains("another process follows"), "{told}");
    following.end();
    let (_, told) = place.expect(4, &["diff", "app", "--from", "2020-01-01T00:00:00Z", "--to", "latest"]);
    assert!(told.contains("do not reach 2020-01-01"), "{told}");
    let (_, told) = place.expect(2, &["dump", "app", "--id", "nonsense"]);
    assert!(told.contains("is no document id"), "{told}");
    let (told, _) = place.expect(0, &["status", "app"]);
    assert!(told.contains("app"), "{told}");
}

/// A follower that has taken everything up to now.
pub fn follow_up_to_now(place: &Place) {
    let mut following = Following::new(place);
    following.wait("following");
    following.wait_for_all(place);
    following.end();
}

#[test]
fn documents_come_back_with_their_ids() {
    let place = Place::new();
    place.convex.fill(20, 0);
    let ids: Vec<String> = (0..4).map(|n| place.convex.insert("users", json(&format!("{{\"n\":{n}}}")))).collect();
    follow_up_to_now(&place);
    let good = place.convex.latest();
    let lines = || place.convex.state().tables[&(String::new(), "users".to_owned())].clone();
    let before = lines();
    assert!(place.convex.delete(&ids[0]) && place.convex.delete(&ids[1]));
    assert!(place.convex.patch(&ids[2], json(r#"{"n":99}"#)));
    let made = place.convex.insert("users", json(r#"{"n":5}"#));
    follow_up_to_now(&place);
    let bad = place.convex.latest();
    let url = place.convex.url();
    let undelete = |code: i32, args: &[&str]| {
        let (out, err) = place.expect(code, &[&["undelete", "app", "--into", &url], args].concat());
        format!("{out}{err}")
    };
    // A look changes nothing.
    let told = undelete(0, &["--id", &ids[0], "--dry-run"]);
    assert!(told.contains("back      users: 1 document") && told.contains("Nothing was changed"), "{told}");
    assert!(!lines().contains_key(&ids[0]));
    let told = undelete(0, &["--id", &ids[0]]);
    assert!(told.contains("restored  1 document with their ids"), "{told}");
    assert_eq!(lines().get(&ids[0]), before.get(&ids[0]));
    assert!(!lines().contains_key(&ids[1]));
    // The others, by what became of them; what was made since stays.
    let told = undelete(0, &["--changed-between", &after(good), &after(bad), "--table", "users"]);
    assert!(told.contains("back      users: 3 documents"), "{told}");
    let now = lines();
    assert!(ids.iter().all(|id| now.get(id) == before.get(id)) && now.contains_key(&made), "{now:?}");
    // As a new one beside it, under another id and with its own time.
    let (rows, fields) = (now.len(), |line: &str| line.split_once("\"n\":").map(|(_, n)| n.to_owned()));
    let told = undelete(0, &["--id", &ids[1], "--as-new"]);
    assert!(told.contains("1 document as new ones"), "{told}");
    let (old, now) = (now[&ids[1]].clone(), lines());
    let twins = now.values().filter(|line| fields(line) == fields(&old)).count();
    assert_eq!((now.len(), twins), (rows + 1, 2), "{now:?}");
    let told = undelete(2, &["--id", "nonsense"]);
    assert!(told.contains("is no document id"), "{told}");
    let told = undelete(4, &["--changed-between", "2020-01-01T00:00:00Z", "2020-01-02T00:00:00Z"]);
    assert!(told.contains("do not reach"), "{told}");
}

#[test]
fn who_writes_meanwhile_is_not_overwritten() {
    let place = Place::new();
    let id = place.convex.insert("users", json(r#"{"n":1}"#));
    follow_up_to_now(&place);
    assert!(place.convex.delete(&id));
    let url = place.convex.url();
    let over = std::sync::atomic::AtomicBool::new(false);
    let shown = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(std::sync::atomic::Ordering::SeqCst) {
                place.convex.insert("users", json("{}"));
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        });
        let shown = place.command(&["undelete", "app", "--into", &url, "--id", &id]).output().unwrap();
        over.store(true, std::sync::atomic::Ordering::SeqCst);
        shown
    });
    let told = String::from_utf8_lossy(&shown.stderr).into_owned();
    assert_eq!(shown.status.code(), Some(1), "{told}");
    assert!(told.contains("somebody wrote to `users` meanwhile"), "{told}");
    assert!(!place.convex.state().tables[&(String::new(), "users".to_owned())].contains_key(&id));
}

#[test]
fn two_deployments_are_compared() {
    let place = Place::full();
    place.expect(0, &["backup", "app"]);
    let url = place.convex.url();
    let (told, _) = place.expect(0, &["compare", "app", "--with", &url]);
    assert!(told.contains("verified"), "{told}");
    place.convex.insert("users", json("{}"));
    let (told, _) = place.expect(13, &["compare", "app", "--with", &url]);
    assert!(told.contains("DIFFERS users: 0 missing, 1 more, 0 changed"), "{told}");
    place.expect(0, &["compare", "app", "--with", &url, "--table", "entitlements"]);
    let (_, told) = place.expect(2, &["compare", "app", "--with", &url, "--table", "nothing"]);
    assert!(told.contains("no table `nothing`"), "{told}");
}
