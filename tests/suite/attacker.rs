//! Somebody owns the store: they read, write, withhold and delete, and know every public key. Whatever they put there is
//! refused or told by name; nothing of theirs is restored, nothing is sealed to their key, and the next backup goes on.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use lifeboat::model::PackKind;
use lifeboat::ops;
use lifeboat::ops::check::{CheckReport, ReadData, check};
use lifeboat::plan::restore::Wanted;
use lifeboat::progress::Silent;
use lifeboat::repository::{self, Problem};
use lifeboat::seal::{Sealer, SigningKey, sign_text};
use object_store::local::LocalFileSystem;
use tempfile::TempDir;

use crate::common::forge::{ForgedFrame, Forger, put_as_commit, sealed_to};
use crate::common::history::{assert_clear, chain};
use crate::common::{Host, Person, clock, copy_tree, tree};

struct Scene {
    source: TempDir,
    store: TempDir,
    host: Host,
    person: Person,
    evil: Person,
}

fn scene() -> Scene {
    let (source, store) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    tree::make(source.path(), 5);
    tree::age(source.path());
    let host = Host::new(Arc::new(LocalFileSystem::new_with_prefix(store.path()).unwrap()));
    let (person, evil) = (Person::new(), Person::new());
    host.init(&person);
    host.backup(source.path()).unwrap();
    Scene { source, store, host, person, evil }
}

impl Scene {
    fn writer(&self) -> String {
        self.host.open(None).unwrap().0.host().unwrap().name.clone()
    }

    fn bare(&self) -> Host {
        Host::new(Arc::clone(&self.host.objects))
    }

    fn objects(&self, marker: &str) -> Vec<PathBuf> {
        let (mut found, mut open) = (Vec::new(), vec![self.store.path().to_owned()]);
        while let Some(path) = open.pop() {
            if path.is_dir() {
                open.extend(fs::read_dir(path).unwrap().map(|e| e.unwrap().path()));
            } else if path.to_string_lossy().contains(marker) {
                found.push(path);
            }
        }
        found.sort();
        found
    }

    fn check(&self) -> CheckReport {
        let (mut repository, problems) = self.host.open(Some(&self.person)).unwrap();
        check(&mut repository, ReadData::All, &problems, clock()(), 1, &Silent).unwrap()
    }

    /// The key is told by name on this host and on a machine that has seen nothing; both restore what this host stored,
    /// and this host goes on.
    fn is_told_and_changes_nothing(&self, key: &str) {
        for host in [&self.host, &self.bare()] {
            let (repository, problems) = host.open(Some(&self.person)).unwrap();
            let told = problems.iter().any(|p| p.to_string().contains(key));
            assert!(told, "`{key}` is not named: {problems:?}");
            assert!(repository.catalog().snapshots().unwrap().iter().all(|s| s.record.host == "test-host"));
            drop(repository);
            self.restores(host);
        }
        assert!(self.check().problems.iter().any(|problem| problem.contains(key)));
        fs::write(self.source.path().join("later"), key).unwrap();
        let report = self.host.backup(self.source.path()).unwrap();
        assert!(report.record.complete);
        self.restores(&self.host);
        self.restores(&self.bare());
    }

    fn restores(&self, host: &Host) {
        let back = tempfile::tempdir().unwrap();
        host.restore(&self.person, &Wanted::Latest, back.path()).unwrap();
        assert_eq!(tree::describe(back.path()), tree::describe(self.source.path()));
    }
}

/// A manifest of one file whose bytes are one frame's.
fn manifest_of(forger: &Forger, path: &str, bytes: &[u8]) -> String {
    let digest = forger.content.digest(bytes);
    format!(
        "{{\"manifest\":1}}\n{{\"path\":\"\",\"type\":\"dir\",\"mode\":493}}\n{{\"path\":\"{path}\",\"type\":\"file\",\
         \"mode\":420,\"size\":{0},\"digest\":\"{digest}\",\"extents\":[[\"{digest}\",0,{0}]]}}\n",
        bytes.len()
    )
}

#[test]
fn a_poisoned_snapshot_sealed_to_our_public_keys_is_refused_and_named() {
    let scene = scene();
    let forger = Forger::of_store(&scene.host, &[&scene.person]);
    let poison = b"poison";
    let manifest = manifest_of(&forger, "etc", poison);
    let (_, key) = forger.put_snapshot(&scene.host, &manifest, &[ForgedFrame::honest(poison)]);
    scene.is_told_and_changes_nothing(&key);
}

#[test]
fn a_forged_commit_is_refused_whatever_it_says() {
    let scene = scene();
    let forger = Forger::of_store(&scene.host, &[&scene.person]);
    let store = scene.host.store();
    let mut keys = Vec::new();
    for text in [&b"no commit"[..], b"", b"{\"signature\":\"00\"}\n{\"commit\":1}\n"] {
        keys.push(forger.put_commit(&store, 2, text));
    }
    // A bomb: hundreds of megabytes from a few kilobytes.
    keys.push(forger.put_commit(&store, 2, &vec![b'\n'; 300 << 20]));
    keys.push(put_as_commit(&store, &forger.writer, 3, b"age-encryption.org/v1\n".to_vec()));
    let (_, problems) = scene.host.open(Some(&scene.person)).unwrap();
    assert_eq!(problems.len(), keys.len(), "{problems:?}");
    for key in &keys {
        assert!(problems.iter().any(|p| matches!(p, Problem::BadCommit { key: found, .. } if found == key)));
    }
    scene.is_told_and_changes_nothing(&keys[0]);
}

#[test]
fn packs_that_the_writer_did_not_sign_are_never_adopted() {
    let scene = scene();
    let store = scene.host.store();
    let forger = Forger::of_store(&scene.host, &[&scene.person]);
    let thief = Forger { signing: SigningKey::from_seed(&[67; 32]), ..Forger::thief_of(&scene.host, &[&scene.person]) };
    // What the source will have tomorrow, stored wrong: known content, its right name, another signature.
    let tomorrow = tree::lines(40, 4);
    let mut frame = ForgedFrame::honest(&tomorrow);
    frame.plain[7] ^= 1;
    let forged = [forger.pack(PackKind::Data, &[frame]), thief.pack(PackKind::Data, &[ForgedFrame::honest(&tomorrow)])];
    for built in &forged {
        forger.put_pack(&store, built);
    }
    fs::write(scene.source.path().join("tomorrow"), &tomorrow).unwrap();
    let (mut repository, _) = scene.host.open(None).unwrap();
    repository.catalog_mut().set_fact(&format!("packs of {} listed", forger.writer), "0").unwrap();
    drop(repository);
    let report = scene.host.backup(scene.source.path()).unwrap();
    assert!(report.counts.data_new >= tomorrow.len() as u64, "{report:?}");
    let (mut repository, _) = scene.host.open(None).unwrap();
    let row = repository.host_row().unwrap();
    for built in &forged {
        assert_eq!(repository.catalog().find_pack(row, &built.id).unwrap(), None, "a forged pack was adopted");
    }
    drop(repository);
    assert_eq!(scene.check().unnamed, 2, "they are counted as what no commit names");
    scene.restores(&scene.host);
    scene.restores(&scene.bare());
}

#[test]
fn an_old_commit_replayed_at_a_new_place_is_named() {
    let scene = scene();
    let old = fs::read(&scene.objects("/log/")[0]).unwrap();
    let key = put_as_commit(&scene.host.store(), &scene.writer(), 2, old);
    let (_, problems) = scene.bare().open(Some(&scene.person)).unwrap();
    assert!(problems[0].to_string().contains("it is commit 1 of"), "{problems:?}");
    scene.is_told_and_changes_nothing(&key);
}

#[test]
fn an_old_store_put_in_place_of_the_new_one_is_noticed_by_who_saw_the_new_one() {
    let scene = scene();
    let old = tempfile::tempdir().unwrap();
    copy_tree(scene.store.path(), old.path());
    fs::write(scene.source.path().join("more"), "more").unwrap();
    scene.host.backup(scene.source.path()).unwrap();
    let withheld = scene.objects("/log/")[1].file_name().unwrap().to_string_lossy()[13..23].to_owned();
    let objects = Arc::new(LocalFileSystem::new_with_prefix(old.path()).unwrap());
    let deceived = scene.host.clone_state(objects);
    for _ in 0..2 {
        let (mut repository, problems) = deceived.open(Some(&scene.person)).unwrap();
        assert!(matches!(problems[..], [Problem::MissingCommit { sequence: 2, .. }]), "{problems:?}");
        assert!(problems[0].to_string().contains(&withheld), "{problems:?}");
        let report = check(&mut repository, ReadData::No, &problems, clock()(), 1, &Silent).unwrap();
        assert!(!report.damage.is_empty(), "packs of the withheld commit are missing: {report:?}");
    }
    // What was withheld is stored again by the next backup, which says that it was.
    let report = deceived.backup(scene.source.path()).unwrap();
    assert!(matches!(report.problems[0], Problem::MissingCommit { sequence: 2, .. }), "{:?}", report.problems);
    scene.restores(&deceived);
}

#[test]
fn a_changed_list_of_recipients_is_never_followed_and_is_told() {
    for replaced in [false, true] {
        let scene = scene();
        let (repository, _) = scene.host.open(None).unwrap();
        let id = repository.description().repository;
        drop(repository);
        let list = format!(
            "{{\"repository\":\"{id}\",\"created\":\"2040-01-01T00:00:00Z\",\"previous\":null,\"recipients\":[\"{}\"],\
             \"keepers\":[\"{}\"]}}\n",
            scene.evil.recipient, scene.evil.recipient
        );
        let text = sign_text("lifeboat format 1 recipients", list.as_bytes(), &SigningKey::from_seed(&[66; 32]));
        let name = format!("recipients-{}.json", blake3::hash(&text).to_hex());
        if replaced {
            fs::remove_file(&scene.objects("keys/recipients-")[0]).unwrap();
        }
        fs::write(scene.store.path().join("keys").join(&name), &text).unwrap();
        let report = scene.check();
        assert!(report.problems.iter().any(|p| p.contains(&name)), "replaced: {replaced}: {report:?}");
        fs::write(scene.source.path().join("secret"), "secret").unwrap();
        scene.host.backup(scene.source.path()).unwrap();
        let sealed = |person: &Person| sealed_to(&scene.host.store(), "writers", &person.identity);
        assert!(sealed(&scene.person) >= 5 && sealed(&scene.evil) == 0, "something is sealed to them");
        // A host that joins takes the list that the admission key signed, or none.
        let further = scene.bare();
        match further.join(&scene.person) {
            Ok(_) if !replaced => {
                further.backup_as(scene.source.path(), "further", &Default::default()).unwrap();
                assert!(sealed(&scene.person) >= 8 && sealed(&scene.evil) == 0, "the further host sealed to them");
            }
            outcome => {
                let error = outcome.unwrap_err().to_string();
                assert!(replaced && error.contains(&name), "{error}");
            }
        }
        scene.restores(&scene.host);
    }
}

#[test]
fn a_replaced_repository_secret_is_refused() {
    let scene = scene();
    let (repository, _) = scene.host.open(None).unwrap();
    let (id, writer) = (repository.description().repository, scene.writer());
    drop(repository);
    let seed = "42".repeat(32);
    let master = format!("{{\"repository\":\"{id}\",\"secret\":\"{seed}\",\"admission_secret\":\"{seed}\"}}\n");
    let sealed = Sealer::new(vec![scene.person.recipient.parse().unwrap()]).seal(master.as_bytes()).unwrap();
    let name = format!("keys/secret-{}.age", blake3::hash(&sealed).to_hex());
    fs::write(scene.store.path().join(&name), &sealed).unwrap();
    // Beside the right one it changes nothing, whichever comes first.
    scene.restores(&scene.bare());
    scene.bare().join(&scene.person).unwrap();
    fs::remove_file(scene.objects("keys/secret-").into_iter().find(|p| !p.ends_with(&name)).unwrap()).unwrap();
    let error = scene.bare().open(Some(&scene.person)).err().unwrap();
    assert!(matches!(&error, repository::Error::BadObject { key, why } if *key == name && why.contains("replaced")));
    assert!(scene.bare().join(&scene.person).is_err());
    // The host's own: it has the name of the right object in its key file, so that a new one is not even looked at.
    let path = scene.objects(&format!("{writer}/secret-"))[0].clone();
    let right = fs::read(&path).unwrap();
    fs::write(&path, &sealed).unwrap();
    let error = scene.host.open(None).err().unwrap().to_string();
    assert!(error.contains(path.file_name().unwrap().to_str().unwrap()), "{error}");
    fs::write(&path, right).unwrap();
    scene.restores(&scene.host);
}

#[test]
fn objects_of_two_writers_put_in_each_others_place_are_named() {
    let scene = scene();
    let other = scene.bare();
    other.join(&scene.person).unwrap();
    let their_source = tempfile::tempdir().unwrap();
    tree::make(their_source.path(), 77);
    other.backup_as(their_source.path(), "theirs", &Default::default()).unwrap();
    let (ours, theirs) = (scene.writer(), other.open(None).unwrap().0.host().unwrap().name.clone());
    // Their commit at the next place of our log, and their packs among ours.
    let commit = fs::read(&scene.objects(&format!("{theirs}/log/"))[0]).unwrap();
    let key = put_as_commit(&scene.host.store(), &ours, 2, commit);
    let mut moved = 0;
    for pack in scene.objects(&format!("{theirs}/packs/")) {
        let to = PathBuf::from(pack.to_string_lossy().replace(&theirs, &ours));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(&pack, to).unwrap();
        moved += 1;
    }
    let (mut repository, _) = scene.host.open(None).unwrap();
    repository.catalog_mut().set_fact(&format!("packs of {ours} listed"), "0").unwrap();
    drop(repository);
    scene.is_told_and_changes_nothing(&key);
    assert_eq!(scene.check().unnamed, moved, "none of their packs became ours");
    let (_, problems) = other.open(Some(&scene.person)).unwrap();
    assert!(problems.iter().all(|p| p.to_string().contains(&key)), "{problems:?}");
}

#[test]
fn a_writer_that_nobody_admitted_stores_nothing_that_counts() {
    let scene = scene();
    let mut forger = Forger::of_store(&scene.host, &[&scene.person]);
    let manifest = manifest_of(&forger, "etc", b"poison");
    let (ours, evil) = (forger.writer.clone(), "evil-000000".to_owned());
    let description = fs::read_to_string(scene.objects(&format!("{ours}/writer.json")).remove(0)).unwrap();
    // The description of another writer under their name, then one that they signed themselves.
    let (_, content) = description.split_once('\n').unwrap();
    let own = sign_text(
        "lifeboat format 1 writer",
        content.replace(&ours, &evil).as_bytes(),
        &SigningKey::from_seed(&[66; 32]),
    );
    let (_, key) = forger.put_snapshot(&scene.host, &manifest, &[ForgedFrame::honest(b"poison")]);
    fs::create_dir_all(scene.store.path().join(format!("writers/{evil}"))).unwrap();
    fs::rename(scene.objects(&key)[0].parent().unwrap(), scene.store.path().join(format!("writers/{evil}/log")))
        .unwrap();
    fs::create_dir(scene.store.path().join(format!("writers/{ours}/log"))).unwrap();
    for path in scene.objects(&format!("{evil}/log/000000000001-")) {
        fs::copy(&path, path.to_string_lossy().replace(&evil, &ours)).unwrap();
        fs::remove_file(path).unwrap();
    }
    forger.writer = evil.clone();
    for text in [description.into_bytes(), own] {
        fs::write(scene.store.path().join(format!("writers/{evil}/writer.json")), text).unwrap();
        let (_, problems) = scene.bare().open(Some(&scene.person)).unwrap();
        assert!(matches!(&problems[..], [Problem::BadWriter { writer, .. }] if *writer == evil), "{problems:?}");
        scene.is_told_and_changes_nothing(&evil);
    }
}

#[test]
fn a_commit_of_another_repository_is_named() {
    let scene = scene();
    let store = tempfile::tempdir().unwrap();
    let host = Host::new(Arc::new(LocalFileSystem::new_with_prefix(store.path()).unwrap()));
    host.init(&scene.person);
    host.backup(scene.source.path()).unwrap();
    let writer = host.open(None).unwrap().0.host().unwrap().name.clone();
    let folder = store.path().join("writers").join(writer).join("log");
    let path = fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    let key = put_as_commit(&scene.host.store(), &scene.writer(), 2, fs::read(path).unwrap());
    scene.is_told_and_changes_nothing(&key);
    // And one that names another repository, signed by the right writer: only a thief of the host can make it.
    let mut thief = Forger::thief_of(&scene.host, &[&scene.person]);
    thief.repository = host.open(None).unwrap().0.description().repository;
    let (_, key) = thief.put_snapshot(&scene.host, "{\"manifest\":1}\n", &[]);
    scene.is_told_and_changes_nothing(&key);
}

/// A thief of the host signs what they like: a restore of it must still stay inside.
#[test]
fn a_manifest_that_points_outside_places_nothing_there() {
    let outside = tempfile::tempdir().unwrap();
    let victim = outside.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    let link =
        |path: &str, target: &str| format!("{{\"path\":\"{path}\",\"type\":\"symlink\",\"target\":\"{target}\"}}");
    let hard =
        |path: &str, target: &str| format!("{{\"path\":\"{path}\",\"type\":\"hardlink\",\"target\":\"{target}\"}}");
    let root = outside.path().display().to_string();
    let dir = "{\"path\":\"d\",\"type\":\"dir\"}".to_owned();
    let fifo = |path: &str| format!("{{\"path\":\"{path}\",\"type\":\"fifo\"}}");
    let hostile: Vec<Vec<String>> = vec![
        vec![fifo("../evil")],
        vec![fifo(&format!("{root}/evil"))],
        vec![dir.clone(), fifo("d/../../evil")],
        vec![link("d", &root), fifo("d/evil")],
        vec![link("d", &root), dir.clone(), fifo("d/evil")],
        vec![dir, link("d/l", &root), fifo("d/l/evil")],
        vec![hard("h", "../victim")],
        vec![hard("h", &victim.display().to_string())],
        vec![fifo("a\\u0000b")],
        vec![fifo(".")],
    ];
    for lines in hostile {
        let scene = scene();
        let thief = Forger::thief_of(&scene.host, &[&scene.person]);
        let manifest = format!("{{\"manifest\":1}}\n{{\"path\":\"\",\"type\":\"dir\"}}\n{}\n", lines.join("\n"));
        let (id, _) = thief.put_snapshot(&scene.host, &manifest, &[]);
        let back = tempfile::tempdir().unwrap();
        let into = back.path().join("into");
        let error = scene.host.restore(&scene.person, &Wanted::Latest, &into).unwrap_err();
        assert_clear(&error);
        let named = matches!(&error, ops::Error::Repository(repository::Error::Manifest { snapshot, .. }) if *snapshot == id.to_string());
        assert!(named, "{lines:?}: {}", chain(&error));
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1, "{lines:?}");
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
        assert!(fs::read_dir(back.path()).unwrap().all(|e| e.unwrap().file_name() == "into"));
        let report = scene.check();
        assert!(report.damage.iter().any(|d| d.object.contains(&id.to_string())), "{lines:?}: {report:?}");
    }
}

#[test]
fn a_frame_that_inflates_for_ever_stops_at_its_length() {
    for (plain, claims) in [(vec![0; 512 << 20], 4096), (vec![0; 64 << 20], 8 << 20)] {
        let scene = scene();
        let thief = Forger::thief_of(&scene.host, &[&scene.person]);
        let digest = thief.content.digest(&plain);
        let size = claims.min(4096);
        let manifest = format!(
            "{{\"manifest\":1}}\n{{\"path\":\"\",\"type\":\"dir\"}}\n{{\"path\":\"f\",\"type\":\"file\",\"size\":{size},\
             \"digest\":\"{digest}\",\"extents\":[[\"{digest}\",0,{size}]]}}\n"
        );
        let (id, _) = thief.put_snapshot(&scene.host, &manifest, &[ForgedFrame { plain, claims }]);
        let back = tempfile::tempdir().unwrap();
        let error = scene.host.restore(&scene.person, &Wanted::Latest, back.path()).unwrap_err();
        assert!(matches!(&error, ops::Error::Hurt { first, .. } if first == "f"), "{}", chain(&error));
        assert!(!back.path().join("f").exists());
        let report = scene.check();
        assert!(report.damage.iter().any(|damage| damage.snapshots.contains(&id)), "{report:?}");
    }
    // What claims to be larger than any frame does not get that far: its commit is refused.
    let scene = scene();
    let thief = Forger::thief_of(&scene.host, &[&scene.person]);
    let frame = ForgedFrame { plain: vec![7; 100], claims: 1 << 40 };
    let (id, _) = thief.put_snapshot(&scene.host, "{\"manifest\":1}\n{\"path\":\"\",\"type\":\"dir\"}\n", &[frame]);
    let (repository, problems) = scene.host.open(Some(&scene.person)).unwrap();
    assert!(matches!(&problems[..], [Problem::BadCommit { .. }]), "{problems:?}");
    assert!(repository.catalog().snapshots().unwrap().iter().all(|snapshot| snapshot.record.id != id));
}
