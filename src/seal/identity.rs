//! age's public and secret keys: recipients that we seal to, identities that open. X25519 (`age1...`) and SSH keys
//! (ed25519 and RSA) and plugins' keys both ways; identity files may be protected by a passphrase, in age's own form.

use std::io::{BufReader, Read};
use std::str::FromStr;

use age::secrecy::{ExposeSecret, SecretString};

use super::Error;
use super::plugin::{self, PluginRecipient};

/// Identity files are small; more than this is another kind of file.
const IDENTITY_FILE_MAX: u64 = 1 << 20;
/// scrypt's work factor at most: 2^22 takes some ten seconds. A higher one is an attack or a mistake.
const WORK_FACTOR_MAX: u8 = 22;

/// A public key that we seal to.
#[derive(Clone)]
pub struct Recipient {
    text: String,
    key: RecipientKey,
}

#[derive(Clone)]
enum RecipientKey {
    X25519(age::x25519::Recipient),
    Ssh(age::ssh::Recipient),
    Plugin(PluginRecipient),
}

impl Recipient {
    /// As age wants it.
    pub(super) fn as_age(&self) -> &dyn age::Recipient {
        match &self.key {
            RecipientKey::X25519(key) => key,
            RecipientKey::Ssh(key) => key,
            RecipientKey::Plugin(key) => key,
        }
    }
    /// `age1...` (a plugin's too) or `ssh-...`, without a comment.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl std::fmt::Debug for Recipient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Recipient {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        if let Ok(key) = age::x25519::Recipient::from_str(text) {
            return Ok(Self { text: text.to_owned(), key: RecipientKey::X25519(key) });
        }
        if let Ok(key) = age::plugin::Recipient::from_str(text) {
            return Ok(Self { text: text.to_owned(), key: RecipientKey::Plugin(PluginRecipient(key)) });
        }
        // The comment of an SSH key is no part of the key: two spellings of one key must be one recipient.
        let bare: Vec<&str> = text.split_whitespace().take(2).collect();
        let bare = bare.join(" ");
        match age::ssh::Recipient::from_str(&bare) {
            Ok(key) => Ok(Self { text: bare, key: RecipientKey::Ssh(key) }),
            Err(_) => Err(Error::BadRecipient(text.chars().take(80).collect())),
        }
    }
}

/// A set of identities.
#[derive(Default)]
pub struct Identities(Vec<Box<dyn age::Identity + Send + Sync>>);

impl Identities {
    /// One `AGE-SECRET-KEY-1...`.
    pub fn from_age_text(text: &str) -> Result<Self, Error> {
        let bad = |why: &str| Error::BadIdentity { file: "key".to_owned(), why: why.to_owned() };
        let identity = age::x25519::Identity::from_str(text.trim()).map_err(bad)?;
        Ok(Self(vec![Box::new(identity)]))
    }
    /// Adds those of another set.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }
    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    pub(super) fn iter(&self) -> impl Iterator<Item = &dyn age::Identity> {
        self.0.iter().map(|identity| &**identity as &dyn age::Identity)
    }
}

/// The content of an identity file: identities, and the `# lifeboat fingerprint:` comments that `init` writes.
#[derive(Default)]
pub struct Keyring {
    /// What opens.
    pub identities: Identities,
    /// Public keys of those identities, where they can be told.
    pub recipients: Vec<String>,
    /// Fingerprints of repositories, pinned in comments.
    pub fingerprints: Vec<String>,
}

impl Keyring {
    /// Reads an identity file: age's own, protected by a passphrase or not, or an unencrypted SSH private key. `ask` is
    /// called for a passphrase if there is one to be asked for.
    pub fn read(
        file: &str,
        mut input: impl Read,
        ask: &mut dyn FnMut(&str) -> Result<SecretString, String>,
    ) -> Result<Self, Error> {
        let bad = |why: String| Error::BadIdentity { file: file.to_owned(), why };
        let mut bytes = Vec::new();
        let mut limited = (&mut input).take(IDENTITY_FILE_MAX + 1);
        limited.read_to_end(&mut bytes).map_err(|e| bad(e.to_string()))?;
        if bytes.len() as u64 > IDENTITY_FILE_MAX {
            return Err(bad("it is larger than 1 MiB".to_owned()));
        }
        if is_protected(&bytes) {
            bytes = open_with_passphrase(file, &bytes, &bad, ask)?;
        }
        if bytes.starts_with(b"-----BEGIN AGE ENCRYPTED FILE") {
            return Err(bad("it is armoured; turn it into binary with `age -d FILE | age -p > NEW`".to_owned()));
        }
        if bytes.starts_with(b"-----BEGIN") {
            return Self::read_ssh(file, &bytes);
        }
        let text = std::str::from_utf8(&bytes).map_err(|_| bad("it is no text".to_owned()))?;
        Self::read_lines(text, &bad)
    }

    fn read_ssh(file: &str, bytes: &[u8]) -> Result<Self, Error> {
        let bad = |why: String| Error::BadIdentity { file: file.to_owned(), why };
        let identity = age::ssh::Identity::from_buffer(BufReader::new(bytes), Some(file.to_owned()));
        match identity.map_err(|e| bad(e.to_string()))? {
            identity @ age::ssh::Identity::Unencrypted(_) => {
                Ok(Self { identities: Identities(vec![Box::new(identity)]), ..Self::default() })
            }
            age::ssh::Identity::Encrypted(_) => Err(bad(
                "the SSH key has a passphrase of its own; use an age identity with a passphrase, or `ssh-keygen -p`"
                    .to_owned(),
            )),
            age::ssh::Identity::Unsupported(_) => Err(bad("this kind of SSH key cannot open age files".to_owned())),
        }
    }

    fn read_lines(text: &str, bad: &dyn Fn(String) -> Error) -> Result<Self, Error> {
        let mut ring = Self::default();
        for (n, line) in text.lines().enumerate() {
            let line = line.trim();
            if let Some(comment) = line.strip_prefix('#') {
                if let Some(fingerprint) = comment.trim().strip_prefix("lifeboat fingerprint:") {
                    ring.fingerprints.push(fingerprint.trim().to_owned());
                }
            } else if let Some(plugin) = plugin::identity(line) {
                let plugin = plugin.map_err(|why| bad(format!("line {}: {why}", n + 1)))?;
                ring.identities.0.push(Box::new(plugin));
            } else if !line.is_empty() {
                // The line itself may be a mistyped secret: say where it is, not what it says.
                let identity = age::x25519::Identity::from_str(line).map_err(|why| {
                    bad(format!("line {}: {why}; expected `AGE-SECRET-KEY-1...`, or a plugin's", n + 1))
                })?;
                ring.recipients.push(identity.to_public().to_string());
                ring.identities.0.push(Box::new(identity));
            }
        }
        if ring.identities.is_empty() {
            Err(bad("there is no `AGE-SECRET-KEY-1...` line in it".to_owned()))
        } else {
            Ok(ring)
        }
    }
}

/// Whether an identity file that begins so is protected by a passphrase.
pub fn is_protected(start: &[u8]) -> bool {
    start.starts_with(b"age-encryption.org/")
}

fn open_with_passphrase(
    file: &str,
    bytes: &[u8],
    bad: &dyn Fn(String) -> Error,
    ask: &mut dyn FnMut(&str) -> Result<SecretString, String>,
) -> Result<Vec<u8>, Error> {
    let decryptor = age::Decryptor::new(bytes).map_err(|e| bad(e.to_string()))?;
    if !decryptor.is_scrypt() {
        return Err(bad("it is sealed to a key, not to a passphrase".to_owned()));
    }
    let none = |why| Error::NoPassphrase { file: file.to_owned(), why };
    let mut identity = age::scrypt::Identity::new(ask("passphrase of the identity file").map_err(none)?);
    identity.set_max_work_factor(WORK_FACTOR_MAX);
    let reader = decryptor.decrypt(std::iter::once(&identity as &dyn age::Identity));
    let mut plain = Vec::new();
    reader
        .map_err(|_| Error::WrongPassphrase(file.to_owned()))?
        .take(IDENTITY_FILE_MAX)
        .read_to_end(&mut plain)
        .map_err(|e| bad(e.to_string()))?;
    Ok(plain)
}

/// A new X25519 identity and its recipient, as text.
pub fn generate_identity() -> (String, String) {
    let identity = age::x25519::Identity::generate();
    (identity.to_string().expose_secret().to_owned(), identity.to_public().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_passphrase(_: &str) -> Result<SecretString, String> {
        Err("not asked".to_owned())
    }

    #[test]
    fn an_identity_file_yields_keys_and_pinned_fingerprints() {
        let (identity, recipient) = generate_identity();
        let file = format!("# created by hand\n# lifeboat fingerprint: abc\n\n{identity}\n");
        let ring = Keyring::read("id", file.as_bytes(), &mut no_passphrase).unwrap();
        assert_eq!(
            (ring.identities.len(), ring.recipients, ring.fingerprints),
            (1, vec![recipient], vec!["abc".into()])
        );
    }

    #[test]
    fn a_wrong_line_is_named_by_number_and_not_shown() {
        let error = Keyring::read("id", &b"# x\nAGE-SECRET-KEY-1WRONG\n"[..], &mut no_passphrase).err().unwrap();
        let text = error.to_string();
        assert!(text.contains("line 2") && !text.contains("1WRONG"), "{text}");
    }

    #[test]
    fn a_passphrase_protects_an_identity_file() {
        let (identity, _) = generate_identity();
        let mut recipient = age::scrypt::Recipient::new(SecretString::from("right".to_owned()));
        recipient.set_work_factor(4);
        let sealed = age::encrypt(&recipient, identity.as_bytes()).unwrap();
        let mut right = |_: &str| Ok(SecretString::from("right".to_owned()));
        assert_eq!(Keyring::read("id", sealed.as_slice(), &mut right).unwrap().identities.len(), 1);
        let mut wrong = |_: &str| Ok(SecretString::from("wrong".to_owned()));
        let error = Keyring::read("id", sealed.as_slice(), &mut wrong).err().unwrap();
        assert!(error.to_string().contains("passphrase is wrong"), "{error}");
    }

    #[test]
    fn the_comment_of_an_ssh_key_is_dropped() {
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHsKLqeplhpW+uObz5dvMgjz1OxfM/XXUB+VHtZ6isGN me@host";
        let recipient: Recipient = key.parse().unwrap();
        assert!(!recipient.as_str().contains("me@host"));
        assert!("age1nonsense".parse::<Recipient>().is_err());
    }
}
