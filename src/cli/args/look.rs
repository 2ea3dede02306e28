//! Flags of `diff` and `dump`.

use std::path::PathBuf;

use clap::Args;

use super::{OverwriteArg, Which};

/// `diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// The source, or writer/source
    #[arg(value_name = "SOURCE")]
    pub source: String,
    /// The older snapshot
    #[arg(value_name = "FIRST", default_value = "latest~1")]
    pub first: String,
    /// The newer snapshot
    #[arg(value_name = "SECOND", default_value = "latest")]
    pub second: String,
    /// Tell changed metadata too
    #[arg(long)]
    pub metadata: bool,
    /// Documents of a Convex deployment that differ between two times: the first one
    #[arg(long, value_name = "TIME", requires = "to")]
    pub from: Option<String>,
    /// The second one
    #[arg(long, value_name = "TIME", requires = "from")]
    pub to: Option<String>,
    /// These tables alone: `users`, `component/users`, with `*`
    #[arg(long, value_name = "TABLE", requires = "from")]
    pub table: Vec<String>,
}

/// `dump`.
#[derive(Debug, Args)]
pub struct DumpArgs {
    /// The source, or writer/source
    #[arg(value_name = "SOURCE")]
    pub source: String,
    /// The file; may be left out where the snapshot is one stream
    #[arg(value_name = "PATH")]
    pub path: Option<String>,
    #[command(flatten)]
    pub which: Which,
    /// To a file instead of stdout
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// `always` replaces FILE where it is there already
    #[arg(long, value_enum, value_name = "WHEN", hide_possible_values = true, requires = "output")]
    pub overwrite: Option<OverwriteArg>,
    /// A module that schedules again what a Convex deployment had scheduled
    #[arg(long, conflicts_with_all = ["path", "id"])]
    pub scheduled_function: bool,
    /// A document of a Convex deployment, by its id: as it was at the time of `--to`, else as it is now
    #[arg(long, value_name = "ID", conflicts_with_all = ["path", "snapshot", "output"])]
    pub id: Option<String>,
    /// All revisions of it
    #[arg(long, requires = "id")]
    pub history: bool,
}
