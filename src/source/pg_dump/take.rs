//! One run: look at the server, dump the globals, then one database after another, then write down what was taken.

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;
use std::process::{ChildStdout, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::{Sender, bounded};
use serde::Deserialize;

use super::{Databases, Globals, Live, PgDumpSource, with_body};
use crate::client::tables::{self, Wanted};
use crate::client::{self, Connection, PrivateDir, Program, Programs, Running, Said, Session, run};
use crate::model::dump::{DUMP_INFO, GLOBALS};
use crate::model::{DatabaseInfo, DumpFormat, DumpInfo, Entry, EntryKind, FileContent, Moment, RelPath, limits};
use crate::progress::Event;
use crate::source::{Error, Found, FoundEntry};

/// Roles and tablespaces are text of a few lines each.
const GLOBALS_MAX: u64 = 256 << 20;

/// Takes what was found; false when nobody listens any more.
type Each<'e> = &'e mut dyn FnMut(Found) -> bool;

/// What a server says of itself.
#[derive(Deserialize)]
struct Server {
    version: String,
    num: u32,
    databases: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    name: String,
    encoding: String,
    collate: String,
    ctype: String,
    owner: String,
    allows: bool,
    template: bool,
}

const LOOK: &str = "\
SELECT jsonb_build_object('version', current_setting('server_version'), 'num', current_setting('server_version_num')::int, \
'databases', (SELECT jsonb_agg(jsonb_build_object('name', datname, 'encoding', pg_encoding_to_char(encoding), \
'collate', datcollate, 'ctype', datctype, 'owner', pg_get_userbyid(datdba), \
'allows', datallowconn AND datconnlimit <> -2, 'template', datistemplate) ORDER BY datname) FROM pg_database))";

/// Walks; returns early when nobody listens any more.
pub(super) fn walk(source: &PgDumpSource, each: Each<'_>) -> Result<(), Error> {
    let options = &source.options;
    let programs = Programs::new(options.bin_dir.clone());
    let psql = programs.any("psql")?;
    let (server, first) = look(source, &psql)?;
    let major = server.num / 10_000;
    let pg_dump = programs.not_older("pg_dump", major, "the server")?;
    let mut info = DumpInfo {
        version: 1,
        format: options.format,
        server_version: server.version.clone(),
        server_version_num: server.num,
        pg_dump_version: pg_dump.version.clone(),
        globals: (options.globals != Globals::None).then(|| GLOBALS.to_owned()),
        databases: Vec::new(),
    };
    let mut root = Entry::bare(RelPath::root(), EntryKind::Dir);
    (root.mode, root.mtime) = (0o700, stamp(source.now));
    if !each(Found::Entry(Box::new(FoundEntry::new(root, 0, false)))) {
        return Ok(());
    }
    if options.globals != Globals::None {
        let pg_dumpall = programs.not_older("pg_dumpall", major, "the server")?;
        let text = globals(source, &pg_dumpall, &first)?;
        if !each(file(source, GLOBALS, text)) {
            return Ok(());
        }
    }
    let taking = Taking { source, psql, pg_dump };
    for database in chosen(source, server)? {
        match taking.database(database, each)? {
            Some(taken) => info.databases.push(taken),
            None => return Ok(()),
        }
    }
    let mut text = serde_json::to_vec_pretty(&info).unwrap_or_default();
    text.push(b'\n');
    each(file(source, DUMP_INFO, text));
    Ok(())
}

/// What a run would begin with.
pub(super) fn look_live(source: &PgDumpSource) -> Result<Live, Error> {
    let programs = Programs::new(source.options.bin_dir.clone());
    let psql = programs.any("psql")?;
    let (server, _) = look(source, &psql)?;
    let (major, version) = (server.num / 10_000, server.version.clone());
    let mut found = vec![programs.not_older("pg_dump", major, "the server")?];
    if source.options.globals != Globals::None {
        found.push(programs.not_older("pg_dumpall", major, "the server")?);
    }
    let databases = chosen(source, server)?.into_iter().map(|database| database.name).collect();
    Ok(Live { server: source.options.connection.to_string(), version, databases, programs: found })
}

/// Asks the server what it is and what it has; answers also the database that was asked.
fn look(source: &PgDumpSource, psql: &Program) -> Result<(Server, String), Error> {
    let (connection, mut tries) = (&source.options.connection, Vec::new());
    match &source.options.databases {
        Databases::Named(names) => tries.extend(names.first().cloned()),
        Databases::OfConnection => tries.extend(of_connection(connection)),
        Databases::All => {}
    }
    if tries.is_empty() {
        tries = vec!["postgres".to_owned(), "template1".to_owned()];
    }
    let mut tries = tries.into_iter().peekable();
    while let Some(name) = tries.next() {
        match Session::open(psql, &connection.with_database(&name), &source.leash) {
            Err(client::Error::NoDatabase { .. }) if tries.peek().is_some() => {}
            Err(e) => return Err(e.into()),
            Ok(mut session) => {
                let server = session.json(LOOK, "the list of databases")?;
                session.finish()?;
                return Ok((server, name));
            }
        }
    }
    Err(client::Error::GivenUp.into())
}

fn of_connection(connection: &Connection) -> Option<String> {
    let named = connection.database().map(str::to_owned);
    named.or_else(|| std::env::var("PGDATABASE").ok().filter(|name| !name.is_empty()))
}

/// The databases to dump, in the order that was asked for.
fn chosen(source: &PgDumpSource, server: Server) -> Result<Vec<Listed>, Error> {
    let mut there = server.databases;
    let names = match &source.options.databases {
        Databases::Named(names) => names.clone(),
        Databases::OfConnection => of_connection(&source.options.connection).into_iter().collect(),
        Databases::All => Vec::new(),
    };
    if names.is_empty() {
        there.retain(|database| database.allows && !database.template);
        return Ok(there);
    }
    let taken = names.into_iter().map(|name| match there.iter().position(|database| database.name == name) {
        Some(at) => Ok(there.swap_remove(at)),
        None => {
            let server = source.options.connection.with_database(&name).to_string();
            Err(client::Error::NoDatabase { database: name, server }.into())
        }
    });
    taken.collect()
}

fn globals(source: &PgDumpSource, pg_dumpall: &Program, first: &str) -> Result<Vec<u8>, Error> {
    let connection = source.options.connection.with_database(first);
    let mut arguments = vec!["--globals-only".to_owned(), "--no-password".to_owned()];
    if source.options.globals == Globals::NoPasswords {
        arguments.push("--no-role-passwords".to_owned());
    }
    arguments.push(format!("--database={first}"));
    arguments.push(format!("--dbname={}", connection.argument()));
    let (text, said) = run::run(pg_dumpall, &arguments, &connection, &source.leash, GLOBALS_MAX)?;
    warn(source, &said);
    Ok(text)
}

fn warn(source: &PgDumpSource, said: &Said) {
    for line in said.warnings() {
        source.progress.event(Event::Warning(line));
    }
}

fn stamp(now: Moment) -> crate::model::Stamp {
    crate::model::Stamp(now.timestamp(), now.timestamp_subsec_nanos())
}

fn entry(source: &PgDumpSource, path: RelPath) -> Entry {
    let content = FileContent { size: 0, digest: crate::model::Digest::new([0; 32]), extents: Vec::new() };
    let mut entry = Entry::bare(path, EntryKind::File(content));
    (entry.mode, entry.mtime) = (0o600, stamp(source.now));
    entry
}

fn file(source: &PgDumpSource, name: &str, text: Vec<u8>) -> Found {
    let path = RelPath::new(name).unwrap_or_default();
    with_body(entry(source, path), text.len() as u64, Box::new(Cursor::new(text)))
}

/// The output of a dump on its way to whoever stores it. Dropped, it tells that nobody reads any more.
struct Flow {
    output: ChildStdout,
    passed: Arc<AtomicU64>,
    _open: Sender<()>,
}

impl Read for Flow {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let count = self.output.read(out)?;
        self.passed.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// A moment of a database that is held: dumps and counts show the same.
struct Held {
    session: Session,
    snapshot: String,
    taken: Option<Moment>,
}

struct Taking<'s> {
    source: &'s PgDumpSource,
    psql: Program,
    pg_dump: Program,
}

impl Taking<'_> {
    /// Dumps one database. `None` when nobody listens any more.
    fn database(&self, database: Listed, each: Each<'_>) -> Result<Option<DatabaseInfo>, Error> {
        let options = &self.source.options;
        let connection = options.connection.with_database(&database.name);
        let mut held = options.row_counts.then(|| self.hold(&connection)).transpose()?;
        let mut taken = DatabaseInfo {
            path: path_of(&database.name, options.format),
            name: database.name,
            encoding: database.encoding,
            collate: database.collate,
            ctype: database.ctype,
            owner: database.owner,
            taken: held.as_ref().and_then(|held| held.taken),
            tables: None,
        };
        let arguments = self.arguments(&connection, held.as_ref());
        let start = |arguments: &[String]| {
            Running::start(&self.pg_dump, arguments, &connection, &self.source.leash, Stdio::null())
        };
        if options.format == DumpFormat::Directory {
            let mut folder = PrivateDir::name(options.work_dir.as_deref())?;
            let dump = folder.make()?.join("dump");
            let of_directory = [format!("--file={}", dump.display()), format!("--jobs={}", options.jobs.unwrap_or(1))];
            let running = start(&[&of_directory[..], &arguments].concat())?;
            self.watch(running, &mut held, &mut taken, None)?;
            return Ok(self.files(&dump, &taken.path, each)?.then_some(taken));
        }
        let mut running = start(&arguments)?;
        let (open, done) = bounded(0);
        let passed = Arc::<AtomicU64>::default();
        let output = running.output().ok_or(client::Error::GivenUp)?;
        let path = RelPath::new(taken.path.as_bytes()).unwrap_or_default();
        let flow = Flow { output, passed: Arc::clone(&passed), _open: open };
        if !each(with_body(entry(self.source, path), u64::MAX, Box::new(flow))) {
            return Ok(None);
        }
        self.watch(running, &mut held, &mut taken, Some(&done))?;
        if passed.load(Ordering::Relaxed) == 0 {
            let said = Said(vec!["it ended well and wrote nothing".to_owned()]);
            let (program, server) = (self.pg_dump.name(), connection.to_string());
            return Err(client::Error::Failed { program, status: "no output".to_owned(), server, source: said }.into());
        }
        Ok(Some(taken))
    }

    /// Opens a transaction and exports its snapshot.
    fn hold(&self, connection: &Connection) -> Result<Held, Error> {
        let mut session = Session::open(&self.psql, connection, &self.source.leash)?;
        session.tell("SET row_security = off")?;
        session.tell("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")?;
        let snapshot = session.one("SELECT pg_export_snapshot()", "a snapshot")?;
        let now =
            session.one("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')", "the time")?;
        Ok(Held { session, snapshot, taken: now.parse().ok() })
    }

    fn arguments(&self, connection: &Connection, held: Option<&Held>) -> Vec<String> {
        let options = &self.source.options;
        let mut all = vec!["--no-password".to_owned()];
        match options.format {
            DumpFormat::Custom => all.extend(["--format=custom".to_owned(), "--compress=0".to_owned()]),
            DumpFormat::Directory => all.extend(["--format=directory".to_owned(), "--compress=0".to_owned()]),
            DumpFormat::Plain => all.push("--format=plain".to_owned()),
        }
        all.extend(held.map(|held| format!("--snapshot={}", held.snapshot)));
        all.extend(options.schemas.iter().map(|pattern| format!("--schema={pattern}")));
        all.extend(options.exclude_tables.iter().map(|pattern| format!("--exclude-table={pattern}")));
        all.extend(options.extra_args.iter().cloned());
        all.push(format!("--dbname={}", connection.argument()));
        all
    }

    /// Counts rows while the dump runs, waits until it was read (`done` says so), and looks at how all ended.
    fn watch(
        &self,
        mut running: Running,
        held: &mut Option<Held>,
        taken: &mut DatabaseInfo,
        done: Option<&crossbeam_channel::Receiver<()>>,
    ) -> Result<(), Error> {
        let (options, leash) = (&self.source.options, &self.source.leash);
        let wanted = Wanted { schemas: options.schemas.clone(), exclude_tables: options.exclude_tables.clone() };
        if let Some(held) = held {
            let counted = tables::list(&mut held.session, &wanted).and_then(|all| {
                tables::count(&mut held.session, &all, &mut || !running.has_failed() && !leash.is_pulled())
            });
            match counted {
                Ok(counted) => taken.tables = counted,
                // A server that went away took both with it: the dump's own words say more.
                Err(e) if !running.has_failed() => return Err(e.into()),
                Err(_) => {}
            }
        }
        if let Some(done) = done {
            // Nothing is ever sent: the other end is dropped when the output was read.
            let _ = done.recv();
        }
        let said = running.finish()?;
        warn(self.source, &said);
        held.take().map_or(Ok(()), |held| held.session.finish())?;
        Ok(())
    }

    /// The files of a dump in the directory format; false when nobody listens any more.
    fn files(&self, dump: &Path, name: &str, each: Each<'_>) -> Result<bool, Error> {
        let fail = |path: &Path| {
            let path = path.to_owned();
            move |source| client::Error::Io { doing: "read", path, source }
        };
        let folder = RelPath::new(name).unwrap_or_default();
        let mut top = Entry::bare(folder.clone(), EntryKind::Dir);
        (top.mode, top.mtime) = (0o700, stamp(self.source.now));
        if !each(Found::Entry(Box::new(FoundEntry::new(top, 0, false)))) {
            return Ok(false);
        }
        for found in std::fs::read_dir(dump).map_err(fail(dump))? {
            let path = found.map_err(fail(dump))?.path();
            let part = path.file_name().unwrap_or_default().as_encoded_bytes();
            let entry = entry(self.source, folder.join(part).unwrap_or_default());
            let mut open = File::open(&path).map_err(fail(&path))?;
            let size = open.metadata().map_err(fail(&path))?.len();
            let body: Box<dyn Read + Send> = match size <= limits::SMALL_FILE_MAX {
                // Many small files wait at a time: they must not keep descriptors.
                true => {
                    let mut bytes = Vec::with_capacity(size as usize);
                    open.read_to_end(&mut bytes).map_err(fail(&path))?;
                    Box::new(Cursor::new(bytes))
                }
                false => Box::new(open),
            };
            if !each(with_body(entry, size, body)) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The name of a database's dump: the database's, made safe for a file, with what `pg_restore` and `psql` users expect.
fn path_of(database: &str, format: DumpFormat) -> String {
    let escape = |c: char| {
        let mut bytes = [0; 4];
        c.encode_utf8(&mut bytes).bytes().map(|byte| format!("%{byte:02X}")).collect::<String>()
    };
    let mut name = String::new();
    for (n, c) in database.chars().enumerate() {
        match c {
            '/' | '%' => name.push_str(&escape(c)),
            '.' if n == 0 => name.push_str(&escape(c)),
            c if c.is_control() => name.push_str(&escape(c)),
            c => name.push(c),
        }
    }
    match format {
        DumpFormat::Custom => name.push_str(".dump"),
        DumpFormat::Plain => name.push_str(".sql"),
        DumpFormat::Directory => {}
    }
    match name.chars().next() {
        Some(first) if [GLOBALS, DUMP_INFO].contains(&name.as_str()) => {
            format!("{}{}", escape(first), &name[first.len_utf8()..])
        }
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_database_has_a_name_of_its_own_that_is_safe() {
        use DumpFormat::{Custom, Directory, Plain};
        for (database, format, path) in [
            ("app", Custom, "app.dump"),
            ("app", Plain, "app.sql"),
            ("convex_self_hosted", Directory, "convex_self_hosted"),
            ("a/b", Custom, "a%2Fb.dump"),
            ("..", Directory, "%2E."),
            ("100%", Plain, "100%25.sql"),
            ("globals", Plain, "%67lobals.sql"),
            ("lifeboat-dump.json", Directory, "%6Cifeboat-dump.json"),
            ("bücher", Custom, "bücher.dump"),
        ] {
            assert_eq!(path_of(database, format), path);
            assert!(RelPath::new(path).is_ok());
        }
    }
}
