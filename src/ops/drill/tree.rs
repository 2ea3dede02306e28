//! Drills of trees: volumes, archives, the outputs of commands.

use std::path::Path;
use std::time::Instant;

use super::checks::command;
use super::scratch::{Scratch, damage};
use super::{CheckEnd, Held, Phase};
use crate::catalog::SnapshotRow;
use crate::client;
use crate::model::database::VolumeFacts;
use crate::ops::canary::read_file;
use crate::ops::restore::{Overwrite, Prepared, RestoreOptions, prepare, restore, verify};
use crate::ops::{Error, Selection, chain};
use crate::plan::restore::Choice;
use crate::repository::{self, Repository};

/// Everything of a snapshot, into an empty place.
pub(super) fn whole() -> Result<RestoreOptions, Error> {
    Ok(RestoreOptions {
        selection: Selection::new(&[], &[])?,
        overwrite: Overwrite::Refuse,
        delete: false,
        verify: false,
    })
}

/// Lays a snapshot down in `name` of the scratch place, and notes how much that was.
pub(super) fn lay(
    repository: &mut Repository,
    snapshot: SnapshotRow,
    choice: &Choice,
    held: &mut Held<'_>,
    scratch: &Scratch,
    name: &str,
) -> Result<Prepared, Error> {
    let into = scratch.path(name);
    let prepared = prepare(repository, snapshot, choice, Some(&into), whole()?, held.progress)?;
    let plan = &prepared.plan;
    held.record.fetched_bytes = plan.fetch_bytes;
    held.plan(format!(
        "snapshot {} of {}: {} files, {} bytes, into {}",
        plan.snapshot,
        plan.source,
        plan.files,
        plan.bytes,
        into.display()
    ));
    held.enter(Phase::Fetch);
    let report = restore(repository, &prepared, held.progress)?;
    held.record.restored_bytes = report.bytes_written;
    Ok(prepared)
}

/// Compares what was laid down with its digests. False where it differs.
pub(super) fn look_at_files(repository: &Repository, prepared: &Prepared, held: &mut Held<'_>) -> Result<bool, Error> {
    if held.options.sabotage {
        let into = prepared.plan.into.clone().unwrap_or_default();
        let damaged = damage(&into)?;
        held.plan(match damaged {
            Some(path) => format!("a bit of {} was turned around on purpose", path.display()),
            None => "there is no byte that could be damaged on purpose".to_owned(),
        });
    }
    held.check("files", |held| {
        let files = verify(repository, prepared, held.progress)?;
        Ok((CheckEnd::Passed, format!("every digest is the snapshot's; files: {files}")))
    })
}

pub(super) fn hold(
    repository: &mut Repository,
    snapshot: SnapshotRow,
    choice: &Choice,
    held: &mut Held<'_>,
    scratch: &Scratch,
) -> Result<(), Error> {
    // What other kinds say of themselves names no databases.
    let facts: VolumeFacts = serde_json::from_value(snapshot.record.facts.clone()).unwrap_or_default();
    let prepared = lay(repository, snapshot, choice, held, scratch, "data")?;
    held.enter(Phase::Assert);
    let into = scratch.path("data");
    if let Some(line) = &held.options.checks.command {
        held.check("command", |held| command(line, &into, held.options.checks.patience, held.progress))?;
    }
    held.back();
    look_at_files(repository, &prepared, held)?;
    super::canary::look(held, chrono::TimeDelta::zero(), |_| Ok(read_file(&into)))?;
    look_at_databases(&facts, &into, held)
}

/// What SQLite finds in the databases that were captured, each for itself.
fn look_at_databases(facts: &VolumeFacts, into: &Path, held: &mut Held<'_>) -> Result<(), Error> {
    if held.options.checks.is_quick {
        return Ok(());
    }
    for database in &facts.databases {
        held.check(&format!("integrity {}", database.path), |held| {
            if let Some(note) = &database.note {
                return Ok((CheckEnd::Skipped, format!("SQLite did not open it when it was stored: {note}")));
            }
            let (begun, patience, progress) = (Instant::now(), held.options.checks.patience, held.progress);
            let stop = || progress.cancelled() || begun.elapsed() > patience;
            Ok(match client::sqlite::check(&into.join(&database.path), &stop) {
                Err(e) if e.is_interrupted() && progress.cancelled() => return Err(repository::Error::Cancelled.into()),
                Err(e) if e.is_interrupted() => {
                    (CheckEnd::Failed, format!("it did not end within {} s", patience.as_secs()))
                }
                Ok(found) if found.is_empty() => (CheckEnd::Passed, "integrity_check: ok".to_owned()),
                Ok(found) => (CheckEnd::Failed, format!("integrity_check: {}", found.join("; "))),
                Err(e) => (CheckEnd::Failed, chain(&e)),
            })
        })?;
    }
    Ok(())
}
