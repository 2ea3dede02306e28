//! To which moments a PostgreSQL cluster can be brought back, and how: base backups, the WAL that is there, and the forks of
//! its timelines, as values.
//!
//! Invariants: a pending base backup serves nothing; a moment behind a gap is refused, never served by what lies before it. Not
//! here: where the facts come from, and the restore itself.

use std::collections::BTreeMap;

use crate::model::base::BaseBackup;
use crate::model::lsn::{Lsn, SegmentName, SegmentSize, Timeline};
use crate::model::{Moment, SnapshotId};

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
    /// What the history files say.
    pub forks: Vec<Fork>,
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
    /// Whether segments behind that one are there: what comes after is out of reach from here.
    pub gap: bool,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Aim {
    /// Everything that is there.
    Latest,
    /// The state at a time: all commits up to it, none after it.
    Time(Moment),
    /// Up to a place in the log.
    Lsn(Lsn),
    /// A transaction, by its number.
    Xid(String),
    /// A restore point, by its name.
    Name(String),
    /// As soon as the cluster is consistent.
    Immediate,
}

/// What the server is told to stop at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Nothing: it replays all there is, and the end is proven afterwards.
    End,
    /// A setting `recovery_target_...` and its value.
    Setting(&'static str, String),
}

/// A way to what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// The base backup and what can be reached from it.
    pub reach: Reach,
    /// What the server is told.
    pub target: Target,
    /// The moment that the cluster will show: that of the last commit at or before what was asked for, where it is known.
    pub shows: Option<Moment>,
    /// Where replay must have come to at least.
    pub proof: Lsn,
}

/// Why nothing leads there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoWay {
    /// There is no base backup.
    #[error("there is no complete base backup of `{0}`")]
    NoBase(String),
    /// None of them has all the WAL between its start and its stop.
    #[error("no base backup of `{name}` is complete: the newest waits for segment {missing}")]
    Pending {
        /// The source.
        name: String,
        /// The first segment that the newest one lacks.
        missing: SegmentName,
    },
    /// All of them ended later.
    #[error("nothing restores `{name}` to {asked}: its first complete base backup ended at {first}")]
    TooEarly {
        /// The source.
        name: String,
        /// What was asked for.
        asked: String,
        /// The first moment that can be had.
        first: String,
    },
    /// A segment between is missing.
    #[error("nothing restores `{name}` to {asked}: segment {missing} is missing; before the gap {before} can be had{}", after.as_deref().map_or(String::new(), |after| format!(", after it {after}")))]
    Gap {
        /// The source.
        name: String,
        /// What was asked for.
        asked: String,
        /// The first segment that is missing.
        missing: SegmentName,
        /// The last moment before the gap.
        before: String,
        /// The first moment after it.
        after: Option<String>,
    },
    /// `--exact`, and nothing is known at or after that time.
    #[error("`{name}` is known up to {last} only, and {asked} was asked for")]
    Beyond {
        /// The source.
        name: String,
        /// What was asked for.
        asked: String,
        /// The last commit.
        last: String,
    },
    /// The timeline is not in the archive, or does not lead from any base backup.
    #[error("no base backup of `{0}` lies on the way to timeline {1}")]
    NoTimeline(String, Timeline),
}

/// Times in messages: to the microsecond, as PostgreSQL counts.
pub fn show(moment: Moment) -> String {
    moment.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

impl Archive {
    /// The timelines from the first to `target`, each with the place where it begins.
    fn lineage(&self, target: Timeline) -> Vec<(Timeline, Lsn)> {
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
    fn newest_from(&self, base: &BaseBackup) -> Timeline {
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
        let mut all = self.wal.keys().chain(self.growing.keys());
        reach.gap = all.any(|there| there.start(size) > start && on(there.start(size)) == *there);
        // One that is there in part is the end of the log, or it is a gap: what it lacks is missing then.
        if let Some(growing) =
            self.growing.get(&reach.missing).filter(|growing| !reach.gap && growing.end > backup.stop)
        {
            reach.segments += 1;
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

    /// Chooses a base backup and a target. `timeline` is the one that was asked for, if one was.
    pub fn choose(&self, name: &str, aim: &Aim, timeline: Option<Timeline>, exact: bool) -> Result<Way, NoWay> {
        let mut bases: Vec<&Base> = self.bases.iter().filter(|base| base.whole).collect();
        bases.sort_by_key(|base| (base.backup.stopped, base.id));
        let newest = bases.last().ok_or_else(|| NoWay::NoBase(name.to_owned()))?;
        let mut ways: Vec<(&Base, Reach)> = Vec::new();
        for base in &bases {
            let target = timeline.unwrap_or_else(|| self.newest_from(&base.backup));
            ways.extend(self.reach(base, target).map(|reach| (*base, reach)));
        }
        if ways.is_empty() {
            return Err(match (timeline, self.pending(&newest.backup)) {
                (_, Some(missing)) => NoWay::Pending { name: name.to_owned(), missing },
                (Some(timeline), None) => NoWay::NoTimeline(name.to_owned(), timeline),
                (None, None) => NoWay::NoBase(name.to_owned()),
            });
        }
        match aim {
            Aim::Latest => Ok(to_end(&ways[ways.len() - 1].1)),
            Aim::Time(asked) => self.to_time(name, &ways, *asked, exact),
            Aim::Lsn(lsn) => {
                let before = ways.iter().rev().find(|(base, _)| base.backup.stop <= *lsn);
                let (_, reach) = before.ok_or_else(|| too_early(name, lsn.to_string(), &ways[0].1))?;
                if *lsn > reach.end && reach.gap {
                    return Err(gap(name, lsn.to_string(), &ways, reach));
                }
                let target = Target::Setting("recovery_target_lsn", lsn.to_string());
                Ok(Way { reach: reach.clone(), target, shows: None, proof: reach.end.min(*lsn) })
            }
            Aim::Xid(_) | Aim::Name(_) | Aim::Immediate => {
                let (base, reach) = &ways[ways.len() - 1];
                let target = match aim {
                    Aim::Xid(xid) => Target::Setting("recovery_target_xid", xid.clone()),
                    Aim::Name(point) => Target::Setting("recovery_target_name", point.clone()),
                    _ => Target::Setting("recovery_target", "immediate".to_owned()),
                };
                Ok(Way { reach: reach.clone(), target, shows: None, proof: base.backup.stop })
            }
        }
    }

    fn to_time(&self, name: &str, ways: &[(&Base, Reach)], asked: Moment, exact: bool) -> Result<Way, NoWay> {
        let before = ways.iter().rev().find(|(base, _)| base.backup.stopped <= asked);
        let (_, reach) = before.ok_or_else(|| too_early(name, show(asked), &ways[0].1))?;
        if asked >= reach.to {
            // Nothing is known behind the last commit: where the log goes on after a gap, something is missing.
            if reach.gap && asked > reach.to {
                return Err(gap(name, show(asked), ways, reach));
            }
            if exact && asked > reach.to {
                let (asked, last) = (show(asked), show(reach.to));
                return Err(NoWay::Beyond { name: name.to_owned(), asked, last });
            }
            // A target at or past the last commit would be fatal: the server waits for a later commit, and none comes.
            if !reach.gap {
                return Ok(to_end(reach));
            }
            let target = Target::Setting("recovery_target_lsn", reach.end.to_string());
            return Ok(Way { reach: reach.clone(), target, shows: Some(reach.to), proof: reach.end });
        }
        let time = asked.format("%Y-%m-%d %H:%M:%S%.6f+00").to_string();
        let target = Target::Setting("recovery_target_time", time);
        Ok(Way { reach: reach.clone(), target, shows: Some(asked), proof: self.end_before(reach, asked) })
    }

    /// Where replay has come to at least when it has reached a time: behind the segments whose commits all lie before.
    fn end_before(&self, reach: &Reach, asked: Moment) -> Lsn {
        let Some(base) = self.bases.iter().find(|base| base.id == reach.base) else { return Lsn(0) };
        let (chain, size) = (self.lineage(reach.timeline), base.backup.segment_size);
        let (mut start, mut end) = (base.backup.needs().0.start(size), base.backup.stop);
        while let Some(commits) = self.wal.get(&segment_on(&chain, start, size)) {
            match commits {
                Some(commits) if commits.last > asked => break,
                Some(commits) => end = end.max(commits.end),
                None => {}
            }
            start = start.plus(size.bytes());
        }
        end
    }
}

/// The segment that begins at a place, on the newest timeline of a way that has begun by its end.
fn segment_on(chain: &[(Timeline, Lsn)], start: Lsn, size: SegmentSize) -> SegmentName {
    let end = start.plus(size.bytes());
    let timeline = chain.iter().rev().find(|(_, begins)| *begins < end).map_or(Timeline(1), |(timeline, _)| *timeline);
    SegmentName::holding(timeline, start, size)
}

fn to_end(reach: &Reach) -> Way {
    let target = match reach.gap {
        // The server would stop at the gap as well; said so that it stops behind the last whole commit.
        true => Target::Setting("recovery_target_lsn", reach.end.to_string()),
        false => Target::End,
    };
    Way { reach: reach.clone(), target, shows: Some(reach.to), proof: reach.end }
}

fn too_early(name: &str, asked: String, first: &Reach) -> NoWay {
    NoWay::TooEarly { name: name.to_owned(), asked, first: show(first.from) }
}

fn gap(name: &str, asked: String, ways: &[(&Base, Reach)], reach: &Reach) -> NoWay {
    let after = ways.iter().find(|(_, other)| other.from > reach.to).map(|(_, other)| show(other.from));
    NoWay::Gap { name: name.to_owned(), asked, missing: reach.missing, before: show(reach.to), after }
}

#[cfg(test)]
#[path = "recovery_tests.rs"]
mod tests;
