//! A restored cluster whose configuration lay outside of its data directory: one `postgresql.conf` in the directory, made of what
//! was stored, so that it starts on a bare host.
//!
//! Invariants: what the snapshot stored stays as it is below `.lifeboat`; settings that lead to places of the old host are turned
//! into comments that say so. Not here: recovery settings.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::Error;
use crate::format::pg_conf::{Files, Setting, flatten};
use crate::model::base::{BaseBackup, OUTSIDE};
use crate::source::postgres::conf_files_of;

/// Settings that name places of the host that was backed up.
const PLACES: [&str; 4] = ["data_directory", "hba_file", "ident_file", "external_pid_file"];
/// Files without which a server with `ssl = on` does not start.
const OF_SSL: [&str; 5] = ["ssl_cert_file", "ssl_key_file", "ssl_ca_file", "ssl_crl_file", "ssl_dh_params_file"];

/// What was stored, by the paths that it had.
struct Stored<'a> {
    data: &'a Path,
    /// The data directory that was backed up: what lay in it lies here.
    old: Option<&'a str>,
}

impl Stored<'_> {
    fn place(&self, path: &Path) -> PathBuf {
        let path = &plain(path);
        let outside = self.data.join(OUTSIDE).join(path.strip_prefix("/").unwrap_or(path));
        match self.old.and_then(|old| path.strip_prefix(old).ok()) {
            Some(below) if !outside.exists() => self.data.join(below),
            _ => outside,
        }
    }
}

/// Without `.` and `..`.
fn plain(path: &Path) -> PathBuf {
    use std::path::Component as C;
    let mut all = PathBuf::new();
    for part in path.components() {
        match part {
            C::ParentDir => drop(all.pop()),
            C::CurDir => {}
            part => all.push(part),
        }
    }
    all
}

impl Files for Stored<'_> {
    fn read(&self, path: &Path) -> Option<String> {
        fs::read(self.place(path)).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }
    fn list(&self, directory: &Path) -> Vec<PathBuf> {
        let found = conf_files_of(&self.place(directory)).into_iter();
        found.filter_map(|path| Some(directory.join(path.file_name()?))).collect()
    }
}

/// Makes a restored directory whole, where its configuration lay elsewhere. Returns what was made, in words.
pub fn settle(data: &Path, backup: &BaseBackup) -> Result<Vec<String>, Error> {
    if !data.join(OUTSIDE).is_dir() {
        return least(data, backup);
    }
    let setting = |name: &str| backup.settings.get(name).map(String::as_str).filter(|path| path.starts_with('/'));
    let stored = Stored { data, old: setting("data_directory") };
    let mut made = Vec::new();
    for (name, file) in [("hba_file", "pg_hba.conf"), ("ident_file", "pg_ident.conf")] {
        let Some(text) = setting(name).and_then(|path| stored.read(Path::new(path))) else { continue };
        if write(data, file, &text)? {
            made.push(format!("`{file}` from {}", setting(name).unwrap_or_default()));
        }
    }
    let Some(path) = setting("config_file") else { return Ok(made) };
    let Some(text) = stored.read(Path::new(path)) else { return Ok(made) };
    let drops = |found: &Setting| {
        if PLACES.contains(&found.name.as_str()) {
            return Some("of the old host".to_owned());
        }
        let absent =
            OF_SSL.contains(&found.name.as_str()) && found.value.starts_with('/') && !Path::new(&found.value).exists();
        absent.then(|| "not on this host, and so `ssl` is off".to_owned())
    };
    let mut whole = flatten(&text, Path::new(path).parent().unwrap_or(Path::new("/")), &stored, &drops);
    if whole.contains("# not on this host, and so `ssl` is off: ") {
        whole.push_str("ssl = off\n");
    }
    let head = format!("# Made by lifeboat of {path} and what it includes, as they were backed up ({OUTSIDE}).\n");
    if write(data, "postgresql.conf", &(head + &whole))? {
        made.push(format!("`postgresql.conf` from {path} and what it includes"));
    }
    Ok(made)
}

/// Settings that replay compares with those of the server that wrote the log: with smaller ones it stops.
const COMPARED: [&str; 6] = [
    "max_connections",
    "max_worker_processes",
    "max_wal_senders",
    "max_prepared_transactions",
    "max_locks_per_transaction",
    "wal_level",
];

/// The least that a server starts with, where the configuration was not within reach of the backup.
fn least(data: &Path, backup: &BaseBackup) -> Result<Vec<String>, Error> {
    let mut made = Vec::new();
    if !data.join("postgresql.conf").exists() {
        let from = backup.settings.get("config_file").map_or("elsewhere", String::as_str);
        let mut text = format!("# Made by lifeboat: the original lay at {from}, which the backup could not read.\n");
        for name in COMPARED {
            if let Some(value) = backup.settings.get(name) {
                text.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
            }
        }
        write(data, "postgresql.conf", &text)?;
        made.push(format!("`postgresql.conf` with the least that replay needs: the original, {from}, was not stored"));
    }
    if !data.join("pg_hba.conf").exists() {
        write(data, "pg_hba.conf", "# Made by lifeboat: the original was not stored.\nlocal all all peer\n")?;
        made.push("`pg_hba.conf` that lets the server's own user in: the original was not stored".to_owned());
    }
    Ok(made)
}

/// Writes a file of the configuration with the owner of the data directory; false where it is so already.
fn write(data: &Path, name: &str, text: &str) -> Result<bool, Error> {
    let path = data.join(name);
    let fail = |source| Error::Io { doing: "write", path: path.clone(), source };
    if fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_file())
        && fs::read(&path).is_ok_and(|b| b == text.as_bytes())
    {
        return Ok(false);
    }
    // Under a name of its own first: what is there may be a link that leads out.
    let staged = data.join(format!("{name}.lifeboat-part"));
    let written = fs::write(&staged, text).and_then(|()| {
        let meta = fs::metadata(data)?;
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&staged, Some(meta.uid()), Some(meta.gid()))?;
        }
        fs::set_permissions(&staged, fs::Permissions::from_mode(0o600))?;
        fs::rename(&staged, &path)
    });
    written.map_err(fail)?;
    Ok(true)
}
