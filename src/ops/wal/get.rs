//! Files of the log out of the store, to where the server wants them.
//!
//! Invariants: a file gets its name when its bytes were verified; absence is proven, not assumed. Not here: what is fetched
//! before it is asked for ([`super::ahead`]).

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::{WalError, place_of};
use crate::format::wal::{ArchiveFile, check_segment};
use crate::model::SegmentPlace;
use crate::model::lsn::SegmentSize;
use crate::ops::Error;
use crate::repository::Repository;

/// What became of a request for a file of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Got {
    /// It is in its place; of a segment its size.
    Placed(Option<SegmentSize>),
    /// It is not in the repository, and nothing behind it is: the end of the log, as far as it was archived.
    Absent,
}

/// The writer of a stream: by the index where it knows, else by asking the store.
pub(super) fn writer_of(repository: &Repository, stream: &str) -> Result<Option<String>, Error> {
    let catalog = |e| Error::from(crate::repository::Error::from(e));
    if let Some(known) = repository.catalog().writer_of_stream(stream).map_err(catalog)? {
        return Ok(Some(known));
    }
    for name in repository.store().folders("writers").map_err(crate::repository::Error::from)? {
        if repository.streams(&name)?.iter().any(|other| other == stream) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Brings a file of the log to `target`. `stream` names the cluster's stream; `source` and the data directory above the target
/// tell it where it is not given.
pub fn get(repository: &Repository, stream: &str, name: &str, target: &Path) -> Result<Got, Error> {
    let file = ArchiveFile::parse(name).map_err(|_| WalError::Name(name.to_owned()))?;
    let place = place_of(stream, name)?;
    let unclear = |why: &str| WalError::Stream { name: name.to_owned(), why: why.to_owned() };
    let writer = writer_of(repository, stream)?.ok_or_else(|| unclear("no writer of the repository has it"))?;
    let writer = writer.as_str();
    let there = repository.segments_in_store(writer, &place)?;
    // Where two lie under one name, the one that was acknowledged is in the index.
    let named = repository.catalog().segments_at(writer, &place).map_err(crate::repository::Error::from)?;
    let chosen = match there.as_slice() {
        [] => return absence(repository, writer, &place, &file, !named.is_empty()),
        [one] => one.clone(),
        several => {
            let known = several.iter().find(|one| named.iter().any(|record| record.digest == one.digest));
            known.cloned().ok_or_else(|| unclear("two files have that name, and the index knows neither"))?
        }
    };
    let bytes = repository.read_segment(writer, &chosen)?;
    let size = match file {
        ArchiveFile::Segment(segment) => {
            let bad = |e: crate::format::wal::Flaw| WalError::Content { name: name.to_owned(), why: e.to_string() };
            Some(check_segment(&bytes, segment).map_err(bad)?.segment_size)
        }
        _ => None,
    };
    put_in_place(&bytes, target)?;
    Ok(Got::Placed(size))
}

/// A file that is not there: the end, or a gap?
fn absence(
    repository: &Repository,
    writer: &str,
    place: &SegmentPlace,
    file: &ArchiveFile,
    is_named: bool,
) -> Result<Got, Error> {
    let gap = || WalError::Gap { name: place.name().to_owned() };
    if is_named {
        return Err(gap().into());
    }
    // Histories and labels are asked for on the chance that they exist.
    let ArchiveFile::Segment(segment) = file else { return Ok(Got::Absent) };
    let listing = repository.list_stream(writer, place.stream())?;
    let later = listing.there.iter().chain(&listing.missing).any(|record| {
        matches!(ArchiveFile::parse(record.place.name()), Ok(ArchiveFile::Segment(other))
            if other.timeline == segment.timeline && other > *segment)
    });
    if later { Err(gap().into()) } else { Ok(Got::Absent) }
}

/// Writes beside the target and renames: the server never sees half a file. Not synced: a server that loses it in a crash
/// asks again.
pub(super) fn put_in_place(bytes: &[u8], target: &Path) -> Result<(), WalError> {
    let io = |source| WalError::Io { doing: "write", path: target.to_owned(), source };
    let mut part = target.as_os_str().to_owned();
    part.push(".lifeboat-part");
    let part = PathBuf::from(part);
    let written = File::create(&part).and_then(|mut file| std::io::Write::write_all(&mut file, bytes));
    written.and_then(|()| fs::rename(&part, target)).map_err(io)
}
