//! What the deployment holds: one log of revisions, and the tables, files and rows that it speaks of.
//!
//! Every answer is a view of this, so "the state at T" has one meaning. Invariants: commits have strictly growing timestamps;
//! within a commit the writes are in the order of ids; a document is kept as its `export_json` line with `_id` and
//! `_creationTime`. Rows of system tables are kept in their own form; the log holds only that one was written, because they
//! count towards a page of `document_deltas` and move the database's time.

mod files;
mod tables;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::export::Export;
use crate::id::{DocumentId, InternalId};
use crate::import::Import;
use crate::options::{Options, SECOND};
use crate::value::Value;

pub(crate) use files::{Contents, StoredFile};
pub(crate) use tables::{Table, TableState, Write};

/// A document as its `export_json` line, without the line's end.
pub(crate) type Line = Arc<str>;

/// A write in the log.
#[derive(Debug, Clone)]
pub(crate) struct LogEntry {
    pub ts: i64,
    /// Which table, by its place in `State::tables`; `None` is a system table.
    pub table: Option<u32>,
    pub id: InternalId,
    /// `None`: deleted.
    pub line: Option<Line>,
}

/// A component that is mounted, or a shell that an import made.
#[derive(Debug, Clone)]
pub(crate) struct Component {
    pub id: DocumentId,
    pub path: String,
    pub mounted: bool,
}

/// An environment variable.
#[derive(Debug, Clone)]
pub(crate) struct Variable {
    pub id: DocumentId,
    pub created_ms: f64,
    pub value: String,
}

/// An event of the audit log.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub id: DocumentId,
    pub created_ms: f64,
    pub action: String,
    pub metadata: Value,
}

/// Whether the app runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AppState {
    Running,
    Paused,
    Disabled,
}

/// Numbers of system tables. The tests of a client must not depend on them, but for `_storage`.
pub(crate) mod numbers {
    pub(crate) const COMPONENTS: u32 = 550;
    pub(crate) const ENVIRONMENT: u32 = 526;
    pub(crate) const EXPORTS: u32 = 531;
    pub(crate) const IMPORTS: u32 = 532;
    pub(crate) const EVENTS: u32 = 533;
    pub(crate) const JOBS: u32 = 534;
    pub(crate) const FIRST_USER: u32 = 10_001;
}

/// Everything.
pub(crate) struct State {
    pub options: Options,
    pub tables: Vec<Table>,
    pub log: Vec<LogEntry>,
    pub files: Vec<StoredFile>,
    pub components: Vec<Component>,
    pub environment: BTreeMap<String, Variable>,
    pub exports: Vec<Export>,
    pub imports: Vec<Import>,
    pub uploads: BTreeMap<String, Vec<u8>>,
    pub events: Vec<Event>,
    pub running: AppState,
    /// The active schema of each component, as JSON text.
    pub schemas: BTreeMap<String, String>,
    /// Rows that a test gave for queries: path of the query and component to rows.
    pub rows: BTreeMap<(String, String), Vec<Value>>,
    pub canonical_urls: BTreeMap<String, String>,
    /// Numbers that cursors of a data sync were booked under, with the time of the last write of their progress.
    pub syncs: BTreeMap<String, i64>,
    clock_ns: Option<i64>,
    last_commit: i64,
    last_bump: i64,
    /// Below this nothing is readable, whatever the retention says.
    pub forgotten_before: i64,
    chance: u64,
}

impl State {
    pub(crate) fn new(options: Options) -> State {
        let chance = options.seed;
        let clock_ns = options.clock_ns;
        let mut state = State {
            options,
            tables: Vec::new(),
            log: Vec::new(),
            files: Vec::new(),
            components: Vec::new(),
            environment: BTreeMap::new(),
            exports: Vec::new(),
            imports: Vec::new(),
            uploads: BTreeMap::new(),
            events: Vec::new(),
            running: AppState::Running,
            schemas: BTreeMap::new(),
            rows: BTreeMap::new(),
            canonical_urls: BTreeMap::new(),
            syncs: BTreeMap::new(),
            clock_ns,
            last_commit: 0,
            last_bump: 0,
            forgotten_before: 0,
            chance,
        };
        state.last_bump = state.now();
        state
    }

    /// The wall clock, in nanoseconds since the epoch.
    pub(crate) fn now(&self) -> i64 {
        self.clock_ns.unwrap_or_else(|| {
            let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
        })
    }

    /// Lets the clock stand at this time; `None` lets the machine's clock run.
    pub(crate) fn set_clock(&mut self, clock_ns: Option<i64>) {
        self.clock_ns = clock_ns;
    }

    /// The wall clock in milliseconds, as `_creationTime` has it.
    pub(crate) fn now_ms(&self) -> f64 {
        self.now() as f64 / 1e6
    }

    /// The database's own time: the newest commit or bump. A bump comes 5 s after the one before if there were commits, else
    /// after an hour; here it is made when somebody looks.
    pub(crate) fn latest(&mut self) -> i64 {
        let wait = if self.last_commit > self.last_bump { 5 * SECOND } else { 3600 * SECOND };
        let now = self.now();
        if now >= self.last_bump.saturating_add(wait) && now > self.last_commit {
            self.last_bump = now;
        }
        self.last_commit.max(self.last_bump)
    }

    /// Moves the database's time to the wall clock, as it does by itself sooner or later.
    pub(crate) fn bump(&mut self) -> i64 {
        self.last_bump = self.now().max(self.last_commit);
        self.last_bump
    }

    /// The start of document retention.
    pub(crate) fn readable_from(&mut self) -> i64 {
        self.latest();
        self.last_bump.saturating_sub(self.options.retention_ns).max(self.forgotten_before)
    }

    /// The timestamp of the next commit.
    fn next_ts(&mut self) -> i64 {
        self.last_commit = self.now().max(self.last_commit + 1).max(self.last_bump + 1);
        self.last_commit
    }

    /// splitmix64: ids need to differ, not to be secret.
    pub(crate) fn random(&mut self) -> u64 {
        self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.chance;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 12 bytes that are used once.
    pub(crate) fn nonce(&mut self) -> [u8; 12] {
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&self.random().to_le_bytes());
        nonce[8..].copy_from_slice(&self.random().to_le_bytes()[..4]);
        nonce
    }

    /// 14 random bytes and the number of the day.
    pub(crate) fn new_internal(&mut self) -> InternalId {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.random().to_be_bytes());
        id[8..].copy_from_slice(&self.random().to_be_bytes());
        let day = self.now() / (24 * 3600 * SECOND);
        id[14..].copy_from_slice(&(day as u16).to_le_bytes());
        id
    }

    /// A random UUID as text.
    pub(crate) fn new_uuid(&mut self) -> String {
        let (a, b) = (self.random(), self.random());
        let a = a & 0xffff_ffff_ffff_0fff | 0x4000;
        let b = b & 0x3fff_ffff_ffff_ffff | 0x8000_0000_0000_0000;
        let hex = format!("{a:016x}{b:016x}");
        format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }

    /// A new id for a row of a system table, with the commit that writes it.
    pub(crate) fn new_system_row(&mut self, number: u32) -> (DocumentId, f64) {
        let id = DocumentId::new(number, self.new_internal());
        let created_ms = self.now_ms();
        self.commit_system(1);
        (id, created_ms)
    }

    /// A commit of so many rows of system tables.
    pub(crate) fn commit_system(&mut self, rows: usize) -> i64 {
        let ts = self.next_ts();
        let mut ids: Vec<InternalId> = (0..rows).map(|_| self.new_internal()).collect();
        ids.sort_unstable();
        self.log.extend(ids.into_iter().map(|id| LogEntry { ts, table: None, id, line: None }));
        ts
    }

    /// Writes an event to the audit log.
    pub(crate) fn audit(&mut self, action: &str, metadata: Value) {
        let (id, created_ms) = self.new_system_row(numbers::EVENTS);
        self.events.push(Event { id, created_ms, action: action.to_owned(), metadata });
    }

    /// The path of a component by its id; the root has none.
    pub(crate) fn component_path(&self, id: &str) -> Option<&str> {
        self.components.iter().find(|c| c.id.to_string() == id).map(|c| c.path.as_str())
    }

    /// Makes a component and those above it, unless they are there.
    pub(crate) fn ensure_component(&mut self, path: &str, mounted: bool) {
        if path.is_empty() || self.components.iter().any(|c| c.path == path) {
            return;
        }
        if let Some((above, _)) = path.rsplit_once('/') {
            self.ensure_component(above, mounted);
        }
        let (id, _) = self.new_system_row(numbers::COMPONENTS);
        self.components.push(Component { id, path: path.to_owned(), mounted });
        self.components.sort_by_key(|c| c.id.internal);
    }

    /// The paths of all components, the root first, then by id.
    pub(crate) fn component_paths(&self) -> Vec<String> {
        std::iter::once(String::new()).chain(self.components.iter().map(|c| c.path.clone())).collect()
    }

    /// Takes an upload's bytes away.
    pub(crate) fn take_upload(&mut self, token: &str) -> Option<Bytes> {
        self.uploads.remove(token).map(Bytes::from)
    }
}
