//! Every kind of entry and every piece of metadata, there and back.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use lifeboat::plan::restore::Wanted;
use object_store::memory::InMemory;

use crate::common::{Host, Person, tree};

fn run(program: &str, args: &[&str], dir: &Path) -> String {
    let output = Command::new(program).args(args).current_dir(dir).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {args:?}: {err}");
    out.into_owned()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn there_and_back(source: &Path) -> tempfile::TempDir {
    let (host, person) = (Host::new(Arc::new(InMemory::new())), Person::new());
    host.init(&person);
    let report = host.backup(source).unwrap();
    assert_eq!(report.skipped, [], "nothing is skipped");
    let back = tempfile::tempdir().unwrap();
    host.restore(&person, &Wanted::Latest, back.path()).unwrap();
    assert_eq!(tree::describe(back.path()), tree::describe(source));
    back
}

#[test]
fn files_directories_links_and_times_come_back() {
    let source = tempfile::tempdir().unwrap();
    tree::make(source.path(), 3);
    let odd = source.path().join(std::ffi::OsStr::from_bytes(b"not\xffutf8"));
    fs::write(&odd, "odd").unwrap();
    fs::write(source.path().join("new\nline"), "odd").unwrap();
    fs::write(source.path().join("-rf"), "odd").unwrap();
    std::os::unix::fs::symlink("no/such/place", source.path().join("dangling")).unwrap();
    run("chmod", &["0640", "docs/a.jsonl"], source.path());
    run("chmod", &["4755", "docs/deep/b.bin"], source.path());
    run("chmod", &["1777", "empty"], source.path());
    tree::age(source.path());
    run("touch", &["-d", "1960-03-04 05:06:07.5", "docs/a.jsonl"], source.path());
    there_and_back(source.path());
}

#[test]
fn hard_links_are_one_file_with_several_names() {
    let source = tempfile::tempdir().unwrap();
    fs::write(source.path().join("a"), "shared").unwrap();
    fs::create_dir(source.path().join("d")).unwrap();
    fs::hard_link(source.path().join("a"), source.path().join("d/b")).unwrap();
    let back = there_and_back(source.path());
    use std::os::unix::fs::MetadataExt;
    let inode = |name: &str| fs::metadata(back.path().join(name)).unwrap().ino();
    assert_eq!(inode("a"), inode("d/b"));
}

#[test]
fn sparse_files_stay_sparse() {
    let source = tempfile::tempdir().unwrap();
    run("truncate", &["-s", "64M", "holes"], source.path());
    run("dd", &["if=/dev/urandom", "of=holes", "bs=64K", "count=1", "seek=300", "conv=notrunc"], source.path());
    run("truncate", &["-s", "10M", "nothing"], source.path());
    tree::age(source.path());
    let back = there_and_back(source.path());
    use std::os::unix::fs::MetadataExt;
    for name in ["holes", "nothing"] {
        let blocks = |dir: &Path| fs::metadata(dir.join(name)).unwrap().blocks();
        let (ours, theirs) = (blocks(source.path()), blocks(back.path()));
        assert!(theirs <= ours + 256, "{name}: {theirs} blocks restored of {ours}");
    }
}

#[test]
fn a_file_in_very_many_pieces_comes_back() {
    use std::os::unix::fs::FileExt;
    let source = tempfile::tempdir().unwrap();
    let file = fs::File::create(source.path().join("pieces")).unwrap();
    let pieces = lifeboat::model::limits::EXTENTS_PER_LINE as u64 * 6 / 10;
    for piece in 0..pieces {
        file.write_all_at(&[b'x'; 4096], 8192 * piece + 4096).unwrap();
    }
    drop(file);
    tree::age(source.path());
    let back = there_and_back(source.path());
    assert_eq!(fs::read(back.path().join("pieces")).unwrap(), fs::read(source.path().join("pieces")).unwrap());
}

#[test]
fn extended_attributes_and_acls_come_back() {
    let source = tempfile::tempdir().unwrap();
    fs::create_dir(source.path().join("d")).unwrap();
    fs::write(source.path().join("d/f"), "x").unwrap();
    run("setfattr", &["-n", "user.color", "-v", "blue", "d/f"], source.path());
    run("setfattr", &["-n", "user.binary", "-v", "0x00ff10", "d"], source.path());
    run("setfacl", &["-m", "u:12345:rw", "d/f"], source.path());
    run("setfacl", &["-d", "-m", "g:4242:r", "d"], source.path());
    let back = there_and_back(source.path());
    let attributes = |dir: &Path| run("getfattr", &["-R", "-d", "-e", "hex", "-m", "-", "."], dir);
    let acls = |dir: &Path| run("getfacl", &["-R", "-n", "."], dir);
    assert_eq!(attributes(back.path()), attributes(source.path()));
    assert_eq!(acls(back.path()), acls(source.path()));
    assert!(acls(back.path()).contains("user:12345:rw"));
}

#[test]
fn pipes_devices_and_owners_come_back() {
    let source = tempfile::tempdir().unwrap();
    run("mkfifo", &["pipe"], source.path());
    if is_root() {
        run("mknod", &["null", "c", "1", "3"], source.path());
        run("mknod", &["loop", "b", "7", "9"], source.path());
        fs::write(source.path().join("owned"), "x").unwrap();
        run("chown", &["1234:2345", "owned"], source.path());
        run("chmod", &["6750", "owned"], source.path());
        std::os::unix::fs::symlink("owned", source.path().join("link")).unwrap();
        run("chown", &["-h", "3:4", "link"], source.path());
    } else {
        eprintln!("devices and owners need root: only the pipe was tested");
    }
    there_and_back(source.path());
}

#[test]
fn a_tar_holds_what_tar_would_have_put_into_it() {
    let source = tempfile::tempdir().unwrap();
    tree::make(source.path(), 4);
    let long = format!("{}/{}", "d".repeat(90), "n".repeat(120));
    fs::create_dir(source.path().join("d".repeat(90))).unwrap();
    fs::write(source.path().join(&long), "long name").unwrap();
    fs::hard_link(source.path().join("docs/a.jsonl"), source.path().join("second-name")).unwrap();
    run("setfattr", &["-n", "user.color", "-v", "blue", "docs/a.jsonl"], source.path());
    tree::age(source.path());
    let (host, person) = (Host::new(Arc::new(InMemory::new())), Person::new());
    host.init(&person);
    host.backup(source.path()).unwrap();
    let (repository, _) = host.open(Some(&person)).unwrap();
    use lifeboat::ops::restore::{find_snapshot, prepare, restore_tar};
    let silent = lifeboat::progress::Silent;
    let (snapshot, choice) = find_snapshot(&repository, "data", &Wanted::Latest, false).unwrap();
    let prepared = prepare(&repository, snapshot, &choice, None, crate::common::plain(), &silent).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("out.tar");
    restore_tar(&repository, &prepared, fs::File::create(&file).unwrap(), &file, &silent).unwrap();
    let back = folder.path().join("back");
    fs::create_dir(&back).unwrap();
    run("tar", &["--xattrs", "--xattrs-include=*", "-xpf", file.to_str().unwrap()], &back);
    assert_eq!(tree::describe(&back), tree::describe(source.path()));
    assert!(run("getfattr", &["-n", "user.color", "docs/a.jsonl"], &back).contains("blue"));
}

#[test]
fn one_directory_comes_back_with_files_whose_first_names_lie_elsewhere() {
    let source = tempfile::tempdir().unwrap();
    for directory in ["import", "photos"] {
        fs::create_dir(source.path().join(directory)).unwrap();
    }
    fs::write(source.path().join("import/a"), "one file").unwrap();
    fs::hard_link(source.path().join("import/a"), source.path().join("photos/b")).unwrap();
    fs::hard_link(source.path().join("import/a"), source.path().join("photos/c")).unwrap();
    crate::common::tree::age(source.path());
    let (person, host) = (Person::new(), Host::new(Arc::new(InMemory::new())));
    host.init(&person);
    host.backup(source.path()).unwrap();
    let back = tempfile::tempdir().unwrap();
    let selection = lifeboat::ops::Selection::below(lifeboat::model::RelPath::new("photos").unwrap());
    let options = lifeboat::ops::restore::RestoreOptions { selection, ..crate::common::plain() };
    host.restore_with(&person, &Wanted::Latest, back.path(), options).unwrap();
    assert_eq!(fs::read_to_string(back.path().join("b")).unwrap(), "one file");
    let inode = |name: &str| std::os::unix::fs::MetadataExt::ino(&fs::metadata(back.path().join(name)).unwrap());
    assert_eq!(inode("b"), inode("c"));
}
