//! One database, captured while its writer runs.
//!
//! With a rollback journal, a reader keeps the writer from committing, and a writer like the Convex backend ends when that lasts
//! longer than its busy time-out (5 s). So the lock of a reader is held for moments only. Where the file system clones files, that
//! is one call. Elsewhere the file is copied without any lock, and then compared with its copy under the lock in steps; where nothing was
//! committed between two steps the comparison goes on, else it begins anew, at last in one step of [`Limits::longest`]. What
//! does not end so is given up. With a write-ahead log no writer waits: checkpoints do, while file and log are copied.
//!
//! What a dead writer left in a journal or a log is applied to the copy, never to the file. Invariants: nothing is written into
//! the directory of the database; what is captured is a state that was committed. Not here: which files are databases.

use std::ffi::OsString;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::compare::{Copier, read_at};
use super::lock::{self, Held};
use crate::client::sqlite;
use crate::format::sqlite::{HEADER, Header, is_live_journal, parse};
use crate::model::How;

/// How long a writer may be kept waiting, and how patient we are.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// A lock of the first tries.
    pub step: Duration,
    /// A lock of the last ones: a quarter of the five seconds after which a Convex backend gives up.
    pub longest: Duration,
    /// How often the comparison may begin anew.
    pub tries: u32,
    /// How long we wait for a writer that has the file for itself.
    pub patience: Duration,
    /// Up to this size nothing is copied ahead: the lock is short anyway. Bytes.
    pub small: u64,
}

impl Default for Limits {
    fn default() -> Self {
        let millis = Duration::from_millis;
        Self { step: millis(200), longest: millis(1200), tries: 6, patience: millis(30_000), small: 16 << 20 }
    }
}

/// Begun anew so often with the short lock.
const SHORT_TRIES: u32 = 2;
/// Bytes that stay free beside a copy.
const MARGIN: u64 = 64 << 20;

/// Why a database was not captured. Read by a person, as the reason why a file was skipped.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It is none.
    #[error("it is no SQLite database")]
    NoDatabase,
    /// Another file has its name now.
    #[error("it was replaced again and again while it was captured")]
    Moved,
    /// Somebody has it for itself.
    #[error("a program holds this SQLite database locked, for {0} s and longer: stop that program for the backup")]
    Locked(u64),
    /// It changes too often for its size.
    #[error(
        "this SQLite database ({mib} MiB) changes faster than it can be compared within {longest_ms} ms, longer than which its writer is not \
         kept waiting: put it on a file system that clones files (XFS, Btrfs), or stop its writer for the backup (a Convex backend: `--pause SOURCE`)"
    )]
    TooBusy {
        /// Its size.
        mib: u64,
        /// [`Limits::longest`].
        longest_ms: u128,
    },
    /// The copy has no room.
    #[error("its copy needs {needed} bytes in `{}`, and {free} are free there: name a larger `work_dir`", path.display())]
    NoSpace {
        /// Where copies lie.
        path: PathBuf,
        /// Bytes.
        needed: u64,
        /// Bytes.
        free: u64,
    },
    /// What its dead writer left does not fit it.
    #[error("what lies beside it cannot be applied: {0}")]
    Unrecoverable(String),
    /// What was to happen around it did not.
    #[error("{0}")]
    Around(String),
    /// The file, or its copy.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Where what was captured lies.
#[derive(Debug)]
pub enum Content {
    /// A file of ours.
    Staged(PathBuf),
    /// A clone without a name, on the file system of the database.
    Cloned(File),
}

/// A database at a moment.
#[derive(Debug)]
pub struct Captured {
    /// Its bytes.
    pub content: Content,
    /// How many.
    pub size: u64,
    /// The file as it was at that moment.
    pub meta: Metadata,
    /// How it was had.
    pub how: How,
    /// The longest time for which a writer would have waited.
    pub held: Duration,
    /// Whether the file alone is the database: an unchanged one then is an unchanged database.
    pub settled: bool,
    /// What is strange about it.
    pub note: Option<String>,
}

/// What is asked for.
pub struct Request<'r> {
    /// The database.
    pub path: &'r Path,
    /// Where its copy goes; names that begin like it are ours too.
    pub staged: &'r Path,
    /// How patiently.
    pub limits: Limits,
    /// Whether a person asked to stop.
    pub cancelled: &'r (dyn Fn() -> bool + Sync),
}

/// The name with something behind it.
pub fn beside(path: &Path, tail: &str) -> PathBuf {
    let mut name = OsString::from(path.as_os_str());
    name.push(tail);
    name.into()
}

/// What tells that a file was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Look {
    counter: u32,
    size: u64,
    inode: u64,
    times: (i64, i64, i64, i64),
}

impl Look {
    fn of(meta: &Metadata, counter: u32) -> Self {
        let times = (meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec());
        Self { counter, size: meta.len(), inode: meta.ino(), times }
    }
    /// Of a file beside the database, if it is there and holds something.
    fn beside(path: &Path) -> io::Result<Option<Self>> {
        match std::fs::symlink_metadata(path) {
            Ok(meta) if meta.is_file() && meta.len() > 0 => Ok(Some(Self::of(&meta, 0))),
            Ok(_) => Ok(None),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW.bits() as i32 | rustix::fs::OFlags::NONBLOCK.bits() as i32;
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

fn header_of(file: &File, size: u64) -> io::Result<Option<Header>> {
    let mut head = [0; HEADER];
    let filled = read_at(file, &mut head, 0)?;
    Ok(parse(&head[..filled], size))
}

/// Whether a file is a database, by its header.
pub fn is_database(path: &Path) -> io::Result<bool> {
    let file = open(path)?;
    let meta = file.metadata()?;
    Ok(meta.is_file() && header_of(&file, meta.len())?.is_some())
}

/// Captures a database.
pub fn capture(request: &Request<'_>) -> Result<Captured, Refusal> {
    for _ in 0..request.limits.tries {
        match once(request) {
            Err(Refusal::Moved) => {}
            done => return done,
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err(Refusal::Moved)
}

fn once(request: &Request<'_>) -> Result<Captured, Refusal> {
    let file = open(request.path)?;
    let to = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(request.staged)?;
    for tail in ["-wal", "-journal"] {
        let _ = std::fs::remove_file(beside(request.staged, tail));
    }
    let work = Work { request, file: &file, to: &to };
    let shared = work.share()?;
    let (_, header) = work.look()?;
    let taken = match work.is_logged(header)? {
        true => work.with_log(shared)?,
        false => work.with_journal(shared)?,
    };
    work.settle(taken)
}

/// What a way of capturing gives, before what lies beside the copy is applied to it.
struct Taken {
    meta: Metadata,
    held: Duration,
    cloned: Option<File>,
    how: How,
    /// A journal or a log lies beside the copy.
    beside: bool,
}

struct Work<'w> {
    request: &'w Request<'w>,
    file: &'w File,
    to: &'w File,
}

impl<'w> Work<'w> {
    /// Waits for a lock.
    fn wait<'f>(&self, mut take: impl FnMut() -> io::Result<Option<Held<'f>>>) -> Result<Held<'f>, Refusal> {
        let began = Instant::now();
        loop {
            if let Some(held) = take()? {
                return Ok(held);
            }
            if (self.request.cancelled)() {
                return Err(io::Error::from(io::ErrorKind::Interrupted).into());
            }
            if began.elapsed() > self.request.limits.patience {
                return Err(Refusal::Locked(self.request.limits.patience.as_secs()));
            }
            std::thread::sleep(Duration::from_millis(3));
        }
    }

    fn share(&self) -> Result<Held<'w>, Refusal> {
        self.wait(|| lock::try_share(self.file))
    }

    /// The file and its header, under the lock; refuses one that has lost its name.
    fn look(&self) -> Result<(Metadata, Header), Refusal> {
        let meta = self.file.metadata()?;
        let named = std::fs::symlink_metadata(self.request.path)?;
        if (named.dev(), named.ino()) != (meta.dev(), meta.ino()) {
            return Err(Refusal::Moved);
        }
        let header = header_of(self.file, meta.len())?.ok_or(Refusal::NoDatabase)?;
        Ok((meta, header))
    }

    /// Whether there is a write-ahead log. SQLite reads one that holds something, whatever the header says.
    fn is_logged(&self, header: Header) -> io::Result<bool> {
        Ok(header.wal || Look::beside(&beside(self.request.path, "-wal"))?.is_some())
    }

    /// A clone of the file: into our copy where that lies on the same file system, else without a name beside the file. `None`: the
    /// file system does not do that.
    fn clone_file(&self) -> Option<Option<File>> {
        if rustix::fs::ioctl_ficlone(self.to, self.file).is_ok() {
            return Some(None);
        }
        use rustix::fs::{Mode, OFlags};
        let parent = self.request.path.parent()?;
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let nameless = File::from(rustix::fs::open(parent, flags, Mode::RUSR | Mode::WUSR).ok()?);
        rustix::fs::ioctl_ficlone(&nameless, self.file).ok()?;
        Some(Some(nameless))
    }

    fn make_room(&self, needed: u64) -> Result<(), Refusal> {
        let space = rustix::fs::fstatvfs(self.to).map_err(io::Error::from)?;
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        let path = self.request.staged.parent().unwrap_or(self.request.staged).to_owned();
        if free < needed.saturating_add(MARGIN) { Err(Refusal::NoSpace { path, needed, free }) } else { Ok(()) }
    }

    /// A journal that no living writer owns.
    fn left_journal(&self) -> io::Result<Option<Look>> {
        let path = beside(self.request.path, "-journal");
        let Some(found) = Look::beside(&path)? else { return Ok(None) };
        let mut head = [0];
        let filled = match open(&path) {
            Ok(journal) => read_at(&journal, &mut head, 0)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        Ok((is_live_journal(&head[..filled]) && !lock::is_reserved(self.file)?).then_some(found))
    }

    fn with_journal(&self, shared: Held<'w>) -> Result<Taken, Refusal> {
        let began = Instant::now();
        let (meta, _) = self.look()?;
        if self.left_journal()?.is_none()
            && let Some(cloned) = self.clone_file()
        {
            drop(shared);
            return Ok(Taken { meta, held: began.elapsed(), cloned, how: How::Clone, beside: false });
        }
        drop(shared);
        self.make_room(meta.len())?;
        let mut copier = Copier::new(self.file, self.to, meta.len(), self.request.cancelled)?;
        if meta.len() > self.request.limits.small {
            copier.pass(0, None)?;
        }
        self.compare(&mut copier)
    }

    /// Compares the copy under the lock, in steps, until it is equal.
    fn compare(&self, copier: &mut Copier<'_>) -> Result<Taken, Refusal> {
        let limits = self.request.limits;
        let (mut at, mut begun, mut seen, mut held) = (0, 0, None, Duration::ZERO);
        let mut journal: Option<Look> = None;
        loop {
            let shared = self.share()?;
            let began = Instant::now();
            let (meta, header) = self.look()?;
            if self.is_logged(header)? {
                return Err(Refusal::Moved);
            }
            let (now, left) = (Look::of(&meta, header.change_counter), self.left_journal()?);
            if seen != Some(now) || left != journal {
                (at, begun, seen) = (0, begun + 1, Some(now));
                copier.resize(meta.len())?;
            }
            if left != journal {
                // Copied without the lock; that it is still the same one is seen at the next look.
                drop(shared);
                journal = left;
                self.copy_beside("-journal", left)?;
            } else {
                let time = if begun <= SHORT_TRIES { limits.step } else { limits.longest };
                at = copier.pass(at, Some(began + time))?;
                if copier.is_whole(at) {
                    drop(shared);
                    held = held.max(began.elapsed());
                    let how = if journal.is_some() { How::Recovered } else { How::Copy };
                    return Ok(Taken { meta, held, cloned: None, how, beside: journal.is_some() });
                }
                drop(shared);
                held = held.max(began.elapsed());
            }
            if begun > limits.tries {
                return Err(Refusal::TooBusy { mib: meta.len() >> 20, longest_ms: limits.longest.as_millis() });
            }
            // A writer that waited gets its turn, and some time of its own.
            std::thread::sleep(began.elapsed().max(Duration::from_millis(20)));
        }
    }

    /// Copies a file beside the database as it is now beside the copy; without one, removes that.
    fn copy_beside(&self, tail: &str, found: Option<Look>) -> Result<(), Refusal> {
        let target = beside(self.request.staged, tail);
        let Some(found) = found else {
            return match std::fs::remove_file(target) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e.into()),
                _ => Ok(()),
            };
        };
        self.make_room(found.size)?;
        let from = match open(&beside(self.request.path, tail)) {
            Ok(from) => from,
            // It is gone: the next look says so.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        let to = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(target)?;
        Copier::new(&from, &to, found.size, self.request.cancelled)?.pass(0, None)?;
        Ok(())
    }

    /// File and log, while nobody moves the one into the other. A last one to close cannot either, because of our lock on the file.
    fn with_log(&self, shared: Held<'w>) -> Result<Taken, Refusal> {
        let (shm_path, wal) = (beside(self.request.path, "-shm"), beside(self.request.path, "-wal"));
        let shm = match open(&shm_path) {
            Ok(shm) => Some(shm),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(e.into()),
        };
        let is_open = |shm: &Option<File>| shm.as_ref().map_or(Ok(false), lock::is_open);
        let running = is_open(&shm)?;
        let held = match (&shm, running) {
            (Some(shm), true) => Some(self.wait(|| lock::try_hold_checkpoints(shm))?),
            _ => None,
        };
        // Only now: up to here the log may have been moved into the file, which grew.
        let (meta, header) = self.look()?;
        let before = (Look::of(&meta, header.change_counter), Look::beside(&wal)?);
        let cloned = self.clone_file();
        if cloned.is_none() {
            self.make_room(meta.len())?;
            Copier::new(self.file, self.to, meta.len(), self.request.cancelled)?.pass(0, None)?;
        }
        let log = Look::beside(&wal)?;
        self.copy_beside("-wal", log)?;
        if running {
            // What it has committed up to here is in the file or in the copied log.
            drop((held, shared));
        } else {
            // Nobody had it open. Whoever opened it meanwhile may have moved the log.
            let (meta, header) = self.look()?;
            let after = (Look::of(&meta, header.change_counter), Look::beside(&wal)?);
            let opened = open(&shm_path).ok();
            if after != before || is_open(&opened)? {
                return Err(Refusal::Moved);
            }
            drop(shared);
        }
        let how = match (log.is_some(), &cloned) {
            (true, _) => How::Log,
            (false, Some(_)) => How::Clone,
            (false, None) => How::Copy,
        };
        Ok(Taken { meta, held: Duration::ZERO, cloned: cloned.flatten(), how, beside: log.is_some() })
    }

    /// Applies what lies beside the copy, and looks whether SQLite opens it.
    fn settle(&self, taken: Taken) -> Result<Captured, Refusal> {
        let Taken { meta, held, mut cloned, how, beside } = taken;
        let staged = self.request.staged;
        let mut note = None;
        if beside {
            if let Some(clone) = cloned.take() {
                self.make_room(meta.len())?;
                Copier::new(&clone, self.to, clone.metadata()?.len(), self.request.cancelled)?.pass(0, None)?;
            }
            sqlite::settle(staged).map_err(|e| Refusal::Unrecoverable(chain(&e)))?;
        } else if cloned.is_none() {
            note = sqlite::look(staged).err().map(|e| chain(&e));
        }
        let content = match cloned {
            Some(clone) => Content::Cloned(clone),
            None => Content::Staged(staged.to_owned()),
        };
        let size = match &content {
            Content::Cloned(clone) => clone.metadata()?.len(),
            Content::Staged(path) => std::fs::metadata(path)?.len(),
        };
        Ok(Captured { content, size, meta, how, held, settled: !beside, note })
    }
}

/// The cause alone: the path of our copy says nothing to a person.
fn chain(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}
