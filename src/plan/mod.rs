//! Pure decisions. Facts go in, a value comes out that can be printed, compared and tested without I/O. Nothing here
//! knows the catalog, a store or a clock.

pub mod blobs;
pub mod branches;
pub mod canary;
pub mod coverage;
pub mod documents;
pub mod drill;
pub mod environment;
pub mod gate;
pub mod needed_wal;
pub mod prune;
pub mod recovery;
pub mod restore;
pub mod retention;
pub mod rewrite;
pub mod tablespaces;
mod way;
