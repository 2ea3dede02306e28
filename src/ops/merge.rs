//! The walk merged with the manifest before: what is unchanged and may still be trusted is taken over unread, the rest goes
//! to the readers, in the order of the walk.

use std::fs::File;
use std::io::BufReader;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::Error;
use super::readers::{Budget, Job, LARGE_CHARGE, PIECES, Piece, SmallFiles};
use crate::model::{Digest, Entry, EntryKind, Moment, RelPath, Stamp, limits};
use crate::progress::Progress;
use crate::repository::{self, ManifestReader, Trust};
use crate::source::{Found, FoundEntry, Source};

/// One thing of the walk.
pub(super) enum Step {
    /// As the manifest before has it, with its line there.
    Keep(Box<Entry>, Vec<u8>),
    /// Without content of its own.
    Plain(Box<Entry>),
    /// A small file, the next of the batch's; with its digest before.
    Small(Box<Entry>, Option<Digest>),
    /// Left out, and why.
    Skipped(RelPath, String),
}

/// What the walk sends down the line, in path order. Threads that wake each other for every file spend more on that than
/// on small files, so things come in batches.
pub(super) enum Item {
    /// Things, the small files among them, and what the readers have charged.
    Batch(Vec<Step>, Option<Receiver<SmallFiles>>, u64),
    /// A large file.
    Large(Box<Entry>, Receiver<Piece>, Option<Digest>),
    /// The walk cannot go on.
    Broken(Error),
}

/// Things of a batch at most.
const BATCH_STEPS: usize = 256;
/// Small files of a batch at most: one thread reads them all.
const BATCH_FILES: usize = 48;

/// The host's own copy of the manifest before.
pub(super) type OldManifest = ManifestReader<zstd::stream::read::Decoder<'static, BufReader<File>>>;

/// The manifest before, read along with entries in path order.
pub(super) struct Along {
    old: Option<OldManifest>,
    head: Option<(Entry, Vec<u8>)>,
    /// A file whose inode changed after this may have changed again within one tick of its clock.
    safe_until: Option<Moment>,
}

/// What the walk is compared with.
pub(super) struct Merge {
    pub along: Along,
    /// That of another source with the same things in it, if there is one.
    pub beside: Option<Along>,
    pub trust: Trust,
}

impl Along {
    /// Read along with a walk from the beginning. `began` is when the snapshot did.
    pub fn new(old: Option<OldManifest>, began: Option<Moment>) -> Self {
        Self { old, head: None, safe_until: began.map(|began| began - chrono::TimeDelta::seconds(2)) }
    }

    /// The old entry of a path with its line, if there is one.
    pub fn advance(&mut self, path: &RelPath) -> Option<(Entry, Vec<u8>)> {
        loop {
            if self.head.is_none() {
                let old = self.old.as_mut()?;
                match old.next_entry() {
                    Ok(Some(entry)) => self.head = Some((entry, old.line().to_vec())),
                    Ok(None) => self.old = None,
                    Err(e) => {
                        // A damaged copy costs reading, not correctness.
                        tracing::warn!(%e, "the host's copy of the manifest before is damaged; files are read anew");
                        self.old = None;
                    }
                }
            }
            match self.head.as_ref()?.0.path.cmp(path) {
                std::cmp::Ordering::Less => self.head = None,
                std::cmp::Ordering::Equal => return self.head.take(),
                std::cmp::Ordering::Greater => return None,
            }
        }
    }
}

impl Merge {
    fn is_unchanged(
        &mut self,
        old: &Entry,
        found: &FoundEntry,
        safe_until: Option<Moment>,
    ) -> Result<bool, repository::Error> {
        let new = &found.entry;
        let Some(content) = old.content() else { return Ok(false) };
        let same = content.size == found.size
            && old.mtime == new.mtime
            && old.ctime == new.ctime
            && old.inode == new.inode
            && old.ctime.is_some();
        let settled = match (safe_until, old.ctime) {
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
    pub steps: Vec<Step>,
    pub small: Vec<FoundEntry>,
    pub charge: u64,
}

impl Planner<'_> {
    /// Takes what was found; false when nobody listens any more.
    pub fn found(&mut self, found: Found) -> bool {
        if self.progress.cancelled() {
            let _ = self.items.send(Item::Broken(repository::Error::Cancelled.into()));
            return false;
        }
        let found = match found {
            Found::Skipped { path, why } => return self.step(Step::Skipped(path, why)),
            Found::Entry(found) => *found,
        };
        let old = self.merge.along.advance(&found.entry.path);
        if found.entry.content().is_none() {
            return self.plain(found.entry, old.map(|(old, _)| old));
        }
        let beside = self.merge.beside.as_mut().and_then(|beside| {
            let old = beside.advance(&found.entry.path)?;
            Some((old, beside.safe_until))
        });
        let first = old.map(|old| (old, self.merge.along.safe_until));
        let mut old = None;
        for ((entry, line), safe_until) in [first, beside].into_iter().flatten() {
            match self.merge.is_unchanged(&entry, &found, safe_until) {
                // Owners' names and the rest are as they were; the old line is the new line.
                Ok(true) => return self.step(Step::Keep(Box::new(entry), line)),
                Ok(false) => old = old.or(Some(entry)),
                Err(e) => {
                    let _ = self.items.send(Item::Broken(e.into()));
                    return false;
                }
            }
        }
        let known = old.map(|old| old.content().map_or(Digest::new([0; 32]), |content| content.digest));
        self.read(found, known)
    }

    fn read(&mut self, mut found: FoundEntry, known: Option<Digest>) -> bool {
        let entry = Box::new(std::mem::replace(&mut found.entry, Entry::bare(RelPath::root(), EntryKind::Dir)));
        found.entry.path = entry.path.clone();
        found.entry.inode = entry.inode;
        found.entry.xattrs.clone_from(&entry.xattrs);
        if found.size <= limits::SMALL_FILE_MAX && !found.sparse {
            self.charge += found.size;
            self.small.push(found);
            return self.step(Step::Small(entry, known));
        }
        let (pieces_in, pieces) = bounded(PIECES);
        if let Err(e) = self.merge.trust.pause() {
            let _ = self.items.send(Item::Broken(e.into()));
            return false;
        }
        self.flush()
            && self.budget.spend(LARGE_CHARGE)
            && self.items.send(Item::Large(entry, pieces, known)).is_ok()
            && self.jobs.send(Job::Large { found: Box::new(found), pieces: pieces_in }).is_ok()
    }

    fn plain(&mut self, mut entry: Entry, old: Option<Entry>) -> bool {
        let same = old.filter(|old| old.ctime == entry.ctime && old.inode == entry.inode && old.kind == entry.kind);
        let has_own = !matches!(entry.kind, EntryKind::Hardlink { .. });
        entry.xattrs = match same {
            Some(old) => old.xattrs,
            None if has_own => self.source.xattrs(&entry),
            None => Default::default(),
        };
        self.step(Step::Plain(Box::new(entry)))
    }

    fn step(&mut self, step: Step) -> bool {
        self.steps.push(step);
        let full =
            self.steps.len() >= BATCH_STEPS || self.small.len() >= BATCH_FILES || self.charge >= limits::SMALL_FILE_MAX;
        if full { self.flush() } else { true }
    }

    /// Sends the open batch down the line; false when nobody listens any more.
    pub fn flush(&mut self) -> bool {
        if self.steps.is_empty() {
            return true;
        }
        let steps = std::mem::take(&mut self.steps);
        let (found, charge) = (std::mem::take(&mut self.small), std::mem::take(&mut self.charge));
        if found.is_empty() {
            return self.items.send(Item::Batch(steps, None, 0)).is_ok();
        }
        let (done_in, done) = bounded(1);
        self.budget.spend(charge)
            && self.items.send(Item::Batch(steps, Some(done), charge)).is_ok()
            && self.jobs.send(Job::Small { found, done: done_in }).is_ok()
    }
}
