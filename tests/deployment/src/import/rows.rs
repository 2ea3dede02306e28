//! Documents of an upload as they are written: their ids, their times, their values.

use super::Failed;
use super::parse::{Encoding, invalid_row};
use crate::id::{DocumentId, InternalId};
use crate::json;
use crate::model::{Line, State, Write};
use crate::value::{Format, Value};

/// The write of one line into this table. `row` counts from 0.
pub(super) fn write_of(
    state: &mut State,
    table: u32,
    text: &str,
    encoding: Encoding,
    row: usize,
) -> Result<Write, Failed> {
    let mut value = json::parse(text).map_err(|e| invalid_row(row, &e))?;
    if encoding == Encoding::Plain {
        value = plain(value).ok_or_else(|| {
            Failed::new("InvalidConvexValue", format!("row {}: a field name that starts with `$`", row + 1))
        })?;
    }
    let Value::Object(mut fields) = value else {
        return Err(Failed::new("NotAnObject", format!("row {} is not an object", row + 1)));
    };
    let id = match fields.get("_id") {
        None => DocumentId::new(state.tables[table as usize].number, state.new_internal()),
        Some(id) => parse_id(state, table, id)?,
    };
    match fields.get("_creationTime") {
        None => drop(fields.insert("_creationTime".to_owned(), Value::Float64(state.now_ms()))),
        Some(Value::Float64(_)) => {}
        Some(other) => {
            let text = format!("invalid _creationTime {}: expected a float64", other.to_json(Format::Export));
            return Err(Failed::new("InvalidCreationTimeError", text));
        }
    }
    if let Some(name) =
        fields.keys().find(|name| name.starts_with('_') && !["_id", "_creationTime"].contains(&name.as_str()))
    {
        let text = format!("row {}: field `{name}` starts with an underscore", row + 1);
        return Err(Failed::new("InvalidConvexValue", text));
    }
    fields.insert("_id".to_owned(), id.to_string().into());
    let line = Line::from(Value::Object(fields).to_json(Format::Export));
    Ok(Write { table, id: id.internal, line: Some(line) })
}

fn parse_id(state: &State, table: u32, value: &Value) -> Result<DocumentId, Failed> {
    let text = value.as_str().unwrap_or_default();
    let table = &state.tables[table as usize];
    match DocumentId::parse(text) {
        None => Err(Failed::new("InvalidId", format!("invalid _id '{text}' in table `{}`", table.name))),
        Some(id) if id.number != table.number => {
            let text = format!("_id {text} cannot be imported into table `{}` of number {}", table.name, table.number);
            Err(Failed::new("ImportConflict", text))
        }
        Some(id) => Ok(id),
    }
}

/// Plain JSON has no Int64 and no Bytes.
fn plain(value: Value) -> Option<Value> {
    Some(match value {
        Value::Int64(n) => Value::Float64(n as f64),
        Value::Bytes(_) => return None,
        Value::Float64(n) if !n.is_finite() => return None,
        Value::Array(items) => Value::Array(items.into_iter().map(plain).collect::<Option<_>>()?),
        Value::Object(fields) => {
            let fields = fields.into_iter().map(|(name, value)| Some((name, plain(value)?)));
            Value::Object(fields.collect::<Option<_>>()?)
        }
        other => other,
    })
}

/// Refuses an id that the table has, or had: only `append` can meet one.
pub(super) fn check_free(state: &State, table: u32, id: InternalId) -> Result<(), Failed> {
    let table = &state.tables[table as usize];
    let text = table.document_id(id).to_string();
    match table.documents.get(&id).and_then(|revisions| revisions.last()) {
        None => Ok(()),
        Some((_, Some(_))) => Err(Failed::new("DocumentExists", format!("Document with _id {text} already exists"))),
        Some((_, None)) => {
            Err(Failed::new("DocumentDeleted", format!("Cannot recreate document with _id {text} that was deleted")))
        }
    }
}
