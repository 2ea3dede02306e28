//! What is protected: one file a kind. A source yields entries in path order and opens what they hold.
//!
//! Not here: chunking, stores, and whether a file is read at all; the deed decides that by the manifest before.

mod bucket;
pub mod convex;
mod cutting;
mod pg_dump;
pub mod postgres;
pub mod sqlite;
mod stream;
mod tarball;
mod tree;
mod volume;
mod walk;

use std::io::Read;
use std::path::PathBuf;
use std::sync::Mutex;

use crate::client;
use crate::model::{Cutting, Entry, RelPath, SnapshotRecord, limits};

pub use bucket::{BucketOptions, BucketSource, told_of};
pub use pg_dump::{Databases, Globals, PgDumpOptions, PgDumpSource};
pub use stream::{CommandSource, FileSource, StdinSource};
pub use tarball::TarballSource;
pub use tree::{Rules, RulesError};
pub use volume::VolumeSource;

/// Why a source cannot be backed up at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The root cannot be read.
    #[error("could not read `{}`", path.display())]
    Root {
        /// The path.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The root is no directory.
    #[error("`{}` is no directory", .0.display())]
    NotADirectory(PathBuf),
    /// A pattern is none.
    #[error(transparent)]
    Rules(#[from] RulesError),
    /// A pattern is none.
    #[error("could not read the exclude pattern `{pattern}`: {why}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        why: String,
    },
    /// A bucket refused, or is away.
    #[error(transparent)]
    Bucket(#[from] crate::store::Error),
    /// The directory for copies of databases cannot be used.
    #[error("could not use `{}` for copies of databases", path.display())]
    Staging {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A database could not be captured, and there is nothing else in the source.
    #[error("`{}` could not be captured: {why}", path.display())]
    Capture {
        /// The database.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The command could not be started.
    #[error("could not run `{command}`")]
    Spawn {
        /// The command.
        command: String,
        /// Why.
        source: std::io::Error,
    },
    /// The command failed: what it wrote is no backup.
    #[error("`{command}` failed ({status}); its output was not made a snapshot")]
    Failed {
        /// The command.
        command: String,
        /// Its exit status, in words.
        status: String,
    },
    /// The archive is cut off or no archive.
    #[error("{what} is no whole tar archive: {why}")]
    Archive {
        /// The archive.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// A Convex deployment refused, or is away.
    #[error(transparent)]
    Convex(#[from] crate::client::convex::Error),
    /// Its export came to nothing.
    #[error(transparent)]
    Export(#[from] convex::ExportError),
    /// An archive that was downloaded is not what it should be.
    #[error("{what} cannot be stored: {why}")]
    Zip {
        /// The archive.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// A PostgreSQL server refused, or is away.
    #[error(transparent)]
    Postgres(#[from] crate::client::postgres::Error),
    /// A server of a version that is not known.
    #[error("the server is PostgreSQL {found}; this lifeboat knows {oldest} to {newest}")]
    Version {
        /// Its major version.
        found: u32,
        /// The oldest that is known.
        oldest: u32,
        /// The newest.
        newest: u32,
    },
    /// A base backup without its WAL restores nothing.
    #[error("PostgreSQL {0} does not archive its WAL (`archive_mode` is off): a base backup would restore nothing")]
    NoArchive(String),
    /// Pages are damaged, and that was not to be stored.
    #[error("{count} pages are damaged, the first: block {block} of `{path}`: its checksum is wrong")]
    BadPages {
        /// How many.
        count: u64,
        /// The file of the first one.
        path: String,
        /// Its number in the relation.
        block: u64,
    },
    /// The directory is another cluster's.
    #[error("`{}` holds cluster {found}, and the server is cluster {server}", path.display())]
    OtherCluster {
        /// The directory.
        path: PathBuf,
        /// Its system identifier.
        found: String,
        /// The server's.
        server: String,
    },
    /// The directory is an old copy.
    #[error("`{}` is not what the server writes: its checkpoint {checkpoint} is older than the backup's start {start}", path.display())]
    StaleDirectory {
        /// The directory.
        path: PathBuf,
        /// What its `pg_control` says.
        checkpoint: crate::model::lsn::Lsn,
        /// Where the backup began.
        start: crate::model::lsn::Lsn,
    },
    /// PostgreSQL, or a program of its.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// The stream could not be read to its end.
    #[error("could not read from {what}")]
    Stream {
        /// The stream.
        what: String,
        /// Why.
        source: std::io::Error,
    },
}

/// One thing that a walk comes upon.
#[derive(Debug)]
pub enum Found {
    /// An entry; a file's content is still to be read and its kind says size zero and no extents.
    Entry(Box<FoundEntry>),
    /// Something that cannot be read.
    Skipped {
        /// Its path.
        path: RelPath,
        /// Why.
        why: String,
    },
}

/// An entry with what a walk knows of it.
#[derive(Debug)]
pub struct FoundEntry {
    /// Its metadata, extended attributes apart.
    pub entry: Entry,
    /// Size, where it is a file.
    pub size: u64,
    /// Whether its blocks are fewer than its size: it may have holes.
    pub sparse: bool,
    /// Its bytes, where the walk itself comes by them and they cannot be opened later: a member of an archive.
    pub body: Mutex<Option<Body>>,
}

/// The content of an archive's member.
pub struct Body {
    /// Its bytes; only the runs of `data`, where that is given.
    pub bytes: Box<dyn Read + Send>,
    /// Runs of data of a sparse member: first byte and length, ascending.
    pub data: Option<Vec<(u64, u64)>>,
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Body({:?})", self.data)
    }
}

impl FoundEntry {
    /// An entry whose content is opened when it is asked for.
    pub fn new(entry: Entry, size: u64, sparse: bool) -> Self {
        Self { entry, size, sparse, body: Mutex::new(None) }
    }
}

/// What reading a file yields.
pub struct Opened<'s> {
    /// Its bytes; holes are told by [`Opened::data`].
    pub file: Box<dyn Read + Send + 's>,
    /// Runs of data, where the file has holes: first byte and length, ascending.
    pub data: Option<Vec<(u64, u64)>>,
    /// How its bytes are cut.
    pub cutting: Cutting,
    /// Its extended attributes.
    pub xattrs: std::collections::BTreeMap<String, crate::model::RawText>,
    /// Its size when it was opened.
    pub size: u64,
    /// Asked when all was read: what changed meanwhile, if anything did.
    pub changed: Box<dyn FnOnce() -> Option<String> + Send + 's>,
}

/// What reading a small file whole yields.
pub struct SmallRead {
    /// How its bytes are cut.
    pub cutting: Cutting,
    /// Its extended attributes.
    pub xattrs: std::collections::BTreeMap<String, crate::model::RawText>,
    /// What changed while it was read, if anything did.
    pub changed: Option<String>,
}

/// A small file that exists only once everything else was read.
#[derive(Debug, Clone)]
pub struct Late {
    /// Its metadata.
    pub entry: Entry,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// How they are cut.
    pub cutting: Cutting,
}

/// Something to protect.
pub trait Source: Sync {
    /// `volume`, `command`, `stdin`, `tarball`, `pg_dump`, `postgres`, `convex`.
    fn kind(&self) -> &'static str;
    /// The directory or the command, for people.
    fn root(&self) -> String;
    /// Called once before the walk, with the snapshot before where its manifest is at hand and files may be taken over unread: what must
    /// be had before anything else is read.
    fn prepare(&self, _previous: Option<&SnapshotRecord>) -> Result<(), Error> {
        Ok(())
    }
    /// Another source of this host, named after this one, in which the same things lie under the same paths: what its newest snapshot has
    /// is taken over as well.
    fn beside(&self, _name: &str) -> Option<String> {
        None
    }
    /// Calls `each` for everything that is there, in path order unless [`Source::is_ordered`] says otherwise; stops when it
    /// answers false.
    fn walk(&self, each: &mut dyn FnMut(Found) -> bool) -> Result<(), Error>;
    /// Opens a file that a walk found. The error says why, for the list of what was skipped.
    fn open(&self, found: &FoundEntry) -> Result<Opened<'_>, String>;
    /// Reads a file that a walk found to be small (`limits::SMALL_FILE_MAX`) and without holes, behind what `into` holds. One
    /// that grew meanwhile is cut at twice that size; the change is told.
    fn read_small(&self, found: &FoundEntry, into: &mut Vec<u8>) -> Result<SmallRead, String> {
        let Opened { mut file, cutting, xattrs, changed, .. } = self.open(found)?;
        let start = into.len();
        (&mut file).take(2 * limits::SMALL_FILE_MAX).read_to_end(into).map_err(|e| e.to_string())?;
        let cut = more_behind(&mut *file, into.len() - start).map_err(|e| e.to_string())?;
        drop(file);
        Ok(SmallRead { cutting, xattrs, changed: cut.or_else(changed) })
    }
    /// Reads the extended attributes of what is not a file.
    fn xattrs(&self, entry: &Entry) -> std::collections::BTreeMap<String, crate::model::RawText>;
    /// Called when the run is given up: whatever still produces bytes is ended, so that nobody waits for them.
    fn cancel(&self) {}
    /// Whether a part that cannot be read makes the rest worthless: true of streams.
    fn all_or_nothing(&self) -> bool {
        true
    }
    /// Whether the walk comes in path order, each path once, a directory before what is in it. Archives promise nothing.
    fn is_ordered(&self) -> bool {
        true
    }
    /// Whether a file that could not be read is no loss: it was dropped meanwhile, and the source's log says so.
    fn forgives(&self, _path: &RelPath) -> bool {
        false
    }
    /// Whether a file whose bytes were read is to be read again by the next run, changed or not: it is damaged.
    fn distrusts(&self, _path: &RelPath) -> bool {
        false
    }
    /// Whether there are files that come last, whatever their paths.
    fn has_late(&self) -> bool {
        false
    }
    /// Asked once everything else was read: those files.
    fn late(&self) -> Result<Vec<Late>, Error> {
        Ok(Vec::new())
    }
    /// What the source says of its snapshot, by its kind; asked after all else.
    fn facts(&self) -> serde_json::Value {
        serde_json::Value::Null
    }
    /// Asked when everything was read: whether the source itself says that it is whole.
    fn finish(&self) -> Result<(), Error>;
}

/// What is told of a small file that goes on behind the bytes that were kept of it. Its size when it was opened says
/// nothing: it may have grown between the walk and that.
fn more_behind(file: &mut (impl Read + ?Sized), kept: usize) -> std::io::Result<Option<String>> {
    let more = read_fully(file, &mut [0])? > 0;
    Ok(more.then(|| format!("it grew while it was backed up: only its first {kept} bytes are stored")))
}

/// Reads until the buffer is full or there is no more; returns how much.
pub fn read_fully(reader: &mut (impl Read + ?Sized), buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Moment;

    #[test]
    fn what_comes_behind_a_small_file_is_told() {
        for (size, whole) in [(2 * limits::SMALL_FILE_MAX, true), (2 * limits::SMALL_FILE_MAX + 1, false)] {
            let bytes = Box::new(std::io::Cursor::new(vec![7; size as usize]));
            let source = StdinSource::new(RelPath::new("f").unwrap(), Moment::UNIX_EPOCH, bytes);
            let mut changed = None;
            let mut read = |found| {
                if let Found::Entry(entry) = found {
                    changed = source.read_small(&entry, &mut Vec::new()).unwrap().changed;
                }
                true
            };
            source.walk(&mut read).unwrap();
            assert_eq!(changed.is_none(), whole, "{changed:?}");
        }
    }
}
