//! `--verify`: everything that a restore placed is read again and its digest compared with the manifest's.

use std::io::Read;
use std::sync::Mutex;

use crossbeam_channel::bounded;

use super::window::Leftovers;
use super::{Prepared, RestoreReport, each_selected};
use crate::destination::Directory;
use crate::model::{Digest, Entry};
use crate::ops::Error;
use crate::progress::{Event, Progress};
use crate::repository::Repository;
use crate::seal::ContentKey;

/// Compares what a restore has laid down with the digests of the manifest, some time after it. Returns how many files were right.
///
/// # Errors
/// [`Error::Hurt`] names the first file that differs.
pub fn verify(repository: &Repository, prepared: &Prepared, progress: &dyn Progress) -> Result<u64, Error> {
    let into = prepared.plan.into.as_deref().unwrap_or(std::path::Path::new("."));
    let directory = Directory::open(into, false)?;
    let mut report = RestoreReport::default();
    run(repository, prepared, &directory, &Leftovers::default(), &mut report, progress)?;
    Ok(report.verified)
}

pub(super) fn run(
    repository: &Repository,
    prepared: &Prepared,
    directory: &Directory,
    leftovers: &Leftovers,
    report: &mut RestoreReport,
    progress: &dyn Progress,
) -> Result<(), Error> {
    progress.event(Event::Stage("verifying"));
    progress.event(Event::Expect { items: prepared.plan.files, bytes: prepared.plan.bytes });
    let (jobs_in, jobs) = bounded::<Entry>(256);
    let wrong: Mutex<Vec<(String, String)>> = Mutex::default();
    let verified = std::sync::atomic::AtomicU64::new(0);
    let content = repository.content_key().clone();
    let walked = std::thread::scope(|scope| {
        for _ in 0..4 {
            let (jobs, content, wrong, verified) = (jobs.clone(), content.clone(), &wrong, &verified);
            scope.spawn(move || {
                for entry in jobs {
                    match check_file(directory, &entry, &content) {
                        Ok(()) => drop(verified.fetch_add(1, std::sync::atomic::Ordering::Relaxed)),
                        Err(why) => {
                            let mut wrong = wrong.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                            wrong.push((entry.path.to_string(), why));
                        }
                    }
                    progress.event(Event::Done { items: 1, bytes: entry.size() });
                }
            });
        }
        drop(jobs);
        let jobs_in = jobs_in;
        each_selected(repository, &prepared.snapshot, &prepared.options.selection, progress, &mut |entry| {
            let hurt = || leftovers.hurt.iter().any(|(path, _)| *path == entry.path.to_string());
            if entry.content().is_some() && !leftovers.kept.contains(&entry.path) && !hurt() {
                // The threads end only when this sender is dropped.
                let _ = jobs_in.send(entry);
            }
            Ok(())
        })
    });
    walked?;
    report.verified = verified.into_inner();
    let wrong = wrong.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    match wrong.first() {
        None => Ok(()),
        Some((first, why)) => Err(Error::Hurt { files: wrong.len() as u64, first: first.clone(), why: why.clone() }),
    }
}

fn check_file(directory: &Directory, entry: &Entry, content: &ContentKey) -> Result<(), String> {
    let Some(wanted) = entry.content() else { return Ok(()) };
    let mut file = directory.read_file(&entry.path).map_err(|e| e.to_string())?;
    let (mut hasher, mut buffer, mut size) = (content.hasher(), vec![0; 256 << 10], 0u64);
    loop {
        let count = file.read(&mut buffer).map_err(|e| e.to_string())?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
        size += count as u64;
    }
    if size != wanted.size || Digest::new(*hasher.finalize().as_bytes()) != wanted.digest {
        return Err("what was written does not match the snapshot".to_owned());
    }
    Ok(())
}
