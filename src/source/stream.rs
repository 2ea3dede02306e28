//! A stream as a source: a command's output, our own standard input, or one file. One entry of type file.
//!
//! The command's exit status is asked for before the snapshot may exist: a dump that failed half-way is no backup.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::{Error, Found, FoundEntry, Opened, Source};
use crate::model::{Cutting, Digest, Entry, EntryKind, FileContent, Moment, RawText, RelPath, Stamp};

fn single(path: &RelPath, now: Moment) -> FoundEntry {
    let content = FileContent { size: 0, digest: Digest::new([0; 32]), extents: Vec::new() };
    let mut entry = Entry::bare(path.clone(), EntryKind::File(content));
    entry.mode = 0o600;
    entry.mtime = Stamp(now.timestamp(), now.timestamp_subsec_nanos());
    FoundEntry::new(entry, u64::MAX, false)
}

fn opened<'s>(file: Box<dyn Read + Send + 's>) -> Opened<'s> {
    let changed = Box::new(|| None);
    Opened { file, data: None, cutting: Cutting::Fine, xattrs: BTreeMap::new(), size: u64::MAX, changed }
}

/// A stream that somebody else writes: our standard input.
pub struct StdinSource {
    path: RelPath,
    now: Moment,
    input: Mutex<Option<Box<dyn Read + Send>>>,
    over: Arc<AtomicBool>,
}

/// Standard input that stops waiting when the run is given up: a producer that says nothing must not hold us.
struct PolledStdin {
    over: Arc<AtomicBool>,
}

impl Read for PolledStdin {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let stdin = std::io::stdin();
        let patience = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
        loop {
            if self.over.load(Ordering::Relaxed) {
                return Err(std::io::Error::other("the run was given up"));
            }
            let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
            match poll(&mut fds, Some(&patience)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return stdin.lock().read(out),
                Err(e) => return Err(e.into()),
            }
        }
    }
}

impl StdinSource {
    /// A source that stores `input` under the name `path`.
    pub fn new(path: RelPath, now: Moment, input: Box<dyn Read + Send>) -> Self {
        Self { path, now, input: Mutex::new(Some(input)), over: Arc::default() }
    }

    /// A source over this process's own standard input.
    pub fn of_process(path: RelPath, now: Moment) -> Self {
        let over = Arc::<AtomicBool>::default();
        let input = PolledStdin { over: Arc::clone(&over) };
        Self { path, now, input: Mutex::new(Some(Box::new(input))), over }
    }
}

impl Source for StdinSource {
    fn kind(&self) -> &'static str {
        "stdin"
    }
    fn root(&self) -> String {
        "standard input".to_owned()
    }
    fn cancel(&self) {
        self.over.store(true, Ordering::Relaxed);
    }
    fn walk(&self, each: &mut dyn FnMut(Found) -> bool) -> Result<(), Error> {
        each(Found::Entry(Box::new(single(&self.path, self.now))));
        Ok(())
    }
    fn open(&self, _found: &FoundEntry) -> Result<Opened<'_>, String> {
        let input = self.input.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        input.map(opened).ok_or_else(|| "it was read already".to_owned())
    }
    fn xattrs(&self, _entry: &Entry) -> BTreeMap<String, RawText> {
        BTreeMap::new()
    }
    fn finish(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// One file, read as a stream: an archive on disk.
pub struct FileSource {
    path: PathBuf,
    file: File,
    before: Metadata,
    now: Moment,
}

impl FileSource {
    /// A source over a file that is there.
    pub fn new(path: &Path, now: Moment) -> Result<Self, Error> {
        let fail = |source| Error::Root { path: path.to_owned(), source };
        let file = File::open(path).map_err(fail)?;
        let before = file.metadata().map_err(fail)?;
        if before.is_dir() {
            return Err(fail(std::io::Error::from(std::io::ErrorKind::IsADirectory)));
        }
        Ok(Self { path: path.to_owned(), file, before, now })
    }
}

impl Source for FileSource {
    fn kind(&self) -> &'static str {
        "file"
    }
    fn root(&self) -> String {
        self.path.display().to_string()
    }
    fn walk(&self, each: &mut dyn FnMut(Found) -> bool) -> Result<(), Error> {
        let name = self.path.file_name().map(|name| name.as_bytes().to_vec()).unwrap_or_default();
        let path = RelPath::new(name).unwrap_or_default();
        each(Found::Entry(Box::new(single(&path, self.now))));
        Ok(())
    }
    fn open(&self, _found: &FoundEntry) -> Result<Opened<'_>, String> {
        self.file.try_clone().map(|file| opened(Box::new(file))).map_err(|e| e.to_string())
    }
    fn xattrs(&self, _entry: &Entry) -> BTreeMap<String, RawText> {
        BTreeMap::new()
    }
    fn finish(&self) -> Result<(), Error> {
        let fail = |source| Error::Root { path: self.path.clone(), source };
        let now = self.file.metadata().map_err(fail)?;
        if (now.len(), now.mtime(), now.mtime_nsec())
            == (self.before.len(), self.before.mtime(), self.before.mtime_nsec())
        {
            Ok(())
        } else {
            Err(fail(std::io::Error::other("it changed while it was read")))
        }
    }
}

/// A command whose standard output is stored.
pub struct CommandSource {
    path: RelPath,
    now: Moment,
    command: Vec<String>,
    child: Mutex<Option<Child>>,
}

impl CommandSource {
    /// A source that runs `command` (program and arguments; no shell) and stores its output under the name `path`.
    pub fn new(path: RelPath, now: Moment, command: Vec<String>) -> Self {
        Self { path, now, command, child: Mutex::new(None) }
    }
}

impl Source for CommandSource {
    fn kind(&self) -> &'static str {
        "command"
    }

    fn root(&self) -> String {
        // Arguments may hold passwords; the program's name is enough to know it by.
        self.command.first().cloned().unwrap_or_default()
    }

    fn walk(&self, each: &mut dyn FnMut(Found) -> bool) -> Result<(), Error> {
        let fail = |source| Error::Spawn { command: self.root(), source };
        let program = self.command.first().ok_or_else(|| fail(std::io::Error::other("no command was given")))?;
        let mut command = Command::new(program);
        command.args(&self.command[1..]).stdin(Stdio::null()).stdout(Stdio::piped());
        let child = command.spawn().map_err(fail)?;
        *self.child.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(child);
        each(Found::Entry(Box::new(single(&self.path, self.now))));
        Ok(())
    }

    fn open(&self, _found: &FoundEntry) -> Result<Opened<'_>, String> {
        let mut child = self.child.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let output = child.as_mut().and_then(|child| child.stdout.take());
        output.map(|output| opened(Box::new(output))).ok_or_else(|| "the command does not run".to_owned())
    }

    fn xattrs(&self, _entry: &Entry) -> BTreeMap<String, RawText> {
        BTreeMap::new()
    }

    fn cancel(&self) {
        if let Some(child) = self.child.lock().unwrap_or_else(std::sync::PoisonError::into_inner).as_mut() {
            let _ = child.kill();
        }
    }

    fn finish(&self) -> Result<(), Error> {
        let child = self.child.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let failed = |status: String| Error::Failed { command: self.root(), status };
        let mut child = child.ok_or_else(|| failed("it was never started".to_owned()))?;
        let status = child.wait().map_err(|source| Error::Spawn { command: self.root(), source })?;
        if status.success() { Ok(()) } else { Err(failed(status.to_string())) }
    }
}

impl Drop for CommandSource {
    fn drop(&mut self) {
        // A run that was given up must not leave the dump running.
        if let Some(mut child) = self.child.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(command: &[&str]) -> (String, Result<(), Error>) {
        let command = command.iter().map(|part| (*part).to_owned()).collect();
        let source = CommandSource::new(RelPath::new("out").unwrap(), Moment::UNIX_EPOCH, command);
        let mut text = String::new();
        let walked = source.walk(&mut |found| {
            let Found::Entry(found) = found else { panic!("skipped") };
            source.open(&found).unwrap().file.read_to_string(&mut text).unwrap();
            true
        });
        (text, walked.and_then(|()| source.finish()))
    }

    #[test]
    fn a_command_that_fails_after_its_output_is_an_error() {
        let (text, result) = run(&["sh", "-c", "echo half; exit 3"]);
        assert_eq!(text, "half\n");
        assert!(matches!(result, Err(Error::Failed { .. })));
        assert!(run(&["sh", "-c", "echo whole"]).1.is_ok());
        assert!(matches!(run(&["/does/not/exist"]).1, Err(Error::Spawn { .. })));
    }
}
