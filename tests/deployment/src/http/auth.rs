//! Who asks, and what they may do.

use serde_json::Value as Json;

use super::Request;
use crate::Inner;
use crate::reply::Refusal;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Identity {
    /// Nobody, or a user of the app.
    Unknown,
    /// A key that may do everything.
    Admin,
    /// A key that may only read.
    ReadOnly,
    /// An admin key that acts as a user.
    ActingAsUser,
}

/// What a read-only key may do.
const READS: &[&str] = &[
    "ViewEnvironmentVariables",
    "ViewLogs",
    "ViewMetrics",
    "ViewIntegrations",
    "ViewData",
    "ViewBackups",
    "DownloadBackups",
    "RunInternalQueries",
    "RunTestQuery",
    "ViewAuditLog",
    "ViewUsageLimits",
    "ViewUsage",
];

/// The identity behind a key, as it stands after `Convex `.
pub(crate) fn identity_of_key(inner: &Inner, key: &str) -> Result<Identity, Refusal> {
    let (key, acting) = match key.rsplit_once('|') {
        Some((left, right)) => match right.split_once(':') {
            Some((hex, _)) => (format!("{left}|{hex}"), true),
            None => (key.to_owned(), false),
        },
        None => (key.to_owned(), false),
    };
    let options = &inner.options;
    match options.instance_secret.verify(&options.instance_name, &key) {
        Some(_) if acting => Ok(Identity::ActingAsUser),
        Some(key) if key.read_only => Ok(Identity::ReadOnly),
        Some(_) => Ok(Identity::Admin),
        None => Err(Refusal::new(401, "BadAdminKey", "The provided admin key was invalid for this instance")),
    }
}

/// Who sent a request: by its header, else by `?adminKey=`.
pub(crate) fn identity(inner: &Inner, request: &Request) -> Result<Identity, Refusal> {
    let Some(header) = &request.authorization else {
        return match request.query("adminKey") {
            Some(key) => identity_of_key(inner, &key),
            None => Ok(Identity::Unknown),
        };
    };
    let Some((scheme, rest)) = header.split_at_checked(7) else {
        return Err(Refusal::bad("InvalidHeaderFailure", "Invalid authorization header"));
    };
    match scheme.to_ascii_lowercase().as_str() {
        "bearer " => Ok(Identity::Unknown),
        "convex " => identity_of_key(inner, rest.trim()),
        _ => Err(Refusal::bad("InvalidAdminKey", "The authorization header has an unknown scheme")),
    }
}

/// Refuses whoever may not do this.
pub(crate) fn require(identity: Identity, operation: &str) -> Result<(), Refusal> {
    match identity {
        Identity::Admin => Ok(()),
        Identity::ReadOnly if READS.contains(&operation) => Ok(()),
        Identity::Unknown => {
            Err(Refusal::new(403, "BadDeployKey", "An admin key is needed for this, and none was sent"))
        }
        Identity::ReadOnly | Identity::ActingAsUser => Err(Refusal::new(
            403,
            "OperationNotPermitted",
            format!("You do not have permission to perform this operation: {operation}"),
        )),
    }
}

/// The old routes take the key in the body.
pub(crate) fn identity_in_body(inner: &Inner, body: &Json) -> Result<Identity, Refusal> {
    match body.get("adminKey").and_then(Json::as_str) {
        Some(key) => identity_of_key(inner, key),
        None => Ok(Identity::Unknown),
    }
}
