//! Repairing what a check found, as far as it can be repaired from what is stored. Nothing is deleted or overwritten.
//!
//! The order is that of trust: the logs are read anew where the catalog says something else; lost commits are said to be
//! lost, and their packs, which explain themselves, are named again; frames of damaged packs are copied, lost ones made
//! anew from chunks that a later backup stored. What is left needs a source that still has it, or another copy of the
//! repository.

use serde::Serialize;

use super::Error;
use super::check::{CheckReport, ReadData, check};
use crate::model::{CommitId, Moment, PackId, SnapshotId};
use crate::progress::{Event, Progress};
use crate::repository::Repository;

/// What a repair did, or with `dry_run` would do.
#[derive(Debug, Clone, Serialize)]
pub struct RepairReport {
    /// The catalog said something else than the logs, and was read anew.
    pub catalog_wrong: bool,
    /// Commits that are lost: place and digest.
    pub commits_lost: Vec<(u64, CommitId)>,
    /// Packs that no commit named.
    pub packs_adopted: Vec<PackId>,
    /// Snapshots that came back with them.
    pub snapshots_back: Vec<SnapshotId>,
    /// Frames that were copied out of damaged packs.
    pub frames_copied: u64,
    /// Frames that were made anew from chunks stored elsewhere.
    pub frames_remade: u64,
    /// Frames that stay lost.
    pub frames_lost: u64,
    /// Packs that were put.
    pub packs_added: u64,
    /// Whether an identity was at hand.
    pub could_read: bool,
    /// What a check finds afterwards.
    pub after: CheckReport,
}

/// Repairs this host's part of the repository. With `read` packs are read first to find damage that no check has found yet.
pub fn repair(
    repository: &mut Repository,
    read: ReadData,
    dry_run: bool,
    now: Moment,
    progress: &dyn Progress,
) -> Result<RepairReport, Error> {
    repository.host()?;
    progress.event(Event::Stage("comparing the catalog with the logs"));
    // Asked before the catalog is read anew: it may be the last that knows of a commit.
    let mut lost = repository.lost_commits(progress)?;
    let catalog_wrong = repository.catalog_differs(progress)?;
    if catalog_wrong && !dry_run {
        let marks = repository.catalog().damage_marks()?;
        repository.rebuild_catalog(progress)?;
        repository.catalog_mut().mark_damage(&marks)?;
        for further in repository.lost_commits(progress)? {
            if !lost.contains(&further) {
                lost.push(further);
            }
        }
    }
    progress.event(Event::Stage("mending the log"));
    let log = repository.mend_log(lost, now, dry_run, progress)?;
    // Notes in the catalog which packs and frames are damaged.
    let found = check(repository, read, &[], now, 0, progress)?;
    progress.event(Event::Stage("mending frames"));
    let own = format!("writers/{}/packs/", repository.host()?.name);
    let named = found.damage.iter().map(|damage| &damage.object).chain(&found.replaced);
    let worn = named.filter_map(|object| object.strip_prefix(&own)?.rsplit('/').next()?.parse().ok()).collect();
    let frames = repository.mend_frames(&worn, now, dry_run, progress)?;
    let problems = repository.sync(progress)?.problems;
    let after = check(repository, ReadData::No, &problems, now, 0, progress)?;
    Ok(RepairReport {
        catalog_wrong,
        commits_lost: log.lost.iter().map(|lost| (lost.sequence, lost.digest)).collect(),
        packs_adopted: log.adopted,
        snapshots_back: log.snapshots.iter().map(|record| record.id).collect(),
        frames_copied: frames.copied,
        frames_remade: frames.remade,
        frames_lost: frames.lost,
        packs_added: frames.packs,
        could_read: repository.can_read(),
        after,
    })
}
