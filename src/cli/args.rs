//! What was typed: the types of clap, nothing resolved. Their doc comments are the help that people read.

mod convex;
mod copy;
mod documents;
mod drill;
mod follow;
mod forget;
mod keys;
mod look;
mod prune;
mod serve;
mod server;
mod spelled;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use convex::ConvexArgs;
pub use copy::CopyArgs;
pub use documents::{BootstrapArgs, CompareArgs, UndeleteArgs};
pub use drill::{CanaryArgs, DrillArgs, DrillCommand, RunbookArgs, StatusArgs};
pub use follow::FollowArgs;
pub use forget::{ForgetArgs, PinArgs};
pub use keys::KeyCommand;
pub use look::{DiffArgs, DumpArgs};
pub use prune::{HowArgs, PruneArgs};
pub use serve::{AgentArgs, ServeArgs};
pub use server::ServerArgs;
pub use spelled::SpelledArgs;

const CODES: &str = "Exit codes: 0 done, 1 not done, 2 wrong command line or configuration, 10 no repository there, \
                     12 no key opens it, 13 stored bytes are damaged, 130 interrupted.";
const BACKUP_HELP: &str = "\
Examples:
  lifeboat backup --all                               every source of the configuration
  lifeboat backup data                                one of them
  lifeboat backup --path /srv/data --name data        a directory, without a configuration
  lifeboat backup --pg-dump postgresql://backup@db1/app --name app    a PostgreSQL database
  lifeboat backup --name dump -- mysqldump app        a command's output; its failure is ours
  docker run --rm -v data:/v alpine tar -c -C /v . | lifeboat backup --tar - --name data
  lifeboat backup --name data --tar - -- docker run --rm -v data:/v alpine tar -c -C /v .
  cat app.img | lifeboat backup --stdin --name image  what comes in, whether its producer fails or not

Exit codes: 0 done, 1 not done, 2 wrong command line or configuration, 3 done but something was skipped, \
10 no repository there, 11 another run works on the source, 12 no key opens it, 130 interrupted.";
const RESTORE_HELP: &str = "\
Examples:
  lifeboat restore data --into /srv/data.new                          the newest
  lifeboat restore data --to '2026-11-20 14:05 Europe/Berlin' --into DIR --dry-run
  lifeboat restore data --into /srv/data --delta --delete             make DIR equal, write only what differs
  lifeboat restore data --include etc/app --into DIR                  a part
  lifeboat restore data --tar - | ssh host tar -x -C /srv/data        as tar
  lifeboat restore --group nightly --to '2h ago' --into /srv/restored    all its sources, at one time
  lifeboat restore app-db --to '2h ago' --into DIR --start           a cluster, started and proven
  lifeboat restore app-db --delta --into /var/lib/postgresql/15/main  in its place: writes only what differs
  lifeboat restore app-dump --into postgresql://postgres@db2 --create     dumps, into a server
  lifeboat restore app-dump --into postgresql://postgres@db2 --database app=app_restored --jobs 4
  lifeboat restore app-dump --into postgresql://postgres@db2/app --clean --table users
  lifeboat restore app --into app.zip                       Convex: for `npx convex import`
  lifeboat restore app --into http://127.0.0.1:3210         into an empty deployment
  lifeboat restore app --into http://127.0.0.1:3210 --table users --replace

A destination that is not empty is refused unless --overwrite, --delta or --delete is given; only --delete removes \
anything. (A cluster's --delta removes too: its directory becomes the cluster that was asked for.) An interrupted restore continues when the same command is run again.

Exit codes: 0 done, 1 not done, 2 wrong command line, 4 that moment cannot be reached, 10 no repository there, \
12 no key opens it, 13 something was damaged and is not restored, or rows or documents differ from those of the \
snapshot, 130 interrupted.";
const CHECK_HELP: &str = "\
Examples:
  lifeboat check                             logs, listings, manifests
  lifeboat check --read-data                 every stored byte
  lifeboat check --read-data-subset 3/7      the third of seven parts: one a night
  lifeboat check --read-data-subset 5%       by chance; also 10G
  lifeboat check --max-age 30d --max-duration 45m    nightly: everything is read within a month, or you hear of it
  lifeboat check --live app-db               the source: ends a segment of its log, and sees it arrive
  lifeboat check --live app                  a Convex deployment: key, exports, files, clock

Exit codes: 0 all in order, 1 not done, or (--live) the source cannot be backed up or restored as it is, 3 in order as far as there was time, 10 no repository there, 12 no key opens it, 13 damage found, 130 interrupted.";
const REPAIR_HELP: &str = "\
Examples:
  lifeboat repair --dry-run          what could be done about what `check` found
  lifeboat repair --read-data        read all first, then mend
  lifeboat backup --all && lifeboat repair    what the sources still have comes back into old snapshots too

Nothing is deleted or overwritten. Frames are copied out of damaged packs, or made anew from chunks that are stored \
elsewhere; packs of lost commits are named again; a catalog that says something else than the logs is read anew.

Exit codes: 0 whole, 1 not done, 10 no repository there, 12 no key opens it, 13 something stays damaged, 130 interrupted.";
const INIT_HELP: &str = "\
Examples:
  lifeboat --repo file:///srv/backup init --generate-identity identity.txt
  lifeboat --repo s3://acme/prod --recipient age1... --recipient age1... init
  lifeboat --repo s3://acme/prod --identity identity.txt init         join as a further host

Exit codes: 0 done, 1 not done, 2 wrong command line, 12 no key opens it.";

const VALIDATE_HELP: &str = "\
Writes some 1,500 small objects and a large one below a prefix of its own, `validate-<random>/`, and removes them. It needs no \
repository, and leaves one that is there alone.

Examples:
  lifeboat validate-store file:///mnt/backup
  lifeboat validate-store s3://acme/prod                     endpoint and keys as for every command
  lifeboat validate-store --large-object 256M s3://acme/prod

Exit codes: 0 all that lifeboat relies on is so, 1 something is not, or the store cannot be used at all, \
2 wrong command line or configuration, 130 interrupted.";

/// Backups that prove that they restore
#[derive(Debug, Parser)]
#[command(name = "lifeboat", version, max_term_width = 100, propagate_version = true)]
#[command(after_help = "Start with `lifeboat demo`, or with `lifeboat help init`.")]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Flags that every command has.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Configuration file [default: ./lifeboat.toml, ~/.config/lifeboat/lifeboat.toml, /etc/lifeboat/lifeboat.toml]
    #[arg(long, global = true, value_name = "FILE", env = "LIFEBOAT_CONFIG", help_heading = "Global")]
    pub config: Option<PathBuf>,
    /// Repository: file:///DIR, a path, s3://BUCKET/PREFIX, az://CONTAINER/PREFIX, gs://BUCKET/PREFIX
    #[arg(short, long, global = true, value_name = "URL", env = "LIFEBOAT_REPOSITORY", help_heading = "Global")]
    pub repo: Option<String>,
    /// File with the secret key that reads backups
    #[arg(long, global = true, value_name = "FILE", env = "LIFEBOAT_IDENTITY_FILE", help_heading = "Global")]
    pub identity: Vec<PathBuf>,
    /// Public key that backups are sealed to: age1... or an SSH public key; several with commas
    #[arg(long, global = true, value_name = "KEY", env = "LIFEBOAT_RECIPIENTS", help_heading = "Global")]
    pub recipient: Vec<String>,
    /// Local index of the repository [default: in the state directory]
    #[arg(long, global = true, value_name = "FILE", env = "LIFEBOAT_CATALOG", help_heading = "Global")]
    pub catalog: Option<PathBuf>,
    /// Where this host keeps its keys and catalogs [default: ~/.local/state/lifeboat; of root: /var/lib/lifeboat]
    #[arg(long, global = true, value_name = "DIR", env = "LIFEBOAT_STATE_DIR", help_heading = "Global")]
    pub state_dir: Option<PathBuf>,
    /// Read an S3 bucket that keeps versions as it was then; writes nothing, needs an identity
    #[arg(long, global = true, value_name = "TIME", help_heading = "Global")]
    pub as_of: Option<String>,
    /// Bytes a second to the store at most, as 20M
    #[arg(long, global = true, value_name = "RATE", env = "LIFEBOAT_LIMIT_UPLOAD", help_heading = "Global")]
    pub limit_upload: Option<String>,
    /// Bytes a second from the store at most
    #[arg(long, global = true, value_name = "RATE", env = "LIFEBOAT_LIMIT_DOWNLOAD", help_heading = "Global")]
    pub limit_download: Option<String>,
    /// Answer as JSON
    #[arg(long, global = true, help_heading = "Global")]
    pub json: bool,
    /// No story on stderr; errors and warnings stay
    #[arg(short, long, global = true, help_heading = "Global")]
    pub quiet: bool,
    /// Say more (-vv: much more)
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Global")]
    pub verbose: u8,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a repository, or join one from a further host
    #[command(after_help = INIT_HELP)]
    Init(InitArgs),
    /// Take snapshots
    #[command(after_help = BACKUP_HELP)]
    Backup(BackupArgs),
    /// List snapshots
    #[command(after_help = CODES)]
    Snapshots(SnapshotsArgs),
    /// Show to which moments a PostgreSQL cluster or a Convex deployment can be brought back
    #[command(after_help = CODES)]
    Timeline(TimelineArgs),
    /// Store what a PostgreSQL cluster or a Convex deployment writes, within seconds, until it is told to stop
    #[command(after_help = CODES)]
    Follow(FollowArgs),
    /// What `backup --pause` starts to be sure that the deployment goes on; it ends by itself
    #[command(hide = true)]
    PauseGuard(PauseGuardArgs),
    /// PostgreSQL's log: archive_command and restore_command
    #[command(subcommand)]
    Wal(super::wal_args::WalCommand),
    /// List what is in a snapshot
    #[command(after_help = CODES)]
    Ls(LsArgs),
    /// Begin again on a bare machine: the configuration, the catalog, and what can be restored
    #[command(after_help = documents::BOOTSTRAP_HELP)]
    Bootstrap(BootstrapArgs),
    /// Compare a Convex deployment with what is stored of one, document by document
    #[command(after_help = CODES)]
    Compare(CompareArgs),
    /// Bring documents of a Convex deployment back, with their ids
    #[command(after_help = documents::UNDELETE_HELP)]
    Undelete(UndeleteArgs),
    /// Search snapshots by pattern
    #[command(after_help = CODES)]
    Find(FindArgs),
    /// Compare two snapshots of a source
    #[command(after_help = CODES)]
    Diff(DiffArgs),
    /// Write one file of a snapshot to stdout
    #[command(after_help = CODES)]
    Dump(DumpArgs),
    /// Sums over the repository; of a Convex deployment the documents of each table
    #[command(after_help = CODES)]
    Stats(StatsArgs),
    /// Take snapshots out of the lists by policy, each with the reason why it stays or goes
    #[command(after_help = forget::FORGET_HELP)]
    Forget(ForgetArgs),
    /// Free the bytes that nothing needs any more
    #[command(after_help = prune::PRUNE_HELP)]
    Prune(PruneArgs),
    /// Take snapshots and streams over to a second repository
    #[command(after_help = copy::COPY_HELP)]
    Copy(CopyArgs),
    /// Keep snapshots, whatever a policy says
    #[command(after_help = CODES)]
    Pin(PinArgs),
    /// Leave snapshots to the policy again
    #[command(after_help = CODES)]
    Unpin(PinArgs),
    /// Say of an abnormal snapshot that it is as it should be: the policy of its source counts again
    #[command(after_help = CODES)]
    Accept(PinArgs),
    /// Restore a source: plan, show, do
    #[command(after_help = RESTORE_HELP)]
    Restore(RestoreArgs),
    /// Show how every source stands: newest recovery point, objectives, last drill, what is wrong
    #[command(after_help = drill::STATUS_HELP)]
    Status(StatusArgs),
    /// Restore into a scratch place, look at what came back, measure RTO and RPO
    #[command(after_help = drill::DRILL_HELP)]
    Drill(DrillArgs),
    /// Write the canaries of sources: small things with the time, that drills look for
    #[command(after_help = drill::CANARY_HELP)]
    Canary(CanaryArgs),
    /// Who hears of what
    #[command(subcommand)]
    Notify(NotifyCommand),
    /// Serve the status page: recovery windows, what ran, what is wrong; metrics
    #[command(after_help = serve::SERVE_HELP)]
    Serve(ServeArgs),
    /// Run what the configuration says, when it says so, where there is no cron
    #[command(after_help = serve::AGENT_HELP)]
    Agent(AgentArgs),
    /// Print what to do on a bad day, with the names and commands of this source and moment
    #[command(after_help = drill::RUNBOOK_HELP)]
    Runbook(RunbookArgs),
    /// Check the stored bytes
    #[command(after_help = CHECK_HELP)]
    Check(CheckArgs),
    /// Mend what a check found, from what is stored
    #[command(after_help = REPAIR_HELP)]
    Repair(RepairArgs),
    /// Prove what a store guarantees, and say what follows
    #[command(after_help = VALIDATE_HELP)]
    ValidateStore(ValidateStoreArgs),
    /// The local index
    #[command(subcommand)]
    Catalog(CatalogCommand),
    /// Keys
    #[command(subcommand)]
    Key(KeyCommand),
    /// Back up, change, restore and compare in a temporary place
    #[command(after_help = CODES)]
    Demo(DemoArgs),
    /// Shell completions
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// The manual page
    Man {
        /// Write one page a command into DIR instead of one page to stdout
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub struct InitArgs {
    /// Make a key pair, write the secret key to FILE, seal backups to its public key
    #[arg(long, value_name = "FILE")]
    pub generate_identity: Option<PathBuf>,
    /// Name of this host, the beginning of its writer's name [default: the system's]
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,
}

#[derive(Debug, Args)]
pub struct BackupArgs {
    /// Sources of the configuration
    #[arg(value_name = "SOURCE")]
    pub sources: Vec<String>,
    /// All sources of the configuration
    #[arg(long, conflicts_with_all = ["sources", "group", "path", "stdin", "tar", "pg_dump"])]
    pub all: bool,
    /// The sources of a group of the configuration
    #[arg(long, value_name = "GROUP", conflicts_with_all = ["sources", "path", "stdin", "tar", "pg_dump"])]
    pub group: Option<String>,
    /// A directory, without a configuration
    #[arg(long, value_name = "DIR", requires = "name", conflicts_with = "stdin")]
    pub path: Option<PathBuf>,
    /// Standard input, without a configuration
    #[arg(long, requires = "name")]
    pub stdin: bool,
    /// The members of a tar archive, plain, gzip or zstd; `-` for standard input, or for the output of COMMAND
    #[arg(long, value_name = "FILE", requires = "name", conflicts_with_all = ["path", "stdin"])]
    pub tar: Option<PathBuf>,
    /// Databases of a PostgreSQL server: a URL or `key=value` pairs; all of them where it names none
    #[arg(long, value_name = "CONNECTION", requires = "name", conflicts_with_all = ["path", "stdin", "tar"])]
    pub pg_dump: Option<String>,
    /// Name of the source that is not in the configuration
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Name under which a stream is stored [default: NAME]
    #[arg(long, value_name = "NAME")]
    pub file_name: Option<String>,
    /// Leave out what matches, as a line of .gitignore would
    #[arg(long, value_name = "PATTERN")]
    pub exclude: Vec<String>,
    /// Leave out what the lines of FILE match
    #[arg(long, value_name = "FILE")]
    pub exclude_file: Vec<PathBuf>,
    /// Leave out the content of directories that hold a file of this name
    #[arg(long, value_name = "NAME")]
    pub exclude_if_present: Vec<String>,
    /// Leave out the content of directories with a CACHEDIR.TAG
    #[arg(long)]
    pub exclude_caches: bool,
    /// Leave out larger files, as 4G
    #[arg(long, value_name = "SIZE")]
    pub exclude_larger_than: Option<String>,
    /// Leave out other file systems
    #[arg(short = 'x', long)]
    pub one_file_system: bool,
    /// Label of the snapshot
    #[arg(long, value_name = "TAG")]
    pub tag: Vec<String>,
    /// Read every file, unchanged or not
    #[arg(long)]
    pub force: bool,
    /// Wait for another run of the same source
    #[arg(long)]
    pub wait: bool,
    /// How long to wait until the log of a PostgreSQL base backup has arrived
    #[arg(long, value_name = "TIME", default_value = "5m")]
    pub wal_timeout: String,
    /// Make no PostgreSQL base backup where a page's checksum is wrong, in place of one that is marked
    #[arg(long)]
    pub fail_on_page_errors: bool,
    /// Pause the Convex deployment of this source while its database is captured; it goes on in any case, also if this run is killed
    #[arg(long, value_name = "SOURCE", conflicts_with_all = ["stdin", "tar", "pg_dump"])]
    pub pause: Option<String>,
    /// A command whose output is stored
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// `pause-guard`.
#[derive(Debug, Args)]
pub struct PauseGuardArgs {
    /// The deployment's source
    pub source: String,
}

/// Which snapshot.
#[derive(Debug, Clone, Args)]
pub struct Which {
    /// The state at a time: RFC 3339, '2026-11-20 14:05 Europe/Berlin', 'yesterday 18:00', '2h ago', latest
    #[arg(long, value_name = "TIME", conflicts_with = "snapshot")]
    pub to: Option<String>,
    /// A snapshot: its id, the beginning of it, latest, latest~1
    #[arg(long, value_name = "ID")]
    pub snapshot: Option<String>,
}

#[derive(Debug, Args)]
pub struct SnapshotsArgs {
    /// Only of this source
    #[arg(value_name = "SOURCE")]
    pub source: Option<String>,
    /// Only with this label
    #[arg(long, value_name = "TAG")]
    pub tag: Option<String>,
    /// Those that are forgotten, in place of those that are there
    #[arg(long)]
    pub forgotten: bool,
}

#[derive(Debug, Args)]
pub struct LsArgs {
    /// The source, or writer/source
    #[arg(value_name = "SOURCE")]
    pub source: String,
    /// Where to look [default: the root]
    #[arg(value_name = "PATH")]
    pub path: Option<String>,
    #[command(flatten)]
    pub which: Which,
    /// All below it too
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// Modes, owners, sizes, times
    #[arg(short, long)]
    pub long: bool,
}

#[derive(Debug, Args)]
pub struct FindArgs {
    /// The source, or writer/source
    #[arg(value_name = "SOURCE")]
    pub source: String,
    /// Patterns, as lines of .gitignore
    #[arg(value_name = "PATTERN", required = true)]
    pub patterns: Vec<String>,
    #[command(flatten)]
    pub which: Which,
    /// In all snapshots of the source
    #[arg(long, conflicts_with_all = ["to", "snapshot"])]
    pub all_snapshots: bool,
}

/// What happens to a file that is there.
#[derive(Debug, Clone, Copy, ValueEnum, PartialEq, Eq)]
pub enum OverwriteArg {
    /// Replace it
    Always,
    /// Replace it unless size and time are the same
    IfChanged,
    /// Replace it if the snapshot's is newer
    IfNewer,
    /// Keep it
    Never,
}

#[derive(Debug, Clone, Args)]
pub struct RestoreArgs {
    /// The source, or writer/source
    #[arg(value_name = "SOURCE", default_value = "", hide_default_value = true)]
    pub source: String,
    /// All sources of a group of the configuration, at one time, each into a directory of its name below --into
    #[arg(long, value_name = "GROUP", requires = "into", conflicts_with_all = ["source", "snapshot", "tar", "include", "exclude"])]
    pub group: Option<String>,
    #[command(flatten)]
    pub which: Which,
    /// Refuse a time that no snapshot ended at, to the second
    #[arg(long, requires = "to")]
    pub exact: bool,
    /// The directory that becomes equal to the source's; of dumps also a server: postgresql://USER@HOST[/DATABASE]; of a Convex
    /// deployment also FILE.zip, or a deployment: http://HOST:3210; of a bucket also a bucket: s3://NAME/PREFIX
    #[arg(long, value_name = "DIR", required_unless_present = "tar")]
    pub into: Option<PathBuf>,
    /// As tar to a file, or to stdout with `-`
    #[arg(long, value_name = "FILE", conflicts_with_all = ["into", "delta", "delete", "verify"])]
    pub tar: Option<PathBuf>,
    /// Only what matches, as a line of .gitignore would
    #[arg(long, value_name = "PATTERN")]
    pub include: Vec<String>,
    /// Not what matches
    #[arg(long, value_name = "PATTERN")]
    pub exclude: Vec<String>,
    /// Only what lies below this directory of the snapshot, which becomes the root
    #[arg(long, value_name = "DIR", conflicts_with_all = ["include", "exclude", "group"])]
    pub below: Option<String>,
    /// What happens to files that are there
    #[arg(long, value_enum, value_name = "WHEN")]
    pub overwrite: Option<OverwriteArg>,
    /// Keep the blocks of files that are right, write the others
    #[arg(long, conflicts_with = "overwrite")]
    pub delta: bool,
    /// Remove what the snapshot lacks; listed first
    #[arg(long)]
    pub delete: bool,
    /// Read everything again afterwards and compare digests
    #[arg(long)]
    pub verify: bool,
    /// Show the plan and stop
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub cluster: super::wal_args::ClusterArgs,
    #[command(flatten)]
    pub spelled: SpelledArgs,
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub convex: ConvexArgs,
}

#[derive(Debug, Args)]
pub struct StatsArgs {
    /// A Convex deployment, or writer/source
    #[arg(value_name = "SOURCE")]
    pub source: Option<String>,
    #[command(flatten)]
    pub which: Which,
}

#[derive(Debug, Args)]
pub struct TimelineArgs {
    /// The source, or writer/source
    #[arg(value_name = "SOURCE")]
    pub source: String,
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Read every stored byte
    #[arg(long, conflicts_with = "read_data_subset")]
    pub read_data: bool,
    /// Read a part: n/t, x%, or a size
    #[arg(long, value_name = "SUBSET")]
    pub read_data_subset: Option<String>,
    /// Read what no check has found in order for so long, as 30d, the longest ago first
    #[arg(long, value_name = "TIME", conflicts_with_all = ["read_data", "read_data_subset"])]
    pub max_age: Option<String>,
    /// Begin no further pack after so long, as 45m; the next check goes on
    #[arg(long, value_name = "TIME")]
    pub max_duration: Option<String>,
    /// Whether a source of the configuration can be backed up now: connection, rights, archiving. Reads no stored bytes
    #[arg(long, value_name = "SOURCE", conflicts_with_all = ["read_data", "read_data_subset", "max_age", "max_duration"])]
    pub live: Option<String>,
    /// With --live: how long a segment of the log may take to arrive
    #[arg(long, value_name = "TIME", default_value = "60s")]
    pub wal_timeout: String,
}

#[derive(Debug, Args)]
pub struct RepairArgs {
    /// Read every stored byte first, to find damage that no check has found yet
    #[arg(long)]
    pub read_data: bool,
    /// Say what would be done
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct ValidateStoreArgs {
    /// The store [default: the repository's]
    #[arg(value_name = "URL")]
    pub url: Option<String>,
    /// Size of the large object that is tried [default: 64M]
    #[arg(long, value_name = "SIZE")]
    pub large_object: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum CatalogCommand {
    /// Delete the local index and read it anew from the repository
    #[command(after_help = CODES)]
    Rebuild,
}

/// `notify`.
#[derive(Debug, Subcommand)]
pub enum NotifyCommand {
    /// Send a message through the channels of the configuration, and say whether it arrived
    #[command(after_help = CODES)]
    Test {
        /// Channels [default: all]
        #[arg(value_name = "CHANNEL")]
        channels: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Real input that is backed up too
    #[arg(long, value_name = "DIR")]
    pub input: Option<PathBuf>,
    /// Keep the repository and everything else in DIR
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        super::Cli::command().debug_assert();
    }
}
