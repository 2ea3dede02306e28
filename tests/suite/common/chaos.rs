//! A store in bad weather, by seed: it fails, loses the answer after the write, tears, delays, lists stale, answers 503 in
//! storms, and cuts bodies off. What befalls a call is decided by the seed, the kind of the call and how many of its kind
//! came before, so that a seed brings the same weather back however threads take turns.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use super::chance::number;

/// How often what happens, in a thousand calls that it can happen to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Weather {
    /// The call fails and does nothing.
    pub fail: u64,
    /// A write takes effect; its answer is lost.
    pub lose: u64,
    /// A write leaves the first half of its object under the final name, and fails.
    pub tear: u64,
    /// The answer comes late.
    pub delay: u64,
    /// A new object is missing from the next listings; in a listing a removed one may still be.
    pub stale: u64,
    /// Four to twelve calls in a row are answered with 503.
    pub storm: u64,
    /// A body ends early, or breaks off with an error.
    pub short: u64,
}

/// A store with weather. Clones are the same store.
#[derive(Debug, Clone)]
pub struct Chaos(Arc<Sky>);

#[derive(Debug)]
struct Sky {
    inner: Arc<dyn ObjectStore>,
    seed: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    weather: Weather,
    counts: HashMap<String, u64>,
    storm: u64,
    hidden: HashMap<Path, u64>,
    ghosts: Vec<ObjectMeta>,
    torn: Vec<String>,
    happened: BTreeMap<&'static str, u64>,
}

/// What befalls a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Well,
    Fail,
    Lose,
    Tear,
    Short(u64),
}

fn broken(why: &str) -> Error {
    Error::Generic { store: "chaos", source: why.to_owned().into() }
}

/// Logs and packs are told apart: a seed decides for each by itself.
fn class(path: Option<&Path>) -> &'static str {
    let text = path.map_or("", AsRef::as_ref);
    ["log", "packs", "keys"].into_iter().find(|part| text.split('/').any(|p| p == *part)).unwrap_or("other")
}

impl Chaos {
    pub fn new(inner: Arc<dyn ObjectStore>, seed: u64) -> Self {
        Self(Arc::new(Sky { inner, seed, state: Mutex::default() }))
    }

    /// From now on the weather is this. Fair weather ends storms, and listings show what is there.
    pub fn set(&self, weather: Weather) {
        let mut state = self.0.state();
        state.weather = weather;
        if weather == Weather::default() {
            state.storm = 0;
            state.hidden.clear();
            state.ghosts.clear();
        }
    }

    /// Loses an object without a word: listings go on showing it until the weather is fair.
    pub async fn lose(&self, path: &Path) {
        let ghost = self.0.inner.head(path).await.unwrap();
        self.0.inner.delete(path).await.unwrap();
        self.0.state().ghosts.push(ghost);
    }

    /// Objects of which only the first half is there.
    pub fn torn(&self) -> Vec<String> {
        self.0.state().torn.clone()
    }

    /// How often what happened.
    pub fn happened(&self) -> BTreeMap<&'static str, u64> {
        self.0.state().happened.clone()
    }
}

impl Sky {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Decides what befalls a call, and waits where the answer is late.
    async fn fate(&self, verb: &str, path: Option<&Path>, writes: bool, bodies: bool) -> Fate {
        let (fate, pause) = self.decide(verb, path, writes, bodies);
        if let Some(pause) = pause {
            tokio::time::sleep(pause).await;
        }
        fate
    }

    fn decide(&self, verb: &str, path: Option<&Path>, writes: bool, bodies: bool) -> (Fate, Option<Duration>) {
        let mut state = self.state();
        let kind = format!("{verb} {}", class(path));
        let count = state.counts.entry(kind.clone()).or_default();
        *count += 1;
        let dice = number(self.seed, &kind, *count);
        // Independent thirds of one number: each kind of weather has dice of its own.
        let roll = |place: u32, often: u64| (dice >> (place * 10)) % 1024 < often * 1024 / 1000;
        let weather = state.weather;
        if state.storm == 0 && roll(0, weather.storm) {
            state.storm = 4 + dice % 9;
        }
        if state.storm > 0 {
            state.storm -= 1;
            *state.happened.entry("503").or_default() += 1;
            return (Fate::Fail, None);
        }
        let (name, fate) = match () {
            () if roll(1, weather.fail) => ("fail", Fate::Fail),
            () if writes && roll(2, weather.lose) => ("lose", Fate::Lose),
            () if writes && roll(3, weather.tear) => ("tear", Fate::Tear),
            () if bodies && roll(4, weather.short) => ("short", Fate::Short(dice)),
            () => ("well", Fate::Well),
        };
        *state.happened.entry(name).or_default() += 1;
        let late = roll(5, weather.delay);
        if late {
            *state.happened.entry("delay").or_default() += 1;
        }
        (fate, late.then(|| Duration::from_micros(dice % 3000)))
    }

    /// A new object may be missing from the next few listings.
    fn maybe_hide(&self, path: &Path) {
        let mut state = self.state();
        let count = state.counts.entry("hide".to_owned()).or_default();
        *count += 1;
        let dice = number(self.seed, "hide", *count);
        if dice % 1000 < state.weather.stale {
            state.hidden.insert(path.clone(), 1 + dice / 1000 % 4);
            *state.happened.entry("stale").or_default() += 1;
        }
    }

    /// Whether a listing leaves an object out; each listing that does brings its appearance nearer.
    fn hides(&self, path: &Path) -> bool {
        let mut state = self.state();
        let Some(left) = state.hidden.get_mut(path) else { return false };
        *left -= 1;
        if *left == 0 {
            state.hidden.remove(path);
        }
        true
    }

    async fn listed(&self, prefix: Option<&Path>, after: Option<&Path>) -> Vec<Result<ObjectMeta>> {
        let fate = self.fate("list", prefix, false, true).await;
        if fate == Fate::Fail {
            return vec![Err(broken("the listing failed"))];
        }
        let found = match after {
            Some(after) => self.inner.list_with_offset(prefix, after),
            None => self.inner.list(prefix),
        };
        let all: Vec<Result<ObjectMeta>> = found.collect().await;
        let mut all: Vec<_> = all.into_iter().filter(|o| !o.as_ref().is_ok_and(|o| self.hides(&o.location))).collect();
        let below = |ghost: &&ObjectMeta| prefix.is_none_or(|prefix| ghost.location.prefix_matches(prefix));
        all.extend(self.state().ghosts.iter().filter(below).cloned().map(Ok));
        if let Fate::Short(dice) = fate {
            // A page of the listing failed: what came before it came.
            all.truncate(dice as usize % (all.len() + 1));
            all.push(Err(broken("the listing broke off")));
        }
        all
    }
}

impl fmt::Display for Chaos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chaos({})", self.0.inner)
    }
}

#[async_trait]
impl ObjectStore for Chaos {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        match self.0.fate("put", Some(location), true, false).await {
            Fate::Fail => Err(broken("503 slow down")),
            Fate::Tear => {
                let whole: Vec<u8> = payload.iter().flat_map(|part| part.to_vec()).collect();
                let half = whole[..whole.len() / 2].to_vec();
                if self.0.inner.put_opts(location, half.into(), options).await.is_ok() {
                    self.0.state().torn.push(location.to_string());
                }
                Err(broken("the connection broke"))
            }
            fate => {
                let result = self.0.inner.put_opts(location, payload, options).await?;
                self.0.maybe_hide(location);
                if fate == Fate::Lose { Err(broken("the answer was lost")) } else { Ok(result) }
            }
        }
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(Error::NotImplemented { operation: "multipart".into(), implementer: "chaos".into() })
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let fate = self.0.fate("get", Some(location), false, !options.head).await;
        if fate == Fate::Fail {
            return Err(broken("503 slow down"));
        }
        let mut result = self.0.inner.get_opts(location, options).await?;
        if let Fate::Short(dice) = fate {
            let (meta, range, attributes) = (result.meta.clone(), result.range.clone(), result.attributes.clone());
            let body = result.bytes().await?;
            let cut = body.slice(..dice as usize % body.len().max(1));
            let mut parts = vec![Ok(cut)];
            if dice & (1 << 60) != 0 {
                parts.push(Err(broken("the body broke off")));
            }
            let payload = GetResultPayload::Stream(stream::iter(parts).boxed());
            result = GetResult { payload, meta, range, attributes, extensions: Default::default() };
        }
        Ok(result)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        if self.0.fate("get", Some(location), false, false).await == Fate::Fail {
            return Err(broken("503 slow down"));
        }
        self.0.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.0.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (sky, prefix) = (Arc::clone(&self.0), prefix.cloned());
        stream::once(async move { stream::iter(sky.listed(prefix.as_ref(), None).await) }).flatten().boxed()
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        let (sky, prefix, offset) = (Arc::clone(&self.0), prefix.cloned(), offset.clone());
        stream::once(async move { stream::iter(sky.listed(prefix.as_ref(), Some(&offset)).await) }).flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        if self.0.fate("list", prefix, false, false).await == Fate::Fail {
            return Err(broken("the listing failed"));
        }
        self.0.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.inner.copy_opts(from, to, options).await
    }
}
