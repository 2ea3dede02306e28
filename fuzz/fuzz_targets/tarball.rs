//! Tar archives as sources: plain, gzip, zstd. Names stay in the tree, sizes are what arrives, memory is a few blocks.
//! Input: how it is packed here (one byte; mostly not at all, so that packed seeds are mutated too), the archive.
#![no_main]

use std::io::{Cursor, Read};
use std::thread::JoinHandle;

use flate2::Compression;
use flate2::write::GzEncoder;
use libfuzzer_sys::fuzz_target;
use lifeboat::model::{Moment, RelPath, limits};
use lifeboat::source::{Found, Source, StdinSource, TarballSource};
use lifeboat_fuzz::{MIB, bounded};

/// Bytes of a member that are read here at most: a sparse one may have exbibytes of holes.
const READ_MAX: u64 = 4 << 20;

fn pack(how: u8, archive: &[u8]) -> Vec<u8> {
    match how % 8 {
        6 => {
            let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
            std::io::Write::write_all(&mut packed, archive).expect("memory");
            packed.finish().expect("memory")
        }
        7 => zstd::bulk::compress(archive, 1).expect("memory"),
        _ => archive.to_vec(),
    }
}

/// A member's bytes, read by a thread as the engine does: how many there are, if that can be told.
type Reading = (Option<u64>, JoinHandle<Option<u64>>);

fn visit(found: Found, readings: &mut Vec<Reading>) {
    let Found::Entry(found) = found else { return };
    let path = &found.entry.path;
    assert!(path.components().all(|part| part != b".." && part != b"." && !part.contains(&0)));
    assert!(found.entry.mode <= 0o7777 && found.entry.mtime.1 < 1_000_000_000);
    let body = found.body.lock().expect("no thread panicked").take();
    let Some(body) = body else { return };
    let expected = match &body.data {
        None => found.size,
        Some(runs) => {
            let mut end = 0;
            for (start, length) in runs {
                assert!(*start >= end && *length > 0);
                end = start.checked_add(*length).expect("a run ends");
            }
            assert!(end <= found.size);
            runs.iter().map(|(_, length)| length).sum()
        }
    };
    let mut bytes = body.bytes;
    let small = body.data.is_none() && found.size <= limits::SMALL_FILE_MAX;
    if small {
        assert_eq!(std::io::copy(&mut bytes, &mut std::io::sink()).ok(), Some(expected));
        return;
    }
    let reader = std::thread::spawn(move || {
        let read = std::io::copy(&mut (&mut bytes).take(READ_MAX), &mut std::io::sink()).ok()?;
        (read < READ_MAX).then_some(read)
    });
    readings.push((Some(expected), reader));
}

fuzz_target!(|input: &[u8]| {
    let Some((how, archive)) = input.split_first() else { return };
    let packed = pack(*how, archive);
    let name = RelPath::new("archive").expect("a name");
    let source = StdinSource::new(name, Moment::UNIX_EPOCH, Box::new(Cursor::new(packed)));
    let source = TarballSource::new(Box::new(source));
    let mut readings: Vec<Reading> = Vec::new();
    let whole = bounded(64 * input.len() + 64 * MIB, || {
        source.walk(&mut |found| {
            visit(found, &mut readings);
            true
        })
    });
    for (expected, reader) in readings {
        let read = reader.join().expect("no thread panicked");
        // An archive that is whole gives each member all its bytes.
        if let (Ok(()), Some(read)) = (&whole, read) {
            assert!(expected.is_none_or(|expected| read >= expected), "{read} of {expected:?} bytes");
        }
    }
});
