//! The edges of a cluster's log: its end while the original goes on, damage at the end, several writers, a spool that is not there. What is
//! promised holds, and what does not hold is said.

use std::fs;
use std::path::PathBuf;

use crate::common::postgres::Cluster;
use crate::common::scene::{ORACLE, Scene, text};
use crate::common::started::Started;

fn scene() -> Option<Scene> {
    let scene = Scene::new(15, &[("wal_keep_size", "1GB")])?;
    scene.cluster.psql(ORACLE);
    scene.insert(10);
    scene.expect(0, &["backup", "db"]);
    Some(scene)
}

fn rows(scene: &Scene) -> String {
    scene.cluster.psql("SELECT count(*) FROM oracle")
}

/// Inserts, archives, and returns the segment.
fn segment_with(scene: &Scene, rows: u32) -> String {
    scene.insert(rows);
    let name = scene.cluster.psql("SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
    scene.archive_all();
    name
}

fn stream(scene: &Scene) -> String {
    format!("db-{}-15", scene.cluster.psql("SELECT system_identifier FROM pg_control_system()"))
}

fn in_pg_wal(scene: &Scene, name: &str) -> String {
    scene.cluster.data_dir().join("pg_wal").join(name).display().to_string()
}

/// The same repository and identity on a host that knows nothing yet.
fn elsewhere(scene: &Scene, args: &[&str]) -> (Option<i32>, String) {
    let at = |name: &str| scene.path(name).display().to_string();
    let repo = format!("file://{}", at("repo"));
    let global = ["--repo", &repo, "--state-dir", &at("elsewhere"), "--identity", &at("id")];
    let output = Scene::run_in(scene.folder.path(), &global, args);
    (output.status.code(), format!("{}{}", text(&output.stdout), text(&output.stderr)))
}

#[test]
fn a_moment_past_the_last_commit_stays_that_moment_while_the_original_goes_on() {
    let Some(scene) = scene() else { return };
    segment_with(&scene, 5);
    let (at, expected) = scene.point();
    let into = scene.path("then");
    let target = into.display().to_string();
    let said = scene.expect(0, &["restore", "db", "--to", &at, "--into", &target, "--archive-mode-off"]);
    assert!(said.contains("the log as it is now"), "{said}");
    // Somebody's mistake, archived while the files were being laid down.
    segment_with(&scene, 1000);
    assert_eq!(scene.ask_restored(&into, "SELECT count(*) FROM oracle"), Ok(expected));
    assert_eq!(scene.restored_rows("latest", &[]), rows(&scene));
}

#[test]
fn a_segment_is_cut_where_the_log_is_said_to_end() {
    let Some(scene) = scene() else { return };
    let name = segment_with(&scene, 50);
    assert!(scene.sh("mkdir -p x/pg_wal").status.success());
    let got = |more: &[&str]| {
        let base = ["wal", "get", "--ahead", "false", "--stream", &stream(&scene)];
        scene.expect(0, &[&base, more, &[&name, "x/pg_wal/RECOVERYXLOG"]].concat());
        fs::read(scene.path("x/pg_wal/RECOVERYXLOG")).unwrap()
    };
    let number = u64::from_str_radix(&name[16..], 16).unwrap();
    let whole = got(&[]);
    let cut = got(&["--cut", &format!("0/{:X}", number * (16 << 20) + 9000)]);
    assert_eq!((cut.len(), &cut[..9000]), (whole.len(), &whole[..9000]));
    assert!(cut[9000..].iter().all(|byte| *byte == 0) && whole[9000..].iter().any(|byte| *byte != 0));
    assert_eq!(got(&["--cut", "FF/0"]), whole, "the end lies behind it");
}

#[test]
fn what_is_damaged_or_gone_at_the_end_of_the_log_is_a_gap_and_everything_before_it_is_had() {
    let Some(scene) = scene() else { return };
    segment_with(&scene, 5);
    let before = rows(&scene);
    let last = segment_with(&scene, 7);
    let object = scene.objects(&last).pop().unwrap();
    let bytes = fs::read(&object).unwrap();
    let mut hurt = bytes.clone();
    let middle = hurt.len() / 2;
    hurt[middle] ^= 1;
    fs::write(&object, &hurt).unwrap();
    // No commit names it yet: another host must read it to know what it holds.
    let (code, said) = elsewhere(&scene, &["timeline", "db"]);
    assert!(code == Some(13) && said.contains("any moment to") && said.contains("damaged   "), "{said}");
    assert!(said.contains(&format!("then a GAP: segment {last} cannot be had any more")), "{said}");
    fs::remove_file(&object).unwrap();
    let said = scene.expect(13, &["timeline", "db"]);
    assert!(said.contains(&format!("then a GAP: segment {last} cannot be had any more")), "{said}");
    let said = scene.expect(4, &["restore", "db", "--to", &scene.now(), "--into", "none"]);
    assert!(said.contains(&last), "a moment behind it is refused\n{said}");
    let server = Started::new(&scene, "before");
    assert_eq!(server.rows(&[]), before, "the server is not stopped by what is missing");
}

#[test]
fn of_several_writers_none_is_taken_by_chance() {
    let Some(scene) = scene() else { return };
    let name = segment_with(&scene, 5);
    // The cluster moved to another host, and archives from there.
    let other = ["--repo", "repo", "--state-dir", "moved", "--identity", "id"];
    let init = Scene::run_in(scene.folder.path(), &other, &["init", "--host", "moved"]);
    assert!(init.status.success(), "{}", text(&init.stderr));
    let said = format!("{}{}", text(&init.stdout), text(&init.stderr));
    let moved = said.split_whitespace().find(|word| word.starts_with("moved-")).unwrap();
    let push =
        Scene::run_in(scene.folder.path(), &other, &["wal", "push", "--source", "db", &in_pg_wal(&scene, &name)]);
    assert!(push.status.success(), "{}", text(&push.stderr));
    assert!(scene.sh("mkdir -p x/pg_wal").status.success());
    let get = |more: &[&str]| {
        let base = ["wal", "get", "--ahead", "false", "--stream", &stream(&scene)];
        elsewhere(&scene, &[&base, more, &["00000001000000000000002F", "x/pg_wal/RECOVERYXLOG"]].concat())
    };
    let (code, said) = get(&[]);
    assert!(code == Some(255) && said.contains("several writers have it"), "{said}");
    assert_eq!(get(&["--writer", moved]).0, Some(1), "this one's log ends before");
    // A restore says whose log it is.
    assert_eq!(scene.restored_rows("r", &[]), rows(&scene));
}

#[test]
fn a_segment_that_was_cut_off_in_the_store_is_not_acknowledged_again() {
    let Some(scene) = scene() else { return };
    let name = segment_with(&scene, 5);
    let object = scene.objects(&name).pop().unwrap();
    let bytes = fs::read(&object).unwrap();
    fs::write(&object, &bytes[..bytes.len() - 100]).unwrap();
    let said = scene.expect(13, &["wal", "push", "--source", "db", &in_pg_wal(&scene, &name)]);
    assert!(said.contains("is in the repository already, damaged"), "{said}");
    fs::write(&object, &bytes).unwrap();
    scene.expect(0, &["wal", "push", "--source", "db", &in_pg_wal(&scene, &name)]);
}

#[test]
fn a_spool_takes_no_half_segment_and_is_not_made_where_its_disk_is_not_mounted() {
    let Some(scene) = scene() else { return };
    let path = scene.path("lifeboat.toml");
    let config = fs::read_to_string(&path).unwrap();
    let spool = scene.path("spool").display().to_string();
    fs::write(&path, format!("{config}spool = \"{spool}\"\n")).unwrap();
    let name = segment_with(&scene, 5);
    fs::rename(scene.path("repo"), scene.path("away")).unwrap();
    let said = scene.expect(1, &["wal", "push", "--source", "db", &in_pg_wal(&scene, &name)]);
    assert!(said.contains("is not there") && !PathBuf::from(&spool).exists(), "{said}");
    assert!(scene.sh("mkdir spool").status.success());
    scene.insert(3);
    let running = scene.cluster.psql("SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
    let said = scene.expect(1, &["wal", "push", "--source", "db", &in_pg_wal(&scene, &running)]);
    assert!(said.contains("is still being written"), "{said}");
    assert!(!PathBuf::from(&spool).join("db").exists(), "it is not in the spool");
    fs::rename(scene.path("away"), scene.path("repo")).unwrap();
    assert!(!Cluster::log(&scene.cluster).contains("PANIC"));
}

#[test]
fn a_target_that_the_cluster_was_left_with_does_not_end_its_recovery() {
    let Some(scene) = Scene::new(15, &[]) else { return };
    let conf = scene.cluster.data_dir().join("postgresql.conf");
    let text = fs::read_to_string(&conf).unwrap();
    fs::write(&conf, format!("{text}\nrecovery_target_time = '2020-01-01 00:00:00+00'\n")).unwrap();
    scene.cluster.psql(ORACLE);
    scene.insert(10);
    scene.expect(0, &["backup", "db"]);
    segment_with(&scene, 5);
    segment_with(&scene, 7);
    let server = Started::new(&scene, "all");
    assert_eq!(server.rows(&[]), rows(&scene));
}
