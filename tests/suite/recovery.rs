//! Without lifeboat: `recover.py`, with stock age, zstd and b3sum, restores the same bytes.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use object_store::local::LocalFileSystem;

use lifeboat::ops::forget::{forget, plan_named};
use lifeboat::progress::Silent;

use crate::common::{Host, Person, tree};

fn recover(repository: &Path, identity: &Path, args: &[&str]) -> std::process::Output {
    // The script that `init` stored, not the one of the source tree.
    let mut command = Command::new("python3");
    command.arg(repository.join("recover.py")).arg("--repository").arg(repository);
    command.arg("--identity").arg(identity).args(args).output().expect("python3 is needed: run `./test`")
}

#[test]
fn stock_tools_restore_the_same_bytes() {
    let (source, store) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    tree::make(source.path(), 5);
    fs::write(source.path().join("big.jsonl"), tree::lines(120_000, 4)).unwrap();
    fs::hard_link(source.path().join("docs/a.jsonl"), source.path().join("second-name")).unwrap();
    let holes = fs::File::create(source.path().join("holes")).unwrap();
    holes.set_len(5 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&holes, b"in the middle", 3 << 20).unwrap();
    drop(holes);
    tree::age(source.path());
    let host = Host::new(Arc::new(LocalFileSystem::new_with_prefix(store.path()).unwrap()));
    let person = Person::new();
    let made = host.init(&person);
    host.backup(source.path()).unwrap();
    let before = tree::describe(source.path());
    fs::write(source.path().join("later"), "later").unwrap();
    tree::age(source.path());
    host.backup(source.path()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let identity = folder.path().join("identity.txt");
    fs::write(&identity, &person.identity).unwrap();
    let ids = host.snapshots();
    for (id, expected) in [(&ids[0], before), (&ids[1], tree::describe(source.path()))] {
        let into = folder.path().join(id);
        let fingerprint = made.fingerprint.to_string();
        let args = ["--fingerprint", &fingerprint, "restore", id, "--into", into.to_str().unwrap()];
        let output = recover(store.path(), &identity, &args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(tree::describe(&into), expected);
    }
    let listed = recover(store.path(), &identity, &["list"]);
    assert!(ids.iter().all(|id| String::from_utf8_lossy(&listed.stdout).contains(id)));
    // A forgotten snapshot is the newest of nothing; by its id it is restored as long as its bytes are there.
    host.backup(source.path()).unwrap();
    let newest = host.snapshots().pop().unwrap();
    let (mut repository, problems) = host.open(None).unwrap();
    let plans = plan_named(&mut repository, &ids[1..], &problems).unwrap();
    forget(&mut repository, &plans, crate::common::clock()(), &Silent).unwrap();
    drop(repository);
    let listed = recover(store.path(), &identity, &["list"]);
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let state = |id: &String| listed.lines().find(|line| line.contains(id)).unwrap().ends_with("forgotten");
    assert!(state(&ids[1]) && !state(&ids[0]) && !state(&newest), "{listed}");
    for (named, id) in [("data", &newest), (&ids[1], &ids[1])] {
        let into = folder.path().join(format!("again-{id}"));
        let output = recover(store.path(), &identity, &["restore", named, "--into", into.to_str().unwrap()]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains(id.as_str()), "{said}");
        assert_eq!(tree::describe(&into), tree::describe(source.path()));
    }
    let wrong = "0".repeat(64);
    let args = ["--fingerprint", &wrong, "list"];
    assert!(!recover(store.path(), &identity, &args).status.success(), "another fingerprint is refused");
    let stranger = folder.path().join("stranger.txt");
    fs::write(&stranger, Person::new().identity).unwrap();
    assert!(!recover(store.path(), &stranger, &["list"]).status.success(), "a stranger reads nothing");
}
