//! Content by seed: as much as a benchmark wants, the same for the same numbers.

use bytes::Bytes;

use crate::Inner;
use crate::model::{Contents, State, Write};
use crate::value::Value;

/// Documents in one commit.
const BATCH: usize = 5_000;

const WORDS: [&str; 24] = [
    "harbour", "lantern", "tide", "anchor", "ledger", "signal", "compass", "mast", "crew", "island", "current", "buoy",
    "sail", "rope", "keel", "beacon", "storm", "chart", "gull", "pier", "cargo", "deck", "wake", "reef",
];

/// Some text of so many words.
fn text(state: &mut State, words: u64) -> String {
    let mut out = String::new();
    for n in 0..words {
        if n > 0 {
            out.push(' ');
        }
        out.push_str(WORDS[(state.random() % 24) as usize]);
    }
    out
}

/// A document of the table that its number falls into: some 250 bytes, all kinds of values.
fn document(state: &mut State, n: usize) -> (&'static str, Value) {
    let chance = state.random();
    match n % 10 {
        0 => {
            let name = text(state, 2);
            let fields = [
                ("name", Value::from(name.as_str())),
                ("email", format!("{}.{n}@example.org", name.replace(' ', ".")).into()),
                ("logins", Value::Int64((chance % 100_000) as i64)),
                ("score", ((chance % 10_000) as f64 / 7.0).into()),
                ("avatar", Value::Bytes(chance.to_le_bytes().to_vec())),
                ("settings", Value::object([("dark", chance.is_multiple_of(2).into()), ("locale", "en".into())])),
            ];
            ("users", Value::object(fields))
        }
        1..=6 => {
            let words = 8 + chance % 24;
            let fields = [
                ("body", text(state, words).into()),
                ("author", format!("user-{}", chance % 5000).into()),
                ("seq", Value::Int64(n as i64)),
                ("edited", Value::Null),
                ("reactions", Value::Array(vec![((chance % 5) as f64).into()])),
            ];
            ("messages", Value::object(fields))
        }
        _ => {
            let fields = [
                ("kind", WORDS[(chance % 24) as usize].into()),
                ("at", (1.7e12 + n as f64).into()),
                ("payload", Value::object([("a", text(state, 4).into()), ("b", Value::Int64(chance as i64))])),
                ("tags", Value::Array(vec![text(state, 1).into(), text(state, 1).into()])),
            ];
            ("events", Value::object(fields))
        }
    }
}

/// Inserts so many documents, numbered from `first`.
fn insert(state: &mut State, first: usize, count: usize) {
    let mut writes = Vec::with_capacity(count);
    for n in first..first + count {
        let (name, value) = document(state, n);
        let table = state.table("", name);
        let id = state.new_internal();
        let line = state.line_of(table, id, state.now_ms() + n as f64 / 1e3, value);
        writes.push(Write { table, id, line: Some(line) });
    }
    state.commit(writes);
}

impl Inner {
    /// Fills with so many documents (users, messages, events) and files of 1 KiB to 64 KiB, by the seed of the options.
    pub(crate) fn fill(&self, documents: usize, files: usize) {
        for first in (0..documents).step_by(BATCH) {
            self.change(|state| insert(state, first, BATCH.min(documents - first)));
        }
        for n in 0..files {
            self.change(|state| {
                let length = 1024 + state.random() % (63 * 1024);
                let mut bytes = Vec::with_capacity(length as usize + 8);
                while (bytes.len() as u64) < length {
                    bytes.extend_from_slice(&state.random().to_le_bytes());
                }
                let kind = ["image/png", "image/jpeg", "application/pdf", "text/plain"][n % 4];
                state.add_file("", Some(kind), Contents::Bytes(Bytes::from(bytes)));
            });
        }
    }

    /// So many writes at random places: six of ten insert, three patch, one deletes.
    pub(crate) fn churn(&self, writes: usize) {
        for _ in 0..writes {
            let (chance, place) = self.poll(|state| (state.random() % 10, state.random()));
            if chance < 6 {
                self.change(|state| insert(state, place as usize % 1_000_000, 1));
                continue;
            }
            let Some(id) = self.read(|state| some_document(state, place)) else { continue };
            if chance == 9 {
                self.transaction(|writes| writes.delete(&id));
            } else {
                let fields = Value::object([("changed", Value::Int64(place as i64))]);
                self.transaction(|writes| writes.patch(&id, fields));
            }
        }
    }
}

/// The first living document from a random place on, in one of the tables.
fn some_document(state: &State, place: u64) -> Option<String> {
    let tables: Vec<_> = state.active_tables("").filter(|(_, t)| !t.documents.is_empty()).collect();
    let (_, table) = tables.get(place as usize % tables.len().max(1))?;
    let mut from = [0; 16];
    from[..8].copy_from_slice(&place.to_be_bytes());
    let found = table.documents_at(i64::MAX, Some(from)).next();
    found.map(|(id, _, _)| table.document_id(*id).to_string())
}
