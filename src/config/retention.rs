//! `[retention]`, `[groups.G.retention]`, `[sources.X.retention]`: which policy is a source's, and which ones are mistakes.
//!
//! Invariants: the nearer section wins key by key; a policy that keeps nothing, a zone that is none, a window of a source without a
//! stream and two groups that both decide are refused by name.

use super::{Config, SourceKind};
use crate::model::Retention;

/// A section, and what is wrong with it.
type Wrong = (String, String);

impl Config {
    /// What to keep of a source of this configuration; `None` where nothing says it, and for sources that are not in it: those keep
    /// everything.
    pub fn retention_of(&self, source: &str) -> Option<Retention> {
        let own = self.sources.get(source)?.retention.clone().unwrap_or_default();
        let of_group = self
            .groups
            .values()
            .find(|group| group.sources.iter().any(|name| name == source) && group.retention.is_some());
        let of_group = of_group.and_then(|group| group.retention.clone()).unwrap_or_default();
        let own_window = own.window.clone();
        let policy = own.over(of_group).over(self.retention.clone().unwrap_or_default());
        // A window by default is for sources that always have a stream: a deployment may be followed or not.
        let is_cluster = self.sources.get(source).is_some_and(|section| section.kind == SourceKind::Postgres);
        let window = policy.window.clone().filter(|_| is_cluster).or(own_window);
        let timezone = policy.timezone.clone();
        // A copy keeps other snapshots; the window is a promise about the stream, wherever it lies.
        let rules = self.retention_here.clone().unwrap_or(policy);
        let policy = Retention { window, timezone: rules.timezone.clone().or(timezone), ..rules };
        (!policy.is_silent()).then_some(policy)
    }

    fn has_stream(&self, source: &str) -> bool {
        let kind = self.sources.get(source).map(|section| section.kind);
        matches!(kind, Some(SourceKind::Postgres | SourceKind::Convex))
    }

    pub(super) fn check_retention(&self) -> Result<(), Wrong> {
        let of_sources = self.sources.iter().map(|(name, s)| (format!("[sources.{name}.retention]"), &s.retention));
        let of_groups = self.groups.iter().map(|(name, g)| (format!("[groups.{name}.retention]"), &g.retention));
        let of_copies = self.copies.iter().map(|(name, c)| (format!("[copies.{name}.retention]"), &c.retention));
        let all = std::iter::once(("[retention]".to_owned(), &self.retention));
        let all = all.chain(of_groups).chain(of_sources).chain(of_copies);
        for (section, policy) in all {
            let Some(policy) = policy else { continue };
            if let Some(zone) = policy.timezone.as_ref().filter(|zone| zone.parse::<chrono_tz::Tz>().is_err()) {
                return Err((section, format!("`{zone}` is no time zone; write it as `Europe/Berlin`")));
            }
        }
        for (name, source) in &self.sources {
            let section = format!("[sources.{name}.retention]");
            if source.retention.as_ref().is_some_and(|policy| policy.window.is_some()) && !self.has_stream(name) {
                return Err((
                    section,
                    "`window` belongs to sources with a stream, of kind `postgres` or `convex`".to_owned(),
                ));
            }
            let groups: Vec<&str> = self
                .groups
                .iter()
                .filter(|(_, group)| group.retention.is_some() && group.sources.contains(name))
                .map(|(group, _)| group.as_str())
                .collect();
            if let [first, second, ..] = groups.as_slice() {
                let why = format!("source `{name}` is in group `{first}` too, and both have a policy; leave one out");
                return Err((format!("[groups.{second}.retention]"), why));
            }
            if let Some(policy) = self.retention_of(name).filter(Retention::keeps_nothing) {
                return Err((section, format!("it keeps nothing at all: {policy}; say what to keep, or leave it out")));
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
        Config::parse(text, Path::new("lifeboat.toml")).map_err(|e| {
            let cause = std::error::Error::source(&e).map(|s| format!(": {s}")).unwrap_or_default();
            format!("{e}{cause}")
        })
    }

    const SOURCES: &str = "[sources.data]\nkind = \"volume\"\npath = \"/srv\"\n[sources.db]\nkind = \"postgres\"\n";

    #[test]
    fn the_nearer_section_wins_key_by_key() {
        let config = parse(&format!(
            "{SOURCES}[retention]\nkeep_daily = 14\nkeep_weekly = 8\nwindow = \"14d\"\ntimezone = \"Europe/Berlin\"\n\
             [sources.data.retention]\nkeep_daily = 3\n[groups.night]\nsources = [\"data\"]\n\
             [groups.night.retention]\nkeep_daily = 5\nkeep_monthly = 2\n"
        ))
        .unwrap();
        let data = config.retention_of("data").unwrap();
        assert_eq!(data.to_string(), "keep_daily 3, keep_weekly 8, keep_monthly 2", "a volume has no window");
        assert_eq!(data.timezone.as_deref(), Some("Europe/Berlin"));
        let db = config.retention_of("db").unwrap();
        assert_eq!(db.to_string(), "keep_daily 14, keep_weekly 8, window 14d");
        assert_eq!(config.retention_of("elsewhere"), None, "what is not in the configuration keeps everything");
        assert_eq!(parse(SOURCES).unwrap().retention_of("data"), None);
        let convex = "[sources.app]\nkind = \"convex\"\n[retention]\nkeep_daily = 3\nwindow = \"14d\"\n";
        let told = parse(convex).unwrap().retention_of("app").unwrap().to_string();
        assert_eq!(told, "keep_daily 3", "it may not be followed");
        let convex = format!("{convex}[sources.app.retention]\nwindow = \"7d\"\n");
        assert_eq!(parse(&convex).unwrap().retention_of("app").unwrap().to_string(), "keep_daily 3, window 7d");
        assert_eq!(parse(&format!("{SOURCES}[retention]\nwindow = \"3d\"\n")).unwrap().retention_of("data"), None);
    }

    #[test]
    fn mistakes_are_named() {
        for (text, expected) in [
            ("[retention]\nkeep_dayly = 3\n", "`keep_dayly`"),
            ("[retention]\nkeep_daily = -3\n", "line 7"),
            ("[retention]\nkeep_within = \"6m\"\n", "`mo` for months"),
            ("[retention]\nkeep_within = \"a while\"\n", "no span of time"),
            ("[retention]\ntimezone = \"Berlin\"\n", "[retention]: `Berlin` is no time zone"),
            ("[sources.data.retention]\nwindow = \"14d\"\n", "`window` belongs to sources with a stream"),
            (
                "[sources.data.retention]\nkeep_last = 0\n",
                "[sources.data.retention]: it keeps nothing at all: keep_last 0",
            ),
            ("[retention]\nkeep_daily = 0\n", "it keeps nothing at all"),
            (
                "[groups.a]\nsources = [\"db\"]\n[groups.a.retention]\nkeep_last = 1\n[groups.b]\nsources = [\"db\"]\n\
                 [groups.b.retention]\nkeep_last = 2\n",
                "source `db` is in group `a` too",
            ),
        ] {
            let error = parse(&format!("{SOURCES}{text}")).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
