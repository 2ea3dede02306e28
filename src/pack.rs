//! Pack bytes: frames one after another, a signed and sealed directory, a footer of 16 bytes (docs/format.md, section 3).
//!
//! Invariants: `parse` after `finish` is the identity; a parsed directory's frames lie inside the pack, in order and
//! without overlap, and their chunks add up. It sees sealed frames, never their content. Not here: stores, encryption of
//! frames, what a chunk means.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::model::{ChunkId, Digest, FrameId, PackId, PackKind, RepositoryId, SnapshotRecord, limits};
use crate::seal::{self, Opener, Sealer, SigningKey, VerifyingKey, open_signed, sign_text};

/// Bytes of the footer at a pack's end.
pub const FOOTER: u64 = 16;
const MAGIC: &[u8; 8] = b"LBTPACK1";
const CONTEXT: &str = "lifeboat format 1 directory";
const CHUNK_ROW: usize = 36;

/// What is wrong with a pack.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The end of the object is no footer, or says impossible things.
    #[error("the footer is damaged: {0}")]
    Footer(&'static str),
    /// The directory opens, but says impossible things.
    #[error("the directory is damaged: {0}")]
    Directory(String),
    /// The directory belongs to another repository or writer.
    #[error("the directory belongs to {0}")]
    Foreign(String),
    /// The directory does not open or is not signed.
    #[error("the directory does not open")]
    Sealed(#[from] seal::Error),
}

/// One frame of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FramePlace {
    /// Keyed BLAKE3 of its plain bytes.
    pub id: FrameId,
    /// First byte in the pack.
    pub at: u64,
    /// Sealed bytes.
    pub stored: u64,
    /// BLAKE3 of the sealed bytes.
    pub sum: Digest,
    /// Plain bytes.
    pub plain: u64,
    /// Rows of the chunk table.
    pub chunks: u32,
}

/// The description that a pack carries of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    /// Data or manifest.
    pub kind: PackKind,
    /// The list of recipients that the frames are sealed to.
    pub recipients: Digest,
    /// The frames, in order.
    pub frames: Vec<FramePlace>,
    /// For each frame, its chunks: id and length.
    pub chunks: Vec<Vec<(ChunkId, u32)>>,
    /// The snapshot whose manifest ends in this pack.
    pub snapshot: Option<SnapshotRecord>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    directory: u32,
    repository: RepositoryId,
    writer: String,
    kind: PackKind,
    recipients: Digest,
    frames: Vec<FramePlace>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    snapshot: Option<SnapshotRecord>,
}

/// Who writes: what a directory is bound to.
#[derive(Debug, Clone, Copy)]
pub struct Owner<'a> {
    /// The repository.
    pub repository: RepositoryId,
    /// The writer's name.
    pub writer: &'a str,
}

/// A frame that is sealed and ready for a pack.
#[derive(Debug, Clone)]
pub struct SealedFrame {
    /// Its id.
    pub id: FrameId,
    /// The sealed bytes.
    pub bytes: Bytes,
    /// Plain bytes.
    pub plain: u64,
    /// Its chunks: id and length.
    pub chunks: Vec<(ChunkId, u32)>,
}

/// Collects frames into a pack.
#[derive(Debug)]
pub struct PackBuilder {
    kind: PackKind,
    recipients: Digest,
    parts: Vec<Bytes>,
    size: u64,
    frames: Vec<FramePlace>,
    chunks: Vec<Vec<(ChunkId, u32)>>,
    hasher: blake3::Hasher,
}

/// A finished pack: its name, its bytes and what they say.
#[derive(Debug, Clone)]
pub struct Built {
    /// BLAKE3 of all bytes.
    pub id: PackId,
    /// The bytes, in parts, so that nothing is copied.
    pub parts: Vec<Bytes>,
    /// Their length.
    pub size: u64,
    /// First byte of the sealed directory.
    pub directory_at: u64,
    /// Length of the sealed directory.
    pub directory_length: u64,
    /// What the directory says.
    pub directory: Directory,
}

impl PackBuilder {
    /// An empty pack.
    pub fn new(kind: PackKind, recipients: Digest) -> Self {
        Self {
            kind,
            recipients,
            parts: Vec::new(),
            size: 0,
            frames: Vec::new(),
            chunks: Vec::new(),
            hasher: blake3::Hasher::new(),
        }
    }

    /// Adds a frame behind the others.
    pub fn push(&mut self, frame: SealedFrame) {
        let stored = frame.bytes.len() as u64;
        let sum = Digest::new(*blake3::hash(&frame.bytes).as_bytes());
        self.hasher.update(&frame.bytes);
        let chunks = frame.chunks.len() as u32;
        self.frames.push(FramePlace { id: frame.id, at: self.size, stored, sum, plain: frame.plain, chunks });
        self.chunks.push(frame.chunks);
        self.parts.push(frame.bytes);
        self.size += stored;
    }

    /// Whether it is to be closed: by its stored bytes, or by its chunks, whose table must stay readable.
    pub fn is_full(&self) -> bool {
        let chunks: usize = self.frames.iter().map(|frame| frame.chunks as usize).sum();
        self.size >= limits::PACK_TARGET as u64 || chunks >= limits::PACK_CHUNKS
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Seals the directory and closes the pack.
    pub fn finish(
        mut self,
        owner: Owner<'_>,
        snapshot: Option<SnapshotRecord>,
        key: &SigningKey,
        sealer: &Sealer,
    ) -> Result<Built, Error> {
        let directory = Directory {
            kind: self.kind,
            recipients: self.recipients,
            frames: self.frames,
            chunks: self.chunks,
            snapshot,
        };
        let sealed = sealer.seal_compressed(&sign_text(CONTEXT, &directory.encode(owner), key))?;
        let mut footer = Vec::with_capacity(FOOTER as usize);
        footer.extend_from_slice(&(sealed.len() as u32).to_le_bytes());
        footer.extend_from_slice(&(directory.frames.len() as u32).to_le_bytes());
        footer.extend_from_slice(MAGIC);
        let (directory_at, directory_length) = (self.size, sealed.len() as u64);
        for part in [Bytes::from(sealed), Bytes::from(footer)] {
            self.hasher.update(&part);
            self.parts.push(part);
        }
        let id = PackId::new(*self.hasher.finalize().as_bytes());
        let size = directory_at + directory_length + FOOTER;
        Ok(Built { id, parts: self.parts, size, directory_at, directory_length, directory })
    }
}

/// Where the directory of a pack of `size` bytes lies, by its footer: first byte and length.
pub fn parse_footer(footer: &[u8], size: u64) -> Result<(u64, u64), Error> {
    let bytes: &[u8; FOOTER as usize] = footer.try_into().map_err(|_| Error::Footer("it is cut off"))?;
    if &bytes[8..] != MAGIC {
        return Err(Error::Footer("the magic is missing"));
    }
    let length = u64::from(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
    if size > limits::PACK_MAX || length > limits::DIRECTORY_MAX as u64 {
        return Err(Error::Footer("it is larger than the format allows"));
    }
    let at = size.checked_sub(FOOTER + length).ok_or(Error::Footer("the directory is longer than the pack"))?;
    Ok((at, length))
}

impl Directory {
    fn encode(&self, owner: Owner<'_>) -> Vec<u8> {
        let header = Header {
            directory: 1,
            repository: owner.repository,
            writer: owner.writer.to_owned(),
            kind: self.kind,
            recipients: self.recipients,
            frames: self.frames.clone(),
            snapshot: self.snapshot.clone(),
        };
        let mut content = serde_json::to_vec(&header).unwrap_or_default();
        content.push(b'\n');
        for (id, length) in self.chunks.iter().flatten() {
            content.extend_from_slice(&length.to_le_bytes());
            content.extend_from_slice(id.as_bytes());
        }
        content
    }

    /// Opens and checks the sealed directory of a pack whose frames end at `frames_end`. One of the keys must have signed it.
    pub fn parse(
        sealed: &[u8],
        frames_end: u64,
        owner: Owner<'_>,
        keys: &[VerifyingKey],
        opener: &Opener,
    ) -> Result<Self, Error> {
        let text = opener.open_compressed(sealed, limits::DIRECTORY_MAX)?;
        Self::check(&text, frames_end, owner, keys)
    }

    /// Checks the signed text of a directory.
    pub fn check(text: &[u8], frames_end: u64, owner: Owner<'_>, keys: &[VerifyingKey]) -> Result<Self, Error> {
        let mut last = Error::Directory("nobody may have signed it".to_owned());
        for key in keys {
            match open_signed(CONTEXT, text, key, owner.writer) {
                Ok(content) => return Self::read(content, frames_end, owner),
                Err(e) => last = e.into(),
            }
        }
        Err(last)
    }

    /// Checks the content of a directory whose signature was checked: what is believed fits the pack.
    pub fn read(content: &[u8], frames_end: u64, owner: Owner<'_>) -> Result<Self, Error> {
        let bad = |why: &str| Error::Directory(why.to_owned());
        let end = content.iter().position(|b| *b == b'\n').ok_or_else(|| bad("there is no header"))?;
        let header: Header =
            serde_json::from_slice(&content[..end]).map_err(|e| Error::Directory(format!("its header: {e}")))?;
        if header.repository != owner.repository || header.writer != owner.writer || header.directory != 1 {
            return Err(Error::Foreign(format!("writer `{}` of repository {}", header.writer, header.repository)));
        }
        header.snapshot.as_ref().map_or(Ok(()), SnapshotRecord::validate).map_err(Error::Directory)?;
        let chunks = Self::parse_chunks(&header.frames, &content[end + 1..], frames_end)?;
        Ok(Self {
            kind: header.kind,
            recipients: header.recipients,
            frames: header.frames,
            chunks,
            snapshot: header.snapshot,
        })
    }

    fn parse_chunks(frames: &[FramePlace], table: &[u8], frames_end: u64) -> Result<Vec<Vec<(ChunkId, u32)>>, Error> {
        let bad = |why: &str| Error::Directory(why.to_owned());
        let mut rows = table.chunks_exact(CHUNK_ROW);
        if !rows.remainder().is_empty() {
            return Err(bad("the chunk table is cut off"));
        }
        let (mut next, mut all) = (0u64, Vec::with_capacity(frames.len()));
        for frame in frames {
            let end = frame.at.checked_add(frame.stored).ok_or_else(|| bad("a frame's place overflows"))?;
            if frame.at != next || end > frames_end || frame.plain > limits::FRAME_MAX as u64 {
                return Err(bad("a frame lies outside its place"));
            }
            next = end;
            if frame.chunks as usize > rows.len() {
                return Err(bad("the chunk table is too short"));
            }
            let mut chunks = Vec::with_capacity(frame.chunks as usize);
            for row in rows.by_ref().take(frame.chunks as usize) {
                let length = u32::from_le_bytes([row[0], row[1], row[2], row[3]]);
                let id = ChunkId::from_slice(&row[4..]).ok_or_else(|| bad("a chunk id is cut off"))?;
                chunks.push((id, length));
            }
            if chunks.iter().map(|(_, length)| u64::from(*length)).sum::<u64>() != frame.plain {
                return Err(bad("a frame's chunks do not add up"));
            }
            all.push(chunks);
        }
        if next != frames_end || rows.len() != 0 { Err(bad("something lies between its frames")) } else { Ok(all) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::{Identities, generate_identity};
    use proptest::prelude::*;

    const REPOSITORY: RepositoryId = RepositoryId::new([7; 16]);
    const OWNER: Owner<'_> = Owner { repository: REPOSITORY, writer: "w" };

    fn keys() -> (SigningKey, Sealer, Opener) {
        let (identity, recipient) = generate_identity();
        let opener = Opener::new(Identities::from_age_text(&identity).unwrap());
        (SigningKey::from_seed(&[1; 32]), Sealer::new(vec![recipient.parse().unwrap()]), opener)
    }

    fn build(frames: &[(Vec<u8>, Vec<u32>)], key: &SigningKey, sealer: &Sealer) -> Built {
        let mut builder = PackBuilder::new(PackKind::Data, Digest::new([9; 32]));
        for (n, (bytes, lengths)) in frames.iter().enumerate() {
            builder.push(SealedFrame {
                id: FrameId::new([n as u8; 32]),
                bytes: bytes.clone().into(),
                plain: lengths.iter().map(|l| u64::from(*l)).sum(),
                chunks: lengths.iter().map(|l| (ChunkId::new([*l as u8; 32]), *l)).collect(),
            });
        }
        builder.finish(OWNER, None, key, sealer).unwrap()
    }

    fn parse(pack: &[u8], key: &SigningKey, opener: &Opener, owner: Owner<'_>) -> Result<Directory, Error> {
        let size = pack.len() as u64;
        let footer = pack.len().checked_sub(16).ok_or(Error::Footer("it is cut off"))?;
        let (at, length) = parse_footer(&pack[footer..], size)?;
        Directory::parse(&pack[at as usize..(at + length) as usize], at, owner, &[key.public()], opener)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn parse_after_finish_is_the_identity(
            frames in prop::collection::vec(
                (prop::collection::vec(any::<u8>(), 1..200), prop::collection::vec(0u32..100_000, 0..20)), 0..12)
        ) {
            let (key, sealer, opener) = keys();
            let built = build(&frames, &key, &sealer);
            let bytes = built.parts.concat();
            prop_assert_eq!(built.size, bytes.len() as u64);
            let sum = blake3::hash(&bytes);
            prop_assert_eq!(built.id.as_bytes(), sum.as_bytes());
            prop_assert_eq!(parse(&bytes, &key, &opener, OWNER).unwrap(), built.directory);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let (key, _, opener) = keys();
            prop_assert!(parse(&bytes, &key, &opener, OWNER).is_err());
        }
    }

    #[test]
    fn a_directory_of_another_writer_or_key_is_refused() {
        let (key, sealer, opener) = keys();
        let bytes = build(&[(vec![1; 50], vec![10, 20])], &key, &sealer).parts.concat();
        let stranger = Owner { writer: "v", ..OWNER };
        assert!(matches!(parse(&bytes, &key, &opener, stranger), Err(Error::Foreign(_))));
        let forged = SigningKey::from_seed(&[2; 32]);
        assert!(matches!(parse(&bytes, &forged, &opener, OWNER), Err(Error::Sealed(seal::Error::Signature { .. }))));
        assert!(matches!(parse(&bytes[1..], &key, &opener, OWNER), Err(Error::Directory(_))));
        assert!(matches!(parse(&bytes[..bytes.len() - 1], &key, &opener, OWNER), Err(Error::Footer(_))));
    }
}
