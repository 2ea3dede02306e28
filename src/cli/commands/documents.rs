//! The changes of a Convex deployment: `follow`, `timeline`, `diff --from --to`, `dump --id`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::cli::Outcome;
use crate::cli::args::{DiffArgs, DumpArgs, FollowArgs};
use crate::cli::context::Context;
use crate::cli::output::{count, counted, duration};
use crate::cli::report::Failure;
use crate::cli::telling::GoesOn;
use crate::cli::time::{parse_duration, read_time};
use crate::client::convex::Rights;
use crate::format::convex::full_name;
use crate::model::documents::{DbTime, moment_of, time_of};
use crate::ops;
use crate::ops::backup::{BackupOptions, BackupReport, World, backup};
use crate::ops::documents::{
    self, Around, Difference, Documents, FollowOptions, Heard, Kinds, Revision, Snapshots, difference, gather, history,
};
use crate::plan::documents::{Run, RunEnd, show};
use crate::progress::{Progress, Silent};
use crate::repository::Repository;
use crate::source::Source;
use crate::source::convex::{ConvexOptions, ConvexSource, LaterFiles, matches_table, resolve};

/// Between two segments that say that nothing was new.
const HEARTBEAT: std::time::Duration = std::time::Duration::from_secs(60);

fn time(text: &str, flag: &str) -> Result<std::time::Duration, Failure> {
    let parsed = parse_duration(text).ok().and_then(|time| time.to_std().ok());
    parsed.ok_or_else(|| Failure::usage(format!("`{text}` is no duration"), format!("As in `{flag} 2s`.")))
}

/// `follow` of a deployment.
pub fn follow(context: &Context, args: &FollowArgs, convex: ConvexOptions) -> Result<Outcome, Failure> {
    let progress = context.progress(false);
    let (mut repository, _) = context.open(&*progress)?;
    repository.host()?;
    let options = FollowOptions {
        source: args.source.clone(),
        tables: convex.tables.clone(),
        exclude_tables: convex.exclude_tables.clone(),
        folder: super::follow::folder(args, &repository),
        interval: time(&args.interval, "--interval")?.max(std::time::Duration::from_millis(100)),
        heartbeat: HEARTBEAT,
        export_every: time(&args.export_every, "--export-every")?,
        files_every: convex.files.then_some(time(&args.files_every, "--files-every")?),
    };
    let deployment = resolve(&convex, context.now(), Rights::ReadOnly, Arc::clone(&context.stop))?;
    let mut taking = Taking { context, source: &args.source, convex: &convex, world: context.world()? };
    let clock = || context.now();
    let around = Around { clock: &clock, stop: &context.stop, progress: &Silent };
    let mut goes_on = GoesOn::new(context, "follow", &args.source);
    let mut hear = |heard: Heard| {
        if matches!(heard, Heard::Stored { .. }) {
            goes_on.does();
        }
        tell(context, &args.source, heard);
    };
    documents::follow(&mut repository, &deployment, &options, &around, &mut taking, &mut hear)?;
    context.ui.story("stopped   everything that counts is stored");
    Ok(Outcome::Done)
}

/// Takes snapshots as `backup` does.
struct Taking<'c> {
    context: &'c Context,
    source: &'c str,
    convex: &'c ConvexOptions,
    world: World,
}

impl Taking<'_> {
    fn back_up(
        &self,
        source: &dyn Source,
        name: &str,
        repository: &mut Repository,
    ) -> Result<BackupReport, ops::Error> {
        let mut world = self.world.clone();
        getrandom::fill(&mut world.random).map_err(|e| ops::Error::Io {
            doing: "read random bytes for",
            path: "a snapshot".into(),
            source: std::io::Error::other(e.to_string()),
        })?;
        let silent: Arc<dyn Progress> = Arc::new(Silent);
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // An export takes minutes; a person who asks to stop is heard meanwhile.
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    if self.context.stop.load(Ordering::Relaxed) {
                        source.cancel();
                        break;
                    }
                    std::thread::sleep(std::time::Duration::from_millis(50));
                }
            });
            let report = backup(source, name, repository, &BackupOptions::default(), &world, &silent);
            over.store(true, Ordering::Relaxed);
            report
        })
    }
}

impl Snapshots for Taking<'_> {
    fn whole(&mut self, repository: &mut Repository) -> Result<serde_json::Value, ops::Error> {
        let source = ConvexSource::new(self.convex.clone(), self.context.now(), Arc::new(Silent))?;
        let report = self.back_up(&source, self.source, repository)?;
        tell_snapshot(self.context, self.source, &report.record);
        Ok(report.record.facts)
    }

    fn files(
        &mut self,
        repository: &mut Repository,
        source: &LaterFiles,
        name: &str,
    ) -> Result<Vec<String>, ops::Error> {
        let report = self.back_up(source, name, repository)?;
        for (path, why) in &report.skipped {
            self.context.ui.warning(format!("`{path}` was not stored: {why}"));
        }
        Ok(report.skipped.into_iter().map(|(path, _)| path).collect())
    }
}

fn tell_snapshot(context: &Context, source: &str, record: &crate::model::SnapshotRecord) {
    if context.ui.json {
        let line = serde_json::json!({"message_type": "follow", "source": source, "event": "snapshot", "snapshot": record.id,
            "complete": record.complete});
        let _ = context.ui.json(&line);
        return;
    }
    context.ui.story(format!("snapshot  {}", record.id));
    if !record.complete {
        context.ui.warning(format!("it is INCOMPLETE: {} were not stored", counted(record.skipped, "file", "files")));
    }
}

fn tell(context: &Context, source: &str, heard: Heard) {
    let ui = context.ui;
    if ui.json {
        let (event, mut line) = match &heard {
            Heard::Following { stream, from } => {
                ("following", serde_json::json!({"stream": stream, "from": show(*from)}))
            }
            Heard::Stored { changes, to } => ("stored", serde_json::json!({"changes": changes, "newest": show(*to)})),
            Heard::Cut { why } => ("cut", serde_json::json!({"why": why})),
            Heard::Files { new, lost } => ("files", serde_json::json!({"new": new, "lost": lost})),
            Heard::FilesAway { why } => ("files_away", serde_json::json!({"why": why})),
            Heard::Importing => ("importing", serde_json::json!({})),
            Heard::Blind => ("blind", serde_json::json!({})),
            Heard::NoChanges { why, every } => {
                ("no_changes", serde_json::json!({"why": why, "every": every.as_secs()}))
            }
            Heard::Away { why } => ("away", serde_json::json!({"why": why})),
            Heard::Back => ("back", serde_json::json!({})),
        };
        line["message_type"] = "follow".into();
        line["source"] = source.into();
        line["event"] = event.into();
        // A reader that went away is no reason to stop.
        let _ = ui.json(&line);
        return;
    }
    match heard {
        Heard::Following { stream, from } => {
            ui.story(format!("following {source} from {}, stream {stream}", show(from)))
        }
        // Every few seconds: a log is not filled with it.
        Heard::Stored { changes, to } => tracing::info!("stored {changes} changes, up to {}", show(to)),
        Heard::Cut { why } => ui.story(format!("snapshot  is taken: {why}")),
        Heard::Files { new, lost: 0 } => tracing::info!("stored {}", counted(new, "new file", "new files")),
        Heard::Files { lost, .. } => ui.warning(format!(
            "{} could not be had, and are left to the next snapshot",
            counted(lost, "new file", "new files")
        )),
        Heard::FilesAway { why } => {
            ui.warning(format!("new files are not stored: {why}; tried again until it works, the changes go on"))
        }
        Heard::Importing => ui.warning(
            "an import writes to the deployment: its changes come with the snapshot that is taken after it".to_owned(),
        ),
        Heard::Blind => ui.warning(
            "this deployment does not tell when tables are cleared: take a snapshot (`lifeboat backup`) after clearing one, and restore \
             no time between the two"
                .to_owned(),
        ),
        Heard::NoChanges { why, every } => ui.warning(format!(
            "this deployment tells no changes ({why}): a snapshot is taken every {}, and that is the RPO",
            duration(every.as_secs_f64())
        )),
        Heard::Away { why } => ui.warning(format!("{why}; tried again until it works")),
        Heard::Back => ui.story("back      it works again"),
    }
}

fn end_of(run: &Run) -> Option<String> {
    match &run.end {
        RunEnd::Newest => None,
        RunEnd::Cut { why } => Some(format!("then a CUT: {why}")),
        RunEnd::Gap { missing } => {
            Some(format!("then a GAP: segment {missing:016X} is missing, and later ones are there"))
        }
    }
}

/// `timeline` of a deployment.
pub fn timeline(context: &Context, found: &Documents) -> Result<Outcome, Failure> {
    let ui = context.ui;
    let is_whole = found.missing.is_empty() && found.damaged.is_empty();
    let outcome = if is_whole { Outcome::Done } else { Outcome::Damage };
    let newest = found.newest();
    let age = newest.map(|newest| (context.now() - moment_of(newest)).num_milliseconds().max(0) as f64 / 1000.0);
    if ui.json {
        let runs: Vec<_> = found
            .runs
            .iter()
            .map(|run| {
                serde_json::json!({"from": moment_of(run.from), "to": moment_of(run.reach()), "changes": run.changes,
                    "segments": run.last - run.first + 1, "end": run.end})
            })
            .collect();
        let bases: Vec<_> = found
            .bases
            .iter()
            .map(|base| serde_json::json!({"snapshot": base.id, "at": moment_of(base.at), "ended": base.ended}))
            .collect();
        return ui
            .json(&serde_json::json!({
                "message_type": "timeline", "source": found.full_name, "stream": found.stream, "snapshots": bases,
                "runs": runs, "newest": newest.map(moment_of), "age_seconds": age,
                "lost": found.missing.iter().map(|record| record.place.name()).collect::<Vec<_>>(),
                "damaged": found.damaged.iter().map(|(name, _)| name).collect::<Vec<_>>(),
            }))
            .map(|()| outcome);
    }
    ui.answer(format!("source    {}, stream {}", found.full_name, found.stream))?;
    for base in &found.bases {
        ui.answer(format!("snapshot  {}  {}", show(base.at), base.id))?;
    }
    for run in &found.runs {
        let changes = counted(run.changes, "change", "changes");
        let segments = counted(run.last - run.first + 1, "segment", "segments");
        ui.answer(format!("changes   {} to {}: {changes} in {segments}", show(run.from), show(run.reach())))?;
        let based = found.bases.iter().any(|base| run.from <= base.at && base.at <= run.reach());
        if !based {
            ui.answer("  no snapshot lies within: nothing of it can be restored")?;
        }
        if let Some(end) = end_of(run) {
            ui.answer(format!("  {end}"))?;
        }
    }
    for record in &found.missing {
        ui.answer(format!("lost      {} was acknowledged and is not in the store", record.place.name()))?;
    }
    for (name, why) in &found.damaged {
        ui.answer(format!("damaged   {name}: {why}"))?;
    }
    if let (Some(newest), Some(age)) = (newest, age) {
        ui.answer(format!("newest    {}, {} ago", show(newest), duration(age)))?;
    }
    Ok(outcome)
}

pub(super) fn no_stream(source: &str) -> Failure {
    let hint = "`lifeboat follow SOURCE` takes the changes of a deployment (`kind = \"convex\"`); `lifeboat diff SOURCE` compares \
                two snapshots.";
    Failure::usage(format!("`{source}` has no stream of changes"), hint)
}

fn wants(patterns: &[String], component: &str, table: &str) -> bool {
    let full = full_name(component, table);
    patterns.is_empty() || patterns.iter().any(|pattern| matches_table(pattern, &full))
}

/// `diff --from --to`.
pub fn diff(context: &Context, args: &DiffArgs, from: &str, to: &str) -> Result<Outcome, Failure> {
    let progress = context.progress(false);
    let (repository, _) = context.open(&*progress)?;
    let found = gather(&repository, &args.source)?.ok_or_else(|| no_stream(&args.source))?;
    let read = |text: &str| -> Result<DbTime, Failure> {
        if text.trim() == "latest" {
            return found.newest().ok_or_else(|| no_stream(&args.source));
        }
        Ok(time_of(read_time(text, context.now())?.moment))
    };
    let (from, to) = (read(from)?, read(to)?);
    if from > to {
        return Err(Failure::usage("`--from` is later than `--to`".to_owned(), "Exchange them."));
    }
    let ui = context.ui;
    ui.story(format!("from {} to {}", show(from), show(to)));
    let mut tables: std::collections::BTreeMap<String, Kinds> = std::collections::BTreeMap::new();
    let wanted = |component: &str, table: &str| wants(&args.table, component, table);
    let work_dir = std::env::temp_dir();
    let mut each = |one: Difference| -> Result<(), ops::Error> {
        let name = full_name(&one.component, &one.table);
        let kinds = tables.entry(name.clone()).or_default();
        let (sign, kind, counter) = match (&one.before, &one.after) {
            (None, _) => ('+', "added", &mut kinds.added),
            (_, None) => ('-', "deleted", &mut kinds.deleted),
            _ => ('M', "changed", &mut kinds.changed),
        };
        *counter += 1;
        let value = |line: &Option<String>| {
            line.as_deref().and_then(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        };
        let told = if ui.json {
            ui.json(&serde_json::json!({"message_type": "document", "change": kind, "table": name, "id": one.id,
                "before": value(&one.before), "after": value(&one.after)}))
        } else {
            ui.answer(format!("{sign}  {name}  {}", one.id))
        };
        told.map_err(|_| crate::repository::Error::Cancelled.into())
    };
    difference(&repository, &found, (from, to), &wanted, &work_dir, &*progress, &mut each)?;
    if ui.json {
        ui.json(&serde_json::json!({"message_type": "summary", "from": moment_of(from), "to": moment_of(to), "tables": tables}))?;
        return Ok(Outcome::Done);
    }
    for (name, kinds) in &tables {
        ui.story(format!(
            "{name}: {} added, {} changed, {} deleted",
            count(kinds.added),
            count(kinds.changed),
            count(kinds.deleted)
        ));
    }
    if tables.is_empty() {
        ui.story("no document differs");
    }
    Ok(Outcome::Done)
}

/// `dump --id`.
pub fn dump(context: &Context, args: &DumpArgs, id: &str) -> Result<Outcome, Failure> {
    let progress = context.progress(false);
    let (repository, _) = context.open(&*progress)?;
    let found = gather(&repository, &args.source)?.ok_or_else(|| no_stream(&args.source))?;
    let limit = match args.which.to.as_deref() {
        None | Some("latest") => DbTime::MAX,
        Some(text) => time_of(read_time(text, context.now())?.moment),
    };
    let mut all: Vec<Revision> = history(&repository, &found, id, &*progress)?;
    all.retain(|revision| revision.at <= limit);
    let Some(last) = all.last() else {
        let hint = "`lifeboat timeline SOURCE` shows which times are known; older snapshots are searched with `lifeboat dump SOURCE \
                    TABLE/documents.jsonl --snapshot ID`.";
        return Err(Failure::usage(format!("no revision of `{id}` is known"), hint));
    };
    let ui = context.ui;
    if !args.history {
        let Some(line) = &last.line else {
            let hint = "`--history` shows what it was before; `--to TIME` shows it at a time.";
            return Err(Failure::usage(format!("`{id}` was deleted at {}", show(last.at)), hint));
        };
        ui.answer(line)?;
        return Ok(Outcome::Done);
    }
    for revision in &all {
        let kind = match (revision.of_snapshot, &revision.line) {
            (true, None) => "gone",
            (true, _) => "snapshot",
            (_, Some(_)) => "written",
            _ => "deleted",
        };
        if ui.json {
            let value = revision.line.as_deref().and_then(|line| serde_json::from_str::<serde_json::Value>(line).ok());
            ui.json(&serde_json::json!({"message_type": "revision", "table": revision.table, "at": show(revision.at),
                "kind": kind, "value": value}))?;
        } else {
            let line = revision.line.as_deref().unwrap_or("");
            ui.answer(format!("{}  {kind:8}  {}  {line}", show(revision.at), revision.table))?;
        }
    }
    Ok(Outcome::Done)
}
