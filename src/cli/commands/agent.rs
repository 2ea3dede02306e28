//! `agent`: what runs when, on hosts without cron. A run is this program in a process of its own, as cron would start it.
//!
//! Invariants: nothing wakes between what is due; a job runs once at a time, and one that was missed is made up for once; what ended is
//! known by its exit code and told by itself; what could not tell (killed, not begun) is told here; who is told to end ends its runs as
//! Ctrl-C would, and waits for them. Not here: when something is due (`schedule`).

mod children;
mod memory;

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use chrono::TimeDelta;
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};

use self::children::{Child, Ended};
use self::memory::{AgentMemory, Held, HeldJob};
use super::serve::Page;
use crate::cli::Outcome;
use crate::cli::args::{AgentArgs, ServeArgs};
use crate::cli::context::{Context, host_name};
use crate::cli::output::duration;
use crate::cli::report::Failure;
use crate::cli::telling::tell;
use crate::cli::waking::Waking;
use crate::config::Job;
use crate::model::Moment;
use crate::notify::{Event, Message};
use crate::ops::Kind;
use crate::plan::restore::show;
use crate::schedule::Due;
use crate::serve::JobView;

/// How long runs may take to end where nobody says.
const STOP: Duration = Duration::from_secs(90);
/// Waits before what follows a stream is begun again.
const AGAIN: [i64; 4] = [5, 15, 60, 300];

/// What the agent knows.
struct Agent<'c> {
    context: &'c Context,
    jobs: Vec<Job>,
    memory: AgentMemory,
    running: Vec<Child>,
    following: Vec<Following>,
    /// Whether it was said that the memory cannot be written.
    said: bool,
    /// This program, as it was called: after an upgrade the new one is at its place.
    program: PathBuf,
    /// Exit codes of the runs of this agent.
    codes: Vec<u8>,
}

/// A stream that is followed.
struct Following {
    source: String,
    child: Option<Child>,
    /// Ends in a row that came soon.
    failures: usize,
    /// When it is begun again.
    again: Option<Moment>,
}

fn failed(what: &'static str) -> impl Fn(std::io::Error) -> Failure {
    move |e| Failure::new(Kind::Failed, format!("{what}: {e}"), None)
}

/// Runs it.
pub fn run(context: &Context, args: &AgentArgs) -> Result<Outcome, Failure> {
    let wrong = |(section, why): (String, String)| Failure::usage(format!("{section}: {why}"), "See docs/agent.md.");
    let jobs = context.config.jobs(&host_name(None)).map_err(wrong)?;
    let follow = context.config.agent.as_ref().map(|agent| agent.follow.clone()).unwrap_or_default();
    if jobs.is_empty() && follow.is_empty() {
        let hint = "Add a job: [agent.jobs.nightly] with `at = \"30 3 * * *\"` and `run = \"backup --all\"`. docs/agent.md has a whole one.";
        return Err(Failure::usage("the configuration has nothing for an agent to do", hint));
    }
    let state = context.own_state_dir()?;
    if args.dry_run {
        return plan(context, &jobs, &follow, &Held::read(&state));
    }
    context.refuse_others_state()?;
    let waking = Waking::new(&[SIGINT, SIGTERM, SIGCHLD]).map_err(failed("signals cannot be waited for"))?;
    let program = std::env::current_exe().map_err(failed("this program does not find itself"))?;
    let memory = AgentMemory::open(&state)?;
    let following = follow.into_iter().map(|source| Following { source, child: None, failures: 0, again: None });
    let mut agent = Agent {
        context,
        jobs,
        memory,
        running: Vec::new(),
        following: following.collect(),
        said: false,
        program,
        codes: Vec::new(),
    };
    if args.once {
        return agent.once(&waking);
    }
    let serves = context.config.serve.in_agent.unwrap_or(context.config.serve.listen.is_some());
    let page = serves.then(|| Page::open(context, &ServeArgs::default(), waking.bell())).transpose()?;
    if let Some(page) = &page {
        context.ui.answer(format!("serving   http://{}", page.place()))?;
    }
    agent.go_on(&waking, page)
}

/// What would run when.
fn plan(context: &Context, jobs: &[Job], follow: &[String], held: &Held) -> Result<Outcome, Failure> {
    let now = context.now();
    for job in jobs {
        let since = held.since(&job.name).unwrap_or(now);
        let (when, at) = match job.table.due(since, now) {
            Due::Now { scheduled, missed: true } => (format!("now: missed at {}", show(scheduled)), Some(now)),
            Due::Now { .. } => ("now".to_owned(), Some(now)),
            Due::At { begins, .. } => (show(begins), Some(begins)),
            Due::Never => ("never: no day that comes is named".to_owned(), None),
        };
        if context.ui.json {
            context.ui.json(&serde_json::json!({"message_type": "job", "job": job.name, "run": job.words, "at": job.at, "next": at}))?;
        } else {
            context.ui.answer(format!("{when:22}  {:12}  lifeboat {}", job.name, job.words.join(" ")))?;
        }
    }
    for source in follow {
        if context.ui.json {
            context.ui.json(&serde_json::json!({"message_type": "follow", "source": source}))?;
        } else {
            context.ui.answer(format!("{:22}  {source:12}  lifeboat follow {source}", "always"))?;
        }
    }
    Ok(Outcome::Done)
}

impl Agent<'_> {
    /// Runs what is due, waits for it, ends.
    fn once(&mut self, waking: &Waking) -> Result<Outcome, Failure> {
        self.begin_due();
        while !self.running.is_empty() {
            if self.context.stop.load(Ordering::Relaxed) {
                self.stop_all();
                return Err(crate::repository::Error::Cancelled.into());
            }
            waking.wait(None).map_err(failed("no timer"))?;
            self.reap();
        }
        Ok(if self.codes.iter().all(|code| *code == 0) { Outcome::Done } else { Outcome::Unfit })
    }

    /// Goes on until it is told to end.
    fn go_on(&mut self, waking: &Waking, mut page: Option<Page>) -> Result<Outcome, Failure> {
        let watchdog = sd_notify::watchdog_enabled().and_then(|every| TimeDelta::from_std(every / 2).ok());
        let jobs = self.jobs.len();
        self.context.ui.story(format!("agent     {jobs} jobs, {} streams", self.following.len()));
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        let mut first = true;
        while !self.context.stop.load(Ordering::Relaxed) {
            let ended = self.reap();
            let mut next = self.begin_due();
            next = earliest(next, self.begin_following());
            if let Some(page) = &mut page {
                // After a run, and when somebody looks.
                page.refresh_soon(self.context, || self.views(), ended || first);
            }
            first = false;
            if let Some(every) = watchdog {
                let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
                next = earliest(next, Some(self.context.now() + every));
            }
            if self.context.stop.load(Ordering::Relaxed) {
                break;
            }
            waking.wait(next).map_err(failed("no timer"))?;
        }
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        self.stop_all();
        self.context.ui.story("stopped");
        Ok(Outcome::Done)
    }

    /// Begins what is due. When something is due next.
    fn begin_due(&mut self) -> Option<Moment> {
        let (mut next, now) = (None, self.context.now());
        for n in 0..self.jobs.len() {
            let name = self.jobs[n].name.clone();
            let since = match self.memory.held.since(&name) {
                Some(since) if since <= now => since,
                // One that is new begins with its next time; one that a clock noted that was ahead too, or it would wait until then.
                _ => {
                    self.note(&name, |held| held.since = now);
                    now
                }
            };
            match self.jobs[n].table.due(since, now) {
                Due::Now { scheduled, missed } => {
                    self.note(&name, |held| held.since = scheduled);
                    if self.running.iter().any(|child| child.name == name) {
                        self.told(
                            &name,
                            "late",
                            format!(
                                "{name} still runs since {}: the run of {} is passed over",
                                self.since(&name),
                                show(scheduled)
                            ),
                        );
                    } else {
                        self.begin(n, scheduled, missed);
                    }
                    // Its next time is asked for in the next turn, which comes at once.
                    next = earliest(next, Some(now));
                }
                Due::At { begins, passed_over, .. } => {
                    if let Some(missed) = passed_over {
                        self.note(&name, |held| held.since = missed);
                        self.context
                            .ui
                            .warning(format!("{name}: the run of {} was missed, and is not made up for", show(missed)));
                    }
                    next = earliest(next, Some(begins));
                }
                Due::Never => {}
            }
        }
        next
    }

    /// Changes what is remembered of a job. That it cannot be written is said once.
    fn note(&mut self, name: &str, change: impl FnOnce(&mut HeldJob)) {
        match self.memory.note(name, change) {
            Ok(()) => self.said = false,
            Err(failure) if !self.said => {
                self.said = true;
                self.context.ui.warning(format!(
                    "{}; the agent goes on, and would run jobs again if it were started anew",
                    failure.said()
                ));
            }
            Err(_) => {}
        }
    }

    fn since(&self, name: &str) -> String {
        self.running.iter().find(|child| child.name == name).map_or_else(String::new, |child| show(child.began))
    }

    fn begin(&mut self, n: usize, scheduled: Moment, missed: bool) {
        let job = &self.jobs[n];
        let late = if missed { format!(", missed at {}", show(scheduled)) } else { String::new() };
        self.context.ui.story(format!("{}  begins{late}: lifeboat {}", job.name, job.words.join(" ")));
        let (name, now) = (job.name.clone(), self.context.now());
        match Child::begin(self.context, &self.program, &name, &job.words, now) {
            Ok(child) => {
                self.running.push(child);
                self.note(&name, |held| held.began = Some(now));
            }
            Err(e) => {
                self.codes.push(255);
                self.note(&name, |held| held.code = Some(255));
                self.told(&name, "begin", format!("{name} could not be begun: {e}"));
            }
        }
    }

    /// Notes what ended; whether anything did.
    fn reap(&mut self) -> bool {
        let now = self.context.now();
        let mut ended = Vec::new();
        self.running.retain_mut(|child| match child.ended() {
            None => true,
            Some(end) => {
                ended.push((child.name.clone(), child.began, end));
                false
            }
        });
        for (name, began, end) in &ended {
            let took = duration((now - *began).num_milliseconds().max(0) as f64 / 1000.0);
            let code = match end {
                // What ends before it knows its configuration, or by a defect, has told nobody.
                Ended::Code(code @ (2 | 101)) => {
                    self.told(
                        name,
                        "end",
                        format!("{name} ended with {code} after {took}: its own words are in the agent's log"),
                    );
                    *code
                }
                Ended::Code(code) => {
                    self.context.ui.story(format!("{name}  ended with {code} after {took}"));
                    self.right_again(name);
                    *code
                }
                // It could not say so itself.
                Ended::Killed(signal) => {
                    self.told(name, "end", format!("{name} was killed by signal {signal} after {took}"));
                    255
                }
            };
            self.codes.push(code);
            self.note(name, |held| held.code = Some(code));
        }
        self.reap_following(now);
        !ended.is_empty()
    }

    fn reap_following(&mut self, now: Moment) {
        let mut told = Vec::new();
        for following in &mut self.following {
            let Some(child) = &mut following.child else { continue };
            let Some(end) = child.ended() else { continue };
            // One that went on for long begins anew with the shortest wait.
            let was_short = now - child.began < TimeDelta::minutes(10);
            following.failures = if was_short { following.failures + 1 } else { 1 };
            let wait = AGAIN[(following.failures - 1).min(AGAIN.len() - 1)];
            following.again = Some(now + TimeDelta::seconds(wait));
            following.child = None;
            let how = match end {
                Ended::Code(code) => format!("ended with {code}"),
                Ended::Killed(signal) => format!("was killed by signal {signal}"),
            };
            let text = format!("follow {} {how}; begun again in {wait} s", following.source);
            match end {
                Ended::Code(2 | 101) | Ended::Killed(_) => told.push((following.source.clone(), text)),
                Ended::Code(_) => self.context.ui.warning(text),
            }
        }
        for (source, text) in told {
            self.told(&source, "end", text);
        }
    }

    /// Begins to follow what should be followed. When something is to be tried again.
    fn begin_following(&mut self) -> Option<Moment> {
        let (mut next, now) = (None, self.context.now());
        for following in &mut self.following {
            if following.child.is_some() {
                continue;
            }
            // A clock that was set back would let it wait for ever.
            let longest = now + TimeDelta::seconds(AGAIN[AGAIN.len() - 1]);
            match following.again.map(|again| again.min(longest)).filter(|again| *again > now) {
                Some(again) => next = earliest(next, Some(again)),
                None => {
                    let words = ["follow".to_owned(), following.source.clone()];
                    match Child::begin(self.context, &self.program, &following.source, &words, now) {
                        Ok(child) => following.child = Some(child),
                        Err(e) => {
                            self.context.ui.warning(format!("follow {} could not be begun: {e}", following.source));
                            following.again = Some(longest);
                            next = earliest(next, Some(longest));
                        }
                    }
                }
            }
        }
        next
    }

    /// Asks everything that runs to end, waits, and kills what does not.
    fn stop_all(&mut self) {
        let agent = self.context.config.agent.as_ref();
        let patience = agent.and_then(|agent| agent.stop_timeout).map_or(STOP, |length| length.0);
        let mut all: Vec<Child> = std::mem::take(&mut self.running);
        all.extend(self.following.iter_mut().filter_map(|following| following.child.take()));
        for (child, end) in children::end_all(all, patience) {
            match end {
                Ended::Code(code) => self.context.ui.story(format!("{}  ended with {code}", child.name)),
                Ended::Killed(_) => {
                    let patience = duration(patience.as_secs_f64());
                    if self.jobs.iter().any(|job| job.name == child.name) {
                        self.note(&child.name, |held| held.code = Some(255));
                    }
                    self.told(
                        &child.name,
                        "end",
                        format!("{} did not end within {patience}, and was killed", child.name),
                    );
                }
            }
        }
    }

    /// Warns, and tells the channels: of what could not tell itself. `what` tells its kinds apart.
    fn told(&self, name: &str, what: &str, title: String) {
        self.context.ui.warning(&title);
        self.tell(Event::Failure, format!("run/agent/{name}/{what}"), title);
    }

    /// Tells who heard that it did not: it ran to an end that it told itself.
    fn right_again(&self, name: &str) {
        for what in ["begin", "late", "end"] {
            self.tell(Event::Recovered, format!("run/agent/{name}/{what}"), format!("{name} runs again"));
        }
    }

    fn tell(&self, event: Event, subject: String, title: String) {
        let channels: Vec<_> = self.context.config.channels().into_iter().flatten().collect();
        let host = host_name(None);
        let message = Message {
            event,
            subject,
            command: "agent".to_owned(),
            sources: Vec::new(),
            run: String::new(),
            title: format!("agent on {host}: {title}"),
            host,
            at: self.context.now(),
            exit_code: None,
            seconds: None,
            weight: 1,
            parts: std::collections::BTreeSet::new(),
            lines: Vec::new(),
        };
        tell(self.context, &channels, &message);
    }

    fn views(&self) -> Vec<JobView> {
        let now = self.context.now();
        let view = |job: &Job| {
            let next = match job.table.due(self.memory.held.since(&job.name).unwrap_or(now), now) {
                Due::Now { .. } => Some(now),
                Due::At { begins, .. } => Some(begins),
                Due::Never => None,
            };
            JobView {
                name: job.name.clone(),
                words: job.words.join(" "),
                at: job.at.clone(),
                next,
                running: self.running.iter().any(|child| child.name == job.name),
                last_code: self.memory.held.last_code(&job.name),
            }
        };
        let follows = self.following.iter().map(|following| JobView {
            name: following.source.clone(),
            words: format!("follow {}", following.source),
            at: "always".to_owned(),
            next: following.again,
            running: following.child.is_some(),
            last_code: None,
        });
        self.jobs.iter().map(view).chain(follows).collect()
    }
}

fn earliest(one: Option<Moment>, other: Option<Moment>) -> Option<Moment> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
