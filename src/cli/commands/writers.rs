//! `key revoke` and `key adopt`: whose commits count.

use crate::cli::Outcome;
use crate::cli::context::{Context, host_name};
use crate::cli::output::counted;
use crate::cli::report::Failure;
use crate::cli::time::read_time;
use crate::plan::restore::show;
use crate::repository::{Error, Repository};

/// `key revoke`.
pub fn revoke(context: &Context, writer: &str, since: Option<&str>, dry_run: bool) -> Result<Outcome, Failure> {
    let ui = context.ui;
    let since = since.map(|text| read_time(text, context.now())).transpose()?;
    let progress = context.progress(false);
    let (mut repository, _) = context.open(&*progress)?;
    check_writer(&repository, writer)?;
    let since = since.map(|since| {
        ui.story(format!("Nothing counts that the store received from {} on.", since.shown));
        since.moment
    });
    let ends = repository.ends_before(writer, since)?;
    let gone = repository.snapshots_beyond(writer, &ends)?;
    if !ui.json {
        for snapshot in &gone {
            let received = snapshot.received.map_or_else(|| "unknown".to_owned(), show);
            let (id, source) = (snapshot.record.id, &snapshot.record.source);
            let word = if dry_run { "WOULD GO" } else { "GOES    " };
            ui.answer(format!("{word}  {id}  {source}  received {received}"))?;
        }
    }
    let ids: Vec<_> = gone.iter().map(|snapshot| snapshot.record.id).collect();
    let snapshots = counted(gone.len() as u64, "snapshot", "snapshots");
    if dry_run {
        if ui.json {
            ui.json(&serde_json::json!({"writer": writer, "dry_run": true, "snapshots_gone": ids}))?;
        } else {
            ui.answer(format!(
                "result    {snapshots} would count no longer, and nothing that `{writer}` writes from now on"
            ))?;
        }
        return Ok(Outcome::Done);
    }
    let ends = repository.revoke_writer(writer, since, context.now())?;
    drop(repository);
    // Read as everybody reads it from now on.
    let (mut repository, problems) = context.open(&*progress)?;
    if ui.json {
        ui.json(&serde_json::json!({"writer": writer, "dry_run": false, "snapshots_gone": ids, "until": ends}))?;
    } else {
        let last = ends.iter().map(|end| end.sequence).max().unwrap_or(0);
        ui.answer(format!("revoked   {writer} after its commit {last}; {snapshots} no longer count"))?;
        for kept in kept_by(&mut repository, writer)? {
            ui.warning(format!(
                "`{writer}` is a keeper of `{kept}` still: `lifeboat key keeper {writer} --of {kept} --end`"
            ));
        }
        ui.story("Take its credentials away at the store, if you have not. Its host may join anew with a state directory of its own.");
        ui.story("Copies have logs of their own: look there with `lifeboat --repo COPY snapshots`, and forget what came from that host.");
    }
    Ok(if problems.is_empty() { Outcome::Done } else { Outcome::Damage })
}

/// The writers that a writer keeps.
fn kept_by(repository: &mut Repository, keeper: &str) -> Result<Vec<String>, Failure> {
    let mut kept = Vec::new();
    for name in repository.writer_names()?.into_values() {
        let keepers = repository.standing(&name)?.keepers;
        if keepers.iter().any(|known| known.writer == keeper && known.until.is_none()) {
            kept.push(name);
        }
    }
    Ok(kept)
}

/// `key adopt`.
pub fn adopt(context: &Context, writer: &str, host: Option<&str>) -> Result<Outcome, Failure> {
    let ui = context.ui;
    let progress = context.progress(true);
    let (mut repository, _) = context.open(&*progress)?;
    check_writer(&repository, writer)?;
    let adopted = repository.adopt_writer(writer, &host_name(host), context.now(), &*progress);
    progress.clear();
    let adopted = adopted.map_err(|e| match e {
        Error::AlreadyWriter { writer: own, .. } => Failure::usage(
            format!("this host writes as `{own}` already"),
            "Give it a state directory of its own for the other one: `lifeboat --state-dir DIR key adopt WRITER`.",
        ),
        e => e.into(),
    })?;
    if ui.json {
        ui.json(&serde_json::json!({
            "writer": writer, "from_host": adopted.host, "until": adopted.ends, "handed_over": adopted.handed_over
        }))?;
        return Ok(Outcome::Done);
    }
    let last = adopted.ends.iter().map(|end| end.sequence).max().unwrap_or(0);
    ui.answer(format!("adopted   {writer} of host {}, after its commit {last}", adopted.host))?;
    ui.story("This host goes on with it: name its sources as they were named, and run `lifeboat backup --all`; the first run reads everything once.");
    ui.story("Where its streams go on, take a base backup of PostgreSQL and a snapshot of Convex first.");
    Ok(Outcome::Done)
}

pub(super) fn check_writer(repository: &Repository, writer: &str) -> Result<(), Failure> {
    let known = repository.writer_names()?;
    match known.values().any(|name| name == writer) {
        true => Ok(()),
        false => Err(Failure::usage(format!("there is no writer `{writer}`"), "`lifeboat key list` shows them.")),
    }
}
