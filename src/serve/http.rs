//! The server: what is asked, who may ask, what is answered.
//!
//! Invariants: GET and HEAD alone, and no body is read; a name of the host that is not ours is refused (a page of somebody else's cannot
//! look through a visitor's browser); connections, headers and their time are bounded; where a token is set nothing but the sign of life is
//! shown without it, and it is compared without telling how much of it was right.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};

use super::html::{ICON, SCRIPT, STYLE};
use super::page::{days, overview};
use super::source_page::{Asked, page};
use super::view::View;
use crate::model::Moment;

/// Connections at a time.
const CONNECTIONS_MAX: usize = 64;
/// Bytes of a request's head.
const HEAD_MAX: usize = 16 << 10;
/// How long a head may take, and how long a connection stays open between requests.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// How long a whole connection may last.
const CONNECTION_DEADLINE: Duration = Duration::from_secs(120);
/// A view that is younger is shown as it is.
const FRESH: chrono::TimeDelta = chrono::TimeDelta::seconds(10);
/// How long a program waits for a new one.
const FRESHENING: Duration = Duration::from_secs(5);
/// How long a person waits for one in place of one that is older than that.
const BRIEFLY: Duration = Duration::from_secs(2);
const OLD: chrono::TimeDelta = chrono::TimeDelta::minutes(1);
/// Nothing from elsewhere, nothing in the page itself that would run.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; \
                      frame-ancestors 'none'";
/// The cookie with the token.
const COOKIE: &str = "lifeboat_token";

/// Who may look.
#[derive(Clone, Default)]
pub struct Access {
    /// The digest of the token that a visitor must know.
    token: Option<blake3::Hash>,
    /// Names of the host beside those of the loopback; none: any, behind a proxy.
    hosts: Vec<String>,
    any_host: bool,
}

impl Access {
    /// With a token, where one is given; under these names, or under any.
    pub fn new(token: Option<&str>, hosts: &[String], any_host: bool) -> Self {
        let token = token.map(|token| blake3::hash(token.as_bytes()));
        Self { token, hosts: hosts.iter().map(|host| host.to_ascii_lowercase()).collect(), any_host }
    }

    fn knows(&self, token: &str) -> bool {
        // Digests compare in constant time.
        self.token.is_none_or(|own| own == blake3::hash(token.as_bytes()))
    }

    fn is_ours(&self, host: Option<&str>) -> bool {
        let Some(host) = host else { return false };
        let name = match host.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or_default(),
            None => host.split(':').next().unwrap_or_default(),
        };
        let name = name.to_ascii_lowercase();
        self.any_host || ["localhost", "127.0.0.1", "::1"].contains(&name.as_str()) || self.hosts.contains(&name)
    }
}

/// Reads a time as a person types it: the moment (none for the newest) and how it was read.
pub type ReadTime = dyn Fn(&str) -> Result<(Option<Moment>, String), String> + Send + Sync;

/// What is shown.
#[derive(Clone, Default)]
struct Shown {
    /// Where there is something.
    view: Option<Arc<View>>,
    /// Since when there is nothing newer, and why.
    failing: Option<(Moment, String)>,
    /// When something newer was last looked for.
    tried: Option<Moment>,
}

/// What is shown, and who is told that somebody looks.
pub struct Site {
    state: Mutex<Shown>,
    /// Counts what was shown.
    changed: tokio::sync::watch::Sender<u64>,
    /// The time of day.
    pub clock: Box<dyn Fn() -> Moment + Send + Sync>,
    /// Reads times.
    pub read_time: Box<ReadTime>,
    /// Somebody looks: a fresh view is welcome.
    pub looked: Box<dyn Fn() + Send + Sync>,
    /// Who may.
    pub access: Access,
}

impl Site {
    /// One that shows nothing yet.
    pub fn new(
        clock: Box<dyn Fn() -> Moment + Send + Sync>,
        read_time: Box<ReadTime>,
        looked: Box<dyn Fn() + Send + Sync>,
        access: Access,
    ) -> Self {
        Self { state: Mutex::default(), changed: tokio::sync::watch::Sender::new(0), clock, read_time, looked, access }
    }

    /// Shows this from now on.
    pub fn show(&self, view: View) {
        let tried = Some((self.clock)());
        *self.shown() = Shown { view: Some(Arc::new(view)), failing: None, tried };
        self.changed.send_modify(|count| *count += 1);
    }

    /// What was shown before stays; why there is nothing newer. True where that is news.
    pub fn fail(&self, why: String) -> bool {
        let now = (self.clock)();
        let mut shown = self.shown();
        let is_first = shown.failing.is_none();
        let since = shown.failing.as_ref().map_or(now, |(since, _)| *since);
        (shown.failing, shown.tried) = (Some((since, why)), Some(now));
        drop(shown);
        self.changed.send_modify(|count| *count += 1);
        is_first
    }

    fn shown(&self) -> std::sync::MutexGuard<'_, Shown> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it was looked so lately that nobody needs to look again.
    pub fn is_fresh(&self) -> bool {
        self.shown().tried.is_some_and(|tried| {
            let age = (self.clock)() - tried;
            age >= chrono::TimeDelta::zero() && age < FRESH
        })
    }

    /// Whether what is shown is so old that it misleads.
    fn is_old(&self) -> bool {
        let shown = self.shown();
        let now = (self.clock)();
        shown.failing.is_none() && shown.view.as_ref().is_none_or(|view| now - view.made > OLD || view.made > now)
    }

    /// Programs wait for what is new, within bounds: they come once a minute, and would always see what was so the last time.
    async fn freshen(&self, path: &str) {
        let wait = match path {
            "/metrics" | "/api/status" | "/healthz" if !self.is_fresh() => FRESHENING,
            // Who looks again within a minute sees it renew itself; who has not looked since Friday must not see Friday's.
            "/" if self.is_old() => BRIEFLY,
            page if page.starts_with("/source/") && self.is_old() => BRIEFLY,
            _ => return,
        };
        let mut changed = self.changed.subscribe();
        (self.looked)();
        let _ = tokio::time::timeout(wait, changed.changed()).await;
    }
}

type Answer = Response<Full<Bytes>>;

fn plain(status: StatusCode, text: impl Into<String>) -> Answer {
    whole(status, "text/plain; charset=utf-8", text.into())
}

fn whole(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

fn still(kind: &'static str, body: &'static str) -> Answer {
    let mut answer = whole(StatusCode::OK, kind, body);
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=300"));
    answer
}

const HTML: &str = "text/html; charset=utf-8";

/// The value of a key of the query, the first one.
fn query(request: &Request<Incoming>, key: &str) -> Option<String> {
    let pairs = url::form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes());
    pairs.into_iter().find(|(name, _)| name == key).map(|(_, value)| value.into_owned())
}

/// Answers a request.
fn answer(site: &Site, request: &Request<Incoming>) -> Answer {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "This page is only looked at.\n");
    }
    let head = |name: header::HeaderName| request.headers().get(name).and_then(|value| value.to_str().ok());
    if !site.access.is_ours(head(header::HOST)) {
        let text = "This is not the name of this host: reach it as localhost, or name it under `hosts` in [serve].\n";
        return plain(StatusCode::MISDIRECTED_REQUEST, text);
    }
    let at = request.uri().path();
    if at == "/healthz" {
        return health(site);
    }
    if let Some(refused) = refused(site, request) {
        return refused;
    }
    match at {
        "/style.css" => return still("text/css; charset=utf-8", STYLE),
        "/live.js" => return still("text/javascript; charset=utf-8", SCRIPT),
        "/icon.svg" => return still("image/svg+xml", ICON),
        _ => {}
    }
    (site.looked)();
    let Shown { view, failing, .. } = site.shown().clone();
    let Some(view) = view else {
        let why = failing.map_or_else(|| "It has not been read yet.".to_owned(), |(_, why)| why);
        return plain(StatusCode::SERVICE_UNAVAILABLE, format!("There is nothing to show: {why}\n"));
    };
    let now = (site.clock)();
    if let (true, Some((_, why))) = (matches!(at, "/metrics" | "/api/status"), &failing) {
        // What was so before would pass for what is so now.
        return plain(StatusCode::SERVICE_UNAVAILABLE, format!("the repository cannot be read: {why}\n"));
    }
    let days = days(query(request, "days").as_deref());
    match at {
        "/" => whole(StatusCode::OK, HTML, overview(&view, failing.as_ref(), days, now)),
        "/metrics" => whole(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", view.metrics.clone()),
        "/api/status" => whole(StatusCode::OK, "application/json", view.json.clone()),
        _ => {
            let name =
                at.strip_prefix("/source/").map(|name| percent_encoding::percent_decode_str(name).decode_utf8_lossy());
            let Some(source) = name.and_then(|name| view.source(&name)) else {
                return plain(StatusCode::NOT_FOUND, "There is nothing here. The overview is at /\n");
            };
            let to = query(request, "to");
            let asked = Asked { read: to.as_deref().map(|to| (site.read_time)(to)), to, into: query(request, "into") };
            whole(StatusCode::OK, HTML, page(&view, source, failing.as_ref(), days, &asked, now))
        }
    }
}

/// A sign of life: whether the repository can be read.
fn health(site: &Site) -> Answer {
    (site.looked)();
    let shown = site.shown().clone();
    match (shown.view, shown.failing) {
        (Some(_), None) => plain(StatusCode::OK, "ok\n"),
        // Why is for those who may look.
        (_, Some(_)) => plain(StatusCode::SERVICE_UNAVAILABLE, "the repository cannot be read\n"),
        (None, None) => plain(StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
    }
}

/// What somebody without the token gets; nothing where they may go on.
fn refused(site: &Site, request: &Request<Incoming>) -> Option<Answer> {
    site.access.token?;
    let head = |name: header::HeaderName| request.headers().get(name).and_then(|value| value.to_str().ok());
    let bearer = head(header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
    let cookies = head(header::COOKIE).unwrap_or_default().split(';');
    let mut cookies = cookies.filter_map(|pair| pair.trim().split_once('=')).filter(|(name, _)| *name == COOKIE);
    let shown = bearer.or_else(|| cookies.next().map(|(_, value)| value));
    if shown.is_some_and(|token| site.access.knows(token)) {
        return None;
    }
    if let Some(token) = query(request, "token").filter(|token| site.access.knows(token)) {
        // Out of the address, where it would be kept in histories.
        let mut answer = plain(StatusCode::SEE_OTHER, "");
        let cookie = format!("{COOKIE}={token}; HttpOnly; SameSite=Strict; Path=/; Max-Age=2592000");
        let headers = answer.headers_mut();
        headers.insert(header::LOCATION, HeaderValue::from_static("/"));
        match HeaderValue::from_str(&cookie) {
            Ok(cookie) => headers.insert(header::SET_COOKIE, cookie),
            Err(_) => {
                return Some(plain(StatusCode::UNAUTHORIZED, "The token has signs that a browser does not keep.\n"));
            }
        };
        return Some(answer);
    }
    let mut answer = plain(
        StatusCode::UNAUTHORIZED,
        "A token is needed: open /?token=TOKEN once, or send `Authorization: Bearer TOKEN`.\n",
    );
    answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    Some(answer)
}

/// Sockets that listen.
pub struct Doors(std::net::TcpListener);

impl Doors {
    /// Listens.
    ///
    /// # Errors
    /// The address is taken, or not of this machine.
    pub fn open(at: SocketAddr) -> std::io::Result<Self> {
        let listener = std::net::TcpListener::bind(at)?;
        listener.set_nonblocking(true)?;
        Ok(Self(listener))
    }

    /// Where.
    pub fn place(&self) -> std::io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// A server that runs; ends with the value.
pub struct Served {
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Serves a site on a thread of its own.
///
/// # Errors
/// The system gives no thread.
pub fn serve(doors: Doors, site: Arc<Site>) -> std::io::Result<Served> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("serve").enable_all().build()?;
    let guard = runtime.enter();
    let listener = tokio::net::TcpListener::from_std(doors.0)?;
    drop(guard);
    runtime.spawn(async move {
        let slots = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(e) => {
                    // Too many open files: others end first.
                    tracing::warn!(%e, "a visitor was not let in");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    continue;
                }
            };
            let site = Arc::clone(&site);
            tokio::spawn(async move {
                let service = hyper::service::service_fn(|request| {
                    let site = Arc::clone(&site);
                    async move {
                        site.freshen(request.uri().path()).await;
                        Ok::<_, Infallible>(answer(&site, &request))
                    }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_DEADLINE)
                    .max_buf_size(HEAD_MAX)
                    .serve_connection(TokioIo::new(stream), service);
                if let Ok(Err(e)) = tokio::time::timeout(CONNECTION_DEADLINE, connection).await {
                    tracing::debug!(%e, "a visit ended early");
                }
                drop(slot);
            });
        }
    });
    Ok(Served { runtime: Some(runtime) })
}
