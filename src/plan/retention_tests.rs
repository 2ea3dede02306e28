//! Tests of `retention`: golden tables, clocks, bursts, windows, and the properties that hold for every policy.

use chrono::{TimeZone, Utc};
use chrono_tz::Tz;
use proptest::prelude::*;

use super::*;
use crate::model::Span;

fn at(text: &str) -> Moment {
    text.parse().unwrap()
}

fn zone(tz: Tz) -> impl Fn(Moment) -> DateTime<FixedOffset> {
    move |moment| moment.with_timezone(&tz).fixed_offset()
}

fn utc(moment: Moment) -> DateTime<FixedOffset> {
    moment.fixed_offset()
}

/// A complete snapshot that ended a minute before the store received it.
fn fact(received: Moment) -> Fact {
    Fact {
        id: SnapshotId::new(received.timestamp_millis().max(0) as u64, [1; 10]),
        received: Some(received),
        ended: received - TimeDelta::minutes(1),
        state: State::Complete,
        tags: Vec::new(),
        pinned: false,
        stream: None,
    }
}

fn facts(snapshots: Vec<Fact>) -> Facts {
    let as_of = snapshots.iter().filter_map(|fact| fact.received).max();
    Facts { snapshots, as_of, ..Facts::default() }
}

/// Snapshots from a first moment on, so many hours apart.
fn every(first: &str, hours: i64, count: i64) -> Vec<Fact> {
    (0..count).map(|n| fact(at(first) + TimeDelta::hours(hours * n))).collect()
}

fn policy(text: &str) -> Retention {
    toml::from_str(text).unwrap()
}

/// What stays, oldest first, as `day hour`, in the zone.
fn stays(policy: &Retention, facts: &Facts, local: Local<'_>) -> Vec<String> {
    let verdicts = decide(Some(policy), facts, local);
    let mut kept: Vec<String> = verdicts
        .iter()
        .filter(|verdict| verdict.goes.is_none())
        .map(|verdict| local(verdict.fact.at().0).format("%Y-%m-%d %Hh").to_string())
        .collect();
    kept.reverse();
    kept
}

fn kept_ids(policy: &Retention, facts: &Facts) -> BTreeSet<SnapshotId> {
    let verdicts = decide(Some(policy), facts, &utc);
    verdicts.into_iter().filter(|v| v.goes.is_none()).map(|v| v.fact.id).collect()
}

/// The same facts after what goes is forgotten.
fn after(policy: &Retention, facts: &Facts) -> Facts {
    let (stay, go): (Vec<Verdict>, Vec<Verdict>) =
        decide(Some(policy), facts, &utc).into_iter().partition(|v| v.goes.is_none());
    let mut left = facts.clone();
    left.snapshots = stay.into_iter().map(|v| v.fact).collect();
    left.past.extend(go.into_iter().filter_map(|v| v.fact.received));
    left
}

#[test]
fn golden_a_year_of_nights() {
    // One a night at 01:00 from 2025-11-01 on; the last is of 2026-11-20.
    let all = facts(every("2025-11-01T01:00:00Z", 24, 385));
    let kept = stays(&policy("keep_daily = 7\nkeep_weekly = 4\nkeep_monthly = 6\nkeep_yearly = 3"), &all, &utc);
    let expected = [
        "2025-12-31",
        "2026-06-30",
        "2026-07-31",
        "2026-08-31",
        "2026-09-30",
        "2026-10-31",
        "2026-11-01",
        "2026-11-08",
        "2026-11-14",
        "2026-11-15",
        "2026-11-16",
        "2026-11-17",
        "2026-11-18",
        "2026-11-19",
        "2026-11-20",
    ];
    assert_eq!(kept, expected.map(|day| format!("{day} 01h")));
}

#[test]
fn golden_each_class_alone() {
    let all = facts(every("2024-01-01T00:30:00Z", 6, 4 * 1000));
    let last = |count: usize, rule: &str| {
        let kept = stays(&policy(rule), &all, &utc);
        assert_eq!(kept.len(), count, "{rule}: {kept:?}");
        kept
    };
    assert_eq!(last(3, "keep_last = 3"), ["2026-09-26 06h", "2026-09-26 12h", "2026-09-26 18h"]);
    assert_eq!(last(2, "keep_hourly = 2"), ["2026-09-26 12h", "2026-09-26 18h"]);
    assert_eq!(last(2, "keep_daily = 2"), ["2026-09-25 18h", "2026-09-26 18h"]);
    // 2026-09-26 is a Saturday: its week is not over, the others end on Sundays.
    assert_eq!(last(3, "keep_weekly = 3"), ["2026-09-13 18h", "2026-09-20 18h", "2026-09-26 18h"]);
    assert_eq!(last(2, "keep_monthly = 2"), ["2026-08-31 18h", "2026-09-26 18h"]);
    assert_eq!(last(3, "keep_quarterly = 3"), ["2026-03-31 18h", "2026-06-30 18h", "2026-09-26 18h"]);
    assert_eq!(last(3, "keep_yearly = 9"), ["2024-12-31 18h", "2025-12-31 18h", "2026-09-26 18h"]);
    assert_eq!(last(5, "keep_within = \"24h\"")[0], "2026-09-25 18h", "24 h back, that one included");
    assert_eq!(last(4, "keep_within_daily = \"3d\"")[0], "2026-09-23 18h");
    assert_eq!(last(3, "keep_within_monthly = \"2mo\"")[0], "2026-07-31 18h");
    assert_eq!(last(5, "min_snapshots = 5").len(), 5);
}

#[test]
fn golden_a_leap_year_and_the_turn_of_an_iso_year() {
    let all = facts(every("2027-12-25T12:00:00Z", 24, 72)); // to 2028-03-05
    assert_eq!(
        stays(&policy("keep_monthly = 12"), &all, &utc),
        ["2027-12-31 12h", "2028-01-31 12h", "2028-02-29 12h", "2028-03-05 12h"]
    );
    // 2026-12-31 (a Thursday) and 2027-01-03 (a Sunday) are of one ISO week, 2026-W53.
    let turn = facts(every("2026-12-28T12:00:00Z", 24, 8));
    assert_eq!(stays(&policy("keep_weekly = 9"), &turn, &utc), ["2027-01-03 12h", "2027-01-04 12h"]);
}

#[test]
fn golden_clocks_that_are_set_forward_and_back() {
    let berlin = zone(Tz::Europe__Berlin);
    // Forward in the night to 2026-03-29: that day has 23 hours, and each stays.
    let spring = facts(every("2026-03-28T22:30:00Z", 1, 26));
    let kept = stays(&policy("keep_hourly = 100"), &spring, &berlin);
    assert_eq!(kept.len(), 26);
    assert!(kept.contains(&"2026-03-29 01h".to_owned()) && !kept.contains(&"2026-03-29 02h".to_owned()));
    assert_eq!(
        stays(&policy("keep_daily = 9"), &spring, &berlin),
        ["2026-03-28 23h", "2026-03-29 23h", "2026-03-30 01h"]
    );
    // Back in the night to 2026-10-25: 02:30 comes twice, as two hours of one day.
    let autumn = facts(every("2026-10-24T23:30:00Z", 1, 3));
    assert_eq!(
        stays(&policy("keep_hourly = 9"), &autumn, &berlin),
        ["2026-10-25 01h", "2026-10-25 02h", "2026-10-25 02h"]
    );
    assert_eq!(stays(&policy("keep_daily = 9"), &autumn, &berlin), ["2026-10-25 02h"]);
    // The last backup of a month in UTC is of the next month in Berlin.
    let turn = facts(vec![fact(at("2026-10-31T12:00:00Z")), fact(at("2026-10-31T23:30:00Z"))]);
    assert_eq!(stays(&policy("keep_monthly = 9"), &turn, &utc).len(), 1);
    assert_eq!(stays(&policy("keep_monthly = 9"), &turn, &berlin).len(), 2);
}

#[test]
fn every_reason_is_told() {
    let mut all = every("2026-11-01T01:00:00Z", 24, 20);
    all[3].tags = vec!["release".into()];
    all[5].pinned = true;
    let all = facts(all);
    let verdicts = decide(Some(&policy("keep_last = 2\nkeep_daily = 3\nkeep_tag = [\"release\"]")), &all, &utc);
    assert_eq!(
        verdicts[0].stays,
        [
            Reason::Newest,
            Reason::Last { place: 1, of: 2, burst: false },
            Reason::Calendar { class: Class::Daily, bucket: "2026-11-20".into(), place: 1, of: 3, burst: false },
        ]
    );
    assert_eq!(verdicts[14].stays, [Reason::Pinned]);
    assert_eq!(verdicts[16].stays, [Reason::Tag { tag: "release".into() }]);
    assert_eq!(verdicts[3].goes, Some(Gone::Aged));
    let twice = facts(vec![fact(at("2026-11-01T01:00:00Z")), fact(at("2026-11-01T02:00:00Z"))]);
    let verdicts = decide(Some(&policy("keep_daily = 3")), &twice, &utc);
    let by = verdicts[0].fact.id;
    assert_eq!(verdicts[1].goes, Some(Gone::Replaced { class: Class::Daily, bucket: "2026-11-01".into(), by }));
}

#[test]
fn without_a_policy_everything_stays_and_with_an_empty_one_the_newest() {
    let all = facts(every("2026-11-01T01:00:00Z", 24, 20));
    let verdicts = decide(None, &all, &utc);
    assert!(verdicts.iter().all(|v| v.stays.contains(&Reason::NoPolicy)));
    // `forget` refuses a policy that keeps nothing; should one come through, the newest stays all the same.
    assert_eq!(stays(&policy("keep_last = 0"), &all, &utc), ["2026-11-20 01h"]);
    assert!(decide(None, &Facts::default(), &utc).is_empty());
}

#[test]
fn incomplete_ones_are_counted_apart() {
    let mut all = every("2026-11-01T01:00:00Z", 24, 20);
    for fact in &mut all[15..] {
        fact.state = State::Incomplete;
    }
    let kept = stays(&policy("keep_last = 3"), &facts(all.clone()), &utc);
    let days = ["2026-11-13", "2026-11-14", "2026-11-15", "2026-11-18", "2026-11-19", "2026-11-20"];
    assert_eq!(kept, days.map(|day| format!("{day} 01h")), "three complete ones and three others");
    // The newest stays though the policy has no place for it.
    let verdicts = decide(Some(&policy("keep_tag = [\"x\"]")), &facts(all), &utc);
    assert_eq!(verdicts[0].stays, [Reason::NewestOfAll]);
    assert_eq!(verdicts[5].stays, [Reason::Newest]);
    assert_eq!(verdicts.iter().filter(|v| v.goes.is_none()).count(), 2);
}

#[test]
fn clocks_that_jumped_push_nothing_out_and_nothing_goes_by_them() {
    let good = every("2026-11-01T01:00:00Z", 24, 20);
    let rule = policy("keep_last = 3\nkeep_daily = 5\nkeep_within = \"36h\"");
    let before = kept_ids(&rule, &facts(good.clone()));
    // From the future; dated back by years, as a thief of the host would to fill old weeks; received at an unknown time.
    let mut odd: Vec<Fact> = Vec::new();
    for n in 0..40 {
        let mut fact = fact(at("2026-11-20T02:00:00Z") + TimeDelta::minutes(n));
        match n % 4 {
            0 => fact.ended += TimeDelta::hours(2),
            1 => fact.ended = at("2020-01-01T00:00:00Z") + TimeDelta::days(7 * n),
            2 => fact.ended = Moment::MAX_UTC,
            _ => fact.received = None,
        }
        odd.push(fact);
    }
    let all = facts([good, odd.clone()].concat());
    let kept = kept_ids(&rule, &all);
    assert!(before.is_subset(&kept), "what stayed without them stays");
    assert!(odd.iter().all(|fact| kept.contains(&fact.id)), "and none of them goes unasked");
    let verdicts = decide(Some(&rule), &all, &utc);
    let told = |reason: fn(&Reason) -> bool| verdicts.iter().filter(|v| v.stays.iter().any(reason)).count();
    assert_eq!(told(|reason| matches!(reason, Reason::Clock { .. })), 30);
    assert_eq!(told(|reason| matches!(reason, Reason::NotListed)), 10);
    // An hour ahead and a day late are ordinary.
    let mut near = every("2026-11-01T01:00:00Z", 24, 3);
    near[0].ended = at("2026-11-01T02:00:00Z");
    near[1].ended = at("2026-11-01T01:00:00Z");
    assert_eq!(stays(&policy("keep_last = 1"), &facts(near), &utc).len(), 1);
}

#[test]
fn a_burst_pushes_nothing_out_and_the_newest_of_it_stays_too() {
    let good = every("2026-10-01T01:00:00Z", 24, 40);
    let rule = policy("keep_last = 7");
    let before = kept_ids(&rule, &facts(good.clone()));
    let burst: Vec<Fact> = (0..50).map(|n| fact(at("2026-11-09T02:00:00Z") + TimeDelta::minutes(10 * n))).collect();
    let all = facts([good.clone(), burst.clone()].concat());
    let kept = kept_ids(&rule, &all);
    assert!(before.is_subset(&kept), "what stayed without the burst stays");
    let of_burst = burst.iter().filter(|fact| kept.contains(&fact.id)).count();
    assert_eq!((of_burst, kept.len()), (7, 14), "the last seven, and the last seven of before");
    // It stays so when the rest is forgotten: the forgotten ones still tell what came.
    let left = after(&rule, &all);
    assert_eq!(kept_ids(&rule, &left), kept);
    // Ordinary days are no burst: two more by hand, and a source that is backed up each hour.
    let more = [good, (1..6).map(|n| fact(at("2026-11-09T01:00:00Z") + TimeDelta::hours(n))).collect()].concat();
    assert!(surplus(&facts(more)).is_empty());
    assert!(surplus(&facts(every("2026-10-01T00:00:00Z", 1, 24 * 40))).is_empty());
    // Nor is a source's first day.
    assert!(surplus(&facts(every("2026-10-01T00:00:00Z", 1, 24))).is_empty());
}

fn base(received: Moment, stream: &str) -> Fact {
    Fact { stream: Some(stream.into()), ..fact(received) }
}

#[test]
fn a_window_keeps_what_is_inside_it_and_what_its_first_moments_are_restored_from() {
    let mut all: Vec<Fact> =
        (0..6).map(|n| base(at("2026-10-01T01:00:00Z") + TimeDelta::days(7 * n), "db-1-15")).collect();
    // Another stream, from before an upgrade: its newest one serves the window too, for all that is known.
    all.insert(0, base(at("2026-09-20T01:00:00Z"), "db-1-14"));
    all.insert(0, base(at("2026-09-13T01:00:00Z"), "db-1-14"));
    let mut all = facts(all);
    all.as_of = Some(at("2026-11-10T12:00:00Z"));
    let since = at("2026-10-27T12:00:00Z");
    let verdicts = decide(Some(&policy("window = \"14d\"")), &all, &utc);
    let told: Vec<(String, Vec<Reason>)> =
        verdicts.iter().map(|v| (v.fact.at().0.date_naive().to_string(), v.stays.clone())).collect();
    let day = |day: &str, reasons: Vec<Reason>| (day.to_owned(), reasons);
    assert_eq!(
        told,
        [
            day("2026-11-05", vec![Reason::Newest, Reason::Inside { since }]),
            day("2026-10-29", vec![Reason::Inside { since }]),
            day("2026-10-22", vec![Reason::Serves { since }]),
            day("2026-10-15", vec![]),
            day("2026-10-08", vec![]),
            day("2026-10-01", vec![]),
            day("2026-09-20", vec![Reason::Serves { since }]),
            day("2026-09-13", vec![]),
        ]
    );
    // A pending or torn one serves nothing: the one before it stays.
    for state in [State::Pending, State::Incomplete] {
        let mut hurt = all.clone();
        hurt.snapshots[5].state = state;
        let kept = stays(&policy("window = \"14d\""), &hurt, &utc);
        assert_eq!(kept, ["2026-09-20", "2026-10-15", "2026-10-29", "2026-11-05"].map(|day| format!("{day} 01h")));
    }
    // One that ended inside the window though the store has it from before does not serve its first moment.
    let mut ahead = all.clone();
    ahead.as_of = Some(at("2026-11-05T01:20:00Z"));
    ahead.snapshots[5].ended = at("2026-10-22T01:30:00Z");
    assert!(stays(&policy("window = \"14d\""), &ahead, &utc).contains(&"2026-10-15 01h".to_owned()));
    // Nobody knows the time: nothing of the stream goes.
    all.as_of = None;
    assert_eq!(stays(&policy("window = \"14d\""), &all, &utc).len(), 8);
    // A source without a stream has no window.
    let plain = facts(every("2026-10-01T01:00:00Z", 24, 9));
    assert_eq!(stays(&policy("window = \"14d\""), &plain, &utc).len(), 1);
}

#[test]
fn nights_to_come_are_simulated() {
    let all = facts(every("2026-11-01T01:00:00Z", 24, 3));
    let rule = policy("keep_daily = 7\nkeep_weekly = 4\nkeep_monthly = 12");
    let verdicts = simulate(&rule, &all, 90, &utc);
    let kept: Vec<String> =
        verdicts.iter().rev().filter(|v| v.goes.is_none()).map(|v| v.fact.at().0.date_naive().to_string()).collect();
    let expected = [
        "2026-11-30",
        "2026-12-31",
        "2027-01-17",
        "2027-01-24",
        "2027-01-26",
        "2027-01-27",
        "2027-01-28",
        "2027-01-29",
        "2027-01-30",
        "2027-01-31",
        "2027-02-01",
    ];
    assert_eq!(kept, expected);
    assert_eq!(simulate(&rule, &all, 0, &utc), decide(Some(&rule), &all, &utc));
    assert!(simulate(&rule, &Facts::default(), 9, &utc).is_empty(), "nobody knows when it would begin");
}

fn some_policy() -> impl Strategy<Value = Retention> {
    let count = || prop::option::of(0u32..5);
    let span = || prop::option::of((0i64..60).prop_map(|days| format!("{days}d").parse::<Span>().unwrap()));
    ((count(), count(), count(), count(), count()), (span(), span(), span()), count(), any::<bool>()).prop_map(
        |((last, hourly, daily, weekly, yearly), (within, within_daily, window), min, tag)| Retention {
            keep_last: last,
            keep_hourly: hourly,
            keep_daily: daily,
            keep_weekly: weekly,
            keep_yearly: yearly,
            keep_within: within,
            keep_within_daily: within_daily,
            keep_tag: tag.then(|| vec!["t".to_owned()]),
            min_snapshots: min,
            window,
            ..Retention::default()
        },
    )
}

fn some_fact() -> impl Strategy<Value = Fact> {
    (0i64..24 * 90, 0u8..8, -3i64..30, any::<bool>(), any::<bool>(), 0u8..20).prop_map(
        |(hour, state, late, tag, base, pinned)| {
            let received = Utc.timestamp_opt(1_790_000_000 + hour * 3600, 0).unwrap();
            Fact {
                id: SnapshotId::new(hour as u64, [state; 10]),
                received: (state != 7).then_some(received),
                ended: received - TimeDelta::hours(late),
                state: [State::Complete, State::Complete, State::Incomplete, State::Pending][state as usize % 4],
                tags: if tag { vec!["t".to_owned()] } else { Vec::new() },
                pinned: pinned == 0,
                stream: base.then(|| "s".to_owned()),
            }
        },
    )
}

fn some_facts() -> impl Strategy<Value = Facts> {
    prop::collection::btree_map(any::<u16>(), some_fact(), 0..60).prop_map(|all| {
        let unique: BTreeMap<SnapshotId, Fact> = all.into_values().map(|fact| (fact.id, fact)).collect();
        facts(unique.into_values().collect())
    })
}

/// A policy that keeps at least as much.
fn larger(policy: &Retention, by: u32) -> Retention {
    let more = |count: Option<u32>| Some(count.unwrap_or(0) + by);
    let longer = |span: &Option<Span>| {
        span.as_ref().map(|span| format!("{}d", span.days() + i64::from(by)).parse::<Span>().unwrap())
    };
    Retention {
        keep_last: more(policy.keep_last),
        keep_hourly: more(policy.keep_hourly),
        keep_daily: more(policy.keep_daily),
        keep_weekly: policy.keep_weekly,
        keep_monthly: more(policy.keep_monthly),
        keep_yearly: more(policy.keep_yearly),
        keep_within: longer(&policy.keep_within),
        keep_within_daily: longer(&policy.keep_within_daily),
        keep_tag: policy.keep_tag.clone(),
        min_snapshots: more(policy.min_snapshots),
        window: policy.window.clone(),
        ..Retention::default()
    }
}

proptest! {
    #[test]
    fn the_newest_complete_one_stays_whatever_comes(rule in some_policy(), all in some_facts(), new in some_fact()) {
        let newest = |facts: &Facts| {
            let good = facts.snapshots.iter().filter(|f| f.state == State::Complete && f.is_sound());
            good.max_by_key(|f| f.at()).map(|f| f.id)
        };
        let before = newest(&all);
        let mut more = all.clone();
        if !more.snapshots.iter().any(|f| f.id == new.id) {
            more.snapshots.push(new.clone());
        }
        let kept = kept_ids(&rule, &more);
        prop_assert!(newest(&more).is_none_or(|id| kept.contains(&id)));
        // One that is no complete and sound one takes nothing from the newest before it.
        if new.state != State::Complete || !new.is_sound() {
            prop_assert!(before.is_none_or(|id| kept.contains(&id)));
        }
        prop_assert!(more.snapshots.is_empty() || !kept.is_empty());
    }

    #[test]
    fn what_stays_stays_when_it_is_asked_again(rule in some_policy(), all in some_facts()) {
        let once = kept_ids(&rule, &all);
        let left = after(&rule, &all);
        prop_assert_eq!(kept_ids(&rule, &left), once);
    }

    #[test]
    fn a_larger_policy_keeps_a_superset(rule in some_policy(), all in some_facts(), by in 0u32..4) {
        prop_assert!(kept_ids(&rule, &all).is_subset(&kept_ids(&larger(&rule, by), &all)));
    }

    #[test]
    fn incomplete_and_doubtful_ones_push_no_complete_one_out(rule in some_policy(), all in some_facts()) {
        let rule = Retention { window: None, ..rule };
        let mut good = all.clone();
        good.snapshots.retain(|f| f.state == State::Complete && f.is_sound());
        // What is usual is judged by all that came, in both.
        let others = all.snapshots.iter().filter(|f| !good.snapshots.iter().any(|g| g.id == f.id));
        good.past.extend(others.filter_map(|f| f.received));
        prop_assert!(kept_ids(&rule, &good).is_subset(&kept_ids(&rule, &all)));
    }

    #[test]
    fn each_verdict_is_either_with_its_reasons(rule in some_policy(), all in some_facts()) {
        let verdicts = decide(Some(&rule), &all, &utc);
        prop_assert_eq!(verdicts.len(), all.snapshots.len());
        prop_assert!(verdicts.iter().all(|v| v.stays.is_empty() == v.goes.is_some()));
        prop_assert!(verdicts.iter().all(|v| !v.fact.pinned || v.goes.is_none()));
    }
}
