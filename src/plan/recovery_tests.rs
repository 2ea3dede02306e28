//! Tests of `recovery`: chosen base backups, targets, gaps and forks.

use std::collections::BTreeMap;

use chrono::{TimeZone, Utc};

use super::*;
use crate::model::lsn::SystemId;

const SIZE: SegmentSize = SegmentSize::DEFAULT;
const SEGMENT: u64 = 16 << 20;

fn at(second: i64) -> Moment {
    Utc.timestamp_opt(1_700_000_000 + second, 0).unwrap()
}

fn name(timeline: u32, number: u64) -> SegmentName {
    SegmentName::holding(Timeline(timeline), Lsn(number * SEGMENT), SIZE)
}

/// A base backup that starts and stops within segment `number`, and stopped at a second.
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
        bad_pages: crate::model::base::BadPages::default(),
        tablespaces_made: Vec::new(),
        settings: BTreeMap::new(),
        environment: BTreeMap::new(),
    };
    Base { id: SnapshotId::new(stopped as u64 * 1000, [number as u8; 10]), backup, whole: true }
}

/// Each segment with one commit at ten times its number, near its end.
fn commit(number: u64) -> Option<Commits> {
    let time = at(number as i64 * 10);
    Some(Commits { first: time, last: time, end: Lsn(number * SEGMENT + SEGMENT - 100), count: 1 })
}

fn archive(bases: Vec<Base>, numbers: &[u64]) -> Archive {
    let wal = numbers.iter().map(|n| (name(1, *n), commit(*n))).collect();
    Archive { bases, wal, ..Archive::default() }
}

fn shows(archive: &Archive, aim: Aim) -> Result<(Target, Option<Moment>), NoWay> {
    archive.choose("db", &aim, None, false).map(|way| (way.target, way.shows))
}

#[test]
fn latest_and_times_at_or_past_the_last_commit_have_no_target() {
    let archive = archive(vec![base(2, 1, 15)], &[2, 3, 4]);
    for aim in [Aim::Latest, Aim::Time(at(40)), Aim::Time(at(9999))] {
        assert_eq!(shows(&archive, aim), Ok((Target::End, Some(at(40)))));
    }
    let way = archive.choose("db", &Aim::Latest, None, false).unwrap();
    assert_eq!((way.proof, way.reach.segments, way.reach.missing), (Lsn(5 * SEGMENT - 100), 3, name(1, 5)));
    let beyond = archive.choose("db", &Aim::Time(at(41)), None, true);
    assert!(matches!(beyond, Err(NoWay::Beyond { .. })), "--exact refuses what is not known");
}

#[test]
fn a_time_before_the_last_commit_is_a_target_with_its_zone() {
    let archive = archive(vec![base(2, 1, 15)], &[2, 3, 4]);
    let (target, moment) = shows(&archive, Aim::Time(at(35))).unwrap();
    assert_eq!(target, Target::Setting("recovery_target_time", "2023-11-14 22:13:55.000000+00".into()));
    assert_eq!(moment, Some(at(35)));
    let way = archive.choose("db", &Aim::Time(at(35)), None, false).unwrap();
    assert_eq!(way.proof, Lsn(4 * SEGMENT - 100), "segment 3 is replayed whole");
}

#[test]
fn the_newest_base_backup_that_ended_before_is_taken() {
    let archive = archive(vec![base(2, 1, 15), base(4, 1, 36)], &[2, 3, 4, 5]);
    let taken = |second| archive.choose("db", &Aim::Time(at(second)), None, false).unwrap().reach.base;
    assert_eq!(taken(35), archive.bases[0].id);
    assert_eq!(taken(36), archive.bases[1].id);
    assert!(matches!(shows(&archive, Aim::Time(at(14))), Err(NoWay::TooEarly { .. })));
}

#[test]
fn a_pending_or_incomplete_base_backup_serves_nothing() {
    let mut spans = base(4, 1, 36);
    spans.backup.stop = Lsn(5 * SEGMENT + 4000);
    let archive = archive(vec![base(2, 1, 15), spans.clone()], &[2, 3, 4]);
    assert_eq!(archive.pending(&spans.backup), Some(name(1, 5)));
    let way = archive.choose("db", &Aim::Latest, None, false).unwrap();
    assert_eq!(way.reach.base, archive.bases[0].id);
    let alone = Archive { bases: vec![spans], ..archive.clone() };
    assert!(matches!(shows(&alone, Aim::Latest), Err(NoWay::Pending { .. })));
    let mut torn = base(2, 1, 15);
    torn.whole = false;
    let alone = Archive { bases: vec![torn], ..archive };
    assert!(matches!(shows(&alone, Aim::Latest), Err(NoWay::NoBase(_))));
}

#[test]
fn behind_a_gap_nothing_is_promised() {
    let archive = archive(vec![base(2, 1, 15), base(6, 1, 55)], &[2, 3, 6, 7]);
    assert_eq!(shows(&archive, Aim::Time(at(25))).unwrap().1, Some(at(25)));
    let (target, moment) = shows(&archive, Aim::Time(at(30))).unwrap();
    assert_eq!(moment, Some(at(30)));
    assert_eq!(target, Target::End, "a target behind the last record before the gap would never be reached");
    let way = archive.choose("db", &Aim::Time(at(30)), None, false).unwrap();
    assert_eq!(way.bound, Some(Bound { ends_at: name(1, 4), cut: None }), "the server must not run into the gap");
    assert_eq!(archive.choose("db", &Aim::Time(at(25)), None, false).unwrap().bound, way.bound, "it reads ahead");
    match shows(&archive, Aim::Time(at(45))) {
        Err(NoWay::Gap { missing, before, after, .. }) => {
            assert_eq!((missing, before, after), (name(1, 4), show(at(30)), Some(show(at(55)))));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(shows(&archive, Aim::Time(at(65))).unwrap().1, Some(at(65)));
    assert!(matches!(shows(&archive, Aim::Lsn(Lsn(5 * SEGMENT))), Err(NoWay::Gap { .. })));
}

#[test]
fn a_fork_is_followed_from_the_segment_where_it_begins() {
    let mut archive = archive(vec![base(2, 1, 15)], &[2, 3, 4, 5]);
    archive.forks = vec![Fork { timeline: Timeline(2), parent: Timeline(1), at: Lsn(4 * SEGMENT + 500) }];
    archive.wal.extend([(name(2, 4), commit(4)), (name(2, 5), commit(5)), (name(2, 6), commit(6))]);
    let way = archive.choose("db", &Aim::Latest, None, false).unwrap();
    assert_eq!((way.reach.timeline, way.reach.to, way.reach.segments), (Timeline(2), at(60), 5));
    let old = archive.choose("db", &Aim::Latest, Some(Timeline(1)), false).unwrap();
    assert_eq!(
        (old.reach.timeline, old.reach.to),
        (Timeline(1), at(50)),
        "the branch that was left, if it is asked for"
    );
    let late = base(5, 1, 45);
    assert!(!archive.leads(&late.backup, Timeline(2)), "it ended behind the fork");
    assert!(matches!(
        archive.choose("db", &Aim::Latest, Some(Timeline(9)), false),
        Err(NoWay::NoTimeline(_, Timeline(9)))
    ));
}

#[test]
fn a_circle_of_histories_ends() {
    let mut archive = archive(vec![base(2, 1, 15)], &[2]);
    let fork = |timeline, parent| Fork { timeline: Timeline(timeline), parent: Timeline(parent), at: Lsn(1) };
    archive.forks = vec![fork(2, 3), fork(3, 2), fork(1, 1)];
    assert!(shows(&archive, Aim::Latest).is_ok());
}

#[test]
fn a_segment_that_still_grows_is_the_end_of_the_log_and_never_a_bridge() {
    let grown = |number: u64| Growing { commits: commit(number), end: Lsn(number * SEGMENT + SEGMENT - 64) };
    let mut archive = archive(vec![base(2, 1, 15)], &[2, 3]);
    archive.growing.insert(name(1, 4), grown(4));
    assert_eq!(shows(&archive, Aim::Latest), Ok((Target::End, Some(at(40)))));
    let (target, shown) = shows(&archive, Aim::Time(at(35))).unwrap();
    assert!(matches!(target, Target::Setting("recovery_target_time", _)) && shown == Some(at(35)));
    // Something behind it: what the segment lacks is missing.
    archive.wal.insert(name(1, 5), commit(5));
    let reach = archive.choose_from(&archive.bases[0]).unwrap();
    assert!(reach.gap && reach.missing == name(1, 4) && reach.to == at(30), "{reach:?}");
    assert!(matches!(shows(&archive, Aim::Time(at(45))), Err(NoWay::Gap { .. })));
    // A base backup needs whole segments.
    archive.wal.remove(&name(1, 2));
    archive.growing.insert(name(1, 2), grown(2));
    assert!(matches!(shows(&archive, Aim::Latest), Err(NoWay::Pending { .. })));
}

#[test]
fn a_server_without_a_target_gets_no_more_of_the_log_than_was_there_when_a_moment_was_asked_for() {
    let mut archive = archive(vec![base(2, 1, 15)], &[2, 3]);
    let bound = |archive: &Archive, aim| archive.choose("db", &aim, None, false).unwrap().bound;
    assert_eq!(bound(&archive, Aim::Time(at(9999))), Some(Bound { ends_at: name(1, 4), cut: None }));
    assert_eq!(bound(&archive, Aim::Time(at(25))), None, "its target is before that");
    assert_eq!(bound(&archive, Aim::Latest), None, "everything is everything");
    // The segment may be there whole, with later commits, when the server asks for it.
    let end = Lsn(4 * SEGMENT + 5000);
    let commits = Commits { first: at(40), last: at(40), end, count: 1 };
    archive.growing.insert(name(1, 4), Growing { commits: Some(commits), end });
    assert_eq!(bound(&archive, Aim::Time(at(40))), Some(Bound { ends_at: name(1, 5), cut: Some(end) }));
}

#[test]
fn a_base_backup_of_a_branch_that_was_left_is_not_the_newest_state() {
    // Taken behind the place to which the cluster was brought back later.
    let mut archive = archive(vec![base(2, 1, 15), base(5, 1, 45)], &[2, 3, 4, 5, 6]);
    archive.forks = vec![Fork { timeline: Timeline(2), parent: Timeline(1), at: Lsn(4 * SEGMENT + 500) }];
    let late = |second| Some(Commits { first: at(second), last: at(second), end: Lsn(9 * SEGMENT - 100), count: 1 });
    archive.wal.extend([(name(2, 4), None), (name(2, 5), None), (name(2, 8), late(900))]);
    let way = |archive: &Archive, aim| archive.choose("db", &aim, None, false).unwrap();
    assert_eq!(way(&archive, Aim::Latest).reach.timeline, Timeline(1), "nothing of the new one is in reach yet");
    archive.wal.extend([(name(2, 6), None), (name(2, 7), None)]);
    for aim in [Aim::Latest, Aim::Time(at(950)), Aim::Time(at(800)), Aim::Xid("7".into())] {
        let way = way(&archive, aim.clone());
        assert_eq!((way.reach.timeline, way.reach.base), (Timeline(2), archive.bases[0].id), "{aim:?}");
    }
    let then = way(&archive, Aim::Time(at(50)));
    assert_eq!((then.reach.timeline, then.reach.base), (Timeline(1), archive.bases[1].id), "so it was at that time");
}

#[test]
fn what_was_acknowledged_and_is_gone_is_a_gap_also_at_the_end() {
    let mut archive = archive(vec![base(2, 1, 15)], &[2, 3]);
    archive.lost.insert(name(1, 4));
    let reach = archive.choose_from(&archive.bases[0]).unwrap();
    assert!(reach.gap && reach.missing == name(1, 4), "{reach:?}");
    assert!(matches!(shows(&archive, Aim::Time(at(35))), Err(NoWay::Gap { .. })));
    let way = archive.choose("db", &Aim::Latest, None, false).unwrap();
    assert_eq!((way.target, way.bound), (Target::End, Some(Bound { ends_at: name(1, 4), cut: None })));
    // What there was of it in pieces is not the end of the log: more of it was acknowledged.
    archive.growing.insert(name(1, 4), Growing { commits: commit(4), end: Lsn(5 * SEGMENT - 64) });
    assert_eq!(archive.choose_from(&archive.bases[0]).unwrap().to, at(30));
    archive.lost.clear();
    archive.lost.insert(name(1, 9));
    assert!(archive.choose_from(&archive.bases[0]).unwrap().gap, "behind what is there");
}
