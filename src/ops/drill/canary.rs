//! The canary in what came back: whether the newest that was written by then is there.

use chrono::TimeDelta;

use super::Held;
use crate::model::Moment;
use crate::ops::Error;
use crate::plan::canary::{Mark, Sighting};
use crate::plan::drill::At;

/// A canary to look for.
#[derive(Debug, Clone)]
pub struct Canary {
    /// The source by which it is called.
    pub source: String,
    /// Of a server: the database where it is.
    pub database: String,
    /// Those that this host remembers to have written.
    pub marks: Vec<Mark>,
}

/// Looks, where one is to be looked for. `slack` is how far the source's clock may be from the canary's.
pub(super) fn look(
    held: &mut Held<'_>,
    slack: TimeDelta,
    find: impl FnOnce(&Canary) -> Result<Option<Moment>, Error>,
) -> Result<(), Error> {
    let Some(canary) = &held.options.canary else { return Ok(()) };
    held.check("canary", |held| {
        let found = find(canary)?;
        let newest = matches!(held.options.at, At::Latest);
        let shows = held.record.shows.unwrap_or(held.record.began);
        held.record.canary = found;
        // A snapshot is as new as the newest thing in it that is known to be from the source itself. Streams tell the time of each change.
        let is_stream = matches!(held.record.kind.as_str(), "postgres" | "convex");
        if let Some(found) = found.filter(|_| newest && !is_stream) {
            let age = (held.record.began - found).num_milliseconds().max(0) as u64;
            held.record.rpo_ms = held.record.rpo_ms.max(Some(age));
        }
        let due_by = held.read_from.unwrap_or(shows).min(shows);
        Ok(Sighting { found, shows, due_by, marks: &canary.marks, slack, newest }.judge())
    })?;
    Ok(())
}
