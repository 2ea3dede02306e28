//! One restore: facts, a plan that can be shown, and then the plan carried out.
//!
//! The manifest is read once for the plan; where it has more entries than a window holds, it is read again window by
//! window. Packs' ranges are fetched in the order of the log, each once a window; frames are opened in parallel and
//! written at their places, in any order. A mark in the destination says that a restore has begun; it goes last, so that
//! half a restore is never taken for a whole one, and an interrupted one continues.

mod blobs;
mod bucket;
pub mod convex;
mod databases;
mod delta;
mod entries;
mod files;
mod lay;
mod mark;
mod onto;
pub mod server;
mod tar;
mod verify;
mod window;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde::Serialize;

pub use self::blobs::find_blobs;
pub use self::bucket::{BucketReport, look_at_bucket, restore_bucket};
pub use self::databases::{BlobReport, CHECKED_ANYWAY, DatabaseReport, check_databases};
use self::entries::Kept;
pub(super) use self::entries::each_selected;
pub use self::lay::{Laying, base_of, prepare_cluster};
use self::mark::MARK_START;
pub use self::mark::mark_of;
pub use self::onto::{Onto, OntoError, look_onto, make_unstartable};
pub use self::tar::restore_tar;
pub use self::verify::verify;
use super::Error;
use super::select::Selection;
use crate::catalog::{FrameRow, SnapshotRow, WriterRow};
use crate::destination::{self, Directory, Rights};
use crate::model::{Entry, Extent, FrameId, Moment, RelPath, SnapshotId};
use crate::plan::restore::{Candidate, Choice, NoPlan, Wanted, choose, of_source};
use crate::progress::{Event, Progress};
use crate::repository::{self, Repository, plan_fetches};

/// What happens to a file that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overwrite {
    /// A destination that is not empty is refused.
    Refuse,
    /// It is replaced.
    Always,
    /// It is replaced unless size and time are the same.
    IfChanged,
    /// It is replaced if the snapshot's is newer.
    IfNewer,
    /// It stays.
    Never,
    /// Its blocks that are right stay, the others are written.
    Delta,
}

/// How a restore is done.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// Which entries.
    pub selection: Selection,
    /// What happens to files that are there.
    pub overwrite: Overwrite,
    /// Removes what the snapshot lacks.
    pub delete: bool,
    /// Reads everything again afterwards and compares digests.
    pub verify: bool,
}

/// What a restore will do. A value: shown, compared, tested.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RestorePlan {
    /// `writer/source`.
    pub source: String,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The time that was asked for.
    pub asked: Option<Moment>,
    /// The time that the snapshot shows.
    pub shows: Moment,
    /// Whether the snapshot is complete.
    pub complete: bool,
    /// Entries that are placed.
    pub entries: u64,
    /// Regular files among them.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of them that are holes.
    pub hole_bytes: u64,
    /// Frames that are fetched.
    pub frames: u64,
    /// Packs that they lie in.
    pub packs: u64,
    /// Sealed bytes that are fetched, files that are right already included.
    pub fetch_bytes: u64,
    /// Requests; where files are mended, perhaps more and smaller ones.
    pub requests: u64,
    /// The destination.
    pub into: Option<PathBuf>,
    /// Bytes free there.
    pub free: Option<u64>,
    /// Whether it is empty, or holds an interrupted restore of the same snapshot.
    pub state: LandingState,
    /// What `--delete` removes, in path order.
    pub deletes: Vec<String>,
}

/// What stands in a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LandingState {
    /// Nothing.
    Empty,
    /// Files.
    Occupied,
    /// A restore of this snapshot that did not end.
    Interrupted,
    /// It is no directory: a file or a stream.
    Stream,
}

/// What a restore did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RestoreReport {
    /// Files that were written.
    pub files_written: u64,
    /// Files that stayed as they were.
    pub files_kept: u64,
    /// Bytes that were written.
    pub bytes_written: u64,
    /// Bytes that were right already.
    pub bytes_kept: u64,
    /// Paths that were removed.
    pub deleted: u64,
    /// Files that were read again and found right.
    pub verified: u64,
    /// Metadata that could not be set: path and what.
    pub trouble: Vec<(String, String)>,
}

/// A plan with what carries it out.
pub struct Prepared {
    /// The plan, to be shown.
    pub plan: RestorePlan,
    pub(super) snapshot: SnapshotRow,
    pub(super) options: RestoreOptions,
    /// All selected entries, where they fit into one window.
    pub(super) entries: Option<Vec<Entry>>,
    /// What `--delete` removes, in path order, each path by itself.
    pub(super) doomed: Vec<RelPath>,
    /// Whether the destination was empty when the restore began, this time or before it was interrupted.
    pub(super) began_empty: bool,
}

impl Prepared {
    /// The kind of the source.
    pub fn kind(&self) -> &str {
        &self.snapshot.record.kind
    }

    /// What happens to files that are there.
    pub fn overwrite(&self) -> Overwrite {
        self.options.overwrite
    }
}

/// Finds the snapshot that serves a wish. A forgotten one serves no time; by its name it is found while its bytes may still be there.
pub fn find_snapshot(
    repository: &Repository,
    source: &str,
    wanted: &Wanted,
    exact: bool,
) -> Result<(SnapshotRow, Choice), Error> {
    let rows = repository.catalog().all_snapshots()?;
    let candidates = |forgotten: bool| -> Vec<Candidate> {
        let of = rows.iter().filter(|row| row.forgotten == forgotten);
        of.map(|row| Candidate {
            id: row.record.id,
            full_name: row.full_name(),
            ended: row.record.ended,
            complete: row.record.complete,
        })
        .collect()
    };
    let among = |forgotten: bool| {
        let of = of_source(&candidates(forgotten), source)?;
        choose(source, &of, wanted, exact)
    };
    let choice = match (among(false), wanted) {
        (Err(e @ (NoPlan::NoSuchId(_) | NoPlan::NoSnapshot(_))), Wanted::Named(id)) if !id.starts_with("latest") => {
            among(true).map_err(|_| e)?
        }
        (choice, _) => choice?,
    };
    let row = rows.into_iter().find(|row| row.record.id == choice.id);
    Ok((row.ok_or_else(|| NoPlan::NoSnapshot(source.to_owned()))?, choice))
}

/// Looks frames up, with an answer at hand for the one that is asked for again and again.
pub(super) struct Locator<'r> {
    repository: &'r Repository,
    writer: WriterRow,
    known: HashMap<FrameId, FrameRow>,
}

impl<'r> Locator<'r> {
    pub fn new(repository: &'r Repository, snapshot: &SnapshotRow) -> Self {
        Self { repository, writer: snapshot.writer, known: HashMap::new() }
    }

    /// The frame of an extent, `None` for a hole. An extent beyond its frame's end is refused.
    pub fn find(&mut self, extent: &Extent) -> Result<Option<FrameRow>, Error> {
        let Some(id) = extent.frame else { return Ok(None) };
        let row = match self.known.get(&id) {
            Some(row) => *row,
            None => {
                let row = self.repository.locate(self.writer, &id)?;
                if self.known.len() > 100_000 {
                    self.known.clear();
                }
                self.known.insert(id, row);
                row
            }
        };
        if extent.offset + extent.length > row.plain {
            let why = format!("an extent ends beyond frame {}", id.short());
            return Err(repository::Error::Manifest { snapshot: "being read".to_owned(), why }.into());
        }
        Ok(Some(row))
    }

    /// The same where a frame that is in no log costs one file, and not the whole restore: the inner error says which.
    pub fn find_known(&mut self, extent: &Extent) -> Result<Result<Option<FrameRow>, String>, Error> {
        match self.find(extent) {
            Ok(found) => Ok(Ok(found)),
            Err(e @ Error::Repository(repository::Error::UnknownFrame(_))) => Ok(Err(e.to_string())),
            Err(e) => Err(e),
        }
    }
}

/// Reads the manifest and makes the plan. Nothing is written.
pub fn prepare(
    repository: &Repository,
    snapshot: SnapshotRow,
    choice: &Choice,
    into: Option<&Path>,
    options: RestoreOptions,
    progress: &dyn Progress,
) -> Result<Prepared, Error> {
    progress.event(Event::Stage("reading the manifest"));
    let mut plan = RestorePlan {
        source: snapshot.full_name(),
        snapshot: choice.id,
        asked: choice.asked,
        shows: choice.shows,
        complete: choice.complete,
        entries: 0,
        files: 0,
        bytes: 0,
        hole_bytes: 0,
        frames: 0,
        packs: 0,
        fetch_bytes: 0,
        requests: 0,
        into: into.map(Path::to_owned),
        free: None,
        state: LandingState::Stream,
        deletes: Vec::new(),
    };
    let mut locator = Locator::new(repository, &snapshot);
    let mut frames: HashMap<i64, FrameRow> = HashMap::new();
    let mut kept = Kept::default();
    repository.catalog().at_one_moment(|| {
        each_selected(repository, &snapshot, &options.selection, progress, &mut |entry| {
            plan.entries += 1;
            if let Some(content) = entry.content() {
                plan.files += 1;
                plan.bytes += content.size;
                for extent in &content.extents {
                    match locator.find_known(extent)? {
                        Ok(Some(row)) => drop(frames.insert(row.row, row)),
                        Ok(None) => plan.hole_bytes += extent.length,
                        // Told when it comes to that file.
                        Err(_) => {}
                    }
                }
            }
            kept.push(entry);
            Ok(())
        })
    })?;
    if plan.entries == 0 && !options.selection.is_all() {
        return Err(Error::NothingSelected);
    }
    plan.frames = frames.len() as u64;
    plan.fetch_bytes = frames.values().map(|frame| frame.stored).sum();
    let packs: std::collections::HashSet<i64> = frames.values().map(|frame| frame.pack_row).collect();
    plan.packs = packs.len() as u64;
    plan.requests = plan_fetches(frames.into_values().collect()).len() as u64;
    let mut prepared =
        Prepared { plan, snapshot, options, entries: kept.all(), doomed: Vec::new(), began_empty: false };
    if let Some(into) = into {
        look_at_landing(repository, into, &mut prepared, progress)?;
    }
    Ok(prepared)
}

fn look_at_landing(
    repository: &Repository,
    into: &Path,
    prepared: &mut Prepared,
    progress: &dyn Progress,
) -> Result<(), Error> {
    if !into.exists() {
        let plan = &mut prepared.plan;
        plan.state = LandingState::Empty;
        prepared.began_empty = true;
        let parent = into.ancestors().skip(1).find(|dir| dir.as_os_str().is_empty() || dir.is_dir());
        let parent = parent.filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        plan.free = Some(Directory::open(parent, false)?.free()?);
    } else {
        let directory = Directory::open(into, false)?;
        // Another restore's files are no leftovers. The lock is taken in earnest when something is written.
        drop(directory.lock()?);
        let plan = &mut prepared.plan;
        plan.free = Some(directory.free()?);
        let mark = mark_of(&plan.snapshot);
        plan.state = if std::fs::symlink_metadata(into.join(&mark)).is_ok_and(|meta| meta.is_file()) {
            LandingState::Interrupted
        } else if directory.is_empty("")? {
            LandingState::Empty
        } else {
            LandingState::Occupied
        };
        let began = if plan.state == LandingState::Interrupted { Some(mark::read(&directory, &mark)?) } else { None };
        // Nothing but the mark is as good as empty, whatever that says: the disk may have been full.
        prepared.began_empty = began == Some(mark::Began::Empty) || directory.is_empty(&mark)?;
        let refused = !prepared.began_empty && mark::flag_of(&prepared.options).is_none();
        if let Some(began) = began.filter(|_| refused) {
            return Err(destination::Error::BegunOver { path: into.to_owned(), flag: began.flag() }.into());
        }
        if refused {
            let names = std::fs::read_dir(into)
                .ok()
                .into_iter()
                .flatten()
                .filter_map(|e| e.ok()?.file_name().into_string().ok());
            if let Some(snapshot) = names.filter_map(|n| n.strip_prefix(MARK_START).map(str::to_owned)).next() {
                return Err(destination::Error::Interrupted { path: into.to_owned(), snapshot }.into());
            }
            return Err(destination::Error::NotEmpty(into.to_owned()).into());
        }
        if prepared.options.delete && prepared.plan.state != LandingState::Empty {
            prepared.doomed = find_deletes(repository, &directory, prepared, progress)?;
            // Shown are the topmost: what lies in a directory that goes, goes with it.
            let mut shown: Vec<&RelPath> = Vec::new();
            for path in &prepared.doomed {
                if !shown.last().is_some_and(|last| path.is_within(last)) {
                    shown.push(path);
                }
            }
            prepared.plan.deletes = shown.iter().map(ToString::to_string).collect();
        }
    }
    let plan = &prepared.plan;
    let needed = plan.bytes - plan.hole_bytes.min(plan.bytes);
    match plan.free {
        Some(free) if plan.state == LandingState::Empty && needed > free => {
            Err(destination::Error::NoSpace { path: into.to_owned(), free, needed }.into())
        }
        _ => Ok(()),
    }
}

/// What is in the destination and not in the snapshot: both come in path order and are merged. What `--include` and
/// `--exclude` leave out is left alone, and so is every directory that it lies in.
fn find_deletes(
    repository: &Repository,
    directory: &Directory,
    prepared: &Prepared,
    progress: &dyn Progress,
) -> Result<Vec<RelPath>, Error> {
    let mut there = directory.list()?.into_iter().peekable();
    let mut extra: Vec<(RelPath, bool)> = Vec::new();
    let everything = prepared.options.selection.everything_of();
    each_selected(repository, &prepared.snapshot, &everything, progress, &mut |entry| {
        while let Some(found) = there.next_if(|(path, _)| *path < entry.path) {
            extra.push(found);
        }
        there.next_if(|(path, _)| *path == entry.path);
        Ok(())
    })?;
    extra.extend(there);
    let mark = RelPath::new(mark_of(&prepared.plan.snapshot))?;
    let mut protected: HashSet<RelPath> = HashSet::new();
    let mut doomed = Vec::new();
    // Deepest first: a directory goes only if nothing in it is protected.
    for (path, is_dir) in extra.into_iter().rev() {
        let stays = path == mark || !prepared.options.selection.wants(&path, is_dir) || protected.contains(&path);
        if stays {
            protected.extend(path.parent());
        } else {
            doomed.push(path);
        }
    }
    doomed.reverse();
    Ok(doomed)
}

/// Carries a plan out, into a directory.
pub fn restore(
    repository: &mut Repository,
    prepared: &Prepared,
    progress: &dyn Progress,
) -> Result<RestoreReport, Error> {
    let into = prepared.plan.into.as_deref().unwrap_or(Path::new("."));
    let options = &prepared.options;
    let rights = Rights { replace: options.overwrite != Overwrite::Never, remove: options.delete };
    let directory = Directory::open(into, true)?.with_rights(rights);
    let _held = directory.lock()?;
    let mark = mark_of(&prepared.plan.snapshot);
    directory.write_mark(&mark, &mark::text(prepared.began_empty, options))?;
    progress.event(Event::Stage("restoring"));
    progress.event(Event::Expect { items: prepared.plan.files, bytes: prepared.plan.bytes });
    let mut report = RestoreReport::default();
    let leftovers = window::run(repository, prepared, &directory, &mut report, progress)?;
    // Removing comes after all else is in its place, and not at all where something could not be restored.
    if leftovers.hurt.is_empty() {
        for path in prepared.doomed.iter().rev() {
            // What lay in a directory that a file has replaced meanwhile is gone with it.
            match directory.existing(path) {
                Ok(Some(_)) => directory.unlink(path)?,
                Ok(None) | Err(destination::Error::InTheWay(_)) => {}
                Err(e) => return Err(e.into()),
            }
            report.deleted += 1;
        }
        window::finish_dirs(repository, prepared, &directory, progress)?;
    }
    progress.event(Event::Stage("syncing"));
    directory.sync()?;
    if options.verify {
        verify::run(repository, prepared, &directory, &leftovers, &mut report, progress)?;
    }
    report.trouble = directory.take_trouble();
    // Read while the mark stands: where the store fails here, the same command goes on.
    let root = window::root_entry(repository, prepared, progress)?;
    directory.remove_mark(&mark)?;
    // The mark's coming and going changed the root's time.
    root.map_or(Ok(()), |root| directory.finish_dir(&root))?;
    directory.sync()?;
    match leftovers.hurt.first() {
        None => Ok(report),
        Some((first, why)) => {
            for (path, what) in &report.trouble {
                progress.event(Event::Warning(&format!("`{path}`: {what}")));
            }
            Err(Error::Hurt { files: leftovers.hurt.len() as u64, first: first.clone(), why: why.clone() })
        }
    }
}
