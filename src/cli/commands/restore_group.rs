//! `restore --group`: all sources of a group at one time, each in a directory of its own.
//!
//! Everything is planned and shown before anything is written; a source that cannot reach the time stops it there. Then each source
//! is restored by the snapshot that was shown. Not here: how one is restored.

use std::path::Path;

use super::restore::one;
use crate::cli::Outcome;
use crate::cli::args::RestoreArgs;
use crate::cli::context::Context;
use crate::cli::output::{Ui, counted};
use crate::cli::report::Failure;
use crate::model::SnapshotId;
use crate::ops::Kind;

/// Runs it.
pub(super) fn run(context: &Context, args: &RestoreArgs, group: &str, into: &Path) -> Result<Outcome, Failure> {
    let found = context.config.groups.get(group);
    let hint = "Groups stand in the configuration as [groups.NAME].";
    let sources = &found.ok_or_else(|| Failure::usage(format!("there is no group `{group}`"), hint))?.sources;
    if sources.is_empty() {
        return Err(Failure::usage(format!("the group `{group}` has no sources"), hint));
    }
    let ui = context.ui;
    let count = counted(sources.len() as u64, "source", "sources");
    if ui.json {
        ui.json(&serde_json::json!({"message_type": "group", "group": group, "sources": sources, "into": into}))?;
    } else {
        ui.answer(format!("group     `{group}`: {count}, into {}", into.display()))?;
    }
    let of = |source: &String| RestoreArgs { source: source.clone(), into: Some(into.join(source)), ..args.clone() };
    let mut chosen: Vec<Option<SnapshotId>> = Vec::new();
    for source in sources {
        let mut id = None;
        // What lines of a dry run say about itself is said once, at the end.
        let planning = quiet(context);
        if let Err(failure) = one(&planning, &RestoreArgs { dry_run: true, ..of(source) }, &mut id) {
            ui.warning(format!("`{source}` of the group cannot be restored so; nothing was written"));
            return Err(failure);
        }
        chosen.push(id);
    }
    if args.dry_run {
        ui.story("Nothing was written (--dry-run).");
        return Ok(Outcome::Done);
    }
    std::fs::create_dir_all(into).map_err(|e| Failure::io("make", into, e))?;
    let doing = quiet(context);
    let (mut outcome, mut failures) = (Outcome::Done, Vec::new());
    for (source, mut id) in sources.iter().zip(chosen) {
        if !ui.json {
            ui.answer(format!("source    {source}"))?;
        }
        match one(&doing, &of(source), &mut id) {
            Ok(Outcome::Done) => {}
            Ok(other) => outcome = other,
            Err(failure) if failure.kind() == Kind::Cancelled => return Err(failure),
            // The others are needed all the same.
            Err(failure) => failures.push((source, failure)),
        }
    }
    let whole = sources.len() - failures.len();
    if ui.json {
        let failed: Vec<_> = failures.iter().map(|(source, _)| source).collect();
        ui.json(&serde_json::json!({"message_type": "group_summary", "restored": whole, "failed": failed}))?;
    } else {
        ui.answer(format!("group     {whole} of {count} restored"))?;
    }
    let Some((source, last)) = failures.pop() else { return Ok(outcome) };
    for (source, failure) in failures {
        ui.warning(format!("source `{source}` was not restored"));
        failure.print(&mut std::io::stderr().lock(), ui.json);
    }
    ui.warning(format!("source `{source}` was not restored"));
    Err(last)
}

/// The same without the story: of several sources at a time it would be told twice.
fn quiet(context: &Context) -> Context {
    Context { ui: Ui { quiet: true, ..context.ui }, ..context.twin() }
}
