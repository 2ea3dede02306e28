//! Files of an upload: their rows and blobs, checked, but not yet there.

use bytes::Bytes;
use data_encoding::BASE64;

use super::Failed;
use super::parse::{FoundFiles, Upload};
use crate::id::DocumentId;
use crate::model::{Contents, State, StoredFile};
use crate::value::Value;

/// Files that wait for the final commit, and the number of `_storage` that they ask for.
#[derive(Default)]
pub(super) struct Staged {
    pub files: Vec<StoredFile>,
    pub number: Option<u32>,
}

fn text<'a>(row: &'a Value, name: &str) -> Option<&'a str> {
    row.get(name).and_then(Value::as_str)
}

/// The files of one component. A row without a blob is dropped, a blob without a row comes without type under a new name, and
/// blobs without any rows are ignored: silently, as in the backend.
pub(super) fn stage(
    state: &mut State,
    upload: &Upload<'_>,
    component: &str,
    found: &FoundFiles,
) -> Result<Staged, Failed> {
    let Some(rows) = found.rows else { return Ok(Staged::default()) };
    let mut staged = Staged::default();
    let mut listed = std::collections::BTreeSet::new();
    for row in upload.rows(rows)? {
        let id = text(&row, "_id").unwrap_or_default();
        let Some(parsed) = DocumentId::parse(id) else {
            return Err(Failed::new("InvalidId", format!("invalid _id '{id}' in _storage")));
        };
        if *staged.number.get_or_insert(parsed.number) != parsed.number {
            return Err(Failed::new("InvalidId", "_storage entry has another table number than those before it"));
        }
        listed.insert(id.to_owned());
        let Some(blob) = found.blobs.get(id) else { continue };
        let contents = Contents::Bytes(Bytes::from(upload.bytes(*blob)?));
        let sha256 = contents.sha256();
        if text(&row, "sha256").is_some_and(|expected| expected != BASE64.encode(&sha256)) {
            return Err(Failed::new("Sha256Mismatch", format!("sha256 mismatch for _storage/{id}")));
        }
        let created_ms = match row.get("_creationTime") {
            Some(Value::Float64(ms)) => *ms,
            _ => state.now_ms(),
        };
        let uuid = text(&row, "internalId").map_or_else(|| state.new_uuid(), str::to_owned);
        let content_type = text(&row, "contentType").map(str::to_owned);
        staged.files.push(file(component, parsed, created_ms, uuid, content_type, contents));
    }
    for (id, blob) in found.blobs.iter().filter(|(id, _)| !listed.contains(*id)) {
        let Some(parsed) = DocumentId::parse(id) else {
            return Err(Failed::new("InvalidStorageId", format!("_storage/{id} is not a valid id of a file")));
        };
        let contents = Contents::Bytes(Bytes::from(upload.bytes(*blob)?));
        let (created_ms, uuid) = (state.now_ms(), state.new_uuid());
        staged.files.push(file(component, parsed, created_ms, uuid, None, contents));
    }
    Ok(staged)
}

fn file(
    component: &str,
    id: DocumentId,
    created_ms: f64,
    uuid: String,
    content_type: Option<String>,
    contents: Contents,
) -> StoredFile {
    StoredFile {
        component: component.to_owned(),
        id: id.internal,
        created_ms,
        uuid,
        sha256: contents.sha256(),
        content_type,
        contents,
        since: i64::MAX,
        until: None,
    }
}
