//! Snapshots, what logs say of them later, and the frames that are used too little.
//!
//! Invariants: a writer's log speaks of its own snapshots alone; forgotten is for good, in whatever order commits are read; of pins
//! the later place in the log counts, and at one place, which only a fork has twice, the pin.

use std::collections::{HashMap, HashSet};

use rusqlite::{Connection, params};

use super::{Catalog, Error, WriterRow};
use crate::model::{Marked, Moment, SnapshotRecord};

/// A snapshot of the repository. `record.uses` counts in this catalog's frame rows.
#[derive(Debug, Clone, PartialEq)]
pub struct SnapshotRow {
    /// Whose it is.
    pub writer: WriterRow,
    /// The writer's name.
    pub writer_name: String,
    /// Its record.
    pub record: SnapshotRecord,
    /// When the store received its commit, by the store's clock; unknown until the log was listed.
    pub received: Option<Moment>,
    /// Whether a policy must leave it alone.
    pub pinned: bool,
    /// Whether its writer's log says that it is forgotten.
    pub forgotten: bool,
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

/// Snapshots that are forgotten, and those that are pinned.
fn marks(db: &Connection) -> rusqlite::Result<(HashSet<Named>, HashSet<Named>)> {
    let mut rows = db.prepare_cached(
        "SELECT m.writer, m.snapshot, m.kind FROM mark m JOIN log_commit c ON c.id = m.log_commit
         ORDER BY c.sequence, m.kind = 'pin'",
    )?;
    let (mut forgotten, mut pins): (HashSet<Named>, HashMap<Named, bool>) = (HashSet::new(), HashMap::new());
    let mut rows = rows.query([])?;
    while let Some(row) = rows.next()? {
        let named: Named = (row.get(0)?, row.get(1)?);
        match row.get::<_, String>(2)?.as_str() {
            "forget" => drop(forgotten.insert(named)),
            kind => drop(pins.insert(named, kind == "pin")),
        }
    }
    let pinned = pins.into_iter().filter(|(_, pinned)| *pinned).map(|(named, _)| named).collect();
    Ok((forgotten, pinned))
}

impl SnapshotRow {
    /// `writer/source`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.writer_name, self.record.source)
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

    /// Every snapshot that a log ever named, oldest first, forgotten ones too.
    pub fn all_snapshots(&self) -> Result<Vec<SnapshotRow>, Error> {
        type Row = (i64, String, String, Option<i64>);
        let (rows, (forgotten, pinned)): (Vec<Row>, _) = self.read(|db| {
            let mut rows = db.prepare_cached(
                "SELECT s.writer, w.name, s.record, r.at FROM snapshot s JOIN writer w ON w.id = s.writer
                 JOIN log_commit c ON c.id = s.log_commit LEFT JOIN received r ON r.digest = c.digest
                 ORDER BY s.ended, s.id",
            )?;
            let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
            Ok((rows.collect::<rusqlite::Result<_>>()?, marks(db)?))
        })?;
        let parse = |(writer, writer_name, text, received): Row| -> Result<SnapshotRow, Error> {
            let record: SnapshotRecord = serde_json::from_str(&text).map_err(|e| self.inconsistent(e.to_string()))?;
            let named = (writer, record.id.to_string());
            Ok(SnapshotRow {
                writer: WriterRow(writer),
                writer_name,
                received: received.and_then(Moment::from_timestamp_micros),
                pinned: pinned.contains(&named),
                forgotten: forgotten.contains(&named),
                record,
            })
        };
        rows.into_iter().map(parse).collect()
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
