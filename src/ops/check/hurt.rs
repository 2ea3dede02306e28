//! What damage hurts: snapshots by the frames that they use, files by their manifests.

use std::collections::HashSet;

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
    Ok(best.is_some_and(|best| best.row != frame.row && best.state == FrameState::Good))
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
        if !pack.all_frames {
            frames.retain(|frame| bad.frames.contains_key(&frame.row));
        }
        let mut rows = Vec::with_capacity(frames.len());
        for frame in &frames {
            if !has_copy(repository, frame)? {
                rows.push(frame.row);
            }
        }
        if rows.is_empty() && !frames.is_empty() {
            report.replaced.push(pack.object.clone());
            continue;
        }
        report.damage.push(Damage { object: pack.object.clone(), why: pack.why.clone(), snapshots: hurt_by(&rows) });
    }
    let told: HashSet<&String> = bad.packs.values().map(|pack| &pack.object).collect();
    for (row, (object, why)) in bad.frames.iter().filter(|(_, (object, _))| !told.contains(object)) {
        if has_copy(repository, &repository.catalog().frame(*row)?)? {
            if !report.replaced.contains(object) {
                report.replaced.push(object.clone());
            }
            continue;
        }
        report.damage.push(Damage { object: object.clone(), why: why.clone(), snapshots: hurt_by(&[*row]) });
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
    for snapshot in snapshots {
        let mut locator = Locator::new(repository, snapshot);
        let id = snapshot.record.id;
        let read = each_selected(repository, snapshot, &everything, progress, &mut |entry| {
            for extent in entry.content().into_iter().flat_map(|content| &content.extents) {
                let why = match locator.find(extent) {
                    Ok(Some(row)) => match (bad.frames.get(&row.row), bad.packs.get(&row.pack_row)) {
                        (Some((_, why)), _) => why.clone(),
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
