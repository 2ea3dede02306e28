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
//! Start at `Deployment`; what can go wrong is in `Faults`; what a backend of some age lacks is in `Features`. The binary
//! `deployment` is the same server for scripts and benchmarks, driven by flags and by the routes of `control`.
//!
//! # What differs from a backend
//!
//! - Functions do not run: only system queries answer. Schemas are shown, not enforced on documents; indexes, crons, jobs,
//!   auth providers, log streams and modules are the rows that a test gave (`Deployment::set_rows`).
//! - Not there: `query_ts` and `query_at_ts`, `function`, `json_schemas`, `shapes2`, `data/list_active_syncs`, `push_config`,
//!   uploads of files by the app, the connectors' import routes, an OpenAPI document beyond the list of paths, S3 storage, admin keys of the
//!   scheme before 2025-05-30.
//! - Imports: several run at a time; no restart, no retry, no age limit; CSV is refused, and so are ZIPs whose
//!   `generated_schema.jsonl` is an inferred type, which a backend of today reads. A number of `_storage` is that of all
//!   components. The text of the summary is ours.
//! - The inferred type in a legacy ZIP has no lines of exceptions.
//! - No limits on documents, tables, transactions or lists of environment variables beyond those that `http::misc` names; a
//!   required variable may be deleted.
//! - Moments: rows of system tables are written when it suits us, bumps of the database's time come when somebody looks, old
//!   revisions are refused but kept, and expired exports go when a test sweeps.
//! - `get_table_column_names` looks at the first thousand documents of a table.
//! - Deflate streams are another compressor's; texts of errors are ours where only the code was known.

mod control;
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
mod shared;
mod state_at;
mod stream;
mod transaction;
mod value;
pub mod zip;

use std::sync::Arc;

use bytes::Bytes;

pub use faults::{ExportFault, Failure, Faults, ImportFault};
pub use id::{DocumentId, InternalId};
pub use json::{NotAValue, parse};
pub use key::{AdminKey, Secret};
pub use options::{Features, Options};
pub use reply::Refusal;
pub use state_at::{FileState, StateAt};
pub use transaction::{TableName, Transaction};
pub use value::{Format, Value};
pub use zip::ZipWriter;

use model::{Contents, State};
pub(crate) use shared::Inner;

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
        let inner = Arc::new(Inner::new(options));
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

    /// Fills with so many documents (users, messages, events) and files of 1 KiB to 64 KiB, by the seed of the options.
    pub fn fill(&self, documents: usize, files: usize) {
        self.inner.fill(documents, files);
    }

    /// So many writes at random places: six of ten insert, three patch, one deletes.
    pub fn churn(&self, writes: usize) {
        self.inner.churn(writes);
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
        self.inner.transaction(deed)
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

    /// What the log of events has: the names of what was done, oldest first.
    pub fn audit_actions(&self) -> Vec<String> {
        self.inner.read(|state| state.events.iter().map(|event| event.action.clone()).collect())
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
        self.inner.stop();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
