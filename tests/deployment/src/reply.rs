//! Answers: their status, headers and bodies, and refusals as the backend words them.

use bytes::Bytes;
use serde_json::json;

/// An error as the backend sends it: `{"code":…,"message":…}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// The short code to match on; empty for an answer without a body.
    pub code: String,
    /// The text for people.
    pub message: String,
}

impl Refusal {
    /// A refusal of any status.
    pub fn new(status: u16, code: &str, message: impl Into<String>) -> Refusal {
        Refusal { status, code: code.to_owned(), message: message.into() }
    }

    /// A 400.
    pub(crate) fn bad(code: &str, message: impl Into<String>) -> Refusal {
        Refusal::new(400, code, message)
    }

    /// What an unclassified error becomes: its text is redacted.
    pub(crate) fn internal() -> Refusal {
        Refusal::new(500, "InternalServerError", "Your request couldn't be completed. Try again later.")
    }
}

/// The bytes of an answer.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    Bytes(Bytes),
    /// A piece of a file.
    File {
        contents: crate::model::Contents,
        from: u64,
        length: u64,
    },
}

impl Body {
    pub(crate) fn len(&self) -> u64 {
        match self {
            Body::Bytes(bytes) => bytes.len() as u64,
            Body::File { length, .. } => *length,
        }
    }
}

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Body,
}

impl Reply {
    pub(crate) fn empty() -> Reply {
        Reply { status: 200, headers: Vec::new(), body: Body::Bytes(Bytes::new()) }
    }

    pub(crate) fn json(text: impl Into<String>) -> Reply {
        let headers = vec![("content-type", "application/json".to_owned())];
        Reply { status: 200, headers, body: Body::Bytes(Bytes::from(text.into())) }
    }

    pub(crate) fn text(text: impl Into<String>) -> Reply {
        let headers = vec![("content-type", "text/plain; charset=utf-8".to_owned())];
        Reply { status: 200, headers, body: Body::Bytes(Bytes::from(text.into())) }
    }

    pub(crate) fn with_status(mut self, status: u16) -> Reply {
        self.status = status;
        self
    }
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Reply {
        if refusal.code.is_empty() {
            return Reply::empty().with_status(refusal.status);
        }
        let body = json!({ "code": refusal.code, "message": refusal.message });
        Reply::json(body.to_string()).with_status(refusal.status)
    }
}
