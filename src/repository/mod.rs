//! The one way to make a snapshot exist, and the one way to trust bytes.
//!
//! A [`Repository`] is a store, its description, a catalog, and the keys that are at hand: the host's writer keys, or
//! identities, or both. Invariants: nothing that a log or a pack says is believed before its name, its signature and its
//! place were checked; bytes leave only after their keyed digest matched; the store is written before the catalog.
//! Not here: what is backed up, where it is restored, which snapshot is chosen.

mod adoption;
mod audit;
mod by_digest;
mod copied_streams;
mod copies;
mod draft;
mod drills;
mod fetch;
mod host;
mod init;
mod keeping;
mod keeps;
mod layout;
mod local_copy;
mod lock;
mod log;
mod manifest;
mod marks;
mod mend;
mod open;
mod packs;
mod pipeline;
mod problem;
mod prune;
mod recipients;
mod relocate;
mod resealed;
mod rulings;
mod session;
mod sorter;
mod stream;
mod sweep;
mod trust;
mod unordered;

pub use adoption::Adopted;
pub use copied_streams::CopiedStream;
pub use copies::{Clock, CopiedFrames, CopyRun};
pub use draft::{Counts, Draft, SessionEnd, SnapshotDraft};
pub use fetch::{Fetch, FrameReader, FrameWorker, Sink, plan_fetches, split_fetches};
pub use host::{HostFolder, HostWriter};
pub use init::{Admission, InitOptions, Made, Request, init};
pub use keeping::{HeldBack, Keeper, KeeperSet};
pub use layout::{
    Description, RecipientsList, WriterDescription, commit_key, is_source_name, is_writer_name, parse_commit_key,
};
pub use lock::Lock;
pub use manifest::{ExtentReader, ManifestReader, read_local_manifest};
pub use marks::Mark;
pub use mend::{FramesMended, LogMended};
pub use open::{Keys, OpenOptions, Repository};
pub use packs::PackListing;
pub use problem::{Problem, SyncReport};
pub use prune::{Repacked, RetiredNow};
pub use recipients::{EarlierPacks, RecipientsError};
pub use rulings::{End, Era, Ruling, Standing};
pub use session::Session;
pub use stream::{SegmentReader, SegmentWorker, SegmentWriter, StreamListing};
pub use sweep::SweptReport;
pub use trust::Trust;

use std::path::PathBuf;

use crate::model::FrameId;
use crate::{catalog, pack, seal, store};

/// What the repository could not do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The catalog.
    #[error(transparent)]
    Catalog(#[from] catalog::Error),
    /// There is no repository at the URL.
    #[error("there is no repository in `{0}`")]
    NoRepository(String),
    /// There is one already.
    #[error("there is a repository in `{0}` already")]
    Exists(String),
    /// This host may not free what a writer's log does not need.
    #[error("this host is no keeper of writer `{0}`")]
    NotItsKeeper(String),
    /// A keeper that was ended.
    #[error("`{0}` kept this log before, and was ended")]
    KeeperEnded(String),
    /// This host has joined it already.
    #[error("this host is writer `{writer}` of the repository in `{store}` already")]
    AlreadyWriter {
        /// The store.
        store: String,
        /// Its name there.
        writer: String,
    },
    /// The request was answered before.
    #[error("writer `{0}` is admitted already")]
    Admitted(String),
    /// A repository of a later format.
    #[error("the repository in `{store}` has format {found}; this lifeboat reads format 1")]
    Newer {
        /// The store.
        store: String,
        /// Its format.
        found: u64,
    },
    /// A commit that this program does not understand.
    #[error("commit `{key}` was made by a newer lifeboat (`{program}`), and this one does not know all of it")]
    NewerCommit {
        /// The object.
        key: String,
        /// What made it.
        program: String,
    },
    /// A small object says impossible things.
    #[error("`{key}` is damaged: {why}")]
    BadObject {
        /// The object.
        key: String,
        /// What is wrong.
        why: String,
    },
    /// The repository is not the one that was pinned.
    #[error("the repository in `{store}` has fingerprint {found}, but {pinned} was pinned {by}")]
    Fingerprint {
        /// The store.
        store: String,
        /// The digest of its `lifeboat.json`.
        found: String,
        /// What was expected.
        pinned: String,
        /// Who pinned it.
        by: String,
    },
    /// Neither an identity nor this host's writer key opens what is needed.
    #[error("{what} cannot be {} with the keys at hand", tried(source))]
    Keys {
        /// What.
        what: String,
        /// Why.
        source: seal::Error,
    },
    /// This host's key file is damaged.
    #[error("this host's key file `{}` is damaged: {why}", path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// No identity was given where one is needed.
    #[error("{0} needs an identity, and none was given")]
    NeedsIdentity(&'static str),
    /// This host has not joined the repository.
    #[error("this host is no writer of the repository in `{0}`")]
    NotAWriter(String),
    /// This host asked to be admitted, and nobody has admitted it yet.
    #[error("this host asked to be writer `{0}`, and nobody has admitted it yet")]
    NotAdmitted(String),
    /// Somebody with an identity ended this host's part in its log, or gave the log to another host.
    #[error("writer `{writer}` was {} on {at}: what this host writes counts no longer", host.as_ref().map_or_else(|| "revoked".to_owned(), |host| format!("given to host `{host}`")))]
    Overruled {
        /// The writer.
        writer: String,
        /// When: a day.
        at: String,
        /// The host that goes on with it.
        host: Option<String>,
    },
    /// A log that was revoked is not adopted.
    #[error("writer `{0}` was revoked: nobody goes on with its log")]
    Ended(String),
    /// The configuration names other recipients than the host pinned.
    #[error("the recipients given are not those that this host pinned at `init`")]
    OtherRecipients,
    /// What was to be a copy of this repository is none.
    #[error("{}", if *itself { format!("`{store}` is this repository itself") } else { format!("the repository in `{store}` is no copy of this one: its secret is another") })]
    NoCopy {
        /// The store.
        store: String,
        /// Whether it is this very repository.
        itself: bool,
    },
    /// A copy's list of recipients is another one.
    #[error("`{0}` seals to other recipients than this repository")]
    CopyRecipients(String),
    /// The list of recipients was not changed.
    #[error(transparent)]
    Recipients(#[from] RecipientsError),
    /// A pack's directory does not open.
    #[error("pack {pack} is damaged")]
    Pack {
        /// Which.
        pack: String,
        /// What is wrong.
        source: pack::Error,
    },
    /// A frame's stored bytes do not give its plain bytes.
    #[error("frame {} in pack {pack} is damaged: {why}", frame.short())]
    Frame {
        /// Which.
        frame: FrameId,
        /// Where.
        pack: String,
        /// What is wrong.
        why: String,
    },
    /// A snapshot refers to a frame that no log holds.
    #[error("frame {} is in no log of this repository", .0.short())]
    UnknownFrame(FrameId),
    /// A manifest says impossible things.
    #[error("the manifest of snapshot {snapshot} is damaged: {why}")]
    Manifest {
        /// Which.
        snapshot: String,
        /// What is wrong.
        why: String,
    },
    /// A pack that a run has referred to was retired while it went on, and its grace has passed, or may have.
    #[error("pack {pack} was retired by a prune while this run went on, and cannot be relied on any more")]
    Lapsed {
        /// Which.
        pack: String,
    },
    /// A file of the host's own.
    #[error("could not {doing} `{}`", path.display())]
    Io {
        /// `read`, `write`, `lock`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Other processes use the catalog, and it was to be made anew.
    #[error("other runs are using the catalog")]
    CatalogInUse,
    /// A thread of the pipeline ended without a word.
    #[error("a part of the pipeline stopped without a reason; this is a defect of lifeboat")]
    Pipeline,
    /// A person asked to stop.
    #[error("interrupted")]
    Cancelled,
    /// The operating system has none to give.
    #[error("the kernel gave no random numbers")]
    Randomness,
}

/// What was tried with keys that do not do it.
fn tried(source: &seal::Error) -> &'static str {
    match source {
        seal::Error::Seal(_) => "sealed",
        _ => "opened",
    }
}
