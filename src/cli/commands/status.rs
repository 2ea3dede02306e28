//! `status`: one line a source, for people, for cron, for Nagios, for Prometheus.

use std::fmt::Write;
use std::path::Path;

use super::copy::{Standing, standings};
use super::restore::staged;
use crate::cli::Outcome;
use crate::cli::args::StatusArgs;
use crate::cli::context::Context;
use crate::cli::output::{count, counted, duration, size};
use crate::cli::report::Failure;
use crate::model::convex::FILES_KIND;
use crate::ops::status::{Limits, SourceStatus, Weight, status};
use crate::plan::restore::show;

/// Runs it.
pub fn run(context: &Context, args: &StatusArgs) -> Result<Outcome, Failure> {
    let found = look(context, args);
    if !args.nagios {
        let (found, copies) = found?;
        if let Some(file) = &args.prometheus {
            write_metrics(file, &found, &copies, context.now())?;
        }
        show_all(context, &found, &copies)?;
        return Ok(outcome(worst(&found, &copies)));
    }
    // Nagios reads 0, 1, 2 and 3, and one line.
    match found {
        Ok((found, copies)) => {
            context.ui.answer(nagios_line(&found, &copies))?;
            Ok(match worst(&found, &copies).unwrap_or(Weight::Warning) {
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

/// The gravest of all.
fn worst(found: &[SourceStatus], copies: &[Standing]) -> Option<Weight> {
    found.iter().map(SourceStatus::weight).chain(copies.iter().map(|copy| copy.state)).max()
}

/// Sources, and copies of the whole; of sources that were named those alone.
fn look(context: &Context, args: &StatusArgs) -> Result<(Vec<SourceStatus>, Vec<Standing>), Failure> {
    let progress = context.progress(false);
    let (repository, _) = context.open(&*progress)?;
    let mut names: Vec<String> = match args.sources.is_empty() {
        true => context.config.sources.keys().cloned().collect(),
        false => args.sources.clone(),
    };
    if names.is_empty() {
        let rows = repository.catalog().snapshots().map_err(crate::ops::Error::from)?;
        names = rows
            .iter()
            .filter(|row| row.record.kind != FILES_KIND)
            .map(crate::catalog::SnapshotRow::full_name)
            .collect();
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
    let copies = if args.sources.is_empty() { standings(context, &repository)? } else { Vec::new() };
    Ok((status(&repository, &wanted, context.now())?, copies))
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

fn show_all(context: &Context, found: &[SourceStatus], copies: &[Standing]) -> Result<(), Failure> {
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
        return ui.json(&serde_json::json!({"message_type": "status", "sources": sources, "copies": copies}));
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
    for copy in copies {
        let (name, snapshots) = (&copy.name, counted(copy.snapshots, "snapshot", "snapshots"));
        let at = copy.at.map_or_else(|| "never".to_owned(), show);
        ui.answer(format!("{:8}  copy {name:15}  {at}  {snapshots}", sign(copy.state)))?;
        if let Some(words) = &copy.words {
            ui.answer(format!("          {}: {words}", sign(copy.state)))?;
        }
    }
    if found.is_empty() {
        ui.story("there is no source yet");
    }
    Ok(())
}

fn nagios_line(found: &[SourceStatus], copies: &[Standing]) -> String {
    let gravest = worst(found, copies);
    let word = match gravest {
        Some(Weight::Fine) => "OK",
        None | Some(Weight::Warning) => "WARNING",
        Some(Weight::Missed | Weight::Damaged) => "CRITICAL",
    };
    let source = found.iter().find(|one| Some(one.weight()) == gravest);
    let words = source.and_then(|one| Some(format!("{}: {}", one.source, one.troubles.first()?.words)));
    let copy = || copies.iter().find_map(|copy| Some(format!("copy {}: {}", copy.name, copy.words.as_ref()?)));
    let words = words.or_else(copy);
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
fn write_metrics(
    file: &Path,
    found: &[SourceStatus],
    copies: &[Standing],
    now: crate::model::Moment,
) -> Result<(), Failure> {
    let part = staged(file);
    let written = std::fs::write(&part, metrics(found, copies, now)).and_then(|()| std::fs::rename(&part, file));
    written.map_err(|e| Failure::io("write", file, e))
}

/// Prometheus' text format, version 0.0.4.
fn metrics(found: &[SourceStatus], copies: &[Standing], now: crate::model::Moment) -> String {
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
    let _ = writeln!(
        text,
        "# HELP lifeboat_status_timestamp_seconds when this was written\n# TYPE lifeboat_status_timestamp_seconds gauge"
    );
    let _ = writeln!(text, "lifeboat_status_timestamp_seconds {}", now.timestamp_millis() as f64 / 1000.0);
    text
}
