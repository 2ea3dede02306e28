//! Bits rot in what lies on the host: the catalog, and the copy of the newest manifest. Whatever they are turned into, no
//! deed gives wrong bytes. A rotten copy does no harm at all. SQLite keeps no sums of its pages: a bit of a frame's name can
//! make a backup refer to a frame that is not there; then a check names it, and a rebuild and a backup mend it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lifeboat::ops::backup::BackupOptions;
use lifeboat::ops::check::{ReadData, check};
use lifeboat::ops::restore::RestoreOptions;
use lifeboat::plan::restore::Wanted;
use lifeboat::progress::Silent;
use object_store::memory::InMemory;

use crate::common::chance::{Chance, each_seed};
use crate::common::history::{History, assert_clear, assert_no_lies};
use crate::common::{Host, Person, clock, copy_store, plain, tree};

/// What became of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Refused,
    Whole,
    Named,
}

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

    /// Backs up where a bit has rotted. Refused; or acknowledged and then whole on a bare machine; or a check names what
    /// is wrong, and with the catalog made anew the next backup is whole.
    fn backs_up(&self, host: &Host, chance: &mut Chance) -> Outcome {
        if let Err(e) = self.history.backup(host, self.source.path(), "data", chance) {
            assert_clear(&e);
            return Outcome::Refused;
        }
        let bare = Host::new(Arc::clone(&host.objects));
        if self.restores(&bare, true) {
            return Outcome::Whole;
        }
        let (mut repository, problems) = host.open(Some(&self.person)).unwrap();
        let report = check(&mut repository, ReadData::All, &problems, clock()(), 1, &Silent).unwrap();
        assert!(!report.is_clean(), "a snapshot that does not restore is not named by a check");
        repository.rebuild_catalog(&Silent).unwrap();
        drop(repository);
        let force = BackupOptions { force: true, ..Default::default() };
        host.backup_as(self.source.path(), "data", &force).unwrap();
        let back = tempfile::tempdir().unwrap();
        bare.restore(&self.person, &Wanted::Latest, back.path()).unwrap();
        assert_eq!(tree::describe(back.path()), tree::describe(self.source.path()));
        Outcome::Named
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
        assert_eq!(scene.backs_up(&host, &mut chance), Outcome::Whole, "it is only a copy");
    });
}

#[test]
fn a_rotten_catalog_gives_no_wrong_bytes() {
    let scene = scene(2, "catalog.db");
    let [restored, stored] = [0, 1].map(|_| std::sync::atomic::AtomicU64::new(0));
    let tried = each_seed(60, |seed| {
        let mut chance = Chance::new(seed);
        let host = scene.rotten(&mut chance);
        let count = |what: &std::sync::atomic::AtomicU64, done: bool| {
            what.fetch_add(u64::from(done), std::sync::atomic::Ordering::Relaxed);
        };
        count(&restored, scene.restores(&host, false));
        count(&stored, scene.backs_up(&host, &mut chance) == Outcome::Whole);
    });
    // Most bits of it are not asked for by the one deed or the other.
    if tried >= 60 {
        assert!(restored.into_inner() > tried / 3 && stored.into_inner() > tried / 3);
    }
}

#[test]
fn a_wrong_length_in_the_catalog_gives_no_wrong_bytes() {
    let scene = scene(3, "catalog.db");
    let (mut repository, _) = scene.host.open(None).unwrap();
    let row = repository.host_row().unwrap();
    let mut tables = Vec::new();
    for pack in repository.catalog().packs(row).unwrap() {
        for frame in repository.catalog().frames_of(pack.row).unwrap() {
            tables.extend(repository.catalog().chunks_of(frame.row).unwrap());
        }
    }
    drop(repository);
    let mut flipped = 0;
    // One length alone, and two that still add up.
    for (table, both) in tables.iter().filter(|table| table.len() > 2).flat_map(|table| [(table, false), (table, true)])
    {
        let (id, length) = table[0];
        let host = scene.host.clone_state(copy_store(&*scene.host.objects));
        let path = host.state.path().join(&scene.file);
        let mut bytes = fs::read(&path).unwrap();
        let row = [&length.to_le_bytes()[..], id.as_bytes()].concat();
        let Some(at) = bytes.windows(row.len()).position(|window| window == row) else { continue };
        match both {
            false => bytes[at] ^= 1,
            true => (bytes[at], bytes[at + 36]) = (bytes[at].wrapping_add(1), bytes[at + 36].wrapping_sub(1)),
        }
        fs::write(&path, bytes).unwrap();
        flipped += 1;
        // Everything is read again and found chunk by chunk: each behind the first lies a byte beside its place.
        let force = BackupOptions { force: true, ..Default::default() };
        host.backup_as(scene.source.path(), "data", &force).unwrap();
        let (bare, back) = (Host::new(Arc::clone(&host.objects)), tempfile::tempdir().unwrap());
        let unverified = RestoreOptions { verify: false, ..plain() };
        bare.restore_with(&scene.person, &Wanted::Latest, back.path(), unverified).unwrap();
        assert_eq!(tree::describe(back.path()), tree::describe(scene.source.path()));
    }
    assert!(flipped >= 4, "only {flipped} lengths were found in the file");
}
