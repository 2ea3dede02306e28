//! Which frames snapshots use, and what of each pack that is: the facts that a prune decides by.
//!
//! Invariants: a frame counts as used if any copy of it is used by a snapshot that is not forgotten, or that is pinned; of several copies one
//! that can be read stays, the newest; where none can be read all of them stay. What is not known is used. Memory is a few
//! numbers a pack and a range of frames, whatever the size of the repository.

use std::collections::{HashMap, HashSet};

use rusqlite::params;

use super::{Catalog, Error, WriterRow};
use crate::model::{Digest, FrameId, Moment, PackId, PackKind};

/// Ascending, apart from each other, inclusive.
#[derive(Debug, Clone, Default)]
struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    fn of(mut all: Vec<(u64, u64)>) -> Self {
        all.sort_unstable();
        let mut merged: Vec<(u64, u64)> = Vec::new();
        for (first, last) in all {
            match merged.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    fn has(&self, row: i64) -> bool {
        let row = row as u64;
        let after = self.0.partition_point(|(first, _)| *first <= row);
        after > 0 && self.0[after - 1].1 >= row
    }
}

/// Which frames of a writer are needed.
#[derive(Debug, Clone, Default)]
pub struct Usage {
    used: Ranges,
    ever: Ranges,
    /// Of frames that lie in several places: whether this copy is the one that stays.
    copies: HashMap<i64, bool>,
    /// Frames that are used and of which no copy is there.
    pub lost: Vec<FrameId>,
    /// The packs in which they lay, by row.
    pub lost_packs: HashSet<i64>,
}

impl Usage {
    /// Whether the copy of a frame in this row is needed.
    pub fn needs(&self, row: i64) -> bool {
        self.copies.get(&row).copied().unwrap_or_else(|| self.used.has(row))
    }
    /// Whether a snapshot uses the frame of this row, be it this copy of it or another.
    pub fn uses(&self, row: i64) -> bool {
        self.used.has(row)
    }
}

/// A pack, and what of it is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackUse {
    /// The catalog's own number.
    pub row: i64,
    /// Its name.
    pub id: PackId,
    /// Stored bytes.
    pub size: u64,
    /// Data or manifest.
    pub kind: PackKind,
    /// The list of recipients that its frames are sealed to.
    pub recipients: Digest,
    /// Sealed bytes of frames that are needed.
    pub needed: u64,
    /// How many frames are needed.
    pub frames_needed: u64,
    /// Sealed bytes of all its frames.
    pub stored: u64,
    /// Whether any snapshot ever used a frame of it.
    pub ever_used: bool,
    /// When the store received the newest commit that names it.
    pub named: Option<Moment>,
    /// Whether it was found in order when it was last looked at.
    pub is_good: bool,
    /// Whether it is retired.
    pub retired: bool,
}

/// From this rank on a copy is damaged or missing; see `copies_of`.
const DAMAGED: i64 = 2;
/// From this rank on it was deleted.
const GONE: i64 = 4;

/// A copy of a frame.
struct Copy {
    row: i64,
    pack: i64,
    at: i64,
    /// Better ones are lower: gone, damaged or missing, retired.
    rank: i64,
}

impl Catalog {
    /// Which frames of a writer are needed.
    pub fn usage(&self, writer: WriterRow) -> Result<Usage, Error> {
        self.at_one_moment(|| self.usage_now(writer, judge))
    }

    /// The same where every copy stays that nobody has retired.
    pub fn usage_of_all_copies(&self, writer: WriterRow) -> Result<Usage, Error> {
        self.at_one_moment(|| self.usage_now(writer, judge_as_keeper))
    }

    fn usage_now(&self, writer: WriterRow, judge: fn(&mut Usage, &[Copy])) -> Result<Usage, Error> {
        let (mut used, mut ever) = (Vec::new(), Vec::new());
        for snapshot in self.all_snapshots()?.into_iter().filter(|snapshot| snapshot.writer == writer) {
            ever.extend(&snapshot.record.uses.0);
            // A pin on the other branch of a fork does not bring it back, but its bytes are not ours to take.
            if !snapshot.forgotten || snapshot.pinned {
                used.extend(snapshot.record.uses.0);
            }
        }
        let mut usage = Usage { used: Ranges::of(used), ever: Ranges::of(ever), ..Usage::default() };
        for key in self.keys_with_copies()? {
            for copies in self.copies_of(writer, key)?.into_values() {
                judge(&mut usage, &copies);
            }
        }
        self.find_lost(writer, &mut usage)?;
        Ok(usage)
    }

    fn keys_with_copies(&self) -> Result<Vec<i64>, Error> {
        self.read(|db| {
            let mut rows = db.prepare_cached("SELECT key FROM frame GROUP BY key HAVING count(*) > 1")?;
            rows.query_map([], |row| row.get(0))?.collect()
        })
    }

    fn copies_of(&self, writer: WriterRow, key: i64) -> Result<HashMap<FrameId, Vec<Copy>>, Error> {
        let mut all: HashMap<FrameId, Vec<Copy>> = HashMap::new();
        self.read(|db| {
            let mut rows = db.prepare_cached(
                "SELECT f.name, f.id, f.pack, f.at, CASE WHEN r.deleted = 1 THEN 4 WHEN max(f.state, p.state) > 0 THEN 2
                        ELSE 0 END + (r.object IS NOT NULL)
                 FROM frame f JOIN pack p ON p.id = f.pack
                 LEFT JOIN retired r ON r.writer = p.writer AND r.object = p.name WHERE f.key = ?1 AND f.writer = ?2",
            )?;
            let mut rows = rows.query(params![key, writer.0])?;
            while let Some(row) = rows.next()? {
                let copy = Copy { row: row.get(1)?, pack: row.get(2)?, at: row.get(3)?, rank: row.get(4)? };
                all.entry(FrameId::new(row.get(0)?)).or_default().push(copy);
            }
            Ok(())
        })?;
        Ok(all)
    }

    /// Frames with one copy, which is gone.
    fn find_lost(&self, writer: WriterRow, usage: &mut Usage) -> Result<(), Error> {
        let mut lost: Vec<(FrameId, i64)> = Vec::new();
        self.read(|db| {
            let mut rows = db.prepare_cached(
                "SELECT f.id, f.name, f.pack FROM retired r JOIN pack p ON p.writer = r.writer AND p.name = r.object
                 JOIN frame f ON f.pack = p.id WHERE r.writer = ?1 AND r.deleted = 1",
            )?;
            let mut rows = rows.query([writer.0])?;
            while let Some(row) = rows.next()? {
                if usage.needs(row.get(0)?) {
                    lost.push((FrameId::new(row.get(1)?), row.get(2)?));
                }
            }
            Ok(())
        })?;
        for (name, pack) in lost {
            usage.lost_packs.insert(pack);
            usage.lost.push(name);
        }
        usage.lost.sort_unstable();
        usage.lost.dedup();
        Ok(())
    }

    /// Every pack of a writer that is not gone, in the order of its log, with what of it is needed.
    pub fn pack_uses(&self, writer: WriterRow, usage: &Usage) -> Result<Vec<PackUse>, Error> {
        self.at_one_moment(|| {
            let mut packs = self.packs_there(writer)?;
            self.read(|db| {
                let sql = "SELECT id, at, stored, state FROM frame WHERE pack = ?1 ORDER BY at, id";
                let mut frames = db.prepare_cached(sql)?;
                for pack in &mut packs {
                    let (mut last, mut rows) = (None, frames.query([pack.row])?);
                    let mut needed_here = false;
                    while let Some(row) = rows.next()? {
                        let (id, at, stored): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
                        let stored = stored as u64;
                        pack.ever_used |= usage.ever.has(id);
                        // A pack that two commits name has each frame twice: it is one.
                        if last != Some(at) {
                            (pack.stored, needed_here, last) = (pack.stored + stored, false, Some(at));
                        }
                        if usage.needs(id) && !needed_here {
                            needed_here = true;
                            pack.is_good &= row.get::<_, i64>(3)? == 0;
                            (pack.needed, pack.frames_needed) = (pack.needed + stored, pack.frames_needed + 1);
                        }
                    }
                }
                Ok(())
            })?;
            Ok(packs)
        })
    }

    fn packs_there(&self, writer: WriterRow) -> Result<Vec<PackUse>, Error> {
        self.read(|db| {
            // A pack may be named by a later commit as well, or kept by one: the newest of them is when it was last of use.
            let mut rows = db.prepare_cached(
                "SELECT p.id, p.name, p.size, p.kind, p.recipients, p.state, r.object IS NOT NULL,
                        max((SELECT e.at FROM log_commit c JOIN received e ON e.digest = c.digest WHERE c.id = p.log_commit),
                            coalesce((SELECT max(e.at) FROM retirement m JOIN log_commit c ON c.id = m.log_commit
                                      JOIN received e ON e.digest = c.digest
                                      WHERE m.writer = p.writer AND m.object = p.name AND m.kind = 'keep'), 0))
                 FROM pack p LEFT JOIN retired r ON r.writer = p.writer AND r.object = p.name
                 WHERE p.writer = ?1 AND coalesce(r.deleted, 0) = 0 ORDER BY p.id",
            )?;
            let rows = rows.query_map([writer.0], |row| {
                let kind: String = row.get(3)?;
                Ok(PackUse {
                    row: row.get(0)?,
                    id: PackId::new(row.get(1)?),
                    size: row.get::<_, i64>(2)? as u64,
                    kind: if kind == "manifest" { PackKind::Manifest } else { PackKind::Data },
                    recipients: Digest::new(row.get(4)?),
                    needed: 0,
                    frames_needed: 0,
                    stored: 0,
                    ever_used: false,
                    named: row.get::<_, Option<i64>>(7)?.and_then(Moment::from_timestamp_micros),
                    is_good: row.get::<_, i64>(5)? == 0,
                    retired: row.get(6)?,
                })
            })?;
            rows.collect()
        })
    }
}

/// All copies of a used frame stay that are not retired, and of those that are the best ones, where there are no others.
fn judge_as_keeper(usage: &mut Usage, copies: &[Copy]) {
    let is_used = copies.iter().any(|copy| usage.used.has(copy.row));
    let Some(best) = copies.iter().map(|copy| copy.rank).min() else { return };
    for copy in copies {
        let stays = copy.rank == best || copy.rank == 0 || copy.rank == DAMAGED;
        usage.copies.insert(copy.row, is_used && stays && copy.rank < GONE);
    }
}

/// Which of the copies of a frame stays.
fn judge(usage: &mut Usage, copies: &[Copy]) {
    let is_used = copies.iter().any(|copy| usage.used.has(copy.row));
    let Some(best) = copies.iter().min_by_key(|copy| (copy.rank, std::cmp::Reverse(copy.row))) else { return };
    let place = (best.pack, best.at);
    // Where none of them can be read, whatever a repair may still find in them stays.
    let all_there = (DAMAGED..GONE).contains(&best.rank);
    for copy in copies {
        let stays = (copy.pack, copy.at) == place || (all_there && copy.rank < GONE);
        usage.copies.insert(copy.row, is_used && stays);
    }
}
