//! What was there at a timestamp, for tests to compare with.

use std::collections::BTreeMap;

use bytes::Bytes;
use data_encoding::BASE64;

use crate::id::DocumentId;
use crate::model::{Contents, State, TableState};

/// A file that was there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileState {
    /// The name in its URL.
    pub uuid: String,
    /// The digest of its row, in base64.
    pub sha256: String,
    /// Its type.
    pub content_type: Option<String>,
    /// Its `_creationTime` as text.
    pub created: String,
    /// Its length in bytes.
    pub size: u64,
    /// Its bytes; none for files of zeros.
    pub bytes: Bytes,
}

/// Everything that the app saw at a timestamp.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StateAt {
    /// By component and table: each document's `export_json` line by its id.
    pub tables: BTreeMap<(String, String), BTreeMap<String, String>>,
    /// The numbers of those tables.
    pub numbers: BTreeMap<(String, String), u32>,
    /// By component and id.
    pub files: BTreeMap<(String, String), FileState>,
}

impl StateAt {
    pub(crate) fn of(state: &State, ts: i64) -> StateAt {
        let mut found = StateAt::default();
        for table in state.tables.iter().filter(|t| t.state_at(ts) == Some(TableState::Active)) {
            let key = (table.component.clone(), table.name.clone());
            let documents = table.documents_at(ts, None);
            let documents = documents.map(|(id, _, line)| (table.document_id(*id).to_string(), line.to_string()));
            found.tables.insert(key.clone(), documents.collect());
            found.numbers.insert(key, table.number);
        }
        for file in state.files.iter().filter(|f| f.is_there(ts)) {
            let id = DocumentId::new(state.options.storage_number, file.id).to_string();
            let bytes = match &file.contents {
                Contents::Bytes(bytes) => bytes.clone(),
                Contents::Zeros(_) => Bytes::new(),
            };
            let row = FileState {
                uuid: file.uuid.clone(),
                sha256: BASE64.encode(&file.sha256),
                content_type: file.content_type.clone(),
                created: crate::value::Value::Float64(file.created_ms).to_json(crate::value::Format::Export),
                size: file.contents.len(),
                bytes,
            };
            found.files.insert((file.component.clone(), id), row);
        }
        found
    }
}
