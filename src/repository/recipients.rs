//! Who can read: changing the signed list of recipients, following it on a host, and sealing anew what is sealed to an earlier list.
//!
//! Invariants: a list is signed by the admission key, which only an identity opens; the secret is sealed to a list before the list exists,
//! so that nobody on it lacks it; a host follows a list only when it is told which; whoever changes it can still read afterwards; a
//! frame is sealed anew only after its plain bytes matched its digest. Not here: taking anything away from who could read once: nobody can.

use bytes::Bytes;

use super::host::KeyFile;
use super::init::{self, Admission};
use super::layout::{MasterSecret, RECIPIENTS_CONTEXT};
use super::{Error, RecipientsList, Repository};
use crate::catalog::Usage;
use crate::model::{Digest, FrameId, Moment, PackId};
use crate::pack::SealedFrame;
use crate::progress::Progress;
use crate::seal::{ContentKey, FrameOpener, Opener, Recipient, Sealer, sign_text};

/// What a list of recipients should not become.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecipientsError {
    /// Who is to be added reads already.
    #[error("{0} is on the list already")]
    There(String),
    /// Who is to be removed is not on it.
    #[error("{0} is not on the list")]
    NotThere(String),
    /// Nobody would be left.
    #[error("nobody would be left who can read")]
    Nobody,
    /// The identities at hand would not open what is stored from then on.
    #[error("the identities given could not read what is stored from then on")]
    LockedOut,
    /// Another list than the store's newest was named.
    #[error("the newest list that the admission key signed is {newest}, not {named}")]
    NotNewest {
        /// The store's.
        newest: String,
        /// What was named.
        named: String,
    },
}

/// What seals frames anew.
pub(super) struct Reseal {
    opener: std::sync::Arc<Opener>,
    sealer: std::sync::Arc<Sealer>,
    content: ContentKey,
    /// The list that it seals to.
    pub list: Digest,
}

/// Packs that are sealed to an earlier list than this host's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EarlierPacks {
    /// Those of which something is needed, in the order of the log.
    pub packs: Vec<PackId>,
    /// Their bytes.
    pub bytes: u64,
    /// All of this host's packs that are there and not retired.
    pub all: u64,
}

impl Repository {
    /// A signed list that is newer than the one that this host seals to, with those on it who cannot read what this host stores. One
    /// request where there is none.
    pub fn later_recipients(&self) -> Result<Option<(Digest, Vec<String>)>, Error> {
        let Some(host) = &self.host else { return Ok(None) };
        let pinned = format!("keys/recipients-{}.json", host.recipients_list);
        let objects = self.store.list("keys", None)?;
        if objects.iter().all(|object| !object.key.starts_with("keys/recipients-") || object.key == pinned) {
            return Ok(None);
        }
        let (digest, list) = self.current_recipients()?;
        let missing = list.recipients.into_iter().filter(|one| !host.recipients.contains(one)).collect();
        Ok((digest != host.recipients_list).then_some((digest, missing)))
    }

    /// Makes a new list: the newest with some added and some removed. Needs an identity that reads afterwards too. Where this is a host
    /// that writes, it follows the list at once.
    pub fn change_recipients(
        &mut self,
        add: &[Recipient],
        remove: &[String],
        now: Moment,
    ) -> Result<(Digest, RecipientsList), Error> {
        let opener = std::sync::Arc::clone(self.data_opener("changing who can read")?);
        let admission = Admission::open(&self.store, &self.description, &opener)?;
        let (previous, before) = self.current_recipients()?;
        let mut recipients = before.recipients;
        for gone in remove {
            let Some(at) = recipients.iter().position(|one| one == gone) else {
                return Err(RecipientsError::NotThere(gone.clone()).into());
            };
            recipients.remove(at);
        }
        for new in add {
            if recipients.iter().any(|one| one == new.as_str()) {
                return Err(RecipientsError::There(new.as_str().to_owned()).into());
            }
            recipients.push(new.as_str().to_owned());
        }
        if recipients.is_empty() {
            return Err(RecipientsError::Nobody.into());
        }
        let keys = |source| Error::Keys { what: "the repository secret".to_owned(), source };
        let readers: Result<Vec<Recipient>, _> = recipients.iter().map(|text| text.parse()).collect();
        let master = MasterSecret {
            repository: self.description.repository,
            secret: init::hex(admission.secret.expose()),
            admission_secret: admission.signing.expose_hex(),
        };
        let sealed = Sealer::new(readers.map_err(keys)?).seal(&init::json_line(&master, "secret")?).map_err(keys)?;
        if opener.open(&sealed).is_err() {
            return Err(RecipientsError::LockedOut.into());
        }
        let list = RecipientsList {
            repository: self.description.repository,
            // `newest_list` goes by the chain first; of two that replace one it takes the later.
            created: now.max(before.created),
            previous: Some(previous),
            recipients,
            keepers: before.keepers,
        };
        let text = sign_text(RECIPIENTS_CONTEXT, &init::json_line(&list, "recipients")?, &admission.signing);
        let digest = init::digest_of(&text);
        let appender = self.store.appender();
        appender.create(&format!("keys/secret-{}.age", init::digest_of(&sealed)), &[Bytes::from(sealed)])?;
        appender.create(&format!("keys/recipients-{digest}.json"), &[Bytes::from(text)])?;
        if self.host.is_some() {
            self.follow_recipients(digest)?;
        }
        Ok((digest, list))
    }

    /// From now on this host seals to the newest list, which the caller names by its digest.
    pub fn follow_recipients(&mut self, named: Digest) -> Result<RecipientsList, Error> {
        let (newest, list) = self.current_recipients()?;
        if newest != named {
            let (newest, named) = (newest.to_string(), named.to_string());
            return Err(RecipientsError::NotNewest { newest, named }.into());
        }
        self.host()?;
        let Some(before) = self.folder.read_keys()? else {
            return Err(Error::NotAWriter(self.store.label().to_owned()));
        };
        let keys = KeyFile {
            recipients_list: newest,
            recipients: list.recipients.clone(),
            keepers: list.keepers.clone(),
            ..before
        };
        // Opened first: a list that this program cannot seal to is not followed.
        let host = keys.open()?;
        self.note_followed(&newest)?;
        self.folder.replace_keys(&keys)?;
        self.host = Some(host);
        Ok(list)
    }

    /// Which of this host's packs are sealed to an earlier list than it seals to now.
    pub fn earlier_packs(&mut self) -> Result<(EarlierPacks, Usage), Error> {
        let (row, list) = (self.host_row()?, self.host()?.recipients_list);
        let usage = self.usage(row)?;
        let mut earlier = EarlierPacks::default();
        for pack in self.catalog.pack_uses(row, &usage)?.into_iter().filter(|pack| !pack.retired) {
            earlier.all += 1;
            if pack.recipients != list && pack.needed > 0 {
                earlier.packs.push(pack.id);
                earlier.bytes += pack.size;
            }
        }
        Ok((earlier, usage))
    }

    /// What seals this host's frames anew: opens with the identities at hand.
    pub(super) fn reseal(&self) -> Result<Reseal, Error> {
        let host = self.host()?;
        Ok(Reseal {
            opener: std::sync::Arc::clone(self.data_opener("sealing anew")?),
            sealer: std::sync::Arc::clone(&host.data),
            content: self.content.clone(),
            list: host.recipients_list,
        })
    }
}

impl Reseal {
    /// Seals the frames of a pack anew, on all processors. The inner error names the frame that does not open, or has other bytes.
    pub fn frames(
        &self,
        frames: Vec<SealedFrame>,
        progress: &dyn Progress,
    ) -> Result<Result<Vec<SealedFrame>, (FrameId, String)>, Error> {
        let threads = std::thread::available_parallelism().map_or(2, usize::from).min(frames.len()).max(1);
        let share = frames.len().div_ceil(threads).max(1);
        let parts: Vec<_> = std::thread::scope(|scope| {
            let work: Vec<_> =
                frames.chunks(share).map(|part| scope.spawn(move || self.part(part, progress))).collect();
            work.into_iter().map(|thread| thread.join().map_err(|_| Error::Pipeline)).collect()
        });
        let mut all = Vec::with_capacity(frames.len());
        for part in parts {
            match part?? {
                Ok(done) => all.extend(done),
                Err(bad) => return Ok(Err(bad)),
            }
        }
        Ok(Ok(all))
    }

    fn part(
        &self,
        frames: &[SealedFrame],
        progress: &dyn Progress,
    ) -> Result<Result<Vec<SealedFrame>, (FrameId, String)>, Error> {
        let keys = |source| Error::Keys { what: "a frame".to_owned(), source };
        let mut opener = FrameOpener::new(&self.opener).map_err(keys)?;
        let mut done = Vec::with_capacity(frames.len());
        for frame in frames {
            if progress.cancelled() {
                return Err(Error::Cancelled);
            }
            match opener.open_frame(&frame.bytes, frame.plain as usize) {
                Ok(plain) if FrameId::from(self.content.digest(plain)) == frame.id => {}
                Ok(_) => return Ok(Err((frame.id, "its bytes do not match its digest".to_owned()))),
                Err(e @ crate::seal::Error::NoIdentity(_)) => return Err(keys(e)),
                Err(e) => return Ok(Err((frame.id, e.to_string()))),
            }
            let bytes = Bytes::from(self.sealer.seal(opener.packed()).map_err(keys)?);
            done.push(SealedFrame { id: frame.id, bytes, plain: frame.plain, chunks: frame.chunks.clone() });
        }
        Ok(Ok(done))
    }
}
