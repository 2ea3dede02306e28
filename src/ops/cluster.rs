//! A PostgreSQL cluster in the repository: which moments it can be brought back to, and a restored directory made ready to
//! replay up to one of them.
//!
//! Invariants: facts come from the index where it has them, else from the segments themselves; a directory is given its recovery
//! settings after its files, and `recovery.signal` last. Not here: the choice (`plan::recovery`) and the files' restore.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use super::wal::WalError;
use super::wal::pieces::{PieceFacts, join_pieces};
use super::{Error, Kind, chain};
use crate::format::wal::{ArchiveFile, SegmentFacts, join, scan};
use crate::format::{history, pg_conf};
use crate::model::base::BaseBackup;
use crate::model::{Moment, SegmentKey, SegmentName, SegmentPlace, SegmentRecord, SnapshotRecord, Timeline};
use crate::plan::recovery::{Archive, Base, Commits, Fork, Growing, Target, Way};
use crate::repository::{self, Repository, StreamListing};

/// A cluster as the repository knows it.
pub struct Cluster {
    /// The source's full name.
    pub full_name: String,
    /// The writer that has it.
    pub writer: String,
    /// Its stream.
    pub stream: String,
    /// Its base backups and its log.
    pub archive: Archive,
    /// Segments that the index names and the store does not hold.
    pub missing: Vec<SegmentRecord>,
    /// Segments and pieces that are there and cannot be read, with the reason.
    pub damaged: Vec<(String, String)>,
    /// Further clusters and writers that have base backups of this source: before a move to another version or host.
    pub others: Vec<Other>,
    /// When the newest file of its stream was put: by its writer's clock, or the store's where the index has it not yet.
    pub received: Option<Moment>,
}

/// Base backups of the same source that are not of this cluster's stream.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Other {
    /// The writer that has them.
    pub writer: String,
    /// Their stream.
    pub stream: String,
    /// How many.
    pub bases: u64,
    /// When the first one ended.
    pub first: Moment,
    /// When the last one ended.
    pub last: Moment,
}

/// Which of a source's clusters is meant, where it had several: after a move to another major version, or to another host.
#[derive(Debug, Clone, Copy)]
pub enum Which<'a> {
    /// That of the newest base backup.
    Newest,
    /// That of the newest base backup that ended by then.
    At(Moment),
    /// That of the base backup whose id begins so.
    Of(&'a str),
    /// That whose log is this stream.
    Stream(&'a str),
}

/// Base backups of a source, each with its writer.
fn bases_of(repository: &Repository, source: &str) -> Result<Vec<(String, Base)>, Error> {
    let writers = repository.writer_names()?;
    let mut bases: Vec<(String, Base)> = Vec::new();
    // Names of sources have no slash: before one stands the writer.
    let name = source.rsplit('/').next().unwrap_or(source);
    for snapshot in repository.catalog().snapshots_of(name).map_err(|e| Error::from(repository::Error::from(e)))? {
        let record = &snapshot.record;
        let writer = writers.get(&snapshot.writer).cloned().unwrap_or_default();
        let is_meant = record.source == source || format!("{writer}/{}", record.source) == source;
        if !is_meant || record.kind != "postgres" {
            continue;
        }
        match serde_json::from_value::<BaseBackup>(record.facts.clone()) {
            Ok(backup) => bases.push((writer, Base { id: record.id, backup, whole: record.complete })),
            Err(e) => tracing::warn!(snapshot = %record.id, "its facts are not understood, it is left out: {e}"),
        }
    }
    Ok(bases)
}

/// The base backup whose cluster is meant.
fn chosen<'b>(bases: &'b [(String, Base)], which: Which<'_>) -> Option<&'b (String, Base)> {
    let newest = |is: &dyn Fn(&Base) -> bool| {
        bases.iter().filter(|(_, base)| is(base)).max_by_key(|(_, base)| (base.backup.stopped, base.id))
    };
    let found = match which {
        Which::Newest => None,
        Which::At(moment) => newest(&|base| base.whole && base.backup.stopped <= moment),
        Which::Of(id) => {
            let wanted = id.to_ascii_uppercase();
            newest(&|base| base.id.to_string().starts_with(&wanted))
        }
        // Nothing else will do: what is known of another cluster says nothing of this one.
        Which::Stream(stream) => return newest(&|base| base.backup.stream == stream),
    };
    found.or_else(|| newest(&|_| true))
}

/// The base backups that are of other streams than the chosen one.
fn others(bases: &[(String, Base)], writer: &str, stream: &str) -> Vec<Other> {
    let mut all: BTreeMap<(&str, &str), Other> = BTreeMap::new();
    for (of, base) in bases.iter().filter(|(of, base)| (of.as_str(), base.backup.stream.as_str()) != (writer, stream)) {
        let at = base.backup.stopped;
        let new = || Other { writer: of.clone(), stream: base.backup.stream.clone(), bases: 0, first: at, last: at };
        let other = all.entry((of, &base.backup.stream)).or_insert_with(new);
        (other.bases, other.first, other.last) = (other.bases + 1, other.first.min(at), other.last.max(at));
    }
    all.into_values().collect()
}

/// A cluster that a source's snapshots are of; `None` where the source is no cluster. What is damaged of its log is left out and named: it
/// is a gap, and what lies before it can be had.
pub fn gather(repository: &Repository, source: &str, which: Which<'_>) -> Result<Option<Cluster>, Error> {
    gather_listed(repository, source, which, &|writer, stream| Ok(repository.list_stream(writer, stream)?))
}

/// The same by the index alone, which asks the store for nothing: as if all that the index names were there.
pub fn gather_from_index(repository: &Repository, source: &str, which: Which<'_>) -> Result<Option<Cluster>, Error> {
    gather_listed(repository, source, which, &|writer, stream| {
        let there = repository.catalog().segments(writer, stream).map_err(repository::Error::from)?;
        Ok(StreamListing { there, ..StreamListing::default() })
    })
}

/// The same by those segments of the index alone that are in a set.
pub fn gather_from(
    repository: &Repository,
    source: &str,
    which: Which<'_>,
    only: &HashSet<SegmentKey>,
) -> Result<Option<Cluster>, Error> {
    gather_listed(repository, source, which, &|writer, stream| {
        let mut there = repository.catalog().segments(writer, stream).map_err(repository::Error::from)?;
        there.retain(|record| only.contains(&SegmentKey(record.place.clone(), record.digest)));
        Ok(StreamListing { there, ..StreamListing::default() })
    })
}

/// Lists a stream of a writer.
type List<'l> = &'l dyn Fn(&str, &str) -> Result<StreamListing, Error>;

fn gather_listed(
    repository: &Repository,
    source: &str,
    which: Which<'_>,
    list: List<'_>,
) -> Result<Option<Cluster>, Error> {
    let mut bases = bases_of(repository, source)?;
    let Some((writer, base)) = chosen(&bases, which) else { return Ok(None) };
    let (writer, stream) = (writer.clone(), base.backup.stream.clone());
    let others = others(&bases, &writer, &stream);
    bases.retain(|(other, base)| *other == writer && base.backup.stream == stream);
    let listing = list(&writer, &stream)?;
    let mut damaged: Vec<(String, String)> = Vec::new();
    let mut archive = Archive { bases: bases.into_iter().map(|(_, base)| base).collect(), ..Archive::default() };
    let mut facts: BTreeMap<SegmentName, Option<SegmentFacts>> = BTreeMap::new();
    let mut grown: BTreeSet<SegmentName> = BTreeSet::new();
    for record in &listing.there {
        match ArchiveFile::parse(record.place.name()) {
            // Of two under one name, the one that the index knows was acknowledged.
            Ok(ArchiveFile::Segment(name)) if record.facts.is_null() && facts.contains_key(&name) => {}
            Ok(ArchiveFile::Segment(name)) => match facts_of(repository, &writer, record, name) {
                Ok(known) => drop(facts.insert(name, known)),
                Err(e) if e.kind() == Kind::Damage => {
                    archive.lost.insert(name);
                    damaged.push((name.to_string(), chain(&e)));
                }
                Err(e) => return Err(e),
            },
            Ok(ArchiveFile::Piece { segment, .. }) => {
                grown.insert(segment);
            }
            Ok(ArchiveFile::History(timeline)) => archive.forks.extend(fork_of(repository, &writer, record, timeline)?),
            _ => {}
        }
    }
    for record in &listing.missing {
        if let Ok(ArchiveFile::Segment(name)) = ArchiveFile::parse(record.place.name()) {
            archive.lost.insert(name);
        }
    }
    archive.lost.retain(|name| !facts.contains_key(name));
    for key in &listing.deleted {
        if let Ok(ArchiveFile::Segment(name)) = ArchiveFile::parse(key.0.name()) {
            archive.pruned.insert(name);
        }
    }
    archive.pruned.retain(|name| !facts.contains_key(name));
    grown.retain(|segment| !facts.contains_key(segment) && !archive.lost.contains(segment));
    for segment in std::mem::take(&mut grown) {
        match pieces_facts(repository, &writer, segment, &listing.there) {
            Ok(known) => {
                facts.insert(segment, known);
                grown.insert(segment);
            }
            Err(e) if e.kind() == Kind::Damage => {
                archive.lost.insert(segment);
                damaged.push((format!("{segment}, in pieces"), chain(&e)));
            }
            Err(e) => return Err(e),
        }
    }
    let ends: BTreeMap<_, _> =
        grown.iter().map(|name| (*name, facts.get(name).and_then(|f| f.as_ref().map(|f| f.end)))).collect();
    archive.wal = commits(&facts, &archive.forks);
    for (name, end) in ends {
        let commits = archive.wal.remove(&name).flatten();
        // Pieces that nobody here can open tell nothing.
        archive.growing.extend(end.map(|end| (name, Growing { commits, end })));
    }
    archive.splits = super::branches::splits(repository, &writer, &archive, &listing.there)?;
    let received = listing.there.iter().map(|record| record.put).max();
    let full_name = format!("{writer}/{}", source.rsplit('/').next().unwrap_or(source));
    Ok(Some(Cluster { full_name, writer, stream, archive, missing: listing.missing, damaged, others, received }))
}

/// The first segment between a base backup's start and its stop that the store does not hold: until it does, the backup is pending.
pub fn waits_for(repository: &Repository, writer: &str, record: &SnapshotRecord) -> Result<Option<SegmentName>, Error> {
    let unfit = |e: serde_json::Error| WalError::Content { name: record.id.to_string(), why: e.to_string() };
    let base: BaseBackup = serde_json::from_value(record.facts.clone()).map_err(unfit)?;
    let (mut at, last) = base.needs();
    // A listing for each folder, not for each segment: a long backup of a busy server needs thousands, and this is asked again and again.
    let (mut listed, mut there) = (None, BTreeSet::new());
    loop {
        let place = SegmentPlace::new(&base.stream, &format!("{:08X}", at.timeline.0), &at.to_string());
        let place = place.ok_or_else(|| WalError::Name(at.to_string()))?;
        // Its writer's index saw it arrive; that it is there still is what `check` says.
        let known = !repository.catalog().segments_at(writer, &place).map_err(repository::Error::from)?.is_empty();
        if !known && listed.as_ref() != Some(&place.folder()) {
            listed = Some(place.folder());
            there = repository.segments_from(writer, &place)?.into_iter().map(|record| record.place).collect();
        }
        if !known && !there.contains(&place) {
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

/// The segment that the log goes on from: the one before it, on its own timeline or, where that begins with it, on the one that it left.
fn before<'f>(
    facts: &'f BTreeMap<SegmentName, Option<SegmentFacts>>,
    forks: &[Fork],
    name: SegmentName,
) -> Option<&'f SegmentFacts> {
    let mut timeline = name.timeline;
    // A history names each ancestor once; a hostile one could name a circle.
    for _ in 0..=forks.len() {
        let first = SegmentName { timeline, log: 0, segment: 0 };
        if let Some((_, found)) = facts.range(first..SegmentName { timeline, ..name }).next_back() {
            return found.as_ref();
        }
        timeline = forks.iter().find(|fork| fork.timeline == timeline && fork.parent < timeline)?.parent;
    }
    None
}

/// Ends of transactions by segment, those among them whose record crosses a border. That the segment before is the one right before is
/// told by the record: its parts fit by their lengths and its checksum.
fn commits(
    facts: &BTreeMap<SegmentName, Option<SegmentFacts>>,
    forks: &[Fork],
) -> BTreeMap<SegmentName, Option<Commits>> {
    let mut all: BTreeMap<SegmentName, Option<Commits>> = BTreeMap::new();
    for (name, known) in facts {
        let Some(known) = known else {
            all.insert(*name, None);
            continue;
        };
        let moment = |micros: i64| Moment::from_timestamp_micros(micros);
        let crossing = before(facts, forks, *name)
            .filter(|before| before.full && before.end <= known.end)
            .and_then(|before| join(before.tail.as_ref()?, known.head.as_ref()?));
        let times = [crossing.as_ref(), known.first.as_ref(), known.last.as_ref()].into_iter().flatten();
        let first = times.clone().filter_map(|commit| moment(commit.time)).min();
        let last = known.latest.into_iter().chain(crossing.as_ref().map(|c| c.time)).filter_map(moment).max();
        let end = times.map(|commit| commit.end).max();
        let count = known.commits + u64::from(crossing.as_ref().is_some_and(|c| c.committed));
        all.insert(*name, first.zip(last).zip(end).map(|((first, last), end)| Commits { first, last, end, count }));
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
    match &way.target {
        Target::Setting(name, value) => {
            set(name, value);
            set("recovery_target_inclusive", "on");
            set("recovery_target_action", recovery.action);
        }
        // One of the cluster's own configuration would end this recovery early, and without a word. (Beside one of ours PostgreSQL
        // refuses a second by itself.)
        Target::End => targets_of(&directory.join("postgresql.conf")).iter().for_each(|name| set(name, "")),
    }
    if !recovery.standby {
        // Of a standby that lags on purpose.
        set("recovery_min_apply_delay", "0");
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

/// Targets that a configuration sets, left there by another restore.
fn targets_of(path: &Path) -> BTreeSet<String> {
    const TARGETS: [&str; 5] = [
        "recovery_target",
        "recovery_target_lsn",
        "recovery_target_name",
        "recovery_target_time",
        "recovery_target_xid",
    ];
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let names = text.lines().filter_map(pg_conf::setting).map(|setting| setting.name);
    names.filter(|name| TARGETS.contains(&name.as_str())).collect()
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

#[cfg(test)]
#[path = "cluster_tests.rs"]
mod tests;
