//! Imports: what each mode keeps, replaces and refuses, and what can be seen meanwhile.

use std::collections::BTreeMap;

use crate::common::{Client, client};
use deployment::{Deployment, DocumentId, Features, ImportFault, Options, ZipWriter, json};
use serde_json::Value as Json;

fn zip(entries: &[(&str, &str)]) -> Vec<u8> {
    let mut zip = ZipWriter::new();
    for (name, content) in entries {
        zip.add(name, content.as_bytes()).unwrap();
    }
    zip.finish()
}

fn id(number: u32, n: u8) -> String {
    DocumentId::new(number, [n; 16]).to_string()
}

fn line(number: u32, n: u8, fields: &str) -> String {
    format!("{{\"_creationTime\":1700000000000.5,\"_id\":\"{}\"{fields}}}\n", id(number, n))
}

/// Uploads in parts; the id of the import.
fn upload(http: &Client, zip: &[u8], mode: &str) -> String {
    let start = http.json(http.post("/api/import/start_upload", ""));
    let token = start["uploadToken"].as_str().unwrap();
    let mut tokens = Vec::new();
    for (n, part) in zip.chunks(700).enumerate() {
        let path = format!("/api/import/upload_part?uploadToken={token}&partNumber={}", n + 1);
        let (status, _, body) = http.send("POST", &path, "Content-Type: application/octet-stream\r\n", part);
        assert_eq!(status, 200);
        tokens.push(serde_json::from_slice::<Json>(&body).unwrap());
    }
    let body = serde_json::json!({
        "import": { "mode": mode, "format": "zip" }, "uploadToken": token, "partTokens": tokens,
    });
    http.json(http.post("/api/import/finish_upload", &body.to_string()))["importId"].as_str().unwrap().to_owned()
}

/// Waits for one of these states; the row.
fn wait(http: &Client, id: &str, states: &[&str]) -> Json {
    loop {
        let row = http.query("_system/cli/queryImport", &format!(r#"{{"importId":"{id}"}}"#));
        let state = row["state"]["state"].as_str().unwrap();
        if states.contains(&state) {
            return row;
        }
        assert!(!["completed", "failed"].contains(&state), "{row}");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

/// Uploads, confirms and waits for the end: the row's `state`.
fn import(http: &Client, zip: &[u8], mode: &str) -> Json {
    let id = upload(http, zip, mode);
    let row = wait(http, &id, &["waiting_for_confirmation", "failed"]);
    if row["state"]["state"] == "failed" {
        return row["state"].clone();
    }
    assert_eq!(http.post("/api/perform_import", &format!(r#"{{"importId":"{id}"}}"#)).0, 200);
    wait(http, &id, &["completed", "failed"])["state"].clone()
}

fn error(state: &Json) -> String {
    assert_eq!(state["state"], "failed", "{state}");
    let text = state["error_message"].as_str().unwrap();
    text.strip_prefix("Hit an error while importing:\n").unwrap_or(text).to_owned()
}

/// Tables of the root by name, with how many documents they have.
fn counts(convex: &Deployment) -> BTreeMap<String, usize> {
    convex.state().tables.into_iter().filter(|(k, _)| k.0.is_empty()).map(|((_, t), d)| (t, d.len())).collect()
}

fn count_of(pairs: &[(&str, usize)]) -> BTreeMap<String, usize> {
    pairs.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect()
}

#[test]
fn an_export_imports_into_an_empty_deployment_as_it_was() {
    let convex = Deployment::start(Options::default()).unwrap();
    convex.fill(300, 12);
    convex.create_component("a/b");
    convex.insert(
        ("a/b", "deep"),
        json(r#"{"n":-7,"f":-0.0,"bytes":{"$bytes":"AP8="},"nan":{"$float":"774AAAAA+H8="}}"#),
    );
    convex.store_file("a/b", None, &b"in a component"[..]);
    convex.create_table("empty");
    let http = client(&convex);
    http.post("/api/export/request/zip?includeStorage=true", "");
    let ts = http.wait_for_export();
    let zip = http.get(&format!("/api/export/zip/{ts}")).1;
    let other = Deployment::start(Options { seed: 2, ..Options::default() }).unwrap();
    let state = import(&client(&other), &zip, "requireEmpty");
    assert_eq!((state["state"].as_str(), state["num_rows_written"].as_str()), (Some("completed"), Some("301")));
    assert_eq!(other.state(), convex.state_at(ts));
    assert_eq!(
        error(&import(&client(&other), &zip, "requireEmpty")).split('.').next(),
        Some("Data for table `events` already exists")
    );
}

#[test]
fn each_mode_keeps_and_replaces_what_it_should() {
    let both =
        [("_tables/documents.jsonl", "{\"name\":\"a\",\"id\":10001}\n"), ("a/generated_schema.jsonl", "\"uniform\"\n")];
    let rows = line(10001, 1, ",\"n\":1") + &line(10001, 2, ",\"n\":2");
    let upload = zip(&[both[0], both[1], ("a/documents.jsonl", &rows)]);
    for (mode, expected) in
        [("replace", vec![("a", 2), ("b", 1)]), ("replaceAll", vec![("a", 2)]), ("append", vec![("a", 3), ("b", 1)])]
    {
        let convex = Deployment::start(Options::default()).unwrap();
        convex.insert("a", json("{}"));
        convex.insert("b", json("{}"));
        let state = import(&client(&convex), &upload, mode);
        assert_eq!(state["state"], "completed", "{mode}: {state}");
        assert_eq!(counts(&convex), count_of(&expected), "{mode}");
    }
    let convex = Deployment::start(Options::default()).unwrap();
    convex.insert("a", json("{}"));
    convex.insert("b", json("{}"));
    convex.set_schema("", r#"{"tables":[{"tableName":"b"}]}"#);
    import(&client(&convex), &upload, "replaceAll");
    assert_eq!(counts(&convex), count_of(&[("a", 2), ("b", 0)]), "a table of the schema is emptied, not dropped");
}

#[test]
fn a_partial_zip_with_a_full_list_of_tables_empties_the_others() {
    let convex = Deployment::start(Options::default()).unwrap();
    convex.insert("a", json("{}"));
    convex.insert("b", json("{}"));
    let list = "{\"name\":\"a\",\"id\":10001}\n{\"name\":\"b\",\"id\":10002}\n";
    let upload = zip(&[
        ("_tables/documents.jsonl", list),
        ("a/documents.jsonl", &line(10001, 1, "")),
        ("a/generated_schema.jsonl", "\"uniform\"\n"),
    ]);
    let http = client(&convex);
    let id = self::upload(&http, &upload, "replace");
    let row = wait(&http, &id, &["waiting_for_confirmation"]);
    let text = row["state"]["message_to_confirm"].as_str().unwrap();
    assert!(text.starts_with("Import change summary:\n") && text.contains("b     | 0 | 1 of 1 |"), "{text}");
    assert_eq!(row["state"]["require_manual_confirmation"], true);
    assert_eq!(row["checkpoints"][1]["existing_rows_to_delete"], "1");
    http.post("/api/perform_import", &format!(r#"{{"importId":"{id}"}}"#));
    wait(&http, &id, &["completed"]);
    assert_eq!(counts(&convex), count_of(&[("a", 1), ("b", 0)]));
}

#[test]
fn what_cannot_be_imported_is_refused_with_its_reason() {
    let schema = ("a/generated_schema.jsonl", "\"uniform\"\n");
    let a = |rows: &str| zip(&[("a/documents.jsonl", rows), schema]);
    let convex = Deployment::start(Options::default()).unwrap();
    let kept = convex.insert("kept", json("{}"));
    let http = client(&convex);
    let twice = line(10009, 1, "") + &line(10009, 1, "");
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"no zip at all".to_vec(), "invalid zip file"),
        (a("{\"_id\":\"nonsense\"}\n"), "invalid _id 'nonsense'"),
        (a(&(line(10009, 1, "") + &line(10008, 2, ""))), "cannot be imported into table `a` of number 10009"),
        (a(&twice), "duplicate _id"),
        (a(&format!("{{\"_id\":\"{}\",\"_creationTime\":17}}\n", id(10009, 1))), "expected a float64"),
        (a("{\"x\":\n"), "failed to parse JSON row 1"),
        (a("[]\n"), "row 1 is not an object"),
        (a(&line(10001, 1, "")), "cannot take number 10001: `kept` has it"),
        (zip(&[("9x/documents.jsonl", "")]), "invalid table name"),
        (zip(&[("a/documents.jsonl", ""), ("a/generated_schema.jsonl", "\"{}\"\n")]), "reads no inferred types"),
        (zip(&[("a/documents.jsonl", "\u{feff}{}\n"), schema]), "byte order mark"),
        (
            zip(&[("a/documents.jsonl", &line(10009, 1, "")), schema, ("b/documents.jsonl", &line(10009, 2, ""))]),
            "both have ids of number 10009",
        ),
    ];
    for (upload, expected) in cases {
        let found = error(&import(&http, &upload, "replace"));
        assert!(found.contains(expected), "{found}");
    }
    assert_eq!(counts(&convex), count_of(&[("kept", 1)]));
    let again = zip(&[
        ("kept/documents.jsonl", &format!("{{\"_id\":\"{kept}\"}}\n")),
        ("kept/generated_schema.jsonl", "\"uniform\"\n"),
    ]);
    assert!(error(&import(&http, &again, "append")).contains("already exists"));
    convex.delete(&kept);
    assert!(error(&import(&http, &again, "append")).contains("Cannot recreate document"));
    assert_eq!(import(&http, &again, "replace")["state"], "completed");
    let old = Deployment::start(Options { features: Features::early_2026(), ..Options::default() }).unwrap();
    let found = error(&import(&client(&old), &a(""), "replace"));
    assert_eq!(found, "cannot parse a/generated_schema.jsonl: unexpected token at 'uniform'");
}

#[test]
fn without_a_schema_numbers_are_floats_and_without_ids_they_are_made() {
    let convex = Deployment::start(Options::default()).unwrap();
    let state = import(&client(&convex), &zip(&[("dir/x/a/documents.jsonl", "{\"n\":7}\n")]), "requireEmpty");
    assert_eq!(state["state"], "completed", "{state}");
    let tables = convex.state().tables;
    let (_, line) = tables[&(String::new(), "a".to_owned())].first_key_value().unwrap();
    assert!(line.ends_with(",\"n\":7.0}"), "{line}");
}

#[test]
fn files_keep_their_ids_and_names_and_are_checked() {
    let file = id(540, 3);
    let row = |sha: &str| {
        format!(
            "{{\"_id\":\"{file}\",\"_creationTime\":1.5,\"sha256\":\"{sha}\",\"size\":2,\"contentType\":\"text/plain\",\
             \"internalId\":\"11111111-2222-4333-8444-555555555555\"}}\n"
        )
    };
    let good = "j0NDRmSPa5bfid2pAcUXaxCm2Dlh3TwayItZstwyeqQ=";
    let blob = format!("_storage/{file}.txt");
    let without_row = format!("_storage/{}", id(540, 4));
    let convex = Deployment::start(Options::default()).unwrap();
    let old = convex.store_file("", None, &b"old"[..]);
    let http = client(&convex);
    let wrong = zip(&[("_storage/documents.jsonl", &row("AAAA")), (&blob, "hi")]);
    assert!(error(&import(&http, &wrong, "replace")).contains("sha256 mismatch"));
    assert!(convex.state().files.contains_key(&(String::new(), old.clone())));
    let list = row(good) + &row(good).replace(&file, &id(540, 9));
    let upload = zip(&[("_storage/documents.jsonl", &list), (&blob, "hi"), (&without_row, "bare")]);
    assert_eq!(import(&http, &upload, "replace")["state"], "completed");
    let files = convex.state().files;
    assert_eq!(files.len(), 2, "the row without blob is dropped, the old file is gone");
    let kept = &files[&(String::new(), file.clone())];
    assert_eq!((kept.uuid.as_str(), kept.created.as_str()), ("11111111-2222-4333-8444-555555555555", "1.5"));
    assert_eq!(files[&(String::new(), id(540, 4))].content_type, None);
    assert_eq!(http.get("/api/storage/11111111-2222-4333-8444-555555555555").1, b"hi");
    let only_blobs = zip(&[(&without_row, "x")]);
    assert_eq!(import(&http, &only_blobs, "replaceAll")["state"], "completed");
    assert_eq!(convex.state().files.len(), 2, "blobs without any rows are ignored");
}

#[test]
fn rows_of_an_import_show_in_the_stream_before_it_fails_and_stay() {
    let convex = Deployment::start(Options::default()).unwrap();
    convex.insert("a", json(r#"{"old":true}"#));
    let http = client(&convex);
    let ts = convex.latest();
    convex.faults().set_import(ImportFault::Fails("the backend was hit".to_owned()));
    let upload = zip(&[("a/documents.jsonl", &line(10001, 1, "")), ("a/generated_schema.jsonl", "\"uniform\"\n")]);
    assert_eq!(error(&import(&http, &upload, "replace")), "the backend was hit");
    let deltas = http.json(http.get(&format!("/api/document_deltas?cursor={ts}")));
    assert_eq!(deltas["values"][0]["_id"], id(10001, 1));
    assert_eq!(counts(&convex), count_of(&[("a", 1)]));
    assert!(convex.state().tables[&(String::new(), "a".to_owned())].values().all(|line| line.contains("old")));
    // A data sync takes both tables of the name, and the second one wipes the first.
    let page = http.json(http.post("/api/v1/data/sync", "{}"));
    assert_eq!(page["truncates"].as_array().unwrap().len(), 2);
}

#[test]
fn an_import_can_hang_and_be_cancelled() {
    let convex = Deployment::start(Options::default()).unwrap();
    let http = client(&convex);
    let upload = zip(&[("a/documents.jsonl", &line(10001, 1, "")), ("a/generated_schema.jsonl", "\"uniform\"\n")]);
    convex.faults().set_import(ImportFault::StaysUploaded);
    let first = self::upload(&http, &upload, "replace");
    assert_eq!(wait(&http, &first, &["uploaded"])["mode"], "Replace");
    convex.faults().set_import(ImportFault::StaysInProgress);
    let second = self::upload(&http, &upload, "replace");
    wait(&http, &second, &["waiting_for_confirmation"]);
    http.post("/api/perform_import", &format!(r#"{{"importId":"{second}"}}"#));
    wait(&http, &second, &["in_progress"]);
    let list = http.query("_system/cli/queryImport:list", "{}");
    assert_eq!(
        list.as_array().unwrap().iter().map(|i| i["_id"].as_str().unwrap()).collect::<Vec<_>>(),
        [&second, &first]
    );
    for id in [&first, &second] {
        assert_eq!(http.post("/api/cancel_import", &format!(r#"{{"importId":"{id}"}}"#)).0, 200);
        assert_eq!(error(&wait(&http, id, &["failed"])["state"]), "Import canceled");
        let again = http.post("/api/cancel_import", &format!(r#"{{"importId":"{id}"}}"#));
        assert_eq!(http.code(again), (400, "CannotCancelImport".to_owned()));
    }
    let body = |id: &str| format!(r#"{{"importId":"{id}"}}"#);
    assert_eq!(http.code(http.post("/api/perform_import", &body("x"))), (400, "InvalidImport".to_owned()));
    assert_eq!(http.code(http.post("/api/perform_import", &body(&id(532, 1)))), (404, "ImportNotFound".to_owned()));
    assert!(counts(&convex).is_empty());
}

#[test]
fn a_small_file_imports_at_once() {
    let convex = Deployment::start(Options::default()).unwrap();
    let http = client(&convex);
    let path = "/api/import?format=jsonLines&mode=append&tableName=notes";
    let (status, _, body) = http.send("POST", path, "", b"{\"a\":1}\n{\"a\":2}\n");
    assert_eq!((status, String::from_utf8(body).unwrap()), (200, r#"{"numWritten":2}"#.to_owned()));
    let answer = http.send("POST", "/api/import?format=zip&tableName=x", "", b"");
    assert_eq!(http.code((answer.0, answer.2)), (400, "InvalidName".to_owned()));
    assert_eq!(counts(&convex), count_of(&[("notes", 2)]));
}
