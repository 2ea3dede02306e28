//! `timeline`: to which moments a cluster can be brought back.

use crate::cli::Outcome;
use crate::cli::args::TimelineArgs;
use crate::cli::context::Context;
use crate::cli::line::{draw, signs, width};
use crate::cli::output::{counted, duration, size};
use crate::cli::report::Failure;
use crate::ops::cluster::{Cluster, gather};
use crate::plan::coverage::Coverage;
use crate::plan::recovery::{Aim, Base, Reach, Way, show};

/// Runs it.
pub fn run(context: &Context, args: &TimelineArgs) -> Result<Outcome, Failure> {
    let progress = context.progress(false);
    let (repository, _) = context.open(&*progress)?;
    let Some(cluster) = gather(&repository, &args.source)? else {
        return Err(Failure::usage(
            format!("`{}` has no base backup, so it has no timeline", args.source),
            "Sources of kind postgres have one, from their first `lifeboat backup` on; `lifeboat snapshots` lists the others.",
        ));
    };
    let archive = &cluster.archive;
    let mut bases: Vec<&Base> = archive.bases.iter().collect();
    bases.sort_by_key(|base| base.backup.stopped);
    let reaches: Vec<(&Base, Option<Reach>)> =
        bases.into_iter().map(|base| (base, archive.choose_from(base))).collect();
    let newest = archive.choose(&cluster.full_name, &Aim::Latest, None, false).ok();
    let coverage = Coverage::of(archive);
    // Something that was acknowledged is gone.
    let outcome = if cluster.missing.is_empty() { Outcome::Done } else { Outcome::Damage };
    if context.ui.json {
        let age = newest.as_ref().map(|way| age_of(context, way));
        let rows: Vec<_> = reaches.iter().map(|(base, reach)| json(&cluster, base, reach.as_ref())).collect();
        return context
            .ui
            .json(&serde_json::json!({
                "message_type": "timeline", "source": cluster.full_name, "stream": cluster.stream, "bases": rows,
                "newest": newest.as_ref().map(|way| way.reach.to), "age_seconds": age, "coverage": coverage,
                "missing": cluster.missing.len(),
                "lost": cluster.missing.iter().map(|record| record.place.name()).collect::<Vec<_>>(),
            }))
            .map(|()| outcome);
    }
    for line in draw(&coverage, width(), signs()) {
        context.ui.answer(line)?;
    }
    tell(context, &cluster, &reaches)?;
    if let Some(way) = newest {
        let age = age_of(context, &way);
        context.ui.answer(format!(
            "newest    {}, {} ago: the last commit that is known",
            show(way.reach.to),
            duration(age)
        ))?;
    }
    let own = args.source.rsplit('/').next().unwrap_or(&args.source);
    let waiting = super::wal::spool(context, own)?
        .map(|spool| spool.waiting().map(|waiting| (spool, waiting)))
        .transpose()
        .map_err(crate::ops::Error::from)?;
    if let Some((spool, waiting)) = waiting.filter(|(_, waiting)| !waiting.files.is_empty()) {
        context.ui.warning(format!(
            "{} of the log ({}) wait in the spool `{}` of this host and are not in the repository: `lifeboat backup {own}` sends them",
            counted(waiting.files.len() as u64, "file", "files"),
            size(waiting.bytes),
            spool.folder().display()
        ));
    }
    Ok(outcome)
}

/// Seconds since the last commit that is known.
fn age_of(context: &Context, way: &Way) -> f64 {
    (context.now() - way.reach.to).num_milliseconds().max(0) as f64 / 1000.0
}

fn tell(context: &Context, cluster: &Cluster, reaches: &[(&Base, Option<Reach>)]) -> Result<(), Failure> {
    let ui = context.ui;
    ui.answer(format!("cluster   {}, stream {}", cluster.full_name, cluster.stream))?;
    for fork in &cluster.archive.forks {
        ui.answer(format!("timeline  {} left {} at {}", fork.timeline, fork.parent, fork.at))?;
    }
    for (base, reach) in reaches {
        let at = show(base.backup.stopped);
        let Some(reach) = reach else {
            let why = match cluster.archive.pending(&base.backup) {
                Some(missing) => format!("PENDING: segment {missing} is not there"),
                None => "INCOMPLETE: something was not read".to_owned(),
            };
            ui.answer(format!("base      {at}  {}  {why}", base.id))?;
            continue;
        };
        ui.answer(format!("base      {at}  {}  timeline {}", base.id, base.backup.timeline))?;
        let commits = counted(reach.commits, "commit", "commits");
        let segments = counted(reach.segments, "segment", "segments");
        ui.answer(format!("  any moment to {}: {commits} in {segments}", show(reach.to)))?;
        if reach.gap {
            ui.answer(format!("  then a GAP: segment {} is missing, and later ones are there", reach.missing))?;
        }
    }
    for record in &cluster.missing {
        ui.answer(format!("lost      {} was acknowledged and is not in the store", record.place.name()))?;
    }
    Ok(())
}

fn json(cluster: &Cluster, base: &Base, reach: Option<&Reach>) -> serde_json::Value {
    serde_json::json!({
        "snapshot": base.id, "stopped": base.backup.stopped, "timeline": base.backup.timeline,
        "start": base.backup.start, "stop": base.backup.stop,
        "pending": cluster.archive.pending(&base.backup),
        "reaches": reach.map(|reach| serde_json::json!({
            "to": reach.to, "end": reach.end, "timeline": reach.timeline, "commits": reach.commits,
            "segments": reach.segments, "gap": reach.gap.then_some(reach.missing),
        })),
    })
}
