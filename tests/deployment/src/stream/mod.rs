//! Streaming export: pages of a snapshot, and of what changed since. Views of the log that know user tables only.
//!
//! As in the backend, hidden tables show under their name while an import fills them, and a dropped table goes without a word.

pub(crate) mod selection;
pub(crate) mod sync;

use std::sync::Arc;

use data_encoding::HEXLOWER;
use serde_json::{Value as Json, json};

use crate::Inner;
use crate::id::InternalId;
use crate::json;
use crate::model::{Line, State, TableState};
use crate::options::SECOND;
use crate::reply::Refusal;
use crate::value::{Format, write_string};

use selection::{Columns, Selection};

/// What is wrong with a cursor that cannot be read.
fn bad_cursor() -> Refusal {
    Refusal::bad("InvalidListSnapshotCursor", "Failed to parse the cursor")
}

/// The fields of a document after those that tell where it is from: `,"a":1}`.
fn fields(line: &Line, columns: &Columns, format: Format) -> String {
    let whole = matches!(columns, Columns::All) && format == Format::Export;
    let text = if whole {
        String::from(&**line)
    } else {
        // A line was written by us, so it reads.
        json::parse(line).map(|value| columns.of(value).to_json(format)).unwrap_or_else(|_| "{}".to_owned())
    };
    match text.strip_prefix('{') {
        Some("}") | None => "}".to_owned(),
        Some(rest) => format!(",{rest}"),
    }
}

fn row_start(component: &str, table: &str, ts: i64) -> String {
    let mut out = String::from("{\"_component\":");
    write_string(&mut out, component);
    out.push_str(",\"_table\":");
    write_string(&mut out, table);
    out.push_str(&format!(",\"_ts\":{ts}"));
    out
}

/// `list_snapshot`: a page of one table, in the order of tablets, then of ids.
pub(crate) fn list_snapshot(
    inner: &Inner,
    snapshot: Option<i64>,
    cursor: Option<&str>,
    selection: &Selection,
    format: Format,
) -> Result<String, Refusal> {
    let cursor = cursor.map(parse_cursor).transpose()?;
    let limit = inner.options.snapshot_page;
    inner.poll(|state| {
        let latest = state.latest();
        let snapshot = snapshot.unwrap_or(latest);
        if snapshot > latest {
            return Err(Refusal::bad("SnapshotTooNew", format!("Snapshot {snapshot} is in the future")));
        }
        if snapshot < state.now() - 5 * 24 * 3600 * SECOND {
            return Err(Refusal::bad("SnapshotTooOld", format!("Snapshot {snapshot} is too old")));
        }
        if snapshot < state.readable_from() {
            // It looks like a passing failure, and never passes.
            return Err(Refusal { status: 503, ..Refusal::internal() });
        }
        page_of_snapshot(state, snapshot, cursor, selection, format, limit)
    })
}

type SnapshotCursor = (InternalId, Option<InternalId>);

fn parse_cursor(text: &str) -> Result<SnapshotCursor, Refusal> {
    let cursor: Json = serde_json::from_str(text).map_err(|_| bad_cursor())?;
    let hex = |name: &str| -> Option<InternalId> {
        let text = cursor.get(name)?.as_str()?;
        HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok()
    };
    Ok((hex("tablet").ok_or_else(bad_cursor)?, hex("id")))
}

fn page_of_snapshot(
    state: &State,
    snapshot: i64,
    cursor: Option<SnapshotCursor>,
    selection: &Selection,
    format: Format,
    limit: usize,
) -> Result<String, Refusal> {
    let mut tables: Vec<_> = state
        .tables
        .iter()
        .filter(|t| matches!(t.state_at(snapshot), Some(TableState::Active | TableState::Hidden)))
        .filter_map(|t| Some((t, selection.columns(&t.component, &t.name)?)))
        .filter(|(t, _)| cursor.is_none_or(|(tablet, _)| t.tablet >= tablet))
        .collect();
    tables.sort_by_key(|(t, _)| t.tablet);
    let mut rows = Vec::new();
    let mut next: Option<SnapshotCursor> = None;
    if let Some((table, columns)) = tables.first() {
        let after = cursor.filter(|(tablet, _)| *tablet == table.tablet).and_then(|(_, id)| id);
        let mut last = after;
        for (id, ts, line) in table.documents_at(snapshot, after).take(limit) {
            rows.push(row_start(&table.component, &table.name, ts) + &fields(line, columns, format));
            last = Some(*id);
        }
        next = match rows.len() == limit {
            true => Some((table.tablet, last)),
            false => tables.get(1).map(|(t, _)| (t.tablet, None)),
        };
    }
    let has_more = next.is_some();
    let cursor = next.map(|(tablet, id)| {
        json!({ "tablet": HEXLOWER.encode(&tablet), "id": id.map(|id| HEXLOWER.encode(&id)) }).to_string()
    });
    let values = rows.join(",");
    Ok(format!("{{\"values\":[{values}],\"snapshot\":{snapshot},\"cursor\":{},\"hasMore\":{has_more}}}", json!(cursor)))
}

/// `document_deltas`: what was written after the cursor, never a part of a commit.
pub(crate) fn document_deltas(
    inner: &Inner,
    cursor: Option<i64>,
    selection: &Selection,
    format: Format,
) -> Result<String, Refusal> {
    let cursor =
        cursor.ok_or_else(|| Refusal::bad("DocumentDeltasCursorRequired", "document_deltas needs a cursor"))?;
    let back = inner.faults.cursor_back();
    if back > 0 {
        return Ok(format!("{{\"values\":[],\"cursor\":{},\"hasMore\":false}}", cursor - back));
    }
    if inner.faults.take_empty_delta() {
        return Ok(format!("{{\"values\":[],\"cursor\":{cursor},\"hasMore\":true}}"));
    }
    let limit = inner.options.deltas_page;
    inner.poll(|state| {
        if cursor < state.readable_from() {
            let text = format!("Timestamp {cursor} is out of the retention window");
            return Err(Refusal::bad("InvalidWindowToReadDocuments", text));
        }
        let latest = state.latest();
        let (from, to, has_more) = window(state, cursor, limit);
        let mut rows = Vec::new();
        for entry in &state.log[from..to] {
            let Some(table) = entry.table.map(|t| &state.tables[t as usize]) else { continue };
            let Some(columns) = selection.columns(&table.component, &table.name) else { continue };
            if table.state() == TableState::Deleting {
                continue;
            }
            let deleted = entry.line.is_none();
            let line = match &entry.line {
                Some(line) => Arc::clone(line),
                None => Line::from(format!("{{\"_id\":\"{}\"}}", table.document_id(entry.id))),
            };
            let start = row_start(&table.component, &table.name, entry.ts);
            rows.push(format!("{start},\"_deleted\":{deleted}{}", fields(&line, &columns, format)));
        }
        let end = if has_more { state.log[to - 1].ts } else { latest };
        Ok(format!("{{\"values\":[{}],\"cursor\":{end},\"hasMore\":{has_more}}}", rows.join(",")))
    })
}

/// The places in the log from after a timestamp on: at least so many, to the end of a commit; and whether there are more.
pub(crate) fn window(state: &State, after: i64, limit: usize) -> (usize, usize, bool) {
    let log = &state.log;
    let from = log.partition_point(|entry| entry.ts <= after);
    let mut to = (from + limit.max(1)).min(log.len());
    while to < log.len() && log[to].ts == log[to - 1].ts {
        to += 1;
    }
    (from, to, to < log.len())
}

/// `get_table_column_names`: the columns are those of the first thousand documents.
pub(crate) fn column_names(state: &State) -> String {
    let mut components = serde_json::Map::new();
    for component in state.component_paths() {
        let mut tables: Vec<Json> = Vec::new();
        for (_, table) in state.active_tables(&component) {
            let mut columns = std::collections::BTreeSet::from(["_creationTime".to_owned(), "_id".to_owned()]);
            for (_, _, line) in table.documents_at(i64::MAX, None).take(1000) {
                if let Ok(crate::value::Value::Object(fields)) = json::parse(line) {
                    columns.extend(fields.into_keys());
                }
            }
            tables.push(json!({ "name": table.name, "columns": columns }));
        }
        tables.sort_by_key(|t| t["name"].to_string());
        components.insert(component, Json::Array(tables));
    }
    json!({ "byComponent": components }).to_string()
}
