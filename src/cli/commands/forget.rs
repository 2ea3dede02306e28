//! `forget`, `pin` and `unpin`: the plan is shown with its reasons, then done.

use crate::cli::Outcome;
use crate::cli::args::{ForgetArgs, HowArgs, PinArgs};
use crate::cli::context::Context;
use crate::cli::output::counted;
use crate::cli::report::Failure;
use crate::model::Span;
use crate::ops::forget::{self, Forgotten, SourcePlan, Wish, words, words_gone};
use crate::plan::restore::show;
use crate::plan::retention::{State, Verdict};
use crate::repository::Repository;

/// The longest simulation, in nights.
const NIGHTS: i64 = 3_660;

/// Runs `forget`.
pub fn run(context: &Context, args: &ForgetArgs) -> Result<Outcome, Failure> {
    let progress = context.progress(false);
    if args.sources.is_empty() && args.snapshot.is_empty() && !args.all {
        return Err(Failure::usage("no source was given", "Name some, or all of them with `--all`."));
    }
    if !args.snapshot.is_empty() && !args.policy.policy().is_silent() {
        let hint = "Leave the flags out, or leave `--snapshot` out.";
        return Err(Failure::usage("a snapshot that is named goes whatever a policy says", hint));
    }
    let nights = args.simulate.as_ref().map(nights).transpose()?;
    let (mut repository, problems) = context.open(&*progress)?;
    let plans = if args.snapshot.is_empty() {
        let wishes = wishes(context, args, &mut repository)?;
        forget::plan(&mut repository, &wishes, &problems)?
    } else {
        forget::plan_named(&mut repository, &args.snapshot, &problems)?
    };
    if let Some(nights) = nights {
        return simulated(context, &plans, nights).map(|()| Outcome::Done);
    }
    if !context.ui.json {
        plans.iter().try_for_each(|plan| tell(context, plan, &plan.verdicts))?;
    }
    let done = match args.dry_run {
        true => None,
        false => Some(forget::forget(&mut repository, &plans, context.now(), &*progress)?),
    };
    for problem in done.iter().flat_map(|done| &done.problems) {
        context.ui.warning(problem);
    }
    conclude(context, &plans, done.as_ref())?;
    if !args.prune {
        return Ok(Outcome::Done);
    }
    let mut problems = problems;
    problems.extend(done.into_iter().flat_map(|done| done.problems));
    super::prune::free(context, &mut repository, &problems, &HowArgs::default(), args.dry_run, &*progress)
}

fn nights(span: &Span) -> Result<u32, Failure> {
    let days = span.days();
    if (1..=NIGHTS).contains(&days) {
        return Ok(u32::try_from(days).unwrap_or(1));
    }
    Err(Failure::usage(
        format!("`--simulate {span}` is no number of nights between 1 and {NIGHTS}"),
        "As `--simulate 90d`.",
    ))
}

/// Each source with its policy: the configuration's, with the flags over it.
fn wishes(context: &Context, args: &ForgetArgs, repository: &mut Repository) -> Result<Vec<Wish>, Failure> {
    let sources = if args.all { forget::own_sources(repository)? } else { args.sources.clone() };
    let flags = args.policy.policy();
    let mut wishes: Vec<Wish> = Vec::new();
    for source in sources {
        let short = source.rsplit('/').next().unwrap_or(&source);
        let policy = flags.clone().over(context.config.retention_of(short).unwrap_or_default());
        if !wishes.iter().any(|wish| wish.source == source) {
            wishes.push(Wish { source, policy: (!policy.is_silent()).then_some(policy) });
        }
    }
    Ok(wishes)
}

/// The lines of a source: what stays, what goes, and why.
fn tell(context: &Context, plan: &SourcePlan, verdicts: &[Verdict]) -> Result<(), Failure> {
    let ui = context.ui;
    match &plan.policy {
        Some(policy) => ui.answer(format!("source    {}: {policy}; by {}", plan.full_name, plan.zone))?,
        None => ui.answer(format!("source    {}", plan.full_name))?,
    }
    for verdict in verdicts {
        let fact = &verdict.fact;
        let at = fact.received.map_or_else(|| "not known".to_owned(), show);
        let state = match fact.state {
            State::Complete => "",
            State::Incomplete => "INCOMPLETE; ",
            State::Pending => "PENDING; ",
        };
        match &verdict.goes {
            None => {
                let reasons: Vec<String> = verdict.stays.iter().map(words).collect();
                ui.answer(format!("stays     {}  {at:20}  {state}{}", fact.id, reasons.join("; ")))?;
            }
            Some(gone) => ui.answer(format!("goes      {}  {at:20}  {state}{}", fact.id, words_gone(gone)))?,
        }
    }
    Ok(())
}

fn json_of(plan: &SourcePlan, verdicts: &[Verdict]) -> serde_json::Value {
    let snapshots: Vec<_> = verdicts
        .iter()
        .map(|verdict| {
            let fact = &verdict.fact;
            serde_json::json!({
                "id": fact.id, "received": fact.received, "ended": fact.ended, "state": fact.state, "tags": fact.tags,
                "pinned": fact.pinned, "stays": verdict.goes.is_none(), "reasons": verdict.stays, "goes": verdict.goes,
            })
        })
        .collect();
    serde_json::json!({
        "source": plan.full_name, "policy": plan.policy, "timezone": plan.zone.to_string(), "as_of": plan.facts.as_of,
        "window_since": plan.window, "snapshots": snapshots,
    })
}

fn counts(verdicts: &[Verdict]) -> (u64, u64) {
    let going = verdicts.iter().filter(|verdict| verdict.goes.is_some()).count() as u64;
    (verdicts.len() as u64 - going, going)
}

fn conclude(context: &Context, plans: &[SourcePlan], done: Option<&Forgotten>) -> Result<(), Failure> {
    let (mut stay, mut go) = (0, 0);
    for plan in plans {
        let (of_stay, of_go) = counts(&plan.verdicts);
        (stay, go) = (stay + of_stay, go + of_go);
    }
    let spared = done.map_or(0, |done| done.spared.len() as u64);
    if context.ui.json {
        let sources: Vec<_> = plans.iter().map(|plan| json_of(plan, &plan.verdicts)).collect();
        return context.ui.json(&serde_json::json!({
            "message_type": "forget", "dry_run": done.is_none(), "sources": sources, "stay": stay + spared,
            "forgotten": done.map(|done| &done.snapshots), "spared": done.map(|done| &done.spared),
        }));
    }
    if spared > 0 {
        context.ui.warning(format!(
            "{} stay: something changed since the plan was made",
            counted(spared, "snapshot", "snapshots")
        ));
    }
    let (stay, go) = (counted(stay + spared, "stays", "stay"), counted(go - spared, "goes", "go"));
    context.ui.answer(match done {
        None => format!("result    {stay}, {go}; nothing was changed (dry run)"),
        Some(done) if done.snapshots.is_empty() => format!("result    {stay}, {go}; nothing was to be done"),
        Some(_) => format!("result    {stay}, {go}: forgotten; `lifeboat prune` frees their space"),
    })
}

/// What would be there: the snapshots that are there now by their ids, those to come by their nights.
fn simulated(context: &Context, plans: &[SourcePlan], nights: u32) -> Result<(), Failure> {
    let after = |plan: &SourcePlan| -> Vec<Verdict> {
        plan.after(nights).into_iter().filter(|verdict| verdict.goes.is_none()).collect()
    };
    if context.ui.json {
        let sources: Vec<_> = plans.iter().map(|plan| json_of(plan, &after(plan))).collect();
        return context.ui.json(&serde_json::json!({
            "message_type": "simulation", "nights": nights, "sources": sources,
        }));
    }
    for plan in plans {
        let left = after(plan);
        let (stay, _) = counts(&left);
        tell(context, plan, &left)?;
        let nights = counted(u64::from(nights), "night", "nights");
        context.ui.answer(format!(
            "result    {} after {nights} with one backup each; nothing was changed",
            counted(stay, "snapshot", "snapshots")
        ))?;
    }
    Ok(())
}

/// Runs `pin`, or `unpin`.
pub fn pin(context: &Context, args: &PinArgs, pinned: bool) -> Result<Outcome, Failure> {
    let progress = context.progress(false);
    let (mut repository, _) = context.open(&*progress)?;
    let (fresh, already) = forget::pin(&mut repository, &args.snapshots, pinned, context.now(), &*progress)?;
    let word = if pinned { "pinned" } else { "unpinned" };
    if context.ui.json {
        let ids = |rows: &[crate::catalog::SnapshotRow]| rows.iter().map(|row| row.record.id).collect::<Vec<_>>();
        context
            .ui
            .json(&serde_json::json!({"message_type": word, "snapshots": ids(&fresh), "already": ids(&already)}))?;
        return Ok(Outcome::Done);
    }
    for (row, already) in
        fresh.iter().map(|row| (row, "")).chain(already.iter().map(|row| (row, "; it was so already")))
    {
        let (id, name, ended) = (row.record.id, row.full_name(), show(row.record.ended));
        context.ui.answer(format!("{word:9} {id}  {ended}  {name}{already}"))?;
    }
    Ok(Outcome::Done)
}

/// Runs `accept`.
pub fn accept(context: &Context, args: &PinArgs) -> Result<Outcome, Failure> {
    let progress = context.progress(false);
    let (mut repository, _) = context.open(&*progress)?;
    let held = forget::accept(&mut repository, &args.snapshots, context.now(), &*progress)?;
    if context.ui.json {
        let ids = held.iter().map(|row| row.record.id).collect::<Vec<_>>();
        return context
            .ui
            .json(&serde_json::json!({"message_type": "accepted", "snapshots": ids}))
            .map(|()| Outcome::Done);
    }
    for row in &held {
        let (id, name, ended) = (row.record.id, row.full_name(), show(row.record.ended));
        context
            .ui
            .answer(format!("accepted  {id}  {ended}  {name}: {}", forget::abnormal_words(&row.record.abnormal)))?;
    }
    if held.is_empty() {
        context.ui.answer("none of them was held")?;
    }
    Ok(Outcome::Done)
}
