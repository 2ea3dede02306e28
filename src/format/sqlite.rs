//! The first hundred bytes of an SQLite database (<https://www.sqlite.org/fileformat2.html#the_database_header>).
//!
//! A file is one by more than its first sixteen bytes: the page size is one that there can be, and the three payload fractions,
//! which have never had other values, are right. Not here: pages, and whether the rest of the file is whole.

use super::{u16_at, u32_at};

/// Bytes of the header.
pub const HEADER: usize = 100;

/// What every database begins with.
pub const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Bytes of a page: a power of two, 512 to 65,536.
    pub page_size: u32,
    /// Whether changes go to a write-ahead log beside the file.
    pub wal: bool,
    /// Goes up with each transaction that changed the file, but for those in a write-ahead log.
    pub change_counter: u32,
}

/// Reads the header of a file of `size` bytes. `None`: it is no database.
pub fn parse(head: &[u8], size: u64) -> Option<Header> {
    if head.len() < HEADER || !head.starts_with(MAGIC) {
        return None;
    }
    // Big-endian throughout; 1 stands for 65,536, which has no room in two bytes.
    let page_size = match u16_at(head, 16)?.swap_bytes() {
        1 => 1 << 16,
        length => u32::from(length),
    };
    let versions = [head[18], head[19]];
    let known = page_size.is_power_of_two()
        && (512..=1 << 16).contains(&page_size)
        && versions.iter().all(|version| (1..=2).contains(version))
        && head[21..24] == [64, 32, 32]
        && size >= u64::from(page_size);
    let change_counter = u32_at(head, 24)?.swap_bytes();
    known.then_some(Header { page_size, wal: versions[1] == 2, change_counter })
}

/// Whether the first bytes of a rollback journal say that there is something to roll back: a committed one is gone, empty, or begins
/// with zeros.
pub fn is_live_journal(head: &[u8]) -> bool {
    head.first().is_some_and(|byte| *byte != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Vec<u8> {
        let mut head = vec![0; HEADER];
        head[..16].copy_from_slice(MAGIC);
        head[16..18].copy_from_slice(&4096u16.to_be_bytes());
        head[18..24].copy_from_slice(&[1, 1, 0, 64, 32, 32]);
        head[24..28].copy_from_slice(&7u32.to_be_bytes());
        head
    }

    #[test]
    fn a_database_is_known_by_its_header_and_what_looks_alike_is_not() {
        let head = header();
        assert_eq!(parse(&head, 8192), Some(Header { page_size: 4096, wal: false, change_counter: 7 }));
        let mut large = head.clone();
        large[16..20].copy_from_slice(&[0, 1, 2, 2]);
        assert_eq!(parse(&large, 1 << 20), Some(Header { page_size: 1 << 16, wal: true, change_counter: 7 }));
        assert_eq!(parse(&head[..99], 8192), None, "cut off");
        assert_eq!(parse(&head, 4095), None, "not one page");
        for (at, byte) in [(0, b's'), (16, 0x11), (16, 0), (18, 3), (19, 0), (21, 63), (22, 0), (23, 33)] {
            let mut other = head.clone();
            other[at] = byte;
            let told = parse(&other, 1 << 20);
            assert!(told.is_none(), "byte {at} is {byte}: {told:?}");
        }
    }

    #[test]
    fn a_journal_that_begins_with_zeros_is_done_with() {
        assert!(is_live_journal(&[0xd9, 0xd5]) && !is_live_journal(&[0, 0]) && !is_live_journal(&[]));
    }
}
