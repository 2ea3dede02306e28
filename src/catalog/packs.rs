//! Packs: what is known of each, and what the store was found to hold.

use std::collections::HashMap;

use rusqlite::params;

use super::{Catalog, Error, WriterRow};
use crate::model::{Digest, PackId, PackKind};

/// What the store was found to hold of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PackState {
    /// Nothing bad is known.
    Good,
    /// It is not in the store, or has another length there.
    Missing,
    /// Its bytes do not match its name.
    Damaged,
}

/// A pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackRow {
    /// The catalog's own number.
    pub row: i64,
    /// Whose it is.
    pub writer: WriterRow,
    /// Its name.
    pub id: PackId,
    /// Stored bytes.
    pub size: u64,
    /// First byte of its directory.
    pub directory_at: u64,
    /// Sealed bytes of its directory.
    pub directory_length: u64,
    /// The list of recipients that its frames are sealed to.
    pub recipients: Digest,
    /// Whether its chunk ids are in the catalog.
    pub chunks_known: bool,
    /// What is known of it.
    pub state: PackState,
    /// When it was put or listed, in seconds since 1970.
    pub seen: i64,
    /// Whether its writer's log says that nothing needs it any more, or that it is gone.
    pub retired: bool,
    /// Whether the log says that it is gone.
    pub deleted: bool,
}

impl PackRow {
    /// Its key in the store.
    pub fn key(&self, writer: &str) -> String {
        pack_key(writer, &self.id)
    }
}

/// The key of a pack.
pub fn pack_key(writer: &str, id: &PackId) -> String {
    let name = id.to_string();
    format!("writers/{writer}/packs/{}/{name}", &name[..2])
}

fn read_pack(row: &rusqlite::Row<'_>) -> rusqlite::Result<PackRow> {
    Ok(PackRow {
        row: row.get(0)?,
        writer: WriterRow(row.get(1)?),
        id: PackId::new(row.get(2)?),
        size: row.get::<_, i64>(3)? as u64,
        directory_at: row.get::<_, i64>(4)? as u64,
        directory_length: row.get::<_, i64>(5)? as u64,
        recipients: Digest::new(row.get(6)?),
        chunks_known: row.get(7)?,
        state: match row.get::<_, i64>(8)? {
            0 => PackState::Good,
            1 => PackState::Missing,
            _ => PackState::Damaged,
        },
        seen: row.get(9)?,
        retired: row.get(10)?,
        deleted: row.get(11)?,
    })
}

const COLUMNS: &str = "p.id, p.writer, p.name, p.size, p.directory_at, p.directory_length, p.recipients, p.chunks_known, \
                       p.state, p.seen, r.object IS NOT NULL, coalesce(r.deleted, 0)";
/// What they are read from.
const TABLES: &str = "pack p LEFT JOIN retired r ON r.writer = p.writer AND r.object = p.name";

/// Damage that a check has found: whose pack, which one, and the place of a frame in it, if not the whole pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamageMark {
    writer: String,
    pack: PackId,
    at: Option<i64>,
}

impl Catalog {
    /// Plain bytes of the frames of each pack, by the pack's row.
    pub fn plain_by_pack(&self) -> Result<HashMap<i64, u64>, Error> {
        self.read(|db| {
            let mut query = db.prepare_cached("SELECT pack, SUM(plain) FROM frame GROUP BY pack")?;
            query.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.max(0) as u64)))?.collect()
        })
    }

    /// What is marked as damaged: no log says it, so that a catalog that is read anew has forgotten it.
    pub fn damage_marks(&self) -> Result<Vec<DamageMark>, Error> {
        self.read(|db| {
            let sql = "SELECT w.name, p.name, NULL FROM pack p JOIN writer w ON w.id = p.writer WHERE p.state = 2
                       UNION SELECT w.name, p.name, f.at FROM frame f JOIN pack p ON p.id = f.pack
                       JOIN writer w ON w.id = p.writer WHERE f.state = 2";
            let read = |row: &rusqlite::Row<'_>| {
                Ok(DamageMark { writer: row.get(0)?, pack: PackId::new(row.get(1)?), at: row.get(2)? })
            };
            db.prepare_cached(sql)?.query_map([], read)?.collect()
        })
    }

    /// Marks it again. What the logs know nothing of any more is left out.
    pub fn mark_damage(&mut self, marks: &[DamageMark]) -> Result<(), Error> {
        self.write(|db| {
            let pack = "(SELECT p.id FROM pack p JOIN writer w ON w.id = p.writer WHERE w.name = ?1 AND p.name = ?2)";
            let mut packs = db.prepare(&format!("UPDATE pack SET state = 2 WHERE id = {pack}"))?;
            let mut frames = db.prepare(&format!("UPDATE frame SET state = 2 WHERE pack = {pack} AND at = ?3"))?;
            for DamageMark { writer, pack, at } in marks {
                match at {
                    None => packs.execute(params![writer, pack.as_bytes()])?,
                    Some(at) => frames.execute(params![writer, pack.as_bytes(), at])?,
                };
            }
            Ok(())
        })
    }

    /// Every pack of a writer, in the order of its log.
    pub fn packs(&self, writer: WriterRow) -> Result<Vec<PackRow>, Error> {
        self.read(|db| {
            let sql = format!("SELECT {COLUMNS} FROM {TABLES} WHERE p.writer = ?1 ORDER BY p.id");
            db.prepare_cached(&sql)?.query_map([writer.0], read_pack)?.collect()
        })
    }

    /// The pack of a row.
    pub fn pack(&self, row: i64) -> Result<PackRow, Error> {
        self.read(|db| {
            let sql = format!("SELECT {COLUMNS} FROM {TABLES} WHERE p.id = ?1");
            db.prepare_cached(&sql)?.query_row([row], read_pack)
        })
    }

    /// What a pack holds.
    pub fn pack_kind(&self, row: i64) -> Result<PackKind, Error> {
        let kind: String = self
            .read(|db| db.prepare_cached("SELECT kind FROM pack WHERE id = ?1")?.query_row([row], |row| row.get(0)))?;
        Ok(if kind == "manifest" { PackKind::Manifest } else { PackKind::Data })
    }

    /// A writer's pack of a name.
    pub fn find_pack(&self, writer: WriterRow, id: &PackId) -> Result<Option<PackRow>, Error> {
        use rusqlite::OptionalExtension;
        self.read(|db| {
            let sql = format!("SELECT {COLUMNS} FROM {TABLES} WHERE p.writer = ?1 AND p.name = ?2");
            db.prepare_cached(&sql)?.query_row(params![writer.0, id.as_bytes()], read_pack).optional()
        })
    }

    /// Records what a listing or a reading of packs found. A pack that is good again is good.
    pub fn set_pack_states(&mut self, states: &[(i64, PackState)], now: i64) -> Result<(), Error> {
        self.write(|db| {
            let mut update = db.prepare_cached(
                "UPDATE pack SET state = ?2, seen = CASE WHEN ?2 = 0 THEN ?3 ELSE seen END WHERE id = ?1",
            )?;
            for (row, state) in states {
                update.execute(params![row, *state as i64, now])?;
            }
            Ok(())
        })
    }

    /// Records that frames were found damaged (or in order again). Of a pack that two commits name, both rows of a place
    /// are marked: they are the same bytes.
    pub fn set_frames_damaged(&mut self, frames: &[i64], damaged: bool) -> Result<(), Error> {
        self.write(|db| {
            let mut update = db.prepare_cached(
                "UPDATE frame SET state = ?2 WHERE (pack, at) = (SELECT pack, at FROM frame WHERE id = ?1)",
            )?;
            for row in frames {
                update.execute(params![row, if damaged { 2 } else { 0 }])?;
            }
            Ok(())
        })
    }

    /// When packs were last read and found in order, in seconds since 1970. A pack that never was is not in it.
    pub fn ledger(&self) -> Result<HashMap<PackId, i64>, Error> {
        self.read(|db| {
            let rows = "SELECT pack, verified FROM ledger";
            db.prepare_cached(rows)?.query_map([], |row| Ok((PackId::new(row.get(0)?), row.get(1)?)))?.collect()
        })
    }

    /// Records packs that were read: found in order at `now`, or not, which takes them out of the ledger.
    pub fn set_verified(&mut self, packs: &[(PackId, bool)], now: i64) -> Result<(), Error> {
        self.write(|db| {
            let mut good = db.prepare_cached("INSERT OR REPLACE INTO ledger (pack, verified) VALUES (?1, ?2)")?;
            let mut bad = db.prepare_cached("DELETE FROM ledger WHERE pack = ?1")?;
            for (pack, in_order) in packs {
                if *in_order {
                    good.execute(params![pack.as_bytes(), now])?
                } else {
                    bad.execute([pack.as_bytes()])?
                };
            }
            Ok(())
        })
    }
}
