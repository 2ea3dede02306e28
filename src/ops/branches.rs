//! What lies before and behind a fork of a cluster's timelines, read from the segments that hold it.
//!
//! Invariants: one segment of each side of each fork is read, and only where an identity is at hand; one that cannot be read is left
//! out, and is named by whoever gathers the cluster. Not here: what follows from it (`plan::branches`).

use std::collections::{BTreeMap, BTreeSet};

use super::wal::pieces::join_pieces;
use super::{Error, Kind};
use crate::format::wal::{ArchiveFile, SegmentFacts, scan, scan_behind};
use crate::model::{Lsn, Moment, SegmentName, SegmentRecord, Timeline};
use crate::plan::branches::Split;
use crate::plan::recovery::{Archive, Commits};
use crate::repository::Repository;

/// Both sides of each fork of an archive, by timeline and place.
pub(super) fn splits(
    repository: &Repository,
    writer: &str,
    archive: &Archive,
    there: &[SegmentRecord],
) -> Result<BTreeMap<(Timeline, Lsn), Split>, Error> {
    let mut splits = BTreeMap::new();
    let Some(size) = archive.bases.first().map(|base| base.backup.segment_size).filter(|_| repository.can_read())
    else {
        return Ok(splits);
    };
    let sides = archive.forks.iter().flat_map(|fork| [(fork.parent, fork.at), (fork.timeline, fork.at)]);
    for (timeline, place) in sides.collect::<BTreeSet<_>>() {
        let name = SegmentName::holding(timeline, place, size);
        let whole = archive.wal.get(&name).copied().flatten();
        let grown = archive.growing.get(&name).and_then(|growing| growing.commits);
        if name.start(size) == place || whole.or(grown).is_none() {
            continue;
        }
        match split(repository, writer, name, place, whole.is_some(), there) {
            Ok(found) => drop(splits.insert((timeline, place), found)),
            Err(e) if e.kind() == Kind::Damage => {
                tracing::warn!(%name, "it holds a fork and cannot be read: {}", super::chain(&e));
            }
            Err(e) => return Err(e),
        }
    }
    Ok(splits)
}

fn split(
    repository: &Repository,
    writer: &str,
    name: SegmentName,
    place: Lsn,
    whole: bool,
    there: &[SegmentRecord],
) -> Result<Split, Error> {
    let bad =
        |e: crate::format::wal::Flaw| super::wal::WalError::Content { name: name.to_string(), why: e.to_string() };
    let is_it = |record: &&SegmentRecord| matches!(ArchiveFile::parse(record.place.name()), Ok(ArchiveFile::Segment(found)) if found == name);
    let bytes = match there.iter().find(is_it).filter(|_| whole) {
        Some(record) => repository.read_segment(writer, record)?,
        None => join_pieces(&repository.segment_reader(writer)?, name, there)?.0,
    };
    let all = scan(&bytes, name).map_err(bad)?;
    let length = usize::try_from(place.0.saturating_sub(all.start.0)).unwrap_or(usize::MAX);
    let before = scan(&bytes[..length.min(bytes.len())], name).map_err(bad)?;
    let behind = scan_behind(&bytes, name, place).map_err(bad)?;
    Ok(Split { before: commits(&before), behind: commits(&behind) })
}

fn commits(facts: &SegmentFacts) -> Option<Commits> {
    let moment = Moment::from_timestamp_micros;
    let (first, last) = (facts.first.as_ref()?, facts.last.as_ref()?);
    let times = (moment(first.time)?, moment(facts.latest?)?);
    Some(Commits { first: times.0.min(times.1), last: times.1, end: last.end, count: facts.commits })
}
