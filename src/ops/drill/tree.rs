//! Drills of trees: volumes, archives, the outputs of commands.

use super::checks::command;
use super::scratch::{Scratch, damage};
use super::{CheckEnd, Held, Phase};
use crate::catalog::SnapshotRow;
use crate::ops::restore::{Overwrite, Prepared, RestoreOptions, prepare, restore, verify};
use crate::ops::{Error, Selection};
use crate::plan::restore::Choice;
use crate::repository::Repository;

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
    let prepared = lay(repository, snapshot, choice, held, scratch, "data")?;
    held.enter(Phase::Assert);
    let into = scratch.path("data");
    if let Some(line) = &held.options.checks.command {
        held.check("command", |held| command(line, &into, held.options.checks.patience, held.progress))?;
    }
    held.back();
    look_at_files(repository, &prepared, held)?;
    Ok(())
}
