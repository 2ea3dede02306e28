//! A log for those who were added to the list of recipients later: what its commits say, sealed to the newer list beside them.
//!
//! Invariants: the log itself stays as it is, for its commits are named by their bytes; a writer signs which commit a text is of, and the text
//! carries the commit's own signature; it counts only for who cannot open the commit itself. No identity is needed to write it: a host
//! reads its own log.

use std::collections::HashSet;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::layout::parse_commit_key;
use super::log::Listed;
use super::{Error, Repository};
use crate::model::{CommitId, Digest, limits};
use crate::progress::{Event, Progress};
use crate::seal::{open_signed, sign_text};

const CONTEXT: &str = "lifeboat format 1 resealed";
/// What the frame around a commit's text takes.
const AROUND: usize = 64 << 10;

/// The first line of the text.
#[derive(Serialize, Deserialize)]
struct Of {
    commit: CommitId,
}

fn folder(writer: &str, list: &Digest) -> String {
    format!("writers/{writer}/resealed/{list}")
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
        let folder = folder(&name, &list);
        let there: HashSet<_> =
            self.store.list(&folder, None)?.iter().filter_map(|o| parse_commit_key(&o.key)).collect();
        let listed = self.list_log(&name, None)?;
        let wanted = listed.iter().filter(|l| all || until.is_none_or(|until| l.head.sequence <= until));
        let wanted: Vec<&Listed> = wanted.filter(|l| !there.contains(&(l.head.sequence, l.head.digest))).collect();
        if !wanted.is_empty() {
            progress.event(Event::Stage("sealing the log anew"));
        }
        let mut done = 0;
        for object in wanted {
            if progress.cancelled() {
                return Err(Error::Cancelled);
            }
            // What does not open or is not this host's is told by whoever reads the log.
            let Some(text) = self.text_of(&name, object)? else { continue };
            let host = self.host()?;
            let keys = |source| Error::Keys { what: "the log".to_owned(), source };
            let line = serde_json::to_vec(&Of { commit: object.head.digest });
            let line = line.map_err(|e| Error::BadObject { key: object.key.clone(), why: e.to_string() })?;
            let signed = sign_text(CONTEXT, &[&line[..], b"\n", &text].concat(), &host.signing);
            let sealed = host.log.seal_compressed(&signed).map_err(keys)?;
            let file = object.key.rsplit('/').next().unwrap_or_default();
            self.store.appender().create(&format!("{folder}/{file}"), &[Bytes::from(sealed)])?;
            done += 1;
        }
        Ok(done)
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
        use crate::store::Error as E;
        if self.identities.is_none() {
            return Ok(None);
        }
        let list = match self.newest_list {
            Some(list) => list,
            None => *self.newest_list.insert(self.current_recipients()?.0),
        };
        let file = object.key.rsplit('/').next().unwrap_or_default();
        let limit = limits::COMMIT_MAX + AROUND;
        let sealed = match self.store.get(&format!("{}/{file}", folder(writer, &list)), limit as u64) {
            Ok(sealed) => sealed,
            Err(E::NotFound { .. } | E::Truncated { .. } | E::TooLarge { .. }) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let key = self.writer_description(writer)?.key;
        let openers = self.log_openers(writer);
        let text = openers.into_iter().find_map(|opener| opener.open_compressed(&sealed, limit).ok());
        let Some(text) = text else { return Ok(None) };
        let Ok(content) = open_signed(CONTEXT, &text, &key, writer) else { return Ok(None) };
        let Some(end) = content.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
        let of: Option<Of> = serde_json::from_slice(&content[..end]).ok();
        Ok(of.filter(|of| of.commit == object.head.digest).map(|_| content[end + 1..].to_vec()))
    }
}
