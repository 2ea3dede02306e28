//! Real segments of every version, against what `pg_waldump` says of them.

use super::super::super::{fixtures, pg_control};
use super::super::*;
use super::{BLOCK, MIB, name, size};

/// A segment of a fixture, by its role: `first`, `second` or `forked`, and its name.
fn segment(version: u32, role: &str) -> (Vec<u8>, SegmentName) {
    let names = fixtures::text(version, "segments");
    let line = names.lines().find_map(|line| line.strip_prefix(&format!("{role} "))).unwrap();
    (fixtures::unpacked(version, &format!("wal.{role}")), name(line))
}

/// A line of `pg_waldump`: the record's place, its kind and what follows that.
struct Said {
    lsn: Lsn,
    kind: String,
    rest: String,
}

fn said(version: u32, role: &str) -> Vec<Said> {
    let text = String::from_utf8(fixtures::unpacked(version, &format!("waldump.{role}"))).unwrap();
    let parse = |line: &str| {
        let (front, desc) = line.split_once(", desc: ")?;
        let lsn = front.split_once("lsn: ")?.1.split(',').next()?.parse().ok()?;
        let (kind, rest) = desc.split_once(' ').unwrap_or((desc, ""));
        let manager = front.strip_prefix("rmgr: ")?.split_whitespace().next()?;
        Some(Said { lsn, kind: format!("{manager} {kind}"), rest: rest.to_owned() })
    };
    text.lines().filter_map(parse).collect()
}

/// The end of the record before the one at `lsn`: where a page begins, its header lies between them.
fn end_before(lsn: Lsn) -> Lsn {
    match lsn.0 % BLOCK as u64 {
        24 => Lsn(lsn.0 - 24),
        40 if lsn.0 % MIB == 40 => Lsn(lsn.0 - 40),
        _ => lsn,
    }
}

/// The ends of transactions in `pg_waldump`'s lines, as ours.
fn said_ends(lines: &[Said]) -> Vec<CommitTime> {
    let mut all = Vec::new();
    for (n, line) in lines.iter().enumerate() {
        let committed = match line.kind.as_str() {
            "Transaction COMMIT" | "Transaction COMMIT_PREPARED" => true,
            "Transaction ABORT" | "Transaction ABORT_PREPARED" => false,
            _ => continue,
        };
        // `736: 2026-11-21 18:00:00.123456 UTC; rels: ...` with the number where it was prepared.
        let text = match line.rest.split_once(": ") {
            Some((number, rest)) if number.bytes().all(|b| b.is_ascii_digit()) => rest,
            _ => &line.rest,
        };
        let text = text.split(" UTC").next().unwrap();
        let time = chrono::NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f").unwrap();
        let end = lines.get(n + 1).map_or(Lsn(u64::MAX), |next| end_before(next.lsn));
        all.push(CommitTime { time: time.and_utc().timestamp_micros(), end, committed });
    }
    all
}

#[test]
fn real_segments_say_what_pg_waldump_says() {
    for version in fixtures::VERSIONS {
        let (first, first_name) = segment(version, "first");
        let (second, second_name) = segment(version, "second");
        assert_eq!(first_name.next(size()), Some(second_name));
        let (one, two) = (scan(&first, first_name).unwrap(), scan(&second, second_name).unwrap());
        let lines = said(version, "both");
        let border = second_name.start(size());
        let ends = said_ends(&lines);
        let (mut inside, mut behind): (Vec<_>, Vec<_>) = (Vec::new(), Vec::new());
        let mut crossing = Vec::new();
        for (end, line) in ends.iter().zip(lines.iter().filter(|l| {
            ["Transaction COMMIT", "Transaction COMMIT_PREPARED", "Transaction ABORT", "Transaction ABORT_PREPARED"]
                .contains(&l.kind.as_str())
        })) {
            match (line.lsn < border, end.end <= border) {
                (true, true) => inside.push(*end),
                (true, false) => crossing.push(*end),
                _ => behind.push(*end),
            }
        }
        assert!(inside.len() > 8 && !behind.is_empty() && crossing.len() == 1, "{version}: the fixture is a poor one");
        for (facts, said) in [(&one, &inside), (&two, &behind)] {
            assert_eq!(facts.commits, said.iter().filter(|end| end.committed).count() as u64, "{version}");
            assert_eq!(facts.aborts, said.iter().filter(|end| !end.committed).count() as u64, "{version}");
            assert_eq!((facts.first.as_ref(), facts.last.as_ref()), (said.first(), said.last()), "{version}");
            assert_eq!(facts.latest, said.iter().map(|end| end.time).max());
            assert_eq!(facts.last_commit_end, said.iter().rfind(|end| end.committed).map(|end| end.end));
        }
        assert_eq!(join(one.tail.as_ref().unwrap(), two.head.as_ref().unwrap()), Some(crossing[0]), "{version}");
        assert_eq!(join_restore_point(one.tail.as_ref().unwrap(), two.head.as_ref().unwrap()), None);
        let points: Vec<&str> = one.restore_points.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(points, ["before the flood", "zwölf Boxkämpfer"], "{version}");
        assert!(one.full && !one.switched && two.full && two.switched);
        assert_eq!((two.start, two.end), (border, border.plus(MIB)));
        assert_eq!(one.end, end_before(lines.iter().rfind(|line| line.lsn < border).unwrap().lsn));
    }
}

#[test]
fn stumps_of_the_fixtures_cut_headers_at_every_place() {
    let lengths = fixtures::VERSIONS.map(|version| {
        let (bytes, name) = segment(version, "first");
        scan(&bytes, name).unwrap().tail.unwrap().length
    });
    assert_eq!(lengths, [8, 16, 24, 32]);
}

#[test]
fn headers_say_who_wrote_the_segment() {
    for version in fixtures::VERSIONS {
        let control = pg_control::ControlFile::parse(&fixtures::unpacked(version, "pg_control.running"));
        let (bytes, name) = segment(version, "first");
        let header = check_segment(&bytes, name).unwrap();
        assert_eq!((header.major, header.system_id), (version, control.unwrap().system_id));
        assert_eq!((header.segment_size, header.block_size, header.timeline), (size(), 8192, Timeline(1)));
        // What is not the segment of its name is refused.
        let moved = SegmentName { segment: name.segment + 1, ..name };
        assert!(matches!(check_segment(&bytes, moved), Err(Flaw::Place { .. })));
        assert!(matches!(check_segment(&bytes[1..], name), Err(Flaw::Magic { .. })));
        assert!(matches!(check_segment(&bytes[..39], name), Err(Flaw::TooShort { found: 39 })));
        assert!(matches!(check_segment(&bytes[..BLOCK], name), Err(Flaw::Length { .. })));
        assert!(matches!(check_segment(&[&bytes[..], &[0]].concat(), name), Err(Flaw::Length { .. })));
        assert!(SegmentHeader::parse(&bytes[..40], name).is_ok(), "a running segment is read as far as it is there");
        let changed = |at: usize, byte: u8| {
            let mut bytes = bytes.clone();
            bytes[at] = byte;
            check_segment(&bytes, name).unwrap_err()
        };
        assert!(matches!(changed(0, 0x09), Flaw::Magic { .. }), "another version");
        assert!(matches!(changed(2, 0), Flaw::Flags { .. }));
        assert!(matches!(changed(3, 1), Flaw::Flags { .. }));
        assert_eq!(changed(4, 2), Flaw::Timeline { found: Timeline(2), named: Timeline(1) });
        assert_eq!(changed(4, 0), Flaw::Timeline { found: Timeline(0), named: Timeline(1) });
        assert!(matches!(changed(34, 0), Flaw::SegmentSize { found: 0 }));
        assert!(matches!(changed(37, 0), Flaw::BlockSize { found: 0 }));
        let wide = SegmentName { segment: 4096, ..name };
        assert!(matches!(check_segment(&bytes, wide), Err(Flaw::Name { .. })));
    }
}

#[test]
fn a_new_timeline_begins_with_the_old_ones_pages() {
    for version in fixtures::VERSIONS {
        let (bytes, name) = segment(version, "forked");
        assert_eq!(name.timeline, Timeline(2));
        let header = check_segment(&bytes, name).unwrap();
        assert_eq!(header.timeline, Timeline(1), "{version}: the first page is a copy");
        let facts = scan(&bytes, name).unwrap();
        let lines = said(version, "forked");
        let ends = said_ends(&lines);
        assert_eq!((facts.commits, facts.last), (ends.len() as u64, ends.last().copied()), "{version}");
        let fork: Lsn = fixtures::text(version, "promotion.lsn").trim().parse().unwrap();
        assert!(facts.last_commit_end.unwrap() > fork, "{version}: it was written to after the fork");
        let old = SegmentName { timeline: Timeline(1), ..name };
        assert!(check_segment(&bytes, old).is_ok(), "by its first page alone it is one of the old timeline");
        assert!(scan(&bytes, old).unwrap().end <= fork.plus(BLOCK as u64), "yet its log ends near the fork");
    }
}

#[test]
fn a_record_in_two_segments_is_told_by_its_crc() {
    let ((first, one), (second, two)) = (segment(18, "first"), segment(18, "second"));
    let tail = scan(&first, one).unwrap().tail.unwrap();
    let head = scan(&second, two).unwrap().head.unwrap();
    assert!(join(&tail, &head).is_some());
    let (mut t, mut h) = (tail.clone(), head.clone());
    for at in 0..tail.bytes.len() {
        t.bytes[at] ^= 1;
        assert_eq!(join(&t, &head), None, "byte {at} of the tail");
        t.bytes[at] ^= 1;
    }
    for at in 0..head.bytes.len() {
        h.bytes[at] ^= 1;
        assert_eq!(join(&tail, &h), None, "byte {at} of the head");
        h.bytes[at] ^= 1;
    }
    assert!(join(&t, &h).is_some());
    t.bytes.pop();
    assert_eq!(join(&t, &head), None);
    h.bytes.push(0);
    assert_eq!(join(&tail, &h), None);
    h = Head { end: None, ..head.clone() };
    assert_eq!(join(&tail, &h), None);
    h = Head { remaining: head.remaining + 8, length: head.length + 8, ..head };
    assert_eq!(join(&tail, &h), None);
}

/// Facts of a segment that is cut off are the beginning of those of the whole.
fn is_prefix(part: &SegmentFacts, whole: &SegmentFacts) -> bool {
    part.end <= whole.end
        && part.commits <= whole.commits
        && part.aborts <= whole.aborts
        && (part.first.is_none() || part.first == whole.first)
        && part.latest <= whole.latest
        && part.last_commit_end <= whole.last_commit_end
        && whole.restore_points.starts_with(&part.restore_points)
        && (part.head.is_none() || part.head == whole.head)
        && (part.tail.is_none() || part.tail == whole.tail)
        && (!part.full || whole.full)
}

#[test]
fn every_truncation_of_a_real_segment_gives_a_prefix() {
    for version in fixtures::VERSIONS {
        for role in ["first", "second", "forked"] {
            let (bytes, name) = segment(version, role);
            let whole = scan(&bytes, name).unwrap();
            let last = (whole.end.since(whole.start) as usize).min(bytes.len());
            // Every length where records are dense, and then some: the rest is one long padding or zeros.
            let lengths =
                (0..4096).chain((4096..last.min(200_000)).step_by(61)).chain((0..bytes.len()).step_by(8192 + 7));
            let mut reached = whole.start;
            for length in lengths {
                match scan(&bytes[..length], name) {
                    Ok(part) => {
                        assert!(is_prefix(&part, &whole), "{version} {role} at {length}: {part:?}");
                        assert!(!part.full || part.switched, "{version} {role} at {length}");
                        // A record is whole without the padding behind it.
                        assert!(part.end.since(part.start) <= length.next_multiple_of(8) as u64 || part.switched);
                        reached = reached.max(part.end);
                    }
                    Err(flaw) => assert!(length < 40, "{version} {role} at {length}: {flaw}"),
                }
            }
            assert!(reached > whole.start);
        }
    }
}
