//! One file a command: resolve, call the deed, show what it returned.

pub mod backup;
mod backup_volume;
mod beside;
pub mod catalog;
pub mod check;
pub mod demo;
pub mod drill;
pub mod follow;
pub mod forget;
pub mod init;
pub mod key;
pub mod live;
pub mod look;
pub mod man;
pub mod prune;
pub mod repair;
pub mod restore;
mod restore_cluster;
mod restore_convex;
mod restore_databases;
mod restore_group;
mod restore_outside;
pub mod restore_server;
pub mod status;
pub mod timeline;
pub mod validate_store;
pub mod wal;
