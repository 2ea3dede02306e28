//! A log for those who came later: what its commits say, sealed to a newer list of recipients, or to the host that goes on with it, beside
//! them. For that host also what the directories of the packs say.
//!
//! Invariants: the log itself stays as it is, for its commits are named by their bytes; a writer signs which commit a text is of, and the text
//! carries the commit's own signature; it counts only for who cannot open the commit itself. No identity is needed to write it for a list: a
//! host reads its own log. To hand a log over one is.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::init::digest_of;
use super::layout::parse_commit_key;
use super::log::Listed;
use super::{Error, Repository};
use crate::catalog::PackRow;
use crate::model::{CommitId, Digest, PackId, limits};
use crate::progress::{Event, Progress};
use crate::seal::{Sealer, SigningKey, open_signed, sign_text};

const CONTEXT: &str = "lifeboat format 1 resealed";
/// What the frame around a commit's text takes.
const AROUND: usize = 64 << 10;

/// Who signs what is sealed anew, and to whom it is sealed.
struct Seal {
    signing: SigningKey,
    sealer: Arc<Sealer>,
}

/// The first line of the text.
#[derive(Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Of {
    Commit(CommitId),
    Directory(PackId),
}

fn folder(writer: &str, list: &Digest) -> String {
    format!("writers/{writer}/resealed/{list}")
}

/// What was handed over to a host that goes on with a log.
fn handed_over(writer: &str, recipient: &str) -> String {
    format!("writers/{writer}/handover/{}", digest_of(recipient.as_bytes()))
}

/// The fact that says from which place on this host's commits are sealed to a list anyway.
fn fact(list: &Digest) -> String {
    format!("list {list} followed behind")
}

impl Repository {
    /// Notes that commits from now on are sealed to a list: those before need a copy.
    pub(super) fn note_followed(&mut self, list: &Digest) -> Result<(), Error> {
        let row = self.host_row()?;
        let newest = self.catalog.newest(row)?.map_or(0, |head| head.sequence);
        Ok(self.catalog.set_fact(&fact(list), &newest.to_string())?)
    }

    /// Seals what this host's commits say to the list that it follows now: those before it followed the list, or all, for a run that was under
    /// way then went on with the earlier one. Returns how many.
    pub fn reseal_log(&mut self, all: bool, progress: &dyn Progress) -> Result<u64, Error> {
        let (name, list) = (self.host()?.name.clone(), self.host()?.recipients_list);
        let until: Option<u64> = self.catalog.fact(&fact(&list))?.and_then(|text| text.parse().ok());
        let until = until.filter(|_| !all).unwrap_or(u64::MAX);
        let seal = Seal { signing: self.host()?.signing.clone(), sealer: self.log_sealer()? };
        self.reseal_commits(&name, &folder(&name, &list), until, &seal, progress)
    }

    /// Seals what this host's log and packs say to itself: it goes on with a log that another one began. Returns how many objects it put.
    pub(super) fn hand_over(&mut self, progress: &dyn Progress) -> Result<u64, Error> {
        let host = self.host()?;
        let (name, recipient, signing) = (host.name.clone(), host.recipient.clone(), host.signing.clone());
        self.hand_over_to(&name, &recipient, &signing, progress)
    }

    /// The same to any key that a ruling lets read a log: signed by whoever writes it, or by the admission key.
    pub(super) fn hand_over_to(
        &mut self,
        name: &str,
        recipient: &str,
        signing: &SigningKey,
        progress: &dyn Progress,
    ) -> Result<u64, Error> {
        let to = recipient.parse().map_err(|source| Error::Keys { what: "a host's key".to_owned(), source })?;
        let seal = Seal { signing: signing.clone(), sealer: Arc::new(Sealer::new(vec![to])) };
        let folder = handed_over(name, recipient);
        let mut done = self.reseal_commits(name, &folder, u64::MAX, &seal, progress)?;
        let there: HashSet<String> = self.store.files(&folder)?.into_iter().collect();
        let row = self.catalog.writer(name)?;
        progress.event(Event::Stage("handing the packs' directories over"));
        for pack in self.catalog.packs(row)?.into_iter().filter(|pack| !pack.deleted) {
            let key = format!("{folder}/{}.age", pack.id);
            if there.contains(&key) {
                continue;
            }
            if progress.cancelled() {
                return Err(Error::Cancelled);
            }
            if let Some(text) = self.directory_text(name, &pack)? {
                self.put_sealed_anew(&key, &Of::Directory(pack.id), &text, &seal)?;
                done += 1;
            }
        }
        Ok(done)
    }

    fn reseal_commits(
        &mut self,
        name: &str,
        folder: &str,
        until: u64,
        seal: &Seal,
        progress: &dyn Progress,
    ) -> Result<u64, Error> {
        let there: HashSet<_> =
            self.store.list(folder, None)?.iter().filter_map(|o| parse_commit_key(&o.key)).collect();
        let mut wanted = self.list_log(name, None)?;
        wanted.retain(|l| l.head.sequence <= until && !there.contains(&(l.head.sequence, l.head.digest)));
        if !wanted.is_empty() {
            progress.event(Event::Stage("sealing the log anew"));
        }
        let mut done = 0;
        for object in wanted {
            if progress.cancelled() {
                return Err(Error::Cancelled);
            }
            // What does not open or is not this host's is told by whoever reads the log.
            let text = match self.text_of(name, &object)? {
                Some(text) => text,
                None => match self.resealed_text(name, &object)? {
                    Some(text) => text,
                    None => continue,
                },
            };
            let file = object.key.rsplit('/').next().unwrap_or_default();
            self.put_sealed_anew(&format!("{folder}/{file}"), &Of::Commit(object.head.digest), &text, seal)?;
            done += 1;
        }
        Ok(done)
    }

    fn put_sealed_anew(&self, key: &str, of: &Of, text: &[u8], seal: &Seal) -> Result<(), Error> {
        let keys = |source| Error::Keys { what: "what is sealed anew".to_owned(), source };
        let line = serde_json::to_vec(of).map_err(|e| Error::BadObject { key: key.to_owned(), why: e.to_string() })?;
        let signed = sign_text(CONTEXT, &[&line[..], b"\n", text].concat(), &seal.signing);
        let sealed = seal.sealer.seal_compressed(&signed).map_err(keys)?;
        self.store.appender().create(key, &[Bytes::from(sealed)])?;
        Ok(())
    }

    /// The signed text of a pack's directory; `None` where it is damaged or gone.
    fn directory_text(&self, writer: &str, pack: &PackRow) -> Result<Option<Vec<u8>>, Error> {
        use crate::store::Error as E;
        let range = pack.directory_at..pack.directory_at + pack.directory_length;
        let sealed = match self.store.get_range(&pack.key(writer), range) {
            Ok(sealed) => sealed,
            Err(E::NotFound { .. } | E::Truncated { .. } | E::TooLarge { .. }) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let mut openers = self.log_openers(writer).into_iter();
        Ok(openers.find_map(|opener| opener.open_compressed(&sealed, limits::DIRECTORY_MAX).ok()))
    }

    /// The signed text of a commit, if its bytes match its name and a key at hand opens it.
    fn text_of(&self, writer: &str, object: &Listed) -> Result<Option<Vec<u8>>, Error> {
        use crate::store::Error as E;
        let sealed = match self.store.get(&object.key, limits::COMMIT_MAX as u64) {
            Ok(sealed) => sealed,
            Err(E::NotFound { .. } | E::Truncated { .. } | E::TooLarge { .. }) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        if blake3::hash(&sealed).as_bytes() != object.head.digest.as_bytes() {
            return Ok(None);
        }
        let mut openers = self.log_openers(writer).into_iter();
        Ok(openers.find_map(|opener| opener.open_compressed(&sealed, limits::COMMIT_MAX).ok()))
    }

    /// The signed text of a commit that no key at hand opens, from what was sealed anew; `None` where there is none to trust.
    pub(super) fn resealed_text(&mut self, writer: &str, object: &Listed) -> Result<Option<Vec<u8>>, Error> {
        let mut places: Vec<String> = self.own_handover(writer)?.into_iter().collect();
        if self.identities.is_some() {
            let list = match self.newest_list {
                Some(list) => list,
                None => *self.newest_list.insert(self.current_recipients()?.0),
            };
            places.push(folder(writer, &list));
        }
        let file = object.key.rsplit('/').next().unwrap_or_default();
        for place in places {
            let of = Of::Commit(object.head.digest);
            if let Some(text) = self.sealed_anew(writer, &format!("{place}/{file}"), &of, limits::COMMIT_MAX)? {
                return Ok(Some(text));
            }
        }
        Ok(None)
    }

    /// The signed text of the directory of a pack that another host put into this host's log; `None` where nothing was handed over.
    pub(super) fn handed_over_directory(&mut self, writer: &str, pack: &PackId) -> Result<Option<Vec<u8>>, Error> {
        match self.own_handover(writer)? {
            Some(place) => {
                let of = Of::Directory(*pack);
                self.sealed_anew(writer, &format!("{place}/{pack}.age"), &of, limits::DIRECTORY_MAX)
            }
            None => Ok(None),
        }
    }

    /// Where what was handed over to this host lies, if it goes on with another one's log.
    fn own_handover(&mut self, writer: &str) -> Result<Option<String>, Error> {
        let Some(host) = self.host.as_ref().filter(|host| host.name == writer) else { return Ok(None) };
        let (place, keeps) = (handed_over(writer, &host.recipient), self.hold.is_some());
        Ok((keeps || self.standing(writer)?.eras.len() > 1).then_some(place))
    }

    fn sealed_anew(&mut self, writer: &str, key: &str, wanted: &Of, limit: usize) -> Result<Option<Vec<u8>>, Error> {
        use crate::store::Error as E;
        let limit = limit + AROUND;
        let sealed = match self.store.get(key, limit as u64) {
            Ok(sealed) => sealed,
            Err(E::NotFound { .. } | E::Truncated { .. } | E::TooLarge { .. }) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        // What it carries is not what the name digests: only who writes the log now may say that it is the same, or who admitted them.
        // A keeper does not take the writer's word for what the writer said before.
        let now = self.standing(writer)?.current().map(|era| era.key);
        let keys = match (self.hold.is_some(), now) {
            (true, _) => vec![self.description.admission_key],
            (false, Some(now)) => vec![now, self.description.admission_key],
            (false, None) => return Ok(None),
        };
        let openers = self.log_openers(writer);
        let text = openers.into_iter().find_map(|opener| opener.open_compressed(&sealed, limit).ok());
        let Some(text) = text else { return Ok(None) };
        let opened = keys.iter().find_map(|key| open_signed(CONTEXT, &text, key, writer).ok());
        let Some(content) = opened else { return Ok(None) };
        let Some(end) = content.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
        let of: Option<Of> = serde_json::from_slice(&content[..end]).ok();
        Ok(of.filter(|of| of == wanted).map(|_| content[end + 1..].to_vec()))
    }
}
