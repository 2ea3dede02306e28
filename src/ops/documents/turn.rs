//! One turn of a follower: what is new is read, then looked at from outside, then stored.
//!
//! Invariants: nothing that was read is stored before the look after it says the same as the one before; what was begun to be stored is
//! stored as it was first, never with more under the same name.

use serde::{Deserialize, Serialize};

use super::StreamError;
use super::capture::{Following, Heard, out_of_retention};
use super::guard::{Guard, Verdict};
use super::segment::{Lines, build};
use crate::client::convex::Error as ClientError;
use crate::format::convex::{Change, full_name};
use crate::model::documents::{DbTime, DocumentsFacts, moment_of, parse_place, place, time_of};
use crate::model::{Moment, SegmentPlace};
use crate::ops::{Error, chain};
use crate::source::convex::matches_table;

/// So many bytes of changes are stored whether it is time or not.
const FLUSH_BYTES: usize = 4 << 20;
/// Pages of deltas that are read before Data Sync takes over.
const DELTA_PAGES: usize = 8;

/// The last revision that was seen: it must come again, or the history is another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seen {
    pub component: String,
    pub table: String,
    pub id: String,
    pub ts: String,
    pub digest: String,
}

impl Seen {
    pub fn of(change: &Change) -> Self {
        let line = change.line.as_deref().unwrap_or_default();
        Self {
            component: change.component.clone(),
            table: change.table.clone(),
            id: change.id.clone(),
            ts: change.ts.to_string(),
            digest: blake3::hash(line.as_bytes()).to_string(),
        }
    }
}

/// An epoch that is being written.
pub(super) struct Epoch {
    pub begun: DbTime,
    pub number: u64,
    /// Everything up to here is stored.
    pub stored: DbTime,
    /// Everything up to here was read, and counts.
    pub read: DbTime,
    /// When the server had nothing newer, by its own clock.
    pub fresh: Moment,
    /// What the last segment says of that.
    pub told: Moment,
    pub lines: Lines,
    /// A segment that was begun to be stored: it is stored as it is, or not at all.
    pub pending: Option<Pending>,
    pub began: Option<String>,
    pub guard: Guard,
    pub seen: Option<Seen>,
}

/// A segment on its way into the store.
pub(super) struct Pending {
    place: SegmentPlace,
    facts: DocumentsFacts,
    plain: Vec<u8>,
}

impl Epoch {
    /// Whether something that counts is not stored.
    pub fn is_dirty(&self) -> bool {
        self.pending.is_some() || self.lines.count > 0
    }
}

/// What a turn came to.
pub(super) enum Turn {
    /// All is read.
    Level,
    /// More is there.
    Behind,
    Importing,
    Cut(String),
}

/// What a turn read.
pub(super) struct News {
    lines: Lines,
    to: DbTime,
    is_newest: bool,
    last: Option<Seen>,
    /// Tables that Data Sync began anew.
    anew: Vec<(String, String)>,
}

impl Following<'_> {
    fn wants(&self, change: &Change) -> bool {
        let full = change.full_table();
        let among = |patterns: &[String]| patterns.iter().any(|pattern| matches_table(pattern, &full));
        (self.options.tables.is_empty() || among(&self.options.tables)) && !among(&self.options.exclude_tables)
    }

    /// Reads what is new, looks, and stores what counts.
    pub(super) fn turn(&mut self, epoch: &mut Epoch) -> Result<Turn, Error> {
        self.compare_clocks()?;
        let asked = self.now();
        let news = match self.read(epoch) {
            Ok(news) => news,
            Err(e) if e.is_out_of_retention() => return Ok(Turn::Cut(out_of_retention())),
            Err(e) => return Err(e.into()),
        };
        let Some(mut news) = news else {
            return Ok(Turn::Cut("the deployment went back to an earlier state".to_owned()));
        };
        let fresh = if news.is_newest { epoch.fresh.max(asked) } else { epoch.fresh };
        let age = (fresh - moment_of(epoch.stored).max(epoch.told)).to_std().unwrap_or_default();
        let is_old = age >= self.options.heartbeat;
        if news.lines.count == 0 && !epoch.is_dirty() && !is_old && news.anew.is_empty() && news.is_newest {
            // Nothing new: nothing to look at, nothing to store, but for files that no document names yet.
            if self.files.is_due() {
                self.watch_files(epoch.read);
            }
            self.back();
            return Ok(Turn::Level);
        }
        let guard = self.look(Some(&epoch.guard))?;
        match guard.since(&epoch.guard) {
            Verdict::Same => {}
            Verdict::Importing => {
                self.tell_import();
                return Ok(Turn::Importing);
            }
            Verdict::Cut(why) => return Ok(Turn::Cut(why)),
        }
        // Before anything counts: a server that was put back goes on from another history, and soon its clock does not show it.
        if let Some(why) = self.is_same_history(epoch)? {
            // Tables that were swapped since the look hide what they held too: then that is the reason.
            return Ok(match self.look(Some(&epoch.guard))?.since(&epoch.guard) {
                Verdict::Same => Turn::Cut(why),
                Verdict::Importing => Turn::Importing,
                Verdict::Cut(swapped) => Turn::Cut(swapped),
            });
        }
        // Who tells of cleared tables needs no such sign, and one that was made while we were behind would look like a new one.
        let mut signs = news.anew.iter().filter(|_| guard.is_blind);
        if let Some((component, table)) = signs.find(|(c, t)| epoch.guard.has_table(c, t)) {
            let name = full_name(component, table);
            return Ok(Turn::Cut(format!("table `{name}` was replaced")));
        }
        (epoch.guard, epoch.read) = (guard, news.to);
        epoch.lines.append(&mut news.lines);
        epoch.seen = news.last.or(epoch.seen.take());
        epoch.fresh = fresh;
        if epoch.is_dirty() || is_old {
            // After the changes were read: what they name is in the list.
            self.watch_files(epoch.read);
            match self.store(epoch) {
                // A PUT of an earlier process that landed late.
                Err(Error::Stream(e @ StreamError::Conflict { .. })) => return Ok(Turn::Cut(chain(&e))),
                stored => stored?,
            }
        }
        self.back();
        Ok(if news.is_newest { Turn::Level } else { Turn::Behind })
    }

    /// Reads what was committed after what was read already. None where the server says less than before.
    fn read(&self, epoch: &Epoch) -> Result<Option<News>, ClientError> {
        let mut news = News { lines: Lines::default(), to: epoch.read, is_newest: false, last: None, anew: Vec::new() };
        let (mut cursor, mut pages) = (None, 0);
        while !news.is_newest && epoch.lines.bytes.len() + news.lines.bytes.len() < FLUSH_BYTES && !self.is_stopped() {
            if pages == DELTA_PAGES {
                cursor = self.deployment.sync_cursor(news.to)?;
            }
            pages += 1;
            let (changes, to) = match cursor.take() {
                Some(text) => {
                    let page = match self.deployment.sync_page(&text) {
                        Err(e) if e.is_bad_cursor() => return Ok(None),
                        // It had the bridge and not the rest: the deltas tell the same.
                        Err(e) if e.is_absent() => continue,
                        page => page?,
                    };
                    match page.to.filter(|_| page.truncates.is_empty()) {
                        Some(to) => {
                            (cursor, news.is_newest) = (Some(page.next), page.is_newest);
                            (page.changes, to)
                        }
                        // A table that is new is told by the deltas, revision by revision.
                        None => {
                            news.anew.extend(page.truncates);
                            continue;
                        }
                    }
                }
                None => {
                    let page = self.deployment.deltas(news.to)?;
                    news.is_newest = !page.more;
                    (page.changes, page.to)
                }
            };
            if to < news.to {
                return Ok(None);
            }
            for change in changes.iter().filter(|change| change.ts > epoch.read) {
                if self.wants(change) {
                    let added = news.lines.add(change);
                    let senseless = |e| ClientError::senseless("read the changes", self.deployment, chain(&e));
                    added.map_err(senseless)?;
                }
                news.last = Some(Seen::of(change));
            }
            news.to = to;
        }
        Ok(Some(news))
    }

    /// Stores what counts; it is acknowledged when this returns. What was begun to be stored is stored as it was first.
    pub(super) fn store(&mut self, epoch: &mut Epoch) -> Result<(), Error> {
        let pending = match epoch.pending.take() {
            Some(pending) => pending,
            None => self.cut_segment(epoch)?,
        };
        match self.put(&pending) {
            Ok(()) => {}
            // Another one has its name: it is never put again.
            Err(e @ Error::Stream(StreamError::Conflict { .. })) => return Err(e),
            Err(e) => {
                epoch.pending = Some(pending);
                return Err(e);
            }
        }
        let facts = pending.facts;
        epoch.stored = facts.up_to().unwrap_or(epoch.stored);
        epoch.told = facts.seen;
        (self.hear)(Heard::Stored { changes: facts.changes, to: epoch.stored.max(time_of(facts.seen)) });
        epoch.number += 1;
        self.remember(epoch)
    }

    /// Makes a segment of what counts.
    fn cut_segment(&self, epoch: &mut Epoch) -> Result<Pending, Error> {
        let facts = DocumentsFacts {
            version: 1,
            instance: self.instance.clone(),
            from: epoch.stored.to_string(),
            to: epoch.read.to_string(),
            seen: epoch.fresh,
            changes: epoch.lines.count,
            files: self.files.upto(),
            began: epoch.began.take(),
        };
        let lines = std::mem::take(&mut epoch.lines);
        let plain = build(&facts, &lines)?;
        let place = place(&self.stream, epoch.begun, epoch.number);
        let place = place.ok_or_else(|| StreamError::Content("it has no place".to_owned()))?;
        Ok(Pending { place, facts, plain })
    }

    fn put(&mut self, pending: &Pending) -> Result<(), Error> {
        let number = parse_place(&pending.place).map_or(0, |(_, number)| number);
        self.repository.check_there()?;
        let writer = self.repository.segment_writer()?;
        let words = serde_json::to_value(&pending.facts).map_err(|e| StreamError::Content(e.to_string()))?;
        let record = writer.put(pending.place.clone(), &pending.plain, words, (self.around.clock)())?;
        let there = writer.look(std::slice::from_ref(&pending.place))?;
        match there.get(&pending.place).map_or(&[][..], Vec::as_slice) {
            [] => return Err(StreamError::Vanished { number }.into()),
            all if all.iter().all(|(digest, _)| *digest == record.digest) => {}
            _ => return Err(StreamError::Conflict { number }.into()),
        }
        Ok(self.repository.note_segments(&[record])?)
    }
}
