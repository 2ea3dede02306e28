//! `follow` beside a real server: what it commits is in the repository within moments, in pieces of a segment that still grows,
//! and a restore uses them.

use std::process::{Child, Stdio};
use std::time::Duration;

use crate::common::scene::{ORACLE, Scene};

/// A `follow` that runs; ended with the value.
struct Follow(Child);

impl Follow {
    fn start(scene: &Scene) -> Self {
        let out = std::fs::File::create(scene.path("followed")).unwrap();
        let bin_dir = scene.cluster.bin_dir().display().to_string();
        let words = ["--json", "follow", "db", "--interval", "1s", "--bin-dir", &bin_dir];
        let mut command = scene.command(&words);
        Self(command.stdout(Stdio::from(out.try_clone().unwrap())).stderr(Stdio::from(out)).spawn().unwrap())
    }

    fn end(mut self) -> Option<i32> {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.0), rustix::process::Signal::TERM)
            .unwrap();
        self.0.wait().unwrap().code()
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn scene(major: u32) -> Option<Scene> {
    // Nothing is archived but by `follow`.
    let scene = Scene::new(major, &[("archive_command", "true"), ("max_slot_wal_keep_size", "1GB")])?;
    scene.cluster.psql("ALTER ROLE lifeboat REPLICATION");
    scene.cluster.psql(ORACLE);
    Some(scene)
}

/// A base backup; what `follow` said where it cannot be used.
fn back_up(scene: &Scene) {
    let output = scene.command(&["backup", "db", "--wal-timeout", "60s"]).output().unwrap();
    let followed = || std::fs::read_to_string(scene.path("followed")).unwrap();
    assert!(output.status.success(), "{output:?}\n{}\n{}", followed(), scene.cluster.log_tail());
}

fn newest(scene: &Scene) -> Option<String> {
    let said = scene.expect(0, &["--json", "timeline", "db"]);
    let line: serde_json::Value = serde_json::from_str(said.lines().last()?).unwrap();
    line["newest"].as_str().map(str::to_owned)
}

/// Whether something becomes true.
fn within_seconds(is: impl Fn() -> bool) -> bool {
    (0..200).any(|_| {
        let now = is();
        std::thread::sleep(Duration::from_millis(if now { 0 } else { 50 }));
        now
    })
}

fn moment(text: &str) -> chrono::DateTime<chrono::Utc> {
    text.parse().unwrap()
}

/// Waits until the newest recovery point is not before a moment.
fn wait_until_known(scene: &Scene, at: &str) {
    for _ in 0..300 {
        if newest(scene).is_some_and(|newest| moment(&newest) >= moment(at)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let said = std::fs::read_to_string(scene.path("followed")).unwrap();
    panic!("{at} was not reached: {:?}\n{said}", newest(scene));
}

fn to_any_moment(major: u32) {
    let Some(scene) = scene(major) else { return };
    let follow = Follow::start(&scene);
    scene.insert(10);
    back_up(&scene);
    let mut points = Vec::new();
    for round in 1..=12 {
        scene.insert(round);
        points.push(scene.point());
        std::thread::sleep(Duration::from_millis(150));
    }
    scene.insert(1);
    // The log was not switched: nothing but pieces has the newest commits.
    let (at, all) = points.last().unwrap().clone();
    wait_until_known(&scene, &at);
    let running = scene.cluster.psql("SELECT pg_walfile_name(pg_current_wal_lsn())");
    assert!(scene.objects(&running).is_empty(), "the running segment is not there whole");
    for (n, (at, rows)) in points.iter().enumerate().step_by(4) {
        assert_eq!(&scene.restored_rows(&format!("r{n}"), &["--to", at]), rows, "at {at}");
    }
    let everything: u64 = scene.cluster.psql("SELECT count(*) FROM oracle").parse().unwrap();
    assert_eq!(everything, all.parse::<u64>().unwrap() + 1);
    // The server dies for good, and takes its disk with it: what it has committed is there, but for moments.
    std::thread::sleep(Duration::from_millis(1500));
    scene.cluster.crash();
    assert_eq!(scene.restored_rows("all", &[]), everything.to_string());
    assert_eq!(follow.end(), Some(0));
}

#[test]
fn what_a_server_of_15_commits_can_be_had_within_moments() {
    to_any_moment(15);
}

#[test]
fn what_a_server_of_18_commits_can_be_had_within_moments() {
    to_any_moment(18);
}

/// Where the log of the only cluster waits.
fn waits_in(scene: &Scene) -> std::path::PathBuf {
    let state = std::fs::read_dir(scene.path("state")).unwrap().flatten();
    let of_repository = state.map(|entry| entry.path().join("follow")).find(|folder| folder.is_dir()).unwrap();
    std::fs::read_dir(of_repository).unwrap().next().unwrap().unwrap().path()
}

#[test]
fn whole_segments_leave_this_host_and_a_killed_follow_goes_on_where_it_was() {
    let Some(scene) = scene(15) else { return };
    let follow = Follow::start(&scene);
    scene.insert(10);
    back_up(&scene);
    for round in 0..3 {
        scene.insert(100 + round);
        scene.cluster.psql("SELECT pg_switch_wal()");
    }
    let (at, _) = scene.point();
    scene.insert(1);
    drop(follow);
    // While nobody follows, the slot keeps the log.
    for _ in 0..3 {
        scene.insert(7);
        scene.cluster.psql("SELECT pg_switch_wal(); CHECKPOINT");
    }
    let follow = Follow::start(&scene);
    scene.insert(5);
    let (end, rows) = scene.point();
    scene.insert(1);
    wait_until_known(&scene, &end);
    assert!(newest(&scene).unwrap() > at);
    assert_eq!(scene.restored_rows("end", &["--to", &end]), rows);
    let folder = waits_in(&scene);
    let names = std::fs::read_dir(folder).unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap());
    let left: Vec<String> = names.filter(|name| name.starts_with("0000")).collect();
    assert!(left.len() <= 2, "what is stored does not stay here: {left:?}");
    assert_eq!(follow.end(), Some(0));
    let slots = || scene.cluster.psql("SELECT slot_name || ' ' || active FROM pg_replication_slots");
    assert!(within_seconds(|| slots() == "lifeboat_db false"), "{}", slots());
}

#[test]
fn while_the_store_is_away_the_log_waits_here_and_nothing_is_lost() {
    let Some(scene) = scene(15) else { return };
    let follow = Follow::start(&scene);
    scene.insert(10);
    back_up(&scene);
    std::fs::rename(scene.path("repo"), scene.path("away")).unwrap();
    for _ in 0..3 {
        scene.insert(7);
        scene.cluster.psql("SELECT pg_switch_wal()");
    }
    let said = |word: &str| std::fs::read_to_string(scene.path("followed")).unwrap().contains(word);
    assert!(within_seconds(|| said("store_away")));
    std::fs::rename(scene.path("away"), scene.path("repo")).unwrap();
    scene.insert(5);
    let (end, rows) = scene.point();
    scene.insert(1);
    wait_until_known(&scene, &end);
    assert!(within_seconds(|| said("store_back")));
    assert_eq!(scene.restored_rows("end", &["--to", &end]), rows);
    assert_eq!(follow.end(), Some(0));
}

#[test]
fn mistakes_are_told() {
    let Some(scene) = Scene::new(15, &[("archive_command", "true")]) else { return };
    let said = scene.expect(1, &["follow", "db"]);
    assert!(
        said.contains("does not let this role make a replication slot")
            && said.contains("ALTER ROLE lifeboat REPLICATION"),
        "{said}"
    );
    let said = scene.expect(2, &["follow", "other"]);
    assert!(said.contains("there is no source `other`"), "{said}");
}

#[test]
fn a_piece_that_is_gone_or_damaged_is_no_end_of_the_log() {
    let Some(scene) = scene(15) else { return };
    let follow = Follow::start(&scene);
    scene.insert(10);
    back_up(&scene);
    for _ in 0..6 {
        scene.insert(3);
        let (at, _) = scene.point();
        scene.insert(1);
        wait_until_known(&scene, &at);
    }
    let running = scene.cluster.psql("SELECT pg_walfile_name(pg_current_wal_lsn())");
    assert_eq!(follow.end(), Some(0));
    let mut pieces = scene.objects_that_begin(&format!("{running}.piece"));
    pieces.sort();
    assert!(pieces.len() >= 3, "{pieces:?}");
    let id = scene.cluster.psql("SELECT system_identifier FROM pg_control_system()");
    scene.sh("mkdir -p x/pg_wal");
    let get = || {
        let stream = format!("db-{id}-15");
        let words = ["wal", "get", "--ahead", "false", "--stream", &stream, &running, "x/pg_wal/RECOVERYXLOG"];
        scene.command(&words).output().unwrap().status.code()
    };
    assert_eq!(get(), Some(0));
    assert_eq!(std::fs::metadata(scene.path("x/pg_wal/RECOVERYXLOG")).unwrap().len(), 16 << 20);
    let kept = std::fs::read(&pieces[1]).unwrap();
    std::fs::remove_file(&pieces[1]).unwrap();
    assert_eq!(get(), Some(255), "a piece between is gone");
    let mut hurt = kept.clone();
    let middle = hurt.len() / 2;
    hurt[middle] ^= 1;
    std::fs::write(&pieces[1], &hurt).unwrap();
    assert_eq!(get(), Some(255), "a piece between is damaged");
    std::fs::write(&pieces[1], &kept).unwrap();
    assert_eq!(get(), Some(0));
}

#[test]
fn a_push_goes_through_the_process_that_follows_and_by_itself_where_that_is_gone() {
    let Some(scene) = Scene::new(15, &[("max_slot_wal_keep_size", "1GB")]) else { return };
    scene.cluster.psql("ALTER ROLE lifeboat REPLICATION");
    scene.cluster.psql(ORACLE);
    let follow = Follow::start(&scene);
    assert!(within_seconds(|| {
        let listing = std::fs::read_dir(scene.path("state")).unwrap().flatten();
        listing.into_iter().any(|entry| entry.file_name().to_string_lossy().ends_with(".socket"))
    }));
    scene.insert(10);
    scene.archive_all();
    let through = |scene: &Scene| scene.cluster.log().matches("is stored, by the process that follows `db`").count();
    assert!(within_seconds(|| through(&scene) > 0), "{}", scene.cluster.log_tail());
    let before = through(&scene);
    assert_eq!(follow.end(), Some(0));
    scene.insert(10);
    scene.archive_all();
    assert_eq!(through(&scene), before);
    back_up(&scene);
    let all = scene.cluster.psql("SELECT count(*) FROM oracle");
    scene.insert(1);
    scene.archive_all();
    assert_eq!(scene.restored_rows("r", &[]), (all.parse::<u32>().unwrap() + 1).to_string());
}

#[test]
fn a_segment_that_was_half_made_when_everything_was_killed_is_begun_anew() {
    let Some(scene) = scene(15) else { return };
    let follow = Follow::start(&scene);
    scene.insert(10);
    back_up(&scene);
    let (at, _) = scene.point();
    scene.insert(1);
    wait_until_known(&scene, &at);
    assert_eq!(follow.end(), Some(0));
    let folder = waits_in(&scene);
    let half = |entry: std::fs::DirEntry| {
        let is_partial = entry.file_name().to_string_lossy().ends_with(".partial");
        is_partial
            .then(|| std::fs::OpenOptions::new().write(true).open(entry.path()).unwrap().set_len(5 << 20).unwrap())
    };
    assert_eq!(std::fs::read_dir(folder).unwrap().flatten().filter_map(half).count(), 1);
    let follow = Follow::start(&scene);
    scene.insert(5);
    let (end, rows) = scene.point();
    scene.insert(1);
    wait_until_known(&scene, &end);
    assert_eq!(scene.restored_rows("end", &["--to", &end]), rows);
    assert_eq!(follow.end(), Some(0));
}
