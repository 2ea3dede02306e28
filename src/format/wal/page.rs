//! Headers of log pages (PostgreSQL's `xlog_internal.h`).
//!
//! Invariants: a header that is read is as it stands in the bytes; nothing in it is believed before it was compared with
//! what the page must say. Not here: records.

use crate::model::{Lsn, Timeline};

use super::super::{u16_at, u32_at, u64_at};

/// Bytes of the header of a segment's first page.
pub(super) const LONG_HEADER: usize = 40;
/// Bytes of the header of any other page.
pub(super) const SHORT_HEADER: usize = 24;

const CONTINUES: u16 = 1;
const LONG: u16 = 2;
const OVERWRITES: u16 = 8;
const KNOWN: u16 = 15;

/// The header that every page has.
#[derive(Debug, Clone, Copy)]
pub(super) struct PageHeader {
    pub magic: u16,
    pub flags: u16,
    pub timeline: Timeline,
    pub address: Lsn,
    /// Bytes of the record that goes on here, from here on; meaningless unless [`PageHeader::continues`].
    pub remaining: u32,
}

impl PageHeader {
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            magic: u16_at(bytes, 0)?,
            flags: u16_at(bytes, 2)?,
            timeline: Timeline(u32_at(bytes, 4)?),
            address: Lsn(u64_at(bytes, 8)?),
            remaining: u32_at(bytes, 16)?,
        })
    }

    /// The major version that writes such pages. Each has a number of its own, changed whenever a record's layout did.
    pub fn major(&self) -> Option<u32> {
        match self.magic {
            0xD110 => Some(15),
            0xD113 => Some(16),
            0xD116 => Some(17),
            0xD118 => Some(18),
            _ => None,
        }
    }

    pub fn has_known_flags(&self) -> bool {
        self.flags & !KNOWN == 0
    }

    /// The header of a segment's first page, with the cluster's facts behind it.
    pub fn is_long(&self) -> bool {
        self.flags & LONG != 0
    }

    /// The page begins within a record of the page before.
    pub fn continues(&self) -> bool {
        self.flags & CONTINUES != 0
    }

    /// The record that the page before began was lost in a crash; the page begins with another one.
    pub fn overwrites(&self) -> bool {
        self.flags & OVERWRITES != 0
    }
}
