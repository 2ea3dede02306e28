//! A PostgreSQL cluster in the repository: which moments it can be brought back to, and a restored directory made ready to
//! replay up to one of them.
//!
//! Invariants: facts come from the index where it has them, else from the segments themselves; a directory is given its recovery
//! settings after its files, and `recovery.signal` last. Not here: the choice (`plan::recovery`) and the files' restore.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use super::Error;
use super::wal::WalError;
use super::wal::pieces::{PieceFacts, join_pieces};
use crate::format::history;
use crate::format::wal::{ArchiveFile, SegmentFacts, join, scan};
use crate::model::base::BaseBackup;
use crate::model::{Moment, SegmentName, SegmentPlace, SegmentRecord, SnapshotRecord, Timeline};
use crate::plan::recovery::{Archive, Base, Commits, Fork, Growing, Target, Way};
use crate::repository::{self, Repository};

/// A cluster as the repository knows it.
pub struct Cluster {
    /// The source's full name.
    pub full_name: String,
    /// Its stream.
    pub stream: String,
    /// Its base backups and its log.
    pub archive: Archive,
    /// Segments that the index names and the store does not hold.
    pub missing: Vec<SegmentRecord>,
}

/// The cluster that a source's snapshots are of; `None` where the source is no cluster.
pub fn gather(repository: &Repository, source: &str) -> Result<Option<Cluster>, Error> {
    gather_stream(repository, source, None)
}

/// The same of one of its streams; the newest base backup's where none is named. An upgrade of the server begins another.
pub fn gather_stream(repository: &Repository, source: &str, stream: Option<&str>) -> Result<Option<Cluster>, Error> {
    let catalog = |e| Error::from(repository::Error::from(e));
    let writers = repository.writer_names()?;
    let mut bases: Vec<(String, Base)> = Vec::new();
    for snapshot in repository.catalog().snapshots().map_err(catalog)? {
        let record = &snapshot.record;
        let writer = writers.get(&snapshot.writer).cloned().unwrap_or_default();
        let is_meant = record.source == source || format!("{writer}/{}", record.source) == source;
        if !is_meant || record.kind != "postgres" {
            continue;
        }
        match serde_json::from_value::<BaseBackup>(record.facts.clone()) {
            Ok(backup) if stream.is_some_and(|stream| backup.stream != stream) => {}
            Ok(backup) => bases.push((writer, Base { id: record.id, backup, whole: record.complete })),
            Err(e) => tracing::warn!(snapshot = %record.id, "its facts are not understood, it is left out: {e}"),
        }
    }
    let Some((writer, newest)) = bases.iter().max_by_key(|(_, base)| base.backup.stopped) else { return Ok(None) };
    let (writer, stream) = (writer.clone(), newest.backup.stream.clone());
    bases.retain(|(other, base)| *other == writer && base.backup.stream == stream);
    let listing = repository.list_stream(&writer, &stream)?;
    let mut archive = Archive { bases: bases.into_iter().map(|(_, base)| base).collect(), ..Archive::default() };
    let mut facts: BTreeMap<SegmentName, Option<SegmentFacts>> = BTreeMap::new();
    let mut grown: BTreeSet<SegmentName> = BTreeSet::new();
    for record in &listing.there {
        match ArchiveFile::parse(record.place.name()) {
            Ok(ArchiveFile::Segment(name)) => drop(facts.insert(name, facts_of(repository, &writer, record, name)?)),
            Ok(ArchiveFile::Piece { segment, .. }) => {
                grown.insert(segment);
            }
            Ok(ArchiveFile::History(timeline)) => archive.forks.extend(fork_of(repository, &writer, record, timeline)?),
            _ => {}
        }
    }
    grown.retain(|segment| !facts.contains_key(segment));
    for segment in &grown {
        let known = pieces_facts(repository, &writer, *segment, &listing.there)?;
        facts.insert(*segment, known);
    }
    let ends: BTreeMap<_, _> =
        grown.iter().map(|name| (*name, facts.get(name).and_then(|f| f.as_ref().map(|f| f.end)))).collect();
    archive.wal = commits(&facts);
    for (name, end) in ends {
        let commits = archive.wal.remove(&name).flatten();
        // Pieces that nobody here can open tell nothing.
        archive.growing.extend(end.map(|end| (name, Growing { commits, end })));
    }
    let full_name = format!("{writer}/{}", source.rsplit('/').next().unwrap_or(source));
    Ok(Some(Cluster { full_name, stream, archive, missing: listing.missing }))
}

/// The first segment between a base backup's start and its stop that the store does not hold: until it does, the backup is pending.
pub fn waits_for(repository: &Repository, record: &SnapshotRecord) -> Result<Option<SegmentName>, Error> {
    let unfit = |e: serde_json::Error| WalError::Content { name: record.id.to_string(), why: e.to_string() };
    let base: BaseBackup = serde_json::from_value(record.facts.clone()).map_err(unfit)?;
    let name = &repository.host()?.name;
    let (mut at, last) = base.needs();
    loop {
        let place = SegmentPlace::new(&base.stream, &format!("{:08X}", at.timeline.0), &at.to_string());
        let place = place.ok_or_else(|| WalError::Name(at.to_string()))?;
        if repository.segments_in_store(name, &place)?.is_empty() {
            return Ok(Some(at));
        }
        match at.next(base.segment_size) {
            Some(next) if next <= last => at = next,
            _ => return Ok(None),
        }
    }
}

/// What a segment says of its commits: by the index, else by itself where an identity is at hand.
fn facts_of(
    repository: &Repository,
    writer: &str,
    record: &SegmentRecord,
    name: SegmentName,
) -> Result<Option<SegmentFacts>, Error> {
    if !record.facts.is_null() {
        return Ok(serde_json::from_value(record.facts.clone()).ok());
    }
    if !repository.can_read() {
        return Ok(None);
    }
    let bytes = repository.read_segment(writer, record)?;
    let bad = |e: crate::format::wal::Flaw| WalError::Content { name: name.to_string(), why: e.to_string() };
    Ok(Some(scan(&bytes, name).map_err(bad)?))
}

/// What the pieces of a segment that still grows say of its commits: by the index, else by themselves.
fn pieces_facts(
    repository: &Repository,
    writer: &str,
    segment: SegmentName,
    records: &[SegmentRecord],
) -> Result<Option<SegmentFacts>, Error> {
    let mut pieces: Vec<(u32, &SegmentRecord)> = Vec::new();
    for record in records {
        if let Ok(ArchiveFile::Piece { segment: of, to }) = ArchiveFile::parse(record.place.name())
            && of == segment
        {
            pieces.push((to, record));
        }
    }
    pieces.sort_by_key(|(to, _)| *to);
    if let Some((_, newest)) = pieces.last()
        && let Ok(known) = serde_json::from_value::<PieceFacts>(newest.facts.clone())
        && known.needs.iter().all(|needed| pieces.iter().any(|(to, _)| to == needed))
    {
        return Ok(Some(known.segment));
    }
    if !repository.can_read() {
        return Ok(None);
    }
    Ok(Some(join_pieces(&repository.segment_reader(writer)?, segment, records)?.1))
}

/// What a history file says of its timeline's beginning.
fn fork_of(
    repository: &Repository,
    writer: &str,
    record: &SegmentRecord,
    timeline: Timeline,
) -> Result<Vec<Fork>, Error> {
    let text = match record.facts.get("history").and_then(serde_json::Value::as_str) {
        Some(text) => text.as_bytes().to_vec(),
        None if repository.can_read() => repository.read_segment(writer, record)?,
        None => return Ok(Vec::new()),
    };
    let bad = |e: history::Flaw| WalError::Content { name: record.place.name().to_owned(), why: e.to_string() };
    let entries = history::parse(timeline, &text).map_err(bad)?;
    // Each line names an ancestor and where it was left; the next ancestor begins there.
    let mut forks = Vec::new();
    for (n, entry) in entries.iter().enumerate() {
        let child = entries.get(n + 1).map_or(timeline, |next| next.timeline);
        forks.push(Fork { timeline: child, parent: entry.timeline, at: entry.switch });
    }
    Ok(forks)
}

/// Ends of transactions by segment, those among them whose record crosses a border.
fn commits(facts: &BTreeMap<SegmentName, Option<SegmentFacts>>) -> BTreeMap<SegmentName, Option<Commits>> {
    let mut all: BTreeMap<SegmentName, Option<Commits>> = BTreeMap::new();
    let mut before: Option<&SegmentFacts> = None;
    for (name, facts) in facts {
        let Some(facts) = facts else {
            all.insert(*name, None);
            before = None;
            continue;
        };
        let moment = |micros: i64| Moment::from_timestamp_micros(micros);
        let crossing = before
            .filter(|before| before.full && before.end <= facts.end)
            .and_then(|before| join(before.tail.as_ref()?, facts.head.as_ref()?));
        let times = [crossing.as_ref(), facts.first.as_ref(), facts.last.as_ref()].into_iter().flatten();
        let first = times.clone().filter_map(|commit| moment(commit.time)).min();
        let last = facts.latest.into_iter().chain(crossing.as_ref().map(|c| c.time)).filter_map(moment).max();
        let end = times.map(|commit| commit.end).max();
        let count = facts.commits + u64::from(crossing.as_ref().is_some_and(|c| c.committed));
        all.insert(*name, first.zip(last).zip(end).map(|((first, last), end)| Commits { first, last, end, count }));
        before = Some(facts);
    }
    all
}

/// How a restored directory is made ready.
#[derive(Debug, Clone)]
pub struct Recovery {
    /// The `restore_command`, as the shell reads it.
    pub restore_command: String,
    /// `pause`, `promote` or `shutdown`.
    pub action: &'static str,
    /// Whether the server shall not archive: for tests beside the original.
    pub no_archive: bool,
    /// Whether it shall stay a standby that follows the archive.
    pub standby: bool,
}

/// Writes the recovery settings of a restored data directory, then the signal file that makes the server read them.
pub fn make_ready(directory: &Path, way: &Way, recovery: &Recovery) -> Result<(), Error> {
    let path = directory.join("postgresql.auto.conf");
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::from(WalError::Io { doing: "write", path: path.clone(), source })
    };
    let old = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(io(&path)(e)),
    };
    let mut text = String::new();
    for line in old.lines() {
        // Settings of an earlier restore would be obeyed beside ours.
        let is_recovery = ["recovery_target", "restore_command", "recovery_end_command", "archive_cleanup_command"]
            .iter()
            .any(|name| line.trim_start().starts_with(name));
        text.push_str(if is_recovery { "# before the restore: " } else { "" });
        text.push_str(line);
        text.push('\n');
    }
    let mut set = |name: &str, value: &str| text.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
    set("restore_command", &recovery.restore_command);
    set("recovery_target_timeline", &way.reach.timeline.0.to_string());
    if let Target::Setting(name, value) = &way.target {
        set(name, value);
        set("recovery_target_inclusive", "on");
        set("recovery_target_action", recovery.action);
    }
    if recovery.no_archive {
        set("archive_mode", "off");
    }
    let staged = directory.join("postgresql.auto.conf.lifeboat-part");
    let written = File::create(&staged).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        like(&file, directory)?;
        file.sync_all()
    });
    written.and_then(|()| fs::rename(&staged, &path)).map_err(io(&path))?;
    let signal = directory.join(if recovery.standby { "standby.signal" } else { "recovery.signal" });
    let made = File::create(&signal).and_then(|file| {
        like(&file, directory)?;
        file.sync_all()
    });
    made.and_then(|()| File::open(directory)?.sync_all()).map_err(io(&signal))
}

/// The owner of the data directory owns what is added to it; nobody else reads it.
fn like(file: &File, directory: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
    let meta = fs::metadata(directory)?;
    if rustix::process::geteuid().is_root() {
        fchown(file, Some(meta.uid()), Some(meta.gid()))?;
    }
    file.set_permissions(fs::Permissions::from_mode(0o600))
}
