//! `check --live`: can this source be backed up now? A cluster is connected to, its rights and settings are looked at, a segment is
//! ended and seen to arrive in the repository, and the archiver's own numbers are compared with what is there.
//!
//! Invariants: "it arrives" is said only of a segment that was seen in the store; what PostgreSQL counts as archived and the store
//! does not have is a problem, whatever else is in order. Not here: the stored bytes (`check`), and backups.

mod archiver;
mod convex;

use std::time::{Duration, Instant};

use serde::Serialize;

use self::archiver::{slots, statistics};
pub use self::convex::{check_deployment, glance_deployment};
use super::Error;
use crate::client::postgres::Session;
use crate::model::base::BaseBackup;
use crate::model::sight::{self, Sight};
use crate::model::{Moment, SegmentPlace};
use crate::progress::{Event, Progress};
use crate::repository::{self, Repository};
use crate::source::postgres::BaseOptions;

/// How often the store is asked.
const PAUSE: Duration = Duration::from_millis(200);
/// How often the archiver is asked whether it counts what has arrived.
const COUNTING: u32 = 50;

/// How a finding is to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Weight {
    /// As it should be.
    Fine,
    /// It works, and costs something that a person should know.
    Warning,
    /// Backups or restores do not work with it.
    Problem,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How it is to be taken.
    pub weight: Weight,
    /// What was looked at, in a word or two.
    pub what: &'static str,
    /// What was found.
    pub found: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The slot that it is about.
    #[serde(skip)]
    slot: Option<String>,
}

/// Everything that was looked at.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct LiveReport {
    /// In the order in which it was looked at.
    pub findings: Vec<Finding>,
    /// Seconds until the ended segment was in the repository.
    pub arrived_seconds: Option<f64>,
    /// Of a deployment: for how many hours changes can be read, at least.
    pub reach_hours: Option<u64>,
}

/// Warnings that grow into problems while nobody looks: `status` tells of them too.
const GROWING: [&str; 3] = ["slot", "lag", "retention"];

impl LiveReport {
    fn push(&mut self, weight: Weight, what: &'static str, found: impl Into<String>, hint: Option<String>) {
        self.findings.push(Finding { weight, what, found: found.into(), hint, slot: None });
    }
    fn fine(&mut self, what: &'static str, found: impl Into<String>) {
        self.push(Weight::Fine, what, found, None);
    }
    fn warn(&mut self, what: &'static str, found: impl Into<String>, hint: impl Into<String>) {
        self.push(Weight::Warning, what, found, Some(hint.into()));
    }
    fn problem(&mut self, what: &'static str, found: impl Into<String>, hint: impl Into<String>) {
        self.push(Weight::Problem, what, found, Some(hint.into()));
    }
    /// The last finding is about this slot.
    fn of_slot(&mut self, name: &str) {
        if let Some(last) = self.findings.last_mut() {
            last.slot = Some(name.to_owned());
        }
    }
    /// What `status` shall know of it: one a slot, one a word.
    pub fn sights(&self, at: Moment) -> Vec<Sight> {
        let mut sights: Vec<Sight> = Vec::new();
        for finding in &self.findings {
            let what = finding.slot.as_deref().map_or_else(|| sight::live(finding.what), sight::slot);
            let tells = finding.weight == Weight::Problem
                || (finding.weight == Weight::Warning && GROWING.contains(&finding.what));
            let words = tells.then(|| match &finding.slot {
                Some(_) => format!("slot {}", finding.found),
                None => finding.found.clone(),
            });
            match sights.iter_mut().find(|one| one.what == what) {
                Some(one) => {
                    one.words = one.words.take().into_iter().chain(words).reduce(|all, more| all + "; " + &more)
                }
                None => sights.push(Sight::new(what, at, words)),
            }
        }
        if let Some(hours) = self.reach_hours {
            let facts = serde_json::json!(sight::Reach { hours });
            sights.push(Sight { facts, ..Sight::new(sight::RETENTION.to_owned(), at, None) });
        }
        sights
    }
    /// The heaviest finding.
    pub fn weight(&self) -> Weight {
        self.findings.iter().map(|finding| finding.weight).max().unwrap_or(Weight::Fine)
    }
}

/// A cluster that answers.
struct Greeted<'r> {
    session: Session,
    role: String,
    standby: bool,
    store: Archived<'r>,
}

fn greet<'r>(repository: &'r Repository, options: &BaseOptions, report: &mut LiveReport) -> Result<Greeted<'r>, Error> {
    let connect = |e| Error::from(crate::source::Error::from(e));
    let options = &options.with_password()?;
    let session = Session::connect(&options.connection).map_err(connect)?;
    let [version, system_id, role, standby] = session
        .row(
            "ask what it is",
            "SELECT current_setting('server_version_num'), system_identifier, quote_ident(current_user), pg_is_in_recovery()
             FROM pg_control_system()",
        )
        .map_err(connect)?;
    let major = version.parse::<u32>().unwrap_or(0) / 10_000;
    let standby = standby == "t";
    let kind = if standby { "a standby" } else { "a primary" };
    report.fine("connection", format!("{}: PostgreSQL {major}, {kind}, cluster {system_id}", session.place()));
    let stream = match system_id.parse() {
        Ok(id) => BaseBackup::stream_name(&options.source, id, major),
        Err(_) => return Err(connect(session.unfit("ask what it is", system_id))),
    };
    Ok(Greeted { session, role, standby, store: Archived { repository, stream } })
}

/// A glance at a cluster: its archiver and its slots. Nothing is waited for, and nothing is done to it.
pub fn glance_cluster(repository: &Repository, options: &BaseOptions) -> Result<LiveReport, Error> {
    let mut report = LiveReport::default();
    let Greeted { session, store, .. } = greet(repository, options, &mut report)?;
    statistics(&session, &store, &mut report)?;
    slots(&session, &mut report).map_err(|e| Error::from(crate::source::Error::from(e)))?;
    Ok(report)
}

/// Looks at a cluster. Ends a segment of its log, and waits up to `patience` until that is in the repository.
pub fn check_cluster(
    repository: &Repository,
    options: &BaseOptions,
    patience: Duration,
    progress: &dyn Progress,
) -> Result<LiveReport, Error> {
    let connect = |e| Error::from(crate::source::Error::from(e));
    let mut report = LiveReport::default();
    let Greeted { session, role, standby, store } = greet(repository, options, &mut report)?;
    let can_switch = rights(&session, &role, &mut report).map_err(connect)?;
    let archives = settings(&session, &mut report).map_err(connect)?;
    if standby {
        report.warn(
            "arrival",
            "a standby ends no segments of its own: whether its log arrives was not tried",
            "Run it against the primary too.",
        );
    } else if can_switch
        && archives
        && let Some(name) = arrival(&session, &store, patience, progress, &mut report)?
    {
        counted(&session, &name)?;
    }
    if !standby {
        branch(&session, &store, &mut report)?;
    }
    statistics(&session, &store, &mut report)?;
    slots(&session, &mut report).map_err(connect)?;
    Ok(report)
}

type Asked<T> = Result<T, crate::client::postgres::Error>;

/// Whether the role may do what a backup does; returns whether it may end a segment.
fn rights(session: &Session, role: &str, report: &mut LiveReport) -> Asked<bool> {
    let [start, stop, switch, settings] = session.row(
        "look at the role's rights",
        "SELECT has_function_privilege('pg_backup_start(text, boolean)', 'EXECUTE'),
                has_function_privilege('pg_backup_stop(boolean)', 'EXECUTE'),
                has_function_privilege('pg_switch_wal()', 'EXECUTE'),
                pg_has_role(current_user, 'pg_read_all_settings', 'USAGE')",
    )?;
    let functions = [(&start, "pg_backup_start(text, boolean)"), (&stop, "pg_backup_stop(boolean)")];
    let lacks: Vec<&str> = functions.iter().filter(|(has, _)| *has != "t").map(|(_, name)| *name).collect();
    if !lacks.is_empty() {
        let grant = format!("As a superuser: `GRANT EXECUTE ON FUNCTION {} TO {role}`.", lacks.join(", "));
        report.problem("rights", format!("{role} may not take base backups"), grant);
    }
    if settings != "t" {
        let grant = format!("As a superuser: `GRANT pg_read_all_settings TO {role}`.");
        report.problem("rights", format!("{role} may not read the data directory's place and other settings"), grant);
    }
    if switch != "t" {
        let grant = format!("As a superuser: `GRANT EXECUTE ON FUNCTION pg_switch_wal() TO {role}`; then this again.");
        report.problem(
            "rights",
            format!("{role} may not end a segment, so it was not seen whether one arrives"),
            grant,
        );
    }
    if lacks.is_empty() && settings == "t" && switch == "t" {
        report.fine("rights", format!("{role} may take base backups and end segments"));
    }
    Ok(switch == "t")
}

/// Looks at the settings; returns whether the server archives at all.
fn settings(session: &Session, report: &mut LiveReport) -> Asked<bool> {
    let [mode, command, library, level, pages, timeout] = session.row(
        "read its settings",
        "SELECT current_setting('archive_mode'), current_setting('archive_command'), current_setting('archive_library', true),
                current_setting('wal_level'), current_setting('full_page_writes'),
                (SELECT setting FROM pg_settings WHERE name = 'archive_timeout')",
    )?;
    let command = if command == "(disabled)" { String::new() } else { command };
    if mode == "off" {
        let hint = "In postgresql.conf: `archive_mode = on` and `archive_command = 'lifeboat wal push %p'`; then restart the server.";
        report.problem("archiving", "archive_mode is off: no log is kept, and base backups are refused", hint);
    } else if command.is_empty() && library.is_empty() {
        let hint = "In postgresql.conf: `archive_command = 'lifeboat wal push %p'`; then `SELECT pg_reload_conf()`.";
        report.problem("archiving", "archive_command is empty: the server keeps its log until its disk is full", hint);
    } else if !command.contains("wal push") {
        let hint = "If it calls `lifeboat wal push` by another name, that is well: what arrives is what counts.";
        report.warn("archiving", format!("archive_command is `{command}`, which does not name `wal push`"), hint);
    } else {
        report.fine("archiving", format!("archive_mode is {mode}, archive_command pushes"));
    }
    match level.as_str() {
        "minimal" => {
            let hint = "In postgresql.conf: `wal_level = replica`; then restart the server.";
            report.problem("wal_level", "wal_level is minimal: base backups cannot be made consistent", hint);
        }
        _ => report.fine("wal_level", level),
    }
    if pages != "on" {
        let hint = "In postgresql.conf: `full_page_writes = on`, unless the storage never tears a page of 8 KiB.";
        report.warn(
            "full_page_writes",
            "full_page_writes is off: a crash can tear pages, and backups keep what is torn",
            hint,
        );
    }
    if timeout == "0" {
        let hint = "In postgresql.conf: `archive_timeout = 60s`; or run `lifeboat follow`.";
        report.warn(
            "rpo",
            "archive_timeout is 0: on a quiet server the last changes stay unarchived without a bound",
            hint,
        );
    } else {
        report.fine("rpo", format!("a segment is ended after {timeout} s at the latest"));
    }
    Ok(mode != "off" && !(command.is_empty() && library.is_empty()))
}

/// The stream of a cluster, whoever writes it.
struct Archived<'r> {
    repository: &'r Repository,
    stream: String,
}

impl Archived<'_> {
    fn has(&self, name: &str) -> Result<bool, Error> {
        let epoch: String = name.chars().take(8).collect();
        let Some(place) = SegmentPlace::new(&self.stream, &epoch, name) else { return Ok(false) };
        for writer in self.repository.store().folders("writers").map_err(repository::Error::from)? {
            if !self.repository.segments_in_store(&writer, &place)?.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Whether another server archives into this cluster's stream: on a newer timeline than the server is on.
fn branch(session: &Session, store: &Archived<'_>, report: &mut LiveReport) -> Result<(), Error> {
    let own = session.row("ask for its timeline", "SELECT substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)");
    let [own] = own.map_err(|e| Error::from(crate::source::Error::from(e)))?;
    let mut newest: Option<String> = None;
    for writer in store.repository.store().folders("writers").map_err(repository::Error::from)? {
        let stream = format!("writers/{writer}/streams/{}", store.stream);
        let epochs = store.repository.store().folders(&stream).map_err(repository::Error::from)?;
        newest = newest.max(epochs.into_iter().filter(|epoch| epoch.len() == 8 && *epoch > own).max());
    }
    let number = |epoch: &str| u32::from_str_radix(epoch, 16).unwrap_or(0);
    match newest {
        None => report.fine("timeline", format!("{}, the newest that the repository has", number(&own))),
        Some(newest) => report.problem(
            "timeline",
            format!(
                "the repository has timeline {}, this server is on {}: another server archives here, or did, and restores from base \
                 backups before the fork follow it",
                number(&newest),
                number(&own)
            ),
            "Stop it, or its archiving (`--archive-mode-off` for tests). If this server is the right one, take a base backup of it: \
             later restores follow this one from there on.",
        ),
    }
    Ok(())
}

/// Waits until the archiver counts a segment that has arrived: its command may still be on its way out.
fn counted(session: &Session, name: &str) -> Result<(), Error> {
    for _ in 0..COUNTING {
        let sql = "SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver";
        let [last] = session.row("ask the archiver", sql).map_err(|e| Error::from(crate::source::Error::from(e)))?;
        if last.as_str() >= name {
            break;
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// Ends a segment with something in it, and waits until the store has it: its name where it does.
fn arrival(
    session: &Session,
    store: &Archived<'_>,
    patience: Duration,
    progress: &dyn Progress,
    report: &mut LiveReport,
) -> Result<Option<String>, Error> {
    let connect = |e| Error::from(crate::source::Error::from(e));
    // A message in the log: without anything in it a segment is not ended.
    let doing = "end a segment of its log";
    session.rows(doing, "SELECT pg_logical_emit_message(true, 'lifeboat', 'check --live')").map_err(connect)?;
    let [name] = session.row(doing, "SELECT pg_walfile_name(pg_current_wal_insert_lsn())").map_err(connect)?;
    session.rows(doing, "SELECT pg_switch_wal()").map_err(connect)?;
    progress.event(Event::Stage("waiting for the segment"));
    let begun = Instant::now();
    loop {
        if store.has(&name)? {
            let seconds = begun.elapsed().as_secs_f64();
            report.arrived_seconds = Some(seconds);
            report.fine("arrival", format!("{name} was ended and is in the repository, {seconds:.1} s later"));
            return Ok(Some(name));
        }
        if progress.cancelled() {
            return Err(repository::Error::Cancelled.into());
        }
        if begun.elapsed() >= patience {
            break;
        }
        std::thread::sleep(PAUSE);
    }
    let [failed, when, done] = session
        .row(
            "ask the archiver",
            "SELECT coalesce(last_failed_wal, ''), coalesce(last_failed_time::text, ''), coalesce(last_archived_wal, '')
             FROM pg_stat_archiver",
        )
        .map_err(connect)?;
    let waited = patience.as_secs();
    if done >= name {
        let hint = "archive_command says 0 and stores elsewhere: another repository, another source name, or `true`.";
        report.problem(
            "arrival",
            format!("PostgreSQL counts {name} as archived, and it is not in the repository"),
            hint,
        );
    } else if failed.is_empty() {
        report.problem(
            "arrival",
            format!("{name} was ended and did not arrive within {waited} s"),
            "Look at the server's log.",
        );
    } else {
        let found = format!("{name} did not arrive within {waited} s; archiving of {failed} failed last at {when}");
        report.problem("arrival", found, "The server's log has lifeboat's message, with the cause and what to do.");
    }
    Ok(None)
}

/// Looks at a server whose databases are dumped.
pub fn check_dumps(source: &crate::source::PgDumpSource) -> Result<LiveReport, Error> {
    let mut report = LiveReport::default();
    let found = source.look_live()?;
    report.fine("connection", format!("{}: PostgreSQL {}", found.server, found.version));
    report.fine("databases", found.databases.join(", "));
    for program in &found.programs {
        report.fine("programs", format!("{} is {}", program.path.display(), program.version));
    }
    Ok(report)
}
