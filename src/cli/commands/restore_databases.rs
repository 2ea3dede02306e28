//! What is said of databases that were restored: `PRAGMA integrity_check`, and the blobs of a Convex volume.

use std::path::Path;

use crate::cli::context::Context;
use crate::cli::output::{count, counted};
use crate::cli::report::Failure;
use crate::model::SnapshotRecord;
use crate::ops::Kind;
use crate::ops::restore::check_databases;
use crate::progress::Progress;

/// Checks what lies in `into`; damage is a failure, after everything was restored.
pub(super) fn check(
    context: &Context,
    record: &SnapshotRecord,
    into: &Path,
    (all, whole): (bool, bool),
    progress: &dyn Progress,
) -> Result<(), Failure> {
    let report = check_databases(record, into, (all, whole), progress)?;
    if report.is_empty() {
        return Ok(());
    }
    let ui = context.ui;
    if ui.json {
        ui.json(&serde_json::json!({"message_type": "databases", "source": record.source, "report": report}))?;
    } else {
        if report.sound > 0 {
            let them = counted(report.sound, "database is", "databases are");
            ui.answer(format!("checked   {them} sound (PRAGMA integrity_check)"))?;
        }
        if report.unchecked > 0 {
            let them = counted(report.unchecked, "large database was", "large databases were");
            ui.answer(format!("          {them} not checked; `--verify` does that"))?;
        }
        if let Some(blobs) = &report.blobs {
            let there = blobs.named - blobs.missing;
            ui.answer(format!(
                "blobs     {} of {} that the database names are there",
                count(there),
                count(blobs.named)
            ))?;
        }
    }
    for (path, problems) in &report.damaged {
        for problem in problems {
            ui.warning(format!("`{path}`: {problem}"));
        }
    }
    for path in &report.as_found {
        ui.warning(format!(
            "`{path}` begins like a database, and SQLite did not open it when it was backed up either: it is as it was"
        ));
    }
    for name in &report.foreign {
        ui.warning(format!(
            "`{name}` lies beside a restored database and belongs to what was there before: remove it before any program opens the \
             database, which it would destroy"
        ));
    }
    for name in report.blobs.iter().flat_map(|blobs| &blobs.first_missing) {
        ui.warning(format!("`{name}` is named by the database and is not in the snapshot"));
    }
    if report.is_sound() {
        return Ok(());
    }
    if let Some(name) = report.foreign.first() {
        let hint =
            format!("Remove it now: `rm '{}'`. `--delete` does so at the next restore.", into.join(name).display());
        return Err(Failure::new(
            Kind::Damage,
            format!("`{name}` does not belong to the restored database"),
            Some(hint),
        ));
    }
    let what = match report.damaged.first() {
        Some((path, _)) => format!("`{path}` was restored as it was stored, and SQLite says that it is damaged"),
        None => "the database names blobs that are not there".to_owned(),
    };
    let hint = "It was so when it was backed up. An older snapshot may be whole: `lifeboat snapshots`.".to_owned();
    Err(Failure::new(Kind::Damage, what, Some(hint)))
}
