//! Directories from inside: any content, as if signed by the writer. What is believed of it fits the pack; what is accepted
//! is signed and sealed, and read through both.
//! Input: where the frames end (u32), the content.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lifeboat::model::limits;
use lifeboat::pack::Directory;
use lifeboat::seal::sign_text;
use lifeboat_fuzz::{KEYS, MIB, OWNER, bounded, split_number};

fuzz_target!(|input: &[u8]| {
    let Some((frames_end, content)) = split_number(input) else { return };
    let end = frames_end as u64;
    let found = bounded(32 * content.len() + MIB, || Directory::read(content, end, OWNER));
    let Ok(directory) = found else { return };
    let text = sign_text("lifeboat format 1 directory", content, &KEYS.signing);
    let sealed = KEYS.sealer.seal_compressed(&text).expect("memory");
    let again = bounded(64 * content.len() + MIB, || {
        Directory::parse(&sealed, end, OWNER, &[KEYS.signing.public()], &KEYS.opener)
    });
    assert_eq!(again.expect("as without a seal"), directory);
    assert_eq!(directory.frames.len(), directory.chunks.len());
    let mut next = 0;
    for (frame, chunks) in directory.frames.iter().zip(&directory.chunks) {
        assert_eq!(frame.at, next);
        next = frame.at + frame.stored;
        assert!(frame.plain <= limits::FRAME_MAX as u64);
        assert_eq!(frame.chunks as usize, chunks.len());
        assert_eq!(chunks.iter().map(|(_, length)| u64::from(*length)).sum::<u64>(), frame.plain);
    }
    assert_eq!(next, end);
    if let Some(record) = &directory.snapshot {
        assert_eq!(record.manifest.extents.iter().map(|e| e.length).sum::<u64>(), record.manifest.bytes);
        let _ = lifeboat::plan::restore::show(record.ended);
    }
});
