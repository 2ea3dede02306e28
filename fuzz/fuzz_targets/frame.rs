//! Frames from inside: any bytes in place of zstd's, sealed. A bomb stops at the length that the log gives.
//! Input: that length (u32), the bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lifeboat::model::limits;
use lifeboat::seal::{FrameSealer, decompress_limited};
use lifeboat_fuzz::{KEYS, MIB, bounded, frame_opener, split_number};

fuzz_target!(|input: &[u8]| {
    let Some((number, packed)) = split_number(input) else { return };
    let length = number % (limits::FRAME_MAX + 2);
    let unpacked = bounded(3 * length + MIB, || decompress_limited(packed, length));
    if let Ok(plain) = &unpacked {
        assert!(plain.len() <= length);
    }
    // Keys cost thousands of times what zstd does: what unpacks is sealed, and of the rest a few.
    if unpacked.is_err() && blake3::hash(packed).as_bytes()[0] > 7 {
        return;
    }
    let sealed = KEYS.sealer.seal(packed).expect("memory");
    let mut frames = frame_opener();
    bounded(length + 4 * sealed.len() + MIB, || match frames.open_frame(&sealed, length) {
        // Two ways to unpack agree on what a frame is.
        Ok(plain) => assert_eq!(unpacked.as_ref().ok().map(Vec::as_slice), Some(plain)),
        Err(_) => assert!(length > limits::FRAME_MAX || unpacked.as_ref().map_or(true, |u| u.len() != length)),
    });
    // And the same bytes as content: there and back.
    let sealed = FrameSealer::new(&KEYS.sealer).and_then(|mut frames| frames.seal_frame(packed)).expect("memory");
    assert_eq!(frames.open_frame(&sealed, packed.len()).expect("our own"), packed);
    assert!(frames.open_frame(&sealed, packed.len() + 1).is_err());
});
