//! Writing one window of entries after another: directories first, then files as their frames come, then links and nodes;
//! directories' metadata at the very end, deepest first.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::{Locator, Overwrite, Prepared, RestoreReport, each_selected};
use crate::catalog::FrameRow;
use crate::destination::{Directory, Writeback};
use crate::model::{Entry, EntryKind, FileContent, RelPath, limits};
use crate::ops::Error;
use crate::ops::restore::{LandingState, delta};
use crate::progress::{Event, Progress};
use crate::repository::{self, Repository, Sink, plan_fetches};

/// Files that stay open between two of their pieces at most.
const OPEN_FILES: usize = 256;

/// A run of a frame's bytes, and where in which file they go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    pub file: u32,
    pub file_offset: u64,
    pub frame_offset: u32,
    pub length: u32,
}

/// A file of the window that is being written.
struct Task {
    entry: Entry,
    left: AtomicU64,
    handle: Mutex<Handle>,
    hurt: AtomicBool,
    in_place: bool,
}

enum Handle {
    New,
    Open(Arc<File>),
    Closed,
}

/// What a window still has to write.
#[derive(Default)]
struct Window {
    tasks: Vec<Task>,
    targets: HashMap<i64, (FrameRow, Vec<Target>)>,
    nodes: Vec<Entry>,
    bytes: u64,
    entries: usize,
    extents: usize,
}

/// Files that a restore did not put whole: path and why; and files of the user's that it left as they were.
#[derive(Default)]
pub(super) struct Leftovers {
    pub hurt: Vec<(String, String)>,
    pub kept: HashSet<RelPath>,
}

pub(super) fn run(
    repository: &mut Repository,
    prepared: &Prepared,
    directory: &Directory,
    report: &mut RestoreReport,
    progress: &dyn Progress,
) -> Result<Leftovers, Error> {
    let (leftovers, writeback) = (Leftovers::default(), directory.write_back());
    let mut state = State { directory, prepared, report, progress, writeback: &writeback, dirs: Vec::new(), leftovers };
    if needs_chunks(prepared) {
        delta::load_chunks(repository, prepared, progress)?;
    }
    let repository = &*repository;
    let mut locator = Locator::new(repository, &prepared.snapshot);
    let mut window = Window::default();
    repository.catalog().at_one_moment(|| match &prepared.entries {
        Some(entries) => entries.iter().try_for_each(|entry| {
            state.add(repository, &mut locator, &mut window, entry.clone())?;
            state.flush_if_full(repository, &mut window)
        }),
        None => {
            let selection = &prepared.options.selection;
            each_selected(repository, &prepared.snapshot, selection, progress, &mut |entry| {
                state.add(repository, &mut locator, &mut window, entry)?;
                state.flush_if_full(repository, &mut window)
            })
        }
    })?;
    state.flush(repository, &mut window)?;
    let leftovers = state.finish()?;
    directory.synced(writeback.finish())?;
    Ok(leftovers)
}

fn needs_chunks(prepared: &Prepared) -> bool {
    prepared.options.overwrite == Overwrite::Delta || prepared.plan.state == LandingState::Interrupted
}

/// Sets directories' times again, where something was removed from them after they were finished.
pub(super) fn finish_dirs(
    repository: &Repository,
    prepared: &Prepared,
    directory: &Directory,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let touched: HashSet<RelPath> = prepared.doomed.iter().filter_map(RelPath::parent).collect();
    if touched.is_empty() {
        return Ok(());
    }
    let selection = &prepared.options.selection;
    each_selected(repository, &prepared.snapshot, selection, progress, &mut |entry| {
        if entry.is_dir() && touched.contains(&entry.path) { Ok(directory.finish_dir(&entry)?) } else { Ok(()) }
    })
}

/// The root's own entry, where it is restored: its metadata is set when everything else is done.
pub(super) fn root_entry(
    repository: &Repository,
    prepared: &Prepared,
    progress: &dyn Progress,
) -> Result<Option<Entry>, Error> {
    let mut manifest = repository.manifest(&prepared.snapshot, progress)?;
    let wanted = prepared.options.selection.wants(&crate::model::RelPath::root(), true);
    match manifest.next_stored()? {
        Some(root) if root.path.is_root() && root.is_dir() && wanted => Ok(Some(root)),
        _ => Ok(None),
    }
}

struct State<'a> {
    directory: &'a Directory,
    prepared: &'a Prepared,
    report: &'a mut RestoreReport,
    progress: &'a dyn Progress,
    writeback: &'a Writeback,
    dirs: Vec<Entry>,
    leftovers: Leftovers,
}

/// What is done with a file.
enum Deed {
    Keep {
        /// Whether size and time are the snapshot's: it counts as what the snapshot has.
        same: bool,
    },
    Write,
    Mend,
}

impl State<'_> {
    fn add(
        &mut self,
        repository: &Repository,
        locator: &mut Locator<'_>,
        window: &mut Window,
        entry: Entry,
    ) -> Result<(), Error> {
        window.entries += 1;
        window.extents += entry.content().map_or(0, |content| content.extents.len());
        match &entry.kind {
            EntryKind::Dir => {
                self.directory.make_dir(&entry.path)?;
                self.dirs.push(entry);
            }
            EntryKind::File(content) => {
                let content = content.clone();
                match self.deed(&entry, &content)? {
                    Deed::Keep { same } => {
                        if self.prepared.plan.state == LandingState::Interrupted {
                            self.directory.discard(&entry.path)?;
                        }
                        if !same {
                            self.leftovers.kept.insert(entry.path.clone());
                        }
                        self.report.files_kept += 1;
                        self.report.bytes_kept += content.size;
                        self.progress.event(Event::Done { items: 1, bytes: content.size });
                    }
                    Deed::Write => self.add_file(locator, window, entry, &content)?,
                    Deed::Mend => self.mend(repository, locator, window, entry, &content)?,
                }
            }
            _ => window.nodes.push(entry),
        }
        Ok(())
    }

    fn deed(&self, entry: &Entry, content: &FileContent) -> Result<Deed, Error> {
        if self.prepared.plan.state == LandingState::Empty {
            return Ok(Deed::Write);
        }
        let Some(there) = self.directory.existing(&entry.path)? else { return Ok(Deed::Write) };
        let same = there.is_file && there.size == content.size && there.mtime == entry.mtime;
        Ok(match self.prepared.options.overwrite {
            Overwrite::Never => Deed::Keep { same },
            Overwrite::IfChanged if same => Deed::Keep { same },
            Overwrite::IfNewer if there.mtime >= entry.mtime => Deed::Keep { same },
            // A file with other names is written anew, so that those keep their content.
            Overwrite::Delta if there.is_file && there.links == 1 => Deed::Mend,
            // What carries a final name was written whole by the run before; a power cut may have taken some of it.
            Overwrite::Refuse if there.is_file && there.links == 1 => Deed::Mend,
            _ => Deed::Write,
        })
    }

    fn add_file(
        &mut self,
        locator: &mut Locator<'_>,
        window: &mut Window,
        entry: Entry,
        content: &FileContent,
    ) -> Result<(), Error> {
        let file = window.tasks.len() as u32;
        let (mut at, mut left, mut lost) = (0, 0, None);
        for extent in &content.extents {
            match locator.find_known(extent)? {
                Ok(Some(row)) => {
                    let (frame_offset, length) = (extent.offset as u32, extent.length as u32);
                    let target = Target { file, file_offset: at, frame_offset, length };
                    window.targets.entry(row.row).or_insert_with(|| (row, Vec::new())).1.push(target);
                    left += extent.length;
                }
                Ok(None) => {}
                Err(why) => lost = Some(why),
            }
            at += extent.length;
        }
        self.add_task(window, entry, left, lost, false)
    }

    fn add_task(
        &mut self,
        window: &mut Window,
        entry: Entry,
        left: u64,
        lost: Option<String>,
        in_place: bool,
    ) -> Result<(), Error> {
        window.bytes += left;
        let task = Task {
            entry,
            left: AtomicU64::new(left),
            handle: Mutex::new(Handle::New),
            hurt: AtomicBool::new(lost.is_some()),
            in_place,
        };
        if let Some(why) = lost {
            self.progress.event(Event::Skipped { what: &task.entry.path.to_string(), why: &why });
            self.leftovers.hurt.push((task.entry.path.to_string(), why));
        }
        if left == 0 {
            // Empty, or nothing but holes, or right already; or nothing of it is known.
            match task.hurt.load(Ordering::Relaxed) {
                true => self.directory.mark_incomplete(&task.entry.path, in_place)?,
                false => finish_file(self.directory, &task)?,
            }
            self.progress.event(Event::Done { items: 1, bytes: task.entry.size() });
        }
        window.tasks.push(task);
        self.report.files_written += 1;
        self.report.bytes_written += left;
        Ok(())
    }

    /// A file that is there: only its wrong blocks are written.
    fn mend(
        &mut self,
        repository: &Repository,
        locator: &mut Locator<'_>,
        window: &mut Window,
        entry: Entry,
        content: &FileContent,
    ) -> Result<(), Error> {
        let file = Arc::new(self.directory.open_file(&entry.path)?);
        let number = window.tasks.len() as u32;
        let (wrong, lost) = delta::compare(repository, locator, &file, content, number)?;
        let left: u64 = wrong.iter().map(|(_, target)| u64::from(target.length)).sum();
        self.report.bytes_kept += content.size - left.min(content.size);
        for (row, target) in wrong {
            window.targets.entry(row.row).or_insert_with(|| (row, Vec::new())).1.push(target);
        }
        // Closed meanwhile: there may be more of them than descriptors.
        drop(file);
        self.directory.discard(&entry.path)?;
        self.add_task(window, entry, left, lost, true)
    }

    fn flush_if_full(&mut self, repository: &Repository, window: &mut Window) -> Result<(), Error> {
        let full = window.entries >= limits::RESTORE_WINDOW_ENTRIES
            || window.extents >= limits::RESTORE_WINDOW_EXTENTS
            || window.bytes >= limits::RESTORE_WINDOW_BYTES;
        if full { self.flush(repository, window) } else { Ok(()) }
    }

    fn flush(&mut self, repository: &Repository, window: &mut Window) -> Result<(), Error> {
        let window = std::mem::take(window);
        let frames = window.targets.values().map(|(row, _)| *row).collect();
        let sink = FileSink {
            directory: self.directory,
            tasks: &window.tasks,
            targets: &window.targets,
            open: AtomicUsize::new(0),
            hurt: Mutex::default(),
            progress: self.progress,
            writeback: self.writeback,
            failed: Mutex::default(),
        };
        let read = repository.frame_reader("a restore")?.read(&plan_fetches(frames), &sink, self.progress);
        if let Some(error) = sink.failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take() {
            return Err(error);
        }
        read?;
        self.leftovers.hurt.extend(sink.hurt.into_inner().unwrap_or_default());
        for entry in &window.nodes {
            self.place_node(entry)?;
        }
        Ok(())
    }

    fn place_node(&mut self, entry: &Entry) -> Result<(), Error> {
        let keeps = matches!(self.prepared.options.overwrite, Overwrite::Never);
        if keeps && self.directory.existing(&entry.path)?.is_some() {
            return Ok(());
        }
        if let EntryKind::Hardlink { target } = &entry.kind {
            if self.leftovers.kept.contains(target) {
                // A link to a file that this restore left as it was would be another file than the snapshot's.
                let why = format!("it is a link to `{target}`, which was kept as it was");
                self.leftovers.hurt.push((entry.path.to_string(), why));
                return Ok(());
            }
            // The file with the content may be hurt or left out by the selection: said, not fatal.
            if self.directory.existing(target)?.is_none() {
                self.leftovers
                    .hurt
                    .push((entry.path.to_string(), format!("the file that it links to, `{target}`, is not there")));
                return Ok(());
            }
        }
        Ok(self.directory.place(entry)?)
    }

    fn finish(self) -> Result<Leftovers, Error> {
        for entry in self.dirs.iter().rev().filter(|entry| !entry.path.is_root()) {
            self.directory.finish_dir(entry)?;
        }
        Ok(self.leftovers)
    }
}

/// Sets a file's length and metadata, once its last piece is written.
fn finish_file(directory: &Directory, task: &Task) -> Result<(), Error> {
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

struct FileSink<'w> {
    directory: &'w Directory,
    tasks: &'w [Task],
    targets: &'w HashMap<i64, (FrameRow, Vec<Target>)>,
    open: AtomicUsize,
    hurt: Mutex<Vec<(String, String)>>,
    progress: &'w dyn Progress,
    writeback: &'w Writeback,
    failed: Mutex<Option<Error>>,
}

impl Sink for FileSink<'_> {
    fn frame(&self, row: &FrameRow, plain: Result<&[u8], repository::Error>) -> Result<(), repository::Error> {
        let Some((_, targets)) = self.targets.get(&row.row) else { return Ok(()) };
        let plain = match plain {
            Ok(plain) => plain,
            Err(e @ repository::Error::Frame { .. }) => {
                self.mark_hurt(targets, &e.to_string());
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        for target in targets {
            if let Err(e) = self.write(target, plain) {
                let mut failed = self.failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                failed.get_or_insert(e);
                return Err(repository::Error::Pipeline);
            }
        }
        Ok(())
    }
}

impl FileSink<'_> {
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

    fn write(&self, target: &Target, plain: &[u8]) -> Result<(), Error> {
        let task = self.tasks.get(target.file as usize).ok_or(repository::Error::Pipeline)?;
        let start = target.frame_offset as usize;
        let bytes = plain.get(start..start + target.length as usize).ok_or(repository::Error::Pipeline)?;
        let file = {
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
            file
        };
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
        if task.hurt.load(Ordering::Relaxed) {
            return Ok(self.directory.mark_incomplete(&task.entry.path, task.in_place)?);
        }
        finish_file(self.directory, task)
    }
}
