//! The status page: to which second each source can be brought back, with what evidence; what ran; what is wrong. Served over HTTP for
//! people, as metrics and as JSON for programs.
//!
//! Invariants: nothing is changed and nothing is run by a visit; a visit waits for no store, for it is answered from a [`View`] that was made
//! before; no secret is on any page; everything that comes from outside is escaped; requests, connections and waits are bounded.
//! Not here: how a view is made (`cli`).

mod chart;
mod helper;
mod html;
mod http;
mod page;
mod source_page;
mod view;

pub use self::helper::quoted;
pub use self::html::text as escaped;
pub use self::http::{Access, Doors, Served, Site, serve};
pub use self::view::{CopyView, JobView, SourceView, Totals, View};
