//! Taking the segments of a stream over into a copy of the repository, as they are sealed.
//!
//! Invariants: a segment goes out only with the length that the index says; its row is on this host's disk after the copy has it, in a
//! commit after that; what the copy's own policy has deleted does not come back. Without an identity nobody can compare a segment with
//! its digest: whoever reads it does.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::unbounded;

use super::layout::DESCRIPTION;
use super::{Error, Repository};
use crate::model::{Moment, SegmentKey, SegmentRecord, limits};
use crate::progress::{Event, Progress};
use crate::store::{Appender, Store};

/// Segments under way at a time: each is one object, mostly small.
const AT_A_TIME: usize = 8;
/// Sealed bytes under way at a time, about: a larger segment goes alone.
const BYTES_AT_A_TIME: u64 = 128 << 20;
/// Seconds within which whoever put a segment notes what it is.
const YOUNG: i64 = 3_600;
/// Segments that one commit names.
const BATCH: usize = 2_000;

/// What copying a stream did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CopiedStream {
    /// Segments that were copied.
    pub segments: u64,
    /// Their sealed bytes.
    pub bytes: u64,
    /// Segments that the log names and that are not in the first store, or have another length there.
    pub missing: u64,
}

impl Repository {
    /// What of a writer's stream a copy lacks, oldest first, and how much of it the first store has lost.
    pub fn segments_to_copy(
        &self,
        copy: &Self,
        writer: &str,
        stream: &str,
        now: Moment,
    ) -> Result<(Vec<SegmentRecord>, CopiedStream), Error> {
        let listing = self.list_stream(writer, stream)?;
        let have = copy.list_stream(&copy.host()?.name, stream)?;
        let key = |record: &SegmentRecord| SegmentKey(record.place.clone(), record.digest);
        let known: HashSet<SegmentKey> = have.there.iter().map(key).chain(have.deleted).collect();
        let whole: HashSet<(&str, &str)> = listing
            .there
            .iter()
            .filter(|record| !record.place.is_passing())
            .map(|record| (record.place.epoch(), record.place.name()))
            .collect();
        let is_past = |record: &SegmentRecord| {
            record.place.is_passing() && whole.contains(&(record.place.epoch(), record.place.whole_name()))
        };
        // Put a moment ago, and not yet noted: the next run takes it with all that is said of it.
        let is_own = self.host().is_ok_and(|host| host.name == writer);
        let is_young = |record: &SegmentRecord| {
            let unnoted = record.plain == 0 && record.facts.is_null() && !record.place.is_passing();
            is_own && unnoted && (now - record.put).num_seconds() < YOUNG
        };
        let is_wanted =
            |record: &&SegmentRecord| !known.contains(&key(record)) && !is_past(record) && !is_young(record);
        let wanted: Vec<SegmentRecord> = listing.there.iter().filter(is_wanted).cloned().collect();
        let missing = listing.missing.iter().filter(|record| !known.contains(&key(record))).count() as u64;
        Ok((wanted, CopiedStream { missing, ..CopiedStream::default() }))
    }

    /// Copies segments of a writer.
    pub fn copy_segments(
        &self,
        copy: &mut Self,
        writer: &str,
        wanted: &[SegmentRecord],
        now: Moment,
        progress: &dyn Progress,
    ) -> Result<CopiedStream, Error> {
        let (own, mut done) = (copy.host()?.name.clone(), CopiedStream::default());
        for batch in wanted.chunks(BATCH) {
            if progress.cancelled() {
                return Err(Error::Cancelled);
            }
            let (from, to) = (&self.store, copy.store.appender());
            let (copied, result) = copy_batch(from, &to, (writer, &own), batch, progress);
            let mut records = Vec::new();
            for record in copied {
                (done.segments, done.bytes) = (done.segments + 1, done.bytes + record.stored);
                // Parts of a segment are never named, and of what was found by its name alone nothing is known that could be.
                if !record.place.is_passing() && (record.plain > 0 || !record.facts.is_null()) {
                    records.push(record.clone());
                }
            }
            copy.note_segments(&records)?;
            copy.commit_segments(now, progress)?;
            done.missing += result?;
        }
        Ok(done)
    }
}

/// Copies some segments at a time. Returns those that the copy has, and how many the first store has not, or why it ended early.
fn copy_batch<'r>(
    from: &Store,
    to: &Appender,
    (writer, own): (&str, &str),
    batch: &'r [SegmentRecord],
    progress: &dyn Progress,
) -> (Vec<&'r SegmentRecord>, Result<u64, Error>) {
    let (next, missing) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let ((done, copied), (failed, failures)) = (unbounded(), unbounded());
    let largest = batch.iter().map(|record| record.stored).max().unwrap_or(0).max(1);
    let threads = AT_A_TIME.min(batch.len()).min((BYTES_AT_A_TIME / largest).max(1) as usize);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let (done, failed, next, missing) = (done.clone(), failed.clone(), &next, &missing);
            scope.spawn(move || {
                while let Some(record) = batch.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if progress.cancelled() {
                        let _ = failed.send(Error::Cancelled);
                        return;
                    }
                    match copy_one(from, to, (writer, own), record) {
                        Ok(true) => {
                            progress.event(Event::Done { items: 1, bytes: record.stored });
                            let _ = done.send(record);
                        }
                        Ok(false) => drop(missing.fetch_add(1, Ordering::Relaxed)),
                        Err(e) => {
                            // The others need not begin another one.
                            next.store(batch.len(), Ordering::Relaxed);
                            let _ = failed.send(e);
                            return;
                        }
                    }
                }
            });
        }
    });
    drop((done, failed));
    let result = failures.try_recv().map_or_else(|_| Ok(missing.load(Ordering::Relaxed) as u64), Err);
    (copied.try_iter().collect(), result)
}

/// Copies a segment. False where the first store does not have it any more, or not whole.
fn copy_one(from: &Store, to: &Appender, (writer, own): (&str, &str), record: &SegmentRecord) -> Result<bool, Error> {
    use crate::store::Error as E;
    let place = record.place.key(&record.digest);
    let limit = limits::SEGMENT_MAX as u64 + limits::SEAL_OVERHEAD as u64 * 64;
    let sealed = match from.get(&format!("writers/{writer}/{place}"), limit) {
        Ok(sealed) if sealed.len() as u64 == record.stored => sealed,
        Ok(_) | Err(E::NotFound { .. } | E::Truncated { .. }) => return Ok(false),
        // This object, or the store?
        Err(e) => {
            return if from.size(DESCRIPTION).is_ok_and(|size| size.is_some()) { Ok(false) } else { Err(e.into()) };
        }
    };
    match to.create(&format!("writers/{own}/{place}"), &[sealed]) {
        Ok(_) => Ok(true),
        // Something else lies there: cut off, or put by somebody. It is named as missing, and nothing is overwritten.
        Err(E::Conflict { .. }) => Ok(false),
        Err(e) => Err(e.into()),
    }
}
