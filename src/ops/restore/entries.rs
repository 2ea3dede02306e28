//! The selected entries of a snapshot, in path order. A selected name of a file whose first name is not selected becomes
//! that file itself; its further names link to it.

use std::collections::{HashMap, HashSet};

use crate::catalog::SnapshotRow;
use crate::model::{Entry, EntryKind, RelPath, limits};
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
    each_entry(repository, snapshot, progress, &mut |entry| {
        let mut entry = entry;
        if stands_in(&entry, selection).is_some() {
            if stand_ins.files.is_none() {
                stand_ins.files = Some(first_files(repository, snapshot, selection, progress)?);
            }
            stand_ins.settle(repository, snapshot, &mut entry, progress)?;
        }
        match selection.rebase(entry) {
            Some(entry) => filter.pass(entry, each),
            None => Ok(()),
        }
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
    // Where one directory is taken for the root there are no patterns.
    let alone = match selection.is_whole_tree() {
        false => selection.links_out(entry),
        true => !selection.is_all() && selection.wants(&entry.path, false) && !selection.wants(target, false),
    };
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

/// Entries that are kept between the plan and the restore, as long as they fit into one window: a few files may have more
/// extents than all others together.
pub(super) struct Kept {
    entries: Option<Vec<Entry>>,
    extents: usize,
}

impl Default for Kept {
    fn default() -> Self {
        Self { entries: Some(Vec::new()), extents: 0 }
    }
}

impl Kept {
    pub fn push(&mut self, entry: Entry) {
        self.push_within(entry, limits::RESTORE_WINDOW_ENTRIES, limits::RESTORE_WINDOW_EXTENTS);
    }

    fn push_within(&mut self, entry: Entry, entries_max: usize, extents_max: usize) {
        self.extents += entry.content().map_or(0, |content| content.extents.len());
        match &mut self.entries {
            Some(all) if all.len() < entries_max && self.extents <= extents_max => all.push(entry),
            _ => self.entries = None,
        }
    }

    /// All of them, or nothing where they are too many.
    pub fn all(self) -> Option<Vec<Entry>> {
        self.entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Digest, Extent, FileContent};

    #[test]
    fn few_entries_with_many_extents_are_not_kept() {
        let entry = |extents: usize| {
            let extents = vec![Extent { frame: None, offset: 0, length: 1 }; extents];
            let content = FileContent { size: extents.len() as u64, digest: Digest::new([0; 32]), extents };
            Entry::bare(RelPath::root(), EntryKind::File(content))
        };
        let kept = |extents: &[usize]| {
            let mut kept = Kept::default();
            extents.iter().for_each(|n| kept.push_within(entry(*n), 3, 10));
            kept.all().map(|all| all.len())
        };
        assert_eq!((kept(&[]), kept(&[1, 1, 1]), kept(&[5, 5])), (Some(0), Some(3), Some(2)));
        assert_eq!((kept(&[1, 1, 1, 1]), kept(&[5, 6]), kept(&[11, 0])), (None, None, None));
    }
}
