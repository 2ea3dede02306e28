//! Records of drills in the log of the host that held them.

use super::{Error, Repository, SyncReport};
use crate::catalog::ChunkTables;
use crate::model::{CommitLine, DrillRecord, Moment};
use crate::progress::Progress;

impl Repository {
    /// Commits the record of a drill.
    ///
    /// # Errors
    /// [`Error::NotAWriter`] on a host that has no log here, and what every commit meets.
    pub fn add_drill(
        &mut self,
        record: &DrillRecord,
        now: Moment,
        progress: &dyn Progress,
    ) -> Result<SyncReport, Error> {
        let (_, report) =
            self.commit(now, &ChunkTables::new(), progress, &mut |_, _| Ok(vec![CommitLine::Drill(record.clone())]))?;
        Ok(report)
    }
}
