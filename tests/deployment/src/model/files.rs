//! Files: their rows, and their bytes.

use bytes::Bytes;
use data_encoding::BASE64;
use sha2::{Digest, Sha256};

use super::State;
use crate::id::{DocumentId, InternalId};
use crate::value::Value;

/// The bytes of a file. Zeros take no memory, so that a file above 4 GiB can be had.
#[derive(Debug, Clone)]
pub(crate) enum Contents {
    Bytes(Bytes),
    Zeros(u64),
}

/// A row of `_storage` and its blob.
#[derive(Debug, Clone)]
pub(crate) struct StoredFile {
    pub component: String,
    pub id: InternalId,
    pub created_ms: f64,
    pub uuid: String,
    pub sha256: [u8; 32],
    pub content_type: Option<String>,
    pub contents: Contents,
    /// When the row came, and when it went.
    pub since: i64,
    pub until: Option<i64>,
}

impl Contents {
    pub(crate) fn len(&self) -> u64 {
        match self {
            Contents::Bytes(bytes) => bytes.len() as u64,
            Contents::Zeros(length) => *length,
        }
    }

    /// At most `length` bytes from `from` on.
    pub(crate) fn piece(&self, from: u64, length: usize) -> Bytes {
        let left = usize::try_from(self.len().saturating_sub(from)).unwrap_or(usize::MAX).min(length);
        match self {
            Contents::Bytes(bytes) if left == 0 => bytes.slice(0..0),
            Contents::Bytes(bytes) => bytes.slice(from as usize..from as usize + left),
            Contents::Zeros(_) => Bytes::from(vec![0; left]),
        }
    }

    pub(crate) fn sha256(&self) -> [u8; 32] {
        let mut hasher = Sha256::new();
        let mut at = 0;
        while at < self.len() {
            let piece = self.piece(at, 1 << 20);
            hasher.update(&piece);
            at += piece.len() as u64;
        }
        hasher.finalize().into()
    }

    pub(crate) fn reader(&self) -> ContentsReader<'_> {
        ContentsReader { contents: self, at: 0 }
    }
}

/// Reads contents from the start.
pub(crate) struct ContentsReader<'a> {
    contents: &'a Contents,
    at: u64,
}

impl std::io::Read for ContentsReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let piece = self.contents.piece(self.at, buffer.len());
        buffer[..piece.len()].copy_from_slice(&piece);
        self.at += piece.len() as u64;
        Ok(piece.len())
    }
}

impl StoredFile {
    /// Whether its row is there at this time.
    pub(crate) fn is_there(&self, ts: i64) -> bool {
        self.since <= ts && self.until.is_none_or(|until| until > ts)
    }

    /// Its row. An export has `internalId` and an integer `size`; a query has a float.
    pub(crate) fn row(&self, number: u32, exported: bool) -> Value {
        let mut fields = std::collections::BTreeMap::from([
            ("_id".to_owned(), DocumentId::new(number, self.id).to_string().into()),
            ("_creationTime".to_owned(), self.created_ms.into()),
            ("sha256".to_owned(), BASE64.encode(&self.sha256).into()),
            ("contentType".to_owned(), self.content_type.clone().into()),
        ]);
        let size = self.contents.len();
        if exported {
            fields.insert("internalId".to_owned(), self.uuid.clone().into());
            fields.insert("size".to_owned(), Value::Int64(size as i64));
        } else {
            fields.insert("size".to_owned(), Value::Float64(size as f64));
        }
        Value::Object(fields)
    }

    /// The line of `_storage/documents.jsonl`, whose fields have an order of their own.
    pub(crate) fn export_line(&self, number: u32) -> String {
        let row = self.row(number, true);
        let mut out = String::from("{");
        for name in ["_id", "_creationTime", "sha256", "size", "contentType", "internalId"] {
            if let Some(value) = row.get(name) {
                if out.len() > 1 {
                    out.push(',');
                }
                crate::value::write_string(&mut out, name);
                out.push(':');
                value.write(&mut out, crate::value::Format::Export);
            }
        }
        out.push('}');
        out
    }

    /// The end of the blob's name in a ZIP.
    pub(crate) fn extension(&self) -> &'static str {
        match self.content_type.as_deref() {
            Some("image/png") => ".png",
            Some("image/jpeg") => ".jpg",
            Some("image/gif") => ".gif",
            Some("image/webp") => ".webp",
            Some("image/svg+xml") => ".svg",
            Some("text/plain") => ".txt",
            Some("text/html") => ".html",
            Some("text/css") => ".css",
            Some("text/csv") => ".csv",
            Some("application/json") => ".json",
            Some("application/pdf") => ".pdf",
            Some("application/zip") => ".zip",
            Some("application/octet-stream") => ".bin",
            Some("video/mp4") => ".mp4",
            Some("audio/mpeg") => ".mpga",
            _ => "",
        }
    }
}

impl State {
    /// Stores a file; its id.
    pub(crate) fn add_file(&mut self, component: &str, content_type: Option<&str>, contents: Contents) -> DocumentId {
        self.ensure_component(component, true);
        let sha256 = contents.sha256();
        let id = self.new_internal();
        let uuid = self.new_uuid();
        let created_ms = self.now_ms();
        let since = self.commit_system(1);
        self.files.push(StoredFile {
            component: component.to_owned(),
            id,
            created_ms,
            uuid,
            sha256,
            content_type: content_type.map(str::to_owned),
            contents,
            since,
            until: None,
        });
        DocumentId::new(self.options.storage_number, id)
    }

    /// Deletes the row of a file; whether it was there. The blob stays in storage, out of reach.
    pub(crate) fn remove_file(&mut self, id: &str) -> bool {
        let number = self.options.storage_number;
        let found =
            self.files.iter().position(|f| f.until.is_none() && DocumentId::new(number, f.id).to_string() == id);
        if let Some(at) = found {
            self.files[at].until = Some(self.commit_system(1));
        }
        found.is_some()
    }

    /// The files of a component whose rows are there at this time, by id.
    pub(crate) fn files_at(&self, component: &str, ts: i64) -> Vec<StoredFile> {
        let mut files: Vec<StoredFile> =
            self.files.iter().filter(|f| f.component == component && f.is_there(ts)).cloned().collect();
        files.sort_by_key(|f| f.id);
        files
    }
}
