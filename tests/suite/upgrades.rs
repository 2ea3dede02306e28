//! What a newer lifeboat wrote is refused by name, and not written beside; what an older one wrote opens (its repositories: fixtures.rs, its
//! catalogs: damaged.rs, and the migrations of the catalog).

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use lifeboat::model::{Commit, CommitHeader};
use lifeboat::ops::Kind;
use lifeboat::repository::Problem;
use lifeboat::seal::{Sealer, sign_text};
use object_store::local::LocalFileSystem;

use crate::common::forge::{Forger, end_of_log};
use crate::common::{Host, Person, clock, tree};

#[test]
fn a_repository_of_a_later_form_is_refused_by_every_command() {
    let place = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
        command.env_clear().env("HOME", place.path()).env("XDG_STATE_HOME", place.path().join("state"));
        let output = command.current_dir(place.path()).args(["--repo", "repo"]).args(args).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(run(&["init", "--generate-identity", "id"]).0, 0);
    tree::make(&place.path().join("data"), 1);
    assert_eq!(run(&["backup", "--path", "data", "--name", "data"]).0, 0);
    let description = place.path().join("repo/lifeboat.json");
    let text = fs::read_to_string(&description).unwrap();
    fs::write(&description, text.replacen("\"format\":1", "\"format\":2", 1)).unwrap();
    let before = listing(&place.path().join("repo"));
    for args in [
        &["snapshots"][..],
        &["check"],
        &["backup", "--path", "data", "--name", "data"],
        &["--identity", "id", "restore", "data", "--into", "back"],
        &["prune"],
        &["init", "--identity", "id"],
        &["--identity", "id", "bootstrap"],
    ] {
        let (code, said) = run(args);
        assert!(code != 0 && said.contains("has format 2") && said.contains("Use a newer lifeboat"), "{args:?} {said}");
    }
    assert_eq!(listing(&place.path().join("repo")), before);
    assert!(!place.path().join("back").exists());
}

fn listing(root: &Path) -> Vec<String> {
    let found = Command::new("find").arg(root).args(["-type", "f"]).output().unwrap().stdout;
    String::from_utf8(found).unwrap().lines().map(str::to_owned).collect()
}

/// A host whose lifeboat was made older again adds nothing to a log that it does not understand.
#[test]
fn a_log_that_a_newer_one_wrote_is_read_as_far_as_it_goes_and_not_forked() {
    let store = tempfile::tempdir().unwrap();
    let host = Host::new(Arc::new(LocalFileSystem::new_with_prefix(store.path()).unwrap()));
    let person = Person::new();
    host.init(&person);
    let source = tempfile::tempdir().unwrap();
    tree::make(source.path(), 1);
    host.backup(source.path()).unwrap();
    let (mut repository, _) = host.open(None).unwrap();
    let own = repository.host().unwrap().name.clone();
    let readers = [person.recipient.clone(), repository.writer_description(&own).unwrap().recipient];
    let sealer = Sealer::new(readers.iter().map(|key| key.parse().unwrap()).collect());
    let forger = Forger { sealer, ..Forger::thief_of(&host, &[&person]) };
    let (sequence, parents, first_frame) = end_of_log(&repository, &own);
    let header = CommitHeader {
        commit: 1,
        repository: forger.repository,
        writer: own,
        sequence: sequence + 1,
        parents,
        time: clock()(),
        first_frame,
        program: "lifeboat 9.9".to_owned(),
    };
    let mut text = Commit { header, lines: Vec::new() }.encode().unwrap();
    text.extend_from_slice(b"{\"shard\":{\"n\":1}}\n");
    let text = sign_text("lifeboat format 1 commit", &text, &forger.signing);
    forger.put_commit(&host.store(), sequence + 1, &text);
    drop(repository);

    let before = listing(store.path());
    fs::write(source.path().join("more"), "more").unwrap();
    let error = host.backup(source.path()).unwrap_err();
    assert!(error.to_string().contains("made by a newer lifeboat (`lifeboat 9.9`)"), "{error}");
    assert_eq!(error.kind(), Kind::Failed);
    assert_eq!(listing(store.path()), before, "nothing was stored");
    // What it understands can be read and restored.
    for reader in [&host, &Host::new(Arc::clone(&host.objects))] {
        let (_, problems) = reader.open(Some(&person)).unwrap();
        assert!(
            matches!(&problems[..], [Problem::NewerCommit { program, .. }] if program == "lifeboat 9.9"),
            "{problems:?}"
        );
        assert_eq!(reader.snapshots_with(&person).len(), 1);
    }
}
