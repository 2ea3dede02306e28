//! What a prune does with the packs of one writer: which are retired, which are copied into new ones first, which go now, which stay.
//!
//! Invariants: a pack is retired only if nothing in it is needed, by facts that were complete; where anything is not known nothing is
//! retired, and the reason is said. A pack goes only when its grace has passed by the store's clock and nothing needs it after all.
//! Not here: where the facts come from, streams (`needed_wal`), and carrying it out.

use serde::Serialize;

use crate::model::{Moment, PackId};

/// A pack, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pack {
    /// Its name.
    pub id: PackId,
    /// The catalog's number of it, which orders packs by age.
    pub row: i64,
    /// Stored bytes.
    pub size: u64,
    /// Stored bytes of its frames that are needed.
    pub needed: u64,
    /// Stored bytes of its frames.
    pub stored: u64,
    /// Whether any snapshot ever used something of it.
    pub ever_used: bool,
    /// When the store received the newest commit that names it.
    pub named: Option<Moment>,
    /// Whether it, and what is needed of it, was found in order when it was last looked at.
    pub is_good: bool,
    /// Where it is retired: when the store received the commit that says so, and seconds from then until it may go.
    pub retired: Option<(Option<Moment>, u64)>,
}

impl Pack {
    /// Stored bytes of frames that nothing needs.
    pub fn unused(&self) -> u64 {
        self.stored.saturating_sub(self.needed)
    }

    fn due(&self, grace: u64) -> Option<Moment> {
        let (since, promised) = self.retired?;
        due(since?, promised.max(grace))
    }
}

/// When something that was retired may go.
pub fn due(since: Moment, grace: u64) -> Option<Moment> {
    let grace = chrono::TimeDelta::try_seconds(i64::try_from(grace).ok()?)?;
    since.checked_add_signed(grace)
}

/// What is known of a writer's packs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// The writer.
    pub writer: String,
    /// The store's idea of now.
    pub store_time: Option<Moment>,
    /// Its packs that are not gone.
    pub packs: Vec<Pack>,
    /// Why the log does not tell everything, in words.
    pub unknown: Vec<String>,
    /// Whether a run is under way on this host: what no snapshot ever used may be what it stored.
    pub running: bool,
    /// Frames that snapshots need and that are nowhere any more.
    pub lost: u64,
}

/// How much is done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Unused bytes that may stay, in percent of those that are needed.
    pub max_unused: f64,
    /// Bytes that are copied at most.
    pub max_repack: Option<u64>,
    /// Seconds between retiring and deleting.
    pub grace: u64,
}

/// What is done with the packs of one writer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The writer.
    pub writer: String,
    /// Why nothing is retired or deleted; empty where all is known.
    pub unknown: Vec<String>,
    /// Packs in which nothing is needed: they are retired.
    pub retire: Vec<Pack>,
    /// Packs of which what is needed is copied; then they are retired. Those that free most for what is copied come first.
    pub repack: Vec<Pack>,
    /// Packs that were retired before and may go now.
    pub delete: Vec<Pack>,
    /// Packs that were retired before and must wait: until when, where that is known.
    pub wait: Vec<(Pack, Option<Moment>)>,
    /// Packs that were retired before and are needed after all.
    pub spare: Vec<Pack>,
    /// Packs that are retired by a clock that ran ahead, so that their grace begins anew.
    pub again: Vec<Pack>,
    /// Packs that nothing needs and that may belong to a run that is under way, or to one that ended a moment ago.
    pub young: Vec<Pack>,
    /// Packs that stay.
    pub stay: u64,
    /// Stored bytes before, of packs that are not gone.
    pub before: u64,
    /// Stored bytes of frames that are needed.
    pub needed: u64,
    /// Stored bytes of frames that are not needed, in packs that stay.
    pub unused_left: u64,
    /// Bytes that are copied.
    pub copied: u64,
    /// Frames that snapshots need and that are nowhere any more.
    pub lost: u64,
}

impl Plan {
    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        [&self.retire, &self.repack, &self.delete, &self.spare, &self.again].iter().all(|packs| packs.is_empty())
    }
    /// Stored bytes of packs that are retired by this plan, those among them that are copied first included.
    pub fn retires(&self) -> u64 {
        self.retire.iter().chain(&self.repack).map(|pack| pack.size).sum()
    }
    /// Stored bytes afterwards, when everything that is retired is gone.
    pub fn after(&self) -> u64 {
        let gone: u64 = self.retires()
            + self.delete.iter().chain(self.wait.iter().map(|(pack, _)| pack)).map(|p| p.size).sum::<u64>();
        (self.before + self.copied).saturating_sub(gone)
    }
}

/// Decides.
pub fn plan(facts: Facts, limits: Limits) -> Plan {
    let mut plan = Plan {
        writer: facts.writer,
        unknown: facts.unknown,
        before: facts.packs.iter().map(|pack| pack.size).sum(),
        needed: facts.packs.iter().map(|pack| pack.needed).sum(),
        lost: facts.lost,
        ..Plan::default()
    };
    let knows_all = plan.unknown.is_empty();
    let mut partly: Vec<Pack> = Vec::new();
    for pack in facts.packs {
        if let Some((since, _)) = pack.retired {
            judge_retired(&mut plan, pack, since, facts.store_time, limits.grace, knows_all);
        } else if pack.needed == 0 && knows_all {
            // What a run has stored and not finished yet is used by nothing. It is as old as its last commit.
            let old = pack
                .named
                .and_then(|named| due(named, limits.grace))
                .zip(facts.store_time)
                .is_some_and(|(due, now)| due <= now);
            match pack.ever_used || (old && !facts.running) {
                true => plan.retire.push(pack),
                false => plan.young.push(pack),
            }
        } else {
            plan.stay += 1;
            plan.unused_left += pack.unused();
            // A damaged pack is a repair's business.
            if knows_all && pack.is_good && pack.unused() > 0 && pack.needed > 0 {
                partly.push(pack);
            }
        }
    }
    choose(&mut plan, partly, limits);
    plan
}

fn judge_retired(plan: &mut Plan, pack: Pack, since: Option<Moment>, now: Option<Moment>, grace: u64, knows_all: bool) {
    let due = pack.due(grace);
    match (since, due, now) {
        _ if pack.needed > 0 => plan.spare.push(pack),
        _ if !knows_all => plan.wait.push((pack, due)),
        // The clock was set back since: it would wait for as long as that clock ran ahead.
        (Some(since), _, Some(now)) if since > now => plan.again.push(pack),
        (_, Some(due), Some(now)) if due <= now => plan.delete.push(pack),
        _ => plan.wait.push((pack, due)),
    }
}

/// Which packs are copied: those with the largest unused share first, until what stays unused is little enough.
fn choose(plan: &mut Plan, mut partly: Vec<Pack>, limits: Limits) {
    let allowed = (plan.needed as f64 * limits.max_unused.max(0.0) / 100.0) as u64;
    partly.sort_by(|a, b| {
        let share = |one: &Pack, other: &Pack| u128::from(one.unused()) * u128::from(other.stored.max(1));
        share(b, a).cmp(&share(a, b)).then(a.row.cmp(&b.row))
    });
    for pack in partly {
        if plan.unused_left <= allowed {
            break;
        }
        if limits.max_repack.is_some_and(|most| plan.copied + pack.needed > most) {
            continue;
        }
        plan.unused_left -= pack.unused();
        plan.copied += pack.needed;
        plan.stay -= 1;
        plan.repack.push(pack);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(hour: i64) -> Moment {
        Moment::UNIX_EPOCH + chrono::TimeDelta::hours(hour)
    }

    fn pack(row: i64, stored: u64, needed: u64) -> Pack {
        Pack {
            id: PackId::new([row as u8; 32]),
            row,
            size: stored + 100,
            needed,
            stored,
            ever_used: true,
            named: Some(at(0)),
            is_good: true,
            retired: None,
        }
    }

    fn facts(packs: Vec<Pack>) -> Facts {
        Facts { writer: "w".into(), store_time: Some(at(100)), packs, ..Facts::default() }
    }

    const LIMITS: Limits = Limits { max_unused: 5.0, max_repack: None, grace: 86_400 };

    fn rows(packs: &[Pack]) -> Vec<i64> {
        packs.iter().map(|pack| pack.row).collect()
    }

    #[test]
    fn dead_packs_are_retired_and_the_emptiest_are_copied_until_little_is_unused() {
        let packs =
            vec![pack(1, 1000, 0), pack(2, 1000, 990), pack(3, 1000, 100), pack(4, 1000, 600), pack(5, 1000, 1000)];
        let done = plan(facts(packs.clone()), LIMITS);
        assert_eq!((rows(&done.retire), rows(&done.repack)), (vec![1], vec![3, 4]));
        // 10 of 2,690 are left: one in a hundred.
        assert_eq!((done.unused_left, done.copied, done.stay), (10, 700, 2));
        assert_eq!((done.before, done.after()), (5500, 5500 + 700 - 3300));
        let all = plan(facts(packs.clone()), Limits { max_unused: 0.0, ..LIMITS });
        assert_eq!((rows(&all.repack), all.unused_left), (vec![3, 4, 2], 0));
        let none = plan(facts(packs.clone()), Limits { max_unused: 100.0, ..LIMITS });
        assert_eq!((none.repack.len(), none.copied, none.unused_left), (0, 0, 1310));
        let little = plan(facts(packs), Limits { max_repack: Some(650), ..LIMITS });
        assert_eq!(rows(&little.repack), [3], "the next one would be too much");
    }

    #[test]
    fn where_something_is_not_known_nothing_is_retired_and_nothing_goes() {
        let mut packs = vec![pack(1, 1000, 0), pack(2, 1000, 10), pack(3, 1000, 0)];
        packs[2].retired = Some((Some(at(0)), 3600));
        let done = plan(Facts { unknown: vec!["a commit is missing".into()], ..facts(packs) }, LIMITS);
        assert!(done.retire.is_empty() && done.repack.is_empty() && done.delete.is_empty());
        assert_eq!((done.wait.len(), done.stay, done.unused_left), (1, 2, 1990));
        assert!(done.is_idle());
    }

    #[test]
    fn what_was_retired_goes_after_the_longer_grace_by_the_clock_of_the_store() {
        let retired = |since, promised, now: Option<Moment>, grace| {
            let mut one = pack(1, 1000, 0);
            one.retired = Some((since, promised));
            plan(Facts { store_time: now, ..facts(vec![one]) }, Limits { grace, ..LIMITS })
        };
        let hour = 3600;
        assert_eq!(retired(Some(at(10)), 5 * hour, Some(at(15)), hour).delete.len(), 1);
        assert_eq!(retired(Some(at(10)), 5 * hour, Some(at(14)), hour).wait[0].1, Some(at(15)));
        assert_eq!(retired(Some(at(10)), 5 * hour, Some(at(15)), 6 * hour).wait[0].1, Some(at(16)));
        assert_eq!(retired(None, hour, Some(at(15)), hour).wait[0].1, None);
        assert_eq!(retired(Some(at(10)), hour, None, hour).wait.len(), 1);
        assert_eq!(retired(Some(at(10)), hour, Some(at(9)), hour).again.len(), 1, "the clock was set back");
        assert_eq!(retired(Some(at(10)), u64::MAX, Some(at(15)), hour).wait.len(), 1);
    }

    #[test]
    fn what_is_retired_and_needed_is_spared_even_where_something_is_not_known() {
        let mut one = pack(1, 1000, 1);
        one.retired = Some((Some(at(0)), 0));
        let done = plan(Facts { unknown: vec!["?".into()], ..facts(vec![one]) }, LIMITS);
        assert_eq!((done.spare.len(), done.delete.len()), (1, 0));
    }

    #[test]
    fn what_no_snapshot_ever_used_is_young_until_the_grace_has_passed_and_no_run_is_under_way() {
        let fresh = |named, running| {
            let one = Pack { ever_used: false, named, ..pack(1, 1000, 0) };
            let done = plan(Facts { running, ..facts(vec![one]) }, LIMITS);
            (done.retire.len(), done.young.len())
        };
        assert_eq!(fresh(Some(at(77)), false), (0, 1));
        assert_eq!(fresh(Some(at(76)), false), (1, 0));
        assert_eq!(fresh(Some(at(1)), true), (0, 1));
        assert_eq!(fresh(None, false), (0, 1));
    }

    proptest! {
        #[test]
        fn nothing_that_is_needed_is_retired_or_goes(
            all in prop::collection::vec((0u64..1000, 0u64..1000, any::<bool>(), any::<bool>(), 0i64..200), 0..30),
            unknown in any::<bool>(), running in any::<bool>(), max_unused in 0.0f64..100.0,
        ) {
            let packs: Vec<Pack> = all.iter().enumerate().map(|(n, (stored, needed, retired, ever_used, named))| Pack {
                retired: retired.then_some((Some(at(*named)), 3600)), ever_used: *ever_used, named: Some(at(*named)),
                ..pack(n as i64, (*stored).max(*needed), *needed)
            }).collect();
            let unknown = if unknown { vec!["?".to_owned()] } else { Vec::new() };
            let count = packs.len() as u64;
            let done = plan(Facts { unknown, running, ..facts(packs) }, Limits { max_unused, ..LIMITS });
            prop_assert!(done.retire.iter().chain(&done.delete).chain(&done.again).all(|pack| pack.needed == 0));
            prop_assert!(done.repack.iter().all(|pack| pack.needed > 0 && pack.unused() > 0));
            let seen = [&done.retire, &done.repack, &done.delete, &done.spare, &done.again, &done.young];
            let seen: usize = seen.iter().map(|packs| packs.len()).sum();
            prop_assert_eq!(seen as u64 + done.wait.len() as u64 + done.stay, count, "each pack has one fate");
        }
    }
}
