//! Single documents brought back into a deployment with their ids: their tables are replaced by today's rows and the old ones.
//!
//! The server takes no document back under its id any other way: an id that was deleted is refused (`DocumentDeleted`). So the target is
//! exported, the chosen documents are laid over its tables, and these tables alone are imported. Invariants: nothing changes before the
//! server's own table of changes was shown; where anybody wrote to one of the tables since the export, the import is cancelled.
//! As new documents, with ids of the server's choice, they are added to what is there; such an import is not atomic.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, BufWriter, Cursor, Read};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::into::{Confirmed, Sent, confirm, give_up, output, send_file};
use crate::client::convex::{Deployment, ImportMode};
use crate::format::convex::change::line_without_id;
use crate::format::convex::{component_prefix, full_name};
use crate::format::zip::{self, Member, MemberReader, ZipError};
use crate::model::documents::DbTime;
use crate::ops::Error;
use crate::ops::documents::{Chosen, Documents, Folded, StreamError, difference, history};
use crate::plan::documents::show;
use crate::progress::{Event, Progress};
use crate::repository::Repository;
use crate::source::convex::{ConvexOptions, fetch_export, work_file};

/// Which documents come back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanting {
    /// These, as they were at a time; without one as they were last.
    Ids {
        /// Their ids.
        ids: Vec<String>,
        /// The time.
        at: Option<DbTime>,
    },
    /// Those that were changed or deleted between two times, as they were at the first. Those that were made stay.
    Between {
        /// The first.
        from: DbTime,
        /// The second.
        to: DbTime,
        /// These tables alone: `users`, `component/users`, with `*`.
        tables: Vec<String>,
    },
}

/// What is about to come back: on the server, not confirmed.
#[derive(Debug, Clone, Serialize)]
pub struct Returning {
    /// Documents by table.
    pub tables: BTreeMap<String, u64>,
    /// What the server says.
    pub sent: Sent,
    /// The database's time of the export that they were laid over: decimal text. None where they become new documents.
    pub exported: Option<String>,
    #[serde(skip)]
    names: Vec<(String, String)>,
}

#[derive(Deserialize)]
struct TableLine {
    name: String,
    id: u64,
}

/// The documents that are wanted.
fn choose(
    repository: &Repository,
    documents: &Documents,
    wanting: &Wanting,
    work_dir: &Path,
    progress: &dyn Progress,
) -> Result<Folded, Error> {
    let mut chosen = Chosen::new(work_dir);
    match wanting {
        Wanting::Ids { ids, at } => {
            for id in ids {
                let known = history(repository, documents, id, progress)?;
                let then = known.iter().filter(|one| at.is_none_or(|at| one.at <= at));
                let last = then.filter_map(|one| Some((one, one.line.as_ref()?))).next_back();
                let Some((revision, line)) = last else {
                    let asked = at.map_or_else(|| "any time".to_owned(), show);
                    let why = format!("no revision of `{id}` is known");
                    let source_name = documents.full_name.clone();
                    return Err(StreamError::NotReached { source_name, asked, why }.into());
                };
                let (component, table) = match revision.table.rsplit_once('/') {
                    Some((component, table)) => (component, table),
                    None => ("", revision.table.as_str()),
                };
                chosen.add(component, table, id, line)?;
            }
        }
        Wanting::Between { from, to, tables } => {
            let wants = |component: &str, table: &str| {
                let full = full_name(component, table);
                tables.is_empty() || tables.iter().any(|p| crate::source::convex::matches_table(p, &full))
            };
            difference(
                repository,
                documents,
                (*from, *to),
                &wants,
                work_dir,
                progress,
                &mut |one| match &one.before {
                    Some(line) => chosen.add(&one.component, &one.table, &one.id, line),
                    None => Ok(()),
                },
            )?;
        }
    }
    chosen.fold()
}

/// Lines of documents without their ids.
struct WithoutIds<R> {
    lines: R,
    line: String,
    out: Cursor<Vec<u8>>,
}

impl<R: BufRead> Read for WithoutIds<R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        loop {
            let count = self.out.read(out)?;
            if count > 0 || out.is_empty() {
                return Ok(count);
            }
            self.line.clear();
            if self.lines.read_line(&mut self.line)? == 0 {
                return Ok(0);
            }
            let mut line = line_without_id(self.line.trim_end()).map_err(std::io::Error::other)?;
            line.push('\n');
            self.out = Cursor::new(line.into_bytes());
        }
    }
}

/// Sends the documents as new ones: nothing that is there is touched. The server gives them ids.
fn prepare_new(
    folded: &Folded,
    deployment: &Deployment,
    work_dir: &Path,
    progress: &dyn Progress,
) -> Result<Returning, Error> {
    progress.event(Event::Stage("writing the archive"));
    let mut archive = zip::Writer::new(BufWriter::with_capacity(1 << 20, work_file(work_dir, 0)?));
    for (component, table) in folded.tables.keys() {
        let prefix = component_prefix(component);
        let alone = folded.over(component, table, Box::new(std::io::empty())).map_err(ZipError::Write)?;
        let lines = BufReader::with_capacity(256 << 10, alone);
        let mut lines = WithoutIds { lines, line: String::new(), out: Cursor::default() };
        archive.add(&format!("{prefix}{table}/documents.jsonl"), true, &mut lines)?;
        // Without a list of tables each keeps the number that it has there.
        archive.add(&format!("{prefix}{table}/generated_schema.jsonl"), true, &mut &b"\"uniform\"\n"[..])?;
    }
    let written = archive.finish()?.into_inner().map_err(|e| output(e.into_error()))?;
    let sent = send_file(deployment, &written, ImportMode::Append, progress)?;
    Ok(Returning { tables: counts(folded), sent, exported: None, names: Vec::new() })
}

fn counts(folded: &Folded) -> BTreeMap<String, u64> {
    folded.tables.iter().map(|((component, table), one)| (full_name(component, table), one.documents)).collect()
}

/// Exports the target, lays the documents over it and sends the tables. Nothing is changed; none where there is nothing to bring back.
pub fn prepare_back(
    repository: &Repository,
    documents: &Documents,
    wanting: &Wanting,
    as_new: bool,
    deployment: &Deployment,
    work_dir: &Path,
    progress: &dyn Progress,
) -> Result<Option<Returning>, Error> {
    let folded = choose(repository, documents, wanting, work_dir, progress)?;
    if folded.tables.is_empty() {
        return Ok(None);
    }
    let instance = deployment.check_instance()?;
    deployment.check_key()?;
    if as_new {
        return prepare_new(&folded, deployment, work_dir, progress).map(Some);
    }
    let options = ConvexOptions { work_dir: Some(work_dir.to_owned()), ..ConvexOptions::default() };
    let export = fetch_export(deployment, &options, &instance, progress)?;
    let members: HashMap<&str, &Member> = export.file.members.iter().map(|one| (one.name.as_str(), one)).collect();
    let file = Arc::new(export.file.file);
    progress.event(Event::Stage("writing the archive"));
    let mut archive = zip::Writer::new(BufWriter::with_capacity(1 << 20, work_file(work_dir, 0)?));
    let mut lists: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
    for ((component, table), found) in &folded.tables {
        let prefix = component_prefix(component);
        let number = number_of(&file, &members, &prefix, table)?;
        if let Some(number) = number.filter(|number| *number != u64::from(found.number)) {
            let why = format!(
                "table `{}` has the number {number} there, and the documents are of {}: it was made anew",
                full_name(component, table),
                found.number
            );
            return Err(Error::ImportFailed { url: deployment.place(), why });
        }
        let path = format!("{prefix}{table}/documents.jsonl");
        let there: Box<dyn BufRead> = match members.get(path.as_str()) {
            Some(member) => Box::new(BufReader::with_capacity(256 << 10, MemberReader::new(Arc::clone(&file), member))),
            None => Box::new(std::io::empty()),
        };
        let mut merged = folded.over(component, table, there).map_err(ZipError::Write)?;
        archive.add(&path, true, &mut merged)?;
        archive.add(&format!("{prefix}{table}/generated_schema.jsonl"), true, &mut &b"\"uniform\"\n"[..])?;
        lists.entry(component).or_default().extend(super::write::table_line(table, found.number));
    }
    for (component, list) in lists {
        archive.add(&format!("{}_tables/documents.jsonl", component_prefix(component)), true, &mut list.as_slice())?;
    }
    let written = archive.finish()?.into_inner().map_err(|e| output(e.into_error()))?;
    let sent = send_file(deployment, &written, ImportMode::Replace, progress)?;
    let names = folded.tables.keys().cloned().collect();
    Ok(Some(Returning { tables: counts(&folded), sent, exported: Some(export.start_ts.to_string()), names }))
}

/// The number of a table in an export; none where it has no such table.
fn number_of(
    file: &Arc<std::fs::File>,
    members: &HashMap<&str, &Member>,
    prefix: &str,
    table: &str,
) -> Result<Option<u64>, Error> {
    let path = format!("{prefix}_tables/documents.jsonl");
    let Some(member) = members.get(path.as_str()) else { return Ok(None) };
    let mut text = Vec::new();
    let reader = MemberReader::new(Arc::clone(file), member);
    reader.take(super::SMALL_MAX as u64).read_to_end(&mut text).map_err(ZipError::Write)?;
    let lines = text.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<TableLine>(line).ok());
    Ok(lines.filter(|line| line.name == table).map(|line| line.id).next())
}

/// Confirms, unless somebody wrote to one of the tables since the export: then nothing has changed.
pub fn bring_back(deployment: &Deployment, returning: &Returning, progress: &dyn Progress) -> Result<Confirmed, Error> {
    let sent = &returning.sent;
    let exported: Option<DbTime> = returning.exported.as_ref().and_then(|at| at.parse().ok());
    // New documents are in nobody's way.
    let Some(mut after) = exported else { return confirm(deployment, sent, progress) };
    loop {
        let page = deployment.deltas(after).map_err(|e| give_up(deployment, sent, e.into()))?;
        // What an import writes before it is done shows up too: ours has not begun.
        let other = page.changes.iter().find(|change| {
            returning.names.iter().any(|(component, table)| *component == change.component && *table == change.table)
        });
        if let Some(change) = other {
            let why = format!("somebody wrote to `{}` meanwhile ({})", change.full_table(), change.id);
            return Err(give_up(deployment, sent, Error::ImportFailed { url: deployment.place(), why }));
        }
        if !page.more {
            break;
        }
        after = page.to;
    }
    confirm(deployment, sent, progress)
}
