//! The smaller routes: environment variables, canonical URLs, pause, configuration, descriptions of the server.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

use super::routes::{allow, body_of, change};
use super::{Request, auth};
use crate::Inner;
use crate::model::{AppState, State, Variable, numbers};
use crate::reply::{Refusal, Reply};
use crate::value::Value;

type Answer = Result<Reply, Refusal>;

/// `None`: no such route.
pub(super) fn dispatch(inner: &Inner, request: &Request) -> Option<Answer> {
    let features = &inner.options.features;
    Some(match (request.method.as_str(), request.path.as_str()) {
        ("GET", "/api/v1/list_environment_variables") => list_variables(inner, request),
        ("GET", "/api/list_environment_variables") if features.v1 => list_variables(inner, request),
        ("POST", "/api/v1/update_environment_variables" | "/api/update_environment_variables") => {
            update_variables(inner, request)
        }
        ("GET", "/api/v1/get_canonical_urls") => canonical_urls(inner, request),
        ("POST", "/api/v1/update_canonical_url") => update_canonical_url(inner, request),
        ("GET", "/api/v1/list_log_streams") => log_streams(inner, request),
        ("POST", "/api/v1/pause_deployment") => change(inner, request, "PauseDeployment", pause),
        ("POST", "/api/v1/unpause_deployment") => change(inner, request, "UnpauseDeployment", unpause),
        ("GET", "/api/v1/deployment_info") => {
            allow(inner, request, "ViewData").map(|_| Reply::json(r#"{"kind":"selfHosted"}"#))
        }
        ("GET", "/api/v1/list_audit_log_events") => allow(inner, request, "ViewAuditLog").and_then(|_| {
            Err(Refusal::new(403, "AuditLogsDisabled", "Audit logs are not available for this deployment"))
        }),
        ("GET", "/api/v1/openapi.json") => Ok(Reply::json(openapi(inner).to_string())),
        ("POST", "/api/get_config") => config(inner, request, false),
        ("POST", "/api/get_config_hashes") => config(inner, request, true),
        ("GET", "/api/get_indexes") => indexes(inner, request),
        ("GET", "/metrics") => Err(Refusal::new(404, "MetricsDisabled", "Metrics are disabled")),
        _ => return None,
    })
}

fn list_variables(inner: &Inner, request: &Request) -> Answer {
    allow(inner, request, "ViewEnvironmentVariables")?;
    let all: Map<String, Json> = inner
        .read(|state| state.environment.iter().map(|(name, variable)| (name.clone(), json!(variable.value))).collect());
    Ok(Reply::json(json!({ "environmentVariables": all }).to_string()))
}

fn update_variables(inner: &Inner, request: &Request) -> Answer {
    allow(inner, request, "WriteEnvironmentVariables")?;
    let body = body_of(request)?;
    let changes = body.get("changes").and_then(Json::as_array);
    let changes = changes.ok_or_else(|| Refusal::bad("BadJsonBody", "missing field `changes`"))?;
    inner.change(|state| apply_variables(state, changes))?;
    Ok(Reply::empty())
}

fn check_name(name: &str) -> Result<(), Refusal> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(good) {
        let text = format!("Environment variable name \"{name}\" is invalid");
        return Err(Refusal::bad("EnvironmentVariableNameInvalid", text));
    }
    if name.len() > 256 {
        return Err(Refusal::bad("EnvironmentVariableNameTooLong", "Environment variable name is too long"));
    }
    if ["CONVEX_CLOUD_URL", "CONVEX_SITE_URL"].contains(&name) {
        let text = format!("Environment variable with name \"{name}\" is built-in and cannot be overridden");
        return Err(Refusal::bad("EnvVarNameForbidden", text));
    }
    Ok(())
}

/// All changes, or none of them.
fn apply_variables(state: &mut State, changes: &[Json]) -> Result<(), Refusal> {
    let mut after: BTreeMap<String, String> =
        state.environment.iter().map(|(name, variable)| (name.clone(), variable.value.clone())).collect();
    let mut events = Vec::new();
    for change in changes {
        let name = change.get("name").and_then(Json::as_str).unwrap_or_default();
        check_name(name)?;
        let metadata = Value::object([("variable_name", name.into())]);
        match change.get("value").and_then(Json::as_str) {
            Some(value) if value.len() > 8 << 10 => {
                return Err(Refusal::bad(
                    "EnvironmentVariableValueTooLarge",
                    "Environment variable value is too large",
                ));
            }
            Some(value) => {
                let was = after.insert(name.to_owned(), value.to_owned());
                let action = if was.is_some() { "update_environment_variable" } else { "create_environment_variable" };
                events.push((action, metadata));
            }
            None => {
                after.remove(name);
                events.push(("delete_environment_variable", metadata));
            }
        }
    }
    if after.len() > 512 {
        return Err(Refusal::bad("EnvVarLimitMet", "The limit of 512 environment variables is met"));
    }
    if after.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > 512 << 10 {
        return Err(Refusal::bad("EnvVarTotalSizeLimitMet", "The environment variables are too large together"));
    }
    state.environment.retain(|name, _| after.contains_key(name));
    for (name, value) in after {
        match state.environment.get_mut(&name) {
            Some(variable) => variable.value = value,
            None => {
                let (id, created_ms) = state.new_system_row(numbers::ENVIRONMENT);
                state.environment.insert(name, Variable { id, created_ms, value });
            }
        }
    }
    for (action, metadata) in events {
        state.audit(action, metadata);
    }
    Ok(())
}

fn canonical_urls(inner: &Inner, request: &Request) -> Answer {
    allow(inner, request, "ViewEnvironmentVariables")?;
    let urls = inner.read(|state| state.canonical_urls.clone());
    let origin = &inner.options.origin;
    let url = |name: &str| urls.get(name).unwrap_or(origin).clone();
    Ok(Reply::json(json!({ "convexCloudUrl": url("convexCloud"), "convexSiteUrl": url("convexSite") }).to_string()))
}

fn update_canonical_url(inner: &Inner, request: &Request) -> Answer {
    allow(inner, request, "WriteEnvironmentVariables")?;
    let body = body_of(request)?;
    let destination = body.get("requestDestination").and_then(Json::as_str).unwrap_or_default().to_owned();
    if !["convexCloud", "convexSite"].contains(&destination.as_str()) {
        return Err(Refusal::bad("BadJsonBody", format!("unknown variant `{destination}`")));
    }
    let url = body.get("url").and_then(Json::as_str).map(str::to_owned);
    change(inner, request, "WriteEnvironmentVariables", |state| {
        match url {
            Some(url) => state.canonical_urls.insert(destination, url),
            None => state.canonical_urls.remove(&destination),
        };
        state.commit_system(1);
        Ok(())
    })
}

fn log_streams(inner: &Inner, request: &Request) -> Answer {
    allow(inner, request, "ViewIntegrations")?;
    let key = ("_system/frontend/listConfiguredSinks".to_owned(), String::new());
    let rows = inner.read(|state| state.rows.get(&key).cloned().unwrap_or_default());
    Ok(Reply::json(format!("{{\"logStreams\":{}}}", Value::Array(rows).to_json(crate::value::Format::Clean))))
}

fn pause(state: &mut State) -> Result<(), Refusal> {
    if state.running == AppState::Disabled {
        return Err(Refusal::bad("PauseDeploymentFailed", "The deployment is disabled"));
    }
    state.running = AppState::Paused;
    state.audit("pause_deployment", Value::Null);
    Ok(())
}

fn unpause(state: &mut State) -> Result<(), Refusal> {
    if state.running != AppState::Paused {
        return Err(Refusal::bad("UnpauseDeploymentFailed", "The deployment is not paused"));
    }
    state.running = AppState::Running;
    state.audit("unpause_deployment", Value::Null);
    Ok(())
}

/// The paths that this backend has, for clients that look for features.
fn openapi(inner: &Inner) -> Json {
    let features = &inner.options.features;
    let mut paths = vec!["/deployment_info", "/get_canonical_urls", "/update_canonical_url"];
    paths.extend(["/list_environment_variables", "/update_environment_variables"]);
    paths.extend(["/pause_deployment", "/unpause_deployment"]);
    if features.data_sync {
        paths.extend(["/data/sync", "/data/list_active_syncs"]);
    }
    let paths: Map<String, Json> = paths.into_iter().map(|path| (path.to_owned(), json!({}))).collect();
    json!({ "openapi": "3.1.0", "info": { "title": "Convex Deployment API", "version": "1.0.0" }, "paths": paths })
}

/// The bundle of the root, or its hashes: rows `{path, source, hash, environment}` that a test gave.
fn config(inner: &Inner, request: &Request, hashes: bool) -> Answer {
    let body = body_of(request)?;
    auth::require(auth::identity_in_body(inner, &body)?, "Deploy")?;
    let rows = inner.read(|state| state.rows.get(&("modules".to_owned(), String::new())).cloned().unwrap_or_default());
    let text = |row: &Value, name: &str| row.get(name).and_then(Value::as_str).map(str::to_owned);
    let modules: Vec<Json> = rows
        .iter()
        .map(|row| {
            let mut module = json!({ "path": text(row, "path"), "environment": text(row, "environment") });
            let field = if hashes { "hash" } else { "source" };
            module[field] = json!(text(row, field));
            module
        })
        .collect();
    let config = json!({ "functions": "convex/", "authInfo": [] });
    let version = "1.45.0";
    Ok(Reply::json(
        match hashes {
            true => {
                json!({ "config": config, "moduleHashes": modules, "udfServerVersion": version, "nodeVersion": null })
            }
            false => json!({ "config": config, "modules": modules, "udfServerVersion": version }),
        }
        .to_string(),
    ))
}

fn indexes(inner: &Inner, request: &Request) -> Answer {
    allow(inner, request, "ViewData")?;
    let path = match request.query("componentId") {
        Some(id) => inner.read(|state| state.component_path(&id).map(str::to_owned)).unwrap_or_default(),
        None => String::new(),
    };
    let rows = inner.read(|state| state.rows.get(&("indexes".to_owned(), path)).cloned().unwrap_or_default());
    Ok(Reply::json(format!("{{\"indexes\":{}}}", Value::Array(rows).to_json(crate::value::Format::Clean))))
}
