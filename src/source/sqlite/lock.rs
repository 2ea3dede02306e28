//! SQLite's locks on a database, taken by us as SQLite takes them (<https://www.sqlite.org/lockingv3.html>, and `os_unix.c` and
//! `wal.c` for the bytes).
//!
//! They are locks of the open file description, not of the process: they meet the locks of every SQLite on this kernel, in
//! containers too, and no other file of ours that is closed lets go of them. Only reading locks are taken, so a file that was
//! opened for reading will do, and nothing is written. A lock ends with its value. Not here: how long one is kept.

use std::fs::File;
use std::io;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

/// A writer that waits for readers holds this one; no new reader may come.
const PENDING: i64 = 0x4000_0000;
/// A writer that prepares a transaction holds this one.
const RESERVED: i64 = PENDING + 1;
/// Readers hold these, a writer that changes the file holds all of them.
const SHARED: (i64, i64) = (PENDING + 2, 510);
/// In the `-shm` file: readers of the database file alone hold it, and whoever moves the log into it holds it alone.
const READ_0: i64 = 123;
/// In the `-shm` file: everybody who has the database open holds it.
const SWITCH: i64 = 128;

fn range(kind: i32, start: i64, length: i64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: length,
        l_pid: 0,
    }
}

fn try_read(file: &File, start: i64, length: i64) -> io::Result<bool> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&range(libc::F_RDLCK, start, length))) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

fn release(file: &File, start: i64, length: i64) {
    let _ = fcntl(file, FcntlArg::F_OFD_SETLK(&range(libc::F_UNLCK, start, length)));
}

fn is_held(file: &File, start: i64) -> io::Result<bool> {
    let mut found = range(libc::F_WRLCK, start, 1);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut found))?;
    Ok(i32::from(found.l_type) != libc::F_UNLCK)
}

/// A lock that ends with the value.
#[derive(Debug)]
pub struct Held<'f> {
    file: &'f File,
    start: i64,
    length: i64,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        release(self.file, self.start, self.length);
    }
}

/// The lock of a reader: while it is held, nobody changes the database file. `None` where a writer is at work, or waits.
pub fn try_share(file: &File) -> io::Result<Option<Held<'_>>> {
    if !try_read(file, PENDING, 1)? {
        return Ok(None);
    }
    let got = try_read(file, SHARED.0, SHARED.1);
    release(file, PENDING, 1);
    Ok(got?.then_some(Held { file, start: SHARED.0, length: SHARED.1 }))
}

/// Whether a writer prepares a transaction: the journal is its own, and not what a dead one left.
pub fn is_reserved(file: &File) -> io::Result<bool> {
    is_held(file, RESERVED)
}

/// Whether somebody has the database of this `-shm` file open.
pub fn is_open(shm: &File) -> io::Result<bool> {
    is_held(shm, SWITCH)
}

/// Keeps what is in the write-ahead log from being moved into the database file; it grows meanwhile. `None` while somebody does that.
pub fn try_hold_checkpoints(shm: &File) -> io::Result<Option<Held<'_>>> {
    Ok(try_read(shm, READ_0, 1)?.then_some(Held { file: shm, start: READ_0, length: 1 }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::Connection;

    fn two(mode: &str) -> (tempfile::TempDir, Connection, File) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let db = Connection::open(&path).unwrap();
        db.pragma_update(None, "journal_mode", mode).unwrap();
        db.execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (1)").unwrap();
        db.busy_timeout(std::time::Duration::ZERO).unwrap();
        let file = File::open(&path).unwrap();
        (folder, db, file)
    }

    #[test]
    fn a_writer_waits_for_our_lock_and_we_for_its() {
        let (folder, db, file) = two("DELETE");
        let held = try_share(&file).unwrap().unwrap();
        // Another file of ours that is closed takes nothing away.
        drop(File::open(folder.path().join("db")).unwrap());
        assert!(db.execute_batch("INSERT INTO t VALUES (2)").is_err());
        drop(held);
        db.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES (3)").unwrap();
        assert!(is_reserved(&file).unwrap());
        assert!(try_share(&file).unwrap().is_some(), "a transaction that is prepared changes nothing yet");
        db.execute_batch("COMMIT; BEGIN EXCLUSIVE").unwrap();
        assert!(try_share(&file).unwrap().is_none());
        db.execute_batch("COMMIT").unwrap();
        assert!(!is_reserved(&file).unwrap());
    }

    #[test]
    fn a_writer_of_a_log_does_not_wait_and_checkpoints_do() {
        let (folder, db, file) = two("WAL");
        let shm = File::open(folder.path().join("db-shm")).unwrap();
        assert!(is_open(&shm).unwrap());
        let (shared, held) = (try_share(&file).unwrap(), try_hold_checkpoints(&shm).unwrap());
        assert!(shared.is_some() && held.is_some());
        db.execute_batch("INSERT INTO t VALUES (2)").unwrap();
        let busy = || db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!(busy(), 1);
        drop((shared, held));
        assert_eq!(busy(), 0);
    }
}
