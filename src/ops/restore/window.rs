//! Writing one window of entries after another: directories first, then files as their frames come, then links and nodes;
//! directories' metadata at the very end, deepest first.

use std::collections::HashSet;

use super::delta::{self, Comparison};
use super::files::{FileSink, Target, Targets, Task, finish_file};
use super::{LandingState, Locator, Overwrite, Prepared, RestoreReport, each_selected};
use crate::destination::{Directory, Writeback};
use crate::model::{Entry, EntryKind, FileContent, RelPath, limits};
use crate::ops::Error;
use crate::progress::{Event, Progress};
use crate::repository::{Repository, plan_fetches, split_fetches};

/// Plain bytes of one unit of work where files are mended: a thread compares them, and then fetches what is wrong.
const MEND_UNIT: u64 = 16 << 20;

/// What a window still has to write.
#[derive(Default)]
struct Window {
    tasks: Vec<Task>,
    targets: Targets,
    nodes: Vec<Entry>,
    bytes: u64,
    entries: usize,
    extents: usize,
    /// Whether files of it are there already, and compared first.
    mends: bool,
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
    repository.catalog().at_one_moment(|| {
        let mut each = |entry: Entry| {
            state.add(&mut locator, &mut window, entry)?;
            state.flush_if_full(repository, &mut window)
        };
        match &prepared.entries {
            Some(entries) => entries.iter().cloned().try_for_each(&mut each)?,
            None => {
                let selection = &prepared.options.selection;
                each_selected(repository, &prepared.snapshot, selection, progress, &mut each)?;
            }
        }
        state.flush(repository, &mut window)
    })?;
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
    fn add(&mut self, locator: &mut Locator<'_>, window: &mut Window, entry: Entry) -> Result<(), Error> {
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
                    Deed::Write => self.add_file(locator, window, entry, &content, false)?,
                    Deed::Mend => self.add_file(locator, window, entry, &content, true)?,
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

    /// A file that is written, or with `in_place` one that is there: of that only what is wrong will be written.
    fn add_file(
        &mut self,
        locator: &mut Locator<'_>,
        window: &mut Window,
        entry: Entry,
        content: &FileContent,
        in_place: bool,
    ) -> Result<(), Error> {
        let file = window.tasks.len() as u32;
        let (mut at, mut left, mut lost, mut holes) = (0, 0, None, Vec::new());
        for extent in &content.extents {
            match locator.find_known(extent)? {
                Ok(Some(row)) => {
                    let (frame_offset, length) = (extent.offset as u32, extent.length as u32);
                    let target = Target { file, file_offset: at, frame_offset, length };
                    window.targets.entry(row.row).or_insert_with(|| (row, Vec::new())).1.push(target);
                    left += extent.length;
                }
                Ok(None) if in_place => holes.push((at, extent.length)),
                Ok(None) => {}
                Err(why) => lost = Some(why),
            }
            at += extent.length;
        }
        if in_place {
            self.prepare_mending(&entry.path, &holes)?;
            self.report.bytes_kept += content.size - left.min(content.size);
            window.mends = true;
        }
        self.add_task(window, Task::new(entry, left, lost.is_some(), in_place), left, lost)
    }

    fn prepare_mending(&self, path: &RelPath, holes: &[(u64, u64)]) -> Result<(), Error> {
        if !holes.is_empty() {
            let file = self.directory.open_file(path)?;
            holes.iter().try_for_each(|(at, length)| delta::clear(&file, *at, *length))?;
        }
        Ok(self.directory.discard(path)?)
    }

    fn add_task(&mut self, window: &mut Window, task: Task, left: u64, lost: Option<String>) -> Result<(), Error> {
        window.bytes += left;
        if let Some(why) = lost {
            self.progress.event(Event::Skipped { what: &task.entry.path.to_string(), why: &why });
            self.leftovers.hurt.push((task.entry.path.to_string(), why));
        }
        if left == 0 {
            // Empty, or nothing but holes; or nothing of it is known.
            match task.is_hurt() {
                true => self.directory.mark_incomplete(&task.entry.path, task.in_place)?,
                false => finish_file(self.directory, &task)?,
            }
            self.progress.event(Event::Done { items: 1, bytes: task.entry.size() });
        }
        window.tasks.push(task);
        self.report.files_written += 1;
        self.report.bytes_written += left;
        Ok(())
    }

    fn flush_if_full(&mut self, repository: &Repository, window: &mut Window) -> Result<(), Error> {
        let full = window.entries >= limits::RESTORE_WINDOW_ENTRIES
            || window.extents >= limits::RESTORE_WINDOW_EXTENTS
            || window.bytes >= limits::RESTORE_WINDOW_BYTES;
        if full { self.flush(repository, window) } else { Ok(()) }
    }

    fn flush(&mut self, repository: &Repository, window: &mut Window) -> Result<(), Error> {
        let window = std::mem::take(window);
        let mut fetches = plan_fetches(window.targets.values().map(|(row, _)| *row).collect());
        let comparison = window.mends.then(|| Comparison::new(repository.content_key().clone()));
        if window.mends {
            fetches = split_fetches(fetches, MEND_UNIT);
        }
        let sink =
            FileSink::new(self.directory, &window.tasks, &window.targets, comparison, self.writeback, self.progress);
        let reader = repository.frame_reader("a restore")?;
        let read =
            reader.read_with(&fetches, &mut |fetch| sink.expect(fetch, repository.catalog()), &sink, self.progress);
        let outcome = sink.outcome(read)?;
        self.leftovers.hurt.extend(outcome.hurt);
        self.report.bytes_written -= outcome.right;
        self.report.bytes_kept += outcome.right;
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
