//! The one thing to do about a failure, where it is known: what a person reads below the error. Those of PostgreSQL are in a file of
//! their own. Not here: what kind of failure it is (`kind`).

mod convex;
mod ends;
mod forget;
mod postgres;

use super::Error;
use crate::plan::restore::NoPlan;
use crate::{catalog, repository, seal, store};
use convex::{convex_hint, import_hint, stream_hint};
use ends::{destination_hint, source_hint};
use forget::{copy_hint, forget_hint, prune_hint};
use postgres::{client_hint, no_place_hint, no_way_hint, onto_hint, recover_hint, wal_hint};

impl Error {
    /// What to do about it, where we know.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Repository(e) => repository_hint(e),
            Self::NoPlan(e) => no_plan_hint(e),
            Self::NoWay(e) => no_way_hint(e),
            Self::NoPlace(e) => Some(no_place_hint(e)),
            Self::Wal(e) => wal_hint(e),
            Self::Recover(e) => recover_hint(e),
            Self::Onto(e) => Some(onto_hint(e)),
            Self::Forget(e) => Some(forget_hint(e)),
            Self::Prune(e) => Some(prune_hint(e)),
            Self::Copy(e) => Some(copy_hint(e)),
            Self::Source(e) => source_hint(e),
            Self::Convex(e) => convex_hint(e),
            Self::Stream(e) => stream_hint(e),
            Self::Destination(e) => destination_hint(e),
            Self::Client(e) => client_hint(e, false),
            Self::NoDeployment { .. } => Some("Restore it into a directory: `--into DIR`.".to_owned()),
            Self::NoSuchTable { .. } => {
                Some("Write it as `--table users` or `--table component/users`; `*` stands for any run of characters.".to_owned())
            }
            Self::ImportFailed { why, .. } => Some(import_hint(why)),
            Self::NoDumps { .. } => Some("Restore it into a directory: `--into DIR`.".to_owned()),
            Self::PlainDump(_) => Some(
                "Restore it into a database that is not there yet: `--create`, or `--database OLD=NEW`. Or lay it down with \
                 `--into DIR` and use `psql`."
                    .to_owned(),
            ),
            Self::NoGlobals => Some("Leave `--globals` out, and make the roles by hand; or say `--no-owner`.".to_owned()),
            Self::OneDatabase { .. } => {
                Some("Choose one with `--database NAME`, or leave the database out of the URL and say `--database OLD=NEW`.".to_owned())
            }
            Self::SameDatabase(_) => Some("Give each a name of its own: `--database OLD=NEW`.".to_owned()),
            Self::HasTables { from, .. } => Some(format!(
                "Restore beside it: `--database {from}={from}_restored`. Or drop what the dump holds and make it anew: `--clean`. \
                 Nothing was changed."
            )),
            Self::BucketNotEmpty { .. } => Some(
                "Choose an empty prefix, or say what happens to objects of the same name: `--overwrite never`, `--overwrite always`."
                    .to_owned(),
            ),
            Self::BucketDiffers { .. } => {
                Some("`--overwrite always` replaces what is there by what the snapshot holds; then somebody else writes there.".to_owned())
            }
            Self::Busy(_) => Some("Add `--wait` to wait for it.".to_owned()),
            Self::NothingSelected => Some(
                "Patterns are relative to the source's root, as lines of .gitignore: `--include etc/app`. \
                 `lifeboat find SOURCE PATTERN` tries one."
                    .to_owned(),
            ),
            Self::Hurt { .. } => Some(
                "Files that are not whole end in `.lifeboat-incomplete`; all others are right. `lifeboat check --read-data` \
                 names what is damaged; an older snapshot may have those files."
                    .to_owned(),
            ),
            Self::Output { source, .. } if is_full(source) => Some("Make room there, or choose another place.".to_owned()),
            Self::NotAFile(path) => Some(format!(
                "`dump` writes one file. A directory: `lifeboat restore SOURCE --include '{path}' --into DIR`, or `--tar FILE`."
            )),
            Self::NoSuchPath { .. } => Some("`lifeboat ls SOURCE --recursive` lists what is there.".to_owned()),
            Self::Unreadable { .. } => Some("No snapshot was made. Run it again when the stream is whole.".to_owned()),
            _ => None,
        }
    }
}

/// Whether the disk, or a quota, is full.
fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

fn recipients_hint(error: &repository::RecipientsError) -> String {
    use repository::RecipientsError as E;
    match error {
        E::There(_) | E::NotThere(_) => "`lifeboat key list` shows who is on it. Nothing was changed.".to_owned(),
        E::Nobody => "Add somebody first: `lifeboat key add age1...`. Nothing was changed.".to_owned(),
        E::LockedOut => "Do it with an identity that stays on the list: `--identity FILE`. Nothing was changed.".to_owned(),
        E::NotNewest { .. } => {
            "`lifeboat key list` shows the list as the store has it. Ask whoever changed it for the digest. Nothing was changed.".to_owned()
        }
    }
}

/// Of a store that does not answer, or fails where trying again is of no use.
fn unreachable_hint(error: &store::Error) -> &'static str {
    match error {
        store::Error::Unreachable { tries: 1, .. } => {
            "Trying again would not help: check its free space and the permissions. What is stored is safe."
        }
        _ => "What is stored is safe. Run the same command again when the store answers; it reuses what is there.",
    }
}

/// Whether S3 refused an object for want of a checksum: only its own words say so.
fn wants_checksums(error: &store::Error) -> bool {
    let mut source: Option<&dyn std::error::Error> = Some(error);
    std::iter::from_fn(|| {
        let this = source?;
        source = this.source();
        Some(this.to_string())
    })
    .any(|text| text.contains("Content-MD5") && text.contains("Object Lock"))
}

/// Of a host whose log was ended, or goes on with another one.
fn overruled_hint(given_away: bool) -> &'static str {
    if given_away {
        "Two hosts cannot write one log. Stop this one; or let it join as a new writer, with a state directory of its own: \
         `lifeboat --state-dir DIR init --identity FILE`."
    } else {
        "Was that a mistake, or is this host sound again: let it join as a new writer, with a state directory of its own: \
         `lifeboat --state-dir DIR init --identity FILE`."
    }
}

fn repository_hint(error: &repository::Error) -> Option<String> {
    use repository::Error as E;
    let hint = match error {
        E::NoRepository(url) => {
            format!("Check the URL, or make one there: `lifeboat --repo {url} init --generate-identity FILE`.")
        }
        E::Store(store::Error::NotFound { store, key }) if key == "lifeboat.json" => {
            format!("Check the URL, or make one there: `lifeboat --repo {store} init --generate-identity FILE`.")
        }
        E::Exists(_) => "To join it from this host, run `init` with `--identity FILE`. Nothing was changed.".to_owned(),
        E::AlreadyWriter { .. } => "There is nothing to do: `lifeboat backup` works from here. Nothing was changed.".to_owned(),
        E::Admitted(_) => "There is nothing to do: that host can back up. Nothing was changed.".to_owned(),
        E::Keys { source: seal::Error::NoIdentity(_), .. } => {
            "Point `--identity` at the file whose public key is among the recipients (`lifeboat key list` shows them)."
                .to_owned()
        }
        E::NeedsIdentity(_) => {
            "Give the file with the secret key: `--identity FILE`, or set LIFEBOAT_IDENTITY_FILE.".to_owned()
        }
        E::CopyRecipients(store) => format!(
            "Make the lists the same: `lifeboat key list` shows this one, `lifeboat --repo '{store}' key add KEY` and `key remove KEY` change the copy's. \
             Nothing was copied."
        ),
        E::Recipients(e) => recipients_hint(e),
        E::OtherRecipients => {
            "This host seals only to the recipients it pinned. Leave `recipients` out, or make the list \
                               the same; `lifeboat key list` shows it, `lifeboat key pin` follows a new one."
                .to_owned()
        }
        E::Fingerprint { .. } => {
            "Do not go on unless you know why it changed: somebody may have replaced the repository. \
                                  The right fingerprint is the one that `init` printed. If this is another repository of yours, pin it: \
             `fingerprint = \"...\"` under [repository]."
                .to_owned()
        }
        E::Newer { .. } => "Use a newer lifeboat.".to_owned(),
        E::NewerCommit { .. } => "Use that lifeboat on this host, or a later one. Nothing was changed.".to_owned(),
        E::Catalog(catalog::Error::Newer { .. }) => {
            "Use the newer lifeboat, or `lifeboat catalog rebuild`, which makes it anew.".to_owned()
        }
        E::Lapsed { .. } => {
            "The snapshot of this run was not made, or is forgotten again. Run the same command once more: what is missing is stored anew. A \
             longer `grace` under [prune] leaves long runs more time."
                .to_owned()
        }
        E::CatalogInUse => "Run it again when they have ended. Nothing was changed.".to_owned(),
        E::Catalog(e) if e.is_of_the_disk() => {
            "Check the free space and the permissions there. What is stored is safe; run the same command again.".to_owned()
        }
        E::Catalog(catalog::Error::Sqlite { .. } | catalog::Error::Inconsistent { .. }) => {
            "The catalog is a cache: `lifeboat catalog rebuild` makes it anew.".to_owned()
        }
        E::Frame { .. } | E::Pack { .. } | E::UnknownFrame(_) | E::Manifest { .. } => {
            "`lifeboat check --read-data` names everything that is hurt. Another snapshot may be whole.".to_owned()
        }
        E::Store(store::Error::Gone { .. }) => {
            "Mount the disk again, or move the directory back, and run the same command again. What was acknowledged lies there; \
             nothing was put elsewhere."
                .to_owned()
        }
        E::Store(store::Error::Denied { .. }) => {
            "Check the credentials and their rights: a backup needs to list, read and create.".to_owned()
        }
        E::Store(e) if wants_checksums(e) => {
            "The bucket locks objects, and asks for a checksum with each: set `checksums = true` under [repository]. What is stored is safe.".to_owned()
        }
        E::Store(e @ (store::Error::Unreachable { .. } | store::Error::Deadline { .. })) => unreachable_hint(e).to_owned(),
        E::Io { doing: "make", .. } => {
            "Give a directory that can be written: `--state-dir DIR`. To read or restore, any empty one does.".to_owned()
        }
        E::Cancelled => "Nothing that was done is lost. Run the same command again to go on.".to_owned(),
        E::KeyFile { path, .. } => format!(
            "Move `{}` away, then join again with an identity: `lifeboat init --identity FILE`.",
            path.display()
        ),
        e => return writers_hint(e).map(str::to_owned),
    };
    Some(hint)
}

/// Who may write what.
fn writers_hint(error: &repository::Error) -> Option<&'static str> {
    use repository::Error as E;
    Some(match error {
        E::NotAWriter(_) => {
            "Join it with an identity at hand, once: `lifeboat init --identity FILE`. Without one: \
                             `lifeboat key request`, and have it admitted."
        }
        E::NotItsKeeper(_) => {
            "`lifeboat key list` shows the keepers of each writer. Where an identity is: `lifeboat key keeper KEEPER --of WRITER`; a host keeps \
             its own log anyway, with `lifeboat prune`."
        }
        E::KeeperEnded(_) => {
            "Let that machine join anew, with a state directory of its own (`lifeboat --state-dir DIR init --identity FILE`), and name it by its new name."
        }
        E::NotAdmitted(_) => "Where an identity is at hand, run `lifeboat key admit REQUEST`, then this again.",
        E::Ended(_) => "Join as a new writer: `lifeboat init --identity FILE`. Its snapshots are restored as before.",
        E::Overruled { host, .. } => overruled_hint(host.is_some()),
        _ => return None,
    })
}

fn no_plan_hint(error: &NoPlan) -> Option<String> {
    Some(match error {
        NoPlan::TooEarly { first, .. } => format!("The earliest that can be had: `--to {first}`."),
        NoPlan::NotExact { nearest, .. } => format!("Leave `--exact` out, or say `--to {nearest}`."),
        NoPlan::NoSnapshot(_) => "`lifeboat snapshots` lists what there is.".to_owned(),
        NoPlan::NoneComplete(_) => {
            "Name an incomplete one if that will do: `lifeboat snapshots`, then `--snapshot ID`.".to_owned()
        }
        NoPlan::NoSuchId(_) => "`lifeboat snapshots` lists the ids.".to_owned(),
        NoPlan::Ambiguous(..) => "Give more characters of the id.".to_owned(),
        NoPlan::SeveralWriters(..) => "Say which one by its full name, `writer/source`.".to_owned(),
    })
}
