//! A self-hosted Convex deployment for tests: what lifeboat's client, and the official `convex` command line, talk to.
//!
//! One log of revisions is the model (`model`); exports, queries and files are views of it, so a test can ask for the state at
//! any timestamp and compare. Keys, ids, values and the bytes of the ZIP are the backend's to the byte.
//!
//! ```
//! use deployment::{Deployment, Options, json};
//! let convex = Deployment::start(Options::default()).unwrap();
//! let id = convex.insert("messages", json(r#"{"text":"hi","n":7,"f":7.0}"#));
//! let at = convex.latest();
//! assert_eq!(convex.state_at(at).tables[&("".into(), "messages".into())].len(), 1);
//! convex.delete(&id);
//! ```
//!
//! **Not modelled**: functions, schemas that are enforced, indexes, crons and jobs that run (rows that a test gives are shown as
//! they are); keys of the scheme before 2025-05-30; `query_ts` and `query_at_ts`; size limits of documents and transactions;
//! S3 storage. The ZIP's deflate streams are another compressor's. System rows are written at moments of our choosing.

mod export;
mod faults;
mod fill;
mod http;
mod id;
mod import;
mod json;
mod key;
mod legacy;
mod model;
mod options;
mod query;
mod reply;
mod state_at;
mod stream;
mod value;
mod zip;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

pub use faults::{ExportFault, Failure, Faults, ImportFault};
pub use id::{DocumentId, InternalId};
pub use json::{NotAValue, parse};
pub use key::{AdminKey, Secret};
pub use options::{Features, Options};
pub use reply::Refusal;
pub use state_at::{FileState, StateAt};
pub use value::{Format, Value};
pub use zip::ZipWriter;

use model::{Contents, State, Write};

/// A value from its `export_json` text; for literals of tests.
///
/// # Panics
/// If the text is no value.
pub fn json(text: &str) -> Value {
    match parse(text) {
        Ok(value) => value,
        Err(error) => panic!("`{text}` is no value: {error}"),
    }
}

/// What threads and connections share.
pub(crate) struct Inner {
    pub options: Options,
    pub faults: Faults,
    state: Mutex<State>,
    changed: Condvar,
    version: watch::Sender<u64>,
    stopped: AtomicBool,
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.lock())
    }

    /// Changes the state and tells those that watch it.
    pub(crate) fn change<T>(&self, deed: impl FnOnce(&mut State) -> T) -> T {
        let answer = self.poll(deed);
        self.version.send_modify(|version| *version += 1);
        answer
    }

    /// Changes the state; only workers are told.
    pub(crate) fn poll<T>(&self, deed: impl FnOnce(&mut State) -> T) -> T {
        let answer = deed(&mut self.lock());
        self.changed.notify_all();
        answer
    }

    /// Waits until the state is so; `false` if the deployment was stopped instead.
    pub(crate) fn wait(&self, is_so: impl Fn(&State) -> bool) -> bool {
        let mut state = self.lock();
        while !is_so(&state) {
            if self.stopped.load(Ordering::SeqCst) {
                return false;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        true
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    pub(crate) fn now(&self) -> i64 {
        self.read(State::now)
    }
}

/// A table by its name, or by the path of its component and its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableName {
    component: String,
    name: String,
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

/// A deployment that runs until it is dropped.
pub struct Deployment {
    inner: Arc<Inner>,
    runtime: Option<tokio::runtime::Runtime>,
    port: u16,
}

impl Deployment {
    /// Starts on 127.0.0.1.
    pub fn start(options: Options) -> std::io::Result<Deployment> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let listener = runtime.block_on(tokio::net::TcpListener::bind(("127.0.0.1", options.port)))?;
        let port = listener.local_addr()?.port();
        let inner = Arc::new(Inner {
            options: options.clone(),
            faults: Faults::default(),
            state: Mutex::new(State::new(options)),
            changed: Condvar::new(),
            version: watch::Sender::new(0),
            stopped: AtomicBool::new(false),
        });
        runtime.spawn(http::serve(Arc::clone(&inner), listener));
        Ok(Deployment { inner, runtime: Some(runtime), port })
    }

    /// Where it listens: `http://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The name that keys must have.
    pub fn instance_name(&self) -> &str {
        &self.inner.options.instance_name
    }

    /// The secret as 64 hex digits.
    pub fn instance_secret(&self) -> String {
        data_encoding::HEXLOWER.encode(&self.inner.options.instance_secret.0)
    }

    /// A fresh key that may do everything.
    pub fn admin_key(&self) -> String {
        self.mint(false)
    }

    /// A fresh key that may only read.
    pub fn read_only_key(&self) -> String {
        self.mint(true)
    }

    fn mint(&self, read_only: bool) -> String {
        let (nonce, now) = self.inner.poll(|state| (state.nonce(), state.now()));
        let key = AdminKey { issued_s: u64::try_from(now / options::SECOND).unwrap_or(0), read_only };
        self.inner.options.instance_secret.mint(self.instance_name(), key, nonce)
    }

    /// What can go wrong, and what was asked so far.
    pub fn faults(&self) -> &Faults {
        &self.inner.faults
    }

    /// Inserts a document, making table and component where they are missing; its id. `_creationTime` may be given.
    pub fn insert(&self, table: impl Into<TableName>, document: Value) -> String {
        self.transaction(|writes| writes.insert(table, document))
    }

    /// Replaces a document's fields; whether it was there.
    pub fn replace(&self, id: &str, document: Value) -> bool {
        self.transaction(|writes| writes.replace(id, document))
    }

    /// Sets some of a document's fields; whether it was there.
    pub fn patch(&self, id: &str, fields: Value) -> bool {
        self.transaction(|writes| writes.patch(id, fields))
    }

    /// Deletes a document; whether it was there.
    pub fn delete(&self, id: &str) -> bool {
        self.transaction(|writes| writes.delete(id))
    }

    /// Several writes in one commit.
    pub fn transaction<T>(&self, deed: impl FnOnce(&mut Transaction<'_>) -> T) -> T {
        self.inner.change(|state| {
            let mut transaction = Transaction { state, writes: Vec::new() };
            let answer = deed(&mut transaction);
            let Transaction { state, writes } = transaction;
            if !writes.is_empty() {
                state.commit(writes);
            }
            answer
        })
    }

    /// Makes a table without documents; its number.
    pub fn create_table(&self, table: impl Into<TableName>) -> u32 {
        let TableName { component, name } = table.into();
        self.inner.change(|state| {
            let table = state.table(&component, &name);
            state.tables[table as usize].number
        })
    }

    /// Drops a table; whether it was there.
    pub fn delete_table(&self, table: impl Into<TableName>) -> bool {
        self.with_table(table.into(), http::imports::delete_tables)
    }

    /// Empties a table at once, as the dashboard does; whether it was there.
    pub fn clear_table(&self, table: impl Into<TableName>) -> bool {
        self.with_table(table.into(), http::imports::clear_tables)
    }

    fn with_table(&self, table: TableName, deed: fn(&mut State, &[u32])) -> bool {
        self.inner.change(|state| match state.find_table(&table.component, &table.name) {
            Some(table) => {
                deed(state, &[table]);
                true
            }
            None => false,
        })
    }

    /// Mounts a component (`a/b`), with those above it.
    pub fn create_component(&self, path: &str) {
        self.inner.change(|state| state.ensure_component(path, true));
    }

    /// Stores a file in a component (`""` is the root); its id.
    pub fn store_file(&self, component: &str, content_type: Option<&str>, bytes: impl Into<Bytes>) -> String {
        let contents = Contents::Bytes(bytes.into());
        self.inner.change(|state| state.add_file(component, content_type, contents)).to_string()
    }

    /// Stores a file of zeros, of any length; it takes no memory.
    pub fn store_zeros(&self, component: &str, length: u64) -> String {
        self.inner.change(|state| state.add_file(component, None, Contents::Zeros(length))).to_string()
    }

    /// Deletes a file's row; whether it was there.
    pub fn delete_file(&self, id: &str) -> bool {
        self.inner.change(|state| state.remove_file(id))
    }

    /// Changes the stored bytes of a file, so that they no longer match its digest; whether it was there.
    pub fn damage_file(&self, id: &str, bytes: impl Into<Bytes>) -> bool {
        let id = DocumentId::parse(id).map(|id| id.internal);
        self.inner.change(|state| match state.files.iter_mut().find(|f| Some(f.id) == id) {
            Some(file) => {
                file.contents = Contents::Bytes(bytes.into());
                true
            }
            None => false,
        })
    }

    /// The rows that a query shows, where they have no life of their own here: `_system/frontend/listCronJobs`,
    /// `_system/frontend/paginatedScheduledJobs`, `_system/frontend/listAuthProviders`,
    /// `_system/frontend/listConfiguredSinks`, `_system/frontend/getVersion`, `tableData <name>`, and `modules` and `indexes`
    /// for the routes of the configuration.
    pub fn set_rows(&self, query: &str, component: &str, rows: Vec<Value>) {
        self.inner.change(|state| state.rows.insert((query.to_owned(), component.to_owned()), rows));
    }

    /// The active schema of a component, as JSON text. It is shown, not enforced.
    pub fn set_schema(&self, component: &str, schema: &str) {
        self.inner.change(|state| state.schemas.insert(component.to_owned(), schema.to_owned()));
    }

    /// Makes the deployment one that is disabled, which can neither be paused nor serve files; or one that runs.
    pub fn set_disabled(&self, disabled: bool) {
        let running = if disabled { model::AppState::Disabled } else { model::AppState::Running };
        self.inner.change(|state| state.running = running);
    }

    /// Lets the clock stand at these nanoseconds; `None` is the machine's clock.
    pub fn set_clock(&self, clock_ns: Option<i64>) {
        self.inner.change(|state| state.set_clock(clock_ns));
    }

    /// The clock, in nanoseconds since the epoch.
    pub fn now(&self) -> i64 {
        self.inner.now()
    }

    /// The database's own time: the newest commit or bump, in nanoseconds.
    pub fn latest(&self) -> i64 {
        self.inner.poll(State::latest)
    }

    /// Moves the database's time to the clock, as it does by itself after five seconds, or after hours when idle.
    pub fn bump(&self) -> i64 {
        self.inner.change(State::bump)
    }

    /// Forgets all revisions before this timestamp: what is asked from before it is out of retention.
    pub fn forget_before(&self, ts: i64) {
        self.inner.change(|state| state.forgotten_before = ts);
    }

    /// Writes rows of system tables, which fill pages of `document_deltas` without showing.
    pub fn write_system_rows(&self, rows: usize) {
        self.inner.change(|state| state.commit_system(rows));
    }

    /// Removes exports that expired more than 30 days ago; how many.
    pub fn sweep_exports(&self) -> usize {
        self.inner.change(export::sweep)
    }

    /// Everything that was there at this timestamp.
    pub fn state_at(&self, ts: i64) -> StateAt {
        self.inner.read(|state| StateAt::of(state, ts))
    }

    /// Everything that is there now.
    pub fn state(&self) -> StateAt {
        self.state_at(i64::MAX)
    }

    /// The environment variables.
    pub fn environment(&self) -> std::collections::BTreeMap<String, String> {
        self.inner.read(|state| state.environment.iter().map(|(name, v)| (name.clone(), v.value.clone())).collect())
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        self.inner.stopped.store(true, Ordering::SeqCst);
        self.inner.change(|_| ());
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
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
            table.number == id.number
                && table.state() == model::TableState::Active
                && table.current(&id.internal).is_some()
        });
        found.map(|(table, _)| (table, id))
    }

    fn update(&mut self, id: &str, change: impl FnOnce(Value) -> Value) -> bool {
        let Some((table, id)) = self.find(id) else { return false };
        let line = self.state.tables[table as usize].current(&id.internal);
        let Some(old) = line.and_then(|line| parse(line).ok()) else { return false };
        let line = model::Line::from(change(old).to_json(Format::Export));
        self.writes.push(Write { table, id: id.internal, line: Some(line) });
        true
    }
}
