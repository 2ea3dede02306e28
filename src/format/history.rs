//! Timeline history files, `<timeline>.history` (PostgreSQL's `timeline.c`): a line for each timeline before, with the place
//! where it was left and why. And what follows from one: on which timeline the log lies at a place.
//!
//! Invariants: timelines ascend and lie below the one that the file is of. Switch points need not ascend: a restore that
//! stops before the fork that it was to follow leaves that fork behind it, and the newest line wins, as in the server. Not
//! here: which histories exist, and following one that is missing.

use crate::model::{Lsn, Timeline};

/// What is wrong with a history file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Flaw {
    /// A line is not timeline, place and reason.
    #[error("line {line} of the timeline history is not `TIMELINE <tab> LSN <tab> REASON`")]
    Line {
        /// Its number, from 1.
        line: usize,
    },
    /// Timelines do not ascend.
    #[error("the timeline history names timeline {found} where only a number above {after} can follow")]
    Order {
        /// The number found; the file's own timeline, if the last line is the wrong one.
        found: Timeline,
        /// The number before it.
        after: Timeline,
    },
}

/// A line: where a timeline was left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The timeline that was left.
    pub timeline: Timeline,
    /// The first place that is not its own any more.
    pub switch: Lsn,
    /// Why, in the server's words: `no recovery target specified`, `before 2026-11-20 14:05:00+00`.
    pub reason: String,
}

/// Reads the lines of the history of `timeline`, oldest first. Empty lines and comments (`#`) are passed over.
pub fn parse(timeline: Timeline, text: &[u8]) -> Result<Vec<HistoryEntry>, Flaw> {
    let mut entries = Vec::new();
    for (n, line) in String::from_utf8_lossy(text).lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        entries.push(parse_line(line).ok_or(Flaw::Line { line: n + 1 })?);
    }
    check_order(timeline, &entries)?;
    Ok(entries)
}

/// The server reads `%u\t%X/%X`, where blanks are as good as a tab, and takes the rest as the reason.
fn parse_line(line: &str) -> Option<HistoryEntry> {
    let (number, rest) = line.split_once(char::is_whitespace)?;
    let rest = rest.trim_start();
    let (place, reason) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    // `parse` alone would take `+1`.
    let number = if number.starts_with('+') { None } else { number.parse().ok() }?;
    Some(HistoryEntry { timeline: Timeline(number), switch: place.parse().ok()?, reason: reason.trim().to_owned() })
}

fn check_order(target: Timeline, entries: &[HistoryEntry]) -> Result<(), Flaw> {
    let mut after = Timeline(0);
    for found in entries.iter().map(|entry| entry.timeline).chain([target]) {
        if found <= after {
            return Err(Flaw::Order { found, after });
        }
        after = found;
    }
    Ok(())
}

/// The way through the timelines that leads to one of them: what a restore to it replays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ancestry {
    target: Timeline,
    entries: Vec<HistoryEntry>,
}

impl Ancestry {
    /// The way to `target` by its history, oldest line first; without lines it is the first of its cluster.
    pub fn new(target: Timeline, entries: Vec<HistoryEntry>) -> Result<Self, Flaw> {
        check_order(target, &entries)?;
        Ok(Self { target, entries })
    }

    /// Where the way leads.
    pub fn target(&self) -> Timeline {
        self.target
    }

    /// The timelines, oldest first, the target last.
    pub fn timelines(&self) -> impl Iterator<Item = Timeline> {
        self.entries.iter().map(|entry| entry.timeline).chain([self.target])
    }

    /// The timeline of the byte at `lsn`. At a switch point that is the newer one.
    pub fn timeline_of(&self, lsn: Lsn) -> Timeline {
        let left = self.entries.iter().rposition(|entry| entry.switch <= lsn);
        let at = left.map_or(0, |left| left + 1);
        self.entries.get(at).map_or(self.target, |entry| entry.timeline)
    }

    /// Where `timeline` is left: `None` if the way does not touch it, `Some(None)` if it is the target and open at its end.
    pub fn left(&self, timeline: Timeline) -> Option<Option<Lsn>> {
        if timeline == self.target {
            return Some(None);
        }
        self.entries.iter().find(|entry| entry.timeline == timeline).map(|entry| Some(entry.switch))
    }

    /// Whether the log of `timeline` up to `end`, the place behind its last byte, is part of the way: whether a backup that
    /// stopped at `end` can be the start of a restore to the target.
    pub fn reaches(&self, timeline: Timeline, end: Lsn) -> bool {
        self.left(timeline).is_some() && self.timeline_of(Lsn(end.0.saturating_sub(1))) == timeline
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures;
    use super::*;
    use proptest::prelude::*;

    fn entry(timeline: u32, switch: u64) -> HistoryEntry {
        HistoryEntry { timeline: Timeline(timeline), switch: Lsn(switch), reason: String::new() }
    }

    #[test]
    fn a_real_history_says_where_the_timeline_was_left() {
        for version in fixtures::VERSIONS {
            let entries = parse(Timeline(2), &fixtures::bytes(version, "00000002.history")).unwrap();
            // What the standby had replayed when it was promoted.
            let switch: Lsn = fixtures::text(version, "promotion.lsn").trim().parse().unwrap();
            let reason = "no recovery target specified".to_owned();
            assert_eq!(entries, [HistoryEntry { timeline: Timeline(1), switch, reason }], "{version}");
        }
    }

    #[test]
    fn blanks_and_comments_are_passed_over() {
        let text = b"# made by hand\n\n1\t0/5000000\tbefore 2026-11-20 14:05:00+00\n  2 \t 1/A0 \n3\t1/A1\tx";
        let entries = parse(Timeline(4), text).unwrap();
        assert_eq!(entries[0].reason, "before 2026-11-20 14:05:00+00");
        assert_eq!(entries[1], entry(2, 0x1_0000_00A0));
        assert_eq!(entries.len(), 3);
        assert_eq!(parse(Timeline(1), b""), Ok(vec![]));
    }

    #[test]
    fn flaws_name_their_line() {
        for bad in ["x\t0/1\tr", "1", "1\t", "1\tno\tr", "-1\t0/1\tr", "+1\t0/1\tr", "4294967296\t0/1\tr"] {
            let text = format!("# one\n{bad}\n");
            assert_eq!(parse(Timeline(9), text.as_bytes()), Err(Flaw::Line { line: 2 }), "{bad}");
        }
        let order = |found, after| Err(Flaw::Order { found: Timeline(found), after: Timeline(after) });
        assert_eq!(parse(Timeline(9), b"2\t0/1\tr\n2\t0/2\tr"), order(2, 2));
        assert_eq!(parse(Timeline(2), b"1\t0/1\tr\n3\t0/2\tr"), order(2, 3));
        assert_eq!(parse(Timeline(2), b"0\t0/1\tr"), order(0, 0));
    }

    #[test]
    fn a_place_lies_on_the_newest_timeline_that_had_begun() {
        let way = Ancestry::new(Timeline(5), vec![entry(1, 100), entry(3, 200)]).unwrap();
        let at = |lsn| way.timeline_of(Lsn(lsn)).0;
        assert_eq!([at(0), at(99), at(100), at(199), at(200), at(u64::MAX)], [1, 1, 3, 3, 5, 5]);
        assert!(way.reaches(Timeline(1), Lsn(100)), "it stopped where the timeline was left");
        assert!(!way.reaches(Timeline(1), Lsn(101)));
        assert!(!way.reaches(Timeline(2), Lsn(50)), "a timeline beside the way");
        assert!(way.reaches(Timeline(5), Lsn(u64::MAX)) && !way.reaches(Timeline(5), Lsn(200)));
        assert_eq!(way.left(Timeline(3)), Some(Some(Lsn(200))));
        assert_eq!((way.left(Timeline(5)), way.left(Timeline(4))), (Some(None), None));
        assert_eq!(Ancestry::new(Timeline(1), vec![]).unwrap().timeline_of(Lsn(7)), Timeline(1));
    }

    #[test]
    fn a_fork_that_was_never_reached_is_left_behind() {
        let way = Ancestry::new(Timeline(3), vec![entry(1, 200), entry(2, 100)]).unwrap();
        let at = |lsn| way.timeline_of(Lsn(lsn)).0;
        assert_eq!([at(99), at(100), at(150), at(200)], [1, 3, 3, 3]);
    }

    proptest! {
        #[test]
        fn it_agrees_with_the_server(switches in prop::collection::vec(0u64..50, 0..6), lsn in 0u64..60) {
            let entries: Vec<_> = switches.iter().enumerate().map(|(n, at)| entry(n as u32 + 1, *at)).collect();
            let target = Timeline(entries.len() as u32 + 1);
            let way = Ancestry::new(target, entries.clone()).unwrap();
            // `tliOfPointInHistory`: newest first, begin <= place and place < end, where 0 means open.
            let begins = [0].into_iter().chain(switches.iter().copied());
            let ends = switches.iter().copied().chain([0]);
            let rows: Vec<_> = begins.zip(ends).enumerate().collect();
            let found = rows.iter().rev().find(|(_, (begin, end))| {
                (*begin == 0 || *begin <= lsn) && (*end == 0 || lsn < *end)
            });
            // A switch at 0 is none; the server would take it for an open end.
            if !switches.contains(&0) {
                prop_assert_eq!(way.timeline_of(Lsn(lsn)).0, found.unwrap().0 as u32 + 1);
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(timeline: u32, text in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(entries) = parse(Timeline(timeline), &text) {
                prop_assert!(Ancestry::new(Timeline(timeline), entries).is_ok());
            }
        }

        #[test]
        fn what_is_written_is_read(rows in prop::collection::vec((any::<u64>(), "[ -~]{0,40}"), 0..8)) {
            let mut text = String::new();
            for (n, (lsn, reason)) in rows.iter().enumerate() {
                text += &format!("{}\t{}\t{reason}\n\n", n + 1, Lsn(*lsn));
            }
            let found = parse(Timeline(rows.len() as u32 + 1), text.as_bytes()).unwrap();
            prop_assert_eq!(found.len(), rows.len());
            for (entry, (lsn, reason)) in found.iter().zip(&rows) {
                prop_assert_eq!((entry.switch, entry.reason.as_str()), (Lsn(*lsn), reason.trim()));
            }
        }
    }
}
