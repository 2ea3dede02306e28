//! Ids: new types over digests and numbers, so that a pack's name is never taken for a chunk's.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What is wrong with the text of an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {expected}")]
pub struct BadId {
    text: String,
    expected: &'static str,
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $bytes:expr, $expected:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; $bytes]);

        impl $name {
            /// Wraps the raw bytes.
            pub const fn new(bytes: [u8; $bytes]) -> Self {
                Self(bytes)
            }
            /// Reads an id from a slice of exactly its length.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }
            /// The raw bytes.
            pub const fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }
            /// The first ten digits, for people.
            pub fn short(&self) -> String {
                HEXLOWER.encode(&self.0[..5])
            }
            /// The first eight bytes as a number: the key of database lookups.
            pub fn prefix(&self) -> i64 {
                let mut first = [0; 8];
                first.copy_from_slice(&self.0[..8]);
                i64::from_be_bytes(first)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&HEXLOWER.encode(&self.0))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }
        impl FromStr for $name {
            type Err = BadId;
            fn from_str(text: &str) -> Result<Self, BadId> {
                let bad = || BadId { text: text.chars().take(80).collect(), expected: $expected };
                let bytes = HEXLOWER.decode(text.as_bytes()).map_err(|_| bad())?;
                Self::from_slice(&bytes).ok_or_else(bad)
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

hex_id!(/// A BLAKE3 digest of something that has no id of its own.
    Digest, 32, "a digest of 64 lower-case hexadecimal digits");
hex_id!(/// Keyed BLAKE3 of a chunk's plain bytes.
    ChunkId, 32, "a chunk id of 64 lower-case hexadecimal digits");
hex_id!(/// Keyed BLAKE3 of a frame's plain bytes.
    FrameId, 32, "a frame id of 64 lower-case hexadecimal digits");
hex_id!(/// BLAKE3 of a pack's stored bytes, and its name.
    PackId, 32, "a pack id of 64 lower-case hexadecimal digits");
hex_id!(/// BLAKE3 of a commit's stored bytes, part of its name.
    CommitId, 32, "a commit id of 64 lower-case hexadecimal digits");
hex_id!(/// The random number of a repository.
    RepositoryId, 16, "a repository id of 32 lower-case hexadecimal digits");

impl From<Digest> for ChunkId {
    fn from(digest: Digest) -> Self {
        Self(digest.0)
    }
}
impl From<Digest> for FrameId {
    fn from(digest: Digest) -> Self {
        Self(digest.0)
    }
}
impl From<ChunkId> for Digest {
    fn from(id: ChunkId) -> Self {
        Self(id.0)
    }
}

/// The name of a snapshot: 48 bits of milliseconds since 1970 and 80 random bits (a ULID), so that sorting ids
/// sorts by time. Written in Crockford base 32, 26 characters.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SnapshotId(u128);

const CROCKFORD: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

impl SnapshotId {
    /// Joins a time and randomness; both are arguments because this floor has no clock and no chance.
    pub fn new(unix_milliseconds: u64, random: [u8; 10]) -> Self {
        let mut low = [0; 16];
        low[6..].copy_from_slice(&random);
        Self((u128::from(unix_milliseconds & 0xffff_ffff_ffff) << 80) | u128::from_be_bytes(low))
    }
    /// The first ten characters, for people: the millisecond.
    pub fn short(&self) -> String {
        self.to_string()[..10].to_owned()
    }
}
impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for place in (0..26).rev() {
            let digit = (self.0 >> (5 * place)) & 31;
            write!(f, "{}", char::from(CROCKFORD[digit as usize]))?;
        }
        Ok(())
    }
}
impl fmt::Debug for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SnapshotId({self})")
    }
}
impl FromStr for SnapshotId {
    type Err = BadId;
    fn from_str(text: &str) -> Result<Self, BadId> {
        let bad = || BadId { text: text.chars().take(40).collect(), expected: "a snapshot id of 26 characters" };
        if text.len() != 26 || text.as_bytes()[0] > b'7' {
            return Err(bad());
        }
        let mut value = 0u128;
        for byte in text.bytes() {
            let digit = CROCKFORD.iter().position(|c| *c == byte.to_ascii_uppercase()).ok_or_else(bad)?;
            value = (value << 5) | digit as u128;
        }
        Ok(Self(value))
    }
}
impl Serialize for SnapshotId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for SnapshotId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshot_ids_sort_by_time_and_survive_text() {
        let early = SnapshotId::new(1_000, [255; 10]);
        let late = SnapshotId::new(1_001, [0; 10]);
        assert!(early < late && early.to_string() < late.to_string());
        assert_eq!(late.to_string().parse::<SnapshotId>(), Ok(late));
        assert!("8ZZZZZZZZZZZZZZZZZZZZZZZZZ".parse::<SnapshotId>().is_err(), "more than 128 bits");
    }

    #[test]
    fn ids_refuse_upper_case_and_wrong_lengths() {
        assert!("AB".parse::<PackId>().is_err());
        assert!("A".repeat(64).parse::<PackId>().is_err());
        assert!("a".repeat(64).parse::<PackId>().is_ok());
    }
}
