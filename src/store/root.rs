//! The directory of a local store, as it was when the store was opened.
//!
//! A client of a disk makes directories as it goes. Where the store's own was moved away or unmounted meanwhile it would be made anew,
//! and what is put there would be acknowledged and out of reach. So it is compared before and after each request: device,
//! inode and, where the disk keeps it, the time of its making. No handle is held: that would keep a disk from being unmounted.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// What tells one directory from another that stands in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    /// Inodes are given again: by this one that was made anew is known.
    made: Option<SystemTime>,
}

impl Identity {
    fn of(path: &Path) -> Option<Self> {
        let meta = fs::metadata(path).ok().filter(fs::Metadata::is_dir)?;
        Some(Self { device: meta.dev(), inode: meta.ino(), made: meta.created().ok() })
    }
}

/// The directory of a local store.
#[derive(Debug)]
pub(super) struct Root {
    path: PathBuf,
    identity: Mutex<Option<Identity>>,
}

impl Root {
    /// As it stands now. A relative path is made absolute.
    pub fn of(path: &Path) -> Self {
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        Self { identity: Mutex::new(Identity::of(&path)), path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn identity(&self) -> MutexGuard<'_, Option<Identity>> {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is the one that was opened.
    pub fn is_there(&self) -> bool {
        let known = *self.identity();
        known.is_some() && known == Identity::of(&self.path)
    }

    /// Takes what stands there now for it.
    pub fn look_again(&self) {
        *self.identity() = Identity::of(&self.path);
    }

    /// What stands there is something else: nothing is done with it any more.
    pub fn disown(&self) {
        *self.identity() = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_was_moved_or_made_anew_is_another() {
        let folder = tempfile::tempdir().unwrap();
        let (path, aside) = (folder.path().join("repo"), folder.path().join("aside"));
        fs::create_dir(&path).unwrap();
        let root = Root::of(&path);
        fs::write(path.join("object"), "x").unwrap();
        assert!(root.is_there(), "its content may change");
        fs::rename(&path, &aside).unwrap();
        assert!(!root.is_there());
        fs::create_dir(&path).unwrap();
        assert!(!root.is_there());
        root.look_again();
        assert!(root.is_there());
        root.disown();
        assert!(!root.is_there());
        fs::remove_dir(&path).unwrap();
        fs::rename(&aside, &path).unwrap();
        root.look_again();
        assert!(root.is_there());
    }
}
