//! The contract of a store: the same functions over memory, disk, and real servers of S3, Azure and Google's kind.

use std::sync::Arc;

use bytes::Bytes;
use lifeboat::ops::check::{ReadData, check};
use lifeboat::ops::validate::{Guarantee, Held, Scale, ValidateReport, validate};
use lifeboat::plan::restore::Wanted;
use lifeboat::progress::Silent;
use lifeboat::store::{Created, Credentials, Error, Limits, Store, open_url};
use object_store::memory::InMemory;

use crate::common::broken::{Broken, Defect};
use crate::common::proxy::{Proxy, Rule};
use crate::common::servers::{self, Server};
use crate::common::tree::noise;
use crate::common::{Host, Person, clock, limits, tree};

fn put(store: &Store, key: &str, body: &[u8]) -> Result<Created, Error> {
    // In parts, as packs come.
    let (a, b) = body.split_at(body.len() / 2);
    store.appender().create(key, &[Bytes::copy_from_slice(a), Bytes::copy_from_slice(b)])
}

fn creates_and_never_overwrites(store: &Store) {
    assert_eq!(put(store, "a/one", b"content").unwrap(), Created::New);
    assert_eq!(put(store, "a/one", b"content").unwrap(), Created::AlreadyThere);
    assert!(matches!(put(store, "a/one", b"longer content"), Err(Error::Conflict { .. })));
    assert_eq!(store.get("a/one", 100).unwrap(), "content");
}

fn reads_whole_parts_and_nothing_too_large(store: &Store) {
    let body = noise(100_000, 1);
    put(store, "b/body", &body).unwrap();
    assert_eq!(store.get("b/body", 100_000).unwrap(), body);
    assert_eq!(store.get_range("b/body", 10..20).unwrap(), body[10..20]);
    assert_eq!(store.get_range("b/body", 99_990..100_000).unwrap(), body[99_990..]);
    assert!(store.get_range("b/body", 99_990..100_001).is_err(), "a range beyond the end is not served short");
    for beyond in [100_000..100_001, 200_000..300_000] {
        let answer = store.get_range("b/body", beyond);
        assert!(matches!(answer, Err(Error::Truncated { got: 0, .. })), "{answer:?}");
    }
    put(store, "b/empty", b"").unwrap();
    assert!(matches!(store.get_range("b/empty", 0..5), Err(Error::Truncated { got: 0, expected: 5, .. })));
    assert!(matches!(store.get("b/body", 99_999), Err(Error::TooLarge { size: 100_000, .. })));
    assert!(matches!(store.get("b/none", 10), Err(Error::NotFound { .. })));
    assert!(matches!(store.get_range("b/none", 0..1), Err(Error::NotFound { .. })));
    assert_eq!((store.size("b/body").unwrap(), store.size("b/none").unwrap()), (Some(100_000), None));
}

fn lists_what_was_put(store: &Store) {
    assert!(store.list("c", None).unwrap().is_empty());
    for key in ["c/1", "c/2", "c/d/3", "cc/4"] {
        put(store, key, key.as_bytes()).unwrap();
    }
    let keys = |after: Option<&str>| {
        let mut keys: Vec<String> = store.list("c", after).unwrap().into_iter().map(|o| o.key).collect();
        keys.sort();
        keys
    };
    assert_eq!(keys(None), ["c/1", "c/2", "c/d/3"]);
    assert_eq!(keys(Some("c/1")), ["c/2", "c/d/3"]);
    assert_eq!(keys(Some("c/1x")), ["c/2", "c/d/3"], "an offset that is no key");
    assert_eq!(store.folders("c").unwrap(), ["d"]);
    assert_eq!(store.files("c").unwrap().len(), 2);
    let listed = store.list("c/d", None).unwrap();
    assert_eq!((listed[0].size, listed.len()), (5, 1));
    let age = (chrono::Utc::now() - listed[0].received).num_seconds().abs();
    assert!(age < 3600, "the store's clock is {age} s away from ours");
}

fn lists_more_than_a_page(store: &Store) {
    std::thread::scope(|scope| {
        for part in 0..11 {
            scope.spawn(move || {
                for n in part * 100..(part + 1) * 100 {
                    put(store, &format!("page/{n:04}"), b"x").unwrap();
                }
            });
        }
    });
    assert_eq!(store.list("page", None).unwrap().len(), 1100);
    assert_eq!(store.list("page", Some("page/1000")).unwrap().len(), 99);
}

fn takes_packs(store: &Store) {
    let body = noise(33 << 20, 2);
    assert_eq!(put(store, "d/pack", &body).unwrap(), Created::New);
    assert_eq!(put(store, "d/pack", &body).unwrap(), Created::AlreadyThere);
    assert_eq!(store.get("d/pack", 64 << 20).unwrap(), body);
}

fn contract(store: &Store) {
    creates_and_never_overwrites(store);
    reads_whole_parts_and_nothing_too_large(store);
    lists_what_was_put(store);
    lists_more_than_a_page(store);
    takes_packs(store);
}

#[test]
fn memory_keeps_the_contract() {
    contract(&Store::new(Arc::new(InMemory::new()), "", "memory", limits(3)).unwrap());
    contract(&Store::new(Arc::new(InMemory::new()), "some/prefix", "memory", limits(3)).unwrap());
}

#[test]
fn disk_keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}", folder.path().join("new").display());
    contract(&open_url(&url, &Credentials::default(), limits(3), true).unwrap());
}

#[test]
fn a_store_without_conditional_puts_is_written_after_a_look() {
    for defect in [Defect::RefusesConditions, Defect::RefusesOnce] {
        let store = Store::new(Broken::new(Arc::new(InMemory::new()), defect), "", "plain", limits(2)).unwrap();
        creates_and_never_overwrites(&store);
    }
    // A server that ignores conditions is one for `conditional_puts = false`.
    let ignores = Broken::new(Arc::new(InMemory::new()), Defect::IgnoresConditions);
    let limits = Limits { look_first: true, ..limits(2) };
    creates_and_never_overwrites(&Store::new(ignores, "", "ignores", limits).unwrap());
}

/// The whole way through a store: init, two backups, a restore, a check of every stored byte.
fn carries_a_repository(store: &Store) {
    let folder = tempfile::tempdir().unwrap();
    let (source, back) = (folder.path().join("source"), folder.path().join("back"));
    tree::make(&source, 5);
    tree::age(&source);
    let person = Person::new();
    let host = Host::reaching(store);
    host.init(&person);
    let first = host.backup(&source).unwrap();
    assert_eq!((first.files_new, first.record.complete), (23, true), "{first:?}");
    std::fs::write(source.join("docs/new.txt"), "new").unwrap();
    tree::age(&source);
    host.backup(&source).unwrap();
    assert_eq!(host.snapshots().len(), 2);
    host.restore(&person, &Wanted::Latest, &back).unwrap();
    assert_eq!(tree::describe(&back), tree::describe(&source));
    // From another host, which has nothing but the store.
    let other = Host::reaching(store);
    let (mut repository, problems) = other.open(Some(&person)).unwrap();
    let report = check(&mut repository, ReadData::All, &problems, clock()(), 1, &Silent).unwrap();
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((report.snapshots, report.manifests_read), (2, 2));
    assert!(report.packs_read > 0 && report.packs_read == report.packs, "{report:?}");
}

/// Contract, repository and validation over a server, with and without conditional puts.
fn everything_over(open: &dyn Fn(&str, bool) -> Store, modes: &[bool]) {
    for look_first in modes {
        contract(&open(&format!("contract-{look_first}"), *look_first));
        carries_a_repository(&open(&format!("repository-{look_first}/deep"), *look_first));
    }
}

/// What `validate-store` finds at a server; small, for the contract has shown the rest.
fn finds(store: &Store) -> ValidateReport {
    let scale = Scale { rounds: 16, racers: 8, objects: 40, large: 2 << 20 };
    let report = validate(&store.scratch("validate-1").unwrap(), scale, &chrono::Utc::now, &Silent).unwrap();
    assert!(report.is_fit() && report.left == 0, "{report:#?}");
    report
}

/// What was found of conditional creates, one after another and in a race.
fn creates(report: &ValidateReport) -> [Held; 2] {
    [Guarantee::CreateIfAbsent, Guarantee::CreateInARace]
        .map(|guarantee| report.findings.iter().find(|finding| finding.guarantee == guarantee).unwrap().held)
}

#[test]
fn seaweedfs_keeps_the_contract_and_carries_a_repository() {
    let Some(server) = Server::seaweedfs() else { return };
    everything_over(&|prefix, look_first| server.store(prefix, look_first), &[false, true]);
    let report = finds(&server.store("some", false));
    assert_eq!(creates(&report), [Held::Yes; 2], "{report:#?}");
    // A server that answers conditional puts with 501 is written after a look, without a word in the configuration.
    let proxy = Proxy::start(server.port(), Rule::NotImplemented);
    let credentials = Credentials { endpoint: Some(proxy.endpoint()), ..server.credentials().clone() };
    let store = servers::open("s3://bucket", "501", &credentials, false);
    creates_and_never_overwrites(&store);
    assert_eq!(proxy.conditional(), 1, "it is asked once, and then no more");
    assert_eq!(creates(&finds(&store)), [Held::Refused; 2]);
}

#[test]
fn moto_keeps_the_contract_and_carries_a_repository() {
    let Some(server) = Server::moto() else { return };
    everything_over(&|prefix, look_first| server.store(prefix, look_first), &[false, true]);
    assert_eq!(creates(&finds(&server.store("some", false)))[0], Held::Yes);
}

#[test]
fn azure_keeps_the_contract_and_carries_a_repository() {
    let Some(server) = Server::azurite() else { return };
    everything_over(&|prefix, look_first| server.store(prefix, look_first), &[false, true]);
    assert_eq!(creates(&finds(&server.store("some", false)))[0], Held::Yes);
}

/// No server at hand speaks Google's XML interface. SeaweedFS speaks what it shares with S3; a proxy translates the
/// condition, and the server ignores it where there is none.
#[test]
fn google_keeps_the_contract_and_carries_a_repository() {
    let Some(server) = Server::seaweedfs() else { return };
    let proxy = Proxy::start(server.port(), Rule::GoogleToS3);
    let through = Credentials { endpoint: Some(proxy.endpoint()), ..server.credentials().clone() };
    everything_over(&|prefix, look_first| servers::open("gs://bucket", prefix, &through, look_first), &[false]);
    assert!(proxy.conditional() > 1100, "{} conditional puts", proxy.conditional());
    let report = finds(&servers::open("gs://bucket", "some", &through, false));
    assert_eq!(creates(&report), [Held::Yes; 2], "{report:#?}");
    let direct = server.credentials();
    everything_over(&|prefix, look_first| servers::open("gs://bucket", prefix, direct, look_first), &[true]);
    let report = finds(&servers::open("gs://bucket", "some", direct, false));
    assert_eq!(creates(&report), [Held::No; 2], "its conditions are not understood: {report:#?}");
}

#[test]
fn a_server_that_is_not_installed_fails_the_tests_where_it_is_required() {
    let empty = tempfile::tempdir().unwrap();
    let run = |name: &str, required: bool| {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args([
            &format!("contract::{name}_keeps_the_contract_and_carries_a_repository"),
            "--exact",
            "--nocapture",
        ]);
        command.env("LIFEBOAT_TEST_TOOLS", empty.path()).env_remove("LIFEBOAT_TEST_REQUIRE");
        if required {
            command.env("LIFEBOAT_TEST_REQUIRE", "1");
        }
        let output = command.output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for name in ["seaweedfs", "moto", "azure", "google"] {
        let (passed, told) = run(name, true);
        assert!(!passed && told.contains("is not installed, and here it must be"), "{name}: {told}");
        let (passed, told) = run(name, false);
        assert!(passed && told.contains("SKIPPED: "), "{name}: {told}");
    }
}

#[test]
fn a_range_beyond_the_end_is_not_asked_for_again_and_again() {
    let folder = tempfile::tempdir().unwrap();
    let disk = object_store::local::LocalFileSystem::new_with_prefix(folder.path()).unwrap();
    for objects in [Arc::new(InMemory::new()) as Arc<dyn object_store::ObjectStore>, Arc::new(disk)] {
        let counted = crate::common::faulty::Faulty::new(objects, 0, crate::common::faulty::Fails::Before);
        let store = Store::new(counted.clone(), "", "counted", limits(6)).unwrap();
        put(&store, "b/body", b"content").unwrap();
        let before = counted.operations();
        assert!(matches!(store.get_range("b/body", 100..200), Err(Error::Truncated { .. })));
        assert_eq!(counted.operations() - before, 2, "the range, and the size");
        let answer = store.get_range("b/body", 5..200);
        assert!(matches!(answer, Err(Error::Truncated { got: 2, expected: 195, .. })), "{answer:?}");
        assert_eq!(counted.operations() - before, 3, "the answer to the range says the size");
    }
}

#[test]
fn a_directory_that_was_moved_away_or_replaced_takes_nothing_and_answers_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (path, aside) = (folder.path().join("repo"), folder.path().join("aside"));
    let store = open_url(path.to_str().unwrap(), &Credentials::default(), limits(1), true).unwrap();
    put(&store, "a/one", b"content").unwrap();
    let refuses = |what: &str| {
        assert!(matches!(put(&store, "a/two", b"content"), Err(Error::Gone { .. })), "{what}: it takes");
        assert!(matches!(store.get("a/one", 100), Err(Error::Gone { .. })), "{what}: it reads");
        assert!(matches!(store.size("a/two"), Err(Error::Gone { .. })), "{what}: it says that nothing is there");
        assert!(matches!(store.list("a", None), Err(Error::Gone { .. })), "{what}: it lists");
    };
    std::fs::rename(&path, &aside).unwrap();
    refuses("moved away");
    assert!(!path.exists(), "nothing is made anew");
    std::fs::create_dir(&path).unwrap();
    refuses("another directory");
    assert_eq!(std::fs::read_dir(&path).unwrap().count(), 0);
    std::fs::remove_dir(&path).unwrap();
    std::fs::rename(&aside, &path).unwrap();
    assert_eq!(store.get("a/one", 100).unwrap(), "content", "it is back");
    assert_eq!(put(&store, "a/two", b"content").unwrap(), Created::New);
}
