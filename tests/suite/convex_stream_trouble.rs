//! What goes wrong while a deployment is followed: answers that fail, pages that say nothing, lists that do not come, cursors that are refused.
//! Nothing is lost, nothing is taken twice, and what a person must know is said once.

use deployment::{Failure, Options, Refusal, json};

use crate::common::convex::{ODD, Scene};
use crate::convex_stream::{Follower, assert_restores};

fn cuts(heard: &[String]) -> usize {
    heard.iter().filter(|word| word.starts_with("cut")).count()
}

#[test]
fn answers_that_fail_for_a_while_cost_nothing() {
    let failures = [
        Failure::Answer(Refusal::new(408, "", "")),
        Failure::Answer(Refusal::new(503, "Overloaded", "later")),
        Failure::Answer(Refusal::new(500, "", "")),
        Failure::Answer(Refusal::new(429, "RateLimited", "slowly")),
        Failure::Drop,
        Failure::DoThenDrop,
        Failure::CutBody(3),
    ];
    let scene = Scene::new();
    scene.convex.fill(20, 1);
    let follower = Follower::new(&scene);
    follower.wait_said("following", 1);
    let mut times = Vec::new();
    for failure in failures {
        for begins in ["POST /api/document_deltas", "POST /api/query", "GET /api/check_admin_key"] {
            // One that the client asks again by itself, and more of them than it has patience for.
            for times in [1, 6] {
                scene.convex.faults().fail(begins, failure.clone(), times);
                scene.convex.insert("users", json(ODD));
            }
        }
        follower.level(&scene.convex);
        scene.convex.faults().clear();
        times.push(scene.convex.latest());
    }
    let heard = follower.end();
    assert_eq!(cuts(&heard), 1, "{heard:?}");
    for ts in times {
        assert_restores(&scene, ts);
    }
}

#[test]
fn pages_without_changes_are_passed_and_data_sync_that_fails_is_asked_again() {
    let scene = Scene::with(Options { deltas_page: 5, data_sync_page: 50, ..Options::default() });
    scene.convex.fill(20, 0);
    let follower = Follower::new(&scene);
    follower.wait_said("following", 1);
    scene.convex.faults().set_empty_deltas(7);
    scene.convex.churn(30);
    follower.level(&scene.convex);
    follower.end();
    // Far behind, where Data Sync is asked, and refuses in its ways.
    for failure in [
        Failure::Answer(Refusal::new(503, "Overloaded", "later")),
        Failure::Answer(Refusal::new(404, "", "")),
        Failure::Drop,
        Failure::CutBody(100),
    ] {
        scene.convex.churn(200);
        scene.convex.faults().fail("POST /api/v1/data/sync", failure, 8);
        let follower = Follower::new(&scene);
        follower.level(&scene.convex);
        scene.convex.faults().clear();
        let heard = follower.end();
        assert_eq!(cuts(&heard), 0, "{heard:?}");
        assert_restores(&scene, scene.convex.latest());
    }
}

#[test]
fn a_table_that_is_made_or_cleared_while_we_are_far_behind_is_seen() {
    let scene = Scene::with(Options { deltas_page: 5, data_sync_page: 20, ..Options::default() });
    scene.convex.fill(20, 0);
    let follower = Follower::new(&scene);
    follower.wait_said("following", 1);
    follower.level(&scene.convex);
    follower.end();
    scene.convex.churn(200);
    for n in 0..40 {
        scene.convex.insert("made_meanwhile", json(&format!("{{\"n\":{n}}}")));
    }
    let follower = Follower::new(&scene);
    follower.level(&scene.convex);
    assert_eq!(cuts(&follower.end()), 0);
    assert_restores(&scene, scene.convex.latest());
    scene.convex.churn(200);
    assert!(scene.convex.clear_table("made_meanwhile"));
    scene.convex.churn(200);
    let follower = Follower::new(&scene);
    follower.wait_said("cut", 1);
    follower.wait_said("following", 2);
    follower.level(&scene.convex);
    follower.end();
    assert_restores(&scene, scene.convex.latest());
}

#[test]
fn where_files_cannot_be_fetched_the_changes_go_on() {
    let scene = Scene::new();
    scene.convex.fill(10, 1);
    let follower = Follower::new(&scene);
    follower.wait_said("following", 1);
    follower.level(&scene.convex);
    // For longer than anybody is patient.
    scene.convex.faults().fail("GET /api/storage", Failure::Answer(Refusal::new(500, "", "")), 1000);
    scene.convex.store_file("", None, "cannot be read");
    scene.convex.insert("users", json(ODD));
    follower.level(&scene.convex);
    let ts = scene.convex.latest();
    scene.convex.faults().clear();
    scene.convex.store_file("", None, "can be read");
    follower.wait("later files are stored", |all| {
        all.heard.lock().unwrap().iter().any(|word| word.starts_with("files: 1 new"))
    });
    let heard = follower.end();
    assert_eq!(cuts(&heard), 1, "{heard:?}");
    assert_restores(&scene, ts);
}
