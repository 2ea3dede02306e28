//! A cluster that archives into a repository, both of one user: what the tests of PostgreSQL are played on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::postgres::{Cluster, as_server_user, bin_dir};

/// A cluster that archives into a repository, all of one user.
pub struct Scene {
    pub folder: tempfile::TempDir,
    pub cluster: Cluster,
}

/// The role of docs/postgres.md: what a base backup needs and no more.
pub const LEAST: &str = "CREATE ROLE lifeboat LOGIN; GRANT pg_read_all_settings TO lifeboat;
    GRANT EXECUTE ON FUNCTION pg_backup_start(text, boolean), pg_backup_stop(boolean) TO lifeboat";

/// Rows that say when they were committed at the earliest and at the latest: what a restore to a time is compared with.
pub const ORACLE: &str = "CREATE TABLE oracle (n serial PRIMARY KEY, pad text)";

impl Scene {
    pub fn new(major: u32, settings: &[(&str, &str)]) -> Option<Self> {
        Self::made_with(major, &[], settings)
    }

    /// The same with further arguments of `initdb`.
    pub fn made_with(major: u32, made_with: &[&str], settings: &[(&str, &str)]) -> Option<Self> {
        bin_dir(major)?;
        let folder = tempfile::Builder::new().prefix("lb").tempdir().unwrap();
        let here = folder.path();
        own(here);
        // The server's user may not reach the place where the program was built.
        // Copied by another process: a file that is open for writing here, and so in whatever another test starts at that
        // moment, cannot be run.
        let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_lifeboat")).arg(here.join("lifeboat")).status();
        assert!(copied.unwrap().success());
        let archive = format!("{} wal push %p --source db", Self::base_command(here).join(" "));
        let mut all = vec![("archive_mode", "on"), ("archive_command", archive.as_str()), ("wal_level", "replica")];
        all.extend(settings);
        let init = ["init", "--generate-identity", "id"];
        let made = Self::run_in(here, &["--repo", "repo", "--state-dir", "state"], &init);
        assert!(made.status.success(), "{}", text(&made.stderr));
        let cluster = Cluster::start_made_with(major, made_with, &all)?;
        cluster.psql(LEAST);
        let connection = cluster.connection().replace("user=postgres", "user=lifeboat");
        let config = format!("[sources.db]\nkind = \"postgres\"\nconnection = \"{connection}\"\n");
        fs::write(here.join("lifeboat.toml"), config).unwrap();
        Some(Self { folder, cluster })
    }

    pub fn base_command(here: &Path) -> Vec<String> {
        let at = |name: &str| here.join(name).display().to_string();
        let repo = format!("file://{}", at("repo"));
        [
            &at("lifeboat"),
            "--config",
            &at("lifeboat.toml"),
            "--repo",
            &repo,
            "--state-dir",
            &at("state"),
            "--identity",
            &at("id"),
        ]
        .map(str::to_owned)
        .to_vec()
    }

    pub fn run_in(here: &Path, global: &[&str], args: &[&str]) -> Output {
        let mut command = as_server_user(here.join("lifeboat"));
        command.current_dir(here).env("HOME", here).args(global).args(args);
        // A test beside this one may have forked while the program was being copied: then it is open for writing for a moment.
        for _ in 0..100 {
            match command.output() {
                Err(e) if e.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                    std::thread::sleep(std::time::Duration::from_millis(20));
                }
                output => return output.unwrap(),
            }
        }
        panic!("the program stays busy")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let words = Self::base_command(self.folder.path());
        let mut command = as_server_user(&words[0]);
        command.current_dir(self.folder.path()).env("HOME", self.folder.path()).args(&words[1..]).args(args);
        command
    }

    /// Runs a line of shell as the server's user.
    pub fn sh(&self, line: &str) -> Output {
        as_server_user("/bin/sh").current_dir(self.folder.path()).args(["-c", line]).output().unwrap()
    }

    /// Runs lifeboat as the server's user; the exit code must be `code`.
    pub fn expect(&self, code: i32, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{args:?}\n{said}\n{}", self.cluster.log_tail());
        said
    }

    /// The server's clock.
    pub fn now(&self) -> String {
        self.cluster.psql("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')")
    }

    /// Rows of the oracle at this moment, and the moment.
    pub fn point(&self) -> (String, String) {
        (self.now(), self.cluster.psql("SELECT count(*) FROM oracle"))
    }

    pub fn insert(&self, rows: u32) {
        self.cluster.psql(&format!("INSERT INTO oracle (pad) SELECT md5(n::text) FROM generate_series(1, {rows}) n"));
    }

    /// Ends the running segment and waits until everything before is archived.
    pub fn archive_all(&self) {
        let last = self.cluster.psql("SELECT pg_walfile_name(pg_switch_wal())");
        for _ in 0..600 {
            if self.cluster.psql("SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver") >= last {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("{last} was not archived\n{}", self.cluster.log_tail());
    }

    /// Starts what was restored, with nothing but a socket, and answers a question to it once it accepts writes.
    pub fn ask_restored(&self, directory: &Path, sql: &str) -> Result<String, String> {
        let restored = Cluster::adopt(self.cluster.major(), directory).unwrap();
        restored.try_begin()?;
        for _ in 0..600 {
            if restored.psql("SELECT pg_is_in_recovery()") == "f" {
                return Ok(restored.psql(sql));
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        Err(format!("it stays in recovery\n{}", restored.log_tail()))
    }

    pub fn restored_rows(&self, name: &str, args: &[&str]) -> String {
        let into = self.path(name);
        let target = into.display().to_string();
        self.expect(0, &[&["restore", "db", "--into", &target, "--archive-mode-off"], args].concat());
        self.ask_restored(&into, "SELECT count(*) FROM oracle").unwrap()
    }

    /// The objects of a segment in the store.
    pub fn objects(&self, name: &str) -> Vec<PathBuf> {
        self.objects_that_begin(&format!("{name}-"))
    }

    /// The objects of the store whose names begin like this. What a killed put left behind (`NAME#1`) is none.
    pub fn objects_that_begin(&self, start: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let is_object = |name: &str| name.starts_with(start) && !name.contains('#');
        let mut open = vec![self.path("repo")];
        while let Some(directory) = open.pop() {
            for entry in fs::read_dir(directory).unwrap().flatten() {
                match entry.file_type().unwrap().is_dir() {
                    true => open.push(entry.path()),
                    false if is_object(&entry.file_name().to_string_lossy()) => found.push(entry.path()),
                    false => {}
                }
            }
        }
        found
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Gives a directory to the server's user.
pub fn own(directory: &Path) {
    if let Some((uid, gid)) = super::postgres::server_user() {
        std::os::unix::fs::chown(directory, Some(uid), Some(gid)).unwrap();
    }
}
