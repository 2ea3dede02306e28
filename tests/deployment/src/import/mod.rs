//! Imports: their rows.

use crate::id::DocumentId;
use crate::value::Value;

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
    pub format: Value,
    pub mode: &'static str,
    pub component: String,
    pub state: ImportState,
    pub checkpoints: Vec<Checkpoint>,
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
            ("format", self.format.clone()),
            ("mode", self.mode.into()),
            ("component_path", self.component.as_str().into()),
            ("member_id", Value::Null),
            ("requestor", Value::object([("type", "snapshotImport".into())])),
            ("checkpoints", checkpoints),
        ])
    }
}
