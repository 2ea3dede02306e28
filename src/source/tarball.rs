//! A tar archive as a source: stored as its members, so that the same tree taken as tar or as a directory deduplicates.
//!
//! The archive comes through another source (a file, a command's output, standard input) and may be compressed with gzip
//! or zstd. It is read once, in its own order: small members whole, large ones in blocks that are handed to whoever reads
//! the entry. Invariants: an archive that ends before its end marker is an error, never a snapshot; a name that leaves the
//! tree is skipped by name; memory is a few blocks, whatever sizes a header claims. Not here: path order, names that come twice, links that point forwards; the repository's
//! run puts them right. Formats: ustar, GNU (long names, sparse), pax (POSIX.1-2001), star's and GNU tar's `SCHILY.xattr`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Cursor, Read};
use std::sync::{Arc, Mutex};

use crossbeam_channel::{Receiver, Sender, bounded};
use tar::{Archive, Entry as Member, EntryType};

use super::cutting::{SAMPLE, choose_cutting};
use super::{Body, Error, Found, FoundEntry, Opened, Source};
use crate::model::{Digest, Entry, EntryKind, FileContent, RawText, RelPath, Stamp, limits};

const BLOCK: usize = 512;
/// Runs of one sparse member at most.
const RUNS_MAX: usize = 1 << 20;
/// Bytes before a member at most: its header, long names, pax records, maps of holes. The `tar` crate keeps them in memory
/// whole, and a few kilobytes of zstd can unpack to gigabytes of them.
const HEADERS_MAX: u64 = 16 << 20;

/// The members of an archive.
pub struct TarballSource {
    archive: Box<dyn Source>,
}

impl TarballSource {
    /// A source over the one stream that `archive` yields.
    pub fn new(archive: Box<dyn Source>) -> Self {
        Self { archive }
    }
}

/// Reads an archive, called `what`, and yields its members in its own order.
pub(super) fn read_members(
    what: &str,
    stream: Box<dyn Read + Send + '_>,
    each: &mut dyn FnMut(Found) -> bool,
) -> Result<(), Error> {
    let broken = |why: String| Error::Archive { what: what.to_owned(), why };
    let io = |e: std::io::Error| broken(e.to_string());
    let marker = Marker::default();
    let watched = Watched { inner: decompress(stream).map_err(io)?, marker: marker.clone() };
    let mut archive = Archive::new(watched);
    for member in archive.entries().map_err(io)? {
        let mut member = member.map_err(io)?;
        marker.stop_behind(&member);
        match describe(&mut member).map_err(io)? {
            Described::Nothing => {}
            Described::Skip(path, why) => {
                if !each(Found::Skipped { path, why }) {
                    return Ok(());
                }
            }
            Described::Entry(entry, runs) => {
                if !deliver(*entry, runs, &mut member, each).map_err(io)? {
                    return Ok(());
                }
            }
        }
    }
    if !marker.was_zeros() {
        return Err(broken("it ends before its end marker: whoever wrote it was interrupted".to_owned()));
    }
    marker.never_stop();
    // Padding behind the end marker is read, so that the producer is not cut off while it still writes.
    std::io::copy(&mut archive.into_inner(), &mut std::io::sink()).map(drop).map_err(io)
}

/// Opens a member that [`read_members`] yielded, once.
pub(super) fn open_member(found: &FoundEntry) -> Result<Opened<'static>, String> {
    let body = found.body.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    let Body { mut bytes, data } = body.ok_or("it was read already")?;
    let size = found.size;
    let mut head = Vec::with_capacity(SAMPLE);
    (&mut bytes).take(SAMPLE as u64).read_to_end(&mut head).map_err(|e| e.to_string())?;
    let cutting = choose_cutting(&found.entry.path, size, &head);
    Ok(Opened {
        file: Box::new(Cursor::new(head).chain(bytes)),
        data,
        cutting,
        xattrs: found.entry.xattrs.clone(),
        size,
        changed: Box::new(|| None),
    })
}

impl Source for TarballSource {
    fn kind(&self) -> &'static str {
        "tarball"
    }
    fn root(&self) -> String {
        self.archive.root()
    }
    fn walk(&self, each: &mut dyn FnMut(Found) -> bool) -> Result<(), Error> {
        let mut result = Ok(());
        self.archive.walk(&mut |found| {
            let Found::Entry(found) = found else { return true };
            result = match self.archive.open(&found) {
                Ok(opened) => read_members(&self.archive.root(), opened.file, each),
                Err(why) => Err(Error::Archive { what: self.archive.root(), why }),
            };
            false
        })?;
        result
    }
    fn open(&self, found: &FoundEntry) -> Result<Opened<'_>, String> {
        open_member(found)
    }
    fn xattrs(&self, entry: &Entry) -> BTreeMap<String, RawText> {
        entry.xattrs.clone()
    }
    fn cancel(&self) {
        self.archive.cancel();
    }
    fn all_or_nothing(&self) -> bool {
        false
    }
    fn is_ordered(&self) -> bool {
        false
    }
    fn finish(&self) -> Result<(), Error> {
        self.archive.finish()
    }
}

/// What went by: whether the last whole block was zeros and no member's, as an archive's end marker is, and how much more
/// may come before the next member.
#[derive(Clone, Default)]
struct Marker(Arc<Mutex<Passed>>);

struct Passed {
    /// Bytes of the block under way.
    filled: usize,
    /// Whether they are zeros so far.
    zeros: bool,
    /// Whether the last whole block was.
    ended: bool,
    /// Bytes that went by.
    position: u64,
    /// Where the last member's bytes end: zeros before that are its own.
    data_end: u64,
    /// No byte from here on is handed out.
    stop: u64,
}

impl Default for Passed {
    fn default() -> Self {
        Self { filled: 0, zeros: false, ended: false, position: 0, data_end: 0, stop: HEADERS_MAX }
    }
}

impl Marker {
    fn state(&self) -> std::sync::MutexGuard<'_, Passed> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn saw(&self, mut bytes: &[u8]) {
        let mut state = self.state();
        while !bytes.is_empty() {
            let (part, rest) = bytes.split_at(bytes.len().min(BLOCK - state.filled));
            let zeros = part.iter().all(|b| *b == 0);
            state.zeros = zeros && (state.filled == 0 || state.zeros);
            state.filled += part.len();
            state.position += part.len() as u64;
            if state.filled == BLOCK {
                (state.filled, state.ended) = (0, state.zeros && state.position > state.data_end);
            }
            bytes = rest;
        }
    }

    fn was_zeros(&self) -> bool {
        self.state().ended
    }

    /// Lets this member's bytes pass, and the headers of the next one.
    fn stop_behind<R: Read>(&self, member: &Member<'_, R>) {
        let mut state = self.state();
        let stored = stored_size(member).checked_next_multiple_of(BLOCK as u64).unwrap_or(u64::MAX);
        state.data_end = state.position.saturating_add(stored);
        state.stop = state.data_end.saturating_add(HEADERS_MAX);
    }

    fn never_stop(&self) {
        self.state().stop = u64::MAX;
    }

    /// How much may be read now.
    fn room(&self) -> u64 {
        let state = self.state();
        state.stop.saturating_sub(state.position)
    }
}

/// Bytes of a member in the archive: for a sparse one of GNU's older form not those that it expands to.
fn stored_size<R: Read>(member: &Member<'_, R>) -> u64 {
    match member.header().entry_type() {
        EntryType::GNUSparse => member.header().entry_size().unwrap_or(0),
        _ => member.size(),
    }
}

struct Watched<R> {
    inner: R,
    marker: Marker,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let room = usize::try_from(self.marker.room()).unwrap_or(usize::MAX);
        if room == 0 && !out.is_empty() {
            return Err(std::io::Error::other(format!("a member has more than {} MiB of headers", HEADERS_MAX >> 20)));
        }
        let most = out.len().min(room);
        let count = self.inner.read(&mut out[..most])?;
        self.marker.saw(&out[..count]);
        Ok(count)
    }
}

/// Plain, gzip (RFC 1952) or zstd (RFC 8878), told by the first bytes.
fn decompress<'s>(stream: Box<dyn Read + Send + 's>) -> std::io::Result<Box<dyn Read + 's>> {
    let mut stream = BufReader::with_capacity(128 << 10, stream);
    let head = stream.fill_buf()?;
    if head.starts_with(&[0x1f, 0x8b]) {
        let inflated = flate2::bufread::MultiGzDecoder::new(stream);
        return Ok(Box::new(BufReader::with_capacity(128 << 10, inflated)));
    }
    if head.starts_with(&0xFD2F_B528_u32.to_le_bytes()) {
        return Ok(Box::new(zstd::stream::read::Decoder::with_buffer(stream)?));
    }
    Ok(Box::new(stream))
}

enum Described {
    Entry(Box<Entry>, Option<Runs>),
    Skip(RelPath, String),
    /// A header that describes others, or nothing that a tree holds.
    Nothing,
}

/// What a sparse member's map says.
struct Runs {
    size: u64,
    data: Vec<(u64, u64)>,
}

/// The pax records of one member.
#[derive(Default)]
struct Pax {
    mtime: Option<Stamp>,
    user: Option<String>,
    group: Option<String>,
    uid: Option<u32>,
    gid: Option<u32>,
    xattrs: BTreeMap<String, RawText>,
    sparse: BTreeMap<String, Vec<u8>>,
}

impl Pax {
    fn read<R: Read>(member: &mut Member<'_, R>) -> std::io::Result<Self> {
        let mut pax = Self::default();
        let Some(records) = member.pax_extensions()? else { return Ok(pax) };
        for record in records {
            let record = record?;
            let (Ok(key), value) = (record.key(), record.value_bytes()) else { continue };
            let text = || std::str::from_utf8(value).ok();
            match key {
                "mtime" => pax.mtime = text().and_then(parse_stamp),
                "uname" => pax.user = text().map(str::to_owned),
                "gname" => pax.group = text().map(str::to_owned),
                "uid" => pax.uid = text().and_then(|t| t.parse().ok()),
                "gid" => pax.gid = text().and_then(|t| t.parse().ok()),
                _ => {
                    if let Some(name) = key.strip_prefix("SCHILY.xattr.")
                        && value.len() <= limits::XATTR_MAX
                    {
                        pax.xattrs.insert(name.to_owned(), RawText(value.to_vec()));
                    } else if let Some(name) = key.strip_prefix("GNU.sparse.") {
                        pax.sparse.insert(name.to_owned(), value.to_vec());
                    }
                }
            }
        }
        Ok(pax)
    }

    fn sparse_number(&self, key: &str) -> Option<u64> {
        std::str::from_utf8(self.sparse.get(key)?).ok()?.parse().ok()
    }
}

/// `seconds[.fraction]`, perhaps negative (pax, POSIX.1-2001).
fn parse_stamp(text: &str) -> Option<Stamp> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    let nanos: u32 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    Some(match (whole.starts_with('-'), nanos) {
        (true, 1..) => Stamp(seconds.checked_sub(1)?, 1_000_000_000 - nanos),
        _ => Stamp(seconds, nanos),
    })
}

/// The name below the root: as GNU tar reads it, without leading `/` and `./`.
fn clean(name: &[u8]) -> Result<RelPath, String> {
    let parts = name.split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".");
    let joined = parts.collect::<Vec<_>>().join(&b'/');
    RelPath::new(joined).map_err(|_| format!("`{}` leaves the tree", RawText(name.to_vec())))
}

fn describe<R: Read>(member: &mut Member<'_, R>) -> std::io::Result<Described> {
    let kind = member.header().entry_type();
    // Before anything is read of it: a global header's records are no member's, and may be many.
    if matches!(kind, EntryType::XGlobalHeader | EntryType::XHeader | EntryType::GNULongName | EntryType::GNULongLink) {
        return Ok(Described::Nothing);
    }
    let pax = Pax::read(member)?;
    let name = pax.sparse.get("name").cloned().unwrap_or_else(|| member.path_bytes().into_owned());
    let path = match clean(&name) {
        Ok(path) => path,
        Err(why) => return Ok(Described::Skip(RelPath::new(&b"(outside)"[..]).unwrap_or_default(), why)),
    };
    let link = || member.link_name_bytes().map(std::borrow::Cow::into_owned).unwrap_or_default();
    let header = member.header();
    let number = |value: std::io::Result<Option<u32>>| value.ok().flatten().unwrap_or(0);
    let device = (number(header.device_major()), number(header.device_minor()));
    let content = FileContent { size: 0, digest: Digest::new([0; 32]), extents: Vec::new() };
    let kind = match kind {
        // Archives older than ustar mark a directory by its name alone.
        EntryType::Regular if name.ends_with(b"/") => EntryKind::Dir,
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => EntryKind::File(content),
        EntryType::Directory => EntryKind::Dir,
        EntryType::Symlink => EntryKind::Symlink { target: RawText(link()) },
        EntryType::Link => match clean(&link()) {
            Ok(target) => EntryKind::Hardlink { target },
            Err(why) => return Ok(Described::Skip(path, why)),
        },
        EntryType::Fifo => EntryKind::Fifo,
        EntryType::Char => EntryKind::Char { device },
        EntryType::Block => EntryKind::Block { device },
        other => {
            let why = format!("it is of type {:?}, which has no place in a tree", char::from(other.as_byte()));
            return Ok(Described::Skip(path, why));
        }
    };
    let mut entry = Entry::bare(path, kind);
    fill(&mut entry, member.header(), &pax);
    match read_map(&pax, member)? {
        Ok(runs) => {
            entry.xattrs = pax.xattrs;
            Ok(Described::Entry(Box::new(entry), runs))
        }
        Err(why) => Ok(Described::Skip(entry.path, why)),
    }
}

fn fill(entry: &mut Entry, header: &tar::Header, pax: &Pax) {
    let text = |bytes: Option<&[u8]>| {
        let text = bytes.and_then(|bytes| std::str::from_utf8(bytes).ok());
        text.filter(|text| !text.is_empty()).map(str::to_owned)
    };
    let number = |value: std::io::Result<u64>| value.ok().and_then(|value| u32::try_from(value).ok());
    entry.mode = header.mode().unwrap_or(0o600) & 0o7777;
    entry.uid = pax.uid.or_else(|| number(header.uid())).unwrap_or(0);
    entry.gid = pax.gid.or_else(|| number(header.gid())).unwrap_or(0);
    entry.user = pax.user.clone().or_else(|| text(header.username_bytes()));
    entry.group = pax.group.clone().or_else(|| text(header.groupname_bytes()));
    let seconds = header.mtime().ok().and_then(|seconds| i64::try_from(seconds).ok());
    entry.mtime = pax.mtime.unwrap_or(Stamp(seconds.unwrap_or(0), 0));
}

/// The map of a sparse member in pax form: in a record (0.1), or at the beginning of its bytes (1.0). The inner error says
/// why the member is skipped. GNU's older form is expanded by the `tar` crate.
fn read_map<R: Read>(pax: &Pax, member: &mut Member<'_, R>) -> std::io::Result<Result<Option<Runs>, String>> {
    if pax.sparse.is_empty() {
        return Ok(Ok(None));
    }
    let mut held = member.size();
    let numbers = if let Some(map) = pax.sparse.get("map") {
        let text = String::from_utf8_lossy(map).into_owned();
        text.split(',').map(|n| n.parse().ok()).collect::<Option<Vec<u64>>>()
    } else if pax.sparse_number("major") == Some(1) {
        let (numbers, read) = read_numbers(member)?;
        held = held.saturating_sub(read);
        numbers
    } else {
        return Ok(
            Err("it is sparse in a form (pax 0.0) that is not read: make it with `--sparse-version=1.0`".into()),
        );
    };
    let size = pax.sparse_number("realsize").or_else(|| pax.sparse_number("size"));
    let bad = || Err("its map of holes is damaged".to_owned());
    let (Some(numbers), Some(size)) = (numbers, size) else { return Ok(bad()) };
    let (mut data, mut end) = (Vec::new(), 0u64);
    for pair in numbers.chunks(2) {
        let [start, length] = *pair else { return Ok(bad()) };
        let Some(next) = start.checked_add(length).filter(|next| start >= end && *next <= size) else {
            return Ok(bad());
        };
        if length > 0 {
            data.push((start, length));
        }
        end = next;
    }
    // Zeros in place of bytes that the map promises and the member does not hold would be a silent loss.
    if data.iter().map(|(_, length)| length).sum::<u64>() > held {
        return Ok(bad());
    }
    Ok(Ok(Some(Runs { size, data })))
}

/// The map of form 1.0 and the bytes that it takes: decimal lines, the count of pairs first, padded to a whole block.
fn read_numbers<R: Read>(member: &mut Member<'_, R>) -> std::io::Result<(Option<Vec<u64>>, u64)> {
    let (mut numbers, mut wanted, mut digits, mut read) = (Vec::new(), None, String::new(), 0);
    loop {
        let mut block = [0; BLOCK];
        member.read_exact(&mut block)?;
        read += BLOCK as u64;
        for byte in block {
            match byte {
                b'0'..=b'9' if digits.len() < 20 => digits.push(char::from(byte)),
                b'\n' => {
                    let Ok(number) = digits.parse::<u64>() else { return Ok((None, read)) };
                    digits.clear();
                    match wanted {
                        None if number > RUNS_MAX as u64 => return Ok((None, read)),
                        None => wanted = Some(2 * number as usize),
                        Some(_) => numbers.push(number),
                    }
                    if wanted == Some(numbers.len()) {
                        return Ok((Some(numbers), read));
                    }
                }
                _ => return Ok((None, read)),
            }
        }
    }
}

/// Sends an entry on, with its bytes where it has some. False when nobody listens any more.
fn deliver<R: Read>(
    entry: Entry,
    runs: Option<Runs>,
    member: &mut Member<'_, R>,
    each: &mut dyn FnMut(Found) -> bool,
) -> std::io::Result<bool> {
    if entry.content().is_none() {
        return Ok(each(Found::Entry(Box::new(FoundEntry::new(entry, 0, false)))));
    }
    let (size, data) = runs.map_or((member.size(), None), |runs| (runs.size, Some(runs.data)));
    let mut found = FoundEntry::new(entry, size, data.is_some());
    if size <= limits::SMALL_FILE_MAX && data.is_none() {
        let mut bytes = Vec::with_capacity(size as usize);
        member.read_to_end(&mut bytes)?;
        if bytes.len() as u64 != size {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        found.body = Mutex::new(Some(Body { bytes: Box::new(Cursor::new(bytes)), data }));
        return Ok(each(Found::Entry(Box::new(found))));
    }
    let (blocks_in, blocks) = bounded(2);
    let reader = Blocks { blocks, current: Cursor::new(Vec::new()) };
    found.body = Mutex::new(Some(Body { bytes: Box::new(reader), data }));
    if !each(Found::Entry(Box::new(found))) {
        return Ok(false);
    }
    let result = send_blocks(member, &blocks_in);
    if let Err(e) = &result {
        let _ = blocks_in.send(Err(std::io::Error::new(e.kind(), e.to_string())));
    }
    result.map(|()| true)
}

fn send_blocks<R: Read>(member: &mut Member<'_, R>, blocks: &Sender<std::io::Result<Vec<u8>>>) -> std::io::Result<()> {
    loop {
        let mut block = Vec::with_capacity(limits::READ_BLOCK);
        if member.take(limits::READ_BLOCK as u64).read_to_end(&mut block)? == 0 {
            return Ok(());
        }
        // A reader that is gone has said why; the rest of the member is passed over by whoever reads the next header.
        if blocks.send(Ok(block)).is_err() {
            return Ok(());
        }
    }
}

/// Blocks of a large member as they come. Ends when the sender is gone.
struct Blocks {
    blocks: Receiver<std::io::Result<Vec<u8>>>,
    current: Cursor<Vec<u8>>,
}

impl Read for Blocks {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        loop {
            let count = self.current.read(out)?;
            if count > 0 || out.is_empty() {
                return Ok(count);
            }
            match self.blocks.recv() {
                Ok(block) => self.current = Cursor::new(block?),
                Err(_) => return Ok(0),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Moment;
    use crate::source::StdinSource;

    fn member(kind: EntryType, name: &str, bytes: &[u8]) -> Vec<u8> {
        let mut header = tar::Header::new_ustar();
        header.set_path(name).unwrap();
        header.set_entry_type(kind);
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        let mut all = [header.as_bytes(), bytes].concat();
        all.resize(all.len().next_multiple_of(BLOCK), 0);
        all
    }

    fn pax(records: &[(&str, &str)]) -> Vec<u8> {
        let mut text = String::new();
        for (key, value) in records {
            // The length counts its own digits.
            let rest = key.len() + value.len() + 3;
            let length = (rest..).find(|n| rest + n.to_string().len() == *n).unwrap();
            text.push_str(&format!("{length} {key}={value}\n"));
        }
        member(EntryType::XHeader, "pax", text.as_bytes())
    }

    /// What a walk finds: names with their times, and what is skipped with its reason.
    fn walk(parts: &[Vec<u8>]) -> Result<Vec<String>, String> {
        let archive = [parts.concat(), vec![0; 2 * BLOCK]].concat();
        let packed = zstd::bulk::compress(&archive, 1).unwrap();
        let source = StdinSource::new(RelPath::root(), Moment::UNIX_EPOCH, Box::new(Cursor::new(packed)));
        let mut all = Vec::new();
        let walked = TarballSource::new(Box::new(source)).walk(&mut |found| {
            all.push(match found {
                Found::Entry(found) => format!("{} {:?}", found.entry.path, found.entry.mtime),
                Found::Skipped { path, why } => format!("{path}: {why}"),
            });
            true
        });
        walked.map(|()| all).map_err(|e| e.to_string())
    }

    #[test]
    fn headers_that_unpack_to_gigabytes_are_refused_before_they_are_read() {
        let huge = "x".repeat(HEADERS_MAX as usize);
        let file = member(EntryType::Regular, "f", b"bytes");
        for first in [pax(&[("comment", &huge)]), member(EntryType::GNULongName, "long", huge.as_bytes())] {
            let error = walk(&[file.clone(), first, file.clone()]).unwrap_err();
            assert!(error.contains("16 MiB of headers"), "{error}");
        }
        // What is no header may be as large as it likes, read or not.
        let large = member(EntryType::Regular, "large", huge.as_bytes());
        let global = member(EntryType::XGlobalHeader, "global", huge.as_bytes());
        let directory = member(EntryType::Directory, "d", huge.as_bytes());
        let found = walk(&[large, global, directory, file]).unwrap();
        assert_eq!(found, ["large Stamp(0, 0)", "d Stamp(0, 0)", "f Stamp(0, 0)"]);
    }

    #[test]
    fn zeros_of_a_member_are_no_end_marker() {
        let whole = |bytes: Vec<u8>| {
            let source = StdinSource::new(RelPath::root(), Moment::UNIX_EPOCH, Box::new(Cursor::new(bytes)));
            TarballSource::new(Box::new(source)).walk(&mut |_| true).is_ok()
        };
        let zeros = |length: usize| [vec![7; 3], vec![0; length - 3]].concat();
        for length in [2 * BLOCK, 3 * BLOCK + 5, 3 << 20] {
            let archive =
                [member(EntryType::Regular, "a", b"x"), member(EntryType::Regular, "f", &zeros(length))].concat();
            assert!(!whole(archive.clone()), "it is cut off behind the last of {length} bytes");
            assert!(whole([archive, vec![0; 2 * BLOCK]].concat()));
        }
    }

    #[test]
    fn the_earliest_time_has_no_fraction_below_it() {
        let file = member(EntryType::Regular, "f", b"");
        let at = |time: &str| walk(&[pax(&[("mtime", time)]), file.clone()]).unwrap();
        assert_eq!(at("-1.25"), ["f Stamp(-2, 750000000)"]);
        assert_eq!(at("-9223372036854775808.5"), ["f Stamp(0, 0)"]);
    }

    #[test]
    fn a_map_that_promises_more_bytes_than_there_are_is_damaged() {
        let sparse = |map: &str| {
            let records = pax(&[("GNU.sparse.name", "s"), ("GNU.sparse.size", "99"), ("GNU.sparse.map", map)]);
            walk(&[records, member(EntryType::Regular, "f", b"0123456789")]).unwrap()
        };
        assert_eq!(sparse("3,5,50,5"), ["s Stamp(0, 0)"]);
        assert_eq!(sparse("3,5,50,6"), ["s: its map of holes is damaged"]);
        let one = |map: &str| {
            let keys = [("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.realsize", "99")];
            let mut bytes = map.as_bytes().to_vec();
            bytes.resize(BLOCK, 0);
            bytes.extend_from_slice(b"0123456789");
            walk(&[pax(&keys), member(EntryType::Regular, "s", &bytes)]).unwrap()
        };
        assert_eq!(one("2\n3\n5\n50\n5\n"), ["s Stamp(0, 0)"]);
        assert_eq!(one("2\n3\n5\n50\n6\n"), ["s: its map of holes is damaged"]);
    }
}
