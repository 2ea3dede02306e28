//! Sealing a host's packs anew, after its list of recipients changed: those who were added can read what was stored before, and what was
//! stored before is deduplicated against again.
//!
//! Invariants: as of a prune, whose copying this is: packs are retired and wait for the grace; killed anywhere, the next run goes on. The
//! segments of streams stay as they are: their names hold digests of what they say, and nothing is overwritten.

use std::time::Instant;

use serde::Serialize;

use super::Error;
use super::prune::PruneError;
use crate::model::Moment;
use crate::progress::{Event, Progress};
use crate::repository::{EarlierPacks, Repository};

/// What sealing anew did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RewrapReport {
    /// Packs that were sealed anew, and are retired.
    pub packs: u64,
    /// Frames in them.
    pub frames: u64,
    /// Bytes that were put.
    pub stored: u64,
    /// Packs that are still sealed to an earlier list.
    pub left: u64,
    /// Of them those that do not open or are damaged, with the reason.
    pub damaged: Vec<(String, String)>,
}

/// How many of this host's packs are sealed to an earlier list.
pub fn look(repository: &mut Repository) -> Result<EarlierPacks, Error> {
    Ok(repository.earlier_packs()?.0)
}

/// Seals them anew. No further pack is begun after `until`; what is replaced waits for `grace` seconds.
pub fn rewrap(
    repository: &mut Repository,
    grace: u64,
    until: Option<Instant>,
    clock: &dyn Fn() -> Moment,
    progress: &dyn Progress,
) -> Result<RewrapReport, Error> {
    let _alone = repository.folder().prune_lock()?.ok_or(PruneError::Busy)?;
    repository.reseal_log(true, progress)?;
    let (earlier, usage) = repository.earlier_packs()?;
    progress.event(Event::Expect { items: earlier.packs.len() as u64, bytes: earlier.bytes });
    let done = repository.rewrap(&earlier.packs, &usage, (grace, until), clock, progress)?;
    Ok(RewrapReport {
        packs: done.emptied.len() as u64,
        frames: done.frames,
        stored: done.stored,
        left: earlier.packs.len() as u64 - done.emptied.len() as u64,
        damaged: done.damaged.into_iter().map(|(pack, why)| (pack.to_string(), why)).collect(),
    })
}
