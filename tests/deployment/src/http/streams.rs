//! The routes of streaming export and Data Sync.

use serde_json::Value as Json;

use super::Request;
use super::routes::{allow, body_of, format_of};
use crate::Inner;
use crate::reply::{Refusal, Reply};
use crate::stream::selection::Selection;
use crate::stream::{self, sync};
use crate::value::Format;

type Answer = Result<Reply, Refusal>;

/// `None`: no such route on a backend of this age.
pub(super) fn dispatch(inner: &Inner, request: &Request) -> Option<Answer> {
    let features = &inner.options.features;
    match (request.method.as_str(), request.path.as_str()) {
        ("GET" | "POST", "/api/list_snapshot") if features.streaming => Some(list_snapshot(inner, request)),
        ("GET" | "POST", "/api/document_deltas") if features.streaming => Some(deltas(inner, request)),
        ("GET", "/api/test_streaming_export_connection") if features.streaming => {
            Some(allow(inner, request, "ViewData").map(|_| Reply::json("null")))
        }
        ("GET", "/api/get_table_column_names") if features.streaming => {
            let answer = || Reply::json(inner.read(stream::column_names));
            Some(allow(inner, request, "ViewData").map(|_| answer()))
        }
        ("POST", "/api/v1/data/sync") if features.data_sync => Some(data_sync(inner, request)),
        ("POST", "/api/data_sync_cursor_from_deltas") if features.data_sync => Some(bridge(inner, request)),
        _ => None,
    }
}

/// The arguments of the legacy routes, which come in the query string or as JSON.
struct Arguments {
    number: Option<i64>,
    cursor: Option<String>,
    format: Format,
    selection: Selection,
}

fn arguments(inner: &Inner, request: &Request, number: &str) -> Result<Arguments, Refusal> {
    let posted = if request.method == "POST" { Some(body_of(request)?) } else { None };
    let text = |name: &str| match &posted {
        Some(body) => body.get(name).and_then(|v| match v {
            Json::String(text) => Some(text.clone()),
            Json::Number(number) => Some(number.to_string()),
            _ => None,
        }),
        None => request.query(name),
    };
    let number = match text(number) {
        Some(text) => Some(text.parse().map_err(|_| {
            let code = if posted.is_some() { "BadJsonBody" } else { "BadQueryArgs" };
            Refusal::bad(code, format!("{number}: invalid digit found in string"))
        })?),
        None => None,
    };
    let format = text("format").map_or(Ok(Format::Clean), |name| format_of(inner, &name))?;
    let (component, table) = (text("component"), text("table_name"));
    // A selection that cannot be read selects everything, as in the backend.
    let selection = match posted.as_ref().and_then(|body| body.get("selection")) {
        Some(json) => Selection::parse(json).unwrap_or_else(Selection::all),
        None => Selection::named(component.as_deref(), table.as_deref()),
    };
    Ok(Arguments { number, cursor: text("cursor"), format, selection })
}

fn list_snapshot(inner: &Inner, request: &Request) -> Answer {
    allow(inner, request, "ViewData")?;
    let asked = arguments(inner, request, "snapshot")?;
    stream::list_snapshot(inner, asked.number, asked.cursor.as_deref(), &asked.selection, asked.format).map(Reply::json)
}

fn deltas(inner: &Inner, request: &Request) -> Answer {
    allow(inner, request, "ViewData")?;
    let asked = arguments(inner, request, "cursor")?;
    stream::document_deltas(inner, asked.number, &asked.selection, asked.format).map(Reply::json)
}

fn sync_selection(body: &Json) -> Result<Selection, Refusal> {
    match body.get("selection").filter(|s| !s.is_null()) {
        Some(json) => {
            Selection::parse(json).ok_or_else(|| Refusal::bad("InvalidDataSyncSelection", "The selection is malformed"))
        }
        None => Ok(Selection::all()),
    }
}

fn data_sync(inner: &Inner, request: &Request) -> Answer {
    allow(inner, request, "ViewData")?;
    let body = body_of(request)?;
    let selection = sync_selection(&body)?;
    sync::page(inner, body.get("cursor").and_then(Json::as_str), &selection).map(Reply::json)
}

fn bridge(inner: &Inner, request: &Request) -> Answer {
    allow(inner, request, "ViewData")?;
    let body = body_of(request)?;
    let selection = sync_selection(&body)?;
    let ts = body.get("cursor").and_then(Json::as_i64);
    let ts = ts.ok_or_else(|| Refusal::bad("BadJsonBody", "missing field `cursor`"))?;
    sync::cursor_from_deltas(inner, ts, &selection).map(Reply::json)
}
