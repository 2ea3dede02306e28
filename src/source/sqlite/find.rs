//! Which files of a tree are databases that should be captured before anything else is read: by their names, and by what lies
//! beside them. Names alone are read, directories near the root first, and no more than [`NAMES_MAX`] of them: a database that is
//! not found here is captured when the walk comes to it. Not here: the walk.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::is_database;
use crate::model::RelPath;
use crate::source::volume::VolumeSource;

/// Names that are looked at.
const NAMES_MAX: usize = 200_000;
/// How databases are called.
const EXTENSIONS: [&str; 6] = ["sqlite", "sqlite3", "db", "db3", "sqlitedb", "s3db"];
/// What SQLite puts beside a database.
pub const TAILS: [&str; 3] = ["-wal", "-shm", "-journal"];

/// The database that a file would belong to by its name.
pub fn main_of(name: &[u8]) -> Option<&[u8]> {
    TAILS.iter().find_map(|tail| name.strip_suffix(tail.as_bytes())).filter(|main| !main.is_empty())
}

fn is_called_so(name: &[u8]) -> bool {
    Path::new(OsStr::from_bytes(name))
        .extension()
        .and_then(OsStr::to_str)
        .is_some_and(|extension| EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known)))
}

/// Finds them. `barren` are directories in which there are none.
pub fn databases(volume: &VolumeSource, barren: &[RelPath], cancelled: &dyn Fn() -> bool) -> BTreeSet<RelPath> {
    let (mut found, mut names) = (BTreeSet::new(), 0);
    let mut open = VecDeque::from([RelPath::root()]);
    let device = std::fs::metadata(volume.absolute(&RelPath::root())).map_or(0, |meta| meta.dev());
    while let Some(directory) = open.pop_front() {
        let absolute = volume.absolute(&directory);
        let elsewhere =
            volume.matcher.one_file_system && std::fs::metadata(&absolute).is_ok_and(|meta| meta.dev() != device);
        if cancelled() || elsewhere || barren.contains(&directory) || volume.omit.as_ref() == Some(&absolute) {
            continue;
        }
        for entry in std::fs::read_dir(&absolute).into_iter().flatten().flatten() {
            names += 1;
            if names > NAMES_MAX {
                return found;
            }
            let name = entry.file_name();
            let (Ok(path), Ok(kind)) = (directory.join(name.as_bytes()), entry.file_type()) else { continue };
            let out =
                |path: &RelPath, is_dir| volume.matcher.excludes(Path::new(OsStr::from_bytes(path.as_bytes())), is_dir);
            if kind.is_dir() {
                if !out(&path, true) {
                    open.push_back(path);
                }
                continue;
            }
            let main = match main_of(name.as_bytes()) {
                Some(main) => directory.join(main).ok(),
                None => is_called_so(name.as_bytes()).then_some(path),
            };
            if let Some(main) = main.filter(|main| kind.is_file() && !out(main, false))
                && !found.contains(&main)
                && is_database(&volume.absolute(&main)).unwrap_or(false)
            {
                found.insert(main);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_belongs_to_which_database() {
        assert_eq!(main_of(b"db.sqlite3-journal"), Some(b"db.sqlite3".as_slice()));
        assert_eq!(main_of(b"x-wal"), Some(b"x".as_slice()));
        assert_eq!(main_of(b"-wal"), None);
        assert_eq!(main_of(b"canal"), None);
        assert!(
            is_called_so(b"a.DB") && is_called_so(b"a.b.sqlite") && !is_called_so(b"db") && !is_called_so(b"a.dbx")
        );
    }
}
