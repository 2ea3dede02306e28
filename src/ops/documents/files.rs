//! Files as they appear: listed with every turn that stores something, and stored at once where there are new ones.
//!
//! They become a snapshot beside the deployment's own, `SOURCE.files`: all files since its newest one, so that each holds what those before
//! it held, and a few are enough. Invariants: what a segment says of files (`files`) is said when all that was listed by then is stored;
//! what goes wrong with files never stops the changes; only snapshots of this kind are forgotten, of which a newer one holds the same. What
//! is known of files outlives the process (`files.json`); where it did not, nothing that came before is forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::capture::{Following, Heard, write_whole};
use crate::catalog::SnapshotRow;
use crate::client::convex::{Component, FileRow};
use crate::model::convex::FILES_KIND;
use crate::model::documents::{DbTime, files_source, moment_of};
use crate::model::{FilesFacts, Moment, SnapshotId};
use crate::ops::{Error, chain};
use crate::repository::Mark;
use crate::source::convex::{LaterFiles, list_since, path_of};

/// A row may be seen so long after the time that it says it was made.
const LATE_MS: f64 = 60_000.0;
/// One that could not be had is asked for again after so long.
const AGAIN: Duration = Duration::from_secs(60);
/// So many snapshots of files that a newer one replaces are forgotten with one commit.
const REPLACED_MAX: usize = 16;

/// A file that was listed.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Known {
    component: Component,
    row: FileRow,
    stored: bool,
    /// Not before that.
    #[serde(skip)]
    again: Option<Instant>,
}

impl Known {
    fn is_due(&self) -> bool {
        !self.stored && self.again.is_none_or(|at| at <= Instant::now())
    }
}

/// What is known of a deployment's files.
#[derive(Default)]
pub(super) struct FileWatch {
    /// Whether files are stored at all.
    wanted: bool,
    /// Between two snapshots of files.
    every: Duration,
    /// Those that were made after the newest snapshot of all, by component and id.
    rows: BTreeMap<(String, String), Known>,
    /// The database's time of that snapshot.
    base: Option<DbTime>,
    /// Snapshots of files since then hold what those before them held.
    whole_since: Option<Moment>,
    listed_at: Option<Instant>,
    taken_at: Option<Instant>,
    upto: Option<Moment>,
}

/// What outlives the process.
#[derive(Serialize, Deserialize)]
struct Kept {
    version: u32,
    base: String,
    /// None while a snapshot is taken: one that is killed then may have stored what this does not know.
    whole_since: Option<Moment>,
    rows: Vec<Known>,
}

impl FileWatch {
    /// What an earlier process knew, if it is there. Without a time files are not stored.
    pub fn new(every: Option<Duration>, folder: &Path) -> Self {
        let mut watch = Self { wanted: every.is_some(), every: every.unwrap_or_default(), ..Self::default() };
        let kept = std::fs::read(folder.join("files.json")).ok();
        let kept = kept.and_then(|text| serde_json::from_slice::<Kept>(&text).ok()).filter(|kept| kept.version == 1);
        let kept = kept.and_then(|kept| Some((kept.base.parse().ok()?, kept)));
        if let Some((base, kept)) = kept {
            (watch.base, watch.whole_since) = (Some(base), kept.whole_since);
            let key = |one: &Known| (one.component.path.clone(), one.row.id.clone());
            watch.rows = kept.rows.into_iter().map(|one| (key(&one), one)).collect();
        }
        watch
    }

    /// When they were last listed and all of them were stored.
    pub fn upto(&self) -> Option<Moment> {
        self.upto
    }

    /// Whether it is time to list them though no document changed.
    pub fn is_due(&self) -> bool {
        self.wanted && self.listed_at.is_none_or(|at| at.elapsed() >= self.every)
    }

    /// Behind a new snapshot only newer files are to be looked for.
    fn rest_on(&mut self, base: DbTime) {
        let base_ms = base as f64 / 1e6;
        self.rows.retain(|_, one| one.row.created_ms >= base_ms);
        self.base = Some(base);
    }

    /// Where the next list begins: milliseconds since 1970, by the server's own times.
    fn next_ms(&self, base: DbTime) -> f64 {
        let newest = self.rows.values().map(|one| one.row.created_ms).fold(f64::MIN, f64::max);
        (newest - LATE_MS).max(base as f64 / 1e6)
    }
}

/// A snapshot of files, by the time of the snapshot that it goes with.
pub(super) fn files_base(row: &SnapshotRow, source: &str, instance: &str) -> Option<DbTime> {
    let is_meant = row.record.kind == FILES_KIND && row.record.source == files_source(source);
    let facts: FilesFacts = serde_json::from_value(row.record.facts.clone()).ok().filter(|_| is_meant)?;
    facts.base().filter(|_| facts.version == 1 && facts.instance == instance)
}

/// Those that may go: a newer one with their base holds the same, or their base is no snapshot any more and not the newest.
fn replaced(
    rows: &[(DbTime, SnapshotRow)],
    bases: &BTreeSet<DbTime>,
    since: Moment,
    newest_base: DbTime,
) -> Vec<SnapshotId> {
    let mut newest: BTreeMap<DbTime, (bool, bool)> = BTreeMap::new();
    let mut gone = Vec::new();
    for (base, row) in rows.iter().rev() {
        let (any, complete) = newest.entry(*base).or_default();
        let is_held = *any && (*complete || !row.record.complete) && row.record.began >= since;
        let is_left = !bases.contains(base) && *base != newest_base;
        if (is_held || is_left) && !row.pinned {
            gone.push(row.record.id);
        }
        (*any, *complete) = (true, *complete || row.record.complete);
    }
    gone
}

impl Following<'_> {
    /// Lists files and stores new ones. Troubles are told; the changes go on. Changes were read up to `read` before.
    pub(super) fn watch_files(&mut self, read: DbTime) {
        if !self.files.wanted {
            return;
        }
        match self.try_files(read) {
            Ok(()) => self.files_away = false,
            Err(_) if self.is_stopped() => {}
            Err(e) => {
                if !std::mem::replace(&mut self.files_away, true) {
                    (self.hear)(Heard::FilesAway { why: chain(&e) });
                }
            }
        }
    }

    fn try_files(&mut self, read: DbTime) -> Result<(), Error> {
        // Behind a snapshot that another process took the list begins anew: looked for as often as files may be stored.
        if self.files.base.is_none() || self.files.is_due() {
            let rows = self.own_snapshots()?;
            let Some(base) = self.bases(&rows).last().copied() else { return Ok(()) };
            if self.files.base.is_none_or(|known| known < base) {
                self.files.rest_on(base);
            }
        }
        let Some(base) = self.files.base else { return Ok(()) };
        let (listed, from) = (self.now(), self.files.next_ms(base));
        let rows = &mut self.files.rows;
        let mut add = |component: &Component, row: FileRow| {
            let key = (component.path.clone(), row.id.clone());
            let component = component.clone();
            rows.entry(key).or_insert_with(|| Known { component, row, stored: false, again: None });
        };
        let odd = list_since(self.deployment, from, &mut add)?;
        self.files.listed_at = Some(Instant::now());
        let may = self.files.taken_at.is_none_or(|at| at.elapsed() >= self.files.every);
        if may && self.files.rows.values().any(Known::is_due) {
            self.take_files(base)?;
            self.files.taken_at = Some(Instant::now());
        }
        if odd == 0 && self.files.rows.values().all(|one| one.stored) {
            // What was committed before the list was asked for is in it.
            self.files.upto = Some(listed.max(moment_of(read)));
        }
        Ok(())
    }

    fn take_files(&mut self, base: DbTime) -> Result<(), Error> {
        let moment = (self.around.clock)();
        let tried = |one: &&Known| one.stored || one.is_due();
        let rows = self.files.rows.values().filter(tried).map(|one| (&one.component, &one.row));
        let source = LaterFiles::new(self.deployment, &self.instance, rows, base, moment);
        self.remember_files(base, None)?;
        let skipped = self.snapshots.files(self.repository, &source, &files_source(&self.options.source))?;
        let skipped: BTreeSet<String> = skipped.into_iter().collect();
        let (mut new, mut lost, mut is_whole) = (0, 0, true);
        self.files.rows.retain(|_, one| {
            let path = path_of(&one.component.path, &one.row);
            let is_gone = source.is_gone(&path);
            if is_gone || skipped.contains(&path) {
                // One that an earlier snapshot has, and this one has not.
                is_whole &= !one.stored;
                lost += u64::from(!is_gone && one.again.is_none());
                (one.stored, one.again) = (false, Some(Instant::now() + AGAIN));
            } else if one.is_due() {
                (one.stored, new) = (true, new + 1);
            }
            !is_gone
        });
        if self.files.whole_since.is_none() || !is_whole {
            self.files.whole_since = Some(moment);
        }
        self.remember_files(base, self.files.whole_since)?;
        if new > 0 || lost > 0 {
            (self.hear)(Heard::Files { new, lost });
        }
        self.forget_replaced(base)
    }

    fn remember_files(&self, base: DbTime, whole_since: Option<Moment>) -> Result<(), Error> {
        let rows = self.files.rows.values().cloned().collect();
        let kept = Kept { version: 1, base: base.to_string(), whole_since, rows };
        let text = serde_json::to_vec(&kept).map_err(|e| super::StreamError::Content(e.to_string()))?;
        write_whole(&self.folder.join("files.json"), &text)
    }

    fn own_snapshots(&mut self) -> Result<Vec<SnapshotRow>, Error> {
        let own = self.repository.host_row()?;
        let mut rows = self.repository.catalog().snapshots()?;
        rows.retain(|row| row.writer == own);
        rows.sort_by_key(|row| (row.record.ended, row.record.id));
        Ok(rows)
    }

    /// The database's times of this deployment's snapshots that have files.
    fn bases(&self, rows: &[SnapshotRow]) -> BTreeSet<DbTime> {
        let source = &self.options.source;
        let of_source = rows.iter().filter(|row| row.record.kind == "convex" && row.record.source == *source);
        let times = of_source.filter_map(|row| {
            let facts: crate::model::ConvexFacts = serde_json::from_value(row.record.facts.clone()).ok()?;
            facts.timestamp().filter(|_| facts.instance == self.instance && facts.files.is_some())
        });
        times.collect()
    }

    fn forget_replaced(&mut self, newest_base: DbTime) -> Result<(), Error> {
        let rows = self.own_snapshots()?;
        let bases = self.bases(&rows);
        let of = |row: SnapshotRow| Some((files_base(&row, &self.options.source, &self.instance)?, row));
        let all: Vec<(DbTime, SnapshotRow)> = rows.into_iter().filter_map(of).collect();
        let gone = replaced(&all, &bases, self.files.whole_since.unwrap_or_default(), newest_base);
        if gone.len() < REPLACED_MAX {
            return Ok(());
        }
        let now = (self.around.clock)();
        tracing::info!("forgetting {} snapshots of files: newer ones hold the same", gone.len());
        self.repository.mark_snapshots(now, self.around.progress, &mut |repository| {
            // One that was pinned meanwhile stays.
            let alive = repository.catalog().snapshots()?;
            let may = |id: &SnapshotId| alive.iter().any(|row| row.record.id == *id && !row.pinned);
            Ok(gone.iter().copied().filter(may).map(Mark::Forget).collect())
        })?;
        Ok(())
    }
}

/// The snapshots of files for a time, the newest first: all that go with the newest snapshot of all before it. What the newest lacks, because
/// it could not be had then, an older one may have.
pub(super) fn for_time(later: &[(DbTime, SnapshotRow)], time: DbTime) -> Vec<SnapshotRow> {
    let Some(base) = later.iter().map(|(base, _)| *base).filter(|base| *base <= time).max() else { return Vec::new() };
    later.iter().rev().filter(|(of, _)| *of == base).map(|(_, row)| row.clone()).collect()
}
