//! `backup --pause SOURCE`: a Convex deployment that stands still while its database is captured, and goes on afterwards in any case.
//!
//! A process of its own pauses the deployment and resumes it: when it is told to, when the backup that started it is gone (its standard
//! input ends), when it is told to stop, and after [`LONGEST`]. A note on disk says that a deployment is paused by us; where even that
//! process was killed, the next backup of this host resumes it. Invariant: what somebody else has paused stays paused.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::cli::Outcome;
use crate::cli::args::PauseGuardArgs;
use crate::cli::context::Context;
use crate::cli::report::Failure;
use crate::client::convex::{Deployment, Rights};
use crate::config::Plan;
use crate::ops;
use crate::repository::Lock;
use crate::source::convex::{ConvexOptions, resolve};

/// No capture takes so long; behind it something is wrong, and an app that stands still is worse.
const LONGEST: Duration = Duration::from_secs(15 * 60);
/// The guard says these.
const PAUSED: &str = "paused";
const AS_IT_WAS: &str = "as it was";
/// A deployment that does not answer when it is to be resumed is asked again for so many seconds.
const RESUME_TRIES: u32 = 60;
/// The same where nobody waits but the next backup.
const RESUME_TRIES_LATER: u32 = 3;
/// An older note says nothing any more: a person has resumed it, or knows why not.
const NOTE_LASTS: Duration = Duration::from_secs(24 * 3600);

fn options(context: &Context, name: &str) -> Result<ConvexOptions, Failure> {
    let section = context.config.sources.get(name);
    match section.and_then(|section| section.plan(name).ok()) {
        Some(Plan::Convex(options)) => Ok(*options),
        _ => Err(Failure::usage(
            format!("`--pause {name}`: the configuration has no Convex deployment of that name"),
            "Name the source of kind `convex` whose data is captured: it says the URL and the key.",
        )),
    }
}

/// Where it is noted that a deployment is paused by us. Two configurations may have a source of one name.
fn note(context: &Context, name: &str, deployment: &Deployment) -> Result<PathBuf, Failure> {
    let url = blake3::hash(deployment.place().as_bytes()).to_hex();
    Ok(context.state_dir()?.join("paused").join(format!("{name}-{}", &url[..8])))
}

/// A deployment that is paused around each capture.
pub(super) struct Pausing {
    command: Mutex<Command>,
    name: String,
    deployment: Deployment,
    /// Whether it may still be paused though we are done.
    left: Arc<AtomicBool>,
}

impl Pausing {
    /// Nothing is paused yet. A deployment that an earlier run left paused is resumed first.
    pub fn new(context: &Context, name: &str) -> Result<Arc<Self>, Failure> {
        let options = options(context, name)?;
        let deployment = resolve(&options, context.now(), Rights::Full, Arc::default()).map_err(ops::Error::from)?;
        let exe = std::env::current_exe().map_err(|e| Failure::io("find", std::path::Path::new("lifeboat"), e))?;
        let mut command = Command::new(exe);
        if let Some(file) = &context.config_file {
            command.arg("--config").arg(file);
        }
        command.arg("--state-dir").arg(context.state_dir()?).arg("pause-guard").arg(name);
        // A group of its own: what ends the backup by the terminal is no reason to end before the deployment goes on.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).process_group(0);
        let left = Arc::default();
        Ok(Arc::new(Self { command: Mutex::new(command), name: name.to_owned(), deployment, left }))
    }

    /// Fails where the deployment could not be resumed.
    pub fn check(&self) -> Result<(), Failure> {
        match self.left.load(Ordering::Relaxed) {
            true => resume(&self.deployment, 1),
            false => Ok(()),
        }
    }

    /// Pauses. It goes on when the answer is dropped.
    pub fn begin(&self) -> Result<Box<dyn Send>, String> {
        let fail = |what: String| format!("the deployment `{}` could not be paused: {what}", self.name);
        let mut child =
            self.command.lock().unwrap_or_else(PoisonError::into_inner).spawn().map_err(|e| fail(e.to_string()))?;
        let mut said = String::new();
        let out = child.stdout.take().map(BufReader::new);
        let read = out.map_or(Ok(0), |mut out| out.read_line(&mut said));
        match read.map(|_| said.trim()) {
            Ok(word @ (PAUSED | AS_IT_WAS)) => {
                let (input, left, is_ours) = (child.stdin.take(), Arc::clone(&self.left), word == PAUSED);
                Ok(Box::new(Paused { input, child, deployment: self.deployment.clone(), is_ours, left }))
            }
            Ok(_) => {
                let _ = child.wait();
                Err(fail("its own message is above".to_owned()))
            }
            Err(e) => Err(fail(e.to_string())),
        }
    }
}

struct Paused {
    input: Option<ChildStdin>,
    child: Child,
    deployment: Deployment,
    is_ours: bool,
    left: Arc<AtomicBool>,
}

impl Drop for Paused {
    fn drop(&mut self) {
        drop(self.input.take());
        let is_well = self.child.wait().is_ok_and(|status| status.success());
        // The guard was killed, or could not: then it is ours to do.
        if self.is_ours && !is_well && resume(&self.deployment, RESUME_TRIES).is_err() {
            self.left.store(true, Ordering::Relaxed);
        }
    }
}

/// Resumes what a run that was killed together with its guard left paused.
pub(super) fn resume_left(context: &Context) -> Result<(), Failure> {
    if !context.state_dir()?.join("paused").exists() {
        return Ok(());
    }
    for name in context.config.sources.keys() {
        let Ok(options) = options(context, name) else { continue };
        let Ok(deployment) = resolve(&options, context.now(), Rights::Full, Arc::default()) else { continue };
        let note = note(context, name, &deployment)?;
        // A guard that is alive holds it.
        let Ok(Some(_held)) = (if note.exists() { Lock::try_alone(&note) } else { Ok(None) }) else { continue };
        let age = note.metadata().and_then(|meta| meta.modified()).ok().and_then(|at| at.elapsed().ok());
        let is_old = age.is_some_and(|age| age > NOTE_LASTS);
        match deployment.state() {
            Ok(Some(state)) if state == "paused" && !is_old => {}
            Ok(_) => {
                let _ = std::fs::remove_file(&note);
                continue;
            }
            Err(_) => continue,
        }
        // What is wrong with it is no reason to leave other sources without a backup.
        match resume(&deployment, RESUME_TRIES_LATER) {
            Ok(()) => {
                let _ = std::fs::remove_file(&note);
                context.ui.warning(format!("`{name}` was left paused by a backup that was killed; it goes on now"));
            }
            Err(failure) => failure.print(&mut std::io::stderr().lock(), context.ui.json),
        }
    }
    Ok(())
}

fn resume(deployment: &Deployment, most: u32) -> Result<(), Failure> {
    let mut tries = 0;
    loop {
        tries += 1;
        match deployment.unpause() {
            Ok(()) => return Ok(()),
            Err(e) if e.may_pass() && tries < most => {
                std::thread::sleep(Duration::from_secs(1));
            }
            // Somebody else resumed it.
            Err(_) if deployment.state().is_ok_and(|state| state.as_deref() == Some("running")) => return Ok(()),
            Err(e) => {
                let hint = format!(
                    "IT IS STILL PAUSED. `curl -X POST -H \"Authorization: Convex $KEY\" {}/api/v1/unpause_deployment` ends that.",
                    deployment.place()
                );
                return Err(Failure::from(ops::Error::from(e)).with_hint(hint));
            }
        }
    }
}

/// The process that pauses and resumes.
pub fn guard(context: &Context, args: &PauseGuardArgs) -> Result<Outcome, Failure> {
    let options = options(context, &args.source)?;
    let deployment = resolve(&options, context.now(), Rights::Full, Arc::default()).map_err(ops::Error::from)?;
    let say = |word: &str| {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{word}").and_then(|()| out.flush());
    };
    let state = deployment.state().map_err(ops::Error::from)?;
    if state.as_deref().is_some_and(|state| state != "running") {
        say(AS_IT_WAS);
        wait_for_end(context);
        return Ok(Outcome::Done);
    }
    let note = note(context, &args.source, &deployment)?;
    let folder = note.parent().unwrap_or(&note);
    std::fs::create_dir_all(folder).map_err(|e| Failure::io("make", folder, e))?;
    let held = Lock::try_alone(&note).map_err(|e| Failure::io("lock", &note, e))?;
    let _held =
        held.ok_or_else(|| Failure::usage("another backup pauses this deployment now", "Wait until it has ended."))?;
    let done = deployment.pause().map_err(ops::Error::from).map_err(Failure::from).map(|()| {
        say(PAUSED);
        wait_for_end(context);
    });
    // An answer that was lost may mean that it is paused all the same.
    let resumed = match (&done, deployment.state()) {
        (Err(_), Ok(Some(state))) if state == "running" => Ok(()),
        // One that cannot be paused is not.
        (Err(_), Ok(None)) => Ok(()),
        _ => resume(&deployment, RESUME_TRIES),
    };
    resumed?;
    std::fs::remove_file(&note).map_err(|e| Failure::io("remove", &note, e))?;
    done.map(|()| Outcome::Done)
}

/// Until the backup is gone or has what it wants, somebody stops us, or it takes too long.
fn wait_for_end(context: &Context) {
    let over = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&over);
    std::thread::spawn(move || {
        let _ = std::io::stdin().lock().read_to_end(&mut Vec::new());
        told.store(true, Ordering::Relaxed);
    });
    let begun = Instant::now();
    let is_told = || over.load(Ordering::Relaxed) || context.stop.load(Ordering::Relaxed);
    while !is_told() && begun.elapsed() < LONGEST {
        std::thread::sleep(Duration::from_millis(10));
    }
}
