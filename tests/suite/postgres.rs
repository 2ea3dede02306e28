//! Real PostgreSQL clusters to any second: base backups while they work, WAL pushed and fetched by the server itself, and the
//! exit codes by which it decides what is lost.

use std::fs;

use crate::common::postgres::Cluster;
use crate::common::scene::{ORACLE, Scene, own};

fn back_to_any_moment(major: u32) {
    let Some(scene) = Scene::new(major, &[]) else { return };
    scene.cluster.psql(ORACLE);
    scene.insert(500);
    scene.expect(0, &["backup", "db"]);
    let mut points = Vec::new();
    for round in 1..=4 {
        scene.insert(10 * round);
        points.push(scene.point());
        if round == 2 {
            scene.expect(0, &["backup", "db"]);
        }
    }
    scene.insert(1);
    scene.archive_all();
    for (n, (moment, rows)) in points.iter().enumerate() {
        assert_eq!(&scene.restored_rows(&format!("r{n}"), &["--to", moment]), rows, "at {moment}");
    }
    let all = scene.cluster.psql("SELECT count(*) FROM oracle");
    assert_eq!(scene.restored_rows("latest", &[]), all, "everything that was archived");
    assert_eq!(scene.restored_rows("past", &["--to", &scene.now()]), all, "a time past the last commit");
    let drawn = scene.expect(0, &["timeline", "db"]);
    assert_eq!(drawn.matches("any moment to").count(), 2, "{drawn}");
    assert!(drawn.contains("newest    20") && !drawn.contains("GAP"), "{drawn}");
    let early = scene.expect(4, &["restore", "db", "--to", "2020-01-01T00:00:00Z", "--into", "early"]);
    assert!(early.contains("its first complete base backup ended at"), "{early}");
    assert!(!scene.path("early").exists());
}

#[test]
fn a_cluster_of_15_comes_back_at_the_moment_that_was_asked_for() {
    back_to_any_moment(15);
}

#[test]
fn a_cluster_of_16_comes_back_at_the_moment_that_was_asked_for() {
    back_to_any_moment(16);
}

#[test]
fn a_cluster_of_17_comes_back_at_the_moment_that_was_asked_for() {
    back_to_any_moment(17);
}

#[test]
fn a_cluster_of_18_comes_back_at_the_moment_that_was_asked_for() {
    back_to_any_moment(18);
}

#[test]
fn behind_a_gap_nothing_is_served_and_the_server_is_not_told_that_the_log_ends() {
    let Some(scene) = Scene::new(15, &[]) else { return };
    scene.cluster.psql(ORACLE);
    scene.insert(10);
    scene.expect(0, &["backup", "db"]);
    scene.insert(10);
    let before = scene.point();
    scene.insert(1);
    scene.archive_all();
    scene.insert(10);
    let lost = scene.cluster.psql("SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
    scene.archive_all();
    scene.insert(10);
    scene.archive_all();
    let object = scene.objects(&lost).pop().unwrap();
    fs::rename(&object, scene.path("aside")).unwrap();
    let drawn = scene.expect(13, &["timeline", "db"]);
    assert!(drawn.contains("GAP") && drawn.contains(&format!("lost      {lost}")), "{drawn}");
    let said = scene.expect(4, &["restore", "db", "--to", &scene.now(), "--into", "gone"]);
    assert!(said.contains(&lost) && said.contains("before the gap"), "{said}");
    assert_eq!(scene.restored_rows("before", &["--to", &before.0]), before.1);
    // A later restore that runs into the gap must stop, not promote: 255, never 1.
    let stream = format!("db-{}-15", scene.cluster.psql("SELECT system_identifier FROM pg_control_system()"));
    let get = |name: &str| ["wal", "get", "--stream", &stream, name, "got"].map(str::to_owned);
    let run = |code: i32, name: &str| scene.expect(code, &get(name).each_ref().map(String::as_str));
    assert!(run(255, &lost).contains("this is a gap, not the end"));
    run(1, "0000000100000000000000FF");
    run(1, "00000002.history");
    run(255, "nonsense");
    scene.expect(255, &["wal", "get", "--no-such-flag", &lost, "got"]);
    fs::rename(scene.path("aside"), &object).unwrap();
    run(0, &lost);
    let there = fs::read(scene.path("got")).unwrap();
    assert_eq!(there.len(), 16 << 20);
    // Damage is trouble, not absence.
    let mut bytes = fs::read(&object).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&object, bytes).unwrap();
    run(255, &lost);
    fs::rename(scene.path("id"), scene.path("id.aside")).unwrap();
    run(255, &lost);
    fs::rename(scene.path("id.aside"), scene.path("id")).unwrap();
    fs::rename(scene.path("repo"), scene.path("repo.aside")).unwrap();
    run(255, &lost);
}

#[test]
fn a_push_is_done_once_and_never_replaces() {
    let Some(scene) = Scene::new(15, &[]) else { return };
    scene.cluster.psql(ORACLE);
    scene.insert(10);
    scene.archive_all();
    let name = scene.cluster.psql("SELECT last_archived_wal FROM pg_stat_archiver");
    assert_eq!(scene.objects(&name).len(), 1);
    let segment = scene.cluster.data_dir().join("pg_wal").join(&name);
    let again = scene.expect(0, &["wal", "push", &segment.display().to_string()]);
    assert!(again.contains("was there already"), "{again}");
    // The same name with other bytes: a server that was rolled back. The path tells the cluster as PostgreSQL's does.
    let twin = scene.path("twin");
    fs::create_dir_all(twin.join("pg_wal")).unwrap();
    fs::create_dir_all(twin.join("global")).unwrap();
    for file in ["PG_VERSION", "global/pg_control"] {
        fs::copy(scene.cluster.data_dir().join(file), twin.join(file)).unwrap();
    }
    let mut bytes = fs::read(&segment).unwrap();
    let end = bytes.len() - 1;
    bytes[end] ^= 1;
    let other = twin.join("pg_wal").join(&name);
    fs::write(&other, &bytes).unwrap();
    for directory in [&twin, &twin.join("pg_wal"), &twin.join("global")] {
        own(directory);
    }
    let refused = scene.expect(13, &["wal", "push", &other.display().to_string()]);
    assert!(refused.contains("with other bytes"), "{refused}");
    assert_eq!(scene.objects(&name).len(), 1, "nothing was put");
    // A name that lies about its bytes, and one that is none.
    let lying = other.with_file_name("0000000100000000000000AA");
    fs::copy(&segment, &lying).unwrap();
    own(&lying);
    scene.expect(13, &["wal", "push", &lying.display().to_string()]);
    fs::write(other.with_file_name("README"), "x").unwrap();
    scene.expect(1, &["wal", "push", &other.with_file_name("README").display().to_string()]);
}

#[test]
fn while_the_store_is_away_the_server_keeps_its_log() {
    let Some(scene) = Scene::new(15, &[]) else { return };
    scene.cluster.psql(ORACLE);
    scene.expect(0, &["backup", "db"]);
    // A push that is under way would make its directories anew.
    scene.archive_all();
    fs::rename(scene.path("repo"), scene.path("aside")).unwrap();
    for _ in 0..3 {
        scene.insert(10);
        scene.cluster.psql("SELECT pg_switch_wal()");
    }
    let point = scene.point();
    scene.insert(1);
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert_ne!(scene.cluster.psql("SELECT failed_count FROM pg_stat_archiver"), "0");
    fs::rename(scene.path("aside"), scene.path("repo")).unwrap();
    scene.archive_all();
    assert_eq!(scene.restored_rows("back", &["--to", &point.0]), point.1);
}

#[test]
fn a_base_backup_waits_for_its_log_before_it_serves() {
    let Some(scene) = Scene::new(15, &[]) else { return };
    scene.cluster.psql(ORACLE);
    scene.insert(10);
    scene.cluster.configure(&[("archive_command", "false")]);
    scene.cluster.reload();
    let said = scene.expect(3, &["backup", "db", "--wal-timeout", "1s"]);
    assert!(said.contains("PENDING"), "{said}");
    assert!(scene.expect(0, &["timeline", "db"]).contains("PENDING"));
    let refused = scene.expect(4, &["restore", "db", "--into", "pending"]);
    assert!(refused.contains("no base backup of") && refused.contains("is complete"), "{refused}");
    let words = Scene::base_command(scene.folder.path()).join(" ");
    scene.cluster.configure(&[("archive_command", &format!("{words} wal push %p --source db"))]);
    scene.cluster.reload();
    scene.archive_all();
    assert_eq!(scene.restored_rows("complete", &[]), "10");
}

#[test]
fn what_a_base_backup_holds_is_what_a_server_needs_and_without_its_label_it_refuses() {
    let Some(scene) = Scene::new(15, &[]) else { return };
    scene.cluster.psql(ORACLE);
    scene.insert(2000);
    scene.cluster.psql("CREATE UNLOGGED TABLE gone AS SELECT n FROM generate_series(1, 5000) n");
    let unlogged = scene.cluster.psql("SELECT pg_relation_filepath('gone')");
    scene.expect(0, &["backup", "db"]);
    scene.insert(5);
    scene.archive_all();
    let listed = scene.expect(0, &["ls", "db", "--recursive"]);
    assert!(listed.contains(&format!("{unlogged}_init")), "an unlogged table begins empty, but it begins");
    assert!(!listed.lines().any(|line| line.ends_with(&unlogged)), "its rows are not kept");
    for skipped in ["postmaster.pid", "pg_wal/0", "pg_internal.init"] {
        assert!(!listed.contains(skipped), "{skipped}");
    }
    for kept in ["backup_label", "global/pg_control", "pg_wal", "pg_replslot", "PG_VERSION"] {
        assert!(listed.contains(kept), "{kept}");
    }
    assert_eq!(scene.restored_rows("good", &[]), "2005");
    let into = scene.path("bare");
    scene.expect(0, &["restore", "db", "--into", &into.display().to_string(), "--archive-mode-off"]);
    fs::remove_file(into.join("backup_label")).unwrap();
    fs::remove_file(into.join("recovery.signal")).unwrap();
    let refused = scene.ask_restored(&into, "SELECT 1").unwrap_err();
    assert!(refused.contains("could not locate a valid checkpoint record"), "{refused}");
}

#[test]
fn a_second_base_backup_reads_and_stores_little() {
    let Some(scene) = Scene::new(15, &[]) else { return };
    scene.cluster.psql(ORACLE);
    scene.insert(20_000);
    scene.expect(0, &["--json", "backup", "db"]);
    scene.cluster.psql("UPDATE oracle SET pad = 'changed' WHERE n = 17");
    let said = scene.expect(0, &["--json", "backup", "db"]);
    let line = said.lines().find(|line| line.contains("files_unmodified")).unwrap();
    let summary: serde_json::Value = serde_json::from_str(line).unwrap();
    let number = |name: &str| summary[name].as_u64().unwrap();
    assert!(number("files_unmodified") > 800, "{summary}");
    assert!(number("data_added") < 1 << 20, "{summary}");
}

#[test]
fn a_new_timeline_is_followed_and_the_old_one_stays_within_reach() {
    let Some(scene) = Scene::new(15, &[]) else { return };
    scene.cluster.psql(ORACLE);
    scene.insert(10);
    scene.expect(0, &["backup", "db"]);
    scene.insert(10);
    let fork = scene.point();
    scene.insert(100);
    let abandoned = scene.point();
    scene.insert(1);
    scene.archive_all();
    scene.cluster.stop();
    // Back before the hundred, and on from there: this one archives to the same place.
    let into = scene.path("second");
    scene.expect(0, &["restore", "db", "--to", &fork.0, "--into", &into.display().to_string()]);
    let second = Cluster::adopt(15, &into).unwrap();
    second.try_begin().unwrap();
    for _ in 0..600 {
        if second.psql("SELECT pg_is_in_recovery()") == "f" {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(second.psql("SELECT count(*) FROM oracle"), fork.1);
    second.psql("INSERT INTO oracle (pad) VALUES ('on the second timeline')");
    let last = second.psql("SELECT pg_walfile_name(pg_switch_wal())");
    for _ in 0..600 {
        if second.psql("SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver") >= last {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let expected = (fork.1.parse::<u32>().unwrap() + 1).to_string();
    assert_eq!(scene.restored_rows("newest", &[]), expected, "the newest timeline");
    let old = ["--target-timeline", "1", "--to", &abandoned.0];
    assert_eq!(scene.restored_rows("old", &old), abandoned.1, "the one that was left, if it is named");
}
