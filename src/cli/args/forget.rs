//! Flags of `forget`, `pin` and `unpin`.

use clap::Args;

use crate::model::{Retention, Span};

pub const FORGET_HELP: &str = "\
Examples:
  lifeboat forget --all --dry-run                    what the policies of the configuration keep, and why
  lifeboat forget data --keep-daily 14 --keep-weekly 8 --keep-monthly 12
  lifeboat forget app-db --window 14d --keep-monthly 6    a cluster: any second of 14 days, and a base backup a month
  lifeboat forget data --simulate 90d                what would be there after ninety nights
  lifeboat forget --snapshot 01JZ8M4E5Q              one snapshot, by name
  lifeboat forget --all --prune                      and free what nothing needs any more

A forgotten snapshot is in no list any more, and does not come back; `--prune`, or `lifeboat prune`, frees its space. The newest complete snapshot, \
pinned ones, and those of a source without a policy stay. docs/retention.md explains every reason.

Exit codes: 0 done, 1 not done, 2 wrong command line or configuration, or a snapshot that has to stay, 4 no such snapshot, \
10 no repository there, 12 no key opens it, 13 this host's log has a hole, 130 interrupted; with --prune also those of `lifeboat prune`.";

/// `forget`.
#[derive(Debug, Args)]
pub struct ForgetArgs {
    /// Sources, of the configuration or not
    #[arg(value_name = "SOURCE")]
    pub sources: Vec<String>,
    /// All sources of which this host has snapshots
    #[arg(long, conflicts_with_all = ["sources", "snapshot"])]
    pub all: bool,
    /// A snapshot by its id, or the beginning of it, whatever the policy says
    #[arg(long, value_name = "ID", conflicts_with_all = ["sources", "simulate"])]
    pub snapshot: Vec<String>,
    /// Show what stays and what goes, and why, and stop
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Show what would be there after so long with one backup a night, as 90d, and stop
    #[arg(long, value_name = "TIME")]
    pub simulate: Option<Span>,
    /// Free the bytes that nothing needs any more afterwards, as `lifeboat prune` does
    #[arg(long, conflicts_with = "simulate")]
    pub prune: bool,
    #[command(flatten)]
    pub policy: PolicyArgs,
}

/// What to keep; a flag wins over the same key of the configuration.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "What to keep; each wins over the same key of the configuration")]
pub struct PolicyArgs {
    /// The newest N
    #[arg(long, value_name = "N")]
    pub keep_last: Option<u32>,
    /// The newest of each of the last N hours that have any
    #[arg(long, value_name = "N")]
    pub keep_hourly: Option<u32>,
    /// The same of days
    #[arg(long, value_name = "N")]
    pub keep_daily: Option<u32>,
    /// The same of weeks
    #[arg(long, value_name = "N")]
    pub keep_weekly: Option<u32>,
    /// The same of months
    #[arg(long, value_name = "N")]
    pub keep_monthly: Option<u32>,
    /// The same of quarters
    #[arg(long, value_name = "N")]
    pub keep_quarterly: Option<u32>,
    /// The same of years
    #[arg(long, value_name = "N")]
    pub keep_yearly: Option<u32>,
    /// All that are at most so much older than the newest, as 48h, 14d, 6mo or 10y
    #[arg(long, value_name = "TIME")]
    pub keep_within: Option<Span>,
    /// One of each hour that is at most so much older than the newest
    #[arg(long, value_name = "TIME")]
    pub keep_within_hourly: Option<Span>,
    /// The same of days
    #[arg(long, value_name = "TIME")]
    pub keep_within_daily: Option<Span>,
    /// The same of weeks
    #[arg(long, value_name = "TIME")]
    pub keep_within_weekly: Option<Span>,
    /// The same of months
    #[arg(long, value_name = "TIME")]
    pub keep_within_monthly: Option<Span>,
    /// The same of quarters
    #[arg(long, value_name = "TIME")]
    pub keep_within_quarterly: Option<Span>,
    /// The same of years
    #[arg(long, value_name = "TIME")]
    pub keep_within_yearly: Option<Span>,
    /// All with this label
    #[arg(long, value_name = "TAG")]
    pub keep_tag: Vec<String>,
    /// So many complete ones, whatever else is said
    #[arg(long, value_name = "N")]
    pub min_snapshots: Option<u32>,
    /// Of a cluster: any second of so long can be restored
    #[arg(long, value_name = "TIME")]
    pub window: Option<Span>,
    /// The zone of hours, days and months, as Europe/Berlin [default: this machine's]
    #[arg(long, value_name = "ZONE")]
    pub timezone: Option<String>,
}

impl PolicyArgs {
    /// The flags as a policy.
    pub fn policy(&self) -> Retention {
        let of = self.clone();
        Retention {
            keep_last: of.keep_last,
            keep_hourly: of.keep_hourly,
            keep_daily: of.keep_daily,
            keep_weekly: of.keep_weekly,
            keep_monthly: of.keep_monthly,
            keep_quarterly: of.keep_quarterly,
            keep_yearly: of.keep_yearly,
            keep_within: of.keep_within,
            keep_within_hourly: of.keep_within_hourly,
            keep_within_daily: of.keep_within_daily,
            keep_within_weekly: of.keep_within_weekly,
            keep_within_monthly: of.keep_within_monthly,
            keep_within_quarterly: of.keep_within_quarterly,
            keep_within_yearly: of.keep_within_yearly,
            keep_tag: (!of.keep_tag.is_empty()).then_some(of.keep_tag),
            min_snapshots: of.min_snapshots,
            window: of.window,
            timezone: of.timezone,
        }
    }
}

/// `pin` and `unpin`.
#[derive(Debug, Args)]
pub struct PinArgs {
    /// Snapshots: their ids, or the beginnings of them
    #[arg(value_name = "SNAPSHOT", required = true)]
    pub snapshots: Vec<String>,
}
