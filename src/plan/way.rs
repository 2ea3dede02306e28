//! Which base backup and which target lead to what was asked for.
//!
//! Invariants: a moment behind a gap is refused, never served by what lies before it; a server gets a target only if something behind it is
//! known, because one that it does not come to is fatal; without one it gets no more of the log than was asked for. Not
//! here: how far each base backup leads (`recovery`).

use super::recovery::{Archive, Aside, Base, Reach, segment_on};
use crate::model::lsn::{Lsn, SegmentName, SegmentSize, Timeline};
use crate::model::{Moment, SnapshotId};

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
    /// How much of the log the server may be given, where that is less than all that will ever be there.
    pub bound: Option<Bound>,
}

/// An end that is put to the log for a restore. A server without a target replays whatever it is given, also what was archived after the
/// restore was planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// The first segment that it is not given.
    pub ends_at: SegmentName,
    /// The place up to which it is given the last one, where that is not its end.
    pub cut: Option<Lsn>,
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
    /// The one that was named lacks a segment of its own.
    #[error("base backup {base} of `{name}` waits for segment {missing}{}", newest.map_or(String::new(), |id| format!("; the newest complete one is {id}")))]
    ThisPending {
        /// The source.
        name: String,
        /// It.
        base: SnapshotId,
        /// The first segment that it lacks.
        missing: SegmentName,
        /// The newest one that is complete.
        newest: Option<SnapshotId>,
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
    /// Two branches of the log have that moment, and differ there.
    #[error(
        "two servers archived `{name}` at {asked}: timeline {chosen} and timeline {other} parted at {parting}, and {other} has {commits} \
         commits of its own from {from} to {to}"
    )]
    TwoBranches {
        /// The source.
        name: String,
        /// What was asked for.
        asked: String,
        /// The timeline that would be followed.
        chosen: Timeline,
        /// The other one.
        other: Timeline,
        /// Where they parted.
        parting: Lsn,
        /// Commits that the other one has and the chosen one lacks.
        commits: u64,
        /// The first of them.
        from: String,
        /// The last of them.
        to: String,
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
    /// The same as [`Archive::choose`], but from an older base backup where the chosen one holds damaged pages and the older one, without
    /// any, leads as far.
    pub fn choose_undamaged(
        &self,
        name: &str,
        aim: &Aim,
        timeline: Option<Timeline>,
        exact: bool,
    ) -> Result<Way, NoWay> {
        let way = self.choose(name, aim, timeline, exact)?;
        let is_damaged = |base: &Base| !base.backup.bad_pages.is_none();
        if !self.bases.iter().any(|base| base.id == way.reach.base && is_damaged(base)) {
            return Ok(way);
        }
        let mut undamaged = self.clone();
        undamaged.bases.retain(|base| !is_damaged(base));
        let as_far = |other: &Way| (other.reach.timeline, other.reach.to) == (way.reach.timeline, way.reach.to);
        Ok(undamaged.choose(name, aim, timeline, exact).ok().filter(as_far).unwrap_or(way))
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
            Aim::Latest => Ok(to_end(&farthest(&ways).1)),
            Aim::Time(asked) => {
                let way = self.to_time(name, &ways, *asked, exact)?;
                match self.ambiguous(&way.reach, *asked).filter(|_| timeline.is_none()) {
                    Some(aside) => Err(two_branches(name, *asked, &way.reach, &aside)),
                    None => Ok(way),
                }
            }
            Aim::Lsn(lsn) => {
                let before: Vec<&(&Base, Reach)> = ways.iter().filter(|(base, _)| base.backup.stop <= *lsn).collect();
                let covers = before.iter().rev().find(|(_, reach)| *lsn <= reach.end);
                let (_, reach) =
                    covers.or(before.last()).copied().ok_or_else(|| too_early(name, lsn.to_string(), &ways[0].1))?;
                if *lsn > reach.end && reach.gap {
                    return Err(gap(name, lsn.to_string(), &ways, reach));
                }
                let target = Target::Setting("recovery_target_lsn", lsn.to_string());
                let bound = bound_of_gap(reach);
                Ok(Way { reach: reach.clone(), target, shows: None, proof: reach.end.min(*lsn), bound })
            }
            Aim::Xid(_) | Aim::Name(_) | Aim::Immediate => {
                let (base, reach) = match aim {
                    Aim::Immediate => &ways[ways.len() - 1],
                    _ => farthest(&ways),
                };
                let target = match aim {
                    Aim::Xid(xid) => Target::Setting("recovery_target_xid", xid.clone()),
                    Aim::Name(point) => Target::Setting("recovery_target_name", point.clone()),
                    _ => Target::Setting("recovery_target", "immediate".to_owned()),
                };
                let bound = bound_of_gap(reach);
                Ok(Way { reach: reach.clone(), target, shows: None, proof: base.backup.stop, bound })
            }
        }
    }

    fn to_time(&self, name: &str, ways: &[(&Base, Reach)], asked: Moment, exact: bool) -> Result<Way, NoWay> {
        let before: Vec<(&Base, Reach)> =
            ways.iter().filter(|(base, _)| base.backup.stopped <= asked).cloned().collect();
        // The newest whose way goes on behind that moment; where the branch that it lies on was left before, another one does.
        let covers = before.iter().rev().find(|(_, reach)| asked < reach.to);
        let (base, reach) = match (covers, before.is_empty()) {
            (Some(covers), _) => covers,
            (None, false) => farthest(&before),
            (None, true) => return Err(too_early(name, show(asked), &ways[0].1)),
        };
        if asked >= reach.to {
            // Nothing is known behind the last commit: where the log goes on after a gap, something is missing.
            if reach.gap && asked > reach.to {
                return Err(gap(name, show(asked), ways, reach));
            }
            if exact && asked > reach.to {
                let (asked, last) = (show(asked), show(reach.to));
                return Err(NoWay::Beyond { name: name.to_owned(), asked, last });
            }
            // A target at or past the last commit would be fatal: the server waits for a later commit, and none comes. So it is given
            // what is there now, and nothing that the original archives from now on: that may be later than what was asked for.
            return Ok(Way { bound: bound(reach, base.backup.segment_size), ..to_end(reach) });
        }
        let time = asked.format("%Y-%m-%d %H:%M:%S%.6f+00").to_string();
        let target = Target::Setting("recovery_target_time", time);
        let (proof, bound) = (self.end_before(reach, asked), bound_of_gap(reach));
        Ok(Way { reach: reach.clone(), target, shows: Some(asked), proof, bound })
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

/// The way that leads to the latest commit; of several, that of the newest timeline and base backup. A base backup of a branch that was
/// left, or a branch on which nothing ever happened, is not the newest state because it was made last.
fn farthest<'w, 'b>(ways: &'w [(&'b Base, Reach)]) -> &'w (&'b Base, Reach) {
    let key = |(base, reach): &&(&Base, Reach)| (reach.to, reach.timeline, base.backup.stopped, base.id);
    ways.iter().max_by_key(key).unwrap_or(&ways[0])
}

/// All that is there, to the end of the log or to the gap in it.
fn to_end(reach: &Reach) -> Way {
    Way {
        reach: reach.clone(),
        target: Target::End,
        shows: Some(reach.to),
        proof: reach.end,
        bound: bound_of_gap(reach),
    }
}

/// A server reads ahead of its target: at a gap it is told that the log ends, lest it stops there.
fn bound_of_gap(reach: &Reach) -> Option<Bound> {
    reach.gap.then_some(Bound { ends_at: reach.missing, cut: None })
}

/// All that is known now.
fn bound(reach: &Reach, size: SegmentSize) -> Option<Bound> {
    match reach.grown {
        Some(_) => reach.missing.next(size).map(|next| Bound { ends_at: next, cut: reach.grown }),
        None => Some(Bound { ends_at: reach.missing, cut: None }),
    }
}

fn two_branches(name: &str, asked: Moment, reach: &Reach, aside: &Aside) -> NoWay {
    NoWay::TwoBranches {
        name: name.to_owned(),
        asked: show(asked),
        chosen: reach.timeline,
        other: aside.timeline,
        parting: aside.parting,
        commits: aside.commits,
        from: show(aside.from),
        to: show(aside.to),
    }
}

fn too_early(name: &str, asked: String, first: &Reach) -> NoWay {
    NoWay::TooEarly { name: name.to_owned(), asked, first: show(first.from) }
}

fn gap(name: &str, asked: String, ways: &[(&Base, Reach)], reach: &Reach) -> NoWay {
    let after = ways.iter().find(|(_, other)| other.from > reach.to).map(|(_, other)| show(other.from));
    NoWay::Gap { name: name.to_owned(), asked, missing: reach.missing, before: show(reach.to), after }
}
