//! A snapshot of a Convex deployment on its way back: which tables and files, as an archive that the official `convex import` reads
//! (`write`), into a deployment (`into`), and the proof that it arrived (`compare`).
//!
//! Invariant: the archive's `_tables` names exactly the tables that are in it. The server takes that list for an order: a table that
//! is named and not there would be emptied. Not here: how a snapshot is laid into a directory, which is as for any other source.

mod compare;
mod into;
mod write;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

pub use self::compare::{FilesDifference, TableDifference, Verified, verify};
pub use self::into::{Confirmed, IntoPlan, Left, Sent, Target, left, perform, prepare_into, send};
pub use self::write::write_zip;
use super::super::{Error, look};
use super::each_selected;
use crate::catalog::SnapshotRow;
use crate::format::convex::{Part, place_of};
use crate::model::convex::{COUNTS, ENVIRONMENT, PARTS_DIR};
use crate::model::{ConvexFacts, Entry, Moment, RelPath, SnapshotId, TableCount};
use crate::ops::Selection;
use crate::plan::restore::Choice;
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

impl TablePlan {
    /// `users`, or `component/users`.
    pub fn full_name(&self) -> String {
        if self.component.is_empty() { self.table.clone() } else { format!("{}/{}", self.component, self.table) }
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
    tables: BTreeSet<(String, String)>,
    files: bool,
    components: Vec<String>,
}

impl DeploymentRestore {
    fn wants_table(&self, component: &str, table: &str) -> bool {
        self.tables.contains(&(component.to_owned(), table.to_owned()))
    }

    fn wants_files(&self, component: &str) -> bool {
        self.files && wants_component(&self.components, component)
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
    struct Bounded(Vec<u8>);
    impl std::io::Write for Bounded {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            if self.0.len() + bytes.len() > SMALL_MAX {
                return Err(std::io::Error::other("it is too large"));
            }
            self.0.extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut text = Bounded(Vec::new());
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

/// Reads the manifest and makes the plan. Nothing is written.
pub fn plan(
    repository: &Repository,
    snapshot: SnapshotRow,
    choice: &Choice,
    wishes: &Wishes,
    progress: &dyn Progress,
) -> Result<DeploymentRestore, Error> {
    progress.event(Event::Stage("reading the manifest"));
    let facts = facts_of(&snapshot)?;
    let counted: BTreeMap<(String, String), u64> = counts(repository, &snapshot, progress)?
        .into_iter()
        .map(|table| ((table.component, table.table), table.documents))
        .collect();
    let with_files = !wishes.no_files && wishes.tables.is_empty();
    let mut found = DeploymentRestore {
        plan: DeploymentPlan {
            source: snapshot.full_name(),
            snapshot: choice.id,
            asked: choice.asked,
            shows: choice.shows,
            complete: choice.complete,
            instance: facts.instance.clone(),
            start_ts: facts.start_ts.clone(),
            tables: Vec::new(),
            files: 0,
            file_bytes: 0,
            all_tables: !facts.partial,
        },
        facts,
        has_environment: false,
        snapshot: snapshot.clone(),
        tables: BTreeSet::new(),
        files: with_files,
        components: wishes.components.clone(),
    };
    let mut all_names = Vec::new();
    each_selected(repository, &snapshot, &Selection::new(&[], &[])?, progress, &mut |entry| {
        take(&mut found, &mut all_names, wishes, &counted, &entry);
        Ok(())
    })?;
    for pattern in &wishes.tables {
        if !all_names.iter().any(|name| matches_table(pattern, name)) {
            let there = all_names.iter().take(20).cloned().collect::<Vec<_>>().join(", ");
            return Err(Error::NoSuchTable { table: pattern.clone(), there });
        }
    }
    Ok(found)
}

fn take(
    found: &mut DeploymentRestore,
    all_names: &mut Vec<String>,
    wishes: &Wishes,
    counted: &BTreeMap<(String, String), u64>,
    entry: &Entry,
) {
    let Some(content) = entry.content() else { return };
    let path = entry.path.to_string();
    found.has_environment |= path == format!("{PARTS_DIR}/{ENVIRONMENT}");
    let (component, part) = place_of(&path);
    match part {
        Part::Documents(table) => {
            let key = (component.clone(), table.to_owned());
            let documents = counted.get(&key).copied();
            let plan = TablePlan { component, table: table.to_owned(), documents, bytes: content.size };
            let full = plan.full_name();
            let wanted = wants_component(&wishes.components, &plan.component)
                && (wishes.tables.is_empty() || wishes.tables.iter().any(|pattern| matches_table(pattern, &full)));
            all_names.push(full);
            if wanted {
                found.tables.insert(key);
                found.plan.tables.push(plan);
            } else {
                found.plan.all_tables = false;
            }
        }
        Part::Blob(_) if found.wants_files(&component) => {
            found.plan.files += 1;
            found.plan.file_bytes += content.size;
        }
        _ => {}
    }
}
