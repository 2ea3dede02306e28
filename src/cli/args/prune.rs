//! Flags of `prune`.

use clap::Args;

use crate::model::Span;

pub const PRUNE_HELP: &str = "\
Examples:
  lifeboat prune --dry-run                 what could be freed, and when
  lifeboat forget --all --prune            in cron, behind the backup: forget by policy, then free
  lifeboat prune --max-unused 0%           copy whatever is partly unused
  lifeboat prune --time-limit 1h --max-repack-size 10G
  lifeboat prune --keeper                  on a keeper: of every host that it keeps (docs/keys.md)

Nothing goes at once. What nothing needs is retired: no later backup refers to it. After the grace (a day, by the store's clock) a later \
prune reads the log again, spares what is needed after all, and deletes the rest. It needs no identity, frees what this host stored, \
and may be killed at any moment. docs/retention.md says what is promised.

Exit codes: 0 done, 1 not done, 2 wrong command line or configuration, 3 done but the store did not let everything go, \
10 no repository there, 11 another prune is at work on this host, 12 no key opens it, 13 this host's log does not tell everything, or \
stored bytes are damaged: nothing, or not all, was freed, 130 interrupted.";

/// `prune`.
#[derive(Debug, Args)]
pub struct PruneArgs {
    /// Show what would be freed, and stop
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Free what the hosts stored that this one keeps, not what it stored itself
    #[arg(long)]
    pub keeper: bool,
    /// With --keeper: of this writer alone; several times for several
    #[arg(long, value_name = "WRITER", requires = "keeper")]
    pub of: Vec<String>,
    #[command(flatten)]
    pub how: HowArgs,
}

/// How much, and how fast; a flag wins over the same key of `[prune]`.
#[derive(Debug, Clone, Default, Args)]
pub struct HowArgs {
    /// Unused bytes that may stay, in percent of those that are needed [default: 3%]
    #[arg(long, value_name = "PERCENT")]
    pub max_unused: Option<String>,
    /// Bytes that are copied at most, as 10G
    #[arg(long, value_name = "SIZE")]
    pub max_repack_size: Option<String>,
    /// Begin no further pack after so long, as 1h; the next prune goes on
    #[arg(long, value_name = "TIME")]
    pub time_limit: Option<String>,
    /// How long what is retired waits before it is deleted, as 24h or 7d [default: 24h]
    #[arg(long, value_name = "TIME")]
    pub grace: Option<Span>,
}
