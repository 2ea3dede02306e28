//! `catalog rebuild`.

use crate::cli::Outcome;
use crate::cli::context::Context;
use crate::cli::output::counted;
use crate::cli::report::Failure;

/// Runs it.
pub fn rebuild(context: &Context) -> Result<Outcome, Failure> {
    let progress = context.progress(true);
    let mut repository = context.open_anew(&*progress)?;
    let report = repository.rebuild_catalog(&*progress);
    progress.clear();
    let report = report?;
    for problem in &report.problems {
        context.ui.warning(problem);
    }
    let snapshots = repository.catalog().snapshots()?.len() as u64;
    if context.ui.json {
        let problems: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
        context
            .ui
            .json(&serde_json::json!({"commits": report.commits, "snapshots": snapshots, "problems": problems}))?;
    } else {
        let commits = counted(report.commits, "commit", "commits");
        context
            .ui
            .answer(format!("catalog   rebuilt from {commits}: {}", counted(snapshots, "snapshot", "snapshots")))?;
    }
    Ok(if report.problems.is_empty() { Outcome::Done } else { Outcome::Damage })
}
