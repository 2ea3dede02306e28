//! Snapshot exports: the row, the worker, and what the ZIP holds.
//!
//! The worker reads all tables at one timestamp while writes go on. As in the backend, an export never fails by itself; how it
//! can hang or start over is a matter of `faults`.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::Inner;
use crate::faults::ExportFault;
use crate::id::DocumentId;
use crate::model::{Line, State, StoredFile, numbers};
use crate::options::SECOND;
use crate::reply::Refusal;
use crate::value::Value;
use crate::zip::ZipWriter;

/// Where an export stands.
#[derive(Debug, Clone)]
pub(crate) enum ExportState {
    Requested,
    InProgress { start_ts: i64, message: String },
    Completed { start_ts: i64, complete_ts: i64, zip: Bytes, key: String },
    Failed { failed_ts: i64 },
    Canceled { canceled_ts: i64, start_ts: Option<i64> },
}

/// A row of `_exports`.
#[derive(Debug, Clone)]
pub(crate) struct Export {
    pub id: DocumentId,
    pub created_ms: f64,
    pub include_storage: bool,
    pub component: Option<String>,
    pub expiration_ts: i64,
    pub state: ExportState,
    /// How often somebody asked for its state.
    pub polls: u32,
    /// Each look at it finds the next message, and the last is followed by the first.
    pub starts_over: bool,
}

const STARTS_OVER: [&str; 3] =
    ["Beginning backup", "Backing up _tables", "Backing up messages: 1,000 / 20,000 documents"];

impl Export {
    /// Whether it is requested or running.
    pub(crate) fn is_live(&self) -> bool {
        matches!(self.state, ExportState::Requested | ExportState::InProgress { .. })
    }

    /// Somebody asked for its state.
    pub(crate) fn looked_at(&mut self) {
        self.polls = self.polls.saturating_add(1);
        if let (true, ExportState::InProgress { message, .. }) = (self.starts_over, &mut self.state) {
            *message = STARTS_OVER[self.polls as usize % STARTS_OVER.len()].to_owned();
        }
    }

    /// The document as `getLatest` shows it.
    pub(crate) fn document(&self) -> Value {
        let mut fields = vec![
            ("_id", Value::from(self.id.to_string())),
            ("_creationTime", self.created_ms.into()),
            ("component", self.component.clone().into()),
            ("requestor", "snapshotExport".into()),
            ("format", Value::object([("format", "zip".into()), ("include_storage", self.include_storage.into())])),
        ];
        let expiration = ("expiration_ts", Value::Int64(self.expiration_ts));
        match &self.state {
            ExportState::Requested => fields.extend([("state", "requested".into()), expiration]),
            ExportState::InProgress { start_ts, message } => fields.extend([
                ("state", "in_progress".into()),
                ("start_ts", Value::Int64(*start_ts)),
                ("progress_message", message.as_str().into()),
                expiration,
            ]),
            ExportState::Completed { start_ts, complete_ts, zip, key } => fields.extend([
                ("state", "completed".into()),
                ("start_ts", Value::Int64(*start_ts)),
                ("complete_ts", Value::Int64(*complete_ts)),
                ("zip_object_key", key.as_str().into()),
                ("size", Value::Int64(zip.len() as i64)),
                expiration,
            ]),
            ExportState::Failed { failed_ts } => {
                fields.extend([("state", "failed".into()), ("failed_ts", Value::Int64(*failed_ts))]);
            }
            ExportState::Canceled { canceled_ts, start_ts } => fields.extend([
                ("state", "canceled".into()),
                ("canceled_ts", Value::Int64(*canceled_ts)),
                ("start_ts", (*start_ts).into()),
            ]),
        }
        Value::Object(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }
}

/// `POST /api/export/request/zip`
pub(crate) fn request(inner: &Arc<Inner>, include_storage: bool, component: Option<String>) -> Result<(), Refusal> {
    let id = inner.change(|state| {
        if state.exports.iter().any(Export::is_live) {
            let text = "There is already an export requested or in progress.";
            return Err(Refusal::bad("ExportInProgress", text));
        }
        let (id, created_ms) = state.new_system_row(numbers::EXPORTS);
        state.exports.push(Export {
            id,
            created_ms,
            include_storage,
            component,
            expiration_ts: state.now() + 14 * 24 * 3600 * SECOND,
            state: ExportState::Requested,
            polls: 0,
            starts_over: false,
        });
        Ok(id)
    })?;
    let inner = Arc::clone(inner);
    std::thread::spawn(move || work(&inner, id));
    Ok(())
}

/// `POST /api/export/cancel/{id}`: an unclassified error for anything but a live one.
pub(crate) fn cancel(state: &mut State, id: &str) -> Result<(), Refusal> {
    let now = state.now();
    let export = state.exports.iter_mut().find(|e| e.id.to_string() == id).filter(|e| e.is_live());
    let export = export.ok_or_else(Refusal::internal)?;
    let start_ts = match export.state {
        ExportState::InProgress { start_ts, .. } => Some(start_ts),
        _ => None,
    };
    export.state = ExportState::Canceled { canceled_ts: now, start_ts };
    state.commit_system(1);
    Ok(())
}

/// `POST /api/export/set_expiration/{id}`: an unclassified error for anything but a completed one.
pub(crate) fn set_expiration(state: &mut State, id: &str, expiration_ts: i64) -> Result<(), Refusal> {
    let export = state
        .exports
        .iter_mut()
        .find(|e| e.id.to_string() == id && matches!(e.state, ExportState::Completed { .. }))
        .ok_or_else(Refusal::internal)?;
    export.expiration_ts = expiration_ts;
    state.commit_system(1);
    Ok(())
}

/// Drops the rows and blobs that expired more than 30 days ago, as the backend's sweep does; how many.
pub(crate) fn sweep(state: &mut State) -> usize {
    let limit = state.now() - 30 * 24 * 3600 * SECOND;
    let before = state.exports.len();
    state.exports.retain(|e| e.is_live() || e.expiration_ts >= limit);
    let gone = before - state.exports.len();
    if gone > 0 {
        state.commit_system(gone);
    }
    gone
}

/// The ZIP of a completed export, by the id of its row or by its timestamp.
pub(crate) fn find_zip(state: &State, id: &str) -> Result<(i64, Bytes), Refusal> {
    let by_ts: Option<i64> = id.parse().ok();
    if by_ts.is_none() && DocumentId::parse(id).is_none() {
        return Err(Refusal::bad("BadSnapshotId", format!("`{id}` is no id of a snapshot")));
    }
    let fits = |export: &&Export| match (by_ts, &export.state) {
        (Some(ts), ExportState::Completed { start_ts, .. }) => ts == *start_ts,
        (Some(_), _) => false,
        (None, _) => export.id.to_string() == id,
    };
    match state.exports.iter().find(fits) {
        Some(Export { state: ExportState::Completed { start_ts, zip, .. }, .. }) => Ok((*start_ts, zip.clone())),
        Some(_) => Err(Refusal::bad("ExportNotComplete", "The requested export has not completed")),
        None => Err(Refusal::new(404, "ExportNotFound", format!("The requested export {id} was not found"))),
    }
}

/// Changes the export's state, unless it was cancelled meanwhile: then `false`.
fn step(inner: &Inner, id: DocumentId, to: impl FnOnce(&mut State) -> ExportState) -> bool {
    inner.change(|state| {
        if !state.exports.iter().any(|e| e.id == id && e.is_live()) {
            return false;
        }
        let to = to(state);
        state.commit_system(1);
        if let Some(export) = state.exports.iter_mut().find(|e| e.id == id) {
            export.state = to;
        }
        true
    })
}

fn progress(inner: &Inner, id: DocumentId, start_ts: i64, message: &str) -> bool {
    step(inner, id, |_| ExportState::InProgress { start_ts, message: message.to_owned() })
}

/// The worker of one export.
fn work(inner: &Arc<Inner>, id: DocumentId) {
    let start_ts = inner.read(|state| state.now());
    if !progress(inner, id, start_ts, "Beginning backup") {
        return;
    }
    let gone = |state: &State| !state.exports.iter().any(|e| e.id == id && e.is_live());
    match inner.faults.export() {
        ExportFault::None => {}
        ExportFault::Stuck => return,
        ExportFault::StartsOver => {
            inner.change(|state| {
                state.exports.iter_mut().filter(|e| e.id == id).for_each(|e| e.starts_over = true);
            });
            return;
        }
        ExportFault::Canceled => {
            step(inner, id, |state| ExportState::Canceled { canceled_ts: state.now(), start_ts: Some(start_ts) });
            return;
        }
        ExportFault::Failed => {
            step(inner, id, |state| ExportState::Failed { failed_ts: state.now() });
            return;
        }
        ExportFault::Polls(polls) => {
            let polled = |state: &State| gone(state) || state.exports.iter().any(|e| e.id == id && e.polls >= polls);
            if !inner.wait(polled) {
                return;
            }
        }
    }
    let include_storage = inner.read(|state| state.exports.iter().any(|e| e.id == id && e.include_storage));
    // The time is taken after the last commit of the row: `start_ts` was the clock's, and becomes the database's.
    let ts = inner.change(State::latest);
    match build(inner, ts, include_storage, |message| progress(inner, id, start_ts, message)) {
        Ok(Some(zip)) => {
            step(inner, id, |state| ExportState::Completed {
                start_ts: ts,
                complete_ts: state.now().max(ts),
                zip: Bytes::from(zip),
                key: state.new_uuid(),
            });
        }
        Ok(None) => {}
        Err(error) => drop(progress(inner, id, start_ts, &format!("Beginning backup ({error})"))),
    }
}

/// A table as an export reads it.
struct Part {
    component: String,
    name: String,
    lines: Vec<Line>,
    bytes: usize,
}

/// `""` for the root, `_components/a/_components/b/` for `a/b`.
fn prefix(component: &str) -> String {
    component.split('/').filter(|name| !name.is_empty()).map(|name| format!("_components/{name}/")).collect()
}

const README: &str = "# Snapshot export of a Convex deployment\n\n\
    Each table is a folder with `documents.jsonl`, one document a line. See https://docs.convex.dev/database/import-export.\n";

/// The ZIP at this timestamp; `None` if `progress` says that nobody wants it any more.
fn build(
    inner: &Inner,
    ts: i64,
    include_storage: bool,
    progress: impl Fn(&str) -> bool,
) -> io::Result<Option<Vec<u8>>> {
    let uniform = inner.options.features.export_json;
    let components = inner.read(State::component_paths);
    let mut zip = ZipWriter::new();
    zip.add("README.md", README.as_bytes())?;
    if !progress("Backing up _tables") {
        return Ok(None);
    }
    let mut parts = Vec::new();
    for component in &components {
        let tables = inner.read(|state| tables_at(state, component, ts));
        let list: String = tables.iter().map(|(number, part)| table_line(*number, &part.name)).collect();
        zip.add(&format!("{}_tables/documents.jsonl", prefix(component)), list.as_bytes())?;
        parts.extend(tables.into_iter().map(|(_, part)| part));
    }
    parts.sort_by_key(|part| part.bytes);
    for part in parts {
        let place = if part.component.is_empty() { String::new() } else { format!(" in '{}'", part.component) };
        if !progress(&format!("Backing up {}{place}", part.name)) {
            return Ok(None);
        }
        let folder = format!("{}{}", prefix(&part.component), part.name);
        if uniform {
            zip.add(&format!("{folder}/documents.jsonl"), Lines::new(&part.lines))?;
            zip.add(&format!("{folder}/generated_schema.jsonl"), &b"\"uniform\"\n"[..])?;
        } else {
            let (documents, schema) = crate::legacy::documents(&part.lines);
            zip.add(&format!("{folder}/documents.jsonl"), documents.as_bytes())?;
            zip.add(&format!("{folder}/generated_schema.jsonl"), schema.as_bytes())?;
        }
    }
    if include_storage {
        for component in &components {
            let files = inner.read(|state| state.files_at(component, ts));
            if !progress(&format!("Backing up _storage: 0 / {} files (downloading)", files.len())) {
                return Ok(None);
            }
            add_files(&mut zip, &prefix(component), files, inner.read(|state| state.options.storage_number))?;
        }
    }
    Ok(Some(zip.finish()))
}

fn table_line(number: u32, name: &str) -> String {
    let mut line = String::from("{\"name\":");
    crate::value::write_string(&mut line, name);
    line.push_str(&format!(",\"id\":{number}}}\n"));
    line
}

/// The active tables of a component at this time, ascending by number.
fn tables_at(state: &State, component: &str, ts: i64) -> Vec<(u32, Part)> {
    let mut tables: Vec<(u32, Part)> = state
        .tables
        .iter()
        .filter(|t| t.component == component && t.state_at(ts) == Some(crate::model::TableState::Active))
        .map(|table| {
            let lines: Vec<Line> = table.documents_at(ts, None).map(|(_, _, line)| Arc::clone(line)).collect();
            let bytes = lines.iter().map(|line| line.len()).sum();
            (table.number, Part { component: component.to_owned(), name: table.name.clone(), lines, bytes })
        })
        .collect();
    tables.sort_by_key(|(number, _)| *number);
    tables
}

/// The rows by id; the blobs in an order that nobody should rely on.
fn add_files(zip: &mut ZipWriter, prefix: &str, mut files: Vec<StoredFile>, number: u32) -> io::Result<()> {
    let lines: String = files.iter().map(|file| file.export_line(number) + "\n").collect();
    zip.add(&format!("{prefix}_storage/documents.jsonl"), lines.as_bytes())?;
    files.sort_by_key(|file| file.sha256);
    for file in files {
        let id = DocumentId::new(number, file.id);
        zip.add(&format!("{prefix}_storage/{id}{}", file.extension()), file.contents.reader())?;
    }
    Ok(())
}

/// Reads lines, each with its end.
struct Lines<'a> {
    lines: std::slice::Iter<'a, Line>,
    rest: &'a [u8],
    end: bool,
}

impl<'a> Lines<'a> {
    fn new(lines: &'a [Line]) -> Lines<'a> {
        Lines { lines: lines.iter(), rest: b"", end: false }
    }
}

impl io::Read for Lines<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            if self.rest.is_empty() {
                if self.end {
                    self.rest = b"\n";
                    self.end = false;
                } else {
                    let Some(line) = self.lines.next() else { break };
                    self.rest = line.as_bytes();
                    self.end = true;
                    continue;
                }
            }
            let n = self.rest.len().min(buffer.len() - filled);
            buffer[filled..filled + n].copy_from_slice(&self.rest[..n]);
            self.rest = &self.rest[n..];
            filled += n;
        }
        Ok(filled)
    }
}
