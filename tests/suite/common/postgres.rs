//! Scratch PostgreSQL clusters of a given major version: made by the test that needs one, reached through a Unix socket in a
//! directory of their own, gone with the value.
//!
//! ```text
//! let Some(cluster) = Cluster::start(15) else { return };
//! cluster.psql("CREATE TABLE t (a int)");
//! assert_eq!(cluster.psql("SELECT count(*) FROM t"), "0");
//! let with_wal = Cluster::start_with(16, &[("wal_level", "replica"), ("archive_mode", "on")]);
//! ```

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A running server; ends with the value.
pub struct Cluster {
    major: u32,
    bin: PathBuf,
    folder: tempfile::TempDir,
}

/// Where the programs of a major version lie, or a loud word that there are none; where `LIFEBOAT_TEST_REQUIRE` is set that
/// is a failure.
pub fn bin_dir(major: u32) -> Option<PathBuf> {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/tools");
    let tools = std::env::var_os("LIFEBOAT_TEST_TOOLS").map_or(here, PathBuf::from);
    let places =
        [PathBuf::from(format!("/usr/lib/postgresql/{major}/bin")), tools.join(format!("postgresql-{major}/bin"))];
    let found = places.into_iter().find(|dir| dir.join("initdb").is_file());
    if found.is_none() {
        let required = std::env::var_os("LIFEBOAT_TEST_REQUIRE").is_some();
        assert!(!required, "PostgreSQL {major} is not installed, and here it must be: run `./test`");
        eprintln!("SKIPPED: PostgreSQL {major} is not installed; `./test` installs it");
    }
    found
}

/// The user that a server runs as: PostgreSQL refuses root.
pub fn server_user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let user =
        ["postgres", "nobody"].iter().find_map(|name| uzers::get_user_by_name(*name)).expect("a user that is not root");
    Some((user.uid(), user.primary_group_id()))
}

/// A program that runs as the server's user.
pub fn as_server_user(program: impl AsRef<Path>) -> Command {
    let mut command = Command::new(program.as_ref());
    if let Some((uid, gid)) = server_user() {
        command.uid(uid).gid(gid);
    }
    command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C").env("TZ", "UTC").stdin(Stdio::null());
    command
}

impl Cluster {
    /// A new cluster of a major version, started. `None` where that version is not installed.
    pub fn start(major: u32) -> Option<Self> {
        Self::start_with(major, &[])
    }

    /// The same, with settings.
    pub fn start_with(major: u32, settings: &[(&str, &str)]) -> Option<Self> {
        Self::start_made_with(major, &[], settings)
    }

    /// The same, made with further arguments of `initdb`.
    pub fn start_made_with(major: u32, made_with: &[&str], settings: &[(&str, &str)]) -> Option<Self> {
        let bin = bin_dir(major)?;
        let folder = tempfile::Builder::new().prefix("pg").tempdir().unwrap();
        // The server's user owns it, everybody may pass: the socket lies in it.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        if let Some((uid, gid)) = server_user() {
            std::os::unix::fs::chown(folder.path(), Some(uid), Some(gid)).unwrap();
        }
        let cluster = Self { major, bin, folder };
        let data = cluster.data_dir().display().to_string();
        let usual = ["-D", &data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"];
        cluster.must("initdb", &[&usual[..], made_with].concat());
        let socket = cluster.folder.path().display().to_string();
        let defaults = [
            ("listen_addresses", ""),
            ("unix_socket_directories", socket.as_str()),
            ("port", "5432"),
            ("fsync", "off"),
            ("shared_buffers", "16MB"),
            ("max_connections", "40"),
            ("timezone", "UTC"),
            ("log_statement", "all"),
        ];
        cluster.configure(&defaults);
        cluster.configure(settings);
        cluster.begin();
        Some(cluster)
    }

    /// Adds settings; those of later calls win. They take effect with the next `restart` or `reload`.
    pub fn configure(&self, settings: &[(&str, &str)]) {
        let path = self.data_dir().join("postgresql.conf");
        let mut text = std::fs::read_to_string(&path).unwrap();
        for (name, value) in settings {
            text.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
        }
        std::fs::write(&path, text).unwrap();
    }

    /// Replaces `pg_hba.conf`, and lets the server read it.
    pub fn set_hba(&self, lines: &str) {
        std::fs::write(self.data_dir().join("pg_hba.conf"), lines).unwrap();
        self.reload();
    }

    fn must(&self, program: &str, args: &[&str]) {
        let output = as_server_user(self.bin.join(program)).current_dir("/").args(args).output().unwrap();
        let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{program} {args:?}\n{out}\n{err}\n{log}");
    }

    fn pg_ctl(&self, args: &[&str]) {
        let data = self.data_dir().display().to_string();
        self.must("pg_ctl", &[&["-s", "-w", "-t", "120", "-D", &data], args].concat());
    }

    /// Starts a server that was stopped.
    pub fn begin(&self) {
        let log = self.folder.path().join("log").display().to_string();
        self.pg_ctl(&["-l", &log, "start"]);
    }

    /// A directory that holds a cluster already, a restored one: it gets a socket of its own.
    pub fn adopt(major: u32, data: &Path) -> Option<Self> {
        let folder = tempfile::Builder::new().prefix("pg").tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        if let Some((uid, gid)) = server_user() {
            std::os::unix::fs::chown(folder.path(), Some(uid), Some(gid)).unwrap();
        }
        std::os::unix::fs::symlink(data, folder.path().join("data")).unwrap();
        let cluster = Self { major, bin: bin_dir(major)?, folder };
        let socket = cluster.folder.path().display().to_string();
        // Behind everything else, where what the original was told last stands too.
        let path = data.join("postgresql.auto.conf");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        std::fs::write(&path, format!("{text}unix_socket_directories = '{socket}'\n")).unwrap();
        Some(cluster)
    }

    /// Starts it; the error is its log.
    pub fn try_begin(&self) -> Result<(), String> {
        let (data, log) = (self.data_dir().display().to_string(), self.folder.path().join("log"));
        let log_text = log.display().to_string();
        let args = ["-s", "-w", "-t", "60", "-D", &data, "-l", &log_text, "start"];
        let started =
            as_server_user(self.bin.join("pg_ctl")).current_dir("/").args(args).stdout(Stdio::null()).status();
        if started.unwrap().success() { Ok(()) } else { Err(self.log()) }
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().filter(|line| !line.contains("statement:")).collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }

    /// Stops it, as an administrator does.
    pub fn stop(&self) {
        self.pg_ctl(&["-m", "fast", "stop"]);
    }

    /// Stops it as a power cut does: clients lose their connections, and it recovers when it starts again.
    pub fn crash(&self) {
        self.pg_ctl(&["-m", "immediate", "stop"]);
    }

    pub fn restart(&self) {
        self.stop();
        self.begin();
    }

    /// Lets the server read its configuration again.
    pub fn reload(&self) {
        self.pg_ctl(&["reload"]);
    }

    pub fn major(&self) -> u32 {
        self.major
    }

    /// Its programs.
    pub fn bin_dir(&self) -> &Path {
        &self.bin
    }

    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The directory of its socket.
    pub fn socket_dir(&self) -> &Path {
        self.folder.path()
    }

    /// Everything that the server wrote down, statements among them.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// How a superuser reaches it, without a database.
    pub fn connection(&self) -> String {
        format!("host={} port=5432 user=postgres", self.folder.path().display())
    }

    /// The same as a URL, with a database or without (`""`).
    pub fn url(&self, database: &str) -> String {
        let host = self.folder.path().display().to_string().replace('/', "%2F");
        let slash = if database.is_empty() { "" } else { "/" };
        format!("postgresql://postgres@{host}:5432{slash}{database}")
    }

    /// Runs SQL in the database `postgres` and returns what it answers, without headings and spaces.
    pub fn psql(&self, sql: &str) -> String {
        self.psql_in("postgres", sql)
    }

    /// The same in another database.
    pub fn psql_in(&self, database: &str, sql: &str) -> String {
        let output = self.client("psql").args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]);
        let output = output.args(["-d", &format!("{} dbname='{database}'", self.connection()), "-c", sql]).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{sql}\n{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// One of its programs, as whoever runs the tests, with nothing of their environment.
    pub fn client(&self, program: &str) -> MutCommand {
        let mut command = Command::new(self.bin.join(program));
        command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C").stdin(Stdio::null());
        MutCommand(command)
    }
}

/// A command whose calls chain by value.
pub struct MutCommand(Command);

impl MutCommand {
    pub fn args<'a>(mut self, args: impl IntoIterator<Item = &'a str>) -> Self {
        self.0.args(args);
        self
    }

    pub fn output(mut self) -> std::io::Result<std::process::Output> {
        self.0.output()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.data_dir().join("postmaster.pid").exists() {
            let data = self.data_dir();
            let mut stop = as_server_user(self.bin.join("pg_ctl"));
            stop.current_dir("/").args(["-s", "-w", "-m", "immediate", "-D"]).arg(data).arg("stop");
            let _ = stop.stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
    }
}
