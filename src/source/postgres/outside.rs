//! Configuration that lies outside of the data directory, as on Debian: stored as [`base::OUTSIDE`](crate::model::base::OUTSIDE)
//! and its whole path, so that a restored directory can start without it.
//!
//! Invariants: only files that the server itself names are read, small ones, and few. Not here: keys and certificates, which
//! belong to a host.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::format::pg_conf::{DEPTH_MAX, Include, include, setting};
use crate::model::base::OUTSIDE;

/// Bytes of one file at most.
const FILE_MAX: u64 = 1 << 20;
/// Files at most.
const FILES_MAX: usize = 200;

/// Files by their path in the snapshot, with their bytes.
pub(super) fn gather(data: &Path, settings: &BTreeMap<String, String>) -> BTreeMap<String, Vec<u8>> {
    let Ok(inside) = fs::canonicalize(data) else { return BTreeMap::new() };
    let mut gathering = Gathering { inside, found: BTreeMap::new(), seen: 0 };
    for name in ["config_file", "hba_file", "ident_file"] {
        if let Some(path) = settings.get(name).filter(|path| path.starts_with('/')) {
            gathering.add(Path::new(path), name == "config_file", 0);
        }
    }
    gathering.found
}

/// The files of a directory that PostgreSQL's `include_dir` takes, in its order.
pub fn conf_files_of(directory: &Path) -> Vec<PathBuf> {
    let names = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_taken = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.ends_with(".conf") && !name.starts_with('.')
    };
    let mut all: Vec<PathBuf> = names.filter(is_taken).collect();
    all.sort();
    all
}

struct Gathering {
    inside: PathBuf,
    found: BTreeMap<String, Vec<u8>>,
    seen: usize,
}

impl Gathering {
    fn add(&mut self, path: &Path, has_includes: bool, depth: usize) {
        self.seen += 1;
        if depth > DEPTH_MAX || self.seen > FILES_MAX {
            return;
        }
        let Some(bytes) = read(path) else { return };
        if has_includes {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let directory = path.parent().unwrap_or(Path::new("/"));
            for found in text.lines().filter_map(setting).filter_map(|found| include(&found, directory)) {
                match found {
                    Include::File(path) => self.add(&path, true, depth + 1),
                    Include::Dir(path) => conf_files_of(&path).iter().for_each(|path| self.add(path, true, depth + 1)),
                }
            }
        }
        // A link inside that leads out counts as outside; what lies inside is stored anyhow.
        let is_inside = fs::canonicalize(path).is_ok_and(|real| real.starts_with(&self.inside));
        if let (false, Some(text)) = (is_inside, path.to_str()) {
            self.found.insert(format!("{OUTSIDE}{text}"), bytes);
        }
    }
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let result = File::open(path).and_then(|file| file.take(FILE_MAX + 1).read_to_end(&mut bytes));
    match result {
        Ok(count) if count as u64 <= FILE_MAX => return Some(bytes),
        Ok(_) => {
            tracing::warn!(path = %path.display(), "a file of the configuration is larger than 1 MiB: it is not stored")
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => {
            tracing::warn!(path = %path.display(), "a file of the configuration cannot be read, it is not stored: {e}")
        }
    }
    None
}
