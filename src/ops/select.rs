//! Which entries of a snapshot are meant: `--include` and `--exclude`, with the meaning of `.gitignore` lines at the root
//! of the snapshot. A directory is wanted when something in it is. A selection may also mean one directory of the snapshot,
//! taken for the root of all, or leave such directories to other restores.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use super::Error;
use crate::model::{Entry, EntryKind, RelPath};

/// A selection of entries.
#[derive(Debug, Clone)]
pub struct Selection {
    include: Option<Gitignore>,
    exclude: Gitignore,
    /// The directory that is taken for the root; paths are below it.
    root: RelPath,
    /// Directories that somebody else places.
    apart: Vec<RelPath>,
}

fn build(patterns: &[String]) -> Result<Gitignore, Error> {
    let mut builder = GitignoreBuilder::new("");
    for pattern in patterns {
        let fail = |source| Error::Pattern { pattern: pattern.clone(), source };
        builder.add_line(None, pattern).map_err(fail)?;
    }
    builder.build().map_err(|source| Error::Pattern { pattern: patterns.join(", "), source })
}

impl Selection {
    /// Without patterns everything is meant.
    pub fn new(include: &[String], exclude: &[String]) -> Result<Self, Error> {
        let wanted = if include.is_empty() { None } else { Some(build(include)?) };
        Ok(Self { include: wanted, exclude: build(exclude)?, root: RelPath::root(), apart: Vec::new() })
    }

    /// One directory of the snapshot, whole, taken for the root.
    pub fn below(root: RelPath) -> Self {
        Self { include: None, exclude: Gitignore::empty(), root, apart: Vec::new() }
    }

    /// The same without some directories.
    pub fn without(mut self, directories: impl IntoIterator<Item = RelPath>) -> Self {
        self.apart.extend(directories);
        self
    }

    /// The same of a snapshot's own root where patterns leave nothing out: what `--delete` compares with.
    pub(super) fn everything_of(&self) -> Self {
        Self::below(self.root.clone())
    }

    /// The entry as it is called below the root; `None` where it lies elsewhere. Targets of hard links go with it.
    pub(super) fn rebase(&self, mut entry: Entry) -> Option<Entry> {
        if self.root.is_root() {
            return Some(entry);
        }
        if let EntryKind::Hardlink { target } = &mut entry.kind {
            *target = target.strip(&self.root)?;
        }
        entry.path = entry.path.strip(&self.root)?;
        Some(entry)
    }

    /// Whether an entry of it is a link to a file that lies outside.
    pub(super) fn links_out(&self, entry: &Entry) -> bool {
        match &entry.kind {
            EntryKind::Hardlink { target } => entry.path.is_within(&self.root) && !target.is_within(&self.root),
            _ => false,
        }
    }

    /// Whether the snapshot's own root is the root.
    pub(super) fn is_whole_tree(&self) -> bool {
        self.root.is_root()
    }

    /// Whether everything is meant.
    pub fn is_all(&self) -> bool {
        self.root.is_root() && self.include.is_none() && self.exclude.is_empty() && self.apart.is_empty()
    }

    /// Whether an entry is meant by itself.
    pub fn wants(&self, path: &RelPath, is_dir: bool) -> bool {
        if path.is_root() {
            return self.include.is_none();
        }
        if self.apart.iter().any(|directory| path.is_within(directory)) {
            return false;
        }
        let path = Path::new(OsStr::from_bytes(path.as_bytes()));
        let out = self.exclude.matched_path_or_any_parents(path, is_dir).is_ignore();
        let wanted = self.include.as_ref().is_none_or(|i| i.matched_path_or_any_parents(path, is_dir).is_ignore());
        wanted && !out
    }
}

/// Passes selected entries on, with the directories that they lie in before them.
pub(super) struct Filter<'s> {
    selection: &'s Selection,
    held: Vec<Entry>,
}

impl<'s> Filter<'s> {
    pub fn new(selection: &'s Selection) -> Self {
        Self { selection, held: Vec::new() }
    }

    /// Calls `each` for the entry if it is meant, and before it for its directories that were held back.
    pub fn pass(&mut self, entry: Entry, each: &mut dyn FnMut(Entry) -> Result<(), Error>) -> Result<(), Error> {
        self.held.retain(|dir| entry.path.is_within(&dir.path));
        if self.selection.wants(&entry.path, entry.is_dir()) {
            for directory in self.held.drain(..) {
                each(directory)?;
            }
            each(entry)
        } else {
            if entry.is_dir() {
                self.held.push(entry);
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::EntryKind;

    fn selected(include: &[&str], exclude: &[&str]) -> Vec<String> {
        let text = |all: &[&str]| all.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>();
        let selection = Selection::new(&text(include), &text(exclude)).unwrap();
        let (mut filter, mut seen) = (Filter::new(&selection), Vec::new());
        for (path, is_dir) in [
            ("", true),
            ("a", true),
            ("a/b", true),
            ("a/b/c.txt", false),
            ("a/d.log", false),
            ("e", true),
            ("e/f.txt", false),
        ] {
            let kind = if is_dir { EntryKind::Dir } else { EntryKind::Fifo };
            let entry = Entry::bare(RelPath::new(path).unwrap(), kind);
            let mut each = |entry: Entry| {
                seen.push(entry.path.to_string());
                Ok(())
            };
            filter.pass(entry, &mut each).unwrap();
        }
        seen
    }

    #[test]
    fn directories_of_what_is_meant_come_with_it() {
        assert_eq!(selected(&["c.txt"], &[]), [".", "a", "a/b", "a/b/c.txt"]);
        assert_eq!(selected(&["/a"], &["*.log"]), [".", "a", "a/b", "a/b/c.txt"]);
        assert_eq!(selected(&[], &["/a"]), [".", "e", "e/f.txt"]);
        assert_eq!(selected(&[], &[]).len(), 7);
        assert!(selected(&["nothing"], &[]).is_empty());
    }
}
