//! The official command line (`convex` on npm, 1.48) works with the deployment as with a real one.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use deployment::{Deployment, ExportFault, Options, json};

/// The command line's program, or a loud word that there is none; where `LIFEBOAT_TEST_REQUIRE` is set that is a failure.
fn program() -> Option<PathBuf> {
    let main = "../../target/tools/convex/node_modules/convex/bin/main.js";
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(main);
    if program.is_file() {
        return Some(program);
    }
    let required = std::env::var_os("LIFEBOAT_TEST_REQUIRE").is_some();
    assert!(!required, "the official command line is not installed: scripts/install-tools convex");
    eprintln!("NOT TESTED: the official command line is not installed (scripts/install-tools convex)");
    None
}

/// A project folder, and the deployment that its commands go to.
struct Project {
    program: PathBuf,
    folder: tempfile::TempDir,
    url: String,
    key: String,
}

impl Project {
    fn new(convex: &Deployment) -> Option<Project> {
        let program = program()?;
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("package.json"), r#"{"dependencies":{"convex":"1.48.0"}}"#).unwrap();
        Some(Project { program, folder, url: convex.url(), key: convex.admin_key() })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new("node")
            .arg(&self.program)
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.folder.path())
            .env("CI", "1")
            .env("CONVEX_SELF_HOSTED_URL", &self.url)
            .env("CONVEX_SELF_HOSTED_ADMIN_KEY", &self.key)
            .current_dir(self.folder.path())
            .output()
            .unwrap()
    }

    /// What it prints on standard output, and on standard error.
    fn good(&self, arguments: &[&str]) -> (String, String) {
        let output = self.run(arguments);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        (text(&output.stdout), text(&output.stderr))
    }
}

#[test]
fn it_exports_and_what_it_exports_it_imports() {
    let convex = Deployment::start(Options::default()).unwrap();
    let Some(project) = Project::new(&convex) else { return };
    convex.fill(2_000, 20);
    convex.insert(("waitlist", "entries"), json(r#"{"n":9007199254740993,"z":-0.0,"b":{"$bytes":"AP8="}}"#));
    let (_, told) = project.good(&["export", "--include-file-storage", "--path", "all.zip"]);
    let before = convex.state();
    assert!(told.contains("Created snapshot export at timestamp"), "{told}");
    assert!(told.contains("Downloaded snapshot export to all.zip"), "{told}");
    let other = Deployment::start(Options { seed: 7, ..Options::default() }).unwrap();
    let target = Project::new(&other).unwrap();
    let all = project.path("all.zip");
    let all = all.to_str().unwrap();
    let (_, told) = target.good(&["import", "--yes", all]);
    assert!(told.contains("Added 2001 documents"), "{told}");
    assert_eq!(other.state(), before);
    let extra = other.insert("messages", json("{}"));
    other.insert("later", json("{}"));
    assert!(!target.run(&["import", "--yes", all]).status.success(), "tables that are not empty are refused");
    let (_, told) = target.good(&["import", "--yes", "--replace", all]);
    assert!(told.contains("Added 2001 documents"), "{told}");
    let kept = other.state();
    assert!(kept.tables.contains_key(&(String::new(), "later".to_owned())));
    assert!(!kept.tables[&(String::new(), "messages".to_owned())].contains_key(&extra));
    target.good(&["import", "--yes", "--replace-all", all]);
    assert_eq!(other.state(), before);
    std::fs::write(target.path("more.jsonl"), "{\"text\":\"x\"}\n{\"text\":\"y\"}\n").unwrap();
    target.good(&["import", "--yes", "--append", "--table", "later", "more.jsonl"]);
    assert_eq!(other.state().tables[&(String::new(), "later".to_owned())].len(), 2);
}

#[test]
fn it_says_that_an_export_is_in_progress() {
    let convex = Deployment::start(Options::default()).unwrap();
    let Some(project) = Project::new(&convex) else { return };
    convex.faults().set_export(ExportFault::Canceled);
    let cancelled = project.run(&["export", "--path", "x.zip"]);
    assert!(String::from_utf8_lossy(&cancelled.stderr).contains("unexpected state"), "it knows no cancelled exports");
    convex.faults().set_export(ExportFault::Polls(3));
    project.good(&["export", "--path", "y.zip"]);
    assert!(project.path("y.zip").is_file());
    let (_, head, _) = http_post(&convex, "/api/export/request/zip");
    assert!(head.starts_with("http/1.1 200"), "{head}");
    let refused = project.run(&["export", "--path", "z.zip"]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(told.contains("A snapshot export is already requested or in progress"), "{told}");
}

fn http_post(convex: &Deployment, path: &str) -> (u16, String, Vec<u8>) {
    crate::common::client(convex).send("POST", path, "", b"")
}

#[test]
fn it_sets_lists_and_removes_environment_variables() {
    let convex = Deployment::start(Options::default()).unwrap();
    let Some(project) = Project::new(&convex) else { return };
    project.good(&["env", "set", "FIRST", "a value"]);
    project.good(&["env", "set", "SECOND=2"]);
    assert_eq!(project.good(&["env", "list"]).0, "FIRST=a value\nSECOND=2\n");
    assert_eq!(project.good(&["env", "get", "FIRST"]).0, "a value\n");
    project.good(&["env", "remove", "FIRST"]);
    assert_eq!(convex.environment().into_iter().collect::<Vec<_>>(), [("SECOND".to_owned(), "2".to_owned())]);
}

#[test]
fn it_shows_tables_and_documents() {
    let convex = Deployment::start(Options::default()).unwrap();
    let Some(project) = Project::new(&convex) else { return };
    convex.insert("notes", json(r#"{"n":7,"f":7.5,"b":{"$bytes":"AP8="}}"#));
    assert_eq!(project.good(&["data"]).0, "notes\n");
    let (documents, _) = project.good(&["data", "notes", "--format", "jsonl"]);
    assert!(documents.contains(r#""b": Bytes("AP8="), "f": 7.5, "n": 7n"#), "{documents}");
}
