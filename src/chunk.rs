//! Where to cut. Content-defined cutting is FastCDC (Xia et al., USENIX ATC 2016: a gear hash, nothing tried before the
//! shortest length, a stricter mask before the normal length and a looser one after it) over a gear table derived from
//! the repository secret; fixed cutting is a page length. Pure: any bytes test it.
//!
//! Invariants: chunks concatenate to the input; no chunk is longer than [`Cutter::longest`]; only the last is shorter
//! than the shortest. Not here: which cutting a file gets (the source says), and digests.

use std::num::NonZeroUsize;

use crate::model::{Bounds, Chunking, Cutting};

/// The gear table of a repository. Derived from its secret, so that the lengths of chunks tell nothing about content.
#[derive(Clone)]
pub struct GearTable(Box<[u64; 256]>);

impl GearTable {
    /// Reads 256 little-endian numbers.
    pub fn from_bytes(bytes: &[u8; 2048]) -> Self {
        let mut table = Box::new([0; 256]);
        for (number, eight) in table.iter_mut().zip(bytes.chunks_exact(8)) {
            let mut raw = [0; 8];
            raw.copy_from_slice(eight);
            *number = u64::from_le_bytes(raw);
        }
        Self(table)
    }
}

impl std::fmt::Debug for GearTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("GearTable(…)")
    }
}

/// Finds the ends of chunks, one after another.
#[derive(Debug, Clone)]
pub struct Cutter {
    table: GearTable,
    fine: Bounds,
    rows: Bounds,
    coarse: Bounds,
    page: usize,
}

impl Cutter {
    /// A cutter for a repository's chunking.
    pub fn new(table: GearTable, chunking: &Chunking) -> Self {
        let rows = chunking.rows.unwrap_or(chunking.fine);
        Self { table, fine: chunking.fine, rows, coarse: chunking.coarse, page: chunking.page as usize }
    }

    /// The longest chunk of a cutting, in bytes.
    pub fn longest(&self, cutting: Cutting) -> usize {
        match cutting {
            Cutting::Fine => self.fine.max as usize,
            Cutting::Rows => self.rows.max as usize,
            Cutting::Coarse => self.coarse.max as usize,
            Cutting::Pages => self.page,
        }
    }

    /// Length of the first chunk of `window`. `None` asks for more bytes: never at the end of the input, and never once
    /// `longest` bytes are there. An empty window has no chunk.
    pub fn cut(&self, cutting: Cutting, window: &[u8], at_end: bool) -> Option<NonZeroUsize> {
        let whole = self.longest(cutting);
        if window.len() < whole && !at_end {
            return None;
        }
        let window = &window[..window.len().min(whole)];
        let length = match cutting {
            Cutting::Fine => self.gear(self.fine, window),
            Cutting::Rows => self.gear(self.rows, window),
            Cutting::Coarse => self.gear(self.coarse, window),
            Cutting::Pages => window.len(),
        };
        NonZeroUsize::new(length)
    }

    fn gear(&self, bounds: Bounds, window: &[u8]) -> usize {
        let (min, normal) = (bounds.min as usize, bounds.normal as usize);
        if window.len() <= min {
            return window.len();
        }
        let bits = bounds.normal.trailing_zeros();
        // The high bits of a gear hash have seen the most bytes; two bits more, two bits fewer is the paper's NC level 2.
        let strict = u64::MAX << (64 - (bits + 2));
        let loose = u64::MAX << (64 - (bits - 2));
        let mut hasher = gearhash::Hasher::new(&self.table.0);
        let middle = normal.min(window.len());
        if let Some(found) = hasher.next_match(&window[min..middle], strict) {
            return min + found;
        }
        match hasher.next_match(&window[middle..], loose) {
            Some(found) => middle + found,
            None => window.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cutter() -> Cutter {
        let mut bytes = [0; 2048];
        blake3::Hasher::new_derive_key("test").finalize_xof().fill(&mut bytes);
        Cutter::new(GearTable::from_bytes(&bytes), &Chunking::default())
    }

    fn noise(length: usize, seed: u64) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new_derive_key("noise").update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    fn cut_all(cutting: Cutting, mut bytes: &[u8]) -> Vec<usize> {
        let cutter = cutter();
        let mut all = Vec::new();
        while let Some(length) = cutter.cut(cutting, bytes, true) {
            all.push(length.get());
            bytes = &bytes[length.get()..];
        }
        all
    }

    proptest! {
        #[test]
        fn chunks_concatenate_and_obey_the_bounds(length in 0usize..600_000, seed: u64, kind in 0..4) {
            let cutting = [Cutting::Fine, Cutting::Coarse, Cutting::Pages, Cutting::Rows][kind as usize];
            let chunks = cut_all(cutting, &noise(length, seed));
            prop_assert_eq!(chunks.iter().sum::<usize>(), length);
            let (min, max) = match cutting {
                Cutting::Fine => (4 << 10, 64 << 10),
                Cutting::Rows => (256, 16 << 10),
                Cutting::Coarse => (64 << 10, 1 << 20),
                Cutting::Pages => (8 << 10, 8 << 10),
            };
            for (n, chunk) in chunks.iter().enumerate() {
                prop_assert!(*chunk <= max);
                prop_assert!(*chunk >= min || n + 1 == chunks.len());
            }
        }

        #[test]
        fn an_edit_moves_few_cuts(seed: u64, at in 0usize..400_000) {
            let before = noise(400_000, seed);
            let mut after = before.clone();
            after.insert(at, 7);
            let ends = |bytes: &[u8]| -> std::collections::BTreeSet<usize> {
                let mut end = 0;
                cut_all(Cutting::Fine, bytes).iter().map(|n| { end += n; bytes.len() - end }).collect()
            };
            // Ends counted from the back: those behind the edit stay where they are, but for a few right behind it.
            let (old, new) = (ends(&before), ends(&after));
            let kept = old.iter().filter(|e| **e + 200_000 < before.len() - at && new.contains(e)).count();
            let behind = old.iter().filter(|e| **e + 200_000 < before.len() - at).count();
            prop_assert_eq!(kept, behind);
        }
    }

    #[test]
    fn it_asks_for_more_until_the_longest_chunk_is_there() {
        let bytes = noise(64 << 10, 1);
        assert_eq!(cutter().cut(Cutting::Fine, &bytes[..1000], false), None);
        assert!(cutter().cut(Cutting::Fine, &bytes, false).is_some());
        assert_eq!(cutter().cut(Cutting::Fine, &[], true), None);
    }

    #[test]
    fn normal_lengths_are_met_on_noise() {
        let chunks = cut_all(Cutting::Fine, &noise(8 << 20, 3));
        let mean = (8 << 20) / chunks.len();
        assert!((12_000..24_000).contains(&mean), "{mean}");
    }
}
