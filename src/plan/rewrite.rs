//! Which frames the next backup writes anew, because the newest snapshots use little of them (history-aware rewriting,
//! Fu et al., USENIX ATC 2014). It keeps restores sequential and lets whole frames die, without anybody who can read.

use std::collections::HashSet;

use crate::model::Uses;

/// A frame of which some newest snapshot uses little.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SparseFrame {
    /// The frame.
    pub frame: u64,
    /// How many sources know it as sparse.
    pub sources: u64,
    /// Bytes that they use together.
    pub used: u64,
}

/// Chooses frames: those that no newest snapshot uses well, the least used first, until `budget` bytes would be stored
/// again. `newest` is what the newest snapshot of each source uses.
pub fn choose(sparse: &[SparseFrame], newest: &[Uses], budget: u64) -> HashSet<i64> {
    let uses = |uses: &Uses, frame: u64| {
        let after = uses.0.partition_point(|(first, _)| *first <= frame);
        after > 0 && uses.0[after - 1].1 >= frame
    };
    let mut candidates: Vec<&SparseFrame> = sparse
        .iter()
        .filter(|s| newest.iter().filter(|other| uses(other, s.frame)).count() as u64 <= s.sources)
        .collect();
    candidates.sort_by_key(|s| (s.used, s.frame));
    let mut spent = 0;
    candidates
        .into_iter()
        .take_while(|s| {
            spent += s.used;
            spent <= budget
        })
        .filter_map(|s| i64::try_from(s.frame).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_that_another_source_uses_well_stay() {
        let sparse = |frame, used| SparseFrame { frame, sources: 1, used };
        let all = [sparse(1, 10), sparse(2, 20), sparse(5, 30)];
        let a = Uses(vec![(1, 9)]);
        let b = Uses(vec![(2, 2)]);
        assert_eq!(choose(&all, std::slice::from_ref(&a), 1000), HashSet::from([1, 2, 5]));
        assert_eq!(choose(&all, &[a.clone(), b], 1000), HashSet::from([1, 5]));
        assert_eq!(choose(&all, &[a], 35), HashSet::from([1, 2]), "the least used first, within the budget");
    }
}
