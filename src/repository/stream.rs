//! Streams: segments put one by one, each durable in one round trip, and read back.
//!
//! A segment is `age(zstd(bytes))`, one object. Invariants: nothing is overwritten; before a segment is acknowledged the store was
//! asked for another one of its name, and the index row is on this host's disk; bytes leave only after the keyed digest of
//! place and bytes matched. Not here: what the bytes mean, and which segments a restore needs.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;

use super::{Error, Repository, SyncReport};
use crate::catalog::{ChunkTables, Retired, RetiredObject};
use crate::model::{CommitLine, Digest, Moment, SegmentKey, SegmentPlace, SegmentRecord, limits};
use crate::progress::Progress;
use crate::seal::{ContentKey, FrameOpener, FrameSealer, Opener, Sealer};
use crate::store::Store;

/// Names, seals and puts segments. Cheap to clone; threads share it.
#[derive(Clone)]
pub struct SegmentWriter {
    store: Store,
    content: ContentKey,
    data: Arc<Sealer>,
    writer: String,
}

fn digest_of(content: &ContentKey, place: &SegmentPlace, plain: &[u8]) -> Digest {
    let mut hasher = content.hasher();
    hasher.update(&place.digest_prefix()).update(plain);
    Digest::new(*hasher.finalize().as_bytes())
}

impl SegmentWriter {
    /// The digest of a segment with these bytes.
    pub fn digest(&self, place: &SegmentPlace, plain: &[u8]) -> Digest {
        digest_of(&self.content, place, plain)
    }

    /// What one thread compresses and seals with.
    pub fn sealer(&self) -> Result<FrameSealer<'_>, Error> {
        let keys = |source| Error::Keys { what: "a segment".to_owned(), source };
        FrameSealer::of_segments(&self.data).map_err(keys)
    }

    /// Puts a segment; when this returns, the store has it. An object of the same name is the same segment.
    pub fn put(
        &self,
        place: SegmentPlace,
        plain: &[u8],
        facts: serde_json::Value,
        now: Moment,
    ) -> Result<SegmentRecord, Error> {
        self.put_with(&mut self.sealer()?, place, plain, facts, now)
    }

    /// The same with what a thread has already.
    pub fn put_with(
        &self,
        sealer: &mut FrameSealer<'_>,
        place: SegmentPlace,
        plain: &[u8],
        facts: serde_json::Value,
        now: Moment,
    ) -> Result<SegmentRecord, Error> {
        if plain.len() > limits::SEGMENT_MAX {
            let why = format!("it has {} bytes, more than a segment may have", plain.len());
            return Err(Error::BadObject { key: place.name().to_owned(), why });
        }
        let keys = |source| Error::Keys { what: "a segment".to_owned(), source };
        let digest = self.digest(&place, plain);
        let sealed = sealer.seal_frame(plain).map_err(keys)?;
        let stored = sealed.len() as u64;
        let key = format!("writers/{}/{}", self.writer, place.key(&digest));
        self.store.appender().create(&key, &[Bytes::from(sealed)])?;
        Ok(SegmentRecord { place, digest, plain: plain.len() as u64, stored, put: now, facts })
    }

    /// What the store holds under the names of these places, by name: one listing for each folder.
    pub fn look(&self, places: &[SegmentPlace]) -> Result<HashMap<SegmentPlace, Vec<(Digest, u64)>>, Error> {
        let mut folders: HashMap<String, &str> = HashMap::new();
        for place in places {
            let first = folders.entry(place.folder()).or_insert(place.name());
            *first = (*first).min(place.name());
        }
        let wanted: HashSet<&SegmentPlace> = places.iter().collect();
        let mut found: HashMap<SegmentPlace, Vec<(Digest, u64)>> = HashMap::new();
        let own = format!("writers/{}/", self.writer);
        for (folder, first) in folders {
            let folder = format!("{own}{folder}");
            for object in self.store.list(&folder, Some(&format!("{folder}/{first}-")))? {
                let parsed = object.key.strip_prefix(&own).and_then(SegmentPlace::parse_key);
                if let Some((place, digest)) = parsed.filter(|(place, _)| wanted.contains(place)) {
                    found.entry(place).or_default().push((digest, object.size));
                }
            }
        }
        Ok(found)
    }
}

/// Lists and opens the segments of one writer. Cheap to clone; threads share it. Needs an identity.
#[derive(Clone)]
pub struct SegmentReader {
    store: Store,
    content: ContentKey,
    opener: Arc<Opener>,
    writer: String,
    /// Of a writer whose log has ended: what counts.
    only: Option<Arc<HashSet<SegmentKey>>>,
}

impl SegmentReader {
    /// What the store holds in the folder of a place, from its name on. Facts are the index's, not the store's: there are none.
    pub fn list_from(&self, place: &SegmentPlace) -> Result<Vec<SegmentRecord>, Error> {
        let mut all = list_folder(&self.store, &self.writer, place)?;
        if let Some(only) = &self.only {
            all.retain(|record| only.contains(&SegmentKey(record.place.clone(), record.digest)));
        }
        Ok(all)
    }

    /// The plain bytes of a segment.
    pub fn read(&self, record: &SegmentRecord) -> Result<Vec<u8>, Error> {
        self.worker()?.read(record).map(<[u8]>::to_vec)
    }

    /// What one thread reads with.
    pub fn worker(&self) -> Result<SegmentWorker<'_>, Error> {
        let keys = |source| Error::Keys { what: "segments".to_owned(), source };
        let opener = FrameOpener::new(&self.opener).map_err(keys)?;
        Ok(SegmentWorker { reader: self, opener, sealed: Vec::new() })
    }
}

/// Reads segments one after another, into the same memory.
pub struct SegmentWorker<'r> {
    reader: &'r SegmentReader,
    opener: FrameOpener<'r>,
    sealed: Vec<u8>,
}

impl SegmentWorker<'_> {
    /// The plain bytes of a segment; they stay until the next one.
    pub fn read(&mut self, record: &SegmentRecord) -> Result<&[u8], Error> {
        let key = format!("writers/{}/{}", self.reader.writer, record.place.key(&record.digest));
        let bad = |why: String| Error::BadObject { key: key.clone(), why };
        let limit = limits::SEGMENT_MAX as u64 + limits::SEAL_OVERHEAD as u64 * 64;
        self.reader.store.get_into(&key, limit, &mut self.sealed)?;
        let plain = self.opener.open_limited(&self.sealed, limits::SEGMENT_MAX).map_err(|e| bad(e.to_string()))?;
        if digest_of(&self.reader.content, &record.place, plain) == record.digest {
            Ok(plain)
        } else {
            Err(bad("its bytes do not match its digest".to_owned()))
        }
    }
}

/// The segments in the folder of a place, from its name on.
fn list_folder(store: &Store, writer: &str, place: &SegmentPlace) -> Result<Vec<SegmentRecord>, Error> {
    let own = format!("writers/{writer}/");
    let folder = format!("{own}{}", place.folder());
    let listed = store.list(&folder, Some(&format!("{folder}/{}-", place.name())))?;
    let parse = |object: crate::store::Listed| {
        let (found, digest) = object.key.strip_prefix(&own).and_then(SegmentPlace::parse_key)?;
        let facts = serde_json::Value::Null;
        Some(SegmentRecord { place: found, digest, plain: 0, stored: object.size, put: object.received, facts })
    };
    Ok(listed.into_iter().filter_map(parse).collect())
}

/// The segments of a stream: what the store holds, with what the index says of each.
#[derive(Debug, Clone, Default)]
pub struct StreamListing {
    /// Segments that are there, by epoch and name. Those that were found by name alone have no facts.
    pub there: Vec<SegmentRecord>,
    /// Segments that the index names and the store does not hold.
    pub missing: Vec<SegmentRecord>,
    /// Segments that a prune has deleted, or is about to and has not said so yet.
    pub deleted: Vec<SegmentKey>,
}

/// The segments of a stream among what is retired or gone.
fn segments_of(all: Vec<Retired>, stream: &str) -> impl Iterator<Item = SegmentKey> {
    all.into_iter().filter_map(move |retired| match retired.object {
        RetiredObject::Segment(key) if key.0.stream() == stream => Some(key),
        _ => None,
    })
}

impl Repository {
    /// What lies in a stream of this host that its log does not count as a part of it: pieces of segments, and what came back after it
    /// was deleted. Each with its size and with when the store received it.
    pub fn list_leftovers(&mut self, stream: &str) -> Result<Vec<(SegmentKey, u64, Moment)>, Error> {
        let (own, row) = (format!("writers/{}/", self.host()?.name), self.host_row()?);
        let gone: HashSet<SegmentKey> = segments_of(self.catalog.deleted(row)?, stream).collect();
        let listed = self.store.list(&format!("{own}streams/{stream}"), None)?;
        let parse = |object: crate::store::Listed| {
            let (place, digest) = object.key.strip_prefix(&own).and_then(SegmentPlace::parse_key)?;
            let key = SegmentKey(place, digest);
            (key.0.is_passing() || gone.contains(&key)).then_some((key, object.size, object.received))
        };
        Ok(listed.into_iter().filter_map(parse).collect())
    }

    /// What puts segments for this host.
    pub fn segment_writer(&self) -> Result<SegmentWriter, Error> {
        self.check_standing()?;
        let host = self.host()?;
        Ok(SegmentWriter {
            store: self.store.clone(),
            content: self.content.clone(),
            data: Arc::clone(&host.data),
            writer: host.name.clone(),
        })
    }

    /// Remembers segments that the store has: on this host's disk when it returns, in a commit later.
    pub fn note_segments(&mut self, records: &[SegmentRecord]) -> Result<(), Error> {
        let name = self.host()?.name.clone();
        Ok(self.catalog.add_segments(&name, records)?)
    }

    /// Segments of this host that no commit names yet, oldest first.
    pub fn fresh_segments(&self) -> Result<Vec<SegmentRecord>, Error> {
        Ok(self.catalog.fresh_segments(&self.host()?.name)?)
    }

    /// Commits what is known of segments and not committed yet.
    pub fn commit_segments(&mut self, now: Moment, progress: &dyn Progress) -> Result<SyncReport, Error> {
        if self.fresh_segments()?.is_empty() {
            return Ok(SyncReport::default());
        }
        let (_, report) = self.commit(now, &ChunkTables::new(), progress, &mut |repository, _| {
            // Asked again behind the lock: another process may have committed them meanwhile.
            Ok(repository.fresh_segments()?.into_iter().map(CommitLine::Segment).collect())
        })?;
        Ok(report)
    }

    /// The streams of a writer, by the index and by the store.
    pub fn streams(&self, writer: &str) -> Result<Vec<String>, Error> {
        let mut names = self.store.folders(&format!("writers/{writer}/streams"))?;
        names.extend(self.catalog.streams(writer)?);
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// What is there of a stream: names from the store, which need no key, facts from the index.
    pub fn list_stream(&self, writer: &str, stream: &str) -> Result<StreamListing, Error> {
        let own = format!("writers/{writer}/");
        let mut there: HashMap<(SegmentPlace, Digest), (u64, Moment)> = HashMap::new();
        for object in self.store.list(&format!("{own}streams/{stream}"), None)? {
            match object.key.strip_prefix(&own).and_then(SegmentPlace::parse_key) {
                Some(segment) => drop(there.insert(segment, (object.size, object.received))),
                None => tracing::warn!(key = object.key, "an object in a stream that is no segment is left out"),
            }
        }
        let mut listing = StreamListing::default();
        let row = self.catalog.writers()?.into_iter().find(|(_, name)| name == writer).map(|(row, _)| row);
        let (mut retired, mut gone) = (HashSet::new(), HashSet::new());
        if let Some(row) = row {
            retired.extend(segments_of(self.catalog.retired(row)?, stream));
            gone.extend(segments_of(self.catalog.deleted(row)?, stream));
        }
        if let Some(only) = self.counted_segments(writer)? {
            there.retain(|(place, digest), _| only.contains(&SegmentKey(place.clone(), *digest)));
        }
        // What came back after it was deleted, because a write landed late, is none of the stream.
        there.retain(|(place, digest), _| !gone.contains(&SegmentKey(place.clone(), *digest)));
        for record in self.catalog.segments(writer, stream)? {
            let key = SegmentKey(record.place.clone(), record.digest);
            match there.remove(&(record.place.clone(), record.digest)) {
                Some((size, _)) if size == record.stored => listing.there.push(record),
                _ if record.place.is_passing() => {}
                // A prune that was killed before it could say that it is gone.
                None if retired.contains(&key) => listing.deleted.push(key),
                _ => listing.missing.push(record),
            }
        }
        listing.there.extend(there.into_iter().map(|((place, digest), (stored, put))| SegmentRecord {
            place,
            digest,
            plain: 0,
            stored,
            put,
            facts: serde_json::Value::Null,
        }));
        listing.deleted.extend(gone);
        listing.deleted.sort();
        listing.there.sort_by(|a, b| (&a.place, a.digest).cmp(&(&b.place, b.digest)));
        Ok(listing)
    }

    /// What the store holds under a place: one segment, none, or several where two servers pushed there.
    pub fn segments_in_store(&self, writer: &str, place: &SegmentPlace) -> Result<Vec<SegmentRecord>, Error> {
        let all = self.segments_from(writer, place)?;
        Ok(all.into_iter().filter(|record| record.place == *place).collect())
    }

    /// What the store holds in the folder of a place, from its name on: one listing.
    pub fn segments_from(&self, writer: &str, place: &SegmentPlace) -> Result<Vec<SegmentRecord>, Error> {
        let mut all = list_folder(&self.store, writer, place)?;
        if let Some(only) = self.counted_segments(writer)? {
            all.retain(|record| only.contains(&SegmentKey(record.place.clone(), record.digest)));
        }
        Ok(all)
    }

    /// What opens the segments of a writer; needs an identity.
    pub fn segment_reader(&self, writer: &str) -> Result<SegmentReader, Error> {
        Ok(SegmentReader {
            store: self.store.clone(),
            content: self.content.clone(),
            opener: Arc::clone(self.data_opener("reading a segment")?),
            writer: writer.to_owned(),
            only: self.counted_segments(writer)?.map(Arc::new),
        })
    }

    /// The plain bytes of a segment; needs an identity.
    pub fn read_segment(&self, writer: &str, record: &SegmentRecord) -> Result<Vec<u8>, Error> {
        self.segment_reader(writer)?.read(record)
    }
}
