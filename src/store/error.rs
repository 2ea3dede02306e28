//! What can go wrong with a store, and what of it is worth another try.

/// What went wrong with the object store, in terms a caller can act on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The object is not there.
    #[error("object `{key}` is not in `{store}`")]
    NotFound {
        /// The store's URL.
        store: String,
        /// The object's name.
        key: String,
    },
    /// The directory of a local store is not the one that was opened.
    #[error(
        "could not {verb} `{key}`: the directory `{store}` is not the one that was opened; it was moved, unmounted or replaced"
    )]
    Gone {
        /// The store's URL.
        store: String,
        /// `read`, `list` or `store`.
        verb: &'static str,
        /// The object's name.
        key: String,
    },
    /// Tried and given up.
    #[error("could not {verb} `{key}` in `{store}` ({tries} tries)")]
    Unreachable {
        /// `read`, `list` or `store`.
        verb: &'static str,
        /// The store's URL.
        store: String,
        /// The object's name.
        key: String,
        /// How often it was tried.
        tries: u32,
        /// The last answer.
        source: Box<object_store::Error>,
    },
    /// No answer within the deadline, at each try.
    #[error("`{store}` did not answer in time when asked to {verb} `{key}` ({tries} tries)")]
    Deadline {
        /// `read`, `list` or `store`.
        verb: &'static str,
        /// The store's URL.
        store: String,
        /// The object's name.
        key: String,
        /// How often it was tried.
        tries: u32,
    },
    /// The store refused for want of rights.
    #[error("`{store}` refused to {verb} `{key}`")]
    Denied {
        /// `read`, `list` or `store`.
        verb: &'static str,
        /// The store's URL.
        store: String,
        /// The object's name.
        key: String,
        /// The answer.
        source: Box<object_store::Error>,
    },
    /// The object is longer than anything of its kind may be.
    #[error("object `{key}` in `{store}` has {size} bytes, more than the {limit} that it may have")]
    TooLarge {
        /// The store's URL.
        store: String,
        /// The object's name.
        key: String,
        /// Its size.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// The body ended early at each try, or the object is shorter than it should be.
    #[error("object `{key}` in `{store}` is cut off: {got} bytes where {expected} were expected")]
    Truncated {
        /// The store's URL.
        store: String,
        /// The object's name.
        key: String,
        /// Bytes that came.
        got: u64,
        /// Bytes that should have come.
        expected: u64,
    },
    /// Another object lies under the name.
    #[error("object `{key}` is in `{store}` already with other contents")]
    Conflict {
        /// The store's URL.
        store: String,
        /// The object's name.
        key: String,
    },
    /// The URL or the options make no store.
    #[error("`{url}` names no store: {why}")]
    BadUrl {
        /// What was given, without secrets.
        url: String,
        /// What is wrong.
        why: String,
    },
    /// The store's client could not be made.
    #[error("could not open the store `{url}`")]
    Open {
        /// The store's URL.
        url: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Why one try failed.
pub(super) enum Failure {
    Store(object_store::Error),
    Late,
    Short {
        got: u64,
        expected: u64,
    },
    /// The object ends before the range does, by the answer's own word.
    Ends {
        got: u64,
        expected: u64,
    },
    Long {
        size: u64,
        limit: u64,
    },
    /// A create was refused although nothing lies there.
    Contested(object_store::Error),
}

impl From<object_store::Error> for Failure {
    fn from(error: object_store::Error) -> Self {
        Self::Store(error)
    }
}

/// Whether another try may go better.
pub(super) fn worth_a_retry(failure: &Failure) -> bool {
    use object_store::Error as E;
    match failure {
        Failure::Late | Failure::Short { .. } | Failure::Contested(_) => true,
        Failure::Ends { .. } | Failure::Long { .. } => false,
        Failure::Store(
            E::NotFound { .. }
            | E::InvalidPath { .. }
            | E::NotSupported { .. }
            | E::AlreadyExists { .. }
            | E::Precondition { .. }
            | E::NotModified { .. }
            | E::NotImplemented { .. }
            | E::PermissionDenied { .. }
            | E::Unauthenticated { .. }
            | E::UnknownConfigurationKey { .. },
        ) => false,
        Failure::Store(error) => !is_final_io(error) && !is_unsupported(error) && !is_beyond_the_end(error),
    }
}

/// Whether the store says that it does not know what was asked for.
pub(super) fn is_unsupported(error: &object_store::Error) -> bool {
    use object_store::Error as E;
    match error {
        E::NotImplemented { .. } | E::NotSupported { .. } => true,
        // object_store has no variant for this status and keeps its number to itself: its words are all there is.
        E::Generic { source, .. } => source.to_string().contains("status code: 501"),
        _ => false,
    }
}

/// Whether a range was refused because the object ends before it. object_store keeps the type of this answer to itself:
/// its words, and the number of HTTP's status, are all there is. Where they are others, it is tried again in vain.
fn is_beyond_the_end(error: &object_store::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(e) = cause {
        let text = e.to_string();
        if text.contains("Wanted range starting at") || text.contains("status code: 416") {
            return true;
        }
        cause = e.source();
    }
    false
}

/// A full or read-only disk does not get better by waiting.
fn is_final_io(error: &(dyn std::error::Error + 'static)) -> bool {
    use std::io::ErrorKind as K;
    let mut cause = Some(error);
    while let Some(e) = cause {
        if let Some(io) = e.downcast_ref::<std::io::Error>() {
            let kinds = [K::StorageFull, K::QuotaExceeded, K::ReadOnlyFilesystem, K::PermissionDenied, K::FileTooLarge];
            if kinds.contains(&io.kind()) {
                return true;
            }
        }
        cause = e.source();
    }
    false
}
