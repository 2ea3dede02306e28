//! Bodies of answers, whole or broken off as a fault says.

use axum::body::Body as HttpBody;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures_util::stream;

use super::Dropped;
use crate::faults::Failure;
use crate::reply::{Body, Reply};

/// Bytes that are given to the network at a time.
const PIECE: u64 = 256 * 1024;

fn piece(body: &Body, at: u64, length: u64) -> Bytes {
    match body {
        Body::Bytes(bytes) => bytes.slice(at as usize..(at + length) as usize),
        Body::File { contents, from, .. } => contents.piece(from + at, length as usize),
    }
}

/// The answer on the wire.
pub(super) fn response(reply: Reply, failure: Option<Failure>) -> Result<Response, Dropped> {
    let length = reply.body.len();
    let mut builder = Response::builder().status(reply.status).header("content-length", length);
    for (name, value) in &reply.headers {
        builder = builder.header(*name, value.as_str());
    }
    let body = match (failure, reply.body) {
        (None, Body::Bytes(bytes)) => HttpBody::from(bytes),
        (failure, body) => HttpBody::from_stream(stream::unfold(0u64, move |at| {
            let (body, failure) = (body.clone(), failure.clone());
            async move { next(&body, failure.as_ref(), at).await.map(|item| (item.0, item.1)) }
        })),
    };
    builder.body(body).map_err(|_| Dropped)
}

type Item = Result<Bytes, Dropped>;

/// The next piece and where it ends.
async fn next(body: &Body, failure: Option<&Failure>, at: u64) -> Option<(Item, u64)> {
    let length = body.len();
    let limit = match failure {
        Some(Failure::CutBody(after) | Failure::StallBody(after)) => length.min(*after),
        _ => length,
    };
    if at < limit {
        let end = limit.min(at + PIECE);
        let mut bytes = piece(body, at, end - at);
        if let Some(Failure::FlipByte(place)) = failure
            && (at..end).contains(place)
        {
            let mut changed = BytesMut::from(&bytes[..]);
            changed[(place - at) as usize] ^= 0x20;
            bytes = changed.freeze();
        }
        return Some((Ok(bytes), end));
    }
    match failure {
        Some(Failure::CutBody(_)) if at < length => {
            // What was sent before has time to leave; else the reset overtakes it.
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            Some((Err(Dropped), length))
        }
        Some(Failure::StallBody(_)) if at < length => std::future::pending().await,
        _ => None,
    }
}
