//! The plan carried out: globals, then one database after another, each compared with its counts.

use std::collections::{BTreeMap, HashSet};
use std::io::Read;
use std::path::Path;

use serde::Serialize;

use super::globals::without_known;
use super::{DatabasePlan, ServerRestore, Target, create_statement, is_wanted, laid};
use crate::client::tables::{self, Table, Wanted};
use crate::client::{self, Connection, Leash, Program, Programs, Said, Session, run};
use crate::model::{DatabaseInfo, DumpFormat, TableRows};
use crate::ops::Error;
use crate::progress::{Event, Progress};
use crate::repository;

/// Lists of archives and of statements' answers at most.
const OUTPUT_MAX: u64 = 1 << 30;
/// The first version whose dumps set this; older servers do not know it, and it does nothing there.
const SETS_TRANSACTION_TIMEOUT: u32 = 17;

/// A database that was restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Restored {
    /// Its name now.
    pub database: String,
    /// Tables that the dump holds and that are there now.
    pub tables: u64,
    /// Their rows now, where they were counted.
    pub rows: Option<u64>,
    /// Tables whose rows differ from those that were counted when the dump was made.
    pub differences: Vec<Difference>,
}

/// A table that is not as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub table: String,
    /// Rows in the snapshot.
    pub expected: u64,
    /// Rows now; none where the table is not there.
    pub found: Option<u64>,
}

/// Carries a plan out; `folder` holds the dumps. `each` is told of every database that is restored.
pub fn carry_out(
    restore: &ServerRestore,
    folder: &Path,
    progress: &dyn Progress,
    each: &mut dyn FnMut(Restored),
) -> Result<(), Error> {
    let leash = Leash::default();
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Programs run for hours; a person who asks to stop is heard meanwhile.
        scope.spawn(|| {
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                if progress.cancelled() {
                    leash.pull();
                }
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
        });
        let result = Carrying { restore, folder, progress, leash: &leash }.all(each);
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        result.map_err(|e| if progress.cancelled() { repository::Error::Cancelled.into() } else { e })
    })
}

struct Carrying<'c> {
    restore: &'c ServerRestore,
    folder: &'c Path,
    progress: &'c dyn Progress,
    leash: &'c Leash,
}

impl Carrying<'_> {
    fn all(&self, each: &mut dyn FnMut(Restored)) -> Result<(), Error> {
        let plan = &self.restore.plan;
        if let Some(globals) = &plan.globals {
            self.progress.event(Event::Stage("restoring roles"));
            self.globals(&laid(self.folder, globals))?;
        }
        for database in &plan.databases {
            self.progress.event(Event::Stage("restoring"));
            let info = self.restore.info.databases.iter().find(|info| info.name == database.from);
            let Some(info) = info else { continue };
            let file = laid(self.folder, &database.path);
            if database.target == Target::Created {
                let mut session = self.session(&self.first())?;
                session.tell(&create_statement(info, &database.into))?;
                session.finish()?;
            }
            let held = match self.restore.info.format {
                DumpFormat::Plain => {
                    self.psql(&self.connection(&database.into), &file)?;
                    None
                }
                DumpFormat::Custom | DumpFormat::Directory => Some(self.pg_restore(database, info, &file)?),
            };
            self.progress.event(Event::Stage("counting rows"));
            each(self.compare(database, info, held)?);
        }
        Ok(())
    }

    fn connection(&self, database: &str) -> Connection {
        self.restore.options.connection.with_database(database)
    }

    fn first(&self) -> Connection {
        self.connection(&self.restore.first)
    }

    fn session(&self, connection: &Connection) -> Result<Session, Error> {
        Ok(Session::open(&self.restore.psql, connection, self.leash)?)
    }

    fn warn(&self, said: &Said) {
        for line in said.warnings() {
            self.progress.event(Event::Warning(line));
        }
    }

    /// Roles and tablespaces that are not there yet.
    fn globals(&self, file: &Path) -> Result<(), Error> {
        let io = |doing| move |source| Error::Io { doing, path: file.to_owned(), source };
        let text = std::fs::read_to_string(file).map_err(io("read"))?;
        let mut session = self.session(&self.first())?;
        let roles: Vec<String> =
            session.json("SELECT coalesce(jsonb_agg(rolname), '[]') FROM pg_roles", "the roles")?;
        let spaces: Vec<String> =
            session.json("SELECT coalesce(jsonb_agg(spcname), '[]') FROM pg_tablespace", "the tablespaces")?;
        session.finish()?;
        std::fs::write(file, without_known(&text, &roles, &spaces)).map_err(io("write"))?;
        self.psql(&self.first(), file)
    }

    fn psql(&self, connection: &Connection, file: &Path) -> Result<(), Error> {
        let arguments = [
            "--no-psqlrc",
            "--no-password",
            "--quiet",
            "--single-transaction",
            "--set=ON_ERROR_STOP=1",
            "--output=/dev/null",
            &format!("--file={}", file.display()),
            &format!("--dbname={}", connection.argument()),
        ]
        .map(str::to_owned);
        let (_, said) = run::run(&self.restore.psql, &arguments, connection, self.leash, OUTPUT_MAX)?;
        self.warn(&said);
        Ok(())
    }

    /// Restores an archive; answers the tables of the snapshot whose rows it holds.
    fn pg_restore(&self, plan: &DatabasePlan, info: &DatabaseInfo, file: &Path) -> Result<HashSet<usize>, Error> {
        let (options, dump) = (&self.restore.options, &self.restore.info);
        let major = self.restore.plan.server_version_num / 10_000;
        let of_dump = dump.pg_dump_version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0);
        let programs = Programs::new(options.bin_dir.clone());
        let pg_restore = programs.nearest("pg_restore", of_dump, "the dump", major)?;
        let connection = match plan.target {
            Target::CreatedFromDump => self.first(),
            Target::There | Target::Created => self.connection(&plan.into),
        };
        let mut arguments = vec!["--no-password".to_owned(), format!("--jobs={}", options.jobs.unwrap_or(1))];
        // An older server stumbles over a setting that it does not know; that error alone is passed over.
        let stumbles = pg_restore.major >= SETS_TRANSACTION_TIMEOUT && major < SETS_TRANSACTION_TIMEOUT;
        arguments.extend((!stumbles).then(|| "--exit-on-error".to_owned()));
        if options.clean && plan.target == Target::There {
            arguments.extend(["--clean".to_owned(), "--if-exists".to_owned()]);
        }
        arguments.extend((plan.target == Target::CreatedFromDump).then(|| "--create".to_owned()));
        if options.no_owner {
            arguments.extend(["--no-owner".to_owned(), "--no-privileges".to_owned()]);
        }
        arguments.extend(table_arguments(&options.tables));
        arguments.push(format!("--dbname={}", connection.argument()));
        arguments.push(file.display().to_string());
        let held = self.held(&pg_restore, info, file)?;
        let mut running =
            client::Running::start(&pg_restore, &arguments, &connection, self.leash, std::process::Stdio::null())?;
        if let Some(mut output) = running.output() {
            let _ = std::io::copy(&mut (&mut output).take(OUTPUT_MAX), &mut std::io::sink());
        }
        let said = match stumbles {
            false => running.finish()?,
            true => {
                let (status, said) = running.end();
                if !status.success() && !only_the_timeout(&said) {
                    return Err(running.explain(status, said).into());
                }
                Said(said.0.into_iter().filter(|line| !line.contains("errors ignored on restore")).collect())
            }
        };
        self.warn(&said);
        Ok(held)
    }

    /// Which of the counted tables have rows in an archive, by its own list.
    fn held(&self, pg_restore: &Program, info: &DatabaseInfo, file: &Path) -> Result<HashSet<usize>, Error> {
        let arguments = ["--list".to_owned(), file.display().to_string()];
        let (list, _) = run::run(pg_restore, &arguments, &self.first(), self.leash, OUTPUT_MAX)?;
        let all = info.tables.as_deref().unwrap_or_default();
        Ok(tables_in_list(&String::from_utf8_lossy(&list), all))
    }

    fn compare(
        &self,
        plan: &DatabasePlan,
        info: &DatabaseInfo,
        held: Option<HashSet<usize>>,
    ) -> Result<Restored, Error> {
        let mut session = self.session(&self.connection(&plan.into))?;
        let there = tables::list(&mut session, &Wanted::default())?;
        let wanted = &self.restore.options.tables;
        let mut report = Restored { database: plan.into.clone(), tables: 0, rows: None, differences: Vec::new() };
        let Some(all) = &info.tables else {
            session.finish()?;
            report.tables = there.iter().filter(|table| is_wanted(wanted, &table.schema, &table.name)).count() as u64;
            return Ok(report);
        };
        let by_name: BTreeMap<(&str, &str), &Table> =
            there.iter().map(|table| ((table.schema.as_str(), table.name.as_str()), table)).collect();
        let mut rows = 0;
        for (n, expected) in all.iter().enumerate() {
            let is_held = held.as_ref().is_none_or(|held| held.contains(&n));
            if !is_held || !is_wanted(wanted, &expected.schema, &expected.table) {
                continue;
            }
            let found = match by_name.get(&(expected.schema.as_str(), expected.table.as_str())) {
                Some(table) => {
                    let counted = tables::count(&mut session, std::slice::from_ref(*table), &mut || true)?;
                    counted.and_then(|counted| counted.first().map(|table| table.rows))
                }
                None => None,
            };
            rows += found.unwrap_or(0);
            report.tables += u64::from(found.is_some());
            if found != Some(expected.rows) {
                let (schema, table) = (expected.schema.clone(), expected.table.clone());
                report.differences.push(Difference { schema, table, expected: expected.rows, found });
            }
        }
        session.finish()?;
        report.rows = Some(rows);
        Ok(report)
    }
}

/// `--table` and `--schema` for `pg_restore`, which has no names with both.
fn table_arguments(tables: &[String]) -> Vec<String> {
    let mut arguments = Vec::new();
    for table in tables {
        let (schema, name) =
            table.split_once('.').map_or((None, table.as_str()), |(schema, name)| (Some(schema), name));
        arguments.push(format!("--table={name}"));
        if let Some(argument) = schema.map(|schema| format!("--schema={schema}"))
            && !arguments.contains(&argument)
        {
            arguments.push(argument);
        }
    }
    if !tables.is_empty() {
        arguments.push("--strict-names".to_owned());
    }
    arguments
}

/// Whether the setting that older servers do not know is all that went wrong.
fn only_the_timeout(said: &Said) -> bool {
    let is_error = |line: &&String| line.contains("error: ") || line.contains("ERROR: ");
    let harmless = |line: &String| line.contains("unrecognized configuration parameter \"transaction_timeout\"");
    said.0.iter().filter(is_error).all(harmless) && said.0.iter().any(harmless)
}

/// The numbers of the tables whose rows are in an archive: lines of its list as
/// `3344; 0 16389 TABLE DATA public users postgres`, where names may hold spaces.
fn tables_in_list(list: &str, tables: &[TableRows]) -> HashSet<usize> {
    let line_of = |table: &TableRows| format!("{} {}", table.schema, table.table).replace(['\n', '\r'], " ");
    let known: BTreeMap<String, usize> = tables.iter().enumerate().map(|(n, table)| (line_of(table), n)).collect();
    let mut held = HashSet::new();
    for line in list.lines().filter(|line| !line.starts_with(';')) {
        let Some((_, rest)) = line.split_once(" TABLE DATA ") else { continue };
        let ends = rest.match_indices(' ').map(|(at, _)| at);
        held.extend(ends.filter_map(|end| known.get(&rest[..end])));
    }
    held
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_says_which_rows_it_holds() {
        let of = |schema: &str, table: &str| TableRows { schema: schema.into(), table: table.into(), rows: 1 };
        let tables = [of("public", "users"), of("public", "with space"), of("audit", "log"), of("public", "user")];
        let list = "; TOC Entries: 3\n210; 1259 16389 TABLE public users postgres\n\
                    3344; 0 16389 TABLE DATA public users postgres\n3345; 0 16390 TABLE DATA public with space me and you\n";
        assert_eq!(tables_in_list(list, &tables), HashSet::from([0, 1]));
    }

    #[test]
    fn one_setting_that_an_older_server_does_not_know_is_passed_over() {
        let said = |lines: &[&str]| Said(lines.iter().map(|line| (*line).to_owned()).collect());
        let setting = "pg_restore: error: could not execute query: ERROR:  unrecognized configuration parameter \"transaction_timeout\"";
        assert!(only_the_timeout(&said(&[setting, "Command was: SET transaction_timeout = 0;"])));
        assert!(!only_the_timeout(&said(&[setting, "pg_restore: error: it broke"])));
        assert!(!only_the_timeout(&said(&[])));
    }

    #[test]
    fn tables_with_a_schema_are_two_arguments() {
        let tables = ["users", "audit.log"].map(str::to_owned);
        let expected = ["--table=users", "--table=log", "--schema=audit", "--strict-names"];
        assert_eq!(table_arguments(&tables), expected);
    }
}
