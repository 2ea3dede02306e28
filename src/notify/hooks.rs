//! Hooks: lines for the shell that run around a deed, and what they are told.
//!
//! Invariants: a hook that takes too long is killed with everything that it started; what it prints goes to standard error, so that an
//! answer stays an answer; the document on its standard input is small enough for the pipe, whether it reads it or not.

use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;

/// How long a hook may take where nobody says.
const PATIENCE: Duration = Duration::from_secs(30 * 60);
/// Bytes of the document at most: a pipe holds 64 KiB.
const DOCUMENT_MAX: usize = 48 << 10;

/// When a hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Before the deed; where it fails there is none.
    Before,
    /// After a deed that did all that it should.
    After,
    /// After one that did not, or whose `before` failed.
    Failed,
    /// After it in any case.
    Finally,
}

impl Stage {
    /// The word of configurations.
    pub fn word(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::After => "after",
            Self::Failed => "failed",
            Self::Finally => "finally",
        }
    }
}

/// The lines of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hooks {
    /// Before the deed.
    pub before: Vec<String>,
    /// After it, where it did all that it should.
    pub after: Vec<String>,
    /// After it, where it did not.
    pub failed: Vec<String>,
    /// After it, in any case.
    pub finally: Vec<String>,
    /// Commands around which they run.
    pub commands: Vec<String>,
    /// How long each may take.
    pub patience: Duration,
}

impl Default for Hooks {
    fn default() -> Self {
        Self {
            before: Vec::new(),
            after: Vec::new(),
            failed: Vec::new(),
            finally: Vec::new(),
            commands: vec!["backup".to_owned()],
            patience: PATIENCE,
        }
    }
}

impl Hooks {
    /// The lines for a stage of a command.
    pub fn lines(&self, stage: Stage, command: &str) -> &[String] {
        if !self.commands.iter().any(|one| one == command) {
            return &[];
        }
        match stage {
            Stage::Before => &self.before,
            Stage::After => &self.after,
            Stage::Failed => &self.failed,
            Stage::Finally => &self.finally,
        }
    }
}

/// Why a hook is no success.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HookError {
    /// It could not be begun.
    #[error("the hook `{line}` ({stage}) could not be run: {why}")]
    Begin {
        /// The first word of its line: the others may be secrets.
        line: String,
        /// When it ran.
        stage: &'static str,
        /// What went wrong.
        why: String,
    },
    /// It ended with something else than 0.
    #[error("the hook `{line}` ({stage}) ended with {status}")]
    Ended {
        /// The first word of its line: the others may be secrets.
        line: String,
        /// When it ran.
        stage: &'static str,
        /// Its end.
        status: String,
    },
    /// It took longer than it may, and was killed.
    #[error("the hook `{line}` ({stage}) was killed after {} s", after.as_secs())]
    TooLong {
        /// The first word of its line: the others may be secrets.
        line: String,
        /// When it ran.
        stage: &'static str,
        /// How long it had.
        after: Duration,
    },
    /// Somebody asked to stop.
    #[error("interrupted")]
    Stopped,
}

/// Runs one line with `sh -c`; `document` comes on its standard input, `facts` as environment variables.
///
/// # Errors
/// It could not be begun, did not end with 0, or not in time; or `stop` said so, where it was asked.
pub fn run_hook(
    line: &str,
    stage: Stage,
    document: &Value,
    facts: &[(&str, String)],
    patience: Duration,
    stop: &dyn Fn() -> bool,
) -> Result<(), HookError> {
    let (stage, whole) = (stage.word(), line);
    let line = line.split_whitespace().next().unwrap_or_default();
    let begin = |e: std::io::Error| HookError::Begin { line: line.to_owned(), stage, why: e.to_string() };
    let mut text = document.to_string();
    if text.len() > DOCUMENT_MAX {
        text = serde_json::json!({"message_type": "hook", "truncated": true}).to_string();
    }
    let mut command = Command::new("sh");
    command.arg("-c").arg(whole).process_group(0).stdin(Stdio::piped());
    command.stdout(std::io::stderr()).stderr(Stdio::inherit());
    command.envs(facts.iter().map(|(name, value)| (*name, value.as_str())));
    let mut child = command.spawn().map_err(begin)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A hook that reads nothing is none the worse for it.
        let _ = stdin.write_all(text.as_bytes());
    }
    let begun = Instant::now();
    let mut pause = Duration::from_millis(2);
    loop {
        if let Some(status) = child.try_wait().map_err(begin)? {
            if status.success() {
                return Ok(());
            }
            let status = match (status.code(), status.signal()) {
                (Some(code), _) => format!("exit code {code}"),
                (None, Some(signal)) => format!("signal {signal}"),
                (None, None) => status.to_string(),
            };
            return Err(HookError::Ended { line: line.to_owned(), stage, status });
        }
        let stopped = stop();
        if stopped || begun.elapsed() > patience {
            let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
            let _ = child.wait();
            if stopped {
                return Err(HookError::Stopped);
            }
            return Err(HookError::TooLong { line: line.to_owned(), stage, after: patience });
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &str, patience: Duration) -> Result<(), HookError> {
        let facts = [("LIFEBOAT_SOURCE", "app".to_owned())];
        run_hook(line, Stage::Before, &serde_json::json!({"source": "app"}), &facts, patience, &|| false)
    }

    #[test]
    fn a_hook_is_told_on_its_input_and_in_its_environment() {
        let long = Duration::from_secs(60);
        assert_eq!(run("test \"$(cat)\" = '{\"source\":\"app\"}' && test \"$LIFEBOAT_SOURCE\" = app", long), Ok(()));
        assert_eq!(run("true", long), Ok(()), "whether it reads or not");
        let ended = run("exit 7", long).unwrap_err();
        assert_eq!(ended.to_string(), "the hook `exit` (before) ended with exit code 7");
        let killed = run("kill -9 $$", long).unwrap_err();
        assert!(killed.to_string().ends_with("ended with signal 9"), "{killed}");
    }

    #[test]
    fn a_hook_that_takes_too_long_is_killed_with_what_it_began() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("late");
        let line = format!("(sleep 2; echo late > '{}') & sleep 60", file.display());
        let error = run(&line, Duration::from_millis(50)).unwrap_err();
        assert!(matches!(error, HookError::TooLong { .. }), "{error}");
        std::thread::sleep(Duration::from_millis(2500));
        assert!(!file.exists(), "what it began is gone too");
    }

    #[test]
    fn hooks_belong_to_commands() {
        let hooks = Hooks { before: vec!["x".into()], ..Hooks::default() };
        assert_eq!(hooks.lines(Stage::Before, "backup"), ["x".to_owned()]);
        assert!(hooks.lines(Stage::Before, "drill").is_empty() && hooks.lines(Stage::After, "backup").is_empty());
    }
}
