//! Drills of clusters: base backup, log, an isolated server whose end is proven, and what is asked of it.

use std::time::Duration;

use super::checks::{Asked, checksums, server};
use super::scratch::Scratch;
use super::tree::{look_at_files, whole};
use super::{CheckEnd, Held, Phase, Stopping};
use crate::client::Programs;
use crate::ops::Error;
use crate::ops::cluster::{Cluster, Recovery};
use crate::ops::recover::{End, Expected, Isolation, Launch, Proof, owner_beside_root, prove};
use crate::ops::restore::{Laying, prepare_cluster};
use crate::plan::recovery::{Aim, Way, show};
use crate::plan::tablespaces;
use crate::repository::Repository;

pub(super) fn hold(
    repository: &mut Repository,
    cluster: &Cluster,
    held: &mut Held<'_>,
    scratch: &Scratch,
) -> Result<(), Error> {
    let reaches: Vec<_> = cluster.archive.bases.iter().filter_map(|base| cluster.archive.choose_from(base)).collect();
    let windows: Vec<_> = reaches.iter().map(|reach| (reach.from, reach.to)).collect();
    let aim = held.aim(&windows)?.map_or(Aim::Latest, Aim::Time);
    // A moment was taken from one of the branches: it is that one which is tried.
    let of =
        |time| reaches.iter().filter(|reach| (reach.from..=reach.to).contains(time)).max_by_key(|reach| reach.from);
    let timeline = match &aim {
        Aim::Time(time) => of(time).map(|reach| reach.timeline),
        _ => None,
    };
    let way = cluster.archive.choose_undamaged(&cluster.full_name, &aim, timeline, false)?;
    held.record.snapshot = Some(way.reach.base);
    held.record.shows = Some(way.shows.unwrap_or(way.reach.to));
    held.record.segments = way.reach.segments;
    // Its socket lies in the data directory, so its path is short.
    let into = scratch.path("data");
    let spaces = tablespaces::Asked { map: Vec::new(), all: Some(scratch.path("tablespaces")) };
    let laying = prepare_cluster(repository, cluster, &way, &into, &spaces, whole()?, held.progress)?;
    held.record.fetched_bytes = laying.fetch_bytes();
    let isolation = Some(Isolation::default());
    let bin_dir = held.options.bin_dir.clone();
    let launch = Launch { directory: &into, base: &laying.backup, bin_dir: bin_dir.clone(), isolation };
    launch.check()?;
    held.plan(format!(
        "base backup {} of {}, then {} segments to {}, into {}",
        way.reach.base,
        cluster.full_name,
        way.reach.segments,
        held.record.shows.map(show).unwrap_or_default(),
        into.display()
    ));
    let waited = scratch.path("waited");
    if !fetch(repository, cluster, &way, &laying, held, &waited)? {
        return Ok(());
    }
    let (mut running, proof) = replay(&launch, &way, held, &waited)?;
    let programs = Programs::new(bin_dir);
    let major = laying.backup.major();
    let Some(post) = proof.post.clone() else { return Ok(()) };
    let asked = Asked::find(&post, running.0.roles(), programs.clone(), major)?;
    server(&asked, held, "postgres")?;
    let owner = running.0.owner();
    running.0.stop();
    checksums(&programs, major, &into, owner, held)
}

/// Lays the files down and compares them with their digests. False where they differ.
fn fetch(
    repository: &mut Repository,
    cluster: &Cluster,
    way: &Way,
    laying: &Laying,
    held: &mut Held<'_>,
    waited: &std::path::Path,
) -> Result<bool, Error> {
    let command = (held.options.restore_command)(cluster, way, waited);
    let restore_command =
        command.map_err(|why| Error::Unreadable { what: "the command that fetches the log".to_owned(), why })?;
    let recovery = Recovery { restore_command, action: "promote", no_archive: true, standby: false };
    held.enter(Phase::Fetch);
    let mut good = true;
    let progress = held.progress;
    let laid = laying.carry_out(repository, way, &recovery, progress, &mut |repository| {
        held.enter(Phase::Check);
        good = look_at_files(repository, &laying.prepared, held)?;
        held.enter(Phase::Fetch);
        Ok(())
    });
    let (report, _) = laid?;
    held.record.restored_bytes = report.bytes_written;
    Ok(good)
}

/// Starts the server and waits until it is where it was promised to come to.
fn replay(
    launch: &Launch<'_>,
    way: &Way,
    held: &mut Held<'_>,
    waited: &std::path::Path,
) -> Result<(Stopping, Proof), Error> {
    // The calls of the `restore_command` run as the server's owner.
    let note = |source| Error::Io { doing: "make", path: waited.to_owned(), source };
    let file = std::fs::File::create(waited).map_err(note)?;
    if let Some((uid, gid)) = owner_beside_root(launch.directory)? {
        std::os::unix::fs::fchown(&file, Some(uid), Some(gid)).map_err(note)?;
    }
    held.enter(Phase::Start);
    let mut running = Stopping(launch.start()?);
    let expected = Expected { end: End::Promoted, least: way.proof, timeline: way.reach.timeline };
    let proof = prove(&mut running.0, expected, held.progress)?;
    // What the server took to answer was noted with what it took to replay: they are told apart now.
    let begun = held.since;
    held.since = std::time::Instant::now();
    let all = begun.elapsed();
    let replaying = Duration::from_secs_f64(proof.replay_seconds.max(0.0)).min(all);
    let waiting = waited_in(waited).min(all);
    let applying = replaying.saturating_sub(waiting);
    held.count(Phase::Start, all.saturating_sub(applying + waiting));
    held.count(Phase::Wait, waiting);
    held.count(Phase::Replay, applying);
    held.check("end of the replay", |_| {
        Ok((CheckEnd::Passed, format!("replayed to {}, {} was needed", proof.reached, proof.least)))
    })?;
    Ok((running, proof))
}

/// The sum of what the calls of the `restore_command` took, in milliseconds a line.
fn waited_in(path: &std::path::Path) -> Duration {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    Duration::from_millis(text.lines().filter_map(|line| line.trim().parse::<u32>().ok()).map(u64::from).sum())
}
