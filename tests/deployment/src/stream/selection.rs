//! What of the tables a stream shows: components, tables and columns, each level with an `_other`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;

use crate::value::Value;

/// Columns of a table that is selected.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Columns {
    All,
    /// These, and of all others whether they are included.
    Some {
        listed: BTreeMap<String, bool>,
        other: bool,
    },
}

/// A level: what is listed, and what holds for the rest.
#[derive(Debug, Clone, PartialEq)]
enum Level<T> {
    Whole(bool),
    Parts { listed: BTreeMap<String, T>, other: bool },
}

/// What is selected.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Selection(Level<Level<Level<bool>>>);

fn word(json: &Json) -> Option<bool> {
    match json.as_str()? {
        "included" | "incl" => Some(true),
        "excluded" | "excl" => Some(false),
        _ => None,
    }
}

fn level<T>(json: &Json, part: impl Fn(&Json) -> Option<T>) -> Option<Level<T>> {
    if let Some(whole) = word(json) {
        return Some(Level::Whole(whole));
    }
    let mut listed = BTreeMap::new();
    let mut other = None;
    for (name, value) in json.as_object()? {
        match name.as_str() {
            "_other" => other = Some(word(value)?),
            _ => drop(listed.insert(name.clone(), part(value)?)),
        }
    }
    Some(Level::Parts { listed, other: other? })
}

impl Selection {
    /// Everything.
    pub(crate) fn all() -> Selection {
        Selection(Level::Whole(true))
    }

    /// The `selection` of a request; `None` if it is malformed.
    pub(crate) fn parse(json: &Json) -> Option<Selection> {
        level(json, |component| level(component, |table| level(table, word))).map(Selection)
    }

    /// One table, of the root or of a component; or a component's tables; or everything.
    pub(crate) fn named(component: Option<&str>, table: Option<&str>) -> Selection {
        let tables = match table {
            Some(table) => {
                let listed = BTreeMap::from([(table.to_owned(), Level::Whole(true))]);
                Level::Parts { listed, other: false }
            }
            None if component.is_none() => return Selection::all(),
            None => Level::Whole(true),
        };
        let listed = BTreeMap::from([(component.unwrap_or_default().to_owned(), tables)]);
        Selection(Level::Parts { listed, other: false })
    }

    /// The columns of a table; `None` if it is not selected.
    pub(crate) fn columns(&self, component: &str, table: &str) -> Option<Columns> {
        let whole = |yes: bool| yes.then_some(Columns::All);
        let tables = match &self.0 {
            Level::Whole(yes) => return whole(*yes),
            Level::Parts { listed, other } => match listed.get(component) {
                Some(tables) => tables,
                None => return whole(*other),
            },
        };
        let columns = match tables {
            Level::Whole(yes) => return whole(*yes),
            Level::Parts { listed, other } => match listed.get(table) {
                Some(columns) => columns,
                None => return whole(*other),
            },
        };
        match columns {
            Level::Whole(yes) => whole(*yes),
            Level::Parts { listed, other } => Some(Columns::Some { listed: listed.clone(), other: *other }),
        }
    }
}

impl Columns {
    /// The document without the columns that are excluded; `_id` always stays.
    pub(crate) fn of(&self, document: Value) -> Value {
        match (self, document) {
            (Columns::Some { listed, other }, Value::Object(fields)) => {
                let always = BTreeSet::from(["_id"]);
                let keep = |name: &str| always.contains(name) || listed.get(name).copied().unwrap_or(*other);
                Value::Object(fields.into_iter().filter(|(name, _)| keep(name)).collect())
            }
            (_, document) => document,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selection_chooses_components_tables_and_columns() {
        let json = serde_json::json!({
            "_other": "excluded",
            "": { "_other": "incl", "messages": { "_other": "included", "secret": "excl" }, "logs": "excluded" },
            "waitlist": { "_other": "included" },
        });
        let selection = Selection::parse(&json).unwrap();
        assert_eq!(selection.columns("", "users"), Some(Columns::All));
        assert_eq!(selection.columns("", "logs"), None);
        assert_eq!(selection.columns("waitlist", "logs"), Some(Columns::All));
        assert_eq!(selection.columns("other", "logs"), None);
        let document = crate::json(r#"{"_id":"x","a":1,"secret":2}"#);
        let shown = selection.columns("", "messages").unwrap().of(document);
        assert_eq!(shown, crate::json(r#"{"_id":"x","a":1}"#));
    }

    #[test]
    fn a_level_without_other_is_malformed() {
        for json in ["{}", r#"{"":{"_other":"included"}}"#, r#"{"_other":"maybe"}"#, "[]", "1"] {
            assert_eq!(Selection::parse(&serde_json::from_str(json).unwrap()), None, "{json}");
        }
    }
}
