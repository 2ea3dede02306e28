//! Takes the changes of a deployment as they are committed, and stores them.
//!
//! A turn reads what is new, then looks at what the stream does not tell (`guard`); only where that is as before do the changes count.
//! `document_deltas` is what is asked: it tells every revision and writes nothing on the server. Data Sync, which writes a row
//! whenever it is called, is for what lies far behind (docs/decisions/0017-changes-of-documents.md).
//!
//! Invariants: nothing that was read is stored before the look after it; the memory of the last look is on disk before the process
//! relies on it, and without one a new snapshot is taken; what waits for the store is bounded, and the server keeps the rest.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::StreamError;
use super::files::FileWatch;
use super::guard::Guard;
use super::segment::Lines;
use super::turn::{Epoch, Seen, Turn};
use crate::client::convex::{Deployment, Error as ClientError};
use crate::model::Moment;
use crate::model::documents::{DbTime, DocumentsFacts, moment_of, parse_place, stream_name, time_of};
use crate::ops::wal::commit_if_due;
use crate::ops::{Error, chain};
use crate::progress::Progress;
use crate::repository::{Lock, Repository};
use crate::source::convex::LaterFiles;

/// The longest wait for a server or a store that is away.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Between two looks at the server's clock.
const CLOCKS_EVERY: Duration = Duration::from_secs(60);
/// A commit has its time before everybody sees it.
const MARGIN: chrono::TimeDelta = chrono::TimeDelta::seconds(1);
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
    /// Between two snapshots of files that are new, at least; none where files are not stored.
    pub files_every: Option<Duration>,
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
    /// New files are stored.
    Files {
        /// How many.
        new: u64,
        /// Files that could not be had: the next snapshot of all tries them again.
        lost: u64,
    },
    /// Files cannot be listed or stored; the changes go on, and it is tried again.
    FilesAway {
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

/// What outlives the process, on this host's disk.
#[derive(Debug, Serialize, Deserialize)]
struct Memory {
    version: u32,
    epoch: String,
    /// Which tables are taken: with others it is another history.
    selection: String,
    guard: Guard,
    seen: Option<Seen>,
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

/// Takes snapshots for a follower.
pub trait Snapshots {
    /// The whole deployment: what the snapshot says of itself.
    fn whole(&mut self, repository: &mut Repository) -> Result<serde_json::Value, Error>;
    /// New files, under this name: the paths of those that could not be had.
    fn files(&mut self, repository: &mut Repository, source: &LaterFiles, name: &str) -> Result<Vec<String>, Error>;
}

pub(super) struct Following<'a> {
    pub(super) repository: &'a mut Repository,
    pub(super) deployment: &'a Deployment,
    pub(super) options: &'a FollowOptions,
    pub(super) instance: String,
    pub(super) stream: String,
    pub(super) folder: PathBuf,
    /// What our clock is ahead of the server's.
    pub(super) skew: chrono::TimeDelta,
    /// When that was measured.
    pub(super) compared: Option<Instant>,
    pub(super) snapshots: &'a mut dyn Snapshots,
    pub(super) around: Around<'a>,
    pub(super) hear: &'a mut dyn FnMut(Heard),
    pub(super) away: bool,
    pub(super) pause: Duration,
    /// Epochs that ended before anything of them was stored, one after another.
    pub(super) barren: u32,
    /// Whether it was said that an import writes.
    pub(super) importing: bool,
    pub(super) files: FileWatch,
    /// Whether it was said that files cannot be had.
    pub(super) files_away: bool,
}

fn io(doing: &'static str, path: &Path, source: std::io::Error) -> Error {
    StreamError::Io { doing, path: path.to_owned(), source }.into()
}

/// Writes a file of this host's own: the old one or the new one is there, whatever happens.
pub(super) fn write_whole(path: &Path, text: &[u8]) -> Result<(), Error> {
    let part = path.with_extension("json.part");
    let write = || -> std::io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        std::io::Write::write_all(&mut file, text)?;
        file.sync_all()?;
        fs::rename(&part, path)
    };
    write().map_err(|source| io("write", path, source))
}

/// Follows until it is told to stop; then stores what was read. An error is what time cannot mend.
pub fn follow(
    repository: &mut Repository,
    deployment: &Deployment,
    options: &FollowOptions,
    around: &Around<'_>,
    snapshots: &mut dyn Snapshots,
    hear: &mut dyn FnMut(Heard),
) -> Result<(), Error> {
    let instance = deployment.check_instance()?;
    let stream = stream_name(&options.source, &instance);
    let folder = options.folder.join(&stream);
    fs::create_dir_all(&folder).map_err(|source| io("make", &folder, source))?;
    // Two would number their segments alike.
    let lock = Lock::try_alone(&folder.join("lock")).map_err(|source| io("lock", &folder, source))?;
    let _lock = lock.ok_or(StreamError::Followed)?;
    let mut following = Following {
        repository,
        deployment,
        options,
        instance,
        stream,
        folder,
        skew: chrono::TimeDelta::zero(),
        compared: None,
        snapshots,
        around: *around,
        hear,
        away: false,
        pause: options.interval,
        barren: 0,
        importing: false,
        files: FileWatch::default(),
        files_away: false,
    };
    following.files = FileWatch::new(options.files_every, &following.folder);
    following.compare_clocks()?;
    match following.no_changes()? {
        Some(why) => following.by_snapshots(why),
        None => following.run(),
    }
}

impl Following<'_> {
    pub(super) fn is_stopped(&self) -> bool {
        self.around.stop.load(Ordering::Relaxed)
    }

    fn wait(&self, time: Duration) {
        let until = Instant::now() + time;
        while !self.is_stopped() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20).min(time));
        }
    }

    /// The server's time now, or a little before it.
    pub(super) fn now(&self) -> Moment {
        (self.around.clock)() - self.skew - MARGIN
    }

    /// Measures once a minute how far our clock is ahead: it may be set meanwhile.
    pub(super) fn compare_clocks(&mut self) -> Result<(), Error> {
        if self.compared.is_some_and(|at| at.elapsed() < CLOCKS_EVERY) {
            return Ok(());
        }
        let server = self.deployment.check_key()?.1.and_then(chrono::DateTime::from_timestamp_millis);
        // Ours is read after the answer came, so that a slow one counts as being ahead.
        let ours = (self.around.clock)();
        self.skew = server.map_or(chrono::TimeDelta::zero(), |server| (ours - server).max(chrono::TimeDelta::zero()));
        self.compared = Some(Instant::now());
        Ok(())
    }

    pub(super) fn look(&self, before: Option<&Guard>) -> Result<Guard, ClientError> {
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
            match self.snapshots.whole(self.repository) {
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
                    match epoch.as_mut().map_or(Ok(()), |epoch| self.store(epoch)) {
                        Ok(()) | Err(Error::Stream(StreamError::Conflict { .. })) => {}
                        Err(e) => self.away_or(e)?,
                    }
                    self.away.then_some(self.pause)
                }
                Ok(Turn::Cut(_)) if self.is_stopped() => None,
                Ok(Turn::Cut(why)) => {
                    self.damp(epoch.as_ref().ok().map(|epoch| epoch.number == 0));
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
    fn damp(&mut self, is_barren: Option<bool>) {
        match is_barren {
            Some(true) => self.barren += 1,
            Some(false) => self.barren = 0,
            // A snapshot that failed was counted then.
            None => {}
        }
        if self.barren > 1 {
            let pause = self.options.interval * 2u32.saturating_pow(self.barren.min(20));
            self.wait(pause.min(BARREN_PAUSE_MAX));
        }
    }

    pub(super) fn back(&mut self) {
        if std::mem::take(&mut self.away) {
            (self.hear)(Heard::Back);
        }
        self.pause = self.options.interval;
        self.importing = false;
    }

    /// Says once that an import writes, however long it takes.
    pub(super) fn tell_import(&mut self) {
        if !std::mem::replace(&mut self.importing, true) {
            (self.hear)(Heard::Importing);
        }
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

    fn selection(&self) -> String {
        format!("{:?} but {:?}", self.options.tables, self.options.exclude_tables)
    }

    fn memory(&self) -> PathBuf {
        self.folder.join("memory.json")
    }

    pub(super) fn remember(&self, epoch: &Epoch) -> Result<(), Error> {
        let memory = Memory {
            version: 1,
            epoch: epoch.begun.to_string(),
            selection: self.selection(),
            guard: epoch.guard.clone(),
            seen: epoch.seen.clone(),
        };
        let text = serde_json::to_vec(&memory).map_err(|e| StreamError::Content(e.to_string()))?;
        write_whole(&self.memory(), &text)
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
        if memory.selection != self.selection() {
            return Ok(Err("other tables are chosen than before".to_owned()));
        }
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
    pub(super) fn is_same_history(&self, epoch: &Epoch) -> Result<Option<String>, Error> {
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
                // Nobody has written for longer than the server remembers: what can be asked is whether it goes on from here.
                Err(e) if e.is_out_of_retention() => {
                    return match self.deployment.deltas(epoch.read) {
                        Ok(page) if page.to < epoch.read => Ok(Some(forked)),
                        Ok(_) => Ok(None),
                        Err(e) if e.is_out_of_retention() => Ok(Some(out_of_retention())),
                        Err(e) => Err(e.into()),
                    };
                }
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
            self.tell_import();
            return Ok(None);
        }
        (self.hear)(Heard::Cut { why: why.clone() });
        let facts = match self.snapshots.whole(self.repository) {
            Ok(facts) => facts,
            Err(_) if self.is_stopped() => return Ok(None),
            Err(e) => {
                self.barren += 1;
                return self.away_or(e).map(|()| None);
            }
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
}

pub(super) fn out_of_retention() -> String {
    "the server does not keep changes for so long (`DOCUMENT_RETENTION_DELAY`)".to_owned()
}

/// Whether a later try may succeed.
fn can_pass(error: &Error) -> bool {
    match error {
        Error::Stream(_) => false,
        // What was there when it began comes back: a proxy answers so while a server starts.
        Error::Convex(e) => e.may_pass() || e.is_absent(),
        Error::Source(crate::source::Error::Convex(e)) => e.may_pass(),
        Error::Repository(e) => !matches!(e, crate::repository::Error::NotAWriter(_)),
        Error::Busy(_) => true,
        // An export that was cancelled or stood still.
        Error::Source(_) => true,
        _ => false,
    }
}
