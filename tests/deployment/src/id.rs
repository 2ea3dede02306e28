//! Ids of documents: a table's number, 16 bytes, and a checksum, in Crockford's base 32.

/// The 16 bytes that tell documents of a table apart.
pub type InternalId = [u8; 16];

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// The id of a document as the app sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DocumentId {
    /// The number of its table.
    pub number: u32,
    /// Which document.
    pub internal: InternalId,
}

impl DocumentId {
    /// An id from its parts.
    pub fn new(number: u32, internal: InternalId) -> DocumentId {
        DocumentId { number, internal }
    }

    /// Reads the canonical form; `None` for anything else.
    pub fn parse(text: &str) -> Option<DocumentId> {
        let bytes = decode_base32(text)?;
        let (body, footer) = bytes.split_at_checked(bytes.len().checked_sub(2)?)?;
        if footer != fletcher16(body) {
            return None;
        }
        let (number, internal) = body.split_at_checked(body.len().checked_sub(16)?)?;
        let mut value: u64 = 0;
        for (n, byte) in number.iter().enumerate() {
            let last = n + 1 == number.len();
            if n > 4 || (byte & 0x80 == 0) != last {
                return None;
            }
            value |= u64::from(byte & 0x7f) << (7 * n);
        }
        let id = DocumentId::new(u32::try_from(value).ok()?, internal.try_into().ok()?);
        (id.to_string() == text).then_some(id)
    }
}

impl std::fmt::Display for DocumentId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut bytes = Vec::with_capacity(23);
        let mut number = self.number;
        while number >= 0x80 {
            bytes.push((number & 0x7f) as u8 | 0x80);
            number >>= 7;
        }
        bytes.push(number as u8);
        bytes.extend_from_slice(&self.internal);
        let footer = fletcher16(&bytes);
        bytes.extend_from_slice(&footer);
        f.write_str(&encode_base32(&bytes))
    }
}

/// Low byte the first sum, high byte the second; sums modulo 256.
fn fletcher16(bytes: &[u8]) -> [u8; 2] {
    let (mut first, mut second) = (0u8, 0u8);
    for byte in bytes {
        first = first.wrapping_add(*byte);
        second = second.wrapping_add(first);
    }
    [first, second]
}

fn encode_base32(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 8 / 5 + 1);
    let (mut bits, mut held) = (0u32, 0u32);
    for byte in bytes {
        held = held << 8 | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            out.push(char::from(ALPHABET[(held >> bits & 31) as usize]));
        }
        held &= (1 << bits) - 1;
    }
    if bits > 0 {
        out.push(char::from(ALPHABET[(held << (5 - bits) & 31) as usize]));
    }
    out
}

fn decode_base32(text: &str) -> Option<Vec<u8>> {
    if text.len() > 37 {
        return None;
    }
    let mut out = Vec::with_capacity(text.len() * 5 / 8);
    let (mut bits, mut held) = (0u32, 0u32);
    for character in text.bytes() {
        let digit = ALPHABET.iter().position(|c| *c == character)?;
        held = held << 5 | u32::try_from(digit).ok()?;
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            out.push((held >> bits & 0xff) as u8);
            held &= (1 << bits) - 1;
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_ids_are_written_and_read() {
        let count: InternalId = std::array::from_fn(|n| n as u8);
        let from_source =
            [0x7c, 0x75, 0xfb, 0x4a, 0x61, 0xfb, 0x00, 0x3c, 0xa5, 0xa2, 0x08, 0x6f, 0x49, 0x13, 0x4d, 0x1a];
        for (text, number, internal) in [
            ("kg27rxfv99gzp01wmph0gvt92d6hnvy6", 540, from_source),
            ("j57000820c20a1g7104gm2rc1m70ynr8", 10001, count),
            ("j97fzzzzzzzzzzzzzzzzzzzzzzzzzm7a", 10002, [0xff; 16]),
            ("kg20000000000000000000000000181w", 540, [0; 16]),
        ] {
            assert_eq!(DocumentId::new(number, internal).to_string(), text);
            assert_eq!(DocumentId::parse(text), Some(DocumentId::new(number, internal)));
        }
    }

    #[test]
    fn every_size_of_a_number_has_its_length() {
        for (number, length) in [(1, 31), (127, 31), (128, 32), (16383, 32), (16384, 34), (u32::MAX, 37)] {
            let id = DocumentId::new(number, [7; 16]);
            assert_eq!(id.to_string().len(), length);
            assert_eq!(DocumentId::parse(&id.to_string()), Some(id));
        }
    }

    #[test]
    fn only_the_canonical_form_is_an_id() {
        let good = DocumentId::new(10001, [7; 16]).to_string();
        let swapped = good.replacen(good.chars().next_back().unwrap(), "i", 1);
        for bad in ["", "0", "hello", &good.to_uppercase(), &good[1..], &format!("{good}0"), &swapped] {
            assert_eq!(DocumentId::parse(bad), None, "{bad}");
        }
    }
}
