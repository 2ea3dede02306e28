//! Names as bytes: relative paths that are safe by construction, and text that may not be UTF-8.

use std::cmp::Ordering;
use std::fmt;

use data_encoding::BASE64;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes that usually are text: a name, a link's target, the value of an xattr. In JSON a string where they are UTF-8,
/// else `{"b64": ...}`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct RawText(pub Vec<u8>);

impl RawText {
    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}
impl fmt::Display for RawText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Control characters would let a file's name move the cursor of whoever lists it.
        for c in String::from_utf8_lossy(&self.0).chars() {
            if c.is_control() { write!(f, "{}", c.escape_default())? } else { write!(f, "{c}")? }
        }
        Ok(())
    }
}
impl fmt::Debug for RawText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum TextForm<'a> {
    Utf8(#[serde(borrow)] std::borrow::Cow<'a, str>),
    Bytes { b64: String },
}

impl Serialize for RawText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => TextForm::Bytes { b64: BASE64.encode(&self.0) }.serialize(serializer),
        }
    }
}
impl<'de> Deserialize<'de> for RawText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match TextForm::deserialize(deserializer)? {
            TextForm::Utf8(text) => Ok(Self(text.into_owned().into_bytes())),
            TextForm::Bytes { b64 } => BASE64.decode(b64.as_bytes()).map(Self).map_err(serde::de::Error::custom),
        }
    }
}

/// A path below a source's root: components joined by `/`, none of them empty, `.` or `..`, no NUL. Empty is the root.
/// Ordered component by component, so that a directory stands right before what is in it.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct RelPath(Vec<u8>);

/// Why bytes are no path below a root.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{path}` is not a clean relative path")]
pub struct BadPath {
    path: String,
}

impl RelPath {
    /// The root itself.
    pub fn root() -> Self {
        Self::default()
    }
    /// Checks and wraps bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, BadPath> {
        let bytes = bytes.into();
        let clean = |part: &[u8]| !part.is_empty() && part != b"." && part != b".." && !part.contains(&0);
        if bytes.is_empty() || bytes.split(|b| *b == b'/').all(clean) {
            Ok(Self(bytes))
        } else {
            Err(BadPath { path: RawText(bytes).to_string() })
        }
    }
    /// The path of `name` in this directory.
    pub fn join(&self, name: &[u8]) -> Result<Self, BadPath> {
        let mut bytes = self.0.clone();
        if !bytes.is_empty() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);
        Self::new(bytes)
    }
    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
    /// Whether this is the root itself.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }
    /// The components, none for the root.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/').filter(|part| !part.is_empty())
    }
    /// The directory that holds it; none for the root.
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        let end = self.0.iter().rposition(|b| *b == b'/').unwrap_or(0);
        Some(Self(self.0[..end].to_vec()))
    }
    /// The last component; empty for the root.
    pub fn name(&self) -> &[u8] {
        self.0.rsplit(|b| *b == b'/').next().unwrap_or_default()
    }
    /// The same seen from a directory that it lies in, or is; `None` where it lies elsewhere.
    pub fn strip(&self, directory: &Self) -> Option<Self> {
        if !self.is_within(directory) {
            return None;
        }
        let rest = self.0.get(directory.0.len()..).unwrap_or_default();
        Some(Self(rest.strip_prefix(b"/").unwrap_or(rest).to_vec()))
    }
    /// Whether this is `directory` or lies below it.
    pub fn is_within(&self, directory: &Self) -> bool {
        directory.is_root()
            || self.0 == directory.0
            || (self.0.starts_with(&directory.0) && self.0.get(directory.0.len()) == Some(&b'/'))
    }
}
impl Ord for RelPath {
    fn cmp(&self, other: &Self) -> Ordering {
        // Component by component: as if `/` sorted below every other byte.
        let rank = |b: &u8| if *b == b'/' { 0u16 } else { u16::from(*b) + 1 };
        self.0.iter().map(rank).cmp(other.0.iter().map(rank))
    }
}
impl PartialOrd for RelPath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() { f.write_str(".") } else { RawText(self.0.clone()).fmt(f) }
    }
}
impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}
impl Serialize for RelPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => RawText(self.0.clone()).serialize(serializer),
        }
    }
}
impl<'de> Deserialize<'de> for RelPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(RawText::deserialize(deserializer)?.0).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text).unwrap()
    }

    #[test]
    fn paths_that_leave_the_root_do_not_exist() {
        for bad in ["/etc", "a//b", "..", "a/../b", "a/.", "a/", "a\0b"] {
            assert!(RelPath::new(bad).is_err(), "{bad}");
            assert!(serde_json::from_value::<RelPath>(serde_json::json!(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_directory_stands_right_before_what_is_in_it() {
        let mut all = [path("a-b"), path("a/b"), path("a"), path("a/b/c"), path("a0"), path("")];
        all.sort();
        assert_eq!(all.map(|p| p.to_string()), [".", "a", "a/b", "a/b/c", "a-b", "a0"]);
    }

    #[test]
    fn names_that_are_not_utf8_survive_json() {
        let name = RelPath::new(vec![b'a', 0xff]).unwrap();
        let text = serde_json::to_string(&name).unwrap();
        assert_eq!(text, r#"{"b64":"Yf8="}"#);
        assert_eq!(serde_json::from_str::<RelPath>(&text).unwrap(), name);
    }

    #[test]
    fn parents_and_names() {
        assert_eq!(path("a/b").parent(), Some(path("a")));
        assert_eq!(path("a").parent(), Some(RelPath::root()));
        assert_eq!(RelPath::root().parent(), None);
        assert_eq!(path("a/b").name(), b"b");
        assert!(path("a/b").is_within(&path("a")) && !path("ab").is_within(&path("a")));
    }
}
