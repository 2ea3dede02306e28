//! Deleting what a prune has retired, and litter: objects that no commit names. The only place that holds the store's right to delete.
//!
//! Invariants: the log is read again right before, while no other process of this host commits; what any snapshot needs, what is kept
//! and what is not due by the store's clock is spared; what is gone is said in a commit, so that nobody asks for it twice; what the
//! store does not let go is put off and told, and costs the rest nothing. Not here: what may be retired.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::{Error, Repository};
use crate::catalog::{ChunkTables, PackRow, Retired, RetiredObject, pack_key};
use crate::model::{CommitLine, Moment, Objects, PackId, SegmentKey};
use crate::plan::prune::due;
use crate::progress::{Event, Progress};
use crate::store::{Sweeper, Swept};

/// Objects that are deleted before a commit says so.
const BATCH: usize = 1_000;
/// For so many seconds a keeper takes nothing for litter: the runs of the host it does not see.
const A_DAY: u64 = 86_400;
/// Requests at a time.
const PARALLEL: usize = 8;
/// After so many refusals, and not one object gone, nothing further is asked for.
const REFUSALS: usize = 8;
/// Reasons that are told.
const NAMED: usize = 20;

/// What deleting did.
#[derive(Debug, Clone, Default)]
pub struct SweptReport {
    /// Packs that are gone.
    pub packs: u64,
    /// Segments that are gone.
    pub segments: u64,
    /// Stored bytes of them, as far as they are known.
    pub bytes: u64,
    /// Objects that no commit named, or that came back late, and that are gone.
    pub litter: u64,
    /// Their bytes.
    pub litter_bytes: u64,
    /// What stays for now because it is needed after all, or not due.
    pub spared: u64,
    /// Objects that the store did not let go.
    pub deferred: u64,
    /// The first of them, with the reason.
    pub reasons: Vec<(String, String)>,
}

/// Something to delete.
struct Doomed {
    object: RetiredObject,
    bytes: u64,
}

impl Repository {
    /// Deletes retired objects whose grace has passed. `bytes` is what each has; of segments those in `free` may go.
    pub fn sweep(
        &mut self,
        objects: &[(RetiredObject, u64)],
        free: &HashSet<SegmentKey>,
        grace: u64,
        clock: &dyn Fn() -> Moment,
        progress: &dyn Progress,
    ) -> Result<SweptReport, Error> {
        let mut report = SweptReport::default();
        if !objects.is_empty() {
            progress.event(Event::Stage("deleting what is retired"));
        }
        for batch in objects.chunks(BATCH) {
            if progress.cancelled() {
                return Err(Error::Cancelled);
            }
            self.commit(clock(), &ChunkTables::new(), progress, &mut |repository, _| {
                let doomed = repository.still_doomed(batch, free, grace)?;
                report.spared += (batch.len() - doomed.len()) as u64;
                let gone = repository.delete(&doomed, &mut report, progress)?;
                let mut said = Objects::default();
                for Doomed { object, bytes } in gone {
                    report.bytes += bytes;
                    match object {
                        RetiredObject::Pack(id) => said.packs.push(*id),
                        RetiredObject::Segment(key) => said.segments.push(key.clone()),
                    }
                }
                (report.packs, report.segments) =
                    (report.packs + said.packs.len() as u64, report.segments + said.segments.len() as u64);
                Ok(if said.is_empty() { Vec::new() } else { vec![CommitLine::Deleted(said)] })
            })?;
            if report.deferred >= REFUSALS as u64 && report.packs + report.segments == 0 {
                break;
            }
        }
        Ok(report)
    }

    /// Which of them may go, by the log as it was just read.
    fn still_doomed(
        &mut self,
        batch: &[(RetiredObject, u64)],
        free: &HashSet<SegmentKey>,
        grace: u64,
    ) -> Result<Vec<Doomed>, Error> {
        let row = self.host_row()?;
        if !self.prune_unknown(&[])?.is_empty() {
            return Ok(Vec::new());
        }
        let Some(now) = self.catalog.store_time(row)? else { return Ok(Vec::new()) };
        let retired: HashMap<RetiredObject, Retired> =
            self.catalog.retired(row)?.into_iter().map(|retired| (retired.object.clone(), retired)).collect();
        let usage = self.usage(row)?;
        let mut doomed = Vec::new();
        for (object, bytes) in batch {
            let Some(said) = retired.get(object) else { continue };
            let is_due = said
                .since
                .is_some_and(|since| since <= now && due(since, said.grace.max(grace)).is_some_and(|due| due <= now));
            let is_free = match object {
                RetiredObject::Pack(id) => match self.catalog.find_pack(row, id)? {
                    Some(pack) => self.needed_of(&pack, &usage)?.is_empty(),
                    None => false,
                },
                RetiredObject::Segment(key) => free.contains(key),
            };
            if is_due && is_free {
                doomed.push(Doomed { object: object.clone(), bytes: *bytes });
            }
        }
        Ok(doomed)
    }

    /// Deletes objects, several at a time. Returns those that are gone.
    fn delete<'d>(
        &self,
        doomed: &'d [Doomed],
        report: &mut SweptReport,
        progress: &dyn Progress,
    ) -> Result<Vec<&'d Doomed>, Error> {
        let name = &self.host()?.name;
        let keys: Vec<String> = doomed.iter().map(|doomed| doomed.object.key(name)).collect();
        let outcome = delete_all(&self.store.sweeper(name), &keys, progress);
        report.deferred += outcome.deferred.len() as u64;
        report.reasons.extend(outcome.deferred);
        report.reasons.truncate(NAMED);
        Ok(outcome.gone.into_iter().map(|n| &doomed[n]).collect())
    }

    /// Deletes packs that no commit names, or that came back after they were deleted, and on a disk what writes left that did not end:
    /// all that is older than the grace by the store's clock. Not while a run of this host is under way, which has packs that no commit
    /// names yet.
    pub fn collect_litter(
        &mut self,
        grace: u64,
        clock: &dyn Fn() -> Moment,
        report: &mut SweptReport,
        progress: &dyn Progress,
    ) -> Result<(), Error> {
        let (name, row) = (self.host()?.name.clone(), self.host_row()?);
        let Some(now) = self.catalog.store_time(row)? else { return Ok(()) };
        // A keeper does not see the runs of the host, and believes no word of it that something is gone.
        let by_keeper = self.is_keeper();
        let grace = if by_keeper { grace.max(self.hold_seconds()).max(A_DAY) } else { grace };
        let is_litter = |pack: Option<PackRow>| pack.is_none_or(|pack| pack.deleted && !by_keeper);
        if self.folder.run_is_under_way()? || !self.prune_unknown(&[])?.is_empty() {
            return Ok(());
        }
        progress.event(Event::Stage("looking for packs that no commit names"));
        let mut found: Vec<(PackId, u64)> = Vec::new();
        for object in self.store.list(&format!("writers/{name}/packs"), None)? {
            let id = object.key.rsplit('/').next().and_then(|name| name.parse::<PackId>().ok());
            let is_old = due(object.received, grace).is_some_and(|due| due <= now);
            if let Some(id) = id.filter(|id| is_old && object.key == pack_key(&name, id))
                && is_litter(self.catalog.find_pack(row, &id)?)
            {
                found.push((id, object.size));
            }
        }
        for batch in found.chunks(BATCH) {
            self.commit(clock(), &ChunkTables::new(), progress, &mut |repository, _| {
                // Another process may have named some of them since.
                let mut doomed = Vec::new();
                for (id, bytes) in batch {
                    if is_litter(repository.catalog.find_pack(row, id)?) {
                        doomed.push(Doomed { object: RetiredObject::Pack(*id), bytes: *bytes });
                    }
                }
                let gone = repository.delete(&doomed, report, progress)?;
                report.litter += gone.len() as u64;
                report.litter_bytes += gone.iter().map(|doomed| doomed.bytes).sum::<u64>();
                Ok(Vec::new())
            })?;
        }
        if let Some(before) =
            i64::try_from(grace).ok().and_then(chrono::TimeDelta::try_seconds).map(|grace| now - grace)
        {
            report.litter += self.store.sweeper(&name).clear_unfinished(before).len() as u64;
        }
        Ok(self.catalog.set_fact("litter looked for", &clock().timestamp().to_string())?)
    }

    /// Deletes what lies in streams and is no part of them: no commit names it, or it came back after it was deleted.
    pub fn delete_leftovers(
        &mut self,
        pieces: &[(SegmentKey, u64)],
        report: &mut SweptReport,
        progress: &dyn Progress,
    ) -> Result<(), Error> {
        let doomed: Vec<Doomed> = pieces
            .iter()
            .map(|(key, bytes)| Doomed { object: RetiredObject::Segment(key.clone()), bytes: *bytes })
            .collect();
        let gone = self.delete(&doomed, report, progress)?;
        report.litter += gone.len() as u64;
        report.litter_bytes += gone.iter().map(|doomed| doomed.bytes).sum::<u64>();
        Ok(())
    }
}

/// Which keys are gone, by their place, and which the store did not let go.
#[derive(Default)]
struct Outcome {
    gone: Vec<usize>,
    deferred: Vec<(String, String)>,
}

/// What does not go is put off; where nothing goes at all, the rest is not even asked for.
fn delete_all(sweeper: &Sweeper, keys: &[String], progress: &dyn Progress) -> Outcome {
    let (next, hopeless) = (AtomicUsize::new(0), AtomicBool::new(false));
    let outcome = Mutex::new(Outcome::default());
    let lock = || outcome.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    std::thread::scope(|scope| {
        for _ in 0..PARALLEL.min(keys.len()) {
            scope.spawn(|| {
                while let Some((n, key)) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|n| Some((n, keys.get(n)?)))
                {
                    if progress.cancelled() {
                        break;
                    }
                    if hopeless.load(Ordering::Relaxed) {
                        lock().deferred.push((key.clone(), "the store let none of the others go".to_owned()));
                        continue;
                    }
                    let swept = sweeper.delete(key);
                    let mut outcome = lock();
                    match swept {
                        Swept::Gone => outcome.gone.push(n),
                        Swept::Refused(e) | Swept::Failed(e) => outcome.deferred.push((key.clone(), why(&e))),
                    }
                    if outcome.gone.is_empty() && outcome.deferred.len() >= REFUSALS {
                        hopeless.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let mut outcome = outcome.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    outcome.gone.sort_unstable();
    outcome.deferred.sort();
    outcome
}

/// An error with its causes.
fn why(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        text.push_str(&format!(": {e}"));
        cause = e.source();
    }
    text
}
