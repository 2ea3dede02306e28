//! Channels that are an HTTP request.
//!
//! Formats: Healthchecks' pinging API (`/start`, `/<exit status>`, `?rid=UUID`; bodies of at most 10 kB are shown), Slack's incoming
//! webhooks (`text`, with `&`, `<` and `>` escaped), Discord's (`content`, at most 2,000 characters; no mentions).

use std::time::Duration;

use reqwest::blocking::{Client, RequestBuilder};
use serde_json::json;

use super::{Address, Error, Event, Failed, Message};

/// A whole request takes at most so long.
const DEADLINE: Duration = Duration::from_secs(10);

pub(super) fn ping(address: &Address, message: &Message) -> Result<(), Failed> {
    let mut url = address.expose();
    let path = url.path().trim_end_matches('/').to_owned();
    match message.event {
        Event::Start => url.set_path(&format!("{path}/start")),
        Event::Success | Event::Recovered => {}
        Event::Failure | Event::Trouble => url.set_path(&format!("{path}/{}", message.exit_code.unwrap_or(1).max(1))),
        // The state of the switch stays as it is.
        Event::Test => url.set_path(&format!("{path}/log")),
    }
    if let Some(id) = run_uuid(&message.run) {
        url.query_pairs_mut().append_pair("rid", &id);
    }
    post(address, |client| client.post(url.clone()).body(message.text()))
}

pub(super) fn webhook(address: &Address, message: &Message) -> Result<(), Failed> {
    let body = serde_json::to_value(message).unwrap_or_default().to_string();
    post(address, |client| {
        client.post(address.expose()).header(reqwest::header::CONTENT_TYPE, "application/json").body(body.clone())
    })
}

pub(super) fn slack(address: &Address, message: &Message) -> Result<(), Failed> {
    let text = message.text().replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    chat(address, &json!({"text": text}))
}

pub(super) fn discord(address: &Address, message: &Message) -> Result<(), Failed> {
    chat(address, &json!({"content": message.text(), "allowed_mentions": {"parse": []}}))
}

fn chat(address: &Address, body: &serde_json::Value) -> Result<(), Failed> {
    let body = body.to_string();
    post(address, |client| {
        client.post(address.expose()).header(reqwest::header::CONTENT_TYPE, "application/json").body(body.clone())
    })
}

/// Healthchecks joins a start and an end by a UUID: the 16 bytes of the run's id, which are as good as chance.
fn run_uuid(run: &str) -> Option<String> {
    let mut hex = String::new();
    let digest = blake3::hash(run.as_bytes());
    for (n, byte) in digest.as_bytes().iter().take(16).enumerate() {
        let byte = match n {
            6 => (byte & 0x0f) | 0x40,
            8 => (byte & 0x3f) | 0x80,
            _ => *byte,
        };
        if matches!(n, 4 | 6 | 8 | 10) {
            hex.push('-');
        }
        hex.push_str(&format!("{byte:02x}"));
    }
    (!run.is_empty()).then_some(hex)
}

fn post(address: &Address, request: impl Fn(&Client) -> RequestBuilder) -> Result<(), Failed> {
    let place = address.place();
    // The library's words may repeat the address.
    let unreachable =
        |e: reqwest::Error| Failed { error: Error::Unreachable { place: place.clone(), why: why(e) }, again: true };
    let client = Client::builder().timeout(DEADLINE).redirect(reqwest::redirect::Policy::none()).build();
    let answer = request(&client.map_err(unreachable)?).send().map_err(unreachable)?;
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    // Its words stay unread: many a server repeats the address in them.
    let again = status.is_server_error() || status.as_u16() == 429;
    Err(Failed { error: Error::Refused { place, said: status.to_string() }, again })
}

/// The innermost cause, which names no URL.
fn why(error: reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("no answer within {} s", DEADLINE.as_secs());
    }
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_has_one_uuid_of_version_4() {
        let id = run_uuid("01K0000000000000000000000").unwrap();
        assert_eq!((id.len(), id.as_bytes()[14]), (36, b'4'));
        assert_eq!(run_uuid("01K0000000000000000000000"), Some(id));
        assert_eq!(run_uuid(""), None);
    }
}
