//! `restore --into FILE.zip` and `--into http://HOST:3210` of a Convex deployment: an archive that `convex import` reads, or the import
//! itself, with the server's own words before it is confirmed and a comparison after it.

use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::restore::{staged, warn_forgotten, warn_passed_over};
use crate::cli::Outcome;
use crate::cli::args::RestoreArgs;
use crate::cli::context::Context;
use crate::cli::output::{count, counted, duration, size};
use crate::cli::report::Failure;
use crate::client::convex::{Deployment, ImportMode, Rights, parse_url};
use crate::config::Plan;
use crate::model::documents::time_of;
use crate::model::{RawText, SnapshotId};
use crate::ops::documents::{Documents, gather};
use crate::ops::restore::convex::{
    DeploymentPlan, DeploymentRestore, From, IntoPlan, Sent, Target, Verified, Wishes, left, perform, plan,
    prepare_into, send, verify, write_tree, write_zip,
};
use crate::plan::documents::show as show_time;
use crate::plan::restore::{Wanted, show};
use crate::progress::Progress;
use crate::repository::Repository;
use crate::source::convex::{ConvexOptions, KeyFrom, resolve};

/// Tables that are listed one by one.
const LISTED: usize = 50;

/// Where such a restore goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Into<'a> {
    /// An archive.
    Zip(&'a Path),
    /// A deployment.
    Deployment(&'a str),
    /// A directory, for documents as they were between snapshots.
    Tree(&'a Path),
}

/// Whether `--into` means an archive or a deployment. An archive only if nothing else lies there.
pub fn target(into: Option<&Path>) -> Option<Into<'_>> {
    let into = into?;
    match into.to_str() {
        Some(url) if url.starts_with("http://") || url.starts_with("https://") => Some(Into::Deployment(url)),
        _ if into.extension().is_some_and(|end| end == "zip") && !into.is_dir() => Some(Into::Zip(into)),
        _ => None,
    }
}

/// Runs it; none where the snapshot is of no deployment, and `--into` names a directory after all.
pub fn run(context: &Context, args: &RestoreArgs, into: Into<'_>) -> Result<Option<Outcome>, Failure> {
    let progress = context.progress(true);
    let (wanted, read_as) = context.wanted(&args.which)?;
    let (repository, _) = context.open(&*progress)?;
    let documents = gather(&repository, &args.source)?;
    let from = From::find(&repository, documents.as_ref(), &args.source, &wanted, args.exact)?;
    if from.snapshot.record.kind != "convex" && matches!(into, Into::Zip(_)) {
        return Ok(None);
    }
    carry(context, args, &repository, (documents.as_ref(), from), into, read_as.as_deref(), &progress).map(Some)
}

/// Restores documents as they were between two snapshots into a directory; none where changes have no part in what was asked for: a
/// snapshot as it is goes into a directory like any other.
pub fn tree(
    context: &Context,
    args: &RestoreArgs,
    repository: &Repository,
    (wanted, read_as): (&Wanted, Option<&str>),
    into: &Path,
    progress: &Arc<crate::cli::progress::Console>,
) -> Result<Option<(Outcome, SnapshotId)>, Failure> {
    let Some(documents) = gather(repository, &args.source)? else { return Ok(None) };
    if matches!(wanted, Wanted::Named(_)) {
        return Ok(None);
    }
    let from = From::find(repository, Some(&documents), &args.source, wanted, args.exact)?;
    if from.changes.is_none() {
        return Ok(None);
    }
    let id = from.choice.id;
    let done = carry(context, args, repository, (Some(&documents), from), Into::Tree(into), read_as, progress)?;
    Ok(Some((done, id)))
}

fn carry(
    context: &Context,
    args: &RestoreArgs,
    repository: &Repository,
    (documents, from): (Option<&Documents>, From<'_>),
    into: Into<'_>,
    read_as: Option<&str>,
    progress: &Arc<crate::cli::progress::Console>,
) -> Result<Outcome, Failure> {
    refuse_flags(args, into)?;
    warn_passed_over(context, &from.choice);
    warn_forgotten(context, &from.snapshot);
    let wishes = Wishes {
        tables: args.server.table.clone(),
        components: args.convex.component.clone(),
        no_files: args.convex.no_files,
    };
    let restore = plan(repository, from, &wishes, &**progress);
    progress.clear();
    let mut restore = restore?;
    show_plan(context, args, &restore.plan, read_as, into)?;
    let replaces = args.convex.replace || args.convex.replace_all;
    if replaces && matches!(into, Into::Deployment(_)) && restore.plan.files_missing && restore.plan.files > 0 {
        let hint = "`lifeboat backup` first: then they come from that snapshot. Or leave the deployment's files as they are: `--no-files`.";
        return Err(Failure::usage(
            "files that were made since the last snapshot would be removed from the deployment",
            hint,
        ));
    }
    if !args.dry_run {
        let work_dir = args.server.work_dir.clone().unwrap_or_else(std::env::temp_dir);
        let folded = restore.fold(repository, documents, &work_dir, &**progress);
        progress.clear();
        folded?;
    }
    let outcome = match into {
        Into::Zip(file) => to_zip(context, args, repository, &restore, file, &**progress),
        Into::Tree(dir) => to_tree(context, args, repository, &restore, dir, &**progress),
        Into::Deployment(url) => to_deployment(context, args, repository, &restore, url, progress),
    };
    progress.clear();
    outcome
}

/// Flags that mean files, dumps or clusters.
fn refuse_flags(args: &RestoreArgs, into: Into<'_>) -> Result<(), Failure> {
    let of_files = [
        ("--include", !args.include.is_empty()),
        ("--exclude", !args.exclude.is_empty()),
        ("--below", args.below.is_some()),
        ("--overwrite", args.overwrite.is_some()),
        ("--delta", args.delta),
        ("--delete", args.delete),
        ("--verify", args.verify),
    ];
    let archive = !matches!(into, Into::Deployment(_));
    let wrong = of_files.into_iter().find(|(_, given)| *given).map(|(flag, _)| flag);
    let wrong = wrong.or_else(|| args.server.first_but(&["--table", "--work-dir"]));
    let wrong = wrong.or_else(|| if archive { args.convex.first(true) } else { None });
    match wrong {
        None => Ok(()),
        Some(flag) => {
            let hint = "For a part there are `--table TABLE`, `--component PATH` and `--no-files`.";
            let what = match into {
                Into::Zip(_) => "an archive",
                Into::Deployment(_) => "a Convex deployment",
                Into::Tree(_) => "a directory for documents as they were between two snapshots",
            };
            Err(Failure::usage(format!("`{flag}` does not fit: `--into` names {what}"), hint))
        }
    }
}

fn to_zip(
    context: &Context,
    args: &RestoreArgs,
    repository: &Repository,
    restore: &DeploymentRestore,
    file: &Path,
    progress: &dyn Progress,
) -> Result<Outcome, Failure> {
    if file.exists() {
        let text = format!("`{}` is there already", file.display());
        return Err(Failure::usage(text, "Choose another name, or remove it. Nothing was written."));
    }
    if args.dry_run {
        context.ui.story("Nothing was written (--dry-run).");
        return Ok(Outcome::Done);
    }
    let started = Instant::now();
    let part = staged(file);
    let output = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part);
    let output = output.map_err(|e| Failure::io("write", &part, e))?;
    let output = std::io::BufWriter::with_capacity(1 << 20, output);
    let written = write_zip(repository, restore, output, progress).map_err(Failure::from).and_then(|output| {
        let output = output.into_inner().map_err(|e| Failure::io("write", &part, e.into_error()))?;
        let synced = output.sync_all().and_then(|()| std::fs::rename(&part, file));
        synced.and_then(|()| output.metadata()).map_err(|e| Failure::io("write", file, e))
    });
    let written = written.inspect_err(|_| drop(std::fs::remove_file(&part)))?;
    let (bytes, seconds) = (written.len(), started.elapsed().as_secs_f64());
    if context.ui.json {
        let summary =
            serde_json::json!({"message_type": "summary", "file": file, "bytes": bytes, "total_duration": seconds});
        context.ui.json(&summary)?;
        return Ok(Outcome::Done);
    }
    context.ui.answer(format!("restored  {} in `{}`, in {}", size(bytes), file.display(), duration(seconds)))?;
    context.ui.story(format!("It goes into a deployment with `npx convex import --replace {}`.", file.display()));
    Ok(Outcome::Done)
}

fn to_tree(
    context: &Context,
    args: &RestoreArgs,
    repository: &Repository,
    restore: &DeploymentRestore,
    dir: &Path,
    progress: &dyn Progress,
) -> Result<Outcome, Failure> {
    let is_free = std::fs::read_dir(dir).map_or(true, |mut entries| entries.next().is_none());
    if !is_free || dir.is_file() {
        let error = crate::destination::Error::NotEmpty(dir.to_owned());
        return Err(crate::ops::Error::from(error).into());
    }
    if args.dry_run {
        context.ui.story("Nothing was written (--dry-run).");
        return Ok(Outcome::Done);
    }
    let started = Instant::now();
    let part = staged(dir);
    // What an interrupted run left.
    let _ = std::fs::remove_dir_all(&part);
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&part);
    made.map_err(|e| Failure::io("make", &part, e))?;
    write_tree(repository, restore, &part, progress).inspect_err(|_| drop(std::fs::remove_dir_all(&part)))?;
    std::fs::rename(&part, dir).map_err(|e| Failure::io("write", dir, e))?;
    let seconds = started.elapsed().as_secs_f64();
    if context.ui.json {
        let summary = serde_json::json!({"message_type": "summary", "directory": dir, "total_duration": seconds});
        context.ui.json(&summary)?;
        return Ok(Outcome::Done);
    }
    let documents = counted(restore.plan.tables.len() as u64, "table", "tables");
    context.ui.answer(format!("restored  {documents} in `{}`, in {}", dir.display(), duration(seconds)))?;
    Ok(Outcome::Done)
}

/// The session with the target: the key that was named, else that of a source with this URL, else the environment's.
pub(super) fn open(
    context: &Context,
    key_file: Option<&Path>,
    url: &str,
    stop: Arc<AtomicBool>,
) -> Result<Deployment, Failure> {
    let base = parse_url(url).map_err(crate::ops::Error::from)?;
    let same = |options: &ConvexOptions| {
        options.url.as_deref().and_then(|url| parse_url(url).ok()).is_some_and(|other| other == base)
    };
    let configured = context.config.sources.iter().find_map(|(name, section)| match section.plan(name) {
        Ok(Plan::Convex(options)) if same(&options) => Some(options.key),
        _ => None,
    });
    let key = key_file.map(|file| KeyFrom::File(file.to_owned())).or(configured).unwrap_or_default();
    let options = ConvexOptions { url: Some(url.to_owned()), key, ..ConvexOptions::default() };
    Ok(resolve(&options, context.now(), Rights::Full, stop)?)
}

fn to_deployment(
    context: &Context,
    args: &RestoreArgs,
    repository: &Repository,
    restore: &DeploymentRestore,
    url: &str,
    progress: &Arc<crate::cli::progress::Console>,
) -> Result<Outcome, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let deployment = open(context, args.convex.admin_key_file.as_deref(), url, Arc::clone(&stop))?;
    heard(&stop, &**progress, || {
        Importing { context, args, repository, restore, deployment: &deployment, progress }.run()
    })
}

/// The session waits for minutes at a time; a person who asks to stop is heard meanwhile.
pub(super) fn heard<T>(stop: &AtomicBool, progress: &(dyn Progress + Sync), work: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                stop.fetch_or(progress.cancelled(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        let done = work();
        over.store(true, Ordering::Relaxed);
        done
    })
}

struct Importing<'i> {
    context: &'i Context,
    args: &'i RestoreArgs,
    repository: &'i Repository,
    restore: &'i DeploymentRestore,
    deployment: &'i Deployment,
    progress: &'i Arc<crate::cli::progress::Console>,
}

impl Importing<'_> {
    fn run(&self) -> Result<Outcome, Failure> {
        let (args, ui, progress) = (self.args, self.context.ui, &**self.progress);
        let target = Target {
            mode: match (args.convex.replace, args.convex.replace_all) {
                (_, true) => ImportMode::ReplaceAll,
                (true, _) => ImportMode::Replace,
                _ => ImportMode::RequireEmpty,
            },
            // Variables belong to the whole: a part is restored beside what is there.
            environment: !args.convex.no_environment
                && args.server.table.is_empty()
                && args.convex.component.is_empty(),
            overwrite_environment: args.convex.overwrite_environment,
        };
        let into = prepare_into(self.repository, self.restore, self.deployment, target, progress);
        progress.clear();
        let into = into?;
        self.show_into(&into)?;
        if args.dry_run {
            ui.story(
                "Nothing was sent (--dry-run). The server's own table of changes is shown once it has the archive.",
            );
            return Ok(Outcome::Done);
        }
        let started = Instant::now();
        let work_dir = args.server.work_dir.as_deref();
        let sent = send(self.repository, self.restore, self.deployment, &into, work_dir, progress);
        progress.clear();
        let sent = sent?;
        self.show_sent(&sent)?;
        let done = perform(self.deployment, &into, &sent, progress);
        progress.clear();
        let done = done?;
        if ui.json {
            ui.json(&serde_json::json!({"message_type": "imported", "imported": done}))?;
        } else {
            let documents = counted(done.documents, "document", "documents");
            ui.answer(format!(
                "restored  {documents}, visible in one step, in {}",
                duration(started.elapsed().as_secs_f64())
            ))?;
        }
        let outcome = match args.convex.no_verify {
            true => Outcome::Done,
            false => {
                let verified = verify(self.repository, self.restore, self.deployment, work_dir, progress);
                progress.clear();
                self.show_verified(&verified?)?
            }
        };
        self.show_left()?;
        Ok(outcome)
    }

    fn show_into(&self, into: &IntoPlan) -> Result<(), Failure> {
        let ui = self.context.ui;
        if ui.json {
            return ui.json(&serde_json::json!({"message_type": "deployment_plan", "plan": into}));
        }
        let mode = match into.mode {
            ImportMode::RequireEmpty => "tables of the snapshot must be empty there",
            ImportMode::Replace => "tables of the snapshot are REPLACED there, others stay",
            ImportMode::ReplaceAll => "tables of the snapshot are REPLACED there, all others are DROPPED",
            ImportMode::Append => "documents are added to what is there",
        };
        ui.story(format!("into      {} ({}): {mode}", into.url, plainly(&into.instance)));
        if !into.variables_set.is_empty() {
            let names = into.variables_set.iter().map(|name| plainly(name).to_string()).collect::<Vec<_>>().join(", ");
            ui.story(format!("variables {names}"));
        }
        if !into.variables_kept.is_empty() {
            let names = into.variables_kept.iter().map(|name| plainly(name).to_string()).collect::<Vec<_>>().join(", ");
            ui.warning(format!(
                "these environment variables have another value there and stay: {names}; `--overwrite-environment` sets them"
            ));
        }
        Ok(())
    }

    fn show_sent(&self, sent: &Sent) -> Result<(), Failure> {
        let ui = self.context.ui;
        if ui.json {
            return ui.json(&serde_json::json!({"message_type": "waiting", "waiting": sent}));
        }
        let again = if sent.uploads > 1 { format!("; {} uploads were begun", sent.uploads) } else { String::new() };
        ui.story(format!("uploaded  {}{again}", size(sent.bytes)));
        for line in sent.message.lines() {
            ui.story(format!("  {}", plainly(line)));
        }
        Ok(())
    }

    fn show_verified(&self, found: &Verified) -> Result<Outcome, Failure> {
        show_verified(self.context, found)
    }

    fn show_left(&self) -> Result<(), Failure> {
        let (ui, progress) = (self.context.ui, &**self.progress);
        let left = left(self.repository, self.restore, progress)?;
        if ui.json {
            return ui.json(&serde_json::json!({"message_type": "left", "left": left}));
        }
        ui.story("Not restored through the API:");
        for one in left {
            ui.story(format!("  {}\n    {}", one.what, one.how));
        }
        Ok(())
    }
}

/// Says how a deployment compares with what was restored, or would be.
pub(super) fn show_verified(context: &Context, found: &Verified) -> Result<Outcome, Failure> {
    let ui = context.ui;
    let outcome = if found.is_equal() { Outcome::Done } else { Outcome::Damage };
    if ui.json {
        ui.json(&serde_json::json!({"message_type": "verified", "equal": found.is_equal(), "verified": found}))?;
        return Ok(outcome);
    }
    let equal = counted(found.documents_equal, "document", "documents");
    let tables = counted(found.tables_equal, "table", "tables");
    ui.answer(format!("verified  by a fresh export: {tables} and {equal} as in the snapshot"))?;
    for one in found.differences.iter().take(LISTED) {
        let first = one.first.as_deref().unwrap_or("-");
        ui.answer(format!(
            "  DIFFERS {}: {} missing, {} more, {} changed; the first: {}",
            plainly(&one.table),
            count(one.missing),
            count(one.extra),
            count(one.changed),
            plainly(first)
        ))?;
    }
    if let Some(files) = &found.files {
        let wrong = files.missing + files.changed;
        let state = match wrong {
            0 => "as in the snapshot".to_owned(),
            _ => format!(
                "{} NOT as in the snapshot, the first: {}",
                count(wrong),
                plainly(files.first.as_deref().unwrap_or("-"))
            ),
        };
        ui.answer(format!("files     {}; {state}", counted(files.equal, "file", "files")))?;
    }
    if outcome == Outcome::Damage {
        ui.story("Whoever wrote there since the import made differences too: compare again while nobody does.");
    }
    Ok(outcome)
}

/// Words of somebody else's, without characters that move the cursor.
pub(super) fn plainly(text: &str) -> RawText {
    RawText(text.as_bytes().to_vec())
}

fn show_plan(
    context: &Context,
    args: &RestoreArgs,
    plan: &DeploymentPlan,
    read_as: Option<&str>,
    into: Into<'_>,
) -> Result<(), Failure> {
    let ui = context.ui;
    if ui.json {
        return ui.json(&serde_json::json!({"message_type": "plan", "plan": plan}));
    }
    let say = |line: String| {
        if args.dry_run {
            return ui.answer(line);
        }
        ui.story(line);
        Ok(())
    };
    let wanted = read_as.map_or_else(|| format!("as of {}", show(plan.shows)), |read_as| format!("to {read_as}"));
    say(format!("plan      restore `{}` {wanted}", plan.source))?;
    let age = plan.asked.map(|asked| (asked - plan.shows).num_seconds().max(0));
    let age = age.map(|age| format!(", {} older than asked for", duration(age as f64))).unwrap_or_default();
    let state = if plan.complete { "" } else { ", INCOMPLETE" };
    match &plan.changes {
        None => say(format!("snapshot  {}, ended {}{age}{state}", plan.snapshot, show(plan.shows)))?,
        Some(changes) => {
            say(format!("snapshot  {}{state}", plan.snapshot))?;
            let segments = counted(changes.segments, "segment", "segments");
            let to = show_time(time_of(changes.to));
            say(format!("changes   {segments}, {}, up to {to}{age}", size(changes.bytes)))?;
        }
    }
    let documents: u64 = plan.tables.iter().filter_map(|table| table.documents).sum();
    let bytes: u64 = plan.tables.iter().map(|table| table.bytes).sum();
    let tables = counted(plan.tables.len() as u64, "table", "tables");
    say(format!("content   {tables}, {}, {}", counted(documents, "document", "documents"), size(bytes)))?;
    for table in plan.tables.iter().take(LISTED) {
        let documents = table.documents.map_or_else(|| "not counted".to_owned(), count);
        say(format!("  {:32} {documents:>12}  {:>10}", plainly(&table.full_name()).to_string(), size(table.bytes)))?;
    }
    if plan.tables.len() > LISTED {
        say(format!("  and {} more", count((plan.tables.len() - LISTED) as u64)))?;
    }
    let of = plan.files_until.map(|until| match plan.files_missing {
        true => format!(", as of {}: those that were made since are MISSING", show(until)),
        false => ", all that were there and are not deleted meanwhile".to_owned(),
    });
    say(format!(
        "files     {}, {}{}",
        counted(plan.files, "file", "files"),
        size(plan.file_bytes),
        of.unwrap_or_default()
    ))?;
    if let Into::Zip(file) | Into::Tree(file) = into {
        say(format!("lands in  {}", file.display()))?;
    }
    Ok(())
}
