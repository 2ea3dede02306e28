//! A cluster's recovery window over time: which spans can be restored, where the gaps are, where timelines forked. What is drawn and
//! what programs read.
//!
//! Invariants: a span is claimed only where a complete base backup and unbroken WAL reach; times of forks are those of the last
//! commit that is known before them. Not here: how it looks.

use serde::Serialize;

use super::recovery::{Archive, Base, Fork, Reach};
use crate::model::lsn::{Lsn, SegmentName, Timeline};
use crate::model::{Moment, SnapshotId};

/// A stretch of time of which any moment can be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Span {
    /// Its first moment.
    pub from: Moment,
    /// Its last commit.
    pub to: Moment,
}

/// A base backup on the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Mark {
    /// Its snapshot.
    pub snapshot: SnapshotId,
    /// When it ended.
    pub at: Moment,
    /// Whether it serves: whole, with its own WAL.
    pub complete: bool,
    /// Pages that were damaged when it was taken.
    pub damaged_pages: u64,
}

/// A hole in the WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// The first segment that is missing.
    pub missing: SegmentName,
    /// The last moment before it.
    pub after: Moment,
    /// The first moment behind it that can be restored; none where nothing behind it can.
    pub until: Option<Moment>,
}

/// A timeline that began on another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Branch {
    /// The new one.
    pub timeline: Timeline,
    /// The one that it left.
    pub parent: Timeline,
    /// Where.
    pub at: Lsn,
    /// The last commit before that, where one is known.
    pub time: Option<Moment>,
}

/// Everything that a recovery window has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Coverage {
    /// From the first moment to the last; none where nothing can be restored.
    pub window: Option<Span>,
    /// Stretches without a break, in order; they do not touch.
    pub spans: Vec<Span>,
    /// Base backups, oldest first.
    pub bases: Vec<Mark>,
    /// Holes, in order.
    pub gaps: Vec<Gap>,
    /// Forks, by timeline.
    pub forks: Vec<Branch>,
}

impl Coverage {
    /// Of an archive.
    pub fn of(archive: &Archive) -> Self {
        let mut bases: Vec<(&Base, Option<Reach>)> =
            archive.bases.iter().map(|base| (base, archive.choose_from(base))).collect();
        bases.sort_by_key(|(base, _)| (base.backup.stopped, base.id));
        let reaches: Vec<&Reach> = bases.iter().filter_map(|(_, reach)| reach.as_ref()).collect();
        let mut spans: Vec<Span> = Vec::new();
        // By their beginnings, because bases are.
        for reach in &reaches {
            match spans.last_mut().filter(|last| reach.from <= last.to) {
                Some(last) => last.to = last.to.max(reach.to),
                None => spans.push(Span { from: reach.from, to: reach.to }),
            }
        }
        let mut gaps: Vec<Gap> = Vec::new();
        for reach in reaches.iter().filter(|reach| reach.gap && !archive.pruned.contains(&reach.missing)) {
            let until = reaches.iter().map(|other| other.from).find(|from| *from > reach.to);
            match gaps.iter_mut().find(|gap| gap.missing == reach.missing) {
                Some(gap) => gap.after = gap.after.max(reach.to),
                None => gaps.push(Gap { missing: reach.missing, after: reach.to, until }),
            }
        }
        let mark = |(base, reach): &(&Base, Option<Reach>)| Mark {
            snapshot: base.id,
            at: base.backup.stopped,
            complete: reach.is_some(),
            damaged_pages: base.backup.bad_pages.count,
        };
        let window = spans.first().zip(spans.last()).map(|(first, last)| Span { from: first.from, to: last.to });
        let mut forks: Vec<Branch> = archive.forks.iter().map(|fork| branch(archive, fork)).collect();
        forks.sort_by_key(|fork| (fork.timeline.0, fork.parent.0));
        forks.dedup();
        Self { window, bases: bases.iter().map(mark).collect(), spans, gaps, forks }
    }
}

fn branch(archive: &Archive, fork: &Fork) -> Branch {
    let whole = archive.wal.iter().map(|(name, commits)| (name, *commits));
    let grown = archive.growing.iter().map(|(name, growing)| (name, growing.commits));
    let before = whole.chain(grown).filter(|(name, _)| name.timeline == fork.parent).filter_map(|(_, commits)| commits);
    let time = before.filter(|commits| commits.end <= fork.at).map(|commits| commits.last).max();
    let split = archive.splits.get(&(fork.parent, fork.at)).or_else(|| archive.splits.get(&(fork.timeline, fork.at)));
    let time = time.max(split.and_then(|split| split.before).map(|before| before.last));
    // A base backup may have ended behind the last of them.
    let stopped = archive.bases.iter().map(|base| &base.backup);
    let stopped = stopped.filter(|base| base.timeline == fork.parent && base.stop <= fork.at).map(|base| base.stopped);
    Branch { timeline: fork.timeline, parent: fork.parent, at: fork.at, time: time.into_iter().chain(stopped).max() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use chrono::{TimeZone, Utc};

    use super::*;
    use crate::model::base::BaseBackup;
    use crate::model::lsn::{SegmentSize, SystemId};
    use crate::plan::recovery::{Commits, Growing};

    const SEGMENT: u64 = 16 << 20;

    fn at(second: i64) -> Moment {
        Utc.timestamp_opt(1_700_000_000 + second, 0).unwrap()
    }

    fn name(timeline: u32, number: u64) -> SegmentName {
        SegmentName::holding(Timeline(timeline), Lsn(number * SEGMENT), SegmentSize::DEFAULT)
    }

    /// A base backup within a segment, ended five seconds behind ten times its number.
    fn base(number: u64) -> Base {
        let backup = BaseBackup {
            system_id: SystemId(7),
            server_version: 150_018,
            timeline: Timeline(1),
            start: Lsn(number * SEGMENT + 40),
            stop: Lsn(number * SEGMENT + 4000),
            stopped: at(number as i64 * 10 + 5),
            segment_size: SegmentSize::DEFAULT,
            stream: "db-7-15".into(),
            checksums: true,
            tablespaces: Vec::new(),
            tablespaces_made: Vec::new(),
            bad_pages: Default::default(),
            settings: BTreeMap::new(),
            environment: BTreeMap::new(),
        };
        Base { id: SnapshotId::new(number, [0; 10]), backup, whole: true }
    }

    /// Segments with one commit each, nine seconds behind ten times their numbers.
    fn wal(segments: &[(u32, u64)]) -> BTreeMap<SegmentName, Option<Commits>> {
        let commit = |number: u64| {
            let time = at(number as i64 * 10 + 9);
            Some(Commits { first: time, last: time, end: Lsn(number * SEGMENT + SEGMENT - 100), count: 1 })
        };
        segments.iter().map(|(timeline, number)| (name(*timeline, *number), commit(*number))).collect()
    }

    #[test]
    fn spans_end_at_gaps_and_begin_at_bases() {
        let segments = [(1, 2), (1, 3), (1, 4), (1, 6), (1, 7), (1, 8)];
        let archive =
            Archive { bases: vec![base(7), base(2), base(3), base(9)], wal: wal(&segments), ..Archive::default() };
        let coverage = Coverage::of(&archive);
        assert_eq!(coverage.spans, [Span { from: at(25), to: at(49) }, Span { from: at(75), to: at(89) }]);
        assert_eq!(coverage.window, Some(Span { from: at(25), to: at(89) }));
        assert_eq!(coverage.gaps, [Gap { missing: name(1, 5), after: at(49), until: Some(at(75)) }]);
        let marks: Vec<(Moment, bool)> = coverage.bases.iter().map(|mark| (mark.at, mark.complete)).collect();
        assert_eq!(marks, [(at(25), true), (at(35), true), (at(75), true), (at(95), false)]);
    }

    #[test]
    fn a_fork_has_the_time_of_the_last_commit_before_it() {
        let segments = [(1, 2), (1, 3), (1, 4), (2, 4), (2, 5)];
        let fork = Fork { timeline: Timeline(2), parent: Timeline(1), at: Lsn(4 * SEGMENT + 500) };
        let archive =
            Archive { bases: vec![base(2)], wal: wal(&segments), forks: vec![fork, fork], ..Archive::default() };
        let coverage = Coverage::of(&archive);
        assert_eq!(coverage.forks.len(), 1);
        assert_eq!(coverage.forks[0].time, Some(at(39)));
        assert_eq!(coverage.window, Some(Span { from: at(25), to: at(59) }));
    }

    #[test]
    fn a_segment_in_pieces_ends_a_span_and_times_a_fork() {
        let growing = |number: u64| {
            let time = at(number as i64 * 10 + 3);
            let end = Lsn(number * SEGMENT + 400);
            Growing { commits: Some(Commits { first: time, last: time, end, count: 1 }), end: Lsn(end.0 + 50) }
        };
        let mut archive = Archive { bases: vec![base(2)], wal: wal(&[(1, 2), (1, 3)]), ..Archive::default() };
        archive.growing.insert(name(1, 4), growing(4));
        assert_eq!(Coverage::of(&archive).spans, [Span { from: at(25), to: at(43) }]);
        archive.forks.push(Fork { timeline: Timeline(2), parent: Timeline(1), at: Lsn(4 * SEGMENT + 500) });
        assert_eq!(Coverage::of(&archive).forks[0].time, Some(at(43)), "the newest commit before it came in a piece");
        // The whole never came, and the log went on: that is a hole, whatever is there of it.
        let mut archive = Archive { bases: vec![base(2)], wal: wal(&[(1, 2), (1, 3), (1, 5)]), ..Archive::default() };
        archive.growing.insert(name(1, 4), growing(4));
        let coverage = Coverage::of(&archive);
        assert_eq!(coverage.gaps, [Gap { missing: name(1, 4), after: at(39), until: None }]);
        assert_eq!(coverage.spans, [Span { from: at(25), to: at(39) }]);
    }

    #[test]
    fn where_nothing_can_be_restored_there_is_no_window() {
        let archive = Archive { bases: vec![base(2)], ..Archive::default() };
        let coverage = Coverage::of(&archive);
        assert_eq!((coverage.window, coverage.spans.len(), coverage.bases.len()), (None, 0, 1));
        assert_eq!(Coverage::of(&Archive::default()), Coverage::default());
    }
}
