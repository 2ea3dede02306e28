//! Takes the changes of a deployment as they are committed, and stores them.
//!
//! A turn reads what is new, then looks at what the stream does not tell (`guard`); only where that is as before do the changes count.
//! `document_deltas` is what is asked: it tells every revision and writes nothing on the server. Data Sync, which writes a row
//! whenever it is called, is for what lies far behind (docs/decisions/0017-changes-of-documents.md).
//!
//! Invariants: nothing that was read is stored before the look after it; the memory of the last look is on disk before the process
//! relies on it, and without one a new snapshot is taken; what waits for the store is bounded, and the server keeps the rest.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::StreamError;
use super::guard::{Guard, Verdict};
use super::segment::{Lines, build};
use crate::client::convex::{Deployment, Error as ClientError};
use crate::format::convex::Change;
use crate::model::documents::{DbTime, DocumentsFacts, moment_of, parse_place, place, stream_name, time_of};
use crate::model::{Moment, SegmentPlace};
use crate::ops::wal::commit_if_due;
use crate::ops::{Error, chain};
use crate::progress::Progress;
use crate::repository::{Lock, Repository};
use crate::source::convex::matches_table;

/// So many bytes of changes are stored whether it is time or not.
const FLUSH_BYTES: usize = 4 << 20;
/// Pages of deltas that are read before Data Sync takes over.
const DELTA_PAGES: usize = 8;
/// The longest wait for a server or a store that is away.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// The longest wait between two snapshots that lead to nothing.
const BARREN_PAUSE_MAX: Duration = Duration::from_secs(15 * 60);

/// What is followed, and how.
#[derive(Debug, Clone)]
pub struct FollowOptions {
    /// The source's name.
    pub source: String,
    /// Tables to take alone; empty for all.
    pub tables: Vec<String>,
    /// Tables to leave out.
    pub exclude_tables: Vec<String>,
    /// Where the memory of the last look lies: one directory a stream below it.
    pub folder: PathBuf,
    /// Between two turns.
    pub interval: Duration,
    /// After so long a segment says that nothing was new.
    pub heartbeat: Duration,
    /// Between two snapshots, where the server tells no changes.
    pub export_every: Duration,
}

/// What a person hears of.
#[derive(Debug)]
pub enum Heard {
    /// It goes on, or begins.
    Following {
        /// The stream.
        stream: String,
        /// From which time of the database on.
        from: DbTime,
    },
    /// A segment is stored.
    Stored {
        /// Changes in it.
        changes: u64,
        /// Up to when everything is stored.
        to: DbTime,
    },
    /// The history is cut: a new snapshot is taken.
    Cut {
        /// Why.
        why: String,
    },
    /// An import writes: the changes after it are told by the next snapshot.
    Importing,
    /// The server does not tell which tables are cleared: that would not be noticed.
    Blind,
    /// The server tells no changes: snapshots are taken instead.
    NoChanges {
        /// Why.
        why: String,
        /// How often.
        every: Duration,
    },
    /// The deployment or the store does not answer; it is tried again.
    Away {
        /// Why.
        why: String,
    },
    /// It answers again.
    Back,
}

/// The last revision that was seen: it must come again, or the history is another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    component: String,
    table: String,
    id: String,
    ts: String,
    digest: String,
}

impl Seen {
    fn of(change: &Change) -> Self {
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

/// What outlives the process, on this host's disk.
#[derive(Debug, Serialize, Deserialize)]
struct Memory {
    version: u32,
    epoch: String,
    guard: Guard,
    seen: Option<Seen>,
}

/// An epoch that is being written.
struct Epoch {
    begun: DbTime,
    number: u64,
    /// Everything up to here is stored.
    stored: DbTime,
    /// Everything up to here was read, and counts.
    read: DbTime,
    /// When the server had nothing newer, by its own clock.
    fresh: Moment,
    /// What the last segment says of that.
    told: Moment,
    lines: Lines,
    /// A segment that was begun to be stored: it is stored as it is, or not at all.
    pending: Option<Pending>,
    began: Option<String>,
    guard: Guard,
    seen: Option<Seen>,
}

/// A segment on its way into the store.
struct Pending {
    place: SegmentPlace,
    facts: DocumentsFacts,
    plain: Vec<u8>,
}

impl Epoch {
    /// Whether something that counts is not stored.
    fn is_dirty(&self) -> bool {
        self.pending.is_some() || self.lines.count > 0
    }
}

/// What a turn came to.
enum Turn {
    /// All is read.
    Level,
    /// More is there.
    Behind,
    Importing,
    Cut(String),
}

/// What a follower needs of the world.
#[derive(Clone, Copy)]
pub struct Around<'a> {
    /// This host's clock.
    pub clock: &'a dyn Fn() -> Moment,
    /// Set when it is to end.
    pub stop: &'a AtomicBool,
    /// What the library tells a person.
    pub progress: &'a dyn Progress,
}

/// Takes a new snapshot: its facts.
pub type Rebase<'r> = &'r mut dyn FnMut(&mut Repository) -> Result<serde_json::Value, Error>;

struct Following<'a> {
    repository: &'a mut Repository,
    deployment: &'a Deployment,
    options: &'a FollowOptions,
    instance: String,
    stream: String,
    folder: PathBuf,
    /// What our clock is ahead of the server's.
    skew: chrono::TimeDelta,
    rebase: Rebase<'a>,
    around: Around<'a>,
    hear: &'a mut dyn FnMut(Heard),
    away: bool,
    pause: Duration,
    /// Epochs that ended before anything of them was stored, one after another.
    barren: u32,
}

fn io(doing: &'static str, path: &Path, source: std::io::Error) -> Error {
    StreamError::Io { doing, path: path.to_owned(), source }.into()
}

/// Follows until it is told to stop; then stores what was read. An error is what time cannot mend.
pub fn follow(
    repository: &mut Repository,
    deployment: &Deployment,
    options: &FollowOptions,
    around: &Around<'_>,
    rebase: Rebase<'_>,
    hear: &mut dyn FnMut(Heard),
) -> Result<(), Error> {
    let instance = deployment.check_instance()?;
    let stream = stream_name(&options.source, &instance);
    let folder = options.folder.join(&stream);
    fs::create_dir_all(&folder).map_err(|source| io("make", &folder, source))?;
    // Two would number their segments alike.
    let lock = Lock::try_alone(&folder.join("lock")).map_err(|source| io("lock", &folder, source))?;
    let _lock = lock.ok_or(StreamError::Followed)?;
    let before = (around.clock)();
    let server = deployment.check_key()?.1.and_then(chrono::DateTime::from_timestamp_millis);
    // The server's clock is told to the second: what it may be behind counts.
    let skew = server.map_or(chrono::TimeDelta::zero(), |server| (before - server).max(chrono::TimeDelta::zero()));
    let mut following = Following {
        repository,
        deployment,
        options,
        instance,
        stream,
        folder,
        skew,
        rebase,
        around: *around,
        hear,
        away: false,
        pause: options.interval,
        barren: 0,
    };
    match following.no_changes()? {
        Some(why) => following.by_snapshots(why),
        None => following.run(),
    }
}

impl Following<'_> {
    fn is_stopped(&self) -> bool {
        self.around.stop.load(Ordering::Relaxed)
    }

    fn wait(&self, time: Duration) {
        let until = Instant::now() + time;
        while !self.is_stopped() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20).min(time));
        }
    }

    /// The server's time now, or a little before it.
    fn now(&self) -> Moment {
        (self.around.clock)() - self.skew
    }

    fn look(&self, before: Option<&Guard>) -> Result<Guard, ClientError> {
        Guard::look(self.deployment, before, self.now().timestamp_millis() as f64)
    }

    /// Why this server's changes cannot be laid over its exports, if so.
    fn no_changes(&self) -> Result<Option<String>, Error> {
        match self.deployment.deltas(time_of(self.now())) {
            Err(e) if e.is_absent() => Ok(Some("it has no `document_deltas`".to_owned())),
            Err(e) if e.is_bad_format() => Ok(Some("it does not know the format `export_json`".to_owned())),
            Err(e) if e.is_out_of_retention() => Ok(None),
            Err(e) => Err(e.into()),
            Ok(_) => Ok(None),
        }
    }

    /// Snapshots, as often as was asked for.
    fn by_snapshots(&mut self, why: String) -> Result<(), Error> {
        (self.hear)(Heard::NoChanges { why, every: self.options.export_every });
        while !self.is_stopped() {
            match (self.rebase)(self.repository) {
                Ok(_) => self.back(),
                Err(_) if self.is_stopped() => break,
                Err(e) => self.away_or(e)?,
            }
            self.wait(if self.away { self.pause } else { self.options.export_every });
        }
        Ok(())
    }

    fn run(&mut self) -> Result<(), Error> {
        let mut epoch = self.resume()?;
        while !self.is_stopped() {
            let turn = match &mut epoch {
                Ok(epoch) => self.turn(epoch),
                Err(why) => Ok(Turn::Cut(why.clone())),
            };
            let pause = match turn {
                Ok(Turn::Level) => Some(self.options.interval),
                Ok(Turn::Behind) => None,
                Ok(Turn::Importing) => Some(self.options.interval),
                // What counted before it is stored first.
                Ok(Turn::Cut(_)) if epoch.as_ref().is_ok_and(Epoch::is_dirty) => {
                    let stored = epoch.as_mut().map_or(Ok(()), |epoch| self.store(epoch));
                    stored.or_else(|e| self.away_or(e))?;
                    self.away.then_some(self.pause)
                }
                Ok(Turn::Cut(_)) if self.is_stopped() => None,
                Ok(Turn::Cut(why)) => {
                    let is_barren = epoch.as_ref().is_ok_and(|epoch| epoch.number == 0);
                    self.damp(is_barren);
                    if let Some(begun) = self.begin(why.clone())? {
                        epoch = Ok(begun);
                        None
                    } else {
                        epoch = Err(why);
                        Some(self.pause)
                    }
                }
                // Waits end with an error when it is told to stop.
                Err(_) if self.is_stopped() => None,
                Err(e) => {
                    self.away_or(e)?;
                    Some(self.pause)
                }
            };
            commit_if_due(self.repository, (self.around.clock)(), self.around.progress);
            if let Some(pause) = pause {
                self.wait(pause);
            }
        }
        if let Ok(epoch) = &mut epoch
            && (epoch.is_dirty() || epoch.read > epoch.stored)
        {
            self.store(epoch)?;
        }
        self.repository.commit_segments((self.around.clock)(), self.around.progress)?;
        Ok(())
    }

    /// Waits before one more snapshot where the last ones led to nothing: a server is not to be kept busy with exports.
    fn damp(&mut self, is_barren: bool) {
        self.barren = if is_barren { self.barren + 1 } else { 0 };
        if self.barren > 1 {
            let pause = self.options.interval * 2u32.saturating_pow(self.barren.min(20));
            self.wait(pause.min(BARREN_PAUSE_MAX));
        }
    }

    fn back(&mut self) {
        if std::mem::take(&mut self.away) {
            (self.hear)(Heard::Back);
        }
        self.pause = self.options.interval;
    }

    /// Says once that something is away; what time cannot mend is an error.
    fn away_or(&mut self, error: Error) -> Result<(), Error> {
        if !can_pass(&error) {
            return Err(error);
        }
        if !self.away {
            (self.hear)(Heard::Away { why: chain(&error) });
        }
        self.away = true;
        self.pause = (self.pause.max(Duration::from_millis(10)) * 2).min(PAUSE_MAX);
        Ok(())
    }

    fn memory(&self) -> PathBuf {
        self.folder.join("memory.json")
    }

    fn remember(&self, epoch: &Epoch) -> Result<(), Error> {
        let memory =
            Memory { version: 1, epoch: epoch.begun.to_string(), guard: epoch.guard.clone(), seen: epoch.seen.clone() };
        let (path, part) = (self.memory(), self.folder.join("memory.json.part"));
        let text = serde_json::to_vec(&memory).map_err(|e| StreamError::Content(e.to_string()))?;
        let write = || -> std::io::Result<()> {
            let mut file = fs::File::create(&part)?;
            std::io::Write::write_all(&mut file, &text)?;
            file.sync_all()?;
            fs::rename(&part, &path)
        };
        write().map_err(|source| io("write", &path, source))
    }

    /// The epoch that an earlier process wrote, if it can go on; else why not.
    fn resume(&mut self) -> Result<Result<Epoch, String>, Error> {
        let own = self.repository.host()?.name.clone();
        let listing = self.repository.list_stream(&own, &self.stream)?;
        let known: Vec<_> = listing.there.iter().filter_map(|r| Some((parse_place(&r.place)?, r))).collect();
        let Some(&((begun, last), _)) = known.iter().max_by_key(|(key, _)| *key) else {
            return Ok(Err("it is followed for the first time".to_owned()));
        };
        let memory = fs::read(self.memory()).ok().and_then(|text| serde_json::from_slice::<Memory>(&text).ok());
        let Some(memory) = memory.filter(|memory| memory.version == 1 && memory.epoch == begun.to_string()) else {
            return Ok(Err("this host does not remember what it followed".to_owned()));
        };
        // A segment that a crash left without a row covers what the next one covers again.
        let of_epoch = known.iter().filter(|((epoch, _), _)| *epoch == begun);
        let facts = of_epoch.filter_map(|(_, r)| serde_json::from_value::<DocumentsFacts>(r.facts.clone()).ok());
        let Some(stored) = facts.filter_map(|facts| facts.up_to()).max() else {
            return Ok(Err("what was stored of it is not known".to_owned()));
        };
        let mut epoch = Epoch {
            begun,
            number: last + 1,
            stored,
            read: stored,
            fresh: moment_of(stored),
            told: moment_of(stored),
            lines: Lines::default(),
            pending: None,
            began: None,
            guard: memory.guard,
            seen: memory.seen,
        };
        (self.hear)(Heard::Following { stream: self.stream.clone(), from: stored });
        match self.is_same_history(&epoch) {
            Ok(None) => {}
            Ok(Some(why)) => return Ok(Err(why)),
            Err(e) => self.away_or(e)?,
        }
        epoch.fresh = epoch.fresh.min(self.now());
        Ok(Ok(epoch))
    }

    /// Why what the server tells is not what it told before, if so: the last revision must come again.
    fn is_same_history(&self, epoch: &Epoch) -> Result<Option<String>, Error> {
        let forked = "the deployment went back to an earlier state".to_owned();
        let Some(seen) = &epoch.seen else {
            let page = self.deployment.deltas(epoch.read);
            return Ok(match page {
                Ok(page) if page.to < epoch.read => Some(forked),
                Ok(_) => None,
                Err(e) if e.is_out_of_retention() => Some(out_of_retention()),
                Err(e) => return Err(e.into()),
            });
        };
        let ts: DbTime = seen.ts.parse().unwrap_or_default();
        let mut after = ts - 1;
        while after < ts {
            let page = match self.deployment.deltas(after) {
                Ok(page) => page,
                Err(e) if e.is_out_of_retention() => return Ok(Some(out_of_retention())),
                Err(e) => return Err(e.into()),
            };
            if page.changes.iter().any(|change| Seen::of(change) == *seen) {
                return Ok(None);
            }
            if page.to <= after && !page.more {
                break;
            }
            after = page.to.max(after + 1);
        }
        Ok(Some(forked))
    }

    /// Takes a new snapshot and begins an epoch with it. None where that has to wait.
    fn begin(&mut self, why: String) -> Result<Option<Epoch>, Error> {
        let guard = match self.look(None) {
            Ok(guard) => guard,
            Err(_) if self.is_stopped() => return Ok(None),
            Err(e) => return self.away_or(e.into()).map(|()| None),
        };
        if guard.is_importing() {
            (self.hear)(Heard::Importing);
            return Ok(None);
        }
        (self.hear)(Heard::Cut { why: why.clone() });
        let facts = match (self.rebase)(self.repository) {
            Ok(facts) => facts,
            Err(_) if self.is_stopped() => return Ok(None),
            Err(e) => return self.away_or(e).map(|()| None),
        };
        let facts: crate::model::ConvexFacts =
            serde_json::from_value(facts).map_err(|e| StreamError::Content(e.to_string()))?;
        let at = facts.timestamp().ok_or_else(|| StreamError::Content("the snapshot has no time".to_owned()))?;
        self.back();
        let epoch = Epoch {
            begun: at,
            number: 0,
            stored: at,
            read: at,
            fresh: moment_of(at),
            told: moment_of(at),
            lines: Lines::default(),
            pending: None,
            began: Some(why),
            guard,
            seen: None,
        };
        self.remember(&epoch)?;
        if epoch.guard.is_blind {
            (self.hear)(Heard::Blind);
        }
        (self.hear)(Heard::Following { stream: self.stream.clone(), from: at });
        Ok(Some(epoch))
    }

    fn wants(&self, change: &Change) -> bool {
        let full = change.full_table();
        let among = |patterns: &[String]| patterns.iter().any(|pattern| matches_table(pattern, &full));
        (self.options.tables.is_empty() || among(&self.options.tables)) && !among(&self.options.exclude_tables)
    }

    /// Reads what is new, looks, and stores what counts.
    fn turn(&mut self, epoch: &mut Epoch) -> Result<Turn, Error> {
        if self.away
            && let Some(why) = self.is_same_history(epoch)?
        {
            return Ok(Turn::Cut(why));
        }
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
            // Nothing new: nothing to look at, nothing to store.
            self.back();
            return Ok(Turn::Level);
        }
        let guard = self.look(Some(&epoch.guard))?;
        match guard.since(&epoch.guard) {
            Verdict::Same => {}
            Verdict::Importing => {
                (self.hear)(Heard::Importing);
                return Ok(Turn::Importing);
            }
            Verdict::Cut(why) => return Ok(Turn::Cut(why)),
        }
        if let Some((component, table)) = news.anew.iter().find(|(c, t)| epoch.guard.has_table(c, t)) {
            let name = if component.is_empty() { table.clone() } else { format!("{component}/{table}") };
            return Ok(Turn::Cut(format!("table `{name}` was replaced")));
        }
        (epoch.guard, epoch.read) = (guard, news.to);
        epoch.lines.append(&mut news.lines);
        epoch.seen = news.last.or(epoch.seen.take());
        epoch.fresh = fresh;
        if epoch.is_dirty() || is_old {
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
    fn store(&mut self, epoch: &mut Epoch) -> Result<(), Error> {
        let pending = match epoch.pending.take() {
            Some(pending) => pending,
            None => self.cut_segment(epoch)?,
        };
        match self.put(&pending) {
            Ok(()) => {}
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

/// What a turn read.
struct News {
    lines: Lines,
    to: DbTime,
    is_newest: bool,
    last: Option<Seen>,
    /// Tables that Data Sync began anew.
    anew: Vec<(String, String)>,
}

fn out_of_retention() -> String {
    "the server does not keep changes for so long (`DOCUMENT_RETENTION_DELAY`)".to_owned()
}

/// Whether a later try may succeed.
fn can_pass(error: &Error) -> bool {
    match error {
        Error::Stream(_) => false,
        Error::Convex(e) => e.may_pass(),
        Error::Source(crate::source::Error::Convex(e)) => e.may_pass(),
        Error::Repository(e) => !matches!(e, crate::repository::Error::NotAWriter(_)),
        Error::Busy(_) => true,
        // An export that was cancelled or stood still.
        Error::Source(_) => true,
        _ => false,
    }
}
