//! `status`: one line a source, for people, for cron, for Nagios, for Prometheus.

use std::fmt::Write;
use std::path::Path;

use serde::Serialize;

use super::copy::{Standing, standings};
use super::live::glance;
use super::restore::staged;
use crate::cli::Outcome;
use crate::cli::args::StatusArgs;
use crate::cli::context::{Context, host_name};
use crate::cli::output::{count, counted, duration, size};
use crate::cli::report::Failure;
use crate::cli::telling::{memory_of, tell};
use crate::model::Moment;
use crate::model::convex::FILES_KIND;
use crate::notify::{Event, Message};
use crate::ops::status::{Limits, SourceStatus, StoreStatus, Trouble, Weight, status, store};
use crate::plan::restore::show;
use crate::repository::{Problem, Repository};

/// How subjects of messages about the state of a source begin.
const STATUS: &str = "status/";
/// The subject of the store's: no source is called so.
const STORE: &str = "store:";
/// How its line is headed.
const STORE_LINE: &str = "(store)";

/// What there is to say.
pub struct Look {
    /// Sources.
    pub sources: Vec<SourceStatus>,
    /// The store; none where sources were named.
    pub store: Option<StoreStatus>,
    /// Copies of the whole.
    pub copies: Vec<Standing>,
    /// Channels through which nothing arrives: which, and what is wrong.
    pub silent: Vec<Silent>,
}

/// A channel through which nothing arrives.
#[derive(Debug, Clone, Serialize)]
pub struct Silent {
    /// Its name.
    pub channel: String,
    /// Since when.
    pub since: Moment,
    /// What is wrong.
    pub words: String,
}

impl Look {
    /// The gravest of all.
    pub fn worst(&self) -> Option<Weight> {
        let all = self.sources.iter().map(SourceStatus::weight).chain(self.copies.iter().map(|copy| copy.state));
        // A store without sources is no good day.
        let all = all.chain(self.store.as_ref().map(StoreStatus::weight).filter(|weight| *weight > Weight::Fine));
        let silent = (!self.silent.is_empty()).then_some(Weight::Warning);
        all.max().max(silent)
    }
}

/// Runs it.
pub fn run(context: &Context, args: &StatusArgs) -> Result<Outcome, Failure> {
    let found = look_once(context, args);
    if !args.nagios {
        let look = found?;
        // First of all: a file that cannot be written keeps nobody from hearing.
        if args.notify {
            tell_all(context, &look);
        }
        if let Some(file) = &args.prometheus {
            write_metrics(file, &look, context.now())?;
        }
        show_all(context, &look)?;
        return Ok(outcome(look.worst()));
    }
    // Nagios reads 0, 1, 2 and 3, and one line.
    match found {
        Ok(look) => {
            context.ui.answer(nagios_line(&look))?;
            Ok(match look.worst().unwrap_or(Weight::Warning) {
                Weight::Fine => Outcome::Done,
                Weight::Warning => Outcome::Unfit,
                Weight::Missed | Weight::Damaged => Outcome::Critical,
            })
        }
        Err(failure) => {
            context.ui.answer(format!("LIFEBOAT UNKNOWN - {}", failure.said()))?;
            Ok(Outcome::Incomplete)
        }
    }
}

/// Tells the channels what is wrong, and what is right again.
fn tell_all(context: &Context, look: &Look) {
    let channels: Vec<_> = context.config.channels().into_iter().flatten().collect();
    if channels.is_empty() {
        context.ui.warning("nobody is told: the configuration has no [notify.NAME]");
        return;
    }
    let known = memory_of(context).map(|file| file.read().troubles(STATUS)).unwrap_or_default();
    for message in messages(look, &known, context.now(), &host_name(None)) {
        tell(context, &channels, &message);
    }
}

/// What is to be told: what is wrong, and of what was wrong (`known`) what is right again. Those who have heard it do not hear it again.
pub fn messages(look: &Look, known: &[String], now: Moment, host: &str) -> Vec<Message> {
    let message = |event, subject: String, source: &str, weight: Weight, title: String| Message {
        event,
        subject,
        command: "status".to_owned(),
        sources: vec![source.to_owned()],
        run: String::new(),
        host: host.to_owned(),
        at: now,
        exit_code: None,
        seconds: None,
        weight: weight as u8,
        title,
        parts: std::collections::BTreeSet::new(),
        lines: Vec::new(),
    };
    let mut all = Vec::new();
    let sources = look.sources.iter().map(|one| (&*one.source, &*one.source, &*one.source, &one.troubles));
    let store = look.store.iter().map(|store| (STORE, "", "the store", &store.troubles));
    for (subject, source, name, troubles) in sources.chain(store) {
        let mut kinds: Vec<&str> = Vec::new();
        for trouble in troubles.iter().filter(|trouble| trouble.weight > Weight::Fine) {
            // Several of one kind are one trouble.
            if kinds.contains(&trouble.kind) {
                continue;
            }
            kinds.push(trouble.kind);
            let title = format!("{name} on {host}: {}: {}", sign(trouble.weight), trouble.words);
            let subject = format!("{STATUS}{subject}/{}", trouble.kind);
            all.push(message(Event::Trouble, subject, source, trouble.weight, title));
        }
    }
    for copy in look.copies.iter().filter(|copy| copy.state > Weight::Fine) {
        let words = copy.words.as_deref().unwrap_or("something is wrong");
        let title = format!("copy {} on {host}: {}: {words}", copy.name, sign(copy.state));
        all.push(message(Event::Trouble, format!("{STATUS}copy:{}/copy", copy.name), "", copy.state, title));
    }
    // Of what nobody looks at any more, nothing is known.
    let is_copy = |subject: &str| look.copies.iter().any(|copy| subject.strip_prefix("copy:") == Some(&*copy.name));
    let is_store = |subject: &str| look.store.is_some() && subject == STORE;
    let is_looked_at =
        |subject: &str| look.sources.iter().any(|one| subject == one.source) || is_copy(subject) || is_store(subject);
    for subject in known {
        let Some((of, kind)) = subject.strip_prefix(STATUS).and_then(|rest| rest.rsplit_once('/')) else { continue };
        if is_looked_at(of) && !all.iter().any(|message| message.subject == *subject) {
            let title = format!("{of} on {host} is right again: {kind}");
            all.push(message(Event::Recovered, subject.clone(), of, Weight::Fine, title));
        }
    }
    all
}

fn look_once(context: &Context, args: &StatusArgs) -> Result<Look, Failure> {
    let progress = context.progress(false);
    let (mut repository, problems) = context.open(&*progress)?;
    if args.live {
        glance(context, &mut repository, &args.sources, &progress);
    }
    look(context, &repository, &problems, &args.sources)
}

/// Sources, and copies of the whole; of sources that were named those alone.
pub fn look(
    context: &Context,
    repository: &Repository,
    problems: &[Problem],
    sources: &[String],
) -> Result<Look, Failure> {
    let mut names: Vec<String> = match sources.is_empty() {
        true => context.config.sources.keys().cloned().collect(),
        false => sources.to_vec(),
    };
    if names.is_empty() {
        let rows = repository.catalog().brief_snapshots().map_err(crate::ops::Error::from)?;
        names = rows.iter().filter(|row| *row.kind != *FILES_KIND).map(crate::catalog::BriefRow::full_name).collect();
        names.sort();
        names.dedup();
    }
    let ms = |length: Option<crate::config::Length>| length.map(|length| length.0.as_millis() as u64);
    let wanted: Vec<(String, Limits)> = names
        .into_iter()
        .map(|name| {
            let objective = context.config.objective_of(&name);
            let limits =
                Limits { rpo_ms: ms(objective.rpo), rto_ms: ms(objective.rto), drill_ms: ms(objective.drill_every) };
            (name, limits)
        })
        .collect();
    let copies = if sources.is_empty() { standings(context, repository)? } else { Vec::new() };
    let memory = memory_of(context).map(|file| file.read()).unwrap_or_default();
    let failing = memory.failing().filter(|(name, ..)| sources.is_empty() && context.config.notify.contains_key(*name));
    let silent = failing.map(|(name, since, words)| Silent {
        channel: name.to_owned(),
        since,
        words: format!("nothing arrives through it since {}: {words}", show(since)),
    });
    let store = match sources.is_empty() {
        true => {
            let recipients: Vec<String> = context.recipients()?.iter().map(|one| one.as_str().to_owned()).collect();
            let check_ms = ms(context.config.repository.check_every);
            Some(store(repository, problems, &recipients, check_ms, context.now())?)
        }
        false => None,
    };
    Ok(Look { silent: silent.collect(), copies, store, sources: status(repository, &wanted, context.now())? })
}

fn outcome(worst: Option<Weight>) -> Outcome {
    match worst {
        None | Some(Weight::Fine) => Outcome::Done,
        Some(Weight::Warning) => Outcome::Incomplete,
        Some(Weight::Missed) => Outcome::RpoMissed,
        Some(Weight::Damaged) => Outcome::Damage,
    }
}

fn age(ms: Option<u64>) -> String {
    ms.map_or_else(|| "–".to_owned(), |ms| duration(ms as f64 / 1000.0))
}

fn sign(weight: Weight) -> &'static str {
    match weight {
        Weight::Fine => "fine",
        Weight::Warning => "warning",
        Weight::Missed => "MISSED",
        Weight::Damaged => "DAMAGED",
    }
}

/// As JSON.
pub fn as_json(look: &Look) -> serde_json::Value {
    let sources: Vec<_> = look
        .sources
        .iter()
        .map(|one| {
            let mut value = serde_json::json!(one);
            value["state"] = serde_json::json!(one.weight());
            value
        })
        .collect();
    let store = look.store.as_ref().map(|store| {
        let mut value = serde_json::json!(store);
        value["state"] = serde_json::json!(store.weight());
        value
    });
    serde_json::json!({"message_type": "status", "sources": sources, "store": store, "copies": look.copies, "silent_channels": look.silent})
}

fn show_all(context: &Context, look: &Look) -> Result<(), Failure> {
    let ui = context.ui;
    if ui.json {
        return ui.json(&as_json(look));
    }
    for one in &look.sources {
        let newest = one.newest.map_or_else(|| "nothing".to_owned(), show);
        let limit = one.rpo_limit_ms.map_or(String::new(), |ms| format!(" of {}", age(Some(ms))));
        let drill = match (&one.drill, one.passed) {
            (None, _) => "never drilled".to_owned(),
            (Some(_), Some(passed)) => format!("drill passed {}", show(passed)),
            (Some(last), None) => format!("drill {} did not pass", last.id.short()),
        };
        ui.answer(format!(
            "{:8}  {:20}  {newest}  {} old{limit}  {} snapshots, {}  {drill}",
            sign(one.weight()),
            one.source,
            age(one.age_ms),
            count(one.snapshots),
            size(one.bytes)
        ))?;
        show_troubles(context, &one.troubles)?;
    }
    if let Some(store) = &look.store {
        ui.answer(format!("{:8}  {STORE_LINE:20}  {}", sign(store.weight()), checked_words(store)))?;
        show_troubles(context, &store.troubles)?;
    }
    for copy in &look.copies {
        let (name, snapshots) = (&copy.name, counted(copy.snapshots, "snapshot", "snapshots"));
        let at = copy.at.map_or_else(|| "never".to_owned(), show);
        ui.answer(format!("{:8}  copy {name:15}  {at}  {snapshots}", sign(copy.state)))?;
        if let Some(words) = &copy.words {
            ui.answer(format!("          {}: {words}", sign(copy.state)))?;
        }
    }
    for silent in &look.silent {
        ui.answer(format!("warning   notify {:13}  {}", silent.channel, silent.words))?;
    }
    if look.sources.is_empty() {
        ui.story("there is no source yet");
    }
    Ok(())
}

fn show_troubles(context: &Context, troubles: &[Trouble]) -> Result<(), Failure> {
    troubles
        .iter()
        .try_for_each(|trouble| context.ui.answer(format!("          {}: {}", sign(trouble.weight), trouble.words)))
}

/// What the last check came to.
pub fn checked_words(store: &StoreStatus) -> String {
    let Some(check) = &store.check else { return "never checked by this host".to_owned() };
    let read = match check.read.packs_read {
        0 => "nothing read".to_owned(),
        packs => format!("{} read ({})", counted(packs, "pack", "packs"), size(check.read.bytes_read)),
    };
    let end = if check.clean { "in order" } else { "DAMAGED" };
    format!("checked {}: {end}, {read}", show(check.at))
}

fn nagios_line(look: &Look) -> String {
    let (found, copies, gravest) = (&look.sources, &look.copies, look.worst());
    let word = match gravest {
        Some(Weight::Fine) => "OK",
        None | Some(Weight::Warning) => "WARNING",
        Some(Weight::Missed | Weight::Damaged) => "CRITICAL",
    };
    let source = found.iter().find(|one| Some(one.weight()) == gravest);
    let words = source.and_then(|one| Some(format!("{}: {}", one.source, one.troubles.first()?.words)));
    let copy = || copies.iter().find_map(|copy| Some(format!("copy {}: {}", copy.name, copy.words.as_ref()?)));
    let silent = || look.silent.first().map(|silent| format!("notify {}: {}", silent.channel, silent.words));
    let of_store = look.store.iter().flat_map(|store| &store.troubles).find(|one| Some(one.weight) == gravest);
    let of_store = of_store.map(|trouble| format!("the store: {}", trouble.words));
    let words = words.or(of_store).or_else(copy).or_else(silent);
    let words = words.unwrap_or_else(|| format!("{} sources", found.len()));
    let mut ages = String::new();
    for one in found {
        if let Some(ms) = one.age_ms {
            let limit = one.rpo_limit_ms.map_or(String::new(), |ms| (ms / 1000).to_string());
            let _ = write!(ages, " '{}'={}s;;{limit}", one.source, ms / 1000);
        }
    }
    // What stands behind the bar is for graphs.
    format!("LIFEBOAT {word} - {} |{ages}", words.replace('|', "/"))
}

/// The file is renamed into its place, so that a collector never reads half of one.
fn write_metrics(file: &Path, look: &Look, now: Moment) -> Result<(), Failure> {
    let part = staged(file);
    let written = std::fs::write(&part, metrics(look, now)).and_then(|()| std::fs::rename(&part, file));
    written.map_err(|e| Failure::io("write", file, e))
}

/// Prometheus' text format, version 0.0.4.
pub fn metrics(look: &Look, now: Moment) -> String {
    let (found, copies) = (&look.sources, &look.copies);
    type Value = fn(&SourceStatus) -> Option<f64>;
    let rows: [(&str, &str, Value); 9] = [
        ("recovery_point_timestamp_seconds", "the newest moment that can be restored", |one| {
            one.newest.map(|at| at.timestamp_millis() as f64 / 1000.0)
        }),
        ("recovery_point_age_seconds", "its age when this was written", |one| one.age_ms.map(|ms| ms as f64 / 1000.0)),
        ("rpo_objective_seconds", "how old it may be", |one| one.rpo_limit_ms.map(|ms| ms as f64 / 1000.0)),
        ("oldest_recovery_point_timestamp_seconds", "the oldest moment that can be restored", |one| {
            one.oldest.map(|at| at.timestamp_millis() as f64 / 1000.0)
        }),
        ("snapshots", "complete snapshots", |one| Some(one.snapshots as f64)),
        ("source_bytes", "plain bytes of the newest snapshot", |one| Some(one.bytes as f64)),
        ("added_bytes", "bytes that its snapshots added to the store", |one| Some(one.added as f64)),
        ("drill_passed_timestamp_seconds", "when the last drill that passed began", |one| {
            one.passed.map(|at| at.timestamp_millis() as f64 / 1000.0)
        }),
        ("state", "0 fine, 1 warning, 2 an objective is missed, 3 something cannot be restored", |one| {
            Some(f64::from(one.weight() as u8))
        }),
    ];
    let mut text = String::new();
    for (name, help, value) in rows {
        let _ = writeln!(text, "# HELP lifeboat_{name} {help}\n# TYPE lifeboat_{name} gauge");
        for one in found {
            if let Some(value) = value(one) {
                let source = one.source.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                let _ = writeln!(text, "lifeboat_{name}{{source=\"{source}\"}} {value}");
            }
        }
    }
    if !copies.is_empty() {
        let help = "when a copy was last brought up to date; 0 for never";
        let _ = writeln!(
            text,
            "# HELP lifeboat_copied_timestamp_seconds {help}\n# TYPE lifeboat_copied_timestamp_seconds gauge"
        );
    }
    for copy in copies {
        let at = copy.at.map_or(0.0, |at| at.timestamp_millis() as f64 / 1000.0);
        let _ = writeln!(text, "lifeboat_copied_timestamp_seconds{{copy=\"{}\"}} {at}", copy.name);
    }
    if let Some(store) = &look.store {
        let mut gauge = |name: &str, help: &str, value: f64| {
            let _ =
                writeln!(text, "# HELP lifeboat_{name} {help}\n# TYPE lifeboat_{name} gauge\nlifeboat_{name} {value}");
        };
        gauge("store_state", "as lifeboat_state, of the store", f64::from(store.weight() as u8));
        let at = store.check.as_ref().map_or(0.0, |check| check.at.timestamp_millis() as f64 / 1000.0);
        gauge("checked_timestamp_seconds", "when this host last checked the store; 0 for never", at);
    }
    let _ = writeln!(
        text,
        "# HELP lifeboat_status_timestamp_seconds when this was written\n# TYPE lifeboat_status_timestamp_seconds gauge"
    );
    let _ = writeln!(text, "lifeboat_status_timestamp_seconds {}", now.timestamp_millis() as f64 / 1000.0);
    text
}
