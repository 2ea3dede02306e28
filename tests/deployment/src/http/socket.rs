//! The WebSocket `/api/<version>/sync` on which the official command line subscribes to queries.
//!
//! Understood: `Connect`, `Authenticate`, `ModifyQuerySet`; every change of the state is answered by a `Transition` with the
//! queries whose value changed. Mutations and actions are refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::State as Shared;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use axum::routing::get;
use data_encoding::BASE64;
use serde_json::{Value as Json, json};

use super::auth::{self, Identity};
use crate::Inner;
use crate::query;
use crate::value::Format;

/// Whether a path is the WebSocket's.
pub(super) fn is_socket(path: &str) -> bool {
    path.strip_prefix("/api/")
        .and_then(|rest| rest.strip_suffix("/sync"))
        .is_some_and(|version| !version.contains('/') && version.starts_with(|c: char| c.is_ascii_digit()))
}

pub(super) fn router(inner: Arc<Inner>) -> Router {
    Router::new().route("/api/{version}/sync", get(upgrade)).with_state(inner)
}

async fn upgrade(Shared(inner): Shared<Arc<Inner>>, socket: WebSocketUpgrade) -> Response {
    socket.on_upgrade(|socket| talk(inner, socket))
}

struct Subscription {
    path: String,
    args: Json,
    component: Option<String>,
    /// What was sent last.
    sent: Option<Result<String, String>>,
}

#[derive(Clone, Copy)]
struct Version {
    query_set: u64,
    identity: u64,
    ts: i64,
}

impl Version {
    fn json(self) -> Json {
        json!({
            "querySet": self.query_set,
            "identity": self.identity,
            "ts": BASE64.encode(&self.ts.to_le_bytes()),
        })
    }
}

struct Session {
    inner: Arc<Inner>,
    identity: Identity,
    version: Version,
    queries: BTreeMap<u64, Subscription>,
}

async fn talk(inner: Arc<Inner>, mut socket: WebSocket) {
    let mut changes = inner.changes();
    let version = Version { query_set: 0, identity: 0, ts: 0 };
    let mut session = Session { inner, identity: Identity::Unknown, version, queries: BTreeMap::new() };
    // Subscribers count as those who ask (`ExportFault::Polls`), and a silent server is taken for a dead one.
    let mut ticks = tokio::time::interval(std::time::Duration::from_millis(500));
    let mut tick = 0u32;
    loop {
        let answer = tokio::select! {
            _ = ticks.tick() => {
                tick = tick.wrapping_add(1);
                let news = session.transition(session.version, false);
                if tick.is_multiple_of(30) { news.or(Some(r#"{"type":"Ping"}"#.to_owned())) } else { news }
            }
            message = socket.recv() => match message {
                Some(Ok(Message::Text(text))) => session.hear(&text),
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => None,
            },
            changed = changes.changed() => match changed {
                Ok(()) => session.transition(session.version, false),
                Err(_) => return,
            },
        };
        if let Some(answer) = answer
            && socket.send(Message::Text(answer.into())).await.is_err()
        {
            return;
        }
    }
}

impl Session {
    /// What a message is answered with.
    fn hear(&mut self, text: &str) -> Option<String> {
        let message: Json = serde_json::from_str(text).ok()?;
        let before = self.version;
        match message.get("type").and_then(Json::as_str)? {
            "Authenticate" => {
                let base = message.get("baseVersion").and_then(Json::as_u64).unwrap_or(before.identity);
                let key = message.get("value").and_then(Json::as_str).unwrap_or_default();
                self.identity = match message.get("tokenType").and_then(Json::as_str) {
                    Some("Admin") => match auth::identity_of_key(&self.inner, key) {
                        Ok(identity) => identity,
                        Err(refusal) => {
                            let error = json!({
                                "type": "AuthError",
                                "error": refusal.message,
                                "baseVersion": base,
                                "authUpdateAttempted": true,
                            });
                            return Some(error.to_string());
                        }
                    },
                    _ => Identity::Unknown,
                };
                self.version.identity = base + 1;
                self.transition(before, true)
            }
            "ModifyQuerySet" => {
                self.version.query_set = message.get("newVersion").and_then(Json::as_u64)?;
                for change in message.get("modifications").and_then(Json::as_array)? {
                    self.modify(change);
                }
                self.transition(before, true)
            }
            kind @ ("Mutation" | "Action") => {
                let refused = json!({
                    "type": format!("{kind}Response"),
                    "requestId": message.get("requestId"),
                    "success": false,
                    "result": "functions are not modelled",
                    "logLines": [],
                });
                Some(refused.to_string())
            }
            _ => None,
        }
    }

    fn modify(&mut self, change: &Json) -> Option<()> {
        let id = change.get("queryId").and_then(Json::as_u64)?;
        match change.get("type").and_then(Json::as_str)? {
            "Add" => {
                let path = change.get("udfPath").and_then(Json::as_str)?.to_owned();
                let component = change.get("componentPath").and_then(Json::as_str).map(str::to_owned);
                let args = change.get("args").cloned().unwrap_or_default();
                self.queries.insert(id, Subscription { path, args, component, sent: None });
            }
            _ => drop(self.queries.remove(&id)),
        }
        Some(())
    }

    /// The queries whose value changed; nothing if none did, unless an answer is owed.
    fn transition(&mut self, from: Version, owed: bool) -> Option<String> {
        let mut changes = Vec::new();
        for (id, subscription) in &mut self.queries {
            let component = subscription.component.as_deref();
            let value = query::run(&self.inner, self.identity, &subscription.path, &subscription.args, component);
            let value = value.map(|value| value.to_json(Format::Encoded));
            if subscription.sent.as_ref() == Some(&value) {
                continue;
            }
            changes.push(match &value {
                // As text, so that numbers stay what they are.
                Ok(text) => {
                    format!(r#"{{"type":"QueryUpdated","queryId":{id},"value":{text},"logLines":[],"journal":null}}"#)
                }
                Err(error) => json!({
                    "type": "QueryFailed",
                    "queryId": id,
                    "errorMessage": error,
                    "logLines": [],
                    "errorData": null,
                    "journal": null,
                })
                .to_string(),
            });
            subscription.sent = Some(value);
        }
        if changes.is_empty() && !owed {
            return None;
        }
        self.version.ts = self.inner.now().max(from.ts + 1);
        let (start, end) = (from.json(), self.version.json());
        Some(format!(
            r#"{{"type":"Transition","startVersion":{start},"endVersion":{end},"modifications":[{}]}}"#,
            changes.join(",")
        ))
    }
}
