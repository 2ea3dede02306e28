//! The commands that look: snapshots, ls, find, diff, dump, stats.

use std::io::Write;

use crate::cli::Outcome;
use crate::cli::args::{DiffArgs, DumpArgs, FindArgs, LsArgs, OverwriteArg, SnapshotsArgs, Which};
use crate::cli::context::Context;
use crate::cli::output::{count, counted, size};
use crate::cli::report::Failure;
use crate::model::{Entry, EntryKind, RawText, RelPath};
use crate::ops::cluster::waits_for;
use crate::ops::look::{self, Change};
use crate::ops::restore::convex::{counts, facts_of, scheduled};
use crate::ops::restore::find_snapshot;
use crate::plan::restore::{Wanted, show};

/// `snapshots`.
pub fn snapshots(context: &Context, args: &SnapshotsArgs) -> Result<Outcome, Failure> {
    let progress = context.progress(false);
    let (repository, problems) = context.open(&*progress)?;
    let mut rows = repository.catalog().all_snapshots()?;
    rows.retain(|row| row.forgotten == args.forgotten);
    if let Some(source) = &args.source {
        rows.retain(|row| row.record.source == *source || row.full_name() == *source);
    }
    if let Some(tag) = &args.tag {
        rows.retain(|row| row.record.tags.contains(tag));
    }
    let mut waiting = std::collections::BTreeMap::new();
    for row in rows.iter().filter(|row| row.record.kind == "postgres" && row.record.complete && !row.forgotten) {
        if let Some(segment) = waits_for(&repository, &row.writer_name, &row.record)? {
            waiting.insert(row.record.id, segment);
        }
    }
    if context.ui.json {
        let all: Vec<_> = rows
            .iter()
            .map(|row| {
                let r = &row.record;
                serde_json::json!({
                    "id": r.id, "writer": row.writer_name, "source": r.source, "kind": r.kind, "host": r.host,
                    "root": r.root, "began": r.began, "ended": r.ended,
                    "complete": r.complete && !waiting.contains_key(&r.id), "pending": waiting.get(&r.id), "skipped": r.skipped,
                    "entries": r.entries, "files": r.files, "bytes": r.bytes, "added": r.added, "tags": r.tags,
                    "received": row.received, "pinned": row.pinned, "forgotten": row.forgotten,
                    "change": r.change, "abnormal": r.abnormal, "accepted": row.accepted,
                })
            })
            .collect();
        context.ui.json(&all)?;
    } else {
        let names: Vec<String> = rows.iter().map(crate::catalog::SnapshotRow::full_name).collect();
        let width = names.iter().map(String::len).max().unwrap_or(0).max(6);
        context.ui.answer(format!(
            "{:26}  {:20}  {:width$}  {:>10}  {:>10}  state",
            "id", "ended", "source", "size", "added"
        ))?;
        for (row, name) in rows.iter().zip(names) {
            let r = &row.record;
            let mut state = match (r.complete, waiting.get(&r.id)) {
                (true, Some(segment)) => format!("PENDING: segment {segment} is not there"),
                (true, None) => "complete".to_owned(),
                (false, _) => format!("INCOMPLETE: {} skipped", count(r.skipped)),
            };
            if row.pinned {
                state.push_str(", pinned");
            }
            if !r.abnormal.is_empty() {
                state.push_str(if row.accepted { ", accepted" } else { ", ABNORMAL" });
            }
            if row.forgotten {
                state.push_str(", forgotten");
            }
            let tags = if r.tags.is_empty() { String::new() } else { format!("  [{}]", r.tags.join(", ")) };
            let (bytes, added) = (size(r.bytes), size(r.added));
            let ended = show(r.ended);
            context.ui.answer(format!("{}  {ended}  {name:width$}  {bytes:>10}  {added:>10}  {state}{tags}", r.id))?;
        }
        context.ui.story(counted(rows.len() as u64, "snapshot", "snapshots"));
        let unreadable = repository.catalog().writers()?.len() > 1 && !repository.can_read();
        if unreadable {
            context.ui.story("Snapshots of other hosts are seen only with an identity: `--identity FILE`.");
        }
    }
    Ok(if problems.is_empty() { Outcome::Done } else { Outcome::Damage })
}

fn path_of(text: Option<&str>) -> Result<RelPath, Failure> {
    let text = text.unwrap_or_default().trim_start_matches("./").trim_matches('/');
    let text = if text == "." { "" } else { text };
    let hint = "Paths are relative to the source's root, as `etc/app.conf`.";
    RelPath::new(text.as_bytes()).map_err(|e| Failure::usage(e.to_string(), hint))
}

fn line(entry: &Entry) -> String {
    let mode: String = [0o400, 0o200, 0o100, 0o40, 0o20, 0o10, 0o4, 0o2, 0o1]
        .iter()
        .zip("rwxrwxrwx".chars())
        .map(|(bit, letter)| if entry.mode & bit != 0 { letter } else { '-' })
        .collect();
    let owner = |name: &Option<String>, id: u32| name.clone().unwrap_or_else(|| id.to_string());
    let (user, group) = (owner(&entry.user, entry.uid), owner(&entry.group, entry.gid));
    let when = chrono::DateTime::from_timestamp(entry.mtime.0, entry.mtime.1).map(|t| t.format("%Y-%m-%d %H:%M:%SZ"));
    let when = when.map_or_else(|| "-".to_owned(), |t| t.to_string());
    let target = match &entry.kind {
        EntryKind::Symlink { target } => format!(" -> {target}"),
        EntryKind::Hardlink { target } => format!(" = {target}"),
        _ => String::new(),
    };
    format!("{}{mode} {user:>8} {group:>8} {:>10} {when} {}{target}", entry.letter(), size(entry.size()), entry.path)
}

/// `ls`.
pub fn ls(context: &Context, args: &LsArgs) -> Result<Outcome, Failure> {
    let progress = context.progress(false);
    let (repository, _) = context.open(&*progress)?;
    let (wanted, _) = context.wanted(&args.which)?;
    let (snapshot, choice) = find_snapshot(&repository, &args.source, &wanted, false)?;
    context.ui.story(format!("snapshot {} of {}", choice.id, show(choice.shows)));
    let path = path_of(args.path.as_deref())?;
    let mut failed = Ok(());
    let mut each = |entry: &Entry| {
        let told = if context.ui.json {
            context.ui.json(entry)
        } else if args.long {
            context.ui.answer(line(entry))
        } else {
            context.ui.answer(format!("{}{}", entry.path, if entry.is_dir() { "/" } else { "" }))
        };
        failed = told;
        Ok(())
    };
    look::ls(&repository, &snapshot, &path, args.recursive, &*progress, &mut each)?;
    failed.map(|()| Outcome::Done)
}

/// `find`.
pub fn find(context: &Context, args: &FindArgs) -> Result<Outcome, Failure> {
    let progress = context.progress(false);
    let (repository, _) = context.open(&*progress)?;
    let mut snapshots = Vec::new();
    if args.all_snapshots {
        let all = repository.catalog().snapshots()?;
        snapshots
            .extend(all.into_iter().filter(|row| row.record.source == args.source || row.full_name() == args.source));
    } else {
        let (wanted, _) = context.wanted(&args.which)?;
        snapshots.push(find_snapshot(&repository, &args.source, &wanted, false)?.0);
    }
    let mut found = 0u64;
    for snapshot in &snapshots {
        let id = snapshot.record.id;
        look::find(&repository, snapshot, &args.patterns, &*progress, &mut |entry| {
            found += 1;
            let told = if context.ui.json {
                context.ui.json(&serde_json::json!({"snapshot": id, "entry": entry}))
            } else {
                context.ui.answer(format!("{}  {}", id.short(), line(entry)))
            };
            told.map_err(|_| crate::repository::Error::Cancelled.into())
        })?;
    }
    context.ui.story(counted(found, "match", "matches"));
    Ok(Outcome::Done)
}

/// `diff`.
pub fn diff(context: &Context, args: &DiffArgs) -> Result<Outcome, Failure> {
    if let (Some(from), Some(to)) = (&args.from, &args.to) {
        return super::documents::diff(context, args, from, to);
    }
    let progress = context.progress(false);
    let (repository, _) = context.open(&*progress)?;
    let named = |name: &str| find_snapshot(&repository, &args.source, &Wanted::Named(name.to_owned()), false);
    let ((first, _), (second, _)) = (named(&args.first)?, named(&args.second)?);
    context.ui.story(format!("from {} to {}", show(first.record.ended), show(second.record.ended)));
    let mut counts = [0u64; 4];
    look::diff(&repository, &first, &second, &*progress, &mut |change, old, new| {
        if change == Change::Metadata && !args.metadata {
            return Ok(());
        }
        let (n, sign) = match change {
            Change::Added => (0, '+'),
            Change::Removed => (1, '-'),
            Change::Modified => (2, 'M'),
            Change::Metadata => (3, 'U'),
        };
        counts[n] += 1;
        let Some(entry) = new.or(old) else { return Ok(()) };
        let told = if context.ui.json {
            context.ui.json(&serde_json::json!({"change": change, "path": entry.path, "before": old, "after": new}))
        } else {
            context.ui.answer(format!("{sign}  {}{}", entry.path, if entry.is_dir() { "/" } else { "" }))
        };
        told.map_err(|_| crate::repository::Error::Cancelled.into())
    })?;
    let [added, removed, modified, _] = counts.map(count);
    context.ui.story(format!("{added} added, {removed} removed, {modified} modified"));
    Ok(Outcome::Done)
}

/// `dump`.
pub fn dump(context: &Context, args: &DumpArgs) -> Result<Outcome, Failure> {
    if let Some(id) = &args.id {
        return super::documents::dump(context, args, id);
    }
    let progress = context.progress(false);
    let (repository, _) = context.open(&*progress)?;
    let (wanted, _) = context.wanted(&Which { to: args.which.to.clone(), snapshot: args.which.snapshot.clone() })?;
    let (snapshot, choice) = find_snapshot(&repository, &args.source, &wanted, false)?;
    super::restore::warn_passed_over(context, &choice);
    super::restore::warn_forgotten(context, &snapshot);
    if args.scheduled_function {
        return scheduled_function(context, args, &repository, &snapshot, &*progress);
    }
    let path = match &args.path {
        Some(path) => path_of(Some(path))?,
        None => look::only_file(&repository, &snapshot, &*progress).map_err(|_| {
            let text = format!("snapshot {} holds more than one file", snapshot.record.id);
            Failure::usage(text, "Say which: `lifeboat dump SOURCE PATH`.")
        })?,
    };
    match &args.output {
        Some(file) => {
            super::restore::refuse_existing(file, args.overwrite == Some(OverwriteArg::Always))?;
            let bytes = super::restore::write_staged(file, |mut output| {
                Ok(look::dump(&repository, &snapshot, &path, &mut output, &*progress)?)
            })?;
            context.ui.story(format!("{} in `{}`", size(bytes), file.display()));
        }
        None => {
            let mut output = std::io::BufWriter::with_capacity(1 << 20, std::io::stdout().lock());
            look::dump(&repository, &snapshot, &path, &mut output, &*progress)?;
            output.flush().map_err(|e| Failure::io("write to", std::path::Path::new("standard output"), e))?;
        }
    }
    Ok(Outcome::Done)
}

/// `dump --scheduled-function`.
fn scheduled_function(
    context: &Context,
    args: &DumpArgs,
    repository: &crate::repository::Repository,
    snapshot: &crate::catalog::SnapshotRow,
    progress: &dyn crate::progress::Progress,
) -> Result<Outcome, Failure> {
    let Some(made) = scheduled(repository, snapshot, progress)? else {
        return Err(Failure::usage(
            format!("nothing was scheduled in snapshot {}, or the deployment did not tell", snapshot.record.id),
            "`lifeboat dump SOURCE .lifeboat/convex/parts.json` says which parts answered.",
        ));
    };
    match &args.output {
        Some(file) => {
            super::restore::refuse_existing(file, args.overwrite == Some(OverwriteArg::Always))?;
            super::restore::write_staged(file, |mut output| {
                output.write_all(made.text.as_bytes()).map_err(|e| Failure::io("write", file, e))
            })?;
        }
        None => context.ui.answer(made.text.trim_end())?,
    }
    context.ui.story(counted(made.functions as u64, "scheduled function", "scheduled functions"));
    if made.left_out > 0 {
        let left = counted(made.left_out as u64, "one is", "are");
        context.ui.warning(format!("{left} left out: the first lines of the module say which"));
    }
    Ok(Outcome::Done)
}

/// `stats`.
pub fn stats(context: &Context) -> Result<Outcome, Failure> {
    let progress = context.progress(false);
    let (repository, _) = context.open(&*progress)?;
    let stats = look::stats(&repository)?;
    if context.ui.json {
        context.ui.json(&stats)?;
        return Ok(Outcome::Done);
    }
    let ui = context.ui;
    ui.answer(format!("snapshots   {}, by {}", count(stats.snapshots), counted(stats.writers, "writer", "writers")))?;
    ui.answer(format!("restorable  {} in all snapshots", size(stats.restorable_bytes)))?;
    ui.answer(format!("unique      {} in {}", size(stats.unique_bytes), counted(stats.frames, "frame", "frames")))?;
    ui.answer(format!("stored      {} in {}", size(stats.stored_bytes), counted(stats.packs, "pack", "packs")))?;
    ui.answer(format!("unused      {} in frames that no snapshot needs", size(stats.unused_bytes)))?;
    if stats.retired_bytes > 0 {
        ui.answer(format!("retired     {} in packs that the next prunes delete", size(stats.retired_bytes)))?;
    }
    Ok(Outcome::Done)
}

/// `stats SOURCE`: the tables of a deployment, as they were counted when they were stored.
pub fn tables(context: &Context, source: &str, which: &Which) -> Result<Outcome, Failure> {
    let progress = context.progress(false);
    let (repository, _) = context.open(&*progress)?;
    let (wanted, _) = context.wanted(which)?;
    let (snapshot, choice) = find_snapshot(&repository, source, &wanted, false)?;
    let facts = facts_of(&snapshot)?;
    let tables = counts(&repository, &snapshot, &*progress)?;
    if context.ui.json {
        context.ui.json(&serde_json::json!({"snapshot": choice.id, "facts": facts, "tables": tables}))?;
        return Ok(Outcome::Done);
    }
    let ui = context.ui;
    ui.story(format!("snapshot {} of {}", choice.id, show(choice.shows)));
    let width = tables.iter().map(|table| table.full_name().len()).max().unwrap_or(0).max(5);
    ui.answer(format!("{:width$}  {:>14}  {:>10}", "table", "documents", "size"))?;
    for table in &tables {
        // A name of somebody else's, without characters that move the cursor.
        let name = RawText(table.full_name().into_bytes()).to_string();
        ui.answer(format!("{name:width$}  {:>14}  {:>10}", count(table.documents), size(table.bytes)))?;
    }
    let files = facts.files.map_or_else(|| "not stored".to_owned(), count);
    ui.answer(format!("files       {files}"))?;
    Ok(Outcome::Done)
}
