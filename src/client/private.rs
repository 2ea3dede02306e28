//! A directory that nobody else can look into, gone with the value: where dumps lie that are not stored yet, or not restored
//! yet. What a killed run leaves behind is named so that a person knows what it was.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::Error;

/// A directory of our own.
#[derive(Debug)]
pub struct PrivateDir {
    path: PathBuf,
    made: bool,
}

impl PrivateDir {
    /// Names one below `parent`, or where the system has temporary files. Nothing is made yet.
    pub fn name(parent: Option<&Path>) -> Result<Self, Error> {
        Self::called("lifeboat-dump", parent)
    }

    /// The same with another beginning of its name, which says what it is to whoever finds it.
    pub fn called(what: &str, parent: Option<&Path>) -> Result<Self, Error> {
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_owned);
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|e| Error::Io {
            doing: "name a directory below",
            path: parent.clone(),
            source: std::io::Error::other(e.to_string()),
        })?;
        let name = format!("{what}-{}", data_encoding::HEXLOWER.encode(&random));
        Ok(Self { path: parent.join(name), made: false })
    }

    /// Makes it, for its owner alone.
    pub fn make(&mut self) -> Result<&Path, Error> {
        let made = std::fs::DirBuilder::new().mode(0o700).create(&self.path);
        made.map_err(|source| Error::Io { doing: "make the directory", path: self.path.clone(), source })?;
        self.made = true;
        Ok(&self.path)
    }

    /// Leaves it where it is.
    pub fn keep(mut self) -> PathBuf {
        self.made = false;
        self.path.clone()
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        if self.made {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
