//! Trees for the tests, and what is compared of them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// The same bytes for the same seed; noise, so that nothing deduplicates by accident.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new_derive_key("tests").update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Text that compresses: numbered lines.
pub fn lines(count: usize, seed: u64) -> Vec<u8> {
    (0..count).flat_map(|n| format!("{{\"_id\":{n},\"seed\":{seed},\"text\":\"some words\"}}\n").into_bytes()).collect()
}

/// Writes a small tree with a bit of everything that needs no rights.
pub fn make(root: &Path, seed: u64) {
    fs::create_dir_all(root.join("docs/deep/er")).unwrap();
    fs::create_dir_all(root.join("empty")).unwrap();
    fs::write(root.join("docs/a.jsonl"), lines(3000, 1)).unwrap();
    fs::write(root.join("docs/deep/b.bin"), noise(300_000, seed)).unwrap();
    fs::write(root.join("docs/deep/er/none"), b"").unwrap();
    for n in 0..20 {
        fs::write(root.join(format!("docs/deep/er/{n:02}.txt")), format!("file {n} of {}", n as u64 * seed)).unwrap();
    }
    let _ = fs::remove_file(root.join("link"));
    std::os::unix::fs::symlink("docs/a.jsonl", root.join("link")).unwrap();
}

/// Sets every time below `root` back, so that nothing was changed within a clock tick of its backup.
pub fn age(root: &Path) {
    let status = std::process::Command::new("find")
        .arg(root)
        .args(["-exec", "touch", "-h", "-d", "2020-02-02 02:02:02.123456789", "{}", "+"])
        .status();
    assert!(status.unwrap().success());
}

/// Everything that a restore must give back, by path.
pub fn describe(root: &Path) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    walk(root, root, &mut all);
    all
}

fn walk(root: &Path, path: &Path, all: &mut BTreeMap<String, String>) {
    let meta = fs::symlink_metadata(path).unwrap();
    let kind = meta.file_type();
    let content = if kind.is_file() {
        blake3::hash(&fs::read(path).unwrap()).to_hex().to_string()
    } else if kind.is_symlink() {
        format!("-> {:?}", fs::read_link(path).unwrap())
    } else if kind.is_char_device() || kind.is_block_device() {
        format!("device {}", meta.rdev())
    } else {
        String::new()
    };
    let name = String::from_utf8_lossy(path.strip_prefix(root).unwrap().as_os_str().as_bytes()).into_owned();
    let mode = if kind.is_symlink() { 0 } else { meta.mode() };
    let line = format!(
        "{:o} {}:{} {}.{:09} {} {content}",
        mode,
        meta.uid(),
        meta.gid(),
        meta.mtime(),
        meta.mtime_nsec(),
        if kind.is_file() { meta.len() } else { 0 },
    );
    all.insert(name, line);
    if kind.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            walk(root, &entry.unwrap().path(), all);
        }
    }
}
