//! `restore`: plan, show, do. Into a directory or as tar here; into a server next door.

use std::path::Path;
use std::time::Instant;

use super::{restore_bucket, restore_cluster, restore_convex, restore_databases};
use crate::catalog::SnapshotRow;
use crate::cli::Outcome;
use crate::cli::args::{OverwriteArg, RestoreArgs};
use crate::cli::context::Context;
use crate::cli::output::{count, counted, duration, size};
use crate::cli::report::Failure;
use crate::client::Connection;
use crate::destination::Directory;
use crate::model::{RelPath, SnapshotId};
use crate::ops::Selection;
use crate::ops::cluster::{Which, gather};
use crate::ops::restore::{
    LandingState, Overwrite, Prepared, RestoreOptions, RestorePlan, RestoreReport, find_blobs, find_snapshot, prepare,
    restore, restore_tar,
};
use crate::plan::restore::{Choice, Wanted, show};
use crate::repository::Repository;

/// Paths that `--delete` will remove are listed up to this many.
const LISTED: usize = 50;

/// Runs it.
pub fn run(context: &Context, args: &RestoreArgs) -> Result<Outcome, Failure> {
    if let (Some(group), Some(into)) = (&args.group, &args.into) {
        return super::restore_group::run(context, args, group, into);
    }
    if args.source.is_empty() {
        let hint = "`lifeboat snapshots` lists what there is; `--group NAME` takes all sources of a group.";
        return Err(Failure::usage("no source was named", hint));
    }
    one(context, args, &mut None)
}

/// Restores one source: by the snapshot that was chosen before, or by what was asked for; which one it was is told.
pub(super) fn one(context: &Context, args: &RestoreArgs, chosen: &mut Option<SnapshotId>) -> Result<Outcome, Failure> {
    if let Some(url) = args.into.as_deref().and_then(Path::to_str).filter(|into| Connection::is_url(into)) {
        return super::restore_server::run(context, args, url);
    }
    if let Some(url) = restore_bucket::target(args.into.as_deref()) {
        return restore_bucket::run(context, args, url, chosen);
    }
    if let Some(into) = restore_convex::target(args.into.as_deref())
        && let Some(outcome) = restore_convex::run(context, args, into)?
    {
        return Ok(outcome);
    }
    if let Some(flag) = args.convex.first(false) {
        let hint = "Name an archive or a deployment: `--into FILE.zip`, `--into http://HOST:3210`.";
        return Err(Failure::usage(
            format!("`{flag}` is for a Convex deployment that is restored into one of these"),
            hint,
        ));
    }
    // Of a server's programs a restored cluster has need too.
    if let Some(flag) = args.server.first().filter(|flag| *flag != "--bin-dir" || !args.cluster.start) {
        let hint = "Name the server: `--into postgresql://USER@HOST`.";
        return Err(Failure::usage(format!("`{flag}` is for dumps that are restored into a PostgreSQL server"), hint));
    }
    let progress = context.progress(true);
    let (wanted, read_as) = context.wanted(&args.which)?;
    let (mut repository, _) = context.open(&*progress)?;
    if let (Some(into), Some(local)) = (&args.into, context.local_repository()?) {
        refuse_repository(into, &local)?;
    }
    let options = options(args)?;
    // The files of a base backup alone are had as tar, by the snapshot's id.
    if args.tar.is_none()
        && let Some(cluster) = gather(&repository, &args.source, which(args, &wanted))?
    {
        let asked = (wanted, read_as);
        return restore_cluster::run(context, args, &mut repository, &cluster, asked, options, &progress);
    }
    if let Some(into) = args.into.as_deref().filter(|_| args.tar.is_none() && is_plain(args)) {
        let asked = (&wanted, read_as.as_deref());
        if let Some((outcome, id)) = restore_convex::tree(context, args, &repository, asked, into, &progress)? {
            *chosen = Some(id);
            return Ok(outcome);
        }
    }
    let (snapshot, choice) = find(context, args, &repository, &wanted, *chosen)?;
    *chosen = Some(choice.id);
    warn_passed_over(context, &choice);
    warn_forgotten(context, &snapshot);
    let record = snapshot.record.clone();
    let prepared = prepare(&repository, snapshot, &choice, args.into.as_deref(), options, &*progress);
    progress.clear();
    let prepared = prepared?;
    if let Some(file) = args.tar.as_deref() {
        look_at_tar(context, args, &prepared, file)?;
    }
    show_plan(context, args, &prepared.plan, &repository, read_as.as_deref())?;
    if args.dry_run {
        context.ui.story("Nothing was written (--dry-run).");
        return Ok(Outcome::Done);
    }
    let started = Instant::now();
    if let Some(file) = &args.tar {
        to_tar(&repository, &prepared, file, &*progress)?;
        progress.clear();
        context.ui.story(format!("restored  as tar in {}", duration(started.elapsed().as_secs_f64())));
    } else {
        let report = restore(&mut repository, &prepared, &*progress);
        progress.clear();
        tell(context, &report?, started.elapsed().as_secs_f64())?;
        if let Some(into) = &args.into {
            let whole = args.include.is_empty() && args.exclude.is_empty() && args.below.is_none();
            restore_databases::check(context, &record, into, (args.verify, whole), &*progress)?;
        }
    }
    // Problems of the logs were told as warnings; what was asked for is restored.
    Ok(Outcome::Done)
}

/// Whether nothing is said of single files, of which a time between two snapshots has none.
fn is_plain(args: &RestoreArgs) -> bool {
    let flags = args.delta || args.delete || args.verify || args.overwrite.is_some();
    args.include.is_empty() && args.exclude.is_empty() && args.below.is_none() && !flags
}

/// The snapshot that is restored. In a group blobs follow their database.
pub(super) fn find(
    context: &Context,
    args: &RestoreArgs,
    repository: &Repository,
    wanted: &Wanted,
    chosen: Option<SnapshotId>,
) -> Result<(SnapshotRow, Choice), Failure> {
    if let Some(id) = chosen {
        return Ok(find_snapshot(repository, &args.source, &Wanted::Named(id.to_string()), false)?);
    }
    if let (Some(_), Wanted::At(asked)) = (&args.group, wanted)
        && let Some((row, blobs)) = find_blobs(repository, &args.source, *asked)?
    {
        if let Some(since) = blobs.missing_since {
            context.ui.warning(format!(
                "`{}` has no snapshot that began after that time: blobs written since {} may be missing",
                args.source,
                show(since)
            ));
        }
        return Ok((row, blobs.choice));
    }
    Ok(find_snapshot(repository, &args.source, wanted, args.exact)?)
}

/// A source may have been several clusters, one after the other.
fn which<'a>(args: &'a RestoreArgs, wanted: &'a Wanted) -> Which<'a> {
    match (wanted, args.spelled.set.as_deref()) {
        (Wanted::Named(id), _) => Which::Of(id),
        (_, Some(id)) if id != "latest" => Which::Of(id),
        (Wanted::At(moment), _) => Which::At(*moment),
        (Wanted::Latest, _) => Which::Newest,
    }
}

pub(super) fn options(args: &RestoreArgs) -> Result<RestoreOptions, Failure> {
    Ok(RestoreOptions {
        selection: match &args.below {
            Some(below) => Selection::below(
                RelPath::new(below.trim_matches('/'))
                    .map_err(|e| Failure::usage(e.to_string(), "As in `--below files`."))?,
            ),
            None => Selection::new(&args.include, &args.exclude)?,
        },
        overwrite: match (args.overwrite, args.delta, args.delete) {
            (Some(OverwriteArg::Always), ..) => Overwrite::Always,
            (Some(OverwriteArg::IfChanged), ..) => Overwrite::IfChanged,
            (Some(OverwriteArg::IfNewer), ..) => Overwrite::IfNewer,
            (Some(OverwriteArg::Never), ..) => Overwrite::Never,
            (None, true, _) => Overwrite::Delta,
            // `--delete` alone makes the directory equal: what differs is replaced.
            (None, false, true) => Overwrite::IfChanged,
            (None, false, false) => Overwrite::Refuse,
        },
        delete: args.delete,
        verify: args.verify,
    })
}

/// A destination that is the repository, holds it or lies in it: no restore may touch that.
pub(super) fn refuse_repository(into: &Path, local: &Path) -> Result<(), Failure> {
    let there = into.ancestors().find_map(|dir| {
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        std::fs::canonicalize(dir).ok().map(|found| (found, dir == into))
    });
    let Some((found, whole)) = there else { return Ok(()) };
    if found.starts_with(local) || (whole && local.starts_with(&found)) {
        let text = format!("`{}` and the repository `{}` lie in each other", into.display(), local.display());
        return Err(Failure::usage(text, "Choose a directory that has nothing to do with the repository."));
    }
    Ok(())
}

/// Incomplete snapshots serve no time; where they are newer than what is taken, a person should know.
pub fn warn_passed_over(context: &Context, choice: &Choice) {
    if let Some((id, ended)) = choice.passed_over.last() {
        let n =
            counted(choice.passed_over.len() as u64, "newer INCOMPLETE snapshot is", "newer INCOMPLETE snapshots are");
        context.ui.warning(format!("{n} not used; the newest ended {}: `--snapshot {id}` takes it", show(*ended)));
    }
}

/// What a forgotten snapshot needs may be gone, in part or all of it.
pub fn warn_forgotten(context: &Context, snapshot: &crate::catalog::SnapshotRow) {
    if snapshot.forgotten {
        let id = snapshot.record.id;
        context.ui.warning(format!("snapshot {id} is forgotten; what it needs is there only until it is pruned"));
    }
}

/// What a tar goes to is looked at before anything is fetched.
fn look_at_tar(context: &Context, args: &RestoreArgs, prepared: &Prepared, file: &Path) -> Result<(), Failure> {
    if prepared.kind() == "postgres" {
        context.ui.warning(
            "this is a base backup's files alone, without its log and recovery.signal: a server does not come up on them. \
             `--into DIR` makes a directory that starts",
        );
    }
    if file == Path::new("-") {
        return Ok(());
    }
    refuse_existing(file, args.overwrite == Some(OverwriteArg::Always))?;
    let parent = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let free = Directory::open(parent, false).and_then(|dir| dir.free()).map_err(crate::ops::Error::from)?;
    // The archive has its holes as zeros.
    let needed = prepared.plan.bytes;
    if needed > free && std::fs::metadata(file).map_or(true, |meta| meta.is_file()) {
        let path = parent.to_owned();
        let full = crate::ops::Error::from(crate::destination::Error::NoSpace { path, free, needed });
        return Err(Failure::from(full).with_hint(
            "Choose another place, take a part with `--include`, or compress it on its way: `--tar - | zstd > FILE`.",
        ));
    }
    Ok(())
}

/// A file that is there is replaced only where that was said.
pub fn refuse_existing(file: &Path, replace: bool) -> Result<(), Failure> {
    match std::fs::metadata(file) {
        Ok(meta) if meta.is_file() && !replace => Err(Failure::usage(
            format!("`{}` is there already", file.display()),
            "Name another file, or say `--overwrite always`. It was not touched.",
        )),
        _ => Ok(()),
    }
}

/// Makes a file by a staged one that is renamed when it is whole, and removed where it does not become that. What is no regular file, as a
/// pipe or a device, is written to.
pub fn write_staged<T>(file: &Path, write: impl FnOnce(std::fs::File) -> Result<T, Failure>) -> Result<T, Failure> {
    let is_special = std::fs::metadata(file).is_ok_and(|meta| !meta.is_file());
    let part = if is_special { file.to_owned() } else { staged(file) };
    let output =
        if is_special { std::fs::OpenOptions::new().write(true).open(file) } else { std::fs::File::create(&part) };
    let output = output.map_err(|e| Failure::io("write", &part, e))?;
    let written = write(output).and_then(|done| match is_special {
        true => Ok(done),
        false => {
            let synced = std::fs::File::open(&part).and_then(|file| file.sync_all());
            let renamed = synced.and_then(|()| std::fs::rename(&part, file));
            renamed.map(|()| done).map_err(|e| Failure::io("write", file, e))
        }
    });
    if written.is_err() && !is_special {
        let _ = std::fs::remove_file(&part);
    }
    written
}

/// A file that is written under a name of its own and renamed when it is whole.
pub fn staged(file: &Path) -> std::path::PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".lifeboat-part");
    name.into()
}

fn to_tar(
    repository: &Repository,
    prepared: &Prepared,
    file: &Path,
    progress: &dyn crate::progress::Progress,
) -> Result<(), Failure> {
    if file == Path::new("-") {
        let output = std::io::BufWriter::with_capacity(1 << 20, std::io::stdout().lock());
        restore_tar(repository, prepared, output, file, progress)?;
        return Ok(());
    }
    write_staged(file, |output| {
        let output = std::io::BufWriter::with_capacity(1 << 20, output);
        restore_tar(repository, prepared, output, file, progress)?;
        Ok(())
    })
}

pub(super) fn show_plan(
    context: &Context,
    args: &RestoreArgs,
    plan: &RestorePlan,
    repository: &Repository,
    read_as: Option<&str>,
) -> Result<(), Failure> {
    let ui = context.ui;
    if ui.json {
        return ui.json(&serde_json::json!({"message_type": "plan", "plan": plan}));
    }
    // The plan is the answer of a dry run; before a restore (whose answer may be a tar on stdout) it is the story.
    let say = |line: String| {
        if args.dry_run {
            return ui.answer(line);
        }
        ui.story(line);
        Ok(())
    };
    let wanted = match read_as {
        Some(read_as) => format!("to {read_as}"),
        None => format!("as of {}", show(plan.shows)),
    };
    say(format!("plan      restore `{}` {wanted}", plan.source))?;
    let mut state = String::new();
    if let Some(asked) = plan.asked {
        let age = (asked - plan.shows).num_seconds();
        // Newer ones are taken of blobs alone: they hold all that was there before.
        let side = if age < 0 { "newer" } else { "older" };
        state = format!(", {} {side} than asked for", duration(age.unsigned_abs() as f64));
    }
    if !plan.complete {
        state.push_str(", INCOMPLETE");
    }
    say(format!("snapshot  {}, ended {}{state}", plan.snapshot, show(plan.shows)))?;
    let what = format!("{}, {}", counted(plan.files, "file", "files"), size(plan.bytes));
    say(format!("content   {what}, {} in all", counted(plan.entries, "entry", "entries")))?;
    let from = repository.store().label();
    let packs = counted(plan.packs, "pack", "packs");
    say(format!(
        "fetch     {} from {packs} in {} of {from}",
        size(plan.fetch_bytes),
        counted(plan.requests, "request", "requests")
    ))?;
    if let Some(line) = super::drill::estimate_line(repository, &args.source, plan.fetch_bytes, 0) {
        say(line)?;
    }
    if let Some(into) = &plan.into {
        let state = match plan.state {
            LandingState::Empty => "empty",
            LandingState::Occupied => "not empty",
            LandingState::Interrupted => "an interrupted restore, to be continued",
            LandingState::Stream => "a stream",
        };
        let free = plan.free.map(|free| format!(", {} free", size(free))).unwrap_or_default();
        say(format!("lands in  {} ({state}{free})", into.display()))?;
    }
    for path in plan.deletes.iter().take(LISTED) {
        say(format!("delete    {path}"))?;
    }
    if plan.deletes.len() > LISTED {
        say(format!("delete    and {} more", count((plan.deletes.len() - LISTED) as u64)))?;
    }
    Ok(())
}

pub(super) fn tell(context: &Context, report: &RestoreReport, seconds: f64) -> Result<(), Failure> {
    let ui = context.ui;
    if ui.json {
        return ui.json(&serde_json::json!({"message_type": "summary", "report": report, "total_duration": seconds}));
    }
    let written = counted(report.files_written, "file", "files");
    ui.answer(format!("restored  {written}, {} written, in {}", size(report.bytes_written), duration(seconds)))?;
    if report.files_kept > 0 || report.bytes_kept > 0 {
        let bytes = size(report.bytes_kept);
        ui.answer(match report.files_kept {
            // Of files that were mended, block by block.
            0 => format!("kept      {bytes} of what was there was right already"),
            files => format!("kept      {}, {bytes} were right already", counted(files, "file", "files")),
        })?;
    }
    if report.deleted > 0 {
        ui.answer(format!("deleted   {}", counted(report.deleted, "path", "paths")))?;
    }
    if report.verified > 0 {
        ui.answer(format!("verified  {}, digest by digest", counted(report.verified, "file", "files")))?;
    }
    if let Some((path, what)) = report.trouble.first() {
        let n = report.trouble.len() as u64;
        ui.warning(format!(
            "{} could not be set; the first: `{path}`: {what}",
            counted(n, "piece of metadata", "pieces of metadata")
        ));
    }
    Ok(())
}
