//! Commits taken over into the catalog: whatever a log says, the catalog stays one that can be asked.
//! Input: commits, an empty line between them. Parents and commits to renumber are indices: the fuzzer makes no digests.
#![no_main]

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use lifeboat::catalog::{Catalog, ChunkTables, CommitAt, Ingested};
use lifeboat::model::{Commit, CommitId, CommitLine};

thread_local! {
    static CATALOG: RefCell<Catalog> = RefCell::new(Catalog::in_memory().expect("a catalog in memory"));
}

fn run(catalog: &mut Catalog, input: &[u8]) -> Result<(), lifeboat::catalog::Error> {
    catalog.clear()?;
    let writer = catalog.writer("w")?;
    let mut known: Vec<CommitId> = Vec::new();
    let mut start = 0;
    let ends = input.windows(2).enumerate().filter(|(_, pair)| *pair == b"\n\n").map(|(at, _)| at + 1);
    for end in ends.chain([input.len()]).take(8) {
        let text = &input[start..end.max(start)];
        start = end.max(start);
        let Ok(mut commit) = Commit::parse(text) else { continue };
        let pick = |id: &CommitId| known.get(usize::from(id.as_bytes()[0]) % known.len().max(1)).copied();
        commit.header.parents = commit.header.parents.iter().filter_map(pick).collect();
        for line in &mut commit.lines {
            if let CommitLine::Renumber(renumber) = line {
                renumber.commit = pick(&renumber.commit).unwrap_or(renumber.commit);
            }
        }
        let digest = CommitId::new(*blake3::hash(text).as_bytes());
        let at = CommitAt { writer, digest, commit: &commit };
        if catalog.ingest(at, &ChunkTables::new(), 0).is_ok() {
            assert_eq!(catalog.ingest(at, &ChunkTables::new(), 0)?, Ingested::Known);
            known.push(digest);
            for record in commit.snapshots() {
                assert!(record.uses.0.is_empty() || !catalog.snapshots()?.is_empty());
            }
        }
        let (next, _) = catalog.next_numbers(writer)?;
        assert!(next >= commit.frame_count() || !known.contains(&digest));
        for row in catalog.snapshots()? {
            for frame in row.record.uses.0.iter().flat_map(|(first, last)| *first..=*last) {
                catalog.frame(frame as i64)?;
            }
        }
        for pack in catalog.packs(writer)? {
            catalog.frames_of(pack.row)?;
        }
    }
    Ok(())
}

fuzz_target!(|input: &[u8]| {
    CATALOG.with_borrow_mut(|catalog| run(catalog, input).expect("the catalog can be asked"));
});
