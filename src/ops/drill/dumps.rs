//! Drills of dumps: a server of its own, made for the drill, into which they are restored; rows are counted against the snapshot.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::checks::{Asked, plain, server};
use super::scratch::Scratch;
use super::tree::{lay, look_at_files};
use super::{CheckEnd, Held, Phase, Stopping};
use crate::catalog::SnapshotRow;
use crate::client::{self, Program, Programs};
use crate::model::dump::DumpInfo;
use crate::ops::recover::start_scratch;
use crate::ops::restore::server::{ServerOptions, carry_out, plan, read_info, tablespaces_of};
use crate::ops::{Error, Kind, chain};
use crate::plan::restore::Choice;
use crate::repository::Repository;

/// The superuser of the server.
const ROLE: &str = "lifeboat_drill";
/// How long a server without anything to replay may take to answer.
const PATIENCE: Duration = Duration::from_secs(120);

pub(super) fn hold(
    repository: &mut Repository,
    snapshot: SnapshotRow,
    choice: &Choice,
    held: &mut Held<'_>,
    scratch: &Scratch,
) -> Result<(), Error> {
    let info = read_info(repository, &snapshot, held.progress)?;
    let major = info.server_version_num / 10_000;
    let programs = Programs::new(held.options.bin_dir.clone());
    let initdb = programs.nearest("initdb", major, "the server that was dumped", major)?;
    let postgres = programs.of_major("postgres", initdb.major)?;
    let owner = owner(held.options.user.as_deref())?;
    let prepared = lay(repository, snapshot, choice, held, scratch, "dumps")?;
    held.enter(Phase::Check);
    if !look_at_files(repository, &prepared, held)? {
        return Ok(());
    }
    held.enter(Phase::Start);
    let data = scratch.directory("server")?;
    init(&initdb, &data, owner)?;
    let mut running = Stopping(start_scratch(&data, &postgres, ROLE)?);
    let progress = held.progress;
    // An empty server that does not start says nothing of the dumps.
    let post = running.0.await_ready(PATIENCE, &|| progress.cancelled()).map_err(|e| match e {
        e if e.kind() == Kind::Cancelled => e,
        e => Error::Io { doing: "start a server in", path: data.clone(), source: std::io::Error::other(chain(&e)) },
    })?;
    let asked = Asked::find(&post, running.0.roles(), programs, postgres.major)?;
    held.enter(Phase::Replay);
    load(&asked, info, &scratch.path("dumps"), held)?;
    let first = held.record.checks.iter().find_map(|check| check.name.strip_prefix("rows "));
    let database = first.unwrap_or("postgres").to_owned();
    server(&asked, held, &database)
}

/// Of a process of root: as whom the server runs, for PostgreSQL refuses root.
fn owner(user: Option<&str>) -> Result<Option<(u32, u32)>, Error> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let name = user.unwrap_or("postgres");
    let found = uzers::get_user_by_name(name).map(|user| (user.uid(), user.primary_group_id()));
    let none = || client::Error::NoUser { user: name.to_owned() };
    Ok(Some(found.ok_or_else(none)?))
}

fn init(initdb: &Program, data: &Path, owner: Option<(u32, u32)>) -> Result<(), Error> {
    let io = |source| Error::Io { doing: "make a server in", path: data.to_owned(), source };
    let mut command = Command::new(&initdb.path);
    command.args(["--username", ROLE, "--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--no-sync", "-D"]);
    command.arg(data).current_dir("/").stdin(Stdio::null()).env("LC_ALL", "C");
    if let Some((uid, gid)) = owner {
        std::os::unix::fs::chown(data, Some(uid), Some(gid)).map_err(io)?;
        command.uid(uid).gid(gid);
    }
    let output = command.output().map_err(|source| client::Error::Spawn { program: initdb.path.clone(), source })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    Err(io(std::io::Error::other(last.chars().take(300).collect::<String>())))
}

/// Loads the dumps; each database's rows are a check.
fn load(asked: &Asked<'_>, info: DumpInfo, folder: &Path, held: &mut Held<'_>) -> Result<(), Error> {
    let globals = info.globals.clone();
    if let Some(globals) = &globals {
        tablespaces(asked, &folder.join(globals))?;
    }
    let options = ServerOptions {
        connection: plain(&asked.server())?,
        bin_dir: held.options.bin_dir.clone(),
        jobs: None,
        clean: false,
        create: true,
        globals: globals.is_some(),
        no_owner: globals.is_none() && info.format != crate::model::DumpFormat::Plain,
        tables: Vec::new(),
        databases: Vec::new(),
    };
    let restore = plan(info, options)?;
    let mut all = Vec::new();
    carry_out(&restore, folder, held.progress, &mut |restored| all.push(restored))?;
    for restored in all {
        held.check(&format!("rows {}", restored.database), |_| {
            Ok(match (restored.rows, restored.differences.first()) {
                (None, _) => (CheckEnd::Skipped, "rows were not counted when it was dumped".to_owned()),
                (Some(rows), None) => {
                    (CheckEnd::Passed, format!("tables: {}, rows: {rows}, as in the snapshot", restored.tables))
                }
                (Some(_), Some(first)) => {
                    let found =
                        first.found.map_or_else(|| "is not there".to_owned(), |rows| format!("has {rows} rows"));
                    let text = format!("{}.{} {found}, {} in the snapshot", first.schema, first.table, first.expected);
                    (CheckEnd::Failed, text)
                }
            })
        })?;
    }
    Ok(())
}

/// Tablespaces of the original would be made where they lie there, beside its own files: here they lie inside the server's directory.
fn tablespaces(asked: &Asked<'_>, globals: &Path) -> Result<(), Error> {
    let names = tablespaces_of(globals)?;
    if names.is_empty() {
        return Ok(());
    }
    let session = asked.session("postgres")?;
    for name in names {
        let sql =
            format!("SET allow_in_place_tablespaces = on; CREATE TABLESPACE {} LOCATION ''", client::identifier(&name));
        session.rows("make a tablespace", &sql).map_err(crate::source::Error::from)?;
    }
    Ok(())
}
