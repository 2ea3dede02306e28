//! What a commit says, line by line (docs/format.md, section 4).

use serde::{Deserialize, Serialize};

use super::{
    CommitId, Digest, DrillRecord, FrameId, Moment, PackId, RepositoryId, SegmentKey, SegmentRecord, SnapshotId,
    SnapshotRecord, limits,
};

/// What a pack's frames belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PackKind {
    /// Content of files.
    Data,
    /// Manifests.
    Manifest,
}

/// The first line of a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitHeader {
    /// Version of the commit's form: 1.
    pub commit: u32,
    /// The repository.
    pub repository: RepositoryId,
    /// The writer's name.
    pub writer: String,
    /// Its place in the writer's log, from 1.
    pub sequence: u64,
    /// The newest commits of its branch; more than one joins a fork.
    pub parents: Vec<CommitId>,
    /// By the writer's clock.
    pub time: Moment,
    /// Number of the first frame that it adds.
    pub first_frame: u64,
    /// Who wrote it, with version.
    pub program: String,
}

/// A frame as a commit lists it: id, first byte in the pack, sealed bytes, plain bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitFrame(pub FrameId, pub u64, pub u64, pub u64);

/// Where a pack's directory lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryPlace {
    /// First byte in the pack.
    pub at: u64,
    /// Sealed bytes.
    pub length: u64,
}

/// A pack that a commit adds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackLine {
    /// Its name.
    pub id: PackId,
    /// Stored bytes.
    pub size: u64,
    /// Data or manifest.
    pub kind: PackKind,
    /// The list of recipients that its frames are sealed to.
    pub recipients: Digest,
    /// Its directory.
    pub directory: DirectoryPlace,
    /// Its frames, in order.
    pub frames: Vec<CommitFrame>,
}

impl PackLine {
    fn validate(&self) -> Result<(), String> {
        let DirectoryPlace { at, length } = self.directory;
        let fits = at.checked_add(length).is_some_and(|end| end <= self.size) && self.size <= limits::PACK_MAX;
        let mut next = 0;
        let in_place = |CommitFrame(_, at, stored, plain): &CommitFrame| {
            let end = at.checked_add(*stored).filter(|end| *end <= self.directory.at);
            let good = *at >= next && *plain <= limits::FRAME_MAX as u64 && end.is_some();
            next = end.unwrap_or(next);
            good
        };
        if fits && self.frames.iter().all(in_place) { Ok(()) } else { Err(format!("pack {} does not add up", self.id)) }
    }
}

/// The newest commit of another writer that was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The other writer.
    pub writer: String,
    /// Its newest commit's place.
    pub sequence: u64,
    /// Its newest commit.
    pub digest: CommitId,
}

/// A commit of the writer's own log that cannot be read any more. What was left of it is said again by later commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// Its place.
    pub sequence: u64,
    /// Its name.
    pub digest: CommitId,
}

/// New numbers for the frames of one branch of a fork.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renumber {
    /// The commit whose frames move.
    pub commit: CommitId,
    /// The new number of its first frame.
    pub first_frame: u64,
}

/// A snapshot of this log that a line says something of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marked {
    /// Its name.
    pub snapshot: SnapshotId,
}

/// Objects of this log's writer that nothing needs any more. Nobody refers to them from now on, and after the grace they may be deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retire {
    /// Packs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub packs: Vec<PackId>,
    /// Segments of streams.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub segments: Vec<SegmentKey>,
    /// Seconds after the store received this commit, by its clock, before which nobody deletes them.
    pub grace: u64,
}

/// Objects of this log's writer that a line speaks of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Objects {
    /// Packs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub packs: Vec<PackId>,
    /// Segments of streams.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub segments: Vec<SegmentKey>,
}

impl Objects {
    /// Whether it names nothing.
    pub fn is_empty(&self) -> bool {
        self.packs.is_empty() && self.segments.is_empty()
    }
}

/// Each further line of a commit. A line of another kind makes the commit newer than this program: it is refused, for
/// leaving it out could lose data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CommitLine {
    /// Adds a pack.
    Pack(PackLine),
    /// Makes a snapshot exist.
    Snapshot(SnapshotRecord),
    /// Says what was seen of another writer.
    Seen(Seen),
    /// Joins a fork.
    Renumber(Renumber),
    /// Says that a commit is lost.
    Lost(Lost),
    /// Names a segment of a stream.
    Segment(SegmentRecord),
    /// Takes a snapshot out of every list, for good. Its frames stay until a prune finds that nothing else uses them.
    Forget(Marked),
    /// Keeps a snapshot, whatever a policy says.
    Pin(Marked),
    /// Takes a pin away.
    Unpin(Marked),
    /// Says of an abnormal snapshot that it is as it should be.
    Accept(Marked),
    /// Says how a drill ended.
    Drill(DrillRecord),
    /// Says that objects are not needed any more.
    Retire(Retire),
    /// Says of retired objects that they are needed after all.
    Keep(Objects),
    /// Says that retired objects are gone from the store.
    Deleted(Objects),
}

/// The kinds of lines, by the names that they have in a commit.
pub const KINDS: &[&str] = &[
    "pack", "snapshot", "seen", "renumber", "lost", "segment", "forget", "pin", "unpin", "accept", "drill", "retire",
    "keep", "deleted",
];

/// A whole commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// The first line.
    pub header: CommitHeader,
    /// The others.
    pub lines: Vec<CommitLine>,
}

impl Commit {
    /// The packs that it adds.
    pub fn packs(&self) -> impl Iterator<Item = &PackLine> {
        self.lines.iter().filter_map(|line| match line {
            CommitLine::Pack(pack) => Some(pack),
            _ => None,
        })
    }
    /// The snapshots that it adds.
    pub fn snapshots(&self) -> impl Iterator<Item = &SnapshotRecord> {
        self.lines.iter().filter_map(|line| match line {
            CommitLine::Snapshot(record) => Some(record),
            _ => None,
        })
    }
    /// How many frames it adds.
    pub fn frame_count(&self) -> u64 {
        self.packs().map(|pack| pack.frames.len() as u64).sum()
    }
    /// JSON lines.
    pub fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut text = serde_json::to_vec(&self.header)?;
        text.push(b'\n');
        for line in &self.lines {
            serde_json::to_writer(&mut text, line)?;
            text.push(b'\n');
        }
        Ok(text)
    }
    /// The program that made it, where this one does not know its form or a kind of its lines.
    pub fn made_by_newer(text: &[u8]) -> Option<String> {
        let mut lines = text.split(|b| *b == b'\n').filter(|line| !line.is_empty());
        let header: serde_json::Value = serde_json::from_slice(lines.next()?).ok()?;
        let is_new = |line: &[u8]| {
            let line: Option<serde_json::Map<String, serde_json::Value>> = serde_json::from_slice(line).ok();
            line.is_some_and(|line| line.len() == 1 && line.keys().all(|kind| !KINDS.contains(&kind.as_str())))
        };
        let newer = header.get("commit")?.as_u64()? > 1 || lines.any(is_new);
        newer.then(|| header.get("program").and_then(|program| program.as_str()).unwrap_or("unknown").to_owned())
    }
    /// Reads what `encode` wrote. `Err` says which line is wrong.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let mut lines = text.split(|b| *b == b'\n').filter(|line| !line.is_empty()).enumerate();
        let (_, first) = lines.next().ok_or("it is empty")?;
        let header: CommitHeader = serde_json::from_slice(first).map_err(|e| format!("its first line: {e}"))?;
        if header.commit != 1 {
            return Err(format!("it has form {}, made by a newer lifeboat (`{}`)", header.commit, header.program));
        }
        let parsed: Result<Vec<CommitLine>, String> =
            lines.map(|(n, line)| serde_json::from_slice(line).map_err(|e| format!("line {}: {e}", n + 1))).collect();
        let commit = Self { header, lines: parsed? };
        commit.validate().map(|()| commit)
    }

    /// Whether its numbers can be counted with, and its frames lie in their packs: a signature says who wrote a commit, not
    /// that it makes sense.
    fn validate(&self) -> Result<(), String> {
        let countable = |number: u64| number <= limits::NUMBER_MAX;
        let mut good = countable(self.header.sequence) && countable(self.header.first_frame);
        for line in &self.lines {
            match line {
                CommitLine::Pack(pack) => pack.validate()?,
                CommitLine::Snapshot(record) => record.validate()?,
                CommitLine::Seen(seen) => good &= countable(seen.sequence),
                CommitLine::Renumber(renumber) => good &= countable(renumber.first_frame),
                CommitLine::Lost(lost) => good &= countable(lost.sequence),
                CommitLine::Segment(segment) => good &= countable(segment.plain) && countable(segment.stored),
                CommitLine::Drill(record) => record.validate()?,
                CommitLine::Retire(retire) => good &= countable(retire.grace),
                CommitLine::Forget(_) | CommitLine::Pin(_) | CommitLine::Unpin(_) | CommitLine::Accept(_) => {}
                CommitLine::Keep(_) | CommitLine::Deleted(_) => {}
            }
        }
        if good { Ok(()) } else { Err(format!("a number in it is larger than {}", limits::NUMBER_MAX)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Extent, ManifestPlace, SnapshotId, Uses};
    use proptest::prelude::*;

    #[test]
    fn every_kind_of_line_has_its_name() {
        let error = serde_json::from_str::<CommitLine>("{\"x\":1}").unwrap_err().to_string();
        let named: Vec<&str> = error.split('`').skip(3).step_by(2).collect();
        assert_eq!(named, KINDS);
        // Those who recover without lifeboat know them too.
        let script = include_str!("../repository/recover.py");
        let lines = script.split("LINES = {").nth(1).unwrap().split('}').next().unwrap();
        let mut known: Vec<&str> = lines.split('"').skip(1).step_by(2).collect();
        let mut kinds = KINDS.to_vec();
        known.sort_unstable();
        kinds.sort_unstable();
        assert_eq!(known, kinds);
    }

    #[test]
    fn what_a_newer_program_made_is_told_from_what_is_damaged() {
        let text = String::from_utf8(sample(3, 1).encode().unwrap()).unwrap();
        assert_eq!(Commit::made_by_newer(text.as_bytes()), None);
        let form = text.replacen("{\"commit\":1", "{\"commit\":2", 1);
        for newer in [form, format!("{text}{{\"shard\":{{}}}}\n")] {
            assert!(Commit::parse(newer.as_bytes()).is_err());
            assert!(Commit::made_by_newer(newer.as_bytes()).is_some(), "{newer}");
        }
        for damaged in ["", "junk", "{}\n", &text[..text.len() / 2], &text.replace("\"size\"", "\"sise\"")] {
            assert_eq!(Commit::made_by_newer(damaged.as_bytes()), None, "{damaged}");
        }
    }

    fn sample(sequence: u64, frames: u64) -> Commit {
        let pack = PackLine {
            id: PackId::new([1; 32]),
            size: 100 + frames,
            kind: PackKind::Data,
            recipients: Digest::new([2; 32]),
            directory: DirectoryPlace { at: frames, length: 84 },
            frames: (0..frames).map(|n| CommitFrame(FrameId::new([n as u8; 32]), n, 1, 9)).collect(),
        };
        let header = CommitHeader {
            commit: 1,
            repository: RepositoryId::new([3; 16]),
            writer: "w".into(),
            sequence,
            parents: vec![CommitId::new([4; 32])],
            time: Moment::UNIX_EPOCH,
            first_frame: 7,
            program: "lifeboat test".into(),
        };
        let seen = Seen { writer: "v".into(), sequence: 3, digest: CommitId::new([5; 32]) };
        let marked = Marked { snapshot: SnapshotId::new(1, [6; 10]) };
        let place = crate::model::SegmentPlace::new("s", "00000001", "000000010000000A000000FF").unwrap();
        let objects =
            Objects { packs: vec![PackId::new([7; 32])], segments: vec![SegmentKey(place, Digest::new([8; 32]))] };
        let retire = Retire { packs: objects.packs.clone(), segments: Vec::new(), grace: 86_400 };
        let marks = [
            CommitLine::Forget(marked),
            CommitLine::Pin(marked),
            CommitLine::Unpin(marked),
            CommitLine::Accept(marked),
            CommitLine::Retire(retire),
            CommitLine::Keep(objects.clone()),
            CommitLine::Deleted(objects),
        ];
        Commit { header, lines: [CommitLine::Pack(pack), CommitLine::Seen(seen)].into_iter().chain(marks).collect() }
    }

    proptest! {
        #[test]
        fn parse_after_encode_is_the_identity(sequence in 0..=limits::NUMBER_MAX, frames in 0u64..50) {
            let commit = sample(sequence, frames);
            prop_assert_eq!(Commit::parse(&commit.encode().unwrap()).unwrap(), commit);
        }

        #[test]
        fn arbitrary_text_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Commit::parse(&bytes).is_err());
        }
    }

    /// A commit with one thing changed, as its text would be read.
    fn read_changed(change: impl FnOnce(&mut CommitHeader, &mut Vec<CommitLine>)) -> Result<Commit, String> {
        let Commit { mut header, mut lines } = sample(1, 3);
        change(&mut header, &mut lines);
        Commit::parse(&Commit { header, lines }.encode().unwrap())
    }

    fn snapshot(uses: Uses, manifest: ManifestPlace) -> CommitLine {
        let began = Moment::UNIX_EPOCH;
        CommitLine::Snapshot(SnapshotRecord {
            id: SnapshotId::new(1, [0; 10]),
            source: "s".into(),
            kind: "volume".into(),
            host: "h".into(),
            root: "/".into(),
            began,
            ended: began,
            complete: true,
            skipped: 0,
            entries: 0,
            files: 0,
            bytes: 0,
            added: 0,
            tags: Vec::new(),
            facts: serde_json::Value::Null,
            change: None,
            abnormal: Vec::new(),
            copied: None,
            manifest,
            uses,
        })
    }

    #[test]
    fn numbers_that_cannot_be_counted_with_are_refused() {
        let place = |bytes, extents| ManifestPlace { bytes, digest: Digest::new([0; 32]), extents };
        let extent = |offset, length| Extent { frame: Some(FrameId::new([0; 32])), offset, length };
        assert!(
            read_changed(|_, lines| lines.push(snapshot(Uses(vec![(0, 9)]), place(5, vec![extent(1, 5)])))).is_ok()
        );
        assert!(read_changed(|header, _| header.first_frame = u64::MAX).is_err());
        assert!(read_changed(|header, _| header.sequence = u64::MAX).is_err());
        let renumber = Renumber { commit: CommitId::new([0; 32]), first_frame: u64::MAX - 1 };
        assert!(read_changed(|_, lines| lines.push(CommitLine::Renumber(renumber))).is_err());
        let endless = Uses(vec![(0, u64::MAX)]);
        assert!(read_changed(|_, lines| lines.push(snapshot(endless, place(0, Vec::new())))).is_err());
        for extents in [vec![extent(u64::MAX, 5)], vec![extent(0, 4)], vec![extent(0, 5), extent(0, 0)]] {
            let line = snapshot(Uses::default(), place(5, extents.clone()));
            assert!(read_changed(|_, lines| lines.push(line)).is_err(), "{extents:?}");
        }
    }

    #[test]
    fn frames_outside_their_pack_are_refused() {
        let change = |change: fn(&mut PackLine)| {
            read_changed(|_, lines| {
                if let CommitLine::Pack(pack) = &mut lines[0] {
                    change(pack);
                }
            })
        };
        assert!(change(|_| {}).is_ok());
        assert!(change(|pack| pack.frames[2].2 = 2).is_err(), "into the directory");
        assert!(change(|pack| pack.frames[1].1 = 0).is_err(), "over its neighbour");
        assert!(change(|pack| (pack.frames[2].1, pack.frames[2].2) = (u64::MAX, 2)).is_err());
        assert!(change(|pack| pack.frames[0].3 = u64::MAX).is_err());
        assert!(change(|pack| pack.directory.length = u64::MAX).is_err());
        assert!(change(|pack| pack.size = u64::MAX).is_err());
    }

    #[test]
    fn an_unknown_line_is_refused_by_name() {
        let mut text = sample(1, 1).encode().unwrap();
        text.extend_from_slice(b"{\"teleport\":{}}\n");
        assert!(Commit::parse(&text).unwrap_err().contains("teleport"));
    }
}
