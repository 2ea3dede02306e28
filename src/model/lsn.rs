//! Places in PostgreSQL's write-ahead log: log sequence numbers, timelines, segments and the ids of clusters.
//!
//! Invariants: a [`SegmentSize`] is a power of two between 1 MiB and 1 GiB, as PostgreSQL demands; text and value go both
//! ways without loss. Arithmetic at the end of the 64-bit log saturates, it never wraps. Not here: what the log's bytes
//! mean (`format::wal`), and files.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What is wrong with the text of a place in the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {expected}")]
pub struct BadPlace {
    text: String,
    expected: &'static str,
}

impl BadPlace {
    pub(crate) fn new(text: &str, expected: &'static str) -> Self {
        Self { text: text.chars().take(80).collect(), expected }
    }
}

macro_rules! as_text {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

/// A log sequence number: a byte's place in the log, counted from the cluster's beginning over all timelines. Its text is
/// PostgreSQL's: the upper and the lower half as hexadecimal numbers, `16/B374D848`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The place so many bytes behind this one.
    pub const fn plus(self, bytes: u64) -> Self {
        Self(self.0.saturating_add(bytes))
    }
    /// Bytes from `earlier` to here; zero where it is not earlier.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}
impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}
impl FromStr for Lsn {
    type Err = BadPlace;
    fn from_str(text: &str) -> Result<Self, BadPlace> {
        let bad = || BadPlace::new(text, "a log sequence number such as `16/B374D848`");
        let (high, low) = text.split_once('/').ok_or_else(bad)?;
        let half = |part: &str| hexadecimal(part, 1..=8).ok_or_else(bad);
        Ok(Self((u64::from(half(high)?) << 32) | u64::from(half(low)?)))
    }
}
as_text!(Lsn);

/// The number in `text`: hexadecimal digits alone, as many as `digits` allows.
fn hexadecimal(text: &str, digits: std::ops::RangeInclusive<usize>) -> Option<u32> {
    let clean = digits.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
    if clean { u32::from_str_radix(text, 16).ok() } else { None }
}

/// The number of a timeline: 1 after `initdb`, one more after each promotion or restore to a point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timeline(pub u32);

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The number that `initdb` gave a cluster; its standbys and restored copies share it. Text, because JSON readers that know
/// only floating point would round it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SystemId(pub u64);

impl fmt::Display for SystemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
impl FromStr for SystemId {
    type Err = BadPlace;
    fn from_str(text: &str) -> Result<Self, BadPlace> {
        let bad = || BadPlace::new(text, "a system identifier: a decimal number below 2^64");
        let clean = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if clean { text.parse().map(Self).map_err(|_| bad()) } else { Err(bad()) }
    }
}
as_text!(SystemId);

/// Bytes of a cluster's segments: a power of two between 1 MiB and 1 GiB, fixed by `initdb`; 16 MiB unless asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct SegmentSize(u32);

impl SegmentSize {
    /// What `initdb` takes unless asked.
    pub const DEFAULT: Self = Self(16 << 20);

    /// Checks a number of bytes.
    pub fn new(bytes: u64) -> Option<Self> {
        let fits = bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(&bytes);
        if fits { u32::try_from(bytes).ok().map(Self) } else { None }
    }
    /// Bytes of a segment.
    pub const fn bytes(self) -> u64 {
        self.0 as u64
    }
    /// Segments in one log of 4 GiB: 4 to 4,096.
    pub const fn per_log(self) -> u32 {
        ((1u64 << 32) / self.bytes()) as u32
    }
}
impl From<SegmentSize> for u64 {
    fn from(size: SegmentSize) -> Self {
        size.bytes()
    }
}
impl TryFrom<u64> for SegmentSize {
    type Error = String;
    fn try_from(bytes: u64) -> Result<Self, String> {
        Self::new(bytes).ok_or_else(|| format!("{bytes} bytes are no size of a WAL segment"))
    }
}

/// The name of a segment: its timeline, and its place as log (of 4 GiB) and segment in the log. Eight upper-case
/// hexadecimal digits each, `0000000100000016000000B3`. Ordered by timeline first, as the names sort.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentName {
    /// The timeline that wrote it.
    pub timeline: Timeline,
    /// The upper half of its first LSN.
    pub log: u32,
    /// Its number in the log: below [`SegmentSize::per_log`] where the name fits the size.
    pub segment: u32,
}

impl SegmentName {
    /// The segment that holds the byte at `lsn`.
    pub fn holding(timeline: Timeline, lsn: Lsn, size: SegmentSize) -> Self {
        let segment = (lsn.0 & 0xffff_ffff) / size.bytes();
        Self { timeline, log: (lsn.0 >> 32) as u32, segment: segment as u32 }
    }
    /// The segment that holds the last byte before `end`: the one that must be there when a backup stopped at `end`.
    pub fn ending(timeline: Timeline, end: Lsn, size: SegmentSize) -> Self {
        Self::holding(timeline, Lsn(end.0.saturating_sub(1)), size)
    }
    /// Whether a cluster with segments of this size can have a segment of this name.
    pub fn fits(self, size: SegmentSize) -> bool {
        self.segment < size.per_log()
    }
    /// The place of its first byte.
    pub fn start(self, size: SegmentSize) -> Lsn {
        Lsn(u64::from(self.log) << 32).plus(u64::from(self.segment).saturating_mul(size.bytes()))
    }
    /// The place of its first byte and the place behind its last.
    pub fn range(self, size: SegmentSize) -> Range<Lsn> {
        let start = self.start(size);
        start..start.plus(size.bytes())
    }
    /// The segment behind it on the same timeline; none behind the last of the 64-bit log.
    pub fn next(self, size: SegmentSize) -> Option<Self> {
        if self.segment.saturating_add(1) < size.per_log() {
            return Some(Self { segment: self.segment + 1, ..self });
        }
        self.log.checked_add(1).map(|log| Self { log, segment: 0, ..self })
    }
}
impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}{:08X}{:08X}", self.timeline.0, self.log, self.segment)
    }
}
impl FromStr for SegmentName {
    type Err = BadPlace;
    fn from_str(text: &str) -> Result<Self, BadPlace> {
        let bad = || BadPlace::new(text, "the name of a WAL segment: 24 upper-case hexadecimal digits");
        if text.bytes().any(|b| b.is_ascii_lowercase()) {
            return Err(bad());
        }
        let part = |at: usize| text.get(at..at + 8).and_then(|digits| hexadecimal(digits, 8..=8)).ok_or_else(bad);
        let name = Self { timeline: Timeline(part(0)?), log: part(8)?, segment: part(16)? };
        if text.len() == 24 { Ok(name) } else { Err(bad()) }
    }
}
as_text!(SegmentName);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn size(mebibytes: u64) -> SegmentSize {
        SegmentSize::new(mebibytes << 20).unwrap()
    }

    proptest! {
        #[test]
        fn places_survive_text_and_json(lsn: u64, timeline: u32, log: u32, segment: u32) {
            let lsn = Lsn(lsn);
            prop_assert_eq!(lsn.to_string().parse::<Lsn>(), Ok(lsn));
            let name = SegmentName { timeline: Timeline(timeline), log, segment };
            prop_assert_eq!(name.to_string().parse::<SegmentName>(), Ok(name));
            let json = serde_json::to_string(&(lsn, name, SystemId(lsn.0), name.timeline)).unwrap();
            prop_assert_eq!(serde_json::from_str(&json).ok(), Some((lsn, name, SystemId(lsn.0), name.timeline)));
        }

        #[test]
        fn segments_tile_the_log(lsn: u64, bits in 0u32..=10) {
            let size = size(1 << bits);
            let name = SegmentName::holding(Timeline(3), Lsn(lsn), size);
            let range = name.range(size);
            prop_assert!(name.fits(size) && range.start <= Lsn(lsn) && lsn - range.start.0 < size.bytes());
            if let Some(next) = name.next(size) {
                prop_assert_eq!(next.start(size), range.end);
                prop_assert_eq!(SegmentName::holding(Timeline(3), range.end, size), next);
                prop_assert_eq!(SegmentName::ending(Timeline(3), range.end, size), name);
            } else {
                prop_assert_eq!(range.end, Lsn(u64::MAX));
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text: String) {
            if let Ok(lsn) = text.parse::<Lsn>() {
                prop_assert_eq!(lsn.to_string().parse::<Lsn>(), Ok(lsn));
            }
            let _ = (text.parse::<SegmentName>(), text.parse::<SystemId>());
        }
    }

    #[test]
    fn text_is_as_postgresql_writes_it() {
        assert_eq!(Lsn(0x16_B374_D848).to_string(), "16/B374D848");
        assert_eq!("0/0300000a".parse(), Ok(Lsn(0x0300_000A)));
        for bad in ["", "/", "1", "1/", "/1", "1/2/3", "+1/2", "1/123456789", "g/1", " 1/2"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad}");
        }
        let name: SegmentName = "0000000100000016000000B3".parse().unwrap();
        assert_eq!(name, SegmentName::holding(Timeline(1), Lsn(0x16_B374_D848), SegmentSize::DEFAULT));
        for bad in ["", "0000000100000016000000b3", "0000000100000016000000B", "0000000100000016000000B3 ", "é"] {
            assert!(bad.parse::<SegmentName>().is_err(), "{bad}");
        }
        assert!("+1".parse::<SystemId>().is_err());
    }

    #[test]
    fn the_next_segment_crosses_into_the_next_log() {
        let last: SegmentName = "0000000200000000000000FF".parse().unwrap();
        assert_eq!(last.next(SegmentSize::DEFAULT).unwrap().to_string(), "000000020000000100000000");
        assert_eq!(last.next(size(1)).unwrap().to_string(), "000000020000000000000100");
        assert!(!SegmentName { segment: 4, ..last }.fits(size(1024)));
        let end: SegmentName = "00000001FFFFFFFFFFFFFFFF".parse().unwrap();
        assert_eq!((end.next(size(1)), end.start(size(1024))), (None, Lsn(u64::MAX)));
    }

    #[test]
    fn sizes_that_no_cluster_has_are_refused() {
        for bad in [0, 1, 1 << 19, (1 << 20) + 1, 3 << 20, 1 << 31, u64::MAX] {
            assert_eq!(SegmentSize::new(bad), None, "{bad}");
        }
        assert_eq!((size(1).per_log(), size(1024).per_log()), (4096, 4));
        assert!(serde_json::from_str::<SegmentSize>("7").is_err());
    }
}
