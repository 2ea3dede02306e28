//! Writing a canary: a small file, row or document with the time, that the next restore must bring back.
//!
//! Invariants: one thing a source, overwritten each time, in a place that is looked at first; its time is taken from the clock that the source's recovery points are told by,
//! but for deployments, whose clock is only near ours; nothing of the user's is touched. Not here: looking for it (`ops::drill`), what its
//! absence means (`plan::canary`).

mod marks;

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use chrono::TimeDelta;
use rustix::fs::OFlags;
use serde_json::{Value, json};

pub use self::marks::Marks;
use super::Error;
use crate::client::convex::Deployment;
use crate::client::postgres::Session;
use crate::model::Moment;
use crate::plan::canary::{Mark, parse, words};

/// The file in the root of a tree.
pub const FILE: &str = ".lifeboat-canary";
/// The table of a deployment.
pub const TABLE: &str = "lifeboat_canary";
/// Documents of that table that are looked through: one a source.
const DOCUMENTS: usize = 100;
/// Bytes of the file at most.
const FILE_MAX: u64 = 100;

/// How far the clock of a deployment may be from this host's.
pub fn slack_of_deployments() -> TimeDelta {
    TimeDelta::seconds(60)
}

/// Where a canary goes.
pub enum Place<'p> {
    /// The root of a tree.
    Tree(PathBuf),
    /// A database, as a connection string with its secrets.
    Database(String),
    /// A deployment.
    Deployment(&'p Deployment),
}

/// Writes the canary of a source.
///
/// # Errors
/// The tree, the database or the deployment did not take it. Whether it is there is then not known, and nothing is remembered.
pub fn write(place: &Place<'_>, source: &str, clock: &dyn Fn() -> Moment) -> Result<Written, Error> {
    let now = || parse(&words(clock())).unwrap_or_else(clock);
    match place {
        Place::Tree(root) => {
            let (at, before) = (now(), read_file(root));
            write_file(root, at)?;
            Ok(Written { mark: Mark { at, after: now() }, before })
        }
        Place::Database(connection) => write_row(connection, source),
        Place::Deployment(deployment) => {
            let at = now();
            let before = write_document(deployment, source, at)?;
            Ok(Written { mark: Mark { at, after: now() }, before })
        }
    }
}

/// A canary that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Its times.
    pub mark: Mark,
    /// The one that it took the place of. Newer ones that are remembered went with a state that somebody left by a restore.
    pub before: Option<Moment>,
}

fn write_file(root: &Path, at: Moment) -> Result<(), Error> {
    let (path, new) = (root.join(FILE), root.join(format!("{FILE}.new")));
    let write = || -> std::io::Result<()> {
        // What lies there is ours alone: a link would lead elsewhere.
        let _ = std::fs::remove_file(&new);
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(&new)?;
        writeln!(file, "{}", words(at))?;
        file.sync_all()?;
        std::fs::rename(&new, &path)
    };
    write().map_err(|source| {
        let _ = std::fs::remove_file(&new);
        Error::Io { doing: "write", path, source }
    })
}

/// The time in the file of a tree; none where there is no such file, or nothing readable in it.
pub fn read_file(root: &Path) -> Option<Moment> {
    let flags = OFlags::NOFOLLOW.bits() | OFlags::NONBLOCK.bits();
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(root.join(FILE));
    let mut text = String::new();
    file.and_then(|file: File| file.take(FILE_MAX).read_to_string(&mut text)).ok()?;
    parse(&text)
}

/// As people and every version of PostgreSQL write it; the server's own clock, in whole microseconds.
const AS_TEXT: &str = "'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'";

fn literal(text: &str) -> String {
    // Names of sources have no quotes; this holds for what they may become.
    format!("'{}'", text.replace('\'', "''"))
}

/// Of the canary's table: whether there is one, and whether it is what we made. A view, a rule, a trigger or a column of another type
/// would let its owner run code with our rights.
const IS_OURS: &str = "SELECT c.oid IS NOT NULL, c.relkind = 'r' AND NOT c.relhasrules AND NOT c.relhastriggers AND NOT c.relrowsecurity
        AND (SELECT array_agg(a.attname::text || ' ' || format_type(a.atttypid, NULL) || a.attgenerated::text ORDER BY a.attnum)
             FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
            = ARRAY['source text', 'at timestamp with time zone'],
        c.relowner = (SELECT oid FROM pg_roles WHERE rolname = current_user)
            OR (SELECT rolsuper FROM pg_roles WHERE oid = c.relowner)
     FROM (SELECT to_regclass('lifeboat.canary') AS oid) AS named LEFT JOIN pg_class c ON c.oid = named.oid";

/// Whether there is a table; that there is another thing by its name is an error. `writes` asks for an owner who can do with us what
/// they like anyway: ourselves, or a superuser.
fn is_there(session: &Session, writes: bool) -> Result<bool, Error> {
    let fail = |e| Error::from(crate::source::Error::from(e));
    let [there, plain, owned] = session.row("look for the canary's table", IS_OURS).map_err(fail)?;
    if there != "t" {
        return Ok(false);
    }
    match (plain.as_str(), owned.as_str()) {
        ("t", "t") => Ok(true),
        ("t", _) if !writes => Ok(true),
        ("t", _) => Err(fail(session.unfit("use the canary's table", "lifeboat.canary belongs to another role"))),
        _ => Err(fail(
            session.unfit("use the canary's table", "lifeboat.canary is not the plain table that a canary makes"),
        )),
    }
}

fn write_row(connection: &str, source: &str) -> Result<Written, Error> {
    let fail = |e| Error::from(crate::source::Error::from(e));
    let session = Session::connect(connection).map_err(fail)?;
    // Never behind somebody's lock, nor behind a replica that is away.
    let limits = "SET statement_timeout = '60s'; SET lock_timeout = '10s'; SET synchronous_commit = local";
    session.rows("set its time limits", limits).map_err(fail)?;
    if !is_there(&session, true)? {
        // `CREATE SCHEMA IF NOT EXISTS` asks for rights that a role does not need where the schema is there.
        let [schema] =
            session.row("look for the canary's schema", "SELECT to_regnamespace('lifeboat')").map_err(fail)?;
        let schema = if schema.is_empty() { "CREATE SCHEMA lifeboat; " } else { "" };
        let make = format!("{schema}CREATE TABLE lifeboat.canary (source text PRIMARY KEY, at timestamptz NOT NULL)");
        session.rows("make the canary's table", &make).map_err(fail)?;
    }
    // From here on nobody puts another thing in its place: looked at again behind the lock.
    let lock = "BEGIN; LOCK TABLE lifeboat.canary IN ROW EXCLUSIVE MODE";
    session.rows("lock the canary's table", lock).map_err(fail)?;
    if !is_there(&session, true)? {
        return Err(fail(session.unfit("use the canary's table", "lifeboat.canary is gone again")));
    }
    let before = select_row(&session, source)?;
    let write = format!(
        "INSERT INTO lifeboat.canary AS c VALUES ({}, clock_timestamp())
         ON CONFLICT (source) DO UPDATE SET at = excluded.at
         RETURNING to_char(c.at AT TIME ZONE 'UTC', {AS_TEXT})",
        literal(source)
    );
    let [at] = session.row("write the canary", &write).map_err(fail)?;
    session.rows("keep the canary", "COMMIT").map_err(fail)?;
    let ask = format!("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', {AS_TEXT})");
    let [after] = session.row("ask the time", &ask).map_err(fail)?;
    let read = |text: &str| parse(text).ok_or_else(|| fail(session.unfit("read the canary's time", text)));
    Ok(Written { mark: Mark { at: read(&at)?, after: read(&after)? }, before })
}

/// The time in the row of a database; none where there is no such table or row.
///
/// # Errors
/// The server does not answer, or what is called so is no plain table.
pub fn read_row(session: &Session, source: &str) -> Result<Option<Moment>, Error> {
    match is_there(session, false)? {
        true => select_row(session, source),
        false => Ok(None),
    }
}

fn select_row(session: &Session, source: &str) -> Result<Option<Moment>, Error> {
    let ask = format!(
        "SELECT to_char(at AT TIME ZONE 'UTC', {AS_TEXT}) FROM lifeboat.canary WHERE source = {}",
        literal(source)
    );
    let rows = session.rows("look for the canary", &ask).map_err(|e| Error::from(crate::source::Error::from(e)))?;
    Ok(rows.first().and_then(|row| row.first()).and_then(Option::as_deref).and_then(parse))
}

fn write_document(deployment: &Deployment, source: &str, at: Moment) -> Result<Option<Moment>, Error> {
    let all = deployment.first_documents(TABLE, DOCUMENTS)?;
    let own = all.iter().find(|document| document.get("source").and_then(Value::as_str) == Some(source));
    match own.and_then(|document| document.get("_id")).and_then(Value::as_str) {
        Some(id) => deployment.patch_document(TABLE, id, &json!({"at": words(at)}))?,
        None => deployment.add_document(TABLE, &json!({"source": source, "at": words(at)}))?,
    }
    Ok(own.and_then(|document| document.get("at")).and_then(Value::as_str).and_then(parse))
}

/// The time in a line of a table's documents, where it is this source's.
pub fn read_document(line: &[u8], source: &str) -> Option<Moment> {
    let document: Value = serde_json::from_slice(line).ok()?;
    let text = |name: &str| document.get(name).and_then(Value::as_str);
    (text("source") == Some(source)).then(|| text("at").and_then(parse))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_has_one_file_and_no_link_is_followed() {
        let (root, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        assert_eq!(read_file(root.path()), None);
        let clock = || Moment::from_timestamp(1_700_000_000, 123_456_789).unwrap();
        let mark = write(&Place::Tree(root.path().to_owned()), "a", &clock).unwrap();
        assert_eq!((read_file(root.path()), mark.before), (Some(mark.mark.at), None));
        let again = write(&Place::Tree(root.path().to_owned()), "a", &clock).unwrap();
        assert_eq!(again.before, Some(mark.mark.at));
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
        std::os::unix::fs::symlink(root.path().join(FILE), other.path().join(FILE)).unwrap();
        assert_eq!(read_file(other.path()), None);
        std::fs::write(other.path().join("target"), "theirs").unwrap();
        std::os::unix::fs::symlink(other.path().join("target"), other.path().join(format!("{FILE}.new"))).unwrap();
        write(&Place::Tree(other.path().to_owned()), "a", &clock).unwrap();
        assert_eq!(std::fs::read_to_string(other.path().join("target")).unwrap(), "theirs");
        assert!(write(&Place::Tree("/nowhere".into()), "a", &clock).is_err());
    }

    #[test]
    fn of_documents_the_sources_own_counts() {
        let line = br#"{"_id":"x","at":"2026-01-02T03:04:05.000006Z","source":"app"}"#;
        assert_eq!(read_document(line, "app").map(words).unwrap(), "2026-01-02T03:04:05.000006Z");
        assert_eq!(read_document(line, "other"), None);
        assert_eq!(read_document(b"no json", "app"), None);
    }
}
