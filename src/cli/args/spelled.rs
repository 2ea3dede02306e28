//! pgBackRest's spelling of `restore`, taken beside ours: read here, and turned into our own flags before anything else looks.

use clap::{Args, ValueEnum};

use super::RestoreArgs;
use crate::cli::report::Failure;
use crate::cli::wal_args::ClusterArgs;

/// What kind of target it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TargetType {
    /// `--to`
    Time,
    /// `--lsn`
    Lsn,
    /// `--xid`
    Xid,
    /// `--point`
    Name,
    /// `--immediate`
    Immediate,
    /// All that is there
    Default,
    /// `--standby`
    Standby,
    /// Not taken: recovery settings are always written
    #[value(hide = true)]
    Preserve,
    /// Not taken: a base backup without its log is no cluster
    #[value(hide = true)]
    None,
}

/// What becomes of archiving.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ArchiveMode {
    /// `--archive-mode-off`
    Off,
    /// As it was
    Preserve,
}

/// What pgBackRest's users type.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "PostgreSQL clusters, as pgBackRest spells it")]
pub struct SpelledArgs {
    /// What --target is: time is --to, lsn --lsn, xid --xid, name --point
    #[arg(long = "type", value_enum, value_name = "TYPE")]
    pub kind: Option<TargetType>,
    /// The target, in the form of its --type
    #[arg(long, value_name = "TARGET")]
    pub target: Option<String>,
    /// The base backup to begin with; the log is replayed to the target [default: the newest that ended before it]
    #[arg(long, value_name = "ID", conflicts_with = "snapshot")]
    pub set: Option<String>,
    /// off: the restored server does not archive
    #[arg(long, value_enum, value_name = "MODE", conflicts_with = "archive_mode_off")]
    pub archive_mode: Option<ArchiveMode>,
}

/// The flag of ours that names a target, where one was given.
fn ours(args: &RestoreArgs) -> Option<&'static str> {
    let cluster = &args.cluster;
    let all = [
        ("--to", args.which.to.is_some()),
        ("--snapshot", args.which.snapshot.is_some()),
        ("--lsn", cluster.lsn.is_some()),
        ("--xid", cluster.xid.is_some()),
        ("--point", cluster.point.is_some()),
        ("--immediate", cluster.immediate),
    ];
    all.into_iter().find(|(_, given)| *given).map(|(flag, _)| flag)
}

impl RestoreArgs {
    /// Turns pgBackRest's spelling into ours. What says two things, or half of one, is refused.
    pub fn settle(&mut self) -> Result<(), Failure> {
        use TargetType as T;
        if self.spelled.archive_mode == Some(ArchiveMode::Off) {
            self.cluster.archive_mode_off = true;
        }
        let (kind, target) = (self.spelled.kind, self.spelled.target.take());
        let Some(kind) = kind else {
            return match target {
                Some(_) => {
                    let hint = "Say what it is: `--type=time`, `lsn`, `xid` or `name`. Or in our words: `--to TIME`.";
                    Err(Failure::usage("`--target` needs `--type`", hint))
                }
                None => Ok(()),
            };
        };
        let name = kind.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
        if let Some(flag) = ours(self) {
            let text = format!("`--type={name}` and `{flag}` each name a target");
            return Err(Failure::usage(text, "Leave one of them out."));
        }
        let needs = matches!(kind, T::Time | T::Lsn | T::Xid | T::Name);
        match (needs, target) {
            (true, None) => {
                let text = format!("`--type={name}` needs `--target`");
                Err(Failure::usage(text, "As in `--type=time --target='2026-11-21 14:05:00+01'`."))
            }
            (false, Some(_)) => {
                let text = format!("`--type={name}` takes no `--target`");
                Err(Failure::usage(text, "Leave it out, or say `--type=time`, `lsn`, `xid` or `name`."))
            }
            (_, target) => self.cluster.take(kind, target, &mut self.which.to),
        }
    }
}

impl ClusterArgs {
    fn take(&mut self, kind: TargetType, target: Option<String>, to: &mut Option<String>) -> Result<(), Failure> {
        use TargetType as T;
        match kind {
            T::Time => *to = target,
            T::Lsn => {
                let lsn = target.unwrap_or_default().parse();
                self.lsn = Some(lsn.map_err(|e: crate::model::lsn::BadPlace| {
                    Failure::usage(e.to_string(), "As in `--type=lsn --target=16/B374D848`.")
                })?);
            }
            T::Xid => self.xid = target,
            T::Name => self.point = target,
            T::Immediate => self.immediate = true,
            T::Default => {}
            T::Standby => self.standby = true,
            T::Preserve | T::None => {
                return Err(Failure::usage(
                    "`--type=preserve` and `--type=none` are not taken: a base backup is no cluster before it has replayed its log",
                    "Leave `--type` out to replay all there is, or say `--immediate` to stop as soon as the cluster is consistent.",
                ));
            }
        }
        Ok(())
    }
}
