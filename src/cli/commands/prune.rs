//! `prune`: the plan, then what was freed now, what is retired and when it may go.

use std::time::Instant;

use crate::cli::Outcome;
use crate::cli::args::{HowArgs, PruneArgs};
use crate::cli::context::Context;
use crate::cli::output::{counted, size};
use crate::cli::report::Failure;
use crate::cli::time::parse_duration;
use crate::config::{parse_percent, parse_size};
use crate::model::Moment;
use crate::ops::prune::{PruneOptions, PrunePlan, PruneReport, plan, plan_as_keeper, prune};
use crate::plan::prune::{Limits, due};
use crate::plan::restore::show;
use crate::progress::Progress;
use crate::repository::{Problem, Repository};

/// Unused bytes that may stay, in percent of those that are needed.
const MAX_UNUSED: f64 = 3.0;
/// Seconds that what is retired waits: longer than most backups take, and a night later it is gone.
pub const GRACE: i64 = 24 * 3_600;

/// Runs it.
pub fn run(context: &Context, args: &PruneArgs) -> Result<Outcome, Failure> {
    if args.keeper {
        return super::keeper::prune(context, args);
    }
    let progress = context.progress(true);
    let (mut repository, problems) = context.open(&*progress)?;
    free(context, &mut repository, &problems, &args.how, args.dry_run, &*progress)
}

/// Plans and frees in a repository that is open.
pub fn free(
    context: &Context,
    repository: &mut Repository,
    problems: &[Problem],
    how: &HowArgs,
    dry_run: bool,
    progress: &dyn Progress,
) -> Result<Outcome, Failure> {
    let options = options(context, how)?;
    let is_kept = repository.is_keeper();
    let writer = repository.host()?.name.clone();
    let policy = |source: &str| match is_kept {
        true => context.config.prune.window_of(&writer, source),
        false => context.config.retention_of(source),
    };
    if is_kept {
        repository.check_keeper()?;
    }
    let plan = match is_kept && !dry_run {
        true => plan_as_keeper(repository, &options, &policy, problems, (context.now(), progress))?,
        false => plan(repository, &options, &policy, problems)?,
    };
    if !context.ui.json {
        tell_plan(context, &plan, dry_run)?;
    }
    let report = match dry_run {
        true => None,
        false => Some(prune(repository, plan.clone(), &options, &policy, &|| context.now(), progress)?),
    };
    tell(context, &plan, report.as_ref())?;
    let report = report.unwrap_or_default();
    for problem in &report.problems {
        context.ui.warning(problem);
    }
    Ok(match () {
        () if !plan.packs.unknown.is_empty() || plan.packs.lost > 0 || !report.damaged.is_empty() => Outcome::Damage,
        () if report.deferred > 0 => Outcome::Incomplete,
        () => Outcome::Done,
    })
}

fn options(context: &Context, how: &HowArgs) -> Result<PruneOptions, Failure> {
    let section = &context.config.prune;
    let bad = |hint: &'static str| move |e: String| Failure::usage(e, hint);
    let unused = how.max_unused.as_ref().or(section.max_unused.as_ref()).map(|text| parse_percent(text)).transpose();
    let repack = how.max_repack_size.as_ref().or(section.max_repack_size.as_ref()).map(|text| parse_size(text));
    let limit = how.time_limit.as_deref().map(parse_duration).transpose();
    let limit = limit.map_err(|e| Failure::usage(e, "As in `--time-limit 1h`."))?;
    let grace = how.grace.as_ref().or(section.grace.as_ref()).map_or(GRACE, |grace| grace.delta().num_seconds());
    Ok(PruneOptions {
        limits: Limits {
            max_unused: unused.map_err(bad("As in `--max-unused 5%`."))?.unwrap_or(MAX_UNUSED),
            max_repack: repack.transpose().map_err(bad("As in `--max-repack-size 10G`."))?,
            grace: u64::try_from(grace).unwrap_or_default(),
        },
        until: limit.and_then(|limit| Instant::now().checked_add(limit.to_std().unwrap_or_default())),
    })
}

fn tell_plan(context: &Context, plan: &PrunePlan, dry_run: bool) -> Result<(), Failure> {
    let (ui, packs) = (context.ui, &plan.packs);
    let would = if dry_run { "would be " } else { "" };
    let whose = plan.writer.as_ref().map_or_else(|| "this host".to_owned(), |writer| format!("`{writer}`"));
    ui.answer(format!("stored    {} in packs of {whose}, {} of it needed", size(packs.before), size(packs.needed)))?;
    if let Some(first) = plan.held.iter().find(|held| held.forgets > 0) {
        let forgets: u64 = plan.held.iter().map(|held| held.forgets).sum();
        let until =
            due(first.received, plan.hold).map_or_else(|| "for ever".to_owned(), |due| format!("until {}", show(due)));
        let what = counted(forgets, "snapshot that it forgot is", "snapshots that it forgot are");
        ui.answer(format!("held      {what} kept, the first {until}"))?;
    }
    for why in &packs.unknown {
        ui.answer(format!("UNKNOWN   {why}; nothing is retired or deleted"))?;
    }
    if packs.lost > 0 {
        let frames = counted(packs.lost, "frame", "frames");
        ui.answer(format!(
            "LOST      {frames} that snapshots need are nowhere any more; `lifeboat check` names the snapshots"
        ))?;
    }
    let of = |count: usize, bytes: u64| format!("{}, {}", counted(count as u64, "pack", "packs"), size(bytes));
    let sum = |packs: &[crate::plan::prune::Pack]| packs.iter().map(|pack| pack.size).sum::<u64>();
    if !packs.retire.is_empty() {
        ui.answer(format!("unneeded  {}: {would}retired", of(packs.retire.len(), sum(&packs.retire))))?;
    }
    if !packs.repack.is_empty() {
        let what = of(packs.repack.len(), sum(&packs.repack));
        ui.answer(format!("partly    {what}: {} of it {would}copied, the packs {would}retired", size(packs.copied)))?;
    }
    if !packs.delete.is_empty() {
        ui.answer(format!("due       {}: {would}deleted", of(packs.delete.len(), sum(&packs.delete))))?;
    }
    if !packs.spare.is_empty() {
        ui.answer(format!("spared    {}: retired, and needed after all", of(packs.spare.len(), sum(&packs.spare))))?;
    }
    if !packs.young.is_empty() {
        let what = of(packs.young.len(), sum(&packs.young));
        ui.answer(format!("young     {what}: no snapshot uses them yet; a run may be about to"))?;
    }
    for stream in &plan.streams {
        let bytes = |all: &[(crate::model::SegmentKey, u64)]| size(all.iter().map(|(_, bytes)| bytes).sum());
        let since =
            stream.since.map_or("nothing of it is needed".to_owned(), |since| format!("needed since {}", show(since)));
        ui.answer(format!(
            "log       {}, stream {}: {since}; {} ({}) {would}retired, {} ({}) {would}deleted, {} stay",
            stream.source,
            stream.stream,
            counted(stream.retire.len() as u64, "segment", "segments"),
            bytes(&stream.retire),
            stream.delete.len(),
            bytes(&stream.delete),
            stream.stay,
        ))?;
    }
    Ok(())
}

fn tell(context: &Context, plan: &PrunePlan, report: Option<&PruneReport>) -> Result<(), Failure> {
    let ui = context.ui;
    if ui.json {
        return ui.json(&serde_json::json!({
            "message_type": "prune", "dry_run": report.is_none(), "plan": plan, "after": plan.packs.after(), "report": report,
        }));
    }
    let left = |bytes: u64| size(bytes);
    let inside = match plan.dead_in_frames {
        0 => String::new(),
        bytes => format!(
            "; about {} more in frames that the newest snapshots use in part: the next backups rewrite them",
            size(bytes)
        ),
    };
    if plan.packs.unused_left > 0 || plan.dead_in_frames > 0 {
        ui.answer(format!("unused    {} stay in packs that are mostly needed{inside}", left(plan.packs.unused_left)))?;
    }
    let Some(report) = report else {
        let after = size(plan.packs.after());
        return ui.answer(format!("result    {after} when all of that is gone; nothing was changed (dry run)"));
    };
    for (pack, why) in &report.damaged {
        ui.answer(format!("DAMAGED   pack {pack} stays: {why}"))?;
    }
    if report.left > 0 {
        ui.answer(format!(
            "time      is up: {} left for the next prune",
            counted(report.left, "pack is", "packs are")
        ))?;
    }
    for (key, why) in &report.reasons {
        ui.answer(format!("put off   {key}: {why}"))?;
    }
    if report.deferred > report.reasons.len() as u64 {
        ui.answer(format!("put off   {} in all", counted(report.deferred, "object", "objects")))?;
    }
    if report.litter > 0 {
        let what = counted(report.litter, "object", "objects");
        ui.answer(format!("litter    {what} that no commit names, {}: deleted", size(report.litter_bytes)))?;
    }
    if report.waiting > 0 {
        let what = counted(report.waiting, "object waits", "objects wait");
        ui.answer(format!("retired   {what} until {}", until(report.first_due, report.last_due)))?;
    }
    let freed = size(report.freed + report.litter_bytes);
    match plan.is_idle() && report.freed + report.litter_bytes == 0 {
        true => ui.answer(format!("result    {} stored; nothing was to be done", size(report.after))),
        false => {
            let (before, after, retired) = (size(report.before), size(report.after), size(report.retired));
            ui.answer(format!("result    {before} before, {after} now: {freed} freed, {retired} retired"))
        }
    }
}

fn until(first: Option<Moment>, last: Option<Moment>) -> String {
    match first.zip(last) {
        None => "the store has said when it received the commit that retired them".to_owned(),
        Some((first, last)) if first == last => show(last),
        Some((first, last)) => format!("{} to {}", show(first), show(last)),
    }
}
