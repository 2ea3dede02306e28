//! Segments of a stream: what a source did after a snapshot, one object each (docs/format.md, section 5).
//!
//! Invariants: a [`SegmentPlace`] that exists is safe as a part of a key. Not here: what a kind of stream keeps in its segments.

use serde::{Deserialize, Serialize};

use super::{Digest, Moment};

/// Where a segment stands: stream, epoch (the timeline of WAL), name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "(String, String, String)", into = "(String, String, String)")]
pub struct SegmentPlace {
    stream: String,
    epoch: String,
    name: String,
}

/// Characters of a part of a place at most.
const PART_MAX: usize = 128;
/// Characters at the end of a name that tell segments of one folder apart.
const TAIL: usize = 8;

/// What follows a segment's name in that of its parts.
const PIECE: &str = ".piece";

impl SegmentPlace {
    /// A place. `None` where a part would be an odd name of a folder or an object: letters, digits, `.`, `_` and `-` are
    /// allowed, not at the beginning the last three.
    pub fn new(stream: &str, epoch: &str, name: &str) -> Option<Self> {
        let good = |part: &str| {
            let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
            (1..=PART_MAX).contains(&part.len()) && part.bytes().all(allowed) && !part.starts_with(['.', '_', '-'])
        };
        // The digest follows the last dash of a key.
        let all = good(stream) && good(epoch) && good(name) && !name.contains('-');
        all.then(|| Self { stream: stream.to_owned(), epoch: epoch.to_owned(), name: name.to_owned() })
    }

    /// The stream.
    pub fn stream(&self) -> &str {
        &self.stream
    }
    /// The epoch: for WAL the timeline, eight hexadecimal digits.
    pub fn epoch(&self) -> &str {
        &self.epoch
    }
    /// The segment's own name.
    pub fn name(&self) -> &str {
        &self.name
    }
    /// Whether it is a part of a segment that grew when it was put: the whole segment takes its place, no commit ever names it,
    /// and one that is gone is no loss.
    pub fn is_passing(&self) -> bool {
        self.name.contains(PIECE)
    }
    /// The name of the segment that it is a part of, or its own.
    pub fn whole_name(&self) -> &str {
        self.name.split_once(PIECE).map_or(self.name.as_str(), |(whole, _)| whole)
    }
    /// The place of a part of this segment that ends at a byte of it.
    pub fn piece(&self, to: u32) -> Option<Self> {
        Self::new(&self.stream, &self.epoch, &format!("{}{PIECE}{to:08X}", self.name))
    }
    /// The folder of its object below the writer's: segments whose names differ in their last eight characters alone share
    /// one, so that a listing is short (docs/decisions/0005-segment-folders.md).
    pub fn folder(&self) -> String {
        let shelf = match self.name.len() {
            length if length > TAIL => &self.name[..length - TAIL],
            _ => "short",
        };
        format!("streams/{}/{}/{shelf}", self.stream, self.epoch)
    }
    /// The key of its object below the writer's folder.
    pub fn key(&self, digest: &Digest) -> String {
        format!("{}/{}-{digest}.age", self.folder(), self.name)
    }
    /// Place and digest of a key below the writer's folder; `None` for what is no segment's key.
    pub fn parse_key(key: &str) -> Option<(Self, Digest)> {
        let mut parts = key.strip_prefix("streams/")?.split('/');
        let (stream, epoch, _, file) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let (name, digest) = file.strip_suffix(".age")?.rsplit_once('-')?;
        let (place, digest) = (Self::new(stream, epoch, name)?, digest.parse().ok()?);
        (parts.next().is_none() && place.key(&digest) == key).then_some((place, digest))
    }
    /// What its digest covers before its plain bytes: stream, epoch and name, each with its length.
    pub fn digest_prefix(&self) -> Vec<u8> {
        let mut bytes = b"segment".to_vec();
        for part in [&self.stream, &self.epoch, &self.name] {
            bytes.push(part.len() as u8);
            bytes.extend_from_slice(part.as_bytes());
        }
        bytes
    }
}

impl TryFrom<(String, String, String)> for SegmentPlace {
    type Error = String;

    fn try_from((stream, epoch, name): (String, String, String)) -> Result<Self, String> {
        Self::new(&stream, &epoch, &name).ok_or_else(|| format!("`{stream}/{epoch}/{name}` is no place of a segment"))
    }
}
impl From<SegmentPlace> for (String, String, String) {
    fn from(place: SegmentPlace) -> Self {
        (place.stream, place.epoch, place.name)
    }
}

/// The name of a segment's object below its writer's folder, as a line of a commit has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SegmentKey(pub SegmentPlace, pub Digest);

impl std::fmt::Display for SegmentKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.key(&self.1))
    }
}
impl TryFrom<String> for SegmentKey {
    type Error = String;

    fn try_from(key: String) -> Result<Self, String> {
        let parsed = SegmentPlace::parse_key(&key).map(|(place, digest)| Self(place, digest));
        parsed.ok_or_else(|| format!("`{key}` is no key of a segment"))
    }
}
impl From<SegmentKey> for String {
    fn from(key: SegmentKey) -> Self {
        key.to_string()
    }
}

/// A segment as the index has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentRecord {
    /// Where it stands.
    pub place: SegmentPlace,
    /// Keyed BLAKE3 of its place and its plain bytes.
    pub digest: Digest,
    /// Plain bytes.
    pub plain: u64,
    /// Stored bytes.
    pub stored: u64,
    /// When it was put, by the writer's clock.
    pub put: Moment,
    /// What its kind says of it: of WAL the times of its commits. Absent where it was found by name alone.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub facts: serde_json::Value,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_go_there_and_back() {
        let digest = Digest::new([0xab; 32]);
        for name in ["000000010000000A000000FF", "00000002.history", "x", "000000010000000000000002.00000028.backup"] {
            let place = SegmentPlace::new("app-db-7423-15", "00000001", name).unwrap();
            let key = place.key(&digest);
            assert_eq!(SegmentPlace::parse_key(&key), Some((place, digest)), "{key}");
        }
        let place = SegmentPlace::new("s", "1", "000000010000000A000000FF").unwrap();
        assert!(place.key(&digest).starts_with("streams/s/1/000000010000000A/000000010000000A000000FF-abab"));
    }

    #[test]
    fn odd_places_are_refused() {
        for (stream, epoch, name) in
            [("", "1", "a"), ("s", "", "a"), ("s", "1", ""), ("a/b", "1", "a"), ("s", "..", "a"), ("s", "1", "a-b")]
        {
            assert_eq!(SegmentPlace::new(stream, epoch, name), None, "{stream} {epoch} {name}");
        }
        assert_eq!(SegmentPlace::parse_key("streams/s/1/other/000000010000000A000000FF-00.age"), None);
    }

    #[test]
    fn places_that_read_alike_have_different_prefixes() {
        let prefix = |s: &str, e: &str, n: &str| SegmentPlace::new(s, e, n).unwrap().digest_prefix();
        assert_ne!(prefix("ab", "c", "d"), prefix("a", "bc", "d"));
        assert_ne!(prefix("a", "bc", "d"), prefix("a", "b", "cd"));
    }

    proptest! {
        #[test]
        fn arbitrary_keys_never_panic(key in ".{0,80}") {
            if let Some((place, digest)) = SegmentPlace::parse_key(&key) {
                prop_assert_eq!(place.key(&digest), key);
            }
        }
    }
}
