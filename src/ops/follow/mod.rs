//! Follows a PostgreSQL server: its log arrives over the replication protocol, by PostgreSQL's own `pg_receivewal` and a slot;
//! whole segments are stored as they end, and the one that is being written is stored in pieces, every few seconds.
//!
//! Invariants: a file of the log leaves this host's disk only when the store has it; the newest one stays, because
//! `pg_receivewal` goes on where it ends; while the store is away the log waits here up to a bound, and behind that on the
//! server. Not here: base backups, and the words for a person.

mod receiver;
mod slot;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use self::receiver::Receiver;
pub use self::slot::{SlotState, slot_name};
use super::wal::door::{Answer, Caller, Door};
use super::wal::pieces::{Growth, PieceFacts, piece};
use super::wal::{Cluster, Identity, WalError, commit_if_due, push, push_files};
use super::{Error, chain};
use crate::client::postgres::Session;
use crate::client::{Connection, Programs};
use crate::format::wal::{ArchiveFile, scan};
use crate::model::lsn::{Lsn, SegmentName};
use crate::model::sight::{self, Sight};
use crate::model::{Moment, SegmentPlace, limits};
use crate::progress::Progress;
use crate::repository::{Lock, Repository};

/// Segments that are pushed at a time.
const BATCH: usize = 8;
/// A file that was not written for so long can be known by its time of change.
const SETTLED: Duration = Duration::from_secs(1);
/// Callers of the door that wait, at most; further ones wait for room.
const CALLERS: usize = 16;
/// Between two looks at the slot.
const SLOT_EVERY: Duration = Duration::from_secs(30);

/// What is followed, and how.
#[derive(Debug, Clone)]
pub struct FollowOptions {
    /// The source's name.
    pub source: String,
    /// How the server is reached: for our session, and for `pg_receivewal`.
    pub connection: String,
    /// Where PostgreSQL's programs lie.
    pub bin_dir: Option<PathBuf>,
    /// The slot's name.
    pub slot: String,
    /// Where files of the log wait until they are stored: one directory a stream below it.
    pub folder: PathBuf,
    /// Where `wal push` of this host may ask to have its segments stored over our connections.
    pub door: Door,
    /// Between two pieces of the running segment.
    pub interval: Duration,
    /// Bytes that may wait here while the store is away. Behind that the server keeps its log.
    pub hold_max: u64,
}

/// What a person hears of.
#[derive(Debug)]
pub enum Heard {
    /// It began.
    Following {
        /// The cluster.
        stream: String,
        /// The slot, and whether it was made.
        slot: String,
        /// Whether it was made just now.
        made: bool,
    },
    /// A whole file is stored.
    Stored {
        /// Its name.
        name: String,
        /// The last commit that is known.
        newest: Option<Moment>,
    },
    /// The running segment is stored up to here.
    Piece {
        /// The place in the log.
        to: Lsn,
        /// The last commit that is known.
        newest: Option<Moment>,
    },
    /// The store did not take something; it is tried again.
    StoreAway {
        /// Why.
        why: String,
        /// Bytes that wait here.
        waiting: u64,
    },
    /// It takes again.
    StoreBack,
    /// `pg_receivewal` ended; it is started again.
    Lost {
        /// What it said.
        why: String,
        /// When it is started again.
        again_in: Duration,
    },
    /// The log that waits here has reached its bound: the server keeps the rest.
    Full {
        /// Bytes that wait here.
        waiting: u64,
    },
    /// The slot is in danger, or puts the server in danger.
    Slot(String),
}

/// Where it stands.
struct Following<'a> {
    repository: &'a mut Repository,
    cluster: Cluster,
    stream: String,
    folder: PathBuf,
    /// Files that the store has, and that still lie here.
    stored: HashSet<String>,
    growing: Option<(SegmentName, Growth, Option<SystemTime>)>,
    newest: Option<Moment>,
    away: bool,
    clock: &'a dyn Fn() -> Moment,
    progress: &'a dyn Progress,
    hear: &'a mut dyn FnMut(Heard),
}

/// Follows until it is told to stop; then stores what has arrived. An error is what nothing here can mend.
pub fn follow(
    repository: &mut Repository,
    options: &FollowOptions,
    clock: &dyn Fn() -> Moment,
    stop: &AtomicBool,
    progress: &dyn Progress,
    hear: &mut dyn FnMut(Heard),
) -> Result<(), Error> {
    let connection = Connection::parse(&options.connection)?;
    let session = Session::connect(&options.connection).map_err(crate::source::Error::from)?;
    let slot::Prepared { cluster, segment, made } = slot::prepare(&session, &options.slot)?;
    let stream = cluster.stream(&options.source);
    let folder = options.folder.join(&stream);
    fs::create_dir_all(&folder).map_err(|source| io("make", &folder, source))?;
    // Two would end each other's `pg_receivewal`.
    let lock = Lock::try_alone(&folder.join("lock")).map_err(|source| io("lock", &folder, source))?;
    let _lock = lock.ok_or(WalError::Followed)?;
    let programs = Programs::new(options.bin_dir.clone());
    let mut receiver = Receiver::new(&programs, (cluster.major, segment), connection, &options.slot, &folder)?;
    hear(Heard::Following { stream: stream.clone(), slot: options.slot.clone(), made });
    let mut following = Following {
        repository,
        cluster,
        stream,
        folder,
        stored: HashSet::new(),
        growing: None,
        newest: None,
        away: false,
        clock,
        progress,
        hear,
    };
    let (asked, callers) = std::sync::mpsc::sync_channel(CALLERS);
    if let Err(e) = options.door.open(asked) {
        tracing::warn!("`wal push` of this host opens the repository by itself: {e}");
    }
    let mut monitor = slot::Monitor::new(session, options);
    let (mut looked, mut was_full): (Option<Instant>, bool) = (None, false);
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        let waiting = following.turn()?;
        let full = waiting > options.hold_max;
        receiver.keep(full, following.hear)?;
        if full && !was_full {
            (following.hear)(Heard::Full { waiting });
        }
        was_full = full;
        if looked.is_none_or(|at| at.elapsed() >= SLOT_EVERY) {
            if let Some(words) = monitor.look(following.hear) {
                following.note(&options.source, &options.slot, words);
            }
            looked = Some(Instant::now());
        }
        while began.elapsed() < options.interval && !stop.load(Ordering::Relaxed) {
            if let Ok(caller) = callers.recv_timeout(Duration::from_millis(50)) {
                following.push_for(caller, &options.source);
            }
        }
    }
    options.door.close();
    receiver.end();
    following.turn()?;
    following.repository.commit_segments(clock(), progress)?;
    Ok(())
}

fn io(doing: &'static str, path: &Path, source: std::io::Error) -> Error {
    WalError::Io { doing, path: path.to_owned(), source }.into()
}

impl Following<'_> {
    /// Stores what has arrived; the bytes that wait here afterwards. Only what time cannot mend is an error.
    fn turn(&mut self) -> Result<u64, Error> {
        let files = self.files()?;
        let result = self.store_all(&files);
        commit_if_due(self.repository, (self.clock)(), self.progress);
        let waiting = files.iter().filter(|(name, _)| !self.stored.contains(name)).map(|(_, size)| size).sum();
        match result {
            Ok(()) if self.away => {
                self.away = false;
                (self.hear)(Heard::StoreBack);
            }
            Ok(()) => {}
            Err(e) if can_pass(&e) => {
                if !self.away {
                    (self.hear)(Heard::StoreAway { why: chain(&e), waiting });
                }
                self.away = true;
            }
            Err(e) => return Err(e),
        }
        Ok(waiting)
    }

    /// Leaves a word for `status`. That it cannot be left is no reason to follow no more.
    fn note(&mut self, source: &str, slot: &str, words: Option<String>) {
        let sight = Sight::new(sight::slot(slot), (self.clock)(), words);
        if let Err(e) = self.repository.catalog_mut().set_sights(source, |_| false, &[sight]) {
            tracing::warn!("`status` does not hear of the slot: {e}");
        }
    }

    /// Stores a file for `wal push`. What fails here the caller tries by itself, and says why.
    fn push_for(&mut self, caller: Caller, source: &str) {
        let request = &caller.request;
        let is_same = fs::metadata(&request.path).is_ok_and(|meta| Identity::of(&meta) == request.identity);
        let pushed = match is_same && self.repository.check_there().is_ok() {
            true => push(self.repository, source, &request.path, request.ahead, (self.clock)(), self.progress).ok(),
            false => None,
        };
        let answer = pushed.map(|pushed| {
            self.newest = self.newest.max(pushed.newest);
            Answer { known: pushed.known, along: pushed.along, newest: pushed.newest }
        });
        caller.answer(answer.as_ref());
    }

    /// Files of the log that lie here, by name, with their sizes.
    fn files(&self) -> Result<Vec<(String, u64)>, Error> {
        let listing = fs::read_dir(&self.folder).map_err(|source| io("read", &self.folder, source))?;
        let mut files = Vec::new();
        for entry in listing.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if ArchiveFile::parse(&name).is_ok() {
                files.push((name, entry.metadata().map_or(0, |meta| meta.len())));
            }
        }
        files.sort();
        Ok(files)
    }

    fn store_all(&mut self, files: &[(String, u64)]) -> Result<(), Error> {
        let kind = |name: &str| ArchiveFile::parse(name).ok();
        let is_whole = |name: &str| matches!(kind(name), Some(ArchiveFile::Segment(_) | ArchiveFile::History(_)));
        let fresh: Vec<&String> = files.iter().map(|(name, _)| name).filter(|name| is_whole(name)).collect();
        let fresh: Vec<String> = fresh.into_iter().filter(|name| !self.stored.contains(*name)).cloned().collect();
        for batch in fresh.chunks(BATCH) {
            self.push(batch)?;
        }
        let running = files.iter().rev().find_map(|(name, _)| match kind(name) {
            Some(ArchiveFile::Partial(segment)) => Some(segment),
            _ => None,
        });
        if let Some(segment) = running {
            self.grow(segment)?;
        }
        self.tidy(files);
        Ok(())
    }

    fn push(&mut self, names: &[String]) -> Result<(), Error> {
        self.repository.check_there()?;
        let mut left = names.to_vec();
        while let Some(first) = left.first().cloned() {
            let (path, now) = (self.folder.join(&first), (self.clock)());
            let pushed =
                push_files(self.repository, &self.stream, self.cluster, &path, left.clone(), now, self.progress)?;
            self.newest = self.newest.max(pushed.newest);
            let mut there: Vec<String> = pushed.along.into_iter().map(|(name, _)| name).collect();
            there.insert(0, first);
            // What was sent along and failed is asked for by itself, and says why.
            left.retain(|name| !there.contains(name));
            for name in there {
                (self.hear)(Heard::Stored { name: name.clone(), newest: self.newest });
                self.stored.insert(name);
            }
        }
        Ok(())
    }

    /// Stores what the running segment has grown by.
    fn grow(&mut self, segment: SegmentName) -> Result<(), Error> {
        if self.growing.as_ref().is_none_or(|(known, ..)| *known != segment) {
            // After a start it is stored from its beginning once more: what went before is not remembered.
            self.growing = Some((segment, Growth::default(), None));
        }
        let path = self.folder.join(ArchiveFile::Partial(segment).to_string());
        let Some((_, growth, seen)) = self.growing.as_mut() else { return Ok(()) };
        let read = || -> std::io::Result<(Vec<u8>, Option<SystemTime>)> {
            let file = File::open(&path)?;
            // A disk's clock ticks every few milliseconds: what was written just now may go on within the same tick.
            let settled = |at: &SystemTime| at.elapsed().is_ok_and(|age| age >= SETTLED);
            let changed = file.metadata()?.modified().ok().filter(settled);
            let mut bytes = Vec::new();
            file.take(limits::SEGMENT_MAX as u64).read_to_end(&mut bytes)?;
            Ok((bytes, changed))
        };
        if seen.is_some() && fs::metadata(&path).and_then(|meta| meta.modified()).ok() == *seen {
            return Ok(());
        }
        let (bytes, changed) = match read() {
            Ok(read) => read,
            // It ended just now and has its own name: the next turn stores it whole.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(io("read", &path, e)),
        };
        // Nothing has arrived yet, or not even its first page: there is no header to read.
        let Ok(facts) = scan(&bytes, segment) else { return Ok(()) };
        let to = (facts.end.0 - facts.start.0) as u32;
        if to <= growth.stored_to() {
            *seen = changed;
            return Ok(());
        }
        let (from, needs) = growth.next(to);
        let place = SegmentPlace::new(&self.stream, &format!("{:08X}", segment.timeline.0), &segment.to_string())
            .and_then(|whole| whole.piece(to))
            .ok_or_else(|| WalError::Name(segment.to_string()))?;
        let newest = facts.latest.and_then(Moment::from_timestamp_micros);
        let end = facts.end;
        let facts = serde_json::to_value(PieceFacts { needs, segment: facts }).unwrap_or_default();
        self.repository.check_there()?;
        let writer = self.repository.segment_writer()?;
        let record = writer.put(place, &piece(&bytes, from, to), facts, (self.clock)())?;
        self.repository.note_segments(&[record])?;
        growth.put(to);
        *seen = changed;
        self.newest = self.newest.max(newest);
        (self.hear)(Heard::Piece { to: end, newest: self.newest });
        Ok(())
    }

    /// Removes what is stored, but for the newest segment: `pg_receivewal` goes on behind it.
    fn tidy(&mut self, files: &[(String, u64)]) {
        let newest = files.iter().rev().find(|(name, _)| {
            matches!(ArchiveFile::parse(name), Ok(ArchiveFile::Segment(_) | ArchiveFile::Partial(_)))
        });
        for (name, _) in files {
            let is_segment = matches!(ArchiveFile::parse(name), Ok(ArchiveFile::Segment(_)));
            if is_segment && self.stored.contains(name) && newest.is_some_and(|(newest, _)| newest > name) {
                match fs::remove_file(self.folder.join(name)) {
                    Ok(()) => drop(self.stored.remove(name)),
                    Err(e) => tracing::warn!("`{name}` is stored and could not be removed here: {e}"),
                }
            }
        }
    }
}

/// Whether a later try may succeed: the store, the disk and the network come back; a conflict does not go away.
fn can_pass(error: &Error) -> bool {
    !matches!(error, Error::Wal(WalError::Conflict { .. } | WalError::Content { .. } | WalError::Name(_)))
}
