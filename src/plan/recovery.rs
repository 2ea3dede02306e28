//! To which moments a PostgreSQL cluster can be brought back: base backups, the WAL that is there, and the forks of its timelines, as
//! values.
//!
//! Invariants: a pending base backup serves nothing; what lies behind a gap is not in reach, and what is there in part is the end of
//! the log or it is a gap. Not here: where the facts come from, and which base backup serves a wish (`way`).

use std::collections::{BTreeMap, BTreeSet};

use crate::model::base::BaseBackup;
use crate::model::lsn::{Lsn, SegmentName, SegmentSize, Timeline};
use crate::model::{Moment, SnapshotId};

pub use super::branches::{Aside, Split};
pub use super::way::{Aim, Bound, NoWay, Target, Way, show};

/// A base backup that a catalog knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// Its snapshot.
    pub id: SnapshotId,
    /// What it says of itself.
    pub backup: BaseBackup,
    /// Whether nothing was skipped while its files were read.
    pub whole: bool,
}

/// Commits of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commits {
    /// The earliest.
    pub first: Moment,
    /// The latest.
    pub last: Moment,
    /// Where the last one's record ends.
    pub end: Lsn,
    /// How many.
    pub count: u64,
}

/// A segment that is there in part, because it still grew when that was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Growing {
    /// Its commits so far.
    pub commits: Option<Commits>,
    /// Where the log in it ends so far.
    pub end: Lsn,
}

/// A timeline that began on another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fork {
    /// The new timeline.
    pub timeline: Timeline,
    /// The one that it left.
    pub parent: Timeline,
    /// Where.
    pub at: Lsn,
}

/// A cluster's archive.
#[derive(Debug, Clone, Default)]
pub struct Archive {
    /// Base backups, in any order.
    pub bases: Vec<Base>,
    /// Segments that are there, with their commits where they have any.
    pub wal: BTreeMap<SegmentName, Option<Commits>>,
    /// Segments that are there in part.
    pub growing: BTreeMap<SegmentName, Growing>,
    /// Segments that were acknowledged and cannot be had any more: gone, or damaged.
    pub lost: BTreeSet<SegmentName>,
    /// Segments that a prune deleted because nothing needs them any more: their absence is no loss.
    pub pruned: BTreeSet<SegmentName>,
    /// What the history files say.
    pub forks: Vec<Fork>,
    /// Segments that hold a fork, by timeline and place of the fork, where they were read on both sides of it.
    pub splits: BTreeMap<(Timeline, Lsn), Split>,
}

/// How far a base backup and the WAL behind it lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// The base backup.
    pub base: SnapshotId,
    /// The timeline that is followed.
    pub timeline: Timeline,
    /// The first moment.
    pub from: Moment,
    /// The last commit; the first moment where there is none behind it.
    pub to: Moment,
    /// Where the last commit's record ends; the base backup's stop where there is none.
    pub end: Lsn,
    /// Commits behind the base backup's stop.
    pub commits: u64,
    /// Segments that a replay to the end reads.
    pub segments: u64,
    /// The first segment that is not there.
    pub missing: SegmentName,
    /// Whether it was there once, or segments behind it are or were: what comes after is out of reach from here.
    pub gap: bool,
    /// Where the log ends in that segment, if it is there in part and taken as far as it goes.
    pub grown: Option<Lsn>,
}

impl Archive {
    /// The timelines from the first to `target`, each with the place where it begins.
    pub(super) fn lineage(&self, target: Timeline) -> Vec<(Timeline, Lsn)> {
        let mut chain = Vec::new();
        let mut at = target;
        // A history file names each ancestor once; a hostile one could name a circle.
        while chain.len() <= self.forks.len() {
            match self.forks.iter().find(|fork| fork.timeline == at && fork.parent < at) {
                Some(fork) => {
                    chain.push((at, fork.at));
                    at = fork.parent;
                }
                None => break,
            }
        }
        chain.push((at, Lsn(0)));
        chain.reverse();
        chain
    }

    /// Whether a base backup lies on the way to a timeline: it ended before that way left its own timeline.
    pub(super) fn leads(&self, base: &BaseBackup, target: Timeline) -> bool {
        let chain = self.lineage(target);
        let Some(own) = chain.iter().position(|(timeline, _)| *timeline == base.timeline) else { return false };
        chain.get(own + 1).is_none_or(|(_, left)| base.stop <= *left)
    }

    /// The newest timeline to which a base backup leads.
    pub(super) fn newest_from(&self, base: &BaseBackup) -> Timeline {
        let all = self.forks.iter().map(|fork| fork.timeline).filter(|timeline| self.leads(base, *timeline));
        all.chain([base.timeline]).max().unwrap_or(base.timeline)
    }

    /// The first segment between start and stop that is not there: the backup is pending.
    pub fn pending(&self, base: &BaseBackup) -> Option<SegmentName> {
        let (first, last) = base.needs();
        let mut at = Some(first);
        std::iter::from_fn(|| {
            let now = at.filter(|now| *now <= last)?;
            at = now.next(base.segment_size);
            Some(now)
        })
        .find(|segment| !self.wal.contains_key(segment))
    }

    /// How far a complete base backup leads on the way to a timeline. `None` where it is pending or does not lead there.
    pub fn reach(&self, base: &Base, target: Timeline) -> Option<Reach> {
        let backup = &base.backup;
        if !base.whole || !self.leads(backup, target) || self.pending(backup).is_some() {
            return None;
        }
        let (chain, size) = (self.lineage(target), backup.segment_size);
        let on = |start: Lsn| segment_on(&chain, start, size);
        let mut start = backup.needs().0.start(size);
        let mut reach = Reach {
            base: base.id,
            timeline: target,
            from: backup.stopped,
            to: backup.stopped,
            end: backup.stop,
            commits: 0,
            segments: 0,
            missing: on(start),
            gap: false,
            grown: None,
        };
        while let Some(commits) = self.wal.get(&on(start)) {
            reach.segments += 1;
            // A segment may begin before the backup's stop: what it has before that is in the base backup's own span.
            if let Some(commits) = commits.filter(|commits| commits.end > backup.stop) {
                (reach.to, reach.end) = (reach.to.max(commits.last), commits.end);
                reach.commits += commits.count;
            }
            start = start.plus(size.bytes());
        }
        reach.missing = on(start);
        // On the way itself: what an abandoned branch went on to write is no part of it.
        let mut all = self.wal.keys().chain(self.growing.keys()).chain(&self.lost);
        reach.gap = self.lost.contains(&reach.missing)
            || all.any(|there| there.start(size) > start && on(there.start(size)) == *there);
        // One that is there in part is the end of the log, or it is a gap: what it lacks is missing then.
        if let Some(growing) =
            self.growing.get(&reach.missing).filter(|growing| !reach.gap && growing.end > backup.stop)
        {
            reach.segments += 1;
            reach.grown = Some(growing.end);
            if let Some(commits) = growing.commits.filter(|commits| commits.end > backup.stop) {
                (reach.to, reach.end) = (reach.to.max(commits.last), commits.end);
                reach.commits += commits.count;
            }
        }
        Some(reach)
    }

    /// How far a base backup leads on the newest timeline that it leads to.
    pub fn choose_from(&self, base: &Base) -> Option<Reach> {
        self.reach(base, self.newest_from(&base.backup))
    }
}

/// The segment that begins at a place, on the newest timeline of a way that has begun by its end.
pub(super) fn segment_on(chain: &[(Timeline, Lsn)], start: Lsn, size: SegmentSize) -> SegmentName {
    let end = start.plus(size.bytes());
    let timeline = chain.iter().rev().find(|(_, begins)| *begins < end).map_or(Timeline(1), |(timeline, _)| *timeline);
    SegmentName::holding(timeline, start, size)
}

#[cfg(test)]
#[path = "recovery_tests.rs"]
mod tests;
