//! Tables, their documents, and what was when.

use std::collections::BTreeMap;

use super::{Line, LogEntry, State, numbers};
use crate::id::{DocumentId, InternalId};
use crate::value::{Format, Value};

/// What a table is to readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TableState {
    /// Being built by an import; the streams show it all the same.
    Hidden,
    /// What the app sees.
    Active,
    /// Dropped or replaced.
    Deleting,
}

/// One table; replacing it makes another one of the same name.
#[derive(Debug)]
pub(crate) struct Table {
    pub component: String,
    pub name: String,
    pub number: u32,
    /// The order of tables in `list_snapshot`.
    pub tablet: InternalId,
    /// Since when it was what.
    pub states: Vec<(i64, TableState)>,
    /// Each document's revisions, oldest first; `None` is a deletion.
    pub documents: BTreeMap<InternalId, Vec<(i64, Option<Line>)>>,
}

/// One write of a commit.
#[derive(Debug)]
pub(crate) struct Write {
    pub table: u32,
    pub id: InternalId,
    pub line: Option<Line>,
}

impl Table {
    /// What it was at this time; `None` before it was made.
    pub(crate) fn state_at(&self, ts: i64) -> Option<TableState> {
        self.states.iter().rev().find(|(from, _)| *from <= ts).map(|(_, state)| *state)
    }

    /// What it is now.
    pub(crate) fn state(&self) -> TableState {
        self.states.last().map_or(TableState::Deleting, |(_, state)| *state)
    }

    /// Its documents at this time by id, from after this id on.
    pub(crate) fn documents_at(
        &self,
        ts: i64,
        after: Option<InternalId>,
    ) -> impl Iterator<Item = (&InternalId, i64, &Line)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        self.documents.range((from, Unbounded)).filter_map(move |(id, revisions)| {
            let (written, line) = revisions.iter().rev().find(|(written, _)| *written <= ts)?;
            Some((id, *written, line.as_ref()?))
        })
    }

    /// The document as it is now.
    pub(crate) fn current(&self, id: &InternalId) -> Option<&Line> {
        self.documents.get(id)?.last()?.1.as_ref()
    }

    /// How many documents there are now.
    pub(crate) fn count(&self) -> usize {
        self.documents.values().filter(|r| r.last().is_some_and(|(_, line)| line.is_some())).count()
    }

    /// The id of one of its documents as the app sees it.
    pub(crate) fn document_id(&self, id: InternalId) -> DocumentId {
        DocumentId::new(self.number, id)
    }
}

impl State {
    /// The active table of this name.
    pub(crate) fn find_table(&self, component: &str, name: &str) -> Option<u32> {
        let at = self
            .tables
            .iter()
            .position(|t| t.component == component && t.name == name && t.state() == TableState::Active)?;
        u32::try_from(at).ok()
    }

    /// Active tables of a component with their numbers.
    pub(crate) fn active_tables(&self, component: &str) -> impl Iterator<Item = (u32, &Table)> {
        (0u32..).zip(&self.tables).filter(move |(_, t)| t.component == component && t.state() == TableState::Active)
    }

    /// A number that no active or hidden table of the component has.
    pub(crate) fn free_number(&self, component: &str) -> u32 {
        let taken = self.tables.iter().filter(|t| t.component == component).map(|t| t.number);
        taken.max().map_or(numbers::FIRST_USER, |n| n.max(numbers::FIRST_USER - 1) + 1)
    }

    /// Makes a table; that is a commit of a system row.
    pub(crate) fn make_table(&mut self, component: &str, name: &str, number: u32, state: TableState) -> u32 {
        let tablet = self.new_internal();
        let ts = self.commit_system(2);
        self.tables.push(Table {
            component: component.to_owned(),
            name: name.to_owned(),
            number,
            tablet,
            states: vec![(ts, state)],
            documents: BTreeMap::new(),
        });
        (self.tables.len() - 1) as u32
    }

    /// The active table of this name, made where it is missing.
    pub(crate) fn table(&mut self, component: &str, name: &str) -> u32 {
        self.ensure_component(component, true);
        match self.find_table(component, name) {
            Some(table) => table,
            None => self.make_table(component, name, self.free_number(component), TableState::Active),
        }
    }

    /// One commit of these writes; its timestamp.
    pub(crate) fn commit(&mut self, mut writes: Vec<Write>) -> i64 {
        let ts = self.next_ts();
        writes.sort_by_key(|w| (w.id, w.table));
        // Two writes of one document in one commit are one revision: the last.
        let mut writes = writes.into_iter().peekable();
        while let Some(write) = writes.next() {
            if writes.peek().is_some_and(|next| (next.table, next.id) == (write.table, write.id)) {
                continue;
            }
            let revisions = self.tables[write.table as usize].documents.entry(write.id).or_default();
            revisions.push((ts, write.line.clone()));
            self.log.push(LogEntry { ts, table: Some(write.table), id: write.id, line: write.line });
        }
        ts
    }

    /// Changes what tables are, in one commit.
    pub(crate) fn change_tables(&mut self, changes: &[(u32, TableState)]) -> i64 {
        let ts = self.commit_system(changes.len().max(1));
        for (table, state) in changes {
            self.tables[*table as usize].states.push((ts, *state));
        }
        ts
    }

    /// The line of a document: its fields with `_id` and `_creationTime`, unless it brings them.
    pub(crate) fn line_of(&self, table: u32, id: InternalId, created_ms: f64, value: Value) -> Line {
        let Value::Object(mut fields) = value else { return Line::from("{}") };
        let id = self.tables[table as usize].document_id(id).to_string();
        fields.insert("_id".to_owned(), Value::String(id));
        fields.entry("_creationTime".to_owned()).or_insert(Value::Float64(created_ms));
        Line::from(Value::Object(fields).to_json(Format::Export))
    }
}
