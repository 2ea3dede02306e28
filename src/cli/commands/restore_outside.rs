//! What of a cluster lies outside of its data directory, as a restore says it: tablespaces (`--tablespace-map` and
//! `--tablespace-map-all`) and configuration.

use std::path::{Path, PathBuf};

use crate::cli::args::RestoreArgs;
use crate::cli::context::Context;
use crate::cli::output::{counted, size};
use crate::cli::report::Failure;
use crate::model::SnapshotId;
use crate::model::base::BaseBackup;
use crate::ops::cluster::Cluster;
use crate::ops::restore::RestoreOptions;
use crate::ops::tablespaces::{Spaces, check_later, without};
use crate::ops::{environment, outside};
use crate::plan::environment::compare;
use crate::plan::recovery::{Archive, Base, NoWay, Way};
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

/// The same way from an older base backup, where the chosen one holds damaged pages and the older one does not.
pub(super) fn prefer_undamaged(mut archive: Archive, way: Way, choose: impl Fn(&Archive) -> Result<Way, NoWay>) -> Way {
    let is_damaged = |base: &Base| !base.backup.bad_pages.is_none();
    if !archive.bases.iter().any(|base| base.id == way.reach.base && is_damaged(base)) {
        return way;
    }
    archive.bases.retain(|base| !is_damaged(base));
    let as_far = |other: &Way| (other.reach.timeline, other.reach.to) == (way.reach.timeline, way.reach.to);
    choose(&archive).ok().filter(as_far).unwrap_or(way)
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
pub(super) fn lines(
    args: &RestoreArgs,
    cluster: &Cluster,
    base: &SnapshotId,
    spaces: &Spaces,
) -> Result<Vec<String>, Failure> {
    let Some(backup) = backup(cluster, base) else { return Ok(Vec::new()) };
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

/// Configuration that lay outside of the data directory, made fit to start from.
pub(super) fn settle_outside(
    context: &Context,
    cluster: &Cluster,
    base: &SnapshotId,
    into: &Path,
) -> Result<(), Failure> {
    let Some(backup) = backup(cluster, base) else { return Ok(()) };
    for made in outside::settle(into, backup)? {
        context.ui.story(format!("made      {made}"));
    }
    Ok(())
}

fn backup<'a>(cluster: &'a Cluster, base: &SnapshotId) -> Option<&'a BaseBackup> {
    cluster.archive.bases.iter().find(|other| other.id == *base).map(|other| &other.backup)
}
