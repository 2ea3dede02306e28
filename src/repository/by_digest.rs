//! A hasher for keys that are digests already: keyed BLAKE3, whose values nobody outside can choose. The last eight bytes that a key
//! gives are its hash.

use std::hash::{BuildHasherDefault, Hasher};

/// For maps whose keys are digests, or begin with something small before one.
pub(super) type ByDigest = BuildHasherDefault<LastBytes>;

/// See the module.
#[derive(Default)]
pub(super) struct LastBytes(u64);

impl Hasher for LastBytes {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(last) = bytes.last_chunk::<8>() {
            self.0 = self.0.rotate_left(5) ^ u64::from_le_bytes(*last);
        } else {
            bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::model::PackKind;

    #[test]
    fn keys_are_told_apart() {
        let mut map: HashMap<(PackKind, [u8; 16]), u64, ByDigest> = HashMap::default();
        for n in 0..10_000u64 {
            let digest: [u8; 16] = blake3::hash(&n.to_le_bytes()).as_bytes()[..16].try_into().unwrap();
            let kind = if n % 2 == 0 { PackKind::Data } else { PackKind::Manifest };
            assert_eq!(map.insert((kind, digest), n), None);
        }
        assert_eq!(map.len(), 10_000);
    }
}
