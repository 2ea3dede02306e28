//! A snapshot into a deployment: the archive is sent, the server reads it and says what it would do; then environment variables are set, and
//! the import, confirmed, swaps all tables in with one step.
//!
//! Invariants: nothing of the target changes before its answer was shown to whoever called; variables that are there with another
//! value stay unless that was asked for; an import that is not confirmed is cancelled. What no API takes back is listed with what to
//! do about it, never passed over in silence.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use super::{DeploymentRestore, small_file, write_zip};
use crate::client::convex::{Deployment, ImportMode, ImportPhase, Uploading};
use crate::model::convex::{ENVIRONMENT, PARTS_DIR};
use crate::ops::Error;
use crate::progress::{Event, Progress};
use crate::repository::Repository;
use crate::source::convex::work_file;

/// The wait between two looks at an import.
const LOOK: Duration = Duration::from_millis(250);
/// A server that is away for so long during an import is not waited for.
const AWAY_MAX: Duration = Duration::from_secs(15 * 60);
/// A server that reads an archive for so long without a word does not read it.
const READING_MAX: Duration = Duration::from_secs(60 * 60);

/// How a deployment is restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// What becomes of tables that are there.
    pub mode: ImportMode,
    /// Whether environment variables are set.
    pub environment: bool,
    /// Whether those that are there with another value are set too.
    pub overwrite_environment: bool,
}

/// What will become of the target, as far as it is known before anything is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IntoPlan {
    /// The deployment.
    pub url: String,
    /// Its instance.
    pub instance: String,
    /// What becomes of tables that are there.
    pub mode: ImportMode,
    /// Names of variables that are set.
    pub variables_set: Vec<String>,
    /// Names of variables that are there with another value, and stay.
    pub variables_kept: Vec<String>,
    #[serde(skip)]
    values: BTreeMap<String, String>,
}

/// An archive that is on the server, not confirmed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sent {
    /// The import.
    pub import: String,
    /// Bytes that were sent.
    pub bytes: u64,
    /// Uploads that were begun: more than 1 where a part was lost on the way.
    pub uploads: u32,
    /// What the server would do: its own table.
    pub message: String,
    /// Whether rows would be deleted.
    pub deletes: bool,
}

/// An import that is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Confirmed {
    /// The database's time of the step that made it visible: nanoseconds since 1970.
    pub timestamp: String,
    /// Documents.
    pub documents: u64,
}

/// What is not restored, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Left {
    /// What, with a number.
    pub what: String,
    /// How to do it.
    pub how: String,
}

/// Looks at the target. Nothing is changed.
pub fn prepare_into(
    repository: &Repository,
    restore: &DeploymentRestore,
    deployment: &Deployment,
    target: Target,
    progress: &dyn Progress,
) -> Result<IntoPlan, Error> {
    let instance = deployment.check_instance()?;
    deployment.check_key()?;
    let mut plan = IntoPlan {
        url: deployment.place(),
        instance,
        mode: target.mode,
        variables_set: Vec::new(),
        variables_kept: Vec::new(),
        values: BTreeMap::new(),
    };
    if target.environment && restore.has_environment {
        let there = deployment.environment()?;
        let path = format!("{PARTS_DIR}/{ENVIRONMENT}");
        let text = small_file(repository, &restore.snapshot, &path, progress)?.unwrap_or_default();
        let bad = |_| Error::BadDeploymentFacts {
            snapshot: restore.plan.snapshot.to_string(),
            // Serde's own words would quote a value.
            why: format!("`{path}` is no list of variables"),
        };
        let stored: BTreeMap<String, String> = serde_json::from_slice(&text).map_err(bad)?;
        for (name, value) in stored {
            match there.get(&name) {
                Some(same) if *same == value => {}
                Some(_) if !target.overwrite_environment => plan.variables_kept.push(name),
                _ => {
                    plan.variables_set.push(name.clone());
                    plan.values.insert(name, value);
                }
            }
        }
    }
    Ok(plan)
}

/// Sends the archive and waits for what the server would do. Nothing is changed.
pub fn send(
    repository: &Repository,
    restore: &DeploymentRestore,
    deployment: &Deployment,
    plan: &IntoPlan,
    work_dir: Option<&Path>,
    progress: &dyn Progress,
) -> Result<Sent, Error> {
    let work_dir = work_dir.map_or_else(std::env::temp_dir, Path::to_owned);
    // Compressed it is smaller; how much is seen when it is written.
    let file = work_file(&work_dir, restore.bytes() / 4)?;
    let buffered = std::io::BufWriter::with_capacity(1 << 20, file);
    let written = write_zip(repository, restore, buffered, progress)?;
    let file = written.into_inner().map_err(|e| output(e.into_error()))?;
    send_file(deployment, &file, plan.mode, progress)
}

/// Sends an archive that lies in a file, and waits for what the server would do. Nothing is changed.
pub(super) fn send_file(
    deployment: &Deployment,
    file: &File,
    mode: ImportMode,
    progress: &dyn Progress,
) -> Result<Sent, Error> {
    let bytes = file.metadata().map_err(output)?.len();
    progress.event(Event::Stage("uploading"));
    progress.event(Event::Expect { items: 0, bytes });
    let sent = |bytes| progress.event(Event::Done { items: 0, bytes });
    let uploaded = deployment.upload(&Uploading { file, size: bytes, mode, sent: &sent })?;
    progress.event(Event::Stage("waiting for the server"));
    let begun = Instant::now();
    let read = loop {
        match deployment.import_state(&uploaded.import)?.phase {
            ImportPhase::Uploaded if begun.elapsed() < READING_MAX => {}
            ImportPhase::Uploaded => break Err(failed(deployment, "it does not begin to read the archive")),
            ImportPhase::Waiting { message, deletes } => break Ok((message, deletes)),
            ImportPhase::Failed { message } => break Err(failed(deployment, &message)),
            ImportPhase::InProgress { .. } | ImportPhase::Completed { .. } => {
                break Err(failed(deployment, "somebody else confirmed it"));
            }
        }
        if let Err(e) = deployment.sleep(LOOK) {
            break Err(e.into());
        }
    };
    match read {
        Ok((message, deletes)) => {
            let (import, uploads) = (uploaded.import, uploaded.uploads);
            Ok(Sent { import, bytes, uploads, message, deletes })
        }
        Err(e) => {
            let _ = deployment.cancel_import(&uploaded.import);
            Err(e)
        }
    }
}

/// Sets the variables, confirms the import and waits for its end. A server that is restarted meanwhile goes on with it.
pub fn perform(
    deployment: &Deployment,
    plan: &IntoPlan,
    sent: &Sent,
    progress: &dyn Progress,
) -> Result<Confirmed, Error> {
    let give_up = |e: Error| give_up(deployment, sent, e);
    if deployment.is_given_up() {
        return Err(give_up(crate::client::convex::Error::GivenUp.into()));
    }
    if !plan.values.is_empty() {
        progress.event(Event::Stage("setting variables"));
        deployment.set_environment(&plan.values).map_err(|e| give_up(e.into()))?;
    }
    confirm(deployment, sent, progress)
}

/// Until its last step an import is seen by nobody; given up, no document has changed.
pub(super) fn give_up(deployment: &Deployment, sent: &Sent, error: Error) -> Error {
    let _ = deployment.cancel_import(&sent.import);
    error
}

/// Confirms an import and waits for its end.
pub(super) fn confirm(deployment: &Deployment, sent: &Sent, progress: &dyn Progress) -> Result<Confirmed, Error> {
    let give_up = |e: Error| give_up(deployment, sent, e);
    progress.event(Event::Stage("importing"));
    deployment.perform_import(&sent.import).map_err(|e| give_up(e.into()))?;
    let mut heard = Instant::now();
    loop {
        match deployment.import_state(&sent.import) {
            Ok(state) => match state.phase {
                ImportPhase::Completed { timestamp, rows } => {
                    return Ok(Confirmed { timestamp: timestamp.to_string(), documents: rows });
                }
                ImportPhase::Failed { message } => return Err(failed(deployment, &message)),
                ImportPhase::Uploaded | ImportPhase::Waiting { .. } | ImportPhase::InProgress { .. } => {
                    heard = Instant::now();
                }
            },
            Err(e) if e.may_pass() && heard.elapsed() < AWAY_MAX => tracing::info!(%e, "asked again"),
            Err(e) => return Err(e.into()),
        }
        deployment.sleep(LOOK).map_err(|e| give_up(e.into()))?;
    }
}

fn failed(deployment: &Deployment, why: &str) -> Error {
    let why = crate::client::convex::Said(why.to_owned()).to_string();
    Error::ImportFailed { url: deployment.place(), why }
}

pub(super) fn output(source: std::io::Error) -> Error {
    Error::Output { what: "the archive into the work directory".to_owned(), source }
}

/// What of the snapshot no API takes back.
pub fn left(repository: &Repository, restore: &DeploymentRestore, progress: &dyn Progress) -> Result<Vec<Left>, Error> {
    let part = |name: &str| -> Result<Option<Value>, Error> {
        let text = small_file(repository, &restore.snapshot, &format!("{PARTS_DIR}/{name}"), progress)?;
        Ok(text.and_then(|text| serde_json::from_slice(&text).ok()))
    };
    let source = &restore.snapshot.record.source;
    let dump = |name: &str| format!("lifeboat dump {source} {PARTS_DIR}/{name} --snapshot {}", restore.plan.snapshot);
    let mut all = vec![Left {
        what: "functions, schema, indexes, crons and auth configuration come with the code".to_owned(),
        how: format!("npx convex deploy    (which commit fits: `{}`)", dump("code_hashes.json")),
    }];
    let jobs = part("scheduled_functions.json")?;
    let jobs: usize = jobs
        .as_ref()
        .and_then(Value::as_object)
        .map_or(0, |all| all.values().filter_map(|one| one.get("rows")?.as_array()).map(Vec::len).sum());
    if jobs > 0 {
        let how = format!(
            "lifeboat dump {source} --scheduled-function --snapshot {} -o convex/lifeboatScheduled.js    (its first lines say how to run it)",
            restore.plan.snapshot
        );
        all.push(Left { what: format!("{jobs} scheduled functions were pending"), how });
    }
    let streams = part("log_streams.json")?.as_ref().map_or(0, count_rows);
    if streams > 0 {
        all.push(Left { what: format!("{streams} log streams"), how: dump("log_streams.json") });
    }
    if let Some(urls) = part("canonical_urls.json")?.filter(|urls| urls.as_object().is_some_and(|all| !all.is_empty()))
    {
        let shown = urls.get("convexCloudUrl").and_then(Value::as_str).unwrap_or("set");
        let what = format!("canonical URLs ({})", crate::client::convex::Said(shown.to_owned()));
        let how = "POST /api/v1/update_canonical_url, where this deployment takes the place of that".to_owned();
        all.push(Left { what, how });
    }
    Ok(all)
}

fn count_rows(value: &Value) -> usize {
    match value {
        Value::Array(rows) => rows.len(),
        Value::Object(fields) => fields.values().filter_map(Value::as_array).map(Vec::len).sum(),
        _ => 0,
    }
}
