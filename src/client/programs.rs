//! Where PostgreSQL's programs lie and how old they are.
//!
//! They are looked for in `bin_dir` alone where one is given; else along PATH, and then where Debian keeps one directory a
//! major version, the newest first. Debian's wrapper on PATH chooses a version by a cluster that it guesses: it is passed over.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Error;

/// One folder a major version, below it `bin`.
const DEBIAN: &str = "/usr/lib/postgresql";

/// A program that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Its path.
    pub path: PathBuf,
    /// `15.18`
    pub version: String,
    /// `15`
    pub major: u32,
}

impl Program {
    /// Its name.
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// Where programs are looked for.
#[derive(Debug, Clone)]
pub struct Programs {
    bin_dir: Option<PathBuf>,
    path: OsString,
    debian: PathBuf,
}

impl Programs {
    /// In a directory, or where this process would find them.
    pub fn new(bin_dir: Option<PathBuf>) -> Self {
        Self { bin_dir, path: std::env::var_os("PATH").unwrap_or_default(), debian: PathBuf::from(DEBIAN) }
    }

    /// The first one, of any version.
    pub fn any(&self, name: &str) -> Result<Program, Error> {
        match self.found(name)?.into_iter().next() {
            Some(first) => Ok(first),
            None => Err(self.none(name, None)),
        }
    }

    /// All of them that tell their version, in the order of the search.
    pub fn all(&self, name: &str) -> Vec<Program> {
        self.places(name).into_iter().filter_map(|path| read_version(path).ok()).collect()
    }

    /// The first one that is not older than `major`, the version of `what`.
    pub fn not_older(&self, name: &str, major: u32, what: &'static str) -> Result<Program, Error> {
        self.best(name, major, what, |_| 0)
    }

    /// One that is not older than `major`, the version of `what`; of these the one nearest to `like`, which it is to work
    /// with: a newer program says things that an older server does not know.
    pub fn nearest(&self, name: &str, major: u32, what: &'static str, like: u32) -> Result<Program, Error> {
        self.best(name, major, what, |program| program.major.abs_diff(like))
    }

    /// The first one of exactly a major version: a server reads the files of its own version alone.
    pub fn of_major(&self, name: &str, major: u32) -> Result<Program, Error> {
        let found = self.found(name)?;
        found.into_iter().find(|program| program.major == major).ok_or_else(|| self.none(name, Some(major)))
    }

    fn best(
        &self,
        name: &str,
        major: u32,
        what: &'static str,
        distance: impl Fn(&Program) -> u32,
    ) -> Result<Program, Error> {
        let found = self.found(name)?;
        let newest = found.iter().max_by_key(|program| program.major).cloned();
        let newest = newest.ok_or_else(|| self.none(name, Some(major)))?;
        let suits = found.into_iter().filter(|program| program.major >= major);
        suits.min_by_key(distance).ok_or(Error::TooOld { path: newest.path, found: newest.major, what, needed: major })
    }

    fn none(&self, name: &str, major: Option<u32>) -> Error {
        let of = match (name, major) {
            ("postgres", Some(major)) => format!("of PostgreSQL {major} "),
            _ => String::new(),
        };
        let looked = match &self.bin_dir {
            Some(dir) => format!("{of}in `{}`", dir.display()),
            None => format!("{of}along PATH or below `{}`", self.debian.display()),
        };
        Error::NoProgram { program: name.to_owned(), looked, major }
    }

    fn found(&self, name: &str) -> Result<Vec<Program>, Error> {
        self.places(name).into_iter().map(read_version).collect()
    }

    fn places(&self, name: &str) -> Vec<PathBuf> {
        let runs = |path: &PathBuf| {
            std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        };
        if let Some(dir) = &self.bin_dir {
            return Some(dir.join(name)).filter(runs).into_iter().collect();
        }
        let along = std::env::split_paths(&self.path).filter(|dir| dir.is_absolute()).map(|dir| dir.join(name));
        let mut all: Vec<PathBuf> = along.filter(runs).filter(|path| !is_wrapper(path)).collect();
        let folders = std::fs::read_dir(&self.debian).into_iter().flatten().flatten();
        let mut versions: Vec<(u32, PathBuf)> = folders
            .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin").join(name))))
            .collect();
        versions.sort_by_key(|(major, _)| std::cmp::Reverse(*major));
        all.extend(versions.into_iter().map(|(_, path)| path).filter(runs));
        all
    }
}

/// The version of the GNU C library, as `2.36`; `None` where there is another one, or nobody tells.
pub fn glibc() -> Option<String> {
    let output = Command::new("getconf").arg("GNU_LIBC_VERSION").stdin(Stdio::null()).stderr(Stdio::null()).output();
    let text = String::from_utf8(output.ok()?.stdout).ok()?;
    text.trim().strip_prefix("glibc ").map(str::to_owned)
}

/// Debian's `pg_wrapper`, under the name of a program.
fn is_wrapper(path: &Path) -> bool {
    std::fs::canonicalize(path).is_ok_and(|real| real.file_name().is_some_and(|name| name == "pg_wrapper"))
}

fn read_version(path: PathBuf) -> Result<Program, Error> {
    let fail = |source| Error::Spawn { program: path.clone(), source };
    let output = Command::new(&path).arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).output();
    let text = String::from_utf8_lossy(&output.map_err(fail)?.stdout).into_owned();
    match parse_version(&text) {
        Some((version, major)) => Ok(Program { path, version, major }),
        None => Err(fail(std::io::Error::other("it does not say its version"))),
    }
}

/// `pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`
fn parse_version(text: &str) -> Option<(String, u32)> {
    let (_, rest) = text.split_once("(PostgreSQL) ")?;
    let version = rest.split_whitespace().next()?;
    let digits = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    Some((version.to_owned(), version[..digits].parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(dir: &Path, name: &str, version: &str) {
        std::fs::create_dir_all(dir).unwrap();
        let script = format!("#!/bin/sh\necho '{name} (PostgreSQL) {version}'\n");
        std::fs::write(dir.join(name), script).unwrap();
        std::fs::set_permissions(dir.join(name), std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn versions_are_read() {
        assert_eq!(parse_version("pg_dump (PostgreSQL) 15.18 (Debian 15.18-0)\n"), Some(("15.18".into(), 15)));
        assert_eq!(parse_version("psql (PostgreSQL) 18beta1\n"), Some(("18beta1".into(), 18)));
        assert_eq!(parse_version("something else"), None);
    }

    #[test]
    fn the_first_that_is_new_enough_is_taken() {
        let root = tempfile::tempdir().unwrap();
        let (along, debian) = (root.path().join("bin"), root.path().join("debian"));
        put(&along, "pg_dump", "14.3");
        put(&debian.join("15/bin"), "pg_dump", "15.1");
        put(&debian.join("17/bin"), "pg_dump", "17.2");
        let programs = Programs { bin_dir: None, path: along.clone().into(), debian: debian.clone() };
        let major = |needed| programs.not_older("pg_dump", needed, "the server").map(|program| program.major);
        assert_eq!((major(13).unwrap(), major(14).unwrap(), major(15).unwrap(), major(16).unwrap()), (14, 14, 17, 17));
        assert_eq!(programs.nearest("pg_dump", 14, "the dump", 15).unwrap().major, 15);
        assert!(matches!(major(18), Err(Error::TooOld { found: 17, needed: 18, .. })));
        assert!(matches!(programs.any("psql"), Err(Error::NoProgram { .. })));
        let only = Programs { bin_dir: Some(along), path: OsString::new(), debian };
        assert!(matches!(only.not_older("pg_dump", 15, "the server"), Err(Error::TooOld { found: 14, .. })));
    }
}
