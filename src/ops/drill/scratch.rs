//! The place where a drill lands: a directory of its own, gone with the value unless it shall stay.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::client::PrivateDir;
use crate::ops::Error;

/// The place.
pub(super) struct Scratch(PrivateDir);

impl Scratch {
    /// Makes it below `parent`, or where the system has temporary files.
    pub fn make(parent: Option<&Path>) -> Result<Self, Error> {
        if let Some(parent) = parent {
            fs::create_dir_all(parent).map_err(|source| Error::Io {
                doing: "make",
                path: parent.to_owned(),
                source,
            })?;
        }
        let mut dir = PrivateDir::called("lifeboat-drill", parent)?;
        let path = dir.make()?.to_owned();
        if rustix::process::geteuid().is_root() {
            // A server of another user passes through it; what lies in it has its own owner and mode.
            let passable = fs::set_permissions(&path, fs::Permissions::from_mode(0o711));
            passable.map_err(|source| Error::Io { doing: "change the mode of", path, source })?;
        }
        Ok(Self(dir))
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// An empty directory in it, for its owner alone.
    pub fn directory(&self, name: &str) -> Result<PathBuf, Error> {
        let path = self.path(name);
        let made = fs::DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|source| Error::Io { doing: "make", path: path.clone(), source })?;
        Ok(path)
    }

    /// Leaves it there.
    pub fn keep(self) -> PathBuf {
        self.0.keep()
    }
}

/// Turns one bit around in the largest file below a directory; returns which. `None` where no file has a byte.
pub(super) fn damage(below: &Path) -> Result<Option<PathBuf>, Error> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io { doing: "damage", path, source }
    };
    let mut largest: Option<(u64, PathBuf)> = None;
    let mut folders = vec![below.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(io(&folder))? {
            let entry = entry.map_err(io(&folder))?;
            let kind = entry.file_type().map_err(io(&folder))?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                let size = entry.metadata().map_err(io(&folder))?.len();
                if size > largest.as_ref().map_or(0, |(size, _)| *size) {
                    largest = Some((size, entry.path()));
                }
            }
        }
    }
    let Some((size, path)) = largest else { return Ok(None) };
    let turn = |file: &File| -> std::io::Result<()> {
        let mut byte = [0];
        file.read_exact_at(&mut byte, size / 2)?;
        file.write_all_at(&[byte[0] ^ 0x10], size / 2)
    };
    let file = OpenOptions::new().read(true).write(true).open(&path).map_err(io(&path))?;
    turn(&file).map_err(io(&path))?;
    Ok(Some(path))
}
