//! Taking a commit over into the catalog: one transaction, done once, however often it is asked for.

use std::collections::HashMap;

use rusqlite::{Connection, params};

use super::{Catalog, Error, Head, WriterRow};
use crate::model::{ChunkId, Commit, CommitId, CommitLine, PackId, PackLine, Renumber, SnapshotRecord, Uses};

/// For each frame of a pack its chunks, where the pack's directory was at hand.
pub type ChunkTables = HashMap<PackId, Vec<Vec<(ChunkId, u32)>>>;

/// A commit and where it stands.
#[derive(Debug, Clone, Copy)]
pub struct CommitAt<'a> {
    /// Whose log.
    pub writer: WriterRow,
    /// Its name.
    pub digest: CommitId,
    /// What it says.
    pub commit: &'a Commit,
}

/// What a commit became.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ingested {
    /// It is new here.
    New,
    /// It was here already.
    Known,
}

enum Trouble {
    Sqlite(rusqlite::Error),
    Unfit(String),
}
impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl Catalog {
    /// Takes a readable commit over. Its parents must be here already. `chunks` are the chunk tables of its packs, as far
    /// as they are at hand; `seen` is the time, in seconds since 1970, at which its packs were put or listed.
    pub fn ingest(&mut self, at: CommitAt<'_>, chunks: &ChunkTables, seen: i64) -> Result<Ingested, Error> {
        let path = self.path.clone();
        let sqlite = |source| Error::Sqlite { doing: "write", path: path.clone(), source };
        let transaction =
            self.db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(sqlite)?;
        let result = take_over(&transaction, at, chunks, seen);
        match result {
            Ok(outcome) => transaction.commit().map(|()| outcome).map_err(sqlite),
            Err(Trouble::Sqlite(source)) => Err(sqlite(source)),
            Err(Trouble::Unfit(why)) => {
                let header = &at.commit.header;
                Err(Error::BadCommit { writer: header.writer.clone(), sequence: header.sequence, why })
            }
        }
    }

    /// Remembers a commit that this host cannot open, by its name.
    pub fn note_unreadable(&mut self, writer: WriterRow, head: Head) -> Result<(), Error> {
        self.write(|db| {
            db.execute(
                "INSERT OR IGNORE INTO log_commit (writer, sequence, digest, readable, time, first_frame, frames)
                 VALUES (?1, ?2, ?3, 0, 0, 0, 0)",
                params![writer.0, head.sequence as i64, head.digest.as_bytes()],
            )
            .map(|_| ())
        })
    }

    /// Adds the chunk ids of a pack whose directory was read after its commit.
    pub fn add_chunks(&mut self, pack: &PackId, tables: &[Vec<(ChunkId, u32)>]) -> Result<(), Error> {
        let fits = self.write(|db| {
            let row: i64 = db.query_row("SELECT id FROM pack WHERE name = ?1", [pack.as_bytes()], |r| r.get(0))?;
            let mut statement = db.prepare("SELECT id, plain FROM frame WHERE pack = ?1 ORDER BY at")?;
            let frames: Vec<(i64, i64)> =
                statement.query_map([row], |r| Ok((r.get(0)?, r.get(1)?)))?.collect::<rusqlite::Result<_>>()?;
            if frames.len() != tables.len() {
                return Ok(false);
            }
            for ((frame, _), chunks) in frames.iter().zip(tables) {
                add_chunk_rows(db, *frame, chunks)?;
            }
            db.execute("UPDATE pack SET chunks_known = 1 WHERE id = ?1", [row])?;
            Ok(true)
        })?;
        if fits { Ok(()) } else { Err(self.inconsistent(format!("the directory of pack {pack} has other frames"))) }
    }
}

fn take_over(db: &Connection, at: CommitAt<'_>, chunks: &ChunkTables, seen: i64) -> Result<Ingested, Trouble> {
    let header = &at.commit.header;
    let known: bool = db.query_row(
        "SELECT EXISTS (SELECT 1 FROM log_commit WHERE digest = ?1 AND readable = 1)",
        [at.digest.as_bytes()],
        |row| row.get(0),
    )?;
    if known {
        return Ok(Ingested::Known);
    }
    db.execute("DELETE FROM log_commit WHERE digest = ?1", [at.digest.as_bytes()])?;
    for parent in &header.parents {
        let there: bool = db.query_row(
            "SELECT EXISTS (SELECT 1 FROM log_commit WHERE digest = ?1 AND writer = ?2)",
            params![parent.as_bytes(), at.writer.0],
            |row| row.get(0),
        )?;
        if !there {
            return Err(Trouble::Unfit(format!("its parent {} is missing", parent.short())));
        }
    }
    db.execute(
        "INSERT INTO log_commit (writer, sequence, digest, readable, time, first_frame, frames)
         VALUES (?1, ?2, ?3, 1, ?4, ?5, ?6)",
        params![
            at.writer.0,
            header.sequence as i64,
            at.digest.as_bytes(),
            header.time.timestamp_micros(),
            header.first_frame as i64,
            at.commit.frame_count() as i64
        ],
    )?;
    let row = db.last_insert_rowid();
    for parent in &header.parents {
        db.execute("INSERT OR IGNORE INTO commit_parent VALUES (?1, ?2)", params![row, parent.as_bytes()])?;
    }
    take_lines(db, at, row, chunks, seen)?;
    Ok(Ingested::New)
}

fn take_lines(db: &Connection, at: CommitAt<'_>, row: i64, chunks: &ChunkTables, seen: i64) -> Result<(), Trouble> {
    let mut number = at.commit.header.first_frame;
    let ancestry = Ancestry::of(db, at.writer)?;
    for line in &at.commit.lines {
        match line {
            CommitLine::Renumber(renumber) => renumber_frames(db, renumber)?,
            CommitLine::Pack(pack) => {
                add_pack(db, at.writer, row, pack, number, chunks.get(&pack.id), seen)?;
                number += pack.frames.len() as u64;
            }
            CommitLine::Snapshot(record) => add_snapshot(db, at.writer, row, record, &ancestry, &at.digest)?,
            CommitLine::Seen(_) => {}
        }
    }
    Ok(())
}

fn add_pack(
    db: &Connection,
    writer: WriterRow,
    log_commit: i64,
    pack: &PackLine,
    first_number: u64,
    chunks: Option<&Vec<Vec<(ChunkId, u32)>>>,
    seen: i64,
) -> Result<(), Trouble> {
    let kind = match pack.kind {
        crate::model::PackKind::Data => "data",
        crate::model::PackKind::Manifest => "manifest",
    };
    let known = chunks.is_some_and(|tables| tables.len() == pack.frames.len());
    db.prepare_cached(
        "INSERT INTO pack (writer, log_commit, name, size, kind, recipients, directory_at, directory_length,
         chunks_known, state, seen) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 0, ?10)",
    )?
    .execute(params![
        writer.0,
        log_commit,
        pack.id.as_bytes(),
        pack.size as i64,
        kind,
        pack.recipients.as_bytes(),
        pack.directory.at as i64,
        pack.directory.length as i64,
        known,
        seen
    ])?;
    let row = db.last_insert_rowid();
    let mut insert = db.prepare_cached(
        "INSERT INTO frame (writer, number, key, name, pack, at, stored, plain, state)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 0)",
    )?;
    for (n, frame) in pack.frames.iter().enumerate() {
        let number = first_number + n as u64;
        let (id, at, stored, plain) = (frame.0, frame.1 as i64, frame.2 as i64, frame.3 as i64);
        insert.execute(params![writer.0, number as i64, id.prefix(), id.as_bytes(), row, at, stored, plain])?;
        if let Some(tables) = chunks.filter(|_| known) {
            add_chunk_rows(db, db.last_insert_rowid(), &tables[n])?;
        }
    }
    Ok(())
}

fn add_chunk_rows(db: &Connection, frame: i64, chunks: &[(ChunkId, u32)]) -> rusqlite::Result<()> {
    let mut table = Vec::with_capacity(chunks.len() * 36);
    for (id, length) in chunks {
        table.extend_from_slice(&length.to_le_bytes());
        table.extend_from_slice(id.as_bytes());
    }
    db.prepare_cached("INSERT OR REPLACE INTO frame_chunks (frame, chunks) VALUES (?1, ?2)")?
        .execute(params![frame, table])?;
    let mut insert = db.prepare_cached("INSERT OR IGNORE INTO chunk (key, frame) VALUES (?1, ?2)")?;
    let mut keys: Vec<i64> = chunks.iter().map(|(id, _)| id.prefix()).collect();
    keys.sort_unstable();
    for key in keys {
        insert.execute(params![key, frame])?;
    }
    Ok(())
}

fn add_snapshot(
    db: &Connection,
    writer: WriterRow,
    log_commit: i64,
    record: &SnapshotRecord,
    ancestry: &Ancestry,
    digest: &CommitId,
) -> Result<(), Trouble> {
    let mut local = record.clone();
    local.uses = local_uses(db, writer, &record.uses, ancestry, digest)?;
    let text = serde_json::to_string(&local).map_err(|e| Trouble::Unfit(e.to_string()))?;
    db.execute(
        "INSERT OR REPLACE INTO snapshot (id, writer, log_commit, source, ended, complete, record)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![
            record.id.to_string(),
            writer.0,
            log_commit,
            record.source,
            record.ended.timestamp_micros(),
            record.complete,
            text
        ],
    )?;
    Ok(())
}

/// From the numbers of a commit to this catalog's rows. Only after a fork can one number mean two frames: then the one
/// whose commit is an ancestor of the referring commit is meant.
fn local_uses(
    db: &Connection,
    writer: WriterRow,
    uses: &Uses,
    ancestry: &Ancestry,
    digest: &CommitId,
) -> Result<Uses, Trouble> {
    let mut rows = Vec::new();
    let mut find = db.prepare_cached(
        "SELECT f.id, f.number, c.digest FROM frame f JOIN pack p ON p.id = f.pack
         JOIN log_commit c ON c.id = p.log_commit WHERE f.writer = ?1 AND f.number BETWEEN ?2 AND ?3 ORDER BY f.number",
    )?;
    let forked = ancestry.forked;
    let mut lineage = None;
    for (first, last) in &uses.0 {
        let (mut next, mut found) = (*first, 0u64);
        let mut all = find.query(params![writer.0, *first as i64, *last as i64])?;
        while let Some(row) = all.next()? {
            if forked {
                let lineage = lineage.get_or_insert_with(|| ancestry.lineage(digest));
                if !lineage.contains(&CommitId::new(row.get(2)?)) {
                    continue;
                }
            }
            if row.get::<_, i64>(1)? as u64 == next {
                rows.push(row.get::<_, i64>(0)? as u64);
                (next, found) = (next + 1, found + 1);
            }
        }
        // A log with a hole lacks the frames of the lost commit; its packs may still explain themselves.
        if found != last - first + 1 && !ancestry.holed {
            return Err(Trouble::Unfit(format!("it uses frames {first} to {last}, which its log does not hold")));
        }
    }
    Ok(Uses::from_numbers(rows))
}

fn renumber_frames(db: &Connection, renumber: &Renumber) -> Result<(), Trouble> {
    let (row, old): (i64, i64) = db.query_row(
        "SELECT id, first_frame FROM log_commit WHERE digest = ?1",
        [renumber.commit.as_bytes()],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let new = renumber.first_frame as i64;
    db.execute(
        "UPDATE frame SET number = number - ?2 + ?3 WHERE pack IN (SELECT id FROM pack WHERE log_commit = ?1)",
        params![row, old, new],
    )?;
    db.execute("UPDATE log_commit SET first_frame = ?2 WHERE id = ?1", params![row, new])?;
    Ok(())
}

/// Who comes before whom in one writer's log; needed only where two commits share a place.
struct Ancestry {
    forked: bool,
    holed: bool,
    parents: HashMap<CommitId, Vec<CommitId>>,
}

impl Ancestry {
    fn of(db: &Connection, writer: WriterRow) -> rusqlite::Result<Self> {
        let sql = "SELECT EXISTS (SELECT 1 FROM log_commit WHERE writer = ?1 GROUP BY sequence HAVING count(*) > 1)";
        let forked: bool = db.prepare_cached(sql)?.query_row([writer.0], |row| row.get(0))?;
        let sql = "SELECT EXISTS (SELECT 1 FROM log_commit WHERE writer = ?1 AND readable = 0)";
        let holed: bool = db.prepare_cached(sql)?.query_row([writer.0], |row| row.get(0))?;
        let mut parents: HashMap<CommitId, Vec<CommitId>> = HashMap::new();
        if forked {
            let mut rows = db.prepare(
                "SELECT c.digest, p.parent FROM commit_parent p JOIN log_commit c ON c.id = p.child WHERE c.writer = ?1",
            )?;
            let mut rows = rows.query([writer.0])?;
            while let Some(row) = rows.next()? {
                parents.entry(CommitId::new(row.get(0)?)).or_default().push(CommitId::new(row.get(1)?));
            }
        }
        Ok(Self { forked, holed, parents })
    }

    fn lineage(&self, digest: &CommitId) -> std::collections::HashSet<CommitId> {
        let (mut all, mut open) = (std::collections::HashSet::new(), vec![*digest]);
        while let Some(next) = open.pop() {
            if all.insert(next) {
                open.extend(self.parents.get(&next).into_iter().flatten().copied());
            }
        }
        all
    }
}

impl Catalog {
    /// The number that the next commit of a writer begins with, and what renumbers the losing branches of a fork: of all
    /// commits after the branching, those that share frame numbers with a commit before them in the order of the log.
    pub fn next_numbers(&self, writer: WriterRow) -> Result<(u64, Vec<Renumber>), Error> {
        let rows: Vec<(CommitId, u64, u64)> = self.read(|db| {
            let mut rows = db.prepare_cached(
                "SELECT digest, first_frame, frames FROM log_commit WHERE writer = ?1 AND readable = 1
                 ORDER BY sequence, digest",
            )?;
            let rows = rows.query_map([writer.0], |row| {
                Ok((CommitId::new(row.get(0)?), row.get::<_, i64>(1)? as u64, row.get::<_, i64>(2)? as u64))
            })?;
            rows.collect()
        })?;
        let mut end = rows.iter().map(|(_, first, count)| first + count).max().unwrap_or(0);
        let (mut taken, mut moves): (Vec<(u64, u64)>, Vec<Renumber>) = (Vec::new(), Vec::new());
        for (commit, first, count) in rows.into_iter().filter(|(_, _, count)| *count > 0) {
            if taken.iter().rev().any(|(start, stop)| first < *stop && *start < first + count) {
                moves.push(Renumber { commit, first_frame: end });
                end += count;
            } else {
                taken.push((first, first + count));
            }
        }
        Ok((end, moves))
    }
}
