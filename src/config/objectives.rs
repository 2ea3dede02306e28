//! `[objectives.X]` and `[sources.X.drill]`: what a source must meet, and how a drill of it looks at what came back.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::Config;

/// A length of time, as `90s`, `45m`, `4h` or `7d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Length(pub Duration);

impl Length {
    /// Reads it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is no length of time; write it as `90s`, `45m`, `4h` or `7d`");
        let clean = text.trim();
        let digits = clean.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let (number, unit) = clean.split_at(digits);
        let factor = match unit.trim() {
            "s" => 1,
            "m" | "min" => 60,
            "h" => 3600,
            "d" => 86_400,
            _ => return Err(bad()),
        };
        let seconds = number.parse::<u32>().ok().and_then(|number| u64::from(number).checked_mul(factor));
        seconds.filter(|seconds| *seconds > 0).map(|seconds| Self(Duration::from_secs(seconds))).ok_or_else(bad)
    }
}

impl<'de> Deserialize<'de> for Length {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// `[objectives.<source or group>]`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Objective {
    /// How old the newest recovery point may be.
    pub rpo: Option<Length>,
    /// How long a restore may take.
    pub rto: Option<Length>,
    /// How old the last drill that passed may be.
    pub drill_every: Option<Length>,
}

/// `[sources.<name>.drill]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrillSection {
    /// A line for the shell, run in the restored directory.
    pub command: Option<String>,
    /// Files with SQL whose rows must be true.
    #[serde(default)]
    pub sql: Vec<PathBuf>,
    /// The database for them.
    pub database: Option<String>,
    /// `false` leaves `pg_amcheck` out.
    pub amcheck: Option<bool>,
    /// `false` leaves `pg_checksums` out.
    pub checksums: Option<bool>,
    /// `false` leaves reading every row out.
    pub full_read: Option<bool>,
    /// How long each check may take.
    pub patience: Option<Length>,
    /// The directory below which drills land.
    pub scratch_dir: Option<PathBuf>,
    /// Of a process of root: as whom a server for dumps runs.
    pub user: Option<String>,
    /// A Convex deployment for drills alone: all its tables are replaced.
    pub deployment: Option<String>,
    /// Its admin key.
    pub admin_key_file: Option<PathBuf>,
}

impl Config {
    /// What a source must meet: its own objective, key by key before those of its groups, of which the strictest counts.
    pub fn objective_of(&self, source: &str) -> Objective {
        let own = self.objectives.get(source).copied().unwrap_or_default();
        let groups = self.groups.iter().filter(|(_, group)| group.sources.iter().any(|name| name == source));
        let of_groups: Vec<Objective> = groups.filter_map(|(name, _)| self.objectives.get(name)).copied().collect();
        let strictest = |key: fn(&Objective) -> Option<Length>| {
            key(&own).or_else(|| of_groups.iter().filter_map(key).min_by_key(|length| length.0))
        };
        Objective {
            rpo: strictest(|objective| objective.rpo),
            rto: strictest(|objective| objective.rto),
            drill_every: strictest(|objective| objective.drill_every),
        }
    }

    pub(super) fn check_objectives(&self) -> Result<(), (String, String)> {
        for name in self.objectives.keys() {
            let section = || format!("[objectives.{name}]");
            match (self.sources.contains_key(name), self.groups.contains_key(name)) {
                (false, false) => return Err((section(), format!("there is no source and no group `{name}`"))),
                (true, true) => return Err((section(), format!("`{name}` is a source and a group; rename one"))),
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        let sources = "[sources.a]\nkind = \"volume\"\npath = \"/a\"\n[sources.b]\nkind = \"volume\"\npath = \"/b\"\n\
                       [groups.g]\nsources = [\"a\", \"b\"]\n[groups.h]\nsources = [\"b\"]\n";
        Config::parse(&format!("{sources}{text}"), Path::new("lifeboat.toml")).map_err(|e| {
            let cause = std::error::Error::source(&e).map(|s| format!(": {s}")).unwrap_or_default();
            format!("{e}{cause}")
        })
    }

    #[test]
    fn the_nearer_objective_wins_and_of_groups_the_strictest() {
        let config = parse(
            "[objectives.a]\nrpo = \"30m\"\n[objectives.g]\nrpo = \"1h\"\nrto = \"4h\"\n[objectives.h]\nrto = \"90s\"\n\
             drill_every = \"7d\"\n",
        )
        .unwrap();
        let length = |text| Some(Length::parse(text).unwrap());
        let a = config.objective_of("a");
        assert_eq!((a.rpo, a.rto, a.drill_every), (length("30m"), length("4h"), None));
        let b = config.objective_of("b");
        assert_eq!((b.rpo, b.rto, b.drill_every), (length("1h"), length("90s"), length("7d")));
        assert_eq!(config.objective_of("elsewhere"), Objective::default());
    }

    #[test]
    fn mistakes_are_named() {
        for (text, expected) in [
            ("[objectives.nobody]\nrpo = \"1h\"\n", "no source and no group `nobody`"),
            ("[objectives.a]\nrpo = \"1 hour\"\n", "no length of time"),
            ("[objectives.a]\nrpo = \"0s\"\n", "no length of time"),
            ("[objectives.a]\nrpq = \"1h\"\n", "`rpq`"),
            ("[sources.a.drill]\namchek = false\n", "`amchek`"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
