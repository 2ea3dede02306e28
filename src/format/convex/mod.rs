//! What Convex writes: document ids, the layout of an export, and changes. Values are never decoded here: their text is kept as it is.
//!
//! Sources: get-convex/convex-backend at 94a42c3db (`crates/value/src/id_v6.rs`, `crates/exports/src/lib.rs`,
//! `crates/streaming_export/src`). Invariant: nothing here panics on any input. Not here: the bytes of the archive (`zip`), and
//! sessions with a deployment.

pub mod change;
pub mod id;
pub mod layout;

pub use change::{BadChange, Change};
pub use id::{BadId, DocumentId};
pub use layout::{Part, component_prefix, extension_of, full_name, place_of};
