//! `check --live`: the source, not the store.

use std::sync::Arc;

use crate::cli::Outcome;
use crate::cli::context::Context;
use crate::cli::progress::Console;
use crate::cli::report::Failure;
use crate::cli::time::parse_duration;
use crate::config::Plan;
use crate::model::sight::{self, Sight};
use crate::ops::live::{
    LiveReport, Weight, check_cluster, check_deployment, check_dumps, glance_cluster, glance_deployment,
};
use crate::progress::Progress;
use crate::repository::Repository;
use crate::source::PgDumpSource;
use crate::source::convex::ConvexSource;

/// Glances at the servers of the named sources, of all where none is named, for `status`. One that is away holds nobody up.
pub fn glance(context: &Context, repository: &mut Repository, named: &[String], progress: &Arc<Console>) {
    for (name, section) in &context.config.sources {
        let is_meant = named.is_empty() || named.contains(name);
        let Some(Ok(plan)) = is_meant.then(|| section.plan(name)) else { continue };
        let found = match plan {
            Plan::Postgres(options) => glance_cluster(repository, &options),
            Plan::Convex(options) => {
                let shared: Arc<dyn Progress> = progress.clone();
                let source = ConvexSource::new(*options, context.now(), shared).map_err(Into::into);
                source.and_then(|source| glance_deployment(&source, &|| context.now()))
            }
            _ => continue,
        };
        note(context, repository, name, &found, false);
    }
}

/// Leaves what was seen for `status`. A whole look takes the place of all that was seen of the source.
pub fn note(
    context: &Context,
    repository: &mut Repository,
    name: &str,
    found: &Result<LiveReport, crate::ops::Error>,
    whole: bool,
) {
    let (now, connection) = (context.now(), sight::live("connection"));
    let seen = match found {
        Ok(report) => report.sights(now),
        Err(e) => {
            let words = format!("its server could not be asked: {}", crate::ops::chain(e));
            vec![Sight::new(connection.clone(), now, Some(words))]
        }
    };
    // Of a server that was not reached nothing else is known anew.
    let heard = found.is_ok();
    let of_look = |what: &str| whole && what != sight::RETENTION;
    let replaces = |what: &str| what == connection || (heard && (of_look(what) || sight::is_slot(what)));
    if let Err(e) = repository.catalog_mut().set_sights(name, replaces, &seen) {
        context.ui.warning(format!("`status` does not hear of it: {e}"));
    }
}

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
    let mut opened = None;
    let report = match plan {
        Plan::Postgres(options) => {
            let repository = &opened.insert(context.open_unsynced(&*progress)?).0;
            check_cluster(repository, &options, patience, &*progress)
        }
        Plan::PgDump(options) => {
            let shared: Arc<dyn Progress> = progress.clone();
            PgDumpSource::new(*options, context.now(), shared)
                .map_err(Into::into)
                .and_then(|source| check_dumps(&source))
        }
        Plan::Convex(options) => {
            let shared: Arc<dyn Progress> = progress.clone();
            ConvexSource::new(*options, context.now(), shared)
                .map_err(Into::into)
                .and_then(|source| check_deployment(&source, &|| context.now()))
        }
        _ => {
            context.ui.answer(format!("`{name}` is read when it is backed up: there is nothing live to check"))?;
            return Ok(Outcome::Done);
        }
    };
    // A deployment can be looked at before there is a repository.
    let opened = opened.or_else(|| context.open_unsynced(&*progress).ok());
    if let Some((mut repository, _)) = opened {
        note(context, &mut repository, name, &report, true);
    }
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
