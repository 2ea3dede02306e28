//! `key keeper` and `prune --keeper`: one host frees what others stored.

use crate::cli::Outcome;
use crate::cli::args::PruneArgs;
use crate::cli::context::Context;
use crate::cli::output::counted;
use crate::cli::report::Failure;
use crate::model::Span;
use crate::repository::Repository;

/// What `key keeper` was given.
pub struct Given<'a> {
    pub keeper: &'a str,
    pub of: &'a [String],
    pub all: bool,
    pub hold: Option<Span>,
}

impl Given<'_> {
    /// The writers that are meant.
    fn writers(&self, repository: &mut Repository) -> Result<Vec<String>, Failure> {
        super::writers::check_writer(repository, self.keeper)?;
        self.of.iter().try_for_each(|writer| super::writers::check_writer(repository, writer))?;
        let mut writers: Vec<String> = self.of.to_vec();
        if self.all {
            for name in repository.writer_names()?.into_values().filter(|name| name != self.keeper) {
                if repository.standing(&name)?.current().is_some() {
                    writers.push(name);
                }
            }
            writers.sort();
        }
        Ok(writers)
    }
}

/// `key keeper`.
pub fn set(context: &Context, given: &Given<'_>) -> Result<Outcome, Failure> {
    let (ui, keeper) = (context.ui, given.keeper);
    let progress = context.progress(true);
    let (mut repository, problems) = context.open(&*progress)?;
    let writers = given.writers(&mut repository)?;
    let seconds = given.hold.as_ref().map(|hold| u64::try_from(hold.delta().num_seconds()).unwrap_or_default());
    let mut done = Vec::new();
    for writer in &writers {
        let set = repository.set_keeper(writer, keeper, seconds, context.now(), &*progress)?;
        if !ui.json {
            let (hold, what) = (hours(set.hold), counted(set.handed_over, "object", "objects"));
            ui.answer(format!("keeper    {keeper} of {writer}, hold {hold}; {what} handed over"))?;
        }
        done.push(serde_json::json!({
            "writer": writer, "ruled": set.ruled, "hold_seconds": set.hold, "handed_over": set.handed_over
        }));
    }
    if ui.json {
        ui.json(&serde_json::json!({"keeper": keeper, "writers": done}))?;
    } else if writers.is_empty() {
        ui.answer("keeper    of nobody: there is no other writer")?;
    } else {
        ui.story("On the keeper, in cron: `lifeboat prune --keeper`. Hosts that it keeps need no right to delete, and need not prune.");
    }
    Ok(if problems.is_empty() { Outcome::Done } else { Outcome::Damage })
}

/// `key keeper --end`.
pub fn end(context: &Context, given: &Given<'_>) -> Result<Outcome, Failure> {
    let (ui, keeper) = (context.ui, given.keeper);
    let progress = context.progress(true);
    let (mut repository, problems) = context.open(&*progress)?;
    let mut done = Vec::new();
    for writer in given.writers(&mut repository)? {
        let ended = repository.end_keeper(&writer, keeper, context.now())?;
        if !ui.json {
            ui.answer(match ended {
                true => format!("ended     {keeper} keeps {writer} no longer"),
                false => format!("nothing   {keeper} does not keep {writer}"),
            })?;
        }
        done.push(serde_json::json!({"writer": writer, "ended": ended}));
    }
    if ui.json {
        ui.json(&serde_json::json!({"keeper": keeper, "writers": done}))?;
    }
    Ok(if problems.is_empty() { Outcome::Done } else { Outcome::Damage })
}

/// As whole days where they are.
pub(super) fn hours(seconds: u64) -> String {
    match seconds {
        1.. if seconds.is_multiple_of(86_400) => format!("{}d", seconds / 86_400),
        _ => format!("{}h", seconds.div_ceil(3600)),
    }
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
