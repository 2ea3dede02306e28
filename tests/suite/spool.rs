//! A store that is away and a spool: PostgreSQL goes on, the person is told what that means, and nothing is lost or dropped.

use std::fs;
use std::time::Duration;

use crate::common::scene::{ORACLE, Scene};

fn with_spool(max: &str) -> Option<Scene> {
    let scene = Scene::new(15, &[])?;
    let path = scene.path("lifeboat.toml");
    let text = fs::read_to_string(&path).unwrap();
    let spool = scene.path("spool").display().to_string();
    assert!(scene.sh("mkdir spool").status.success());
    fs::write(&path, format!("{text}spool = \"{spool}\"\nspool_max = \"{max}\"\n")).unwrap();
    scene.cluster.psql(ORACLE);
    scene.insert(10);
    scene.expect(0, &["backup", "db"]);
    scene.archive_all();
    Some(scene)
}

fn waiting(scene: &Scene) -> usize {
    let Ok(streams) = fs::read_dir(scene.path("spool/db")) else { return 0 };
    let in_each = |stream: fs::DirEntry| fs::read_dir(stream.path()).map_or(0, |files| files.flatten().count());
    streams.flatten().map(in_each).sum()
}

fn until(what: &str, is: impl Fn() -> bool) {
    for _ in 0..400 {
        if is() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("{what}");
}

#[test]
fn while_the_store_is_away_the_spool_takes_the_log_and_gives_it_back_in_order() {
    let Some(scene) = with_spool("1G") else { return };
    fs::rename(scene.path("repo"), scene.path("away")).unwrap();
    let mut points = Vec::new();
    for round in 1..=4 {
        scene.insert(round);
        points.push(scene.point());
        scene.insert(1);
        scene.archive_all();
    }
    assert_eq!(waiting(&scene), 4);
    assert!(scene.cluster.log().contains("is NOT in the repository"), "{}", scene.cluster.log_tail());
    fs::rename(scene.path("away"), scene.path("repo")).unwrap();
    let told = scene.expect(0, &["timeline", "db"]);
    assert!(told.contains("4 files of the log (64.0 MiB) wait in the spool"), "{told}");
    scene.insert(1);
    scene.archive_all();
    assert_eq!(waiting(&scene), 0);
    let told = scene.expect(0, &["timeline", "db"]);
    assert!(!told.contains("spool") && !told.contains("GAP"), "{told}");
    for (n, (at, rows)) in points.iter().enumerate() {
        assert_eq!(&scene.restored_rows(&format!("r{n}"), &["--to", at]), rows, "at {at}");
    }
}

#[test]
fn a_full_spool_takes_nothing_and_drops_nothing() {
    let Some(scene) = with_spool("40M") else { return };
    fs::rename(scene.path("repo"), scene.path("away")).unwrap();
    for _ in 0..3 {
        scene.insert(5);
        scene.cluster.psql("SELECT pg_switch_wal()");
    }
    until("the server is told that it must keep its log", || scene.cluster.log().contains("is full (41943040 bytes)"));
    assert_eq!(waiting(&scene), 2);
    fs::rename(scene.path("away"), scene.path("repo")).unwrap();
    // The next base backup sends what waits; PostgreSQL sends the rest.
    scene.expect(0, &["backup", "db"]);
    scene.archive_all();
    assert_eq!(waiting(&scene), 0);
    let all = scene.cluster.psql("SELECT count(*) FROM oracle");
    assert_eq!(scene.restored_rows("all", &[]), all);
}

#[test]
fn a_wrong_key_or_other_bytes_are_no_reason_to_spool() {
    let Some(scene) = with_spool("1G") else { return };
    let last = scene.cluster.psql("SELECT last_archived_wal FROM pg_stat_archiver");
    let folder = scene.path("other");
    scene.sh(&format!("mkdir -p {}/pg_wal {}/global", folder.display(), folder.display()));
    let data = scene.cluster.data_dir();
    for name in ["PG_VERSION", "global/pg_control"] {
        fs::copy(data.join(name), folder.join(name)).unwrap();
    }
    let name = last.split('.').next().unwrap();
    let mut bytes = fs::read(data.join("pg_wal").join(name)).unwrap();
    let end = bytes.len() - 1;
    bytes[end] ^= 1;
    fs::write(folder.join("pg_wal").join(name), bytes).unwrap();
    scene.sh("true");
    let said =
        scene.expect(13, &["wal", "push", "--source", "db", &folder.join("pg_wal").join(name).display().to_string()]);
    assert!(said.contains("with other bytes"), "{said}");
    assert_eq!(waiting(&scene), 0);
}
