//! Keys, files, variables, pause, and faults of the wire.

use crate::common::{Client, client};
use deployment::{Deployment, Failure, Options, Refusal, Secret, json};

fn start() -> (Deployment, Client) {
    let convex = Deployment::start(Options::default()).unwrap();
    let http = client(&convex);
    (convex, http)
}

#[test]
fn a_key_opens_what_it_may() {
    let (convex, http) = start();
    assert_eq!(http.get("/instance_name").1, b"convex-self-hosted");
    let check = http.json(http.get("/api/check_admin_key"));
    assert_eq!(check, serde_json::json!({ "success": true, "allowedOps": [], "isReadOnly": false }));
    let reader = http.with_key(&convex.read_only_key());
    assert_eq!(reader.json(reader.get("/api/check_admin_key"))["isReadOnly"], true);
    let request = "/api/export/request/zip";
    assert_eq!(http.code(reader.post(request, "")), (403, "OperationNotPermitted".to_owned()));
    assert_eq!(reader.get("/api/v1/list_environment_variables").0, 200);
    assert_eq!(reader.get("/api/document_deltas?cursor=9223372036854775807").0, 200);
    assert_eq!(http.code(http.with_key("").post(request, "")), (403, "BadDeployKey".to_owned()));
    let wrong =
        Secret([9; 32]).mint("convex-self-hosted", deployment::AdminKey { issued_s: 1, read_only: false }, [0; 12]);
    assert_eq!(http.code(http.with_key(&wrong).post(request, "")), (401, "BadAdminKey".to_owned()));
    assert_eq!(http.get("/api/nothing/here").0, 404);
    let bare = http.with_key("");
    let with = |header: &str| {
        let (status, _, body) = bare.send("POST", request, header, b"");
        http.code((status, body))
    };
    assert_eq!(with("Authorization: x\r\n"), (400, "InvalidHeaderFailure".to_owned()));
    assert_eq!(with("Authorization: Basic abc\r\n"), (400, "InvalidAdminKey".to_owned()));
    assert_eq!(with("Authorization: Bearer abc\r\n"), (403, "BadDeployKey".to_owned()));
    assert_eq!(with("Convex-Client: lifeboat\r\n"), (400, "InvalidClientVersion".to_owned()));
    assert_eq!(with("Convex-Client: npm-cli-0.19.1\r\n"), (400, "ClientVersionUnsupported".to_owned()));
    assert_eq!(with("Convex-Client: lifeboat-x\r\n").1, "BadDeployKey");
    let key = convex.admin_key();
    assert_eq!(bare.get(&format!("/api/check_admin_key?adminKey={}", key.replace('|', "%7C"))).0, 200);
    assert_eq!(bare.post("/api/get_config_hashes", &serde_json::json!({ "adminKey": key }).to_string()).0, 200);
}

#[test]
fn a_file_is_served_whole_and_in_ranges_with_the_odd_corners() {
    let (convex, http) = start();
    convex.store_file("", Some("text/plain"), &b"0123456789"[..]);
    let file = convex.state().files.into_values().next().unwrap();
    let path = format!("/api/storage/{}", file.uuid);
    let nobody = http.with_key("");
    let (status, head, body) = nobody.send("GET", &path, "", b"");
    assert_eq!((status, body.as_slice()), (200, &b"0123456789"[..]));
    assert!(head.contains("accept-ranges: bytes") && head.contains("digest: sha-256="), "{head}");
    let range = |range: &str| {
        let (status, head, body) = nobody.send("GET", &path, &format!("Range: {range}\r\n"), b"");
        let line = head.lines().find_map(|l| l.strip_prefix("content-range: ").map(str::to_owned));
        (status, line.unwrap_or_default(), String::from_utf8(body).unwrap())
    };
    let answer = |status: u16, line: &str, body: &str| (status, line.to_owned(), body.to_owned());
    assert_eq!(range("bytes=3-"), answer(206, "bytes 3-9/10", "3456789"));
    assert_eq!(range("bytes=3-4"), answer(206, "bytes 3-4/10", "34"));
    assert_eq!(range("bytes=8-99"), answer(206, "bytes 8-99/10", "89"));
    assert_eq!(range("bytes=10-"), answer(206, "bytes 10-9/10", ""));
    assert_eq!(range("bytes=-5"), answer(206, "", ""));
    assert_eq!(range("bytes=1-2,4-5").0, 416);
    assert_eq!(range("nonsense").0, 416);
    assert_eq!(http.code(http.get("/api/storage/x")), (400, "InvalidStoragePath".to_owned()));
    let unknown = http.get("/api/storage/11111111-2222-4333-8444-555555555555");
    assert_eq!(http.code(unknown), (404, "FileNotFound".to_owned()));
    assert_eq!(http.post("/api/v1/pause_deployment", "").0, 200);
    assert_eq!(http.code(http.get(&path)), (400, "BackendIsNotRunning".to_owned()));
    assert_eq!(http.query("_system/frontend/deploymentState:deploymentState", "{}")["state"], "paused");
    assert_eq!(http.post("/api/v1/unpause_deployment", "").0, 200);
    assert_eq!(http.code(http.post("/api/v1/unpause_deployment", "")), (400, "UnpauseDeploymentFailed".to_owned()));
    assert_eq!(http.get(&path).0, 200);
}

#[test]
fn the_listing_of_files_comes_in_pages_and_survives_deletions() {
    let (convex, http) = start();
    convex.create_component("photos");
    let ids: Vec<String> = (0..6).map(|n| convex.store_file("", None, vec![n])).collect();
    convex.store_file("photos", None, &b"x"[..]);
    let mut found = Vec::new();
    let mut cursor = serde_json::Value::Null;
    loop {
        let args = serde_json::json!({
            "componentId": null, "paginationOpts": { "numItems": 2, "cursor": cursor }, "filters": { "order": "asc" },
        });
        let page = http.query("_system/frontend/fileStorageV2:fileMetadata", &args.to_string());
        found.extend(page["page"].as_array().unwrap().iter().map(|row| row["_id"].as_str().unwrap().to_owned()));
        if found.len() == 2 {
            convex.delete_file(&ids[1]);
        }
        if page["isDone"] == true {
            assert_eq!(page["page"].as_array().unwrap().len(), 0, "a full page is followed by an empty one");
            break;
        }
        cursor = page["continueCursor"].clone();
    }
    assert_eq!(found, ids);
    let component = http.query("_system/frontend/components:list", "{}")[0]["id"].as_str().unwrap().to_owned();
    let args = serde_json::json!({ "componentId": component, "paginationOpts": { "numItems": 9, "cursor": null } });
    let page = http.query("_system/frontend/fileStorageV2:fileMetadata", &args.to_string());
    let url = page["page"][0]["url"].as_str().unwrap().to_owned();
    assert!(url.ends_with(&format!("?component={component}")), "{url}");
    let path = url.strip_prefix("http://127.0.0.1:3210").unwrap();
    assert_eq!(http.get(path).1, b"x");
    assert_eq!(http.get(path.split('?').next().unwrap()).0, 404);
}

#[test]
fn variables_are_set_all_or_none() {
    let (convex, http) = start();
    let update = |body: &str| http.code(http.post("/api/v1/update_environment_variables", body));
    assert_eq!(update(r#"{"changes":[{"name":"A","value":"1"},{"name":"B","value":"2"}]}"#).0, 200);
    assert_eq!(update(r#"{"changes":[{"name":"A","value":null},{"name":"C","value":"x"}]}"#).0, 200);
    let list = http.json(http.get("/api/list_environment_variables"));
    assert_eq!(list, serde_json::json!({ "environmentVariables": { "B": "2", "C": "x" } }));
    for (name, value, code) in [
        ("1A", "x".to_owned(), "EnvironmentVariableNameInvalid"),
        ("CONVEX_SITE_URL", "x".to_owned(), "EnvVarNameForbidden"),
        ("BIG", "x".repeat(8193), "EnvironmentVariableValueTooLarge"),
    ] {
        let body = serde_json::json!({ "changes": [{ "name": "D", "value": "1" }, { "name": name, "value": value }] });
        assert_eq!(update(&body.to_string()), (400, code.to_owned()));
    }
    assert_eq!(convex.environment().into_keys().collect::<Vec<_>>(), ["B", "C"]);
}

#[test]
fn faults_of_the_wire_strike_where_they_are_told_to() {
    let (convex, http) = start();
    convex.insert("t", json("{}"));
    http.post("/api/export/request/zip", "");
    let ts = http.wait_for_export();
    let path = format!("/api/export/zip/{ts}");
    let whole = http.get(&path).1;
    let faults = convex.faults();
    faults.forget_requests();
    faults.fail("GET /api/export/zip", Failure::CutBody(100), 1);
    let (answer, _) = http.raw("GET", &path, "", b"");
    let begin = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
    assert_eq!(&answer[begin..], &whole[..100]);
    faults.fail("GET /api/export/zip", Failure::FlipByte(50), 1);
    let flipped = http.get(&path).1;
    assert_eq!((flipped[50] ^ 0x20, &flipped[..50], &flipped[51..]), (whole[50], &whole[..50], &whole[51..]));
    faults.fail("GET /api/export/zip", Failure::Answer(Refusal::new(408, "", "")), 1);
    assert_eq!(http.get(&path), (408, Vec::new()));
    faults.fail("GET /api/export/zip", Failure::Answer(Refusal::new(503, "Overloaded", "later")), 2);
    assert_eq!(http.code(http.get(&path)), (503, "Overloaded".to_owned()));
    assert_eq!(http.get(&path).0, 503);
    faults.fail("GET /api/export/zip", Failure::Drop, 1);
    assert_eq!(http.raw("GET", &path, "", b"").0, b"");
    assert_eq!(http.get(&path), (200, whole));
    assert_eq!(faults.count("GET /api/export/zip"), 7);
    // An upload that was stored, though the connection was dropped: sent again, it is there twice.
    let token = http.json(http.post("/api/import/start_upload", ""))["uploadToken"].as_str().unwrap().to_owned();
    let part = format!("/api/import/upload_part?uploadToken={token}&partNumber=1");
    faults.fail("POST /api/import/upload_part", Failure::DoThenDrop, 1);
    assert_eq!(http.raw("POST", &part, "", b"{}\n").0, b"");
    assert_eq!(http.send("POST", &part, "", b"{}\n").0, 200);
    let finish = serde_json::json!({ "import": { "format": "jsonLines", "tableName": "x" }, "uploadToken": token });
    let id = http.json(http.post("/api/import/finish_upload", &finish.to_string()))["importId"].clone();
    let total = loop {
        let row = http.query("_system/cli/queryImport", &serde_json::json!({ "importId": id }).to_string());
        if row["state"]["state"] == "waiting_for_confirmation" {
            break row["checkpoints"][0]["total_num_rows_to_write"].clone();
        }
    };
    assert_eq!(total, "2");
}

#[test]
fn streams_of_deltas_show_their_faults() {
    let (convex, http) = start();
    let ts = convex.latest();
    convex.insert("t", json("{}"));
    let deltas = || http.json(http.get(&format!("/api/document_deltas?cursor={ts}")));
    convex.faults().set_empty_deltas(1);
    let empty = deltas();
    assert_eq!((empty["values"].as_array().unwrap().len(), empty["hasMore"].as_bool()), (0, Some(true)));
    assert_eq!(deltas()["values"].as_array().unwrap().len(), 1);
    convex.faults().set_cursor_back(5);
    assert_eq!(deltas()["cursor"].as_i64(), Some(ts - 5));
    convex.faults().clear();
    assert_eq!(deltas()["values"].as_array().unwrap().len(), 1);
}

#[test]
fn files_can_be_damaged_and_be_as_large_as_wanted() {
    let (convex, http) = start();
    let id = convex.store_file("", None, &b"good"[..]);
    assert!(convex.damage_file(&id, &b"evil"[..]));
    let file = convex.state().files.into_values().next().unwrap();
    let (_, head, body) = http.send("GET", &format!("/api/storage/{}", file.uuid), "", b"");
    assert_eq!(body, b"evil");
    assert!(head.contains(&format!("digest: sha-256={}", file.sha256).to_lowercase()), "the row keeps its digest");
    let big = convex.store_zeros("", (1 << 32) + 5);
    let file = convex.state().files.remove(&(String::new(), big)).unwrap();
    assert_eq!(file.size, (1 << 32) + 5);
    let path = format!("/api/storage/{}", file.uuid);
    let (status, _, body) = http.send("GET", &path, &format!("Range: bytes={}-\r\n", 1u64 << 32), b"");
    assert_eq!((status, body), (206, vec![0; 5]));
    http.post("/api/export/request/zip?includeStorage=true", "");
    let ts = http.wait_for_export();
    let zip = http.get(&format!("/api/export/zip/{ts}")).1;
    assert_eq!(crate::common::sizes(&zip).into_values().max(), Some((1 << 32) + 5), "an entry above 4 GiB");
}

#[test]
fn the_event_log_is_read_newest_first_and_not_beyond_a_day() {
    let convex =
        Deployment::start(Options { clock_ns: Some(1_788_220_800_000_000_000), ..Options::default() }).unwrap();
    let http = client(&convex);
    convex.insert("t", json("{}"));
    convex.insert("u", json("{}"));
    assert!(convex.clear_table("t") && convex.delete_table("u") && !convex.delete_table("u"));
    let events = || {
        let args = r#"{"paginationOpts":{"numItems":10,"cursor":null},"filters":{"minDate":0}}"#;
        let page = http.query("_system/frontend/paginatedDeploymentEvents", args);
        let rows = page["page"].as_array().unwrap().clone();
        rows.iter().map(|row| row["action"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(events(), ["delete_tables", "clear_tables"]);
    convex.set_clock(Some(1_788_220_800_000_000_000 + 25 * 3600 * 1_000_000_000));
    assert_eq!(events(), [""; 0]);
    assert_eq!(http.query("_system/frontend/getTableMapping", r#"{"componentId":null}"#)["10001"], "t");
}

#[test]
fn scripts_drive_it_by_its_control_routes() {
    let (convex, http) = start();
    let ids = http.json(http.post("/test/insert?table=t&component=c", "{\"n\":1}\n{\"n\":2.0}\n"));
    assert_eq!(http.json(http.post(&format!("/test/patch?id={}", ids[0].as_str().unwrap()), r#"{"m":3}"#)), true);
    let before = convex.latest();
    assert_eq!(http.json(http.post(&format!("/test/delete?id={}", ids[1].as_str().unwrap()), "")), true);
    let (_, lines) = http.get(&format!("/test/documents?table=t&component=c&ts={before}"));
    let lines = String::from_utf8(lines).unwrap();
    assert!(lines.contains(r#""m":3,"n":1}"#) && lines.contains(r#""n":2.0}"#), "{lines}");
    http.post("/test/fill?documents=30&files=2", "");
    http.post("/test/churn?writes=10", "");
    let state = |ts: i64| http.json(http.get(&format!("/test/state?ts={ts}")));
    assert_eq!(state(i64::MAX)["files"], 2);
    assert_eq!(state(before)["tables"][0]["documents"], 2);
    assert_ne!(state(before)["digest"], state(i64::MAX)["digest"]);
    assert_eq!(state(before)["digest"], state(before)["digest"]);
    http.post("/test/clock?ns=1900000000000000000", "");
    assert_eq!(http.json(http.get("/test/now"))["now"], 1_900_000_000_000_000_000_i64);
    http.post("/test/fault", "1 status=503/Overloaded GET /version");
    assert_eq!(http.code(http.get("/version")), (503, "Overloaded".to_owned()));
    assert_eq!(http.get("/version").1, b"unknown");
    assert_eq!(http.json(http.get("/test/requests?begins=GET%20/version")), 2);
    assert_eq!(http.post("/test/fault", "1 nonsense GET /").0, 400);
}
