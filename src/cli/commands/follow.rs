//! `follow`: a source's changes go into the repository as they happen.

use std::io::Write;
use std::path::PathBuf;

use crate::cli::Outcome;
use crate::cli::args::FollowArgs;
use crate::cli::context::Context;
use crate::cli::output::size;
use crate::cli::report::Failure;
use crate::cli::telling::GoesOn;
use crate::cli::time::parse_duration;
use crate::config::{Plan, parse_size};
use crate::model::Moment;
use crate::ops::follow::{FollowOptions, Heard, follow, slot_name};
use crate::plan::restore::show;
use crate::progress::Silent;
use crate::repository::Repository;

/// Runs it.
pub fn run(context: &Context, args: &FollowArgs) -> Result<Outcome, Failure> {
    let section = context.config.sources.get(&args.source);
    if let Some(Ok(Plan::Convex(convex))) = section.map(|section| section.plan(&args.source)) {
        return super::documents::follow(context, args, *convex);
    }
    let mut options = options(context, args)?;
    let progress = context.progress(false);
    let (mut repository, _) = context.open(&*progress)?;
    repository.host()?;
    options.folder = folder(args, &repository);
    let mut goes_on = GoesOn::new(context, "follow", &args.source);
    let mut hear = |heard: Heard| {
        if matches!(heard, Heard::Stored { .. } | Heard::Piece { .. }) {
            goes_on.does();
        }
        tell(context, &args.source, heard);
    };
    follow(&mut repository, &options, &|| context.now(), &context.stop, &Silent, &mut hear)?;
    context.ui.story("stopped   everything that had arrived is stored");
    Ok(Outcome::Done)
}

fn options(context: &Context, args: &FollowArgs) -> Result<FollowOptions, Failure> {
    let section = context.config.sources.get(&args.source).ok_or_else(|| {
        let hint = "`follow` takes the name of a source of kind postgres or convex in the configuration.";
        Failure::usage(format!("there is no source `{}`", args.source), hint)
    })?;
    let plan = section.plan(&args.source).map_err(|why| Failure::usage(why, "See the configuration."))?;
    let Plan::Postgres(base) = plan else {
        let hint = "Clusters (`kind = \"postgres\"`) and deployments (`convex`) can be followed; back the others up more often.";
        return Err(Failure::usage(format!("`{}` is a source that cannot be followed", args.source), hint));
    };
    let base = base.with_password().map_err(crate::ops::Error::from)?;
    let interval = parse_duration(&args.interval).map_err(|e| Failure::usage(e, "As in `--interval 2s`."))?;
    let hold_max = parse_size(&args.hold).map_err(|e| Failure::usage(e, "As in `--hold 10G`."))?;
    Ok(FollowOptions {
        slot: args.slot.clone().unwrap_or_else(|| slot_name(&args.source)),
        source: args.source.clone(),
        connection: base.connection,
        bin_dir: args.bin_dir.clone().or(base.bin_dir),
        folder: PathBuf::new(),
        door: super::wal::door(context, &args.source)?,
        interval: interval.to_std().unwrap_or_default().max(std::time::Duration::from_millis(100)),
        hold_max,
    })
}

/// Where what is not stored yet lies: each repository has a place of its own.
pub(super) fn folder(args: &FollowArgs, repository: &Repository) -> PathBuf {
    args.work_dir.clone().unwrap_or_else(|| repository.folder().path().join("follow"))
}

fn tell(context: &Context, source: &str, heard: Heard) {
    let ui = context.ui;
    if ui.json {
        // A reader that went away is no reason to stop.
        let _ = ui.json(&json(source, &heard));
        return;
    }
    let known = |newest: Option<Moment>| newest.map_or(String::new(), |at| format!("; last commit {}", show(at)));
    match heard {
        Heard::Following { stream, slot, made } => {
            let made = if made { " (made now)" } else { "" };
            ui.story(format!("following {source}: slot {slot}{made}, stream {stream}"));
        }
        Heard::Stored { name, newest } => ui.story(format!("stored    {name}{}", known(newest))),
        // Every few seconds: a person who watches sees it move, a log is not filled with it.
        Heard::Piece { to, newest } => {
            tracing::info!("stored up to {to}{}", known(newest));
        }
        Heard::StoreAway { why, waiting } => ui.warning(format!(
            "the store does not take the log ({why}); it waits here ({}) and is tried again",
            size(waiting)
        )),
        Heard::StoreBack => ui.story("store     takes the log again: nothing was lost"),
        Heard::Lost { why, again_in } => {
            ui.warning(format!("the server sends no log ({why}); tried again in {} s", again_in.as_secs()));
        }
        Heard::Full { waiting } => ui.warning(format!(
            "{} of log wait here, as much as `--hold` allows: the server keeps the rest until the store is back",
            size(waiting)
        )),
        Heard::Slot(problem) => ui.warning(problem),
    }
    let _ = std::io::stdout().flush();
}

fn json(source: &str, heard: &Heard) -> serde_json::Value {
    let (event, more) = match heard {
        Heard::Following { stream, slot, made } => {
            ("following", serde_json::json!({"stream": stream, "slot": slot, "made": made}))
        }
        Heard::Stored { name, newest } => ("stored", serde_json::json!({"name": name, "newest": newest})),
        Heard::Piece { to, newest } => ("piece", serde_json::json!({"to": to.to_string(), "newest": newest})),
        Heard::StoreAway { why, waiting } => ("store_away", serde_json::json!({"why": why, "waiting": waiting})),
        Heard::StoreBack => ("store_back", serde_json::json!({})),
        Heard::Lost { why, again_in } => ("lost", serde_json::json!({"why": why, "again_in": again_in.as_secs()})),
        Heard::Full { waiting } => ("full", serde_json::json!({"waiting": waiting})),
        Heard::Slot(problem) => ("slot", serde_json::json!({"problem": problem})),
    };
    let mut line = serde_json::json!({"message_type": "follow", "source": source, "event": event});
    if let (Some(line), serde_json::Value::Object(more)) = (line.as_object_mut(), more) {
        line.extend(more);
    }
    line
}
