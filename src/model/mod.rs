//! The words of lifeboat as types: ids, paths, entries, snapshots, limits.
//!
//! Invariants: everything here is a plain value. A [`RelPath`] that exists is safe to join below a directory; an id
//! that exists has its full length. Not here: I/O, a clock, randomness.

pub mod base;
mod change;
pub mod commit;
pub mod convex;
pub mod database;
pub mod documents;
pub mod drill;
pub mod dump;
pub mod entry;
pub mod id;
pub mod limits;
pub mod lsn;
pub mod noise;
pub mod path;
pub mod policy;
pub mod retention;
pub mod segment;
pub mod sight;
pub mod snapshot;
pub mod span;

pub use change::{Abnormal, Change};
pub use commit::{
    Commit, CommitFrame, CommitHeader, CommitLine, DirectoryPlace, Lost, Marked, Objects, PackKind, PackLine, Renumber,
    Retire, Seen,
};
pub use convex::{ConvexFacts, FilesFacts, TableCount};
pub use database::{ConvexFact, DATABASES_NAMED, DatabaseFact, How, VolumeFacts};
pub use drill::DrillRecord;
pub use dump::{DatabaseInfo, DumpFormat, DumpInfo, TableRows};
pub use entry::{Entry, EntryKind, Extent, FileContent, Stamp};
pub use id::{ChunkId, CommitId, Digest, FrameId, PackId, RepositoryId, SnapshotId};
pub use lsn::{Lsn, SegmentName, SegmentSize, SystemId, Timeline};
pub use path::{RawText, RelPath};
pub use policy::{Bounds, Chunking, Cutting};
pub use retention::{Class, Retention};
pub use segment::{SegmentKey, SegmentPlace, SegmentRecord};
pub use snapshot::{Copied, ManifestPlace, SnapshotRecord, Uses};
pub use span::Span;

/// The chunks of one frame, in order: id and length in bytes.
pub type ChunkList = Vec<(ChunkId, u32)>;

/// An instant, always UTC; zones are the command line's business.
pub type Moment = chrono::DateTime<chrono::Utc>;
