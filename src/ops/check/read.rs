//! Reading packs whole: which, in what order, until when, and what is found in them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crossbeam_channel::Sender;

use super::{Bad, BadPack, CheckReport, Error, ReadData};
use crate::catalog::{FrameRow, PackRow, PackState};
use crate::model::{Moment, PackId};
use crate::pack::{FOOTER, parse_footer};
use crate::progress::{Event, Progress};
use crate::repository::{self, FrameReader, FrameWorker, Repository};
use crate::store;

/// Threads that read: two wait for the store while one computes.
const READERS: usize = 3;

/// The packs to read, in order. `ledger` says when each was read last and found in order.
pub(super) fn choose(
    mut packs: Vec<(String, PackRow)>,
    read: ReadData,
    chance: u64,
    ledger: &HashMap<PackId, i64>,
) -> Vec<(String, PackRow)> {
    let total: u64 = packs.iter().map(|(_, pack)| pack.size).sum();
    let limit = match read {
        ReadData::No => return Vec::new(),
        ReadData::All => return packs,
        ReadData::Part { part, of } => {
            let mine = |pack: &PackRow| pack.id.prefix() as u64 % of.max(1) + 1 == part;
            packs.retain(|(_, pack)| mine(pack));
            return packs;
        }
        ReadData::Due { before } => {
            packs.retain(|(_, pack)| is_due(pack, ledger, before));
            // Never read first, then the longest ago.
            packs.sort_by_key(|(_, pack)| ledger.get(&pack.id).copied());
            return packs;
        }
        ReadData::Percent(percent) => (total as f64 * percent / 100.0).ceil() as u64,
        ReadData::Bytes(bytes) => bytes,
    };
    let rank = |pack: &PackRow| *blake3::keyed_hash(&seed(chance), pack.id.as_bytes()).as_bytes();
    packs.sort_by_cached_key(|(_, pack)| rank(pack));
    let mut sum = 0;
    packs.retain(|(_, pack)| {
        let before = sum;
        sum += pack.size;
        before < limit
    });
    packs
}

/// Whether a pack was not found in order since a moment. An entry from the future is a clock that was set back.
pub(super) fn is_due(pack: &PackRow, ledger: &HashMap<PackId, i64>, before: Moment) -> bool {
    ledger.get(&pack.id).is_none_or(|verified| *verified < before.timestamp())
}

fn seed(chance: u64) -> [u8; 32] {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&chance.to_le_bytes());
    seed
}

/// What reading one pack found.
#[derive(Default)]
struct PackFindings {
    pack: Option<String>,
    frames: Vec<(i64, String)>,
    /// Frames that no key at hand opens: sealed to others, or their headers are damaged.
    closed: Vec<(FrameRow, repository::Error)>,
    bytes: u64,
    opened: u64,
}

pub(super) fn read_packs(
    repository: &mut Repository,
    packs: &[(String, PackRow)],
    until: Option<Instant>,
    bad: &mut Bad,
    report: &mut CheckReport,
    now: Moment,
    progress: &dyn Progress,
) -> Result<(), Error> {
    if packs.is_empty() {
        return Ok(());
    }
    progress.event(Event::Stage("reading packs"));
    let bytes = packs.iter().map(|(_, pack)| pack.size).sum();
    progress.event(Event::Expect { items: packs.len() as u64, bytes });
    let reader = if repository.can_read() { Some(repository.frame_reader("a check")?) } else { None };
    let frames: HashMap<i64, Vec<FrameRow>> = packs
        .iter()
        .map(|(_, pack)| Ok((pack.row, repository.catalog().frames_of(pack.row)?)))
        .collect::<Result<_, Error>>()?;
    let work = Work {
        packs,
        frames: &frames,
        reader: reader.as_ref(),
        store: &repository.store().clone(),
        next: AtomicUsize::new(0),
        until,
        progress,
    };
    let (results_in, results) = crossbeam_channel::bounded(READERS);
    std::thread::scope(|scope| {
        for _ in 0..READERS.min(packs.len()) {
            let (work, results) = (&work, results_in.clone());
            scope.spawn(move || work.run(&results));
        }
        drop(results_in);
        // Recorded as they come: a check that is interrupted has read what it has read. The receiver is dropped with the
        // first error, and the threads stop.
        let (mut early, mut first) = (Vec::new(), None);
        results.into_iter().try_for_each(|result| {
            let (n, mut findings) = result?;
            for (frame, e) in findings.closed.drain(..) {
                early.push((n, frame, e.to_string()));
                first.get_or_insert(e);
            }
            let rows = frames.get(&packs[n].1.row).map_or(&[][..], Vec::as_slice);
            record(repository, &packs[n], rows, reader.is_some(), findings, bad, report, now)
        })?;
        let Some(reader) = &reader else { return Ok(()) };
        if let (0, Some(first)) = (report.frames_opened, first) {
            return Err(first.into());
        }
        for (n, frame, why) in early {
            let (writer, pack) = &packs[n];
            let why = match reader.has_opened(&frame.recipients) {
                true => "its header is damaged".to_owned(),
                false => why,
            };
            repository.catalog_mut().set_verified(&[(pack.id, false)], now.timestamp())?;
            repository.catalog_mut().set_frames_damaged(&[frame.row], reader.has_opened(&frame.recipients))?;
            bad.frames.insert(frame.row, (pack.key(writer), why));
        }
        Ok(())
    })
}

/// What the reading threads share.
struct Work<'w> {
    packs: &'w [(String, PackRow)],
    frames: &'w HashMap<i64, Vec<FrameRow>>,
    reader: Option<&'w FrameReader>,
    store: &'w store::Store,
    next: AtomicUsize,
    until: Option<Instant>,
    progress: &'w dyn Progress,
}

impl Work<'_> {
    fn run(&self, results: &Sender<Result<(usize, PackFindings), Error>>) {
        let mut worker = match self.reader.map(FrameReader::worker).transpose() {
            Ok(worker) => worker,
            Err(e) => return drop(results.send(Err(e.into()))),
        };
        let mut body = Vec::new();
        loop {
            let n = self.next.fetch_add(1, Ordering::Relaxed);
            // One is read whatever the time: a nightly check that comes too late goes on all the same.
            let is_late = n > 0 && self.until.is_some_and(|until| Instant::now() >= until);
            let Some((writer, pack)) = self.packs.get(n).filter(|_| !is_late) else { return };
            let rows = self.frames.get(&pack.row).map_or(&[][..], Vec::as_slice);
            let findings = match self.progress.cancelled() {
                true => Err(repository::Error::Cancelled.into()),
                false => read_pack(self.store, writer, pack, rows, worker.as_mut(), &mut body),
            };
            self.progress.event(Event::Done { items: 1, bytes: pack.size });
            let failed = findings.is_err();
            if results.send(findings.map(|findings| (n, findings))).is_err() || failed {
                return;
            }
        }
    }
}

#[allow(clippy::too_many_arguments)] // one pack, and where each thing that was found goes
fn record(
    repository: &mut Repository,
    (writer, pack): &(String, PackRow),
    frames: &[FrameRow],
    opened: bool,
    findings: PackFindings,
    bad: &mut Bad,
    report: &mut CheckReport,
    now: Moment,
) -> Result<(), Error> {
    report.packs_read += 1;
    report.bytes_read += findings.bytes;
    report.frames_opened += findings.opened;
    let hurt: Vec<i64> = findings.frames.iter().map(|(row, _)| *row).collect();
    let catalog = repository.catalog_mut();
    if opened {
        // Only what was opened is known to be in order again.
        let all: Vec<i64> = frames.iter().map(|frame| frame.row).collect();
        catalog.set_frames_damaged(&all, false)?;
    }
    catalog.set_frames_damaged(&hurt, true)?;
    let whole_pack = findings.pack.is_some() && hurt.is_empty() && !opened;
    let state = if whole_pack { PackState::Damaged } else { PackState::Good };
    catalog.set_pack_states(&[(pack.row, state)], now.timestamp())?;
    catalog.set_verified(&[(pack.id, findings.pack.is_none() && hurt.is_empty())], now.timestamp())?;
    if let Some(why) = findings.pack {
        bad.packs.insert(pack.row, BadPack { object: pack.key(writer), why, all_frames: !opened });
    }
    for (row, why) in findings.frames {
        bad.frames.insert(row, (pack.key(writer), why));
    }
    Ok(())
}

fn read_pack(
    store: &store::Store,
    writer: &str,
    pack: &PackRow,
    frames: &[FrameRow],
    worker: Option<&mut FrameWorker<'_>>,
    body: &mut Vec<u8>,
) -> Result<PackFindings, Error> {
    let mut found = PackFindings::default();
    match store.get_into(&pack.key(writer), crate::model::limits::PACK_MAX, body) {
        Ok(()) => {}
        Err(e @ (store::Error::NotFound { .. } | store::Error::Truncated { .. } | store::Error::TooLarge { .. })) => {
            found.pack = Some(e.to_string());
            found.frames = frames.iter().map(|frame| (frame.row, e.to_string())).collect();
            return Ok(found);
        }
        Err(e) => return Err(e.into()),
    }
    found.bytes = body.len() as u64;
    if blake3::hash(body).as_bytes() != pack.id.as_bytes() {
        found.pack = Some("its bytes do not match its name".to_owned());
    }
    let footer = body.len().checked_sub(FOOTER as usize).map(|at| &body[at..]);
    let place = footer.and_then(|footer| parse_footer(footer, body.len() as u64).ok());
    if place != Some((pack.directory_at, pack.directory_length)) {
        found.pack.get_or_insert_with(|| "its footer is damaged".to_owned());
    }
    let Some(worker) = worker else { return Ok(found) };
    for frame in frames {
        let sealed = body.get(frame.at as usize..(frame.at + frame.stored) as usize);
        let opened = match sealed {
            Some(sealed) => worker.open(frame, sealed).map(drop),
            None => {
                found.frames.push((frame.row, "it lies beyond the pack's end".to_owned()));
                continue;
            }
        };
        match opened {
            Ok(()) => found.opened += 1,
            Err(e @ repository::Error::Frame { .. }) => found.frames.push((frame.row, e.to_string())),
            Err(e @ repository::Error::Keys { .. }) => found.closed.push((*frame, e)),
            Err(e) => return Err(e.into()),
        }
    }
    Ok(found)
}
