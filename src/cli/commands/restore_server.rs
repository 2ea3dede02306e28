//! `restore --into postgresql://...`: dumps into a server. The plan has two halves: what is fetched, and what becomes of
//! which database.

use std::time::Instant;

use super::restore::{show_plan, warn_forgotten, warn_passed_over};
use crate::cli::Outcome;
use crate::cli::args::RestoreArgs;
use crate::cli::context::Context;
use crate::cli::output::{count, counted, duration};
use crate::cli::report::Failure;
use crate::client::{Connection, PrivateDir};
use crate::model::RawText;
use crate::ops::restore::server::{
    DatabasePlan, Restored, ServerOptions, ServerPlan, Target, carry_out, plan, read_info,
};
use crate::ops::restore::{Overwrite, RestoreOptions, find_snapshot, prepare, restore};
use crate::{destination, ops};

/// Tables that differ and are named, of each database.
const NAMED: usize = 20;

/// Runs it.
pub fn run(context: &Context, args: &RestoreArgs, url: &str) -> Result<Outcome, Failure> {
    refuse_flags(args)?;
    let options = options(context, args, url)?;
    let progress = context.progress(true);
    let (wanted, read_as) = context.wanted(&args.which)?;
    let (mut repository, _) = context.open(&*progress)?;
    let (snapshot, choice) = find_snapshot(&repository, &args.source, &wanted, args.exact)?;
    warn_passed_over(context, &choice);
    warn_forgotten(context, &snapshot);
    let info = read_info(&repository, &snapshot, &*progress);
    progress.clear();
    let server = plan(info?, options)?;
    let mut folder = PrivateDir::name(args.server.work_dir.as_deref())?;
    let into = folder.path().join("dumps");
    let selection = server.selection()?;
    let plain = RestoreOptions { selection, overwrite: Overwrite::Refuse, delete: false, verify: false };
    let prepared = prepare(&repository, snapshot, &choice, Some(&into), plain, &*progress);
    progress.clear();
    let prepared = prepared.map_err(|e| match e {
        ops::Error::Destination(destination::Error::NoSpace { .. }) => {
            let hint = "The dumps lie there until they are restored. Name a place with more room: `--work-dir DIR`.";
            Failure::new(e.kind(), e.to_string(), Some(hint.to_owned()))
        }
        e => e.into(),
    })?;
    show_plan(context, args, &prepared.plan, &repository, read_as.as_deref())?;
    show_server(context, args, &server.plan)?;
    if args.dry_run {
        context.ui.story("Nothing was written (--dry-run).");
        return Ok(Outcome::Done);
    }
    let started = Instant::now();
    folder.make()?;
    let laid = restore(&mut repository, &prepared, &*progress);
    progress.clear();
    laid?;
    let (mut outcome, mut told) = (Outcome::Done, Ok(()));
    let carried = carry_out(&server, &into, &*progress, &mut |restored| {
        progress.clear();
        if !restored.differences.is_empty() {
            outcome = Outcome::Damage;
        }
        let result = tell(context, &restored);
        told = std::mem::replace(&mut told, Ok(())).and(result);
    });
    progress.clear();
    carried?;
    told?;
    context.ui.story(format!("done in {}", duration(started.elapsed().as_secs_f64())));
    Ok(outcome)
}

/// Flags that mean files.
fn refuse_flags(args: &RestoreArgs) -> Result<(), Failure> {
    let of_files = [
        ("--include", !args.include.is_empty()),
        ("--exclude", !args.exclude.is_empty()),
        ("--below", args.below.is_some()),
        ("--overwrite", args.overwrite.is_some()),
        ("--delta", args.delta),
        ("--delete", args.delete),
        ("--verify", args.verify),
    ];
    match of_files.into_iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((flag, _)) => {
            let hint =
                "For a part of the dumps there are `--database NAME` and `--table TABLE`; rows are compared always.";
            Err(Failure::usage(format!("`{flag}` is for files, and `--into` names a PostgreSQL server"), hint))
        }
    }
}

fn options(context: &Context, args: &RestoreArgs, url: &str) -> Result<ServerOptions, Failure> {
    let (server, connection) = (&args.server, Connection::parse(url)?);
    if connection.has_password() {
        context.ui.warning(
            "a password on the command line is seen by everybody who lists the processes; PGPASSFILE, PGPASSWORD and \
             ~/.pgpass are not",
        );
    }
    let pair = |text: &String| match text.split_once('=') {
        Some((old, new)) => (old.to_owned(), Some(new.to_owned())),
        None => (text.clone(), None),
    };
    let databases: Vec<(String, Option<String>)> = server.database.iter().map(pair).collect();
    if databases.iter().any(|(old, new)| old.is_empty() || new.as_deref() == Some("")) {
        return Err(Failure::usage(
            "`--database` has an empty name",
            "Write it as `--database NAME` or `--database OLD=NEW`.",
        ));
    }
    let schemas: Vec<&str> = server.table.iter().filter_map(|table| Some(table.split_once('.')?.0)).collect();
    let mixed = !schemas.is_empty()
        && (schemas.len() < server.table.len() || schemas.iter().any(|schema| *schema != schemas[0]));
    if mixed {
        let hint = "`pg_restore` takes tables of one schema at a time: run it once for each.";
        return Err(Failure::usage("`--table` names several schemas", hint));
    }
    Ok(ServerOptions {
        connection,
        bin_dir: server.bin_dir.clone(),
        jobs: server.jobs,
        clean: server.clean,
        create: server.create,
        globals: server.globals,
        no_owner: server.no_owner,
        tables: server.table.clone(),
        databases,
    })
}

fn show_server(context: &Context, args: &RestoreArgs, plan: &ServerPlan) -> Result<(), Failure> {
    let ui = context.ui;
    if ui.json {
        return ui.json(&serde_json::json!({"message_type": "server_plan", "plan": plan}));
    }
    let say = |line: String| {
        if args.dry_run {
            return ui.answer(line);
        }
        ui.story(line);
        Ok(())
    };
    // `15.18 (Debian 15.18-0+deb12u1)`
    let short = |version: &str| version.split(' ').next().unwrap_or_default().to_owned();
    let (version, from) = (short(&plan.server_version), short(&plan.dumped_from));
    say(format!("server    {} (PostgreSQL {version}; dumped from {from})", plan.server))?;
    if plan.globals.is_some() {
        say("roles     those that are not there yet, and tablespaces".to_owned())?;
    }
    for database in &plan.databases {
        say(format!("database  {}", line(database, args.server.clean)))?;
    }
    Ok(())
}

/// A name of somebody else's, without characters that move the cursor.
fn plainly(name: &str) -> RawText {
    RawText(name.as_bytes().to_vec())
}

fn line(database: &DatabasePlan, clean: bool) -> String {
    let name = match database.from == database.into {
        true => plainly(&database.into).to_string(),
        false => format!("{} as {}", plainly(&database.from), plainly(&database.into)),
    };
    let state = match (database.target, database.tables_there) {
        (Target::There, 0) => "is there, empty".to_owned(),
        (Target::There, n) if clean => {
            format!("is there with {}; what the dump holds is dropped first", counted(n, "table", "tables"))
        }
        (Target::There, n) => format!("is there with {} that stay", counted(n, "other table", "other tables")),
        (Target::Created | Target::CreatedFromDump, _) => "is made".to_owned(),
    };
    let counts = match database.counted {
        Some((tables, rows)) => {
            format!("{}, {}", counted(tables, "table", "tables"), counted(rows, "row", "rows"))
        }
        None => "rows were not counted".to_owned(),
    };
    format!("{name}: {state}; {counts}")
}

fn tell(context: &Context, restored: &Restored) -> Result<(), Failure> {
    let ui = context.ui;
    if ui.json {
        return ui.json(&serde_json::json!({"message_type": "restored", "restored": restored}));
    }
    let tables = counted(restored.tables, "table", "tables");
    let what = match (restored.rows, restored.differences.len()) {
        (None, _) => format!("{tables}; the snapshot has no counts to compare with"),
        (Some(rows), 0) => format!("{tables}, {}, as in the snapshot", counted(rows, "row", "rows")),
        (Some(rows), n) => format!(
            "{tables}, {}; {} NOT as in the snapshot",
            counted(rows, "row", "rows"),
            counted(n as u64, "table is", "tables are")
        ),
    };
    ui.answer(format!("restored  {}: {what}", plainly(&restored.database)))?;
    for one in restored.differences.iter().take(NAMED) {
        let found = one.found.map_or_else(|| "it is not there".to_owned(), |rows| counted(rows, "row", "rows"));
        let name = plainly(&format!("{}.{}", one.schema, one.table));
        ui.answer(format!("  differs {name}: {found}, {} in the snapshot", count(one.expected)))?;
    }
    if restored.differences.len() > NAMED {
        ui.answer(format!("  and {} more", count((restored.differences.len() - NAMED) as u64)))?;
    }
    Ok(())
}
