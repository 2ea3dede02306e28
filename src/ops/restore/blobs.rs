//! The snapshot of a source of blobs that serves a time: blobs follow their database. Not here: the choice itself (`plan::blobs`).

use super::Error;
use crate::catalog::SnapshotRow;
use crate::model::{Moment, VolumeFacts};
use crate::plan::blobs::{BlobChoice, choose_blobs};
use crate::plan::restore::{Candidate, NoPlan, of_source};
use crate::repository::Repository;

/// Finds it. `None`: the newest snapshot of the source does not say that it is one of blobs.
pub fn find_blobs(
    repository: &Repository,
    source: &str,
    asked: Moment,
) -> Result<Option<(SnapshotRow, BlobChoice)>, Error> {
    let rows = repository.catalog().all_snapshots()?;
    let candidate = |row: &SnapshotRow| Candidate {
        id: row.record.id,
        full_name: row.full_name(),
        ended: row.record.ended,
        complete: row.record.complete,
    };
    let alive: Vec<Candidate> = rows.iter().filter(|row| !row.forgotten).map(candidate).collect();
    let mine = of_source(&alive, source)?;
    let row_of = |id| rows.iter().find(|row| row.record.id == id);
    let newest = mine.iter().max_by_key(|c| (c.ended, c.id)).and_then(|c| row_of(c.id));
    let facts = newest.and_then(|row| serde_json::from_value::<VolumeFacts>(row.record.facts.clone()).ok());
    if !facts.is_some_and(|facts| facts.blobs) {
        return Ok(None);
    }
    let all: Vec<_> = mine.into_iter().filter_map(|c| row_of(c.id).map(|row| (c, row.record.began))).collect();
    let chosen = choose_blobs(source, &all, asked)?;
    let row = row_of(chosen.choice.id).cloned().ok_or_else(|| NoPlan::NoSnapshot(source.to_owned()))?;
    Ok(Some((row, chosen)))
}
