//! What kind of failure an error is. Exit codes follow the kind; what to do about it is in `hints`.

use super::Error;
use super::copy::CopyError;
use super::documents::StreamError;
use super::forget::ForgetError;
use super::recover::RecoverError;
use super::wal::WalError;
use crate::plan::drill::NoAim;
use crate::{catalog, client, destination, repository, source, store};

/// Kinds of failure, with their exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Not done.
    Failed = 1,
    /// The command line or the configuration is wrong; nothing was touched.
    Usage = 2,
    /// Done, but something was skipped.
    Incomplete = 3,
    /// That moment cannot be reached.
    NoPlan = 4,
    /// There is no repository there.
    NoRepository = 10,
    /// Another run works on this source.
    Busy = 11,
    /// No key opens it.
    Key = 12,
    /// Stored bytes do not match their digests.
    Damage = 13,
    /// Interrupted; safe to run again.
    Cancelled = 130,
}

impl Error {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Repository(e) => repository_kind(e),
            Self::Source(source::Error::Rules(_) | source::Error::Pattern { .. }) | Self::Pattern { .. } => Kind::Usage,
            Self::Destination(
                destination::Error::NotEmpty(_)
                | destination::Error::Interrupted { .. }
                | destination::Error::BegunOver { .. },
            )
            | Self::NothingSelected => Kind::Usage,
            Self::NoPlan(_) | Self::NoWay(_) | Self::NoAim(NoAim::Nothing) => Kind::NoPlan,
            Self::NoAim(_) => Kind::Usage,
            Self::Source(source::Error::Client(e)) | Self::Client(e) => client_kind(e),
            Self::Source(source::Error::Convex(e)) | Self::Convex(e) => convex_kind(e),
            Self::NoPlace(_)
            | Self::NoDumps { .. }
            | Self::NoDeployment { .. }
            | Self::NoSuchTable { .. }
            | Self::PlainDump(_)
            | Self::NoGlobals
            | Self::NoSuchDump { .. }
            | Self::OneDatabase { .. }
            | Self::SameDatabase(_)
            | Self::BucketNotEmpty { .. }
            | Self::HasTables { .. } => Kind::Usage,
            Self::Destination(destination::Error::InUse(_)) => Kind::Busy,
            Self::Busy(_) | Self::Wal(WalError::Followed) | Self::Stream(StreamError::Followed) => Kind::Busy,
            Self::Stream(StreamError::NotReached { .. }) => Kind::NoPlan,
            Self::Stream(StreamError::NoId(_)) => Kind::Usage,
            Self::Stream(StreamError::Content(_) | StreamError::Conflict { .. }) => Kind::Damage,
            Self::Onto(_) => Kind::Usage,
            Self::Prune(_) | Self::Copy(CopyError::Busy(_)) => Kind::Busy,
            Self::Copy(_) => Kind::Usage,
            Self::Forget(ForgetError::Hole(_)) => Kind::Damage,
            Self::Forget(ForgetError::NoSource(_)) => Kind::NoPlan,
            Self::Forget(_) => Kind::Usage,
            Self::Recover(RecoverError::AsRoot(_) | RecoverError::NoConfiguration { .. }) => Kind::Usage,
            Self::Recover(RecoverError::Short { .. }) => Kind::Damage,
            Self::Recover(RecoverError::GivenUp) => Kind::Cancelled,
            Self::Hurt { .. } | Self::BucketDiffers { .. } | Self::Source(source::Error::BadPages { .. }) => {
                Kind::Damage
            }
            Self::Wal(
                WalError::Conflict { .. } | WalError::Gap { .. } | WalError::Content { .. } | WalError::Damaged { .. },
            ) => Kind::Damage,
            _ => Kind::Failed,
        }
    }
}

fn client_kind(error: &client::Error) -> Kind {
    match error {
        client::Error::BadConnection(_) => Kind::Usage,
        client::Error::GivenUp => Kind::Cancelled,
        _ => Kind::Failed,
    }
}

fn convex_kind(error: &client::convex::Error) -> Kind {
    use client::convex::Error as E;
    match error {
        E::BadUrl { .. } | E::NoUrl | E::NoKey(_) | E::BadKey { .. } | E::OtherInstance { .. } => Kind::Usage,
        E::GivenUp => Kind::Cancelled,
        _ => Kind::Failed,
    }
}

fn repository_kind(error: &repository::Error) -> Kind {
    use repository::Error as E;
    match error {
        E::NoRepository(_) => Kind::NoRepository,
        E::CatalogInUse => Kind::Busy,
        E::Store(store::Error::BadUrl { .. })
        | E::OtherRecipients
        | E::NoCopy { .. }
        | E::CopyRecipients(_)
        | E::Ended(_)
        | E::Recipients(_) => Kind::Usage,
        E::Store(store::Error::NotFound { key, .. }) if key == "lifeboat.json" => Kind::NoRepository,
        E::Store(store::Error::Gone { .. }) => Kind::NoRepository,
        E::Keys { .. }
        | E::KeyFile { .. }
        | E::NeedsIdentity(_)
        | E::NotAWriter(_)
        | E::NotAdmitted(_)
        | E::NotItsKeeper(_)
        | E::KeeperEnded(_)
        | E::Overruled { .. }
        | E::Fingerprint { .. } => Kind::Key,
        E::BadObject { .. } | E::Pack { .. } | E::Frame { .. } | E::UnknownFrame(_) | E::Manifest { .. } => {
            Kind::Damage
        }
        E::Store(store::Error::Truncated { .. } | store::Error::TooLarge { .. } | store::Error::Conflict { .. }) => {
            Kind::Damage
        }
        E::Catalog(catalog::Error::BadCommit { .. }) => Kind::Damage,
        E::Cancelled => Kind::Cancelled,
        _ => Kind::Failed,
    }
}
