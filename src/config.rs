//! The configuration file: TOML to checked types. Unknown keys are refused by name and line; an option that this version
//! cannot honour is an error, never ignored. Not here: flags, the environment, what the values are used for.

mod agent;
mod bucket;
mod canary;
mod convex;
mod copies;
mod objectives;
mod pg_dump;
mod prune;
mod retention;
mod telling;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

pub use self::agent::{AgentSection, Job, ServeSection};
pub use self::bucket::StoreSection;
pub use self::copies::{CopySection, same_place};
pub use self::objectives::{DrillSection, Length, Objective};
use self::pg_dump::DatabasesKey;
pub use self::prune::{PruneSection, parse_percent};
pub use self::telling::{HooksSection, NotifySection, RUNS, secret};
use crate::model::{DumpFormat, RelPath, Retention, Span};
use crate::repository::is_source_name;
use crate::source::convex::ConvexOptions;
use crate::source::postgres::{BaseOptions, Via};
use crate::source::sqlite::SqliteMode;
use crate::source::{BucketOptions, Globals, PgDumpOptions, Rules};
use crate::store::Credentials;

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file cannot be read.
    #[error("could not read the configuration `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no valid TOML, or has a key that is unknown, or a value of the wrong kind.
    #[error("the configuration `{}` is wrong at line {line}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong there.
        source: WhatIsWrong,
    },
    /// Its values do not fit each other.
    #[error("the configuration `{}` is wrong in {section}: {why}", path.display())]
    Meaning {
        /// The file.
        path: PathBuf,
        /// `[sources.x]` and the like.
        section: String,
        /// What does not fit.
        why: String,
    },
}

/// The parser's words, without its drawing.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct WhatIsWrong(String);

/// A whole configuration.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the backups lie.
    #[serde(default)]
    pub repository: RepositorySection,
    /// What is protected, by name.
    #[serde(default)]
    pub sources: BTreeMap<String, SourceSection>,
    /// Sources that are backed up together, by name.
    #[serde(default)]
    pub groups: BTreeMap<String, GroupSection>,
    /// What to keep of every source, where its own section says nothing else.
    pub retention: Option<Retention>,
    /// What sources and groups must meet, by name.
    #[serde(default)]
    pub objectives: BTreeMap<String, Objective>,
    /// How a prune is done, where flags say nothing else.
    #[serde(default)]
    pub prune: PruneSection,
    /// Second repositories, by name.
    #[serde(default)]
    pub copies: BTreeMap<String, CopySection>,
    /// What runs around every deed.
    pub hooks: Option<HooksSection>,
    /// Who hears of what, by name.
    #[serde(default)]
    pub notify: BTreeMap<String, NotifySection>,
    /// What runs when.
    pub agent: Option<AgentSection>,
    /// The status page.
    #[serde(default)]
    pub serve: ServeSection,
    /// What to keep of every source in the copy that is worked on, in place of all other policies.
    #[serde(skip)]
    pub retention_here: Option<Retention>,
}

/// `[repository]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepositorySection {
    /// `file:///...`, `s3://...`, `az://...`, `gs://...` or a path.
    pub url: Option<String>,
    /// Who can read everything.
    #[serde(default)]
    pub recipients: Vec<String>,
    /// A file with an identity; left out on a host that must not read.
    pub identity_file: Option<PathBuf>,
    /// BLAKE3 of `lifeboat.json`, as `init` printed it.
    pub fingerprint: Option<String>,
    /// How old this host's last `check` may be.
    pub check_every: Option<Length>,
    /// Where this host keeps keys and catalogs.
    pub state_dir: Option<PathBuf>,
    /// Another place for the catalog.
    pub catalog: Option<PathBuf>,
    /// Another endpoint than the provider's.
    pub endpoint: Option<String>,
    /// S3's region.
    pub region: Option<String>,
    /// The bucket in the path of the request.
    pub path_style: Option<bool>,
    /// Allows plain HTTP.
    #[serde(default)]
    pub allow_http: bool,
    /// Requests without a signature.
    #[serde(default)]
    pub skip_signature: bool,
    /// A SHA-256 with each object that is put.
    #[serde(default)]
    pub checksums: bool,
    /// File with S3's access key id.
    pub access_key_id_file: Option<PathBuf>,
    /// File with S3's secret access key.
    pub secret_access_key_file: Option<PathBuf>,
    /// Azure's account.
    pub account: Option<String>,
    /// File with Azure's account key.
    pub account_key_file: Option<PathBuf>,
    /// File with Google's service account.
    pub service_account_file: Option<PathBuf>,
    /// Bytes a second to the store at most, as `20M`.
    pub limit_upload: Option<String>,
    /// Bytes a second from the store at most.
    pub limit_download: Option<String>,
    /// Requests at a time at most.
    #[serde(default)]
    pub concurrency: usize,
    /// `false` for a server that gets conditional puts wrong: it is asked what is there before each create.
    pub conditional_puts: Option<bool>,
}

impl RepositorySection {
    /// What a store needs beside its URL.
    pub fn credentials(&self) -> Credentials {
        Credentials {
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            path_style: self.path_style,
            allow_http: self.allow_http,
            skip_signature: self.skip_signature,
            checksums: self.checksums,
            access_key_id_file: self.access_key_id_file.clone(),
            secret_access_key_file: self.secret_access_key_file.clone(),
            account: self.account.clone(),
            account_key_file: self.account_key_file.clone(),
            service_account_file: self.service_account_file.clone(),
            as_of: None,
        }
    }
}

/// The kinds of sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceKind {
    /// A tree of files.
    Volume,
    /// A command's output.
    Command,
    /// A tar archive: a file, or a command's output.
    Tarball,
    /// A PostgreSQL cluster: base backups and WAL.
    Postgres,
    /// Databases of a PostgreSQL server, dumped.
    PgDump,
    /// A self-hosted Convex deployment.
    Convex,
    /// One SQLite database.
    Sqlite,
    /// Buckets of an object store.
    Bucket,
}

impl SourceKind {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Volume => "volume",
            Self::Command => "command",
            Self::Tarball => "tarball",
            Self::Postgres => "postgres",
            Self::PgDump => "pg_dump",
            Self::Convex => "convex",
            Self::Sqlite => "sqlite",
            Self::Bucket => "bucket",
        }
    }
}

/// `[sources.<name>]`. One flat table, so that the parser can name the line of an unknown key; which keys fit the kind is
/// checked after it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceSection {
    /// What it is.
    pub kind: SourceKind,
    /// Of a volume: its root. Of a tarball: the archive. Of a database: its file.
    pub path: Option<PathBuf>,
    /// Of a volume or a bucket: patterns to leave out.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Of a volume: files with such patterns.
    #[serde(default)]
    pub exclude_file: Vec<PathBuf>,
    /// Of a volume: marker files of directories to leave out.
    #[serde(default)]
    pub exclude_if_present: Vec<String>,
    /// Of a volume: leaves out what `CACHEDIR.TAG` marks.
    #[serde(default)]
    pub exclude_caches: bool,
    /// Of a volume: leaves larger files out, as `4G`.
    pub exclude_larger_than: Option<String>,
    /// Of a volume: stays on one file system.
    #[serde(default)]
    pub one_file_system: bool,
    /// Of a volume: whether SQLite databases are captured, or read as files.
    pub sqlite: Option<SqliteMode>,
    /// Of a volume or a bucket: whether its files are blobs that rows of another source name.
    pub blobs: Option<bool>,
    /// Of a command, or of a tarball that comes from one: program and arguments.
    #[serde(default)]
    pub command: Vec<String>,
    /// Of a command: the name under which its output is stored.
    pub file_name: Option<String>,
    /// Of a cluster: its data directory; else the server is asked.
    pub data_directory: Option<PathBuf>,
    /// Of a cluster: where its log waits on this host while the store is away. Without it the log stays with the server.
    pub spool: Option<PathBuf>,
    /// Of a cluster: the most that waits there, as `20G`.
    pub spool_max: Option<String>,
    /// Of a cluster or a `pg_dump`: the server, as a URL or as `key=value` pairs.
    pub connection: Option<String>,
    /// Of a `pg_dump`: a file with the password.
    pub password_file: Option<PathBuf>,
    /// Of a `pg_dump`: names of databases, or `all`.
    pub databases: Option<DatabasesKey>,
    /// Of a deployment: its URL; else CONVEX_SELF_HOSTED_URL. Of a bucket: `s3://NAME/PREFIX` and the like.
    pub url: Option<String>,
    /// Of several buckets: the directory that each becomes, and its URL.
    #[serde(default)]
    pub urls: BTreeMap<String, String>,
    /// Of a bucket: how its store is reached.
    pub store: Option<StoreSection>,
    /// Of a deployment: a file with the admin key; else CONVEX_SELF_HOSTED_ADMIN_KEY.
    pub admin_key_file: Option<PathBuf>,
    /// Of a deployment: the environment variable with the admin key.
    pub admin_key_env: Option<String>,
    /// Of a deployment: a file with the instance's secret, from which a key is made.
    pub instance_secret_file: Option<PathBuf>,
    /// Of a deployment: tables to take alone.
    #[serde(default)]
    pub tables: Vec<String>,
    /// Of a deployment: whether files are stored.
    pub files: Option<bool>,
    /// Of a deployment: whether exports stay on the server.
    pub keep_exports: Option<bool>,
    /// Of a deployment: when an export that makes no progress is cancelled.
    pub stall_timeout: Option<Span>,
    /// Of a `pg_dump`: the instance of Convex whose database it is. Of a deployment: its name, where the key is made.
    pub instance_name: Option<String>,
    /// Of a `pg_dump`: `custom`, `directory` or `plain`.
    pub format: Option<DumpFormat>,
    /// Of a `pg_dump`: `all`, `no-passwords` or `none`.
    pub globals: Option<Globals>,
    /// Of a `pg_dump`: whether rows are counted.
    pub row_counts: Option<bool>,
    /// Of a `pg_dump` or a deployment: patterns of tables to leave out.
    #[serde(default)]
    pub exclude_tables: Vec<String>,
    /// Of a `pg_dump`: patterns of schemas to take alone.
    #[serde(default)]
    pub schemas: Vec<String>,
    /// Of a `pg_dump`: tables at a time.
    pub jobs: Option<u32>,
    /// Of a cluster: `local` or `replication`.
    pub via: Option<Via>,
    /// Of a `pg_dump` and a cluster: where PostgreSQL's programs lie.
    pub bin_dir: Option<PathBuf>,
    /// Of a `pg_dump`: where a dump in the directory format is written before it is stored; of a cluster, archives of one with
    /// tablespaces; of a volume, copies of SQLite databases.
    pub work_dir: Option<PathBuf>,
    /// Of a `pg_dump`: further arguments of the program.
    #[serde(default)]
    pub extra_args: Vec<String>,
    /// Labels of its snapshots.
    #[serde(default)]
    pub tags: Vec<String>,
    /// What to keep of it.
    pub retention: Option<Retention>,
    /// Whether a canary is written into it, for drills to look for.
    #[serde(default)]
    pub canary: bool,
    /// How a drill looks at it.
    pub drill: Option<DrillSection>,
    /// What runs around its own part of a backup or a drill.
    pub hooks: Option<HooksSection>,
}

/// `[groups.<name>]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupSection {
    /// Names of sources.
    pub sources: Vec<String>,
    /// What to keep of them, where their own sections say nothing else.
    pub retention: Option<Retention>,
}

/// A source, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// A tree.
    Volume {
        /// Its root.
        path: PathBuf,
        /// What is left out.
        rules: Rules,
        /// How databases get into the snapshot.
        sqlite: SqliteMode,
        /// Where their copies lie meanwhile.
        work_dir: Option<PathBuf>,
        /// Whether its files are blobs that rows of another source name, where that is said.
        blobs: Option<bool>,
    },
    /// One SQLite database.
    Sqlite {
        /// Its file.
        path: PathBuf,
        /// Where its copy lies meanwhile.
        work_dir: Option<PathBuf>,
    },
    /// A command's output.
    Command {
        /// Program and arguments.
        command: Vec<String>,
        /// The name of the entry.
        file_name: RelPath,
    },
    /// The members of an archive.
    Tarball(Archive),
    /// A PostgreSQL cluster.
    Postgres(BaseOptions),
    /// Databases, dumped.
    PgDump(Box<PgDumpOptions>),
    /// A Convex deployment.
    Convex(Box<ConvexOptions>),
    /// Buckets.
    Bucket(Box<BucketOptions>),
}

/// Where an archive comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Archive {
    /// A file.
    File(PathBuf),
    /// The output of a program with its arguments.
    Command(Vec<String>),
    /// Our own standard input.
    Stdin,
}

impl SourceSection {
    /// The keys that belong to some kinds alone: whether each is given, and to which it belongs.
    fn particular(&self) -> [(&'static str, bool, &'static [SourceKind]); 39] {
        use SourceKind::{Bucket, Command, Convex, PgDump, Postgres, Sqlite, Tarball, Volume};
        [
            ("path", self.path.is_some(), &[Volume, Tarball, Sqlite]),
            ("sqlite", self.sqlite.is_some(), &[Volume]),
            ("blobs", self.blobs.is_some(), &[Bucket, Volume]),
            ("exclude", !self.exclude.is_empty(), &[Bucket, Volume]),
            ("exclude_file", !self.exclude_file.is_empty(), &[Volume]),
            ("exclude_if_present", !self.exclude_if_present.is_empty(), &[Volume]),
            ("exclude_caches", self.exclude_caches, &[Volume]),
            ("exclude_larger_than", self.exclude_larger_than.is_some(), &[Volume]),
            ("one_file_system", self.one_file_system, &[Volume]),
            ("command", !self.command.is_empty(), &[Command, Tarball]),
            ("file_name", self.file_name.is_some(), &[Command]),
            ("connection", self.connection.is_some(), &[PgDump, Postgres]),
            ("data_directory", self.data_directory.is_some(), &[Postgres]),
            ("spool", self.spool.is_some(), &[Postgres]),
            ("spool_max", self.spool_max.is_some(), &[Postgres]),
            ("password_file", self.password_file.is_some(), &[PgDump, Postgres]),
            ("databases", self.databases.is_some(), &[PgDump]),
            ("instance_name", self.instance_name.is_some(), &[Convex, PgDump]),
            ("url", self.url.is_some(), &[Bucket, Convex]),
            ("urls", !self.urls.is_empty(), &[Bucket]),
            ("store", self.store.is_some(), &[Bucket]),
            ("admin_key_file", self.admin_key_file.is_some(), &[Convex]),
            ("admin_key_env", self.admin_key_env.is_some(), &[Convex]),
            ("instance_secret_file", self.instance_secret_file.is_some(), &[Convex]),
            ("tables", !self.tables.is_empty(), &[Convex]),
            ("files", self.files.is_some(), &[Convex]),
            ("keep_exports", self.keep_exports.is_some(), &[Convex]),
            ("stall_timeout", self.stall_timeout.is_some(), &[Convex]),
            ("format", self.format.is_some(), &[PgDump]),
            ("globals", self.globals.is_some(), &[PgDump]),
            ("row_counts", self.row_counts.is_some(), &[PgDump]),
            ("exclude_tables", !self.exclude_tables.is_empty(), &[Convex, PgDump]),
            ("schemas", !self.schemas.is_empty(), &[PgDump]),
            ("jobs", self.jobs.is_some(), &[PgDump]),
            ("bin_dir", self.bin_dir.is_some(), &[PgDump, Postgres]),
            ("work_dir", self.work_dir.is_some(), &[Convex, PgDump, Postgres, Volume, Sqlite]),
            ("via", self.via.is_some(), &[Postgres]),
            ("canary", self.canary, &[Convex, PgDump, Postgres, Volume]),
            ("extra_args", !self.extra_args.is_empty(), &[PgDump]),
        ]
    }

    /// Checks that the keys fit the kind.
    pub fn plan(&self, name: &str) -> Result<Plan, String> {
        use SourceKind::{Bucket, Convex, PgDump, Postgres, Sqlite, Tarball, Volume};
        let keys = self.particular();
        if let Some((key, ..)) = keys.iter().find(|(_, given, of)| *given && !of.contains(&self.kind)) {
            return Err(format!("`{key}` does not belong to a source of this kind"));
        }
        if self.kind == PgDump {
            return Ok(Plan::PgDump(Box::new(pg_dump::plan(self)?)));
        }
        if self.kind == Convex {
            return Ok(Plan::Convex(Box::new(convex::plan(self)?)));
        }
        if self.kind == Bucket {
            return Ok(Plan::Bucket(Box::new(bucket::plan(self)?)));
        }
        if self.kind == Tarball {
            return match (&self.path, self.command.is_empty()) {
                (Some(path), true) => Ok(Plan::Tarball(Archive::File(path.clone()))),
                (None, false) => Ok(Plan::Tarball(Archive::Command(self.command.clone()))),
                (Some(_), false) => Err("`path` and `command` are both given: the archive comes from one".to_owned()),
                (None, true) => {
                    Err("`path` or `command` is missing: the archive is a file, or a command's output".to_owned())
                }
            };
        }
        if self.kind == Postgres {
            return Ok(Plan::Postgres(BaseOptions {
                source: name.to_owned(),
                connection: self.connection.clone().unwrap_or_default(),
                data_directory: self.data_directory.clone(),
                fail_on_page_errors: false,
                password_file: self.password_file.clone(),
                via: self.via,
                bin_dir: self.bin_dir.clone(),
                work_dir: self.work_dir.clone(),
            }));
        }
        if self.kind == Volume {
            let path = self.path.clone().ok_or("`path` is missing")?;
            let larger = self.exclude_larger_than.as_deref().map(parse_size).transpose()?;
            let rules = Rules {
                exclude: self.exclude.clone(),
                exclude_file: self.exclude_file.clone(),
                exclude_if_present: self.exclude_if_present.clone(),
                exclude_caches: self.exclude_caches,
                exclude_larger_than: larger,
                one_file_system: self.one_file_system,
            };
            let (sqlite, work_dir) = (self.sqlite.unwrap_or_default(), self.work_dir.clone());
            if sqlite == SqliteMode::Raw && (self.blobs.is_some() || work_dir.is_some()) {
                return Err("`blobs` and `work_dir` do not go with `sqlite = \"raw\"`".to_owned());
            }
            return Ok(Plan::Volume { path, rules, sqlite, work_dir, blobs: self.blobs });
        }
        if self.kind == Sqlite {
            let path = self.path.clone().ok_or("`path` is missing: the file of the database")?;
            return Ok(Plan::Sqlite { path, work_dir: self.work_dir.clone() });
        }
        if self.command.is_empty() {
            return Err("`command` is missing".to_owned());
        }
        let file_name = self.file_name.clone().unwrap_or_else(|| name.to_owned());
        let file_name = RelPath::new(file_name.into_bytes()).map_err(|e| e.to_string())?;
        if file_name.components().count() != 1 {
            return Err("`file_name` must be one name, without `/`".to_owned());
        }
        Ok(Plan::Command { command: self.command.clone(), file_name })
    }
}

/// Reads a size: a number with K, M, G or T (binary), `iB` or `B` after it allowed.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let bad = || format!("`{text}` is no size; write it as `500M` or `2G`");
    let clean = text.trim();
    let digits = clean.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(clean.len());
    let (number, unit) = clean.split_at(digits);
    let number: f64 = number.parse().map_err(|_| bad())?;
    let unit = unit.trim().to_ascii_uppercase();
    let shift = match unit.trim_end_matches('B').trim_end_matches('I') {
        "" if unit.is_empty() || unit == "B" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err(bad()),
    };
    let bytes = number * (1u64 << shift) as f64;
    if bytes.is_finite() && bytes < u64::MAX as f64 { Ok(bytes as u64) } else { Err(bad()) }
}

impl Config {
    /// Reads and checks a file.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// Checks a text; `path` is what messages call it.
    pub fn parse(text: &str, path: &Path) -> Result<Self, Error> {
        let config: Self = toml::from_str(text).map_err(|e| Error::Syntax {
            path: path.to_owned(),
            line: e.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1),
            source: WhatIsWrong(e.message().trim().replace('\n', "; ")),
        })?;
        let wrong = |section: String, why: String| Error::Meaning { path: path.to_owned(), section, why };
        for (name, source) in &config.sources {
            let section = format!("[sources.{name}]");
            if !is_source_name(name) {
                let why = "a source's name has letters, digits, `-`, `_` and `.`, at most 64".to_owned();
                return Err(wrong(section, why));
            }
            let of_files = name.strip_suffix(".files").and_then(|of| config.sources.get(of));
            if of_files.is_some_and(|of| of.kind == SourceKind::Convex) {
                let why = "a follower stores new files of the deployment under this name: choose another".to_owned();
                return Err(wrong(section, why));
            }
            source.plan(name).and_then(|_| source.check_canary()).map_err(|why| wrong(section, why))?;
        }
        for (name, group) in &config.groups {
            if let Some(unknown) = group.sources.iter().find(|source| !config.sources.contains_key(*source)) {
                return Err(wrong(format!("[groups.{name}]"), format!("there is no source `{unknown}`")));
            }
        }
        let repository = &config.repository;
        for limit in [&repository.limit_upload, &repository.limit_download].into_iter().flatten() {
            parse_size(limit).map_err(|why| wrong("[repository]".to_owned(), why))?;
        }
        config.prune.check().map_err(|why| wrong("[prune]".to_owned(), why))?;
        config.check_retention().map_err(|(section, why)| wrong(section, why))?;
        config.check_copies().map_err(|(section, why)| wrong(section, why))?;
        config.check_objectives().map_err(|(section, why)| wrong(section, why))?;
        config.check_telling().map_err(|(section, why)| wrong(section, why))?;
        config.check_agent().map_err(|(section, why)| wrong(section, why))?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("lifeboat.toml")).map_err(|e| {
            let cause = std::error::Error::source(&e).map(|s| format!(": {s}")).unwrap_or_default();
            format!("{e}{cause}")
        })
    }

    #[test]
    fn a_whole_configuration_is_read() {
        let config = parse(
            r#"
            [repository]
            url = "s3://acme/prod"
            recipients = ["age1x"]
            limit_upload = "20M"
            [sources.data]
            kind = "volume"
            path = "/srv/data"
            exclude = ["*.tmp"]
            exclude_larger_than = "4G"
            [sources.dump]
            kind = "command"
            command = ["mysqldump", "app"]
            [groups.nightly]
            sources = ["data", "dump"]
            "#,
        )
        .unwrap();
        let Plan::Volume { rules, .. } = config.sources["data"].plan("data").unwrap() else { panic!() };
        assert_eq!(rules.exclude_larger_than, Some(4 << 30));
        let Plan::Command { file_name, .. } = config.sources["dump"].plan("dump").unwrap() else { panic!() };
        assert_eq!(file_name.to_string(), "dump");
    }

    #[test]
    fn unknown_keys_are_refused_by_name_and_line() {
        let error = parse("[repository]\nurl = \"x\"\nrecipient = \"age1\"\n").unwrap_err();
        assert!(error.contains("line 3") && error.contains("`recipient`"), "{error}");
        let error = parse("[sources.a]\nkind = \"volume\"\npath = \"/\"\nexclud = []\n").unwrap_err();
        assert!(error.contains("line 4") && error.contains("`exclud`"), "{error}");
        let error = parse("[sources.a]\nkind = \"teleport\"\n").unwrap_err();
        assert!(error.contains("line 2") && error.contains("teleport"), "{error}");
    }

    #[test]
    fn keys_that_do_not_fit_the_kind_or_each_other_are_refused() {
        for (text, expected) in [
            ("[sources.a]\nkind = \"volume\"\n", "`path` is missing"),
            ("[sources.a]\nkind = \"command\"\n", "`command` is missing"),
            ("[sources.a]\nkind = \"command\"\ncommand = [\"x\"]\npath = \"/\"\n", "`path` does not belong"),
            ("[sources.a]\nkind = \"tarball\"\n", "`path` or `command` is missing"),
            ("[sources.a]\nkind = \"tarball\"\ncommand = [\"x\"]\npath = \"/\"\n", "comes from one"),
            ("[sources.a]\nkind = \"tarball\"\npath = \"/\"\nexclude = [\"x\"]\n", "`exclude` does not belong"),
            ("[sources.\"a/b\"]\nkind = \"volume\"\npath = \"/\"\n", "a source's name"),
            ("[groups.g]\nsources = [\"x\"]\n", "no source `x`"),
            ("[sources.a]\nkind = \"volume\"\npath = \"/\"\ndatabases = \"all\"\n", "`databases` does not belong"),
            ("[sources.a]\nkind = \"pg_dump\"\ndatabases = \"app\"\n", "write [\"app\"]"),
            ("[sources.a]\nkind = \"pg_dump\"\ndatabases = [\"x\", \"x\"]\n", "names `x` twice"),
            ("[sources.a]\nkind = \"pg_dump\"\ndatabases = 7\n", "expected a list of names"),
            ("[sources.a]\nkind = \"pg_dump\"\njobs = 4\n", "needs `format"),
            ("[sources.a]\nkind = \"pg_dump\"\nformat = \"tar\"\n", "`custom`, `directory`, `plain`"),
            ("[sources.a]\nkind = \"pg_dump\"\nextra_args = [\"-Fp\"]\n", "say `format`"),
            ("[sources.a]\nkind = \"pg_dump\"\nconnection = \"host='x\"\n", "no closing quote"),
            ("[sources.a]\nkind = \"pg_dump\"\nconnection = \"app\"\ninstance_name = \"x\"\n", "leave one out"),
            ("[sources.a]\nkind = \"pg_dump\"\ninstance_name = \"x\"\ndatabases = \"all\"\n", "both given"),
            (
                "[sources.a]\nkind = \"pg_dump\"\npassword_file = \"x\"\nconnection = \"postgresql://u:p@h\"\n",
                "in `connection` too",
            ),
            ("[sources.a]\nkind = \"convex\"\nurl = \"localhost:3210\"\n", "is no URL of a deployment"),
            ("[sources.a]\nkind = \"convex\"\ninstance_name = \"x\"\n", "needs `instance_secret_file`"),
            ("[sources.a]\nkind = \"convex\"\nadmin_key_file = \"x\"\nadmin_key_env = \"y\"\n", "comes from one of"),
            ("[sources.a]\nkind = \"convex\"\ntables = [\"_storage\"]\n", "names no table"),
            ("[sources.a]\nkind = \"convex\"\npath = \"/\"\n", "`path` does not belong"),
            (
                "[sources.a]\nkind = \"convex\"\n[sources.\"a.files\"]\nkind = \"volume\"\npath = \"/\"\n",
                "under this name",
            ),
            ("[sources.a]\nkind = \"pg_dump\"\nfiles = false\n", "`files` does not belong"),
            ("[sources.a]\nkind = \"bucket\"\n", "`url` is missing"),
            ("[sources.a]\nkind = \"bucket\"\nurl = \"/srv\"\n", "is no bucket"),
            ("[sources.a]\nkind = \"bucket\"\nurl = \"s3://a\"\nurls = { b = \"s3://b\" }\n", "leave one out"),
            ("[sources.a]\nkind = \"bucket\"\nurls = { \"a/b\" = \"s3://b\" }\n", "must be one name"),
            ("[sources.a]\nkind = \"bucket\"\nurl = \"s3://a\"\nstore = { endpint = \"x\" }\n", "`endpint`"),
            ("[sources.a]\nkind = \"sqlite\"\npath = \"/x\"\ncanary = true\n", "`canary` does not belong"),
            ("[sources.a]\nkind = \"convex\"\ntables = [\"x\"]\ncanary = true\n", "add \"lifeboat_canary\""),
            ("[sources.a]\nkind = \"pg_dump\"\nschemas = [\"x\"]\ncanary = true\n", "add \"lifeboat\""),
            ("[repository]\nlimit_upload = \"fast\"\n", "no size"),
            ("[sources.a]\nkind = \"sqlite\"\n", "`path` is missing"),
            ("[sources.a]\nkind = \"sqlite\"\npath = \"/x\"\nsqlite = \"raw\"\n", "`sqlite` does not belong"),
            ("[sources.a]\nkind = \"volume\"\npath = \"/x\"\nsqlite = \"copy\"\n", "`capture`"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn an_instance_of_convex_names_its_database() {
        let text = "[sources.a]\nkind = \"pg_dump\"\nconnection = \"postgresql://u@h:5432?sslmode=disable\"\n\
                    instance_name = \"convex-self-hosted\"\n";
        let config = parse(text).unwrap();
        let Plan::PgDump(options) = config.sources["a"].plan("a").unwrap() else { panic!() };
        assert_eq!(options.databases, crate::source::Databases::Named(vec!["convex_self_hosted".to_owned()]));
        assert_eq!(options.connection.to_string(), "user=u host=h port=5432 sslmode=disable");
    }

    #[test]
    fn sizes_are_binary() {
        assert_eq!(parse_size("0"), Ok(0));
        assert_eq!(parse_size("1.5K"), Ok(1536));
        assert_eq!(parse_size("2 GiB"), Ok(2 << 30));
        assert_eq!(parse_size("3mb"), Ok(3 << 20));
        for bad in ["", "x", "1X", "-1", "1KK", "i"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}
