//! Document ids: Crockford base32, lower case, of the table's number (7 bits a byte, low first), 16 bytes, and a footer of two
//! bytes that is the Fletcher-16 sum of all before it. Only the canonical form is an id.

use std::fmt;

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Characters of an id: a table number of one byte makes 31, of five bytes 37.
const LENGTHS: std::ops::RangeInclusive<usize> = 31..=37;

/// The id of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DocumentId {
    /// The number of its table; never 0.
    pub table: u32,
    /// The rest: documents of a table are exported in this order.
    pub internal: [u8; 16],
}

/// Why a text is no id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadId {
    /// Its length.
    #[error("an id has 31 to 37 characters")]
    Length,
    /// A character that is not of the alphabet.
    #[error("an id has digits and lower-case letters but i, l, o and u")]
    Character,
    /// Another spelling of some id, or of none.
    #[error("it is not the canonical form of an id")]
    Form,
    /// The footer is of another id: a character was changed.
    #[error("its check sum is wrong")]
    Footer,
}

fn fletcher(bytes: &[u8]) -> [u8; 2] {
    let (mut first, mut second) = (0u8, 0u8);
    for byte in bytes {
        first = first.wrapping_add(*byte);
        second = second.wrapping_add(first);
    }
    [first, second]
}

fn encode_base32(bytes: &[u8]) -> String {
    let (mut text, mut buffer, mut bits) = (String::new(), 0u32, 0);
    for byte in bytes {
        buffer = (buffer << 8) | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            text.push(char::from(ALPHABET[(buffer >> bits) as usize & 31]));
        }
        buffer &= (1 << bits) - 1;
    }
    if bits > 0 {
        text.push(char::from(ALPHABET[(buffer << (5 - bits)) as usize & 31]));
    }
    text
}

impl DocumentId {
    /// Reads the canonical form.
    pub fn parse(text: &str) -> Result<Self, BadId> {
        if !LENGTHS.contains(&text.len()) {
            return Err(BadId::Length);
        }
        let (mut bytes, mut buffer, mut bits) = (Vec::with_capacity(24), 0u32, 0);
        for c in text.bytes() {
            let value = ALPHABET.iter().position(|known| *known == c).ok_or(BadId::Character)?;
            buffer = (buffer << 5) | value as u32;
            bits += 5;
            if bits >= 8 {
                bits -= 8;
                bytes.push((buffer >> bits) as u8);
                buffer &= (1 << bits) - 1;
            }
        }
        let (mut table, mut length) = (0u64, 0);
        loop {
            let byte = *bytes.get(length).ok_or(BadId::Form)?;
            if length == 5 {
                return Err(BadId::Form);
            }
            table |= u64::from(byte & 127) << (7 * length);
            length += 1;
            if byte < 128 {
                break;
            }
        }
        let table = u32::try_from(table).ok().filter(|table| *table > 0).ok_or(BadId::Form)?;
        let internal = bytes.get(length..length + 16).ok_or(BadId::Form)?;
        let footer = bytes.get(length + 16..).ok_or(BadId::Form)?;
        let mut id = Self { table, internal: [0; 16] };
        id.internal.copy_from_slice(internal);
        if footer != fletcher(&bytes[..length + 16]) {
            return Err(BadId::Footer);
        }
        // Padding bits and a number that is written too long are seen by writing it again.
        if id.to_string() == text { Ok(id) } else { Err(BadId::Form) }
    }
}

impl fmt::Display for DocumentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut bytes, mut rest) = (Vec::with_capacity(24), self.table);
        while rest >= 128 {
            bytes.push(rest as u8 | 128);
            rest >>= 7;
        }
        bytes.push(rest as u8);
        bytes.extend_from_slice(&self.internal);
        bytes.extend_from_slice(&fletcher(&bytes));
        f.write_str(&encode_base32(&bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_the_backend() {
        let counting: [u8; 16] = std::array::from_fn(|n| n as u8);
        let known = data_encoding::HEXLOWER.decode(b"7c75fb4a61fb003ca5a2086f49134d1a").unwrap();
        for (text, table, internal) in [
            ("kg27rxfv99gzp01wmph0gvt92d6hnvy6", 540, known.try_into().unwrap()),
            ("j57000820c20a1g7104gm2rc1m70ynr8", 10001, counting),
            ("j97fzzzzzzzzzzzzzzzzzzzzzzzzzm7a", 10002, [255; 16]),
            ("kg20000000000000000000000000181w", 540, [0; 16]),
        ] {
            let id = DocumentId { table, internal };
            assert_eq!(DocumentId::parse(text), Ok(id), "{text}");
            assert_eq!(id.to_string(), text);
        }
    }

    #[test]
    fn every_table_number_comes_back() {
        for table in [1, 127, 128, 513, 16383, 16384, 10001, u32::MAX] {
            let id = DocumentId { table, internal: [0xa5; 16] };
            assert_eq!(DocumentId::parse(&id.to_string()), Ok(id));
        }
    }

    #[test]
    fn a_changed_character_is_no_id() {
        let text = "j57000820c20a1g7104gm2rc1m70ynr8";
        for at in 0..text.len() {
            for c in ALPHABET {
                let mut other = text.as_bytes().to_vec();
                if other[at] == *c {
                    continue;
                }
                other[at] = *c;
                assert!(DocumentId::parse(std::str::from_utf8(&other).unwrap()).is_err());
            }
        }
        for bad in ["", "j57", "J57000820C20A1G7104GM2RC1M70YNR8", "j57000820c20a1g7104gm2rc1m70ynr8000000"] {
            assert!(DocumentId::parse(bad).is_err(), "{bad}");
        }
    }
}
