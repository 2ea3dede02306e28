//! Packs from outside: any bytes as an object. Nothing opens that was not signed by the writer, and no length is believed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lifeboat::pack::{Directory, FOOTER, parse_footer};
use lifeboat_fuzz::{KEYS, MIB, OWNER, bounded};

fuzz_target!(|pack: &[u8]| {
    let size = pack.len() as u64;
    let footer = &pack[pack.len().saturating_sub(FOOTER as usize)..];
    let Ok((at, length)) = parse_footer(footer, size) else { return };
    assert_eq!(at + length + FOOTER, size);
    let sealed = &pack[at as usize..(at + length) as usize];
    let found =
        bounded(16 * pack.len() + MIB, || Directory::parse(sealed, at, OWNER, &[KEYS.signing.public()], &KEYS.opener));
    assert!(found.is_err(), "nobody signed this");
});
