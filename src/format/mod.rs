//! Foreign formats: what PostgreSQL 15 to 18 writes on little-endian machines with 8-byte alignment (docs of the layouts:
//! its headers `pg_control.h`, `xlog_internal.h`, `xlogrecord.h`, `xact.h`, `checksum_impl.h`); ids and exports of Convex.
//!
//! Invariants: pure; any bytes are read or refused, without panics and in memory bounded by constants or by the input.
//! What is refused is refused by a flaw that names it. Not here: files (but for archives, which are read in place), sessions with a server, and what follows from what
//! was read (`plan`).

pub mod backup_label;
pub mod convex;
pub mod history;
pub mod page;
pub mod pg_conf;
pub mod pg_control;
pub mod sqlite;
pub mod wal;
pub mod zip;

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|raw| u16::from_le_bytes(*raw))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|raw| u32::from_le_bytes(*raw))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|raw| u64::from_le_bytes(*raw))
}

/// The fixtures of real servers: how they were made is in `fixtures/postgres/make`.
#[cfg(test)]
pub(crate) mod fixtures {
    use std::path::{Path, PathBuf};

    /// The major versions that have fixtures.
    pub const VERSIONS: [u32; 4] = [15, 16, 17, 18];

    pub fn path(version: u32, name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/postgres/{version}/{name}"))
    }

    pub fn bytes(version: u32, name: &str) -> Vec<u8> {
        let path = path(version, name);
        std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    pub fn text(version: u32, name: &str) -> String {
        String::from_utf8(bytes(version, name)).unwrap()
    }

    /// A file that lies there compressed.
    pub fn unpacked(version: u32, name: &str) -> Vec<u8> {
        zstd::decode_all(bytes(version, &format!("{name}.zst")).as_slice()).unwrap()
    }
}
