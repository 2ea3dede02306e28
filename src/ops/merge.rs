//! The walk merged with the manifest before: what is unchanged and may still be trusted is taken over unread, the rest goes
//! to the readers, in the order of the walk.

use std::fs::File;
use std::io::BufReader;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::Error;
use super::readers::{Budget, Job, LARGE_CHARGE, PIECES, Piece};
use crate::model::{Digest, Entry, EntryKind, Moment, RelPath, Stamp, limits};
use crate::progress::Progress;
use crate::repository::{self, ManifestReader, Trust};
use crate::source::{Found, FoundEntry, Source};

/// What the walk sends down the line, in path order.
pub(super) enum Item {
    Keep(Box<Entry>),
    Plain(Box<Entry>),
    File(Box<Entry>, Receiver<Piece>, u64, Option<Digest>),
    Skipped(RelPath, String),
    Broken(Error),
}

/// The host's own copy of the manifest before.
pub(super) type OldManifest = ManifestReader<zstd::stream::read::Decoder<'static, BufReader<File>>>;

/// The manifest before, read along with entries in path order.
pub(super) struct Along {
    pub old: Option<OldManifest>,
    pub head: Option<Entry>,
}

/// What the walk is compared with.
pub(super) struct Merge {
    pub along: Along,
    pub trust: Trust,
    /// A file whose inode changed after this may have changed again within one tick of its clock.
    pub safe_until: Option<Moment>,
}

impl Along {
    /// The old entry of a path, if there is one.
    pub fn advance(&mut self, path: &RelPath) -> Option<Entry> {
        loop {
            if self.head.is_none() {
                let next = self.old.as_mut()?.next_entry();
                match next {
                    Ok(Some(entry)) => self.head = Some(entry),
                    Ok(None) => self.old = None,
                    Err(e) => {
                        // A damaged copy costs reading, not correctness.
                        tracing::warn!(%e, "the host's copy of the manifest before is damaged; files are read anew");
                        self.old = None;
                    }
                }
            }
            match self.head.as_ref()?.path.cmp(path) {
                std::cmp::Ordering::Less => self.head = None,
                std::cmp::Ordering::Equal => return self.head.take(),
                std::cmp::Ordering::Greater => return None,
            }
        }
    }
}

impl Merge {
    fn is_unchanged(&mut self, old: &Entry, found: &FoundEntry) -> Result<bool, repository::Error> {
        let new = &found.entry;
        let Some(content) = old.content() else { return Ok(false) };
        let same = content.size == found.size
            && old.mtime == new.mtime
            && old.ctime == new.ctime
            && old.inode == new.inode
            && old.ctime.is_some();
        let settled = match (self.safe_until, old.ctime) {
            (Some(until), Some(Stamp(seconds, _))) => seconds < until.timestamp(),
            _ => false,
        };
        Ok(same && settled && self.trust.all(&content.extents)?)
    }
}

/// Decides for each thing that the walk finds: taken over, read, or written down as it is.
pub(super) struct Planner<'a> {
    pub merge: Merge,
    pub items: Sender<Item>,
    pub jobs: Sender<Job>,
    pub budget: &'a Budget,
    pub source: &'a dyn Source,
    pub progress: &'a dyn Progress,
}

impl Planner<'_> {
    /// Sends what was found down the line; false when nobody listens any more.
    pub fn found(&mut self, found: Found) -> bool {
        if self.progress.cancelled() {
            let _ = self.items.send(Item::Broken(repository::Error::Cancelled.into()));
            return false;
        }
        let mut found = match found {
            Found::Skipped { path, why } => return self.items.send(Item::Skipped(path, why)).is_ok(),
            Found::Entry(found) => *found,
        };
        let old = self.merge.along.advance(&found.entry.path);
        if found.entry.content().is_none() {
            return self.plain(found.entry, old);
        }
        if let Some(old) = &old {
            match self.merge.is_unchanged(old, &found) {
                Ok(true) => {
                    // Owners' names and the rest are as they were; the old line is the new line.
                    return self.items.send(Item::Keep(Box::new(old.clone()))).is_ok();
                }
                Ok(false) => {}
                Err(e) => {
                    let _ = self.items.send(Item::Broken(e.into()));
                    return false;
                }
            }
        }
        let charge = if found.size <= limits::SMALL_FILE_MAX { found.size } else { LARGE_CHARGE };
        if !self.budget.spend(charge) {
            return false;
        }
        let (pieces_in, pieces) = bounded(PIECES);
        let entry = Box::new(std::mem::replace(&mut found.entry, Entry::bare(RelPath::root(), EntryKind::Dir)));
        found.entry.path = entry.path.clone();
        found.entry.inode = entry.inode;
        found.entry.xattrs.clone_from(&entry.xattrs);
        let known = old.map(|old| old.content().map_or(Digest::new([0; 32]), |content| content.digest));
        self.items.send(Item::File(entry, pieces, charge, known)).is_ok()
            && self.jobs.send(Job { found, pieces: pieces_in }).is_ok()
    }

    fn plain(&mut self, mut entry: Entry, old: Option<Entry>) -> bool {
        let same = old.filter(|old| old.ctime == entry.ctime && old.inode == entry.inode && old.kind == entry.kind);
        let has_own = !matches!(entry.kind, EntryKind::Hardlink { .. });
        entry.xattrs = match same {
            Some(old) => old.xattrs,
            None if has_own => self.source.xattrs(&entry),
            None => Default::default(),
        };
        self.items.send(Item::Plain(Box::new(entry))).is_ok()
    }
}
