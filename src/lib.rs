//! lifeboat: backups that prove that they restore.
//!
//! A source goes in, is cut into chunks, deduplicated, gathered into frames, compressed, sealed with age, packed, and put
//! into an object store; a commit makes the snapshot exist; a catalog on the host finds it again. `ARCHITECTURE.md` has
//! the floor plan, `docs/format.md` the bytes.

pub mod catalog;
pub mod chunk;
pub mod cli;
pub mod client;
pub mod config;
pub mod destination;
pub mod format;
pub mod model;
pub mod notify;
pub mod ops;
pub mod pack;
pub mod plan;
pub mod progress;
pub mod repository;
pub mod schedule;
pub mod seal;
pub mod serve;
pub mod source;
pub mod store;
pub mod words;
