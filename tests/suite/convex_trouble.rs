//! What goes wrong with a Convex deployment while it is backed up: exports that hang, downloads that break, files that are not there,
//! keys that do not fit, disks that are full. A snapshot is right, or it is not there, or it names what it lacks.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use deployment::{ExportFault, Failure, Features, Options, Refusal, json};
use lifeboat::client::convex;
use lifeboat::ops;
use lifeboat::ops::restore::convex::Wishes;
use lifeboat::progress::CancelFlag;
use lifeboat::source;
use lifeboat::source::convex::{ConvexOptions, ExportError, KeyFrom};

use crate::common::convex::{Scene, said, unzip};
use crate::space::Small;

fn scene() -> Scene {
    let scene = Scene::new();
    for n in 0..200 {
        scene.convex.insert("users", json(&format!("{{\"n\":{n},\"text\":\"{}\"}}", "abc".repeat(n))));
    }
    scene
}

/// A backup that must fail and make no snapshot; answers what was said.
fn refused(scene: &Scene, options: ConvexOptions) -> (ops::Error, String) {
    let before = scene.snapshots();
    let error = scene.try_backup(options).unwrap_err();
    assert_eq!(scene.snapshots(), before, "a snapshot was made");
    let text = said(&error);
    for secret in
        [scene.convex.admin_key(), scene.convex.instance_secret(), std::fs::read_to_string(scene.path("key")).unwrap()]
    {
        let hex = secret.split('|').next_back().unwrap().trim().to_owned();
        assert!(hex.is_empty() || !text.contains(&hex), "{text}");
    }
    (error, text)
}

fn latest_state(scene: &Scene) -> convex::ExportStatus {
    client(scene).latest_export().unwrap().unwrap().status
}

fn client(scene: &Scene) -> convex::Deployment {
    source::convex::resolve(&scene.options(), chrono::Utc::now(), convex::Rights::Full, Arc::default()).unwrap()
}

#[test]
fn an_export_that_stands_still_is_cancelled() {
    let scene = scene();
    scene.convex.faults().set_export(ExportFault::Stuck);
    let options = ConvexOptions { stall_timeout: Duration::from_millis(300), ..scene.options() };
    let (error, _) = refused(&scene, options);
    let ops::Error::Source(source::Error::Export(ExportError::Stuck { foreign: false, .. })) = &error else {
        panic!("{error:?}")
    };
    assert!(error.hint().unwrap().contains("It was cancelled"));
    assert_eq!(latest_state(&scene), convex::ExportStatus::Canceled);
    scene.convex.faults().clear();
    scene.assert_restores(&scene.backup());
}

#[test]
fn an_export_that_begins_anew_again_and_again_is_cancelled() {
    let scene = scene();
    scene.convex.faults().set_export(ExportFault::StartsOver);
    let (error, text) = refused(&scene, scene.options());
    assert!(matches!(error, ops::Error::Source(source::Error::Export(ExportError::Stuck { .. }))), "{text}");
    assert!(text.contains("began anew"), "{text}");
    assert_eq!(latest_state(&scene), convex::ExportStatus::Canceled);
}

#[test]
fn an_export_that_somebody_ended_is_no_snapshot() {
    for fault in [ExportFault::Canceled, ExportFault::Failed] {
        let scene = scene();
        scene.convex.faults().set_export(fault);
        let (error, text) = refused(&scene, scene.options());
        assert!(matches!(error, ops::Error::Source(source::Error::Export(ExportError::Ended { .. }))), "{text}");
        scene.convex.faults().clear();
        scene.assert_restores(&scene.backup());
    }
}

#[test]
fn somebody_elses_export_is_waited_for_and_never_cancelled() {
    let scene = scene();
    scene.convex.faults().set_export(ExportFault::Polls(20));
    client(&scene).request_export().unwrap();
    let theirs = client(&scene).latest_export().unwrap().unwrap().id;
    let report = scene.backup();
    assert_ne!(scene.facts(&report).export, theirs);
    scene.assert_restores(&report);
    assert_eq!(scene.convex.faults().count("POST /api/export/cancel"), 0);

    scene.convex.faults().set_export(ExportFault::Stuck);
    client(&scene).request_export().unwrap();
    let options = ConvexOptions { stall_timeout: Duration::from_millis(200), ..scene.options() };
    let (error, _) = refused(&scene, options);
    let ops::Error::Source(source::Error::Export(ExportError::Stuck { foreign: true, .. })) = &error else {
        panic!("{error:?}")
    };
    assert!(error.hint().unwrap().contains("/api/export/cancel/"));
    assert_eq!(scene.convex.faults().count("POST /api/export/cancel"), 0);
}

#[test]
fn a_request_whose_answer_is_lost_is_not_made_twice() {
    let scene = scene();
    scene.convex.faults().fail("POST /api/export/request", Failure::DoThenDrop, 1);
    scene.assert_restores(&scene.backup());
    assert_eq!(scene.convex.faults().count("POST /api/export/request"), 1);
    // One that never arrived is made again.
    scene.convex.faults().fail("POST /api/export/request", Failure::Drop, 1);
    scene.convex.faults().forget_requests();
    scene.assert_restores(&scene.backup());
    assert_eq!(scene.convex.faults().count("POST /api/export/request"), 2);
}

#[test]
fn answers_that_may_pass_are_asked_for_again() {
    let scene = scene();
    let passing = [
        Failure::Answer(Refusal::new(408, "", "")),
        Failure::Answer(Refusal::new(503, "Overloaded", "later")),
        Failure::Answer(Refusal::new(500, "", "")),
        Failure::Answer(Refusal::new(429, "RateLimited", "slowly")),
        Failure::Drop,
        Failure::CutBody(3),
    ];
    for failure in passing {
        for begins in ["GET /instance_name", "POST /api/query", "GET /api/export/zip", "GET /api/v1/list_environment"] {
            scene.convex.faults().fail(begins, failure.clone(), 1);
        }
        scene.assert_restores(&scene.backup());
        scene.convex.faults().clear();
    }
}

#[test]
fn a_download_that_breaks_is_begun_anew_and_not_for_ever() {
    let scene = scene();
    scene.convex.faults().fail("GET /api/export/zip", Failure::CutBody(5000), 2);
    scene.assert_restores(&scene.backup());
    assert_eq!(scene.convex.faults().count("GET /api/export/zip"), 3);
    scene.convex.faults().fail("GET /api/export/zip", Failure::CutBody(5000), u32::MAX);
    let (error, text) = refused(&scene, scene.options());
    assert!(matches!(error, ops::Error::Source(source::Error::Export(ExportError::Broken { .. }))), "{text}");
    assert!(scene.work_is_empty());
}

#[test]
fn a_byte_that_changed_on_the_way_is_no_snapshot() {
    let scene = scene();
    let length = scene.zip_length();
    let mut noticed = 0;
    for part in 1..12 {
        scene.convex.faults().fail("GET /api/export/zip", Failure::FlipByte(length * part / 12), u32::MAX);
        match scene.try_backup(scene.options()) {
            Ok(report) => scene.assert_restores(&report),
            Err(_) => noticed += 1,
        }
        scene.convex.faults().clear();
    }
    assert!(noticed > 5, "{noticed} of 11 changed bytes were noticed");
}

#[test]
fn a_fetch_of_a_file_goes_on_where_it_broke() {
    let scene = scene();
    let bytes: Vec<u8> = (0..3_000_000u32).map(|n| (n * 7 % 251) as u8).collect();
    scene.convex.store_file("", Some("video/mp4"), bytes);
    scene.convex.faults().fail("GET /api/storage/", Failure::CutBody(1_000_000), 2);
    scene.assert_restores(&scene.backup());
    assert_eq!(scene.convex.faults().count("GET /api/storage/"), 3);
}

#[test]
fn files_that_cannot_be_had_are_named_and_the_rest_is_stored() {
    let scene = scene();
    let wrong = scene.convex.store_file("", None, vec![1u8; 3_000_000]);
    let small = scene.convex.store_file("", None, &b"small and wrong"[..]);
    scene.convex.store_file("", None, &b"right"[..]);
    scene.convex.damage_file(&wrong, vec![2u8; 3_000_000]);
    scene.convex.damage_file(&small, &b"small and WRONG"[..]);
    let report = scene.try_backup(scene.options()).unwrap();
    assert!(!report.record.complete);
    let mut named: Vec<&str> = report.skipped.iter().map(|(path, _)| path.as_str()).collect();
    named.sort_unstable();
    let mut expected = [format!("_storage/{wrong}"), format!("_storage/{small}")];
    expected.sort();
    assert_eq!(named, expected);
    assert!(report.skipped.iter().all(|(_, why)| why.contains("sha256")), "{:?}", report.skipped);
    let all =
        unzip(&scene.zip_of(&lifeboat::plan::restore::Wanted::Named(report.record.id.to_string()), &Wishes::default()));
    assert!(all.values().any(|content| content == b"right"));
    assert!(!all.values().any(|content| content == b"small and WRONG"));
}

#[test]
fn a_file_that_is_listed_and_not_there_is_named() {
    let scene = scene();
    scene.convex.store_file("", None, &b"lost"[..]);
    for refusal in [Refusal::new(404, "FileNotFound", "gone"), Refusal::new(400, "BackendIsNotRunning", "paused")] {
        scene.convex.faults().fail("GET /api/storage/", Failure::Answer(refusal), u32::MAX);
        let report = scene.try_backup(scene.options()).unwrap();
        assert_eq!((report.record.complete, report.skipped.len()), (false, 1), "{:?}", report.skipped);
        scene.convex.faults().clear();
    }
    scene.assert_restores(&scene.backup());
}

#[test]
fn a_file_that_is_deleted_during_the_export_is_no_loss() {
    let scene = scene();
    let going = scene.convex.store_file("", None, &b"going"[..]);
    scene.convex.store_file("", None, &b"staying"[..]);
    scene.convex.faults().set_export(ExportFault::Polls(40));
    let report = std::thread::scope(|scope| {
        scope.spawn(|| {
            while scene.convex.faults().count("POST /api/export/request") == 0 {
                std::thread::yield_now();
            }
            scene.convex.delete_file(&going);
        });
        scene.backup()
    });
    assert_eq!(scene.facts(&report).files_deleted, 1);
    let all = unzip(&scene.zip(&Wishes::default()));
    assert!(all.values().any(|content| content == b"staying") && !all.values().any(|content| content == b"going"));
}

#[test]
fn a_run_that_is_given_up_ends_its_export() {
    let scene = scene();
    scene.convex.faults().set_export(ExportFault::Stuck);
    let flag = Arc::new(CancelFlag::default());
    let error = std::thread::scope(|scope| {
        scope.spawn(|| {
            while scene.convex.faults().count("POST /api/export/request") == 0 {
                std::thread::yield_now();
            }
            flag.0.store(true, Ordering::Relaxed);
        });
        scene.backup_heard(scene.options(), Arc::clone(&flag) as _).unwrap_err()
    });
    assert_eq!(error.kind(), ops::Kind::Cancelled, "{}", said(&error));
    assert_eq!(latest_state(&scene), convex::ExportStatus::Canceled);
    scene.convex.faults().clear();
    scene.assert_restores(&scene.backup());
}

#[test]
fn keys_that_do_not_fit_are_told_apart() {
    let scene = scene();
    let with = |text: &str| {
        std::fs::write(scene.path("other"), text).unwrap();
        ConvexOptions { key: KeyFrom::File(scene.path("other")), ..scene.options() }
    };
    let other = Scene::with(Options { instance_secret: deployment::Secret([9; 32]), ..Options::default() });
    let (error, text) = refused(&scene, with(&other.convex.admin_key()));
    assert!(matches!(error, ops::Error::Source(source::Error::Convex(convex::Error::WrongKey { .. }))), "{text}");
    let other = Scene::with(Options { instance_name: "another".into(), ..Options::default() });
    scene.convex.faults().forget_requests();
    let (error, text) = refused(&scene, with(&other.convex.admin_key()));
    assert!(text.contains("`another`"), "{text}");
    assert_eq!(error.kind(), ops::Kind::Usage);
    assert_eq!(scene.convex.faults().requests(), ["GET /instance_name"], "the key was not used");
    let (error, text) = refused(&scene, with(&scene.convex.read_only_key()));
    assert!(matches!(error, ops::Error::Source(source::Error::Convex(convex::Error::NotPermitted { .. }))), "{text}");
    let (error, text) = refused(&scene, with("no key"));
    assert_eq!(error.kind(), ops::Kind::Usage, "{text}");
    assert!(!text.contains("no key"), "{text}");
}

#[test]
fn nobody_who_answers_and_somebody_else_are_told_apart() {
    let scene = scene();
    let url = |url: String| ConvexOptions { url: Some(url), ..scene.options() };
    let (error, text) = refused(&scene, url("http://127.0.0.1:1".into()));
    assert!(matches!(error, ops::Error::Source(source::Error::Convex(convex::Error::Unreachable { .. }))), "{text}");
    let html = Failure::Answer(Refusal::new(302, "", ""));
    scene.convex.faults().fail("GET /instance_name", html, u32::MAX);
    let (_, text) = refused(&scene, scene.options());
    assert!(text.contains("302"), "{text}");
}

#[test]
fn a_full_work_directory_is_told_before_and_during_the_download() {
    let scene = scene();
    for n in 0..100u32 {
        let noise: String =
            (0..200).map(|k| blake3::hash(&(n * 1000 + k).to_le_bytes()).to_hex().to_string()).collect();
        scene.convex.insert("noise", json(&format!("{{\"text\":\"{noise}\"}}")));
    }
    let Some(small) = Small::mount(1024) else { return };
    let options = ConvexOptions { work_dir: Some(small.path().to_owned()), ..scene.options() };
    let (error, text) = refused(&scene, options);
    assert!(matches!(error, ops::Error::Source(source::Error::Export(ExportError::NoSpace { .. }))), "{text}");
    assert!(error.hint().unwrap().contains("work_dir"));
    assert_eq!(std::fs::read_dir(small.path()).unwrap().count(), 0);
    scene.assert_restores(&scene.backup());
}

#[test]
fn backends_of_other_times_are_backed_up_too() {
    for features in [Features::early_2026(), Features::early_2025()] {
        let scene = Scene::with(Options { features, ..Options::default() });
        scene.convex.insert("users", json(r#"{"n":1.5,"text":"x"}"#));
        scene.convex.store_file("", Some("text/plain"), &b"bytes"[..]);
        let report = scene.backup();
        assert_eq!(scene.facts(&report).not_uniform.as_deref(), Some("users"));
        let all = unzip(&scene.zip(&Wishes::default()));
        assert_ne!(all["users/generated_schema.jsonl"], b"\"uniform\"\n");
        assert!(all.values().any(|content| content == b"bytes"));
    }
}

#[test]
fn what_a_killed_run_began_is_ended_by_the_next() {
    let scene = scene();
    scene.convex.faults().set_export(ExportFault::Stuck);
    // A run that is killed leaves its note and its export: the same as one whose thread never comes back.
    let options = ConvexOptions { stall_timeout: Duration::from_secs(3600), ..scene.options() };
    let flag = Arc::new(CancelFlag::default());
    let note = std::thread::scope(|scope| {
        let run = scope.spawn(|| scene.backup_heard(options, Arc::clone(&flag) as _));
        let note = loop {
            let found = std::fs::read_dir(scene.path("work")).unwrap().flatten().next();
            if let Some(text) = found.and_then(|entry| Some((entry.path(), std::fs::read(entry.path()).ok()?)))
                && text.1.ends_with(format!(" {}", std::process::id()).as_bytes())
            {
                break text;
            }
            std::thread::yield_now();
        };
        scene.convex.faults().fail("POST /api/export/cancel", Failure::Drop, 1);
        flag.0.store(true, Ordering::Relaxed);
        assert!(run.join().unwrap().is_err());
        note
    });
    std::fs::write(&note.0, &note.1).unwrap(); // by this process, which is ours
    assert_eq!(latest_state(&scene), convex::ExportStatus::InProgress);
    scene.convex.faults().clear();
    scene.convex.faults().set_export(ExportFault::None);
    scene.assert_restores(&scene.backup());
}
