//! What this host says of its own snapshots after they exist: forgotten, pinned, unpinned. One commit, whatever their number.
//!
//! Invariants: a writer's log speaks of its own snapshots alone; nothing is deleted; what is decided is decided behind the lock, on a
//! log that was just read. Not here: which ones (`plan::retention`), and freeing what they used.

use super::{Error, Repository, SyncReport};
use crate::catalog::ChunkTables;
use crate::model::{CommitLine, Marked, Moment, SnapshotId};
use crate::progress::Progress;

/// What is said of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// It is in no list any more, for good.
    Forget(SnapshotId),
    /// It stays, whatever a policy says.
    Pin(SnapshotId),
    /// It has no pin any more.
    Unpin(SnapshotId),
    /// It is as it should be.
    Accept(SnapshotId),
}

impl From<Mark> for CommitLine {
    fn from(mark: Mark) -> Self {
        match mark {
            Mark::Forget(snapshot) => Self::Forget(Marked { snapshot }),
            Mark::Pin(snapshot) => Self::Pin(Marked { snapshot }),
            Mark::Unpin(snapshot) => Self::Unpin(Marked { snapshot }),
            Mark::Accept(snapshot) => Self::Accept(Marked { snapshot }),
        }
    }
}

impl Repository {
    /// Commits what `choose` answers. It is asked while no other process of this host commits, when the log was read again: what they
    /// pinned or forgot meanwhile is in the catalog then.
    pub fn mark_snapshots(
        &mut self,
        now: Moment,
        progress: &dyn Progress,
        choose: &mut dyn FnMut(&mut Self) -> Result<Vec<Mark>, Error>,
    ) -> Result<SyncReport, Error> {
        let (_, report) = self.commit(now, &ChunkTables::new(), progress, &mut |repository, _| {
            Ok(choose(repository)?.into_iter().map(CommitLine::from).collect())
        })?;
        Ok(report)
    }
}
