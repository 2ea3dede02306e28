//! Which WAL a set of base backups needs: the facts that retention decides by. Nothing is deleted here or because of this alone.
//!
//! Invariants: each kept base has all its own WAL, from its start to its stop; from the oldest base that serves the window on, the
//! WAL is kept without a break on every timeline that it leads to, the parents' up to each fork; histories stay always; what is not
//! understood stays. Order is by time and by place in the log, never by name across timelines.

use std::collections::BTreeSet;

use super::recovery::{Archive, Base};
use crate::model::lsn::{Lsn, SegmentName, Timeline};
use crate::model::{Moment, SnapshotId};

/// What must stay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needed {
    /// Segments of the archive that must stay; of one that is there in pieces, its pieces.
    pub segments: BTreeSet<SegmentName>,
    /// Segments that nothing kept needs.
    pub free: BTreeSet<SegmentName>,
    /// Timelines whose histories must stay: all that are known.
    pub histories: BTreeSet<Timeline>,
    /// The base from which the log is kept without a break; `None` where nothing asks for that.
    pub continuous_from: Option<SnapshotId>,
}

/// The WAL that `kept` bases need. With `window`, every moment from then on stays within reach, on every timeline: the unbroken log
/// begins at the newest kept base that ended at or before it, else at the oldest kept one. Without, only each base's own WAL is needed.
///
/// Bases that are pending or not whole count like all others: their WAL may be on its way. An empty `kept` frees nothing.
pub fn needed(archive: &Archive, kept: &BTreeSet<SnapshotId>, window: Option<Moment>) -> Needed {
    let mut bases: Vec<&Base> = archive.bases.iter().filter(|base| kept.contains(&base.id)).collect();
    bases.sort_by_key(|base| (base.backup.stopped, base.id));
    let mut needed = Needed {
        histories: archive.forks.iter().flat_map(|fork| [fork.timeline, fork.parent]).collect(),
        ..Needed::default()
    };
    // One in pieces is part of the log until it is there whole; then `ops::cluster` names it among those, and its pieces nowhere.
    let all = || archive.wal.keys().chain(archive.growing.keys()).copied();
    if bases.is_empty() {
        needed.segments = all().collect();
        return needed;
    }
    for base in &bases {
        let (first, last) = base.backup.needs();
        needed.segments.extend(all().filter(|name| (first..=last).contains(name)));
    }
    if let Some(window) = window {
        let begin = beginning(archive, &bases, window);
        needed.continuous_from = Some(bases[begin].id);
        for base in &bases[begin..] {
            needed.segments.extend(all().filter(|name| follows(archive, base, *name)));
        }
    }
    needed.free = all().filter(|name| !needed.segments.contains(name)).collect();
    needed
}

/// The place among `bases`, oldest first, where the unbroken log begins: the oldest that any timeline needs to serve the window.
fn beginning(archive: &Archive, bases: &[&Base], window: Moment) -> usize {
    let of = |timeline: Timeline| {
        newest_serving(archive, bases, timeline, window)
            .or_else(|| bases.iter().position(|base| archive.leads(&base.backup, timeline)))
    };
    timelines(archive, bases).into_iter().filter_map(of).min().unwrap_or(0)
}

fn timelines(archive: &Archive, bases: &[&Base]) -> BTreeSet<Timeline> {
    let forks = archive.forks.iter().map(|fork| fork.timeline);
    forks.chain(bases.iter().map(|base| base.backup.timeline)).collect()
}

/// The place among `bases`, oldest first, of the newest one from which a timeline is reached at `window`.
fn newest_serving(archive: &Archive, bases: &[&Base], timeline: Timeline, window: Moment) -> Option<usize> {
    let serves = |base: &Base| base.whole && archive.pending(&base.backup).is_none() && base.backup.stopped <= window;
    bases.iter().rposition(|base| archive.leads(&base.backup, timeline) && serves(base))
}

/// The base backups that the first moments of a window are restored from: of each timeline the newest that leads there and ended at
/// or before `window`. Together with every later one they keep each moment within reach that is within reach now.
pub fn serving(archive: &Archive, window: Moment) -> BTreeSet<SnapshotId> {
    let mut bases: Vec<&Base> = archive.bases.iter().collect();
    bases.sort_by_key(|base| (base.backup.stopped, base.id));
    let of = |timeline| newest_serving(archive, &bases, timeline, window).map(|place| bases[place].id);
    timelines(archive, &bases).into_iter().filter_map(of).collect()
}

/// Whether a segment lies on some way that leads on from a base: on its own timeline from its start, on a descendant from the fork.
fn follows(archive: &Archive, base: &Base, name: SegmentName) -> bool {
    let (backup, size) = (&base.backup, base.backup.segment_size);
    // The segment's place by the base's size; one that does not fit it stays, because it is not understood.
    if !name.fits(size) {
        return true;
    }
    let (start, end) = (name.start(size), name.start(size).plus(size.bytes()));
    let from = backup.needs().0.start(size);
    if name.timeline == backup.timeline {
        return start >= from;
    }
    // Each ancestor was left somewhere; the way is ours if our own timeline was left behind our stop.
    let (mut at, mut begins): (Timeline, Option<Lsn>) = (name.timeline, None);
    for _ in 0..=archive.forks.len() {
        let Some(fork) = archive.forks.iter().find(|fork| fork.timeline == at && fork.parent < at) else { break };
        begins.get_or_insert(fork.at);
        if fork.parent == backup.timeline {
            return fork.at >= backup.stop && begins.is_none_or(|begins| end > begins);
        }
        at = fork.parent;
    }
    // Its history is not known (yet): a timeline above ours may be our own child.
    begins.is_none() && name.timeline > backup.timeline && start >= from
}

#[cfg(test)]
#[path = "needed_wal_tests.rs"]
mod tests;
