//! What a log record means, as far as recovery points go (PostgreSQL's `xlogrecord.h`, `xact.h`, `xlog_internal.h`).
//!
//! Invariants: only records whose CRC was verified come here; what their content does not say is `None`. Not here: all
//! records that neither end a transaction nor name a point nor end a segment.

use serde::{Deserialize, Serialize};

use crate::model::{Lsn, Moment};

use super::super::{u32_at, u64_at};

/// Bytes of a record's header, which its length counts.
pub(super) const HEADER: usize = 24;
/// No record is longer: the server refuses to write it.
pub(super) const RECORD_MAX: usize = 1020 << 20;
/// Bytes from a record's beginning in which all that is read here lies: 24 of header, 13 of headers of data at most, 72 of
/// a restore point.
pub(super) const KEPT: usize = 128;

/// From PostgreSQL's epoch, 2000, to that of Unix, in microseconds.
const EPOCH: i64 = 946_684_800_000_000;
const NAME_LENGTH: usize = 64;

/// The end of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitTime {
    /// Microseconds since 1970 UTC, by the server's clock: those of later records may be smaller.
    pub time: i64,
    /// The place behind the record: replayed up to here, the transaction has ended.
    pub end: Lsn,
    /// Committed, not rolled back. Recovery to a time stops at either.
    pub committed: bool,
}

impl CommitTime {
    /// The time as an instant; `None` beyond the years that chrono knows.
    pub fn moment(&self) -> Option<Moment> {
        Moment::from_timestamp_micros(self.time)
    }
}

/// A point that somebody named with `pg_create_restore_point`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestorePoint {
    /// Its name, up to 63 bytes; names need not be unique.
    pub name: String,
    /// Microseconds since 1970 UTC.
    pub time: i64,
    /// The place behind the record.
    pub end: Lsn,
}

/// A record's header.
#[derive(Debug, Clone, Copy)]
pub(super) struct RecordHeader {
    info: u8,
    manager: u8,
    /// Of everything behind the header, then of the header up to here.
    pub crc: u32,
}

impl RecordHeader {
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let header: &[u8; HEADER] = bytes.first_chunk()?;
        Some(Self { info: header[16], manager: header[17], crc: u32_at(header, 20)? })
    }
}

/// What a record means here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Meaning {
    Ended(CommitTime),
    Named(RestorePoint),
    Switch,
    Other,
}

/// The meaning of a record by its first [`KEPT`] bytes or fewer, if it is shorter. `end` is the place behind it.
pub(super) fn meaning(record: &[u8], end: Lsn) -> Meaning {
    let Some(header) = RecordHeader::parse(record) else { return Meaning::Other };
    let time = || main_data(record).and_then(|data| u64_at(data, 0)).map(|raw| (raw as i64).saturating_add(EPOCH));
    let ended = |committed| time().map_or(Meaning::Other, |time| Meaning::Ended(CommitTime { time, end, committed }));
    match (header.manager, header.info & 0xF0) {
        (0, 0x40) => Meaning::Switch,
        (0, 0x70) => named(record, time(), end).map_or(Meaning::Other, Meaning::Named),
        // The highest bit of a transaction's kind says that its record holds more.
        (1, kind) => match kind & 0x70 {
            0x00 | 0x30 => ended(true),
            0x20 | 0x40 => ended(false),
            _ => Meaning::Other,
        },
        _ => Meaning::Other,
    }
}

fn named(record: &[u8], time: Option<i64>, end: Lsn) -> Option<RestorePoint> {
    let name = main_data(record)?.get(8..8 + NAME_LENGTH)?;
    let length = name.iter().position(|byte| *byte == 0)?;
    Some(RestorePoint { name: String::from_utf8_lossy(&name[..length]).into_owned(), time: time?, end })
}

/// The data that belong to the record itself, as far as they were kept. Headers of data come first, that of the main data
/// last; records that change pages have no main data that is read here.
fn main_data(record: &[u8]) -> Option<&[u8]> {
    let mut at = HEADER;
    loop {
        match record.get(at)? {
            // A top-level transaction's id, and the number of an origin.
            252 => at += 5,
            253 => at += 3,
            254 => return record.get(at + 5..),
            255 => return record.get(at + 2..),
            _ => return None,
        }
    }
}
