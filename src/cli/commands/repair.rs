//! `repair`.

use std::collections::BTreeSet;

use crate::cli::Outcome;
use crate::cli::args::RepairArgs;
use crate::cli::context::Context;
use crate::cli::output::{count, counted};
use crate::cli::report::Failure;
use crate::model::SnapshotId;
use crate::ops::check::ReadData;
use crate::ops::repair::{RepairReport, repair};

/// Files that are named at most.
const FILES_SHOWN: usize = 20;

/// Files that a check counts at most.
const FILES_COUNTED: usize = 1000;

/// Runs it.
pub fn run(context: &Context, args: &RepairArgs) -> Result<Outcome, Failure> {
    let progress = context.progress(true);
    let (mut repository, _) = context.open(&*progress)?;
    let read = if args.read_data { ReadData::All } else { ReadData::No };
    let report = repair(&mut repository, read, args.dry_run, context.now(), &*progress);
    progress.clear();
    let report = report?;
    tell(context, args, &report)?;
    Ok(if report.after.is_clean() { Outcome::Done } else { Outcome::Damage })
}

fn tell(context: &Context, args: &RepairArgs, report: &RepairReport) -> Result<(), Failure> {
    let ui = context.ui;
    if ui.json {
        return ui.json(&serde_json::json!({
            "message_type": "summary", "dry_run": args.dry_run, "whole": report.after.is_clean(), "report": report,
        }));
    }
    let done = |done: &'static str, would: &'static str| if args.dry_run { would } else { done };
    if report.catalog_wrong {
        let what = done("was read anew", "would be read anew");
        ui.answer(format!("catalog    it said something else than the logs; it {what}"))?;
    }
    for (sequence, digest) in &report.commits_lost {
        let what = done("said so in the log", "would be said so in the log");
        ui.answer(format!("lost       commit {sequence} ({}); {what}", digest.short()))?;
    }
    if !report.packs_adopted.is_empty() {
        let packs = counted(report.packs_adopted.len() as u64, "pack", "packs");
        let what = done("a commit names them again", "a commit would name them again");
        ui.answer(format!("adopted    {packs} that no commit named; {what}"))?;
    }
    for snapshot in &report.snapshots_back {
        ui.answer(format!("back       snapshot {snapshot}"))?;
    }
    if report.frames_copied > 0 {
        let frames = counted(report.frames_copied, "frame", "frames");
        ui.answer(format!("copied     {frames} out of damaged packs"))?;
    }
    if report.frames_remade > 0 {
        let frames = counted(report.frames_remade, "frame", "frames");
        ui.answer(format!("remade     {frames} from chunks that are stored elsewhere"))?;
    }
    if report.frames_lost > 0 {
        ui.answer(format!("lost       {}", counted(report.frames_lost, "frame", "frames")))?;
        ui.story(match report.could_read {
            true => {
                "Run `lifeboat backup`, then this again: what the sources still have comes back into old snapshots too."
            }
            false => "Without an identity little can be made anew: give one with `--identity FILE`.",
        });
    }
    for problem in &report.after.problems {
        ui.answer(format!("PROBLEM    {problem}"))?;
    }
    for damage in &report.after.damage {
        let hurts = counted(damage.snapshots.len() as u64, "snapshot", "snapshots");
        ui.answer(format!("DAMAGE     {}: {}; hurts {hurts}", damage.object, damage.why))?;
    }
    for (snapshot, path, why) in report.after.files_hurt.iter().take(FILES_SHOWN) {
        ui.answer(format!("HURT       {} `{path}`: {why}", snapshot.short()))?;
    }
    if report.after.files_hurt.len() > FILES_SHOWN {
        ui.answer("           and more: `lifeboat check --read-data` names them all")?;
    }
    match (report.after.is_clean(), args.dry_run) {
        (true, _) if args.read_data && report.could_read => {
            ui.answer(format!("result     whole: {}", all_of(report.after.snapshots)))
        }
        (true, _) => {
            ui.answer("result     whole by logs, names and lengths; `lifeboat check --read-data` reads the bytes")
        }
        (false, true) => ui.answer("result     not whole; nothing was changed (dry run)"),
        (false, false) => ui.answer(format!("result     not whole: {}", what_stays(report))),
    }
}

fn all_of(snapshots: u64) -> String {
    match snapshots {
        0 => "there is no snapshot".to_owned(),
        1 => "the one snapshot is there".to_owned(),
        many => format!("all {} snapshots are there", count(many)),
    }
}

/// What is lost, and what is not.
fn what_stays(report: &RepairReport) -> String {
    let after = &report.after;
    let hurt: BTreeSet<SnapshotId> = after
        .damage
        .iter()
        .flat_map(|damage| damage.snapshots.iter().copied())
        .chain(after.files_hurt.iter().map(|(snapshot, ..)| *snapshot))
        .collect();
    let whole = after.snapshots.saturating_sub(hurt.len() as u64);
    let whole = format!("nothing is known to be wrong with {} of {} snapshots", count(whole), count(after.snapshots));
    match (report.could_read, after.files_hurt.len()) {
        (true, FILES_COUNTED..) => format!("{whole}; of the others at least {FILES_COUNTED} files are hurt"),
        (true, files) => format!("{whole}; of the others {} hurt", counted(files as u64, "file is", "files are")),
        (false, _) => format!("{whole}; which files of the others are hurt only an identity can tell"),
    }
}
