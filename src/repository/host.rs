//! What a host keeps of a repository: its writer keys, the catalog, the newest manifests, locks. One folder, mode 0700
//! (0750 where a group shares it).
//!
//! Invariants: the key file is written once, atomically, mode 0600; a lock is held by an open file and ends with the
//! process, so that none goes stale.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Error, Lock};
use crate::model::{Digest, RepositoryId, limits};
use crate::seal::{Identities, Opener, Recipient, Sealer, SigningKey};

/// The folder of one repository on this host.
#[derive(Debug, Clone)]
pub struct HostFolder {
    folder: PathBuf,
}

/// The key file: who this host is in the repository, and what it pinned.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct KeyFile {
    pub lifeboat_writer: u32,
    pub repository: RepositoryId,
    pub fingerprint: Digest,
    pub writer: String,
    pub identity: String,
    pub signing_key: String,
    /// Absent until this host was admitted by somebody else: then it is looked up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_object: Option<Digest>,
    pub recipients_list: Digest,
    pub recipients: Vec<String>,
    pub keepers: Vec<String>,
}

/// This host as a writer: keys that open its own log and sign, and the recipients that it pinned.
pub struct HostWriter {
    /// Its name.
    pub name: String,
    /// The list of recipients that it seals to.
    pub recipients_list: Digest,
    /// The recipients, as text.
    pub recipients: Vec<String>,
    pub(super) fingerprint: Digest,
    pub(super) secret_object: Option<Digest>,
    pub(super) signing: SigningKey,
    /// Its age public key.
    pub(super) recipient: String,
    /// Who reads commits and directories, keepers that a ruling names aside.
    pub(super) readers: Vec<Recipient>,
    pub(super) opener: Opener,
    /// Seals frames: to the recipients.
    pub(super) data: std::sync::Arc<Sealer>,
    /// Seals commits and directories: to the recipients, the keepers and the writer itself.
    pub(super) log: std::sync::Arc<Sealer>,
}

impl HostWriter {
    /// Reads the bytes of a key file; `path` is what messages call it.
    pub fn parse(text: &[u8], path: &Path) -> Result<Self, Error> {
        KeyFile::parse(text, path)?.open()
    }
}

impl KeyFile {
    fn parse(text: &[u8], path: &Path) -> Result<Self, Error> {
        serde_json::from_slice(text).map_err(|e| Error::KeyFile { path: path.to_owned(), why: e.to_string() })
    }

    pub(super) fn open(&self) -> Result<HostWriter, Error> {
        let seal = |e| Error::Keys { what: "the writer's key file".to_owned(), source: e };
        let signing = SigningKey::from_hex(&self.signing_key)
            .ok_or_else(|| Error::BadObject { key: "writer.key".to_owned(), why: "its signing key".to_owned() })?;
        let own: age::x25519::Identity = self
            .identity
            .parse()
            .map_err(|why: &str| Error::BadObject { key: "writer.key".to_owned(), why: why.to_owned() })?;
        let parse = |all: &[String]| all.iter().map(|text| text.parse()).collect::<Result<Vec<Recipient>, _>>();
        let recipients = parse(&self.recipients).map_err(seal)?;
        let mut readers = recipients.clone();
        readers.extend(parse(&self.keepers).map_err(seal)?);
        let recipient = own.to_public().to_string();
        readers.push(recipient.parse().map_err(seal)?);
        Ok(HostWriter {
            name: self.writer.clone(),
            recipients_list: self.recipients_list,
            recipients: self.recipients.clone(),
            fingerprint: self.fingerprint,
            secret_object: self.secret_object,
            signing,
            recipient,
            opener: Opener::new(Identities::from_age_text(&self.identity).map_err(seal)?),
            data: std::sync::Arc::new(Sealer::new(recipients)),
            log: std::sync::Arc::new(Sealer::new(readers.clone())),
            readers,
        })
    }
}

impl KeyFile {
    /// What somebody with an identity must sign, so that these keys write.
    pub(super) fn request(&self, host: &str, now: crate::model::Moment) -> Result<super::WriterDescription, Error> {
        let bad = |why: &str| Error::BadObject { key: "writer.key".to_owned(), why: why.to_owned() };
        let own: age::x25519::Identity = self.identity.parse().map_err(bad)?;
        let signing = SigningKey::from_hex(&self.signing_key).ok_or_else(|| bad("its signing key"))?;
        Ok(super::WriterDescription {
            repository: self.repository,
            writer: self.writer.clone(),
            host: host.to_owned(),
            created: now,
            recipient: own.to_public().to_string(),
            key: signing.public(),
        })
    }
}

impl HostFolder {
    /// The folder of a repository below the state directory; made where there is none.
    pub fn open(state: &Path, repository: &RepositoryId) -> Result<Self, Error> {
        let folder = state.join(repository.to_string());
        let make = |path: &Path| {
            let mut builder = fs::DirBuilder::new();
            builder.recursive(true).mode(0o700);
            builder.create(path).map_err(|source| Error::Io { doing: "make", path: path.to_owned(), source })
        };
        make(&folder)?;
        make(&folder.join("manifests"))?;
        Ok(Self { folder })
    }

    /// The folder in which this host keeps what it needs as the keeper of another writer; made where there is none.
    pub(super) fn of_kept(&self, writer: &str) -> Result<Self, Error> {
        let folder = self.folder.join("keeper").join(writer);
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        let made = builder.create(folder.join("manifests"));
        made.map_err(|source| Error::Io { doing: "make", path: folder.clone(), source })?;
        Ok(Self { folder })
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Where the catalog lies unless the configuration says otherwise.
    pub fn catalog(&self) -> PathBuf {
        self.folder.join("catalog.db")
    }

    /// The newest manifest of a source, as zstd.
    pub fn manifest(&self, source: &str) -> PathBuf {
        self.folder.join("manifests").join(format!("{source}.jsonl.zst"))
    }

    /// The writer's key file.
    pub fn key_file(&self) -> PathBuf {
        self.folder.join("writer.key")
    }

    pub(super) fn read_keys(&self) -> Result<Option<KeyFile>, Error> {
        let path = self.key_file();
        let io = |source| Error::Io { doing: "read", path: path.clone(), source };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io(e)),
        };
        let mut text = Vec::new();
        file.take(limits::SMALL_MAX as u64).read_to_end(&mut text).map_err(io)?;
        KeyFile::parse(&text, &path).map(Some)
    }

    /// Writes the key file: a new file with its final mode, synced, then linked in place, so that a second `init` at
    /// the same time cannot replace it.
    pub(super) fn write_keys(&self, keys: &KeyFile) -> Result<(), Error> {
        let path = self.key_file();
        let staged = self.folder.join(format!(".writer.key.{}", std::process::id()));
        let io = |source| Error::Io { doing: "write", path: path.clone(), source };
        let text = serde_json::to_vec_pretty(keys).map_err(|e| io(e.into()))?;
        let _ = fs::remove_file(&staged);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&staged).map_err(io)?;
        let written = file.write_all(&text).and_then(|()| file.sync_all());
        let linked = written.and_then(|()| fs::hard_link(&staged, &path));
        let _ = fs::remove_file(&staged);
        linked.map_err(io)?;
        File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(io)
    }

    /// Replaces the key file by another one of the same writer: whole before it is there, the old one until then.
    pub(super) fn replace_keys(&self, keys: &KeyFile) -> Result<(), Error> {
        let path = self.key_file();
        let staged = self.folder.join(format!(".writer.key.{}", std::process::id()));
        let io = |source| Error::Io { doing: "write", path: path.clone(), source };
        let text = serde_json::to_vec_pretty(keys).map_err(|e| io(e.into()))?;
        // Its mode stays: a group may read it.
        let mode = fs::metadata(&path).map_err(io)?.permissions();
        let _ = fs::remove_file(&staged);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&staged).map_err(io)?;
        let written = file.write_all(&text).and_then(|()| file.set_permissions(mode)).and_then(|()| file.sync_all());
        let placed = written.and_then(|()| fs::rename(&staged, &path));
        if placed.is_err() {
            let _ = fs::remove_file(&staged);
        }
        placed.map_err(io)?;
        File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(io)
    }

    /// Waits for the right to commit: one process of this host at a time.
    pub(super) fn commit_lock(&self) -> Result<Lock, Error> {
        self.lock("commit.lock", Lock::alone)
    }

    /// Waits for the right to make the catalog that the host's own is compared with.
    pub(super) fn compare_lock(&self) -> Result<Lock, Error> {
        self.lock("compare.lock", Lock::alone)
    }

    /// Held as long as rows of the catalog are kept in mind: shared by whoever uses it, alone by who makes it anew.
    pub(super) fn catalog_lock(&self) -> Result<Lock, Error> {
        self.lock("catalog.lock", Lock::shared)
    }

    /// The right to back a source up: at most one run at a time. `None` when another run has it and `wait` is false.
    pub fn source_lock(&self, source: &str, wait: bool) -> Result<Option<Lock>, Error> {
        let name = format!("source-{source}.lock");
        if wait { self.lock(&name, Lock::alone).map(Some) } else { self.lock(&name, Lock::try_alone) }
    }

    /// Held, shared, by every run that stores packs which no commit names yet.
    pub(super) fn run_lock(&self) -> Result<Lock, Error> {
        self.lock("run.lock", Lock::shared)
    }

    /// Whether such a run is under way on this host.
    pub fn run_is_under_way(&self) -> Result<bool, Error> {
        Ok(self.lock("run.lock", Lock::try_alone)?.is_none())
    }

    /// The right to prune: one process of this host at a time. `None` where another one has it.
    pub fn prune_lock(&self) -> Result<Option<Lock>, Error> {
        self.lock("prune.lock", Lock::try_alone)
    }

    fn lock<T>(&self, name: &str, take: impl FnOnce(&Path) -> std::io::Result<T>) -> Result<T, Error> {
        let path = self.folder.join(name);
        take(&path).map_err(|source| Error::Io { doing: "lock", path, source })
    }
}
