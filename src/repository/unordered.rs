//! The entries of an archive made into a tree: path order, each path once, every directory before what is in it, and links
//! that point at the first of their names.
//!
//! It follows what `tar -x` would leave: a later member replaces an earlier one of the same name, directories that no
//! member names are made. What cannot be so is left out and named. Not here: content; entries come with their extents.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::Error;
use super::sorter::Sorter;
use crate::model::{Entry, EntryKind, RelPath};

/// The entries of a source that promises no order.
pub(super) struct Unordered {
    sorter: Sorter,
    /// A link's path, and the path of the file that it names in the end.
    links: BTreeMap<RelPath, RelPath>,
    left_out: Vec<(RelPath, String)>,
}

/// The files that have further names, and under which of them they are stored.
struct Groups {
    /// By the path that the archive gave the content: the first of all its names.
    first: HashMap<RelPath, RelPath>,
    /// By that first name, where it is not the archive's: the entry with the content.
    moved: HashMap<RelPath, Entry>,
}

impl Unordered {
    pub fn new(folder: &Path) -> Self {
        Self { sorter: Sorter::new(folder), links: BTreeMap::new(), left_out: Vec::new() }
    }

    pub fn push(&mut self, entry: &Entry) -> Result<(), Error> {
        if let EntryKind::Hardlink { target } = &entry.kind {
            let target = self.links.get(target).unwrap_or(target).clone();
            if target == entry.path {
                return Ok(());
            }
            self.forget(&entry.path);
            self.links.insert(entry.path.clone(), target);
        } else {
            self.forget(&entry.path);
        }
        self.sorter.push(entry)
    }

    /// A path comes anew: links that named what was there before have lost it.
    fn forget(&mut self, path: &RelPath) {
        self.links.remove(path);
        let left_out = &mut self.left_out;
        self.links.retain(|link, target| {
            if target == path {
                let why = format!("it is a link to an earlier `{path}`; the archive has another one after it");
                left_out.push((link.clone(), why));
            }
            target != path
        });
    }

    /// Calls `each` for every entry of the tree, in order. Answers what was left out, and why.
    pub fn settle(mut self, each: &mut dyn FnMut(Entry) -> Result<(), Error>) -> Result<Vec<(RelPath, String)>, Error> {
        self.sorter.settle();
        let mut groups = self.groups()?;
        let (mut open, mut leaf) = (Vec::<RelPath>::new(), None::<RelPath>);
        let Self { sorter, links, mut left_out } = self;
        sorter.each(&mut |mut entry| {
            if matches!(entry.kind, EntryKind::Hardlink { .. }) {
                // A link that was forgotten was named when that happened.
                let Some(target) = links.get(&entry.path) else { return Ok(()) };
                let Some(first) = groups.first.get(target) else {
                    left_out.push((entry.path, format!("it is a link to `{target}`, which is no file of the archive")));
                    return Ok(());
                };
                match groups.moved.remove(&entry.path) {
                    Some(content) => entry = Entry { path: entry.path, ..content },
                    None => entry.kind = EntryKind::Hardlink { target: first.clone() },
                }
            } else if let Some(first) = groups.first.get(&entry.path)
                && *first != entry.path
            {
                entry.kind = EntryKind::Hardlink { target: first.clone() };
            }
            if let Some(file) = &leaf
                && entry.path.is_within(file)
            {
                left_out.push((entry.path, format!("`{file}` is no directory")));
                return Ok(());
            }
            open_parents(&entry, &mut open, each)?;
            if entry.is_dir() {
                open.push(entry.path.clone());
            } else {
                leaf = Some(entry.path.clone());
            }
            each(entry)
        })?;
        if open.is_empty() {
            each(made(RelPath::root(), &Entry::bare(RelPath::root(), EntryKind::Dir)))?;
        }
        Ok(left_out)
    }

    /// One reading of everything, only where there are links at all.
    fn groups(&self) -> Result<Groups, Error> {
        let mut groups = Groups { first: HashMap::new(), moved: HashMap::new() };
        if self.links.is_empty() {
            return Ok(groups);
        }
        // Links come in path order, so the first one that names a target is the first of its links.
        let mut firsts: HashMap<&RelPath, &RelPath> = HashMap::new();
        for (link, target) in &self.links {
            firsts.entry(target).or_insert(link);
        }
        self.sorter.each(&mut |entry| {
            let Some(link) = firsts.get(&entry.path).filter(|_| entry.content().is_some()) else { return Ok(()) };
            let first = (*link).min(&entry.path).clone();
            if first != entry.path {
                groups.moved.insert(first.clone(), entry.clone());
            }
            groups.first.insert(entry.path, first);
            Ok(())
        })?;
        Ok(groups)
    }
}

/// Makes the directories above an entry that did not come.
fn open_parents(
    entry: &Entry,
    open: &mut Vec<RelPath>,
    each: &mut dyn FnMut(Entry) -> Result<(), Error>,
) -> Result<(), Error> {
    while open.last().is_some_and(|top| !entry.path.is_within(top)) {
        open.pop();
    }
    let mut missing = Vec::new();
    let mut above = entry.path.parent();
    while let Some(directory) = above.filter(|directory| open.last() != Some(directory)) {
        above = directory.parent();
        missing.push(directory);
    }
    for directory in missing.into_iter().rev() {
        open.push(directory.clone());
        each(made(directory, entry))?;
    }
    Ok(())
}

/// A directory that the archive takes for granted: its owner and time are those of what lies in it.
fn made(path: RelPath, of: &Entry) -> Entry {
    let (user, group) = (of.user.clone(), of.group.clone());
    let bare = Entry::bare(path, EntryKind::Dir);
    Entry { mode: 0o755, uid: of.uid, gid: of.gid, user, group, mtime: of.mtime, ..bare }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Digest, FileContent};

    fn path(text: &str) -> RelPath {
        RelPath::new(text).unwrap()
    }
    fn file(at: &str, size: u64) -> Entry {
        let content = FileContent { size, digest: Digest::new([0; 32]), extents: Vec::new() };
        Entry::bare(path(at), EntryKind::File(content))
    }
    fn dir(at: &str) -> Entry {
        Entry::bare(path(at), EntryKind::Dir)
    }
    fn link(at: &str, target: &str) -> Entry {
        Entry::bare(path(at), EntryKind::Hardlink { target: path(target) })
    }

    /// The tree in words, and what was left out.
    fn tree(entries: &[Entry]) -> (Vec<String>, Vec<String>) {
        let folder = tempfile::tempdir().unwrap();
        let mut all = Unordered::new(folder.path());
        for entry in entries {
            all.push(entry).unwrap();
        }
        let mut lines = Vec::new();
        let left_out = all.settle(&mut |entry| {
            lines.push(match &entry.kind {
                EntryKind::File(content) => format!("{} {}", entry.path, content.size),
                EntryKind::Hardlink { target } => format!("{} -> {target}", entry.path),
                _ => format!("{}/", entry.path),
            });
            Ok(())
        });
        (lines, left_out.unwrap().into_iter().map(|(path, why)| format!("{path}: {why}")).collect())
    }

    #[test]
    fn directories_come_first_and_missing_ones_are_made() {
        let (lines, left_out) = tree(&[file("b/c/x", 1), dir("b"), file("a", 2)]);
        assert_eq!(lines, ["./", "a 2", "b/", "b/c/", "b/c/x 1"]);
        assert!(left_out.is_empty());
        assert_eq!(tree(&[]).0, ["./"]);
    }

    #[test]
    fn the_first_name_of_a_file_holds_its_content() {
        let (lines, _) = tree(&[file("z", 7), link("a", "z"), link("m", "a"), dir("")]);
        assert_eq!(lines, ["./", "a 7", "m -> a", "z -> a"]);
        let (lines, _) = tree(&[file("a", 7), link("b", "a")]);
        assert_eq!(lines, ["./", "a 7", "b -> a"]);
    }

    #[test]
    fn a_later_member_replaces_an_earlier_one() {
        let (lines, left_out) = tree(&[file("a", 1), link("b", "a"), file("a", 2), link("c", "a")]);
        assert_eq!(lines, ["./", "a 2", "c -> a"]);
        assert_eq!(left_out.len(), 1);
        assert!(left_out[0].starts_with("b: it is a link to an earlier `a`"), "{left_out:?}");
    }

    #[test]
    fn what_cannot_be_is_left_out_and_named() {
        let (lines, left_out) = tree(&[file("a", 1), file("a/b", 2), link("l", "nowhere")]);
        assert_eq!(lines, ["./", "a 1"]);
        assert_eq!(
            left_out,
            ["a/b: `a` is no directory", "l: it is a link to `nowhere`, which is no file of the archive"]
        );
    }
}
