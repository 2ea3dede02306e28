//! `restore --start`: the server is started by lifeboat, and what it says of the end is proven.

use std::fs;
use std::path::Path;

use crate::common::postgres::Cluster;
use crate::common::scene::{ORACLE, Scene, text};
use crate::common::started::Started;

fn log_of(directory: &Path) -> String {
    fs::read_to_string(directory.join("log/lifeboat-recovery.log")).unwrap()
}

fn started_and_proven(major: u32) {
    let Some(scene) = Scene::new(major, &[]) else { return };
    scene.cluster.psql(ORACLE);
    scene.insert(100);
    scene.expect(0, &["backup", "db"]);
    scene.insert(50);
    let middle = scene.point();
    scene.insert(7);
    scene.archive_all();
    scene.insert(3);
    scene.archive_all();

    let promoted = Started::new(&scene, "promoted");
    let said = promoted.restore(0, &["--to", &middle.0]);
    assert!(said.contains("it accepts writes, on timeline 2") && said.contains("took      fetch "), "{said}");
    assert_eq!(promoted.psql("SELECT count(*) FROM oracle"), middle.1);
    let isolated = "SELECT concat_ws(' ', current_setting('archive_mode'), current_setting('listen_addresses'),
        current_setting('unix_socket_permissions'), pg_is_in_recovery())";
    assert_eq!(promoted.psql(isolated), "off  0700 f");

    let paused = Started::new(&scene, "paused");
    let said = paused.restore(0, &["--to", &middle.0, "--target-action", "pause"]);
    assert!(said.contains("it is paused"), "{said}");
    assert_eq!(paused.psql("SELECT count(*) FROM oracle"), middle.1);
    assert_eq!(paused.psql("SELECT pg_get_wal_replay_pause_state()"), "paused");

    let stopped = Started::new(&scene, "stopped");
    let said = stopped.restore(0, &["--to", &middle.0, "--target-action", "shutdown"]);
    assert!(said.contains("it has shut down there") && !stopped.is_running(), "{said}");

    let standby = Started::new(&scene, "standby");
    let said = standby.restore(0, &["--standby"]);
    assert!(said.contains("it is a standby"), "{said}");
    assert_eq!(standby.psql("SELECT pg_is_in_recovery()"), "t");
    assert_eq!(standby.psql("SELECT count(*) FROM oracle"), "160");

    let latest = Started::new(&scene, "latest");
    let said = latest.restore(0, &["--json"]);
    let line = said.lines().find(|line| line.contains("\"recovered\"")).unwrap();
    let proof = &serde_json::from_str::<serde_json::Value>(line).unwrap()["proof"];
    assert_eq!(proof["end"], "promoted");
    assert_eq!(latest.psql("SELECT count(*) FROM oracle"), "160");
    assert!(log_of(&latest.directory).contains("archive recovery complete"));
}

#[test]
fn a_restored_server_of_15_is_started_and_its_end_is_proven() {
    started_and_proven(15);
}

#[test]
fn a_restored_server_of_18_is_started_and_its_end_is_proven() {
    started_and_proven(18);
}

#[test]
fn a_server_that_cannot_reach_the_end_is_an_error_with_its_last_words() {
    let Some(scene) = Scene::new(15, &[]) else { return };
    scene.cluster.psql(ORACLE);
    scene.insert(10);
    scene.expect(0, &["backup", "db"]);
    scene.insert(10);
    let damaged = scene.cluster.psql("SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
    scene.archive_all();
    scene.insert(10);
    scene.archive_all();
    let object = scene.objects(&damaged).pop().unwrap();
    let whole = fs::read(&object).unwrap();
    let mut bytes = whole.clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&object, bytes).unwrap();
    let server = Started::new(&scene, "damaged");
    let said = server.restore(1, &[]);
    assert!(said.contains("the server ended before the end of its recovery"), "{said}");
    assert!(said.contains("FATAL: could not restore file") && said.contains(&damaged), "{said}");
    assert!(said.contains("lifeboat-recovery.log") && !server.is_running(), "{said}");
    fs::write(&object, whole).unwrap();
    // The version that is needed is looked for before anything is laid down.
    let into = scene.path("unlaid").display().to_string();
    let none = scene.path("none").display().to_string();
    let said = scene.expect(1, &["restore", "db", "--into", &into, "--start", "--bin-dir", &none]);
    assert!(said.contains("there is no `postgres` of PostgreSQL 15 in"), "{said}");
    assert!(!scene.path("unlaid").exists());
}

#[test]
fn ctrl_c_stops_the_server_that_was_started() {
    // Commits are replayed an hour late: the server waits.
    let Some(scene) = Scene::new(15, &[("recovery_min_apply_delay", "1h")]) else { return };
    scene.cluster.psql(ORACLE);
    scene.expect(0, &["backup", "db"]);
    scene.insert(10);
    let point = scene.point();
    scene.insert(1);
    scene.archive_all();
    let server = Started::new(&scene, "interrupted");
    let into = server.directory.display().to_string();
    let bin = scene.cluster.bin_dir().display().to_string();
    let args = ["restore", "db", "--to", &point.0, "--into", &into, "--start", "--isolated", "--bin-dir", &bin];
    let mut command = scene.command(&args);
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    for _ in 0..600 {
        if server.is_running() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(server.is_running());
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(!server.is_running(), "it was stopped, cleanly");
    // What was laid down goes on where it was.
    let again = Cluster::adopt(15, &server.directory).unwrap();
    again.try_begin().unwrap();
}

#[test]
fn without_isolation_the_server_is_what_its_configuration_says() {
    let Some(scene) = Scene::new(15, &[]) else { return };
    scene.cluster.psql(ORACLE);
    scene.insert(10);
    scene.expect(0, &["backup", "db"]);
    scene.insert(10);
    scene.archive_all();
    // In the place of the original: same socket, same archive.
    scene.cluster.stop();
    let server = Started::new(&scene, "instead");
    let into = server.directory.display().to_string();
    let bin = scene.cluster.bin_dir().display().to_string();
    let said = scene.expect(0, &["restore", "db", "--into", &into, "--start", "--bin-dir", &bin]);
    assert!(said.contains(&format!("psql -h '{}' -p 5432", scene.cluster.socket_dir().display())), "{said}");
    assert_eq!(scene.cluster.psql("SELECT count(*) FROM oracle"), "20");
    assert_eq!(scene.cluster.psql("SHOW archive_mode"), "on");
    scene.insert(1);
    scene.archive_all();
    server.stop("fast");
    assert!(scene.expect(0, &["timeline", "db"]).contains("timeline  2 left 1 at"), "it archives on");
}

#[test]
fn a_restore_by_root_runs_the_server_as_its_owner() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let Some(scene) = Scene::new(15, &[]) else { return };
    scene.cluster.psql(ORACLE);
    scene.insert(10);
    scene.expect(0, &["backup", "db"]);
    scene.archive_all();
    let server = Started::new(&scene, "by-root");
    let words = Scene::base_command(scene.folder.path());
    let mut command = std::process::Command::new(&words[0]);
    command.args(&words[1..]).args(["restore", "db", "--start", "--isolated", "--to", "latest", "--into"]);
    command.arg(&server.directory).arg("--bin-dir").arg(scene.cluster.bin_dir()).env("HOME", scene.folder.path());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}\n{}", text(&output.stderr), scene.cluster.log_tail());
    assert_eq!(server.psql("SELECT count(*) FROM oracle"), "10");
    // What belongs to root is refused, with the way out.
    let said = scene.expect(0, &["restore", "db", "--into", &scene.path("roots").display().to_string()]);
    assert!(said.contains("pg_ctl -D"), "{said}");
    std::os::unix::fs::chown(scene.path("roots"), Some(0), Some(0)).unwrap();
    let refused = lifeboat::ops::recover::owner_beside_root(&scene.path("roots")).unwrap_err();
    assert!(refused.to_string().contains("PostgreSQL does not run as root"), "{refused}");
}
