//! What a base backup of PostgreSQL says of itself: the facts of its snapshot, by which a restore is planned.
//!
//! Not here: how it is taken, and what the stream holds.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Moment;
use super::lsn::{Lsn, SegmentName, SegmentSize, SystemId, Timeline};

/// Where a base backup keeps configuration that lay outside of the data directory: below this, by its whole path.
pub const OUTSIDE: &str = ".lifeboat/outside";

/// A tablespace outside the data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tablespace {
    /// Its number: the name of its link in `pg_tblspc`.
    pub oid: u32,
    /// What people call it; empty in old snapshots.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Where it lay on the host that was backed up.
    pub path: String,
}

/// A page whose checksum was wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadPage {
    /// The file, below the data directory.
    pub path: String,
    /// Its number in the relation, from 0.
    pub block: u64,
}

/// Damaged pages.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadPages {
    /// How many.
    pub count: u64,
    /// The first of them.
    pub first: Vec<BadPage>,
}

impl BadPages {
    /// Whether there are none.
    pub fn is_none(&self) -> bool {
        self.count == 0
    }
}

/// A base backup. It is complete when every segment from its start to its stop is in the repository; until then it is pending.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseBackup {
    /// The cluster.
    pub system_id: SystemId,
    /// As the server says it: 150018 is 15.18.
    pub server_version: u32,
    /// The timeline at its start.
    pub timeline: Timeline,
    /// Replay begins here.
    pub start: Lsn,
    /// Replay must reach this place before the cluster is consistent.
    pub stop: Lsn,
    /// When it stopped, by the server's clock: the first moment that it can restore.
    pub stopped: Moment,
    /// Bytes of a segment.
    pub segment_size: SegmentSize,
    /// Where its WAL goes.
    pub stream: String,
    /// Whether pages have checksums.
    pub checksums: bool,
    /// Pages that were damaged when they were read. They are in the snapshot as they were.
    #[serde(default, skip_serializing_if = "BadPages::is_none")]
    pub bad_pages: BadPages,
    /// Tablespaces outside the data directory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tablespaces: Vec<Tablespace>,
    /// Tablespaces that were made while it was taken: they come from the WAL.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tablespaces_made: Vec<Tablespace>,
    /// What a restore needs of the settings, by name.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
    /// What the host had that a restored cluster depends on: architecture, C library, collations, extensions.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
}

impl BaseBackup {
    /// The major version: 15 to 18.
    pub fn major(&self) -> u32 {
        self.server_version / 10_000
    }
    /// The name of the stream of a cluster: source, cluster and major version, so that a `pg_upgrade` starts anew.
    pub fn stream_name(source: &str, system_id: SystemId, major: u32) -> String {
        format!("{source}-{system_id}-{major}")
    }
    /// The first and the last segment that it needs.
    pub fn needs(&self) -> (SegmentName, SegmentName) {
        (
            SegmentName::holding(self.timeline, self.start, self.segment_size),
            SegmentName::ending(self.timeline, self.stop, self.segment_size),
        )
    }
}
