//! Flags of `key`.

use std::path::PathBuf;

use clap::Subcommand;

use super::CODES;
use crate::model::{Digest, Span};

#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make a key pair: the secret key into a file, the public key to stdout
    #[command(after_help = CODES)]
    Generate {
        /// The new file
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Show who can read, and which hosts write
    #[command(after_help = CODES)]
    List,
    /// Let somebody else read too: an age or SSH public key; needs an identity
    #[command(after_help = CODES)]
    Add {
        /// Public keys
        #[arg(value_name = "KEY", required = true)]
        recipients: Vec<String>,
    },
    /// Seal to somebody no longer; takes nothing away that they could read. Needs an identity that stays
    #[command(after_help = CODES)]
    Remove {
        /// Public keys, as `key list` shows them
        #[arg(value_name = "KEY", required = true)]
        recipients: Vec<String>,
    },
    /// On a host that writes: follow the list of recipients that somebody changed
    #[command(after_help = CODES)]
    Pin {
        /// The list's digest, as `key add` or `key remove` printed it
        #[arg(value_name = "DIGEST")]
        list: Digest,
    },
    /// On a host that writes, with an identity: seal what it stored before to the list that it follows now
    #[command(after_help = CODES)]
    Rewrap {
        /// Say how much it is, and stop
        #[arg(short = 'n', long)]
        dry_run: bool,
        /// Begin no further pack after so long, as 1h; the next run goes on
        #[arg(long, value_name = "TIME")]
        time_limit: Option<String>,
    },
    /// Write an identity as a page to print: with a QR code, and what is needed beside it
    #[command(after_help = CODES)]
    Export {
        /// The new file, HTML; it holds the secret key
        #[arg(long, value_name = "FILE")]
        paper: PathBuf,
    },
    /// On a host without identity: make its keys and ask to be admitted
    #[command(after_help = CODES)]
    Request {
        /// Where the request is written
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
        /// Name of this host [default: the system's]
        #[arg(long, value_name = "NAME")]
        host: Option<String>,
    },
    /// Where an identity is: admit a host by its request
    #[command(after_help = CODES)]
    Admit {
        /// The request
        #[arg(value_name = "FILE")]
        request: PathBuf,
    },
    /// Where an identity is: count nothing more that a host writes, as after a break-in or when it is gone for good
    #[command(after_help = REVOKE_HELP)]
    Revoke {
        /// The writer, as `key list` shows it
        #[arg(value_name = "WRITER")]
        writer: String,
        /// Nothing counts that the store received from then on [default: all so far counts]
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
        /// Say what would no longer count, and stop
        #[arg(short = 'n', long)]
        dry_run: bool,
    },
    /// Where an identity is: let a host free what other hosts' logs do not need (`prune --keeper` there), so that those need no right to delete
    #[command(after_help = KEEPER_HELP)]
    Keeper {
        /// The keeper, as a writer (`key list` shows it)
        #[arg(value_name = "KEEPER")]
        keeper: String,
        /// Of this writer; several times for several
        #[arg(long, value_name = "WRITER", required_unless_present = "all")]
        of: Vec<String>,
        /// Of every writer that there is now
        #[arg(long, conflicts_with = "of")]
        all: bool,
        /// How long the keeper waits before it believes a host that something may go, by the store's clock [default: as it is, 7d for a new one]
        #[arg(long, value_name = "TIME", conflicts_with = "end")]
        hold: Option<Span>,
        /// It is their keeper no longer
        #[arg(long)]
        end: bool,
    },
    /// On a host that takes the place of one that is gone, with an identity: go on with its log, its packs and its streams
    #[command(after_help = ADOPT_HELP)]
    Adopt {
        /// The writer, as `key list` shows it
        #[arg(value_name = "WRITER")]
        writer: String,
        /// Name of this host [default: the system's]
        #[arg(long, value_name = "NAME")]
        host: Option<String>,
    },
}

const REVOKE_HELP: &str = "\
Its snapshots from before stay, and are restored like others. It takes no credentials away: do that at the store first.
On the host itself every backup is refused from its next look at the log on.

Examples:
  lifeboat key revoke db1-3fa41c --since '2026-11-20 03:00 UTC' --dry-run
  lifeboat key revoke db1-3fa41c --since '2026-11-20 03:00 UTC'

Exit codes: 0 done, 1 not done, 2 wrong command line or configuration, 10 no repository there, \
12 no key opens it, 13 stored bytes are damaged, 130 interrupted.";
const KEEPER_HELP: &str = "\
A keeper reads the logs and the packs' directories of its hosts, never a backup. What a host forgets, it lets go of only after the hold: a \
thief of the host has to wait, and you have that long to notice. Run the command again for hosts that joined since.

Examples:
  lifeboat --identity identity.txt key keeper keep1-77aa01 --all
  lifeboat --identity identity.txt key keeper keep1-77aa01 --of db1-3fa41c --hold 14d
  lifeboat prune --keeper                  on the keeper, in cron

Exit codes: 0 done, 1 not done, 2 wrong command line or configuration, 10 no repository there, \
12 no key opens it, 13 stored bytes are damaged, 130 interrupted.";
const ADOPT_HELP: &str = "\
The first backup reads everything once and stores only what is new. The old host, should it come back, is refused.

Example:
  lifeboat --identity identity.txt key adopt db1-3fa41c

Exit codes: 0 done, 1 not done, 2 wrong command line or configuration, 10 no repository there, \
12 no key opens it, 13 stored bytes are damaged, 130 interrupted.";
