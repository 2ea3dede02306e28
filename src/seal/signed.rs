//! Signed text: `{"signature":"<hex>"}`, a newline, the content (docs/format.md, section 2). Ed25519 over the context, a
//! newline and the content, so that a text signed for one use is never taken for another.

use data_encoding::HEXLOWER;
use ed25519_dalek::{Signature, Signer};
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use super::Error;

/// A secret Ed25519 key.
#[derive(Clone)]
pub struct SigningKey(ed25519_dalek::SigningKey);

impl SigningKey {
    /// From 32 random bytes.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(seed))
    }
    /// From 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = HEXLOWER.decode(text.as_bytes()).ok()?;
        let seed: Option<[u8; 32]> = bytes.as_slice().try_into().ok();
        bytes.zeroize();
        seed.map(|seed| Self::from_seed(&seed))
    }
    /// The secret half, to be sealed or put into a key file and nothing else.
    pub fn expose_hex(&self) -> String {
        HEXLOWER.encode(&self.0.to_bytes())
    }
    /// The public half.
    pub fn public(&self) -> VerifyingKey {
        VerifyingKey(self.0.verifying_key())
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningKey(…)")
    }
}

/// A public Ed25519 key; in JSON 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VerifyingKey(ed25519_dalek::VerifyingKey);

impl VerifyingKey {
    /// 64 hexadecimal digits.
    pub fn to_hex(&self) -> String {
        HEXLOWER.encode(self.0.as_bytes())
    }
}

impl Serialize for VerifyingKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_hex())
    }
}

impl<'de> Deserialize<'de> for VerifyingKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bad = || serde::de::Error::custom("this is no Ed25519 public key");
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(|_| bad())?;
        let bytes: [u8; 32] = bytes.as_slice().try_into().map_err(|_| bad())?;
        ed25519_dalek::VerifyingKey::from_bytes(&bytes).map(Self).map_err(|_| bad())
    }
}

#[derive(Serialize, Deserialize)]
struct SignatureLine {
    signature: String,
}

fn message(context: &str, content: &[u8]) -> Vec<u8> {
    [context.as_bytes(), b"\n", content].concat()
}

/// The content with its signature line before it.
pub fn sign_text(context: &str, content: &[u8], key: &SigningKey) -> Vec<u8> {
    let signature = key.0.sign(&message(context, content));
    let mut text = format!("{{\"signature\":\"{}\"}}\n", HEXLOWER.encode(&signature.to_bytes())).into_bytes();
    text.extend_from_slice(content);
    text
}

/// Signature line and content, nothing checked. For readers that must look into the content to know whose key to use.
pub fn split_signed(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = text.iter().take(1024).position(|b| *b == b'\n')?;
    Some((&text[..end], &text[end + 1..]))
}

/// The content, once its signature was checked.
pub fn open_signed<'t>(context: &'static str, text: &'t [u8], key: &VerifyingKey, by: &str) -> Result<&'t [u8], Error> {
    let bad = || Error::Signature { what: context.rsplit(' ').next().unwrap_or(context), by: by.to_owned() };
    let (line, content) = split_signed(text).ok_or_else(bad)?;
    let line: SignatureLine = serde_json::from_slice(line).map_err(|_| bad())?;
    let bytes = HEXLOWER.decode(line.signature.as_bytes()).map_err(|_| bad())?;
    let signature = Signature::from_slice(&bytes).map_err(|_| bad())?;
    key.0.verify_strict(&message(context, content), &signature).map_err(|_| bad())?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_opens_with_its_key_in_its_context_only() {
        let (key, other) = (SigningKey::from_seed(&[1; 32]), SigningKey::from_seed(&[2; 32]));
        let text = sign_text("test commit", b"line\n", &key);
        assert_eq!(open_signed("test commit", &text, &key.public(), "w").unwrap(), b"line\n");
        assert!(open_signed("test directory", &text, &key.public(), "w").is_err());
        assert!(open_signed("test commit", &text, &other.public(), "w").is_err());
        let mut changed = text.clone();
        *changed.last_mut().unwrap() = b' ';
        assert!(open_signed("test commit", &changed, &key.public(), "w").is_err());
        assert!(open_signed("test commit", b"no line", &key.public(), "w").is_err());
    }
}
