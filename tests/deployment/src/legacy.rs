//! What an old backend (before 2026-03-10) puts into a ZIP: documents in clean JSON, and the inferred type that is needed to
//! read them.
//!
//! The words of that type (`int64`, `normalfloat64`, `bytes`, `array<…>`, `|`) are the backend's as far as known; its lines of
//! exceptions (`{"<id>": …}`), for documents that the type alone does not decode, are not modelled.

use std::collections::BTreeMap;

use crate::json;
use crate::model::Line;
use crate::value::{Format, Value, write_string};

/// The type of all values seen in one place.
#[derive(Debug, Clone, Default, PartialEq)]
struct Shape {
    plain: std::collections::BTreeSet<&'static str>,
    array: Option<Box<Shape>>,
    object: Option<Fields>,
}

/// The fields of objects, each with the number of objects that have it.
#[derive(Debug, Clone, Default, PartialEq)]
struct Fields {
    objects: usize,
    fields: BTreeMap<String, (usize, Shape)>,
}

impl Shape {
    fn add(&mut self, value: &Value) {
        let name = match value {
            Value::Null => "null",
            Value::Int64(_) => "int64",
            Value::Float64(n) if n.is_finite() && (*n != 0.0 || n.is_sign_positive()) => "normalfloat64",
            Value::Float64(_) => "float64",
            Value::Boolean(_) => "boolean",
            Value::String(_) => "string",
            Value::Bytes(_) => "bytes",
            Value::Array(items) => {
                let shape = self.array.get_or_insert_default();
                items.iter().for_each(|item| shape.add(item));
                return;
            }
            Value::Object(fields) => {
                let shape = self.object.get_or_insert_default();
                shape.objects += 1;
                for (name, value) in fields {
                    let (count, field) = shape.fields.entry(name.clone()).or_default();
                    *count += 1;
                    field.add(value);
                }
                return;
            }
        };
        self.plain.insert(name);
    }

    fn write(&self, out: &mut String) {
        let mut kinds: Vec<String> = self.plain.iter().map(|name| (*name).to_owned()).collect();
        if let Some(items) = &self.array {
            let mut inner = String::new();
            items.write(&mut inner);
            kinds.push(format!("array<{inner}>"));
        }
        if let Some(object) = &self.object {
            let mut inner = String::from("{");
            for (n, (name, (count, shape))) in object.fields.iter().enumerate() {
                inner.push_str(if n > 0 { ", " } else { "" });
                write_string(&mut inner, name);
                inner.push_str(if *count < object.objects { "?: " } else { ": " });
                shape.write(&mut inner);
            }
            inner.push('}');
            kinds.push(inner);
        }
        out.push_str(&if kinds.is_empty() { "never".to_owned() } else { kinds.join(" | ") });
    }
}

/// `documents.jsonl` and `generated_schema.jsonl` of a table.
pub(crate) fn documents(lines: &[Line]) -> (String, String) {
    let mut shape = Shape::default();
    let mut documents = String::new();
    for line in lines {
        if let Ok(value) = json::parse(line) {
            shape.add(&value);
            value.write(&mut documents, Format::Clean);
            documents.push('\n');
        }
    }
    let mut text = String::new();
    shape.write(&mut text);
    let mut schema = String::new();
    write_string(&mut schema, &text);
    schema.push('\n');
    (documents, schema)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inferred_type_says_what_clean_json_loses() {
        let lines = [r#"{"_id":"a","n":7,"s":"x"}"#, r#"{"_id":"b","n":7.5,"l":[{"$bytes":"AA=="}]}"#].map(Line::from);
        let (documents, schema) = super::documents(&lines);
        assert_eq!(documents, "{\"_id\":\"a\",\"n\":\"7\",\"s\":\"x\"}\n{\"_id\":\"b\",\"l\":[\"AA==\"],\"n\":7.5}\n");
        let text: String = serde_json::from_str(schema.trim_end()).unwrap();
        assert_eq!(text, r#"{"_id": string, "l"?: array<bytes>, "n": int64 | normalfloat64, "s"?: string}"#);
    }
}
