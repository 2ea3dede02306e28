//! Runs of this program in processes of their own.

use std::ffi::OsString;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::cli::args::Global;
use crate::cli::context::Context;
use crate::model::Moment;

/// How one ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// With this exit code.
    Code(u8),
    /// By this signal.
    Killed(i32),
}

/// A run.
pub(super) struct Child {
    pub name: String,
    pub began: Moment,
    process: std::process::Child,
}

impl Child {
    /// Begins one: the same program, with the same flags that say where everything is.
    pub fn begin(
        context: &Context,
        program: &Path,
        name: &str,
        words: &[String],
        now: Moment,
    ) -> std::io::Result<Self> {
        let mut command = Command::new(program);
        command.args(flags(&context.global)).args(words).stdin(Stdio::null());
        // Of its own: Ctrl-C at the agent's terminal reaches it once, from the agent.
        command.process_group(0);
        // What systemd gave is for the agent.
        for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
            command.env_remove(name);
        }
        Ok(Self { name: name.to_owned(), began: now, process: command.spawn()? })
    }

    /// How it ended, where it did.
    pub fn ended(&mut self) -> Option<Ended> {
        let status = self.process.try_wait().ok().flatten()?;
        Some(match (status.code(), status.signal()) {
            (Some(code), _) => Ended::Code(u8::try_from(code).unwrap_or(255)),
            (None, signal) => Ended::Killed(signal.unwrap_or(0)),
        })
    }

    fn signal(&self, signal: Signal, whole_group: bool) {
        let pid = Pid::from_child(&self.process);
        let _ = if whole_group { kill_process_group(pid, signal) } else { kill_process(pid, signal) };
    }
}

/// Asks all to end, as Ctrl-C would, and kills what has not ended in time with everything that it began.
pub(super) fn end_all(mut children: Vec<Child>, patience: Duration) -> Vec<(Child, Ended)> {
    for child in &children {
        child.signal(Signal::TERM, false);
    }
    let begun = Instant::now();
    let mut ended = Vec::new();
    while !children.is_empty() {
        let mut left = Vec::new();
        for mut child in children {
            match child.ended() {
                Some(end) => ended.push((child, end)),
                None if begun.elapsed() > patience => {
                    child.signal(Signal::KILL, true);
                    let _ = child.process.wait();
                    ended.push((child, Ended::Killed(9)));
                }
                None => left.push(child),
            }
        }
        children = left;
        if !children.is_empty() {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    ended
}

/// The flags of this process that its runs need too.
fn flags(global: &Global) -> Vec<OsString> {
    let mut flags: Vec<OsString> = Vec::new();
    let mut flag = |name: &str, value: Option<OsString>| {
        if let Some(value) = value {
            flags.extend([OsString::from(name), value]);
        }
    };
    flag("--config", global.config.clone().map(OsString::from));
    flag("--repo", global.repo.clone().map(OsString::from));
    flag("--catalog", global.catalog.clone().map(OsString::from));
    flag("--state-dir", global.state_dir.clone().map(OsString::from));
    flag("--limit-upload", global.limit_upload.clone().map(OsString::from));
    flag("--limit-download", global.limit_download.clone().map(OsString::from));
    for identity in &global.identity {
        flag("--identity", Some(identity.clone().into()));
    }
    for recipient in &global.recipient {
        flag("--recipient", Some(recipient.clone().into()));
    }
    flags.extend(global.json.then(|| "--json".into()));
    flags.extend(global.quiet.then(|| "--quiet".into()));
    flags.extend((0..global.verbose).map(|_| OsString::from("-v")));
    flags
}
