//! Sealed bytes from outside: any bytes as an age file. What opens is no longer than it was.
//! Input: the length that a log gives the frame (u32), the bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lifeboat::model::limits;
use lifeboat_fuzz::{KEYS, MIB, bounded, frame_opener, split_number};

fuzz_target!(|input: &[u8]| {
    let Some((number, sealed)) = split_number(input) else { return };
    let length = number % (limits::FRAME_MAX + 2);
    bounded(4 * sealed.len() + MIB, || {
        if let Ok(plain) = KEYS.opener.open(sealed) {
            assert!(plain.len() <= sealed.len());
        }
    });
    bounded(4 * sealed.len() + MIB + 3 * length, || {
        if let Ok(plain) = KEYS.opener.open_compressed(sealed, length) {
            assert!(plain.len() <= length);
        }
        if let Ok(plain) = frame_opener().open_frame(sealed, length) {
            assert_eq!(plain.len(), length);
        }
    });
});
