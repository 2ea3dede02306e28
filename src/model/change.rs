//! What a snapshot changed, in a few numbers, and what of that is not as it used to be.

use serde::{Deserialize, Serialize};

/// How a snapshot differs from the one before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Files of the snapshot before.
    pub before: u64,
    /// Files that were not in it.
    pub new: u64,
    /// Files whose content had changed.
    pub changed: u64,
    /// Files of it that are gone.
    pub gone: u64,
    /// Plain bytes that no snapshot had.
    pub new_bytes: u64,
    /// Stored bytes that they became.
    pub new_stored: u64,
}

/// What is not as it used to be. Shares are percents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "rule", rename_all = "snake_case")]
pub enum Abnormal {
    /// Most files were changed, or are gone.
    Rewritten {
        /// Of the files before.
        share: u32,
        /// The largest share of the snapshots before.
        usual: u32,
    },
    /// What was written cannot be compressed, and what was there before could.
    Incompressible {
        /// Stored bytes of the new ones.
        share: u32,
        /// The same of the snapshots before, all together.
        usual: u32,
    },
    /// Much less is there.
    FewerFiles {
        /// Files, of those that there used to be.
        share: u32,
    },
    /// Much less is there.
    FewerBytes {
        /// Bytes, of those that there used to be.
        share: u32,
    },
}

impl std::fmt::Display for Abnormal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rewritten { share, usual } => {
                write!(f, "{share} % of the files were changed or are gone ({usual} % at most before)")
            }
            Self::Incompressible { share, usual } => {
                write!(f, "what is new compresses to {share} % ({usual} % before): as encrypted data does")
            }
            Self::FewerFiles { share } => write!(f, "only {share} % of the files are there that there used to be"),
            Self::FewerBytes { share } => write!(f, "only {share} % of the bytes are there that there used to be"),
        }
    }
}
