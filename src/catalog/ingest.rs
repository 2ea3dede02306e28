//! Taking a commit over into the catalog: one transaction, done once, however often it is asked for.

use std::collections::{HashMap, HashSet};

use rusqlite::{Connection, OptionalExtension, params};

use super::retired::{RetiredObject, Said, is_deleted, say};
use super::{Catalog, Error, Head, PackRow, WriterRow};
use crate::model::{
    ChunkId, Commit, CommitFrame, CommitId, CommitLine, PackId, PackLine, Renumber, SnapshotRecord, Uses,
};

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
                "INSERT OR IGNORE INTO log_commit
                 (writer, sequence, digest, readable, time, first_frame, written, frames, first_row)
                 VALUES (?1, ?2, ?3, 0, 0, 0, 0, 0, 0)",
                params![writer.0, head.sequence as i64, head.digest.as_bytes()],
            )
            .map(|_| ())
        })
    }

    /// Takes lines over that were left out when their commit was taken over: `at.commit` holds these alone, and none that adds a pack.
    /// Whether that commit is known.
    pub fn take_later(&mut self, at: CommitAt<'_>) -> Result<bool, Error> {
        let path = self.path.clone();
        let sqlite = |source| Error::Sqlite { doing: "write", path: path.clone(), source };
        let transaction =
            self.db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(sqlite)?;
        let sql = "SELECT id FROM log_commit WHERE digest = ?1 AND writer = ?2 AND readable = 1";
        let row = transaction.query_row(sql, params![at.digest.as_bytes(), at.writer.0], |row| row.get(0));
        let Some(row) = row.optional().map_err(sqlite)? else { return Ok(false) };
        match take_lines(&transaction, at, row, &ChunkTables::new(), 0) {
            Ok(()) => transaction.commit().map(|()| true).map_err(sqlite),
            Err(Trouble::Sqlite(source)) => Err(sqlite(source)),
            Err(Trouble::Unfit(why)) => {
                let header = &at.commit.header;
                Err(Error::BadCommit { writer: header.writer.clone(), sequence: header.sequence, why })
            }
        }
    }

    /// Finds the frames of a commit's snapshots again: a hole in the log before it has closed since it was taken over.
    pub fn recount(&mut self, at: CommitAt<'_>) -> Result<(), Error> {
        let path = self.path.clone();
        let sqlite = |source| Error::Sqlite { doing: "write", path: path.clone(), source };
        let transaction =
            self.db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(sqlite)?;
        let again = |record: &SnapshotRecord| -> Result<(), Trouble> {
            // Not one of that name which another commit made.
            let changed = "DELETE FROM snapshot WHERE id = ?1 AND writer = ?2
                           AND log_commit = (SELECT id FROM log_commit WHERE digest = ?3) RETURNING log_commit";
            let named = params![record.id.to_string(), at.writer.0, at.digest.as_bytes()];
            let Some(row) = transaction.query_row(changed, named, |row| row.get(0)).optional()? else { return Ok(()) };
            add_snapshot(&transaction, at.writer, row, record, &at.digest)
        };
        match at.commit.snapshots().try_for_each(again) {
            Ok(()) => transaction.commit().map_err(sqlite),
            Err(Trouble::Sqlite(source)) => Err(sqlite(source)),
            Err(Trouble::Unfit(why)) => {
                let header = &at.commit.header;
                Err(Error::BadCommit { writer: header.writer.clone(), sequence: header.sequence, why })
            }
        }
    }

    /// Adds the chunk ids of a pack whose directory was read after its commit.
    pub fn add_chunks(&mut self, pack: &PackRow, tables: &[Vec<(ChunkId, u32)>]) -> Result<(), Error> {
        let frames = self.frames_of(pack.row)?;
        let id = pack.id;
        if frames.len() != tables.len() {
            return Err(self.inconsistent(format!("the directory of pack {id} has other frames")));
        }
        self.write(|db| {
            let mut keys = Keys::new();
            for (frame, chunks) in frames.iter().zip(tables) {
                add_chunk_rows(db, frame.row, chunks, &mut keys)?;
            }
            add_keys(db, keys)?;
            db.execute("UPDATE pack SET chunks_known = 1 WHERE id = ?1", [pack.row]).map(drop)
        })
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
        "INSERT INTO log_commit (writer, sequence, digest, readable, time, first_frame, written, frames, first_row)
         VALUES (?1, ?2, ?3, 1, ?4, ?5, ?5, ?6, (SELECT coalesce(max(id), 0) + 1 FROM frame))",
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
    let mut keys = Keys::new();
    for line in &at.commit.lines {
        match line {
            CommitLine::Renumber(renumber) => renumber_frames(db, at.writer, row, renumber)?,
            CommitLine::Pack(pack) => {
                let tables = chunks.get(&pack.id);
                add_pack(db, (at.writer, row, seen), pack, number, (tables, &mut keys))?;
                number += pack.frames.len() as u64;
            }
            CommitLine::Snapshot(record) => add_snapshot(db, at.writer, row, record, &at.digest)?,
            CommitLine::Forget(marked) => super::snapshots::mark(db, at.writer, row, "forget", marked)?,
            CommitLine::Pin(marked) => super::snapshots::mark(db, at.writer, row, "pin", marked)?,
            CommitLine::Unpin(marked) => super::snapshots::mark(db, at.writer, row, "unpin", marked)?,
            CommitLine::Accept(marked) => super::snapshots::mark(db, at.writer, row, "accept", marked)?,
            CommitLine::Drill(record) => super::drills::insert(db, at.writer, row, record)?,
            CommitLine::Retire(retire) => say(db, at.writer, row, &Said::Retire(retire))?,
            CommitLine::Keep(objects) => say(db, at.writer, row, &Said::Keep(objects))?,
            CommitLine::Deleted(objects) => say(db, at.writer, row, &Said::Deleted(objects))?,
            CommitLine::Segment(record) => super::segments::take(db, at.writer, &at.commit.header.writer, record, row)?,
            // Only of the writer's own log: nobody says of another's commits that they may be missing.
            CommitLine::Lost(lost) => {
                db.prepare_cached("INSERT OR IGNORE INTO lost (writer, digest) VALUES (?1, ?2)")?
                    .execute(params![at.writer.0, lost.digest.as_bytes()])?;
            }
            CommitLine::Seen(seen) => {
                db.prepare_cached(
                    "INSERT OR REPLACE INTO seen (witness, writer, sequence, digest) VALUES (?1, ?2, ?3, ?4)",
                )?
                .execute(params![
                    at.writer.0,
                    seen.writer,
                    seen.sequence as i64,
                    seen.digest.as_bytes()
                ])?;
            }
        }
    }
    add_keys(db, keys)?;
    Ok(())
}

fn add_pack(
    db: &Connection,
    (writer, log_commit, seen): (WriterRow, i64, i64),
    pack: &PackLine,
    first_number: u64,
    (chunks, keys): (Option<&PackTables>, &mut Keys),
) -> Result<(), Trouble> {
    let kind = match pack.kind {
        crate::model::PackKind::Data => "data",
        crate::model::PackKind::Manifest => "manifest",
    };
    // Of a pack that is gone nothing is looked up any more.
    let gone = is_deleted(db, writer, &RetiredObject::Pack(pack.id))?;
    let known = !gone && chunks.is_some_and(|tables| tables.len() == pack.frames.len());
    // A pack that an earlier commit of this writer named (two runs adopted it) keeps its row; its frames get the
    // numbers of this commit too.
    let added = db
        .prepare_cached(
            "INSERT OR IGNORE INTO pack (writer, log_commit, name, size, kind, recipients, directory_at,
             directory_length, chunks_known, state, seen) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 0, ?10)",
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
    let row: i64 = db
        .prepare_cached("SELECT id FROM pack WHERE writer = ?1 AND name = ?2")?
        .query_row(params![writer.0, pack.id.as_bytes()], |row| row.get(0))?;
    let known = known && added == 1;
    if added == 0 {
        check_same(db, row, pack)?;
    }
    let mut insert = db.prepare_cached(
        "INSERT INTO frame (writer, number, key, name, pack, at, stored, plain, state)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 0)",
    )?;
    for (n, frame) in pack.frames.iter().enumerate() {
        let number = first_number + n as u64;
        let (id, at, stored, plain) = (frame.0, frame.1 as i64, frame.2 as i64, frame.3 as i64);
        insert.execute(params![writer.0, number as i64, id.prefix(), id.as_bytes(), row, at, stored, plain])?;
        if let Some(tables) = chunks.filter(|_| known) {
            add_chunk_rows(db, db.last_insert_rowid(), &tables[n], keys)?;
        }
    }
    Ok(())
}

/// A pack is named by its bytes: whoever says of one that is known that it holds something else does not tell the truth.
fn check_same(db: &Connection, row: i64, pack: &PackLine) -> Result<(), Trouble> {
    let sql = "SELECT size, directory_at, directory_length FROM pack WHERE id = ?1";
    let known: (i64, i64, i64) = db.query_row(sql, [row], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let said = (pack.size as i64, pack.directory.at as i64, pack.directory.length as i64);
    let mut frame = db.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM frame WHERE pack = ?1 AND at = ?2 AND name = ?3 AND stored = ?4 AND plain = ?5)",
    )?;
    let mut same = known == said;
    for CommitFrame(id, at, stored, plain) in &pack.frames {
        let named = params![row, *at as i64, id.as_bytes(), *stored as i64, *plain as i64];
        same = same && frame.query_row(named, |row| row.get::<_, bool>(0))?;
    }
    if same { Ok(()) } else { Err(Trouble::Unfit(format!("it says of pack {} what it is not", pack.id))) }
}

/// Bytes behind a frame's chunk table that tell whether it rotted.
pub(super) const TABLE_SUM: usize = 8;

/// Lengths that rotted so that they still add up would shift the chunks between them: references to wrong bytes, which no digest of
/// a frame notices.
pub(super) fn table_sum(table: &[u8]) -> [u8; TABLE_SUM] {
    let mut sum = [0; TABLE_SUM];
    sum.copy_from_slice(&blake3::hash(table).as_bytes()[..TABLE_SUM]);
    sum
}

/// The chunks of each frame of a pack.
type PackTables = Vec<Vec<(ChunkId, u32)>>;

/// Keys of chunks with the frame that each lies in: collected, so that they get into the index in its order.
type Keys = Vec<(i64, i64)>;

fn add_chunk_rows(db: &Connection, frame: i64, chunks: &[(ChunkId, u32)], keys: &mut Keys) -> rusqlite::Result<()> {
    let mut table = Vec::with_capacity(chunks.len() * 36 + TABLE_SUM);
    for (id, length) in chunks {
        table.extend_from_slice(&length.to_le_bytes());
        table.extend_from_slice(id.as_bytes());
    }
    table.extend_from_slice(&table_sum(&table));
    db.prepare_cached("INSERT OR REPLACE INTO frame_chunks (frame, chunks) VALUES (?1, ?2)")?
        .execute(params![frame, table])?;
    keys.extend(chunks.iter().map(|(id, _)| (id.prefix(), frame)));
    Ok(())
}

fn add_keys(db: &Connection, mut keys: Keys) -> rusqlite::Result<()> {
    keys.sort_unstable();
    let mut insert = db.prepare_cached("INSERT OR IGNORE INTO chunk (key, frame) VALUES (?1, ?2)")?;
    for (key, frame) in keys {
        insert.execute(params![key, frame])?;
    }
    Ok(())
}

fn add_snapshot(
    db: &Connection,
    writer: WriterRow,
    log_commit: i64,
    record: &SnapshotRecord,
    digest: &CommitId,
) -> Result<(), Trouble> {
    let mut local = record.clone();
    let (uses, mut missing) = local_uses(db, writer, &record.uses, digest)?;
    local.uses = uses;
    let text = serde_json::to_string(&local).map_err(|e| Trouble::Unfit(e.to_string()))?;
    let id = record.id.to_string();
    let added = db.execute(
        "INSERT OR IGNORE INTO snapshot (id, writer, log_commit, source, ended, complete, record)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![id, writer.0, log_commit, record.source, record.ended.timestamp_micros(), record.complete, text],
    )?;
    // Another writer has a snapshot of this name: what this one uses is written nowhere here.
    let sql = "SELECT EXISTS (SELECT 1 FROM snapshot WHERE id = ?1 AND writer = ?2)";
    if added == 0 && !db.query_row(sql, params![id, writer.0], |row| row.get::<_, bool>(0))? {
        missing = missing.max(1);
    }
    if missing > 0 {
        let sql = "INSERT OR REPLACE INTO unmapped (writer, snapshot, frames) VALUES (?1, ?2, ?3)";
        db.execute(sql, params![writer.0, id, missing as i64])?;
    } else if added > 0 {
        db.execute("DELETE FROM unmapped WHERE writer = ?1 AND snapshot = ?2", params![writer.0, id])?;
    }
    Ok(())
}

/// From the numbers of a commit to this catalog's rows: frames of a commit have consecutive numbers and consecutive rows.
/// In a log without forks numbers mean one thing; after a fork they mean what the commit's own ancestors say. The second answer is how
/// many frames are not known here.
fn local_uses(db: &Connection, writer: WriterRow, uses: &Uses, digest: &CommitId) -> Result<(Uses, u64), Trouble> {
    let asks = |sql: &str| db.prepare_cached(sql)?.query_row([writer.0], |row| row.get::<_, bool>(0));
    let forked = asks(
        "SELECT EXISTS (SELECT 1 FROM log_commit WHERE writer = ?1 AND readable = 1
         GROUP BY sequence HAVING count(*) > 1)",
    )?;
    let holed = asks("SELECT EXISTS (SELECT 1 FROM log_commit WHERE writer = ?1 AND readable = 0)")?;
    let lineage = if forked { Some(lineage(db, writer, digest)?) } else { None };
    let (mut rows, mut missing) = (Vec::new(), 0);
    for (first, last) in &uses.0 {
        let runs = match &lineage {
            Some(runs) => runs.clone(),
            None => linear_runs(db, writer, *first, *last)?,
        };
        let mut found = 0;
        for Run { number, count, row } in runs {
            let (from, to) = ((*first).max(number), (*last + 1).min(number + count));
            if from < to {
                rows.extend((from - number + row)..(to - number + row));
                found += to - from;
            }
        }
        // A log with a hole lacks the frames of the lost commit; its packs may still explain themselves.
        if found != last - first + 1 && !holed {
            return Err(Trouble::Unfit(format!("it uses frames {first} to {last}, which its log does not hold")));
        }
        missing += (last - first + 1).saturating_sub(found);
    }
    // Where a commit of a fork is missing, what is left may be counted as that one's frames.
    let moved =
        asks("SELECT EXISTS (SELECT 1 FROM renumber r JOIN log_commit c ON c.id = r.log_commit WHERE c.writer = ?1)")?;
    if holed && (forked || moved) {
        missing = missing.max(1);
    }
    Ok((Uses::from_numbers(rows), missing))
}

/// Frames of one commit: first number, how many, first row.
#[derive(Clone, Copy)]
struct Run {
    number: u64,
    count: u64,
    row: u64,
}

fn linear_runs(db: &Connection, writer: WriterRow, first: u64, last: u64) -> rusqlite::Result<Vec<Run>> {
    let mut rows = db.prepare_cached(
        "SELECT written, frames, first_row FROM log_commit
         WHERE writer = ?1 AND frames > 0 AND written <= ?3 AND written + frames > ?2 AND readable = 1 ORDER BY written",
    )?;
    let rows = rows.query_map(params![writer.0, first as i64, last as i64], |row| {
        Ok(Run {
            number: row.get::<_, i64>(0)? as u64,
            count: row.get::<_, i64>(1)? as u64,
            row: row.get::<_, i64>(2)? as u64,
        })
    })?;
    rows.collect()
}

/// The frames of a commit and its ancestors, counted as those commits count them.
fn lineage(db: &Connection, writer: WriterRow, digest: &CommitId) -> rusqlite::Result<Vec<Run>> {
    let mut parents: HashMap<CommitId, Vec<CommitId>> = HashMap::new();
    let mut edges = db.prepare(
        "SELECT c.digest, p.parent FROM commit_parent p JOIN log_commit c ON c.id = p.child WHERE c.writer = ?1",
    )?;
    let mut edges = edges.query([writer.0])?;
    while let Some(row) = edges.next()? {
        parents.entry(CommitId::new(row.get(0)?)).or_default().push(CommitId::new(row.get(1)?));
    }
    let (mut all, mut open) = (HashSet::new(), vec![*digest]);
    while let Some(next) = open.pop() {
        if all.insert(next) {
            open.extend(parents.get(&next).into_iter().flatten().copied());
        }
    }
    let mut moved: HashMap<CommitId, u64> = HashMap::new();
    let mut joins = db.prepare(
        "SELECT c.digest, r.target, r.first_frame FROM renumber r JOIN log_commit c ON c.id = r.log_commit
         WHERE c.writer = ?1 ORDER BY c.sequence, c.digest",
    )?;
    let mut joins = joins.query([writer.0])?;
    while let Some(row) = joins.next()? {
        if all.contains(&CommitId::new(row.get(0)?)) {
            moved.insert(CommitId::new(row.get(1)?), row.get::<_, i64>(2)? as u64);
        }
    }
    let mut commits = db.prepare(
        "SELECT digest, written, frames, first_row FROM log_commit WHERE writer = ?1 AND readable = 1 AND frames > 0",
    )?;
    let mut commits = commits.query([writer.0])?;
    let mut runs = Vec::new();
    while let Some(row) = commits.next()? {
        let id = CommitId::new(row.get(0)?);
        if all.contains(&id) {
            let number = moved.get(&id).copied().unwrap_or(row.get::<_, i64>(1)? as u64);
            runs.push(Run { number, count: row.get::<_, i64>(2)? as u64, row: row.get::<_, i64>(3)? as u64 });
        }
    }
    Ok(runs)
}

fn renumber_frames(db: &Connection, writer: WriterRow, join: i64, renumber: &Renumber) -> Result<(), Trouble> {
    let found: Option<(i64, i64, i64)> = db
        .query_row(
            "SELECT id, first_row, frames FROM log_commit WHERE digest = ?1 AND writer = ?2 AND readable = 1",
            params![renumber.commit.as_bytes(), writer.0],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )
        .optional()?;
    let Some((row, first_row, frames)) = found else {
        return Err(Trouble::Unfit(format!(
            "it renumbers commit {}, which its log does not hold",
            renumber.commit.short()
        )));
    };
    let new = renumber.first_frame as i64;
    db.execute(
        "INSERT OR REPLACE INTO renumber (log_commit, target, first_frame) VALUES (?1, ?2, ?3)",
        params![join, renumber.commit.as_bytes(), new],
    )?;
    db.execute(
        "UPDATE frame SET number = id - ?1 + ?2 WHERE id >= ?1 AND id < ?1 + ?3",
        params![first_row, new, frames],
    )?;
    db.execute("UPDATE log_commit SET first_frame = ?2 WHERE id = ?1", params![row, new])?;
    Ok(())
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
        // In a log without forks every commit begins where the one before ends: nothing is compared.
        let mut highest = 0;
        for (commit, first, count) in rows.into_iter().filter(|(_, _, count)| *count > 0) {
            if first < highest && taken.iter().rev().any(|(start, stop)| first < *stop && *start < first + count) {
                moves.push(Renumber { commit, first_frame: end });
                end += count;
            } else {
                taken.push((first, first + count));
                highest = highest.max(first + count);
            }
        }
        Ok((end, moves))
    }
}
