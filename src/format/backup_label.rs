//! `backup_label` and `tablespace_map`: what `pg_backup_stop` returns, and what a restored server starts by (PostgreSQL's
//! `xlogbackup.c` and `xlogrecovery.c`).
//!
//! Invariants: a key that stands twice is refused, because a label that holds a newline could smuggle a second one in. The
//! text itself is stored and restored byte for byte; here it is only read. Not here: the times, which the server writes in
//! words of its own zone.

use crate::model::{Lsn, RawText, SegmentName, Timeline};

/// What is wrong with one of the files.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Flaw {
    /// A line is missing.
    #[error("backup_label has no line `{key}`")]
    Missing {
        /// How the line begins.
        key: &'static str,
    },
    /// A line stands there twice.
    #[error("backup_label has two lines `{key}`")]
    Twice {
        /// How they begin.
        key: &'static str,
    },
    /// A line says something else than it must.
    #[error("backup_label says `{value}` as its `{key}`")]
    Value {
        /// How the line begins.
        key: &'static str,
        /// What follows, cut to 80 characters.
        value: String,
    },
    /// A line of the tablespace map is not `OID PATH`.
    #[error("line {line} of tablespace_map is not `OID PATH`")]
    Tablespace {
        /// Its number, from 1.
        line: usize,
    },
    /// The tablespace map ends within a line.
    #[error("tablespace_map is cut off")]
    CutOff,
}

/// Where the backup was taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackupFrom {
    /// A server in production.
    Primary,
    /// A standby.
    Standby,
}

/// A backup label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupLabel {
    /// Where replay begins: the redo point of the backup's checkpoint.
    pub start: Lsn,
    /// The segment that holds it.
    pub start_segment: SegmentName,
    /// The place of the backup's checkpoint record.
    pub checkpoint: Lsn,
    /// `streamed`, since the exclusive way is gone.
    pub method: String,
    /// Primary or standby.
    pub from: BackupFrom,
    /// When it began, in the server's words; not to be counted with.
    pub start_time: String,
    /// What the backup was called.
    pub label: String,
    /// The timeline that it began on.
    pub timeline: Timeline,
    /// Where the backup that this one adds to began; such a backup restores only through `pg_combinebackup` (17 and later).
    pub incremental_from: Option<Lsn>,
}

impl BackupLabel {
    /// Reads the file. Lines that are not known are passed over, as in a `.backup` file of the archive, which says the same
    /// and where the backup stopped.
    pub fn parse(text: &[u8]) -> Result<Self, Flaw> {
        let text = String::from_utf8_lossy(text);
        let start = required(&text, "START WAL LOCATION")?;
        let bad_start = || flaw("START WAL LOCATION", start);
        let (lsn, file) = start.split_once(" (file ").ok_or_else(bad_start)?;
        let file = file.strip_suffix(')').ok_or_else(bad_start)?;
        let from = required(&text, "BACKUP FROM")?;
        let timeline = required(&text, "START TIMELINE")?;
        Ok(Self {
            start: lsn.parse().map_err(|_| bad_start())?,
            start_segment: file.parse().map_err(|_| bad_start())?,
            checkpoint: place("CHECKPOINT LOCATION", required(&text, "CHECKPOINT LOCATION")?)?,
            method: required(&text, "BACKUP METHOD")?.to_owned(),
            from: match from {
                "primary" => BackupFrom::Primary,
                "standby" => BackupFrom::Standby,
                _ => return Err(flaw("BACKUP FROM", from)),
            },
            start_time: required(&text, "START TIME")?.to_owned(),
            label: required(&text, "LABEL")?.to_owned(),
            timeline: Timeline(timeline.parse().map_err(|_| flaw("START TIMELINE", timeline))?),
            incremental_from: optional(&text, "INCREMENTAL FROM LSN")?
                .map(|value| place("INCREMENTAL FROM LSN", value))
                .transpose()?,
        })
    }
}

fn place(key: &'static str, value: &str) -> Result<Lsn, Flaw> {
    value.parse().map_err(|_| flaw(key, value))
}

fn flaw(key: &'static str, value: &str) -> Flaw {
    Flaw::Value { key, value: value.chars().take(80).collect() }
}

fn required<'a>(text: &'a str, key: &'static str) -> Result<&'a str, Flaw> {
    optional(text, key)?.ok_or(Flaw::Missing { key })
}

fn optional<'a>(text: &'a str, key: &'static str) -> Result<Option<&'a str>, Flaw> {
    let mut found = text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
    let value = found.next();
    if found.next().is_some() { Err(Flaw::Twice { key }) } else { Ok(value) }
}

/// A tablespace outside the data directory: `pg_tblspc/<oid>` is a link to its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tablespace {
    /// Its number, never 0.
    pub oid: u32,
    /// Where it lies on the server; bytes, as paths are.
    pub path: RawText,
}

/// Reads the map. The server puts a backslash before a newline, a carriage return and a backslash of a path. Empty lines
/// are passed over: it reads those between a carriage return and a newline as none.
pub fn parse_tablespace_map(text: &[u8]) -> Result<Vec<Tablespace>, Flaw> {
    let (mut all, mut line) = (Vec::new(), Vec::new());
    let (mut number, mut escaped) = (1, false);
    for byte in text {
        match byte {
            b'\\' if !escaped => escaped = true,
            b'\n' | b'\r' if !escaped => {
                if !line.is_empty() {
                    all.push(tablespace(&line).ok_or(Flaw::Tablespace { line: number })?);
                    line.clear();
                }
                number += usize::from(*byte == b'\n');
            }
            _ => {
                line.push(*byte);
                escaped = false;
            }
        }
    }
    if line.is_empty() && !escaped { Ok(all) } else { Err(Flaw::CutOff) }
}

fn tablespace(line: &[u8]) -> Option<Tablespace> {
    let blank = line.iter().position(|byte| *byte == b' ')?;
    let (oid, path) = (std::str::from_utf8(&line[..blank]).ok()?, &line[blank + 1..]);
    let digits = oid.bytes().all(|byte| byte.is_ascii_digit());
    let oid: u32 = if digits { oid.parse().ok()? } else { return None };
    if oid == 0 || path.is_empty() || path.contains(&0) {
        return None;
    }
    Some(Tablespace { oid, path: RawText(path.to_vec()) })
}

#[cfg(test)]
mod tests {
    use super::super::fixtures;
    use super::*;
    use crate::model::SegmentSize;
    use proptest::prelude::*;

    const PLAIN: &str = "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n\
        CHECKPOINT LOCATION: 0/2000060\nBACKUP METHOD: streamed\nBACKUP FROM: primary\n\
        START TIME: 2026-11-20 14:05:00 CET\nLABEL: lifeboat 1\nSTART TIMELINE: 1\n";

    #[test]
    fn real_labels_are_read() {
        for version in fixtures::VERSIONS {
            let label = BackupLabel::parse(&fixtures::bytes(version, "backup_label")).unwrap();
            // What `pg_backup_start` itself returned.
            assert_eq!(label.start.to_string(), fixtures::text(version, "backup_label.start").trim(), "{version}");
            let size = SegmentSize::new(1 << 20).unwrap();
            assert_eq!(label.start_segment, SegmentName::holding(label.timeline, label.start, size));
            assert!(label.checkpoint >= label.start);
            assert_eq!((label.method.as_str(), label.from), ("streamed", BackupFrom::Primary));
            assert_eq!((label.label.as_str(), label.timeline), ("lifeboat: a label", Timeline(1)));
            assert_eq!(label.incremental_from, None);
        }
    }

    #[test]
    fn real_maps_are_read() {
        for version in fixtures::VERSIONS {
            let map = parse_tablespace_map(&fixtures::bytes(version, "tablespace_map")).unwrap();
            // `oid` and the path as hexadecimal digits, from the links themselves.
            let said = fixtures::text(version, "tablespace_map.said");
            let found: Vec<String> = map
                .iter()
                .map(|t| format!("{} {}", t.oid, data_encoding::HEXLOWER.encode(t.path.as_bytes())))
                .collect();
            assert_eq!(found, said.lines().collect::<Vec<_>>(), "{version}");
        }
    }

    #[test]
    fn an_incremental_backup_is_told_apart() {
        let text = format!("{PLAIN}INCREMENTAL FROM LSN: 0/1000028\nINCREMENTAL FROM TLI: 1\n");
        assert_eq!(BackupLabel::parse(text.as_bytes()).unwrap().incremental_from, Some(Lsn(0x100_0028)));
        assert_eq!(BackupLabel::parse(PLAIN.as_bytes()).unwrap().incremental_from, None);
    }

    #[test]
    fn a_missing_twofold_or_wrong_line_is_refused() {
        for (n, line) in PLAIN.lines().enumerate() {
            let without: Vec<&str> = PLAIN.lines().enumerate().filter(|(m, _)| *m != n).map(|(_, l)| l).collect();
            let found = BackupLabel::parse(without.join("\n").as_bytes());
            assert!(matches!(found, Err(Flaw::Missing { key }) if line.starts_with(key)), "{line}: {found:?}");
            let found = BackupLabel::parse(format!("{PLAIN}{line}\n").as_bytes());
            assert!(matches!(found, Err(Flaw::Twice { key }) if line.starts_with(key)), "{line}: {found:?}");
        }
        for (good, bad) in [("0/2000028", "2000028"), ("(file 0", "(file x"), ("primary", "master"), ("E: 1", "E: one")]
        {
            let found = BackupLabel::parse(PLAIN.replace(good, bad).as_bytes());
            assert!(matches!(found, Err(Flaw::Value { .. })), "{bad}: {found:?}");
        }
    }

    #[test]
    fn escapes_of_the_map_are_undone() {
        let map = parse_tablespace_map(b"16385 /a b\\\nc\\\\d\r\n16386 \\/e\n\n").unwrap();
        let rows: Vec<_> = map.iter().map(|t| (t.oid, t.path.as_bytes())).collect();
        assert_eq!(rows, [(16385, b"/a b\nc\\d".as_slice()), (16386, b"/e")]);
        assert_eq!(parse_tablespace_map(b""), Ok(vec![]));
        for cut in ["1 /a", "1 /a\n\\", "1 /a\\\n"] {
            assert_eq!(parse_tablespace_map(cut.as_bytes()), Err(Flaw::CutOff), "{cut:?}");
        }
        for bad in ["x /a", "1", "1 ", "0 /a", "+1 /a", " /a", "4294967296 /a", "1 /\0"] {
            let text = format!("1 /ok\n{bad}\n");
            assert_eq!(parse_tablespace_map(text.as_bytes()), Err(Flaw::Tablespace { line: 2 }), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn maps_survive_the_servers_escapes(
            rows in prop::collection::vec((1u32.., prop::collection::vec(1u8.., 1..30)), 0..5)
        ) {
            let mut text = Vec::new();
            for (oid, path) in &rows {
                text.extend_from_slice(format!("{oid} ").as_bytes());
                for byte in path {
                    if matches!(byte, b'\n' | b'\r' | b'\\') {
                        text.push(b'\\');
                    }
                    text.push(*byte);
                }
                text.push(b'\n');
            }
            let found = parse_tablespace_map(&text).unwrap();
            let found: Vec<_> = found.into_iter().map(|t| (t.oid, t.path.0)).collect();
            prop_assert_eq!(found, rows);
        }

        #[test]
        fn any_bytes_are_read_or_refused(text in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = (BackupLabel::parse(&text), parse_tablespace_map(&text));
        }
    }
}
