//! Keepers: hosts that free what another host's log does not need, so that the host itself needs no right to delete anything.
//!
//! A ruling names a writer's keepers. The writer seals its commits and directories to them as well; data it does not. A keeper signs commits
//! in the writer's log: packs that it copied, what is retired, kept, deleted, and nothing else. It has a catalog of its own of each writer.
//!
//! Invariants: what the writer itself says to take something away (forgotten, unpinned, lost, retired, deleted) a keeper believes a hold
//! later, by the store's clock; what adds something, or keeps it, at once. What is
//! young replaces nothing that was known: of a frame every copy stays, of a segment the first word. So whoever has stolen the writer's key loses nothing to it
//! before the hold is over, and what he stores beside what is there stands for nothing until then. Not here: what is free (`plan::prune`).

use std::sync::Arc;

use chrono::TimeDelta;
use serde::{Deserialize, Serialize};

use super::host::{HostFolder, HostWriter};
use super::init::Admission;
use super::layout::{commit_key, is_writer_name};
use super::log::Listed;
use super::rulings::{End, Standing};
use super::{Error, Repository};
use crate::catalog::{CommitAt, Head, Usage, WriterRow};
use crate::model::{Commit, CommitId, CommitLine, Moment};
use crate::progress::Progress;
use crate::seal::{Recipient, Sealer, VerifyingKey};
use crate::store::Store;

/// The hold where none is given: seven days.
const USUAL_HOLD: u64 = 7 * 86_400;
/// The catalog's note of commits of which a part waits.
const HELD: &str = "words that are not believed yet";

/// A host that frees what a log does not need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keeper {
    /// Its name as a writer.
    pub writer: String,
    /// Its age public key.
    pub recipient: String,
    /// Its Ed25519 public key.
    pub key: VerifyingKey,
    /// Seconds after which it believes what takes something away, by the store's clock.
    pub hold: u64,
    /// Where it ended: these commits count and all before them. Absent while it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Vec<End>>,
}

/// A repository that is open as a keeper's.
#[derive(Debug, Clone)]
pub(super) struct Hold {
    /// What the store received up to then is believed whole. Unknown before the log was listed.
    until: Option<Moment>,
    seconds: u64,
}

/// A commit of the writer of which a part is not believed yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldBack {
    /// Its place.
    pub sequence: u64,
    /// Its name.
    pub digest: CommitId,
    /// When the store received it.
    pub received: Moment,
    /// How many snapshots it forgets.
    pub forgets: u64,
}

/// What came of naming a keeper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeeperSet {
    /// Whether a ruling was made: it was not so already.
    pub ruled: bool,
    /// Objects that were sealed to it, for it to read what was written before.
    pub handed_over: u64,
    /// Seconds of the hold that it has now.
    pub hold: u64,
}

/// What a keeper may write into another one's log.
pub(super) fn keeper_may_say(line: &CommitLine) -> bool {
    use CommitLine as L;
    matches!(line, L::Pack(_) | L::Retire(_) | L::Keep(_) | L::Deleted(_) | L::Renumber(_) | L::Seen(_))
}

/// What a keeper believes only after the hold.
fn takes_away(line: &CommitLine) -> bool {
    use CommitLine as L;
    matches!(line, L::Forget(_) | L::Unpin(_) | L::Lost(_) | L::Retire(_) | L::Deleted(_))
}

/// What else it does, once it is old enough: a segment line that came too early was held back where its place was known.
fn is_held(line: &CommitLine) -> bool {
    takes_away(line) || matches!(line, CommitLine::Segment(_))
}

/// Makes of this host's keys and folder those with which it acts in another writer's log.
pub(super) fn act_for(
    writer: &str,
    host: Option<HostWriter>,
    folder: &HostFolder,
    store: &Store,
) -> Result<(Option<HostWriter>, HostFolder, Option<Hold>), Error> {
    let host = host.ok_or_else(|| Error::NotAWriter(store.label().to_owned()))?;
    if host.name == writer || !is_writer_name(writer) {
        return Err(Error::NotItsKeeper(writer.to_owned()));
    }
    let folder = folder.of_kept(writer)?;
    let host = HostWriter { name: writer.to_owned(), ..host };
    Ok((Some(host), folder, Some(Hold { until: None, seconds: 0 })))
}

impl Repository {
    /// Makes another host keep a writer's log; needs an identity. With no hold one that is there stays as it is. Done again, it hands over what
    /// the keeper cannot read yet.
    ///
    /// # Errors
    ///
    /// A log that was revoked, a host that would keep itself, one that kept the log before and was ended, no identity.
    pub fn set_keeper(
        &mut self,
        writer: &str,
        keeper: &str,
        hold: Option<u64>,
        now: Moment,
        progress: &dyn Progress,
    ) -> Result<KeeperSet, Error> {
        let opener = Arc::clone(self.data_opener("naming a keeper")?);
        let admission = Admission::open(&self.store, &self.description, &opener)?;
        let Standing { eras, mut keepers, .. } = self.standing(writer)?;
        if self.standing(writer)?.current().is_none() {
            return Err(Error::Ended(writer.to_owned()));
        }
        let it = self.standing(keeper)?.current().cloned().ok_or_else(|| Error::Ended(keeper.to_owned()))?;
        if writer == keeper {
            return Err(Error::NotItsKeeper(writer.to_owned()));
        }
        let before = keepers.clone();
        match keepers.iter_mut().find(|known| known.key == it.key) {
            // What it signed in between would count again.
            Some(known) if known.until.is_some() => return Err(Error::KeeperEnded(keeper.to_owned())),
            Some(known) => known.hold = hold.unwrap_or(known.hold),
            None => keepers.push(Keeper {
                writer: keeper.to_owned(),
                recipient: it.recipient.clone(),
                key: it.key,
                hold: hold.unwrap_or(USUAL_HOLD),
                until: None,
            }),
        }
        // Before it is named, so that it does not begin with holes, and what came meanwhile behind.
        let mut handed_over = self.hand_over_to(writer, &it.recipient, &admission.signing, progress)?;
        let hold = keepers.iter().find(|known| known.key == it.key).map_or(USUAL_HOLD, |known| known.hold);
        let ruled = keepers != before;
        if ruled {
            self.rule(writer, (eras, keepers), now, now)?;
            handed_over += self.hand_over_to(writer, &it.recipient, &admission.signing, progress)?;
        }
        Ok(KeeperSet { ruled, handed_over, hold })
    }

    /// Ends what a host keeps of a writer's log, whatever has become of that host; needs an identity. Whether there was something to end.
    pub fn end_keeper(&mut self, writer: &str, keeper: &str, now: Moment) -> Result<bool, Error> {
        self.data_opener("ending a keeper")?;
        let Standing { eras, mut keepers, .. } = self.standing(writer)?;
        let ends = self.ends_before(writer, None)?;
        let mut ended = false;
        for known in keepers.iter_mut().filter(|known| known.writer == keeper && known.until.is_none()) {
            known.until = Some(ends.clone());
            ended = true;
        }
        if ended {
            self.rule(writer, (eras, keepers), now, now)?;
        }
        Ok(ended)
    }

    /// The writers whose logs this host keeps now, as far as this catalog has seen their rulings.
    pub fn kept_writers(&mut self) -> Result<Vec<String>, Error> {
        let ours = self.host()?.signing.public();
        let mut kept = Vec::new();
        for (_, name) in self.catalog.writers()? {
            let keepers = self.standing(&name)?.keepers;
            if keepers.iter().any(|keeper| keeper.key == ours && keeper.until.is_none()) {
                kept.push(name);
            }
        }
        kept.sort();
        Ok(kept)
    }

    /// What seals commits and directories of the log that this host writes: to whoever may read it now.
    pub(super) fn log_sealer(&self) -> Result<Arc<Sealer>, Error> {
        let host = self.host()?;
        let Some(ruling) = self.ruling_now(&host.name)? else { return Ok(Arc::clone(&host.log)) };
        let keepers = ruling.keepers.iter().filter(|keeper| keeper.until.is_none()).map(|keeper| &keeper.recipient);
        let writer = ruling.eras.iter().rev().find(|era| era.until.is_none()).map(|era| &era.recipient);
        let mut more: Vec<Recipient> = Vec::new();
        for text in keepers.chain(writer).filter(|text| **text != host.recipient) {
            more.push(text.parse().map_err(|source| Error::Keys { what: "a keeper".to_owned(), source })?);
        }
        if more.is_empty() {
            return Ok(Arc::clone(&host.log));
        }
        Ok(Arc::new(Sealer::new(host.readers.iter().cloned().chain(more).collect())))
    }

    /// Seconds for which a keeper does not believe what takes something away; 0 where this host acts as itself.
    pub fn hold_seconds(&self) -> u64 {
        self.hold.as_ref().map_or(0, |hold| hold.seconds)
    }

    /// Up to when a keeper believes everything. `None` where this host acts as itself.
    pub fn believed_until(&self) -> Option<Moment> {
        self.hold.as_ref().map(|hold| hold.until.unwrap_or(Moment::MIN_UTC))
    }

    /// What the store received up to then, of what a keeper reads anew, comes first: what is younger finds it there, and replaces nothing.
    pub(super) fn in_order_of_belief(&self, fresh: &mut [&Listed]) {
        if let Some(until) = self.hold.as_ref().and_then(|hold| hold.until) {
            fresh.sort_by_key(|listed| (listed.received > until, listed.head));
        }
    }

    /// Whether this host acts as a keeper.
    pub fn is_keeper(&self) -> bool {
        self.hold.is_some()
    }

    /// Which frames of this writer are needed. For a keeper all copies of a frame stay that nobody has retired: which of them is good it cannot
    /// know, for it opens none, and a later one may be a thief's.
    pub(super) fn usage(&self, row: WriterRow) -> Result<Usage, Error> {
        Ok(if self.hold.is_some() { self.catalog.usage_of_all_copies(row)? } else { self.catalog.usage(row)? })
    }

    /// Takes from a listing of the log what time it is, and so until when everything is believed.
    pub(super) fn set_believed_until(&mut self, writer: &str, listed: &[Listed]) -> Result<(), Error> {
        if self.hold.is_none() {
            return Ok(());
        }
        let ours = self.host()?.signing.public();
        let keepers = self.standing(writer)?.keepers;
        let seconds = keepers
            .iter()
            .find(|keeper| keeper.key == ours && keeper.until.is_none())
            .map_or(u64::MAX, |keeper| keeper.hold);
        let span = i64::try_from(seconds).ok().and_then(TimeDelta::try_seconds);
        let now = listed.last().map(|listed| listed.received);
        let until = now.zip(span).and_then(|(now, span)| now.checked_sub_signed(span));
        self.hold = Some(Hold { until, seconds });
        Ok(())
    }

    /// What of a commit is taken over now.
    pub(super) fn believed(&mut self, object: &Listed, signer: usize, commit: Commit) -> Result<Commit, Error> {
        let Some(hold) = &self.hold else { return Ok(commit) };
        let is_old = hold.until.is_some_and(|until| object.received <= until);
        if is_old || self.standing(&commit.header.writer.clone())?.is_keeper(signer) {
            return Ok(commit);
        }
        let Commit { header, lines: all } = commit;
        let (mut held, mut lines): (Vec<CommitLine>, Vec<CommitLine>) = (Vec::new(), Vec::new());
        for line in all {
            // Other facts of a segment, or another one in its place, could make it look superfluous.
            let replaces = match &line {
                CommitLine::Segment(record) => !self.catalog.segments_at(&header.writer, &record.place)?.is_empty(),
                _ => false,
            };
            let to = if replaces || takes_away(&line) { &mut held } else { &mut lines };
            to.push(line);
        }
        if !held.is_empty() {
            let Head { sequence, digest } = object.head;
            let forgets = held.iter().filter(|line| matches!(line, CommitLine::Forget(_))).count() as u64;
            let mut all = self.held_back()?;
            all.retain(|known| known.digest != digest);
            all.push(HeldBack { sequence, digest, received: object.received, forgets });
            self.note_held(&all)?;
        }
        Ok(Commit { header, lines })
    }

    /// Commits of which a part waits until the hold is over, oldest first.
    pub fn held_back(&self) -> Result<Vec<HeldBack>, Error> {
        let text = self.catalog.fact(HELD)?.unwrap_or_default();
        let mut all: Vec<HeldBack> = serde_json::from_str(&text).unwrap_or_default();
        all.sort_by_key(|held| (held.sequence, held.digest));
        Ok(all)
    }

    fn note_held(&mut self, all: &[HeldBack]) -> Result<(), Error> {
        Ok(self.catalog.set_fact(HELD, &serde_json::to_string(all).unwrap_or_default())?)
    }

    /// Believes what has waited long enough.
    pub(super) fn believe_held(&mut self, writer: &str, row: WriterRow) -> Result<(), Error> {
        let Some(until) = self.hold.as_ref().and_then(|hold| hold.until) else { return Ok(()) };
        let all = self.held_back()?;
        let mut rest = all.clone();
        for held in all {
            // The earliest answer that the store ever gave.
            let received = self.catalog.received(&held.digest)?.map_or(held.received, |at| at.min(held.received));
            if received > until {
                continue;
            }
            let head = Head { sequence: held.sequence, digest: held.digest };
            let key = commit_key(writer, held.sequence, &held.digest);
            let commit = match self.read_commit(writer, &Listed { key, head, size: 0, received }) {
                Ok(commit) => commit,
                // It waits on: whoever reads the log tells what is wrong with it.
                Err(Error::BadObject { .. } | Error::NewerCommit { .. }) => continue,
                Err(e) => return Err(e),
            };
            let Commit { header, lines } = commit;
            let later = Commit { header, lines: lines.into_iter().filter(is_held).collect() };
            if !self.catalog.take_later(CommitAt { writer: row, digest: held.digest, commit: &later })? {
                continue;
            }
            rest.retain(|other| other.digest != held.digest);
            self.note_held(&rest)?;
        }
        Ok(())
    }

    /// Joins two ends of the log, where a keeper and its writer have committed at the same time.
    pub fn join_ends(&mut self, now: Moment, progress: &dyn Progress) -> Result<bool, Error> {
        let row = self.host_row()?;
        if self.catalog.heads(row)?.len() < 2 {
            return Ok(false);
        }
        self.ask_store_time(now, progress)?;
        Ok(true)
    }

    /// Refuses where this host is no keeper of the writer for which it acts, or no longer.
    pub fn check_keeper(&self) -> Result<(), Error> {
        self.check_may_write()
    }
}
