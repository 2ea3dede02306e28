//! What a server's own files say: where it listens, where its replay ended, what it said last. Read, never written.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::format::history;
use crate::format::pg_control::ControlFile;
use crate::model::{Lsn, Timeline};

/// Bytes of a small file of a data directory at most.
const SMALL: u64 = 64 << 10;
/// Bytes at the end of a log in which its last words are looked for.
const TAIL: u64 = 64 << 10;
/// Lines of a log that become part of an error.
const LINES: usize = 8;

/// Where a server listens, by its `postmaster.pid`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Post {
    /// The directory of its first socket; without one, a host.
    pub host: String,
    /// The port.
    pub port: u16,
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(SMALL).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What `postmaster.pid` of a server says, once that can be talked to.
pub(super) fn post(directory: &Path, pid: u32) -> Option<Post> {
    parse_post(&String::from_utf8_lossy(&read(&directory.join("postmaster.pid")).ok()?), pid)
}

/// Lines: process, directory, start, port, socket directory, address, shared memory, state.
fn parse_post(text: &str, pid: u32) -> Option<Post> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    if lines.first()?.parse() != Ok(pid) {
        return None;
    }
    // So it says too when it answers as a standby; one that answers nobody during recovery says "standby".
    if *lines.get(7)? != "ready" {
        return None;
    }
    let host = [4, 5].iter().filter_map(|at| lines.get(*at)).find(|line| !line.is_empty());
    let host = match host.copied() {
        None | Some("*") => "localhost".to_owned(),
        Some(host) => host.to_owned(),
    };
    Some(Post { host, port: lines.get(3)?.parse().ok()? })
}

/// The control file, again while the server writes it.
pub(super) fn control(directory: &Path) -> Result<ControlFile, String> {
    let path = directory.join("global/pg_control");
    let mut flaw = String::new();
    for _ in 0..50 {
        match ControlFile::parse(&read(&path).map_err(|e| format!("`{}`: {e}", path.display()))?) {
            Ok(control) => return Ok(control),
            Err(e) => flaw = e.to_string(),
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    Err(flaw)
}

/// The newest timeline that began here behind `followed`, and where it left what came before: the end of the replay, exactly.
pub(super) fn last_switch(directory: &Path, followed: Timeline) -> Result<(Timeline, Lsn), String> {
    let folder = directory.join("pg_wal");
    let listing = std::fs::read_dir(&folder).map_err(|e| format!("`{}`: {e}", folder.display()))?;
    let timeline_of = |name: &str| u32::from_str_radix(name.strip_suffix(".history")?, 16).ok();
    let newest = listing.flatten().filter_map(|entry| timeline_of(entry.file_name().to_str()?)).max();
    let newest = newest.map(Timeline).filter(|timeline| *timeline > followed);
    let newest = newest.ok_or("it has begun no timeline of its own")?;
    let path = folder.join(format!("{:08X}.history", newest.0));
    let bytes = read(&path).map_err(|e| format!("`{}`: {e}", path.display()))?;
    let entries = history::parse(newest, &bytes).map_err(|e| format!("`{}`: {e}", path.display()))?;
    let last = entries.last().ok_or_else(|| format!("`{}` is empty", path.display()))?;
    Ok((newest, last.switch))
}

/// The lines of a log that say why its server ended: the last ones of weight, or the last ones at all.
pub(super) fn last_words(log: &Path) -> String {
    let tail = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let text = match tail() {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(e) => return format!("its log cannot be read: {e}"),
    };
    pick(&text)
}

fn pick(text: &str) -> String {
    let weighs = |line: &&str| {
        let ours = ["error: ", "cause: ", "hint: "].iter().any(|start| line.starts_with(start));
        ours || ["FATAL:", "PANIC:", "ERROR:", "HINT:", "DETAIL:", "could not"].iter().any(|word| line.contains(word))
    };
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let heavy: Vec<&str> = lines.iter().copied().filter(weighs).collect();
    let chosen = if heavy.is_empty() { &lines } else { &heavy };
    match chosen.is_empty() {
        true => "it said nothing".to_owned(),
        false => chosen[chosen.len().saturating_sub(LINES)..].join(" | "),
    }
}

/// A place for a server's log that is not there yet: `log/lifeboat-recovery.log`, then with a number.
pub(super) fn log_place(directory: &Path) -> PathBuf {
    let folder = directory.join("log");
    let name = |n: u32| match n {
        0 => folder.join("lifeboat-recovery.log"),
        n => folder.join(format!("lifeboat-recovery-{n}.log")),
    };
    (0..1000).map(name).find(|path| !path.exists()).unwrap_or_else(|| name(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_postmaster_says_where_it_listens_once_it_can_be_talked_to() {
        let text = |state: &str| format!("17\n/data\n1700000000\n5433\n/run/pg\nlocalhost\n  1  2\n{state}\n");
        let post = parse_post(&text("ready   "), 17).unwrap();
        assert_eq!((post.host.as_str(), post.port), ("/run/pg", 5433));
        assert_eq!(parse_post(&text("standby "), 17), None);
        assert_eq!(parse_post(&text("starting"), 17), None);
        assert_eq!(parse_post(&text("ready"), 18), None, "of a server before");
        assert_eq!(parse_post("17\n/data\n", 17), None);
        let tcp = "17\n/data\n1\n5432\n\n*\n1 2\nready\n";
        assert_eq!(parse_post(tcp, 17).unwrap().host, "localhost");
    }

    #[test]
    fn the_last_words_are_those_that_weigh() {
        let log = "LOG:  starting\nerror: `x` is missing\nhint: look\nLOG:  noise\n2026 FATAL:  could not restore\n";
        assert_eq!(pick(log), "error: `x` is missing | hint: look | 2026 FATAL:  could not restore");
        assert_eq!(pick("LOG:  one\n\nLOG:  two\n"), "LOG:  one | LOG:  two");
        assert_eq!(pick(""), "it said nothing");
    }
}
