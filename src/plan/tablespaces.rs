//! Where the tablespaces of a restored cluster go: by `--tablespace-map` to places of their own, else inside the data directory.
//!
//! Invariants: a place is taken once, and lies neither in the data directory nor around it. Not here: whether it is empty.

use std::path::{Path, PathBuf};

use crate::model::base::Tablespace;

/// A tablespace that gets a place of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// The tablespace, as it was backed up.
    pub space: Tablespace,
    /// Where it goes: an absolute path.
    pub to: PathBuf,
}

/// What is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// `OLD` and `NEW`: OLD is a path, a name or a number, NEW an absolute path.
    pub map: Vec<(String, PathBuf)>,
    /// A directory for those that the map leaves out, an absolute path.
    pub all: Option<PathBuf>,
}

/// Why tablespaces cannot go there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoPlace {
    /// The base backup has no such tablespace.
    #[error("the base backup has no tablespace `{wanted}`; it has {there}")]
    Unknown {
        /// As it was asked for.
        wanted: String,
        /// Those that there are.
        there: String,
    },
    /// One is sent to two places.
    #[error("the tablespace `{0}` is mapped twice")]
    Twice(String),
    /// Two go to one place, or one lies in the other or in the data directory.
    #[error("`{}` and `{}` lie in each other", .0.display(), .1.display())]
    Within(PathBuf, PathBuf),
    /// Replay would make a tablespace where files lie already.
    #[error("the tablespace `{name}` was made after the base backup: replay makes it at `{path}`, and files lie there")]
    MadeLater {
        /// Its name or number.
        name: String,
        /// Where.
        path: String,
    },
}

impl Tablespace {
    /// What people call it.
    fn called(&self) -> String {
        if self.name.is_empty() { self.oid.to_string() } else { self.name.clone() }
    }

    fn is_meant(&self, wanted: &str) -> bool {
        let path = |text: &str| text.trim_end_matches('/').to_owned();
        self.oid.to_string() == wanted || self.name == wanted || path(&self.path) == path(wanted)
    }

    /// A name that is safe as one of a directory, else the number.
    fn directory(&self) -> String {
        let plain = |c: char| c.is_alphanumeric() || "_-.".contains(c);
        let is_safe = !self.name.is_empty() && !self.name.starts_with('.') && self.name.chars().all(plain);
        if is_safe { self.name.clone() } else { self.oid.to_string() }
    }
}

/// Gives each tablespace that is asked for its place. `into` is the data directory, an absolute path.
pub fn place(spaces: &[Tablespace], asked: &Asked, into: &Path) -> Result<Vec<Placed>, NoPlace> {
    let mut placed: Vec<Placed> = Vec::new();
    for (wanted, to) in &asked.map {
        let Some(space) = spaces.iter().find(|space| space.is_meant(wanted)) else {
            let names: Vec<String> =
                spaces.iter().map(|space| format!("{} (`{}`)", space.called(), space.path)).collect();
            let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            return Err(NoPlace::Unknown { wanted: wanted.clone(), there });
        };
        if placed.iter().any(|other| other.space == *space) {
            return Err(NoPlace::Twice(space.called()));
        }
        placed.push(Placed { space: space.clone(), to: to.clone() });
    }
    for space in asked.all.iter().flat_map(|_| spaces) {
        if let Some(all) = &asked.all
            && !placed.iter().any(|other| other.space == *space)
        {
            placed.push(Placed { space: space.clone(), to: all.join(space.directory()) });
        }
    }
    let mut taken = vec![into.to_owned()];
    for Placed { to, .. } in &placed {
        if let Some(other) = taken.iter().find(|other| other.starts_with(to) || to.starts_with(other)) {
            return Err(NoPlace::Within(to.clone(), other.clone()));
        }
        taken.push(to.clone());
    }
    placed.sort_by_key(|placed| placed.space.oid);
    Ok(placed)
}

/// Tablespaces that are known to have been made behind a base backup: those that it saw appear, and those of later ones.
/// `later` are lists of later base backups of the cluster. Replay makes them at the places that they had.
pub fn made_later<'a>(
    own: &[Tablespace],
    seen: &'a [Tablespace],
    later: impl IntoIterator<Item = &'a [Tablespace]>,
) -> Vec<&'a Tablespace> {
    let mut found: Vec<&Tablespace> = Vec::new();
    for space in seen.iter().chain(later.into_iter().flatten()) {
        let known = own.iter().chain(found.iter().copied()).any(|other| other.oid == space.oid);
        if !known {
            found.push(space);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(oid: u32, name: &str, path: &str) -> Tablespace {
        Tablespace { oid, name: name.to_owned(), path: path.to_owned() }
    }

    fn spaces() -> Vec<Tablespace> {
        vec![space(16400, "fast", "/ssd/pg"), space(16401, "a/b", "/mnt/x"), space(16402, "", "/mnt/y")]
    }

    fn places(map: &[(&str, &str)], all: Option<&str>) -> Result<Vec<String>, NoPlace> {
        let map = map.iter().map(|(old, new)| ((*old).to_owned(), PathBuf::from(new))).collect();
        let asked = Asked { map, all: all.map(PathBuf::from) };
        let placed = place(&spaces(), &asked, Path::new("/srv/data"))?;
        Ok(placed.iter().map(|placed| format!("{}={}", placed.space.oid, placed.to.display())).collect())
    }

    #[test]
    fn a_tablespace_is_named_by_its_path_name_or_number() {
        for old in ["16400", "fast", "/ssd/pg", "/ssd/pg/"] {
            assert_eq!(places(&[(old, "/new")], None).unwrap(), ["16400=/new"], "{old}");
        }
        assert!(places(&[], None).unwrap().is_empty(), "unasked they stay inside");
        let all = places(&[("16402", "/own")], Some("/all")).unwrap();
        assert_eq!(all, ["16400=/all/fast", "16401=/all/16401", "16402=/own"], "a name with a slash is no directory");
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let why = |map: &[(&str, &str)], all| places(map, all).unwrap_err().to_string();
        assert!(why(&[("slow", "/new")], None).contains("it has fast (`/ssd/pg`), a/b (`/mnt/x`), 16402"));
        assert!(why(&[("fast", "/new"), ("16400", "/other")], None).contains("mapped twice"));
        for inside in ["/srv/data", "/srv/data/x", "/srv", "/"] {
            assert!(why(&[("fast", inside)], None).contains("lie in each other"), "{inside}");
        }
        assert!(why(&[("fast", "/new"), ("16401", "/new/y")], None).contains("lie in each other"));
    }

    #[test]
    fn what_was_made_later_is_known_from_later_backups() {
        let all = spaces();
        let later: Vec<u32> =
            made_later(&all[..1], &all[1..2], [&all[..], &all[..]]).iter().map(|space| space.oid).collect();
        assert_eq!(later, [16401, 16402]);
    }
}
