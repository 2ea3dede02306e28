//! One database as a source: captured, and stored as one file under its own name.
//!
//! Invariant: what cannot be captured makes no snapshot. Not here: how it is captured.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::{Captured, Captures, opened};
use crate::model::{Digest, Entry, EntryKind, FileContent, RawText, RelPath, SnapshotRecord};
use crate::source::volume::VolumeSource;
use crate::source::{Error, Found, FoundEntry, Opened, Rules, Source};

/// A single database.
pub struct SqliteSource {
    path: PathBuf,
    name: RelPath,
    /// The directory it lies in; never walked, it knows owners and attributes.
    directory: VolumeSource,
    captures: Captures,
    taken: Mutex<Option<Captured>>,
}

impl SqliteSource {
    /// A source over a file that is there. What cannot be a database is found out when it is captured.
    pub fn new(path: &Path, captures: Captures) -> Result<Self, Error> {
        let fail = |source| Error::Root { path: path.to_owned(), source };
        // A link to a database leads to what lies beside that, not beside the link.
        let path = fs::canonicalize(path).map_err(fail)?;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(fail(std::io::ErrorKind::IsADirectory.into()));
        };
        let name = RelPath::new(name.as_bytes().to_vec()).map_err(|e| fail(std::io::Error::other(e.to_string())))?;
        let directory = VolumeSource::new(parent, &Rules::default())?;
        Ok(Self { name, directory, captures, taken: Mutex::default(), path })
    }
}

impl Source for SqliteSource {
    fn kind(&self) -> &'static str {
        "sqlite"
    }

    fn root(&self) -> String {
        self.path.display().to_string()
    }

    fn prepare(&self, _previous: Option<&SnapshotRecord>) -> Result<(), Error> {
        self.captures.begin()?;
        let refused = |e: super::Refusal| Error::Capture { path: self.path.clone(), why: e.to_string() };
        let captured = self.captures.capture(&self.path).map_err(refused)?;
        self.captures.note(&self.name, &captured);
        *self.taken.lock().unwrap_or_else(PoisonError::into_inner) = Some(captured);
        Ok(())
    }

    fn walk(&self, each: &mut dyn FnMut(Found) -> bool) -> Result<(), Error> {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(captured) = taken.as_ref() else {
            return Err(Error::Capture { path: self.path.clone(), why: "nothing was captured".to_owned() });
        };
        let content = FileContent { size: 0, digest: Digest::new([0; 32]), extents: Vec::new() };
        let mut entry = self.directory.entry(self.name.clone(), &captured.meta, EntryKind::File(content));
        // The copy is here: it is read and compared, whatever the times of the file say.
        (entry.ctime, entry.inode) = (None, None);
        let found = FoundEntry::new(entry, captured.size, false);
        drop(taken);
        each(Found::Entry(Box::new(found)));
        Ok(())
    }

    fn open(&self, found: &FoundEntry) -> Result<Opened<'_>, String> {
        let captured = self.taken.lock().unwrap_or_else(PoisonError::into_inner).take();
        let captured = captured.ok_or_else(|| "its copy was read already".to_owned())?;
        opened(captured, self.directory.xattrs(&found.entry)).map_err(|e| e.to_string())
    }

    fn xattrs(&self, entry: &Entry) -> BTreeMap<String, RawText> {
        self.directory.xattrs(entry)
    }

    fn facts(&self) -> serde_json::Value {
        serde_json::to_value(self.captures.collect()).unwrap_or_default()
    }

    fn finish(&self) -> Result<(), Error> {
        Ok(())
    }
}
