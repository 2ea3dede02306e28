//! What is looked at in a restored source: the user's command, SQL files whose rows must be true, PostgreSQL's own checks.
//!
//! Invariants: nothing waits longer than it may, and nothing that was started outlives the check; what a program prints is bounded.

use std::fs::File;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use super::{CheckEnd, Held, Phase};
use crate::client::postgres::Session;
use crate::client::{self, Connection, Program, Programs};
use crate::ops::canary::read_row;
use crate::ops::recover::Post;
use crate::ops::{Error, chain};
use crate::progress::Progress;
use crate::repository;

/// Bytes of a program's last words that are kept.
const SAID: u64 = 64 << 10;
/// Bytes of a file with SQL at most.
const SQL_MAX: u64 = 1 << 20;
/// Rows of a failing answer that are shown.
const ROWS_SHOWN: usize = 3;

/// What is looked at beyond what always is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checks {
    /// A line for the shell, run in the restored directory: 0 is good.
    pub command: Option<String>,
    /// Files with SQL: every row must begin with a true value, and there must be one.
    pub sql: Vec<PathBuf>,
    /// The database for those.
    pub database: Option<String>,
    /// `pg_amcheck` over all databases.
    pub amcheck: bool,
    /// `pg_checksums`, after the server was stopped.
    pub checksums: bool,
    /// `pg_dump` of all databases, to nowhere.
    pub full_read: bool,
    /// Leaves out what takes long: of databases in trees, SQLite's own check.
    pub is_quick: bool,
    /// How long each may take.
    pub patience: Duration,
}

impl Default for Checks {
    fn default() -> Self {
        Self {
            command: None,
            sql: Vec::new(),
            database: None,
            amcheck: true,
            checksums: true,
            full_read: true,
            is_quick: false,
            patience: Duration::from_secs(3600),
        }
    }
}

/// How a program ended.
enum Ended {
    Well,
    Badly(String),
    TooLate,
}

/// Runs a program to its end, at most `patience` long. Its last words come back where it did not end well.
fn run(mut command: Command, patience: Duration, progress: &dyn Progress) -> Result<(Ended, String), Error> {
    let what = format!("{command:?}").chars().take(200).collect::<String>();
    let io = |source| Error::Output { what: what.clone(), source };
    let mut said = tempfile_of_ours().map_err(io)?;
    let (out, err) = (said.try_clone().map_err(io)?, said.try_clone().map_err(io)?);
    let child = command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0).spawn();
    let mut child =
        child.map_err(|source| client::Error::Spawn { program: PathBuf::from(command.get_program()), source })?;
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().map_err(io)? {
            break Some(status);
        }
        if progress.cancelled() || begun.elapsed() > patience {
            let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
            let _ = child.wait();
            break None;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    if progress.cancelled() {
        return Err(repository::Error::Cancelled.into());
    }
    let words = last_words(&mut said).map_err(io)?;
    Ok((
        match status {
            None => Ended::TooLate,
            Some(status) if status.success() => Ended::Well,
            Some(status) => Ended::Badly(status.to_string()),
        },
        words,
    ))
}

/// A file without a name: what a program prints lands on no pipe that somebody would have to empty.
fn tempfile_of_ours() -> std::io::Result<File> {
    use rustix::fs::{Mode, OFlags, open};
    let folder = std::env::temp_dir();
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    Ok(File::from(open(&folder, flags, Mode::RUSR | Mode::WUSR)?))
}

fn last_words(said: &mut File) -> std::io::Result<String> {
    use std::io::{Seek, SeekFrom};
    let length = said.metadata()?.len();
    said.seek(SeekFrom::Start(length.saturating_sub(SAID)))?;
    let mut bytes = Vec::new();
    said.take(SAID).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let lines = lines[lines.len().saturating_sub(4)..].join(" | ");
    Ok(lines.chars().filter(|c| !c.is_control()).take(600).collect())
}

/// A check that is a program: it passes where that ends with 0.
fn program_check(
    command: Command,
    well: &str,
    patience: Duration,
    progress: &dyn Progress,
) -> Result<(CheckEnd, String), Error> {
    let (ended, words) = run(command, patience, progress)?;
    Ok(match ended {
        Ended::Well => (CheckEnd::Passed, well.to_owned()),
        Ended::Badly(how) => (CheckEnd::Failed, format!("{how}: {words}")),
        Ended::TooLate => (CheckEnd::Failed, format!("it did not end within {} s", patience.as_secs())),
    })
}

/// The user's own command in a restored directory.
pub(super) fn command(
    line: &str,
    directory: &Path,
    patience: Duration,
    progress: &dyn Progress,
) -> Result<(CheckEnd, String), Error> {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", line]).current_dir(directory);
    program_check(command, "it ended with 0", patience, progress)
}

/// A restored server, to be asked.
pub(super) struct Asked<'a> {
    /// Where it listens.
    pub post: &'a Post,
    /// As whom.
    pub role: String,
    /// Its programs.
    pub programs: Programs,
    /// Its major version.
    pub major: u32,
}

impl<'a> Asked<'a> {
    /// The first role that is let in.
    pub fn find(post: &'a Post, roles: &[String], programs: Programs, major: u32) -> Result<Self, Error> {
        let mut last = None;
        for role in roles {
            let asked = Asked { post, role: role.clone(), programs: programs.clone(), major };
            match asked.session("postgres") {
                Ok(_) => return Ok(asked),
                Err(e) => last = Some(e),
            }
        }
        Err(last.unwrap_or_else(|| client::Error::BadConnection("no role is known".to_owned()).into()))
    }

    /// A connection string to the server, with no word of a database.
    pub fn server(&self) -> String {
        format!("host={} port={} user={} sslmode=disable", quoted(&self.post.host), self.post.port, quoted(&self.role))
    }

    /// A connection string to one of its databases.
    fn connection(&self, database: &str) -> String {
        format!("{} dbname={}", self.server(), quoted(database))
    }

    pub fn session(&self, database: &str) -> Result<Session, Error> {
        let session = Session::connect(&self.connection(database));
        Ok(session.map_err(crate::source::Error::from)?)
    }

    fn databases(&self) -> Result<Vec<String>, Error> {
        let rows = self
            .session("postgres")?
            .rows("list the databases", "SELECT datname FROM pg_catalog.pg_database WHERE datallowconn ORDER BY 1");
        let rows = rows.map_err(crate::source::Error::from)?;
        Ok(rows.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect())
    }

    fn tool(&self, name: &str) -> Result<Command, Error> {
        let Program { path, .. } = self.programs.of_major(name, self.major)?;
        let mut command = Command::new(path);
        command.args(["--host", &self.post.host, "--port", &self.post.port.to_string(), "--username", &self.role]);
        command.arg("--no-password").current_dir("/").env("LC_ALL", "C");
        Ok(command)
    }
}

/// A value as libpq reads it.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// One file with SQL.
fn sql(asked: &Asked<'_>, file: &Path, database: &str, patience: Duration) -> Result<(CheckEnd, String), Error> {
    let io = |source| Error::Io { doing: "read", path: file.to_owned(), source };
    let mut text = String::new();
    File::open(file).map_err(io)?.take(SQL_MAX).read_to_string(&mut text).map_err(io)?;
    let session = asked.session(database)?;
    let prepare = format!("RESET search_path; SET statement_timeout = {}", patience.as_millis().min(i32::MAX as u128));
    session.rows("set its time limit", &prepare).map_err(crate::source::Error::from)?;
    let rows = match session.rows("run a check", &text) {
        Ok(rows) => rows,
        Err(e) => return Ok((CheckEnd::Failed, chain(&e))),
    };
    let is_true =
        |row: &&Vec<Option<String>>| matches!(row.first(), Some(Some(value)) if value == "t" || value == "true");
    let bad: Vec<_> = rows.iter().filter(|row| !is_true(row)).collect();
    if rows.is_empty() {
        return Ok((CheckEnd::Failed, "it answered no row, so it said nothing".to_owned()));
    }
    if bad.is_empty() {
        return Ok((CheckEnd::Passed, format!("rows: {}, each true", rows.len())));
    }
    let show = |row: &&Vec<Option<String>>| {
        let cells = row.iter().map(|cell| cell.as_deref().unwrap_or("NULL"));
        cells.collect::<Vec<_>>().join(", ").chars().filter(|c| !c.is_control()).take(200).collect::<String>()
    };
    let shown: Vec<String> = bad.iter().take(ROWS_SHOWN).map(show).collect();
    Ok((CheckEnd::Failed, format!("{} of {} rows are not true: ({})", bad.len(), rows.len(), shown.join("), ("))))
}

/// Asks the server the first thing that matters: the first file with SQL, or whether it answers at all. Then the source is back, and
/// everything else is looked at.
pub(super) fn server(asked: &Asked<'_>, held: &mut Held<'_>, database: &str) -> Result<(), Error> {
    held.enter(Phase::Assert);
    let checks = held.options.checks.clone();
    let database = checks.database.as_deref().unwrap_or(database);
    held.check("answers", |_| {
        let row = asked.session(database)?.row::<1>("answer", "SELECT count(*) FROM pg_catalog.pg_class");
        let [relations] = row.map_err(crate::source::Error::from)?;
        Ok((CheckEnd::Passed, format!("database `{database}`, relations: {relations}")))
    })?;
    let name = |file: &Path| format!("sql {}", file.file_name().unwrap_or_default().to_string_lossy());
    let mut files = checks.sql.iter();
    if let Some(first) = files.next() {
        held.check(&name(first), |_| sql(asked, first, database, checks.patience))?;
    }
    held.back();
    // A cluster's moments are told by its own clock, a dump's by that of the host that took it.
    let slack = chrono::TimeDelta::seconds(if held.read_from.is_some() { 60 } else { 0 });
    super::canary::look(held, slack, |canary| read_row(&asked.session(&canary.database)?, &canary.source))?;
    for file in files {
        held.check(&name(file), |_| sql(asked, file, database, checks.patience))?;
    }
    if checks.amcheck {
        held.check("pg_amcheck", |held| {
            let mut command = match asked.tool("pg_amcheck") {
                Ok(command) => command,
                Err(e) => return Ok((CheckEnd::Skipped, e.to_string())),
            };
            command.args(["--all", "--install-missing", "--jobs", "2"]);
            program_check(command, "all indexes and tables are consistent", checks.patience, held.progress)
        })?;
    }
    if checks.full_read {
        held.check("full read", |held| {
            let databases = asked.databases()?;
            for database in &databases {
                let mut command = match asked.tool("pg_dump") {
                    Ok(command) => command,
                    Err(e) => return Ok((CheckEnd::Skipped, e.to_string())),
                };
                command.args(["--file", "/dev/null", "--dbname", database]);
                let (end, detail) = program_check(command, "", checks.patience, held.progress)?;
                if end != CheckEnd::Passed {
                    return Ok((end, format!("{database}: {detail}")));
                }
            }
            Ok((CheckEnd::Passed, format!("every row was read; databases: {}", databases.len())))
        })?;
    }
    Ok(())
}

/// `pg_checksums` over a cluster whose server was stopped cleanly.
pub(super) fn checksums(
    programs: &Programs,
    major: u32,
    directory: &Path,
    owner: Option<(u32, u32)>,
    held: &mut Held<'_>,
) -> Result<(), Error> {
    if !held.options.checks.checksums {
        return Ok(());
    }
    held.check("pg_checksums", |held| {
        let Program { path, .. } = match programs.of_major("pg_checksums", major) {
            Ok(program) => program,
            Err(e) => return Ok((CheckEnd::Skipped, e.to_string())),
        };
        let mut command = Command::new(path);
        command.args(["--check", "-D"]).arg(directory).current_dir("/").env("LC_ALL", "C");
        if let Some((uid, gid)) = owner {
            command.uid(uid).gid(gid);
        }
        let patience = held.options.checks.patience;
        let (end, detail) = program_check(command, "every page has its checksum", patience, held.progress)?;
        match detail.contains("checksums are not enabled") {
            true => Ok((CheckEnd::Skipped, "the cluster has no page checksums".to_owned())),
            false => Ok((end, detail)),
        }
    })?;
    Ok(())
}

/// What programs for a connection without a password need.
pub(super) fn plain(connection: &str) -> Result<Connection, Error> {
    Ok(Connection::parse(connection)?)
}
