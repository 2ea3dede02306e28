//! What a restored cluster depends on beside its files: settings that must not be smaller than they were, and what the host
//! had: architecture, collations, libraries that are loaded at the start.

use std::collections::BTreeMap;

use crate::client::postgres::Session;
use crate::source::Error;

/// Settings that hot standby compares with those of the primary, and others that decide whether a server starts.
const SETTINGS: &str = "'max_connections', 'max_worker_processes', 'max_wal_senders', 'max_prepared_transactions',
    'max_locks_per_transaction', 'wal_level', 'shared_preload_libraries', 'config_file', 'hba_file', 'ident_file',
    'lc_messages', 'lc_monetary', 'lc_numeric', 'lc_time', 'timezone', 'server_encoding', 'ssl', 'block_size'";

type Facts = BTreeMap<String, String>;

/// Settings and environment.
pub(super) fn describe(session: &Session) -> Result<(Facts, Facts), Error> {
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
         SELECT 'extension ' || extname, extversion FROM pg_extension",
    )?));
    environment.insert("architecture".to_owned(), std::env::consts::ARCH.to_owned());
    Ok((settings, environment))
}

fn pairs(rows: Vec<Vec<Option<String>>>) -> Facts {
    rows.into_iter()
        .filter_map(|row| match row.as_slice() {
            [Some(name), Some(value)] => Some((name.clone(), value.clone())),
            _ => None,
        })
        .collect()
}
