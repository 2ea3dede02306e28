//! A place of its own in a store, for proving what the store does: the one thing here that overwrites and deletes, and it
//! reaches nothing but its own prefix. What is asked of the store is asked plainly, so that the answer is the store's own
//! and not that of our remedies.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};

use super::error::{Failure, is_unsupported};
use super::{Error, Store};

/// The right to write, overwrite and delete below one prefix.
#[derive(Debug)]
pub struct Scratch {
    inside: Store,
    name: String,
}

/// How the store answered a request that it may refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tried {
    /// It did what was asked for.
    Done,
    /// It refused because an object is there.
    Exists,
    /// It does not know such requests, or does not allow them.
    Refused,
}

impl Store {
    /// A place below `name`, a single component that nothing else uses.
    pub fn scratch(&self, name: &str) -> Result<Scratch, Error> {
        let label = format!("{}/{name}", self.0.label.trim_end_matches('/'));
        let inside = Self::at(Arc::clone(&self.0.objects), self.path(name), &label, self.0.limits, None)?;
        Ok(Scratch { inside, name: name.to_owned() })
    }
}

impl Scratch {
    /// The place as a store of its own: lifeboat's own way of reading, listing and creating.
    pub fn store(&self) -> &Store {
        &self.inside
    }

    /// Its name below the store's root.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn objects(&self) -> &dyn ObjectStore {
        &*self.inside.0.objects
    }

    /// Asks once for a create-if-absent.
    pub fn create(&self, key: &str, body: &Bytes) -> Result<Tried, Error> {
        let path = self.inside.path(key);
        self.inside.call("store", key, body.len() as u64, || async {
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            match self.objects().put_opts(&path, PutPayload::from_bytes(body.clone()), options).await {
                Ok(_) => Ok(Tried::Done),
                Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                    Ok(Tried::Exists)
                }
                Err(error) if is_unsupported(&error) => Ok(Tried::Refused),
                Err(error) => Err(error.into()),
            }
        })
    }

    /// Writes, whatever lies there.
    pub fn overwrite(&self, key: &str, body: &Bytes) -> Result<(), Error> {
        let path = self.inside.path(key);
        self.inside.call("store", key, body.len() as u64, || async {
            self.objects().put(&path, PutPayload::from_bytes(body.clone())).await?;
            Ok(())
        })
    }

    /// Begins to write and hangs up after a while, as a host that loses its power. True where it was done before that.
    pub fn cut_off(&self, key: &str, body: &Bytes, after: Duration) -> Result<bool, Error> {
        let path = self.inside.path(key);
        self.inside.call("store", key, 0, || async {
            let put = self.objects().put(&path, PutPayload::from_bytes(body.clone()));
            match tokio::time::timeout(after, put).await {
                Ok(done) => Ok(done.map(|_| true)?),
                Err(_) => Ok(false),
            }
        })
    }

    /// Writes below a name that is taken as it is, and says which names a listing and a reading of it give back.
    pub fn name_survives(&self, folder: &str, name: &str) -> Result<bool, Error> {
        let below = self.inside.path(folder);
        let whole = format!("{below}/{name}");
        let Ok(path) = Path::parse(&whole) else { return Ok(false) };
        let body = Bytes::from(name.as_bytes().to_vec());
        self.inside.call("store", name, 0, || async {
            self.objects().put(&path, PutPayload::from_bytes(body.clone())).await?;
            let read = self.objects().get(&path).await?.bytes().await?;
            let listed = self.objects().list_with_delimiter(Some(&below)).await?.objects;
            Ok(read == body && listed.iter().any(|object| object.location == path))
        })
    }

    /// Deletes one object; what is not there is deleted already.
    pub fn delete(&self, key: &str) -> Result<Tried, Error> {
        let path = self.inside.path(key);
        let outcome = self.inside.call("delete", key, 0, || async {
            match self.objects().delete(&path).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(Tried::Done),
                Err(error) if is_unsupported(&error) => Ok(Tried::Refused),
                Err(error) => Err(Failure::from(error)),
            }
        });
        match outcome {
            Err(Error::Denied { .. }) => Ok(Tried::Refused),
            other => other,
        }
    }

    /// Deletes everything here, and looks whether it is gone. Returns how many objects are left.
    pub fn clear(&self) -> Result<u64, Error> {
        let root = &self.inside.0.root;
        let list =
            || async { Ok(self.objects().list(Some(root)).map_ok(|o| o.location).try_collect::<Vec<_>>().await?) };
        let mut left = Vec::new();
        // More than once: what was cut off may have landed late.
        for _ in 0..3 {
            left = self.inside.call("list", "", 64 << 20, list)?;
            if left.is_empty() {
                break;
            }
            let all = left.clone();
            self.inside.call("delete", "", 64 << 20, || async {
                let each = futures_util::stream::iter(all.clone().into_iter().map(Ok)).boxed();
                // One that is refused or gone already shows in the next listing.
                self.objects().delete_stream(each).for_each(|_| async {}).await;
                Ok(())
            })?;
        }
        if !left.is_empty() {
            left = self.inside.call("list", "", 64 << 20, list)?;
        }
        Ok(left.len() as u64)
    }
}
