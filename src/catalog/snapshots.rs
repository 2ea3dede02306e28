//! Snapshots, and the frames that are used too little.

use rusqlite::params;

use super::{Catalog, Error, WriterRow};
use crate::model::SnapshotRecord;

/// A snapshot of the repository. `record.uses` counts in this catalog's frame rows.
#[derive(Debug, Clone, PartialEq)]
pub struct SnapshotRow {
    /// Whose it is.
    pub writer: WriterRow,
    /// The writer's name.
    pub writer_name: String,
    /// Its record.
    pub record: SnapshotRecord,
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
    /// Every snapshot, oldest first.
    pub fn snapshots(&self) -> Result<Vec<SnapshotRow>, Error> {
        let rows: Vec<(i64, String, String)> = self.read(|db| {
            let mut rows = db.prepare_cached(
                "SELECT s.writer, w.name, s.record FROM snapshot s JOIN writer w ON w.id = s.writer
                 ORDER BY s.ended, s.id",
            )?;
            rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect()
        })?;
        let parse = |(writer, writer_name, record): (i64, String, String)| {
            let record = serde_json::from_str(&record);
            record.map(|record| SnapshotRow { writer: WriterRow(writer), writer_name, record })
        };
        rows.into_iter().map(|row| parse(row).map_err(|e| self.inconsistent(e.to_string()))).collect()
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
