//! Archives as sources, made and read by the real tar: stored as their members, deduplicated against the same tree as a
//! directory, refused where they are cut off.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use lifeboat::ops::backup::{BackupOptions, BackupReport, backup};
use lifeboat::ops::{self};
use lifeboat::plan::restore::Wanted;
use lifeboat::progress::{Progress, Silent};
use lifeboat::source::{CommandSource, FileSource, TarballSource};
use object_store::memory::InMemory;

use crate::common::{Host, Person, clock, tree, world};

struct Scene {
    folder: tempfile::TempDir,
    host: Host,
    person: Person,
}

fn scene() -> Scene {
    let (folder, person) = (tempfile::tempdir().unwrap(), Person::new());
    let host = Host::new(Arc::new(InMemory::new()));
    host.init(&person);
    let source = folder.path().join("source");
    tree::make(&source, 9);
    fs::write(source.join("large.bin"), tree::noise(3_000_000, 4)).unwrap();
    fs::create_dir(source.join("pg")).unwrap();
    tree::age(&source);
    Scene { folder, host, person }
}

impl Scene {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs the real tar in the source's directory, into `name`.
    fn tar(&self, name: &str, args: &[&str]) -> PathBuf {
        let file = self.path(name);
        let mut command = Command::new("tar");
        command.arg("-C").arg(self.path("source")).arg("-cf").arg(&file).args(args);
        assert!(command.status().unwrap().success(), "tar {args:?}");
        file
    }

    fn store(&self, source: TarballSource) -> Result<BackupReport, ops::Error> {
        let (mut repository, _) = self.host.open(None)?;
        let progress: Arc<dyn Progress> = Arc::new(Silent);
        backup(&source, "data", &mut repository, &BackupOptions::default(), &world(), &progress)
    }

    fn back_up(&self, archive: &Path) -> Result<BackupReport, ops::Error> {
        self.store(TarballSource::new(Box::new(FileSource::new(archive, clock()()).unwrap())))
    }

    fn restored(&self) -> PathBuf {
        let into = self.path("back");
        let _ = fs::remove_dir_all(&into);
        self.host.restore(&self.person, &Wanted::Latest, &into).unwrap();
        into
    }

    fn assert_same(&self) {
        assert_eq!(tree::describe(&self.restored()), tree::describe(&self.path("source")));
    }
}

#[test]
fn a_tree_as_tar_and_as_a_directory_is_stored_once() {
    let scene = scene();
    let first = scene.host.backup(&scene.path("source")).unwrap();
    assert!(first.counts.data_new > 3_000_000);
    // In its own order, with names of the old kind, as GNU tar makes it by default and as pax.
    for (name, args) in [("gnu.tar", ["--format=gnu", "."]), ("pax.tar", ["--format=posix", "."])] {
        let archive = scene.tar(name, &args);
        let report = scene.back_up(&archive).unwrap();
        assert_eq!((report.counts.data_new, report.counts.data_reused), (0, first.counts.data_new), "{name}");
        let files = report.files_new + report.files_changed;
        assert_eq!((files, report.files_reread, report.record.skipped), (0, first.record.files, 0), "{name}");
        assert_eq!((report.record.files, report.record.entries), (first.record.files, first.record.entries), "{name}");
    }
    scene.assert_same();
}

#[test]
fn gzip_and_zstd_are_opened() {
    let scene = scene();
    let plain = scene.tar("a.tar", &["--format=posix", "."]);
    for (name, program) in [("a.tar.gz", "gzip"), ("a.tar.zst", "zstd")] {
        let packed = fs::File::create(scene.path(name)).unwrap();
        let status = Command::new(program).arg("-c").arg(&plain).stdout(packed).status();
        assert!(status.unwrap().success());
        let report = scene.back_up(&scene.path(name)).unwrap();
        assert_eq!(report.record.bytes, scene.host.backup(&scene.path("source")).unwrap().record.bytes, "{name}");
        scene.assert_same();
    }
}

#[test]
fn links_holes_long_names_and_attributes_come_through() {
    let scene = scene();
    let source = scene.path("source");
    let long = source.join(format!("{}/{}", "d".repeat(120), "f".repeat(140)));
    fs::create_dir(long.parent().unwrap()).unwrap();
    fs::write(&long, "far").unwrap();
    fs::hard_link(source.join("large.bin"), source.join("another.bin")).unwrap();
    let sparse = fs::File::create(source.join("sparse.img")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, &tree::noise(100_000, 8), 4 << 20).unwrap();
    sparse.set_len(9 << 20).unwrap();
    drop(sparse);
    let attribute = Command::new("setfattr").args(["-n", "user.note", "-v", "kept"]).arg(&long).status();
    assert!(attribute.unwrap().success());
    tree::age(&source);
    for sparse in [["--sparse", "--sparse-version=1.0"], ["--sparse", "--sparse-version=0.1"], ["--sparse", "--xattrs"]]
    {
        // The content comes under the last of its names, and everything in reverse order of what a tree has.
        let args = [&["--format=posix", "--xattrs"], &sparse[..], &["large.bin", "another.bin", "sparse.img", "."]];
        scene.back_up(&scene.tar("s.tar", &args.concat())).unwrap();
        scene.assert_same();
        let back = scene.restored();
        use std::os::unix::fs::MetadataExt;
        let inode = |name: &str| fs::metadata(back.join(name)).unwrap().ino();
        assert_eq!(inode("large.bin"), inode("another.bin"));
        assert!(fs::metadata(back.join("sparse.img")).unwrap().blocks() * 512 < 1 << 20, "holes are kept");
        let long = back.join(long.strip_prefix(&source).unwrap());
        let value = Command::new("getfattr").args(["--only-values", "-n", "user.note"]).arg(long).output().unwrap();
        assert_eq!(value.stdout, b"kept");
    }
    let old = scene.tar("old.tar", &["--format=gnu", "--sparse", "."]);
    scene.back_up(&old).unwrap();
    assert_eq!(fs::read(scene.restored().join("sparse.img")).unwrap(), fs::read(source.join("sparse.img")).unwrap());
}

#[test]
fn an_archive_that_is_cut_off_makes_no_snapshot() {
    let scene = scene();
    let whole = fs::read(scene.tar("whole.tar", &["--format=posix", "."])).unwrap();
    // The end marker is two blocks of zeros, padded to a record of 10 KiB: everything before it is cut somewhere.
    let content = whole.iter().rposition(|b| *b != 0).unwrap().next_multiple_of(512);
    for length in [0, 1, 511, 512, 1000, 4096, whole.len() / 2, whole.len() / 2 / 512 * 512, content] {
        let cut = scene.path("cut.tar");
        fs::write(&cut, &whole[..length]).unwrap();
        let error = scene.back_up(&cut).unwrap_err().to_string();
        assert!(error.contains("cut.tar") && error.contains("no whole tar archive"), "{length}: {error}");
    }
    assert!(scene.host.snapshots().is_empty());
    fs::write(scene.path("not.tar"), tree::noise(5000, 1)).unwrap();
    assert!(scene.back_up(&scene.path("not.tar")).is_err());
    scene.back_up(&scene.path("whole.tar")).unwrap();
    scene.assert_same();
}

#[test]
fn a_command_that_fails_behind_its_archive_makes_no_snapshot() {
    let scene = scene();
    let run = |script: String| {
        let command = ["sh", "-c", &script].map(str::to_owned).to_vec();
        let path = lifeboat::model::RelPath::root();
        scene.store(TarballSource::new(Box::new(CommandSource::new(path, clock()(), command))))
    };
    let source = scene.path("source").display().to_string();
    assert!(run(format!("tar -C '{source}' --format=posix -c . ; exit 2")).unwrap_err().to_string().contains("failed"));
    assert!(scene.host.snapshots().is_empty());
    run(format!("tar -C '{source}' --format=posix -c . | gzip")).unwrap();
    scene.assert_same();
}

#[test]
fn names_that_leave_the_tree_are_left_out_by_name() {
    let scene = scene();
    let outside = scene.path("outside");
    fs::write(&outside, "x").unwrap();
    let archive = scene.tar("bad.tar", &["-P", "../outside", "docs/a.jsonl"]);
    let report = scene.back_up(&archive).unwrap();
    assert_eq!((report.record.skipped, report.record.files, report.record.complete), (1, 1, false));
    assert!(report.skipped[0].1.contains("../outside"), "{:?}", report.skipped);
    let back = scene.path("back");
    let id = scene.host.snapshots().pop().unwrap();
    scene.host.restore(&scene.person, &Wanted::Named(id), &back).unwrap();
    assert_eq!(fs::read(back.join("docs/a.jsonl")).unwrap(), fs::read(scene.path("source/docs/a.jsonl")).unwrap());
}

#[test]
fn the_command_line_takes_tar_from_a_pipe_and_gives_it_back() {
    let scene = scene();
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
        command.env_clear().env("HOME", scene.folder.path()).env("PATH", std::env::var_os("PATH").unwrap());
        command.current_dir(scene.folder.path()).args(["--repo", "repo", "--quiet"]).args(args);
        command
    };
    assert!(run(&["init", "--generate-identity", "id"]).output().unwrap().status.success());
    let tar = |args: &[&str]| {
        let mut command = Command::new("tar");
        command.current_dir(scene.folder.path()).args(args);
        command
    };
    let mut producer = tar(&["-C", "source", "--format=posix", "-c", "."]).stdout(Stdio::piped()).spawn().unwrap();
    let stored = run(&["backup", "--tar", "-", "--name", "vol"]).stdin(producer.stdout.take().unwrap()).output();
    assert!(stored.unwrap().status.success() && producer.wait().unwrap().success());
    let of_command =
        run(&["backup", "--name", "two", "--tar", "-", "--", "tar", "-C", "source", "--format=posix", "-c", "."])
            .output();
    assert!(of_command.unwrap().status.success());
    for source in ["vol", "two"] {
        let into = scene.path(&format!("back-{source}"));
        fs::create_dir(&into).unwrap();
        let mut producer =
            run(&["--identity", "id", "restore", source, "--tar", "-"]).stdout(Stdio::piped()).spawn().unwrap();
        let unpacked = tar(&["-C", into.to_str().unwrap(), "-xp"]).stdin(producer.stdout.take().unwrap()).status();
        assert!(unpacked.unwrap().success() && producer.wait().unwrap().success());
        assert_eq!(tree::describe(&into), tree::describe(&scene.path("source")));
    }
}
