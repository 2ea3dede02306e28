//! Restored servers that lifeboat itself started, apart from the original.

use std::path::PathBuf;

use super::postgres::as_server_user;
use super::scene::{Scene, text};

/// A restored server that was started by lifeboat; stopped with the value.
pub struct Started<'s> {
    scene: &'s Scene,
    pub directory: PathBuf,
}

impl<'s> Started<'s> {
    pub fn new(scene: &'s Scene, name: &str) -> Self {
        Self { scene, directory: scene.path(name) }
    }

    /// Restores and starts it; the exit code must be `code`.
    pub fn restore(&self, code: i32, args: &[&str]) -> String {
        let into = self.directory.display().to_string();
        let bin = self.scene.cluster.bin_dir().display().to_string();
        let all = ["restore", "db", "--into", &into, "--start", "--isolated", "--bin-dir", &bin];
        self.scene.expect(code, &[&all, args].concat())
    }

    /// Restores it and counts the rows of the oracle.
    pub fn rows(&self, args: &[&str]) -> String {
        self.restore(0, args);
        self.psql("SELECT count(*) FROM oracle")
    }

    pub fn psql(&self, sql: &str) -> String {
        let mut command = as_server_user(self.scene.cluster.bin_dir().join("psql"));
        command.args([
            "-X",
            "-q",
            "-A",
            "-t",
            "-U",
            "postgres",
            "-d",
            "postgres",
            "-v",
            "ON_ERROR_STOP=1",
            "-c",
            sql,
            "-h",
        ]);
        let output = command.arg(&self.directory).current_dir("/").output().unwrap();
        assert!(output.status.success(), "{sql}\n{}", text(&output.stderr));
        text(&output.stdout).trim().to_owned()
    }

    pub fn is_running(&self) -> bool {
        self.directory.join("postmaster.pid").exists()
    }

    /// Stops it cleanly (`fast`), or as a power cut does (`immediate`).
    pub fn stop(&self, how: &str) {
        let mut stop = as_server_user(self.scene.cluster.bin_dir().join("pg_ctl"));
        stop.current_dir("/").args(["-s", "-w", "-m", how, "-D"]).arg(&self.directory).arg("stop");
        let _ = stop.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).status();
    }
}

impl Drop for Started<'_> {
    fn drop(&mut self) {
        if self.is_running() {
            self.stop("immediate");
        }
    }
}
