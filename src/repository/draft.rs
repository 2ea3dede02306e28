//! What a run knows before its frames have names: where a file's bytes lie, what was counted, what the snapshot will say.

use super::Problem;
use crate::model::{Change, FrameId, Moment, SnapshotId, SnapshotRecord};
use crate::plan::gate::Seen;

/// Where a chunk of this run lies: in a frame that has a name, or in one of this run that may still be open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Hole,
    Stored(FrameId),
    Fresh(u32),
}

/// An extent whose frame may have no name yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct DraftExtent {
    pub place: Place,
    pub offset: u64,
    pub length: u64,
}

/// The content of a file while it is being stored.
#[derive(Debug, Default)]
pub struct Draft {
    pub(super) extents: Vec<DraftExtent>,
    /// The newest frame of this run that it lies in.
    pub(super) newest: Option<u32>,
}

impl Draft {
    pub(super) fn push(&mut self, place: Place, offset: u64, length: u64) {
        if length == 0 {
            return;
        }
        if let Place::Fresh(frame) = place {
            self.newest = self.newest.max(Some(frame));
        }
        if let Some(last) = self.extents.last_mut() {
            let continues = place == Place::Hole || last.offset + last.length == offset;
            if last.place == place && continues {
                last.length += length;
                return;
            }
        }
        self.extents.push(DraftExtent { place, offset, length });
    }

    /// A run of zeros that is not stored.
    pub fn hole(&mut self, length: u64) {
        self.push(Place::Hole, 0, length);
    }
}

/// What a run counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Chunks that were stored.
    pub chunks_new: u64,
    /// Chunks that were there already.
    pub chunks_reused: u64,
    /// Plain bytes that were stored, before compression, the manifest's among them.
    pub bytes_new: u64,
    /// The same of the source alone.
    pub data_new: u64,
    /// Plain bytes of the source that were there already; holes are in neither.
    pub data_reused: u64,
    /// Sealed bytes of the packs that were put.
    pub stored: u64,
    /// Packs that were put.
    pub packs: u64,
}

/// What the caller knows of the snapshot.
#[derive(Debug, Clone)]
pub struct SnapshotDraft {
    /// Its name.
    pub id: SnapshotId,
    /// The source's name.
    pub source: String,
    /// The source's kind.
    pub kind: String,
    /// The host.
    pub host: String,
    /// Directory or command.
    pub root: String,
    /// When reading began.
    pub began: Moment,
    /// When reading ended.
    pub ended: Moment,
    /// How many things were skipped.
    pub skipped: u64,
    /// Whether it is complete.
    pub complete: bool,
    /// Labels.
    pub tags: Vec<String>,
    /// What its kind says of it.
    pub facts: serde_json::Value,
    /// What it changed, but for the bytes; none where it was read without the one before.
    pub change: Option<Change>,
    /// The source's snapshots before, oldest first, but for abnormal ones.
    pub history: Vec<Seen>,
}

/// What a finished run leaves.
#[derive(Debug, Clone)]
pub struct SessionEnd {
    /// The snapshot's record, as committed.
    pub record: SnapshotRecord,
    /// What was counted.
    pub counts: Counts,
    /// What the logs said on the way.
    pub problems: Vec<Problem>,
}
