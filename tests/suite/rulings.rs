//! Whose commits count: what a thief of a host wrote since counts for nobody, wherever he puts it; a log whose host is gone goes on with
//! another one, and the old one is refused.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use lifeboat::model::{Moment, SegmentPlace};
use lifeboat::ops::Kind;
use lifeboat::progress::Silent;
use lifeboat::repository::{self, Adopted, Problem};
use lifeboat::seal::sign_text;
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use serde_json::Value;

use crate::common::faulty::{Fails, Faulty};
use crate::common::forge::Forger;
use crate::common::pruned::{DAY, Nights, TONIGHT, forget_on, options, prune_on, prune_with};
use crate::common::{Host, Person, clock, copy_tree, merge_store, tree};

fn writer_of(host: &Host) -> String {
    host.open(None).unwrap().0.host().unwrap().name.clone()
}

fn received(scene: &Nights, id: &str) -> Moment {
    let (repository, _) = scene.host.open(None).unwrap();
    let all = repository.catalog().snapshots().unwrap();
    all.iter().find(|snapshot| snapshot.record.id.to_string() == id).unwrap().received.unwrap()
}

fn revoke(by: &Host, person: &Person, writer: &str, since: Option<Moment>) {
    let (mut repository, _) = by.open(Some(person)).unwrap();
    repository.revoke_writer(writer, since, clock()()).unwrap();
}

fn adopt(host: &Host, person: &Person, writer: &str) -> Result<Adopted, repository::Error> {
    let (mut repository, _) = host.open(Some(person))?;
    repository.adopt_writer(writer, "new", clock()(), &Silent)
}

fn problems(host: &Host, person: Option<&Person>) -> Vec<Problem> {
    host.open(person).unwrap().1
}

fn refused(host: &Host, source: &Path) -> String {
    let error = host.backup(source).unwrap_err();
    assert_eq!(error.kind(), Kind::Key, "{error}");
    error.to_string()
}

/// Restores with nothing but `recover.py` and stock tools, and says what it warned of.
fn recover(scene: &Nights, id: &str) -> Result<String, String> {
    let folder = tempfile::tempdir().unwrap();
    let (copy, identity, into) = (folder.path().join("copy"), folder.path().join("id"), folder.path().join("into"));
    fs::create_dir(&copy).unwrap();
    fs::write(&identity, &scene.person.identity).unwrap();
    merge_store(&scene.store, &LocalFileSystem::new_with_prefix(&copy).unwrap());
    let mut command = Command::new("python3");
    command.arg(copy.join("recover.py")).arg("--repository").arg(&copy).arg("--identity").arg(&identity);
    let output = command.args(["restore", id, "--into", into.to_str().unwrap()]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        assert_eq!(tree::describe(&into), scene.trees[id]);
        return Ok(said);
    }
    Err(said)
}

#[test]
fn what_a_thief_wrote_since_counts_for_nobody() {
    let mut scene = Nights::new();
    let early = scene.night();
    let image = scene.host.clone_state(Arc::new(scene.store.clone()));
    let ids = [vec![early], scene.nights(2)].concat();
    let other = Host::new(Arc::new(scene.store.clone()));
    other.join(&scene.person).unwrap();
    // The thief has all that the host has. A night of his, and one of the host's own after it.
    let thief = scene.host.clone_state(Arc::new(scene.store.clone()));
    let evil = tempfile::tempdir().unwrap();
    tree::make(evil.path(), 66);
    thief.backup(evil.path()).unwrap();
    scene.night();
    let reader = scene.reader();
    assert_eq!(reader.snapshots_with(&scene.person).len(), 5);
    other.backup_as(evil.path(), "other", &Default::default()).unwrap();
    let writer = writer_of(&scene.host);
    let stolen = reader.snapshots_with(&scene.person)[3].clone();
    revoke(&reader, &scene.person, &writer, Some(received(&scene, &stolen)));

    let counting = |host: &Host| {
        let (repository, problems) = host.open(Some(&scene.person)).unwrap();
        assert_eq!(problems, []);
        let all = repository.catalog().snapshots().unwrap();
        let of = all.iter().filter(|snapshot| snapshot.writer_name == writer);
        of.map(|snapshot| snapshot.record.id.to_string()).collect::<Vec<_>>()
    };
    // A catalog that had taken it over, one that is new, and the other host's, which reads no log but its own.
    for host in [&reader, &scene.reader(), &reader] {
        assert_eq!(counting(host), ids);
    }
    assert_eq!(problems(&other, None), []);
    other.backup_as(evil.path(), "other", &Default::default()).unwrap();
    for id in &ids {
        assert_eq!(scene.restored(&reader, id).unwrap(), scene.trees[id]);
    }
    assert!(scene.restored(&reader, &stolen).is_err());
    for host in [&thief, &scene.host] {
        assert!(refused(host, evil.path()).contains("was revoked on"));
    }
    // He goes on all the same, at a place from before, and tells no lifeboat of his that it may not.
    let split = Arc::new(scene.store.fork());
    for key in split.keys("/ruling-") {
        split.remove(&key);
    }
    let old = Host { objects: Arc::clone(&split) as Arc<dyn ObjectStore>, ..image };
    for _ in 0..2 {
        fs::write(evil.path().join("more"), tree::noise(100_000, 1)).unwrap();
        old.backup(evil.path()).unwrap();
    }
    merge_store(&*split, &scene.store);
    for host in [&reader, &scene.reader()] {
        assert_eq!(counting(host), ids);
    }
    assert_eq!(problems(&other, None), []);
    let said = recover(&scene, &ids[2]).unwrap();
    assert!(said.contains("does not count"), "{said}");
    assert!(recover(&scene, &stolen).is_err());
    // The host joins anew, and its new log counts.
    let fresh = Host::new(Arc::new(scene.store.clone()));
    fresh.join(&scene.person).unwrap();
    fresh.backup(scene.source.path()).unwrap();
    assert_eq!(counting(&reader), ids);
    // Later it turns out that it began earlier.
    revoke(&reader, &scene.person, &writer, Some(received(&scene, &ids[1])));
    assert_eq!(counting(&reader), ids[..1]);
    assert_eq!(counting(&scene.reader()), ids[..1]);
}

fn count(host: &Host, person: &Person, writer: &str) -> Vec<String> {
    let (repository, _) = host.open(Some(person)).unwrap();
    let all = repository.catalog().snapshots().unwrap();
    let of = all.iter().filter(|snapshot| snapshot.writer_name == writer);
    of.map(|snapshot| snapshot.record.id.to_string()).collect()
}

/// An object that is put again looks young. What honest commits name as their ancestors stays, and what would go is told before.
#[test]
fn a_commit_that_was_put_again_takes_no_others_with_it() {
    let mut scene = Nights::new();
    let ids = scene.nights(4);
    let writer = writer_of(&scene.host);
    let since = received(&scene, &ids[2]);
    let first = scene.store.keys("/log/").into_iter().next().unwrap();
    let body = scene.store.remove(&first);
    scene.store.put_there(&first, body);
    let reader = scene.reader();
    let (mut repository, _) = reader.open(Some(&scene.person)).unwrap();
    let ends = repository.ends_before(&writer, Some(since)).unwrap();
    let beyond = repository.snapshots_beyond(&writer, &ends).unwrap();
    let beyond: Vec<String> = beyond.iter().map(|snapshot| snapshot.record.id.to_string()).collect();
    assert_eq!(beyond, ids[2..]);
    drop(repository);
    revoke(&reader, &scene.person, &writer, Some(since));
    for host in [&reader, &scene.reader()] {
        assert_eq!(count(host, &scene.person, &writer), ids[..2]);
    }
}

/// Neither a hole in the log nor the loss of the ruling brings back what does not count.
#[test]
fn holes_and_lost_rulings_bring_nothing_back() {
    let mut scene = Nights::new();
    scene.nights(1);
    let image = scene.host.clone_state(Arc::new(scene.store.fork()));
    let ids = [scene.host.snapshots(), scene.nights(3)].concat();
    let writer = writer_of(&scene.host);
    // A branch of the thief's, below what stands in the log; and a commit that says nothing that anybody could read.
    fs::write(scene.source.path().join("evil"), tree::noise(100_000, 66)).unwrap();
    image.backup(scene.source.path()).unwrap();
    let since = received(&scene, &ids[3]);
    let reader = scene.reader();
    assert_eq!(count(&reader, &scene.person, &writer).len(), 4);
    revoke(&reader, &scene.person, &writer, Some(since));
    assert_eq!(count(&reader, &scene.person, &writer), ids[..3]);
    merge_store(&*image.objects, &scene.store);
    let forger = Forger::thief_of(&image, &[&scene.person]);
    let junk = sign_text("lifeboat format 1 commit", b"[]\n", &forger.signing);
    forger.put_commit(&scene.host.store(), 2, &junk);
    assert_eq!(count(&scene.reader(), &scene.person, &writer), ids[..3]);
    recover(&scene, &ids[2]).unwrap();
    // The third commit is lost: whoever comes now cannot follow what stands before it.
    let third = scene.store.keys("/log/").into_iter().find(|key| key.contains("/000000000003-")).unwrap();
    scene.store.remove(&third);
    assert!(!count(&scene.reader(), &scene.person, &writer).contains(&ids[3]));
    let late = scene.reader();
    let seen = count(&late, &scene.person, &writer);
    assert!(seen.contains(&ids[0]) && seen.iter().all(|id| ids[..3].contains(id)), "{seen:?}");
    // The ruling is lost too: a catalog that has seen it obeys it, also when it is made anew, and says so.
    let ruling = scene.store.keys("/ruling-").into_iter().next().unwrap();
    scene.store.remove(&ruling);
    let (mut repository, found) = reader.open(Some(&scene.person)).unwrap();
    assert!(found.iter().any(|p| matches!(p, Problem::BadKeys { key, .. } if *key == ruling)), "{found:?}");
    repository.rebuild_catalog(&Silent).unwrap();
    drop(repository);
    assert!(!count(&reader, &scene.person, &writer).contains(&ids[3]));
    let error = adopt(&scene.reader(), &scene.person, "nobody").unwrap_err();
    assert!(matches!(error, repository::Error::Store(_)), "{error}");
    let error = adopt(&reader, &scene.person, &writer).unwrap_err();
    assert!(matches!(error, repository::Error::Ended(_)), "{error}");
}

/// A host that was cloned and then revoked: its two ends are nobody's concern any more. And what the old keys of an adopted log say, in whatever
/// form, keeps the new host from nothing.
#[test]
fn what_old_keys_leave_behind_disturbs_nobody() {
    let mut scene = Nights::new();
    scene.nights(2);
    let writer = writer_of(&scene.host);
    let split = Arc::new(scene.store.fork());
    let clone = scene.host.clone_state(Arc::clone(&split) as Arc<dyn ObjectStore>);
    clone.backup(scene.source.path()).unwrap();
    scene.night();
    merge_store(&*split, &scene.store);
    let forked = scene.store.fork();
    let reader = Host::new(Arc::new(forked.clone()));
    assert!(matches!(problems(&reader, Some(&scene.person))[..], [Problem::Fork { .. }]));
    revoke(&reader, &scene.person, &writer, None);
    assert_eq!(problems(&reader, Some(&scene.person)), []);
    assert_eq!(count(&reader, &scene.person, &writer).len(), 4);

    let new = Host::new(Arc::new(scene.store.clone()));
    let forger = Forger::thief_of(&scene.host, &[&scene.person]);
    adopt(&new, &scene.person, &writer).unwrap();
    for (sequence, text) in [(5, &b"[]\n"[..]), (5, b"{\"commit\":9,\"program\":\"lifeboat 9.9\"}\n"), (2, b"x")] {
        let text = sign_text("lifeboat format 1 commit", text, &forger.signing);
        forger.put_commit(&scene.host.store(), sequence, &text);
    }
    new.backup(scene.source.path()).unwrap();
    assert_eq!(problems(&new, Some(&scene.person)), []);
    assert_eq!(problems(&scene.reader(), Some(&scene.person)), []);
    let (mut repository, _) = new.open(Some(&scene.person)).unwrap();
    assert_eq!(repository.lost_commits(&Silent).unwrap(), []);
    prune_on(&new).unwrap();
}

#[test]
fn nobody_else_ends_a_log() {
    let mut scene = Nights::new();
    let ids = scene.nights(2);
    let writer = writer_of(&scene.host);
    let (mut repository, _) = scene.host.open(None).unwrap();
    let error = repository.revoke_writer(&writer, None, clock()()).unwrap_err();
    assert!(matches!(error, repository::Error::NeedsIdentity(_)), "{error}");
    drop(repository);
    // One of another repository, put here; and one that somebody wrote without the key.
    let other = Nights::new();
    revoke(&other.host, &other.person, &writer_of(&other.host), None);
    let foreign = other.store.remove(&other.store.keys("/ruling-")[0]);
    let text = format!(
        "{{\"signature\":\"{}\"}}\n{{\"repository\":\"x\",\"writer\":\"{writer}\",\"eras\":[]}}\n",
        "00".repeat(64)
    );
    for body in [foreign, Bytes::from(text), Bytes::from_static(b"junk")] {
        let key = format!("writers/{writer}/log/ruling-{}.json", blake3::hash(&body).to_hex());
        scene.store.put_there(&key, body);
        let found = problems(&scene.host, None);
        assert!(matches!(&found[..], [Problem::BadKeys { key: bad, .. }] if *bad == key), "{found:?}");
        scene.night();
        scene.store.remove(&key);
    }
    assert_eq!(problems(&scene.host, None), []);
    assert_eq!(scene.host.snapshots().len(), ids.len() + 3);
}

#[test]
fn segments_of_a_log_that_has_ended_count_where_its_commits_name_them() {
    let mut scene = Nights::new();
    scene.nights(1);
    let place = |name: &str| SegmentPlace::new("db-1-15", "00000001", name).unwrap();
    let names = ["000000010000000000000001", "000000010000000000000002"];
    let (mut repository, _) = scene.host.open(None).unwrap();
    let writer = repository.host().unwrap().name.clone();
    let segments = repository.segment_writer().unwrap();
    let put = |name: &str| segments.put(place(name), b"bytes", Value::Null, clock()()).unwrap();
    let record = put(names[0]);
    repository.note_segments(&[record]).unwrap();
    repository.commit_segments(clock()(), &Silent).unwrap();
    put(names[1]);
    let there = |host: &Host| -> Vec<String> {
        let (repository, _) = host.open(Some(&scene.person)).unwrap();
        let listed = repository.list_stream(&writer, "db-1-15").unwrap();
        assert_eq!(listed.missing, []);
        let found = repository.segment_reader(&writer).unwrap().list_from(&place(names[0])).unwrap();
        assert_eq!(found.len(), listed.there.len());
        listed.there.into_iter().map(|record| record.place.name().to_owned()).collect()
    };
    let reader = scene.reader();
    assert_eq!(there(&reader), names);
    revoke(&reader, &scene.person, &writer, None);
    assert_eq!(there(&reader), names[..1]);
    assert_eq!(there(&scene.reader()), names[..1]);
    drop(repository);
    let (repository, _) = scene.host.open(None).unwrap();
    assert!(matches!(repository.segment_writer(), Err(repository::Error::Overruled { .. })));
}

#[test]
fn a_log_goes_on_with_another_host() {
    let mut scene = Nights::new();
    let mut ids = scene.nights(3);
    let writer = writer_of(&scene.host);
    let (old, new) = (scene.host.second(), Host::new(Arc::new(scene.store.clone())));
    let adopted = adopt(&new, &scene.person, &writer).unwrap();
    assert!(adopted.ends.len() == 1 && adopted.handed_over > 3, "{adopted:?}");
    assert_eq!(writer_of(&new), writer);
    // The old one is not gone after all.
    assert!(refused(&old, scene.source.path()).contains("given to host `new`"));
    scene.host = new.second();
    // From here on without an identity: what is there is not stored again.
    ids.push(scene.night());
    let (repository, found) = new.open(None).unwrap();
    assert_eq!(found, []);
    let stored = repository.catalog().snapshots().unwrap().last().unwrap().record.added;
    assert!(stored < TONIGHT as u64 + 400_000, "{stored}");
    drop(repository);
    scene.sound(&new, &ids);
    // The log, and the packs, are read without an identity from nothing, and frames are moved out of packs of the old host's.
    let (mut repository, _) = new.open(None).unwrap();
    assert_eq!(repository.rebuild_catalog(&Silent).unwrap().problems, []);
    assert!(!repository.catalog_differs(&Silent).unwrap());
    drop(repository);
    forget_on(&new, &ids[..2]);
    let report = prune_with(&new, &options(0.0, DAY)).unwrap();
    assert!(report.emptied > 0 && report.frames_copied > 0 && report.damaged.is_empty(), "{report:?}");
    for _ in 0..2 {
        scene.store.advance(25);
        prune_on(&new).unwrap();
    }
    assert!(!scene.store.take_deleted().is_empty());
    scene.sound(&new, &ids[2..]);
    assert_eq!(scene.reader().snapshots_with(&scene.person), ids[2..]);
    for id in &ids[2..] {
        recover(&scene, id).unwrap();
    }
    // And again to a third one.
    let third = Host::new(Arc::new(scene.store.clone()));
    adopt(&third, &scene.person, &writer).unwrap();
    refused(&new, scene.source.path());
    scene.host = third.second();
    ids.push(scene.night());
    scene.sound(&third, &ids[2..]);
    recover(&scene, &ids[4]).unwrap();
    // A host that writes already is not made another one.
    let error = adopt(&third, &scene.person, &format!("{writer}x")).unwrap_err();
    assert!(matches!(error, repository::Error::AlreadyWriter { .. }), "{error}");
    revoke(&third, &scene.person, &writer, None);
    refused(&third, scene.source.path());
    scene.restores(&third, &ids[2..]);
}

#[test]
fn adopting_may_stop_at_every_operation_and_goes_on() {
    let mut scene = Nights::new();
    let ids = scene.nights(2);
    let writer = writer_of(&scene.host);
    for fails in [Fails::Before, Fails::After] {
        let mut stopped = 0;
        for n in 1.. {
            let store = scene.store.fork();
            let new = Host::new(Arc::new(store.clone()));
            let faulty: Arc<dyn ObjectStore> = Faulty::new(Arc::new(store.clone()), n, fails);
            let first = adopt(&Host { objects: faulty, ..new.second() }, &scene.person, &writer);
            stopped += u32::from(first.is_err());
            adopt(&new, &scene.person, &writer).unwrap();
            scene.sound(&new, &ids);
            assert_eq!(problems(&new, None), []);
            new.backup(scene.source.path()).unwrap();
            if first.is_ok() {
                break;
            }
        }
        assert!(stopped > 8, "{stopped}");
    }
}

#[test]
fn from_the_command_line() {
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| -> PathBuf { place.path().join(name) };
    let run = |code: i32, state: &str, args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
        command.env_clear().env("HOME", place.path()).env("TZ", "UTC");
        let output = command.current_dir(place.path()).args(["--repo", "repo", "--state-dir", state]).args(args);
        let output = output.output().unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{args:?}\n{said}");
        said
    };
    tree::make(&path("data"), 5);
    run(0, "one", &["init", "--generate-identity", "id", "--host", "old"]);
    let back_up = |code: i32, state: &str| run(code, state, &["backup", "--path", "data", "--name", "data"]);
    back_up(0, "one");
    copy_tree(&path("one"), &path("leaked"));
    let listed: Value = serde_json::from_str(&run(0, "one", &["--json", "key", "list"])).unwrap();
    let writer = listed["writers"][0]["writer"].as_str().unwrap().to_owned();
    let by = ["--identity", "id", "key"];
    let key = |code: i32, state: &str, args: &[&str]| run(code, state, &[&by[..], args].concat());

    assert!(run(12, "one", &["key", "revoke", &writer]).contains("--identity FILE"));
    assert!(key(2, "one", &["revoke", "nobody"]).contains("`lifeboat key list` shows them"));
    assert!(key(2, "one", &["adopt", &writer]).contains("writes as"));
    let said = key(0, "two", &["adopt", &writer, "--host", "new"]);
    assert!(said.contains(&format!("adopted   {writer} of host old")) && said.contains("backup --all"), "{said}");
    let said = back_up(12, "one");
    assert!(said.contains("given to host `new`") && said.contains("join as a new writer"), "{said}");
    back_up(0, "two");
    let said = key(0, "two", &["list"]);
    assert!(said.contains("of host old, since") && said.contains("of host new since"), "{said}");
    // All of one day: from a time on that lies before everything.
    let said = key(0, "two", &["revoke", &writer, "--since", "2020-01-01T00:00:00Z", "--dry-run"]);
    assert_eq!(said.matches("WOULD GO").count(), 2, "{said}");
    assert_eq!(run(0, "two", &["--identity", "id", "snapshots"]).matches("data").count(), 2);
    let said = key(0, "three", &["revoke", &writer]);
    assert!(said.contains("revoked") && said.contains("0 snapshots no longer count"), "{said}");
    assert!(back_up(12, "two").contains("was revoked on"));
    back_up(12, "leaked");
    assert!(key(0, "three", &["list"]).contains("revoked 20"));
    run(0, "three", &["--identity", "id", "restore", "data", "--into", "back"]);
    assert_eq!(tree::describe(&path("back")), tree::describe(&path("data")));
    run(0, "three", &["--identity", "id", "check", "--read-data"]);
}
