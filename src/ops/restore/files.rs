//! The files of a window while they are being written: pieces come in any order and from several threads, and the last one
//! finishes its file.
//!
//! Invariants: a file gets its name, or its times where it is mended, after its last piece; a frame that does not open
//! hurts only the files that need a piece of it. Not here: which pieces are wrong, and which files are written at all.

use std::collections::HashMap;
use std::fs::File;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rustix::fs::{Advice, fadvise};

use super::delta::{Chunks, Comparison};
use crate::catalog::{Catalog, FrameRow};
use crate::destination::{Directory, Writeback};
use crate::model::Entry;
use crate::ops::Error;
use crate::progress::{Event, Progress};
use crate::repository::{self, Fetch, Sink};

/// Files that stay open between two of their pieces at most.
const OPEN_FILES: usize = 256;

/// A run of a frame's bytes, and where in which file they go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target {
    pub file: u32,
    pub file_offset: u64,
    pub frame_offset: u32,
    pub length: u32,
}

/// By a frame's row: where it lies, and what is needed of it.
pub(super) type Targets = HashMap<i64, (FrameRow, Vec<Target>)>;

/// A file of the window that is being written.
pub(super) struct Task {
    pub entry: Entry,
    /// Whether it is there already, and only what is wrong of it is written.
    pub in_place: bool,
    left: AtomicU64,
    handle: Mutex<Handle>,
    hurt: AtomicBool,
}

impl Task {
    /// A file of which so many bytes are still to be written or found right.
    pub fn new(entry: Entry, left: u64, hurt: bool, in_place: bool) -> Self {
        let (left, hurt) = (AtomicU64::new(left), AtomicBool::new(hurt));
        Self { entry, in_place, left, handle: Mutex::new(Handle::New), hurt }
    }

    /// Whether some of it cannot be restored.
    pub fn is_hurt(&self) -> bool {
        self.hurt.load(Ordering::Relaxed)
    }
}

enum Handle {
    New,
    Open(Arc<File>),
    Closed,
}

/// Sets a file's length and metadata, once its last piece is written.
pub(super) fn finish_file(directory: &Directory, task: &Task) -> Result<(), Error> {
    let mut handle = task.handle.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let file = open_handle(directory, task, &mut handle)?;
    directory.finish_file(&file, &task.entry)?;
    *handle = Handle::Closed;
    if task.in_place { Ok(()) } else { Ok(directory.publish(&task.entry.path)?) }
}

fn open_handle(directory: &Directory, task: &Task, handle: &mut Handle) -> Result<Arc<File>, Error> {
    Ok(match handle {
        Handle::Open(file) => Arc::clone(file),
        Handle::New | Handle::Closed if task.in_place => Arc::new(directory.open_file(&task.entry.path)?),
        Handle::New => Arc::new(directory.create_file(&task.entry.path)?),
        Handle::Closed => Arc::new(directory.reopen_file(&task.entry.path)?),
    })
}

/// Takes the frames of a window: compares what is there with them before they are fetched, and writes the rest.
pub(super) struct FileSink<'w> {
    directory: &'w Directory,
    tasks: &'w [Task],
    targets: &'w Targets,
    comparison: Option<Comparison>,
    open: AtomicUsize,
    hurt: Mutex<Vec<(String, String)>>,
    progress: &'w dyn Progress,
    writeback: &'w Writeback,
    failed: Mutex<Option<Error>>,
}

/// How a window ended.
pub(super) struct Outcome {
    /// Files that are not whole: path and why.
    pub hurt: Vec<(String, String)>,
    /// Bytes that were right already.
    pub right: u64,
}

impl Sink for FileSink<'_> {
    fn narrow(&self, frames: &mut Vec<FrameRow>, buffer: &mut Vec<u8>) -> Result<(), repository::Error> {
        let Some(comparison) = &self.comparison else { return Ok(()) };
        let mut wanted = Vec::with_capacity(frames.len());
        frames.iter().try_for_each(|frame| self.read_ahead(frame)).map_err(|e| self.fail(e))?;
        for frame in frames.drain(..) {
            let Some(chunks) = comparison.take_chunks(frame.row) else {
                wanted.push(frame);
                continue;
            };
            let wrong = self.compare(comparison, &frame, &chunks, buffer).map_err(|e| self.fail(e))?;
            if !wrong.is_empty() {
                comparison.found_wrong(frame.row, wrong);
                wanted.push(frame);
            }
        }
        *frames = wanted;
        Ok(())
    }

    fn frame(&self, row: &FrameRow, plain: Result<&[u8], repository::Error>) -> Result<(), repository::Error> {
        let wrong = self.comparison.as_ref().and_then(|comparison| comparison.take_wrong(row.row));
        let targets = wrong.as_deref().unwrap_or_else(|| self.targets_of(row));
        let plain = match plain {
            Ok(plain) => plain,
            Err(e @ repository::Error::Frame { .. }) => {
                self.mark_hurt(targets, &e.to_string());
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        targets.iter().try_for_each(|target| self.write(target, plain)).map_err(|e| self.fail(e))
    }
}

impl<'w> FileSink<'w> {
    /// For the files and frames of a window; with a comparison where some of the files are mended.
    pub fn new(
        directory: &'w Directory,
        tasks: &'w [Task],
        targets: &'w Targets,
        comparison: Option<Comparison>,
        writeback: &'w Writeback,
        progress: &'w dyn Progress,
    ) -> Self {
        let (open, hurt, failed) = (AtomicUsize::new(0), Mutex::default(), Mutex::default());
        Self { directory, tasks, targets, comparison, open, hurt, progress, writeback, failed }
    }

    /// Loads the chunk ids of the frames of a request of which files that are mended need something.
    pub fn expect(&self, fetch: &Fetch, catalog: &Catalog) -> Result<(), repository::Error> {
        let Some(comparison) = &self.comparison else { return Ok(()) };
        for frame in &fetch.frames {
            if self.targets_of(frame).iter().any(|target| self.task(target).is_ok_and(|task| task.in_place)) {
                comparison.expect(frame.row, catalog.chunks_of(frame.row)?);
            }
        }
        Ok(())
    }

    /// What became of the window; where writing failed, why it did.
    pub fn outcome(self, read: Result<(), repository::Error>) -> Result<Outcome, Error> {
        if let Some(error) = self.failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
            return Err(error);
        }
        read?;
        let right = self.comparison.map_or(0, |comparison| comparison.right());
        Ok(Outcome { hurt: self.hurt.into_inner().unwrap_or_default(), right })
    }

    /// Keeps the error of this floor; the floor below is told to stop.
    fn fail(&self, error: Error) -> repository::Error {
        self.failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert(error);
        repository::Error::Pipeline
    }

    /// Has the system read what will be compared while the first of it is being digested.
    fn read_ahead(&self, frame: &FrameRow) -> Result<(), Error> {
        for target in self.targets_of(frame) {
            let task = self.task(target)?;
            if let (true, Some(length)) = (task.in_place, NonZeroU64::new(target.length.into())) {
                // A wish: a file system that does not grant it is read all the same.
                let _ = fadvise(&*self.handle_of(task)?, target.file_offset, Some(length), Advice::WillNeed);
            }
        }
        Ok(())
    }

    /// What has to be written of a frame; what is right already is done.
    fn compare(
        &self,
        comparison: &Comparison,
        frame: &FrameRow,
        chunks: &Chunks,
        buffer: &mut Vec<u8>,
    ) -> Result<Vec<Target>, Error> {
        let mut left = Vec::new();
        for target in self.targets_of(frame) {
            let task = self.task(target)?;
            if !task.in_place {
                left.push(*target);
                continue;
            }
            let wrong = comparison.wrong(&*self.handle_of(task)?, chunks, target, buffer);
            let right = u64::from(target.length) - wrong.iter().map(|run| u64::from(run.length)).sum::<u64>();
            left.extend(wrong);
            if right > 0 {
                comparison.found_right(right);
                self.progress.event(Event::Done { items: 0, bytes: right });
                self.done(task, right)?;
            }
        }
        Ok(left)
    }

    fn targets_of(&self, frame: &FrameRow) -> &'w [Target] {
        self.targets.get(&frame.row).map_or(&[], |(_, targets)| targets)
    }

    fn task(&self, target: &Target) -> Result<&'w Task, Error> {
        Ok(self.tasks.get(target.file as usize).ok_or(repository::Error::Pipeline)?)
    }

    fn mark_hurt(&self, targets: &[Target], why: &str) {
        for target in targets {
            let Some(task) = self.tasks.get(target.file as usize) else { continue };
            if !task.hurt.swap(true, Ordering::Relaxed) {
                let mut hurt = self.hurt.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                self.progress.event(Event::Skipped { what: &task.entry.path.to_string(), why });
                hurt.push((task.entry.path.to_string(), why.to_owned()));
            }
            let _ = self.done(task, u64::from(target.length));
        }
    }

    /// A file's descriptor, which stays open where few others are.
    fn handle_of(&self, task: &Task) -> Result<Arc<File>, Error> {
        let mut handle = task.handle.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let file = open_handle(self.directory, task, &mut handle)?;
        if !matches!(*handle, Handle::Open(_)) {
            let few = self.open.load(Ordering::Relaxed) < OPEN_FILES;
            *handle = if few {
                self.open.fetch_add(1, Ordering::Relaxed);
                Handle::Open(Arc::clone(&file))
            } else {
                Handle::Closed
            };
        }
        Ok(file)
    }

    fn write(&self, target: &Target, plain: &[u8]) -> Result<(), Error> {
        let task = self.task(target)?;
        let start = target.frame_offset as usize;
        let bytes = plain.get(start..start + target.length as usize).ok_or(repository::Error::Pipeline)?;
        let file = self.handle_of(task)?;
        file.write_all_at(bytes, target.file_offset).map_err(|source| Error::Io {
            doing: "write",
            path: self.directory.path().join(task.entry.path.to_string()),
            source,
        })?;
        drop(file);
        self.writeback.wrote(bytes.len() as u64);
        self.progress.event(Event::Done { items: 0, bytes: u64::from(target.length) });
        self.done(task, u64::from(target.length))
    }

    fn done(&self, task: &Task, bytes: u64) -> Result<(), Error> {
        if task.left.fetch_sub(bytes, Ordering::AcqRel) != bytes {
            return Ok(());
        }
        let was_open =
            matches!(*task.handle.lock().unwrap_or_else(std::sync::PoisonError::into_inner), Handle::Open(_));
        if was_open {
            self.open.fetch_sub(1, Ordering::Relaxed);
        }
        self.progress.event(Event::Done { items: 1, bytes: 0 });
        if task.is_hurt() {
            return Ok(self.directory.mark_incomplete(&task.entry.path, task.in_place)?);
        }
        finish_file(self.directory, task)
    }
}
