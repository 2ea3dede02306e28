//! Freeing the bytes that nothing needs: facts, a plan that is shown, and then the plan carried out.
//!
//! The order is that of safety. What is needed of packs that are mostly not is copied; one commit names the copies and retires the old
//! packs. Only after the grace, by the store's clock, a later run reads the log again, spares what is needed after all, and deletes the
//! rest. Killed anywhere, the next run goes on. Invariants: this host's own packs and streams only; it needs no identity; where the log
//! does not tell everything nothing is retired and nothing goes. Not here: the rules (`plan::prune`, `plan::needed_wal`), and what
//! holds the right to delete (`repository::sweep`).

mod streams;

use std::collections::HashSet;
use std::time::Instant;

use serde::Serialize;

use super::Error;
use crate::catalog::{RetiredObject, Usage};
use crate::model::{Moment, Objects, Retention, SegmentKey};
use crate::plan::prune::{Limits, Pack, Plan, due, plan as decide};
use crate::progress::Progress;
use crate::repository::{HeldBack, Problem, Repacked, Repository, SweptReport};

pub use self::streams::StreamPlan;

/// Below this grace a run that is under way would not notice in time.
const SAFE_GRACE: u64 = 3_600;
/// Seconds between two looks for litter, where nothing else is to be done.
const LITTER_EVERY: i64 = 7 * 86_400;

/// How a prune is done.
#[derive(Debug, Clone, Copy)]
pub struct PruneOptions {
    /// How much.
    pub limits: Limits,
    /// No further pack is copied after this.
    pub until: Option<Instant>,
}

/// Why nothing is pruned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PruneError {
    /// Another process of this host does it.
    #[error("another prune is at work on this host")]
    Busy,
    /// A backup would not notice in time what is retired.
    #[error(
        "a backup is under way on this host, and a grace of {0} seconds is too short for it to notice what is retired"
    )]
    Running(u64),
}

/// What to keep of the log of a source's cluster.
pub type PolicyOf<'p> = &'p dyn Fn(&str) -> Option<Retention>;

/// What a prune will do. A value: shown, compared, tested.
#[derive(Debug, Clone, Serialize)]
pub struct PrunePlan {
    /// The writer that a keeper keeps; absent where a host frees its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub writer: Option<String>,
    /// Of that writer, what a keeper does not believe yet.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<HeldBack>,
    /// Seconds for which it does not.
    #[serde(skip)]
    pub hold: u64,
    /// The packs of this host.
    pub packs: Plan,
    /// Its streams of which something is to be done.
    pub streams: Vec<StreamPlan>,
    /// Bytes in frames that are needed, of which the newest snapshots use only a part: plain, not known exactly. The next backups write
    /// anew what is used of them.
    pub dead_in_frames: u64,
    #[serde(skip)]
    usage: Usage,
}

impl PrunePlan {
    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.packs.is_idle() && self.streams.iter().all(StreamPlan::is_idle)
    }

    fn keep(&self) -> Objects {
        Objects {
            packs: self.packs.spare.iter().map(|pack| pack.id).collect(),
            segments: self.streams.iter().flat_map(|stream| stream.keep.iter().cloned()).collect(),
        }
    }

    fn doomed(&self) -> Vec<(RetiredObject, u64)> {
        let packs = self.packs.delete.iter().map(|pack| (RetiredObject::Pack(pack.id), pack.size));
        let segments = self.streams.iter().flat_map(|stream| &stream.delete);
        packs.chain(segments.map(|(key, bytes)| (RetiredObject::Segment(key.clone()), *bytes))).collect()
    }
}

/// What a prune did.
#[derive(Debug, Clone, Default, Serialize)]
pub struct PruneReport {
    /// Stored bytes of packs before.
    pub before: u64,
    /// Stored bytes of packs now.
    pub after: u64,
    /// Packs that are gone.
    pub packs_deleted: u64,
    /// Segments that are gone.
    pub segments_deleted: u64,
    /// Bytes of both.
    pub freed: u64,
    /// Objects that no commit named and that are gone.
    pub litter: u64,
    /// Their bytes.
    pub litter_bytes: u64,
    /// Packs that are retired now.
    pub packs_retired: u64,
    /// Segments that are retired now.
    pub segments_retired: u64,
    /// Bytes of both.
    pub retired: u64,
    /// Packs, and segments, that are retired and still there.
    pub waiting: u64,
    /// When the first of them may go, by the store's clock.
    pub first_due: Option<Moment>,
    /// When all of them may.
    pub last_due: Option<Moment>,
    /// Retired ones that are needed after all.
    pub kept: u64,
    /// Packs that were emptied.
    pub emptied: u64,
    /// Frames that were copied.
    pub frames_copied: u64,
    /// Bytes that were copied.
    pub copied: u64,
    /// Packs that were put.
    pub packs_new: u64,
    /// Packs that were to be emptied and were not, because time was up.
    pub left: u64,
    /// Packs that stay because their stored bytes do not match.
    pub damaged: Vec<(String, String)>,
    /// Objects that the store did not let go.
    pub deferred: u64,
    /// The first of them, with the reason.
    pub reasons: Vec<(String, String)>,
    /// What the log said on the way.
    #[serde(skip)]
    pub problems: Vec<Problem>,
}

/// Makes the plan. Nothing is written. `problems` are those that opening the repository told.
pub fn plan(
    repository: &mut Repository,
    options: &PruneOptions,
    policy: PolicyOf<'_>,
    problems: &[Problem],
) -> Result<PrunePlan, Error> {
    let (facts, usage) = repository.prune_facts(problems)?;
    let knows_all = facts.unknown.is_empty();
    let streams = streams::plan(repository, options.limits.grace, policy, knows_all)?;
    let packs = decide(facts, options.limits);
    let dead_in_frames = dead_in_frames(repository, &usage)?;
    let writer = if repository.is_keeper() { Some(repository.host()?.name.clone()) } else { None };
    let (held, hold) = (repository.held_back()?, repository.hold_seconds());
    Ok(PrunePlan { writer, held, hold, packs, streams, dead_in_frames, usage })
}

/// What the newest snapshots do not use of frames that are needed, as far as it was measured.
fn dead_in_frames(repository: &Repository, usage: &Usage) -> Result<u64, Error> {
    let mut dead = 0;
    for (row, _, used) in repository.catalog().sparse()? {
        if usage.uses(row) {
            dead += repository.catalog().frame(row)?.plain.saturating_sub(used);
        }
    }
    Ok(dead)
}

/// Whether the store should be asked for the time: something that was retired would be due by this host's clock, and by the newest
/// commit it is not. This clock only decides whether to ask.
fn worth_asking(repository: &mut Repository, plan: &PrunePlan, grace: u64, now: Moment) -> Result<bool, Error> {
    if !plan.packs.unknown.is_empty() || !plan.doomed().is_empty() {
        return Ok(false);
    }
    let row = repository.host_row()?;
    let Some(known) = repository.catalog().store_time(row)? else { return Ok(false) };
    let hold = repository.hold_seconds();
    let held = repository.held_back()?;
    if held.iter().any(|held| due(held.received, hold).is_some_and(|due| known < due && due <= now)) {
        return Ok(true);
    }
    let retired = repository.catalog().retired(row)?;
    Ok(retired
        .iter()
        .filter_map(|retired| due(retired.since?, retired.grace.max(grace)))
        .any(|due| known < due && due <= now))
}

/// Makes the plan of a keeper, who joins what it and the writer have committed at the same moment first: else nothing would be known to be free.
pub fn plan_as_keeper(
    repository: &mut Repository,
    options: &PruneOptions,
    policy: PolicyOf<'_>,
    problems: &[Problem],
    (now, progress): (Moment, &dyn Progress),
) -> Result<PrunePlan, Error> {
    repository.check_keeper()?;
    let joined = repository.join_ends(now, progress)?;
    let problems: Vec<Problem> =
        problems.iter().filter(|problem| !(joined && matches!(problem, Problem::Fork { .. }))).cloned().collect();
    plan(repository, options, policy, &problems)
}

/// Carries a plan out. Where the store is asked for the time first, what that makes due goes too.
pub fn prune(
    repository: &mut Repository,
    mut prepared: PrunePlan,
    options: &PruneOptions,
    policy: PolicyOf<'_>,
    clock: &dyn Fn() -> Moment,
    progress: &dyn Progress,
) -> Result<PruneReport, Error> {
    let _alone = repository.folder().prune_lock()?.ok_or(PruneError::Busy)?;
    let grace = options.limits.grace;
    if grace < SAFE_GRACE && repository.folder().run_is_under_way()? {
        return Err(PruneError::Running(grace).into());
    }
    if worth_asking(repository, &prepared, grace, clock())? {
        let problems = repository.ask_store_time(clock(), progress)?.problems;
        prepared = plan(repository, options, policy, &problems)?;
    }
    let mut report = PruneReport { before: prepared.packs.before, ..PruneReport::default() };
    retire(repository, &prepared, grace, clock, &mut report, progress)?;
    let ids: Vec<_> = prepared.packs.repack.iter().map(|pack| pack.id).collect();
    let repacked = repository.repack(&ids, &prepared.usage, grace, options.until, clock, progress)?;
    let stored = repacked.stored;
    note_repacked(&mut report, repacked);
    if grace == 0 && report.packs_retired + report.segments_retired > 0 {
        prepared = plan(repository, options, policy, &[])?;
    }
    let free: HashSet<SegmentKey> = prepared.streams.iter().flat_map(|stream| stream.free.iter().cloned()).collect();
    let doomed = prepared.doomed();
    let mut swept = repository.sweep(&doomed, &free, grace, clock, progress)?;
    let packs_gone = swept.packs;
    let bytes_gone: u64 = prepared.packs.delete.iter().map(|pack| pack.size).sum();
    if packs_gone > 0 || report.packs_retired > 0 || litter_is_due(repository, clock())? {
        repository.collect_litter(grace, clock, &mut swept, progress)?;
        streams::collect_leftovers(repository, grace, &mut swept, progress)?;
    }
    let gone = if packs_gone == prepared.packs.delete.len() as u64 { bytes_gone } else { swept.bytes.min(bytes_gone) };
    report.after = (report.before + stored).saturating_sub(gone);
    note_swept(&mut report, swept);
    note_waiting(repository, grace, &mut report)?;
    Ok(report)
}

fn retire(
    repository: &mut Repository,
    prepared: &PrunePlan,
    grace: u64,
    clock: &dyn Fn() -> Moment,
    report: &mut PruneReport,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let packs: Vec<&Pack> = prepared.packs.retire.iter().chain(&prepared.packs.again).collect();
    let ids: Vec<_> = packs.iter().map(|pack| pack.id).collect();
    let segments: Vec<&(SegmentKey, u64)> = prepared.streams.iter().flat_map(|stream| &stream.retire).collect();
    let keys: Vec<SegmentKey> = segments.iter().map(|(key, _)| key.clone()).collect();
    let keep = prepared.keep();
    if ids.is_empty() && keys.is_empty() && keep.is_empty() {
        return Ok(());
    }
    if !keys.is_empty() {
        // What is retired is named first: else its row in the index would wait for a commit that says what is gone.
        repository.commit_segments(clock(), progress)?;
    }
    let done = repository.retire(&ids, &keys, &keep, grace, clock(), progress)?;
    report.packs_retired = done.packs.len() as u64;
    report.segments_retired = done.segments.len() as u64;
    report.kept = done.kept;
    let (packs_now, segments_now): (HashSet<_>, HashSet<_>) =
        (done.packs.iter().collect(), done.segments.iter().collect());
    report.retired = packs.iter().filter(|pack| packs_now.contains(&pack.id)).map(|pack| pack.size).sum::<u64>()
        + segments.iter().filter(|(key, _)| segments_now.contains(key)).map(|(_, bytes)| bytes).sum::<u64>();
    report.problems = done.problems;
    Ok(())
}

fn note_repacked(report: &mut PruneReport, done: Repacked) {
    report.packs_retired += done.emptied.len() as u64;
    report.retired += done.emptied_bytes;
    report.emptied = done.emptied.len() as u64;
    (report.frames_copied, report.copied) = (done.frames, done.copied);
    (report.packs_new, report.left) = (done.packs, done.left);
    report.damaged = done.damaged.into_iter().map(|(pack, why)| (pack.to_string(), why)).collect();
}

fn note_swept(report: &mut PruneReport, swept: SweptReport) {
    (report.packs_deleted, report.segments_deleted, report.freed) = (swept.packs, swept.segments, swept.bytes);
    (report.litter, report.litter_bytes) = (swept.litter, swept.litter_bytes);
    (report.deferred, report.reasons) = (swept.deferred, swept.reasons);
}

fn note_waiting(repository: &mut Repository, grace: u64, report: &mut PruneReport) -> Result<(), Error> {
    let row = repository.host_row()?;
    let retired = repository.catalog().retired(row)?;
    report.waiting = retired.len() as u64;
    let dues = || retired.iter().filter_map(|retired| due(retired.since?, retired.grace.max(grace)));
    (report.first_due, report.last_due) = (dues().min(), dues().max());
    Ok(())
}

/// Where nothing was done litter is looked for once a week: a listing of all packs is the one thing that grows with the repository.
fn litter_is_due(repository: &Repository, now: Moment) -> Result<bool, Error> {
    let looked = repository.catalog().fact("litter looked for")?.and_then(|text| text.parse::<i64>().ok());
    Ok(looked.is_none_or(|at| !(0..LITTER_EVERY).contains(&(now.timestamp() - at))))
}
