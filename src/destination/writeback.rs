//! Brings what a restore has written to the disk while it goes on, so that the sync at its end waits for little and a large
//! restore does not fill memory with dirty pages. One call for the whole file system each time: for thousands of small
//! files that costs far less than asking for each.
//!
//! Invariants: a failure in the background is reported by the next [`Writeback::finish`], because the kernel tells it once
//! for each open descriptor. Not here: which files are whole.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::io::Errno;

/// Bytes between two calls: far more than a disk's queue, far less than memory.
const EVERY: u64 = 32 << 20;

/// A thread that syncs a file system each time enough was written to it.
pub struct Writeback {
    written: AtomicU64,
    wake: Sender<()>,
    thread: JoinHandle<Result<(), Errno>>,
}

impl Writeback {
    /// For the file system of an open directory.
    pub(super) fn start(root: Arc<OwnedFd>) -> Self {
        let (wake, due): (_, Receiver<()>) = bounded(1);
        let thread =
            std::thread::spawn(move || due.iter().map(|()| rustix::fs::syncfs(&root)).fold(Ok(()), Result::and));
        Self { written: AtomicU64::new(0), wake, thread }
    }

    /// Counts what was written. Never waits: a call that is under way covers it, or the next one does.
    pub fn wrote(&self, bytes: u64) {
        let before = self.written.fetch_add(bytes, Ordering::Relaxed);
        if before / EVERY != (before + bytes) / EVERY {
            let _ = self.wake.try_send(());
        }
    }

    /// Waits for the call that is under way. Errors: the first that any of them met.
    pub fn finish(self) -> Result<(), Errno> {
        drop(self.wake);
        self.thread.join().unwrap_or(Err(Errno::IO))
    }
}
