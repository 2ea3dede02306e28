//! What kind of failure an error is, and the one thing to do about it. Exit codes follow the kind; hints are written here,
//! next to the variants that know the remedy.

use super::Error;
use super::forget::ForgetError;
use super::recover::RecoverError;
use super::restore::OntoError;
use super::wal::WalError;
use crate::plan::recovery::NoWay;
use crate::plan::restore::NoPlan;
use crate::plan::tablespaces::NoPlace;
use crate::{catalog, client, destination, repository, seal, source, store};

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
            Self::Source(source::Error::Rules(_)) | Self::Pattern { .. } => Kind::Usage,
            Self::Destination(
                destination::Error::NotEmpty(_)
                | destination::Error::Interrupted { .. }
                | destination::Error::BegunOver { .. },
            )
            | Self::NothingSelected => Kind::Usage,
            Self::NoPlan(_) | Self::NoWay(_) => Kind::NoPlan,
            Self::Source(source::Error::Client(e)) | Self::Client(e) => client_kind(e),
            Self::NoPlace(_)
            | Self::NoDumps { .. }
            | Self::PlainDump(_)
            | Self::NoGlobals
            | Self::NoSuchDump { .. }
            | Self::OneDatabase { .. }
            | Self::SameDatabase(_)
            | Self::HasTables { .. } => Kind::Usage,
            Self::Busy(_) | Self::Wal(WalError::Followed) => Kind::Busy,
            Self::Onto(_) => Kind::Usage,
            Self::Forget(ForgetError::Hole(_)) => Kind::Damage,
            Self::Forget(ForgetError::NoSource(_)) => Kind::NoPlan,
            Self::Forget(_) => Kind::Usage,
            Self::Recover(RecoverError::AsRoot(_) | RecoverError::NoConfiguration { .. }) => Kind::Usage,
            Self::Recover(RecoverError::Short { .. }) => Kind::Damage,
            Self::Recover(RecoverError::GivenUp) => Kind::Cancelled,
            Self::Hurt { .. } | Self::Source(source::Error::BadPages { .. }) => Kind::Damage,
            Self::Wal(WalError::Conflict { .. } | WalError::Gap { .. } | WalError::Content { .. }) => Kind::Damage,
            _ => Kind::Failed,
        }
    }

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
            Self::Source(source::Error::NoArchive(_)) => Some(
                "Set `archive_mode = on` and `archive_command = 'lifeboat wal push %p'`, restart the server, and run this again; \
                 docs/postgres.md has the five minutes in full."
                    .to_owned(),
            ),
            Self::Source(source::Error::BadPages { .. }) => Some(
                "No snapshot was made. Without `--fail-on-page-errors` one is made and marked. The disk or the memory is failing: \
                 look at the kernel's log, and restore the damaged relation from an older base backup."
                    .to_owned(),
            ),
            Self::Source(source::Error::Client(e)) => client_hint(e, true),
            Self::Client(e) => client_hint(e, false),
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
            Self::Busy(_) => Some("Add `--wait` to wait for it.".to_owned()),
            Self::Destination(destination::Error::NotEmpty(_)) => Some(
                "Choose an empty directory, or say what happens to the files there: `--overwrite if-changed`, `--delta`, \
                 or `--delete`."
                    .to_owned(),
            ),
            Self::Destination(destination::Error::Interrupted { snapshot, .. }) => {
                Some(format!("Go on with it: `--snapshot {snapshot}`. Or choose another directory."))
            }
            Self::Destination(destination::Error::BegunOver { flag: Some(flag), .. }) => {
                Some(format!("Say again what happens to them: `{flag}`. Or choose another directory."))
            }
            Self::Destination(destination::Error::BegunOver { .. }) => Some(
                "Say again what happens to them, as `--overwrite never` or `--overwrite if-changed`; if it began in an \
                 empty directory, `--delta` mends what is there."
                    .to_owned(),
            ),
            Self::NothingSelected => Some(
                "Patterns are relative to the source's root, as lines of .gitignore: `--include etc/app`. \
                 `lifeboat find SOURCE PATTERN` tries one."
                    .to_owned(),
            ),
            Self::Destination(destination::Error::NoSpace { .. }) => {
                Some("Restore a part with `--include`, or choose another `--into`.".to_owned())
            }
            Self::Hurt { .. } => Some(
                "Files that are not whole end in `.lifeboat-incomplete`; all others are right. `lifeboat check --read-data` \
                 names what is damaged; an older snapshot may have those files."
                    .to_owned(),
            ),
            Self::NoSuchPath { .. } => Some("`lifeboat ls SOURCE --recursive` lists what is there.".to_owned()),
            Self::Unreadable { .. } => Some("No snapshot was made. Run it again when the stream is whole.".to_owned()),
            Self::Source(source::Error::Failed { .. }) => {
                Some("Its own message is above. No snapshot was made; what came before is untouched.".to_owned())
            }
            _ => None,
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

/// What to do about PostgreSQL: of a backup, or of a restore.
fn client_hint(error: &client::Error, of_backup: bool) -> Option<String> {
    use client::Error as E;
    // What a shell takes as one word.
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "'\\''"));
    let done = if of_backup { "No snapshot was made." } else { "" };
    let hint = match error {
        E::NoProgram { program, major, .. } => {
            let kind = if program == "postgres" { "postgresql" } else { "postgresql-client" };
            let package = major.map_or_else(|| kind.to_owned(), |major| format!("{kind}-{major}"));
            let place = if of_backup { "`bin_dir = \"/usr/lib/postgresql/16/bin\"`" } else { "`--bin-dir DIR`" };
            format!("Install it: `apt-get install {package}`; or say where it is: {place}.")
        }
        E::TooOld { needed, .. } => {
            let dir = format!("/usr/lib/postgresql/{needed}/bin");
            let place = if of_backup { format!("`bin_dir = \"{dir}\"`") } else { format!("`--bin-dir {dir}`") };
            format!(
                "Install the newer one: `apt-get install postgresql-client-{needed}` (apt.postgresql.org has all versions); if it \
                 is there, say where: {place}."
            )
        }
        E::WrongPassword { server, .. } | E::NoPassword { server } => {
            let file = match of_backup {
                true => "Write it into a file with mode 0600, and name that: `password_file = \"/etc/lifeboat/pg-password\"`; or",
                false => "Write it into",
            };
            format!(
                "{file} a file in the form of ~/.pgpass, and name that by PGPASSFILE. Try it: `psql --dbname {} --command \
                 'SELECT 1'`. {done}",
                quoted(server)
            )
        }
        E::NoDatabase { server, .. } if of_backup => {
            format!("`psql --list --dbname {}` lists what there is. {done}", quoted(&format!("{server} dbname=postgres")))
        }
        E::NoDatabase { .. } => "Add `--create` to make it. Nothing was changed.".to_owned(),
        E::Unreachable { source, .. } if source.0.iter().any(|line| line.contains("alsender") || line.contains("WAL sender")) => {
            format!("As a superuser: `ALTER ROLE lifeboat REPLICATION` (the role of `connection`). {done}")
        }
        E::Unreachable { source, .. } if source.0.iter().any(|line| line.contains("entry for replication connection")) => {
            format!("pg_hba.conf needs a line for it: `host replication lifeboat ADDRESS scram-sha-256`. {done}")
        }
        E::Unreachable { server, .. } => format!("`pg_isready --dbname {}` says whether it answers. {done}", quoted(server)),
        E::Denied { program, .. } if program == "pg_dumpall" => format!(
            "The passwords of roles are for superusers and members of pg_read_all_data. Leave them out: \
             `globals = \"no-passwords\"`; or all of it: `globals = \"none\"`. {done}"
        ),
        E::Denied { user, source, server, .. } if of_backup && source.large_object().is_some() => {
            let user = client::session::identifier(user.as_deref().unwrap_or("USER"));
            let grant = format!("GRANT SELECT ON LARGE OBJECT {} TO {user}", source.large_object().unwrap_or_default());
            let place = quoted(server);
            format!("As a superuser, for each of them: `psql --dbname {place} --command {}`. {done}", quoted(&grant))
        }
        E::Denied { user, .. } if of_backup => {
            let user = client::session::identifier(user.as_deref().unwrap_or("USER"));
            let grant = quoted(&format!("GRANT pg_read_all_data TO {user}"));
            format!("As a superuser: `psql --command {grant}` (PostgreSQL 14 and newer). {done}")
        }
        E::Failed { .. } if of_backup => "No snapshot was made; what came before is untouched.".to_owned(),
        E::Failed { source, .. } if source.names_a_missing_role() => {
            "Restore the roles first with `--globals`, or leave owners and privileges out with `--no-owner`. What was restored so \
             far is in the database: `--clean` makes it anew."
                .to_owned()
        }
        E::Failed { .. } | E::Denied { .. } => {
            "What was restored so far is in the database: run it again with `--clean`, or into another one with \
             `--database OLD=NEW`."
                .to_owned()
        }
        E::BadConnection(_) => {
            "Write it as `postgresql://USER@HOST:5432/DATABASE` or `host=HOST user=USER dbname=DATABASE`.".to_owned()
        }
        E::GivenUp => "Nothing that was done is lost. Run the same command again.".to_owned(),
        _ => return None,
    };
    Some(hint.trim_end().to_owned())
}

fn repository_kind(error: &repository::Error) -> Kind {
    use repository::Error as E;
    match error {
        E::NoRepository(_) => Kind::NoRepository,
        E::CatalogInUse => Kind::Busy,
        E::Store(store::Error::BadUrl { .. }) | E::OtherRecipients => Kind::Usage,
        E::Store(store::Error::NotFound { key, .. }) if key == "lifeboat.json" => Kind::NoRepository,
        E::Keys { .. }
        | E::KeyFile { .. }
        | E::NeedsIdentity(_)
        | E::NotAWriter(_)
        | E::NotAdmitted(_)
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
        E::NotAWriter(_) => "Join it with an identity at hand, once: `lifeboat init --identity FILE`. Without one: \
                             `lifeboat key request`, and have it admitted."
            .to_owned(),
        E::NotAdmitted(_) => {
            "Where an identity is at hand, run `lifeboat key admit REQUEST`, then this again.".to_owned()
        }
        E::OtherRecipients => {
            "This host seals only to the recipients it pinned. Leave `recipients` out, or make the list \
                               the same; `lifeboat key list` shows it."
                .to_owned()
        }
        E::Fingerprint { .. } => {
            "Do not go on unless you know why it changed: somebody may have replaced the repository. \
                                  The right fingerprint is the one that `init` printed. If this is another repository of yours, pin it: \
             `fingerprint = \"...\"` under [repository]."
                .to_owned()
        }
        E::Newer { .. } => "Use a newer lifeboat.".to_owned(),
        E::Catalog(catalog::Error::Newer { .. }) => {
            "Use the newer lifeboat, or `lifeboat catalog rebuild`, which makes it anew.".to_owned()
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
        E::Store(store::Error::Denied { .. }) => {
            "Check the credentials and their rights: a backup needs to list, read and create.".to_owned()
        }
        E::Store(store::Error::Unreachable { tries: 1, .. }) => {
            "Trying again would not help: check its free space and the permissions. What is stored is safe.".to_owned()
        }
        E::Store(store::Error::Unreachable { .. } | store::Error::Deadline { .. }) => {
            "What is stored is safe. Run the same command again when the store answers; it reuses what is there."
                .to_owned()
        }
        E::Cancelled => "Nothing that was done is lost. Run the same command again to go on.".to_owned(),
        E::KeyFile { path, .. } => format!(
            "Move `{}` away, then join again with an identity: `lifeboat init --identity FILE`.",
            path.display()
        ),
        _ => return None,
    };
    Some(hint)
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

fn no_way_hint(error: &NoWay) -> Option<String> {
    Some(match error {
        NoWay::NoBase(name) => format!("Take one: `lifeboat backup {name}`."),
        NoWay::Pending { .. } => {
            "PostgreSQL has not archived it yet, or it was lost: look at `pg_stat_archiver` on the server.".to_owned()
        }
        NoWay::TooEarly { first, .. } => format!("The earliest that can be had: `--to {first}`."),
        NoWay::Gap { before, .. } => format!("Before the gap: `--to {before}`."),
        NoWay::Beyond { last, .. } => format!("Leave `--exact` out, or say `--to {last}`."),
        NoWay::NoTimeline(..) => "Leave `--target-timeline` out to follow the newest one.".to_owned(),
    })
}

fn no_place_hint(error: &NoPlace) -> String {
    match error {
        NoPlace::MadeLater { .. } => {
            "If the original server runs here, the restored one would write into its files: restore on another host, or take a \
             base backup now and restore from that. If they are remains, move them away. If the moment lies before it was made, or \
             no other server uses them: `--allow-later-tablespaces`."
                .to_owned()
        }
        _ => "Say it as `--tablespace-map OLD=NEW`: OLD is the path, the name or the number, NEW a directory outside of `--into`."
            .to_owned(),
    }
}

fn wal_hint(error: &WalError) -> Option<String> {
    Some(match error {
        WalError::Conflict { .. } => {
            "Nothing was replaced. If this server was restored or promoted, let it go on on a timeline of its own; if it was \
             cloned, give it a source of its own."
                .to_owned()
        }
        WalError::Gap { .. } => "`lifeboat check` says whether it was lost; `--to` a time before it can be had.".to_owned(),
        WalError::Unfinished { .. } => {
            "`SELECT pg_switch_wal()` ends it; the server's archive_command pushes it then. Nothing was stored.".to_owned()
        }
        WalError::Cluster { .. } => "Run it as `archive_command` does: in the data directory, with `pg_wal/NAME`.".to_owned(),
        WalError::SlotLost { slot, .. } => format!(
            "Drop it: `SELECT pg_drop_replication_slot('{slot}')`. Start `lifeboat follow` again, and take a base backup: what is \
             behind the gap is out of reach without one. `max_slot_wal_keep_size` says how much a slot may keep."
        ),
        WalError::NoReplication(_) => "Let it replicate: `ALTER ROLE lifeboat REPLICATION`, and a line for `replication` in pg_hba.conf. Or \
             have an administrator make the slot: `SELECT pg_create_physical_replication_slot('lifeboat_NAME', true)`."
            .to_owned(),
        WalError::SpoolFull { .. } => "Bring the store back; what waits is sent by itself. Or give it more: `spool_max`.".to_owned(),
        WalError::SlotKind { .. } => "Give another name: `--slot NAME`; it is made.".to_owned(),
        _ => return None,
    })
}

fn recover_hint(error: &RecoverError) -> Option<String> {
    Some(match error {
        RecoverError::AsRoot(path) => format!(
            "Run it as the server's user: `runuser -u postgres -- lifeboat restore ...`. Or, for what is laid down already: \
             `chown -R postgres: '{0}'`, then `runuser -u postgres -- pg_ctl -D '{0}' start`.",
            path.display()
        ),
        RecoverError::NoConfiguration { directory, was } => format!(
            "The files are laid down. Copy its configuration: `cp {} '{}'`, with pg_hba.conf and pg_ident.conf, and start it; or try it \
             with `--isolated`, which needs none.",
            was,
            directory.display()
        ),
        RecoverError::Ended { log, .. } => {
            format!("All that it said: `less '{}'`. The files are laid down; nothing that is stored was touched.", log.display())
        }
        RecoverError::Short { log, .. } => format!(
            "Do not use it: commits are missing. Its log: `less '{}'`; `lifeboat check --read-data` says whether something is damaged.",
            log.display()
        ),
        RecoverError::Unproven { .. } => "The server was stopped. Start it with `pg_ctl` and look at what it holds.".to_owned(),
        RecoverError::Unasked { .. } => {
            "Say as whom it lets us in: `PGUSER=NAME lifeboat restore ...`, with a password in PGPASSFILE; or `--isolated`. The \
             server was stopped."
                .to_owned()
        }
        RecoverError::GivenUp => "The files are laid down; `pg_ctl start` goes on with the replay.".to_owned(),
        RecoverError::Io { .. } => return None,
    })
}

fn forget_hint(error: &ForgetError) -> String {
    match error {
        ForgetError::NotOwn { .. } => {
            "A host speaks only of its own snapshots: run this there. Nothing was changed.".to_owned()
        }
        ForgetError::NoSource(_) => "`lifeboat snapshots` lists what there is.".to_owned(),
        ForgetError::KeepsNothing { .. } => {
            "Say what to keep, as `--keep-daily 14 --keep-weekly 8`; without any rule everything is kept. Nothing was changed.".to_owned()
        }
        ForgetError::NoStream(_) => {
            "Sources of kind `postgres` have one. Name those alone, or write `window` into the configuration, where it is theirs only."
                .to_owned()
        }
        ForgetError::Zone(_) => "Write it as `Europe/Berlin` or `UTC`.".to_owned(),
        ForgetError::Hole(_) => {
            "A pin may lie in what is missing, so nothing is forgotten. `lifeboat check` says more, `lifeboat repair` closes the hole."
                .to_owned()
        }
        ForgetError::Pinned(id) => format!("`lifeboat unpin {id}` first, if it may go. Nothing was changed."),
        ForgetError::Newest { source_name, .. } => {
            format!("It stays until there is a newer one: `lifeboat backup {source_name}`. Nothing was changed.")
        }
        ForgetError::Already(_) => "What is forgotten does not come back. `lifeboat snapshots --forgotten` lists it.".to_owned(),
    }
}

fn onto_hint(error: &OntoError) -> String {
    match error {
        OntoError::Running { path, pid } => format!(
            "Stop it: `pg_ctl -D '{0}' stop`. If process {pid} is no PostgreSQL (`ps {pid}`), the server crashed: \
             `rm '{0}/postmaster.pid'`, then this again. Or choose another directory.",
            path.display()
        ),
        OntoError::OtherCluster { .. } | OntoError::NoCluster { .. } => {
            "Choose another directory. If all that lies there may go: `--delta --replace-other-cluster`. Nothing was changed."
                .to_owned()
        }
    }
}
