//! The changes of a Convex deployment: which times of its database can be brought back, and from which snapshot.
//!
//! Invariants: segments are joined only where each begins no later than the one before it ends, in one epoch and with no number
//! between them missing; a snapshot is joined with a run only where its own time lies within it. Not here: what is in a segment.

use serde::Serialize;

use crate::model::documents::{DbTime, DocumentsFacts, moment_of, time_of};
use crate::model::{Moment, SnapshotId};

/// A segment as a planner knows it. One whose words could not be read has none: it is there, and what it covers is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// When its epoch began.
    pub epoch: DbTime,
    /// Its number in it.
    pub number: u64,
    /// What it says of itself.
    pub facts: Option<DocumentsFacts>,
}

/// A snapshot as a planner knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Base {
    /// Its name.
    pub id: SnapshotId,
    /// The time of the database that it shows.
    pub at: DbTime,
    /// When it ended.
    pub ended: Moment,
}

/// Why a run goes no further.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunEnd {
    /// It is the newest.
    Newest,
    /// The next epoch began.
    Cut {
        /// Why.
        why: String,
    },
    /// A segment is missing.
    Gap {
        /// Its number.
        missing: u64,
    },
}

/// Segments that join: any time between its ends can be had, from a snapshot that lies within.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Run {
    /// When its epoch began.
    pub epoch: DbTime,
    /// Its first segment.
    pub first: u64,
    /// Its last segment.
    pub last: u64,
    /// It begins behind this time.
    pub from: DbTime,
    /// The newest time that the database had told.
    pub to: DbTime,
    /// Up to when nothing newer was there.
    pub seen: DbTime,
    /// Changes in it.
    pub changes: u64,
    /// Why it goes no further.
    pub end: RunEnd,
}

impl Run {
    /// The newest time that it reaches.
    pub fn reach(&self) -> DbTime {
        self.to.max(self.seen)
    }
    fn holds(&self, base: &Base) -> bool {
        self.from <= base.at && base.at <= self.reach()
    }
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aim {
    /// The newest.
    Latest,
    /// A time.
    At(DbTime),
}

/// How a time is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Way {
    /// From this snapshot.
    pub base: Base,
    /// With these segments.
    pub run: Run,
    /// Changes up to this time are in it, and none behind it.
    pub to: DbTime,
}

/// Joins segments that are in the order of their epochs and numbers.
pub fn runs(pieces: &[Piece]) -> Vec<Run> {
    let mut all: Vec<Run> = Vec::new();
    let mut open: Option<Run> = None;
    for piece in pieces {
        let times = piece.facts.as_ref().and_then(|facts| Some((facts.after()?, facts.up_to()?, facts)));
        if let Some(run) = open.as_mut().filter(|run| run.epoch == piece.epoch) {
            match times {
                // What it covers is not known; whether the next one joins says whether that matters.
                None => {
                    run.last = piece.number;
                    continue;
                }
                // One that begins where the run ends covers again what a number between them may have held.
                Some((from, to, facts)) if from <= run.to => {
                    run.last = piece.number;
                    run.to = run.to.max(to);
                    run.seen = run.seen.max(time_of(facts.seen));
                    run.changes += facts.changes;
                    continue;
                }
                Some(_) => {}
            }
        }
        if let Some(mut run) = open.take() {
            run.end = match &piece.facts {
                _ if piece.epoch == run.epoch => RunEnd::Gap { missing: run.last + 1 },
                Some(facts) if piece.number == 0 => {
                    RunEnd::Cut { why: facts.began.clone().unwrap_or_else(|| "a new beginning".to_owned()) }
                }
                _ => RunEnd::Cut { why: "a new beginning".to_owned() },
            };
            all.push(run);
        }
        // Without its words nothing can begin with it.
        open = times.map(|(from, to, facts)| Run {
            epoch: piece.epoch,
            first: piece.number,
            last: piece.number,
            from,
            to,
            seen: time_of(facts.seen),
            changes: facts.changes,
            end: RunEnd::Newest,
        });
    }
    all.extend(open);
    all
}

/// The way to a time that comes nearest to it from before; of several the one with the newest snapshot. None where no segment helps:
/// a snapshot alone is as near.
pub fn choose(bases: &[Base], runs: &[Run], aim: Aim) -> Option<Way> {
    let limit = match aim {
        Aim::Latest => DbTime::MAX,
        Aim::At(time) => time,
    };
    let usable = || bases.iter().filter(|base| base.at <= limit);
    let joined = usable().flat_map(|base| {
        let runs = runs.iter().filter(|run| run.holds(base));
        runs.map(move |run| Way { base: base.clone(), run: run.clone(), to: run.reach().min(limit) })
    });
    let best = joined.max_by_key(|way| (way.to, way.base.at))?;
    let alone = usable().map(|base| base.at).max()?;
    (best.to >= alone).then_some(best)
}

/// Segments of a run that a way needs: those that may hold changes behind its snapshot.
pub fn needed<'p>(way: &Way, pieces: &'p [Piece]) -> Vec<&'p Piece> {
    let of_run = pieces
        .iter()
        .filter(|piece| piece.epoch == way.run.epoch && (way.run.first..=way.run.last).contains(&piece.number));
    of_run
        .filter(|piece| {
            let Some(facts) = &piece.facts else { return true };
            let (after, up_to) = (facts.after().unwrap_or(DbTime::MIN), facts.up_to().unwrap_or(DbTime::MAX));
            facts.changes > 0 && up_to > way.base.at && after < way.to
        })
        .collect()
}

/// Segments that no kept snapshot needs: those before the one from which the window's first moments are restored (without a window,
/// before the oldest one), and those of runs in which no kept snapshot lies. `kept` is oldest first; where it is empty nothing is free.
/// What a segment without words covers is not known: it stays.
pub fn free(pieces: &[Piece], kept: &[Base], since: Option<Moment>) -> Vec<(DbTime, u64)> {
    let serving = since.and_then(|since| kept.iter().rev().find(|base| base.ended <= since));
    let Some(oldest) = serving.or(kept.first()) else { return Vec::new() };
    let useless: Vec<Run> = runs(pieces).into_iter().filter(|run| !kept.iter().any(|base| run.holds(base))).collect();
    let is_free = |piece: &&Piece| {
        let before = piece.facts.as_ref().and_then(DocumentsFacts::up_to).is_some_and(|up_to| up_to <= oldest.at);
        let of_none = |run: &Run| run.epoch == piece.epoch && (run.first..=run.last).contains(&piece.number);
        piece.facts.is_some() && (before || useless.iter().any(of_none))
    };
    pieces.iter().filter(is_free).map(|piece| (piece.epoch, piece.number)).collect()
}

/// A time of the database as it is shown: to the millisecond.
pub fn show(time: DbTime) -> String {
    moment_of(time).format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(epoch: DbTime, number: u64, from: DbTime, to: DbTime) -> Piece {
        let facts = DocumentsFacts {
            files: None,
            version: 1,
            instance: "x".into(),
            from: from.to_string(),
            to: to.to_string(),
            seen: moment_of(to),
            changes: 1,
            began: (number == 0).then(|| "an import".to_owned()),
        };
        Piece { epoch, number, facts: Some(facts) }
    }

    fn base(n: u8, at: DbTime) -> Base {
        Base { id: SnapshotId::new(u64::from(n), [n; 10]), at, ended: moment_of(at) }
    }

    fn spans(pieces: &[Piece]) -> Vec<(DbTime, DbTime, RunEnd)> {
        runs(pieces).into_iter().map(|run| (run.from, run.to, run.end)).collect()
    }

    #[test]
    fn segments_join_where_nothing_is_missing() {
        let whole = [piece(10, 0, 10, 20), piece(10, 1, 20, 30), piece(10, 2, 25, 40)];
        assert_eq!(spans(&whole), [(10, 40, RunEnd::Newest)]);
        let lost = [piece(10, 0, 10, 20), piece(10, 2, 30, 40)];
        assert_eq!(spans(&lost), [(10, 20, RunEnd::Gap { missing: 1 }), (30, 40, RunEnd::Newest)]);
        let covered = [piece(10, 0, 10, 20), piece(10, 2, 20, 40)];
        assert_eq!(spans(&covered), [(10, 40, RunEnd::Newest)], "what number 1 held is in number 2 again");
        let apart = [piece(10, 0, 10, 20), piece(10, 1, 21, 30)];
        assert_eq!(spans(&apart)[0].2, RunEnd::Gap { missing: 1 });
        let cut = [piece(10, 0, 10, 20), piece(50, 0, 50, 60)];
        assert_eq!(spans(&cut)[0].2, RunEnd::Cut { why: "an import".into() });
    }

    #[test]
    fn a_segment_without_words_joins_what_overlaps_it() {
        let mut pieces = vec![piece(10, 0, 10, 20), piece(10, 1, 20, 30), piece(10, 2, 20, 40)];
        pieces[1].facts = None;
        assert_eq!(spans(&pieces), [(10, 40, RunEnd::Newest)]);
        pieces[2] = piece(10, 2, 30, 40);
        assert_eq!(spans(&pieces), [(10, 20, RunEnd::Gap { missing: 2 }), (30, 40, RunEnd::Newest)]);
    }

    #[test]
    fn the_nearest_way_is_taken() {
        let runs = runs(&[piece(10, 0, 10, 20), piece(10, 1, 20, 30), piece(50, 0, 50, 60)]);
        let bases = [base(1, 10), base(2, 22), base(3, 40), base(4, 50)];
        let to = |aim| choose(&bases, &runs, aim).map(|way| (way.base.at, way.to));
        assert_eq!(to(Aim::At(9)), None);
        assert_eq!(to(Aim::At(15)), Some((10, 15)));
        assert_eq!(to(Aim::At(25)), Some((22, 25)));
        assert_eq!(to(Aim::At(35)), Some((22, 30)), "the end of the run is the nearest");
        assert_eq!(to(Aim::At(45)), None, "a snapshot alone is nearer");
        assert_eq!(to(Aim::At(55)), Some((50, 55)));
        assert_eq!(to(Aim::Latest), Some((50, 60)));
    }

    #[test]
    fn what_no_kept_snapshot_needs_is_free() {
        let pieces = [piece(10, 0, 10, 20), piece(10, 1, 20, 30), piece(10, 2, 30, 40), piece(50, 0, 50, 60)];
        let all = [base(1, 10), base(2, 30), base(3, 50)];
        assert_eq!(free(&pieces, &all, None), []);
        assert_eq!(free(&pieces, &all[1..], None), [(10, 0), (10, 1)]);
        assert_eq!(
            free(&pieces, &all, Some(moment_of(35))),
            [(10, 0), (10, 1)],
            "the window's beginning is served by 30"
        );
        assert_eq!(free(&pieces, &all[..2], None), [(50, 0)], "no snapshot leads into it");
        assert_eq!(free(&pieces, &[], None), [], "nothing is kept: nothing is judged");
        assert_eq!(free(&pieces, &all, Some(moment_of(5))), [], "the window is longer than what there is");
    }

    #[test]
    fn what_lies_before_the_snapshot_is_not_fetched() {
        let pieces = [piece(10, 0, 10, 20), piece(10, 1, 20, 30), piece(10, 2, 30, 40)];
        let all = runs(&pieces);
        let way = choose(&[base(1, 10), base(2, 20)], &all, Aim::At(30)).unwrap();
        let numbers: Vec<u64> = needed(&way, &pieces).iter().map(|piece| piece.number).collect();
        assert_eq!(numbers, [1]);
    }
}
