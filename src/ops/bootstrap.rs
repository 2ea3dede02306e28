//! What a bare machine needs to begin again: the configuration, kept in the repository beside the snapshots.
//!
//! It is a segment of the stream `configuration`, sealed to the recipients alone: it may hold what no backup host should read again.
//! Stored where it changed, read back by whoever has an identity. Not here: catalogs, which are rebuilt from the logs.

use super::Error;
use crate::model::{Moment, SegmentPlace};
use crate::progress::Progress;
use crate::repository::Repository;

/// Its stream.
pub(super) const STREAM: &str = "configuration";
/// A configuration at most.
pub const CONFIGURATION_MAX: u64 = 1 << 20;

/// A configuration as it was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredConfiguration {
    /// The writer whose host it was on.
    pub writer: String,
    /// When it was stored, by that host's clock.
    pub stored: Moment,
    /// Its text.
    pub text: Vec<u8>,
}

fn place(name: &str) -> Result<SegmentPlace, Error> {
    let place = SegmentPlace::new(STREAM, "1", name);
    place.ok_or_else(|| super::documents::StreamError::Content(format!("`{name}` is no name")).into())
}

/// Stores the configuration unless the one that was stored last is the same. Whether it did.
pub fn keep_configuration(
    repository: &mut Repository,
    text: &[u8],
    now: Moment,
    progress: &dyn Progress,
) -> Result<bool, Error> {
    let writer = repository.segment_writer()?;
    let digest = writer.digest(&place("content")?, text).to_string();
    let own = repository.host()?.name.clone();
    let known = repository.catalog().segments(&own, STREAM)?;
    let last = known.iter().max_by(|a, b| a.place.name().cmp(b.place.name()));
    // Sealed to an earlier list, it would not open for those who came later.
    let list = repository.host()?.recipients_list.to_string();
    let facts = serde_json::json!({"content": digest, "list": list});
    if last.is_some_and(|last| last.facts == facts) {
        return Ok(false);
    }
    // Behind the last one, also where the clock was set back.
    let before = last.and_then(|last| u64::from_str_radix(last.place.name(), 16).ok()).unwrap_or(0);
    let number = u64::try_from(now.timestamp_millis()).unwrap_or(0).max(before + 1);
    let record = writer.put(place(&format!("{number:016X}"))?, text, facts, now)?;
    repository.note_segments(&[record])?;
    repository.commit_segments(now, progress)?;
    Ok(true)
}

/// The newest configuration of each writer that can be read, the newest first, and what is wrong with others. Needs an identity.
pub fn configurations(repository: &Repository) -> Result<(Vec<StoredConfiguration>, Vec<String>), Error> {
    let (mut all, mut problems) = (Vec::new(), Vec::new());
    for writer in repository.writer_names()?.into_values() {
        let listing = repository.list_stream(&writer, STREAM)?;
        if let Some(gone) = listing.missing.iter().map(|record| record.put).max() {
            problems.push(format!("a configuration of {writer}, stored {gone}, is not in the store any more"));
        }
        let mut there = listing.there;
        there.sort_by(|a, b| b.place.name().cmp(a.place.name()));
        for record in there {
            match repository.read_segment(&writer, &record) {
                Ok(text) => {
                    all.push(StoredConfiguration { writer: writer.clone(), stored: record.put, text });
                    break;
                }
                Err(e) => problems.push(format!("a configuration of {writer} cannot be read: {}", super::chain(&e))),
            }
        }
    }
    all.sort_by(|a, b| (b.stored, &a.writer).cmp(&(a.stored, &b.writer)));
    Ok((all, problems))
}
