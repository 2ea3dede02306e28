//! What the status page shows, gathered: from the repository, the notes of runs, the configuration.

use std::sync::Arc;

use chrono::SubsecRound;

use super::commands::status::{Look, as_json, checked_words, look, metrics};
use super::context::{Context, host_name};
use super::report::Failure;
use super::time::read_time;
use crate::config::Config;
use crate::model::Moment;
use crate::notify::RunNotes;
use crate::ops;
use crate::ops::status::Weight;
use crate::progress::Silent;
use crate::repository::Repository;
use crate::serve::{Access, CopyView, JobView, Site, SourceView, Totals, View};

/// Runs that are shown.
const RUNS: usize = 60;

/// Gathers everything. Reads logs, and of clusters the listing of their WAL; fetches no data.
pub fn gather(context: &Context, jobs: Vec<JobView>) -> Result<View, Failure> {
    let (repository, problems) = context.open_silently(&Silent)?;
    repository.catalog().spare_memory().map_err(ops::Error::from)?;
    let now = context.now();
    let found = look(context, &repository, &problems, &[])?;
    let silent =
        found.silent.iter().map(|silent| (Weight::Warning, format!("notify {}: {}", silent.channel, silent.words)));
    let of_store = found.store.iter().flat_map(|store| &store.troubles);
    let problems = of_store.map(|trouble| (trouble.weight, trouble.words.clone())).chain(silent).collect();
    let checked = found.store.as_ref().map(checked_words).unwrap_or_default();
    let (metrics, json) = (metrics(&found, now), as_json(&found).to_string());
    let Look { sources, copies, .. } = found;
    let drills = repository.catalog().drills(Some(50)).map_err(ops::Error::from)?;
    let view = |status: ops::status::SourceStatus| {
        let name = &status.source;
        let mut of: Vec<_> =
            drills.iter().map(|row| &row.record).filter(|record| record.source == *name).cloned().collect();
        of.sort_by_key(|record| std::cmp::Reverse((record.began, record.id)));
        SourceView { drills: of, groups: groups_of(&context.config, name), status }
    };
    let copies = copies.into_iter().map(|copy| CopyView {
        name: copy.name,
        at: copy.at,
        snapshots: copy.snapshots,
        state: copy.state,
        words: copy.words,
    });
    let runs = context.own_state_dir().map(|state| RunNotes::in_state(&state).newest(RUNS)).unwrap_or_default();
    Ok(View {
        made: now,
        host: host_name(None),
        repository: context.url()?,
        program: program(context),
        sources: sources.into_iter().map(view).collect(),
        copies: copies.collect(),
        problems,
        checked,
        runs,
        jobs,
        totals: totals(&repository)?,
        metrics,
        json,
    })
}

fn groups_of(config: &Config, source: &str) -> Vec<String> {
    let of = config.groups.iter().filter(|(_, group)| group.sources.iter().any(|name| name == source));
    of.map(|(name, _)| name.clone()).collect()
}

/// How a command begins that finds what this one found.
pub fn program(context: &Context) -> String {
    let config = context.config_file.as_ref().and_then(|file| std::path::absolute(file).ok());
    let by_config =
        config.map(|file| format!("lifeboat --config {}", crate::serve::quoted(&file.display().to_string())));
    match (&context.global.repo, by_config) {
        (Some(repo), None) => format!("lifeboat --repo {}", crate::serve::quoted(repo)),
        (Some(repo), Some(program)) => format!("{program} --repo {}", crate::serve::quoted(repo)),
        (None, Some(program)) => program,
        (None, None) => "lifeboat".to_owned(),
    }
}

fn totals(repository: &Repository) -> Result<Totals, ops::Error> {
    let catalog = repository.catalog();
    let mut totals = Totals::default();
    for row in catalog.brief_snapshots()? {
        totals.snapshots += 1;
        totals.restorable = totals.restorable.saturating_add(row.bytes);
    }
    let plain = catalog.plain_by_pack()?;
    for (writer, _) in catalog.writers()? {
        for pack in catalog.packs(writer)?.into_iter().filter(|pack| !pack.deleted) {
            totals.stored = totals.stored.saturating_add(pack.size);
            totals.unique = totals.unique.saturating_add(plain.get(&pack.row).copied().unwrap_or(0));
        }
    }
    Ok(totals)
}

/// A site that shows nothing yet. `looked` is called for each visit.
pub fn site(looked: impl Fn() + Send + Sync + 'static, access: Access) -> Arc<Site> {
    let read = |text: &str| -> Result<(Option<Moment>, String), String> {
        match text.trim() {
            "" | "latest" => Ok((None, "the newest moment".to_owned())),
            // Of the whole second: nobody means the microsecond in which they ask.
            text => match read_time(text, chrono::Utc::now().trunc_subsecs(0)) {
                Ok(time) => Ok((Some(time.moment), time.shown)),
                Err(e) => Err(format!("{e}. {}", e.hint())),
            },
        }
    };
    Arc::new(Site::new(Box::new(chrono::Utc::now), Box::new(read), Box::new(looked), access))
}
