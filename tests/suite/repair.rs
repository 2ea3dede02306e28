//! `repair`: lost packs, truncated packs, lost commits whose packs still explain themselves, a catalog that lies. And the
//! ledger by which nightly checks cover everything.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use lifeboat::ops::check::{CheckOptions, CheckReport, ReadData, check};
use lifeboat::ops::repair::{RepairReport, repair};
use lifeboat::plan::restore::Wanted;
use lifeboat::progress::Silent;
use object_store::local::LocalFileSystem;

use crate::common::{Host, Person, clock, copy_tree, tree};

struct Scene {
    store: tempfile::TempDir,
    source: tempfile::TempDir,
    host: Host,
    person: Person,
}

/// A repository on disk with two snapshots of a tree.
fn scene() -> Scene {
    let (store, source, person) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), Person::new());
    let host = Host::new(Arc::new(LocalFileSystem::new_with_prefix(store.path()).unwrap()));
    host.init(&person);
    tree::make(source.path(), 3);
    fs::write(source.path().join("big.bin"), tree::noise(5_000_000, 6)).unwrap();
    tree::age(source.path());
    host.backup(source.path()).unwrap();
    fs::write(source.path().join("second"), tree::noise(400_000, 7)).unwrap();
    tree::age(source.path());
    host.backup(source.path()).unwrap();
    Scene { store, source, host, person }
}

impl Scene {
    fn objects(&self, marker: &str) -> Vec<PathBuf> {
        let output = std::process::Command::new("find").arg(self.store.path()).args(["-type", "f"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let mut all: Vec<PathBuf> = text.lines().filter(|l| l.contains(marker)).map(PathBuf::from).collect();
        all.sort();
        all
    }

    /// The pack with the most bytes: data of the first snapshot.
    fn large_pack(&self) -> PathBuf {
        self.objects("/packs/").into_iter().max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap()
    }

    fn check(&self, options: impl Into<CheckOptions>) -> CheckReport {
        let (mut repository, problems) = self.host.open(Some(&self.person)).unwrap();
        check(&mut repository, options, &problems, clock()(), 1, &Silent).unwrap()
    }

    fn repair(&self, identity: bool, dry_run: bool) -> RepairReport {
        let (mut repository, _) = self.host.open(identity.then_some(&self.person)).unwrap();
        repair(&mut repository, ReadData::All, dry_run, clock()(), &Silent).unwrap()
    }

    /// Backs up after a change that moves every chunk to another place in its frame.
    fn shift_and_back_up(&self) {
        fs::write(self.source.path().join("a-first"), tree::noise(700_000, 55)).unwrap();
        tree::age(self.source.path());
        self.host.backup(self.source.path()).unwrap();
    }

    /// Every snapshot there is, restored: the number of those that come back whole.
    fn whole_snapshots(&self) -> usize {
        let whole = |id: &String| {
            let into = tempfile::tempdir().unwrap();
            self.host.restore(&self.person, &Wanted::Named(id.clone()), &into.path().join("b")).is_ok()
        };
        self.host.snapshots().iter().filter(|id| whole(id)).count()
    }

    fn newest_is_the_source(&self) {
        let into = tempfile::tempdir().unwrap();
        let back = into.path().join("b");
        self.host.restore(&self.person, &Wanted::Latest, &back).unwrap();
        assert_eq!(tree::describe(&back), tree::describe(self.source.path()));
    }
}

#[test]
fn a_lost_pack_comes_back_from_the_source_into_old_snapshots_too() {
    let scene = scene();
    fs::remove_file(scene.large_pack()).unwrap();
    assert!(!scene.check(ReadData::All).is_clean());
    let hopeless = scene.repair(true, false);
    assert!(hopeless.frames_lost > 0 && hopeless.frames_remade == 0 && !hopeless.after.is_clean(), "{hopeless:?}");
    scene.shift_and_back_up();
    assert_eq!(scene.whole_snapshots(), 1, "the new one alone");
    let before = scene.objects("");
    let dry = scene.repair(true, true);
    assert!(dry.frames_remade > 0 && dry.packs_added == 0 && !dry.after.is_clean(), "{dry:?}");
    assert_eq!(scene.objects(""), before, "a dry run writes nothing");
    let report = scene.repair(true, false);
    assert_eq!((report.frames_remade, report.frames_lost), (dry.frames_remade, 0), "{report:?}");
    assert!(report.after.is_clean() && report.after.replaced.len() == 1, "{:?}", report.after);
    assert_eq!(scene.whole_snapshots(), 3);
    assert!(scene.check(ReadData::All).is_clean());
    let again = scene.repair(true, false);
    assert_eq!((again.packs_added, again.frames_lost), (0, 0), "there is nothing left to do");
}

#[test]
fn frames_before_the_end_of_a_truncated_pack_are_copied() {
    let scene = scene();
    let pack = scene.large_pack();
    let length = fs::metadata(&pack).unwrap().len();
    fs::OpenOptions::new().write(true).open(&pack).unwrap().set_len(length / 2).unwrap();
    assert!(!scene.check(ReadData::No).is_clean(), "a listing finds it");
    scene.shift_and_back_up();
    let report = scene.repair(true, false);
    assert!(report.frames_copied > 0 && report.frames_remade > 0 && report.frames_lost == 0, "{report:?}");
    assert!(report.after.is_clean(), "{:?}", report.after);
    assert_eq!(scene.whole_snapshots(), 3);
}

#[test]
fn a_host_without_an_identity_copies_what_the_directory_vouches_for() {
    let scene = scene();
    let pack = scene.large_pack();
    let mut bytes = fs::read(&pack).unwrap();
    bytes[100] ^= 1;
    fs::write(&pack, bytes).unwrap();
    let report = scene.repair(false, false);
    assert!(report.frames_copied > 0 && report.frames_lost == 1, "{report:?}");
    scene.shift_and_back_up();
    assert_eq!(scene.repair(true, false).frames_lost, 0);
    assert_eq!(scene.whole_snapshots(), 3);
}

#[test]
fn a_lost_commit_is_said_again_from_its_packs() {
    for place in [0, 1] {
        let scene = scene();
        fs::remove_file(&scene.objects("/log/")[place]).unwrap();
        let dry = scene.repair(true, true);
        assert_eq!(dry.commits_lost.len(), 1, "{dry:?}");
        let report = scene.repair(true, false);
        assert_eq!(report.commits_lost, dry.commits_lost);
        assert!(!report.packs_adopted.is_empty() && report.snapshots_back.len() == 1, "{report:?}");
        assert!(report.after.is_clean(), "{:?}", report.after);
        assert_eq!(scene.whole_snapshots(), 2);
        scene.newest_is_the_source();
        // The same for a host that has seen nothing, and for the next backup.
        let bare = Host::new(Arc::clone(&scene.host.objects));
        let (mut repository, problems) = bare.open(Some(&scene.person)).unwrap();
        let report = check(&mut repository, ReadData::All, &problems, clock()(), 1, &Silent).unwrap();
        assert!(report.is_clean() && report.snapshots == 2, "{report:?}");
        let next = scene.host.backup(scene.source.path()).unwrap();
        assert_eq!(next.counts.data_new, 0, "what was adopted is not stored again");
    }
}

#[test]
fn a_damaged_commit_is_said_again_too() {
    let scene = scene();
    let path = scene.objects("/log/")[1].clone();
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert!(!scene.check(ReadData::All).is_clean());
    let report = scene.repair(true, false);
    assert_eq!((report.commits_lost.len(), report.snapshots_back.len()), (1, 1), "{report:?}");
    assert_eq!(scene.whole_snapshots(), 2);
    scene.newest_is_the_source();
    let after = scene.check(ReadData::No);
    assert!(after.is_clean(), "{after:?}");
}

#[test]
fn a_catalog_that_lies_is_noticed_and_read_anew() {
    for lie in [
        "UPDATE frame SET at = at + 1 WHERE id = 2",
        "UPDATE pack SET size = size + 1 WHERE id = 1",
        "DELETE FROM snapshot WHERE rowid = (SELECT max(rowid) FROM snapshot)",
        "UPDATE snapshot SET record = replace(record, '\"files\":', '\"files\":1')",
    ] {
        let scene = scene();
        let path = scene.host.open(None).unwrap().0.catalog().path().to_owned();
        let output = rusqlite::Connection::open(&path).unwrap().execute(lie, []).unwrap();
        assert!(output > 0, "{lie}");
        let report = scene.check(ReadData::All);
        assert!(report.problems.iter().any(|p| p.contains("catalog says something else")), "{lie}: {report:?}");
        let report = scene.repair(true, false);
        assert!(report.catalog_wrong && report.after.is_clean(), "{lie}: {report:?}");
        assert!(scene.check(ReadData::All).is_clean(), "{lie}");
        assert_eq!(scene.whole_snapshots(), 2, "{lie}");
    }
}

#[test]
fn nightly_checks_by_age_and_time_cover_everything() {
    let scene = scene();
    for seed in 0..4 {
        fs::write(scene.source.path().join("more"), tree::noise(300_000, 100 + seed)).unwrap();
        tree::age(scene.source.path());
        scene.host.backup(scene.source.path()).unwrap();
    }
    let packs = scene.objects("/packs/").len() as u64;
    assert!(packs > 6);
    let due = |before: &str| ReadData::Due { before: before.parse().unwrap() };
    // The clock of the tests stands in 2036. A night with no time at all reads one pack, another one each.
    let mut left = BTreeSet::new();
    for night in 1..=packs {
        let options = CheckOptions { read: due("2030-01-01T00:00:00Z"), until: Some(Instant::now()) };
        let report = scene.check(options);
        assert_eq!((report.packs_read, report.packs_left), (1, packs - night), "night {night}");
        assert_eq!(report.packs_never_read, packs - night);
        left.insert(report.packs_left);
    }
    assert_eq!(left.len() as u64, packs, "another one each night");
    assert_eq!(scene.check(due("2030-01-01T00:00:00Z")).packs_read, 0, "nothing is due");
    assert_eq!(scene.check(due("2040-01-01T00:00:00Z")).packs_read, packs, "everything is due");
    // Damage takes a pack out of the ledger, and a rebuilt catalog does not forget it.
    let pack = scene.large_pack();
    let whole = fs::read(&pack).unwrap();
    fs::write(&pack, &whole[..whole.len() - 1]).unwrap();
    assert!(!scene.check(ReadData::All).is_clean());
    fs::write(&pack, whole).unwrap();
    scene.host.open(None).unwrap().0.rebuild_catalog(&Silent).unwrap();
    let report = scene.check(due("2030-01-01T00:00:00Z"));
    assert_eq!((report.packs_read, report.packs_left), (1, 0), "the one that was damaged");
    assert!(report.is_clean());
}

#[test]
fn frames_whose_chunks_nobody_knows_any_more_are_copied_as_one_chunk() {
    let scene = scene();
    let pack = scene.large_pack();
    let length = fs::metadata(&pack).unwrap().len();
    fs::OpenOptions::new().write(true).open(&pack).unwrap().set_len(length - 50).unwrap();
    scene.host.open(None).unwrap().0.rebuild_catalog(&Silent).unwrap();
    let report = scene.repair(true, false);
    assert!(report.frames_copied > 0 && report.frames_lost == 0 && report.after.is_clean(), "{report:?}");
    // What was put has a directory that a reader takes: chunks that add up to their frames.
    let bare = Host::new(Arc::clone(&scene.host.objects));
    let (mut repository, _) = bare.open(Some(&scene.person)).unwrap();
    let (row, writer) = repository.catalog().writers().unwrap()[0].clone();
    let newest = repository.catalog().packs(row).unwrap().pop().unwrap();
    let name = writer.as_str();
    let directory = repository.directory(name, &newest.id, newest.directory_at, newest.directory_length).unwrap();
    for (frame, chunks) in directory.frames.iter().zip(&directory.chunks) {
        assert_eq!(chunks.iter().map(|(_, length)| u64::from(*length)).sum::<u64>(), frame.plain);
    }
    assert!(!directory.frames.is_empty());
    assert!(scene.check(ReadData::All).is_clean());
    assert_eq!(scene.whole_snapshots(), 2);
}

#[test]
fn damage_to_a_pack_that_two_commits_name_is_damage() {
    let scene = scene();
    let elsewhere = tempfile::tempdir().unwrap();
    copy_tree(scene.store.path(), elsewhere.path());
    let clone = scene.host.clone_state(Arc::new(LocalFileSystem::new_with_prefix(elsewhere.path()).unwrap()));
    let before = scene.objects("/packs/");
    fs::write(scene.source.path().join("third"), tree::noise(400_000, 8)).unwrap();
    tree::age(scene.source.path());
    scene.host.backup(scene.source.path()).unwrap();
    let new = scene.objects("/packs/").into_iter().filter(|path| !before.contains(path));
    let pack = new.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    // A clone of the host finds the pack and no commit that names it, and adopts it.
    let there = elsewhere.path().join(pack.strip_prefix(scene.store.path()).unwrap());
    fs::create_dir_all(there.parent().unwrap()).unwrap();
    fs::copy(&pack, there).unwrap();
    let (mut repository, _) = clone.open(None).unwrap();
    let writer = repository.host().unwrap().name.clone();
    repository.catalog_mut().set_fact(&format!("packs of {writer} listed"), "0").unwrap();
    drop(repository);
    clone.backup(scene.source.path()).unwrap();
    copy_tree(elsewhere.path(), scene.store.path());
    let (repository, _) = scene.host.open(None).unwrap();
    let path = repository.catalog().path().to_owned();
    drop(repository);
    let twins = "SELECT max(n) FROM (SELECT count(*) n FROM frame GROUP BY pack, at)";
    let most: i64 = rusqlite::Connection::open(path).unwrap().query_row(twins, [], |row| row.get(0)).unwrap();
    assert_eq!(most, 2, "two commits name the pack");
    let mut bytes = fs::read(&pack).unwrap();
    bytes[100] ^= 1;
    fs::write(&pack, bytes).unwrap();
    for read in [ReadData::All, ReadData::No] {
        let report = scene.check(read);
        assert!(report.replaced.is_empty(), "{read:?}: {report:?}");
        let id = pack.file_name().unwrap().to_str().unwrap();
        let named: Vec<_> = report.damage.iter().filter(|damage| damage.object.contains(id)).collect();
        assert_eq!((named.len(), named[0].snapshots.len()), (1, 2), "{read:?}: {report:?}");
        assert_eq!(report.files_hurt.len(), 2, "in either snapshot: {read:?}: {report:?}");
    }
}

#[test]
fn a_commit_that_comes_meanwhile_is_not_lost() {
    let scene = scene();
    let (mut repository, _) = scene.host.open(Some(&scene.person)).unwrap();
    let other = scene.host.clone_state(Arc::clone(&scene.host.objects));
    other.backup(scene.source.path()).unwrap();
    assert_eq!(repository.lost_commits(&Silent).unwrap(), []);
    let report = repair(&mut repository, ReadData::No, false, clock()(), &Silent).unwrap();
    assert!(report.commits_lost.is_empty() && report.after.is_clean(), "{report:?}");
}

#[test]
fn a_pack_whose_directory_alone_is_damaged_is_stored_anew() {
    for from_end in [100, 5] {
        let scene = scene();
        let pack = scene.large_pack();
        let mut bytes = fs::read(&pack).unwrap();
        let at = bytes.len() - from_end;
        bytes[at] ^= 1;
        fs::write(&pack, bytes).unwrap();
        assert!(!scene.check(ReadData::All).is_clean());
        let dry = scene.repair(true, true);
        let report = scene.repair(true, false);
        assert!(report.frames_copied > 0 && report.packs_added > 0 && report.frames_lost == 0, "{report:?}");
        assert_eq!(dry.frames_copied, report.frames_copied);
        assert!(report.after.is_clean(), "{report:?}");
        for read in [ReadData::No, ReadData::All] {
            let after = scene.check(read);
            assert!(after.is_clean(), "{read:?}: {after:?}");
        }
        assert_eq!(scene.repair(true, false).packs_added, 0, "there is nothing left to do");
        assert_eq!(scene.whole_snapshots(), 2);
    }
}

#[test]
fn a_catalog_that_is_read_anew_keeps_the_marks_of_damage() {
    let scene = scene();
    let pack = scene.large_pack();
    let mut bytes = fs::read(&pack).unwrap();
    bytes[100] ^= 1;
    fs::write(&pack, bytes).unwrap();
    assert!(!scene.check(ReadData::All).is_clean());
    let path = scene.host.open(None).unwrap().0.catalog().path().to_owned();
    let lie = "UPDATE snapshot SET record = replace(record, '\"files\":', '\"files\":1')";
    rusqlite::Connection::open(&path).unwrap().execute(lie, []).unwrap();
    let (mut repository, _) = scene.host.open(Some(&scene.person)).unwrap();
    let report = repair(&mut repository, ReadData::No, false, clock()(), &Silent).unwrap();
    assert!(report.catalog_wrong && report.frames_lost == 1 && !report.after.is_clean(), "{report:?}");
}
