//! What of a data directory a base backup holds (PostgreSQL's manual, "Backing Up the Data Directory", and the list of
//! `basebackup.c`). Pure: names in, verdicts out.

/// Directories that are kept without their content.
const EMPTY: [&str; 8] =
    ["pg_wal", "pg_replslot", "pg_dynshmem", "pg_notify", "pg_serial", "pg_snapshots", "pg_stat_tmp", "pg_subtrans"];

/// Patterns of what is left out, as lines of `.gitignore` at the root of the data directory. `global/pg_control` is among
/// them because it is read last, by itself.
pub(super) fn left_out() -> Vec<String> {
    let contents = EMPTY.iter().map(|name| format!("/{name}/*"));
    let names = [
        "/postmaster.pid",
        "/postmaster.opts",
        "/backup_label*",
        "/tablespace_map*",
        "/backup_manifest*",
        "pg_internal.init*",
        "/postgresql.auto.conf.tmp",
        "/current_logfiles.tmp",
        "/recovery.signal",
        "/standby.signal",
        "pgsql_tmp*",
        "/global/pg_control",
        // What an earlier restore laid down of another host's configuration.
        "/.lifeboat",
    ];
    contents.chain(names.iter().map(|name| (*name).to_owned())).collect()
}

/// The relation that a file of a database's directory belongs to: `16384` of `16384`, `16384.1`, `16384_fsm`, `16384_vm.2`,
/// `16384_init`. `None` for other names.
pub(super) fn relation(name: &str) -> Option<(&str, Fork)> {
    let (stem, segment) = name.split_once('.').map_or((name, None), |(stem, segment)| (stem, Some(segment)));
    if segment.is_some_and(|segment| segment.is_empty() || !segment.bytes().all(|b| b.is_ascii_digit())) {
        return None;
    }
    let (number, fork) = stem.split_once('_').map_or((stem, "main"), |(number, fork)| (number, fork));
    let fork = match fork {
        "main" | "fsm" | "vm" => Fork::Content,
        "init" => Fork::Init,
        _ => return None,
    };
    (!number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())).then_some((number, fork))
}

/// What a file of a relation holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fork {
    /// Its rows, or maps of them.
    Content,
    /// What an unlogged relation begins with after a crash.
    Init,
}

/// Whether a file belongs to a temporary relation of a session: `t3_16384`, with forks and segments.
pub(super) fn is_temporary(name: &str) -> bool {
    let Some((backend, rest)) = name.strip_prefix('t').and_then(|rest| rest.split_once('_')) else { return false };
    !backend.is_empty() && backend.bytes().all(|b| b.is_ascii_digit()) && relation(rest).is_some()
}

/// Whether the directory of a path holds the files of a database: `base/5`, `global`, `pg_tblspc/16400/PG_15_202209061/5`.
pub(super) fn holds_relations(directory: &str) -> bool {
    let parts: Vec<&str> = directory.split('/').collect();
    let number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    match parts.as_slice() {
        ["global"] => true,
        ["base", oid] => number(oid),
        ["pg_tblspc", space, version, oid] => number(space) && version.starts_with("PG_") && number(oid),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_relations_are_read() {
        for (name, expected) in [
            ("16384", Some(("16384", Fork::Content))),
            ("16384.1", Some(("16384", Fork::Content))),
            ("16384_fsm", Some(("16384", Fork::Content))),
            ("16384_vm.2", Some(("16384", Fork::Content))),
            ("16384_init", Some(("16384", Fork::Init))),
            ("16384.x", None),
            ("16384_other", None),
            ("pg_filenode.map", None),
            ("PG_VERSION", None),
            ("", None),
            (".1", None),
        ] {
            assert_eq!(relation(name), expected, "{name}");
        }
    }

    #[test]
    fn temporary_relations_are_told_by_their_names() {
        for name in ["t3_16384", "t10_16384_fsm", "t3_16384.1"] {
            assert!(is_temporary(name), "{name}");
        }
        for name in ["16384", "t_16384", "t3_x", "table", "t316384"] {
            assert!(!is_temporary(name), "{name}");
        }
    }

    #[test]
    fn databases_lie_where_postgresql_puts_them() {
        for directory in ["global", "base/5", "pg_tblspc/16400/PG_15_202209061/5"] {
            assert!(holds_relations(directory), "{directory}");
        }
        for directory in ["", "base", "base/pgsql_tmp", "pg_tblspc/16400", "pg_wal"] {
            assert!(!holds_relations(directory), "{directory}");
        }
    }
}
