//! One drill as a page that needs nothing else: evidence for somebody who was not there. No script, no font, no request.

use std::fmt::Write;

use super::commands::drill::{end_words, verdict_words};
use super::output::{duration, size};
use crate::model::drill::{DrillRecord, Phase};
use crate::plan::restore::show;
use crate::serve::escaped as text;

/// Drills of the trend that are drawn at most.
const TREND: usize = 60;

const STYLE: &str = "\
:root{color-scheme:light dark;--line:#8884;--good:#2a7d46;--bad:#b3261e;--dim:#777}\
body{font:16px/1.5 system-ui,sans-serif;max-width:56rem;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse;width:100%}\
th,td{text-align:left;padding:.3rem .6rem .3rem 0;border-bottom:1px solid var(--line);vertical-align:top;overflow-wrap:anywhere}\
.verdict{font-weight:700}.good{color:var(--good)}.bad{color:var(--bad)}\
.bar{display:flex;height:2rem;border-radius:4px;overflow:hidden;background:var(--line)}.bar span{display:block;min-width:2px}\
.key{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin-right:.4em}svg{width:100%;height:auto}\
@media(prefers-color-scheme:dark){:root{--good:#7ddc9b;--bad:#ff9a8f;--dim:#999}}";

fn color(phase: Phase) -> &'static str {
    match phase {
        Phase::Plan => "#7c8aa5",
        Phase::Fetch => "#3b78c4",
        Phase::Start => "#8f5fb8",
        Phase::Wait => "#c9a227",
        Phase::Replay => "#2e8b7a",
        Phase::Assert => "#c4623b",
        Phase::Check => "#9a9a9a",
    }
}

fn seconds(ms: u64) -> String {
    duration(ms as f64 / 1000.0)
}

/// The page. `trend` has all drills of the source.
pub fn page(writer: &str, record: &DrillRecord, trend: &[&DrillRecord]) -> String {
    let mut page = String::new();
    let class = if record.verdict.is_green() { "good" } else { "bad" };
    let title = format!("Restore drill of {}", text(&record.source));
    let _ = write!(
        page,
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width,initial-scale=1\">\
         <title>{title}</title><style>{STYLE}</style><main><h1>{title}</h1>\
         <p class=\"verdict {class}\">{}{}</p>",
        verdict_words(record.verdict),
        record.problem.as_ref().map_or(String::new(), |problem| format!(": {}", text(problem)))
    );
    facts(&mut page, writer, record);
    bar(&mut page, record);
    checks(&mut page, record);
    draw_trend(&mut page, trend);
    page.push_str("</main></html>\n");
    page
}

fn facts(page: &mut String, writer: &str, record: &DrillRecord) {
    let limit =
        |limit: Option<u64>| limit.map_or_else(|| "no objective".to_owned(), |ms| format!("objective {}", seconds(ms)));
    let measured = |ms: Option<u64>| ms.map_or_else(|| "not reached".to_owned(), seconds);
    let moment = |moment: Option<crate::model::Moment>| moment.map_or_else(|| "–".to_owned(), show);
    let rows = [
        ("Drill", record.id.to_string()),
        ("Source", format!("{} ({}), noted by {writer}, held on {}", record.source, record.kind, record.host)),
        ("Held", format!("{} to {}", show(record.began), show(record.ended))),
        ("Asked for", format!("{}{}", record.at, record.target.map_or(String::new(), |at| format!(" = {}", show(at))))),
        ("Brought back", moment(record.shows)),
        ("Newest at hand", moment(record.newest)),
        ("Snapshot", record.snapshot.map_or_else(|| "–".to_owned(), |id| id.to_string())),
        ("Time to restore", format!("{} ({})", measured(record.rto_ms), limit(record.rto_limit_ms))),
        ("Age of the newest recovery point", format!("{} ({})", measured(record.rpo_ms), limit(record.rpo_limit_ms))),
        (
            "Moved",
            format!(
                "{} fetched, {} laid down, {} segments",
                size(record.fetched_bytes),
                size(record.restored_bytes),
                record.segments
            ),
        ),
        ("Sabotaged", if record.sabotaged { "yes: a bit was turned around on purpose" } else { "no" }.to_owned()),
    ];
    page.push_str("<table>");
    for (name, value) in rows {
        let _ = write!(page, "<tr><th scope=row>{name}<td>{}", text(&value));
    }
    page.push_str("</table>");
}

fn bar(page: &mut String, record: &DrillRecord) {
    let all: u64 = record.phases.iter().map(|part| part.ms).sum::<u64>().max(1);
    page.push_str("<h2>Phases</h2><div class=bar role=img aria-label=\"how long each phase took; the table below has the figures\">");
    for part in &record.phases {
        let share = part.ms as f64 * 100.0 / all as f64;
        let _ = write!(page, "<span style=\"width:{share:.2}%;background:{}\"></span>", color(part.phase));
    }
    page.push_str("</div><table><tr><th>Phase<th>Took<th>Part of the time to restore");
    for part in &record.phases {
        let counts = if part.phase == Phase::Check { "no" } else { "yes" };
        let (color, words) = (color(part.phase), part.phase.words());
        let _ = write!(
            page,
            "<tr><td><span class=key style=\"background:{color}\"></span>{words}<td>{}<td>{counts}",
            seconds(part.ms)
        );
    }
    page.push_str("</table>");
}

fn checks(page: &mut String, record: &DrillRecord) {
    page.push_str("<h2>Checks</h2><table><tr><th>Check<th>End<th>What was found<th>Took");
    for check in &record.checks {
        let words = [text(&check.name), end_words(check.end).to_owned(), text(&check.detail), seconds(check.ms)];
        let _ = write!(page, "<tr><td>{}", words.join("<td>"));
    }
    page.push_str("</table>");
}

/// Time to restore over the drills, the oldest left.
fn draw_trend(page: &mut String, trend: &[&DrillRecord]) {
    let mut points: Vec<&&DrillRecord> =
        trend.iter().filter(|record| record.rto_ms.is_some() && !record.sabotaged).collect();
    points.sort_by_key(|record| record.began);
    let points = &points[points.len().saturating_sub(TREND)..];
    let Some(highest) = points.iter().filter_map(|record| record.rto_ms).max() else { return };
    let width = 600 / points.len().max(1);
    page.push_str("<h2>Time to restore, drill by drill</h2><svg viewBox=\"0 0 600 120\" role=img aria-label=\"time to restore of each drill\">");
    for (n, record) in points.iter().enumerate() {
        let ms = record.rto_ms.unwrap_or(0);
        let height = (ms * 100 / highest.max(1)).max(1);
        let fill = if record.verdict.is_green() { "var(--good)" } else { "var(--bad)" };
        let _ = write!(
            page,
            "<rect x={} y={} width={} height={height} fill=\"{fill}\"><title>{}: {}</title></rect>",
            n * width,
            110 - height,
            width.saturating_sub(2).max(1),
            show(record.began),
            seconds(ms)
        );
    }
    let _ =
        write!(page, "</svg><p>The highest is {}; each bar is a drill, the newest on the right.</p>", seconds(highest));
}
