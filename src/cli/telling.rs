//! What happens around a deed: hooks, messages to whoever wants to hear, a note of the run.
//!
//! Invariants: a message that does not arrive, or a note that cannot be written, changes nothing about the deed; a `before` that fails is the
//! only hook that keeps it from being done; `failed` and `finally` run whatever happened, also when somebody asked to stop.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Outcome;
use super::args::{BackupArgs, Command};
use super::context::{Context, host_name};
use super::output::{duration, must_end, take_warnings};
use super::report::Failure;
use crate::model::{Moment, SnapshotId};
use crate::notify::{
    Channel, Event, HookError, Hooks, MemoryFile, Message, Run, RunNotes, SourceRun, Stage, run_hook, send,
};
use crate::ops::Kind;

/// Lines of an error and warnings that a message has at most.
const LINES_MAX: usize = 12;

/// What is known of the run of this process.
#[derive(Debug, Default)]
pub struct Told {
    run: Mutex<Option<String>>,
    parts: Mutex<Vec<SourceRun>>,
}

fn locked<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The name of a command whose runs are told, and what it is about; nothing of those that only look.
pub fn told_command(command: &Command) -> Option<(&'static str, String)> {
    let list = |names: &[String], all: bool| match (names.is_empty(), all) {
        (true, _) => "all".to_owned(),
        (false, _) => names.join(","),
    };
    Some(match command {
        Command::Backup(args) => ("backup", backup_scope(args)),
        Command::Canary(args) => ("canary", list(&args.sources, true)),
        Command::Follow(args) => ("follow", args.source.clone()),
        Command::Forget(args) if !args.dry_run && args.simulate.is_none() => ("forget", list(&args.sources, args.all)),
        Command::Prune(args) if !args.dry_run => ("prune", "all".to_owned()),
        Command::Copy(args) if !args.dry_run => ("copy", "all".to_owned()),
        Command::Check(args) => ("check", args.live.clone().unwrap_or_else(|| "all".to_owned())),
        Command::Repair(args) if !args.dry_run => ("repair", "all".to_owned()),
        Command::Restore(args) if !args.dry_run => {
            ("restore", args.group.clone().unwrap_or_else(|| args.source.clone()))
        }
        Command::Drill(args) if args.command.is_none() && !args.sabotage => {
            ("drill", args.group.clone().unwrap_or_else(|| list(&args.sources, args.all)))
        }
        Command::Status(args) if args.notify => ("status", list(&args.sources, true)),
        _ => return None,
    })
}

fn backup_scope(args: &BackupArgs) -> String {
    match (&args.group, &args.name, args.sources.is_empty()) {
        (Some(group), ..) => group.clone(),
        (None, Some(name), _) => name.clone(),
        (None, None, true) => "all".to_owned(),
        (None, None, false) => args.sources.join(","),
    }
}

/// A deed that is told.
struct Deed<'c> {
    context: &'c Context,
    command: &'static str,
    scope: String,
    source: Option<&'c str>,
    run: String,
    began: Moment,
    clock: Instant,
    channels: Vec<Channel>,
    /// A start that is being told while the deed goes on.
    starting: Option<JoinHandle<()>>,
}

/// Runs a command with all that belongs around it.
pub fn around(
    context: &Context,
    (command, scope): (&'static str, String),
    deed: impl FnOnce() -> Result<Outcome, Failure>,
) -> Result<Outcome, Failure> {
    must_end();
    let run = new_run(context);
    *locked(&context.told.run) = Some(run.clone());
    let hooks = context.config.hooks.as_ref().map(crate::config::HooksSection::hooks).unwrap_or_default();
    let mut deed_of = Deed::begin(context, command, scope, None, run);
    let result = deed_of.with_hooks(&hooks, deed);
    let result = deed_of.end(result);
    deed_of.note(&result);
    result
}

/// Does a command's part for one source, with all that belongs around it.
pub fn around_source(
    context: &Context,
    command: &'static str,
    source: &str,
    deed: impl FnOnce() -> Result<Outcome, Failure>,
) -> Result<Outcome, Failure> {
    let run = locked(&context.told.run).clone().unwrap_or_else(|| new_run(context));
    let section = context.config.sources.get(source).and_then(|section| section.hooks.as_ref());
    let hooks = section.map(crate::config::HooksSection::hooks).unwrap_or_default();
    let mut deed_of = Deed::begin(context, command, source.to_owned(), Some(source), run);
    let result = deed_of.with_hooks(&hooks, deed);
    let result = deed_of.end(result);
    locked(&context.told.parts).push(SourceRun {
        source: source.to_owned(),
        exit_code: code(&result),
        seconds: deed_of.clock.elapsed().as_secs_f64(),
        error: result.as_ref().err().map(Failure::said),
    });
    result
}

fn new_run(context: &Context) -> String {
    let mut random = [0; 10];
    // A run without chance in its name is still a run.
    let _ = getrandom::fill(&mut random);
    SnapshotId::new(context.now().timestamp_millis().max(0) as u64, random).to_string()
}

fn code(result: &Result<Outcome, Failure>) -> u8 {
    match result {
        Ok(outcome) => outcome.code(),
        Err(failure) => failure.kind() as u8,
    }
}

/// How grave an exit code is: whether a later failure of the same run is another piece of news.
fn graveness(code: u8) -> u8 {
    match code {
        0 => 0,
        3 | 22 | 130 => 1,
        20 | 21 => 2,
        13 => 4,
        _ => 3,
    }
}

impl<'c> Deed<'c> {
    fn begin(context: &'c Context, command: &'static str, scope: String, source: Option<&'c str>, run: String) -> Self {
        let mut channels = Vec::new();
        for channel in context.config.channels() {
            match channel {
                // Parts are for those who named their sources, wholes for the others.
                Ok(channel) if channel.sources.is_empty() == source.is_none() => channels.push(channel),
                Ok(_) => {}
                Err((name, why)) if source.is_none() => {
                    context.ui.warning(format!("nothing is told through `{name}`: {why}"));
                }
                Err(_) => {}
            }
        }
        let mut deed = Self { source, channels, ..Self::silent(context, command, scope, run) };
        let message = deed.message(Event::Start, format!("{} began", deed.name()), Vec::new(), None);
        deed.starting = deed.send_meanwhile(message);
        deed
    }

    /// One that tells nobody.
    fn silent(context: &'c Context, command: &'static str, scope: String, run: String) -> Self {
        let (began, clock) = (context.now(), Instant::now());
        Self { context, command, scope, source: None, run, began, clock, channels: Vec::new(), starting: None }
    }

    /// `backup of app on host`.
    fn name(&self) -> String {
        let of = if self.scope == "all" { String::new() } else { format!(" of {}", self.scope) };
        format!("{}{of} on {}", self.command, host_name(None))
    }

    fn message(&self, event: Event, title: String, lines: Vec<String>, exit_code: Option<u8>) -> Message {
        Message {
            event,
            subject: format!("run/{}/{}", self.command, self.scope),
            command: self.command.to_owned(),
            sources: self.source.iter().map(|source| (*source).to_owned()).collect(),
            run: self.run.clone(),
            host: host_name(None),
            at: self.context.now(),
            exit_code,
            seconds: exit_code.map(|_| self.clock.elapsed().as_secs_f64()),
            weight: exit_code.map_or(0, graveness),
            parts: self.failed_parts(),
            title,
            lines,
        }
    }

    /// Sources whose part of the whole failed.
    fn failed_parts(&self) -> BTreeSet<String> {
        let parts = locked(&self.context.told.parts);
        let failed = parts.iter().filter(|part| self.source.is_none() && part.exit_code != 0);
        failed.map(|part| part.source.clone()).collect()
    }

    /// The sources that a scope means.
    fn sources_of(&self, scope: &str) -> Vec<String> {
        let config = &self.context.config;
        match (scope, config.groups.get(scope)) {
            ("all", _) => config.sources.keys().cloned().collect(),
            (_, Some(group)) => group.sources.clone(),
            (names, None) => names.split(',').map(str::to_owned).collect(),
        }
    }

    /// Those who named their sources hear of a whole that ended before there were parts, or that has none, as of a part: they would hear
    /// nothing else.
    fn tell_of_sources(&self, message: &Message, failed: bool) {
        let has_no_parts = matches!(self.command, "follow" | "restore");
        let is_of_sources = matches!(self.command, "backup" | "canary" | "drill" | "forget") && failed;
        if self.source.is_some() || !locked(&self.context.told.parts).is_empty() || !(has_no_parts || is_of_sources) {
            return;
        }
        let channels: Vec<Channel> = self
            .context
            .config
            .channels()
            .into_iter()
            .flatten()
            .filter(|channel| !channel.sources.is_empty())
            .collect();
        for source in self.sources_of(&self.scope) {
            let subject = format!("run/{}/{source}", self.command);
            tell(self.context, &channels, &Message { subject, sources: vec![source], ..message.clone() });
        }
    }

    /// What failed under another scope (`drill app`) is right again when the same was done under this one (`drill --all`).
    fn recover_scopes(&self) {
        let prefix = format!("run/{}/", self.command);
        let known = memory_of(self.context).map(|file| file.read().troubles(&prefix)).unwrap_or_default();
        if self.source.is_some() || known.is_empty() {
            return;
        }
        let done: BTreeSet<String> = {
            let parts = locked(&self.context.told.parts);
            parts.iter().filter(|part| part.exit_code == 0).map(|part| part.source.clone()).collect()
        };
        for subject in known {
            let Some(scope) = subject.strip_prefix(&prefix).filter(|scope| *scope != self.scope) else { continue };
            if self.sources_of(scope).iter().all(|source| done.contains(source)) {
                let title = format!("right again: {} of {scope} on {}", self.command, host_name(None));
                let message = self.message(Event::Recovered, title, Vec::new(), None);
                tell(self.context, &self.channels, &Message { subject, parts: BTreeSet::new(), ..message });
            }
        }
    }

    fn with_hooks(&self, hooks: &Hooks, deed: impl FnOnce() -> Result<Outcome, Failure>) -> Result<Outcome, Failure> {
        let before = self.run_all(hooks, Stage::Before, &json!({}));
        let mut result = match before {
            // A defect must not keep `finally` from running, nor anybody from hearing of it.
            Ok(()) => catch_unwind(AssertUnwindSafe(deed)).unwrap_or_else(|_| {
                Err(Failure::new(
                    Kind::Failed,
                    "lifeboat met a defect of its own and stopped; standard error says where",
                    None,
                ))
            }),
            Err(HookError::Stopped) => Err(crate::repository::Error::Cancelled.into()),
            Err(e) => {
                let hint =
                    format!("Nothing was done. Run the line by hand, or take it out of the hooks of `{}`.", self.scope);
                Err(Failure::new(Kind::Failed, e.to_string(), Some(hint)))
            }
        };
        let end = self.document(&result);
        let stage = if matches!(result, Ok(Outcome::Done)) { Stage::After } else { Stage::Failed };
        for stage in [stage, Stage::Finally] {
            if let Err(e) = self.run_all(hooks, stage, &end) {
                self.context.ui.warning(&e);
                // What a person counts on (`unpause`, `mount -o ro`) was not done.
                if matches!(result, Ok(Outcome::Done)) {
                    result = Ok(Outcome::Incomplete);
                }
            }
        }
        result
    }

    /// All lines of a stage; the first that fails ends `before`, of the others each has its turn.
    fn run_all(&self, hooks: &Hooks, stage: Stage, end: &Value) -> Result<(), HookError> {
        let lines = hooks.lines(stage, self.command);
        if lines.is_empty() {
            return Ok(());
        }
        let mut document = json!({
            "message_type": "hook", "stage": stage.word(), "command": self.command, "source": self.source, "scope": self.scope,
            "run": self.run, "host": host_name(None), "began": self.began,
        });
        if let (Some(document), Some(end)) = (document.as_object_mut(), end.as_object()) {
            document.extend(end.clone());
        }
        let mut facts = vec![
            ("LIFEBOAT_HOOK", stage.word().to_owned()),
            ("LIFEBOAT_COMMAND", self.command.to_owned()),
            ("LIFEBOAT_RUN", self.run.clone()),
        ];
        facts.extend(self.source.map(|source| ("LIFEBOAT_SOURCE", source.to_owned())));
        if let Some(code) = end.get("exit_code") {
            facts.push(("LIFEBOAT_EXIT_CODE", code.to_string()));
        }
        let stop = || stage == Stage::Before && self.context.stop.load(Ordering::Relaxed);
        let mut first = Ok(());
        for line in lines {
            let ran = run_hook(line, stage, &document, &facts, hooks.patience, &stop);
            if stage == Stage::Before {
                ran?;
            } else if first.is_ok() {
                first = ran;
            } else if let Err(e) = ran {
                self.context.ui.warning(&e);
            }
        }
        first
    }

    /// How it ended, for hooks.
    fn document(&self, result: &Result<Outcome, Failure>) -> Value {
        let mut end = json!({
            "exit_code": code(result), "seconds": self.clock.elapsed().as_secs_f64(), "error": Value::Null, "hint": Value::Null,
        });
        if let Err(failure) = result {
            let lines = failure.lines();
            end["error"] = json!(failure.said());
            end["hint"] = json!(lines.iter().find_map(|line| line.strip_prefix("hint: ")));
        }
        if self.source.is_none() {
            end["sources"] = json!(*locked(&self.context.told.parts));
        }
        end
    }

    /// Tells how it ended.
    fn end(&mut self, result: Result<Outcome, Failure>) -> Result<Outcome, Failure> {
        if self.context.config.notify.is_empty() {
            return result;
        }
        let exit_code = code(&result);
        let took = duration(self.clock.elapsed().as_secs_f64());
        let (event, title) = match (&result, exit_code) {
            (_, 0) => (Event::Success, format!("{}: done in {took}", self.name())),
            (Ok(outcome), _) => {
                (Event::Failure, format!("{}: {} (exit code {exit_code})", self.name(), outcome.words()))
            }
            (Err(failure), _) => {
                (Event::Failure, format!("{} FAILED (exit code {exit_code}): {}", self.name(), failure.said()))
            }
        };
        let mut lines = Vec::new();
        if let Err(failure) = &result {
            lines.extend(failure.lines().into_iter().skip(1));
        }
        if self.source.is_none() {
            let parts = locked(&self.context.told.parts);
            lines.extend(parts.iter().filter(|part| part.exit_code != 0).map(|part| {
                let why = part.error.as_ref().map_or(String::new(), |error| format!(": {error}"));
                format!("{}: exit code {}{why}", part.source, part.exit_code)
            }));
            lines.extend(take_warnings(false).into_iter().map(|text| format!("warning: {text}")));
        }
        lines.truncate(LINES_MAX);
        if let Some(starting) = self.starting.take() {
            // In their order, or a switch would take the end for the end of another run.
            let _ = starting.join();
        }
        let message = self.message(event, title, lines, Some(exit_code));
        tell(self.context, &self.channels, &message);
        self.tell_of_sources(&message, result.is_err());
        self.recover_scopes();
        result
    }

    /// Sends a start while the deed goes on: a service that is slow must not delay a backup.
    fn send_meanwhile(&self, message: Message) -> Option<JoinHandle<()>> {
        let channels: Vec<Channel> = self.channels.iter().filter(|channel| channel.takes(&message)).cloned().collect();
        if channels.is_empty() {
            return None;
        }
        Some(std::thread::spawn(move || {
            for channel in channels {
                if let Err(e) = send(&channel, &message) {
                    tracing::warn!(channel = channel.name, %e, "a start was not told");
                }
            }
        }))
    }

    /// Notes the run on this host.
    fn note(&self, result: &Result<Outcome, Failure>) {
        let error = result.as_ref().err().map(|failure| {
            let lines = failure.lines();
            lines.join("; ").trim_start_matches("error: ").to_owned()
        });
        let run = Run {
            id: self.run.clone(),
            command: match self.scope.as_str() {
                "all" => self.command.to_owned(),
                scope => format!("{} {scope}", self.command),
            },
            began: self.began,
            ended: self.context.now(),
            exit_code: code(result),
            error,
            sources: locked(&self.context.told.parts).clone(),
            warnings: take_warnings(true),
        };
        // Only beside a repository that this host knows: a mistyped command leaves no folder behind.
        let state = self.context.own_state_dir().ok().filter(|state| state.is_dir());
        let noted = state.map(|state| RunNotes::in_state(&state).add(&run));
        if let Some(Err(e)) = noted {
            tracing::warn!(%e, "the run is not noted for the status page");
        }
    }
}

/// A run that does not end by itself, and that others wait for: whoever heard that it failed hears that it goes on.
pub struct GoesOn<'c> {
    context: &'c Context,
    command: &'static str,
    source: String,
    began: Instant,
    told: bool,
}

/// What ends sooner has not gone on.
const GOES_ON_AFTER: Duration = Duration::from_secs(15);

impl<'c> GoesOn<'c> {
    /// It began.
    pub fn new(context: &'c Context, command: &'static str, source: &str) -> Self {
        Self { context, command, source: source.to_owned(), began: Instant::now(), told: false }
    }

    /// It did something.
    pub fn does(&mut self) {
        if self.told || self.began.elapsed() < GOES_ON_AFTER {
            return;
        }
        self.told = true;
        let run = locked(&self.context.told.run).clone().unwrap_or_default();
        let all = self.context.config.channels().into_iter().flatten();
        let (of_sources, of_wholes): (Vec<_>, Vec<_>) = all.partition(|channel| !channel.sources.is_empty());
        let deed = Deed::silent(self.context, self.command, self.source.clone(), run);
        let title = format!("right again: {} goes on", deed.name());
        let message = deed.message(Event::Recovered, title, Vec::new(), None);
        tell(self.context, &of_wholes, &message);
        tell(self.context, &of_sources, &Message { sources: vec![self.source.clone()], ..message });
    }
}

/// Tells the channels that want it, all at once; what does not arrive is a warning.
pub fn tell(context: &Context, channels: &[Channel], message: &Message) {
    for (channel, sent) in deliver(context, channels, message) {
        if let Err(e) = sent {
            context.ui.warning(format!("`{channel}` was not told: {e}"));
        }
    }
}

/// Who has heard what of this repository: two on one host do not speak for each other.
pub fn memory_of(context: &Context) -> Option<MemoryFile> {
    let state = context.own_state_dir().ok()?;
    Some(MemoryFile::in_state(&state, &context.url().unwrap_or_default()))
}

/// Tells the channels that want it, all at once, and remembers who has heard.
pub fn deliver(
    context: &Context,
    channels: &[Channel],
    message: &Message,
) -> Vec<(String, Result<(), crate::notify::Error>)> {
    let wanting: Vec<&Channel> = channels.iter().filter(|channel| channel.takes(message)).collect();
    if wanting.is_empty() {
        return Vec::new();
    }
    let memory = memory_of(context);
    let pass = |memory: &mut crate::notify::Memory| -> Vec<(&Channel, Message)> {
        let passed = wanting.iter().filter_map(|channel| Some((*channel, memory.pass(channel, message)?)));
        passed.collect()
    };
    let passed = match &memory {
        Some(file) => {
            let (passed, kept) = file.change(pass);
            if let Err(e) = kept {
                tracing::warn!(%e, "what was told is not remembered, and will be told again");
            }
            passed
        }
        None => pass(&mut crate::notify::Memory::default()),
    };
    let sent: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            passed.iter().map(|(channel, message)| scope.spawn(move || send(channel, message))).collect();
        threads.into_iter().map(|thread| thread.join()).collect()
    });
    let mut answers = Vec::new();
    for ((channel, message), sent) in passed.iter().zip(sent) {
        let lost = || Err(crate::notify::Error::Address("the sender failed".to_owned()));
        let sent = sent.unwrap_or_else(|_| lost());
        if let Some(file) = &memory {
            let _ = file.change(|memory| match &sent {
                Ok(()) => memory.arrived(&channel.name, message),
                Err(e) => memory.unsent(channel, message, &e.to_string()),
            });
        }
        answers.push((channel.name.clone(), sent));
    }
    answers
}
