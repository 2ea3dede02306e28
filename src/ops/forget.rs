//! Forgetting by policy, and pins: the facts of this host's snapshots, the plan that is shown first, and the one commit that does it.
//!
//! Invariants: only this host's own snapshots; nothing is deleted from the store by it; whatever was pinned, or became the newest, while
//! the plan was looked at stays; a log with a hole is refused, because a pin may lie in it. The plan is a value: what a prune
//! will free is what its `goes` and its `window` say. Not here: the rules (`plan::retention`).

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, FixedOffset};

use super::Error;
use super::cluster::{Which, gather};
use crate::catalog::SnapshotRow;
use crate::model::base::BaseBackup;
use crate::model::convex::FILES_KIND;
use crate::model::documents::stream_name;
use crate::model::{Abnormal, Moment, Retention, SnapshotId, SnapshotRecord};
use crate::plan::restore::{Candidate, Wanted, choose, show};
use crate::plan::retention::{Fact, Facts, Gone, Reason, State, Verdict, decide, simulate, window_since};
use crate::progress::{Event, Progress};
use crate::repository::{self, Mark, Problem, Repository};

/// Why nothing is forgotten, or pinned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ForgetError {
    /// The snapshots are another writer's.
    #[error("`{what}` belongs to writer `{writer}`, and this host is `{own}`")]
    NotOwn {
        /// The source or the snapshot.
        what: String,
        /// Whose it is.
        writer: String,
        /// This host.
        own: String,
    },
    /// There are none.
    #[error("this host has no snapshot of `{0}`")]
    NoSource(String),
    /// The policy is a mistake.
    #[error("the policy of `{source_name}` keeps nothing at all: {policy}")]
    KeepsNothing {
        /// The source.
        source_name: String,
        /// The policy.
        policy: String,
    },
    /// A window of something that nothing goes on from.
    #[error("`{0}` has no stream, so a window keeps nothing of it")]
    NoStream(String),
    /// There is no such zone.
    #[error("`{0}` is no time zone")]
    Zone(String),
    /// The log does not tell everything.
    #[error("this host's own log does not tell everything: {0}")]
    Hole(String),
    /// It is pinned.
    #[error("snapshot {0} is pinned")]
    Pinned(SnapshotId),
    /// An abnormal snapshot waits for a person.
    #[error("snapshot {by} of `{source_name}` is abnormal ({why}): until somebody accepts it nothing is forgotten")]
    Held {
        /// The abnormal one.
        by: SnapshotId,
        /// Of what.
        source_name: String,
        /// Why.
        why: String,
    },
    /// It is the last resort.
    #[error("snapshot {id} is the newest complete one of `{source_name}`")]
    Newest {
        /// Which.
        id: SnapshotId,
        /// Of what.
        source_name: String,
    },
    /// It is forgotten already.
    #[error("snapshot {0} is forgotten already")]
    Already(SnapshotId),
}

/// The zone of a policy's hours, days and months.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zone {
    /// This machine's.
    Local,
    /// A named one.
    Named(chrono_tz::Tz),
}

impl Zone {
    /// The zone that a policy names, this machine's where it names none.
    pub fn of(policy: Option<&Retention>) -> Result<Self, ForgetError> {
        match policy.and_then(|policy| policy.timezone.as_deref()) {
            None => Ok(Self::Local),
            Some(name) => name.parse().map(Self::Named).map_err(|_| ForgetError::Zone(name.to_owned())),
        }
    }

    /// The wall clock there.
    pub fn clock(self, at: Moment) -> DateTime<FixedOffset> {
        match self {
            Self::Local => at.with_timezone(&chrono::Local).fixed_offset(),
            Self::Named(zone) => at.with_timezone(&zone).fixed_offset(),
        }
    }
}

impl std::fmt::Display for Zone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Local => f.write_str("this machine's zone"),
            Self::Named(zone) => f.write_str(zone.name()),
        }
    }
}

/// A source, and what to keep of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// The source's name, or its full name.
    pub source: String,
    /// `None` keeps everything.
    pub policy: Option<Retention>,
}

/// What becomes of a source's snapshots.
#[derive(Debug, Clone)]
pub struct SourcePlan {
    /// The source's name.
    pub source: String,
    /// `writer/source`.
    pub full_name: String,
    /// The policy; `None` where it has none.
    pub policy: Option<Retention>,
    /// The zone of its calendar.
    pub zone: Zone,
    /// What was known.
    pub facts: Facts,
    /// The first moment that any second can be restored from on; `None` where no policy asks for that. A prune then keeps all of the
    /// log behind the oldest base backup that stays.
    pub window: Option<Moment>,
    /// A verdict for each snapshot, the newest first.
    pub verdicts: Vec<Verdict>,
}

impl SourcePlan {
    /// Those that go, the newest first.
    pub fn going(&self) -> impl Iterator<Item = SnapshotId> {
        self.verdicts.iter().filter(|verdict| verdict.goes.is_some()).map(|verdict| verdict.fact.id)
    }

    /// What would be there after so many nights with one backup each.
    pub fn after(&self, nights: u32) -> Vec<Verdict> {
        let zone = self.zone;
        match &self.policy {
            Some(policy) => simulate(policy, &self.facts, nights, &|at| zone.clock(at)),
            None => self.verdicts.clone(),
        }
    }
}

/// The names of all sources of which this host has snapshots; those of files that go with a deployment's are its follower's business.
pub fn own_sources(repository: &mut Repository) -> Result<Vec<String>, Error> {
    let row = repository.host_row()?;
    let all = repository.catalog().snapshots()?;
    let names: BTreeSet<String> =
        all.into_iter().filter(|s| s.writer == row && s.record.kind != FILES_KIND).map(|s| s.record.source).collect();
    Ok(names.into_iter().collect())
}

/// Judges the snapshots of some sources. `problems` are those that opening the repository told.
pub fn plan(repository: &mut Repository, wishes: &[Wish], problems: &[Problem]) -> Result<Vec<SourcePlan>, Error> {
    check_log(repository, problems)?;
    wishes.iter().map(|wish| plan_source(repository, wish)).collect()
}

/// In a hole of the log a pin may lie, or a snapshot that the policy would count.
fn check_log(repository: &Repository, problems: &[Problem]) -> Result<(), Error> {
    let own = &repository.host()?.name;
    let folder = format!("writers/{own}/log/");
    let hole = problems.iter().find(|problem| match problem {
        Problem::MissingCommit { writer, .. } | Problem::BadWriter { writer, .. } => writer == own,
        Problem::BadCommit { key, .. } | Problem::NewerCommit { key, .. } => key.starts_with(&folder),
        _ => false,
    });
    hole.map_or(Ok(()), |hole| Err(ForgetError::Hole(hole.to_string()).into()))
}

fn plan_source(repository: &mut Repository, wish: &Wish) -> Result<SourcePlan, Error> {
    let own = repository.host()?.name.clone();
    let source = match wish.source.split_once('/') {
        Some((writer, _)) if writer != own => {
            let (what, writer) = (wish.source.clone(), writer.to_owned());
            return Err(ForgetError::NotOwn { what, writer, own }.into());
        }
        Some((_, source)) => source.to_owned(),
        None => wish.source.clone(),
    };
    if let Some(policy) = wish.policy.as_ref().filter(|policy| policy.keeps_nothing()) {
        let policy = policy.to_string();
        return Err(ForgetError::KeepsNothing { source_name: source, policy }.into());
    }
    let zone = Zone::of(wish.policy.as_ref())?;
    let has_window = wish.policy.as_ref().is_some_and(|policy| policy.window.is_some());
    let mut facts = known(repository, &source, has_window)?;
    if facts.snapshots.is_empty() {
        let others = repository.catalog().snapshots()?;
        return Err(match others.iter().find(|other| other.record.source == source) {
            Some(other) => ForgetError::NotOwn { what: source, writer: other.writer_name.clone(), own }.into(),
            None => ForgetError::NoSource(source).into(),
        });
    }
    // To leave the rule out in silence would keep less than was asked for.
    if has_window && facts.snapshots.iter().all(|fact| fact.stream.is_none()) {
        return Err(ForgetError::NoStream(source).into());
    }
    let full_name = format!("{own}/{source}");
    add_archives(repository, &full_name, &mut facts)?;
    let policy = wish.policy.clone().filter(|policy| !policy.is_silent());
    let verdicts = decide(policy.as_ref(), &facts, &|at| zone.clock(at));
    let window = policy.as_ref().and_then(|policy| window_since(policy, facts.as_of));
    Ok(SourcePlan { source, full_name, policy, zone, facts, window, verdicts })
}

/// The stream that goes on from a snapshot: a cluster's log, a deployment's changes.
pub(super) fn stream_of(record: &SnapshotRecord) -> Option<String> {
    match record.kind.as_str() {
        "postgres" => record.facts.get("stream").and_then(serde_json::Value::as_str).map(str::to_owned),
        "convex" => {
            let instance = record.facts.get("instance").and_then(serde_json::Value::as_str)?;
            Some(stream_name(&record.source, instance))
        }
        _ => None,
    }
}

/// What the catalog knows of this host's snapshots of a source.
fn known(repository: &mut Repository, source: &str, has_window: bool) -> Result<Facts, repository::Error> {
    let row = repository.host_row()?;
    let mut facts = Facts { as_of: repository.catalog().last_received(row)?, ..Facts::default() };
    let mut streams: BTreeSet<String> = repository.catalog().streams(&repository.host()?.name)?.into_iter().collect();
    for SnapshotRow { writer, record, received, pinned, forgotten, accepted, .. } in
        repository.catalog().all_snapshots()?
    {
        if writer != row || record.source != source {
            continue;
        }
        if forgotten {
            facts.past.extend(received);
            continue;
        }
        // A cluster has a log, whether any of it has arrived or not; a deployment with a window of its own is about to be followed.
        if record.kind == "postgres" || (has_window && record.kind == "convex") {
            streams.extend(stream_of(&record));
        }
        if facts.held.is_none() && !record.abnormal.is_empty() && !accepted {
            facts.held = Some(record.id);
        }
        let stream = stream_of(&record).filter(|stream| streams.contains(stream));
        facts.snapshots.push(Fact {
            id: record.id,
            received,
            ended: record.ended,
            state: if record.complete { State::Complete } else { State::Incomplete },
            tags: record.tags,
            pinned,
            stream,
        });
    }
    Ok(facts)
}

/// The log behind base backups, and which of them wait for their own.
fn add_archives(repository: &Repository, full_name: &str, facts: &mut Facts) -> Result<(), Error> {
    let streams: BTreeSet<String> = facts.snapshots.iter().filter_map(|fact| fact.stream.clone()).collect();
    for stream in streams {
        let Some(cluster) = gather(repository, full_name, Which::Stream(&stream))? else { continue };
        let bases: BTreeMap<SnapshotId, &BaseBackup> =
            cluster.archive.bases.iter().map(|base| (base.id, &base.backup)).collect();
        for fact in facts.snapshots.iter_mut().filter(|fact| fact.state == State::Complete) {
            if bases.get(&fact.id).is_some_and(|backup| cluster.archive.pending(backup).is_some()) {
                fact.state = State::Pending;
            }
        }
        facts.archives.push(cluster.archive);
    }
    Ok(())
}

/// What forgetting did.
#[derive(Debug, Clone, Default)]
pub struct Forgotten {
    /// Those that are forgotten now.
    pub snapshots: Vec<SnapshotId>,
    /// Those that were to go and stay, because something changed since the plan was made.
    pub spared: Vec<SnapshotId>,
    /// What the log said on the way.
    pub problems: Vec<Problem>,
}

/// Carries plans out: one commit for all of them, none where nothing goes. Each snapshot is judged once more behind the lock.
pub fn forget(
    repository: &mut Repository,
    plans: &[SourcePlan],
    now: Moment,
    progress: &dyn Progress,
) -> Result<Forgotten, Error> {
    if plans.iter().all(|plan| plan.going().next().is_none()) {
        return Ok(Forgotten::default());
    }
    progress.event(Event::Stage("committing"));
    let mut done = Forgotten::default();
    let report = repository.mark_snapshots(now, progress, &mut |repository| {
        done = Forgotten::default();
        for plan in plans {
            let still = judged_again(repository, plan)?;
            for id in plan.going() {
                let to = if still.contains(&id) { &mut done.snapshots } else { &mut done.spared };
                to.push(id);
            }
        }
        Ok(done.snapshots.iter().copied().map(Mark::Forget).collect())
    })?;
    done.problems = report.problems;
    Ok(done)
}

/// Those that still go, by what the catalog knows now.
fn judged_again(repository: &mut Repository, plan: &SourcePlan) -> Result<BTreeSet<SnapshotId>, repository::Error> {
    let has_window = plan.policy.as_ref().is_some_and(|policy| policy.window.is_some());
    let mut facts = known(repository, &plan.source, has_window)?;
    // What is pending takes a listing to know: that of a moment ago serves, and newer ones only spare others.
    let states: BTreeMap<SnapshotId, State> = plan.facts.snapshots.iter().map(|fact| (fact.id, fact.state)).collect();
    for fact in &mut facts.snapshots {
        fact.state = states.get(&fact.id).copied().unwrap_or(fact.state);
    }
    facts.as_of = plan.facts.as_of;
    facts.archives = plan.facts.archives.clone();
    let named: BTreeSet<SnapshotId> = plan
        .verdicts
        .iter()
        .filter(|verdict| verdict.goes == Some(Gone::Named))
        .map(|verdict| verdict.fact.id)
        .collect();
    let verdicts = decide(plan.policy.as_ref(), &facts, &|at| plan.zone.clock(at));
    let goes = |verdict: &Verdict| verdict.goes.is_some() || (named.contains(&verdict.fact.id) && may_go(verdict));
    Ok(verdicts.iter().filter(|verdict| goes(verdict)).map(|verdict| verdict.fact.id).collect())
}

/// Whether a person may have it forgotten by name.
fn may_go(verdict: &Verdict) -> bool {
    !verdict.stays.iter().any(|reason| matches!(reason, Reason::Newest | Reason::Pinned))
}

/// A plan that lets some snapshots go by name. Pinned ones, and the newest complete one of a source, are refused.
pub fn plan_named(
    repository: &mut Repository,
    names: &[String],
    problems: &[Problem],
) -> Result<Vec<SourcePlan>, Error> {
    let mut wanted: BTreeMap<String, BTreeSet<SnapshotId>> = BTreeMap::new();
    for name in names {
        let row = find_own(repository, name)?;
        wanted.entry(row.record.source).or_default().insert(row.record.id);
    }
    let wishes: Vec<Wish> = wanted.keys().map(|source| Wish { source: source.clone(), policy: None }).collect();
    let mut plans = plan(repository, &wishes, problems)?;
    for plan in &mut plans {
        if let Some(by) = plan.facts.held {
            return Err(held_error(repository, by, plan.source.clone())?.into());
        }
        let named = wanted.get(&plan.source).cloned().unwrap_or_default();
        plan.verdicts.retain(|verdict| named.contains(&verdict.fact.id));
        for verdict in &mut plan.verdicts {
            let id = verdict.fact.id;
            if verdict.fact.pinned {
                return Err(ForgetError::Pinned(id).into());
            }
            if !may_go(verdict) {
                return Err(ForgetError::Newest { id, source_name: plan.source.clone() }.into());
            }
            (verdict.stays, verdict.goes) = (Vec::new(), Some(Gone::Named));
        }
    }
    Ok(plans)
}

fn held_error(repository: &Repository, by: SnapshotId, source_name: String) -> Result<ForgetError, Error> {
    let all = repository.catalog().all_snapshots()?;
    let row = all.iter().find(|row| row.record.id == by);
    let why = row.map(|row| abnormal_words(&row.record.abnormal)).unwrap_or_default();
    Ok(ForgetError::Held { by, source_name, why })
}

/// What is abnormal of a snapshot, on one line.
pub fn abnormal_words(abnormal: &[Abnormal]) -> String {
    abnormal.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Says of snapshots that they are as they should be. Returns those that were held.
pub fn accept(
    repository: &mut Repository,
    names: &[String],
    now: Moment,
    progress: &dyn Progress,
) -> Result<Vec<SnapshotRow>, Error> {
    let mut rows: Vec<SnapshotRow> = Vec::new();
    for name in names {
        let row = find_own(repository, name)?;
        if row.is_held() && !rows.iter().any(|other| other.record.id == row.record.id) {
            rows.push(row);
        }
    }
    if !rows.is_empty() {
        repository
            .mark_snapshots(now, progress, &mut |_| Ok(rows.iter().map(|row| Mark::Accept(row.record.id)).collect()))?;
    }
    Ok(rows)
}

/// One of this host's snapshots by its id, or by the beginning of it.
fn find_own(repository: &mut Repository, name: &str) -> Result<SnapshotRow, Error> {
    let (own, row) = (repository.host()?.name.clone(), repository.host_row()?);
    let all = repository.catalog().all_snapshots()?;
    let alive: Vec<Candidate> = all
        .iter()
        .filter(|snapshot| !snapshot.forgotten)
        .map(|snapshot| Candidate {
            id: snapshot.record.id,
            full_name: snapshot.full_name(),
            ended: snapshot.record.ended,
            complete: snapshot.record.complete,
        })
        .collect();
    // `latest` is a word for the snapshots of one source.
    if name.starts_with("latest") {
        return Err(crate::plan::restore::NoPlan::NoSuchId(name.to_owned()).into());
    }
    let wanted = Wanted::Named(name.to_owned());
    let id = match choose(name, &alive, &wanted, false) {
        Ok(choice) => choice.id,
        Err(e) => {
            let gone = all.iter().find(|s| s.forgotten && s.record.id.to_string() == name.to_ascii_uppercase());
            return Err(gone.map_or(e.into(), |gone| ForgetError::Already(gone.record.id).into()));
        }
    };
    let found = all.into_iter().find(|snapshot| snapshot.record.id == id);
    let found = found.ok_or_else(|| ForgetError::NoSource(name.to_owned()))?;
    if found.writer != row {
        return Err(ForgetError::NotOwn { what: id.to_string(), writer: found.writer_name, own }.into());
    }
    Ok(found)
}

/// Pins snapshots, or takes their pins away. Returns those of which that was not so already.
pub fn pin(
    repository: &mut Repository,
    names: &[String],
    pinned: bool,
    now: Moment,
    progress: &dyn Progress,
) -> Result<(Vec<SnapshotRow>, Vec<SnapshotRow>), Error> {
    let mut rows: Vec<SnapshotRow> = Vec::new();
    for name in names {
        let row = find_own(repository, name)?;
        if !rows.iter().any(|other| other.record.id == row.record.id) {
            rows.push(row);
        }
    }
    let (already, fresh): (Vec<SnapshotRow>, Vec<SnapshotRow>) = rows.into_iter().partition(|row| row.pinned == pinned);
    if !fresh.is_empty() {
        let mut gone = None;
        let mark = |id: SnapshotId| if pinned { Mark::Pin(id) } else { Mark::Unpin(id) };
        repository.mark_snapshots(now, progress, &mut |repository| {
            let writer = repository.host_row()?;
            let mut marks = Vec::new();
            for row in &fresh {
                // Forgotten by another process while this one looked: a pin would promise what it does not keep.
                if repository.catalog().is_forgotten(writer, &row.record.id.to_string())? {
                    gone = Some(row.record.id);
                } else {
                    marks.push(mark(row.record.id));
                }
            }
            Ok(marks)
        })?;
        if let Some(id) = gone {
            return Err(ForgetError::Already(id).into());
        }
    }
    Ok((fresh, already))
}

/// A reason in words.
pub fn words(reason: &Reason) -> String {
    let without = |burst: &bool| if *burst { ", newer ones came too fast to count" } else { "" };
    match reason {
        Reason::Newest => "the newest complete one".to_owned(),
        Reason::NewestOfAll => "the newest, though not complete".to_owned(),
        Reason::Pinned => "pinned".to_owned(),
        Reason::Held { by } => format!("held: {} is abnormal, see `lifeboat accept`", by.short()),
        Reason::NoPolicy => "no policy: everything is kept".to_owned(),
        Reason::NotListed => "the store has not said when it received it".to_owned(),
        Reason::Clock { received, ended } => {
            format!("clocks disagree: ended {}, received {}", show(*ended), show(*received))
        }
        Reason::Inside { since } => format!("inside the window, since {}", show(*since)),
        Reason::Serves { since } => format!("the window's beginning {} is restored from it", show(*since)),
        Reason::Tag { tag } => format!("tag {tag}"),
        Reason::Minimum { place, of } => format!("minimum {place} of {of}"),
        Reason::Last { place, of, burst } => format!("last {place} of {of}{}", without(burst)),
        Reason::Calendar { class, bucket, place, of, burst } => {
            format!("{} {bucket} ({place} of {of}{})", class.name(), without(burst))
        }
        Reason::Within { span } => format!("within {span}"),
        Reason::WithinCalendar { class, bucket, span, burst } => {
            format!("{} {bucket} (within {span}{})", class.name(), without(burst))
        }
    }
}

/// Why one goes, in words.
pub fn words_gone(gone: &Gone) -> String {
    match gone {
        Gone::Replaced { bucket, by, .. } => format!("of {bucket} {} stays", by.short()),
        Gone::Aged => "newer ones have all the places".to_owned(),
        Gone::Named => "named".to_owned(),
    }
}
