//! A snapshot of dumps into a PostgreSQL server: what will happen to which database, and then that it happens.
//!
//! The plan asks the server, and changes nothing. The dumps are laid into a private directory by the same restore as any
//! other snapshot, checked digest by digest, and from there `pg_restore` or `psql` takes them. Afterwards the rows of every
//! table that the dump holds are counted and compared with those that were counted when it was made.

mod carry;
mod globals;

use std::path::{Path, PathBuf};

use serde::Serialize;

pub use self::carry::{Difference, Restored, carry_out};
use super::super::{Error, look};
use crate::catalog::SnapshotRow;
use crate::client::session::literal;
use crate::client::tables::{self, Wanted};
use crate::client::{self, Connection, Leash, Program, Programs, Session};
use crate::model::dump::DUMP_INFO;
use crate::model::{DatabaseInfo, DumpFormat, DumpInfo, RelPath};
use crate::ops::Selection;
use crate::progress::Progress;
use crate::repository::Repository;

/// `lifeboat-dump.json` at most: a million tables.
const INFO_MAX: usize = 256 << 20;

/// How dumps are restored into a server.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// The server; a database that it names is where the one chosen database goes.
    pub connection: Connection,
    /// Where PostgreSQL's programs lie.
    pub bin_dir: Option<PathBuf>,
    /// Tables at a time.
    pub jobs: Option<u32>,
    /// Drops what the dump holds before it is made anew.
    pub clean: bool,
    /// Makes databases that are not there.
    pub create: bool,
    /// Roles and tablespaces first.
    pub globals: bool,
    /// Leaves owners and privileges out.
    pub no_owner: bool,
    /// Tables to restore alone: `table` or `schema.table`.
    pub tables: Vec<String>,
    /// Databases to restore alone, each with its new name if it gets one.
    pub databases: Vec<(String, Option<String>)>,
}

/// What a restore into a server will do. A value: shown, compared, tested.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServerPlan {
    /// The server, without its password.
    pub server: String,
    /// Its version.
    pub server_version: String,
    /// The same as a number.
    pub server_version_num: u32,
    /// The version of the server that was dumped.
    pub dumped_from: String,
    /// How the databases were dumped.
    pub format: DumpFormat,
    /// The file with roles and tablespaces, where it is restored.
    pub globals: Option<String>,
    /// The databases.
    pub databases: Vec<DatabasePlan>,
}

/// What becomes of a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DatabasePlan {
    /// Its name when it was dumped.
    pub from: String,
    /// Its dump in the snapshot.
    pub path: String,
    /// The database that it goes to.
    pub into: String,
    /// How that one comes to be.
    pub target: Target,
    /// Tables that it holds now.
    pub tables_there: u64,
    /// Tables that were counted, and their rows.
    pub counted: Option<(u64, u64)>,
}

/// How a database comes to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// It is there.
    There,
    /// `pg_restore --create` makes it, with its settings and privileges.
    CreatedFromDump,
    /// It is made with the encoding and the locale that the dumped one had.
    Created,
}

/// What is asked of a server before anything is changed.
struct Facts {
    version: String,
    num: u32,
    databases: Vec<String>,
}

/// A plan with what carries it out.
pub struct ServerRestore {
    /// The plan, to be shown.
    pub plan: ServerPlan,
    info: DumpInfo,
    options: ServerOptions,
    psql: Program,
    /// The database that is connected to where none of those that are restored can be.
    first: String,
}

/// Reads what a snapshot of dumps says of itself.
pub fn read_info(repository: &Repository, snapshot: &SnapshotRow, progress: &dyn Progress) -> Result<DumpInfo, Error> {
    struct Bounded(Vec<u8>);
    impl std::io::Write for Bounded {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            if self.0.len() + bytes.len() > INFO_MAX {
                return Err(std::io::Error::other("it is too large"));
            }
            self.0.extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    if snapshot.record.kind != "pg_dump" {
        return Err(Error::NoDumps { source_name: snapshot.full_name(), kind: snapshot.record.kind.clone() });
    }
    let mut text = Bounded(Vec::new());
    look::dump(repository, snapshot, &RelPath::new(DUMP_INFO)?, &mut text, progress)?;
    let bad = |why: String| Error::BadDumpInfo { snapshot: snapshot.record.id.to_string(), why };
    let info: DumpInfo = serde_json::from_slice(&text.0).map_err(|e| bad(e.to_string()))?;
    if info.version != 1 {
        return Err(bad(format!("it is of version {}; a newer lifeboat reads it", info.version)));
    }
    // Files are read and written by these names: none may leave the directory.
    let mut names = info.databases.iter().map(|database| &database.path).chain(&info.globals);
    match names.find(|name| !RelPath::new(name.as_bytes()).is_ok_and(|path| path.components().count() == 1)) {
        Some(name) => Err(bad(format!("`{name}` is no name of a dump"))),
        None => Ok(info),
    }
}

/// The tablespaces that a restored `globals.sql` makes.
pub fn tablespaces_of(globals: &Path) -> Result<Vec<String>, Error> {
    let text = std::fs::read_to_string(globals);
    let text = text.map_err(|source| Error::Io { doing: "read", path: globals.to_owned(), source })?;
    Ok(globals::tablespaces(&text))
}

/// Asks the server and decides. Nothing is changed.
pub fn plan(info: DumpInfo, options: ServerOptions) -> Result<ServerRestore, Error> {
    let chosen = choose(&info, &options)?;
    if info.format == DumpFormat::Plain {
        let flag =
            [("--clean", options.clean), ("--table", !options.tables.is_empty()), ("--jobs", options.jobs.is_some())];
        let flag = flag.into_iter().chain([("--no-owner", options.no_owner)]).find(|(_, given)| *given);
        if let Some((flag, _)) = flag {
            return Err(Error::PlainDump(flag));
        }
    }
    let psql = Programs::new(options.bin_dir.clone()).any("psql")?;
    let (first, facts) = ask(&psql, &options.connection)?;
    let mut databases = Vec::new();
    for (database, into) in chosen {
        databases.push(plan_database(&info, &options, &psql, &facts, database, into)?);
    }
    let globals = match (options.globals, &info.globals) {
        (true, None) => return Err(Error::NoGlobals),
        (true, globals) => globals.clone(),
        (false, _) => None,
    };
    let plan = ServerPlan {
        server: options.connection.to_string(),
        server_version: facts.version,
        server_version_num: facts.num,
        dumped_from: info.server_version.clone(),
        format: info.format,
        globals,
        databases,
    };
    Ok(ServerRestore { plan, info, options, psql, first })
}

impl ServerRestore {
    /// Which files of the snapshot are needed.
    pub fn selection(&self) -> Result<Selection, Error> {
        let databases = self.plan.databases.iter().map(|database| database.path.as_str());
        let files: Vec<String> = databases.chain(self.plan.globals.as_deref()).map(pattern_of).collect();
        Selection::new(&files, &[])
    }
}

/// A path as a line of .gitignore that means it alone.
fn pattern_of(path: &str) -> String {
    let mut pattern = "/".to_owned();
    for c in path.chars() {
        if "\\*?[]!# ".contains(c) {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern
}

/// Which databases go where.
fn choose<'i>(info: &'i DumpInfo, options: &ServerOptions) -> Result<Vec<(&'i DatabaseInfo, String)>, Error> {
    let find = |name: &str| {
        let there = || info.databases.iter().map(|database| database.name.clone()).collect::<Vec<_>>().join(", ");
        let found = info.databases.iter().find(|database| database.name == name);
        found.ok_or_else(|| Error::NoSuchDump { database: name.to_owned(), there: there() })
    };
    let mut chosen: Vec<(&DatabaseInfo, String)> = Vec::new();
    if options.databases.is_empty() {
        chosen.extend(info.databases.iter().map(|database| (database, database.name.clone())));
    }
    for (name, new) in &options.databases {
        chosen.push((find(name)?, new.clone().unwrap_or_else(|| name.clone())));
    }
    if let Some(named) = options.connection.database() {
        let renamed = options.databases.iter().any(|(_, new)| new.is_some());
        match chosen.as_mut_slice() {
            [(_, into)] if !renamed => *into = named.to_owned(),
            _ => return Err(Error::OneDatabase { named: named.to_owned(), chosen: chosen.len() }),
        }
    }
    for (n, (_, into)) in chosen.iter().enumerate() {
        if chosen[..n].iter().any(|(_, other)| other == into) {
            return Err(Error::SameDatabase(into.clone()));
        }
    }
    Ok(chosen)
}

/// Asks through the database that the connection names, else through one that every server has.
fn ask(psql: &Program, connection: &Connection) -> Result<(String, Facts), Error> {
    let mut tries = vec!["postgres".to_owned(), "template1".to_owned()];
    tries.splice(..0, connection.database().map(str::to_owned));
    let mut tries = tries.into_iter().peekable();
    while let Some(name) = tries.next() {
        match Session::open(psql, &connection.with_database(&name), &Leash::default()) {
            Err(client::Error::NoDatabase { .. }) if tries.peek().is_some() => {}
            Err(e) => return Err(e.into()),
            Ok(mut session) => {
                let version = session.one("SELECT current_setting('server_version')", "the version")?;
                let num = session.number("SELECT current_setting('server_version_num')")? as u32;
                let databases = session
                    .json("SELECT coalesce(jsonb_agg(datname), '[]') FROM pg_database", "the list of databases")?;
                session.finish()?;
                return Ok((name, Facts { version, num, databases }));
            }
        }
    }
    Err(client::Error::GivenUp.into())
}

fn plan_database(
    info: &DumpInfo,
    options: &ServerOptions,
    psql: &Program,
    facts: &Facts,
    database: &DatabaseInfo,
    into: String,
) -> Result<DatabasePlan, Error> {
    let renamed = into != database.name;
    let mut plan = DatabasePlan {
        from: database.name.clone(),
        path: database.path.clone(),
        target: Target::There,
        tables_there: 0,
        counted: database.tables.as_ref().map(|tables| {
            let counted = tables.iter().filter(|table| is_wanted(&options.tables, &table.schema, &table.table));
            counted.fold((0, 0), |(tables, rows), table| (tables + 1, rows + table.rows))
        }),
        into,
    };
    if facts.databases.contains(&plan.into) {
        let mut session = Session::open(psql, &options.connection.with_database(&plan.into), &Leash::default())?;
        let there = tables::list(&mut session, &Wanted::default())?;
        session.finish()?;
        let in_the_way = there.iter().filter(|table| is_wanted(&options.tables, &table.schema, &table.name)).count();
        plan.tables_there = there.len() as u64;
        if in_the_way > 0 && !options.clean {
            return Err(Error::HasTables { database: plan.into, tables: in_the_way as u64, from: plan.from });
        }
    } else if renamed || (options.create && info.format == DumpFormat::Plain) {
        plan.target = Target::Created;
    } else if options.create {
        plan.target = Target::CreatedFromDump;
    } else {
        let server = options.connection.with_database(&plan.into).to_string();
        return Err(client::Error::NoDatabase { database: plan.into, server }.into());
    }
    Ok(plan)
}

/// Whether a table is among those that are restored alone; without any all are.
fn is_wanted(tables: &[String], schema: &str, name: &str) -> bool {
    tables.is_empty()
        || tables.iter().any(|wanted| match wanted.split_once('.') {
            Some((of, table)) => (of, table) == (schema, name),
            None => wanted == name,
        })
}

/// What makes a database like the one that was dumped.
fn create_statement(database: &DatabaseInfo, into: &str) -> String {
    format!(
        "CREATE DATABASE {} TEMPLATE template0 ENCODING {} LC_COLLATE {} LC_CTYPE {}",
        client::session::identifier(into),
        literal(&database.encoding),
        literal(&database.collate),
        literal(&database.ctype)
    )
}

/// Where a dump lies once it was laid down.
fn laid(folder: &Path, path: &str) -> PathBuf {
    folder.join(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> DumpInfo {
        let database = |name: &str| DatabaseInfo {
            name: name.to_owned(),
            path: format!("{name}.dump"),
            encoding: "UTF8".into(),
            collate: "C".into(),
            ctype: "C".into(),
            owner: "postgres".into(),
            taken: None,
            tables: None,
        };
        DumpInfo {
            version: 1,
            format: DumpFormat::Custom,
            server_version: "15.18".into(),
            server_version_num: 150_018,
            pg_dump_version: "15.18".into(),
            globals: None,
            databases: vec![database("app"), database("other")],
        }
    }

    fn chosen(url: &str, databases: &[(&str, Option<&str>)]) -> Result<Vec<(String, String)>, String> {
        let options = ServerOptions {
            connection: Connection::parse(url).unwrap(),
            bin_dir: None,
            jobs: None,
            clean: false,
            create: false,
            globals: false,
            no_owner: false,
            tables: Vec::new(),
            databases: databases.iter().map(|(a, b)| ((*a).to_owned(), b.map(str::to_owned))).collect(),
        };
        let info = info();
        let chosen = choose(&info, &options).map_err(|e| e.to_string())?;
        Ok(chosen.into_iter().map(|(database, into)| (database.name.clone(), into)).collect())
    }

    #[test]
    fn databases_go_where_they_were_sent() {
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(chosen("postgresql://h", &[]), Ok(vec![pair("app", "app"), pair("other", "other")]));
        assert_eq!(chosen("postgresql://h", &[("app", Some("new"))]), Ok(vec![pair("app", "new")]));
        assert_eq!(chosen("postgresql://h/new", &[("app", None)]), Ok(vec![pair("app", "new")]));
        for (url, databases) in [
            ("postgresql://h/new", &[][..]),
            ("postgresql://h/new", &[("app", Some("x"))]),
            ("postgresql://h", &[("nothing", None)]),
            ("postgresql://h", &[("app", Some("x")), ("other", Some("x"))]),
        ] {
            assert!(chosen(url, databases).is_err(), "{url} {databases:?}");
        }
    }

    #[test]
    fn a_path_is_a_pattern_of_itself_alone() {
        let selection = Selection::new(&[pattern_of("a*b [1].dump")], &[]).unwrap();
        assert!(selection.wants(&RelPath::new("a*b [1].dump").unwrap(), false));
        assert!(!selection.wants(&RelPath::new("axb [1].dump").unwrap(), false));
        assert!(!selection.wants(&RelPath::new("x/a*b [1].dump").unwrap(), false));
    }

    #[test]
    fn tables_are_named_with_or_without_their_schema() {
        let tables = ["users".to_owned(), "audit.log".to_owned()];
        assert!(is_wanted(&[], "s", "t") && is_wanted(&tables, "any", "users") && is_wanted(&tables, "audit", "log"));
        assert!(!is_wanted(&tables, "public", "log"));
    }
}
