//! The routes of imports, and the two that drop and clear tables.

use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::Request;
use super::routes::{allow, body_of, change};
use crate::Inner;
use crate::import;
use crate::model::{State, TableState};
use crate::reply::{Refusal, Reply};
use crate::value::Value;

type Answer = Result<Reply, Refusal>;

/// `None`: no such route.
pub(super) fn dispatch(inner: &Arc<Inner>, request: &Request) -> Option<Answer> {
    Some(match (request.method.as_str(), request.path.as_str()) {
        ("POST", "/api/import/start_upload") => allow(inner, request, "ImportBackups").map(|_| {
            let token = inner.poll(import::start_upload);
            Reply::json(json!({ "uploadToken": token }).to_string())
        }),
        ("POST", "/api/import/upload_part") => upload_part(inner, request),
        ("POST", "/api/import/finish_upload") => finish_upload(inner, request),
        ("POST", "/api/import") => import_at_once(inner, request),
        ("POST", "/api/perform_import") => with_id(inner, request, import::perform),
        ("POST", "/api/cancel_import") => with_id(inner, request, import::cancel),
        ("POST", "/api/delete_tables") => tables(inner, request, delete_tables),
        ("PUT", "/api/streaming_import/clear_tables") => tables(inner, request, clear_tables),
        _ => return None,
    })
}

fn upload_part(inner: &Inner, request: &Request) -> Answer {
    allow(inner, request, "ImportBackups")?;
    let missing = |name: &str| Refusal::bad("BadQueryArgs", format!("missing field `{name}`"));
    let token = request.query("uploadToken").ok_or_else(|| missing("uploadToken"))?;
    let number: Option<u16> = request.query("partNumber").and_then(|n| n.parse().ok());
    number.ok_or_else(|| missing("partNumber"))?;
    inner.poll(|state| import::upload_part(state, &token, &request.body))?;
    Ok(Reply::json("\"\""))
}

fn finish_upload(inner: &Arc<Inner>, request: &Request) -> Answer {
    allow(inner, request, "ImportBackups")?;
    let body = body_of(request)?;
    let asked = body.get("import").cloned().unwrap_or_default();
    let text = |name: &str| asked.get(name).and_then(Json::as_str);
    let asked = import::Request::parse(
        text("format").unwrap_or_default(),
        text("mode"),
        text("tableName"),
        text("componentPath"),
    )?;
    let token = body.get("uploadToken").and_then(Json::as_str).unwrap_or_default();
    let id = import::finish_upload(inner, token, asked)?;
    Ok(Reply::json(json!({ "importId": id.to_string() }).to_string()))
}

fn import_at_once(inner: &Arc<Inner>, request: &Request) -> Answer {
    allow(inner, request, "ImportBackups")?;
    let asked = import::Request::parse(
        &request.query("format").unwrap_or_default(),
        request.query("mode").as_deref(),
        request.query("tableName").as_deref(),
        request.query("componentPath").as_deref(),
    )?;
    let rows = import::import_at_once(inner, request.body.clone(), asked)?;
    Ok(Reply::json(json!({ "numWritten": rows }).to_string()))
}

fn with_id(inner: &Inner, request: &Request, deed: fn(&mut State, &str) -> Result<(), Refusal>) -> Answer {
    allow(inner, request, "ImportBackups")?;
    let body = body_of(request)?;
    let id = body.get("importId").and_then(Json::as_str).unwrap_or_default();
    change(inner, request, "ImportBackups", |state| deed(state, id))
}

/// The tables that a request names, by their places.
fn tables(inner: &Inner, request: &Request, deed: fn(&mut State, &[u32])) -> Answer {
    allow(inner, request, "WriteData")?;
    let body = body_of(request)?;
    let names: Vec<&str> =
        body.get("tableNames").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str).collect();
    change(inner, request, "WriteData", |state| {
        let component = match body.get("componentId").and_then(Json::as_str) {
            Some(id) => state.component_path(id).ok_or_else(Refusal::internal)?.to_owned(),
            None => String::new(),
        };
        let found: Vec<u32> = names.iter().filter_map(|name| state.find_table(&component, name)).collect();
        deed(state, &found);
        Ok(())
    })
}

fn names(state: &State, tables: &[u32]) -> Value {
    let names = tables.iter().map(|n| state.tables[*n as usize].name.as_str().into());
    Value::object([("table_names", Value::Array(names.collect()))])
}

/// Drops tables, in one commit.
pub(crate) fn delete_tables(state: &mut State, tables: &[u32]) {
    let changes: Vec<_> = tables.iter().map(|n| (*n, TableState::Deleting)).collect();
    state.change_tables(&changes);
    let metadata = names(state, tables);
    state.audit("delete_tables", metadata);
}

/// Puts empty tables of the same names and numbers in their places, in one commit.
pub(crate) fn clear_tables(state: &mut State, tables: &[u32]) {
    let mut changes = Vec::new();
    for n in tables {
        let old = &state.tables[*n as usize];
        let (component, name, number) = (old.component.clone(), old.name.clone(), old.number);
        changes.push((*n, TableState::Deleting));
        changes.push((state.make_table(&component, &name, number, TableState::Hidden), TableState::Active));
    }
    state.change_tables(&changes);
    let metadata = names(state, tables);
    state.audit("clear_tables", metadata);
}
