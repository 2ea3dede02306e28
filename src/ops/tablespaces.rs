//! Tablespaces of a restored cluster: those with places of their own are restored there, linked, and named in `tablespace_map`.
//!
//! A server that starts with `backup_label` makes the links of `tablespace_map` anew, and stops where a directory with files
//! stands in place of one. So the map names those that are links, and no others: a tablespace that stays inside the data
//! directory is a directory, which PostgreSQL 15 and later use where `allow_in_place_tablespaces` lets them. Invariants: nothing is written before all places were
//! looked at. Not here: who goes where (`plan::tablespaces`).

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::restore::{self, Overwrite, RestoreOptions, RestoreReport, prepare, restore};
use super::{Error, Selection};
use crate::catalog::SnapshotRow;
use crate::model::RelPath;
use crate::model::base::Tablespace;
use crate::plan::restore::Choice;
use crate::plan::tablespaces::{NoPlace, Placed};
use crate::progress::Progress;
use crate::repository::Repository;

/// Tablespaces with places of their own, looked at and ready to be restored.
pub struct Spaces {
    all: Vec<(Placed, restore::Prepared)>,
}

fn directory_of(space: &Tablespace) -> Result<RelPath, Error> {
    Ok(RelPath::new(format!("pg_tblspc/{}", space.oid))?)
}

/// The selection of everything else. What was made during the backup is left to the replay, which stops at files in its place.
pub fn without(selection: Selection, placed: &[Placed], made: &[Tablespace]) -> Result<Selection, Error> {
    let all = placed.iter().map(|placed| &placed.space).chain(made);
    Ok(selection.without(all.map(directory_of).collect::<Result<Vec<_>, _>>()?))
}

/// Refuses a restore whose replay would write into files that lie where a later tablespace is made: those of the original, or
/// remains of it. Returns the others: their directories must be there before the server starts.
pub fn check_later<'a>(later: &[&'a Tablespace]) -> Result<Vec<&'a Tablespace>, NoPlace> {
    for space in later {
        let mut names = fs::read_dir(&space.path).into_iter().flatten().flatten();
        if names.any(|entry| entry.file_name().as_bytes().starts_with(b"PG_")) {
            let name = if space.name.is_empty() { space.oid.to_string() } else { space.name.clone() };
            return Err(NoPlace::MadeLater { name, path: space.path.clone() });
        }
    }
    Ok(later.iter().filter(|space| !Path::new(&space.path).is_dir()).copied().collect())
}

impl Spaces {
    /// Looks at every place. Nothing is written.
    pub fn prepare(
        repository: &Repository,
        snapshot: &SnapshotRow,
        choice: &Choice,
        placed: Vec<Placed>,
        options: &RestoreOptions,
        progress: &dyn Progress,
    ) -> Result<Self, Error> {
        let mut all = Vec::new();
        for one in placed {
            let selection = Selection::below(directory_of(&one.space)?);
            let options = RestoreOptions { selection, ..options.clone() };
            let prepared = prepare(repository, snapshot.clone(), choice, Some(&one.to), options, progress)?;
            all.push((one, prepared));
        }
        Ok(Self { all })
    }

    /// Each with its bytes.
    pub fn shown(&self) -> impl Iterator<Item = (&Placed, u64)> {
        self.all.iter().map(|(placed, prepared)| (placed, prepared.plan.bytes))
    }

    /// Bytes that are fetched for them.
    pub fn fetch_bytes(&self) -> u64 {
        self.all.iter().map(|(_, prepared)| prepared.plan.fetch_bytes).sum()
    }

    /// Lays their content down, and adds to the report of the data directory.
    pub fn restore(
        &self,
        repository: &mut Repository,
        report: &mut RestoreReport,
        progress: &dyn Progress,
    ) -> Result<(), Error> {
        for (_, prepared) in &self.all {
            let own = restore(repository, prepared, progress)?;
            report.files_written += own.files_written;
            report.files_kept += own.files_kept;
            report.bytes_written += own.bytes_written;
            report.bytes_kept += own.bytes_kept;
            report.deleted += own.deleted;
            report.verified += own.verified;
            report.trouble.extend(own.trouble);
        }
        Ok(())
    }

    /// Links them into the data directory, writes its `tablespace_map`, and lets the server use those that stayed inside.
    pub fn settle(&self, data: &Path, overwrite: Overwrite) -> Result<(), Error> {
        let mut map = Vec::new();
        for (Placed { space, to }, _) in &self.all {
            link(&data.join(format!("pg_tblspc/{}", space.oid)), to, overwrite)?;
            map.extend_from_slice(format!("{} ", space.oid).as_bytes());
            for byte in to.as_os_str().as_bytes() {
                if matches!(byte, b'\n' | b'\r' | b'\\') {
                    map.push(b'\\');
                }
                map.push(*byte);
            }
            map.push(b'\n');
        }
        write_map(&data.join("tablespace_map"), &map)?;
        if has_inside(&data.join("pg_tblspc")) { allow_inside(&data.join("postgresql.auto.conf")) } else { Ok(()) }
    }
}

fn has_inside(links: &Path) -> bool {
    let mut entries = fs::read_dir(links).into_iter().flatten().flatten();
    entries.any(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
}

/// Without this setting a recovery panics at a directory in `pg_tblspc`.
fn allow_inside(settings: &Path) -> Result<(), Error> {
    let line = "allow_in_place_tablespaces = 'on'";
    let fail = |source| Error::Io { doing: "write", path: settings.to_owned(), source };
    let text = match fs::read_to_string(settings) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(fail(e)),
    };
    if text.lines().any(|other| other.trim() == line) {
        return Ok(());
    }
    let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    fs::write(settings, format!("{text}{end}{line}\n")).map_err(fail)
}

fn link(link: &Path, to: &Path, overwrite: Overwrite) -> Result<(), Error> {
    let fail = |source| Error::Io { doing: "link the tablespace at", path: link.to_owned(), source };
    match fs::symlink_metadata(link) {
        Ok(meta) if meta.is_symlink() => {
            if fs::read_link(link).map_err(fail)? == to {
                return Ok(());
            }
            if overwrite == Overwrite::Never {
                return Err(fail(std::io::Error::other("it leads elsewhere")));
            }
            fs::remove_file(link).map_err(fail)?;
        }
        // What a restore without this map left there, or a server: with files in it a person decides.
        Ok(_) => fs::remove_dir(link).map_err(fail)?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(fail(e)),
    }
    std::os::unix::fs::symlink(to, link).map_err(fail)?;
    // The directory's owner is the server's user.
    if rustix::process::geteuid().is_root()
        && let Some(Ok(meta)) = link.parent().map(fs::metadata)
    {
        use std::os::unix::fs::MetadataExt;
        std::os::unix::fs::lchown(link, Some(meta.uid()), Some(meta.gid())).map_err(fail)?;
    }
    Ok(())
}

/// Replaces the map, keeping its owner and mode; without a line there is none.
fn write_map(path: &Path, map: &[u8]) -> Result<(), Error> {
    let fail = |source| Error::Io { doing: "write", path: path.to_owned(), source };
    match (map.is_empty(), path.exists()) {
        (true, false) => Ok(()),
        (true, true) => fs::remove_file(path).map_err(fail),
        // In place: it has the owner and the mode that the snapshot gave it, and a restore that breaks off here is run again.
        (false, _) => File::create(path)
            .and_then(|mut file| {
                file.write_all(map)?;
                file.sync_all()
            })
            .map_err(fail),
    }
}
