//! `global/pg_control`: what a cluster says of itself (PostgreSQL's `pg_control.h`), as 15 to 18 write it.
//!
//! Invariants: nothing is read from a file whose CRC does not match, nor from one of another layout. Not here: reading the
//! file again while the server writes it (the caller does, on [`Flaw::Crc`]), and the fields that a backup has no use for.
//!
//! The layouts differ in one field alone: 18 put a byte before the nonce, so that its CRC lies four bytes further.

use crate::model::{Lsn, Moment, SegmentSize, SystemId, Timeline};

use super::{u32_at, u64_at};

/// Bytes of the file; the server pads it with zeros.
pub const SIZE: usize = 8192;
/// What [`disarm`] writes as the checkpoint: no log reaches back to it, and none has a record there.
pub const DISARMED: Lsn = Lsn(0xDEAD);

const CHECKPOINT: usize = 32;

/// What is wrong with a control file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Flaw {
    /// Fewer bytes than the server writes.
    #[error("pg_control has {found} bytes, {SIZE} are expected")]
    TooShort {
        /// Bytes that are there.
        found: usize,
    },
    /// A version that this program does not know.
    #[error("pg_control has the layout {found}; 1300 (PostgreSQL 15, 16), 1700 (17) and 1800 (18) are known")]
    Version {
        /// The control version found; an absurd one is a big-endian file or none at all.
        found: u32,
    },
    /// Torn by a read during a write, or damaged: reading it again tells.
    #[error("the CRC of pg_control is {found:08x}, its content has {computed:08x}")]
    Crc {
        /// The file's own.
        found: u32,
        /// That of its content.
        computed: u32,
    },
    /// The CRC matches, yet a value is none that a server writes.
    #[error("pg_control says {value} as its {field}")]
    Value {
        /// The field's name.
        field: &'static str,
        /// What it says.
        value: i64,
    },
}

/// What the server was doing when it wrote the file (`DBState`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Starting up.
    Startup,
    /// Shut down cleanly.
    ShutDown,
    /// A standby, shut down cleanly.
    ShutDownInRecovery,
    /// Shutting down.
    ShuttingDown,
    /// Recovering from a crash.
    InCrashRecovery,
    /// Recovering from an archive, or a standby.
    InArchiveRecovery,
    /// In production.
    InProduction,
}

/// How much the cluster writes to its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WalLevel {
    /// Enough for a crash; no backup can be made.
    Minimal,
    /// Enough for backups and standbys.
    Replica,
    /// Enough for logical decoding.
    Logical,
}

/// A control file whose CRC matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlFile {
    /// The cluster's number.
    pub system_id: SystemId,
    /// The layout: 1300, 1700 or 1800.
    pub control_version: u32,
    /// The version of the system catalogs: tells 15 from 16.
    pub catalog_version: u32,
    /// What the server was doing.
    pub state: State,
    /// When the file was written last, to the second.
    pub time: Moment,
    /// The place of the last checkpoint's record.
    pub checkpoint: Lsn,
    /// Where recovery from that checkpoint begins.
    pub redo: Lsn,
    /// The timeline of that checkpoint.
    pub timeline: Timeline,
    /// How far a recovery has replayed at least; zero outside of one.
    pub min_recovery: Lsn,
    /// `wal_level`.
    pub wal_level: WalLevel,
    /// Bytes of a page of a relation.
    pub block_size: u32,
    /// Pages of one file of a relation.
    pub segment_pages: u32,
    /// Bytes of a page of the log.
    pub wal_block_size: u32,
    /// Bytes of a segment of the log.
    pub wal_segment_size: SegmentSize,
    /// The kind of page checksums; 0 is none.
    pub checksum_version: u32,
}

impl ControlFile {
    /// Reads the whole file. [`Flaw::Crc`] is normal while the server runs: read the file again.
    pub fn parse(bytes: &[u8]) -> Result<Self, Flaw> {
        let crc_at = layout(bytes)?;
        let (found, computed) = (number(bytes, crc_at), crc32c::crc32c(&bytes[..crc_at]));
        if found != computed {
            return Err(Flaw::Crc { found, computed });
        }
        let long = |at| u64_at(bytes, at).unwrap_or_default();
        let seconds = long(24) as i64;
        let time = Moment::from_timestamp(seconds, 0).ok_or(Flaw::Value { field: "time", value: seconds })?;
        let wal_segment_size = number(bytes, 228).into();
        let wal_segment_size = SegmentSize::new(wal_segment_size)
            .ok_or(Flaw::Value { field: "WAL segment size", value: wal_segment_size as i64 })?;
        Ok(Self {
            system_id: SystemId(long(0)),
            control_version: number(bytes, 8),
            catalog_version: number(bytes, 12),
            state: State::parse(number(bytes, 16))?,
            time,
            checkpoint: Lsn(long(CHECKPOINT)),
            redo: Lsn(long(40)),
            timeline: Timeline(number(bytes, 48)),
            min_recovery: Lsn(long(136)),
            wal_level: WalLevel::parse(number(bytes, 172))?,
            block_size: page_size(number(bytes, 216), "block size")?,
            segment_pages: number(bytes, 220),
            wal_block_size: page_size(number(bytes, 224), "WAL block size")?,
            wal_segment_size,
            checksum_version: number(bytes, 252),
        })
    }
}

/// Writes [`DISARMED`] as the checkpoint and makes the CRC match. A server that finds a `backup_label` beside the file takes
/// the checkpoint from there and never looks here; without one it panics at its start, instead of starting happily from a
/// checkpoint of the middle of a backup. pgBackRest does the same. Nothing is changed where the file is flawed.
pub fn disarm(bytes: &mut [u8]) -> Result<(), Flaw> {
    ControlFile::parse(bytes)?;
    let crc_at = layout(bytes)?;
    bytes[CHECKPOINT..CHECKPOINT + 8].copy_from_slice(&DISARMED.0.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..crc_at]);
    bytes[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
    Ok(())
}

/// Where the CRC lies, behind all that it covers. Once this is known, the file has all its bytes.
fn layout(bytes: &[u8]) -> Result<usize, Flaw> {
    if bytes.len() < SIZE {
        return Err(Flaw::TooShort { found: bytes.len() });
    }
    match number(bytes, 8) {
        1300 | 1700 => Ok(288),
        1800 => Ok(292),
        found => Err(Flaw::Version { found }),
    }
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32_at(bytes, at).unwrap_or_default()
}

/// Page sizes are powers of two from 1 to 64 KiB: `configure` allows no others.
fn page_size(bytes: u32, field: &'static str) -> Result<u32, Flaw> {
    let fits = bytes.is_power_of_two() && (1 << 10..=1 << 16).contains(&bytes);
    if fits { Ok(bytes) } else { Err(Flaw::Value { field, value: bytes.into() }) }
}

impl State {
    fn parse(number: u32) -> Result<Self, Flaw> {
        Ok(match number {
            0 => Self::Startup,
            1 => Self::ShutDown,
            2 => Self::ShutDownInRecovery,
            3 => Self::ShuttingDown,
            4 => Self::InCrashRecovery,
            5 => Self::InArchiveRecovery,
            6 => Self::InProduction,
            _ => return Err(Flaw::Value { field: "state", value: number.into() }),
        })
    }
}

impl WalLevel {
    fn parse(number: u32) -> Result<Self, Flaw> {
        Ok(match number {
            0 => Self::Minimal,
            1 => Self::Replica,
            2 => Self::Logical,
            _ => return Err(Flaw::Value { field: "wal_level", value: number.into() }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures;
    use super::*;
    use proptest::prelude::*;

    /// The value of a line of `pg_controldata`.
    fn said(text: &str, key: &str) -> String {
        let line = text.lines().find(|line| line.starts_with(&format!("{key}:"))).unwrap_or_else(|| panic!("{key}"));
        line[key.len() + 1..].trim().to_owned()
    }

    fn state_text(state: State) -> &'static str {
        match state {
            State::Startup => "starting up",
            State::ShutDown => "shut down",
            State::ShutDownInRecovery => "shut down in recovery",
            State::ShuttingDown => "shutting down",
            State::InCrashRecovery => "in crash recovery",
            State::InArchiveRecovery => "in archive recovery",
            State::InProduction => "in production",
        }
    }

    #[test]
    fn real_files_say_what_pg_controldata_says() {
        for version in fixtures::VERSIONS {
            for name in ["running", "stopped"] {
                let file = ControlFile::parse(&fixtures::unpacked(version, &format!("pg_control.{name}"))).unwrap();
                let text = fixtures::text(version, &format!("pg_controldata.{name}"));
                let check = |key: &str, value: String| assert_eq!(said(&text, key), value, "{version}: {key}");
                check("Database system identifier", file.system_id.to_string());
                check("pg_control version number", file.control_version.to_string());
                check("Catalog version number", file.catalog_version.to_string());
                check("Database cluster state", state_text(file.state).to_owned());
                // Made with TZ=UTC and LC_ALL=C: `Sat Nov 21 18:00:00 2026`, the day padded with a blank.
                check("pg_control last modified", file.time.format("%a %b %e %H:%M:%S %Y").to_string());
                check("Latest checkpoint location", file.checkpoint.to_string());
                check("Latest checkpoint's REDO location", file.redo.to_string());
                check("Latest checkpoint's TimeLineID", file.timeline.to_string());
                check("wal_level setting", format!("{:?}", file.wal_level).to_lowercase());
                check("Database block size", file.block_size.to_string());
                check("Blocks per segment of large relation", file.segment_pages.to_string());
                check("WAL block size", file.wal_block_size.to_string());
                check("Bytes per WAL segment", file.wal_segment_size.bytes().to_string());
                check("Data page checksum version", file.checksum_version.to_string());
            }
        }
    }

    #[test]
    fn every_changed_byte_and_every_cut_is_noticed() {
        for version in fixtures::VERSIONS {
            let file = fixtures::unpacked(version, "pg_control.running");
            let crc_at = layout(&file).unwrap();
            for at in 0..crc_at + 4 {
                let mut damaged = file.clone();
                damaged[at] ^= 1;
                let found = ControlFile::parse(&damaged);
                assert!(
                    matches!(found, Err(Flaw::Crc { .. } | Flaw::Version { .. })),
                    "{version}, byte {at}: {found:?}"
                );
            }
            for length in (0..SIZE).step_by(7) {
                assert_eq!(ControlFile::parse(&file[..length]), Err(Flaw::TooShort { found: length }));
            }
        }
    }

    #[test]
    fn other_versions_are_refused_by_name() {
        let mut file = fixtures::unpacked(15, "pg_control.running");
        file[8..12].copy_from_slice(&1201u32.to_le_bytes());
        assert_eq!(ControlFile::parse(&file), Err(Flaw::Version { found: 1201 }));
        assert!(Flaw::Version { found: 1201 }.to_string().contains("1201"));
    }

    #[test]
    fn a_disarmed_file_differs_in_its_checkpoint_alone() {
        for version in fixtures::VERSIONS {
            let before = fixtures::unpacked(version, "pg_control.running");
            let mut after = before.clone();
            disarm(&mut after).unwrap();
            let (was, is) = (ControlFile::parse(&before).unwrap(), ControlFile::parse(&after).unwrap());
            assert_eq!(is, ControlFile { checkpoint: DISARMED, ..was });
            let crc_at = layout(&before).unwrap();
            let changed: Vec<usize> = (0..SIZE).filter(|at| before[*at] != after[*at]).collect();
            assert!(changed.iter().all(|at| (32..40).contains(at) || (crc_at..crc_at + 4).contains(at)), "{changed:?}");
        }
    }

    #[test]
    fn a_flawed_file_is_not_disarmed() {
        let mut file = fixtures::unpacked(18, "pg_control.running");
        file[100] ^= 1;
        let before = file.clone();
        assert!(matches!(disarm(&mut file), Err(Flaw::Crc { .. })));
        assert_eq!(file, before);
    }

    proptest! {
        #[test]
        fn any_bytes_with_a_crc_are_read_or_refused(
            mut bytes in prop::collection::vec(any::<u8>(), 300), version in 0usize..4, length in 0..2 * SIZE
        ) {
            bytes.resize(length, 0);
            let _ = ControlFile::parse(&bytes);
            if length >= SIZE {
                bytes[8..12].copy_from_slice(&[1300u32, 1700, 1800, 0][version].to_le_bytes());
                if let Ok(crc_at) = layout(&bytes) {
                    let crc = crc32c::crc32c(&bytes[..crc_at]);
                    bytes[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
                    let found = ControlFile::parse(&bytes);
                    prop_assert!(!matches!(found, Err(Flaw::Crc { .. })), "{found:?}");
                    prop_assert_eq!(disarm(&mut bytes).is_ok(), found.is_ok());
                }
            }
        }
    }
}
