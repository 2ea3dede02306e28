//! Tests of `needed_wal`: what bases need by themselves, windows, gaps, forks.

use std::collections::BTreeMap;

use chrono::{TimeZone, Utc};

use super::*;
use crate::model::base::BaseBackup;
use crate::model::lsn::{SegmentSize, SystemId};
use crate::plan::recovery::{Fork, Growing};

const SIZE: SegmentSize = SegmentSize::DEFAULT;
const SEGMENT: u64 = 16 << 20;

fn at(second: i64) -> Moment {
    Utc.timestamp_opt(1_700_000_000 + second, 0).unwrap()
}

fn name(timeline: u32, number: u64) -> SegmentName {
    SegmentName::holding(Timeline(timeline), Lsn(number * SEGMENT), SIZE)
}

/// A base backup from within one segment to within another, stopped at ten times the last one's number.
fn base(timeline: u32, first: u64, last: u64) -> Base {
    let backup = BaseBackup {
        system_id: SystemId(7),
        server_version: 150_018,
        timeline: Timeline(timeline),
        start: Lsn(first * SEGMENT + 40),
        stop: Lsn(last * SEGMENT + 4000),
        stopped: at(last as i64 * 10),
        segment_size: SIZE,
        stream: "db-7-15".into(),
        checksums: true,
        tablespaces: Vec::new(),
        tablespaces_made: Vec::new(),
        bad_pages: Default::default(),
        settings: BTreeMap::new(),
        environment: BTreeMap::new(),
    };
    Base { id: SnapshotId::new(last, [timeline as u8; 10]), backup, whole: true }
}

fn archive(bases: Vec<Base>, segments: &[(u32, u64)]) -> Archive {
    let wal = segments.iter().map(|(timeline, number)| (name(*timeline, *number), None)).collect();
    Archive { bases, wal, ..Archive::default() }
}

fn fork(timeline: u32, parent: u32, number: u64) -> Fork {
    Fork { timeline: Timeline(timeline), parent: Timeline(parent), at: Lsn(number * SEGMENT + 500) }
}

fn one(numbers: std::ops::RangeInclusive<u64>) -> Vec<(u32, u64)> {
    numbers.map(|number| (1, number)).collect()
}

/// The free segments, as (timeline, number), of an archive whose kept bases are those at `kept`.
fn free(archive: &Archive, kept: &[usize], window: Option<i64>) -> Vec<(u32, u64)> {
    let kept = kept.iter().map(|n| archive.bases[*n].id).collect();
    let needed = needed(archive, &kept, window.map(at));
    assert_eq!(
        needed.segments.len() + needed.free.len(),
        archive.wal.len() + archive.growing.len(),
        "each segment is one or the other"
    );
    assert!(needed.segments.is_disjoint(&needed.free));
    needed.free.iter().map(|name| (name.timeline.0, name.start(SIZE).0 / SEGMENT)).collect()
}

#[test]
fn without_a_window_each_base_keeps_its_own_log_and_no_more() {
    let archive = archive(vec![base(1, 2, 3), base(1, 6, 6)], &one(1..=8));
    assert_eq!(free(&archive, &[0, 1], None), [(1, 1), (1, 4), (1, 5), (1, 7), (1, 8)]);
    assert_eq!(free(&archive, &[1], None), [(1, 1), (1, 2), (1, 3), (1, 4), (1, 5), (1, 7), (1, 8)]);
}

#[test]
fn from_the_base_that_serves_the_window_on_the_log_is_unbroken() {
    let archive = archive(vec![base(1, 2, 2), base(1, 4, 4), base(1, 7, 7)], &one(1..=9));
    assert_eq!(free(&archive, &[0, 1, 2], Some(55)), [(1, 1), (1, 3)], "the base at 40 serves 55");
    assert_eq!(free(&archive, &[0, 1, 2], Some(39)), [(1, 1)], "the one at 20 serves 39");
    assert_eq!(
        free(&archive, &[1, 2], Some(5)),
        [(1, 1), (1, 2), (1, 3)],
        "none serves 5: from the oldest kept one on"
    );
    let all = archive.bases.iter().map(|base| base.id).collect();
    assert_eq!(needed(&archive, &all, Some(at(55))).continuous_from, Some(archive.bases[1].id));
}

#[test]
fn a_base_that_is_pending_or_torn_serves_no_window() {
    let mut torn = base(1, 4, 4);
    torn.whole = false;
    let waiting = base(1, 6, 12);
    let archive = archive(vec![base(1, 2, 2), torn, waiting], &one(1..=9));
    assert_eq!(free(&archive, &[0, 1, 2], Some(130)), [(1, 1)]);
}

#[test]
fn a_gap_frees_nothing() {
    let archive = archive(vec![base(1, 2, 2)], &[(1, 1), (1, 2), (1, 3), (1, 6), (1, 7)]);
    assert_eq!(free(&archive, &[0], Some(20)), [(1, 1)], "what lies behind a gap may be wanted by a person");
}

#[test]
fn a_fork_keeps_its_parent_up_to_where_it_began() {
    let segments = [one(1..=6), vec![(2, 4), (2, 5), (2, 6), (3, 9)]].concat();
    let mut archive = archive(vec![base(1, 2, 2), base(2, 5, 5)], &segments);
    archive.forks = vec![fork(2, 1, 4), fork(3, 1, 1)];
    // Both ways lead on from the first base; timeline 3 left the first before it.
    assert_eq!(free(&archive, &[0, 1], Some(25)), [(1, 1), (3, 9)]);
    assert_eq!(free(&archive, &[1], Some(25)), [(1, 1), (1, 2), (1, 3), (1, 4), (1, 5), (1, 6), (2, 4), (3, 9)]);
    let kept = archive.bases.iter().map(|base| base.id).collect();
    let histories = needed(&archive, &kept, None).histories;
    assert!([1, 2, 3].iter().all(|n| histories.contains(&Timeline(*n))), "histories stay always");
}

#[test]
fn a_newer_base_on_an_abandoned_branch_does_not_serve_the_one_that_lives() {
    let segments = [one(1..=6), vec![(2, 3), (2, 4), (2, 5)]].concat();
    let mut archive = archive(vec![base(1, 2, 2), base(1, 4, 4)], &segments);
    archive.forks = vec![fork(2, 1, 3)];
    assert_eq!(free(&archive, &[0, 1], Some(45)), [(1, 1)], "timeline 2 is reached from the first base alone");
}

#[test]
fn a_timeline_without_its_history_stays() {
    let archive = archive(vec![base(1, 2, 2)], &[(1, 1), (1, 2), (1, 3), (2, 3)]);
    assert_eq!(free(&archive, &[0], Some(20)), [(1, 1)]);
}

#[test]
fn nothing_kept_frees_nothing() {
    let archive = archive(vec![base(1, 2, 2)], &one(1..=4));
    assert_eq!(free(&archive, &[], Some(20)), []);
}

#[test]
fn a_segment_in_pieces_stays_and_goes_like_a_whole_one() {
    let mut archive = archive(vec![base(1, 2, 2), base(1, 5, 6)], &one(2..=5));
    for number in [1, 6] {
        archive.growing.insert(name(1, number), Growing { commits: None, end: Lsn(number * SEGMENT + 5000) });
    }
    assert_eq!(free(&archive, &[1], None), [(1, 1), (1, 2), (1, 3), (1, 4)], "the newest waits for its last one");
    assert_eq!(free(&archive, &[0, 1], Some(20)), [(1, 1)]);
    assert_eq!(free(&archive, &[], None), []);
}
