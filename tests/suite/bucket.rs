//! Buckets as sources, against other people's servers: backed up by listing, restored into a directory or a bucket.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::sync::Arc;

use lifeboat::ops::backup::{BackupOptions, BackupReport, backup};
use lifeboat::ops::restore::{
    BucketReport, Overwrite, RestoreOptions, find_snapshot, look_at_bucket, prepare, restore_bucket,
};
use lifeboat::ops::{self, Selection};
use lifeboat::plan::restore::Wanted;
use lifeboat::progress::{Progress, Silent};
use lifeboat::source::{BucketOptions, BucketSource};
use lifeboat::store::{Bucket, Told};
use object_store::memory::InMemory;

use crate::cli::Sealed;
use crate::common::servers::Server;
use crate::common::tree::noise;
use crate::common::{Host, Person, plain, world};

struct Place {
    server: Server,
    host: Host,
    person: Person,
}

impl Place {
    fn new(server: Server) -> Self {
        let (host, person) = (Host::new(Arc::new(InMemory::new())), Person::new());
        host.init(&person);
        Self { server, host, person }
    }

    fn bucket(&self, prefix: &str) -> Bucket {
        Bucket::open(&format!("{}/{prefix}", self.server.url()), self.server.credentials()).unwrap()
    }

    fn back_up(&self, urls: &[(&str, &str)], exclude: &[&str]) -> Result<BackupReport, ops::Error> {
        let options = BucketOptions {
            urls: urls
                .iter()
                .map(|(name, prefix)| ((*name).to_owned(), format!("{}/{prefix}", self.server.url())))
                .collect(),
            credentials: self.server.credentials().clone(),
            exclude: exclude.iter().map(|pattern| (*pattern).to_owned()).collect(),
            blobs: true,
        };
        let source = BucketSource::new(&options, chrono::Utc::now())?;
        let (mut repository, _) = self.host.open(None)?;
        let silent: Arc<dyn Progress> = Arc::new(Silent);
        // An hour later: what was written within the last seconds before a backup is read again by the next one.
        let clock = Arc::new(|| chrono::Utc::now() + chrono::TimeDelta::hours(1));
        let world = lifeboat::ops::backup::World { clock, ..world() };
        backup(&source, "media", &mut repository, &BackupOptions::default(), &world, &silent)
    }

    fn restore(&self, into: &Bucket, options: RestoreOptions) -> Result<BucketReport, ops::Error> {
        let (repository, _) = self.host.open(Some(&self.person))?;
        let newest = self.host.snapshots().pop().unwrap();
        let (snapshot, choice) = find_snapshot(&repository, "media", &Wanted::Named(newest), false)?;
        look_at_bucket(into, options.overwrite)?;
        let prepared = prepare(&repository, snapshot, &choice, None, options, &Silent)?;
        restore_bucket(&repository, &prepared, into, &Silent)
    }
}

fn png(name: &str) -> Told {
    vec![("content-type".to_owned(), "image/png".to_owned()), ("meta.name".to_owned(), name.to_owned())]
}

fn put(bucket: &Bucket, key: &str, told: &Told, mut bytes: &[u8]) {
    let size = bytes.len() as u64;
    assert!(bucket.write(key, size, told, true, &mut bytes).unwrap());
}

/// Everything in a bucket: bytes, and what the store tells beside them.
fn all(bucket: &Bucket) -> BTreeMap<String, (Vec<u8>, Told)> {
    let read = |object: &lifeboat::store::Object| {
        let (mut reader, mut bytes) = (bucket.read(object).unwrap(), Vec::new());
        let told: Told = reader.told().iter().filter(|(name, _)| !name.starts_with("meta.x")).cloned().collect();
        reader.read_to_end(&mut bytes).unwrap();
        (bytes, told)
    };
    bucket.list().unwrap().iter().map(|object| (object.key.clone(), read(object))).collect()
}

fn there_and_back(server: Server) {
    let place = Place::new(server);
    let from = place.bucket("app");
    let large = noise(20_000_000, 1);
    for n in 0..40 {
        put(&from, &format!("2026/{n:02}/picture {n}.png"), &png(&n.to_string()), &noise(n * 1000, n as u64));
    }
    put(&from, "large.bin", &Told::new(), &large);
    put(&from, "cache/thumb", &Told::new(), b"left out");
    let report = place.back_up(&[("", "app")], &["cache/"]).unwrap();
    assert!(report.record.complete, "{:?}", report.skipped);
    assert_eq!((report.record.files, report.files_new), (41, 41));
    // The next one reads what is new alone.
    put(&from, "2026/99/new.png", &png("new"), b"a new one");
    let report = place.back_up(&[("", "app")], &["cache/"]).unwrap();
    assert_eq!((report.files_new, report.files_unmodified, report.bytes_read), (1, 41, 9), "{report:?}");
    let report = place.back_up(&[("", "app")], &["cache/"]).unwrap();
    assert_eq!((report.files_unmodified, report.bytes_read), (42, 0), "{report:?}");
    let into = place.bucket("restored");
    let options = RestoreOptions { verify: true, ..plain() };
    let done = place.restore(&into, options).unwrap();
    assert_eq!((done.written, done.verified, done.kept), (42, 42, 0));
    let mut expected = all(&from);
    expected.remove("cache/thumb");
    assert_eq!(all(&into), expected);
    // What lies there is not touched unless it was said.
    put(&into, "large.bin", &Told::new(), b"somebody's own");
    let refused = place.restore(&into, plain()).unwrap_err();
    assert!(matches!(refused, ops::Error::BucketNotEmpty { objects: 42, .. }), "{refused}");
    let kept = place.restore(&into, RestoreOptions { overwrite: Overwrite::Never, verify: false, ..plain() }).unwrap();
    assert_eq!((kept.written, kept.kept), (0, 42));
    let differs = RestoreOptions { overwrite: Overwrite::Never, verify: true, ..plain() };
    let differs = place.restore(&into, differs).unwrap_err();
    assert!(
        matches!(&differs, ops::Error::BucketDiffers { objects: 1, first, .. } if first == "large.bin"),
        "{differs}"
    );
    place.restore(&into, RestoreOptions { overwrite: Overwrite::Always, ..plain() }).unwrap();
    assert_eq!(all(&into), expected);
}

#[test]
fn a_restore_that_goes_on_writes_what_belongs_there() {
    let Some(server) = Server::moto() else { return };
    let place = Place::new(server);
    let from = place.bucket("app");
    for n in 0..10 {
        put(&from, &format!("a{n}"), &Told::new(), &noise(5_000, n));
    }
    put(&from, "b-large", &Told::new(), &noise(40_000_000, 99));
    put(&from, "c", &Told::new(), &noise(5_000, 77));
    place.back_up(&[("", "app")], &[]).unwrap();
    // As after a restore that was cut off in the middle.
    let into = place.bucket("into");
    for n in 0..5 {
        put(&into, &format!("a{n}"), &Told::new(), &noise(5_000, n));
    }
    let options = RestoreOptions { overwrite: Overwrite::Never, verify: true, ..plain() };
    let done = place.restore(&into, options).unwrap();
    assert_eq!((done.kept, done.written, done.verified), (5, 7, 12));
    assert!(all(&into) == all(&from));
}

#[test]
fn a_bucket_of_moto_goes_there_and_back() {
    if let Some(server) = Server::moto() {
        there_and_back(server);
    }
}

#[test]
fn a_bucket_of_seaweedfs_goes_there_and_back() {
    if let Some(server) = Server::seaweedfs() {
        there_and_back(server);
    }
}

#[test]
fn a_container_of_azurite_goes_there_and_back() {
    if let Some(server) = Server::azurite() {
        there_and_back(server);
    }
}

#[test]
fn several_buckets_are_one_snapshot_and_odd_names_are_told() {
    let Some(server) = Server::moto() else { return };
    let place = Place::new(server);
    for (prefix, key) in [("files", "one"), ("files", "two%20words ü"), ("modules", "code"), ("modules", "code/inner")]
    {
        put(&place.bucket(prefix), key, &Told::new(), key.as_bytes());
    }
    // A marker of a folder is none of its files.
    put(&place.bucket("files"), "deep", &Told::new(), b"");
    put(&place.bucket("files"), "deep/er", &Told::new(), b"x");
    let report = place.back_up(&[("files", "files"), ("modules", "modules")], &[]).unwrap();
    assert_eq!(report.record.files, 4, "{report:?}");
    assert_eq!(report.skipped.len(), 1, "{:?}", report.skipped);
    assert!(report.skipped[0].0 == "modules/code" && report.skipped[0].1.contains("below its name"));
    let into = place.bucket("back");
    let selection = Selection::below(lifeboat::model::RelPath::new("files").unwrap());
    place.restore(&into, RestoreOptions { selection, ..plain() }).unwrap();
    let keys: Vec<String> = all(&into).into_keys().collect();
    assert_eq!(keys, ["deep/er", "one", "two%20words ü"]);
}

#[test]
fn what_is_away_or_goes_meanwhile_is_told() {
    let Some(server) = Server::moto() else { return };
    let place = Place::new(server);
    let missing = BucketOptions {
        urls: [(String::new(), "s3://no-such-bucket".to_owned())].into(),
        credentials: place.server.credentials().clone(),
        ..BucketOptions::default()
    };
    let source = BucketSource::new(&missing, chrono::Utc::now()).unwrap();
    let (mut repository, _) = place.host.open(None).unwrap();
    let silent: Arc<dyn Progress> = Arc::new(Silent);
    let error = backup(&source, "media", &mut repository, &BackupOptions::default(), &world(), &silent).unwrap_err();
    assert!(error.to_string().contains("no-such-bucket"), "{error}");
    let error = Bucket::open("/srv/data", place.server.credentials()).unwrap_err().to_string();
    assert!(error.contains("a source of kind `volume`"), "{error}");
}

#[test]
fn the_command_line_backs_a_bucket_up_and_restores_it() {
    let Some(server) = Server::moto() else { return };
    let credentials = server.credentials().clone();
    let sealed = Sealed::new();
    sealed.init();
    let store = format!(
        "endpoint = \"{}\"\nregion = \"us-east-1\"\nallow_http = true\naccess_key_id_file = \"{}\"\nsecret_access_key_file = \"{}\"\n",
        credentials.endpoint.as_ref().unwrap(),
        credentials.access_key_id_file.as_ref().unwrap().display(),
        credentials.secret_access_key_file.as_ref().unwrap().display(),
    );
    let config = format!(
        "[repository]\nurl = \"repo\"\nidentity_file = \"identity.txt\"\n[sources.media]\nkind = \"bucket\"\nurl = \"s3://bucket/app\"\n\
         [sources.media.store]\n{store}"
    );
    fs::write(sealed.path("lifeboat.toml"), config).unwrap();
    let bucket = Bucket::open("s3://bucket/app", &credentials).unwrap();
    put(&bucket, "a/one.txt", &png("one"), b"one");
    let (out, _) = sealed.expect(0, &["backup", "media"]);
    assert!(out.contains("1 file"), "{out}");
    let (out, _) = sealed.expect(0, &["restore", "media", "--into", "s3://bucket/copy", "--dry-run"]);
    assert!(out.contains("s3://bucket/copy (empty)"), "{out}");
    let (out, _) = sealed.expect(0, &["restore", "media", "--into", "s3://bucket/copy", "--verify"]);
    assert!(out.contains("restored  1 object") && out.contains("verified  1 object"), "{out}");
    let (_, err) = sealed.expect(2, &["restore", "media", "--into", "s3://bucket/copy"]);
    assert!(err.contains("is not empty: 1 objects") && err.contains("--overwrite never"), "{err}");
    let (_, err) = sealed.expect(2, &["restore", "media", "--into", "s3://bucket/copy", "--delta"]);
    assert!(err.contains("`--delta` is not for a bucket"), "{err}");
    sealed.expect(0, &["restore", "media", "--into", "there", "--below", "a"]);
    let (_, err) = sealed.expect(2, &["restore", "media", "--into", "nothing", "--below", "b"]);
    assert!(err.contains("nothing"), "{err}");
    assert_eq!(fs::read(sealed.path("there/one.txt")).unwrap(), b"one");
    sealed.backup();
    let (_, err) = sealed.expect(2, &["restore", "data", "--into", "s3://bucket/other"]);
    assert!(err.contains("only a bucket goes into a bucket"), "{err}");
}
