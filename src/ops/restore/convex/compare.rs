//! The proof of a restore: a fresh export of the target, document by document beside the snapshot; and the list of its files.
//!
//! Both sides are in the order of their ids, so that neither is held in memory. Lines that differ as text are compared as values, in
//! which `7` and `7.0` differ and `1e16` and `10000000000000000.0` do not. Not here: what is done about a difference.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::DeploymentRestore;
use crate::client::convex::Deployment;
use crate::format::convex::{DocumentId, Part, component_prefix, place_of};
use crate::format::zip::MemberReader;
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
    let members: HashMap<String, _> =
        export.file.members.into_iter().map(|member| (member.name.clone(), member)).collect();
    let file = std::sync::Arc::new(export.file.file);
    let mut found = Verified::default();
    let listed = if restore.files { Some(list_files(deployment)?) } else { None };
    found.files = listed.as_ref().map(|_| FilesDifference::default());
    let all = Selection::new(&[], &[])?;
    each_selected(repository, &restore.snapshot, &all, progress, &mut |entry| {
        let path = entry.path.to_string();
        let (component, part) = place_of(&path);
        match part {
            Part::Documents(table) if restore.wants_table(&component, table) => {
                let name = format!("{}{table}", if component.is_empty() { String::new() } else { format!("{component}/") });
                let there: Box<dyn Read> = match members.get(&path) {
                    Some(member) => Box::new(MemberReader::new(std::sync::Arc::clone(&file), member)),
                    None => Box::new(std::io::empty()),
                };
                let difference = with_lines(repository, restore, &entry, progress, &mut |ours| {
                    compare_lines(&name, ours, &mut BufReader::with_capacity(256 << 10, there_of(&members, &file, &path)))
                });
                drop(there);
                let difference = difference?;
                found.documents_equal += difference.equal;
                if difference.missing + difference.extra + difference.changed > 0 {
                    found.differences.push(difference);
                } else {
                    found.tables_equal += 1;
                }
                progress.event(Event::Done { items: 1, bytes: entry.size() });
            }
            Part::FileList if restore.wants_files(&component) => {
                if let (Some(listed), Some(files)) = (&listed, &mut found.files) {
                    with_lines(repository, restore, &entry, progress, &mut |ours| compare_files(ours, listed, files))?;
                }
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(found)
}
