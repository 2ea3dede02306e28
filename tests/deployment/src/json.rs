//! Reads `export_json` and `convex_encoded_json` into values.
//!
//! Own code because the text of a number decides its type and its bits: a number that fits an i64 without dot or exponent is an
//! Int64, every other one a Float64 that is rounded exactly. `serde_json` does that with features only, and features of a
//! test's dependency would change lifeboat's own `serde_json` in its tests.

use std::collections::BTreeMap;

use data_encoding::BASE64;

use crate::value::Value;

/// Arrays and objects inside of each other, at most; Convex allows 64.
const DEPTH_MAX: usize = 128;

/// What is wrong with a text that is no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotAValue {
    /// Where, in bytes from the start.
    pub at: usize,
    /// What was found or missed there.
    pub what: String,
}

impl std::fmt::Display for NotAValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at byte {}", self.what, self.at)
    }
}

impl std::error::Error for NotAValue {}

/// One value, and nothing but white space after it.
pub fn parse(text: &str) -> Result<Value, NotAValue> {
    let mut reader = Reader { text, at: 0 };
    let value = reader.value(0)?;
    reader.space();
    if reader.at < text.len() {
        return Err(reader.wrong("trailing characters"));
    }
    Ok(value)
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn wrong(&self, what: &str) -> NotAValue {
        NotAValue { at: self.at, what: what.to_owned() }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Takes this byte after white space, if it comes next.
    fn take(&mut self, byte: u8) -> bool {
        self.space();
        let there = self.peek() == Some(byte);
        if there {
            self.at += 1;
        }
        there
    }

    fn value(&mut self, depth: usize) -> Result<Value, NotAValue> {
        self.space();
        if depth > DEPTH_MAX {
            return Err(self.wrong("nested too deeply"));
        }
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => Ok(Value::String(self.string()?)),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => {
                for (word, value) in
                    [("null", Value::Null), ("true", Value::Boolean(true)), ("false", Value::Boolean(false))]
                {
                    if self.text[self.at..].starts_with(word) {
                        self.at += word.len();
                        return Ok(value);
                    }
                }
                Err(self.wrong("expected a value"))
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Value, NotAValue> {
        self.at += 1;
        let mut items = Vec::new();
        if self.take(b']') {
            return Ok(Value::Array(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            if self.take(b']') {
                return Ok(Value::Array(items));
            }
            if !self.take(b',') {
                return Err(self.wrong("expected `,` or `]`"));
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value, NotAValue> {
        self.at += 1;
        let mut fields = BTreeMap::new();
        if self.take(b'}') {
            return Ok(Value::Object(fields));
        }
        loop {
            self.space();
            let name = self.string()?;
            if !self.take(b':') {
                return Err(self.wrong("expected `:`"));
            }
            let value = self.value(depth + 1)?;
            fields.insert(name, value);
            if self.take(b'}') {
                return self.decode(fields);
            }
            if !self.take(b',') {
                return Err(self.wrong("expected `,` or `}`"));
            }
        }
    }

    /// An object whose first key begins with `$` is an encoding.
    fn decode(&self, fields: BTreeMap<String, Value>) -> Result<Value, NotAValue> {
        let Some((tag, inner)) = fields.first_key_value().filter(|(name, _)| name.starts_with('$')) else {
            return Ok(Value::Object(fields));
        };
        let bytes = inner
            .as_str()
            .filter(|_| fields.len() == 1)
            .and_then(|text| BASE64.decode(text.as_bytes()).ok())
            .ok_or_else(|| self.wrong("a bad `$` encoding"))?;
        let eight = || <[u8; 8]>::try_from(&bytes[..]).map_err(|_| self.wrong("a number that is not of 8 bytes"));
        match tag.as_str() {
            "$integer" => Ok(Value::Int64(i64::from_le_bytes(eight()?))),
            "$float" => Ok(Value::Float64(f64::from_le_bytes(eight()?))),
            "$bytes" => Ok(Value::Bytes(bytes)),
            _ => Err(self.wrong("an unknown `$` encoding")),
        }
    }

    fn number(&mut self) -> Result<Value, NotAValue> {
        let from = self.at;
        while matches!(self.peek(), Some(b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9')) {
            self.at += 1;
        }
        let text = &self.text[from..self.at];
        let digits = text.trim_start_matches('-');
        let zeros = digits.len() > 1 && digits.starts_with('0') && digits.as_bytes()[1].is_ascii_digit();
        if zeros || digits.ends_with('.') || digits.starts_with('.') {
            return Err(self.wrong("a malformed number"));
        }
        if !text.contains(['.', 'e', 'E'])
            && text != "-0"
            && let Ok(n) = text.parse()
        {
            return Ok(Value::Int64(n));
        }
        match text.parse::<f64>() {
            Ok(n) if n.is_finite() => Ok(Value::Float64(n)),
            _ => Err(self.wrong("a malformed number")),
        }
    }

    /// Finds the end of the string; its escapes are `serde_json`'s affair.
    fn string(&mut self) -> Result<String, NotAValue> {
        if self.peek() != Some(b'"') {
            return Err(self.wrong("expected a string"));
        }
        let bytes = self.text.as_bytes();
        let mut end = self.at + 1;
        let mut plain = true;
        loop {
            match bytes.get(end) {
                None => return Err(self.wrong("a string without end")),
                Some(b'"') => break,
                Some(b'\\') => {
                    plain = false;
                    end += 2;
                }
                Some(0..=0x1f) => return Err(self.wrong("a control character in a string")),
                Some(_) => end += 1,
            }
        }
        let quoted = self.text.get(self.at..=end).ok_or_else(|| self.wrong("a string without end"))?;
        let text = if plain {
            quoted[1..quoted.len() - 1].to_owned()
        } else {
            serde_json::from_str(quoted).map_err(|e| self.wrong(&e.to_string()))?
        };
        self.at = end + 1;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Format;

    #[test]
    fn what_is_written_reads_as_itself() {
        for text in [
            r#"{"a":7,"b":7.0,"c":-0.0,"d":1e16,"e":9007199254740993,"f":{"$bytes":"AP8="},"g":[[],{}],"h":"\"\\ué😀"}"#,
            r#"{"$float":"774AAAAA+H8="}"#,
            "5e-324",
            "1.7976931348623157e308",
            "-9223372036854775808",
        ] {
            assert_eq!(parse(text).unwrap().to_json(Format::Export), text);
        }
        assert_eq!(
            parse(" [ 9223372036854775808 , -0 ] ").unwrap().to_json(Format::Export),
            "[9.223372036854776e18,-0.0]"
        );
        assert_eq!(parse(r#"{"$integer":"BwAAAAAAAAA="}"#).unwrap(), Value::Int64(7));
        assert_eq!(parse(r#""\u0041\ud83d\ude00""#).unwrap(), Value::from("A😀"));
    }

    #[test]
    fn what_is_no_value_is_refused() {
        for text in [
            "",
            "{",
            "[1,]",
            "01",
            "1.",
            ".5",
            "1e999",
            "\"a",
            "\"\\",
            "nul",
            "{\"a\" 1}",
            "1 2",
            "{\"$x\":\"\"}",
            "--1",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse(&"[".repeat(100_000)).is_err());
    }
}
