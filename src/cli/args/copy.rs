//! Flags of `copy`.

use clap::Args;

pub const COPY_HELP: &str = "\
Examples:
  lifeboat copy --to /mnt/disk/lifeboat --create     make a copy there, and fill it
  lifeboat copy                                      every copy of the configuration ([copies.NAME])
  lifeboat copy --to offsite --dry-run               what is missing there
  lifeboat --repo offsite snapshots                  work on a copy: its name or its URL in place of the repository's
  lifeboat --repo offsite restore data --into DIR

Snapshots, streams and the stored configuration are taken over as they are sealed: no identity is needed, and whoever can read here can \
read there. What is there already is not sent again; an interrupted copy goes on. The copy has a policy of its own \
([copies.NAME.retention]), and nothing that is forgotten or pruned here goes away there. docs/copies.md says more.

Exit codes: 0 everything is there, 1 not done, 2 wrong command line or configuration, 3 done but something could not be copied, \
10 no repository there, 11 another copy is under way on this host, 12 no key opens it, 130 interrupted.";

/// `copy`.
#[derive(Debug, Args)]
pub struct CopyArgs {
    /// Sources to copy; without any, all
    #[arg(value_name = "SOURCE")]
    pub sources: Vec<String>,
    /// Where to: the name of a copy in the configuration, or a URL [default: every copy of the configuration]
    #[arg(long, value_name = "NAME|URL")]
    pub to: Vec<String>,
    /// Make the copy where there is none yet
    #[arg(long)]
    pub create: bool,
    /// Copy what another host stored; needs an identity
    #[arg(long, value_name = "WRITER")]
    pub writer: Option<String>,
    /// Show what is missing there, and stop
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}
