//! Streams: what they show of the log, and what they keep to themselves.

use std::collections::BTreeMap;

use crate::common::{Client, client};
use deployment::{Deployment, Features, Options, json};
use serde_json::Value as Json;

/// A clock that stands still: 2026-09-01.
const DAY: i64 = 24 * 3600 * 1_000_000_000;
const START: i64 = 1_788_220_800_000_000_000;

fn fixed() -> Options {
    Options { clock_ns: Some(START), ..Options::default() }
}

/// Documents by component, table and id, from a base and what came after it.
type Mirror = BTreeMap<(String, String, String), String>;

fn row(row: &Json) -> ((String, String, String), String) {
    let text = |name: &str| row[name].as_str().unwrap().to_owned();
    let mut fields = row.as_object().unwrap().clone();
    for name in ["_component", "_table", "_ts", "_deleted"] {
        fields.remove(name);
    }
    ((text("_component"), text("_table"), text("_id")), Json::Object(fields).to_string())
}

fn expected(convex: &Deployment, ts: i64) -> Mirror {
    let mut mirror = Mirror::new();
    for ((component, table), documents) in convex.state_at(ts).tables {
        for (id, line) in documents {
            let line: Json = serde_json::from_str(&line).unwrap();
            mirror.insert((component.clone(), table.clone(), id), line.to_string());
        }
    }
    mirror
}

fn snapshot(http: &Client, mirror: &mut Mirror) -> (i64, usize) {
    let mut page = http.json(http.get("/api/list_snapshot?format=export_json"));
    let snapshot = page["snapshot"].as_i64().unwrap();
    let mut pages = 1;
    loop {
        mirror.extend(page["values"].as_array().unwrap().iter().map(row));
        if page["hasMore"] == false {
            assert_eq!(page["cursor"], Json::Null);
            return (snapshot, pages);
        }
        let body = serde_json::json!({ "snapshot": snapshot, "cursor": page["cursor"], "format": "export_json" });
        page = http.json(http.post("/api/list_snapshot", &body.to_string()));
        pages += 1;
    }
}

fn follow(http: &Client, mirror: &mut Mirror, mut cursor: i64) -> (i64, usize) {
    let mut pages = 0;
    loop {
        let page = http.json(http.get(&format!("/api/document_deltas?cursor={cursor}&format=export_json")));
        for value in page["values"].as_array().unwrap() {
            let (key, line) = row(value);
            match value["_deleted"].as_bool().unwrap() {
                true => drop(mirror.remove(&key)),
                false => drop(mirror.insert(key, line)),
            }
        }
        cursor = page["cursor"].as_i64().unwrap();
        pages += 1;
        if page["hasMore"] == false {
            return (cursor, pages);
        }
    }
}

#[test]
fn a_snapshot_and_its_deltas_are_the_state_at_each_end() {
    let convex = Deployment::start(Options { snapshot_page: 7, deltas_page: 5, ..fixed() }).unwrap();
    convex.fill(60, 0);
    convex.insert(("waitlist", "entries"), json(r#"{"n":9007199254740993}"#));
    let http = client(&convex);
    let mut mirror = Mirror::new();
    let (ts, pages) = snapshot(&http, &mut mirror);
    assert_eq!(mirror, expected(&convex, ts));
    assert_eq!(pages, 1 + 6 + 3 + 1, "6, 36 and 18 documents, and one");
    convex.churn(40);
    convex.transaction(|writes| (0..30).for_each(|n| drop(writes.insert("many", json(&format!("{{\"n\":{n}}}"))))));
    let (end, pages) = follow(&http, &mut mirror, ts);
    assert!(pages >= 9, "{pages}");
    assert_eq!(mirror, expected(&convex, end));
    assert_eq!(end, convex.latest());
}

#[test]
fn a_commit_is_never_split_and_system_rows_fill_pages() {
    let convex = Deployment::start(fixed()).unwrap();
    let start = convex.latest();
    convex.write_system_rows(128);
    convex.transaction(|writes| (0..300).for_each(|_| drop(writes.insert("t", json("{}")))));
    let http = client(&convex);
    let first = http.json(http.get(&format!("/api/document_deltas?cursor={start}")));
    assert_eq!((first["values"].as_array().unwrap().len(), &first["hasMore"]), (0, &Json::Bool(true)));
    let next = http.json(http.get(&format!("/api/document_deltas?cursor={}", first["cursor"])));
    assert_eq!(next["values"].as_array().unwrap().len(), 300);
    assert_eq!(next["hasMore"], false);
}

#[test]
fn what_is_out_of_retention_is_refused_in_each_route_in_its_way() {
    let convex = Deployment::start(fixed()).unwrap();
    convex.insert("t", json("{}"));
    let http = client(&convex);
    convex.set_clock(Some(START + 3 * DAY));
    convex.bump();
    let code = |path: String| http.code(http.get(&path));
    let old = START + 1;
    assert_eq!(code(format!("/api/document_deltas?cursor={old}")), (400, "InvalidWindowToReadDocuments".to_owned()));
    assert_eq!(code(format!("/api/list_snapshot?snapshot={old}")), (503, "InternalServerError".to_owned()));
    assert_eq!(code("/api/document_deltas".to_owned()), (400, "DocumentDeltasCursorRequired".to_owned()));
    let new = START + 4 * DAY;
    assert_eq!(code(format!("/api/list_snapshot?snapshot={new}")), (400, "SnapshotTooNew".to_owned()));
    assert_eq!(code("/api/list_snapshot?cursor=x".to_owned()), (400, "InvalidListSnapshotCursor".to_owned()));
    let ahead = http.json(http.get(&format!("/api/document_deltas?cursor={new}")));
    assert_eq!(ahead["cursor"].as_i64(), Some(START + 3 * DAY), "a cursor ahead of the database goes back");
    convex.set_clock(Some(START + 6 * DAY));
    assert_eq!(code(format!("/api/list_snapshot?snapshot={old}")), (400, "SnapshotTooOld".to_owned()));
    let bridge = |ts: i64| http.code(http.post("/api/data_sync_cursor_from_deltas", &format!(r#"{{"cursor":{ts}}}"#)));
    assert_eq!(bridge(old), (400, "DataSyncCursorExpired".to_owned()));
    assert_eq!(bridge(START + 9 * DAY), (400, "InvalidDataSyncCursor".to_owned()));
}

#[test]
fn the_databases_time_stands_still_on_an_idle_deployment() {
    let convex = Deployment::start(fixed()).unwrap();
    assert_eq!(convex.latest(), START);
    convex.set_clock(Some(START + DAY / 48));
    assert_eq!(convex.latest(), START, "half an hour without commits moves nothing");
    convex.insert("t", json("{}"));
    let committed = convex.latest();
    convex.set_clock(Some(START + DAY / 48 + 1_000_000_000));
    assert_eq!(convex.latest(), START + DAY / 48 + 1_000_000_000, "after a commit the bump follows");
    assert!(committed > START);
}

fn sync_to_the_end(http: &Client, cursor: Option<String>, mirror: &mut Mirror) -> (String, i64, Vec<String>) {
    let mut cursor = cursor;
    let mut statuses = Vec::new();
    loop {
        let page = http.json(http.post("/api/v1/data/sync", &serde_json::json!({ "cursor": cursor }).to_string()));
        for truncate in page["truncates"].as_array().unwrap() {
            let (component, table) = (truncate["component"].as_str().unwrap(), truncate["table"].as_str().unwrap());
            mirror.retain(|(c, t, _), _| (c.as_str(), t.as_str()) != (component, table));
        }
        for value in page["values"].as_array().unwrap() {
            let text = |name: &str| value[name].as_str().unwrap().to_owned();
            let key = (text("component"), text("table"), value["value"]["_id"].as_str().unwrap().to_owned());
            match value["deleted"].as_bool().unwrap() {
                true => drop(mirror.remove(&key)),
                false => drop(mirror.insert(key, value["value"].to_string())),
            }
        }
        assert_eq!(page["pagination"]["hasMore"], true);
        cursor = page["pagination"]["nextCursor"].as_str().map(str::to_owned);
        statuses.push(page["status"]["type"].as_str().unwrap().to_owned());
        if page["status"]["type"] == "upToDate" {
            return (cursor.unwrap(), page["status"]["snapshotTs"].as_i64().unwrap(), statuses);
        }
    }
}

#[test]
fn a_data_sync_is_the_state_when_it_says_that_it_is_up_to_date() {
    let convex = Deployment::start(Options { data_sync_page: 10, ..fixed() }).unwrap();
    convex.fill(100, 0);
    let http = client(&convex);
    let mut mirror = Mirror::new();
    let (cursor, ts, statuses) = sync_to_the_end(&http, None, &mut mirror);
    assert_eq!(mirror, expected(&convex, ts));
    assert_eq!(statuses[0], "snapshotting");
    convex.churn(50);
    convex.insert("new", json(r#"{"f":7.0}"#));
    let (_, ts, statuses) = sync_to_the_end(&http, Some(cursor.clone()), &mut mirror);
    assert_eq!(mirror, expected(&convex, ts));
    assert!(statuses.len() > 3, "{statuses:?}");
    let other = Deployment::start(Options { instance_secret: deployment::Secret([9; 32]), ..fixed() }).unwrap();
    let refused = client(&other).post("/api/v1/data/sync", &serde_json::json!({ "cursor": cursor }).to_string());
    assert_eq!(http.code(refused), (400, "InvalidDataSyncCursor".to_owned()));
}

#[test]
fn the_bridge_goes_on_from_the_timestamp_of_an_export() {
    let convex = Deployment::start(fixed()).unwrap();
    convex.fill(50, 0);
    let http = client(&convex);
    http.post("/api/export/request/zip", "");
    let ts = http.wait_for_export();
    convex.churn(30);
    let mut mirror = expected(&convex, ts);
    let bridge = http.json(http.post("/api/data_sync_cursor_from_deltas", &format!(r#"{{"cursor":{ts}}}"#)));
    let cursor = bridge["cursor"].as_str().unwrap().to_owned();
    let (_, end, _) = sync_to_the_end(&http, Some(cursor), &mut mirror);
    assert_eq!(mirror, expected(&convex, end));
}

#[test]
fn an_old_backend_lacks_what_it_lacks() {
    let convex = Deployment::start(Options { features: Features::early_2026(), ..fixed() }).unwrap();
    let http = client(&convex);
    let ts = convex.latest();
    let deltas = http.get(&format!("/api/document_deltas?cursor={ts}&format=export_json"));
    assert_eq!(http.code(deltas), (400, "BadFormat".to_owned()));
    assert_eq!(http.get(&format!("/api/document_deltas?cursor={ts}&format=convex_encoded_json")).0, 200);
    for path in ["/api/v1/data/sync", "/api/v1/pause_deployment", "/api/data_sync_cursor_from_deltas"] {
        assert_eq!(http.post(path, "{}").0, 404, "{path}");
    }
    let convex = Deployment::start(Options { features: Features::early_2025(), ..fixed() }).unwrap();
    let http = client(&convex);
    assert_eq!(http.get("/api/test_streaming_export_connection").0, 404);
    assert_eq!(http.post("/api/query", r#"{"path":"no:such","args":{}}"#).0, 560);
}
