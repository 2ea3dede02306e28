//! age's plugins: recipients `age1NAME1...` and identities `AGE-PLUGIN-NAME-1...`, whose keys a program of that name holds (a security key, a
//! key service). The program is `age-plugin-NAME` on the PATH, and is asked once for each sealed object.
//!
//! Invariants: what a plugin says to a person, and what it asks for, goes through the two functions that the command line sets; where it set
//! none nobody is asked. Not here: what plugins there are.

use std::collections::HashSet;
use std::sync::OnceLock;

use age::EncryptError;
use age::plugin::{Identity, IdentityPluginV1, Recipient, RecipientPluginV1};
use age::secrecy::SecretString;
use age_core::format::{FileKey, Stanza};

/// Shows a person what a plugin says.
pub type Tell = fn(&str);
/// Asks a person for a secret, a PIN above all.
pub type Ask = fn(&str) -> Result<SecretString, String>;

static PERSON: OnceLock<(Tell, Ask)> = OnceLock::new();

/// Sets how plugins reach a person; the first call counts.
pub fn set_person(tell: Tell, ask: Ask) {
    let _ = PERSON.set((tell, ask));
}

/// How a plugin reaches a person.
#[derive(Clone)]
pub(super) struct Person;

impl age::Callbacks for Person {
    fn display_message(&self, message: &str) {
        if let Some((tell, _)) = PERSON.get() {
            tell(message);
        }
    }
    fn confirm(&self, _: &str, _: &str, _: Option<&str>) -> Option<bool> {
        None
    }
    fn request_public_string(&self, _: &str) -> Option<String> {
        None
    }
    fn request_passphrase(&self, description: &str) -> Option<SecretString> {
        PERSON.get().and_then(|(_, ask)| ask(description).ok())
    }
}

/// A public key whose plugin is looked for when something is sealed to it: a host that only reads needs none.
#[derive(Clone)]
pub(super) struct PluginRecipient(pub Recipient);

impl age::Recipient for PluginRecipient {
    fn wrap_file_key(&self, file_key: &FileKey) -> Result<(Vec<Stanza>, HashSet<String>), EncryptError> {
        let plugin = RecipientPluginV1::new(self.0.plugin(), std::slice::from_ref(&self.0), &[], Person);
        plugin.map_err(EncryptError::PluginResolve)?.wrap_file_key(file_key)
    }
}

/// The identity of a line, if it is a plugin's. The inner error says why its plugin cannot be asked.
pub(super) fn identity(line: &str) -> Option<Result<IdentityPluginV1<Person>, String>> {
    let identity: Identity = line.parse().ok()?;
    let plugin = IdentityPluginV1::new(identity.plugin(), std::slice::from_ref(&identity), Person);
    Some(plugin.map_err(|e| e.to_string()))
}
