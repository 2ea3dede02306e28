//! Admin keys: minted and verified by the backend's formula; and the same cipher for cursors.
//!
//! Keys of the scheme before 2025-05-30 are not understood.

use aes_gcm_siv::aead::{Aead, KeyInit, Payload};
use aes_gcm_siv::{Aes128GcmSiv, Nonce};
use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit as _, Mac};
use sha2::Sha256;

const VERSION: u8 = 1;

/// The secret of an instance: 32 bytes, from which every other key comes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret(pub [u8; 32]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What an admin key says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdminKey {
    /// When it was issued, in seconds since the epoch.
    pub issued_s: u64,
    /// Whether it may only read.
    pub read_only: bool,
}

impl Secret {
    /// The 16-byte key for one purpose: KBKDF in counter mode with HMAC-SHA256.
    fn subkey(&self, info: &str) -> [u8; 16] {
        let mut key = [0; 16];
        if let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.0) {
            mac.update(&[0, 0, 0, 1]);
            mac.update(info.as_bytes());
            key.copy_from_slice(&mac.finalize().into_bytes()[..16]);
        }
        key
    }

    /// `version, nonce, ciphertext, tag`; the version is the associated data.
    pub(crate) fn seal(&self, info: &str, nonce: [u8; 12], message: &[u8]) -> Vec<u8> {
        let cipher = Aes128GcmSiv::new(&self.subkey(info).into());
        let payload = Payload { msg: message, aad: &[VERSION] };
        let sealed = cipher.encrypt(Nonce::from_slice(&nonce), payload).unwrap_or_default();
        [&[VERSION][..], &nonce, &sealed].concat()
    }

    /// What was sealed for this purpose by this secret.
    pub(crate) fn open(&self, info: &str, bytes: &[u8]) -> Option<Vec<u8>> {
        let (version, rest) = bytes.split_first()?;
        let (nonce, sealed) = rest.split_at_checked(12)?;
        if *version != VERSION {
            return None;
        }
        let cipher = Aes128GcmSiv::new(&self.subkey(info).into());
        cipher.decrypt(Nonce::from_slice(nonce), Payload { msg: sealed, aad: &[VERSION] }).ok()
    }

    /// The key as self-hosted prints it: `name|hex`.
    pub fn mint(&self, instance_name: &str, key: AdminKey, nonce: [u8; 12]) -> String {
        let mut message = vec![0x10];
        let mut rest = key.issued_s;
        while rest >= 0x80 {
            message.push((rest & 0x7f) as u8 | 0x80);
            rest >>= 7;
        }
        message.push(rest as u8);
        message.extend_from_slice(&[0x18, 0]);
        if key.read_only {
            message.extend_from_slice(&[0x28, 1]);
        }
        format!("{instance_name}|{}", HEXLOWER.encode(&self.seal("admin key", nonce, &message)))
    }

    /// The key, if it is of this instance and of this secret.
    pub fn verify(&self, instance_name: &str, text: &str) -> Option<AdminKey> {
        let (left, hex) = text.rsplit_once('|')?;
        let name_fits = match left.split_once(':') {
            Some(("prod" | "dev", name)) => name == instance_name,
            Some(("preview" | "project", _)) => true,
            _ => left == instance_name,
        };
        let message = self.open("admin key", &HEXLOWER.decode(hex.as_bytes()).ok()?)?;
        if name_fits { parse_message(&message) } else { None }
    }
}

/// The protobuf `AdminKey`: 1 name, 2 issued_s, 3 member_id, 4 system, 5 is_read_only.
fn parse_message(mut bytes: &[u8]) -> Option<AdminKey> {
    let mut key = AdminKey { issued_s: 0, read_only: false };
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        match (tag >> 3, tag & 7) {
            (2, 0) => key.issued_s = varint(&mut bytes)?,
            (5, 0) => key.read_only = varint(&mut bytes)? != 0,
            (_, 0) => drop(varint(&mut bytes)?),
            (_, 2) => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                bytes = bytes.get(length..)?;
            }
            _ => return None,
        }
    }
    Some(key)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = "01000102030405060708090a0bbdac1d88f891ee8b560ab4e7e8fe9ad54c2b9dcaaa14a817";
    const READ_ONLY: &str = "01000102030405060708090a0b099faf6c4be408597c527691e0e9f8fc620189ec15fafc2cd574";

    fn secret() -> Secret {
        let mut secret = [0; 32];
        secret[31] = 1;
        Secret(secret)
    }

    #[test]
    fn the_subkey_follows_the_formula() {
        assert_eq!(HEXLOWER.encode(&secret().subkey("admin key")), "560f7370665147cd5ab74df581a2a7fb");
    }

    #[test]
    fn keys_are_minted_and_verified_as_the_vectors_say() {
        let nonce = std::array::from_fn(|n| n as u8);
        for (hex, read_only) in [(FULL, false), (READ_ONLY, true)] {
            let key = AdminKey { issued_s: 1_700_000_000, read_only };
            let text = format!("my-app|{hex}");
            assert_eq!(secret().mint("my-app", key, nonce), text);
            assert_eq!(secret().verify("my-app", &text), Some(key));
            assert_eq!(secret().verify("my-app", &format!("prod:{text}")), Some(key));
            assert_eq!(secret().verify("my-app", &format!("preview:team:project|{hex}")), Some(key));
        }
    }

    #[test]
    fn another_name_another_secret_and_damage_are_refused() {
        let good = format!("my-app|{FULL}");
        assert_eq!(secret().verify("other", &good), None);
        assert_eq!(Secret([9; 32]).verify("my-app", &good), None);
        for bad in ["", "my-app", "my-app|", "my-app|zz", &good[..good.len() - 2], &good.replace("bdac", "bdad")] {
            assert_eq!(secret().verify("my-app", bad), None, "{bad}");
        }
    }
}
