//! What a restored cluster depends on beside its files: settings that must not be smaller than they were, and what the host
//! had: architecture, collations, libraries that are loaded at the start.

use std::collections::BTreeMap;

use crate::client::postgres::Session;
use crate::client::programs::glibc;
use crate::source::Error;

/// Settings that hot standby compares with those of the primary, and others that decide whether a server starts.
const SETTINGS: &str = "'max_connections', 'max_worker_processes', 'max_wal_senders', 'max_prepared_transactions',
    'max_locks_per_transaction', 'wal_level', 'shared_preload_libraries', 'config_file', 'hba_file', 'ident_file', 'data_directory', 'data_directory_mode', 'huge_pages', 'dynamic_shared_memory_type',
    'lc_messages', 'lc_monetary', 'lc_numeric', 'lc_time', 'timezone', 'server_encoding', 'ssl', 'block_size'";

type Facts = BTreeMap<String, String>;

/// Databases that are asked for their extensions at most.
const DATABASES_MAX: usize = 200;

/// Settings and environment. `here` says that the server runs on this host.
pub(super) fn describe(session: &Session, connection: &str, here: bool) -> Result<(Facts, Facts), Error> {
    let sql = format!("SELECT name, setting FROM pg_settings WHERE name IN ({SETTINGS}) ORDER BY name");
    let settings = pairs(session.rows("read its settings", &sql)?);
    let mut environment = pairs(session.rows(
        "ask for its collations",
        "SELECT 'collation of ' || datname, concat_ws(' ', datlocprovider, datcollate, datcollversion) FROM pg_database
         WHERE datallowconn ORDER BY datname",
    )?);
    environment.extend(pairs(session.rows(
        "ask for its version",
        "SELECT 'version', version() UNION ALL
         SELECT 'superuser', rolname FROM pg_roles WHERE oid = 10 UNION ALL
         (SELECT 'ICU collations', collversion FROM pg_collation WHERE collprovider = 'i' AND collversion IS NOT NULL LIMIT 1)",
    )?));
    environment.extend(extensions(session, connection)?);
    if here {
        environment.insert("architecture".to_owned(), std::env::consts::ARCH.to_owned());
        environment.extend(glibc().map(|version| ("glibc".to_owned(), version)));
    }
    Ok((settings, environment))
}

/// Extensions of all databases that this role may connect to, each with its version and where it is.
fn extensions(session: &Session, connection: &str) -> Result<Facts, Error> {
    let sql = "SELECT datname FROM pg_database
               WHERE datallowconn AND has_database_privilege(oid, 'CONNECT') ORDER BY datname";
    let mut all = Facts::new();
    for row in session.rows("list its databases", sql)?.into_iter().take(DATABASES_MAX) {
        let [Some(database)] = row.as_slice() else { continue };
        let asked = Session::connect_to(connection, Some(database))
            .and_then(|other| other.rows("ask for its extensions", "SELECT extname, extversion FROM pg_extension"));
        match asked {
            Ok(rows) => {
                for (name, version) in pairs(rows) {
                    let known = all.entry(format!("extension {name}")).or_default();
                    let comma = if known.is_empty() { "" } else { ", " };
                    known.push_str(&format!("{comma}{version} in {database}"));
                }
            }
            // pg_hba.conf may let this role into one database alone.
            Err(e) => tracing::info!(%database, "its extensions are not known: {e}"),
        }
    }
    Ok(all)
}

fn pairs(rows: Vec<Vec<Option<String>>>) -> Facts {
    rows.into_iter()
        .filter_map(|row| match row.as_slice() {
            [Some(name), Some(value)] => Some((name.clone(), value.clone())),
            _ => None,
        })
        .collect()
}
