//! The record of a snapshot, as commits and pack directories hold it.

use serde::{Deserialize, Serialize};

use super::entry::check_extents;
use super::{Abnormal, Change, Digest, Extent, Moment, SnapshotId, limits};

/// Where a manifest lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestPlace {
    /// Plain bytes.
    pub bytes: u64,
    /// Keyed BLAKE3 of its plain bytes.
    pub digest: Digest,
    /// Its bytes.
    pub extents: Vec<Extent>,
}

/// Inclusive ranges of frame numbers, ascending, apart from each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Uses(pub Vec<(u64, u64)>);

impl Uses {
    /// Collects numbers into ranges.
    pub fn from_numbers(mut numbers: Vec<u64>) -> Self {
        numbers.sort_unstable();
        numbers.dedup();
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for number in numbers {
            match ranges.last_mut() {
                Some(last) if last.1 + 1 == number => last.1 = number,
                _ => ranges.push((number, number)),
            }
        }
        Self(ranges)
    }
    /// How many frames.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|(first, last)| last.saturating_sub(*first) + 1).sum()
    }
    /// Whether the ranges ascend, lie apart, and can be counted with: else the record is damaged.
    pub fn is_well_formed(&self) -> bool {
        self.0.iter().all(|(first, last)| first <= last && *last <= limits::NUMBER_MAX)
            && self.0.windows(2).all(|pair| pair[0].1 < pair[1].0)
    }
}

/// What a snapshot keeps of the repository that it was first in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copied {
    /// Whose it was there.
    pub writer: String,
    /// When the first store received it, by that store's clock: retention goes by it, for all copies of a first night arrive at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received: Option<Moment>,
}

/// One source at one point in time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRecord {
    /// Its name.
    pub id: SnapshotId,
    /// The source's name; with the writer's it is the full name.
    pub source: String,
    /// The source's kind: `volume`, `command`, `stdin`.
    pub kind: String,
    /// The host that was backed up.
    pub host: String,
    /// The directory or the command, for people.
    pub root: String,
    /// When reading began.
    pub began: Moment,
    /// When reading ended: the time that it can restore.
    pub ended: Moment,
    /// False when something was skipped.
    pub complete: bool,
    /// How many things were skipped.
    pub skipped: u64,
    /// Entries of the manifest.
    pub entries: u64,
    /// Regular files among them.
    pub files: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Stored bytes that this run added, sealed and compressed.
    pub added: u64,
    /// Labels that a person gave.
    #[serde(default)]
    pub tags: Vec<String>,
    /// What its kind says of it: of a base backup where it begins and ends.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub facts: serde_json::Value,
    /// What it changed, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<Change>,
    /// What of it is not as it used to be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub abnormal: Vec<Abnormal>,
    /// Where it was copied from, where it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copied: Option<Copied>,
    /// Where the manifest lies.
    pub manifest: ManifestPlace,
    /// The frames that it needs; absent in pack directories.
    #[serde(default)]
    pub uses: Uses,
}

impl SnapshotRecord {
    /// What a reader checks before it trusts a record. `Err` says what is wrong.
    pub fn validate(&self) -> Result<(), String> {
        if !self.uses.is_well_formed() {
            return Err("a snapshot's frame ranges are out of order".to_owned());
        }
        let place = &self.manifest;
        check_extents(&place.extents, place.bytes).map_err(|why| format!("the place of a snapshot's manifest: {why}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_end_beyond_every_frame_are_damaged() {
        assert!(!Uses(vec![(0, u64::MAX)]).is_well_formed());
        assert!(Uses(vec![(0, limits::NUMBER_MAX)]).is_well_formed());
    }

    #[test]
    fn numbers_become_ranges() {
        let uses = Uses::from_numbers(vec![5, 1, 2, 2, 3, 9]);
        assert_eq!(uses.0, [(1, 3), (5, 5), (9, 9)]);
        assert_eq!(uses.count(), 5);
        assert!(uses.is_well_formed() && !Uses(vec![(1, 3), (3, 4)]).is_well_formed());
    }
}
