//! The entries of an archive made into a tree: path order, each path once, every directory before what is in it, and links
//! that point at the first of their names.
//!
//! It follows what `tar -x` would leave: a later member replaces an earlier one of the same name, directories that no
//! member names are made. What cannot be so is left out and named. Not here: content; entries come with their extents.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;

use super::Error;
use super::sorter::Sorter;
use crate::model::{Entry, EntryKind, RelPath};

/// The entries of a source that promises no order.
pub(super) struct Unordered {
    sorter: Sorter,
    links: Links,
    /// Links that lost what they named, and why.
    forgotten: BTreeMap<RelPath, String>,
}

/// Links, and what they name in the end.
#[derive(Default)]
struct Links {
    targets: HashMap<RelPath, RelPath>,
    /// The same from the other side, so that what comes anew finds those that named what was there before.
    names: HashMap<RelPath, BTreeSet<RelPath>>,
}

impl Links {
    fn insert(&mut self, link: RelPath, target: RelPath) {
        self.names.entry(target.clone()).or_default().insert(link.clone());
        self.targets.insert(link, target);
    }

    fn remove(&mut self, link: &RelPath) {
        if let Some(names) = self.targets.remove(link).and_then(|target| self.names.get_mut(&target)) {
            names.remove(link);
        }
    }

    /// Takes away all links to a path.
    fn take_names(&mut self, target: &RelPath) -> BTreeSet<RelPath> {
        let names = self.names.remove(target).unwrap_or_default();
        for link in &names {
            self.targets.remove(link);
        }
        names
    }
}

/// What has further names, by the path that the archive gave it.
#[derive(Default)]
struct Groups {
    /// Files: the first of their names that can be, under which they are stored.
    first: HashMap<RelPath, RelPath>,
    /// By that first name, where it is not the archive's: the entry with the content.
    moved: HashMap<RelPath, Entry>,
    /// What is neither file nor directory: each further name is a copy of it.
    copies: HashMap<RelPath, Entry>,
}

/// The file, if there is one, in place of which an entry would need a directory. Entries come in path order.
#[derive(Default)]
struct Leaf(Option<RelPath>);

impl Leaf {
    fn above(&self, path: &RelPath) -> Option<&RelPath> {
        self.0.as_ref().filter(|leaf| path.is_within(leaf))
    }

    fn placed(&mut self, entry: &Entry) {
        if !entry.is_dir() {
            self.0 = Some(entry.path.clone());
        }
    }
}

impl Unordered {
    pub fn new(folder: &Path) -> Self {
        Self { sorter: Sorter::new(folder), links: Links::default(), forgotten: BTreeMap::new() }
    }

    pub fn push(&mut self, entry: &Entry) -> Result<(), Error> {
        if let EntryKind::Hardlink { target } = &entry.kind {
            let target = self.links.targets.get(target).unwrap_or(target).clone();
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
        self.forgotten.remove(path);
        for link in self.links.take_names(path) {
            let why = format!("it is a link to an earlier `{path}`; the archive has another one after it");
            self.forgotten.insert(link, why);
        }
    }

    /// Calls `each` for every entry of the tree, in order. Answers what was left out, and why.
    pub fn settle(mut self, each: &mut dyn FnMut(Entry) -> Result<(), Error>) -> Result<Vec<(RelPath, String)>, Error> {
        self.sorter.settle();
        let mut groups = self.groups()?;
        let (mut open, mut leaf) = (Vec::<RelPath>::new(), Leaf::default());
        let Self { sorter, links, forgotten } = self;
        let mut left_out: Vec<(RelPath, String)> = forgotten.into_iter().collect();
        sorter.each(&mut |mut entry| {
            let link = matches!(entry.kind, EntryKind::Hardlink { .. });
            let target = if link { links.targets.get(&entry.path) } else { None };
            if link && target.is_none() {
                // A link that was forgotten was named when that happened.
                return Ok(());
            }
            if let Some(file) = leaf.above(&entry.path) {
                left_out.push((entry.path, format!("`{file}` is no directory")));
                return Ok(());
            }
            if let Some(target) = target {
                let Some(settled) = groups.settle_link(&entry, target) else {
                    left_out.push((entry.path, format!("it is a link to `{target}`, which is no file of the archive")));
                    return Ok(());
                };
                entry = settled;
            } else if let Some(first) = groups.first.get(&entry.path)
                && *first != entry.path
            {
                entry.kind = EntryKind::Hardlink { target: first.clone() };
            }
            open_parents(&entry, &mut open, each)?;
            if entry.is_dir() {
                open.push(entry.path.clone());
            }
            leaf.placed(&entry);
            each(entry)
        })?;
        if open.is_empty() {
            each(made(RelPath::root(), &Entry::bare(RelPath::root(), EntryKind::Dir)))?;
        }
        Ok(left_out)
    }

    /// Three readings of everything, only where there are links at all: what has links, under which of its names it can
    /// be, and its content where that is another one than the archive's.
    fn groups(&self) -> Result<Groups, Error> {
        let mut groups = Groups::default();
        if self.links.targets.is_empty() {
            return Ok(groups);
        }
        let mut files: HashSet<RelPath> = HashSet::new();
        self.sorter.each(&mut |entry| {
            if self.links.names.get(&entry.path).is_none_or(BTreeSet::is_empty) {
                return Ok(());
            }
            match entry.kind {
                EntryKind::File(_) => drop(files.insert(entry.path)),
                EntryKind::Dir | EntryKind::Hardlink { .. } => {}
                _ => drop(groups.copies.insert(entry.path.clone(), entry)),
            }
            Ok(())
        })?;
        let mut leaf = Leaf::default();
        self.sorter.each(&mut |entry| {
            let target = match entry.kind {
                EntryKind::Hardlink { .. } => self.links.targets.get(&entry.path),
                _ => Some(&entry.path),
            };
            let Some(target) = target.filter(|_| leaf.above(&entry.path).is_none()) else { return Ok(()) };
            if files.contains(target) {
                groups.first.entry(target.clone()).or_insert_with(|| entry.path.clone());
            } else if *target != entry.path && !groups.copies.contains_key(target) {
                // A link that names nothing is left out, and hides nothing.
                return Ok(());
            }
            leaf.placed(&entry);
            Ok(())
        })?;
        if groups.first.iter().any(|(path, first)| path != first) {
            self.sorter.each(&mut |entry| {
                if let Some(first) = groups.first.get(&entry.path)
                    && *first != entry.path
                {
                    groups.moved.insert(first.clone(), entry);
                }
                Ok(())
            })?;
        }
        Ok(groups)
    }
}

impl Groups {
    /// What a link becomes: the content itself, a further name of it, or a copy of what is no file.
    fn settle_link(&mut self, link: &Entry, target: &RelPath) -> Option<Entry> {
        let path = link.path.clone();
        if let Some(copy) = self.copies.get(target) {
            return Some(Entry { path, ..copy.clone() });
        }
        let first = self.first.get(target)?;
        Some(match self.moved.remove(&path) {
            Some(content) => Entry { path, ..content },
            None => Entry { kind: EntryKind::Hardlink { target: first.clone() }, ..link.clone() },
        })
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
                EntryKind::Symlink { target } => format!("{} @{target}", entry.path),
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

    fn symlink(at: &str, target: &str) -> Entry {
        Entry::bare(path(at), EntryKind::Symlink { target: crate::model::RawText(target.as_bytes().to_vec()) })
    }

    #[test]
    fn content_goes_to_a_name_that_can_be() {
        let shadowed = ["a/b: `a` is no directory".to_owned()];
        for entries in
            [[file("a/b", 7), link("z", "a/b"), file("a", 1)], [file("z", 7), link("a/b", "z"), file("a", 1)]]
        {
            assert_eq!(tree(&entries), (vec!["./".into(), "a 1".into(), "z 7".into()], shadowed.to_vec()));
        }
        let (lines, left_out) = tree(&[file("a/b", 7), link("y", "a/b"), link("z", "y"), symlink("a", "y")]);
        assert_eq!(
            (lines.as_slice(), left_out.as_slice()),
            (&["./", "a @y", "y 7", "z -> y"].map(String::from)[..], &shadowed[..])
        );
        // A link that comes to nothing hides nothing.
        let (lines, _) = tree(&[link("a", "nowhere"), file("a/b", 7), link("z", "a/b")]);
        assert_eq!(lines, ["./", "a/", "a/b 7", "z -> a/b"]);
    }

    #[test]
    fn a_tree_that_comes_twice_is_whole() {
        let once = [file("a", 1), link("b", "a"), link("c", "b")];
        let (lines, left_out) = tree(&[once.clone(), once].concat());
        assert_eq!(lines, ["./", "a 1", "b -> a", "c -> a"]);
        assert!(left_out.is_empty(), "{left_out:?}");
    }

    #[test]
    fn another_name_of_what_is_no_file_is_a_copy_of_it() {
        let (lines, left_out) = tree(&[symlink("s", "x"), link("a", "s"), link("t", "s")]);
        assert_eq!(lines, ["./", "a @x", "s @x", "t @x"]);
        assert!(left_out.is_empty(), "{left_out:?}");
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
