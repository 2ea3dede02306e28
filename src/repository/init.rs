//! Making a repository, and joining one as a further writer.
//!
//! Order: what explains the repository and its keys first, `lifeboat.json` last, so that a crashed `init` leaves nothing
//! that opens; the writer's secret before its description; the host's key file once the store has all of it.

use bytes::Bytes;
use data_encoding::HEXLOWER;

use super::Error;
use super::host::{HostFolder, KeyFile};
use super::layout::{
    DESCRIPTION, Description, MasterSecret, ORIGIN, RECIPIENTS_CONTEXT, RecipientsList, WRITER_CONTEXT,
    WriterDescription, WriterSecret,
};
use crate::model::{Chunking, Digest, Moment, RepositoryId, limits};
use crate::seal::{self, Opener, Recipient, Sealer, Secret, SigningKey, generate_identity, sign_text};
use crate::store::{self, Store};

const RECOVERY_MD: &str = include_str!("RECOVERY.md");
const RECOVER_PY: &str = include_str!("recover.py");

/// What `init` is told.
pub struct InitOptions<'a> {
    /// Who can read everything: at least one.
    pub recipients: &'a [Recipient],
    /// Where the host keeps its part.
    pub state: &'a std::path::Path,
    /// The host's name.
    pub host: &'a str,
    /// Now.
    pub now: Moment,
}

/// What `init` made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// The repository's number.
    pub repository: RepositoryId,
    /// BLAKE3 of `lifeboat.json`: to be written down and pinned.
    pub fingerprint: Digest,
    /// BLAKE3 of `recover.py`: to be written down.
    pub recover_digest: Digest,
    /// This host's name as a writer.
    pub writer: String,
    /// Whether the repository is new; else this host joined it.
    pub created: bool,
}

pub(super) fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| Error::Randomness)?;
    Ok(bytes)
}

pub(super) fn hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}

pub(super) fn digest_of(bytes: &[u8]) -> Digest {
    Digest::new(*blake3::hash(bytes).as_bytes())
}

pub(super) fn json_line(value: &impl serde::Serialize, key: &str) -> Result<Vec<u8>, Error> {
    let mut text =
        serde_json::to_vec(value).map_err(|e| Error::BadObject { key: key.to_owned(), why: e.to_string() })?;
    text.push(b'\n');
    Ok(text)
}

/// Makes a repository in an empty store, with this host as its first writer.
pub fn init(store: &Store, options: &InitOptions<'_>) -> Result<Made, Error> {
    make(store, Secret::new(random()?), None, options)
}

/// Makes a repository with a secret: one of its own, or that of the repositories whose descriptions `origin` is.
pub(super) fn make(
    store: &Store,
    secret: Secret,
    origin: Option<Bytes>,
    options: &InitOptions<'_>,
) -> Result<Made, Error> {
    if store.size(DESCRIPTION)?.is_some() {
        return Err(Error::Exists(store.label().to_owned()));
    }
    let appender = store.appender();
    let repository = RepositoryId::new(random()?);
    if let Some(origin) = origin {
        // A crashed one may have left it; it says the same, or it is another repository's and is refused.
        match store.size(ORIGIN)? {
            None => drop(appender.create(ORIGIN, &[origin])?),
            Some(_) if store.get(ORIGIN, limits::SMALL_MAX as u64)? == origin => {}
            Some(_) => return Err(Error::Exists(store.label().to_owned())),
        }
    }
    let admission = SigningKey::from_seed(&random()?);
    for (key, text) in [("RECOVERY.md", RECOVERY_MD), ("recover.py", RECOVER_PY)] {
        if store.size(key)?.is_none() {
            appender.create(key, &[Bytes::from_static(text.as_bytes())])?;
        }
    }
    let recipients: Vec<String> = options.recipients.iter().map(|r| r.as_str().to_owned()).collect();
    let list = RecipientsList {
        repository,
        created: options.now,
        previous: None,
        recipients: recipients.clone(),
        keepers: Vec::new(),
    };
    let list_text = sign_text(RECIPIENTS_CONTEXT, &json_line(&list, "recipients")?, &admission);
    let recipients_list = digest_of(&list_text);
    appender.create(&format!("keys/recipients-{recipients_list}.json"), &[Bytes::from(list_text)])?;
    let master = MasterSecret { repository, secret: hex(secret.expose()), admission_secret: admission.expose_hex() };
    let sealer = Sealer::new(options.recipients.to_vec());
    let keys = |source| Error::Keys { what: "the repository secret".to_owned(), source };
    let sealed = sealer.seal(&json_line(&master, "secret")?).map_err(keys)?;
    appender.create(&format!("keys/secret-{}.age", digest_of(&sealed)), &[Bytes::from(sealed)])?;
    let description = Description {
        format: 1,
        repository,
        created: options.now,
        admission_key: admission.public(),
        secret_commitment: secret.commitment(),
        chunking: Chunking::default(),
    };
    let text = json_line(&description, DESCRIPTION)?;
    let fingerprint = digest_of(&text);
    let admission = Admission { secret, signing: admission };
    let folder = HostFolder::open(options.state, &repository)?;
    let part = WriterPart { repository, fingerprint, recipients_list, recipients, keepers: Vec::new() };
    let keys = join(store, &admission, &part, options)?;
    // The key file before the description: a crash between the two leaves a key to nothing, not a repository without a
    // writer.
    folder.write_keys(&keys)?;
    appender.create(DESCRIPTION, &[Bytes::from(text)])?;
    // Every description has the same length and no digest in its name: only its bytes tell whose `init` won a race.
    if digest_of(&store.get(DESCRIPTION, limits::SMALL_MAX as u64)?) != fingerprint {
        return Err(Error::Exists(store.label().to_owned()));
    }
    Ok(Made { repository, fingerprint, recover_digest: recover_digest(), writer: keys.writer, created: true })
}

/// BLAKE3 of the `recover.py` that `init` stores.
fn recover_digest() -> Digest {
    digest_of(RECOVER_PY.as_bytes())
}

/// What an identity opens: the repository secret and the right to admit writers.
pub struct Admission {
    pub(super) secret: Secret,
    pub(super) signing: SigningKey,
}

impl Admission {
    /// Opens `keys/secret-<digest>.age` with an identity.
    pub fn open(store: &Store, description: &Description, identities: &Opener) -> Result<Self, Error> {
        let mut refused = Error::BadObject { key: "keys/".to_owned(), why: "there is no secret in it".to_owned() };
        for object in store.list("keys", None)? {
            if !object.key.starts_with("keys/secret-") {
                continue;
            }
            // A crashed `init`, or somebody who may write to the store, can leave others: the first that fits is taken.
            match Self::open_one(store, &object.key, description, identities) {
                Ok(found) => return Ok(found),
                Err(e @ Error::Keys { .. }) => refused = e,
                Err(e @ Error::BadObject { .. }) if !matches!(refused, Error::Keys { .. }) => refused = e,
                Err(Error::BadObject { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        Err(refused)
    }

    fn open_one(store: &Store, key: &str, description: &Description, identities: &Opener) -> Result<Self, Error> {
        let bad = |why: &str| Error::BadObject { key: key.to_owned(), why: why.to_owned() };
        let sealed = match store.get(key, limits::SMALL_MAX as u64) {
            Ok(sealed) => sealed,
            Err(e @ (store::Error::TooLarge { .. } | store::Error::Truncated { .. })) => {
                return Err(bad(&e.to_string()));
            }
            Err(e) => return Err(e.into()),
        };
        let plain = identities.open(&sealed).map_err(|source| match source {
            seal::Error::NoIdentity(_) => Error::Keys { what: "the repository secret".to_owned(), source },
            other => bad(&other.to_string()),
        })?;
        Self::parse(&plain, description).map_err(bad)
    }

    /// Reads the plain text of `keys/secret-<digest>.age`. The error says what is wrong with it.
    pub fn parse(plain: &[u8], description: &Description) -> Result<Self, &'static str> {
        let master: MasterSecret = serde_json::from_slice(plain).map_err(|_| "it is no repository secret")?;
        let secret = parse_secret(&master.secret).ok_or("it is no repository secret")?;
        let signing = SigningKey::from_hex(&master.admission_secret).ok_or("its admission key")?;
        let ours = master.repository == description.repository
            && secret.commitment() == description.secret_commitment
            && signing.public() == description.admission_key;
        if ours { Ok(Self { secret, signing }) } else { Err("it belongs to another repository, or was replaced") }
    }
}

pub(super) fn parse_secret(hex: &str) -> Option<Secret> {
    let bytes = HEXLOWER.decode(hex.as_bytes()).ok()?;
    bytes.as_slice().try_into().ok().map(Secret::new)
}

/// Reads the newest list of recipients that the admission key signed.
pub(super) fn current_recipients(store: &Store, description: &Description) -> Result<(Digest, RecipientsList), Error> {
    let (lists, refused) = recipients_lists(store, description)?;
    newest_list(lists).ok_or_else(|| {
        let why = refused.into_iter().next_back().map(|(key, why)| format!("`{key}`: {why}"));
        let why = why.unwrap_or_else(|| "there is no list of recipients in it".to_owned());
        Error::BadObject { key: "keys/".to_owned(), why }
    })
}

/// Lists that the admission key signed, and what else lies there under such a name, with what is wrong with it.
type ListsAndOthers = (Vec<(Digest, RecipientsList)>, Vec<(String, String)>);

/// Reads every list of recipients.
pub(super) fn recipients_lists(store: &Store, description: &Description) -> Result<ListsAndOthers, Error> {
    let (mut lists, mut refused) = (Vec::new(), Vec::new());
    for object in store.list("keys", None)? {
        let name = object.key.strip_prefix("keys/recipients-").and_then(|rest| rest.strip_suffix(".json"));
        let Some(digest) = name.and_then(|name| name.parse::<Digest>().ok()) else { continue };
        // What the admission key did not sign is no list, whoever put it there.
        match read_list(store, &object.key, digest, description) {
            Ok(list) => lists.extend(list.map(|list| (digest, list))),
            Err(Error::BadObject { key, why }) => refused.push((key, why)),
            Err(e) => return Err(e),
        }
    }
    Ok((lists, refused))
}

/// The list that no other one replaces.
pub(super) fn newest_list(lists: Vec<(Digest, RecipientsList)>) -> Option<(Digest, RecipientsList)> {
    let replaced: Vec<Digest> = lists.iter().filter_map(|(_, list)| list.previous).collect();
    let mut current: Vec<_> = lists.into_iter().filter(|(digest, _)| !replaced.contains(digest)).collect();
    current.sort_by_key(|(_, list)| list.created);
    current.pop()
}

fn read_list(
    store: &Store,
    key: &str,
    digest: Digest,
    description: &Description,
) -> Result<Option<RecipientsList>, Error> {
    let bad = |why: String| Error::BadObject { key: key.to_owned(), why };
    let text = match store.get(key, limits::SMALL_MAX as u64) {
        Ok(text) => text,
        Err(e @ (store::Error::TooLarge { .. } | store::Error::Truncated { .. })) => return Err(bad(e.to_string())),
        Err(e) => return Err(e.into()),
    };
    if digest_of(&text) != digest {
        return Err(bad("its bytes do not match its name".to_owned()));
    }
    // An `init` that did not end leaves the list of a repository that never came to be. It counts for nothing and harms nobody.
    let said = seal::split_signed(&text).and_then(|(_, said)| serde_json::from_slice::<RecipientsList>(said).ok());
    if said.is_some_and(|said| said.repository != description.repository) {
        tracing::debug!(key, "a list of recipients of another repository is left out");
        return Ok(None);
    }
    RecipientsList::parse(&text, key, description).map(Some)
}

/// What a new writer pins.
struct WriterPart {
    repository: RepositoryId,
    fingerprint: Digest,
    recipients_list: Digest,
    recipients: Vec<String>,
    keepers: Vec<String>,
}

/// Makes this host a writer of a repository that exists, with an identity at hand once.
pub(super) fn admit(
    store: &Store,
    description: &Description,
    fingerprint: Digest,
    identities: &Opener,
    options: &InitOptions<'_>,
) -> Result<Made, Error> {
    let folder = HostFolder::open(options.state, &description.repository)?;
    if let Some(keys) = folder.read_keys()? {
        return Err(Error::AlreadyWriter { store: store.label().to_owned(), writer: keys.writer });
    }
    let admission = Admission::open(store, description, identities)?;
    let part = part_of(store, description, fingerprint, options)?;
    let keys = join(store, &admission, &part, options)?;
    folder.write_keys(&keys)?;
    Ok(Made {
        repository: description.repository,
        fingerprint,
        recover_digest: recover_digest(),
        writer: keys.writer,
        created: false,
    })
}

/// What a new writer pins: the current signed list. Recipients given on the command line must be those of the list, for
/// a host seals only to what it was told.
fn part_of(
    store: &Store,
    description: &Description,
    fingerprint: Digest,
    options: &InitOptions<'_>,
) -> Result<WriterPart, Error> {
    let (recipients_list, list) = current_recipients(store, description)?;
    let given: Vec<String> = options.recipients.iter().map(|r| r.as_str().to_owned()).collect();
    if !given.is_empty() && !same_set(&given, &list.recipients) {
        return Err(Error::OtherRecipients);
    }
    Ok(WriterPart {
        repository: description.repository,
        fingerprint,
        recipients_list,
        recipients: list.recipients,
        keepers: list.keepers,
    })
}

pub(super) fn same_set(a: &[String], b: &[String]) -> bool {
    let sorted = |all: &[String]| {
        let mut all = all.to_vec();
        all.sort();
        all
    };
    sorted(a) == sorted(b)
}

/// A host's wish to become a writer: public keys and a name. Made on the host, admitted by whoever has an identity.
pub type Request = WriterDescription;

/// New writer keys, and what is to be signed of them.
fn new_writer(part: &WriterPart, options: &InitOptions<'_>) -> Result<(KeyFile, Request), Error> {
    let (identity, recipient) = generate_identity();
    let signing = SigningKey::from_seed(&random()?);
    let name = writer_name(options.host, random()?);
    let request = WriterDescription {
        repository: part.repository,
        writer: name.clone(),
        host: options.host.to_owned(),
        created: options.now,
        recipient,
        key: signing.public(),
    };
    let keys = KeyFile {
        lifeboat_writer: 1,
        repository: part.repository,
        fingerprint: part.fingerprint,
        writer: name,
        identity,
        signing_key: signing.expose_hex(),
        secret_object: None,
        recipients_list: part.recipients_list,
        recipients: part.recipients.clone(),
        keepers: part.keepers.clone(),
    };
    Ok((keys, request))
}

/// Puts a writer's secret and then its signed description: with the second it exists.
fn put_writer(store: &Store, admission: &Admission, request: &Request) -> Result<Digest, Error> {
    let secret_object = put_secret(store, admission, request.repository, &request.writer, &request.recipient)?;
    let text = sign_text(WRITER_CONTEXT, &json_line(request, "writer.json")?, &admission.signing);
    store.appender().create(&format!("writers/{}/writer.json", request.writer), &[Bytes::from(text)])?;
    Ok(secret_object)
}

/// Puts the repository's secret, sealed to a writer's keys; returns the digest in its name.
pub(super) fn put_secret(
    store: &Store,
    admission: &Admission,
    repository: RepositoryId,
    writer: &str,
    recipient: &str,
) -> Result<Digest, Error> {
    let keys = |source| Error::Keys { what: "the writer's secret".to_owned(), source };
    let secret = WriterSecret { repository, secret: hex(admission.secret.expose()) };
    let sealer = Sealer::new(vec![recipient.parse().map_err(keys)?]);
    let sealed = sealer.seal(&json_line(&secret, "secret")?).map_err(keys)?;
    let digest = digest_of(&sealed);
    store.appender().create(&format!("writers/{writer}/secret-{digest}.age"), &[Bytes::from(sealed)])?;
    Ok(digest)
}

fn join(store: &Store, admission: &Admission, part: &WriterPart, options: &InitOptions<'_>) -> Result<KeyFile, Error> {
    let (mut keys, request) = new_writer(part, options)?;
    keys.secret_object = Some(put_writer(store, admission, &request)?);
    Ok(keys)
}

/// Makes this host's keys and asks to be admitted. What it pins is what the store says now, signed by the admission key;
/// the caller compares the fingerprint.
pub(super) fn request(
    store: &Store,
    description: &Description,
    fingerprint: Digest,
    options: &InitOptions<'_>,
) -> Result<Request, Error> {
    let folder = HostFolder::open(options.state, &description.repository)?;
    if let Some(keys) = folder.read_keys()? {
        if store.size(&format!("writers/{}/writer.json", keys.writer))?.is_some() {
            return Err(Error::AlreadyWriter { store: store.label().to_owned(), writer: keys.writer });
        }
        // Asked before, and nobody has answered: the same wish once more.
        return keys.request(options.host, options.now);
    }
    let part = part_of(store, description, fingerprint, options)?;
    let (keys, request) = new_writer(&part, options)?;
    folder.write_keys(&keys)?;
    Ok(request)
}

/// Admits a host that asked, with an identity.
pub(super) fn admit_request(store: &Store, admission: &Admission, request: &Request) -> Result<(), Error> {
    let bad = |why: &str| Error::BadObject { key: "the request".to_owned(), why: why.to_owned() };
    if !super::is_writer_name(&request.writer) {
        return Err(bad("its writer's name is none"));
    }
    if store.size(&format!("writers/{}/writer.json", request.writer))?.is_some() {
        return Err(Error::Admitted(request.writer.clone()));
    }
    put_writer(store, admission, request).map(drop)
}

/// The host's name made fit for a folder, and six random digits: two hosts of one name are two writers.
fn writer_name(host: &str, random: [u8; 3]) -> String {
    let clean: String = host
        .to_ascii_lowercase()
        .chars()
        .take(48)
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' })
        .collect();
    let clean = clean.trim_matches('-');
    let clean = if clean.is_empty() { "host" } else { clean };
    format!("{clean}-{}", HEXLOWER.encode(&random))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_host_names_become_good_writer_names() {
        for host in ["DB1.example.com", "", "---", "host_ü", &"x".repeat(300)] {
            assert!(super::super::is_writer_name(&writer_name(host, [0, 1, 255])), "{host}");
        }
        assert_eq!(writer_name("DB1.example.com", [0, 1, 255]), "db1-example-com-0001ff");
    }
}
