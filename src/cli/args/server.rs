//! What was typed for a restore of dumps into a server.

use std::path::PathBuf;

use clap::Args;

/// What a restore of dumps into a server has beside.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Dumps into a PostgreSQL server")]
pub struct ServerArgs {
    /// Only this database; OLD=NEW gives it another name, and makes it if it is not there
    #[arg(long, value_name = "NAME")]
    pub database: Vec<String>,
    /// Make databases that are not there
    #[arg(long)]
    pub create: bool,
    /// Drop what the dump holds, and make it anew
    #[arg(long)]
    pub clean: bool,
    /// Only this table and its rows, without its indexes: TABLE or SCHEMA.TABLE; of a Convex deployment TABLE or COMPONENT/TABLE
    #[arg(long, value_name = "TABLE")]
    pub table: Vec<String>,
    /// Roles and tablespaces first; those that are there stay as they are
    #[arg(long)]
    pub globals: bool,
    /// Everything belongs to who restores it; no privileges
    #[arg(long)]
    pub no_owner: bool,
    /// Tables that are restored at a time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub jobs: Option<u32>,
    /// Where dumps or archives lie until they are restored [default: TMPDIR]
    #[arg(long, value_name = "DIR")]
    pub work_dir: Option<PathBuf>,
    /// Where pg_restore and psql lie, or with --start the server [default: along PATH, then Debian's places]
    #[arg(long, value_name = "DIR")]
    pub bin_dir: Option<PathBuf>,
}

impl ServerArgs {
    /// The first flag that was given.
    pub fn first(&self) -> Option<&'static str> {
        self.first_but(&[])
    }

    /// The first flag that was given, but for these.
    pub fn first_but(&self, allowed: &[&str]) -> Option<&'static str> {
        let all = [
            ("--database", !self.database.is_empty()),
            ("--create", self.create),
            ("--clean", self.clean),
            ("--table", !self.table.is_empty()),
            ("--globals", self.globals),
            ("--no-owner", self.no_owner),
            ("--jobs", self.jobs.is_some()),
            ("--work-dir", self.work_dir.is_some()),
            ("--bin-dir", self.bin_dir.is_some()),
        ];
        all.into_iter().find(|(flag, given)| *given && !allowed.contains(flag)).map(|(flag, _)| flag)
    }
}
