//! `key keeper` and `prune --keeper`: one host frees what others stored.

use crate::cli::Outcome;
use crate::cli::args::PruneArgs;
use crate::cli::context::Context;
use crate::cli::output::counted;
use crate::cli::report::Failure;
use crate::model::Span;

/// `key keeper`. With no hold it ends.
pub fn set(context: &Context, keeper: &str, of: &[String], all: bool, hold: Option<Span>) -> Result<Outcome, Failure> {
    let ui = context.ui;
    let progress = context.progress(true);
    let (mut repository, problems) = context.open(&*progress)?;
    super::writers::check_writer(&repository, keeper)?;
    of.iter().try_for_each(|writer| super::writers::check_writer(&repository, writer))?;
    let mut writers: Vec<String> = of.to_vec();
    if all {
        for name in repository.writer_names()?.into_values().filter(|name| name != keeper) {
            if repository.standing(&name)?.current().is_some() {
                writers.push(name);
            }
        }
        writers.sort();
    }
    let seconds = hold.as_ref().map(|hold| u64::try_from(hold.delta().num_seconds()).unwrap_or_default());
    let mut done = Vec::new();
    for writer in &writers {
        let set = repository.set_keeper(writer, keeper, seconds, context.now(), &*progress)?;
        if !ui.json {
            ui.answer(match &hold {
                Some(hold) => format!(
                    "keeper    {keeper} of {writer}, hold {hold}; {} handed over",
                    counted(set.handed_over, "object", "objects")
                ),
                None => format!("ended     {keeper} keeps {writer} no longer"),
            })?;
        }
        done.push(serde_json::json!({"writer": writer, "ruled": set.ruled, "handed_over": set.handed_over}));
    }
    if ui.json {
        ui.json(&serde_json::json!({"keeper": keeper, "hold_seconds": seconds, "writers": done}))?;
    } else if writers.is_empty() {
        ui.answer("keeper    of nobody: there is no other writer")?;
    } else if hold.is_some() {
        ui.story("On the keeper, in cron: `lifeboat prune --keeper`. Hosts that it keeps need no right to delete, and need not prune.");
    }
    Ok(if problems.is_empty() { Outcome::Done } else { Outcome::Damage })
}

/// `prune --keeper`.
pub fn prune(context: &Context, args: &PruneArgs) -> Result<Outcome, Failure> {
    let progress = context.progress(true);
    let (mut own, _) = context.open(&*progress)?;
    let kept = own.kept_writers()?;
    drop(own);
    let writers = if args.of.is_empty() { kept } else { args.of.clone() };
    if writers.is_empty() {
        let hint = "Where an identity is: `lifeboat key keeper KEEPER --all`; `lifeboat key list` shows this host's name as a writer.";
        return Err(Failure::usage("this host keeps no other writer", hint));
    }
    let mut worst = Outcome::Done;
    for writer in &writers {
        let (mut repository, problems) = context.open_as_keeper(writer, &*progress)?;
        if !context.ui.json {
            context.ui.answer(format!("keeps     {writer}"))?;
        }
        let outcome = super::prune::free(context, &mut repository, &problems, &args.how, args.dry_run, &*progress)?;
        worst = worse(worst, outcome);
    }
    Ok(worst)
}

/// Damage of one writer is not hidden by what another one lacks.
fn worse(one: Outcome, other: Outcome) -> Outcome {
    match (one, other) {
        (Outcome::Damage, _) | (_, Outcome::Damage) => Outcome::Damage,
        (Outcome::Done, other) => other,
        (one, _) => one,
    }
}
