//! Bits rot in what lies on the host: the catalog, and the copy of the newest manifest. Whatever they are turned into, no
//! deed gives wrong bytes, and no backup is acknowledged that does not restore on a machine that has seen nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lifeboat::ops::restore::RestoreOptions;
use lifeboat::plan::restore::Wanted;
use object_store::memory::InMemory;

use crate::common::chance::{Chance, each_seed};
use crate::common::history::{History, assert_clear, assert_no_lies};
use crate::common::{Host, Person, copy_store, plain, tree};

struct Scene {
    source: tempfile::TempDir,
    host: Host,
    person: Person,
    history: History,
    file: PathBuf,
}

fn scene(seed: u64, file: &str) -> Scene {
    let source = tempfile::tempdir().unwrap();
    tree::make(source.path(), seed);
    tree::age(source.path());
    let (host, person) = (Host::new(Arc::new(InMemory::new())), Person::new());
    host.init(&person);
    let (history, mut chance) = (History::default(), Chance::new(seed));
    for round in 0..3 {
        fs::write(source.path().join("docs/round"), tree::noise(50_000, round)).unwrap();
        tree::age(source.path());
        history.backup(&host, source.path(), "data", &mut chance).unwrap();
    }
    let folder = host.open(None).unwrap().0.folder().path().strip_prefix(host.state.path()).unwrap().to_owned();
    let file = folder.join(file);
    // Something changes, so that the next run has something to find; the rest is as it was.
    fs::write(source.path().join("docs/a.jsonl"), tree::lines(3100, 1)).unwrap();
    tree::age(source.path());
    Scene { source, host, person, history, file }
}

impl Scene {
    /// A copy of store and host with one bit flipped in the file.
    fn rotten(&self, chance: &mut Chance) -> Host {
        let host = self.host.clone_state(copy_store(&*self.host.objects));
        let path = host.state.path().join(&self.file);
        let mut bytes = fs::read(&path).unwrap();
        let at = chance.below(bytes.len() as u64) as usize;
        bytes[at] ^= 1 << chance.below(8);
        fs::write(&path, bytes).unwrap();
        host
    }

    /// The newest snapshot, perhaps not read again afterwards: right, or refused; whether it came.
    fn restores(&self, host: &Host, verify: bool) -> bool {
        let back = tempfile::tempdir().unwrap();
        let options = RestoreOptions { verify, ..plain() };
        let id = host.open(Some(&self.person)).ok().and_then(|(repository, _)| {
            repository.catalog().snapshots().ok()?.pop().map(|row| row.record.id.to_string())
        });
        let Some(expected) = id.and_then(|id| self.history.tree_of(&id)) else { return false };
        match host.restore_with(&self.person, &Wanted::Latest, back.path(), options) {
            Ok(_) => assert_eq!(tree::describe(back.path()), expected),
            Err(e) => {
                assert_clear(&e);
                no_lies(back.path(), expected);
                return false;
            }
        }
        true
    }

    /// Backs up where a bit has rotted: refused, or acknowledged and then whole on a bare machine. Whether it was.
    fn backs_up(&self, host: &Host, chance: &mut Chance) -> bool {
        match self.history.backup(host, self.source.path(), "data", chance) {
            Ok(_) => {
                let bare = Host::new(Arc::clone(&host.objects));
                assert!(self.restores(&bare, true), "an acknowledged snapshot does not restore");
                true
            }
            Err(e) => {
                assert_clear(&e);
                false
            }
        }
    }
}

fn no_lies(into: &Path, mut expected: crate::common::history::Tree) {
    expected.insert(String::new(), tree::describe(into)[""].clone());
    assert_no_lies(into, &expected);
}

#[test]
fn a_rotten_copy_of_the_manifest_costs_reading_and_nothing_else() {
    let scene = scene(1, "manifests/data.jsonl.zst");
    each_seed(60, |seed| {
        let mut chance = Chance::new(seed);
        let host = scene.rotten(&mut chance);
        assert!(scene.backs_up(&host, &mut chance), "it is only a copy");
    });
}

#[test]
fn a_rotten_catalog_gives_no_wrong_bytes() {
    let scene = scene(2, "catalog.db");
    let [restored, stored] = [0, 1].map(|_| std::sync::atomic::AtomicU64::new(0));
    each_seed(60, |seed| {
        let mut chance = Chance::new(seed);
        let host = scene.rotten(&mut chance);
        let count = |what: &std::sync::atomic::AtomicU64, done: bool| {
            what.fetch_add(u64::from(done), std::sync::atomic::Ordering::Relaxed);
        };
        count(&restored, scene.restores(&host, false));
        count(&stored, scene.backs_up(&host, &mut chance));
    });
    // Most bits of it are not asked for by the one deed or the other.
    if std::env::var_os("LIFEBOAT_TEST_SEED").is_none() {
        assert!(restored.into_inner() > 20 && stored.into_inner() > 20);
    }
}
