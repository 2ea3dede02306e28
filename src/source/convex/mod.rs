//! A self-hosted Convex deployment as a source: an export without files, its members stored inflated, each file fetched once, and
//! beside them what is in no export.
//!
//! The export is one timestamp of the database. Files are listed before it is asked for and after it is done; the union of both
//! is what a document of it can name. A file's bytes never change under its id, so that one which the manifest before has is taken
//! over unread. Invariants: the download is checked member by member before a snapshot exists; an export that stands still is
//! cancelled, and so is one of a run that is given up; a downloaded export is handed to the server's next sweep. Not here:
//! changes after the export, and restoring.

mod export;
mod files;
mod key;
mod later;
mod members;
mod parts;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use self::export::{Downloaded, ExportError, Snatched, fetch_export, nameless, work_file};
pub use self::files::path_of;
use self::files::{Files, Gate};
pub use self::key::{KeyFrom, resolve};
pub use self::later::{LaterFiles, list_since};
pub use self::members::matches as matches_table;
use self::members::{Counts, Members, matches};
use super::cutting::{SAMPLE, choose_cutting};
use super::{Body, Error, Found, FoundEntry, Late, Opened, Source};
use crate::client::convex::{Deployment, Patience};
use crate::model::convex::{COUNTS, PARTS_DIR};
use crate::model::{ConvexFacts, Cutting, Entry, EntryKind, Moment, RawText, RelPath, Stamp, TableCount};
use crate::progress::{Event, Progress};

/// How a deployment is backed up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConvexOptions {
    /// Its URL; else CONVEX_SELF_HOSTED_URL.
    pub url: Option<String>,
    /// Where the key comes from.
    pub key: KeyFrom,
    /// Tables to take alone: `users`, `component/users`, with `*`.
    pub tables: Vec<String>,
    /// Tables to leave out.
    pub exclude_tables: Vec<String>,
    /// Whether files are stored.
    pub files: bool,
    /// Whether exports stay on the server.
    pub keep_exports: bool,
    /// Where the export lies until it is stored.
    pub work_dir: Option<PathBuf>,
    /// After so long without any progress an export is cancelled.
    pub stall_timeout: Duration,
    /// The longest wait between two looks at an export.
    pub look: Duration,
    /// How patiently requests are repeated.
    pub patience: Patience,
}

impl Default for ConvexOptions {
    fn default() -> Self {
        Self {
            url: None,
            key: KeyFrom::default(),
            tables: Vec::new(),
            exclude_tables: Vec::new(),
            files: true,
            keep_exports: false,
            work_dir: None,
            stall_timeout: Duration::from_secs(30 * 60),
            look: Duration::from_secs(2),
            patience: Patience::default(),
        }
    }
}

/// What is stored: members of the export, files, and the rest by the names of its files.
type Begun = (Arc<Members>, Arc<Files>, BTreeMap<String, Vec<u8>>);

/// What a run has found.
#[derive(Default)]
struct Taken {
    members: Option<Arc<Members>>,
    files: Option<Arc<Files>>,
    facts: Option<ConvexFacts>,
}

/// A deployment to back up.
pub struct ConvexSource {
    options: ConvexOptions,
    deployment: Deployment,
    now: Moment,
    progress: Arc<dyn Progress>,
    stop: Arc<AtomicBool>,
    gate: Arc<Gate>,
    taken: Mutex<Taken>,
    counts: Counts,
    /// What is wrong with a member: then there is no snapshot.
    broken: Arc<Mutex<Option<String>>>,
}

impl ConvexSource {
    /// A source over a deployment; nothing is asked of it yet.
    pub fn new(options: ConvexOptions, now: Moment, progress: Arc<dyn Progress>) -> Result<Self, Error> {
        let stop = Arc::<AtomicBool>::default();
        let deployment = resolve(&options, now, crate::client::convex::Rights::Full, Arc::clone(&stop))?;
        Ok(Self {
            options,
            deployment,
            now,
            progress,
            stop,
            gate: Arc::new(Gate::new(files::PARALLEL)),
            taken: Mutex::default(),
            counts: Arc::default(),
            broken: Arc::default(),
        })
    }

    /// The session with the deployment.
    pub fn deployment(&self) -> &Deployment {
        &self.deployment
    }

    fn taken(&self) -> std::sync::MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a table is stored.
    fn wants(&self, component: &str, table: &str) -> bool {
        let full = match component {
            "" => table.to_owned(),
            component => format!("{component}/{table}"),
        };
        let among = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, &full));
        (self.options.tables.is_empty() || among(&self.options.tables)) && !among(&self.options.exclude_tables)
    }

    fn bad(&self, why: String) -> Error {
        Error::Zip { what: format!("the export of {}", self.deployment.place()), why }
    }

    fn warn_of_unknown(&self, members: &Members) {
        for pattern in &self.options.tables {
            if !members.names.iter().any(|name| matches(pattern, name)) {
                self.progress.event(Event::Warning(&format!("no table fits `{pattern}` of `tables`")));
            }
        }
    }

    /// Everything up to the first entry: lists, the export, the download.
    fn begin(&self) -> Result<Begun, Error> {
        let deployment = &self.deployment;
        let instance = deployment.check_instance()?;
        let mut files = Files::default();
        if self.options.files {
            self.progress.event(Event::Stage("listing files"));
            files.list(deployment, &*self.progress)?;
        }
        let export = fetch_export(deployment, &self.options, &instance, &*self.progress)?;
        if self.options.files {
            self.progress.event(Event::Stage("listing files"));
            files.list_again(deployment, &*self.progress)?;
        }
        let parts = parts::read(deployment, &*self.progress)?;
        let wants = |component: &str, table: &str| self.wants(component, table);
        let members = Members::read(export.file, &wants).map_err(|e| self.bad(e.to_string()))?;
        self.warn_of_unknown(&members);
        let facts = ConvexFacts {
            version: 1,
            instance,
            start_ts: export.start_ts.to_string(),
            export: export.id,
            not_uniform: members.not_uniform.clone(),
            tables: 0,
            documents: 0,
            partial: members.partial,
            files: self.options.files.then_some(files.count() as u64),
            files_deleted: 0,
        };
        let (members, files) = (Arc::new(members), Arc::new(files));
        let mut taken = self.taken();
        taken.facts = Some(facts);
        (taken.members, taken.files) = (Some(Arc::clone(&members)), Some(Arc::clone(&files)));
        Ok((members, files, parts))
    }
}

/// An entry of our own making.
pub(super) fn entry(path: RelPath, kind: EntryKind, now: Moment) -> Entry {
    let mode = if kind == EntryKind::Dir { 0o700 } else { 0o600 };
    let mut entry = Entry::bare(path, kind);
    entry.mode = mode;
    entry.mtime = Stamp(now.timestamp(), now.timestamp_subsec_nanos());
    entry
}

impl Source for ConvexSource {
    fn kind(&self) -> &'static str {
        "convex"
    }

    fn root(&self) -> String {
        self.deployment.place()
    }

    /// New files that a follower stored are not fetched again.
    fn beside(&self, name: &str) -> Option<String> {
        Some(crate::model::documents::files_source(name))
    }

    fn walk(&self, each: &mut dyn FnMut(Found) -> bool) -> Result<(), Error> {
        let (members, files, parts) = self.begin()?;
        for item in members::in_order(Some(&members), &files, parts).map_err(|why| self.bad(why))? {
            if self.stop.load(Ordering::Relaxed) || !each(item.into_found(&files, self.now)) {
                return Ok(());
            }
        }
        Ok(())
    }

    fn open(&self, found: &FoundEntry) -> Result<Opened<'_>, String> {
        let path = found.entry.path.to_string();
        let body = found.body.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (members, files) = {
            let taken = self.taken();
            (taken.members.clone(), taken.files.clone())
        };
        let (members, files) = (members.ok_or("it is not there yet")?, files.ok_or("it is not there yet")?);
        let (file, cutting): (Box<dyn std::io::Read + Send>, _) = if let Some(Body { bytes, .. }) = body {
            (bytes, Cutting::Fine)
        } else if let Some(reader) = members.open(&path) {
            (Box::new(members::Counting::new(reader, &path, &self.counts, &self.broken)), Cutting::Rows)
        } else {
            later::files_reader(&self.deployment, &files, &self.gate, found)?
        };
        let (xattrs, size) = (BTreeMap::new(), found.size);
        Ok(Opened { file, data: None, cutting, xattrs, size, changed: Box::new(|| None) })
    }

    fn xattrs(&self, _entry: &Entry) -> BTreeMap<String, RawText> {
        BTreeMap::new()
    }

    fn cancel(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.gate.open_for_ever();
    }

    /// A file that cannot be fetched is named; a member that is damaged leaves no snapshot (`late`).
    fn all_or_nothing(&self) -> bool {
        false
    }

    fn forgives(&self, path: &RelPath) -> bool {
        let files = self.taken().files.clone();
        files.is_some_and(|files| files.was_deleted(&path.to_string()))
    }

    fn has_late(&self) -> bool {
        true
    }

    /// The counts, which are known once all was read.
    fn late(&self) -> Result<Vec<Late>, Error> {
        if let Some(why) = self.broken.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(self.bad(why));
        }
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let all: Vec<&TableCount> = counts.values().collect();
        let mut bytes = serde_json::to_vec_pretty(&all).unwrap_or_default();
        bytes.push(b'\n');
        let files = self.taken().files.clone();
        if let Some(facts) = &mut self.taken().facts {
            facts.tables = all.len() as u64;
            facts.documents = all.iter().map(|table| table.documents).sum();
            facts.files_deleted = files.map_or(0, |files| files.deleted());
        }
        let path = RelPath::new(format!("{PARTS_DIR}/{COUNTS}")).unwrap_or_default();
        Ok(vec![Late { entry: entry(path, members::empty_file(), self.now), bytes, cutting: Cutting::Fine }])
    }

    fn facts(&self) -> serde_json::Value {
        self.taken().facts.as_ref().and_then(|facts| serde_json::to_value(facts).ok()).unwrap_or_default()
    }

    fn finish(&self) -> Result<(), Error> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(crate::client::convex::Error::GivenUp.into());
        }
        Ok(())
    }
}
