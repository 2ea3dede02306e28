//! What a commit says, line by line (docs/format.md, section 4).

use serde::{Deserialize, Serialize};

use super::{CommitId, Digest, FrameId, Moment, PackId, RepositoryId, SnapshotRecord};

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
}

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
        if commit.snapshots().any(|record| !record.uses.is_well_formed()) {
            return Err("a snapshot's frame ranges are out of order".to_owned());
        }
        Ok(commit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
        Commit { header, lines: vec![CommitLine::Pack(pack), CommitLine::Seen(seen)] }
    }

    proptest! {
        #[test]
        fn parse_after_encode_is_the_identity(sequence: u64, frames in 0u64..50) {
            let commit = sample(sequence, frames);
            prop_assert_eq!(Commit::parse(&commit.encode().unwrap()).unwrap(), commit);
        }

        #[test]
        fn arbitrary_text_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Commit::parse(&bytes).is_err());
        }
    }

    #[test]
    fn an_unknown_line_is_refused_by_name() {
        let mut text = sample(1, 1).encode().unwrap();
        text.extend_from_slice(b"{\"teleport\":{}}\n");
        assert!(Commit::parse(&text).unwrap_err().contains("teleport"));
    }
}
