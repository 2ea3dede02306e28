//! The files that were made after a snapshot of a deployment, as a source of their own: a follower lists them and stores them as they appear.
//!
//! What was listed once stays in it, whether it is still there or not: a file that is stored already is taken over unread, so that the newest
//! snapshot of this kind holds all files since the deployment's own one. Not here: when it is listed, and which older ones may go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::files::{FILES_MAX, FileReader, Files, Gate, PARALLEL};
use super::{SAMPLE, choose_cutting, members};
use crate::client::convex::{Component, Deployment, Error as ClientError, FileRow};
use crate::model::convex::FILES_KIND;
use crate::model::documents::DbTime;
use crate::model::{Cutting, Entry, FilesFacts, Moment, RawText, RelPath};
use crate::source::{Body, Error, Found, FoundEntry, Opened, Source};

/// Hands on what was made at `since` (milliseconds) or later. Returns how many rows could not be understood: the next snapshot of all
/// names them.
pub fn list_since(
    deployment: &Deployment,
    since: f64,
    each: &mut dyn FnMut(&Component, FileRow),
) -> Result<u64, ClientError> {
    let (mut odd, mut count) = (0, 0);
    for component in deployment.components()? {
        let mut cursor: Option<String> = None;
        loop {
            let page = deployment.files(&component, Some(since), cursor.as_deref())?;
            for row in page.rows {
                match row {
                    // A server that does not know the filter answers with all of them.
                    Ok(row) if row.created_ms < since => {}
                    Ok(row) => each(&component, row),
                    Err(_) => odd += 1,
                }
                count += 1;
            }
            if count > FILES_MAX {
                return Err(ClientError::senseless("list the files", deployment, format!("more than {FILES_MAX}")));
            }
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
    }
    Ok(odd)
}

/// Files to back up.
pub struct LaterFiles {
    deployment: Deployment,
    files: Arc<Files>,
    gate: Arc<Gate>,
    stop: Arc<AtomicBool>,
    facts: FilesFacts,
    now: Moment,
}

impl LaterFiles {
    /// A source over a list. `base` is the time of the snapshot behind which they were made.
    pub fn new<'r>(
        deployment: &Deployment,
        instance: &str,
        listed: impl IntoIterator<Item = (&'r Component, &'r FileRow)>,
        base: DbTime,
        now: Moment,
    ) -> Self {
        let files = Files::of(listed);
        let facts = FilesFacts {
            version: 1,
            instance: instance.to_owned(),
            base: base.to_string(),
            files: files.count() as u64,
        };
        Self {
            deployment: deployment.clone(),
            files: Arc::new(files),
            gate: Arc::new(Gate::new(PARALLEL)),
            stop: Arc::default(),
            facts,
            now,
        }
    }
}

impl LaterFiles {
    /// Whether a file was deleted on the server before it could be fetched.
    pub fn is_gone(&self, path: &str) -> bool {
        self.files.was_deleted(path)
    }
}

impl Source for LaterFiles {
    fn kind(&self) -> &'static str {
        FILES_KIND
    }

    fn root(&self) -> String {
        self.deployment.place()
    }

    /// Some are in the deployment's own snapshot already.
    fn beside(&self, name: &str) -> Option<String> {
        name.strip_suffix(".files").map(str::to_owned)
    }

    fn walk(&self, each: &mut dyn FnMut(Found) -> bool) -> Result<(), Error> {
        let bad = |why| Error::Zip { what: format!("the files of {}", self.deployment.place()), why };
        for item in members::in_order(None, &self.files, BTreeMap::new()).map_err(bad)? {
            if self.stop.load(Ordering::Relaxed) || !each(item.into_found(&self.files, self.now)) {
                return Ok(());
            }
        }
        Ok(())
    }

    fn open(&self, found: &FoundEntry) -> Result<Opened<'_>, String> {
        let body = found.body.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let (file, cutting): (Box<dyn std::io::Read + Send>, _) = match body {
            Some(Body { bytes, .. }) => (bytes, Cutting::Fine),
            None => files_reader(&self.deployment, &self.files, &self.gate, found)?,
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

    fn all_or_nothing(&self) -> bool {
        false
    }

    /// One that was deleted before it could be fetched is no loss of this run's.
    fn forgives(&self, path: &RelPath) -> bool {
        self.files.was_deleted(&path.to_string())
    }

    fn facts(&self) -> serde_json::Value {
        serde_json::to_value(&self.facts).unwrap_or_default()
    }

    fn finish(&self) -> Result<(), Error> {
        if self.stop.load(Ordering::Relaxed) { Err(ClientError::GivenUp.into()) } else { Ok(()) }
    }
}

/// A file's bytes, and how they are cut.
pub(super) fn files_reader(
    deployment: &Deployment,
    files: &Arc<Files>,
    gate: &Arc<Gate>,
    found: &FoundEntry,
) -> Result<(Box<dyn std::io::Read + Send>, Cutting), String> {
    let bytes = FileReader::new(deployment, files, &found.entry.path.to_string(), gate);
    let mut bytes = bytes.ok_or("it is not in the export")?;
    let head = bytes.head(SAMPLE).map_err(|e| e.to_string())?;
    let cutting = choose_cutting(&found.entry.path, found.size, &head);
    Ok((Box::new(std::io::Read::chain(std::io::Cursor::new(head), bytes)), cutting))
}
