//! What a restored cluster depends on beside its files, compared with the host at hand: each difference with its cure.
//!
//! Invariants: only what is known of both is compared; what makes no harm is not told. Not here: how the facts are come by.

use std::collections::BTreeSet;

use crate::model::base::BaseBackup;

/// The host that restores.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Host {
    /// As Rust calls it: `x86_64`.
    pub architecture: String,
    /// The C library's version: `2.36`.
    pub glibc: Option<String>,
    /// Major versions of the servers that were found.
    pub servers: BTreeSet<u32>,
    /// What the server of the cluster's major version can load, where that is known.
    pub installed: Option<Installed>,
}

/// What is installed with a server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Installed {
    /// Libraries, without `.so`.
    pub libraries: BTreeSet<String>,
    /// Extensions, by their control files.
    pub extensions: BTreeSet<String>,
}

/// Something that is not as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What differs, and what follows from it.
    pub what: String,
    /// What to do.
    pub cure: String,
}

/// What differs, the gravest first.
pub fn compare(backup: &BaseBackup, host: &Host) -> Vec<Difference> {
    let mut all = Vec::new();
    let mut differs = |what: String, cure: String| all.push(Difference { what, cure });
    let (major, facts) = (backup.major(), &backup.environment);
    if let Some(old) = facts.get("architecture").filter(|old| **old != host.architecture) {
        differs(
            format!("the files are of {old} and this host is {}: no server here reads them", host.architecture),
            format!("restore on a host of {old}, or restore a dump (`kind = \"pg_dump\"`)"),
        );
    }
    if !host.servers.contains(&major) {
        let there: Vec<String> = host.servers.iter().map(ToString::to_string).collect();
        let there = if there.is_empty() { "none was found".to_owned() } else { format!("found: {}", there.join(", ")) };
        differs(
            format!("no PostgreSQL {major} was found here ({there})"),
            format!("`apt-get install postgresql-{major}`"),
        );
    }
    if let Some(glibc) = &host.glibc {
        let sorted = collations(backup).filter(|(_, provider, version)| *provider == "c" && version != glibc);
        let names: Vec<String> = sorted.map(|(database, _, _)| quoted(database)).collect();
        if let Some(first) = names.first() {
            differs(
                format!(
                    "the C library is {glibc}, and text of {} was sorted by another: indexes may be wrong",
                    names.join(", ")
                ),
                format!(
                    "after the start, in each of them: `REINDEX DATABASE {first}; ALTER DATABASE {first} REFRESH COLLATION VERSION;`"
                ),
            );
        }
    }
    if let Some(installed) = &host.installed {
        let preloaded = backup.settings.get("shared_preload_libraries").map(String::as_str).unwrap_or_default();
        for library in preloaded.split(',').map(base_name).filter(|name| !name.is_empty()) {
            if !installed.libraries.contains(library) {
                differs(
                    format!(
                        "`{library}` is loaded at the start (shared_preload_libraries) and is not here: the server does not start"
                    ),
                    format!(
                        "install what has {library}.so for PostgreSQL {major}, or take it out of shared_preload_libraries"
                    ),
                );
            }
        }
        for name in facts.keys().filter_map(|key| key.strip_prefix("extension ")) {
            if !installed.extensions.contains(name) {
                differs(
                    format!("the extension `{name}` is not installed here: what uses it fails"),
                    format!("install it for PostgreSQL {major}: `apt-cache search postgresql-{major}` lists packages"),
                );
            }
        }
    }
    all
}

/// Databases with the provider and the version of their collation, where it has one.
fn collations(backup: &BaseBackup) -> impl Iterator<Item = (&str, &str, &str)> {
    backup.environment.iter().filter_map(|(key, value)| {
        let database = key.strip_prefix("collation of ")?;
        // Provider, name, version; C and POSIX have none.
        let mut words = value.split_whitespace();
        let (provider, _) = (words.next()?, words.next()?);
        Some((database, provider, words.next_back()?))
    })
}

/// `auto_explain` of ` "$libdir/auto_explain.so"`.
fn base_name(library: &str) -> &str {
    let plain = library.trim().trim_matches('"');
    let name = plain.rsplit('/').next().unwrap_or(plain);
    name.strip_suffix(".so").unwrap_or(name)
}

fn quoted(database: &str) -> String {
    format!("\"{}\"", database.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backup(settings: &[(&str, &str)], environment: &[(&str, &str)]) -> BaseBackup {
        use crate::model::lsn::{Lsn, SegmentSize, SystemId, Timeline};
        let own = |all: &[(&str, &str)]| all.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        BaseBackup {
            system_id: SystemId(7),
            server_version: 150_018,
            timeline: Timeline(1),
            start: Lsn(1),
            stop: Lsn(2),
            stopped: crate::model::Moment::UNIX_EPOCH,
            segment_size: SegmentSize::DEFAULT,
            stream: "db".to_owned(),
            checksums: false,
            tablespaces: Vec::new(),
            tablespaces_made: Vec::new(),
            bad_pages: Default::default(),
            settings: own(settings),
            environment: own(environment),
        }
    }

    fn host() -> Host {
        let names = |all: &[&str]| all.iter().map(|name| (*name).to_owned()).collect();
        let installed = Installed { libraries: names(&["auto_explain"]), extensions: names(&["plpgsql"]) };
        Host {
            architecture: "x86_64".to_owned(),
            glibc: Some("2.36".to_owned()),
            servers: BTreeSet::from([15, 16]),
            installed: Some(installed),
        }
    }

    fn told(settings: &[(&str, &str)], environment: &[(&str, &str)]) -> Vec<String> {
        compare(&backup(settings, environment), &host())
            .into_iter()
            .map(|d| format!("{} -> {}", d.what, d.cure))
            .collect()
    }

    #[test]
    fn the_same_host_differs_in_nothing() {
        let settings = [("shared_preload_libraries", "auto_explain, \"$libdir/auto_explain.so\"")];
        let environment = [
            ("architecture", "x86_64"),
            ("collation of app", "c en_US.UTF-8 2.36"),
            ("collation of plain", "c C"),
            ("collation of other", "i en-US 153.120"),
            ("extension plpgsql", "1.0"),
        ];
        assert_eq!(told(&settings, &environment), [""; 0]);
        assert_eq!(told(&[], &[]), [""; 0], "old snapshots know nothing");
    }

    #[test]
    fn each_difference_has_its_cure() {
        let one = |settings: &[(&str, &str)], environment: &[(&str, &str)], words: &[&str]| {
            let all = told(settings, environment);
            assert!(all.len() == 1 && words.iter().all(|word| all[0].contains(word)), "{all:?}");
        };
        one(&[], &[("architecture", "aarch64")], &["of aarch64", "x86_64", "pg_dump"]);
        one(&[], &[("collation of a\"b", "c de_DE.UTF-8 2.31")], &["2.36", "REINDEX DATABASE \"a\"\"b\"", "REFRESH"]);
        one(&[("shared_preload_libraries", "auto_explain,pg_cron")], &[], &["`pg_cron`", "does not start"]);
        one(&[], &[("extension postgis", "3.3 in app")], &["`postgis`", "postgresql-15"]);
        let bare = Host { servers: BTreeSet::from([16]), ..host() };
        let all = compare(&backup(&[], &[]), &bare);
        assert!(all[0].what.contains("found: 16") && all[0].cure.contains("install postgresql-15"), "{all:?}");
    }
}
