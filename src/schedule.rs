//! Timetables: when a job is due, by cron expressions in a time zone, with jitter, and what becomes of runs that were missed.
//!
//! Pure: no clock, no waiting. Invariants: of several missed runs one is made up for; jitter is the same for the same job, host and
//! time, so that an agent that starts again runs nothing twice.
//! Expressions are cron's: five fields, names of days and months, `@daily` and the like; where both days are given, either counts. A single time
//! of day that the summer skips is made up for when it ends, and one that comes twice is run once; of lists of times neither holds.

use std::time::Duration;

use chrono::{DateTime, TimeDelta};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

use crate::model::Moment;

/// A run that begins later than this after its time was missed: the agent did not run, or slept.
const TOLERANCE: TimeDelta = TimeDelta::minutes(2);

/// When something is due.
#[derive(Debug, Clone, PartialEq)]
pub struct Timetable {
    cron: Cron,
    zone: Tz,
    jitter: Duration,
    /// Of host and job: makes jitter the same each time.
    seed: u64,
    /// Whether a missed run is made up for.
    catch_up: bool,
}

/// What to do about a job now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Run it: it was due at `scheduled`.
    Now {
        /// Its time, without jitter.
        scheduled: Moment,
        /// Whether it is late, because nobody was there to begin it.
        missed: bool,
    },
    /// Wait.
    At {
        /// Its next time, without jitter.
        scheduled: Moment,
        /// When it begins.
        begins: Moment,
        /// Since it is not made up for: the time that was missed.
        passed_over: Option<Moment>,
    },
    /// Never again: the expression names no day that comes.
    Never,
}

impl Timetable {
    /// Reads an expression. `seed` should differ between hosts and jobs.
    ///
    /// # Errors
    /// It is no cron expression of five fields.
    pub fn parse(text: &str, zone: Tz, jitter: Duration, seed: &str, catch_up: bool) -> Result<Self, String> {
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let cron = parser.parse(text).map_err(|e| {
            format!("`{text}` is no time of cron: {e} As in `30 3 * * *`, each night at half past three, or `@hourly`")
        })?;
        let seed = seed.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| scramble(hash ^ u64::from(byte)));
        Ok(Self { cron, zone, jitter, seed, catch_up })
    }

    /// The first time after `at`, without jitter.
    pub fn next_after(&self, at: Moment) -> Option<Moment> {
        let next = self.cron.find_next_occurrence(&at.with_timezone(&self.zone), false).ok()?;
        Some(next.to_utc())
    }

    /// The last time at or before `at`, without jitter.
    fn last_until(&self, at: Moment) -> Option<Moment> {
        let last: DateTime<Tz> = self.cron.find_previous_occurrence(&at.with_timezone(&self.zone), true).ok()?;
        Some(last.to_utc())
    }

    fn begins(&self, scheduled: Moment) -> Moment {
        let jitter = self.jitter.as_secs();
        if jitter == 0 {
            return scheduled;
        }
        let late = scramble(self.seed ^ scheduled.timestamp() as u64) % (jitter + 1);
        scheduled + TimeDelta::seconds(late as i64)
    }

    /// What to do. `since` is the time of the last run that was begun, without jitter, or when the job was first seen.
    pub fn due(&self, since: Moment, now: Moment) -> Due {
        // A clock that was ahead: from now on.
        let since = since.min(now);
        let mut passed_over = None;
        // The last one whose beginning is past; with jitter that may be the one before the last.
        let last = self.last_until(now).and_then(|last| match self.begins(last) <= now {
            true => Some(last),
            false => self.last_until(last - TimeDelta::seconds(1)),
        });
        if let Some(scheduled) = last.filter(|last| *last > since) {
            let missed = now - self.begins(scheduled) > TOLERANCE;
            if !missed || self.catch_up {
                return Due::Now { scheduled, missed };
            }
            passed_over = Some(scheduled);
        }
        let from = passed_over.unwrap_or(since).max(last.unwrap_or(since));
        match self.next_after(from) {
            Some(scheduled) => Due::At { scheduled, begins: self.begins(scheduled), passed_over },
            None => Due::Never,
        }
    }
}

/// SplitMix64's mixer.
fn scramble(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Moment {
        DateTime::parse_from_rfc3339(text).unwrap().to_utc()
    }

    fn table(text: &str, zone: Tz, catch_up: bool) -> Timetable {
        Timetable::parse(text, zone, Duration::ZERO, "host/job", catch_up).unwrap()
    }

    #[test]
    fn a_run_is_due_once_and_late_ones_are_made_up_for_once() {
        let nightly = table("30 3 * * *", Tz::UTC, true);
        let since = at("2026-11-20T03:30:00Z");
        let tomorrow = at("2026-11-21T03:30:00Z");
        let wait = Due::At { scheduled: tomorrow, begins: tomorrow, passed_over: None };
        assert_eq!(nightly.due(since, at("2026-11-20T03:30:01Z")), wait);
        assert_eq!(nightly.due(since, at("2026-11-21T03:29:59Z")), wait);
        assert_eq!(nightly.due(since, tomorrow), Due::Now { scheduled: tomorrow, missed: false });
        // Three nights without power: one run, as soon as it is back.
        let back = at("2026-11-23T17:00:00Z");
        let last = at("2026-11-23T03:30:00Z");
        assert_eq!(nightly.due(since, back), Due::Now { scheduled: last, missed: true });
        let next = at("2026-11-24T03:30:00Z");
        assert_eq!(nightly.due(last, back), Due::At { scheduled: next, begins: next, passed_over: None });
        let patient = table("30 3 * * *", Tz::UTC, false);
        assert_eq!(patient.due(since, back), Due::At { scheduled: next, begins: next, passed_over: Some(last) });
    }

    #[test]
    fn a_clock_that_was_ahead_delays_until_the_next_time_at_most() {
        let nightly = table("@daily", Tz::UTC, true);
        let next = at("2026-11-21T00:00:00Z");
        let due = nightly.due(at("2031-01-01T00:00:00Z"), at("2026-11-20T12:00:00Z"));
        assert_eq!(due, Due::At { scheduled: next, begins: next, passed_over: None });
    }

    #[test]
    fn summer_skips_nothing_and_winter_repeats_nothing() {
        let berlin = table("30 2 * * *", Tz::Europe__Berlin, true);
        // 2026-03-29 has no 02:30: it runs when the gap ends, or the day would have no backup.
        let mut times = Vec::new();
        let mut since = at("2026-03-27T12:00:00Z");
        for _ in 0..3 {
            since = berlin.next_after(since).unwrap();
            times.push(since);
        }
        assert_eq!(times[0], at("2026-03-28T01:30:00Z"));
        assert_eq!(times[1].date_naive(), at("2026-03-29T00:00:00Z").date_naive(), "{times:?}");
        assert_eq!(times[2], at("2026-03-30T00:30:00Z"));
        // 2026-10-25 has two 02:30.
        let first = berlin.next_after(at("2026-10-24T12:00:00Z")).unwrap();
        let second = berlin.next_after(first).unwrap();
        assert_eq!(first, at("2026-10-25T00:30:00Z"));
        assert_eq!(second, at("2026-10-26T01:30:00Z"), "once");
        // What runs each hour runs in both.
        let hourly = table("0 * * * *", Tz::Europe__Berlin, true);
        let mut since = at("2026-10-25T00:00:00Z");
        for hour in 1..5 {
            since = hourly.next_after(since).unwrap();
            assert_eq!(since, at(&format!("2026-10-25T0{hour}:00:00Z")));
        }
    }

    #[test]
    fn jitter_is_the_same_for_the_same_time_and_differs_between_hosts() {
        let of = |seed: &str| Timetable::parse("0 3 * * *", Tz::UTC, Duration::from_secs(600), seed, true).unwrap();
        let since = at("2026-11-20T12:00:00Z");
        let begins = |seed: &str| match of(seed).due(since, since) {
            Due::At { scheduled, begins, .. } => (begins - scheduled).num_seconds(),
            other => panic!("{other:?}"),
        };
        assert_eq!(begins("a/nightly"), begins("a/nightly"));
        let all: std::collections::BTreeSet<i64> = (0..50).map(|n| begins(&format!("host{n}/nightly"))).collect();
        assert!(all.len() > 30 && all.iter().all(|late| (0..=600).contains(late)), "{all:?}");
        // Between its time and its beginning it is not due, and it is not taken for missed.
        let table = of("a/nightly");
        let scheduled = at("2026-11-21T03:00:00Z");
        let begins = table.begins(scheduled);
        assert!(begins > scheduled, "or choose another seed");
        assert_eq!(table.due(since, scheduled), Due::At { scheduled, begins, passed_over: None });
        assert_eq!(table.due(since, begins), Due::Now { scheduled, missed: false });
    }

    #[test]
    fn a_job_that_is_always_due_keeps_its_pace() {
        let table = Timetable::parse("* * * * *", Tz::UTC, Duration::from_secs(600), "a", true).unwrap();
        let (mut since, mut runs) = (at("2026-11-20T12:00:00Z"), 0);
        for second in 0..3600 {
            if let Due::Now { scheduled, .. } =
                table.due(since, at("2026-11-20T12:00:00Z") + TimeDelta::seconds(second))
            {
                assert!(scheduled > since);
                (since, runs) = (scheduled, runs + 1);
            }
        }
        assert!((10..=60).contains(&runs), "{runs}");
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for bad in ["", "soon", "* * * *", "61 * * * *", "0 0 3 * * *", "0 0 30 2 * 2030 x"] {
            let error = Timetable::parse(bad, Tz::UTC, Duration::ZERO, "a", true).unwrap_err();
            assert!(error.contains("is no time of cron"), "{error}");
        }
        let never = table("0 0 30 2 *", Tz::UTC, true);
        assert_eq!(never.due(at("2026-01-01T00:00:00Z"), at("2026-01-02T00:00:00Z")), Due::Never);
    }
}
