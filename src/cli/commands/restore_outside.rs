//! What of a cluster lies outside of its data directory, as a restore says it: tablespaces (`--tablespace-map` and
//! `--tablespace-map-all`) and configuration.

use std::path::{Path, PathBuf};

use crate::cli::args::RestoreArgs;
use crate::cli::output::{counted, size};
use crate::cli::report::Failure;
use crate::model::base::BaseBackup;
use crate::ops::cluster::Cluster;
use crate::ops::environment;
use crate::ops::tablespaces::{Spaces, check_later};
use crate::plan::environment::compare;
use crate::plan::tablespaces::{Asked, made_later};

/// Which tablespaces shall get places of their own.
pub(super) fn asked(args: &RestoreArgs) -> Result<Asked, Failure> {
    let absolute = |path: &Path| std::path::absolute(path).map_err(|e| Failure::io("find", path, e));
    let mut asked = Asked::default();
    for pair in &args.cluster.tablespace_map {
        let (old, new) = pair
            .split_once('=')
            .filter(|(old, new)| !old.is_empty() && !new.is_empty())
            .ok_or_else(|| Failure::usage(format!("`{pair}` is no pair"), "Write it as `--tablespace-map OLD=NEW`."))?;
        asked.map.push((old.to_owned(), absolute(&PathBuf::from(new))?));
    }
    asked.all = args.cluster.tablespace_map_all.as_deref().map(absolute).transpose()?;
    Ok(asked)
}

/// What a person should know of them. Refuses where replay would write into somebody's files.
pub(super) fn lines(
    args: &RestoreArgs,
    cluster: &Cluster,
    backup: &BaseBackup,
    spaces: &Spaces,
) -> Result<Vec<String>, Failure> {
    let mut lines = Vec::new();
    if let Some(bad) = backup.bad_pages.first.first() {
        let pages = counted(backup.bad_pages.count, "page was", "pages were");
        lines.push(format!(
            "DAMAGED   {pages} damaged when it was taken, the first: `{}` block {}",
            bad.path, bad.block
        ));
    }
    for space in &backup.tablespaces {
        let own = spaces.shown().find(|(placed, _)| placed.space == *space);
        lines.push(match own {
            Some((placed, bytes)) => {
                format!("space     {} ({}, {}) goes to {}", space.name, space.path, size(bytes), placed.to.display())
            }
            None => format!("space     {} ({}) stays inside, as pg_tblspc/{}", space.name, space.path, space.oid),
        });
    }
    for found in compare(backup, &environment::look(backup.major())) {
        lines.push(format!("differs   {}; {}", found.what, found.cure));
    }
    let later = cluster.archive.bases.iter().filter(|other| other.backup.stopped > backup.stopped);
    let later = later.map(|other| other.backup.tablespaces.as_slice());
    let later = made_later(&backup.tablespaces, &backup.tablespaces_made, later);
    let allowed = args.cluster.allow_later_tablespaces;
    let absent = if allowed { later } else { check_later(&later).map_err(crate::ops::Error::from)? };
    for space in absent {
        lines.push(format!(
            "space     {} was made after the base backup: replay makes it at {path}; `mkdir -p {path}` before the start",
            space.name,
            path = space.path
        ));
    }
    Ok(lines)
}
