//! The runbooks, typed: each page is printed for a real source and moment, and every block of it that says so is run by the shell as it
//! stands. What must be set by a person is set here, as he would.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use deployment::{Deployment, Options, json};

use crate::common::convex::ODD;
use crate::common::postgres::{Cluster, as_server_user, bin_dir};
use crate::common::scene::{ORACLE, Scene, own};
use crate::common::tree;
use crate::convex_restore::{Place, official};
use crate::convex_stream_cli::{after, follow_up_to_now};
use crate::drill::Tree;

/// The blocks that are run, with values in place of those that are to be set.
fn script(page: &str, set: &[(&str, &str)]) -> String {
    assert!(page.contains("\n## Values\n"), "{page}");
    let mut text = "set -eu\n".to_owned();
    let mut runs = false;
    for line in page.lines() {
        match line.strip_prefix("```") {
            Some(mark) => runs = mark == "sh",
            None if runs => {
                let name = line.strip_prefix("export ").and_then(|line| line.split_once('=')).map(|(name, _)| name);
                match set.iter().find(|(wanted, _)| Some(*wanted) == name) {
                    Some((name, value)) => text.push_str(&format!("export {name}='{value}'\n")),
                    None => {
                        assert!(!line.contains("SET THIS"), "nobody has set it: {line}");
                        // What is typed is seen, to know where it stopped.
                        text.push_str(line);
                        text.push('\n');
                    }
                }
            }
            None => {}
        }
    }
    assert!(text.lines().count() > 5, "{page}");
    text
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs a script, each line shown; it must come to its end.
fn typed(mut shell: Command, here: &Path, path: &str, script: &str) -> String {
    let file = here.join("script.sh");
    fs::write(&file, script).unwrap();
    shell.current_dir(here).env("PATH", path).arg("-x").arg(&file);
    let output = shell.output().unwrap();
    let told = said(&output);
    assert!(output.status.success(), "{}\n{script}\n{told}", output.status);
    told
}

fn usual_path() -> String {
    std::env::var("PATH").unwrap()
}

/// A shell of a person with nothing but a home.
fn shell(home: &Path) -> Command {
    let mut command = Command::new("/bin/sh");
    command.env_clear().env("HOME", home).env("XDG_STATE_HOME", home.join(".local/state")).env("TZ", "UTC");
    command
}

/// A directory with this program, and the PATH with it.
fn with_program(here: &Path) -> String {
    let bin = here.join("bin");
    fs::create_dir_all(&bin).unwrap();
    symlink(env!("CARGO_BIN_EXE_lifeboat"), bin.join("lifeboat")).unwrap();
    format!("{}:{}", bin.display(), usual_path())
}

#[test]
fn the_page_says_what_this_moment_has_and_is_printed_whatever_is_lost() {
    let tree = Tree::new("");
    tree.run(0, &["backup", "data"]);
    let page = tree.run(0, &["runbook", "data"]);
    assert!(page.starts_with("# A database is corrupted: data\n"), "{page}");
    for part in ["What can be had: ", "export TO=latest", "mv \"$INTO\" \"$DATA\"", "export SOURCE=data"] {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert!(!page.contains("pg_amcheck") && !page.contains("npx") && !page.contains("<!--"), "{page}");
    let page = tree.run(0, &["runbook", "data", "--to", "2026-11-20 14:05 Europe/Berlin", "--into", "/srv/x y"]);
    assert!(page.contains("export TO=2026-11-20T13:05:00Z") && page.contains("export INTO='/srv/x y'"), "{page}");
    assert!(page.contains("Europe/Berlin"), "how it was read: {page}");
    let value: serde_json::Value =
        serde_json::from_str(&tree.run(0, &["--json", "runbook", "data", "--case", "ransomware"])).unwrap();
    assert_eq!((&value["case"], &value["values"]["SOURCE"]), (&"ransomware".into(), &"data".into()));
    let page = tree.run(0, &["runbook", "data", "--case", "ransomware"]);
    assert!(page.contains("export TO=latest   # SET THIS"), "the newest may be what a thief wrote: {page}");
    assert!(tree.run(2, &["runbook", "data", "--case", "flood"]).contains("region-lost"));
    assert!(tree.run(2, &["runbook", "nobody"]).contains("there is no source `nobody`"));
    assert!(tree.run(2, &["runbook", "data", "--to", "soon"]).contains("no time"));
    let general = tree.run(0, &["runbook", "--case", "key-lost"]);
    assert!(
        general.starts_with("# A key is lost, or stolen\n") && general.contains("export LIFEBOAT_CONFIG="),
        "{general}"
    );
    fs::rename(tree.path("repo"), tree.path("gone")).unwrap();
    let blind = tree.run(0, &["runbook", "data", "--case", "region-lost"]);
    assert!(blind.contains("The repository was not read") && blind.contains("SET THIS"), "{blind}");
    fs::write(tree.path("lifeboat.toml"), "[repository\n").unwrap();
    let broken = tree.run(0, &["runbook", "--case", "region-lost"]);
    assert!(broken.contains("lifeboat.toml") && broken.contains("export SOURCE=app-db   # SET THIS"), "{broken}");
    tree.run(2, &["status"]);
    fs::remove_file(tree.path("lifeboat.toml")).unwrap();
    let nothing = tree.run(0, &["runbook", "--case", "host-lost"]);
    assert!(nothing.contains("# The host is lost\n") && nothing.contains("lifeboat bootstrap"), "{nothing}");
}

fn cluster_of(folder: &Path, bin: &Path) -> String {
    // As the server's user would have it: the program beside the configuration, PostgreSQL's own in the PATH.
    format!("{}:{}:/usr/bin:/bin", folder.display(), bin.display())
}

fn type_as_server(scene: &Scene, page: &str, set: &[(&str, &str)]) -> String {
    let here = scene.folder.path();
    let script = script(page, set);
    let shell = || {
        let mut shell = as_server_user("/bin/sh");
        shell.env("HOME", here);
        shell
    };
    let told = typed(shell(), here, &cluster_of(here, scene.cluster.bin_dir()), &script);
    own(here);
    told
}

#[test]
fn a_corrupted_cluster_comes_back_in_its_place() {
    let Some(scene) = Scene::new(15, &[]) else { return };
    scene.cluster.psql(ORACLE);
    scene.insert(40);
    scene.expect(0, &["backup", "db"]);
    scene.insert(2);
    let good = scene.now();
    scene.cluster.psql("TRUNCATE oracle");
    scene.archive_all();
    let into = scene.path("restored").display().to_string();
    let page = scene.expect(0, &["--quiet", "runbook", "db", "--to", &good, "--into", &into]);
    let told = type_as_server(&scene, &page, &[]);
    assert!(told.contains("accepts writes") && told.contains("PASSED"), "{told}");
    assert_eq!(scene.cluster.psql("SELECT count(*) FROM oracle"), "42");
    assert!(scene.cluster.data_dir().with_extension("damaged").is_dir(), "what was damaged is still there");
    assert!(!Path::new(&into).exists());
}

#[test]
fn a_table_that_a_deploy_hurt_comes_back_beside_the_live_one() {
    let Some(scene) = Scene::new(15, &[]) else { return };
    scene.cluster.psql(ORACLE);
    scene.expect(0, &["backup", "db"]);
    scene.insert(42);
    let good = scene.now();
    scene.cluster.psql("DELETE FROM oracle WHERE n > 10");
    scene.insert(3);
    scene.archive_all();
    let into = scene.path("restored").display().to_string();
    let page = scene.expect(0, &["--quiet", "runbook", "db", "--case", "bad-deploy", "--to", &good, "--into", &into]);
    let where_it_is = page.lines().find(|line| line.starts_with("export SERVER=")).unwrap();
    assert!(where_it_is.contains("host=") && where_it_is.contains("SET THIS"), "{where_it_is}");
    assert!(!where_it_is.contains("user=") && !where_it_is.contains("lifeboat"), "not the role of the backups: {page}");
    let live = scene.cluster.url("");
    type_as_server(&scene, &page, &[("TABLE", "oracle"), ("SERVER", &live), ("DATABASE", "postgres")]);
    assert_eq!(scene.cluster.psql("SELECT count(*) FROM before.oracle"), "42");
    assert_eq!(scene.cluster.psql("SELECT count(*) FROM public.oracle"), "13", "what is live is as it was");
}

/// A tree whose configuration has a dump too.
fn dumped() -> Option<(Cluster, Tree)> {
    let cluster = Cluster::start(15)?;
    cluster.psql("CREATE DATABASE app");
    cluster.psql_in("app", "CREATE TABLE users (id int PRIMARY KEY); INSERT INTO users SELECT generate_series(1, 42)");
    let tree = Tree::new("");
    let text = fs::read_to_string(tree.path("lifeboat.toml")).unwrap();
    let dump = format!(
        "[sources.dump]\nkind = \"pg_dump\"\nconnection = \"{}\"\ndatabases = [\"app\"]\nbin_dir = \"{}\"\n",
        cluster.connection(),
        bin_dir(15).unwrap().display()
    );
    fs::write(tree.path("lifeboat.toml"), format!("{text}{dump}")).unwrap();
    tree.run(0, &["backup", "dump"]);
    cluster.psql_in("app", "DELETE FROM users WHERE id > 10");
    Some((cluster, tree))
}

fn type_in(tree: &Tree, path: &str, page: &str, set: &[(&str, &str)]) -> String {
    let here = tree.path("");
    typed(shell(&here), &here, path, &script(page, set))
}

#[test]
fn a_dumped_database_comes_back_in_its_place_or_beside_it() {
    let Some((cluster, tree)) = dumped() else { return };
    let path = format!("{}:{}", cluster.bin_dir().display(), with_program(&tree.path("")));
    let into = tree.path("beside").display().to_string();
    let page = tree.run(0, &["runbook", "dump", "--case", "bad-deploy", "--into", &into]);
    let live = cluster.url("");
    type_in(&tree, &path, &page, &[("TABLE", "users"), ("TO", "latest"), ("SERVER", &live)]);
    assert_eq!(cluster.psql_in("app", "SELECT count(*) FROM before.users"), "42");
    cluster.psql_in("app", "DROP SCHEMA before CASCADE");
    let page = tree.run(0, &["runbook", "dump"]);
    type_in(&tree, &path, &page, &[("SERVER", &live)]);
    assert_eq!(cluster.psql_in("app", "SELECT count(*) FROM users"), "42");
    assert_eq!(cluster.psql_in("app_damaged", "SELECT count(*) FROM users"), "10");
}

/// A home in which `npx convex` is the official command line.
fn with_npx(here: &Path) -> Option<()> {
    let modules = official()?.ancestors().nth(3).unwrap().to_owned();
    assert!(modules.ends_with("node_modules"), "{modules:?}");
    symlink(modules, here.join("node_modules")).unwrap();
    fs::write(here.join("package.json"), r#"{"dependencies":{"convex":"1.48.0"}}"#).unwrap();
    Some(())
}

#[test]
fn a_deployment_comes_back_whole_or_in_part() {
    let place = Place::full();
    place.expect(0, &["backup", "app"]);
    follow_up_to_now(&place);
    let hurt = place.convex.insert("users", json(r#"{"name":"zoë"}"#));
    let good = place.convex.latest();
    let whole = place.convex.state_at(good);
    assert!(place.convex.delete(&hurt));
    let made = place.convex.insert("users", json(ODD));
    let until = place.convex.latest();
    let right = place.convex.insert("users", json(r#"{"name":"later"}"#));
    let kept = place.convex.state_at(good).tables[&(String::new(), "users".to_owned())].keys().next().unwrap().clone();
    assert!(kept != hurt && place.convex.patch(&kept, json(r#"{"name":"rightly changed"}"#)));
    let changed = place.convex.state().tables[&(String::new(), "users".to_owned())][&kept].clone();
    follow_up_to_now(&place);
    let path = with_program(&place.path(""));
    let type_page = |args: &[&str], set: &[(&str, &str)]| {
        let (page, _) = place.expect(0, &[&["--state-dir", "state/lifeboat", "runbook", "app"], args].concat());
        let mut shell = shell(&place.path(""));
        shell.env("TMPDIR", place.path("work"));
        typed(shell, &place.path(""), &path, &script(&page, set))
    };
    let into = place.path("back").display().to_string();
    let set = [("TABLE", "users"), ("UNTIL", &*after(until))];
    type_page(&["--case", "bad-deploy", "--to", &after(good), "--into", &into], &set);
    let users = place.convex.state().tables[&(String::new(), "users".to_owned())].clone();
    assert!(users.contains_key(&hurt) && users.contains_key(&made), "the one is back, the other stays");
    assert!(users.contains_key(&right) && users[&kept] == changed, "what was rightly changed later stays");
    let told = type_page(&["--to", &after(good), "--into", &into], &[]);
    assert_eq!(told.matches("documents as in the snapshot").count(), 3, "before, by the restore, and after: {told}");
    assert_eq!(place.convex.state().tables, whole.tables);
}

#[test]
fn everything_moves_to_new_machines() {
    let Some(scene) = Scene::new(15, &[]) else { return };
    let here = scene.folder.path();
    let convex = Deployment::start(Options::default()).unwrap();
    convex.fill(30, 2);
    fs::write(scene.path("key"), convex.admin_key()).unwrap();
    let config = fs::read_to_string(scene.path("lifeboat.toml")).unwrap();
    let app = format!("[sources.app]\nkind = \"convex\"\nurl = \"{}\"\nadmin_key_file = \"key\"\n", convex.url());
    fs::write(scene.path("lifeboat.toml"), format!("{config}{app}")).unwrap();
    own(here);
    scene.cluster.psql(ORACLE);
    scene.insert(42);
    scene.expect(0, &["backup", "db", "app"]);
    scene.archive_all();
    let target = Deployment::start(Options::default()).unwrap();
    let page = scene.expect(0, &["--quiet", "runbook", "app", "--case", "new-infrastructure"]);
    let (home, into) = (scene.path("new"), scene.path("new-data").display().to_string());
    fs::create_dir(&home).unwrap();
    own(&home);
    let Some(()) = with_npx(&home) else { return };
    let (url, key) = (target.url(), target.admin_key());
    let bin = scene.cluster.bin_dir().display().to_string();
    let set = [
        ("DATABASES", "db"),
        ("INTO", into.as_str()),
        ("BIN", &bin),
        ("DEPLOYMENT", &url),
        ("CONVEX_SELF_HOSTED_URL", &url),
        ("CONVEX_SELF_HOSTED_ADMIN_KEY", &key),
        // A new machine has a state of its own.
        ("LIFEBOAT_STATE_DIR", "state"),
    ];
    let script = script(&page, &set);
    // The original is gone.
    scene.cluster.stop();
    own(here);
    let mut shell = as_server_user("/bin/sh");
    shell.env("HOME", &home).env("CI", "1");
    let path = format!("{}:{}", cluster_of(here, scene.cluster.bin_dir()), usual_path());
    let told = typed(shell, &home, &path, &script);
    let rows = scene.cluster.psql("SELECT count(*) FROM oracle");
    let stopped = scene.sh(&format!("{bin}/pg_ctl -D {into} -m immediate -w stop"));
    assert_eq!(rows, "42", "{told}");
    assert!(stopped.status.success(), "the server of the new directory is the one that answered: {}", said(&stopped));
    assert_eq!(target.state().tables, convex.state().tables);
    assert!(home.join("lifeboat.toml").exists());
}

#[test]
fn a_tree_comes_back_whole_or_in_part() {
    let tree = Tree::new("");
    tree.run(0, &["backup", "data"]);
    let path = with_program(&tree.path(""));
    let before = tree::describe(&tree.path("data"));
    fs::remove_file(tree.path("data/answer")).unwrap();
    fs::write(tree.path("data/docs/a.jsonl"), "hurt").unwrap();
    let into = tree.path("back").display().to_string();
    let page = tree.run(0, &["runbook", "data", "--case", "bad-deploy", "--into", &into]);
    type_in(&tree, &path, &page, &[("PART", "docs"), ("TO", "latest")]);
    let docs = |all: &std::collections::BTreeMap<String, String>| -> Vec<(String, String)> {
        all.iter().filter(|(name, _)| name.contains("docs/a.jsonl")).map(|(a, b)| (a.clone(), b.clone())).collect()
    };
    assert_eq!(docs(&tree::describe(&tree.path("data"))), docs(&before));
    assert!(!tree.path("data/answer").exists(), "what was not asked for is as it was");
    let to = tree.run(0, &["snapshots", "data", "--json"]);
    let first: serde_json::Value = serde_json::from_str(to.lines().next().unwrap()).unwrap();
    let shown = first.to_string();
    let ended = shown.split("\"ended\":\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let page = tree.run(0, &["runbook", "data", "--to", &ended, "--into", &into]);
    let told = type_in(&tree, &path, &page, &[]);
    assert!(told.contains("PASSED"), "{told}");
    assert_eq!(tree::describe(&tree.path("data")), before);
    assert!(tree.path("data.damaged").is_dir());
}

/// A new machine: nothing but the program and the identity.
fn bare(tree: &Tree, name: &str) -> (PathBuf, String) {
    let home = tree.path(name);
    fs::create_dir(&home).unwrap();
    let path = with_program(&home);
    (home, path)
}

#[test]
fn a_lost_host_goes_on_elsewhere() {
    let tree = Tree::new("");
    tree.run(0, &["backup", "data"]);
    let page = tree.run(0, &["runbook", "data", "--case", "host-lost", "--into", "/printed"]);
    let (home, path) = bare(&tree, "new");
    let into = home.join("restored").display().to_string();
    let told = typed(shell(&home), &home, &path, &script(&page, &[("INTO", &into)]));
    assert_eq!(tree::describe(Path::new(&into)), tree::describe(&tree.path("data")), "{told}");
    // The new one goes on with the log of the lost one.
    let mut next = shell(&home);
    next.current_dir(&home)
        .env("PATH", &path)
        .env("LIFEBOAT_IDENTITY_FILE", tree.path("id"))
        .env("LIFEBOAT_REPOSITORY", tree.path("repo"))
        .args(["-c", "lifeboat backup data"]);
    let output = next.output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let refused = tree.run(12, &["backup", "data"]);
    assert!(refused.contains("was given to host"), "the lost one comes back, and is told: {refused}");
}

#[test]
fn a_lost_region_leaves_its_copy() {
    let tree = Tree::new("");
    tree.run(0, &["backup", "data"]);
    tree.run(0, &["copy", "--to", "second", "--create"]);
    fs::rename(tree.path("repo"), tree.path("gone")).unwrap();
    let page = tree.run(0, &["runbook", "data", "--case", "region-lost"]);
    let (copy, new) = (tree.path("second").display().to_string(), tree.path("third").display().to_string());
    let into = tree.path("back").display().to_string();
    let path = with_program(&tree.path(""));
    let set = [("COPY", copy.as_str()), ("NEW", &new), ("INTO", &into)];
    let told = type_in(&tree, &path, &page, &set);
    assert!(told.contains("PASSED"), "{told}");
    assert_eq!(tree::describe(Path::new(&into)), tree::describe(&tree.path("data")));
    tree.run(0, &["--repo", "third", "check"]);
    // The host goes on in the copy, and the copy's copy goes on with it.
    fs::write(tree.path("data/answer"), "43").unwrap();
    tree.run(0, &["--repo", "second", "backup", "data"]);
    tree.run(0, &["--repo", "second", "copy", "--to", "third"]);
    tree.run(0, &["--repo", "third", "restore", "data", "--into", "of-the-third"]);
    assert_eq!(tree::describe(&tree.path("of-the-third")), tree::describe(&tree.path("data")));
    // Whoever has pinned what became the first opens the next one too.
    let pin = blake3::hash(&fs::read(tree.path("second/lifeboat.json")).unwrap()).to_string();
    let text = format!("[repository]\nurl = \"third\"\nidentity_file = \"id\"\nfingerprint = \"{pin}\"\n");
    fs::write(tree.path("pinned.toml"), &text).unwrap();
    tree.run(0, &["--config", "pinned.toml", "--state-dir", "elsewhere", "snapshots"]);
    fs::write(tree.path("pinned.toml"), text.replace(&pin, &"0".repeat(64))).unwrap();
    tree.run(12, &["--config", "pinned.toml", "--state-dir", "elsewhere-2", "snapshots"]);
}

#[test]
fn what_a_thief_wrote_counts_no_more_and_what_was_before_comes_back() {
    let tree = Tree::new("");
    tree.run(0, &["backup", "data"]);
    let good = tree::describe(&tree.path("data"));
    let now = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Nanos, true);
    // A store tells whole seconds at worst.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    for (n, file) in ["answer", "docs/lines", "docs/a.jsonl"].iter().enumerate() {
        fs::write(tree.path("data").join(file), tree::noise(40_000, n as u64)).unwrap();
    }
    // He leaves a configuration for whoever comes to look.
    let poison = tree.path("poisoned").display().to_string();
    let configuration = fs::read_to_string(tree.path("lifeboat.toml")).unwrap();
    let hooks = format!("[hooks]\nfinally = \"touch '{poison}'\"\ncommands = [\"backup\", \"restore\", \"check\"]\n");
    fs::write(tree.path("lifeboat.toml"), format!("{configuration}{hooks}")).unwrap();
    tree.run(0, &["backup", "data"]);
    assert!(fs::remove_file(&poison).is_ok(), "the hook is one that runs");
    let page = tree.run(0, &["runbook", "data", "--case", "ransomware", "--to", &now]);
    let (home, path) = bare(&tree, "clean");
    let into = home.join("restored").display().to_string();
    let told = typed(shell(&home), &home, &path, &script(&page, &[("INTO", &into)]));
    assert_eq!(tree::describe(Path::new(&into)), good, "{told}");
    assert!(!Path::new(&poison).exists(), "what he wrote was not obeyed");
    assert!(fs::read_to_string(home.join("lifeboat.toml.read-me-first")).unwrap().contains("[hooks]"));
    assert!(told.contains("rebuilt-"), "the rebuilt host has joined: {told}");
}

#[test]
fn a_lost_identity_is_replaced_and_without_any_one_begins_anew() {
    let tree = Tree::new("");
    tree.run(0, &["key", "generate", "--output", "lost"]);
    let lost = fs::read_to_string(tree.path("lost")).unwrap();
    let lost = lost.split_whitespace().find(|word| word.starts_with("age1")).unwrap().to_owned();
    tree.run(0, &["key", "add", &lost]);
    tree.run(0, &["backup", "data"]);
    let page = tree.run(0, &["runbook", "data", "--case", "key-lost"]);
    let path = with_program(&tree.path(""));
    let at = |name: &str| tree.path(name).display().to_string();
    let set = [("NEW_IDENTITY", at("new-id")), ("OLD_RECIPIENT", lost), ("ANEW", at("repo-2"))];
    let set: Vec<(&str, &str)> = set.iter().map(|(name, value)| (*name, value.as_str())).collect();
    type_in(&tree, &path, &page, &set);
    tree.run(0, &["--identity", "new-id", "restore", "data", "--into", "with-new"]);
    assert_eq!(tree::describe(&tree.path("with-new")), tree::describe(&tree.path("data")));
    assert!(tree.path("new-id.html").exists() && tree.path("repo-2").is_dir());
}
