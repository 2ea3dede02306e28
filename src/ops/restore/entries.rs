//! The selected entries of a snapshot, in path order. A selected name of a file whose first name is not selected becomes
//! that file itself; its further names link to it.

use std::collections::{HashMap, HashSet};

use crate::catalog::SnapshotRow;
use crate::model::{Entry, EntryKind, RelPath};
use crate::ops::Error;
use crate::ops::select::{Filter, Selection};
use crate::progress::Progress;
use crate::repository::{self, Repository};

/// Calls `each` for every selected entry of a snapshot, in path order.
pub(in crate::ops) fn each_selected(
    repository: &Repository,
    snapshot: &SnapshotRow,
    selection: &Selection,
    progress: &dyn Progress,
    each: &mut dyn FnMut(Entry) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut filter = Filter::new(selection);
    let mut stand_ins = StandIns::default();
    each_entry(repository, snapshot, progress, &mut |mut entry| {
        if stands_in(&entry, selection).is_some() {
            if stand_ins.files.is_none() {
                stand_ins.files = Some(first_files(repository, snapshot, selection, progress)?);
            }
            stand_ins.settle(repository, snapshot, &mut entry, progress)?;
        }
        filter.pass(entry, each)
    })
}

fn each_entry(
    repository: &Repository,
    snapshot: &SnapshotRow,
    progress: &dyn Progress,
    each: &mut dyn FnMut(Entry) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut manifest = repository.manifest(snapshot, progress)?;
    loop {
        if progress.cancelled() {
            return Err(repository::Error::Cancelled.into());
        }
        match manifest.next_stored()? {
            Some(entry) => each(entry)?,
            None => return Ok(()),
        }
    }
}

/// The first name of a selected link, where it is not selected itself.
fn stands_in<'e>(entry: &'e Entry, selection: &Selection) -> Option<&'e RelPath> {
    let EntryKind::Hardlink { target } = &entry.kind else { return None };
    let alone = !selection.is_all() && selection.wants(&entry.path, false) && !selection.wants(target, false);
    alone.then_some(target)
}

/// The files whose first names are not selected and that others stand in for: two readings of the manifest, however many
/// they are, and none where there are no such links.
fn first_files(
    repository: &Repository,
    snapshot: &SnapshotRow,
    selection: &Selection,
    progress: &dyn Progress,
) -> Result<HashMap<RelPath, Entry>, Error> {
    let mut wanted: HashSet<RelPath> = HashSet::new();
    each_entry(repository, snapshot, progress, &mut |entry| {
        wanted.extend(stands_in(&entry, selection).cloned());
        Ok(())
    })?;
    let mut files = HashMap::new();
    each_entry(repository, snapshot, progress, &mut |entry| {
        if wanted.remove(&entry.path) {
            files.insert(entry.path.clone(), entry);
        }
        Ok(())
    })?;
    Ok(files)
}

#[derive(Default)]
struct StandIns {
    files: Option<HashMap<RelPath, Entry>>,
    /// What stands in for which first name.
    names: HashMap<RelPath, RelPath>,
}

impl StandIns {
    fn settle(
        &mut self,
        repository: &Repository,
        snapshot: &SnapshotRow,
        entry: &mut Entry,
        progress: &dyn Progress,
    ) -> Result<(), Error> {
        let EntryKind::Hardlink { target } = &mut entry.kind else { return Ok(()) };
        if let Some(first) = self.names.get(target) {
            *target = first.clone();
            return Ok(());
        }
        let target = target.clone();
        let file = match self.files.as_mut().and_then(|files| files.remove(&target)) {
            Some(file) => file,
            // It is not there: said by whoever looks for a path.
            None => crate::ops::look::find_entry(repository, snapshot, &target, progress)?,
        };
        (entry.kind, entry.xattrs) = (file.kind, file.xattrs);
        self.names.insert(target, entry.path.clone());
        Ok(())
    }
}
