//! Auditing logs and keys: what a check does beyond the packs. Nothing here is believed because the catalog says so.

use std::collections::HashMap;

use super::log::Listed;
use super::problem::Problem;
use super::rulings::parse_ruling_key;
use super::{Error, Repository};
use crate::catalog::Head;
use crate::model::{Digest, limits};
use crate::progress::Progress;

impl Repository {
    /// Lists every log from its beginning and compares it with the catalog; with `read` every commit's bytes and every
    /// key object's are compared with their names, and writers' descriptions are read anew.
    pub fn audit_logs(&mut self, read: bool, progress: &dyn Progress) -> Result<Vec<Problem>, Error> {
        let mut problems = Vec::new();
        for (row, name) in self.catalog.writers()? {
            // The catalog first: what another process commits meanwhile must not be missed in a listing that is older.
            let known = [(true, self.catalog.commits(row, true)?), (false, self.catalog.commits(row, false)?)];
            let (listed, rulings) = self.list_log_and_rulings(&name, None)?;
            let there: HashMap<Head, &Listed> = listed.iter().map(|l| (l.head, l)).collect();
            for (readable, heads) in known {
                for head in heads {
                    let Some(object) = there.get(&head) else {
                        let Head { sequence, digest } = head;
                        problems.push(Problem::MissingCommit { writer: name.clone(), sequence, digest });
                        continue;
                    };
                    // Known by name only, and a key is at hand: it is damaged, or a process without that key has noted
                    // it since this one read the log.
                    if !readable && !self.log_openers(&name).is_empty() {
                        match self.read_commit(&name, object) {
                            Ok(_) => {}
                            Err(Error::BadObject { key, why }) => problems.push(Problem::BadCommit { key, why }),
                            Err(Error::NewerCommit { key, program }) => {
                                problems.push(Problem::NewerCommit { key, program });
                            }
                            Err(e) => return Err(e),
                        }
                    }
                }
            }
            if !read {
                continue;
            }
            self.writers.remove(&name);
            self.catalog.set_fact(&format!("description of writer {name}"), "")?;
            if let Err(e) = self.writer_description(&name) {
                problems.push(Problem::BadWriter { writer: name.clone(), why: e.to_string() });
            }
            for key in rulings {
                let Some(digest) = parse_ruling_key(&key) else { continue };
                let bad = self.audit_object(&key, digest, limits::SMALL_MAX as u64)?;
                problems.extend(bad.map(|(key, why)| Problem::BadKeys { key, why }));
            }
            for object in listed {
                if progress.cancelled() {
                    return Err(Error::Cancelled);
                }
                let digest = Digest::new(*object.head.digest.as_bytes());
                let bad = self.audit_object(&object.key, digest, limits::COMMIT_MAX as u64)?;
                problems.extend(bad.map(|(key, why)| Problem::BadCommit { key, why }));
            }
        }
        self.audit_keys(read, &mut problems)?;
        self.leave_out_lost(&mut problems)?;
        Ok(problems)
    }

    /// What opens the repository must be there: the sealed secret, and the list of recipients, signed by the admission
    /// key, that this host pinned. What else lies there under such a name is somebody's doing.
    fn audit_keys(&self, read: bool, problems: &mut Vec<Problem>) -> Result<(), Error> {
        let (mut bad, mut secrets) = (Vec::new(), 0);
        for object in self.store.list("keys", None)? {
            secrets += u64::from(object.key.starts_with("keys/secret-"));
            let name = object.key.rsplit('-').next().and_then(|name| name.split('.').next());
            match name.and_then(|name| name.parse().ok()) {
                Some(digest) if read => bad.extend(self.audit_object(&object.key, digest, limits::SMALL_MAX as u64)?),
                Some(_) => {}
                None => tracing::warn!(key = object.key, "an object among the keys that is no key is left out"),
            }
        }
        if secrets == 0 {
            bad.push(("keys/secret-".to_owned(), "the secret sealed to the recipients is not there".to_owned()));
        }
        let (lists, refused) = super::init::recipients_lists(&self.store, &self.description)?;
        bad.extend(refused);
        match super::init::newest_list(lists) {
            Some((found, _)) if self.host.as_ref().is_some_and(|host| host.recipients_list != found) => {
                problems.push(Problem::OtherRecipients { found: found.to_string() });
            }
            Some(_) => {}
            None => {
                let why = "there is no list that the admission key signed".to_owned();
                bad.push(("keys/recipients-".to_owned(), why));
            }
        }
        bad.sort();
        bad.dedup();
        problems.extend(bad.into_iter().map(|(key, why)| Problem::BadKeys { key, why }));
        Ok(())
    }

    /// The object and what is wrong with it, if its bytes do not match its name.
    fn audit_object(&self, key: &str, digest: Digest, limit: u64) -> Result<Option<(String, String)>, Error> {
        use crate::store::Error as E;
        let why = match self.store.get(key, limit) {
            Ok(bytes) if blake3::hash(&bytes).as_bytes() == digest.as_bytes() => return Ok(None),
            Ok(_) => "its bytes do not match its name".to_owned(),
            Err(e @ (E::NotFound { .. } | E::Truncated { .. } | E::TooLarge { .. })) => e.to_string(),
            Err(e) => return Err(e.into()),
        };
        Ok(Some((key.to_owned(), why)))
    }
}
