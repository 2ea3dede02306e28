//! What the admission key says of a writer after it was admitted: which of its commits count, and whose keys sign from then on. One form for
//! both: a writer that is revoked (its log ends), and one that is adopted (its log goes on with another host's keys).
//!
//! A ruling lies in the writer's log under a name that sorts behind every commit, so that whoever lists the log sees it without another
//! request. The newest one says all. It ends an era by the commits that stood at its end: what they have for ancestors can never change, so
//! that a thief of the old key adds nothing, at whatever place he numbers it.
//!
//! Invariants: only what the admission key signed is a ruling; what a ruling does not count is in no catalog, and where it is already the
//! catalog is read anew; a catalog that knew a ruling obeys it when the store has lost it. Not here: deleting what does not count.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::init::{Admission, digest_of, json_line};
use super::log::{Listed, SyncReport};
use super::{Error, Problem, Repository};
use crate::catalog::{Head, WriterRow};
use crate::model::{CommitId, Digest, Moment, RepositoryId, SegmentKey, limits};
use crate::seal::{VerifyingKey, open_signed, sign_text};

const CONTEXT: &str = "lifeboat format 1 ruling";
/// How often one log may change hands.
const RULINGS_MAX: usize = 1_000;

/// A commit that was the newest of its branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Its place.
    pub sequence: u64,
    /// Its name.
    pub digest: CommitId,
}

/// A time in which one pair of keys wrote a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Era {
    /// The host.
    pub host: String,
    /// Its age public key.
    pub recipient: String,
    /// Its Ed25519 public key.
    pub key: VerifyingKey,
    /// Where it ended: these commits count and all before them. Absent while it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Vec<End>>,
}

/// Content of `writers/<writer>/log/ruling-<digest>.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ruling {
    /// The repository.
    pub repository: RepositoryId,
    /// Whose log.
    pub writer: String,
    /// When it was made.
    pub created: Moment,
    /// The ruling that it replaces.
    pub previous: Option<Digest>,
    /// All of the log's eras, in their order.
    pub eras: Vec<Era>,
}

impl Ruling {
    fn parse(text: &[u8], writer: &str, repository: &Repository) -> Result<Self, String> {
        let content = open_signed(CONTEXT, text, &repository.description.admission_key, "the admission key")
            .map_err(|e| e.to_string())?;
        let ruling: Self = serde_json::from_slice(content).map_err(|e| e.to_string())?;
        if ruling.repository != repository.description.repository || ruling.writer != writer {
            return Err(format!("it rules on writer `{}` of {}", ruling.writer, ruling.repository));
        }
        Ok(ruling)
    }
}

/// What counts of a writer.
#[derive(Debug, Clone)]
pub struct Standing {
    /// Its eras; one that goes on where nothing was ever ruled.
    pub eras: Vec<Era>,
    /// The ruling, and when it was made.
    pub ruled: Option<(Digest, Moment)>,
}

impl Standing {
    /// Who writes the log now. Nobody where it was revoked.
    pub fn current(&self) -> Option<&Era> {
        self.eras.iter().rev().find(|era| era.until.is_none())
    }

    /// Beyond which place nothing counts, where the log has ended.
    fn end(&self) -> Option<u64> {
        let ends = self.eras.iter().map(|era| era.until.as_ref());
        let ends: Option<Vec<_>> = ends.collect();
        Some(ends?.into_iter().flatten().map(|end| end.sequence).max().unwrap_or(0))
    }
}

/// The commits of ended eras that count.
#[derive(Default)]
struct Counted {
    commits: HashSet<CommitId>,
    /// A commit is missing there, so that what stood before it cannot be told from what was put there: all of it counts.
    hole: u64,
}

impl Counted {
    fn has(&self, head: &Head) -> bool {
        head.sequence < self.hole || self.commits.contains(&head.digest)
    }
}

/// What a repository remembers of rulings while it is open.
#[derive(Default)]
pub(super) struct Rulings {
    standings: HashMap<String, Standing>,
    counted: HashMap<(String, Digest), std::sync::Arc<Vec<Option<Counted>>>>,
    /// Commits that are in the store and do not count.
    pub left_out: HashSet<Head>,
}

fn fact(writer: &str) -> String {
    format!("rulings on writer {writer}")
}

fn applied(writer: &str) -> String {
    format!("ruling applied to writer {writer}")
}

/// The digest in a ruling's key.
pub(super) fn parse_ruling_key(key: &str) -> Option<Digest> {
    key.rsplit('/').next()?.strip_prefix("ruling-")?.strip_suffix(".json")?.parse().ok()
}

impl Repository {
    /// The rulings on a writer that this catalog has seen, by their digests. They are checked again whenever they are used.
    fn rulings_seen(&self, writer: &str) -> Result<HashMap<Digest, Ruling>, Error> {
        let texts = self.catalog.fact(&fact(writer))?.unwrap_or_default();
        let texts: Vec<String> = serde_json::from_str(&texts).unwrap_or_default();
        let parse =
            |text: String| Some((digest_of(text.as_bytes()), Ruling::parse(text.as_bytes(), writer, self).ok()?));
        Ok(texts.into_iter().filter_map(parse).collect())
    }

    /// The ruling that no other one replaces.
    fn newest_ruling(&self, writer: &str) -> Result<Option<(Digest, Ruling)>, Error> {
        let seen = self.rulings_seen(writer)?;
        let replaced: HashSet<Digest> = seen.values().filter_map(|ruling| ruling.previous).collect();
        let newest = seen.into_iter().filter(|(digest, _)| !replaced.contains(digest));
        Ok(newest.max_by_key(|(digest, ruling)| (ruling.created, *digest)))
    }

    /// What counts of a writer, as far as this catalog knows.
    pub fn standing(&mut self, writer: &str) -> Result<Standing, Error> {
        if let Some(known) = self.rulings.standings.get(writer) {
            return Ok(known.clone());
        }
        let described = self.writer_description(writer)?;
        let standing = match self.newest_ruling(writer)? {
            Some((digest, ruling)) => Standing { ruled: Some((digest, ruling.created)), eras: ruling.eras },
            None => {
                let (host, recipient, key) = (described.host, described.recipient, described.key);
                Standing { eras: vec![Era { host, recipient, key, until: None }], ruled: None }
            }
        };
        self.rulings.standings.insert(writer.to_owned(), standing.clone());
        Ok(standing)
    }

    /// Reads the rulings that a listing of the log has shown and this catalog does not know.
    pub(super) fn take_rulings(&mut self, writer: &str, keys: &[String], report: &mut SyncReport) -> Result<(), Error> {
        use crate::store::Error as E;
        let seen = self.rulings_seen(writer)?;
        let mut fresh = Vec::new();
        for key in keys.iter().take(RULINGS_MAX) {
            let Some(digest) = parse_ruling_key(key).filter(|digest| !seen.contains_key(digest)) else { continue };
            let read = match self.store.get(key, limits::SMALL_MAX as u64) {
                Ok(text) if digest_of(&text) != digest => Err("its bytes do not match its name".to_owned()),
                Ok(text) => Ruling::parse(&text, writer, self).map(|_| text),
                Err(e @ (E::NotFound { .. } | E::Truncated { .. } | E::TooLarge { .. })) => Err(e.to_string()),
                Err(e) => return Err(e.into()),
            };
            match read {
                Ok(text) => fresh.push(String::from_utf8_lossy(&text).into_owned()),
                Err(why) => report.problems.push(Problem::BadKeys { key: key.clone(), why }),
            }
        }
        if !fresh.is_empty() {
            self.note_rulings(writer, fresh)?;
        }
        Ok(())
    }

    fn note_rulings(&mut self, writer: &str, fresh: Vec<String>) -> Result<(), Error> {
        let texts = self.catalog.fact(&fact(writer))?.unwrap_or_default();
        let mut texts: Vec<String> = serde_json::from_str(&texts).unwrap_or_default();
        texts.extend(fresh);
        let bad = |e: serde_json::Error| Error::BadObject { key: fact(writer), why: e.to_string() };
        self.catalog.set_fact(&fact(writer), &serde_json::to_string(&texts).map_err(bad)?)?;
        self.rulings.standings.remove(writer);
        Ok(())
    }

    /// For each era the commits of it that count; `None` where it goes on and all do.
    fn counted(&mut self, writer: &str) -> Result<std::sync::Arc<Vec<Option<Counted>>>, Error> {
        let standing = self.standing(writer)?;
        let Some((digest, _)) = standing.ruled else { return Ok(std::sync::Arc::new(vec![None])) };
        let place = (writer.to_owned(), digest);
        if let Some(known) = self.rulings.counted.get(&place) {
            return Ok(std::sync::Arc::clone(known));
        }
        let listed: HashMap<CommitId, Listed> =
            self.list_log(writer, None)?.into_iter().map(|listed| (listed.head.digest, listed)).collect();
        let mut eras = Vec::with_capacity(standing.eras.len());
        for era in &standing.eras {
            eras.push(match &era.until {
                Some(ends) => Some(self.ancestors(writer, ends, &listed)?),
                None => None,
            });
        }
        let eras = std::sync::Arc::new(eras);
        self.rulings.counted.insert(place, std::sync::Arc::clone(&eras));
        Ok(eras)
    }

    /// Some commits and all before them.
    fn ancestors(&mut self, writer: &str, ends: &[End], listed: &HashMap<CommitId, Listed>) -> Result<Counted, Error> {
        let mut counted = Counted::default();
        let row = self.catalog.writer(writer)?;
        let mut open: Vec<(u64, CommitId)> = ends.iter().map(|end| (end.sequence, end.digest)).collect();
        while let Some((sequence, digest)) = open.pop() {
            if !counted.commits.insert(digest) {
                continue;
            }
            let parents = match self.catalog.parents(row, &digest)? {
                Some(parents) => parents,
                None => match listed.get(&digest).map(|listed| self.read_signed(writer, listed)) {
                    Some(Ok((_, commit))) => commit.header.parents,
                    None | Some(Err(Error::BadObject { .. } | Error::NewerCommit { .. })) => {
                        counted.hole = counted.hole.max(sequence);
                        continue;
                    }
                    Some(Err(e)) => return Err(e),
                },
            };
            open.extend(parents.into_iter().map(|parent| (sequence.saturating_sub(1), parent)));
        }
        Ok(counted)
    }

    /// Whether a commit that an era's key signed counts.
    pub(super) fn counts(&mut self, writer: &str, era: usize, head: &Head) -> Result<bool, Error> {
        let counted = self.counted(writer)?;
        let counts = counted.get(era).is_some_and(|era| era.as_ref().is_none_or(|counted| counted.has(head)));
        if !counts {
            self.rulings.left_out.insert(*head);
        }
        Ok(counts)
    }

    /// Leaves out of a listing what cannot count, without reading it: what lies beyond the end of a log that has ended.
    pub(super) fn leave_out(&mut self, writer: &str, listed: &mut Vec<Listed>) -> Result<(), Error> {
        let Some(end) = self.standing(writer)?.end() else { return Ok(()) };
        for beyond in listed.iter().filter(|listed| listed.head.sequence > end) {
            self.rulings.left_out.insert(beyond.head);
        }
        listed.retain(|listed| listed.head.sequence <= end);
        Ok(())
    }

    /// Whether something that a witness saw of a writer's log is not missing, but does not count.
    pub(super) fn is_left_out(&mut self, writer: &str, head: &Head) -> bool {
        self.rulings.left_out.contains(head)
            || self.standing(writer).is_ok_and(|standing| standing.end().is_some_and(|end| head.sequence > end))
    }

    /// Whether the catalog holds commits that a ruling no longer counts. Asked once for each ruling.
    pub(super) fn counts_too_much(&mut self, writer: &str, row: WriterRow) -> Result<bool, Error> {
        let Some((digest, _)) = self.standing(writer)?.ruled else { return Ok(false) };
        if self.catalog.fact(&applied(writer))?.as_deref() == Some(&digest.to_string()) {
            return Ok(false);
        }
        let end = self.standing(writer)?.end();
        for head in self.catalog.commits(row, false)? {
            if end.is_some_and(|end| head.sequence > end) {
                return Ok(true);
            }
        }
        let counted = self.counted(writer)?;
        let read = self.catalog.commits(row, true)?;
        let rest: Vec<Head> = read.into_iter().filter(|h| !counted.iter().flatten().any(|era| era.has(h))).collect();
        if !rest.is_empty() {
            // Not of an era that has ended: of one that goes on, or it should not be there.
            let listed = self.list_log(writer, None)?;
            for object in listed.iter().filter(|listed| rest.contains(&listed.head)) {
                match self.read_signed(writer, object) {
                    Ok((era, _)) if self.counts(writer, era, &object.head)? => {}
                    Ok(_) | Err(Error::BadObject { .. } | Error::NewerCommit { .. }) => return Ok(true),
                    Err(e) => return Err(e),
                }
            }
        }
        self.catalog.set_fact(&applied(writer), &digest.to_string())?;
        Ok(false)
    }

    /// The segments that count of a writer whose log has ended: those that counting commits name. `None` while it goes on.
    pub(super) fn counted_segments(&self, writer: &str) -> Result<Option<HashSet<SegmentKey>>, Error> {
        let goes_on = |ruling: &Ruling| ruling.eras.iter().any(|era| era.until.is_none());
        if self.newest_ruling(writer)?.is_none_or(|(_, ruling)| goes_on(&ruling)) {
            return Ok(None);
        }
        let mut counted = HashSet::new();
        for stream in self.catalog.streams(writer)? {
            let records = self.catalog.segments(writer, &stream)?;
            counted.extend(records.into_iter().map(|record| SegmentKey(record.place, record.digest)));
        }
        Ok(Some(counted))
    }

    /// Refuses to write where this host's keys do not sign its log any more.
    pub(super) fn check_standing(&self) -> Result<(), Error> {
        let host = self.host()?;
        let Some((_, ruling)) = self.newest_ruling(&host.name)? else { return Ok(()) };
        let current = ruling.eras.iter().rev().find(|era| era.until.is_none());
        if current.is_some_and(|era| era.key == host.signing.public()) {
            return Ok(());
        }
        Err(Error::Overruled {
            writer: host.name.clone(),
            at: ruling.created.format("%Y-%m-%d").to_string(),
            host: current.map(|era| era.host.clone()),
        })
    }

    /// Puts a ruling into a writer's log; needs an identity. The catalog obeys it when it is opened next.
    pub(super) fn rule(&mut self, writer: &str, eras: Vec<Era>, now: Moment) -> Result<Digest, Error> {
        let opener = std::sync::Arc::clone(self.data_opener("ruling on a writer")?);
        let admission = Admission::open(&self.store, &self.description, &opener)?;
        let before = self.standing(writer)?.ruled;
        let ruling = Ruling {
            repository: self.description.repository,
            writer: writer.to_owned(),
            created: before.map_or(now, |(_, before)| now.max(before)),
            previous: before.map(|(digest, _)| digest),
            eras,
        };
        let text = sign_text(CONTEXT, &json_line(&ruling, "ruling")?, &admission.signing);
        let digest = digest_of(&text);
        let key = format!("writers/{writer}/log/ruling-{digest}.json");
        self.store.appender().create(&key, &[Bytes::from(text.clone())])?;
        self.note_rulings(writer, vec![String::from_utf8_lossy(&text).into_owned()])?;
        Ok(digest)
    }

    /// The newest commits of a writer that the store received before a time, and that have no ancestor that it received later.
    pub fn ends_before(&mut self, writer: &str, before: Option<Moment>) -> Result<Vec<End>, Error> {
        let row = self.catalog.writer(writer)?;
        let (mut kept, mut ends): (HashSet<CommitId>, HashMap<CommitId, u64>) = (HashSet::new(), HashMap::new());
        for head in self.catalog.commits(row, true)? {
            let early = match before {
                Some(before) => self.catalog.received(&head.digest)?.is_some_and(|at| at < before),
                None => true,
            };
            let parents = self.catalog.parents(row, &head.digest)?.unwrap_or_default();
            let whole =
                |parent: &CommitId| kept.contains(parent) || !self.catalog.has_read(row, parent).unwrap_or(true);
            if early && parents.iter().all(whole) {
                for parent in &parents {
                    ends.remove(parent);
                }
                kept.insert(head.digest);
                ends.insert(head.digest, head.sequence);
            }
        }
        let mut ends: Vec<End> = ends.into_iter().map(|(digest, sequence)| End { sequence, digest }).collect();
        ends.sort_by_key(|end| (end.sequence, end.digest));
        Ok(ends)
    }
}
