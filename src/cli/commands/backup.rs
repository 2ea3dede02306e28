//! `backup`: sources of the configuration, or one of the command line.

use std::sync::Arc;
use std::time::Instant;

use crate::cli::Outcome;
use crate::cli::args::BackupArgs;
use crate::cli::context::Context;
use crate::cli::output::{count, counted, duration, size};
use crate::cli::report::Failure;
use crate::config::{Plan, parse_size};
use crate::model::RelPath;
use crate::ops::backup::{BackupOptions, BackupReport, backup};
use crate::plan::restore::show;
use crate::progress::Progress;
use crate::repository::is_source_name;
use crate::source::{CommandSource, Rules, Source, StdinSource, VolumeSource};

/// A source to back up now.
struct Task {
    name: String,
    source: Box<dyn Source>,
    tags: Vec<String>,
}

/// Runs it.
pub fn run(context: &Context, args: &BackupArgs) -> Result<Outcome, Failure> {
    let tasks = tasks(context, args)?;
    let progress = context.progress(true);
    let (mut repository, problems) = context.open(&*progress)?;
    repository.host()?;
    let mut outcome = if problems.is_empty() { Outcome::Done } else { Outcome::Incomplete };
    for task in tasks {
        let options =
            BackupOptions { force: args.force, tags: [task.tags, args.tag.clone()].concat(), wait: args.wait };
        let started = Instant::now();
        let shared: Arc<dyn Progress> = Arc::clone(&progress) as _;
        let report = backup(&*task.source, &task.name, &mut repository, &options, &context.world()?, &shared);
        progress.clear();
        let report = report?;
        for problem in &report.problems {
            context.ui.warning(problem);
        }
        if report.record.skipped > 0 || !report.problems.is_empty() {
            outcome = Outcome::Incomplete;
        }
        tell(context, &report, started.elapsed().as_secs_f64())?;
    }
    Ok(outcome)
}

fn tasks(context: &Context, args: &BackupArgs) -> Result<Vec<Task>, Failure> {
    if args.path.is_some() || args.stdin || !args.command.is_empty() {
        return Ok(vec![ad_hoc(context, args)?]);
    }
    let config = &context.config;
    let names: Vec<String> = if args.all {
        config.sources.keys().cloned().collect()
    } else if let Some(group) = &args.group {
        let found = config.groups.get(group);
        let hint = "Groups stand in the configuration as [groups.NAME].";
        found.ok_or_else(|| Failure::usage(format!("there is no group `{group}`"), hint))?.sources.clone()
    } else {
        args.sources.clone()
    };
    if names.is_empty() {
        return Err(Failure::usage(
            "there is nothing to back up",
            "Name a source, or `--all`, or without a configuration: `lifeboat backup --path DIR --name NAME`.",
        ));
    }
    let known = || config.sources.keys().cloned().collect::<Vec<_>>().join(", ");
    names
        .into_iter()
        .map(|name| {
            let section = config.sources.get(&name).ok_or_else(|| {
                let hint = match config.sources.is_empty() {
                    true => "No configuration was found, or it has no [sources.NAME].".to_owned(),
                    false => format!("The configuration has: {}.", known()),
                };
                Failure::usage(format!("there is no source `{name}`"), hint)
            })?;
            let plan = section.plan(&name).map_err(|why| Failure::usage(why, "See the configuration."))?;
            Ok(Task { source: build(context, plan)?, name, tags: section.tags.clone() })
        })
        .collect()
}

fn build(context: &Context, plan: Plan) -> Result<Box<dyn Source>, Failure> {
    Ok(match plan {
        Plan::Volume { path, rules } => Box::new(VolumeSource::new(&path, &rules)?),
        Plan::Command { command, file_name } => Box::new(CommandSource::new(file_name, context.now(), command)),
    })
}

fn ad_hoc(context: &Context, args: &BackupArgs) -> Result<Task, Failure> {
    let name = args.name.clone().ok_or_else(|| {
        Failure::usage("the source has no name", "Give it one with `--name NAME`; it is what you will restore it by.")
    })?;
    if !is_source_name(&name) {
        let hint = "A source's name has letters, digits, `-`, `_` and `.`, at most 64.";
        return Err(Failure::usage(format!("`{name}` is no name for a source"), hint));
    }
    let larger = args.exclude_larger_than.as_deref().map(parse_size).transpose();
    let rules = Rules {
        exclude: args.exclude.clone(),
        exclude_file: args.exclude_file.clone(),
        exclude_if_present: args.exclude_if_present.clone(),
        exclude_caches: args.exclude_caches,
        exclude_larger_than: larger.map_err(|e| Failure::usage(e, "As in `--exclude-larger-than 4G`."))?,
        one_file_system: args.one_file_system,
    };
    let file_name = args.file_name.clone().unwrap_or_else(|| name.clone());
    let file_name = RelPath::new(file_name.into_bytes()).ok().filter(|path| path.components().count() == 1);
    let file_name = file_name.ok_or_else(|| Failure::usage("`--file-name` must be one name", "Leave `/` out."))?;
    let source: Box<dyn Source> = match &args.path {
        Some(path) => Box::new(VolumeSource::new(path, &rules)?),
        None if args.stdin => Box::new(StdinSource::new(file_name, context.now(), Box::new(std::io::stdin()))),
        None => Box::new(CommandSource::new(file_name, context.now(), args.command.clone())),
    };
    Ok(Task { name, source, tags: Vec::new() })
}

fn tell(context: &Context, report: &BackupReport, seconds: f64) -> Result<(), Failure> {
    let (ui, record, counts) = (context.ui, &report.record, &report.counts);
    if ui.json {
        return ui.json(&serde_json::json!({
            "message_type": "summary",
            "snapshot_id": record.id,
            "source": record.source,
            "complete": record.complete,
            "files_new": report.files_new,
            "files_changed": report.files_changed,
            "files_unmodified": report.files_unmodified,
            "files_skipped": record.skipped,
            "skipped": report.skipped,
            "data_added": counts.bytes_new,
            "data_added_packed": counts.stored,
            "packs_added": counts.packs,
            "chunks_new": counts.chunks_new,
            "chunks_reused": counts.chunks_reused,
            "total_files_processed": record.files,
            "total_bytes_processed": record.bytes,
            "bytes_read": report.bytes_read,
            "total_duration": seconds,
            "ended": record.ended,
        }));
    }
    let state = if record.complete {
        "complete".to_owned()
    } else {
        let total = record.entries + record.skipped;
        format!("INCOMPLETE: {} of {} things were not read right", count(record.skipped), count(total))
    };
    ui.answer(format!("snapshot  {}  {state}", record.id))?;
    for (path, why) in &report.skipped {
        ui.answer(format!("  skipped `{path}`: {why}"))?;
    }
    let files = counted(record.files, "file", "files");
    ui.answer(format!("source    {}: {files}, {}", record.source, size(record.bytes)))?;
    ui.answer(format!(
        "read      {} ({} new, {} changed, {} unchanged) in {}",
        size(report.bytes_read),
        count(report.files_new),
        count(report.files_changed),
        count(report.files_unmodified),
        duration(seconds)
    ))?;
    let there = match record.bytes {
        0 => 100,
        total => 100 - (counts.bytes_new.min(total) * 100).div_ceil(total),
    };
    let packs = counted(counts.packs, "pack", "packs");
    ui.answer(format!("stored    {} in {packs}; {there} % was already there", size(counts.stored)))?;
    ui.answer(format!("restores  to {}", show(record.ended)))
}
