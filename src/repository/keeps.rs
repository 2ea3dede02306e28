//! What a run does about packs that are retired while it goes on: it has referred to them already, in good faith.
//!
//! Invariants: before a snapshot is acknowledged, every pack that holds the only copy of something that it uses is either not retired,
//! or a `keep` of it was received by the store in the first half of its grace, so that whoever deletes sees it in time, and it is
//! there; else the snapshot is forgotten and the run fails. Not here: who retires.

use std::cell::OnceCell;
use std::collections::HashSet;

use super::{Error, Mark, Repository};
use crate::catalog::{ChunkTables, PackRow, Retired, RetiredObject, pack_key};
use crate::model::{CommitLine, FrameId, Moment, Objects, PackId, PackLine, SnapshotId};
use crate::plan::prune::due;
use crate::progress::Progress;

/// What a run has referred to.
pub(super) struct Referred<'u> {
    /// The highest row of a commit when it began: what was retired before is none of its business.
    pub horizon: i64,
    /// Whether it uses the frame of a row of the catalog.
    pub row: &'u dyn Fn(i64) -> bool,
    /// Whether it uses a frame that it stored itself.
    pub id: &'u dyn Fn(&FrameId) -> bool,
}

/// The frames that this run stored and something refers to, by name; put together only where somebody asks.
pub(super) struct StoredNow<'s> {
    names: &'s [Option<FrameId>],
    used: &'s [u32],
    all: OnceCell<HashSet<FrameId>>,
}

impl<'s> StoredNow<'s> {
    pub fn new(names: &'s [Option<FrameId>], used: &'s [u32]) -> Self {
        Self { names, used, all: OnceCell::new() }
    }

    /// Whether a frame is one of them.
    pub fn has(&self, id: &FrameId) -> bool {
        let used = || self.names.iter().zip(self.used).filter(|(_, used)| **used > 0);
        self.all.get_or_init(|| used().filter_map(|(name, _)| *name).collect()).contains(id)
    }
}

/// A pack that must be kept, and how it was retired.
#[derive(Debug, Clone)]
pub(super) struct Endangered {
    pack: PackRow,
    retired: Retired,
}

impl Repository {
    /// Packs that were retired since a run began and hold the only copy of something that it uses. An error where one is gone.
    pub(super) fn endangered(&mut self, referred: &Referred<'_>) -> Result<Vec<Endangered>, Error> {
        let row = self.host_row()?;
        let mut all = Vec::new();
        for retired in self.catalog.retired_after(row, referred.horizon)? {
            let RetiredObject::Pack(id) = retired.object else { continue };
            let Some(pack) = self.catalog.find_pack(row, &id)? else { continue };
            let mut needed = false;
            for frame in self.catalog.frames_of(pack.row)? {
                let rows = self.catalog.rows_at(&frame)?;
                if !rows.into_iter().any(referred.row) && !(referred.id)(&frame.id) {
                    continue;
                }
                // A copy in a pack that stays is as good.
                let best = self.catalog.find_frame_of(row, &frame.id)?;
                needed |= best.is_none_or(|best| best.retired != 0);
            }
            match (needed, retired.deleted) {
                (true, true) => return Err(Error::Lapsed { pack: id.to_string() }),
                (true, false) => all.push(Endangered { pack, retired }),
                (false, _) => {}
            }
        }
        Ok(all)
    }

    /// The line that keeps packs, for a commit that is being made behind the lock.
    pub(super) fn keep_line(endangered: &[Endangered]) -> Option<CommitLine> {
        let packs: Vec<PackId> = endangered.iter().map(|one| one.pack.id).collect();
        (!packs.is_empty()).then(|| CommitLine::Keep(Objects { packs, segments: Vec::new() }))
    }

    /// Reads this host's log again and keeps what a run uses. Returns what it has kept.
    pub(super) fn keep_referred(
        &mut self,
        referred: &Referred<'_>,
        now: Moment,
        progress: &dyn Progress,
    ) -> Result<Vec<Endangered>, Error> {
        self.sync_own(progress)?;
        if self.endangered(referred)?.is_empty() {
            return Ok(Vec::new());
        }
        let mut kept = Vec::new();
        self.commit(now, &ChunkTables::new(), progress, &mut |repository, _| {
            kept = repository.endangered(referred)?;
            Ok(Self::keep_line(&kept).into_iter().collect())
        })?;
        self.prove(&kept)?;
        Ok(kept)
    }

    /// Packs that were put long before a commit names them may have been taken for litter: then they are looked for first.
    pub(super) fn check_unnamed(&mut self, packs: &[PackLine], late: bool) -> Result<(), Error> {
        let name = self.host()?.name.clone();
        for pack in packs.iter().filter(|_| late) {
            if self.store.size(&pack_key(&name, &pack.id))? != Some(pack.size) {
                return Err(Error::Lapsed { pack: pack.id.to_string() });
            }
        }
        Ok(())
    }

    /// Whether packs that were kept a moment ago were kept in time, and are there.
    pub(super) fn prove(&mut self, kept: &[Endangered]) -> Result<(), Error> {
        if kept.is_empty() {
            return Ok(());
        }
        let (name, row) = (self.host()?.name.clone(), self.host_row()?);
        let now = self.catalog.store_time(row)?;
        for Endangered { pack, retired } in kept {
            let in_time = retired
                .since
                .zip(now)
                .is_some_and(|(since, now)| due(since, retired.grace / 2).is_some_and(|half| now <= half));
            if !in_time || self.store.size(&pack.key(&name))? != Some(pack.size) {
                return Err(Error::Lapsed { pack: pack.id.to_string() });
            }
        }
        Ok(())
    }

    /// After a snapshot was committed: reads the log again, and keeps what was retired meanwhile, until nothing is left to keep. Where
    /// that cannot be proven, the snapshot is forgotten: it would be a promise that may not hold.
    pub(super) fn settle_snapshot(
        &mut self,
        id: SnapshotId,
        kept: &[Endangered],
        referred: &Referred<'_>,
        clock: &dyn Fn() -> Moment,
        progress: &dyn Progress,
    ) -> Result<(), Error> {
        let proven = self.prove(kept).and_then(|()| {
            for _ in 0..8 {
                if self.endangered(referred)?.is_empty() {
                    return Ok(());
                }
                self.keep_referred(referred, clock(), progress)?;
            }
            self.endangered(referred)?
                .first()
                .map_or(Ok(()), |one| Err(Error::Lapsed { pack: one.pack.id.to_string() }))
        });
        if let Err(Error::Lapsed { pack }) = proven {
            self.mark_snapshots(clock(), progress, &mut |_| Ok(vec![Mark::Forget(id)]))?;
            return Err(Error::Lapsed { pack });
        }
        proven
    }
}
