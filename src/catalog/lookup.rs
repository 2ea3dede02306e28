//! Finding frames and chunks.

use rusqlite::params;

use super::ingest::{TABLE_SUM, table_sum};
use super::{Catalog, Error, WriterRow};
use crate::model::{ChunkId, FrameId, PackId};

/// Whether a frame's stored bytes were found in order when they were last looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameState {
    /// Nothing bad is known.
    Good,
    /// Its pack is missing in the store.
    Missing,
    /// Its stored bytes, or its pack's, do not match their digest.
    Damaged,
}

/// Where a frame lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameRow {
    /// The catalog's own number.
    pub row: i64,
    /// Whose it is.
    pub writer: WriterRow,
    /// Its number in its writer's log.
    pub number: u64,
    /// Its id.
    pub id: FrameId,
    /// Its pack's row.
    pub pack_row: i64,
    /// Its pack.
    pub pack: PackId,
    /// First byte in the pack.
    pub at: u64,
    /// Sealed bytes.
    pub stored: u64,
    /// Plain bytes.
    pub plain: u64,
    /// What is known of it.
    pub state: FrameState,
    /// The list of recipients that it is sealed to.
    pub recipients: crate::model::Digest,
    /// The row of the commit that retired its pack: nobody who has read that refers to it. 0 where none did.
    pub retired: i64,
}

const COLUMNS: &str = "f.id, f.writer, f.number, f.name, f.pack, p.name, f.at, f.stored, f.plain, \
                       max(f.state, p.state, coalesce(r.deleted, 0)), p.recipients, coalesce(r.log_commit, 0)";
/// What they are read from. A pack that was deleted is missing.
const TABLES: &str = "frame f JOIN pack p ON p.id = f.pack \
                      LEFT JOIN retired r ON r.writer = p.writer AND r.object = p.name";

fn read_frame(row: &rusqlite::Row<'_>) -> rusqlite::Result<FrameRow> {
    Ok(FrameRow {
        row: row.get(0)?,
        writer: WriterRow(row.get(1)?),
        number: row.get::<_, i64>(2)? as u64,
        id: FrameId::new(row.get(3)?),
        pack_row: row.get(4)?,
        pack: PackId::new(row.get(5)?),
        at: row.get::<_, i64>(6)? as u64,
        stored: row.get::<_, i64>(7)? as u64,
        plain: row.get::<_, i64>(8)? as u64,
        state: match row.get::<_, i64>(9)? {
            0 => FrameState::Good,
            1 => FrameState::Missing,
            _ => FrameState::Damaged,
        },
        recipients: crate::model::Digest::new(row.get(10)?),
        retired: row.get(11)?,
    })
}

impl Catalog {
    /// A writer's frame of an id: of several copies (one adopted twice, one stored anew) a good one.
    pub fn find_frame_of(&self, writer: WriterRow, id: &FrameId) -> Result<Option<FrameRow>, Error> {
        self.read(|db| {
            let sql = format!(
                "SELECT {COLUMNS} FROM {TABLES} WHERE f.key = ?1 AND f.name = ?2 AND f.writer = ?3
                 ORDER BY coalesce(r.deleted, 0), max(f.state, p.state), r.object IS NOT NULL, f.id DESC"
            );
            let mut statement = db.prepare_cached(&sql)?;
            let mut rows = statement.query_map(params![id.prefix(), id.as_bytes(), writer.0], read_frame)?;
            rows.next().transpose()
        })
    }

    /// The frame of a row.
    pub fn frame(&self, row: i64) -> Result<FrameRow, Error> {
        self.read(|db| {
            let sql = format!("SELECT {COLUMNS} FROM {TABLES} WHERE f.id = ?1");
            db.prepare_cached(&sql)?.query_row([row], read_frame)
        })
    }

    /// The numbers of frames, by row.
    pub fn numbers_of(&self, rows: impl Iterator<Item = i64>) -> Result<Vec<u64>, Error> {
        self.at_one_moment(|| {
            self.read(|db| {
                let mut number = db.prepare_cached("SELECT number FROM frame WHERE id = ?1")?;
                rows.map(|row| number.query_row([row], |row| row.get::<_, i64>(0)).map(|n| n as u64)).collect()
            })
        })
    }

    /// The frames of a pack, in order; a pack that two commits name has each frame once.
    pub fn frames_of(&self, pack_row: i64) -> Result<Vec<FrameRow>, Error> {
        let mut frames: Vec<FrameRow> = self.read(|db| {
            let sql = format!("SELECT {COLUMNS} FROM {TABLES} WHERE f.pack = ?1 ORDER BY f.at, f.id");
            db.prepare_cached(&sql)?.query_map([pack_row], read_frame)?.collect()
        })?;
        frames.dedup_by_key(|frame| frame.at);
        Ok(frames)
    }

    /// The rows of a place in a pack: several, where two commits name the pack.
    pub fn rows_at(&self, frame: &FrameRow) -> Result<Vec<i64>, Error> {
        self.read(|db| {
            let sql = "SELECT id FROM frame WHERE pack = ?1 AND at = ?2 ORDER BY id";
            db.prepare_cached(sql)?.query_map(params![frame.pack_row, frame.at as i64], |row| row.get(0))?.collect()
        })
    }

    /// Frames of a writer that may hold a chunk: the key is only the first 8 bytes of its id, so the caller compares.
    pub fn frames_with(&self, writer: WriterRow, chunk: &ChunkId) -> Result<Vec<i64>, Error> {
        self.read(|db| {
            let sql = "SELECT c.frame FROM chunk c JOIN frame f ON f.id = c.frame WHERE c.key = ?1 AND f.writer = ?2
                       ORDER BY c.frame DESC";
            db.prepare_cached(sql)?.query_map(params![chunk.prefix(), writer.0], |row| row.get(0))?.collect()
        })
    }

    /// The chunks of a frame, where its pack's directory was read and its table here is whole.
    pub fn chunks_of(&self, frame_row: i64) -> Result<Option<Vec<(ChunkId, u32)>>, Error> {
        let table: Option<Vec<u8>> = self.read(|db| {
            use rusqlite::OptionalExtension;
            db.prepare_cached("SELECT chunks FROM frame_chunks WHERE frame = ?1")?
                .query_row([frame_row], |row| row.get(0))
                .optional()
        })?;
        let Some(mut table) = table else { return Ok(None) };
        let sum = table.split_off(table.len().saturating_sub(TABLE_SUM));
        if sum != table_sum(&table) {
            tracing::warn!(frame_row, "the chunk table of a frame in the catalog is damaged; it is not used");
            return Ok(None);
        }
        let rows = table.chunks_exact(36).map(|row| {
            let length = u32::from_le_bytes([row[0], row[1], row[2], row[3]]);
            ChunkId::from_slice(&row[4..]).map(|id| (id, length))
        });
        rows.collect::<Option<Vec<_>>>().map(Some).ok_or_else(|| self.inconsistent("a chunk table is cut off"))
    }

    /// Whether a writer has any chunk in the index: a first backup need not ask for each.
    pub fn has_chunks(&self) -> Result<bool, Error> {
        self.read(|db| db.query_row("SELECT EXISTS (SELECT 1 FROM chunk)", [], |row| row.get(0)))
    }
}
