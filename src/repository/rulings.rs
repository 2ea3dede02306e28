//! What the admission key says of a writer after it was admitted: which of its commits count, and whose keys sign from then on. One form for
//! all: a writer that is revoked (its log ends), one that is adopted (its log goes on with another host's keys), and one that has keepers
//! (hosts that free what its log does not need: `keeping`).
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
use super::keeping::Keeper;
use super::log::Listed;
use super::{Error, Problem, Repository, SyncReport};
use crate::catalog::{Head, SnapshotRow, WriterRow};
use crate::model::{CommitHeader, CommitId, Digest, Moment, RepositoryId, SegmentKey, limits};
use crate::seal::{VerifyingKey, open_signed, sign_text};

const CONTEXT: &str = "lifeboat format 1 ruling";
/// Commits that are remembered as not counting, of one writer, at most: beyond it they are read again each time.
const LEFT_OUT_MAX: usize = 10_000;

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
    /// By the store's clock: where a commit is missing, of what stood before it only that counts which the store had by then.
    pub had_by: Moment,
    /// All of the log's eras, in their order.
    pub eras: Vec<Era>,
    /// The hosts that free what the log does not need.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keepers: Vec<Keeper>,
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
    /// Its keepers.
    pub keepers: Vec<Keeper>,
    /// The ruling, and when it was made.
    pub ruled: Option<(Digest, Moment)>,
    had_by: Moment,
}

impl Standing {
    /// Who writes the log now. Nobody where it was revoked.
    pub fn current(&self) -> Option<&Era> {
        current_of(&self.eras)
    }

    /// Beyond which place nothing counts, where the log has ended.
    fn end(&self) -> Option<u64> {
        end_of(&self.eras, &self.keepers)
    }

    /// Whose keys sign commits, and until where: of the eras in their order, and behind them of the keepers.
    pub(super) fn signers(&self) -> Vec<(VerifyingKey, Option<&Vec<End>>)> {
        let eras = self.eras.iter().map(|era| (era.key, era.until.as_ref()));
        eras.chain(self.keepers.iter().map(|keeper| (keeper.key, keeper.until.as_ref()))).collect()
    }

    /// Whether a signer is a keeper.
    pub(super) fn is_keeper(&self, signer: usize) -> bool {
        signer >= self.eras.len()
    }
}

/// The era that goes on.
fn current_of(eras: &[Era]) -> Option<&Era> {
    eras.iter().rev().find(|era| era.until.is_none())
}

/// The last place of a log to which nobody commits any more: no era goes on, and no keeper.
fn end_of(eras: &[Era], keepers: &[Keeper]) -> Option<u64> {
    let untils = eras.iter().map(|era| era.until.as_ref()).chain(keepers.iter().map(|keeper| keeper.until.as_ref()));
    let ends: Option<Vec<_>> = untils.collect();
    Some(ends?.into_iter().flatten().map(|end| end.sequence).max().unwrap_or(0))
}

/// The commits of ended eras that count.
#[derive(Default)]
struct Counted {
    commits: HashSet<CommitId>,
    /// A commit is missing there, so that what stood before it cannot be told by its descendants: what the store had by then counts.
    hole: u64,
    had_by: Moment,
}

impl Counted {
    fn has(&self, head: &Head, received: Option<Moment>) -> bool {
        let before_a_hole = head.sequence < self.hole && received.is_some_and(|at| at < self.had_by);
        before_a_hole || self.commits.contains(&head.digest)
    }
}

/// What a repository remembers of rulings while it is open.
#[derive(Default)]
pub(super) struct Rulings {
    standings: HashMap<String, Standing>,
    counted: HashMap<(String, Digest), std::sync::Arc<Vec<Option<Counted>>>>,
    /// Commits that are in the store and do not count, of each writer.
    left_out: HashMap<String, HashSet<Head>>,
}

fn fact(writer: &str) -> String {
    format!("rulings on writer {writer}")
}

fn left_out(writer: &str) -> String {
    format!("commits of writer {writer} that do not count")
}

fn refused(writer: &str) -> String {
    format!("no rulings on writer {writer}")
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

    /// The ruling on a writer that is in force, as far as this catalog knows.
    pub(super) fn ruling_now(&self, writer: &str) -> Result<Option<Ruling>, Error> {
        Ok(self.newest_ruling(writer)?.map(|(_, ruling)| ruling))
    }

    /// What counts of a writer, as far as this catalog knows.
    pub fn standing(&mut self, writer: &str) -> Result<Standing, Error> {
        if let Some(known) = self.rulings.standings.get(writer) {
            return Ok(known.clone());
        }
        let described = self.writer_description(writer)?;
        let standing = match self.newest_ruling(writer)? {
            Some((digest, ruling)) => Standing {
                ruled: Some((digest, ruling.created)),
                eras: ruling.eras,
                keepers: ruling.keepers,
                had_by: ruling.had_by,
            },
            None => {
                let (host, recipient, key) = (described.host, described.recipient, described.key);
                let eras = vec![Era { host, recipient, key, until: None }];
                Standing { eras, keepers: Vec::new(), ruled: None, had_by: Moment::MIN_UTC }
            }
        };
        self.rulings.standings.insert(writer.to_owned(), standing.clone());
        Ok(standing)
    }

    /// Reads the rulings that a listing of the log has shown and this catalog does not know.
    pub(super) fn take_rulings(&mut self, writer: &str, keys: &[String], report: &mut SyncReport) -> Result<(), Error> {
        use crate::store::Error as E;
        // Another process may have noted one.
        self.rulings.standings.remove(writer);
        let seen = self.rulings_seen(writer)?;
        let listed: HashSet<Digest> = keys.iter().filter_map(|key| parse_ruling_key(key)).collect();
        for digest in seen.keys().filter(|digest| !listed.contains(digest)) {
            let key = format!("writers/{writer}/log/ruling-{digest}.json");
            let why =
                "this catalog knows it and obeys it, and the store has lost it: rule again, for those who come later";
            report.problems.push(Problem::BadKeys { key, why: why.to_owned() });
        }
        let text = self.catalog.fact(&refused(writer))?.unwrap_or_default();
        let mut junk: HashSet<Digest> = serde_json::from_str(&text).unwrap_or_default();
        let (mut fresh, known_junk) = (Vec::new(), junk.len());
        for key in keys {
            let Some(digest) = parse_ruling_key(key).filter(|digest| !seen.contains_key(digest)) else { continue };
            let unsigned = || "the admission key did not sign it".to_owned();
            let read = match junk.contains(&digest) {
                true => Err(unsigned()),
                false => match self.store.get(key, limits::SMALL_MAX as u64) {
                    Ok(text) if digest_of(&text) != digest => Err("its bytes do not match its name".to_owned()),
                    Ok(text) => Ruling::parse(&text, writer, self).map(|_| text).inspect_err(|_| {
                        junk.insert(digest);
                    }),
                    Err(e @ (E::NotFound { .. } | E::Truncated { .. } | E::TooLarge { .. })) => Err(e.to_string()),
                    Err(e) => return Err(e.into()),
                },
            };
            match read {
                Ok(text) => fresh.push(String::from_utf8_lossy(&text).into_owned()),
                Err(why) => report.problems.push(Problem::BadKeys { key: key.clone(), why }),
            }
        }
        if junk.len() > known_junk {
            self.catalog.set_fact(&refused(writer), &serde_json::to_string(&junk).unwrap_or_default())?;
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

    /// For each signer the commits of it that count; `None` where it goes on and all do.
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
        for (_, until) in standing.signers() {
            eras.push(match until {
                Some(ends) => Some(Counted { had_by: standing.had_by, ..self.ancestors(writer, ends, &listed)? }),
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

    /// Whether a commit that one of the signers signed counts.
    pub(super) fn counts(&mut self, writer: &str, era: usize, object: &Listed) -> Result<bool, Error> {
        if self.standing(writer)?.signers().get(era).is_some_and(|(_, until)| until.is_none()) {
            return Ok(true);
        }
        let counted = self.counted(writer)?;
        let ended = counted.get(era).and_then(Option::as_ref);
        if ended.is_some_and(|counted| counted.has(&object.head, Some(object.received))) {
            return Ok(true);
        }
        let known = self.left_out(writer)?;
        if known.insert(object.head) && known.len() <= LEFT_OUT_MAX {
            let all: Vec<End> = known.iter().map(|head| End { sequence: head.sequence, digest: head.digest }).collect();
            self.catalog.set_fact(&left_out(writer), &serde_json::to_string(&all).unwrap_or_default())?;
        }
        Ok(false)
    }

    /// Commits of a writer that lie in the store and do not count, as far as they were read.
    fn left_out(&mut self, writer: &str) -> Result<&mut HashSet<Head>, Error> {
        if !self.rulings.left_out.contains_key(writer) {
            let text = self.catalog.fact(&left_out(writer))?.unwrap_or_default();
            let all: Vec<End> = serde_json::from_str(&text).unwrap_or_default();
            let all = all.into_iter().map(|End { sequence, digest }| Head { sequence, digest }).collect();
            self.rulings.left_out.insert(writer.to_owned(), all);
        }
        Ok(self.rulings.left_out.entry(writer.to_owned()).or_default())
    }

    /// Leaves out of a listing what cannot count, without reading it: what lies beyond the end of a log that has ended, and what was
    /// read before. A later ruling counts less, never more.
    pub(super) fn leave_out(&mut self, writer: &str, listed: &mut Vec<Listed>) -> Result<(), Error> {
        let standing = self.standing(writer)?;
        if standing.ruled.is_none() {
            return Ok(());
        }
        let end = standing.end().unwrap_or(u64::MAX);
        let known = self.left_out(writer)?;
        listed.retain(|listed| listed.head.sequence <= end && !known.contains(&listed.head));
        Ok(())
    }

    /// The parents of a commit that count: a keeper that went on with a log after its thief names one of his.
    pub(super) fn counting_parents(&mut self, writer: &str, header: &CommitHeader) -> Result<Vec<CommitId>, Error> {
        if self.standing(writer)?.ruled.is_none() {
            return Ok(header.parents.clone());
        }
        let left_out: HashSet<CommitId> = self.left_out(writer)?.iter().map(|head| head.digest).collect();
        Ok(header.parents.iter().filter(|parent| !left_out.contains(parent)).copied().collect())
    }

    /// Whether something that a witness saw of a writer's log, or that lies in it, is not missing, but does not count.
    pub(super) fn is_left_out(&mut self, writer: &str, head: &Head) -> Result<bool, Error> {
        let known = self.left_out(writer)?.contains(head);
        Ok(known || self.log_end(writer)?.is_some_and(|end| head.sequence > end))
    }

    /// Beyond which place nothing of a log counts, where it has ended.
    pub(super) fn log_end(&self, writer: &str) -> Result<Option<u64>, Error> {
        Ok(self.newest_ruling(writer)?.and_then(|(_, ruling)| end_of(&ruling.eras, &ruling.keepers)))
    }

    /// Whether the catalog holds commits that a ruling no longer counts. Asked once for each ruling.
    pub(super) fn counts_too_much(&mut self, writer: &str, row: WriterRow) -> Result<bool, Error> {
        let standing = self.standing(writer)?;
        let Some((digest, _)) = standing.ruled else { return Ok(false) };
        if self.catalog.fact(&applied(writer))?.as_deref() == Some(&digest.to_string()) {
            return Ok(false);
        }
        if let Some(end) = standing.end() {
            self.catalog.forget_unread_beyond(row, end)?;
        }
        // Where nobody's time has ended everything counts.
        if standing.signers().iter().all(|(_, until)| until.is_none()) {
            self.catalog.set_fact(&applied(writer), &digest.to_string())?;
            return Ok(false);
        }
        let counted = self.counted(writer)?;
        let mut rest: HashSet<Head> = HashSet::new();
        for head in self.catalog.commits(row, true)? {
            let received = self.catalog.received(&head.digest)?;
            if !counted.iter().flatten().any(|era| era.has(&head, received)) {
                rest.insert(head);
            }
        }
        if !rest.is_empty() && standing.end().is_some() {
            return Ok(true);
        }
        if !rest.is_empty() {
            // Not of an era that has ended: of the one that goes on, or it should not be there.
            let listed = self.list_log(writer, None)?;
            for object in listed.iter().filter(|listed| rest.contains(&listed.head)) {
                match self.read_signed(writer, object) {
                    Ok((era, _)) if self.counts(writer, era, object)? => {}
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
        let ruling = self.ruling_now(writer)?;
        if ruling.is_none_or(|ruling| current_of(&ruling.eras).is_some()) {
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
        let ours = host.signing.public();
        let ruling = match self.newest_ruling(&host.name)? {
            Some((_, ruling)) => ruling,
            None if self.hold.is_none() => return Ok(()),
            None => return Err(Error::NotItsKeeper(host.name.clone())),
        };
        let current = current_of(&ruling.eras);
        match self.hold {
            None if current.is_some_and(|era| era.key == ours) => return Ok(()),
            Some(_) if ruling.keepers.iter().any(|keeper| keeper.key == ours && keeper.until.is_none()) => {
                return Ok(());
            }
            Some(_) => return Err(Error::NotItsKeeper(host.name.clone())),
            None => {}
        }
        Err(Error::Overruled {
            writer: host.name.clone(),
            at: ruling.created.format("%Y-%m-%d").to_string(),
            host: current.map(|era| era.host.clone()),
        })
    }

    /// Puts a ruling into a writer's log; needs an identity. The catalog obeys it when it is opened next.
    pub(super) fn rule(
        &mut self,
        writer: &str,
        (eras, keepers): (Vec<Era>, Vec<Keeper>),
        had_by: Moment,
        now: Moment,
    ) -> Result<Digest, Error> {
        let opener = std::sync::Arc::clone(self.data_opener("ruling on a writer")?);
        let admission = Admission::open(&self.store, &self.description, &opener)?;
        let before = self.standing(writer)?.ruled;
        let ruling = Ruling {
            repository: self.description.repository,
            writer: writer.to_owned(),
            created: before.map_or(now, |(_, before)| now.max(before)),
            previous: before.map(|(digest, _)| digest),
            had_by,
            eras,
            keepers,
        };
        let text = sign_text(CONTEXT, &json_line(&ruling, "ruling")?, &admission.signing);
        let digest = digest_of(&text);
        let key = format!("writers/{writer}/log/ruling-{digest}.json");
        self.store.appender().create(&key, &[Bytes::from(text.clone())])?;
        self.note_rulings(writer, vec![String::from_utf8_lossy(&text).into_owned()])?;
        Ok(digest)
    }

    /// The newest commits of a writer among those that the store received before a time: with no time, of all. What they have for ancestors was
    /// there before them, whatever the store says of an object that was put again.
    pub fn ends_before(&mut self, writer: &str, before: Option<Moment>) -> Result<Vec<End>, Error> {
        let row = self.catalog.writer(writer)?;
        let mut ends: HashMap<CommitId, u64> = HashMap::new();
        for head in self.catalog.commits(row, true)? {
            let early = match before {
                Some(before) => self.catalog.received(&head.digest)?.is_some_and(|at| at < before),
                None => true,
            };
            if early {
                for parent in self.catalog.parents(row, &head.digest)?.unwrap_or_default() {
                    ends.remove(&parent);
                }
                ends.insert(head.digest, head.sequence);
            }
        }
        let mut ends: Vec<End> = ends.into_iter().map(|(digest, sequence)| End { sequence, digest }).collect();
        ends.sort_by_key(|end| (end.sequence, end.digest));
        Ok(ends)
    }

    /// The snapshots of a writer that would not count if its log ended so.
    pub fn snapshots_beyond(&mut self, writer: &str, ends: &[End]) -> Result<Vec<SnapshotRow>, Error> {
        let row = self.catalog.writer(writer)?;
        let counted = self.ancestors(writer, ends, &HashMap::new())?;
        let commits: HashMap<String, CommitId> = self.catalog.commits_of_snapshots(row)?.into_iter().collect();
        let mut all = self.catalog.snapshots()?;
        all.retain(|snapshot| {
            let commit = commits.get(&snapshot.record.id.to_string());
            snapshot.writer == row && commit.is_some_and(|commit| !counted.commits.contains(commit))
        });
        Ok(all)
    }
}
