//! A session with a self-hosted Convex deployment: plain HTTP with deadlines, bounded answers, and retries where a request may be
//! sent twice. No WebSocket: state is asked for with the same queries that the official command line subscribes to.
//!
//! Invariants: every wait on the network has a deadline; no answer is read beyond its bound; the key travels in one header alone,
//! and only to the deployment's own URL (redirects are not followed). What may not be sent twice is not (`once`): whoever calls it
//! looks at the state again after a failure. Not here: what the answers mean for a backup or a restore.

mod calls;
mod changes;
mod documents;
mod import;
mod key;

use std::fmt;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::blocking::{Client, RequestBuilder, Response};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use url::Url;

pub use calls::{
    CheckedKey, Component, ExportState, ExportStatus, FilePage, FileRow, Probe, ServerFeatures, integer, now_of,
};
pub use changes::{DeltaPage, SyncPage, TableEvent};
pub use import::{ImportMode, ImportPhase, ImportState, Uploaded, Uploading};
pub use key::{AdminKey, BadKey, Rights};

/// An answer in JSON at most.
const ANSWER_MAX: u64 = 256 << 20;
/// An error's body at most.
const ERROR_MAX: u64 = 64 << 10;
/// Until the first byte of an answer: the server's own limit is 300 s.
const DEADLINE: Duration = Duration::from_secs(330);
/// For what a server answers at once.
const SHORT_DEADLINE: Duration = Duration::from_secs(60);
/// Between two pieces of a body that is read.
pub(super) const BODY_DEADLINE: Duration = Duration::from_secs(120);
/// A longer wait between tries makes nothing better.
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// What could not be done with a deployment.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A URL is none of a deployment.
    #[error("`{url}` is no URL of a deployment: {why}")]
    BadUrl {
        /// What was given, without a password in it.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// No URL was given.
    #[error("no deployment was named")]
    NoUrl,
    /// No key was given.
    #[error("there is no admin key for the deployment at `{0}`")]
    NoKey(String),
    /// A key or a secret cannot be used.
    #[error("the {what} cannot be used")]
    BadKey {
        /// Which, and where it came from.
        what: String,
        /// Why.
        source: BadKey,
    },
    /// A file of the host's own.
    #[error("could not {doing} `{}`", path.display())]
    Io {
        /// What.
        doing: &'static str,
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Nobody answers, or the connection broke.
    #[error("could not {doing} at `{url}`")]
    Unreachable {
        /// What was asked for.
        doing: String,
        /// The deployment.
        url: String,
        /// Why.
        source: Said,
    },
    /// The key is not accepted.
    #[error("the deployment at `{url}` does not accept the admin key")]
    WrongKey {
        /// The deployment.
        url: String,
        /// The instance that the key is of.
        key_of: String,
        /// The server's words.
        source: Said,
    },
    /// The key is of another instance.
    #[error("the deployment at `{url}` is `{instance}`, and the admin key is of `{key_of}`")]
    OtherInstance {
        /// The deployment.
        url: String,
        /// Its instance.
        instance: String,
        /// The instance that the key is of.
        key_of: String,
    },
    /// The key may not do that.
    #[error("the admin key may not {doing} at `{url}`")]
    NotPermitted {
        /// What was asked for.
        doing: String,
        /// The deployment.
        url: String,
        /// The server's words.
        source: Said,
    },
    /// The server refused.
    #[error("the deployment at `{url}` refused to {doing}: {status} {code}")]
    Refused {
        /// What was asked for.
        doing: String,
        /// The deployment.
        url: String,
        /// The status of the answer.
        status: u16,
        /// The server's code, or nothing.
        code: String,
        /// The server's words.
        source: Said,
    },
    /// The answer cannot be understood.
    #[error("could not understand the answer of `{url}` to: {doing}")]
    Answer {
        /// What was asked for.
        doing: String,
        /// The deployment.
        url: String,
        /// What is wrong with it.
        source: Said,
    },
    /// The run was given up.
    #[error("the run was given up")]
    GivenUp,
}

/// Words of somebody else, on one line and not too many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said(pub String);

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = self.0.split_whitespace().collect::<Vec<_>>().join(" ");
        let shown: String = line.chars().filter(|c| !c.is_control()).take(1000).collect();
        f.write_str(&shown)
    }
}
impl std::error::Error for Said {}

/// How often and how patiently a request is repeated that may be sent twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Tries in all.
    pub tries: u32,
    /// The wait before the second try; doubled before each further one.
    pub pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { tries: 7, pause: Duration::from_millis(500) }
    }
}

/// A deployment, and the key to it. Cheap to clone.
#[derive(Clone)]
pub struct Deployment {
    client: Client,
    base: Url,
    key: AdminKey,
    patience: Patience,
    stop: Arc<AtomicBool>,
}

impl fmt::Debug for Deployment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Deployment({})", self.base)
    }
}

/// Reads the URL of a deployment: http or https, without a query; a password in it is refused.
pub fn parse_url(text: &str) -> Result<Url, Error> {
    let bad = |why: &str| {
        let shown = text.split_once('@').map_or(text, |(_, host)| host);
        Error::BadUrl { url: shown.chars().take(200).collect(), why: why.to_owned() }
    };
    let mut url = Url::parse(text.trim()).map_err(|e| bad(&e.to_string()))?;
    if !["http", "https"].contains(&url.scheme()) || url.host_str().is_none() {
        return Err(bad("it begins with http:// or https:// and names a host"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(bad("the key does not belong into it"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(bad("it ends before `?` and `#`"));
    }
    let path = format!("{}/", url.path().trim_end_matches('/'));
    url.set_path(&path);
    Ok(url)
}

impl Deployment {
    /// A session; nothing is asked yet. `stop` ends its waits.
    pub fn new(url: &str, key: AdminKey, patience: Patience, stop: Arc<AtomicBool>) -> Result<Self, Error> {
        let base = parse_url(url)?;
        let client = Client::builder()
            .user_agent(concat!("lifeboat/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(20))
            .timeout(SHORT_DEADLINE)
            .redirect(reqwest::redirect::Policy::none())
            .build();
        let client = client.map_err(|e| Error::Unreachable {
            doing: "make a client".to_owned(),
            url: base.to_string(),
            source: said(&e),
        })?;
        Ok(Self { client, base, key, patience, stop })
    }

    /// The deployment's URL, for people.
    pub fn place(&self) -> String {
        self.base.as_str().trim_end_matches('/').to_owned()
    }

    /// The instance that the key is of.
    pub fn key_of(&self) -> &str {
        self.key.instance()
    }

    /// Whether the run was given up.
    pub fn is_given_up(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// A request with the key in it. `path` is relative to the deployment's URL.
    fn request(&self, method: Method, path: &str) -> Result<RequestBuilder, Error> {
        let url = self.base.join(path).map_err(|e| Error::BadUrl { url: path.to_owned(), why: e.to_string() })?;
        let mut value = reqwest::header::HeaderValue::from_str(&format!("Convex {}", self.key.expose()))
            .map_err(|_| Error::BadKey { what: "admin key".to_owned(), source: BadKey::Form })?;
        value.set_sensitive(true);
        let client = concat!("lifeboat-", env!("CARGO_PKG_VERSION"));
        let request = self.client.request(method, url).header("Convex-Client", client);
        Ok(request.header(reqwest::header::AUTHORIZATION, value))
    }

    /// Sends a request once; a status that is no success is an error.
    fn once(&self, doing: &str, request: RequestBuilder) -> Result<Response, Error> {
        if self.is_given_up() {
            return Err(Error::GivenUp);
        }
        let answer = request.send().map_err(|e| self.unreachable(doing, &e))?;
        if answer.status().is_success() { Ok(answer) } else { Err(self.refused(doing, answer)) }
    }

    /// Sends a request that may be sent twice, and again where that can help.
    fn again(&self, doing: &str, request: impl Fn() -> Result<RequestBuilder, Error>) -> Result<Response, Error> {
        self.tries(|| self.once(doing, request()?))
    }

    /// Tries, and again where that can help.
    fn tries<T>(&self, mut each: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
        let mut pause = self.patience.pause;
        for _ in 1..self.patience.tries {
            match each() {
                Err(e) if e.may_pass() => tracing::debug!(%e, "tried again"),
                result => return result,
            }
            self.sleep(pause)?;
            pause = (pause * 2).min(PAUSE_MAX);
        }
        each()
    }

    /// Sleeps, unless the run is given up.
    pub fn sleep(&self, time: Duration) -> Result<(), Error> {
        let until = std::time::Instant::now() + time;
        loop {
            if self.is_given_up() {
                return Err(Error::GivenUp);
            }
            let left = until.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(Duration::from_millis(50)));
        }
    }

    /// The JSON of a GET.
    fn get(&self, doing: &str, path: &str) -> Result<Value, Error> {
        self.tries(|| {
            let answer = self.once(doing, self.request(Method::GET, path)?.timeout(DEADLINE))?;
            self.json(doing, answer)
        })
    }

    /// The JSON of a POST that changes nothing, or the same when it is sent twice.
    fn post(&self, doing: &str, path: &str, body: &Value) -> Result<Value, Error> {
        self.tries(|| self.post_once(doing, path, body))
    }

    /// The JSON of a POST.
    fn post_once(&self, doing: &str, path: &str, body: &Value) -> Result<Value, Error> {
        let request = self.request(Method::POST, path)?.timeout(DEADLINE);
        let request = request.header(reqwest::header::CONTENT_TYPE, "application/json").body(body.to_string());
        let answer = self.once(doing, request)?;
        self.json(doing, answer)
    }

    /// The value of a system query.
    pub fn query(&self, path: &str, args: Value) -> Result<Value, Error> {
        let doing = format!("ask `{path}`");
        let body = json!({"path": path, "args": args, "format": "convex_encoded_json"});
        let mut answer = self.post(&doing, "api/query", &body)?;
        match answer.get("status").and_then(Value::as_str) {
            Some("success") => Ok(answer.get_mut("value").map(Value::take).unwrap_or_default()),
            _ => {
                let why = answer.get("errorMessage").and_then(Value::as_str).unwrap_or("it failed").to_owned();
                let code = "QueryFailed".to_owned();
                Err(Error::Refused { doing, url: self.place(), status: 200, code, source: Said(why) })
            }
        }
    }

    fn json(&self, doing: &str, answer: Response) -> Result<Value, Error> {
        let text = self.body(doing, answer, ANSWER_MAX)?;
        if text.iter().all(u8::is_ascii_whitespace) {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&text).map_err(|e| self.odd(doing, e.to_string()))
    }

    fn body(&self, doing: &str, answer: Response, limit: u64) -> Result<Vec<u8>, Error> {
        let mut text = Vec::new();
        let read = answer.take(limit + 1).read_to_end(&mut text);
        read.map_err(|e| self.unreachable_io(doing, &e))?;
        if text.len() as u64 > limit {
            return Err(self.odd(doing, format!("it is longer than {limit} bytes")));
        }
        Ok(text)
    }

    fn odd(&self, doing: &str, why: impl Into<String>) -> Error {
        Error::Answer { doing: doing.to_owned(), url: self.place(), source: Said(why.into()) }
    }

    fn unreachable(&self, doing: &str, error: &reqwest::Error) -> Error {
        Error::Unreachable { doing: doing.to_owned(), url: self.place(), source: said(error) }
    }

    fn unreachable_io(&self, doing: &str, error: &std::io::Error) -> Error {
        Error::Unreachable { doing: doing.to_owned(), url: self.place(), source: said(error) }
    }

    /// What a status that is no success means.
    fn refused(&self, doing: &str, answer: Response) -> Error {
        let status = answer.status();
        let target = answer.headers().get(reqwest::header::LOCATION);
        let target = target.and_then(|to| to.to_str().ok()).map(str::to_owned);
        let mut text = Vec::new();
        let _ = answer.take(ERROR_MAX).read_to_end(&mut text);
        let body: Value = serde_json::from_slice(&text).unwrap_or_default();
        let part = |name: &str| body.get(name).and_then(Value::as_str).map(str::to_owned);
        let code = part("code").unwrap_or_default();
        let words = part("message").unwrap_or_else(|| String::from_utf8_lossy(&text).into_owned());
        let (doing, url) = (doing.to_owned(), self.place());
        match (status, code.as_str()) {
            (StatusCode::UNAUTHORIZED, _) | (_, "BadAdminKey" | "InvalidAdminKey" | "BadDeployKey") => {
                Error::WrongKey { url, key_of: self.key.instance().to_owned(), source: Said(words) }
            }
            (_, "OperationNotPermitted") => Error::NotPermitted { doing, url, source: Said(words) },
            (status, _) if status.is_redirection() => {
                let words = format!("it points to {}", target.as_deref().unwrap_or("nowhere"));
                Error::Refused { doing, url, status: status.as_u16(), code: "Redirect".to_owned(), source: Said(words) }
            }
            _ => Error::Refused { doing, url, status: status.as_u16(), code, source: Said(words) },
        }
    }
}

/// An error with all its causes: what a client says first is rarely what happened.
fn said(error: &dyn std::error::Error) -> Said {
    let (mut text, mut cause) = (error.to_string(), error.source());
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = inner.source();
    }
    Said(text)
}

impl Error {
    /// Whether the same request may succeed a little later. (560 is a function's own failure.)
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { status, .. } => matches!(status, 408 | 425 | 429 | 500..=559),
            _ => false,
        }
    }

    /// Whether the server has no such route or thing.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }

    /// Whether the server says of a file that it is not there. A proxy says 404 too, while a server starts.
    pub fn is_file_gone(&self) -> bool {
        matches!(self, Self::Refused { status: 404, code, .. } if code == "FileNotFound")
    }

    /// The server's code, where it gave one.
    pub fn code(&self) -> &str {
        match self {
            Self::Refused { code, .. } => code,
            _ => "",
        }
    }

    /// Whether it is not known what became of the request.
    pub fn is_ambiguous(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Answer { .. } => true,
            Self::Refused { status, .. } => matches!(status, 408 | 500..=599),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_those_of_a_deployment() {
        assert_eq!(parse_url("http://127.0.0.1:3210").unwrap().as_str(), "http://127.0.0.1:3210/");
        assert_eq!(
            parse_url("https://x.example/convex/").unwrap().join("api/query").unwrap().path(),
            "/convex/api/query"
        );
        for bad in ["", "127.0.0.1:3210", "ftp://x", "http://u:secret@x", "http://x?y", "http://x#y"] {
            let error = parse_url(bad).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn words_of_others_stay_on_one_line() {
        assert_eq!(Said("a\n  b\u{1b}[1m".into()).to_string(), "a b[1m");
    }
}
