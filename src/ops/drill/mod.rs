//! Drills: a restore that nobody asked for, by the plan and the deeds of an incident, into a scratch place; what was promised is
//! looked at, what it took is measured, and the answer is a record.
//!
//! Invariants: nothing but the scratch place is written, and it goes with the drill unless it shall stay; a server that was started is
//! stopped; whatever goes wrong is in the record, told apart by whether it is the data's fault. Time to restore counts until the
//! first assertion was answered; what is looked at for its own sake does not count. Not here: aims and verdicts (`plan::drill`).

mod canary;
mod checks;
mod cluster;
mod deployment;
mod dumps;
mod import;
mod scratch;
mod tree;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use self::canary::Canary;
pub use self::checks::Checks;
pub use self::import::SCRATCH_TABLE;
use self::scratch::Scratch;
use super::cluster::{Cluster, Which, gather};
use super::recover::{RecoverError, Server};
use super::restore::find_snapshot;
use super::{Error, Kind, chain};
use crate::client;
use crate::client::convex::Deployment;
use crate::model::drill::{CheckEnd, DrillCheck, DrillRecord, Phase, PhaseTime, Verdict};
use crate::model::{Moment, SnapshotId};
use crate::plan::drill::{At, NoAim, verdict};
use crate::plan::recovery::Way;
use crate::plan::restore::Wanted;
use crate::progress::Progress;
use crate::repository::Repository;

/// How a restored server fetches its log. The file is where each call says how long it took.
pub type RestoreCommand<'a> = dyn Fn(&Cluster, &Way, &Path) -> Result<String, String> + 'a;

/// How a drill is held.
pub struct DrillOptions<'a> {
    /// Its name.
    pub id: SnapshotId,
    /// This machine's name.
    pub host: String,
    /// Which moment comes back.
    pub at: At,
    /// The directory below which everything lands.
    pub scratch: Option<PathBuf>,
    /// Leaves what was restored.
    pub keep: bool,
    /// How long it may take.
    pub rto: Option<Duration>,
    /// How old the newest recovery point may be.
    pub rpo: Option<Duration>,
    /// Where PostgreSQL's programs lie.
    pub bin_dir: Option<PathBuf>,
    /// Of a process of root: the user as whom a server for dumps runs.
    pub user: Option<String>,
    /// What is looked at.
    pub checks: Checks,
    /// The canary that must be there.
    pub canary: Option<Canary>,
    /// A deployment for drills alone, that a deployment is restored into too.
    pub deployment: Option<&'a Deployment>,
    /// Damages a byte of what was laid down: the drill must fail.
    pub sabotage: bool,
    /// How a restored server fetches its log.
    pub restore_command: &'a RestoreCommand<'a>,
    /// The time of day.
    pub clock: &'a dyn Fn() -> Moment,
}

/// What a drill tells while it is held.
#[derive(Debug)]
pub enum Heard<'a> {
    /// What will be done, in words.
    Plan(String),
    /// A part begins.
    Phase(Phase),
    /// Something was looked at.
    Check(&'a DrillCheck),
    /// What was restored stays here.
    Kept(&'a Path),
}

/// Stops a server, whatever happens.
struct Stopping(Server);

impl Drop for Stopping {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// A drill under way.
struct Held<'h> {
    options: &'h DrillOptions<'h>,
    progress: &'h dyn Progress,
    hear: &'h mut dyn FnMut(Heard<'_>),
    record: DrillRecord,
    /// When the reading of the snapshot began, where it was not of one moment.
    read_from: Option<Moment>,
    phase: Phase,
    since: Instant,
}

impl Held<'_> {
    /// Ends the part before and begins this one.
    fn enter(&mut self, phase: Phase) {
        self.count(self.phase, self.since.elapsed());
        (self.phase, self.since) = (phase, Instant::now());
        (self.hear)(Heard::Phase(phase));
    }

    fn count(&mut self, phase: Phase, time: Duration) {
        let ms = time.as_millis() as u64;
        match self.record.phases.iter_mut().find(|part| part.phase == phase) {
            Some(part) => part.ms += ms,
            None => self.record.phases.push(PhaseTime { phase, ms }),
        }
    }

    /// The first assertion was answered: the source is back.
    fn back(&mut self) {
        self.enter(Phase::Check);
        let parts = self.record.phases.iter().filter(|part| part.phase != Phase::Check);
        self.record.rto_ms = Some(parts.map(|part| part.ms).sum());
    }

    /// Makes a check and notes what became of it. What the restored source answers with is the data's fault.
    fn check(
        &mut self,
        name: &str,
        look: impl FnOnce(&mut Self) -> Result<(CheckEnd, String), Error>,
    ) -> Result<bool, Error> {
        let begun = Instant::now();
        let (end, detail) = match look(self) {
            Ok(found) => found,
            Err(e) if e.kind() == Kind::Cancelled => return Err(e),
            // This machine could not look: that says nothing of the data, and no drill was held.
            Err(e @ (Error::Io { .. } | Error::Output { .. } | Error::Client(client::Error::Spawn { .. }))) => {
                return Err(e);
            }
            Err(e) => (CheckEnd::Failed, chain(&e)),
        };
        let check = DrillCheck { name: name.to_owned(), end, detail, ms: begun.elapsed().as_millis() as u64 };
        (self.hear)(Heard::Check(&check));
        self.record.checks.push(check);
        Ok(end != CheckEnd::Failed)
    }

    /// Which moment is asked for, and how old the newest one is.
    fn aim(&mut self, windows: &[(Moment, Moment)]) -> Result<Option<Moment>, NoAim> {
        let now = self.record.began;
        self.record.newest = windows.iter().map(|(_, to)| *to).max();
        self.record.rpo_ms = self.record.newest.map(|newest| (now - newest).num_milliseconds().max(0) as u64);
        let rpo = self.options.rpo.and_then(|rpo| chrono::TimeDelta::from_std(rpo).ok());
        self.record.target = self.options.at.moment(now, rpo, windows)?;
        Ok(self.record.target)
    }

    fn plan(&mut self, words: String) {
        (self.hear)(Heard::Plan(words));
    }
}

/// Holds a drill. What goes wrong is in the record.
///
/// # Errors
/// That it was interrupted, or that no key opens what is stored: then nothing was learned.
pub fn drill(
    repository: &mut Repository,
    source: &str,
    options: &DrillOptions<'_>,
    progress: &dyn Progress,
    hear: &mut dyn FnMut(Heard<'_>),
) -> Result<DrillRecord, Error> {
    let record = begin(source, options);
    let mut held = Held { options, progress, hear, record, read_from: None, phase: Phase::Plan, since: Instant::now() };
    let mut scratch = None;
    let outcome = hold(repository, source, &mut held, &mut scratch);
    held.count(held.phase, held.since.elapsed());
    let Held { mut record, hear, .. } = held;
    record.ended = (options.clock)();
    match scratch {
        Some(scratch) if options.keep => hear(Heard::Kept(&scratch.keep())),
        scratch => drop(scratch),
    }
    (record.verdict, record.problem) = match outcome {
        Ok(()) => verdict(&record),
        Err(e) if matches!(e.kind(), Kind::Cancelled | Kind::Key) => return Err(e),
        Err(e) => (fault(&e), Some(chain(&e))),
    };
    Ok(record)
}

fn begin(source: &str, options: &DrillOptions<'_>) -> DrillRecord {
    let began = (options.clock)();
    let ms = |limit: Option<Duration>| limit.map(|limit| limit.as_millis() as u64);
    DrillRecord {
        rto_limit_ms: ms(options.rto),
        rpo_limit_ms: ms(options.rpo),
        sabotaged: options.sabotage,
        ..DrillRecord::begun(options.id, source, &options.host, began, options.at.words())
    }
}

/// Whose fault an error is: what is stored does not lead to what was promised, or this machine is not able to hold a drill.
fn fault(error: &Error) -> Verdict {
    match error {
        Error::Recover(RecoverError::Ended { .. } | RecoverError::Unproven { .. }) => Verdict::DataFailed,
        e if matches!(e.kind(), Kind::Damage | Kind::NoPlan) => Verdict::DataFailed,
        _ => Verdict::NotHeld,
    }
}

fn hold(
    repository: &mut Repository,
    source: &str,
    held: &mut Held<'_>,
    scratch: &mut Option<Scratch>,
) -> Result<(), Error> {
    (held.hear)(Heard::Phase(Phase::Plan));
    let which = match held.options.at {
        At::Time(moment) => Which::At(moment),
        At::Latest | At::Random(_) | At::NowRpo => Which::Newest,
    };
    if let Some(cluster) = gather(repository, source, which)? {
        held.record.kind = "postgres".to_owned();
        let scratch = scratch.insert(Scratch::make(held.options.scratch.as_deref())?);
        return cluster::hold(repository, &cluster, held, scratch);
    }
    let (newest, choice) = find_snapshot(repository, source, &Wanted::Latest, false)?;
    let full_name = newest.full_name();
    if newest.record.kind == "convex" {
        held.record.kind.clone_from(&newest.record.kind);
        let scratch = scratch.insert(Scratch::make(held.options.scratch.as_deref())?);
        return deployment::hold(repository, &full_name, held, scratch);
    }
    let all = repository.catalog().snapshots()?;
    let whole = all.iter().filter(|row| row.full_name() == full_name && row.record.complete);
    let windows: Vec<(Moment, Moment)> = whole.map(|row| (row.record.ended, row.record.ended)).collect();
    let (snapshot, choice) = match held.aim(&windows)? {
        None => (newest, choice),
        Some(moment) => find_snapshot(repository, &full_name, &Wanted::At(moment), false)?,
    };
    held.record.kind.clone_from(&snapshot.record.kind);
    held.read_from = Some(snapshot.record.began);
    (held.record.snapshot, held.record.shows) = (Some(choice.id), Some(choice.shows));
    let scratch = scratch.insert(Scratch::make(held.options.scratch.as_deref())?);
    match snapshot.record.kind.as_str() {
        "pg_dump" => dumps::hold(repository, snapshot, &choice, held, scratch),
        _ => tree::hold(repository, snapshot, &choice, held, scratch),
    }
}
