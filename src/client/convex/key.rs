//! Admin keys: `instance|hex`, as `generate_admin_key.sh` prints them, or minted from the instance's secret by the backend's own
//! formula (get-convex/convex-backend at 94a42c3db, `crates/keybroker/src/{broker,encryptor,secret}.rs`, since 2025-05-30).
//!
//! Invariant: neither a key nor a secret is ever in an error, in a log or in `Debug`; both are wiped when dropped.

use std::fmt;

use aws_lc_rs::aead::{AES_128_GCM_SIV, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use zeroize::Zeroizing;

/// The first byte of a key, and the data that its cipher authenticates.
const VERSION: u8 = 1;
/// A key at most: the name of an instance, and a few dozen bytes.
const KEY_MAX: usize = 1024;

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// Everything.
    Full,
    /// Reads data and downloads exports; requests none.
    ReadOnly,
}

/// Why a key or a secret cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadKey {
    /// A key is not `instance|hex`.
    #[error("an admin key is the instance's name, `|`, and a long hexadecimal number")]
    Form,
    /// A secret is not 64 hexadecimal digits.
    #[error("an instance secret is 64 hexadecimal digits")]
    Secret,
    /// An instance's name has other characters.
    #[error("an instance's name has letters, digits, `-` and `_`")]
    Name,
    /// The system refused to make one.
    #[error("the key could not be made")]
    Cipher,
}

/// An admin key.
#[derive(Clone)]
pub struct AdminKey(Zeroizing<String>);

impl fmt::Debug for AdminKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminKey(...)")
    }
}

impl PartialEq for AdminKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes() == other.0.as_bytes()
    }
}
impl Eq for AdminKey {}

impl AdminKey {
    /// Checks the form of a key: `instance|hex`, with `prod:` or `dev:` before it or without.
    pub fn parse(text: &str) -> Result<Self, BadKey> {
        let text = text.trim();
        let (name, hex) = text.split_once('|').ok_or(BadKey::Form)?;
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | ':' | '.');
        let fits = text.len() <= KEY_MAX && !name.is_empty() && name.chars().all(is_name);
        let is_hex = hex.len() >= 32 && hex.bytes().all(|c| c.is_ascii_hexdigit());
        if fits && is_hex { Ok(Self(Zeroizing::new(text.to_owned()))) } else { Err(BadKey::Form) }
    }

    /// Makes one from the instance's secret. `issued` is in seconds since 1970; `nonce` is random.
    pub fn mint(instance: &str, secret: &str, rights: Rights, issued: u64, nonce: [u8; 12]) -> Result<Self, BadKey> {
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if instance.is_empty() || instance.len() > KEY_MAX / 2 || !instance.chars().all(is_name) {
            return Err(BadKey::Name);
        }
        let secret = HEXLOWER_PERMISSIVE.decode(secret.trim().as_bytes()).map_err(|_| BadKey::Secret)?;
        let secret = Zeroizing::new(secret);
        if secret.len() != 32 {
            return Err(BadKey::Secret);
        }
        let sealed = seal(&secret, &message(rights, issued), nonce)?;
        Ok(Self(Zeroizing::new(format!("{instance}|{}", HEXLOWER.encode(&sealed)))))
    }

    /// The name of the instance that it is of.
    pub fn instance(&self) -> &str {
        let name = self.0.split('|').next().unwrap_or_default();
        name.rsplit(':').next().unwrap_or(name)
    }

    /// The key itself, for the one header that needs it.
    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

/// Protobuf `AdminKey`: 2 `issued_s`, 3 `member_id` (0), 5 `is_read_only`.
fn message(rights: Rights, issued: u64) -> Vec<u8> {
    let (mut text, mut rest) = (vec![0x10], issued);
    while rest >= 128 {
        text.push(rest as u8 | 128);
        rest >>= 7;
    }
    text.push(rest as u8);
    text.extend([0x18, 0]);
    if rights == Rights::ReadOnly {
        text.extend([0x28, 1]);
    }
    text
}

/// version, nonce, ciphertext, tag; the sub-key is one block of a KDF in counter mode.
fn seal(secret: &[u8], message: &[u8], nonce: [u8; 12]) -> Result<Vec<u8>, BadKey> {
    let mut info = vec![0, 0, 0, 1];
    info.extend_from_slice(b"admin key");
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), &info);
    let sub_key = tag.as_ref().get(..16).ok_or(BadKey::Cipher)?;
    let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM_SIV, sub_key).map_err(|_| BadKey::Cipher)?);
    let mut body = message.to_vec();
    let aad = Aad::from([VERSION]);
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut body).map_err(|_| BadKey::Cipher)?;
    Ok([&[VERSION][..], &nonce, &body].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "0000000000000000000000000000000000000000000000000000000000000001";

    fn nonce() -> [u8; 12] {
        std::array::from_fn(|n| n as u8)
    }

    #[test]
    fn minted_keys_are_those_of_the_formula() {
        for (rights, hex) in [
            (Rights::Full, "01000102030405060708090a0bbdac1d88f891ee8b560ab4e7e8fe9ad54c2b9dcaaa14a817"),
            (Rights::ReadOnly, "01000102030405060708090a0b099faf6c4be408597c527691e0e9f8fc620189ec15fafc2cd574"),
        ] {
            let key = AdminKey::mint("app-1", SECRET, rights, 1_700_000_000, nonce()).unwrap();
            assert_eq!(key.expose(), format!("app-1|{hex}"));
            assert_eq!(key.instance(), "app-1");
            assert_eq!(AdminKey::parse(key.expose()), Ok(key));
        }
    }

    #[test]
    fn what_is_no_key_is_refused_and_never_shown() {
        for bad in
            ["", "app", "app|", "app|xyz", "|00112233445566778899aabbccddeeff", "a b|00112233445566778899aabbccddeeff"]
        {
            assert_eq!(AdminKey::parse(bad), Err(BadKey::Form), "{bad}");
        }
        let key = AdminKey::parse("prod:app|00112233445566778899aabbccddeeff\n").unwrap();
        assert_eq!(key.instance(), "app");
        assert!(!format!("{key:?}").contains("0011"));
        assert_eq!(AdminKey::mint("app", "00", Rights::Full, 1, nonce()), Err(BadKey::Secret));
        assert_eq!(AdminKey::mint("a|b", SECRET, Rights::Full, 1, nonce()), Err(BadKey::Name));
    }
}
