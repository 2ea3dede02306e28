//! A base backup over the replication protocol: what PostgreSQL's own `pg_basebackup` sends, taken apart into the same entries that
//! the data directory at hand would give.
//!
//! Its archive comes on its standard output; where there are tablespaces it cannot, and goes through a directory of ours. The
//! framing is stripped, each file is cut from its own start. Invariants: `pg_control` is held back and stored disarmed; nothing is a
//! snapshot unless the program ended well (damaged pages apart, which it names) and the manifest said where the backup stops.
//! The server itself waits until it has archived the WAL. Not here: facts of the host, which only the server's own tells.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::Stdio;
use std::sync::Mutex;
use std::thread::JoinHandle;

use chrono::{TimeZone, Utc};
use serde::Deserialize;

use super::below;
use super::server::{BaseOptions, ask, tablespaces};
use crate::client::postgres::Session;
use crate::client::{self, Connection, Leash, PrivateDir, Program, Programs, Running, Said};
use crate::format::backup_label::{BackupLabel, parse_tablespace_map};
use crate::format::pg_control::{self, ControlFile};
use crate::model::base::{BadPage, BadPages, BaseBackup, Tablespace};
use crate::model::lsn::Lsn;
use crate::model::{Cutting, Entry, EntryKind, RawText, RelPath};
use crate::source::tarball::{open_member, read_members};
use crate::source::{Error, Found, FoundEntry, Late, Opened, Source};

/// Bytes of a manifest at most: some 150 for each file.
const MANIFEST_MAX: u64 = 1 << 30;
/// Bytes of a label or a map at most.
const SMALL_MAX: u64 = 1 << 20;

/// A cluster that is reached through its server alone.
pub struct RemoteSource {
    options: BaseOptions,
    session: Mutex<Session>,
    /// What is known before it begins.
    asked: BaseBackup,
    program: Program,
    connection: Connection,
    leash: Leash,
    running: Mutex<Option<Running>>,
    held: Mutex<Held>,
    base: Mutex<Option<BaseBackup>>,
}

/// What is not passed on as it comes.
#[derive(Default)]
struct Held {
    control: Option<(Entry, Vec<u8>)>,
    label: Option<Vec<u8>>,
    map: Vec<u8>,
    /// Read by a thread of its own: a long one comes while the walk goes on.
    manifest: Option<JoinHandle<std::io::Result<Vec<u8>>>>,
    /// What the program said, where it ended before its archive was read.
    said: Option<Said>,
}

/// Of `backup_manifest`, what is needed.
#[derive(Deserialize)]
struct Manifest {
    #[serde(rename = "WAL-Ranges")]
    ranges: Vec<WalRange>,
}

#[derive(Deserialize)]
struct WalRange {
    #[serde(rename = "End-LSN")]
    end: String,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl RemoteSource {
    /// Asks the server what it is. The backup begins when the source is walked.
    pub(super) fn new(options: &BaseOptions, session: Session) -> Result<Self, Error> {
        let asked = ask(&session, options, false)?;
        let programs = Programs::new(options.bin_dir.clone());
        let program = programs.nearest("pg_basebackup", asked.major(), "the server", asked.major())?;
        let connection = Connection::parse(&options.connection)?;
        Ok(Self {
            options: options.clone(),
            session: Mutex::new(session),
            asked,
            program,
            connection,
            leash: Leash::default(),
            running: Mutex::default(),
            held: Mutex::default(),
            base: Mutex::default(),
        })
    }

    fn broken(&self, why: impl Into<String>) -> Error {
        Error::Archive { what: format!("the output of `{}`", self.program.name()), why: why.into() }
    }

    fn start(&self, to: &Path) -> Result<Running, Error> {
        let mut arguments: Vec<String> = [
            "--format=tar",
            "--wal-method=none",
            "--checkpoint=fast",
            "--label=lifeboat",
            "--no-password",
            "--manifest-checksums=NONE",
            "--no-sync",
        ]
        .map(str::to_owned)
        .to_vec();
        arguments.push(format!("--pgdata={}", to.display()));
        arguments.push(format!("--dbname={}", self.connection.argument()));
        Ok(Running::start(&self.program, &arguments, &self.connection, &self.leash, Stdio::null())?)
    }

    /// Its end: clean, or with damaged pages that it named. A server that tells of them has sent everything.
    fn ended(&self, running: Running) -> Result<Said, Error> {
        match running.finish() {
            Err(client::Error::Failed { source, .. })
                if !self.options.fail_on_page_errors && !bad_pages(&source).is_none() =>
            {
                Ok(source)
            }
            other => Ok(other?),
        }
    }

    /// One archive, whose members lie below `prefix`.
    fn walk_archive(
        &self,
        what: &str,
        stream: Box<dyn Read + Send + '_>,
        prefix: Option<&RelPath>,
        each: &mut dyn FnMut(Found) -> bool,
    ) -> Result<(), Error> {
        let (mut trouble, mut has_root) = (Ok(()), prefix.is_some());
        read_members(what, stream, &mut |found| {
            // The archive does not say the directory itself: its owner is that of the files, its mode the server's.
            if let (false, Found::Entry(first)) = (has_root, &found) {
                has_root = true;
                let mode = self.asked.settings.get("data_directory_mode");
                let mode = mode.and_then(|mode| u32::from_str_radix(mode, 8).ok()).unwrap_or(0o700);
                let root = Entry { mode, path: RelPath::root(), kind: EntryKind::Dir, ..first.entry.clone() };
                if !each(Found::Entry(Box::new(FoundEntry::new(root, 0, false)))) {
                    return false;
                }
            }
            let found = match prefix {
                Some(prefix) => below(prefix, found),
                None => found,
            };
            match self.member(found) {
                Ok(Some(found)) => each(found),
                Ok(None) => true,
                Err(e) => {
                    trouble = Err(e);
                    false
                }
            }
        })?;
        trouble
    }

    /// What of a member is passed on.
    fn member(&self, found: Found) -> Result<Option<Found>, Error> {
        let Found::Entry(mut found) = found else { return Ok(Some(found)) };
        let text = found.entry.path.to_string();
        let body = || lock(&found.body).take().map(|body| body.bytes);
        let small = |body: Option<Box<dyn Read + Send>>| {
            let mut bytes = Vec::new();
            let read = body.map_or(Ok(0), |body| body.take(SMALL_MAX).read_to_end(&mut bytes));
            read.map(|_| bytes).map_err(|e| self.broken(e.to_string()))
        };
        let mut held = lock(&self.held);
        match text.as_str() {
            "backup_label" => held.label = Some(small(body())?),
            "tablespace_map" => held.map = small(body())?,
            "global/pg_control" => held.control = Some((found.entry.clone(), small(body())?)),
            "backup_manifest" => {
                let bytes = body().ok_or_else(|| self.broken("its manifest is empty"))?;
                held.manifest = Some(std::thread::spawn(move || {
                    let mut all = Vec::new();
                    bytes.take(MANIFEST_MAX).read_to_end(&mut all).map(|_| all)
                }));
            }
            _ if text.starts_with("pg_wal/") || text == ".lifeboat" || text.starts_with(".lifeboat/") => {}
            _ => {
                let is_space = |space: &Tablespace| text == format!("pg_tblspc/{}", space.oid);
                if matches!(found.entry.kind, EntryKind::Symlink { .. }) && text.starts_with("pg_tblspc/") {
                    // Made since: replay makes it, and stops at a directory with files.
                    if !self.asked.tablespaces.iter().any(is_space) {
                        return Ok(None);
                    }
                    (found.entry.kind, found.entry.mode) = (EntryKind::Dir, 0o700);
                }
                drop(held);
                return Ok(Some(Found::Entry(found)));
            }
        }
        Ok(None)
    }

    /// Through a directory: one archive for each tablespace.
    fn walk_directory(&self, each: &mut dyn FnMut(Found) -> bool) -> Result<(), Error> {
        let mut spool = PrivateDir::name(self.options.work_dir.as_deref())?;
        let directory = spool.make()?.to_owned();
        let said = self.ended(self.start(&directory)?)?;
        let open = |name: &str| {
            let path = directory.join(name);
            File::open(&path).map_err(|source| Error::Root { path, source })
        };
        let manifest = open("backup_manifest")?;
        let mut held = lock(&self.held);
        held.manifest = Some(std::thread::spawn(move || {
            let mut all = Vec::new();
            manifest.take(MANIFEST_MAX).read_to_end(&mut all).map(|_| all)
        }));
        held.said = Some(said);
        drop(held);
        self.walk_archive("base.tar", Box::new(open("base.tar")?), None, each)?;
        for space in &self.asked.tablespaces {
            let name = format!("{}.tar", space.oid);
            if !directory.join(&name).exists() {
                continue;
            }
            let prefix = RelPath::new(format!("pg_tblspc/{}", space.oid)).unwrap_or_default();
            self.walk_archive(&name, Box::new(open(&name)?), Some(&prefix), &mut |found| match &found {
                // The directory itself came as the link to it.
                Found::Entry(entry) if entry.entry.path == prefix => true,
                _ => each(found),
            })?;
        }
        Ok(())
    }

    /// Where it stops, by its manifest.
    fn stop(&self) -> Result<Lsn, Error> {
        let thread = lock(&self.held).manifest.take().ok_or_else(|| self.broken("it has no manifest"))?;
        let read = thread.join().unwrap_or_else(|_| Err(std::io::Error::other("reading broke off")));
        let bytes = read.map_err(|e| self.broken(e.to_string()))?;
        let manifest: Manifest =
            serde_json::from_slice(&bytes).map_err(|e| self.broken(format!("its manifest: {e}")))?;
        // A backup of a standby may go over several timelines; the last range is where it stopped.
        let last = manifest.ranges.iter().filter_map(|range| range.end.parse::<Lsn>().ok()).max();
        last.ok_or_else(|| self.broken("its manifest does not say where it stops"))
    }

    /// Facts of what came.
    fn facts_of(&self, label: &BackupLabel, map: &[u8], said: &Said) -> Result<BaseBackup, Error> {
        let session = lock(&self.session);
        let doing = "ask for the time";
        let [now] = session.row(doing, "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint::text")?;
        let stopped = now.parse().ok().and_then(|micros| Utc.timestamp_micros(micros).single());
        let mut base = self.asked.clone();
        (base.start, base.timeline, base.stop) = (label.start, label.timeline, self.stop()?);
        base.stopped = stopped.ok_or_else(|| session.unfit(doing, now))?;
        base.bad_pages = bad_pages(said);
        let map = parse_tablespace_map(map).map_err(|e| self.broken(e.to_string()))?;
        base.tablespaces.retain(|space| map.iter().any(|mapped| mapped.oid == space.oid));
        let known = base.tablespaces.clone();
        let later = tablespaces(&session)?.into_iter().filter(|space| known.iter().all(|own| own.oid != space.oid));
        base.tablespaces_made = later.collect();
        Ok(base)
    }
}

/// Damaged pages that the server warned of: `checksum verification failed in file "./base/5/16384", block 7: …`.
fn bad_pages(said: &Said) -> BadPages {
    let read = |line: &String| {
        let (_, rest) = line.split_once("checksum verification failed in file \"")?;
        let (path, rest) = rest.split_once("\", block ")?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let path = path.strip_prefix("./").unwrap_or(path).to_owned();
        Some(BadPage { path, block: rest[..digits].parse().ok()? })
    };
    let first: Vec<BadPage> = said.0.iter().filter_map(read).collect();
    BadPages { count: first.len() as u64, first }
}

impl Source for RemoteSource {
    fn kind(&self) -> &'static str {
        "postgres"
    }

    fn root(&self) -> String {
        self.connection.to_string()
    }

    fn walk(&self, each: &mut dyn FnMut(Found) -> bool) -> Result<(), Error> {
        if !self.asked.tablespaces.is_empty() {
            return self.walk_directory(each);
        }
        let mut running = self.start(Path::new("-"))?;
        let output = running.output().ok_or_else(|| self.broken("it has no output"))?;
        let walked = self.walk_archive(&self.program.name(), Box::new(output), None, each);
        if matches!(walked, Err(Error::Archive { .. })) {
            // Why it broke off is what it said itself.
            running.finish()?;
            return walked;
        }
        *lock(&self.running) = Some(running);
        walked
    }

    fn open(&self, found: &FoundEntry) -> Result<Opened<'_>, String> {
        open_member(found)
    }

    fn xattrs(&self, _entry: &Entry) -> BTreeMap<String, RawText> {
        BTreeMap::new()
    }

    fn cancel(&self) {
        self.leash.pull();
    }

    fn all_or_nothing(&self) -> bool {
        true
    }

    fn is_ordered(&self) -> bool {
        false
    }

    fn has_late(&self) -> bool {
        true
    }

    fn late(&self) -> Result<Vec<Late>, Error> {
        let running = lock(&self.running).take();
        let said = match running {
            Some(running) => self.ended(running)?,
            None => lock(&self.held).said.take().unwrap_or_default(),
        };
        let mut held = std::mem::take(&mut *lock(&self.held));
        let (entry, mut control) = held.control.take().ok_or_else(|| self.broken("it has no pg_control"))?;
        let label = held.label.take().ok_or_else(|| self.broken("it has no backup_label"))?;
        lock(&self.held).manifest = held.manifest.take();
        let parsed = BackupLabel::parse(&label).map_err(|e| self.broken(e.to_string()))?;
        let found = ControlFile::parse(&control).map_err(|e| self.broken(e.to_string()))?;
        if found.system_id != self.asked.system_id {
            return Err(self.broken(format!("it is of cluster {}", found.system_id)));
        }
        pg_control::disarm(&mut control).map_err(|e| self.broken(e.to_string()))?;
        let base = self.facts_of(&parsed, &held.map, &said)?;
        *lock(&self.base) = Some(base);
        let late = |path: &str, bytes: Vec<u8>, cutting: Cutting| {
            let path = RelPath::new(path.as_bytes().to_vec()).unwrap_or_default();
            Late { entry: Entry { path, ..entry.clone() }, bytes, cutting }
        };
        let mut all =
            vec![late("global/pg_control", control, Cutting::Pages), late("backup_label", label, Cutting::Fine)];
        if !held.map.is_empty() {
            all.push(late("tablespace_map", held.map, Cutting::Fine));
        }
        Ok(all)
    }

    fn facts(&self) -> serde_json::Value {
        lock(&self.base).as_ref().and_then(|base| serde_json::to_value(base).ok()).unwrap_or_default()
    }

    fn finish(&self) -> Result<(), Error> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_pages_are_read_from_what_the_server_warned_of() {
        let lines = [
            "WARNING:  checksum verification failed in file \"./base/5/16384\", block 7: calculated A1 but expected B2",
            "WARNING:  1 total checksum verification failure",
            "pg_basebackup: error: checksum error occurred",
        ];
        let found = bad_pages(&Said(lines.map(str::to_owned).to_vec()));
        assert_eq!((found.count, found.first[0].path.as_str(), found.first[0].block), (1, "base/5/16384", 7));
        assert!(bad_pages(&Said(vec!["pg_basebackup: error: other".to_owned()])).is_none());
    }
}
