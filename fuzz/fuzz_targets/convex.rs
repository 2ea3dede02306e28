//! Exports of Convex, ids and paths in them, changes: any bytes are read or refused in little memory, members end where the directory says,
//! and what is read comes back from an archive of our own. Input: one byte, then an archive, or text.
#![no_main]

use std::io::{Read, Write};
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use lifeboat::format::convex::change::id_of_line;
use lifeboat::format::convex::{Change, DocumentId, place_of};
use lifeboat::format::zip::{MemberReader, Writer, members};
use lifeboat_fuzz::{MIB, bounded};

/// Inflated bytes that a run looks at.
const MOST: u64 = 4 << 20;

fn file_of(bytes: &[u8]) -> std::fs::File {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(bytes).expect("it is written");
    file
}

fn text(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (component, _) = place_of(text);
    assert!(component.len() <= text.len());
    if let Ok(id) = DocumentId::parse(text) {
        assert_eq!(id.to_string(), text, "only the canonical form is an id");
    }
    for change in [Change::of_sync(text), Change::of_delta(text)].into_iter().flatten() {
        let mut line = Vec::new();
        change.write(&mut line).expect("it is written");
        let again = Change::of_sync(std::str::from_utf8(&line).expect("it is text")).expect("our own");
        assert_eq!(again, change);
    }
    let _ = id_of_line(input);
}

fn archive(input: &[u8]) {
    let file = Arc::new(file_of(input));
    let Ok(all) = members(&file) else { return };
    let mut left = MOST;
    for member in &all {
        let mut content = Vec::new();
        let read = MemberReader::new(Arc::clone(&file), member).take(left).read_to_end(&mut content);
        left -= content.len() as u64;
        if left == 0 {
            return;
        }
        if read.is_ok() {
            assert_eq!(content.len() as u64, member.size);
            let mut writer = Writer::new(Vec::new());
            let Ok(size) = writer.add(&member.name, true, &mut content.as_slice()) else { continue };
            assert_eq!(size, member.size);
            let again = file_of(&writer.finish().expect("it is written"));
            let found = members(&again).expect("our own");
            let mut same = Vec::new();
            MemberReader::new(Arc::new(again), &found[0]).read_to_end(&mut same).expect("our own");
            assert_eq!((found.len(), &found[0].name, found[0].crc, same), (1, &member.name, member.crc, content));
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((first, rest)) = input.split_first() else { return };
    match first % 2 {
        0 => bounded(64 * MIB, || archive(rest)),
        _ => bounded(8 * MIB, || text(rest)),
    }
});
