//! How a file's bytes are cut: chosen by its name and its first bytes, the same for a file of a tree and a member of an
//! archive, so that both deduplicate.

use crate::model::noise::looks_incompressible;
use crate::model::{Cutting, RelPath, limits};

/// Bytes of a file that decide how it is cut.
pub(super) const SAMPLE: usize = 16 << 10;

/// Databases change in place and are cut into pages; what does not compress into large chunks; the rest into small ones.
pub(super) fn choose_cutting(path: &RelPath, size: u64, head: &[u8]) -> Cutting {
    if head.starts_with(b"SQLite format 3\0") || is_relation_file(path, size) {
        Cutting::Pages
    } else if size > limits::SMALL_FILE_MAX / 4 && looks_incompressible(head) {
        Cutting::Coarse
    } else {
        Cutting::Fine
    }
}

/// A PostgreSQL relation file: `base/<oid>/<number>`, `global/<number>` or `pg_tblspc/<oid>/PG_<version>/<oid>/<number>`,
/// whole pages of 8 KiB.
fn is_relation_file(path: &RelPath, size: u64) -> bool {
    let parts: Vec<&[u8]> = path.components().collect();
    let number = |part: &[u8]| part.first().is_some_and(u8::is_ascii_digit);
    let placed = match parts.as_slice() {
        [.., base, oid, file] if *base == b"base" => number(oid) && number(file),
        [.., space, version, oid, file] if version.starts_with(b"PG_") => number(space) && number(oid) && number(file),
        [.., global, file] if *global == b"global" => number(file),
        _ => false,
    };
    placed && size > 0 && size.is_multiple_of(8192)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text).unwrap()
    }

    #[test]
    fn databases_are_cut_into_pages() {
        assert_eq!(choose_cutting(&path("db.sqlite3"), 9000, b"SQLite format 3\0rest"), Cutting::Pages);
        assert_eq!(choose_cutting(&path("pg/base/5/16384.1"), 16384, b""), Cutting::Pages);
        assert_eq!(choose_cutting(&path("global/1262"), 8192, b""), Cutting::Pages);
        assert_eq!(choose_cutting(&path("pg_tblspc/16400/PG_15_202209061/5/16411"), 8192, b""), Cutting::Pages);
        assert_eq!(choose_cutting(&path("base/5/pg_filenode.map"), 8192, b""), Cutting::Fine);
        assert_eq!(choose_cutting(&path("base/5/16384"), 8191, b""), Cutting::Fine);
    }

    #[test]
    fn media_are_cut_coarsely_and_text_finely() {
        let mut noise = vec![0; 16384];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        assert_eq!(choose_cutting(&path("a.mp4"), 10 << 20, &noise), Cutting::Coarse);
        assert_eq!(choose_cutting(&path("a.txt"), 10 << 20, &b"text ".repeat(3000)), Cutting::Fine);
    }
}
