//! Flags of `wal`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::model::{Lsn, SegmentName};

const PUSH_HELP: &str = "\
In postgresql.conf:
  archive_mode = on
  archive_command = 'lifeboat wal push %p'

Exit codes: 0 the file is durable in the repository; anything else (1 to 125): it is not, and PostgreSQL keeps it and calls again.";
const GET_HELP: &str = "\
`lifeboat restore` writes this command into the restored directory's settings.

Exit codes: 0 the file is in its place; 1 it is not there, and nothing behind it is: the end of the log; 255 anything else: a gap, a
store that does not answer, a wrong key. At 255 the server stops; it must not take trouble for the end and lose what follows.";

/// `wal`.
#[derive(Debug, Subcommand)]
pub enum WalCommand {
    /// Store a file of PostgreSQL's log: for archive_command
    #[command(after_help = PUSH_HELP)]
    Push(WalPushArgs),
    /// Bring a file of the log back: for restore_command
    #[command(after_help = GET_HELP)]
    Get(WalGetArgs),
    /// What `wal get` starts to have the next segments ready; it ends by itself
    #[command(hide = true)]
    FetchAhead(WalAheadArgs),
}

/// `wal fetch-ahead`.
#[derive(Debug, Args)]
pub struct WalAheadArgs {
    /// The stream
    #[arg(long)]
    pub stream: String,
    /// The writer that has it
    #[arg(long)]
    pub writer: Option<String>,
    /// The segment that holds this place is brought by the call for it
    #[arg(long)]
    pub cut: Option<Lsn>,
    /// The segment that is asked for first
    #[arg(long)]
    pub first: SegmentName,
    /// The folder that is kept filled; it goes at the end. Its socket is this process's standard input
    #[arg(long)]
    pub folder: PathBuf,
    /// Nothing from this segment on
    #[arg(long)]
    pub ends_at: Option<SegmentName>,
}

/// `wal push`.
#[derive(Debug, Args)]
pub struct WalPushArgs {
    /// The file, as PostgreSQL gives it: %p
    pub path: PathBuf,
    /// The source that it belongs to, where the configuration has several of kind postgres
    #[arg(long, value_name = "NAME")]
    pub source: Option<String>,
    /// Further waiting segments that are sent beside it, at most
    #[arg(long, value_name = "N", default_value_t = crate::ops::wal::AHEAD)]
    pub ahead: usize,
}

/// `wal get`.
#[derive(Debug, Args)]
pub struct WalGetArgs {
    /// The file's name: %f
    pub name: String,
    /// Where it is wanted: %p
    pub target: PathBuf,
    /// The stream, as `timeline` and `restore` say it
    #[arg(long, value_name = "STREAM")]
    pub stream: Option<String>,
    /// The source, where no stream is given and the configuration has several of kind postgres
    #[arg(long, value_name = "NAME")]
    pub source: Option<String>,
    /// The writer whose log it is, where several have that stream: those of a cluster that moved from host to host
    #[arg(long, value_name = "WRITER")]
    pub writer: Option<String>,
    /// A restore to a moment before a gap, or to the end as it was then: from this segment on, absence is the answer. The server reads ahead of its target
    #[arg(long, value_name = "SEGMENT")]
    pub ends_at: Option<SegmentName>,
    /// The same within a segment: it is served with zeros from this place on
    #[arg(long, value_name = "LSN")]
    pub cut: Option<Lsn>,
    /// Whether the next segments are fetched before they are asked for, by a process that ends by itself
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub ahead: bool,
    /// For a standby, which asks again: whatever cannot be had is exit 1
    #[arg(long)]
    pub standby: bool,
    /// A file at whose end the milliseconds that this call took are written: for drills
    #[arg(long, value_name = "FILE", hide = true)]
    pub note_time: Option<std::path::PathBuf>,
}

/// What the server does when it has reached its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Action {
    /// Accept writes, on a new timeline
    Promote,
    /// Stay readable and wait
    Pause,
    /// Stop
    Shutdown,
}

impl Action {
    /// As PostgreSQL spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Promote => "promote",
            Self::Pause => "pause",
            Self::Shutdown => "shutdown",
        }
    }
}

/// Which of several timelines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimelineArg {
    /// The newest.
    Latest,
    /// That of the base backup.
    Current,
    /// This one.
    Number(u32),
}

impl std::str::FromStr for TimelineArg {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let number = match text.strip_prefix("0x") {
            Some(digits) => u32::from_str_radix(digits, 16),
            None => text.parse(),
        };
        match (text, number) {
            ("latest", _) => Ok(Self::Latest),
            ("current", _) => Ok(Self::Current),
            (_, Ok(number)) if number > 0 => Ok(Self::Number(number)),
            _ => Err("a timeline is a number, as 2 or 0x2, or `latest` or `current`".to_owned()),
        }
    }
}

/// Flags of `restore` that belong to PostgreSQL clusters.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "PostgreSQL clusters")]
pub struct ClusterArgs {
    /// Replay up to this place in the log, as 16/B374D848
    #[arg(long, value_name = "LSN", conflicts_with_all = ["to", "snapshot"])]
    pub lsn: Option<Lsn>,
    /// Replay up to this transaction
    #[arg(long, value_name = "XID", conflicts_with_all = ["to", "snapshot", "lsn"])]
    pub xid: Option<String>,
    /// Replay up to this restore point, made by pg_create_restore_point
    #[arg(long, value_name = "NAME", conflicts_with_all = ["to", "snapshot", "lsn", "xid"])]
    pub point: Option<String>,
    /// Replay until the base backup is consistent, and no further
    #[arg(long, conflicts_with_all = ["to", "snapshot", "lsn", "xid", "point"])]
    pub immediate: bool,
    /// The timeline to follow: a number, `current` for the base backup's own, or `latest` [default: latest]
    #[arg(long, value_name = "TIMELINE")]
    pub target_timeline: Option<TimelineArg>,
    /// What the server does at the target
    #[arg(long, value_enum, default_value = "promote", value_name = "ACTION")]
    pub target_action: Action,
    /// The restored server does not archive: for a test beside the original
    #[arg(long)]
    pub archive_mode_off: bool,
    /// The restored server stays a standby that follows the archive
    #[arg(long)]
    pub standby: bool,
    /// Restore a tablespace to a place of its own: OLD is its path, name or number [default: inside of --into]
    #[arg(long, value_name = "OLD=NEW")]
    pub tablespace_map: Vec<String>,
    /// Restore all other tablespaces into directories of this one, by their names
    #[arg(long, value_name = "DIR")]
    pub tablespace_map_all: Option<PathBuf>,
    /// Restore also where replay would make a later tablespace on files that lie there: the original must not run on this host
    #[arg(long)]
    pub allow_later_tablespaces: bool,
    /// Start a server on it, wait until it is where it was asked for, and prove that
    #[arg(long)]
    pub start: bool,
    /// With --start: nothing but a socket in its directory, no archiving, nothing preloaded
    #[arg(long, requires = "start")]
    pub isolated: bool,
    /// With --delta: DIR holds another cluster, or something else, and goes
    #[arg(long, requires = "into")]
    pub replace_other_cluster: bool,
}
