//! The log in many calls: segments that are sent along and fetched ahead, and that neither changes what an exit code means.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::scene::Scene;

/// A scene whose archive has some segments one behind the other, and their names.
fn with_segments(count: usize) -> Option<(Scene, Vec<String>)> {
    let scene = Scene::new(15, &[])?;
    scene.cluster.psql("CREATE TABLE t (n int)");
    let mut names = Vec::new();
    for n in 0..count {
        scene.cluster.psql(&format!("INSERT INTO t VALUES ({n})"));
        names.push(scene.cluster.psql("SELECT pg_walfile_name(pg_switch_wal())"));
    }
    scene.archive_all();
    Some((scene, names))
}

/// A directory like a recovering server's, and the exit code of `wal get` there.
struct Recovering<'a> {
    scene: &'a Scene,
    data: PathBuf,
    stream: String,
}

impl<'a> Recovering<'a> {
    fn new(scene: &'a Scene, name: &str) -> Self {
        let data = scene.path(name);
        let made = scene.sh(&format!("mkdir -p {}/pg_wal", data.display()));
        assert!(made.status.success());
        let id = scene.cluster.psql("SELECT system_identifier FROM pg_control_system()");
        Self { scene, data, stream: format!("db-{id}-15") }
    }

    fn target(&self) -> PathBuf {
        self.data.join("pg_wal/RECOVERYXLOG")
    }

    fn get(&self, name: &str, more: &[&str]) -> Option<i32> {
        let target = self.target().display().to_string();
        let words = [&["wal", "get", "--stream", &self.stream], more, &[name, &target]].concat();
        self.scene.command(&words).status().unwrap().code()
    }

    fn shelf(&self) -> Option<PathBuf> {
        let listing = fs::read_dir(self.data.join("pg_wal")).unwrap().flatten();
        let mut found = listing.filter(|entry| entry.file_name().to_string_lossy().starts_with(".lifeboat-ahead-"));
        found.next().map(|entry| entry.path())
    }

    /// Waits until the process that fetches ahead has a segment ready.
    fn wait_for(&self, name: &str) -> bool {
        (0..400).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(25));
            self.shelf().is_some_and(|shelf| shelf.join(name).is_file())
        })
    }

    fn end_ahead(&self) {
        if let Some(shelf) = self.shelf() {
            fs::remove_dir_all(shelf).unwrap();
        }
    }
}

fn plain_segment(scene: &Scene, recovering: &Recovering<'_>, name: &str) -> Vec<u8> {
    let other = Recovering::new(scene, "plain");
    assert_eq!(other.get(name, &["--ahead", "false"]), Some(0));
    assert!(other.shelf().is_none(), "nothing is fetched ahead unless it is wished for");
    let bytes = fs::read(other.target()).unwrap();
    assert_ne!(recovering.data, other.data);
    bytes
}

#[test]
fn segments_are_fetched_ahead_and_are_the_same() {
    let Some((scene, names)) = with_segments(14) else { return };
    let recovering = Recovering::new(&scene, "r");
    assert_eq!(recovering.get(&names[0], &[]), Some(0));
    assert!(recovering.wait_for(&names[3]), "the process has fetched what follows");
    // Even where the store is away now, what is ready is served.
    fs::rename(scene.path("repo"), scene.path("away")).unwrap();
    assert_eq!(recovering.get(&names[1], &[]), Some(0));
    assert_eq!(recovering.get(&names[2], &[]), Some(0));
    fs::rename(scene.path("away"), scene.path("repo")).unwrap();
    for name in &names[3..] {
        assert_eq!(recovering.get(name, &[]), Some(0), "{name}");
        assert_eq!(fs::read(recovering.target()).unwrap(), plain_segment(&scene, &recovering, name), "{name}");
    }
    let next = format!("{:024X}", u128::from_str_radix(&names[13], 16).unwrap() + 5);
    assert_eq!(recovering.get(&next, &[]), Some(1), "the end of the log");
    recovering.end_ahead();
}

#[test]
fn a_gap_stays_a_gap_and_damage_stays_damage_when_segments_are_fetched_ahead() {
    let Some((scene, names)) = with_segments(6) else { return };
    let objects = scene.objects(&names[2]);
    assert_eq!(objects.len(), 1);
    let kept = fs::read(&objects[0]).unwrap();
    fs::remove_file(&objects[0]).unwrap();
    let recovering = Recovering::new(&scene, "r");
    assert_eq!(recovering.get(&names[0], &[]), Some(0));
    assert!(recovering.wait_for(&names[1]));
    assert_eq!(recovering.get(&names[1], &[]), Some(0));
    fs::remove_file(recovering.target()).unwrap();
    assert_eq!(recovering.get(&names[2], &[]), Some(255), "a gap");
    assert!(!recovering.target().exists());
    let mut hurt = kept.clone();
    let middle = hurt.len() / 2;
    hurt[middle] ^= 1;
    write(&objects[0], &hurt);
    assert_eq!(recovering.get(&names[2], &[]), Some(255), "a damaged segment");
    write(&objects[0], &kept);
    assert_eq!(recovering.get(&names[2], &[]), Some(0), "it came back");
    recovering.end_ahead();
}

fn write(path: &Path, bytes: &[u8]) {
    let _ = fs::remove_file(path);
    fs::write(path, bytes).unwrap();
    crate::common::scene::own(path);
}

#[test]
fn what_was_sent_along_is_answered_without_the_store_and_only_while_it_is_the_same_file() {
    let Some(scene) = Scene::new(15, &[("archive_command", "false")]) else { return };
    scene.cluster.psql("CREATE TABLE t (n int)");
    for n in 0..3 {
        scene.cluster.psql(&format!("INSERT INTO t VALUES ({n})"));
        scene.cluster.psql("SELECT pg_switch_wal()");
    }
    let wal = scene.cluster.data_dir().join("pg_wal");
    let mut names: Vec<String> = fs::read_dir(wal.join("archive_status"))
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".ready").map(str::to_owned))
        .collect();
    names.sort();
    assert!(names.len() >= 3, "{names:?}");
    let push = |name: &str| scene.expect(0, &["wal", "push", "--source", "db", &wal.join(name).display().to_string()]);
    let said = push(&names[0]);
    assert!(said.contains(&format!("is stored; {} more sent along", names.len() - 1)), "{said}");
    fs::rename(scene.path("repo"), scene.path("away")).unwrap();
    assert!(push(&names[1]).contains("was sent along before"));
    // Another file of that name is looked at: the store is needed for that.
    let (path, bytes) = (wal.join(&names[2]), fs::read(wal.join(&names[2])).unwrap());
    write(&path, &bytes);
    let path = path.display().to_string();
    let refused = scene.command(&["wal", "push", "--source", "db", &path]).output().unwrap();
    assert!(matches!(refused.status.code(), Some(1..=125)), "{refused:?}");
    fs::rename(scene.path("away"), scene.path("repo")).unwrap();
    assert!(push(&names[2]).contains("was there already"));
}
