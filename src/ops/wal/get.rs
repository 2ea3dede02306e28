//! Files of the log out of the store, to where the server wants them.
//!
//! Invariants: a file gets its name when its bytes were verified; absence is proven, not assumed. Not here: what is fetched
//! before it is asked for ([`super::ahead`]).

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::pieces::{as_segment, is_piece_of, join_pieces};
use super::{WalError, place_of};
use crate::format::wal::{ArchiveFile, check_segment};
use crate::model::lsn::Lsn;
use crate::model::{SegmentPlace, SegmentRecord};
use crate::ops::Error;
use crate::repository::Repository;

/// What became of a request for a file of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Got {
    /// It is in its place.
    Placed,
    /// It is not in the repository, and nothing behind it is: the end of the log, as far as it was archived.
    Absent,
}

/// Which log is meant, and how much of it.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Its stream.
    pub stream: &'a str,
    /// The writer that has it; left out where one alone has.
    pub writer: Option<&'a str>,
    /// From this place on the log is taken to have ended.
    pub cut: Option<Lsn>,
}

/// The writer of a stream: the one that was named, else the only one that has it, by the index, else by the store. Of several none is
/// taken: the log of one may end where that of another goes on, and its end would be taken for the end.
pub(super) fn writer_of(repository: &Repository, stream: &str, named: Option<&str>) -> Result<String, Error> {
    let catalog = |e| Error::from(crate::repository::Error::from(e));
    if let Some(named) = named {
        return Ok(named.to_owned());
    }
    let mut writers = repository.catalog().writers_of_stream(stream).map_err(catalog)?;
    if writers.is_empty() {
        for name in repository.store().folders("writers").map_err(crate::repository::Error::from)? {
            if repository.streams(&name)?.iter().any(|other| other == stream) {
                writers.push(name);
            }
        }
    }
    let unclear = |why: String| WalError::Stream { name: stream.to_owned(), why };
    match writers.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(unclear("no writer of the repository has it".to_owned()).into()),
        several => {
            Err(unclear(format!("several writers have it ({}); `--writer NAME` says which", several.join(", "))).into())
        }
    }
}

/// Brings a file of the log to `target`.
pub fn get(repository: &Repository, wanted: &Wanted<'_>, name: &str, target: &Path) -> Result<Got, Error> {
    let file = ArchiveFile::parse(name).map_err(|_| WalError::Name(name.to_owned()))?;
    let place = place_of(wanted.stream, name)?;
    let unclear = |why: &str| WalError::Stream { name: name.to_owned(), why: why.to_owned() };
    let writer = writer_of(repository, wanted.stream, wanted.writer)?;
    let writer = writer.as_str();
    let there = repository.segments_in_store(writer, &place)?;
    // Where two lie under one name, the one that was acknowledged is in the index.
    let named = repository.catalog().segments_at(writer, &place).map_err(crate::repository::Error::from)?;
    let chosen = match there.as_slice() {
        [] if !named.is_empty() => return Err(WalError::Gap { name: name.to_owned() }.into()),
        [] => return grown_or_absent(repository, writer, &place, &file, wanted.cut, target),
        [one] => one.clone(),
        several => {
            let is_known = |one: &&SegmentRecord| named.iter().any(|record| record.digest == one.digest);
            let known: Vec<&SegmentRecord> = several.iter().filter(is_known).collect();
            let [one] = known.as_slice() else {
                return Err(unclear("several files have that name, and the index does not say which one counts").into());
            };
            (*one).clone()
        }
    };
    let mut bytes = repository.read_segment(writer, &chosen)?;
    if let ArchiveFile::Segment(segment) = file {
        let header = check_segment(&bytes, segment)
            .map_err(|e| WalError::Content { name: name.to_owned(), why: e.to_string() })?;
        cut_off(&mut bytes, header.start, wanted.cut);
    }
    put_in_place(&bytes, target)?;
    Ok(Got::Placed)
}

/// A file that is not there: the end, or a gap? Where it is there in pieces, it is the end, and what is there of it is served.
fn grown_or_absent(
    repository: &Repository,
    writer: &str,
    place: &SegmentPlace,
    file: &ArchiveFile,
    cut: Option<Lsn>,
    target: &Path,
) -> Result<Got, Error> {
    // Histories and labels are asked for on the chance that they exist.
    let ArchiveFile::Segment(segment) = file else { return Ok(Got::Absent) };
    let listing = repository.list_stream(writer, place.stream())?;
    let later = listing.there.iter().chain(&listing.missing).any(|record| {
        let other = match ArchiveFile::parse(record.place.name()) {
            Ok(ArchiveFile::Segment(other) | ArchiveFile::Piece { segment: other, .. }) => other,
            _ => return false,
        };
        other.timeline == segment.timeline && other > *segment
    });
    if later {
        return Err(WalError::Gap { name: place.name().to_owned() }.into());
    }
    if !listing.there.iter().any(|record| is_piece_of(record, *segment)) {
        return Ok(Got::Absent);
    }
    let (bytes, facts) = join_pieces(&repository.segment_reader(writer)?, *segment, &listing.there)?;
    let mut bytes = as_segment(bytes, *segment)?;
    cut_off(&mut bytes, facts.start, cut);
    put_in_place(&bytes, target)?;
    Ok(Got::Placed)
}

/// Zeros from a place on: to a server the log ends there.
fn cut_off(bytes: &mut [u8], start: Lsn, cut: Option<Lsn>) {
    let at = cut.map_or(bytes.len() as u64, |cut| cut.since(start));
    if let Some(rest) = usize::try_from(at).ok().and_then(|at| bytes.get_mut(at..)) {
        rest.fill(0);
    }
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
