//! Digests under the repository secret. The contexts are fixed by docs/format.md, section 2.

use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::model::Digest;

const CONTENT: &str = "lifeboat 2026-11-21 format 1 content key";
const GEAR: &str = "lifeboat 2026-11-21 format 1 gear table";
const COMMITMENT: &str = "lifeboat 2026-11-21 format 1 commitment";

/// The repository secret: 32 bytes that hide and name, and never change.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; 32]);

impl Secret {
    /// Wraps the bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
    /// The bytes, to be sealed and nothing else.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
    /// The key under which chunks, frames and files are named.
    pub fn content_key(&self) -> ContentKey {
        ContentKey(blake3::derive_key(CONTENT, &self.0))
    }
    /// The bytes of the table that decides where chunks end.
    pub fn gear_table(&self) -> [u8; 2048] {
        let mut bytes = [0; 2048];
        blake3::Hasher::new_derive_key(GEAR).update(&self.0).finalize_xof().fill(&mut bytes);
        bytes
    }
    /// What `lifeboat.json` says about it: tells a replaced secret, reveals nothing.
    pub fn commitment(&self) -> Digest {
        Digest::new(blake3::derive_key(COMMITMENT, &self.0))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Names bytes: keyed BLAKE3.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct ContentKey([u8; 32]);

impl ContentKey {
    /// The digest of bytes at hand.
    pub fn digest(&self, bytes: &[u8]) -> Digest {
        Digest::new(*blake3::keyed_hash(&self.0, bytes).as_bytes())
    }
    /// A hasher for bytes that come one after another.
    pub fn hasher(&self) -> blake3::Hasher {
        blake3::Hasher::new_keyed(&self.0)
    }
}

impl std::fmt::Debug for ContentKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ContentKey(…)")
    }
}
