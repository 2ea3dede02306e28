//! `[prune]`: how much is freed, and how long what is retired waits.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::parse_size;
use crate::model::{Retention, Span};

/// `[prune]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PruneSection {
    /// How long what is retired waits before it is deleted, as `24h`.
    pub grace: Option<Span>,
    /// Unused bytes that may stay, as `5%` of those that are needed.
    pub max_unused: Option<String>,
    /// Bytes that one prune copies at most, as `10G`.
    pub max_repack_size: Option<String>,
    /// On a keeper: of streams, by `writer/source` or by `source`, how long every second can be restored. Without, the log stays from the oldest
    /// snapshot on.
    #[serde(default)]
    pub windows: BTreeMap<String, Span>,
}

impl PruneSection {
    /// What a keeper keeps of a stream.
    pub fn window_of(&self, writer: &str, source: &str) -> Option<Retention> {
        let window = self.windows.get(&format!("{writer}/{source}")).or_else(|| self.windows.get(source))?;
        Some(Retention { window: Some(window.clone()), ..Retention::default() })
    }

    pub(super) fn check(&self) -> Result<(), String> {
        self.max_unused.as_deref().map(parse_percent).transpose()?;
        self.max_repack_size.as_deref().map(parse_size).transpose()?;
        Ok(())
    }
}

/// Reads a share, as `5%` or `0.5%`.
pub fn parse_percent(text: &str) -> Result<f64, String> {
    let number = text.trim().strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
    let sane = number.filter(|number| number.is_finite() && (0.0..=1000.0).contains(number));
    sane.ok_or_else(|| format!("`{text}` is no share; write it as `5%`"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    #[test]
    fn shares_are_read_and_mistakes_are_named() {
        assert_eq!(parse_percent("5%"), Ok(5.0));
        assert_eq!(parse_percent(" 0.5 %"), Ok(0.5));
        for bad in ["5", "-1%", "NaN%", "x%", "%", "inf%"] {
            assert!(parse_percent(bad).is_err(), "{bad}");
        }
        let good = "[prune]\ngrace = \"2d\"\nmax_unused = \"10%\"\nmax_repack_size = \"10G\"\n";
        let config = Config::parse(good, Path::new("lifeboat.toml")).unwrap();
        assert_eq!(config.prune.grace.map(|grace| grace.to_string()).as_deref(), Some("2d"));
        let kept = Config::parse("[prune.windows]\n\"db1/app\" = \"14d\"\napp = \"2d\"\n", Path::new("lifeboat.toml"))
            .unwrap();
        let window = |writer: &str, source: &str| {
            let policy = kept.prune.window_of(writer, source);
            policy.and_then(|policy| policy.window).map(|window| window.to_string())
        };
        assert_eq!(window("db1", "app").as_deref(), Some("14d"), "the full name wins");
        assert_eq!((window("db2", "app").as_deref(), window("db1", "other")), (Some("2d"), None));
        for bad in ["max_unused = \"5\"", "max_repack_size = \"much\"", "grace = \"5m\"", "keep = 3"] {
            assert!(Config::parse(&format!("[prune]\n{bad}\n"), Path::new("lifeboat.toml")).is_err(), "{bad}");
        }
    }
}
