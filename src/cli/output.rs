//! How answers look: numbers, sizes, tables; and where they go. The answer goes to stdout, the story to stderr.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::report::Failure;
pub use crate::words::{count, counted, duration, size};

/// Whether a run is under way that must come to its end, whoever reads its answer.
static MUST_END: AtomicBool = AtomicBool::new(false);

/// From now on a reader that went away ends nothing: a backup goes on without it.
pub fn must_end() {
    MUST_END.store(true, Ordering::Relaxed);
}

/// Warnings of this process that are remembered at most.
const WARNINGS_MAX: usize = 50;
/// What this process warned of, for whoever is told how its run ended.
static WARNINGS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// What this process warned of; `end` forgets it.
pub fn take_warnings(end: bool) -> Vec<String> {
    let mut warnings = WARNINGS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if end { std::mem::take(&mut *warnings) } else { warnings.clone() }
}

/// Where a command speaks.
#[derive(Debug, Clone, Copy)]
pub struct Ui {
    /// Answers as JSON.
    pub json: bool,
    /// No story.
    pub quiet: bool,
}

impl Ui {
    /// A line of the answer. A reader that went away (`| head`) ends a command quietly that only answers.
    pub fn answer(&self, line: impl std::fmt::Display) -> Result<(), Failure> {
        let mut out = std::io::stdout().lock();
        match writeln!(out, "{line}") {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe && MUST_END.load(Ordering::Relaxed) => Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
            Err(e) => Err(Failure::io("write to", std::path::Path::new("standard output"), e)),
        }
    }

    /// The answer as one JSON document or line.
    pub fn json(&self, value: &impl serde::Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string(value).unwrap_or_default();
        self.answer(text)
    }

    /// A line of the story.
    pub fn story(&self, line: impl std::fmt::Display) {
        if !self.quiet && !self.json {
            let _ = writeln!(std::io::stderr().lock(), "{line}");
        }
    }

    /// A warning: told even when quiet.
    pub fn warning(&self, text: impl std::fmt::Display) {
        let mut warnings = WARNINGS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if warnings.len() < WARNINGS_MAX {
            warnings.push(text.to_string());
        }
        drop(warnings);
        let mut err = std::io::stderr().lock();
        if self.json {
            let message = serde_json::json!({"message_type": "warning", "warning": text.to_string()});
            let _ = writeln!(err, "{message}");
        } else {
            let _ = writeln!(err, "warning: {text}");
        }
    }

    /// Whether progress is drawn.
    pub fn draws(&self) -> bool {
        !self.quiet && !self.json && std::io::stderr().is_terminal()
    }
}
