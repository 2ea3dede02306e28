//! Imports: uploads, the rows that tell how far they are, and what asks for them.
//!
//! The steps are those of the backend: `parse` reads the ZIP, `prepare` counts and asks for a confirmation, `work` fills hidden
//! tables and swaps them in with one commit. A restart of the backend in the middle is not modelled, nor are retries.

mod parse;
mod prepare;
mod rows;
mod storage;
mod work;

use std::sync::Arc;

use bytes::Bytes;

use crate::Inner;
use crate::id::DocumentId;
use crate::model::{State, numbers};
use crate::reply::Refusal;
use crate::value::Value;

/// What is done with tables that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    RequireEmpty,
    Append,
    Replace,
    ReplaceAll,
}

/// What the upload is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Zip,
    Lines(String),
    Array(String),
}

/// A step that failed: the code for those who match on it, the text for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failed {
    pub code: &'static str,
    pub message: String,
}

impl Failed {
    fn new(code: &'static str, message: impl Into<String>) -> Failed {
        Failed { code, message: message.into() }
    }
}

/// What is asked of an import.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub kind: Kind,
    pub mode: Mode,
    pub component: String,
}

/// Where an import stands.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ImportState {
    Uploaded,
    Waiting { message: String, deletes: bool },
    InProgress { message: String, done: Vec<String> },
    Completed { ts: i64, rows: u64 },
    Failed { error: String },
}

/// What the importer found for one table.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Checkpoint {
    pub component: String,
    pub table: String,
    pub tablet: Option<String>,
    pub total: u64,
    pub written: u64,
    pub existing: u64,
    pub deleting: u64,
    pub missing_ids: bool,
}

/// A row of `_snapshot_imports`.
#[derive(Debug, Clone)]
pub(crate) struct Import {
    pub id: DocumentId,
    pub created_ms: f64,
    pub request: Request,
    pub state: ImportState,
    pub checkpoints: Vec<Checkpoint>,
    pub confirmed: bool,
    /// The code of its error, where it failed.
    pub code: &'static str,
}

impl ImportState {
    fn value(&self) -> Value {
        match self {
            ImportState::Uploaded => Value::object([("state", "uploaded".into())]),
            ImportState::Waiting { message, deletes } => Value::object([
                ("state", "waiting_for_confirmation".into()),
                ("message_to_confirm", message.as_str().into()),
                ("require_manual_confirmation", (*deletes).into()),
            ]),
            ImportState::InProgress { message, done } => Value::object([
                ("state", "in_progress".into()),
                ("progress_message", message.as_str().into()),
                ("checkpoint_messages", Value::Array(done.iter().map(|m| m.as_str().into()).collect())),
            ]),
            ImportState::Completed { ts, rows } => Value::object([
                ("state", "completed".into()),
                ("timestamp", Value::Int64(*ts)),
                ("num_rows_written", Value::Int64(*rows as i64)),
            ]),
            ImportState::Failed { error } => {
                Value::object([("state", "failed".into()), ("error_message", error.as_str().into())])
            }
        }
    }
}

impl Checkpoint {
    fn value(&self) -> Value {
        Value::object([
            ("component_path", self.component.as_str().into()),
            ("display_table_name", self.table.as_str().into()),
            ("tablet_id", self.tablet.clone().into()),
            ("total_num_rows_to_write", Value::Int64(self.total as i64)),
            ("num_rows_written", Value::Int64(self.written as i64)),
            ("existing_rows_in_table", Value::Int64(self.existing as i64)),
            ("existing_rows_to_delete", Value::Int64(self.deleting as i64)),
            ("is_missing_id_field", self.missing_ids.into()),
        ])
    }
}

impl Import {
    /// Whether it may still change by itself.
    pub(crate) fn is_live(&self) -> bool {
        !matches!(self.state, ImportState::Completed { .. } | ImportState::Failed { .. })
    }

    /// The document as `queryImport` shows it.
    pub(crate) fn document(&self) -> Value {
        let checkpoints = match self.checkpoints.is_empty() {
            true => Value::Null,
            false => Value::Array(self.checkpoints.iter().map(Checkpoint::value).collect()),
        };
        Value::object([
            ("_id", self.id.to_string().into()),
            ("_creationTime", self.created_ms.into()),
            ("state", self.state.value()),
            ("format", self.request.kind.value()),
            ("mode", format!("{:?}", self.request.mode).into()),
            ("component_path", self.request.component.as_str().into()),
            ("member_id", Value::Null),
            ("requestor", Value::object([("type", "snapshotImport".into())])),
            ("checkpoints", checkpoints),
        ])
    }
}

impl Kind {
    fn value(&self) -> Value {
        match self {
            Kind::Zip => Value::object([("format", "zip".into())]),
            Kind::Lines(table) => Value::object([("format", "jsonl".into()), ("table", table.as_str().into())]),
            Kind::Array(table) => Value::object([("format", "json_array".into()), ("table", table.as_str().into())]),
        }
    }
}

impl Request {
    /// Reads what a client asks; an empty mode is `requireEmpty`.
    pub(crate) fn parse(
        format: &str,
        mode: Option<&str>,
        table: Option<&str>,
        component: Option<&str>,
    ) -> Result<Request, Refusal> {
        let mode = match mode {
            None | Some("requireEmpty") => Mode::RequireEmpty,
            Some("append") => Mode::Append,
            Some("replace") => Mode::Replace,
            Some("replaceAll") => Mode::ReplaceAll,
            Some(other) => return Err(Refusal::bad("BadJsonBody", format!("unknown variant `{other}`"))),
        };
        let kind = match (format, table) {
            ("zip", None) => Kind::Zip,
            ("zip", Some(_)) => return Err(Refusal::bad("InvalidName", "A ZIP is imported without a table name")),
            ("jsonLines", Some(table)) => Kind::Lines(table.to_owned()),
            ("jsonArray", Some(table)) => Kind::Array(table.to_owned()),
            ("csv" | "jsonLines" | "jsonArray", None) => {
                return Err(Refusal::bad("InvalidName", "A table name is needed for this format"));
            }
            ("csv", _) => return Err(Refusal::new(501, "NotModelled", "The test deployment reads no CSV")),
            (other, _) => return Err(Refusal::bad("BadJsonBody", format!("unknown variant `{other}`"))),
        };
        Ok(Request { kind, mode, component: component.unwrap_or_default().to_owned() })
    }
}

/// `start_upload`: a token.
pub(crate) fn start_upload(state: &mut State) -> String {
    let token = state.new_uuid();
    state.uploads.insert(token.clone(), Vec::new());
    token
}

/// `upload_part` on local storage: the number is ignored, the bytes are appended.
pub(crate) fn upload_part(state: &mut State, token: &str, bytes: &[u8]) -> Result<(), Refusal> {
    let upload = state.uploads.get_mut(token).ok_or_else(Refusal::internal)?;
    upload.extend_from_slice(bytes);
    Ok(())
}

/// `finish_upload`: the row, and the thread that reads the upload.
pub(crate) fn finish_upload(inner: &Arc<Inner>, token: &str, request: Request) -> Result<DocumentId, Refusal> {
    let upload = inner.poll(|state| state.take_upload(token)).ok_or_else(Refusal::internal)?;
    Ok(begin(inner, upload, request, false))
}

/// `POST /api/import`: reads, confirms and waits; how many documents were written.
pub(crate) fn import_at_once(inner: &Arc<Inner>, upload: Bytes, request: Request) -> Result<u64, Refusal> {
    let id = begin(inner, upload, request, true);
    let done = |state: &State| state.imports.iter().all(|i| i.id != id || !i.is_live());
    if !inner.wait(done) {
        return Err(Refusal::internal());
    }
    let state = inner.read(|state| state.imports.iter().find(|i| i.id == id).map(|i| (i.state.clone(), i.code)));
    match state {
        Some((ImportState::Completed { rows, .. }, _)) => Ok(rows),
        Some((ImportState::Failed { error }, code)) => Err(Refusal::bad(code, error)),
        _ => Err(Refusal::internal()),
    }
}

fn begin(inner: &Arc<Inner>, upload: Bytes, request: Request, confirmed: bool) -> DocumentId {
    let id = inner.change(|state| {
        let (id, created_ms) = state.new_system_row(numbers::IMPORTS);
        let import = Import {
            id,
            created_ms,
            request,
            state: ImportState::Uploaded,
            checkpoints: Vec::new(),
            confirmed,
            code: "",
        };
        state.imports.push(import);
        id
    });
    let inner = Arc::clone(inner);
    std::thread::spawn(move || work::run(&inner, id, &upload));
    id
}

fn find<'a>(state: &'a mut State, id: &str) -> Result<&'a mut Import, Refusal> {
    if DocumentId::parse(id).is_none() {
        return Err(Refusal::bad("InvalidImport", format!("invalid import id {id}")));
    }
    let found = state.imports.iter_mut().find(|i| i.id.to_string() == id);
    found.ok_or_else(|| Refusal::new(404, "ImportNotFound", format!("import {id} not found")))
}

/// `perform_import`: does nothing in other states than the one that waits for it.
pub(crate) fn perform(state: &mut State, id: &str) -> Result<(), Refusal> {
    let import = find(state, id)?;
    if matches!(import.state, ImportState::Waiting { .. }) {
        import.confirmed = true;
    }
    state.commit_system(1);
    Ok(())
}

/// `cancel_import`
pub(crate) fn cancel(state: &mut State, id: &str) -> Result<(), Refusal> {
    let import = find(state, id)?;
    if !import.is_live() {
        return Err(Refusal::bad("CannotCancelImport", "Cannot cancel an import that has completed or failed"));
    }
    import.state = ImportState::Failed { error: "Import canceled".to_owned() };
    import.code = "ImportCanceled";
    state.commit_system(1);
    Ok(())
}
