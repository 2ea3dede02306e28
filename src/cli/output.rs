//! How answers look: numbers, sizes, tables; and where they go. The answer goes to stdout, the story to stderr.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;

use super::report::Failure;

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
    /// A line of the answer. A reader that went away (`| head`) ends the command quietly.
    pub fn answer(&self, line: impl std::fmt::Display) -> Result<(), Failure> {
        let mut out = std::io::stdout().lock();
        match writeln!(out, "{line}") {
            Ok(()) => Ok(()),
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

/// A size in binary units with one decimal.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let (mut value, mut unit) = (bytes as f64 / 1024.0, 0);
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        (value, unit) = (value / 1024.0, unit + 1);
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A count with separators.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count with its noun, one or many.
pub fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

/// A span of time.
pub fn duration(seconds: f64) -> String {
    let whole = seconds as u64;
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{}m {:02}s", whole / 60, whole % 60),
        _ => format!("{}h {:02}m", whole / 3600, whole % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_for_people() {
        assert_eq!(
            (size(0), size(1023), size(1024), size(1 << 30)),
            ("0 B".into(), "1023 B".into(), "1.0 KiB".into(), "1.0 GiB".into())
        );
        assert_eq!(size((1 << 20) - 1), "1.0 MiB");
        assert_eq!((count(0), count(999), count(1_234_567)), ("0".into(), "999".into(), "1,234,567".into()));
        assert_eq!(counted(1, "file", "files"), "1 file");
        assert_eq!(
            (duration(1.25), duration(61.0), duration(3700.0)),
            ("1.2 s".into(), "1m 01s".into(), "1h 01m".into())
        );
    }
}
