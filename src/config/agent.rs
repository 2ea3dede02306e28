//! `[agent]`: what runs when, on hosts without cron; and the status page.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use chrono_tz::Tz;
use serde::Deserialize;

use super::telling::RUNS;
use super::{Config, Length, SourceKind};
use crate::repository::is_source_name;
use crate::schedule::Timetable;

/// `[agent]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentSection {
    /// The zone of its times; UTC where nothing is said.
    time_zone: Option<String>,
    /// Runs begin up to so much later, so that many hosts do not begin at once.
    jitter: Option<Length>,
    /// Whether a run that was missed is made up for: yes, unless it says `false`.
    catch_up: Option<bool>,
    /// Sources whose streams are followed.
    #[serde(default)]
    pub follow: Vec<String>,
    /// How long runs may take to end when the agent is told to; then they are killed.
    pub stop_timeout: Option<Length>,
    /// What runs when.
    #[serde(default)]
    jobs: BTreeMap<String, JobSection>,
}

/// `[agent.jobs.<name>]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobSection {
    /// When, as cron writes it.
    at: String,
    /// The command with its arguments, without `lifeboat`.
    run: Words,
    /// As above, for this job.
    time_zone: Option<String>,
    /// As above, for this job.
    jitter: Option<Length>,
    /// As above, for this job.
    catch_up: Option<bool>,
}

/// Words, as a list or in one line.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "a command in one line, or a list of its words")]
enum Words {
    Line(String),
    List(Vec<String>),
}

/// `[serve]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServeSection {
    /// Where the status page listens, as `127.0.0.1:8710`.
    pub listen: Option<SocketAddr>,
    /// A file with the token that a visitor must know.
    pub token_file: Option<PathBuf>,
    /// Names of this host under which it may be asked for, beside its address and `localhost`.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// Something in front of it asks visitors who they are: no token is needed, and any name will do.
    #[serde(default)]
    pub behind_proxy: bool,
    /// `false`: an agent serves no page.
    pub in_agent: Option<bool>,
}

/// A job, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Its name.
    pub name: String,
    /// When.
    pub table: Timetable,
    /// As it was written.
    pub at: String,
    /// What.
    pub words: Vec<String>,
}

impl Config {
    /// The jobs of this host.
    ///
    /// # Errors
    /// A time or a zone that is none; the section and what is wrong.
    pub fn jobs(&self, host: &str) -> Result<Vec<Job>, (String, String)> {
        let agent = self.agent.clone().unwrap_or_default();
        let mut jobs = Vec::new();
        for (name, job) in &agent.jobs {
            let wrong = |why: String| (format!("[agent.jobs.{name}]"), why);
            if !is_source_name(name) {
                return Err(wrong("a job's name has letters, digits, `-`, `_` and `.`, at most 64".to_owned()));
            }
            let zone = zone(job.time_zone.as_ref().or(agent.time_zone.as_ref())).map_err(wrong)?;
            let jitter = job.jitter.or(agent.jitter).map_or(Duration::ZERO, |length| length.0);
            let catch_up = job.catch_up.or(agent.catch_up).unwrap_or(true);
            let seed = format!("{host}/{name}");
            let table = Timetable::parse(&job.at, zone, jitter, &seed, catch_up).map_err(wrong)?;
            jobs.push(Job { name: name.clone(), table, at: job.at.clone(), words: words(&job.run).map_err(wrong)? });
        }
        Ok(jobs)
    }

    pub(super) fn check_agent(&self) -> Result<(), (String, String)> {
        let agent = self.agent.clone().unwrap_or_default();
        let wrong = |why: String| ("[agent]".to_owned(), why);
        zone(agent.time_zone.as_ref()).map_err(wrong)?;
        for name in &agent.follow {
            match self.sources.get(name).map(|section| section.kind) {
                Some(SourceKind::Postgres | SourceKind::Convex) => {}
                Some(_) => {
                    return Err(wrong(format!("`{name}` in `follow` has no stream: clusters and Convex have one")));
                }
                None => return Err(wrong(format!("there is no source `{name}`"))),
            }
        }
        self.jobs("").map(drop)
    }
}

fn zone(text: Option<&String>) -> Result<Tz, String> {
    let Some(text) = text else { return Ok(Tz::UTC) };
    text.parse().map_err(|_| format!("`{text}` is no time zone; write it as `Europe/Berlin` or `UTC`"))
}

fn words(run: &Words) -> Result<Vec<String>, String> {
    let words: Vec<String> = match run {
        Words::Line(line) => line.split_whitespace().map(str::to_owned).collect(),
        Words::List(words) => words.clone(),
    };
    match words.first() {
        None => Err("`run` is empty".to_owned()),
        Some(first) if first == "follow" => Err("what is followed stands in `follow` of [agent]".to_owned()),
        Some(first) if RUNS.contains(&first.as_str()) => Ok(words),
        Some(first) => Err(format!("`{first}` in `run` is none of {}", RUNS.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        let source = "[sources.a]\nkind = \"volume\"\npath = \"/a\"\n[sources.db]\nkind = \"postgres\"\nconnection = \"host=x\"\n";
        Config::parse(&format!("{source}{text}"), Path::new("lifeboat.toml")).map_err(|e| {
            let cause = std::error::Error::source(&e).map(|s| format!(": {s}")).unwrap_or_default();
            format!("{e}{cause}")
        })
    }

    #[test]
    fn jobs_are_read() {
        let config = parse(
            "[agent]\ntime_zone = \"Europe/Berlin\"\nfollow = [\"db\"]\njitter = \"5m\"\n\
             [agent.jobs.nightly]\nat = \"30 3 * * *\"\nrun = \"backup --all\"\n\
             [agent.jobs.drill]\nat = \"@weekly\"\nrun = [\"drill\", \"--all\"]\ncatch_up = false\n\
             [serve]\nlisten = \"127.0.0.1:8710\"\n",
        )
        .unwrap();
        let jobs = config.jobs("host").unwrap();
        assert_eq!(jobs.iter().map(|job| job.words.join(" ")).collect::<Vec<_>>(), ["drill --all", "backup --all"]);
        assert_ne!(config.jobs("other").unwrap(), jobs, "jitter differs between hosts");
    }

    #[test]
    fn mistakes_are_named() {
        for (text, expected) in [
            ("[agent]\ntime_zone = \"Mars\"\n", "no time zone"),
            ("[agent]\nfollow = [\"a\"]\n", "has no stream"),
            ("[agent]\nfollow = [\"z\"]\n", "no source `z`"),
            ("[agent.jobs.x]\nat = \"nightly\"\nrun = \"backup\"\n", "no time of cron"),
            ("[agent.jobs.x]\nat = \"@daily\"\nrun = \"\"\n", "is empty"),
            ("[agent.jobs.x]\nat = \"@daily\"\nrun = \"rm -rf\"\n", "`rm`"),
            ("[agent.jobs.x]\nat = \"@daily\"\nrun = \"follow db\"\n", "stands in `follow`"),
            ("[agent.jobs.x]\nat = \"@daily\"\n", "`run`"),
            ("[serve]\nlisten = \"here\"\n", "socket address"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
