//! Drills that the logs tell of.

use rusqlite::{Connection, params};

use super::{Catalog, Error, WriterRow};
use crate::model::DrillRecord;

/// A drill with the writer whose log tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrillRow {
    /// The writer's name.
    pub writer: String,
    /// What it says.
    pub record: DrillRecord,
}

pub(super) fn insert(
    db: &Connection,
    writer: WriterRow,
    log_commit: i64,
    record: &DrillRecord,
) -> rusqlite::Result<()> {
    let text = serde_json::to_string(record).map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))?;
    let (id, began) = (record.id.to_string(), record.began.timestamp_micros());
    let sql =
        "INSERT OR IGNORE INTO drill (writer, id, log_commit, source, began, record) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    db.prepare_cached(sql)?.execute(params![writer.0, id, log_commit, record.source, began, text]).map(drop)
}

impl Catalog {
    /// Drills, the newest first: all of them, or `newest` of each source.
    pub fn drills(&self, newest: Option<u32>) -> Result<Vec<DrillRow>, Error> {
        self.read(|db| {
            let sql = "SELECT name, record FROM (
                           SELECT w.name, d.record, d.began, d.id,
                                  row_number() OVER (PARTITION BY d.writer, d.source ORDER BY d.began DESC, d.id DESC) AS place
                           FROM drill d JOIN writer w ON w.id = d.writer)
                       WHERE ?1 IS NULL OR place <= ?1 ORDER BY began DESC, id DESC";
            let mut statement = db.prepare_cached(sql)?;
            let rows = statement.query_map([newest], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
            let mut drills = Vec::new();
            for row in rows {
                let (writer, text) = row?;
                // What is not understood was not written by this program: another copy of the log has it.
                if let Ok(record) = serde_json::from_str(&text) {
                    drills.push(DrillRow { writer, record });
                }
            }
            Ok(drills)
        })
    }
}
