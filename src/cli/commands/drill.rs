//! `drill`: held, told, noted in the log; and what was noted, listed.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::restore_cluster::restore_command;
use super::restore_convex::{heard, open};
use crate::catalog::DrillRow;
use crate::cli::Outcome;
use crate::cli::args::{DrillArgs, DrillCommand};
use crate::cli::context::{Context, host_name};
use crate::cli::output::{counted, duration, size};
use crate::cli::progress::Console;
use crate::cli::report::Failure;
use crate::cli::telling::around_source;
use crate::cli::time::read_time;
use crate::cli::{drill_page, output};
use crate::client::convex::{Deployment, parse_url};
use crate::config::{DrillSection, Length};
use crate::model::drill::{CheckEnd, DrillRecord, Verdict};
use crate::model::{Moment, SnapshotId};
use crate::ops::Kind;
use crate::ops::canary::Marks;
use crate::ops::cluster::Cluster;
use crate::ops::drill::{Canary, Checks, DrillOptions, Heard, drill};
use crate::ops::status::{self, Limits, SourceStatus};
use crate::plan::drill::{At, NoAim, estimate, joint_moment, seed_of, together};
use crate::plan::recovery::Way;
use crate::plan::restore::show;
use crate::repository::{self, Repository};

/// How old the last green drill may be where nobody says.
const MAX_AGE: Duration = Duration::from_secs(7 * 86_400);

/// Runs it.
pub fn run(context: &Context, args: &DrillArgs) -> Result<Outcome, Failure> {
    match &args.command {
        None => hold_all(context, args),
        Some(DrillCommand::List { source }) => list(context, source.as_deref()),
        Some(DrillCommand::Show { id, html }) => show_one(context, id, html.as_deref()),
        Some(DrillCommand::Status { max_age }) => overdue(context, max_age.as_deref()),
    }
}

/// How a verdict ends the command. Of several the gravest counts.
fn outcome(verdicts: &[Verdict]) -> Outcome {
    let graveness = |verdict: &Verdict| match verdict {
        Verdict::Passed => 0,
        Verdict::RpoMissed => 1,
        Verdict::RtoMissed => 2,
        Verdict::NotHeld => 3,
        Verdict::DataFailed => 4,
    };
    match verdicts.iter().max_by_key(|verdict| graveness(verdict)) {
        None | Some(Verdict::Passed) => Outcome::Done,
        Some(Verdict::RpoMissed) => Outcome::RpoMissed,
        Some(Verdict::RtoMissed) => Outcome::RtoMissed,
        Some(Verdict::NotHeld) => Outcome::Unfit,
        Some(Verdict::DataFailed) => Outcome::Damage,
    }
}

fn hold_all(context: &Context, args: &DrillArgs) -> Result<Outcome, Failure> {
    let sources = sources(context, args)?;
    at(context, &args.at, &SnapshotId::new(0, [0; 10]))?;
    let progress = context.progress(true);
    let (mut repository, _) = context.open(&*progress)?;
    let group =
        args.group.as_deref().map(|name| Group::begin(context, args, name, &sources, &repository)).transpose()?;
    let mut records = Vec::new();
    let mut failures = Vec::new();
    let mut incomplete = false;
    for source in &sources {
        let held = around_source(context, "drill", source, || {
            let which = |id: &SnapshotId| match &group {
                Some(group) => Ok(group.at),
                None => at(context, &args.at, id),
            };
            let record = hold_one(context, args, source, &mut repository, &progress, &which)?;
            if !args.no_record {
                note(context, &mut repository, &record)?;
            }
            let end = outcome(&[record.verdict]);
            records.push(record);
            Ok(end)
        });
        match held {
            // A hook that failed afterwards.
            Ok(Outcome::Incomplete) => incomplete = true,
            Ok(_) => {}
            Err(failure) if failure.kind() == Kind::Cancelled => return Err(failure),
            // The others are drilled all the same.
            Err(failure) => failures.push(failure),
        }
    }
    if let Some(group) = group.filter(|_| failures.is_empty()) {
        let record = group.end(context, &records);
        tell(context, &record)?;
        if !args.no_record {
            note(context, &mut repository, &record)?;
        }
        records = vec![record];
    }
    if !records.is_empty() && !args.no_record && repository.host().is_ok() {
        context.ui.story("noted in the log of this host; `lifeboat drill list` shows it");
    }
    if let Some(last) = failures.pop() {
        failures.iter().for_each(|failure| failure.print(&mut std::io::stderr().lock(), context.ui.json));
        return Err(last);
    }
    let verdicts: Vec<Verdict> = records.iter().map(|record| record.verdict).collect();
    Ok(match outcome(&verdicts) {
        Outcome::Done if incomplete => Outcome::Incomplete,
        end => end,
    })
}

/// The drill of a group: all sources at one moment, as one result.
struct Group {
    name: String,
    id: SnapshotId,
    began: Moment,
    at: At,
    asked: String,
    limits: (Option<u64>, Option<u64>),
}

impl Group {
    fn begin(
        context: &Context,
        args: &DrillArgs,
        name: &str,
        sources: &[String],
        repository: &Repository,
    ) -> Result<Self, Failure> {
        let (began, id) = (context.now(), new_id(context.now())?);
        let own = context.config.objectives.get(name).copied().unwrap_or_default();
        let rto = length(args.rto.as_deref())?.or(own.rto.map(|length| length.0));
        let rpo = length(args.rpo.as_deref())?.or(own.rpo.map(|length| length.0));
        let asked = at(context, &args.at, &id)?;
        let no_aim = |e: NoAim| Failure::from(crate::ops::Error::from(e));
        let at = match asked {
            At::Random(seed) => {
                let wanted: Vec<(String, Limits)> =
                    sources.iter().map(|source| (source.clone(), Limits::default())).collect();
                let windows = |one: SourceStatus| {
                    let points =
                        one.course.points.iter().filter(|point| point.complete).map(|point| (point.at, point.at));
                    points.chain(one.course.spans.iter().copied()).collect()
                };
                let all = status::status(repository, &wanted, began)?.into_iter().map(windows).collect::<Vec<_>>();
                At::Time(joint_moment(seed, &all).map_err(no_aim)?)
            }
            // As old as the group's objective allows, not as each source's own.
            At::NowRpo => {
                let rpo = rpo.and_then(|rpo| chrono::TimeDelta::from_std(rpo).ok());
                let moment = At::NowRpo.moment(began, rpo, &[]).map_err(no_aim)?;
                moment.map_or(At::Latest, At::Time)
            }
            other => other,
        };
        let ms = |limit: Option<Duration>| limit.map(|limit| limit.as_millis() as u64);
        Ok(Self { name: name.to_owned(), id, began, at, asked: asked.words(), limits: (ms(rto), ms(rpo)) })
    }

    fn end(self, context: &Context, records: &[DrillRecord]) -> DrillRecord {
        let target = match self.at {
            At::Time(moment) => Some(moment),
            _ => None,
        };
        let begun = DrillRecord::begun(self.id, &self.name, &host_name(None), self.began, self.asked);
        let first = DrillRecord { ended: context.now(), target, ..begun };
        together(first, records, self.limits)
    }
}

/// Holds a drill of one source, and tells how it went.
fn hold_one(
    context: &Context,
    args: &DrillArgs,
    source: &str,
    repository: &mut Repository,
    progress: &Console,
    at: &dyn Fn(&SnapshotId) -> Result<At, Failure>,
) -> Result<DrillRecord, Failure> {
    let id = new_id(context.now())?;
    let section = context.config.sources.get(source);
    let own = section.and_then(|section| section.drill.clone()).unwrap_or_default();
    let objective = context.config.objective_of(source);
    let command = |cluster: &Cluster, way: &Way, note: &Path| {
        restore_command(context, cluster, way, false, Some(note)).map_err(|failure| failure.said())
    };
    let stop = Arc::new(AtomicBool::new(false));
    let deployment = scratch_deployment(context, source, &own, &stop)?;
    let options = DrillOptions {
        id,
        host: host_name(None),
        at: at(&id)?,
        scratch: args.scratch_dir.clone().or_else(|| own.scratch_dir.clone()),
        keep: args.keep,
        rto: length(args.rto.as_deref())?.or(objective.rto.map(|length| length.0)),
        rpo: length(args.rpo.as_deref())?.or(objective.rpo.map(|length| length.0)),
        bin_dir: args.bin_dir.clone().or_else(|| section.and_then(|section| section.bin_dir.clone())),
        user: own.user.clone(),
        checks: checks(args, &own),
        canary: canary(context, source)?,
        deployment: deployment.as_ref(),
        sabotage: args.sabotage,
        restore_command: &command,
        clock: &|| context.now(),
    };
    let record = heard(&stop, progress, || {
        drill(repository, source, &options, progress, &mut |heard| {
            progress.clear();
            hear(context, source, &heard);
        })
    });
    progress.clear();
    let record = record?;
    tell(context, &record)?;
    Ok(record)
}

/// The deployment for drills, where the configuration names one. Never the one that is backed up.
fn scratch_deployment(
    context: &Context,
    source: &str,
    own: &DrillSection,
    stop: &Arc<AtomicBool>,
) -> Result<Option<Deployment>, Failure> {
    let Some(url) = &own.deployment else { return Ok(None) };
    let place = |url: &str| parse_url(url).map_err(crate::ops::Error::from);
    let is_backed_up = |other: &str| place(other).ok() == place(url).ok();
    if context.config.sources.values().filter_map(|section| section.url.as_deref()).any(is_backed_up) {
        return Err(Failure::usage(
            format!("`deployment` under [sources.{source}.drill] is backed up itself: a drill replaces all its tables"),
            "Name another one, that is there for drills alone.",
        ));
    }
    Ok(Some(open(context, own.admin_key_file.as_deref(), url, Arc::clone(stop))?))
}

/// The canary to look for, where the configuration says that there is one.
fn canary(context: &Context, source: &str) -> Result<Option<Canary>, Failure> {
    let Some(section) = context.config.sources.get(source).filter(|section| section.canary) else { return Ok(None) };
    let marks = Marks::of(&context.own_state_dir()?, source, &section.canary_place()).all();
    Ok(Some(Canary { source: source.to_owned(), database: section.canary_database(), marks }))
}

fn sources(context: &Context, args: &DrillArgs) -> Result<Vec<String>, Failure> {
    if let Some(group) = &args.group {
        let found = context.config.groups.get(group).map(|group| group.sources.clone());
        let hint = "Groups stand in the configuration as [groups.NAME].";
        let found = found.ok_or_else(|| Failure::usage(format!("there is no group `{group}`"), hint))?;
        if found.is_empty() {
            return Err(Failure::usage(format!("the group `{group}` has no sources"), hint));
        }
        return Ok(found);
    }
    if args.all {
        return Ok(context.config.sources.keys().cloned().collect());
    }
    if args.sources.is_empty() {
        return Err(Failure::usage("no source was given", "Name some, or all of them with `--all`."));
    }
    Ok(args.sources.clone())
}

fn length(text: Option<&str>) -> Result<Option<Duration>, Failure> {
    let read = text.map(Length::parse).transpose();
    Ok(read.map_err(|e| Failure::usage(e, "As in `--rto 4h --rpo 30m`."))?.map(|length| length.0))
}

fn at(context: &Context, text: &str, id: &SnapshotId) -> Result<At, Failure> {
    match text.trim() {
        "latest" => Ok(At::Latest),
        "now-rpo" => Ok(At::NowRpo),
        "random" => Ok(At::Random(seed_of(id))),
        other => match other.strip_prefix("random:") {
            Some(seed) => {
                let hint = "As in `--at random:17`; without a number each drill has another one.";
                seed.parse().map(At::Random).map_err(|_| Failure::usage(format!("`{seed}` is no number"), hint))
            }
            None => Ok(At::Time(read_time(other, context.now())?.moment)),
        },
    }
}

fn new_id(now: Moment) -> Result<SnapshotId, Failure> {
    let mut random = [0; 10];
    let fail = |e| Failure::new(crate::ops::Kind::Failed, format!("the kernel gave no random numbers: {e}"), None);
    getrandom::fill(&mut random).map_err(fail)?;
    Ok(SnapshotId::new(now.timestamp_millis().max(0) as u64, random))
}

fn checks(args: &DrillArgs, own: &DrillSection) -> Checks {
    let deep = |key: Option<bool>| !args.quick && key.unwrap_or(true);
    let usual = Checks::default();
    Checks {
        command: args.command_line.clone().or_else(|| own.command.clone()),
        sql: own.sql.iter().chain(&args.sql).cloned().collect(),
        database: args.database.clone().or_else(|| own.database.clone()),
        amcheck: deep(own.amcheck),
        checksums: deep(own.checksums),
        full_read: deep(own.full_read),
        is_quick: args.quick,
        patience: own.patience.map_or(usual.patience, |length| length.0),
    }
}

fn hear(context: &Context, source: &str, heard: &Heard<'_>) {
    let ui = context.ui;
    match heard {
        Heard::Plan(words) => ui.story(format!("{source}: {words}")),
        Heard::Phase(phase) => ui.story(format!("{source}: {} ...", phase.words())),
        Heard::Check(check) => {
            let took = duration(check.ms as f64 / 1000.0);
            ui.story(format!("{source}: {:7} {}: {} ({took})", end_words(check.end), check.name, check.detail));
        }
        Heard::Kept(path) => ui.warning(format!("what was restored stays in `{}`; remove it yourself", path.display())),
    }
}

pub(in crate::cli) fn end_words(end: CheckEnd) -> &'static str {
    match end {
        CheckEnd::Passed => "passed",
        CheckEnd::Failed => "FAILED",
        CheckEnd::Skipped => "skipped",
    }
}

/// A verdict, as people read it.
pub(in crate::cli) fn verdict_words(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Passed => "PASSED",
        Verdict::DataFailed => "FAILED: the data",
        Verdict::RtoMissed => "FAILED: RTO missed",
        Verdict::RpoMissed => "FAILED: RPO missed",
        Verdict::NotHeld => "NOT HELD",
    }
}

fn seconds(ms: Option<u64>) -> String {
    ms.map_or_else(|| "not known".to_owned(), |ms| duration(ms as f64 / 1000.0))
}

fn against(measured: Option<u64>, limit: Option<u64>) -> String {
    match limit {
        Some(limit) => format!("{} (objective {})", seconds(measured), seconds(Some(limit))),
        None => format!("{} (no objective)", seconds(measured)),
    }
}

/// The result, as the answer.
fn tell(context: &Context, record: &DrillRecord) -> Result<(), Failure> {
    let ui = context.ui;
    if ui.json {
        return ui.json(&serde_json::json!({"message_type": "drill", "drill": record}));
    }
    let problem = record.problem.as_ref().map_or(String::new(), |problem| format!(": {problem}"));
    ui.answer(format!("drill     {} of {}: {}{problem}", record.id, record.source, verdict_words(record.verdict)))?;
    if let Some(shows) = record.shows {
        let asked =
            record.target.map_or_else(|| record.at.clone(), |target| format!("{} ({})", show(target), record.at));
        ui.answer(format!("brought   back the state of {}; asked for: {asked}", show(shows)))?;
    }
    ui.answer(format!("RTO       {}", against(record.rto_ms, record.rto_limit_ms)))?;
    ui.answer(format!("RPO       {}", against(record.rpo_ms, record.rpo_limit_ms)))?;
    let parts = record.phases.iter().map(|part| format!("{} {}", part.phase.words(), seconds(Some(part.ms))));
    ui.answer(format!("took      {}", parts.collect::<Vec<_>>().join(", ")))?;
    let passed = record.checks.iter().filter(|check| check.end == CheckEnd::Passed).count() as u64;
    let others = record.checks.iter().filter(|check| check.end != CheckEnd::Passed);
    ui.answer(format!(
        "checks    {} passed; {} fetched, {} laid down, {}",
        output::count(passed),
        size(record.fetched_bytes),
        size(record.restored_bytes),
        counted(record.segments, "segment of log", "segments of log")
    ))?;
    for check in others {
        ui.answer(format!("  {:7} {}: {}", end_words(check.end), check.name, check.detail))?;
    }
    Ok(())
}

/// Notes a drill in the log; false on a host that has none.
fn note(context: &Context, repository: &mut Repository, record: &DrillRecord) -> Result<bool, Failure> {
    let progress = context.progress(false);
    match repository.add_drill(record, context.now(), &*progress) {
        Ok(_) => Ok(true),
        Err(repository::Error::NotAWriter(_)) => {
            context.ui.warning(
                "this host is no writer of the repository, so the drill is noted nowhere; `lifeboat init` lets it join",
            );
            Ok(false)
        }
        Err(e) => Err(e.into()),
    }
}

fn all(context: &Context) -> Result<Vec<DrillRow>, Failure> {
    let progress = context.progress(false);
    let (repository, _) = context.open(&*progress)?;
    Ok(repository.catalog().drills(None).map_err(crate::ops::Error::from)?)
}

fn list(context: &Context, source: Option<&str>) -> Result<Outcome, Failure> {
    let mut rows = all(context)?;
    rows.retain(|row| source.is_none_or(|source| row.record.source == source));
    if context.ui.json {
        let drills: Vec<&DrillRecord> = rows.iter().map(|row| &row.record).collect();
        return context
            .ui
            .json(&serde_json::json!({"message_type": "drills", "drills": drills}))
            .map(|()| Outcome::Done);
    }
    for DrillRow { writer, record } in &rows {
        let sabotage = if record.sabotaged { " (sabotaged)" } else { "" };
        context.ui.answer(format!(
            "{}  {}  {writer}/{:16}  RTO {:>9}  RPO {:>9}  {}{sabotage}",
            record.id,
            show(record.began),
            record.source,
            seconds(record.rto_ms),
            seconds(record.rpo_ms),
            verdict_words(record.verdict)
        ))?;
    }
    if rows.is_empty() {
        context.ui.story("no drill was held yet: `lifeboat drill SOURCE`");
    }
    Ok(Outcome::Done)
}

fn show_one(context: &Context, id: &str, html: Option<&Path>) -> Result<Outcome, Failure> {
    let rows = all(context)?;
    let wanted = id.to_ascii_uppercase();
    let mut found = rows.iter().filter(|row| row.record.id.to_string().starts_with(&wanted));
    let (Some(row), None) = (found.next(), found.next()) else {
        return Err(Failure::usage(
            format!("`{id}` is no drill, or the beginning of several"),
            "`lifeboat drill list` shows them.",
        ));
    };
    if let Some(file) = html {
        let trend: Vec<&DrillRecord> =
            rows.iter().map(|row| &row.record).filter(|record| record.source == row.record.source).collect();
        let page = drill_page::page(&row.writer, &row.record, &trend);
        std::fs::write(file, page).map_err(|e| Failure::io("write", file, e))?;
        context.ui.story(format!("wrote     {}", file.display()));
        return Ok(Outcome::Done);
    }
    tell(context, &row.record)?;
    if !context.ui.json {
        for check in row.record.checks.iter().filter(|check| check.end == CheckEnd::Passed) {
            context.ui.answer(format!("  {:7} {}: {}", end_words(check.end), check.name, check.detail))?;
        }
    }
    Ok(Outcome::Done)
}

/// How long a restore will take, by what drills measured.
pub(super) fn estimate_line(repository: &Repository, source: &str, fetch_bytes: u64, segments: u64) -> Option<String> {
    let rows = repository.catalog().drills(Some(5)).ok()?;
    let records = rows.iter().map(|row| &row.record).filter(|record| !record.sabotaged && record.kind != "group");
    let found = estimate(records, source, fetch_bytes, segments)?;
    Some(format!("estimate  {}, by the drill of {}", duration(found.seconds), show(found.drilled)))
}

/// The newest drill of a source that says something of its data, sabotaged ones apart.
pub(super) fn newest_green<'r>(rows: &'r [DrillRow], source: &str) -> Option<&'r DrillRecord> {
    let of = rows.iter().map(|row| &row.record).filter(|record| record.source == source && !record.sabotaged);
    // A group may be called like a source.
    let of = of.filter(|record| record.kind != "group");
    of.filter(|record| record.verdict.is_green()).max_by_key(|record| record.began)
}

fn overdue(context: &Context, max_age: Option<&str>) -> Result<Outcome, Failure> {
    let rows = all(context)?;
    let given = length(max_age)?;
    let now = context.now();
    let mut lines = Vec::new();
    let mut overdue = false;
    for source in context.config.sources.keys() {
        let every = context.config.objective_of(source).drill_every.map(|length| length.0);
        let limit = given.or(every).unwrap_or(MAX_AGE);
        let green = newest_green(&rows, source);
        let age = green.map(|record| (now - record.began).to_std().unwrap_or_default());
        let fine = age.is_some_and(|age| age <= limit);
        overdue |= !fine;
        lines.push((source, green, age, limit, fine));
    }
    if context.ui.json {
        let sources: Vec<_> = lines
            .iter()
            .map(|(source, green, age, limit, fine)| {
                serde_json::json!({
                    "source": source, "fine": fine, "drill": green.map(|record| record.id),
                    "age_seconds": age.map(|age| age.as_secs()), "max_age_seconds": limit.as_secs(),
                })
            })
            .collect();
        context.ui.json(&serde_json::json!({"message_type": "drill_status", "fine": !overdue, "sources": sources}))?;
    } else {
        for (source, _, age, limit, fine) in &lines {
            let limit = duration(limit.as_secs_f64());
            let words = match age {
                Some(age) => format!("passed {} ago, {limit} allowed", duration(age.as_secs_f64())),
                None => format!("no drill has passed, one within {limit} is wanted"),
            };
            context.ui.answer(format!("{:8}  {source}: {words}", if *fine { "fine" } else { "OVERDUE" }))?;
        }
    }
    if lines.is_empty() {
        let hint = "`drill status` looks at the sources of the configuration; name it with `--config`.";
        return Err(Failure::usage("the configuration has no sources", hint));
    }
    Ok(if overdue { Outcome::DrillOverdue } else { Outcome::Done })
}
