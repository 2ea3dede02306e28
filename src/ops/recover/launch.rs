//! A server that runs on a data directory: started as its owner, looked at, asked, stopped.
//!
//! It is our own child, so that its end is noticed at once, in a process group of its own, so that Ctrl-C reaches us first; it
//! goes on when we end. An isolated one listens on a socket that only its owner reaches, archives nothing, loads nothing and
//! talks to no other server: beside the original it can do no harm.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::evidence::{self, Post};
use super::{End, Expected, LastWords, PAUSE, RecoverError};
use crate::client::{self, Program, Programs};
use crate::model::Lsn;
use crate::model::base::BaseBackup;
use crate::ops::Error;

/// How long a server that was asked to stop may take before it is stopped the hard way.
const STOPPING: Duration = Duration::from_secs(60);
/// The longest path of a socket's directory that the kernel takes, with the socket's name behind it.
const SOCKET_MAX: usize = 80;

/// What keeps a server apart from everything else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Isolation {
    /// The directory of its socket; it must be there. Absent: the data directory.
    pub socket: Option<PathBuf>,
    /// The port, which is part of the socket's name.
    pub port: u16,
    /// Whether `shared_preload_libraries` are loaded: some tables cannot be read without, and some libraries begin to work.
    pub preload: bool,
}

impl Default for Isolation {
    fn default() -> Self {
        Self { socket: None, port: 5432, preload: false }
    }
}

/// What is started.
#[derive(Debug, Clone)]
pub struct Launch<'a> {
    /// The restored data directory, with its recovery settings.
    pub directory: &'a Path,
    /// The base backup that was laid down.
    pub base: &'a BaseBackup,
    /// Where PostgreSQL's programs lie; absent: where this process finds them.
    pub bin_dir: Option<PathBuf>,
    /// Apart from everything else, or as its configuration says.
    pub isolation: Option<Isolation>,
}

/// A running server.
pub struct Server {
    directory: PathBuf,
    log: PathBuf,
    child: Child,
    psql: Option<Program>,
    roles: Vec<String>,
    owner: Option<(u32, u32)>,
    ended: Option<ExitStatus>,
}

/// Of a process of root: the owner of a directory, as whom its server is run. `None` for every other process.
pub fn owner_beside_root(directory: &Path) -> Result<Option<(u32, u32)>, RecoverError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let io = |source| RecoverError::Io { doing: "look at", path: directory.to_owned(), source };
    let meta = fs::metadata(directory).map_err(io)?;
    match meta.uid() {
        0 => Err(RecoverError::AsRoot(directory.to_owned())),
        uid => Ok(Some((uid, meta.gid()))),
    }
}

impl Launch<'_> {
    /// Whether it can be started: programs, owner and configuration are looked at, nothing is changed.
    pub fn check(&self) -> Result<Program, Error> {
        let postgres = Programs::new(self.bin_dir.clone()).of_major("postgres", self.base.major())?;
        if self.directory.exists() {
            owner_beside_root(self.directory)?;
        }
        Ok(postgres)
    }

    /// Starts the server. It recovers when this returns.
    pub fn start(&self) -> Result<Server, Error> {
        let postgres = self.check()?;
        let directory = fs::canonicalize(self.directory).map_err(|source| RecoverError::Io {
            doing: "open",
            path: self.directory.to_owned(),
            source,
        })?;
        let owner = owner_beside_root(&directory)?;
        let settings = self.settings(&directory, owner)?;
        let named = std::env::var("PGUSER").ok().filter(|name| !name.is_empty());
        let first = self.base.environment.get("superuser").cloned();
        let roles = named.into_iter().chain(first).chain(["postgres".to_owned()]).collect();
        let psql = Programs::new(self.bin_dir.clone()).not_older("psql", self.base.major(), "the server").ok();
        spawn(directory, &postgres, psql, settings, roles, owner)
    }

    fn settings(
        &self,
        directory: &Path,
        owner: Option<(u32, u32)>,
    ) -> Result<Vec<(&'static str, String)>, RecoverError> {
        // Its words must be in the one log that we read, for as long as this start lasts.
        let mut all = vec![
            ("logging_collector", "off".to_owned()),
            ("log_destination", "stderr".to_owned()),
            ("lc_messages", "C".to_owned()),
        ];
        let has_configuration = directory.join("postgresql.conf").is_file();
        let Some(isolation) = &self.isolation else {
            let was = self.base.settings.get("config_file").cloned().unwrap_or_else(|| "elsewhere".to_owned());
            let missing = RecoverError::NoConfiguration { directory: directory.to_owned(), was };
            return if has_configuration { Ok(all) } else { Err(missing) };
        };
        let socket = isolation.socket.clone().unwrap_or_else(|| directory.to_owned());
        if socket.as_os_str().len() > SOCKET_MAX {
            let source = std::io::Error::other("its path is too long for a socket");
            return Err(RecoverError::Io { doing: "listen in", path: socket, source });
        }
        let hba = directory.join("lifeboat-isolated-hba.conf");
        write_for(&hba, "# Only the owner reaches the socket.\nlocal all all trust\n", owner)?;
        if !has_configuration {
            let conf = directory.join("lifeboat-isolated.conf");
            write_for(&conf, &minimal_configuration(self.base), owner)?;
            all.push(("config_file", conf.display().to_string()));
            all.push(("ident_file", hba.with_file_name("lifeboat-isolated-ident.conf").display().to_string()));
        }
        all.extend([
            ("hba_file", hba.display().to_string()),
            ("listen_addresses", String::new()),
            ("port", isolation.port.to_string()),
            ("unix_socket_directories", socket.display().to_string()),
            ("unix_socket_permissions", "0700".to_owned()),
            ("archive_mode", "off".to_owned()),
            ("ssl", "off".to_owned()),
            ("synchronous_standby_names", String::new()),
            ("primary_conninfo", String::new()),
            ("max_logical_replication_workers", "0".to_owned()),
        ]);
        if !isolation.preload {
            let lists = ["shared_preload_libraries", "session_preload_libraries", "local_preload_libraries"];
            all.extend(lists.map(|name| (name, String::new())));
        }
        Ok(all)
    }
}

/// Starts a server on a directory that `initdb` made: for dumps, apart from everything else, and without the care for power cuts.
pub fn start_scratch(directory: &Path, postgres: &Program, role: &str) -> Result<Server, Error> {
    let directory = fs::canonicalize(directory).map_err(|source| RecoverError::Io {
        doing: "open",
        path: directory.to_owned(),
        source,
    })?;
    let owner = owner_beside_root(&directory)?;
    let settings = vec![
        ("logging_collector", "off".to_owned()),
        ("log_destination", "stderr".to_owned()),
        ("lc_messages", "C".to_owned()),
        ("listen_addresses", String::new()),
        ("unix_socket_directories", directory.display().to_string()),
        ("unix_socket_permissions", "0700".to_owned()),
        ("fsync", "off".to_owned()),
        ("max_wal_size", "2GB".to_owned()),
    ];
    spawn(directory, postgres, None, settings, vec![role.to_owned()], owner)
}

fn spawn(
    directory: PathBuf,
    postgres: &Program,
    psql: Option<Program>,
    settings: Vec<(&'static str, String)>,
    roles: Vec<String>,
    owner: Option<(u32, u32)>,
) -> Result<Server, Error> {
    let log = evidence::log_place(&directory);
    let mut command = Command::new(&postgres.path);
    command.arg("-D").arg(&directory);
    for (name, value) in settings {
        command.arg("-c").arg(format!("{name}={value}"));
    }
    let output = open_log(&log, owner)?;
    let again = output.try_clone().map_err(|source| RecoverError::Io { doing: "open", path: log.clone(), source })?;
    command.current_dir("/").stdin(Stdio::null()).stdout(again).stderr(output).process_group(0);
    command.env("LC_MESSAGES", "C");
    if let Some((uid, gid)) = owner {
        command.uid(uid).gid(gid);
    }
    tracing::info!(program = %postgres.path.display(), directory = %directory.display(), "starting a server");
    let fail = |source| client::Error::Spawn { program: postgres.path.clone(), source };
    let child = command.spawn().map_err(fail)?;
    let beside = postgres.path.with_file_name("psql");
    let psql = match beside.is_file() {
        true => Some(Program { path: beside, ..postgres.clone() }),
        false => psql,
    };
    Ok(Server { directory, log, child, psql, roles, owner, ended: None })
}

/// Where the cluster's own is not in its directory: what a standby may not have less of than its primary.
fn minimal_configuration(base: &BaseBackup) -> String {
    let names = [
        "max_connections",
        "max_worker_processes",
        "max_wal_senders",
        "max_prepared_transactions",
        "max_locks_per_transaction",
        "wal_level",
    ];
    let known = names.iter().filter_map(|name| Some((name, base.settings.get(*name)?)));
    known.map(|(name, value)| format!("{name} = '{}'\n", value.replace('\'', "''"))).collect()
}

fn write_for(path: &Path, text: &str, owner: Option<(u32, u32)>) -> Result<(), RecoverError> {
    let written = fs::write(path, text).and_then(|()| give(&File::open(path)?, owner));
    written.map_err(|source| RecoverError::Io { doing: "write", path: path.to_owned(), source })
}

fn give(file: &File, owner: Option<(u32, u32)>) -> std::io::Result<()> {
    owner.map_or(Ok(()), |(uid, gid)| fchown(file, Some(uid), Some(gid)))
}

fn open_log(path: &Path, owner: Option<(u32, u32)>) -> Result<File, RecoverError> {
    let open = || {
        let folder = path.parent().unwrap_or(Path::new("."));
        if !folder.is_dir() {
            fs::DirBuilder::new().mode(0o700).create(folder)?;
            give(&File::open(folder)?, owner)?;
        }
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        give(&file, owner)?;
        Ok(file)
    };
    open().map_err(|source| RecoverError::Io { doing: "write", path: path.to_owned(), source })
}

impl Server {
    /// Its data directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Its log.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended
    }

    /// Where it listens, once it can be talked to.
    pub fn post(&self) -> Option<Post> {
        evidence::post(&self.directory, self.child.id())
    }

    /// The error for an end that was not to be.
    pub(super) fn last_words(&self, status: ExitStatus) -> RecoverError {
        let source = LastWords(evidence::last_words(&self.log));
        RecoverError::Ended { status: status.to_string(), log: self.log.clone(), source }
    }

    /// How far a server in recovery has replayed, once that is enough and it stands as it should.
    pub(super) fn replayed(&self, post: &Post, expected: Expected) -> Result<Option<Lsn>, RecoverError> {
        let sql = "SELECT pg_is_in_recovery(), pg_get_wal_replay_pause_state(), pg_last_wal_replay_lsn()";
        let line = self.ask(post, sql)?;
        let fields: Vec<&str> = line.split('|').collect();
        let [recovering, state, lsn] = fields[..] else { return Ok(None) };
        let Ok(reached) = lsn.parse::<Lsn>() else { return Ok(None) };
        if recovering != "t" {
            return Err(RecoverError::Unproven {
                directory: self.directory.clone(),
                why: "it was promoted".to_owned(),
            });
        }
        match (expected.end, state == "paused") {
            // At its target, and not there yet: it will not come any further.
            (End::Paused, true) if reached < expected.least => {
                Err(RecoverError::Short { reached, least: expected.least, log: self.log.clone() })
            }
            (End::Paused, paused) => Ok(paused.then_some(reached)),
            _ => Ok((reached >= expected.least).then_some(reached)),
        }
    }

    /// The roles that may be asked as, the likeliest first.
    pub fn roles(&self) -> &[String] {
        &self.roles
    }

    /// As whom a process of root runs its programs.
    pub fn owner(&self) -> Option<(u32, u32)> {
        self.owner
    }

    /// Waits until a server that recovers nothing takes connections. On every failure it is stopped.
    pub fn await_ready(&mut self, patience: Duration, cancelled: &dyn Fn() -> bool) -> Result<Post, Error> {
        let mut left = patience;
        let error = loop {
            if let Some(status) = self.ended() {
                break self.last_words(status);
            }
            if let Some(post) = self.post().filter(|post| self.ask(post, "SELECT 1").is_ok()) {
                return Ok(post);
            }
            if cancelled() {
                break RecoverError::GivenUp;
            }
            if left.is_zero() {
                let source = LastWords(evidence::last_words(&self.log));
                break RecoverError::Unasked { source };
            }
            std::thread::sleep(PAUSE);
            left = left.saturating_sub(PAUSE);
        };
        self.stop();
        Err(error.into())
    }

    /// One line of an answer, from the first role that may ask.
    fn ask(&self, post: &Post, sql: &str) -> Result<String, RecoverError> {
        let Some(psql) = &self.psql else {
            return Err(RecoverError::Unasked { source: LastWords("there is no psql beside it".to_owned()) });
        };
        let mut said = String::new();
        for role in &self.roles {
            let mut command = Command::new(&psql.path);
            command.args(["--no-psqlrc", "--no-password", "--quiet", "--no-align", "--tuples-only"]);
            command.args(["--host", &post.host, "--port", &post.port.to_string(), "--username", role]);
            command.args(["--dbname", "postgres", "--command", sql]).stdin(Stdio::null()).current_dir("/");
            command.env("LC_ALL", "C").env("PGCONNECT_TIMEOUT", "15");
            if let Some((uid, gid)) = self.owner {
                command.uid(uid).gid(gid);
            }
            match command.output() {
                Ok(output) if output.status.success() => {
                    return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
                }
                Ok(output) => said = String::from_utf8_lossy(&output.stderr).trim().to_owned(),
                Err(e) => said = e.to_string(),
            }
        }
        Err(RecoverError::Unasked { source: LastWords(said) })
    }

    /// Stops it: quickly and cleanly, then, if that takes too long, hard.
    pub fn stop(&mut self) {
        for (signal, patience) in [(Signal::INT, STOPPING), (Signal::QUIT, STOPPING), (Signal::KILL, PAUSE)] {
            let mut left = patience;
            if self.ended().is_none() {
                let _ = kill_process(Pid::from_child(&self.child), signal);
            }
            while self.ended().is_none() && !left.is_zero() {
                std::thread::sleep(PAUSE);
                left = left.saturating_sub(PAUSE);
            }
        }
    }
}
