//! What a base backup of a real cluster holds beside ordinary files, and how it comes back: tablespaces, a `pg_wal` elsewhere.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};

use crate::common::postgres::Cluster;
use crate::common::scene::{ORACLE, Scene, own};

/// A directory of the server's user.
fn directory(scene: &Scene, name: &str) -> PathBuf {
    let path = scene.path(name);
    fs::create_dir_all(&path).unwrap();
    own(&path);
    path
}

/// Restores, starts, and answers.
fn restored(scene: &Scene, name: &str, args: &[&str], sql: &str) -> String {
    let into = scene.path(name);
    let target = into.display().to_string();
    scene.expect(0, &[&["restore", "db", "--into", &target, "--archive-mode-off"], args].concat());
    scene.ask_restored(&into, sql).unwrap()
}

fn tablespaces(major: u32) {
    let Some(scene) = Scene::new(major, &[]) else { return };
    let (fast, slow) = (directory(&scene, "fast"), directory(&scene, "slow"));
    scene.cluster.psql(&format!("CREATE TABLESPACE fast LOCATION '{}'", fast.display()));
    scene.cluster.psql(&format!("CREATE TABLESPACE slow LOCATION '{}'", slow.display()));
    scene.cluster.psql(ORACLE);
    scene.cluster.psql("CREATE TABLE f TABLESPACE fast AS SELECT n FROM generate_series(1, 20000) n");
    scene.cluster.psql("CREATE TABLE s TABLESPACE slow AS SELECT n FROM generate_series(1, 300) n");
    scene.expect(0, &["backup", "db"]);
    scene.cluster.psql("INSERT INTO f SELECT 1; INSERT INTO s SELECT 1; INSERT INTO oracle (pad) VALUES ('x')");
    scene.archive_all();
    let counts = "SELECT (SELECT count(*) FROM f) || ' ' || (SELECT count(*) FROM s)";
    // Unasked, everything is inside: nothing of the original is touched.
    assert_eq!(restored(&scene, "inside", &[], counts), "20001 301");
    for entry in fs::read_dir(scene.path("inside/pg_tblspc")).unwrap() {
        assert!(entry.unwrap().file_type().unwrap().is_dir());
    }
    // One to a place of its own, by its path; the other by `all`.
    let (new, all) = (scene.path("new"), scene.path("all"));
    let map = format!("{}={}", fast.display(), new.display());
    let args = ["--tablespace-map", &map, "--tablespace-map-all", &all.display().to_string()];
    let told = scene.expect(0, &[&["restore", "db", "--into", "plan", "--dry-run"], &args[..]].concat());
    assert!(told.contains(&format!("goes to {}", new.display())) && !new.exists(), "{told}");
    let said = "SELECT string_agg(pg_tablespace_location(oid), ' ' ORDER BY spcname) FROM pg_tablespace
        WHERE spcname IN ('fast', 'slow')";
    assert_eq!(
        restored(&scene, "mapped", &args, &format!("SELECT ({counts}) || ' ' || ({said})")),
        format!("20001 301 {} {}", new.display(), all.join("slow").display())
    );
    assert!(fs::read_dir(&new).unwrap().count() == 1 && all.join("slow").is_dir());
    // Once more over what is there: links and places stay, what the restored server wrote goes.
    fs::write(new.join("stray"), "x").unwrap();
    let over = [&args[..], &["--delta", "--delete"]].concat();
    assert_eq!(restored(&scene, "mapped", &over, counts), "20001 301");
    assert!(!new.join("stray").exists() && all.join("slow").is_dir());
    // What is there already is not written over; what the backup does not have is refused with what it has.
    let again = scene.expect(2, &[&["restore", "db", "--into", "third"], &args[..]].concat());
    assert!(again.contains("new") && !scene.path("third").exists(), "{again}");
    let none = scene.expect(2, &["restore", "db", "--into", "third", "--tablespace-map", "nosuch=/x"]);
    assert!(none.contains("has no tablespace `nosuch`; it has fast"), "{none}");
    let within = scene.expect(2, &["restore", "db", "--into", "third", "--tablespace-map", "fast=third/x"]);
    assert!(within.contains("lie in each other"), "{within}");
    // A second base backup stores next to nothing of what did not change.
    let summary = summary(&scene, &["--json", "backup", "db"]);
    assert!(summary["files_unmodified"].as_u64().unwrap() > 800, "{summary}");
}

fn summary(scene: &Scene, args: &[&str]) -> serde_json::Value {
    let said = scene.expect(0, args);
    let line = said.lines().find(|line| line.contains("files_unmodified")).unwrap();
    serde_json::from_str(line).unwrap()
}

#[test]
fn tablespaces_of_15_come_back_inside_or_where_they_are_sent() {
    tablespaces(15);
}

#[test]
fn tablespaces_of_18_come_back_inside_or_where_they_are_sent() {
    tablespaces(18);
}

/// Runs `backup` and holds it while something happens that it must cope with. False where it was over before it could be held.
fn during_a_backup(scene: &Scene, args: &[&str], after: &str, happens: &dyn Fn()) -> bool {
    let before = scene.cluster.log().matches(after).count();
    let mut command = scene.command(args);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while scene.cluster.log().matches(after).count() == before {
        assert!(child.try_wait().unwrap().is_none());
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    kill_process(Pid::from_child(&child), Signal::STOP).unwrap();
    let in_time = !scene.cluster.log().contains("pg_backup_stop(wait_for_archive");
    happens();
    kill_process(Pid::from_child(&child), Signal::CONT).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    in_time
}

#[test]
fn a_tablespace_that_is_made_during_a_backup_comes_from_the_log() {
    // Behind the server's own list of tablespaces; lifeboat's may have it or not.
    assert!((0..10).any(|_| made_during_a_backup("SELECT timeline_id")), "it was never held in time");
}

fn made_during_a_backup(after: &str) -> bool {
    let Some(scene) = Scene::new(15, &[]) else { return true };
    let (gone, made) = (directory(&scene, "gone"), directory(&scene, "made"));
    scene.cluster.psql(ORACLE);
    scene.cluster.psql(&format!("CREATE TABLESPACE gone LOCATION '{}'", gone.display()));
    scene.cluster.psql("CREATE TABLE g TABLESPACE gone AS SELECT 1");
    let in_time = during_a_backup(&scene, &["backup", "db"], after, &|| {
        scene.cluster.psql(&format!("CREATE TABLESPACE made LOCATION '{}'", made.display()));
        scene.cluster.psql("CREATE TABLE m TABLESPACE made AS SELECT n FROM generate_series(1, 5000) n");
        scene.cluster.psql("DROP TABLE g");
        scene.cluster.psql("DROP TABLESPACE gone");
        scene.cluster.psql("CHECKPOINT");
    });
    if !in_time {
        return false;
    }
    scene.insert(3);
    scene.archive_all();
    // The original runs here: replay would write into its files.
    let refused = scene.expect(2, &["restore", "db", "--into", "beside"]);
    assert!(refused.contains("`made` was made after the base backup") && !scene.path("beside").exists(), "{refused}");
    scene.expect(0, &["restore", "db", "--into", "beside", "--allow-later-tablespaces", "--dry-run"]);
    scene.cluster.stop();
    fs::rename(&made, scene.path("remains")).unwrap();
    let told = scene.expect(0, &["restore", "db", "--into", "plan", "--dry-run"]);
    assert!(told.contains(&format!("mkdir -p {}", made.display())), "{told}");
    directory(&scene, "made");
    assert_eq!(restored(&scene, "again", &[], "SELECT count(*) FROM m"), "5000");
    true
}

#[test]
fn a_log_directory_elsewhere_is_followed() {
    let Some(scene) = Scene::new(15, &[]) else { return };
    scene.cluster.psql(ORACLE);
    scene.cluster.stop();
    let (inside, outside) = (scene.cluster.data_dir().join("pg_wal"), scene.path("wal"));
    move_tree(&inside, &outside);
    std::os::unix::fs::symlink(&outside, &inside).unwrap();
    scene.cluster.begin();
    scene.insert(40);
    scene.expect(0, &["backup", "db"]);
    scene.insert(2);
    scene.archive_all();
    assert_eq!(restored(&scene, "back", &[], "SELECT count(*) FROM oracle"), "42");
    assert!(scene.path("back/pg_wal").symlink_metadata().unwrap().is_dir(), "nothing leads to the original's log");
}

/// Moves a directory, to another file system too.
fn move_tree(from: &Path, to: &Path) {
    let done = std::process::Command::new("mv").args([from, to]).status().unwrap();
    assert!(done.success());
}

#[test]
fn a_restored_cluster_can_be_backed_up_in_its_turn() {
    let Some(scene) = Scene::new(16, &[]) else { return };
    let fast = directory(&scene, "fast");
    scene.cluster.psql(&format!("CREATE TABLESPACE fast LOCATION '{}'", fast.display()));
    scene.cluster.psql(ORACLE);
    scene.cluster.psql("CREATE TABLE f TABLESPACE fast AS SELECT n FROM generate_series(1, 700) n");
    scene.expect(0, &["backup", "db"]);
    scene.archive_all();
    scene.cluster.stop();
    let into = scene.path("second");
    scene.expect(0, &["restore", "db", "--into", &into.display().to_string()]);
    let second = Cluster::adopt(16, &into).unwrap();
    second.try_begin().unwrap();
    for _ in 0..600 {
        if second.psql("SELECT pg_is_in_recovery()") == "f" {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let connection = second.connection().replace("user=postgres", "user=lifeboat");
    let config = format!("[sources.db]\nkind = \"postgres\"\nconnection = \"{connection}\"\n");
    fs::write(scene.path("lifeboat.toml"), config).unwrap();
    scene.expect(0, &["backup", "db"]);
    assert_eq!(restored(&scene, "third", &[], "SELECT count(*) FROM f"), "700");
}

/// Moves the configuration out of the data directory, as Debian has it, with an inclusion; starts the server again.
fn move_configuration(scene: &Scene) -> PathBuf {
    scene.cluster.stop();
    let (data, etc) = (scene.cluster.data_dir(), directory(scene, "etc"));
    for name in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"] {
        move_tree(&data.join(name), &etc.join(name));
    }
    let (conf, text) = (etc.join("postgresql.conf"), fs::read_to_string(etc.join("postgresql.conf")).unwrap());
    let at = |path: &Path| path.display().to_string();
    let more = format!(
        "data_directory = '{}'\nhba_file = '{}'\nident_file = '{}'\nexternal_pid_file = '{}'\ninclude_dir = 'conf.d'\n\
         include_if_exists 'none.conf'\n",
        at(&data),
        at(&etc.join("pg_hba.conf")),
        at(&etc.join("pg_ident.conf")),
        at(&scene.path("pid")),
    );
    fs::write(&conf, text + &more).unwrap();
    directory(scene, "etc/conf.d");
    fs::write(etc.join("conf.d/a.conf"), "cluster_name = 'from conf.d'\n").unwrap();
    fs::write(etc.join("conf.d/ignored"), "no such setting\n").unwrap();
    fs::write(etc.join("pg_hba.conf"), "# ours\nlocal all all trust\n").unwrap();
    let started = crate::common::postgres::as_server_user(scene.cluster.bin_dir().join("pg_ctl"))
        .current_dir("/")
        .args(["-s", "-w", "-t", "60", "-D", &at(&data), "-l", &at(&data.with_file_name("log"))])
        .args(["-o", &format!("-c config_file={}", at(&conf)), "start"])
        .stdout(Stdio::null())
        .status();
    assert!(started.unwrap().success(), "{}", scene.cluster.log_tail());
    etc
}

#[test]
fn a_configuration_that_lies_elsewhere_comes_along() {
    let Some(scene) = Scene::new(15, &[]) else { return };
    scene.cluster.psql(ORACLE);
    let etc = move_configuration(&scene);
    scene.insert(7);
    scene.expect(0, &["backup", "db"]);
    scene.archive_all();
    scene.cluster.stop();
    // The host is gone, and its /etc with it.
    fs::rename(&etc, scene.path("gone")).unwrap();
    let asked = "SELECT count(*) || ' ' || right(current_setting('hba_file'), 17) || ' ' || current_setting('cluster_name') FROM oracle";
    let into = scene.path("bare");
    assert_eq!(restored(&scene, "bare", &[], asked), "7 /data/pg_hba.conf from conf.d");
    assert!(fs::read_to_string(into.join("pg_hba.conf")).unwrap().starts_with("# ours"));
    let made = fs::read_to_string(into.join("postgresql.conf")).unwrap();
    assert!(made.contains("# of the old host: data_directory") && !made.contains("no such setting"), "{made}");
    assert!(into.join(format!(".lifeboat/outside{}", etc.join("conf.d/a.conf").display())).is_file());
}

/// Changes a byte of a page on disk, behind the server's back.
fn damage(file: &Path, block: u64) {
    use std::os::unix::fs::FileExt;
    let file = fs::OpenOptions::new().read(true).write(true).open(file).unwrap();
    let at = block * 8192 + 5000;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x55], at).unwrap();
}

#[test]
fn a_damaged_page_is_named_and_an_older_base_backup_is_preferred() {
    let Some(scene) = Scene::made_with(15, &["-k"], &[]) else { return };
    scene.cluster.psql(ORACLE);
    scene.insert(10);
    scene.cluster.psql("CREATE TABLE cold AS SELECT n, md5(n::text) FROM generate_series(1, 20000) n");
    let file = scene.cluster.psql("SELECT pg_relation_filepath('cold')");
    scene.cluster.psql("CHECKPOINT");
    scene.expect(0, &["backup", "db"]);
    let good = fs::read(scene.cluster.data_dir().join(&file)).unwrap();
    damage(&scene.cluster.data_dir().join(&file), 3);
    let refused = scene.expect(13, &["backup", "db", "--fail-on-page-errors"]);
    assert!(refused.contains(&format!("block 3 of `{file}`")), "{refused}");
    for _ in 0..2 {
        // The second time the file did not change: what was damaged is read again all the same.
        let told = scene.expect(3, &["backup", "db"]);
        assert!(told.contains(&format!("`{file}` block 3")) && told.contains("1 page is DAMAGED"), "{told}");
    }
    scene.insert(5);
    scene.archive_all();
    let plan = scene.expect(0, &["restore", "db", "--into", "plan", "--dry-run"]);
    assert!(!plan.contains("DAMAGED"), "the first base backup leads as far: {plan}");
    assert_eq!(restored(&scene, "whole", &[], "SELECT count(*) || ' ' || sum(n) FROM cold"), "20000 200010000");
    // By its name, the damaged one is there too.
    let newest = scene.expect(0, &["--json", "snapshots", "db"]);
    let newest: serde_json::Value = serde_json::from_str(newest.lines().last().unwrap()).unwrap();
    let newest = newest
        .pointer("/id")
        .or(newest.pointer("/snapshots/2/id"))
        .and_then(|id| id.as_str())
        .unwrap_or("latest")
        .to_owned();
    let plan = scene.expect(0, &["restore", "db", "--snapshot", &newest, "--into", "plan", "--dry-run"]);
    assert!(plan.contains("DAMAGED   1 page was damaged"), "{plan}");
    let line = scene.expect(0, &["timeline", "db"]);
    assert!(line.contains("DAMAGED: 1 page, the first `base/"), "{line}");
    fs::write(scene.cluster.data_dir().join(&file), good).unwrap();
    scene.expect(0, &["backup", "db"]);
}

#[test]
fn a_busy_cluster_raises_no_false_alarm() {
    let Some(scene) = Scene::made_with(15, &["-k"], &[("shared_buffers", "1MB"), ("bgwriter_delay", "10ms")]) else {
        return;
    };
    scene.cluster.psql(ORACLE);
    scene.insert(60_000);
    let work = "UPDATE oracle SET pad = md5(pad) WHERE n % 7 = 0; CHECKPOINT;".repeat(40);
    std::thread::scope(|scope| {
        let busy = scope.spawn(|| scene.cluster.psql(&work));
        for _ in 0..3 {
            scene.expect(0, &["backup", "db", "--force"]);
        }
        busy.join().unwrap();
    });
    scene.archive_all();
    let rows = "SELECT count(*) || ' ' || md5(string_agg(pad, '' ORDER BY n)) FROM oracle";
    let live = scene.cluster.psql(rows);
    assert_eq!(restored(&scene, "back", &[], rows), live);
}

/// A program of a few lines on a PATH of its own.
fn put_program(directory: &Path, name: &str, script: &str) {
    use std::os::unix::fs::PermissionsExt;
    fs::write(directory.join(name), format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(directory.join(name), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn what_differs_on_another_host_is_named_with_its_cure() {
    let Some(scene) = Scene::new(15, &[("shared_preload_libraries", "auto_explain")]) else { return };
    scene.cluster.psql(ORACLE);
    scene.cluster.psql("CREATE DATABASE other");
    scene.cluster.psql_in("other", "CREATE EXTENSION pg_trgm");
    scene.expect(0, &["backup", "db"]);
    let here = scene.expect(0, &["restore", "db", "--into", "plan", "--dry-run"]);
    assert!(!here.contains("differs"), "{here}");
    // A host with a server of the same version and nothing beside it.
    let bin = directory(&scene, "bin");
    for empty in ["lib", "share/extension"] {
        directory(&scene, empty);
    }
    put_program(&bin, "postgres", "echo 'postgres (PostgreSQL) 15.1'");
    let (lib, share) = (scene.path("lib").display().to_string(), scene.path("share").display().to_string());
    put_program(&bin, "pg_config", &format!("case $1 in --pkglibdir) echo {lib};; *) echo {share};; esac"));
    let mut command = scene.command(&["restore", "db", "--into", "plan", "--dry-run"]);
    let output = command.env("PATH", format!("{}:/usr/bin:/bin", bin.display())).output().unwrap();
    let there = String::from_utf8(output.stdout).unwrap();
    let told: Vec<&str> = there.lines().filter(|line| line.starts_with("differs")).collect();
    assert_eq!(told.len(), 3, "{there}");
    assert!(
        told[0].contains("`auto_explain` is loaded at the start") && told[0].contains("auto_explain.so"),
        "{told:?}"
    );
    assert!(told.iter().any(|line| line.contains("extension `pg_trgm`")), "of a database that nobody named: {told:?}");
}
