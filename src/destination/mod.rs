//! Where restores land: a directory, or a stream of tar.
//!
//! Not here: which entries, and where their bytes come from.

mod directory;
mod metadata;
mod tar;
mod writeback;

use std::path::PathBuf;

pub use directory::{Directory, Existing, Held, Rights};
pub use tar::TarStream;
pub use writeback::Writeback;

/// Why something could not be placed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A call of the system failed.
    #[error("could not {doing} `{}`", path.display())]
    Io {
        /// What.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another restore works there.
    #[error("another restore is writing into `{}`", .0.display())]
    InUse(PathBuf),
    /// Something is there already.
    #[error("`{}` is not empty", .0.display())]
    NotEmpty(PathBuf),
    /// It holds a restore of another snapshot that did not end.
    #[error("`{}` holds an interrupted restore of snapshot {snapshot}", path.display())]
    Interrupted {
        /// Where.
        path: PathBuf,
        /// Of which.
        snapshot: String,
    },
    /// It holds a restore that did not end and that began over files.
    #[error("`{}` holds an interrupted restore that began over files", path.display())]
    BegunOver {
        /// Where.
        path: PathBuf,
        /// The flag that said what happens to them, if it is known.
        flag: Option<String>,
    },
    /// It does not fit.
    #[error("`{}` has {free} bytes free, and {needed} are needed", path.display())]
    NoSpace {
        /// Where.
        path: PathBuf,
        /// Bytes free.
        free: u64,
        /// Bytes needed.
        needed: u64,
    },
    /// Something stands where another kind of thing is to be placed: a link or a file in place of a directory, or a
    /// directory with something in it.
    #[error("`{}` is in the way", .0.display())]
    InTheWay(PathBuf),
}
