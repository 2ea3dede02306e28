//! Times as people write them. What was read is always shown back; what could mean two instants is refused with both.

use chrono::{DateTime, Days, LocalResult, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;

use crate::model::Moment;
use crate::plan::restore::show;

/// A time that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadTime {
    /// The instant.
    pub moment: Moment,
    /// How it was read, for people: UTC, and the zone that was written.
    pub shown: String,
}

/// Why a text is no time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTime {
    /// Nothing that we read.
    #[error("`{0}` is no time that lifeboat reads")]
    Unknown(String),
    /// Clocks were set back: it happened twice.
    #[error("`{text}` happens twice, at {first} and at {second}")]
    Twice {
        /// What was written.
        text: String,
        /// The first reading.
        first: String,
        /// The second.
        second: String,
    },
    /// Clocks were set forward: it never happened.
    #[error("`{0}` never happens: clocks are set forward over it")]
    Never(String),
    /// A date without a time.
    #[error("`{0}` is a whole day")]
    WholeDay(String),
}

impl BadTime {
    /// What to write instead.
    pub fn hint(&self) -> String {
        match self {
            Self::Unknown(_) => {
                "Write it as `2026-11-20T14:05:00Z`, `2026-11-20 14:05 Europe/Berlin`, `yesterday 18:00`, \
                                 `2h ago` or `latest`."
                    .to_owned()
            }
            Self::Twice { first, second, .. } => format!("Say which one: `--to {first}` or `--to {second}`."),
            Self::Never(_) => "Write the time in UTC, with a `Z` behind it.".to_owned(),
            Self::WholeDay(day) => format!("Say when: `--to '{day} 00:00'` or `--to '{day} 23:59:59'`."),
        }
    }
}

/// A zone to read in: a named one, or this machine's.
#[derive(Clone, Copy)]
enum Zone {
    Named(Tz),
    Local,
}

/// Reads a time. `now` and this machine's zone are what relative times and times without a zone are read by.
pub fn read_time(text: &str, now: Moment) -> Result<ReadTime, BadTime> {
    let clean = text.trim();
    let unknown = || BadTime::Unknown(text.to_owned());
    if clean == "now" {
        return Ok(read(now, None));
    }
    if let Ok(moment) = DateTime::parse_from_rfc3339(clean) {
        let zone = if moment.offset().local_minus_utc() == 0 { None } else { Some(clean.to_owned()) };
        return Ok(read(moment.with_timezone(&Utc), zone));
    }
    // As PostgreSQL writes it.
    if let Ok(moment) = DateTime::parse_from_str(clean, "%Y-%m-%d %H:%M:%S%.f%#z") {
        return Ok(read(moment.with_timezone(&Utc), Some(clean.to_owned())));
    }
    if let Some(span) = clean.strip_suffix("ago") {
        let span = read_span(span).ok_or_else(unknown)?;
        let moment = now.checked_sub_signed(span).ok_or_else(unknown)?;
        return Ok(read(moment, None));
    }
    let (rest, zone) = split_zone(clean);
    let today = match zone {
        Zone::Named(zone) => now.with_timezone(&zone).date_naive(),
        Zone::Local => now.with_timezone(&chrono::Local).date_naive(),
    };
    let mut words = rest.splitn(2, [' ', 'T']);
    let day = match words.next().unwrap_or_default() {
        "today" => today,
        "yesterday" => today.checked_sub_days(Days::new(1)).ok_or_else(unknown)?,
        date => NaiveDate::parse_from_str(date, "%Y-%m-%d").map_err(|_| unknown())?,
    };
    let Some(time) = words.next() else { return Err(BadTime::WholeDay(rest.to_owned())) };
    let utc = time.ends_with('Z');
    let time = read_clock(time.trim_end_matches('Z').trim()).ok_or_else(unknown)?;
    let zone = if utc { Zone::Named(Tz::UTC) } else { zone };
    resolve(day.and_time(time), zone, text)
}

fn read(moment: Moment, written: Option<String>) -> ReadTime {
    let moment = without_leap_second(moment);
    // What is asked for to the microsecond is not shown rounded.
    let show = |moment: Moment| match chrono::Timelike::nanosecond(&moment) {
        0 => show(moment),
        _ => crate::plan::recovery::show(moment),
    };
    let shown = match written {
        Some(zone) => format!("{} ({zone})", show(moment)),
        None => show(moment),
    };
    ReadTime { moment, shown }
}

/// The second :60, which chrono keeps as more than a second of nanoseconds, is the beginning of the next one.
fn without_leap_second(moment: Moment) -> Moment {
    let beyond = chrono::Timelike::nanosecond(&moment).checked_sub(1_000_000_000);
    let next = beyond.and_then(|nanos| Moment::from_timestamp(moment.timestamp().checked_add(1)?, nanos));
    next.unwrap_or(moment)
}

fn read_clock(text: &str) -> Option<NaiveTime> {
    ["%H:%M:%S%.f", "%H:%M"].iter().find_map(|form| NaiveTime::parse_from_str(text, form).ok())
}

/// The words before a zone's name, and the zone.
fn split_zone(text: &str) -> (&str, Zone) {
    if let Some((rest, last)) = text.rsplit_once(' ')
        && let Ok(zone) = last.parse::<Tz>()
    {
        return (rest.trim_end(), Zone::Named(zone));
    }
    (text, Zone::Local)
}

/// `2h`, `3 days`, `1d 12h`.
/// Reads a span of time, as `45m`, `30d` or `1d 12h`.
pub fn parse_duration(text: &str) -> Result<TimeDelta, String> {
    read_span(text.trim()).ok_or_else(|| format!("`{text}` is no span of time; write it as `45m`, `12h` or `30d`"))
}

fn read_span(text: &str) -> Option<TimeDelta> {
    let (mut total, mut number, mut unit, mut any) = (TimeDelta::zero(), String::new(), String::new(), false);
    let mut close = |number: &mut String, unit: &mut String| -> Option<()> {
        let count: i64 = number.parse().ok()?;
        let seconds = match unit.trim() {
            "s" | "sec" | "second" | "seconds" => 1,
            "m" | "min" | "minute" | "minutes" => 60,
            "h" | "hour" | "hours" => 3600,
            "d" | "day" | "days" => 86_400,
            "w" | "week" | "weeks" => 604_800,
            _ => return None,
        };
        total = total.checked_add(&TimeDelta::try_seconds(count.checked_mul(seconds)?)?)?;
        (any, *number, *unit) = (true, String::new(), String::new());
        Some(())
    };
    for c in text.trim().chars() {
        if c.is_ascii_digit() {
            if !unit.trim().is_empty() {
                close(&mut number, &mut unit)?;
            }
            number.push(c);
        } else {
            unit.push(c);
        }
    }
    close(&mut number, &mut unit)?;
    any.then_some(total)
}

fn resolve(naive: NaiveDateTime, zone: Zone, text: &str) -> Result<ReadTime, BadTime> {
    let (found, name) = match zone {
        Zone::Named(zone) => (in_utc(&zone.from_local_datetime(&naive)), zone.name().to_owned()),
        Zone::Local => (in_utc(&chrono::Local.from_local_datetime(&naive)), "this machine's zone".to_owned()),
    };
    let written = if name == "UTC" { None } else { Some(format!("{} {name}", naive.format("%Y-%m-%d %H:%M:%S"))) };
    match found {
        LocalResult::Single(moment) => Ok(read(moment, written)),
        LocalResult::None => Err(BadTime::Never(text.to_owned())),
        LocalResult::Ambiguous(first, second) => {
            Err(BadTime::Twice { text: text.to_owned(), first: show(first), second: show(second) })
        }
    }
}

fn in_utc<Z: TimeZone>(found: &LocalResult<DateTime<Z>>) -> LocalResult<Moment> {
    match found {
        LocalResult::Single(t) => LocalResult::Single(t.with_timezone(&Utc)),
        LocalResult::Ambiguous(a, b) => LocalResult::Ambiguous(a.with_timezone(&Utc), b.with_timezone(&Utc)),
        LocalResult::None => LocalResult::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Moment {
        "2026-11-21T12:00:00Z".parse().unwrap()
    }

    #[test]
    fn a_leap_second_is_the_beginning_of_the_next_one() {
        let now = Moment::from_timestamp(1_795_262_400, 0).unwrap();
        for text in ["2016-12-31T23:59:60Z", "2016-12-31 23:59:60 UTC", "2016-12-31 23:59:60+00"] {
            let found = read_time(text, now).unwrap();
            assert_eq!(
                (found.moment.timestamp(), &found.shown[..20]),
                (1_483_228_800, "2017-01-01T00:00:00Z"),
                "{text}"
            );
        }
    }

    #[test]
    fn times_are_read_as_people_write_them() {
        for (text, expected) in [
            ("2026-11-20T14:05:00Z", "2026-11-20T14:05:00Z"),
            ("2026-11-20T14:05:00+01:00", "2026-11-20T13:05:00Z"),
            ("2026-11-20 14:05 Europe/Berlin", "2026-11-20T13:05:00Z"),
            ("2026-07-20 14:05:30 Europe/Berlin", "2026-07-20T12:05:30Z"),
            ("2026-11-20 14:05Z", "2026-11-20T14:05:00Z"),
            ("2026-11-20 14:05 UTC", "2026-11-20T14:05:00Z"),
            ("yesterday 18:00 UTC", "2026-11-20T18:00:00Z"),
            ("today 06:30 America/New_York", "2026-11-21T11:30:00Z"),
            ("2h ago", "2026-11-21T10:00:00Z"),
            ("3 days ago", "2026-11-18T12:00:00Z"),
            ("1d 12h ago", "2026-11-20T00:00:00Z"),
            ("now", "2026-11-21T12:00:00Z"),
        ] {
            assert_eq!(read_time(text, now()).map(|t| show(t.moment)), Ok(expected.to_owned()), "{text}");
        }
    }

    #[test]
    fn the_zone_that_was_written_is_shown_back() {
        let shown = read_time("2026-11-20 14:05 Europe/Berlin", now()).unwrap().shown;
        assert_eq!(shown, "2026-11-20T13:05:00Z (2026-11-20 14:05:00 Europe/Berlin)");
    }

    #[test]
    fn a_time_that_happens_twice_or_never_is_refused_with_its_readings() {
        let twice = read_time("2026-10-25 02:30 Europe/Berlin", now()).unwrap_err();
        assert!(twice.hint().contains("2026-10-25T00:30:00Z") && twice.hint().contains("2026-10-25T01:30:00Z"));
        assert!(matches!(read_time("2026-03-29 02:30 Europe/Berlin", now()), Err(BadTime::Never(_))));
        assert!(matches!(read_time("2026-11-20", now()), Err(BadTime::WholeDay(_))));
        for bad in ["", "tomorrow 10:00", "14:05", "2026-13-01 10:00", "2 moons ago", "ago", "2026-11-20 25:00"] {
            assert!(matches!(read_time(bad, now()), Err(BadTime::Unknown(_))), "{bad}");
        }
    }
}
