//! Imports: upload in parts, look at what the server would do, confirm, wait.
//!
//! Invariant: a part is never sent twice in one upload, because a server with local storage appends what comes: an upload of which it
//! is not known whether a part arrived is thrown away, and a new one is begun. Not here: which archive, and whether to confirm.

use std::fs::File;
use std::os::unix::fs::FileExt;

use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde::Serialize;
use serde_json::{Value, json};

use super::{DEADLINE, Deployment, Error, integer};

/// The least that a part of an upload to S3 may have.
const PART_MIN: u64 = 5 << 20;
/// Parts of an upload at most.
const PARTS_MAX: u64 = 9_999;
/// Uploads that are begun before it is given up.
const UPLOADS: u32 = 4;
/// The largest part: it is held in memory, here and there.
const PART_MAX: u64 = 512 << 20;

/// What becomes of tables that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ImportMode {
    /// Tables of the archive must be empty or absent.
    RequireEmpty,
    /// Tables of the archive are replaced, others stay.
    Replace,
    /// Tables of the archive are replaced, others dropped.
    ReplaceAll,
    /// Rows are added to what is there; not in one step.
    Append,
}

/// How far an import is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImportPhase {
    /// The server reads the archive.
    Uploaded,
    /// The server says what it would do.
    Waiting {
        /// Its table, for people.
        message: String,
        /// Whether rows would be deleted.
        deletes: bool,
    },
    /// Under way.
    InProgress {
        /// What it does now.
        message: String,
    },
    /// Done, and visible in one step.
    Completed {
        /// The time of that step: nanoseconds since 1970.
        timestamp: i64,
        /// Documents.
        rows: u64,
    },
    /// Not done: nothing changed.
    Failed {
        /// The server's words.
        message: String,
    },
}

/// An import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImportState {
    /// Its id.
    pub id: String,
    /// How far it is.
    pub phase: ImportPhase,
}

/// An archive that is on the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uploaded {
    /// The import that it is for.
    pub import: String,
    /// Uploads that were begun: 1 where all went well.
    pub uploads: u32,
}

/// What is sent, and for what.
pub struct Uploading<'u> {
    /// The archive.
    pub file: &'u File,
    /// Its length.
    pub size: u64,
    /// What becomes of tables that are there.
    pub mode: ImportMode,
    /// Told of every part that is sent, with its bytes.
    pub sent: &'u dyn Fn(u64),
}

impl Deployment {
    /// Sends an archive. The import then waits to be confirmed.
    pub fn upload(&self, uploading: &Uploading<'_>) -> Result<Uploaded, Error> {
        for uploads in 1..UPLOADS {
            match self.upload_once(uploading) {
                Ok(import) => return Ok(Uploaded { import, uploads }),
                Err(e) if e.is_ambiguous() => tracing::warn!(%e, "the upload is thrown away and begun anew"),
                Err(e) => return Err(e),
            }
            self.sleep(self.patience.pause * uploads)?;
        }
        self.upload_once(uploading).map(|import| Uploaded { import, uploads: UPLOADS })
    }

    fn upload_once(&self, uploading: &Uploading<'_>) -> Result<String, Error> {
        let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
        let begun = self.post_once("begin an upload", "api/import/start_upload", &json!({}))?;
        let odd = |why: &str| self.odd("upload the archive", why);
        let token = text(&begun, "uploadToken").ok_or_else(|| odd("it has no upload token"))?;
        let part = PART_MIN.max(uploading.size.div_ceil(PARTS_MAX)).min(PART_MAX);
        let (mut at, mut tokens) = (0, Vec::new());
        while at < uploading.size || tokens.is_empty() {
            let length = part.min(uploading.size - at);
            let mut bytes = vec![0; length as usize];
            uploading.file.read_exact_at(&mut bytes, at).map_err(|source| Error::Io {
                doing: "read the archive in",
                path: "the work directory".into(),
                source,
            })?;
            tokens.push(self.upload_part(&token, tokens.len() + 1, bytes)?);
            (uploading.sent)(length);
            at += length;
        }
        let import = json!({"mode": uploading.mode, "format": "zip"});
        let body = json!({"import": import, "uploadToken": token, "partTokens": tokens});
        let done = self.post_once("end the upload", "api/import/finish_upload", &body)?;
        text(&done, "importId").ok_or_else(|| odd("it has no id of an import"))
    }

    fn upload_part(&self, token: &str, number: usize, bytes: Vec<u8>) -> Result<Value, Error> {
        let doing = "send a part of the archive";
        let mut url = self.base.join("api/import/upload_part").map_err(|e| self.odd(doing, e.to_string()))?;
        url.query_pairs_mut().append_pair("uploadToken", token).append_pair("partNumber", &number.to_string());
        let request = self.request(Method::POST, url.as_str())?.timeout(DEADLINE);
        let answer = self.once(doing, request.header(CONTENT_TYPE, "application/octet-stream").body(bytes))?;
        self.json(doing, answer)
    }

    /// How far an import is.
    pub fn import_state(&self, id: &str) -> Result<ImportState, Error> {
        let row = self.query("_system/cli/queryImport", json!({"importId": id}))?;
        self.read_import(&row).ok_or_else(|| self.odd("read the state of the import", "it has no known state"))
    }

    /// The newest imports.
    pub fn imports(&self) -> Result<Vec<ImportState>, Error> {
        let rows = self.query("_system/cli/queryImport:list", json!({}))?;
        Ok(rows.as_array().into_iter().flatten().filter_map(|row| self.read_import(row)).collect())
    }

    fn read_import(&self, row: &Value) -> Option<ImportState> {
        let state = row.get("state")?;
        let text = |name: &str| state.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let phase = match state.get("state")?.as_str()? {
            "uploaded" => ImportPhase::Uploaded,
            "waiting_for_confirmation" => ImportPhase::Waiting {
                message: text("message_to_confirm"),
                deletes: state.get("require_manual_confirmation").and_then(Value::as_bool).unwrap_or(false),
            },
            "in_progress" => ImportPhase::InProgress { message: text("progress_message") },
            "completed" => ImportPhase::Completed {
                timestamp: state.get("timestamp").and_then(integer).unwrap_or_default(),
                rows: state.get("num_rows_written").and_then(integer).and_then(|n| n.try_into().ok()).unwrap_or(0),
            },
            "failed" => ImportPhase::Failed { message: text("error_message") },
            _ => return None,
        };
        Some(ImportState { id: row.get("_id").and_then(Value::as_str).unwrap_or_default().to_owned(), phase })
    }

    /// Confirms an import. In any other state than waiting it does nothing, so that it may be sent twice.
    pub fn perform_import(&self, id: &str) -> Result<(), Error> {
        self.post("confirm the import", "api/perform_import", &json!({"importId": id})).map(drop)
    }

    /// Gives an import up that is not done.
    pub fn cancel_import(&self, id: &str) -> Result<(), Error> {
        let session = self.unstopped();
        session.post("cancel the import", "api/cancel_import", &json!({"importId": id})).map(drop)
    }
}
