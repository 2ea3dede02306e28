//! `status`: one line a source, for people, for cron, for Nagios, for Prometheus.

use std::fmt::Write;
use std::path::Path;

use super::restore::staged;
use crate::cli::Outcome;
use crate::cli::args::StatusArgs;
use crate::cli::context::Context;
use crate::cli::output::{count, duration, size};
use crate::cli::report::Failure;
use crate::ops::status::{Limits, SourceStatus, Weight, status};
use crate::plan::restore::show;

/// Runs it.
pub fn run(context: &Context, args: &StatusArgs) -> Result<Outcome, Failure> {
    let found = look(context, args);
    if !args.nagios {
        let found = found?;
        if let Some(file) = &args.prometheus {
            write_metrics(file, &found, context.now())?;
        }
        show_all(context, &found)?;
        return Ok(outcome(&found));
    }
    // Nagios reads 0, 1, 2 and 3, and one line.
    match found {
        Ok(found) => {
            context.ui.answer(nagios_line(&found))?;
            Ok(match found.iter().map(SourceStatus::weight).max().unwrap_or(Weight::Warning) {
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

fn look(context: &Context, args: &StatusArgs) -> Result<Vec<SourceStatus>, Failure> {
    let progress = context.progress(false);
    let (repository, _) = context.open(&*progress)?;
    let mut names: Vec<String> = match args.sources.is_empty() {
        true => context.config.sources.keys().cloned().collect(),
        false => args.sources.clone(),
    };
    if names.is_empty() {
        let rows = repository.catalog().snapshots().map_err(crate::ops::Error::from)?;
        names = rows.iter().map(crate::catalog::SnapshotRow::full_name).collect();
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
    Ok(status(&repository, &wanted, context.now())?)
}

fn outcome(found: &[SourceStatus]) -> Outcome {
    match found.iter().map(SourceStatus::weight).max() {
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

fn show_all(context: &Context, found: &[SourceStatus]) -> Result<(), Failure> {
    let ui = context.ui;
    if ui.json {
        let sources: Vec<_> = found
            .iter()
            .map(|one| {
                let mut value = serde_json::json!(one);
                value["state"] = serde_json::json!(one.weight());
                value
            })
            .collect();
        return ui.json(&serde_json::json!({"message_type": "status", "sources": sources}));
    }
    for one in found {
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
        for trouble in &one.troubles {
            ui.answer(format!("          {}: {}", sign(trouble.weight), trouble.words))?;
        }
    }
    if found.is_empty() {
        ui.story("there is no source yet");
    }
    Ok(())
}

fn nagios_line(found: &[SourceStatus]) -> String {
    let worst = found.iter().max_by_key(|one| one.weight());
    let word = match worst.map(SourceStatus::weight) {
        Some(Weight::Fine) => "OK",
        None | Some(Weight::Warning) => "WARNING",
        Some(Weight::Missed | Weight::Damaged) => "CRITICAL",
    };
    let words = worst.and_then(|one| Some(format!("{}: {}", one.source, one.troubles.first()?.words)));
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
fn write_metrics(file: &Path, found: &[SourceStatus], now: crate::model::Moment) -> Result<(), Failure> {
    let part = staged(file);
    let written = std::fs::write(&part, metrics(found, now)).and_then(|()| std::fs::rename(&part, file));
    written.map_err(|e| Failure::io("write", file, e))
}

/// Prometheus' text format, version 0.0.4.
fn metrics(found: &[SourceStatus], now: crate::model::Moment) -> String {
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
    let _ = writeln!(
        text,
        "# HELP lifeboat_status_timestamp_seconds when this was written\n# TYPE lifeboat_status_timestamp_seconds gauge"
    );
    let _ = writeln!(text, "lifeboat_status_timestamp_seconds {}", now.timestamp_millis() as f64 / 1000.0);
    text
}
