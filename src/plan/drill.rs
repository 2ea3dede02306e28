//! What a drill aims at, what follows from what it measured, and how long the next restore will take by what drills measured.

use chrono::TimeDelta;

use crate::model::drill::{CheckEnd, DrillCheck, DrillRecord, Phase, Verdict};
use crate::model::{Moment, SnapshotId};

/// Which moment a drill restores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// The newest.
    Latest,
    /// A moment of the recovery window that the seed chooses.
    Random(u64),
    /// This one.
    Time(Moment),
    /// As old as the objective allows at most.
    NowRpo,
}

impl At {
    /// As it is written in records.
    pub fn words(&self) -> String {
        match self {
            Self::Latest => "latest".to_owned(),
            Self::Random(seed) => format!("random:{seed}"),
            Self::Time(moment) => moment.format("%Y-%m-%dT%H:%M:%S%.fZ").to_string(),
            Self::NowRpo => "now-rpo".to_owned(),
        }
    }

    /// The moment that is asked for; `None` is the newest. `windows` are the stretches of time that can be had, each from its first to
    /// its last moment; those of sources without a stream have no length.
    pub fn moment(
        &self,
        now: Moment,
        rpo: Option<TimeDelta>,
        windows: &[(Moment, Moment)],
    ) -> Result<Option<Moment>, NoAim> {
        match self {
            Self::Latest => Ok(None),
            Self::Time(moment) => Ok(Some(*moment)),
            Self::NowRpo => {
                let rpo = rpo.ok_or(NoAim::NoObjective)?;
                Ok(Some(now.checked_sub_signed(rpo).unwrap_or(now)))
            }
            Self::Random(seed) => pick(*seed, windows).map(Some).ok_or(NoAim::Nothing),
        }
    }
}

/// Why a drill has nothing to aim at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoAim {
    /// `now-rpo` without an objective.
    #[error("`now-rpo` needs an objective, and the source has none")]
    NoObjective,
    /// Nothing can be restored.
    #[error("nothing can be restored yet")]
    Nothing,
}

/// A number that looks like chance, from a seed; the same on every machine and in every version.
fn scramble(seed: u64) -> u64 {
    // SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// First a window, then a moment in it: a long quiet one does not hide the others.
fn pick(seed: u64, windows: &[(Moment, Moment)]) -> Option<Moment> {
    let (from, to) = windows.get((scramble(seed) % windows.len().max(1) as u64) as usize)?;
    let length = (*to - *from).num_microseconds().unwrap_or(0).max(0) as u64;
    let within = scramble(seed ^ 0x5bd1_e995) % (length + 1);
    from.checked_add_signed(TimeDelta::microseconds(within as i64))
}

/// A seed for who named none: another one for each drill, told so that it can be asked for again.
pub fn seed_of(id: &SnapshotId) -> u64 {
    id.to_string().bytes().fold(0, |seed, byte| scramble(seed ^ u64::from(byte))) % 1_000_000
}

/// What follows from the checks and the clocks, the data first.
pub fn verdict(record: &DrillRecord) -> (Verdict, Option<String>) {
    let is_failed = |check: &&DrillCheck| check.end == CheckEnd::Failed;
    if let Some(check) = record.checks.iter().find(is_failed) {
        let more = record.checks.iter().filter(is_failed).count() - 1;
        let others = if more == 0 { String::new() } else { format!("; {more} more failed") };
        return (Verdict::DataFailed, Some(format!("{}: {}{others}", check.name, check.detail)));
    }
    let over = |measured: Option<u64>, limit: Option<u64>| {
        let (measured, limit) = measured.zip(limit).filter(|(measured, limit)| measured > limit)?;
        Some((measured as f64 / 1000.0, limit as f64 / 1000.0))
    };
    if let Some((measured, limit)) = over(record.rto_ms, record.rto_limit_ms) {
        return (Verdict::RtoMissed, Some(format!("it took {measured:.1} s; the objective is {limit:.0} s")));
    }
    if let Some((measured, limit)) = over(record.rpo_ms, record.rpo_limit_ms) {
        let text = format!("the newest recovery point was {measured:.0} s old; the objective is {limit:.0} s");
        return (Verdict::RpoMissed, Some(text));
    }
    // An objective that nothing was measured against is not met.
    if record.rpo_limit_ms.is_some() && record.rpo_ms.is_none() {
        return (Verdict::RpoMissed, Some("there is no recovery point".to_owned()));
    }
    (Verdict::Passed, None)
}

/// A moment for several sources together: one that each of them had recovery points before and behind, chosen by a seed. `windows` are
/// those of each source, as for [`At::moment`].
///
/// # Errors
/// There is no such moment: one has nothing that can be restored, or ended before another began.
pub fn joint_moment(seed: u64, windows: &[Vec<(Moment, Moment)>]) -> Result<Moment, NoAim> {
    let first = |of: &Vec<(Moment, Moment)>| of.iter().map(|(from, _)| *from).min();
    let last = |of: &Vec<(Moment, Moment)>| of.iter().map(|(_, to)| *to).max();
    let all: Option<Vec<(Moment, Moment)>> = windows.iter().map(|of| first(of).zip(last(of))).collect();
    let all = all.ok_or(NoAim::Nothing)?;
    let from = all.iter().map(|(from, _)| *from).max().ok_or(NoAim::Nothing)?;
    let to = all.iter().map(|(_, to)| *to).min().ok_or(NoAim::Nothing)?;
    pick(seed, &[(from, to)]).filter(|_| from <= to).ok_or(NoAim::Nothing)
}

/// One record of a group's drill from those of its sources, which were restored one after another as `restore --group` does: their times
/// are added, the oldest newest recovery point counts, each source is a check. `limits` are the group's own RTO and RPO in milliseconds.
pub fn together(first: DrillRecord, of: &[DrillRecord], limits: (Option<u64>, Option<u64>)) -> DrillRecord {
    let mut whole = DrillRecord {
        kind: "group".to_owned(),
        phases: Vec::new(),
        checks: Vec::new(),
        fetched_bytes: 0,
        restored_bytes: 0,
        segments: 0,
        sabotaged: false,
        canary: None,
        ..first
    };
    (whole.rto_limit_ms, whole.rpo_limit_ms) = limits;
    let all = |value: fn(&DrillRecord) -> Option<u64>| of.iter().map(value).collect::<Option<Vec<u64>>>();
    whole.rto_ms = all(|record| record.rto_ms).map(|all| all.into_iter().fold(0, u64::saturating_add));
    whole.rpo_ms = all(|record| record.rpo_ms).and_then(|all| all.into_iter().max());
    whole.shows = of.iter().filter_map(|record| record.shows).min();
    whole.newest = of.iter().map(|record| record.newest).min().flatten();
    for record in of {
        whole.fetched_bytes = whole.fetched_bytes.saturating_add(record.fetched_bytes);
        whole.restored_bytes = whole.restored_bytes.saturating_add(record.restored_bytes);
        whole.segments = whole.segments.saturating_add(record.segments);
        whole.sabotaged |= record.sabotaged;
        for part in &record.phases {
            match whole.phases.iter_mut().find(|own| own.phase == part.phase) {
                Some(own) => own.ms = own.ms.saturating_add(part.ms),
                None => whole.phases.push(*part),
            }
        }
        // Late or old is for the objectives to say.
        let end = match record.verdict {
            Verdict::DataFailed | Verdict::NotHeld => CheckEnd::Failed,
            Verdict::Passed | Verdict::RtoMissed | Verdict::RpoMissed => CheckEnd::Passed,
        };
        let detail = match (&record.problem, end) {
            (Some(problem), _) => problem.clone(),
            (None, _) => format!("{} checks", record.checks.len()),
        };
        let ms = record.phases.iter().map(|part| part.ms).fold(0, u64::saturating_add);
        whole.checks.push(DrillCheck { name: format!("source {}", record.source), end, detail, ms });
    }
    let found = verdict(&whole);
    let is_held = |record: &DrillRecord| record.verdict != Verdict::NotHeld;
    let (judged, problem) = match of.iter().any(|record| record.verdict == Verdict::DataFailed) {
        true => found,
        // What could not be held says nothing of the data.
        false if !of.iter().all(is_held) => (Verdict::NotHeld, found.1),
        // Of its own objectives first, then of those of its sources.
        false if found.0 == Verdict::Passed => {
            of.iter().find(|record| !record.verdict.is_green()).map_or(found, |record| {
                (record.verdict, record.problem.as_ref().map(|why| format!("{}: {why}", record.source)))
            })
        }
        false => found,
    };
    (whole.verdict, whole.problem) = (judged, problem);
    whole
}

/// How long a restore will take, by the newest drill of the source that got that far.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Estimate {
    /// Seconds.
    pub seconds: f64,
    /// When that drill began.
    pub drilled: Moment,
}

/// Fetching grows with the bytes, replaying with the files of the log; what else it took stays as it was.
pub fn estimate<'r>(
    records: impl Iterator<Item = &'r DrillRecord>,
    source: &str,
    fetch_bytes: u64,
    segments: u64,
) -> Option<Estimate> {
    let of_source = records.filter(|record| record.source == source && record.rto_ms.is_some());
    let record = of_source.max_by_key(|record| (record.began, record.id))?;
    let scale = |ms: u64, now: u64, then: u64| match then {
        0 => ms as f64,
        then => ms as f64 * now as f64 / then as f64,
    };
    let fetch = scale(record.ms_of(Phase::Fetch), fetch_bytes, record.fetched_bytes);
    let replay = record.ms_of(Phase::Wait) + record.ms_of(Phase::Replay);
    let replay = scale(replay, segments, record.segments);
    let rest: u64 = [Phase::Plan, Phase::Start, Phase::Assert].iter().map(|phase| record.ms_of(*phase)).sum();
    Some(Estimate { seconds: (fetch + replay + rest as f64) / 1000.0, drilled: record.began })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::drill::PhaseTime;

    fn at(second: i64) -> Moment {
        Moment::from_timestamp(second, 0).unwrap()
    }

    fn record() -> DrillRecord {
        DrillRecord {
            id: SnapshotId::new(1, [0; 10]),
            source: "db".into(),
            kind: "postgres".into(),
            host: "h".into(),
            began: at(1000),
            ended: at(1100),
            at: "latest".into(),
            target: None,
            shows: Some(at(990)),
            newest: Some(at(990)),
            snapshot: None,
            verdict: Verdict::Passed,
            problem: None,
            phases: [(Phase::Plan, 1000), (Phase::Fetch, 10_000), (Phase::Replay, 20_000), (Phase::Check, 100_000)]
                .map(|(phase, ms)| PhaseTime { phase, ms })
                .to_vec(),
            rto_ms: Some(31_000),
            rpo_ms: Some(10_000),
            rto_limit_ms: None,
            rpo_limit_ms: None,
            fetched_bytes: 1000,
            restored_bytes: 4000,
            segments: 10,
            checks: Vec::new(),
            sabotaged: false,
            canary: None,
        }
    }

    #[test]
    fn moments_by_chance_lie_in_a_window_and_come_again_by_their_seed() {
        let windows = [(at(100), at(200)), (at(500), at(500)), (at(900), at(1000))];
        let mut hit = [0; 3];
        for seed in 0..300 {
            let moment = At::Random(seed).moment(at(2000), None, &windows).unwrap().unwrap();
            let window = windows.iter().position(|(from, to)| (*from..=*to).contains(&moment));
            hit[window.unwrap()] += 1;
            assert_eq!(At::Random(seed).moment(at(9000), None, &windows).unwrap(), Some(moment));
        }
        assert!(hit.iter().all(|hits| *hits > 50), "{hit:?}");
        assert_eq!(At::Random(1).moment(at(1), None, &[]), Err(NoAim::Nothing));
        assert_eq!(At::NowRpo.moment(at(100), None, &windows), Err(NoAim::NoObjective));
        assert_eq!(At::NowRpo.moment(at(100), Some(TimeDelta::seconds(30)), &windows), Ok(Some(at(70))));
    }

    #[test]
    fn data_comes_before_clocks() {
        assert_eq!(verdict(&record()).0, Verdict::Passed);
        let late = DrillRecord { rto_limit_ms: Some(30_000), rpo_limit_ms: Some(5000), ..record() };
        assert_eq!(verdict(&late).0, Verdict::RtoMissed);
        assert_eq!(verdict(&DrillRecord { rto_limit_ms: Some(31_000), ..late.clone() }).0, Verdict::RpoMissed);
        let check = |end| DrillCheck { name: "sql".into(), end, detail: "f".into(), ms: 0 };
        let wrong = DrillRecord { checks: vec![check(CheckEnd::Passed), check(CheckEnd::Failed)], ..late.clone() };
        assert_eq!(verdict(&wrong), (Verdict::DataFailed, Some("sql: f".to_owned())));
        let skipped = DrillRecord { checks: vec![check(CheckEnd::Skipped)], ..record() };
        assert_eq!(verdict(&skipped).0, Verdict::Passed);
        let nothing = DrillRecord { rpo_limit_ms: Some(5000), rpo_ms: None, ..record() };
        assert_eq!(verdict(&nothing).0, Verdict::RpoMissed, "what was not measured is not met");
    }

    #[test]
    fn a_group_has_one_moment_and_one_result() {
        let windows = [vec![(at(100), at(100)), (at(300), at(300))], vec![(at(200), at(500))]];
        let moments: Vec<Moment> = (0..50).map(|seed| joint_moment(seed, &windows).unwrap()).collect();
        assert!(moments.iter().all(|moment| (at(200)..=at(300)).contains(moment)), "{moments:?}");
        assert_eq!(joint_moment(1, &[vec![(at(1), at(2))], vec![(at(3), at(4))]]), Err(NoAim::Nothing));
        assert_eq!(joint_moment(1, &[vec![(at(1), at(2))], vec![]]), Err(NoAim::Nothing));

        let other = |verdict, problem: Option<&str>| DrillRecord {
            source: "files".into(),
            verdict,
            problem: problem.map(str::to_owned),
            rpo_ms: Some(20_000),
            ..record()
        };
        let whole = |one: DrillRecord, limits| together(record(), &[record(), one], limits);
        let passed = whole(other(Verdict::Passed, None), (Some(62_000), None));
        assert_eq!((passed.verdict, passed.rto_ms, passed.rpo_ms), (Verdict::Passed, Some(62_000), Some(20_000)));
        assert_eq!((passed.ms_of(Phase::Fetch), passed.segments, passed.checks.len()), (20_000, 20, 2));
        let late = whole(other(Verdict::Passed, None), (Some(61_000), None));
        assert_eq!(late.verdict, Verdict::RtoMissed, "one after another they take too long");
        let failed = whole(other(Verdict::DataFailed, Some("files: x")), (Some(1), None));
        assert_eq!((failed.verdict, failed.problem), (Verdict::DataFailed, Some("source files: files: x".to_owned())));
        assert_eq!(whole(other(Verdict::NotHeld, Some("no space")), (None, None)).verdict, Verdict::NotHeld);
        let own = whole(other(Verdict::RpoMissed, Some("old")), (None, None));
        assert_eq!((own.verdict, own.problem), (Verdict::RpoMissed, Some("files: old".to_owned())));
    }

    #[test]
    fn estimates_grow_with_bytes_and_log() {
        let all = [record(), DrillRecord { began: at(1), fetched_bytes: 1, ..record() }];
        let found = estimate(all.iter(), "db", 2000, 5).unwrap();
        assert_eq!((found.seconds, found.drilled), (1.0 + 20.0 + 10.0, at(1000)), "by the newest");
        assert_eq!(estimate(all.iter(), "other", 1, 1), None);
        let failed = [DrillRecord { rto_ms: None, ..record() }];
        assert_eq!(estimate(failed.iter(), "db", 1, 1), None);
    }
}
