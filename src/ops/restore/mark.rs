//! The file in a destination that says that a restore has begun and not ended, and how it began: one that began in an
//! empty directory goes on by itself, because all that stands there is its own; one that began over files goes on only by
//! the flag that said what happens to them.

use std::io::Read;

use super::{Overwrite, RestoreOptions};
use crate::destination::Directory;
use crate::model::{RelPath, SnapshotId};
use crate::ops::Error;

/// The name of a snapshot's mark. The snapshot's id is in its name, so that no file of the snapshot itself can have it.
pub fn mark_of(snapshot: &SnapshotId) -> String {
    format!("{MARK_START}{snapshot}")
}

/// What the names of all marks begin with.
pub(super) const MARK_START: &str = ".lifeboat-restore-";

const FIRST_LINE: &str = "a restore has begun here and not ended; run it again to go on";
const EMPTY: &str = "began: in an empty directory";
const OVER: &str = "began: over files, with ";

/// How an interrupted restore began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Began {
    Empty,
    /// Over files, with this flag.
    Over(String),
    /// Its mark does not say: over files, for all we know.
    Unknown,
}

impl Began {
    pub fn flag(self) -> Option<String> {
        if let Self::Over(flag) = self { Some(flag) } else { None }
    }
}

/// The flags that say what happens to files that are there, if any was given.
pub(super) fn flag_of(options: &RestoreOptions) -> Option<String> {
    let overwrite = match options.overwrite {
        Overwrite::Refuse => None,
        // What `--delete` by itself means.
        Overwrite::IfChanged if options.delete => None,
        Overwrite::Always => Some("--overwrite always"),
        Overwrite::IfChanged => Some("--overwrite if-changed"),
        Overwrite::IfNewer => Some("--overwrite if-newer"),
        Overwrite::Never => Some("--overwrite never"),
        Overwrite::Delta => Some("--delta"),
    };
    let flags: Vec<&str> = overwrite.into_iter().chain(options.delete.then_some("--delete")).collect();
    (!flags.is_empty()).then(|| flags.join(" "))
}

/// What is written into a mark.
pub(super) fn text(began_empty: bool, options: &RestoreOptions) -> String {
    let how = if began_empty { EMPTY.to_owned() } else { format!("{OVER}{}", flag_of(options).unwrap_or_default()) };
    format!("{FIRST_LINE}\n{how}\n")
}

pub(super) fn read(directory: &Directory, mark: &str) -> Result<Began, Error> {
    let file = directory.read_file(&RelPath::new(mark)?)?;
    let mut text = Vec::new();
    let path = || directory.path().join(mark);
    file.take(4096).read_to_end(&mut text).map_err(|source| Error::Io { doing: "read", path: path(), source })?;
    let text = String::from_utf8_lossy(&text);
    let began = text.lines().find_map(|line| match line.strip_prefix(OVER) {
        Some(flag) => Some(Began::Over(flag.to_owned())),
        None => (line == EMPTY).then_some(Began::Empty),
    });
    Ok(began.unwrap_or(Began::Unknown))
}
