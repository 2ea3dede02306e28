//! What to do about failures around PostgreSQL.

use crate::client;
use crate::ops::recover::RecoverError;
use crate::ops::restore::OntoError;
use crate::ops::wal::WalError;
use crate::plan::recovery::NoWay;
use crate::plan::tablespaces::NoPlace;

/// What to do about PostgreSQL: of a backup, or of a restore.
pub(super) fn client_hint(error: &client::Error, of_backup: bool) -> Option<String> {
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

/// What to do about a session that did not come about.
pub(super) fn session_hint(error: &client::postgres::Error) -> Option<String> {
    let client::postgres::Error::Connect { source, .. } = error else { return None };
    let said = super::super::chain(source.as_ref());
    if said.contains("eer authentication failed") {
        return Some(
            "Two lines let the server's user in as that role: in pg_hba.conf, above `local all all peer`, `local all lifeboat peer \
             map=lifeboat`; in pg_ident.conf `lifeboat postgres lifeboat`; then `SELECT pg_reload_conf()`. And run this as that user: \
             `runuser -u postgres -- lifeboat ...`."
                .to_owned(),
        );
    }
    let is_absent = ["No such file", "onnection refused"].iter().any(|part| said.contains(part));
    is_absent
        .then(|| "Is it running, and is this its host and port? `pg_lsclusters` or `pg_isready` says so.".to_owned())
}

pub(super) fn no_way_hint(error: &NoWay) -> Option<String> {
    Some(match error {
        NoWay::NoBase(name) => format!("Take one: `lifeboat backup {name}`."),
        NoWay::ThisPending { newest: Some(id), .. } => format!("`--snapshot {id}`, or leave `--snapshot` out."),
        NoWay::Pending { .. } | NoWay::ThisPending { .. } => {
            "PostgreSQL has not archived it yet, or it was lost: look at `pg_stat_archiver` on the server.".to_owned()
        }
        NoWay::TooEarly { first, .. } => format!("The earliest that can be had: `--to {first}`."),
        NoWay::Gap { before, .. } => format!("Before the gap: `--to {before}`."),
        NoWay::Beyond { last, .. } => format!("Leave `--exact` out, or say `--to {last}`."),
        NoWay::TwoBranches { chosen, other, .. } => format!(
            "Say which one: `--target-timeline {other}` or `--target-timeline {chosen}`. Timeline {chosen} is that of a server that \
             was restored or promoted; if that was a test beside the original, the original's is {other}. `lifeboat timeline` lists both."
        ),
        NoWay::NoTimeline(..) => "Leave `--target-timeline` out to follow the newest one.".to_owned(),
    })
}

pub(super) fn no_place_hint(error: &NoPlace) -> String {
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

pub(super) fn wal_hint(error: &WalError) -> Option<String> {
    Some(match error {
        WalError::Conflict { .. } => {
            "Nothing was replaced. If this server was restored or promoted, let it go on on a timeline of its own; if it was \
             cloned, give it a source of its own."
                .to_owned()
        }
        WalError::Damaged { .. } => {
            "Nothing was replaced. Keep this file: it is the only whole one. `lifeboat check --read-data` names what else is hurt.".to_owned()
        }
        WalError::Vanished { .. } => "It is not acknowledged, and is sent again. `lifeboat validate-store URL` tries what the store does.".to_owned(),
        WalError::SpoolGone { folder } => format!(
            "Mount its disk; or, if it is a new spool: `mkdir '{}'`, as the server's user. The segment stays with PostgreSQL.",
            folder.display()
        ),
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

pub(super) fn recover_hint(error: &RecoverError) -> Option<String> {
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

pub(super) fn onto_hint(error: &OntoError) -> String {
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
