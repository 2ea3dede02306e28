//! Owners, attributes, modes and times of what was placed. What this user or this file system does not allow is remembered
//! and told at the end.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{self, AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::Error;
use super::directory::Directory;
use crate::model::{Entry, EntryKind, RelPath, Stamp};

impl Directory {
    /// Gives a finished file its length (holes at its end were not written), owner, attributes, mode and times.
    pub fn finish_file(&self, file: &File, entry: &Entry) -> Result<(), Error> {
        let stat = fs::fstat(file).map_err(|e| self.io("look at", &entry.path, e))?;
        if u64::try_from(stat.st_size).ok() != Some(entry.size()) {
            fs::ftruncate(file, entry.size()).map_err(|e| self.io("write", &entry.path, e))?;
        }
        self.finish_fd(file, entry, (stat.st_uid, stat.st_gid))
    }

    /// The same for a directory, once nothing is placed in it any more.
    pub fn finish_dir(&self, entry: &Entry) -> Result<(), Error> {
        let directory = self.directory(&entry.path)?;
        let stat = fs::fstat(&directory).map_err(|e| self.io("look at", &entry.path, e))?;
        self.finish_fd(&directory, entry, (stat.st_uid, stat.st_gid))
    }

    fn finish_fd(&self, fd: impl AsFd, entry: &Entry, mut owner: (u32, u32)) -> Result<(), Error> {
        let path = &entry.path;
        if self.is_root_user && owner != (entry.uid, entry.gid) {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            match fs::fchown(&fd, Some(uid), Some(gid)) {
                Ok(()) => owner = (entry.uid, entry.gid),
                Err(e) => self.note(path, "owner", e),
            }
        }
        for (attribute, value) in &entry.xattrs {
            let Ok(key) = CString::new(attribute.as_bytes()) else { continue };
            if let Err(e) = fs::fsetxattr(&fd, key.as_c_str(), value.as_bytes(), XattrFlags::empty()) {
                self.note(path, attribute, e);
            }
        }
        let mode = safe_mode(entry, owner.0, owner.1);
        fs::fchmod(&fd, Mode::from_raw_mode(mode)).map_err(|e| self.io("set the mode of", path, e))?;
        fs::futimens(&fd, &times(entry.mtime)).map_err(|e| self.io("set the times of", path, e))
    }

    /// Remembers metadata that this user or this file system does not allow: told at the end, not an error.
    pub(super) fn note(&self, path: &RelPath, what: &str, errno: Errno) {
        let mut trouble = self.trouble.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if trouble.len() < 1000 {
            trouble.push((path.to_string(), format!("its {what} could not be set: {errno}")));
        }
    }

    /// Metadata that could not be set.
    pub fn take_trouble(&self) -> Vec<(String, String)> {
        std::mem::take(&mut *self.trouble.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    pub(super) fn finish_node(&self, parent: &OwnedFd, last: &OsStr, entry: &Entry) -> Result<(), Error> {
        let path = &entry.path;
        if self.is_root_user {
            let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
            if let Err(e) = fs::chownat(parent, last, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW) {
                self.note(path, "owner", e);
            }
        }
        if !matches!(entry.kind, EntryKind::Symlink { .. }) {
            fs::chmodat(parent, last, Mode::from_raw_mode(entry.mode), AtFlags::empty())
                .map_err(|e| self.io("set the mode of", path, e))?;
        }
        for (attribute, value) in &entry.xattrs {
            // There is no call for a name below a descriptor; the parent was opened without following links.
            let full = self.absolute(path);
            if let Err(e) = fs::lsetxattr(&full, attribute.as_str(), value.as_bytes(), XattrFlags::empty()) {
                self.note(path, attribute, e);
            }
        }
        fs::utimensat(parent, last, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| self.io("set the times of", path, e))
    }
}

/// The mode to set: set-user-id and set-group-id only for the owner that they were given by.
fn safe_mode(entry: &Entry, uid: u32, gid: u32) -> u32 {
    if (uid, gid) == (entry.uid, entry.gid) || entry.is_dir() { entry.mode } else { entry.mode & !0o6000 }
}

fn times(mtime: Stamp) -> Timestamps {
    let time = Timespec { tv_sec: mtime.0, tv_nsec: mtime.1.min(999_999_999).into() };
    Timestamps { last_access: time, last_modification: time }
}
