//! How every source stands: its newest recovery point and its age against the objective, its window, its last drill, what is wrong.
//!
//! Read from the catalog, and of clusters from the listing of their log; nothing is fetched. Not here: whether the source itself can be
//! backed up now (`ops::live`); what that saw when it last looked is told.

mod store;

use std::collections::HashMap;

use serde::Serialize;

pub use self::store::{LastCheck, StoreStatus, store};
use super::Error;
use super::cluster::{Which, gather};
use super::documents;
use crate::catalog::{BriefRow, DrillRow};
use crate::model::documents::moment_of;
use crate::model::drill::Verdict;
use crate::model::sight::{self, Sight};
use crate::model::{Moment, SnapshotId};
use crate::plan::coverage::Coverage;
use crate::plan::documents::RunEnd;
use crate::plan::recovery::Aim;
use crate::plan::restore::show;
use crate::repository::Repository;

/// What a source must meet, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Age of the newest recovery point.
    pub rpo_ms: Option<u64>,
    /// Time to restore.
    pub rto_ms: Option<u64>,
    /// Age of the last drill that passed.
    pub drill_ms: Option<u64>,
}

/// How long a deployment keeps changes where nobody asked it, in hours: `DOCUMENT_RETENTION_DELAY` of the compose file that it comes with.
const REACH_HOURS: u64 = 48;

/// How grave something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Weight {
    /// Nothing is wrong.
    Fine,
    /// Somebody should look, one of these days.
    Warning,
    /// An objective is missed.
    Missed,
    /// What should be there cannot be restored.
    Damaged,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Trouble {
    /// How grave it is.
    pub weight: Weight,
    /// What kind it is, for programs: `no-snapshot`, `rpo`, `rto`, `incomplete`, `pending`, `gap`, `damaged`, `abnormal`, `drill`, `drill-failed`,
    /// `slot`, `live`, `cursor`; of the store `log`, `recipients`, `check`.
    pub kind: &'static str,
    /// In words.
    pub words: String,
}

/// The last drill of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LastDrill {
    /// Its id.
    pub id: SnapshotId,
    /// When it began.
    pub began: Moment,
    /// How it ended.
    pub verdict: Verdict,
    /// How long the restore took.
    pub rto_ms: Option<u64>,
}

/// A snapshot on a source's course.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// Its id.
    pub id: SnapshotId,
    /// The moment that it shows.
    pub at: Moment,
    /// Whether it is complete.
    pub complete: bool,
    /// Whether it was found abnormal, and nobody has accepted it.
    pub held: bool,
    /// Whether it is pinned.
    pub pinned: bool,
    /// Plain bytes.
    pub bytes: u64,
    /// Bytes that it added to the store.
    pub added: u64,
}

/// What of a source's past can be restored: for who draws it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Course {
    /// Stretches of which any moment can be had, in their order.
    pub spans: Vec<(Moment, Moment)>,
    /// Holes in the stream: the last moment before, and the first behind that can be had.
    pub gaps: Vec<(Moment, Option<Moment>)>,
    /// Snapshots, oldest first.
    pub points: Vec<Point>,
}

/// How one source stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SourceStatus {
    /// Its name; of others' sources with the writer before it.
    pub source: String,
    /// Its kind, where a snapshot says it.
    pub kind: Option<String>,
    /// The newest moment that can be restored.
    pub newest: Option<Moment>,
    /// Its age.
    pub age_ms: Option<u64>,
    /// How old it may be.
    pub rpo_limit_ms: Option<u64>,
    /// The oldest moment that can be restored.
    pub oldest: Option<Moment>,
    /// Complete snapshots that are not forgotten.
    pub snapshots: u64,
    /// Plain bytes of the newest snapshot.
    pub bytes: u64,
    /// Bytes that all snapshots added to the store.
    pub added: u64,
    /// The last drill that was held and not sabotaged.
    pub drill: Option<LastDrill>,
    /// The last one that passed.
    pub passed: Option<Moment>,
    /// What is wrong, the gravest first.
    pub troubles: Vec<Trouble>,
    /// Its past.
    #[serde(skip)]
    pub course: Course,
}

impl SourceStatus {
    /// The gravest of its troubles.
    pub fn weight(&self) -> Weight {
        self.troubles.iter().map(|trouble| trouble.weight).max().unwrap_or(Weight::Fine)
    }
}

fn ms_between(from: Moment, to: Moment) -> u64 {
    u64::try_from((to - from).num_milliseconds()).unwrap_or(0)
}

/// How the named sources stand; all that the repository knows of where none is named.
pub fn status(repository: &Repository, wanted: &[(String, Limits)], now: Moment) -> Result<Vec<SourceStatus>, Error> {
    let rows = repository.catalog().brief_snapshots()?;
    let drills = repository.catalog().drills(Some(50))?;
    let own = repository.host().ok().map(|host| host.name.clone());
    // Once over ten thousand rows, not once for each of fifty sources.
    let mut by_source: HashMap<&str, Vec<&BriefRow>> = HashMap::new();
    for row in &rows {
        by_source.entry(&row.source).or_default().push(row);
    }
    let mut all = Vec::new();
    for (source, limits) in wanted {
        let full = source.split_once('/');
        let is_meant = |row: &&&BriefRow| match full {
            Some((writer, _)) => *row.writer_name == *writer,
            None => own.as_ref().is_none_or(|own| **own == *row.writer_name),
        };
        let named = by_source.get(full.map_or(source.as_str(), |(_, source)| source));
        let of: Vec<&BriefRow> = named.into_iter().flatten().filter(is_meant).copied().collect();
        let full_name = of.last().map(|row| row.full_name());
        all.push(one(repository, source, full_name.as_deref(), &of, *limits, &drills, now)?);
    }
    Ok(all)
}

fn one(
    repository: &Repository,
    source: &str,
    full_name: Option<&str>,
    rows: &[&BriefRow],
    limits: Limits,
    drills: &[DrillRow],
    now: Moment,
) -> Result<SourceStatus, Error> {
    let complete: Vec<&&BriefRow> = rows.iter().filter(|row| row.complete).collect();
    let last = rows.iter().max_by_key(|row| (row.ended, row.id));
    let mut found = SourceStatus {
        source: source.to_owned(),
        kind: last.map(|row| row.kind.to_string()),
        newest: complete.iter().map(|row| row.ended).max(),
        age_ms: None,
        rpo_limit_ms: limits.rpo_ms,
        oldest: complete.iter().map(|row| row.ended).min(),
        snapshots: complete.len() as u64,
        bytes: last.map_or(0, |row| row.bytes),
        added: rows.iter().map(|row| row.added).sum(),
        drill: None,
        passed: None,
        troubles: Vec::new(),
        course: Course { points: points(rows), ..Course::default() },
    };
    let sights = repository.catalog().sights(source)?;
    let say =
        |found: &mut SourceStatus, weight, kind, words: String| found.troubles.push(Trouble { weight, kind, words });
    if let Some(held) = rows.iter().find(|row| row.is_held()) {
        let (id, why) = (held.id, super::forget::abnormal_words(&held.abnormal));
        let words = format!("snapshot {id} is ABNORMAL ({why}): nothing is forgotten until `lifeboat accept {id}`");
        found.troubles.push(Trouble { weight: Weight::Warning, kind: "abnormal", words });
    }
    if let (Some("postgres"), Some(name)) = (found.kind.as_deref(), full_name) {
        of_cluster(repository, name, &mut found)?;
    } else if let (Some("convex"), Some(name)) = (found.kind.as_deref(), full_name) {
        of_deployment(repository, name, &sights, &mut found, now)?;
    }
    found.troubles.extend(sights.iter().filter_map(seen));
    if found.kind.as_deref() == Some("postgres") {
        // Its log says more than its last base backup.
    } else if let Some(last) = last.filter(|row| !row.complete) {
        let words = format!("the newest snapshot {} is INCOMPLETE: {} files were skipped", last.id, last.skipped);
        say(&mut found, Weight::Warning, "incomplete", words);
    }
    found.age_ms = found.newest.map(|newest| ms_between(newest, now));
    match (found.age_ms, limits.rpo_ms) {
        (None, _) => say(
            &mut found,
            Weight::Missed,
            "no-snapshot",
            "nothing can be restored: there is no complete snapshot".to_owned(),
        ),
        (Some(age), Some(limit)) if age > limit => {
            let words = format!("the newest recovery point is {} s old, {} s are allowed", age / 1000, limit / 1000);
            say(&mut found, Weight::Missed, "rpo", words);
        }
        _ => {}
    }
    of_drills(&mut found, drills, limits, now);
    found.troubles.sort_by_key(|trouble| std::cmp::Reverse(trouble.weight));
    Ok(found)
}

fn points(rows: &[&BriefRow]) -> Vec<Point> {
    let point = |row: &&BriefRow| Point {
        id: row.id,
        at: row.ended,
        complete: row.complete,
        held: row.is_held(),
        pinned: row.pinned,
        bytes: row.bytes,
        added: row.added,
    };
    let mut points: Vec<Point> = rows.iter().map(point).collect();
    points.sort_by_key(|point| (point.at, point.id));
    points
}

fn of_cluster(repository: &Repository, name: &str, found: &mut SourceStatus) -> Result<(), Error> {
    let Some(cluster) = gather(repository, name, Which::Newest)? else { return Ok(()) };
    let way = cluster.archive.choose(name, &Aim::Latest, None, false);
    let reaches: Vec<_> = cluster.archive.bases.iter().filter_map(|base| cluster.archive.choose_from(base)).collect();
    found.newest = way.as_ref().ok().map(|way| way.reach.to);
    found.oldest = reaches.iter().map(|reach| reach.from).min();
    found.snapshots = reaches.len() as u64;
    let coverage = Coverage::of(&cluster.archive);
    found.course.spans = coverage.spans.iter().map(|span| (span.from, span.to)).collect();
    found.course.gaps = coverage.gaps.iter().map(|gap| (gap.after, gap.until)).collect();
    for point in &mut found.course.points {
        point.complete = coverage.bases.iter().any(|mark| mark.snapshot == point.id && mark.complete);
    }
    let mut say = |weight, kind, words: String| found.troubles.push(Trouble { weight, kind, words });
    if let Some(reach) = way.ok().map(|way| way.reach).filter(|reach| reach.gap) {
        say(Weight::Damaged, "gap", format!("its log has a GAP at segment {}", reach.missing));
    }
    if !cluster.missing.is_empty() || !cluster.damaged.is_empty() {
        let lost = cluster.missing.len() + cluster.damaged.len();
        say(Weight::Damaged, "damaged", format!("segments of its log that are gone or damaged: {lost}"));
    }
    let newest = cluster.archive.bases.iter().max_by_key(|base| (base.backup.stopped, base.id));
    if let Some(missing) = newest.and_then(|base| cluster.archive.pending(&base.backup)) {
        say(Weight::Warning, "pending", format!("the newest base backup is PENDING: segment {missing} is not there"));
    }
    if newest.is_some_and(|base| !base.backup.bad_pages.is_none()) {
        say(Weight::Damaged, "damaged", "the newest base backup holds damaged pages".to_owned());
    }
    Ok(())
}

/// What was wrong when somebody looked at the server.
fn seen(sight: &Sight) -> Option<Trouble> {
    let words = format!("{}; seen at {}", sight.words.as_deref()?, show(sight.at));
    let kind = if sight::is_slot(&sight.what) { "slot" } else { "live" };
    Some(Trouble { weight: Weight::Warning, kind, words })
}

/// The changes behind a deployment's snapshots.
fn of_deployment(
    repository: &Repository,
    name: &str,
    sights: &[Sight],
    found: &mut SourceStatus,
    now: Moment,
) -> Result<(), Error> {
    let Some(documents) = documents::gather(repository, name)? else { return Ok(()) };
    found.newest = documents.newest().map(moment_of).max(found.newest);
    for run in &documents.runs {
        // Any moment from the first snapshot that lies in it.
        let first = documents
            .bases
            .iter()
            .filter(|base| run.from <= base.at && base.at <= run.reach())
            .map(|base| base.at)
            .min();
        found.course.spans.extend(first.map(|first| (moment_of(first), moment_of(run.reach()))));
        if matches!(run.end, RunEnd::Gap { .. }) {
            let until = documents.runs.iter().map(|other| other.from).filter(|from| *from > run.reach()).min();
            found.course.gaps.push((moment_of(run.reach()), until.map(moment_of)));
        }
    }
    found.course.spans.sort();
    let mut say = |words: String, kind| found.troubles.push(Trouble { weight: Weight::Damaged, kind, words });
    let gaps = documents.runs.iter().filter(|run| matches!(run.end, RunEnd::Gap { .. })).count();
    if gaps > 0 {
        say(format!("its changes have {gaps} GAPs: `lifeboat timeline {name}` shows them"), "gap");
    }
    let lost = documents.missing.len() + documents.damaged.len();
    if lost > 0 {
        say(format!("segments of its changes that are gone or damaged: {lost}"), "damaged");
    }
    // What was lost may be what was followed last.
    found.troubles.extend(cursor(&documents, sights, name, now).filter(|_| lost == 0));
    Ok(())
}

/// Changes are kept for a while: who follows no more must go on before they are gone.
fn cursor(documents: &documents::Documents, sights: &[Sight], name: &str, now: Moment) -> Option<Trouble> {
    let run = documents.runs.iter().find(|run| run.end == RunEnd::Newest)?;
    let asked = sights.iter().find(|sight| sight.what == sight::RETENTION);
    let asked = asked.and_then(|sight| serde_json::from_value::<sight::Reach>(sight.facts.clone()).ok());
    let hours = asked.map_or(REACH_HOURS, |reach| reach.hours);
    let (at, kept_ms) = (moment_of(run.reach()), hours.saturating_mul(3_600_000));
    let age = ms_between(at, now);
    let followed = format!("its changes are stored up to {}, {} h ago", show(at), age / 3_600_000);
    let words = if age.saturating_mul(2) <= kept_ms {
        return None;
    } else if age < kept_ms {
        let left = (kept_ms - age) / 3_600_000;
        format!("{followed}; the deployment may forget what came then in {left} h: `lifeboat follow {name}` goes on")
    } else if documents.bases.iter().any(|base| base.at > run.reach()) {
        // Somebody has gone on with snapshots alone; how old the newest may be is the objective's affair.
        return None;
    } else {
        format!(
            "{followed}, longer than the deployment keeps them ({hours} h at least): what came since may be gone, `lifeboat follow {name}` begins anew"
        )
    };
    Some(Trouble { weight: Weight::Warning, kind: "cursor", words })
}

fn of_drills(found: &mut SourceStatus, drills: &[DrillRow], limits: Limits, now: Moment) {
    let of = || {
        drills
            .iter()
            .map(|row| &row.record)
            .filter(|record| record.source == found.source && !record.sabotaged && record.kind != "group")
    };
    let newest = of().max_by_key(|record| (record.began, record.id));
    let passed = of().filter(|record| record.verdict.is_green()).map(|record| record.began).max();
    let mut troubles = Vec::new();
    if let Some(record) = newest.filter(|record| !record.verdict.is_green()) {
        let weight = match record.verdict {
            Verdict::DataFailed => Weight::Damaged,
            Verdict::RtoMissed | Verdict::RpoMissed => Weight::Missed,
            Verdict::NotHeld | Verdict::Passed => Weight::Warning,
        };
        let why = record.problem.clone().unwrap_or_default();
        troubles.push(Trouble { weight, kind: "drill-failed", words: format!("the last drill did not pass: {why}") });
    }
    let slow = newest.and_then(|record| record.rto_ms).zip(limits.rto_ms).filter(|(took, limit)| took > limit);
    if let Some((took, limit)) = slow {
        let words = format!("the last drill took {} s to restore, {} s are allowed", took / 1000, limit / 1000);
        troubles.push(Trouble { weight: Weight::Missed, kind: "rto", words });
    }
    let age = passed.map(|began| ms_between(began, now));
    match (age, limits.drill_ms) {
        (None, Some(_)) => {
            let words = "no drill has passed yet: `lifeboat drill` holds one".to_owned();
            troubles.push(Trouble { weight: Weight::Warning, kind: "drill", words });
        }
        (Some(age), Some(limit)) if age > limit => {
            let words =
                format!("the last drill that passed is {} h old, {} h are allowed", age / 3_600_000, limit / 3_600_000);
            troubles.push(Trouble { weight: Weight::Warning, kind: "drill", words });
        }
        _ => {}
    }
    found.drill = newest.map(|record| LastDrill {
        id: record.id,
        began: record.began,
        verdict: record.verdict,
        rto_ms: record.rto_ms,
    });
    found.passed = passed;
    found.troubles.extend(troubles);
}
