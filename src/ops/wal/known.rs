//! What was sent along: the calls for it that follow answer from one small file, without a repository.
//!
//! Invariants: a file is known only while it is the very one that was read: same inode, size, and times of its content and its
//! entry, to the nanosecond; and for [`VALID`] only, so that nobody trusts it after the repository was made anew. What is in it
//! was in the store and in the index before it was written. Losing it costs time, nothing else.

use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use chrono::TimeDelta;
use serde::{Deserialize, Serialize};

use crate::model::Moment;

/// How long it is believed.
const VALID: TimeDelta = TimeDelta::minutes(5);
/// Bytes of it at most.
const SIZE_MAX: u64 = 1 << 16;

/// A file as it was when it was read: device, inode, size, and the times of its content and of its entry in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity(u64, u64, u64, i128, i128);

impl Identity {
    /// Of an open or a named file.
    pub fn of(meta: &Metadata) -> Self {
        let nanos = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        let (modified, changed) = (nanos(meta.mtime(), meta.mtime_nsec()), nanos(meta.ctime(), meta.ctime_nsec()));
        Self(meta.dev(), meta.ino(), meta.size(), modified, changed)
    }
}

#[derive(Serialize, Deserialize)]
struct Note {
    at: Moment,
    files: Vec<(String, Identity)>,
}

/// The file of one repository and source.
#[derive(Debug, Clone)]
pub struct Known(PathBuf);

impl Known {
    /// `of` tells repositories and sources apart.
    pub fn new(state: &Path, of: &str) -> Self {
        let name = &blake3::hash(of.as_bytes()).to_hex()[..16];
        Self(state.join(format!("sent-along-{name}.json")))
    }

    /// Whether the store has a file already.
    pub fn has(&self, path: &Path, now: Moment) -> bool {
        let Some((note, meta)) = self.read().zip(fs::metadata(path).ok()) else { return false };
        let name = path.file_name().unwrap_or_default();
        let young = (TimeDelta::zero()..VALID).contains(&(now - note.at));
        young && note.files.iter().any(|(known, identity)| name == known.as_str() && *identity == Identity::of(&meta))
    }

    fn read(&self) -> Option<Note> {
        let mut text = Vec::new();
        File::open(&self.0).ok()?.take(SIZE_MAX).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Remembers files in place of those before.
    pub fn write(&self, files: &[(String, Identity)], now: Moment) {
        let note = Note { at: now, files: files.to_vec() };
        let part = self.0.with_extension(format!("{}.part", std::process::id()));
        let written = serde_json::to_vec(&note).map_err(std::io::Error::from).and_then(|text| fs::write(&part, text));
        if let Err(e) = written.and_then(|()| fs::rename(&part, &self.0)) {
            tracing::debug!("what was sent along is not remembered: {e}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_known_while_it_is_the_one_that_was_read() {
        let folder = tempfile::tempdir().unwrap();
        let (path, now) = (folder.path().join("000000010000000000000001"), chrono::Utc::now());
        fs::write(&path, "one").unwrap();
        let known = Known::new(folder.path(), "here");
        assert!(!known.has(&path, now));
        let name = "000000010000000000000001".to_owned();
        known.write(&[(name, Identity::of(&fs::metadata(&path).unwrap()))], now);
        assert!(known.has(&path, now));
        assert!(!Known::new(folder.path(), "elsewhere").has(&path, now), "of another repository");
        assert!(!known.has(&path, now + VALID), "too old");
        assert!(!known.has(&path, now - TimeDelta::seconds(1)), "a clock that jumped");
        assert!(!known.has(&path.with_file_name("000000010000000000000002"), now));
        let bytes = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        fs::write(&path, bytes).unwrap();
        assert!(!known.has(&path, now), "another file with the same bytes");
    }
}
