//! Drawings: what of the past can be restored, and how much it is.
//!
//! Invariants: a drawing is bounded by its width, not by what there is to draw: marks that would fall on the same pixels are one; what it
//! shows is said in words beside it.

use std::fmt::Write;

use super::html::{path, text};
use super::view::SourceView;
use crate::model::Moment;
use crate::ops::status::Point;
use crate::plan::restore::show;
use crate::words::{count, counted, size};

/// Units of a drawing's width, and of the names on its left.
const WIDTH: f64 = 1000.0;
const LABEL: f64 = 150.0;
/// Height of a row, and of its track.
const ROW: f64 = 30.0;
const TRACK: f64 = 16.0;
/// Characters of a name that fit.
const NAME_MAX: usize = 22;

/// A stretch of time on paper.
#[derive(Debug, Clone, Copy)]
pub(super) struct Axis {
    pub from: Moment,
    pub to: Moment,
}

impl Axis {
    fn x(self, at: Moment) -> f64 {
        let all = (self.to - self.from).num_milliseconds().max(1) as f64;
        let part = (at - self.from).num_milliseconds() as f64 / all;
        LABEL + part.clamp(0.0, 1.0) * (WIDTH - LABEL)
    }

    fn holds(self, at: Moment) -> bool {
        self.from <= at && at <= self.to
    }

    /// Lines at round times, with their words.
    fn grid(self, drawing: &mut String, height: f64) {
        let hours = (self.to - self.from).num_hours();
        let (step, format) = match hours {
            ..=2 => (chrono::TimeDelta::minutes(15), "%H:%M"),
            3..=12 => (chrono::TimeDelta::hours(1), "%H:%M"),
            13..=48 => (chrono::TimeDelta::hours(6), "%d %b %H:%M"),
            49..=240 => (chrono::TimeDelta::days(1), "%d %b"),
            241..=1200 => (chrono::TimeDelta::days(7), "%d %b"),
            1201..=5000 => (chrono::TimeDelta::days(28), "%d %b"),
            5001..=20_000 => (chrono::TimeDelta::days(91), "%b %Y"),
            _ => (chrono::TimeDelta::milliseconds((self.to - self.from).num_milliseconds() / 8), "%b %Y"),
        };
        let step_s = step.num_seconds().max(1);
        let first = self.from.timestamp().div_euclid(step_s) * step_s + step_s;
        let times = (0..40).filter_map(|n| Moment::from_timestamp(first + n * step_s, 0));
        for at in times.take_while(|at| *at < self.to) {
            let x = self.x(at);
            let _ = write!(
                drawing,
                "<path class=grid d=\"M{x:.0} 0V{height:.0}\"/><text x={:.0} y={:.0}>{}</text>",
                x + 3.0,
                height + 12.0,
                at.format(format)
            );
        }
    }
}

/// Ticks at times, those on the same pixels once.
fn ticks(axis: Axis, times: impl Iterator<Item = Moment>, top: f64) -> String {
    let mut columns: Vec<i64> =
        times.filter(|at| axis.holds(*at)).map(|at| (axis.x(at) / 2.0).round() as i64).collect();
    columns.sort_unstable();
    columns.dedup();
    let mut line = String::new();
    for column in columns {
        let _ = write!(line, "M{} {top:.0}v{TRACK:.0}", column * 2);
    }
    line
}

/// Rectangles over stretches of time, those that touch on paper as one.
fn stretches(axis: Axis, spans: impl Iterator<Item = (Moment, Moment)>) -> Vec<(f64, f64)> {
    let mut all: Vec<(f64, f64)> = Vec::new();
    let seen = spans.filter(|(from, to)| *to >= axis.from && *from <= axis.to);
    for (from, to) in seen.map(|(from, to)| (axis.x(from), axis.x(to))) {
        match all.last_mut().filter(|last| from - last.1 < 0.5) {
            Some(last) => last.1 = last.1.max(to),
            None => all.push((from, to)),
        }
    }
    all
}

/// The course of sources, a row each.
pub(super) fn timeline(sources: &[&SourceView], axis: Axis) -> String {
    let height = sources.len() as f64 * ROW;
    let mut drawing = format!(
        "<svg viewBox=\"0 0 {WIDTH:.0} {:.0}\" role=img aria-label=\"{}\">",
        height + 18.0,
        text(&in_words(sources, axis))
    );
    axis.grid(&mut drawing, height);
    for (n, source) in sources.iter().enumerate() {
        row(&mut drawing, source, axis, n as f64 * ROW + (ROW - TRACK) / 2.0);
    }
    drawing.push_str("</svg>\n");
    drawing
}

fn row(drawing: &mut String, source: &SourceView, axis: Axis, top: f64) {
    let (name, course) = (&source.status.source, &source.status.course);
    let mut short: String = name.chars().take(NAME_MAX).collect();
    if short.len() < name.len() {
        short.push('…');
    }
    let _ = write!(
        drawing,
        "<a href=\"/source/{}\"><text x=0 y={:.0}>{}</text></a><rect class=track x={LABEL:.0} y={top:.0} width={:.0} height={TRACK:.0} rx=2 />",
        path(name),
        top + 12.0,
        text(&short),
        WIDTH - LABEL
    );
    for (from, to) in stretches(axis, course.spans.iter().copied()) {
        let width = (to - from).max(1.0);
        let _ = write!(
            drawing,
            "<rect class=span x={from:.1} y={:.0} width={width:.1} height={:.0} />",
            top + 3.0,
            TRACK - 6.0
        );
    }
    for (after, until) in &course.gaps {
        let to = until.unwrap_or(axis.to);
        if to < axis.from || *after > axis.to {
            continue;
        }
        let (x, width) = (axis.x(*after), (axis.x(to) - axis.x(*after)).max(3.0));
        let _ = write!(
            drawing,
            "<rect class=gap x={x:.1} y={:.0} width={width:.1} height=4><title>GAP behind {}</title></rect>",
            top + TRACK / 2.0 - 2.0,
            text(&show(*after))
        );
    }
    let (whole, half): (Vec<&Point>, Vec<&Point>) =
        course.points.iter().partition(|point| point.complete && !point.held);
    for (class, points) in [("tick", whole), ("half", half)] {
        let line = ticks(axis, points.iter().map(|point| point.at), top);
        if !line.is_empty() {
            let _ = write!(drawing, "<path class={class} d=\"{line}\"/>");
        }
    }
    for good in [true, false] {
        let drills = source.drills.iter().filter(|drill| !drill.sabotaged && drill.verdict.is_green() == good);
        let mut columns: Vec<i64> =
            drills.map(|drill| drill.began).filter(|at| axis.holds(*at)).map(|at| axis.x(at) as i64 / 3 * 3).collect();
        columns.sort_unstable();
        columns.dedup();
        let diamonds = columns.iter().fold(String::new(), |mut line, x| {
            let _ = write!(line, "M{x} {:.0}l4 4l-4 4l-4-4z", top - 5.0);
            line
        });
        if !diamonds.is_empty() {
            let _ = write!(drawing, "<path class={} d=\"{diamonds}\"/>", if good { "good" } else { "ill" });
        }
    }
}

fn in_words(sources: &[&SourceView], axis: Axis) -> String {
    let of = |source: &&SourceView| {
        let course = &source.status.course;
        let points = course.points.iter().filter(|point| axis.holds(point.at)).count() as u64;
        let gaps = course.gaps.len() as u64;
        let any = match (course.spans.first(), course.spans.last()) {
            (Some((from, _)), Some((_, to))) => format!("any moment from {} to {}, ", show(*from), show(*to)),
            _ => String::new(),
        };
        let gaps = if gaps == 0 { String::new() } else { format!(", {}", counted(gaps, "gap", "gaps")) };
        format!("{}: {any}{}{gaps}", source.status.source, counted(points, "snapshot", "snapshots"))
    };
    let all: Vec<String> = sources.iter().take(20).map(of).collect();
    format!("From {} to {}. {}", show(axis.from), show(axis.to), all.join("; "))
}

/// What the signs mean.
pub(super) const KEY: &str = "<p class=\"key sub\"><span><i class=k-span></i>any moment</span><span><i class=k-tick></i>snapshot</span>\
    <span><i class=k-gap></i>gap</span><span><i class=k-good></i>drill passed</span><span><i class=k-ill></i>drill failed</span></p>\n";

/// How much a source is, and what each snapshot added.
pub(super) fn growth(points: &[Point]) -> String {
    const HEIGHT: f64 = 160.0;
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return String::new() };
    let most = points.iter().map(|point| point.bytes.max(point.added)).max().unwrap_or(0).max(1) as f64;
    let axis = Axis { from: first.at, to: last.at.max(first.at + chrono::TimeDelta::seconds(1)) };
    let y = |bytes: u64| HEIGHT - bytes as f64 / most * (HEIGHT - 8.0);
    let label = format!(
        "Size of each of {} snapshots from {} to {}: first {}, last {}; together they added {}",
        count(points.len() as u64),
        show(first.at),
        show(last.at),
        size(first.bytes),
        size(last.bytes),
        size(points.iter().map(|point| point.added).sum())
    );
    let mut drawing =
        format!("<svg viewBox=\"0 0 {WIDTH:.0} {:.0}\" role=img aria-label=\"{}\">", HEIGHT + 18.0, text(&label));
    axis.grid(&mut drawing, HEIGHT);
    let _ = write!(
        drawing,
        "<text x=0 y=12>{}</text><text x=0 y={HEIGHT:.0}>0</text><path class=added d=\"",
        size(most as u64)
    );
    // For each column of two units what was added there, and the last size.
    let mut columns: std::collections::BTreeMap<i64, (u64, u64)> = std::collections::BTreeMap::new();
    for point in points {
        let column = columns.entry((axis.x(point.at) / 2.0).round() as i64).or_default();
        *column = (column.0.saturating_add(point.added), point.bytes);
    }
    for (column, (added, _)) in &columns {
        let top = y(*added).max(8.0);
        let _ = write!(drawing, "M{} {HEIGHT:.0}V{top:.0}h2V{HEIGHT:.0}z", column * 2 - 1);
    }
    drawing.push_str("\"/><path class=bytes d=\"");
    for (n, (column, (_, bytes))) in columns.iter().enumerate() {
        let _ = write!(drawing, "{}{} {:.0}", if n == 0 { 'M' } else { 'L' }, column * 2, y(*bytes));
    }
    drawing.push_str("\"/></svg>\n");
    drawing
}
