//! What an agent remembers over its own end: the last time of each job that it has dealt with.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cli::report::Failure;
use crate::model::Moment;
use crate::ops::Kind;

/// Bytes of the file at most.
const FILE_MAX: u64 = 1 << 20;

/// Of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HeldJob {
    /// The last time of it that was dealt with; where there is none yet, when it was first seen.
    pub since: Moment,
    /// When it last began.
    pub began: Option<Moment>,
    /// How it last ended.
    pub code: Option<u8>,
}

/// Of all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Held {
    #[serde(default)]
    jobs: BTreeMap<String, HeldJob>,
}

fn file_of(state: &Path) -> PathBuf {
    state.join("agent.json")
}

impl Held {
    /// As it lies in a state directory; empty where there is none, or none that can be read.
    pub fn read(state: &Path) -> Self {
        let mut text = Vec::new();
        let read = File::open(file_of(state)).and_then(|file| file.take(FILE_MAX).read_to_end(&mut text));
        read.ok().and_then(|_| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }

    pub fn since(&self, job: &str) -> Option<Moment> {
        self.jobs.get(job).map(|held| held.since)
    }

    pub fn last_code(&self, job: &str) -> Option<u8> {
        self.jobs.get(job).and_then(|held| held.code)
    }
}

/// The memory of the one agent of a state directory.
pub(super) struct AgentMemory {
    pub held: Held,
    state: PathBuf,
    /// Held as long as the agent lives.
    _lock: File,
}

impl AgentMemory {
    /// Takes it; one agent at a time.
    pub fn open(state: &Path) -> Result<Self, Failure> {
        std::fs::create_dir_all(state).map_err(|e| Failure::io("make", state, e))?;
        let path = state.join("agent.lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let lock = lock.map_err(|e| Failure::io("open", &path, e))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { held: Held::read(state), state: state.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => {
                let text = format!("another agent runs with the state directory `{}`", state.display());
                Err(Failure::new(Kind::Busy, text, Some("One is enough; end the other first.".to_owned())))
            }
            Err(TryLockError::Error(e)) => Err(Failure::io("lock", &path, e)),
        }
    }

    /// Changes what is remembered of a job, and writes it down: a run that is begun and not noted would be begun again by the next agent.
    ///
    /// # Errors
    /// It is remembered by this process alone: a full disk is no reason to run no backups.
    pub fn note(&mut self, job: &str, change: impl FnOnce(&mut HeldJob)) -> Result<(), Failure> {
        let new = || HeldJob { since: Moment::UNIX_EPOCH, began: None, code: None };
        change(self.held.jobs.entry(job.to_owned()).or_insert_with(new));
        let path = file_of(&self.state);
        let staged = path.with_extension("new");
        let write = || -> std::io::Result<()> {
            let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&staged)?;
            serde_json::to_writer(&mut file, &self.held)?;
            file.sync_all()?;
            std::fs::rename(&staged, &path)
        };
        write().map_err(|e| Failure::io("write", &path, e))
    }
}
