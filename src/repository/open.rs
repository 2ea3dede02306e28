//! Opening a repository: description, fingerprint, keys, catalog, logs.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::host::{HostFolder, HostWriter};
use super::init::{Admission, parse_secret};
use super::layout::{DESCRIPTION, Description, ORIGIN, WriterDescription, WriterSecret};
use super::problem::{Problem, SyncReport};
use super::{Error, init};
use crate::catalog::{Catalog, WriterRow};
use crate::chunk::{Cutter, GearTable};
use crate::model::{Digest, limits};
use crate::pack::{Directory, Owner};
use crate::progress::{Event, Progress};
use crate::seal::{ContentKey, Identities, Opener, Secret, VerifyingKey};
use crate::store::{self, Store};

/// The keys that a person or the configuration gives.
#[derive(Default)]
pub struct Keys {
    /// What opens data.
    pub identities: Identities,
    /// The fingerprint that the configuration or an identity file pins.
    pub fingerprints: Vec<String>,
}

/// How a repository is opened.
pub struct OpenOptions<'a> {
    /// The state directory of this host.
    pub state: &'a Path,
    /// Another place for the catalog.
    pub catalog: Option<PathBuf>,
    /// Keys at hand.
    pub keys: Keys,
    /// Whether to read what logs say beyond the catalog. A backup reads at least its own.
    pub sync: bool,
    /// The writer for which this host acts as its keeper, in place of acting as itself.
    pub keeper_of: Option<&'a str>,
}

/// An open repository.
pub struct Repository {
    pub(super) store: Store,
    pub(super) description: Description,
    pub(super) fingerprint: Digest,
    pub(super) catalog: Catalog,
    pub(super) folder: HostFolder,
    pub(super) catalog_lock: super::Lock,
    pub(super) secret: Secret,
    pub(super) content: ContentKey,
    pub(super) host: Option<HostWriter>,
    pub(super) identities: Option<Arc<Opener>>,
    pub(super) writers: HashMap<String, WriterDescription>,
    /// Lists of recipients of which a frame has opened.
    pub(super) opened: Arc<std::sync::Mutex<std::collections::HashSet<Digest>>>,
    /// The newest signed list of recipients, once it was asked for.
    pub(super) newest_list: Option<Digest>,
    /// What counts of each writer.
    pub(super) rulings: super::rulings::Rulings,
    /// Of each writer a commit that a newer program made, and that program.
    pub(super) not_understood: HashMap<String, (String, String)>,
    /// The highest row of a commit in the catalog when the present run began.
    pub(super) horizon: Option<i64>,
    /// Set where this host acts as the keeper of another writer.
    pub(super) hold: Option<super::keeping::Hold>,
}

/// Reads `lifeboat.json` and its digest.
pub(super) fn read_description(store: &Store) -> Result<(Description, Digest), Error> {
    let text = match store.get(DESCRIPTION, limits::SMALL_MAX as u64) {
        Ok(text) => text,
        Err(store::Error::NotFound { .. }) => return Err(Error::NoRepository(store.label().to_owned())),
        Err(e) => return Err(e.into()),
    };
    let description = Description::parse(&text, store.label())?;
    Ok((description, Digest::new(*blake3::hash(&text).as_bytes())))
}

impl Repository {
    /// Opens the repository of a store. Warnings and problems of the logs go to `progress`; an identity that does not fit
    /// is an error.
    pub fn open(store: Store, options: OpenOptions<'_>, progress: &dyn Progress) -> Result<(Self, SyncReport), Error> {
        let (description, fingerprint) = read_description(&store)?;
        let folder = HostFolder::open(options.state, &description.repository)?;
        let host = folder.read_keys()?.map(|keys| keys.open()).transpose()?;
        let pins = &options.keys.fingerprints;
        let origin = check_fingerprint(&store, fingerprint, host.as_ref(), pins, progress)?;
        let identities = match options.keys.identities {
            none if none.is_empty() => None,
            some => Some(Arc::new(Opener::new(some))),
        };
        let secret = find_secret(&store, &description, host.as_ref(), identities.as_deref())?;
        if origin.is_some_and(|origin| origin != secret.commitment()) {
            return Err(not_pinned(&store, fingerprint, pins));
        }
        let (host, folder, hold) = match options.keeper_of {
            None => (host, folder, None),
            Some(writer) => super::keeping::act_for(writer, host, &folder, &store)?,
        };
        let catalog_lock = folder.catalog_lock()?;
        let catalog = match &options.catalog {
            // A keeper has one for each of its writers.
            Some(path) if hold.is_none() => Catalog::open(path)?,
            _ => Catalog::open(&folder.catalog())?,
        };
        let content = secret.content_key();
        let mut repository = Self {
            store,
            description,
            fingerprint,
            catalog,
            folder,
            catalog_lock,
            secret,
            content,
            host,
            identities,
            writers: HashMap::new(),
            opened: Arc::default(),
            newest_list: None,
            rulings: super::rulings::Rulings::default(),
            not_understood: HashMap::new(),
            horizon: None,
            hold,
        };
        repository.claim_catalog()?;
        let report = if options.sync { repository.sync_obeying(progress)? } else { SyncReport::default() };
        Ok((repository, report))
    }

    /// Reads the logs. Where a new ruling takes away what the catalog has taken over, the catalog is read anew.
    fn sync_obeying(&mut self, progress: &dyn Progress) -> Result<SyncReport, Error> {
        let report = self.sync(progress)?;
        let too_much = |problem: &Problem| matches!(problem, Problem::StillCounted { .. });
        if !report.problems.iter().any(too_much) {
            return Ok(report);
        }
        progress.event(Event::Warning("a writer's log was ended or given to another host: the catalog is read anew"));
        match self.rebuild_catalog(progress) {
            Err(Error::CatalogInUse) => Ok(report),
            read => read,
        }
    }

    /// Makes this host a writer of the store's repository, with an identity.
    pub fn join(
        store: &Store,
        identities: Identities,
        pins: &[String],
        options: &init::InitOptions<'_>,
    ) -> Result<init::Made, Error> {
        let (description, fingerprint) = read_description(store)?;
        check_origin(store, &description, fingerprint, pins)?;
        init::admit(store, &description, fingerprint, &Opener::new(identities), options)
    }

    /// Makes keys for this host and returns what somebody with an identity must admit. The second value is the fingerprint
    /// that was pinned, to be compared by a person.
    pub fn request(
        store: &Store,
        pins: &[String],
        options: &init::InitOptions<'_>,
    ) -> Result<(init::Request, Digest), Error> {
        let (description, fingerprint) = read_description(store)?;
        // Nothing can be opened here that would prove whose copy it is: its own fingerprint must be pinned.
        if check_pins(store, fingerprint, pins)?.is_some() {
            return Err(not_pinned(store, fingerprint, pins));
        }
        Ok((init::request(store, &description, fingerprint, options)?, fingerprint))
    }

    /// Admits a host that asked.
    pub fn admit(store: &Store, identities: Identities, pins: &[String], request: &init::Request) -> Result<(), Error> {
        let (description, fingerprint) = read_description(store)?;
        check_origin(store, &description, fingerprint, pins)?;
        if request.repository != description.repository {
            let why = "it asks for another repository".to_owned();
            return Err(Error::BadObject { key: "the request".to_owned(), why });
        }
        let admission = Admission::open(store, &description, &Opener::new(identities))?;
        init::admit_request(store, &admission, request)
    }

    /// A catalog of another repository would find packs that are not here.
    fn claim_catalog(&mut self) -> Result<(), Error> {
        let ours = self.fingerprint.to_string();
        match self.catalog.fact("repository")? {
            Some(found) if found == ours => Ok(()),
            Some(_) => Err(Error::BadObject {
                key: self.catalog.path().display().to_string(),
                why: "this catalog belongs to another repository".to_owned(),
            }),
            None => Ok(self.catalog.set_fact("repository", &ours)?),
        }
    }

    /// Whether the store still holds this repository: for who runs for days. A disk that was unmounted leaves a directory
    /// behind, which would take what is put there.
    pub fn check_there(&self) -> Result<(), Error> {
        // A disk that was mounted again is the same store under another identity.
        self.store.look_again();
        let checked = match read_description(&self.store) {
            Ok((_, found)) if found == self.fingerprint => return Ok(()),
            Ok((_, found)) => Err(Error::Fingerprint {
                store: self.store.label().to_owned(),
                found: found.to_string(),
                pinned: self.fingerprint.to_string(),
                by: "when it was opened".to_owned(),
            }),
            Err(e) => Err(e),
        };
        self.store.disown();
        checked
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }
    /// The catalog.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }
    /// The catalog, to record what was found.
    pub fn catalog_mut(&mut self) -> &mut Catalog {
        &mut self.catalog
    }
    /// What `lifeboat.json` says.
    pub fn description(&self) -> &Description {
        &self.description
    }
    /// The digest of `lifeboat.json`.
    pub fn fingerprint(&self) -> Digest {
        self.fingerprint
    }
    /// The host's folder.
    pub fn folder(&self) -> &HostFolder {
        &self.folder
    }
    /// This host as a writer.
    pub fn host(&self) -> Result<&HostWriter, Error> {
        self.host.as_ref().ok_or_else(|| Error::NotAWriter(self.store.label().to_owned()))
    }
    /// Refuses to seal where the configuration names other recipients than this host pinned: an option that cannot be
    /// honoured is an error.
    pub fn check_recipients(&self, given: &[String]) -> Result<(), Error> {
        if given.is_empty() || init::same_set(given, &self.host()?.recipients) {
            Ok(())
        } else {
            Err(Error::OtherRecipients)
        }
    }
    /// Whether an identity is at hand.
    pub fn can_read(&self) -> bool {
        self.identities.is_some()
    }
    /// The list of recipients as the store has it now, signed by the admission key.
    pub fn current_recipients(&self) -> Result<(Digest, super::RecipientsList), Error> {
        init::current_recipients(&self.store, &self.description)
    }
    /// The key that names content.
    pub fn content_key(&self) -> &ContentKey {
        &self.content
    }
    /// Cuts as this repository cuts.
    pub fn cutter(&self) -> Cutter {
        Cutter::new(GearTable::from_bytes(&self.secret.gear_table()), &self.description.chunking)
    }
    /// The catalog's row of this host.
    pub fn host_row(&mut self) -> Result<WriterRow, Error> {
        let name = self.host()?.name.clone();
        Ok(self.catalog.writer(&name)?)
    }

    /// Openers for commits and directories of a writer: identities, and the host's own key for its own log.
    pub(super) fn log_openers(&self, writer: &str) -> Vec<&Opener> {
        let own = self.host.as_ref().filter(|host| host.name == writer).map(|host| &host.opener);
        own.into_iter().chain(self.identities.as_deref()).collect()
    }

    /// Opens data frames; only with an identity.
    pub(super) fn data_opener(&self, what: &'static str) -> Result<&Arc<Opener>, Error> {
        self.identities.as_ref().ok_or(Error::NeedsIdentity(what))
    }

    /// The description of a writer, checked against the admission key.
    pub fn writer_description(&mut self, name: &str) -> Result<WriterDescription, Error> {
        if let Some(known) = self.writers.get(name) {
            return Ok(known.clone());
        }
        let key = format!("writers/{name}/writer.json");
        let fact = format!("description of writer {name}");
        let (text, fresh) = match self.catalog.fact(&fact)?.filter(|text| !text.is_empty()) {
            Some(text) => (text.into_bytes(), false),
            None => (self.store.get(&key, limits::SMALL_MAX as u64)?.to_vec(), true),
        };
        let found = WriterDescription::parse(&text, &key, name, &self.description)?;
        if fresh {
            self.catalog.set_fact(&fact, &String::from_utf8_lossy(&text))?;
        }
        self.writers.insert(name.to_owned(), found.clone());
        Ok(found)
    }

    /// Reads and checks the directory of a pack.
    pub fn directory(
        &mut self,
        writer: &str,
        pack: &crate::model::PackId,
        at: u64,
        length: u64,
    ) -> Result<Directory, Error> {
        let key = crate::catalog::pack_key(writer, pack);
        if length > limits::DIRECTORY_MAX as u64 {
            return Err(Error::BadObject { key, why: "its directory is larger than the format allows".to_owned() });
        }
        let sealed = self.store.get_range(&key, at..at + length)?;
        self.parse_directory(writer, pack, &sealed, at)
    }

    pub(super) fn parse_directory(
        &mut self,
        writer: &str,
        pack: &crate::model::PackId,
        sealed: &[u8],
        at: u64,
    ) -> Result<Directory, Error> {
        let keys: Vec<_> = self.standing(writer)?.signers().into_iter().rev().map(|(key, _)| key).collect();
        self.parse_directory_of(writer, pack, sealed, at, &keys)
    }

    /// The same where only some of the keys that ever signed for this writer are believed.
    pub(super) fn parse_directory_of(
        &mut self,
        writer: &str,
        pack: &crate::model::PackId,
        sealed: &[u8],
        at: u64,
        keys: &[VerifyingKey],
    ) -> Result<Directory, Error> {
        let owner = Owner { repository: self.description.repository, writer };
        let mut last = Error::NeedsIdentity("the directory of another writer's pack");
        for opener in self.log_openers(writer) {
            match Directory::parse(sealed, at, owner, keys, opener) {
                Ok(directory) => return Ok(directory),
                Err(source) => last = Error::Pack { pack: pack.to_string(), source },
            }
        }
        match self.handed_over_directory(writer, pack)? {
            Some(text) => {
                let bad = |source| Error::Pack { pack: pack.to_string(), source };
                Directory::check(&text, at, owner, keys).map_err(bad)
            }
            None => Err(last),
        }
    }
}

/// Whether a fingerprint is pinned. A copy passes whose origin is: the answer is then the origin's commitment, which the copy's secret must
/// match, for nobody else can know it. A thief of one of the repository's hosts does: who pins the copy itself is safe from them too.
fn check_pins(store: &Store, found: Digest, pins: &[String]) -> Result<Option<Digest>, Error> {
    if pins.is_empty() || pins.contains(&found.to_string()) {
        return Ok(None);
    }
    let text = match store.get(ORIGIN, limits::SMALL_MAX as u64) {
        Ok(text) => text,
        Err(store::Error::NotFound { .. } | store::Error::TooLarge { .. } | store::Error::Truncated { .. }) => {
            return Err(not_pinned(store, found, pins));
        }
        Err(e) => return Err(e.into()),
    };
    // A line each: of a copy of a copy the first repository's, then the one's between.
    let is_pinned = |line: &&[u8]| pins.contains(&Digest::new(*blake3::hash(line).as_bytes()).to_string());
    let Some(origin) = text.split_inclusive(|byte| *byte == b'\n').find(is_pinned) else {
        return Err(not_pinned(store, found, pins));
    };
    Ok(Some(Description::parse(origin, store.label())?.secret_commitment))
}

/// The same where an identity opens the secret next, and refuses another than the description commits to.
fn check_origin(store: &Store, description: &Description, found: Digest, pins: &[String]) -> Result<(), Error> {
    match check_pins(store, found, pins)? {
        Some(origin) if origin != description.secret_commitment => Err(not_pinned(store, found, pins)),
        _ => Ok(()),
    }
}

fn not_pinned(store: &Store, found: Digest, pins: &[String]) -> Error {
    let by = "in the configuration or in the identity file".to_owned();
    let pinned = pins.first().cloned().unwrap_or_default();
    Error::Fingerprint { store: store.label().to_owned(), found: found.to_string(), pinned, by }
}

fn check_fingerprint(
    store: &Store,
    found: Digest,
    host: Option<&HostWriter>,
    pins: &[String],
    progress: &dyn Progress,
) -> Result<Option<Digest>, Error> {
    let text = found.to_string();
    // The host's pin cannot differ while the repository id is the same, unless somebody copied the id: that is the attack.
    if let Some(host) = host.filter(|host| host.fingerprint != found) {
        let (pinned, by) = (host.fingerprint.to_string(), "by this host's key file".to_owned());
        return Err(Error::Fingerprint { store: store.label().to_owned(), found: text, pinned, by });
    }
    let origin = check_pins(store, found, pins)?;
    if host.is_none() && (pins.is_empty() || origin.is_some()) {
        let what = if origin.is_some() { "this copy's" } else { "the repository's" };
        progress.event(Event::Warning(&format!(
            "{what} fingerprint {text} is not pinned on this machine; compare it with the one that was \
             printed when it was made, then pin it: `fingerprint = \"{text}\"` under [repository]"
        )));
    }
    Ok(origin)
}

fn find_secret(
    store: &Store,
    description: &Description,
    host: Option<&HostWriter>,
    identities: Option<&Opener>,
) -> Result<Secret, Error> {
    if let Some(host) = host {
        let key = match host.secret_object {
            Some(digest) => format!("writers/{}/secret-{digest}.age", host.name),
            None => {
                let files = store.files(&format!("writers/{}", host.name))?;
                let secret = files.into_iter().find(|file| file.contains("/secret-"));
                secret.ok_or_else(|| Error::NotAdmitted(host.name.clone()))?
            }
        };
        let sealed = store.get(&key, limits::SMALL_MAX as u64)?;
        let plain = host.opener.open(&sealed).map_err(|source| Error::Keys { what: format!("`{key}`"), source })?;
        let bad = |why: &str| Error::BadObject { key: key.clone(), why: why.to_owned() };
        let sealed: WriterSecret = serde_json::from_slice(&plain).map_err(|_| bad("it is no secret"))?;
        let secret = parse_secret(&sealed.secret).ok_or_else(|| bad("it is no secret"))?;
        if secret.commitment() != description.secret_commitment || sealed.repository != description.repository {
            return Err(bad("it belongs to another repository, or was replaced"));
        }
        return Ok(secret);
    }
    match identities {
        Some(identities) => Ok(Admission::open(store, description, identities)?.secret),
        None => Err(Error::NotAWriter(store.label().to_owned())),
    }
}
