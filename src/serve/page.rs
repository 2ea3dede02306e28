//! The overview: all sources, what is wrong, what ran.

use std::fmt::Write;

use chrono::TimeDelta;

use super::chart::{self, Axis};
use super::html::{age, badge, begin, end, end_table, moment, ms, path, state, table, text};
use super::view::{SourceView, View};
use crate::model::Moment;
use crate::notify::Run;
use crate::ops::status::Weight;
use crate::words::{count, counted, duration, size};

/// Ranges that the time line has, in days; 0 for all.
const RANGES: [(u32, &str); 6] =
    [(1, "a day"), (7, "a week"), (30, "a month"), (90, "three months"), (365, "a year"), (0, "all")];
/// Runs that are shown.
const RUNS_MAX: usize = 40;
/// Troubles at the top.
const TROUBLES_MAX: usize = 12;

/// The range of a request.
pub(super) fn days(asked: Option<&str>) -> u32 {
    let asked = asked.and_then(|text| text.parse().ok());
    asked.filter(|days| RANGES.iter().any(|(known, _)| known == days)).unwrap_or(30)
}

/// From when to when is drawn.
pub(super) fn axis(days: u32, sources: &[&SourceView], now: Moment) -> Axis {
    let first = sources.iter().filter_map(|source| source.status.course.points.first()).map(|point| point.at).min();
    let all = first.unwrap_or(now - TimeDelta::days(1)).min(now - TimeDelta::hours(1));
    let from = if days == 0 { all } else { now - TimeDelta::days(i64::from(days)) };
    Axis { from, to: now }
}

/// Links to the other ranges.
pub(super) fn ranges(page: &mut String, days: u32) {
    page.push_str("<nav class=ranges aria-label=\"how much time is shown\">");
    for (range, words) in RANGES {
        let current = if range == days { " aria-current=true" } else { "" };
        let _ = write!(page, "<a href=\"?days={range}\"{current}>{words}</a>");
    }
    page.push_str("</nav>\n");
}

/// That the store could not be read of late.
pub(super) fn stale(page: &mut String, failing: Option<&(Moment, String)>, now: Moment) {
    if let Some((since, why)) = failing {
        let _ = writeln!(
            page,
            "<div class=\"banner damaged\" role=alert><strong>This page is old.</strong><p>The repository cannot be read since {} ({}): {}</p></div>",
            moment(Some(*since)),
            age(Some(*since), now),
            text(why)
        );
    }
}

/// The page.
pub(super) fn overview(view: &View, failing: Option<&(Moment, String)>, days: u32, now: Moment) -> String {
    let mut page = begin(&format!("lifeboat on {}", view.host), false, now);
    stale(&mut page, failing, now);
    banner(&mut page, view);
    facts(&mut page, view);
    sources(&mut page, view, now);
    let all: Vec<&SourceView> = view.sources.iter().collect();
    if !all.is_empty() {
        page.push_str("<h2 id=windows>What can be restored</h2>\n");
        ranges(&mut page, days);
        page.push_str(&chart::timeline(&all, axis(days, &all, now)));
        page.push_str(chart::KEY);
    }
    copies(&mut page, view);
    jobs(&mut page, view);
    runs(&mut page, &view.runs);
    end(&mut page, view.made);
    page
}

fn banner(page: &mut String, view: &View) {
    let worst = view.worst();
    let (class, _) = state(worst);
    if view.sources.is_empty() {
        page.push_str(
            "<div class=\"banner warning\"><strong>There is no backup yet.</strong><p>The first one: <code>lifeboat backup --all</code></p></div>\n",
        );
    } else if worst == Weight::Fine {
        page.push_str("<div class=\"banner fine\" role=status><strong>✓ Every source can be restored, and every objective is met.</strong></div>\n");
        return;
    }
    let mut lines: Vec<(Weight, String)> = Vec::new();
    for source in &view.sources {
        let name = &source.status.source;
        let link = format!("<a href=\"/source/{}\">{}</a>", path(name), text(name));
        lines.extend(
            source.status.troubles.iter().map(|trouble| (trouble.weight, format!("{link}: {}", text(&trouble.words)))),
        );
    }
    let copies = view.copies.iter().filter_map(|copy| Some((copy.state, copy.name.as_str(), copy.words.as_deref()?)));
    lines.extend(copies.map(|(weight, name, words)| (weight, format!("copy {}: {}", text(name), text(words)))));
    lines.extend(view.problems.iter().map(|(weight, words)| (*weight, text(words))));
    if lines.is_empty() {
        return;
    }
    lines.sort_by_key(|(weight, _)| std::cmp::Reverse(*weight));
    let troubles = counted(lines.len() as u64, "thing is not as it should be", "things are not as they should be");
    let _ = write!(page, "<div class=\"banner {class}\" role=alert><strong>{troubles}</strong><ul class=troubles>");
    for (weight, line) in lines.iter().take(TROUBLES_MAX) {
        let _ = write!(page, "<li>{} {line}", badge(*weight));
    }
    if lines.len() > TROUBLES_MAX {
        let _ = write!(page, "<li>and {} more", lines.len() - TROUBLES_MAX);
    }
    page.push_str("</ul></div>\n");
}

fn facts(page: &mut String, view: &View) {
    let totals = &view.totals;
    let times = |more: u64, less: u64| match less {
        0 => "–".to_owned(),
        less => format!("{:.1} times", more as f64 / less as f64),
    };
    let rows = [
        ("Repository", text(&view.repository)),
        ("Last check", text(&view.checked)),
        ("Snapshots", count(totals.snapshots)),
        ("In the store", size(totals.stored)),
        ("All snapshots laid down", size(totals.restorable)),
        ("Saved by deduplication", times(totals.restorable, totals.unique)),
        ("Saved by compression", times(totals.unique, totals.stored)),
    ];
    page.push_str("<dl class=facts>");
    for (name, value) in rows {
        let _ = write!(page, "<div><dt>{name}</dt><dd>{value}</dd></div>");
    }
    page.push_str("</dl>\n");
}

fn sources(page: &mut String, view: &View, now: Moment) {
    if view.sources.is_empty() {
        return;
    }
    page.push_str("<h2 id=sources>Sources</h2>\n");
    let mut part = String::new();
    let heads =
        ["Source", "State", "Newest recovery point", "#Its age", "#RPO", "Last drill", "#RTO", "#Snapshots", "#Size"];
    table(&mut part, "How every source stands", &heads);
    page.push_str(&part.replacen("<table>", "<table class=cards>", 1));
    for source in &view.sources {
        let one = &source.status;
        let drill = match (one.passed, &one.drill) {
            (Some(passed), _) => format!("passed {} ago", age(Some(passed), now)),
            (None, Some(_)) => "<span class=damaged>none passed</span>".to_owned(),
            (None, None) => "<span class=warning>never</span>".to_owned(),
        };
        let rto = one.drill.and_then(|drill| drill.rto_ms);
        let cells = [
            ("State", "", badge(one.weight())),
            ("Newest", "", moment(one.newest)),
            ("Its age", " class=n", age(one.newest, now)),
            ("RPO", " class=n", ms(one.rpo_limit_ms)),
            ("Last drill", "", drill),
            ("RTO", " class=n", ms(rto)),
            ("Snapshots", " class=n", count(one.snapshots)),
            ("Size", " class=n", size(one.bytes)),
        ];
        let kind = one.kind.as_deref().unwrap_or("no backup yet");
        let _ = write!(
            page,
            "<tr><th scope=row><a href=\"/source/{}\">{}</a> <span class=sub>{}</span>",
            path(&one.source),
            text(&one.source),
            text(kind)
        );
        for (head, class, value) in cells {
            let _ = write!(page, "<td{class} data-head=\"{head}\"><span>{value}</span>");
        }
        page.push('\n');
    }
    end_table(page);
}

fn copies(page: &mut String, view: &View) {
    if view.copies.is_empty() {
        return;
    }
    page.push_str("<h2 id=copies>Copies</h2>\n");
    table(page, "Second repositories", &["Copy", "State", "Brought up to date", "#Snapshots"]);
    for copy in &view.copies {
        let at = copy.at.map_or_else(|| "never".to_owned(), |at| moment(Some(at)));
        let _ = writeln!(
            page,
            "<tr><th scope=row>{}<td>{}<td>{at}<td class=n>{}",
            text(&copy.name),
            badge(copy.state),
            count(copy.snapshots)
        );
    }
    end_table(page);
}

fn jobs(page: &mut String, view: &View) {
    if view.jobs.is_empty() {
        return;
    }
    page.push_str("<h2 id=jobs>Jobs of the agent</h2>\n");
    table(page, "What runs when", &["Job", "Runs", "When", "Next", "Last"]);
    for job in &view.jobs {
        let next = if job.running { "runs now".to_owned() } else { moment(job.next) };
        let _ = writeln!(
            page,
            "<tr><th scope=row>{}<td><code>{}</code><td><code>{}</code><td>{next}<td>{}",
            text(&job.name),
            text(&job.words),
            text(&job.at),
            job.last_code.map_or_else(|| "–".to_owned(), code)
        );
    }
    end_table(page);
}

/// An exit code with its word.
fn code(code: u8) -> String {
    let (class, words) = match code {
        0 => ("fine", "✓ done".to_owned()),
        3 => ("warning", "! not complete".to_owned()),
        130 => ("warning", "! interrupted".to_owned()),
        code => ("damaged", format!("✗ exit code {code}")),
    };
    format!("<span class=\"badge {class}\">{words}</span>")
}

fn runs(page: &mut String, runs: &[Run]) {
    page.push_str("<h2 id=runs>What ran on this host</h2>\n");
    if runs.is_empty() {
        page.push_str("<p class=sub>Nothing yet.</p>\n");
        return;
    }
    table(page, "The newest runs first", &["Began", "Command", "End", "#Took", "What it said"]);
    for run in runs.iter().take(RUNS_MAX) {
        let took = duration((run.ended - run.began).num_milliseconds().max(0) as f64 / 1000.0);
        let mut said: Vec<String> = run.error.iter().map(|error| text(error)).collect();
        let parts = run.sources.iter().filter(|part| part.exit_code != 0);
        said.extend(parts.map(|part| {
            let why = part.error.as_deref().unwrap_or("not complete");
            format!("{}: {}", text(&part.source), text(why))
        }));
        said.extend(run.warnings.iter().map(|warning| format!("warning: {}", text(warning))));
        let said = match said.len() {
            0 => String::new(),
            1 => said.concat(),
            lines => {
                format!("<details><summary>{lines} messages</summary><ul><li>{}</ul></details>", said.join("<li>"))
            }
        };
        let _ = writeln!(
            page,
            "<tr><td>{}<td><code>{}</code><td>{}<td class=n>{took}<td>{said}",
            moment(Some(run.began)),
            text(&run.command),
            code(run.exit_code)
        );
    }
    end_table(page);
}
