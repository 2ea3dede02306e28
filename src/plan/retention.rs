//! Which snapshots of a source a policy keeps, and why: facts in, a verdict with its reasons for each snapshot out.
//!
//! Invariants: the newest complete snapshot stays, whatever the policy says, and so does a pinned one, one whose times disagree, and
//! one that no rule was asked about; rules add up, so a larger policy keeps a superset; what stays stays when it is asked again.
//! Calendars count by the time at which the store received a snapshot, never by the host's clock alone. A snapshot that is not
//! complete takes no complete one's place, and an abnormal number of new ones pushes nothing out. Not here: whose snapshots these
//! are, what is written, and any deletion.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use chrono::{DateTime, Datelike, FixedOffset, TimeDelta, Timelike};
use serde::Serialize;

use super::needed_wal::serving;
use super::recovery::Archive;
use crate::model::{Class, Moment, Retention, SnapshotId};

/// A snapshot may say that it ended so much after the store received it: clocks are never quite equal.
pub const AHEAD: TimeDelta = TimeDelta::hours(1);
/// The store may receive a snapshot so long after it says that it ended.
pub const BEHIND: TimeDelta = TimeDelta::hours(24);
/// What is counted together when the number of new snapshots is judged.
pub const BURST_SPAN: TimeDelta = TimeDelta::hours(24);
/// How many such spans before tell what is usual; of those that had any snapshots, at least [`BURST_KNOWN`].
pub const BURST_LOOKS_BACK: i32 = 30;
/// Spans with snapshots that must be known before anything is called unusual.
pub const BURST_KNOWN: usize = 3;
/// More than so many times the usual number, and so many more, is abnormal.
pub const BURST_TIMES: usize = 2;
/// See [`BURST_TIMES`].
pub const BURST_MORE: usize = 4;

/// What a snapshot is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// All of it is there.
    Complete,
    /// Something was skipped.
    Incomplete,
    /// A base backup that waits for its own log.
    Pending,
}

/// What is known of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// Its name.
    pub id: SnapshotId,
    /// When the store received its commit, by the store's clock.
    pub received: Option<Moment>,
    /// When it ended, by the host's clock.
    pub ended: Moment,
    /// What it is worth.
    pub state: State,
    /// Its labels.
    pub tags: Vec<String>,
    /// Whether a person pinned it.
    pub pinned: bool,
    /// Of a base backup, the stream that goes on from it.
    pub stream: Option<String>,
}

/// What is known of a source.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Its snapshots that are not forgotten, in any order.
    pub snapshots: Vec<Fact>,
    /// When the store received each forgotten one: what is usual does not change by forgetting.
    pub past: Vec<Moment>,
    /// Its archives of log, where it has any.
    pub archives: Vec<Archive>,
    /// The store's clock, as late as it is known.
    pub as_of: Option<Moment>,
    /// The first abnormal snapshot that nobody has accepted: until that nothing goes.
    pub held: Option<SnapshotId>,
}

/// Why a snapshot stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "rule", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// It is the newest complete one.
    Newest,
    /// It is the newest, though not complete.
    NewestOfAll,
    /// A person pinned it.
    Pinned,
    /// A snapshot of its source is abnormal, and nobody has accepted it.
    Held {
        /// Which.
        by: SnapshotId,
    },
    /// The source has no policy.
    NoPolicy,
    /// The store has not been asked when it received it.
    NotListed,
    /// The host's clock and the store's disagree about it.
    Clock {
        /// When the store received it.
        received: Moment,
        /// When it says that it ended.
        ended: Moment,
    },
    /// It is inside the window.
    Inside {
        /// The window's first moment.
        since: Moment,
    },
    /// The first moments of the window are restored from it.
    Serves {
        /// The window's first moment.
        since: Moment,
    },
    /// It has a label that is kept.
    Tag {
        /// The label.
        tag: String,
    },
    /// One of so many that stay in any case.
    Minimum {
        /// Its place among the complete ones, from 1.
        place: u32,
        /// How many stay.
        of: u32,
    },
    /// One of the newest.
    Last {
        /// Its place, from 1.
        place: u32,
        /// How many stay.
        of: u32,
        /// Whether the place is its own only because a burst of newer ones is not counted.
        burst: bool,
    },
    /// The newest one of its hour, day, week ...
    Calendar {
        /// Which.
        class: Class,
        /// The hour, day, week ... in the policy's zone.
        bucket: String,
        /// Its place among those that have any, the newest first, from 1.
        place: u32,
        /// How many stay.
        of: u32,
        /// As above.
        burst: bool,
    },
    /// It is not much older than the newest.
    Within {
        /// How long, as the policy has it.
        span: String,
    },
    /// The newest one of its hour, day, week ..., and that is not much older than the newest of all.
    WithinCalendar {
        /// Which.
        class: Class,
        /// The hour, day, week ... in the policy's zone.
        bucket: String,
        /// How long, as the policy has it.
        span: String,
        /// As above.
        burst: bool,
    },
}

/// Why a snapshot goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "because", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Gone {
    /// A newer one of the same hour, day, week ... stays.
    Replaced {
        /// Which.
        class: Class,
        /// The hour, day, week ... in the policy's zone.
        bucket: String,
        /// The one that stays.
        by: SnapshotId,
    },
    /// Newer ones have all the places.
    Aged,
    /// A person named it.
    Named,
}

/// What becomes of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The snapshot.
    pub fact: Fact,
    /// All the reasons why it stays; none where it goes.
    pub stays: Vec<Reason>,
    /// Why it goes; `None` where it stays.
    pub goes: Option<Gone>,
}

/// The wall clock of a policy's zone.
pub type Local<'f> = &'f dyn Fn(Moment) -> DateTime<FixedOffset>;

impl Fact {
    /// Whether the times of host and store agree about it. A clock that was wrong, and a snapshot that was dated back, do not.
    fn is_sound(&self) -> bool {
        self.received.is_some_and(|received| agree(received, self.ended))
    }
    /// What it is ordered by.
    fn at(&self) -> (Moment, SnapshotId) {
        (self.received.unwrap_or(self.ended), self.id)
    }
}

/// Whether a host's time and the store's may be of one event. Years that no calendar is made for are nobody's.
fn agree(received: Moment, ended: Moment) -> bool {
    let late = received - ended;
    (1970..=9998).contains(&received.year()) && late >= -AHEAD && late <= BEHIND
}

/// The hour, day, week ... of a moment, as people write it.
fn bucket(class: Class, at: DateTime<FixedOffset>) -> String {
    match class {
        // With the offset: the hour that comes twice when clocks are set back is two.
        Class::Hourly => format!("{} {:02}h {}", at.date_naive(), at.hour(), at.offset()),
        Class::Daily => at.date_naive().to_string(),
        Class::Weekly => format!("{}-W{:02}", at.iso_week().year(), at.iso_week().week()),
        Class::Monthly => format!("{}-{:02}", at.year(), at.month()),
        Class::Quarterly => format!("{}-Q{}", at.year(), at.month0() / 3 + 1),
        Class::Yearly => at.year().to_string(),
    }
}

/// Judges every snapshot of a source. `None` is a source without a policy: it keeps everything. The answer is in the order of time,
/// the newest first.
pub fn decide(policy: Option<&Retention>, facts: &Facts, local: Local<'_>) -> Vec<Verdict> {
    let mut sorted: Vec<&Fact> = facts.snapshots.iter().collect();
    sorted.sort_by_key(|fact| std::cmp::Reverse(fact.at()));
    let mut reasons: BTreeMap<SnapshotId, Vec<Reason>> = BTreeMap::new();
    let mut keep = |id: SnapshotId, reason: Reason| {
        let all = reasons.entry(id).or_default();
        if !all.contains(&reason) {
            all.push(reason);
        }
    };
    // What only stays as if a burst had not been.
    let mut spared: Vec<(SnapshotId, Reason)> = Vec::new();
    always(&sorted, policy.is_none(), &mut keep);
    if let Some(by) = facts.held {
        sorted.iter().for_each(|fact| keep(fact.id, Reason::Held { by }));
    }
    if let Some(policy) = policy {
        by_window(policy, facts, &sorted, &mut keep);
        let surplus = surplus(facts);
        for wanted in [State::Complete, State::Incomplete, State::Pending] {
            let of: Vec<&Fact> = sorted.iter().copied().filter(|f| f.is_sound() && f.state == wanted).collect();
            by_rules(policy, &of, false, local, &mut keep);
            // And as if the burst had not been: what stayed without it stays.
            let without: Vec<&Fact> = of.iter().copied().filter(|f| !surplus.contains(&f.id)).collect();
            if without.len() < of.len() {
                by_rules(policy, &without, true, local, &mut |id, reason| spared.push((id, reason)));
            }
        }
        for fact in &sorted {
            let tags = policy.keep_tag.iter().flatten().filter(|tag| fact.tags.contains(tag));
            tags.for_each(|tag| keep(fact.id, Reason::Tag { tag: tag.clone() }));
        }
    }
    let counted: HashSet<SnapshotId> = reasons.keys().copied().collect();
    for (id, reason) in spared.into_iter().filter(|(id, _)| !counted.contains(id)) {
        reasons.entry(id).or_default().push(reason);
    }
    let kept = kept_buckets(&reasons);
    let judge = |fact: &&Fact| {
        let stays = reasons.get(&fact.id).cloned().unwrap_or_default();
        let goes = stays.is_empty().then(|| why_gone(fact, &kept, local));
        Verdict { fact: (*fact).clone(), stays, goes }
    };
    sorted.iter().map(judge).collect()
}

/// What stays whatever a policy says.
fn always(sorted: &[&Fact], no_policy: bool, keep: &mut dyn FnMut(SnapshotId, Reason)) {
    let newest = sorted.iter().find(|fact| fact.state == State::Complete && fact.is_sound());
    // A source all of whose clocks disagree still has a newest one.
    let newest = newest.or_else(|| sorted.iter().find(|fact| fact.state == State::Complete));
    if let Some(newest) = newest {
        keep(newest.id, Reason::Newest);
    }
    if let Some(first) = sorted.first().filter(|fact| fact.state != State::Complete) {
        keep(first.id, Reason::NewestOfAll);
    }
    for fact in sorted {
        if fact.pinned {
            keep(fact.id, Reason::Pinned);
        }
        match fact.received {
            _ if no_policy => keep(fact.id, Reason::NoPolicy),
            None => keep(fact.id, Reason::NotListed),
            Some(received) if !fact.is_sound() => keep(fact.id, Reason::Clock { received, ended: fact.ended }),
            Some(_) => {}
        }
    }
}

/// The window's first moment: counted back from the store's clock.
pub fn window_since(policy: &Retention, as_of: Option<Moment>) -> Option<Moment> {
    let window = policy.window.as_ref().filter(|window| !window.is_zero())?;
    as_of.and_then(|now| now.checked_sub_signed(window.delta()))
}

/// Snapshots inside the window, and those from which its first moments are restored, for each stream and each timeline.
fn by_window(policy: &Retention, facts: &Facts, sorted: &[&Fact], keep: &mut dyn FnMut(SnapshotId, Reason)) {
    let is_base = |fact: &&Fact| fact.stream.is_some();
    let Some(since) = window_since(policy, facts.as_of) else {
        // A window was asked for, and nobody knows where it begins: nothing of it may go.
        if policy.window.as_ref().is_some_and(|window| !window.is_zero()) {
            sorted.iter().copied().filter(is_base).for_each(|fact| keep(fact.id, Reason::NotListed));
        }
        return;
    };
    let (mut served, mut sound): (HashSet<&str>, BTreeSet<SnapshotId>) = (HashSet::new(), BTreeSet::new());
    for fact in sorted.iter().copied().filter(is_base) {
        let Some(stream) = fact.stream.as_deref() else { continue };
        let begins_in = fact.received.is_none_or(|received| received >= since) || fact.ended >= since;
        if begins_in {
            keep(fact.id, Reason::Inside { since });
        } else if fact.state == State::Complete && fact.is_sound() && served.insert(stream) {
            keep(fact.id, Reason::Serves { since });
        }
        if fact.is_sound() {
            sound.insert(fact.id);
        }
    }
    for archive in &facts.archives {
        // A base backup that lies about its end would stand in for the one that does serve.
        let mut of_sound = archive.clone();
        of_sound.bases.retain(|base| {
            let received = sorted.iter().find(|fact| fact.id == base.id).and_then(|fact| fact.received);
            sound.contains(&base.id) && received.is_some_and(|received| agree(received, base.backup.stopped))
        });
        serving(&of_sound, since).into_iter().for_each(|id| keep(id, Reason::Serves { since }));
    }
}

/// Snapshots beyond the usual number of an abnormal span. What is usual is the median of the spans before that had any.
fn surplus(facts: &Facts) -> HashSet<SnapshotId> {
    let mut all: Vec<Moment> = facts.past.clone();
    all.extend(facts.snapshots.iter().filter_map(|fact| fact.received));
    all.sort_unstable();
    let up_to = |moment: Moment| all.partition_point(|at| *at <= moment);
    // Where abnormal spans begin and end, their usual number left out.
    let mut edges: Vec<i64> = vec![0; all.len() + 1];
    for (n, at) in all.iter().enumerate() {
        let back = |spans: i32| at.checked_sub_signed(BURST_SPAN * spans).unwrap_or(Moment::MIN_UTC);
        let begin = up_to(back(1));
        let count = n + 1 - begin.min(n);
        if count <= BURST_MORE {
            continue;
        }
        let span = |spans: i32| up_to(back(spans)).saturating_sub(up_to(back(spans + 1)));
        let mut before: Vec<usize> = (1..=BURST_LOOKS_BACK).map(span).filter(|count| *count > 0).collect();
        before.sort_unstable();
        let usual = before.get(before.len() / 2).copied().unwrap_or(0);
        if before.len() >= BURST_KNOWN && count > BURST_TIMES * usual + BURST_MORE {
            edges[begin + usual] += 1;
            edges[n + 1] -= 1;
        }
    }
    let depth = edges.iter().scan(0, |depth, edge| {
        *depth += edge;
        Some(*depth)
    });
    let times: HashSet<Moment> = all.iter().zip(depth).filter(|(_, depth)| *depth > 0).map(|(at, _)| *at).collect();
    let received = facts.snapshots.iter().filter_map(|fact| Some((fact.id, fact.received?)));
    received.filter(|(_, at)| times.contains(at)).map(|(id, _)| id).collect()
}

/// The rules that give out places, over snapshots of one state, the newest first.
fn by_rules(policy: &Retention, of: &[&Fact], burst: bool, local: Local<'_>, keep: &mut dyn FnMut(SnapshotId, Reason)) {
    let Some(newest) = of.first().and_then(|fact| fact.received) else { return };
    let places = |count: Option<u32>| of.iter().zip(1..=count.unwrap_or(0));
    for (fact, place) in places(policy.keep_last) {
        keep(fact.id, Reason::Last { place, of: policy.keep_last.unwrap_or(0), burst });
    }
    for (fact, place) in places(policy.min_snapshots).filter(|(fact, _)| fact.state == State::Complete) {
        keep(fact.id, Reason::Minimum { place, of: policy.min_snapshots.unwrap_or(0) });
    }
    let inside = |fact: &Fact, span: &crate::model::Span| {
        !span.is_zero() && fact.received.is_some_and(|at| newest - at <= span.delta())
    };
    for fact in of {
        if let Some(span) = policy.keep_within.as_ref().filter(|span| inside(fact, span)) {
            keep(fact.id, Reason::Within { span: span.to_string() });
        }
    }
    for class in Class::ALL {
        let (count, span) = (policy.count(class), policy.within(class));
        let (mut place, mut last): (u32, Option<String>) = (0, None);
        for fact in of {
            let bucket = bucket(class, local(fact.received.unwrap_or(fact.ended)));
            if last.as_ref() == Some(&bucket) {
                continue;
            }
            (place, last) = (place.saturating_add(1), Some(bucket.clone()));
            if place <= count {
                keep(fact.id, Reason::Calendar { class, bucket: bucket.clone(), place, of: count, burst });
            }
            if let Some(span) = span.filter(|span| inside(fact, span)) {
                keep(fact.id, Reason::WithinCalendar { class, bucket, span: span.to_string(), burst });
            }
        }
    }
}

/// The hours, days, weeks ... of which one stays, with the one that stays.
fn kept_buckets(reasons: &BTreeMap<SnapshotId, Vec<Reason>>) -> BTreeMap<(Class, String), SnapshotId> {
    let mut kept = BTreeMap::new();
    for (id, all) in reasons {
        for reason in all {
            if let Reason::Calendar { class, bucket, .. } | Reason::WithinCalendar { class, bucket, .. } = reason {
                kept.insert((*class, bucket.clone()), *id);
            }
        }
    }
    kept
}

fn why_gone(fact: &Fact, kept: &BTreeMap<(Class, String), SnapshotId>, local: Local<'_>) -> Gone {
    let at = local(fact.received.unwrap_or(fact.ended));
    let replaced = Class::ALL.into_iter().find_map(|class| {
        let bucket = bucket(class, at);
        kept.get(&(class, bucket.clone())).map(|by| Gone::Replaced { class, bucket, by: *by })
    });
    replaced.unwrap_or(Gone::Aged)
}

/// What would be there after so many nights with one backup each, and the policy applied after each: the verdicts of the last
/// night. Snapshots that are not there yet have ids of their own; the log of clusters is not simulated.
pub fn simulate(policy: &Retention, facts: &Facts, nights: u32, local: Local<'_>) -> Vec<Verdict> {
    let mut now = facts.snapshots.iter().filter(|fact| fact.is_sound()).filter_map(|fact| fact.received).max();
    now = now.max(facts.as_of);
    let stream = facts.snapshots.iter().max_by_key(|fact| fact.at()).and_then(|fact| fact.stream.clone());
    let mut facts = Facts { archives: Vec::new(), ..facts.clone() };
    let mut verdicts = decide(Some(policy), &facts, local);
    for _ in 0..nights {
        let Some(next) = now.and_then(|now| now.checked_add_signed(TimeDelta::days(1))) else { break };
        now = Some(next);
        let (stay, go): (Vec<Verdict>, Vec<Verdict>) = verdicts.into_iter().partition(|verdict| verdict.goes.is_none());
        facts.past.extend(go.into_iter().filter_map(|verdict| verdict.fact.received));
        facts.snapshots = stay.into_iter().map(|verdict| verdict.fact).collect();
        facts.snapshots.push(Fact {
            id: SnapshotId::new(next.timestamp_millis().max(0) as u64, [0; 10]),
            received: Some(next),
            ended: next,
            state: State::Complete,
            tags: Vec::new(),
            pinned: false,
            stream: stream.clone(),
        });
        facts.as_of = Some(next);
        verdicts = decide(Some(policy), &facts, local);
    }
    verdicts
}

#[cfg(test)]
#[path = "retention_tests.rs"]
mod tests;
