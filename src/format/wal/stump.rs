//! The two parts of a record that crosses from one segment into the next, kept with each, so that a commit there is found
//! without either segment.
//!
//! Invariants: what [`join`] returns stood in a record whose CRC matched over both parts, however long they are: each stump
//! carries the CRC of the bytes that it left out, and CRCs of parts combine. Not here: records that cross two borders. They are longer
//! than a segment; no commit is unless it has a hundred thousand subtransactions or more.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::model::Lsn;

use super::record::{CommitTime, HEADER, KEPT, Meaning, RecordHeader, RestorePoint, meaning};

/// Bytes that are kept of each part. A commit's time lies in the first 45 of its record.
pub const STUMP_MAX: usize = 96;

/// The rest of a record at the start of a segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Its first bytes, at most [`STUMP_MAX`].
    #[serde(with = "base64")]
    pub bytes: Vec<u8>,
    /// Bytes of the record from the segment's start on.
    pub remaining: u32,
    /// How many of them lie in this segment.
    pub length: u32,
    /// CRC-32C of those behind `bytes`.
    pub crc: u32,
    /// The place behind the record, if it ends in this segment.
    pub end: Option<Lsn>,
}

/// The beginning of a record at the end of a segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tail {
    /// Its first bytes, at most [`STUMP_MAX`].
    #[serde(with = "base64")]
    pub bytes: Vec<u8>,
    /// Bytes of the whole record.
    pub total: u32,
    /// How many of them lie in this segment.
    pub length: u32,
    /// CRC-32C of those behind `bytes`.
    pub crc: u32,
    /// The place of the record.
    pub start: Lsn,
}

/// The end of a transaction that crosses from the segment of `tail` to the next, whose head is `head`. `None` if the parts
/// are not of one record, or of one that ends no transaction.
pub fn join(tail: &Tail, head: &Head) -> Option<CommitTime> {
    match joined(tail, head)? {
        Meaning::Ended(ended) => Some(ended),
        _ => None,
    }
}

/// The restore point whose record crosses from one segment to the next, as [`join`] has it for commits.
pub fn join_restore_point(tail: &Tail, head: &Head) -> Option<RestorePoint> {
    match joined(tail, head)? {
        Meaning::Named(point) => Some(point),
        _ => None,
    }
}

fn joined(tail: &Tail, head: &Head) -> Option<Meaning> {
    let end = head.end?;
    let fits = u64::from(tail.length) + u64::from(head.remaining) == u64::from(tail.total);
    let whole = head.length == head.remaining;
    if !fits || !whole || !is_kept(&tail.bytes, tail.length) || !is_kept(&head.bytes, head.length) {
        return None;
    }
    let mut first = tail.bytes.clone();
    if tail.length as usize == tail.bytes.len() {
        first.extend_from_slice(&head.bytes);
    }
    first.truncate(KEPT);
    let header = RecordHeader::parse(&first)?;
    // A record's CRC begins behind its header, which comes last; some of the header may lie in the head.
    let in_tail = HEADER.min(tail.bytes.len());
    let mut crc = crc32c::crc32c(tail.bytes.get(in_tail..)?);
    crc = crc32c::crc32c_combine(crc, tail.crc, tail.length as usize - tail.bytes.len());
    crc = crc32c::crc32c_append(crc, head.bytes.get(HEADER - in_tail..)?);
    crc = crc32c::crc32c_combine(crc, head.crc, head.length as usize - head.bytes.len());
    crc = crc32c::crc32c_append(crc, first.get(..HEADER - 4)?);
    (crc == header.crc).then(|| meaning(&first, end))
}

/// Whether a stump holds as much of a part of `length` bytes as it must.
fn is_kept(bytes: &[u8], length: u32) -> bool {
    bytes.len() == STUMP_MAX.min(length as usize)
}

/// Bytes as text, in JSON a third longer instead of thrice.
mod base64 {
    use super::{Deserialize, Deserializer, STUMP_MAX, Serializer};
    use data_encoding::BASE64;
    use serde::de::Error;

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        let bytes = BASE64.decode(text.as_bytes()).map_err(D::Error::custom)?;
        if bytes.len() <= STUMP_MAX { Ok(bytes) } else { Err(D::Error::custom("a stump is too long")) }
    }
}
