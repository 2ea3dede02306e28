//! Canaries: written into each kind of source, found by drills at the moment that comes back, missed where they are lost.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::postgres::{Cluster, bin_dir};
use crate::common::scene::Scene;
use crate::convex_restore::Place;
use crate::convex_stream_cli::{drilled, follow_up_to_now};
use crate::drill::{Tree, check, record};

/// Puts a key into the section of a source.
fn set(file: &Path, section: &str, line: &str) {
    let text = fs::read_to_string(file).unwrap();
    assert!(text.contains(section), "{text}");
    fs::write(file, text.replace(section, &format!("{section}\n{line}"))).unwrap();
}

/// What a host remembers, of its one source with a canary.
fn marks_in(folder: &Path) -> PathBuf {
    let mut all: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

/// The newest line of what a host remembers, and a later one beside it.
fn claim_another(marks: &Path) {
    let marks = &marks_in(marks);
    let text = fs::read_to_string(marks).unwrap();
    let newest: chrono::DateTime<chrono::Utc> =
        text.lines().last().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let later = (newest + chrono::TimeDelta::microseconds(1)).to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
    fs::write(marks, format!("{text}{later} {later}\n")).unwrap();
}

fn detail(record: &Value) -> String {
    check(record, "canary")["detail"].as_str().unwrap().to_owned()
}

#[test]
fn a_tree_brings_its_canary_back() {
    let tree = Tree::new("");
    tree.run(2, &["canary"]);
    tree.run(0, &["backup", "data"]);
    let before = record(&tree.run(0, &["drill", "data", "--json"]));
    assert!(before["checks"].as_array().unwrap().iter().all(|check| check["name"] != "canary"), "none is wanted");
    set(&tree.path("lifeboat.toml"), "[sources.data]", "canary = true");
    let without = record(&tree.run(13, &["drill", "data", "--json"]));
    assert!(detail(&without).contains("there is no canary"), "{without}");
    let old = record(&tree.run(0, &["drill", "data", "--json", "--at", before["shows"].as_str().unwrap()]));
    assert_eq!(check(&old, "canary")["end"], "skipped", "nobody had written one by then");

    let said: Value = serde_json::from_str(tree.run(0, &["--json", "canary"]).lines().last().unwrap()).unwrap();
    assert_eq!((&said["source"], said["at"].is_string()), (&Value::from("data"), true));
    assert!(fs::read_to_string(tree.path("data/.lifeboat-canary")).unwrap().starts_with("20"));
    tree.run(0, &["backup", "data"]);
    let found = record(&tree.run(0, &["drill", "data", "--json"]));
    assert_eq!(check(&found, "canary")["end"], "passed");
    assert!(found["canary"].as_str() > said["at"].as_str(), "the backup wrote one itself: {found}");
    assert!(found["canary"].as_str() < found["shows"].as_str(), "{found}");
    tree.run(2, &["canary", "nobody"]);

    // Left out of the snapshots it does not come back, and that is what a drill is for.
    set(&tree.path("lifeboat.toml"), "canary = true", "exclude = [\".lifeboat-canary\"]");
    tree.run(0, &["backup", "data"]);
    let lost = record(&tree.run(13, &["drill", "data", "--json"]));
    assert!(detail(&lost).contains("did not come back: none did"), "{lost}");
    // One that cannot be written keeps nothing from being stored.
    let text = fs::read_to_string(tree.path("lifeboat.toml")).unwrap();
    fs::write(tree.path("lifeboat.toml"), text.replace("exclude = [\".lifeboat-canary\"]\n", "")).unwrap();
    fs::remove_file(tree.path("data/.lifeboat-canary")).unwrap();
    fs::create_dir(tree.path("data/.lifeboat-canary")).unwrap();
    assert!(tree.run(1, &["canary"]).contains(".lifeboat-canary"));
    let told = tree.run(3, &["backup", "data"]);
    assert!(told.contains("the canary of `data` was not written") && told.contains("snapshot"), "{told}");
}

#[test]
fn the_newest_point_of_an_idle_tree_is_as_old_as_its_canary() {
    let tree = Tree::new("");
    set(&tree.path("lifeboat.toml"), "[sources.data]", "canary = true");
    tree.run(0, &["backup", "data"]);
    // A backup that finds the canary of somebody else's clock: two hours behind.
    let two_hours = chrono::Utc::now() - chrono::TimeDelta::hours(2);
    let old = two_hours.to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
    let text = fs::read_to_string(tree.path("lifeboat.toml")).unwrap();
    fs::write(tree.path("lifeboat.toml"), text.replace("canary = true\n", "")).unwrap();
    fs::write(tree.path("data/.lifeboat-canary"), format!("{old}\n")).unwrap();
    tree.run(0, &["backup", "data"]);
    fs::write(tree.path("lifeboat.toml"), &text).unwrap();
    fs::remove_dir_all(tree.path(".local/state/lifeboat/canaries")).unwrap();
    let missed = record(&tree.run(21, &["drill", "data", "--json", "--rpo", "1h"]));
    assert!(missed["rpo_ms"].as_u64().unwrap() >= 7_200_000, "by what came back, not by the snapshot: {missed}");
    tree.run(0, &["drill", "data", "--rpo", "3h"]);
}

#[test]
fn a_cluster_brings_the_canary_of_each_moment_back() {
    let Some(scene) = Scene::new(15, &[]) else { return };
    set(&scene.path("lifeboat.toml"), "[sources.db]", "canary = true");
    let refused = scene.expect(1, &["canary"]);
    assert!(refused.contains("permission denied") && refused.contains("CREATE SCHEMA lifeboat"), "{refused}");
    scene.cluster.psql("CREATE SCHEMA lifeboat AUTHORIZATION lifeboat");
    let one = || {
        let said = scene.expect(0, &["--json", "canary"]);
        serde_json::from_str::<Value>(said.lines().last().unwrap()).unwrap()["at"].as_str().unwrap().to_owned()
    };
    one();
    scene.expect(0, &["backup", "db"]);
    let first = one();
    let between = scene.now();
    let last = one();
    scene.archive_all();
    assert_eq!(scene.cluster.psql("SELECT count(*) FROM lifeboat.canary"), "1", "one row, however often");
    let (bin, scratch) = (scene.cluster.bin_dir().display().to_string(), scene.path("scratch").display().to_string());
    let drill = |code: i32, args: &[&str]| {
        let all = ["drill", "db", "--json", "--quick", "--bin-dir", &bin, "--scratch-dir", &scratch];
        record(&scene.expect(code, &[&all, args].concat()))
    };
    let time = |record: &Value| record["canary"].as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().unwrap();
    let newest = drill(0, &[]);
    assert_eq!(time(&newest), last.parse::<chrono::DateTime<chrono::Utc>>().unwrap(), "{newest}");
    let then = drill(0, &["--at", &between]);
    assert_eq!(time(&then), first.parse::<chrono::DateTime<chrono::Utc>>().unwrap(), "{then}");
    // One that was written and acknowledged, and is not in what comes back.
    let folder = scene.path("state/canaries");
    let marks = marks_in(&folder);
    let (whole, target) = (fs::read_to_string(&marks).unwrap(), between.clone());
    let kept: String =
        whole.lines().take_while(|line| *line < between.as_str()).map(|line| format!("{line}\n")).collect();
    fs::write(&marks, kept).unwrap();
    claim_another(&folder);
    let lost = drill(13, &["--at", &target]);
    assert!(detail(&lost).contains("did not come back"), "{lost}");
    // The source was taken back to a moment before them: what was written since is gone by somebody's wish.
    scene.cluster.psql("UPDATE lifeboat.canary SET at = '2026-01-01'");
    one();
    scene.archive_all();
    assert_eq!(fs::read_to_string(marks_in(&folder)).unwrap().lines().count(), 1);
    drill(0, &[]);
}

#[test]
fn a_canary_runs_nobodys_code() {
    let Some(scene) = Scene::new(15, &[]) else { return };
    set(&scene.path("lifeboat.toml"), "[sources.db]", "canary = true");
    scene
        .cluster
        .psql("CREATE SCHEMA lifeboat AUTHORIZATION lifeboat; CREATE ROLE mallory; CREATE TABLE public.ran (who text)");
    scene.cluster.psql("GRANT ALL ON SCHEMA lifeboat TO mallory; GRANT INSERT ON public.ran TO PUBLIC");
    let table = "CREATE TABLE lifeboat.canary (source text PRIMARY KEY, at timestamptz NOT NULL)";
    let runs = "CREATE OR REPLACE FUNCTION public.run() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN INSERT INTO public.ran VALUES (current_user); RETURN NEW; END $$";
    let tricks = [
        // Somebody else's table, whatever it looks like.
        format!("{table}; GRANT ALL ON lifeboat.canary TO lifeboat; ALTER TABLE lifeboat.canary OWNER TO mallory"),
        format!("{table}; ALTER TABLE lifeboat.canary OWNER TO lifeboat; {runs};
                 CREATE TRIGGER t BEFORE INSERT OR UPDATE ON lifeboat.canary FOR EACH ROW EXECUTE FUNCTION public.run()"),
        "CREATE TABLE public.real (source text PRIMARY KEY, at timestamptz NOT NULL);
         CREATE VIEW lifeboat.canary AS SELECT * FROM public.real; ALTER VIEW lifeboat.canary OWNER TO lifeboat".to_owned(),
        "CREATE TABLE lifeboat.canary (source text PRIMARY KEY, at text NOT NULL); ALTER TABLE lifeboat.canary OWNER TO lifeboat".to_owned(),
    ];
    for trick in tricks {
        scene.cluster.psql(&trick);
        let refused = scene.expect(1, &["canary"]);
        assert!(
            refused.contains("lifeboat.canary is not the plain table") || refused.contains("belongs to another role"),
            "{refused}"
        );
        assert_eq!(scene.cluster.psql("SELECT count(*) FROM public.ran"), "0");
        let kind = scene.cluster.psql("SELECT CASE relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END FROM pg_class WHERE oid = 'lifeboat.canary'::regclass");
        scene.cluster.psql(&format!("DROP {kind} lifeboat.canary"));
    }
    scene.expect(0, &["canary"]);
    // A superuser's table will do: he could do as he liked anyway.
    scene.cluster.psql(
        "ALTER TABLE lifeboat.canary OWNER TO postgres; GRANT SELECT, INSERT, UPDATE ON lifeboat.canary TO lifeboat",
    );
    scene.expect(0, &["canary"]);
}

#[test]
fn dumps_bring_their_canary_back() {
    let Some(cluster) = Cluster::start(15) else { return };
    cluster.psql("CREATE DATABASE app");
    let tree = Tree::new("");
    let config = fs::read_to_string(tree.path("lifeboat.toml")).unwrap();
    let dump = format!(
        "[sources.dump]\nkind = \"pg_dump\"\ncanary = true\nconnection = \"{}\"\ndatabases = [\"app\"]\nbin_dir = \"{}\"\n",
        cluster.connection().replace("dbname=postgres", ""),
        bin_dir(15).unwrap().display()
    );
    fs::write(tree.path("lifeboat.toml"), format!("{config}{dump}")).unwrap();
    tree.run(0, &["backup", "dump"]);
    assert_eq!(cluster.psql_in("app", "SELECT source FROM lifeboat.canary"), "dump");
    let place = tree.path("scratch").display().to_string();
    let args = ["drill", "dump", "--json", "--quick", "--scratch-dir", &place];
    assert_eq!(check(&record(&tree.run(0, &args)), "canary")["end"], "passed");
    // One that was known to be kept long before the dump began, and is newer than what came back.
    let marks = marks_in(&tree.path(".local/state/lifeboat/canaries"));
    let now = chrono::Utc::now();
    let words = |at: chrono::DateTime<chrono::Utc>| at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
    fs::write(&marks, format!("{} {}\n", words(now), words(now - chrono::TimeDelta::hours(2)))).unwrap();
    assert_eq!(check(&record(&tree.run(13, &args)), "canary")["end"], "failed");
    // A server that is away is no question of rights.
    cluster.stop();
    let away = tree.run(1, &["canary"]);
    assert!(away.contains("could not connect") && !away.contains("CREATE SCHEMA"), "{away}");
}

#[test]
fn a_deployment_brings_its_canary_back_from_snapshot_and_changes() {
    let place = Place::full();
    place.configure("canary = true\n");
    place.expect(0, &["backup", "app"]);
    let key = (String::new(), "lifeboat_canary".to_owned());
    assert_eq!(place.convex.state().tables[&key].len(), 1);
    let first = drilled(&place, 0, &[]);
    assert_eq!(check(&first, "canary")["end"], "passed", "{first}");
    follow_up_to_now(&place);
    place.expect(0, &["canary"]);
    follow_up_to_now(&place);
    assert_eq!(place.convex.state().tables[&key].len(), 1, "the same document");
    let second = drilled(&place, 0, &[]);
    let time = |record: &Value| record["canary"].as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().unwrap();
    assert!(time(&second) > time(&first), "{second}");
    assert!(second["segments"].as_u64().unwrap() > 0, "by its changes, without another snapshot: {second}");
    // One that the deployment took two hours ago, newer than what comes back.
    let marks = marks_in(&place.path("state/lifeboat/canaries"));
    let whole = fs::read_to_string(&marks).unwrap();
    let words = |at: chrono::DateTime<chrono::Utc>| at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
    let (now, then) = (chrono::Utc::now(), chrono::Utc::now() - chrono::TimeDelta::hours(2));
    fs::write(&marks, format!("{} {}\n", words(now), words(then))).unwrap();
    let lost = drilled(&place, 13, &[]);
    assert!(detail(&lost).contains("did not come back"), "{lost}");
    fs::write(&marks, &whole).unwrap();
    drilled(&place, 0, &[]);
    // What was not taken is not remembered, and a backup without it says so and is made.
    let (key, good) = (place.path("key"), fs::read(place.path("key")).unwrap());
    fs::write(&key, "no-key").unwrap();
    let (_, refused) = place.expect(2, &["canary"]);
    assert!(refused.contains("the admin key in `key` cannot be used"), "{refused}");
    assert_eq!(fs::read_to_string(&marks).unwrap(), whole);
    fs::write(&key, good).unwrap();
    place.convex.delete(&canary_of(&place));
    follow_up_to_now(&place);
    let gone = drilled(&place, 13, &[]);
    assert!(detail(&gone).contains("none did") || detail(&gone).contains("there is no canary"), "{gone}");
}

/// The id of the document.
fn canary_of(place: &Place) -> String {
    let key = (String::new(), "lifeboat_canary".to_owned());
    place.convex.state().tables[&key].keys().next().unwrap().clone()
}
