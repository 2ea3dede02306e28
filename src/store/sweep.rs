//! The one door through which something that others stored goes away. It is for `repository::sweep` alone, which decides what may go;
//! `tests/suite/prune.rs` keeps it so.
//!
//! Invariants: it reaches nothing but packs and segments of one writer; what is not there any more is deleted already; what the store
//! forbids is an answer, not a failure. Not here: what may be deleted, and when.

use std::path::{Path, PathBuf};

use object_store::ObjectStoreExt;

use super::error::{Failure, is_unsupported};
use super::{Error, Store};
use crate::model::Moment;

/// The right to delete packs and segments of one writer.
#[derive(Debug, Clone)]
pub struct Sweeper {
    store: Store,
    writer: String,
}

/// How the store answered.
#[derive(Debug)]
pub enum Swept {
    /// It is gone.
    Gone,
    /// The store does not let it go: it is locked, or these credentials may not delete.
    Refused(Error),
    /// The store did not answer as it should.
    Failed(Error),
}

impl Store {
    /// The right to delete what a prune has retired of a writer.
    pub fn sweeper(&self, writer: &str) -> Sweeper {
        Sweeper { store: self.clone(), writer: writer.to_owned() }
    }
}

impl Sweeper {
    /// Deletes an object. A key that is none of the writer's packs and segments is refused unasked.
    pub fn delete(&self, key: &str) -> Swept {
        let own = format!("writers/{}/", self.writer);
        let below = key.strip_prefix(&own).unwrap_or_default();
        if !(below.starts_with("packs/") || below.starts_with("streams/")) || below.contains("..") {
            let (store, key) = (self.store.label().to_owned(), key.to_owned());
            return Swept::Failed(Error::NotFound { store, key });
        }
        let path = self.store.path(key);
        let outcome = self.store.call("delete", key, 0, || async {
            match self.store.0.objects.delete(&path).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(true),
                Err(error) if is_unsupported(&error) => Ok(false),
                Err(error) => Err(Failure::from(error)),
            }
        });
        self.store.0.traffic.deletes.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        match outcome {
            Ok(true) => Swept::Gone,
            Ok(false) => {
                let source = Box::new(object_store::Error::NotImplemented {
                    operation: "delete".to_owned(),
                    implementer: self.store.label().to_owned(),
                });
                let (store, key) = (self.store.label().to_owned(), key.to_owned());
                Swept::Refused(Error::Denied { verb: "delete", store, key, source })
            }
            Err(e @ Error::Denied { .. }) => Swept::Refused(e),
            Err(e) => Swept::Failed(e),
        }
    }

    /// On a disk: removes files that writes of this writer left which did not end, as far as the disk says that they are older than a
    /// moment. They are no objects. Returns which.
    pub fn clear_unfinished(&self, before: Moment) -> Vec<PathBuf> {
        let own: PathBuf = ["writers", &self.writer].iter().collect();
        let is_own = |path: &Path| {
            self.store
                .0
                .local
                .as_ref()
                .is_some_and(|root| path.strip_prefix(root.path()).is_ok_and(|p| p.starts_with(&own)))
        };
        let is_old = |path: &Path| {
            let modified = std::fs::symlink_metadata(path).and_then(|meta| meta.modified());
            modified.is_ok_and(|at| Moment::from(at) < before)
        };
        let mut gone = self.store.unfinished();
        gone.retain(|path| is_own(path) && is_old(path) && std::fs::remove_file(path).is_ok());
        gone
    }
}
