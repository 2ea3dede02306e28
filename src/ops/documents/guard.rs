//! What a stream of changes does not tell: imports that swap tables, tables that are dropped or cleared, components that go.
//!
//! It is looked at before and after changes are read. Where it is the same, they are the whole truth; else the history is cut, and a
//! new snapshot begins the next one. When in doubt it is cut: that costs an export, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::client::convex::{Deployment, Error, ImportPhase};

/// The server's list of events goes back a day; nobody may have looked away for longer.
const MEMORY_MS: f64 = 23.0 * 3_600_000.0;
/// Events are asked for from a little before the last look on: two clocks are never one.
const OVERLAP_MS: f64 = 60_000.0;
/// So many imports the server lists.
const IMPORTS_LISTED: usize = 20;

/// What is seen of a deployment beside its changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Guard {
    /// Imports, by id: whether each is over.
    imports: BTreeMap<String, bool>,
    /// Imports that write now.
    running: BTreeSet<String>,
    /// Numbers of tables by component and name.
    tables: BTreeMap<String, BTreeMap<String, String>>,
    /// Events of whole tables that were seen.
    events: BTreeMap<String, String>,
    /// Whether this server does not tell what is done to whole tables.
    #[serde(default)]
    pub is_blind: bool,
    /// When it was looked at: milliseconds since 1970, by the server's clock.
    looked_ms: f64,
}

/// What two looks say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing happened in between.
    Same,
    /// An import writes: nothing that the stream tells now can be trusted.
    Importing,
    /// Whole tables were changed.
    Cut(String),
}

impl Guard {
    /// Looks. `now_ms` is the server's time before.
    pub fn look(deployment: &Deployment, before: Option<&Self>, now_ms: f64) -> Result<Self, Error> {
        let (mut imports, mut running) = (BTreeMap::new(), BTreeSet::new());
        for import in deployment.imports()? {
            let is_over = matches!(import.phase, ImportPhase::Completed { .. } | ImportPhase::Failed { .. });
            if matches!(import.phase, ImportPhase::InProgress { .. }) {
                running.insert(import.id.clone());
            }
            imports.insert(import.id, is_over);
        }
        let mut tables = BTreeMap::new();
        for component in deployment.components()? {
            tables.insert(component.path.clone(), deployment.table_numbers(&component)?);
        }
        let since = before.map_or(now_ms, |before| before.looked_ms) - OVERLAP_MS;
        let told = deployment.table_events(since)?;
        let is_blind = told.is_none();
        let events = told.into_iter().flatten().map(|event| (event.id, event.action)).collect();
        Ok(Self { imports, running, tables, events, is_blind, looked_ms: now_ms })
    }

    /// Whether an import writes now.
    pub fn is_importing(&self) -> bool {
        !self.running.is_empty()
    }

    /// What happened since an earlier look.
    pub fn since(&self, before: &Self) -> Verdict {
        if self.is_importing() {
            return Verdict::Importing;
        }
        let cut = |why: String| Verdict::Cut(why);
        for (id, is_over) in &self.imports {
            if *is_over && before.imports.get(id) != Some(&true) {
                return cut(format!("an import ended ({id})"));
            }
        }
        let knows_any = before.imports.keys().any(|id| self.imports.contains_key(id));
        if self.imports.len() >= IMPORTS_LISTED && !knows_any && !before.imports.is_empty() {
            return cut("there were more imports than the server lists".to_owned());
        }
        for (component, tables) in &before.tables {
            let Some(now) = self.tables.get(component) else { return cut(format!("component `{component}` is gone")) };
            for (name, number) in tables {
                match now.get(name) {
                    None => return cut(format!("table `{name}` was dropped")),
                    Some(other) if other != number => return cut(format!("table `{name}` was made anew")),
                    _ => {}
                }
            }
        }
        if self.looked_ms - before.looked_ms > MEMORY_MS {
            return cut("nobody looked for longer than the server keeps its list of events".to_owned());
        }
        if self.is_blind && !before.is_blind {
            return cut("the server's list of events could not be read".to_owned());
        }
        match self.events.iter().find(|(id, _)| !before.events.contains_key(*id)) {
            Some((_, action)) => cut(format!("the server did `{action}`")),
            None => Verdict::Same,
        }
    }

    /// Whether a table is there.
    pub fn has_table(&self, component: &str, table: &str) -> bool {
        self.tables.get(component).is_some_and(|tables| tables.contains_key(table))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard() -> Guard {
        let tables = BTreeMap::from([("users".to_owned(), "10001".to_owned())]);
        Guard {
            imports: BTreeMap::from([("a".to_owned(), true)]),
            running: BTreeSet::new(),
            tables: BTreeMap::from([(String::new(), tables)]),
            events: BTreeMap::new(),
            is_blind: false,
            looked_ms: 1.0,
        }
    }

    fn after(change: impl FnOnce(&mut Guard)) -> Verdict {
        let mut now = guard();
        change(&mut now);
        now.since(&guard())
    }

    #[test]
    fn whole_tables_are_noticed() {
        assert_eq!(after(|_| ()), Verdict::Same);
        let imported = |is_over| after(|now| now.imports.extend([("b".to_owned(), is_over)]));
        assert_eq!(imported(false), Verdict::Same, "it only waits");
        assert!(matches!(imported(true), Verdict::Cut(_)));
        assert_eq!(after(|now| now.running.extend(["b".to_owned()])), Verdict::Importing);
        assert!(matches!(after(|now| drop(now.tables.remove(""))), Verdict::Cut(_)));
        for number in [None, Some("10002")] {
            let verdict = after(|now| {
                let tables = now.tables.get_mut("").unwrap();
                tables.remove("users");
                tables.extend(number.map(|number| ("users".to_owned(), number.to_owned())));
            });
            assert!(matches!(verdict, Verdict::Cut(_)), "{number:?}");
        }
        let new_table = after(|now| drop(now.tables.get_mut("").unwrap().insert("more".into(), "10005".into())));
        assert_eq!(new_table, Verdict::Same);
        assert!(matches!(after(|now| drop(now.events.insert("e".into(), "clear_tables".into()))), Verdict::Cut(_)));
        assert!(matches!(after(|now| now.looked_ms += MEMORY_MS + 1.0), Verdict::Cut(_)));
        assert!(matches!(after(|now| now.is_blind = true), Verdict::Cut(_)), "it told before");
    }
}
