//! A tree of files: everything that Linux keeps of it.
//!
//! The walk is depth first, names sorted as bytes, so that entries come in path order. Files are opened without following
//! links, and only if they are still the inode that the walk saw. What vanishes, changes or cannot be read is named.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::cutting::{SAMPLE, choose_cutting};
use super::tree::{Matcher, Rules};
use super::{Error, Found, FoundEntry, Opened, Source};
use crate::model::{Digest, Entry, EntryKind, FileContent, RawText, RelPath, Stamp, limits};

/// A directory and all that is in it.
pub struct VolumeSource {
    root: PathBuf,
    omit: Option<PathBuf>,
    matcher: Matcher,
    users: Mutex<Names>,
}

/// Names of owners, asked for once each.
#[derive(Default)]
struct Names {
    users: HashMap<u32, Option<String>>,
    groups: HashMap<u32, Option<String>>,
}

impl VolumeSource {
    /// A source over a directory that is there.
    pub fn new(root: &Path, rules: &Rules) -> Result<Self, Error> {
        let fail = |source| Error::Root { path: root.to_owned(), source };
        let root = fs::canonicalize(root).map_err(fail)?;
        if !fs::metadata(&root).map_err(fail)?.is_dir() {
            return Err(Error::NotADirectory(root));
        }
        Ok(Self { root, omit: None, matcher: Matcher::new(rules)?, users: Mutex::default() })
    }

    /// Leaves a directory out, by its canonical path: a repository that lies in the tree that it keeps.
    pub fn without(mut self, directory: PathBuf) -> Self {
        self.omit = Some(directory);
        self
    }

    fn absolute(&self, path: &RelPath) -> PathBuf {
        if path.is_root() { self.root.clone() } else { self.root.join(OsStr::from_bytes(path.as_bytes())) }
    }

    fn entry(&self, path: RelPath, meta: &Metadata, kind: EntryKind) -> Entry {
        let mut names = self.users.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let text = |name: &OsStr| name.to_str().map(str::to_owned);
        let user = names
            .users
            .entry(meta.uid())
            .or_insert_with(|| uzers::get_user_by_uid(meta.uid()).and_then(|user| text(user.name())));
        let user = user.clone();
        let group = names
            .groups
            .entry(meta.gid())
            .or_insert_with(|| uzers::get_group_by_gid(meta.gid()).and_then(|group| text(group.name())));
        Entry {
            path,
            kind,
            mode: meta.mode() & 0o7777,
            uid: meta.uid(),
            gid: meta.gid(),
            user,
            group: group.clone(),
            mtime: Stamp(meta.mtime(), meta.mtime_nsec() as u32),
            ctime: Some(Stamp(meta.ctime(), meta.ctime_nsec() as u32)),
            inode: Some(meta.ino()),
            xattrs: BTreeMap::new(),
        }
    }

    fn kind_of(&self, path: &Path, meta: &Metadata) -> std::io::Result<EntryKind> {
        let kind = meta.file_type();
        let device = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
        Ok(if kind.is_dir() {
            EntryKind::Dir
        } else if kind.is_symlink() {
            EntryKind::Symlink { target: RawText(fs::read_link(path)?.as_os_str().as_bytes().to_vec()) }
        } else if kind.is_fifo() {
            EntryKind::Fifo
        } else if kind.is_socket() {
            EntryKind::Socket
        } else if kind.is_char_device() {
            EntryKind::Char { device }
        } else if kind.is_block_device() {
            EntryKind::Block { device }
        } else {
            EntryKind::File(FileContent { size: 0, digest: Digest::new([0; 32]), extents: Vec::new() })
        })
    }
}

/// A walk under way. Directories that are open wait on a stack of our own: a tree may be deeper than a thread's.
struct Walk<'s, 'e> {
    source: &'s VolumeSource,
    each: &'e mut dyn FnMut(Found) -> bool,
    links: HashMap<(u64, u64), RelPath>,
    device: u64,
    open: Vec<(RelPath, std::vec::IntoIter<OsString>)>,
}

impl Walk<'_, '_> {
    fn run(&mut self) {
        let mut going = self.visit(RelPath::root());
        while going {
            let Some((path, names)) = self.open.last_mut() else { return };
            let Some(name) = names.next() else {
                self.open.pop();
                continue;
            };
            // A name that the kernel gave cannot be unclean; were it so, it would be left out by name.
            going = match path.join(name.as_bytes()) {
                Ok(next) => self.visit(next),
                Err(e) => {
                    let path = path.clone();
                    self.skip(path, e)
                }
            };
        }
    }

    fn skip(&mut self, path: RelPath, why: impl std::fmt::Display) -> bool {
        (self.each)(Found::Skipped { path, why: why.to_string() })
    }

    /// Answers false when the walk is to stop.
    fn visit(&mut self, path: RelPath) -> bool {
        let absolute = self.source.absolute(&path);
        if self.source.omit.as_ref() == Some(&absolute) {
            return true;
        }
        let meta = match fs::symlink_metadata(&absolute) {
            Ok(meta) => meta,
            Err(e) => return self.skip(path, e),
        };
        let is_dir = meta.is_dir();
        if !path.is_root() && self.source.matcher.excludes(Path::new(OsStr::from_bytes(path.as_bytes())), is_dir) {
            return true;
        }
        if meta.is_file() && self.source.matcher.too_large(meta.len()) {
            return true;
        }
        let kind = match self.source.kind_of(&absolute, &meta) {
            Ok(kind) => kind,
            Err(e) => return self.skip(path, e),
        };
        if meta.is_file() && meta.nlink() > 1 {
            let first = self.links.entry((meta.dev(), meta.ino())).or_insert_with(|| path.clone());
            if *first != path {
                let kind = EntryKind::Hardlink { target: first.clone() };
                let entry = self.source.entry(path, &meta, kind);
                return (self.each)(Found::Entry(Box::new(FoundEntry::new(entry, 0, false))));
            }
        }
        let size = if meta.is_file() { meta.len() } else { 0 };
        let sparse = size > 0 && meta.blocks().saturating_mul(512) < size;
        let entry = self.source.entry(path.clone(), &meta, kind);
        if !(self.each)(Found::Entry(Box::new(FoundEntry::new(entry, size, sparse)))) {
            return false;
        }
        let elsewhere = self.source.matcher.one_file_system && meta.dev() != self.device;
        if is_dir && !elsewhere { self.descend(path, &absolute) } else { true }
    }

    fn descend(&mut self, path: RelPath, absolute: &Path) -> bool {
        let names = fs::read_dir(absolute)
            .and_then(|all| all.map(|entry| entry.map(|e| e.file_name())).collect::<std::io::Result<Vec<OsString>>>());
        let mut names = match names {
            Ok(names) => names,
            Err(e) => return self.skip(path, e),
        };
        if let Some(marker) = self.source.matcher.marker(absolute, &names) {
            names.retain(|name| name.to_str() == Some(&marker));
        }
        names.sort_unstable();
        self.open.push((path, names.into_iter()));
        true
    }
}

impl Source for VolumeSource {
    fn kind(&self) -> &'static str {
        "volume"
    }

    fn root(&self) -> String {
        self.root.display().to_string()
    }

    fn walk(&self, each: &mut dyn FnMut(Found) -> bool) -> Result<(), Error> {
        let root = fs::symlink_metadata(&self.root);
        let device = root.map_err(|source| Error::Root { path: self.root.clone(), source })?.dev();
        Walk { source: self, each, links: HashMap::new(), device, open: Vec::new() }.run();
        Ok(())
    }

    fn open(&self, found: &FoundEntry) -> Result<Opened<'_>, String> {
        let path = self.absolute(&found.entry.path);
        let text = |e: std::io::Error| e.to_string();
        let flags = rustix::fs::OFlags::NOFOLLOW.bits() as i32 | rustix::fs::OFlags::NONBLOCK.bits() as i32;
        let mut options = fs::OpenOptions::new();
        let mut file = options.read(true).custom_flags(flags).open(&path).map_err(text)?;
        let meta = file.metadata().map_err(text)?;
        if Some(meta.ino()) != found.entry.inode || !meta.is_file() {
            return Err("it was replaced by another file while it was backed up".to_owned());
        }
        let data = if found.sparse { find_data(&file, meta.len()).map_err(text)? } else { None };
        let mut head = vec![0; SAMPLE.min(meta.len() as usize)];
        let filled = read_fully(&mut file, &mut head).map_err(text)?;
        head.truncate(filled);
        let cutting = choose_cutting(&found.entry.path, meta.len(), &head);
        let xattrs = read_xattrs(&path);
        let before = stamps(&meta);
        let again = file.try_clone().map_err(text)?;
        let changed = move || match again.metadata() {
            Ok(meta) if stamps(&meta) == before => None,
            Ok(_) => Some("it changed while it was read: stored as it was read, perhaps inconsistent".to_owned()),
            Err(e) => Some(e.to_string()),
        };
        let size = meta.len();
        let reader: Box<dyn Read + Send> = match &data {
            Some(_) => Box::new(SparseReader::new(file, data.clone().unwrap_or_default())),
            None => Box::new(std::io::Cursor::new(head).chain(file)),
        };
        Ok(Opened { file: reader, data, cutting, xattrs, size, changed: Box::new(changed) })
    }

    fn xattrs(&self, entry: &Entry) -> BTreeMap<String, RawText> {
        read_xattrs(&self.absolute(&entry.path))
    }

    fn all_or_nothing(&self) -> bool {
        false
    }

    fn finish(&self) -> Result<(), Error> {
        Ok(())
    }
}

fn stamps(meta: &Metadata) -> (u64, i64, i64, i64, i64) {
    (meta.len(), meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec())
}

fn read_fully(file: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

/// Reads runs of data one after another, holes left out.
struct SparseReader {
    file: File,
    runs: std::vec::IntoIter<(u64, u64)>,
    left: u64,
}

impl SparseReader {
    fn new(file: File, runs: Vec<(u64, u64)>) -> Self {
        Self { file, runs: runs.into_iter(), left: 0 }
    }
}

impl Read for SparseReader {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if self.left == 0 {
            let Some((start, length)) = self.runs.next() else { return Ok(0) };
            self.file.seek(SeekFrom::Start(start))?;
            self.left = length;
        }
        let limit = out.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let count = self.file.read(&mut out[..limit])?;
        self.left -= count as u64;
        Ok(count)
    }
}

/// Runs of data of a file with holes, by the file system's word; `None` where it does not know holes.
fn find_data(file: &File, size: u64) -> std::io::Result<Option<Vec<(u64, u64)>>> {
    use rustix::fs::SeekFrom as At;
    let (mut runs, mut at) = (Vec::new(), 0);
    while at < size {
        let start = match rustix::fs::seek(file, At::Data(at)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => break,
            Err(rustix::io::Errno::INVAL) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let end = rustix::fs::seek(file, At::Hole(start))?.min(size);
        if end <= start {
            break;
        }
        runs.push((start, end - start));
        at = end;
    }
    rustix::fs::seek(file, At::Start(0))?;
    Ok(Some(runs))
}

fn read_xattrs(path: &Path) -> BTreeMap<String, RawText> {
    let mut all = BTreeMap::new();
    let mut names = vec![0; 4096];
    let count = match rustix::fs::llistxattr(path, &mut names[..]) {
        Ok(0) | Err(rustix::io::Errno::NOTSUP) => return all,
        Ok(count) => count,
        Err(_) => {
            names.resize(limits::XATTR_MAX, 0);
            rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0)
        }
    };
    for name in names[..count].split(|b| *b == 0).filter(|name| !name.is_empty()) {
        let Ok(text) = std::str::from_utf8(name) else { continue };
        let mut value = vec![0; 4096];
        let length = rustix::fs::lgetxattr(path, text, &mut value[..]).or_else(|_| {
            value.resize(limits::XATTR_MAX, 0);
            rustix::fs::lgetxattr(path, text, &mut value[..])
        });
        if let Ok(length) = length {
            value.truncate(length);
            all.insert(text.to_owned(), RawText(value));
        }
    }
    all
}
