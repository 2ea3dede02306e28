//! The log of clusters and the changes of deployments: which segments no kept snapshot and no window needs, and leftovers in the
//! folders of streams.
//!
//! Invariants: what `plan::needed_wal` needs stays, histories stay always; a stream without a base backup that is kept gives nothing
//! away, unless its source has moved on to another stream since; the store is asked only where the index has something to free.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde::Serialize;

use super::super::Error;
use super::super::cluster::{Cluster, Which, gather, gather_from, gather_from_index};
use super::PolicyOf;
use crate::catalog::{Retired, RetiredObject};
use crate::format::wal::ArchiveFile;
use crate::model::documents::{DbTime, parse_place};
use crate::model::{Moment, Retention, SegmentKey, SegmentName, SegmentRecord, SnapshotId};
use crate::ops::documents;
use crate::ops::forget::stream_of;
use crate::plan::documents::{self as plan_documents, Base, Piece};
use crate::plan::needed_wal::needed;
use crate::plan::prune::due;
use crate::plan::retention::window_since;
use crate::progress::Progress;
use crate::repository::{Repository, SweptReport};

/// What is done with the segments of a stream.
#[derive(Debug, Clone, Default, Serialize)]
pub struct StreamPlan {
    /// The source.
    pub source: String,
    /// The stream.
    pub stream: String,
    /// From when on every moment stays within reach; `None` where nothing of it is kept.
    pub since: Option<Moment>,
    /// Segments that nothing needs, with their stored bytes: they are retired.
    pub retire: Vec<(SegmentKey, u64)>,
    /// Those that were retired before and may go now.
    pub delete: Vec<(SegmentKey, u64)>,
    /// Those that were retired before and are needed after all.
    pub keep: Vec<SegmentKey>,
    /// How many were retired before and wait.
    pub wait: u64,
    /// How many stay.
    pub stay: u64,
    #[serde(skip)]
    pub(super) free: HashSet<SegmentKey>,
}

impl StreamPlan {
    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.retire.is_empty() && self.delete.is_empty() && self.keep.is_empty()
    }
}

/// A stream of this host's snapshots.
#[derive(Debug, Default)]
struct Known {
    /// The source that it is of.
    source: String,
    /// Whether a snapshot of it is kept.
    kept: bool,
    /// Of a deployment's changes: the snapshots that are kept.
    bases: Option<Vec<Base>>,
}

fn streams(repository: &mut Repository) -> Result<BTreeMap<String, Known>, Error> {
    let row = repository.host_row()?;
    let mut all: BTreeMap<String, Known> = BTreeMap::new();
    for snapshot in repository.catalog().all_snapshots()?.into_iter().filter(|s| s.writer == row) {
        let Some(stream) = stream_of(&snapshot.record) else { continue };
        let is_kept = !snapshot.forgotten || snapshot.pinned;
        let known = all.entry(stream).or_default();
        known.kept |= is_kept;
        if snapshot.record.kind == "convex" {
            let bases = known.bases.get_or_insert_default();
            bases.extend(documents::base_of(&snapshot).filter(|_| is_kept));
        }
        known.source = snapshot.record.source;
    }
    Ok(all)
}

/// What a keeper believes of a stream: what the store has had for the hold. Of something younger a thief of the host could say that it serves
/// what older things serve.
struct Believed {
    snapshots: HashSet<SnapshotId>,
    segments: HashSet<SegmentKey>,
}

impl Believed {
    /// `None` where a host prunes its own log.
    fn of(repository: &Repository, writer: &str, stream: &str) -> Result<Option<Self>, Error> {
        let Some(until) = repository.believed_until() else { return Ok(None) };
        let catalog = repository.catalog();
        let all = catalog.all_snapshots()?;
        let old = all.iter().filter(|snapshot| snapshot.arrived.is_some_and(|at| at <= until));
        let snapshots = old.map(|snapshot| snapshot.record.id).collect();
        let segments = catalog.segments_received_by(writer, stream, until).map_err(crate::repository::Error::from)?;
        Ok(Some(Self { snapshots, segments }))
    }
}

/// What is done with this host's streams.
pub(super) fn plan(
    repository: &mut Repository,
    grace: u64,
    policy: PolicyOf<'_>,
    knows_all: bool,
) -> Result<Vec<StreamPlan>, Error> {
    let (own, row) = (repository.host()?.name.clone(), repository.host_row()?);
    let mut retired: HashMap<SegmentKey, Retired> = HashMap::new();
    for one in repository.catalog().retired(row)? {
        if let RetiredObject::Segment(key) = &one.object {
            retired.insert(key.clone(), one);
        }
    }
    let now = repository.catalog().store_time(row)?;
    let known = streams(repository)?;
    let mut plans = Vec::new();
    for (stream, of) in &known {
        let source = &of.source;
        let goes_on = |(other, it): (&String, &Known)| other != stream && it.source == *source && it.kept;
        let moved_on = !of.kept && known.iter().any(goes_on);
        let believed = Believed::of(repository, &own, stream)?;
        let full_name = format!("{own}/{source}");
        let judged = Judged { stream, source, full_name, policy: policy(source), now, believed };
        let records = repository.catalog().segments(&own, stream).map_err(crate::repository::Error::from)?;
        let is_log = of.bases.is_none();
        let found = match is_log || moved_on {
            true => judged.free(repository, moved_on, &Source::Index)?,
            false => Some(judged.free_documents(&records, of)),
        };
        let Some((since, mut free)) = found else { continue };
        let is_retired = retired.keys().any(|key| key.0.stream() == stream.as_str());
        if !records.iter().any(|record| free.has(record)) && !is_retired {
            continue;
        }
        // There is something to free: now what the store really holds decides.
        if !moved_on && is_log {
            let Some((_, again)) = judged.free(repository, moved_on, &Source::Store)? else { continue };
            free = again;
        }
        let mut plan = StreamPlan { source: source.clone(), stream: stream.clone(), since, ..StreamPlan::default() };
        let mut places = HashSet::new();
        let twice: HashSet<_> =
            records.iter().map(|record| &record.place).filter(|place| !places.insert(*place)).collect();
        for record in records.iter().filter(|record| !record.place.is_passing()) {
            // Of two under one name a keeper does not know which is the right one.
            let is_free =
                free.has(record) && knows_all && !(judged.believed.is_some() && twice.contains(&record.place));
            judge(&mut plan, record, is_free, retired.get(&key_of(record)), now, grace);
        }
        plans.push(plan);
    }
    Ok(plans)
}

fn key_of(record: &SegmentRecord) -> SegmentKey {
    SegmentKey(record.place.clone(), record.digest)
}

fn judge(
    plan: &mut StreamPlan,
    record: &SegmentRecord,
    is_free: bool,
    retired: Option<&Retired>,
    now: Option<Moment>,
    grace: u64,
) {
    let key = key_of(record);
    let sized = (key.clone(), record.stored);
    if is_free {
        plan.free.insert(key.clone());
    }
    match (is_free, retired) {
        (false, None) => plan.stay += 1,
        (false, Some(_)) => plan.keep.push(key),
        (true, None) => plan.retire.push(sized),
        (true, Some(said)) => {
            let due = said.since.and_then(|since| due(since, said.grace.max(grace)));
            match due.zip(now) {
                // The clock was set back since: it would wait for as long as that clock ran ahead.
                _ if said.since.zip(now).is_some_and(|(since, now)| since > now) => plan.retire.push(sized),
                Some((due, now)) if due <= now => plan.delete.push(sized),
                _ => plan.wait += 1,
            }
        }
    }
}

enum Source {
    Index,
    Store,
}

/// Segments that nothing needs.
enum Free {
    /// All of the stream: its source has moved on to another.
    All,
    Segments(BTreeSet<SegmentName>),
    /// Of a deployment's changes.
    Documents(BTreeSet<(DbTime, u64)>),
}

impl Free {
    fn has(&self, record: &SegmentRecord) -> bool {
        match (self, ArchiveFile::parse(record.place.name())) {
            (Self::All, _) => true,
            (Self::Documents(free), _) => parse_place(&record.place).is_some_and(|key| free.contains(&key)),
            (Self::Segments(free), Ok(ArchiveFile::Segment(name))) => free.contains(&name),
            _ => false,
        }
    }
}

struct Judged<'j> {
    stream: &'j str,
    source: &'j str,
    full_name: String,
    policy: Option<Retention>,
    now: Option<Moment>,
    believed: Option<Believed>,
}

impl Judged<'_> {
    /// What may go of a deployment's changes, and from when on every moment stays within reach.
    fn free_documents(&self, records: &[SegmentRecord], known: &Known) -> (Option<Moment>, Free) {
        let window = self.window();
        let mut kept = known.bases.clone().unwrap_or_default();
        kept.sort_by_key(|base| base.at);
        let free = |kept: &[Base], only: &dyn Fn(&SegmentRecord) -> bool| -> BTreeSet<(DbTime, u64)> {
            let mut pieces: Vec<Piece> =
                records.iter().filter(|record| only(record)).filter_map(documents::piece_of).collect();
            pieces.sort_by_key(|piece| (piece.epoch, piece.number));
            plan_documents::free(&pieces, kept, window).into_iter().collect()
        };
        let since = window.or(kept.first().map(|base| base.ended));
        let all = free(&kept, &|_| true);
        let Some(believed) = &self.believed else { return (since, Free::Documents(all)) };
        kept.retain(|base| believed.snapshots.contains(&base.id));
        let by_those = match kept.is_empty() {
            true => BTreeSet::new(),
            false => free(&kept, &|record| believed.segments.contains(&key_of(record))),
        };
        (since, Free::Documents(&all & &by_those))
    }

    fn window(&self) -> Option<Moment> {
        self.policy.as_ref().and_then(|policy| window_since(policy, self.now))
    }

    /// What may go of the stream, and from when on every moment stays within reach. `None` where nothing is to be judged.
    fn free(
        &self,
        repository: &Repository,
        moved_on: bool,
        source: &Source,
    ) -> Result<Option<(Option<Moment>, Free)>, Error> {
        if moved_on {
            return Ok(Some((None, Free::All)));
        }
        let which = Which::Stream(self.stream);
        let cluster = match source {
            Source::Index => gather_from_index(repository, &self.full_name, which)?,
            Source::Store => gather(repository, &self.full_name, which)?,
        };
        let Some(Cluster { archive, .. }) = cluster else { return Ok(None) };
        let kept: BTreeSet<SnapshotId> = archive.bases.iter().map(|base| base.id).collect();
        let window = self.window();
        // Nobody said that moments between base backups may go: then all of the log behind the oldest one stays.
        let oldest = archive.bases.iter().map(|base| base.backup.stopped).min();
        let Some(since) = window.or(oldest) else { return Ok(None) };
        tracing::debug!(source = self.source, %since, "the log is kept from here on");
        let mut free = needed(&archive, &kept, Some(since)).free;
        if let Some(believed) = &self.believed {
            let older = gather_from(repository, &self.full_name, which, &believed.segments)?;
            let by_those = older.map_or_else(BTreeSet::new, |Cluster { mut archive, .. }| {
                archive.bases.retain(|base| believed.snapshots.contains(&base.id));
                // Nothing is free of a stream without bases.
                needed(&archive, &kept, Some(since)).free
            });
            free.retain(|name| by_those.contains(name));
        }
        Ok(Some((Some(since), Free::Segments(free))))
    }
}

/// Deletes pieces of segments that are there whole, or that nothing needs, and what came back after it was deleted: all that is older
/// than the grace.
pub(super) fn collect_leftovers(
    repository: &mut Repository,
    grace: u64,
    report: &mut SweptReport,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let (own, row) = (repository.host()?.name.clone(), repository.host_row()?);
    let Some(now) = repository.catalog().store_time(row)? else { return Ok(()) };
    let grace = grace.max(repository.hold_seconds());
    for stream in repository.catalog().streams(&own).map_err(crate::repository::Error::from)? {
        let records = repository.catalog().segments(&own, &stream).map_err(crate::repository::Error::from)?;
        let fresh: HashSet<SegmentKey> = repository.fresh_segments()?.iter().map(key_of).collect();
        // What a commit names is not taken back: the whole segment stands for its pieces, and so does the log that goes on behind it.
        let mut whole: BTreeSet<SegmentName> = BTreeSet::new();
        let believed = Believed::of(repository, &own, &stream)?;
        let there: HashSet<SegmentKey> = match believed {
            Some(_) => repository.list_stream(&own, &stream)?.there.iter().map(key_of).collect(),
            None => HashSet::new(),
        };
        // A keeper takes a whole segment for one only where it has long been named, and is there.
        let is_whole = |key: &SegmentKey| match &believed {
            Some(believed) => believed.segments.contains(key) && there.contains(key),
            None => !fresh.contains(key),
        };
        for record in records.iter().filter(|record| is_whole(&key_of(record))) {
            if let Ok(ArchiveFile::Segment(name)) = ArchiveFile::parse(record.place.name()) {
                whole.insert(name);
            }
        }
        let mut doomed = Vec::new();
        for (key, bytes, received) in repository.list_leftovers(&stream)? {
            let superseded = match ArchiveFile::parse(key.0.name()) {
                Ok(ArchiveFile::Piece { segment, .. }) => whole.contains(&segment),
                Ok(_) => true,
                // Another kind of stream: what its pieces are is not known here.
                Err(_) => !key.0.is_passing(),
            };
            if superseded && due(received, grace).is_some_and(|due| due <= now) {
                doomed.push((key, bytes));
            }
        }
        if !doomed.is_empty() {
            repository.delete_leftovers(&doomed, report, progress)?;
        }
    }
    Ok(())
}
