//! A Convex deployment with a host that backs it up, and what comes back compared with the deployment's own model.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use deployment::{Deployment, Options, StateAt, json};
use lifeboat::client::convex::Patience;
use lifeboat::format::zip::{MemberReader, members};
use lifeboat::model::ConvexFacts;
use lifeboat::ops;
use lifeboat::ops::backup::{BackupOptions, BackupReport, World, backup};
use lifeboat::ops::documents::gather;
use lifeboat::ops::restore::convex::{DeploymentRestore, From, Wishes, plan, write_zip};
use lifeboat::plan::restore::Wanted;
use lifeboat::progress::{Event, Progress, Silent};
use lifeboat::repository::Repository;
use lifeboat::source::convex::{ConvexOptions, ConvexSource, KeyFrom};
use object_store::memory::InMemory;
use tempfile::TempDir;

use super::chance::Chance;
use super::{Host, Person, world};

/// The members of an archive.
pub type Archive = BTreeMap<String, Vec<u8>>;

pub struct Scene {
    pub convex: Deployment,
    pub host: Host,
    pub person: Person,
    pub folder: TempDir,
}

/// Remembers what a person would be warned of.
#[derive(Default)]
pub struct Heard(pub Mutex<Vec<String>>);

impl Progress for Heard {
    fn event(&self, event: Event<'_>) {
        if let Event::Warning(text) = event {
            self.0.lock().unwrap().push(text.to_owned());
        }
    }
}

impl Scene {
    pub fn new() -> Self {
        Self::with(Options::default())
    }

    pub fn with(options: Options) -> Self {
        let (host, person) = (Host::new(Arc::new(InMemory::new())), Person::new());
        host.init(&person);
        let scene =
            Self { convex: Deployment::start(options).unwrap(), host, person, folder: tempfile::tempdir().unwrap() };
        fs::create_dir(scene.path("work")).unwrap();
        fs::write(scene.path("key"), scene.convex.admin_key()).unwrap();
        scene
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Without pauses: tests assert on work, never on time.
    pub fn options(&self) -> ConvexOptions {
        ConvexOptions {
            url: Some(self.convex.url()),
            key: KeyFrom::File(self.path("key")),
            work_dir: Some(self.path("work")),
            look: Duration::from_millis(2),
            patience: Patience { tries: 4, pause: Duration::ZERO },
            ..ConvexOptions::default()
        }
    }

    pub fn backup(&self) -> BackupReport {
        let report = self.try_backup(self.options());
        let report = report.unwrap_or_else(|e| panic!("{}", said(&e)));
        assert!(report.record.complete, "{:?}", report.skipped);
        report
    }

    pub fn try_backup(&self, options: ConvexOptions) -> Result<BackupReport, ops::Error> {
        self.backup_heard(options, Arc::new(Silent))
    }

    pub fn backup_heard(
        &self,
        options: ConvexOptions,
        progress: Arc<dyn Progress>,
    ) -> Result<BackupReport, ops::Error> {
        let (mut repository, _) = self.host.open(None)?;
        Self::backup_into(options, &mut repository, &world(), progress)
    }

    pub fn backup_into(
        options: ConvexOptions,
        repository: &mut Repository,
        world: &World,
        progress: Arc<dyn Progress>,
    ) -> Result<BackupReport, ops::Error> {
        let source = ConvexSource::new(options, (world.clock)(), Arc::clone(&progress))?;
        let wait = BackupOptions { wait: true, ..BackupOptions::default() };
        backup(&source, "app", repository, &wait, world, &progress)
    }

    pub fn facts(&self, report: &BackupReport) -> ConvexFacts {
        serde_json::from_value(report.record.facts.clone()).unwrap()
    }

    /// The state that a snapshot must show, by the model.
    pub fn state_of(&self, report: &BackupReport) -> StateAt {
        self.convex.state_at(self.facts(report).timestamp().unwrap())
    }

    pub fn planned(&self, wanted: &Wanted, wishes: &Wishes) -> Result<(Repository, DeploymentRestore), ops::Error> {
        let (repository, _) = self.host.open(Some(&self.person))?;
        let documents = gather(&repository, "app")?;
        let from = From::find(&repository, documents.as_ref(), "app", wanted, false)?;
        let mut restore = plan(&repository, from, wishes, &Silent)?;
        restore.fold(&repository, documents.as_ref(), &self.path("work"), &Silent)?;
        Ok((repository, restore))
    }

    /// The archive of the newest snapshot.
    pub fn zip(&self, wishes: &Wishes) -> Vec<u8> {
        self.zip_of(&Wanted::Latest, wishes)
    }

    pub fn zip_of(&self, wanted: &Wanted, wishes: &Wishes) -> Vec<u8> {
        let (repository, restore) = self.planned(wanted, wishes).unwrap();
        write_zip(&repository, &restore, Vec::new(), &Silent).unwrap()
    }

    /// Requires that the snapshot's archive is the state that the model had at its time.
    pub fn assert_restores(&self, report: &BackupReport) {
        let wanted = Wanted::Named(report.record.id.to_string());
        let bytes = self.zip_of(&wanted, &Wishes::default());
        assert_state(&unzip(&bytes), &self.state_of(report));
        assert!(self.work_is_empty(), "something is left in the work directory");
    }

    /// Bytes of an export as the deployment makes it now.
    pub fn zip_length(&self) -> u64 {
        let client = lifeboat::source::convex::resolve(
            &self.options(),
            chrono::Utc::now(),
            lifeboat::client::convex::Rights::Full,
            Arc::default(),
        );
        let export = lifeboat::source::convex::fetch_export(
            &client.unwrap(),
            &self.options(),
            self.convex.instance_name(),
            &Silent,
        );
        export.unwrap().file.file.metadata().unwrap().len()
    }

    pub fn work_is_empty(&self) -> bool {
        fs::read_dir(self.path("work")).unwrap().next().is_none()
    }

    pub fn snapshots(&self) -> usize {
        self.host.snapshots().len()
    }
}

/// An error with its causes.
pub fn said(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

pub fn unzip(bytes: &[u8]) -> Archive {
    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, bytes).unwrap();
    let all = members(&file).unwrap();
    let file = Arc::new(file);
    let read = |member| {
        let mut content = Vec::new();
        MemberReader::new(Arc::clone(&file), member).read_to_end(&mut content).unwrap();
        content
    };
    all.iter().map(|member| (member.name.clone(), read(member))).collect()
}

fn prefix(component: &str) -> String {
    component.split('/').filter(|name| !name.is_empty()).map(|name| format!("_components/{name}/")).collect()
}

/// Compares an archive with a state, line by line and byte by byte.
pub fn assert_state(archive: &Archive, state: &StateAt) {
    let mut expected = BTreeMap::new();
    for ((component, table), documents) in &state.tables {
        let lines: String = documents.values().map(|line| format!("{line}\n")).collect();
        expected.insert(format!("{}{table}/documents.jsonl", prefix(component)), lines.into_bytes());
        expected.insert(format!("{}{table}/generated_schema.jsonl", prefix(component)), b"\"uniform\"\n".to_vec());
    }
    let mut numbers: BTreeMap<String, Vec<(u32, String)>> = BTreeMap::new();
    for ((component, table), number) in &state.numbers {
        numbers.entry(component.clone()).or_default().push((*number, table.clone()));
    }
    for (component, mut tables) in numbers {
        tables.sort();
        let lines: String = tables.iter().map(|(id, name)| format!("{{\"name\":\"{name}\",\"id\":{id}}}\n")).collect();
        expected.insert(format!("{}_tables/documents.jsonl", prefix(&component)), lines.into_bytes());
    }
    let mut files: BTreeMap<String, String> = BTreeMap::new();
    let mut blobs = BTreeMap::new();
    for ((component, id), file) in &state.files {
        let content_type = file.content_type.as_ref().map_or_else(|| "null".to_owned(), |text| format!("\"{text}\""));
        let line = format!(
            "{{\"_id\":\"{id}\",\"_creationTime\":{},\"sha256\":\"{}\",\"size\":{},\"contentType\":{content_type},\
             \"internalId\":\"{}\"}}\n",
            file.created, file.sha256, file.size, file.uuid
        );
        files.entry(format!("{}_storage/documents.jsonl", prefix(component))).or_default().push_str(&line);
        blobs.insert(format!("{}_storage/{id}", prefix(component)), file.bytes.to_vec());
    }
    let is_file = |name: &String| name.contains("_storage/");
    let documents: Archive =
        archive.iter().filter(|(name, _)| !is_file(name)).map(|(n, c)| (n.clone(), c.clone())).collect();
    assert_eq!(documents.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, content) in &expected {
        assert_eq!(
            String::from_utf8_lossy(&documents[name]),
            String::from_utf8_lossy(content),
            "`{name}` is not as the model has it"
        );
    }
    let mut found_blobs = BTreeMap::new();
    for (name, content) in archive.iter().filter(|(name, _)| is_file(name)) {
        if name.ends_with("_storage/documents.jsonl") {
            let expected = files.remove(name).unwrap_or_default();
            assert_eq!(String::from_utf8_lossy(content), expected, "`{name}`");
        } else {
            let (folder, base) = name.rsplit_once('/').unwrap();
            found_blobs.insert(format!("{folder}/{}", base.split('.').next().unwrap()), content.clone());
        }
    }
    assert!(files.is_empty(), "no list of {files:?}");
    assert_eq!(found_blobs, blobs);
}

/// Fields of every kind that text has to carry exactly.
pub const ODD: &str = r#"{"Capital":1,"big":9007199254740993,"bytes":{"$bytes":"AP+A"},"deep":[[[[{"a":[1,1.0]}]]]],
 "empty":{"$bytes":""},"exp":1e300,"inf":{"$float":"AAAAAAAA8H8="},"max":9223372036854775807,"min":-9223372036854775808,"minus_zero":-0.0,
 "nan":{"$float":"AQAAAAAA+H8="},"none":null,"seven":7,"seven_float":7.0,"text":"zoë \"quoted\" \u2028 \\","yes":true}"#;

/// Writes by chance: inserts, patches, deletes, files, in the root and in two components.
pub fn work(convex: &Deployment, chance: &mut Chance, ids: &mut Vec<String>, steps: u64) {
    for _ in 0..steps {
        let n = chance.next();
        match n % 10 {
            0..=4 => {
                let table = ["users", "Orders", "log"][chance.below(3) as usize];
                let component = ["", "", "waitlist", "waitlist/inner"][chance.below(4) as usize];
                let body = "x".repeat(chance.below(4000) as usize);
                let text = format!("{{\"n\":{n},\"f\":{}.5,\"odd\":{ODD},\"body\":\"{body}\"}}", n % 100);
                ids.push(convex.insert((component, table), json(&text)));
            }
            5..=6 if !ids.is_empty() => {
                let id = &ids[chance.below(ids.len() as u64) as usize];
                convex.patch(id, json(&format!("{{\"patched\":{n}}}")));
            }
            7 if !ids.is_empty() => {
                let id = ids.swap_remove(chance.below(ids.len() as u64) as usize);
                convex.delete(&id);
            }
            8 => {
                let mut bytes = vec![0; chance.below(200_000) as usize];
                blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof().fill(&mut bytes);
                let content_type = [None, Some("image/png"), Some("text/plain")][chance.below(3) as usize];
                convex.store_file(["", "waitlist"][chance.below(2) as usize], content_type, bytes);
            }
            _ => {}
        }
    }
}
