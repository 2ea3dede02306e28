//! What was typed for a restore of a Convex deployment.

use std::path::PathBuf;

use clap::Args;

/// What a restore of a deployment has beside.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "A Convex deployment, into FILE.zip or http://HOST:3210")]
pub struct ConvexArgs {
    /// Without files
    #[arg(long)]
    pub no_files: bool,
    /// Only this component, by its path; the root is ''
    #[arg(long, value_name = "PATH")]
    pub component: Vec<String>,
    /// Replace the tables that the snapshot has; others stay [default: they must be empty]
    #[arg(long, conflicts_with = "replace_all")]
    pub replace: bool,
    /// Replace the tables that the snapshot has, and drop all others
    #[arg(long)]
    pub replace_all: bool,
    /// Leave the environment variables of the deployment as they are
    #[arg(long)]
    pub no_environment: bool,
    /// Set environment variables too that are there with another value
    #[arg(long, conflicts_with = "no_environment")]
    pub overwrite_environment: bool,
    /// Do not export the deployment again to compare it with the snapshot
    #[arg(long)]
    pub no_verify: bool,
    /// The deployment's admin key [default: that of the source with this URL, else CONVEX_SELF_HOSTED_ADMIN_KEY]
    #[arg(long, value_name = "FILE")]
    pub admin_key_file: Option<PathBuf>,
}

impl ConvexArgs {
    /// The first flag that was given; with `archive` the first that an archive does not know.
    pub fn first(&self, archive: bool) -> Option<&'static str> {
        let all = [
            ("--no-files", self.no_files && !archive),
            ("--component", !self.component.is_empty() && !archive),
            ("--replace", self.replace),
            ("--replace-all", self.replace_all),
            ("--no-environment", self.no_environment),
            ("--overwrite-environment", self.overwrite_environment),
            ("--no-verify", self.no_verify),
            ("--admin-key-file", self.admin_key_file.is_some()),
        ];
        all.into_iter().find(|(_, given)| *given).map(|(flag, _)| flag)
    }
}
