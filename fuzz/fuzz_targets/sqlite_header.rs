//! Headers of SQLite databases: any bytes, and any with the words in front. What is taken for one has a page size that there can be, and
//! its first bytes alone decide.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lifeboat::format::sqlite::{HEADER, MAGIC, is_live_journal, parse};

fuzz_target!(|input: &[u8]| {
    is_live_journal(input);
    let mut named = input.to_vec();
    named.resize(input.len().max(HEADER), 0);
    named[..MAGIC.len()].copy_from_slice(MAGIC);
    for head in [input, &named] {
        let Some(header) = parse(head, head.len() as u64) else { continue };
        assert!(header.page_size.is_power_of_two() && (512..=65536).contains(&header.page_size));
        assert!(u64::from(header.page_size) <= head.len() as u64);
        assert_eq!(parse(&head[..HEADER], head.len() as u64), Some(header));
        assert_eq!(parse(&head[..HEADER - 1], u64::MAX), None);
    }
});
