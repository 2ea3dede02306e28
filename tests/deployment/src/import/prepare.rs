//! What an import will do, counted before it is confirmed.

use std::collections::BTreeMap;

use super::parse::{Encoding, Found, Upload};
use super::{Checkpoint, Failed, Mode};
use crate::id::DocumentId;
use crate::json;
use crate::model::State;

/// A table that will be written.
pub(super) struct Target {
    pub component: String,
    pub name: String,
    /// The number that the upload asks for: of `_tables`, else of the first document.
    pub asked: Option<u32>,
    pub documents: Vec<String>,
    pub encoding: Encoding,
    pub missing_ids: bool,
}

/// All that will be written, but for files.
pub(super) struct Plan {
    pub targets: Vec<Target>,
    /// Active tables that the mode drops because the upload does not have them.
    pub dropped: Vec<u32>,
}

fn first_number(documents: &[String]) -> Option<u32> {
    let document = json::parse(documents.first()?).ok()?;
    Some(DocumentId::parse(document.get("_id")?.as_str()?)?.number)
}

fn target(upload: &Upload<'_>, key: &(String, String), found: &Found) -> Result<Target, Failed> {
    let documents = upload.documents(found)?;
    let missing_ids = documents.first().is_some_and(|line| !line.contains("\"_id\""));
    Ok(Target {
        component: key.0.clone(),
        name: key.1.clone(),
        asked: found.number.or_else(|| first_number(&documents)),
        documents,
        encoding: if found.uniform { Encoding::Uniform } else { Encoding::Plain },
        missing_ids,
    })
}

/// Reads the documents and says what goes where.
pub(super) fn plan(upload: &Upload<'_>) -> Result<Plan, Failed> {
    let mut targets = Vec::new();
    for (key, found) in &upload.tables {
        targets.push(target(upload, key, found)?);
    }
    let mut numbers = BTreeMap::new();
    for target in &targets {
        let Some(number) = target.asked else { continue };
        if let Some(other) = numbers.insert((target.component.clone(), number), target.name.clone()) {
            let text = format!("tables `{other}` and `{}` both have ids of number {number}", target.name);
            return Err(Failed::new("InvalidId", text));
        }
    }
    Ok(Plan { targets, dropped: Vec::new() })
}

impl Plan {
    /// Finds the tables that `replaceAll` drops: those of all components that the upload does not have.
    pub(super) fn find_dropped(&mut self, state: &State, mode: Mode) {
        if mode != Mode::ReplaceAll {
            return;
        }
        for component in state.component_paths() {
            for (n, table) in state.active_tables(&component) {
                if !self.targets.iter().any(|t| t.component == component && t.name == table.name) {
                    self.dropped.push(n);
                }
            }
        }
    }

    /// The checkpoints: one for each table that is written or dropped.
    pub(super) fn checkpoints(&self, state: &State, upload: &Upload<'_>, mode: Mode) -> Vec<Checkpoint> {
        let mut all: Vec<Checkpoint> = Vec::new();
        for target in &self.targets {
            let existing = state.find_table(&target.component, &target.name).map(|n| &state.tables[n as usize]);
            let count = existing.map_or(0, |t| t.count() as u64);
            all.push(Checkpoint {
                component: target.component.clone(),
                table: target.name.clone(),
                tablet: None,
                total: target.documents.len() as u64,
                written: 0,
                existing: count,
                deleting: if matches!(mode, Mode::Replace | Mode::ReplaceAll) { count } else { 0 },
                missing_ids: target.missing_ids,
            });
        }
        for n in &self.dropped {
            let table = &state.tables[*n as usize];
            let count = table.count() as u64;
            all.push(Checkpoint {
                component: table.component.clone(),
                table: table.name.clone(),
                tablet: None,
                total: 0,
                written: 0,
                existing: count,
                deleting: count,
                missing_ids: false,
            });
        }
        for (component, files) in upload.files.iter().filter(|(_, files)| files.rows.is_some()) {
            let existing = state.files.iter().filter(|f| f.until.is_none() && f.component == *component).count() as u64;
            all.push(Checkpoint {
                component: component.clone(),
                table: "_storage".to_owned(),
                tablet: None,
                total: files.blobs.len() as u64,
                written: 0,
                existing,
                deleting: if matches!(mode, Mode::Replace | Mode::ReplaceAll) { existing } else { 0 },
                missing_ids: false,
            });
        }
        all
    }
}

/// The text that a person confirms, and whether rows would be deleted.
pub(super) fn message(checkpoints: &[Checkpoint]) -> (String, bool) {
    let mut text = String::from("Import change summary:\n");
    let width = checkpoints.iter().map(|c| c.table.len() + c.component.len() + 1).max().unwrap_or(5).max(5);
    text.push_str(&format!("{:<width$} | create | delete |\n{}\n", "table", "-".repeat(width + 20)));
    for row in checkpoints {
        let name = match row.component.as_str() {
            "" => row.table.clone(),
            component => format!("{component}/{}", row.table),
        };
        let delete = match row.deleting {
            0 => "0".to_owned(),
            n => format!("{n} of {}", row.existing),
        };
        text.push_str(&format!("{name:<width$} | {} | {delete} |\n", row.total));
    }
    text.push_str("Once the import has started, it will run in the background.\n");
    text.push_str("Interrupting `npx convex import` will not cancel it.");
    (text, checkpoints.iter().any(|row| row.deleting > 0))
}
