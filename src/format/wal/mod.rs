//! PostgreSQL's write-ahead log, as 15 to 18 write it: names of what a server archives, the header of a segment, and what a
//! segment holds ([`scan()`]).
//!
//! Invariants: a segment that [`check_segment`] lets pass has the length, the place and the timeline that its name says, so
//! that a server which asks for the name gets that segment or nothing. Not here: whether it is of the right cluster (the
//! caller compares the system identifier), and whether the log has gaps.

mod page;
mod record;
mod scan;
mod stump;
#[cfg(test)]
mod tests;

use std::fmt;

use crate::model::lsn::BadPlace;
use crate::model::{Lsn, SegmentName, SegmentSize, SystemId, Timeline};

use super::{u32_at, u64_at};
use page::{LONG_HEADER, PageHeader};
pub use record::{CommitTime, RestorePoint};
pub use scan::{RESTORE_POINTS_MAX, SegmentFacts, scan, scan_behind};
pub use stump::{Head, STUMP_MAX, Tail, join, join_restore_point};

/// A file that a server hands to its `archive_command`, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ArchiveFile {
    /// A whole segment.
    Segment(SegmentName),
    /// The last segment of a timeline that was left, `<segment>.partial`. Never served in place of the whole one.
    Partial(SegmentName),
    /// The history of a timeline, `<timeline>.history`.
    History(Timeline),
    /// A part of a segment that still grew when it was stored, up to a byte of it: `<segment>.piece<to>`. This name is
    /// lifeboat's own.
    Piece {
        /// The segment.
        segment: SegmentName,
        /// Bytes from the segment's start to the part's end.
        to: u32,
    },
    /// What a backup left in the log, `<segment>.<offset>.backup`.
    Backup {
        /// The segment that the backup began in.
        segment: SegmentName,
        /// Bytes from the segment's start to the backup's.
        offset: u32,
    },
}

impl ArchiveFile {
    /// Reads a name without folders. Hexadecimal digits are in upper case, as servers write them.
    pub fn parse(name: &str) -> Result<Self, BadPlace> {
        let bad = || BadPlace::new(name, "the name of a file that PostgreSQL archives");
        let number = |digits: &str| {
            let clean = digits.len() == 8 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
            if clean { u32::from_str_radix(digits, 16).map_err(|_| bad()) } else { Err(bad()) }
        };
        let segment = |text: &str| text.parse().map_err(|_| bad());
        let Some((front, kind)) = name.rsplit_once('.') else {
            return segment(name).map(Self::Segment);
        };
        match kind {
            "partial" => segment(front).map(Self::Partial),
            "history" => number(front).map(|timeline| Self::History(Timeline(timeline))),
            "backup" => {
                let (name, offset) = front.split_once('.').ok_or_else(bad)?;
                Ok(Self::Backup { segment: segment(name)?, offset: number(offset)? })
            }
            _ => {
                let to = kind.strip_prefix("piece").ok_or_else(bad)?;
                Ok(Self::Piece { segment: segment(front)?, to: number(to)? })
            }
        }
    }
}
impl fmt::Display for ArchiveFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment(name) => write!(f, "{name}"),
            Self::Partial(name) => write!(f, "{name}.partial"),
            Self::History(timeline) => write!(f, "{:08X}.history", timeline.0),
            Self::Piece { segment, to } => write!(f, "{segment}.piece{to:08X}"),
            Self::Backup { segment, offset } => write!(f, "{segment}.{offset:08X}.backup"),
        }
    }
}

/// Why bytes are not the segment that their name says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Flaw {
    /// Not even a header.
    #[error("the segment ends after {found} bytes, within its header")]
    TooShort {
        /// Bytes that are there.
        found: usize,
    },
    /// Another version's log, or none.
    #[error("the segment begins with {found:04X}, which no log of PostgreSQL 15 to 18 does")]
    Magic {
        /// The first two bytes as a number.
        found: u16,
    },
    /// The first page's flags are those of no segment's first page.
    #[error("the flags {found:04X} of the segment's first page are impossible")]
    Flags {
        /// The flags.
        found: u16,
    },
    /// No cluster has segments of that size.
    #[error("the segment says that segments have {found} bytes")]
    SegmentSize {
        /// Bytes, as the header says.
        found: u32,
    },
    /// No cluster has log pages of that size.
    #[error("the segment says that its pages have {found} bytes")]
    BlockSize {
        /// Bytes, as the header says.
        found: u32,
    },
    /// Cut off, or with something behind it.
    #[error("the segment has {found} bytes, its header says {expected}")]
    Length {
        /// Bytes that are there.
        found: u64,
        /// Bytes of the cluster's segments.
        expected: u64,
    },
    /// No segment of a cluster with segments of that size has such a name.
    #[error("`{name}` is no name where segments have {size} bytes")]
    Name {
        /// The name.
        name: SegmentName,
        /// Bytes of the cluster's segments.
        size: u64,
    },
    /// The bytes are those of another place: a segment that was recycled, or that goes by a wrong name.
    #[error("the segment begins at {found}, its name says {expected}")]
    Place {
        /// By its header.
        found: Lsn,
        /// By its name.
        expected: Lsn,
    },
    /// The bytes were written on a timeline that is younger than the name's, or on none.
    #[error("the segment was written on timeline {found}, its name says {named}")]
    Timeline {
        /// By its header.
        found: Timeline,
        /// By its name.
        named: Timeline,
    },
}

/// What the first page says of the whole segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The major version of the server, 15 to 18.
    pub major: u32,
    /// The cluster's number.
    pub system_id: SystemId,
    /// Bytes of the cluster's segments.
    pub segment_size: SegmentSize,
    /// Bytes of a page of the log.
    pub block_size: u32,
    /// The place of the segment's first byte.
    pub start: Lsn,
    /// The timeline that wrote the first page. Older than the name's in the first segment of a timeline: the server begins
    /// it with a copy of what the old timeline wrote up to the fork.
    pub timeline: Timeline,
}

impl SegmentHeader {
    /// Reads the header at the start of a segment, whole or still growing, and compares it with the name.
    pub fn parse(bytes: &[u8], name: SegmentName) -> Result<Self, Flaw> {
        let too_short = Flaw::TooShort { found: bytes.len() };
        let (Some(page), Some(system_id), Some(size), Some(block_size)) =
            (PageHeader::parse(bytes), u64_at(bytes, 24), u32_at(bytes, 32), u32_at(bytes, LONG_HEADER - 4))
        else {
            return Err(too_short);
        };
        let major = page.major().ok_or(Flaw::Magic { found: page.magic })?;
        if !page.is_long() || !page.has_known_flags() {
            return Err(Flaw::Flags { found: page.flags });
        }
        let segment_size = SegmentSize::new(size.into()).ok_or(Flaw::SegmentSize { found: size })?;
        // `configure` allows powers of two from 1 to 64 KiB.
        if !block_size.is_power_of_two() || !(1 << 10..=1 << 16).contains(&block_size) {
            return Err(Flaw::BlockSize { found: block_size });
        }
        if !name.fits(segment_size) {
            return Err(Flaw::Name { name, size: segment_size.bytes() });
        }
        let expected = name.start(segment_size);
        if page.address != expected {
            return Err(Flaw::Place { found: page.address, expected });
        }
        let timeline = page.timeline;
        if timeline.0 == 0 || timeline > name.timeline {
            return Err(Flaw::Timeline { found: timeline, named: name.timeline });
        }
        Ok(Self { major, system_id: SystemId(system_id), segment_size, block_size, start: expected, timeline })
    }
}

/// Whether bytes are, by their length and first page, the whole segment that the name says. Records are [`scan()`]'s.
pub fn check_segment(bytes: &[u8], name: SegmentName) -> Result<SegmentHeader, Flaw> {
    let header = SegmentHeader::parse(bytes, name)?;
    let (found, expected) = (bytes.len() as u64, header.segment_size.bytes());
    if found == expected { Ok(header) } else { Err(Flaw::Length { found, expected }) }
}
