//! `restore` of a PostgreSQL cluster: choose the base backup and the target, lay the files down, write the recovery settings.

use std::path::Path;
use std::time::Instant;

use super::restore::{refuse_repository, tell};
use super::restore_outside;
use crate::cli::Outcome;
use crate::cli::args::RestoreArgs;
use crate::cli::context::Context;
use crate::cli::output::{counted, duration, size};
use crate::cli::progress::Console;
use crate::cli::report::Failure;
use crate::model::Timeline;
use crate::ops::cluster::{Cluster, Recovery, make_ready};
use crate::ops::restore::{RestoreOptions, find_snapshot, prepare, restore};
use crate::ops::tablespaces::Spaces;
use crate::plan::recovery::{self, Aim, Target, Way};
use crate::plan::restore::Wanted;
use crate::repository::Repository;

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
    refuse_running(into)?;
    let way = choose(args, cluster, &asked.0).map_err(crate::ops::Error::from)?;
    let base = Wanted::Named(way.reach.base.to_string());
    let (snapshot, choice) = find_snapshot(repository, &args.source, &base, false)?;
    let placed = restore_outside::place(args, cluster, &way.reach.base, into)?;
    let options = restore_outside::options(cluster, &way.reach.base, options, &placed)?;
    let spaces = Spaces::prepare(repository, &snapshot, &choice, placed, &options, progress);
    let prepared = prepare(repository, snapshot, &choice, Some(into), options, progress);
    progress.clear();
    let (prepared, spaces) = (prepared?, spaces?);
    let restore_command = restore_command(context, &cluster.stream, &way)?;
    let say = |line: String| {
        if args.dry_run {
            context.ui.answer(line)
        } else {
            context.ui.story(line);
            Ok(())
        }
    };
    for line in plan_lines(args, cluster, &way, asked.1.as_deref()) {
        say(line)?;
    }
    say(format!(
        "fetch     {} for the base backup, {} of WAL, of {}",
        size(prepared.plan.fetch_bytes + spaces.fetch_bytes()),
        counted(way.reach.segments, "segment", "segments"),
        repository.store().label()
    ))?;
    say(format!("lands in  {}", into.display()))?;
    for line in restore_outside::lines(args, cluster, &way.reach.base, &spaces)? {
        say(line)?;
    }
    if args.dry_run {
        context.ui.story("Nothing was written (--dry-run).");
        return Ok(Outcome::Done);
    }
    let started = Instant::now();
    let report = restore(repository, &prepared, progress).and_then(|mut report| {
        spaces.restore(repository, &mut report, progress)?;
        Ok(report)
    });
    progress.clear();
    tell(context, &report?, started.elapsed().as_secs_f64())?;
    spaces.settle(into, prepared.overwrite())?;
    restore_outside::settle_outside(context, cluster, &way.reach.base, into)?;
    let recovery = Recovery {
        restore_command,
        action: args.cluster.target_action.as_str(),
        no_archive: args.cluster.archive_mode_off,
        standby: args.cluster.standby,
    };
    make_ready(into, &way, &recovery)?;
    context.ui.story(format!(
        "ready     in {}; start it, and it replays its log:",
        duration(started.elapsed().as_secs_f64())
    ));
    context.ui.answer(format!("pg_ctl -D '{}' -w -t 86400 start", into.display()))?;
    Ok(Outcome::Done)
}

fn choose(args: &RestoreArgs, cluster: &Cluster, wanted: &Wanted) -> Result<Way, recovery::NoWay> {
    let flags = &args.cluster;
    let aim = match (wanted, flags.lsn, &flags.xid, &flags.point, flags.immediate) {
        (_, Some(lsn), ..) => Aim::Lsn(lsn),
        (_, _, Some(xid), ..) => Aim::Xid(xid.clone()),
        (_, _, _, Some(point), _) => Aim::Name(point.clone()),
        (Wanted::Named(_), ..) | (_, _, _, _, true) => Aim::Immediate,
        (Wanted::At(time), ..) => Aim::Time(*time),
        (Wanted::Latest, ..) => Aim::Latest,
    };
    let timeline = flags.target_timeline.map(Timeline);
    let mut archive = cluster.archive.clone();
    if let Wanted::Named(id) = wanted {
        let wanted = id.to_ascii_uppercase();
        let newest = archive.bases.iter().map(|base| base.id).max();
        archive.bases.retain(|base| match id.as_str() {
            "latest" => Some(base.id) == newest,
            _ => base.id.to_string().starts_with(&wanted),
        });
    }
    let way = archive.choose(&cluster.full_name, &aim, timeline, args.exact)?;
    Ok(restore_outside::prefer_undamaged(archive, way, |archive| {
        archive.choose(&cluster.full_name, &aim, timeline, args.exact)
    }))
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
fn restore_command(context: &Context, stream: &str, way: &Way) -> Result<String, Failure> {
    let exe = std::env::current_exe().map_err(|e| Failure::io("find", Path::new("lifeboat"), e))?;
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let quote = |text: &str| format!("'{}'", text.replace('\'', "'\\''"));
    let mut words = vec![quote(&exe.display().to_string())];
    let mut flag = |name: &str, value: String| words.extend([name.to_owned(), quote(&value)]);
    if let Some(config) = &context.global.config {
        flag("--config", absolute(config).display().to_string());
    }
    flag("--repo", context.url()?);
    for file in context.identity_files() {
        flag("--identity", absolute(&file).display().to_string());
    }
    flag("--state-dir", absolute(&context.state_dir()?).display().to_string());
    words.extend(["wal".to_owned(), "get".to_owned(), "--stream".to_owned(), quote(stream)]);
    if way.reach.gap {
        words.extend(["--ends-at".to_owned(), way.reach.missing.to_string()]);
    }
    words.extend(["%f".to_owned(), "\"%p\"".to_owned()]);
    Ok(words.join(" "))
}

/// A server that runs there would go on writing into what is replaced.
fn refuse_running(into: &Path) -> Result<(), Failure> {
    if into.join("postmaster.pid").exists() {
        let text = format!("`{}` is the directory of a server that runs, or that crashed", into.display());
        return Err(Failure::usage(
            text,
            "Stop it (`pg_ctl stop`), or remove its postmaster.pid if no server runs; or choose another directory.",
        ));
    }
    Ok(())
}
