//! `wal push` and `wal get`. Their exit codes decide whether PostgreSQL keeps, recycles or loses data.

use crate::cli::Outcome;
use crate::cli::context::Context;
use crate::cli::report::Failure;
use crate::cli::wal_args::{WalGetArgs, WalPushArgs};
use crate::config::Plan;
use crate::model::SegmentName;
use crate::ops::wal::{Got, get, push, stream_of};
use crate::plan::restore::show;
use crate::progress::Silent;

/// Runs `wal push`.
pub fn run_push(context: &Context, args: &WalPushArgs) -> Result<Outcome, Failure> {
    let source = source(context, args.source.as_deref())?;
    let (mut repository, _) = context.open_unsynced(&Silent)?;
    let pushed = push(&mut repository, &source, &args.path, args.ahead, context.now(), &Silent)?;
    let name = args.path.file_name().unwrap_or_default().to_string_lossy();
    let newest = pushed.newest.map_or(String::new(), |newest| format!("; last commit {}", show(newest)));
    let ahead = if pushed.ahead > 0 { format!("; {} more sent along", pushed.ahead) } else { String::new() };
    let done = if pushed.known { "was there already" } else { "is stored" };
    context.ui.story(format!("{name} {done}{ahead}{newest}"));
    Ok(Outcome::Done)
}

/// Runs `wal get`.
pub fn run_get(context: &Context, args: &WalGetArgs) -> Result<Outcome, Failure> {
    match try_get(context, args) {
        Ok(Got::Placed) => Ok(Outcome::Done),
        Ok(Got::Absent) => Ok(Outcome::Absent),
        Err(failure) => {
            failure.print(&mut std::io::stderr().lock(), context.ui.json);
            Ok(if args.standby { Outcome::Absent } else { Outcome::Trouble })
        }
    }
}

fn try_get(context: &Context, args: &WalGetArgs) -> Result<Got, Failure> {
    // The plan has proven that the target lies before; a server that missed it says so and stops.
    let beyond = |end: &SegmentName| args.name.parse::<SegmentName>().is_ok_and(|name| name >= *end);
    if args.ends_at.as_ref().is_some_and(beyond) {
        return Ok(Got::Absent);
    }
    let stream = match &args.stream {
        Some(stream) => stream.clone(),
        None => stream_of(&source(context, args.source.as_deref())?, &args.target, &args.name)
            .map_err(crate::ops::Error::from)?,
    };
    let (repository, _) = context.open_unsynced(&Silent)?;
    Ok(get(&repository, &stream, &args.name, &args.target)?)
}

/// The source that is meant: the one that was named, or the only one of its kind.
fn source(context: &Context, named: Option<&str>) -> Result<String, Failure> {
    if let Some(name) = named {
        return Ok(name.to_owned());
    }
    let is_cluster = |name: &&String| matches!(context.config.sources[*name].plan(name), Ok(Plan::Postgres { .. }));
    let all: Vec<&String> = context.config.sources.keys().filter(is_cluster).collect();
    match all.as_slice() {
        [one] => Ok((*one).clone()),
        [] => Err(Failure::usage(
            "no source of kind postgres is configured",
            "Say which one it is: `--source NAME`, or write [sources.NAME] with `kind = \"postgres\"`.",
        )),
        several => {
            let names: Vec<&str> = several.iter().map(|name| name.as_str()).collect();
            Err(Failure::usage(
                format!("several sources are clusters: {}", names.join(", ")),
                "Say which one: `--source NAME`.",
            ))
        }
    }
}
