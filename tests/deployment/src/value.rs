//! Convex values and their three JSON encodings.
//!
//! A document is kept as its `export_json` text: that text is exact, so nothing is lost between what a test wrote and what an
//! export shows. The other two encodings are made from it. The text of a float is
//! that of `ryu`, as in the backend (newer versions of `serde_json` write `1e+16`).

use std::collections::BTreeMap;

use data_encoding::BASE64;

/// A Convex value. Keys of objects sort by their bytes, as in an export.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `null`
    Null,
    /// A 64-bit integer; `7` in an export.
    Int64(i64),
    /// A double; `7.0` in an export. NaN keeps its payload.
    Float64(f64),
    /// `true` or `false`
    Boolean(bool),
    /// Text.
    String(String),
    /// Bytes; `{"$bytes":"…"}` in an export.
    Bytes(Vec<u8>),
    /// A list.
    Array(Vec<Value>),
    /// Named values.
    Object(BTreeMap<String, Value>),
}

/// How values are written as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `export_json`: exact; what a ZIP holds.
    Export,
    /// `convex_encoded_json`: exact; an Int64 is `{"$integer":"…"}`.
    Encoded,
    /// `json`: lossy; an Int64 is a string.
    Clean,
}

impl Value {
    /// An object of these fields.
    pub fn object<K: Into<String>, const N: usize>(fields: [(K, Value); N]) -> Value {
        Value::Object(fields.into_iter().map(|(k, v)| (k.into(), v)).collect())
    }

    /// The field of an object.
    pub fn get(&self, name: &str) -> Option<&Value> {
        match self {
            Value::Object(fields) => fields.get(name),
            _ => None,
        }
    }

    /// The text of a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The value as compact JSON.
    pub fn to_json(&self, format: Format) -> String {
        let mut out = String::new();
        self.write(&mut out, format);
        out
    }

    /// Appends the value as compact JSON.
    pub fn write(&self, out: &mut String, format: Format) {
        match self {
            Value::Null => out.push_str("null"),
            Value::Boolean(true) => out.push_str("true"),
            Value::Boolean(false) => out.push_str("false"),
            Value::Int64(n) => match format {
                Format::Export => out.push_str(&n.to_string()),
                Format::Encoded => write_tagged(out, "$integer", &n.to_le_bytes()),
                Format::Clean => write_string(out, &n.to_string()),
            },
            Value::Float64(n) => write_float(out, *n, format),
            Value::String(text) => write_string(out, text),
            Value::Bytes(bytes) => match format {
                Format::Clean => write_string(out, &BASE64.encode(bytes)),
                _ => write_tagged(out, "$bytes", bytes),
            },
            Value::Array(items) => {
                out.push('[');
                for (n, item) in items.iter().enumerate() {
                    if n > 0 {
                        out.push(',');
                    }
                    item.write(out, format);
                }
                out.push(']');
            }
            Value::Object(fields) => {
                out.push('{');
                for (n, (name, value)) in fields.iter().enumerate() {
                    if n > 0 {
                        out.push(',');
                    }
                    write_string(out, name);
                    out.push(':');
                    value.write(out, format);
                }
                out.push('}');
            }
        }
    }
}

/// Finite numbers have a dot or an exponent in every format; `-0.0` needs an encoding where JavaScript reads it.
fn write_float(out: &mut String, n: f64, format: Format) {
    if n.is_finite() && !(format == Format::Encoded && n == 0.0 && n.is_sign_negative()) {
        out.push_str(ryu::Buffer::new().format_finite(n));
    } else if format == Format::Clean {
        let name = if n.is_nan() {
            "NaN"
        } else if n > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        };
        write_string(out, name);
    } else {
        write_tagged(out, "$float", &n.to_le_bytes());
    }
}

fn write_tagged(out: &mut String, tag: &str, bytes: &[u8]) {
    out.push_str("{\"");
    out.push_str(tag);
    out.push_str("\":\"");
    out.push_str(&BASE64.encode(bytes));
    out.push_str("\"}");
}

/// Appends a JSON string.
pub(crate) fn write_string(out: &mut String, text: &str) {
    out.push_str(&serde_json::to_string(text).unwrap_or_default());
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::String(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::String(text)
    }
}

impl From<i64> for Value {
    fn from(n: i64) -> Value {
        Value::Int64(n)
    }
}

impl From<f64> for Value {
    fn from(n: f64) -> Value {
        Value::Float64(n)
    }
}

impl From<bool> for Value {
    fn from(yes: bool) -> Value {
        Value::Boolean(yes)
    }
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Value {
        Value::Bytes(bytes)
    }
}

impl From<Vec<Value>> for Value {
    fn from(items: Vec<Value>) -> Value {
        Value::Array(items)
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Value {
        value.map_or(Value::Null, Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_encodings_of_every_kind_of_value() {
        let nan = f64::from_bits(0x7ff8_0000_0000_beef);
        let rows: [(Value, &str, &str, &str); 13] = [
            (Value::Null, "null", "null", "null"),
            (7.into(), "7", r#"{"$integer":"BwAAAAAAAAA="}"#, r#""7""#),
            (i64::MIN.into(), "-9223372036854775808", r#"{"$integer":"AAAAAAAAAIA="}"#, r#""-9223372036854775808""#),
            (7.0.into(), "7.0", "7.0", "7.0"),
            ((-0.0).into(), "-0.0", r#"{"$float":"AAAAAAAAAIA="}"#, "-0.0"),
            (1e16.into(), "1e16", "1e16", "1e16"),
            (1e-7.into(), "1e-7", "1e-7", "1e-7"),
            (123456789012345.5.into(), "123456789012345.5", "123456789012345.5", "123456789012345.5"),
            (nan.into(), r#"{"$float":"774AAAAA+H8="}"#, r#"{"$float":"774AAAAA+H8="}"#, r#""NaN""#),
            (
                f64::NEG_INFINITY.into(),
                r#"{"$float":"AAAAAAAA8P8="}"#,
                r#"{"$float":"AAAAAAAA8P8="}"#,
                r#""-Infinity""#,
            ),
            (vec![0u8, 255].into(), r#"{"$bytes":"AP8="}"#, r#"{"$bytes":"AP8="}"#, r#""AP8=""#),
            (Value::Bytes(Vec::new()), r#"{"$bytes":""}"#, r#"{"$bytes":""}"#, r#""""#),
            (
                Value::object([("b", Value::Array(vec![1.into(), true.into()])), ("B", "x\n".into())]),
                r#"{"B":"x\n","b":[1,true]}"#,
                r#"{"B":"x\n","b":[{"$integer":"AQAAAAAAAAA="},true]}"#,
                r#"{"B":"x\n","b":["1",true]}"#,
            ),
        ];
        for (value, export, encoded, clean) in rows {
            assert_eq!(value.to_json(Format::Export), export);
            assert_eq!(value.to_json(Format::Encoded), encoded);
            assert_eq!(value.to_json(Format::Clean), clean);
        }
    }
}
