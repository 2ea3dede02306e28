//! What a host remembers of the canaries that it wrote: `canaries/SOURCE-PLACE` in its state directory, a line each.
//!
//! Invariants: the first stays; the file is bounded; a line that was cut by a full disk hides no other. Losing it makes drills look for
//! less, never fail.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use super::{Error, Written};
use crate::plan::canary::Mark;

/// Lines at which a file is cut.
const LINES_MAX: usize = 8192;
/// Those that stay, beside the first: three weeks of one every five minutes.
const LINES_KEPT: usize = 6048;
/// Bytes that are read at most.
const BYTES_MAX: u64 = 2 << 20;

/// The canaries of a source that this host wrote.
#[derive(Debug, Clone)]
pub struct Marks(PathBuf);

impl Marks {
    /// Those of a source, in a state directory. `place` tells apart what two configurations call by the same name.
    pub fn of(state: &Path, source: &str, place: &str) -> Self {
        let hash = blake3::hash(place.as_bytes()).to_hex();
        Self(state.join("canaries").join(format!("{source}-{}", &hash[..8])))
    }

    /// Notes one. Those that are newer than what it took the place of were written into a state that the source has left: a restore in
    /// place takes them back, and no drill can bring them again.
    pub fn add(&self, written: &Written) -> Result<(), Error> {
        let mark = &written.mark;
        let fail = |source| Error::Io { doing: "write", path: self.0.clone(), source };
        if let Some(folder) = self.0.parent() {
            std::fs::create_dir_all(folder).map_err(fail)?;
        }
        let mut known = self.all();
        let all = known.len();
        known.retain(|old| written.before.is_some_and(|before| old.at <= before));
        if known.len() < all || all >= LINES_MAX {
            let cut = known.len().saturating_sub(LINES_KEPT);
            let kept = known.iter().take(cut.min(1)).chain(&known[cut..]).chain([mark]);
            let text: String = kept.map(Mark::line).collect();
            let new = self.0.with_extension("new~");
            return std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &self.0)).map_err(fail);
        }
        let mut file = OpenOptions::new().append(true).create(true).open(&self.0).map_err(fail)?;
        // A line before that was cut ends here.
        let cut = file.metadata().map_err(fail)?.len() > 0 && !self.ends_whole();
        let line = format!("{}{}", if cut { "\n" } else { "" }, mark.line());
        file.write_all(line.as_bytes()).map_err(fail)
    }

    fn text(&self) -> String {
        let mut bytes = Vec::new();
        let read = std::fs::File::open(&self.0).and_then(|file| file.take(BYTES_MAX).read_to_end(&mut bytes));
        read.map(|_| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    fn ends_whole(&self) -> bool {
        self.text().ends_with('\n')
    }

    /// All that are remembered, the oldest first.
    pub fn all(&self) -> Vec<Mark> {
        let mut marks: Vec<Mark> = self.text().lines().filter_map(Mark::parse).collect();
        // A clock that was set back.
        marks.sort_by_key(|mark| (mark.after, mark.at));
        marks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Moment;

    fn mark(second: i64) -> Mark {
        let at = Moment::from_timestamp(second, 0).unwrap();
        Mark { at, after: at }
    }

    /// One that took the place of another.
    fn over(before: Option<i64>, second: i64) -> Written {
        Written { mark: mark(second), before: before.map(|second| mark(second).at) }
    }

    #[test]
    fn a_source_that_was_taken_back_takes_its_marks_along() {
        let state = tempfile::tempdir().unwrap();
        let marks = Marks::of(state.path(), "app", "/srv");
        for second in 1..=5 {
            marks.add(&over(Some(second - 1), second)).unwrap();
        }
        assert_eq!(marks.all().len(), 5);
        marks.add(&over(Some(2), 10)).unwrap();
        assert_eq!(marks.all(), [mark(1), mark(2), mark(10)]);
        // Another host has written meanwhile.
        marks.add(&over(Some(15), 20)).unwrap();
        assert_eq!(marks.all(), [mark(1), mark(2), mark(10), mark(20)]);
        marks.add(&over(None, 30)).unwrap();
        assert_eq!(marks.all(), [mark(30)]);
    }

    #[test]
    fn the_first_stays_and_the_file_is_bounded() {
        let state = tempfile::tempdir().unwrap();
        let marks = Marks::of(state.path(), "app", "/srv");
        assert!(marks.all().is_empty());
        let text: String = (0..LINES_MAX as i64).map(|n| mark(1000 + n).line()).collect();
        marks.add(&over(None, 1)).unwrap();
        std::fs::write(&marks.0, text).unwrap();
        marks.add(&over(Some(99_999), 100_000)).unwrap();
        let all = marks.all();
        assert_eq!((all.len(), all[0], all.last()), (LINES_KEPT + 2, mark(1000), Some(&mark(100_000))));
    }

    #[test]
    fn a_line_that_was_cut_hides_no_other() {
        let state = tempfile::tempdir().unwrap();
        let marks = Marks::of(state.path(), "app", "/srv");
        marks.add(&over(None, 1)).unwrap();
        let whole = std::fs::read_to_string(&marks.0).unwrap();
        std::fs::write(&marks.0, format!("{whole}{}", &mark(2).line()[..30])).unwrap();
        marks.add(&over(Some(2), 3)).unwrap();
        assert_eq!(marks.all(), [mark(1), mark(3)]);
    }
}
