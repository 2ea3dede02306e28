//! Tests of the log: its names here, real segments against `pg_waldump` in `real`, and logs written from records that are
//! known in `made`.

mod made;
mod real;

use super::*;
use proptest::prelude::*;

const BLOCK: usize = 8192;
const MIB: u64 = 1 << 20;

fn size() -> SegmentSize {
    SegmentSize::new(MIB).unwrap()
}

fn name(text: &str) -> SegmentName {
    text.parse().unwrap()
}

#[test]
fn names_of_archived_files_are_told_apart() {
    let segment = name("0000000200000016000000B3");
    for (text, file) in [
        ("0000000200000016000000B3", ArchiveFile::Segment(segment)),
        ("0000000200000016000000B3.partial", ArchiveFile::Partial(segment)),
        ("0000000A.history", ArchiveFile::History(Timeline(10))),
        ("0000000200000016000000B3.00000028.backup", ArchiveFile::Backup { segment, offset: 40 }),
    ] {
        assert_eq!(ArchiveFile::parse(text), Ok(file));
        assert_eq!(file.to_string(), text);
    }
    for bad in [
        "",
        ".",
        ".history",
        "0000000a.history",
        "A.history",
        "0000000200000016000000B3.",
        "0000000200000016000000B3.done",
        "0000000200000016000000b3",
        "0000000200000016000000B3.backup",
        "0000000200000016000000B3.28.backup",
        "0000000200000016000000B3.+0000028.backup",
        "../0000000A.history",
        "0000000200000016000000B3.partial.partial",
        "xlogtemp.123",
    ] {
        assert!(ArchiveFile::parse(bad).is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn any_name_is_read_or_refused(text in "[0-9A-Fa-f]{0,26}(\\.[0-9A-F]{0,9})?(\\.partial|\\.history|\\.backup|.{0,8})") {
        if let Ok(file) = ArchiveFile::parse(&text) {
            prop_assert_eq!(file.to_string(), text);
        }
    }
}
