//! Which parts of a tree are left out: patterns that read as `.gitignore` does, marker files, cache directories, size.

use std::path::{Path, PathBuf};

use ignore::gitignore::{Gitignore, GitignoreBuilder};

/// Rules of a volume.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// Patterns, with the meaning of `.gitignore` lines at the root of the source.
    pub exclude: Vec<String>,
    /// Files with more such patterns, one a line.
    pub exclude_file: Vec<PathBuf>,
    /// A directory that holds a file of one of these names is left out, but for itself and that file.
    pub exclude_if_present: Vec<String>,
    /// Directories with a `CACHEDIR.TAG` (<https://bford.info/cachedir/>) keep nothing but the tag.
    pub exclude_caches: bool,
    /// Larger files are left out. Bytes.
    pub exclude_larger_than: Option<u64>,
    /// What lies on another file system is left out.
    pub one_file_system: bool,
}

/// A pattern that is none.
#[derive(Debug, thiserror::Error)]
#[error("could not read the exclude pattern `{pattern}`")]
pub struct RulesError {
    pattern: String,
    source: ignore::Error,
}

/// Rules, ready to be asked.
pub(super) struct Matcher {
    patterns: Gitignore,
    markers: Vec<String>,
    caches: bool,
    larger_than: Option<u64>,
    pub one_file_system: bool,
}

const CACHE_TAG: &str = "CACHEDIR.TAG";
const CACHE_SIGNATURE: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

impl Matcher {
    pub fn new(rules: &Rules) -> Result<Self, RulesError> {
        // Paths are asked for relative to the source's root, so the builder's root is empty.
        let mut builder = GitignoreBuilder::new("");
        for pattern in &rules.exclude {
            let fail = |source| RulesError { pattern: pattern.clone(), source };
            builder.add_line(None, pattern).map_err(fail)?;
        }
        for file in &rules.exclude_file {
            if let Some(source) = builder.add(file) {
                return Err(RulesError { pattern: file.display().to_string(), source });
            }
        }
        let fail = |source| RulesError { pattern: rules.exclude.join(", "), source };
        Ok(Self {
            patterns: builder.build().map_err(fail)?,
            markers: rules.exclude_if_present.clone(),
            caches: rules.exclude_caches,
            larger_than: rules.exclude_larger_than,
            one_file_system: rules.one_file_system,
        })
    }

    /// Whether a path is left out by a pattern. Its parents were asked before.
    pub fn excludes(&self, path: &Path, is_dir: bool) -> bool {
        self.patterns.matched(path, is_dir).is_ignore()
    }

    /// Whether a file is left out by its size.
    pub fn too_large(&self, size: u64) -> bool {
        self.larger_than.is_some_and(|limit| size > limit)
    }

    /// The name of the marker by which a directory's other content is left out.
    pub fn marker<'n>(
        &self,
        directory: &Path,
        names: impl Iterator<Item = &'n std::ffi::OsStr> + Clone,
    ) -> Option<String> {
        if self.markers.is_empty() && !self.caches {
            return None;
        }
        let present = |name: &str| names.clone().any(|n| n.to_str() == Some(name));
        if let Some(marker) = self.markers.iter().find(|marker| present(marker)) {
            return Some(marker.clone());
        }
        if self.caches && present(CACHE_TAG) {
            let mut head = [0; 43];
            let read = std::fs::File::open(directory.join(CACHE_TAG))
                .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut head));
            if read.is_ok() && head == CACHE_SIGNATURE {
                return Some(CACHE_TAG.to_owned());
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_read_as_gitignore_does() {
        let exclude = ["*.log", "!keep.log", "/tmp", "storage/exports", "cache/"].map(String::from).to_vec();
        let matcher = Matcher::new(&Rules { exclude, ..Rules::default() }).unwrap();
        for (path, is_dir, out) in [
            ("a.log", false, true),
            ("deep/a.log", false, true),
            ("keep.log", false, false),
            ("tmp", true, true),
            ("deep/tmp", true, false),
            ("storage/exports", true, true),
            ("deep/storage/exports", true, false),
            ("deep/cache", true, true),
            ("cache", false, false),
        ] {
            assert_eq!(matcher.excludes(Path::new(path), is_dir), out, "{path}");
        }
    }
}
