//! Queries that answer with one value.

use std::collections::BTreeMap;

use super::Call;
use crate::model::{AppState, Component, State, Variable};
use crate::value::Value;

pub(super) fn latest_export(state: &State) -> Value {
    state.exports.last().map_or(Value::Null, |export| export.document())
}

pub(super) fn import(state: &State, call: &Call) -> Result<Value, String> {
    let id = call.text("importId").ok_or("ArgumentValidationError: Object is missing the required field `importId`")?;
    match state.imports.iter().find(|i| i.id.to_string() == id) {
        Some(import) => Ok(import.document()),
        None => Ok(Value::Null),
    }
}

/// The newest 20, newest first.
pub(super) fn imports(state: &State) -> Value {
    Value::Array(state.imports.iter().rev().take(20).map(|import| import.document()).collect())
}

fn variable_row(name: &str, variable: &Variable) -> Value {
    Value::object([
        ("_id", variable.id.to_string().into()),
        ("_creationTime", variable.created_ms.into()),
        ("name", name.into()),
        ("value", variable.value.as_str().into()),
    ])
}

pub(super) fn variables(state: &State) -> Value {
    Value::Array(state.environment.iter().map(|(name, variable)| variable_row(name, variable)).collect())
}

pub(super) fn variable(state: &State, call: &Call) -> Value {
    let name = call.text("name").unwrap_or_default();
    state.environment.get(name).map_or(Value::Null, |variable| variable_row(name, variable))
}

fn component_row(component: &Component) -> Value {
    let name = component.path.rsplit('/').next().unwrap_or_default();
    Value::object([
        ("id", component.id.to_string().into()),
        ("name", name.into()),
        ("path", component.path.as_str().into()),
        ("args", Value::Object(BTreeMap::new())),
        ("state", if component.mounted { "active" } else { "unmounted" }.into()),
        ("httpPrefix", Value::Null),
    ])
}

pub(super) fn components(state: &State) -> Value {
    Value::Array(state.components.iter().map(component_row).collect())
}

pub(super) fn schemas(state: &State, call: &Call) -> Value {
    match state.schemas.get(&call.component) {
        Some(text) => Value::object([("active", text.as_str().into())]),
        None => Value::Object(BTreeMap::new()),
    }
}

fn running(state: &State) -> &'static str {
    match state.running {
        AppState::Running => "running",
        AppState::Paused => "paused",
        AppState::Disabled => "disabled",
    }
}

pub(super) fn deployment_state(state: &State) -> Value {
    Value::object([("state", running(state).into())])
}

pub(super) fn backend_state(state: &State) -> Value {
    let user = if state.running == AppState::Paused { "paused" } else { "running" };
    let system = if state.running == AppState::Disabled { "disabled" } else { "running" };
    Value::object([("system", system.into()), ("usage_limit", "running".into()), ("user", user.into())])
}

/// Numbers to names, with the two virtual tables; at most 1000.
pub(super) fn table_mapping(state: &State, call: &Call) -> Value {
    let mut mapping = BTreeMap::from([
        (state.options.storage_number.to_string(), "_file_storage".into()),
        (crate::model::numbers::JOBS.to_string(), "_scheduled_jobs".into()),
    ]);
    let tables = state.active_tables(&call.component);
    mapping.extend(tables.map(|(_, t)| (t.number.to_string(), t.name.as_str().into())).take(998));
    Value::Object(mapping)
}

pub(super) fn file_count(state: &State, call: &Call) -> Value {
    let files = state.files.iter().filter(|f| f.until.is_none() && f.component == call.component);
    Value::Float64(files.count() as f64)
}
