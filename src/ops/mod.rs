//! The deeds: what the verbs of the command line do, without a word printed.
//!
//! Inputs left, outputs right, options, then the progress. A drill will call the same functions that an incident calls.

pub mod backup;
pub mod bootstrap;
mod branches;
pub mod canary;
pub mod check;
pub mod cluster;
pub mod copy;
pub mod documents;
pub mod drill;
pub mod environment;
pub mod follow;
pub mod forget;
mod hints;
mod kind;
pub mod live;
pub mod look;
mod merge;
pub mod outside;
pub mod prune;
mod readers;
pub mod recover;
pub mod repair;
pub mod restore;
pub mod rewrap;
mod select;
pub mod status;
pub mod tablespaces;
pub mod validate;
pub mod wal;

use std::path::PathBuf;

pub use kind::Kind;
pub use select::Selection;

use crate::plan::restore::NoPlan;
use crate::{client, destination, model, repository, source};

/// An error with its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// What a deed could not do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The repository.
    #[error(transparent)]
    Repository(#[from] repository::Error),
    /// The source.
    #[error(transparent)]
    Source(#[from] source::Error),
    /// The changes of a deployment.
    #[error(transparent)]
    Stream(#[from] documents::StreamError),
    /// Where a restore lands.
    #[error(transparent)]
    Destination(#[from] destination::Error),
    /// PostgreSQL, or a program of its.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// A Convex deployment.
    #[error(transparent)]
    Convex(#[from] client::convex::Error),
    /// Nothing restores what was asked for.
    #[error(transparent)]
    NoPlan(#[from] NoPlan),
    /// A file of PostgreSQL's log.
    #[error(transparent)]
    Wal(#[from] wal::WalError),
    /// Nothing leads a cluster to what was asked for.
    #[error(transparent)]
    NoWay(#[from] crate::plan::recovery::NoWay),
    /// A tablespace cannot go there.
    #[error(transparent)]
    NoPlace(#[from] crate::plan::tablespaces::NoPlace),
    /// A directory that no cluster is restored onto.
    #[error(transparent)]
    Onto(#[from] restore::OntoError),
    /// Nothing is forgotten, or pinned.
    #[error(transparent)]
    Forget(#[from] forget::ForgetError),
    /// A drill has nothing to aim at.
    #[error(transparent)]
    NoAim(#[from] crate::plan::drill::NoAim),
    /// Nothing is pruned.
    #[error(transparent)]
    Prune(#[from] prune::PruneError),
    /// Nothing is copied.
    #[error(transparent)]
    Copy(#[from] copy::CopyError),
    /// A server on a restored directory.
    #[error(transparent)]
    Recover(#[from] recover::RecoverError),
    /// An archive for Convex.
    #[error(transparent)]
    Zip(#[from] crate::format::zip::ZipError),
    /// The snapshot is not of a deployment.
    #[error("`{source_name}` is a source of kind `{kind}`: only deployments (`convex`) are restored so")]
    NoDeployment {
        /// Its full name.
        source_name: String,
        /// Its kind.
        kind: String,
    },
    /// What a snapshot of a deployment says of itself cannot be read.
    #[error("the facts of snapshot {snapshot} cannot be read: {why}")]
    BadDeploymentFacts {
        /// The snapshot.
        snapshot: String,
        /// What is wrong with them.
        why: String,
    },
    /// A deployment does not say of itself that it is for drills.
    #[error(
        "{0} does not say that it is for drills alone, and all its tables would be replaced: if it is, put a document into its table \
         `lifeboat_scratch`, in the dashboard or with `npx convex import --table lifeboat_scratch FILE`"
    )]
    NoScratchDeployment(String),
    /// The snapshot has no such table.
    #[error("the snapshot has no table `{table}`; it has {there}")]
    NoSuchTable {
        /// What was asked for.
        table: String,
        /// The first of those that there are.
        there: String,
    },
    /// The deployment did not import.
    #[error("the deployment at `{url}` did not import the snapshot: {why}")]
    ImportFailed {
        /// The deployment.
        url: String,
        /// The server's words.
        why: String,
    },
    /// The snapshot is not of dumps.
    #[error("`{source_name}` is a source of kind `{kind}`: only dumps (`pg_dump`) are restored into a server")]
    NoDumps {
        /// Its full name.
        source_name: String,
        /// Its kind.
        kind: String,
    },
    /// What a snapshot of dumps says of itself cannot be read.
    #[error("`lifeboat-dump.json` of snapshot {snapshot} cannot be read: {why}")]
    BadDumpInfo {
        /// The snapshot.
        snapshot: String,
        /// What is wrong with it.
        why: String,
    },
    /// A dump in SQL does not know a flag.
    #[error("`{0}` needs a dump in the custom or the directory format, and this one is plain SQL")]
    PlainDump(&'static str),
    /// The snapshot has no roles.
    #[error("the snapshot has no `globals.sql`: its source says `globals = \"none\"`")]
    NoGlobals,
    /// The snapshot has no dump of that database.
    #[error("the snapshot has no dump of `{database}`; it has {there}")]
    NoSuchDump {
        /// The database.
        database: String,
        /// Those that there are.
        there: String,
    },
    /// Several databases cannot go into one.
    #[error("the URL names the database `{named}`, and {chosen} databases with names of their own would go there")]
    OneDatabase {
        /// The database.
        named: String,
        /// How many were chosen.
        chosen: usize,
    },
    /// Two databases cannot go into one.
    #[error("two databases would become `{0}`")]
    SameDatabase(String),
    /// The database is not empty.
    #[error("the database `{database}` has tables already ({tables})")]
    HasTables {
        /// The database.
        database: String,
        /// How many tables.
        tables: u64,
        /// Its name in the snapshot.
        from: String,
    },
    /// A part of a stream could not be read.
    #[error("`{what}` could not be read to its end: {why}")]
    Unreadable {
        /// The stream.
        what: String,
        /// Why.
        why: String,
    },
    /// Another run works on the source.
    #[error("another run is backing up `{0}`")]
    Busy(String),
    /// The path is not in the snapshot.
    #[error("`{path}` is not in snapshot {snapshot}")]
    NoSuchPath {
        /// The path.
        path: String,
        /// The snapshot.
        snapshot: String,
    },
    /// The path is no file.
    #[error("`{0}` is not a regular file")]
    NotAFile(String),
    /// No entry matches.
    #[error("nothing in the snapshot matches what was asked for")]
    NothingSelected,
    /// Files could not be restored whole.
    #[error("{files} of the files were not restored whole; the first: `{first}`: {why}")]
    Hurt {
        /// How many.
        files: u64,
        /// The first.
        first: String,
        /// What is wrong with it.
        why: String,
    },
    /// Objects lie in the bucket that something is restored into.
    #[error("`{url}` is not empty: {objects} objects lie there")]
    BucketNotEmpty {
        /// Its URL.
        url: String,
        /// How many.
        objects: u64,
    },
    /// What was written into a bucket is not what was to be.
    #[error("{objects} objects of `{url}` are not what the snapshot holds; the first: `{first}`")]
    BucketDiffers {
        /// Its URL.
        url: String,
        /// How many.
        objects: u64,
        /// The first.
        first: String,
    },
    /// Bytes could not be written out.
    #[error("could not write {what}")]
    Output {
        /// To where.
        what: String,
        /// Why.
        source: std::io::Error,
    },
    /// A pattern is none.
    #[error("`{pattern}` is no pattern")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong.
        source: ignore::Error,
    },
    /// A file of the host's own.
    #[error("could not {doing} `{}`", path.display())]
    Io {
        /// What.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl From<model::path::BadPath> for Error {
    fn from(bad: model::path::BadPath) -> Self {
        Self::NoSuchPath { path: bad.to_string(), snapshot: "any".to_owned() }
    }
}

impl From<crate::catalog::Error> for Error {
    fn from(error: crate::catalog::Error) -> Self {
        Self::Repository(error.into())
    }
}

impl From<crate::store::Error> for Error {
    fn from(error: crate::store::Error) -> Self {
        Self::Repository(error.into())
    }
}
