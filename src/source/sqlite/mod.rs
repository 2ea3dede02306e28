//! SQLite databases of running programs, in a volume or alone.
//!
//! `capture` takes one as of a moment, without harm to its writer; [`Captures`] keeps the copies until they are stored. Not here:
//! what else a volume holds.

mod capture;
mod compare;
mod convex;
mod file;
mod find;
mod lock;
mod volume;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Error, FoundEntry};
use crate::model::{Cutting, DATABASES_NAMED, DatabaseFact, RelPath, Stamp, VolumeFacts};
use crate::progress::Progress;

pub use capture::Limits;
use capture::{Captured, Content, Refusal, Request, beside, capture, is_database};
pub use convex::Layout;
pub use file::SqliteSource;
pub(super) use find::main_of;
pub use volume::DatabaseVolume;

/// How a database gets into a snapshot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SqliteMode {
    /// As of one moment, while its writer runs.
    #[default]
    Capture,
    /// As a file like any other: for writers that are stopped.
    Raw,
}

/// A directory for copies, ours alone while the value lives.
struct Staging {
    path: PathBuf,
    /// Locked, so that another run does not take it for a dead one's.
    lock: Mutex<Option<File>>,
    next: AtomicU64,
}

impl Staging {
    fn new(path: PathBuf) -> Self {
        Self { path, lock: Mutex::default(), next: AtomicU64::new(0) }
    }

    /// Makes the directory, without what a run that was killed left in it.
    fn begin(&self) -> std::io::Result<()> {
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if lock.is_some() {
            return Ok(());
        }
        fs::DirBuilder::new().mode(0o700).recursive(true).create(&self.path)?;
        let directory = File::open(&self.path)?;
        rustix::fs::flock(&directory, rustix::fs::FlockOperation::NonBlockingLockExclusive)?;
        for entry in fs::read_dir(&self.path)? {
            fs::remove_file(entry?.path())?;
        }
        *lock = Some(directory);
        Ok(())
    }

    /// A name for the next copy.
    fn name(&self) -> PathBuf {
        self.path.join(self.next.fetch_add(1, Ordering::Relaxed).to_string())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let lock = self.lock.get_mut().unwrap_or_else(PoisonError::into_inner);
        if lock.is_some() {
            for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
                let _ = fs::remove_file(entry.path());
            }
            let _ = fs::remove_dir(&self.path);
        }
    }
}

/// What is done around a capture: it lasts until the answer is dropped.
pub type Around = Box<dyn Fn() -> Result<Box<dyn Send>, String> + Send + Sync>;

/// Captures databases, keeps their copies until they are read, and what is to be said of them.
pub struct Captures {
    around: Option<Around>,
    staging: Staging,
    limits: Limits,
    progress: Arc<dyn Progress>,
    facts: Mutex<BTreeMap<RelPath, DatabaseFact>>,
}

impl Captures {
    /// Copies lie in `directory`, which is made, and gone afterwards; it is given to nobody else.
    pub fn new(directory: PathBuf, limits: Limits, progress: Arc<dyn Progress>) -> Self {
        Self { around: None, staging: Staging::new(directory), limits, progress, facts: Mutex::default() }
    }

    /// Asks this before each capture, and drops the answer after it. What it cannot do is why a database is not captured.
    pub fn around(self, around: Option<Around>) -> Self {
        Self { around, ..self }
    }

    fn begin(&self) -> Result<(), Error> {
        let fail = |source| Error::Staging { path: self.staging.path.clone(), source };
        self.staging.begin().map_err(fail)
    }

    fn capture(&self, path: &Path) -> Result<Captured, Refusal> {
        self.staging.begin()?;
        let staged = self.staging.name();
        let cancelled = || self.progress.cancelled();
        let request = Request { path, staged: &staged, limits: self.limits, cancelled: &cancelled };
        let held = self.around.as_ref().map(|around| around()).transpose().map_err(Refusal::Around)?;
        let captured = capture(&request);
        drop(held);
        // What lay beside the copy is part of it now; a copy that was not needed takes no room.
        let keeps = matches!(&captured, Ok(Captured { content: Content::Staged(_), .. }));
        for tail in ["-wal", "-shm", "-journal"] {
            let _ = fs::remove_file(beside(&staged, tail));
        }
        if !keeps {
            let _ = fs::remove_file(&staged);
        }
        captured
    }

    fn facts(&self) -> MutexGuard<'_, BTreeMap<RelPath, DatabaseFact>> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what is to be said of a database.
    fn note(&self, path: &RelPath, captured: &Captured) {
        let meta = &captured.meta;
        let seen = crate::model::database::Seen {
            size: meta.len(),
            mtime: Stamp(meta.mtime(), meta.mtime_nsec() as u32),
            ctime: Stamp(meta.ctime(), meta.ctime_nsec() as u32),
            inode: meta.ino(),
        };
        let fact = DatabaseFact {
            path: path.to_string(),
            bytes: captured.size,
            how: captured.how,
            held_ms: captured.held.as_millis() as u64,
            seen: captured.settled.then_some(seen),
            note: captured.note.clone(),
        };
        self.facts().insert(path.clone(), fact);
    }

    /// All that was noted.
    fn collect(&self) -> VolumeFacts {
        let facts = self.facts();
        let databases: Vec<DatabaseFact> = facts.values().take(DATABASES_NAMED).cloned().collect();
        VolumeFacts { more_databases: (facts.len() - databases.len()) as u64, databases, ..VolumeFacts::default() }
    }
}

/// The bytes of a copy; gone from the disk when they were read.
struct Reader {
    file: File,
    staged: Option<PathBuf>,
}

impl Reader {
    fn open(content: Content) -> std::io::Result<Self> {
        Ok(match content {
            Content::Staged(path) => Self { file: File::open(&path)?, staged: Some(path) },
            Content::Cloned(file) => Self { file, staged: None },
        })
    }
}

impl Read for Reader {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        self.file.read(out)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(path) = &self.staged {
            let _ = fs::remove_file(path);
        }
    }
}

/// What is opened of a copy: cut into pages, and nothing changes it.
fn opened<'s>(
    captured: Captured,
    xattrs: BTreeMap<String, crate::model::RawText>,
) -> std::io::Result<super::Opened<'s>> {
    let (size, changed) = (captured.size, Box::new(|| None));
    let file = Box::new(Reader::open(captured.content)?);
    Ok(super::Opened { file, data: None, cutting: Cutting::Pages, xattrs, size, changed })
}

/// What the entry of a captured database says: the file's metadata, the copy's size.
fn found_as(captured: &Captured, mut entry: crate::model::Entry) -> FoundEntry {
    if !captured.settled {
        // What lay beside it is not in its times.
        entry.ctime = None;
    }
    FoundEntry::new(entry, captured.size, false)
}
