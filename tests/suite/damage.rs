//! Damage to stored bytes: noticed, named, never a panic, never wrong bytes; and healed by the next backup as far as the
//! source still has it.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lifeboat::ops;
use lifeboat::ops::check::{CheckReport, ReadData, check};
use lifeboat::ops::restore::{Overwrite, RestoreOptions};
use lifeboat::plan::restore::Wanted;
use lifeboat::progress::Silent;
use object_store::local::LocalFileSystem;

use crate::common::{Host, Person, clock, plain, tree};

struct Scene {
    source: tempfile::TempDir,
    store: tempfile::TempDir,
    host: Host,
    person: Person,
}

fn scene() -> Scene {
    let (source, store) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    tree::make(source.path(), 5);
    tree::age(source.path());
    let host = Host::new(Arc::new(LocalFileSystem::new_with_prefix(store.path()).unwrap()));
    let person = Person::new();
    host.init(&person);
    host.backup(source.path()).unwrap();
    Scene { source, store, host, person }
}

fn objects(root: &Path, marker: &str) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![root.to_owned()]);
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(path).unwrap().map(|e| e.unwrap().path()));
        } else if path.to_string_lossy().contains(marker) {
            found.push(path);
        }
    }
    found.sort_by_key(|path| std::cmp::Reverse(fs::metadata(path).unwrap().len()));
    found
}

fn flip(path: &Path, at: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

impl Scene {
    fn check(&self, identity: bool, read: ReadData) -> CheckReport {
        let (mut repository, problems) = self.host.open(identity.then_some(&self.person)).unwrap();
        check(&mut repository, read, &problems, clock()(), 7, &Silent).unwrap()
    }

    fn restore(&self) -> Result<tempfile::TempDir, ops::Error> {
        let back = tempfile::tempdir().unwrap();
        self.host.restore(&self.person, &Wanted::Latest, back.path())?;
        Ok(back)
    }
}

#[test]
fn a_sound_repository_is_clean() {
    let scene = scene();
    let report = scene.check(true, ReadData::All);
    assert!(report.is_clean() && report.frames_opened > 0 && report.manifests_read == 1, "{report:?}");
    let parts: u64 = (1..=3).map(|part| scene.check(true, ReadData::Part { part, of: 3 }).packs_read).sum();
    assert_eq!(parts, report.packs, "all parts together are everything");
    assert!(scene.check(true, ReadData::Bytes(1)).packs_read == 1);
    assert_eq!(scene.check(true, ReadData::Percent(100.0)).packs_read, report.packs);
}

#[test]
fn a_flipped_bit_in_a_pack_is_found_named_and_not_restored() {
    let scene = scene();
    // A file of several frames, before all others: the pack of the newest snapshot begins with it.
    fs::write(scene.source.path().join("big.bin"), tree::noise(6_000_000, 8)).unwrap();
    scene.host.backup(scene.source.path()).unwrap();
    let pack = &objects(scene.store.path(), "/packs/")[0];
    flip(pack, 1000);
    assert!(scene.check(true, ReadData::No).is_clean(), "only reading finds it");
    for identity in [false, true] {
        let report = scene.check(identity, ReadData::All);
        assert_eq!((report.damage.len(), report.damage[0].snapshots.len()), (1, 1), "{report:?}");
        assert!(report.damage[0].object.contains(pack.file_name().unwrap().to_str().unwrap()));
        assert_eq!(report.files_hurt.is_empty(), !identity, "{report:?}");
    }
    let error = scene.restore().unwrap_err();
    assert!(matches!(error, ops::Error::Hurt { .. }) && error.kind() as u8 == 13, "{error}");
    // What is not hurt came back; what is has a name that says so.
    let back = tempfile::tempdir().unwrap();
    let _ = scene.host.restore(&scene.person, &Wanted::Latest, back.path());
    let (ours, theirs) = (tree::describe(scene.source.path()), tree::describe(back.path()));
    assert!(!theirs.contains_key("big.bin") && theirs.contains_key("big.bin.lifeboat-incomplete"), "{theirs:?}");
    for (path, line) in ours.iter().filter(|(path, _)| !path.is_empty() && *path != "big.bin") {
        assert_eq!(theirs.get(path), Some(line), "{path}");
    }
}

#[test]
fn the_next_backup_stores_anew_what_is_damaged_or_missing() {
    for missing in [false, true] {
        let scene = scene();
        let pack = objects(scene.store.path(), "/packs/")[0].clone();
        if missing {
            fs::remove_file(&pack).unwrap();
        } else {
            flip(&pack, 1000);
        }
        assert!(!scene.check(true, ReadData::All).is_clean());
        let report = scene.host.backup(scene.source.path()).unwrap();
        assert!(report.counts.bytes_new > 0, "what was lost is stored again");
        let back = scene.restore().unwrap();
        assert_eq!(tree::describe(back.path()), tree::describe(scene.source.path()), "missing: {missing}");
    }
}

#[test]
fn a_missing_pack_is_noticed_by_the_first_backup_of_a_day() {
    let scene = scene();
    fs::remove_file(&objects(scene.store.path(), "/packs/")[0]).unwrap();
    // Another day: the catalog's listing is too old to be trusted.
    {
        let (mut repository, _) = scene.host.open(None).unwrap();
        let writer = repository.host().unwrap().name.clone();
        repository.catalog_mut().set_fact(&format!("packs of {writer} listed"), "0").unwrap();
    }
    let report = scene.host.backup(scene.source.path()).unwrap();
    assert!(report.counts.packs > 0);
    let back = scene.restore().unwrap();
    assert_eq!(tree::describe(back.path()), tree::describe(scene.source.path()));
}

#[test]
fn every_class_of_object_may_be_damaged_and_it_is_noticed() {
    for (marker, what) in [
        ("/log/", "commit"),
        ("writer.json", "writer"),
        ("recipients-", "recipients"),
        ("keys/secret-", "secret"),
        ("lifeboat.json", "description"),
    ] {
        for way in ["flip", "cut", "gone"] {
            let scene = scene();
            let path = objects(scene.store.path(), marker)[0].clone();
            match way {
                "flip" => flip(&path, fs::metadata(&path).unwrap().len() / 2),
                "cut" => fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(40).unwrap(),
                _ => fs::remove_file(&path).unwrap(),
            }
            // A machine that has seen nothing, with an identity.
            let bare = Host::new(Arc::clone(&scene.host.objects));
            let context = format!("{what}, {way}");
            let (mut repository, problems) = match bare.open(Some(&scene.person)) {
                Ok(opened) => opened,
                Err(e) => {
                    let text = e.to_string();
                    assert!(!text.is_empty(), "{context}");
                    continue;
                }
            };
            let report = check(&mut repository, ReadData::All, &problems, clock()(), 7, &Silent).unwrap();
            // A list of recipients that is gone is asked for by whoever changes keys.
            let asked = what == "recipients" && repository.current_recipients().is_err();
            let noticed = !report.is_clean() || report.snapshots == 0 || asked;
            assert!(noticed, "{context}: {report:?}");
        }
    }
}

#[test]
fn a_commit_that_this_catalog_has_seen_cannot_vanish_unnoticed() {
    let scene = scene();
    fs::remove_file(&objects(scene.store.path(), "/log/")[0]).unwrap();
    let (_, problems) = scene.host.open(None).unwrap();
    assert!(matches!(problems[0], lifeboat::repository::Problem::MissingCommit { sequence: 1, .. }), "{problems:?}");
}

#[test]
fn swapped_packs_are_noticed() {
    let scene = scene();
    fs::write(scene.source.path().join("more"), tree::noise(290_000, 42)).unwrap();
    scene.host.backup(scene.source.path()).unwrap();
    let packs = objects(scene.store.path(), "/packs/");
    let (a, b) = (fs::read(&packs[0]).unwrap(), fs::read(&packs[1]).unwrap());
    fs::write(&packs[0], b).unwrap();
    fs::write(&packs[1], a).unwrap();
    let report = scene.check(true, ReadData::All);
    assert_eq!(report.damage.len(), 2, "{report:?}");
    assert!(scene.restore().is_err());
}

#[test]
fn names_are_audited_by_b3sum_alone() {
    let scene = scene();
    let mut seen = 0;
    for path in objects(scene.store.path(), "/packs/").into_iter().chain(objects(scene.store.path(), "/log/")) {
        let output = std::process::Command::new("b3sum").arg("--no-names").arg(&path).output();
        let output = output.expect("b3sum is needed: run `./test`");
        let sum = String::from_utf8(output.stdout).unwrap();
        assert!(path.to_string_lossy().contains(sum.trim()), "{}", path.display());
        seen += 1;
    }
    assert!(seen >= 3);
}

#[test]
fn a_pack_cut_off_before_its_directory_stops_no_rebuild_and_no_backup() {
    for length in [0, 1000] {
        let scene = scene();
        let pack = &objects(scene.store.path(), "/packs/")[0];
        fs::OpenOptions::new().write(true).open(pack).unwrap().set_len(length).unwrap();
        scene.host.open(None).unwrap().0.rebuild_catalog(&Silent).unwrap();
        scene.host.backup(scene.source.path()).unwrap();
        let back = scene.restore().unwrap();
        assert_eq!(tree::describe(back.path()), tree::describe(scene.source.path()), "{length} bytes are left");
    }
}

#[test]
fn a_frame_that_no_log_names_costs_its_own_file() {
    let scene = scene();
    fs::write(scene.source.path().join("big.bin"), tree::noise(6_000_000, 8)).unwrap();
    tree::age(scene.source.path());
    scene.host.backup(scene.source.path()).unwrap();
    let whole = scene.restore().unwrap();
    let (mut repository, _) = scene.host.open(None).unwrap();
    let row = repository.host_row().unwrap();
    let packs = repository.catalog().packs(row).unwrap();
    let pack = packs.iter().max_by_key(|pack| pack.size).unwrap();
    let frame = repository.catalog().frames_of(pack.row).unwrap()[0].row;
    let path = repository.catalog().path().to_owned();
    drop(repository);
    let forget = "UPDATE frame SET name = zeroblob(32), key = 0 WHERE id = ?1";
    assert_eq!(rusqlite::Connection::open(path).unwrap().execute(forget, [frame]).unwrap(), 1);
    for (into, overwrite) in [(tempfile::tempdir().unwrap(), Overwrite::Refuse), (whole, Overwrite::Delta)] {
        let options = RestoreOptions { overwrite, ..plain() };
        let error = scene.host.restore_with(&scene.person, &Wanted::Latest, into.path(), options).unwrap_err();
        assert!(matches!(&error, ops::Error::Hurt { files: 1, first, .. } if first == "big.bin"), "{error}");
        assert_eq!(error.kind() as u8, 13);
        let (ours, theirs) = (tree::describe(scene.source.path()), tree::describe(into.path()));
        assert!(!theirs.contains_key("big.bin") && theirs.contains_key("big.bin.lifeboat-incomplete"), "{theirs:?}");
        for (path, line) in ours.iter().filter(|(path, _)| !path.is_empty() && *path != "big.bin") {
            assert_eq!(theirs.get(path), Some(line), "{path}");
        }
    }
}
