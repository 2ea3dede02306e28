//! Trouble with real servers: what a restore_command's exit codes do, programs killed at any moment, two servers that push to one place.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use lifeboat::model::base::BaseBackup;
use lifeboat::model::{Lsn, Moment, SegmentSize, Timeline};
use lifeboat::ops::recover::{End, Expected, Isolation, Launch, Proof, prove};
use lifeboat::progress::Silent;

use crate::common::chance::{Chance, each_seed};
use crate::common::postgres::Cluster;
use crate::common::scene::{ORACLE, Scene, own};
use crate::common::started::Started;

/// A restored directory whose restore_command does something of ours for one segment.
struct Wrapped<'s> {
    scene: &'s Scene,
    server: Started<'s>,
    base: BaseBackup,
}

impl<'s> Wrapped<'s> {
    fn new(scene: &'s Scene, name: &str, args: &[&str], segment: &str, action: &str) -> Self {
        let server = Started::new(scene, name);
        let into = server.directory.display().to_string();
        scene.expect(0, &[&["restore", "db", "--into", &into, "--archive-mode-off"], args].concat());
        let path = server.directory.join("postgresql.auto.conf");
        let text = fs::read_to_string(&path).unwrap();
        let line = text.lines().find(|line| line.starts_with("restore_command")).unwrap();
        let command = line.split_once("= '").unwrap().1.trim_end_matches('\'').replace("''", "'");
        let command = command.replace("%f", "\"$1\"").replace("\"%p\"", "\"$2\"");
        let script = scene.path(&format!("{name}.sh"));
        fs::write(&script, format!("#!/bin/sh\nif [ \"$1\" = {segment} ]; then {action}; fi\nexec {command}\n"))
            .unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let ours = format!("restore_command = '{} %f \"%p\"'", script.display());
        fs::write(&path, text.replace(line, &ours)).unwrap();
        let base = BaseBackup {
            system_id: scene.cluster.psql("SELECT system_identifier FROM pg_control_system()").parse().unwrap(),
            server_version: scene.cluster.major() * 10_000,
            timeline: Timeline(1),
            start: Lsn(0),
            stop: Lsn(0),
            stopped: Moment::UNIX_EPOCH,
            segment_size: SegmentSize::DEFAULT,
            stream: String::new(),
            checksums: false,
            tablespaces: Vec::new(),
            tablespaces_made: Vec::new(),
            bad_pages: Default::default(),
            settings: BTreeMap::new(),
            environment: BTreeMap::new(),
        };
        Self { scene, server, base }
    }

    /// Starts it and waits for its end, promoted, at `least` or further.
    fn prove(&self, least: &str) -> Result<Proof, String> {
        let launch = Launch {
            directory: &self.server.directory,
            base: &self.base,
            bin_dir: Some(self.scene.cluster.bin_dir().to_owned()),
            isolation: Some(Isolation::default()),
        };
        let expected = Expected { end: End::Promoted, least: least.parse().unwrap(), timeline: Timeline(1) };
        let mut server = launch.start().unwrap();
        prove(&mut server, expected, &Silent).map_err(|e| {
            let cause = std::error::Error::source(&e).map(ToString::to_string).unwrap_or_default();
            format!("{e}: {cause}")
        })
    }

    fn rows(&self) -> String {
        self.server.psql("SELECT count(*) FROM oracle")
    }
}

/// A cluster with three archived segments behind its base backup: the middle one, its rows before it and behind it, a time in the last
/// one, and the end of the log.
struct Three {
    scene: Scene,
    middle: String,
    before: String,
    last: String,
    late: String,
    end: String,
}

fn three(major: u32) -> Option<Three> {
    let scene = Scene::new(major, &[])?;
    scene.cluster.psql(ORACLE);
    scene.insert(10);
    scene.expect(0, &["backup", "db"]);
    scene.insert(10);
    scene.archive_all();
    let before = scene.cluster.psql("SELECT count(*) FROM oracle");
    scene.insert(100);
    let name = || scene.cluster.psql("SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
    let middle = name();
    scene.archive_all();
    scene.insert(1000);
    let late = scene.now();
    scene.insert(1);
    let end = scene.cluster.psql("SELECT pg_current_wal_insert_lsn()");
    let last = name();
    scene.archive_all();
    Some(Three { scene, middle, before, last, late, end })
}

fn what_exit_codes_do(major: u32) {
    let Some(three) = three(major) else { return };
    let (scene, middle) = (&three.scene, three.middle.as_str());
    let other = scene.path("other").display().to_string();
    scene.expect(0, &["wal", "get", "--source", "db", "--stream", &stream(scene), &three.last, &other]);
    // Of the reference: what PostgreSQL takes for the end of the log loses what is behind it; our proof notices.
    let wrong = format!("cp {other} \"$2\"; exit 0");
    for (n, action) in ["exit 1", "exit 125", &wrong].into_iter().enumerate() {
        let cut = Wrapped::new(scene, &format!("cut{n}"), &[], middle, action);
        let said = cut.prove(&three.end).unwrap_err();
        assert!(said.contains("the server ended its recovery at") && !cut.server.is_running(), "{action}: {said}");
        let silent = Wrapped::new(scene, &format!("silent{n}"), &[], middle, action);
        silent.prove("0/1").unwrap();
        assert_eq!(silent.rows(), three.before, "{action}: without a proof it looks like success");
        let aimed = Wrapped::new(scene, &format!("aimed{n}"), &["--to", &three.late], middle, action);
        let said = aimed.prove("0/1").unwrap_err();
        assert!(said.contains("recovery ended before configured recovery target was reached"), "{action}: {said}");
    }
    for (n, action) in ["exit 126", "exit 255", "head -c 1000 /dev/zero > \"$2\"; exit 0"].into_iter().enumerate() {
        let stopped = Wrapped::new(scene, &format!("stopped{n}"), &[], middle, action);
        let said = stopped.prove("0/1").unwrap_err();
        assert!(
            said.contains("the server ended before the end of its recovery") && said.contains("FATAL"),
            "{action}: {said}"
        );
    }
    let whole = Wrapped::new(scene, "whole", &[], "none", "true");
    assert!(whole.prove(&three.end).unwrap().reached >= three.end.parse().unwrap());
    assert_eq!(whole.rows(), scene.cluster.psql("SELECT count(*) FROM oracle"));
}

fn stream(scene: &Scene) -> String {
    format!("db-{}-{}", scene.cluster.psql("SELECT system_identifier FROM pg_control_system()"), scene.cluster.major())
}

#[test]
fn what_a_restore_command_answers_decides_what_is_lost_15() {
    what_exit_codes_do(15);
}

#[test]
fn what_a_restore_command_answers_decides_what_is_lost_18() {
    what_exit_codes_do(18);
}

/// What is wrong in the store stops the server: it is never taken for the end of the log.
fn what_is_wrong_in_the_store_stops_the_server(major: u32) {
    let Some(three) = three(major) else { return };
    let scene = &three.scene;
    let object = scene.objects(&three.middle).pop().unwrap();
    let (bytes, other) = (fs::read(&object).unwrap(), fs::read(scene.objects(&three.last).pop().unwrap()).unwrap());
    let mut flipped = bytes.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    let cases = [
        ("flipped", Some(flipped)),
        ("short", Some(bytes[..bytes.len() / 2].to_vec())),
        ("empty", Some(Vec::new())),
        ("other", Some(other)),
        ("gone", None),
    ];
    for (name, content) in cases {
        // After the plan was made: as if it happened while the server was replaying.
        let wrapped = Wrapped::new(scene, name, &[], "none", "true");
        match content {
            Some(content) => fs::write(&object, content).unwrap(),
            None => fs::remove_file(&object).unwrap(),
        }
        let said = wrapped.prove("0/1").unwrap_err();
        assert!(said.contains("exit code 255") && said.contains("FATAL"), "{name}: {said}");
        assert!(!wrapped.server.is_running() && said.contains(&three.middle), "{name}: {said}");
        fs::write(&object, &bytes).unwrap();
    }
    let mended = Wrapped::new(scene, "mended", &[], "none", "true");
    mended.prove(&three.end).unwrap();
    assert_eq!(mended.rows(), scene.cluster.psql("SELECT count(*) FROM oracle"));
}

#[test]
fn what_is_wrong_in_the_store_stops_a_server_of_15() {
    what_is_wrong_in_the_store_stops_the_server(15);
}

#[test]
fn what_is_wrong_in_the_store_stops_a_server_of_18() {
    what_is_wrong_in_the_store_stops_the_server(18);
}

/// Runs lifeboat and kills it after a while; whether it had ended before.
fn killed(scene: &Scene, args: &[&str], after: Duration) -> bool {
    let mut child = scene.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(after);
    let ended = child.try_wait().unwrap().is_some();
    let _ = child.kill();
    child.wait().unwrap();
    ended
}

fn killed_at_any_moment(seed: u64) {
    let Some(scene) = Scene::new(15, &[("wal_keep_size", "1GB")]) else { return };
    let mut chance = Chance::new(seed);
    scene.cluster.psql(ORACLE);
    scene.insert(2000);
    scene.expect(0, &["backup", "db"]);
    let mut points = Vec::new();
    let mut moment = |most: u64| Duration::from_millis(chance.below(most));
    for round in 0..4 {
        scene.insert(200);
        points.push(scene.point());
        killed(&scene, &["backup", "db"], moment(900));
        scene.insert(1);
        // A push of ours beside the server's own, killed; the server's comes to its end.
        let name = scene.cluster.psql("SELECT pg_walfile_name(pg_switch_wal())");
        let path = scene.cluster.data_dir().join("pg_wal").join(&name).display().to_string();
        killed(&scene, &["wal", "push", "--source", "db", &path], moment(120));
        scene.insert(1);
        scene.archive_all();
        assert_eq!(scene.objects(&name).len(), 1, "{name}");
        let got = scene.path("got");
        killed(&scene, &["wal", "get", "--stream", &stream(&scene), &name, "got"], moment(80));
        assert!(!got.exists() || fs::metadata(&got).unwrap().len() == 16 << 20, "half a segment never has its name");
        if round == 1 {
            scene.expect(0, &["backup", "db"]);
        }
    }
    scene.expect(0, &["backup", "db"]);
    scene.archive_all();
    for (n, (time, rows)) in points.iter().enumerate() {
        let server = Started::new(&scene, &format!("r{n}"));
        let into = server.directory.display().to_string();
        killed(&scene, &["restore", "db", "--to", time, "--into", &into], moment(700));
        // The same command goes on, or is refused because all was done.
        let again = scene.command(&["restore", "db", "--to", time, "--into", &into]).output().unwrap();
        assert!(matches!(again.status.code(), Some(0 | 2)), "{again:?}");
        assert_eq!(&server.rows(&["--to", time, "--delta"]), rows, "round {n}");
        server.stop("fast");
        // Onto what a server has written to: while that is under way, no server starts there.
        let ended = killed(&scene, &["restore", "db", "--to", time, "--into", &into, "--delta"], moment(500));
        let begun = fs::read_dir(&server.directory).unwrap().flatten();
        let begun =
            begun.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with(".lifeboat-restore-"));
        if begun && !ended {
            refuses_to_start(&scene, &server.directory);
        }
        assert_eq!(&server.rows(&["--to", time, "--delta"]), rows, "round {n}, again");
        server.stop("fast");
    }
    scene.expect(0, &["check", "--read-data"]);
}

fn refuses_to_start(scene: &Scene, directory: &Path) {
    if directory.join("backup_label").exists() {
        // Laid down already, with all that comes before it; the server would recover from it.
        return;
    }
    let half = Cluster::adopt(scene.cluster.major(), directory).unwrap();
    assert!(half.try_begin().is_err(), "a server started on half a restore");
}

#[test]
fn killed_at_any_moment_everything_restores() {
    each_seed(2, killed_at_any_moment);
}

fn copy_tree(from: &Path, to: &PathBuf) {
    let status = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}

#[test]
fn of_two_servers_that_push_to_one_place_the_second_is_refused() {
    let Some(scene) = Scene::new(15, &[]) else { return };
    scene.cluster.psql(ORACLE);
    scene.insert(10);
    scene.expect(0, &["backup", "db"]);
    scene.archive_all();
    scene.cluster.stop();
    let copy = scene.path("copy");
    copy_tree(&scene.cluster.data_dir(), &copy);
    own(&copy);
    scene.cluster.begin();
    scene.insert(5);
    let pushed = scene.cluster.psql("SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
    scene.archive_all();
    let rows = scene.cluster.psql("SELECT count(*) FROM oracle");
    // The clone goes on from the same place, with other rows.
    let clone = Cluster::adopt(15, &copy).unwrap();
    clone.try_begin().unwrap();
    clone.psql("INSERT INTO oracle (pad) SELECT 'of the clone' FROM generate_series(1, 77)");
    clone.psql("SELECT pg_switch_wal()");
    for _ in 0..600 {
        if clone.psql("SELECT last_failed_wal IS NOT NULL FROM pg_stat_archiver") == "t" {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(clone.psql("SELECT last_failed_wal FROM pg_stat_archiver"), pushed, "{}", clone.log_tail());
    assert!(clone.log().contains("with other bytes: two servers push to one place"), "{}", clone.log_tail());
    assert_eq!(scene.objects(&pushed).len(), 1, "the first's segment is alone");
    scene.insert(5);
    scene.archive_all();
    let server = Started::new(&scene, "back");
    let latest = (rows.parse::<u32>().unwrap() + 5).to_string();
    assert_eq!(server.rows(&[]), latest, "the first goes on unharmed");
}

#[test]
fn a_segment_that_is_still_being_written_is_not_pushed() {
    let Some(scene) = Scene::new(15, &[]) else { return };
    scene.cluster.psql(ORACLE);
    scene.insert(10);
    let name = scene.cluster.psql("SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
    let path = scene.cluster.data_dir().join("pg_wal").join(&name).display().to_string();
    let said = scene.expect(1, &["wal", "push", "--source", "db", &path]);
    assert!(said.contains("is still being written") && said.contains("pg_switch_wal"), "{said}");
    assert!(scene.objects(&name).is_empty());
    scene.archive_all();
    assert_eq!(scene.objects(&name).len(), 1);
    scene.expect(0, &["wal", "push", "--source", "db", &path]);
}
