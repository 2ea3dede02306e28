//! The server's side of a base backup: one session from `pg_backup_start` to `pg_backup_stop`.
//!
//! Invariants: before anything is read it is proven that the directory at hand is the server's: the same cluster, and a
//! checkpoint in its `pg_control` that is not older than the backup's start. Not here: the directory's files.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use chrono::{TimeZone, Utc};

use super::describe::describe;
use super::pages::PAGE;
use crate::client::postgres::Session;
use crate::client::{self, Connection};
use crate::format::backup_label::parse_tablespace_map;
use crate::format::pg_control::ControlFile;
use crate::model::base::{BadPages, BaseBackup, Tablespace};
use crate::model::lsn::{Lsn, SegmentSize, SystemId, Timeline};
use crate::source::Error;

/// How a base backup is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseOptions {
    /// The source's name.
    pub source: String,
    /// How the server is reached.
    pub connection: String,
    /// A file with nothing but the password.
    pub password_file: Option<PathBuf>,
    /// Its data directory; absent where the server tells it.
    pub data_directory: Option<PathBuf>,
    /// Whether a damaged page makes the backup fail, in place of marking it.
    pub fail_on_page_errors: bool,
    /// How; absent where that is chosen by what is at hand.
    pub via: Option<Via>,
    /// Where PostgreSQL's programs lie.
    pub bin_dir: Option<PathBuf>,
    /// Where archives lie before they are stored, where a cluster with tablespaces is taken over the replication protocol.
    pub work_dir: Option<PathBuf>,
}

impl BaseOptions {
    /// The same with the password of its file in the connection: what reaches the server.
    pub fn with_password(&self) -> Result<Self, Error> {
        let Some(path) = &self.password_file else { return Ok(self.clone()) };
        let fail = |source| client::Error::Io { doing: "read the password file", path: path.clone(), source };
        let mut text = String::new();
        File::open(path).and_then(|file| file.take(PASSWORD_MAX).read_to_string(&mut text)).map_err(fail)?;
        let password = text.trim_end_matches(['\r', '\n']).to_owned();
        let connection = Connection::parse(&self.connection)?.with_password(password).with_secrets();
        Ok(Self { connection, password_file: None, ..self.clone() })
    }
}

/// How a base backup is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Via {
    /// The data directory is read here.
    Local,
    /// The server sends it, by the replication protocol.
    Replication,
}

/// What `pg_backup_stop` gave.
pub(super) struct Stopped {
    pub label: String,
    pub tablespace_map: String,
    pub base: BaseBackup,
}

/// A backup that has begun.
pub(super) struct Running {
    session: Session,
    data: PathBuf,
    base: BaseBackup,
}

/// Bytes of a password's file at most.
const PASSWORD_MAX: u64 = 64 << 10;
/// Tries to read a `pg_control` that the server is writing at that moment.
const CONTROL_TRIES: u32 = 50;
/// The oldest and the newest major version that is known.
const MAJORS: std::ops::RangeInclusive<u32> = 15..=18;

impl Running {
    pub fn begin(options: &BaseOptions, session: Session) -> Result<Self, Error> {
        let mut base = ask(&session, options, true)?;
        let data = match &options.data_directory {
            Some(path) => path.clone(),
            None => PathBuf::from(
                &session.row::<1>("ask for its data directory", "SELECT current_setting('data_directory')")?[0],
            ),
        };
        let (found, _) = read_control(&data)?;
        if found.system_id != base.system_id {
            return Err(Error::OtherCluster {
                path: data,
                found: found.system_id.to_string(),
                server: base.system_id.to_string(),
            });
        }
        let [start] = session.row("begin a backup", "SELECT pg_backup_start('lifeboat', true)")?;
        let start: Lsn = start.parse().map_err(|_| session.unfit("begin a backup", start))?;
        let [timeline] = session.row("ask for its timeline", "SELECT timeline_id FROM pg_control_checkpoint()")?;
        let timeline = Timeline(timeline.parse().map_err(|_| session.unfit("ask for its timeline", timeline))?);
        // A copy, a snapshot or a stale mount of the directory has an older checkpoint.
        let (after, _) = read_control(&data)?;
        if after.checkpoint < start {
            return Err(Error::StaleDirectory { path: data, checkpoint: after.checkpoint, start });
        }
        base.tablespaces = tablespaces(&session)?;
        (base.start, base.timeline) = (start, timeline);
        Ok(Self { session, data, base })
    }

    pub fn data_directory(&self) -> &Path {
        &self.data
    }

    /// Where it began, if its pages can be verified.
    pub fn verifies_from(&self) -> Option<Lsn> {
        let pages = self.base.settings.get("block_size").is_some_and(|size| *size == PAGE.to_string());
        (self.base.checksums && pages).then_some(self.base.start)
    }

    /// Settings that a restore needs.
    pub fn settings(&self) -> &BTreeMap<String, String> {
        &self.base.settings
    }

    /// The tablespaces outside of it, by number. What is made from now on comes from the WAL.
    pub fn tablespaces(&self) -> HashSet<u32> {
        self.base.tablespaces.iter().map(|space| space.oid).collect()
    }

    /// A session that ended took the backup with it: found out before the end is claimed.
    pub fn check_alive(&self) -> Result<(), Error> {
        self.session.rows("go on with the backup", "SELECT 1").map(drop).map_err(Error::from)
    }

    pub fn stop(&mut self) -> Result<Stopped, Error> {
        let now_there = tablespaces(&self.session)?;
        let doing = "end the backup";
        let [stop, label, tablespace_map, now] = self.session.row(
            doing,
            "SELECT lsn, labelfile, spcmapfile, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
             FROM pg_backup_stop(wait_for_archive => false)",
        )?;
        let mut base = self.base.clone();
        base.stop = stop.parse().map_err(|_| self.session.unfit(doing, stop))?;
        let stopped = now.parse().ok().and_then(|micros| Utc.timestamp_micros(micros).single());
        base.stopped = stopped.ok_or_else(|| self.session.unfit(doing, now))?;
        // The server made the map when the backup began; one that is not in it is made by the replay.
        let map =
            parse_tablespace_map(tablespace_map.as_bytes()).map_err(|e| self.session.unfit(doing, e.to_string()))?;
        let is_mapped = |space: &Tablespace| map.iter().any(|mapped| mapped.oid == space.oid);
        base.tablespaces_made = base.tablespaces.iter().filter(|space| !is_mapped(space)).cloned().collect();
        base.tablespaces.retain(is_mapped);
        let known: HashSet<u32> =
            base.tablespaces.iter().chain(&base.tablespaces_made).map(|space| space.oid).collect();
        base.tablespaces_made.extend(now_there.into_iter().filter(|space| !known.contains(&space.oid)));
        Ok(Stopped { label, tablespace_map, base })
    }
}

/// What a server says of itself, before a backup begins: all but where that begins and stops. `here` says that it runs on this host.
pub(super) fn ask(session: &Session, options: &BaseOptions, here: bool) -> Result<BaseBackup, Error> {
    let doing = "ask what it is";
    let [version, system_id, segment, checksums, archiving] = session.row(
        doing,
        "SELECT current_setting('server_version_num'), s.system_identifier, w.setting, current_setting('data_checksums'),
         current_setting('archive_mode') FROM pg_control_system() s, pg_settings w WHERE w.name = 'wal_segment_size'",
    )?;
    let number = |text: &str| text.parse::<u64>().map_err(|_| session.unfit(doing, text));
    let server_version = number(&version)? as u32;
    if !MAJORS.contains(&(server_version / 10_000)) {
        return Err(Error::Version { found: server_version / 10_000, oldest: *MAJORS.start(), newest: *MAJORS.end() });
    }
    if archiving == "off" {
        return Err(Error::NoArchive(session.place().to_owned()));
    }
    let system_id: SystemId = system_id.parse().map_err(|_| session.unfit(doing, system_id))?;
    let segment_size = SegmentSize::new(number(&segment)?).ok_or_else(|| session.unfit(doing, segment))?;
    let (settings, environment) = describe(session, &options.connection, here)?;
    Ok(BaseBackup {
        system_id,
        server_version,
        timeline: Timeline(0),
        start: Lsn(0),
        stop: Lsn(0),
        stopped: crate::model::Moment::UNIX_EPOCH,
        segment_size,
        stream: BaseBackup::stream_name(&options.source, system_id, server_version / 10_000),
        checksums: checksums == "on",
        tablespaces: tablespaces(session)?,
        tablespaces_made: Vec::new(),
        bad_pages: BadPages::default(),
        settings,
        environment,
    })
}

/// Reads `pg_control`, again while the server is writing it: what it says, and its bytes.
pub(super) fn read_control(data: &Path) -> Result<(ControlFile, Vec<u8>), Error> {
    let path = data.join("global/pg_control");
    let fail = |source| Error::Stream { what: format!("`{}`", path.display()), source };
    let mut last = String::new();
    for _ in 0..CONTROL_TRIES {
        let mut bytes = Vec::new();
        File::open(&path).and_then(|file| file.take(64 << 10).read_to_end(&mut bytes)).map_err(fail)?;
        match ControlFile::parse(&bytes) {
            Ok(found) => return Ok((found, bytes)),
            Err(flaw) => last = flaw.to_string(),
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    Err(fail(std::io::Error::other(last)))
}

pub(super) fn tablespaces(session: &Session) -> Result<Vec<Tablespace>, Error> {
    let doing = "list its tablespaces";
    let sql = "SELECT oid, spcname, pg_tablespace_location(oid) FROM pg_tablespace
               WHERE pg_tablespace_location(oid) LIKE '/%' ORDER BY oid";
    let rows = session.rows(doing, sql)?;
    let read = |row: Vec<Option<String>>| match row.as_slice() {
        [Some(oid), Some(name), Some(path)] => {
            oid.parse().ok().map(|oid| Tablespace { oid, name: name.clone(), path: path.clone() })
        }
        _ => None,
    };
    rows.into_iter().map(|row| read(row).ok_or_else(|| Error::from(session.unfit(doing, "a row")))).collect()
}
