//! Drills: each kind passes on good data, fails on what is wrong with the code and the words for it, leaves nothing behind, and
//! is noted where a rebuilt catalog finds it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::common::postgres::{Cluster, bin_dir};
use crate::common::scene::{ORACLE, Scene};
use crate::common::tree;

/// The record that `--json` answers with.
pub fn record(said: &str) -> Value {
    let line = said.lines().find(|line| line.contains("\"message_type\":\"drill\"")).expect(said);
    serde_json::from_str::<Value>(line).unwrap()["drill"].clone()
}

pub fn check<'r>(record: &'r Value, name: &str) -> &'r Value {
    let checks = record["checks"].as_array().unwrap();
    checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("{name} is not in {record}"))
}

pub fn ms(record: &Value, phase: &str) -> u64 {
    let part = record["phases"].as_array().unwrap().iter().find(|part| part["phase"] == phase).cloned();
    part.map_or(0, |part| part["ms"].as_u64().unwrap())
}

/// What lies in a scratch directory.
pub fn left(directory: &Path) -> usize {
    fs::read_dir(directory).map_or(0, Iterator::count)
}

/// A tree with a repository, and a configuration for both.
pub struct Tree {
    folder: tempfile::TempDir,
}

impl Tree {
    pub fn new(rules: &str) -> Self {
        let tree = Self { folder: tempfile::tempdir().unwrap() };
        tree::make(&tree.path("data"), 5);
        fs::write(tree.path("data/answer"), "42").unwrap();
        let text = format!(
            "[repository]\nurl = \"repo\"\nidentity_file = \"id\"\n[sources.data]\nkind = \"volume\"\npath = \"{}\"\n\
             [sources.data.drill]\nscratch_dir = \"{}\"\n{rules}",
            tree.path("data").display(),
            tree.path("scratch").display()
        );
        tree.run(0, &["--repo", "repo", "init", "--generate-identity", "id"]);
        fs::write(tree.path("lifeboat.toml"), text).unwrap();
        tree
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn run(&self, code: i32, args: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
        command
            .env_clear()
            .env("HOME", self.folder.path())
            .env("XDG_STATE_HOME", self.path(".local/state"))
            .env("TZ", "UTC")
            .env("PATH", std::env::var_os("PATH").unwrap());
        let output = command.current_dir(self.folder.path()).args(args).output().unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{args:?}\n{said}");
        said
    }

    /// The largest object of the store whose path contains this.
    pub fn largest(&self, part: &str) -> PathBuf {
        let mut open = vec![self.path("repo")];
        let mut found = Vec::new();
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(folder).unwrap().flatten() {
                match entry.path().is_dir() {
                    true => open.push(entry.path()),
                    false => found.push((entry.metadata().unwrap().len(), entry.path())),
                }
            }
        }
        found.into_iter().filter(|(_, path)| path.to_string_lossy().contains(part)).max().unwrap().1
    }
}

#[test]
fn a_tree_that_comes_back_passes_and_is_noted_in_the_log() {
    let tree =
        Tree::new("command = \"test \\\"$(cat answer)\\\" = 42\"\n[objectives.data]\nrpo = \"1h\"\nrto = \"4h\"\n");
    tree.run(22, &["drill", "status"]);
    tree.run(0, &["backup", "data"]);
    let drilled = record(&tree.run(0, &["drill", "data", "--json"]));
    assert_eq!((&drilled["verdict"], &drilled["kind"]), (&Value::from("passed"), &Value::from("volume")));
    assert_eq!(check(&drilled, "files")["end"], "passed");
    assert_eq!(check(&drilled, "command")["end"], "passed");
    let parts: u64 = ["plan", "fetch", "assert"].iter().map(|phase| ms(&drilled, phase)).sum();
    assert_eq!(drilled["rto_ms"], parts, "what is checked for its own sake does not count: {drilled}");
    assert_eq!(
        (&drilled["rto_limit_ms"], &drilled["rpo_limit_ms"]),
        (&Value::from(14_400_000), &Value::from(3_600_000))
    );
    assert_eq!(drilled["shows"], drilled["newest"]);
    // What it took is what the next restore is expected to take.
    let plan = tree.run(0, &["restore", "data", "--into", "elsewhere", "--dry-run"]);
    assert!(plan.contains("estimate  ") && plan.contains(", by the drill of "), "{plan}");
    assert!(drilled["restored_bytes"].as_u64().unwrap() > 0 && drilled["fetched_bytes"].as_u64().unwrap() > 0);
    assert_eq!(left(&tree.path("scratch")), 0);

    let id = drilled["id"].as_str().unwrap();
    tree.run(0, &["catalog", "rebuild"]);
    let listed: Value = serde_json::from_str(&tree.run(0, &["--json", "drill", "list", "data"])).unwrap();
    assert_eq!(listed["drills"], Value::from(vec![drilled.clone()]), "a catalog that is read anew says the same");
    assert!(tree.run(0, &["drill", "show", &id[..12]]).contains("PASSED"));
    assert!(tree.run(2, &["drill", "show", "ZZZ"]).contains("is no drill"));
    tree.run(0, &["drill", "show", id, "--html", "page.html"]);
    let page = fs::read_to_string(tree.path("page.html")).unwrap();
    for part in ["PASSED", id, "<title>Restore drill of data</title>", "</span>fetch<td>", "(objective "] {
        assert!(page.contains(part), "{part} is not in the page");
    }
    assert!(!page.contains("http://") && !page.contains("<script"), "it needs nothing else");
    assert!(tree.run(0, &["drill", "status"]).contains("fine"));
    let status: Value = serde_json::from_str(&tree.run(0, &["--json", "drill", "status", "--max-age", "1h"])).unwrap();
    assert_eq!((&status["fine"], &status["sources"][0]["max_age_seconds"]), (&Value::from(true), &Value::from(3600)));
}

#[test]
fn what_is_wrong_with_a_tree_fails_with_its_own_code() {
    let tree = Tree::new("");
    assert!(tree.run(13, &["drill", "data"]).contains("no snapshot of `data`"), "nothing can be restored");
    tree.run(0, &["backup", "data"]);
    let failed = record(&tree.run(13, &["drill", "data", "--json", "--sabotage"]));
    assert_eq!((&failed["verdict"], &failed["sabotaged"]), (&Value::from("data-failed"), &Value::from(true)));
    assert_eq!(check(&failed, "files")["end"], "failed");
    let failed = record(&tree.run(13, &["drill", "data", "--json", "--command-line", "echo wrong answer; exit 3"]));
    assert!(failed["problem"].as_str().unwrap().contains("wrong answer"), "{failed}");
    let kept = tree.run(0, &["drill", "data", "--keep"]);
    assert!(kept.contains("stays in `"), "{kept}");
    assert_eq!(left(&tree.path("scratch")), 1);
    let slow = ["drill", "data", "--json", "--rto", "1s", "--command-line", "sleep 1.1"];
    assert_eq!(record(&tree.run(20, &slow))["verdict"], "rto-missed");
    let old = record(&tree.run(21, &["drill", "data", "--json", "--rpo", "1s"]));
    assert_eq!(old["verdict"], "rpo-missed", "the drill before took longer than a second");
    assert!(tree.run(2, &["drill", "data", "--rto", "soon"]).contains("no length of time"));
    assert!(tree.run(2, &["drill", "data", "--at", "random:x"]).contains("is no number"));
    assert!(tree.run(2, &["drill"]).contains("no source was given"));
    tree.run(12, &["--identity", "other", "drill", "data"]);
    // A sabotaged drill says nothing of the data, and a green one before it counts.
    tree.run(0, &["drill", "status"]);

    let pack = tree.largest("/packs/");
    let whole = fs::read(&pack).unwrap();
    let mut bytes = whole.clone();
    bytes[1000] ^= 1;
    fs::write(&pack, &bytes).unwrap();
    assert_eq!(record(&tree.run(13, &["drill", "data", "--json"]))["verdict"], "data-failed");
    fs::write(&pack, &whole).unwrap();
    tree.run(0, &["drill", "data"]);
    assert_eq!(left(&tree.path("scratch")), 1, "what failed is gone too");
}

#[test]
fn a_group_is_drilled_at_one_moment_as_one_result() {
    let groups = "[sources.more]\nkind = \"volume\"\npath = \"data\"\n[groups.both]\nsources = [\"data\", \"more\"]\n\
                  [objectives.both]\nrto = \"4h\"\nrpo = \"1h\"\n";
    let tree = Tree::new(groups);
    assert!(tree.run(4, &["drill", "--group", "both", "--at", "random"]).contains("nothing can be restored yet"));
    for _ in 0..3 {
        tree.run(0, &["backup", "--group", "both"]);
    }
    let of = |said: &str| -> Vec<Value> {
        let lines = said.lines().filter(|line| line.contains("\"message_type\":\"drill\""));
        lines.map(|line| serde_json::from_str::<Value>(line).unwrap()["drill"].clone()).collect()
    };
    let all = of(&tree.run(0, &["--json", "drill", "--group", "both", "--at", "random:5"]));
    let [data, more, both] = &all[..] else { panic!("{all:?}") };
    assert_eq!((&both["source"], &both["kind"], &both["at"]), (&"both".into(), &"group".into(), &"random:5".into()));
    assert!(data["target"].is_string());
    assert_eq!((&data["target"], &more["target"]), (&both["target"], &both["target"]), "one moment for all");
    assert_eq!(check(both, "source data")["end"], "passed");
    let sum = |name: &str| data[name].as_u64().unwrap() + more[name].as_u64().unwrap();
    assert_eq!(
        (both["rto_ms"].as_u64(), both["restored_bytes"].as_u64()),
        (Some(sum("rto_ms")), Some(sum("restored_bytes")))
    );
    assert!(tree.run(0, &["drill", "list", "both"]).contains("PASSED"), "it is noted as one");
    let again = of(&tree.run(0, &["--json", "drill", "--group", "both", "--at", "random:5"]));
    assert_eq!(again[2]["target"], both["target"], "the seed gives the same moment again");
    // Together they take too long, though each alone would not.
    let (took, objective) = (both["rto_ms"].as_u64().unwrap(), "[objectives.both]\nrto = \"4h\"\nrpo = \"1h\"\n");
    assert!(took > 0);
    let config = fs::read_to_string(tree.path("lifeboat.toml")).unwrap();
    fs::write(tree.path("lifeboat.toml"), config.replace(objective, "[objectives.both]\nrpo = \"1s\"\n")).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let late = of(&tree.run(21, &["--json", "drill", "--group", "both"]));
    assert_eq!(late[2]["verdict"], "rpo-missed");
    let config = fs::read_to_string(tree.path("lifeboat.toml")).unwrap();
    fs::write(tree.path("lifeboat.toml"), config.replace("rpo = \"1s\"", "rto = \"1s\"")).unwrap();
    let slow = ["--json", "drill", "--group", "both", "--command-line", "sleep 0.6"];
    assert_eq!(of(&tree.run(20, &slow))[2]["verdict"], "rto-missed", "each alone would not be too late");
    // One that does not come back fails the whole, and the other is drilled all the same.
    fs::remove_file(tree.largest("/packs/")).unwrap();
    let failed = of(&tree.run(13, &["--json", "drill", "--group", "both"]));
    assert_eq!((failed.len(), &failed[2]["verdict"]), (3, &"data-failed".into()), "{failed:?}");
}

#[test]
fn databases_in_a_tree_are_asked_whether_they_are_whole() {
    let tree = Tree::new("");
    let database = tree.path("data/app.db");
    let made = Command::new("python3")
        .args([
            "-c",
            "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('create table t (x)'); \
                      c.executemany('insert into t values (?)', [('x' * 100,)] * 2000); c.commit()",
        ])
        .arg(&database)
        .status();
    assert!(made.unwrap().success());
    tree.run(0, &["backup", "data"]);
    let drilled = record(&tree.run(0, &["--json", "drill", "data"]));
    assert_eq!(check(&drilled, "integrity app.db")["detail"], "integrity_check: ok");
    let quick = record(&tree.run(0, &["--json", "drill", "data", "--quick"]));
    assert!(quick["checks"].as_array().unwrap().iter().all(|check| check["name"] != "integrity app.db"));
    // A database that was stored damaged: every byte is as it was, and the drill says what that is worth.
    let mut bytes = fs::read(&database).unwrap();
    for byte in &mut bytes[8192..12288] {
        *byte = 0x55;
    }
    fs::write(&database, bytes).unwrap();
    tree.run(0, &["backup", "data"]);
    let failed = record(&tree.run(13, &["--json", "drill", "data"]));
    assert_eq!(
        (&check(&failed, "files")["end"], &check(&failed, "integrity app.db")["end"]),
        (&"passed".into(), &"failed".into())
    );
}

#[test]
fn a_moment_by_chance_is_one_that_can_be_had_and_comes_again() {
    let tree = Tree::new("");
    for n in 0..3 {
        fs::write(tree.path("data/answer"), n.to_string()).unwrap();
        tree.run(0, &["backup", "data"]);
    }
    let mut shown = std::collections::BTreeSet::new();
    for seed in 0..12 {
        let at = format!("random:{seed}");
        let drilled = record(&tree.run(0, &["drill", "data", "--json", "--no-record", "--at", &at]));
        assert_eq!((&drilled["at"], &drilled["target"]), (&Value::from(at), &drilled["shows"]));
        shown.insert(drilled["shows"].as_str().unwrap().to_owned());
    }
    assert_eq!(shown.len(), 3);
    let again =
        |seed: &str| record(&tree.run(0, &["drill", "data", "--json", "--no-record", "--at", seed]))["shows"].clone();
    assert_eq!(again("random:5"), again("random:5"));
    assert!(tree.run(0, &["drill", "list"]).contains("no drill was held yet"), "--no-record");
    assert!(tree.run(1, &["drill", "data", "--at", "now-rpo"]).contains("needs an objective"));
}

fn drill_of_a_cluster(major: u32) {
    let Some(scene) = Scene::made_with(major, &["-k"], &[]) else { return };
    scene.cluster.psql(ORACLE);
    scene.insert(100);
    scene.expect(0, &["backup", "db"]);
    scene.insert(50);
    let middle = scene.point();
    scene.insert(7);
    scene.archive_all();
    let scratch = scene.path("scratch");
    let (bin, place) = (scene.cluster.bin_dir().display().to_string(), scratch.display().to_string());
    let sql = |name: &str, text: &str| {
        fs::write(scene.path(name), text).unwrap();
        scene.path(name).display().to_string()
    };
    let drill = |code: i32, args: &[&str]| -> Value {
        let all = ["drill", "db", "--json", "--bin-dir", &bin, "--scratch-dir", &place];
        let found = record(&scene.expect(code, &[&all, args].concat()));
        assert_eq!(left(&scratch), 0, "{args:?}");
        found
    };
    let all_rows = sql("all.sql", "SELECT count(*) = 157 FROM public.oracle;");
    let newest = drill(0, &["--sql", &all_rows]);
    for name in ["files", "end of the replay", "answers", "sql all.sql", "pg_amcheck", "full read", "pg_checksums"] {
        assert_eq!(check(&newest, name)["end"], "passed", "{newest}");
    }
    assert_eq!(newest["kind"], "postgres");
    assert!(newest["segments"].as_u64().unwrap() >= 1 && newest["rto_ms"].as_u64().unwrap() > 0);
    let past = sql("past.sql", &format!("SELECT count(*) = {} FROM public.oracle", middle.1));
    let then = drill(0, &["--at", &middle.0, "--quick", "--sql", &past]);
    assert_eq!(check(&then, "sql past.sql")["end"], "passed");
    drill(0, &["--at", "random", "--quick"]);

    let wrong = sql("wrong.sql", "SELECT count(*) = 1, 'rows' FROM public.oracle");
    let failed = drill(13, &["--quick", "--sql", &all_rows, "--sql", &wrong]);
    assert!(failed["problem"].as_str().unwrap().contains("(f, rows)"), "{failed}");
    let silent = sql("silent.sql", "SELECT true WHERE false");
    assert!(
        check(&drill(13, &["--quick", "--sql", &silent]), "sql silent.sql")["detail"]
            .as_str()
            .unwrap()
            .contains("no row")
    );
    let broken = sql("broken.sql", "SELECT nothing FROM nowhere");
    assert!(
        check(&drill(13, &["--quick", "--sql", &broken]), "sql broken.sql")["detail"]
            .as_str()
            .unwrap()
            .contains("nowhere")
    );
    let unread = drill(1, &["--quick", "--sql", "nowhere.sql"]);
    assert_eq!(unread["verdict"], "not-held", "a file that is not there says nothing of the data");
    let sabotaged = drill(13, &["--quick", "--sabotage"]);
    assert_eq!(check(&sabotaged, "files")["end"], "failed");
    assert_eq!(
        drill(20, &["--quick", "--rto", "1s", "--sql", &sql("slow.sql", "SELECT pg_sleep(1.1) IS NOT NULL")])["verdict"],
        "rto-missed"
    );
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(drill(21, &["--quick", "--rpo", "1s"])["verdict"], "rpo-missed");
    let held = scene.expect(1, &["drill", "db", "--json", "--bin-dir", &place, "--scratch-dir", &place]);
    assert_eq!(record(&held)["verdict"], "not-held", "programs that are missing say nothing of the data");

    // A segment between is gone: the newest moment is before the gap, and what lies behind it cannot be had.
    let wal = scene.cluster.psql("SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
    scene.insert(5);
    scene.archive_all();
    scene.insert(5);
    let behind = scene.now();
    scene.archive_all();
    for object in scene.objects(&wal) {
        fs::remove_file(object).unwrap();
    }
    let gap = drill(13, &["--quick", "--at", &behind]);
    assert_eq!(gap["verdict"], "data-failed");
    assert!(gap["problem"].as_str().unwrap().contains("missing"), "{gap}");
}

#[test]
fn a_cluster_of_15_is_drilled() {
    drill_of_a_cluster(15);
}

#[test]
fn a_cluster_of_18_is_drilled() {
    drill_of_a_cluster(18);
}

#[test]
fn dumps_are_loaded_into_a_server_of_the_drills_own() {
    let Some(cluster) = Cluster::start(15) else { return };
    cluster.psql("CREATE ROLE keeper LOGIN");
    cluster.psql("CREATE DATABASE app OWNER keeper");
    cluster.psql_in(
        "app",
        "CREATE TABLE users (id int PRIMARY KEY, name text);
         INSERT INTO users SELECT n, 'user ' || n FROM generate_series(1, 3000) n; ALTER TABLE users OWNER TO keeper;
         ALTER TABLE users ENABLE ROW LEVEL SECURITY; CREATE POLICY mine ON users TO keeper USING (true)",
    );
    let tree = Tree::new("");
    let config = fs::read_to_string(tree.path("lifeboat.toml")).unwrap();
    let bin = bin_dir(15).unwrap();
    let more = format!(
        "[sources.dump]\nkind = \"pg_dump\"\nconnection = \"{}\"\ndatabases = [\"app\"]\nglobals = \"all\"\nbin_dir = \"{}\"\n\
         [groups.both]\nsources = [\"data\", \"dump\"]\n",
        cluster.connection().replace("dbname=postgres", ""),
        bin.display()
    );
    fs::write(tree.path("lifeboat.toml"), format!("{config}{more}")).unwrap();
    tree.run(0, &["backup", "--all"]);
    fs::write(tree.path("good.sql"), "SELECT count(*) = 3000, min(name) FROM public.users").unwrap();
    let place = tree.path("scratch").display().to_string();
    let args = ["drill", "dump", "--json", "--scratch-dir", &place, "--database", "app", "--sql", "good.sql"];
    let drilled = record(&tree.run(0, &args));
    for name in ["files", "rows app", "answers", "sql good.sql", "full read"] {
        assert_eq!(check(&drilled, name)["end"], "passed", "{drilled}");
    }
    assert_eq!(drilled["kind"], "pg_dump");
    assert!(ms(&drilled, "replay") > 0 && ms(&drilled, "start") > 0, "{drilled}");
    assert_eq!(left(&tree.path("scratch")), 0);
    let both = tree.run(0, &["drill", "--group", "both", "--quick", "--scratch-dir", &place]);
    assert_eq!(both.matches("PASSED").count(), 3, "each, and both together: {both}");
    assert!(tree.run(2, &["drill", "--group", "none"]).contains("no group `none`"));
}
