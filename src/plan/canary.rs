//! Canaries: small things with a time, written into a source on a schedule, that a restore must bring back.
//!
//! What a canary says and nothing else does: that the source itself took a write at that moment, and that this write is in what came
//! back. Not here: writing one (`ops::canary`), finding it in what was restored (`ops::drill`).

use chrono::{SecondsFormat, TimeDelta};

use crate::model::Moment;
use crate::model::drill::CheckEnd;

/// A canary that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The time it carries, whole microseconds.
    pub at: Moment,
    /// When it was known to be kept, by the same clock.
    pub after: Moment,
}

impl Mark {
    /// As one line.
    pub fn line(&self) -> String {
        format!("{} {}\n", words(self.at), words(self.after))
    }

    /// Reads such a line; `None` where it is none, as the last of a file that a full disk cut.
    pub fn parse(line: &str) -> Option<Self> {
        let (at, after) = line.trim().split_once(' ')?;
        Some(Self { at: parse(at)?, after: parse(after)? })
    }
}

/// A canary's time, as it is written everywhere.
pub fn words(at: Moment) -> String {
    at.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// Reads such a time.
pub fn parse(text: &str) -> Option<Moment> {
    chrono::DateTime::parse_from_rfc3339(text.trim()).ok().map(|at| at.to_utc())
}

/// What is known when a restored source is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Sighting<'m> {
    /// The canary that came back.
    pub found: Option<Moment>,
    /// The moment that came back.
    pub shows: Moment,
    /// What was known to be kept by this moment must be there: where reading began, or the same moment.
    pub due_by: Moment,
    /// Those that this host remembers to have written, the oldest first.
    pub marks: &'m [Mark],
    /// How far the clock of the source may be from the one that canaries carry.
    pub slack: TimeDelta,
    /// Whether the newest state was asked for: then there must be one.
    pub newest: bool,
}

impl Sighting<'_> {
    /// Whether the canary that should be there is, and in words.
    pub fn judge(&self) -> (CheckEnd, String) {
        let show = crate::plan::restore::show;
        let due = self.marks.iter().rev().find(|mark| mark.after + self.slack <= self.due_by);
        match (self.found, due) {
            (Some(found), _) if found > self.shows + self.slack => {
                let text = format!("the canary of {} came back: that is after {}", show(found), show(self.shows));
                (CheckEnd::Failed, text)
            }
            (found, Some(due)) if found.is_none_or(|found| found < due.at) => {
                let came = found.map_or_else(|| "none".to_owned(), |found| format!("that of {}", show(found)));
                let text =
                    format!("the canary of {} was written before, and did not come back: {came} did", show(due.at));
                (CheckEnd::Failed, text)
            }
            (Some(found), _) => (CheckEnd::Passed, format!("the canary of {} came back", show(found))),
            (None, _) if self.newest => {
                (CheckEnd::Failed, "there is no canary in what came back: `lifeboat canary` writes one".to_owned())
            }
            (None, _) if self.marks.is_empty() => {
                (CheckEnd::Skipped, "this host remembers no canary of it, and none came back".to_owned())
            }
            (None, _) => (CheckEnd::Skipped, "no canary is known to have been written by then".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Moment {
        Moment::from_timestamp(second, 123_456_000).unwrap()
    }

    fn mark(second: i64) -> Mark {
        Mark { at: at(second), after: at(second + 1) }
    }

    #[test]
    fn a_line_comes_back() {
        assert_eq!(Mark::parse(&mark(100).line()), Some(mark(100)));
        for broken in ["", "2026", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z 2026-0"] {
            assert_eq!(Mark::parse(broken), None, "{broken}");
        }
    }

    #[test]
    fn the_newest_that_was_there_must_come_back_and_no_later_one() {
        let marks = [mark(100), mark(200), mark(300)];
        let judge = |found: Option<i64>, shows, newest| {
            let slack = TimeDelta::zero();
            Sighting { found: found.map(at), shows: at(shows), due_by: at(shows), marks: &marks, slack, newest }
                .judge()
                .0
        };
        assert_eq!(judge(Some(200), 250, false), CheckEnd::Passed);
        assert_eq!(judge(Some(100), 250, false), CheckEnd::Failed, "a later one is lost");
        assert_eq!(judge(None, 250, false), CheckEnd::Failed);
        assert_eq!(judge(Some(300), 250, false), CheckEnd::Failed, "the state is newer than was said");
        // Written, and not yet known to be kept: either is right.
        assert_eq!(judge(Some(100), 200, false), CheckEnd::Passed);
        assert_eq!(judge(Some(200), 200, false), CheckEnd::Passed);
        // Reading began at 150 and ended at 250: what was written meanwhile may be there, or not.
        let long = |found| {
            let slack = TimeDelta::zero();
            let (shows, due_by) = (at(250), at(150));
            Sighting { found: Some(at(found)), shows, due_by, marks: &marks, slack, newest: true }.judge().0
        };
        assert_eq!((long(100), long(200), long(300)), (CheckEnd::Passed, CheckEnd::Passed, CheckEnd::Failed));
        // Before the first nothing can be wanted, but of the newest state.
        assert_eq!(judge(None, 50, false), CheckEnd::Skipped);
        assert_eq!(judge(None, 50, true), CheckEnd::Failed);
        // Another host wrote it.
        let other = Sighting {
            found: Some(at(20)),
            shows: at(50),
            due_by: at(50),
            marks: &[],
            slack: TimeDelta::zero(),
            newest: true,
        };
        assert_eq!(other.judge().0, CheckEnd::Passed);
    }

    #[test]
    fn clocks_that_differ_are_given_slack() {
        let marks = [mark(100)];
        let sighting = |found: Option<i64>, shows| {
            let slack = TimeDelta::seconds(60);
            Sighting { found: found.map(at), shows: at(shows), due_by: at(shows), marks: &marks, slack, newest: false }
                .judge()
                .0
        };
        assert_eq!(sighting(Some(100), 70), CheckEnd::Passed);
        assert_eq!(sighting(None, 130), CheckEnd::Skipped);
        assert_eq!(sighting(None, 161), CheckEnd::Failed);
    }
}
