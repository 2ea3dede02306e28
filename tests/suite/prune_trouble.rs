//! Pruning when things go wrong: killed at every operation, beside a backup, a clone and another prune, in a log with a hole or a fork,
//! with writes that land late and clocks that jump.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use lifeboat::model::Moment;
use lifeboat::ops;
use lifeboat::ops::check::ReadData;
use lifeboat::ops::prune::{PruneError, plan, prune};
use lifeboat::progress::Silent;
use lifeboat::repository;
use object_store::ObjectStore;

use crate::common::clocked::Clocked;
use crate::common::faulty::{Fails, Faulty};
use crate::common::pruned::{DAY, Meanwhile, Nights, TONIGHT, forget_on, options, prune_on, prune_with};
use crate::common::{Host, clock, merge_store, tree};

/// Three snapshots of which the first is forgotten.
fn scene() -> (Nights, Vec<String>) {
    let mut scene = Nights::new();
    let ids = scene.nights(3);
    forget_on(&scene.host, &ids[..1]);
    (scene, ids)
}

/// The large file of the first night comes back: a backup refers to what only the forgotten snapshot used.
fn as_in_the_first_night(scene: &Nights) {
    fs::write(scene.source.path().join("tonight"), tree::noise(TONIGHT, 1)).unwrap();
    tree::age(scene.source.path());
}

fn settle(scene: &Nights, host: &Host) {
    for _ in 0..3 {
        prune_on(host).unwrap();
        scene.store.advance(25);
    }
}

#[test]
fn a_backup_that_began_before_keeps_what_it_refers_to() {
    let (mut scene, ids) = scene();
    as_in_the_first_night(&scene);
    let (other, store) = (scene.host.second(), scene.store.clone());
    let deed = move || {
        assert!(prune_on(&other).unwrap().packs_retired > 0);
        store.advance(11);
    };
    let report = Meanwhile::new(scene.source.path(), deed).backup(&scene.host, clock()).unwrap();
    assert_eq!(report.counts.data_new, 0, "{report:?}");
    let newest = report.record.id.to_string();
    scene.trees.insert(newest.clone(), tree::describe(scene.source.path()));
    let all = [ids[1].clone(), ids[2].clone(), newest];
    settle(&scene, &scene.host);
    assert!(!scene.store.take_deleted().is_empty());
    scene.holds(&scene.host, &all);
    assert_eq!(scene.host.stats().unused_bytes, 0);
}

#[test]
fn a_backup_that_notices_too_late_fails_and_its_snapshot_is_no_promise() {
    for (hours, again) in [(13, false), (25, true)] {
        let (mut scene, ids) = scene();
        as_in_the_first_night(&scene);
        let (other, store) = (scene.host.second(), scene.store.clone());
        let deed = move || {
            prune_on(&other).unwrap();
            store.advance(hours);
            if again {
                assert!(prune_on(&other).unwrap().packs_deleted > 0);
            }
        };
        let error = Meanwhile::new(scene.source.path(), deed).backup(&scene.host, clock()).unwrap_err();
        assert!(matches!(error, ops::Error::Repository(repository::Error::Lapsed { .. })), "{error}");
        scene.restores(&scene.host, &ids[1..]);
        // Run again, it stores anew what it lacks.
        let report = scene.host.backup(scene.source.path()).unwrap();
        let newest = report.record.id.to_string();
        scene.trees.insert(newest.clone(), tree::describe(scene.source.path()));
        settle(&scene, &scene.host);
        scene.holds(&scene.host, &[ids[1].clone(), ids[2].clone(), newest]);
    }
}

#[test]
fn a_backup_does_not_mind_what_moves_while_it_runs() {
    let (mut scene, ids) = scene();
    scene.change();
    let other = scene.host.second();
    let deed = move || assert!(prune_on(&other).unwrap().frames_copied > 0);
    let report = Meanwhile::new(scene.source.path(), deed).backup(&scene.host, clock()).unwrap();
    let newest = report.record.id.to_string();
    scene.trees.insert(newest.clone(), tree::describe(scene.source.path()));
    settle(&scene, &scene.host);
    scene.holds(&scene.host, &[ids[1].clone(), ids[2].clone(), newest]);
}

#[test]
fn packs_of_a_run_that_is_under_way_are_in_use_however_long_it_takes() {
    let (mut scene, ids) = scene();
    scene.change();
    let (other, store) = (scene.host.second(), scene.store.clone());
    let deed = move || {
        for _ in 0..3 {
            store.advance(48);
            prune_on(&other).unwrap();
        }
        let error = prune_with(&other, &options(0.0, 60)).unwrap_err();
        assert!(matches!(error, ops::Error::Prune(PruneError::Running(60))), "{error}");
    };
    let report = Meanwhile::new(scene.source.path(), deed).backup(&scene.host, clock()).unwrap();
    let newest = report.record.id.to_string();
    scene.trees.insert(newest.clone(), tree::describe(scene.source.path()));
    scene.holds(&scene.host, &[ids[1].clone(), ids[2].clone(), newest]);
}

/// A clone of the host does not see its locks. What it takes for litter is missed before a commit names it.
#[test]
fn packs_that_a_clone_took_for_litter_are_missed_before_a_commit_names_them() {
    let (mut scene, ids) = scene();
    scene.change();
    // More than one pack, so that one is in the store before everything was read.
    fs::write(scene.source.path().join("large"), tree::noise(40 << 20, 5)).unwrap();
    let clone = scene.host.clone_state(Arc::new(scene.store.clone()));
    let (store, ahead) = (scene.store.clone(), Arc::new(AtomicI64::new(0)));
    let (jump, base, before) = (Arc::clone(&ahead), clock(), scene.store.keys("/packs/"));
    let deed = move || {
        let fresh = || store.keys("/packs/").into_iter().filter(|key| !before.contains(key)).collect::<Vec<_>>();
        while fresh().is_empty() {
            std::thread::yield_now();
        }
        let key = fresh().remove(0);
        store.advance(48);
        jump.store(48, Ordering::SeqCst);
        assert_eq!(prune_on(&clone).unwrap().litter, 1);
        assert!(!store.keys("/packs/").contains(&key));
    };
    let clock: Arc<dyn Fn() -> Moment + Send + Sync> =
        Arc::new(move || base() + chrono::TimeDelta::hours(ahead.load(Ordering::SeqCst)));
    let error = Meanwhile::new(scene.source.path(), deed).backup(&scene.host, clock).unwrap_err();
    assert!(matches!(error, ops::Error::Repository(repository::Error::Lapsed { .. })), "{error}");
    scene.restores(&scene.host, &ids[1..]);
    let report = scene.host.backup(scene.source.path()).unwrap();
    let newest = report.record.id.to_string();
    scene.trees.insert(newest.clone(), tree::describe(scene.source.path()));
    scene.restores(&scene.host, &[ids[1].clone(), ids[2].clone(), newest]);
}

#[test]
fn two_branches_of_a_cloned_host_spare_what_the_other_needs() {
    let (mut scene, ids) = scene();
    as_in_the_first_night(&scene);
    // A clone that sees nothing of what the host does meanwhile commits a snapshot; the host retires what that one refers to.
    let (elsewhere, clone) = scene.fork();
    let report = clone.backup(scene.source.path()).unwrap();
    assert_eq!(report.counts.data_new, 0);
    let newest = report.record.id.to_string();
    scene.trees.insert(newest.clone(), tree::describe(scene.source.path()));
    assert!(prune_on(&scene.host).unwrap().packs_retired > 0);
    scene.store.advance(25);
    let known = scene.store.keys("");
    for key in elsewhere.keys("").iter().filter(|key| !known.contains(key)) {
        scene.store.put_there(key, elsewhere.remove(key));
    }
    // Two ends of the log: nothing is retired, nothing goes.
    let (mut repository, problems) = scene.host.open(None).unwrap();
    let prepared = plan(&mut repository, &options(0.0, DAY), &|_| None, &problems).unwrap();
    assert!(prepared.packs.unknown.iter().any(|why| why.contains("two commits")), "{:?}", prepared.packs.unknown);
    drop(repository);
    // But what the clone needs is kept, and that commit joins them.
    let done = prune_on(&scene.host).unwrap();
    assert_eq!((done.packs_retired, done.packs_deleted), (0, 0), "{done:?}");
    assert!(done.kept > 0, "{done:?}");
    assert_eq!(scene.store.take_deleted(), Vec::<String>::new());
    scene.change();
    let report = scene.host.backup(scene.source.path()).unwrap();
    let joined = report.record.id.to_string();
    scene.trees.insert(joined.clone(), tree::describe(scene.source.path()));
    settle(&scene, &scene.host);
    let mut all = vec![ids[1].clone(), ids[2].clone(), newest, joined];
    all.sort();
    scene.sound(&scene.host, &all);
    scene.restores(&clone_on(&clone, &scene.store), &all);
}

fn clone_on(host: &Host, store: &Clocked) -> Host {
    host.clone_state(Arc::new(store.clone()))
}

#[test]
fn a_plan_that_is_old_when_it_is_carried_out_frees_nothing_that_is_needed() {
    let (mut scene, ids) = scene();
    let (mut repository, problems) = scene.host.open(None).unwrap();
    let early = options(0.0, DAY);
    let old = plan(&mut repository, &early, &|_| None, &problems).unwrap();
    // Meanwhile the first night's file is backed up again, by another process, and a clone prunes too.
    as_in_the_first_night(&scene);
    let report = scene.host.second().backup(scene.source.path()).unwrap();
    assert_eq!(report.counts.data_new, 0);
    let newest = report.record.id.to_string();
    scene.trees.insert(newest.clone(), tree::describe(scene.source.path()));
    let done = prune(&mut repository, old, &early, &|_| None, &*clock(), &Silent).unwrap();
    drop(repository);
    let all = [ids[1].clone(), ids[2].clone(), newest];
    scene.holds(&scene.host, &all);
    let clone = clone_on(&scene.host, &scene.store);
    prune_on(&clone).unwrap();
    settle(&scene, &scene.host);
    prune_on(&clone).unwrap();
    scene.holds(&scene.host, &all);
    scene.restores(&clone, &all);
    drop(done);
}

/// Stops a prune at every operation, in both of its nights.
#[test]
fn a_prune_may_stop_at_every_operation_of_the_store() {
    let (scene, ids) = scene();
    let mut total = 0;
    for night in 0..2 {
        let begin = || {
            let (store, host) = scene.fork();
            if night == 1 {
                prune_on(&host).unwrap();
                store.advance(25);
            }
            (store, host)
        };
        let (store, host) = begin();
        let counting = Faulty::new(Arc::new(store), 0, Fails::Before);
        prune_on(&Host { objects: counting.clone(), ..host }).unwrap();
        let operations = counting.operations();
        total += operations;
        for fails in [Fails::Before, Fails::After] {
            for n in 1..=operations {
                let context = format!("night {night}, stopped {fails:?} operation {n} of {operations}");
                let (store, host) = begin();
                let objects: Arc<dyn ObjectStore> = Arc::new(store.clone());
                let mut host = Host { objects: Faulty::new(Arc::clone(&objects), n, fails), ..host };
                let outcome = prune_on(&host);
                host.objects = objects;
                // What it left behind serves at once.
                scene.restores(&host, &ids[1..]);
                for _ in 0..3 {
                    prune_on(&host).unwrap_or_else(|e| panic!("{context}, repeated: {e}"));
                    store.advance(25);
                }
                let stats = host.stats();
                assert_eq!((stats.unused_bytes, stats.retired_bytes), (0, 0), "{context}: {stats:?} {outcome:?}");
                let named = store.keys("/packs/").len() as u64;
                assert_eq!(named, stats.packs, "{context}: nothing lies about");
                scene.restores(&host, &ids[1..]);
            }
        }
    }
    assert!(total > 25, "{total} operations are fewer than there should be");
}

#[test]
fn what_a_killed_run_left_is_collected_after_the_grace_and_not_before() {
    let (mut scene, ids) = scene();
    prune_on(&scene.host).unwrap();
    scene.store.advance(25);
    prune_on(&scene.host).unwrap();
    scene.store.take_deleted();
    // A pack that reached the store late, after its run had died and others had ended well.
    scene.change();
    let (elsewhere, clone) = scene.fork();
    clone.backup(scene.source.path()).unwrap();
    let known = scene.store.keys("/packs/");
    let late: Vec<String> = elsewhere.keys("/packs/").into_iter().filter(|key| !known.contains(key)).collect();
    assert!(!late.is_empty());
    for key in &late {
        scene.store.put_there(key, elsewhere.remove(key));
    }
    // Something of its own to free, so that litter is looked for.
    let extra = scene.night();
    scene.nights(1);
    forget_on(&scene.host, &[extra]);
    let at_once = prune_with(&scene.host, &options(1000.0, 90 * 3600)).unwrap();
    assert_eq!(at_once.litter, 0, "{at_once:?}");
    scene.store.advance(200);
    let mut litter = 0;
    for _ in 0..3 {
        litter += prune_with(&scene.host, &options(0.0, 90 * 3600)).unwrap().litter;
        scene.store.advance(100);
    }
    assert_eq!(litter, late.len() as u64);
    assert!(late.iter().all(|key| !scene.store.keys("/packs/").contains(key)));
    let mut all = ids[1..].to_vec();
    all.push(scene.host.snapshots().pop().unwrap());
    scene.holds(&scene.host, &all);
}

#[test]
fn a_pack_that_comes_back_after_it_was_deleted_goes_again() {
    let (scene, ids) = scene();
    prune_on(&scene.host).unwrap();
    let all: Vec<(String, Bytes)> =
        scene.store.keys("/packs/").into_iter().map(|key| (key.clone(), scene.store.fork().remove(&key))).collect();
    scene.store.advance(25);
    prune_on(&scene.host).unwrap();
    let gone = scene.store.take_deleted();
    assert!(!gone.is_empty());
    // A retry of its upload lands a day late.
    let (key, body) = all.iter().find(|(key, _)| gone.contains(key)).unwrap();
    scene.store.put_there(key, body.clone());
    scene.holds(&scene.host, &ids[1..]);
    scene.store.advance(25);
    // A week later, by this host's clock, litter is looked for.
    let (mut repository, problems) = scene.host.open(None).unwrap();
    let how = options(0.0, DAY);
    let prepared = plan(&mut repository, &how, &|_| None, &problems).unwrap();
    let later = || clock()() + chrono::TimeDelta::days(8);
    repository.ask_store_time(later(), &Silent).unwrap();
    let done = prune(&mut repository, prepared, &how, &|_| None, &later, &Silent).unwrap();
    drop(repository);
    assert_eq!((done.litter, scene.store.take_deleted()), (1, vec![key.clone()]));
    scene.holds(&scene.host, &ids[1..]);
}

#[test]
fn a_log_with_a_hole_frees_nothing_and_after_a_repair_nothing_that_is_needed() {
    let (mut scene, ids) = scene();
    let log = scene.store.keys("/log/");
    scene.store.remove(&log[1]);
    // A machine that has lost its catalog sees the hole.
    let bare = scene.host.clone_state(Arc::new(scene.store.clone()));
    bare.open(None).unwrap().0.rebuild_catalog(&Silent).unwrap();
    for host in [&bare, &scene.host.second()] {
        let (mut repository, problems) = host.open(None).unwrap();
        let prepared = plan(&mut repository, &options(0.0, DAY), &|_| None, &problems).unwrap();
        drop(repository);
        if host.state.path() == bare.state.path() {
            assert!(!prepared.packs.unknown.is_empty(), "{prepared:?}");
            assert!(prepared.packs.retire.is_empty() && prepared.packs.repack.is_empty());
            let done = prune_on(host).unwrap();
            assert_eq!((done.packs_retired, done.packs_deleted), (0, 0));
        }
    }
    let (mut repository, _) = bare.open(Some(&scene.person)).unwrap();
    let report = ops::repair::repair(&mut repository, ReadData::No, false, clock()(), &Silent).unwrap();
    assert_eq!(report.commits_lost.len(), 1, "{report:?}");
    drop(repository);
    for _ in 0..3 {
        prune_on(&bare).unwrap();
        scene.store.advance(25);
    }
    // Whatever is listed after that restores.
    let listed = bare.snapshots_with(&scene.person);
    assert!(listed.contains(&ids[2]), "{listed:?}");
    for id in &listed {
        assert_eq!(scene.restored(&bare, id).unwrap(), scene.trees[id], "snapshot {id}");
    }
    // New nights go on as ever.
    let report = bare.backup(scene.source.path()).unwrap();
    let newest = report.record.id.to_string();
    scene.trees.insert(newest.clone(), tree::describe(scene.source.path()));
    prune_on(&bare).unwrap();
    assert_eq!(scene.restored(&bare, &newest).unwrap(), scene.trees[&newest]);
}

#[test]
fn a_store_whose_clock_was_set_back_begins_the_grace_anew() {
    let (scene, ids) = scene();
    scene.store.advance(1000);
    prune_on(&scene.host).unwrap();
    scene.store.advance(-1000);
    scene.host.backup(scene.source.path()).unwrap();
    let again = prune_on(&scene.host).unwrap();
    assert!(again.packs_retired > 0 && again.packs_deleted == 0, "{again:?}");
    scene.store.advance(23);
    assert_eq!(prune_on(&scene.host).unwrap().packs_deleted, 0);
    scene.store.advance(1);
    assert!(prune_on(&scene.host).unwrap().packs_deleted > 0);
    drop(ids);
}

/// Another host's packs are none of ours, whatever its log says.
#[test]
fn a_host_frees_what_it_stored_and_nothing_else() {
    let (scene, ids) = scene();
    let other = Host::new(Arc::new(scene.store.clone()));
    other.join(&scene.person).unwrap();
    let theirs = tempfile::tempdir().unwrap();
    tree::make(theirs.path(), 9);
    tree::age(theirs.path());
    other.backup_as(theirs.path(), "theirs", &Default::default()).unwrap();
    let name = other.open(None).unwrap().0.host().unwrap().name.clone();
    let before = scene.store.keys(&format!("writers/{name}/"));
    settle(&scene, &scene.host);
    assert!(scene.store.take_deleted().iter().all(|key| !key.contains(&name)));
    assert_eq!(scene.store.keys(&format!("writers/{name}/")), before);
    prune_on(&other).unwrap();
    for id in &ids[1..] {
        assert_eq!(scene.restored(&scene.host, id).unwrap(), scene.trees[id]);
    }
    let copy = object_store::memory::InMemory::new();
    merge_store(&scene.store, &copy);
}
