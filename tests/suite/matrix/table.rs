//! What must come of each damage. To be read as sentences: after the way of damage to the target, a check, a restore on
//! this host, a restore on a machine that has seen nothing, and a backup end so. `{object}` is the damaged object's name.

use Expected::{Fails, Names, Well};
use Target::*;
use Way::*;

/// What is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Frame,
    PackDirectory,
    Footer,
    Commit,
    Description,
    WriterDescription,
    RepositorySecret,
    RecipientsList,
    WriterSecret,
    Catalog,
    ManifestCopy,
}

impl Target {
    pub const ALL: &[Self] = &[
        Frame,
        PackDirectory,
        Footer,
        Commit,
        Description,
        WriterDescription,
        RepositorySecret,
        RecipientsList,
        WriterSecret,
        Catalog,
        ManifestCopy,
    ];
}

/// How.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Delete,
    Truncate,
    Flip,
    Swap,
    Replay,
}

impl Way {
    pub const ALL: &[Self] = &[Delete, Truncate, Flip, Swap, Replay];
}

/// What must come of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// The deed ends well and right, and this is why nothing need be said.
    Well(&'static str),
    /// The deed ends, and names this; what it gave is right.
    Names(&'static str),
    /// The deed fails with an error that says this; whatever carries a final name is right.
    Fails(&'static str),
}

/// One way of damage to one target.
pub struct Row {
    pub way: Way,
    pub target: Target,
    /// Check, restore, restore on a bare machine, backup; or why it cannot be.
    pub outcome: Result<[Expected; 4], &'static str>,
}

impl Row {
    pub fn cells(&self) -> Option<impl Iterator<Item = (&'static str, Expected)> + use<>> {
        Some(["check", "restore", "bare", "backup"].into_iter().zip(self.outcome.ok()?))
    }
}

const fn row(way: Way, target: Target, outcome: Result<[Expected; 4], &'static str>) -> Row {
    Row { way, target, outcome }
}

/// A restore finds frames by the log; directories serve whoever rebuilds a catalog or a log.
const NOT_ASKED: Expected = Well("a restore finds frames by the log");
/// A backup lists packs and their lengths; bytes are read by checks and restores.
const NOT_READ: Expected = Well("a backup lists packs, and reads none");
/// The catalog has what the commit says, and the signed description.
const KNOWN: Expected = Well("this host has read it before");
const SEALED_TO_HOST: Expected = Well("this host opens the secret that is sealed to itself");
const PINNED: Expected = Well("this host seals to the list that it has pinned");
const NO_JOINING: Expected = Well("only who joins or changes keys asks for it");
const IDENTITY: Expected = Well("an identity opens the repository's own secret");
const CACHE: Expected = Well("it is a cache: what it lacks is read from the log");
const COPY: Expected = Well("it is a copy: without it files are read anew");
const ELSEWHERE: Expected = Well("this machine has its own, or none");

const IN_CHECK: Expected = Names("{object}");
const HURT: Expected = Fails("in pack {object} is damaged");
const EITHER: Expected = Fails(" is damaged: ");
const CUT_OFF: Expected = Names("(the first: {object})");
const TWO_CUT_OFF: Expected = Names("2 packs are cut off in the store");
const MISSING: Expected = Names("commit 2 (");
const BY_NAME: Expected = Fails("{object}");
const NO_REPOSITORY: Expected = Fails("there is no repository in");
const NO_DESCRIPTION: Expected = Fails("`lifeboat.json` is damaged");
const NOT_OURS: Expected = Fails("this host is no writer of the repository");
const REPLACED: Expected = Fails("it belongs to another repository, or was replaced");

const ONCE: &str = "it is written once: there is no older one";

/// The columns: check, restore on this host, restore on a machine that has seen nothing, backup.
pub const TABLE: &[Row] = &[
    row(Delete, Frame, Ok([IN_CHECK, HURT, HURT, CUT_OFF])),
    row(Truncate, Frame, Ok([IN_CHECK, HURT, HURT, CUT_OFF])),
    row(Flip, Frame, Ok([IN_CHECK, HURT, HURT, NOT_READ])),
    row(Swap, Frame, Ok([IN_CHECK, EITHER, EITHER, TWO_CUT_OFF])),
    row(Replay, Frame, Ok([IN_CHECK, HURT, HURT, CUT_OFF])),
    row(Delete, PackDirectory, Ok([IN_CHECK, NOT_ASKED, NOT_ASKED, CUT_OFF])),
    row(Truncate, PackDirectory, Ok([IN_CHECK, NOT_ASKED, NOT_ASKED, CUT_OFF])),
    row(Flip, PackDirectory, Ok([IN_CHECK, NOT_ASKED, NOT_ASKED, NOT_READ])),
    row(Swap, PackDirectory, Ok([IN_CHECK, NOT_ASKED, NOT_ASKED, TWO_CUT_OFF])),
    row(Replay, PackDirectory, Ok([IN_CHECK, NOT_ASKED, NOT_ASKED, CUT_OFF])),
    row(Delete, Footer, Ok([IN_CHECK, NOT_ASKED, NOT_ASKED, CUT_OFF])),
    row(Truncate, Footer, Ok([IN_CHECK, NOT_ASKED, NOT_ASKED, CUT_OFF])),
    row(Flip, Footer, Ok([IN_CHECK, NOT_ASKED, NOT_ASKED, NOT_READ])),
    row(Swap, Footer, Ok([IN_CHECK, NOT_ASKED, NOT_ASKED, NOT_READ])),
    row(Replay, Footer, Ok([IN_CHECK, NOT_ASKED, NOT_ASKED, NOT_READ])),
    row(Delete, Commit, Ok([MISSING, MISSING, MISSING, MISSING])),
    row(Truncate, Commit, Ok([IN_CHECK, KNOWN, Names("{object}"), KNOWN])),
    row(Flip, Commit, Ok([IN_CHECK, KNOWN, Names("{object}"), KNOWN])),
    row(Swap, Commit, Ok([IN_CHECK, KNOWN, BY_NAME, KNOWN])),
    row(Replay, Commit, Ok([IN_CHECK, KNOWN, Names("{object}"), KNOWN])),
    row(Delete, Description, Ok([NO_REPOSITORY, NO_REPOSITORY, NO_REPOSITORY, NO_REPOSITORY])),
    row(Truncate, Description, Ok([NO_DESCRIPTION, NO_DESCRIPTION, NO_DESCRIPTION, NO_DESCRIPTION])),
    row(Flip, Description, Ok([NO_DESCRIPTION, NO_DESCRIPTION, NO_DESCRIPTION, NO_DESCRIPTION])),
    row(Swap, Description, Ok([NOT_OURS, REPLACED, REPLACED, NOT_OURS])),
    row(Replay, Description, Err(ONCE)),
    row(Delete, WriterDescription, Ok([IN_CHECK, KNOWN, Fails("its description is missing"), KNOWN])),
    row(Truncate, WriterDescription, Ok([IN_CHECK, KNOWN, BY_NAME, KNOWN])),
    row(Flip, WriterDescription, Ok([IN_CHECK, KNOWN, BY_NAME, KNOWN])),
    row(Swap, WriterDescription, Ok([IN_CHECK, KNOWN, BY_NAME, KNOWN])),
    row(Replay, WriterDescription, Err(ONCE)),
    row(
        Delete,
        RepositorySecret,
        Ok([Names("keys/secret-"), SEALED_TO_HOST, Fails("there is no secret"), SEALED_TO_HOST]),
    ),
    row(Truncate, RepositorySecret, Ok([IN_CHECK, SEALED_TO_HOST, BY_NAME, SEALED_TO_HOST])),
    row(Flip, RepositorySecret, Ok([IN_CHECK, SEALED_TO_HOST, BY_NAME, SEALED_TO_HOST])),
    row(Swap, RepositorySecret, Ok([IN_CHECK, SEALED_TO_HOST, BY_NAME, SEALED_TO_HOST])),
    row(Replay, RepositorySecret, Err(ONCE)),
    row(Delete, RecipientsList, Ok([Names("keys/recipients-"), NO_JOINING, NO_JOINING, PINNED])),
    row(Truncate, RecipientsList, Ok([IN_CHECK, NO_JOINING, NO_JOINING, PINNED])),
    row(Flip, RecipientsList, Ok([IN_CHECK, NO_JOINING, NO_JOINING, PINNED])),
    row(Swap, RecipientsList, Ok([IN_CHECK, NO_JOINING, NO_JOINING, PINNED])),
    row(Replay, RecipientsList, Err("no verb changes the list yet: there is no older one")),
    row(Delete, WriterSecret, Ok([BY_NAME, BY_NAME, IDENTITY, BY_NAME])),
    row(Truncate, WriterSecret, Ok([BY_NAME, BY_NAME, IDENTITY, BY_NAME])),
    row(Flip, WriterSecret, Ok([BY_NAME, BY_NAME, IDENTITY, BY_NAME])),
    row(Swap, WriterSecret, Ok([BY_NAME, BY_NAME, IDENTITY, BY_NAME])),
    row(Replay, WriterSecret, Err(ONCE)),
    row(Delete, Catalog, Ok([CACHE, CACHE, ELSEWHERE, CACHE])),
    row(Truncate, Catalog, Ok([BY_NAME, BY_NAME, ELSEWHERE, BY_NAME])),
    row(Flip, Catalog, Ok([BY_NAME, BY_NAME, ELSEWHERE, BY_NAME])),
    row(Swap, Catalog, Ok([CACHE, CACHE, ELSEWHERE, CACHE])),
    row(Replay, Catalog, Ok([CACHE, CACHE, ELSEWHERE, CACHE])),
    row(Delete, ManifestCopy, Ok([COPY, COPY, ELSEWHERE, COPY])),
    row(Truncate, ManifestCopy, Ok([COPY, COPY, ELSEWHERE, COPY])),
    row(Flip, ManifestCopy, Ok([COPY, COPY, ELSEWHERE, COPY])),
    row(Swap, ManifestCopy, Ok([COPY, COPY, ELSEWHERE, COPY])),
    row(Replay, ManifestCopy, Ok([COPY, COPY, ELSEWHERE, COPY])),
];
