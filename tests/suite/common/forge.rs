//! Commits and packs made by hand, as somebody could make them who owns the store and knows the format, with keys of
//! their own or with stolen ones.

use std::fs;

use lifeboat::model::entry::Extent;
use lifeboat::model::{
    ChunkId, Commit, CommitFrame, CommitHeader, CommitId, CommitLine, Digest, DirectoryPlace, FrameId, ManifestPlace,
    PackKind, PackLine, RepositoryId, SnapshotId, SnapshotRecord, Uses,
};
use lifeboat::pack::{Built, Owner, PackBuilder, SealedFrame};
use lifeboat::repository::Repository;
use lifeboat::seal::{ContentKey, Identities, Opener, Sealer, Secret, SigningKey, sign_text};
use lifeboat::store::Store;

use super::{Host, Person, clock};

const COMMIT: &str = "lifeboat format 1 commit";

/// Who forges: keys, and whom they seal to.
pub struct Forger {
    pub repository: RepositoryId,
    pub writer: String,
    pub signing: SigningKey,
    pub content: ContentKey,
    pub sealer: Sealer,
    pub list: Digest,
}

/// A frame to be forged: its plain bytes, and what the log says that it has.
pub struct ForgedFrame {
    pub plain: Vec<u8>,
    pub claims: u64,
}

impl ForgedFrame {
    pub fn honest(plain: &[u8]) -> Self {
        Self { plain: plain.to_vec(), claims: plain.len() as u64 }
    }
}

impl Forger {
    /// Somebody who owns the store: public keys, names and ids of the repository, and no secret of it.
    pub fn of_store(host: &Host, people: &[&Person]) -> Self {
        let (repository, _) = host.open(None).unwrap();
        let recipients = people.iter().map(|p| p.recipient.parse().unwrap()).collect();
        Self {
            repository: repository.description().repository,
            writer: repository.host().unwrap().name.clone(),
            signing: SigningKey::from_seed(&[66; 32]),
            content: Secret::new([66; 32]).content_key(),
            sealer: Sealer::new(recipients),
            list: repository.host().unwrap().recipients_list,
        }
    }

    /// Somebody who stole everything that a host has: its signing key and the repository secret.
    pub fn thief_of(host: &Host, people: &[&Person]) -> Self {
        let (repository, _) = host.open(None).unwrap();
        let keys = fs::read_to_string(repository.folder().key_file()).unwrap();
        let keys: serde_json::Value = serde_json::from_str(&keys).unwrap();
        let signing = SigningKey::from_hex(keys["signing_key"].as_str().unwrap()).unwrap();
        Self { signing, content: repository.content_key().clone(), ..Self::of_store(host, people) }
    }

    /// A pack of frames, as an uploader would have built it.
    pub fn pack(&self, kind: PackKind, frames: &[ForgedFrame]) -> Built {
        let mut builder = PackBuilder::new(kind, self.list);
        for frame in frames {
            let digest = self.content.digest(&frame.plain);
            builder.push(SealedFrame {
                id: FrameId::from(digest),
                bytes: self.sealer.seal_compressed(&frame.plain).unwrap().into(),
                plain: frame.claims,
                chunks: vec![(ChunkId::from(digest), frame.claims as u32)],
            });
        }
        let owner = Owner { repository: self.repository, writer: &self.writer };
        builder.finish(owner, None, &self.signing, &self.sealer).unwrap()
    }

    /// Puts a pack where the writer's packs lie, and returns its line for a commit.
    pub fn put_pack(&self, store: &Store, built: &Built) -> PackLine {
        let key = lifeboat::catalog::pack_key(&self.writer, &built.id);
        store.appender().create(&key, &built.parts).unwrap();
        PackLine {
            id: built.id,
            size: built.size,
            kind: built.directory.kind,
            recipients: self.list,
            directory: DirectoryPlace { at: built.directory_at, length: built.directory_length },
            frames: built.directory.frames.iter().map(|f| CommitFrame(f.id, f.at, f.stored, f.plain)).collect(),
        }
    }

    /// A snapshot whose manifest is this text, and whose data lies in these frames: packs, record and commit, all put.
    pub fn put_snapshot(&self, host: &Host, manifest: &str, data: &[ForgedFrame]) -> (SnapshotId, String) {
        let (repository, _) = host.open(None).unwrap();
        let store = host.store();
        let text = ForgedFrame::honest(manifest.as_bytes());
        let digest = self.content.digest(&text.plain);
        let mut lines = Vec::new();
        if !data.is_empty() {
            lines.push(self.put_pack(&store, &self.pack(PackKind::Data, data)));
        }
        lines.push(self.put_pack(&store, &self.pack(PackKind::Manifest, &[text])));
        let (sequence, parents, first_frame) = end_of_log(&repository, &self.writer);
        let frames: u64 = lines.iter().map(|line| line.frames.len() as u64).sum();
        let now = clock()() + chrono::TimeDelta::days(30);
        let bytes = manifest.len() as u64;
        let id = SnapshotId::new(now.timestamp_millis() as u64, [7; 10]);
        let record = SnapshotRecord {
            id,
            source: "data".to_owned(),
            kind: "volume".to_owned(),
            host: "forged".to_owned(),
            root: "/forged".to_owned(),
            began: now,
            ended: now,
            complete: true,
            skipped: 0,
            entries: manifest.lines().count() as u64 - 1,
            files: 0,
            bytes: 0,
            added: 0,
            tags: Vec::new(),
            facts: serde_json::Value::Null,
            change: None,
            abnormal: Vec::new(),
            copied: None,
            manifest: ManifestPlace {
                bytes,
                digest,
                extents: vec![Extent { frame: Some(FrameId::from(digest)), offset: 0, length: bytes }],
            },
            uses: Uses(vec![(first_frame, first_frame + frames - 1)]),
        };
        let mut content: Vec<CommitLine> = lines.into_iter().map(CommitLine::Pack).collect();
        content.push(CommitLine::Snapshot(record));
        let header = CommitHeader {
            commit: 1,
            repository: self.repository,
            writer: self.writer.clone(),
            sequence: sequence + 1,
            parents,
            time: now,
            first_frame,
            program: "forged".to_owned(),
        };
        let text = Commit { header, lines: content }.encode().unwrap();
        (id, self.put_commit(&store, sequence + 1, &sign_text(COMMIT, &text, &self.signing)))
    }

    /// Seals a text as a commit, puts it into the log and returns its key.
    pub fn put_commit(&self, store: &Store, sequence: u64, text: &[u8]) -> String {
        put_as_commit(store, &self.writer, sequence, self.sealer.seal_compressed(text).unwrap())
    }
}

/// Puts bytes into a log under the name that they would have as a commit.
pub fn put_as_commit(store: &Store, writer: &str, sequence: u64, bytes: Vec<u8>) -> String {
    let key = format!("writers/{writer}/log/{sequence:012}-{}.age", blake3::hash(&bytes).to_hex());
    store.appender().create(&key, &[bytes.into()]).unwrap();
    key
}

/// The last place of a log, the digests of its heads, and the number of the next frame.
pub fn end_of_log(repository: &Repository, writer: &str) -> (u64, Vec<CommitId>, u64) {
    let catalog = repository.catalog();
    let row = catalog.writers().unwrap().into_iter().find(|(_, name)| name == writer).unwrap().0;
    let heads = catalog.heads(row).unwrap();
    let first_frame = catalog.next_numbers(row).unwrap().0;
    (heads.iter().map(|h| h.sequence).max().unwrap_or(0), heads.iter().map(|h| h.digest).collect(), first_frame)
}

/// How many sealed objects below a prefix have an identity among their recipients, as their headers say: of a pack the
/// header of its first frame.
pub fn sealed_to(store: &Store, prefix: &str, identity: &str) -> usize {
    let opener = Opener::new(Identities::from_age_text(identity).unwrap());
    let bodies = store.list(prefix, None).unwrap().into_iter().map(|o| store.get(&o.key, 1 << 30).unwrap());
    let sealed = bodies.filter(|body| body.starts_with(b"age-encryption.org/v1"));
    sealed.filter(|body| !matches!(opener.open(body), Err(lifeboat::seal::Error::NoIdentity(_)))).count()
}
