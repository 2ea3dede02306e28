//! The stream of a Convex deployment: which segments there are, and what each says of itself (docs/format.md, section 5).
//!
//! An epoch is one unbroken history: it begins at the time of a snapshot, and ends where an import, a dropped table or a gap made
//! the server's changes tell less than the truth. Within it segments are numbered, and each begins where the one before ends.
//! Not here: the lines of a segment (`format::convex::change`), and which segments a restore needs (`plan::documents`).

use serde::{Deserialize, Serialize};

use super::{Moment, SegmentPlace};

/// Times of a deployment's database: nanoseconds since 1970.
pub type DbTime = i64;

/// What the first line of a segment and its row in the index say. Times are decimal text, as JSON readers lose such numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocumentsFacts {
    /// The version of these words: 1.
    pub version: u32,
    /// The instance.
    pub instance: String,
    /// Changes after this time of the database are in it.
    pub from: String,
    /// Changes up to this one.
    pub to: String,
    /// When the deployment was last asked and had nothing newer.
    pub seen: Moment,
    /// How many changes there are in it.
    pub changes: u64,
    /// When the deployment's files were last listed and all of them were stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<Moment>,
    /// Why this epoch began, in its first segment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began: Option<String>,
}

impl DocumentsFacts {
    /// The time it begins behind.
    pub fn after(&self) -> Option<DbTime> {
        self.from.parse().ok()
    }
    /// The time it goes up to.
    pub fn up_to(&self) -> Option<DbTime> {
        self.to.parse().ok()
    }
}

/// The name of the stream of a source that is this instance. Instances whose names are no part of a key get a digest's.
pub fn stream_name(source: &str, instance: &str) -> String {
    let name = format!("{source}-convex-{instance}");
    match SegmentPlace::new(&name, "0", "0") {
        Some(_) => name,
        None => format!("{source}-convex-{}", &blake3::hash(instance.as_bytes()).to_hex()[..16]),
    }
}

/// The name under which a follower stores the files that were made after a source's newest snapshot.
pub fn files_source(source: &str) -> String {
    format!("{source}.files")
}

/// Where a segment stands. `begun` is the time of the snapshot that its epoch begins with.
pub fn place(stream: &str, begun: DbTime, number: u64) -> Option<SegmentPlace> {
    SegmentPlace::new(stream, &format!("{begun:016X}"), &format!("{number:016X}"))
}

/// When the epoch of a place began, and its number in it.
pub fn parse_place(place: &SegmentPlace) -> Option<(DbTime, u64)> {
    let hex = |text: &str| {
        let is_hex = text.len() == 16 && text.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b));
        is_hex.then(|| u64::from_str_radix(text, 16).ok()).flatten()
    };
    Some((i64::try_from(hex(place.epoch())?).ok()?, hex(place.name())?))
}

/// A time of the database for people; the end of time where it is none.
pub fn moment_of(time: DbTime) -> Moment {
    Moment::from_timestamp_nanos(time)
}

/// A moment as a time of the database: the last one there is where it lies beyond (the year 2262).
pub fn time_of(moment: Moment) -> DbTime {
    moment.timestamp_nanos_opt().unwrap_or(if moment.timestamp() < 0 { DbTime::MIN } else { DbTime::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_go_there_and_back() {
        for (begun, number) in [(0, 0), (1_788_220_800_000_000_000, 7), (i64::MAX, u64::MAX)] {
            let place = place("app-convex-x", begun, number).unwrap();
            assert_eq!(parse_place(&place), Some((begun, number)));
        }
        let other = SegmentPlace::new("app-1-15", "00000001", "000000010000000A000000FF").unwrap();
        assert_eq!(parse_place(&other), None);
    }

    #[test]
    fn odd_instances_have_a_stream_too() {
        assert_eq!(stream_name("app", "convex-self-hosted"), "app-convex-convex-self-hosted");
        let odd = stream_name("app", "a b/c");
        assert!(SegmentPlace::new(&odd, "0", "0").is_some(), "{odd}");
        assert_ne!(odd, stream_name("app", "a b/d"));
    }
}
