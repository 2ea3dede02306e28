//! A Convex deployment, there and back: what a snapshot shows is what the deployment's own model had at its time, to the byte.

use std::sync::Arc;

use deployment::json;
use lifeboat::model::ConvexFacts;
use lifeboat::ops;
use lifeboat::ops::restore::convex::{Wishes, counts};
use lifeboat::ops::restore::find_snapshot;
use lifeboat::plan::restore::Wanted;
use lifeboat::progress::Silent;
use lifeboat::source::convex::{ConvexOptions, KeyFrom};

use crate::common::chance::{Chance, each_seed};
use crate::common::convex::{Heard, ODD, Scene, unzip, work};

#[test]
fn work_by_chance_comes_back_as_the_model_has_it() {
    each_seed(2, |seed| {
        let scene = Scene::new();
        let (mut chance, mut ids) = (Chance::new(seed), Vec::new());
        let mut reports = Vec::new();
        for round in 0..3 {
            work(&scene.convex, &mut chance, &mut ids, 60 + 40 * round);
            reports.push(scene.backup());
        }
        // An older snapshot shows its own time, whatever came later.
        work(&scene.convex, &mut chance, &mut ids, 50);
        for report in &reports {
            scene.assert_restores(report);
        }
    });
}

#[test]
fn every_value_keeps_its_text() {
    let scene = Scene::new();
    scene.convex.insert("odd", json(ODD));
    scene.convex.create_table("empty");
    scene.convex.create_component("mounted");
    let report = scene.backup();
    scene.assert_restores(&report);
    let all = unzip(&scene.zip(&Wishes::default()));
    let line = String::from_utf8(all["odd/documents.jsonl"].clone()).unwrap();
    for exact in ["\"seven\":7,", "\"seven_float\":7.0,", "\"minus_zero\":-0.0", "9007199254740993", "AQAAAAAA+H8="] {
        assert!(line.contains(exact), "{exact} in {line}");
    }
    assert_eq!(all["empty/documents.jsonl"], b"");
}

#[test]
fn the_facts_say_what_a_stream_goes_on_from() {
    let scene = Scene::new();
    scene.convex.insert("users", json(r#"{"n":1}"#));
    scene.convex.insert(("waitlist", "entries"), json(r#"{"n":1}"#));
    scene.convex.store_file("", Some("image/png"), &b"png"[..]);
    let latest = scene.convex.latest();
    let report = scene.backup();
    let ConvexFacts { instance, tables, documents, files, partial, not_uniform, .. } = scene.facts(&report);
    assert_eq!(instance, scene.convex.instance_name());
    assert_eq!((tables, documents, files, partial, not_uniform), (2, 2, Some(1), false, None));
    assert!(scene.facts(&report).timestamp().unwrap() >= latest);
    let (repository, _) = scene.host.open(Some(&scene.person)).unwrap();
    let (snapshot, _) = find_snapshot(&repository, "app", &Wanted::Latest, false).unwrap();
    let counted = counts(&repository, &snapshot, &Silent).unwrap();
    let names: Vec<(String, u64)> = counted.iter().map(|table| (table.full_name(), table.documents)).collect();
    assert_eq!(names, [("users".to_owned(), 1), ("waitlist/entries".to_owned(), 1)]);
}

#[test]
fn a_second_snapshot_adds_what_changed_and_fetches_no_file_again() {
    let scene = Scene::new();
    for n in 0..2000 {
        let noise = blake3::hash(&[n as u8, (n >> 8) as u8]).to_hex();
        scene.convex.insert("messages", json(&format!("{{\"n\":{n},\"text\":\"{}\"}}", noise.repeat(10))));
    }
    for n in 0..20u8 {
        let mut bytes = vec![0; 100_000];
        blake3::Hasher::new().update(&[n]).finalize_xof().fill(&mut bytes);
        scene.convex.store_file("", Some("image/png"), bytes);
    }
    let first = scene.backup();
    assert_eq!(scene.convex.faults().count("GET /api/storage/"), 20);
    scene.convex.insert("messages", json(r#"{"n":-1}"#));
    let new = scene.convex.store_file("", None, &b"one more"[..]);
    scene.convex.faults().forget_requests();
    let second = scene.backup();
    assert_eq!(scene.convex.faults().count("GET /api/storage/"), 1);
    let (all, more) = (first.counts.bytes_new, second.counts.bytes_new);
    assert!(more * 10 < all, "{more} new bytes after {all}");
    assert_eq!(second.files_unmodified, 20);
    scene.assert_restores(&second);
    // A file that is gone is gone from the next snapshot, and stays in this one.
    scene.convex.delete_file(&new);
    scene.assert_restores(&scene.backup());
    scene.assert_restores(&second);
}

#[test]
fn an_export_does_not_stay_on_the_server() {
    let scene = Scene::new();
    scene.convex.insert("users", json(r#"{"n":1}"#));
    scene.backup();
    assert_eq!(scene.convex.sweep_exports(), 1);
    scene.try_backup(ConvexOptions { keep_exports: true, ..scene.options() }).unwrap();
    assert_eq!(scene.convex.sweep_exports(), 0);
}

#[test]
fn tables_are_chosen() {
    let scene = Scene::new();
    for table in ["users", "logs", "logs_old"] {
        scene.convex.insert(table, json(r#"{"n":1}"#));
    }
    scene.convex.insert(("waitlist", "entries"), json(r#"{"n":1}"#));
    scene.convex.store_file("", None, &b"bytes"[..]);
    let take = |tables: &[&str], exclude: &[&str]| {
        let list = |all: &[&str]| all.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let heard = Arc::new(Heard::default());
        let options =
            ConvexOptions { tables: list(tables), exclude_tables: list(exclude), files: false, ..scene.options() };
        scene.backup_heard(options, Arc::clone(&heard) as _).unwrap();
        let all = unzip(&scene.zip(&Wishes::default()));
        let names: Vec<String> =
            all.keys().filter_map(|name| name.strip_suffix("/generated_schema.jsonl")).map(str::to_owned).collect();
        let list = String::from_utf8(all.get("_tables/documents.jsonl").cloned().unwrap_or_default()).unwrap();
        assert!(!all.keys().any(|name| name.contains("_storage")), "files were not asked for");
        let warned = heard.0.lock().unwrap().len();
        (names, list.lines().count(), warned)
    };
    let own = |all: &[&str]| all.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(take(&["users"], &[]), (own(&["users"]), 1, 0));
    assert_eq!(take(&[], &["logs*", "waitlist/*"]), (own(&["users"]), 1, 0));
    assert_eq!(take(&["logs*"], &["logs_old"]), (own(&["logs"]), 1, 0));
    assert_eq!(take(&["waitlist/*", "nothing"], &[]), (own(&["_components/waitlist/entries"]), 0, 1));
}

#[test]
fn a_part_of_an_archive_names_no_other_table() {
    let scene = Scene::new();
    for table in ["users", "entitlements", "logs"] {
        scene.convex.insert(table, json(r#"{"n":1}"#));
    }
    scene.convex.insert(("waitlist", "entries"), json(r#"{"n":1}"#));
    scene.convex.store_file("", None, &b"bytes"[..]);
    scene.backup();
    let names = |wishes: Wishes| unzip(&scene.zip(&wishes)).into_keys().collect::<Vec<_>>();
    let tables = vec!["users".to_owned(), "waitlist/*".to_owned()];
    let part = Wishes { tables, ..Wishes::default() };
    let all = unzip(&scene.zip(&part));
    let list = String::from_utf8(all["_tables/documents.jsonl"].clone()).unwrap();
    assert!(list.contains("\"users\"") && list.lines().count() == 1, "{list}");
    assert_eq!(
        names(part.clone()),
        [
            "_components/waitlist/_tables/documents.jsonl",
            "_components/waitlist/entries/documents.jsonl",
            "_components/waitlist/entries/generated_schema.jsonl",
            "_tables/documents.jsonl",
            "users/documents.jsonl",
            "users/generated_schema.jsonl",
        ]
    );
    assert_eq!(scene.zip(&part), scene.zip(&part), "the same wishes give the same bytes");
    let root = Wishes { components: vec![String::new()], no_files: true, ..Wishes::default() };
    assert!(names(root).iter().all(|name| !name.starts_with("_components") && !name.contains("_storage")));
    let unknown = scene.planned(&Wanted::Latest, &Wishes { tables: vec!["user".into()], ..Wishes::default() });
    assert!(matches!(unknown, Err(ops::Error::NoSuchTable { .. })));
}

#[test]
fn a_key_is_made_from_the_secret() {
    let scene = Scene::new();
    scene.convex.insert("users", json(r#"{"n":1}"#));
    std::fs::write(scene.path("secret"), format!("{}\n", scene.convex.instance_secret())).unwrap();
    let instance = scene.convex.instance_name().to_owned();
    let key = KeyFrom::Secret { instance, file: scene.path("secret") };
    let report = scene.try_backup(ConvexOptions { key, ..scene.options() }).unwrap();
    scene.assert_restores(&report);
}

#[test]
fn the_rest_of_a_deployment_is_stored_and_says_what_answered() {
    let scene = Scene::new();
    scene.convex.insert("users", json(r#"{"n":1}"#));
    scene.convex.set_schema("", r#"{"tables":[]}"#);
    scene.backup();
    let (repository, _) = scene.host.open(Some(&scene.person)).unwrap();
    let (snapshot, _) = find_snapshot(&repository, "app", &Wanted::Latest, false).unwrap();
    let read = |name: &str| {
        let path = format!(".lifeboat/convex/{name}");
        let text = ops::restore::convex::small_file(&repository, &snapshot, &path, &Silent).unwrap().unwrap();
        serde_json::from_slice::<serde_json::Value>(&text).unwrap()
    };
    let parts = read("parts.json");
    let answered = |name: &str| {
        let part = parts["parts"].as_array().unwrap().iter().find(|part| part["file"] == name).unwrap();
        part["answered"].as_bool().unwrap()
    };
    assert!(
        answered("environment_variables.json") && answered("schemas.json") && answered("components.json"),
        "{parts}"
    );
    assert!(read("schemas.json")[""]["active"].as_str().unwrap().contains("tables"));
    assert_eq!(read("server.json")["data_sync"], true);
    // What is in no export is in no archive either: it goes its own way.
    assert!(unzip(&scene.zip(&Wishes::default())).keys().all(|name| !name.contains(".lifeboat")));
}
