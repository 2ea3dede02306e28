//! Snapshots, what logs say of them later, and the frames that are used too little.
//!
//! Invariants: a writer's log speaks of its own snapshots alone; forgotten is for good, in whatever order commits are read; of pins
//! the later place in the log counts, and at one place, which only a fork has twice, the pin.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use chrono::TimeDelta;
use rusqlite::{Connection, ToSql, params};
use serde::Deserialize;

use super::{Catalog, Error, WriterRow};
use crate::model::{Abnormal, Marked, Moment, SnapshotId, SnapshotRecord};

/// A snapshot of the repository. `record.uses` counts in this catalog's frame rows.
#[derive(Debug, Clone, PartialEq)]
pub struct SnapshotRow {
    /// Whose it is.
    pub writer: WriterRow,
    /// The writer's name.
    pub writer_name: String,
    /// Its record.
    pub record: SnapshotRecord,
    /// When the store received its commit, by the store's clock; unknown until the log was listed. Of a copy: when the first store did.
    pub received: Option<Moment>,
    /// When this store received it, be it a copy or not.
    pub arrived: Option<Moment>,
    /// Whether a policy must leave it alone.
    pub pinned: bool,
    /// Whether its writer's log says that it is forgotten.
    pub forgotten: bool,
    /// Whether a person said that it is as it should be, abnormal or not.
    pub accepted: bool,
}

/// What a line says of a snapshot of its own log, whether that is known here or not.
pub(super) fn mark(
    db: &Connection,
    writer: WriterRow,
    log_commit: i64,
    kind: &'static str,
    marked: &Marked,
) -> rusqlite::Result<()> {
    db.prepare_cached("INSERT OR IGNORE INTO mark (writer, snapshot, log_commit, kind) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![writer.0, marked.snapshot.to_string(), log_commit, kind])
        .map(drop)
}

/// A snapshot as marks name it.
type Named = (i64, String);

/// What logs say of snapshots.
#[derive(Default)]
struct Marks {
    forgotten: HashSet<Named>,
    pinned: HashSet<Named>,
    accepted: HashSet<Named>,
}

fn marks(db: &Connection) -> rusqlite::Result<Marks> {
    let mut rows = db.prepare_cached(
        "SELECT m.writer, m.snapshot, m.kind FROM mark m JOIN log_commit c ON c.id = m.log_commit
         ORDER BY c.sequence, m.kind = 'pin'",
    )?;
    let (mut all, mut pins): (Marks, HashMap<Named, bool>) = (Marks::default(), HashMap::new());
    let mut rows = rows.query([])?;
    while let Some(row) = rows.next()? {
        let named: Named = (row.get(0)?, row.get(1)?);
        match row.get::<_, String>(2)?.as_str() {
            "forget" => drop(all.forgotten.insert(named)),
            "accept" => drop(all.accepted.insert(named)),
            kind => drop(pins.insert(named, kind == "pin")),
        }
    }
    all.pinned = pins.into_iter().filter(|(_, pinned)| *pinned).map(|(named, _)| named).collect();
    Ok(all)
}

impl SnapshotRow {
    /// Whether nobody has said yet that it may be as it is.
    pub fn is_held(&self) -> bool {
        !self.record.abnormal.is_empty() && !self.accepted
    }

    /// `writer/source`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.writer_name, self.record.source)
    }
}

/// What `status` needs of a snapshot: of ten thousand of them the rest of their records would be most of the memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BriefRow {
    /// The writer's name.
    pub writer_name: Arc<str>,
    /// Its source.
    pub source: Arc<str>,
    /// The source's kind.
    pub kind: Arc<str>,
    /// Its name.
    pub id: SnapshotId,
    /// The moment that it shows.
    pub ended: Moment,
    /// Whether nothing was skipped.
    pub complete: bool,
    /// How many things were skipped.
    pub skipped: u64,
    /// Plain bytes.
    pub bytes: u64,
    /// Bytes that it added to the store.
    pub added: u64,
    /// What of it is not as it used to be.
    pub abnormal: Vec<Abnormal>,
    /// Whether a policy must leave it alone.
    pub pinned: bool,
    /// Whether a person said that it is as it should be.
    pub accepted: bool,
}

/// What is read of a record for it.
#[derive(Deserialize)]
struct BriefRecord<'t> {
    id: SnapshotId,
    #[serde(borrow)]
    source: Cow<'t, str>,
    #[serde(borrow)]
    kind: Cow<'t, str>,
    ended: Moment,
    complete: bool,
    skipped: u64,
    bytes: u64,
    added: u64,
    #[serde(default)]
    abnormal: Vec<Abnormal>,
}

/// Names of which there are few, each once.
#[derive(Default)]
struct Names(HashSet<Arc<str>>);

impl Names {
    fn of(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.0.get(name) {
            return Arc::clone(known);
        }
        let new: Arc<str> = name.into();
        self.0.insert(Arc::clone(&new));
        new
    }
}

impl BriefRow {
    /// Whether nobody has said yet that it may be as it is.
    pub fn is_held(&self) -> bool {
        !self.abnormal.is_empty() && !self.accepted
    }

    /// `writer/source`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.writer_name, self.source)
    }
}

/// How many bytes of a frame a source's newest snapshot uses, where they are few.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SparseRow {
    /// The frame's row.
    pub frame: i64,
    /// Bytes used.
    pub used: u64,
}

impl Catalog {
    /// Every snapshot that is not forgotten, oldest first.
    pub fn snapshots(&self) -> Result<Vec<SnapshotRow>, Error> {
        let mut all = self.all_snapshots()?;
        all.retain(|snapshot| !snapshot.forgotten);
        Ok(all)
    }

    /// Those of one source, of whichever writer: the name without a writer's.
    pub fn snapshots_of(&self, source: &str) -> Result<Vec<SnapshotRow>, Error> {
        let mut all = self.rows("WHERE s.source = ?1", &[&source])?;
        all.retain(|snapshot| !snapshot.forgotten);
        Ok(all)
    }

    /// Every snapshot that is not forgotten, oldest first, in brief.
    pub fn brief_snapshots(&self) -> Result<Vec<BriefRow>, Error> {
        let mut names = Names::default();
        let mut parse =
            |row: &rusqlite::Row<'_>, marks: &Marks| -> rusqlite::Result<Result<Option<BriefRow>, String>> {
                let text = row.get_ref(2)?.as_str()?;
                let record: BriefRecord<'_> = match serde_json::from_str(text) {
                    Ok(record) => record,
                    Err(e) => return Ok(Err(e.to_string())),
                };
                let named = (row.get(0)?, record.id.to_string());
                Ok(Ok((!marks.forgotten.contains(&named)).then(|| BriefRow {
                    writer_name: names.of(row.get_ref(1).ok().and_then(|name| name.as_str().ok()).unwrap_or_default()),
                    source: names.of(&record.source),
                    kind: names.of(&record.kind),
                    id: record.id,
                    ended: record.ended,
                    complete: record.complete,
                    skipped: record.skipped,
                    bytes: record.bytes,
                    added: record.added,
                    abnormal: record.abnormal,
                    pinned: marks.pinned.contains(&named),
                    accepted: marks.accepted.contains(&named),
                })))
            };
        let rows: Vec<Result<Option<BriefRow>, String>> = self.read(|db| {
            let marks = marks(db)?;
            // Put in order here: SQLite would carry all the texts through its sorter.
            let mut rows = db
                .prepare_cached("SELECT s.writer, w.name, s.record FROM snapshot s JOIN writer w ON w.id = s.writer")?;
            let rows = rows.query_map([], |row| parse(row, &marks))?;
            rows.collect()
        })?;
        let rows = rows.into_iter().filter_map(|row| row.map_err(|why| self.inconsistent(why)).transpose());
        let mut rows = rows.collect::<Result<Vec<BriefRow>, _>>()?;
        rows.sort_by_key(|row| (row.ended, row.id));
        Ok(rows)
    }

    /// Every snapshot that a log ever named, oldest first, forgotten ones too.
    pub fn all_snapshots(&self) -> Result<Vec<SnapshotRow>, Error> {
        self.rows("", &[])
    }

    fn rows(&self, condition: &str, values: &[&dyn ToSql]) -> Result<Vec<SnapshotRow>, Error> {
        type Row = (i64, String, String, Option<i64>);
        let parse = |(writer, writer_name, text, received): Row, marks: &Marks| -> Result<SnapshotRow, String> {
            let record: SnapshotRecord = serde_json::from_str(&text).map_err(|e| e.to_string())?;
            let named = (writer, record.id.to_string());
            // Of a copy the time that its writer signed, when the first store received it.
            // Later than its arrival here it cannot have been: a first store whose clock had jumped, or a lie.
            let arrived = received.and_then(Moment::from_timestamp_micros);
            let first = record.copied.as_ref().and_then(|copied| copied.received);
            let first = first.filter(|first| arrived.is_none_or(|at| *first <= at + TimeDelta::hours(1)));
            Ok(SnapshotRow {
                writer: WriterRow(writer),
                writer_name,
                received: first.or(arrived),
                arrived,
                pinned: marks.pinned.contains(&named),
                forgotten: marks.forgotten.contains(&named),
                accepted: marks.accepted.contains(&named),
                record,
            })
        };
        // One text at a time: of many snapshots all of them together would take as much memory again.
        let rows: Vec<Result<SnapshotRow, String>> = self.read(|db| {
            let marks = marks(db)?;
            let mut rows = db.prepare_cached(&format!(
                "SELECT s.writer, w.name, s.record, r.at FROM snapshot s JOIN writer w ON w.id = s.writer
                 JOIN log_commit c ON c.id = s.log_commit LEFT JOIN received r ON r.digest = c.digest
                 {condition} ORDER BY s.ended, s.id"
            ))?;
            let rows =
                rows.query_map(values, |row| Ok(parse((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?), &marks)))?;
            rows.collect()
        })?;
        rows.into_iter().map(|row| row.map_err(|why| self.inconsistent(why))).collect()
    }

    /// Whether a writer's log says that a snapshot is forgotten, whether the snapshot itself is known here or not.
    pub fn is_forgotten(&self, writer: WriterRow, snapshot: &str) -> Result<bool, Error> {
        self.read(|db| {
            let sql = "SELECT EXISTS (SELECT 1 FROM mark WHERE writer = ?1 AND snapshot = ?2 AND kind = 'forget')";
            db.prepare_cached(sql)?.query_row(params![writer.0, snapshot], |row| row.get(0))
        })
    }

    /// Replaces what is known of a source's sparse frames.
    pub fn set_sparse(&mut self, source: &str, rows: &[SparseRow]) -> Result<(), Error> {
        self.write(|db| {
            db.execute("DELETE FROM sparse WHERE source = ?1", [source])?;
            let mut insert = db.prepare_cached("INSERT INTO sparse (source, frame, used) VALUES (?1, ?2, ?3)")?;
            for row in rows {
                insert.execute(params![source, row.frame, row.used as i64])?;
            }
            Ok(())
        })
    }

    /// Sparse frames of all sources: frame, how many sources know it as sparse, bytes that they use together.
    pub fn sparse(&self) -> Result<Vec<(i64, u64, u64)>, Error> {
        self.read(|db| {
            let mut rows =
                db.prepare_cached("SELECT frame, count(*), sum(used) FROM sparse GROUP BY frame ORDER BY frame")?;
            let rows = rows
                .query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as u64, row.get::<_, i64>(2)? as u64)))?;
            rows.collect()
        })
    }
}
