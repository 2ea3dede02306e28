//! Flags of `serve` and `agent`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

pub const SERVE_HELP: &str = "\
Examples:
  lifeboat serve                                     http://127.0.0.1:8710, for this machine alone
  lifeboat serve --listen 0.0.0.0:8710 --token-file /run/secrets/lifeboat_token
  lifeboat serve --listen 0.0.0.0:8710 --behind-proxy    a reverse proxy asks who it is

/ for people, /metrics for Prometheus, /api/status for programs, /healthz for whoever looks whether it lives. A visit changes \
nothing and runs nothing; no secret is on any page. The page needs no identity.

Exit codes: 0 told to end, 1 the address cannot be had, 2 wrong command line or configuration, 10 no repository there, 12 no key opens it.";

pub const AGENT_HELP: &str = "\
Examples:
  lifeboat agent                                     runs what [agent] of the configuration says, until it is told to end
  lifeboat agent --dry-run                           when what would run
  lifeboat agent --once                              what is due now, then ends

  [agent]
  time_zone = \"Europe/Berlin\"
  follow = [\"app-db\"]
  [agent.jobs.nightly]
  at = \"30 3 * * *\"
  run = \"backup --all\"

Jobs are runs of this program, each in a process of its own. One that was missed is made up for once. A job that still runs \
when it is due again is told and passed over. docs/agent.md explains schedules, systemd and containers.

Exit codes: 0 told to end, 1 not done, 2 wrong command line or configuration, 11 another agent runs.";

/// `serve`.
#[derive(Debug, Clone, Default, Args)]
pub struct ServeArgs {
    /// Address and port [default: the configuration's, or 127.0.0.1:8710]
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
    /// A file with the token that visitors must know
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Listen beyond this machine without a token, and under any name: something in front of it asks who it is
    #[arg(long)]
    pub behind_proxy: bool,
}

/// `agent`.
#[derive(Debug, Args)]
pub struct AgentArgs {
    /// Show when what would run, and stop
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Run what is due now, wait for it, and stop; nothing is followed or served
    #[arg(long, conflicts_with = "dry_run")]
    pub once: bool,
}
