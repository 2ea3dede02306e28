//! `wal push` and `wal get`. Their exit codes decide whether PostgreSQL keeps, recycles or loses data.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;

use crate::cli::Outcome;
use crate::cli::context::Context;
use crate::cli::output::{counted, size};
use crate::cli::report::Failure;
use crate::cli::wal_args::{WalAheadArgs, WalGetArgs, WalPushArgs};
use crate::config::{Plan, parse_size};
use crate::model::SegmentName;
use crate::ops::Kind;
use crate::ops::wal::ahead::{Ahead, Shelf, Taken, serve};
use crate::ops::wal::door::Door;
use crate::ops::wal::spool::Spool;
use crate::ops::wal::{Got, Known, Pushed, Wanted, get, push, stream_of};
use crate::plan::restore::show;
use crate::progress::Silent;

/// Runs `wal push`.
pub fn run_push(context: &Context, args: &WalPushArgs) -> Result<Outcome, Failure> {
    let source = source(context, args.source.as_deref())?;
    let name = args.path.file_name().unwrap_or_default().to_string_lossy();
    let known = Known::new(&context.state_dir()?, &what(context, &source)?);
    if known.has(&args.path, context.now()) {
        context.ui.story(format!("{name} was sent along before"));
        return Ok(Outcome::Done);
    }
    let spool = spool(context, &source)?;
    let spool_is_empty =
        spool.as_ref().is_none_or(|spool| spool.waiting().is_ok_and(|waiting| waiting.files.is_empty()));
    if spool_is_empty && let Some(stored) = door(context, &source)?.ask(&args.path, args.ahead) {
        if !stored.along.is_empty() {
            known.write(&stored.along, context.now());
        }
        context.ui.story(format!("{name} is stored, by the process that follows `{source}`"));
        return Ok(Outcome::Done);
    }
    let pushed = match push_now(context, args, &source, spool.as_ref()) {
        Ok(pushed) => pushed,
        // Only what a store that is back would take: a conflict, a damaged file or a wrong key is no reason to wait.
        Err(failure) if matches!(failure.kind(), Kind::Failed | Kind::NoRepository) => match spool {
            Some(spool) => return keep_here(context, args, &source, &spool, &failure),
            None => return Err(failure),
        },
        Err(failure) => return Err(failure),
    };
    if !pushed.along.is_empty() {
        known.write(&pushed.along, context.now());
    }
    let newest = pushed.newest.map_or(String::new(), |newest| format!("; last commit {}", show(newest)));
    let along = pushed.along.len();
    let ahead = if along > 0 { format!("; {along} more sent along") } else { String::new() };
    let done = if pushed.known { "was there already" } else { "is stored" };
    context.ui.story(format!("{name} {done}{ahead}{newest}"));
    Ok(Outcome::Done)
}

/// Where the process that follows a source can be asked to store its segments.
pub fn door(context: &Context, source: &str) -> Result<Door, Failure> {
    Ok(Door::new(&context.state_dir()?, &what(context, source)?))
}

/// What tells files of this host apart that belong to one source in one repository.
fn what(context: &Context, source: &str) -> Result<String, Failure> {
    Ok(format!("{}\n{source}", context.url()?))
}

/// What waits goes first, so that the log in the store has no gap.
fn push_now(context: &Context, args: &WalPushArgs, source: &str, spool: Option<&Spool>) -> Result<Pushed, Failure> {
    let (mut repository, _) = context.open_unsynced(&Silent)?;
    if let Some(spool) = spool {
        let sent = spool.drain(&mut repository, source, context.now(), &Silent)?;
        if sent > 0 {
            context.ui.story(format!("{} of the spool are stored", counted(sent as u64, "file", "files")));
        }
    }
    Ok(push(&mut repository, source, &args.path, args.ahead, context.now(), &Silent)?)
}

/// The spool of a source, where its configuration names one.
pub fn spool(context: &Context, source: &str) -> Result<Option<Spool>, Failure> {
    let Some(section) = context.config.sources.get(source) else { return Ok(None) };
    let Some(folder) = &section.spool else { return Ok(None) };
    let max = section.spool_max.as_deref().unwrap_or("10G");
    let max = parse_size(max).map_err(|e| Failure::usage(e, "As in `spool_max = \"20G\"`."))?;
    Ok(Some(Spool::new(folder.clone(), source, max)))
}

/// The store is away and a spool is wished for: PostgreSQL may drop its file, and whoever reads the log is told what that means.
fn keep_here(
    context: &Context,
    args: &WalPushArgs,
    source: &str,
    spool: &Spool,
    failure: &Failure,
) -> Result<Outcome, Failure> {
    let waiting = spool.keep(source, &args.path).map_err(crate::ops::Error::from)?;
    let name = args.path.file_name().unwrap_or_default().to_string_lossy();
    let oldest = waiting.files.first().map_or("", |(_, name)| name);
    context.ui.warning(format!(
        "{name} is NOT in the repository ({}); it waits in `{}` with {} since {oldest} ({} of {}). Who loses this host now \
         loses them: what can be restored elsewhere ends before {oldest}",
        failure.said(),
        spool.folder().display(),
        counted(waiting.files.len() as u64, "file", "files"),
        size(waiting.bytes),
        size(spool.max()),
    ));
    Ok(Outcome::Done)
}

/// Runs `wal get`.
pub fn run_get(context: &Context, args: &WalGetArgs) -> Result<Outcome, Failure> {
    let begun = std::time::Instant::now();
    let got = try_get(context, args);
    if let Some(file) = &args.note_time {
        // For a drill's figures alone: a line that cannot be written is no reason to stop a recovery.
        let line = format!("{}\n", begun.elapsed().as_millis());
        let file = std::fs::OpenOptions::new().create(true).append(true).open(file);
        let _ = file.and_then(|mut file| std::io::Write::write_all(&mut file, line.as_bytes()));
    }
    match got {
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
    let name = args.name.parse::<SegmentName>().ok();
    if name.zip(args.ends_at).is_some_and(|(name, end)| is_beyond(name, end)) {
        return Ok(Got::Absent);
    }
    let stream = match &args.stream {
        Some(stream) => stream.clone(),
        None => stream_of(&source(context, args.source.as_deref())?, &args.target, &args.name)
            .map_err(crate::ops::Error::from)?,
    };
    let (writer, cut) = (args.writer.as_deref(), args.cut);
    let of = format!("{}\n{stream}\n{writer:?}\n{cut:?}\n{:?}", context.url()?, args.ends_at);
    let shelf = Shelf::beside(&args.target, &of);
    if let Some(name) = name.filter(|_| args.ahead) {
        let mut taken = shelf.take(name, &args.target);
        if taken == Taken::Nobody && start_ahead(context, args, &stream, name, &shelf) {
            taken = shelf.take(name, &args.target);
        }
        if taken == Taken::Placed {
            return Ok(Got::Placed);
        }
    }
    let (repository, _) = context.open_unsynced(&Silent)?;
    Ok(get(&repository, &Wanted { stream: &stream, writer, cut }, &args.name, &args.target)?)
}

/// By the place in the log: a server that does not find a segment of its own timeline asks for that of the parent's.
fn is_beyond(name: SegmentName, end: SegmentName) -> bool {
    (name.log, name.segment) >= (end.log, end.segment)
}

/// Starts the process that fetches this segment, and those that will be asked for next. Where it cannot be started, each call
/// fetches for itself.
fn start_ahead(context: &Context, args: &WalGetArgs, stream: &str, first: SegmentName, shelf: &Shelf) -> bool {
    let started = std::env::current_exe().and_then(|exe| Ok((exe, shelf.open()?)));
    let (exe, listener) = match started {
        Ok(started) => started,
        Err(e) => {
            tracing::debug!("nothing is fetched ahead: {e}");
            return false;
        }
    };
    let mut command = std::process::Command::new(exe);
    let global = &context.global;
    let mut flag = |name: &str, value: &OsStr| {
        command.arg(name).arg(value);
    };
    let paths = [("--config", &global.config), ("--state-dir", &global.state_dir), ("--catalog", &global.catalog)];
    for (name, path) in paths {
        if let Some(path) = path {
            flag(name, path.as_os_str());
        }
    }
    for file in &global.identity {
        flag("--identity", file.as_os_str());
    }
    if let Some(repo) = &global.repo {
        flag("--repo", repo.as_ref());
    }
    for (name, text) in [("--limit-download", &global.limit_download), ("--as-of", &global.as_of)] {
        if let Some(text) = text {
            flag(name, text.as_ref());
        }
    }
    command.args(["wal", "fetch-ahead", "--stream", stream, "--first", &first.to_string(), "--folder"]);
    command.arg(shelf.folder());
    if let Some(writer) = &args.writer {
        command.args(["--writer", writer]);
    }
    if let Some(cut) = &args.cut {
        command.args(["--cut", &cut.to_string()]);
    }
    if let Some(end) = &args.ends_at {
        command.args(["--ends-at", &end.to_string()]);
    }
    let null = std::process::Stdio::null;
    // A group of its own: a signal to the server's group is none to it, and it ends by itself.
    command.stdin(OwnedFd::from(listener)).stdout(null()).stderr(null()).process_group(0);
    let spawned = command.spawn();
    if let Err(e) = &spawned {
        tracing::warn!("nothing is fetched ahead: {e}");
        let _ = std::fs::remove_dir_all(shelf.folder());
    }
    spawned.is_ok()
}

/// Runs `wal fetch-ahead`.
pub fn run_ahead(context: &Context, args: &WalAheadArgs) -> Result<Outcome, Failure> {
    let socket = std::io::stdin().as_fd().try_clone_to_owned();
    let socket = socket.map_err(|e| Failure::io("use", std::path::Path::new("the socket"), e))?;
    let (repository, _) = context.open_unsynced(&Silent)?;
    let of = Ahead {
        stream: &args.stream,
        writer: args.writer.as_deref(),
        first: args.first,
        ends_at: args.ends_at,
        cut: args.cut,
    };
    serve(&repository, &of, Shelf::at(args.folder.clone()), socket.into())?;
    Ok(Outcome::Done)
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
