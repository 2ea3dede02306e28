//! A restore beside the original: what a restored server would do to the archive that both share, and what other branches of the log have
//! that the chosen one lacks; and what else a plan for a cluster finds in its way before anything is fetched.

use std::io::Read;
use std::os::unix::fs::MetadataExt;

use chrono::TimeDelta;

use crate::cli::args::RestoreArgs;
use crate::cli::context::Context;
use crate::cli::output::counted;
use crate::cli::report::Failure;
use crate::model::Moment;
use crate::ops::cluster::Cluster;
use crate::plan::branches::Aside;
use crate::plan::recovery::{Aim, Archive, NoWay, Way, show};
use crate::seal::is_protected;
use crate::{destination, ops};

/// How long ago the stream of an original that is taken to be alive received something, at most.
const ALIVE: TimeDelta = TimeDelta::hours(1);

/// Warnings below a plan.
pub fn notes(args: &RestoreArgs, cluster: &Cluster, way: &Way, aim: &Aim, now: Moment) -> Vec<String> {
    let asides = cluster.archive.asides_of(way, aim);
    let mut notes: Vec<String> = asides.iter().map(|aside| lacks(aside, way)).collect();
    if let Aim::Xid(named) | Aim::Name(named) = aim {
        notes.push(format!(
            "whether `{named}` is in the log cannot be checked beforehand: a server that does not find it ends with an error"
        ));
    }
    notes.extend(archiving(args, cluster, now));
    notes
}

/// What another timeline has and the chosen one lacks.
fn lacks(aside: &Aside, way: &Way) -> String {
    format!(
        "timeline {} has {} from {} to {} that timeline {} lacks: they parted at {}. `--target-timeline {}` takes them",
        aside.timeline,
        counted(aside.commits, "commit", "commits"),
        show(aside.from),
        show(aside.to),
        way.reach.timeline,
        aside.parting,
        aside.timeline
    )
}

/// That the restored server archives into the stream of an original that may be alive.
pub fn archiving(args: &RestoreArgs, cluster: &Cluster, now: Moment) -> Option<String> {
    let flags = &args.cluster;
    let apart = flags.archive_mode_off || flags.standby || (flags.isolated && args.cluster.start);
    let received = cluster.received.filter(|received| now - *received < ALIVE && !apart)?;
    let shown = received.format("%Y-%m-%dT%H:%M:%SZ");
    Some(format!(
        "once started, this server archives into the same stream as the original, which sent something at {shown}: if the original \
         lives, this forks its history. For a test beside it: `--archive-mode-off`, or `--start --isolated`"
    ))
}

/// Why the server could not fetch its log with the identities at hand: it runs as another user, and nobody types for it.
pub fn identity(context: &Context) -> Option<Failure> {
    let is_root = rustix::process::geteuid().is_root();
    for path in context.identity_files() {
        let mut start = [0; 19];
        let read = std::fs::File::open(&path).and_then(|mut file| file.read_exact(&mut start));
        if read.is_ok() && is_protected(&start) && std::env::var_os("LIFEBOAT_PASSPHRASE_FILE").is_none() {
            let text = format!(
                "the server fetches its own log with `{}`, which a passphrase protects, and nobody types it for the server",
                path.display()
            );
            let hint = "Write the passphrase into a file that the server's user can read, and name that: LIFEBOAT_PASSPHRASE_FILE=FILE. \
                        Each segment takes a second longer then; `age -d -o id IDENTITY` makes an unprotected copy for the restore.";
            return Some(Failure::usage(text, hint));
        }
        let meta = std::fs::metadata(&path).ok()?;
        if is_root && meta.uid() == 0 && meta.mode() & 0o077 == 0 {
            let text = format!("the server fetches its own log, and `{}` is for root alone to read", path.display());
            let hint = "Give the server's user a copy for the restore, and name that: `install -o postgres -m 600 IDENTITY COPY`, then \
                        `--identity COPY`.";
            return Some(Failure::usage(text, hint));
        }
    }
    None
}

/// Why a cluster cannot go there, with what helps a cluster.
pub fn of_cluster(error: ops::Error) -> Failure {
    let hint = match &error {
        ops::Error::Destination(destination::Error::NotEmpty(_)) => {
            "Choose an empty directory; or make what is there into this cluster, and keep what is right of it: `--delta`."
        }
        ops::Error::Destination(destination::Error::NoSpace { .. }) => {
            "A cluster is restored as a whole: make room, or choose another `--into`."
        }
        _ => return error.into(),
    };
    Failure::from(error).with_hint(hint)
}

/// Where one base backup was named, that one is spoken of, and the newest that serves.
pub fn of_named(error: NoWay, cluster: &Cluster, asked: &Archive, is_named: bool) -> NoWay {
    let (NoWay::Pending { name, missing }, Some(base), true) = (&error, asked.bases.first(), is_named) else {
        return error;
    };
    let all = cluster.archive.bases.iter();
    let complete = all.filter(|base| cluster.archive.choose_from(base).is_some());
    let newest = complete.max_by_key(|base| base.backup.stopped).map(|base| base.id);
    NoWay::ThisPending { name: name.clone(), base: base.id, missing: *missing, newest }
}
