//! `status`: what it says of good and bad days, to people, to cron, to Nagios and to Prometheus.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::common::scene::{ORACLE, Scene};
use crate::common::tree;

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
