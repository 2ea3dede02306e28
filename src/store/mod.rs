//! object_store behind our keys: blocking calls with deadlines, retries, bounded concurrency and rate limits.
//!
//! The seam is `object_store`'s own trait: tests wrap that, we do not invent a second one. Reading and writing are
//! different types: [`Store`] reads, [`Appender`] creates; what they reach is never overwritten or deleted. Only
//! [`Scratch`], which reaches nothing but a prefix of its own, may do that, and [`Sweeper`], which is for a prune alone, deletes. Invariants: no call without a deadline; a
//! directory that is no longer the one that was opened takes and answers nothing; a retry sends the same bytes; no object is read beyond the size that the caller allows. A create
//! that lost its answer finds its own object when it retries: names hold digests, so what lies there under the same
//! name and length is the same object. Not here: what the bytes mean.

mod as_of;
mod bucket;
mod error;
mod open;
mod rate;
mod root;
mod scratch;
mod sweep;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use object_store::path::Path;
use object_store::{
    GetOptions, GetRange, GetResult, GetResultPayload, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
};
use tokio::runtime::Runtime;

use crate::model::Moment;
pub use bucket::{Bucket, Object, ObjectReader, Told, WriteError};
pub use error::Error;
use error::{Failure, is_unsupported, worth_a_retry};
pub use open::{Credentials, Location, open_url, parse_url};
pub use rate::Rate;
use root::Root;
pub use scratch::{Scratch, Tried};
pub use sweep::{Sweeper, Swept};

/// An object as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name, below the repository's root.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// When the store received it, by the store's clock.
    pub received: Moment,
}

/// What a create found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// The object is new.
    New,
    /// It was there already, with the same length.
    AlreadyThere,
}

/// How often and how patiently.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Tries of one call at most.
    pub tries: u32,
    /// Pause after the first failure; doubled after each further one, at most 20 s.
    pub pause: Duration,
    /// Deadline of a small request; one with a body gets a second more for each 64 KiB.
    pub deadline: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { tries: 6, pause: Duration::from_millis(200), deadline: Duration::from_secs(60) }
    }
}

/// Requests and bytes since the store was opened: what tests assert on and reports print.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Objects created.
    pub puts: AtomicU64,
    /// Bodies read.
    pub gets: AtomicU64,
    /// Listings.
    pub lists: AtomicU64,
    /// Objects that were asked to be deleted.
    pub deletes: AtomicU64,
    /// Bytes sent.
    pub sent: AtomicU64,
    /// Bytes received.
    pub received: AtomicU64,
}

/// Everything under one URL, for reading. Cheap to clone.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    objects: Arc<dyn ObjectStore>,
    root: Path,
    label: String,
    runtime: Arc<Runtime>,
    permits: tokio::sync::Semaphore,
    patience: Patience,
    upload: Option<Rate>,
    download: Option<Rate>,
    no_conditions: AtomicBool,
    limits: Limits,
    traffic: Traffic,
    local: Option<Root>,
}

/// How a store is used.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// Requests at a time at most; zero means 16.
    pub concurrency: usize,
    /// Bytes a second to the store at most.
    pub upload: Option<u64>,
    /// Bytes a second from the store at most.
    pub download: Option<u64>,
    /// Looks whether an object is there, instead of asking the store to create it only where it is not: for servers
    /// that get such requests wrong.
    pub look_first: bool,
    /// Retries and deadlines.
    pub patience: Patience,
    /// Tries of the client itself, within one of ours.
    pub client_retries: usize,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({})", self.0.label)
    }
}

impl Store {
    /// A store over any implementation; `root` is the prefix of all keys, `label` is what messages call it.
    pub fn new(objects: Arc<dyn ObjectStore>, root: &str, label: &str, limits: Limits) -> Result<Self, Error> {
        Self::at(objects, Path::from(root), label, limits, None)
    }

    fn at(
        objects: Arc<dyn ObjectStore>,
        root: Path,
        label: &str,
        limits: Limits,
        local: Option<Root>,
    ) -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.map_err(|e| Error::Open { url: label.to_owned(), source: Box::new(e) })?;
        let concurrency = if limits.concurrency == 0 { 16 } else { limits.concurrency };
        Ok(Self(Arc::new(Inner {
            objects,
            root,
            label: label.to_owned(),
            runtime: Arc::new(runtime),
            permits: tokio::sync::Semaphore::new(concurrency),
            patience: limits.patience,
            upload: limits.upload.map(Rate::new),
            download: limits.download.map(Rate::new),
            no_conditions: AtomicBool::new(limits.look_first),
            limits,
            traffic: Traffic::default(),
            local,
        })))
    }

    /// On a disk: files that writes left which did not end. They are no objects, and no listing shows them.
    pub fn unfinished(&self) -> Vec<std::path::PathBuf> {
        self.0.local.as_ref().map_or_else(Vec::new, |root| open::unfinished(root.path()))
    }

    /// On a disk: whatever directory stands at its path now is taken for the store, as after a disk was mounted again. The caller
    /// compares what lies there, or calls [`Store::disown`].
    pub fn look_again(&self) {
        if let Some(root) = &self.0.local {
            root.look_again();
        }
    }

    /// On a disk: what stands at its path is another store; every call fails from now on.
    pub fn disown(&self) {
        if let Some(root) = &self.0.local {
            root.disown();
        }
    }

    /// What messages call it.
    pub fn label(&self) -> &str {
        &self.0.label
    }

    /// Requests and bytes so far.
    pub fn traffic(&self) -> &Traffic {
        &self.0.traffic
    }

    /// The right to create objects.
    pub fn appender(&self) -> Appender {
        Appender(self.clone())
    }

    fn path(&self, key: &str) -> Path {
        let key = Path::from(key);
        Path::from_iter(self.0.root.parts().chain(key.parts()))
    }

    fn key_of(&self, path: &Path) -> String {
        let root = self.0.root.as_ref();
        let full = path.as_ref();
        full.strip_prefix(root).unwrap_or(full).trim_start_matches('/').to_owned()
    }

    /// A whole object of at most `limit` bytes.
    pub fn get(&self, key: &str, limit: u64) -> Result<Bytes, Error> {
        let mut body = Vec::new();
        self.fetch(key, None, limit, &mut body)?;
        Ok(body.into())
    }

    /// The same, into a buffer that was used before: what it held is gone, whatever happens.
    pub fn get_into(&self, key: &str, limit: u64, body: &mut Vec<u8>) -> Result<(), Error> {
        self.fetch(key, None, limit, body)
    }

    /// A range of an object; fewer bytes than asked for is an error.
    pub fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, Error> {
        let mut body = Vec::new();
        self.get_range_into(key, range, &mut body)?;
        Ok(body.into())
    }

    /// The same, into a buffer that was used before.
    pub fn get_range_into(&self, key: &str, range: Range<u64>, body: &mut Vec<u8>) -> Result<(), Error> {
        let length = range.end.saturating_sub(range.start);
        self.fetch(key, Some(range), length, body)
    }

    fn fetch(&self, key: &str, range: Option<Range<u64>>, limit: u64, body: &mut Vec<u8>) -> Result<(), Error> {
        let path = self.path(key);
        let spare = std::cell::RefCell::new(std::mem::take(body));
        let read = self.call("read", key, range.as_ref().map_or(limit.min(32 << 20), |_| limit), || async {
            let options = GetOptions { range: range.clone().map(GetRange::Bounded), ..GetOptions::default() };
            let result = self.0.objects.get_opts(&path, options).await?;
            let expected = result.range.end.saturating_sub(result.range.start);
            if expected > limit {
                return Err(Failure::Long { size: expected, limit });
            }
            let wanted = range.as_ref().map_or(expected, |_| limit);
            if range.as_ref().is_some_and(|range| result.meta.size < range.end) {
                return Err(Failure::Ends { got: expected, expected: wanted });
            }
            let body = read_body(result, spare.take(), limit).await?;
            let got = body.len() as u64;
            if got == wanted { Ok(body) } else { Err(Failure::Short { got, expected: wanted }) }
        });
        *body = match (read, range) {
            // A range that begins beyond the end is refused, in every store by other words: the size says what it was.
            (Err(e @ Error::Unreachable { .. }), Some(range)) => return Err(self.cut_off(key, &range).unwrap_or(e)),
            (read, _) => read?,
        };
        self.0.traffic.gets.fetch_add(1, Ordering::Relaxed);
        self.0.traffic.received.fetch_add(body.len() as u64, Ordering::Relaxed);
        if let Some(rate) = &self.0.download {
            rate.spend(body.len() as u64);
        }
        Ok(())
    }

    /// The object ends before the range does.
    fn cut_off(&self, key: &str, range: &Range<u64>) -> Option<Error> {
        let size = self.size(key).ok().flatten().filter(|size| *size < range.end)?;
        let (store, expected) = (self.0.label.clone(), range.end.saturating_sub(range.start));
        Some(Error::Truncated { store, key: key.to_owned(), got: size.saturating_sub(range.start), expected })
    }

    /// The size of an object, if it is there.
    pub fn size(&self, key: &str) -> Result<Option<u64>, Error> {
        let path = self.path(key);
        match self.call("read", key, 0, || async { Ok(self.0.objects.head(&path).await?) }) {
            Ok(meta) => Ok(Some(meta.size)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Every object below `prefix` whose name sorts after `after`, in no particular order.
    pub fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<Listed>, Error> {
        let (path, after) = (self.path(prefix), after.map(|key| self.path(key)));
        self.0.traffic.lists.fetch_add(1, Ordering::Relaxed);
        self.call("list", prefix, 64 << 20, || async {
            let mut stream = match &after {
                Some(after) => self.0.objects.list_with_offset(Some(&path), after),
                None => self.0.objects.list(Some(&path)),
            };
            let mut all = Vec::new();
            while let Some(object) = stream.next().await {
                let object = object?;
                // Not every store starts after the offset by itself.
                if after.as_ref().is_none_or(|after| object.location > *after) {
                    let key = self.key_of(&object.location);
                    all.push(Listed { key, size: object.size, received: object.last_modified });
                }
            }
            Ok(all)
        })
    }

    /// The names of the folders right below `prefix`.
    pub fn folders(&self, prefix: &str) -> Result<Vec<String>, Error> {
        let path = self.path(prefix);
        self.0.traffic.lists.fetch_add(1, Ordering::Relaxed);
        let found = self.call("list", prefix, 0, || async {
            Ok(self.0.objects.list_with_delimiter(Some(&path)).await?.common_prefixes)
        });
        let mut names: Vec<String> = found?.iter().filter_map(|path| path.filename()).map(str::to_owned).collect();
        names.sort();
        Ok(names)
    }

    /// The keys of the objects right below `prefix`.
    pub fn files(&self, prefix: &str) -> Result<Vec<String>, Error> {
        let path = self.path(prefix);
        self.0.traffic.lists.fetch_add(1, Ordering::Relaxed);
        let found = self
            .call("list", prefix, 0, || async { Ok(self.0.objects.list_with_delimiter(Some(&path)).await?.objects) });
        Ok(found?.iter().map(|object| self.key_of(&object.location)).collect())
    }

    fn call<T, F>(&self, verb: &'static str, key: &str, bytes: u64, attempt: impl Fn() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let patience = self.0.patience;
        let deadline = patience.deadline + Duration::from_secs(bytes >> 16);
        let mut tries = 0;
        // Before, so that nothing is made in what stands there now; and after, so that nothing is believed of it.
        let check = || match &self.0.local {
            Some(root) if !root.is_there() => {
                Err(Error::Gone { store: self.0.label.clone(), verb, key: key.to_owned() })
            }
            _ => Ok(()),
        };
        loop {
            tries += 1;
            check()?;
            let outcome = self.0.runtime.block_on(async {
                // The semaphore is never closed; waiting for it is not the store's fault and has no deadline of its own.
                let _permit = self.0.permits.acquire().await;
                match tokio::time::timeout(deadline, attempt()).await {
                    Ok(result) => result,
                    Err(_) => Err(Failure::Late),
                }
            });
            check()?;
            let failure = match outcome {
                Ok(value) => return Ok(value),
                Err(failure) => failure,
            };
            if tries >= patience.tries || !worth_a_retry(&failure) {
                return Err(self.give_up(verb, key, tries, failure));
            }
            tracing::debug!(verb, key, tries, "trying again");
            let pause = patience.pause.saturating_mul(1 << (tries - 1).min(7)).min(Duration::from_secs(20));
            // Half fixed, half by chance: many clients that failed together do not come back together.
            let chance = f64::from(getrandom::u32().unwrap_or(0)) / f64::from(u32::MAX);
            std::thread::sleep(pause.mul_f64(0.5 + 0.5 * chance));
        }
    }

    fn give_up(&self, verb: &'static str, key: &str, tries: u32, failure: Failure) -> Error {
        let (store, key) = (self.0.label.clone(), key.to_owned());
        match failure {
            Failure::Store(object_store::Error::NotFound { .. }) => Error::NotFound { store, key },
            Failure::Store(
                source @ (object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. }),
            ) => Error::Denied { verb, store, key, source: Box::new(source) },
            Failure::Store(source) | Failure::Contested(source) => {
                Error::Unreachable { verb, store, key, tries, source: Box::new(source) }
            }
            Failure::Late => Error::Deadline { verb, store, key, tries },
            Failure::Short { got, expected } | Failure::Ends { got, expected } => {
                Error::Truncated { store, key, got, expected }
            }
            Failure::Long { size, limit } => Error::TooLarge { store, key, size, limit },
        }
    }
}

/// The right to create objects in a store. It cannot overwrite and it cannot delete.
#[derive(Debug, Clone)]
pub struct Appender(Store);

impl Appender {
    /// Creates an object whose name holds the digest of its bytes.
    pub fn create(&self, key: &str, parts: &[Bytes]) -> Result<Created, Error> {
        let inner = &self.0.0;
        let size = parts.iter().map(|part| part.len() as u64).sum::<u64>();
        if let Some(rate) = &inner.upload {
            rate.spend(size);
        }
        let created = if inner.no_conditions.load(Ordering::Relaxed) {
            self.create_plainly(key, parts, size)
        } else {
            match self.put(key, parts, size, PutMode::Create) {
                Err(Error::Unreachable { source, .. }) if is_unsupported(&source) => {
                    inner.no_conditions.store(true, Ordering::Relaxed);
                    self.create_plainly(key, parts, size)
                }
                other => other,
            }
        }?;
        inner.traffic.puts.fetch_add(1, Ordering::Relaxed);
        inner.traffic.sent.fetch_add(size, Ordering::Relaxed);
        Ok(created)
    }

    /// For stores without conditional writes: look first. The name holds the digest, so a race writes the same bytes.
    fn create_plainly(&self, key: &str, parts: &[Bytes], size: u64) -> Result<Created, Error> {
        match self.0.size(key)? {
            None => self.put(key, parts, size, PutMode::Overwrite),
            Some(there) if there == size => Ok(Created::AlreadyThere),
            Some(_) => Err(Error::Conflict { store: self.0.0.label.clone(), key: key.to_owned() }),
        }
    }

    fn put(&self, key: &str, parts: &[Bytes], size: u64, mode: PutMode) -> Result<Created, Error> {
        let path = self.0.path(key);
        let objects = &self.0.0.objects;
        let outcome = self.0.call("store", key, size, || {
            let payload = PutPayload::from_iter(parts.iter().cloned());
            let options = PutOptions { mode: mode.clone(), ..PutOptions::default() };
            let path = path.clone();
            async move {
                match objects.put_opts(&path, payload, options).await {
                    Ok(_) => Ok(None),
                    Err(e @ (object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. })) => {
                        match objects.head(&path).await {
                            Ok(there) => Ok(Some(there.size)),
                            // Refused, and yet there is nothing: another try of ours is still on its way.
                            Err(object_store::Error::NotFound { .. }) => Err(Failure::Contested(e)),
                            Err(e) => Err(e.into()),
                        }
                    }
                    Err(e) => Err(e.into()),
                }
            }
        });
        match outcome? {
            None => Ok(Created::New),
            Some(there) if there == size => Ok(Created::AlreadyThere),
            Some(_) => Err(Error::Conflict { store: self.0.0.label.clone(), key: key.to_owned() }),
        }
    }
}

/// The bytes of an answer, into a buffer. A file is read in one go: by parts, as object_store streams it, costs more than
/// reading it.
async fn read_body(result: GetResult, mut body: Vec<u8>, limit: u64) -> Result<Vec<u8>, Failure> {
    use std::io::{Read, Seek, SeekFrom};
    let (start, expected) = (result.range.start, result.range.end.saturating_sub(result.range.start));
    body.clear();
    body.reserve(expected as usize);
    match result.payload {
        GetResultPayload::File(mut file, path) => {
            let read = move || {
                file.seek(SeekFrom::Start(start))?;
                file.take(expected).read_to_end(&mut body)?;
                Ok(body)
            };
            let failed = |source: Box<dyn std::error::Error + Send + Sync>| {
                tracing::debug!(path = %path.display(), %source, "could not be read");
                Failure::Store(object_store::Error::Generic { store: "local", source })
            };
            let read: std::io::Result<Vec<u8>> =
                tokio::task::spawn_blocking(read).await.map_err(|e| failed(Box::new(e)))?;
            read.map_err(|e| failed(Box::new(e)))
        }
        GetResultPayload::Stream(mut parts) => {
            while let Some(part) = parts.next().await {
                body.extend_from_slice(&part?);
                if body.len() as u64 > limit {
                    return Err(Failure::Long { size: body.len() as u64, limit });
                }
            }
            Ok(body)
        }
    }
}
