//! The small texts of a cluster: timeline histories, backup labels, tablespace maps, names of archived files. What is
//! accepted is written and read back the same. Input: a timeline (u32), the text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lifeboat::format::backup_label::{BackupLabel, parse_tablespace_map};
use lifeboat::format::history::{Ancestry, parse};
use lifeboat::format::wal::ArchiveFile;
use lifeboat::model::{Lsn, Timeline};
use lifeboat_fuzz::{MIB, bounded, split_number};

fuzz_target!(|input: &[u8]| {
    let Some((number, text)) = split_number(input) else { return };
    bounded(64 * text.len() + MIB, || {
        history(Timeline(number as u32), text);
        map(text);
        if let Ok(label) = BackupLabel::parse(text) {
            assert_eq!(label.start.to_string().parse(), Ok(label.start));
        }
    });
    if let Ok(name) = std::str::from_utf8(text)
        && let Ok(file) = ArchiveFile::parse(name)
    {
        assert_eq!(file.to_string(), name);
    }
});

fn history(target: Timeline, text: &[u8]) {
    let Ok(entries) = parse(target, text) else { return };
    let mut written = String::new();
    for entry in &entries {
        assert!(!entry.reason.contains('\n'));
        written += &format!("{}\t{}\t{}\n", entry.timeline, entry.switch, entry.reason);
    }
    assert_eq!(parse(target, written.as_bytes()).as_ref(), Ok(&entries));
    let way = Ancestry::new(target, entries.clone()).expect("they were in order");
    assert_eq!(way.timeline_of(Lsn(u64::MAX)), target);
    for entry in &entries {
        let found = way.timeline_of(entry.switch);
        assert!(found > entry.timeline, "it was left there");
        assert_eq!(way.left(entry.timeline), Some(Some(entry.switch)));
    }
}

fn map(text: &[u8]) {
    let Ok(spaces) = parse_tablespace_map(text) else { return };
    let mut written = Vec::new();
    for space in &spaces {
        written.extend_from_slice(format!("{} ", space.oid).as_bytes());
        for byte in space.path.as_bytes() {
            if matches!(byte, b'\n' | b'\r' | b'\\') {
                written.push(b'\\');
            }
            written.push(*byte);
        }
        written.push(b'\n');
    }
    assert_eq!(parse_tablespace_map(&written), Ok(spaces));
}
