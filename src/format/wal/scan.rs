//! Walks the records of a segment as the server's `xlogreader.c` does, and keeps what recovery points need.
//!
//! Invariants: a record counts only if its CRC matched, it names the place of the record before it, and every page it lies
//! on says its own place; what is behind the first that does not is not looked at. Nothing is held but [`KEPT`] bytes of a
//! record and at most [`RESTORE_POINTS_MAX`] names. Time is linear in the bytes. Not here: what crosses the segment's
//! borders (`stump` joins it), and an error for a log that ends: that is how logs end.

use serde::{Deserialize, Serialize};

use crate::model::{Lsn, SegmentName, Timeline};

use super::super::{u32_at, u64_at};
use super::page::{LONG_HEADER, PageHeader, SHORT_HEADER};
use super::record::{CommitTime, HEADER, KEPT, Meaning, RECORD_MAX, RecordHeader, RestorePoint, meaning};
use super::stump::{Head, STUMP_MAX, Tail};
use super::{Flaw, SegmentHeader};

/// Restore points that are kept of a segment, the first ones.
pub const RESTORE_POINTS_MAX: usize = 256;

/// What a segment holds. Records that cross its borders count nowhere: [`join`](super::join) finds them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentFacts {
    /// The place of the segment's first byte.
    pub start: Lsn,
    /// The place behind the last whole record; the segment's end after a switch, its start if no record ends in it.
    pub end: Lsn,
    /// The log goes on to the segment's border: nothing is missing before the next segment.
    pub full: bool,
    /// It ends with a switch: what is behind that is no log, the next segment goes on.
    pub switched: bool,
    /// Transactions that committed.
    pub commits: u64,
    /// Transactions that were rolled back, of those that wrote at all.
    pub aborts: u64,
    /// The first end of a transaction, by its place.
    pub first: Option<CommitTime>,
    /// The last end of a transaction, by its place.
    pub last: Option<CommitTime>,
    /// The latest time of an end of a transaction, in microseconds since 1970 UTC: recovery to an earlier time stops in this
    /// segment, if not before.
    pub latest: Option<i64>,
    /// The place behind the last commit.
    pub last_commit_end: Option<Lsn>,
    /// Named points, in order, at most [`RESTORE_POINTS_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub restore_points: Vec<RestorePoint>,
    /// Named points beyond those.
    #[serde(default)]
    pub more_restore_points: u64,
    /// What the segment begins with, if that is the rest of a record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<Head>,
    /// What the segment ends with, if that is the beginning of a record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail: Option<Tail>,
}

/// Reads the records of a segment, whole or as far as it is there. A flaw is one of its header: such bytes are not the
/// segment of that name.
pub fn scan(bytes: &[u8], name: SegmentName) -> Result<SegmentFacts, Flaw> {
    scan_behind(bytes, name, Lsn(0))
}

/// The same, but ends of transactions and names count only where their records end behind a place.
pub fn scan_behind(bytes: &[u8], name: SegmentName, place: Lsn) -> Result<SegmentFacts, Flaw> {
    let header = SegmentHeader::parse(bytes, name)?;
    let mut facts = SegmentFacts {
        start: header.start,
        end: header.start,
        full: false,
        switched: false,
        commits: 0,
        aborts: 0,
        first: None,
        last: None,
        latest: None,
        last_commit_end: None,
        restore_points: Vec::new(),
        more_restore_points: 0,
        head: None,
        tail: None,
    };
    let mut walk = Walk { behind: place, ..Walk::new(bytes, &header, name) };
    if walk.head(&mut facts) {
        while walk.record(&mut facts) {}
    }
    facts.end = header.start.plus(walk.end as u64);
    facts.full = walk.full;
    Ok(facts)
}

impl SegmentFacts {
    fn note(&mut self, found: Meaning) {
        match found {
            Meaning::Ended(ended) => {
                self.first.get_or_insert(ended);
                self.last = Some(ended);
                self.latest = self.latest.max(Some(ended.time));
                if ended.committed {
                    self.commits += 1;
                    self.last_commit_end = Some(ended.end);
                } else {
                    self.aborts += 1;
                }
            }
            Meaning::Named(point) if self.restore_points.len() < RESTORE_POINTS_MAX => self.restore_points.push(point),
            Meaning::Named(_) => self.more_restore_points += 1,
            Meaning::Switch => self.switched = true,
            Meaning::Other => {}
        }
    }
}

/// A record's bytes as they go by.
struct Gathered {
    kept: [u8; KEPT],
    length: usize,
    /// Bytes at the beginning that the CRC leaves out.
    bare: usize,
    crc: u32,
}

impl Gathered {
    fn new(bare: usize) -> Self {
        Self { kept: [0; KEPT], length: 0, bare, crc: 0 }
    }

    fn add(&mut self, piece: &[u8]) {
        if let Some(room) = self.kept.get_mut(self.length..) {
            let count = room.len().min(piece.len());
            room[..count].copy_from_slice(&piece[..count]);
        }
        let skip = self.bare.saturating_sub(self.length).min(piece.len());
        self.crc = crc32c::crc32c_append(self.crc, &piece[skip..]);
        self.length += piece.len();
    }

    /// The CRC of the bytes that a stump leaves out: what it has beyond theirs is the share of those between, moved on.
    fn crc_behind_stump(&self) -> u32 {
        let between = self.first(STUMP_MAX).get(self.bare..).unwrap_or_default();
        let behind = self.length.saturating_sub(STUMP_MAX);
        self.crc ^ crc32c::crc32c_combine(crc32c::crc32c(between), 0, behind)
    }

    /// The first bytes, at most `count` of them.
    fn first(&self, count: usize) -> &[u8] {
        &self.kept[..count.min(self.length).min(KEPT)]
    }
}

/// How gathering ended.
enum Outcome {
    /// All bytes are there.
    Whole,
    /// The segment ended first.
    Border,
    /// A crash lost the rest; the page that we stand on begins with another record.
    Overwritten,
    /// The log ends here.
    Broken,
}

/// The way through a segment: bytes from its start.
struct Walk<'a> {
    bytes: &'a [u8],
    size: usize,
    block: usize,
    start: Lsn,
    magic: u16,
    /// Timelines of pages do not descend, and the name's is the last.
    timelines: (Timeline, Timeline),
    /// Where the next byte is read.
    at: usize,
    /// Behind the last whole record.
    end: usize,
    /// The place of the record before; none was read yet if it is `None`.
    prev: Option<Lsn>,
    full: bool,
    /// Records that end at or before it are not noted.
    behind: Lsn,
}

impl<'a> Walk<'a> {
    fn new(bytes: &'a [u8], header: &SegmentHeader, name: SegmentName) -> Self {
        let size = header.segment_size.bytes() as usize;
        Self {
            bytes: &bytes[..bytes.len().min(size)],
            size,
            block: header.block_size as usize,
            start: header.start,
            magic: PageHeader::parse(bytes).map_or(0, |page| page.magic),
            timelines: (header.timeline, name.timeline),
            at: 0,
            end: 0,
            prev: None,
            full: false,
            behind: Lsn(0),
        }
    }

    fn place(&self, at: usize) -> Lsn {
        self.start.plus(at as u64)
    }

    /// The header of the page that we stand at the start of, if it is that page's.
    fn page(&mut self) -> Option<PageHeader> {
        let page = PageHeader::parse(self.bytes.get(self.at..)?)?;
        let (oldest, newest) = self.timelines;
        let ours = page.magic == self.magic
            && page.has_known_flags()
            && page.is_long() == (self.at == 0)
            && page.address == self.place(self.at)
            && (oldest..=newest).contains(&page.timeline);
        if ours {
            self.timelines.0 = page.timeline;
        }
        ours.then_some(page)
    }

    /// From the start of a page to its first byte of records.
    fn enter(&mut self) {
        self.at += if self.at == 0 { LONG_HEADER } else { SHORT_HEADER };
    }

    /// Gathers `total` bytes over as many pages as they take.
    fn gather(&mut self, into: &mut Gathered, total: usize) -> Outcome {
        loop {
            let room = self.block - self.at % self.block;
            let count = room.min(total - into.length);
            let Some(piece) = self.bytes.get(self.at..self.at + count) else { return Outcome::Broken };
            into.add(piece);
            self.at += count;
            if into.length == total {
                // Records begin at multiples of eight.
                self.at = self.at.next_multiple_of(8);
                return Outcome::Whole;
            }
            if self.at == self.size {
                return Outcome::Border;
            }
            match self.page() {
                Some(page) if page.overwrites() => return Outcome::Overwritten,
                Some(page) if page.continues() && page.remaining as usize == total - into.length => self.enter(),
                _ => return Outcome::Broken,
            }
        }
    }

    /// The rest of a record that began before. False if no records follow.
    fn head(&mut self, facts: &mut SegmentFacts) -> bool {
        let Some(page) = self.page() else { return false };
        if !page.continues() {
            return true;
        }
        let remaining = page.remaining as usize;
        if remaining == 0 || remaining > RECORD_MAX {
            return false;
        }
        self.enter();
        let mut rest = Gathered::new(STUMP_MAX);
        let outcome = self.gather(&mut rest, remaining);
        let end = match outcome {
            Outcome::Whole => Some(self.place(self.at)),
            Outcome::Border => None,
            Outcome::Overwritten => return true,
            Outcome::Broken => return false,
        };
        let bytes = rest.first(STUMP_MAX).to_vec();
        facts.head = Some(Head { bytes, remaining: page.remaining, length: rest.length as u32, crc: rest.crc, end });
        if end.is_some() {
            self.end = self.at;
        }
        self.full = self.at == self.size;
        end.is_some()
    }

    /// One record. False if it was the last, or none.
    fn record(&mut self, facts: &mut SegmentFacts) -> bool {
        if self.at == self.size {
            self.full = true;
            return false;
        }
        if self.at.is_multiple_of(self.block) {
            match self.page() {
                Some(page) if !page.continues() => self.enter(),
                _ => return false,
            }
        }
        let begin = self.at;
        let Some(total) = u32_at(self.bytes, begin) else { return false };
        if !(HEADER..=RECORD_MAX).contains(&(total as usize)) {
            return false;
        }
        let mut record = Gathered::new(HEADER);
        match self.gather(&mut record, total as usize) {
            Outcome::Whole => self.whole(&record, begin, facts),
            Outcome::Border => {
                self.full = self.follows(&record);
                if self.full {
                    let (bytes, length) = (record.first(STUMP_MAX).to_vec(), record.length as u32);
                    let crc = record.crc_behind_stump();
                    facts.tail = Some(Tail { bytes, total, length, crc, start: self.place(begin) });
                }
                false
            }
            Outcome::Overwritten => true,
            Outcome::Broken => false,
        }
    }

    /// Takes a record that is there in full, if it is one.
    fn whole(&mut self, record: &Gathered, begin: usize, facts: &mut SegmentFacts) -> bool {
        let bytes = record.first(KEPT);
        let Some(header) = RecordHeader::parse(bytes) else { return false };
        if crc32c::crc32c_append(record.crc, record.first(HEADER - 4)) != header.crc || !self.follows(record) {
            return false;
        }
        match meaning(bytes, self.place(self.at)) {
            Meaning::Ended(_) | Meaning::Named(_) if self.place(self.at) <= self.behind => {}
            found => facts.note(found),
        }
        if facts.switched {
            self.at = self.size;
        }
        self.prev = Some(self.place(begin));
        self.end = self.at;
        true
    }

    /// Whether a record names the one before it, so that it is no leftover of a recycled file. One that is cut off within
    /// its header cannot say.
    fn follows(&self, record: &Gathered) -> bool {
        let Some(prev) = u64_at(record.first(HEADER), 8).map(Lsn) else { return true };
        match self.prev {
            Some(expected) => prev == expected,
            None => prev < self.start,
        }
    }
}
