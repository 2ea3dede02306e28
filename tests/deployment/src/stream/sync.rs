//! Data Sync: first the tables at one timestamp, with the log read in between, then the log.
//!
//! The cursor is the whole memory of a sync, sealed with the instance's secret: the position in the log, the tables that are
//! read to their end, and the place in the one that is being read. As in the backend, a table is scanned only while the
//! position lags by less than 30 s, and hidden tables take part under their names: the truncate that begins the scan of
//! such a table wipes the rows of the active one.

use std::collections::BTreeSet;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use serde_json::{Value as Json, json};

use super::selection::Selection;
use super::window;
use crate::Inner;
use crate::id::InternalId;
use crate::json as reader;
use crate::model::{Line, State, TableState};
use crate::options::SECOND;
use crate::reply::Refusal;
use crate::value::{Format, Value, write_string};

const INFO: &str = "data sync cursor";
/// How far the position may lag while tables are scanned.
const FRESH_NS: i64 = 30 * SECOND;
/// Rows of the log that a page reads at most, as long as it does not split a commit.
const ROWS_READ: usize = 32_768;

#[derive(Debug, Clone)]
struct Cursor {
    sync: String,
    ts: i64,
    done: BTreeSet<u32>,
    current: Option<(u32, Option<InternalId>)>,
}

impl Cursor {
    fn seal(&self, inner: &Inner, nonce: [u8; 12]) -> String {
        let text = json!({
            "sync": self.sync,
            "ts": self.ts,
            "done": self.done,
            "current": self.current.map(|(table, id)| (table, id.map(|id| HEXLOWER.encode(&id)))),
        });
        let sealed = inner.options.instance_secret.seal(INFO, nonce, text.to_string().as_bytes());
        BASE64URL_NOPAD.encode(&sealed)
    }

    fn open(inner: &Inner, text: &str) -> Option<Cursor> {
        let sealed = BASE64URL_NOPAD.decode(text.as_bytes()).ok()?;
        let plain = inner.options.instance_secret.open(INFO, &sealed)?;
        let json: Json = serde_json::from_slice(&plain).ok()?;
        let number = |json: &Json| json.as_u64().and_then(|n| u32::try_from(n).ok());
        let current = json.get("current")?;
        let after = current.get(1).and_then(Json::as_str).and_then(|text| HEXLOWER.decode(text.as_bytes()).ok());
        Some(Cursor {
            sync: json.get("sync")?.as_str()?.to_owned(),
            ts: json.get("ts")?.as_i64()?,
            done: json.get("done")?.as_array()?.iter().filter_map(number).collect(),
            current: current.get(0).and_then(number).map(|table| (table, after.and_then(|id| id.try_into().ok()))),
        })
    }
}

fn bad_cursor() -> Refusal {
    Refusal::bad("InvalidDataSyncCursor", "The cursor is not of this deployment")
}

fn check(state: &mut State, ts: i64) -> Result<(), Refusal> {
    if ts > state.latest() {
        return Err(bad_cursor());
    }
    if ts < state.readable_from() {
        return Err(Refusal::bad("DataSyncCursorExpired", "The cursor is out of the retention window"));
    }
    Ok(())
}

/// The tables that take part, in the order in which they are scanned.
fn selected(state: &State, selection: &Selection) -> Vec<u32> {
    let mut tables: Vec<u32> = (0u32..)
        .zip(&state.tables)
        .filter(|(_, t)| t.state() != TableState::Deleting && selection.columns(&t.component, &t.name).is_some())
        .map(|(n, _)| n)
        .collect();
    tables.sort_by_key(|n| state.tables[*n as usize].tablet);
    tables
}

/// A page under construction.
#[derive(Default)]
struct Page {
    truncates: Vec<Json>,
    values: Vec<String>,
}

impl Page {
    fn add(&mut self, state: &State, selection: &Selection, table: u32, id: InternalId, ts: i64, line: Option<&Line>) {
        let table = &state.tables[table as usize];
        let Some(columns) = selection.columns(&table.component, &table.name) else { return };
        let mut row = String::from("{\"component\":");
        write_string(&mut row, &table.component);
        row.push_str(",\"table\":");
        write_string(&mut row, &table.name);
        row.push_str(&format!(",\"ts\":{ts},\"deleted\":{},\"value\":", line.is_none()));
        match line {
            Some(line) => match (&columns, reader::parse(line)) {
                (super::Columns::Some { .. }, Ok(value)) => columns.of(value).write(&mut row, Format::Export),
                _ => row.push_str(line),
            },
            None => row.push_str(&format!("{{\"_id\":\"{}\"}}", table.document_id(id))),
        }
        row.push('}');
        self.values.push(row);
    }
}

/// `POST /api/v1/data/sync`
pub(crate) fn page(inner: &Inner, cursor: Option<&str>, selection: &Selection) -> Result<String, Refusal> {
    let limit = inner.options.data_sync_page;
    let cursor = cursor.map(|text| Cursor::open(inner, text).ok_or_else(bad_cursor)).transpose()?;
    inner.poll(|state| {
        let first = cursor.is_none();
        let mut cursor = match cursor {
            Some(cursor) => cursor,
            None => {
                let (sync, ts) = (state.new_uuid(), state.latest());
                Cursor { sync, ts, done: BTreeSet::new(), current: None }
            }
        };
        check(state, cursor.ts)?;
        let latest = state.latest();
        let tables = selected(state, selection);
        cursor.done.retain(|table| tables.contains(table));
        cursor.current = cursor.current.filter(|(table, _)| tables.contains(table));
        let mut page = Page::default();
        let pending = |cursor: &Cursor| tables.iter().any(|table| !cursor.done.contains(table));
        if pending(&cursor) && latest - cursor.ts < FRESH_NS {
            scan(state, &mut cursor, &tables, selection, limit, &mut page);
        } else {
            follow(state, &mut cursor, selection, latest, limit, &mut page);
        }
        let status = match (pending(&cursor), cursor.ts >= latest) {
            (true, _) => json!({ "type": "snapshotting" }),
            (false, true) => json!({ "type": "upToDate", "snapshotTs": cursor.ts }),
            (false, false) => json!({ "type": "stale", "snapshotTs": cursor.ts }),
        };
        book(state, &cursor.sync, first);
        let next = cursor.seal(inner, state.nonce());
        Ok(format!(
            "{{\"status\":{status},\"truncates\":{},\"values\":[{}],\"syncId\":\"{}\",\"pagination\":{}}}",
            Json::Array(page.truncates),
            page.values.join(","),
            cursor.sync,
            json!({ "hasMore": true, "nextCursor": next }),
        ))
    })
}

/// Reads tables at the cursor's position.
fn scan(state: &State, cursor: &mut Cursor, tables: &[u32], selection: &Selection, limit: usize, page: &mut Page) {
    while page.values.len() < limit {
        let current = cursor.current.or_else(|| {
            let table = *tables.iter().find(|table| !cursor.done.contains(table))?;
            let named = &state.tables[table as usize];
            page.truncates.push(json!({ "component": named.component, "table": named.name }));
            Some((table, None))
        });
        let Some((table, after)) = current else { return };
        let room = limit - page.values.len();
        let mut last = after;
        let mut read = 0;
        for (id, ts, line) in state.tables[table as usize].documents_at(cursor.ts, after).take(room) {
            page.add(state, selection, table, *id, ts, Some(line));
            last = Some(*id);
            read += 1;
        }
        if read < room {
            cursor.done.insert(table);
            cursor.current = None;
        } else {
            cursor.current = Some((table, last));
        }
    }
}

/// Reads the log from the cursor's position on.
fn follow(state: &State, cursor: &mut Cursor, selection: &Selection, latest: i64, limit: usize, page: &mut Page) {
    let (from, to, has_more) = window(state, cursor.ts, limit.min(ROWS_READ));
    for entry in &state.log[from..to] {
        let Some(table) = entry.table else { continue };
        let scanned = cursor.done.contains(&table)
            || cursor.current.is_some_and(|(current, after)| current == table && after >= Some(entry.id));
        if scanned {
            page.add(state, selection, table, entry.id, entry.ts, entry.line.as_ref());
        }
    }
    cursor.ts = if has_more { state.log[to - 1].ts } else { latest };
}

/// The row of the sync's progress, at most every five seconds; and its event, once.
fn book(state: &mut State, sync: &str, first: bool) {
    if first {
        state.audit("create_data_sync", Value::object([("syncId", sync.into())]));
    }
    let now = state.now();
    if state.syncs.get(sync).is_none_or(|last| now - last >= 5 * SECOND) {
        state.syncs.insert(sync.to_owned(), now);
        state.commit_system(1);
    }
}

/// `POST /api/data_sync_cursor_from_deltas`: everything up to the timestamp counts as synced.
pub(crate) fn cursor_from_deltas(inner: &Inner, ts: i64, selection: &Selection) -> Result<String, Refusal> {
    inner.poll(|state| {
        check(state, ts)?;
        let done = selected(state, selection).into_iter().collect();
        let cursor = Cursor { sync: state.new_uuid(), ts, done, current: None };
        Ok(json!({ "cursor": cursor.seal(inner, state.nonce()) }).to_string())
    })
}
