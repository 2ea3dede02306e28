//! Base backups over the replication protocol: the same snapshot as from the data directory, restored to a moment.

use std::fs;

use crate::common::scene::{ORACLE, Scene, own, text};

/// A scene whose role may replicate, and whose source says how it is taken.
fn scene(major: u32, made_with: &[&str], keys: &str) -> Option<Scene> {
    let scene = Scene::made_with(major, made_with, &[])?;
    scene.cluster.psql("ALTER ROLE lifeboat REPLICATION");
    let path = scene.path("lifeboat.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(path, format!("{text}bin_dir = \"{}\"\n{keys}", scene.cluster.bin_dir().display())).unwrap();
    scene.cluster.psql(ORACLE);
    Some(scene)
}

fn over_the_protocol(major: u32) {
    let Some(scene) = scene(major, &[], "via = \"replication\"\n") else { return };
    scene.insert(20_000);
    scene.cluster.psql("CREATE UNLOGGED TABLE gone AS SELECT n FROM generate_series(1, 5000) n");
    let unlogged = scene.cluster.psql("SELECT pg_relation_filepath('gone')");
    let said = scene.expect(0, &["backup", "db"]);
    assert!(said.contains("can be restored"), "{said}");
    scene.insert(10);
    let point = scene.point();
    scene.insert(5);
    scene.archive_all();
    assert_eq!(scene.restored_rows("moment", &["--to", &point.0]), point.1);
    assert_eq!(scene.restored_rows("latest", &[]), "20015");
    let listed = scene.expect(0, &["ls", "db", "--recursive"]);
    for kept in ["backup_label", "global/pg_control", "pg_wal", "PG_VERSION", &format!("{unlogged}_init")] {
        assert!(listed.contains(kept), "{kept}");
    }
    for skipped in ["backup_manifest", "tablespace_map", "pg_wal/0", "postmaster.pid"] {
        assert!(!listed.contains(skipped), "{skipped}");
    }
    assert!(!listed.lines().any(|line| line.ends_with(&unlogged)), "rows of an unlogged table");
    // A server that is started without its label refuses.
    let into = scene.path("bare");
    scene.expect(0, &["restore", "db", "--into", &into.display().to_string(), "--archive-mode-off"]);
    fs::remove_file(into.join("backup_label")).unwrap();
    fs::remove_file(into.join("recovery.signal")).unwrap();
    assert!(scene.ask_restored(&into, "SELECT 1").unwrap_err().contains("could not locate a valid checkpoint record"));
    // The same bytes come from the directory at hand: but for the rows since, nothing is stored twice.
    let path = scene.path("lifeboat.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(path, text.replace("replication", "local")).unwrap();
    let said = scene.expect(0, &["--json", "backup", "db"]);
    let line = said.lines().find(|line| line.contains("files_unmodified")).unwrap();
    let summary: serde_json::Value = serde_json::from_str(line).unwrap();
    let number = |name: &str| summary[name].as_u64().unwrap();
    assert!(
        number("files_read_again") > 900 && number("files_new") == 0 && number("data_added") < 4 << 20,
        "{summary}"
    );
}

#[test]
fn a_cluster_of_15_is_taken_over_the_replication_protocol() {
    over_the_protocol(15);
}

#[test]
fn a_cluster_of_18_is_taken_over_the_replication_protocol() {
    over_the_protocol(18);
}

fn with_a_tablespace(major: u32) {
    // The way is chosen: a data directory of that name is not here.
    let Some(scene) = scene(major, &[], "data_directory = \"/nowhere\"\nwork_dir = \"work\"\n") else { return };
    for name in ["fast", "work"] {
        fs::create_dir(scene.path(name)).unwrap();
        own(&scene.path(name));
    }
    let fast = scene.path("fast");
    scene.cluster.psql(&format!("CREATE TABLESPACE fast LOCATION '{}'", fast.display()));
    scene.cluster.psql("CREATE TABLE f TABLESPACE fast AS SELECT n, md5(n::text) FROM generate_series(1, 30000) n");
    scene.expect(0, &["backup", "db"]);
    assert_eq!(fs::read_dir(scene.path("work")).unwrap().count(), 0, "nothing is left behind");
    scene.insert(3);
    scene.archive_all();
    let (new, rows) = (scene.path("new").display().to_string(), "SELECT count(*) || ' ' || sum(n) FROM f");
    for (name, args) in [("inside", &[][..]), ("mapped", &["--tablespace-map", &format!("fast={new}")])] {
        let into = scene.path(name).display().to_string();
        scene.expect(0, &[&["restore", "db", "--into", &into, "--archive-mode-off"], args].concat());
        assert_eq!(scene.ask_restored(&scene.path(name), rows).unwrap(), "30000 450015000", "{name}");
    }
}

#[test]
fn tablespaces_of_15_come_over_the_replication_protocol() {
    with_a_tablespace(15);
}

#[test]
fn tablespaces_of_18_come_over_the_replication_protocol() {
    with_a_tablespace(18);
}

#[test]
fn damage_that_the_server_finds_is_named() {
    let Some(scene) = scene(15, &["-k"], "via = \"replication\"\n") else { return };
    scene.cluster.psql("CREATE TABLE cold AS SELECT n, md5(n::text) FROM generate_series(1, 20000) n");
    let file = scene.cluster.psql("SELECT pg_relation_filepath('cold')");
    scene.cluster.psql("CHECKPOINT");
    let path = scene.cluster.data_dir().join(&file);
    let mut bytes = fs::read(&path).unwrap();
    bytes[3 * 8192 + 5000] ^= 0x55;
    fs::write(&path, bytes).unwrap();
    let told = scene.expect(3, &["backup", "db"]);
    assert!(told.contains(&format!("`{file}` block 3")), "{told}");
    let refused = scene.expect(1, &["backup", "db", "--fail-on-page-errors"]);
    assert!(refused.contains("checksum"), "{refused}");
}

#[test]
fn without_its_configuration_a_cluster_starts_with_the_least() {
    let Some(scene) = scene(15, &[], "via = \"replication\"\n") else { return };
    scene.insert(4);
    // The running server goes on without them; the backup does not find them, as on Debian.
    let data = scene.cluster.data_dir();
    for name in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"] {
        fs::rename(data.join(name), scene.path(name)).unwrap();
    }
    scene.expect(0, &["backup", "db"]);
    scene.archive_all();
    let into = scene.path("least");
    let told = scene.expect(0, &["restore", "db", "--into", &into.display().to_string(), "--archive-mode-off"]);
    assert!(told.contains("with the least that replay needs"), "{told}");
    assert!(fs::read_to_string(into.join("postgresql.conf")).unwrap().contains("max_connections = '40'"));
    // Whoever runs the tests is not the server's own user.
    fs::write(into.join("pg_hba.conf"), "local all all trust\n").unwrap();
    assert_eq!(scene.ask_restored(&into, "SELECT count(*) FROM oracle").unwrap(), "4");
    for name in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"] {
        fs::rename(scene.path(name), data.join(name)).unwrap();
    }
}

#[test]
fn a_password_comes_from_its_file_and_is_shown_nowhere() {
    let keys = "via = \"replication\"\npassword_file = \"password\"\n";
    let Some(scene) = scene(15, &[], keys) else { return };
    scene.cluster.psql("SET password_encryption = 'scram-sha-256'; ALTER ROLE lifeboat PASSWORD 'open sesame'");
    scene.cluster.set_hba("local all postgres trust\nlocal all,replication lifeboat scram-sha-256\n");
    fs::write(scene.path("password"), "open sesame\n").unwrap();
    let said = scene.expect(0, &["backup", "db"]);
    assert!(!said.contains("sesame"), "{said}");
    // Whatever else goes to the server takes it from there too.
    let live = scene.command(&["check", "--live", "db"]).output().unwrap();
    assert!(text(&live.stdout).contains("ok        connection"), "{live:?}");
    let follow =
        format!("timeout --foreground -s TERM 5 {} follow db", Scene::base_command(scene.folder.path()).join(" "));
    let followed = text(&scene.sh(&follow).stderr);
    assert!(followed.contains("following db") && followed.contains("stopped "), "{followed}");
    assert!(!followed.contains("sends no log") && !followed.contains("sesame"), "{followed}");
    fs::write(scene.path("password"), "shut sesame\n").unwrap();
    let said = scene.expect(1, &["backup", "db"]);
    assert!(said.contains("password") && !said.contains("sesame"), "{said}");
}

#[test]
fn a_role_that_may_not_replicate_is_told_so() {
    let Some(scene) = scene(15, &[], "via = \"replication\"\n") else { return };
    scene.cluster.psql("ALTER ROLE lifeboat NOREPLICATION");
    let told = scene.expect(1, &["backup", "db"]);
    assert!(told.contains("ALTER ROLE") && told.contains("REPLICATION"), "{told}");
    assert!(scene.expect(0, &["snapshots"]).lines().count() < 3, "no snapshot was made");
}
