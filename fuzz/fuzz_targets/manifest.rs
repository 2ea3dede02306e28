//! Manifests: entries come in path order below their directories, and are written and read back the same.
#![no_main]

use std::collections::BTreeSet;

use libfuzzer_sys::fuzz_target;
use lifeboat::model::{Entry, RelPath};
use lifeboat::repository::ManifestReader;
use lifeboat_fuzz::{MIB, bounded};

fuzz_target!(|input: &[u8]| {
    // Lines without the reader's rules: any one entry.
    for line in input.split(|b| *b == b'\n').take(4) {
        if let Ok(entry) = serde_json::from_slice::<Entry>(line) {
            let text = serde_json::to_vec(&entry).expect("JSON");
            assert_eq!(serde_json::from_slice::<Entry>(&text).expect("what was written"), entry);
        }
    }
    let mut text = b"{\"manifest\":1}\n".to_vec();
    let mut all: Vec<Entry> = Vec::new();
    bounded(64 * input.len() + MIB, || {
        let mut reader = ManifestReader::new(input, "s".to_owned());
        while let Ok(Some(entry)) = reader.next_entry() {
            all.push(entry);
        }
    });
    let mut directories = BTreeSet::from([RelPath::root()]);
    for (n, entry) in all.iter().enumerate() {
        assert!(n == 0 || all[n - 1].path < entry.path);
        assert!(entry.path.parent().is_none_or(|parent| directories.contains(&parent)));
        assert!(entry.path.components().all(|part| part != b".." && part != b"." && !part.is_empty()));
        assert_eq!(entry.content().map_or(0, |c| c.extents.iter().map(|e| e.length).sum()), entry.size());
        if entry.is_dir() {
            directories.insert(entry.path.clone());
        }
        let written = entry.clone().write_lines(&mut |line| {
            text.extend_from_slice(line);
            Ok::<_, String>(())
        });
        written.expect("memory does not fail");
    }
    let mut reader = ManifestReader::new(text.as_slice(), "s".to_owned());
    for entry in &all {
        assert_eq!(reader.next_entry().expect("what was written").as_ref(), Some(entry));
    }
});
