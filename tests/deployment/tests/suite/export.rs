//! Exports and files over plain HTTP.

use crate::common::{client, unzip};
use deployment::{Deployment, ExportFault, Features, Options, json};

#[test]
fn an_export_holds_the_tables_of_one_timestamp() {
    let convex = Deployment::start(Options::default()).unwrap();
    let one =
        convex.insert("messages", json(r#"{"text":"hi","n":7,"f":7.0,"z":-0.0,"nan":{"$float":"774AAAAA+H8="}}"#));
    convex.insert("messages", json(r#"{"Upper":1,"_under":2,"lower":3}"#));
    convex.insert(("waitlist", "entries"), json(r#"{"who":"me"}"#));
    convex.create_table("empty");
    let file = convex.store_file("", Some("image/png"), &b"picture"[..]);
    let http = client(&convex);
    assert_eq!(http.post("/api/export/request/zip?includeStorage=true", "").0, 200);
    let ts = http.wait_for_export();
    assert_eq!(ts, convex.latest() - (convex.latest() - ts));
    convex.delete(&one);
    let (status, zip) = http.get(&format!("/api/export/zip/{ts}"));
    assert_eq!(status, 200);
    let entries = unzip(&zip);
    let names: Vec<&str> = entries.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "README.md",
            "_tables/documents.jsonl",
            "_components/waitlist/_tables/documents.jsonl",
            "empty/documents.jsonl",
            "empty/generated_schema.jsonl",
            "_components/waitlist/entries/documents.jsonl",
            "_components/waitlist/entries/generated_schema.jsonl",
            "messages/documents.jsonl",
            "messages/generated_schema.jsonl",
            "_storage/documents.jsonl",
            &format!("_storage/{file}.png"),
            "_components/waitlist/_storage/documents.jsonl",
        ]
    );
    let text = |name: &str| {
        let (_, bytes) = entries.iter().find(|(n, _)| n == name).unwrap();
        String::from_utf8(bytes.clone()).unwrap()
    };
    assert_eq!(
        text("_tables/documents.jsonl"),
        "{\"name\":\"messages\",\"id\":10001}\n{\"name\":\"empty\",\"id\":10002}\n"
    );
    assert_eq!(text("messages/generated_schema.jsonl"), "\"uniform\"\n");
    let state = convex.state_at(ts);
    let messages = &state.tables[&(String::new(), "messages".to_owned())];
    assert_eq!(messages.len(), 2);
    let lines: std::collections::BTreeSet<&str> = messages.values().map(String::as_str).collect();
    let found = text("messages/documents.jsonl");
    assert_eq!(found.lines().collect::<std::collections::BTreeSet<_>>(), lines);
    assert!(found.contains(r#""f":7.0,"n":7,"nan":{"$float":"774AAAAA+H8="},"text":"hi","z":-0.0}"#), "{found}");
    assert!(found.contains(r#"{"Upper":1,"_creationTime":"#), "{found}");
    assert!(text("_storage/documents.jsonl").starts_with(&format!("{{\"_id\":\"{file}\",\"_creationTime\":1")));
    assert!(convex.state().tables[&(String::new(), "messages".to_owned())].len() == 1);
}

#[test]
fn an_old_backend_writes_clean_json_and_the_type_it_lost() {
    let convex = Deployment::start(Options { features: Features::early_2026(), ..Options::default() }).unwrap();
    convex.insert("t", json(r#"{"n":7}"#));
    let http = client(&convex);
    http.post("/api/export/request/zip", "");
    let ts = http.wait_for_export();
    let entries = unzip(&http.get(&format!("/api/export/zip/{ts}")).1);
    assert!(String::from_utf8_lossy(&entries[2].1).contains(r#""n":"7"}"#));
    assert_eq!(
        String::from_utf8_lossy(&entries[3].1),
        "\"{\\\"_creationTime\\\": normalfloat64, \\\"_id\\\": string, \\\"n\\\": int64}\"\n"
    );
}

#[test]
fn one_export_runs_at_a_time_and_a_cancelled_one_ends() {
    let convex = Deployment::start(Options::default()).unwrap();
    convex.faults().set_export(ExportFault::Stuck);
    let http = client(&convex);
    assert_eq!(http.post("/api/export/request/zip", "").0, 200);
    assert_eq!(http.code(http.post("/api/export/request/zip", "")), (400, "ExportInProgress".to_owned()));
    let row = http.query("_system/cli/exports:getLatest", "{}");
    let id = row["_id"].as_str().unwrap().to_owned();
    assert_eq!(http.code(http.get(&format!("/api/export/zip/{id}"))), (400, "ExportNotComplete".to_owned()));
    assert_eq!(http.code(http.get("/api/export/zip/1")), (404, "ExportNotFound".to_owned()));
    assert_eq!(http.code(http.get("/api/export/zip/x")), (400, "BadSnapshotId".to_owned()));
    assert_eq!(http.post(&format!("/api/export/set_expiration/{id}"), r#"{"expirationTsNs":0}"#).0, 500);
    assert_eq!(http.post(&format!("/api/export/cancel/{id}"), "").0, 200);
    assert_eq!(http.post(&format!("/api/export/cancel/{id}"), "").0, 500);
    assert_eq!(http.query("_system/cli/exports:getLatest", "{}")["state"], "canceled");
}

#[test]
fn an_export_that_starts_over_is_seen_to_do_so() {
    let convex = Deployment::start(Options::default()).unwrap();
    convex.faults().set_export(ExportFault::StartsOver);
    let http = client(&convex);
    http.post("/api/export/request/zip", "");
    let message = || {
        let row = http.query("_system/cli/exports:getLatest", "{}");
        row["progress_message"].as_str().unwrap_or_default().to_owned()
    };
    while !message().starts_with("Backing up messages") {}
    assert_eq!([message(), message()], ["Beginning backup", "Backing up _tables"]);
    assert!(message().starts_with("Backing up messages"));
}

#[test]
fn an_expired_export_goes_with_the_sweep() {
    let convex = Deployment::start(Options::default()).unwrap();
    let http = client(&convex);
    http.post("/api/export/request/zip", "");
    let ts = http.wait_for_export();
    let id = http.query("_system/cli/exports:getLatest", "{}")["_id"].as_str().unwrap().to_owned();
    assert_eq!(convex.sweep_exports(), 0);
    assert_eq!(http.post(&format!("/api/export/set_expiration/{id}"), r#"{"expirationTsNs":0}"#).0, 200);
    assert_eq!(convex.sweep_exports(), 1);
    assert_eq!(http.get(&format!("/api/export/zip/{ts}")).0, 404);
}

#[test]
fn a_zip_of_more_than_65535_entries_is_whole() {
    let convex = Deployment::start(Options::default()).unwrap();
    for n in 0u32..66_000 {
        convex.store_file("", None, n.to_le_bytes().to_vec());
    }
    let http = client(&convex);
    http.post("/api/export/request/zip?includeStorage=true", "");
    let ts = http.wait_for_export();
    let zip = http.get(&format!("/api/export/zip/{ts}")).1;
    assert_eq!(crate::common::sizes(&zip).len(), 66_003);
}
