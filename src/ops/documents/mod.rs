//! The changes of a Convex deployment after a snapshot: taken as they happen ([`follow`]), found again
//! ([`gather`]), and laid over a snapshot's documents ([`fold()`]) up to any time (docs/convex.md, "The stream").
//!
//! Invariants: a segment is acknowledged when the store lists it and it alone under its name; only changes that lie between two looks
//! that say the same are in one; a change is never applied twice, because a revision is known by its document and its time.

mod capture;
mod files;
mod fold;
mod guard;
mod history;
mod segment;
mod sort;
mod turn;

use std::collections::BTreeMap;

pub use self::capture::{Around, FollowOptions, Heard, Snapshots, follow};
pub use self::fold::{Chosen, Folded, FoldedTable, fold};
pub use self::history::{Difference, Kinds, Revision, difference, history};
use super::Error;
use crate::catalog::{SnapshotRow, WriterRow};
use crate::model::documents::{DbTime, files_source, parse_place, stream_name, time_of};
use crate::model::{ConvexFacts, Moment, SegmentRecord};
use crate::plan::documents::{Aim, Base, Piece, Run, Way, choose, needed, runs};
use crate::repository::{self, Repository};

/// What is wrong with a stream of changes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// A segment's bytes.
    #[error("a segment of changes is not understood: {0}")]
    Content(String),
    /// Another process follows the same source.
    #[error("another process follows this source already")]
    Followed,
    /// Two hosts write one stream.
    #[error(
        "segment {number} of the changes is in the repository already, with other bytes: two processes follow one source"
    )]
    Conflict {
        /// Its number.
        number: u64,
    },
    /// It was put, and a listing does not show it.
    #[error("segment {number} of the changes was put into the repository, and the store does not list it")]
    Vanished {
        /// Its number.
        number: u64,
    },
    /// A file of the host's own.
    #[error("could not {doing} `{}`", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The source's snapshots and its changes do not reach a time.
    #[error("the changes of `{source_name}` do not reach {asked}: {why}")]
    NotReached {
        /// The source.
        source_name: String,
        /// What was asked for.
        asked: String,
        /// What there is.
        why: String,
    },
    /// No document has that id.
    #[error("`{0}` is no document id")]
    NoId(String),
}

/// A deployment's snapshots and changes, as the repository has them.
pub struct Documents {
    /// The source's full name.
    pub full_name: String,
    /// The writer that has them.
    pub writer: String,
    pub(super) writer_row: WriterRow,
    /// Its stream.
    pub stream: String,
    /// Snapshots that changes can be laid over, oldest first.
    pub bases: Vec<Base>,
    /// Segments, in the order of epochs and numbers.
    pub pieces: Vec<Piece>,
    /// What joins.
    pub runs: Vec<Run>,
    /// Segments that the index names and the store does not hold.
    pub missing: Vec<SegmentRecord>,
    /// Segments that are there and cannot be read, with the reason.
    pub damaged: Vec<(String, String)>,
    records: BTreeMap<(DbTime, u64), SegmentRecord>,
    /// Snapshots of files, by the time of the snapshot that each goes with, oldest first.
    later: Vec<(DbTime, SnapshotRow)>,
    rows: Vec<SnapshotRow>,
}

fn facts_of(row: &SnapshotRow) -> Option<(ConvexFacts, DbTime)> {
    let facts: ConvexFacts = serde_json::from_value(row.record.facts.clone()).ok()?;
    let at = facts.timestamp()?;
    // Where values are not written exactly, changes cannot be laid over them.
    (facts.version == 1 && facts.not_uniform.is_none()).then_some((facts, at))
}

/// A snapshot as a planner knows it; none where changes cannot be laid over it.
pub(super) fn base_of(row: &SnapshotRow) -> Option<Base> {
    Some(Base { id: row.record.id, at: facts_of(row)?.1, ended: row.record.ended })
}

/// A segment as the index has it.
pub(super) fn piece_of(record: &SegmentRecord) -> Option<Piece> {
    let (epoch, number) = parse_place(&record.place)?;
    Some(Piece { epoch, number, facts: serde_json::from_value(record.facts.clone()).ok() })
}

/// What there is of a source; none where it is no deployment, or has no changes. Of several writers, or instances, that of the newest
/// snapshot counts.
pub fn gather(repository: &Repository, source: &str) -> Result<Option<Documents>, Error> {
    let is_meant =
        |row: &SnapshotRow| row.record.kind == "convex" && (row.record.source == source || row.full_name() == source);
    let name = source.rsplit('/').next().unwrap_or(source);
    let mut all: Vec<SnapshotRow> = repository.catalog().snapshots_of(name)?;
    all.extend(repository.catalog().snapshots_of(&files_source(name))?);
    all.sort_by_key(|row| (row.record.ended, row.record.id));
    let (mut rows, others): (Vec<SnapshotRow>, Vec<SnapshotRow>) = all.into_iter().partition(is_meant);
    let Some((newest, (facts, _))) = rows.iter().rev().find_map(|row| Some((row.clone(), facts_of(row)?))) else {
        return Ok(None);
    };
    rows.retain(|row| {
        let is_same = facts_of(row).is_some_and(|(other, _)| other.instance == facts.instance);
        // Where a file could not be fetched the documents are whole all the same: a damaged member leaves no snapshot.
        row.writer == newest.writer && is_same
    });
    let later = others.into_iter().filter(|row| row.writer == newest.writer);
    let of = |row: SnapshotRow| Some((files::files_base(&row, &newest.record.source, &facts.instance)?, row));
    let later: Vec<(DbTime, SnapshotRow)> = later.filter_map(of).collect();
    let stream = stream_name(&newest.record.source, &facts.instance);
    let listing = repository.list_stream(&newest.writer_name, &stream)?;
    let (mut records, mut pieces, mut damaged) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
    let mut twice = Vec::new();
    for record in listing.there {
        let Some((epoch, number)) = parse_place(&record.place) else { continue };
        let facts = match serde_json::from_value(record.facts.clone()) {
            Ok(facts) => Some(facts),
            Err(_) => {
                let read = repository.read_segment(&newest.writer_name, &record).map_err(Error::from);
                match read.and_then(|plain| Ok(segment::facts_of(&plain)?)) {
                    Ok(facts) => Some(facts),
                    // A host that only writes cannot look; whoever can will.
                    Err(Error::Repository(repository::Error::NeedsIdentity(_))) => None,
                    Err(e) => {
                        damaged.push((record.place.name().to_owned(), super::chain(&e)));
                        None
                    }
                }
            }
        };
        // Of two under one name the one that was acknowledged is in the index.
        let is_known = !record.facts.is_null();
        let known = records.get(&(epoch, number)).map(|other: &SegmentRecord| !other.facts.is_null());
        match known {
            Some(other) if other == is_known => twice.push((epoch, number)),
            Some(true) => {}
            _ => {
                records.insert((epoch, number), record);
                pieces.insert((epoch, number), Piece { epoch, number, facts });
            }
        }
    }
    // Two under one name: which of them is true is not known.
    for key in twice {
        damaged.push((format!("{:016X}", key.1), "there are two of it".to_owned()));
        pieces.remove(&key);
    }
    if pieces.is_empty() && listing.missing.is_empty() {
        return Ok(None);
    }
    let pieces: Vec<Piece> = pieces.into_values().collect();
    Ok(Some(Documents {
        full_name: newest.full_name(),
        writer: newest.writer_name.clone(),
        writer_row: newest.writer,
        stream,
        bases: rows.iter().filter_map(base_of).collect(),
        runs: runs(&pieces),
        pieces,
        missing: listing.missing,
        damaged,
        records,
        later,
        rows,
    }))
}

impl Documents {
    /// The way to a time; none where no segment helps.
    pub fn way(&self, aim: Aim) -> Option<Way> {
        choose(&self.bases, &self.runs, aim)
    }

    /// The newest time that can be had.
    pub fn newest(&self) -> Option<DbTime> {
        let alone = self.bases.iter().map(|base| base.at).max();
        self.way(Aim::Latest).map(|way| way.to).max(alone)
    }

    /// The snapshot of a way.
    pub fn snapshot(&self, way: &Way) -> Option<&SnapshotRow> {
        self.rows.iter().find(|row| row.record.id == way.base.id)
    }

    /// The snapshot that files come from where changes are laid over another one: the first that began behind them, else the newest.
    pub fn files_for(&self, way: &Way) -> Option<&SnapshotRow> {
        let behind = self.rows.iter().find(|row| time_of(row.record.began) > way.to);
        behind.or_else(|| self.rows.last())
    }

    /// The snapshots with further files for a way, the newest first: those that were made after the snapshot before its time.
    pub fn later_files_for(&self, way: &Way) -> Vec<SnapshotRow> {
        files::for_time(&self.later, way.to)
    }

    /// Up to when the files are known to be stored that a way's documents can name.
    pub fn files_until(&self, way: &Way) -> Option<Moment> {
        let snapshot = self.files_for(way).map(|row| row.record.began);
        let of_run =
            |piece: &&Piece| piece.epoch == way.run.epoch && (way.run.first..=way.run.last).contains(&piece.number);
        let told = self.pieces.iter().filter(of_run).filter_map(|piece| piece.facts.as_ref()?.files);
        told.chain(snapshot).max()
    }

    /// The segments that a way needs, in their order.
    pub fn segments(&self, way: &Way) -> Vec<&SegmentRecord> {
        let needed = needed(way, &self.pieces);
        needed.into_iter().filter_map(|piece| self.records.get(&(piece.epoch, piece.number))).collect()
    }
}
