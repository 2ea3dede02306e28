//! What is asked of a deployment, each with its answer as a type: the export's state, files, components, features.

use data_encoding::BASE64;
use reqwest::Method;
use reqwest::blocking::Response;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{BODY_DEADLINE, DEADLINE, Deployment, Error, SHORT_DEADLINE};

/// Rows of a page of files: the query may read a limited number.
const PAGE: u64 = 1000;
/// Components at most: more than tables there cannot be.
const COMPONENTS_MAX: usize = 10_000;
/// Names and versions at most.
const WORD_MAX: u64 = 4 << 10;

/// In which state an export is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportStatus {
    /// Asked for.
    Requested,
    /// Under way; nothing but `cancel` ends one that cannot succeed.
    InProgress,
    /// Done.
    Completed,
    /// Given up by the server. Today's never does.
    Failed,
    /// Given up by somebody.
    Canceled,
}

/// The newest export.
#[derive(Debug, Clone, PartialEq)]
pub struct ExportState {
    /// Its document id.
    pub id: String,
    /// Its state.
    pub status: ExportStatus,
    /// When it was asked for: milliseconds since 1970, by the server's clock.
    pub created_ms: f64,
    /// Whether files were asked for.
    pub includes_files: bool,
    /// The snapshot's time once it is completed, in nanoseconds; before that something else.
    pub start_ts: Option<i64>,
    /// Bytes of the archive, where the server knows.
    pub size: Option<u64>,
    /// What the server says that it does.
    pub message: String,
}

/// A file, as the deployment lists it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FileRow {
    /// Its document id.
    pub id: String,
    /// Milliseconds since 1970.
    pub created_ms: f64,
    /// SHA-256 of its bytes.
    pub sha256: [u8; 32],
    /// Bytes.
    pub size: u64,
    /// Its type, where it has one.
    pub content_type: Option<String>,
    /// The UUID in its URL.
    pub uuid: String,
}

/// Some of the files, in the order of their creation.
#[derive(Debug, Clone, PartialEq)]
pub struct FilePage {
    /// The files. One that cannot be understood is told by its id, or what there is of it, and why.
    pub rows: Vec<Result<FileRow, (String, String)>>,
    /// Where the next page begins; none behind the last one.
    pub next: Option<String>,
}

/// A component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Component {
    /// Its id; none for the root. A fresh deployment gives others.
    pub id: Option<String>,
    /// Its path, `a/b`; empty for the root.
    pub path: String,
}

/// What a key may do, as the deployment says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedKey {
    /// It only reads.
    pub read_only: bool,
    /// Operations that it is for; empty for all.
    pub operations: Vec<String>,
}

/// What a deployment of this version can do, tried out: it has no version numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFeatures {
    /// What it says of its version; `unknown` usually.
    pub version: String,
    /// Document deltas.
    pub streaming_export: bool,
    /// Data Sync.
    pub data_sync: bool,
    /// Environment variables by a route of their own.
    pub environment_route: bool,
    /// It can be paused.
    pub pause: bool,
}

/// What a probe of a route found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// It is there.
    There,
    /// This version has none.
    Absent,
}

/// An Int64 in any of the encodings of Convex: a number, a decimal string, or base64 of eight bytes.
pub fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => {
            let whole = |float: f64| (float.fract() == 0.0 && float.abs() < 9.0e18).then_some(float as i64);
            number.as_i64().or_else(|| number.as_f64().and_then(whole))
        }
        Value::String(text) => text.parse().ok(),
        Value::Object(fields) => {
            let raw = BASE64.decode(fields.get("$integer")?.as_str()?.as_bytes()).ok()?;
            Some(i64::from_le_bytes(raw.try_into().ok()?))
        }
        _ => None,
    }
}

/// The server's clock in milliseconds since 1970, by the `Date` of an answer: to the second.
pub fn now_of(answer: &Response) -> Option<i64> {
    let text = answer.headers().get(reqwest::header::DATE)?.to_str().ok()?;
    Some(chrono::DateTime::parse_from_rfc2822(text).ok()?.timestamp_millis())
}

fn text(value: &Value, name: &str) -> Option<String> {
    value.get(name).and_then(Value::as_str).map(str::to_owned)
}

/// Ids and UUIDs go into paths of requests and of snapshots.
fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.len() <= 64 && text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_')
}

impl Deployment {
    /// The instance's name; needs no key.
    pub fn instance_name(&self) -> Result<String, Error> {
        self.word("ask for the instance's name", "instance_name")
    }

    /// Refuses a key of another instance, before it is used.
    pub fn check_instance(&self) -> Result<String, Error> {
        let instance = self.instance_name()?;
        if instance != self.key_of() {
            let key_of = self.key_of().to_owned();
            return Err(Error::OtherInstance { url: self.place(), instance, key_of });
        }
        Ok(instance)
    }

    fn word(&self, doing: &str, path: &str) -> Result<String, Error> {
        self.tries(|| {
            let answer = self.once(doing, self.request(Method::GET, path)?.timeout(SHORT_DEADLINE))?;
            let text = self.body(doing, answer, WORD_MAX)?;
            let text = String::from_utf8(text).map_err(|e| self.odd(doing, e.to_string()))?;
            let text = text.trim();
            let plain = !text.is_empty() && text.chars().all(|c| !c.is_control()) && !text.starts_with('<');
            if plain { Ok(text.to_owned()) } else { Err(self.odd(doing, "it is no name: is this a deployment?")) }
        })
    }

    /// Whether the key is accepted, and for what; and the server's clock.
    pub fn check_key(&self) -> Result<(CheckedKey, Option<i64>), Error> {
        let doing = "check the admin key";
        self.tries(|| {
            let answer = self.once(doing, self.request(Method::GET, "api/check_admin_key")?)?;
            let clock = now_of(&answer);
            let found = self.json(doing, answer)?;
            let operations = found.get("allowedOps").and_then(Value::as_array).cloned().unwrap_or_default();
            let operations = operations.iter().filter_map(Value::as_str).map(str::to_owned).collect();
            let read_only = found.get("isReadOnly").and_then(Value::as_bool).unwrap_or(false);
            Ok((CheckedKey { read_only, operations }, clock))
        })
    }

    /// Whether a route is there. Any answer but 404 says so.
    pub fn probe(&self, path: &str) -> Result<Probe, Error> {
        match self.again("look what this version can do", || self.request(Method::GET, path)) {
            Ok(_) => Ok(Probe::There),
            Err(e) if e.is_absent() => Ok(Probe::Absent),
            Err(Error::Refused { .. } | Error::NotPermitted { .. }) => Ok(Probe::There),
            Err(e) => Err(e),
        }
    }

    /// What this version can do.
    pub fn features(&self) -> Result<ServerFeatures, Error> {
        let version = self.word("ask for the version", "version").unwrap_or_else(|_| "unknown".to_owned());
        let openapi = match self.get("read the list of routes", "api/v1/openapi.json") {
            Ok(found) => found.get("paths").map(Value::to_string).unwrap_or_default(),
            Err(Error::Refused { .. } | Error::NotPermitted { .. } | Error::Answer { .. }) => String::new(),
            Err(e) => return Err(e),
        };
        Ok(ServerFeatures {
            version,
            streaming_export: self.probe("api/test_streaming_export_connection")? == Probe::There,
            data_sync: openapi.contains("/data/sync"),
            environment_route: openapi.contains("/list_environment_variables"),
            pause: openapi.contains("/pause_deployment"),
        })
    }

    /// The newest export, if there ever was one.
    pub fn latest_export(&self) -> Result<Option<ExportState>, Error> {
        let row = self.query("_system/cli/exports:getLatest", json!({}))?;
        if row.is_null() {
            return Ok(None);
        }
        let odd = |why: &str| self.odd("read the state of the export", why);
        let status = match row.get("state").and_then(Value::as_str) {
            Some("requested") => ExportStatus::Requested,
            Some("in_progress") => ExportStatus::InProgress,
            Some("completed") => ExportStatus::Completed,
            Some("failed") => ExportStatus::Failed,
            Some("canceled" | "cancelled") => ExportStatus::Canceled,
            other => return Err(odd(&format!("it is in the unknown state {other:?}"))),
        };
        let id = text(&row, "_id").filter(|id| is_plain(id)).ok_or_else(|| odd("it has no id"))?;
        let format = row.get("format").cloned().unwrap_or_default();
        let start_ts = row.get("start_ts").and_then(integer);
        let size = row.get("size").and_then(integer).and_then(|size| u64::try_from(size).ok()).filter(|size| *size > 0);
        Ok(Some(ExportState {
            id,
            status,
            created_ms: row.get("_creationTime").and_then(Value::as_f64).unwrap_or_default(),
            includes_files: format.get("include_storage").and_then(Value::as_bool).unwrap_or(false),
            start_ts,
            size,
            message: text(&row, "progress_message").unwrap_or_default(),
        }))
    }

    /// Asks for an export without files, once: after a failure look at [`Deployment::latest_export`].
    pub fn request_export(&self) -> Result<(), Error> {
        let request = self.request(Method::POST, "api/export/request/zip?includeStorage=false")?.timeout(DEADLINE);
        self.once("ask for an export", request).map(drop)
    }

    /// Ends an export that is not done.
    pub fn cancel_export(&self, id: &str) -> Result<(), Error> {
        let path = format!("api/export/cancel/{id}");
        // A run that was given up cancels too: its own stop does not hold this request back.
        self.unstopped().once("cancel the export", self.request(Method::POST, &path)?).map(drop)
    }

    /// Says when an export may go, in nanoseconds since 1970; 0 is with the server's next sweep.
    pub fn expire_export(&self, id: &str, at_ns: u64) -> Result<(), Error> {
        let (path, body) = (format!("api/export/set_expiration/{id}"), json!({"expirationTsNs": at_ns}));
        let session = self.unstopped();
        let doing = "let the server delete the export";
        let request = session.request(Method::POST, &path)?;
        let request = request.header(reqwest::header::CONTENT_TYPE, "application/json").body(body.to_string());
        session.once(doing, request).map(drop)
    }

    /// The same session without its stop.
    pub fn unstopped(&self) -> Self {
        Self { stop: std::sync::Arc::default(), ..self.clone() }
    }

    /// What the deployment says that it is: `running`, `paused`; none where it does not know the question.
    pub fn state(&self) -> Result<Option<String>, Error> {
        match self.query("_system/frontend/deploymentState:deploymentState", json!({})) {
            Ok(found) => Ok(text(&found, "state")),
            Err(Error::Refused { .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Functions of users return errors, scheduled ones wait, crons are left out.
    pub fn pause(&self) -> Result<(), Error> {
        self.post("pause the deployment", "api/v1/pause_deployment", &json!({})).map(drop)
    }

    /// It goes on.
    pub fn unpause(&self) -> Result<(), Error> {
        self.unstopped().post("resume the deployment", "api/v1/unpause_deployment", &json!({})).map(drop)
    }

    /// Begins the download of an export: its length, where the server says it, and its bytes. It cannot be resumed.
    pub fn download_export(&self, id: &str) -> Result<(Option<u64>, Response), Error> {
        let path = format!("api/export/zip/{id}");
        let doing = "download the export";
        let answer = self.again(doing, || Ok(self.request(Method::GET, &path)?.timeout(DEADLINE)))?;
        Ok((answer.content_length(), answer))
    }

    /// The components, the root first.
    pub fn components(&self) -> Result<Vec<Component>, Error> {
        let mut all = vec![Component { id: None, path: String::new() }];
        let found = match self.query("_system/frontend/components:list", json!({})) {
            Ok(found) => found,
            // Versions before components have the root alone.
            Err(Error::Refused { .. }) => return Ok(all),
            Err(e) => return Err(e),
        };
        for row in found.as_array().into_iter().flatten() {
            let (id, path) = (text(row, "id"), text(row, "path").unwrap_or_default());
            let path = path.trim_matches('/').to_owned();
            if path.is_empty() || all.iter().any(|known| known.path == path) {
                continue;
            }
            let id = id.filter(|id| is_plain(id));
            all.push(Component { id: Some(id.ok_or_else(|| self.odd("list the components", "one has no id"))?), path });
            if all.len() > COMPONENTS_MAX {
                return Err(self.odd("list the components", "there are too many"));
            }
        }
        Ok(all)
    }

    /// A page of a component's files, oldest first; of those alone that were made at `since` (milliseconds since 1970) or later.
    pub fn files(&self, component: &Component, since: Option<f64>, cursor: Option<&str>) -> Result<FilePage, Error> {
        let path = "_system/frontend/fileStorageV2:fileMetadata";
        let mut filters = json!({"order": "asc"});
        if let Some(since) = since {
            filters["minCreationTime"] = since.into();
        }
        let found = self.query(
            path,
            json!({
                "componentId": component.id,
                "paginationOpts": {"numItems": PAGE, "cursor": cursor},
                "filters": filters,
            }),
        )?;
        let odd = |why: &str| self.odd("list the files", why);
        let rows = found.get("page").and_then(Value::as_array).ok_or_else(|| odd("it has no page"))?;
        let rows = rows.iter().map(file_row).collect();
        let is_done = found.get("isDone").and_then(Value::as_bool).unwrap_or(true);
        let next = if is_done { None } else { text(&found, "continueCursor") };
        if next.is_some() && next.as_deref() == cursor {
            return Err(odd("its pages do not go on"));
        }
        Ok(FilePage { rows, next })
    }

    /// The bytes of a file from `from` on: needs no key, and is sent none.
    pub fn file_bytes(&self, component: &Component, uuid: &str, from: u64) -> Result<Response, Error> {
        let doing = "fetch a file";
        let query = component.id.as_ref().map(|id| format!("?component={id}")).unwrap_or_default();
        let path = format!("api/storage/{uuid}{query}");
        let url = self.base.join(&path).map_err(|e| Error::BadUrl { url: path.clone(), why: e.to_string() })?;
        let mut request = self.client.get(url).timeout(BODY_DEADLINE);
        if from > 0 {
            request = request.header(reqwest::header::RANGE, format!("bytes={from}-"));
        }
        let answer = self.once(doing, request)?;
        if from > 0 && answer.status().as_u16() != 206 {
            return Err(self.odd(doing, "it begins at its start, not where it was asked to"));
        }
        Ok(answer)
    }

    /// The environment variables.
    pub fn environment(&self) -> Result<std::collections::BTreeMap<String, String>, Error> {
        let doing = "read the environment variables";
        let found = match self.get(doing, "api/v1/list_environment_variables") {
            Err(e) if e.is_absent() => {
                let rows = self.query("_system/cli/queryEnvironmentVariables", json!({}))?;
                let rows = rows.as_array().cloned().unwrap_or_default();
                return Ok(rows.iter().filter_map(|row| Some((text(row, "name")?, text(row, "value")?))).collect());
            }
            found => found?,
        };
        let found = found.get("environmentVariables").cloned().unwrap_or_default();
        serde_json::from_value(found).map_err(|e| self.odd(doing, e.to_string()))
    }

    /// Sets environment variables, all in one transaction. The same twice is the same.
    pub fn set_environment(&self, all: &std::collections::BTreeMap<String, String>) -> Result<(), Error> {
        let changes: Vec<Value> = all.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
        let (doing, body) = ("set the environment variables", json!({"changes": changes}));
        match self.post(doing, "api/v1/update_environment_variables", &body) {
            Err(e) if e.is_absent() => self.post(doing, "api/update_environment_variables", &body).map(drop),
            done => done.map(drop),
        }
    }

    /// Any JSON by GET: for parts that are kept as they come.
    pub fn get_part(&self, path: &str) -> Result<Value, Error> {
        self.get("read a part of the deployment", path)
    }

    /// `get_config` and `get_config_hashes`, which take the key in their body.
    pub fn code(&self, route: &str) -> Result<Value, Error> {
        self.post("read the code", &format!("api/{route}"), &json!({"adminKey": self.key.expose()}))
    }

    /// All rows of a paginated query, at most `limit` of them; whether that was all.
    pub fn pages(&self, path: &str, mut args: Value, limit: usize) -> Result<(Vec<Value>, bool), Error> {
        let (mut rows, mut cursor): (Vec<Value>, Option<String>) = (Vec::new(), None);
        loop {
            args["paginationOpts"] = json!({"numItems": PAGE, "cursor": cursor});
            let mut found = self.query(path, args.clone())?;
            if let Some(Value::Array(page)) = found.get_mut("page").map(Value::take) {
                rows.extend(page);
            }
            let next = text(&found, "continueCursor");
            let is_done = found.get("isDone").and_then(Value::as_bool).unwrap_or(true);
            if is_done || next.is_none() || next == cursor {
                return Ok((rows, true));
            }
            if rows.len() >= limit {
                return Ok((rows, false));
            }
            cursor = next;
        }
    }
}

fn file_row(row: &Value) -> Result<FileRow, (String, String)> {
    let id = text(row, "_id").unwrap_or_default();
    let bad = |why: &str| (id.chars().take(64).collect(), why.to_owned());
    if !is_plain(&id) {
        return Err(bad("its id is none"));
    }
    let sha256 = text(row, "sha256").and_then(|text| BASE64.decode(text.as_bytes()).ok());
    let sha256 = sha256.and_then(|raw| raw.try_into().ok()).ok_or_else(|| bad("its sha256 is none"))?;
    let size = row.get("size").and_then(integer).and_then(|size| u64::try_from(size).ok());
    let url = text(row, "url").unwrap_or_default();
    let uuid = url.split(['?', '#']).next().and_then(|path| path.rsplit('/').next()).unwrap_or_default().to_owned();
    if !is_plain(&uuid) {
        return Err(bad("its URL has no UUID"));
    }
    Ok(FileRow {
        created_ms: row.get("_creationTime").and_then(Value::as_f64).unwrap_or_default(),
        sha256,
        size: size.ok_or_else(|| bad("its size is none"))?,
        content_type: text(row, "contentType"),
        uuid,
        id,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_come_in_three_encodings() {
        for (text, expected) in [
            (r#"{"$integer":"BwAAAAAAAAA="}"#, Some(7)),
            ("7", Some(7)),
            ("7.0", Some(7)),
            (r#""1719000000000000000""#, Some(1_719_000_000_000_000_000)),
            ("1719000000000000000", Some(1_719_000_000_000_000_000)),
            (r#"{"$integer":"BwAA"}"#, None),
            ("7.5", None),
            ("null", None),
        ] {
            assert_eq!(integer(&serde_json::from_str(text).unwrap()), expected, "{text}");
        }
    }

    #[test]
    fn a_file_is_read_from_its_row() {
        let sha = BASE64.encode(&[7; 32]);
        let row = json!({"_id": "kg2", "_creationTime": 1.5, "sha256": sha, "size": 12.0, "contentType": null,
            "url": "http://x/api/storage/0b6e-1?component=abc"});
        let file = file_row(&row).unwrap();
        assert_eq!((file.uuid.as_str(), file.size, file.sha256), ("0b6e-1", 12, [7; 32]));
        for (name, value) in
            [("_id", json!("../x")), ("sha256", json!("AA==")), ("size", json!(-1)), ("url", json!(null))]
        {
            let mut bad = row.clone();
            bad[name] = value;
            assert!(file_row(&bad).is_err(), "{name}");
        }
    }
}
