//! The mouth: flags, words, progress bars, exit codes. Parse, resolve, run, exit.

mod args;
mod commands;
mod context;
mod drill_page;
mod line;
mod output;
mod progress;
mod report;
mod runbook;
mod telling;
pub mod time;
mod viewer;
mod waking;
mod wal_args;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::{CommandFactory, Parser};

use args::{CatalogCommand, Cli, Command, KeyCommand, NotifyCommand};
use context::Context;
use report::Failure;
use wal_args::WalCommand;

/// How a command ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Completely.
    Done,
    /// Something was skipped.
    Incomplete,
    /// Damage was found.
    Damage,
    /// The store is not one to rely on.
    Unfit,
    /// What was asked for is not there, which is an answer.
    Absent,
    /// Trouble was told already, and the answer must not be taken for absence.
    Trouble,
    /// A drill took longer than the objective allows.
    RtoMissed,
    /// The newest recovery point is older than the objective allows.
    RpoMissed,
    /// No green drill is young enough.
    DrillOverdue,
    /// What Nagios calls critical.
    Critical,
}

impl Outcome {
    /// The exit code (docs/exit-codes.md).
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Incomplete => 3,
            Self::Damage => 13,
            Self::Unfit | Self::Absent => 1,
            Self::Trouble => 255,
            Self::RtoMissed => 20,
            Self::RpoMissed => 21,
            Self::DrillOverdue => 22,
            Self::Critical => 2,
        }
    }

    /// What it says, for whoever was not there.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Incomplete => "not complete, or something should be looked at",
            Self::Damage => "DAMAGE was found",
            Self::Unfit => "not done",
            Self::Absent => "not there",
            Self::Trouble => "trouble",
            Self::RtoMissed => "the RTO was MISSED",
            Self::RpoMissed => "the RPO was MISSED",
            Self::DrillOverdue => "a drill is OVERDUE",
            Self::Critical => "CRITICAL",
        }
    }
}

/// Runs the command line of this process and returns its exit code.
pub fn main() -> ExitCode {
    // PostgreSQL reads these two exit codes as orders: whatever `wal get` ends with below 126 but success is the end of the log,
    // and whatever `wal push` ends with above 125 takes the archiver down. A mistyped flag or a defect must be neither.
    let words: Vec<std::ffi::OsString> = std::env::args_os().collect();
    let calls = |verb: &str| words.windows(2).any(|pair| pair[0] == "wal" && pair[1] == verb);
    if calls("get") || calls("push") {
        let code = std::panic::catch_unwind(run_for_server).unwrap_or(101);
        return ExitCode::from(match (calls("get"), code) {
            (true, 0 | 1) | (false, 0..=125) => code,
            (true, _) => 255,
            (false, _) => 1,
        });
    }
    ExitCode::from(run_process(Cli::parse()))
}

/// The same for a command that a server runs: bad flags are an exit code too.
fn run_for_server() -> u8 {
    match Cli::try_parse() {
        Ok(cli) => run_process(cli),
        Err(e) => {
            let _ = e.print();
            // 1 would be an answer.
            if e.use_stderr() { 2 } else { 0 }
        }
    }
}

fn run_process(cli: Cli) -> u8 {
    start_log(cli.global.verbose);
    let is_get = matches!(cli.command, Command::Wal(WalCommand::Get(_)));
    let stop = Arc::new(AtomicBool::new(false));
    catch_signals(&stop);
    let json = cli.global.json;
    match run(cli, stop) {
        Ok(outcome) => outcome.code(),
        Err(failure) => {
            failure.print(&mut std::io::stderr().lock(), json);
            // Of `wal get` 1 means that the log ends here: a failure of ours never says that.
            if is_get && failure.kind() as u8 == 1 { 255 } else { failure.kind() as u8 }
        }
    }
}

fn run(cli: Cli, stop: Arc<AtomicBool>) -> Result<Outcome, Failure> {
    // These need neither configuration nor repository.
    match cli.command {
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "lifeboat", &mut script);
            // A reader that went away (`| head`) is no failure.
            let _ = std::io::stdout().write_all(&script);
            return Ok(Outcome::Done);
        }
        Command::Man { dir } => return commands::man::run(&Cli::command(), dir.as_deref()),
        Command::Demo(args) => return commands::demo::run(&args, cli.global, stop),
        _ => {}
    }
    if cli.global.as_of.is_some() && !reads(&cli.command) {
        let hint = "Restore what was there with `lifeboat --as-of TIME restore ...`; back up and forget without it.";
        return Err(Failure::usage("with `--as-of` a store is read, never written", hint));
    }
    let context = match Context::new(cli.global.clone(), Arc::clone(&stop)) {
        // On a bad day the configuration may be what is lost.
        Err(failure) if matches!(cli.command, Command::Runbook(_)) => {
            let context = Context::without_configuration(cli.global, stop);
            context.ui.warning(failure.said());
            context
        }
        other => other?,
    };
    context::reach_person();
    match telling::told_command(&cli.command) {
        Some(told) => telling::around(&context, told, || run_command(&context, cli.command)),
        None => run_command(&context, cli.command),
    }
}

fn run_command(context: &Context, command: Command) -> Result<Outcome, Failure> {
    match command {
        Command::Init(args) => commands::init::run(context, &args),
        Command::Backup(args) => commands::backup::run(context, &args),
        Command::Snapshots(args) => commands::look::snapshots(context, &args),
        Command::Ls(args) => commands::look::ls(context, &args),
        Command::Find(args) => commands::look::find(context, &args),
        Command::Bootstrap(args) => commands::bootstrap::run(context, &args),
        Command::Compare(args) => commands::compare::compare(context, &args),
        Command::Undelete(args) => commands::compare::undelete(context, &args),
        Command::Diff(args) => commands::look::diff(context, &args),
        Command::Dump(args) => commands::look::dump(context, &args),
        Command::Stats(args) => match &args.source {
            Some(source) => commands::look::tables(context, source, &args.which),
            None => commands::look::stats(context),
        },
        Command::Forget(args) => commands::forget::run(context, &args),
        Command::Prune(args) => commands::prune::run(context, &args),
        Command::Copy(args) => commands::copy::run(context, &args),
        Command::Pin(args) => commands::forget::pin(context, &args, true),
        Command::Unpin(args) => commands::forget::pin(context, &args, false),
        Command::Accept(args) => commands::forget::accept(context, &args),
        Command::Restore(mut args) => args.settle().and_then(|()| commands::restore::run(context, &args)),
        Command::Status(args) => commands::status::run(context, &args),
        Command::Canary(args) => commands::canary::run(context, &args),
        Command::Notify(NotifyCommand::Test { channels }) => commands::notify::test(context, &channels),
        Command::Serve(args) => commands::serve::run(context, &args),
        Command::Agent(args) => commands::agent::run(context, &args),
        Command::Drill(args) => commands::drill::run(context, &args),
        Command::Runbook(args) => commands::runbook::run(context, &args),
        Command::Repair(args) => commands::repair::run(context, &args),
        Command::Check(args) => match &args.live {
            Some(source) => commands::live::run(context, source, &args.wal_timeout),
            None => commands::check::run(context, &args),
        },
        Command::ValidateStore(args) => commands::validate_store::run(context, &args),
        Command::Timeline(args) => commands::timeline::run(context, &args),
        Command::PauseGuard(args) => commands::pause::guard(context, &args),
        Command::Follow(args) => commands::follow::run(context, &args),
        Command::Wal(WalCommand::Push(args)) => commands::wal::run_push(context, &args),
        Command::Wal(WalCommand::Get(args)) => commands::wal::run_get(context, &args),
        Command::Wal(WalCommand::FetchAhead(args)) => commands::wal::run_ahead(context, &args),
        Command::Catalog(CatalogCommand::Rebuild) => commands::catalog::rebuild(context),
        Command::Key(KeyCommand::Generate { output }) => commands::key::generate(context, &output),
        Command::Key(KeyCommand::List) => commands::key::list(context),
        Command::Key(KeyCommand::Add { recipients }) => commands::recipients::change(context, &recipients, true),
        Command::Key(KeyCommand::Remove { recipients }) => commands::recipients::change(context, &recipients, false),
        Command::Key(KeyCommand::Pin { list }) => commands::recipients::pin(context, list),
        Command::Key(KeyCommand::Rewrap { dry_run, time_limit }) => {
            commands::recipients::rewrap(context, dry_run, time_limit.as_deref())
        }
        Command::Key(KeyCommand::Export { paper }) => commands::paper::export(context, &paper),
        Command::Key(KeyCommand::Request { output, host }) => commands::key::request(context, &output, host.as_deref()),
        Command::Key(KeyCommand::Admit { request }) => commands::key::admit(context, &request),
        Command::Key(KeyCommand::Revoke { writer, since, dry_run }) => {
            commands::writers::revoke(context, &writer, since.as_deref(), dry_run)
        }
        Command::Key(KeyCommand::Keeper { keeper, of, all, hold, end }) => {
            let given = commands::keeper::Given { keeper: &keeper, of: &of, all, hold };
            if end { commands::keeper::end(context, &given) } else { commands::keeper::set(context, &given) }
        }
        Command::Key(KeyCommand::Adopt { writer, host }) => commands::writers::adopt(context, &writer, host.as_deref()),
        Command::Completions { .. } | Command::Man { .. } | Command::Demo(_) => Ok(Outcome::Done),
    }
}

/// Whether a command only reads the repository: what `--as-of` is for.
fn reads(command: &Command) -> bool {
    matches!(
        command,
        Command::Snapshots(_)
            | Command::Ls(_)
            | Command::Find(_)
            | Command::Bootstrap(_)
            | Command::Compare(_)
            | Command::Diff(_)
            | Command::Dump(_)
            | Command::Stats(_)
            | Command::Restore(_)
            | Command::Timeline(_)
            | Command::Check(_)
            | Command::Key(KeyCommand::List)
            | Command::Wal(WalCommand::Get(_) | WalCommand::FetchAhead(_))
    )
}

fn start_log(verbose: u8) {
    let level = match verbose {
        0 => "error",
        1 => "lifeboat=info",
        2 => "lifeboat=debug",
        _ => "debug",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("LIFEBOAT_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .without_time()
        .init();
}

/// The first Ctrl-C or SIGTERM asks to stop; a second one ends the process at once, which loses nothing that was
/// committed.
fn catch_signals(stop: &Arc<AtomicBool>) {
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        let armed = signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(stop));
        let asked = armed.and_then(|_| signal_hook::flag::register(signal, Arc::clone(stop)));
        if let Err(e) = asked {
            tracing::warn!(%e, "signals cannot be caught; Ctrl-C ends at once");
        }
    }
}
