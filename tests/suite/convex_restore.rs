//! Snapshots of a Convex deployment on their way back, through the binary itself: into archives that the official command line imports,
//! into other deployments, one table alone; what a person is told, and what stays as it was.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use deployment::{Deployment, ExportFault, Failure, ImportFault, Options, StateAt, json};
use lifeboat::client::convex::{Deployment as Client, Rights};
use lifeboat::ops::restore::convex::{Wishes, verify};
use lifeboat::plan::restore::Wanted;
use lifeboat::progress::Silent;
use lifeboat::source::convex::{ConvexOptions, KeyFrom, resolve};

use crate::common::chance::{Chance, how_often};
use crate::common::convex::{ODD, Scene, unzip, work};

/// A value that must show up nowhere.
const SECRET: &str = "hush-hush-4711";

pub struct Place {
    folder: tempfile::TempDir,
    pub convex: Deployment,
}

impl Place {
    pub fn new() -> Self {
        Self::with(Options::default())
    }

    pub fn with(options: Options) -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap(), convex: Deployment::start(options).unwrap() };
        fs::create_dir(place.path("work")).unwrap();
        fs::write(place.path("key"), place.convex.admin_key()).unwrap();
        place.configure("");
        place.expect(0, &["init", "--generate-identity", "id"]);
        place
    }

    /// With some of everything in it.
    pub fn full() -> Self {
        let place = Self::new();
        let (mut chance, mut ids) = (Chance::new(7), Vec::new());
        work(&place.convex, &mut chance, &mut ids, 150);
        place.convex.insert("users", json(ODD));
        place.convex.insert("entitlements", json(r#"{"n":1}"#));
        place.convex.store_file("", Some("image/png"), &b"png"[..]);
        client(&place.convex).set_environment(&[("API_KEY".to_owned(), SECRET.to_owned())].into()).unwrap();
        place
    }

    pub fn configure(&self, lines: &str) {
        let url = self.convex.url();
        let text = format!(
            "[sources.app]\nkind = \"convex\"\nurl = \"{url}\"\nadmin_key_file = \"key\"\nwork_dir = \"work\"\n{lines}\n"
        );
        fs::write(self.path("lifeboat.toml"), text).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
        command.env_clear().env("HOME", self.folder.path()).env("PATH", std::env::var_os("PATH").unwrap());
        command.env("XDG_STATE_HOME", self.path("state"));
        command.env("TMPDIR", self.path("work")).env("TZ", "UTC").current_dir(self.folder.path());
        if self.path("id").exists() {
            command.env("LIFEBOAT_IDENTITY_FILE", "id");
        }
        command.args(["--repo", "repo"]).args(args).stdin(Stdio::null());
        command
    }

    pub fn expect(&self, code: i32, args: &[&str]) -> (String, String) {
        shown(code, args, self.command(args).output().unwrap())
    }

    /// Restores into a deployment, with its key.
    pub fn restore_into(&self, code: i32, target: &Deployment, args: &[&str]) -> String {
        fs::write(self.path("target-key"), target.admin_key()).unwrap();
        let url = target.url();
        let all = [&["restore", "app", "--into", &url, "--admin-key-file", "target-key"], args].concat();
        let (out, err) = self.expect(code, &all);
        format!("{out}{err}")
    }
}

fn shown(code: i32, args: &[&str], output: Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{args:?}\n{out}\n{err}");
    assert!(!out.contains(SECRET) && !err.contains(SECRET), "a secret is shown: {out}{err}");
    (out, err)
}

fn client(convex: &Deployment) -> Client {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    fs::write(&file, convex.admin_key()).unwrap();
    let options = ConvexOptions { url: Some(convex.url()), key: KeyFrom::File(file), ..ConvexOptions::default() };
    resolve(&options, chrono::Utc::now(), Rights::Full, Default::default()).unwrap()
}

fn fresh() -> Deployment {
    Deployment::start(Options { seed: 7, instance_name: "staging".into(), ..Options::default() }).unwrap()
}

/// The same documents, tables, numbers and files. Public names of files in components are made anew, creation times are not.
fn assert_same(found: &StateAt, expected: &StateAt) {
    assert_eq!(found.tables, expected.tables);
    assert_eq!(found.numbers, expected.numbers);
    let files = |state: &StateAt| {
        let all = state.files.iter();
        all.map(|(key, file)| (key.clone(), (file.sha256.clone(), file.content_type.clone(), file.bytes.clone())))
            .collect::<Vec<_>>()
    };
    assert_eq!(files(found), files(expected));
}

#[test]
fn a_snapshot_goes_into_a_fresh_deployment_and_is_compared() {
    let place = Place::full();
    let (out, _) = place.expect(0, &["backup", "app"]);
    assert!(out.contains("complete"), "{out}");
    let state = place.convex.state();
    let target = fresh();
    let told = place.restore_into(0, &target, &["--dry-run"]);
    assert!(told.contains("Nothing was sent") && told.contains("API_KEY") && told.contains("entitlements"), "{told}");
    assert_eq!(target.faults().count("POST /api/import"), 0);
    assert!(target.environment().is_empty());
    let told = place.restore_into(0, &target, &[]);
    assert_same(&target.state(), &state);
    assert_eq!(target.environment().get("API_KEY").map(String::as_str), Some(SECRET));
    for words in ["Import change summary", "verified  by a fresh export", "as in the snapshot", "npx convex deploy"] {
        assert!(told.contains(words), "`{words}` in {told}");
    }
    assert_eq!(fs::read_dir(place.path("work")).unwrap().count(), 0, "something is left in the work directory");
    assert_eq!(target.sweep_exports(), 1, "the export of the comparison may go");
}

#[test]
fn documents_that_are_there_stay_unless_that_is_asked_for() {
    let place = Place::full();
    place.expect(0, &["backup", "app"]);
    let state = place.convex.state();
    let target = fresh();
    place.restore_into(0, &target, &["--no-environment", "--no-verify"]);
    target.insert("users", json(r#"{"theirs":true}"#));
    target.insert("other", json(r#"{"theirs":true}"#));
    let before = target.state();
    let told = place.restore_into(1, &target, &["--no-environment"]);
    assert!(told.contains("`--replace` replaces the tables"), "{told}");
    assert_eq!(target.state(), before);
    let told = place.restore_into(0, &target, &["--replace", "--no-environment"]);
    assert!(told.contains("REPLACED"), "{told}");
    let mut found = target.state();
    let other = (String::new(), "other".to_owned());
    assert_eq!(found.tables.remove(&other), before.tables.get(&other).cloned(), "other tables stay");
    found.numbers.remove(&other);
    assert_same(&found, &state);
    place.restore_into(0, &target, &["--replace-all", "--no-environment"]);
    assert_same(&target.state(), &state);
    assert!(target.environment().is_empty());
}

#[test]
fn one_table_comes_back_and_nothing_else_moves() {
    let place = Place::full();
    place.expect(0, &["backup", "app"]);
    let users = (String::new(), "users".to_owned());
    let expected = place.convex.state();
    for id in expected.tables[&users].keys().take(5) {
        place.convex.delete(id);
    }
    place.convex.insert("entitlements", json(r#"{"n":2}"#));
    client(&place.convex).set_environment(&[("API_KEY".to_owned(), "newer".to_owned())].into()).unwrap();
    let before = place.convex.state();
    // The key is that of the source with the same URL.
    let url = place.convex.url();
    place.expect(0, &["restore", "app", "--into", &url, "--table", "users", "--replace"]);
    let after = place.convex.state();
    assert_eq!(after.tables[&users], expected.tables[&users]);
    for (name, documents) in before.tables.iter().filter(|(name, _)| **name != users) {
        assert_eq!(&after.tables[name], documents, "{name:?}");
    }
    assert_eq!(after.files, before.files);
    assert_eq!(place.convex.environment()["API_KEY"], "newer");
}

#[test]
fn variables_with_another_value_stay_and_are_named() {
    let place = Place::full();
    place.expect(0, &["backup", "app"]);
    let target = fresh();
    client(&target).set_environment(&[("API_KEY".to_owned(), "theirs".to_owned())].into()).unwrap();
    let told = place.restore_into(0, &target, &["--table", "users"]);
    assert!(!told.contains("API_KEY"), "{told}");
    let told = place.restore_into(0, &target, &["--replace"]);
    assert!(told.contains("API_KEY") && told.contains("--overwrite-environment"), "{told}");
    assert_eq!(target.environment()["API_KEY"], "theirs");
    place.restore_into(0, &target, &["--replace", "--overwrite-environment"]);
    assert_eq!(target.environment()["API_KEY"], SECRET);
}

#[test]
fn a_part_that_may_have_arrived_is_never_sent_twice_in_one_upload() {
    let place = Place::full();
    place.expect(0, &["backup", "app"]);
    for failure in [Failure::DoThenDrop, Failure::Drop] {
        let target = fresh();
        target.faults().fail("POST /api/import/upload_part", failure, 1);
        place.restore_into(0, &target, &[]);
        assert_same(&target.state(), &place.convex.state());
        assert_eq!(target.faults().count("POST /api/import/start_upload"), 2);
    }
}

#[test]
fn an_import_that_fails_says_so_and_changes_no_document() {
    let place = Place::full();
    place.expect(0, &["backup", "app"]);
    let target = fresh();
    let before = target.state();
    target.faults().set_import(ImportFault::Fails("the schema does not fit".into()));
    let told = place.restore_into(1, &target, &["--no-environment"]);
    assert!(told.contains("the schema does not fit") && told.contains("No document was changed"), "{told}");
    assert_eq!(target.state(), before);
}

#[test]
fn the_comparison_names_what_differs() {
    let scene = Scene::new();
    let ids: Vec<String> = (0..50).map(|n| scene.convex.insert("users", json(&format!("{{\"n\":{n}}}")))).collect();
    scene.convex.insert("logs", json(r#"{"n":1}"#));
    scene.convex.store_file("", None, &b"one"[..]);
    let file = scene.convex.store_file("", None, &b"two"[..]);
    scene.backup();
    let (repository, restore) = scene.planned(&Wanted::Latest, &Wishes::default()).unwrap();
    let compare = || verify(&repository, &restore, &client(&scene.convex), Some(&scene.path("work")), &Silent).unwrap();
    let found = compare();
    assert!(found.is_equal() && found.documents_equal == 51 && found.tables_equal == 2, "{found:?}");
    scene.convex.delete(&ids[0]);
    scene.convex.patch(&ids[1], json(r#"{"n":1.0}"#));
    scene.convex.insert("users", json(r#"{"n":-1}"#));
    scene.convex.delete_file(&file);
    let found = compare();
    assert!(!found.is_equal());
    let [users] = found.differences.as_slice() else { panic!("{found:?}") };
    assert_eq!((users.table.as_str(), users.equal, users.missing, users.extra, users.changed), ("users", 48, 1, 1, 1));
    let files = found.files.unwrap();
    assert_eq!((files.equal, files.missing, files.first), (1, 1, Some(file)));
}

/// The official command line's program, or a loud word that there is none; where `LIFEBOAT_TEST_REQUIRE` is set that is a failure.
pub fn official() -> Option<PathBuf> {
    let main = "target/tools/convex/node_modules/convex/bin/main.js";
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(main);
    if program.is_file() {
        return Some(program);
    }
    let required = std::env::var_os("LIFEBOAT_TEST_REQUIRE").is_some();
    assert!(!required, "the official command line is not installed: scripts/install-tools convex");
    eprintln!("SKIPPED: the official command line is not installed (scripts/install-tools convex)");
    None
}

#[test]
fn the_official_command_line_imports_our_archive_and_its_next_export_is_equal() {
    let Some(program) = official() else { return };
    let place = Place::full();
    place.expect(0, &["backup", "app"]);
    let (out, _) = place.expect(0, &["restore", "app", "--into", "app.zip"]);
    assert!(out.contains("app.zip"), "{out}");
    let target = fresh();
    fs::write(place.path("package.json"), r#"{"dependencies":{"convex":"1.48.0"}}"#).unwrap();
    let run = |args: &[&str]| {
        let mut command = Command::new("node");
        command.arg(&program).args(args).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        command.env("HOME", place.folder.path()).env("CI", "1").current_dir(place.folder.path());
        command.env("CONVEX_SELF_HOSTED_URL", target.url()).env("CONVEX_SELF_HOSTED_ADMIN_KEY", target.admin_key());
        shown(0, args, command.output().unwrap())
    };
    run(&["import", "--yes", "app.zip"]);
    assert_same(&target.state(), &place.convex.state());
    run(&["export", "--include-file-storage", "--path", "again.zip"]);
    let (ours, theirs) = (fs::read(place.path("app.zip")).unwrap(), fs::read(place.path("again.zip")).unwrap());
    let (ours, mut theirs) = (unzip(&ours), unzip(&theirs));
    theirs.remove("README.md");
    for (name, content) in ours.iter().filter(|(name, _)| !name.contains("_storage/")) {
        assert_eq!(theirs.get(name), Some(content), "{name}");
    }
    // An archive is never written over.
    let (_, err) = place.expect(2, &["restore", "app", "--into", "app.zip"]);
    assert!(err.contains("is there already"), "{err}");
}

#[test]
fn snapshots_are_looked_into() {
    let place = Place::new();
    let id = place.convex.insert("users", json(r#"{"n":1}"#));
    place.convex.insert(("waitlist", "entries"), json(r#"{"n":1}"#));
    place.expect(0, &["backup", "app"]);
    place.convex.insert("users", json(r#"{"n":2}"#));
    place.expect(0, &["backup", "app"]);
    let (out, _) = place.expect(0, &["ls", "app", "-R"]);
    assert!(out.contains("users/documents.jsonl") && out.contains("_components/waitlist/entries/"), "{out}");
    let (out, _) = place.expect(0, &["dump", "app", "users/documents.jsonl"]);
    assert!(out.contains(&id) && out.lines().count() == 2, "{out}");
    let (out, _) = place.expect(0, &["diff", "app"]);
    assert!(out.contains("M  users/documents.jsonl") && !out.contains("entries/documents"), "{out}");
    let (out, _) = place.expect(0, &["stats", "app"]);
    assert!(out.contains("users") && out.contains("waitlist/entries"), "{out}");
    let (out, _) = place.expect(0, &["--json", "stats", "app"]);
    let stats: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(stats["tables"][0]["documents"], 2);
    place.expect(0, &["restore", "app", "--into", "dir"]);
    assert_eq!(fs::read_to_string(place.path("dir/users/documents.jsonl")).unwrap().lines().count(), 2);
    let (_, err) = place.expect(2, &["restore", "app", "--into", "dir2", "--replace"]);
    assert!(err.contains("--replace"), "{err}");
    let (_, err) = place.expect(2, &["restore", "app", "--into", "x.zip", "--table", "user"]);
    assert!(err.contains("no table `user`") && err.contains("users"), "{err}");
}

#[test]
fn a_live_deployment_is_looked_at() {
    let place = Place::full();
    let (out, _) = place.expect(0, &["check", "--live", "app"]);
    for words in [
        "convex-self-hosted",
        "it may ask for exports",
        "document deltas, data sync",
        "can be read",
        "clock",
        "running",
    ] {
        assert!(out.contains(words), "`{words}` in {out}");
    }
    assert_eq!(place.convex.faults().count("POST /api/export"), 0, "nothing is asked for");
    place.convex.faults().set_export(ExportFault::Stuck);
    client(&place.convex).request_export().unwrap();
    let (out, _) = place.expect(0, &["check", "--live", "app"]);
    assert!(out.contains("WARNING   export"), "{out}");
    fs::write(place.path("key"), place.convex.read_only_key()).unwrap();
    let (out, _) = place.expect(1, &["check", "--live", "app"]);
    assert!(out.contains("PROBLEM   key"), "{out}");
    fs::write(place.path("key"), fresh().admin_key()).unwrap();
    let (out, _) = place.expect(1, &["check", "--live", "app"]);
    assert!(out.contains("it is of `staging`"), "{out}");
}

#[test]
fn a_paused_deployment_gives_its_documents_and_no_files() {
    let place = Place::new();
    place.convex.insert("users", json(r#"{"n":1}"#));
    place.convex.store_file("", None, &b"bytes"[..]);
    let pause = |route: &str| {
        let url = format!("{}/api/v1/{route}", place.convex.url());
        let key = format!("Convex {}", place.convex.admin_key());
        let answer = reqwest::blocking::Client::new().post(url).header("Authorization", key).send().unwrap();
        assert!(answer.status().is_success());
    };
    pause("pause_deployment");
    let (out, _) = place.expect(1, &["check", "--live", "app"]);
    assert!(out.contains("PROBLEM   state") && out.contains("unpause_deployment"), "{out}");
    let (out, _) = place.expect(3, &["backup", "app"]);
    assert!(out.contains("INCOMPLETE") && out.contains("BackendIsNotRunning"), "{out}");
    pause("unpause_deployment");
    place.expect(0, &["backup", "app"]);
}

#[test]
fn mistakes_are_told_with_what_to_do() {
    let place = Place::new();
    fs::write(place.path("lifeboat.toml"), "[sources.app]\nkind = \"convex\"\n").unwrap();
    let (_, err) = place.expect(2, &["backup", "app"]);
    assert!(err.contains("no deployment was named") && err.contains("CONVEX_SELF_HOSTED_URL"), "{err}");
    let url = place.convex.url();
    fs::write(place.path("lifeboat.toml"), format!("[sources.app]\nkind = \"convex\"\nurl = \"{url}\"\n")).unwrap();
    let (_, err) = place.expect(2, &["backup", "app"]);
    assert!(err.contains("no admin key") && err.contains("generate_admin_key.sh"), "{err}");
    // What the official command line reads serves too.
    let mut command = place.command(&["backup", "app"]);
    fs::write(place.path("lifeboat.toml"), "[sources.app]\nkind = \"convex\"\n").unwrap();
    command.env("CONVEX_SELF_HOSTED_URL", &url).env("CONVEX_SELF_HOSTED_ADMIN_KEY", place.convex.admin_key());
    shown(0, &[], command.output().unwrap());
}

#[test]
fn a_killed_run_leaves_nothing_that_the_next_does_not_put_right() {
    let place = Place::full();
    let mut chance = Chance::new(how_often("LIFEBOAT_TEST_SEED", 11));
    for _ in 0..how_often("LIFEBOAT_TEST_KILLS", 8) {
        let mut child = place.command(&["backup", "app"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(chance.below(400)));
        let _ = child.kill();
        child.wait().unwrap();
        let left: Vec<String> = fs::read_dir(place.path("work"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.starts_with(".lifeboat-export-"))
            .collect();
        assert!(left.is_empty(), "an export is left behind: {left:?}");
        place.convex.insert("users", json(r#"{"n":1}"#));
    }
    place.expect(0, &["backup", "app"]);
    let target = fresh();
    place.restore_into(0, &target, &[]);
    assert_same(&target.state(), &place.convex.state());
    assert_eq!(fs::read_dir(place.path("work")).unwrap().count(), 0);
}

/// What the module does is told by the official package: names of functions, and arguments with whole numbers and bytes in them.
#[test]
fn scheduled_functions_become_a_module_that_schedules_them() {
    let place = Place::new();
    let bytes = |text: &str| format!("{{\"$bytes\":\"{}\"}}", data_encoding::BASE64.encode(text.as_bytes()));
    let row = |path: &str, args: &str| {
        let at = data_encoding::BASE64.encode(&4_000_000_000_000_000_000_i64.to_le_bytes());
        json(&format!(
            "{{\"udfPath\":\"{path}\",\"nextTs\":{{\"$integer\":\"{at}\"}},\"udfArgs\":{},\"state\":{{\"type\":\"pending\"}},\"argsId\":null}}",
            bytes(args)
        ))
    };
    let rows = vec![
        row("mail.js:send", r#"[{"n":{"$integer":"BwAAAAAAAAA="},"text":"zoë"}]"#),
        row("folder/job.js:default", "[{}]"),
    ];
    place.convex.set_rows("_system/frontend/paginatedScheduledJobs", "", rows);
    place.expect(0, &["backup", "app"]);
    let told = place.restore_into(0, &Deployment::start(Options::default()).unwrap(), &[]);
    assert!(told.contains("2 scheduled functions were pending") && told.contains("--scheduled-function"), "{told}");
    fs::create_dir_all(place.path("app/convex/_generated")).unwrap();
    place.expect(0, &["dump", "app", "--scheduled-function", "-o", "app/convex/lifeboatScheduled.js"]);
    let (_, err) = place.expect(2, &["dump", "app", "--scheduled-function", "-o", "app/convex/lifeboatScheduled.js"]);
    assert!(err.contains("is there already"), "{err}");
    let tools = std::env::var_os("LIFEBOAT_TEST_TOOLS")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/tools"), PathBuf::from);
    let modules = tools.join("convex/node_modules");
    if !modules.is_dir() {
        assert!(
            std::env::var_os("LIFEBOAT_TEST_REQUIRE").is_none(),
            "the official package is not installed: run `./test`"
        );
        eprintln!("SKIPPED: the official package is not installed; `./test` installs it");
        return;
    }
    std::os::unix::fs::symlink(modules, place.path("app/node_modules")).unwrap();
    fs::write(place.path("app/package.json"), "{\"type\":\"module\"}").unwrap();
    fs::write(place.path("app/convex/_generated/server.js"), "export const internalMutation = (one) => one;\n")
        .unwrap();
    let script = "import { getFunctionName } from 'convex/server';\nimport { restore1 } from './convex/lifeboatScheduled.js';\n\
                  const runAt = (at, what, args) => console.log(at, getFunctionName(what), typeof args.n, String(args.n), args.text);\n\
                  console.log(await restore1.handler({ scheduler: { runAt } }));\n";
    fs::write(place.path("app/run.mjs"), script).unwrap();
    // As the official command line does before it sends modules.
    let bundle = ["run.mjs", "--bundle", "--platform=node", "--format=esm", "--outfile=all.mjs", "--log-level=error"];
    let mut bundled = Command::new(place.path("app/node_modules/.bin/esbuild"));
    assert!(bundled.args(bundle).current_dir(place.path("app")).status().unwrap().success());
    let output = Command::new("node").arg("all.mjs").current_dir(place.path("app")).output().unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines,
        ["4000000000000 mail:send bigint 7 zoë", "4000000000000 folder/job:default undefined undefined undefined", "2"]
    );
}
