//! Restoring as tar, in path order, to a file or a stream; and the bytes of a single stream.

use std::io::{Read, Write};
use std::path::Path;

use super::{Prepared, each_selected};
use crate::catalog::WriterRow;
use crate::destination::TarStream;
use crate::model::{Entry, Extent};
use crate::ops::Error;
use crate::progress::{Event, Progress};
use crate::repository::{ExtentReader, Repository};

/// Entries whose extents are fetched together.
const BATCH: usize = 512;

/// Writes the selected entries as tar.
pub fn restore_tar<W: Write>(
    repository: &Repository,
    prepared: &Prepared,
    output: W,
    name: &Path,
    progress: &dyn Progress,
) -> Result<W, Error> {
    progress.event(Event::Stage("restoring"));
    progress.event(Event::Expect { items: prepared.plan.files, bytes: prepared.plan.bytes });
    let writer = prepared.snapshot.writer;
    let mut stream = TarStream::new(output, name);
    let mut batch: Vec<Entry> = Vec::new();
    each_selected(repository, &prepared.snapshot, &prepared.options.selection, progress, &mut |entry| {
        batch.push(entry);
        if batch.len() >= BATCH { write_batch(repository, writer, &mut batch, &mut stream, progress) } else { Ok(()) }
    })?;
    write_batch(repository, writer, &mut batch, &mut stream, progress)?;
    Ok(stream.finish()?)
}

fn write_batch<W: Write>(
    repository: &Repository,
    writer: WriterRow,
    batch: &mut Vec<Entry>,
    stream: &mut TarStream<W>,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let extents: Vec<Extent> =
        batch.iter().filter_map(Entry::content).flat_map(|content| content.extents.iter().copied()).collect();
    let mut bytes = ExtentReader::new(repository, writer, "a restore", &extents, progress)?;
    for entry in batch.drain(..) {
        let size = entry.size();
        if let Err(e) = stream.append(&entry, &mut (&mut bytes).take(size)) {
            return Err(bytes.take_failure().map_or_else(|| e.into(), Error::from));
        }
        if entry.content().is_some() {
            progress.event(Event::Done { items: 1, bytes: size });
        }
    }
    Ok(())
}
