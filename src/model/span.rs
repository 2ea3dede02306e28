//! Spans of time as policies write them: `48h`, `14d`, `8w`, `6mo`, `10y`, `1y 6mo`.
//!
//! Invariants: a span is longer than nothing asks for, never shorter: a month has 31 days here and a year 366, because a span says how
//! long something is kept. `m` alone is refused: some read it as minutes, some as months. Not here: calendars.

use std::fmt;
use std::str::FromStr;

use chrono::TimeDelta;
use serde::{Deserialize, Serialize};

/// The longest span, in seconds: a thousand years.
const LONGEST: i64 = 1_000 * 366 * 86_400;

/// A span of time, with the words that it was written in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span {
    seconds: i64,
    text: String,
}

impl Span {
    /// How long it is: 0 to a thousand years.
    pub fn delta(&self) -> TimeDelta {
        TimeDelta::seconds(self.seconds)
    }
    /// Whether it is no time at all.
    pub fn is_zero(&self) -> bool {
        self.seconds == 0
    }
    /// Whole days in it.
    pub fn days(&self) -> i64 {
        self.seconds / 86_400
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Span {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let bad = || format!("`{text}` is no span of time; write it as `48h`, `14d`, `8w`, `6mo` or `10y`");
        let (mut seconds, mut rest) = (0i64, text);
        if text.is_empty() {
            return Err(bad());
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let count: i64 = rest.get(..digits).unwrap_or_default().parse().map_err(|_| bad())?;
            rest = rest.get(digits..).unwrap_or_default().trim_start();
            let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
            let unit = match rest.get(..letters).unwrap_or_default() {
                "s" => 1,
                "min" => 60,
                "h" | "hour" | "hours" => 3_600,
                "d" | "day" | "days" => 86_400,
                "w" | "week" | "weeks" => 7 * 86_400,
                "mo" | "month" | "months" => 31 * 86_400,
                "y" | "year" | "years" => 366 * 86_400,
                "m" => return Err(format!("`{text}` is unclear: write `mo` for months, `min` for minutes")),
                _ => return Err(bad()),
            };
            let sum = count.checked_mul(unit).and_then(|part| seconds.checked_add(part));
            seconds = sum.filter(|sum| *sum <= LONGEST).ok_or_else(bad)?;
            rest = rest.get(letters..).unwrap_or_default().trim_start();
        }
        Ok(Self { seconds, text: text.to_owned() })
    }
}
impl TryFrom<String> for Span {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}
impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spans_are_read_as_policies_write_them() {
        for (text, hours) in
            [("48h", 48), ("14d", 336), ("1 week", 168), ("6mo", 6 * 31 * 24), ("1y 6mo", (366 + 186) * 24), ("0d", 0)]
        {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.delta(), TimeDelta::hours(hours), "{text}");
            assert_eq!(span.to_string(), text);
        }
    }

    #[test]
    fn what_could_be_months_or_minutes_is_refused() {
        assert!("6m".parse::<Span>().unwrap_err().contains("`mo` for months"));
        for bad in ["", "d", "14", "-1d", "1x", "9999y", "99999999999999999999d", "1d x", "14 d d"] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in ".{0,40}") {
            if let Ok(span) = text.parse::<Span>() {
                prop_assert!(span.delta() >= TimeDelta::zero());
            }
        }
    }
}
