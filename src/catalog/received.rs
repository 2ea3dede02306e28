//! When the store received commits, by its own clock.
//!
//! Invariants: the earliest answer counts, so that an object that is put again does not become young; only commits that were read
//! have one, so that what anybody puts into a log takes no room here.

use rusqlite::{OptionalExtension, params};

use super::{Catalog, Error, Head, WriterRow};
use crate::model::{CommitId, Moment};

impl Catalog {
    /// Notes when the store received some commits of a writer. Nothing is written where nothing is new.
    pub fn note_received(&mut self, writer: WriterRow, listed: &[(Head, Moment)]) -> Result<(), Error> {
        let fresh: Vec<&(Head, Moment)> = self.read(|db| {
            let mut known = db.prepare_cached("SELECT at FROM received WHERE digest = ?1")?;
            let mut fresh = Vec::new();
            for item in listed {
                let at: Option<i64> = known.query_row([item.0.digest.as_bytes()], |row| row.get(0)).optional()?;
                if at.is_none_or(|at| at > item.1.timestamp_micros()) {
                    fresh.push(item);
                }
            }
            Ok(fresh)
        })?;
        if fresh.is_empty() {
            return Ok(());
        }
        self.write(|db| {
            let mut note = db.prepare_cached(
                "INSERT INTO received (digest, at)
                 SELECT ?1, ?2 WHERE EXISTS (SELECT 1 FROM log_commit WHERE digest = ?1 AND writer = ?3 AND readable = 1)
                 ON CONFLICT DO UPDATE SET at = min(at, excluded.at)",
            )?;
            for (head, at) in fresh {
                note.execute(params![head.digest.as_bytes(), at.timestamp_micros(), writer.0])?;
            }
            Ok(())
        })
    }

    /// The first place in a writer's log of a commit that the store was not yet asked about. A lost commit is none: the store will
    /// never list it.
    pub fn first_unreceived(&self, writer: WriterRow) -> Result<Option<u64>, Error> {
        self.read(|db| {
            let sql = "SELECT min(sequence) FROM log_commit c WHERE writer = ?1 AND readable = 1
                       AND NOT EXISTS (SELECT 1 FROM received r WHERE r.digest = c.digest)
                       AND NOT EXISTS (SELECT 1 FROM lost l WHERE l.writer = c.writer AND l.digest = c.digest)";
            let first: Option<i64> = db.prepare_cached(sql)?.query_row([writer.0], |row| row.get(0))?;
            Ok(first.map(|first| first as u64))
        })
    }

    /// When the store received the newest commit of a writer: as near to now as the store's own clock says it without being asked.
    pub fn last_received(&self, writer: WriterRow) -> Result<Option<Moment>, Error> {
        self.read(|db| {
            let sql = "SELECT max(r.at) FROM received r JOIN log_commit c ON c.digest = r.digest WHERE c.writer = ?1";
            let at: Option<i64> = db.prepare_cached(sql)?.query_row([writer.0], |row| row.get(0))?;
            Ok(at.and_then(Moment::from_timestamp_micros))
        })
    }

    /// When the store received a commit, if it was asked.
    pub fn received(&self, digest: &CommitId) -> Result<Option<Moment>, Error> {
        self.read(|db| {
            let sql = "SELECT at FROM received WHERE digest = ?1";
            let at: Option<i64> =
                db.prepare_cached(sql)?.query_row([digest.as_bytes()], |row| row.get(0)).optional()?;
            Ok(at.and_then(Moment::from_timestamp_micros))
        })
    }
}
