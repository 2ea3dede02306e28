//! `compare` and `undelete`: a deployment beside what is stored of one, and single documents back into it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use super::restore_convex::{heard, open, plainly, show_verified};
use crate::cli::Outcome;
use crate::cli::args::{CompareArgs, UndeleteArgs};
use crate::cli::context::Context;
use crate::cli::output::{counted, duration};
use crate::cli::report::Failure;
use crate::cli::time::read_time;
use crate::model::documents::time_of;
use crate::ops::documents::gather;
use crate::ops::restore::convex::{From, Returning, Wanting, Wishes, bring_back, plan, prepare_back, verify};
use crate::plan::restore::show;

fn work_dir(given: Option<&PathBuf>) -> PathBuf {
    given.cloned().unwrap_or_else(std::env::temp_dir)
}

/// `compare`.
pub fn compare(context: &Context, args: &CompareArgs) -> Result<Outcome, Failure> {
    let progress = context.progress(true);
    let (wanted, _) = context.wanted(&args.which)?;
    let (repository, _) = context.open(&*progress)?;
    let documents = gather(&repository, &args.source)?;
    let from = From::find(&repository, documents.as_ref(), &args.source, &wanted, false)?;
    let wishes = Wishes { tables: args.table.clone(), components: args.component.clone(), no_files: args.no_files };
    let stop = Arc::new(AtomicBool::new(false));
    let deployment = open(context, args.admin_key_file.as_deref(), &args.with, Arc::clone(&stop))?;
    let mut restore = plan(&repository, from, &wishes, &*progress)?;
    let work_dir = work_dir(args.work_dir.as_ref());
    restore.fold(&repository, documents.as_ref(), &work_dir, &*progress)?;
    context.ui.story(format!(
        "comparing {} as of {} with {}",
        restore.plan.source,
        show(restore.plan.shows),
        deployment.place()
    ));
    let found = heard(&stop, &*progress, || verify(&repository, &restore, &deployment, Some(&work_dir), &*progress));
    progress.clear();
    show_verified(context, &found?)
}

/// `undelete`.
pub fn undelete(context: &Context, args: &UndeleteArgs) -> Result<Outcome, Failure> {
    let progress = context.progress(true);
    // Of one now: the time that was looked at is the one that is meant.
    let now = context.now();
    let time = |text: &String| Ok::<_, Failure>(time_of(read_time(text, now)?.moment));
    // A time that is none is told before anything is read.
    let given = args.changed_between.iter().chain(args.to.as_ref()).filter(|text| text.trim() != "latest");
    given.map(time).collect::<Result<Vec<_>, _>>()?;
    let (repository, _) = context.open(&*progress)?;
    let none = || super::documents::no_stream(&args.source);
    let documents = gather(&repository, &args.source)?.ok_or_else(none)?;
    let end = |text: &String| match text.trim() {
        "latest" => documents.newest().ok_or_else(none),
        _ => time(text),
    };
    let wanting = match args.changed_between.as_slice() {
        [from, to] => Wanting::Between { from: time(from)?, to: end(to)?, tables: args.table.clone() },
        _ => Wanting::Ids { ids: args.id.clone(), at: args.to.as_ref().map(end).transpose()? },
    };
    let stop = Arc::new(AtomicBool::new(false));
    let deployment = open(context, args.admin_key_file.as_deref(), &args.into, Arc::clone(&stop))?;
    let work_dir = work_dir(args.work_dir.as_ref());
    let started = Instant::now();
    heard(&stop, &*progress, || {
        let prepared = prepare_back(&repository, &documents, &wanting, args.as_new, &deployment, &work_dir, &*progress);
        progress.clear();
        let Some(returning) = prepared? else {
            context.ui.answer("nothing to bring back: no document differs")?;
            return Ok(Outcome::Done);
        };
        tell(context, &returning)?;
        if args.dry_run {
            let _ = deployment.cancel_import(&returning.sent.import);
            context.ui.story("Nothing was changed (--dry-run): the import is cancelled.");
            return Ok(Outcome::Done);
        }
        let done = bring_back(&deployment, &returning, &*progress);
        progress.clear();
        let done = done?;
        if context.ui.json {
            context.ui.json(&serde_json::json!({"message_type": "imported", "imported": done}))?;
            return Ok(Outcome::Done);
        }
        let documents = counted(returning.tables.values().sum(), "document", "documents");
        let how = if args.as_new { "as new ones, with new ids" } else { "with their ids, visible in one step" };
        let time = duration(started.elapsed().as_secs_f64());
        context.ui.answer(format!("restored  {documents} {how}, in {time}"))?;
        Ok(Outcome::Done)
    })
}

fn tell(context: &Context, returning: &Returning) -> Result<(), Failure> {
    let ui = context.ui;
    if ui.json {
        return ui.json(&serde_json::json!({"message_type": "plan", "plan": returning}));
    }
    for (table, documents) in &returning.tables {
        ui.answer(format!("back      {}: {}", plainly(table), counted(*documents, "document", "documents")))?;
    }
    for line in returning.sent.message.lines() {
        ui.story(format!("  {}", plainly(line)));
    }
    Ok(())
}
