//! A push through the process that follows the same cluster: it has the repository open, its keys and its connections, so that
//! `archive_command` need not open them for every segment.
//!
//! Invariants: only success is told through the door; whatever else happens, the caller pushes by itself and hears the reason
//! there. The file that is pushed is the caller's very own: same device, inode, size and times, so that two containers with
//! one state directory cannot mean two files by one path. Not here: the push.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Identity;
use crate::model::Moment;

/// So long each side waits for the other one's words; a push itself may take as long as the store does.
const WORDS: Duration = Duration::from_secs(5);
/// So long a caller waits for its segment to be stored, before it does that itself.
const STORED: Duration = Duration::from_secs(300);
/// Bytes of a message at most.
const MESSAGE_MAX: u64 = 64 << 10;

/// Where a process that follows a source can be asked.
#[derive(Debug, Clone)]
pub struct Door(PathBuf);

/// What is asked for.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// The file, an absolute path.
    pub path: PathBuf,
    /// The file as the caller sees it.
    pub identity: Identity,
    /// Further waiting segments that are sent along, at most.
    pub ahead: usize,
}

/// The file is in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// It was there before.
    pub known: bool,
    /// Further files that are there now, each as it was when it was read.
    pub along: Vec<(String, Identity)>,
    /// The last commit of what was sent, where one is known.
    pub newest: Option<Moment>,
}

/// A caller that waits.
#[derive(Debug)]
pub struct Caller {
    /// What it asks for.
    pub request: Request,
    stream: UnixStream,
}

impl Caller {
    /// Tells it that its file is stored; or, by `None`, to do it itself.
    pub fn answer(mut self, answer: Option<&Answer>) {
        let text = answer.and_then(|answer| serde_json::to_string(answer).ok()).unwrap_or_default();
        // One that went away pushes again.
        let _ = self.stream.write_all(format!("{text}\n").as_bytes());
    }
}

impl Door {
    /// `of` tells repositories and sources apart.
    pub fn new(state: &Path, of: &str) -> Self {
        Self(state.join(format!("follow-{}.socket", &blake3::hash(of.as_bytes()).to_hex()[..16])))
    }

    /// Asks whoever is behind the door. `None`: nobody is, or it could not.
    pub fn ask(&self, path: &Path, ahead: usize) -> Option<Answer> {
        let mut stream = UnixStream::connect(&self.0).ok()?;
        let path = std::path::absolute(path).ok()?;
        let identity = Identity::of(&std::fs::metadata(&path).ok()?);
        let request = serde_json::to_string(&Request { path, identity, ahead }).ok()?;
        stream.set_write_timeout(Some(WORDS)).ok()?;
        stream.set_read_timeout(Some(STORED)).ok()?;
        stream.write_all(format!("{request}\n").as_bytes()).ok()?;
        serde_json::from_str(&read_line(&stream)?).ok()
    }

    /// Opens the door: callers come through `callers`. Who opens it is alone to do so, by a lock of its own.
    pub fn open(&self, callers: SyncSender<Caller>) -> std::io::Result<()> {
        let _ = std::fs::remove_file(&self.0);
        let listener = UnixListener::bind(&self.0)?;
        std::fs::set_permissions(&self.0, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let callers = callers.clone();
                std::thread::spawn(move || {
                    let bounded = stream.set_read_timeout(Some(WORDS)).and(stream.set_write_timeout(Some(WORDS)));
                    let request = bounded.ok().and_then(|()| serde_json::from_str(&read_line(&stream)?).ok());
                    if let Some(request) = request {
                        let _ = callers.send(Caller { request, stream });
                    }
                });
            }
        });
        Ok(())
    }

    /// Closes it. What was asked and not answered is pushed by its caller.
    pub fn close(&self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn read_line(stream: &UnixStream) -> Option<String> {
    let mut line = String::new();
    BufReader::new(stream.take(MESSAGE_MAX)).read_line(&mut line).ok()?;
    line.ends_with('\n').then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::sync_channel;

    #[test]
    fn only_success_is_told_and_nobody_behind_the_door_is_no_answer() {
        let folder = tempfile::tempdir().unwrap();
        let door = Door::new(folder.path(), "here");
        let file = folder.path().join("000000010000000000000001");
        std::fs::write(&file, "x").unwrap();
        assert_eq!(door.ask(&file, 7), None, "nobody is there");
        let (send, callers) = sync_channel(1);
        door.open(send).unwrap();
        let answer = Answer { known: false, along: Vec::new(), newest: None };
        let told = answer.clone();
        let own = Identity::of(&std::fs::metadata(&file).unwrap());
        let serving = std::thread::spawn(move || {
            let caller: Caller = callers.recv().unwrap();
            assert_eq!((caller.request.ahead, caller.request.identity), (7, own));
            caller.answer(Some(&told));
            callers.recv().unwrap().answer(None);
        });
        assert_eq!(door.ask(&file, 7), Some(answer));
        assert_eq!(door.ask(&file, 7), None, "it could not");
        serving.join().unwrap();
        assert_eq!(door.ask(&file.with_file_name("other"), 7), None, "no such file");
        door.close();
        assert_eq!(door.ask(&file, 7), None);
    }
}
