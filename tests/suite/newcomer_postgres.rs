//! What somebody who has only read the documentation trips over, with clusters: a trial beside the original that archives, a base backup
//! whose log never comes, a part of a cluster, an identity that the server cannot use.

use std::fs;
use std::time::Duration;

use crate::common::postgres::{Cluster, server_user};
use crate::common::scene::{Scene, text};
use crate::common::started::Started;

const ROWS: &str = "SELECT string_agg(name, ' ' ORDER BY n) FROM t";
const LOUD: &str = "this server archives into the same stream as the original";

fn scene() -> Option<Scene> {
    let scene = Scene::new(18, &[])?;
    scene.cluster.psql("CREATE TABLE t (n serial, name text)");
    scene.expect(0, &["backup", "db"]);
    Some(scene)
}

fn add(cluster: &Cluster, name: &str) {
    cluster.psql(&format!("INSERT INTO t (name) VALUES ('{name}')"));
}

fn until(what: &str, mut is: impl FnMut() -> bool) {
    for _ in 0..1200 {
        if is() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("{what} did not happen");
}

#[test]
fn a_trial_that_archives_beside_the_original_is_never_followed_in_silence() {
    let Some(scene) = scene() else { return };
    add(&scene.cluster, "one");
    let middle = scene.now();
    add(&scene.cluster, "two");
    add(&scene.cluster, "three");
    let behind = scene.now();
    scene.archive_all();
    let into = scene.path("trial");
    let target = into.display().to_string();
    let plan =
        |code: i32, more: &[&str]| scene.expect(code, &[&["restore", "db", "--dry-run", "--into", "x"], more].concat());
    for apart in [&["--archive-mode-off"][..], &["--standby"]] {
        assert!(!plan(0, apart).contains(LOUD), "{apart:?}");
    }
    let said = scene.expect(0, &["restore", "db", "--to", &middle, "--into", &target]);
    assert_eq!(said.matches(LOUD).count(), 2, "in the plan, and when it is ready\n{said}");
    assert!(said.contains("--archive-mode-off"), "{said}");
    let trial = Cluster::adopt(18, &into).unwrap();
    trial.try_begin().unwrap();
    until("the promotion", || trial.psql("SELECT pg_is_in_recovery()") == "f");
    add(&trial, "trial");
    let last = trial.psql("SELECT pg_walfile_name(pg_switch_wal())");
    until("archiving", || trial.psql("SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver") >= last);
    add(&scene.cluster, "four");
    scene.archive_all();

    let refused = plan(4, &["--to", &behind]);
    for part in ["timeline 2 and timeline 1 parted at", "`--target-timeline 1` or `--target-timeline 2`"] {
        assert!(refused.contains(part), "{part}\n{refused}");
    }
    let same = plan(0, &["--to", &middle]);
    assert!(!same.contains("lacks"), "both branches have that moment alike\n{same}");
    let newest = plan(0, &[]);
    assert!(
        newest.contains("that timeline 2 lacks") && newest.contains("`--target-timeline 1` takes them"),
        "{newest}"
    );
    for (name, to, rows) in [("a", behind.as_str(), "one two three"), ("b", "latest", "one two three four")] {
        let server = Started::new(&scene, name);
        server.restore(0, &["--to", to, "--target-timeline", "1"]);
        assert_eq!(server.psql(ROWS), rows);
        server.stop("fast");
    }
    let said = scene.expect(0, &["timeline", "db"]);
    assert!(said.contains("branch    timeline 1 goes on behind"), "{said}");
    assert!(said.contains("Y fork") || said.contains("┳ fork"), "{said}");
    scene.cluster.psql("GRANT EXECUTE ON FUNCTION pg_switch_wal() TO lifeboat");
    let live = scene.expect(1, &["check", "--live", "db"]);
    assert!(live.contains("the repository has timeline 2, this server is on 1"), "{live}");
    // The next base backup says which server is the one that is backed up.
    trial.stop();
    scene.expect(0, &["backup", "db"]);
    let settled = plan(0, &[]);
    assert!(settled.contains("on timeline 1") && !settled.contains("lacks"), "{settled}");
}

#[test]
fn a_base_backup_whose_log_never_comes_is_called_complete_nowhere() {
    let Some(scene) = scene() else { return };
    let complete = scene.expect(0, &["--json", "snapshots"]);
    let first: serde_json::Value = serde_json::from_str(complete.lines().next().unwrap()).unwrap();
    assert_eq!((first[0]["complete"].as_bool(), first[0]["pending"].as_str()), (Some(true), None));
    scene.cluster.configure(&[("archive_command", "/bin/true")]);
    scene.cluster.reload();
    until("the reload", || scene.cluster.psql("SHOW archive_command") == "/bin/true");
    let said = scene.expect(3, &["backup", "db", "--wal-timeout", "1s"]);
    assert!(
        said.contains("PENDING: segment ") && !said.contains("restores  to") && !said.contains("  complete"),
        "{said}"
    );
    let listed = scene.expect(0, &["snapshots"]);
    assert_eq!((listed.matches("PENDING").count(), listed.matches("complete").count()), (1, 1), "{listed}");
    let json = scene.expect(0, &["--json", "snapshots"]);
    let json: serde_json::Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
    assert_eq!(json[1]["complete"], false);
    assert_eq!(json[1]["pending"].as_str().unwrap().len(), 24);
    let (newest, pending) = (json[0]["id"].as_str().unwrap(), json[1]["id"].as_str().unwrap());
    let refused = scene.expect(4, &["restore", "db", "--snapshot", pending, "--into", "none"]);
    assert!(refused.contains(&format!("base backup {pending} of")) && refused.contains(newest), "{refused}");
}

#[test]
fn a_part_of_a_cluster_is_no_cluster() {
    let Some(scene) = scene() else { return };
    for flag in ["--include", "--exclude"] {
        let refused = scene.expect(2, &["restore", "db", flag, "base", "--into", "inc"]);
        assert!(refused.contains("restored as a whole"), "{refused}");
    }
    assert!(!scene.path("inc").exists());
    let latest = scene.expect(0, &["restore", "db", "--snapshot", "latest", "--tar", "files.tar"]);
    assert!(latest.contains("without its log and recovery.signal"), "{latest}");
    fs::create_dir(scene.path("full")).unwrap();
    fs::write(scene.path("full/PG_VERSION"), "18\n").unwrap();
    let refused = scene.expect(2, &["restore", "db", "--into", "full"]);
    assert!(!refused.contains("if-changed"), "{refused}");
}

#[test]
fn the_server_finds_what_was_named_from_another_directory() {
    let Some(scene) = scene() else { return };
    let here = scene.folder.path();
    let mut recipient = age::scrypt::Recipient::new("right".to_owned().into());
    recipient.set_work_factor(4);
    fs::write(here.join("locked"), age::encrypt(&recipient, &fs::read(here.join("id")).unwrap()).unwrap()).unwrap();
    fs::write(here.join("pass"), "right").unwrap();
    let line = "LIFEBOAT_PASSPHRASE_FILE=pass ./lifeboat --repo repo --state-dir state --identity locked --config lifeboat.toml \
                restore db --into rel --archive-mode-off";
    let made = scene.sh(line);
    assert!(made.status.success(), "{}", text(&made.stderr));
    let written = fs::read_to_string(here.join("rel/postgresql.auto.conf")).unwrap();
    for name in ["repo", "pass", "locked", "state"] {
        let absolute = here.join(name).display().to_string();
        assert!(written.contains(&format!("''{absolute}''")), "{absolute}\n{written}");
    }
    assert_eq!(scene.ask_restored(&here.join("rel"), "SELECT count(*) FROM t").unwrap(), "0");
}

#[test]
fn an_identity_for_root_alone_is_noticed_before_anything_is_fetched() {
    // Another user than root has none of that kind.
    if server_user().is_none() {
        return;
    }
    let Some(scene) = scene() else { return };
    fs::copy(scene.path("id"), scene.path("root-id")).unwrap();
    std::os::unix::fs::chown(scene.path("root-id"), Some(0), Some(0)).unwrap();
    let words = Scene::base_command(scene.folder.path());
    let mut command = std::process::Command::new(&words[0]);
    let at = |name: &str| scene.path(name).display().to_string();
    command.args(["--repo", &at("repo"), "--state-dir", &at("root-state"), "--identity", &at("root-id")]);
    let bin = scene.cluster.bin_dir().display().to_string();
    let output =
        command.args(["restore", "db", "--into", &at("r"), "--start", "--isolated", "--bin-dir", &bin]).output();
    let output = output.unwrap();
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("for root alone to read") && !scene.path("r").exists(), "{said}");
}

#[test]
fn root_takes_no_state_directory_away_from_its_owner() {
    if server_user().is_none() {
        return;
    }
    let Some(scene) = scene() else { return };
    let words = Scene::base_command(scene.folder.path());
    let as_root = |args: &[&str]| {
        let output = std::process::Command::new(&words[0]).args(&words[1..]).args(args).output().unwrap();
        (output.status.code(), format!("{}{}", text(&output.stdout), text(&output.stderr)))
    };
    assert_eq!(as_root(&["snapshots"]).0, Some(0), "a catalog that is there stays its owner's");
    let (code, said) = as_root(&["backup", "db"]);
    assert!(code == Some(2) && said.contains("runuser -u"), "{said}");
    for entry in fs::read_dir(scene.path("state")).unwrap().flatten() {
        for name in ["catalog.db", "catalog.db-wal", "catalog.db-shm"] {
            let _ = fs::remove_file(entry.path().join(name));
        }
    }
    let (code, said) = as_root(&["snapshots"]);
    assert!(code == Some(2) && said.contains("--state-dir DIR"), "{said}");
    add(&scene.cluster, "one");
    scene.archive_all();
    scene.expect(0, &["backup", "db"]);
}

#[test]
fn a_live_check_asks_for_nothing_that_it_may_not_and_waits_for_nothing_that_cannot_come() {
    let Some(scene) = scene() else { return };
    scene.cluster.psql("GRANT EXECUTE ON FUNCTION pg_switch_wal() TO lifeboat");
    scene.expect(0, &["check", "--live", "db"]);
    assert!(!scene.cluster.log().contains("permission denied"), "{}", scene.cluster.log_tail());
    scene.cluster.configure(&[("archive_mode", "off")]);
    scene.cluster.restart();
    let segment = || scene.cluster.psql("SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
    let before = segment();
    let said = scene.expect(1, &["check", "--live", "db"]);
    assert!(said.contains("archive_mode is off") && !said.contains("did not arrive"), "{said}");
    assert_eq!(segment(), before, "no segment was ended");
}
