//! The routes below `/test/`, by which scripts and benchmarks drive a deployment that runs as a program of its own.
//!
//! They need no key, are not counted as requests, and meet no faults. Bodies are JSON; documents are `export_json`.
//!
//! | request | body or parameters | does |
//! |---|---|---|
//! | `POST /test/insert?table=T&component=C` | one document a line | inserts all in one commit; their ids |
//! | `POST /test/patch?id=I` | fields | |
//! | `POST /test/delete?id=I` | | a document or a file |
//! | `POST /test/file?component=C&type=T` | bytes | stores a file; its id |
//! | `POST /test/fill?documents=N&files=N` | | adds content |
//! | `POST /test/churn?writes=N` | | writes at random places |
//! | `POST /test/clock?ns=N` | | the clock stands there; without `ns` it runs |
//! | `POST /test/forget?before=N` | | revisions before are out of retention |
//! | `POST /test/fault` | `TIMES FAILURE METHOD PATH` | a fault of the wire |
//! | `POST /test/export_fault`, `/test/import_fault` | as the flags | |
//! | `POST /test/clear_faults` | | |
//! | `GET /test/now` | | `{"now","latest"}` |
//! | `GET /test/state?ts=N` | | counts and a digest of everything at that time |
//! | `GET /test/documents?table=T&component=C&ts=N` | | lines in the order of ids |
//! | `GET /test/requests?begins=B` | | how many requests began so |

use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};

use crate::Inner;
use crate::http::Request;
use crate::model::{Contents, State};
use crate::reply::{Refusal, Reply};
use crate::state_at::StateAt;

fn wrong(why: impl Into<String>) -> Refusal {
    Refusal::bad("Test", why)
}

fn number(request: &Request, name: &str) -> Result<Option<i64>, Refusal> {
    let value = request.query(name);
    value.map(|text| text.parse().map_err(|_| wrong(format!("`{name}={text}` is no number")))).transpose()
}

fn count(request: &Request, name: &str) -> Result<usize, Refusal> {
    Ok(usize::try_from(number(request, name)?.unwrap_or(0)).unwrap_or(0))
}

fn text(request: &Request) -> Result<&str, Refusal> {
    std::str::from_utf8(&request.body).map_err(|_| wrong("the body is not UTF-8"))
}

/// Answers a request below `/test/`.
pub(crate) fn answer(inner: &Inner, request: &Request) -> Result<Reply, Refusal> {
    let id = || request.query("id").unwrap_or_default();
    let component = || request.query("component").unwrap_or_default();
    let answer: Json = match (request.method.as_str(), request.path.as_str()) {
        ("POST", "/test/insert") => insert(inner, request)?,
        ("POST", "/test/patch") => {
            let fields = crate::parse(text(request)?).map_err(|e| wrong(e.to_string()))?;
            json!(inner.transaction(|writes| writes.patch(&id(), fields)))
        }
        ("POST", "/test/delete") => {
            json!(inner.transaction(|writes| writes.delete(&id())) || inner.change(|state| state.remove_file(&id())))
        }
        ("POST", "/test/file") => {
            let contents = Contents::Bytes(request.body.clone());
            let kind = request.query("type");
            json!(inner.change(|state| state.add_file(&component(), kind.as_deref(), contents)).to_string())
        }
        ("POST", "/test/fill") => {
            inner.fill(count(request, "documents")?, count(request, "files")?);
            Json::Null
        }
        ("POST", "/test/churn") => {
            inner.churn(count(request, "writes")?);
            Json::Null
        }
        ("POST", "/test/clock") => {
            let ns = number(request, "ns")?;
            inner.change(|state| state.set_clock(ns));
            Json::Null
        }
        ("POST", "/test/forget") => {
            let before = number(request, "before")?.unwrap_or(0);
            inner.change(|state| state.forgotten_before = before);
            Json::Null
        }
        ("POST", "/test/fault") => json!(inner.faults.fail_as(text(request)?).map_err(wrong)?),
        ("POST", "/test/export_fault") => json!(inner.faults.set_export(text(request)?.parse().map_err(wrong)?)),
        ("POST", "/test/import_fault") => json!(inner.faults.set_import(text(request)?.parse().map_err(wrong)?)),
        ("POST", "/test/clear_faults") => json!(inner.faults.clear()),
        ("GET", "/test/now") => json!({ "now": inner.now(), "latest": inner.poll(State::latest) }),
        ("GET", "/test/state") => state(inner, number(request, "ts")?.unwrap_or(i64::MAX)),
        ("GET", "/test/documents") => return documents(inner, request),
        ("GET", "/test/requests") => json!(inner.faults.count(&request.query("begins").unwrap_or_default())),
        _ => return Err(Refusal::new(404, "Test", "no such route; see `control`")),
    };
    Ok(Reply::json(answer.to_string()))
}

fn insert(inner: &Inner, request: &Request) -> Result<Json, Refusal> {
    let (component, table) = (request.query("component").unwrap_or_default(), request.query("table"));
    let table = table.ok_or_else(|| wrong("`table` is missing"))?;
    let lines = text(request)?.lines().filter(|line| !line.is_empty());
    let documents: Result<Vec<_>, _> = lines.map(crate::parse).collect();
    let documents = documents.map_err(|e| wrong(e.to_string()))?;
    let ids: Vec<String> = inner.transaction(|writes| {
        documents.into_iter().map(|d| writes.insert((component.as_str(), table.as_str()), d)).collect()
    });
    Ok(json!(ids))
}

/// The digest is SHA-256 over `component NUL table NUL line LF` of all documents and `component NUL id NUL sha256 LF` of all
/// files, in order.
fn state(inner: &Inner, ts: i64) -> Json {
    let state = inner.read(|state| StateAt::of(state, ts));
    let mut digest = Sha256::new();
    let mut tables = Vec::new();
    for ((component, table), documents) in &state.tables {
        for line in documents.values() {
            digest.update(format!("{component}\0{table}\0{line}\n"));
        }
        tables.push(json!({ "component": component, "table": table, "documents": documents.len() }));
    }
    for ((component, id), file) in &state.files {
        digest.update(format!("{component}\0{id}\0{}\n", file.sha256));
    }
    let digest = data_encoding::HEXLOWER.encode(&digest.finalize());
    json!({ "tables": tables, "files": state.files.len(), "digest": digest })
}

fn documents(inner: &Inner, request: &Request) -> Result<Reply, Refusal> {
    let ts = number(request, "ts")?.unwrap_or(i64::MAX);
    let key = (request.query("component").unwrap_or_default(), request.query("table").unwrap_or_default());
    let state = inner.read(|state| StateAt::of(state, ts));
    let documents = state.tables.get(&key).ok_or_else(|| Refusal::new(404, "Test", "no such table then"))?;
    Ok(Reply::text(documents.values().map(|line| format!("{line}\n")).collect::<String>()))
}
