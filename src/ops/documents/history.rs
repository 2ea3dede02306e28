//! What became of documents: those that differ between two times, and all revisions of one.

use std::io::BufReader;
use std::path::Path;

use serde::Serialize;

use super::fold::{Before, Entry, Folded, fold, next_document};
use super::{Documents, StreamError, segment};
use crate::catalog::SnapshotRow;
use crate::format::convex::{DocumentId, Part, full_name, place_of};
use crate::model::documents::DbTime;
use crate::ops::restore::each_selected;
use crate::ops::{Error, Selection};
use crate::plan::documents::{Aim, Way, show};
use crate::progress::Progress;
use crate::repository::{ExtentReader, Repository};

/// How many documents differ.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Kinds {
    /// There afterwards alone.
    pub added: u64,
    /// There both times, with another content.
    pub changed: u64,
    /// There before alone.
    pub deleted: u64,
}

/// A document that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The path of its component; empty for the root.
    pub component: String,
    /// Its table.
    pub table: String,
    /// Its id.
    pub id: String,
    /// Its line before; none where it was not there.
    pub before: Option<String>,
    /// Its line afterwards; none where it is not there.
    pub after: Option<String>,
}

/// A revision of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    /// Its table, with its component.
    pub table: String,
    /// When it was committed; of a snapshot's, the time that the snapshot shows.
    pub at: DbTime,
    /// Whether a snapshot tells it: then it was committed at that time or before.
    pub of_snapshot: bool,
    /// Its line; none where it was deleted.
    pub line: Option<String>,
}

fn text(line: Vec<u8>) -> Result<String, Error> {
    String::from_utf8(line).map_err(|e| StreamError::Content(e.to_string()).into())
}

/// Documents that differ between two times which one history reaches, by table and id.
pub fn difference(
    repository: &Repository,
    documents: &Documents,
    (from, to): (DbTime, DbTime),
    wants: &dyn Fn(&str, &str) -> bool,
    work_dir: &Path,
    progress: &dyn Progress,
    each: &mut dyn FnMut(Difference) -> Result<(), Error>,
) -> Result<(), Error> {
    let not = |asked: DbTime, why: String| StreamError::NotReached {
        source_name: documents.full_name.clone(),
        asked: show(asked),
        why,
    };
    let reached = |asked: DbTime| -> Result<Way, Error> {
        match documents.way(Aim::At(asked)) {
            Some(way) if way.to == asked => Ok(way),
            Some(way) => Err(not(asked, format!("the nearest time before it is {}", show(way.to))).into()),
            None => Err(not(asked, "no changes were taken then".to_owned()).into()),
        }
    };
    let (before, after) = (reached(from)?, reached(to)?);
    if (before.run.epoch, before.run.first) != (after.run.epoch, after.run.first) {
        let why = format!("between it and {} lies a cut: `lifeboat timeline` shows it", show(from));
        return Err(not(to, why).into());
    }
    let way = Way { to, ..before };
    let folded = fold(repository, documents, &way, Some(from), wants, work_dir, progress)?;
    let snapshot = documents.snapshot(&way).ok_or_else(|| StreamError::Content("its snapshot is gone".to_owned()))?;
    let mut left: Vec<(String, String)> = folded.tables.keys().cloned().collect();
    each_selected(repository, snapshot, &Selection::new(&[], &[])?, progress, &mut |entry| {
        let path = entry.path.to_string();
        let (component, Part::Documents(table)) = place_of(&path) else { return Ok(()) };
        if !folded.has(&component, table) {
            return Ok(());
        }
        left.retain(|name| *name != (component.clone(), table.to_owned()));
        let extents = entry.content().map_or(&[][..], |content| &content.extents);
        let bytes = ExtentReader::new(repository, documents.writer_row, "a comparison", extents, progress)?;
        of_table(&folded, &component, table, Some(bytes), each)
    })?;
    // Tables that the snapshot does not have.
    left.iter().try_for_each(|(component, table)| of_table(&folded, component, table, None, each))
}

fn of_table(
    folded: &Folded,
    component: &str,
    table: &str,
    base: Option<ExtentReader<'_>>,
    each: &mut dyn FnMut(Difference) -> Result<(), Error>,
) -> Result<(), Error> {
    let io = |source| Error::Output { what: format!("the comparison of `{table}`"), source };
    let number = folded.tables.get(&(component.to_owned(), table.to_owned())).map_or(0, |table| table.number);
    let mut section = folded.section(component, table);
    let mut base = base.map(|bytes| BufReader::with_capacity(256 << 10, bytes));
    let mut line = Vec::new();
    let next = |base: &mut Option<BufReader<ExtentReader<'_>>>, line: &mut Vec<u8>| -> std::io::Result<_> {
        base.as_mut().map_or(Ok(None), |base| next_document(base, line))
    };
    let mut at = next(&mut base, &mut line).map_err(io)?;
    while let Some(Entry { internal, before, after }) = section.next().map_err(io)? {
        let before = match before {
            Before::Absent => None,
            Before::Line(line) => Some(line),
            Before::Unknown => {
                while at.is_some_and(|id| id.internal < internal) {
                    at = next(&mut base, &mut line).map_err(io)?;
                }
                at.is_some_and(|id| id.internal == internal).then(|| line.clone())
            }
        };
        // Made and deleted in between, or written without a change.
        if before == after {
            continue;
        }
        each(Difference {
            component: component.to_owned(),
            table: table.to_owned(),
            id: DocumentId { table: number, internal }.to_string(),
            before: before.map(text).transpose()?,
            after: after.map(text).transpose()?,
        })?;
    }
    Ok(())
}

/// All revisions of a document that are known, oldest first: of each run what its oldest snapshot has, and what came after it.
pub fn history(
    repository: &Repository,
    documents: &Documents,
    id: &str,
    progress: &dyn Progress,
) -> Result<Vec<Revision>, Error> {
    let wanted = DocumentId::parse(id).map_err(|_| StreamError::NoId(id.chars().take(64).collect()))?;
    let mut all: Vec<Revision> = Vec::new();
    let reader = repository.segment_reader(&documents.writer)?;
    let mut worker = reader.worker()?;
    for run in &documents.runs {
        let within = documents.bases.iter().filter(|base| run.from <= base.at && base.at <= run.reach());
        if let Some(base) = within.min_by_key(|base| base.at) {
            let way = Way { base: base.clone(), run: run.clone(), to: base.at };
            let found =
                documents.snapshot(&way).map(|row| find(repository, row, &wanted, progress)).transpose()?.flatten();
            match (found, all.last().map(|last| last.table.clone())) {
                (Some((table, line)), _) => {
                    all.push(Revision { table, at: base.at, of_snapshot: true, line: Some(text(line)?) });
                }
                // It was there before the cut, and is not behind it.
                (None, Some(table)) => all.push(Revision { table, at: base.at, of_snapshot: true, line: None }),
                (None, None) => {}
            }
        }
        for piece in documents.pieces.iter().filter(|piece| piece.epoch == run.epoch) {
            let in_run = (run.first..=run.last).contains(&piece.number);
            let Some(record) = documents.records.get(&(piece.epoch, piece.number)).filter(|_| in_run) else { continue };
            for change in segment::changes(worker.read(record)?) {
                let change = change?;
                if change.id == id {
                    let table = change.full_table();
                    all.push(Revision { table, at: change.ts, of_snapshot: false, line: change.line });
                }
            }
        }
    }
    all.sort_by_key(|revision| (revision.at, !revision.of_snapshot));
    all.dedup();
    Ok(all)
}

/// A document in a snapshot: its table, and its line.
fn find(
    repository: &Repository,
    row: &SnapshotRow,
    wanted: &DocumentId,
    progress: &dyn Progress,
) -> Result<Option<(String, Vec<u8>)>, Error> {
    let mut found = None;
    each_selected(repository, row, &Selection::new(&[], &[])?, progress, &mut |entry| {
        let path = entry.path.to_string();
        let (component, Part::Documents(table)) = place_of(&path) else { return Ok(()) };
        let Some(content) = entry.content().filter(|_| found.is_none()) else { return Ok(()) };
        let io = |source| Error::Output { what: format!("the search in `{path}`"), source };
        let bytes = ExtentReader::new(repository, row.writer, "a search", &content.extents, progress)?;
        let (mut lines, mut line) = (BufReader::with_capacity(256 << 10, bytes), Vec::new());
        while let Some(id) = next_document(&mut lines, &mut line).map_err(io)? {
            // Ids of one table have one number, and are in order.
            if id.table != wanted.table || id.internal > wanted.internal {
                break;
            }
            if id == *wanted {
                let name = full_name(&component, table);
                found = Some((name, std::mem::take(&mut line)));
                break;
            }
        }
        Ok(())
    })?;
    Ok(found)
}
