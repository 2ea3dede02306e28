//! A policy: what to keep of a source's snapshots, as the configuration and the flags of `forget` write it.
//!
//! Invariants: a key that is absent says nothing, and one that says nothing takes nothing away. Not here: which snapshots it keeps
//! (`plan::retention`).

use serde::{Deserialize, Serialize};

use super::span::Span;

/// A class of the calendar: of each hour, day, week ... one snapshot is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// An hour.
    Hourly,
    /// A day.
    Daily,
    /// A week, from Monday on, as ISO 8601 counts them.
    Weekly,
    /// A month.
    Monthly,
    /// A quarter of a year.
    Quarterly,
    /// A year.
    Yearly,
}

impl Class {
    /// All of them, the shortest first.
    pub const ALL: [Self; 6] = [Self::Hourly, Self::Daily, Self::Weekly, Self::Monthly, Self::Quarterly, Self::Yearly];

    /// `daily` and the like.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Quarterly => "quarterly",
            Self::Yearly => "yearly",
        }
    }
}

/// What to keep. Rules add up: a snapshot stays if one of them keeps it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// The newest so many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_last: Option<u32>,
    /// The newest one of each of the newest so many hours that have any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_hourly: Option<u32>,
    /// The same of days.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_daily: Option<u32>,
    /// The same of weeks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_weekly: Option<u32>,
    /// The same of months.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_monthly: Option<u32>,
    /// The same of quarters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_quarterly: Option<u32>,
    /// The same of years.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_yearly: Option<u32>,
    /// All that are at most so much older than the newest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_within: Option<Span>,
    /// One of each hour that is at most so much older than the newest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_within_hourly: Option<Span>,
    /// The same of days.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_within_daily: Option<Span>,
    /// The same of weeks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_within_weekly: Option<Span>,
    /// The same of months.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_within_monthly: Option<Span>,
    /// The same of quarters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_within_quarterly: Option<Span>,
    /// The same of years.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_within_yearly: Option<Span>,
    /// All with one of these labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_tag: Option<Vec<String>>,
    /// So many complete ones, whatever else is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_snapshots: Option<u32>,
    /// Of a source with a stream: any second of so long can be restored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<Span>,
    /// The zone of hours, days and months; the machine's own where it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
}

impl Retention {
    /// How many of a class.
    pub fn count(&self, class: Class) -> u32 {
        let count = match class {
            Class::Hourly => self.keep_hourly,
            Class::Daily => self.keep_daily,
            Class::Weekly => self.keep_weekly,
            Class::Monthly => self.keep_monthly,
            Class::Quarterly => self.keep_quarterly,
            Class::Yearly => self.keep_yearly,
        };
        count.unwrap_or(0)
    }

    /// For how long one of a class.
    pub fn within(&self, class: Class) -> Option<&Span> {
        match class {
            Class::Hourly => self.keep_within_hourly.as_ref(),
            Class::Daily => self.keep_within_daily.as_ref(),
            Class::Weekly => self.keep_within_weekly.as_ref(),
            Class::Monthly => self.keep_within_monthly.as_ref(),
            Class::Quarterly => self.keep_within_quarterly.as_ref(),
            Class::Yearly => self.keep_within_yearly.as_ref(),
        }
    }

    /// Key by key: what this one says, and where it says nothing, what `other` says.
    #[must_use]
    pub fn over(self, other: Self) -> Self {
        Self {
            keep_last: self.keep_last.or(other.keep_last),
            keep_hourly: self.keep_hourly.or(other.keep_hourly),
            keep_daily: self.keep_daily.or(other.keep_daily),
            keep_weekly: self.keep_weekly.or(other.keep_weekly),
            keep_monthly: self.keep_monthly.or(other.keep_monthly),
            keep_quarterly: self.keep_quarterly.or(other.keep_quarterly),
            keep_yearly: self.keep_yearly.or(other.keep_yearly),
            keep_within: self.keep_within.or(other.keep_within),
            keep_within_hourly: self.keep_within_hourly.or(other.keep_within_hourly),
            keep_within_daily: self.keep_within_daily.or(other.keep_within_daily),
            keep_within_weekly: self.keep_within_weekly.or(other.keep_within_weekly),
            keep_within_monthly: self.keep_within_monthly.or(other.keep_within_monthly),
            keep_within_quarterly: self.keep_within_quarterly.or(other.keep_within_quarterly),
            keep_within_yearly: self.keep_within_yearly.or(other.keep_within_yearly),
            keep_tag: self.keep_tag.or(other.keep_tag),
            min_snapshots: self.min_snapshots.or(other.min_snapshots),
            window: self.window.or(other.window),
            timezone: self.timezone.or(other.timezone),
        }
    }

    /// Each rule that is given, with its value; the zone is none.
    pub fn rules(&self) -> Vec<(String, String)> {
        let mut rules: Vec<(String, String)> = Vec::new();
        let mut add = |name: &str, value: Option<String>| rules.extend(value.map(|value| (name.to_owned(), value)));
        add("keep_last", self.keep_last.map(|n| n.to_string()));
        let counts = [
            self.keep_hourly,
            self.keep_daily,
            self.keep_weekly,
            self.keep_monthly,
            self.keep_quarterly,
            self.keep_yearly,
        ];
        for (class, count) in Class::ALL.into_iter().zip(counts) {
            add(&format!("keep_{}", class.name()), count.map(|n| n.to_string()));
        }
        add("keep_within", self.keep_within.as_ref().map(ToString::to_string));
        for class in Class::ALL {
            add(&format!("keep_within_{}", class.name()), self.within(class).map(ToString::to_string));
        }
        add("keep_tag", self.keep_tag.as_ref().map(|tags| tags.join("+")));
        add("min_snapshots", self.min_snapshots.map(|n| n.to_string()));
        add("window", self.window.as_ref().map(ToString::to_string));
        rules
    }

    /// Whether it says nothing of what to keep: no policy at all.
    pub fn is_silent(&self) -> bool {
        self.rules().is_empty()
    }

    /// Whether it has rules, and every one of them keeps nothing.
    pub fn keeps_nothing(&self) -> bool {
        let counts = [self.keep_last, self.min_snapshots];
        let spans = [&self.keep_within, &self.window];
        let keeps = counts.into_iter().flatten().any(|n| n > 0)
            || spans.into_iter().flatten().any(|span| !span.is_zero())
            || Class::ALL
                .into_iter()
                .any(|class| self.count(class) > 0 || self.within(class).is_some_and(|span| !span.is_zero()))
            || self.keep_tag.as_ref().is_some_and(|tags| !tags.is_empty());
        !keeps && !self.is_silent()
    }
}

impl std::fmt::Display for Retention {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rules: Vec<String> = self.rules().into_iter().map(|(name, value)| format!("{name} {value}")).collect();
        f.write_str(&rules.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> Retention {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn each_key_is_a_rule_and_is_told() {
        let text = "keep_last = 1\nkeep_hourly = 2\nkeep_daily = 3\nkeep_weekly = 4\nkeep_monthly = 5\nkeep_quarterly = 6\n\
                    keep_yearly = 7\nkeep_within = \"1d\"\nkeep_within_hourly = \"2d\"\nkeep_within_daily = \"3d\"\n\
                    keep_within_weekly = \"4d\"\nkeep_within_monthly = \"5d\"\nkeep_within_quarterly = \"6d\"\n\
                    keep_within_yearly = \"7d\"\nkeep_tag = [\"a\", \"b\"]\nmin_snapshots = 8\nwindow = \"9d\"\n";
        let all = policy(text);
        assert_eq!(all.rules().len(), 17, "{all}");
        assert!(all.to_string().contains("keep_quarterly 6") && all.to_string().ends_with("window 9d"), "{all}");
        assert_eq!(Retention::default().over(all.clone()), all);
        assert_eq!(all.clone().over(Retention::default()), all);
    }

    #[test]
    fn what_keeps_nothing_is_told_from_what_says_nothing() {
        assert!(policy("").is_silent() && !policy("").keeps_nothing());
        assert!(policy("timezone = \"UTC\"").is_silent());
        for nothing in ["keep_last = 0", "keep_daily = 0\nkeep_within = \"0d\"", "keep_tag = []", "window = \"0h\""] {
            assert!(policy(nothing).keeps_nothing(), "{nothing}");
        }
        for something in
            ["keep_last = 1", "keep_daily = 0\nkeep_yearly = 1", "keep_within_weekly = \"1d\"", "window = \"1h\""]
        {
            assert!(!policy(something).keeps_nothing(), "{something}");
        }
    }

    #[test]
    fn the_nearer_one_wins_key_by_key() {
        let merged =
            policy("keep_daily = 3\nkeep_weekly = 0").over(policy("keep_daily = 14\nkeep_weekly = 8\nkeep_last = 5"));
        assert_eq!((merged.keep_daily, merged.keep_weekly, merged.keep_last), (Some(3), Some(0), Some(5)));
    }
}
