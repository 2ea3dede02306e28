//! A volume in which databases are captured: first those that are found by their names, then everything else in path order.
//! A database that is found only when it is read is captured then; none is read while its writer changes it.
//!
//! What SQLite keeps beside a database is part of the database and no file of the snapshot. Databases come first because whoever
//! keeps blobs beside one writes a blob before the row that names it. Invariant: a database that is taken over unread has no log or
//! journal beside it. Not here: how one is captured, and the walk.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::find::{databases, main_of};
use super::{Captured, Captures, Layout, Refusal, beside, found_as, is_database, opened};
use crate::format::sqlite::parse;
use crate::model::{Cutting, DatabaseFact, Digest, Entry, EntryKind, FileContent, How, RawText, RelPath, VolumeFacts};
use crate::model::{SnapshotRecord, limits};
use crate::progress::Event;
use crate::source::volume::VolumeSource;
use crate::source::{Error, Found, FoundEntry, Opened, SmallRead, Source};

/// A database that was looked at before the walk.
enum State {
    /// It has not changed since the snapshot before; as it was then.
    Same(Box<Entry>, u64),
    /// Captured; the copy is there until it is read.
    Taken(Box<Entry>, Option<Box<Captured>>, u64),
    /// It is stored as any file, with what lies beside it.
    Plain,
    /// It could not be captured.
    Failed(String),
}

/// A tree with databases.
pub struct DatabaseVolume {
    volume: VolumeSource,
    captures: Captures,
    convex: Option<Layout>,
    blobs: bool,
    states: Mutex<BTreeMap<RelPath, State>>,
    /// Databases whose files alone do not say whether they changed.
    unsettled: Mutex<HashSet<RelPath>>,
}

impl DatabaseVolume {
    /// A volume; what `convex` leaves out is among its rules already.
    pub fn new(volume: VolumeSource, captures: Captures, convex: Option<Layout>) -> Self {
        let volume = volume.watching_logs();
        let blobs = convex.as_ref().is_some_and(|layout| layout.fact().database.is_none());
        Self { volume, captures, convex, blobs, states: Mutex::default(), unsettled: Mutex::default() }
    }

    /// Says whether its files are blobs that another source's rows name. Those of a Convex backend whose documents are elsewhere are.
    pub fn of_blobs(self, blobs: Option<bool>) -> Self {
        let blobs = blobs.unwrap_or(self.blobs);
        Self { blobs, ..self }
    }

    fn states(&self) -> MutexGuard<'_, BTreeMap<RelPath, State>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entry_of(&self, path: &RelPath, meta: &std::fs::Metadata) -> Box<Entry> {
        let content = FileContent { size: 0, digest: Digest::new([0; 32]), extents: Vec::new() };
        Box::new(self.volume.entry(path.clone(), meta, EntryKind::File(content)))
    }

    /// Whether a database is what the snapshot before saw.
    fn unchanged(&self, path: &RelPath, before: Option<&DatabaseFact>, settled_until: i64) -> Option<State> {
        let seen = before?.seen?;
        let absolute = self.volume.absolute(path);
        let meta = std::fs::symlink_metadata(&absolute).ok()?;
        let now = self.entry_of(path, &meta);
        let same = meta.is_file()
            && (meta.len(), meta.ino(), now.mtime, now.ctime) == (seen.size, seen.inode, seen.mtime, Some(seen.ctime))
            && seen.ctime.0 < settled_until;
        let alone = ["-wal", "-journal"]
            .iter()
            .all(|tail| std::fs::symlink_metadata(beside(&absolute, tail)).map_or(true, |meta| meta.len() == 0));
        (same && alone).then(|| State::Same(now, meta.len()))
    }

    fn take(&self, path: &RelPath) -> State {
        match self.captures.capture(&self.volume.absolute(path)) {
            Ok(captured) => {
                self.captures.note(path, &captured);
                let entry = self.entry_of(path, &captured.meta);
                let found = found_as(&captured, *entry);
                State::Taken(Box::new(found.entry), Some(Box::new(captured)), found.size)
            }
            Err(Refusal::NoDatabase) => State::Plain,
            Err(Refusal::Unrecoverable(why)) => {
                self.say(path, &format!("SQLite cannot apply what lies beside it ({why}); all are stored as they are"));
                State::Plain
            }
            Err(e) => State::Failed(e.to_string()),
        }
    }

    fn say(&self, path: &RelPath, what: &str) {
        self.captures.progress.event(Event::Warning(&format!("`{path}`: {what}")));
    }

    /// What the walk passes on of something that it found. `None`: nothing.
    fn pass(&self, found: Found) -> Option<Found> {
        let Found::Entry(found) = found else { return Some(found) };
        let path = &found.entry.path;
        let states = self.states();
        match states.get(path) {
            Some(State::Same(entry, size)) => {
                return Some(Found::Entry(Box::new(FoundEntry::new((**entry).clone(), *size, false))));
            }
            Some(State::Taken(entry, _, size)) => {
                return Some(Found::Entry(Box::new(FoundEntry::new((**entry).clone(), *size, false))));
            }
            Some(State::Failed(why)) => return Some(Found::Skipped { path: path.clone(), why: why.clone() }),
            Some(State::Plain) => return Some(Found::Entry(found)),
            None => {}
        }
        if let EntryKind::Hardlink { target } = &found.entry.kind
            && let Some(State::Failed(why)) = states.get(target)
        {
            return Some(Found::Skipped { path: path.clone(), why: why.clone() });
        }
        let belongs = found.entry.content().is_some() && self.belongs(path, &states);
        (!belongs).then_some(Found::Entry(found))
    }

    /// Whether a file is what SQLite keeps beside a database.
    fn belongs(&self, path: &RelPath, states: &BTreeMap<RelPath, State>) -> bool {
        let Some(name) = main_of(path.name()) else { return false };
        let Some(main) = path.parent().and_then(|parent| parent.join(name).ok()) else { return false };
        match states.get(&main) {
            Some(State::Plain) => false,
            Some(_) => true,
            None => is_database(&self.volume.absolute(&main)).unwrap_or(false),
        }
    }

    /// A database of which the walk knew nothing, or whose old bytes are not trusted any more.
    fn take_late(&self, path: &RelPath) -> Result<Option<Box<Captured>>, String> {
        match self.take(path) {
            State::Taken(_, captured, _) => {
                if captured.as_ref().is_some_and(|captured| !captured.settled) {
                    self.unsettled.lock().unwrap_or_else(PoisonError::into_inner).insert(path.clone());
                }
                Ok(captured)
            }
            State::Failed(why) => Err(why),
            State::Same(..) | State::Plain => Ok(None),
        }
    }

    /// The copy of a database, if the walk captured it and nobody has read it yet.
    fn taken(&self, path: &RelPath) -> Option<Box<Captured>> {
        match self.states().get_mut(path) {
            Some(State::Taken(_, captured, _)) => captured.take(),
            _ => None,
        }
    }

    fn is_plain(&self, path: &RelPath) -> bool {
        matches!(self.states().get(path), Some(State::Plain))
    }
}

impl Source for DatabaseVolume {
    fn kind(&self) -> &'static str {
        "volume"
    }

    fn root(&self) -> String {
        self.volume.root()
    }

    fn prepare(&self, previous: Option<&SnapshotRecord>) -> Result<(), Error> {
        let progress = &self.captures.progress;
        let cancelled = || progress.cancelled();
        let before: VolumeFacts =
            previous.and_then(|record| serde_json::from_value(record.facts.clone()).ok()).unwrap_or_default();
        let settled_until = previous.map_or(i64::MIN, |record| record.began.timestamp() - 2);
        let barren = self.convex.as_ref().and_then(|layout| RelPath::new(layout.storage()).ok());
        let mut all: BTreeSet<RelPath> = databases(&self.volume, barren.as_slice(), &cancelled);
        let known: BTreeMap<RelPath, DatabaseFact> = before
            .databases
            .into_iter()
            .filter_map(|fact| Some((RelPath::new(fact.path.as_bytes().to_vec()).ok()?, fact)))
            .collect();
        let is_there = |path: &&RelPath| is_database(&self.volume.absolute(path)).unwrap_or(false);
        all.extend(known.keys().filter(is_there).cloned());
        if !all.is_empty() {
            self.captures.begin()?;
            progress.event(Event::Stage("capturing databases"));
        }
        for path in all {
            if cancelled() {
                break;
            }
            let state = match self.unchanged(&path, known.get(&path), settled_until) {
                Some(same) => {
                    let fact =
                        known.get(&path).map(|fact| DatabaseFact { how: How::Unchanged, held_ms: 0, ..fact.clone() });
                    self.captures.facts().extend(fact.map(|fact| (path.clone(), fact)));
                    same
                }
                None => self.take(&path),
            };
            self.states().insert(path, state);
        }
        Ok(())
    }

    fn walk(&self, each: &mut dyn FnMut(Found) -> bool) -> Result<(), Error> {
        self.volume.walk(&mut |found| self.pass(found).is_none_or(&mut *each))
    }

    fn open(&self, found: &FoundEntry) -> Result<Opened<'_>, String> {
        let path = &found.entry.path;
        let text = |e: std::io::Error| e.to_string();
        if let Some(captured) = self.taken(path) {
            return opened(*captured, self.volume.xattrs(&found.entry)).map_err(text);
        }
        let plain = self.volume.open(found)?;
        // What is cut into pages is a database, or a relation file of PostgreSQL's; the header tells them apart.
        let suspect = plain.cutting == Cutting::Pages && !self.is_plain(path);
        if suspect && is_database(&self.volume.absolute(path)).map_err(text)? {
            drop(plain);
            return match self.take_late(path)? {
                Some(captured) => opened(*captured, self.volume.xattrs(&found.entry)).map_err(text),
                None => self.volume.open(found),
            };
        }
        Ok(plain)
    }

    fn read_small(&self, found: &FoundEntry, into: &mut Vec<u8>) -> Result<SmallRead, String> {
        let (path, start) = (&found.entry.path, into.len());
        let mut captured = self.taken(path);
        if captured.is_none() {
            let read = self.volume.read_small(found, into)?;
            let is_one = parse(&into[start..], (into.len() - start) as u64).is_some();
            if !is_one || self.is_plain(path) {
                return Ok(read);
            }
            captured = self.take_late(path)?;
            if captured.is_none() {
                return Ok(read);
            }
        }
        into.truncate(start);
        let Some(captured) = captured else { return Err("its copy is gone".to_owned()) };
        let mut opened = opened(*captured, self.volume.xattrs(&found.entry)).map_err(|e| e.to_string())?;
        // It may have grown since the walk, by what lay beside it.
        let room = 2 * limits::SMALL_FILE_MAX;
        (&mut opened.file).take(room).read_to_end(into).map_err(|e| e.to_string())?;
        let cut = opened.size > room;
        let changed = cut.then(|| "it grew while it was captured: only its first 2 MiB are stored".to_owned());
        Ok(SmallRead { cutting: opened.cutting, xattrs: opened.xattrs, changed })
    }

    fn xattrs(&self, entry: &Entry) -> BTreeMap<String, RawText> {
        self.volume.xattrs(entry)
    }

    fn all_or_nothing(&self) -> bool {
        false
    }

    fn distrusts(&self, path: &RelPath) -> bool {
        self.unsettled.lock().unwrap_or_else(PoisonError::into_inner).contains(path)
    }

    fn facts(&self) -> serde_json::Value {
        let facts = VolumeFacts {
            convex: self.convex.as_ref().map(Layout::fact),
            blobs: self.blobs,
            ..self.captures.collect()
        };
        if facts == VolumeFacts::default() {
            return serde_json::Value::Null;
        }
        serde_json::to_value(facts).unwrap_or_default()
    }

    fn finish(&self) -> Result<(), Error> {
        Ok(())
    }
}
