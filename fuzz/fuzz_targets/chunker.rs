//! The chunker: chunks concatenate to the input, obey their bounds, do not depend on how the bytes arrive, and are those
//! of a plain rolling hash. Input: bounds and a seed of the gear table (eight bytes), the bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lifeboat::chunk::{Cutter, GearTable};
use lifeboat::model::{Bounds, Chunking, Cutting};

/// What `Cutter` does with SIMD, one byte after another.
fn plain_cut(table: &[u64; 256], bounds: Bounds, window: &[u8]) -> usize {
    let bits = bounds.normal.trailing_zeros();
    let mut hash = 0u64;
    for (at, byte) in window.iter().enumerate().skip(bounds.min as usize) {
        hash = (hash << 1).wrapping_add(table[usize::from(*byte)]);
        let few = if at < bounds.normal as usize { bits + 2 } else { bits - 2 };
        if hash >> (64 - few) == 0 {
            return at + 1;
        }
    }
    window.len()
}

fn cut_all(cutter: &Cutter, cutting: Cutting, bytes: &[u8], step: usize) -> Vec<usize> {
    let (mut all, mut start, mut arrived) = (Vec::new(), 0, 0);
    loop {
        let at_end = arrived == bytes.len();
        match cutter.cut(cutting, &bytes[start..arrived], at_end) {
            Some(length) => {
                all.push(length.get());
                start += length.get();
            }
            None if at_end => return all,
            None => {
                assert!(arrived - start < cutter.longest(cutting), "it asks for more than its longest chunk");
                arrived = (arrived + step).min(bytes.len());
            }
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let Some(([seed, min, bits, max, page, step, spread, which], bytes)) = input.split_first_chunk::<8>() else {
        return;
    };
    let normal = 1u32 << (7 + bits % 8);
    let min = 64 + u32::from(*min) * (normal - 65) / 256;
    let bounds = Bounds { min, normal, max: normal + 1 + u32::from(*max) * 64 };
    let chunking = Chunking { fine: bounds, coarse: bounds, page: 512 + u32::from(*page) * 16, ..Chunking::default() };
    chunking.validate().expect("bounds that are allowed");
    let mut raw = [0; 2048];
    blake3::Hasher::new().update(&[*seed]).finalize_xof().fill(&mut raw);
    // Tables with few high bits make cuts frequent.
    let mask = u64::MAX >> (spread % 24);
    let mut table = [0u64; 256];
    for (number, eight) in table.iter_mut().zip(raw.chunks_exact_mut(8)) {
        *number = u64::from_le_bytes(eight.try_into().expect("eight bytes")) & mask;
        eight.copy_from_slice(&number.to_le_bytes());
    }
    let cutter = Cutter::new(GearTable::from_bytes(&raw), &chunking);
    let cutting = [Cutting::Fine, Cutting::Coarse, Cutting::Pages][usize::from(which % 3)];
    let chunks = cut_all(&cutter, cutting, bytes, bytes.len().max(1));
    assert_eq!(chunks.iter().sum::<usize>(), bytes.len());
    assert_eq!(cut_all(&cutter, cutting, bytes, 1 + usize::from(*step) * 8), chunks);
    let mut start = 0;
    for (n, length) in chunks.iter().enumerate() {
        assert!(*length <= cutter.longest(cutting));
        let window = &bytes[start..bytes.len().min(start + cutter.longest(cutting))];
        let expected = match cutting {
            Cutting::Pages => window.len(),
            _ if window.len() <= min as usize => window.len(),
            _ => plain_cut(&table, bounds, window),
        };
        assert_eq!(*length, expected, "chunk {n}");
        start += length;
        let shortest = if cutting == Cutting::Pages { chunking.page } else { min };
        assert!(start == bytes.len() || *length >= shortest as usize);
    }
});
