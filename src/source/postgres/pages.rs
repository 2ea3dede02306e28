//! Checksums of pages, verified while files are read.
//!
//! A server that is writing makes pages look damaged. A page whose checksum is wrong is read again: one that changed meanwhile is
//! being written; one that did not, and whose LSN lies behind the backup's start, is written anew by the replay; what remains is
//! damage. Invariants: the bytes that go into the snapshot are never changed; nothing is held of a file but a page. Not here:
//! what follows from damage.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;

use crate::format::page::{is_new, page_checksum, page_lsn, stored_checksum};
use crate::model::base::{BadPage, BadPages};
use crate::model::lsn::Lsn;

/// Pages of one file of a relation.
const PAGES_A_FILE: u64 = (1 << 30) / PAGE as u64;
/// Bytes of a page; clusters with others are not verified.
pub(super) const PAGE: usize = 8192;
/// Damaged pages that are named.
const NAMED: usize = 100;
/// Pages that wait for the end of the backup to be judged, at most: the others count as covered.
const WAITING_MAX: usize = 100_000;

/// What was found.
#[derive(Default)]
pub(super) struct Verdicts(Mutex<Found>);

#[derive(Default)]
struct Found {
    /// Pages by file.
    bad: BTreeMap<String, Vec<u64>>,
    /// Pages that the log covers, if their LSN is one that the log had when the backup ended.
    waiting: Vec<(String, u64, Lsn)>,
}

impl Verdicts {
    fn found(&self) -> std::sync::MutexGuard<'_, Found> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Whether pages of a file are damaged.
    pub fn condemns(&self, path: &str) -> bool {
        self.found().bad.contains_key(path)
    }

    /// All damage, once the place is known where the backup stopped: no page can be from behind it.
    pub fn settle(&self, stop: Lsn) -> BadPages {
        let mut found = self.found();
        for (path, block, lsn) in std::mem::take(&mut found.waiting) {
            if lsn > stop {
                found.bad.entry(path).or_default().push(block);
            }
        }
        let all = found.bad.iter().flat_map(|(path, blocks)| blocks.iter().map(move |block| (path, *block)));
        let first = all.clone().take(NAMED).map(|(path, block)| BadPage { path: path.clone(), block }).collect();
        BadPages { count: all.count() as u64, first }
    }
}

/// One file of a relation under verification.
pub(super) struct Checker<'a> {
    verdicts: &'a Verdicts,
    path: String,
    /// The page of the relation that the file begins with.
    first_block: u64,
    /// Where the backup began.
    start: Lsn,
    /// To read again.
    file: Option<File>,
}

impl<'a> Checker<'a> {
    /// `segment` is the number of the file in its relation.
    pub fn new(verdicts: &'a Verdicts, path: String, segment: u32, start: Lsn, file: Option<File>) -> Self {
        Self { verdicts, path, first_block: u64::from(segment) * PAGES_A_FILE, start, file }
    }

    /// Judges whole pages, the first of which is the file's page `at`. What is left behind them is no whole page.
    pub fn check(&self, bytes: &[u8], at: u64) {
        for (n, page) in bytes.chunks_exact(PAGE).enumerate() {
            let in_file = at + n as u64;
            let block = self.first_block + in_file;
            if is_right(page, block) {
                continue;
            }
            let mut again = [0; PAGE];
            let read = self.file.as_ref().map(|file| file.read_exact_at(&mut again, in_file * PAGE as u64));
            match read {
                // It was cut off, or dropped: the log says so.
                Some(Err(_)) => continue,
                Some(Ok(())) if again.as_slice() != page => continue,
                _ => {}
            }
            let (lsn, mut found) = (page_lsn(page), self.verdicts.found());
            if lsn < self.start {
                found.bad.entry(self.path.clone()).or_default().push(block);
            } else if found.waiting.len() < WAITING_MAX {
                found.waiting.push((self.path.clone(), block, lsn));
            }
        }
    }
}

fn is_right(page: &[u8], block: u64) -> bool {
    // The field that most pages have set first: a page is only looked through when it may be new.
    let checksum = stored_checksum(page);
    (checksum != 0 && checksum == page_checksum(page, block as u32)) || is_new(page)
}

/// A file that is verified as it is read.
pub(super) struct Verified<'a, R> {
    inner: R,
    checker: Checker<'a>,
    /// The beginning of a page whose rest is still to come.
    part: Vec<u8>,
    /// The file's page that comes next.
    next: u64,
}

impl<'a, R> Verified<'a, R> {
    pub fn new(inner: R, checker: Checker<'a>) -> Self {
        Self { inner, checker, part: Vec::with_capacity(PAGE), next: 0 }
    }

    fn saw(&mut self, mut bytes: &[u8]) {
        if !self.part.is_empty() {
            let (head, rest) = bytes.split_at(bytes.len().min(PAGE - self.part.len()));
            self.part.extend_from_slice(head);
            bytes = rest;
            if self.part.len() < PAGE {
                return;
            }
            self.checker.check(&self.part, self.next);
            self.next += 1;
            self.part.clear();
        }
        self.checker.check(bytes, self.next);
        self.next += (bytes.len() / PAGE) as u64;
        self.part.extend_from_slice(bytes.chunks_exact(PAGE).remainder());
    }
}

impl<R: Read> Read for Verified<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(out)?;
        self.saw(&out[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(block: u64, lsn: u64) -> Vec<u8> {
        let mut page = vec![0; PAGE];
        page[..4].copy_from_slice(&((lsn >> 32) as u32).to_le_bytes());
        page[4..8].copy_from_slice(&(lsn as u32).to_le_bytes());
        page[100] = 7;
        let sum = page_checksum(&page, block as u32);
        page[8..10].copy_from_slice(&sum.to_le_bytes());
        page
    }

    /// What is bad of pages read in steps of `step` bytes, with `later` standing in the file when it is read again.
    fn verify(pages: &[Vec<u8>], later: &[Vec<u8>], segment: u32, step: usize) -> Vec<u64> {
        let verdicts = Verdicts::default();
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, &later.concat()).unwrap();
        let checker = Checker::new(&verdicts, "base/5/1".to_owned(), segment, Lsn(1000), Some(file));
        let bytes = pages.concat();
        let mut reader = Verified::new(bytes.as_slice(), checker);
        let mut out = vec![0; step];
        while reader.read(&mut out).unwrap() > 0 {}
        verdicts.settle(Lsn(2000)).first.iter().map(|bad| bad.block).collect()
    }

    #[test]
    fn damage_is_told_from_what_a_server_is_writing() {
        for step in [1, 100, PAGE, 3 * PAGE + 1, 1 << 20] {
            let mut pages: Vec<Vec<u8>> = (0..6).map(|n| page(n, 500)).collect();
            pages[1][4000] ^= 1;
            assert_eq!(verify(&pages, &pages, 0, step), [1], "old and wrong");
            let mut later = pages.clone();
            later[1][4000] ^= 3;
            assert_eq!(verify(&pages, &later, 0, step), [0; 0], "it is being written");
            assert_eq!(verify(&pages, &pages[..1], 0, step), [0; 0], "it was cut off");
            pages[1] = page(77, 1500);
            assert_eq!(verify(&pages, &pages, 0, step), [0; 0], "the log has it");
            pages[1] = page(77, 5000);
            assert_eq!(verify(&pages, &pages, 0, step), [1], "no log has it: its LSN is damaged too");
            pages[1] = vec![0; PAGE];
            assert_eq!(verify(&pages, &pages, 0, step), [0; 0], "it is new");
            pages[1][8000] = 1;
            assert_eq!(verify(&pages, &pages, 0, step), [1], "it is nearly new");
        }
    }

    #[test]
    fn further_files_of_a_relation_go_on_counting() {
        let second: Vec<Vec<u8>> = (0..3).map(|n| page(131_072 + n, 500)).collect();
        assert_eq!(verify(&second, &second, 1, 5000), [0; 0]);
        assert_eq!(verify(&second, &second, 0, 5000), [0, 1, 2]);
    }
}
