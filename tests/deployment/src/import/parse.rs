//! What an upload holds, by the names of its entries.
//!
//! A name is matched by its end, so a leading directory does no harm. Entries are read one at a time, when they are needed.

use std::collections::BTreeMap;

use bytes::Bytes;
use rc_zip_sync::{ArchiveHandle, EntryHandle};

use super::{Failed, Kind, Request};
use crate::json;
use crate::value::Value;

/// How the documents of a table are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    /// `export_json`
    Uniform,
    /// Plain JSON: every number is a float.
    Plain,
}

/// A table of the upload.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Where its documents are: the place of the entry. None where only `_tables` names it.
    pub documents: Option<usize>,
    pub uniform: bool,
    /// The number that `_tables` gives it.
    pub number: Option<u32>,
}

/// The files of a component.
#[derive(Debug, Default)]
pub(super) struct FoundFiles {
    pub rows: Option<usize>,
    /// The blobs by the id in their names.
    pub blobs: BTreeMap<String, usize>,
}

/// An upload that was looked through.
pub(super) struct Upload<'a> {
    entries: Vec<EntryHandle<'a, &'a [u8]>>,
    single: Option<(Bytes, bool)>,
    /// By component and name.
    pub tables: BTreeMap<(String, String), Found>,
    pub files: BTreeMap<String, FoundFiles>,
}

pub(super) fn invalid(error: impl std::fmt::Display) -> Failed {
    Failed::new("InvalidZip", format!("invalid zip file: {error}"))
}

fn is_name(name: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.len() <= 64 && name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(good)
}

/// The component that an entry lies in, below the base.
fn component_of(parts: &[&str], base: &str) -> Result<String, Failed> {
    let mut names = Vec::new();
    let mut rest = parts;
    while let [before @ .., "_components", name] = rest {
        if !is_name(name) {
            return Err(Failed::new("InvalidComponentName", format!("invalid component name `{name}`")));
        }
        names.push(*name);
        rest = before;
    }
    names.reverse();
    if !base.is_empty() {
        names.insert(0, base);
    }
    Ok(names.join("/"))
}

impl<'a> Upload<'a> {
    /// Looks through the upload. `uniform_known`: whether this backend knows `"uniform"`.
    pub(super) fn read(
        bytes: &Bytes,
        archive: Option<&'a ArchiveHandle<'a, &'a [u8]>>,
        request: &Request,
        uniform_known: bool,
    ) -> Result<Upload<'a>, Failed> {
        let entries = archive.into_iter().flat_map(|archive| archive.entries()).collect();
        let mut upload = Upload { entries, single: None, tables: BTreeMap::new(), files: BTreeMap::new() };
        let table = match &request.kind {
            Kind::Zip => None,
            Kind::Lines(table) => Some((table, false)),
            Kind::Array(table) => Some((table, true)),
        };
        if let Some((table, array)) = table {
            if !is_name(table) {
                return Err(Failed::new("ImportInvalidName", format!("invalid table name `{table}`")));
            }
            let found = Found { documents: Some(0), ..Found::default() };
            upload.tables.insert((request.component.clone(), table.clone()), found);
            upload.single = Some((bytes.clone(), array));
            return Ok(upload);
        }
        let names: Vec<String> = upload.entries.iter().map(|entry| entry.name.clone()).collect();
        let mut lists = Vec::new();
        for (at, name) in names.iter().enumerate() {
            upload.sort_in(at, name, &request.component, &mut lists, uniform_known)?;
        }
        for (component, at) in lists {
            upload.read_tables(&component, at)?;
        }
        // A schema without documents is nothing.
        upload.tables.retain(|_, found| found.documents.is_some() || found.number.is_some());
        Ok(upload)
    }

    fn sort_in(
        &mut self,
        at: usize,
        name: &str,
        base: &str,
        lists: &mut Vec<(String, usize)>,
        uniform_known: bool,
    ) -> Result<(), Failed> {
        let parts: Vec<&str> = name.split('/').collect();
        let [before @ .., folder, file] = &parts[..] else { return Ok(()) };
        match (*folder, *file) {
            ("_tables", "documents.jsonl") => lists.push((component_of(before, base)?, at)),
            ("_storage", "documents.jsonl") => {
                self.files.entry(component_of(before, base)?).or_default().rows = Some(at);
            }
            ("_storage", "generated_schema.jsonl" | "") => {}
            ("_storage", blob) => {
                let id = blob.split('.').next().unwrap_or_default().to_owned();
                self.files.entry(component_of(before, base)?).or_default().blobs.insert(id, at);
            }
            // Other system tables are skipped.
            (table, "documents.jsonl" | "generated_schema.jsonl") if !table.starts_with('_') => {
                if !is_name(table) {
                    return Err(Failed::new("InvalidTableName", format!("invalid table name `{table}`")));
                }
                let key = (component_of(before, base)?, table.to_owned());
                if *file == "documents.jsonl" {
                    let found = self.tables.entry(key).or_default();
                    if found.documents.replace(at).is_some() {
                        return Err(Failed::new("DuplicateTableName", format!("table `{table}` is there twice")));
                    }
                } else {
                    self.check_schema(at, table, uniform_known)?;
                    self.tables.entry(key).or_default().uniform = true;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn check_schema(&self, at: usize, table: &str, uniform_known: bool) -> Result<(), Failed> {
        let text = self.text(at)?;
        let is_uniform = text.trim() == "\"uniform\"";
        match (is_uniform, uniform_known) {
            (true, true) => Ok(()),
            (true, false) => Err(Failed::new(
                "InvalidGeneratedSchema",
                format!("cannot parse {table}/generated_schema.jsonl: unexpected token at 'uniform'"),
            )),
            (false, _) => Err(Failed::new(
                "InvalidGeneratedSchema",
                format!("cannot parse {table}/generated_schema.jsonl: the test deployment reads no inferred types"),
            )),
        }
    }

    fn read_tables(&mut self, component: &str, at: usize) -> Result<(), Failed> {
        for line in self.text(at)?.lines().filter(|line| !line.trim().is_empty()) {
            let row: serde_json::Value = serde_json::from_str(line)
                .map_err(|e| Failed::new("JsonInvalidRow", format!("invalid row in _tables: {e}")))?;
            let name = row.get("name").and_then(|n| n.as_str()).unwrap_or_default();
            let number = row.get("id").and_then(serde_json::Value::as_f64).unwrap_or(0.0);
            if !is_name(name) || number < 1.0 {
                return Err(Failed::new("InvalidName", format!("invalid row in _tables: {line}")));
            }
            let found = self.tables.entry((component.to_owned(), name.to_owned())).or_default();
            if found.number.replace(number as u32).is_some() {
                return Err(Failed::new("DuplicateTableName", format!("`{name}` is in _tables twice")));
            }
        }
        Ok(())
    }

    /// The plain bytes of an entry; its checksum is verified.
    pub(super) fn bytes(&self, at: usize) -> Result<Vec<u8>, Failed> {
        match &self.single {
            Some((bytes, _)) => Ok(bytes.to_vec()),
            None => self.entries.get(at).ok_or_else(|| invalid("an entry is gone"))?.bytes().map_err(invalid),
        }
    }

    fn text(&self, at: usize) -> Result<String, Failed> {
        let text = String::from_utf8(self.bytes(at)?).map_err(|e| Failed::new("NotUtf8", format!("not UTF-8: {e}")))?;
        match text.starts_with('\u{feff}') {
            true => Err(Failed::new("Utf8BomNotSupported", "UTF-8 files with a byte order mark are not supported")),
            false => Ok(text),
        }
    }

    /// The documents of a table, as texts.
    pub(super) fn documents(&self, found: &Found) -> Result<Vec<String>, Failed> {
        let Some(at) = found.documents else { return Ok(Vec::new()) };
        let text = self.text(at)?;
        if let Some((_, true)) = self.single {
            let value = json::parse(&text).map_err(|e| Failed::new("NotJson", format!("not JSON: {e}")))?;
            let Value::Array(items) = value else { return Err(Failed::new("NotJsonArray", "not a JSON array")) };
            return Ok(items.iter().map(|item| item.to_json(crate::value::Format::Export)).collect());
        }
        Ok(text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect())
    }

    /// The rows of files, each as a value.
    pub(super) fn rows(&self, at: usize) -> Result<Vec<Value>, Failed> {
        let text = self.text(at)?;
        let rows = text.lines().filter(|line| !line.trim().is_empty()).enumerate();
        rows.map(|(n, line)| json::parse(line).map_err(|e| invalid_row(n, &e))).collect()
    }
}

/// A row that is no JSON object of Convex values; rows count from 1.
pub(super) fn invalid_row(n: usize, why: &dyn std::fmt::Display) -> Failed {
    Failed::new("JsonInvalidRow", format!("failed to parse JSON row {}: {why}", n + 1))
}
