//! Auditing logs and keys: what a check does beyond the packs. Nothing here is believed because the catalog says so.

use std::collections::HashSet;

use super::log::Problem;
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
            let listed = self.list_log(&name, None)?;
            let there: HashSet<Head> = listed.iter().map(|l| l.head).collect();
            for readable in [true, false] {
                for head in self.catalog.commits(row, readable)? {
                    let there = there.contains(&head);
                    let opens = readable || self.log_openers(&name).is_empty();
                    if !(there && opens) {
                        let Head { sequence, digest } = head;
                        problems.push(Problem::MissingCommit { writer: name.clone(), sequence, digest });
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
            for object in listed {
                if progress.cancelled() {
                    return Err(Error::Cancelled);
                }
                let digest = Digest::new(*object.head.digest.as_bytes());
                self.audit_object(&object.key, digest, limits::COMMIT_MAX as u64, &mut problems)?;
            }
        }
        if read {
            for object in self.store.list("keys", None)? {
                let name = object.key.rsplit('-').next().and_then(|name| name.split('.').next());
                match name.and_then(|name| name.parse().ok()) {
                    Some(digest) => self.audit_object(&object.key, digest, limits::SMALL_MAX as u64, &mut problems)?,
                    None => tracing::warn!(key = object.key, "an object among the keys that is no key is left out"),
                }
            }
        }
        self.leave_out_lost(&mut problems)?;
        Ok(problems)
    }

    fn audit_object(&self, key: &str, digest: Digest, limit: u64, problems: &mut Vec<Problem>) -> Result<(), Error> {
        use crate::store::Error as E;
        let why = match self.store.get(key, limit) {
            Ok(bytes) if blake3::hash(&bytes).as_bytes() == digest.as_bytes() => return Ok(()),
            Ok(_) => "its bytes do not match its name".to_owned(),
            Err(e @ (E::NotFound { .. } | E::Truncated { .. } | E::TooLarge { .. })) => e.to_string(),
            Err(e) => return Err(e.into()),
        };
        problems.push(Problem::BadCommit { key: key.to_owned(), why });
        Ok(())
    }
}
