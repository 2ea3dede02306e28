//! What a page shows, as values.

use crate::model::Moment;
use crate::model::drill::DrillRecord;
use crate::notify::Run;
use crate::ops::status::{SourceStatus, Weight};

/// One source.
#[derive(Debug, Clone)]
pub struct SourceView {
    /// How it stands.
    pub status: SourceStatus,
    /// Its drills, the newest first.
    pub drills: Vec<DrillRecord>,
    /// Groups that it is in.
    pub groups: Vec<String>,
}

/// A second repository.
#[derive(Debug, Clone)]
pub struct CopyView {
    /// Its name.
    pub name: String,
    /// When it was last brought up to date.
    pub at: Option<Moment>,
    /// Snapshots that were there then.
    pub snapshots: u64,
    /// How it stands.
    pub state: Weight,
    /// What is wrong.
    pub words: Option<String>,
}

/// A job of the agent.
#[derive(Debug, Clone)]
pub struct JobView {
    /// Its name.
    pub name: String,
    /// What runs.
    pub words: String,
    /// When, as it was written.
    pub at: String,
    /// Its next beginning; none where it runs now, or never again.
    pub next: Option<Moment>,
    /// Whether it runs now.
    pub running: bool,
    /// How it last ended.
    pub last_code: Option<u8>,
}

/// Sums over the repository.
#[derive(Debug, Clone, Copy, Default)]
pub struct Totals {
    /// Bytes of all snapshots, if each were laid down.
    pub restorable: u64,
    /// Bytes as they were, each once.
    pub unique: u64,
    /// Bytes in the store.
    pub stored: u64,
    /// Snapshots.
    pub snapshots: u64,
}

/// Everything that a page shows, as it was at one time.
#[derive(Debug, Clone)]
pub struct View {
    /// When it was made.
    pub made: Moment,
    /// The machine.
    pub host: String,
    /// The repository's place.
    pub repository: String,
    /// How the restore helper begins its commands: `lifeboat --config FILE`.
    pub program: String,
    /// Sources, in the order of their names.
    pub sources: Vec<SourceView>,
    /// Second repositories.
    pub copies: Vec<CopyView>,
    /// What is wrong with the repository, its logs and its channels, in words.
    pub problems: Vec<(Weight, String)>,
    /// What the last check came to.
    pub checked: String,
    /// Runs of this host, the newest first.
    pub runs: Vec<Run>,
    /// Jobs of the agent, where one runs.
    pub jobs: Vec<JobView>,
    /// Sums.
    pub totals: Totals,
    /// The same for Prometheus.
    pub metrics: String,
    /// The same for programs.
    pub json: String,
}

impl View {
    /// The gravest of all.
    pub fn worst(&self) -> Weight {
        let sources = self.sources.iter().map(|source| source.status.weight());
        let problems = self.problems.iter().map(|(weight, _)| *weight);
        sources.chain(self.copies.iter().map(|copy| copy.state)).chain(problems).max().unwrap_or(Weight::Fine)
    }

    /// The source of a name.
    pub fn source(&self, name: &str) -> Option<&SourceView> {
        self.sources.iter().find(|source| source.status.source == name)
    }
}
