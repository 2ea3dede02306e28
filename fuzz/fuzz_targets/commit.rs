//! Commits: the text as it was signed, and what stands in it. What is accepted is written and read back the same, and its
//! numbers can be counted with.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lifeboat::model::{Commit, limits};
use lifeboat::plan::restore::show;
use lifeboat::seal::{open_signed, sign_text, split_signed};
use lifeboat_fuzz::{KEYS, MIB, OWNER, bounded};

const CONTEXT: &str = "lifeboat format 1 commit";

fuzz_target!(|input: &[u8]| {
    let key = KEYS.signing.public();
    if let Some((line, content)) = split_signed(input) {
        assert_eq!(line.len() + 1 + content.len(), input.len());
        assert!(open_signed(CONTEXT, input, &key, OWNER.writer).is_err(), "nobody signed this");
    }
    let signed = sign_text(CONTEXT, input, &KEYS.signing);
    let content = open_signed(CONTEXT, &signed, &key, OWNER.writer).expect("it was signed");
    assert_eq!(content, input);
    assert!(open_signed("lifeboat format 1 directory", &signed, &key, OWNER.writer).is_err());
    let Ok(commit) = bounded(64 * input.len() + MIB, || Commit::parse(content)) else { return };
    let text = commit.encode().expect("JSON");
    assert_eq!(Commit::parse(&text).as_ref(), Ok(&commit));
    let _ = (show(commit.header.time), commit.header.first_frame.checked_add(commit.frame_count()).expect("numbers"));
    for pack in commit.packs() {
        assert!(pack.size <= limits::PACK_MAX);
        for frame in &pack.frames {
            assert!(frame.1.checked_add(frame.2).is_some_and(|end| end <= pack.directory.at));
            assert!(frame.3 <= limits::FRAME_MAX as u64);
        }
    }
    for record in commit.snapshots() {
        let _ = (show(record.began), show(record.ended), record.uses.count());
        assert_eq!(record.manifest.extents.iter().map(|e| e.length).sum::<u64>(), record.manifest.bytes);
    }
});
