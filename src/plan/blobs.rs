//! Which snapshot of a source serves a time, where the source holds blobs that another source's rows name: files that are written
//! before the row and never deleted. A later snapshot then holds more of them, and never fewer. Pure.

use super::restore::{Candidate, Choice, NoPlan};
use crate::model::Moment;

/// A choice, and since when blobs may be missing in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobChoice {
    /// The snapshot.
    pub choice: Choice,
    /// Blobs of rows from this time on may not be in it; none where all are.
    pub missing_since: Option<Moment>,
}

/// Chooses among the snapshots of one source, each with the time at which its reading began: the first complete one that began at or
/// after `asked`, else the newest complete one.
pub fn choose_blobs(source: &str, all: &[(Candidate, Moment)], asked: Moment) -> Result<BlobChoice, NoPlan> {
    let complete = || all.iter().filter(|(candidate, _)| candidate.complete);
    let whole = complete().filter(|(_, began)| *began >= asked).min_by_key(|(c, began)| (*began, c.id));
    let found = whole.or_else(|| complete().max_by_key(|(c, began)| (*began, c.id)));
    let Some((candidate, began)) = found else {
        return Err(match all.is_empty() {
            true => NoPlan::NoSnapshot(source.to_owned()),
            false => NoPlan::NoneComplete(source.to_owned()),
        });
    };
    let choice = Choice {
        id: candidate.id,
        asked: Some(asked),
        shows: candidate.ended,
        complete: true,
        passed_over: Vec::new(),
    };
    Ok(BlobChoice { choice, missing_since: (*began < asked).then_some(*began) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SnapshotId;
    use chrono::TimeZone;

    fn at(second: i64) -> Moment {
        chrono::Utc.timestamp_opt(1_700_000_000 + second, 0).unwrap()
    }

    fn candidate(began: i64, complete: bool) -> (Candidate, Moment) {
        let id = SnapshotId::new(began as u64 * 1000, [began as u8; 10]);
        (Candidate { id, full_name: "w/files".into(), ended: at(began + 5), complete }, at(began))
    }

    #[test]
    fn the_first_that_began_afterwards_has_all_and_else_the_newest_has_most() {
        let all = [candidate(10, true), candidate(20, false), candidate(30, true), candidate(40, true)];
        let chosen = |asked| choose_blobs("files", &all, at(asked)).map(|c| (c.choice.shows, c.missing_since));
        assert_eq!(chosen(9), Ok((at(15), None)));
        assert_eq!(chosen(10), Ok((at(15), None)));
        assert_eq!(chosen(12), Ok((at(35), None)), "an incomplete one serves nothing");
        assert_eq!(chosen(41), Ok((at(45), Some(at(40)))));
        assert_eq!(choose_blobs("files", &[], at(1)), Err(NoPlan::NoSnapshot("files".into())));
        let none = choose_blobs("files", &all[1..2], at(1));
        assert_eq!(none, Err(NoPlan::NoneComplete("files".into())));
    }
}
