//! What reading the logs finds wrong, by name. Invariant: a problem stops nobody from reading the rest.

use crate::model::CommitId;

/// Something that the logs should hold and do not, or the other way round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// A commit's bytes do not match its name, or it does not open, or it is not signed by its writer.
    BadCommit {
        /// The object.
        key: String,
        /// What is wrong.
        why: String,
    },
    /// A commit that this program does not understand: a newer one made it.
    NewerCommit {
        /// The object.
        key: String,
        /// What made it.
        program: String,
    },
    /// A commit that others refer to is not there.
    MissingCommit {
        /// Whose log.
        writer: String,
        /// Which place.
        sequence: u64,
        /// Its digest, as those who saw it say.
        digest: CommitId,
    },
    /// Two commits share a place: a cloned or rolled-back host.
    Fork {
        /// Whose log.
        writer: String,
        /// Which place.
        sequence: u64,
    },
    /// A writer's description is missing, damaged or not signed by the admission key.
    BadWriter {
        /// The writer.
        writer: String,
        /// What is wrong.
        why: String,
    },
    /// The catalog counts what a ruling no longer does, and could not be read anew yet.
    StillCounted {
        /// Whose log.
        writer: String,
    },
    /// A sealed secret, a list of recipients or a ruling is missing, damaged or not signed by the admission key.
    BadKeys {
        /// The object.
        key: String,
        /// What is wrong.
        why: String,
    },
    /// The signed list of recipients in the store is not the one that this host pinned.
    OtherRecipients {
        /// The list in the store.
        found: String,
    },
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::BadCommit { key, why } => write!(f, "commit `{key}` is not to be trusted: {why}"),
            Self::NewerCommit { key, program } => {
                write!(
                    f,
                    "commit `{key}` was made by a newer lifeboat (`{program}`), and this one does not know all of it"
                )
            }
            Self::MissingCommit { writer, sequence, digest } => {
                write!(f, "commit {sequence} ({}) of writer `{writer}` is missing in the store", digest.short())
            }
            Self::Fork { writer, sequence } => write!(
                f,
                "the log of writer `{writer}` has two commits {sequence}: a host was cloned or rolled back, or its keeper committed at \
                 the same moment; both are read"
            ),
            Self::BadWriter { writer, why } => write!(f, "writer `{writer}` is not to be trusted: {why}"),
            Self::StillCounted { writer } => write!(
                f,
                "this catalog still counts what writer `{writer}` wrote after its log was ended or given away: end the \
                 `lifeboat follow` that runs here, then run `lifeboat catalog rebuild`"
            ),
            Self::BadKeys { key, why } => write!(f, "`{key}` is not to be trusted: {why}"),
            Self::OtherRecipients { found } => write!(
                f,
                "the list of recipients in the store ({found}) is not the one that this host pinned; \
                 this host goes on sealing to its own"
            ),
        }
    }
}

/// What reading the logs found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SyncReport {
    /// Commits that were new to the catalog.
    pub commits: u64,
    /// What is wrong.
    pub problems: Vec<Problem>,
}
