//! `backup`: sources of the configuration, or one of the command line.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::pause::Pausing;
use crate::cli::Outcome;
use crate::cli::args::BackupArgs;
use crate::cli::context::Context;
use crate::cli::output::{count, counted, duration, size};
use crate::cli::progress::Console;
use crate::cli::report::Failure;
use crate::cli::telling::around_source;
use crate::cli::time::parse_duration;
use crate::client::Connection;
use crate::config::{Archive, Plan, SourceKind, parse_size};
use crate::model::RelPath;
use crate::model::SegmentName;
use crate::ops::Kind;
use crate::ops::backup::{BackupOptions, BackupReport, backup};
use crate::ops::bootstrap::{self, CONFIGURATION_MAX};
use crate::ops::forget::abnormal_words;
use crate::ops::live::{LiveReport, glance_cluster};
use crate::plan::restore::show;
use crate::progress::Progress;
use crate::repository::{Repository, is_source_name};
use crate::source::convex::ConvexSource;
use crate::source::sqlite::SqliteMode;
use crate::source::{
    BucketSource, CommandSource, FileSource, PgDumpOptions, PgDumpSource, Rules, Source, StdinSource, TarballSource,
    postgres,
};

/// A source to back up now.
struct Task {
    name: String,
    plan: What,
    tags: Vec<String>,
}

/// What is read.
enum What {
    Configured(Plan),
    Stdin(RelPath),
}

/// Runs it.
pub fn run(context: &Context, args: &BackupArgs) -> Result<Outcome, Failure> {
    context.refuse_others_state()?;
    super::pause::resume_left(context)?;
    let tasks = tasks(context, args)?;
    let progress = context.progress(true);
    let (mut repository, problems) = context.open(&*progress)?;
    let given: Vec<String> = context.recipients()?.iter().map(|r| r.as_str().to_owned()).collect();
    repository.host()?;
    repository.check_recipients(&given)?;
    let mut outcome = if problems.is_empty() { Outcome::Done } else { Outcome::Incomplete };
    let mut failures: Vec<(String, Failure)> = Vec::new();
    // One source that fails must not leave the others without a backup that night.
    for task in tasks {
        let name = task.name.clone();
        let deed = || back_up(context, args, task, &mut repository, &progress);
        match around_source(context, "backup", &name, deed) {
            Ok(Outcome::Done) => {}
            Ok(other) => outcome = other,
            Err(failure) if failure.kind() == Kind::Cancelled => return Err(failure),
            Err(failure) => failures.push((name, failure)),
        }
    }
    keep_configuration(context, &mut repository, &*progress);
    match super::copy::after_backup(context, &mut repository, &progress)? {
        Outcome::Done => {}
        other => outcome = other,
    }
    let Some((_, last)) = failures.pop() else { return Ok(outcome) };
    for (name, failure) in failures {
        context.ui.warning(format!("source `{name}` was not backed up"));
        failure.print(&mut std::io::stderr().lock(), context.ui.json);
    }
    Err(last)
}

/// Keeps the configuration beside the snapshots, for `bootstrap`. Without it they restore all the same.
fn keep_configuration(context: &Context, repository: &mut Repository, progress: &dyn Progress) {
    let Some(file) = &context.config_file else { return };
    let read = || -> std::io::Result<Vec<u8>> {
        let mut text = Vec::new();
        std::fs::File::open(file)?.take(CONFIGURATION_MAX).read_to_end(&mut text)?;
        Ok(text)
    };
    let kept = match read() {
        Ok(text) => bootstrap::keep_configuration(repository, &text, context.now(), progress).map(drop),
        Err(source) => Err(crate::ops::Error::Io { doing: "read", path: file.clone(), source }),
    };
    if let Err(e) = kept {
        context.ui.warning(format!("the configuration is not kept in the repository: {}", crate::ops::chain(&e)));
    }
}

fn back_up(
    context: &Context,
    args: &BackupArgs,
    task: Task,
    repository: &mut Repository,
    progress: &Arc<Console>,
) -> Result<Outcome, Failure> {
    let options = BackupOptions { force: args.force, tags: [task.tags, args.tag.clone()].concat(), wait: args.wait };
    // What waits for the store of a cluster's log goes before its next base backup.
    // It waits for the repository that it was pushed to, and for no other.
    let spool = if context.is_own() { super::wal::spool(context, &task.name)? } else { None };
    if let Some(spool) = spool {
        let sent = spool.drain(repository, &task.name, context.now(), &**progress)?;
        if sent > 0 {
            context.ui.story(format!("spool     {} are stored", counted(sent as u64, "file", "files")));
        }
    }
    let mut what = task.plan;
    if let What::Configured(Plan::Postgres(options)) = &mut what {
        options.fail_on_page_errors = args.fail_on_page_errors;
    }
    let captures = match &what {
        What::Configured(Plan::Volume { sqlite, .. }) => *sqlite == SqliteMode::Capture,
        What::Configured(Plan::Sqlite { .. }) => true,
        _ => false,
    };
    if args.pause.is_some() && !captures && !args.all && args.group.is_none() {
        return Err(Failure::usage(
            format!("`--pause` is for SQLite databases that are captured, and `{}` has none", task.name),
            "Name a source of kind `volume` or `sqlite`.",
        ));
    }
    // A thing of the command line may be called like a source.
    let sings = !matches!(&what, What::Configured(_)) || super::canary::before_backup(context, &task.name);
    let pausing = args.pause.as_deref().map(|name| Pausing::new(context, name)).transpose()?;
    let cluster = match &what {
        What::Configured(Plan::Postgres(options)) => Some(options.clone()),
        _ => None,
    };
    let source = build(context, &task.name, what, pausing.as_ref(), progress)?;
    let started = Instant::now();
    let shared: Arc<dyn Progress> = Arc::clone(progress) as _;
    let report = backup(&*source, &task.name, repository, &options, &context.world()?, &shared);
    progress.clear();
    if let Some(pausing) = &pausing {
        pausing.check()?;
    }
    let report = report?;
    for problem in &report.problems {
        context.ui.warning(problem);
    }
    let seconds = started.elapsed().as_secs_f64();
    let is_cluster = report.record.kind == "postgres";
    let missing = if is_cluster { wait_for_log(context, args, repository, &report)? } else { None };
    // What a look found wrong with its server did not keep it from being backed up. Of a cluster its slots and its archiver, while it
    // answers: what `status` tells of them is not older than the last backup.
    let seen = cluster.map_or_else(|| Ok(LiveReport::default()), |options| glance_cluster(repository, &options));
    if seen.is_ok() && missing.is_none() {
        super::live::note(context, repository, &task.name, &seen, true);
    }
    tell(context, &report, seconds, missing)?;
    super::backup_volume::tell(context, &report.record)?;
    if !report.record.abnormal.is_empty() {
        context.ui.warning(format!(
            "this snapshot is ABNORMAL: {}. It is kept, and nothing of `{}` is forgotten until somebody has looked: `lifeboat accept {}`, if it is as \
             it should be",
            abnormal_words(&report.record.abnormal),
            task.name,
            report.record.id
        ));
    }
    if report.record.files == 0 && report.files_before.is_some_and(|before| before > 0) {
        let before = counted(report.files_before.unwrap_or(0), "file", "files");
        context.ui.warning(format!("`{}` is empty, and its snapshot before had {before}: is it mounted?", task.name));
    }
    if let Some(missing) = missing {
        context.ui.warning(format!(
            "the base backup is PENDING: segment {missing} of its log is not in the repository yet, and no restore is offered \
             until it is. Does the server archive? `SELECT * FROM pg_stat_archiver` says so"
        ));
    }
    let whole = report.record.skipped == 0
        && report.problems.is_empty()
        && missing.is_none()
        && sings
        && !tell_bad_pages(context, &report);
    Ok(if whole { Outcome::Done } else { Outcome::Incomplete })
}

/// Says which pages of a base backup are damaged, and whether any are.
fn tell_bad_pages(context: &Context, report: &BackupReport) -> bool {
    let backup = serde_json::from_value::<crate::model::base::BaseBackup>(report.record.facts.clone());
    let bad = backup.map(|backup| backup.bad_pages).unwrap_or_default();
    if bad.is_none() {
        return false;
    }
    let pages = counted(bad.count, "page is", "pages are");
    context.ui.warning(format!(
        "{pages} DAMAGED on the server's disk: the checksum is wrong. The snapshot has them as they are and is marked; an older base \
         backup may have them whole. Look at the kernel's log for the disk"
    ));
    for page in bad.first.iter().take(20) {
        context.ui.warning(format!("`{}` block {}", page.path, page.block));
    }
    true
}

/// Waits until every segment of a base backup is in the repository. Returns the first that is not there in the end.
fn wait_for_log(
    context: &Context,
    args: &BackupArgs,
    repository: &Repository,
    report: &BackupReport,
) -> Result<Option<SegmentName>, Failure> {
    let limit = parse_duration(&args.wal_timeout).map_err(|e| Failure::usage(e, "As in `--wal-timeout 5m`."))?;
    let limit = limit.to_std().unwrap_or_default();
    let (started, id) = (Instant::now(), report.record.id);
    loop {
        let writer = &repository.host()?.name;
        let Some(missing) = crate::ops::cluster::waits_for(repository, writer, &report.record)? else {
            context.ui.story(format!("complete  every segment of its log is in the repository: {id} can be restored"));
            return Ok(None);
        };
        if started.elapsed() >= limit || context.stop.load(std::sync::atomic::Ordering::Relaxed) {
            return Ok(Some(missing));
        }
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
}

fn tasks(context: &Context, args: &BackupArgs) -> Result<Vec<Task>, Failure> {
    let is_ad_hoc =
        args.path.is_some() || args.stdin || args.tar.is_some() || args.pg_dump.is_some() || !args.command.is_empty();
    let of_volumes = !args.exclude.is_empty()
        || !args.exclude_file.is_empty()
        || !args.exclude_if_present.is_empty()
        || args.exclude_caches
        || args.exclude_larger_than.is_some()
        || args.one_file_system;
    if of_volumes && args.path.is_none() {
        let hint = "A source of the configuration has such keys there: `exclude = [\"*.tmp\"]`.";
        return Err(Failure::usage("the `--exclude` flags belong to `--path`", hint));
    }
    if is_ad_hoc {
        if !args.sources.is_empty() || args.all || args.group.is_some() {
            let hint =
                "Run it twice: once with the names, once with `--path`, `--stdin`, `--tar`, `--pg-dump` or a command.";
            return Err(Failure::usage(
                "sources of the configuration and one of the command line are both named",
                hint,
            ));
        }
        // `--tar -` says what the command's output is; a command beside it is no second source.
        let output_is_tar = args.tar.as_deref() == Some(Path::new("-")) && !args.command.is_empty();
        let tar = args.tar.is_some() && !output_is_tar;
        let named = [args.path.is_some(), args.stdin, tar, args.pg_dump.is_some(), !args.command.is_empty()];
        if named.into_iter().filter(|given| *given).count() > 1 {
            let hint = "Say one of `--path DIR`, `--stdin`, `--tar FILE`, `--pg-dump CONNECTION`, `-- COMMAND` and \
                        `--tar - -- COMMAND`.";
            return Err(Failure::usage("more than one source is named on the command line", hint));
        }
        if let Some(connection) = &args.pg_dump
            && Connection::parse(connection).is_ok_and(|connection| connection.has_password())
        {
            context.ui.warning(
                "a password on the command line is seen by everybody who lists the processes; PGPASSFILE, PGPASSWORD and \
                 ~/.pgpass are not",
            );
        }
        return Ok(vec![ad_hoc(args)?]);
    }
    if args.name.is_some() || args.file_name.is_some() {
        let hint = "`--name` goes with `--path DIR`, `--stdin`, `--tar FILE`, `--pg-dump CONNECTION` or `-- COMMAND`.";
        return Err(Failure::usage("`--name` belongs to a source of the command line, and none is given", hint));
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
    let mut names = names;
    // Databases before blobs: whoever keeps files beside one writes a file before the row that names it.
    names.sort_by_key(|name| {
        let kind = config.sources.get(name).map(|section| section.kind);
        match kind {
            Some(SourceKind::Bucket) => 2,
            Some(SourceKind::Volume | SourceKind::Tarball) => 1,
            _ => 0,
        }
    });
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
            Ok(Task { plan: What::Configured(plan), name, tags: section.tags.clone() })
        })
        .collect()
}

fn build(
    context: &Context,
    name: &str,
    what: What,
    pausing: Option<&Arc<Pausing>>,
    progress: &Arc<Console>,
) -> Result<Box<dyn Source>, Failure> {
    Ok(match what {
        What::Configured(Plan::Volume { path, rules, sqlite, work_dir, blobs }) => {
            let how = (sqlite, work_dir.as_deref(), blobs);
            super::backup_volume::volume(context, name, (&path, rules), how, pausing, progress)?
        }
        What::Configured(Plan::Sqlite { path, work_dir }) => {
            super::backup_volume::database(context, name, &path, work_dir.as_deref(), pausing, progress)?
        }
        What::Configured(Plan::Command { command, file_name }) => {
            Box::new(CommandSource::new(file_name, context.now(), command))
        }
        What::Configured(Plan::Postgres(options)) => postgres::begin(&options)?,
        What::Configured(Plan::Tarball(archive)) => Box::new(TarballSource::new(open_archive(context, archive)?)),
        What::Configured(Plan::PgDump(options)) => {
            Box::new(PgDumpSource::new(*options, context.now(), Arc::clone(progress) as _)?)
        }
        What::Configured(Plan::Convex(options)) => {
            Box::new(ConvexSource::new(*options, context.now(), Arc::clone(progress) as _)?)
        }
        What::Configured(Plan::Bucket(options)) => Box::new(BucketSource::new(&options, context.now())?),
        What::Stdin(file_name) => Box::new(StdinSource::of_process(file_name, context.now())),
    })
}

fn open_archive(context: &Context, archive: Archive) -> Result<Box<dyn Source>, Failure> {
    let (now, name) = (context.now(), RelPath::root());
    Ok(match archive {
        Archive::File(path) => Box::new(FileSource::new(&path, now)?),
        Archive::Command(command) => Box::new(CommandSource::new(name, now, command)),
        Archive::Stdin => Box::new(StdinSource::of_process(name, now)),
    })
}

fn ad_hoc(args: &BackupArgs) -> Result<Task, Failure> {
    let name = args.name.clone().ok_or_else(|| {
        // The name of one that is configured, and a path: the path stands in the configuration.
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
    let is_stream = |file: &Path| file == Path::new("-");
    if let Some(connection) = &args.pg_dump {
        let connection = Connection::parse(connection).map_err(crate::ops::Error::from)?;
        let plan = What::Configured(Plan::PgDump(Box::new(PgDumpOptions::new(connection))));
        return Ok(Task { name, plan, tags: Vec::new() });
    }
    let plan = match (&args.path, &args.tar) {
        (Some(path), _) => {
            let (path, sqlite, work_dir) = (path.clone(), SqliteMode::default(), None);
            What::Configured(Plan::Volume { path, rules, sqlite, work_dir, blobs: None })
        }
        (None, Some(file)) => What::Configured(Plan::Tarball(match (is_stream(file), args.command.is_empty()) {
            (true, true) => Archive::Stdin,
            (true, false) => Archive::Command(args.command.clone()),
            (false, _) => Archive::File(file.clone()),
        })),
        (None, None) if args.stdin => What::Stdin(file_name),
        (None, None) => What::Configured(Plan::Command { command: args.command.clone(), file_name }),
    };
    Ok(Task { name, plan, tags: Vec::new() })
}

fn tell(context: &Context, report: &BackupReport, seconds: f64, missing: Option<SegmentName>) -> Result<(), Failure> {
    let (ui, record, counts) = (context.ui, &report.record, &report.counts);
    if ui.json {
        return ui.json(&serde_json::json!({
            "message_type": "summary",
            "snapshot_id": record.id,
            "source": record.source,
            "complete": record.complete && missing.is_none(),
            "pending": missing,
            "files_new": report.files_new,
            "files_changed": report.files_changed,
            "files_unmodified": report.files_unmodified + report.files_reread,
            "files_read_again": report.files_reread,
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
            "abnormal": record.abnormal,
            "total_duration": seconds,
            "ended": record.ended,
            "facts": record.facts,
        }));
    }
    let state = if let Some(missing) = missing {
        format!("PENDING: segment {missing} is not there yet")
    } else if record.complete {
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
        count(report.files_unmodified + report.files_reread),
        duration(seconds)
    ))?;
    let there = match counts.data_new + counts.data_reused {
        0 => 100,
        total => counts.data_reused * 100 / total,
    };
    let packs = counted(counts.packs, "pack", "packs");
    ui.answer(format!("stored    {} in {packs}; {there} % was already there", size(counts.stored)))?;
    match missing {
        Some(_) => Ok(()),
        None => ui.answer(format!("restores  to {}", show(record.ended))),
    }
}
