//! Going on with the log of a host that is gone: new keys for the same writer, so that its packs are deduplicated against, its snapshots are
//! kept and forgotten by its policies, and its streams go on.
//!
//! Order: the secret sealed to the new keys, the ruling with which they count, then the key file. A crash in between leaves a ruling for
//! keys that nobody has; adopting again makes another. Invariant: the old keys count for what stood before, and for nothing after.
//! Not here: finding out that the old host is really gone. If it is not, it is refused from its next commit on.

use super::host::KeyFile;
use super::init::{self, Admission};
use super::rulings::{End, Era, Standing};
use super::{Error, Repository};
use crate::model::Moment;
use crate::progress::Progress;
use crate::seal::{SigningKey, generate_identity};

/// What came of adopting a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adopted {
    /// Whose log it was.
    pub host: String,
    /// The newest commits of it.
    pub ends: Vec<End>,
    /// Objects that were sealed anew, for this host to read.
    pub handed_over: u64,
}

impl Repository {
    /// Makes this host, which is no writer yet, go on as a writer whose host is gone; needs an identity. Where an earlier attempt was
    /// interrupted after the keys were there, it goes on handing over.
    pub fn adopt_writer(
        &mut self,
        writer: &str,
        host: &str,
        now: Moment,
        progress: &dyn Progress,
    ) -> Result<Adopted, Error> {
        let opener = std::sync::Arc::clone(self.data_opener("adopting a writer")?);
        if let Ok(own) = self.host() {
            let eras = self.standing(&own.name.clone())?.eras;
            let own = self.host()?;
            if own.name != writer || eras.len() < 2 || self.check_standing().is_err() {
                let store = self.store.label().to_owned();
                return Err(Error::AlreadyWriter { store, writer: own.name.clone() });
            }
            let before = &eras[eras.len() - 2];
            let (host, ends) = (before.host.clone(), before.until.clone().unwrap_or_default());
            return Ok(Adopted { host, ends, handed_over: self.hand_over(progress)? });
        }
        if self.standing(writer)?.current().is_none() {
            // What lies in its streams cannot be told from what its thief put there.
            return Err(Error::Ended(writer.to_owned()));
        }
        let admission = Admission::open(&self.store, &self.description, &opener)?;
        let (recipients_list, list) = self.current_recipients()?;
        let ends = self.ends_before(writer, None)?;
        let Standing { mut eras, keepers, .. } = self.standing(writer)?;
        let before = eras.last().map(|era| era.host.clone()).unwrap_or_default();
        for era in eras.iter_mut().filter(|era| era.until.is_none()) {
            era.until = Some(ends.clone());
        }
        let (identity, recipient) = generate_identity();
        let signing = SigningKey::from_seed(&init::random()?);
        let secret_object = init::put_secret(&self.store, &admission, self.description.repository, writer, &recipient)?;
        eras.push(Era { host: host.to_owned(), recipient, key: signing.public(), until: None });
        self.rule(writer, (eras, keepers), now, now)?;
        let keys = KeyFile {
            lifeboat_writer: 1,
            repository: self.description.repository,
            fingerprint: self.fingerprint,
            writer: writer.to_owned(),
            identity,
            signing_key: signing.expose_hex(),
            secret_object: Some(secret_object),
            recipients_list,
            recipients: list.recipients,
            keepers: list.keepers,
        };
        self.folder.write_keys(&keys)?;
        self.host = Some(keys.open()?);
        let handed_over = self.hand_over(progress)?;
        self.load_chunks(writer, progress)?;
        Ok(Adopted { host: before, ends, handed_over })
    }

    /// Ends a writer's log: what the store received from it before a time counts, with no time all that it has written so far, and nothing
    /// that it writes from now on. Needs an identity.
    pub fn revoke_writer(&mut self, writer: &str, since: Option<Moment>, now: Moment) -> Result<Vec<End>, Error> {
        let ends = self.ends_before(writer, since)?;
        // Its keepers go on: what they moved lies where their commits say.
        let Standing { mut eras, keepers, .. } = self.standing(writer)?;
        // What all of these commits have for ancestors is fixed, whoever signed it.
        eras.iter_mut().for_each(|era| era.until = Some(ends.clone()));
        self.rule(writer, (eras, keepers), since.unwrap_or(now), now)?;
        Ok(ends)
    }
}
