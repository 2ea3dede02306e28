//! Timelines beside the one that a restore follows: two servers archived one cluster, after a failover or because a test beside the
//! original was started with its archiving on. What the chosen way lacks is named, and a moment that lies on both is not guessed.
//!
//! Invariants: commits count by their place in the log, those before the parting on neither side; where a segment that holds the
//! parting could not be read, its commits are taken for late, so that nothing is refused on a guess. A base backup that was taken
//! on the chosen branch, behind the parting, settles which one is meant. Not here: which way is chosen (`way`).

use std::collections::BTreeSet;

use serde::Serialize;

use super::recovery::{Aim, Archive, Commits, Reach, segment_on};
use super::way::Way;
use crate::model::Moment;
use crate::model::lsn::{Lsn, SegmentSize, Timeline};

/// A segment that holds a parting, read on both sides of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Split {
    /// Commits whose records end at or before the parting.
    pub before: Option<Commits>,
    /// Commits behind it.
    pub behind: Option<Commits>,
}

/// A timeline that has commits which a way lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Aside {
    /// The timeline.
    pub timeline: Timeline,
    /// Where it and the way part.
    pub parting: Lsn,
    /// The first commit behind the parting, as far as it is known.
    pub from: Moment,
    /// The last one.
    pub to: Moment,
    /// How many.
    pub commits: u64,
    /// The first commit of the way itself behind the parting.
    pub own: Option<Moment>,
    /// A base backup behind the parting says that the way's branch is the one that is backed up.
    pub settled: bool,
}

impl Aside {
    /// Whether a moment lies on both branches, and they differ there: the other one had commits by then and goes on to it. Behind its
    /// end, as after a failover, the way's own branch is followed, and what it lacks is named.
    fn is_ambiguous_at(&self, asked: Moment) -> bool {
        !self.settled && (self.from..=self.to).contains(&asked)
    }
}

impl Archive {
    /// Timelines with commits that the way of a reach lacks and that are newer than its base backup.
    pub fn asides(&self, reach: &Reach) -> Vec<Aside> {
        let Some(base) = self.bases.iter().find(|base| base.id == reach.base) else { return Vec::new() };
        let (size, chain) = (base.backup.segment_size, self.lineage(reach.timeline));
        let tip = reach.timeline;
        let there = self.wal.keys().chain(self.growing.keys()).map(|name| name.timeline);
        let timelines: BTreeSet<Timeline> = there.filter(|timeline| *timeline != tip).collect();
        let mut asides = Vec::new();
        for timeline in timelines {
            let other = self.lineage(timeline);
            let common = chain.iter().zip(&other).take_while(|(a, b)| a == b).count();
            let begins = |chain: &[(Timeline, Lsn)]| chain.get(common).map(|(_, begins)| *begins);
            let Some(parting) = begins(&chain).into_iter().chain(begins(&other)).min() else { continue };
            let Some(found) = self.commits_behind(&other, Some(timeline), parting, size) else { continue };
            let own = self.commits_behind(&chain, None, parting, size).map(|own| own.first);
            if found.last > reach.from {
                let settled = base.backup.stop > parting;
                let (from, to, commits) = (found.first, found.last, found.count);
                asides.push(Aside { timeline, parting, from, to, commits, own, settled });
            }
        }
        asides
    }

    /// Those of them that matter to what was asked for.
    pub fn asides_of(&self, way: &Way, aim: &Aim) -> Vec<Aside> {
        let mut asides = self.asides(&way.reach);
        asides.retain(|aside| match aim {
            Aim::Time(asked) => aside.from <= *asked,
            Aim::Lsn(asked) => aside.parting < *asked,
            Aim::Immediate => false,
            Aim::Latest | Aim::Xid(_) | Aim::Name(_) => true,
        });
        asides
    }

    /// Another branch on which a moment lies too, where it is not plain which is meant.
    pub(super) fn ambiguous(&self, reach: &Reach, asked: Moment) -> Option<Aside> {
        self.asides(reach).into_iter().find(|aside| aside.is_ambiguous_at(asked))
    }

    /// Commits on the way of a chain whose records end behind a place; of one timeline alone, where that is given.
    fn commits_behind(
        &self,
        chain: &[(Timeline, Lsn)],
        only: Option<Timeline>,
        place: Lsn,
        size: SegmentSize,
    ) -> Option<Commits> {
        let whole = self.wal.iter().map(|(name, commits)| (*name, *commits));
        let grown = self.growing.iter().map(|(name, growing)| (*name, growing.commits));
        let on_way = whole.chain(grown).filter(|(name, _)| {
            only.is_none_or(|only| name.timeline == only) && segment_on(chain, name.start(size), size) == *name
        });
        let mut all: Option<Commits> = None;
        for (name, commits) in on_way {
            let Some(mut commits) = commits.filter(|commits| commits.end > place) else { continue };
            if name.start(size) < place {
                match self.splits.get(&(name.timeline, place)) {
                    Some(split) => match split.behind {
                        Some(behind) => commits = behind,
                        None => continue,
                    },
                    // At least the last one lies behind it.
                    None => commits = Commits { first: commits.last, count: 1, ..commits },
                }
            }
            all = Some(all.map_or(commits, |all| Commits {
                first: all.first.min(commits.first),
                last: all.last.max(commits.last),
                end: all.end.max(commits.end),
                count: all.count + commits.count,
            }));
        }
        all
    }
}

#[cfg(test)]
#[path = "branches_tests.rs"]
mod tests;
