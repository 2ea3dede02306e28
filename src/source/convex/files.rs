//! The files of a deployment: listed, and each fetched by itself. A fetch that breaks goes on where it was; what does not match its
//! SHA-256 is an error of that file alone.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Read};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use data_encoding::BASE64;
use reqwest::blocking::Response;

use super::Error;
use crate::client::convex::{self, Component, Deployment, FileRow};
use crate::format::convex::{component_prefix, extension_of};
use crate::progress::{Event, Progress};

/// Files that are fetched at a time: a server with local storage reads each whole into its memory.
pub(super) const PARALLEL: usize = 4;
/// Files of a deployment at most: some 300 bytes of memory each.
pub(super) const FILES_MAX: usize = 8 << 20;
/// Times that a fetch may break without a byte in between.
const BREAKS: u32 = 6;

/// Where a file lies in a snapshot.
pub fn path_of(component: &str, file: &FileRow) -> String {
    format!("{}_storage/{}{}", component_prefix(component), file.id, extension_of(file.content_type.as_deref()))
}

/// All files that were listed, by their path in the snapshot.
#[derive(Debug, Default)]
pub(super) struct Files {
    components: Vec<Component>,
    rows: BTreeMap<String, Row>,
    /// What cannot be fetched, because its row cannot be understood.
    pub odd: BTreeMap<String, String>,
    gone: Mutex<HashSet<String>>,
}

#[derive(Debug)]
struct Row {
    component: u32,
    file: FileRow,
    /// Whether the second list has it too.
    stayed: bool,
}

impl Files {
    /// Those of a list that is at hand. Any of them may be gone from the server by now.
    pub fn of<'r>(rows: impl IntoIterator<Item = (&'r Component, &'r FileRow)>) -> Self {
        let mut files = Self::default();
        for (component, row) in rows {
            let known = files.components.iter().position(|other| other.path == component.path);
            let number = known.unwrap_or_else(|| {
                files.components.push(component.clone());
                files.components.len() - 1
            });
            files.take(number as u32, &component.path, Ok(row.clone()), false);
        }
        files
    }

    /// The list before the export.
    pub fn list(&mut self, deployment: &Deployment, progress: &dyn Progress) -> Result<(), Error> {
        self.components = deployment.components()?;
        self.take_all(deployment, progress, false)
    }

    /// The list after it: what came meanwhile is taken too, what is gone is remembered as such.
    pub fn list_again(&mut self, deployment: &Deployment, progress: &dyn Progress) -> Result<(), Error> {
        for component in deployment.components()? {
            if !self.components.contains(&component) {
                self.components.push(component);
            }
        }
        self.odd.clear();
        self.take_all(deployment, progress, true)
    }

    fn take_all(&mut self, deployment: &Deployment, progress: &dyn Progress, stayed: bool) -> Result<(), Error> {
        for (number, component) in self.components.clone().iter().enumerate() {
            let mut cursor: Option<String> = None;
            loop {
                let page = deployment.files(component, None, cursor.as_deref())?;
                progress.event(Event::Done { items: page.rows.len() as u64, bytes: 0 });
                for row in page.rows {
                    self.take(number as u32, &component.path, row, stayed);
                }
                if self.rows.len() > FILES_MAX {
                    let why = format!("it has more than {FILES_MAX} files");
                    return Err(Error::Zip { what: deployment.place(), why });
                }
                cursor = page.next;
                if cursor.is_none() {
                    break;
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, component: u32, path: &str, row: Result<FileRow, (String, String)>, stayed: bool) {
        let prefix = component_prefix(path);
        match row {
            Ok(file) => {
                let path = path_of(path, &file);
                self.rows.insert(path, Row { component, file, stayed });
            }
            Err((id, why)) => {
                let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
                let id: String = id.chars().map(plain).collect();
                let name = if id.is_empty() { "without-an-id" } else { &id };
                self.odd.insert(format!("{prefix}_storage/{name}"), why);
            }
        }
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.rows.len()
    }

    /// Paths, sizes, times in milliseconds and SHA-256, in the order of the paths' bytes.
    pub fn all(&self) -> impl Iterator<Item = (&str, &FileRow)> {
        self.rows.iter().map(|(path, row)| (path.as_str(), &row.file))
    }

    /// Paths of components that have files or had a list of them.
    pub fn component_paths(&self) -> impl Iterator<Item = (u32, &str)> {
        self.components.iter().enumerate().map(|(number, component)| (number as u32, component.path.as_str()))
    }

    fn find(&self, path: &str) -> Option<(&Component, &Row)> {
        let row = self.rows.get(path)?;
        Some((self.components.get(row.component as usize)?, row))
    }

    /// A file by its path.
    pub fn row(&self, path: &str) -> Option<&FileRow> {
        self.rows.get(path).map(|row| &row.file)
    }

    /// Whether a file that could not be fetched was deleted on the server meanwhile: then nothing is lost that was there at
    /// the end.
    pub fn was_deleted(&self, path: &str) -> bool {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner).contains(path)
    }

    /// How many were deleted so.
    pub fn deleted(&self) -> u64 {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner).len() as u64
    }

    fn note_absence(&self, path: &str) {
        if self.rows.get(path).is_some_and(|row| !row.stayed) {
            self.gone.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned());
        }
    }
}

/// The lines of `_storage/documents.jsonl`, made as they are read: an export without files has none.
pub(super) struct ListReader {
    files: Arc<Files>,
    component: u32,
    last: Option<String>,
    line: io::Cursor<Vec<u8>>,
}

impl ListReader {
    pub fn new(files: Arc<Files>, component: u32) -> Self {
        Self { files, component, last: None, line: io::Cursor::new(Vec::new()) }
    }

    fn fill(&mut self) -> bool {
        use std::ops::Bound::{Excluded, Unbounded};
        let after = self.last.as_deref().map_or(Unbounded, Excluded);
        let rest = self.files.rows.range::<str, _>((after, Unbounded));
        let next = rest.into_iter().find(|(_, row)| row.component == self.component);
        let Some((path, row)) = next else { return false };
        let line = line_of(&row.file);
        self.last = Some(path.clone());
        self.line = io::Cursor::new(line);
        true
    }
}

impl Read for ListReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.line.read(out)?;
            if count > 0 || out.is_empty() || !self.fill() {
                return Ok(count);
            }
        }
    }
}

/// A line as an export with files has it: fields in that order, the time a float, the size an integer.
fn line_of(file: &FileRow) -> Vec<u8> {
    let text = |value: &str| serde_json::Value::from(value).to_string();
    let content_type = file.content_type.as_deref().map_or_else(|| "null".to_owned(), text);
    format!(
        "{{\"_id\":{},\"_creationTime\":{},\"sha256\":\"{}\",\"size\":{},\"contentType\":{content_type},\"internalId\":{}}}\n",
        text(&file.id),
        serde_json::Value::from(file.created_ms),
        BASE64.encode(&file.sha256),
        file.size,
        text(&file.uuid),
    )
    .into_bytes()
}

/// Lets so many through at a time.
pub(super) struct Gate {
    state: Mutex<(usize, bool)>,
    left: Condvar,
}

impl Gate {
    pub fn new(places: usize) -> Self {
        Self { state: Mutex::new((places, false)), left: Condvar::new() }
    }

    fn enter(self: &Arc<Self>) -> Pass {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.0 == 0 && !state.1 {
            state = self.left.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.0 = state.0.saturating_sub(1);
        Pass(Arc::clone(self))
    }

    /// The run is over: nobody waits any more.
    pub fn open_for_ever(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
        self.left.notify_all();
    }
}

struct Pass(Arc<Gate>);

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).0 += 1;
        self.0.left.notify_one();
    }
}

/// The bytes of a file, checked at their end.
pub(super) struct FileReader {
    deployment: Deployment,
    files: Arc<Files>,
    path: String,
    component: Component,
    uuid: String,
    size: u64,
    sha256: [u8; 32],
    passed: u64,
    digest: Option<Context>,
    answer: Option<Response>,
    breaks: u32,
    _pass: Pass,
}

impl FileReader {
    /// Waits for its turn. None where there is no such file.
    pub fn new(deployment: &Deployment, files: &Arc<Files>, path: &str, gate: &Arc<Gate>) -> Option<Self> {
        let (component, row) = files.find(path)?;
        Some(Self {
            deployment: deployment.clone(),
            component: component.clone(),
            uuid: row.file.uuid.clone(),
            size: row.file.size,
            sha256: row.file.sha256,
            files: Arc::clone(files),
            path: path.to_owned(),
            passed: 0,
            digest: Some(Context::new(&SHA256)),
            answer: None,
            breaks: 0,
            _pass: gate.enter(),
        })
    }

    /// The first bytes, up to `length`.
    pub fn head(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut head = Vec::with_capacity(length);
        self.by_ref().take(length as u64).read_to_end(&mut head)?;
        Ok(head)
    }

    /// Begins, or goes on where it broke.
    fn ask(&mut self) -> io::Result<()> {
        match self.deployment.file_bytes(&self.component, &self.uuid, self.passed) {
            Ok(answer) => {
                self.answer = Some(answer);
                Ok(())
            }
            Err(e) if e.may_pass() => self.broke(&e.to_string()),
            Err(e) => {
                if e.is_file_gone() {
                    self.files.note_absence(&self.path);
                }
                Err(io::Error::other(say(&e)))
            }
        }
    }

    fn broke(&mut self, why: &str) -> io::Result<()> {
        self.answer = None;
        self.breaks += 1;
        if self.breaks > BREAKS {
            return Err(io::Error::other(format!("it could not be fetched ({BREAKS} tries): {why}")));
        }
        let pause = Duration::from_millis(100 << self.breaks.min(6));
        self.deployment.sleep(pause).map_err(|e| io::Error::other(e.to_string()))
    }

    fn end(&mut self) -> io::Result<usize> {
        let Some(digest) = self.digest.take() else { return Ok(0) };
        if digest.finish().as_ref() != self.sha256 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "its bytes do not match its sha256"));
        }
        Ok(0)
    }
}

/// An error with its cause: these go on one line of what was skipped.
fn say(error: &convex::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

impl Read for FileReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        loop {
            if self.passed == self.size {
                return self.end();
            }
            let Some(answer) = &mut self.answer else {
                self.ask()?;
                continue;
            };
            let left = usize::try_from(self.size - self.passed).unwrap_or(usize::MAX).min(out.len());
            match answer.read(&mut out[..left]) {
                Ok(0) => self.broke("it ended early")?,
                Ok(count) => {
                    (self.passed, self.breaks) = (self.passed + count as u64, 0);
                    if let Some(digest) = &mut self.digest {
                        digest.update(&out[..count]);
                    }
                    return Ok(count);
                }
                Err(e) => self.broke(&e.to_string())?,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(id: &str) -> FileRow {
        FileRow {
            id: id.into(),
            created_ms: 1_719_000_000_000.0,
            sha256: [0; 32],
            size: 5,
            content_type: Some("image/png".into()),
            uuid: "u-1".into(),
        }
    }

    #[test]
    fn the_list_is_that_of_an_export() {
        let mut files = Files::default();
        files.take(0, "", Ok(file("kb")), true);
        files.take(0, "", Ok(file("ka")), false);
        files.take(1, "c", Ok(file("kc")), true);
        files.take(0, "", Err(("../kx".into(), "its size is none".into())), true);
        files.take(0, "", Err((String::new(), "its id is none".into())), true);
        assert_eq!(files.odd.keys().collect::<Vec<_>>(), ["_storage/___kx", "_storage/without-an-id"]);
        let mut text = String::new();
        ListReader::new(Arc::new(files), 0).read_to_string(&mut text).unwrap();
        let zeros = BASE64.encode(&[0; 32]);
        let line = |id: &str| {
            format!(
                "{{\"_id\":\"{id}\",\"_creationTime\":1719000000000.0,\"sha256\":\"{zeros}\",\"size\":5,\
                 \"contentType\":\"image/png\",\"internalId\":\"u-1\"}}\n"
            )
        };
        assert_eq!(text, format!("{}{}", line("ka"), line("kb")));
    }

    #[test]
    fn only_what_left_between_the_lists_was_deleted() {
        let mut files = Files::default();
        files.take(0, "", Ok(file("ka")), false);
        files.take(0, "", Ok(file("kb")), false);
        files.take(0, "", Ok(file("kb")), true);
        files.note_absence("_storage/ka.png");
        files.note_absence("_storage/kb.png");
        assert!(files.was_deleted("_storage/ka.png") && !files.was_deleted("_storage/kb.png"));
        assert_eq!(files.deleted(), 1);
    }
}
