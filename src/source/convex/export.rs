//! An export: asked for, waited for, downloaded, and left to the server's next sweep.
//!
//! The server retries a failing export for ever and lets one run at a time, so whoever asks for one must also end it: one that
//! shows no progress is cancelled, and so is one whose run is given up. A run that was killed leaves a note in the work directory; the
//! next one ends what it had begun. Somebody else's export is waited for and never cancelled.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use super::{ConvexOptions, Error};
use crate::client::convex::{self, Deployment, ExportState, ExportStatus};
use crate::format::zip::{self, Member};
use crate::progress::{Event, Progress};

/// The first wait between two looks at an export; the next ones are longer.
const LOOK_FIRST: Duration = Duration::from_millis(100);
/// The next wait: an export is noticed an eighth of its time after it ended, at most.
fn longer(pause: Duration) -> Duration {
    pause + pause / 8
}

/// Times that an export is asked for that is not there afterwards.
const REQUESTS: u32 = 4;
/// An attempt that begins anew so often fails each time.
const ATTEMPTS: u32 = 5;
/// Downloads that are begun: one that breaks cannot be resumed.
const DOWNLOADS: u32 = 4;
/// What stays free in the work directory.
const SPARE: u64 = 64 << 20;
const BLOCK: usize = 1 << 20;

/// Why there is no export.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// It makes no progress.
    #[error("the export at `{url}` made no progress{how}: {shown}")]
    Stuck {
        /// The deployment.
        url: String,
        /// The export's document id.
        id: String,
        /// For how long, or how it did not.
        how: String,
        /// What the server says of it.
        shown: String,
        /// Whether it is somebody else's, and was left alone.
        foreign: bool,
    },
    /// It ended without an archive.
    #[error("the export at `{url}` was {how}")]
    Ended {
        /// The deployment.
        url: String,
        /// How, in a word.
        how: &'static str,
    },
    /// It came to nothing that can be understood.
    #[error("the export at `{url}` cannot be used: {why}")]
    Unfit {
        /// The deployment.
        url: String,
        /// Why.
        why: String,
    },
    /// There is no room for it.
    #[error("the export has {needed} bytes, and `{}` has {free} bytes free", path.display())]
    NoSpace {
        /// The work directory.
        path: PathBuf,
        /// Bytes free there.
        free: u64,
        /// Bytes that are needed.
        needed: u64,
    },
    /// It cannot be written.
    #[error("could not {doing} `{}`", path.display())]
    Io {
        /// What.
        doing: &'static str,
        /// The work directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The download broke each time.
    #[error("the download of the export from `{url}` broke {tries} times")]
    Broken {
        /// The deployment.
        url: String,
        /// How often it was begun.
        tries: u32,
        /// How it broke last.
        source: convex::Said,
    },
}

/// An export in a file that has no name: nothing is left of it when the run ends, however it does.
#[derive(Debug)]
pub struct Snatched {
    /// The archive.
    pub file: File,
    /// Its members, by its directory.
    pub members: Vec<Member>,
}

/// An export that was downloaded.
#[derive(Debug)]
pub struct Downloaded {
    /// The archive.
    pub file: Snatched,
    /// The export's document id.
    pub id: String,
    /// The database's time that it shows, in nanoseconds since 1970.
    pub start_ts: i64,
}

/// Asks for an export without files, waits for it and downloads it.
pub fn fetch_export(
    deployment: &Deployment,
    options: &ConvexOptions,
    instance: &str,
    progress: &dyn Progress,
) -> Result<Downloaded, Error> {
    let work_dir = options.work_dir.clone().unwrap_or_else(std::env::temp_dir);
    let note = Note::of(&work_dir, &deployment.place(), instance);
    let exporting = Exporting { deployment, stall: options.stall_timeout, look: options.look, progress };
    exporting.end_old(&note)?;
    progress.event(Event::Stage("exporting"));
    let begun = exporting.request(&note)?;
    let finished = exporting.finish(&begun.id, &work_dir);
    match &finished {
        Ok(_) if options.keep_exports => {}
        Ok(_) => exporting.let_go(&begun.id),
        Err(e) => {
            tracing::info!(%e, export = %begun.id, "the export is ended");
            exporting.end(&begun.id);
        }
    }
    note.remove();
    finished
}

struct Exporting<'e> {
    deployment: &'e Deployment,
    stall: Duration,
    look: Duration,
    progress: &'e dyn Progress,
}

impl Exporting<'_> {
    /// Ends what a run began that was killed.
    fn end_old(&self, note: &Note) -> Result<(), Error> {
        let Some(id) = note.read() else { return Ok(()) };
        match self.deployment.latest_export()? {
            Some(latest) if latest.id == id => self.end(&id),
            _ => self.let_go(&id),
        }
        note.remove();
        Ok(())
    }

    /// Asks for an export, once nobody else's runs.
    fn request(&self, note: &Note) -> Result<ExportState, Error> {
        let mut tries = 0;
        loop {
            let before = self.wait_for_others()?;
            tries += 1;
            let asked = self.deployment.request_export();
            match &asked {
                Err(e) if e.code() == "ExportInProgress" => {}
                // It may have been heard: the newest export says so.
                Err(e) if e.is_ambiguous() && tries < REQUESTS => self.deployment.sleep(self.look)?,
                _ => asked?,
            }
            let latest = self.deployment.latest_export()?;
            let is_new = |export: &ExportState| before.as_ref().is_none_or(|before| before.id != export.id);
            // Ours asks for no files: one that does was somebody else's, a moment earlier.
            if let Some(ours) = latest.filter(|export| is_new(export) && !export.includes_files) {
                note.write(&ours.id);
                return Ok(ours);
            }
            if tries >= REQUESTS {
                let why = "it was asked for and is not there".to_owned();
                return Err(ExportError::Unfit { url: self.deployment.place(), why }.into());
            }
        }
    }

    /// Waits until no export runs.
    fn wait_for_others(&self) -> Result<Option<ExportState>, Error> {
        let (mut watch, mut pause, mut told) = (Watch::new(self.stall), LOOK_FIRST.min(self.look), false);
        loop {
            let latest = self.deployment.latest_export()?;
            let running = latest
                .as_ref()
                .filter(|export| matches!(export.status, ExportStatus::Requested | ExportStatus::InProgress));
            let Some(running) = running else { return Ok(latest) };
            if !told {
                self.progress.event(Event::Warning("an export of somebody else is running; ours begins after it"));
                told = true;
            }
            if let Some(how) = watch.stuck(running) {
                return Err(self.stuck(running, how, true));
            }
            self.deployment.sleep(pause)?;
            pause = longer(pause).min(self.look);
        }
    }

    fn stuck(&self, export: &ExportState, how: String, foreign: bool) -> Error {
        let shown = if export.message.is_empty() { "it says nothing" } else { &export.message };
        let (url, id, shown) = (self.deployment.place(), export.id.clone(), convex::Said(shown.to_owned()).to_string());
        ExportError::Stuck { url, id, how, shown, foreign }.into()
    }

    /// Waits for our export and downloads it.
    fn finish(&self, id: &str, work_dir: &Path) -> Result<Downloaded, Error> {
        let done = self.wait(id)?;
        let unfit = |why: &str| ExportError::Unfit { url: self.deployment.place(), why: why.to_owned() };
        let start_ts = done.start_ts.ok_or_else(|| unfit("it names no time"))?;
        self.progress.event(Event::Stage("downloading the export"));
        let file = self.download(id, done.size, work_dir)?;
        Ok(Downloaded { file, id: id.to_owned(), start_ts })
    }

    fn wait(&self, id: &str) -> Result<ExportState, Error> {
        let (mut watch, mut pause) = (Watch::new(self.stall), LOOK_FIRST.min(self.look));
        let url = || self.deployment.place();
        loop {
            match self.deployment.latest_export() {
                // A server that is restarted answers again, and begins the export anew.
                Err(e) if e.may_pass() && !watch.is_over() => tracing::info!(%e, "asked again"),
                Err(e) => return Err(e.into()),
                Ok(None) => return Err(ExportError::Ended { url: url(), how: "forgotten by the server" }.into()),
                Ok(Some(export)) if export.id != id => {
                    return Err(ExportError::Ended { url: url(), how: "replaced by another" }.into());
                }
                Ok(Some(export)) => match export.status {
                    ExportStatus::Completed => return Ok(export),
                    ExportStatus::Failed => return Err(ExportError::Ended { url: url(), how: "given up" }.into()),
                    ExportStatus::Canceled => return Err(ExportError::Ended { url: url(), how: "cancelled" }.into()),
                    ExportStatus::Requested | ExportStatus::InProgress => {
                        if let Some(how) = watch.stuck(&export) {
                            return Err(self.stuck(&export, how, false));
                        }
                    }
                },
            }
            self.deployment.sleep(pause)?;
            pause = longer(pause).min(self.look);
        }
    }

    fn download(&self, id: &str, size: Option<u64>, work_dir: &Path) -> Result<Snatched, Error> {
        let mut last = convex::Said(String::new());
        for _ in 0..DOWNLOADS {
            match self.download_once(id, size, work_dir)? {
                Ok(file) => return Ok(file),
                Err(why) => {
                    tracing::warn!(%why, "the download of the export is begun anew");
                    last = why;
                    self.deployment.sleep(self.look)?;
                }
            }
        }
        Err(ExportError::Broken { url: self.deployment.place(), tries: DOWNLOADS, source: last }.into())
    }

    /// The inner error is of a download that broke.
    fn download_once(
        &self,
        id: &str,
        size: Option<u64>,
        work_dir: &Path,
    ) -> Result<Result<Snatched, convex::Said>, Error> {
        let (length, mut answer) = self.deployment.download_export(id)?;
        if let Some(needed) = length.or(size) {
            self.progress.event(Event::Expect { items: 1, bytes: needed });
            check_room(work_dir, needed)?;
        }
        let mut file = nameless(work_dir)?;
        let (mut buffer, mut written) = (vec![0; BLOCK], 0u64);
        loop {
            if self.deployment.is_given_up() {
                return Err(convex::Error::GivenUp.into());
            }
            let count = match answer.read(&mut buffer) {
                Ok(count) => count,
                Err(e) => return Ok(Err(convex::Said(e.to_string()))),
            };
            if count == 0 {
                break;
            }
            let write = file.write_all(&buffer[..count]);
            write.map_err(|source| ExportError::Io { doing: "write into", path: work_dir.to_owned(), source })?;
            written += count as u64;
            self.progress.event(Event::Done { items: 0, bytes: count as u64 });
        }
        if length.is_some_and(|length| length != written) {
            return Ok(Err(convex::Said(format!("{written} bytes came of {}", length.unwrap_or(0)))));
        }
        Ok(match zip::members(&file) {
            Ok(members) => Ok(Snatched { file, members }),
            Err(e) => Err(convex::Said(e.to_string())),
        })
    }

    /// Ends an export in whatever state it is; what the server says to that changes nothing.
    fn end(&self, id: &str) {
        if self.deployment.cancel_export(id).is_err() {
            self.let_go(id);
        }
    }

    /// Leaves an export that is done to the server's next sweep.
    fn let_go(&self, id: &str) {
        if let Err(e) = self.deployment.expire_export(id, 0) {
            tracing::info!(%e, "the export stays on the server until it expires by itself");
        }
    }
}

/// Tells whether an export stands still.
struct Watch {
    limit: Duration,
    since: Instant,
    shown: Option<(ExportStatus, String)>,
    attempts: u32,
}

impl Watch {
    fn new(limit: Duration) -> Self {
        Self { limit, since: Instant::now(), shown: None, attempts: 0 }
    }

    fn is_over(&self) -> bool {
        self.since.elapsed() >= self.limit
    }

    /// How it is stuck, if it is.
    fn stuck(&mut self, export: &ExportState) -> Option<String> {
        let now = (export.status, export.message.clone());
        if self.shown.as_ref() != Some(&now) {
            let began_anew = self.shown.is_some() && export.message.starts_with("Beginning");
            self.attempts += u32::from(began_anew);
            (self.since, self.shown) = (Instant::now(), Some(now));
        }
        if self.attempts >= ATTEMPTS {
            return Some(format!(" and began anew {} times", self.attempts));
        }
        self.is_over().then(|| format!(" for {} s", self.limit.as_secs()))
    }
}

/// Refuses what would fill the work directory.
fn check_room(work_dir: &Path, needed: u64) -> Result<(), Error> {
    let stat = rustix::fs::statvfs(work_dir);
    let stat = stat.map_err(|e| ExportError::Io { doing: "look at", path: work_dir.to_owned(), source: e.into() })?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if needed.saturating_add(SPARE) > free {
        return Err(ExportError::NoSpace { path: work_dir.to_owned(), free, needed }.into());
    }
    Ok(())
}

/// A file in the work directory that has no name there, with room for so many bytes.
pub fn work_file(work_dir: &Path, needed: u64) -> Result<File, Error> {
    check_room(work_dir, needed)?;
    nameless(work_dir)
}

/// A file without a name in a directory: it goes with the process.
pub fn nameless(work_dir: &Path) -> Result<File, Error> {
    let fail = |source| ExportError::Io { doing: "make a file in", path: work_dir.to_owned(), source };
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|e| fail(std::io::Error::other(e.to_string())))?;
    let path = work_dir.join(format!("lifeboat-export-{}", data_encoding::HEXLOWER.encode(&random)));
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path).map_err(fail)?;
    std::fs::remove_file(&path).map_err(fail)?;
    Ok(file)
}

/// The export that is under way, written down for the next run should this one be killed.
struct Note {
    path: PathBuf,
}

impl Note {
    fn of(work_dir: &Path, place: &str, instance: &str) -> Self {
        let digest = blake3::hash(format!("{place}\n{instance}").as_bytes());
        Self { path: work_dir.join(format!(".lifeboat-export-{}", &digest.to_hex()[..16])) }
    }

    /// The id that a killed run wrote; one that somebody else wrote, or that runs, is not believed.
    fn read(&self) -> Option<String> {
        let file = OpenOptions::new().read(true).custom_flags(OFlags::NOFOLLOW.bits() as i32).open(&self.path).ok()?;
        if file.metadata().ok()?.uid() != rustix::process::geteuid().as_raw() {
            return None;
        }
        let mut text = String::new();
        file.take(100).read_to_string(&mut text).ok()?;
        let (id, process) = text.trim().split_once(' ')?;
        // Another run of ours, for another repository, is at it: then it is somebody else's.
        let process = rustix::process::Pid::from_raw(process.parse().ok()?)?;
        let is_alive = process.as_raw_nonzero().get() != std::process::id() as i32
            && rustix::process::test_kill_process(process) != Err(rustix::io::Errno::SRCH);
        let is_id = !id.is_empty() && id.bytes().all(|c| c.is_ascii_alphanumeric());
        (is_id && !is_alive).then(|| id.to_owned())
    }

    /// A note that cannot be written costs some disk on the server, should the run be killed; no more.
    fn write(&self, id: &str) {
        let _ = std::fs::remove_file(&self.path);
        // At once: killed between two writes, it would leave a note that nobody understands.
        let text = format!("{id} {}", std::process::id());
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.path);
        if let Err(e) = made.and_then(|mut file| file.write_all(text.as_bytes())) {
            tracing::info!(%e, "the export's id could not be written down");
        }
    }

    fn remove(&self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn export(status: ExportStatus, message: &str) -> ExportState {
        ExportState {
            id: "x".into(),
            status,
            created_ms: 0.0,
            includes_files: false,
            start_ts: None,
            size: None,
            message: message.into(),
        }
    }

    #[test]
    fn an_export_that_stands_still_or_begins_anew_is_stuck() {
        let mut watch = Watch::new(Duration::from_secs(3600));
        for n in 0..100 {
            assert_eq!(watch.stuck(&export(ExportStatus::InProgress, &format!("Backing up t: {n}"))), None);
        }
        let mut found = None;
        for n in 0..10 {
            watch.stuck(&export(ExportStatus::InProgress, &format!("Backing up t{n}")));
            found = found.or(watch.stuck(&export(ExportStatus::InProgress, "Beginning backup")).map(|_| n));
        }
        assert_eq!(found, Some(ATTEMPTS as i32 - 1));
        let mut watch = Watch::new(Duration::ZERO);
        assert!(watch.stuck(&export(ExportStatus::Requested, "")).is_some());
    }

    #[test]
    fn a_note_is_read_only_where_it_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let note = Note::of(dir.path(), "http://x", "app");
        assert_eq!(note.read(), None);
        note.write("kabc123");
        assert_eq!(note.read().as_deref(), Some("kabc123"));
        for bad in ["../../x 1", "kabc", "kabc 1", "kabc x", ""] {
            std::fs::write(&note.path, bad).unwrap();
            assert_eq!(note.read(), None, "{bad}");
        }
        note.remove();
        std::os::unix::fs::symlink("/etc/hostname", &note.path).unwrap();
        assert_eq!(note.read(), None);
    }
}
