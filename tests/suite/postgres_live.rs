//! `check --live` against real servers: what is in order, what is missing, and the grant or setting that is named.

use std::fs;

use crate::common::scene::{ORACLE, Scene};

const SWITCH: &str = "GRANT EXECUTE ON FUNCTION pg_switch_wal() TO lifeboat";

#[test]
fn a_source_that_can_be_backed_up_is_seen_to_be_so() {
    for major in [15, 18] {
        let Some(scene) = Scene::new(major, &[("archive_timeout", "60s")]) else { return };
        scene.cluster.psql(ORACLE);
        scene.insert(3);
        let said = scene.expect(1, &["check", "--live", "db"]);
        assert!(said.contains("GRANT EXECUTE ON FUNCTION pg_switch_wal() TO lifeboat"), "the grant is named\n{said}");
        scene.cluster.psql(SWITCH);
        let said = scene.expect(0, &["check", "--live", "db"]);
        for line in [
            "was ended and is in the repository",
            "may take base backups",
            "the last that it archived, is in the repository",
        ] {
            assert!(said.contains(line), "{line}\n{said}");
        }
        assert!(said.contains("result    it can be backed up") && !said.contains("PROBLEM"), "{said}");
        let json = scene.expect(0, &["--json", "check", "--live", "db"]);
        let line = json.lines().find(|line| line.contains("\"live\"")).unwrap();
        let report = serde_json::from_str::<serde_json::Value>(line).unwrap();
        assert_eq!(report["clean"], true);
        assert!(report["report"]["arrived_seconds"].is_number());
    }
}

#[test]
fn what_keeps_a_source_from_being_backed_up_is_named() {
    let Some(scene) = Scene::new(15, &[]) else { return };
    scene.cluster.psql(SWITCH);
    let check = |code: i32| scene.expect(code, &["check", "--live", "db", "--wal-timeout", "3s"]);
    let archive = |command: &str| {
        scene.cluster.configure(&[("archive_command", command)]);
        scene.cluster.reload();
        std::thread::sleep(std::time::Duration::from_millis(300));
    };
    let words = format!("{} wal push %p --source db", Scene::base_command(scene.folder.path()).join(" "));
    archive("false # wal push");
    let said = check(1);
    assert!(said.contains("did not arrive within 3 s; archiving of") && said.contains("it fails:"), "{said}");
    archive("true");
    scene.archive_all();
    let said = check(1);
    assert!(said.contains("counts") && said.contains("as archived, and it is not in the repository"), "{said}");
    assert!(said.contains("does not name `wal push`"), "{said}");
    archive("");
    assert!(check(1).contains("archive_command is empty"));
    archive(&words);
    scene.archive_all();
    let said = check(0);
    assert!(said.contains("archive_timeout is 0") && said.contains("see the warnings"), "{said}");
    scene.cluster.psql("SELECT pg_create_physical_replication_slot('nobody', true)");
    scene.cluster.psql("REVOKE pg_read_all_settings FROM lifeboat");
    let said = check(1);
    assert!(
        said.contains("nobody is read by nobody and holds") && said.contains("max_slot_wal_keep_size is -1"),
        "{said}"
    );
    assert!(said.contains("`GRANT pg_read_all_settings TO lifeboat`"), "{said}");
    scene.cluster.stop();
    let said = check(1);
    assert!(said.contains("could not connect to PostgreSQL"), "{said}");
    let nobody = scene.expect(2, &["check", "--live", "nosuch"]);
    assert!(nobody.contains("there is no source `nosuch`"), "{nobody}");
    let config = scene.path("lifeboat.toml");
    let more = "[sources.tree]\nkind = \"volume\"\npath = \"/tmp\"\n";
    fs::write(&config, format!("{}{more}", fs::read_to_string(&config).unwrap())).unwrap();
    assert!(scene.expect(0, &["check", "--live", "tree"]).contains("there is nothing live to check"));
}

#[test]
fn of_dumps_the_connection_and_the_programs_are_looked_at() {
    let Some(scene) = Scene::new(15, &[]) else { return };
    let config = scene.path("lifeboat.toml");
    let (connection, bin) = (scene.cluster.connection(), scene.cluster.bin_dir().display());
    let more = format!("[sources.dumps]\nkind = \"pg_dump\"\nconnection = \"{connection}\"\nbin_dir = \"{bin}\"\n");
    fs::write(&config, format!("{}{more}", fs::read_to_string(&config).unwrap())).unwrap();
    let said = scene.expect(0, &["check", "--live", "dumps"]);
    assert!(said.contains("PostgreSQL 15.") && said.contains("pg_dumpall is 15."), "{said}");
    scene.cluster.stop();
    assert!(scene.expect(1, &["check", "--live", "dumps"]).contains("could not connect"));
}
