//! Stores that break one guarantee each, over memory: what servers do that are not quite what they say. The faulty store
//! beside this one stops working; these go on, wrongly.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// What is wrong with the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defect {
    /// A bit of each body that is read is another.
    FlipsABit,
    /// What is not there is said to be forbidden, as S3 does without the right to list.
    HidesWhatIsMissing,
    /// Who looked for an object in vain does not find it at the next look either.
    RemembersMisses,
    /// A new object is not in the listing that comes next.
    ListsLate,
    /// Listings end after 50 objects.
    CutsListings,
    /// Ranges begin a byte too late.
    ShiftsRanges,
    /// Bodies above 64 KiB lose their end, as behind a proxy with a limit.
    CutsLargeBodies,
    /// The first half of a body is seen before the whole, where an object may be replaced.
    ShowsHalves,
    /// Names lose what is beyond 80 characters.
    CutsNames,
    /// Upper and lower case are the same.
    FoldsCase,
    /// Conditions on puts are ignored.
    IgnoresConditions,
    /// Conditions on puts are looked at before the puts that are under way have ended.
    ForgetsConditionsInARace,
    /// Conditional puts are refused as not implemented.
    RefusesConditions,
    /// The first refusal of a create is a lie: nothing is there.
    RefusesOnce,
    /// What was deleted stays in the next listing.
    ListsGhosts,
    /// Nothing can be deleted.
    RefusesDeletes,
    /// Its clock is an hour ahead.
    RunsFast,
}

/// A store with a defect.
#[derive(Debug)]
pub struct Broken {
    inner: Arc<dyn ObjectStore>,
    defect: Defect,
    /// Names that the defect concerns for a moment.
    marked: Mutex<BTreeSet<Path>>,
    looks: AtomicU64,
    looked: AtomicU64,
}

fn generic(text: &str) -> Error {
    Error::Generic { store: "broken", source: text.into() }
}

impl Broken {
    pub fn new(inner: Arc<dyn ObjectStore>, defect: Defect) -> Arc<Self> {
        Arc::new(Self { inner, defect, marked: Mutex::default(), looks: AtomicU64::new(0), looked: AtomicU64::new(0) })
    }

    fn is(&self, defect: Defect) -> bool {
        self.defect == defect
    }

    fn mark(&self, path: &Path) -> bool {
        self.marked.lock().unwrap().insert(path.clone())
    }

    fn unmark(&self, path: &Path) -> bool {
        self.marked.lock().unwrap().remove(path)
    }

    /// The name under which it is kept.
    fn kept(&self, path: &Path) -> Path {
        match self.defect {
            Defect::CutsNames => Path::from_iter(path.parts().map(|part| {
                let name = part.as_ref();
                name[..name.len().min(40)].to_owned()
            })),
            Defect::FoldsCase => Path::parse(path.as_ref().to_lowercase()).unwrap(),
            _ => path.clone(),
        }
    }

    fn seen(&self, mut meta: ObjectMeta) -> ObjectMeta {
        if self.is(Defect::RunsFast) {
            meta.last_modified += chrono::TimeDelta::hours(1);
        }
        meta
    }

    /// Puts the first half, lets somebody look, and only then puts the whole.
    async fn put_half(&self, path: &Path, payload: &PutPayload) -> Result<()> {
        let whole: Vec<u8> = payload.iter().flat_map(|part| part.to_vec()).collect();
        self.inner.put(path, whole[..whole.len() / 2].to_vec().into()).await?;
        let before = self.looks.load(Ordering::SeqCst);
        // Bounded: nobody may be looking.
        let somebody = async {
            while self.looks.load(Ordering::SeqCst) < before + 2 {
                tokio::task::yield_now().await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(2), somebody).await;
        Ok(())
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Broken({:?})", self.defect)
    }
}

#[async_trait]
impl ObjectStore for Broken {
    async fn put_opts(&self, location: &Path, payload: PutPayload, mut options: PutOptions) -> Result<PutResult> {
        let path = self.kept(location);
        let creates = options.mode == PutMode::Create;
        match self.defect {
            Defect::RefusesConditions if creates => {
                let (operation, implementer) = ("If-None-Match".into(), "broken".into());
                return Err(Error::NotImplemented { operation, implementer });
            }
            Defect::RefusesOnce if creates && self.mark(&path) => {
                let source = "a request for this object is under way".into();
                return Err(Error::AlreadyExists { path: path.to_string(), source });
            }
            Defect::ForgetsConditionsInARace if creates => {
                if self.inner.head(&path).await.is_ok() {
                    let source = "it is there".into();
                    return Err(Error::AlreadyExists { path: path.to_string(), source });
                }
                // Until a second one has looked too, but not for ever: there may be none.
                self.looked.fetch_add(1, Ordering::SeqCst);
                let second = async {
                    while self.looked.load(Ordering::SeqCst) < 2 {
                        tokio::task::yield_now().await;
                    }
                };
                let _ = tokio::time::timeout(Duration::from_millis(5), second).await;
                self.looked.fetch_sub(1, Ordering::SeqCst);
                options.mode = PutMode::Overwrite;
            }
            Defect::IgnoresConditions => options.mode = PutMode::Overwrite,
            Defect::ShowsHalves if !creates && payload.content_length() > 1 << 20 => {
                self.put_half(&path, &payload).await?
            }
            Defect::ListsLate => {
                self.mark(&path);
            }
            _ => {}
        }
        let cut = self.is(Defect::CutsLargeBodies) && payload.content_length() > 64 << 10;
        let payload = match cut {
            true => payload.iter().next().unwrap().slice(..64 << 10).into(),
            false => payload,
        };
        self.inner.put_opts(&path, payload, options).await
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(generic("no multipart"))
    }

    async fn get_opts(&self, location: &Path, mut options: GetOptions) -> Result<GetResult> {
        self.looks.fetch_add(1, Ordering::SeqCst);
        let (path, head) = (self.kept(location), options.head);
        if self.is(Defect::RemembersMisses) && self.unmark(&path) {
            return Err(Error::NotFound { path: path.to_string(), source: "remembered".into() });
        }
        let range = options.range.clone();
        if let (Defect::ShiftsRanges, Some(GetRange::Bounded(range))) = (self.defect, &range)
            && range.end - range.start < 100
        {
            options.range = Some(GetRange::Bounded(range.start + 1..range.end + 1));
        }
        let mut result = match self.inner.get_opts(&path, options).await {
            Err(Error::NotFound { path, source }) if self.is(Defect::HidesWhatIsMissing) => {
                return Err(Error::PermissionDenied { path, source });
            }
            Err(error @ Error::NotFound { .. }) if self.is(Defect::RemembersMisses) => {
                self.mark(&path);
                return Err(error);
            }
            other => other?,
        };
        result.meta = self.seen(result.meta);
        if self.is(Defect::FlipsABit) && !head {
            let GetResult { meta, range, attributes, .. } = &result;
            let (meta, range, attributes) = (meta.clone(), range.clone(), attributes.clone());
            let mut bytes = result.bytes().await?.to_vec();
            if let Some(last) = bytes.last_mut() {
                *last ^= 1;
            }
            let stream = futures_util::stream::iter([Ok(bytes.into())]).boxed();
            let mut flipped = self.inner.get_opts(&path, GetOptions::default()).await?;
            flipped.payload = GetResultPayload::Stream(stream);
            (flipped.meta, flipped.range, flipped.attributes) = (meta, range, attributes);
            return Ok(flipped);
        }
        Ok(result)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        if self.is(Defect::RefusesDeletes) {
            let source = || "deletes are not allowed".into();
            let refuse = move |path: Result<Path>| {
                path.and_then(|path| Err(Error::PermissionDenied { path: path.to_string(), source: source() }))
            };
            return locations.map(refuse).boxed();
        }
        let kept: Vec<_> = taken(locations).into_iter().map(|path| path.map(|p| self.kept(&p))).collect();
        if self.is(Defect::ListsGhosts) {
            self.marked.lock().unwrap().extend(kept.iter().flatten().cloned());
        }
        self.inner.delete_stream(futures_util::stream::iter(kept).boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.looks.fetch_add(1, Ordering::SeqCst);
        let all = taken(self.inner.list(prefix.map(|p| self.kept(p)).as_ref()));
        let mut all: Vec<Result<ObjectMeta>> = all.into_iter().map(|meta| meta.map(|meta| self.seen(meta))).collect();
        match self.defect {
            Defect::CutsListings => all.truncate(50),
            Defect::ListsLate => all.retain(|meta| !meta.as_ref().is_ok_and(|meta| self.unmark(&meta.location))),
            Defect::ListsGhosts => {
                let inside = |path: &&Path| prefix.is_none_or(|prefix| path.prefix_matches(prefix));
                let ghosts: Vec<Path> = self.marked.lock().unwrap().iter().filter(inside).cloned().collect();
                for location in ghosts {
                    self.unmark(&location);
                    let last_modified = chrono::Utc::now();
                    all.push(Ok(ObjectMeta { location, last_modified, size: 10, e_tag: None, version: None }));
                }
            }
            _ => {}
        }
        futures_util::stream::iter(all).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix.map(|p| self.kept(p)).as_ref()).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// Memory answers at once: its streams are taken whole.
fn taken<T: Send + 'static>(mut stream: BoxStream<'static, T>) -> Vec<T> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let mut all = Vec::new();
    while let std::task::Poll::Ready(Some(item)) = stream.poll_next_unpin(&mut context) {
        all.push(item);
    }
    all
}
