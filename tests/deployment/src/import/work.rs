//! The worker of one import.
//!
//! All modes but `append` fill hidden tables and swap them in with the final commit, so readers see the old state or the new one.
//! A step that fails leaves what it filled as hidden tables, which the streams show.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use rc_zip_sync::ReadZip;

use super::parse::{self, Upload};
use super::prepare::{self, Plan, Target};
use super::rows;
use super::storage::{self, Staged};
use super::{Failed, ImportState, Kind, Mode, Request};
use crate::Inner;
use crate::faults::ImportFault;
use crate::id::DocumentId;
use crate::model::{State, TableState};
use crate::value::Value;

/// Documents in one commit.
const BATCH: usize = 5_000;

/// Why the worker stops.
enum Stop {
    Failed(Failed),
    /// Cancelled, or the deployment is gone.
    Gone,
}

impl From<Failed> for Stop {
    fn from(failed: Failed) -> Stop {
        Stop::Failed(failed)
    }
}

struct Worker<'a> {
    inner: &'a Arc<Inner>,
    id: DocumentId,
    request: Request,
    done: Vec<String>,
}

/// Works until the import is completed, failed or cancelled.
pub(super) fn run(inner: &Arc<Inner>, id: DocumentId, upload: &Bytes) {
    if inner.faults.import() == ImportFault::StaysUploaded {
        return;
    }
    let request = inner.read(|state| state.imports.iter().find(|i| i.id == id).map(|i| i.request.clone()));
    let Some(request) = request else { return };
    let mut worker = Worker { inner, id, request, done: Vec::new() };
    if let Err(Stop::Failed(failed)) = worker.all(upload) {
        let error = format!("Hit an error while importing:\n{}", failed.message);
        let _ = worker.to(|_| ImportState::Failed { error }, failed.code);
    }
}

impl Worker<'_> {
    fn all(&mut self, bytes: &Bytes) -> Result<(), Stop> {
        let slice: &[u8] = bytes;
        let archive = match self.request.kind {
            Kind::Zip => Some(slice.read_zip().map_err(parse::invalid)?),
            _ => None,
        };
        let uniform_known = self.inner.options.features.export_json;
        let upload = Upload::read(bytes, archive.as_ref(), &self.request, uniform_known)?;
        let mut plan = prepare::plan(&upload)?;
        let mode = self.request.mode;
        let id = self.id;
        let (message, deletes) = self.inner.change(|state| {
            plan.find_dropped(state, mode);
            let checkpoints = plan.checkpoints(state, &upload, mode);
            let message = prepare::message(&checkpoints);
            if let Some(import) = state.imports.iter_mut().find(|i| i.id == id) {
                import.checkpoints = checkpoints;
            }
            message
        });
        self.to(|_| ImportState::Waiting { message, deletes }, "")?;
        let ready = |state: &State| state.imports.iter().any(|i| i.id == id && (i.confirmed || !i.is_live()));
        if !self.inner.wait(ready) {
            return Err(Stop::Gone);
        }
        self.progress("Importing")?;
        match mode {
            Mode::Append => self.append(&upload, &plan),
            _ => self.replace(&upload, &plan),
        }
    }

    /// Changes the row, unless the import was cancelled.
    fn to(&self, to: impl FnOnce(&mut State) -> ImportState, code: &'static str) -> Result<(), Stop> {
        self.inner.change(|state| {
            if !state.imports.iter().any(|i| i.id == self.id && i.is_live()) {
                return Err(Stop::Gone);
            }
            let to = to(state);
            state.commit_system(1);
            if let Some(import) = state.imports.iter_mut().find(|i| i.id == self.id) {
                import.state = to;
                import.code = code;
            }
            Ok(())
        })
    }

    fn progress(&self, message: &str) -> Result<(), Stop> {
        let (message, done) = (message.to_owned(), self.done.clone());
        self.to(|_| ImportState::InProgress { message, done }, "")
    }

    /// Writes the documents of a table in batches.
    fn fill(&mut self, target: &Target, table: u32) -> Result<(), Stop> {
        let append = self.request.mode == Mode::Append;
        let mut seen = BTreeSet::new();
        for (batch, lines) in target.documents.chunks(BATCH).enumerate() {
            self.progress(&format!("Importing \"{}\" ({} documents)", target.name, batch * BATCH))?;
            self.inner.change(|state| {
                let mut writes = Vec::with_capacity(lines.len());
                for (n, line) in lines.iter().enumerate() {
                    let write = rows::write_of(state, table, line, target.encoding, batch * BATCH + n)?;
                    if append {
                        rows::check_free(state, table, write.id)?;
                    }
                    if !seen.insert(write.id) {
                        let id = state.tables[table as usize].document_id(write.id);
                        return Err(Failed::new("DuplicateId", format!("duplicate _id '{id}' in import")));
                    }
                    writes.push(write);
                }
                state.commit(writes);
                for import in state.imports.iter_mut().filter(|i| i.id == self.id) {
                    for row in &mut import.checkpoints {
                        if row.component == target.component && row.table == target.name {
                            row.written += lines.len() as u64;
                        }
                    }
                }
                Ok(())
            })?;
            self.hold();
        }
        self.done.push(format!("Imported \"{}\" ({} documents)", target.name, target.documents.len()));
        Ok(())
    }

    /// Waits for as long as a fault says.
    fn hold(&self) {
        while self.inner.faults.import() == ImportFault::StaysInProgress
            && self.inner.read(|state| state.imports.iter().any(|i| i.id == self.id && i.is_live()))
            && !self.inner.is_stopped()
        {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    fn append(&mut self, upload: &Upload<'_>, plan: &Plan) -> Result<(), Stop> {
        for target in &plan.targets {
            let table = self.inner.change(|state| {
                state.ensure_component(&target.component, false);
                match state.find_table(&target.component, &target.name) {
                    Some(n) => {
                        let number = state.tables[n as usize].number;
                        match target.asked {
                            Some(asked) if asked != number => {
                                let text = format!("table `{}` has number {number}, not {asked}", target.name);
                                Err(Failed::new("TableNumberConflict", text))
                            }
                            _ => Ok(n),
                        }
                    }
                    None => {
                        let number = number_of(state, target)?;
                        Ok(state.make_table(&target.component, &target.name, number, TableState::Active))
                    }
                }
            })?;
            self.fill(target, table)?;
        }
        let staged = self.stage(upload)?;
        self.finish(plan, &[], staged)
    }

    fn replace(&mut self, upload: &Upload<'_>, plan: &Plan) -> Result<(), Stop> {
        let mut swaps = Vec::new();
        for target in &plan.targets {
            let (old, new) = self.inner.change(|state| make_hidden(state, target, self.request.mode))?;
            self.fill(target, new)?;
            swaps.extend(old.map(|old| (old, TableState::Deleting)));
            swaps.push((new, TableState::Active));
        }
        let staged = self.stage(upload)?;
        if let ImportFault::Fails(message) = self.inner.faults.import() {
            return Err(Failed::new("ImportFailed", message).into());
        }
        self.hold();
        self.finish(plan, &swaps, staged)
    }

    fn stage(&mut self, upload: &Upload<'_>) -> Result<Vec<(String, Staged)>, Stop> {
        let mut all = Vec::new();
        for (component, found) in upload.files.iter().filter(|(_, found)| found.rows.is_some()) {
            self.progress(&format!("Importing \"_storage\" (0/{} files)", found.blobs.len()))?;
            let mode = self.request.mode;
            let staged = self.inner.change(|state| {
                let there = state.files.iter().any(|f| f.until.is_none() && f.component == *component);
                if mode == Mode::RequireEmpty && there {
                    return Err(exists("_storage"));
                }
                storage::stage(state, upload, component, found)
            })?;
            self.done.push(format!("Imported \"_storage\" ({} files)", staged.files.len()));
            all.push((component.clone(), staged));
        }
        Ok(all)
    }

    /// The final commit: tables, files, and the row.
    fn finish(&self, plan: &Plan, swaps: &[(u32, TableState)], staged: Vec<(String, Staged)>) -> Result<(), Stop> {
        let rows: usize = plan.targets.iter().map(|t| t.documents.len()).sum();
        let mode = self.request.mode;
        self.to(
            |state| {
                let named = |state: &State, n: u32| {
                    let table = &state.tables[n as usize];
                    let schema = state.schemas.get(&table.component);
                    schema.is_some_and(|text| text.contains(&format!("\"tableName\":\"{}\"", table.name)))
                };
                // A table that the active schema names is emptied, not dropped.
                let mut changes = swaps.to_vec();
                for n in &plan.dropped {
                    changes.push((*n, TableState::Deleting));
                    if named(state, *n) {
                        let old = &state.tables[*n as usize];
                        let (component, name, number) = (old.component.clone(), old.name.clone(), old.number);
                        let new = state.make_table(&component, &name, number, TableState::Hidden);
                        changes.push((new, TableState::Active));
                    }
                }
                let ts = state.change_tables(&changes);
                for (component, staged) in staged {
                    put_files(state, ts, &component, staged, mode);
                }
                audit(state, plan);
                ImportState::Completed { ts, rows: rows as u64 }
            },
            "",
        )
    }
}

fn exists(name: &str) -> Failed {
    let text = format!(
        "Data for table `{name}` already exists. Use `--replace` or `--append` to write to a table that is not empty"
    );
    Failed::new("TableExists", text)
}

/// The number of a table that is made: what the upload asks, else the one it had, else a new one.
fn number_of(state: &State, target: &Target) -> Result<u32, Failed> {
    let own = state.find_table(&target.component, &target.name).map(|n| state.tables[n as usize].number);
    Ok(target.asked.or(own).unwrap_or_else(|| state.free_number(&target.component)))
}

/// The table that is there, and the hidden one that will take its place.
fn make_hidden(state: &mut State, target: &Target, mode: Mode) -> Result<(Option<u32>, u32), Failed> {
    state.ensure_component(&target.component, false);
    let old = state.find_table(&target.component, &target.name);
    if mode == Mode::RequireEmpty && old.is_some_and(|n| state.tables[n as usize].count() > 0) {
        return Err(exists(&target.name));
    }
    let number = number_of(state, target)?;
    let other = state.active_tables(&target.component).find(|(n, t)| t.number == number && Some(*n) != old);
    if let Some((_, other)) = other.filter(|_| mode != Mode::ReplaceAll) {
        let text = format!("table `{}` cannot take number {number}: `{}` has it", target.name, other.name);
        return Err(Failed::new("TableConflict", text));
    }
    Ok((old, state.make_table(&target.component, &target.name, number, TableState::Hidden)))
}

/// Files appear, and with them those before them go, unless they are added.
fn put_files(state: &mut State, ts: i64, component: &str, staged: Staged, mode: Mode) {
    if mode != Mode::Append {
        for file in state.files.iter_mut().filter(|f| f.until.is_none() && f.component == component) {
            file.until = Some(ts);
        }
    }
    if let Some(number) = staged.number {
        state.options.storage_number = number;
    }
    state.files.extend(staged.files.into_iter().map(|mut file| {
        file.since = ts;
        file
    }));
}

/// The event names up to 20 tables of each kind.
fn audit(state: &mut State, plan: &Plan) {
    let list = |names: Vec<(String, String)>| {
        let rows = names
            .into_iter()
            .take(20)
            .map(|(component, table)| Value::object([("component", component.into()), ("table_name", table.into())]));
        Value::Array(rows.collect())
    };
    let written = plan.targets.iter().map(|t| (t.component.clone(), t.name.clone())).collect();
    let dropped = plan.dropped.iter().map(|n| &state.tables[*n as usize]);
    let dropped = dropped.map(|t| (t.component.clone(), t.name.clone())).collect();
    let metadata = Value::object([("table_names", list(written)), ("table_names_deleted", list(dropped))]);
    state.audit("snapshot_import", metadata);
}
