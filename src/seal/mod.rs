//! Sealing: zstd inside age, digests under the repository secret, signed text, identities.
//!
//! Two halves that never meet in one type: a [`Sealer`] holds public keys only, an [`Opener`] holds identities. A backup
//! host has the first alone. Invariants: nothing is decompressed beyond the length that the caller allows; secrets are
//! wiped when dropped and print as `…`. Not here: files, stores, prompts.

mod identity;
mod names;
mod plugin;
mod signed;

use std::io::{Read, Write};

use age::{Decryptor, Encryptor};
use zstd::zstd_safe::CParameter;

pub use identity::{Identities, Keyring, Recipient, generate_identity, is_protected};
pub use names::{ContentKey, Secret};
pub use plugin::set_person;
pub use signed::{SigningKey, VerifyingKey, open_signed, sign_text, split_signed};

use crate::model::limits;
use crate::model::noise::looks_incompressible;

/// zstd's level for everything: 3 is where speed and size meet on two cores.
pub const ZSTD_LEVEL: i32 = 3;
/// zstd's level for segments of a log, which a server waits for: half the time of level 3, and WAL gets no larger
/// (docs/benchmarks.md).
pub const ZSTD_LEVEL_OF_SEGMENTS: i32 = 1;
/// Level 3's search, with matches from 6 bytes on and a small table for the short ones, which stays in a core's cache. Frames
/// of documents, database pages and sources: 8 to 13 % faster to make, 4 to 15 % faster to open, 0.5 to 1.4 % larger
/// (docs/benchmarks.md).
const MATCHING: [CParameter; 2] = [CParameter::MinMatch(6), CParameter::ChainLog(14)];

/// Why bytes could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text is no public key of a kind that we seal to.
    #[error("`{0}` is no age recipient and no SSH public key")]
    BadRecipient(String),
    /// The text is no identity.
    #[error("`{file}` holds no identity that lifeboat can use: {why}")]
    BadIdentity {
        /// The file.
        file: String,
        /// What is wrong with it.
        why: String,
    },
    /// The passphrase of an identity file is another one.
    #[error("`{0}` does not open: the passphrase is wrong")]
    WrongPassphrase(String),
    /// There was no passphrase to be had.
    #[error("`{file}` is protected by a passphrase: {why}")]
    NoPassphrase {
        /// The file.
        file: String,
        /// Why there was none.
        why: String,
    },
    /// None of the identities fits.
    #[error("no identity at hand opens it ({0} tried)")]
    NoIdentity(usize),
    /// age says that the bytes are damaged or no age file.
    #[error("the sealed bytes are damaged")]
    Sealed(#[source] age::DecryptError),
    /// The sealed bytes end early or fail their authentication half-way.
    #[error("the sealed bytes are damaged")]
    SealedBody(#[source] std::io::Error),
    /// zstd says that the bytes are damaged, or they are longer than allowed.
    #[error("the compressed bytes are damaged or longer than {limit} bytes")]
    Compressed {
        /// What was allowed.
        limit: usize,
    },
    /// Writing into memory failed, or age refused the list of recipients.
    #[error("could not seal")]
    Seal(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A signature is missing, malformed or not by the key.
    #[error("the signature of this {what} is not by {by}")]
    Signature {
        /// What was signed.
        what: &'static str,
        /// Whose key was expected.
        by: String,
    },
}

/// Seals to a fixed list of recipients. Holds no secret.
pub struct Sealer {
    recipients: Vec<Recipient>,
}

impl Sealer {
    /// A sealer for at least one recipient.
    pub fn new(recipients: Vec<Recipient>) -> Self {
        Self { recipients }
    }

    /// One age file.
    pub fn seal(&self, plain: &[u8]) -> Result<Vec<u8>, Error> {
        let seal = |e: &dyn std::fmt::Display| Error::Seal(e.to_string().into());
        let all = self.recipients.iter().map(Recipient::as_age);
        let encryptor = Encryptor::with_recipients(all).map_err(|e| seal(&e))?;
        let mut sealed = Vec::with_capacity(plain.len() + plain.len() / 4096 + 512 * (1 + self.recipients.len()));
        let mut writer = encryptor.wrap_output(&mut sealed).map_err(|e| seal(&e))?;
        writer.write_all(plain).map_err(|e| seal(&e))?;
        writer.finish().map_err(|e| seal(&e))?;
        Ok(sealed)
    }

    /// `age(zstd(plain))`, for commits and directories.
    pub fn seal_compressed(&self, plain: &[u8]) -> Result<Vec<u8>, Error> {
        let packed = zstd::bulk::compress(plain, ZSTD_LEVEL).map_err(|e| Error::Seal(Box::new(e)))?;
        self.seal(&packed)
    }
}

/// Compresses and seals frames; one for each worker thread, because it keeps zstd's working memory.
pub struct FrameSealer<'s> {
    sealer: &'s Sealer,
    zstd: zstd::bulk::Compressor<'static>,
    packed: Vec<u8>,
}

impl<'s> FrameSealer<'s> {
    /// Prepares the working memory of one thread.
    pub fn new(sealer: &'s Sealer) -> Result<Self, Error> {
        let fail = |e| Error::Seal(Box::new(e));
        let mut zstd = zstd::bulk::Compressor::new(ZSTD_LEVEL).map_err(fail)?;
        for parameter in MATCHING {
            zstd.set_parameter(parameter).map_err(fail)?;
        }
        Ok(Self { sealer, zstd, packed: Vec::new() })
    }

    /// The same for segments of a log.
    pub fn of_segments(sealer: &'s Sealer) -> Result<Self, Error> {
        let zstd = zstd::bulk::Compressor::new(ZSTD_LEVEL_OF_SEGMENTS).map_err(|e| Error::Seal(Box::new(e)))?;
        Ok(Self { sealer, zstd, packed: Vec::new() })
    }

    /// `age(zstd(plain))`. Bytes that look incompressible are stored in zstd's raw blocks.
    pub fn seal_frame(&mut self, plain: &[u8]) -> Result<Vec<u8>, Error> {
        if looks_incompressible(plain) {
            return self.sealer.seal(&store_raw(plain));
        }
        self.packed.clear();
        self.packed.reserve(zstd::zstd_safe::compress_bound(plain.len()));
        self.zstd.compress_to_buffer(plain, &mut self.packed).map_err(|e| Error::Seal(Box::new(e)))?;
        self.sealer.seal(&self.packed)
    }
}

/// Opens what was sealed to one of its identities.
pub struct Opener {
    identities: Identities,
}

impl Opener {
    /// An opener for a set of identities.
    pub fn new(identities: Identities) -> Self {
        Self { identities }
    }

    /// The plain bytes of one age file. The result is never longer than the input.
    pub fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, Error> {
        let mut plain = Vec::with_capacity(sealed.len());
        self.open_into(sealed, &mut plain)?;
        Ok(plain)
    }

    fn open_into(&self, sealed: &[u8], plain: &mut Vec<u8>) -> Result<(), Error> {
        let decryptor = Decryptor::new(sealed).map_err(Error::Sealed)?;
        let mut reader = decryptor.decrypt(self.identities.iter()).map_err(|e| match e {
            age::DecryptError::NoMatchingKeys => Error::NoIdentity(self.identities.len()),
            other => Error::Sealed(other),
        })?;
        plain.clear();
        reader.read_to_end(plain).map(drop).map_err(Error::SealedBody)
    }

    /// `zstd(age)` of a commit or a directory; at most `limit` plain bytes.
    pub fn open_compressed(&self, sealed: &[u8], limit: usize) -> Result<Vec<u8>, Error> {
        decompress_limited(&self.open(sealed)?, limit)
    }
}

/// Opens frames; one for each worker thread, because it keeps zstd's working memory and its buffers.
pub struct FrameOpener<'o> {
    opener: &'o Opener,
    zstd: zstd::bulk::Decompressor<'static>,
    packed: Vec<u8>,
    plain: Vec<u8>,
}

impl<'o> FrameOpener<'o> {
    /// Prepares the working memory of one thread.
    pub fn new(opener: &'o Opener) -> Result<Self, Error> {
        let zstd = zstd::bulk::Decompressor::new().map_err(|e| Error::Seal(Box::new(e)))?;
        Ok(Self { opener, zstd, packed: Vec::new(), plain: Vec::new() })
    }

    /// What the last file held that was opened: a zstd frame.
    pub fn packed(&self) -> &[u8] {
        &self.packed
    }

    /// The plain bytes of a frame, of exactly `length` bytes; they stay until the next one.
    pub fn open_frame(&mut self, sealed: &[u8], length: usize) -> Result<&[u8], Error> {
        let bad = || Error::Compressed { limit: length };
        if length > limits::FRAME_MAX {
            return Err(bad());
        }
        self.opener.open_into(sealed, &mut self.packed)?;
        if self.plain.len() < length {
            self.plain.resize(length, 0);
        }
        let plain = &mut self.plain[..length];
        let written = self.zstd.decompress_to_buffer(&self.packed, plain).map_err(|_| bad())?;
        if written == length { Ok(&self.plain[..length]) } else { Err(bad()) }
    }
}

impl FrameOpener<'_> {
    /// The plain bytes of one age file with one zstd frame, at most `limit`; they stay until the next one.
    pub fn open_limited(&mut self, sealed: &[u8], limit: usize) -> Result<&[u8], Error> {
        self.opener.open_into(sealed, &mut self.packed)?;
        match zstd::zstd_safe::get_frame_content_size(&self.packed) {
            Ok(Some(length)) if length <= limit as u64 => {
                let length = length as usize;
                if self.plain.len() < length {
                    self.plain.resize(length, 0);
                }
                let plain = &mut self.plain[..length];
                let bad = || Error::Compressed { limit };
                let written = self.zstd.decompress_to_buffer(&self.packed, plain).map_err(|_| bad())?;
                if written == length { Ok(&self.plain[..length]) } else { Err(bad()) }
            }
            _ => {
                self.plain = decompress_limited(&self.packed, limit)?;
                Ok(&self.plain)
            }
        }
    }
}

/// Decompresses at most `limit` bytes; more is an error, not memory.
pub fn decompress_limited(packed: &[u8], limit: usize) -> Result<Vec<u8>, Error> {
    let bad = |_| Error::Compressed { limit };
    let mut decoder = zstd::stream::read::Decoder::new(packed).map_err(bad)?;
    decoder.window_log_max(27).map_err(bad)?;
    let mut plain = Vec::new();
    decoder.take(limit as u64 + 1).read_to_end(&mut plain).map_err(bad)?;
    if plain.len() > limit { Err(Error::Compressed { limit }) } else { Ok(plain) }
}

/// A zstd frame of raw blocks (RFC 8878, 3.1.1): what stock `zstd -d` reads, at the speed of copying.
fn store_raw(plain: &[u8]) -> Vec<u8> {
    const BLOCK: usize = 128 << 10;
    let mut packed = Vec::with_capacity(plain.len() + 16 + 3 * (plain.len() / BLOCK + 1));
    packed.extend_from_slice(&0xFD2F_B528_u32.to_le_bytes());
    // Frame_Header_Descriptor: content size in 8 bytes (0b11), single segment (so there is no window byte), no checksum.
    packed.push(0b1110_0000);
    packed.extend_from_slice(&(plain.len() as u64).to_le_bytes());
    let mut blocks = plain.chunks(BLOCK).peekable();
    if blocks.peek().is_none() {
        packed.extend_from_slice(&[1, 0, 0]);
    }
    while let Some(block) = blocks.next() {
        let last = u32::from(blocks.peek().is_none());
        let header = last | ((block.len() as u32) << 3);
        packed.extend_from_slice(&header.to_le_bytes()[..3]);
        packed.extend_from_slice(block);
    }
    packed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Sealer, Opener) {
        let (identity, recipient) = generate_identity();
        (Sealer::new(vec![recipient.parse().unwrap()]), Opener::new(Identities::from_age_text(&identity).unwrap()))
    }

    fn noise(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn frames_open_to_what_was_sealed_whether_they_compress_or_not() {
        let (sealer, opener) = pair();
        let mut frames = FrameSealer::new(&sealer).unwrap();
        for plain in [vec![], b"text ".repeat(9000), noise(1 << 20), noise(300_001)] {
            let sealed = frames.seal_frame(&plain).unwrap();
            assert_eq!(FrameOpener::new(&opener).unwrap().open_frame(&sealed, plain.len()).unwrap(), plain);
            assert!(FrameOpener::new(&opener).unwrap().open_frame(&sealed, plain.len() + 1).is_err());
        }
    }

    #[test]
    fn incompressible_bytes_are_stored_and_zstd_reads_them() {
        assert!(looks_incompressible(&noise(1 << 20)));
        assert!(!looks_incompressible(&b"0123456789abcdef".repeat(4096)));
        let plain = noise(300_000);
        let packed = store_raw(&plain);
        assert!(packed.len() < plain.len() + 64);
        assert_eq!(zstd::stream::decode_all(packed.as_slice()).unwrap(), plain);
    }

    #[test]
    fn a_bomb_stops_at_the_limit() {
        let (sealer, opener) = pair();
        let sealed = sealer.seal_compressed(&vec![0; 10 << 20]).unwrap();
        assert!(sealed.len() < 10_000);
        assert!(matches!(opener.open_compressed(&sealed, 1 << 20), Err(Error::Compressed { .. })));
        assert!(matches!(
            FrameOpener::new(&opener).unwrap().open_frame(&sealed, 1 << 20),
            Err(Error::Compressed { .. })
        ));
    }

    #[test]
    fn another_identity_opens_nothing_and_says_so() {
        let (sealer, _) = pair();
        let (_, stranger) = pair();
        let sealed = sealer.seal_compressed(b"secret").unwrap();
        assert!(matches!(stranger.open(&sealed), Err(Error::NoIdentity(1))));
    }

    #[test]
    fn a_flipped_bit_anywhere_is_noticed() {
        let (sealer, opener) = pair();
        let sealed = sealer.seal_compressed(&b"some text".repeat(50)).unwrap();
        for at in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[at] ^= 4;
            assert!(opener.open_compressed(&bad, 1 << 20).is_err(), "byte {at}");
        }
    }
}
