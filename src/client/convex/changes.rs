//! What changed in a deployment: `document_deltas`, Data Sync with the cursor that begins at a time, and what neither of them tells:
//! imports, tables, events.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{ANSWER_MAX, Component, Deployment, Error, Said};
use crate::format::convex::{BadChange, Change};

/// A page of changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeltaPage {
    /// The changes, in the order of their times.
    pub changes: Vec<Change>,
    /// Everything up to this time is in this page or before it: nanoseconds since 1970.
    pub to: i64,
    /// Whether more is there already.
    pub more: bool,
}

/// A page of Data Sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncPage {
    /// Its changes.
    pub changes: Vec<Change>,
    /// Tables that begin anew: component and name.
    pub truncates: Vec<(String, String)>,
    /// The time that all pages up to this one show, unless tables are being read.
    pub to: Option<i64>,
    /// Whether that is the newest.
    pub is_newest: bool,
    /// Where the next page begins.
    pub next: String,
}

/// Something that was done to whole tables.
#[derive(Debug, Clone, PartialEq)]
pub struct TableEvent {
    /// Its id.
    pub id: String,
    /// `clear_tables`, `delete_tables`, `delete_component`, `snapshot_import`.
    pub action: String,
    /// Milliseconds since 1970.
    pub at_ms: f64,
}

#[derive(Deserialize)]
struct RawDeltas<'t> {
    #[serde(borrow)]
    values: Vec<&'t RawValue>,
    cursor: i64,
    #[serde(rename = "hasMore")]
    more: bool,
}

#[derive(Deserialize)]
struct RawSync<'t> {
    status: RawStatus,
    #[serde(default)]
    truncates: Vec<RawTruncate>,
    #[serde(borrow)]
    values: Vec<&'t RawValue>,
    pagination: RawPagination,
}

#[derive(Deserialize)]
struct RawStatus {
    #[serde(rename = "type")]
    kind: String,
    #[serde(rename = "snapshotTs")]
    ts: Option<i64>,
}

#[derive(Deserialize)]
struct RawTruncate {
    component: String,
    table: String,
}

#[derive(Deserialize)]
struct RawPagination {
    #[serde(rename = "nextCursor")]
    next: String,
}

const DELTAS: &str = "read the changes";
const SYNC: &str = "read the changes (Data Sync)";

impl Deployment {
    /// The text of a POST that may be sent twice.
    fn post_text(&self, doing: &str, path: &str, body: &Value) -> Result<String, Error> {
        let answer = self.again(doing, || {
            let request = self.request(reqwest::Method::POST, path)?.timeout(super::DEADLINE);
            Ok(request.header(reqwest::header::CONTENT_TYPE, "application/json").body(body.to_string()))
        })?;
        let bytes = self.body(doing, answer, ANSWER_MAX)?;
        String::from_utf8(bytes).map_err(|e| self.odd(doing, e.to_string()))
    }

    fn changes(
        &self,
        doing: &str,
        values: &[&RawValue],
        read: fn(&str) -> Result<Change, BadChange>,
    ) -> Result<Vec<Change>, Error> {
        let all: Result<Vec<Change>, BadChange> = values.iter().map(|value| read(value.get())).collect();
        all.map_err(|e| self.odd(doing, format!("a change: {e}")))
    }

    /// What was committed after a time.
    ///
    /// # Errors
    /// [`Error::is_out_of_retention`] where the server does not have it any more.
    pub fn deltas(&self, after: i64) -> Result<DeltaPage, Error> {
        let body = json!({"cursor": after, "format": "export_json"});
        let text = self.post_text(DELTAS, "api/document_deltas", &body)?;
        let raw: RawDeltas<'_> = serde_json::from_str(&text).map_err(|e| self.odd(DELTAS, e.to_string()))?;
        let changes = self.changes(DELTAS, &raw.values, Change::of_delta)?;
        Ok(DeltaPage { changes, to: raw.cursor, more: raw.more })
    }

    /// A cursor of Data Sync behind a time. None where this server has no Data Sync that begins at a time.
    pub fn sync_cursor(&self, after: i64) -> Result<Option<String>, Error> {
        let doing = "begin Data Sync at a time";
        match self.post(doing, "api/data_sync_cursor_from_deltas", &json!({"cursor": after})) {
            Ok(found) => {
                let cursor = found.get("cursor").and_then(Value::as_str).map(str::to_owned);
                cursor.map(Some).ok_or_else(|| self.odd(doing, "it has no cursor"))
            }
            Err(e) if e.is_absent() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The next page of Data Sync.
    pub fn sync_page(&self, cursor: &str) -> Result<SyncPage, Error> {
        let text = self.post_text(SYNC, "api/v1/data/sync", &json!({"cursor": cursor}))?;
        let raw: RawSync<'_> = serde_json::from_str(&text).map_err(|e| self.odd(SYNC, e.to_string()))?;
        Ok(SyncPage {
            changes: self.changes(SYNC, &raw.values, Change::of_sync)?,
            truncates: raw.truncates.into_iter().map(|one| (one.component, one.table)).collect(),
            to: raw.status.ts.filter(|_| raw.status.kind != "snapshotting"),
            is_newest: raw.status.kind == "upToDate",
            next: raw.pagination.next,
        })
    }

    /// The numbers of a component's tables, by their names; 1,000 of them at most.
    pub fn table_numbers(&self, component: &Component) -> Result<BTreeMap<String, String>, Error> {
        let found = self.query("_system/frontend/getTableMapping", json!({"componentId": component.id}))?;
        let rows = found.as_object().ok_or_else(|| self.odd("ask for the tables", "it is no object"))?;
        let named = rows.iter().filter_map(|(number, name)| Some((name.as_str()?.to_owned(), number.clone())));
        Ok(named.filter(|(name, _)| !name.starts_with('_')).collect())
    }

    /// What was done to whole tables since a time; none where this server does not tell. It goes back a day at most.
    pub fn table_events(&self, since_ms: f64) -> Result<Option<Vec<TableEvent>>, Error> {
        let actions = ["snapshot_import", "clear_tables", "delete_tables", "delete_component"];
        let args = json!({"filters": {"minDate": since_ms, "actions": actions}});
        let rows = match self.pages("_system/frontend/paginatedDeploymentEvents", args, 1000) {
            Ok((rows, _)) => rows,
            Err(Error::Refused { status: 200 | 404 | 560, .. }) => return Ok(None),
            Err(e) => return Err(e),
        };
        let text = |row: &Value, name: &str| row.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let event = |row: &Value| TableEvent {
            id: text(row, "_id"),
            action: text(row, "action"),
            at_ms: row.get("_creationTime").and_then(Value::as_f64).unwrap_or_default(),
        };
        Ok(Some(rows.iter().map(event).collect()))
    }
}

impl Error {
    /// Whether what was asked for is older than what the server keeps.
    pub fn is_out_of_retention(&self) -> bool {
        matches!(self.code(), "InvalidWindowToReadDocuments" | "DataSyncCursorExpired")
    }

    /// Whether a cursor is none of this deployment, or of a time that it has not come to.
    pub fn is_bad_cursor(&self) -> bool {
        self.code() == "InvalidDataSyncCursor"
    }

    /// Whether the server does not know the exact format.
    pub fn is_bad_format(&self) -> bool {
        self.code() == "BadFormat"
    }

    /// An answer that was given and makes no sense.
    pub fn senseless(doing: &str, deployment: &Deployment, why: String) -> Self {
        Self::Answer { doing: doing.to_owned(), url: deployment.place(), source: Said(why) }
    }
}
