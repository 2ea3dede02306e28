//! `--delta`: what is there is compared frame by frame, and only what is wrong is fetched and written.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use futures_util::StreamExt;
use lifeboat::ops;
use lifeboat::ops::restore::{Overwrite, RestoreOptions, RestoreReport, find_snapshot, mark_of, prepare};
use lifeboat::plan::restore::Wanted;
use lifeboat::progress::Silent;
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use tempfile::TempDir;

use crate::common::faulty::{Fails, Faulty};
use crate::common::{Host, Person, block_on, plain, tree};

/// Texts are cut into chunks of at most this many bytes.
const FINE_MAX: u64 = 64 << 10;

struct Scene {
    source: TempDir,
    back: TempDir,
    host: Host,
    person: Person,
}

/// A tree that was backed up and restored.
fn scene(make: impl FnOnce(&Path)) -> Scene {
    let (source, back) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    make(source.path());
    tree::age(source.path());
    let (host, person) = (Host::new(Arc::new(InMemory::new())), Person::new());
    host.init(&person);
    host.backup(source.path()).unwrap();
    host.restore(&person, &Wanted::Latest, back.path()).unwrap();
    Scene { source, back, host, person }
}

impl Scene {
    /// Makes bytes of a restored file others.
    fn damage(&self, name: &str, places: impl IntoIterator<Item = u64>) {
        let file = OpenOptions::new().read(true).write(true).open(self.back.path().join(name)).unwrap();
        for at in places {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 1], at).unwrap();
        }
    }

    fn delta(&self) -> Result<RestoreReport, ops::Error> {
        self.delta_from(&self.host)
    }

    fn delta_from(&self, host: &Host) -> Result<RestoreReport, ops::Error> {
        let options = RestoreOptions { overwrite: Overwrite::Delta, ..plain() };
        host.restore_with(&self.person, &Wanted::Latest, self.back.path(), options)
    }

    /// The same, and how many operations of the store it took.
    fn counted(&self) -> (RestoreReport, u64) {
        let counted = Faulty::new(Arc::clone(&self.host.objects), 0, Fails::Before);
        let report = self.delta_from(&Host { objects: counted.clone(), ..self.host.second() }).unwrap();
        (report, counted.operations())
    }

    fn assert_whole(&self) {
        assert_eq!(self.back(), tree::describe(self.source.path()));
    }

    fn back(&self) -> BTreeMap<String, String> {
        tree::describe(self.back.path())
    }
}

#[test]
fn right_and_wrong_pieces_of_one_frame_are_told_apart() {
    let scene = scene(|root| {
        fs::write(root.join("a"), tree::lines(9000, 1)).unwrap();
        fs::write(root.join("b"), tree::lines(9000, 2)).unwrap();
        fs::write(root.join("c"), tree::lines(100, 3)).unwrap();
        fs::write(root.join("d"), tree::lines(9000, 4)).unwrap();
    });
    let size = |name: &str| fs::metadata(scene.source.path().join(name)).unwrap().len();
    scene.damage("a", [5, size("a") / 2]);
    fs::remove_file(scene.back.path().join("c")).unwrap();
    // Too short, and too long.
    let b = OpenOptions::new().write(true).open(scene.back.path().join("b")).unwrap();
    b.set_len(size("b") - 10).unwrap();
    let d = OpenOptions::new().write(true).open(scene.back.path().join("d")).unwrap();
    d.set_len(size("d") + 10).unwrap();
    let report = scene.delta().unwrap();
    scene.assert_whole();
    let (written, kept) = (report.bytes_written, report.bytes_kept);
    assert_eq!(written + kept, ["a", "b", "c", "d"].map(size).iter().sum::<u64>());
    assert!(written > size("c") && written <= size("c") + 3 * FINE_MAX, "{written}");
    assert_eq!((report.files_written, report.files_kept), (4, 0));
    let again = scene.delta().unwrap();
    assert_eq!((again.bytes_written, again.bytes_kept), (0, written + kept));
}

#[test]
fn frames_of_which_nothing_is_wrong_are_not_fetched() {
    let scene = scene(|root| {
        fs::write(root.join("big"), tree::noise(30_000_000, 1)).unwrap();
        fs::write(root.join("small"), tree::noise(3000, 2)).unwrap();
    });
    let (_, nothing) = scene.counted();
    assert_eq!(scene.counted().1, nothing);
    scene.damage("big", [7]);
    assert_eq!(scene.counted().1 - nothing, 1);
    scene.damage("big", [7, 9]);
    assert_eq!(scene.counted().1 - nothing, 1, "one frame");
    scene.damage("big", [7, 14_000_000, 29_999_999]);
    let (report, operations) = scene.counted();
    assert_eq!(operations - nothing, 3);
    assert!(report.bytes_written <= 3 << 20, "{report:?}");
    scene.assert_whole();
    // Where all are wrong, neighbours are one request, as in a restore into an empty directory.
    let (repository, _) = scene.host.open(Some(&scene.person)).unwrap();
    let (snapshot, choice) = find_snapshot(&repository, "data", &Wanted::Latest, false).unwrap();
    let requests = prepare(&repository, snapshot, &choice, None, plain(), &Silent).unwrap().plan.requests;
    scene.damage("big", (0..30_000_000).step_by(50_000));
    scene.damage("small", [0]);
    assert_eq!(scene.counted().1 - nothing, requests);
    scene.assert_whole();
}

/// Flips a bit in the packs that hold content.
fn hurt_packs(host: &Host) {
    block_on(async {
        let mut all = host.objects.list(None);
        while let Some(object) = all.next().await {
            let object = object.unwrap();
            if object.location.as_ref().contains("/packs/") && object.size > 500_000 {
                let mut body = host.objects.get(&object.location).await.unwrap().bytes().await.unwrap().to_vec();
                body[1000] ^= 1;
                host.objects.put(&object.location, body.into()).await.unwrap();
            }
        }
    });
}

#[test]
fn a_damaged_frame_hurts_only_files_that_need_a_piece_of_it() {
    let scene = scene(|root| {
        for (name, seed) in [("a", 1), ("b", 2)] {
            fs::write(root.join(name), tree::noise(300_000, seed)).unwrap();
        }
    });
    hurt_packs(&scene.host);
    let report = scene.delta().unwrap();
    assert_eq!((report.bytes_written, report.bytes_kept), (0, 600_000), "nothing was needed of it");
    scene.damage("a", [100]);
    let b = scene.back()["b"].clone();
    let hurt = scene.delta();
    assert!(matches!(&hurt, Err(ops::Error::Hurt { files: 1, first, .. }) if first == "a"), "{hurt:?}");
    let back = scene.back();
    assert_eq!(back["b"], b);
    assert!(!back.contains_key("a") && back.contains_key("a.lifeboat-incomplete"), "{back:?}");
}

#[test]
fn an_interrupted_delta_continues() {
    let scene = scene(|root| {
        fs::write(root.join("big"), tree::noise(30_000_000, 1)).unwrap();
        for n in 0..50 {
            fs::write(root.join(format!("{n:02}")), tree::lines(100, n)).unwrap();
        }
    });
    let (_, nothing) = scene.counted();
    let id = scene.host.snapshots()[0].parse().unwrap();
    for fetched in 1..4 {
        scene.damage("big", (0..30_000_000).step_by(50_000));
        fs::write(scene.back.path().join("07"), "scribble").unwrap();
        // The store fails for ever in the middle of the frames.
        let fails = Faulty::new(Arc::clone(&scene.host.objects), nothing - 1 + fetched, Fails::Before);
        let stopped = scene.delta_from(&Host { objects: fails, ..scene.host.second() });
        assert!(stopped.is_err(), "{fetched}");
        assert!(scene.back.path().join(mark_of(&id)).exists(), "half a restore says that it is one");
        let refused = scene.host.restore(&scene.person, &Wanted::Latest, scene.back.path()).unwrap_err();
        assert!(refused.hint().unwrap_or_default().contains("--delta"), "{refused}");
        scene.delta().unwrap();
        scene.assert_whole();
    }
}

#[test]
fn holes_are_holes_again() {
    const MB: u64 = 1 << 20;
    let scene = scene(|root| {
        let file = fs::File::create(root.join("sparse")).unwrap();
        file.set_len(6 * MB).unwrap();
        file.write_all_at(&tree::noise(1 << 20, 1), 0).unwrap();
        file.write_all_at(&tree::noise(1 << 20, 2), 4 * MB).unwrap();
        fs::File::create(root.join("all-hole")).unwrap().set_len(2 * MB).unwrap();
    });
    let scribble = |name: &str, at: u64| {
        let file = OpenOptions::new().write(true).open(scene.back.path().join(name)).unwrap();
        file.write_all_at(&[9; 1 << 20], at).unwrap();
    };
    scribble("sparse", 3 * MB + MB / 2);
    scribble("sparse", 5 * MB);
    scribble("all-hole", 5000);
    let report = scene.delta().unwrap();
    scene.assert_whole();
    assert_eq!(report.bytes_written + report.bytes_kept, 8 * MB);
    assert!(report.bytes_written > 0 && report.bytes_written <= MB, "{report:?}");
}
