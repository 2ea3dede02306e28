//! Which request is answered by what.

use std::sync::Arc;

use serde_json::Value as Json;

use super::auth::{self, Identity};
use super::{Request, imports, misc, mutations, storage, streams};
use crate::Inner;
use crate::control;
use crate::export;
use crate::model::State;
use crate::query;
use crate::reply::{Body, Refusal, Reply};
use crate::value::Format;

type Answer = Result<Reply, Refusal>;

/// Bodies of routes without a limit of their own.
const JSON_MAX: usize = 2 << 20;
/// Bodies of `/api/query` and its siblings.
const QUERY_MAX: usize = (16 << 20) + 2000;

pub(super) fn handle(inner: &Arc<Inner>, request: &Request) -> Reply {
    check_client(request).and_then(|()| dispatch(inner, request)).unwrap_or_else(Reply::from)
}

/// A client without a `-` in its name is refused everywhere, and so are old official ones.
fn check_client(request: &Request) -> Result<(), Refusal> {
    let Some(client) = &request.client else { return Ok(()) };
    let Some((name, version)) = client.split_once('-') else {
        return Err(Refusal::bad("InvalidClientVersion", format!("Failed to parse client version: {client}")));
    };
    let (name, version) = match version.split_once('-') {
        Some((more, version))
            if format!("{name}-{more}") == "npm-cli" || format!("{name}-{more}") == "python-convex" =>
        {
            (format!("{name}-{more}"), version)
        }
        _ => (name.to_owned(), version),
    };
    let oldest: [u64; 3] = match name.as_str() {
        "npm" | "npm-cli" | "actions" => [0, 19, 1],
        "python" | "python-convex" => [0, 0, 2],
        "rust" => [0, 0, 1],
        _ => return Ok(()),
    };
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let numbers: Option<Vec<u64>> = core.split('.').map(|n| n.parse().ok()).collect();
    match numbers {
        Some(numbers) if numbers.len() == 3 && numbers[..] > oldest[..] => Ok(()),
        _ => Err(Refusal::bad("ClientVersionUnsupported", format!("The client {client} is no longer supported"))),
    }
}

fn no_route() -> Answer {
    Ok(Reply::empty().with_status(404))
}

fn dispatch(inner: &Arc<Inner>, request: &Request) -> Answer {
    let path = request.path.as_str();
    let features = &inner.options.features;
    match (request.method.as_str(), path) {
        ("GET", "/") => Ok(Reply::text("This Convex deployment is running. See https://docs.convex.dev/.")),
        ("GET", "/version" | "/instance_version") => Ok(Reply::text(inner.options.version.clone())),
        ("GET", "/instance_name") => Ok(Reply::text(inner.options.instance_name.clone())),
        ("POST", "/echo") => Ok(Reply { body: Body::Bytes(request.body.clone()), ..Reply::empty() }),
        ("GET", "/api/check_admin_key") => check_admin_key(inner, request),
        ("POST", "/api/query") => run_query(inner, request),
        ("POST", "/api/mutation") => mutations::run(inner, request),
        ("POST", "/api/query_batch") => run_batch(inner, request),
        ("POST", _) if path.starts_with("/api/export/") => exports(inner, request),
        ("GET", _) if path.starts_with("/api/export/zip/") => download(inner, request),
        ("GET", _) if path.starts_with("/api/storage/") => storage::get(inner, request, &path["/api/storage/".len()..]),
        (_, _) if path.starts_with("/api/v1/") && !features.v1 && path != "/api/v1/data/sync" => no_route(),
        _ if path.starts_with("/test/") => control::answer(inner, request),
        _ => imports::dispatch(inner, request)
            .or_else(|| streams::dispatch(inner, request))
            .or_else(|| misc::dispatch(inner, request))
            .unwrap_or_else(no_route),
    }
}

/// Asks for an operation and gives who asked.
pub(super) fn allow(inner: &Inner, request: &Request, operation: &str) -> Result<Identity, Refusal> {
    let identity = auth::identity(inner, request)?;
    auth::require(identity, operation)?;
    Ok(identity)
}

/// A change that needs a permission, and has an empty answer.
pub(super) fn change(
    inner: &Inner,
    request: &Request,
    operation: &str,
    deed: impl FnOnce(&mut State) -> Result<(), Refusal>,
) -> Answer {
    allow(inner, request, operation)?;
    inner.change(deed)?;
    Ok(Reply::empty())
}

/// The body of a route without a limit of its own.
pub(super) fn body_of(request: &Request) -> Result<Json, Refusal> {
    request.json(JSON_MAX)
}

fn check_admin_key(inner: &Inner, request: &Request) -> Answer {
    match auth::identity(inner, request)? {
        Identity::Admin => Ok(Reply::json(r#"{"success":true,"allowedOps":[],"isReadOnly":false}"#)),
        Identity::ReadOnly => Ok(Reply::json(r#"{"success":true,"allowedOps":[],"isReadOnly":true}"#)),
        Identity::Unknown | Identity::ActingAsUser => {
            Err(Refusal::new(403, "BadDeployKey", "An admin key is needed for this, and none was sent"))
        }
    }
}

/// The answer of one function and whether it failed.
fn run_one(inner: &Inner, identity: Identity, call: &Json, default: Format) -> Result<(String, bool), Refusal> {
    let path = call.get("path").and_then(Json::as_str);
    let path = path.ok_or_else(|| Refusal::bad("BadJsonBody", "missing field `path`"))?;
    let format = match call.get("format").and_then(Json::as_str) {
        None => default,
        Some(name) => format_of(inner, name)?,
    };
    let args = call.get("args").cloned().unwrap_or_default();
    let component = call.get("componentPath").and_then(Json::as_str);
    Ok(match query::run(inner, identity, path, &args, component) {
        Ok(value) => (format!("{{\"status\":\"success\",\"value\":{}}}", value.to_json(format)), false),
        Err(text) => (serde_json::json!({ "status": "error", "errorMessage": text }).to_string(), true),
    })
}

/// A format by its name, as far as this backend knows it.
pub(super) fn format_of(inner: &Inner, name: &str) -> Result<Format, Refusal> {
    match name {
        "json" | "convex_clean_json" => Ok(Format::Clean),
        "convex_encoded_json" | "convex_json" => Ok(Format::Encoded),
        "export_json" if inner.options.features.export_json => Ok(Format::Export),
        _ => Err(Refusal::bad("BadFormat", format!("Unknown format: {name}"))),
    }
}

/// Old clients of npm get the encoded form without asking.
fn default_format(request: &Request) -> Format {
    match request.client.as_deref() {
        Some(client) if client.starts_with("npm-") => Format::Encoded,
        _ => Format::Clean,
    }
}

fn run_query(inner: &Inner, request: &Request) -> Answer {
    let identity = auth::identity(inner, request)?;
    let call = request.json(QUERY_MAX)?;
    let (text, failed) = run_one(inner, identity, &call, default_format(request))?;
    let status = if failed && inner.options.features.status_560 { 560 } else { 200 };
    Ok(Reply::json(text).with_status(status))
}

fn run_batch(inner: &Inner, request: &Request) -> Answer {
    let identity = auth::identity(inner, request)?;
    let body = request.json(QUERY_MAX)?;
    let calls = body.get("queries").and_then(Json::as_array);
    let calls = calls.ok_or_else(|| Refusal::bad("BadJsonBody", "missing field `queries`"))?;
    let mut results = Vec::new();
    for call in calls {
        results.push(run_one(inner, identity, call, default_format(request))?.0);
    }
    Ok(Reply::json(format!("{{\"results\":[{}]}}", results.join(","))))
}

fn exports(inner: &Arc<Inner>, request: &Request) -> Answer {
    let rest = &request.path["/api/export/".len()..];
    if rest == "request/zip" {
        allow(inner, request, "CreateBackups")?;
        let include = match request.query("includeStorage").as_deref() {
            None | Some("false") => false,
            Some("true") => true,
            Some(other) => {
                let text = format!("Failed to deserialize query string: includeStorage: invalid value `{other}`");
                return Err(Refusal::bad("BadQueryArgs", text));
            }
        };
        export::request(inner, include, request.query("component"))?;
        return Ok(Reply::empty());
    }
    if let Some(id) = rest.strip_prefix("cancel/") {
        return change(inner, request, "ImportBackups", |state| export::cancel(state, id));
    }
    if let Some(id) = rest.strip_prefix("set_expiration/") {
        allow(inner, request, "DeleteBackups")?;
        let body = body_of(request)?;
        let expiration = body.get("expirationTsNs").and_then(Json::as_u64);
        let expiration = expiration.ok_or_else(|| Refusal::bad("BadJsonBody", "missing field `expirationTsNs`"))?;
        let expiration = i64::try_from(expiration).unwrap_or(i64::MAX);
        return change(inner, request, "DeleteBackups", |state| export::set_expiration(state, id, expiration));
    }
    no_route()
}

fn download(inner: &Inner, request: &Request) -> Answer {
    allow(inner, request, "DownloadBackups")?;
    let id = &request.path["/api/export/zip/".len()..];
    let (start_ts, zip) = inner.read(|state| export::find_zip(state, id))?;
    let name = format!("attachment; filename=snapshot_{}_{start_ts}.zip", inner.options.instance_name);
    let headers = vec![
        ("content-type", "application/zip".to_owned()),
        ("content-disposition", name),
        ("cache-control", "private, max-age=2592000".to_owned()),
    ];
    Ok(Reply { status: 200, headers, body: Body::Bytes(zip) })
}
