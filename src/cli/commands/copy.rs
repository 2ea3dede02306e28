//! `copy`: what a second repository lacks, and taking it there; also behind every backup, where the configuration names copies.

use std::sync::Arc;
use std::time::Instant;

use crate::cli::Outcome;
use crate::cli::args::CopyArgs;
use crate::cli::context::{Context, host_name};
use crate::cli::output::{count, counted, duration, size};
use crate::cli::progress::Console;
use crate::cli::report::Failure;
use crate::model::Moment;
use crate::ops::Kind;
use crate::ops::copy::{CopyError, CopyOptions, CopyPlan, CopyReport, copy, estimate, plan};
use crate::ops::status::Weight;
use crate::plan::restore::show;
use crate::progress::Progress;
use crate::repository::{Clock, InitOptions, Repository};

/// Seconds after which a copy is behind: a night, and what a backup takes.
const OLD: i64 = 26 * 3_600;

/// What the catalog remembers of the last run of a copy that the configuration names.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct LastCopy {
    /// When the last one ended that left nothing out.
    pub at: Option<Moment>,
    /// Snapshots that were there then.
    pub snapshots: u64,
    /// Whether everything was.
    pub whole: bool,
}

/// The fact of a copy's last run.
fn fact(name: &str) -> String {
    format!("copied to {name}")
}

fn last(repository: &Repository, name: &str) -> Result<Option<LastCopy>, Failure> {
    let text = repository.catalog().fact(&fact(name)).map_err(crate::repository::Error::from)?;
    Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
}

/// How a copy of the configuration stands, as this host knows it.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Standing {
    /// Its name.
    pub name: String,
    /// When it was last brought up to date.
    pub at: Option<Moment>,
    /// Snapshots of this host that were there then.
    pub snapshots: u64,
    /// `fine` or `warning`.
    pub state: Weight,
    /// What is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub words: Option<String>,
}

/// How the copies of the configuration stand. The copies themselves are not asked.
pub fn standings(context: &Context, repository: &Repository) -> Result<Vec<Standing>, Failure> {
    let mut all = Vec::new();
    for (name, section) in context.config.copies.iter().filter(|_| context.at_copy.is_none()) {
        let last = last(repository, name)?;
        let words = match &last {
            None => Some(format!("nothing was ever copied there from this host: `lifeboat copy --to {name}`")),
            Some(last) if !last.whole => Some("the last copy left something out: `lifeboat copy` says what".to_owned()),
            Some(last) => {
                let age = last.at.map_or(0, |at| (context.now() - at).num_seconds());
                // One that is brought up to date by hand is as old as that.
                (age > OLD && section.after_backup != Some(false))
                    .then(|| format!("it was last brought up to date {} ago", duration(age as f64)))
            }
        };
        all.push(Standing {
            name: name.clone(),
            at: last.as_ref().and_then(|last| last.at),
            snapshots: last.map_or(0, |last| last.snapshots),
            state: if words.is_some() { Weight::Warning } else { Weight::Fine },
            words,
        });
    }
    Ok(all)
}

/// Runs it.
pub fn run(context: &Context, args: &CopyArgs) -> Result<Outcome, Failure> {
    context.refuse_others_state()?;
    let targets = match args.to.is_empty() {
        false => args.to.clone(),
        true => context.config.copies.keys().cloned().collect(),
    };
    if targets.is_empty() {
        return Err(Failure::usage(
            "there is nowhere to copy to",
            "Say where: `lifeboat copy --to URL --create`, or name it in the configuration: `[copies.offsite]`, `url = \"...\"`.",
        ));
    }
    let progress = context.progress(true);
    let (mut repository, problems) = context.open(&*progress)?;
    let mut outcome = if problems.is_empty() { Outcome::Done } else { Outcome::Incomplete };
    let mut failures: Vec<(String, Failure)> = Vec::new();
    for target in targets {
        match copy_to(context, &mut repository, &target, args, &progress) {
            Ok(Outcome::Done) => {}
            Ok(other) => outcome = other,
            Err(failure) if failure.kind() == Kind::Cancelled => return Err(failure),
            Err(failure) => failures.push((target, failure)),
        }
    }
    let Some((_, last)) = failures.pop() else { return Ok(outcome) };
    for (target, failure) in failures {
        context.ui.warning(format!("nothing was copied to `{target}`"));
        failure.print(&mut std::io::stderr().lock(), context.ui.json);
    }
    Err(last)
}

/// Behind a backup: brings the copies of the configuration up to date. The backup is made, whatever becomes of them.
pub fn after_backup(
    context: &Context,
    repository: &mut Repository,
    progress: &Arc<Console>,
) -> Result<Outcome, Failure> {
    // Who names another repository on the command line means that one.
    if !context.is_own() {
        return Ok(Outcome::Done);
    }
    let args = CopyArgs { sources: Vec::new(), to: Vec::new(), create: false, writer: None, dry_run: false };
    let mut outcome = Outcome::Done;
    for (name, _) in context.config.copies.iter().filter(|(_, section)| section.after_backup != Some(false)) {
        match copy_to(context, repository, name, &args, progress) {
            Ok(Outcome::Done) => {}
            Ok(other) => outcome = other,
            Err(failure) if failure.kind() == Kind::Cancelled => return Err(failure),
            Err(failure) if failure.kind() == Kind::Busy => {
                context
                    .ui
                    .story(format!("copy      `{name}`: another run is filling it; the next backup goes there too"));
            }
            Err(failure) => {
                outcome = Outcome::Incomplete;
                context.ui.warning(format!("the backup is made, and copy `{name}` is NOT up to date"));
                failure.print(&mut std::io::stderr().lock(), context.ui.json);
            }
        }
    }
    Ok(outcome)
}

fn copy_to(
    context: &Context,
    repository: &mut Repository,
    target: &str,
    args: &CopyArgs,
    progress: &Arc<Console>,
) -> Result<Outcome, Failure> {
    let there = context.elsewhere(target);
    if args.create && !args.dry_run {
        create(&there, repository)?;
    }
    let opened = there.open(&**progress);
    let (mut second, problems) = opened.map_err(|failure| match failure.kind() {
        Kind::NoRepository if !args.create => failure.with_hint(format!(
            "To make a copy there: `lifeboat copy --to {target} --create`. Is the disk mounted, is the URL right?"
        )),
        _ => failure,
    })?;
    let options = CopyOptions { sources: args.sources.clone(), writer: args.writer.clone() };
    let url = there.url()?;
    if args.dry_run {
        let plan = plan(repository, &mut second, &options, context.now())?;
        show_plan(context, &url, repository, &mut second, &plan)?;
        return Ok(Outcome::Done);
    }
    let started = Instant::now();
    let shared: Arc<dyn Progress> = Arc::clone(progress) as _;
    let clock: Clock = Arc::new(chrono::Utc::now);
    repository.check_copy(&second)?;
    let run = second.begin_copies(context.now(), &*shared)?;
    let run = run.ok_or_else(|| crate::ops::Error::from(CopyError::Busy(url.clone())))?;
    let plan = plan(repository, &mut second, &options, context.now())?;
    let forgotten = plan.gone;
    let report = copy(repository, &mut second, plan, &clock, &shared);
    progress.clear();
    let report = report?;
    second.end_copies(run)?;
    for problem in &report.problems {
        context.ui.warning(problem);
    }
    // Sources that were named are not all: only a whole run says how the copy stands.
    if let Some(name) = there.at_copy.as_deref().filter(|_| args.sources.is_empty() && args.writer.is_none()) {
        let before = last(repository, name)?.map(|last| last.at);
        let (now, whole) = (context.now(), report.is_whole());
        let last = LastCopy { at: if whole { Some(now) } else { before.flatten() }, snapshots: report.there, whole };
        let text = serde_json::to_string(&last).unwrap_or_default();
        repository.catalog_mut().set_fact(&fact(name), &text).map_err(crate::repository::Error::from)?;
    }
    tell(context, &url, &report, forgotten, started.elapsed().as_secs_f64())?;
    Ok(if report.is_whole() && problems.is_empty() { Outcome::Done } else { Outcome::Incomplete })
}

/// Makes the copy where there is none, and says what to pin.
fn create(there: &Context, repository: &Repository) -> Result<(), Failure> {
    if let Some(pinned) = &there.config.repository.fingerprint {
        let is_there =
            there.store(false).is_ok_and(|store| store.size("lifeboat.json").is_ok_and(|size| size.is_some()));
        return match is_there {
            true => Ok(()),
            false => Err(Failure::usage(
                format!(
                    "the configuration pins {}, so there was a copy, and there is none in `{}`",
                    pinned.chars().take(12).collect::<String>(),
                    there.url()?
                ),
                format!(
                    "{} For a new copy take `fingerprint` out of its section. Nothing was made.",
                    there.where_it_was()?
                ),
            )),
        };
    }
    let store = there.store(true)?;
    let state = there.state_dir()?;
    let recipients: Result<Vec<_>, _> = repository.host()?.recipients.iter().map(|text| text.parse()).collect();
    let options = InitOptions { recipients: &recipients?, state: &state, host: &host_name(None), now: there.now() };
    let made = match repository.make_copy(&store, &options) {
        Ok(made) => made,
        // It is filled, or it is none of this repository and is refused by whoever opens it.
        Err(crate::repository::Error::Exists(_)) => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    let (ui, url) = (there.ui, there.url()?);
    if ui.json {
        return ui.json(&serde_json::json!({
            "message_type": "copy_made", "url": url, "id": made.repository, "fingerprint": made.fingerprint,
            "recover_digest": made.recover_digest, "writer": made.writer,
        }));
    }
    ui.answer(format!("copy         {url} made"))?;
    ui.answer(format!("fingerprint  {}", made.fingerprint))?;
    ui.answer(format!("recover.py   {}", made.recover_digest))?;
    ui.answer(format!("writer       {}", made.writer))?;
    ui.story("Write the fingerprint down beside the repository's own, and pin it in the configuration:");
    let name = there.at_copy.as_deref().unwrap_or("offsite");
    ui.story(format!("  [copies.{name}]\n  url = \"{url}\"\n  fingerprint = \"{}\"", made.fingerprint));
    if there.at_copy.is_none() {
        ui.story(format!("From then on every backup copies there too, and `lifeboat --repo {name}` works on it."));
    }
    Ok(())
}

fn show_plan(
    context: &Context,
    url: &str,
    repository: &Repository,
    second: &mut Repository,
    plan: &CopyPlan,
) -> Result<(), Failure> {
    let (frames, bytes) = estimate(repository, second, plan)?;
    let segments: Vec<_> = plan.streams.iter().filter(|stream| !stream.wanted.is_empty()).collect();
    if context.ui.json {
        let snapshots: Vec<_> = plan
            .snapshots
            .iter()
            .map(|s| serde_json::json!({"id": s.record.id, "source": s.record.source, "ended": s.record.ended}))
            .collect();
        return context.ui.json(&serde_json::json!({
            "message_type": "copy", "dry_run": true, "to": url, "snapshots": snapshots, "frames": frames, "bytes": bytes,
            "segments": plan.segments(), "segment_bytes": plan.segment_bytes(), "there": plan.there, "forgotten_there": plan.gone,
            "lost": plan.lost_here(),
        }));
    }
    context.ui.answer(format!("to        {url}: {} there", counted(plan.there, "snapshot is", "snapshots are")))?;
    for snapshot in &plan.snapshots {
        let record = &snapshot.record;
        context.ui.answer(format!("missing   {}  {}  {}", record.source, record.id, show(record.ended)))?;
    }
    for stream in segments {
        let (count, bytes) = (stream.wanted.len() as u64, stream.wanted.iter().map(|record| record.stored).sum());
        context.ui.answer(format!(
            "missing   {} of {}, {}",
            counted(count, "segment", "segments"),
            stream.stream,
            size(bytes)
        ))?;
    }
    let (frames, bytes) = (counted(frames, "frame", "frames"), size(bytes + plan.segment_bytes()));
    context.ui.answer(format!("result    {bytes} would be copied ({frames}); nothing was changed (dry run)"))
}

fn tell(context: &Context, url: &str, report: &CopyReport, forgotten: u64, seconds: f64) -> Result<(), Failure> {
    let ui = context.ui;
    if ui.json {
        return ui.json(&serde_json::json!({
            "message_type": "copy", "dry_run": false, "to": url, "seconds": seconds, "report": report, "forgotten_there": forgotten,
        }));
    }
    for snapshot in &report.snapshots {
        let what = format!("{}  {}", snapshot.source, snapshot.id);
        match &snapshot.failed {
            Some(why) => ui.answer(format!("LEFT OUT  {what}: {why}"))?,
            None => ui.answer(format!(
                "copied    {what}  {}: {} sent, {} there already, {} put",
                show(snapshot.ended),
                counted(snapshot.frames, "frame", "frames"),
                count(snapshot.there),
                size(snapshot.stored)
            ))?,
        }
    }
    if report.segments > 0 {
        ui.answer(format!("copied    {} of streams", counted(report.segments, "segment", "segments")))?;
    }
    if report.lost > 0 {
        let what = counted(report.lost, "segment is", "segments are");
        ui.answer(format!(
            "LOST      {what} not whole in the first store, or cut off in the copy, and were not copied; `lifeboat timeline` of each shows the gaps"
        ))?;
    }
    let there = counted(report.there, "snapshot is", "snapshots are");
    let gone = match forgotten {
        0 => String::new(),
        gone => format!(", {} forgotten by its own policy", count(gone)),
    };
    ui.answer(format!("result    {url}: {there} there{gone}; {} put in {}", size(report.stored), duration(seconds)))
}
