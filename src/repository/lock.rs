//! Locks between the processes of one host: files of its own that are locked as a whole (`flock`), gone with the process.
//!
//! A lock is taken back when it is dropped, not only closed: a program that another thread is starting holds a copy of
//! every open file between its `fork` and its `exec`, and would keep a closed lock for as long as that takes.
//!
//! It does not protect anything between hosts: nothing in a repository needs a lock.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;

/// A lock that is held until it is dropped.
#[derive(Debug)]
pub struct Lock(File);

impl Lock {
    fn open(path: &Path) -> io::Result<Self> {
        OpenOptions::new().create(true).truncate(false).write(true).open(path).map(Self)
    }

    /// Waits until nobody else has it, however long that takes.
    ///
    /// # Errors
    /// The file cannot be made or opened, or its file system knows no locks.
    pub fn alone(path: &Path) -> io::Result<Self> {
        let lock = Self::open(path)?;
        lock.0.lock()?;
        Ok(lock)
    }

    /// `None` where somebody else has it, alone or shared.
    ///
    /// # Errors
    /// As for [`Lock::alone`].
    pub fn try_alone(path: &Path) -> io::Result<Option<Self>> {
        let lock = Self::open(path)?;
        Ok(lock.become_alone()?.then_some(lock))
    }

    /// Waits until nobody has it alone.
    ///
    /// # Errors
    /// As for [`Lock::alone`].
    pub fn shared(path: &Path) -> io::Result<Self> {
        let lock = Self::open(path)?;
        lock.share()?;
        Ok(lock)
    }

    /// Makes a shared lock one's own; false where others share it, and then nothing is held until [`Lock::share`].
    pub(super) fn become_alone(&self) -> io::Result<bool> {
        match self.0.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    pub(super) fn share(&self) -> io::Result<()> {
        self.0.lock_shared()
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Where this fails, closing the file does it.
        let _ = self.0.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_was_dropped_is_free_while_a_copy_of_its_file_is_open() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let held = Lock::alone(&path).unwrap();
        assert!(Lock::try_alone(&path).unwrap().is_none());
        // What a program that is being started has, until its `exec`.
        let copy = held.0.try_clone().unwrap();
        drop(held);
        let again = Lock::try_alone(&path).unwrap();
        assert!(again.is_some());
        drop((again, copy));
        let (one, two) = (Lock::shared(&path).unwrap(), Lock::shared(&path).unwrap());
        assert!(!one.become_alone().unwrap() && Lock::try_alone(&path).unwrap().is_none());
        drop(two);
        assert!(one.become_alone().unwrap());
        one.share().unwrap();
        assert!(Lock::shared(&path).is_ok());
    }
}
