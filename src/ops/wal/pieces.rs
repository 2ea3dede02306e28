//! A segment that still grows, stored in pieces every few seconds: so that a crash of the server loses seconds of its log, not
//! the rest of a segment.
//!
//! Invariants: a piece ends behind a whole record whose checksum matched; pieces are joined only where one ends at the byte at
//! which the next begins, and what they give together is read through once more; a segment in pieces is the end of its timeline,
//! or it is a gap. Not here: when pieces are cut (`ops::follow`).
//!
//! A piece's plain bytes are the offset of its first byte in the segment, four bytes little-endian, then the bytes.

use serde::{Deserialize, Serialize};

use super::WalError;
use crate::format::wal::{ArchiveFile, SegmentFacts, SegmentHeader, scan};
use crate::model::lsn::SegmentName;
use crate::model::{SegmentRecord, limits};
use crate::ops::Error;
use crate::repository::SegmentReader;

/// Bytes before those of the segment.
const OFFSET: usize = 4;
/// So many blocks of one size are joined into one: a segment of any number of pieces is read in few, and stored a few times.
const RADIX: usize = 8;

/// What the index keeps of the newest piece of a segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PieceFacts {
    /// Where the pieces end that it needs before it, ascending.
    pub needs: Vec<u32>,
    /// What the segment holds up to its end.
    pub segment: SegmentFacts,
}

/// A block of a segment that one piece holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Block {
    level: u32,
    from: u32,
    to: u32,
}

/// The blocks of a segment that grows.
#[derive(Debug, Default)]
pub struct Growth {
    blocks: Vec<Block>,
}

impl Growth {
    /// Up to where the segment is stored.
    pub fn stored_to(&self) -> u32 {
        self.blocks.last().map_or(0, |block| block.to)
    }

    /// The segment has grown to `to`: where the next piece begins, and which ones it needs before it. Nothing changes until
    /// [`Growth::put`].
    pub fn next(&self, to: u32) -> (u32, Vec<u32>) {
        let grown = self.grown(to);
        let from = grown.last().map_or(0, |block| block.from);
        (from, grown.iter().rev().skip(1).rev().map(|block| block.to).collect())
    }

    /// The piece that [`Growth::next`] described is stored.
    pub fn put(&mut self, to: u32) {
        self.blocks = self.grown(to);
    }

    fn grown(&self, to: u32) -> Vec<Block> {
        let mut blocks = self.blocks.clone();
        blocks.push(Block { level: 0, from: self.stored_to(), to });
        while let Some(last) = blocks.last().copied() {
            let alike = blocks.iter().rev().take_while(|block| block.level == last.level).count();
            if alike < RADIX {
                break;
            }
            let first = blocks.len() - RADIX;
            let from = blocks[first].from;
            blocks.truncate(first);
            blocks.push(Block { level: last.level + 1, from, to });
        }
        blocks
    }
}

/// The plain bytes of the piece of a segment that begins at `from`.
pub fn piece(segment: &[u8], from: u32, to: u32) -> Vec<u8> {
    let mut plain = from.to_le_bytes().to_vec();
    plain.extend_from_slice(segment.get(from as usize..to as usize).unwrap_or_default());
    plain
}

/// Where a piece ends, if a record is one of a segment.
fn end_of(record: &SegmentRecord, segment: SegmentName) -> Option<u32> {
    match ArchiveFile::parse(record.place.name()) {
        Ok(ArchiveFile::Piece { segment: of, to }) if of == segment => Some(to),
        _ => None,
    }
}

/// Whether a record is a piece of a segment.
pub fn is_piece_of(record: &SegmentRecord, segment: SegmentName) -> bool {
    end_of(record, segment).is_some()
}

/// Joins the pieces of a segment: its bytes up to the end of the newest one, and what they hold. `records` may have others'.
pub fn join_pieces(
    reader: &SegmentReader,
    segment: SegmentName,
    records: &[SegmentRecord],
) -> Result<(Vec<u8>, SegmentFacts), Error> {
    let bad = |why: String| Error::from(WalError::Content { name: segment.to_string(), why });
    let mut pieces: Vec<(u32, &SegmentRecord)> =
        records.iter().filter_map(|record| Some((end_of(record, segment)?, record))).collect();
    pieces.sort_by_key(|(to, record)| (*to, record.put));
    let newest = pieces.last().map(|(to, _)| *to).ok_or_else(|| bad("it has no pieces".to_owned()))?;
    // It is a number in a name, which anybody who may write to the store can make up.
    if newest as usize > limits::SEGMENT_MAX {
        return Err(bad(format!("a piece of it says that it ends at byte {newest}: no segment is as long")));
    }
    let mut bytes = vec![0; newest as usize];
    let mut end = newest;
    while end > 0 {
        // Two of one end: those of a run before, and of one that began anew. Both fit.
        let (_, record) = pieces.iter().rev().find(|(to, _)| *to == end).ok_or_else(|| {
            bad(format!("the piece that ends at byte {end} is missing; the newest one ends at byte {newest}"))
        })?;
        let plain = reader.read(record)?;
        let from = plain.get(..OFFSET).and_then(|offset| offset.try_into().ok()).map(u32::from_le_bytes);
        let from = from.filter(|from| *from < end && (end - *from) as usize == plain.len() - OFFSET);
        let from =
            from.ok_or_else(|| bad(format!("the piece that ends at byte {end} says odd things of its beginning")))?;
        bytes[from as usize..end as usize].copy_from_slice(&plain[OFFSET..]);
        end = from;
    }
    let facts = scan(&bytes, segment).map_err(|e| bad(e.to_string()))?;
    if facts.end.0 - facts.start.0 < u64::from(newest) {
        return Err(bad(format!("its pieces do not fit: the log in them ends at {}", facts.end)));
    }
    Ok((bytes, facts))
}

/// The same as the file that a server reads: behind what is there, zeros to the size of a segment.
pub fn as_segment(mut bytes: Vec<u8>, segment: SegmentName) -> Result<Vec<u8>, WalError> {
    let header = SegmentHeader::parse(&bytes, segment)
        .map_err(|e| WalError::Content { name: segment.to_string(), why: e.to_string() })?;
    bytes.resize(header.segment_size.bytes() as usize, 0);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn growing_needs_few_pieces_and_each_is_there() {
        let mut growth = Growth::default();
        let (mut stored, mut total) = (vec![0], 0);
        for to in 1..=5000 {
            let (from, needs) = growth.next(to);
            assert!(stored.contains(&from), "a piece begins where another one ended");
            assert!(needs.iter().all(|to| stored.contains(to)));
            assert!(needs.len() < 35, "{} pieces", needs.len());
            growth.put(to);
            assert_eq!(growth.stored_to(), to);
            stored.push(to);
            total += to - from;
        }
        assert!(total < 5000 * 6, "each byte is stored a few times: {total}");
    }

    proptest! {
        #[test]
        fn pieces_cover_the_segment_without_a_hole(steps in prop::collection::vec(1_u32..1000, 1..200)) {
            let (mut growth, mut written, mut to) = (Growth::default(), std::collections::HashMap::new(), 0);
            for step in steps {
                to += step;
                let (from, needs) = growth.next(to);
                growth.put(to);
                written.insert(to, from);
                let (mut at, mut way) = (to, Vec::new());
                while at > 0 {
                    at = written[&at];
                    way.push(at);
                }
                way.reverse();
                prop_assert_eq!(&way[1..], needs.as_slice());
            }
        }
    }
}
