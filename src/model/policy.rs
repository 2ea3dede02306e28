//! How bytes are cut: the bounds that a repository fixes once, and the choice for each file.

use serde::{Deserialize, Serialize};

/// Shortest, normal and longest chunk of a content-defined cutting, in bytes. The normal length is a power of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u32, u32, u32)", into = "(u32, u32, u32)")]
pub struct Bounds {
    /// No chunk but the last of a file is shorter.
    pub min: u32,
    /// Most chunks are near this.
    pub normal: u32,
    /// No chunk is longer.
    pub max: u32,
}
impl From<(u32, u32, u32)> for Bounds {
    fn from((min, normal, max): (u32, u32, u32)) -> Self {
        Self { min, normal, max }
    }
}
impl From<Bounds> for (u32, u32, u32) {
    fn from(bounds: Bounds) -> Self {
        (bounds.min, bounds.normal, bounds.max)
    }
}

/// The chunking of a repository, fixed by `init` in `lifeboat.json`: other bounds would find nothing again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunking {
    /// The only one of format 1 is `gear-1`.
    pub algorithm: String,
    /// For documents, exports, sources: what compresses.
    pub fine: Bounds,
    /// For media and other bytes that do not compress.
    pub coarse: Bounds,
    /// For rows of which a few change at random, as documents of a Convex deployment; absent in a repository that was made before there
    /// were such, which cuts them like the rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<Bounds>,
    /// Length of fixed chunks, for PostgreSQL relation files and SQLite databases.
    pub page: u32,
}

impl Default for Chunking {
    fn default() -> Self {
        Self {
            algorithm: "gear-1".to_owned(),
            fine: Bounds { min: 4 << 10, normal: 16 << 10, max: 64 << 10 },
            coarse: Bounds { min: 64 << 10, normal: 256 << 10, max: 1 << 20 },
            rows: Some(Bounds { min: 256, normal: 1 << 10, max: 16 << 10 }),
            page: 8 << 10,
        }
    }
}

impl Chunking {
    /// Whether this program can cut so. `Err` says what it cannot do.
    pub fn validate(&self) -> Result<(), String> {
        if self.algorithm != "gear-1" {
            return Err(format!("chunking algorithm `{}` is unknown to this version", self.algorithm));
        }
        for bounds in [self.fine, self.coarse].into_iter().chain(self.rows) {
            let ordered = 64 <= bounds.min && bounds.min < bounds.normal && bounds.normal < bounds.max;
            if !ordered || !bounds.normal.is_power_of_two() || bounds.max as usize > super::limits::CHUNK_MAX {
                return Err(format!("chunk bounds {bounds:?} are outside what format 1 allows"));
            }
        }
        if self.page < 512 || self.page as usize > super::limits::CHUNK_MAX {
            return Err(format!("page length {} is outside what format 1 allows", self.page));
        }
        Ok(())
    }
}

/// How the bytes of one file are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cutting {
    /// Content-defined, small chunks.
    Fine,
    /// Content-defined, the smallest chunks.
    Rows,
    /// Content-defined, large chunks.
    Coarse,
    /// Fixed length, restarted at each file.
    Pages,
}
