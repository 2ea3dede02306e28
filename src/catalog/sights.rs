//! What this host saw when it last looked: at the store by a check, at a source's server.

use rusqlite::params;

use super::{Catalog, Error};
use crate::model::Moment;
use crate::model::sight::Sight;

impl Catalog {
    /// What was seen of a subject: a source's name, or [`STORE`](crate::model::sight::STORE). By what was looked at.
    pub fn sights(&self, subject: &str) -> Result<Vec<Sight>, Error> {
        self.read(|db| {
            let sql = "SELECT what, at, words, facts FROM sight WHERE subject = ?1 ORDER BY what";
            let mut statement = db.prepare_cached(sql)?;
            let rows = statement.query_map([subject], |row| {
                let facts: String = row.get(3)?;
                Ok(Sight {
                    what: row.get(0)?,
                    at: Moment::from_timestamp_millis(row.get(1)?).unwrap_or_default(),
                    words: row.get(2)?,
                    facts: serde_json::from_str(&facts).unwrap_or_default(),
                })
            })?;
            rows.collect()
        })
    }

    /// Puts what is seen now in the place of what was seen of the same before, and of whatever else `replaces` says: a look that sees all
    /// slots also sees that one is gone.
    pub fn set_sights(
        &mut self,
        subject: &str,
        replaces: impl Fn(&str) -> bool,
        sights: &[Sight],
    ) -> Result<(), Error> {
        let before = self.sights(subject)?;
        if sights.is_empty() && !before.iter().any(|old| replaces(&old.what)) {
            return Ok(());
        }
        self.write(|db| {
            let mut delete = db.prepare_cached("DELETE FROM sight WHERE subject = ?1 AND what = ?2")?;
            for old in before.iter().filter(|old| replaces(&old.what)) {
                delete.execute(params![subject, old.what])?;
            }
            let sql = "INSERT OR REPLACE INTO sight (subject, what, at, words, facts) VALUES (?1, ?2, ?3, ?4, ?5)";
            let mut insert = db.prepare_cached(sql)?;
            for sight in sights {
                let at = sight.at.timestamp_millis();
                insert.execute(params![subject, sight.what, at, sight.words, sight.facts.to_string()])?;
            }
            Ok(())
        })
    }
}
