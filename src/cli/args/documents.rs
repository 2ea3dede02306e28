//! Flags of `compare`, `undelete` and `bootstrap`.

use std::path::PathBuf;

use clap::Args;

use super::Which;

/// Examples of `undelete`.
pub const UNDELETE_HELP: &str = "\
Examples:
  lifeboat undelete app --into http://127.0.0.1:3210 --id j57000820c20a1g7104gm2rc1m70ynr8
  lifeboat undelete app --into http://127.0.0.1:3210 --changed-between '14:00' '14:10' --table users

The tables of these documents are replaced by today's rows and the old ones, in one step; ids stay. The documents become what
they were, whatever became of them since. The server's own table of changes is shown first, and nothing is changed where anybody
wrote to these tables since they were exported. What is written to them WHILE the server imports is lost: stop what writes.

Exit codes: 0 done, 1 not done and nothing changed, 2 usage, 4 the changes do not reach that time. See docs/exit-codes.md";

/// Examples of `bootstrap`.
pub const BOOTSTRAP_HELP: &str = "\
Examples:
  lifeboat bootstrap --repo s3://acme-backups/prod --identity identity.txt
  lifeboat bootstrap --repo s3://acme-backups/prod --identity identity.txt --into /etc/lifeboat/lifeboat.toml

Writes the configuration that the last backup was made with, rebuilds the catalog, and lists every source with the command that
brings it back. This host becomes no writer: `lifeboat init` on the same URL makes it one.

Exit codes: 0 done, 2 the file is there already, 10 no repository, 12 the identity does not open it. See docs/exit-codes.md";

/// `bootstrap`.
#[derive(Debug, Args)]
pub struct BootstrapArgs {
    /// Where the configuration goes [default: lifeboat.toml]
    #[arg(long, value_name = "FILE")]
    pub into: Option<PathBuf>,
    /// The configuration of this writer [default: the one that was stored last]
    #[arg(long, value_name = "NAME")]
    pub writer: Option<String>,
}

/// `compare`.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// The source, or writer/source: a Convex deployment
    #[arg(value_name = "SOURCE")]
    pub source: String,
    /// The deployment that is compared with it
    #[arg(long, value_name = "URL")]
    pub with: String,
    #[command(flatten)]
    pub which: Which,
    /// These tables alone: `users`, `component/users`, with `*`; files stay out then
    #[arg(long, value_name = "TABLE")]
    pub table: Vec<String>,
    /// Only this component, by its path; the root is ''
    #[arg(long, value_name = "PATH")]
    pub component: Vec<String>,
    /// Without files
    #[arg(long)]
    pub no_files: bool,
    /// The deployment's admin key [default: that of the source with this URL, else CONVEX_SELF_HOSTED_ADMIN_KEY]
    #[arg(long, value_name = "FILE")]
    pub admin_key_file: Option<PathBuf>,
    /// Where the export lies meanwhile [default: the system's directory for temporary files]
    #[arg(long, value_name = "DIR")]
    pub work_dir: Option<PathBuf>,
}

/// `undelete`.
#[derive(Debug, Args)]
pub struct UndeleteArgs {
    /// The source, or writer/source: a Convex deployment that is followed
    #[arg(value_name = "SOURCE")]
    pub source: String,
    /// The deployment into which documents come back
    #[arg(long, value_name = "URL")]
    pub into: String,
    /// A document by its id, as it was last, or at the time of `--to`
    #[arg(long, value_name = "ID", required_unless_present = "changed_between", conflicts_with = "changed_between")]
    pub id: Vec<String>,
    /// Documents that were changed or deleted between two times, as they were at the first; what was made since stays
    #[arg(long, num_args = 2, value_names = ["TIME", "TIME"])]
    pub changed_between: Vec<String>,
    /// As they were at this time
    #[arg(long, value_name = "TIME", conflicts_with = "changed_between")]
    pub to: Option<String>,
    /// With --changed-between: these tables alone
    #[arg(long, value_name = "TABLE", requires = "changed_between")]
    pub table: Vec<String>,
    /// As new documents, with new ids: nothing that is there is replaced, and what refers to the old ids does not find them
    #[arg(long)]
    pub as_new: bool,
    /// Show what would come back, and the server's table of changes; confirm nothing
    #[arg(long)]
    pub dry_run: bool,
    /// The deployment's admin key [default: that of the source with this URL, else CONVEX_SELF_HOSTED_ADMIN_KEY]
    #[arg(long, value_name = "FILE")]
    pub admin_key_file: Option<PathBuf>,
    /// Where the export lies meanwhile [default: the system's directory for temporary files]
    #[arg(long, value_name = "DIR")]
    pub work_dir: Option<PathBuf>,
}
