//! Whether a snapshot is as its source's snapshots used to be: a tree that somebody encrypted, or emptied, is not.
//!
//! Thresholds are shares, judged against the source's own history: one that is rewritten each night is so on each night. They are meant to be
//! silent on ordinary busy days; what they miss (a slow encryption, one of files that never compressed and fewer than most of them) they
//! miss. Not here: what follows from it (`plan::retention`).

use crate::model::{Abnormal, Change};

/// Snapshots before that must be known before anything is called abnormal.
pub const KNOWN: usize = 3;
/// The newest so many of them count.
pub const LOOKS_BACK: usize = 30;
/// Fewer files say nothing by their number.
pub const FILES: u64 = 20;
/// So many percent of the files rewritten, together with what cannot be compressed, are abnormal.
pub const REWRITTEN: u32 = 50;
/// So many by themselves.
pub const REWRITTEN_ALONE: u32 = 80;
/// And so many times the largest share of the history.
pub const REWRITTEN_TIMES: u32 = 2;
/// Less new data says nothing by its compression: bytes.
pub const NEW_BYTES: u64 = 1 << 20;
/// What is new cannot be compressed below so many percent.
pub const INCOMPRESSIBLE: u32 = 92;
/// And what there was before could be, to so many at most.
pub const COMPRESSIBLE: u32 = 75;
/// New data that cannot be compressed is abnormal by itself where it is so many percent of the source.
pub const INCOMPRESSIBLE_ALONE: u32 = 50;
/// So many percent of what there used to be is too little.
pub const SHRUNK: u32 = 50;
/// Less than that there may be at any time: bytes.
pub const BYTES: u64 = 1 << 20;

/// What is asked of a source of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Everything: its files are somebody's files.
    Files,
    /// Whether there is much less of it: its files are a database's, and a migration rewrites all of them on an ordinary day.
    Size,
    /// Nothing: a stream is as long as it is.
    Nothing,
}

impl Scope {
    /// By the kind of a source.
    pub fn of(kind: &str) -> Self {
        match kind {
            "volume" | "tarball" | "bucket" => Self::Files,
            "convex" | "pg_dump" => Self::Size,
            _ => Self::Nothing,
        }
    }
}

/// What is known of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Its files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What it changed, where that is known.
    pub change: Option<Change>,
}

fn percent(part: u64, whole: u64) -> u32 {
    u32::try_from(u128::from(part) * 100 / u128::from(whole.max(1))).unwrap_or(u32::MAX)
}

fn rewritten(change: &Change) -> u32 {
    percent(change.changed + change.gone, change.before)
}

fn median(mut all: Vec<u64>) -> u64 {
    all.sort_unstable();
    all.get(all.len() / 2).copied().unwrap_or(0)
}

/// What is abnormal of a snapshot; `history` are those before it that were not abnormal themselves, or were accepted, oldest first.
pub fn judge(scope: Scope, new: &Seen, history: &[Seen]) -> Vec<Abnormal> {
    let history = &history[history.len().saturating_sub(LOOKS_BACK)..];
    if history.len() < KNOWN || scope == Scope::Nothing {
        return Vec::new();
    }
    let mut found = Vec::new();
    if let Some(change) = new.change.as_ref().filter(|_| scope == Scope::Files) {
        let packed = compression(change, history);
        let share = rewritten(change);
        let seen = history.iter().filter_map(|seen| seen.change.as_ref());
        let usual = seen.filter(|change| change.before >= FILES).map(rewritten).max().unwrap_or(0);
        let many = change.before >= FILES && share > usual.saturating_mul(REWRITTEN_TIMES);
        if many && (share >= REWRITTEN_ALONE || (share >= REWRITTEN && packed.is_some())) {
            found.push(Abnormal::Rewritten { share, usual });
        }
        let is_most = percent(change.new_bytes, new.bytes) >= INCOMPRESSIBLE_ALONE;
        found.extend(packed.filter(|_| is_most || !found.is_empty()));
    }
    let (files, bytes) =
        (median(history.iter().map(|s| s.files).collect()), median(history.iter().map(|s| s.bytes).collect()));
    if files >= FILES && percent(new.files, files) < SHRUNK {
        found.push(Abnormal::FewerFiles { share: percent(new.files, files) });
    }
    if bytes >= BYTES && percent(new.bytes, bytes) < SHRUNK {
        found.push(Abnormal::FewerBytes { share: percent(new.bytes, bytes) });
    }
    found
}

/// Whether new data cannot be compressed though the source's could.
fn compression(change: &Change, history: &[Seen]) -> Option<Abnormal> {
    let share = percent(change.new_stored, change.new_bytes);
    let seen = history.iter().filter_map(|seen| seen.change.as_ref());
    let (stored, plain) = seen.fold((0, 0), |(stored, plain), change| {
        (stored + u128::from(change.new_stored), plain + u128::from(change.new_bytes))
    });
    let usual = u32::try_from(stored * 100 / plain.max(1)).unwrap_or(u32::MAX);
    let is_told = change.new_bytes >= NEW_BYTES && plain >= u128::from(NEW_BYTES);
    (is_told && share >= INCOMPRESSIBLE && usual <= COMPRESSIBLE).then_some(Abnormal::Incompressible { share, usual })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn first() -> Seen {
        let change = Change { new: 1000, new_bytes: 100 * MIB, new_stored: 30 * MIB, ..Change::default() };
        Seen { files: 1000, bytes: 100 * MIB, change: Some(change) }
    }

    fn day(changed: u64, new: u64, gone: u64, mib: u64, stored: u64) -> Seen {
        let change = Change { before: 1000, new, changed, gone, new_bytes: mib * MIB, new_stored: stored * MIB };
        Seen { files: 1000 + new - gone, bytes: 100 * MIB, change: Some(change) }
    }

    fn history() -> Vec<Seen> {
        vec![first(), day(10, 5, 0, 2, 1), day(30, 0, 5, 3, 1), day(12, 2, 2, 1, 1)]
    }

    #[test]
    fn ordinary_days_are_silent() {
        for (what, seen) in [
            ("nothing", day(0, 0, 0, 0, 0)),
            ("a busy day", day(250, 100, 50, 30, 10)),
            ("a large upload of pictures", day(5, 300, 0, 80, 80)),
            ("another branch checked out", day(600, 100, 100, 60, 20)),
            ("a folder tidied up", day(0, 0, 400, 0, 0)),
        ] {
            let seen = Seen { bytes: 100 * MIB + seen.change.unwrap().new_bytes * 2, ..seen };
            assert_eq!(judge(Scope::Files, &seen, &history()), [], "{what}");
        }
    }

    #[test]
    fn an_encrypted_and_an_emptied_tree_are_not() {
        let encrypted = judge(Scope::Files, &day(1000, 0, 0, 100, 100), &history());
        assert_eq!(
            encrypted,
            [Abnormal::Rewritten { share: 100, usual: 3 }, Abnormal::Incompressible { share: 100, usual: 31 }]
        );
        let renamed = judge(Scope::Files, &day(0, 1000, 1000, 100, 100), &history());
        assert_eq!(renamed[0], Abnormal::Rewritten { share: 100, usual: 3 });
        let half = judge(Scope::Files, &day(500, 0, 0, 50, 49), &history());
        assert_eq!(half.len(), 2, "half of it, and it does not compress: {half:?}");
        let emptied = Seen { files: 10, bytes: MIB, ..day(0, 0, 990, 0, 0) };
        assert!(judge(Scope::Files, &emptied, &history()).contains(&Abnormal::FewerFiles { share: 1 }));
        assert!(judge(Scope::Files, &emptied, &history()).contains(&Abnormal::FewerBytes { share: 1 }));
    }

    #[test]
    fn what_is_always_so_is_normal() {
        let nightly = [first(), day(900, 0, 0, 90, 30), day(950, 0, 0, 90, 30), day(880, 0, 0, 90, 30)];
        assert_eq!(judge(Scope::Files, &day(1000, 0, 0, 100, 33), &nightly), []);
        // Pictures were never compressible: that they are not now tells nothing.
        let change = Change { new: 1000, new_bytes: 100 * MIB, new_stored: 100 * MIB, ..Change::default() };
        let pictures = [Seen { change: Some(change), ..first() }, day(0, 5, 0, 1, 1), day(0, 5, 0, 1, 1)];
        assert_eq!(judge(Scope::Files, &day(600, 0, 0, 60, 60), &pictures), []);
        assert_eq!(
            judge(Scope::Files, &day(900, 0, 0, 90, 90), &pictures).len(),
            1,
            "but nearly all of them rewritten is"
        );
    }

    #[test]
    fn a_database_may_be_rewritten_and_not_vanish() {
        assert_eq!(judge(Scope::of("convex"), &day(1000, 0, 0, 100, 100), &history()), []);
        let emptied = Seen { files: 10, bytes: MIB, ..day(0, 0, 990, 0, 0) };
        assert_eq!(judge(Scope::of("pg_dump"), &emptied, &history()).len(), 2);
        assert_eq!(judge(Scope::of("command"), &emptied, &history()), []);
        assert_eq!(judge(Scope::of("postgres"), &emptied, &history()), []);
    }

    #[test]
    fn without_a_history_nothing_is_judged() {
        assert_eq!(judge(Scope::Files, &day(1000, 0, 0, 100, 100), &history()[..2]), []);
        let unknown = Seen { change: None, ..first() };
        assert_eq!(judge(Scope::Files, &unknown, &history()), [], "a run that read everything anew knows no changes");
        assert_eq!(judge(Scope::Files, &Seen { files: 0, bytes: 0, change: None }, &[unknown; 3]).len(), 2);
    }
}
