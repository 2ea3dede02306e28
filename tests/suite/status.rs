//! `status`: what it says of good and bad days, to people, to cron, to Nagios and to Prometheus.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::common::scene::{ORACLE, Scene};
use crate::common::tree;
use crate::convex_stream_cli::follow_up_to_now;

struct Place(tempfile::TempDir);

impl Place {
    fn new(rules: &str) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        tree::make(&place.path("data"), 5);
        place.run(0, &["--repo", "repo", "init", "--generate-identity", "id"]);
        place.configure(rules);
        place
    }

    fn configure(&self, rules: &str) {
        let text = format!(
            "[repository]\nurl = \"repo\"\nidentity_file = \"id\"\n[sources.data]\nkind = \"volume\"\npath = \"{}\"\n{rules}",
            self.path("data").display()
        );
        fs::write(self.path("lifeboat.toml"), text).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, code: i32, args: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
        command.env_clear().env("HOME", self.0.path()).env("TZ", "UTC").env("PATH", std::env::var_os("PATH").unwrap());
        let output = command.current_dir(self.0.path()).args(args).output().unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{args:?}\n{said}");
        said
    }

    fn source(&self, code: i32) -> Value {
        let all: Value = serde_json::from_str(&self.run(code, &["--json", "status"])).unwrap();
        all["sources"][0].clone()
    }
}

fn kinds(source: &Value) -> Vec<&str> {
    source["troubles"].as_array().unwrap().iter().map(|trouble| trouble["kind"].as_str().unwrap()).collect()
}

#[test]
fn good_and_bad_days_have_their_codes() {
    let place = Place::new("[objectives.data]\nrpo = \"1h\"\n");
    let none = place.source(21);
    assert_eq!((kinds(&none), &none["state"]), (vec!["no-snapshot"], &Value::from("missed")));
    assert!(place.run(2, &["status", "--nagios"]).starts_with("LIFEBOAT CRITICAL - data: nothing can be restored"));
    place.run(0, &["backup", "data"]);
    let fine = place.source(0);
    assert_eq!((kinds(&fine).len(), &fine["snapshots"], &fine["kind"]), (0, &Value::from(1), &Value::from("volume")));
    assert_eq!((&fine["rpo_limit_ms"], &fine["newest"]), (&Value::from(3_600_000), &fine["oldest"]));
    assert!(place.run(0, &["status"]).starts_with("fine "));
    let line = place.run(0, &["status", "--nagios"]);
    assert!(line.starts_with("LIFEBOAT OK - 1 sources | 'data'=") && line.trim_end().ends_with("s;;3600"), "{line}");
    place.run(0, &["status", "--prometheus", "metrics"]);
    let metrics = fs::read_to_string(place.path("metrics")).unwrap();
    assert!(metrics.contains("\nlifeboat_snapshots{source=\"data\"} 1\n"), "{metrics}");
    assert!(
        metrics.contains("\nlifeboat_state{source=\"data\"} 0\n")
            && !metrics.contains("drill_passed_timestamp_seconds{")
    );

    place.configure("[objectives.data]\nrpo = \"1h\"\ndrill_every = \"7d\"\n");
    assert_eq!(kinds(&place.source(3)), ["drill"]);
    assert!(place.run(1, &["status", "--nagios"]).starts_with("LIFEBOAT WARNING - data: no drill has passed yet"));
    place.run(13, &["drill", "data", "--sabotage"]);
    assert_eq!(kinds(&place.source(3)), ["drill"], "a sabotaged one says nothing");
    place.run(0, &["drill", "data"]);
    let drilled = place.source(0);
    assert_eq!(drilled["drill"]["verdict"], "passed");
    assert!(drilled["passed"].is_string());
    place.run(13, &["drill", "data", "--command-line", "false"]);
    let failed = place.source(13);
    assert_eq!((kinds(&failed), &failed["state"]), (vec!["drill-failed"], &Value::from("damaged")));
    place.run(0, &["drill", "data"]);

    place.configure("[objectives.data]\nrpo = \"1s\"\n");
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(kinds(&place.source(21)), ["rpo"]);
    fs::remove_dir_all(place.path("repo")).unwrap();
    assert!(place.run(3, &["status", "--nagios"]).starts_with("LIFEBOAT UNKNOWN - "));
}

#[test]
fn a_log_with_a_hole_is_damage_and_a_waiting_base_backup_a_warning() {
    let Some(scene) = Scene::new(15, &[]) else { return };
    scene.cluster.psql(ORACLE);
    scene.insert(10);
    scene.expect(0, &["backup", "db"]);
    scene.insert(10);
    scene.archive_all();
    let source = |code: i32| -> Value {
        let said = scene.expect(code, &["--json", "status"]);
        serde_json::from_str::<Value>(said.lines().next().unwrap()).unwrap()["sources"][0].clone()
    };
    let fine = source(0);
    assert_eq!((kinds(&fine).len(), &fine["kind"]), (0, &Value::from("postgres")));
    assert!(fine["newest"].as_str().unwrap() > fine["oldest"].as_str().unwrap(), "{fine}");
    let lost = scene.cluster.psql("SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
    scene.insert(10);
    scene.archive_all();
    scene.insert(10);
    scene.archive_all();
    scene.objects(&lost).into_iter().for_each(|object| fs::remove_file(object).unwrap());
    let holed = source(13);
    assert_eq!(kinds(&holed), ["gap", "damaged"]);
    assert_eq!(holed["newest"], fine["newest"], "nothing behind the hole is claimed");
}

fn walk(folder: &std::path::Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn the_last_check_of_the_store_is_told() {
    let place = Place::new("");
    place.run(0, &["backup", "data"]);
    let store = |code: i32| -> Value {
        serde_json::from_str::<Value>(&place.run(code, &["--json", "status"])).unwrap()["store"].clone()
    };
    let never = store(0);
    assert_eq!((&never["check"], kinds(&never).len()), (&Value::Null, 0), "nobody asked for checks");
    assert!(place.run(0, &["status"]).contains("(store)               never checked by this host"));
    let text = fs::read_to_string(place.path("lifeboat.toml")).unwrap();
    fs::write(place.path("lifeboat.toml"), text.replace("[repository]\n", "[repository]\ncheck_every = \"7d\"\n"))
        .unwrap();
    assert_eq!(kinds(&store(3)), ["check"]);
    assert!(
        place
            .run(1, &["status", "--nagios"])
            .starts_with("LIFEBOAT WARNING - the store: this host has never checked it")
    );

    place.run(0, &["check", "--read-data"]);
    let fine = store(0);
    assert_eq!((&fine["check"]["clean"], &fine["check"]["packs_never_read"]), (&Value::from(true), &Value::from(0)));
    assert!(fine["check"]["packs_read"].as_u64().unwrap() > 0, "{fine}");
    assert!(place.run(0, &["status"]).contains(": in order, "), "{fine}");
    place.run(0, &["status", "--prometheus", "metrics"]);
    let metrics = fs::read_to_string(place.path("metrics")).unwrap();
    assert!(
        metrics.contains("\nlifeboat_store_state 0\n") && metrics.contains("\nlifeboat_checked_timestamp_seconds 1"),
        "{metrics}"
    );

    // What was found stays until a check finds it in order.
    let packs = walk(&place.path("repo")).into_iter();
    let pack = packs.max_by_key(|file| fs::metadata(file).unwrap().len()).unwrap();
    let away = place.path("away");
    fs::rename(&pack, &away).unwrap();
    place.run(13, &["check"]);
    let damaged = store(13);
    assert_eq!((kinds(&damaged), &damaged["state"]), (vec!["check"], &Value::from("damaged")));
    assert!(place.run(13, &["status"]).contains("found DAMAGE (damaged or missing objects: 1"));
    assert_eq!(place.source(13)["state"], "fine", "the source is told apart");
    place.run(0, &["catalog", "rebuild"]);
    assert_eq!(kinds(&store(13)), ["check"], "a rebuild forgets no check");
    fs::rename(&away, &pack).unwrap();
    place.run(0, &["check", "--read-data"]);
    assert_eq!(kinds(&store(0)).len(), 0);
    assert!(place.run(0, &["status", "data"]).lines().count() == 1, "of sources that are named those alone");
}

#[test]
fn a_recipient_who_cannot_read_what_this_host_stores_is_told() {
    let place = Place::new("");
    place.run(0, &["backup", "data"]);
    let other = place.run(0, &["key", "generate", "--output", "other"]);
    let key = other.split_whitespace().find(|word| word.starts_with("age1")).unwrap().to_owned();
    // Somebody with an identity adds a person, from another machine.
    place.run(0, &["--state-dir", "elsewhere", "key", "add", &key]);
    let said = place.run(3, &["status"]);
    assert!(said.contains(&format!("{key} cannot read what this host stores: `lifeboat key pin ")), "{said}");
    let list = said.split("key pin ").nth(1).unwrap().split('`').next().unwrap().to_owned();
    place.run(0, &["key", "pin", &list]);
    let text = fs::read_to_string(place.path("lifeboat.toml")).unwrap();
    let more = "age1lggyhqrw2nlhcxprm67z43rta597azn8gknawjehu9d9dl0jq3yqqvfafg";
    let recipients = format!("[repository]\nrecipients = [\"{key}\", \"{more}\"]\n");
    fs::write(place.path("lifeboat.toml"), text.replace("[repository]\n", &recipients)).unwrap();
    let said = place.run(3, &["status"]);
    assert!(said.contains(&format!("{more} stands in the configuration")) && !said.contains(&key), "{said}");
}

#[test]
fn slots_that_nobody_reads_are_told_until_they_are_gone() {
    let Some(scene) = Scene::new(15, &[]) else { return };
    scene.cluster.psql(ORACLE);
    scene.insert(10);
    scene.expect(0, &["backup", "db"]);
    let troubles = |code: i32, args: &[&str]| -> Value {
        let said = scene.expect(code, &[&["--json", "status"], args].concat());
        serde_json::from_str::<Value>(said.lines().next().unwrap()).unwrap()["sources"][0].clone()
    };
    assert_eq!(kinds(&troubles(0, &[])).len(), 0);
    scene.cluster.psql("SELECT pg_create_physical_replication_slot('nobody', true)");
    assert_eq!(kinds(&troubles(0, &[])).len(), 0, "without `--live` nobody is asked");
    let seen = troubles(3, &["--live"]);
    assert_eq!(kinds(&seen), ["slot"]);
    let words = seen["troubles"][0]["words"].as_str().unwrap();
    assert!(words.starts_with("slot nobody is read by nobody and holds ") && words.contains("; seen at "), "{words}");
    assert_eq!(kinds(&troubles(3, &[])), ["slot"], "what was seen stays known");
    scene.cluster.psql("SELECT pg_drop_replication_slot('nobody')");
    // A backup looks too.
    scene.expect(0, &["backup", "db"]);
    assert_eq!(kinds(&troubles(0, &[])).len(), 0);
    scene.cluster.stop();
    assert_eq!(kinds(&troubles(3, &["--live"])), ["live"]);
    assert!(troubles(3, &[])["troubles"][0]["words"].as_str().unwrap().starts_with("its server could not be asked: "));
    scene.cluster.begin();
    scene.expect(0, &["backup", "db"]);
    assert_eq!(kinds(&troubles(0, &[])).len(), 0, "it was backed up since");
}

#[test]
fn a_deployment_that_nobody_follows_is_told_before_its_changes_are_gone() {
    let Some(library) = crate::week::faketime() else { return };
    let options = deployment::Options { retention_ns: 14 * 24 * 3_600_000_000_000, ..Default::default() };
    let place = crate::convex_restore::Place::with(options);
    place.convex.fill(10, 0);
    follow_up_to_now(&place);
    let after = |hours: u32, code: i32| -> Value {
        let mut command = place.command(&["--json", "status", "app"]);
        command.env("LD_PRELOAD", &library).env("FAKETIME", format!("+{hours}h"));
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        serde_json::from_slice::<Value>(&output.stdout).unwrap()["sources"][0].clone()
    };
    // Nobody has asked it yet: two days, as it comes.
    assert_eq!(kinds(&after(20, 0)).len(), 0);
    let near = after(30, 3);
    assert_eq!(kinds(&near), ["cursor"]);
    assert!(near["troubles"][0]["words"].as_str().unwrap().contains("may forget what came then in 1"), "{near}");
    let past = after(60, 3);
    assert!(
        past["troubles"][0]["words"].as_str().unwrap().contains("longer than the deployment keeps them (48 h"),
        "{past}"
    );
    // It keeps them for longer than that.
    place.expect(0, &["check", "--live", "app"]);
    let asked = after(60, 0);
    assert_eq!(kinds(&asked).len(), 0, "{asked}");
}
