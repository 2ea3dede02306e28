//! lifeboat: backups that prove that they restore.
pub mod catalog;
pub mod chunk;
pub mod destination;
pub mod model;
pub mod ops;
pub mod pack;
pub mod plan;
pub mod progress;
pub mod repository;
pub mod seal;
pub mod source;
pub mod store;
