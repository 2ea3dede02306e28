//! The page of one source: its window, how to restore it, its drills, its snapshots.

use std::fmt::Write;

use super::chart;
use super::helper::{Answer, answer, commands, usual_place, words};
use super::html::{age, badge, begin, end, end_table, moment, ms, table, text};
use super::page::{axis, ranges, stale};
use super::view::{SourceView, View};
use crate::model::Moment;
use crate::model::drill::{DrillRecord, Phase, Verdict};
use crate::words::{count, duration, size};

/// Snapshots and drills that are listed.
const ROWS_MAX: usize = 60;

/// What the form of the restore helper was filled with.
#[derive(Debug, Clone, Default)]
pub(super) struct Asked {
    /// The time, as it was typed; none where nothing was asked.
    pub to: Option<String>,
    /// Where to.
    pub into: Option<String>,
    /// What the time was read as: a moment and its reading, or why it is none.
    pub read: Option<Result<(Option<Moment>, String), String>>,
}

/// The page.
pub(super) fn page(
    view: &View,
    source: &SourceView,
    failing: Option<&(Moment, String)>,
    days: u32,
    asked: &Asked,
    now: Moment,
) -> String {
    let one = &source.status;
    let mut page = begin(&one.source, true, now);
    stale(&mut page, failing, now);
    if one.troubles.is_empty() {
        let _ = writeln!(page, "<p>{}</p>", badge(one.weight()));
    } else {
        page.push_str("<ul class=troubles>");
        for trouble in &one.troubles {
            let _ = write!(page, "<li>{} {}", badge(trouble.weight), text(&trouble.words));
        }
        page.push_str("</ul>\n");
    }
    facts(&mut page, source, now);
    page.push_str("<h2 id=window>What can be restored</h2>\n");
    ranges(&mut page, days);
    page.push_str(&chart::timeline(&[source], axis(days, &[source], now)));
    page.push_str(chart::KEY);
    gaps(&mut page, source);
    restore(&mut page, view, source, asked);
    drills(&mut page, &source.drills);
    page.push_str("<h2 id=growth>Size and growth</h2>\n");
    match one.course.points.is_empty() {
        true => page.push_str("<p class=sub>There is no snapshot.</p>\n"),
        false => {
            page.push_str(&chart::growth(&one.course.points));
            page.push_str(
                "<p class=sub>The line: bytes of each snapshot. The bars: what each added to the store.</p>\n",
            );
            snapshots(&mut page, source);
        }
    }
    end(&mut page, view.made);
    page
}

fn facts(page: &mut String, source: &SourceView, now: Moment) {
    let one = &source.status;
    let groups = if source.groups.is_empty() { "–".to_owned() } else { text(&source.groups.join(", ")) };
    let rows = [
        ("Kind", text(one.kind.as_deref().unwrap_or("no backup yet"))),
        ("Groups", groups),
        ("Newest recovery point", moment(one.newest)),
        ("Its age", format!("{} (RPO {})", age(one.newest, now), ms(one.rpo_limit_ms))),
        ("Oldest recovery point", moment(one.oldest)),
        ("Snapshots", count(one.snapshots)),
        ("Size", size(one.bytes)),
        ("Added to the store by all", size(one.added)),
    ];
    page.push_str("<dl class=facts>");
    for (name, value) in rows {
        let _ = write!(page, "<div><dt>{name}</dt><dd>{value}</dd></div>");
    }
    page.push_str("</dl>\n");
}

fn gaps(page: &mut String, source: &SourceView) {
    if source.status.course.gaps.is_empty() {
        return;
    }
    page.push_str("<ul class=troubles>");
    for (after, until) in &source.status.course.gaps {
        let until = until
            .map_or_else(|| "nothing behind it can be restored".to_owned(), |at| format!("until {}", moment(Some(at))));
        let _ = write!(page, "<li><span class=damaged>GAP</span> behind {}, {until}", moment(Some(*after)));
    }
    page.push_str("</ul>\n");
}

fn restore(page: &mut String, view: &View, source: &SourceView, asked: &Asked) {
    let one = &source.status;
    let into = asked.into.clone().filter(|into| !into.trim().is_empty());
    let into = into.unwrap_or_else(|| usual_place(one.kind.as_deref(), &one.source));
    let to = asked.to.clone().unwrap_or_else(|| "latest".to_owned());
    let _ = write!(
        page,
        "<h2 id=restore>Restore it</h2>\n<form method=get action=\"#restore\"><label>To which time <input name=to value=\"{}\" \
         aria-describedby=times></label><span id=times class=sub>As <code>latest</code>, <code>2h ago</code>, <code>yesterday 18:00</code>, \
         <code>2026-11-20 14:05 Europe/Berlin</code> or <code>2026-11-20T14:05:00Z</code></span><label>Into <input name=into value=\"{}\"></label>\
         <button>Build the commands</button></form>\n",
        text(&to),
        text(&into)
    );
    let at = match &asked.read {
        Some(Err(why)) => {
            let _ = writeln!(page, "<p class=damaged role=alert>{}</p>", text(why));
            return;
        }
        Some(Ok((at, shown))) => {
            let _ = write!(page, "<p role=status>Read as {}. ", text(shown));
            at.to_owned()
        }
        None => {
            page.push_str("<p>");
            None
        }
    };
    let answer = at.or(one.newest).map_or(Answer::Nothing(None), |moment| answer(source, moment));
    let _ = writeln!(page, "{}</p>", text(&words(&answer)));
    if matches!(answer, Answer::Nothing(_)) {
        return;
    }
    page.push_str("<ol>");
    for (command, what) in commands(view, source, at, &into) {
        let _ = write!(page, "<li>{}<pre><code>{}</code></pre>", text(&what), text(&command));
    }
    page.push_str("</ol><p class=sub>Type them on a host with an identity. This page runs nothing.</p>\n");
}

fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Passed => "<span class=\"badge fine\">✓ passed</span>",
        Verdict::DataFailed => "<span class=\"badge damaged\">✗ the data</span>",
        Verdict::RtoMissed => "<span class=\"badge missed\">✗ RTO missed</span>",
        Verdict::RpoMissed => "<span class=\"badge missed\">✗ RPO missed</span>",
        Verdict::NotHeld => "<span class=\"badge warning\">! not held</span>",
    }
}

fn drills(page: &mut String, drills: &[DrillRecord]) {
    page.push_str("<h2 id=drills>Drills</h2>\n");
    if drills.is_empty() {
        page.push_str("<p class=sub>None was held yet: <code>lifeboat drill</code> holds one.</p>\n");
        return;
    }
    table(
        page,
        "The newest drills first",
        &["Began", "Result", "Brought back", "#RTO", "#RPO", "#Checks", "Where the time went"],
    );
    for drill in drills.iter().take(ROWS_MAX) {
        let all = drill.phases.iter().filter(|part| part.phase != Phase::Check);
        let parts: Vec<String> = all
            .filter(|part| part.ms > 0)
            .map(|part| format!("{} {}", part.phase.words(), duration(part.ms as f64 / 1000.0)))
            .collect();
        let passed = drill.checks.iter().filter(|check| check.end == crate::model::drill::CheckEnd::Passed).count();
        let problem = drill.problem.as_ref().map_or(String::new(), |problem| format!(" {}", text(problem)));
        let sabotaged = if drill.sabotaged { " (sabotaged on purpose)" } else { "" };
        let _ = writeln!(
            page,
            "<tr><td>{}<td>{}{problem}{sabotaged}<td>{}<td class=n>{}<td class=n>{}<td class=n>{passed} of {}<td>{}",
            moment(Some(drill.began)),
            verdict(drill.verdict),
            moment(drill.shows),
            ms(drill.rto_ms),
            ms(drill.rpo_ms),
            drill.checks.len(),
            parts.join(", ")
        );
    }
    end_table(page);
}

fn snapshots(page: &mut String, source: &SourceView) {
    let points = &source.status.course.points;
    table(page, "The newest snapshots first", &["Shows", "Snapshot", "State", "#Size", "#Added"]);
    for point in points.iter().rev().take(ROWS_MAX) {
        let mut states = vec![if point.complete { "complete" } else { "not complete" }];
        states.extend(point.held.then_some("ABNORMAL"));
        states.extend(point.pinned.then_some("pinned"));
        let _ = writeln!(
            page,
            "<tr><td>{}<td><code>{}</code><td>{}<td class=n>{}<td class=n>{}",
            moment(Some(point.at)),
            point.id,
            states.join(", "),
            size(point.bytes),
            size(point.added)
        );
    }
    end_table(page);
    if points.len() > ROWS_MAX {
        let _ = writeln!(
            page,
            "<p class=sub>and {} older ones: <code>lifeboat snapshots</code></p>",
            count((points.len() - ROWS_MAX) as u64)
        );
    }
}
