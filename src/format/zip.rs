//! ZIP archives as Convex writes and reads them. Read through the central directory alone: what its writer puts before and behind
//! each member tells no sizes. Members are inflated in parallel, each from its own place in the file.
//!
//! Invariants: no size that the archive claims is allocated; a member ends at the size and with the CRC-32 that the directory
//! names, or reading it is an error; members do not overlap. Source of the format: PKWARE's APPNOTE.TXT 6.3.10. Not here: what
//! members mean (`convex::layout`).

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use flate2::Crc;
use flate2::bufread::DeflateDecoder;
use flate2::write::DeflateEncoder;
use rawzip::path::ZipFilePath;
use rawzip::{CompressionMethod, RECOMMENDED_BUFFER_SIZE, ZipArchive, ZipArchiveWriter};

/// Members of an archive at most: three for each of a deployment's tables and one for each file.
pub const MEMBERS_MAX: usize = 16 << 20;
/// The longest name of a member.
const NAME_MAX: usize = 4 << 10;
/// What is read of the file at a time.
const BLOCK: usize = 256 << 10;

/// What is wrong with an archive.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ZipError {
    /// It is none, or cut off.
    #[error("it is no whole ZIP archive: {0}")]
    Archive(String),
    /// A member cannot be read.
    #[error("its member `{name}` {why}")]
    Member {
        /// The member's name.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// It could not be written.
    #[error("could not write the archive")]
    Write(#[source] io::Error),
}

/// A member, as the directory has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Bytes, inflated.
    pub size: u64,
    /// CRC-32 of them.
    pub crc: u32,
    deflated: bool,
    start: u64,
    end: u64,
}

/// Reads the directory. Names of directories are left out.
pub fn members(file: &File) -> Result<Vec<Member>, ZipError> {
    let bad = |e: rawzip::Error| ZipError::Archive(e.to_string());
    let mut buffer = vec![0; RECOMMENDED_BUFFER_SIZE];
    let copy = file.try_clone().map_err(|e| ZipError::Archive(e.to_string()))?;
    let length = file.metadata().map_err(|e| ZipError::Archive(e.to_string()))?.len();
    let archive = ZipArchive::from_file(copy, &mut buffer).map_err(bad)?;
    let claimed = archive.entries_hint();
    let (mut found, mut count) = (Vec::new(), 0u64);
    let mut entries = archive.entries(&mut buffer);
    while let Some(entry) = entries.next_entry().map_err(bad)? {
        count += 1;
        let name = String::from_utf8(entry.file_path().as_ref().to_vec());
        let name = name.map_err(|e| ZipError::Archive(format!("the name of member {count} is not UTF-8: {e}")))?;
        let wrong = |why: String| ZipError::Member { name: name.chars().take(200).collect(), why };
        if name.len() > NAME_MAX || found.len() >= MEMBERS_MAX {
            return Err(wrong(format!(
                "is one too many or has too long a name (at most {MEMBERS_MAX}, {NAME_MAX} bytes)"
            )));
        }
        if entry.is_dir() {
            continue;
        }
        let deflated = match entry.compression_method() {
            CompressionMethod::STORE => false,
            CompressionMethod::DEFLATE => true,
            other => return Err(wrong(format!("is compressed by an unknown method ({other})"))),
        };
        if entry.flags().is_encrypted() {
            return Err(wrong("is encrypted".to_owned()));
        }
        let place =
            archive.get_entry(entry.wayfinder()).map_err(|e| wrong(format!("is not where it should be: {e}")))?;
        let (start, end) = place.compressed_data_range();
        let size = entry.uncompressed_size_hint();
        if start > end || end > length || (!deflated && end - start != size) {
            return Err(wrong("does not lie within the archive".to_owned()));
        }
        found.push(Member { size, crc: entry.crc32(), deflated, start, end, name });
    }
    if count != claimed {
        return Err(ZipError::Archive(format!("its end names {claimed} members, and there are {count}")));
    }
    refuse_overlaps(&found)?;
    Ok(found)
}

/// Members that share bytes inflate to much more than the file holds; nobody writes such.
fn refuse_overlaps(members: &[Member]) -> Result<(), ZipError> {
    let mut order: Vec<&Member> = members.iter().collect();
    order.sort_unstable_by_key(|member| (member.start, member.end));
    match order.windows(2).find(|pair| pair[0].end > pair[1].start) {
        None => Ok(()),
        Some(pair) => {
            Err(ZipError::Member { name: pair[1].name.clone(), why: format!("lies over `{}`", pair[0].name) })
        }
    }
}

/// A range of a file, by its place: several readers share one file.
struct Range {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Read for Range {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(out.len());
        if left == 0 {
            return Ok(0);
        }
        let count = self.file.read_at(&mut out[..left], self.at)?;
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive became shorter"));
        }
        self.at += count as u64;
        Ok(count)
    }
}

enum Inner {
    Stored(BufReader<Range>),
    Deflated(DeflateDecoder<BufReader<Range>>),
}

/// The bytes of a member, inflated and checked: a member that does not match is an error before its end is told.
pub struct MemberReader {
    inner: Inner,
    crc: Crc,
    passed: u64,
    size: u64,
    expected: u32,
    name: String,
}

impl MemberReader {
    /// Opens a member of an archive.
    pub fn new(file: Arc<File>, member: &Member) -> Self {
        let range = BufReader::with_capacity(BLOCK, Range { file, at: member.start, end: member.end });
        let inner = match member.deflated {
            false => Inner::Stored(range),
            true => Inner::Deflated(DeflateDecoder::new(range)),
        };
        let (size, expected, name) = (member.size, member.crc, member.name.clone());
        Self { inner, crc: Crc::new(), passed: 0, size, expected, name }
    }

    fn wrong(&self, why: &str) -> io::Error {
        let why = why.to_owned();
        io::Error::new(io::ErrorKind::InvalidData, ZipError::Member { name: self.name.clone(), why })
    }
}

impl Read for MemberReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        let count = match &mut self.inner {
            Inner::Stored(reader) => reader.read(out)?,
            Inner::Deflated(reader) => reader.read(out)?,
        };
        self.passed += count as u64;
        if self.passed > self.size {
            return Err(self.wrong("is longer than the directory says"));
        }
        self.crc.update(&out[..count]);
        if count == 0 && (self.passed, self.crc.sum()) != (self.size, self.expected) {
            return Err(self.wrong("is damaged: its length or check sum differs"));
        }
        Ok(count)
    }
}

/// Writes an archive: the same members give the same bytes. ZIP64 where it is needed, sizes in the directory.
pub struct Writer<W: Write> {
    archive: ZipArchiveWriter<W>,
}

impl<W: Write> Writer<W> {
    /// An archive that goes to `output`.
    pub fn new(output: W) -> Self {
        Self { archive: ZipArchiveWriter::new(output) }
    }

    /// Adds a member with all that `content` yields. Returns its size. A name that leads out of where an archive is unpacked
    /// (`..`, a leading `/`, `\\`) is refused: the directory would show another one.
    pub fn add(&mut self, name: &str, deflate: bool, content: &mut dyn Read) -> Result<u64, ZipError> {
        let method = if deflate { CompressionMethod::DEFLATE } else { CompressionMethod::STORE };
        let wrong = |why: String| ZipError::Member { name: name.to_owned(), why };
        if ZipFilePath::from_str(name).as_str() != name {
            return Err(wrong("has a name that no archive may hold".to_owned()));
        }
        let broken = |e: rawzip::Error| wrong(format!("could not be written: {e}"));
        let builder = self.archive.new_file(name).compression_method(method).unix_permissions(0o644);
        let (mut entry, config) = builder.start().map_err(broken)?;
        let (size, descriptor) = match deflate {
            true => {
                let mut writer = config.wrap(DeflateEncoder::new(&mut entry, flate2::Compression::new(4)));
                let size = copy(content, &mut writer)?;
                let (encoder, descriptor) = writer.finish().map_err(broken)?;
                encoder.finish().map_err(ZipError::Write)?;
                (size, descriptor)
            }
            false => {
                let mut writer = config.wrap(&mut entry);
                let size = copy(content, &mut writer)?;
                (size, writer.finish().map_err(broken)?.1)
            }
        };
        entry.finish(descriptor).map_err(broken)?;
        Ok(size)
    }

    /// Writes the directory and gives the output back.
    pub fn finish(self) -> Result<W, ZipError> {
        self.archive.finish().map_err(|e| ZipError::Archive(e.to_string()))
    }
}

fn copy(content: &mut dyn Read, output: &mut dyn Write) -> Result<u64, ZipError> {
    let (mut buffer, mut size) = (vec![0; BLOCK], 0u64);
    loop {
        match content.read(&mut buffer) {
            Ok(0) => return Ok(size),
            Ok(count) => {
                output.write_all(&buffer[..count]).map_err(ZipError::Write)?;
                size += count as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(ZipError::Write(e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Found by the fuzzer: such a member was written under another name.
    #[test]
    fn a_name_that_would_be_changed_is_refused() {
        for name in ["\\storage/a.bin", "../a", "/a", "a//b", "a/../b", ".\\a"] {
            let mut writer = Writer::new(Vec::new());
            let added = writer.add(name, true, &mut &b"bytes"[..]);
            let Err(ZipError::Member { name: named, why }) = added else { panic!("{name} was taken") };
            assert_eq!((named.as_str(), why.as_str()), (name, "has a name that no archive may hold"));
        }
        let mut writer = Writer::new(Vec::new());
        assert_eq!(writer.add("_components/a b/_storage/x.bin", true, &mut &b"bytes"[..]).expect("it is taken"), 5);
    }
}
