//! Copying to a second repository: what of one is missing in the other, and taking it there.
//!
//! The oldest snapshot goes first, so that a copy that is interrupted goes on where it stopped and what follows refers to what is there.
//! Invariants: what the copy's own policy has forgotten does not come back; a snapshot that cannot be copied whole is named and left out,
//! and the others go on; a source of the copy comes from one writer, and one of the same name from elsewhere is named and left out. Not here: how frames and segments move (`repository::copies`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde::Serialize;

use super::forget::stream_of;
use super::{Error, Kind, bootstrap, chain};
use crate::catalog::SnapshotRow;
use crate::model::documents::files_source;
use crate::model::{Moment, SegmentRecord, SnapshotId};
use crate::progress::{Event, Progress};
use crate::repository::{self, Clock, CopiedFrames, CopiedStream, Mark, Problem, Repository};

/// What is copied.
#[derive(Debug, Clone, Default)]
pub struct CopyOptions {
    /// Sources; none for all.
    pub sources: Vec<String>,
    /// Whose; `None` for this host's.
    pub writer: Option<String>,
}

/// Why nothing is copied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// Another process of this host does it.
    #[error("another copy to `{0}` is under way on this host")]
    Busy(String),
    /// There is no such writer.
    #[error("there is no writer `{0}` in this repository")]
    NoWriter(String),
    /// There is no snapshot of such a source.
    #[error("writer `{writer}` has no snapshot of a source `{name}`")]
    NoSource {
        /// Whose.
        writer: String,
        /// Which.
        name: String,
    },
}

/// A stream of which something is missing in the copy.
#[derive(Debug, Clone)]
pub struct StreamToCopy {
    /// Its name.
    pub stream: String,
    /// What is missing, oldest first.
    pub wanted: Vec<SegmentRecord>,
    /// What the first store has lost of it, and the copy does not have.
    pub before: CopiedStream,
}

/// What a copy will do. A value: shown, compared, tested.
#[derive(Debug, Clone)]
pub struct CopyPlan {
    /// Whose snapshots.
    pub writer: String,
    /// Snapshots that are missing in the copy, oldest first.
    pub snapshots: Vec<SnapshotRow>,
    /// Snapshots that are not copied, with the reason.
    pub refused: Vec<(SnapshotRow, String)>,
    /// Snapshots that are there and of which the copy may have lost something.
    pub lost: Vec<SnapshotRow>,
    /// How many are there.
    pub there: u64,
    /// How many were there and are forgotten by the copy's own policy.
    pub gone: u64,
    /// Snapshots that a person accepted here since they were copied.
    accepted: Vec<SnapshotId>,
    /// Streams.
    pub streams: Vec<StreamToCopy>,
}

impl CopyPlan {
    /// Whether the copy has everything.
    pub fn is_idle(&self) -> bool {
        self.snapshots.is_empty() && self.lost.is_empty() && self.accepted.is_empty() && self.segments() == 0
    }
    /// How many segments are missing.
    pub fn segments(&self) -> u64 {
        self.streams.iter().map(|stream| stream.wanted.len() as u64).sum()
    }
    /// Their sealed bytes.
    pub fn segment_bytes(&self) -> u64 {
        self.streams.iter().flat_map(|stream| &stream.wanted).map(|record| record.stored).sum()
    }
    /// Segments that the log names and that the first store has lost.
    pub fn lost_here(&self) -> u64 {
        self.streams.iter().map(|stream| stream.before.missing).sum()
    }
}

/// What became of a snapshot.
#[derive(Debug, Clone, Serialize)]
pub struct CopiedSnapshot {
    /// Which.
    pub id: SnapshotId,
    /// Of which source.
    pub source: String,
    /// When it was captured.
    pub ended: Moment,
    /// Frames that were copied.
    pub frames: u64,
    /// Frames that were there.
    pub there: u64,
    /// Bytes that were put.
    pub stored: u64,
    /// Why it was left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// What a copy did.
#[derive(Debug, Clone, Default, Serialize)]
pub struct CopyReport {
    /// Snapshots that were missing.
    pub snapshots: Vec<CopiedSnapshot>,
    /// Packs that were put.
    pub packs: u64,
    /// Bytes of packs and segments that were put.
    pub stored: u64,
    /// Segments that were copied.
    pub segments: u64,
    /// Segments that the first store has lost, or has not whole.
    pub lost: u64,
    /// Snapshots that are in the copy now, of those that are here.
    pub there: u64,
    /// What the logs said on the way.
    #[serde(skip)]
    pub problems: Vec<Problem>,
}

impl CopyReport {
    fn add(&mut self, snapshot: &SnapshotRow, frames: CopiedFrames, failed: Option<String>) {
        self.packs += frames.packs;
        self.stored += frames.stored;
        self.snapshots.push(CopiedSnapshot {
            id: snapshot.record.id,
            source: snapshot.record.source.clone(),
            ended: snapshot.record.ended,
            frames: frames.frames,
            there: frames.there,
            stored: frames.stored,
            failed,
        });
    }

    /// Whether everything that was to be copied is there.
    pub fn is_whole(&self) -> bool {
        self.lost == 0 && self.snapshots.iter().all(|snapshot| snapshot.failed.is_none())
    }
}

/// Makes the plan. Nothing is written.
pub fn plan(
    from: &mut Repository,
    copy: &mut Repository,
    options: &CopyOptions,
    now: Moment,
) -> Result<CopyPlan, Error> {
    from.check_copy(copy)?;
    let writer = match &options.writer {
        Some(name) => name.clone(),
        None => from.host()?.name.clone(),
    };
    let Some(row) = from.catalog().writers()?.into_iter().find(|(_, name)| *name == writer).map(|(row, _)| row) else {
        return Err(CopyError::NoWriter(writer).into());
    };
    let everything: Vec<SnapshotRow> =
        from.catalog().all_snapshots()?.into_iter().filter(|s| s.writer == row).collect();
    let mut all: Vec<SnapshotRow> = everything.iter().filter(|s| !s.forgotten).cloned().collect();
    if let Some(name) = options.sources.iter().find(|name| !all.iter().any(|s| s.record.source == **name)) {
        return Err(CopyError::NoSource { writer, name: name.clone() }.into());
    }
    // Files that a follower stored belong to their deployment.
    let wanted: BTreeSet<String> = options.sources.iter().flat_map(|name| [name.clone(), files_source(name)]).collect();
    all.retain(|s| wanted.is_empty() || wanted.contains(&s.record.source));
    let own = copy.host_row()?;
    // A snapshot that another host took there is there.
    let have: HashMap<SnapshotId, SnapshotRow> =
        copy.catalog().all_snapshots()?.into_iter().map(|snapshot| (snapshot.record.id, snapshot)).collect();
    let conflicts = conflicts(&everything, have.values().filter(|s| s.writer == own), &writer);
    let hurt = from.catalog().unmapped(row)?;
    let mut refused = Vec::new();
    for snapshot in &all {
        let is_new = !have.contains_key(&snapshot.record.id);
        let why = match () {
            () if conflicts.contains(&snapshot.record.source) => {
                Some(format!("the copy has a source `{}` already, which is another one", snapshot.record.source))
            }
            () if hurt.contains(&snapshot.record.id.to_string()) => {
                Some("not all frames that it uses are known here: a commit before it is lost".to_owned())
            }
            () => None,
        };
        refused.extend(why.filter(|_| is_new).map(|why| (snapshot.clone(), why)));
    }
    let streams = streams(from, copy, &writer, (&all, &conflicts), options, now)?;
    all.retain(|s| !conflicts.contains(&s.record.source));
    let in_copy = |s: &SnapshotRow| have.get(&s.record.id);
    let (there, gone): (Vec<_>, Vec<_>) =
        all.iter().filter(|s| in_copy(s).is_some()).partition(|s| in_copy(s).is_some_and(|s| !s.forgotten));
    let is_ours = |s: &&SnapshotRow| in_copy(s).is_some_and(|there| there.writer == own && !there.forgotten);
    let accepted = everything.iter().filter(|s| s.accepted && is_ours(s) && in_copy(s).is_some_and(|s| !s.accepted));
    let accepted = accepted.map(|s| s.record.id).collect();
    // What the copy has lost of what it had is sent again.
    let lost = match copy.has_lost_packs()? {
        true => there.iter().copied().filter(is_ours).cloned().collect(),
        false => Vec::new(),
    };
    let (there, gone) = (there.len() as u64, gone.len() as u64);
    all.retain(|s| !have.contains_key(&s.record.id) && !refused.iter().any(|(no, _)| no.record.id == s.record.id));
    Ok(CopyPlan { writer, snapshots: all, refused, lost, there, gone, accepted, streams })
}

/// Sources of which the copy has one that came from elsewhere. `everything` is what the writer ever had here: a source that goes on in
/// what was a copy itself has two origins, and is one.
fn conflicts<'c>(
    everything: &[SnapshotRow],
    have: impl Iterator<Item = &'c SnapshotRow>,
    writer: &str,
) -> BTreeSet<String> {
    let first = |s: &SnapshotRow| s.record.copied.as_ref().map(|copied| copied.writer.clone());
    let mut here: BTreeMap<&str, BTreeSet<Option<String>>> = BTreeMap::new();
    for snapshot in everything {
        let of = Some(first(snapshot).unwrap_or_else(|| writer.to_owned()));
        here.entry(&snapshot.record.source).or_default().insert(of);
    }
    let foreign = |snapshot: &&SnapshotRow| {
        let known = here.get(snapshot.record.source.as_str());
        !snapshot.forgotten && known.is_some_and(|known| !known.contains(&first(snapshot)))
    };
    have.filter(foreign).map(|snapshot| snapshot.record.source.clone()).collect()
}

/// The streams of the sources, or all of a writer with its stored configuration.
fn streams(
    from: &Repository,
    copy: &Repository,
    writer: &str,
    (snapshots, conflicts): (&[SnapshotRow], &BTreeSet<String>),
    options: &CopyOptions,
    now: Moment,
) -> Result<Vec<StreamToCopy>, Error> {
    let of = |conflict: bool| -> BTreeSet<String> {
        let sources = snapshots.iter().filter(|s| conflicts.contains(&s.record.source) == conflict);
        sources.filter_map(|s| stream_of(&s.record)).collect()
    };
    let (named, refused) = (of(false), of(true));
    let mut all = Vec::new();
    for stream in from.streams(writer)?.into_iter().filter(|stream| !refused.contains(stream)) {
        if options.sources.is_empty() || named.contains(&stream) || stream == bootstrap::STREAM {
            let (wanted, before) = from.segments_to_copy(copy, writer, &stream, now)?;
            all.push(StreamToCopy { stream, wanted, before });
        }
    }
    Ok(all)
}

/// Frames that the copy lacks for all snapshots of a plan together, and their sealed bytes: at most what will be put.
pub fn estimate(from: &Repository, copy: &mut Repository, plan: &CopyPlan) -> Result<(u64, u64), Error> {
    Ok(from.frames_to_copy(copy, &plan.snapshots)?)
}

/// Carries a plan out, in a run that was begun before the plan was made.
pub fn copy(
    from: &mut Repository,
    copy: &mut Repository,
    plan: CopyPlan,
    clock: &Clock,
    progress: &Arc<dyn Progress>,
) -> Result<CopyReport, Error> {
    let mut report = CopyReport { there: plan.there, lost: plan.lost_here(), ..CopyReport::default() };
    for (snapshot, why) in &plan.refused {
        report.add(snapshot, CopiedFrames::default(), Some(why.clone()));
    }
    if plan.is_idle() {
        return Ok(report);
    }
    progress.event(Event::Stage("copying snapshots"));
    let again = plan.lost.iter().map(|snapshot| (snapshot, true));
    for (snapshot, is_there) in again.chain(plan.snapshots.iter().map(|snapshot| (snapshot, false))) {
        let (frames, failed) = match from.copy_snapshot(copy, snapshot, is_there, clock, progress) {
            Ok(frames) => (frames, None),
            // What is damaged here is this snapshot's misfortune. Whatever else went wrong ends the run.
            Err(e) => match Error::from(e) {
                e if e.kind() == Kind::Damage => (CopiedFrames::default(), Some(chain(&e))),
                e => return Err(e),
            },
        };
        report.there += u64::from(failed.is_none() && !is_there);
        if !is_there || frames.frames > 0 || failed.is_some() {
            report.add(snapshot, frames, failed);
        }
    }
    if plan.segments() > 0 {
        progress.event(Event::Stage("copying streams"));
    }
    for StreamToCopy { wanted, .. } in &plan.streams {
        let done = from.copy_segments(copy, &plan.writer, wanted, clock(), &**progress)?;
        report.segments += done.segments;
        report.stored += done.bytes;
        report.lost += done.missing;
    }
    if !plan.accepted.is_empty() {
        let marks = |_: &mut Repository| -> Result<Vec<Mark>, repository::Error> {
            Ok(plan.accepted.iter().copied().map(Mark::Accept).collect())
        };
        report.problems = copy.mark_snapshots(clock(), &**progress, &mut { marks })?.problems;
    }
    Ok(report)
}
