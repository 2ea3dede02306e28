//! A snapshot of a bucket on its way back into one: each file an object under its path, with what the store had told of it.
//!
//! Invariants: nothing is deleted; an object that is there is replaced only where that was said. Entries that are no files become nothing:
//! a bucket has no directories.

use std::collections::BTreeSet;
use std::io::Read;

use crossbeam_channel::bounded;
use serde::Serialize;

use super::{Overwrite, Prepared, each_selected};
use crate::model::{Digest, Entry, Extent};
use crate::ops::Error;
use crate::progress::{Event, Progress};
use crate::repository::{ExtentReader, Repository};
use crate::source::told_of;
use crate::store::{Bucket, WriteError};

/// Objects that are fetched together at most, and bytes of them.
const BATCH: usize = 128;
const BATCH_BYTES: u64 = 32 << 20;
/// Objects that are written at a time.
const PARALLEL: usize = 8;

/// What a restore into a bucket did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct BucketReport {
    /// Objects that were written.
    pub written: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that were there and stayed.
    pub kept: u64,
    /// Entries that are no files and no directories: a bucket cannot hold them.
    pub left_out: u64,
    /// Objects that were read back and found right.
    pub verified: u64,
}

/// Refuses a bucket in which objects lie, unless it was said what happens to them. How many there are.
pub fn look_at_bucket(bucket: &Bucket, overwrite: Overwrite) -> Result<u64, Error> {
    let there = bucket.list().map_err(|e| Error::Source(e.into()))?.len() as u64;
    match overwrite {
        Overwrite::Refuse if there > 0 => Err(Error::BucketNotEmpty { url: bucket.label().to_owned(), objects: there }),
        _ => Ok(there),
    }
}

/// Carries a plan out, into a bucket.
pub fn restore_bucket(
    repository: &Repository,
    prepared: &Prepared,
    bucket: &Bucket,
    progress: &dyn Progress,
) -> Result<BucketReport, Error> {
    progress.event(Event::Stage("restoring"));
    progress.event(Event::Expect { items: prepared.plan.files, bytes: prepared.plan.bytes });
    let replace = matches!(prepared.options.overwrite, Overwrite::Always);
    let mut report = BucketReport::default();
    let mut batch = Batch { repository, prepared, bucket, replace, entries: Vec::new(), bytes: 0, progress };
    each_selected(repository, &prepared.snapshot, &prepared.options.selection, progress, &mut |entry| {
        if entry.content().is_none() {
            report.left_out += u64::from(!entry.is_dir());
            return Ok(());
        }
        batch.bytes += entry.size();
        batch.entries.push(entry);
        let is_full = batch.entries.len() >= BATCH || batch.bytes >= BATCH_BYTES;
        if is_full { batch.write(&mut report) } else { Ok(()) }
    })?;
    batch.write(&mut report)?;
    if prepared.options.verify {
        verify(repository, prepared, bucket, &mut report, progress)?;
    }
    Ok(report)
}

struct Batch<'b> {
    repository: &'b Repository,
    prepared: &'b Prepared,
    bucket: &'b Bucket,
    replace: bool,
    entries: Vec<Entry>,
    bytes: u64,
    progress: &'b dyn Progress,
}

impl Batch<'_> {
    /// Fetches in the order of the snapshot, and writes several objects at a time.
    fn write(&mut self, report: &mut BucketReport) -> Result<(), Error> {
        let entries = std::mem::take(&mut self.entries);
        let is_large = entries.iter().any(|entry| entry.size() > BATCH_BYTES);
        self.bytes = 0;
        let extents: Vec<Extent> =
            entries.iter().filter_map(Entry::content).flat_map(|content| content.extents.iter().copied()).collect();
        let mut bytes =
            ExtentReader::new(self.repository, self.prepared.snapshot.writer, "a restore", &extents, self.progress)?;
        let done = if is_large {
            // Of large ones the parts come one after another, from a reader that none of them fills.
            entries.iter().try_for_each(|entry| {
                let mut content = (&mut bytes).take(entry.size());
                let written = put(self.bucket, self.replace, entry, &mut content)?;
                // One that was there already was not read: the next one's bytes come behind its own.
                let drained = std::io::copy(&mut content, &mut std::io::sink());
                drained.map_err(|source| Error::Output { what: format!("`{}`", entry.path), source })?;
                self.tell(entry, written, report);
                Ok(())
            })
        } else {
            self.several(&entries, &mut bytes, report)
        };
        done.map_err(|e| bytes.take_failure().map_or(e, Error::from))
    }

    fn several(&self, entries: &[Entry], bytes: &mut dyn Read, report: &mut BucketReport) -> Result<(), Error> {
        let (jobs_in, jobs) = bounded::<(&Entry, Vec<u8>)>(PARALLEL);
        let (done_in, done) = bounded::<Result<(&Entry, bool), Error>>(entries.len());
        std::thread::scope(|scope| {
            for _ in 0..PARALLEL.min(entries.len()) {
                let (jobs, done_in) = (jobs.clone(), done_in.clone());
                let (bucket, replace) = (self.bucket, self.replace);
                scope.spawn(move || {
                    for (entry, content) in jobs {
                        let written = put(bucket, replace, entry, &mut content.as_slice());
                        let _ = done_in.send(written.map(|written| (entry, written)));
                    }
                });
            }
            drop((jobs, done_in));
            for entry in entries {
                let mut content = Vec::with_capacity(entry.size() as usize);
                let read = bytes.take(entry.size()).read_to_end(&mut content);
                read.map_err(|source| Error::Output { what: format!("`{}`", entry.path), source })?;
                if jobs_in.send((entry, content)).is_err() {
                    break;
                }
            }
            drop(jobs_in);
            for one in done {
                let (entry, written) = one?;
                self.tell(entry, written, report);
            }
            Ok(())
        })
    }

    fn tell(&self, entry: &Entry, written: bool, report: &mut BucketReport) {
        if written {
            report.written += 1;
            report.bytes += entry.size();
        } else {
            report.kept += 1;
        }
        self.progress.event(Event::Done { items: 1, bytes: entry.size() });
    }
}

/// The object's name: the path as it is, not as it is shown.
fn key_of(entry: &Entry) -> String {
    String::from_utf8_lossy(entry.path.as_bytes()).into_owned()
}

fn put(bucket: &Bucket, replace: bool, entry: &Entry, content: &mut dyn Read) -> Result<bool, Error> {
    let written = bucket.write(&key_of(entry), entry.size(), &told_of(entry), replace, content);
    written.map_err(|e| match e {
        WriteError::Store(e) => Error::Source(e.into()),
        WriteError::Content(source) => Error::Output { what: format!("`{}`", entry.path), source },
    })
}

/// Reads everything back and compares digests.
fn verify(
    repository: &Repository,
    prepared: &Prepared,
    bucket: &Bucket,
    report: &mut BucketReport,
    progress: &dyn Progress,
) -> Result<(), Error> {
    progress.event(Event::Stage("verifying"));
    let there = bucket.list().map_err(|e| Error::Source(e.into()))?;
    let there: std::collections::BTreeMap<String, _> = there.into_iter().map(|one| (one.key.clone(), one)).collect();
    let mut wrong: BTreeSet<String> = BTreeSet::new();
    each_selected(repository, &prepared.snapshot, &prepared.options.selection, progress, &mut |entry| {
        let Some(content) = entry.content() else { return Ok(()) };
        let key = key_of(&entry);
        let found = there.get(&key).and_then(|object| {
            let mut hasher = repository.content_key().hasher();
            hasher.update_reader(bucket.read(object).ok()?).ok()?;
            Some(Digest::new(*hasher.finalize().as_bytes()))
        });
        if found == Some(content.digest) {
            report.verified += 1;
        } else {
            wrong.insert(key);
        }
        Ok(())
    })?;
    match wrong.first() {
        None => Ok(()),
        Some(first) => {
            let (url, objects) = (bucket.label().to_owned(), wrong.len() as u64);
            Err(Error::BucketDiffers { url, objects, first: first.clone() })
        }
    }
}
