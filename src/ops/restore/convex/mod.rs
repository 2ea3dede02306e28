//! A snapshot of a Convex deployment on its way back: which tables and files, as an archive that the official `convex import` reads
//! (`write`), into a deployment (`into`), and the proof that it arrived (`compare`).
//!
//! Invariant: the archive's `_tables` names exactly the tables that are in it. The server takes that list for an order: a table that
//! is named and not there would be emptied. Not here: how a snapshot is laid into a directory, which is as for any other source.

mod compare;
mod files;
mod into;
mod scheduled;
mod undelete;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Serialize;

pub use self::compare::{FilesDifference, TableDifference, Verified, verify};
use self::files::MoreFiles;
pub use self::into::{Confirmed, IntoPlan, Left, Sent, Target, left, perform, prepare_into, send};
pub use self::scheduled::{Scheduled, scheduled};
pub use self::undelete::{Returning, Wanting, bring_back, prepare_back};
pub use self::write::{Written, write_tree, write_zip};
use super::super::{Error, look};
use super::each_selected;
use crate::catalog::SnapshotRow;
use crate::format::convex::{Part, full_name, place_of};
use crate::model::convex::{COUNTS, ENVIRONMENT, PARTS_DIR};
use crate::model::documents::{moment_of, time_of};
use crate::model::{ConvexFacts, Entry, Moment, RelPath, SnapshotId, TableCount};
use crate::ops::Selection;
use crate::ops::documents::{self, Documents, Folded};
use crate::plan::documents::{Aim, Way};
use crate::plan::restore::{Choice, NoPlan, Wanted, show};
use crate::progress::{Event, Progress};
use crate::repository::Repository;
use crate::source::convex::matches_table;

/// A small file of a snapshot at most: lists of tables, environment variables.
const SMALL_MAX: usize = 64 << 20;

/// What of a snapshot is restored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Tables alone: `users`, `component/users`, with `*`. Files stay out then.
    pub tables: Vec<String>,
    /// Components alone, by their paths; the root's is empty.
    pub components: Vec<String>,
    /// Without files.
    pub no_files: bool,
}

/// What a restore of a deployment will do. A value: shown, compared, tested.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DeploymentPlan {
    /// `writer/source`.
    pub source: String,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The time that was asked for.
    pub asked: Option<Moment>,
    /// When the snapshot ended.
    pub shows: Moment,
    /// Whether it is complete.
    pub complete: bool,
    /// The instance that it is of.
    pub instance: String,
    /// The database's own time that the documents show: nanoseconds since 1970.
    pub start_ts: String,
    /// The tables, by component and name.
    pub tables: Vec<TablePlan>,
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub file_bytes: u64,
    /// Whether all tables of the snapshot are meant.
    pub all_tables: bool,
    /// Changes that are laid over the snapshot.
    pub changes: Option<ChangesPlan>,
    /// Up to when the files are known to be stored that the documents can name, where changes are laid over them.
    pub files_until: Option<Moment>,
    /// Whether that lies before the time that is restored.
    pub files_missing: bool,
}

/// Changes that are laid over a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChangesPlan {
    /// Up to this time of the database.
    pub to: Moment,
    /// Whether that is the time that was asked for, or the newest.
    pub reaches: bool,
    /// Segments that are read.
    pub segments: u64,
    /// Stored bytes of them.
    pub bytes: u64,
}

/// A table that is restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TablePlan {
    /// The path of its component; empty for the root.
    pub component: String,
    /// Its name.
    pub table: String,
    /// Its documents, where they were counted.
    pub documents: Option<u64>,
    /// Bytes of their lines.
    pub bytes: u64,
}

impl Wishes {
    fn wants(&self, component: &str, table: &str) -> bool {
        let full = full_name(component, table);
        wants_component(&self.components, component)
            && (self.tables.is_empty() || self.tables.iter().any(|pattern| matches_table(pattern, &full)))
    }

    /// Refuses names that fit no table.
    fn refuse_unknown(&self, names: &[String]) -> Result<(), Error> {
        let fits = |pattern: &&String| !names.iter().any(|name| matches_table(pattern, name));
        match self.tables.iter().find(fits) {
            None => Ok(()),
            Some(pattern) => {
                let there = names.iter().take(20).cloned().collect::<Vec<_>>().join(", ");
                Err(Error::NoSuchTable { table: pattern.clone(), there })
            }
        }
    }
}

impl TablePlan {
    /// `users`, or `component/users`.
    pub fn full_name(&self) -> String {
        full_name(&self.component, &self.table)
    }
}

/// A plan with what carries it out.
pub struct DeploymentRestore {
    /// The plan, to be shown.
    pub plan: DeploymentPlan,
    /// What the snapshot says of itself.
    pub facts: ConvexFacts,
    /// Whether it has environment variables.
    pub has_environment: bool,
    pub(super) snapshot: SnapshotRow,
    /// The snapshot that files come from.
    files_from: SnapshotRow,
    /// Those that were made after it.
    more: Option<MoreFiles>,
    tables: BTreeSet<(String, String)>,
    files: bool,
    components: Vec<String>,
    wishes: Wishes,
    /// Tables that the snapshot has, wanted or not.
    of_snapshot: BTreeSet<(String, String)>,
    way: Option<Way>,
    folded: Option<Folded>,
}

impl DeploymentRestore {
    fn wants_table(&self, component: &str, table: &str) -> bool {
        self.tables.contains(&(component.to_owned(), table.to_owned()))
    }

    fn wants_files(&self, component: &str) -> bool {
        self.files && wants_component(&self.components, component)
    }

    /// Reads the changes that the plan needs, if it needs any. Nothing is written but files without a name in `work_dir`.
    pub fn fold(
        &mut self,
        repository: &Repository,
        documents: Option<&Documents>,
        work_dir: &Path,
        progress: &dyn Progress,
    ) -> Result<(), Error> {
        let (Some(way), Some(documents)) = (&self.way, documents) else { return Ok(()) };
        let wants = |component: &str, table: &str| self.wishes.wants(component, table);
        let folded = documents::fold(repository, documents, way, None, &wants, work_dir, progress)?;
        for ((component, table), found) in &folded.tables {
            // A table that was made since the snapshot.
            if self.tables.insert((component.clone(), table.clone())) {
                let documents = Some(found.documents);
                let (component, table) = (component.clone(), table.clone());
                self.plan.tables.push(TablePlan { component, table, documents, bytes: 0 });
            }
        }
        self.plan.tables.sort_by(|a, b| (&a.component, &a.table).cmp(&(&b.component, &b.table)));
        let names: Vec<String> = self.plan.tables.iter().map(TablePlan::full_name).collect();
        self.wishes.refuse_unknown(&names)?;
        self.folded = Some(folded);
        Ok(())
    }

    /// Whether a table has documents that changed after the snapshot.
    fn changes_of(&self, component: &str, table: &str) -> Option<&Folded> {
        self.folded.as_ref().filter(|folded| folded.has(component, table))
    }

    /// Tables that the snapshot does not have: made after it. With their numbers.
    fn new_tables(&self) -> Vec<(&str, &str, u32)> {
        let tables = self.folded.iter().flat_map(|folded| &folded.tables);
        let new = tables.filter(|(name, _)| !self.of_snapshot.contains(*name));
        new.map(|((component, table), found)| (component.as_str(), table.as_str(), found.number)).collect()
    }

    /// Plain bytes in all.
    pub fn bytes(&self) -> u64 {
        self.plan.tables.iter().map(|table| table.bytes).sum::<u64>() + self.plan.file_bytes
    }
}

fn wants_component(components: &[String], component: &str) -> bool {
    components.is_empty() || components.iter().any(|wanted| wanted.trim_matches('/') == component)
}

/// Reads the facts of a snapshot of a deployment.
pub fn facts_of(snapshot: &SnapshotRow) -> Result<ConvexFacts, Error> {
    if snapshot.record.kind != "convex" {
        let (source_name, kind) = (snapshot.full_name(), snapshot.record.kind.clone());
        return Err(Error::NoDeployment { source_name, kind });
    }
    let bad = |why: String| Error::BadDeploymentFacts { snapshot: snapshot.record.id.to_string(), why };
    let facts: ConvexFacts = serde_json::from_value(snapshot.record.facts.clone()).map_err(|e| bad(e.to_string()))?;
    if facts.version != 1 {
        return Err(bad(format!("they are of version {}; a newer lifeboat reads them", facts.version)));
    }
    Ok(facts)
}

/// Reads a small file of a snapshot; none where it has none of that name.
pub fn small_file(
    repository: &Repository,
    snapshot: &SnapshotRow,
    path: &str,
    progress: &dyn Progress,
) -> Result<Option<Vec<u8>>, Error> {
    file_of(repository, snapshot, path, SMALL_MAX, progress)
}

/// The same of so many bytes at most.
fn file_of(
    repository: &Repository,
    snapshot: &SnapshotRow,
    path: &str,
    most: usize,
    progress: &dyn Progress,
) -> Result<Option<Vec<u8>>, Error> {
    struct Bounded(Vec<u8>, usize);
    impl std::io::Write for Bounded {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            if self.0.len() + bytes.len() > self.1 {
                return Err(std::io::Error::other("it is too large"));
            }
            self.0.extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut text = Bounded(Vec::new(), most);
    match look::dump(repository, snapshot, &RelPath::new(path.as_bytes())?, &mut text, progress) {
        Ok(_) => Ok(Some(text.0)),
        Err(Error::NoSuchPath { .. }) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The documents of each table of a snapshot, as they were counted.
pub fn counts(
    repository: &Repository,
    snapshot: &SnapshotRow,
    progress: &dyn Progress,
) -> Result<Vec<TableCount>, Error> {
    let bad = |why: String| Error::BadDeploymentFacts { snapshot: snapshot.record.id.to_string(), why };
    let text = small_file(repository, snapshot, &format!("{PARTS_DIR}/{COUNTS}"), progress)?;
    text.map_or(Ok(Vec::new()), |text| serde_json::from_slice(&text).map_err(|e| bad(e.to_string())))
}

/// What a plan is made from: a snapshot, and the changes behind it.
pub struct From<'f> {
    /// The snapshot.
    pub snapshot: SnapshotRow,
    /// How it was chosen.
    pub choice: Choice,
    /// The deployment's changes, and the way through them.
    pub changes: Option<(&'f Documents, Way)>,
}

impl<'f> From<'f> {
    /// What restores a time that was asked for: a snapshot alone where no changes help.
    pub fn find(
        repository: &Repository,
        documents: Option<&'f Documents>,
        source: &str,
        wanted: &Wanted,
        exact: bool,
    ) -> Result<Self, Error> {
        let aim = match wanted {
            Wanted::Latest => Some(Aim::Latest),
            Wanted::At(moment) => Some(Aim::At(time_of(*moment))),
            Wanted::Named(_) => None,
        };
        let way = documents.zip(aim).and_then(|(documents, aim)| Some((documents, documents.way(aim)?)));
        let Some((documents, way)) = way else {
            let (snapshot, choice) = super::find_snapshot(repository, source, wanted, exact)?;
            return Ok(Self { snapshot, choice, changes: None });
        };
        let asked = match wanted {
            Wanted::At(moment) => Some(*moment),
            _ => None,
        };
        let shows = moment_of(way.to);
        if let Some(asked) = asked.filter(|asked| exact && time_of(*asked) != way.to) {
            let (asked, nearest) = (show(asked), show(shows));
            return Err(NoPlan::NotExact { source_name: documents.full_name.clone(), asked, nearest }.into());
        }
        let snapshot = documents.snapshot(&way).ok_or_else(|| NoPlan::NoSnapshot(source.to_owned()))?.clone();
        let complete = snapshot.record.complete;
        let choice = Choice { id: snapshot.record.id, asked, shows, complete, passed_over: Vec::new() };
        Ok(Self { snapshot, choice, changes: Some((documents, way)) })
    }
}

/// Reads the manifest and makes the plan. Nothing is written.
pub fn plan(
    repository: &Repository,
    from: From<'_>,
    wishes: &Wishes,
    progress: &dyn Progress,
) -> Result<DeploymentRestore, Error> {
    progress.event(Event::Stage("reading the manifest"));
    let From { snapshot, choice, changes } = from;
    let facts = facts_of(&snapshot)?;
    let counted: BTreeMap<(String, String), u64> = counts(repository, &snapshot, progress)?
        .into_iter()
        .map(|table| ((table.component, table.table), table.documents))
        .collect();
    // Files are never changed and seldom deleted: those of a later snapshot hold what the changes name.
    let files_from =
        changes.as_ref().and_then(|(documents, way)| documents.files_for(way)).unwrap_or(&snapshot).clone();
    let is_other = files_from.record.id != snapshot.record.id;
    let until = changes.as_ref().and_then(|(documents, way)| documents.files_until(way));
    let wants_files = !wishes.no_files && wishes.tables.is_empty();
    let later = changes.as_ref().filter(|_| wants_files);
    let later = later.map(|(documents, way)| documents.later_files_for(way)).filter(|all| !all.is_empty());
    let mut found = DeploymentRestore {
        plan: DeploymentPlan {
            source: snapshot.full_name(),
            snapshot: choice.id,
            asked: choice.asked,
            shows: choice.shows,
            complete: choice.complete,
            instance: facts.instance.clone(),
            start_ts: changes.as_ref().map_or_else(|| facts.start_ts.clone(), |(_, way)| way.to.to_string()),
            tables: Vec::new(),
            files: 0,
            file_bytes: 0,
            all_tables: !facts.partial,
            changes: changes.as_ref().map(|(documents, way)| changes_plan(documents, way, choice.asked)),
            files_until: until,
            files_missing: changes.as_ref().is_some_and(|(_, way)| until.is_none_or(|until| time_of(until) < way.to)),
        },
        facts,
        has_environment: false,
        snapshot: snapshot.clone(),
        files_from: files_from.clone(),
        more: later.map(|later| MoreFiles::read(repository, later, progress)).transpose()?,
        tables: BTreeSet::new(),
        files: wants_files,
        components: wishes.components.clone(),
        wishes: wishes.clone(),
        of_snapshot: BTreeSet::new(),
        way: changes.map(|(_, way)| way),
        folded: None,
    };
    let all = Selection::new(&[], &[])?;
    each_selected(repository, &snapshot, &all, progress, &mut |entry| {
        take(&mut found, &counted, !is_other, &entry);
        Ok(())
    })?;
    if is_other && found.files {
        each_selected(repository, &files_from, &all, progress, &mut |entry| {
            take_file(&mut found, &entry);
            Ok(())
        })?;
    }
    if let Some(mut more) = found.more.take() {
        more.settle(repository, progress)?;
        for entry in more.entries.values() {
            take_file(&mut found, entry);
        }
        found.more = Some(more);
    }
    // A table that was made since the snapshot is known once the changes were read.
    if found.way.is_none() {
        let names: Vec<String> =
            found.of_snapshot.iter().map(|(component, table)| full_name(component, table)).collect();
        wishes.refuse_unknown(&names)?;
    }
    Ok(found)
}

fn changes_plan(documents: &Documents, way: &Way, asked: Option<Moment>) -> ChangesPlan {
    let segments = documents.segments(way);
    ChangesPlan {
        to: moment_of(way.to),
        reaches: asked.is_none_or(|asked| time_of(asked) == way.to),
        segments: segments.len() as u64,
        bytes: segments.iter().map(|record| record.stored).sum(),
    }
}

fn take(found: &mut DeploymentRestore, counted: &BTreeMap<(String, String), u64>, with_files: bool, entry: &Entry) {
    let Some(content) = entry.content() else { return };
    let path = entry.path.to_string();
    found.has_environment |= path == format!("{PARTS_DIR}/{ENVIRONMENT}");
    let (component, part) = place_of(&path);
    match part {
        Part::Documents(table) => {
            let key = (component.clone(), table.to_owned());
            let documents = counted.get(&key).copied();
            let wanted = found.wishes.wants(&component, table);
            found.of_snapshot.insert(key.clone());
            if wanted {
                found.tables.insert(key);
                let table = table.to_owned();
                found.plan.tables.push(TablePlan { component, table, documents, bytes: content.size });
            } else {
                found.plan.all_tables = false;
            }
        }
        Part::Blob(_) if with_files => take_file(found, entry),
        _ => {}
    }
}

fn take_file(found: &mut DeploymentRestore, entry: &Entry) {
    let path = entry.path.to_string();
    let (component, part) = place_of(&path);
    if let (Part::Blob(_), Some(content)) = (part, entry.content())
        && found.wants_files(&component)
    {
        if let Some(more) = &mut found.more {
            more.entries.remove(&path);
        }
        found.plan.files += 1;
        found.plan.file_bytes += content.size;
    }
}
