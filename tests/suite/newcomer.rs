//! What somebody who has only read the documentation trips over, with directories: files that are there, disks that are not, two
//! restores at once, a passphrase that does not fit.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use crate::common::tree;

struct Newcomer {
    root: tempfile::TempDir,
}

impl Newcomer {
    fn new() -> Self {
        let made = Self { root: tempfile::tempdir().unwrap() };
        tree::make(&made.path("data"), 3);
        tree::age(&made.path("data"));
        made
    }

    /// With a repository and a snapshot in it.
    fn with_a_snapshot() -> Self {
        let made = Self::new();
        made.expect(0, &["--repo", "repo", "init", "--generate-identity", "id"]);
        made.expect(0, &["--repo", "repo", "backup", "--path", "data", "--name", "data"]);
        made
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
        command.env_clear().env("HOME", self.root.path()).env("PATH", std::env::var_os("PATH").unwrap());
        command.env("XDG_STATE_HOME", self.path("state")).current_dir(self.root.path()).stdin(Stdio::null()).args(args);
        command
    }

    fn expect(&self, code: i32, args: &[&str]) -> String {
        said(&self.command(args).output().unwrap(), code)
    }

    fn restore(&self, code: i32, args: &[&str]) -> String {
        self.expect(code, &[&["--repo", "repo", "--identity", "id", "restore", "data"], args].concat())
    }
}

fn said(output: &Output, code: i32) -> String {
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{said}");
    said
}

#[test]
fn where_a_repository_was_pinned_none_is_made_and_none_is_proposed() {
    let here = Newcomer::new();
    let pin = "9fa8".repeat(16);
    let config = format!(
        "[repository]\nurl = \"repo\"\nfingerprint = \"{pin}\"\n[sources.d]\nkind = \"volume\"\npath = \"data\"\n"
    );
    fs::write(here.path("lifeboat.toml"), config).unwrap();
    let refused = here.expect(2, &["init", "--generate-identity", "new.txt"]);
    assert!(refused.contains("9fa89fa89fa8") && refused.contains("findmnt"), "{refused}");
    assert!(!here.path("repo").exists() && !here.path("new.txt").exists(), "nothing was made");
    let absent = here.expect(10, &["backup", "d"]);
    assert!(absent.contains("findmnt") && !absent.contains("--generate-identity"), "{absent}");
    // The disk is mounted, and empty.
    fs::create_dir(here.path("repo")).unwrap();
    assert!(here.expect(10, &["backup", "d"]).contains("findmnt"));
    here.expect(2, &["init", "--generate-identity", "new.txt"]);
    assert_eq!(fs::read_dir(here.path("repo")).unwrap().count(), 0);
}

#[test]
fn a_host_that_was_a_writer_is_not_told_to_make_a_repository() {
    let here = Newcomer::with_a_snapshot();
    fs::rename(here.path("repo"), here.path("unmounted")).unwrap();
    let absent = here.expect(10, &["--repo", "repo", "backup", "--path", "data", "--name", "data"]);
    assert!(absent.contains("findmnt") && !absent.contains("--generate-identity"), "{absent}");
}

#[test]
fn an_init_that_is_refused_leaves_nothing_behind() {
    let here = Newcomer::new();
    let refused = here.expect(2, &["--repo", "repo", "init"]);
    assert!(refused.contains("nobody to seal to"), "{refused}");
    assert!(!here.path("repo").exists());
}

#[test]
fn a_configuration_may_name_the_identity_that_init_makes() {
    let here = Newcomer::new();
    fs::write(here.path("lifeboat.toml"), "[repository]\nurl = \"repo\"\nidentity_file = \"id.txt\"\n").unwrap();
    here.expect(0, &["init", "--generate-identity", "id.txt"]);
    here.expect(0, &["check", "--read-data"]);
}

#[test]
fn a_file_that_is_there_is_replaced_only_where_that_is_said() {
    let here = Newcomer::with_a_snapshot();
    fs::write(here.path("app.tar"), "mine").unwrap();
    let refused = here.restore(2, &["--tar", "app.tar"]);
    assert!(refused.contains("is there already") && refused.contains("--overwrite always"), "{refused}");
    assert_eq!(fs::read(here.path("app.tar")).unwrap(), b"mine");
    here.restore(0, &["--tar", "app.tar", "--overwrite", "always"]);
    assert!(fs::metadata(here.path("app.tar")).unwrap().len() > 1024);
    here.restore(0, &["--tar", "other.tar"]);
    let file = "docs/a.jsonl";
    let dump = |code: i32, more: &[&str]| {
        let args = ["--repo", "repo", "--identity", "id", "dump", "data", file, "--output", "out"];
        here.expect(code, &[&args, more].concat())
    };
    fs::write(here.path("out"), "mine").unwrap();
    assert!(dump(2, &[]).contains("is there already"));
    assert_eq!(fs::read(here.path("out")).unwrap(), b"mine");
    dump(0, &["--overwrite", "always"]);
    assert_eq!(fs::read(here.path("out")).unwrap(), fs::read(here.path("data").join(file)).unwrap());
    // What could not be written leaves no part of it behind.
    fs::create_dir(here.path("folder")).unwrap();
    here.restore(1, &["--tar", "folder"]);
    let directory =
        here.expect(1, &["--repo", "repo", "--identity", "id", "dump", "data", "none", "--output", "never"]);
    assert!(directory.contains("none"), "{directory}");
    let left = fs::read_dir(here.root.path()).unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap());
    assert_eq!(left.filter(|name| name.contains("lifeboat-part") || name == "never").count(), 0);
}

#[test]
fn a_directory_belongs_to_one_restore_at_a_time() {
    let here = Newcomer::with_a_snapshot();
    fs::create_dir(here.path("back")).unwrap();
    let held = fs::File::open(here.path("back")).unwrap();
    held.lock().unwrap();
    let busy = here.restore(11, &["--into", "back"]);
    assert!(busy.contains("another restore is writing into"), "{busy}");
    assert_eq!(fs::read_dir(here.path("back")).unwrap().count(), 0);
    held.unlock().unwrap();
    here.restore(0, &["--into", "back"]);
    assert_eq!(tree::describe(&here.path("back")), tree::describe(&here.path("data")));
}

#[test]
fn a_passphrase_that_does_not_fit_is_no_reason_for_a_new_key() {
    let here = Newcomer::with_a_snapshot();
    let mut recipient = age::scrypt::Recipient::new("right".to_owned().into());
    recipient.set_work_factor(4);
    let sealed = age::encrypt(&recipient, &fs::read(here.path("id")).unwrap()).unwrap();
    fs::write(here.path("locked"), sealed).unwrap();
    fs::write(here.path("wrong"), "wrong").unwrap();
    let args = ["--repo", "repo", "--identity", "locked", "ls", "data"];
    let wrong = here.command(&args).env("LIFEBOAT_PASSPHRASE_FILE", here.path("wrong")).output().unwrap();
    let wrong = said(&wrong, 12);
    assert!(wrong.contains("the passphrase is wrong") && wrong.contains("docs/recovery.md"), "{wrong}");
    let absent = here.command(&args).env("LIFEBOAT_PASSPHRASE_FILE", here.path("absent")).output().unwrap();
    let absent = said(&absent, 12);
    assert!(absent.contains("LIFEBOAT_PASSPHRASE_FILE=FILE"), "{absent}");
    fs::write(here.path("notes"), "no key in here\n").unwrap();
    let other = here.expect(12, &["--repo", "repo", "--identity", "notes", "ls", "data"]);
    assert!(other.contains("name that with `--identity FILE`"), "{other}");
    for text in [wrong, absent, other] {
        assert!(!text.contains("key generate"), "{text}");
    }
}
