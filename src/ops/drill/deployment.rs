//! Drills of deployments: the documents of a moment, with the changes behind a snapshot laid over it, as they would go into a restore;
//! every line read, every id and every file looked at.
//!
//! Invariants: nothing grows with the number of documents; a line is bounded. Not here: the import into a deployment for
//! drills (`import`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};
use data_encoding::BASE64;
use serde::Deserialize;

use super::checks::command;
use super::scratch::{Scratch, damage};
use super::{CheckEnd, Held, Phase};
use crate::format::convex::{DocumentId, Part, full_name, place_of};
use crate::model::Moment;
use crate::model::documents::moment_of;
use crate::ops::Error;
use crate::ops::canary::{TABLE, read_document, slack_of_deployments};
use crate::ops::documents::{Documents, gather};
use crate::ops::restore::convex::{DeploymentRestore, From, Wishes, Written, plan, write_tree};
use crate::plan::documents::RunEnd;
use crate::plan::restore::Wanted;
use crate::repository::Repository;

/// Bytes of a line at most: a document has 1 MiB, and JSON writes some of its values longer.
const LINE_MAX: u64 = 64 << 20;

pub(super) fn hold(
    repository: &mut Repository,
    source: &str,
    held: &mut Held<'_>,
    scratch: &Scratch,
) -> Result<(), Error> {
    let documents = gather(repository, source)?;
    let rows = repository.catalog().snapshots()?;
    let whole = rows.iter().filter(|row| row.full_name() == source && row.record.complete);
    let mut windows: Vec<(Moment, Moment)> = whole.map(|row| (row.record.ended, row.record.ended)).collect();
    if let Some(documents) = &documents {
        let runs = documents.runs.iter().filter_map(|run| {
            let within = |at: i64| run.from <= at && at <= run.reach();
            let first = documents.bases.iter().map(|base| base.at).filter(|at| within(*at)).min()?;
            Some((moment_of(first), moment_of(run.reach())))
        });
        windows.extend(runs);
    }
    let wanted = held.aim(&windows)?.map_or(Wanted::Latest, Wanted::At);
    let from = From::find(repository, documents.as_ref(), source, &wanted, false)?;
    let choice = from.choice.clone();
    (held.record.snapshot, held.record.shows) = (Some(choice.id), Some(choice.shows));
    let mut restore = plan(repository, from, &Wishes::default(), held.progress)?;
    let changes = restore.plan.changes.as_ref();
    // Without changes behind it a snapshot shows some moment of its export.
    let began = rows.iter().find(|row| row.record.id == choice.id).map(|row| row.record.began);
    held.read_from = began.filter(|_| changes.is_none());
    held.record.segments = changes.map_or(0, |changes| changes.segments);
    held.record.fetched_bytes = restore.bytes().saturating_add(changes.map_or(0, |changes| changes.bytes));
    held.plan(format!(
        "snapshot {} of {} and {} segments of changes: {} tables, {} files",
        restore.plan.snapshot,
        restore.plan.source,
        held.record.segments,
        restore.plan.tables.len(),
        restore.plan.files
    ));
    held.enter(Phase::Replay);
    let work = scratch.directory("work")?;
    restore.fold(repository, documents.as_ref(), &work, held.progress)?;
    held.enter(Phase::Fetch);
    let into = scratch.directory("data")?;
    let written = write_tree(repository, &restore, &into, held.progress)?;
    let size = |(path, _): &(PathBuf, blake3::Hash)| path.metadata().map_or(0, |meta| meta.len());
    held.record.restored_bytes = written.iter().map(size).sum();
    let deployment = held.options.deployment;
    if let Some(deployment) = deployment {
        super::import::import(repository, &restore, deployment, &work, held)?;
    }
    held.enter(Phase::Assert);
    if let Some(line) = &held.options.checks.command {
        held.check("command", |held| command(line, &into, held.options.checks.patience, held.progress))?;
    }
    held.back();
    if let Some(documents) = &documents {
        held.check("stream", |_| Ok(stream(documents)))?;
    }
    look(held, &restore, &into, &written)?;
    if let Some(deployment) = deployment {
        super::import::compare(repository, &restore, deployment, &work, held)?;
    }
    super::canary::look(held, slack_of_deployments(), |canary| find_canary(&canary.source, &into, &written))
}

/// Changes that were acknowledged are there. What lies behind a loss would come back older than it was asked for.
fn stream(documents: &Documents) -> (CheckEnd, String) {
    let lost = documents.missing.len() + documents.damaged.len();
    let gaps = documents.runs.iter().filter(|run| matches!(run.end, RunEnd::Gap { .. })).count();
    match (lost, gaps) {
        (0, 0) => (CheckEnd::Passed, format!("segments of changes: {}, without a gap", documents.pieces.len())),
        (0, gaps) => (CheckEnd::Failed, format!("its changes have {gaps} gaps: `lifeboat timeline` shows them")),
        (lost, _) => (CheckEnd::Failed, format!("segments of its changes that are gone or damaged: {lost}")),
    }
}

fn look(held: &mut Held<'_>, restore: &DeploymentRestore, into: &Path, written: &Written) -> Result<(), Error> {
    if held.options.sabotage {
        let damaged = damage(into)?;
        held.plan(match damaged {
            Some(path) => format!("a bit of {} was turned around on purpose", path.display()),
            None => "there is no byte that could be damaged on purpose".to_owned(),
        });
    }
    held.check("written", |_| written_again(written))?;
    held.check("documents", |_| documents(restore, into, written))?;
    if restore.plan.files_missing {
        held.check("files in time", |_| {
            let until = restore.plan.files_until.map_or_else(|| "none".to_owned(), crate::plan::restore::show);
            let text = format!("files that the newest documents name may be missing: those until {until} are stored");
            Ok((CheckEnd::Skipped, text))
        })?;
    }
    held.check("files", |_| files(into, written))?;
    Ok(())
}

/// The newest canary of a source among the documents.
fn find_canary(source: &str, into: &Path, written: &Written) -> Result<Option<Moment>, Error> {
    let mut newest = None;
    for (path, _) in written {
        let name = path.strip_prefix(into).unwrap_or(path).to_string_lossy();
        let (component, Part::Documents(TABLE)) = place_of(&name) else { continue };
        if component.is_empty() {
            // A line that is none was found before.
            let _ = each_line(path, &mut |line| {
                newest = newest.max(read_document(line, source));
                Ok(())
            })?;
        }
    }
    Ok(newest)
}

/// What lies there is what was written.
fn written_again(written: &Written) -> Result<(CheckEnd, String), Error> {
    for (path, digest) in written {
        let mut hasher = blake3::Hasher::new();
        let read = File::open(path).and_then(|file| hasher.update_reader(file).map(drop));
        read.map_err(|source| Error::Io { doing: "read", path: path.clone(), source })?;
        if hasher.finalize() != *digest {
            return Ok((CheckEnd::Failed, format!("`{}` is not as it was written", path.display())));
        }
    }
    Ok((CheckEnd::Passed, format!("files as they were written: {}", written.len())))
}

/// A line at a time, each bounded.
fn each_line(path: &Path, each: &mut dyn FnMut(&[u8]) -> Result<(), String>) -> Result<Result<u64, String>, Error> {
    let io = |source| Error::Io { doing: "read", path: path.to_owned(), source };
    let mut reader = BufReader::with_capacity(256 << 10, File::open(path).map_err(io)?);
    let (mut line, mut count) = (Vec::new(), 0u64);
    loop {
        line.clear();
        if (&mut reader).take(LINE_MAX).read_until(b'\n', &mut line).map_err(io)? == 0 {
            return Ok(Ok(count));
        }
        count += 1;
        let wrong = match line.strip_suffix(b"\n") {
            Some(line) => each(line).err(),
            None => Some("it has no end".to_owned()),
        };
        if let Some(why) = wrong {
            return Ok(Err(format!("`{}` line {count}: {why}", path.display())));
        }
    }
}

#[derive(Deserialize)]
struct TableLine {
    name: String,
    id: u32,
}

#[derive(Deserialize)]
struct Document<'l> {
    #[serde(rename = "_id", borrow)]
    id: std::borrow::Cow<'l, str>,
}

/// Every line of every table is a document with an id of that table; each table has as many as were counted.
fn documents(restore: &DeploymentRestore, into: &Path, written: &Written) -> Result<(CheckEnd, String), Error> {
    let below = |path: &Path| path.strip_prefix(into).unwrap_or(path).to_string_lossy().into_owned();
    let mut numbers: BTreeMap<(String, String), u32> = BTreeMap::new();
    for (path, _) in written {
        let (component, part) = (place_of(&below(path)).0, below(path));
        if place_of(&part).1 != Part::Tables {
            continue;
        }
        let found = each_line(path, &mut |line| {
            let table: TableLine = serde_json::from_slice(line).map_err(|e| e.to_string())?;
            numbers.insert((component.clone(), table.name), table.id);
            Ok(())
        })?;
        if let Err(why) = found {
            return Ok((CheckEnd::Failed, why));
        }
    }
    let (mut tables, mut all) = (0u64, 0u64);
    let mut missing: BTreeSet<(String, String)> =
        restore.plan.tables.iter().map(|plan| (plan.component.clone(), plan.table.clone())).collect();
    for (path, _) in written {
        let name = below(path);
        let (component, Part::Documents(table)) = place_of(&name) else { continue };
        missing.remove(&(component.clone(), table.to_owned()));
        let Some(number) = numbers.get(&(component.clone(), table.to_owned())) else {
            return Ok((CheckEnd::Failed, format!("`{name}` is of a table that `_tables` does not list")));
        };
        let found = each_line(path, &mut |line| {
            let document: Document<'_> = serde_json::from_slice(line).map_err(|e| format!("it is no document: {e}"))?;
            let id = DocumentId::parse(&document.id).map_err(|e| format!("`{}`: {e}", document.id))?;
            let own = id.table == *number;
            own.then_some(()).ok_or_else(|| format!("`{}` is of table {}, this one is {number}", document.id, id.table))
        })?;
        let count = match found {
            Ok(count) => count,
            Err(why) => return Ok((CheckEnd::Failed, why)),
        };
        // Where changes were laid over it, nobody has counted before.
        let planned = restore.plan.tables.iter().find(|plan| plan.component == component && plan.table == table);
        let counted = planned.and_then(|plan| plan.documents).filter(|_| restore.plan.changes.is_none());
        if counted.is_some_and(|counted| counted != count) {
            let text = format!("`{name}` has {count} documents, {} when it was stored", counted.unwrap_or(0));
            return Ok((CheckEnd::Failed, text));
        }
        (tables, all) = (tables + 1, all + count);
    }
    if let Some((component, table)) = missing.first() {
        let name = full_name(component, table);
        return Ok((CheckEnd::Failed, format!("table `{name}` was to come back, and nothing of it was written")));
    }
    Ok((CheckEnd::Passed, format!("tables: {tables}, documents: {all}; every id is one of its table")))
}

#[derive(Deserialize)]
struct FileLine {
    #[serde(rename = "_id")]
    id: String,
    sha256: Option<String>,
    size: Option<f64>,
}

/// Every file that is listed is there, with the size and the SHA-256 that the deployment gave it.
fn files(into: &Path, written: &Written) -> Result<(CheckEnd, String), Error> {
    let below = |path: &Path| path.strip_prefix(into).unwrap_or(path).to_string_lossy().into_owned();
    let mut blobs: BTreeMap<(String, String), PathBuf> = BTreeMap::new();
    for (path, _) in written {
        let name = below(path);
        if let (component, Part::Blob(id)) = place_of(&name) {
            blobs.insert((component, id.to_owned()), path.clone());
        }
    }
    let (mut count, mut bytes) = (0u64, 0u64);
    for (path, _) in written {
        let name = below(path);
        let (component, Part::FileList) = place_of(&name) else { continue };
        let found = each_line(path, &mut |line| {
            let file: FileLine = serde_json::from_slice(line).map_err(|e| e.to_string())?;
            let blob = blobs.get(&(component.clone(), file.id.clone()));
            let blob = blob.ok_or_else(|| format!("file `{}` is listed and not there", file.id))?;
            let (size, digest) = sha256(blob).map_err(|e| format!("`{}`: {e}", blob.display()))?;
            if file.size.is_some_and(|listed| listed as u64 != size) {
                return Err(format!("file `{}` has {size} bytes, not those that are listed", file.id));
            }
            if file.sha256.as_ref().is_some_and(|listed| *listed != digest) {
                return Err(format!("the bytes of file `{}` do not match its SHA-256", file.id));
            }
            (count, bytes) = (count + 1, bytes + size);
            Ok(())
        })?;
        if let Err(why) = found {
            return Ok((CheckEnd::Failed, why));
        }
    }
    Ok((CheckEnd::Passed, format!("files: {count}, bytes: {bytes}; every SHA-256 is the deployment's")))
}

fn sha256(path: &Path) -> std::io::Result<(u64, String)> {
    let (mut file, mut digest) = (File::open(path)?, Context::new(&SHA256));
    let (mut buffer, mut size) = (vec![0; 256 << 10], 0);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((size, BASE64.encode(digest.finish().as_ref()))),
            read => {
                digest.update(buffer.get(..read).unwrap_or_default());
                size += read as u64;
            }
        }
    }
}
