//! Pages of relations: the checksum of PostgreSQL's `checksum_impl.h`, the LSN in the header, and what a new page is.
//!
//! Invariants: the result depends on the page and its number alone; the page is never changed. Not here: whether a
//! mismatch is damage. A server that is writing makes pages look torn; who reads beside it reads again, and takes a page
//! whose LSN lies behind the start of the backup as covered by the log.

use crate::model::Lsn;

use super::{u16_at, u32_at};

const PRIME: u32 = 16_777_619;
const LANES: usize = 32;
/// Where each lane begins: numbers of chance, fixed by PostgreSQL.
const BASES: [u32; LANES] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

/// The checksum that a page must carry, 1 to 65,535. `block` is its number in the whole relation, counted over all files of
/// a fork: file number times pages a file, plus the place in the file. A page has a length that 128 divides; what lies
/// behind the last whole 128 bytes is not covered.
pub fn page_checksum(page: &[u8], block: u32) -> u16 {
    let mut lanes = BASES;
    for (n, row) in page.chunks_exact(4 * LANES).enumerate() {
        for (j, (lane, raw)) in lanes.iter_mut().zip(row.as_chunks::<4>().0).enumerate() {
            let mut value = u32::from_le_bytes(*raw);
            // The checksum's own place, the lower half of the page's third number, counts as zero.
            if n == 0 && j == 2 {
                value &= 0xffff_0000;
            }
            *lane = mixed(*lane, value);
        }
    }
    let folded = lanes.into_iter().fold(0, |all, lane| all ^ mixed(mixed(lane, 0), 0));
    ((folded ^ block) % 65_535 + 1) as u16
}

/// FNV-1a, with the high bits brought down: multiplication alone never does.
fn mixed(lane: u32, value: u32) -> u32 {
    let all = lane ^ value;
    all.wrapping_mul(PRIME) ^ (all >> 17)
}

/// The checksum that a page carries; meaningless where the cluster has none. A cut-off header reads as zero.
pub fn stored_checksum(page: &[u8]) -> u16 {
    u16_at(page, 8).unwrap_or_default()
}

/// The place behind the log record that changed the page last. A cut-off header reads as zero.
pub fn page_lsn(page: &[u8]) -> Lsn {
    // Two halves, the upper one first, each little-endian.
    let half = |at| u64::from(u32_at(page, at).unwrap_or_default());
    Lsn((half(0) << 32) | half(4))
}

/// Whether the page was never written: all zero. The server's own test looks at one field, which damage may have zeroed.
pub fn is_new(page: &[u8]) -> bool {
    page.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::super::fixtures;
    use super::*;
    use proptest::prelude::*;

    /// PostgreSQL's code, word by word and without lanes that a compiler could tell apart.
    fn plainly(page: &[u8], block: u32) -> u16 {
        let mut page = page.to_vec();
        page[8..10].fill(0);
        let mut sums = BASES;
        for i in 0..page.len() / 128 + 2 {
            for (j, sum) in sums.iter_mut().enumerate() {
                let value = u32_at(&page, i * 128 + 4 * j).filter(|_| i < page.len() / 128).unwrap_or(0);
                let all = *sum ^ value;
                *sum = all.wrapping_mul(16_777_619) ^ (all >> 17);
            }
        }
        let all = sums.iter().fold(0, |a, b| a ^ *b);
        ((all ^ block) % 65_535 + 1) as u16
    }

    #[test]
    fn pages_of_real_servers_match_their_checksums() {
        for version in fixtures::VERSIONS {
            let (mut written, file) = (0, fixtures::unpacked(version, "relation"));
            for (block, page) in file.chunks_exact(8192).enumerate() {
                assert_eq!(page_checksum(page, block as u32), stored_checksum(page), "{version}, page {block}");
                assert_ne!(page_checksum(page, block as u32 + 1), stored_checksum(page));
                assert!(!is_new(page));
                written += 1;
            }
            assert!(written >= 3, "{version}");
            // The server's own reading of its pages' headers: `page_header` of pageinspect, or the flushed end of its log.
            let lsns: Vec<String> = file.chunks_exact(8192).map(|page| page_lsn(page).to_string()).collect();
            let said: Vec<String> = fixtures::text(version, "relation.lsns").lines().map(str::to_owned).collect();
            assert_eq!(lsns, said, "{version}");
        }
    }

    #[test]
    fn a_page_is_new_only_if_all_of_it_is_zero() {
        let mut page = [0; 8192];
        assert!(is_new(&page));
        page[8191] = 1;
        assert!(!is_new(&page));
        assert_eq!((page_lsn(&[1, 2]), stored_checksum(&[0; 9])), (Lsn(0), 0));
    }

    proptest! {
        #[test]
        fn lanes_agree_with_the_plain_way(
            page in prop::collection::vec(any::<u8>(), 64..1024).prop_map(|mut p| { p.resize(p.len() / 64 * 128, 7); p }),
            block: u32,
        ) {
            prop_assert_eq!(page_checksum(&page, block), plainly(&page, block));
        }

        #[test]
        fn any_bytes_have_a_checksum(page in prop::collection::vec(any::<u8>(), 0..700), block: u32) {
            prop_assert!(page_checksum(&page, block) > 0);
            let _ = (page_lsn(&page), stored_checksum(&page), is_new(&page));
        }
    }
}
