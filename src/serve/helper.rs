//! The restore helper: for a source and a time, what comes back and the exact commands. It never runs them.

use chrono::TimeDelta;

use super::view::{SourceView, View};
use crate::model::Moment;
use crate::plan::restore::show;
use crate::words::duration;

/// What comes back for a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// Exactly that moment.
    Exactly(Moment),
    /// What a snapshot before it shows.
    Before {
        /// What it shows.
        shows: Moment,
        /// By how much it is older.
        by: TimeDelta,
    },
    /// Nothing; the first that can be had, where there is one.
    Nothing(Option<Moment>),
}

/// What a restore to a moment brings back.
pub(super) fn answer(source: &SourceView, at: Moment) -> Answer {
    let course = &source.status.course;
    if course.spans.iter().any(|(from, to)| *from <= at && at <= *to) {
        return Answer::Exactly(at);
    }
    let points = course.points.iter().filter(|point| point.complete).map(|point| point.at);
    let ends = course.spans.iter().map(|(_, to)| *to);
    match points.clone().chain(ends).filter(|end| *end <= at).max() {
        Some(shows) if shows == at => Answer::Exactly(at),
        Some(shows) => Answer::Before { shows, by: at - shows },
        None => Answer::Nothing(points.chain(course.spans.iter().map(|(from, _)| *from)).min()),
    }
}

/// The answer in words.
pub(super) fn words(answer: &Answer) -> String {
    match answer {
        Answer::Exactly(at) => format!("The state of exactly {} comes back.", show(*at)),
        Answer::Before { shows, by } => format!(
            "The newest state before it comes back: {}, {} older than asked.",
            show(*shows),
            duration(by.num_milliseconds() as f64 / 1000.0)
        ),
        Answer::Nothing(Some(first)) => {
            format!("Nothing restores that time. The earliest that can be had: {}.", show(*first))
        }
        Answer::Nothing(None) => "Nothing can be restored yet.".to_owned(),
    }
}

/// A word for a shell.
pub fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+=,".contains(c);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

/// Where a source of a kind is restored to where nobody says.
pub(super) fn usual_place(kind: Option<&str>, source: &str) -> String {
    match kind {
        Some("convex") => format!("{source}.zip"),
        _ => format!("/srv/restored/{source}"),
    }
}

/// The commands: first the plan, then the deed, each with what it does.
pub(super) fn commands(view: &View, source: &SourceView, at: Option<Moment>, into: &str) -> Vec<(String, String)> {
    let name = quoted(&source.status.source);
    let to = at.map_or_else(|| "latest".to_owned(), |at| at.format("%Y-%m-%dT%H:%M:%S%.fZ").to_string());
    let base = format!("{} restore {name} --to {} --into {}", view.program, quoted(&to), quoted(into));
    let kind = source.status.kind.as_deref();
    let (more, deed) = match kind {
        Some("postgres") => {
            (" --start", "Lays the cluster down, starts it there, replays to the moment and says where it stands.")
        }
        Some("pg_dump") => ("", "Writes the dumps as files; `--into postgresql://USER@HOST` loads them into a server."),
        Some("convex") => {
            ("", "Writes an archive for `npx convex import`; `--into http://HOST:3210` fills an empty deployment.")
        }
        _ => (" --verify", "Restores, reads everything again and compares digests."),
    };
    vec![
        (
            format!("{base} --dry-run"),
            "Shows the plan: what comes back, how much is fetched, how long it will take.".to_owned(),
        ),
        (format!("{base}{more}"), deed.to_owned()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quoted("app-db"), "app-db");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("x'; rm -rf / #"), "'x'\\''; rm -rf / #'");
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted("$HOME"), "'$HOME'");
    }
}
