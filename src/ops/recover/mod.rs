//! A restored data directory brought to life: a server of the right major version is started on it, replays its log, and the
//! end is proven.
//!
//! Invariants: that a server answers is no proof; proven is the place in the log that it came to, by its own files where it was
//! promoted or shut down, by its own word where it stays in recovery. A server that came to less than was promised is stopped.
//! Whoever gives up stops the server. Not here: laying the files down, and which end is expected (`plan::recovery`).

mod evidence;
mod launch;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;

pub use self::evidence::Post;
pub use self::launch::{Isolation, Launch, Server, owner_beside_root, start_scratch};
use super::Error;
use crate::format::pg_control::State;
use crate::model::{Lsn, Timeline};
use crate::progress::{Event, Progress};

/// How often a server is looked at.
const PAUSE: Duration = Duration::from_millis(50);

/// Why a restored cluster was not brought to where it should be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecoverError {
    /// PostgreSQL refuses to run as root, and the directory belongs to root.
    #[error("PostgreSQL does not run as root, and `{}` belongs to root", .0.display())]
    AsRoot(PathBuf),
    /// The configuration lay outside of the data directory.
    #[error("`{}` has no postgresql.conf: on the host that was backed up it was `{was}`", directory.display())]
    NoConfiguration {
        /// The data directory.
        directory: PathBuf,
        /// Where it lay there.
        was: String,
    },
    /// The server ended before it was where it should be.
    #[error("the server ended before the end of its recovery ({status}); its log is `{}`", log.display())]
    Ended {
        /// How.
        status: String,
        /// Its log.
        log: PathBuf,
        /// What it said last.
        source: LastWords,
    },
    /// It came to less than the repository has.
    #[error("the server ended its recovery at {reached}, and the log that is stored leads to {least}: it was stopped")]
    Short {
        /// Where it came to.
        reached: Lsn,
        /// Where it had to come to at least.
        least: Lsn,
        /// Its log.
        log: PathBuf,
    },
    /// Its files do not say where recovery ended.
    #[error("where the recovery of `{}` ended cannot be told: {why}", directory.display())]
    Unproven {
        /// The data directory.
        directory: PathBuf,
        /// Why.
        why: String,
    },
    /// It does not let us ask.
    #[error("the server runs, and does not say how far it has replayed")]
    Unasked {
        /// What it answered.
        source: LastWords,
    },
    /// Something of the host's.
    #[error("could not {doing} `{}`", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A person gave it up; the server was stopped.
    #[error("the recovery was given up, and the server stopped")]
    GivenUp,
}

/// The lines of a program that say why it ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LastWords(pub String);

/// Where a server stands when its recovery is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// It accepts writes, on a timeline of its own.
    Promoted,
    /// It stays readable at the target.
    Paused,
    /// It has stopped at the target.
    ShutDown,
    /// It follows the archive.
    Standby,
}

/// What is expected of a recovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// How it ends.
    pub end: End,
    /// Where replay must have come to at least.
    pub least: Lsn,
    /// The timeline that was followed.
    pub timeline: Timeline,
}

/// A recovery that is where it should be.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Proof {
    /// How it ended.
    pub end: End,
    /// Where replay came to.
    pub reached: Lsn,
    /// Where it had to come to at least.
    pub least: Lsn,
    /// The timeline that it is on now.
    pub timeline: Timeline,
    /// Seconds until the server could be talked to, or had ended.
    pub start_seconds: f64,
    /// Seconds from there until the end of the replay.
    pub replay_seconds: f64,
    /// The server's log.
    pub log: PathBuf,
    /// Where it listens; nothing where it has stopped.
    pub post: Option<Post>,
}

/// Waits until a server is where it is expected, and proves it. On every failure the server is stopped.
pub fn prove(server: &mut Server, expected: Expected, progress: &dyn Progress) -> Result<Proof, Error> {
    progress.event(Event::Stage("replaying the log"));
    let proven = wait(server, expected, progress);
    if proven.is_err() {
        server.stop();
    }
    proven.map_err(Error::from)
}

fn wait(server: &mut Server, expected: Expected, progress: &dyn Progress) -> Result<Proof, RecoverError> {
    let begun = Instant::now();
    let mut answering: Option<Duration> = None;
    let proof = |at: Option<Duration>, timeline, reached, post| {
        let took = begun.elapsed();
        let start = at.unwrap_or(took);
        Proof {
            end: expected.end,
            reached,
            least: expected.least,
            timeline,
            start_seconds: start.as_secs_f64(),
            replay_seconds: (took - start).as_secs_f64(),
            log: PathBuf::new(),
            post,
        }
    };
    let proof = loop {
        if progress.cancelled() {
            return Err(RecoverError::GivenUp);
        }
        if let Some(status) = server.ended() {
            if expected.end != End::ShutDown {
                return Err(server.last_words(status));
            }
            let reached = shut_down(server, status, expected)?;
            break proof(answering, expected.timeline, reached, None);
        }
        let post = server.post();
        if post.is_some() {
            answering.get_or_insert_with(|| begun.elapsed());
        }
        let done = match (post, expected.end) {
            (Some(post), End::Promoted) => {
                let done = promoted(server, expected)?;
                done.map(|(timeline, reached)| proof(answering, timeline, reached, Some(post)))
            }
            (Some(post), End::Paused | End::Standby) => {
                let reached = server.replayed(&post, expected)?;
                reached.map(|reached| proof(answering, expected.timeline, reached, Some(post)))
            }
            _ => None,
        };
        match done {
            Some(done) => break done,
            None => std::thread::sleep(PAUSE),
        }
    };
    // Alive when it is claimed to be: a server may go down with its last step.
    match server.ended() {
        Some(status) if expected.end != End::ShutDown => Err(server.last_words(status)),
        _ => Ok(Proof { log: server.log().to_owned(), ..proof }),
    }
}

/// A promoted server has written a history of its new timeline, and with it where its replay ended. It answers before, as a
/// standby; that it has left recovery is in its control file.
fn promoted(server: &Server, expected: Expected) -> Result<Option<(Timeline, Lsn)>, RecoverError> {
    let unproven = |why: String| RecoverError::Unproven { directory: server.directory().to_owned(), why };
    if evidence::control(server.directory()).map_err(unproven)?.state != State::InProduction {
        return Ok(None);
    }
    let (timeline, reached) = evidence::last_switch(server.directory(), expected.timeline).map_err(unproven)?;
    compare(server, reached, expected)?;
    Ok(Some((timeline, reached)))
}

/// A server that stopped at its target has noted how far it came.
fn shut_down(server: &Server, status: std::process::ExitStatus, expected: Expected) -> Result<Lsn, RecoverError> {
    let unproven = |why: String| RecoverError::Unproven { directory: server.directory().to_owned(), why };
    let control = evidence::control(server.directory()).map_err(unproven)?;
    if control.state != State::ShutDownInRecovery {
        return Err(server.last_words(status));
    }
    compare(server, control.min_recovery, expected)?;
    Ok(control.min_recovery)
}

fn compare(server: &Server, reached: Lsn, expected: Expected) -> Result<(), RecoverError> {
    match reached >= expected.least {
        true => Ok(()),
        false => Err(RecoverError::Short { reached, least: expected.least, log: server.log().to_owned() }),
    }
}
