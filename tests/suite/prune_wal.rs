//! Pruning of a cluster's log, with real servers: what no base backup that is kept needs goes, what is kept restores, and nobody
//! calls what went a loss.

use crate::common::scene::{ORACLE, Scene};

/// What `prune` says of the log.
fn line<'t>(said: &'t str, word: &str) -> &'t str {
    said.lines().find(|line| line.starts_with(word)).unwrap_or_else(|| panic!("no `{word}` in\n{said}"))
}

#[test]
fn the_log_before_the_oldest_base_backup_that_stays_goes_and_the_rest_restores() {
    for major in [15, 18] {
        let Some(scene) = Scene::new(major, &[]) else { return };
        scene.cluster.psql(ORACLE);
        scene.insert(10);
        scene.expect(0, &["backup", "db"]);
        let first = scene.cluster.psql("SELECT pg_walfile_name(pg_current_wal_lsn())");
        scene.insert(10);
        scene.archive_all();
        scene.insert(10);
        scene.archive_all();
        // While the first base backup is kept all of the log behind it is.
        scene.expect(0, &["prune", "--grace", "0h"]);
        assert!(!scene.objects(&first).is_empty());
        scene.expect(0, &["backup", "db"]);
        scene.insert(10);
        scene.archive_all();
        let point = scene.point();
        scene.insert(10);
        scene.archive_all();
        let ids = scene.expect(0, &["--json", "snapshots"]);
        let json: serde_json::Value = serde_json::from_str(ids.lines().next().unwrap()).unwrap();
        let text = json.to_string();
        let oldest =
            text.split('"').filter(|word| word.len() == 26 && word.starts_with("01")).min().unwrap().to_owned();
        scene.expect(0, &["forget", "--snapshot", &oldest]);
        assert!(!scene.objects(&first).is_empty());
        let planned = scene.expect(0, &["prune", "--dry-run"]);
        assert!(line(&planned, "log ").contains("would be retired"), "{planned}");
        assert!(!scene.objects(&first).is_empty(), "a dry run deletes nothing");
        // With a grace it waits; what is retired is still served.
        let waits = scene.expect(0, &["prune"]);
        assert!(line(&waits, "retired ").contains("wait until"), "{waits}");
        assert!(!scene.objects(&first).is_empty());
        let idle = scene.expect(0, &["prune"]);
        assert!(line(&idle, "log ").contains("0 segments (0 B) retired, 0 (0 B) deleted"), "{idle}");
        scene.expect(0, &["check", "--read-data"]);
        let said = scene.expect(0, &["timeline", "db"]);
        assert!(!said.contains("GAP") && !said.contains("lost "), "{said}");
        assert_eq!(scene.restored_rows("point", &["--to", &point.0]), point.1);
        assert_eq!(scene.restored_rows("end", &[]), "50");
    }
}

#[test]
fn a_log_that_was_deleted_is_no_gap_and_does_not_come_back() {
    let Some(scene) = Scene::new(15, &[]) else { return };
    scene.cluster.psql(ORACLE);
    scene.insert(10);
    scene.expect(0, &["backup", "db"]);
    let first = scene.cluster.psql("SELECT pg_walfile_name(pg_current_wal_lsn())");
    scene.insert(10);
    scene.archive_all();
    scene.expect(0, &["backup", "db"]);
    scene.insert(10);
    scene.archive_all();
    let ids = scene.expect(0, &["--json", "snapshots"]);
    let oldest = ids.split('"').filter(|word| word.len() == 26 && word.starts_with("01")).min().unwrap().to_owned();
    scene.expect(0, &["forget", "--snapshot", &oldest]);
    let said = scene.expect(0, &["prune", "--grace", "0h"]);
    assert!(scene.objects(&first).is_empty(), "it is gone\n{said}");
    for _ in 0..2 {
        let said = scene.expect(0, &["timeline", "db"]);
        assert!(!said.contains("GAP") && !said.contains("lost ") && said.contains("base "), "{said}");
        let said = scene.expect(0, &["check", "--read-data"]);
        assert!(!said.contains("DAMAGE") && !said.contains("PROBLEM"), "{said}");
        scene.expect(0, &["catalog", "rebuild"]);
    }
    let idle = scene.expect(0, &["prune", "--grace", "0h"]);
    assert!(line(&idle, "result").contains("nothing was to be done"), "{idle}");
    scene.insert(10);
    scene.archive_all();
    assert_eq!(scene.restored_rows("end", &[]), "40");
    // With a window the log between a kept base backup and the window may go, and the timeline says why it ends there.
    let config = scene.path("lifeboat.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("{text}[sources.db.retention]\nwindow = \"0h\"\nkeep_last = 9\n")).unwrap();
    scene.expect(0, &["prune", "--dry-run"]);
}

#[test]
fn a_copy_has_the_log_too_and_brings_back_any_moment() {
    let Some(scene) = Scene::new(15, &[]) else { return };
    scene.cluster.psql(ORACLE);
    scene.insert(10);
    scene.expect(0, &["backup", "db"]);
    scene.insert(10);
    scene.archive_all();
    let made = scene.expect(0, &["copy", "--to", "second", "--create"]);
    assert!(made.contains("segments of streams"), "{made}");
    let point = scene.point();
    scene.insert(10);
    scene.archive_all();
    // What was archived since goes there alone.
    let next = scene.expect(0, &["--json", "copy", "--to", "second"]);
    let next: serde_json::Value = serde_json::from_str(next.lines().next().unwrap()).unwrap();
    let report = &next["report"];
    assert_eq!((report["snapshots"].as_array().unwrap().len(), report["segments"].as_u64()), (0, Some(1)), "{next}");
    // The first store is gone, the copy takes its place, and prunes by the same rules.
    std::fs::rename(scene.path("repo"), scene.path("away")).unwrap();
    std::fs::rename(scene.path("second"), scene.path("repo")).unwrap();
    scene.expect(0, &["prune", "--grace", "0h"]);
    scene.expect(0, &["check", "--read-data"]);
    let said = scene.expect(0, &["timeline", "db"]);
    assert!(!said.contains("GAP") && !said.contains("lost "), "{said}");
    assert_eq!(scene.restored_rows("point", &["--to", &point.0]), point.1);
    assert_eq!(scene.restored_rows("end", &[]), "30");
}

#[test]
fn a_keeper_frees_the_log_of_a_host_that_may_not_and_believes_no_fresh_base_backup() {
    let Some(scene) = Scene::new(15, &[]) else { return };
    let keeper = |code: i32, args: &[&str]| {
        let [repo, id, config] = ["repo", "id", "lifeboat.toml"].map(|name| scene.path(name).display().to_string());
        let global = ["--repo", &repo, "--identity", &id, "--config", &config, "--state-dir", "keep"];
        let output = Scene::run_in(&scene.path(""), &global, args);
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{args:?}\n{said}");
        said
    };
    scene.cluster.psql(ORACLE);
    scene.insert(10);
    scene.expect(0, &["backup", "db"]);
    let first = scene.cluster.psql("SELECT pg_walfile_name(pg_current_wal_lsn())");
    scene.insert(10);
    scene.archive_all();
    keeper(0, &["init", "--host", "keep1"]);
    let listed: serde_json::Value = serde_json::from_str(&keeper(0, &["--json", "key", "list"])).unwrap();
    let name = listed["this_writer"].as_str().unwrap();
    keeper(0, &["key", "keeper", name, "--all", "--hold", "30d"]);
    scene.expect(0, &["backup", "db"]);
    scene.insert(10);
    scene.archive_all();
    let point = scene.point();
    scene.insert(10);
    scene.archive_all();
    let ids = scene.expect(0, &["--json", "snapshots"]);
    let oldest = ids.split('"').filter(|word| word.len() == 26 && word.starts_with("01")).min().unwrap().to_owned();
    scene.expect(0, &["forget", "--snapshot", &oldest]);
    // Whatever the window of the keeper says: the base backup that it would be served by is younger than the hold.
    let config = std::fs::read_to_string(scene.path("lifeboat.toml")).unwrap();
    std::fs::write(scene.path("lifeboat.toml"), format!("{config}[prune.windows]\ndb = \"0h\"\n")).unwrap();
    let said = keeper(0, &["prune", "--keeper", "--grace", "0h"]);
    assert!(said.contains("held      1 snapshot") && !scene.objects(&first).is_empty(), "{said}");
    keeper(0, &["key", "keeper", name, "--all", "--hold", "0h"]);
    std::fs::write(scene.path("lifeboat.toml"), config).unwrap();
    let said = keeper(0, &["prune", "--keeper", "--grace", "0h"]);
    assert!(line(&said, "log ").contains("would be").eq(&false) && scene.objects(&first).is_empty(), "{said}");
    scene.expect(0, &["check", "--read-data"]);
    let said = scene.expect(0, &["timeline", "db"]);
    assert!(!said.contains("GAP") && !said.contains("lost "), "{said}");
    scene.insert(10);
    scene.archive_all();
    assert_eq!(scene.restored_rows("point", &["--to", &point.0]), point.1);
    assert_eq!(scene.restored_rows("end", &[]), "50");
}
