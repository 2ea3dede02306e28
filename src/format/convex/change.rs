//! Changes of documents as a deployment tells them (`document_deltas`, Data Sync) and as segments hold them: one line each, in the
//! form of Data Sync. The text of values is kept as it came; a document's own line is its fields in bytewise order, as in an export.
//!
//! Invariants: no number is read and written again; nothing here panics on any input. Not here: what a change does to a state.

use std::borrow::Cow;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::{DocumentId, full_name};

/// A revision of a document, or its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The path of its component; empty for the root.
    pub component: String,
    /// Its table.
    pub table: String,
    /// When it was committed: nanoseconds since 1970.
    pub ts: i64,
    /// Its id.
    pub id: String,
    /// Its line in an export; none where it was deleted.
    pub line: Option<String>,
}

/// Why a change cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum BadChange {
    /// It is no JSON of the kind.
    #[error("it is not understood: {0}")]
    Form(#[from] serde_json::Error),
    /// Something that it needs is missing.
    #[error("it has no `{0}`")]
    Missing(&'static str),
    /// Its id is none.
    #[error("its id `{0}` is none")]
    Id(String),
}

/// The fields of an object with the text of their values.
struct Fields<'t>(Vec<(Cow<'t, str>, &'t RawValue)>);

impl<'de: 't, 't> Deserialize<'de> for Fields<'t> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Fields<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a document")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut all = Vec::new();
                while let Some((name, value)) = map.next_entry::<Name<'de>, &'de RawValue>()? {
                    all.push((name.0, value));
                }
                Ok(Fields(all))
            }
        }
        deserializer.deserialize_map(All)
    }
}

/// A field's name, borrowed where it has no escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Name<'t>(#[serde(borrow)] Cow<'t, str>);

impl Fields<'_> {
    /// The document's line: fields in bytewise order, without spaces between them.
    fn line(mut self) -> Result<String, serde_json::Error> {
        self.0.sort_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
        let mut line = String::from("{");
        for (name, value) in &self.0 {
            if line.len() > 1 {
                line.push(',');
            }
            line.push_str(&serde_json::to_string(name)?);
            line.push(':');
            line.push_str(value.get());
        }
        line.push('}');
        Ok(line)
    }

    fn id(&self) -> Result<String, BadChange> {
        let raw = self.0.iter().find(|(name, _)| name == "_id").ok_or(BadChange::Missing("_id"))?.1;
        let id: String = serde_json::from_str(raw.get())?;
        match DocumentId::parse(&id) {
            Ok(_) => Ok(id),
            Err(_) => Err(BadChange::Id(id.chars().take(64).collect())),
        }
    }
}

/// A document's line without its id, so that a server gives it another one.
pub fn line_without_id(line: &str) -> Result<String, BadChange> {
    let mut fields: Fields<'_> = serde_json::from_str(line)?;
    fields.0.retain(|(name, _)| name != "_id");
    Ok(fields.line()?)
}

/// A value of Data Sync, and a line of a segment.
#[derive(Deserialize)]
struct Synced<'t> {
    component: String,
    table: String,
    ts: Time,
    #[serde(default)]
    deleted: bool,
    #[serde(borrow)]
    value: Fields<'t>,
}

/// A time as a number, or as decimal text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Time {
    Number(i64),
    Text(String),
}

impl Time {
    fn number(self) -> Result<i64, BadChange> {
        match self {
            Self::Number(number) => Ok(number),
            Self::Text(text) => text.parse().map_err(|_| BadChange::Missing("ts")),
        }
    }
}

impl Change {
    /// A value of a page of Data Sync, or a line of a segment.
    pub fn of_sync(text: &str) -> Result<Self, BadChange> {
        let Synced { component, table, ts, deleted, value } = serde_json::from_str(text)?;
        let id = value.id()?;
        let line = if deleted { None } else { Some(value.line()?) };
        Ok(Self { component, table, ts: ts.number()?, id, line })
    }

    /// A value of a page of `document_deltas`, whose own fields stand among the document's.
    pub fn of_delta(text: &str) -> Result<Self, BadChange> {
        let mut fields: Fields<'_> = serde_json::from_str(text)?;
        let mut own: [Option<&RawValue>; 4] = [None; 4];
        const NAMES: [&str; 4] = ["_component", "_table", "_ts", "_deleted"];
        fields.0.retain(|(name, value)| match NAMES.iter().position(|own| name == own) {
            Some(at) => {
                own[at] = Some(value);
                false
            }
            None => true,
        });
        let get = |at: usize| own[at].map(RawValue::get).ok_or(BadChange::Missing(NAMES[at]));
        let deleted: bool = own[3].map_or(Ok(false), |raw| serde_json::from_str(raw.get()))?;
        let id = fields.id()?;
        let line = if deleted { None } else { Some(fields.line()?) };
        Ok(Self {
            component: serde_json::from_str(get(0)?)?,
            table: serde_json::from_str(get(1)?)?,
            ts: serde_json::from_str(get(2)?)?,
            id,
            line,
        })
    }

    /// Appends its line of a segment.
    pub fn write(&self, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        #[derive(Serialize)]
        struct Head<'c> {
            component: &'c str,
            table: &'c str,
            ts: String,
            deleted: bool,
        }
        let head = Head {
            component: &self.component,
            table: &self.table,
            ts: self.ts.to_string(),
            deleted: self.line.is_none(),
        };
        serde_json::to_writer(&mut *out, &head)?;
        out.pop();
        out.extend_from_slice(b",\"value\":");
        match &self.line {
            Some(line) => out.extend_from_slice(line.as_bytes()),
            None => serde_json::to_writer(&mut *out, &serde_json::json!({"_id": self.id}))?,
        }
        out.extend_from_slice(b"}\n");
        Ok(())
    }

    /// `users`, or `component/users`.
    pub fn full_table(&self) -> String {
        full_name(&self.component, &self.table)
    }
}

/// The id of a document's line of an export.
pub fn id_of_line(line: &[u8]) -> Result<DocumentId, BadChange> {
    #[derive(Deserialize)]
    struct WithId<'l> {
        #[serde(rename = "_id", borrow)]
        id: Cow<'l, str>,
    }
    let bad = |id: &str| BadChange::Id(id.chars().take(64).collect());
    if let Some(id) = leading_id(line) {
        return DocumentId::parse(id).map_err(|_| bad(id));
    }
    let with: WithId<'_> = serde_json::from_slice(line)?;
    DocumentId::parse(&with.id).map_err(|_| bad(&with.id))
}

/// The id where it is the second field, behind the time of creation: nearly always, as capitals alone come before these.
fn leading_id(line: &[u8]) -> Option<&str> {
    let rest = line.strip_prefix(b"{\"_creationTime\":")?;
    let comma = rest.iter().take(40).position(|byte| *byte == b',')?;
    let id = rest[comma..].strip_prefix(b",\"_id\":\"")?;
    let end = id.iter().take(40).position(|byte| *byte == b'"')?;
    std::str::from_utf8(&id[..end]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "j57000820c20a1g7104gm2rc1m70ynr8";
    const ODD: &str = r#""_creationTime":1.0,"_id":"j57000820c20a1g7104gm2rc1m70ynr8","a\"b":-0.0,"big":9007199254740993,"f":1e16,"n":{"$float":"AAAAAAAA8H8="}"#;

    #[test]
    fn both_forms_give_the_line_of_an_export() {
        let line = format!("{{\"A\":7,{ODD}}}");
        let delta = format!(
            "{{\"_component\":\"a/b\",\"_table\":\"users\",\"_ts\":1719000000000000001,\"_deleted\":false,{ODD},\"A\":7}}"
        );
        let sync = format!(
            "{{\"component\":\"a/b\",\"table\":\"users\",\"ts\":1719000000000000001,\"deleted\":false,\"value\":{{{ODD},\"A\":7}}}}"
        );
        let change = Change {
            component: "a/b".into(),
            table: "users".into(),
            ts: 1_719_000_000_000_000_001,
            id: ID.into(),
            line: Some(line),
        };
        assert_eq!(Change::of_delta(&delta).unwrap(), change);
        assert_eq!(Change::of_sync(&sync).unwrap(), change);
        let mut written = Vec::new();
        change.write(&mut written).unwrap();
        assert_eq!(Change::of_sync(std::str::from_utf8(&written).unwrap()).unwrap(), change);
    }

    #[test]
    fn an_end_is_an_id_alone() {
        let text = format!("{{\"_component\":\"\",\"_table\":\"t\",\"_ts\":5,\"_deleted\":true,\"_id\":\"{ID}\"}}");
        let change = Change::of_delta(&text).unwrap();
        assert_eq!((change.line.as_deref(), change.id.as_str()), (None, ID));
        let mut written = Vec::new();
        change.write(&mut written).unwrap();
        assert_eq!(Change::of_sync(std::str::from_utf8(&written).unwrap()).unwrap(), change);
    }

    #[test]
    fn an_id_is_found_wherever_it_stands() {
        let other = "j97fzzzzzzzzzzzzzzzzzzzzzzzzzm7a";
        for line in [
            format!("{{\"_creationTime\":1.5,\"_id\":\"{ID}\"}}"),
            format!("{{\"A\":{{\"_id\":\"{other}\"}},\"_creationTime\":1.5,\"_id\":\"{ID}\"}}"),
            format!("{{\"_id\":\"{ID}\",\"a\":[\"_id\"]}}"),
        ] {
            assert_eq!(id_of_line(line.as_bytes()).unwrap().to_string(), ID, "{line}");
        }
        assert!(id_of_line(b"{\"_creationTime\":1.5,\"_id\":\"x\"}").is_err());
    }

    #[test]
    fn what_is_no_change_is_refused() {
        for bad in ["", "[]", "{}", "{\"_id\":\"x\"}", "{\"_id\":\"j57000820c20a1g7104gm2rc1m70ynr8\"}"] {
            assert!(Change::of_delta(bad).is_err(), "{bad}");
            assert!(Change::of_sync(bad).is_err(), "{bad}");
        }
    }
}
