//! Which snapshot a restore takes, and what stands in the way.

use crate::model::{Moment, SnapshotId};

/// What a planner knows of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its name.
    pub id: SnapshotId,
    /// Its full name, `writer/source`.
    pub full_name: String,
    /// When reading ended.
    pub ended: Moment,
    /// Whether nothing was skipped.
    pub complete: bool,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// The newest.
    Latest,
    /// The state at a time.
    At(Moment),
    /// A snapshot by name: an id, the beginning of one, `latest`, or `latest~N`.
    Named(String),
}

/// A choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The snapshot.
    pub id: SnapshotId,
    /// The time that was asked for, where one was.
    pub asked: Option<Moment>,
    /// The time that the snapshot shows.
    pub shows: Moment,
    /// Whether it is complete.
    pub complete: bool,
    /// Incomplete snapshots that are newer, and not newer than what was asked for, oldest first.
    pub passed_over: Vec<(SnapshotId, Moment)>,
}

/// Why nothing restores what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoPlan {
    /// There is no snapshot of that source.
    #[error("there is no snapshot of `{0}`")]
    NoSnapshot(String),
    /// All complete snapshots are newer than the time.
    #[error("nothing restores `{source_name}` to {asked}: its first complete snapshot ended at {first}")]
    TooEarly {
        /// The source.
        source_name: String,
        /// What was asked for.
        asked: String,
        /// The first that can be had.
        first: String,
    },
    /// There are only incomplete ones.
    #[error("`{0}` has no complete snapshot at or before that time")]
    NoneComplete(String),
    /// `--exact`, and no snapshot ended at that very time.
    #[error("nothing restores `{source_name}` to exactly {asked}: the newest snapshot before it ended at {nearest}")]
    NotExact {
        /// The source.
        source_name: String,
        /// What was asked for.
        asked: String,
        /// The nearest before.
        nearest: String,
    },
    /// No id begins so.
    #[error("no snapshot is called `{0}`")]
    NoSuchId(String),
    /// Several ids begin so.
    #[error("`{0}` is the beginning of several snapshots' ids: {1}")]
    Ambiguous(String, String),
    /// Two writers have a source of that name.
    #[error("several writers have a source `{0}`: {1}")]
    SeveralWriters(String, String),
}

/// How times are written in messages: to the second, rounded up, so that pasting one back finds the same snapshot.
pub fn show(moment: Moment) -> String {
    let up =
        if moment.timestamp_subsec_nanos() > 0 { chrono::TimeDelta::seconds(1) } else { chrono::TimeDelta::zero() };
    // A log may say any time: the last second that there is has none after it.
    let up = moment.checked_add_signed(up).unwrap_or(moment);
    up.format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The snapshots of a source, by its name or its full name. Two writers with one source name must be told apart.
pub fn of_source(all: &[Candidate], source: &str) -> Result<Vec<Candidate>, NoPlan> {
    let matches =
        |c: &&Candidate| c.full_name == source || c.full_name.split_once('/').is_some_and(|(_, short)| short == source);
    let found: Vec<Candidate> = all.iter().filter(matches).cloned().collect();
    let mut names: Vec<&str> = found.iter().map(|c| c.full_name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    match names.len() {
        0 => Err(NoPlan::NoSnapshot(source.to_owned())),
        1 => Ok(found),
        _ => Err(NoPlan::SeveralWriters(source.to_owned(), names.join(", "))),
    }
}

/// Chooses among the snapshots of one source: the newest complete one that ended at or before the time. A snapshot that is
/// named is taken as it is, complete or not. With `exact` a time must be met to the second.
pub fn choose(source: &str, all: &[Candidate], wanted: &Wanted, exact: bool) -> Result<Choice, NoPlan> {
    let mut sorted: Vec<&Candidate> = all.iter().collect();
    sorted.sort_by_key(|c| (c.ended, c.id));
    let choice = |c: &Candidate, asked: Option<Moment>| {
        let newer = sorted.iter().filter(|o| (o.ended, o.id) > (c.ended, c.id) && asked.is_none_or(|t| o.ended <= t));
        let passed_over = newer.filter(|o| !o.complete).map(|o| (o.id, o.ended)).collect();
        Choice { id: c.id, asked, shows: c.ended, complete: c.complete, passed_over }
    };
    let complete = || sorted.iter().rev().filter(|c| c.complete);
    match wanted {
        Wanted::Latest => match complete().next() {
            Some(found) => Ok(choice(found, None)),
            None if sorted.is_empty() => Err(NoPlan::NoSnapshot(source.to_owned())),
            None => Err(NoPlan::NoneComplete(source.to_owned())),
        },
        Wanted::At(asked) => {
            let Some(found) = complete().find(|c| c.ended <= *asked) else {
                let first = sorted.iter().find(|c| c.complete);
                return Err(match first {
                    Some(first) => NoPlan::TooEarly {
                        source_name: source.to_owned(),
                        asked: show(*asked),
                        first: show(first.ended),
                    },
                    None => NoPlan::NoneComplete(source.to_owned()),
                });
            };
            if exact && show(found.ended) != show(*asked) {
                let (asked, nearest) = (show(*asked), show(found.ended));
                return Err(NoPlan::NotExact { source_name: source.to_owned(), asked, nearest });
            }
            Ok(choice(found, Some(*asked)))
        }
        Wanted::Named(name) => {
            named(source, &sorted, name).map(|c| Choice { passed_over: Vec::new(), ..choice(c, None) })
        }
    }
}

fn named<'c>(source: &str, sorted: &[&'c Candidate], name: &str) -> Result<&'c Candidate, NoPlan> {
    let unknown = || NoPlan::NoSuchId(name.to_owned());
    if let Some(back) = name.strip_prefix("latest") {
        let back: usize = match back.strip_prefix('~') {
            Some(number) => number.parse().map_err(|_| unknown())?,
            None if back.is_empty() => 0,
            None => return Err(unknown()),
        };
        return sorted.iter().rev().nth(back).copied().ok_or_else(|| NoPlan::NoSnapshot(format!("{source} {name}")));
    }
    let wanted = name.to_ascii_uppercase();
    let found: Vec<&Candidate> =
        sorted.iter().copied().filter(|c| !wanted.is_empty() && c.id.to_string().starts_with(&wanted)).collect();
    match found.as_slice() {
        [] => Err(unknown()),
        [one] => Ok(one),
        several => {
            let ids: Vec<String> = several.iter().take(5).map(|c| c.id.to_string()).collect();
            Err(NoPlan::Ambiguous(name.to_owned(), ids.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeZone;
    use proptest::prelude::*;

    fn at(second: i64) -> Moment {
        chrono::Utc.timestamp_opt(1_700_000_000 + second, 0).unwrap()
    }

    fn candidate(second: i64, complete: bool) -> Candidate {
        let id = SnapshotId::new(second as u64 * 1000, [second as u8; 10]);
        Candidate { id, full_name: "w/app".into(), ended: at(second), complete }
    }

    #[test]
    fn the_last_moment_that_there_is_can_be_shown() {
        assert_eq!(show(Moment::MAX_UTC), "+262142-12-31T23:59:59Z");
    }

    #[test]
    fn the_newest_complete_one_at_or_before_the_time_is_taken() {
        let all = [candidate(10, true), candidate(20, true), candidate(30, false), candidate(40, true)];
        let shows = |wanted| choose("app", &all, &wanted, false).map(|c| c.shows);
        assert_eq!(shows(Wanted::At(at(35))), Ok(at(20)), "an incomplete one serves no time");
        assert_eq!(shows(Wanted::At(at(20))), Ok(at(20)));
        assert_eq!(shows(Wanted::Latest), Ok(at(40)));
        let choice = choose("app", &all, &Wanted::At(at(35)), false).unwrap();
        assert_eq!(choice.passed_over, [(all[2].id, at(30))], "what is passed over is told");
        assert!(matches!(shows(Wanted::At(at(9))), Err(NoPlan::TooEarly { .. })));
        assert_eq!(shows(Wanted::Named("latest~1".into())), Ok(at(30)), "a named one is taken as it is");
        assert!(matches!(shows(Wanted::Named("zzz".into())), Err(NoPlan::NoSuchId(_))));
        assert!(matches!(shows(Wanted::Named("0".into())), Err(NoPlan::Ambiguous(..))));
        let exact = choose("app", &all, &Wanted::At(at(35)), true);
        assert!(matches!(exact, Err(NoPlan::NotExact { .. })), "{exact:?}");
    }

    #[test]
    fn two_writers_with_one_source_name_must_be_told_apart() {
        let other = Candidate { full_name: "v/app".into(), ..candidate(5, true) };
        let all = [candidate(10, true), other];
        assert!(matches!(of_source(&all, "app"), Err(NoPlan::SeveralWriters(..))));
        assert_eq!(of_source(&all, "v/app").unwrap().len(), 1);
        assert!(matches!(of_source(&all, "web"), Err(NoPlan::NoSnapshot(_))));
    }

    #[test]
    fn a_time_that_was_shown_finds_its_snapshot_again() {
        let ended = at(10) + chrono::TimeDelta::milliseconds(700);
        let one = Candidate { ended, ..candidate(10, true) };
        let pasted: Moment = show(ended).parse().unwrap();
        assert!(choose("app", &[one], &Wanted::At(pasted), true).is_ok());
    }

    proptest! {
        #[test]
        fn a_choice_is_complete_and_never_newer_than_asked(
            seconds in prop::collection::vec((0i64..100, any::<bool>()), 0..12), asked in 0i64..100
        ) {
            let all: Vec<Candidate> = seconds.iter().map(|(s, c)| candidate(*s, *c)).collect();
            if let Ok(choice) = choose("app", &all, &Wanted::At(at(asked)), false) {
                prop_assert!(choice.complete && choice.shows <= at(asked));
                prop_assert!(!all.iter().any(|c| c.complete && c.ended <= at(asked) && c.ended > choice.shows));
            } else {
                prop_assert!(!all.iter().any(|c| c.complete && c.ended <= at(asked)));
            }
        }
    }
}
