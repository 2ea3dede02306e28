//! What a deployment is like: chosen once, when it starts.

use crate::key::Secret;

/// What the backend of a certain age has. All of it, unless a test says otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Features {
    /// `list_snapshot` and `document_deltas` (2025-07-01).
    pub streaming: bool,
    /// The format `export_json` and ZIPs that say `"uniform"` (2026-03-10).
    pub export_json: bool,
    /// Data Sync (2026-07-10) and the cursor from a timestamp (2026-08-17).
    pub data_sync: bool,
    /// The routes under `/api/v1` other than Data Sync: environment variables, pause, canonical URLs.
    pub v1: bool,
    /// Functions that fail answer 560 instead of 200.
    pub status_560: bool,
}

impl Features {
    /// A backend of today.
    pub fn current() -> Features {
        Features { streaming: true, export_json: true, data_sync: true, v1: true, status_560: false }
    }

    /// A backend of early 2026, before `export_json`: no Data Sync, no v1 routes, ZIPs of the legacy kind.
    pub fn early_2026() -> Features {
        Features { streaming: true, export_json: false, data_sync: false, v1: false, status_560: false }
    }

    /// A backend of early 2025: no streaming export either, and functions that fail answer 560.
    pub fn early_2025() -> Features {
        Features { streaming: false, status_560: true, ..Features::early_2026() }
    }
}

/// How a deployment starts.
#[derive(Debug, Clone)]
pub struct Options {
    /// The port on 127.0.0.1; 0 takes a free one.
    pub port: u16,
    /// The name that keys must have.
    pub instance_name: String,
    /// The secret that keys are made with.
    pub instance_secret: Secret,
    /// The beginning of the ids, so that a deployment can be made again.
    pub seed: u64,
    /// A clock that stands still at these nanoseconds until it is set; `None` is the machine's clock.
    pub clock_ns: Option<i64>,
    /// How old the backend is.
    pub features: Features,
    /// How far back revisions are readable, in nanoseconds; two days, as in the shipped compose file.
    pub retention_ns: i64,
    /// Documents on a page of `list_snapshot`.
    pub snapshot_page: usize,
    /// Rows read for a page of `document_deltas`.
    pub deltas_page: usize,
    /// Entries on a page of Data Sync.
    pub data_sync_page: usize,
    /// The number of `_storage`; 540 on deployments made since 2024.
    pub storage_number: u32,
    /// What `GET /version` says.
    pub version: String,
    /// The public origin that URLs of files begin with, which need not be where it listens.
    pub origin: String,
}

impl Default for Options {
    fn default() -> Options {
        let mut secret = [0x5a; 32];
        secret[0] = 1;
        Options {
            port: 0,
            instance_name: "convex-self-hosted".to_owned(),
            instance_secret: Secret(secret),
            seed: 1,
            clock_ns: None,
            features: Features::current(),
            retention_ns: 2 * 24 * 3600 * SECOND,
            snapshot_page: 1024,
            deltas_page: 128,
            data_sync_page: 16_384,
            storage_number: 540,
            version: "unknown".to_owned(),
            origin: "http://127.0.0.1:3210".to_owned(),
        }
    }
}

/// One second in nanoseconds.
pub(crate) const SECOND: i64 = 1_000_000_000;
