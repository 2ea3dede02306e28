//! A directory that a cluster is restored onto: looked at before anything is written, and made unable to start while it is neither
//! the one cluster nor the other.
//!
//! Invariants: the directory of a server that runs is refused; so is the directory of another cluster, or of no cluster at all,
//! unless a person said that it goes. Not here: which of its files differ (`delta`), and which of them go.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

use super::mark::MARK_START;
use crate::format::pg_control::{ControlFile, disarm};
use crate::model::lsn::SystemId;
use crate::ops::Error;

/// Bytes of a file of a data directory that is read here, at most.
const SMALL: u64 = 64 << 10;

/// Why no cluster is restored onto a directory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OntoError {
    /// A server runs there.
    #[error("a server runs in `{}`: its postmaster.pid names process {pid}, and that is alive", path.display())]
    Running {
        /// The directory.
        path: PathBuf,
        /// The process.
        pid: u32,
    },
    /// Another cluster lies there.
    #[error("`{}` holds cluster {found}, and the base backup is of cluster {wanted}", path.display())]
    OtherCluster {
        /// The directory.
        path: PathBuf,
        /// Its cluster.
        found: SystemId,
        /// The base backup's.
        wanted: SystemId,
    },
    /// There are files, and no cluster.
    #[error("`{}` is not empty, and no data directory: {why}", path.display())]
    NoCluster {
        /// The directory.
        path: PathBuf,
        /// What was looked for.
        why: String,
    },
}

/// What stands in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Onto {
    /// The process that a postmaster.pid names and that is gone: a server crashed there, or its host did.
    pub stale_pid: Option<u32>,
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(SMALL).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Looks at a directory that cluster `wanted` is restored onto. `replaces` says that what else lies there goes.
pub fn look_onto(into: &Path, wanted: SystemId, replaces: bool) -> Result<Onto, Error> {
    let onto = Onto { stale_pid: refuse_running(into)? };
    let mut names = fs::read_dir(into).into_iter().flatten().flatten().map(|entry| entry.file_name());
    // An interrupted restore may not have come to its control file yet; all that is there, it has put or found.
    let (mut empty, mut begun) = (true, false);
    names.by_ref().for_each(|name| {
        empty = false;
        begun |= name.to_string_lossy().starts_with(MARK_START);
    });
    if empty || replaces {
        return Ok(onto);
    }
    let none = |why: String| OntoError::NoCluster { path: into.to_owned(), why }.into();
    match read(&into.join("global/pg_control")).map(|bytes| ControlFile::parse(&bytes)) {
        Ok(Ok(control)) if control.system_id != wanted => {
            Err(OntoError::OtherCluster { path: into.to_owned(), found: control.system_id, wanted }.into())
        }
        Ok(Ok(_)) => Ok(onto),
        _ if begun => Ok(onto),
        Ok(Err(flaw)) => Err(none(flaw.to_string())),
        Err(e) => Err(none(format!("`global/pg_control`: {e}"))),
    }
}

/// A server that runs there would go on writing into what is replaced. What is left of one that crashed is returned.
fn refuse_running(into: &Path) -> Result<Option<u32>, Error> {
    let path = into.join("postmaster.pid");
    let text = match read(&path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(source) => return Err(Error::Io { doing: "read", path, source }),
    };
    // A server without a postmaster writes its number with a minus.
    let number = text.lines().next().and_then(|line| line.trim().parse::<i32>().ok()).unwrap_or(0).saturating_abs();
    let Some(pid) = Pid::from_raw(number) else { return Ok(Some(0)) };
    match test_kill_process(pid) {
        Err(Errno::SRCH) => Ok(Some(number.unsigned_abs())),
        // Alive; perhaps as another user.
        _ => Err(OntoError::Running { path: into.to_owned(), pid: number.unsigned_abs() }.into()),
    }
}

/// Before the first file is replaced: from here on no server starts on the directory until the restore is done. Its control file
/// loses its checkpoint and keeps the rest; what would lead a server past it goes.
pub fn make_unstartable(into: &Path) -> Result<(), Error> {
    let io = |doing, path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io { doing, path, source }
    };
    let path = into.join("global/pg_control");
    // One that cannot be read starts no server either.
    let bytes = read(&path).ok().and_then(|mut bytes| disarm(&mut bytes).ok().map(|()| bytes));
    if let Some(bytes) = bytes {
        let file = OpenOptions::new().write(true).open(&path).map_err(io("write", &path))?;
        file.write_all_at(&bytes, 0).and_then(|()| file.sync_all()).map_err(io("write", &path))?;
    }
    for name in ["backup_label", "recovery.signal", "standby.signal"] {
        match fs::remove_file(into.join(name)) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(io("remove", &into.join(name))(source)),
        }
    }
    match File::open(into) {
        Ok(directory) => directory.sync_all().map_err(io("sync", into)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(io("open", into)(source)),
    }
}
