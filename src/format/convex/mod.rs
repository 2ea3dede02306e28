//! What Convex writes: document ids, and the layout of an export. Values are never decoded here: their text is kept as it is.
//!
//! Sources: get-convex/convex-backend at 94a42c3db (`crates/value/src/id_v6.rs`, `crates/exports/src/lib.rs`). Invariant: nothing
//! here panics on any input. Not here: the bytes of the archive (`zip`), and sessions with a deployment.

pub mod id;
pub mod layout;

pub use id::{BadId, DocumentId};
pub use layout::{Part, component_prefix, extension_of, place_of};
