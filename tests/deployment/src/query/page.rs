//! Queries that answer in pages: `{page, isDone, continueCursor}`.
//!
//! `isDone` is true only on a page that came to the end with room to spare; a page that is exactly full is followed by an
//! empty one.

use data_encoding::HEXLOWER;
use serde_json::Value as Json;

use super::Call;
use crate::id::DocumentId;
use crate::json;
use crate::model::{State, StoredFile};
use crate::options::SECOND;
use crate::value::Value;

/// Rows on a page, at most.
const ROWS_MAX: usize = 10_000;

struct Wanted {
    rows: usize,
    /// What the last page ended with.
    after: Option<String>,
}

fn wanted(call: &Call) -> Result<Wanted, String> {
    let options = call.arg("paginationOpts").ok_or("ArgumentValidationError: `paginationOpts` is missing")?;
    let rows = options.get("numItems").and_then(Json::as_f64).unwrap_or(0.0);
    if rows < 1.0 {
        return Err("ArgumentValidationError: `numItems` must be positive".to_owned());
    }
    let after = match options.get("cursor").and_then(Json::as_str) {
        None => None,
        Some(text) => {
            let bytes = HEXLOWER.decode(text.as_bytes()).ok();
            Some(bytes.and_then(|b| String::from_utf8(b).ok()).ok_or("InvalidCursor: Failed to parse cursor")?)
        }
    };
    Ok(Wanted { rows: rows as usize, after })
}

/// A page of rows, each with the key that a cursor names.
fn page(rows: impl Iterator<Item = (String, Value)>, wanted: &Wanted) -> Value {
    let after = wanted.after.clone();
    let mut skipping = after.is_some();
    let rows = rows.skip_while(move |(key, _)| {
        let skip = skipping;
        // The row that the last page ended with is skipped as the last one.
        if after.as_deref() == Some(key.as_str()) {
            skipping = false;
        }
        skip
    });
    let mut last = wanted.after.clone();
    let limit = wanted.rows.min(ROWS_MAX);
    let mut taken = Vec::new();
    for (key, row) in rows.take(limit) {
        last = Some(key);
        taken.push(row);
    }
    let done = taken.len() < limit;
    let cursor = HEXLOWER.encode(last.unwrap_or_else(|| "end".to_owned()).as_bytes());
    Value::object([("page", Value::Array(taken)), ("isDone", done.into()), ("continueCursor", cursor.into())])
}

pub(super) fn of_rows(rows: Vec<Value>, call: &Call) -> Result<Value, String> {
    let wanted = wanted(call)?;
    Ok(page(rows.into_iter().enumerate().map(|(n, row)| (n.to_string(), row)), &wanted))
}

/// By creation time, newest first unless `filters.order` is `asc`. A file that was deleted between two pages does not end the
/// listing: the cursor is a place, not a row.
pub(super) fn files(state: &State, call: &Call) -> Result<Value, String> {
    let wanted = wanted(call)?;
    let filters = call.arg("filters");
    let bound = |name: &str| filters.and_then(|f| f.get(name)).and_then(Json::as_f64);
    let (from, to) = (bound("minCreationTime"), bound("maxCreationTime"));
    let ascending = filters.and_then(|f| f.get("order")).and_then(Json::as_str) == Some("asc");
    let mut files: Vec<&StoredFile> = state
        .files
        .iter()
        .filter(|f| f.until.is_none() && f.component == call.component)
        .filter(|f| from.is_none_or(|from| f.created_ms >= from) && to.is_none_or(|to| f.created_ms <= to))
        .collect();
    files.sort_by(|a, b| a.created_ms.total_cmp(&b.created_ms).then(a.id.cmp(&b.id)));
    if !ascending {
        files.reverse();
    }
    let key = |f: &StoredFile| format!("{:020}{}", (f.created_ms * 1e6) as i64, HEXLOWER.encode(&f.id));
    if let Some(after) = &wanted.after {
        files.retain(|f| if ascending { key(f) > *after } else { key(f) < *after });
    }
    let rows = files.into_iter().map(|f| (key(f), file_row(state, f)));
    let rest = Wanted { rows: wanted.rows, after: None };
    let mut answer = page(rows, &rest);
    if let (Value::Object(fields), Some(after)) = (&mut answer, wanted.after) {
        let empty = matches!(fields.get("page"), Some(Value::Array(rows)) if rows.is_empty());
        if empty {
            fields.insert("continueCursor".to_owned(), HEXLOWER.encode(after.as_bytes()).into());
        }
    }
    Ok(answer)
}

fn file_row(state: &State, file: &StoredFile) -> Value {
    let mut row = file.row(state.options.storage_number, false);
    let mut url = format!("{}/api/storage/{}", state.options.origin, file.uuid);
    if let Some(component) = state.components.iter().find(|c| c.path == file.component) {
        url.push_str(&format!("?component={}", component.id));
    }
    if let Value::Object(fields) = &mut row {
        fields.insert("url".to_owned(), url.into());
    }
    row
}

/// Names of tables.
pub(super) fn tables(state: &State, call: &Call) -> Result<Value, String> {
    let wanted = wanted(call)?;
    let mut names: Vec<&str> = state.active_tables(&call.component).map(|(_, t)| t.name.as_str()).collect();
    names.sort_unstable();
    Ok(page(names.into_iter().map(|n| (n.to_owned(), Value::object([("name", n.into())]))), &wanted))
}

/// Documents of a table in the order of their creation, or rows of `_storage` or `_scheduled_functions`.
pub(super) fn table_data(state: &State, call: &Call) -> Result<Value, String> {
    let wanted = wanted(call)?;
    let name = call.text("table").unwrap_or_default();
    let number = state.options.storage_number;
    let mut rows: Vec<(String, Value)> = if name == "_storage" {
        let files = state.files.iter().filter(|f| f.until.is_none() && f.component == call.component);
        files.map(|f| (DocumentId::new(number, f.id).to_string(), f.row(number, false))).collect()
    } else if let Some(table) = state.find_table(&call.component, name) {
        let table = &state.tables[table as usize];
        let documents = table
            .documents_at(i64::MAX, None)
            .filter_map(|(id, _, line)| Some((table.document_id(*id).to_string(), json::parse(line).ok()?)));
        documents.collect()
    } else {
        let rows = state.rows.get(&(format!("tableData {name}"), call.component.clone()));
        rows.into_iter().flatten().enumerate().map(|(n, row)| (n.to_string(), row.clone())).collect()
    };
    rows.sort_by(|(_, a), (_, b)| created(a).total_cmp(&created(b)));
    if call.text("order") != Some("asc") {
        rows.reverse();
    }
    Ok(page(rows.into_iter(), &wanted))
}

fn created(row: &Value) -> f64 {
    match row.get("_creationTime") {
        Some(Value::Float64(ms)) => *ms,
        _ => 0.0,
    }
}

/// Newest first, never older than 24 hours.
pub(super) fn events(state: &State, call: &Call) -> Result<Value, String> {
    let wanted = wanted(call)?;
    let filters = call.arg("filters");
    let from = filters.and_then(|f| f.get("minDate")).and_then(Json::as_f64).unwrap_or(0.0);
    let from = from.max((state.now() - 24 * 3600 * SECOND) as f64 / 1e6);
    let to = filters.and_then(|f| f.get("maxDate")).and_then(Json::as_f64).unwrap_or(f64::INFINITY);
    let actions: Option<Vec<&str>> = filters
        .and_then(|f| f.get("actions"))
        .and_then(Json::as_array)
        .map(|all| all.iter().filter_map(Json::as_str).collect());
    let rows = state.events.iter().rev().filter(|e| e.created_ms >= from && e.created_ms <= to);
    let rows = rows.filter(|e| actions.as_ref().is_none_or(|all| all.contains(&e.action.as_str())));
    let rows = rows.map(|event| {
        let row = Value::object([
            ("_id", event.id.to_string().into()),
            ("_creationTime", event.created_ms.into()),
            ("action", event.action.as_str().into()),
            ("member_id", Value::Null),
            ("metadata", event.metadata.clone()),
        ]);
        (event.id.to_string(), row)
    });
    Ok(page(rows, &wanted))
}
