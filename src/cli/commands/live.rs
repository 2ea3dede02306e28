//! `check --live`: the source, not the store.

use crate::cli::Outcome;
use crate::cli::context::Context;
use crate::cli::report::Failure;
use crate::cli::time::parse_duration;
use crate::config::Plan;
use crate::ops::live::{LiveReport, Weight, check_cluster, check_deployment, check_dumps};
use crate::source::PgDumpSource;
use crate::source::convex::ConvexSource;

/// Runs it.
pub fn run(context: &Context, name: &str, patience: &str) -> Result<Outcome, Failure> {
    let patience = parse_duration(patience).map_err(|e| Failure::usage(e, "As in `--wal-timeout 60s`."))?;
    let patience = patience.to_std().unwrap_or_default();
    let Some(section) = context.config.sources.get(name) else {
        return Err(Failure::usage(
            format!("there is no source `{name}` in the configuration"),
            "Sources are written as [sources.NAME]; `--config FILE` says where.",
        ));
    };
    let progress = context.progress(true);
    let plan = section.plan(name).map_err(|why| Failure::usage(why, "`docs/configuration.md` lists every key."))?;
    let report = match plan {
        Plan::Postgres(options) => {
            let (repository, _) = context.open_unsynced(&*progress)?;
            check_cluster(&repository, &options, patience, &*progress)
        }
        Plan::PgDump(options) => {
            let shared: std::sync::Arc<dyn crate::progress::Progress> = progress.clone();
            PgDumpSource::new(*options, context.now(), shared)
                .map_err(Into::into)
                .and_then(|source| check_dumps(&source))
        }
        Plan::Convex(options) => {
            let shared: std::sync::Arc<dyn crate::progress::Progress> = progress.clone();
            ConvexSource::new(*options, context.now(), shared)
                .map_err(Into::into)
                .and_then(|source| check_deployment(&source, &|| context.now()))
        }
        _ => {
            context.ui.answer(format!("`{name}` is read when it is backed up: there is nothing live to check"))?;
            return Ok(Outcome::Done);
        }
    };
    progress.clear();
    let report = report?;
    tell(context, name, &report)?;
    Ok(if report.weight() == Weight::Problem { Outcome::Unfit } else { Outcome::Done })
}

fn tell(context: &Context, name: &str, report: &LiveReport) -> Result<(), Failure> {
    let ui = context.ui;
    if ui.json {
        let clean = report.weight() != Weight::Problem;
        return ui.json(&serde_json::json!({"message_type": "live", "source": name, "clean": clean, "report": report}));
    }
    for finding in &report.findings {
        let sign = match finding.weight {
            Weight::Fine => "ok",
            Weight::Warning => "WARNING",
            Weight::Problem => "PROBLEM",
        };
        ui.answer(format!("{sign:<9} {:<12} {}", finding.what, finding.found))?;
        if let Some(hint) = &finding.hint {
            ui.answer(format!("{:<9} {:<12} {hint}", "", ""))?;
        }
    }
    ui.answer(match report.weight() {
        Weight::Fine => "result    it can be backed up",
        Weight::Warning => "result    it can be backed up; see the warnings",
        Weight::Problem => "result    it CANNOT be relied on as it is",
    })
}
