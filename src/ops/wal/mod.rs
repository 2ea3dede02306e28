//! WAL to and from the repository: what `archive_command` and `restore_command` call, and what [`follow`](super::follow) does
//! beside them.
//!
//! Invariants: success is told only when the file is durable in the store, named in the index on this host's disk, and the only
//! one of its name; absence is told only when it is proven, and lies behind the end of what is there (docs/postgres.md).

pub mod ahead;
pub mod door;
mod get;
mod known;
pub mod pieces;
mod push;
pub mod spool;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::format::pg_control::ControlFile;
use crate::format::wal::ArchiveFile;
use crate::model::SegmentPlace;
use crate::model::base::BaseBackup;
use crate::model::lsn::SystemId;

pub use get::{Got, Wanted, get};
pub use known::{Identity, Known};
use push::refuse_unfinished;
pub use push::{AHEAD, Pushed, commit_if_due, push, push_files};

/// Bytes of a history, label or other small file at most.
const SMALL: u64 = 1 << 20;

/// Why a file of the log cannot be pushed or served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WalError {
    /// Its name is none that PostgreSQL gives.
    #[error("`{0}` is no name of a WAL file")]
    Name(String),
    /// It cannot be read.
    #[error("could not {doing} `{}`", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Its bytes are not what its name says.
    #[error("`{name}` is not the segment that its name says: {why}")]
    Content {
        /// The segment.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// Neither the file nor the data directory tells which cluster it belongs to.
    #[error("which cluster `{name}` belongs to cannot be told: {why}")]
    Cluster {
        /// The file.
        name: String,
        /// Why.
        why: String,
    },
    /// It was put, and a listing does not show it.
    #[error("`{name}` was put into the repository, and the store does not list it")]
    Vanished {
        /// The file.
        name: String,
    },
    /// The store has it in another length than the one that was put.
    #[error("`{name}` is in the repository already, damaged: {stored} bytes were stored, and {found} are there")]
    Damaged {
        /// The file.
        name: String,
        /// Bytes that were stored.
        stored: u64,
        /// Bytes that are there.
        found: u64,
    },
    /// The server is still writing it.
    #[error("`{name}` is still being written: PostgreSQL has not marked it as ready to be archived")]
    Unfinished {
        /// The segment.
        name: String,
    },
    /// The store holds other bytes under that name.
    #[error(
        "`{name}` is in the repository already, with other bytes: two servers push to one place, or one was rolled back"
    )]
    Conflict {
        /// The file.
        name: String,
    },
    /// A segment is missing between others.
    #[error(
        "`{name}` is missing in the repository, and later segments of its timeline are there: this is a gap, not the end"
    )]
    Gap {
        /// The segment.
        name: String,
    },
    /// The spool has reached its bound.
    #[error("the spool `{}` is full ({max} bytes): the segment stays with PostgreSQL", folder.display())]
    SpoolFull {
        /// Its directory.
        folder: PathBuf,
        /// Its bound in bytes.
        max: u64,
    },
    /// The spool's directory is not there.
    #[error("the spool `{}` is not there", folder.display())]
    SpoolGone {
        /// Its directory.
        folder: PathBuf,
    },
    /// Another process follows the same stream.
    #[error("another process follows this source already")]
    Followed,
    /// The server has dropped what a slot had not received yet.
    #[error(
        "the server has given up the slot `{slot}`: log is missing between what was received and what it still has ({why})"
    )]
    SlotLost {
        /// The slot.
        slot: String,
        /// What was said.
        why: String,
    },
    /// The role may not replicate.
    #[error("the server does not let this role make a replication slot")]
    NoReplication(#[source] crate::client::postgres::Error),
    /// The slot is one of logical replication.
    #[error("the slot `{slot}` is not one of physical replication")]
    SlotKind {
        /// The slot.
        slot: String,
    },
    /// Which of several streams is meant is not clear.
    #[error("which stream `{name}` belongs to cannot be told: {why}")]
    Stream {
        /// The file.
        name: String,
        /// Why.
        why: String,
    },
}

/// A cluster as its files tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cluster {
    /// Its number.
    pub system_id: SystemId,
    /// Its major version.
    pub major: u32,
}

impl Cluster {
    /// Where its WAL goes, as a source of this name.
    pub fn stream(&self, source: &str) -> String {
        BaseBackup::stream_name(source, self.system_id, self.major)
    }

    /// The cluster of a stream's name, as a source of this name has it.
    pub fn of_stream(source: &str, stream: &str) -> Option<Self> {
        let (system_id, major) = stream.strip_prefix(source)?.strip_prefix('-')?.split_once('-')?;
        Some(Self { system_id: system_id.parse().ok()?, major: major.parse().ok()? })
    }
}

/// A file's bytes, into memory that was used before; and as it was when they were read.
fn read_into(path: &Path, limit: u64, bytes: &mut Vec<u8>) -> Result<Identity, WalError> {
    let io = |source| WalError::Io { doing: "read", path: path.to_owned(), source };
    bytes.clear();
    let mut file = File::open(path).map_err(io)?;
    let meta = file.metadata().map_err(io)?;
    if meta.len() > limit {
        let why = format!("it has {} bytes, more than such a file may have", meta.len());
        return Err(io(std::io::Error::other(why)));
    }
    bytes.reserve(meta.len() as usize);
    (&mut file).take(limit).read_to_end(bytes).map_err(io)?;
    Ok(Identity::of(&meta))
}

/// A file with its bytes, and as it was when they were read.
fn read_whole(path: &Path, limit: u64) -> Result<(Vec<u8>, Identity), WalError> {
    let mut bytes = Vec::new();
    let identity = read_into(path, limit, &mut bytes)?;
    Ok((bytes, identity))
}

fn read_limited(path: &Path, limit: u64) -> Result<Vec<u8>, WalError> {
    read_whole(path, limit).map(|(bytes, _)| bytes)
}

/// The cluster of a data directory.
fn cluster_of(data: &Path, name: &str) -> Result<Cluster, WalError> {
    let fail = |why: String| WalError::Cluster { name: name.to_owned(), why };
    let version = read_limited(&data.join("PG_VERSION"), SMALL).map_err(|e| fail(e.to_string()))?;
    let major =
        String::from_utf8_lossy(&version).trim().parse().map_err(|_| fail("PG_VERSION is no number".to_owned()))?;
    let path = data.join("global/pg_control");
    let mut flaw = String::new();
    // The server may be writing it.
    for _ in 0..20 {
        let bytes = read_limited(&path, SMALL).map_err(|e| fail(e.to_string()))?;
        match ControlFile::parse(&bytes) {
            Ok(control) => return Ok(Cluster { system_id: control.system_id, major }),
            Err(e) => flaw = e.to_string(),
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    Err(fail(format!("pg_control: {flaw}")))
}

/// The data directory of a path as PostgreSQL gives it: `pg_wal/NAME` below the working directory, or an absolute one.
fn data_directory(path: &Path) -> PathBuf {
    let above = path.parent().and_then(Path::parent).unwrap_or_else(|| Path::new(""));
    if above.as_os_str().is_empty() { PathBuf::from(".") } else { above.to_owned() }
}

/// The timeline in a file's name, as eight digits: the epoch of its place.
fn epoch_of(file: &ArchiveFile, name: &str) -> String {
    match file {
        ArchiveFile::History(timeline) => format!("{:08X}", timeline.0),
        _ => name.chars().take(8).collect(),
    }
}

/// Where a file of a stream stands.
fn place_of(stream: &str, name: &str) -> Result<SegmentPlace, WalError> {
    let bad = || WalError::Name(name.to_owned());
    let file = ArchiveFile::parse(name).map_err(|_| bad())?;
    SegmentPlace::new(stream, &epoch_of(&file, name), name).ok_or_else(bad)
}

/// The stream of the cluster whose data directory a target lies in, for a source of this name.
pub fn stream_of(source: &str, target: &Path, name: &str) -> Result<String, WalError> {
    Ok(cluster_of(&data_directory(target), name)?.stream(source))
}
