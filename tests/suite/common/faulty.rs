//! A store that stops working: at its n-th operation, before or after it took effect, and for ever from then on. What a
//! crash, a pulled cable or a lost answer look like from below.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// When the operation that fails fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fails {
    /// Before it took effect.
    Before,
    /// After it took effect: the answer is lost.
    After,
    /// Before it took effect, but a write is on its way and lands when [`Faulty::land`] says so.
    Late,
}

/// A store that stops.
#[derive(Debug)]
pub struct Faulty {
    inner: Arc<dyn ObjectStore>,
    operations: Arc<AtomicU64>,
    stop_at: u64,
    fails: Fails,
    on_its_way: Mutex<Option<(Path, PutPayload)>>,
}

impl Faulty {
    /// Stops at operation `stop_at`, counted from 1; zero never stops.
    pub fn new(inner: Arc<dyn ObjectStore>, stop_at: u64, fails: Fails) -> Arc<Self> {
        Arc::new(Self { inner, operations: Arc::default(), stop_at, fails, on_its_way: Mutex::default() })
    }

    pub fn operations(&self) -> u64 {
        self.operations.load(Ordering::SeqCst)
    }

    /// The write that was late takes effect; its name, if there was one.
    pub fn land(&self) -> Option<String> {
        let (path, payload) = self.on_its_way.lock().unwrap().take()?;
        super::block_on(self.inner.put_opts(&path, payload, PutMode::Create.into())).unwrap();
        Some(path.to_string())
    }

    fn error() -> Error {
        Error::Generic { store: "faulty", source: "the cable was pulled".into() }
    }

    /// Counts an operation: whether it takes effect, and whether its answer arrives.
    fn count(&self) -> (bool, bool) {
        count(&self.operations, self.stop_at, self.fails)
    }

    fn answer<T>(&self, arrives: bool, result: Result<T>) -> Result<T> {
        if arrives { result } else { Err(Self::error()) }
    }
}

/// Counts an operation: whether it takes effect, and whether its answer arrives.
fn count(operations: &AtomicU64, stop_at: u64, fails: Fails) -> (bool, bool) {
    let number = operations.fetch_add(1, Ordering::SeqCst) + 1;
    if stop_at == 0 || number < stop_at { (true, true) } else { (number == stop_at && fails == Fails::After, false) }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Faulty({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let (works, arrives) = self.count();
        if !works {
            if self.fails == Fails::Late && self.operations() == self.stop_at {
                *self.on_its_way.lock().unwrap() = Some((location.clone(), payload));
            }
            return Err(Self::error());
        }
        let result = self.inner.put_opts(location, payload, options).await;
        self.answer(arrives, result)
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(Error::NotImplemented { operation: "multipart".into(), implementer: "faulty".into() })
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let (works, arrives) = self.count();
        if !works {
            return Err(Self::error());
        }
        let result = self.inner.get_opts(location, options).await;
        self.answer(arrives, result)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let (works, arrives) = self.count();
        if !works {
            return Err(Self::error());
        }
        let result = self.inner.get_ranges(location, ranges).await;
        self.answer(arrives, result)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (operations, stop_at, fails) = (Arc::clone(&self.operations), self.stop_at, self.fails);
        let inner = Arc::clone(&self.inner);
        let delete = move |location: Result<Path>| {
            let (operations, inner) = (Arc::clone(&operations), Arc::clone(&inner));
            async move {
                let location = location?;
                let (works, arrives) = count(&operations, stop_at, fails);
                if works {
                    inner.delete(&location).await?;
                }
                if arrives { Ok(location) } else { Err(Self::error()) }
            }
        };
        locations.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (_, arrives) = self.count();
        if arrives { self.inner.list(prefix) } else { futures_util::stream::iter([Err(Self::error())]).boxed() }
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        let (_, arrives) = self.count();
        if arrives {
            self.inner.list_with_offset(prefix, offset)
        } else {
            futures_util::stream::iter([Err(Self::error())]).boxed()
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let (_, arrives) = self.count();
        let result = self.inner.list_with_delimiter(prefix).await;
        self.answer(arrives, result)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
