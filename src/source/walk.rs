//! The walk over a tree: depth first, names sorted as bytes, so that entries come in path order.
//!
//! A cold file system answers several questions at a time, so a few scouts list directories and ask for what is in them
//! ahead of the walk, in the order in which it will come by. Invariants: the walk never waits for a scout that has not
//! begun, so it always goes on; what scouts have ready is bounded. What vanishes or cannot be read is named.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard};

use super::sqlite::main_of;
use super::volume::VolumeSource;
use super::{Found, FoundEntry};
use crate::model::{EntryKind, RelPath};

/// Threads that list ahead.
const SCOUTS: usize = 4;
/// Entries that scouts have ready at most, some 300 bytes each.
const READY_MAX: usize = 50_000;

/// What a directory holds, by name.
type Listing = std::io::Result<Vec<(OsString, std::io::Result<Metadata>)>>;

fn list(directory: &Path) -> Listing {
    let mut entries = fs::read_dir(directory)?.collect::<std::io::Result<Vec<_>>>()?;
    // In the order of inodes a cold disk is read forwards, and each block of them once.
    entries.sort_unstable_by_key(DirEntryExt::ino);
    let mut listing: Vec<_> = entries.into_iter().map(|entry| (entry.file_name(), entry.metadata())).collect();
    listing.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    Ok(listing)
}

enum Slot {
    Waiting,
    Running,
    Done(Listing),
}

#[derive(Default)]
struct Board {
    slots: HashMap<PathBuf, Slot>,
    /// Directories that wait, the next one last. Some of them the walk has listed itself meanwhile.
    stack: Vec<PathBuf>,
    ready: usize,
    /// The walk waits for a scout.
    waited_for: bool,
    over: bool,
}

/// Directories that are listed ahead of the walk.
#[derive(Default)]
struct Scouts {
    board: Mutex<Board>,
    /// There is something to list, or the end.
    work: Condvar,
    /// What the walk waits for is there.
    done: Condvar,
}

impl Scouts {
    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Directories that the walk will come by, in its order.
    fn announce(&self, directories: Vec<PathBuf>) {
        if directories.is_empty() {
            return;
        }
        let alone = directories.len() == 1;
        let mut board = self.board();
        for directory in directories.into_iter().rev() {
            board.slots.insert(directory.clone(), Slot::Waiting);
            board.stack.push(directory);
        }
        drop(board);
        if alone { self.work.notify_one() } else { self.work.notify_all() }
    }

    /// The listing of a directory: a scout's, or our own where none has begun.
    fn take(&self, directory: &Path) -> Listing {
        let mut board = self.board();
        loop {
            match board.slots.remove(directory) {
                Some(Slot::Done(listing)) => {
                    let was_full = board.ready >= READY_MAX;
                    board.ready -= listing.as_ref().map_or(0, Vec::len);
                    if was_full && board.ready < READY_MAX {
                        self.work.notify_all();
                    }
                    return listing;
                }
                Some(Slot::Running) => {
                    board.slots.insert(directory.to_owned(), Slot::Running);
                    board.waited_for = true;
                    board = self.done.wait(board).unwrap_or_else(std::sync::PoisonError::into_inner);
                    board.waited_for = false;
                }
                Some(Slot::Waiting) | None => {
                    drop(board);
                    return list(directory);
                }
            }
        }
    }

    fn work(&self) {
        let mut board = self.board();
        loop {
            if board.over {
                return;
            }
            let next = if board.ready < READY_MAX { board.stack.pop() } else { None };
            let Some(directory) = next else {
                board = self.work.wait(board).unwrap_or_else(std::sync::PoisonError::into_inner);
                continue;
            };
            match board.slots.get_mut(&directory) {
                Some(slot @ Slot::Waiting) => *slot = Slot::Running,
                _ => continue,
            }
            drop(board);
            let listing = list(&directory);
            board = self.board();
            board.ready += listing.as_ref().map_or(0, Vec::len);
            board.slots.insert(directory, Slot::Done(listing));
            if board.waited_for {
                self.done.notify_one();
            }
        }
    }

    fn end(&self) {
        self.board().over = true;
        self.work.notify_all();
    }
}

/// A directory that is open: what is left of it.
type Open = (RelPath, std::vec::IntoIter<(OsString, std::io::Result<Metadata>)>);

/// A walk under way. Directories that are open wait on a stack of our own: a tree may be deeper than a thread's.
struct Walk<'s, 'e> {
    source: &'s VolumeSource,
    scouts: &'s Scouts,
    each: &'e mut dyn FnMut(Found) -> bool,
    links: HashMap<(u64, u64), RelPath>,
    /// Files of open directories beside which lies a log or a journal that holds something.
    logged: HashSet<RelPath>,
    device: u64,
    open: Vec<Open>,
}

/// Walks a source, whose root has this metadata.
pub(super) fn walk(source: &VolumeSource, root: std::io::Result<Metadata>, each: &mut dyn FnMut(Found) -> bool) {
    let scouts = Scouts::default();
    let device = root.as_ref().map_or(0, MetadataExt::dev);
    std::thread::scope(|scope| {
        for _ in 0..SCOUTS {
            scope.spawn(|| scouts.work());
        }
        let walk = Walk {
            source,
            scouts: &scouts,
            each,
            links: HashMap::new(),
            logged: HashSet::new(),
            device,
            open: Vec::new(),
        };
        let _ended = EndOnDrop(&scouts);
        walk.run(root);
    });
}

/// The scouts end with the walk, however that ends.
struct EndOnDrop<'s>(&'s Scouts);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Walk<'_, '_> {
    fn run(mut self, root: std::io::Result<Metadata>) {
        let mut going = self.visit(RelPath::root(), root);
        while going {
            let Some((path, entries)) = self.open.last_mut() else { return };
            let Some((name, meta)) = entries.next() else {
                self.open.pop();
                continue;
            };
            // A name that the kernel gave cannot be unclean; were it so, it would be left out by name.
            going = match path.join(name.as_bytes()) {
                Ok(next) => self.visit(next, meta),
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

    fn excludes(&self, path: &RelPath, is_dir: bool) -> bool {
        !path.is_root() && self.source.matcher.excludes(Path::new(OsStr::from_bytes(path.as_bytes())), is_dir)
    }

    /// Answers false when the walk is to stop.
    fn visit(&mut self, path: RelPath, meta: std::io::Result<Metadata>) -> bool {
        let absolute = self.source.absolute(&path);
        if self.source.omit.as_ref() == Some(&absolute) {
            return true;
        }
        let meta = match meta {
            Ok(meta) => meta,
            Err(e) => return self.skip(path, e),
        };
        let is_dir = meta.is_dir();
        if self.excludes(&path, is_dir) || (meta.is_file() && self.source.matcher.too_large(meta.len())) {
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
        let mut entry = self.source.entry(path.clone(), &meta, kind);
        if !self.logged.is_empty() && self.logged.remove(&path) {
            entry.ctime = None;
        }
        if !(self.each)(Found::Entry(Box::new(FoundEntry::new(entry, size, sparse)))) {
            return false;
        }
        let elsewhere = self.source.matcher.one_file_system && meta.dev() != self.device;
        if is_dir && !elsewhere { self.descend(path, &absolute) } else { true }
    }

    fn descend(&mut self, path: RelPath, absolute: &Path) -> bool {
        let mut entries = match self.scouts.take(absolute) {
            Ok(entries) => entries,
            Err(e) => return self.skip(path, e),
        };
        let names = entries.iter().map(|(name, _)| name.as_os_str());
        if let Some(marker) = self.source.matcher.marker(absolute, names) {
            entries.retain(|(name, _)| name.to_str() == Some(&marker));
        }
        let directories = entries.iter().filter(|(name, meta)| {
            let is_dir = meta
                .as_ref()
                .is_ok_and(|meta| meta.is_dir() && !(self.source.matcher.one_file_system && meta.dev() != self.device));
            is_dir && path.join(name.as_bytes()).is_ok_and(|path| !self.excludes(&path, true))
        });
        let directories = directories.map(|(name, _)| absolute.join(name)).collect();
        if self.source.watches_logs {
            let holds =
                |meta: &std::io::Result<Metadata>| meta.as_ref().is_ok_and(|meta| meta.is_file() && meta.len() > 0);
            let mains = entries.iter().filter(|(_, meta)| holds(meta)).filter_map(|(name, _)| main_of(name.as_bytes()));
            self.logged.extend(mains.filter_map(|name| path.join(name).ok()));
        }
        self.scouts.announce(directories);
        self.open.push((path, entries.into_iter()));
        true
    }
}
