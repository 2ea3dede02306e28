//! The contract of a store: the same functions over memory, disk and a real S3 server.

use std::sync::Arc;

use bytes::Bytes;
use lifeboat::store::{Created, Credentials, Error, Store, open_url};
use object_store::memory::InMemory;

use crate::common::s3::S3Server;
use crate::common::tree::noise;
use crate::common::{Host, Person, limits, tree};

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
    for n in 0..1100 {
        put(store, &format!("page/{n:04}"), b"x").unwrap();
    }
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
fn s3_keeps_the_contract_and_carries_a_repository() {
    let Some(server) = S3Server::start() else { return };
    contract(&server.store("contract"));
    // The whole way over HTTP, too.
    let folder = tempfile::tempdir().unwrap();
    let (source, back) = (folder.path().join("source"), folder.path().join("back"));
    tree::make(&source, 5);
    tree::age(&source);
    let (host, person) = (Host::new(Arc::new(InMemory::new())), Person::new());
    let recipients = [person.recipient.parse().unwrap()];
    let store = server.store("repository");
    lifeboat::repository::init(&store, &host.options(&recipients)).unwrap();
    let open = |identities| {
        let keys = lifeboat::repository::Keys { identities, ..Default::default() };
        let options = lifeboat::repository::OpenOptions { state: host.state.path(), catalog: None, keys, sync: true };
        lifeboat::repository::Repository::open(server.store("repository"), options, &lifeboat::progress::Silent)
            .unwrap()
            .0
    };
    let volume = lifeboat::source::VolumeSource::new(&source, &Default::default()).unwrap();
    let progress: Arc<dyn lifeboat::progress::Progress> = Arc::new(lifeboat::progress::Silent);
    let world = crate::common::world();
    lifeboat::ops::backup::backup(
        &volume,
        "data",
        &mut open(Default::default()),
        &Default::default(),
        &world,
        &progress,
    )
    .unwrap();
    let mut repository = open(person.identities());
    use lifeboat::ops::restore::{find_snapshot, prepare, restore};
    let wanted = lifeboat::plan::restore::Wanted::Latest;
    let (snapshot, choice) = find_snapshot(&repository, "data", &wanted, false).unwrap();
    let silent = lifeboat::progress::Silent;
    let prepared = prepare(&repository, snapshot, &choice, Some(&back), crate::common::plain(), &silent).unwrap();
    restore(&mut repository, &prepared, &silent).unwrap();
    assert_eq!(tree::describe(&back), tree::describe(&source));
}

#[test]
fn a_store_without_conditional_puts_is_written_after_a_look() {
    let folder = tempfile::tempdir().unwrap();
    let inner = Arc::new(object_store::local::LocalFileSystem::new_with_prefix(folder.path()).unwrap());
    let store = Store::new(Arc::new(NoConditions(inner)), "", "plain", limits(2)).unwrap();
    creates_and_never_overwrites(&store);
}

/// Refuses conditional puts, as some S3 servers do.
#[derive(Debug)]
struct NoConditions(Arc<dyn object_store::ObjectStore>);

impl std::fmt::Display for NoConditions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NoConditions")
    }
}

#[async_trait::async_trait]
impl object_store::ObjectStore for NoConditions {
    async fn put_opts(
        &self,
        location: &object_store::path::Path,
        payload: object_store::PutPayload,
        options: object_store::PutOptions,
    ) -> object_store::Result<object_store::PutResult> {
        if options.mode == object_store::PutMode::Create {
            let (operation, implementer) = ("If-None-Match".into(), "plain".into());
            return Err(object_store::Error::NotImplemented { operation, implementer });
        }
        self.0.put_opts(location, payload, options).await
    }
    async fn put_multipart_opts(
        &self,
        location: &object_store::path::Path,
        options: object_store::PutMultipartOptions,
    ) -> object_store::Result<Box<dyn object_store::MultipartUpload>> {
        self.0.put_multipart_opts(location, options).await
    }
    async fn get_opts(
        &self,
        location: &object_store::path::Path,
        options: object_store::GetOptions,
    ) -> object_store::Result<object_store::GetResult> {
        self.0.get_opts(location, options).await
    }
    fn delete_stream(
        &self,
        locations: futures_util::stream::BoxStream<'static, object_store::Result<object_store::path::Path>>,
    ) -> futures_util::stream::BoxStream<'static, object_store::Result<object_store::path::Path>> {
        self.0.delete_stream(locations)
    }
    fn list(
        &self,
        prefix: Option<&object_store::path::Path>,
    ) -> futures_util::stream::BoxStream<'static, object_store::Result<object_store::ObjectMeta>> {
        self.0.list(prefix)
    }
    async fn list_with_delimiter(
        &self,
        prefix: Option<&object_store::path::Path>,
    ) -> object_store::Result<object_store::ListResult> {
        self.0.list_with_delimiter(prefix).await
    }
    async fn copy_opts(
        &self,
        from: &object_store::path::Path,
        to: &object_store::path::Path,
        options: object_store::CopyOptions,
    ) -> object_store::Result<()> {
        self.0.copy_opts(from, to, options).await
    }
}
