//! The bytes of a segment of changes: a line with its facts, then one line for each change, in the order of their times.

use super::StreamError;
use crate::format::convex::Change;
use crate::model::documents::DocumentsFacts;

/// A segment under construction: lines of changes.
#[derive(Debug, Default)]
pub(super) struct Lines {
    pub bytes: Vec<u8>,
    pub count: u64,
}

impl Lines {
    pub fn add(&mut self, change: &Change) -> Result<(), StreamError> {
        change.write(&mut self.bytes).map_err(|e| StreamError::Content(e.to_string()))?;
        self.count += 1;
        Ok(())
    }

    /// Takes the lines of another one over.
    pub fn append(&mut self, other: &mut Self) {
        self.bytes.append(&mut other.bytes);
        self.count += std::mem::take(&mut other.count);
    }
}

/// A segment's plain bytes.
pub(super) fn build(facts: &DocumentsFacts, lines: &Lines) -> Result<Vec<u8>, StreamError> {
    let mut bytes = serde_json::to_vec(facts).map_err(|e| StreamError::Content(e.to_string()))?;
    bytes.push(b'\n');
    bytes.extend_from_slice(&lines.bytes);
    Ok(bytes)
}

/// What a segment says of itself.
pub(super) fn facts_of(plain: &[u8]) -> Result<DocumentsFacts, StreamError> {
    let first = plain.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let facts: DocumentsFacts = serde_json::from_slice(first).map_err(|e| StreamError::Content(e.to_string()))?;
    match facts.version {
        1 => Ok(facts),
        other => Err(StreamError::Content(format!("it is of version {other}; a newer lifeboat reads it"))),
    }
}

/// Its changes.
pub(super) fn changes(plain: &[u8]) -> impl Iterator<Item = Result<Change, StreamError>> {
    let lines = plain.split(|byte| *byte == b'\n').skip(1).filter(|line| !line.is_empty());
    lines.map(|line| {
        let text = std::str::from_utf8(line).map_err(|e| StreamError::Content(e.to_string()))?;
        Change::of_sync(text).map_err(|e| StreamError::Content(e.to_string()))
    })
}
