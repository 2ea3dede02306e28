//! Tests of `cluster`: which of a source's clusters is meant, and commits that cross borders.

use super::*;
use crate::format::fixtures;
use crate::model::lsn::{Lsn, SegmentSize, SystemId};
use crate::model::{SnapshotId, Timeline};

fn base(writer: &str, major: u32, second: u64) -> (String, Base) {
    let backup = BaseBackup {
        system_id: SystemId(7),
        server_version: major * 10_000,
        timeline: Timeline(1),
        start: Lsn(40),
        stop: Lsn(4000),
        stopped: Moment::from_timestamp(second as i64, 0).unwrap(),
        segment_size: SegmentSize::DEFAULT,
        stream: format!("db-7-{major}"),
        checksums: true,
        tablespaces: Vec::new(),
        tablespaces_made: Vec::new(),
        bad_pages: Default::default(),
        settings: BTreeMap::new(),
        environment: BTreeMap::new(),
    };
    (writer.to_owned(), Base { id: SnapshotId::new(second * 1000, [0; 10]), backup, whole: true })
}

#[test]
fn what_a_source_was_before_it_moved_to_another_version_can_still_be_had() {
    let bases = [base("a", 15, 10), base("a", 15, 20), base("a", 16, 30), base("a", 16, 40)];
    let major = |which: Which<'_>| chosen(&bases, which).map(|(_, base)| base.backup.major());
    let at = |second| Which::At(Moment::from_timestamp(second, 0).unwrap());
    assert_eq!(major(Which::Newest), Some(16));
    assert_eq!((major(at(29)), major(at(30)), major(at(20))), (Some(15), Some(16), Some(15)));
    assert_eq!(major(at(1)), Some(16), "too early: the newest says so");
    let id = bases[1].1.id.to_string();
    assert_eq!(major(Which::Of(&id)), Some(15));
    assert_eq!(major(Which::Of("latest")), Some(16));
    let others = others(&bases, "a", "db-7-16");
    let time = |second| Moment::from_timestamp(second, 0).unwrap();
    assert_eq!((others.len(), others[0].bases, others[0].first, others[0].last), (1, 2, time(10), time(20)));
}

#[test]
fn a_commit_whose_record_crosses_into_a_new_timeline_is_found() {
    let names = fixtures::text(18, "segments");
    let segment = |role: &str, timeline: u32| {
        let line = names.lines().find_map(|line| line.strip_prefix(&format!("{role} "))).unwrap();
        let name = SegmentName { timeline: Timeline(timeline), ..line.parse().unwrap() };
        (name, Some(scan(&fixtures::unpacked(18, &format!("wal.{role}")), name).unwrap()))
    };
    let (first, second, forked) = (segment("first", 1), segment("second", 1), segment("second", 2));
    let (old, new) = (second.0, forked.0);
    let alone = forked.1.as_ref().unwrap().commits;
    let facts = BTreeMap::from([first, second, forked]);
    let fork = Fork { timeline: Timeline(2), parent: Timeline(1), at: Lsn(u64::MAX) };
    let count = |forks: &[Fork], name| commits(&facts, forks)[&name].unwrap().count;
    assert_eq!((count(&[], old), count(&[], new)), (alone + 1, alone), "what it goes on from is not known");
    assert_eq!(count(&[fork], new), alone + 1);
}
