//! What damage hurts: snapshots by the frames that they use, files by their manifests.

use std::collections::{HashMap, HashSet};

use super::super::restore::{Locator, each_selected};
use super::{Bad, CheckReport, Damage, Error};
use crate::catalog::{FrameRow, FrameState, SnapshotRow};
use crate::model::SnapshotId;
use crate::ops::Selection;
use crate::progress::{Event, Progress};
use crate::repository::{self, Repository};

/// Whether the same frame lies somewhere else in good order: what is wrong with this one hurts nobody.
fn has_copy(repository: &Repository, frame: &FrameRow) -> Result<bool, Error> {
    let best = repository.catalog().find_frame_of(frame.writer, &frame.id)?;
    // Another row of the same place is no copy: a pack may be named by two commits.
    let elsewhere = |best: FrameRow| (best.pack_row, best.at) != (frame.pack_row, frame.at);
    Ok(best.is_some_and(|best| elsewhere(best) && best.state == FrameState::Good))
}

/// Turns what was found into damage with the snapshots that it hurts.
pub(super) fn tell(
    repository: &Repository,
    snapshots: &[SnapshotRow],
    bad: &Bad,
    report: &mut CheckReport,
) -> Result<(), Error> {
    let hurt_by = |frames: &[i64]| -> Vec<SnapshotId> {
        let uses = |s: &&SnapshotRow| {
            frames.iter().any(|row| s.record.uses.0.iter().any(|(a, b)| (*a..=*b).contains(&(*row as u64))))
        };
        snapshots.iter().filter(uses).map(|s| s.record.id).collect()
    };
    for (row, pack) in &bad.packs {
        let mut frames = repository.catalog().frames_of(*row)?;
        // Where its frames are right and only what is behind them is not, it hurts nobody; it is done with when all of
        // them lie elsewhere too.
        let hurts = pack.all_frames || frames.iter().any(|frame| bad.frames.contains_key(&frame.row));
        if hurts && !pack.all_frames {
            frames.retain(|frame| bad.frames.contains_key(&frame.row));
        }
        let (mut rows, mut replaced) = (Vec::with_capacity(frames.len()), !frames.is_empty());
        for frame in &frames {
            if has_copy(repository, frame)? {
                continue;
            }
            replaced = false;
            if hurts {
                rows.extend(repository.catalog().rows_at(frame)?);
            }
        }
        if replaced {
            report.replaced.push(pack.object.clone());
            continue;
        }
        report.damage.push(Damage { object: pack.object.clone(), why: pack.why.clone(), snapshots: hurt_by(&rows) });
    }
    let told: HashSet<&String> = bad.packs.values().map(|pack| &pack.object).collect();
    for (row, (object, why)) in bad.frames.iter().filter(|(_, (object, _))| !told.contains(object)) {
        let frame = repository.catalog().frame(*row)?;
        if has_copy(repository, &frame)? {
            if !report.replaced.contains(object) {
                report.replaced.push(object.clone());
            }
            continue;
        }
        let rows = repository.catalog().rows_at(&frame)?;
        report.damage.push(Damage { object: object.clone(), why: why.clone(), snapshots: hurt_by(&rows) });
    }
    Ok(())
}

pub(super) fn read_manifests(
    repository: &Repository,
    snapshots: &[SnapshotRow],
    bad: &Bad,
    report: &mut CheckReport,
    progress: &dyn Progress,
) -> Result<(), Error> {
    progress.event(Event::Stage("reading manifests"));
    progress.event(Event::Expect { items: snapshots.len() as u64, bytes: 0 });
    let everything = Selection::new(&[], &[])?;
    // By place: a snapshot may name another row of it than the one that was read.
    let mut places = HashMap::new();
    for (row, (_, why)) in &bad.frames {
        let frame = repository.catalog().frame(*row)?;
        places.insert((frame.pack_row, frame.at), why);
    }
    for snapshot in snapshots {
        let mut locator = Locator::new(repository, snapshot);
        let id = snapshot.record.id;
        let read = each_selected(repository, snapshot, &everything, progress, &mut |entry| {
            for extent in entry.content().into_iter().flat_map(|content| &content.extents) {
                let why = match locator.find(extent) {
                    Ok(Some(row)) => match (places.get(&(row.pack_row, row.at)), bad.packs.get(&row.pack_row)) {
                        (Some(why), _) => (*why).clone(),
                        (None, Some(pack)) if pack.all_frames => pack.why.clone(),
                        _ => continue,
                    },
                    Ok(None) => continue,
                    Err(
                        e @ Error::Repository(repository::Error::UnknownFrame(_) | repository::Error::Manifest { .. }),
                    ) => e.to_string(),
                    Err(e) => return Err(e),
                };
                if report.files_hurt.len() < 1000 {
                    report.files_hurt.push((id, entry.path.to_string(), why));
                }
                break;
            }
            Ok(())
        });
        match read {
            Ok(()) => report.manifests_read += 1,
            Err(Error::Repository(
                e @ (repository::Error::Frame { .. }
                | repository::Error::Manifest { .. }
                | repository::Error::UnknownFrame(_)
                | repository::Error::BadObject { .. }),
            )) => report.damage.push(Damage {
                object: format!("manifest of snapshot {id}"),
                why: e.to_string(),
                snapshots: vec![id],
            }),
            Err(e) => return Err(e),
        }
        progress.event(Event::Done { items: 1, bytes: 0 });
    }
    Ok(())
}
