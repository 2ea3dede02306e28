//! `pg_receivewal` under way: started, watched, started again.
//!
//! Not here: what becomes of the files that it writes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::Heard;
use rustix::process::{Pid, Signal, kill_process};

use crate::client::{Connection, Leash, Program, Programs, Running};
use crate::format::wal::ArchiveFile;
use crate::model::lsn::SegmentSize;
use crate::ops::wal::WalError;
use crate::ops::{Error, chain};

/// The first pause before it is started again; it doubles up to the last.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(30);
/// Having run for so long, it has worked: the pauses begin anew.
const WORKED: Duration = Duration::from_secs(60);

/// Where its number is written, so that one which outlived a killed `follow` is found: it would hold the slot for ever.
const PID_FILE: &str = "receiver.pid";

pub(super) struct Receiver {
    program: Program,
    connection: Connection,
    slot: String,
    folder: PathBuf,
    segment: SegmentSize,
    leash: Leash,
    running: Option<(Running, Instant)>,
    pause: Duration,
    not_before: Option<Instant>,
}

impl Receiver {
    pub fn new(
        programs: &Programs,
        (major, segment): (u32, SegmentSize),
        connection: Connection,
        slot: &str,
        folder: &Path,
    ) -> Result<Self, Error> {
        let program = programs.not_older("pg_receivewal", major, "the server")?;
        end_orphan(folder);
        Ok(Self {
            program,
            connection,
            slot: slot.to_owned(),
            folder: folder.to_owned(),
            segment,
            leash: Leash::default(),
            running: None,
            pause: FIRST_PAUSE,
            not_before: None,
        })
    }

    /// Sees to it that it runs, or that it does not where `held` is given. An error is what starting again does not mend.
    pub fn keep(&mut self, held: bool, hear: &mut dyn FnMut(Heard)) -> Result<(), Error> {
        if held {
            self.end();
            return Ok(());
        }
        if let Some((running, since)) = &mut self.running {
            if !running.has_ended() {
                return Ok(());
            }
            let worked = since.elapsed() >= WORKED;
            let ended = self.running.take().map(|(running, _)| running.finish());
            let why = match ended {
                Some(Err(e)) => chain(&e),
                _ => "it ended by itself".to_owned(),
            };
            if why.contains("has already been removed") {
                return Err(WalError::SlotLost { slot: self.slot.clone(), why }.into());
            }
            self.pause = if worked { FIRST_PAUSE } else { self.pause };
            hear(Heard::Lost { why, again_in: self.pause });
            self.not_before = Some(Instant::now() + self.pause);
            self.pause = (self.pause * 2).min(LAST_PAUSE);
        }
        if self.not_before.is_some_and(|at| Instant::now() < at) {
            return Ok(());
        }
        begin_anew(&self.folder, self.segment);
        let arguments = [
            "--no-loop",
            "--no-password",
            "--status-interval=5",
            &format!("--directory={}", self.folder.display()),
            &format!("--slot={}", self.slot),
            &format!("--dbname={}", self.connection.argument()),
        ]
        .map(str::to_owned);
        let running = Running::start(&self.program, &arguments, &self.connection, &self.leash, Stdio::null())?;
        if let Err(e) = fs::write(self.folder.join(PID_FILE), running.id().to_string()) {
            tracing::warn!("if this process is killed, the next one does not find its `pg_receivewal`: {e}");
        }
        self.running = Some((running, Instant::now()));
        Ok(())
    }

    /// Ends it, and waits until it has ended.
    pub fn end(&mut self) {
        self.running = None;
        self.not_before = None;
        let _ = fs::remove_file(self.folder.join(PID_FILE));
    }
}

/// Removes segments that were being filled up with zeros when `pg_receivewal` was killed: before that is done it writes no log there, and
/// one that is neither empty nor whole it refuses at every start. It gets the segment from its beginning, whatever was there.
fn begin_anew(folder: &Path, size: SegmentSize) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let is_partial = matches!(ArchiveFile::parse(&name.to_string_lossy()), Ok(ArchiveFile::Partial(_)));
        let length = entry.metadata().map_or(0, |meta| meta.len());
        if is_partial && length != 0 && length != size.bytes() {
            match fs::remove_file(entry.path()) {
                Ok(()) => tracing::info!(?name, length, "it was not made whole, and is begun anew"),
                Err(e) => tracing::warn!(?name, "it was not made whole, and cannot be removed: {e}"),
            }
        }
    }
}

/// Ends the `pg_receivewal` that a killed run has left behind. What it has written stays.
fn end_orphan(folder: &Path) {
    let Ok(text) = fs::read_to_string(folder.join(PID_FILE)) else { return };
    let Some(pid) = text.trim().parse().ok().and_then(Pid::from_raw) else { return };
    // Numbers are given again: only one that runs this program for this directory is ours.
    let words = || fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    let wanted = format!("--directory={}", folder.display());
    let is_ours = || words().split(|byte| *byte == 0).any(|word| word == wanted.as_bytes());
    for _ in 0..100 {
        if !is_ours() || kill_process(pid, Signal::TERM).is_err() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
