//! Finding a frame again that is not where the catalog said: a prune has moved it since the log was read. The log is read again, by a
//! catalog connection of its own, and the frame's new place is looked up.
//!
//! Invariants: the log is read again at most once for each answer that the old one cannot give; what is found is as unproven as any
//! other place until its digest matched.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use super::host::HostFolder;
use super::layout::Description;
use super::{Error, Repository};
use crate::catalog::{Catalog, FrameRow, FrameState};
use crate::model::{Digest, PackId};
use crate::progress::Silent;
use crate::seal::{Opener, Secret};
use crate::store::Store;

/// What a second view of the repository is made from.
pub(super) struct Relocator {
    store: Store,
    description: Description,
    fingerprint: Digest,
    folder: HostFolder,
    catalog: PathBuf,
    secret: Secret,
    identities: Option<Arc<Opener>>,
    view: Mutex<View>,
}

/// The second view, and the packs for whose sake the log was read again.
#[derive(Default)]
struct View {
    repository: Option<Repository>,
    asked: HashSet<PackId>,
}

impl Relocator {
    pub fn new(repository: &Repository) -> Self {
        Self {
            store: repository.store.clone(),
            description: repository.description.clone(),
            fingerprint: repository.fingerprint,
            folder: repository.folder.clone(),
            catalog: repository.catalog.path().to_owned(),
            secret: repository.secret.clone(),
            identities: repository.identities.clone(),
            view: Mutex::default(),
        }
    }

    /// Where else a frame of a writer lies, if it does.
    pub fn find(&self, writer: &str, frame: &FrameRow) -> Result<Option<FrameRow>, Error> {
        let mut view = self.view.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let fresh = view.repository.is_none();
        if fresh {
            view.repository = Some(self.open()?);
        }
        // A pack that is simply lost costs one more reading of the log, not one for each of its frames.
        let mut asked = !view.asked.insert(frame.pack) || fresh;
        let Some(repository) = view.repository.as_mut() else { return Ok(None) };
        loop {
            let row = repository.catalog.writer(writer)?;
            let found = repository.catalog.find_frame_of(row, &frame.id)?;
            let elsewhere = found.filter(|found| {
                found.pack != frame.pack && found.state == FrameState::Good && found.plain == frame.plain
            });
            if elsewhere.is_some() || asked {
                return Ok(elsewhere);
            }
            repository.sync(&Silent)?;
            asked = true;
        }
    }

    fn open(&self) -> Result<Repository, Error> {
        let in_memory = self.catalog.as_os_str() == ":memory:";
        let catalog = if in_memory { Catalog::in_memory()? } else { Catalog::open(&self.catalog)? };
        let mut repository = Repository {
            store: self.store.clone(),
            description: self.description.clone(),
            fingerprint: self.fingerprint,
            catalog,
            catalog_lock: self.folder.catalog_lock()?,
            folder: self.folder.clone(),
            content: self.secret.content_key(),
            secret: self.secret.clone(),
            host: self.folder.read_keys()?.map(|keys| keys.open()).transpose()?,
            identities: self.identities.clone(),
            writers: HashMap::new(),
            opened: Arc::default(),
            newest_list: None,
            rulings: super::rulings::Rulings::default(),
            not_understood: HashMap::new(),
            horizon: None,
            hold: None,
        };
        repository.sync(&Silent)?;
        Ok(repository)
    }
}
