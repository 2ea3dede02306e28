//! What a person does: backups one after another, restores of all kinds, and what is left out.

use std::fs;
use std::sync::Arc;

use lifeboat::model::RelPath;
use lifeboat::ops;
use lifeboat::ops::Selection;
use lifeboat::ops::backup::BackupOptions;
use lifeboat::ops::restore::{LandingState, Overwrite, RestoreOptions, find_snapshot, mark_of, prepare};
use lifeboat::plan::restore::{NoPlan, Wanted};
use lifeboat::progress::{CancelFlag, Progress, Silent};
use lifeboat::source::{CommandSource, Rules, StdinSource, VolumeSource};
use object_store::memory::InMemory;

use crate::common::{Host, Person, clock, plain, tree, world};

fn place() -> (tempfile::TempDir, Host, Person) {
    let source = tempfile::tempdir().unwrap();
    tree::make(source.path(), 5);
    tree::age(source.path());
    let (host, person) = (Host::new(Arc::new(InMemory::new())), Person::new());
    host.init(&person);
    (source, host, person)
}

fn options(overwrite: Overwrite) -> RestoreOptions {
    RestoreOptions { overwrite, ..plain() }
}

#[test]
fn an_unchanged_tree_is_not_read_again_and_stores_nothing() {
    let (source, host, _) = place();
    let first = host.backup(source.path()).unwrap();
    assert_eq!((first.files_new, first.files_unmodified), (23, 0));
    let second = host.backup(source.path()).unwrap();
    assert_eq!((second.files_new, second.files_changed, second.files_unmodified), (0, 0, 23));
    assert_eq!((second.bytes_read, second.counts.packs, second.counts.stored), (0, 0, 0));
    assert_eq!(second.record.bytes, first.record.bytes);
    let force = BackupOptions { force: true, ..Default::default() };
    let third = host.backup_as(source.path(), "data", &force).unwrap();
    assert_eq!((third.files_unmodified, third.counts.packs), (0, 0), "everything was read, nothing stored");
    assert_eq!(third.bytes_read, first.bytes_read);
}

#[test]
fn a_change_adds_what_changed_and_every_state_comes_back() {
    let (source, host, person) = place();
    let mut states = vec![];
    for round in 0..4u64 {
        let path = source.path().join("docs/a.jsonl");
        let mut text = fs::read(&path).unwrap();
        let middle = text.len() / 2;
        text.splice(middle..middle + 10, format!("change {round}").into_bytes());
        fs::write(&path, text).unwrap();
        tree::age(&path);
        let report = host.backup(source.path()).unwrap();
        if round > 0 {
            assert_eq!((report.files_changed, report.files_new), (1, 0));
            assert!(report.counts.bytes_new < 200_000, "{} bytes for a change of ten", report.counts.bytes_new);
        }
        states.push((report.record.ended, tree::describe(source.path())));
    }
    for (ended, state) in &states {
        let back = tempfile::tempdir().unwrap();
        host.restore(&person, &Wanted::At(*ended), back.path()).unwrap();
        assert_eq!(&tree::describe(back.path()), state);
    }
    let early = states[0].0 - chrono::TimeDelta::seconds(100);
    let back = tempfile::tempdir().unwrap();
    let refused = host.restore(&person, &Wanted::At(early), back.path());
    assert!(matches!(refused, Err(ops::Error::NoPlan(NoPlan::TooEarly { .. }))), "{refused:?}");
}

#[test]
fn a_file_edited_within_its_clock_tick_is_read_again() {
    let source = tempfile::tempdir().unwrap();
    let (host, person) = (Host::new(Arc::new(InMemory::new())), Person::new());
    host.init(&person);
    let path = source.path().join("f");
    fs::write(&path, "one").unwrap();
    // A clock right behind the file's own: its ctime lies less than two seconds before the reading.
    let mut soon = world();
    soon.clock = Arc::new(chrono::Utc::now);
    let run = || {
        let (mut repository, _) = host.open(None).unwrap();
        let volume = VolumeSource::new(source.path(), &Rules::default()).unwrap();
        let progress: Arc<dyn Progress> = Arc::new(Silent);
        let world = ops::backup::World { random: world().random, ..soon.clone() };
        ops::backup::backup(&volume, "data", &mut repository, &BackupOptions::default(), &world, &progress).unwrap()
    };
    run();
    assert_eq!(run().files_unmodified, 0, "a young file is not taken over unread");
    fs::write(&path, "two").unwrap();
    run();
    let back = tempfile::tempdir().unwrap();
    host.restore(&person, &Wanted::Latest, back.path()).unwrap();
    assert_eq!(fs::read(back.path().join("f")).unwrap(), b"two");
}

#[test]
fn what_is_left_out_is_left_out() {
    let source = tempfile::tempdir().unwrap();
    let root = source.path();
    for dir in ["cache", "marked/deep", "keep"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::write(root.join("cache/CACHEDIR.TAG"), "Signature: 8a477f597d28d172789f06886806bc55\n").unwrap();
    for file in ["cache/x", "marked/.nobackup", "marked/deep/x", "keep/a.log", "keep/a.txt", "keep/big"] {
        fs::write(root.join(file), vec![7; if file == "keep/big" { 5000 } else { 10 }]).unwrap();
    }
    let (host, person) = (Host::new(Arc::new(InMemory::new())), Person::new());
    host.init(&person);
    let rules = Rules {
        exclude: vec!["*.log".into()],
        exclude_if_present: vec![".nobackup".into()],
        exclude_caches: true,
        exclude_larger_than: Some(4096),
        one_file_system: true,
        ..Rules::default()
    };
    let (mut repository, _) = host.open(None).unwrap();
    let volume = VolumeSource::new(root, &rules).unwrap();
    let progress: Arc<dyn Progress> = Arc::new(Silent);
    ops::backup::backup(&volume, "data", &mut repository, &BackupOptions::default(), &world(), &progress).unwrap();
    let back = tempfile::tempdir().unwrap();
    host.restore(&person, &Wanted::Latest, back.path()).unwrap();
    let names: Vec<String> = tree::describe(back.path()).into_keys().collect();
    assert_eq!(names, ["", "cache", "cache/CACHEDIR.TAG", "keep", "keep/a.txt", "marked", "marked/.nobackup"]);
}

#[test]
fn files_that_cannot_be_read_are_named_and_the_snapshot_is_incomplete() {
    let (source, host, person) = place();
    // Nobody can read it, root included: the name is a loop of links in a directory that a file replaces.
    struct Vanishing(VolumeSource);
    impl lifeboat::source::Source for Vanishing {
        fn kind(&self) -> &'static str {
            "volume"
        }
        fn root(&self) -> String {
            self.0.root()
        }
        fn walk(&self, each: &mut dyn FnMut(lifeboat::source::Found) -> bool) -> Result<(), lifeboat::source::Error> {
            self.0.walk(each)
        }
        fn open(&self, found: &lifeboat::source::FoundEntry) -> Result<lifeboat::source::Opened<'_>, String> {
            match found.entry.path.to_string().as_str() {
                "docs/deep/er/07.txt" => Err("Permission denied (os error 13)".into()),
                "docs/deep/b.bin" => {
                    let mut opened = self.0.open(found)?;
                    opened.changed = Box::new(|| Some("it changed while it was read".into()));
                    Ok(opened)
                }
                _ => self.0.open(found),
            }
        }
        fn xattrs(
            &self,
            entry: &lifeboat::model::Entry,
        ) -> std::collections::BTreeMap<String, lifeboat::model::RawText> {
            self.0.xattrs(entry)
        }
        fn all_or_nothing(&self) -> bool {
            false
        }
        fn finish(&self) -> Result<(), lifeboat::source::Error> {
            Ok(())
        }
    }
    let (mut repository, _) = host.open(None).unwrap();
    let volume = Vanishing(VolumeSource::new(source.path(), &Rules::default()).unwrap());
    let progress: Arc<dyn Progress> = Arc::new(Silent);
    let report =
        ops::backup::backup(&volume, "data", &mut repository, &BackupOptions::default(), &world(), &progress).unwrap();
    assert!(!report.record.complete && report.record.skipped == 2);
    assert_eq!(report.skipped[0], ("docs/deep/b.bin".into(), "it changed while it was read".into()));
    assert_eq!(report.skipped[1].0, "docs/deep/er/07.txt");
    let back = tempfile::tempdir().unwrap();
    let refused = host.restore(&person, &Wanted::Latest, back.path());
    assert!(matches!(refused, Err(ops::Error::NoPlan(NoPlan::NoneComplete(_)))), "{refused:?}");
    host.restore(&person, &Wanted::Named("latest".into()), back.path()).unwrap();
    assert!(back.path().join("docs/deep/b.bin").exists() && !back.path().join("docs/deep/er/07.txt").exists());
}

#[test]
fn streams_are_stored_and_a_failing_command_is_no_snapshot() {
    let (host, person) = (Host::new(Arc::new(InMemory::new())), Person::new());
    host.init(&person);
    let progress: Arc<dyn Progress> = Arc::new(Silent);
    let (mut repository, _) = host.open(None).unwrap();
    let body = tree::noise(5_000_000, 9);
    let path = RelPath::new("dump.sql").unwrap();
    let stdin = StdinSource::new(path.clone(), clock()(), Box::new(std::io::Cursor::new(body.clone())));
    ops::backup::backup(&stdin, "in", &mut repository, &BackupOptions::default(), &world(), &progress).unwrap();
    let command =
        |script: &str| CommandSource::new(path.clone(), clock()(), vec!["sh".into(), "-c".into(), script.into()]);
    let good = command("seq 1 200000");
    ops::backup::backup(&good, "dump", &mut repository, &BackupOptions::default(), &world(), &progress).unwrap();
    let bad = command("seq 1 200000; exit 4");
    let failed = ops::backup::backup(&bad, "dump", &mut repository, &BackupOptions::default(), &world(), &progress);
    assert!(matches!(failed, Err(ops::Error::Source(lifeboat::source::Error::Failed { .. }))), "{failed:?}");
    drop(repository);
    assert_eq!(host.snapshots().len(), 2, "the failing command left no snapshot");
    let (repository, _) = host.open(Some(&person)).unwrap();
    let dump = |source: &str| {
        let (snapshot, _) = find_snapshot(&repository, source, &Wanted::Latest, false).unwrap();
        let path = ops::look::only_file(&repository, &snapshot, &Silent).unwrap();
        let mut out = Vec::new();
        ops::look::dump(&repository, &snapshot, &path, &mut out, &Silent).unwrap();
        out
    };
    assert!(dump("in") == body);
    assert_eq!(dump("dump"), (1..=200_000).map(|n| format!("{n}\n")).collect::<String>().into_bytes());
}

#[test]
fn a_destination_that_is_not_empty_is_refused_unless_told() {
    let (source, host, person) = place();
    host.backup(source.path()).unwrap();
    let back = tempfile::tempdir().unwrap();
    fs::write(back.path().join("mine"), "mine").unwrap();
    let refused = host.restore(&person, &Wanted::Latest, back.path());
    assert!(matches!(refused, Err(ops::Error::Destination(lifeboat::destination::Error::NotEmpty(_)))));
    host.restore_with(&person, &Wanted::Latest, back.path(), options(Overwrite::IfChanged)).unwrap();
    assert_eq!(fs::read(back.path().join("mine")).unwrap(), b"mine", "only --delete removes");
    let delete = RestoreOptions { delete: true, ..options(Overwrite::IfChanged) };
    let report = host.restore_with(&person, &Wanted::Latest, back.path(), delete).unwrap();
    assert_eq!((report.deleted, report.files_written), (1, 0));
    assert_eq!(tree::describe(back.path()), tree::describe(source.path()));
}

#[test]
fn overwrite_modes_do_what_they_say() {
    let (source, host, person) = place();
    host.backup(source.path()).unwrap();
    let back = tempfile::tempdir().unwrap();
    host.restore(&person, &Wanted::Latest, back.path()).unwrap();
    let file = back.path().join("docs/deep/b.bin");
    let original = fs::read(&file).unwrap();
    for (mode, comes_back) in [
        (Overwrite::Never, false),
        (Overwrite::IfNewer, false),
        (Overwrite::IfChanged, true),
        (Overwrite::Always, true),
    ] {
        // The file on disk is newer than the snapshot's.
        fs::write(&file, "scribble").unwrap();
        let mut options = options(mode);
        options.verify = comes_back;
        host.restore_with(&person, &Wanted::Latest, back.path(), options).unwrap();
        assert_eq!(fs::read(&file).unwrap() == original, comes_back, "{mode:?}");
    }
}

#[test]
fn delta_writes_only_what_differs() {
    let (source, host, person) = place();
    let big = source.path().join("big");
    fs::write(&big, tree::lines(200_000, 3)).unwrap();
    tree::age(source.path());
    host.backup(source.path()).unwrap();
    let back = tempfile::tempdir().unwrap();
    host.restore(&person, &Wanted::Latest, back.path()).unwrap();
    let copy = back.path().join("big");
    let mut text = fs::read(&copy).unwrap();
    let size = text.len() as u64;
    let middle = text.len() / 2;
    text[middle] ^= 1;
    text.extend_from_slice(b"and a tail");
    fs::write(&copy, text).unwrap();
    let report = host.restore_with(&person, &Wanted::Latest, back.path(), options(Overwrite::Delta)).unwrap();
    assert_eq!(tree::describe(back.path()), tree::describe(source.path()));
    assert!(report.bytes_written > 0 && report.bytes_written <= 65_536, "{} bytes written", report.bytes_written);
    assert!(report.bytes_kept >= size - 65_536);
}

#[test]
fn an_interrupted_restore_continues() {
    let (source, host, person) = place();
    host.backup(source.path()).unwrap();
    let back = tempfile::tempdir().unwrap();
    let (mut repository, _) = host.open(Some(&person)).unwrap();
    let (snapshot, choice) = find_snapshot(&repository, "data", &Wanted::Latest, false).unwrap();
    let prepared = prepare(&repository, snapshot, &choice, Some(back.path()), plain(), &Silent).unwrap();
    let stop = CancelFlag::default();
    stop.0.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(ops::restore::restore(&mut repository, &prepared, &stop).is_err());
    assert!(back.path().join(mark_of(&choice.id)).exists(), "half a restore says that it is one");
    // What it had written may be torn.
    fs::create_dir_all(back.path().join("docs/deep")).unwrap();
    fs::write(back.path().join("docs/a.jsonl"), "torn").unwrap();
    let (snapshot, choice) = find_snapshot(&repository, "data", &Wanted::Latest, false).unwrap();
    let again = prepare(&repository, snapshot, &choice, Some(back.path()), plain(), &Silent).unwrap();
    assert_eq!(again.plan.state, LandingState::Interrupted);
    ops::restore::restore(&mut repository, &again, &Silent).unwrap();
    assert_eq!(tree::describe(back.path()), tree::describe(source.path()));
}

#[test]
fn a_part_is_restored_with_the_directories_that_it_lies_in() {
    let (source, host, person) = place();
    host.backup(source.path()).unwrap();
    let back = tempfile::tempdir().unwrap();
    let part = RestoreOptions { selection: Selection::new(&["b.bin".into()], &[]).unwrap(), ..plain() };
    host.restore_with(&person, &Wanted::Latest, back.path(), part).unwrap();
    let names: Vec<String> = tree::describe(back.path()).into_keys().collect();
    assert_eq!(names, ["", "docs", "docs/deep", "docs/deep/b.bin"]);
}

#[test]
fn a_cancelled_backup_leaves_no_snapshot_and_the_next_one_is_whole() {
    let (source, host, person) = place();
    let (mut repository, _) = host.open(None).unwrap();
    let volume = VolumeSource::new(source.path(), &Rules::default()).unwrap();
    let stop = CancelFlag::default();
    stop.0.store(true, std::sync::atomic::Ordering::Relaxed);
    let progress: Arc<dyn Progress> = Arc::new(stop);
    let error = ops::backup::backup(&volume, "data", &mut repository, &BackupOptions::default(), &world(), &progress)
        .unwrap_err();
    assert_eq!(error.kind() as u8, 130);
    drop(repository);
    assert!(host.snapshots().is_empty());
    host.backup(source.path()).unwrap();
    let back = tempfile::tempdir().unwrap();
    host.restore(&person, &Wanted::Latest, back.path()).unwrap();
    assert_eq!(tree::describe(back.path()), tree::describe(source.path()));
}

#[test]
fn a_second_run_of_a_source_is_refused_while_the_first_goes_on() {
    let (source, host, _) = place();
    let (repository, _) = host.open(None).unwrap();
    let _held = repository.folder().source_lock("data", false).unwrap().unwrap();
    let busy = host.backup(source.path());
    assert!(matches!(busy, Err(ops::Error::Busy(_))), "{busy:?}");
    host.backup_as(source.path(), "other", &BackupOptions::default()).unwrap();
}

#[test]
fn many_small_changes_keep_the_newest_snapshot_in_few_frames() {
    let source = tempfile::tempdir().unwrap();
    let (host, person) = (Host::new(Arc::new(InMemory::new())), Person::new());
    host.init(&person);
    let path = source.path().join("documents");
    // One document in a hundred, anywhere: each night some third of the chunks is new.
    let mut random = crate::common::chance::Chance::new(7);
    let mut document = |n: usize| {
        let text: String = (0..40).map(|_| format!("{:x} ", random.below(1 << 40))).collect();
        format!("{{\"_id\":{n},\"value\":\"{text}\"}}\n")
    };
    let mut documents: Vec<String> = (0..16_000).map(&mut document).collect();
    let mut which = crate::common::chance::Chance::new(8);
    for _ in 0..20 {
        for _ in 0..documents.len() / 100 {
            let at = which.below(documents.len() as u64) as usize;
            documents[at] = document(at);
        }
        fs::write(&path, documents.concat()).unwrap();
        tree::age(source.path());
        host.backup(source.path()).unwrap();
    }
    let (repository, _) = host.open(Some(&person)).unwrap();
    let (snapshot, choice) = find_snapshot(&repository, "data", &Wanted::Latest, false).unwrap();
    let bytes = snapshot.record.bytes;
    let prepared = prepare(&repository, snapshot, &choice, None, plain(), &Silent).unwrap();
    let (mut plain_bytes, mut frames) = (0, 0);
    for (first, last) in &repository.catalog().snapshots().unwrap().last().unwrap().record.uses.0 {
        for row in *first..=*last {
            plain_bytes += repository.catalog().frame(row as i64).unwrap().plain;
            frames += 1;
        }
    }
    assert!(prepared.plan.frames <= frames);
    assert!(10 * plain_bytes < 18 * bytes, "the newest snapshot of {bytes} bytes reads frames of {plain_bytes}");
}

#[test]
fn a_long_run_commits_what_it_has_stored_and_its_snapshot_counts_it() {
    let source = tempfile::tempdir().unwrap();
    for n in 0..3 {
        fs::write(source.path().join(format!("f{n}")), tree::noise(45_000_000, n)).unwrap();
    }
    // The same bytes again, when their frames are long committed.
    fs::copy(source.path().join("f0"), source.path().join("g")).unwrap();
    tree::age(source.path());
    let (host, person) = (Host::new(Arc::new(InMemory::new())), Person::new());
    host.init(&person);
    let mut long = world();
    let (ticks, start) = (std::sync::atomic::AtomicI64::new(0), clock()());
    // Six minutes pass between two looks at the clock.
    long.clock = Arc::new(move || {
        start + chrono::TimeDelta::seconds(360 * ticks.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
    });
    let (mut repository, _) = host.open(None).unwrap();
    let volume = VolumeSource::new(source.path(), &Rules::default()).unwrap();
    let progress: Arc<dyn Progress> = Arc::new(Silent);
    let report =
        ops::backup::backup(&volume, "data", &mut repository, &BackupOptions::default(), &long, &progress).unwrap();
    let row = repository.host_row().unwrap();
    assert!(repository.catalog().commits(row, true).unwrap().len() > 2, "it committed on the way");
    assert!(report.counts.bytes_new < 140_000_000, "the copy was found: {}", report.counts.bytes_new);
    let stats = ops::look::stats(&repository).unwrap();
    assert_eq!(stats.unused_bytes, 0, "the snapshot uses every frame that the run stored, early ones too");
    drop(repository);
    let back = tempfile::tempdir().unwrap();
    host.restore(&person, &Wanted::Latest, back.path()).unwrap();
    assert_eq!(tree::describe(back.path()), tree::describe(source.path()));
}

#[test]
fn a_file_that_holds_the_manifests_own_lines_is_stored_whole() {
    // Lines of the manifest go into a frame that waits for the entries; a file must never wait for that frame in turn.
    let source = tempfile::tempdir().unwrap();
    for n in 0..6000 {
        fs::create_dir(source.path().join(format!("directory-{n:05}-with-a-long-name-so-that-lines-are-long")))
            .unwrap();
    }
    let person = Person::new();
    let lines = |host: &Host| {
        let (repository, _) = host.open(Some(&person)).unwrap();
        let newest = repository.catalog().snapshots().unwrap().pop().unwrap();
        let mut reader = repository.manifest(&newest, &Silent).unwrap();
        let mut text = Vec::new();
        while let Some(entry) = reader.next_stored().unwrap() {
            if entry.is_dir() && !entry.path.is_root() {
                text.extend_from_slice(reader.line());
            }
        }
        text
    };
    tree::age(source.path());
    let objects = Arc::new(InMemory::new());
    let first = Host::new(Arc::clone(&objects) as _);
    first.init(&person);
    first.backup_as(source.path(), "other", &BackupOptions::default()).unwrap();
    let text = lines(&first);
    assert!(text.len() > 1_100_000, "long enough for cuts to fall at the same places: {}", text.len());
    for name in ["zz-1", "zz-2"] {
        fs::write(source.path().join(name), &text).unwrap();
    }
    // The same secret and so the same cuts, and a writer that knows no chunk yet.
    let second = Host::new(objects);
    second.join(&person).unwrap();
    let report = second.backup(source.path()).unwrap();
    assert_eq!((report.record.files, report.record.complete), (2, true));
    let back = tempfile::tempdir().unwrap();
    second.restore(&person, &Wanted::Latest, back.path()).unwrap();
    for name in ["zz-1", "zz-2"] {
        assert_eq!(fs::read(back.path().join(name)).unwrap(), text, "{name}");
    }
}
