//! A store whose clock is set by hand, that counts what is deleted, and that may forbid it.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

#[derive(Debug)]
struct State {
    now: DateTime<Utc>,
    times: HashMap<Path, DateTime<Utc>>,
    deleted: Vec<String>,
    /// Keys that contain one of these cannot be deleted.
    locked: Vec<String>,
    requests: u64,
    /// What was put, in its order.
    order: Vec<Path>,
}

/// The store.
#[derive(Debug, Clone)]
pub struct Clocked {
    inner: Arc<InMemory>,
    state: Arc<Mutex<State>>,
    /// What listings do not show to whoever holds this handle.
    hidden: Arc<HashSet<Path>>,
}

impl Clocked {
    pub fn new() -> Self {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let state = State {
            now,
            times: HashMap::new(),
            deleted: Vec::new(),
            locked: Vec::new(),
            requests: 0,
            order: Vec::new(),
        };
        Self { inner: Arc::new(InMemory::new()), state: Arc::new(Mutex::new(state)), hidden: Arc::default() }
    }

    /// Another store with the same content and the same time.
    pub fn fork(&self) -> Self {
        let state = self.state.lock().unwrap();
        let copy = State {
            now: state.now,
            times: state.times.clone(),
            deleted: Vec::new(),
            locked: state.locked.clone(),
            requests: 0,
            order: state.order.clone(),
        };
        Self { inner: Arc::new(self.inner.fork()), state: Arc::new(Mutex::new(copy)), hidden: Arc::default() }
    }

    /// The same store as one sees it whose listings lag behind: of the last so many objects it does not show those that are picked.
    pub fn lagging(&self, last: usize, pick: &mut dyn FnMut() -> bool) -> Self {
        let state = self.state.lock().unwrap();
        let hidden = state.order.iter().rev().take(last).filter(|_| pick()).cloned().collect();
        Self { inner: Arc::clone(&self.inner), state: Arc::clone(&self.state), hidden: Arc::new(hidden) }
    }

    pub fn advance(&self, hours: i64) {
        self.state.lock().unwrap().now += TimeDelta::hours(hours);
    }

    /// What was deleted since the last question, by key.
    pub fn take_deleted(&self) -> Vec<String> {
        let mut all = std::mem::take(&mut self.state.lock().unwrap().deleted);
        all.sort();
        all
    }

    /// Requests since the last question.
    pub fn take_requests(&self) -> u64 {
        std::mem::take(&mut self.state.lock().unwrap().requests)
    }

    /// From now on keys that contain this cannot be deleted; nothing unlocks all.
    pub fn lock(&self, part: Option<&str>) {
        self.state.lock().unwrap().locked = part.map(str::to_owned).into_iter().collect();
    }

    /// Puts an object there, as somebody else does.
    pub fn put_there(&self, key: &str, body: Bytes) {
        super::block_on(self.put_opts(&Path::from(key), body.into(), PutOptions::default())).unwrap();
    }

    pub fn remove(&self, key: &str) -> Bytes {
        super::block_on(async {
            let body = self.inner.get(&Path::from(key)).await.unwrap().bytes().await.unwrap();
            self.inner.delete(&Path::from(key)).await.unwrap();
            body
        })
    }

    /// All keys that contain a part.
    pub fn keys(&self, part: &str) -> Vec<String> {
        let all = super::block_on(self.inner.list(None).collect::<Vec<_>>());
        let mut keys: Vec<String> = all.into_iter().map(|meta| meta.unwrap().location.to_string()).collect();
        keys.retain(|key| key.contains(part));
        keys.sort();
        keys
    }

    fn dated(&self, mut meta: ObjectMeta) -> ObjectMeta {
        if let Some(at) = self.state.lock().unwrap().times.get(&meta.location) {
            meta.last_modified = *at;
        }
        meta
    }

    fn shown(&self, listed: BoxStream<'static, Result<ObjectMeta>>) -> BoxStream<'static, Result<ObjectMeta>> {
        let this = self.clone();
        let shown = listed.filter_map(move |meta| {
            let shown = meta.map(|meta| (!this.hidden.contains(&meta.location)).then(|| this.dated(meta))).transpose();
            std::future::ready(shown)
        });
        shown.boxed()
    }

    fn count(&self) {
        self.state.lock().unwrap().requests += 1;
    }
}

impl fmt::Display for Clocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clocked")
    }
}

#[async_trait]
impl ObjectStore for Clocked {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.count();
        // Before it is there: who sees it may set the clock at once.
        let now = self.state.lock().unwrap().now;
        let is_new = self.inner.head(location).await.is_err();
        if is_new {
            let mut state = self.state.lock().unwrap();
            state.times.insert(location.clone(), now);
            state.order.push(location.clone());
        }
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(Error::NotImplemented { operation: "multipart".into(), implementer: "clocked".into() })
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.count();
        let mut result = self.inner.get_opts(location, options).await?;
        result.meta = self.dated(result.meta);
        Ok(result)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.count();
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        let delete = move |location: Result<Path>| {
            let this = this.clone();
            async move {
                let location = location?;
                this.count();
                let is_locked = this.state.lock().unwrap().locked.iter().any(|part| location.as_ref().contains(part));
                if is_locked {
                    let source = "the object is locked".into();
                    return Err(Error::PermissionDenied { path: location.to_string(), source });
                }
                this.inner.delete(&location).await?;
                this.state.lock().unwrap().deleted.push(location.to_string());
                Ok(location)
            }
        };
        locations.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.count();
        self.shown(self.inner.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.count();
        self.shown(self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.count();
        let mut result = self.inner.list_with_delimiter(prefix).await?;
        result.objects.retain(|meta| !self.hidden.contains(&meta.location));
        result.objects = result.objects.into_iter().map(|meta| self.dated(meta)).collect();
        Ok(result)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
