//! Pruning: what nothing needs is retired, waits, and goes; what is needed moves as it is sealed and is found; nobody needs an identity
//! for it, and whoever reads meanwhile goes on.

use std::fs;
use std::sync::Arc;

use lifeboat::model::{Commit, CommitLine, Objects, Retire};
use lifeboat::ops;
use lifeboat::ops::check::{ReadData, check};
use lifeboat::ops::forget::pin;
use lifeboat::ops::prune::{PruneError, plan};
use lifeboat::ops::restore::{find_snapshot, prepare, restore};
use lifeboat::plan::restore::Wanted;
use lifeboat::progress::Silent;
use object_store::local::LocalFileSystem;

use crate::common::pruned::{DAY, Nights, TONIGHT, forget_on, options, prune_on, prune_with};
use crate::common::{Host, clock, merge_store, plain, tree};

/// Three snapshots of which the first is forgotten.
fn scene() -> (Nights, Vec<String>) {
    let mut scene = Nights::new();
    let ids = scene.nights(3);
    forget_on(&scene.host, &ids[..1]);
    (scene, ids)
}

#[test]
fn what_nothing_needs_is_retired_waits_for_its_grace_and_goes() {
    let (scene, ids) = scene();
    scene.holds(&scene.host, &ids[1..]);
    let before = scene.host.stats();
    assert!(before.unused_bytes > 1_000_000, "{before:?}");
    let packs = scene.store.keys("/packs/");
    // The first pack holds what stays and what was of the first night only: what stays is copied.
    let first = prune_on(&scene.host).unwrap();
    assert!(first.packs_retired >= 1 && first.emptied >= 1 && first.frames_copied > 0, "{first:?}");
    assert_eq!((first.packs_deleted, first.freed, first.deferred), (0, 0, 0), "{first:?}");
    assert_eq!(scene.store.take_deleted(), Vec::<String>::new());
    assert!(packs.iter().all(|pack| scene.store.keys("/packs/").contains(pack)), "nothing goes at once");
    scene.holds(&scene.host, &ids[1..]);
    // Twenty-three hours later nothing goes either.
    scene.store.advance(23);
    let early = prune_on(&scene.host).unwrap();
    assert_eq!((early.packs_deleted, early.packs_retired), (0, 0), "{early:?}");
    assert!(early.waiting > 0 && early.first_due.is_some());
    scene.store.advance(1);
    let later = prune_on(&scene.host).unwrap();
    assert_eq!((later.packs_deleted, later.waiting), (first.packs_retired, 0), "{later:?}");
    assert_eq!(scene.store.take_deleted().len() as u64, later.packs_deleted);
    assert_eq!(later.after, scene.host.stats().stored_bytes);
    scene.holds(&scene.host, &ids[1..]);
    let after = scene.host.stats();
    assert_eq!((after.unused_bytes, after.retired_bytes), (0, 0), "{after:?}");
    assert!(after.stored_bytes + 1_000_000 < before.stored_bytes, "{before:?} {after:?}");
    // A machine that has seen nothing, with the identity alone.
    scene.restores(&scene.reader(), &ids[1..]);
}

#[test]
fn with_nothing_to_do_it_writes_nothing_and_asks_little() {
    let (mut scene, _) = scene();
    prune_on(&scene.host).unwrap();
    scene.store.advance(25);
    prune_on(&scene.host).unwrap();
    scene.store.take_requests();
    let commits = scene.store.keys("/log/").len();
    let idle = prune_on(&scene.host).unwrap();
    let requests = scene.store.take_requests();
    assert_eq!((idle.packs_retired, idle.packs_deleted, idle.waiting), (0, 0, 0), "{idle:?}");
    assert_eq!(scene.store.keys("/log/").len(), commits, "no commit");
    scene.nights(12);
    prune_on(&scene.host).unwrap();
    scene.store.take_requests();
    prune_on(&scene.host).unwrap();
    assert_eq!(scene.store.take_requests(), requests, "as many with twelve snapshots more");
    scene.store.take_deleted();
}

#[test]
fn a_dry_run_writes_nothing_and_says_what_a_prune_does() {
    let (scene, _) = scene();
    let objects = scene.store.keys("");
    let (mut repository, problems) = scene.host.open(None).unwrap();
    let prepared = plan(&mut repository, &options(0.0, DAY), &|_| None, &problems).unwrap();
    drop(repository);
    assert_eq!(scene.store.keys(""), objects);
    let done = prune_on(&scene.host).unwrap();
    let planned = prepared.packs.retire.len() + prepared.packs.repack.len();
    assert_eq!((done.packs_retired, done.retired), (planned as u64, prepared.packs.retires()));
    assert_eq!(done.copied, prepared.packs.copied);
    scene.store.advance(25);
    let freed = prune_on(&scene.host).unwrap();
    // What was not counted are the directories of the new packs.
    let difference = freed.after.abs_diff(prepared.packs.after());
    assert!(difference < 10_000, "{} and {}", freed.after, prepared.packs.after());
}

#[test]
fn what_is_mostly_needed_stays_until_enough_is_unused() {
    let (scene, ids) = scene();
    let little = prune_with(&scene.host, &options(1000.0, DAY)).unwrap();
    assert_eq!(little.emptied, 0, "{little:?}");
    let all = prune_with(&scene.host, &options(0.0, DAY)).unwrap();
    assert!(all.emptied > 0, "{all:?}");
    scene.holds(&scene.host, &ids[1..]);
}

#[test]
fn time_may_be_up_before_anything_is_copied() {
    let (scene, ids) = scene();
    let up = lifeboat::ops::prune::PruneOptions { until: Some(std::time::Instant::now()), ..options(0.0, DAY) };
    let done = prune_with(&scene.host, &up).unwrap();
    assert!(done.left > 0 && done.copied == 0, "{done:?}");
    scene.holds(&scene.host, &ids[1..]);
}

#[test]
fn what_is_pinned_stays() {
    let mut scene = Nights::new();
    let ids = scene.nights(3);
    let (mut repository, _) = scene.host.open(None).unwrap();
    pin(&mut repository, &ids[..1], true, clock()(), &Silent).unwrap();
    drop(repository);
    forget_on(&scene.host, &ids[1..2]);
    for _ in 0..2 {
        prune_on(&scene.host).unwrap();
        scene.store.advance(25);
    }
    assert!(!scene.store.take_deleted().is_empty());
    scene.holds(&scene.host, &[ids[0].clone(), ids[2].clone()]);
}

#[test]
fn a_later_run_does_not_refer_to_what_is_retired() {
    let (scene, ids) = scene();
    // What the first night alone had comes back: it is stored anew.
    prune_with(&scene.host, &options(1000.0, DAY)).unwrap();
    prune_on(&scene.host).unwrap();
    fs::write(scene.source.path().join("tonight"), tree::noise(TONIGHT, 1)).unwrap();
    tree::age(scene.source.path());
    let report = scene.host.backup(scene.source.path()).unwrap();
    assert!(report.counts.data_new >= 1_000_000, "{report:?}");
    scene.store.advance(25);
    let freed = prune_on(&scene.host).unwrap();
    assert!(freed.packs_deleted > 0 && freed.kept == 0, "{freed:?}");
    let newest = report.record.id.to_string();
    let mut scene = scene;
    scene.trees.insert(newest.clone(), tree::describe(scene.source.path()));
    scene.holds(&scene.host, &[ids[1].clone(), ids[2].clone(), newest]);
}

/// What is not retired yet is as good as any other, even where only a forgotten snapshot used it.
#[test]
fn what_is_dead_and_not_retired_yet_comes_back_to_life() {
    let (mut scene, ids) = scene();
    fs::write(scene.source.path().join("tonight"), tree::noise(TONIGHT, 1)).unwrap();
    tree::age(scene.source.path());
    let report = scene.host.backup(scene.source.path()).unwrap();
    assert_eq!(report.counts.data_new, 0, "{report:?}");
    let newest = report.record.id.to_string();
    scene.trees.insert(newest.clone(), tree::describe(scene.source.path()));
    for _ in 0..2 {
        prune_on(&scene.host).unwrap();
        scene.store.advance(25);
    }
    scene.holds(&scene.host, &[ids[1].clone(), ids[2].clone(), newest]);
}

#[test]
fn frames_move_as_they_are_sealed() {
    let (scene, ids) = scene();
    let frames = |host: &Host| {
        let (repository, _) = host.open(None).unwrap();
        let dump = repository.catalog().dump().unwrap();
        dump.into_iter().filter(|line| line.starts_with("frame")).collect::<Vec<_>>()
    };
    let before = frames(&scene.host);
    prune_on(&scene.host).unwrap();
    let after = frames(&scene.host);
    let name = |line: &str| line.split('|').nth(1).unwrap().to_owned();
    let known: std::collections::BTreeSet<String> = before.iter().map(|line| name(line)).collect();
    let moved: Vec<&String> = after.iter().filter(|line| !before.contains(line)).collect();
    assert!(!moved.is_empty() && moved.iter().all(|line| known.contains(&name(line))), "the same names elsewhere");
    scene.holds(&scene.host, &ids[1..]);
}

#[test]
fn a_frame_whose_stored_bytes_do_not_match_is_not_moved() {
    let (scene, ids) = scene();
    let (mut repository, problems) = scene.host.open(None).unwrap();
    let prepared = plan(&mut repository, &options(0.0, DAY), &|_| None, &problems).unwrap();
    drop(repository);
    // The first byte of its first frame; of each the same.
    let writer = prepared.packs.writer.clone();
    for pack in &prepared.packs.repack {
        let key = lifeboat::catalog::pack_key(&writer, &pack.id);
        let mut body = scene.store.remove(&key).to_vec();
        let middle = body.len() / 3;
        body[middle..middle + 2].iter_mut().for_each(|byte| *byte ^= 1);
        body[100] ^= 1;
        scene.store.put_there(&key, body.into());
    }
    let done = prune_on(&scene.host).unwrap();
    assert!(!done.damaged.is_empty(), "{done:?}");
    assert_eq!(done.emptied + done.damaged.len() as u64, prepared.packs.repack.len() as u64);
    scene.store.advance(25);
    prune_on(&scene.host).unwrap();
    let gone = scene.store.take_deleted();
    assert!(done.damaged.iter().all(|(pack, _)| !gone.iter().any(|key| key.contains(pack))), "what is damaged stays");
    // Another look does not try again what is known to be damaged.
    assert_eq!(prune_on(&scene.host).unwrap().damaged, []);
    drop(ids);
}

#[test]
fn a_restore_goes_on_while_what_it_reads_moves() {
    let (scene, ids) = scene();
    let back = tempfile::tempdir().unwrap();
    for host in [scene.host.second(), scene.reader()] {
        let into = back.path().join(if host.state.path() == scene.host.state.path() { "here" } else { "there" });
        let (mut repository, _) = host.open(Some(&scene.person)).unwrap();
        let (snapshot, choice) = find_snapshot(&repository, "data", &Wanted::Named(ids[1].clone()), false).unwrap();
        let prepared = prepare(&repository, snapshot, &choice, Some(&into), plain(), &Silent).unwrap();
        // Between the plan and the first byte everything moves, and what it was going to read is gone.
        prune_on(&scene.host).unwrap();
        scene.store.advance(25);
        prune_on(&scene.host).unwrap();
        restore(&mut repository, &prepared, &Silent).unwrap();
        assert_eq!(tree::describe(&into), scene.trees[&ids[1]]);
    }
    assert!(!scene.store.take_deleted().is_empty());
}

#[test]
fn recover_py_restores_after_a_prune_and_misses_nothing() {
    let (scene, ids) = scene();
    let folder = tempfile::tempdir().unwrap();
    let identity = folder.path().join("identity");
    fs::write(&identity, &scene.person.identity).unwrap();
    for step in ["retired", "deleted"] {
        prune_on(&scene.host).unwrap();
        scene.store.advance(25);
        let copy = folder.path().join(step);
        fs::create_dir(&copy).unwrap();
        merge_store(&scene.store, &LocalFileSystem::new_with_prefix(&copy).unwrap());
        let run = |args: &[&str]| {
            let mut command = std::process::Command::new("python3");
            command.arg(copy.join("recover.py")).arg("--repository").arg(&copy).arg("--identity").arg(&identity);
            let output = command.args(args).output().unwrap();
            assert!(output.status.success(), "{step} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8_lossy(&output.stderr).into_owned()
        };
        for id in &ids[1..] {
            let into = folder.path().join(format!("{step}-{id}"));
            let said = run(&["restore", id, "--into", into.to_str().unwrap()]);
            assert_eq!(tree::describe(&into), scene.trees[id]);
            assert!(!said.contains("refused") && !said.contains("hole"), "{said}");
        }
        run(&["verify"]);
    }
    assert!(!scene.store.take_deleted().is_empty());
}

/// Packs explain themselves, also those that a prune made: a log that is lost is put together from them.
#[test]
fn a_snapshot_comes_back_from_packs_that_a_prune_made() {
    let (scene, ids) = scene();
    for _ in 0..2 {
        prune_on(&scene.host).unwrap();
        scene.store.advance(25);
    }
    for key in scene.store.keys("/log/") {
        scene.store.remove(&key);
    }
    let host = scene.host.clone_state(Arc::new(scene.store.clone()));
    let (mut repository, _) = host.open(Some(&scene.person)).unwrap();
    let report = ops::repair::repair(&mut repository, ReadData::No, false, clock()(), &Silent).unwrap();
    drop(repository);
    assert!(report.after.damage.is_empty(), "{report:?}");
    for id in &ids[1..] {
        assert_eq!(scene.restored(&host, id).unwrap(), scene.trees[id], "{report:?}");
    }
}

#[test]
fn a_repair_and_a_check_do_not_mourn_and_bring_nothing_back() {
    let (scene, ids) = scene();
    for _ in 0..2 {
        prune_on(&scene.host).unwrap();
        scene.store.advance(25);
    }
    let gone = scene.store.take_deleted();
    let objects = scene.store.keys("/packs/");
    let (mut repository, _) = scene.host.open(Some(&scene.person)).unwrap();
    let report = ops::repair::repair(&mut repository, ReadData::All, false, clock()(), &Silent).unwrap();
    assert!(report.after.is_clean() && !report.catalog_wrong && report.packs_added == 0, "{report:?}");
    assert!(report.packs_adopted.is_empty() && report.frames_lost == 0, "{report:?}");
    assert!(!gone.is_empty() && gone.iter().all(|key| !objects.contains(key)));
    assert_eq!(scene.store.keys("/packs/"), objects);
    drop(repository);
    scene.holds(&scene.host, &ids[1..]);
}

#[test]
fn a_check_says_so_where_a_pack_is_gone_that_a_snapshot_needs() {
    let (scene, ids) = scene();
    // Somebody with the keys of the host says that a pack is deleted, and deletes it.
    let forger = crate::common::forge::Forger::thief_of(&scene.host, &[&scene.person]);
    let (repository, _) = scene.host.open(None).unwrap();
    let row = repository.catalog().writers().unwrap()[0].0;
    let pack = repository.catalog().packs(row).unwrap().into_iter().next_back().unwrap();
    drop(repository);
    let said = Objects { packs: vec![pack.id], segments: Vec::new() };
    put_lines(&scene.host, &forger, vec![CommitLine::Deleted(said)]);
    scene.store.remove(&pack.key(&forger.writer));
    let (mut repository, problems) = scene.host.open(Some(&scene.person)).unwrap();
    let report = check(&mut repository, ReadData::No, &problems, clock()(), 1, &Silent).unwrap();
    assert_eq!(report.damage.iter().filter(|damage| damage.object.contains("/packs/")).count(), 1, "{report:?}");
    assert!(report.damage[0].why.contains("a prune has deleted it"), "{report:?}");
    assert_eq!(report.damage[0].snapshots, [ids[2].parse().unwrap()], "the newest");
    let prepared = plan(&mut repository, &options(0.0, DAY), &|_| None, &problems).unwrap();
    assert!(prepared.packs.lost > 0);
}

/// Puts a commit at the end of a writer's log.
fn put_lines(host: &Host, forger: &crate::common::forge::Forger, lines: Vec<CommitLine>) -> String {
    let (repository, _) = host.open(None).unwrap();
    let (sequence, parents, first_frame) = crate::common::forge::end_of_log(&repository, &forger.writer);
    let header = lifeboat::model::CommitHeader {
        commit: 1,
        repository: forger.repository,
        writer: forger.writer.clone(),
        sequence: sequence + 1,
        parents,
        time: clock()(),
        first_frame,
        program: "forged".to_owned(),
    };
    let text = Commit { header, lines }.encode().unwrap();
    drop(repository);
    let signed = lifeboat::seal::sign_text("lifeboat format 1 commit", &text, &forger.signing);
    forger.put_commit(&host.store(), sequence + 1, &signed)
}

#[test]
fn a_forged_retirement_does_nothing_and_nothing_is_pruned_beside_it() {
    let (scene, ids) = scene();
    let forger = crate::common::forge::Forger::of_store(&scene.host, &[&scene.person]);
    let (repository, _) = scene.host.open(None).unwrap();
    let row = repository.catalog().writers().unwrap()[0].0;
    let packs = repository.catalog().packs(row).unwrap().iter().map(|pack| pack.id).collect();
    drop(repository);
    let key =
        put_lines(&scene.host, &forger, vec![CommitLine::Retire(Retire { packs, segments: Vec::new(), grace: 0 })]);
    scene.store.advance(25);
    let (mut repository, problems) = scene.host.open(None).unwrap();
    let prepared = plan(&mut repository, &options(0.0, DAY), &|_| None, &problems).unwrap();
    assert!(prepared.packs.unknown.iter().any(|why| why.contains(&key)), "{:?}", prepared.packs.unknown);
    assert!(prepared.packs.retire.is_empty() && prepared.packs.repack.is_empty());
    drop(repository);
    let done = prune_on(&scene.host).unwrap();
    assert_eq!((done.packs_retired, done.packs_deleted), (0, 0), "{done:?}");
    assert_eq!(scene.store.take_deleted(), Vec::<String>::new());
    scene.restores(&scene.host, &ids[1..]);
    // Once it is said that this commit is none, pruning goes on.
    let (mut repository, _) = scene.host.open(None).unwrap();
    ops::repair::repair(&mut repository, ReadData::No, false, clock()(), &Silent).unwrap();
    drop(repository);
    scene.store.remove(&key);
    let done = prune_on(&scene.host).unwrap();
    assert!(done.packs_retired == 0 || done.packs_deleted == 0, "{done:?}");
    scene.restores(&scene.host, &ids[1..]);
}

#[test]
fn a_locked_object_is_put_off_and_the_rest_goes() {
    let (scene, ids) = scene();
    prune_on(&scene.host).unwrap();
    scene.store.advance(25);
    let (mut repository, problems) = scene.host.open(None).unwrap();
    let due = plan(&mut repository, &options(0.0, DAY), &|_| None, &problems).unwrap().packs;
    drop(repository);
    // By the newest commit the day is not over: the store is asked for the time first.
    let retired = due.wait.iter().map(|(pack, _)| pack).chain(&due.delete).cloned().collect::<Vec<_>>();
    assert!(retired.len() >= 2, "{due:?}");
    scene.store.lock(Some(&retired[0].id.to_string()));
    let done = prune_on(&scene.host).unwrap();
    assert_eq!((done.deferred, done.packs_deleted), (1, retired.len() as u64 - 1), "{done:?}");
    assert!(done.reasons[0].0.contains(&retired[0].id.to_string()) && done.reasons[0].1.contains("locked"), "{done:?}");
    scene.store.lock(None);
    let done = prune_on(&scene.host).unwrap();
    assert_eq!((done.deferred, done.packs_deleted), (0, 1), "{done:?}");
    scene.holds(&scene.host, &ids[1..]);
}

#[test]
fn a_store_that_lets_nothing_go_is_not_asked_for_all_and_no_commit_is_made() {
    let mut scene = Nights::new();
    let ids = scene.nights(14);
    forget_on(&scene.host, &ids[..13]);
    scene.store.lock(Some("/packs/"));
    let first = prune_on(&scene.host).unwrap();
    assert!(first.packs_retired > 12, "{first:?}");
    scene.store.advance(25);
    // The first time the store is asked what time it is.
    prune_on(&scene.host).unwrap();
    let commits = scene.store.keys("/log/").len();
    scene.store.take_requests();
    let done = prune_on(&scene.host).unwrap();
    assert_eq!((done.deferred, done.packs_deleted), (first.packs_retired, 0), "{done:?}");
    assert_eq!(scene.store.keys("/log/").len(), commits);
    assert!(scene.store.take_requests() < 40);
    scene.holds(&scene.host, &ids[13..]);
}

#[test]
fn only_one_prune_of_a_host_is_at_work() {
    let (scene, _) = scene();
    let (repository, _) = scene.host.open(None).unwrap();
    let held = repository.folder().prune_lock().unwrap().unwrap();
    let error = prune_on(&scene.host.second()).unwrap_err();
    assert!(matches!(error, ops::Error::Prune(PruneError::Busy)), "{error}");
    assert_eq!(error.kind() as u8, 11);
    drop(held);
    prune_on(&scene.host).unwrap();
}

#[test]
fn without_a_grace_what_is_retired_goes_at_once() {
    let (scene, ids) = scene();
    let done = prune_with(&scene.host, &options(0.0, 0)).unwrap();
    assert!(done.packs_retired > 0 && done.packs_deleted == done.packs_retired, "{done:?}");
    assert_eq!(done.waiting, 0);
    assert_eq!(done.after, scene.host.stats().stored_bytes);
    scene.holds(&scene.host, &ids[1..]);
}

/// The one door: nothing else in the program can make the store delete what it holds.
#[test]
fn only_a_prune_holds_the_right_to_delete() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut open = vec![root.clone()];
    let mut holders = Vec::new();
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap_or_default();
            let name = path.strip_prefix(&root).unwrap().display().to_string();
            if text.contains(".sweeper(") || text.contains("objects.delete(") || text.contains("objects().delete") {
                holders.push(name);
            }
        }
    }
    holders.sort();
    assert_eq!(holders, ["repository/sweep.rs", "store/scratch.rs", "store/sweep.rs"]);
    // And the door leads nowhere else.
    let scene = Nights::new();
    let sweeper = scene.host.store().sweeper("w");
    for key in [
        "lifeboat.json",
        "writers/w/log/x",
        "writers/w/writer.json",
        "writers/v/packs/aa/bb",
        "writers/w/packs/../log/x",
    ] {
        assert!(matches!(sweeper.delete(key), lifeboat::store::Swept::Failed(_)), "{key}");
    }
    assert_eq!(scene.store.take_deleted(), Vec::<String>::new());
}
