//! What a host saw when it looked: of the store, of a source's server. Of its own work alone; no log tells of it.

use serde::{Deserialize, Serialize};

use super::Moment;

/// The subject of what was seen of the store.
pub const STORE: &str = "";
/// The last check of the store. Facts are [`Checked`].
pub const CHECK: &str = "check";
/// How far back a deployment's changes can be read. Facts are [`Reach`].
pub const RETENTION: &str = "retention";

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sight {
    /// Which: [`CHECK`], [`RETENTION`], of [`slot`] or of [`live`].
    pub what: String,
    /// When.
    pub at: Moment,
    /// What is wrong; none where nothing is.
    pub words: Option<String>,
    /// Numbers.
    pub facts: serde_json::Value,
}

impl Sight {
    /// What is wrong with it, or that nothing is.
    pub fn new(what: String, at: Moment, words: Option<String>) -> Self {
        Self { what, at, words, facts: serde_json::Value::Null }
    }
}

/// A replication slot.
pub fn slot(name: &str) -> String {
    format!("slot {name}")
}

/// Whether it is a slot.
pub fn is_slot(what: &str) -> bool {
    what.starts_with("slot ")
}

/// A finding about a server, by its word.
pub fn live(what: &str) -> String {
    format!("live {what}")
}

/// What a check of the store came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// Packs that were read whole.
    pub packs_read: u64,
    /// Bytes of them.
    pub bytes_read: u64,
    /// Packs that no check of this host has ever read and found in order.
    pub packs_never_read: u64,
    /// Packs that were due and were left for the next one.
    pub packs_left: u64,
}

/// How far back a deployment's changes could be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reach {
    /// Hours; at least so many.
    pub hours: u64,
}
