//! Who can read changes: those who are added read what comes, and what was, once it is sealed anew; nobody is followed unasked; nothing
//! is lost on the way.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use lifeboat::model::Digest;
use lifeboat::ops::rewrap::{RewrapReport, look, rewrap};
use lifeboat::ops::{self, Kind};
use lifeboat::plan::restore::Wanted;
use lifeboat::progress::Silent;
use lifeboat::repository::{self, RecipientsError};
use object_store::ObjectStore;
use serde_json::Value;

use crate::common::faulty::{Fails, Faulty};
use crate::common::forge::sealed_to;
use crate::common::pruned::{DAY, Nights, TONIGHT, prune_on};
use crate::common::{Host, Person, clock, tree};

fn change(host: &Host, by: &Person, add: &[&Person], remove: &[&Person]) -> Result<Digest, repository::Error> {
    let (mut repository, _) = host.open(Some(by)).unwrap();
    let add: Vec<_> = add.iter().map(|person| person.recipient.parse().unwrap()).collect();
    let remove: Vec<_> = remove.iter().map(|person| person.recipient.clone()).collect();
    repository.change_recipients(&add, &remove, clock()()).map(|(digest, _)| digest)
}

fn rewrap_on(host: &Host, by: &Person) -> Result<RewrapReport, ops::Error> {
    let (mut repository, _) = host.open(Some(by))?;
    rewrap(&mut repository, DAY, None, &*clock(), &Silent)
}

fn reads(scene: &Nights, person: &Person, id: &str) -> bool {
    let (back, bare) = (tempfile::tempdir().unwrap(), scene.reader());
    let done = bare.restore(person, &Wanted::Named(id.to_owned()), back.path());
    if done.is_ok() {
        assert_eq!(tree::describe(back.path()), scene.trees[id]);
    }
    done.is_ok()
}

#[test]
fn who_is_added_reads_what_comes_and_what_was_once_it_is_sealed_anew() {
    let mut scene = Nights::new();
    let ids = scene.nights(2);
    let late = Person::new();
    change(&scene.host, &scene.person, &[&late], &[]).unwrap();
    // What was stored before is not referred to: it would be missing for those who came later.
    let next = scene.night();
    assert!(reads(&scene, &late, &next) && reads(&scene, &scene.person, &next));
    assert!(!reads(&scene, &late, &ids[0]) && reads(&scene, &scene.person, &ids[0]));

    let (mut repository, _) = scene.host.open(None).unwrap();
    let before = look(&mut repository).unwrap();
    assert!(before.packs.len() >= 2 && before.all > before.packs.len() as u64, "{before:?}");
    let error = rewrap(&mut repository, DAY, None, &*clock(), &Silent).unwrap_err();
    assert_eq!(error.kind(), Kind::Key, "{error}");
    drop(repository);
    let done = rewrap_on(&scene.host, &scene.person).unwrap();
    assert_eq!((done.packs, done.left, done.damaged.len()), (before.packs.len() as u64, 0, 0), "{done:?}");
    let all = [ids.clone(), vec![next.clone()]].concat();
    for id in &all {
        assert!(reads(&scene, &late, id), "{id}");
    }
    scene.holds(&scene.host, &all);
    assert_eq!(rewrap_on(&scene.host, &scene.person).unwrap(), RewrapReport::default());
    // The old bytes go after the grace, and what is new is deduplicated against what was sealed anew.
    for _ in 0..2 {
        scene.store.advance(25);
        prune_on(&scene.host).unwrap();
    }
    assert!(scene.store.take_deleted().len() as u64 >= done.packs);
    scene.holds(&scene.host, &all);
    let more = scene.night();
    let stored = last_stored(&scene);
    assert!(stored < TONIGHT as u64 + 100_000, "{stored}");
    assert!(reads(&scene, &late, &more));
}

fn last_stored(scene: &Nights) -> u64 {
    let (repository, _) = scene.host.open(None).unwrap();
    repository.catalog().snapshots().unwrap().last().unwrap().record.added
}

#[test]
fn who_is_removed_reads_nothing_new_and_in_the_end_nothing_that_is_there() {
    let mut scene = Nights::new();
    let late = Person::new();
    change(&scene.host, &scene.person, &[&late], &[]).unwrap();
    let ids = scene.nights(2);
    assert!(sealed_to(&scene.host.store(), "writers", &late.identity) > 0);
    // By the one who goes: they would lock everybody out who is at hand.
    let error = change(&scene.host, &late, &[], &[&late]).unwrap_err();
    assert!(matches!(error, repository::Error::Recipients(RecipientsError::LockedOut)), "{error}");
    change(&scene.host, &scene.person, &[], &[&late]).unwrap();
    let next = scene.night();
    assert!(!reads(&scene, &late, &next) && reads(&scene, &scene.person, &next));
    assert!(reads(&scene, &late, &ids[0]), "what they could read they can, as long as it is there");
    rewrap_on(&scene.host, &scene.person).unwrap();
    for _ in 0..2 {
        scene.store.advance(25);
        prune_on(&scene.host).unwrap();
    }
    let all = [ids.clone(), vec![next]].concat();
    for id in &all {
        assert!(!reads(&scene, &late, id) && reads(&scene, &scene.person, id), "{id}");
    }
    scene.holds(&scene.host, &all);
}

#[test]
fn no_host_follows_a_list_that_it_was_not_told() {
    let mut scene = Nights::new();
    scene.nights(1);
    let (late, other) = (Person::new(), Host::new(Arc::clone(&scene.host.objects)));
    other.join(&scene.person).unwrap();
    let list = change(&scene.host, &scene.person, &[&late], &[]).unwrap();
    other.backup_as(scene.source.path(), "other", &Default::default()).unwrap();
    let seals = |host: &Host| host.open(None).unwrap().0.host().unwrap().recipients.clone();
    assert_eq!(seals(&other), [scene.person.recipient.clone()]);
    assert_eq!(seals(&scene.host), [scene.person.recipient.clone(), late.recipient.clone()]);
    // Another digest than the store's newest is refused, and so is one that was replaced since.
    let follow = |digest: Digest| other.open(None).unwrap().0.follow_recipients(digest);
    let error = follow(Digest::new([7; 32])).unwrap_err();
    assert!(matches!(error, repository::Error::Recipients(RecipientsError::NotNewest { .. })), "{error}");
    let newer = change(&scene.host, &scene.person, &[], &[&late]).unwrap();
    assert!(follow(list).is_err());
    follow(newer).unwrap();
    let list = change(&scene.host, &scene.person, &[&late], &[]).unwrap();
    follow(list).unwrap();
    assert_eq!(seals(&other), seals(&scene.host));
    let report = other.backup_as(scene.source.path(), "other", &Default::default()).unwrap();
    assert!(report.counts.bytes_new > 2_000_000, "{:?}", report.counts);
    // Who joins now gets the list as it is.
    let third = Host::new(Arc::clone(&scene.host.objects));
    third.join(&late).unwrap();
    assert_eq!(seals(&third), seals(&scene.host));
}

#[test]
fn mistakes_change_nothing() {
    let mut scene = Nights::new();
    scene.nights(1);
    let stranger = Person::new();
    let objects = scene.store.keys("keys/");
    let said = |add: &[&Person], remove: &[&Person]| {
        let error = change(&scene.host, &scene.person, add, remove).unwrap_err();
        assert_eq!(scene.store.keys("keys/"), objects);
        error.to_string()
    };
    assert!(said(&[&scene.person], &[]).contains("on the list already"));
    assert!(said(&[], &[&stranger]).contains("not on the list"));
    assert!(said(&[], &[&scene.person]).contains("nobody would be left"));
    let (mut repository, _) = scene.host.open(None).unwrap();
    let error = repository.change_recipients(&[stranger.recipient.parse().unwrap()], &[], clock()()).unwrap_err();
    assert!(matches!(error, repository::Error::NeedsIdentity(_)), "{error}");
}

#[test]
fn sealing_anew_may_stop_anywhere_and_goes_on() {
    let mut scene = Nights::new();
    let ids = scene.nights(2);
    let late = Person::new();
    change(&scene.host, &scene.person, &[&late], &[]).unwrap();
    for fails in [Fails::Before, Fails::After] {
        let mut stopped = 0;
        for n in 1.. {
            let (store, host) = scene.fork();
            let faulty: Arc<dyn ObjectStore> = Faulty::new(Arc::new(store.clone()), n, fails);
            let done = rewrap_on(&Host { objects: faulty, ..host.second() }, &scene.person);
            let whole = done.is_ok();
            stopped += u32::from(!whole);
            scene.restores(&host, &ids);
            let again = rewrap_on(&host, &scene.person).unwrap();
            assert_eq!(again.left, 0, "{again:?}");
            let bare = Host::new(Arc::new(store.clone()));
            for id in &ids {
                let back = tempfile::tempdir().unwrap();
                bare.restore(&late, &Wanted::Named(id.clone()), back.path()).unwrap();
                assert_eq!(tree::describe(back.path()), scene.trees[id]);
            }
            scene.sound(&host, &ids);
            if whole {
                break;
            }
        }
        assert!(stopped > 5, "{stopped}");
    }
}

#[test]
fn a_damaged_frame_is_named_and_not_sealed_anew() {
    let mut scene = Nights::new();
    let ids = scene.nights(2);
    let late = Person::new();
    let largest = scene.store.keys("/packs/").into_iter().next().unwrap();
    let mut body = scene.store.remove(&largest).to_vec();
    let middle = body.len() / 4;
    body[middle] ^= 1;
    scene.store.put_there(&largest, body.into());
    change(&scene.host, &scene.person, &[&late], &[]).unwrap();
    let done = rewrap_on(&scene.host, &scene.person).unwrap();
    assert_eq!((done.damaged.len(), done.left), (1, 1), "{done:?}");
    assert!(largest.ends_with(&done.damaged[0].0) && done.packs > 0, "{done:?}");
    let good: Vec<bool> = ids.iter().map(|id| reads(&scene, &late, id)).collect();
    assert!(good.contains(&true) || !reads(&scene, &scene.person, &ids[1]), "{good:?}");
}

#[test]
fn from_the_command_line_with_a_copy_and_a_page_for_the_safe() {
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| -> PathBuf { place.path().join(name) };
    let run = |code: i32, args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
        command.env_clear().env("HOME", place.path()).env("TZ", "UTC").env("XDG_STATE_HOME", path("state"));
        let output = command.current_dir(place.path()).args(["--repo", "repo"]).args(args).output().unwrap();
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{args:?}\n{said}");
        said
    };
    tree::make(&path("data"), 5);
    run(0, &["init", "--generate-identity", "id"]);
    let text = "# a configuration\n[sources.data]\nkind = \"volume\"\npath = \"data\"\n";
    fs::write(path("lifeboat.toml"), text).unwrap();
    let back_up = || run(0, &["backup", "--all"]);
    back_up();
    run(0, &["copy", "--to", "second", "--create"]);
    let late = run(0, &["key", "generate", "--output", "late"]).lines().next().unwrap().to_owned();
    run(12, &["key", "add", &late]);
    let added = run(0, &["--identity", "id", "key", "add", &late]);
    assert!(added.contains("key pin") && added.contains("key rewrap"), "{added}");
    let listed: Value = serde_json::from_str(&run(0, &["--json", "key", "list"])).unwrap();
    assert_eq!(listed["recipients"].as_array().unwrap().len(), 2);
    assert!(listed["earlier_packs"].as_u64() > Some(0), "{listed}");
    // The copy has its own list.
    assert!(run(2, &["copy", "--to", "second"]).contains("Make the lists the same"));
    let there = |args: &[&str]| {
        fs::rename(path("repo"), path("first")).unwrap();
        fs::rename(path("second"), path("repo")).unwrap();
        let said = run(0, args);
        fs::rename(path("repo"), path("second")).unwrap();
        fs::rename(path("first"), path("repo")).unwrap();
        said
    };
    there(&["--identity", "id", "key", "add", &late]);
    assert!(run(0, &["--identity", "id", "key", "rewrap"]).contains("sealed anew"));
    there(&["--identity", "id", "key", "rewrap"]);
    back_up();
    run(0, &["copy", "--to", "second"]);
    there(&["--identity", "late", "restore", "data", "--into", "back"]);
    assert_eq!(tree::describe(&path("back")), tree::describe(&path("data")));
    there(&["--identity", "late", "check", "--read-data"]);
    run(0, &["--identity", "late", "check", "--read-data"]);
    // On a bare machine, with nothing but the later identity.
    let bare = ["--identity", "late", "--state-dir", "bare"];
    run(0, &[&bare[..], &["bootstrap", "--into", "found.toml"]].concat());
    assert_eq!(fs::read_to_string(path("found.toml")).unwrap(), text);
    run(0, &[&bare[..], &["check", "--read-data"]].concat());

    run(0, &["--identity", "late", "key", "export", "--paper", "late.html"]);
    let page = fs::read_to_string(path("late.html")).unwrap();
    let secret = fs::read_to_string(path("late")).unwrap();
    let secret = secret.lines().find(|line| line.starts_with("AGE-SECRET-KEY-1")).unwrap();
    assert!(page.contains(secret) && page.contains("<svg") && page.contains(listed["fingerprint"].as_str().unwrap()));
    assert!(!page.contains("src=") && !page.contains("href="), "it loads nothing");
    assert_eq!(fs::metadata(path("late.html")).unwrap().permissions().mode() & 0o777, 0o600);
    run(2, &["--identity", "late", "key", "export", "--paper", "late.html"]);
    run(2, &["key", "export", "--paper", "other.html"]);
}
