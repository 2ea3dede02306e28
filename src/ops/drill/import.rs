//! The last part of a drill of a deployment, where there is one for drills alone: what would come back is imported there and compared.
//!
//! Invariants: only a deployment that says of itself that it is for drills (a document in the table `lifeboat_scratch`) is written into, for
//! all its tables are replaced; it says so again afterwards. Variables are not set: they would let it act in the original's name. Not
//! here: making such a deployment.

use std::path::Path;

use serde_json::json;

use super::{CheckEnd, Held, Phase};
use crate::client::convex::{Deployment, ImportMode};
use crate::ops::Error;
use crate::ops::restore::convex::{DeploymentRestore, Target, perform, prepare_into, send, verify};
use crate::repository::Repository;

/// The table by which a deployment says that it is for drills.
pub const SCRATCH_TABLE: &str = "lifeboat_scratch";

/// Imports. Counts as part of the time to restore.
pub(super) fn import(
    repository: &Repository,
    restore: &DeploymentRestore,
    deployment: &Deployment,
    work_dir: &Path,
    held: &mut Held<'_>,
) -> Result<(), Error> {
    if deployment.first_documents(SCRATCH_TABLE, 1)?.is_empty() {
        return Err(Error::NoScratchDeployment(deployment.place()));
    }
    held.enter(Phase::Start);
    let target = Target { mode: ImportMode::ReplaceAll, environment: false, overwrite_environment: false };
    let plan = prepare_into(repository, restore, deployment, target, held.progress)?;
    let sent = send(repository, restore, deployment, &plan, Some(work_dir), held.progress)?;
    perform(deployment, &plan, &sent, held.progress)?;
    // The import has dropped it.
    deployment.add_document(SCRATCH_TABLE, &json!({"drill": held.record.id.to_string()}))?;
    Ok(())
}

/// Compares the deployment with what was to come back, by an export of its own.
pub(super) fn compare(
    repository: &Repository,
    restore: &DeploymentRestore,
    deployment: &Deployment,
    work_dir: &Path,
    held: &mut Held<'_>,
) -> Result<(), Error> {
    held.check("deployment", |held| {
        let found = verify(repository, restore, deployment, Some(work_dir), held.progress)?;
        let equal = format!("tables: {}, documents: {}", found.tables_equal, found.documents_equal);
        if found.is_equal() {
            return Ok((
                CheckEnd::Passed,
                format!("{} has the same, by an export of its own: {equal}", deployment.place()),
            ));
        }
        let first = found.differences.first().map_or("files", |table| table.table.as_str()).to_owned();
        Ok((
            CheckEnd::Failed,
            format!("{} has something else; equal are {equal}; the first that is not: {first}", deployment.place()),
        ))
    })?;
    Ok(())
}
