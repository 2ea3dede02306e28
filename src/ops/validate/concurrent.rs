//! Guarantees that show only while others work at the same time, or at once after a write.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::checks::{body, must};
use super::{Bench, Doubt, Seen};
use crate::store::{self, Tried};

/// Does a job for each number below `count`, several at a time; answers in the order of the numbers.
fn all<T: Send>(count: usize, at_once: usize, job: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(count)));
    std::thread::scope(|scope| {
        for _ in 0..at_once.clamp(1, count.max(1)) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        break;
                    }
                    let outcome = job(number);
                    done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((number, outcome));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, outcome)| outcome).collect()
}

/// A guarantee that was tried many times: the first complaint, and how many there were.
fn in_every_try(tries: Vec<Result<(), Doubt>>, seen: String) -> Seen {
    let count = tries.len();
    let mut wrong = tries.into_iter().filter_map(Result::err).collect::<Vec<_>>();
    let failed = wrong.len();
    match wrong.drain(..).next() {
        None => Ok(seen),
        Some(Doubt::No(first)) => Err(Doubt::No(format!("{failed} of {count} times: {first}"))),
        Some(other) => Err(other),
    }
}

pub(super) fn read_after_write(bench: &Bench<'_>) -> Seen {
    let store = bench.scratch.store();
    let tries = all(bench.scale.rounds, bench.scale.racers, |n| {
        let (key, body) = (format!("read/{n}"), body(&format!("read {n}"), 1000 + n));
        // Looked for first: some stores remember for a while that it was not there.
        must(store.size(&key)?.is_none(), || format!("`{key}` was there before it was put"))?;
        store.appender().create(&key, std::slice::from_ref(&body))?;
        must(store.size(&key)? == Some(body.len() as u64), || format!("`{key}` was not found right after its put"))?;
        let read = match store.get(&key, body.len() as u64) {
            Err(store::Error::NotFound { .. }) => None,
            other => Some(other?),
        };
        must(read.is_some(), || format!("`{key}` could not be read right after its put"))?;
        must(read == Some(body), || format!("`{key}` was read with other bytes right after its put"))
    });
    let seen = format!("{} objects, looked for, put, and at once found and read", bench.scale.rounds);
    in_every_try(tries, seen)
}

pub(super) fn list_after_write(bench: &Bench<'_>) -> Seen {
    let store = bench.scratch.store();
    let tries = all(bench.scale.rounds, bench.scale.racers, |n| {
        let (folder, size) = (format!("list/{}", n % 4), 100 + n);
        let key = format!("{folder}/{n:06}");
        store.appender().create(&key, &[body("list", size)])?;
        let shown = |after: Option<&str>| -> Result<bool, store::Error> {
            let listed = store.list(&folder, after)?;
            Ok(listed.iter().any(|object| object.key == key && object.size == size as u64))
        };
        must(shown(None)?, || format!("`{key}` was not listed right after its put"))?;
        // As a log is listed: beyond the last commit that is known.
        let before = format!("{folder}/{:06}", n.saturating_sub(1));
        must(n == 0 || shown(Some(&before))?, || format!("`{key}` was not listed behind `{before}`"))
    });
    in_every_try(tries, format!("{} objects, each listed at once after its put", bench.scale.rounds))
}

pub(super) fn long_listings(bench: &Bench<'_>) -> Seen {
    if !bench.can_delete {
        let why = "not tried: nothing can be deleted here, and it would leave many objects";
        return Err(Doubt::Unknown(why.to_owned()));
    }
    let (store, count) = (bench.scratch.store(), bench.scale.objects);
    let key = |n: usize| format!("long/{n:06}");
    let puts = all(count, 16, |n| store.appender().create(&key(n), &[body("long", 1)]).map(|_| ()));
    puts.into_iter().collect::<Result<(), _>>()?;
    for after in [None, Some(count / 2)] {
        let expected: BTreeSet<String> = (after.map_or(0, |n| n + 1)..count).map(key).collect();
        let after = after.map(key);
        let listed: Vec<String> = store.list("long", after.as_deref())?.into_iter().map(|o| o.key).collect();
        let distinct: BTreeSet<String> = listed.iter().cloned().collect();
        must(distinct == expected && listed.len() == expected.len(), || {
            format!(
                "a listing of {} objects showed {}, {} different ones",
                expected.len(),
                listed.len(),
                distinct.len()
            )
        })?;
    }
    Ok(format!("{count} objects were listed, each once, from the beginning and from the middle"))
}

pub(super) fn create_in_a_race(bench: &Bench<'_>) -> Seen {
    let (rounds, racers) = (bench.scale.rounds / 4, bench.scale.racers);
    let (mut double, mut nobody) = (0, 0);
    for round in 0..rounds {
        let key = format!("race/{round}");
        let bodies: Vec<_> = (0..racers).map(|n| body(&format!("race {round} {n}"), 10_000)).collect();
        let tries = all(racers, racers, |n| bench.scratch.create(&key, &bodies[n]));
        let tries = tries.into_iter().collect::<Result<Vec<_>, _>>()?;
        if tries.contains(&Tried::Refused) {
            return Err(Doubt::Refused("the store does not know conditional puts".to_owned()));
        }
        let winners: Vec<usize> = (0..racers).filter(|n| tries[*n] == Tried::Done).collect();
        let there = bench.scratch.store().get(&key, 10_000)?;
        must(bodies.contains(&there), || format!("`{key}` holds what nobody wrote"))?;
        match winners[..] {
            [winner] => must(bodies[winner] == there, || format!("`{key}` holds what was said to be refused"))?,
            [] => nobody += 1,
            _ => double += 1,
        }
    }
    must(double == 0, || format!("in {double} of {rounds} races of {racers} several were told that they created it"))?;
    must(nobody == 0, || format!("in {nobody} of {rounds} races of {racers} nobody was told that they created it"))?;
    Ok(format!("in {rounds} races of {racers} one created the object, and all others were refused"))
}

pub(super) fn list_after_delete(bench: &Bench<'_>) -> Seen {
    if !bench.can_delete {
        return Err(Doubt::Refused("the store lets nobody delete with these credentials".to_owned()));
    }
    let store = bench.scratch.store();
    let tries = all(bench.scale.rounds / 4, bench.scale.racers, |n| {
        let key = format!("delete/{n}/x");
        store.appender().create(&key, &[body("delete", 10)])?;
        bench.scratch.delete(&key)?;
        let listed = store.list(&format!("delete/{n}"), None)?;
        must(listed.is_empty(), || format!("`{key}` was listed right after it was deleted"))?;
        must(store.size(&key)?.is_none(), || format!("`{key}` was found right after it was deleted"))
    });
    in_every_try(tries, format!("{} objects, each gone from listings at once", bench.scale.rounds / 4))
}

pub(super) fn whole_objects(bench: &Bench<'_>) -> Seen {
    let store = bench.scratch.store();
    let whole = body("whole", 8 << 20);
    let size = whole.len() as u64;
    // Half of an object, or none of its bytes, must never be seen.
    let look = |key: &str| -> Result<(), Doubt> {
        let found = match store.size(key) {
            // Another finding: what is missing must not look forbidden.
            Err(store::Error::Denied { .. }) => None,
            other => other?,
        };
        let listed = store.list("whole", None)?;
        match found.into_iter().chain(listed.iter().map(|object| object.size)).find(|seen| *seen != size) {
            Some(part) => Err(Doubt::No(format!("an object of {size} bytes was seen with {part}"))),
            None => Ok(()),
        }
    };
    let (done, looks) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (put, seen) = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                look("whole/put")?;
                looks.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        let put = bench.scratch.overwrite("whole/put", &whole);
        done.store(true, Ordering::Release);
        (put, watcher.join().unwrap_or_else(|_| Err(Doubt::Unknown("a thread ended early".to_owned()))))
    });
    put?;
    seen?;
    let read = match store.get("whole/put", size) {
        // Another finding: that a new object is not seen at once. Looked at while it was missing, it may be remembered so.
        Err(store::Error::NotFound { .. }) => store.get("whole/put", size)?,
        other => other?,
    };
    must(read == whole, || "it came back with other bytes".to_owned())?;
    // Hung up at different moments; a put that is done before is no harm.
    let mut cut = 0;
    for (n, pause) in [1, 3, 10, 30].into_iter().enumerate() {
        let key = format!("whole/cut-{n}");
        cut += usize::from(!bench.scratch.cut_off(&key, &whole, Duration::from_millis(pause))?);
        for _ in 0..4 {
            look(&key)?;
        }
    }
    let looks = looks.into_inner();
    Ok(format!("8 MiB, looked at {looks} times during the put, and {cut} puts that were cut off: all of it or nothing"))
}
