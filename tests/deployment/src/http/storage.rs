//! `GET /api/storage/<uuid>`: the bytes of files, with the odd corners of the backend's ranges.

use data_encoding::BASE64;

use super::Request;
use crate::Inner;
use crate::model::{AppState, State};
use crate::reply::{Body, Refusal, Reply};

/// One file, or a part of it; nobody is asked for a key.
pub(crate) fn get(inner: &Inner, request: &Request, uuid: &str) -> Result<Reply, Refusal> {
    inner.read(|state| find(state, request, uuid))
}

fn find(state: &State, request: &Request, uuid: &str) -> Result<Reply, Refusal> {
    if state.running != AppState::Running {
        return Err(Refusal::bad("BackendIsNotRunning", "Cannot read files while the deployment is paused"));
    }
    let is_hex = |c: char| c.is_ascii_hexdigit();
    let sizes: Vec<usize> = uuid.split('-').map(|part| if part.chars().all(is_hex) { part.len() } else { 0 }).collect();
    if sizes != [8, 4, 4, 4, 12] {
        return Err(Refusal::bad("InvalidStoragePath", format!("Invalid storage path: \"{uuid}\"")));
    }
    let component = match request.query("component") {
        Some(id) => state.component_path(&id).map(str::to_owned),
        None => Some(String::new()),
    };
    let found =
        state.files.iter().find(|f| f.until.is_none() && f.uuid == uuid && Some(&f.component) == component.as_ref());
    let file = found.ok_or_else(|| Refusal::new(404, "FileNotFound", format!("File {uuid} not found")))?;
    let length = file.contents.len();
    let mut headers =
        vec![("accept-ranges", "bytes".to_owned()), ("cache-control", "private, max-age=2592000".to_owned())];
    headers.extend(file.content_type.clone().map(|kind| ("content-type", kind)));
    let (status, from, sent) = match &request.range {
        Some(range) => {
            let wanted = parse(range).ok_or_else(|| Refusal::new(416, "", ""))?;
            if length == 0 { (200, 0, 0) } else { ranged(wanted, length, &mut headers) }
        }
        None => (200, 0, length),
    };
    if status == 200 {
        headers.push(("digest", format!("sha-256={}", BASE64.encode(&file.sha256))));
    }
    let body = Body::File { contents: file.contents.clone(), from, length: sent };
    Ok(Reply { status, headers, body })
}

/// An end beyond the file stays in `Content-Range`; a start beyond it, and a suffix, are a 206 without bytes.
fn ranged(wanted: Range, length: u64, headers: &mut Vec<(&'static str, String)>) -> (u16, u64, u64) {
    match wanted {
        Range::From(from, end) => {
            let last = end.unwrap_or(length.saturating_sub(1));
            headers.push(("content-range", format!("bytes {from}-{last}/{length}")));
            let end = last.saturating_add(1).min(length);
            (206, from.min(length), end.saturating_sub(from))
        }
        Range::Suffix => (206, 0, 0),
    }
}

enum Range {
    From(u64, Option<u64>),
    Suffix,
}

/// `bytes=N-`, `bytes=N-M` or `bytes=-N`; `None` for several and for what is none.
fn parse(header: &str) -> Option<Range> {
    let (from, to) = header.strip_prefix("bytes=")?.split_once('-')?;
    if from.is_empty() {
        return to.parse::<u64>().ok().map(|_| Range::Suffix);
    }
    let from = from.parse().ok()?;
    match to {
        "" => Some(Range::From(from, None)),
        _ => to.parse().ok().filter(|to| *to >= from).map(|to| Range::From(from, Some(to))),
    }
}
