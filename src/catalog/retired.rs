//! Packs and segments that logs say are retired, kept after all, or deleted.
//!
//! Invariants: a writer's log speaks of its own objects alone; the newest word in the log counts, in whatever order commits are read; at
//! one place, which only a fork has twice, what is deleted is deleted, and what is kept is kept.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{Catalog, Error, WriterRow};
use crate::model::{Moment, Objects, PackId, Retire, SegmentKey};

/// Something that a prune retires and deletes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RetiredObject {
    /// A pack.
    Pack(PackId),
    /// A segment of a stream.
    Segment(SegmentKey),
}

impl RetiredObject {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Pack(id) => id.as_bytes().to_vec(),
            Self::Segment(key) => key.to_string().into_bytes(),
        }
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        // No key of a segment has 32 bytes: its digest alone has 64.
        match PackId::from_slice(bytes) {
            Some(id) => Some(Self::Pack(id)),
            None => String::from_utf8(bytes.to_vec()).ok()?.try_into().ok().map(Self::Segment),
        }
    }

    /// Its key in the store.
    pub fn key(&self, writer: &str) -> String {
        match self {
            Self::Pack(id) => super::pack_key(writer, id),
            Self::Segment(key) => format!("writers/{writer}/{key}"),
        }
    }
}

/// Something that is retired or gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retired {
    /// What.
    pub object: RetiredObject,
    /// The row of the commit that says so: later commits of this catalog have higher ones.
    pub log_commit: i64,
    /// When the store received that commit.
    pub since: Option<Moment>,
    /// Seconds after that before which nobody deletes it.
    pub grace: u64,
    /// Whether it is gone.
    pub deleted: bool,
}

/// A kind of line, with the objects that it names.
pub(super) enum Said<'a> {
    Retire(&'a Retire),
    Keep(&'a Objects),
    Deleted(&'a Objects),
}

/// Takes a line over.
pub(super) fn say(db: &Connection, writer: WriterRow, log_commit: i64, said: &Said<'_>) -> rusqlite::Result<()> {
    let (kind, packs, segments, grace) = match said {
        Said::Retire(retire) => ("retire", &retire.packs, &retire.segments, retire.grace as i64),
        Said::Keep(objects) => ("keep", &objects.packs, &objects.segments, 0),
        Said::Deleted(objects) => ("deleted", &objects.packs, &objects.segments, 0),
    };
    let packs = packs.iter().map(|id| RetiredObject::Pack(*id));
    for object in packs.chain(segments.iter().cloned().map(RetiredObject::Segment)) {
        let name = object.bytes();
        db.prepare_cached(
            "INSERT OR IGNORE INTO retirement (writer, object, log_commit, kind, grace) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![writer.0, name, log_commit, kind, grace])?;
        settle(db, writer, &object)?;
    }
    Ok(())
}

/// What all that is said of an object comes to.
fn settle(db: &Connection, writer: WriterRow, object: &RetiredObject) -> rusqlite::Result<()> {
    let name = object.bytes();
    let newest: Option<(String, i64, i64)> = db
        .prepare_cached(
            "SELECT m.kind, m.log_commit, m.grace FROM retirement m JOIN log_commit c ON c.id = m.log_commit
             WHERE m.writer = ?1 AND m.object = ?2
             ORDER BY c.sequence DESC, m.kind = 'deleted' DESC, m.kind = 'keep' DESC, c.digest DESC LIMIT 1",
        )?
        .query_row(params![writer.0, name], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let Some((kind, log_commit, grace)) = newest else { return Ok(()) };
    if kind == "keep" {
        db.prepare_cached("DELETE FROM retired WHERE writer = ?1 AND object = ?2")?.execute(params![writer.0, name])?;
        return Ok(());
    }
    let deleted = kind == "deleted";
    db.prepare_cached(
        "INSERT OR REPLACE INTO retired (writer, object, log_commit, grace, deleted) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute(params![writer.0, name, log_commit, grace, deleted])?;
    if deleted {
        db.prepare_cached("DELETE FROM retirement WHERE writer = ?1 AND object = ?2 AND log_commit <> ?3")?
            .execute(params![writer.0, name, log_commit])?;
        match object {
            RetiredObject::Pack(id) => drop_chunks(db, writer, id)?,
            RetiredObject::Segment(key) => super::segments::forget_deleted(db, writer, key)?,
        }
    }
    Ok(())
}

/// What lies in a pack that is gone is found by nobody any more. Its frames stay: snapshots name frames by their numbers, and the
/// same frame may lie elsewhere.
pub(super) fn drop_chunks(db: &Connection, writer: WriterRow, pack: &PackId) -> rusqlite::Result<()> {
    let mut rows = db.prepare_cached(
        "SELECT f.id, c.chunks FROM frame f JOIN pack p ON p.id = f.pack JOIN frame_chunks c ON c.frame = f.id
         WHERE p.writer = ?1 AND p.name = ?2",
    )?;
    let rows: Vec<(i64, Vec<u8>)> = rows
        .query_map(params![writer.0, pack.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    let mut delete = db.prepare_cached("DELETE FROM chunk WHERE key = ?1 AND frame = ?2")?;
    for (frame, table) in rows {
        for row in table.chunks_exact(36) {
            if let Some(id) = crate::model::ChunkId::from_slice(&row[4..]) {
                delete.execute(params![id.prefix(), frame])?;
            }
        }
        db.prepare_cached("DELETE FROM frame_chunks WHERE frame = ?1")?.execute([frame])?;
    }
    db.prepare_cached("UPDATE pack SET chunks_known = 0 WHERE writer = ?1 AND name = ?2")?
        .execute(params![writer.0, pack.as_bytes()])
        .map(drop)
}

/// Whether a log says that an object is gone.
pub(super) fn is_deleted(db: &Connection, writer: WriterRow, object: &RetiredObject) -> rusqlite::Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM retired WHERE writer = ?1 AND object = ?2 AND deleted = 1)";
    db.prepare_cached(sql)?.query_row(params![writer.0, object.bytes()], |row| row.get(0))
}

fn read(row: &Row<'_>) -> rusqlite::Result<Option<Retired>> {
    let name: Vec<u8> = row.get(0)?;
    let Some(object) = RetiredObject::parse(&name) else { return Ok(None) };
    Ok(Some(Retired {
        object,
        log_commit: row.get(1)?,
        since: row.get::<_, Option<i64>>(2)?.and_then(Moment::from_timestamp_micros),
        grace: row.get::<_, i64>(3)? as u64,
        deleted: row.get(4)?,
    }))
}

impl Catalog {
    /// What is retired of a writer and not known to be gone, in the order of its names.
    pub fn retired(&self, writer: WriterRow) -> Result<Vec<Retired>, Error> {
        self.retired_where(writer, false)
    }

    /// What of a writer is gone.
    pub fn deleted(&self, writer: WriterRow) -> Result<Vec<Retired>, Error> {
        self.retired_where(writer, true)
    }

    fn retired_where(&self, writer: WriterRow, deleted: bool) -> Result<Vec<Retired>, Error> {
        self.read(|db| {
            let sql = "SELECT r.object, r.log_commit, e.at, r.grace, r.deleted FROM retired r
                       JOIN log_commit c ON c.id = r.log_commit LEFT JOIN received e ON e.digest = c.digest
                       WHERE r.writer = ?1 AND r.deleted = ?2 ORDER BY r.object";
            let mut rows = db.prepare_cached(sql)?;
            let rows = rows.query_map(params![writer.0, deleted], read)?;
            rows.filter_map(Result::transpose).collect()
        })
    }

    /// What was retired or deleted of a writer by commits that this catalog took over after a row.
    pub fn retired_after(&self, writer: WriterRow, log_commit: i64) -> Result<Vec<Retired>, Error> {
        self.read(|db| {
            let sql = "SELECT r.object, r.log_commit, e.at, r.grace, r.deleted FROM retired r
                       JOIN log_commit c ON c.id = r.log_commit LEFT JOIN received e ON e.digest = c.digest
                       WHERE r.writer = ?1 AND r.log_commit > ?2 ORDER BY r.object";
            let mut rows = db.prepare_cached(sql)?;
            let rows = rows.query_map(params![writer.0, log_commit], read)?;
            rows.filter_map(Result::transpose).collect()
        })
    }

    /// The highest row of a commit: what is taken over from now on has higher ones.
    pub fn last_commit_row(&self) -> Result<i64, Error> {
        self.read(|db| db.query_row("SELECT coalesce(max(id), 0) FROM log_commit", [], |row| row.get(0)))
    }

    /// When the store received the newest commit of a writer in the order of its log: the store's own idea of now. Not the latest
    /// answer of all: a clock that once ran ahead would be believed for ever.
    pub fn store_time(&self, writer: WriterRow) -> Result<Option<Moment>, Error> {
        self.read(|db| {
            let sql = "SELECT r.at FROM log_commit c JOIN received r ON r.digest = c.digest
                       WHERE c.writer = ?1 AND c.readable = 1 ORDER BY c.sequence DESC, r.at DESC LIMIT 1";
            let at: Option<i64> = db.prepare_cached(sql)?.query_row([writer.0], |row| row.get(0)).optional()?;
            Ok(at.and_then(Moment::from_timestamp_micros))
        })
    }

    /// Snapshots of a writer that are not forgotten and of which it is not known which frames they use.
    pub fn unmapped(&self, writer: WriterRow) -> Result<Vec<String>, Error> {
        self.read(|db| {
            let sql = "SELECT u.snapshot FROM unmapped u WHERE u.writer = ?1 AND NOT EXISTS
                       (SELECT 1 FROM mark m WHERE m.writer = u.writer AND m.snapshot = u.snapshot AND m.kind = 'forget')
                       ORDER BY 1";
            db.prepare_cached(sql)?.query_map([writer.0], |row| row.get(0))?.collect()
        })
    }
}
