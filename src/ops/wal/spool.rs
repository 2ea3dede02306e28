//! Where segments wait when the store is away and the operator prefers that to a server whose disk fills: another disk of this
//! host, up to a bound.
//!
//! Invariants: a file is acknowledged from here only when it and its name are on that disk; a full spool takes nothing, and
//! nothing is ever dropped; files leave it when the store has them, the oldest first. What it gives is less than the archive:
//! who loses this host loses what waits here. Not here: when it is used, and saying so.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{Cluster, SMALL, WalError, cluster_of, data_directory, push_files, read_whole, refuse_unfinished};
use crate::format::wal::{ArchiveFile, check_segment};
use crate::model::{Moment, limits};
use crate::ops::Error;
use crate::progress::Progress;
use crate::repository::{Lock, Repository};

/// Files that are sent at a time.
const BATCH: usize = 8;

/// A spool of one source.
#[derive(Debug, Clone)]
pub struct Spool {
    /// As it was named. It is never made here: a disk that is not mounted would be missed.
    root: PathBuf,
    /// The source's own below it.
    folder: PathBuf,
    max: u64,
}

/// What waits in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Files by stream and name, the oldest first.
    pub files: Vec<(String, String)>,
    /// Their bytes.
    pub bytes: u64,
}

impl Spool {
    /// A directory of its own on another disk than the data's; `max` bytes at most.
    pub fn new(folder: PathBuf, source: &str, max: u64) -> Self {
        Self { folder: folder.join(source), root: folder, max }
    }

    /// The directory.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The most that it takes, in bytes.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// What waits.
    pub fn waiting(&self) -> Result<Waiting, WalError> {
        let io = |source| WalError::Io { doing: "read", path: self.folder.clone(), source };
        let mut found = Waiting::default();
        let streams = match fs::read_dir(&self.folder) {
            Ok(streams) => streams,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(found),
            Err(e) => return Err(io(e)),
        };
        for stream in streams {
            let stream = stream.map_err(io)?;
            if !stream.file_type().map_err(io)?.is_dir() {
                continue;
            }
            for file in fs::read_dir(stream.path()).map_err(io)? {
                let file = file.map_err(io)?;
                let name = file.file_name().to_string_lossy().into_owned();
                if ArchiveFile::parse(&name).is_ok() {
                    found.bytes += file.metadata().map_err(io)?.len();
                    found.files.push((stream.file_name().to_string_lossy().into_owned(), name));
                }
            }
        }
        found.files.sort_by(|a, b| (&a.1, &a.0).cmp(&(&b.1, &b.0)));
        Ok(found)
    }

    /// Keeps a file that the store did not take. When this returns it is on the spool's disk.
    pub fn keep(&self, source: &str, path: &Path) -> Result<Waiting, WalError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let file = ArchiveFile::parse(&name).map_err(|_| WalError::Name(name.clone()))?;
        let is_log = matches!(file, ArchiveFile::Segment(_) | ArchiveFile::Partial(_));
        let (bytes, _) = read_whole(path, if is_log { limits::SEGMENT_MAX as u64 } else { SMALL })?;
        let cluster = cluster_of(&data_directory(path), &name)?;
        if let ArchiveFile::Segment(segment) = file {
            refuse_unfinished(path, &name)?;
            let bad = |why: String| WalError::Content { name: name.clone(), why };
            let header = check_segment(&bytes, segment).map_err(|e| bad(e.to_string()))?;
            if header.system_id != cluster.system_id {
                return Err(bad(format!("it belongs to cluster {}", header.system_id)));
            }
        }
        if !self.root.is_dir() {
            return Err(WalError::SpoolGone { folder: self.root.clone() });
        }
        let folder = self.folder.join(cluster.stream(source));
        let target = folder.join(&name);
        if target.exists() {
            let same = read_whole(&target, limits::SEGMENT_MAX as u64)?.0 == bytes;
            return if same { self.waiting() } else { Err(WalError::Conflict { name }) };
        }
        let waiting = self.waiting()?;
        if waiting.bytes + bytes.len() as u64 > self.max {
            return Err(WalError::SpoolFull { folder: self.folder.clone(), max: self.max });
        }
        let io = |source| WalError::Io { doing: "write", path: target.clone(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(io)?;
        let part = folder.join(format!(".{name}.part"));
        let written = || -> std::io::Result<()> {
            let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&part, &target)?;
            // The directories' own names too: they may be new.
            for directory in [&folder, &self.folder, &self.root] {
                File::open(directory)?.sync_all()?;
            }
            Ok(())
        };
        written().map_err(io)?;
        self.waiting()
    }

    /// Sends what waits, the oldest first, and returns how many files. Each leaves when the store has it.
    pub fn drain(
        &self,
        repository: &mut Repository,
        source: &str,
        now: Moment,
        progress: &dyn Progress,
    ) -> Result<usize, Error> {
        if self.waiting()?.files.is_empty() {
            return Ok(0);
        }
        // One at a time: what one has sent and removed would be missing to the other.
        let io = |source| WalError::Io { doing: "lock", path: self.folder.clone(), source };
        let _lock = Lock::alone(&self.folder.join("lock")).map_err(io)?;
        let waiting = self.waiting()?;
        let mut streams: Vec<&String> = waiting.files.iter().map(|(stream, _)| stream).collect();
        streams.dedup();
        let mut sent = 0;
        for stream in streams {
            let names: Vec<String> =
                waiting.files.iter().filter(|(of, _)| of == stream).map(|(_, name)| name.clone()).collect();
            let folder = self.folder.join(stream);
            let cluster = Cluster::of_stream(source, stream).ok_or_else(|| WalError::Stream {
                name: stream.clone(),
                why: "it is no stream of this source".to_owned(),
            })?;
            for batch in names.chunks(BATCH) {
                sent += self.send(repository, stream, cluster, &folder, batch, now, progress)?;
            }
        }
        Ok(sent)
    }

    #[allow(clippy::too_many_arguments)] // the words of one call of `push_files`
    fn send(
        &self,
        repository: &mut Repository,
        stream: &str,
        cluster: Cluster,
        folder: &Path,
        names: &[String],
        now: Moment,
        progress: &dyn Progress,
    ) -> Result<usize, Error> {
        let mut left = names.to_vec();
        while let Some(first) = left.first().cloned() {
            let path = folder.join(&first);
            let pushed = push_files(repository, stream, cluster, &path, left.clone(), now, progress)?;
            let mut there: Vec<String> = pushed.along.into_iter().map(|(name, _)| name).collect();
            there.push(first);
            for name in &there {
                let path = folder.join(name);
                fs::remove_file(&path).map_err(|source| WalError::Io { doing: "remove", path, source })?;
            }
            left.retain(|name| !there.contains(name));
        }
        Ok(names.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_spool_is_no_error_and_strangers_do_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::new(folder.path().join("not there"), "db", 1);
        assert_eq!(spool.waiting().unwrap(), Waiting::default());
        let spool = Spool::new(folder.path().to_owned(), "db", 1);
        fs::create_dir_all(spool.folder().join("db-7-15")).unwrap();
        fs::write(spool.folder().join("db-7-15/notes.txt"), "x").unwrap();
        fs::write(spool.folder().join("db-7-15/.000000010000000000000001.part"), "x").unwrap();
        fs::write(spool.folder().join("db-7-15/00000002.history"), "12").unwrap();
        let waiting = spool.waiting().unwrap();
        assert_eq!((waiting.files.len(), waiting.bytes), (1, 2));
    }
}
