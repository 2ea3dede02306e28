//! `restore` of a PostgreSQL cluster: choose the base backup and the target, lay the files down, write the recovery settings.

use std::path::Path;
use std::time::Instant;

use super::restore::{refuse_repository, tell};
use super::{beside, restore_outside};
use crate::cli::Outcome;
use crate::cli::args::RestoreArgs;
use crate::cli::context::Context;
use crate::cli::output::{counted, duration, size};
use crate::cli::progress::Console;
use crate::cli::report::Failure;
use crate::cli::wal_args::{Action, TimelineArg};
use crate::model::Timeline;
use crate::ops::cluster::{Cluster, Recovery};
use crate::ops::recover::{End, Expected, Isolation, Launch, Proof, prove};
use crate::ops::restore::{LandingState, Overwrite, RestoreOptions, RestorePlan, base_of, look_onto, prepare_cluster};
use crate::plan::recovery::{self, Aim, Archive, Target, Way};
use crate::plan::restore::Wanted;
use crate::repository::Repository;
use crate::store::{Location, parse_url};

/// What is asked for, and how its time was read.
pub type Asked = (Wanted, Option<String>);

/// Runs it.
pub fn run(
    context: &Context,
    args: &RestoreArgs,
    repository: &mut Repository,
    cluster: &Cluster,
    asked: Asked,
    options: RestoreOptions,
    progress: &Console,
) -> Result<Outcome, Failure> {
    let Some(into) = &args.into else {
        return Err(Failure::usage(
            "a cluster is restored into a directory",
            "Say `--into DIR`; `--snapshot ID --tar FILE` takes the files alone.",
        ));
    };
    if let Some(local) = context.local_repository()? {
        refuse_repository(into, &local)?;
    }
    let options = whole_cluster(args, options)?;
    for (name, why) in &cluster.damaged {
        context.ui.warning(format!("{name} of its log is damaged and taken for a gap: {why}"));
    }
    let way = choose(args, cluster, &asked.0).map_err(crate::ops::Error::from)?;
    let onto = look_onto(into, base_of(cluster, &way)?.system_id, args.cluster.replace_other_cluster)?;
    let asked_spaces = restore_outside::asked(args)?;
    let laying = prepare_cluster(repository, cluster, &way, into, &asked_spaces, options, progress);
    progress.clear();
    let laying = laying.map_err(beside::of_cluster)?;
    let restore_command = restore_command(context, cluster, &way, args.cluster.standby, None)?;
    let launch = Launch {
        directory: into,
        base: &laying.backup,
        bin_dir: args.server.bin_dir.clone(),
        isolation: args.cluster.isolated.then(Isolation::default),
    };
    if args.cluster.start {
        // Before anything is laid down: what is missing then is found out now.
        launch.check()?;
    }
    if let Some(failure) = beside::identity(context) {
        match args.cluster.start {
            true => return Err(failure),
            false => context.ui.warning(failure.said()),
        }
    }
    let (fetch, segments) = (laying.fetch_bytes(), way.reach.segments);
    let shown = Shown {
        estimate: super::drill::estimate_line(repository, &args.source, fetch, segments),
        plan: &laying.prepared.plan,
        fetch: laying.fetch_bytes(),
        store: repository.store().label(),
        outside: restore_outside::lines(args, cluster, &laying.backup, &laying.spaces)?,
    };
    show_plan(context, args, cluster, &way, asked.1.as_deref(), shown)?;
    let notes = beside::notes(args, cluster, &way, &aim_of(args, &asked.0), context.now());
    notes.iter().for_each(|note| context.ui.warning(note));
    if let Some(pid) = onto.stale_pid {
        context.ui.warning(format!(
            "postmaster.pid there names process {pid}, which is gone: its server did not stop cleanly"
        ));
    }
    if args.dry_run {
        context.ui.story("Nothing was written (--dry-run).");
        return Ok(Outcome::Done);
    }
    let started = Instant::now();
    let recovery = Recovery {
        restore_command,
        action: args.cluster.target_action.as_str(),
        no_archive: args.cluster.archive_mode_off || args.cluster.isolated,
        standby: args.cluster.standby,
    };
    let laid = laying.carry_out(repository, &way, &recovery, progress, &mut |_| Ok(()));
    progress.clear();
    let (report, made) = laid?;
    tell(context, &report, started.elapsed().as_secs_f64())?;
    for made in made {
        context.ui.story(format!("made      {made}"));
    }
    let fetched = started.elapsed().as_secs_f64();
    if args.cluster.start {
        return bring_up(context, args, &launch, &way, fetched, progress);
    }
    if let Some(note) = beside::archiving(args, cluster, context.now()) {
        context.ui.warning(note);
    }
    context.ui.story(format!("ready     in {}; start it, and it replays its log:", duration(fetched)));
    context.ui.answer(format!("pg_ctl -D '{}' -w -t 86400 start", into.display()))?;
    Ok(Outcome::Done)
}

/// Starts a server on what was laid down, and waits until it is proven to be where it should be.
fn bring_up(
    context: &Context,
    args: &RestoreArgs,
    launch: &Launch<'_>,
    way: &Way,
    fetched: f64,
    progress: &Console,
) -> Result<Outcome, Failure> {
    if way.target == Target::End && args.cluster.target_action != Action::Promote && !args.cluster.standby {
        context.ui.warning(
            "without a target there is nothing to stop at: the server is promoted at the end of what is there",
        );
    }
    let mut server = launch.start()?;
    context.ui.story(format!("starting  a server; its log is {}", server.log().display()));
    let proof = prove(&mut server, expected(args, way), progress);
    progress.clear();
    tell_proof(context, launch.directory, &proof?, fetched)?;
    Ok(Outcome::Done)
}

/// Of a plan, what lies beside the way to the target.
struct Shown<'a> {
    plan: &'a RestorePlan,
    /// Bytes, those of tablespaces among them.
    fetch: u64,
    store: &'a str,
    /// How long it will take, where a drill has measured it.
    estimate: Option<String>,
    /// Lines of what lands elsewhere, and of what differs on this host.
    outside: Vec<String>,
}

/// The plan, before anything is written.
fn show_plan(
    context: &Context,
    args: &RestoreArgs,
    cluster: &Cluster,
    way: &Way,
    read_as: Option<&str>,
    shown: Shown<'_>,
) -> Result<(), Failure> {
    let (ui, reach, plan) = (context.ui, &way.reach, shown.plan);
    if ui.json {
        let target = match &way.target {
            Target::End => None,
            Target::Setting(name, value) => Some(serde_json::json!({"setting": name, "value": value})),
        };
        return ui.json(&serde_json::json!({
            "message_type": "plan", "source": cluster.full_name, "base": reach.base, "timeline": reach.timeline,
            "from": reach.from, "to": reach.to, "end": reach.end, "commits": reach.commits, "segments": reach.segments,
            "gap": reach.gap.then_some(reach.missing), "target": target, "ends_at": way.bound.map(|bound| bound.ends_at),
            "cut": way.bound.and_then(|bound| bound.cut), "shows": way.shows, "proof": way.proof, "plan": plan,
            "branches": cluster.archive.asides(&way.reach), "received": cluster.received,
        }));
    }
    let mut lines = plan_lines(args, cluster, way, read_as);
    lines.push(format!(
        "fetch     {} for the base backup, {} of WAL, of {}",
        size(shown.fetch),
        counted(reach.segments, "segment", "segments"),
        shown.store
    ));
    lines.extend(shown.estimate);
    lines.push(format!("lands in  {}{}", args.into.as_deref().unwrap_or(Path::new(".")).display(), landing(plan)));
    lines.extend(shown.outside);
    for line in lines {
        match args.dry_run {
            true => ui.answer(line)?,
            false => ui.story(line),
        }
    }
    Ok(())
}

/// A data directory holds one cluster: what another left in it would be replayed, or read, as this one's.
fn whole_cluster(args: &RestoreArgs, options: RestoreOptions) -> Result<RestoreOptions, Failure> {
    if !args.include.is_empty() || !args.exclude.is_empty() || args.below.is_some() {
        return Err(Failure::usage(
            "a cluster is restored as a whole: a server does not start on a part of it",
            "Leave `--include`, `--exclude` and `--below` out. Single files of a base backup: `--snapshot ID --tar FILE --include PATTERN`.",
        ));
    }
    match options.overwrite {
        Overwrite::Refuse => Ok(options),
        Overwrite::Delta | Overwrite::Always => Ok(RestoreOptions { delete: true, ..options }),
        Overwrite::IfChanged | Overwrite::IfNewer | Overwrite::Never => Err(Failure::usage(
            "files that were there would be mixed with those of the base backup",
            "Say `--delta`: it keeps what is right, block by block, writes the rest, and removes what does not belong to the cluster.",
        )),
    }
}

/// What stands in the directory, for the plan.
fn landing(plan: &RestorePlan) -> String {
    match (plan.state, plan.deletes.len() as u64) {
        (LandingState::Interrupted, _) => " (an interrupted restore, to be continued)".to_owned(),
        (LandingState::Occupied, gone) => {
            format!(" (not empty; what is right stays, {} of it removed)", counted(gone, "path is", "paths are"))
        }
        _ => String::new(),
    }
}

/// How the recovery must end, and where it must have come to.
fn expected(args: &RestoreArgs, way: &Way) -> Expected {
    let end = match (&way.target, args.cluster.target_action) {
        _ if args.cluster.standby => End::Standby,
        // Without a target there is nothing to stop at: the server goes on to the end, and from there on.
        (Target::End, _) | (_, Action::Promote) => End::Promoted,
        (_, Action::Pause) => End::Paused,
        (_, Action::Shutdown) => End::ShutDown,
    };
    Expected { end, least: way.proof, timeline: way.reach.timeline }
}

fn tell_proof(context: &Context, into: &Path, proof: &Proof, fetched: f64) -> Result<(), Failure> {
    let ui = context.ui;
    if ui.json {
        let directory = into.display().to_string();
        return ui.json(&serde_json::json!({
            "message_type": "recovered", "directory": directory, "fetch_seconds": fetched, "proof": proof,
        }));
    }
    let state = match proof.end {
        End::Promoted => format!("it accepts writes, on timeline {}", proof.timeline),
        End::Paused => "it is paused and can be read; `SELECT pg_wal_replay_resume()` lets it go on".to_owned(),
        End::ShutDown => "it has shut down there".to_owned(),
        End::Standby => "it is a standby and follows the archive".to_owned(),
    };
    ui.answer(format!("recovered replayed to {}, {} was needed: {state}", proof.reached, proof.least))?;
    if let Some(post) = &proof.post {
        ui.answer(format!("server    psql -h '{}' -p {}", post.host, post.port))?;
    }
    ui.answer(format!("log       {}", proof.log.display()))?;
    ui.answer(format!(
        "took      fetch {}, start {}, replay {}",
        duration(fetched),
        duration(proof.start_seconds),
        duration(proof.replay_seconds)
    ))
}

/// What is asked for of a cluster.
fn aim_of(args: &RestoreArgs, wanted: &Wanted) -> Aim {
    let flags = &args.cluster;
    match (wanted, flags.lsn, &flags.xid, &flags.point, flags.immediate) {
        (_, Some(lsn), ..) => Aim::Lsn(lsn),
        (_, _, Some(xid), ..) => Aim::Xid(xid.clone()),
        (_, _, _, Some(point), _) => Aim::Name(point.clone()),
        (Wanted::Named(_), ..) | (_, _, _, _, true) => Aim::Immediate,
        (Wanted::At(time), ..) => Aim::Time(*time),
        (Wanted::Latest, ..) => Aim::Latest,
    }
}

fn choose(args: &RestoreArgs, cluster: &Cluster, wanted: &Wanted) -> Result<Way, recovery::NoWay> {
    let (flags, aim) = (&args.cluster, aim_of(args, wanted));
    let mut archive = cluster.archive.clone();
    let named = match wanted {
        Wanted::Named(id) => Some(id),
        _ => args.spelled.set.as_ref(),
    };
    if let Some(id) = named {
        let wanted = id.to_ascii_uppercase();
        let newest = archive.bases.iter().map(|base| base.id).max();
        archive.bases.retain(|base| match id.as_str() {
            "latest" => Some(base.id) == newest,
            _ => base.id.to_string().starts_with(&wanted),
        });
    }
    let choose = |archive: Archive, timeline| {
        let way = archive.choose_undamaged(&cluster.full_name, &aim, timeline, args.exact);
        way.map_err(|e| beside::of_named(e, cluster, &archive, named.is_some()))
    };
    match flags.target_timeline {
        None | Some(TimelineArg::Latest) => choose(archive, None),
        Some(TimelineArg::Number(number)) => choose(archive, Some(Timeline(number))),
        Some(TimelineArg::Current) => {
            // Each base on its own timeline, the newest first; where none leads there, the newest one's reason counts.
            let mut timelines: Vec<Timeline> = archive.bases.iter().map(|base| base.backup.timeline).collect();
            timelines.sort_by_key(|timeline| std::cmp::Reverse(timeline.0));
            timelines.dedup();
            let mut first = None;
            for timeline in timelines {
                let mut own = archive.clone();
                own.bases.retain(|base| base.backup.timeline == timeline);
                match choose(own, Some(timeline)) {
                    Ok(way) => return Ok(way),
                    Err(e) => drop(first.get_or_insert(e)),
                }
            }
            first.map_or_else(|| choose(archive, None), Err)
        }
    }
}

fn plan_lines(args: &RestoreArgs, cluster: &Cluster, way: &Way, read_as: Option<&str>) -> Vec<String> {
    let wanted = read_as.map_or_else(|| "as far as it is known".to_owned(), |read_as| format!("to {read_as}"));
    let mut lines = vec![format!("plan      restore cluster `{}` {wanted}", cluster.full_name)];
    lines.push(format!("base      {}, ended {}", way.reach.base, recovery::show(way.reach.from)));
    let reach = &way.reach;
    let commits = counted(reach.commits, "commit", "commits");
    lines.push(format!(
        "window    {} to {} on timeline {}, {commits} in {}{}",
        recovery::show(reach.from),
        recovery::show(reach.to),
        reach.timeline,
        counted(reach.segments, "segment", "segments"),
        if reach.gap { format!(", then a GAP at {}", reach.missing) } else { String::new() }
    ));
    lines.push(match &way.target {
        Target::End if reach.gap => {
            format!("target    none: all that is there before the gap, to {} at least", way.proof)
        }
        Target::End if way.bound.is_some() && !args.cluster.standby => {
            format!(
                "target    none: the log as it is now, to {} at least; what is archived from now on is later",
                way.proof
            )
        }
        Target::End => format!("target    none: all that is there, to {} at least", way.proof),
        Target::Setting(name, value) => {
            format!("target    {name} = {value}, then {}", args.cluster.target_action.as_str())
        }
    });
    if let Some(shows) = way.shows {
        lines.push(format!("shows     the cluster as of {}", recovery::show(shows)));
    }
    lines
}

/// The command by which the restored server fetches its log: this program, with the paths that it was called with made absolute.
/// `note` is where each call says how long it took.
pub(super) fn restore_command(
    context: &Context,
    cluster: &Cluster,
    way: &Way,
    standby: bool,
    note: Option<&Path>,
) -> Result<String, Failure> {
    let exe = std::env::current_exe().map_err(|e| Failure::io("find", Path::new("lifeboat"), e))?;
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let quote = |text: &str| format!("'{}'", text.replace('\'', "'\\''"));
    let mut words = Vec::new();
    if let Some(file) = std::env::var_os("LIFEBOAT_PASSPHRASE_FILE").filter(|file| !file.is_empty()) {
        words.push(format!("LIFEBOAT_PASSPHRASE_FILE={}", quote(&absolute(Path::new(&file)).display().to_string())));
    }
    words.push(quote(&exe.display().to_string()));
    let mut flag = |name: &str, value: String| words.extend([name.to_owned(), quote(&value)]);
    if let Some(config) = &context.global.config {
        flag("--config", absolute(config).display().to_string());
    }
    // The server has a directory of its own: what is relative here is not there.
    flag(
        "--repo",
        match parse_url(&context.url()?)? {
            Location::Local(path) if !context.url()?.contains("://") => absolute(&path).display().to_string(),
            _ => context.url()?,
        },
    );
    for file in context.identity_files() {
        flag("--identity", absolute(&file).display().to_string());
    }
    flag("--state-dir", absolute(&context.own_state_dir()?).display().to_string());
    if let Some(at) = context.as_of {
        flag("--as-of", at.to_rfc3339());
    }
    words.extend(["wal", "get", "--stream"].map(str::to_owned));
    words.extend([quote(&cluster.stream), "--writer".to_owned(), quote(&cluster.writer)]);
    // A standby follows what is archived from now on; a gap is one for it too.
    if let Some(bound) = way.bound.filter(|_| way.reach.gap || !standby) {
        words.extend(["--ends-at".to_owned(), bound.ends_at.to_string()]);
        words.extend(bound.cut.iter().flat_map(|cut| ["--cut".to_owned(), cut.to_string()]));
    }
    if let Some(note) = note {
        words.extend(["--note-time".to_owned(), quote(&note.display().to_string())]);
    }
    words.extend(["%f".to_owned(), "\"%p\"".to_owned()]);
    Ok(words.join(" "))
}
