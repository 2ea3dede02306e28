//! Tests of `branches`: two servers that archived one cluster.

use std::collections::BTreeMap;

use chrono::{TimeZone, Utc};

use super::*;
use crate::model::SnapshotId;
use crate::model::base::BaseBackup;
use crate::model::lsn::{SegmentName, SystemId};
use crate::plan::recovery::{Base, Fork, NoWay};

const SIZE: SegmentSize = SegmentSize::DEFAULT;
const SEGMENT: u64 = 16 << 20;

fn at(second: i64) -> Moment {
    Utc.timestamp_opt(1_700_000_000 + second, 0).unwrap()
}

fn name(timeline: u32, number: u64) -> SegmentName {
    SegmentName::holding(Timeline(timeline), Lsn(number * SEGMENT), SIZE)
}

/// A base backup within a segment of a timeline, ended at a second.
fn base(number: u64, timeline: u32, stopped: i64) -> Base {
    let backup = BaseBackup {
        system_id: SystemId(7),
        server_version: 150_018,
        timeline: Timeline(timeline),
        start: Lsn(number * SEGMENT + 40),
        stop: Lsn(number * SEGMENT + 4000),
        stopped: at(stopped),
        segment_size: SIZE,
        stream: "db-7-15".into(),
        checksums: true,
        tablespaces: Vec::new(),
        tablespaces_made: Vec::new(),
        bad_pages: Default::default(),
        settings: BTreeMap::new(),
        environment: BTreeMap::new(),
    };
    Base { id: SnapshotId::new(stopped as u64 * 1000, [number as u8; 10]), backup, whole: true }
}

fn commits(number: u64, first: i64, last: i64) -> Option<Commits> {
    Some(Commits { first: at(first), last: at(last), end: Lsn(number * SEGMENT + SEGMENT - 100), count: 2 })
}

/// Timeline 2 left 1 within segment 3, at second 30; both go on: 1 from 32 to 60, 2 from `begins` on.
fn forked(begins: i64, split: bool) -> Archive {
    let place = Lsn(3 * SEGMENT + 5000);
    let mut archive = Archive { bases: vec![base(2, 1, 20)], ..Archive::default() };
    archive.wal.extend([
        (name(1, 2), commits(2, 10, 25)),
        (name(1, 3), commits(3, 28, 40)),
        (name(1, 4), commits(4, 45, 60)),
    ]);
    archive.wal.extend([(name(2, 3), commits(3, 28, begins)), (name(2, 4), commits(4, begins + 1, begins + 20))]);
    archive.forks.push(Fork { timeline: Timeline(2), parent: Timeline(1), at: place });
    if split {
        let before = Some(Commits { first: at(28), last: at(30), end: place, count: 1 });
        for (timeline, first, last) in [(1, 32, 40), (2, begins, begins)] {
            archive.splits.insert((Timeline(timeline), place), Split { before, behind: commits(3, first, last) });
        }
    }
    archive
}

fn to(archive: &Archive, second: i64, timeline: Option<u32>) -> Result<Timeline, NoWay> {
    let way = archive.choose("db", &Aim::Time(at(second)), timeline.map(Timeline), false);
    way.map(|way| way.reach.timeline)
}

#[test]
fn a_moment_on_two_branches_is_not_guessed() {
    let archive = forked(50, true);
    for second in [32, 45, 55, 60] {
        let refused = to(&archive, second, None);
        let Err(NoWay::TwoBranches { chosen, other, commits, .. }) = refused else { panic!("{second}: {refused:?}") };
        assert_eq!((chosen, other, commits), (Timeline(2), Timeline(1), 4));
        assert_eq!(to(&archive, second, Some(1)), Ok(Timeline(1)));
        assert_eq!(to(&archive, second, Some(2)), Ok(Timeline(2)));
    }
    for second in [24, 30, 31, 61, 65] {
        assert_eq!(to(&archive, second, None), Ok(Timeline(2)), "{second}: the same on both, or on one alone");
    }
}

#[test]
fn after_a_failover_the_new_branch_is_followed_and_the_old_ends_are_named() {
    let archive = forked(100, true);
    assert_eq!(to(&archive, 110, None), Ok(Timeline(2)));
    assert_eq!(to(&archive, 70, None), Ok(Timeline(2)), "behind the end of the old one");
    let between = archive.choose("db", &Aim::Time(at(70)), None, false).unwrap();
    assert_eq!(archive.asides_of(&between, &Aim::Time(at(70))).len(), 1, "and what that lacks is named");
    let way = archive.choose("db", &Aim::Latest, None, false).unwrap();
    assert_eq!(way.reach.timeline, Timeline(2));
    let [aside] = archive.asides_of(&way, &Aim::Latest)[..] else { panic!() };
    assert_eq!((aside.timeline, aside.from, aside.to, aside.commits), (Timeline(1), at(32), at(60), 4));
    assert_eq!((aside.own, aside.settled), (Some(at(100)), false));
    assert!(
        archive.asides_of(&way, &Aim::Immediate).is_empty() && archive.asides_of(&way, &Aim::Time(at(31))).is_empty()
    );
}

#[test]
fn a_later_base_backup_settles_which_branch_is_meant() {
    let mut archive = forked(50, true);
    archive.bases.push(base(4, 1, 48));
    assert_eq!(to(&archive, 55, None), Ok(Timeline(1)), "the server that is backed up");
    let way = archive.choose("db", &Aim::Time(at(55)), None, false).unwrap();
    let [aside] = archive.asides(&way.reach)[..] else { panic!() };
    assert!((aside.timeline, aside.settled) == (Timeline(2), true), "the other goes on, and is named");
    assert!(matches!(to(&archive, 45, None), Err(NoWay::TwoBranches { .. })), "before it ended nothing is settled");
}

#[test]
fn where_the_fork_cannot_be_read_late_commits_alone_count() {
    let archive = forked(50, false);
    assert_eq!(to(&archive, 35, None), Ok(Timeline(2)), "it may lie before the fork");
    assert!(matches!(to(&archive, 45, None), Err(NoWay::TwoBranches { .. })));
}
