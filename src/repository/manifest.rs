//! Manifests: read from frames or from the host's own copy, entry by entry, each one checked.
//!
//! Invariants: entries come in path order, each once; the directory of an entry came before it; memory is a window of
//! frames, whatever the manifest's length.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Mutex;

use super::fetch::{FrameReader, Sink, plan_fetches};
use super::{Error, Repository};
use crate::catalog::{FrameRow, SnapshotRow, WriterRow};
use crate::model::{Entry, EntryKind, Extent, RelPath, limits};
use crate::progress::Progress;

/// The bytes of a list of extents, one after another, a window of frames at a time.
pub struct ExtentReader<'p> {
    reader: FrameReader,
    extents: VecDeque<(Option<FrameRow>, u64, u64)>,
    window: HashMap<i64, Vec<u8>>,
    progress: &'p dyn Progress,
    failure: Option<Error>,
}

/// Frames that a window holds at most: 24 MiB and more of plain bytes.
const WINDOW: usize = 12;

impl<'p> ExtentReader<'p> {
    /// A reader over extents whose frames were located.
    pub fn new(
        repository: &Repository,
        writer: WriterRow,
        what: &'static str,
        extents: &[Extent],
        progress: &'p dyn Progress,
    ) -> Result<Self, Error> {
        let locate = |extent: &Extent| {
            let row = extent.frame.map(|id| repository.locate(writer, &id)).transpose()?;
            if row.is_some_and(|row| extent.offset + extent.length > row.plain) {
                return Err(Error::BadObject {
                    key: what.to_owned(),
                    why: "an extent ends beyond its frame".to_owned(),
                });
            }
            Ok((row, extent.offset, extent.length))
        };
        Ok(Self {
            reader: repository.frame_reader(what)?,
            extents: extents.iter().map(locate).collect::<Result<_, Error>>()?,
            window: HashMap::new(),
            progress,
            failure: None,
        })
    }

    /// Why reading failed, in our own words: `Read` can only say that it did.
    pub fn take_failure(&mut self) -> Option<Error> {
        self.failure.take()
    }

    fn fill(&mut self) -> Result<(), Error> {
        let mut wanted: Vec<FrameRow> = Vec::new();
        let mut next: HashMap<i64, Vec<u8>> = HashMap::new();
        for (row, _, _) in &self.extents {
            let Some(row) = row else { continue };
            if next.contains_key(&row.row) || wanted.iter().any(|w| w.row == row.row) {
                continue;
            }
            if next.len() + wanted.len() >= WINDOW {
                break;
            }
            match self.window.remove(&row.row) {
                Some(plain) => drop(next.insert(row.row, plain)),
                None => wanted.push(*row),
            }
        }
        let sink = Collect(Mutex::new(next));
        self.reader.read(&plan_fetches(wanted), &sink, self.progress)?;
        self.window = sink.0.into_inner().unwrap_or_default();
        Ok(())
    }

    fn read_some(&mut self, out: &mut [u8]) -> Result<usize, Error> {
        let Some((row, offset, length)) = self.extents.front().copied() else { return Ok(0) };
        let count = length.min(out.len() as u64) as usize;
        match row {
            None => out[..count].fill(0),
            Some(row) => {
                if !self.window.contains_key(&row.row) {
                    self.fill()?;
                }
                let plain = self.window.get(&row.row).ok_or(Error::Pipeline)?;
                let from = plain.get(offset as usize..offset as usize + count).ok_or(Error::Pipeline)?;
                out[..count].copy_from_slice(from);
            }
        }
        if count as u64 == length {
            self.extents.pop_front();
        } else if let Some(front) = self.extents.front_mut() {
            *front = (row, offset + count as u64, length - count as u64);
        }
        Ok(count)
    }
}

impl Read for ExtentReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        self.read_some(out).map_err(|e| {
            let text = e.to_string();
            self.failure = Some(e);
            std::io::Error::other(text)
        })
    }
}

struct Collect(Mutex<HashMap<i64, Vec<u8>>>);

impl Sink for Collect {
    fn frame(&self, row: &FrameRow, plain: Result<&[u8], Error>) -> Result<(), Error> {
        let plain = plain?.to_vec();
        self.0.lock().map_err(|_| Error::Pipeline)?.insert(row.row, plain);
        Ok(())
    }
}

/// What is wrong with an entry's lines.
enum Flaw {
    Text(String),
    Error(Error),
}

impl From<String> for Flaw {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<Error> for Flaw {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// Entries of a manifest, one after another.
pub struct ManifestReader<R> {
    lines: BufReader<R>,
    name: String,
    line: Vec<u8>,
    last: Option<RelPath>,
    open: Vec<RelPath>,
    begun: bool,
}

impl<R: Read> ManifestReader<R> {
    /// A reader; `name` is what messages call the snapshot.
    pub fn new(bytes: R, name: String) -> Self {
        let lines = BufReader::with_capacity(256 << 10, bytes);
        Self { lines, name, line: Vec::new(), last: None, open: Vec::new(), begun: false }
    }

    fn bad(&self, why: impl Into<String>) -> Error {
        Error::Manifest { snapshot: self.name.clone(), why: why.into() }
    }

    /// Appends the next line, of at most `limit` bytes, to `line`; false at the end.
    fn next_line(&mut self, limit: usize) -> Result<bool, Error> {
        let read = (&mut self.lines).take(limit as u64).read_until(b'\n', &mut self.line);
        let read = read.map_err(|e| self.bad(e.to_string()))?;
        if read > 0 && self.line.last() != Some(&b'\n') {
            return Err(self.bad("a line is cut off, or longer than any"));
        }
        Ok(read > 0)
    }

    /// The entry whose first line is in `line`; further ones are appended to it.
    fn parse(&mut self) -> Result<Entry, Error> {
        let first = std::mem::take(&mut self.line);
        let mut all = Vec::new();
        let entry = Entry::read_lines(&first, &mut || {
            self.line.clear();
            if !self.next_line(limits::MANIFEST_MORE_MAX)? {
                return Err(Flaw::Text("its last line is cut off".to_owned()));
            }
            all.extend_from_slice(&self.line);
            Ok(self.line.clone())
        });
        self.line = first;
        self.line.append(&mut all);
        entry.map_err(|flaw| match flaw {
            Flaw::Text(why) => self.bad(why),
            Flaw::Error(e) => e,
        })
    }

    /// The lines of the entry that came last, each with its newline: one, unless a file has very many extents.
    pub fn line(&self) -> &[u8] {
        &self.line
    }

    /// The next entry, `None` at the end.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, Error> {
        if !self.begun {
            self.begun = true;
            self.line.clear();
            if !self.next_line(limits::MANIFEST_LINE_MAX)? || self.line != b"{\"manifest\":1}\n" {
                return Err(self.bad("its first line is not `{\"manifest\":1}`"));
            }
        }
        self.line.clear();
        if !self.next_line(limits::MANIFEST_LINE_MAX)? {
            return Ok(None);
        }
        let entry = self.parse()?;
        entry.validate().map_err(|why| self.bad(format!("`{}`: {why}", entry.path)))?;
        if self.last.as_ref().is_some_and(|last| *last >= entry.path) {
            return Err(self.bad(format!("`{}` is out of order", entry.path)));
        }
        while self.open.last().is_some_and(|dir| !entry.path.is_within(dir)) {
            self.open.pop();
        }
        let parent = entry.path.parent();
        let at_home = parent.as_ref().is_none_or(|p| p.is_root() || self.open.last() == Some(p));
        if !at_home {
            return Err(self.bad(format!("`{}` lies in no directory of the manifest", entry.path)));
        }
        if matches!(entry.kind, EntryKind::Dir) && !entry.path.is_root() {
            self.open.push(entry.path.clone());
        }
        self.last = Some(entry.path.clone());
        Ok(Some(entry))
    }
}

impl ManifestReader<ExtentReader<'_>> {
    /// The next entry; where a frame could not be read, the error says which and why.
    pub fn next_stored(&mut self) -> Result<Option<Entry>, Error> {
        self.next_entry().map_err(|e| self.lines.get_mut().take_failure().unwrap_or(e))
    }
}

impl Repository {
    /// Reads the manifest of a snapshot from the store; needs an identity.
    pub fn manifest<'p>(
        &self,
        snapshot: &SnapshotRow,
        progress: &'p dyn Progress,
    ) -> Result<ManifestReader<ExtentReader<'p>>, Error> {
        let record = &snapshot.record;
        let extents =
            ExtentReader::new(self, snapshot.writer, "reading a manifest", &record.manifest.extents, progress)?;
        Ok(ManifestReader::new(extents, record.id.to_string()))
    }
}

/// Reads the host's own copy of a source's newest manifest, if it is there and belongs to `snapshot`.
pub fn read_local_manifest(
    path: &Path,
    snapshot: &str,
) -> Option<ManifestReader<zstd::stream::read::Decoder<'static, BufReader<File>>>> {
    let mut file = BufReader::new(File::open(path).ok()?);
    // The snapshot's id and the digest of what follows are the first line, outside the compressed part: a copy of another
    // snapshot is no copy, and neither is one that has rotted.
    let mut line = String::new();
    (&mut file).take(128).read_line(&mut line).ok()?;
    let (id, digest) = line.trim().split_once(' ')?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(&mut file).ok()?;
    if id != snapshot || hasher.finalize().to_hex().as_str() != digest {
        return None;
    }
    file.seek(SeekFrom::Start(line.len() as u64)).ok()?;
    let decoder = zstd::stream::read::Decoder::with_buffer(file).ok()?;
    Some(ManifestReader::new(decoder, snapshot.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<String>, Error> {
        let mut reader = ManifestReader::new(text.as_bytes(), "s".to_owned());
        let mut paths = Vec::new();
        while let Some(entry) = reader.next_entry()? {
            paths.push(entry.path.to_string());
        }
        Ok(paths)
    }

    fn manifest(lines: &[(&str, &str)]) -> String {
        let lines: Vec<String> =
            lines.iter().map(|(path, kind)| format!("{{\"path\":\"{path}\",\"type\":\"{kind}\"}}\n")).collect();
        format!("{{\"manifest\":1}}\n{}", lines.concat())
    }

    #[test]
    fn entries_come_in_order_below_their_directories() {
        let good = manifest(&[("", "dir"), ("a", "dir"), ("a/b", "fifo"), ("a-b", "fifo"), ("c", "fifo")]);
        assert_eq!(read(&good).unwrap(), [".", "a", "a/b", "a-b", "c"]);
    }

    #[test]
    fn a_further_line_is_no_longer_than_one_is_written() {
        let digest = crate::model::Digest::new([3; 32]);
        let frame = crate::model::FrameId::new([1; 32]);
        let further = serde_json::to_string(&[Extent { frame: Some(frame), offset: 0, length: 5 }]).unwrap();
        let with = |room: usize| {
            let first = format!(r#"{{"path":"f","type":"file","size":5,"digest":"{digest}","more":1}}"#);
            read(&format!("{{\"manifest\":1}}\n{first}\n{}{further}\n", " ".repeat(room)))
        };
        assert_eq!(with(0).unwrap(), ["f"]);
        assert!(with(9 << 20).is_err());
    }

    #[test]
    fn hostile_manifests_are_refused() {
        for bad in [
            manifest(&[("b", "fifo"), ("a", "fifo")]),
            manifest(&[("a", "fifo"), ("a", "fifo")]),
            manifest(&[("a", "fifo"), ("a/b", "fifo")]),
            manifest(&[("a", "symlink")]),
            manifest(&[("a/b", "fifo")]),
            manifest(&[("../a", "fifo")]),
            manifest(&[("a", "teleport")]),
            "{\"manifest\":2}\n".to_owned(),
            String::new(),
            manifest(&[("a", "fifo")]).trim_end().to_owned(),
        ] {
            assert!(read(&bad).is_err(), "{bad}");
        }
    }
}
