//! A tree of files: everything that Linux keeps of it.
//!
//! Files are opened without following links, and only if they are still the inode that the walk saw. What vanishes, changes
//! or cannot be read is named. Not here: the walk itself.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::cutting::{SAMPLE, choose_cutting};
use super::tree::{Matcher, Rules};
use super::walk::walk;
use super::{Error, Found, FoundEntry, Opened, SmallRead, Source, more_behind, read_fully};
use crate::model::{Digest, Entry, EntryKind, FileContent, RawText, RelPath, Stamp, limits};

/// A directory and all that is in it.
pub struct VolumeSource {
    root: PathBuf,
    pub(super) omit: Option<PathBuf>,
    pub(super) matcher: Matcher,
    /// A file beside which SQLite keeps a log or a journal is read whatever its times say.
    pub(super) watches_logs: bool,
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
        Ok(Self { root, omit: None, matcher: Matcher::new(rules)?, watches_logs: false, users: Mutex::default() })
    }

    /// Leaves a directory out, by its canonical path: a repository that lies in the tree that it keeps.
    pub fn without(mut self, directory: PathBuf) -> Self {
        self.omit = Some(directory);
        self
    }

    /// Does not take a database for unchanged while a log or a journal with content lies beside it.
    pub(super) fn watching_logs(self) -> Self {
        Self { watches_logs: true, ..self }
    }

    pub(super) fn absolute(&self, path: &RelPath) -> PathBuf {
        if path.is_root() { self.root.clone() } else { self.root.join(OsStr::from_bytes(path.as_bytes())) }
    }

    pub(super) fn entry(&self, path: RelPath, meta: &Metadata, kind: EntryKind) -> Entry {
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

    /// Opens a file without following a link, if it is still the one that the walk saw.
    fn open_same(&self, found: &FoundEntry) -> Result<(File, Metadata), String> {
        let text = |e: std::io::Error| e.to_string();
        let flags = rustix::fs::OFlags::NOFOLLOW.bits() as i32 | rustix::fs::OFlags::NONBLOCK.bits() as i32;
        let mut options = fs::OpenOptions::new();
        let path = self.absolute(&found.entry.path);
        let file = options.read(true).custom_flags(flags).open(path).map_err(text)?;
        let meta = file.metadata().map_err(text)?;
        if Some(meta.ino()) != found.entry.inode || !meta.is_file() {
            return Err("it was replaced by another file while it was backed up".to_owned());
        }
        Ok((file, meta))
    }

    pub(super) fn kind_of(&self, path: &Path, meta: &Metadata) -> std::io::Result<EntryKind> {
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

impl Source for VolumeSource {
    fn kind(&self) -> &'static str {
        "volume"
    }

    fn root(&self) -> String {
        self.root.display().to_string()
    }

    fn walk(&self, each: &mut dyn FnMut(Found) -> bool) -> Result<(), Error> {
        let root = fs::symlink_metadata(&self.root);
        let root = root.map_err(|source| Error::Root { path: self.root.clone(), source })?;
        walk(self, Ok(root), each);
        Ok(())
    }

    fn read_small(&self, found: &FoundEntry, into: &mut Vec<u8>) -> Result<SmallRead, String> {
        let text = |e: std::io::Error| e.to_string();
        let (mut file, meta) = self.open_same(found)?;
        let (start, room) = (into.len(), meta.len().min(limits::SMALL_FILE_MAX) as usize + 1);
        into.resize(start + room, 0);
        // One byte more than it should have: that it does not come is the end of the file.
        let filled = read_fully(&mut file, &mut into[start..]).map_err(text)?;
        into.truncate(start + filled);
        let mut cut = None;
        if filled == room {
            (&mut file).take(limits::SMALL_FILE_MAX).read_to_end(into).map_err(text)?;
            cut = more_behind(&mut file, into.len() - start).map_err(text)?;
        }
        let head = &into[start..into.len().min(start + SAMPLE)];
        let cutting = choose_cutting(&found.entry.path, meta.len(), head);
        let xattrs = read_xattrs_of(&file);
        let changed = cut.or_else(|| changed_since(&file, &meta));
        Ok(SmallRead { cutting, xattrs, changed })
    }

    fn open(&self, found: &FoundEntry) -> Result<Opened<'_>, String> {
        let text = |e: std::io::Error| e.to_string();
        let (mut file, meta) = self.open_same(found)?;
        let data = if found.sparse { find_data(&file, meta.len()).map_err(text)? } else { None };
        let mut head = vec![0; SAMPLE.min(meta.len() as usize)];
        let filled = read_fully(&mut file, &mut head).map_err(text)?;
        head.truncate(filled);
        let cutting = choose_cutting(&found.entry.path, meta.len(), &head);
        let xattrs = read_xattrs_of(&file);
        let (again, size) = (file.try_clone().map_err(text)?, meta.len());
        let changed = move || changed_since(&again, &meta);
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

/// What changed of an open file, in words.
fn changed_since(file: &File, before: &Metadata) -> Option<String> {
    match file.metadata() {
        Ok(meta) if stamps(&meta) == stamps(before) => None,
        Ok(_) => Some("it changed while it was read: stored as it was read, perhaps inconsistent".to_owned()),
        Err(e) => Some(e.to_string()),
    }
}

fn stamps(meta: &Metadata) -> (u64, i64, i64, i64, i64) {
    (meta.len(), meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec())
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
    collect_xattrs(|names| rustix::fs::llistxattr(path, names), |name, value| rustix::fs::lgetxattr(path, name, value))
}

fn read_xattrs_of(file: &File) -> BTreeMap<String, RawText> {
    collect_xattrs(|names| rustix::fs::flistxattr(file, names), |name, value| rustix::fs::fgetxattr(file, name, value))
}

fn collect_xattrs(
    list: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
    get: impl Fn(&str, &mut [u8]) -> rustix::io::Result<usize>,
) -> BTreeMap<String, RawText> {
    let mut all = BTreeMap::new();
    let mut names = vec![0; 1024];
    let count = match list(&mut names) {
        Ok(0) | Err(rustix::io::Errno::NOTSUP) => return all,
        Ok(count) => count,
        Err(_) => {
            names.resize(limits::XATTR_MAX, 0);
            list(&mut names).unwrap_or(0)
        }
    };
    for name in names[..count].split(|b| *b == 0).filter(|name| !name.is_empty()) {
        let Ok(text) = std::str::from_utf8(name) else { continue };
        let mut value = vec![0; 4096];
        let length = get(text, &mut value).or_else(|_| {
            value.resize(limits::XATTR_MAX, 0);
            get(text, &mut value)
        });
        if let Ok(length) = length {
            value.truncate(length);
            all.insert(text.to_owned(), RawText(value));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_file_that_became_large_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        for (size, whole) in [(1_500_000, true), (5 << 20, false)] {
            fs::write(&path, vec![7; 900 << 10]).unwrap();
            let source = VolumeSource::new(folder.path(), &Rules::default()).unwrap();
            let mut found = None;
            let mut keep = |each| {
                if let Found::Entry(entry) = each
                    && entry.entry.content().is_some()
                {
                    found = Some(entry);
                }
                true
            };
            source.walk(&mut keep).unwrap();
            fs::write(&path, vec![7; size]).unwrap();
            let mut into = vec![1, 2];
            let read = source.read_small(&found.unwrap(), &mut into).unwrap();
            let stored = into.len() - 2;
            assert_eq!((stored == size, read.changed.is_none()), (whole, whole));
            let told = format!("only its first {stored} bytes are stored");
            assert!(whole || read.changed.unwrap().ends_with(&told));
        }
    }
}
