//! Writes of tests: several in one commit.

use crate::id::DocumentId;
use crate::json::parse;
use crate::model::{Line, State, TableState, Write};
use crate::shared::Inner;
use crate::value::{Format, Value};

/// A table by its name, or by the path of its component and its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableName {
    pub(crate) component: String,
    pub(crate) name: String,
}

impl From<&str> for TableName {
    fn from(name: &str) -> TableName {
        TableName { component: String::new(), name: name.to_owned() }
    }
}

impl From<(&str, &str)> for TableName {
    fn from((component, name): (&str, &str)) -> TableName {
        TableName { component: component.to_owned(), name: name.to_owned() }
    }
}

impl Inner {
    /// Several writes in one commit.
    pub(crate) fn transaction<T>(&self, deed: impl FnOnce(&mut Transaction<'_>) -> T) -> T {
        self.change(|state| {
            let mut transaction = Transaction { state, writes: Vec::new() };
            let answer = deed(&mut transaction);
            let Transaction { state, writes } = transaction;
            if !writes.is_empty() {
                state.commit(writes);
            }
            answer
        })
    }
}

/// Writes that are committed together.
pub struct Transaction<'a> {
    state: &'a mut State,
    writes: Vec<Write>,
}

impl Transaction<'_> {
    /// As `Deployment::insert`.
    pub fn insert(&mut self, table: impl Into<TableName>, document: Value) -> String {
        let TableName { component, name } = table.into();
        let table = self.state.table(&component, &name);
        let id = self.state.new_internal();
        let line = self.state.line_of(table, id, self.state.now_ms(), document);
        self.writes.push(Write { table, id, line: Some(line) });
        self.state.tables[table as usize].document_id(id).to_string()
    }

    /// As `Deployment::replace`.
    pub fn replace(&mut self, id: &str, document: Value) -> bool {
        self.update(id, |mut old| {
            if let Value::Object(mut fields) = document {
                if let Value::Object(old) = &mut old {
                    fields.extend(["_id", "_creationTime"].iter().filter_map(|name| old.remove_entry(*name)));
                }
                old = Value::Object(fields);
            }
            old
        })
    }

    /// As `Deployment::patch`.
    pub fn patch(&mut self, id: &str, fields: Value) -> bool {
        self.update(id, |mut old| {
            if let (Value::Object(old), Value::Object(fields)) = (&mut old, fields) {
                old.extend(fields);
            }
            old
        })
    }

    /// As `Deployment::delete`.
    pub fn delete(&mut self, id: &str) -> bool {
        let Some((table, id)) = self.find(id) else { return false };
        self.writes.push(Write { table, id: id.internal, line: None });
        true
    }

    fn find(&self, text: &str) -> Option<(u32, DocumentId)> {
        let id = DocumentId::parse(text)?;
        let found = (0u32..).zip(&self.state.tables).find(|(_, table)| {
            table.number == id.number && table.state() == TableState::Active && table.current(&id.internal).is_some()
        });
        found.map(|(table, _)| (table, id))
    }

    fn update(&mut self, id: &str, change: impl FnOnce(Value) -> Value) -> bool {
        let Some((table, id)) = self.find(id) else { return false };
        let line = self.state.tables[table as usize].current(&id.internal);
        let Some(old) = line.and_then(|line| parse(line).ok()) else { return false };
        let line = Line::from(change(old).to_json(Format::Export));
        self.writes.push(Write { table, id: id.internal, line: Some(line) });
        true
    }
}
