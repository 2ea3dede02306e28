//! `restore --into s3://...`: a bucket's snapshot back into a bucket.

use std::path::Path;
use std::time::Instant;

use super::restore::{find, options, show_plan, warn_forgotten, warn_passed_over};
use crate::cli::Outcome;
use crate::cli::args::{OverwriteArg, RestoreArgs};
use crate::cli::context::Context;
use crate::cli::output::{counted, duration, size};
use crate::cli::report::Failure;
use crate::config::Plan;
use crate::model::SnapshotId;
use crate::ops::restore::{look_at_bucket, prepare, restore_bucket};
use crate::store::{Bucket, Credentials};

/// The URL of a bucket, if that is what was named.
pub(super) fn target(into: Option<&Path>) -> Option<&str> {
    let text = into?.to_str()?;
    ["s3://", "s3a://", "az://", "azure://", "abfs://", "gs://"]
        .iter()
        .any(|start| text.starts_with(start))
        .then_some(text)
}

fn refuse_flags(args: &RestoreArgs) -> Result<(), Failure> {
    let differs = matches!(args.overwrite, Some(OverwriteArg::IfChanged | OverwriteArg::IfNewer));
    let flags = [
        (args.delta, "--delta"),
        (args.delete, "--delete"),
        (differs, "--overwrite if-changed"),
        (args.cluster.start, "--start"),
    ];
    let named = flags.iter().find(|(given, _)| *given).map(|(_, flag)| *flag);
    match named.or_else(|| args.convex.first(false)).or_else(|| args.server.first()) {
        None => Ok(()),
        Some(flag) => {
            let hint = "`--overwrite never` keeps what is there, `--overwrite always` replaces it.";
            Err(Failure::usage(format!("`{flag}` is not for a bucket that is restored into"), hint))
        }
    }
}

/// The credentials of the source, where the configuration has it; else the environment's.
fn credentials(context: &Context, source: &str) -> Credentials {
    let name = source.rsplit('/').next().unwrap_or(source);
    let plan = context.config.sources.get(name).and_then(|section| section.plan(name).ok());
    match plan {
        Some(Plan::Bucket(options)) => options.credentials,
        _ => Credentials::default(),
    }
}

/// Runs it.
pub(super) fn run(
    context: &Context,
    args: &RestoreArgs,
    url: &str,
    chosen: &mut Option<SnapshotId>,
) -> Result<Outcome, Failure> {
    refuse_flags(args)?;
    let progress = context.progress(true);
    let (wanted, read_as) = context.wanted(&args.which)?;
    let (repository, _) = context.open(&*progress)?;
    let (snapshot, choice) = find(context, args, &repository, &wanted, *chosen)?;
    *chosen = Some(choice.id);
    if snapshot.record.kind != "bucket" {
        let text =
            format!("`{}` is of kind `{}`, and only a bucket goes into a bucket", args.source, snapshot.record.kind);
        return Err(Failure::usage(text, "Restore it into a directory: `--into DIR`."));
    }
    warn_passed_over(context, &choice);
    warn_forgotten(context, &snapshot);
    let bucket =
        Bucket::open(url, &credentials(context, &args.source)).map_err(|e| crate::ops::Error::Source(e.into()))?;
    let options = options(args)?;
    let overwrite = options.overwrite;
    let prepared = prepare(&repository, snapshot, &choice, None, options, &*progress);
    progress.clear();
    let prepared = prepared?;
    let there = look_at_bucket(&bucket, overwrite)?;
    show_plan(context, args, &prepared.plan, &repository, read_as.as_deref())?;
    let state = if there == 0 { "empty".to_owned() } else { counted(there, "object is there", "objects are there") };
    if args.dry_run {
        context.ui.answer(format!("lands in  {url} ({state})"))?;
        context.ui.story("Nothing was written (--dry-run).");
        return Ok(Outcome::Done);
    }
    context.ui.story(format!("lands in  {url} ({state})"));
    let started = Instant::now();
    let report = restore_bucket(&repository, &prepared, &bucket, &*progress);
    progress.clear();
    let (report, seconds) = (report?, started.elapsed().as_secs_f64());
    let ui = context.ui;
    if ui.json {
        let line = serde_json::json!({"message_type": "summary", "report": report, "total_duration": seconds});
        return ui.json(&line).map(|()| Outcome::Done);
    }
    let written = counted(report.written, "object", "objects");
    ui.answer(format!("restored  {written}, {} written, in {}", size(report.bytes), duration(seconds)))?;
    if report.kept > 0 {
        ui.answer(format!("kept      {} that were there already", counted(report.kept, "object", "objects")))?;
    }
    if report.verified > 0 {
        ui.answer(format!("verified  {}, digest by digest", counted(report.verified, "object", "objects")))?;
    }
    if report.left_out > 0 {
        ui.warning(format!(
            "{} no bucket can hold were left out",
            counted(report.left_out, "entry that", "entries that")
        ));
    }
    Ok(Outcome::Done)
}
