//! A PostgreSQL cluster: a base backup through `pg_backup_start` and `pg_backup_stop` where its data directory is at hand; else, in
//! `remote`, over the replication protocol.
//!
//! Invariants: one session is open from start to stop; a file is read at most to the size that it had when it was listed, what
//! comes after is replayed from WAL; `pg_control` is read last, checked, and stored so that a server which is started without
//! its label refuses; nothing is written into the live directory. Not here: whether the WAL of the backup has arrived.

mod describe;
mod outside;
mod pages;
mod remote;
mod rules;
mod server;

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

pub use self::outside::conf_files_of;
use self::pages::{Checker, Verdicts, Verified};
pub use self::remote::RemoteSource;
use self::rules::{Fork, holds_relations, is_temporary, relation};
pub use self::server::{BaseOptions, Via};
use self::server::{Running, read_control};
use super::volume::VolumeSource;
use super::{Body, Error, Found, FoundEntry, Late, Opened, Rules, SmallRead, Source};
use crate::client::postgres::Session;
use crate::format::pg_control;
use crate::model::base::BaseBackup;
use crate::model::lsn::Lsn;
use crate::model::{Cutting, Entry, EntryKind, RawText, RelPath};

/// Times that a file may be replaced while it is opened.
const REPLACED_TIMES: u32 = 10;

/// A cluster under a base backup that has begun.
pub struct PostgresSource {
    data: PathBuf,
    volume: VolumeSource,
    /// Relations that begin empty after a crash: `directory/number`.
    unlogged: HashSet<String>,
    /// Tablespaces that were there when the backup began.
    spaces: HashSet<u32>,
    /// Configuration that lies elsewhere, by its path in the snapshot.
    outside: BTreeMap<String, Vec<u8>>,
    /// Where the backup began, if pages have checksums.
    verifies_from: Option<Lsn>,
    verdicts: Verdicts,
    fail_on_page_errors: bool,
    running: Mutex<Running>,
    base: Mutex<Option<BaseBackup>>,
}

/// Connects, and chooses the way: what is asked for, else the data directory where it is at hand, else the replication protocol
/// where this role may use it.
pub fn begin(options: &BaseOptions) -> Result<Box<dyn Source>, Error> {
    let options = &options.with_password()?;
    let session = Session::connect(&options.connection)?;
    let via = match options.via {
        Some(via) => via,
        None => choose(options, &session)?,
    };
    Ok(match via {
        Via::Local => Box::new(PostgresSource::begin(options, session)?),
        Via::Replication => Box::new(RemoteSource::new(options, session)?),
    })
}

fn choose(options: &BaseOptions, session: &Session) -> Result<Via, Error> {
    let [directory, system_id, may] = session.row(
        "ask where it lies",
        "SELECT coalesce((SELECT setting FROM pg_settings WHERE name = 'data_directory'), ''), s.system_identifier,
         r.rolreplication OR r.rolsuper FROM pg_control_system() s, pg_roles r WHERE r.rolname = current_user",
    )?;
    let data = options.data_directory.clone().unwrap_or_else(|| PathBuf::from(directory));
    let is_here = read_control(&data).is_ok_and(|(control, _)| control.system_id.to_string() == system_id);
    // Where neither way is open, the local one says what is missing.
    Ok(if is_here || may != "t" { Via::Local } else { Via::Replication })
}

impl PostgresSource {
    /// Begins the backup. Files are read when the source is walked.
    pub fn begin(options: &BaseOptions, session: Session) -> Result<Self, Error> {
        let running = Running::begin(options, session)?;
        let data = running.data_directory().to_owned();
        let rules = Rules { exclude: rules::left_out(), ..Rules::default() };
        let volume = VolumeSource::new(&data, &rules)?;
        let unlogged = unlogged(&data)?;
        let spaces = running.tablespaces();
        let outside = outside::gather(&data, running.settings());
        Ok(Self {
            data,
            volume,
            unlogged,
            spaces,
            outside,
            verifies_from: running.verifies_from(),
            verdicts: Verdicts::default(),
            fail_on_page_errors: options.fail_on_page_errors,
            running: Mutex::new(running),
            base: Mutex::default(),
        })
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn wants(&self, path: &RelPath) -> bool {
        let Ok(text) = std::str::from_utf8(path.as_bytes()) else { return true };
        let Some((directory, name)) = text.rsplit_once('/') else { return true };
        if !holds_relations(directory) {
            return true;
        }
        match relation(name) {
            Some((_, Fork::Init)) => true,
            Some((number, Fork::Content)) => !self.unlogged.contains(&format!("{directory}/{number}")),
            None => !is_temporary(name),
        }
    }

    /// What a link in the directory leads to becomes a directory of the snapshot: `pg_wal`, and tablespaces.
    fn follow(&self, path: &RelPath, each: &mut dyn FnMut(Found) -> bool) -> Result<Option<bool>, Error> {
        let is_wal = path.as_bytes() == b"pg_wal";
        if !is_wal && path.parent().is_none_or(|parent| parent.as_bytes() != b"pg_tblspc") {
            return Ok(None);
        }
        let number = std::str::from_utf8(path.name()).ok().and_then(|name| name.parse().ok());
        if !is_wal && !number.is_some_and(|oid| self.spaces.contains(&oid)) {
            // Made since the backup began: replay makes it, and stops at a directory with files.
            return Ok(Some(true));
        }
        let target = self.absolute(path);
        if !is_wal && fs::metadata(&target).is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound) {
            // Dropped since.
            return Ok(Some(true));
        }
        let rules = match is_wal {
            true => Rules { exclude: vec!["*".to_owned()], ..Rules::default() },
            false => Rules { exclude: rules::left_out(), ..Rules::default() },
        };
        let mut go_on = true;
        VolumeSource::new(&target, &rules)?.walk(&mut |found| {
            go_on = self.pass(below(path, found), each);
            go_on
        })?;
        Ok(Some(go_on))
    }

    fn pass(&self, found: Found, each: &mut dyn FnMut(Found) -> bool) -> bool {
        match found {
            // What goes between the listing and the look was dropped meanwhile; WAL replays that.
            Found::Skipped { path, .. } if self.is_gone(&path) => true,
            Found::Entry(found) if !self.wants(&found.entry.path) => true,
            // Holes of a relation are zeros to PostgreSQL; a stable size matters more.
            Found::Entry(found) => each(Found::Entry(Box::new(FoundEntry { sparse: false, ..*found }))),
            skipped @ Found::Skipped { .. } => each(skipped),
        }
    }

    /// Sends the configuration that lies elsewhere on, each file behind its directories. False when nobody listens any more.
    fn walk_outside(&self, each: &mut dyn FnMut(Found) -> bool) -> Result<bool, Error> {
        let meta =
            |path: &Path| fs::symlink_metadata(path).map_err(|source| Error::Root { path: path.to_owned(), source });
        let directory = meta(&self.data)?;
        let mut made: HashSet<RelPath> = HashSet::new();
        // In path order: a directory before what is in it, and names of one directory together.
        let mut all: Vec<(RelPath, &Vec<u8>)> = Vec::new();
        for (path, bytes) in &self.outside {
            all.extend(RelPath::new(path.as_bytes().to_vec()).ok().map(|path| (path, bytes)));
        }
        all.sort_by(|a, b| a.0.cmp(&b.0));
        for (path, bytes) in all {
            let mut above: Vec<RelPath> = std::iter::successors(path.parent(), RelPath::parent).collect();
            above.retain(|parent| !parent.is_root() && made.insert(parent.clone()));
            for parent in above.into_iter().rev() {
                let mut entry = self.volume.entry(parent, &directory, EntryKind::Dir);
                (entry.inode, entry.ctime) = (None, None);
                if !each(Found::Entry(Box::new(FoundEntry::new(entry, 0, false)))) {
                    return Ok(false);
                }
            }
            let mut found = FoundEntry::new(self.made(&path.to_string())?, bytes.len() as u64, false);
            let bytes = Box::new(std::io::Cursor::new(bytes.clone()));
            found.body = Mutex::new(Some(Body { bytes, data: None }));
            if !each(Found::Entry(Box::new(found))) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads a file; where the server has put another one in its place meanwhile, as it does at checkpoints, that one. Returns its
    /// size beside what was read.
    fn newest<T>(
        &self,
        found: &FoundEntry,
        read: &mut dyn FnMut(&FoundEntry) -> Result<T, String>,
    ) -> Result<(T, u64), String> {
        use std::os::unix::fs::MetadataExt;
        let mut tried = read(found).map(|done| (done, found.size));
        for _ in 0..REPLACED_TIMES {
            if tried.is_ok() {
                break;
            }
            let Ok(meta) = fs::symlink_metadata(self.absolute(&found.entry.path)) else { break };
            if Some(meta.ino()) == found.entry.inode || !meta.is_file() {
                break;
            }
            let mut again = FoundEntry::new(found.entry.clone(), meta.len(), false);
            again.entry.inode = Some(meta.ino());
            tried = read(&again).map(|done| (done, meta.len()));
        }
        tried
    }

    /// Who verifies the pages of a file, if it has any. The file is opened once more, to read again what looks damaged.
    fn checker(&self, path: &RelPath) -> Option<Checker<'_>> {
        let start = self.verifies_from?;
        let text = std::str::from_utf8(path.as_bytes()).ok()?;
        let (directory, name) = text.rsplit_once('/')?;
        if !holds_relations(directory) {
            return None;
        }
        relation(name)?;
        let segment = name.split_once('.').map_or(Some(0), |(_, segment)| segment.parse().ok())?;
        let again = fs::File::open(self.absolute(path)).ok();
        Some(Checker::new(&self.verdicts, text.to_owned(), segment, start, again))
    }

    fn absolute(&self, path: &RelPath) -> PathBuf {
        self.data.join(std::ffi::OsStr::from_bytes(path.as_bytes()))
    }

    fn is_gone(&self, path: &RelPath) -> bool {
        fs::symlink_metadata(self.absolute(path)).is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound)
    }

    /// `pg_control`, whole and disarmed.
    fn control(&self) -> Result<Vec<u8>, Error> {
        let (_, mut bytes) = read_control(&self.data)?;
        let fail = |flaw: pg_control::Flaw| Error::Stream {
            what: format!("`{}`", self.data.join("global/pg_control").display()),
            source: std::io::Error::other(flaw.to_string()),
        };
        pg_control::disarm(&mut bytes).map_err(fail)?;
        Ok(bytes)
    }

    /// An entry for a file that the backup itself makes, with the owner and the mode of `pg_control`.
    fn made(&self, path: &str) -> Result<Entry, Error> {
        let like = self.data.join("global/pg_control");
        let meta = fs::symlink_metadata(&like).map_err(|source| Error::Root { path: like, source })?;
        let path = RelPath::new(path.as_bytes().to_vec()).unwrap_or_default();
        let kind =
            self.volume.kind_of(&self.data, &meta).map_err(|source| Error::Root { path: self.data.clone(), source })?;
        let mut entry = self.volume.entry(path, &meta, kind);
        // It is no file of the directory that a next run could take over unread.
        (entry.inode, entry.ctime) = (None, None);
        Ok(entry)
    }
}

/// The bytes of an entry that is no file of the directory.
fn body_of(found: &FoundEntry) -> Option<Body> {
    found.body.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
}

/// The same below another directory.
fn below(directory: &RelPath, found: Found) -> Found {
    let join = |path: &RelPath| match path.is_root() {
        true => directory.clone(),
        false => directory.join(path.as_bytes()).unwrap_or_else(|_| directory.clone()),
    };
    match found {
        Found::Entry(mut found) => {
            found.entry.path = join(&found.entry.path);
            Found::Entry(found)
        }
        Found::Skipped { path, why } => Found::Skipped { path: join(&path), why },
    }
}

/// Relations of which an `_init` fork exists, as `directory/number`.
fn unlogged(data: &Path) -> Result<HashSet<String>, Error> {
    let mut found = HashSet::new();
    let mut directories = vec!["global".to_owned()];
    let names = |directory: &str| -> Vec<String> {
        let listing = fs::read_dir(data.join(directory)).into_iter().flatten().flatten();
        listing.map(|entry| format!("{directory}/{}", entry.file_name().to_string_lossy())).collect()
    };
    directories.extend(names("base"));
    for space in names("pg_tblspc") {
        directories.extend(names(&space).iter().flat_map(|version| names(version)));
    }
    for directory in directories.iter().filter(|directory| holds_relations(directory)) {
        for path in names(directory) {
            if let Some((_, name)) = path.rsplit_once('/')
                && let Some((number, Fork::Init)) = relation(name)
            {
                found.insert(format!("{directory}/{number}"));
            }
        }
    }
    Ok(found)
}

impl Source for PostgresSource {
    fn kind(&self) -> &'static str {
        "postgres"
    }

    fn root(&self) -> String {
        self.data.display().to_string()
    }

    fn walk(&self, each: &mut dyn FnMut(Found) -> bool) -> Result<(), Error> {
        let (mut trouble, mut begun) = (Ok(()), false);
        self.volume.walk(&mut |found| {
            // Behind the root, where their paths belong.
            let is_root = matches!(&found, Found::Entry(found) if found.entry.path.is_root());
            if !is_root && !std::mem::replace(&mut begun, true) {
                match self.walk_outside(each) {
                    Ok(true) => {}
                    Ok(false) => return false,
                    Err(e) => {
                        trouble = Err(e);
                        return false;
                    }
                }
            }
            let link = match &found {
                Found::Entry(found) if matches!(found.entry.kind, EntryKind::Symlink { .. }) => {
                    Some(found.entry.path.clone())
                }
                _ => None,
            };
            match link.map(|path| self.follow(&path, each)) {
                Some(Ok(Some(go_on))) => go_on,
                Some(Err(e)) => {
                    trouble = Err(e);
                    false
                }
                Some(Ok(None)) | None => self.pass(found, each),
            }
        })?;
        trouble
    }

    fn open(&self, found: &FoundEntry) -> Result<Opened<'_>, String> {
        if let Some(body) = body_of(found) {
            let changed = Box::new(|| None);
            let (size, xattrs) = (found.size, BTreeMap::new());
            return Ok(Opened { file: body.bytes, data: None, cutting: Cutting::Fine, xattrs, size, changed });
        }
        let (opened, size) = self.newest(found, &mut |found| self.volume.open(found))?;
        let limited = opened.file.take(size);
        let file: Box<dyn Read + Send> = match self.checker(&found.entry.path) {
            Some(checker) => Box::new(Verified::new(limited, checker)),
            None => Box::new(limited),
        };
        // It may change while it is read: what changes is in the WAL.
        Ok(Opened { file, data: None, xattrs: BTreeMap::new(), changed: Box::new(|| None), ..opened })
    }

    fn read_small(&self, found: &FoundEntry, into: &mut Vec<u8>) -> Result<SmallRead, String> {
        let start = into.len();
        if let Some(mut body) = body_of(found) {
            body.bytes.read_to_end(into).map_err(|e| e.to_string())?;
            return Ok(SmallRead { cutting: Cutting::Fine, xattrs: BTreeMap::new(), changed: None });
        }
        let (read, size) = self.newest(found, &mut |found| {
            into.truncate(start);
            self.volume.read_small(found, into)
        })?;
        into.truncate(into.len().min(start + size as usize));
        if let Some(checker) = self.checker(&found.entry.path) {
            checker.check(&into[start..], 0);
        }
        Ok(SmallRead { changed: None, ..read })
    }

    fn xattrs(&self, _entry: &Entry) -> BTreeMap<String, RawText> {
        BTreeMap::new()
    }

    fn all_or_nothing(&self) -> bool {
        false
    }

    fn forgives(&self, path: &RelPath) -> bool {
        self.is_gone(path)
    }

    fn distrusts(&self, path: &RelPath) -> bool {
        std::str::from_utf8(path.as_bytes()).is_ok_and(|path| self.verdicts.condemns(path))
    }

    fn has_late(&self) -> bool {
        true
    }

    fn late(&self) -> Result<Vec<Late>, Error> {
        let mut running = self.running();
        running.check_alive()?;
        let control = self.control()?;
        let mut stopped = running.stop()?;
        stopped.base.bad_pages = self.verdicts.settle(stopped.base.stop);
        if let (true, Some(bad)) = (self.fail_on_page_errors, stopped.base.bad_pages.first.first()) {
            let (count, path) = (stopped.base.bad_pages.count, bad.path.clone());
            return Err(Error::BadPages { count, path, block: bad.block });
        }
        let mut all = vec![("global/pg_control", control), ("backup_label", stopped.label.into_bytes())];
        if !stopped.tablespace_map.is_empty() {
            all.push(("tablespace_map", stopped.tablespace_map.into_bytes()));
        }
        *self.base.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(stopped.base);
        let made = |(path, bytes): (&str, Vec<u8>)| {
            let cutting = if path.ends_with("pg_control") { Cutting::Pages } else { Cutting::Fine };
            Ok(Late { entry: self.made(path)?, bytes, cutting })
        };
        all.into_iter().map(made).collect()
    }

    fn facts(&self) -> serde_json::Value {
        let base = self.base.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        base.as_ref().and_then(|base| serde_json::to_value(base).ok()).unwrap_or_default()
    }

    fn finish(&self) -> Result<(), Error> {
        Ok(())
    }
}
