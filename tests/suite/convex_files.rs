//! Files of a Convex deployment as a follower stores them: restored with the documents that name them, fetched once, kept by a few snapshots.

use deployment::{Failure, Refusal, json};
use lifeboat::client::convex::Rights;
use lifeboat::model::documents::moment_of;
use lifeboat::ops::documents::gather;
use lifeboat::ops::restore::convex::{Wishes, verify, write_zip};
use lifeboat::plan::documents::Aim;
use lifeboat::plan::restore::Wanted;
use lifeboat::progress::Silent;
use lifeboat::source::convex::resolve;

use crate::common::convex::{Scene, unzip};
use crate::convex_stream::{Follower, back_up, follow_options};

fn count_of(scene: &Scene, source: &str) -> usize {
    let (repository, _) = scene.host.open(None).unwrap();
    let rows = repository.catalog().snapshots().unwrap();
    rows.iter().filter(|row| row.record.source == source).count()
}

/// Waits until what was stored is in a snapshot.
fn stored(follower: &Follower, scene: &Scene, files: usize) {
    let upto = |follower: &Follower| -> usize {
        let heard = follower.heard.lock().unwrap();
        let new =
            heard.iter().filter_map(|word| word.strip_prefix("files: ")?.split_once(' ')?.0.parse::<usize>().ok());
        new.sum()
    };
    follower.wait("files are stored", |follower| upto(follower) >= files);
    follower.level(&scene.convex);
}

#[test]
fn files_come_back_with_the_documents_that_name_them() {
    let scene = Scene::new();
    scene.convex.fill(20, 3);
    scene.convex.create_component("media");
    let follower = Follower::new(&scene);
    follower.wait_said("following", 1);
    let mut kept = Vec::new();
    for n in 0..5 {
        let component = if n % 2 == 0 { "" } else { "media" };
        let id = scene.convex.store_file(component, Some("image/png"), format!("picture {n}"));
        scene.convex.insert("messages", json(&format!("{{\"picture\":\"{id}\"}}")));
        kept.push((component, id));
        stored(&follower, &scene, n + 1);
    }
    let wanted = scene.convex.latest();
    // One that is deleted later is there still at the time that names it.
    assert!(scene.convex.delete_file(&kept[0].1));
    follower.level(&scene.convex);
    follower.end();
    let (repository, restore) = scene.planned(&Wanted::At(moment_of(wanted)), &Wishes::default()).unwrap();
    assert!(!restore.plan.files_missing, "{:?}", restore.plan);
    assert_eq!(restore.plan.files, 3 + 5);
    let archive = unzip(&write_zip(&repository, &restore, Vec::new(), &Silent).unwrap());
    for (n, (component, id)) in kept.iter().enumerate() {
        let prefix = if component.is_empty() { "" } else { "_components/media/" };
        assert_eq!(archive[&format!("{prefix}_storage/{id}.png")], format!("picture {n}").into_bytes());
        let list = String::from_utf8(archive[&format!("{prefix}_storage/documents.jsonl")].clone()).unwrap();
        assert_eq!(list.matches(id.as_str()).count(), 1);
        let ids: Vec<&str> = list.lines().map(|line| line.split('"').nth(3).unwrap()).collect();
        assert!(ids.is_sorted(), "{ids:?}");
    }
    // Another deployment is equal to it, files and all; one file more is seen.
    let (repository, newest) = scene.planned(&Wanted::Latest, &Wishes::default()).unwrap();
    let client = resolve(&scene.options(), chrono::Utc::now(), Rights::Full, std::sync::Arc::default()).unwrap();
    let found = verify(&repository, &newest, &client, Some(&scene.path("work")), &Silent).unwrap();
    let files = found.files.unwrap();
    assert_eq!((files.equal, files.missing, files.changed), (7, 1, 0), "the deleted one alone is missing");
}

#[test]
fn a_nightly_snapshot_does_not_fetch_them_again() {
    let scene = Scene::new();
    scene.convex.fill(5, 4);
    let follower = Follower::new(&scene);
    follower.wait_said("following", 1);
    for n in 0..3 {
        scene.convex.store_file("", None, format!("upload {n}"));
    }
    stored(&follower, &scene, 3);
    let report = back_up(&scene);
    // The lists of files and the parts are always read; no file is.
    assert_eq!(report.files_unmodified, 4 + 3, "{report:?}");
    // Behind it only newer ones are listed, from when the follower has looked for a newer snapshot: now and then it does.
    let mut after = 0;
    loop {
        scene.convex.store_file("", None, format!("after the night {after}"));
        after += 1;
        stored(&follower, &scene, 3 + after);
        let (repository, _) = scene.host.open(Some(&scene.person)).unwrap();
        let found = gather(&repository, "app").unwrap().unwrap();
        let way = found.way(Aim::Latest).unwrap();
        let (later, at) = (found.later_files_for(&way), way.base.at.to_string());
        if !later.is_empty() && later.iter().all(|row| row.record.facts["base"].as_str() == Some(at.as_str())) {
            break;
        }
        assert!(after < 200, "{later:?}");
    }
    follower.end();
    let (_, restore) = scene.planned(&Wanted::Latest, &Wishes::default()).unwrap();
    assert_eq!((restore.plan.files, restore.plan.files_missing), (4 + 3 + after as u64, false));
}

#[test]
fn a_few_snapshots_of_files_are_kept() {
    let scene = Scene::new();
    scene.convex.fill(5, 1);
    let follower = Follower::new(&scene);
    follower.wait_said("following", 1);
    for n in 0..40 {
        scene.convex.store_file("", None, format!("upload {n}"));
        stored(&follower, &scene, n + 1);
    }
    follower.end();
    let left = count_of(&scene, "app.files");
    assert!((1..=17).contains(&left), "{left}");
    let (_, restore) = scene.planned(&Wanted::Latest, &Wishes::default()).unwrap();
    assert_eq!(restore.plan.files, 1 + 40);
}

#[test]
fn a_file_that_cannot_be_had_stops_nothing_and_nothing_is_claimed_of_it() {
    let scene = Scene::new();
    scene.convex.fill(5, 1);
    let follower = Follower::new(&scene);
    follower.wait_said("following", 1);
    let damaged = scene.convex.store_file("", None, "as it was stored");
    assert!(scene.convex.damage_file(&damaged, "as it is now...."));
    follower.wait("it is told", |follower| follower.heard.lock().unwrap().iter().any(|word| word.ends_with("1 lost")));
    scene.convex.store_file("", None, "a good one");
    scene.convex.store_file("", None, "a later one");
    stored(&follower, &scene, 2);
    follower.level(&scene.convex);
    let heard = follower.end();
    let lost = heard.iter().filter(|word| word.starts_with("files") && !word.ends_with("0 lost")).count();
    assert_eq!(lost, 1, "it is told once: {heard:?}");
    let (_, restore) = scene.planned(&Wanted::Latest, &Wishes::default()).unwrap();
    assert_eq!((restore.plan.files, restore.plan.files_missing), (1 + 2, true));
}

#[test]
fn a_proxy_s_404_is_no_deletion() {
    let scene = Scene::new();
    scene.convex.fill(5, 1);
    let follower = Follower::new(&scene);
    follower.wait_said("following", 1);
    scene.convex.faults().fail("GET /api/storage", Failure::Answer(Refusal::new(404, "", "")), 1);
    scene.convex.store_file("", None, "it is there");
    follower.wait("it is told", |follower| follower.heard.lock().unwrap().iter().any(|word| word.ends_with("1 lost")));
    follower.level(&scene.convex);
    follower.end();
    let (_, restore) = scene.planned(&Wanted::Latest, &Wishes::default()).unwrap();
    assert!(restore.plan.files_missing);
    // Another process asks for it at once.
    let follower = Follower::new(&scene);
    stored(&follower, &scene, 1);
    follower.end();
    let (_, restore) = scene.planned(&Wanted::Latest, &Wishes::default()).unwrap();
    assert_eq!((restore.plan.files, restore.plan.files_missing), (1 + 1, false));
}

#[test]
fn what_was_deleted_on_the_server_outlives_restarts_of_the_follower() {
    let scene = Scene::new();
    scene.convex.fill(5, 1);
    let follower = Follower::new(&scene);
    follower.wait_said("following", 1);
    let deleted = scene.convex.store_file("", Some("text/plain"), "deleted later");
    stored(&follower, &scene, 1);
    follower.end();
    assert!(scene.convex.delete_file(&deleted));
    for n in 0..40 {
        let follower = Follower::new(&scene);
        scene.convex.store_file("", None, format!("upload {n}"));
        stored(&follower, &scene, 1);
        follower.end();
        // Now and then what it knew is lost too.
        if n == 20 {
            for stream in std::fs::read_dir(scene.path("follow")).unwrap().flatten() {
                std::fs::remove_file(stream.path().join("files.json")).unwrap();
            }
        }
    }
    assert!(count_of(&scene, "app.files") < 40);
    let (repository, restore) = scene.planned(&Wanted::Latest, &Wishes::default()).unwrap();
    assert_eq!((restore.plan.files, restore.plan.files_missing), (1 + 1 + 40, false));
    let archive = unzip(&write_zip(&repository, &restore, Vec::new(), &Silent).unwrap());
    assert_eq!(archive[&format!("_storage/{deleted}.txt")], b"deleted later");
}

#[test]
fn without_files_none_are_stored() {
    let scene = Scene::new();
    scene.convex.fill(5, 1);
    let mut options = follow_options(&scene);
    options.files_every = None;
    let follower = Follower::with(&scene, options, scene.options());
    follower.wait_said("following", 1);
    scene.convex.store_file("", None, "upload");
    follower.level(&scene.convex);
    follower.end();
    assert_eq!(count_of(&scene, "app.files"), 0);
    let (_, restore) = scene.planned(&Wanted::Latest, &Wishes::default()).unwrap();
    assert!(restore.plan.files_missing, "the newest snapshot began before");
}
