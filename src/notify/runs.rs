//! What ran on this host of late, how it ended and what it said: for the status page.
//!
//! A file of JSON lines in the state directory, and the one before it. Invariants: a line is one write; neither file grows beyond a bound;
//! no arguments are noted, for they may hold secrets. It is a convenience: what counts as stored is in the repository's log alone.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::model::Moment;

/// Bytes of a file before it becomes the one before.
const FILE_MAX: u64 = 2 << 20;
/// Bytes of one line at most.
const LINE_MAX: usize = 16 << 10;
/// Warnings of one run that are kept.
const WARNINGS_MAX: usize = 20;
/// Characters of one of them.
const WORDS_MAX: usize = 400;

/// How a source fared within a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceRun {
    /// Its name.
    pub source: String,
    /// As the command would have ended for it alone.
    pub exit_code: u8,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Its id.
    pub id: String,
    /// The command.
    pub command: String,
    /// When it began.
    pub began: Moment,
    /// When it ended.
    pub ended: Moment,
    /// How it ended.
    pub exit_code: u8,
    /// What went wrong, with the hint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Its sources, where it went through several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<SourceRun>,
    /// What it warned of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// The notes.
#[derive(Debug, Clone)]
pub struct RunNotes(PathBuf);

impl RunNotes {
    /// In a state directory.
    pub fn in_state(state: &Path) -> Self {
        Self(state.join("runs.jsonl"))
    }

    fn before(&self) -> PathBuf {
        self.0.with_extension("1.jsonl")
    }

    /// Adds one.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn add(&self, run: &Run) -> std::io::Result<()> {
        if let Some(folder) = self.0.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut run = run.clone();
        let shorten = |text: &mut String| {
            if let Some((at, _)) = text.char_indices().nth(WORDS_MAX) {
                text.truncate(at);
                text.push_str(" ...");
            }
        };
        run.warnings.truncate(WARNINGS_MAX);
        run.warnings.iter_mut().chain(run.error.iter_mut()).for_each(shorten);
        run.sources.iter_mut().filter_map(|source| source.error.as_mut()).for_each(shorten);
        let mut line = serde_json::to_vec(&run)?;
        if line.len() > LINE_MAX {
            run.warnings.clear();
            run.sources.truncate(LINE_MAX / 1024);
            line = serde_json::to_vec(&run)?;
        }
        line.push(b'\n');
        if fs::metadata(&self.0).is_ok_and(|meta| meta.len() > FILE_MAX) {
            fs::rename(&self.0, self.before())?;
        }
        let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.0)?;
        file.write_all(&line)
    }

    /// The newest, the newest first. What cannot be read is left out.
    pub fn newest(&self, most: usize) -> Vec<Run> {
        let mut runs = Vec::new();
        for file in [self.0.clone(), self.before()] {
            if runs.len() >= most {
                break;
            }
            let text = tail(&file).unwrap_or_default();
            let lines = text.split(|byte| *byte == b'\n').rev();
            runs.extend(lines.filter_map(|line| serde_json::from_slice(line).ok()).take(most - runs.len()));
        }
        runs
    }
}

fn tail(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    // Twice the bound: a run that writes at the same moment may go beyond it.
    file.seek(SeekFrom::Start(length.saturating_sub(2 * FILE_MAX)))?;
    let mut text = Vec::new();
    file.take(2 * FILE_MAX).read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(n: i64) -> Run {
        let at = Moment::from_timestamp(n, 0).unwrap();
        Run {
            id: format!("{n}"),
            command: "backup".into(),
            began: at,
            ended: at,
            exit_code: 0,
            error: None,
            sources: Vec::new(),
            warnings: vec!["w".repeat(10_000)],
        }
    }

    #[test]
    fn the_newest_come_first_and_the_files_stay_small() {
        let folder = tempfile::tempdir().unwrap();
        let notes = RunNotes::in_state(folder.path());
        assert!(notes.newest(5).is_empty());
        for n in 0..12_000 {
            notes.add(&run(n)).unwrap();
        }
        let ids: Vec<String> = notes.newest(3).into_iter().map(|run| run.id).collect();
        assert_eq!(ids, ["11999", "11998", "11997"]);
        assert!(notes.newest(1)[0].warnings[0].chars().count() < 500);
        let all: u64 = fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum();
        assert!(all < 2 * FILE_MAX + 2 * LINE_MAX as u64, "{all}");
        assert!(notes.newest(10_000).len() > 4000, "the file before is read too");
        fs::write(folder.path().join("runs.jsonl"), "half a li").unwrap();
        assert_eq!(notes.newest(1).len(), 1, "what cannot be read is left out");
    }
}
