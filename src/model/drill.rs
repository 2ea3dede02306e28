//! A drill: a restore that nobody asked for, with what was measured and checked, as the log keeps it.
//!
//! Fields are only ever added. Not here: running one (`ops::drill`), and what follows from it (`plan::drill`).

use serde::{Deserialize, Serialize};

use super::{Moment, SnapshotId, limits};

/// How a drill ended. The first that applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Everything came back, every check passed, every objective was met.
    Passed,
    /// What came back is wrong, is not whole, or could not be had from what is stored.
    DataFailed,
    /// Everything came back, later than the objective allows.
    RtoMissed,
    /// Everything came back, but the newest recovery point is older than the objective allows.
    RpoMissed,
    /// The drill could not be held: no space, no programs, the store away. It says nothing of the data.
    NotHeld,
}

impl Verdict {
    /// Whether the data came back right.
    pub fn is_green(self) -> bool {
        self == Self::Passed
    }
}

/// The parts of a drill, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Choosing and reading what says where everything lies.
    Plan,
    /// Files, until they are synced.
    Fetch,
    /// A server, until it answers.
    Start,
    /// The server waiting for its log.
    Wait,
    /// The server applying its log; dumps being loaded.
    Replay,
    /// Until the first assertion was answered.
    Assert,
    /// Everything that is looked at afterwards; it is no part of the time to restore.
    Check,
}

impl Phase {
    /// As people read it.
    pub fn words(self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::Fetch => "fetch",
            Self::Start => "start",
            Self::Wait => "wait for log",
            Self::Replay => "replay",
            Self::Assert => "assert",
            Self::Check => "check",
        }
    }
}

/// How long a part took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseTime {
    /// Which part.
    pub phase: Phase,
    /// Milliseconds, on a clock that does not jump.
    pub ms: u64,
}

/// What became of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckEnd {
    /// It holds.
    Passed,
    /// It does not.
    Failed,
    /// It could not be made here; the detail says why.
    Skipped,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillCheck {
    /// Its name.
    pub name: String,
    /// What became of it.
    pub end: CheckEnd,
    /// What was found, in words.
    pub detail: String,
    /// Milliseconds that it took.
    pub ms: u64,
}

/// A whole drill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillRecord {
    /// Its name: made like a snapshot's.
    pub id: SnapshotId,
    /// The source as it was asked for.
    pub source: String,
    /// The source's kind.
    pub kind: String,
    /// Where it was held.
    pub host: String,
    /// When it began.
    pub began: Moment,
    /// When it ended.
    pub ended: Moment,
    /// What was asked for: `latest`, `random:17`, `now-rpo` or a time.
    pub at: String,
    /// The moment that was asked for.
    pub target: Option<Moment>,
    /// The moment that came back.
    pub shows: Option<Moment>,
    /// The newest moment that could have been had when it began.
    pub newest: Option<Moment>,
    /// The snapshot that was laid down.
    pub snapshot: Option<SnapshotId>,
    /// How it ended.
    pub verdict: Verdict,
    /// What went wrong, in words.
    pub problem: Option<String>,
    /// Its parts.
    pub phases: Vec<PhaseTime>,
    /// Milliseconds from the beginning until the first assertion was answered; none where that was not reached.
    pub rto_ms: Option<u64>,
    /// Age of the newest recovery point when it began, in milliseconds; none where there was none.
    pub rpo_ms: Option<u64>,
    /// The objective for the former.
    pub rto_limit_ms: Option<u64>,
    /// The objective for the latter.
    pub rpo_limit_ms: Option<u64>,
    /// Bytes that came from the store for the files.
    pub fetched_bytes: u64,
    /// Bytes that were laid down.
    pub restored_bytes: u64,
    /// Files of a log that were replayed.
    pub segments: u64,
    /// What was looked at.
    pub checks: Vec<DrillCheck>,
    /// A byte was damaged on purpose, to see that it is noticed.
    #[serde(default)]
    pub sabotaged: bool,
    /// The time of the canary that came back, where one was looked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<Moment>,
}

impl DrillRecord {
    /// One that has begun, of which nothing is known yet. `at` is what was asked for.
    pub fn begun(id: SnapshotId, source: &str, host: &str, began: Moment, at: String) -> Self {
        Self {
            id,
            source: source.to_owned(),
            kind: String::new(),
            host: host.to_owned(),
            began,
            ended: began,
            at,
            target: None,
            shows: None,
            newest: None,
            snapshot: None,
            verdict: Verdict::NotHeld,
            problem: None,
            phases: Vec::new(),
            rto_ms: None,
            rpo_ms: None,
            rto_limit_ms: None,
            rpo_limit_ms: None,
            fetched_bytes: 0,
            restored_bytes: 0,
            segments: 0,
            checks: Vec::new(),
            sabotaged: false,
            canary: None,
        }
    }

    /// Whether its numbers can be counted with and it is no larger than a record should be.
    pub(crate) fn validate(&self) -> Result<(), String> {
        let times = self.phases.iter().map(|part| part.ms).chain(self.checks.iter().map(|check| check.ms));
        let single = [self.rto_ms, self.rpo_ms, self.rto_limit_ms, self.rpo_limit_ms].into_iter().flatten();
        let counts = [self.fetched_bytes, self.restored_bytes, self.segments];
        let good = times.chain(single).chain(counts).all(|number| number <= limits::NUMBER_MAX);
        let few = self.phases.len() <= limits::DRILL_PARTS_MAX && self.checks.len() <= limits::DRILL_PARTS_MAX;
        if good && few { Ok(()) } else { Err(format!("drill {} does not add up", self.id)) }
    }

    /// How long a part took in milliseconds, 0 where it was not reached.
    pub fn ms_of(&self, phase: Phase) -> u64 {
        self.phases.iter().filter(|part| part.phase == phase).map(|part| part.ms).fold(0, u64::saturating_add)
    }
}
