//! Flags of `follow`.

use std::path::PathBuf;

use clap::Args;

/// `follow`.
#[derive(Debug, Args)]
pub struct FollowArgs {
    /// The source: a PostgreSQL cluster or a Convex deployment of the configuration
    #[arg(value_name = "SOURCE")]
    pub source: String,
    /// How often what was written since is stored: this is your RPO
    #[arg(long, value_name = "DURATION", default_value = "2s")]
    pub interval: String,
    /// Convex: how often a snapshot is taken where the server tells no changes
    #[arg(long, value_name = "DURATION", default_value = "1h")]
    pub export_every: String,
    /// Convex: how often new files are stored at most
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    pub files_every: String,
    /// The replication slot; made where there is none [default: lifeboat_SOURCE]
    #[arg(long, value_name = "NAME")]
    pub slot: Option<String>,
    /// Log that waits on this host while the store is away, at most; behind that the server keeps it
    #[arg(long, value_name = "SIZE", default_value = "10G")]
    pub hold: String,
    /// Where it waits [default: below the state directory]
    #[arg(long, value_name = "DIR")]
    pub work_dir: Option<PathBuf>,
    /// Where `pg_receivewal` lies
    #[arg(long, value_name = "DIR")]
    pub bin_dir: Option<PathBuf>,
}
