//! The files of a cluster laid down so that a server can replay on them: base backup, tablespaces, configuration, recovery
//! settings. What an incident calls, and a drill.
//!
//! Invariants: nothing is written before everything was looked at; `recovery.signal` comes last. Not here: the choice of base
//! backup and target (`plan::recovery`), and the server (`ops::recover`).

use std::path::{Path, PathBuf};

use super::{Prepared, RestoreOptions, RestoreReport, find_snapshot, make_unstartable, prepare, restore};
use crate::model::base::BaseBackup;
use crate::ops::cluster::{Cluster, Recovery, make_ready};
use crate::ops::tablespaces::{Spaces, without};
use crate::ops::{Error, outside};
use crate::plan::recovery::Way;
use crate::plan::restore::{NoPlan, Wanted};
use crate::plan::tablespaces::{Asked, place};
use crate::progress::Progress;
use crate::repository::Repository;

/// A cluster's files, looked at and ready to be laid down.
pub struct Laying {
    /// The data directory.
    pub prepared: Prepared,
    /// Tablespaces with places of their own.
    pub spaces: Spaces,
    /// The base backup.
    pub backup: BaseBackup,
    into: PathBuf,
}

/// The base backup from which a way goes.
pub fn base_of<'c>(cluster: &'c Cluster, way: &Way) -> Result<&'c BaseBackup, Error> {
    let found = cluster.archive.bases.iter().find(|base| base.id == way.reach.base);
    let none = || NoPlan::NoSuchId(way.reach.base.to_string());
    Ok(&found.ok_or_else(none)?.backup)
}

/// Looks at the way's base backup and at every place that it goes to. Nothing is written.
pub fn prepare_cluster(
    repository: &Repository,
    cluster: &Cluster,
    way: &Way,
    into: &Path,
    asked: &Asked,
    options: RestoreOptions,
    progress: &dyn Progress,
) -> Result<Laying, Error> {
    let backup = base_of(cluster, way)?.clone();
    let named = Wanted::Named(way.reach.base.to_string());
    let (snapshot, choice) = find_snapshot(repository, &cluster.full_name, &named, false)?;
    let absolute =
        std::path::absolute(into).map_err(|source| Error::Io { doing: "find", path: into.to_owned(), source })?;
    let placed = place(&backup.tablespaces, asked, &absolute)?;
    let selection = without(options.selection.clone(), &placed, &backup.tablespaces_made)?;
    let options = RestoreOptions { selection, ..options };
    let spaces = Spaces::prepare(repository, &snapshot, &choice, placed, &options, progress)?;
    let prepared = prepare(repository, snapshot, &choice, Some(into), options, progress)?;
    Ok(Laying { prepared, spaces, backup, into: into.to_owned() })
}

impl Laying {
    /// Sealed bytes that are fetched.
    pub fn fetch_bytes(&self) -> u64 {
        self.prepared.plan.fetch_bytes + self.spaces.fetch_bytes()
    }

    /// Lays everything down. Returns what was done, and which files of a configuration were made. `laid` is called when the files
    /// are as they were backed up, before anything is changed in them.
    pub fn carry_out(
        &self,
        repository: &mut Repository,
        way: &Way,
        recovery: &Recovery,
        progress: &dyn Progress,
        laid: &mut dyn FnMut(&mut Repository) -> Result<(), Error>,
    ) -> Result<(RestoreReport, Vec<String>), Error> {
        make_unstartable(&self.into)?;
        let mut report = restore(repository, &self.prepared, progress)?;
        self.spaces.restore(repository, &mut report, progress)?;
        laid(repository)?;
        self.spaces.settle(&self.into, self.prepared.overwrite())?;
        let made = outside::settle(&self.into, &self.backup)?;
        make_ready(&self.into, way, recovery)?;
        Ok((report, made))
    }
}
