//! One entry of a manifest: a file, a directory, or another thing that a tree holds.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::limits::{EXTENTS_MAX, EXTENTS_PER_LINE};
use super::{Digest, FrameId, RawText, RelPath};

/// A time as the file system keeps it: seconds and nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
pub struct Stamp(pub i64, pub u32);

/// Where a run of a file's bytes lies: in a frame's plain bytes, or nowhere (a hole of zeros).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(Option<FrameId>, u64, u64)", into = "(Option<FrameId>, u64, u64)")]
pub struct Extent {
    /// The frame; none for a hole.
    pub frame: Option<FrameId>,
    /// First byte in the frame's plain bytes.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

impl From<(Option<FrameId>, u64, u64)> for Extent {
    fn from((frame, offset, length): (Option<FrameId>, u64, u64)) -> Self {
        Self { frame, offset, length }
    }
}
impl From<Extent> for (Option<FrameId>, u64, u64) {
    fn from(extent: Extent) -> Self {
        (extent.frame, extent.offset, extent.length)
    }
}

/// What a regular file holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileContent {
    /// Bytes, holes included.
    pub size: u64,
    /// Keyed BLAKE3 of all its bytes, holes as zeros.
    pub digest: Digest,
    /// Its bytes, one extent after another.
    pub extents: Vec<Extent>,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File(FileContent),
    /// A directory.
    Dir,
    /// A symbolic link, with its text.
    Symlink {
        /// The link's text, never followed by us.
        target: RawText,
    },
    /// Another name of an earlier file entry.
    Hardlink {
        /// The path of the entry that holds the content.
        target: RelPath,
    },
    /// A named pipe.
    Fifo,
    /// A Unix socket: recorded, made anew by whoever owns it, not restored.
    Socket,
    /// A character device.
    Char {
        /// Major and minor number.
        device: (u32, u32),
    },
    /// A block device.
    Block {
        /// Major and minor number.
        device: (u32, u32),
    },
}

/// One line of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Line", into = "Line")]
pub struct Entry {
    /// Below the source's root; empty for the root itself.
    pub path: RelPath,
    /// What it is, with what belongs to that alone.
    pub kind: EntryKind,
    /// Permission bits, 0 to 0o7777.
    pub mode: u32,
    /// Owner's number.
    pub uid: u32,
    /// Group's number.
    pub gid: u32,
    /// Owner's name on the host that was backed up.
    pub user: Option<String>,
    /// Group's name on the host that was backed up.
    pub group: Option<String>,
    /// When its content changed last.
    pub mtime: Stamp,
    /// When its inode changed last: tells an unchanged file, never restored.
    pub ctime: Option<Stamp>,
    /// Its number on the host: tells an unchanged file, never restored.
    pub inode: Option<u64>,
    /// Extended attributes, POSIX ACLs among them.
    pub xattrs: BTreeMap<String, RawText>,
}

/// An entry as its line has it: flat, because serde reads a flat struct several times faster than a flattened enum, and
/// an unchanged run is mostly the reading of these lines.
#[derive(Serialize, Deserialize)]
struct Line {
    path: RelPath,
    r#type: LineType,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    digest: Option<Digest>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    extents: Vec<Extent>,
    #[serde(default, skip_serializing_if = "is_zero")]
    more: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target: Option<RawText>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    device: Option<(u32, u32)>,
    #[serde(default)]
    mode: u32,
    #[serde(default)]
    uid: u32,
    #[serde(default)]
    gid: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    #[serde(default)]
    mtime: Stamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ctime: Option<Stamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    inode: Option<u64>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    xattrs: BTreeMap<String, RawText>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[derive(Serialize, Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum LineType {
    File,
    Dir,
    Symlink,
    Hardlink,
    Fifo,
    Socket,
    Char,
    Block,
}

impl From<Entry> for Line {
    fn from(entry: Entry) -> Self {
        let (mut size, mut digest, mut extents, mut target, mut device) = (None, None, Vec::new(), None, None);
        let r#type = match entry.kind {
            EntryKind::File(content) => {
                (size, digest, extents) = (Some(content.size), Some(content.digest), content.extents);
                LineType::File
            }
            EntryKind::Dir => LineType::Dir,
            EntryKind::Symlink { target: text } => {
                target = Some(text);
                LineType::Symlink
            }
            EntryKind::Hardlink { target: path } => {
                target = Some(RawText(path.as_bytes().to_vec()));
                LineType::Hardlink
            }
            EntryKind::Fifo => LineType::Fifo,
            EntryKind::Socket => LineType::Socket,
            EntryKind::Char { device: numbers } => {
                device = Some(numbers);
                LineType::Char
            }
            EntryKind::Block { device: numbers } => {
                device = Some(numbers);
                LineType::Block
            }
        };
        let Entry { path, mode, uid, gid, user, group, mtime, ctime, inode, xattrs, .. } = entry;
        Self {
            path,
            r#type,
            size,
            digest,
            extents,
            more: 0,
            target,
            device,
            mode,
            uid,
            gid,
            user,
            group,
            mtime,
            ctime,
            inode,
            xattrs,
        }
    }
}

impl TryFrom<Line> for Entry {
    type Error = String;

    fn try_from(line: Line) -> Result<Self, String> {
        if line.more > 0 {
            return Err(format!("the extents of `{}` are on more lines than this one", line.path));
        }
        let missing = |field: &str| format!("the entry `{}` has no `{field}`", line.path);
        let kind = match line.r#type {
            LineType::File => EntryKind::File(FileContent {
                size: line.size.ok_or_else(|| missing("size"))?,
                digest: line.digest.ok_or_else(|| missing("digest"))?,
                extents: line.extents,
            }),
            LineType::Dir => EntryKind::Dir,
            LineType::Symlink => EntryKind::Symlink { target: line.target.ok_or_else(|| missing("target"))? },
            LineType::Hardlink => {
                let target = line.target.ok_or_else(|| missing("target"))?;
                EntryKind::Hardlink { target: RelPath::new(target.0).map_err(|e| e.to_string())? }
            }
            LineType::Fifo => EntryKind::Fifo,
            LineType::Socket => EntryKind::Socket,
            LineType::Char => EntryKind::Char { device: line.device.ok_or_else(|| missing("device"))? },
            LineType::Block => EntryKind::Block { device: line.device.ok_or_else(|| missing("device"))? },
        };
        let Line { path, mode, uid, gid, user, group, mtime, ctime, inode, xattrs, .. } = line;
        Ok(Self { path, kind, mode, uid, gid, user, group, mtime, ctime, inode, xattrs })
    }
}

impl Entry {
    /// Its lines in a manifest, each with its newline: one, and further ones with extents where a file has very many.
    pub fn write_lines<E>(mut self, write: &mut dyn FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let mut rest = Vec::new();
        if let EntryKind::File(content) = &mut self.kind
            && content.extents.len() > EXTENTS_PER_LINE
        {
            rest = content.extents.split_off(EXTENTS_PER_LINE);
        }
        let mut line = Line::from(self);
        line.more = rest.len().div_ceil(EXTENTS_PER_LINE) as u32;
        write(&text_of(&line))?;
        rest.chunks(EXTENTS_PER_LINE).try_for_each(|some| write(&text_of(&some)))
    }

    /// Reads its lines: the first, and each further one as `next` brings it. `Err` says what is wrong.
    pub fn read_lines<E: From<String>>(first: &[u8], next: &mut dyn FnMut() -> Result<Vec<u8>, E>) -> Result<Self, E> {
        let mut line: Line = serde_json::from_slice(first).map_err(|e| e.to_string())?;
        let more = std::mem::take(&mut line.more);
        if more as usize > EXTENTS_MAX.div_ceil(EXTENTS_PER_LINE) {
            return Err(format!("`{}` has {more} further lines, more than any file", line.path).into());
        }
        for _ in 0..more {
            let some: Vec<Extent> = serde_json::from_slice(&next()?).map_err(|e| e.to_string())?;
            if some.is_empty() || some.len() > EXTENTS_PER_LINE {
                return Err(format!("a further line of `{}` has {} extents", line.path, some.len()).into());
            }
            if line.extents.len() + some.len() > EXTENTS_MAX {
                return Err(format!("`{}` has more than {EXTENTS_MAX} extents", line.path).into());
            }
            line.extents.extend(some);
        }
        Ok(Self::try_from(line)?)
    }

    /// An entry with nothing but a path and a kind.
    pub fn bare(path: RelPath, kind: EntryKind) -> Self {
        Self {
            path,
            kind,
            mode: 0,
            uid: 0,
            gid: 0,
            user: None,
            group: None,
            mtime: Stamp::default(),
            ctime: None,
            inode: None,
            xattrs: BTreeMap::new(),
        }
    }
    /// The content, if this is a regular file.
    pub fn content(&self) -> Option<&FileContent> {
        match &self.kind {
            EntryKind::File(content) => Some(content),
            _ => None,
        }
    }
    /// Bytes of content: the size of a file, zero of anything else.
    pub fn size(&self) -> u64 {
        self.content().map_or(0, |content| content.size)
    }
    /// Whether this is a directory.
    pub fn is_dir(&self) -> bool {
        matches!(self.kind, EntryKind::Dir)
    }
    /// The letter that `ls -l` shows for it.
    pub fn letter(&self) -> char {
        match self.kind {
            EntryKind::File(_) | EntryKind::Hardlink { .. } => '-',
            EntryKind::Dir => 'd',
            EntryKind::Symlink { .. } => 'l',
            EntryKind::Fifo => 'p',
            EntryKind::Socket => 's',
            EntryKind::Char { .. } => 'c',
            EntryKind::Block { .. } => 'b',
        }
    }
    /// What a reader checks before it trusts an entry: lengths add up. `Err` says what is wrong.
    pub fn validate(&self) -> Result<(), &'static str> {
        self.content().map_or(Ok(()), |content| check_extents(&content.extents, content.size))
    }
}

/// A line with its newline.
fn text_of(value: &impl Serialize) -> Vec<u8> {
    let mut text = serde_json::to_vec(value).unwrap_or_default();
    text.push(b'\n');
    text
}

/// Whether extents lie in frames and add up to `size` bytes. `Err` says what is wrong.
pub fn check_extents(extents: &[Extent], size: u64) -> Result<(), &'static str> {
    let mut sum = 0u64;
    for extent in extents {
        if extent.length == 0 {
            return Err("an extent is empty");
        }
        let end = extent.offset.checked_add(extent.length).ok_or("an extent overflows")?;
        if extent.frame.is_some() && end > super::limits::FRAME_MAX as u64 {
            return Err("an extent ends beyond any frame");
        }
        sum = sum.checked_add(extent.length).ok_or("the extents overflow")?;
    }
    if sum == size { Ok(()) } else { Err("the extents do not add up to the size") }
}

/// Appends an extent, joined to the last one where it continues it.
pub fn push_extent(extents: &mut Vec<Extent>, next: Extent) {
    if next.length == 0 {
        return;
    }
    if let Some(last) = extents.last_mut() {
        let joins = match (last.frame, next.frame) {
            (None, None) => true,
            (Some(a), Some(b)) => a == b && last.offset + last.length == next.offset,
            _ => false,
        };
        if joins {
            last.length += next.length;
            return;
        }
    }
    extents.push(next);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(frame: u8, offset: u64, length: u64) -> Extent {
        Extent { frame: Some(FrameId::new([frame; 32])), offset, length }
    }

    #[test]
    fn neighbouring_chunks_merge_into_one_extent() {
        let mut all = Vec::new();
        for next in [at(1, 0, 10), at(1, 10, 5), at(1, 20, 5), at(2, 25, 5)] {
            push_extent(&mut all, next);
        }
        assert_eq!(all, [at(1, 0, 15), at(1, 20, 5), at(2, 25, 5)]);
    }

    #[test]
    fn an_entry_survives_json_and_absent_fields_stay_out() {
        let content = FileContent { size: 7, digest: Digest::new([3; 32]), extents: vec![at(1, 4, 7)] };
        let entry = Entry::bare(RelPath::new("a/b").unwrap(), EntryKind::File(content));
        let text = serde_json::to_string(&entry).unwrap();
        assert!(!text.contains("xattrs") && text.contains(r#""type":"file""#), "{text}");
        assert_eq!(serde_json::from_str::<Entry>(&text).unwrap(), entry);
    }

    #[test]
    fn very_many_extents_take_several_lines() {
        for count in [0, EXTENTS_PER_LINE, EXTENTS_PER_LINE + 1, 3 * EXTENTS_PER_LINE + 7] {
            let extents: Vec<Extent> =
                (0..count).map(|n| at((n % 250) as u8, n as u64 % 1000, 1 + n as u64 % 3)).collect();
            let size = extents.iter().map(|e| e.length).sum();
            let content = FileContent { size, digest: Digest::new([3; 32]), extents };
            let entry = Entry::bare(RelPath::new("big").unwrap(), EntryKind::File(content));
            let mut lines = Vec::new();
            let mut keep = |line: &[u8]| {
                lines.push(line.to_vec());
                Ok::<_, String>(())
            };
            entry.clone().write_lines(&mut keep).unwrap();
            assert_eq!(lines.len(), 1 + count.saturating_sub(1) / EXTENTS_PER_LINE);
            assert!(lines.iter().all(|line| line.len() < super::super::limits::MANIFEST_LINE_MAX / 2));
            let mut rest = lines[1..].iter();
            let mut next = || rest.next().cloned().ok_or_else(|| "cut off".to_owned());
            assert_eq!(Entry::read_lines(&lines[0], &mut next).unwrap(), entry);
            if lines.len() > 1 {
                assert!(Entry::read_lines(&lines[0], &mut || Err("cut off".to_owned())).is_err());
                assert!(serde_json::from_slice::<Entry>(&lines[0]).is_err(), "not without the others");
            }
        }
    }

    #[test]
    fn further_lines_that_nobody_writes_are_refused() {
        let digest = Digest::new([3; 32]);
        let read = |more: u32, line: &[u8]| {
            let first = format!(r#"{{"path":"f","type":"file","size":0,"digest":"{digest}","more":{more}}}"#);
            let mut calls = 0;
            let mut next = || {
                calls += 1;
                assert!(calls < 10, "it reads on and on");
                Ok::<_, String>(line.to_vec())
            };
            let result = Entry::read_lines(first.as_bytes(), &mut next);
            (result.is_ok(), calls)
        };
        let one = serde_json::to_vec(&[at(1, 0, 1)]).unwrap();
        let many = serde_json::to_vec(&vec![at(1, 0, 1); EXTENTS_PER_LINE + 1]).unwrap();
        assert_eq!(read(2, &one), (true, 2));
        assert_eq!(read(u32::MAX, &one), (false, 0), "more lines than a file may have");
        assert_eq!(read(3, b"[]"), (false, 1), "a line without extents");
        assert_eq!(read(3, &many), (false, 1), "a line with too many");
    }

    #[test]
    fn extents_that_do_not_add_up_are_noticed() {
        let mut content = FileContent { size: 8, digest: Digest::new([3; 32]), extents: vec![at(1, 4, 7)] };
        let entry = |c: &FileContent| Entry::bare(RelPath::root(), EntryKind::File(c.clone()));
        assert!(entry(&content).validate().is_err());
        content.size = 7;
        assert_eq!(entry(&content).validate(), Ok(()));
        content.extents[0].offset = u64::MAX;
        assert!(entry(&content).validate().is_err());
    }
}
