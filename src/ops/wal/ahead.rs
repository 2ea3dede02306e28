//! Segments that are fetched before the server asks for them: a process beside the recovery, which the first `wal get` starts.
//! It keeps the next segments ready in a folder beside the target, so that the calls that follow take them by a rename.
//!
//! Invariants: a file gets its name in the folder when its bytes were verified; the process never says that a segment is absent:
//! what it cannot give, the caller looks for by itself; it ends, and takes its folder with it, when nobody asked for a while. Not
//! here: starting it.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::get::{put_in_place, writer_of};
use super::{WalError, place_of};
use crate::format::wal::check_segment;
use crate::model::lsn::{SegmentName, SegmentSize};
use crate::model::{Lsn, SegmentRecord};
use crate::ops::Error;
use crate::repository::{Repository, SegmentReader, SegmentWorker};

/// Segments that are kept ready, at most.
pub const READY: usize = 8;
/// Plain bytes of those at most: clusters may have segments of 1 GiB.
const READY_BYTES: u64 = 512 << 20;
/// Threads that fetch.
const FETCHERS: usize = 3;
/// Without a request for so long it ends.
const IDLE: Duration = Duration::from_secs(60);
/// So long a caller waits for an answer.
const ANSWER: Duration = Duration::from_secs(120);
/// Characters of a segment's name.
const NAME: usize = 24;
const READY_ANSWER: u8 = b'+';
const NOT_HERE: u8 = b'-';

/// The folder beside a target.
#[derive(Debug, Clone)]
pub struct Shelf(PathBuf);

/// What a caller finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// The file is in its place.
    Placed,
    /// A process is there, and does not have it.
    NotHere,
    /// No process is there.
    Nobody,
}

impl Shelf {
    /// `of` tells repositories and streams apart.
    pub fn beside(target: &Path, of: &str) -> Self {
        let name = format!(".lifeboat-ahead-{}", &blake3::hash(of.as_bytes()).to_hex()[..16]);
        Self(target.with_file_name(name))
    }

    /// A folder that was named.
    pub fn at(folder: PathBuf) -> Self {
        Self(folder)
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.0
    }

    fn socket(&self) -> PathBuf {
        self.0.join("socket")
    }

    /// Makes the folder and the socket in it, for the process that will answer there: whoever asks from now on waits for it.
    pub fn open(&self) -> std::io::Result<UnixListener> {
        // What a process that was killed has left behind; one that lives would have answered.
        let _ = fs::remove_dir_all(&self.0);
        fs::DirBuilder::new().mode(0o700).create(&self.0)?;
        UnixListener::bind(self.socket())
    }

    /// Asks for a segment, and takes it.
    pub fn take(&self, name: SegmentName, target: &Path) -> Taken {
        let Ok(mut stream) = UnixStream::connect(self.socket()) else { return Taken::Nobody };
        let mut answer = [0];
        let asked = stream
            .set_read_timeout(Some(ANSWER))
            .and_then(|()| stream.write_all(name.to_string().as_bytes()))
            .and_then(|()| stream.read_exact(&mut answer));
        match asked {
            Ok(()) if answer == [READY_ANSWER] => {
                // The server has removed what was there; a rename onto a file would make ext4 write all of it out at once.
                let _ = fs::remove_file(target);
                match fs::rename(self.0.join(name.to_string()), target) {
                    Ok(()) => Taken::Placed,
                    Err(_) => Taken::NotHere,
                }
            }
            _ => Taken::NotHere,
        }
    }
}

/// How a segment that is wanted stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Fetching,
    Ready,
    /// It is not there, or cannot be had: the caller finds out which.
    Failed,
}

#[derive(Default)]
struct Desk {
    wanted: BTreeMap<SegmentName, State>,
    /// Bytes of a segment, once one was fetched.
    size: Option<SegmentSize>,
    asked: Option<Instant>,
    /// What listings said, by name.
    listed: HashMap<String, Vec<SegmentRecord>>,
}

/// What the threads share.
struct Service {
    shelf: Shelf,
    reader: SegmentReader,
    stream: String,
    /// A restore to a moment before a gap: nothing from here on.
    ends_at: Option<SegmentName>,
    cut: Option<Lsn>,
    desk: Mutex<Desk>,
    changed: Condvar,
}

/// What is fetched.
#[derive(Debug, Clone, Copy)]
pub struct Ahead<'a> {
    /// The stream.
    pub stream: &'a str,
    /// The writer that has it; left out where one alone has.
    pub writer: Option<&'a str>,
    /// The segment that is asked for first.
    pub first: SegmentName,
    /// Nothing from this segment on: the log ends there for this restore.
    pub ends_at: Option<SegmentName>,
    /// Nothing of the segment that holds this place: it is cut there, by the call for it.
    pub cut: Option<Lsn>,
}

/// Serves until nobody has asked for a while. `listener` is that of the folder's socket, by [`Shelf::open`].
pub fn serve(repository: &Repository, of: &Ahead<'_>, shelf: Shelf, listener: UnixListener) -> Result<(), Error> {
    let writer = writer_of(repository, of.stream, of.writer)?;
    let service = Arc::new(Service {
        reader: repository.segment_reader(&writer)?,
        stream: of.stream.to_owned(),
        ends_at: of.ends_at,
        cut: of.cut,
        desk: Mutex::default(),
        changed: Condvar::new(),
        shelf,
    });
    service.desk().wanted.insert(of.first, State::Waiting);
    for _ in 0..FETCHERS {
        let service = Arc::clone(&service);
        std::thread::spawn(move || service.fetch_for_ever());
    }
    let accepting = Arc::clone(&service);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let service = Arc::clone(&accepting);
            std::thread::spawn(move || service.answer(stream));
        }
    });
    // The threads end with the process.
    service.wait_until_idle();
    let _ = fs::remove_dir_all(service.shelf.folder());
    Ok(())
}

impl Service {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, name: SegmentName) -> PathBuf {
        self.shelf.folder().join(name.to_string())
    }

    fn wait_until_idle(&self) {
        let began = Instant::now();
        loop {
            let since = self.desk().asked.unwrap_or(began).elapsed();
            if since >= IDLE || !self.shelf.folder().is_dir() {
                return;
            }
            std::thread::sleep((IDLE - since).min(Duration::from_secs(5)));
        }
    }

    /// Adds what follows a segment, as far as the bounds allow; what lies elsewhere goes.
    fn want_behind(&self, desk: &mut Desk, name: SegmentName, itself: bool) {
        let Some(size) = desk.size else { return };
        let room = (READY_BYTES / size.bytes()).clamp(1, READY as u64);
        let mut window = Vec::new();
        let mut at = name;
        for _ in 0..room {
            match at
                .next(size)
                .filter(|next| self.ends_at.is_none_or(|end| (next.log, next.segment) < (end.log, end.segment)))
            {
                Some(next) => window.push(next),
                None => break,
            }
            at = *window.last().unwrap_or(&at);
        }
        desk.wanted.retain(|wanted, state| {
            let stays = window.contains(wanted) || *state == State::Fetching || (itself && *wanted == name);
            if !stays && *state == State::Ready {
                let _ = fs::remove_file(self.path(*wanted));
            }
            stays
        });
        for name in window {
            // Behind one that cannot be had, nothing will be asked for soon.
            if *desk.wanted.entry(name).or_insert(State::Waiting) == State::Failed {
                break;
            }
        }
        self.changed.notify_all();
    }

    fn answer(&self, mut stream: UnixStream) {
        let mut name = [0; NAME];
        let asked = stream.set_read_timeout(Some(ANSWER)).and_then(|()| stream.read_exact(&mut name));
        let name = std::str::from_utf8(&name).ok().and_then(|text| text.parse::<SegmentName>().ok());
        let (Ok(()), Some(name)) = (asked, name) else { return };
        let mut desk = self.desk();
        desk.asked = Some(Instant::now());
        while let Some(State::Waiting | State::Fetching) = desk.wanted.get(&name) {
            desk = self.changed.wait(desk).unwrap_or_else(PoisonError::into_inner);
        }
        let state = desk.wanted.remove(&name);
        // One that failed may be there the next time: a standby asks again.
        desk.wanted.retain(|_, state| *state != State::Failed);
        let answer = if state == Some(State::Ready) { READY_ANSWER } else { NOT_HERE };
        if state != Some(State::Failed) {
            self.want_behind(&mut desk, name, false);
        }
        drop(desk);
        let _ = stream.write_all(&[answer]);
    }

    fn fetch_for_ever(&self) -> Result<(), Error> {
        let mut worker = self.reader.worker()?;
        loop {
            let mut desk = self.desk();
            let name = loop {
                let next = desk.wanted.iter_mut().find(|(_, state)| **state == State::Waiting);
                if let Some((name, state)) = next {
                    *state = State::Fetching;
                    break *name;
                }
                desk = self.changed.wait(desk).unwrap_or_else(PoisonError::into_inner);
            };
            drop(desk);
            let fetched = self.fetch(name, &mut worker);
            if let Err(e) = &fetched {
                tracing::debug!(segment = %name, "not fetched ahead: {e}");
            }
            let mut desk = self.desk();
            let size = fetched.ok().flatten();
            if let Some(state) = desk.wanted.get_mut(&name) {
                *state = if size.is_some() { State::Ready } else { State::Failed };
            }
            // The first one tells how large they are, and so how the next ones are called.
            if size.is_some() && desk.size.is_none() {
                desk.size = size;
                self.want_behind(&mut desk, name, true);
            }
            self.changed.notify_all();
        }
    }

    /// Brings one segment into the folder, and says its size. `None` where it is not there, or not one alone.
    fn fetch(&self, name: SegmentName, worker: &mut SegmentWorker<'_>) -> Result<Option<SegmentSize>, Error> {
        let place = place_of(&self.stream, &name.to_string())?;
        let known = self.desk().listed.remove(place.name());
        let records = match known {
            Some(records) => records,
            None => {
                let mut all: HashMap<String, Vec<SegmentRecord>> = HashMap::new();
                for record in self.reader.list_from(&place)? {
                    all.entry(record.place.name().to_owned()).or_default().push(record);
                }
                let own = all.remove(place.name()).unwrap_or_default();
                self.desk().listed = all;
                own
            }
        };
        let [record] = records.as_slice() else { return Ok(None) };
        let bytes = worker.read(record)?;
        let header =
            check_segment(bytes, name).map_err(|e| WalError::Content { name: name.to_string(), why: e.to_string() })?;
        if self.cut.is_some_and(|cut| cut < header.start.plus(header.segment_size.bytes())) {
            return Ok(None);
        }
        put_in_place(bytes, &self.path(name))?;
        Ok(Some(header.segment_size))
    }
}
