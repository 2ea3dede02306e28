//! A directory: files, links, nodes and their metadata, placed below one root and never outside it.
//!
//! Every step goes through the open descriptor of the parent, and parents are opened one component at a time without
//! following links: neither a hostile manifest nor a link that stood in the destination before leads out. A file is
//! written under a name of its own and renamed when it is whole, so that half a file never carries its final name and the
//! other names of an old one keep their content; content first, owner, attributes, mode and times after it. A directory
//! that is not empty is removed only where removing was asked for.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::fs::{self, AtFlags, CWD, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::{Error, Writeback};
use crate::model::{Entry, EntryKind, RelPath, Stamp};

/// Open directories that are kept at hand.
const OPEN_DIRS: usize = 128;

/// What stands at a path before a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Existing {
    /// Whether it is a regular file.
    pub is_file: bool,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Bytes.
    pub size: u64,
    /// When its content changed last.
    pub mtime: Stamp,
    /// How many names it has.
    pub links: u64,
}

/// What a restore may do to what stands in its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rights {
    /// Files and links may be replaced.
    pub replace: bool,
    /// Directories with something in them may be removed.
    pub remove: bool,
}

/// A directory that a restore fills.
pub struct Directory {
    rights: Rights,
    path: PathBuf,
    root: Arc<OwnedFd>,
    open: Mutex<HashMap<RelPath, Arc<OwnedFd>>>,
    pub(super) is_root_user: bool,
    pub(super) trouble: Mutex<Vec<(String, String)>>,
}

fn name(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}

/// A directory that one restore has. Taken back when it is dropped, not only closed: a program that is being started holds a copy
/// of every open file for a moment.
#[derive(Debug)]
pub struct Held(Arc<OwnedFd>);

impl Drop for Held {
    fn drop(&mut self) {
        // Where this fails, closing it does it.
        let _ = fs::flock(&self.0, FlockOperation::Unlock);
    }
}

impl Directory {
    /// Opens a directory; with `create` it is made where there is none.
    pub fn open(path: &Path, create: bool) -> Result<Self, Error> {
        let io = |doing, source: std::io::Error| Error::Io { doing, path: path.to_owned(), source };
        if create {
            std::fs::create_dir_all(path).map_err(|e| io("make", e))?;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = fs::openat(CWD, path, flags, Mode::empty()).map_err(|e| io("open", e.into()))?;
        let path = std::fs::canonicalize(path).map_err(|e| io("open", e))?;
        Ok(Self {
            rights: Rights { replace: true, remove: false },
            path,
            root: Arc::new(root),
            open: Mutex::default(),
            is_root_user: rustix::process::geteuid().is_root(),
            trouble: Mutex::default(),
        })
    }

    /// With other rights than to replace files.
    pub fn with_rights(mut self, rights: Rights) -> Self {
        self.rights = rights;
        self
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether nothing is in it, `besides` apart.
    pub fn is_empty(&self, besides: &str) -> Result<bool, Error> {
        let io = |source| Error::Io { doing: "list", path: self.path.clone(), source };
        for entry in std::fs::read_dir(&self.path).map_err(io)? {
            if entry.map_err(io)?.file_name() != besides {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Bytes that an ordinary user may still write.
    pub fn free(&self) -> Result<u64, Error> {
        let stat = fs::fstatvfs(&self.root).map_err(|e| self.io("ask", &RelPath::root(), e))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    pub(super) fn io(&self, doing: &'static str, path: &RelPath, errno: impl Into<std::io::Error>) -> Error {
        Error::Io { doing, path: self.absolute(path), source: errno.into() }
    }

    pub(super) fn absolute(&self, path: &RelPath) -> PathBuf {
        if path.is_root() { self.path.clone() } else { self.path.join(name(path.as_bytes())) }
    }

    /// The open descriptor of a directory below the root, each component opened without following links.
    pub(super) fn directory(&self, path: &RelPath) -> Result<Arc<OwnedFd>, Error> {
        let lock = || self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // From the deepest directory that is open already.
        let (mut missing, mut at) = (Vec::new(), path.clone());
        let mut opened = loop {
            if at.is_root() {
                break Arc::clone(&self.root);
            }
            if let Some(found) = lock().get(&at) {
                break Arc::clone(found);
            }
            let parent = at.parent().unwrap_or_default();
            missing.push(std::mem::replace(&mut at, parent));
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for path in missing.into_iter().rev() {
            let next = fs::openat(&opened, name(path.name()), flags, Mode::empty()).map_err(|e| match e {
                Errno::NOTDIR | Errno::LOOP => Error::InTheWay(self.absolute(&path)),
                e => self.io("open", &path, e),
            })?;
            opened = Arc::new(next);
            let mut all = lock();
            if all.len() >= OPEN_DIRS {
                all.clear();
            }
            all.insert(path, Arc::clone(&opened));
        }
        Ok(opened)
    }

    fn parent(&self, path: &RelPath) -> Result<Arc<OwnedFd>, Error> {
        self.directory(&path.parent().unwrap_or_default())
    }

    /// What stands at a path; nothing when it, or a directory above it, is not there.
    pub fn existing(&self, path: &RelPath) -> Result<Option<Existing>, Error> {
        let parent = match self.parent(path) {
            Ok(parent) => parent,
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let stat = match fs::statat(&parent, name(path.name()), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(None),
            Err(e) => return Err(self.io("look at", path, e)),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        Ok(Some(Existing {
            is_file: kind == FileType::RegularFile,
            is_dir: kind == FileType::Directory,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime: Stamp(stat.st_mtime as i64, stat.st_mtime_nsec as u32),
            links: stat.st_nlink as u64,
        }))
    }

    /// Makes a directory, or finds one there. What else stands there is removed.
    pub fn make_dir(&self, path: &RelPath) -> Result<(), Error> {
        if path.is_root() {
            return Ok(());
        }
        let parent = self.parent(path)?;
        for _ in 0..2 {
            match fs::mkdirat(&parent, name(path.name()), Mode::from_raw_mode(0o700)) {
                Ok(()) => return Ok(()),
                Err(Errno::EXIST) => {}
                Err(e) => return Err(self.io("make", path, e)),
            }
            match self.existing(path)? {
                Some(found) if found.is_dir => return Ok(()),
                _ if self.rights.replace => self.unlink(path)?,
                _ => break,
            }
        }
        Err(Error::InTheWay(self.absolute(path)))
    }

    /// Removes what stands at a path; nothing there is fine. A directory with something in it is in the way unless
    /// removing was asked for.
    pub fn unlink(&self, path: &RelPath) -> Result<(), Error> {
        let parent = self.parent(path)?;
        match fs::unlinkat(&parent, name(path.name()), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(e) => return Err(self.io("remove", path, e)),
        }
        self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clear();
        match fs::unlinkat(&parent, name(path.name()), AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::NOTEMPTY | Errno::EXIST) if self.rights.remove => self.remove_tree(path),
            Err(Errno::NOTEMPTY | Errno::EXIST) => Err(Error::InTheWay(self.absolute(path))),
            Err(e) => Err(self.io("remove", path, e)),
        }
    }

    fn remove_tree(&self, path: &RelPath) -> Result<(), Error> {
        let directory = self.directory(path)?;
        let listing = fs::Dir::read_from(&directory).map_err(|e| self.io("list", path, e))?;
        for entry in listing {
            let entry = entry.map_err(|e| self.io("list", path, e))?;
            let entry_name = entry.file_name().to_bytes();
            if entry_name != b"."
                && entry_name != b".."
                && let Ok(below) = path.join(entry_name)
            {
                self.unlink(&below)?;
            }
        }
        self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(path);
        let parent = self.parent(path)?;
        fs::unlinkat(&parent, name(path.name()), AtFlags::REMOVEDIR).map_err(|e| self.io("remove", path, e))
    }

    /// The name under which a file is written until it is whole: the same at each try, so that a run that continues finds
    /// what the one before left.
    fn staged(path: &RelPath) -> Result<RelPath, Error> {
        let digest = blake3::hash(path.as_bytes()).to_hex();
        let staged = path.parent().unwrap_or_default().join(format!(".lifeboat-{}", &digest[..16]).as_bytes());
        staged.map_err(|_| Error::InTheWay(PathBuf::from(path.to_string())))
    }

    /// A new, empty file for writing and reading, under a name of its own until [`Directory::publish`].
    pub fn create_file(&self, path: &RelPath) -> Result<File, Error> {
        let staged = Self::staged(path)?;
        let parent = self.parent(&staged)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || fs::openat(&parent, name(staged.name()), flags, Mode::from_raw_mode(0o600));
        match open() {
            Ok(file) => Ok(file.into()),
            Err(Errno::EXIST) => {
                self.unlink(&staged)?;
                open().map(File::from).map_err(|e| self.io("make", path, e))
            }
            Err(e) => Err(self.io("make", path, e)),
        }
    }

    /// The file that [`Directory::create_file`] made, opened again.
    pub fn reopen_file(&self, path: &RelPath) -> Result<File, Error> {
        self.open_file(&Self::staged(path)?)
    }

    /// Gives a whole file its final name. What stood there goes, as far as the rights allow.
    pub fn publish(&self, path: &RelPath) -> Result<(), Error> {
        let staged = Self::staged(path)?;
        let parent = self.parent(path)?;
        let rename = || fs::renameat(&parent, name(staged.name()), &parent, name(path.name()));
        match rename() {
            Err(Errno::ISDIR) => {
                self.unlink(path)?;
                rename().map_err(|e| self.io("rename", path, e))
            }
            other => other.map_err(|e| self.io("rename", path, e)),
        }
    }

    /// Removes what an interrupted run left of a file that this run keeps as it is.
    pub fn discard(&self, path: &RelPath) -> Result<(), Error> {
        self.unlink(&Self::staged(path)?)
    }

    /// Writes a small file of ours at the root, through no link.
    pub fn write_mark(&self, mark: &str, text: &str) -> Result<(), Error> {
        let io = |source: std::io::Error| Error::Io { doing: "write", path: self.path.join(mark), source };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = fs::openat(&self.root, mark, flags, Mode::from_raw_mode(0o600)).map_err(|e| io(e.into()))?;
        std::io::Write::write_all(&mut File::from(file), text.as_bytes()).map_err(io)
    }

    /// Takes the directory for one restore, until the lock is dropped or the process ends. A file system that knows no locks
    /// protects from nothing, and stops nobody.
    ///
    /// # Errors
    /// Another restore has it.
    pub fn lock(&self) -> Result<Held, Error> {
        match fs::flock(&self.root, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => Err(Error::InUse(self.path.clone())),
            Ok(()) | Err(_) => Ok(Held(Arc::clone(&self.root))),
        }
    }

    /// Removes it.
    pub fn remove_mark(&self, mark: &str) -> Result<(), Error> {
        let io = |e: Errno| Error::Io { doing: "remove", path: self.path.join(mark), source: e.into() };
        fs::unlinkat(&self.root, mark, AtFlags::empty()).map_err(io)
    }

    /// A regular file that is there, for writing and reading.
    pub fn open_file(&self, path: &RelPath) -> Result<File, Error> {
        let parent = self.parent(path)?;
        let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let open = |how: OFlags| fs::openat(&parent, name(path.name()), flags | how, Mode::empty());
        let opened = match open(OFlags::RDWR) {
            // Ours, but read-only: it is made writable while it is being mended.
            Err(Errno::ACCESS) => {
                let _ = fs::chmodat(&parent, name(path.name()), Mode::from_raw_mode(0o600), AtFlags::empty());
                open(OFlags::RDWR)
            }
            other => other,
        };
        opened.map(File::from).map_err(|e| self.io("open", path, e))
    }

    /// A regular file that is there, for reading.
    pub fn read_file(&self, path: &RelPath) -> Result<File, Error> {
        let parent = self.parent(path)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let opened = fs::openat(&parent, name(path.name()), flags, Mode::empty());
        opened.map(File::from).map_err(|e| self.io("open", path, e))
    }

    /// Places what is neither file nor directory. What stood there is removed. A socket is left out: whoever listens on it
    /// makes it.
    pub fn place(&self, entry: &Entry) -> Result<(), Error> {
        let path = &entry.path;
        if matches!(entry.kind, EntryKind::Socket) {
            return Ok(());
        }
        self.unlink(path)?;
        let parent = self.parent(path)?;
        let last = name(path.name());
        match &entry.kind {
            EntryKind::Symlink { target } => fs::symlinkat(name(target.as_bytes()), &parent, last),
            EntryKind::Hardlink { target } => {
                let from = self.parent(target)?;
                fs::linkat(&from, name(target.name()), &parent, last, AtFlags::empty())
                    .map_err(|e| self.io("link", path, e))?;
                return Ok(());
            }
            EntryKind::Fifo => fs::mknodat(&parent, last, FileType::Fifo, Mode::from_raw_mode(0o600), 0),
            EntryKind::Char { device } | EntryKind::Block { device } => {
                let kind = match entry.kind {
                    EntryKind::Char { .. } => FileType::CharacterDevice,
                    _ => FileType::BlockDevice,
                };
                let device = fs::makedev(device.0, device.1);
                match fs::mknodat(&parent, last, kind, Mode::from_raw_mode(0o600), device) {
                    Err(e @ Errno::PERM) => {
                        self.note(path, "device node", e);
                        return Ok(());
                    }
                    other => other,
                }
            }
            EntryKind::File(_) | EntryKind::Dir | EntryKind::Socket => Ok(()),
        }
        .map_err(|e| self.io("make", path, e))?;
        self.finish_node(&parent, last, entry)
    }

    /// Gives a file that could not be restored whole a name that says so: the one that was being written, or with
    /// `in_place` the one that was being mended.
    pub fn mark_incomplete(&self, path: &RelPath, in_place: bool) -> Result<(), Error> {
        let parent = self.parent(path)?;
        let marked = [path.name(), b".lifeboat-incomplete"].concat();
        let from = if in_place { path.clone() } else { Self::staged(path)? };
        match fs::renameat(&parent, name(from.name()), &parent, name(&marked)) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(self.io("rename", path, e)),
        }
    }

    /// Every path below the root, in path order, and whether it is a directory.
    pub fn list(&self) -> Result<Vec<(RelPath, bool)>, Error> {
        let (mut all, mut open) = (Vec::new(), vec![RelPath::root()]);
        while let Some(path) = open.pop() {
            let directory = self.directory(&path)?;
            let listing = fs::Dir::read_from(&directory).map_err(|e| self.io("list", &path, e))?;
            for entry in listing {
                let entry = entry.map_err(|e| self.io("list", &path, e))?;
                let bytes = entry.file_name().to_bytes();
                if bytes == b"." || bytes == b".." {
                    continue;
                }
                let Ok(below) = path.join(bytes) else { continue };
                let is_dir = self.existing(&below)?.is_some_and(|found| found.is_dir);
                if is_dir {
                    open.push(below.clone());
                }
                all.push((below, is_dir));
            }
        }
        all.sort();
        Ok(all)
    }

    /// Everything on disk, by one call for the whole file system.
    pub fn sync(&self) -> Result<(), Error> {
        self.synced(fs::syncfs(&self.root))
    }

    /// Begins to bring to the disk what is being written.
    pub fn write_back(&self) -> Writeback {
        Writeback::start(Arc::clone(&self.root))
    }

    /// What a sync of this directory ended with.
    pub fn synced(&self, result: Result<(), Errno>) -> Result<(), Error> {
        result.map_err(|e| self.io("sync", &RelPath::root(), e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RawText;

    fn path(text: &str) -> RelPath {
        RelPath::new(text).unwrap()
    }

    #[test]
    fn a_link_in_the_destination_leads_nowhere() {
        let (outside, inside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::os::unix::fs::symlink(outside.path(), inside.path().join("a")).unwrap();
        let directory = Directory::open(inside.path(), false).unwrap();
        assert!(matches!(directory.create_file(&path("a/b")), Err(Error::InTheWay(_))));
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
        directory.make_dir(&path("a")).unwrap();
        directory.create_file(&path("a/b")).unwrap();
        directory.publish(&path("a/b")).unwrap();
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
        assert!(inside.path().join("a/b").is_file());
    }

    #[test]
    fn a_new_file_does_not_change_the_other_names_of_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a"), "old").unwrap();
        std::fs::hard_link(folder.path().join("a"), folder.path().join("b")).unwrap();
        let directory = Directory::open(folder.path(), false).unwrap();
        std::io::Write::write_all(&mut directory.create_file(&path("a")).unwrap(), b"new").unwrap();
        assert_eq!(std::fs::read(folder.path().join("a")).unwrap(), b"old", "half a file has no final name");
        directory.publish(&path("a")).unwrap();
        assert_eq!(std::fs::read(folder.path().join("b")).unwrap(), b"old");
        assert_eq!(std::fs::read(folder.path().join("a")).unwrap(), b"new");
    }

    #[test]
    fn trees_are_removed_and_links_in_them_not_followed() {
        let (outside, inside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(outside.path().join("keep"), "x").unwrap();
        std::fs::create_dir_all(inside.path().join("d/e")).unwrap();
        std::os::unix::fs::symlink(outside.path(), inside.path().join("d/e/link")).unwrap();
        let directory = Directory::open(inside.path(), false).unwrap();
        assert_eq!(directory.list().unwrap(), [(path("d"), true), (path("d/e"), true), (path("d/e/link"), false)]);
        assert!(matches!(directory.unlink(&path("d")), Err(Error::InTheWay(_))), "only where removing was asked for");
        let directory = directory.with_rights(Rights { replace: true, remove: true });
        directory.unlink(&path("d")).unwrap();
        assert!(directory.is_empty("").unwrap() && outside.path().join("keep").exists());
    }

    #[test]
    fn symlinks_keep_their_text_and_time() {
        let folder = tempfile::tempdir().unwrap();
        let directory = Directory::open(folder.path(), false).unwrap();
        let kind = EntryKind::Symlink { target: RawText(b"../no\xffwhere".to_vec()) };
        let mut entry = Entry::bare(path("l"), kind);
        entry.mtime = Stamp(1_000_000_000, 123_456_789);
        directory.place(&entry).unwrap();
        let found = directory.existing(&path("l")).unwrap().unwrap();
        assert_eq!(found.mtime, entry.mtime);
        let target = std::fs::read_link(folder.path().join("l")).unwrap();
        assert_eq!(target.as_os_str().as_bytes(), b"../no\xffwhere");
    }
}
