//! Every test that needs more than one module, in one binary: fast to link.

#![allow(clippy::unwrap_used, clippy::print_stderr)] // a test that panics is a test that fails

mod attacker;
mod cli;
mod cluster_remote;
mod cluster_source;
mod cluster_tls;
mod common;
mod contract;
mod crash;
mod damage;
mod delta;
mod drill;
mod faults;
mod fixtures;
mod floors;
mod flows;
mod follow;
mod forget;
mod hostile;
mod hosts;
mod kills;
mod landing;
mod late;
mod matrix;
mod metadata;
mod newcomer;
mod newcomer_postgres;
mod pg_dump;
mod postgres;
mod postgres_delta;
mod postgres_edges;
mod postgres_live;
mod postgres_proofs;
mod postgres_start;
mod postgres_trouble;
mod random;
mod recovery;
mod repair;
mod rot;
mod space;
mod spool;
mod tarball;
mod validate;
mod wal;
