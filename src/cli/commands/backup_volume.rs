//! `backup` of volumes and of SQLite databases: where copies lie, what is left out, and what is said of the databases.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::pause::Pausing;
use crate::cli::context::Context;
use crate::cli::output::{count, counted, size};
use crate::cli::progress::Console;
use crate::cli::report::Failure;
use crate::model::{How, SnapshotRecord, VolumeFacts};
use crate::source::sqlite::{Captures, DatabaseVolume, Layout, Limits, SqliteMode, SqliteSource};
use crate::source::{Rules, Source, VolumeSource};

/// Databases that are told of by name.
const NAMED: usize = 10;

fn captures(
    context: &Context,
    name: &str,
    work_dir: Option<&Path>,
    pausing: Option<&Arc<Pausing>>,
    progress: &Arc<Console>,
) -> Result<Captures, Failure> {
    let directory: PathBuf = match work_dir {
        Some(parent) => parent.join(format!("lifeboat-captures-{name}")),
        // Two repositories may have a source of one name, and be written to at the same time.
        None => {
            // `./repo` of two directories are two.
            let local = context.local_repository()?.map(|path| path.display().to_string());
            let url = blake3::hash(local.unwrap_or(context.url()?).as_bytes()).to_hex();
            context.state_dir()?.join("captures").join(format!("{name}-{}", &url[..8]))
        }
    };
    let around = pausing.map(|pausing| {
        let pausing = Arc::clone(pausing);
        Box::new(move || pausing.begin()) as _
    });
    Ok(Captures::new(directory, Limits::default(), Arc::clone(progress) as _).around(around))
}

/// Patterns of what this host keeps below a volume and no snapshot needs: catalogs, which are caches, and copies of databases.
/// Besides, a process that closes a database that it has open itself lets go of its locks.
fn own_files(context: &Context, root: &Path, work_dir: Option<&Path>) -> Result<Vec<String>, Failure> {
    let Ok(root) = std::fs::canonicalize(root) else { return Ok(Vec::new()) };
    let below = |path: &Path, tail: &str| {
        let path = std::fs::canonicalize(path).ok()?;
        let path = path.strip_prefix(&root).ok()?.to_str()?.to_owned();
        let mut pattern = String::new();
        for letter in path.chars() {
            if "\\*?[]!# ".contains(letter) {
                pattern.push('\\');
            }
            pattern.push(letter);
        }
        let start = if pattern.is_empty() { String::new() } else { format!("/{pattern}") };
        Some(format!("{start}{tail}"))
    };
    let state = context.state_dir()?;
    let mut patterns: Vec<String> =
        ["/captures/", "/**/catalog.db*"].iter().filter_map(|tail| below(&state, tail)).collect();
    patterns.extend(work_dir.and_then(|parent| below(parent, "/lifeboat-captures-*/")));
    Ok(patterns)
}

/// A volume, with its databases captured unless they are to be read as files.
pub(super) fn volume(
    context: &Context,
    name: &str,
    (path, mut rules): (&Path, Rules),
    (sqlite, work_dir, blobs): (SqliteMode, Option<&Path>, Option<bool>),
    pausing: Option<&Arc<Pausing>>,
    progress: &Arc<Console>,
) -> Result<Box<dyn Source>, Failure> {
    let layout = Layout::of(path);
    if let Some(layout) = &layout {
        // Before those of the configuration, which may take some of it back: `exclude = ["!/storage/exports/*"]`.
        rules.exclude.splice(0..0, layout.left_out());
        context.ui.story(format!("convex    the data of a backend: {} are left out", layout.left_out().join(", ")));
    }
    rules.exclude.splice(0..0, own_files(context, path, work_dir)?);
    let mut source = VolumeSource::new(path, &rules)?;
    match (context.local_repository()?, std::fs::canonicalize(path)) {
        (Some(repository), Ok(root)) if root.starts_with(&repository) => {
            let text = format!("`{}` lies in the repository itself", path.display());
            return Err(Failure::usage(text, "A repository does not back itself up. Name another directory."));
        }
        (Some(repository), Ok(root)) if repository.starts_with(&root) => {
            let text = format!("the repository `{}` lies in this source and is left out", repository.display());
            context.ui.warning(text);
            source = source.without(repository);
        }
        _ => {}
    }
    Ok(match sqlite {
        SqliteMode::Raw => Box::new(source),
        SqliteMode::Capture => {
            let captures = captures(context, name, work_dir, pausing, progress)?;
            Box::new(DatabaseVolume::new(source, captures, layout).of_blobs(blobs))
        }
    })
}

/// One database.
pub(super) fn database(
    context: &Context,
    name: &str,
    path: &Path,
    work_dir: Option<&Path>,
    pausing: Option<&Arc<Pausing>>,
    progress: &Arc<Console>,
) -> Result<Box<dyn Source>, Failure> {
    Ok(Box::new(SqliteSource::new(path, captures(context, name, work_dir, pausing, progress)?)?))
}

/// Says how databases were had, and what is strange about them.
pub(super) fn tell(context: &Context, record: &SnapshotRecord) -> Result<(), Failure> {
    if !matches!(record.kind.as_str(), "volume" | "sqlite") {
        return Ok(());
    }
    let facts: VolumeFacts = serde_json::from_value(record.facts.clone()).unwrap_or_default();
    for fact in facts.databases.iter().filter(|fact| fact.note.is_some()) {
        let why = fact.note.as_deref().unwrap_or_default();
        context.ui.warning(format!(
            "`{}` begins like an SQLite database, and SQLite does not open it ({why}): it is stored as it is",
            fact.path
        ));
    }
    if context.ui.json {
        return Ok(());
    }
    for fact in facts.databases.iter().take(NAMED) {
        let how = match fact.how {
            How::Copy | How::Clone => format!("captured; a writer waited {} ms at most", count(fact.held_ms)),
            How::Log => "captured with its log; no writer waited".to_owned(),
            How::Recovered => "captured, and what a dead writer left was applied to the copy".to_owned(),
            How::Unchanged => "unchanged".to_owned(),
        };
        context.ui.answer(format!("database  {}: {}, {how}", fact.path, size(fact.bytes)))?;
    }
    let more = facts.databases.len().saturating_sub(NAMED) as u64 + facts.more_databases;
    if more > 0 {
        context.ui.answer(format!("database  and {}", counted(more, "more", "more")))?;
    }
    Ok(())
}
