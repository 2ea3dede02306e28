//! The small objects of a repository: what they are called and what they say (docs/format.md, sections 1 and 2).

use serde::{Deserialize, Serialize};

use super::Error;
use crate::model::{Chunking, CommitId, Digest, Moment, RepositoryId};
use crate::seal::{VerifyingKey, open_signed};

pub(super) const DESCRIPTION: &str = "lifeboat.json";
/// In a copy: the `lifeboat.json` of the repository whose secret it shares.
pub(super) const ORIGIN: &str = "origin.json";
pub(super) const RECIPIENTS_CONTEXT: &str = "lifeboat format 1 recipients";
pub(super) const WRITER_CONTEXT: &str = "lifeboat format 1 writer";
pub(super) const COMMIT_CONTEXT: &str = "lifeboat format 1 commit";

/// `lifeboat.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Version of the repository's form: 1.
    pub format: u32,
    /// The repository's random number.
    pub repository: RepositoryId,
    /// When `init` made it.
    pub created: Moment,
    /// The key that signs writers and lists of recipients.
    pub admission_key: VerifyingKey,
    /// What the secret must derive.
    pub secret_commitment: Digest,
    /// How bytes are cut here.
    pub chunking: Chunking,
}

impl Description {
    /// Reads the bytes of `lifeboat.json`; `store` is what messages call the place that they come from.
    pub fn parse(text: &[u8], store: &str) -> Result<Self, Error> {
        let bad = |why: String| Error::BadObject { key: DESCRIPTION.to_owned(), why };
        let value: serde_json::Value = serde_json::from_slice(text).map_err(|e| bad(e.to_string()))?;
        let format = value.get("format").and_then(serde_json::Value::as_u64).unwrap_or(0);
        if format != 1 {
            return Err(Error::Newer { store: store.to_owned(), found: format });
        }
        let description: Self = serde_json::from_value(value).map_err(|e| bad(e.to_string()))?;
        description.chunking.validate().map_err(bad)?;
        Ok(description)
    }
}

/// A list of recipients: content of `keys/recipients-<digest>.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipientsList {
    /// The repository.
    pub repository: RepositoryId,
    /// When it was made.
    pub created: Moment,
    /// The list that it replaces.
    pub previous: Option<Digest>,
    /// Who can read everything.
    pub recipients: Vec<String>,
    /// Who can read commits and directories.
    pub keepers: Vec<String>,
}

impl RecipientsList {
    /// Reads the bytes of a list: signed by the admission key, of this repository. `key` is the object's name.
    pub fn parse(text: &[u8], key: &str, description: &Description) -> Result<Self, Error> {
        let bad = |why: String| Error::BadObject { key: key.to_owned(), why };
        let content = open_signed(RECIPIENTS_CONTEXT, text, &description.admission_key, "the admission key")
            .map_err(|e| bad(e.to_string()))?;
        let list: Self = serde_json::from_slice(content).map_err(|e| bad(e.to_string()))?;
        if list.repository == description.repository {
            Ok(list)
        } else {
            Err(bad("it belongs to another repository".to_owned()))
        }
    }
}

/// Content of `writers/<writer>/writer.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriterDescription {
    /// The repository.
    pub repository: RepositoryId,
    /// The writer's name.
    pub writer: String,
    /// The host that it runs on.
    pub host: String,
    /// When it joined.
    pub created: Moment,
    /// Its age public key.
    pub recipient: String,
    /// Its Ed25519 public key.
    pub key: VerifyingKey,
}

impl WriterDescription {
    /// Reads the bytes of a writer's description: signed by the admission key, of this repository, in its own place. `key`
    /// is the object's name.
    pub fn parse(text: &[u8], key: &str, writer: &str, description: &Description) -> Result<Self, Error> {
        let bad = |why: String| Error::BadObject { key: key.to_owned(), why };
        let content = open_signed(WRITER_CONTEXT, text, &description.admission_key, "the admission key")
            .map_err(|e| bad(e.to_string()))?;
        let found: Self = serde_json::from_slice(content).map_err(|e| bad(e.to_string()))?;
        if found.repository != description.repository || found.writer != writer {
            return Err(bad(format!("it describes writer `{}` of {}", found.writer, found.repository)));
        }
        Ok(found)
    }
}

/// Plain content of `keys/secret-<digest>.age`.
#[derive(Serialize, Deserialize)]
pub(super) struct MasterSecret {
    pub repository: RepositoryId,
    pub secret: String,
    pub admission_secret: String,
}

/// Plain content of `writers/<writer>/secret-<digest>.age`.
#[derive(Serialize, Deserialize)]
pub(super) struct WriterSecret {
    pub repository: RepositoryId,
    pub secret: String,
}

/// The key of a commit: its place in the log and its digest.
pub fn commit_key(writer: &str, sequence: u64, digest: &CommitId) -> String {
    format!("writers/{writer}/log/{sequence:012}-{digest}.age")
}

/// Sequence and digest from the last part of a commit's key.
pub fn parse_commit_key(key: &str) -> Option<(u64, CommitId)> {
    let name = key.rsplit('/').next()?.strip_suffix(".age")?;
    let (sequence, digest) = name.split_once('-')?;
    if sequence.len() != 12 || !sequence.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some((sequence.parse().ok().filter(|n| *n > 0)?, digest.parse().ok()?))
}

/// Whether a name may be a writer's: it becomes a folder in the store.
pub fn is_writer_name(name: &str) -> bool {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=64).contains(&name.len()) && name.bytes().all(good) && !name.starts_with('-')
}

/// Whether a name may be a source's.
pub fn is_source_name(name: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    (1..=64).contains(&name.len()) && name.bytes().all(good) && !name.starts_with(['-', '.'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commit_keys_go_there_and_back() {
        let digest = CommitId::new([0xab; 32]);
        let key = commit_key("db1-00ff", 42, &digest);
        assert!(key.starts_with("writers/db1-00ff/log/000000000042-abab"));
        assert_eq!(parse_commit_key(&key), Some((42, digest)));
        for bad in ["writers/w/log/42-ab.age", "000000000000-x.age", "", "000000000001.age"] {
            assert_eq!(parse_commit_key(bad), None, "{bad}");
        }
    }

    #[test]
    fn names_that_would_be_odd_folders_are_refused() {
        assert!(is_writer_name("db1-00ff") && is_source_name("App_db.1"));
        for bad in ["", "-x", "A", "a/b", "..", "a b"] {
            assert!(!is_writer_name(bad), "{bad}");
        }
        for bad in ["", ".x", "-x", "a/b", "a b"] {
            assert!(!is_source_name(bad), "{bad}");
        }
    }
}
