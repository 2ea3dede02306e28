//! Keepers: one host frees what another one stored, without an identity and without believing at once that something may go; the host
//! itself deletes nothing.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use lifeboat::model::{Commit, CommitHeader, CommitId, CommitLine, Marked, Moment, Objects, PackKind, Retire};
use lifeboat::ops;
use lifeboat::ops::prune::{PruneReport, plan_as_keeper, prune};
use lifeboat::progress::Silent;
use lifeboat::repository::{self, KeeperSet, Keys, OpenOptions, Problem, Repository};
use lifeboat::seal::{Sealer, SigningKey, sign_text};
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use serde_json::Value;

use crate::common::clocked::Clocked;
use crate::common::faulty::{Fails, Faulty};
use crate::common::forge::{ForgedFrame, Forger, end_of_log};
use crate::common::pruned::{DAY, Meanwhile, Nights, forget_on, options, prune_on};
use crate::common::{Host, Person, clock, merge_store, tree};

const WEEK: i64 = 7 * 24;

pub fn writer_of(host: &Host) -> String {
    host.open(None).unwrap().0.host().unwrap().name.clone()
}

pub fn set_keeper(
    by: &Host,
    person: &Person,
    of: &str,
    keeper: &str,
    hold: Option<i64>,
) -> Result<KeeperSet, repository::Error> {
    let (mut repository, _) = by.open(Some(person))?;
    let hold = hold.map(|hours| hours as u64 * 3600);
    repository.set_keeper(of, keeper, hold, clock()(), &Silent)
}

fn open_as_keeper(keeper: &Host, of: &str) -> Result<(Repository, Vec<Problem>), repository::Error> {
    let options = OpenOptions {
        state: keeper.state.path(),
        catalog: None,
        keys: Keys::default(),
        sync: true,
        keeper_of: Some(of),
    };
    Repository::open(keeper.store(), options, &Silent).map(|(repository, report)| (repository, report.problems))
}

/// Prunes as the keeper of a writer.
pub fn try_keep(keeper: &Host, of: &str, clock: &dyn Fn() -> Moment) -> Result<PruneReport, ops::Error> {
    let (mut repository, problems) = open_as_keeper(keeper, of)?;
    let options = options(0.0, DAY);
    let plan = plan_as_keeper(&mut repository, &options, &|_| None, &problems, (clock(), &Silent))?;
    prune(&mut repository, plan, &options, &|_| None, clock, &Silent)
}

/// The same where the log tells everything.
fn keep_at(keeper: &Host, of: &str, clock: &dyn Fn() -> Moment) -> Result<PruneReport, ops::Error> {
    let (mut repository, problems) = open_as_keeper(keeper, of)?;
    let options = options(0.0, DAY);
    let plan = plan_as_keeper(&mut repository, &options, &|_| None, &problems, (clock(), &Silent))?;
    assert_eq!(plan.packs.unknown, Vec::<String>::new());
    prune(&mut repository, plan, &options, &|_| None, clock, &Silent)
}

fn keep(keeper: &Host, of: &str) -> PruneReport {
    keep_at(keeper, of, &*clock()).unwrap()
}

/// Nights of a host, and another machine that keeps its log.
struct Kept {
    nights: Nights,
    keeper: Host,
    writer: String,
    ids: Vec<String>,
}

impl Kept {
    fn new() -> Self {
        let mut nights = Nights::new();
        let ids = nights.nights(3);
        let keeper = Host::new(Arc::new(nights.store.clone()));
        keeper.join(&nights.person).unwrap();
        let writer = writer_of(&nights.host);
        let set = set_keeper(&nights.reader(), &nights.person, &writer, &writer_of(&keeper), Some(WEEK)).unwrap();
        assert!(set.ruled && set.handed_over > 3, "{set:?}");
        Self { nights, keeper, writer, ids }
    }

    fn night(&mut self) {
        let id = self.nights.night();
        self.ids.push(id);
    }

    /// Until all of it is gone that may go.
    fn settle(&mut self) {
        for hours in [WEEK + 1, 25, 25] {
            self.nights.store.advance(hours);
            // The host is there all the while: the store says what time it is.
            self.night();
            keep(&self.keeper, &self.writer);
        }
    }
}

/// Restores with nothing but `recover.py` and stock tools.
fn recover(scene: &Nights, id: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let (copy, identity, into) = (folder.path().join("copy"), folder.path().join("id"), folder.path().join("into"));
    fs::create_dir(&copy).unwrap();
    fs::write(&identity, &scene.person.identity).unwrap();
    merge_store(&scene.store, &LocalFileSystem::new_with_prefix(&copy).unwrap());
    let mut command = Command::new("python3");
    command.arg(copy.join("recover.py")).arg("--repository").arg(&copy).arg("--identity").arg(&identity);
    let output = command.args(["restore", id, "--into", into.to_str().unwrap()]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert_eq!(tree::describe(&into), scene.trees[id]);
    said
}

#[test]
fn what_a_host_forgot_goes_after_the_hold_and_the_host_goes_on() {
    let mut scene = Kept::new();
    let idle = keep(&scene.keeper, &scene.writer);
    assert_eq!((idle.packs_retired, idle.freed, idle.litter), (0, 0, 0), "{idle:?}");
    forget_on(&scene.nights.host, &scene.ids[..1]);
    let early = keep(&scene.keeper, &scene.writer);
    assert_eq!((early.packs_retired, early.emptied), (0, 0), "{early:?}");
    let (mut repository, _) = open_as_keeper(&scene.keeper, &scene.writer).unwrap();
    let held = repository.held_back().unwrap();
    assert_eq!(held.iter().map(|held| held.forgets).sum::<u64>(), 1);
    let row = repository.host_row().unwrap();
    assert!(!repository.catalog().is_forgotten(row, &scene.ids[0]).unwrap());
    drop(repository);
    // Nothing was committed meanwhile: the keeper asks the store what time it is.
    scene.nights.store.advance(WEEK - 1);
    let ahead = move || clock()() + chrono::TimeDelta::days(400);
    let almost = keep_at(&scene.keeper, &scene.writer, &ahead).unwrap();
    assert_eq!(almost.packs_retired, 0, "{almost:?}");
    scene.nights.store.advance(2);
    let first = keep_at(&scene.keeper, &scene.writer, &ahead).unwrap();
    assert!(first.packs_retired > 0 && first.emptied > 0 && first.freed == 0, "{first:?}");
    assert_eq!(scene.nights.store.take_deleted(), Vec::<String>::new());
    // The host refers to nothing that is retired, and stores nothing twice that was moved.
    scene.ids.remove(0);
    let source = scene.nights.source.path().to_owned();
    let again = scene.nights.host.backup(&source).unwrap();
    assert_eq!(again.counts.data_new, 0, "{again:?}");
    let id = again.record.id.to_string();
    scene.nights.trees.insert(id.clone(), tree::describe(&source));
    scene.ids.push(id);
    scene.nights.store.advance(25);
    scene.night();
    let later = keep(&scene.keeper, &scene.writer);
    assert_eq!(later.packs_deleted, first.packs_retired, "{later:?}");
    assert_eq!(scene.nights.store.take_deleted().len() as u64, later.packs_deleted);
    scene.nights.holds(&scene.nights.host, &scene.ids);
    scene.nights.restores(&scene.nights.reader(), &scene.ids);
    assert_eq!(scene.nights.host.stats().unused_bytes, 0);
    let said = recover(&scene.nights, &scene.ids[0]);
    assert!(!said.contains("refused") && !said.contains("left out"), "{said}");
    // A keeper that lost its state reads everything anew, without an identity.
    let folder = open_as_keeper(&scene.keeper, &scene.writer).unwrap().0.folder().path().to_owned();
    fs::remove_dir_all(folder).unwrap();
    let idle = keep(&scene.keeper, &scene.writer);
    assert_eq!((idle.packs_retired, idle.packs_deleted, idle.litter), (0, 0, 0), "{idle:?}");
    scene.nights.holds(&scene.nights.host, &scene.ids);
}

#[test]
fn what_the_host_saw_of_others_is_none_of_its_concern() {
    let mut scene = Kept::new();
    // The keeper stores something itself, and the host's commits say that they saw it.
    scene.keeper.backup(scene.nights.source.path()).unwrap();
    scene.night();
    assert_eq!(open_as_keeper(&scene.keeper, &scene.writer).unwrap().1, []);
    keep(&scene.keeper, &scene.writer);
}

#[test]
fn it_reads_no_backup() {
    let scene = Kept::new();
    let keys = fs::read_to_string(scene.keeper.open(None).unwrap().0.folder().key_file()).unwrap();
    let keys: Value = serde_json::from_str(&keys).unwrap();
    let thief = Person { identity: keys["identity"].as_str().unwrap().to_owned(), recipient: String::new() };
    for id in &scene.ids {
        assert!(
            scene
                .nights
                .reader()
                .restore(&thief, &lifeboat::plan::restore::Wanted::Named(id.clone()), &PathBuf::from("/nowhere"))
                .is_err()
        );
    }
    // Nor does it act for a host that it does not keep, and nobody keeps who was not named.
    let other = Host::new(Arc::new(scene.nights.store.clone()));
    other.join(&scene.nights.person).unwrap();
    for (by, of) in
        [(&scene.keeper, writer_of(&other)), (&other, scene.writer.clone()), (&scene.keeper, writer_of(&scene.keeper))]
    {
        let refused = keep_at(by, &of, &*clock()).unwrap_err();
        assert!(refused.to_string().contains("no keeper"), "{refused}");
    }
}

/// A commit of a thief who has the host's keys, sealed to the keeper too: he knows the ruling.
fn put_by_thief(
    scene: &Kept,
    (sequence, parents): (u64, Vec<CommitId>),
    first_frame: u64,
    lines: Vec<CommitLine>,
) -> CommitId {
    let thief = Forger::thief_of(&scene.nights.host, &[&scene.nights.person]);
    let header = CommitHeader {
        commit: 1,
        repository: thief.repository,
        writer: scene.writer.clone(),
        sequence,
        parents,
        time: clock()(),
        first_frame,
        program: "forged".to_owned(),
    };
    let text = Commit { header, lines }.encode().unwrap();
    let sealed = Sealer::new(readers(scene)).seal_compressed(&sign_text(COMMIT, &text, &thief.signing)).unwrap();
    let key = crate::common::forge::put_as_commit(&scene.nights.host.store(), &scene.writer, sequence, sealed);
    repository::parse_commit_key(&key).unwrap().1
}

/// Who reads the host's log.
fn readers(scene: &Kept) -> Vec<lifeboat::seal::Recipient> {
    let own = |host: &Host| {
        let keys = fs::read_to_string(host.open(None).unwrap().0.folder().key_file()).unwrap();
        let keys: Value = serde_json::from_str(&keys).unwrap();
        let identity: age::x25519::Identity = keys["identity"].as_str().unwrap().parse().unwrap();
        identity.to_public().to_string()
    };
    let all = [own(&scene.keeper), own(&scene.nights.host), scene.nights.person.recipient.clone()];
    all.iter().map(|text| text.parse().unwrap()).collect()
}

/// What a thief would say: junk under the name of every frame, nothing needed, everything gone, all forgotten.
fn evil_lines(scene: &Kept) -> Vec<CommitLine> {
    let thief = Forger::thief_of(&scene.nights.host, &[&scene.nights.person]);
    let (repository, _) = scene.nights.host.open(None).unwrap();
    let row = repository.catalog().writers().unwrap().into_iter().find(|(_, name)| *name == scene.writer).unwrap().0;
    let known = repository.catalog().packs(row).unwrap();
    let mut lines = Vec::new();
    for pack in &known {
        let frames: Vec<_> = repository.catalog().frames_of(pack.row).unwrap();
        let junk: Vec<ForgedFrame> = frames.iter().map(|_| ForgedFrame::honest(&tree::noise(500, 9))).collect();
        let mut line = thief.put_pack(&scene.nights.host.store(), &thief.pack(PackKind::Data, &junk));
        for (said, frame) in line.frames.iter_mut().zip(&frames) {
            said.0 = frame.id;
            said.3 = frame.plain;
        }
        lines.push(CommitLine::Pack(line));
    }
    let ids: Vec<_> = known.iter().map(|pack| pack.id).collect();
    lines.push(CommitLine::Retire(Retire { packs: ids.clone(), segments: Vec::new(), grace: 0 }));
    lines.push(CommitLine::Deleted(Objects { packs: ids[..1].to_vec(), segments: Vec::new() }));
    for id in &scene.ids {
        lines.push(CommitLine::Forget(Marked { snapshot: id.parse().unwrap() }));
    }
    lines
}

/// The keeper prunes day by day for less than the hold, the break-in is noticed, and what was there before it restores.
fn survives(scene: &mut Kept, stolen: CommitId) {
    for _ in 0..6 {
        scene.nights.store.advance(25);
        let ahead = move || clock()() + chrono::TimeDelta::days(400);
        if let Err(e) = try_keep(&scene.keeper, &scene.writer, &ahead) {
            panic!("{e}");
        }
    }
    let (mut repository, _) = scene.nights.reader().open(Some(&scene.nights.person)).unwrap();
    let since = repository.catalog().received(&stolen).unwrap();
    assert!(since.is_some());
    repository.revoke_writer(&scene.writer, since, clock()()).unwrap();
    drop(repository);
    scene.nights.restores(&scene.nights.reader(), &scene.ids);
    // What the keeper moved since is found by stock tools as well.
    for id in [&scene.ids[0], scene.ids.last().unwrap()] {
        recover(&scene.nights, id);
    }
    // The keeper goes on with the log, and what the thief stored is litter.
    scene.nights.store.advance(WEEK + 25);
    let ahead = move || clock()() + chrono::TimeDelta::days(800);
    for _ in 0..2 {
        keep_at(&scene.keeper, &scene.writer, &ahead).unwrap();
        scene.nights.store.advance(25);
    }
    scene.nights.restores(&scene.nights.reader(), &scene.ids);
}

#[test]
fn a_thief_of_the_host_loses_nothing_to_it_before_the_hold_is_over() {
    // For a keeper that was there before, and for one that reads the log anew; as the newest commit, and as one before all others.
    for (anew, first) in [(false, false), (true, false), (true, true)] {
        let mut scene = Kept::new();
        scene.night();
        // What the host itself forgot in time: the keeper copies what is needed beside it, with the junk there.
        forget_on(&scene.nights.host, &scene.ids[..1]);
        scene.nights.store.advance(WEEK + 1);
        scene.night();
        if !anew {
            open_as_keeper(&scene.keeper, &scene.writer).unwrap();
        }
        let lines = evil_lines(&scene);
        scene.ids.remove(0);
        let (repository, _) = scene.nights.host.open(None).unwrap();
        let (sequence, parents, first_frame) = end_of_log(&repository, &scene.writer);
        drop(repository);
        let place = if first { (1, Vec::new()) } else { (sequence + 1, parents) };
        let stolen = put_by_thief(&scene, place, first_frame, lines);
        survives(&mut scene, stolen);
    }
}

#[test]
fn no_later_commit_takes_the_place_of_a_snapshot() {
    let mut scene = Kept::new();
    scene.nights.store.advance(WEEK + 1);
    scene.night();
    open_as_keeper(&scene.keeper, &scene.writer).unwrap();
    let (repository, _) = scene.nights.host.open(None).unwrap();
    let (sequence, parents, first_frame) = end_of_log(&repository, &scene.writer);
    let all = repository.catalog().snapshots().unwrap();
    drop(repository);
    // One with a parent that is not there yet says that the snapshots use nothing; then the parent comes, and all behind it is read again.
    let late =
        vec![CommitLine::Keep(Objects { packs: vec![lifeboat::model::PackId::new([1; 32])], segments: Vec::new() })];
    let late_id = put_by_thief(&scene, (sequence, parents.clone()), first_frame, late);
    let key = scene.nights.store.keys(&late_id.to_string()).remove(0);
    let body = scene.nights.store.remove(&key);
    let lines = all.into_iter().map(|mut snapshot| {
        snapshot.record.uses = lifeboat::model::Uses(Vec::new());
        CommitLine::Snapshot(snapshot.record)
    });
    let stolen = put_by_thief(&scene, (sequence + 1, [parents, vec![late_id]].concat()), first_frame, lines.collect());
    open_as_keeper(&scene.keeper, &scene.writer).unwrap();
    scene.nights.store.put_there(&key, body);
    survives(&mut scene, stolen);
}

#[test]
fn what_a_host_moved_sealed_anew_or_stored_again_is_not_taken_for_superfluous() {
    // It pruned before it had a keeper.
    let mut nights = Nights::new();
    let mut ids = nights.nights(3);
    forget_on(&nights.host, &ids[..1]);
    ids.remove(0);
    for _ in 0..2 {
        prune_on(&nights.host).unwrap();
        nights.store.advance(25);
    }
    assert!(!nights.store.take_deleted().is_empty());
    let keeper = Host::new(Arc::new(nights.store.clone()));
    keeper.join(&nights.person).unwrap();
    let writer = writer_of(&nights.host);
    set_keeper(&nights.reader(), &nights.person, &writer, &writer_of(&keeper), None).unwrap();
    let mut scene = Kept { nights, keeper, writer, ids };
    let daily = |scene: &mut Kept, days: u32| {
        for _ in 0..days {
            scene.nights.store.advance(25);
            scene.night();
            try_keep(&scene.keeper, &scene.writer, &*clock()).unwrap();
        }
        scene.nights.restores(&scene.nights.reader(), &scene.ids);
    };
    daily(&mut scene, 3);
    // A pack is lost, whichever: once its host has looked, the next backup stores anew what the source has of it.
    let packs = scene.nights.store.keys("/packs/");
    assert!(packs.len() > 3, "{packs:?}");
    for lost in packs {
        let (store, host) = scene.nights.fork();
        let keeper = scene.keeper.clone_state(Arc::new(store.clone()));
        store.remove(&lost);
        let (mut repository, _) = host.open(None).unwrap();
        assert_eq!(repository.list_packs(&scene.writer, clock()()).unwrap().missing.len(), 1);
        drop(repository);
        store.advance(25);
        let id = host.backup(scene.nights.source.path()).unwrap().record.id.to_string();
        for _ in 0..4 {
            store.advance(25);
            try_keep(&keeper, &scene.writer, &*clock()).unwrap();
        }
        assert_eq!(scene.nights.restored(&host, &id).unwrap(), tree::describe(scene.nights.source.path()), "{lost}");
    }
    // Sealed anew for somebody else: the new bytes stay, the old ones go when the keeper believes it.
    let mut scene = Kept::new();
    let before = scene.nights.store.keys("/packs/");
    let other = Person::new();
    let (mut repository, _) = scene.nights.host.open(Some(&scene.nights.person)).unwrap();
    repository.change_recipients(&[other.recipient.parse().unwrap()], &[], clock()()).unwrap();
    drop(repository);
    let (mut repository, _) = scene.nights.host.open(Some(&scene.nights.person)).unwrap();
    ops::rewrap::rewrap(&mut repository, DAY, None, &*clock(), &Silent).unwrap();
    drop(repository);
    daily(&mut scene, 3);
    assert!(before.iter().all(|pack| scene.nights.store.keys("/packs/").contains(pack)));
    daily(&mut scene, 9);
    assert!(!before.iter().any(|pack| scene.nights.store.keys("/packs/").contains(pack)));
    for id in &scene.ids {
        let back = tempfile::tempdir().unwrap();
        let reader = scene.nights.reader();
        reader.restore(&other, &lifeboat::plan::restore::Wanted::Named(id.clone()), back.path()).unwrap();
        assert_eq!(tree::describe(back.path()), scene.nights.trees[id]);
    }
}

#[test]
fn of_a_segment_the_first_word_counts_until_the_hold_is_over() {
    let mut scene = Kept::new();
    let push = |host: &Host, name: &str, facts: Value| {
        let (mut repository, _) = host.open(None).unwrap();
        let at = lifeboat::model::SegmentPlace::new("db-1-15", "00000001", name).unwrap();
        let record = repository.segment_writer().unwrap().put(at, b"segment", facts, clock()()).unwrap();
        repository.note_segments(std::slice::from_ref(&record)).unwrap();
        repository.commit_segments(clock()(), &Silent).unwrap();
        record
    };
    let name = "000000010000000000000001";
    let record = push(&scene.nights.host, name, serde_json::json!({"n": 1}));
    let facts_of = |scene: &Kept| {
        let (repository, _) = open_as_keeper(&scene.keeper, &scene.writer).unwrap();
        let all = repository.catalog().segments(&scene.writer, "db-1-15").unwrap();
        all.into_iter().map(|record| (record.place.name().to_owned(), record.facts)).collect::<Vec<_>>()
    };
    assert_eq!(facts_of(&scene), [(name.to_owned(), serde_json::json!({"n": 1}))]);
    let (repository, _) = scene.nights.host.open(None).unwrap();
    let (sequence, parents, first_frame) = end_of_log(&repository, &scene.writer);
    drop(repository);
    let told = lifeboat::model::SegmentRecord { facts: serde_json::json!({"n": 2}), ..record.clone() };
    let other = lifeboat::model::SegmentRecord { digest: lifeboat::model::Digest::new([3; 32]), ..record };
    let lines = vec![CommitLine::Segment(told), CommitLine::Segment(other)];
    put_by_thief(&scene, (sequence + 1, parents), first_frame, lines);
    scene.nights.store.advance(WEEK - 2);
    scene.night();
    assert_eq!(facts_of(&scene), [(name.to_owned(), serde_json::json!({"n": 1}))]);
    scene.nights.store.advance(3);
    scene.night();
    assert_eq!(facts_of(&scene).len(), 2, "what nobody objected to is believed");
}

#[test]
fn naming_a_keeper_may_stop_at_every_operation_and_goes_on() {
    let mut nights = Nights::new();
    let ids = nights.nights(2);
    let keeper = Host::new(Arc::new(nights.store.clone()));
    keeper.join(&nights.person).unwrap();
    let (writer, name) = (writer_of(&nights.host), writer_of(&keeper));
    for fails in [Fails::Before, Fails::After] {
        let mut stopped = 0;
        for n in 1.. {
            let store = nights.store.fork();
            let (host, keeper) =
                (nights.host.clone_state(Arc::new(store.clone())), keeper.clone_state(Arc::new(store.clone())));
            let faulty: Arc<dyn ObjectStore> = Faulty::new(Arc::new(store.clone()), n, fails);
            let by = Host::new(Arc::new(store.clone()));
            let first = set_keeper(&Host { objects: faulty, ..by.second() }, &nights.person, &writer, &name, None);
            stopped += u32::from(first.is_err());
            // It may look meanwhile, and finds holes at worst.
            let _ = try_keep(&keeper, &writer, &*clock());
            set_keeper(&by, &nights.person, &writer, &name, None).unwrap();
            keep(&keeper, &writer);
            host.backup(nights.source.path()).unwrap();
            keep(&keeper, &writer);
            if first.is_ok() {
                nights.sound(&nights.host, &ids);
                break;
            }
        }
        assert!(stopped > 8, "{stopped}");
    }
}

const COMMIT: &str = "lifeboat format 1 commit";

/// A commit of a host's log that a keeper's key signed.
fn signed_by_keeper(scene: &Kept, lines: Vec<CommitLine>) -> String {
    let keys = fs::read_to_string(scene.keeper.open(None).unwrap().0.folder().key_file()).unwrap();
    let keys: Value = serde_json::from_str(&keys).unwrap();
    let signing = SigningKey::from_hex(keys["signing_key"].as_str().unwrap()).unwrap();
    let (repository, _) = scene.nights.host.open(None).unwrap();
    let (sequence, parents, first_frame): (u64, Vec<CommitId>, u64) = end_of_log(&repository, &scene.writer);
    let header = CommitHeader {
        commit: 1,
        repository: repository.description().repository,
        writer: scene.writer.clone(),
        sequence: sequence + 1,
        parents,
        time: clock()(),
        first_frame,
        program: "forged".to_owned(),
    };
    let text = Commit { header, lines }.encode().unwrap();
    let own: Value = serde_json::from_str(&fs::read_to_string(repository.folder().key_file()).unwrap()).unwrap();
    let own: age::x25519::Identity = own["identity"].as_str().unwrap().parse().unwrap();
    let readers = vec![scene.nights.person.recipient.parse().unwrap(), own.to_public().to_string().parse().unwrap()];
    let sealed = Sealer::new(readers).seal_compressed(&sign_text(COMMIT, &text, &signing)).unwrap();
    crate::common::forge::put_as_commit(&scene.nights.host.store(), &scene.writer, sequence + 1, sealed)
}

#[test]
fn a_keeper_forgets_nothing_and_makes_no_snapshot() {
    let scene = Kept::new();
    let key = signed_by_keeper(&scene, vec![CommitLine::Forget(Marked { snapshot: scene.ids[0].parse().unwrap() })]);
    for (host, person) in [(&scene.nights.host, None), (&scene.nights.reader(), Some(&scene.nights.person))] {
        let problems = host.open(person).unwrap().1;
        assert!(
            matches!(&problems[..], [Problem::BadCommit { key: k, why }] if *k == key && why.contains("keeper")),
            "{problems:?}"
        );
    }
    assert_eq!(scene.nights.host.snapshots(), scene.ids);
    let said = recover(&scene.nights, &scene.ids[0]);
    assert!(said.contains("a keeper signed it"), "{said}");
}

#[test]
fn a_keeper_that_was_ended_is_refused_and_what_it_signs_since_does_not_count() {
    let mut scene = Kept::new();
    let (keeper, reader) = (writer_of(&scene.keeper), scene.nights.reader());
    // Whatever became of it: here its own log has ended first.
    let (mut repository, _) = reader.open(Some(&scene.nights.person)).unwrap();
    repository.revoke_writer(&keeper, None, clock()()).unwrap();
    drop(repository);
    let (mut repository, _) = reader.open(Some(&scene.nights.person)).unwrap();
    assert!(repository.end_keeper(&scene.writer, &keeper, clock()()).unwrap());
    assert!(!repository.end_keeper(&scene.writer, &keeper, clock()()).unwrap(), "once");
    drop(repository);
    // Nor is it named again by its old name, for what it signed in between would count.
    let second = Kept::new();
    let (name, reader) = (writer_of(&second.keeper), second.nights.reader());
    let (mut repository, _) = reader.open(Some(&second.nights.person)).unwrap();
    repository.end_keeper(&second.writer, &name, clock()()).unwrap();
    drop(repository);
    let again = set_keeper(&reader, &second.nights.person, &second.writer, &name, None).unwrap_err();
    assert!(again.to_string().contains("was ended"), "{again}");
    let refused = keep_at(&scene.keeper, &scene.writer, &*clock()).unwrap_err();
    assert!(refused.to_string().contains("no keeper"), "{refused}");
    signed_by_keeper(
        &scene,
        vec![CommitLine::Keep(Objects { packs: vec![lifeboat::model::PackId::new([1; 32])], segments: Vec::new() })],
    );
    scene.night();
    assert_eq!(scene.nights.host.open(None).unwrap().1, []);
    scene.nights.holds(&scene.nights.host, &scene.ids);
    assert!(recover(&scene.nights, &scene.ids[3]).contains("does not count"));
}

#[test]
fn beside_a_backup_both_ends_are_joined_and_nothing_is_lost() {
    let mut scene = Kept::new();
    forget_on(&scene.nights.host, &scene.ids[..1]);
    scene.nights.store.advance(WEEK + 1);
    scene.nights.change();
    // The keeper prunes when everything was read and nothing is committed yet.
    let (keeper, writer) = (scene.keeper.second(), scene.writer.clone());
    let ahead = move || clock()() + chrono::TimeDelta::days(400);
    let deed = move || {
        let kept = keep_at(&keeper, &writer, &ahead).unwrap();
        assert!(kept.packs_retired > 0, "{kept:?}");
    };
    let report = Meanwhile::new(scene.nights.source.path(), deed).backup(&scene.nights.host, clock()).unwrap();
    let id = report.record.id.to_string();
    scene.nights.trees.insert(id.clone(), tree::describe(scene.nights.source.path()));
    scene.ids.remove(0);
    scene.ids.push(id);
    // Two states of the same log: the keeper and the host commit at the same place.
    let (split, host) = scene.nights.fork();
    forget_on(&host, &scene.ids[..1]);
    let merged = scene.nights.store.clone();
    scene.night();
    merge_store(&split, &merged);
    scene.ids.remove(0);
    let problems = open_as_keeper(&scene.keeper, &scene.writer).unwrap().1;
    assert!(matches!(&problems[..], [Problem::Fork { .. }]), "{problems:?}");
    keep(&scene.keeper, &scene.writer);
    assert_eq!(open_as_keeper(&scene.keeper, &scene.writer).unwrap().1, []);
    assert_eq!(scene.nights.host.open(None).unwrap().1, []);
    scene.settle();
    assert!(!scene.nights.store.take_deleted().is_empty());
    scene.nights.sound(&scene.nights.host, &scene.ids);
}

#[test]
fn its_prune_may_stop_at_every_operation_of_the_store() {
    let mut scene = Kept::new();
    forget_on(&scene.nights.host, &scene.ids[..1]);
    scene.nights.store.advance(WEEK + 1);
    scene.ids.remove(0);
    scene.night();
    // Once where it retires, and once where it deletes.
    for due in [false, true] {
        if due {
            keep(&scene.keeper, &scene.writer);
            scene.nights.store.advance(25);
            scene.night();
        }
        for fails in [Fails::Before, Fails::After] {
            let mut stopped = 0;
            for n in 1.. {
                let store: Clocked = scene.nights.store.fork();
                let host = scene.nights.host.clone_state(Arc::new(store.clone()));
                let keeper = scene.keeper.clone_state(Arc::new(store.clone()));
                let faulty: Arc<dyn ObjectStore> = Faulty::new(Arc::new(store.clone()), n, fails);
                let first = keep_at(&Host { objects: faulty, ..keeper.second() }, &scene.writer, &*clock());
                stopped += u32::from(first.is_err());
                let again = keep(&keeper, &scene.writer);
                assert!(
                    !due || first.is_ok() || again.packs_deleted > 0 || !store.take_deleted().is_empty(),
                    "{again:?}"
                );
                if n % 4 == 1 || first.is_ok() {
                    scene.nights.sound(&host, &scene.ids);
                }
                if first.is_ok() {
                    break;
                }
            }
            assert!(stopped > 3, "{stopped}");
        }
    }
}

#[test]
fn a_host_that_prunes_beside_its_keeper_and_one_that_is_adopted_lose_nothing() {
    let mut scene = Kept::new();
    forget_on(&scene.nights.host, &scene.ids[..1]);
    scene.ids.remove(0);
    for _ in 0..2 {
        prune_on(&scene.nights.host).unwrap();
        scene.nights.store.advance(25);
        scene.night();
    }
    assert!(!scene.nights.store.take_deleted().is_empty());
    scene.settle();
    scene.nights.sound(&scene.nights.host, &scene.ids);
    // The host is gone, another one goes on with its log, and the keeper goes on with that one.
    let new = Host::new(Arc::new(scene.nights.store.clone()));
    let (mut repository, _) = new.open(Some(&scene.nights.person)).unwrap();
    repository.adopt_writer(&scene.writer, "new", clock()(), &Silent).unwrap();
    drop(repository);
    scene.nights.host = new;
    forget_on(&scene.nights.host, &scene.ids[..1]);
    scene.ids.remove(0);
    scene.settle();
    assert!(!scene.nights.store.take_deleted().is_empty());
    scene.nights.sound(&scene.nights.host, &scene.ids);
    assert_eq!(scene.nights.host.open(None).unwrap().1, []);
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
    run(0, "one", &["init", "--generate-identity", "id", "--host", "db1"]);
    run(0, "keep", &["--identity", "id", "init", "--host", "keep1"]);
    for night in 0..2 {
        fs::write(path("data/tonight"), tree::noise(2_000_000, night)).unwrap();
        run(0, "one", &["backup", "--path", "data", "--name", "data"]);
    }
    let listed: Value = serde_json::from_str(&run(0, "one", &["--json", "key", "list"])).unwrap();
    let name = |of: &str| {
        let all = listed["writers"].as_array().unwrap();
        all.iter().find(|writer| writer["host"] == of).unwrap()["writer"].as_str().unwrap().to_owned()
    };
    let (host, keeper) = (name("db1"), name("keep1"));
    // The mistakes that are easily made.
    let said = run(2, "keep", &["prune", "--keeper"]);
    assert!(said.contains("keeps no other writer") && said.contains("key keeper"), "{said}");
    run(12, "keep", &["key", "keeper", &keeper, "--all"]);
    run(2, "keep", &["--identity", "id", "key", "keeper", "nobody", "--all"]);
    run(2, "keep", &["--identity", "id", "key", "keeper", &keeper]);
    run(2, "keep", &["--identity", "id", "key", "keeper", &keeper, "--of", &host, "--hold", "soon"]);
    run(2, "keep", &["prune", "--of", &host]);
    let said = run(0, "keep", &["--identity", "id", "key", "keeper", &keeper, "--all", "--hold", "0h"]);
    assert!(said.contains(&format!("{keeper} of {host}, hold 0h")) && said.contains("handed over"), "{said}");
    let again = run(0, "keep", &["--identity", "id", "key", "keeper", &keeper, "--of", &host]);
    assert!(again.contains("hold 0h; 0 objects handed over"), "what it was: {again}");
    run(0, "keep", &["--identity", "id", "key", "keeper", &keeper, "--of", &host, "--hold", "7d"]);
    assert!(
        run(0, "keep", &["key", "list"]).contains(&format!("keeper       {keeper}  of {host}, believes it after 7d"))
    );
    let ids = run(0, "one", &["--json", "snapshots"]);
    let oldest = ids.split('"').filter(|word| word.len() == 26 && word.starts_with("01")).min().unwrap().to_owned();
    run(0, "one", &["forget", "--snapshot", &oldest]);
    let said = run(0, "keep", &["prune", "--keeper", "--grace", "0h"]);
    assert!(said.contains(&format!("keeps     {host}")) && said.contains("held      1 snapshot"), "{said}");
    run(0, "keep", &["--identity", "id", "key", "keeper", &keeper, "--all", "--hold", "0h"]);
    let said = run(0, "keep", &["prune", "--keeper", "--of", &host, "--grace", "0h", "--max-unused", "0%"]);
    assert!(said.contains("freed") && !said.contains("held "), "{said}");
    let answer: Value = serde_json::from_str(&run(0, "keep", &["--json", "prune", "--keeper"])).unwrap();
    assert_eq!(answer["plan"]["writer"], Value::from(host.clone()));
    run(0, "one", &["--identity", "id", "check", "--read-data"]);
    run(0, "one", &["backup", "--path", "data", "--name", "data"]);
    run(0, "one", &["--identity", "id", "restore", "--into", "back", "data"]);
    assert_eq!(tree::describe(&path("back")), tree::describe(&path("data")));
    run(0, "keep", &["--identity", "id", "key", "keeper", &keeper, "--all", "--end"]);
    let said = run(12, "keep", &["prune", "--keeper", "--of", &host]);
    assert!(said.contains("is no keeper of writer"), "{said}");
}
