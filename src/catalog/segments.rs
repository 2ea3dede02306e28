//! The index of streams: which segments a writer has, and what is known of each.
//!
//! Invariants: a segment that was acknowledged is on disk here before, whether a commit names it yet or not.

use std::collections::HashSet;

use rusqlite::{Connection, Row, params};

use super::retired::{RetiredObject, is_deleted};
use super::{Catalog, Error, WriterRow};
use crate::model::{Moment, SegmentKey, SegmentPlace, SegmentRecord};

/// Takes a line of a commit over, unless what it names is gone.
pub(super) fn take(
    db: &Connection,
    row: WriterRow,
    writer: &str,
    record: &SegmentRecord,
    log_commit: i64,
) -> rusqlite::Result<()> {
    let object = RetiredObject::Segment(SegmentKey(record.place.clone(), record.digest));
    match is_deleted(db, row, &object)? {
        // A server that archives it once more brings back what nothing needs: else its row would wait for a commit for ever.
        true => forget_deleted(db, row, &SegmentKey(record.place.clone(), record.digest)),
        false => insert(db, writer, record, Some(log_commit)),
    }
}

/// A segment that was deleted is none of the stream any more.
pub(super) fn forget_deleted(db: &Connection, row: WriterRow, key: &SegmentKey) -> rusqlite::Result<()> {
    let SegmentKey(place, digest) = key;
    db.prepare_cached(
        "DELETE FROM segment WHERE writer = (SELECT name FROM writer WHERE id = ?1) AND stream = ?2 AND epoch = ?3 AND name = ?4
         AND digest = ?5",
    )?
    .execute(params![row.0, place.stream(), place.epoch(), place.name(), digest.as_bytes()])
    .map(drop)
}

pub(super) fn insert(
    db: &Connection,
    writer: &str,
    record: &SegmentRecord,
    log_commit: Option<i64>,
) -> rusqlite::Result<()> {
    let place = &record.place;
    let text = serde_json::to_string(record).map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))?;
    db.prepare_cached(
        "INSERT INTO segment (writer, stream, epoch, name, digest, record, log_commit) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT DO UPDATE SET record = excluded.record, log_commit = coalesce(excluded.log_commit, log_commit)",
    )?
    .execute(params![writer, place.stream(), place.epoch(), place.name(), record.digest.as_bytes(), text, log_commit])
    .map(drop)
}

fn parse(row: &Row<'_>) -> rusqlite::Result<SegmentRecord> {
    let text: String = row.get(0)?;
    serde_json::from_str(&text)
        .map_err(|e| rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(e)))
}

/// Parts of a segment are forgotten when it is there whole, or when a later part is: that one says what they said.
fn forget_pieces(db: &Connection, writer: &str, place: &SegmentPlace) -> rusqlite::Result<()> {
    let whole = place.name().split(".piece").next().unwrap_or_default();
    db.prepare_cached(
        "DELETE FROM segment WHERE writer = ?1 AND stream = ?2 AND epoch = ?3 AND name > ?4 || '.piece' AND name < ?4 || '.piecf'
         AND log_commit IS NULL",
    )?
    .execute(params![writer, place.stream(), place.epoch(), whole])
    .map(drop)
}

impl Catalog {
    /// Remembers segments that were put, before a commit names them; they are on the disk when this returns.
    pub fn add_segments(&mut self, writer: &str, records: &[SegmentRecord]) -> Result<(), Error> {
        let durably = |catalog: &Self, level: &str| {
            let set = catalog.db.execute_batch(&format!("PRAGMA synchronous = {level};"));
            set.map_err(|source| Error::Sqlite { doing: "write", path: catalog.path.clone(), source })
        };
        durably(self, "FULL")?;
        let added = self.write(|db| {
            records.iter().try_for_each(|record| {
                forget_pieces(db, writer, &record.place)?;
                insert(db, writer, record, None)
            })
        });
        durably(self, "NORMAL")?;
        added
    }

    /// The segments of a stream that commits name which the store received up to a time.
    pub fn segments_received_by(
        &self,
        writer: &str,
        stream: &str,
        until: Moment,
    ) -> Result<HashSet<SegmentKey>, Error> {
        let records: Vec<SegmentRecord> = self.read(|db| {
            let mut rows = db.prepare_cached(
                "SELECT s.record FROM segment s JOIN log_commit c ON c.id = s.log_commit JOIN received e ON e.digest = c.digest
                 WHERE s.writer = ?1 AND s.stream = ?2 AND e.at <= ?3",
            )?;
            rows.query_map(params![writer, stream, until.timestamp_micros()], parse)?.collect()
        })?;
        Ok(records.into_iter().map(|record| SegmentKey(record.place, record.digest)).collect())
    }

    /// What is known under a place: one record; two where two servers pushed different bytes under one name.
    pub fn segments_at(&self, writer: &str, place: &SegmentPlace) -> Result<Vec<SegmentRecord>, Error> {
        self.read(|db| {
            let mut rows = db.prepare_cached(
                "SELECT record FROM segment WHERE writer = ?1 AND stream = ?2 AND epoch = ?3 AND name = ?4",
            )?;
            rows.query_map(params![writer, place.stream(), place.epoch(), place.name()], parse)?.collect()
        })
    }

    /// Every segment of a stream, by epoch and name.
    pub fn segments(&self, writer: &str, stream: &str) -> Result<Vec<SegmentRecord>, Error> {
        self.read(|db| {
            let mut rows = db.prepare_cached(
                "SELECT record FROM segment WHERE writer = ?1 AND stream = ?2 ORDER BY epoch, name, digest",
            )?;
            rows.query_map(params![writer, stream], parse)?.collect()
        })
    }

    /// The streams of a writer.
    pub fn streams(&self, writer: &str) -> Result<Vec<String>, Error> {
        self.read(|db| {
            let mut rows =
                db.prepare_cached("SELECT DISTINCT stream FROM segment WHERE writer = ?1 ORDER BY stream")?;
            rows.query_map([writer], |row| row.get(0))?.collect()
        })
    }

    /// The writers that have segments of a stream, by name.
    pub fn writers_of_stream(&self, stream: &str) -> Result<Vec<String>, Error> {
        self.read(|db| {
            let mut rows = db.prepare_cached(
                "SELECT name FROM writer
                 WHERE EXISTS (SELECT 1 FROM segment WHERE segment.writer = name AND segment.stream = ?1) ORDER BY name",
            )?;
            rows.query_map([stream], |row| row.get(0))?.collect()
        })
    }

    /// Segments that no commit names yet, oldest first.
    pub fn fresh_segments(&self, writer: &str) -> Result<Vec<SegmentRecord>, Error> {
        let found: Result<Vec<SegmentRecord>, Error> = self.read(|db| {
            let mut rows = db.prepare_cached("SELECT record FROM segment WHERE writer = ?1 AND log_commit IS NULL")?;
            rows.query_map([writer], parse)?.collect()
        });
        let mut found = found?;
        found.retain(|record| !record.place.is_passing());
        found.sort_by(|a, b| (a.put, &a.place).cmp(&(b.put, &b.place)));
        Ok(found)
    }
}
