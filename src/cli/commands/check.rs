//! `check`.

use crate::cli::Outcome;
use crate::cli::args::CheckArgs;
use crate::cli::context::Context;
use crate::cli::output::{count, counted, size};
use crate::cli::report::Failure;
use crate::config::parse_size;
use crate::ops::check::{CheckReport, ReadData, check};

fn read_data(args: &CheckArgs) -> Result<ReadData, Failure> {
    let Some(text) = &args.read_data_subset else {
        return Ok(if args.read_data { ReadData::All } else { ReadData::No });
    };
    let bad = || Failure::usage(format!("`{text}` is no subset"), "Write it as `3/7`, `5%` or `10G`.");
    if let Some((part, of)) = text.split_once('/') {
        let (part, of) = (part.parse().map_err(|_| bad())?, of.parse().map_err(|_| bad())?);
        return if (1..=of).contains(&part) { Ok(ReadData::Part { part, of }) } else { Err(bad()) };
    }
    if let Some(percent) = text.strip_suffix('%') {
        let percent: f64 = percent.parse().map_err(|_| bad())?;
        return if (0.0..=100.0).contains(&percent) { Ok(ReadData::Percent(percent)) } else { Err(bad()) };
    }
    parse_size(text).map(ReadData::Bytes).map_err(|_| bad())
}

/// Runs it.
pub fn run(context: &Context, args: &CheckArgs) -> Result<Outcome, Failure> {
    let read = read_data(args)?;
    let progress = context.progress(true);
    let (mut repository, problems) = context.open(&*progress)?;
    let chance = getrandom::u64().unwrap_or(0);
    let report = check(&mut repository, read, &problems, context.now(), chance, &*progress);
    progress.clear();
    let report = report?;
    tell(context, &report, repository.can_read(), read)?;
    Ok(if report.is_clean() { Outcome::Done } else { Outcome::Damage })
}

fn tell(context: &Context, report: &CheckReport, can_read: bool, read: ReadData) -> Result<(), Failure> {
    let ui = context.ui;
    if ui.json {
        return ui.json(&serde_json::json!({"message_type": "summary", "clean": report.is_clean(), "report": report}));
    }
    let snapshots = counted(report.snapshots, "snapshot", "snapshots");
    ui.answer(format!("packs      {} of {snapshots}", count(report.packs)))?;
    if report.logs_closed > 0 {
        let logs = counted(report.logs_closed, "log", "logs");
        ui.answer(format!("not seen   {logs} of other hosts, which only an identity opens"))?;
    }
    if report.packs_read > 0 {
        let opened = match can_read {
            true => format!("{} opened", counted(report.frames_opened, "frame", "frames")),
            false => "sums compared, nothing opened (no identity)".to_owned(),
        };
        ui.answer(format!(
            "read       {}, {}; {opened}",
            counted(report.packs_read, "pack", "packs"),
            size(report.bytes_read)
        ))?;
    } else if read == ReadData::No {
        ui.story("Stored bytes were not read; `--read-data` reads them.");
    }
    if !can_read {
        ui.story("Manifests were not read (no identity).");
    } else {
        ui.answer(format!("manifests  {} read", count(report.manifests_read)))?;
    }
    if report.unnamed > 0 {
        ui.answer(format!(
            "unnamed    {} of a run that did not end; the next backup uses them",
            counted(report.unnamed, "pack", "packs")
        ))?;
    }
    if !report.unfinished.is_empty() {
        let files = counted(report.unfinished.len() as u64, "file", "files");
        ui.answer(format!(
            "unfinished {files} of writes that did not end; no harm, to be removed while nothing runs:"
        ))?;
        for path in &report.unfinished {
            ui.answer(format!("           {}", path.display()))?;
        }
    }
    for problem in &report.problems {
        ui.answer(format!("PROBLEM    {problem}"))?;
    }
    for damage in &report.damage {
        ui.answer(format!("DAMAGE     {}: {}", damage.object, damage.why))?;
        for snapshot in &damage.snapshots {
            ui.answer(format!("           hurts snapshot {snapshot}"))?;
        }
    }
    for (snapshot, path, why) in &report.files_hurt {
        ui.answer(format!("HURT       {} `{path}`: {why}", snapshot.short()))?;
    }
    if report.is_clean() {
        ui.answer("result     all in order")
    } else {
        ui.answer("result     DAMAGED")?;
        ui.story("The next backup stores anew what the sources still have.");
        Ok(())
    }
}
