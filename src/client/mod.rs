//! Sessions with the outside: PostgreSQL, through its own programs; Convex (`convex`), over HTTP.
//!
//! Programs are run by their path with their arguments, never by a shell. A password travels in the environment of the
//! program alone: not in its arguments, not in what is logged, not in an error. What a program says on its standard error is
//! kept, and read for the few things that have a remedy of their own. Not here: what is backed up or restored, and how.

pub mod convex;
pub mod libpq;
pub mod postgres;
pub mod private;
pub mod programs;
pub mod run;
pub mod session;
pub mod sqlite;
pub mod tables;
mod tls;

use std::path::PathBuf;

pub use libpq::Connection;
pub use private::PrivateDir;
pub use programs::{Program, Programs};
pub use run::{Leash, Running, Said};
pub use session::{Session, identifier};

/// What could not be done with PostgreSQL.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A connection string is none.
    #[error("the connection cannot be read: {0}")]
    BadConnection(String),
    /// A server cannot run as root, and there is nobody else to run it.
    #[error("PostgreSQL does not run as root, and there is no user `{user}`")]
    NoUser {
        /// The name.
        user: String,
    },
    /// One of PostgreSQL's programs is not where it was looked for.
    #[error("there is no `{program}` {looked}")]
    NoProgram {
        /// Its name.
        program: String,
        /// Where it was looked for, in words.
        looked: String,
        /// The major version that would do, where one is known.
        major: Option<u32>,
    },
    /// All that were found are older than what they are to work with.
    #[error("`{}` is of PostgreSQL {found}, and {what} is of {needed}: it cannot work with what is newer", path.display())]
    TooOld {
        /// The newest that was found.
        path: PathBuf,
        /// Its major version.
        found: u32,
        /// The server, or the dump.
        what: &'static str,
        /// The major version that would do.
        needed: u32,
    },
    /// The password is wrong.
    #[error("the server at `{server}` refused the password of `{user}`")]
    WrongPassword {
        /// The connection, without its password.
        server: String,
        /// The user, as the server calls it.
        user: String,
    },
    /// A password is needed.
    #[error("the server at `{server}` asks for a password, and none was given")]
    NoPassword {
        /// The connection, without its password.
        server: String,
    },
    /// There is no such database.
    #[error("there is no database `{database}` at `{server}`")]
    NoDatabase {
        /// Its name.
        database: String,
        /// The connection, without its password.
        server: String,
    },
    /// Nobody answers, or who answers refuses.
    #[error("could not connect to `{server}`")]
    Unreachable {
        /// The connection, without its password.
        server: String,
        /// What the program said.
        source: Said,
    },
    /// The user may not read something.
    #[error("`{program}` may not read everything at `{server}`")]
    Denied {
        /// The program.
        program: String,
        /// The connection, without its password.
        server: String,
        /// The user, where the connection names one.
        user: Option<String>,
        /// What the program said.
        source: Said,
    },
    /// A program failed in another way.
    #[error("`{program}` failed ({status}) at `{server}`")]
    Failed {
        /// The program.
        program: String,
        /// How it ended, in words.
        status: String,
        /// The connection, without its password.
        server: String,
        /// What it said.
        source: Said,
    },
    /// A program could not be started.
    #[error("could not run `{}`", program.display())]
    Spawn {
        /// Its path.
        program: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A server answered something that cannot be understood.
    #[error("the server at `{server}` answered `{answer}` where {wanted} was asked for")]
    Answer {
        /// The connection, without its password.
        server: String,
        /// The beginning of the answer.
        answer: String,
        /// What was asked for.
        wanted: &'static str,
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
    /// The run was given up.
    #[error("the run was given up")]
    GivenUp,
}
