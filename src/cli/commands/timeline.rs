//! `timeline`: to which moments a cluster can be brought back. Deployments have theirs in `documents`.

use crate::cli::Outcome;
use crate::cli::args::TimelineArgs;
use crate::cli::context::Context;
use crate::cli::line::{draw, signs, width};
use crate::cli::output::{counted, duration, size};
use crate::cli::report::Failure;
use crate::model::SegmentName;
use crate::ops::cluster::{Cluster, Which, gather};
use crate::plan::branches::Aside;
use crate::plan::coverage::Coverage;
use crate::plan::recovery::{Aim, Archive, Base, Reach, Way, show};

/// Runs it.
pub fn run(context: &Context, args: &TimelineArgs) -> Result<Outcome, Failure> {
    let progress = context.progress(false);
    let (repository, _) = context.open(&*progress)?;
    let Some(cluster) = gather(&repository, &args.source, Which::Newest)? else {
        if let Some(documents) = crate::ops::documents::gather(&repository, &args.source)? {
            return super::documents::timeline(context, &documents);
        }
        return Err(Failure::usage(
            format!("`{}` has neither a base backup nor a stream of changes, so it has no timeline", args.source),
            "Sources of kind postgres have one, from their first `lifeboat backup` on, and those of kind convex that are followed \
             (`lifeboat follow`); `lifeboat snapshots` lists the others.",
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
    let is_whole = cluster.missing.is_empty() && cluster.damaged.is_empty();
    let outcome = if is_whole { Outcome::Done } else { Outcome::Damage };
    if context.ui.json {
        let age = newest.as_ref().map(|way| age_of(context, way));
        let rows: Vec<_> = reaches.iter().map(|(base, reach)| json(&cluster, base, reach.as_ref())).collect();
        return context
            .ui
            .json(&serde_json::json!({
                "message_type": "timeline", "source": cluster.full_name, "stream": cluster.stream, "bases": rows,
                "newest": newest.as_ref().map(|way| way.reach.to), "age_seconds": age, "coverage": coverage,
                "branches": asides(&cluster, &reaches), "missing": cluster.missing.len(),
                "damaged": cluster.damaged.iter().map(|(name, _)| name).collect::<Vec<_>>(), "others": cluster.others,
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
                // Segments arrive in order: one that later ones have overtaken was lost.
                Some(missing) if is_overtaken(&cluster.archive, missing) => {
                    format!(
                        "PENDING: segment {missing} is not there, and later ones are: it was lost, and this is never complete"
                    )
                }
                Some(missing) => format!("PENDING: segment {missing} is not there"),
                None => "INCOMPLETE: something was not read".to_owned(),
            };
            ui.answer(format!("base      {at}  {}  {why}", base.id))?;
            continue;
        };
        let bad = &base.backup.bad_pages;
        let damage = bad.first.first().map_or(String::new(), |first| {
            let pages = counted(bad.count, "page", "pages");
            format!("  DAMAGED: {pages}, the first `{}` block {}", first.path, first.block)
        });
        ui.answer(format!("base      {at}  {}  timeline {}{damage}", base.id, base.backup.timeline))?;
        let commits = counted(reach.commits, "commit", "commits");
        let segments = counted(reach.segments, "segment", "segments");
        ui.answer(format!("  any moment to {}: {commits} in {segments}", show(reach.to)))?;
        if reach.gap && cluster.archive.pruned.contains(&reach.missing) {
            ui.answer("  then no longer: a prune deleted the log behind it, which the policy does not keep")?;
        } else if reach.gap {
            let why = match cluster.archive.lost.contains(&reach.missing) {
                true => "cannot be had any more",
                false => "is missing, and later ones are or were there",
            };
            ui.answer(format!("  then a GAP: segment {} {why}", reach.missing))?;
        }
    }
    for aside in asides(cluster, reaches) {
        ui.answer(format!(
            "branch    timeline {} goes on behind {} without the others: {} from {} to {}; `restore --target-timeline {}` takes it",
            aside.timeline,
            aside.parting,
            counted(aside.commits, "commit", "commits"),
            show(aside.from),
            show(aside.to),
            aside.timeline
        ))?;
    }
    for record in &cluster.missing {
        ui.answer(format!("lost      {} was acknowledged and is not in the store", record.place.name()))?;
    }
    for (name, why) in &cluster.damaged {
        ui.answer(format!("damaged   {name}: {why}"))?;
    }
    for other in &cluster.others {
        ui.answer(format!(
            "before    {} of {}, writer {}: {} to {}; `restore --to` such a time takes them",
            counted(other.bases, "base backup", "base backups"),
            other.stream,
            other.writer,
            show(other.first),
            show(other.last)
        ))?;
    }
    Ok(())
}

/// Whether later segments of a timeline are there.
fn is_overtaken(archive: &Archive, missing: SegmentName) -> bool {
    archive.wal.keys().any(|name| name.timeline == missing.timeline && *name > missing)
}

/// Branches that no base backup's way follows, each once.
fn asides(cluster: &Cluster, reaches: &[(&Base, Option<Reach>)]) -> Vec<Aside> {
    let mut asides: Vec<Aside> = Vec::new();
    for reach in reaches.iter().filter_map(|(_, reach)| reach.as_ref()) {
        for aside in cluster.archive.asides(reach) {
            if !asides.iter().any(|other| (other.timeline, other.parting) == (aside.timeline, aside.parting)) {
                asides.push(aside);
            }
        }
    }
    asides
}

fn json(cluster: &Cluster, base: &Base, reach: Option<&Reach>) -> serde_json::Value {
    serde_json::json!({
        "snapshot": base.id, "stopped": base.backup.stopped, "timeline": base.backup.timeline,
        "start": base.backup.start, "stop": base.backup.stop,
        "pending": cluster.archive.pending(&base.backup), "damaged_pages": base.backup.bad_pages,
        "reaches": reach.map(|reach| serde_json::json!({
            "to": reach.to, "end": reach.end, "timeline": reach.timeline, "commits": reach.commits,
            "segments": reach.segments, "gap": reach.gap.then_some(reach.missing).filter(|name| !cluster.archive.pruned.contains(name)),
        })),
    })
}
