//! The proof of a restore: a fresh export of the target, document by document beside the snapshot; and the list of its files.
//!
//! Both sides are in the order of their ids, so that neither is held in memory. Lines that differ as text are compared as values, in
//! which `7` and `7.0` differ and `1e16` and `10000000000000000.0` do not. Not here: what is done about a difference.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::DeploymentRestore;
use super::files::MoreFiles;
use crate::client::convex::Deployment;
use crate::format::convex::change::id_of_line;
use crate::format::convex::{DocumentId, Part, component_prefix, full_name, place_of};
use crate::format::zip::{Member, MemberReader};
use crate::model::Entry;
use crate::ops::restore::each_selected;
use crate::ops::{Error, Selection};
use crate::progress::{Event, Progress};
use crate::repository::{ExtentReader, Repository};
use crate::source::convex::{ConvexOptions, fetch_export};

/// A document's line at most: one of 1 MiB, written as wastefully as JSON can.
const LINE_MAX: u64 = 64 << 20;

/// What a comparison found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Tables that are as in the snapshot.
    pub tables_equal: u64,
    /// Documents that are as in the snapshot.
    pub documents_equal: u64,
    /// Tables that are not.
    pub differences: Vec<TableDifference>,
    /// Files, where they were restored.
    pub files: Option<FilesDifference>,
}

impl Verified {
    fn add(&mut self, table: String, difference: TableDifference) {
        self.documents_equal += difference.equal;
        match difference.missing + difference.extra + difference.changed {
            0 => self.tables_equal += 1,
            _ => self.differences.push(TableDifference { table, ..difference }),
        }
    }

    /// Whether all is as in the snapshot.
    pub fn is_equal(&self) -> bool {
        self.differences.is_empty() && self.files.as_ref().is_none_or(|files| files.missing + files.changed == 0)
    }
}

/// How a table differs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TableDifference {
    /// Its name with its component.
    pub table: String,
    /// Documents that are equal.
    pub equal: u64,
    /// Documents of the snapshot that are not there.
    pub missing: u64,
    /// Documents that are there and not in the snapshot.
    pub extra: u64,
    /// Documents that are there with another content.
    pub changed: u64,
    /// The id of the first of all these.
    pub first: Option<String>,
}

/// How the files differ, by their SHA-256 in the deployment's own list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FilesDifference {
    /// Files that are equal.
    pub equal: u64,
    /// Files of the snapshot that are not there.
    pub missing: u64,
    /// Files with other bytes.
    pub changed: u64,
    /// The id of the first of all these.
    pub first: Option<String>,
}

/// Exports the target and compares. Writes of others since the import are differences too.
pub fn verify(
    repository: &Repository,
    restore: &DeploymentRestore,
    deployment: &Deployment,
    work_dir: Option<&Path>,
    progress: &dyn Progress,
) -> Result<Verified, Error> {
    let options = ConvexOptions { work_dir: work_dir.map(Path::to_owned), ..ConvexOptions::default() };
    let export = fetch_export(deployment, &options, deployment.key_of(), progress)?;
    progress.event(Event::Stage("comparing"));
    let members: HashMap<String, Member> =
        export.file.members.into_iter().map(|member| (member.name.clone(), member)).collect();
    let file = Arc::new(export.file.file);
    let listed = if restore.files { Some(list_files(deployment)?) } else { None };
    let mut found = Verified { files: listed.as_ref().map(|_| FilesDifference::default()), ..Verified::default() };
    let all = Selection::new(&[], &[])?;
    each_selected(repository, &restore.snapshot, &all, progress, &mut |entry| {
        let path = entry.path.to_string();
        let (component, part) = place_of(&path);
        match part {
            // A canary changes by itself: what it is now says nothing of what was restored.
            Part::Documents(table) if component.is_empty() && table == crate::ops::canary::TABLE => {}
            Part::Documents(table) if restore.wants_table(&component, table) => {
                let mut there: Box<dyn Read> = match members.get(&path) {
                    Some(member) => Box::new(MemberReader::new(Arc::clone(&file), member)),
                    None => Box::new(std::io::empty()),
                };
                let difference = with_lines(repository, restore, &entry, progress, &mut |ours| {
                    let there = &mut BufReader::with_capacity(256 << 10, &mut there);
                    match restore.changes_of(&component, table) {
                        None => compare_lines(ours, there),
                        Some(folded) => {
                            let merged = folded.over(&component, table, Box::new(ours))?;
                            compare_lines(&mut BufReader::with_capacity(256 << 10, merged), there)
                        }
                    }
                })?;
                found.add(full_name(&component, table), difference);
                progress.event(Event::Done { items: 1, bytes: entry.size() });
            }
            _ => {}
        }
        Ok(())
    })?;
    for (component, table, _) in restore.new_tables() {
        let Some(folded) = restore.changes_of(component, table) else { continue };
        let io = |source| Error::Output { what: format!("the comparison of `{table}`"), source };
        let path = format!("{}{table}/documents.jsonl", component_prefix(component));
        let mut there: Box<dyn Read> = match members.get(&path) {
            Some(member) => Box::new(MemberReader::new(Arc::clone(&file), member)),
            None => Box::new(std::io::empty()),
        };
        let ours = folded.over(component, table, Box::new(std::io::empty())).map_err(io)?;
        let mut there = BufReader::with_capacity(256 << 10, &mut there);
        let difference = compare_lines(&mut BufReader::with_capacity(256 << 10, ours), &mut there).map_err(io)?;
        found.add(full_name(component, table), difference);
    }
    if let (Some(listed), Some(mut files)) = (&listed, found.files.take()) {
        each_selected(repository, &restore.files_from, &all, progress, &mut |entry| {
            let path = entry.path.to_string();
            let (component, part) = place_of(&path);
            if matches!(part, Part::FileList) && restore.wants_files(&component) {
                let compare = &mut |ours: &mut dyn BufRead| compare_files(ours, listed, &mut files);
                with_lines(repository, restore, &entry, progress, compare)?;
            }
            Ok(())
        })?;
        let more = restore.more.iter().flat_map(MoreFiles::lists);
        for (component, mut lines) in more.filter(|(component, _)| restore.wants_files(component)) {
            let io = |source| Error::Output { what: format!("the comparison of files of `{component}`"), source };
            compare_files(&mut lines, listed, &mut files).map_err(io)?;
        }
        found.files = Some(files);
    }
    Ok(found)
}

/// Hands the stored lines of a file on.
fn with_lines<T>(
    repository: &Repository,
    restore: &DeploymentRestore,
    entry: &Entry,
    progress: &dyn Progress,
    each: &mut dyn FnMut(&mut dyn BufRead) -> std::io::Result<T>,
) -> Result<T, Error> {
    let extents = entry.content().map_or(&[][..], |content| &content.extents);
    let mut bytes = ExtentReader::new(repository, restore.snapshot.writer, "a comparison", extents, progress)?;
    let done = each(&mut BufReader::with_capacity(256 << 10, &mut bytes));
    done.map_err(|source| match bytes.take_failure() {
        Some(e) => e.into(),
        None => Error::Output { what: format!("the comparison of `{}`", entry.path), source },
    })
}

/// A line, without its end; false behind the last.
fn next_line(input: &mut dyn BufRead, line: &mut Vec<u8>) -> std::io::Result<bool> {
    line.clear();
    let read = input.take(LINE_MAX).read_until(b'\n', line)?;
    if line.last() == Some(&b'\n') {
        line.pop();
    } else if read as u64 == LINE_MAX {
        return Err(std::io::Error::other("a document is longer than any"));
    }
    Ok(read > 0)
}

fn id_of(line: &[u8]) -> std::io::Result<DocumentId> {
    id_of_line(line).map_err(std::io::Error::other)
}

/// The same value, however its numbers and keys are written. Floats keep their sign and stay floats.
fn is_same(ours: &[u8], theirs: &[u8]) -> bool {
    let canonical = |line: &[u8]| serde_json::from_slice::<Value>(line).map(|value| value.to_string());
    matches!((canonical(ours), canonical(theirs)), (Ok(a), Ok(b)) if a == b)
}

/// Walks along two tables in the order of their ids.
fn compare_lines(ours: &mut dyn BufRead, theirs: &mut dyn BufRead) -> std::io::Result<TableDifference> {
    let (mut found, mut a, mut b) = (TableDifference::default(), Vec::new(), Vec::new());
    let (mut more_a, mut more_b) = (next_line(ours, &mut a)?, next_line(theirs, &mut b)?);
    while more_a || more_b {
        let order = match (more_a, more_b) {
            (true, true) if a == b => None,
            (true, true) => Some(id_of(&a)?.internal.cmp(&id_of(&b)?.internal)),
            (true, false) => Some(Ordering::Less),
            _ => Some(Ordering::Greater),
        };
        match order {
            None => found.equal += 1,
            Some(Ordering::Equal) if is_same(&a, &b) => found.equal += 1,
            Some(order) => {
                let count = match order {
                    Ordering::Less => &mut found.missing,
                    Ordering::Greater => &mut found.extra,
                    Ordering::Equal => &mut found.changed,
                };
                *count += 1;
                if found.first.is_none() {
                    found.first = Some(id_of(if order == Ordering::Greater { &b } else { &a })?.to_string());
                }
            }
        }
        if order.is_none_or(Ordering::is_le) {
            more_a = next_line(ours, &mut a)?;
        }
        if order.is_none_or(Ordering::is_ge) {
            more_b = next_line(theirs, &mut b)?;
        }
    }
    Ok(found)
}

/// Files of a deployment: size and SHA-256 by id.
type Listed = HashMap<String, (u64, String)>;

fn list_files(deployment: &Deployment) -> Result<Listed, Error> {
    let mut all = HashMap::new();
    for component in deployment.components()? {
        let mut cursor: Option<String> = None;
        loop {
            let page = deployment.files(&component, None, cursor.as_deref())?;
            for row in page.rows.into_iter().flatten() {
                all.insert(row.id, (row.size, BASE64.encode(&row.sha256)));
            }
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
    }
    Ok(all)
}

#[derive(Deserialize)]
struct FileLine {
    #[serde(rename = "_id")]
    id: String,
    sha256: String,
    size: f64,
}

fn compare_files(ours: &mut dyn BufRead, listed: &Listed, found: &mut FilesDifference) -> std::io::Result<()> {
    let mut line = Vec::new();
    while next_line(ours, &mut line)? {
        let file: FileLine = serde_json::from_slice(&line).map_err(std::io::Error::other)?;
        let differs = match listed.get(&file.id) {
            None => &mut found.missing,
            Some((size, sha256)) if *size as f64 == file.size && *sha256 == file.sha256 => {
                found.equal += 1;
                continue;
            }
            Some(_) => &mut found.changed,
        };
        *differs += 1;
        found.first.get_or_insert(file.id);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(n: u8, rest: &str) -> String {
        format!("{{\"_creationTime\":1.0,\"_id\":\"{}\"{rest}}}\n", DocumentId { table: 10001, internal: [n; 16] })
    }

    fn compare(ours: &str, theirs: &str) -> [u64; 4] {
        let found = compare_lines(&mut ours.as_bytes(), &mut theirs.as_bytes()).unwrap();
        [found.equal, found.missing, found.extra, found.changed]
    }

    #[test]
    fn tables_are_compared_by_their_ids() {
        let all: String = (0..5).map(|n| line(n, "")).collect();
        assert_eq!(compare(&all, &all), [5, 0, 0, 0]);
        let without = all.replace(&line(2, ""), "");
        assert_eq!(compare(&all, &without), [4, 1, 0, 0]);
        assert_eq!(compare(&without, &all), [4, 0, 1, 0]);
        assert_eq!(compare(&all, ""), [0, 5, 0, 0]);
        assert_eq!(compare(&all, &all.replace(&line(2, ""), &line(2, ",\"a\":1"))), [4, 0, 0, 1]);
    }

    #[test]
    fn values_are_compared_with_their_types() {
        let one = |text: &str| line(1, &format!(",\"n\":{text}"));
        assert_eq!(compare(&one("1e16"), &one("10000000000000000.0")), [1, 0, 0, 0]);
        assert_eq!(compare(&one("{\"a\":1,\"b\":2}"), &one("{\"b\":2,\"a\":1}")), [1, 0, 0, 0]);
        for (a, b) in [("7", "7.0"), ("0.0", "-0.0"), ("9007199254740993", "9007199254740992"), ("\"7\"", "7")] {
            assert_eq!(compare(&one(a), &one(b)), [0, 0, 0, 1], "{a} {b}");
        }
    }
}
