//! A recovery window as one scaled line of text: base backups, what lies between them, gaps, forks; and what the signs mean.

use std::io::IsTerminal;

use crate::model::Moment;
use crate::plan::coverage::Coverage;

/// Columns of a line where the terminal does not say, and the fewest and the most that are used.
const WIDTH: usize = 80;
const WIDTHS: std::ops::RangeInclusive<usize> = 40..=120;
/// What stands before the line, as before every line of the answer.
const LABEL: usize = 10;

/// What is drawn with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signs {
    base: char,
    pending: char,
    covered: char,
    gap: char,
    fork: char,
    nothing: char,
}

const UNICODE: Signs = Signs { base: '●', pending: '○', covered: '━', gap: '╳', fork: '┳', nothing: '·' };
const ASCII: Signs = Signs { base: 'B', pending: 'o', covered: '=', gap: 'X', fork: 'Y', nothing: '.' };

/// The signs that this terminal shows, by its locale.
pub fn signs() -> Signs {
    let set = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(|name| std::env::var(name).ok().filter(|v| !v.is_empty()));
    let set = set.unwrap_or_default().to_ascii_uppercase();
    if set.contains("UTF-8") || set.contains("UTF8") { UNICODE } else { ASCII }
}

/// Columns of this terminal; COLUMNS where that is set.
pub fn width() -> usize {
    let set = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
    let asked = || {
        let out = std::io::stdout();
        let size = out.is_terminal().then(|| rustix::termios::tcgetwinsize(&out).ok()).flatten();
        size.map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0)
    };
    set.or_else(asked).unwrap_or(WIDTH).clamp(*WIDTHS.start(), *WIDTHS.end())
}

/// The line, its scale, and what its signs mean. Nothing where there is nothing to draw.
pub fn draw(coverage: &Coverage, width: usize, signs: Signs) -> Vec<String> {
    let moments = coverage.bases.iter().map(|mark| mark.at).chain(coverage.spans.iter().map(|span| span.to));
    let (Some(first), Some(last)) = (moments.clone().min(), moments.max()) else { return Vec::new() };
    let columns = width.saturating_sub(LABEL).max(2);
    let total = (last - first).num_microseconds().unwrap_or(i64::MAX).max(1) as f64;
    let column = |moment: Moment| {
        let part = (moment - first).num_microseconds().unwrap_or(i64::MAX).max(0) as f64 / total;
        ((part * (columns - 1) as f64).round() as usize).min(columns - 1)
    };
    let mut line = vec![signs.nothing; columns];
    for span in &coverage.spans {
        line[column(span.from)..=column(span.to)].fill(signs.covered);
    }
    for gap in &coverage.gaps {
        // However short, it has a column of its own, where its base backup leaves one.
        let from = (column(gap.after) + 1).min(columns - 1);
        let until = gap.until.map_or(columns, column);
        line[from..until.max(from + 1).min(columns)].fill(signs.gap);
    }
    for time in coverage.forks.iter().filter_map(|fork| fork.time).filter(|time| *time >= first) {
        line[column(time)] = signs.fork;
    }
    for mark in &coverage.bases {
        line[column(mark.at)] = if mark.complete { signs.base } else { signs.pending };
    }
    let all = [
        (signs.base, "base backup"),
        (signs.covered, "any moment"),
        (signs.pending, "pending"),
        (signs.gap, "GAP"),
        (signs.fork, "fork"),
    ];
    let meanings: Vec<String> =
        all.iter().filter(|(sign, _)| line.contains(sign)).map(|(sign, meaning)| format!("{sign} {meaning}")).collect();
    let label = |text: &str| format!("{text:<LABEL$}");
    let scale = |moment: Moment| moment.format("%Y-%m-%d %H:%M:%SZ").to_string();
    let (left, right) = (scale(first), scale(last));
    let between = columns.saturating_sub(left.len() + right.len());
    let scale = if between == 0 || first == last { left } else { format!("{left}{}{right}", " ".repeat(between)) };
    vec![
        format!("{}{}", label("window"), line.iter().collect::<String>()),
        format!("{}{scale}", label("")),
        format!("{}{}", label(""), meanings.join("   ")),
    ]
}

#[cfg(test)]
mod tests {
    use chrono::{TimeZone, Utc};

    use super::*;
    use crate::model::SnapshotId;
    use crate::model::lsn::{Lsn, SegmentName, SegmentSize, Timeline};
    use crate::plan::coverage::{Branch, Gap, Mark, Span};

    fn at(second: i64) -> Moment {
        Utc.timestamp_opt(1_700_000_000 + second, 0).unwrap()
    }

    fn mark(second: i64, complete: bool) -> Mark {
        Mark { snapshot: SnapshotId::new(1, [0; 10]), at: at(second), complete, damaged_pages: 0 }
    }

    #[test]
    fn a_window_is_drawn_to_scale() {
        let missing = SegmentName::holding(Timeline(1), Lsn(0), SegmentSize::DEFAULT);
        let coverage = Coverage {
            window: Some(Span { from: at(0), to: at(290) }),
            spans: vec![Span { from: at(0), to: at(100) }, Span { from: at(150), to: at(290) }],
            bases: vec![mark(0, true), mark(50, true), mark(150, true), mark(250, false)],
            gaps: vec![Gap { missing, after: at(100), until: Some(at(150)) }],
            forks: vec![Branch { timeline: Timeline(2), parent: Timeline(1), at: Lsn(1), time: Some(at(200)) }],
        };
        assert_eq!(
            draw(&coverage, 40, ASCII),
            [
                "window    B====B=====XXXXB====Y====o====",
                "          2023-11-14 22:13:20Z",
                "          B base backup   = any moment   o pending   X GAP   Y fork",
            ]
        );
        let wide = draw(&coverage, 80, UNICODE);
        assert!(wide[0].starts_with("window    ●━━━━"), "{wide:?}");
        assert_eq!(wide[0].chars().count(), 80);
        assert_eq!(wide[1].len(), 80, "both ends stand at their places");
    }

    #[test]
    fn a_gap_that_is_shorter_than_a_column_is_seen() {
        let missing = SegmentName::holding(Timeline(1), Lsn(0), SegmentSize::DEFAULT);
        let coverage = Coverage {
            spans: vec![Span { from: at(0), to: at(100) }, Span { from: at(101), to: at(100_000) }],
            bases: vec![mark(0, true)],
            gaps: vec![Gap { missing, after: at(100), until: Some(at(101)) }],
            ..Coverage::default()
        };
        assert!(draw(&coverage, 40, ASCII)[0].contains('X'));
    }

    #[test]
    fn one_moment_and_none_are_drawn_too() {
        let coverage = Coverage { bases: vec![mark(0, false)], ..Coverage::default() };
        assert!(draw(&coverage, 40, ASCII)[0].starts_with("window    o...."));
        assert!(draw(&Coverage::default(), 40, ASCII).is_empty());
    }
}
