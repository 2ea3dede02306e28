//! The network: connections, requests, answers, and where faults of the wire strike.
//!
//! Requests are answered by plain functions on threads of their own; only the WebSocket is asynchronous.

pub(crate) mod auth;
mod body;
pub(crate) mod imports;
mod misc;
mod mutations;
mod routes;
mod socket;
mod storage;
mod streams;

use std::convert::Infallible;
use std::sync::Arc;

use axum::response::Response;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tower_service::Service;

use crate::Inner;
use crate::faults::Failure;
use crate::reply::{Refusal, Reply};

/// A request that was read to its end.
#[derive(Debug)]
pub(crate) struct Request {
    pub method: String,
    pub path: String,
    query: String,
    pub authorization: Option<String>,
    pub range: Option<String>,
    pub content_type: String,
    pub client: Option<String>,
    pub body: Bytes,
}

impl Request {
    /// A parameter of the query string.
    pub(crate) fn query(&self, name: &str) -> Option<String> {
        form_urlencoded::parse(self.query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }

    /// The body as JSON, at most of this size.
    pub(crate) fn json(&self, bytes_max: usize) -> Result<serde_json::Value, Refusal> {
        let is_json = self.content_type.split(';').next().is_some_and(|t| t.trim() == "application/json");
        let bad = |why: String| Refusal::bad("BadJsonBody", why);
        if !is_json {
            return Err(bad("Expected request with `Content-Type: application/json`".to_owned()));
        }
        if self.body.len() > bytes_max {
            return Err(bad("length limit exceeded".to_owned()));
        }
        serde_json::from_slice(&self.body).map_err(|e| bad(format!("Failed to parse the request body as JSON: {e}")))
    }
}

/// A connection that ends without an answer.
#[derive(Debug)]
struct Dropped;

impl std::fmt::Display for Dropped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the connection was dropped, as a fault says")
    }
}

impl std::error::Error for Dropped {}

/// Accepts connections for as long as the runtime lives.
pub(crate) async fn serve(inner: Arc<Inner>, listener: TcpListener) {
    let router = socket::router(Arc::clone(&inner));
    // As many requests at a time as the backend takes.
    let places = Arc::new(tokio::sync::Semaphore::new(128));
    while let Ok((stream, _)) = listener.accept().await {
        let (inner, router, places) = (Arc::clone(&inner), router.clone(), Arc::clone(&places));
        let _ = stream.set_nodelay(true);
        tokio::spawn(async move {
            let service = service_fn(move |request: hyper::Request<Incoming>| {
                let (inner, router, places) = (Arc::clone(&inner), router.clone(), Arc::clone(&places));
                async move { answer(inner, router, &places, request).await }
            });
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            // A connection that breaks is its client's affair.
            let _ = connection.with_upgrades().await;
        });
    }
}

async fn answer(
    inner: Arc<Inner>,
    mut router: axum::Router,
    places: &tokio::sync::Semaphore,
    request: hyper::Request<Incoming>,
) -> Result<Response, Dropped> {
    let target = request.uri().path_and_query().map_or("/", |t| t.as_str()).to_owned();
    let controls = target.starts_with("/test/");
    let failure = match controls {
        true => None,
        false => inner.faults.meet(&format!("{} {target}", request.method())),
    };
    match &failure {
        Some(Failure::Drop) => return Err(Dropped),
        Some(Failure::Hang) => std::future::pending().await,
        Some(Failure::Answer(refusal)) => {
            // The body is read first, or the client may find its own writing failed.
            let _ = request.into_body().collect().await;
            return body::response(Reply::from(refusal.clone()), None);
        }
        _ => {}
    }
    if socket::is_socket(request.uri().path()) {
        let answered: Result<Response, Infallible> = router.call(request.map(axum::body::Body::new)).await;
        return answered.map_err(|never| match never {});
    }
    let _place = places.acquire().await;
    let request = read(request).await.map_err(|_| Dropped)?;
    let reply = tokio::task::spawn_blocking(move || routes::handle(&inner, &request)).await.map_err(|_| Dropped)?;
    match failure {
        Some(Failure::DoThenDrop) => Err(Dropped),
        failure => body::response(reply, failure),
    }
}

async fn read(request: hyper::Request<Incoming>) -> Result<Request, hyper::Error> {
    let (parts, body) = request.into_parts();
    let header = |name: &str| parts.headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    Ok(Request {
        method: parts.method.to_string(),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        authorization: header("authorization"),
        range: header("range"),
        content_type: header("content-type").unwrap_or_default(),
        client: header("convex-client"),
        body: body.collect().await?.to_bytes(),
    })
}
