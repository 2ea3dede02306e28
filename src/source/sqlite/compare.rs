//! A copy of a file that others write, made equal to it block by block.
//!
//! The first pass runs while the file may change; what it read may be torn. A later one, under a lock, reads again and writes only
//! blocks whose digest differs: reading and digesting what is in memory is several times faster than writing it. Memory is bounded:
//! a digest for each block, and blocks grow with the file. Not here: locks, and when a pass may stop.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

/// Bytes of a block at least.
const BLOCK: u64 = 256 << 10;
/// Blocks of a file when it is first looked at, at most.
const BLOCKS_MAX: u64 = 1 << 16;
/// Threads of a pass at most.
const THREADS: usize = 8;
/// Bytes after which what was written goes to the disk: a backlog would hold up the writer's own commits.
const SYNC: usize = 32 << 20;

type Digest = [u8; 32];

/// A file and its copy.
pub struct Copier<'c> {
    from: &'c File,
    to: &'c File,
    block: u64,
    size: u64,
    known: Vec<Option<Digest>>,
    cancelled: &'c (dyn Fn() -> bool + Sync),
}

impl<'c> Copier<'c> {
    /// A copy that has nothing yet of a file of `size` bytes.
    pub fn new(from: &'c File, to: &'c File, size: u64, cancelled: &'c (dyn Fn() -> bool + Sync)) -> io::Result<Self> {
        let block = size.div_ceil(BLOCKS_MAX).max(BLOCK).next_power_of_two();
        let mut copier = Self { from, to, block, size: 0, known: Vec::new(), cancelled };
        copier.resize(size)?;
        Ok(copier)
    }

    /// The file has another size now.
    pub fn resize(&mut self, size: u64) -> io::Result<()> {
        if size != self.size {
            self.to.set_len(size)?;
            // The block in which the smaller of the two ends is not what its digest says: it was cut, or zeros came behind it.
            let border = (size.min(self.size) / self.block) as usize;
            self.known.truncate(border);
            self.known.resize(size.div_ceil(self.block) as usize, None);
            self.size = size;
        }
        Ok(())
    }

    /// Whether a pass that came to this block is over.
    pub fn is_whole(&self, at: usize) -> bool {
        at >= self.known.len()
    }

    /// One pass from block `start`, until the end or until it is time. Returns the first block that was not looked at.
    pub fn pass(&mut self, start: usize, until: Option<Instant>) -> io::Result<usize> {
        let (next, dirty) = (AtomicUsize::new(start), AtomicUsize::new(0));
        let over = AtomicBool::new(false);
        let found: Mutex<Vec<(usize, Digest)>> = Mutex::default();
        let threads = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, THREADS);
        let this = &*self;
        let work = || -> io::Result<()> {
            let mut buffer = vec![0; this.block as usize];
            let (mut changed, mut did_some) = (Vec::new(), false);
            while !over.load(Ordering::Relaxed) {
                // One block at least: a pass that is repeated comes to an end.
                let late = did_some && until.is_some_and(|until| Instant::now() >= until);
                if late || (this.cancelled)() {
                    break;
                }
                did_some = true;
                let number = next.fetch_add(1, Ordering::Relaxed);
                if this.is_whole(number) {
                    break;
                }
                let Some(digest) = this.block_at(number, &mut buffer)? else { continue };
                changed.push((number, digest));
                // Under a lock nobody waits for the disk.
                if until.is_none() && dirty.fetch_add(buffer.len(), Ordering::Relaxed) % SYNC + buffer.len() >= SYNC {
                    this.to.sync_data()?;
                }
            }
            found.lock().unwrap_or_else(std::sync::PoisonError::into_inner).extend(changed);
            Ok(())
        };
        let results = std::thread::scope(|scope| {
            let run = || {
                let result = work();
                over.fetch_or(result.is_err(), Ordering::Relaxed);
                result
            };
            let all: Vec<_> = (1..threads).map(|_| scope.spawn(run)).collect();
            let mut results = vec![run()];
            let joined =
                all.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into())));
            results.extend(joined);
            results
        });
        for (number, digest) in found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
            self.known[number] = Some(digest);
        }
        results.into_iter().collect::<io::Result<()>>()?;
        if (self.cancelled)() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        Ok(next.into_inner().min(self.known.len()))
    }

    /// Writes one block to the copy if it is not what is there; its digest then.
    fn block_at(&self, number: usize, buffer: &mut [u8]) -> io::Result<Option<Digest>> {
        let at = number as u64 * self.block;
        let length = (self.size - at).min(self.block) as usize;
        let filled = read_at(self.from, &mut buffer[..length], at)?;
        let digest = *blake3::hash(&buffer[..filled]).as_bytes();
        if self.known[number] == Some(digest) {
            return Ok(None);
        }
        self.to.write_all_at(&buffer[..filled], at)?;
        Ok(Some(digest))
    }
}

/// Reads until the buffer is full or the file ends; returns how much.
pub fn read_at(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn whatever_happens_to_the_file_a_last_pass_makes_the_copy_equal(
            sizes in prop::collection::vec((0u64..1_500_000, any::<u8>(), 0usize..4), 1..6)
        ) {
            let (from, to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
            let mut copier = Copier::new(&from, &to, 0, &|| false).unwrap();
            for (size, byte, start) in sizes {
                from.set_len(size).unwrap();
                from.write_all_at(&[byte; 9], size / 2).unwrap();
                let length = from.metadata().unwrap().len();
                copier.resize(length).unwrap();
                let from_start = copier.pass(start, None).unwrap();
                prop_assert!(copier.is_whole(from_start));
            }
            prop_assert!(copier.pass(0, None).is_ok());
            let read = |file: &File| {
                let mut all = vec![0; file.metadata().unwrap().len() as usize];
                read_at(file, &mut all, 0).unwrap();
                all
            };
            prop_assert!(read(&from) == read(&to));
        }
    }

    #[test]
    fn a_pass_whose_time_is_over_goes_on_where_it_was() {
        let (from, to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        from.set_len(3 << 20).unwrap();
        let mut copier = Copier::new(&from, &to, 3 << 20, &|| false).unwrap();
        let at = copier.pass(0, Some(Instant::now())).unwrap();
        assert!((1..=THREADS).contains(&at), "{at}");
        assert_eq!(copier.pass(at, None).unwrap(), 12);
    }
}
