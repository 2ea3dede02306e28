//! The tablespaces of a restored cluster, as the command line says them: `--tablespace-map` and `--tablespace-map-all`.

use std::path::{Path, PathBuf};

use crate::cli::args::RestoreArgs;
use crate::cli::output::size;
use crate::cli::report::Failure;
use crate::model::SnapshotId;
use crate::model::base::BaseBackup;
use crate::ops::cluster::Cluster;
use crate::ops::restore::RestoreOptions;
use crate::ops::tablespaces::{Spaces, check_later, without};
use crate::plan::tablespaces::{self, Asked, Placed, made_later};

/// Which tablespaces get places of their own.
pub(super) fn place(
    args: &RestoreArgs,
    cluster: &Cluster,
    base: &SnapshotId,
    into: &Path,
) -> Result<Vec<Placed>, Failure> {
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
    let Some(backup) = backup(cluster, base) else { return Ok(Vec::new()) };
    Ok(tablespaces::place(&backup.tablespaces, &asked, &absolute(into)?).map_err(crate::ops::Error::from)?)
}

/// How the data directory is restored beside them.
pub(super) fn options(
    cluster: &Cluster,
    base: &SnapshotId,
    options: RestoreOptions,
    placed: &[Placed],
) -> Result<RestoreOptions, Failure> {
    let made = backup(cluster, base).map_or(&[][..], |backup| &backup.tablespaces_made);
    Ok(RestoreOptions { selection: without(options.selection.clone(), placed, made)?, ..options })
}

/// What a person should know of them. Refuses where replay would write into somebody's files.
pub(super) fn lines(cluster: &Cluster, base: &SnapshotId, spaces: &Spaces) -> Result<Vec<String>, Failure> {
    let Some(backup) = backup(cluster, base) else { return Ok(Vec::new()) };
    let mut lines = Vec::new();
    for space in &backup.tablespaces {
        let own = spaces.shown().find(|(placed, _)| placed.space == *space);
        lines.push(match own {
            Some((placed, bytes)) => {
                format!("space     {} ({}, {}) goes to {}", space.name, space.path, size(bytes), placed.to.display())
            }
            None => format!("space     {} ({}) stays inside, as pg_tblspc/{}", space.name, space.path, space.oid),
        });
    }
    let later = cluster.archive.bases.iter().filter(|other| other.backup.stopped > backup.stopped);
    let later = later.map(|other| other.backup.tablespaces.as_slice());
    let later = made_later(&backup.tablespaces, &backup.tablespaces_made, later);
    for space in check_later(&later).map_err(crate::ops::Error::from)? {
        lines.push(format!(
            "space     {} was made after the base backup: replay makes it at {path}; `mkdir -p {path}` before the start",
            space.name,
            path = space.path
        ));
    }
    Ok(lines)
}

fn backup<'a>(cluster: &'a Cluster, base: &SnapshotId) -> Option<&'a BaseBackup> {
    cluster.archive.bases.iter().find(|other| other.id == *base).map(|other| &other.backup)
}
