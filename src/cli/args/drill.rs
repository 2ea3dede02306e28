//! Flags of `drill` and `status`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

pub const DRILL_HELP: &str = "\
Examples:
  lifeboat drill db                                  the newest moment of a cluster, in a server of its own
  lifeboat drill db --at random                      another moment of the recovery window each time
  lifeboat drill --group nightly --at 'yesterday 18:00' --sql checks/orders.sql
  lifeboat drill db --rto 4h --rpo 1h                against objectives that the configuration does not have
  lifeboat drill db --sabotage                       damages a byte of what came back: this drill must fail
  lifeboat drill list; lifeboat drill show 01JZ8M4E5Q --html evidence.html
  lifeboat drill status --max-age 7d                 for monitoring: is there a green drill of every source?

A drill restores by the plan and the deeds of an incident, below a scratch directory that goes afterwards. A cluster's server listens \
on a socket that only its owner reaches, archives nothing and loads no libraries. docs/drills.md explains phases, checks and codes.

Exit codes: 0 everything came back and every objective was met, 1 no drill could be held (no space, no programs, the store away), \
2 wrong command line or configuration, 10 no repository there, 12 no key opens it, 13 what came back is wrong or not whole, \
20 it took longer than the objective, 21 the newest recovery point is older than the objective, \
22 (`drill status`) no green drill is young enough, 130 interrupted.";

pub const STATUS_HELP: &str = "\
Examples:
  lifeboat status                                    every source of the configuration
  lifeboat status --nagios                           one line and 0, 1, 2 or 3, as Nagios reads them
  lifeboat status --prometheus /var/lib/node_exporter/lifeboat.prom
  lifeboat --quiet status --notify                   tells what is new through [notify.NAME]

It reads the catalog, the logs and the listing of clusters' WAL; it fetches no data and needs no identity on the writing host.

Exit codes: 0 fine, 3 a warning (an incomplete or pending backup, a drill overdue), 21 an objective is missed or nothing can be \
restored, 13 a gap, damage, or a drill that found the data wrong; with `--nagios` 0, 1, 2, 3. 10 no repository there, 12 no key \
opens it.";

/// `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Sources [default: those of the configuration; without any, all of the repository]
    #[arg(value_name = "SOURCE")]
    pub sources: Vec<String>,
    /// Ask the servers first: replication slots, the archiver, how far back a deployment's changes can be read
    #[arg(long)]
    pub live: bool,
    /// One line, and exit codes as Nagios reads them
    #[arg(long, conflicts_with = "prometheus")]
    pub nagios: bool,
    /// Write metrics into FILE too, for node_exporter's textfile collector
    #[arg(long, value_name = "FILE")]
    pub prometheus: Option<PathBuf>,
    /// Tell the channels of the configuration what is wrong, and what is right again: for cron, every few minutes
    #[arg(long, conflicts_with = "nagios")]
    pub notify: bool,
}

/// `drill`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct DrillArgs {
    #[command(subcommand)]
    pub command: Option<DrillCommand>,
    /// Sources
    #[arg(value_name = "SOURCE")]
    pub sources: Vec<String>,
    /// All sources of the configuration
    #[arg(long, conflicts_with_all = ["sources", "group"])]
    pub all: bool,
    /// The sources of a group of the configuration, at one moment, as one result
    #[arg(long, value_name = "GROUP", conflicts_with = "sources")]
    pub group: Option<String>,
    /// What comes back: latest, random, random:SEED, now-rpo, or a time as `restore --to` takes it
    #[arg(long, value_name = "WHEN", default_value = "latest")]
    pub at: String,
    /// The directory below which it lands [default: the configuration's, or the system's for temporary files]
    #[arg(long, value_name = "DIR")]
    pub scratch_dir: Option<PathBuf>,
    /// Leave what was restored
    #[arg(long)]
    pub keep: bool,
    /// How long it may take, as 4h, instead of the configuration's objective
    #[arg(long, value_name = "TIME")]
    pub rto: Option<String>,
    /// How old the newest recovery point may be, instead of the configuration's objective
    #[arg(long, value_name = "TIME")]
    pub rpo: Option<String>,
    /// A file with SQL whose rows must be true, beside the configuration's
    #[arg(long, value_name = "FILE")]
    pub sql: Vec<PathBuf>,
    /// The database for it
    #[arg(long, value_name = "NAME")]
    pub database: Option<String>,
    /// A line for the shell, run in the restored directory of a tree: 0 is good
    #[arg(long, value_name = "LINE")]
    pub command_line: Option<String>,
    /// Where PostgreSQL's programs lie
    #[arg(long, value_name = "DIR")]
    pub bin_dir: Option<PathBuf>,
    /// Leave pg_amcheck, pg_checksums and the reading of every row out
    #[arg(long)]
    pub quick: bool,
    /// Damage a byte of what came back, to see that it is noticed
    #[arg(long)]
    pub sabotage: bool,
    /// Do not note the drill in the repository
    #[arg(long)]
    pub no_record: bool,
}

#[derive(Debug, Subcommand)]
pub enum DrillCommand {
    /// List the drills that were held, the newest first
    List {
        /// Of this source alone
        source: Option<String>,
    },
    /// Show one drill whole
    Show {
        /// Its id, or the beginning of it
        id: String,
        /// Write a page that needs nothing else into FILE
        #[arg(long, value_name = "FILE")]
        html: Option<PathBuf>,
    },
    /// Whether every source has a drill that passed and is young enough
    Status {
        /// How old it may be [default: the configuration's `drill_every`, else 7d]
        #[arg(long, value_name = "TIME")]
        max_age: Option<String>,
    },
}

pub const CANARY_HELP: &str = "\
Examples:
  lifeboat canary                                    of every source with `canary = true`
  */5 * * * *  lifeboat --quiet canary               from cron, so that an idle database has young recovery points too

A canary is a small thing with the time: the row of the source in `lifeboat.canary`, a document in `lifeboat_canary`, the file \
`.lifeboat-canary`. A backup writes one first. A drill looks for the newest that was there by the moment it restores. The \
repository is not needed.

Exit codes: 0 written, 1 one could not be written, 2 wrong command line or configuration, 130 interrupted.";

/// `canary`.
#[derive(Debug, Args)]
pub struct CanaryArgs {
    /// Sources of the configuration [default: all with a canary]
    #[arg(value_name = "SOURCE")]
    pub sources: Vec<String>,
}

pub const RUNBOOK_HELP: &str = "\
Examples:
  lifeboat runbook app-db --to '2026-11-20 14:05 Europe/Berlin'      its database is corrupted
  lifeboat runbook app-db --case bad-deploy --to '10min ago'
  lifeboat runbook app --case new-infrastructure > /media/usb/plan.md   before the bad day, for where the host is not

Cases: database-corrupted, bad-deploy, host-lost, region-lost, ransomware, key-lost, new-infrastructure. The page is one of docs/runbooks, for \
the kind of the source, with what this host knows filled in; what it does not know says SET THIS. It is printed too where the \
repository cannot be opened. Nothing is run.

Exit codes: 0 printed, 2 no such case, source or time.";

/// `runbook`.
#[derive(Debug, Args)]
pub struct RunbookArgs {
    /// The source, or writer/source; without it the page for all kinds, its values to be set
    #[arg(value_name = "SOURCE")]
    pub source: Option<String>,
    /// The moment to go back to [default: latest]
    #[arg(long, value_name = "TIME")]
    pub to: Option<String>,
    /// What happened [default: database-corrupted]
    #[arg(long, value_name = "CASE")]
    pub case: Option<String>,
    /// Where to restore to
    #[arg(long, value_name = "DIR")]
    pub into: Option<PathBuf>,
}
