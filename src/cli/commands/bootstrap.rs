//! `bootstrap`: on a bare machine, with the URL and an identity: the configuration, the catalog, and what can be restored.

use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use crate::cli::Outcome;
use crate::cli::args::BootstrapArgs;
use crate::cli::context::Context;
use crate::cli::output::{counted, duration, size};
use crate::cli::report::Failure;
use crate::model::convex::FILES_KIND;
use crate::ops::bootstrap::{StoredConfiguration, configurations};
use crate::ops::status::{Limits, SourceStatus, status};
use crate::plan::restore::show;

/// Runs it.
pub fn run(context: &Context, args: &BootstrapArgs) -> Result<Outcome, Failure> {
    let progress = context.progress(true);
    let (repository, problems) = context.open(&*progress)?;
    progress.clear();
    let (all, wrong) = configurations(&repository)?;
    for problem in &wrong {
        context.ui.warning(problem);
    }
    let chosen = choose(&all, args.writer.as_deref())?;
    let file = args.into.clone().unwrap_or_else(|| PathBuf::from("lifeboat.toml"));
    let written = match chosen {
        Some(chosen) => Some(write(&file, chosen)?),
        None => None,
    };
    let rows = repository.catalog().snapshots()?;
    let names: BTreeSet<String> =
        rows.iter().filter(|row| row.record.kind != FILES_KIND).map(|row| row.full_name()).collect();
    let wanted: Vec<(String, Limits)> = names.into_iter().map(|name| (name, Limits::default())).collect();
    let sources = status(&repository, &wanted, context.now())?;
    let outcome = if problems.is_empty() && wrong.is_empty() { Outcome::Done } else { Outcome::Damage };
    let ui = context.ui;
    if ui.json {
        let others: Vec<&str> = all.iter().map(|one| one.writer.as_str()).collect();
        ui.json(&serde_json::json!({
            "message_type": "bootstrap", "configuration": written.map(|_| &file), "of": chosen.map(|one| &one.writer),
            "writers": others, "sources": sources,
        }))?;
        return Ok(outcome);
    }
    match chosen {
        Some(one) => {
            ui.answer(format!("configuration  `{}`, of {} as of {}", file.display(), one.writer, show(one.stored)))?;
        }
        None => ui.warning(
            "no configuration was stored: nobody has run `lifeboat backup` with a configuration file against this repository",
        ),
    }
    for other in all.iter().filter(|one| chosen.is_some_and(|chosen| chosen.writer != one.writer)) {
        ui.answer(format!(
            "another        of {} as of {}: `--writer {}`",
            other.writer,
            show(other.stored),
            other.writer
        ))?;
    }
    ui.answer(format!("catalog        {}", counted(rows.len() as u64, "snapshot", "snapshots")))?;
    tell_sources(context, &sources)?;
    Ok(outcome)
}

fn choose<'c>(
    all: &'c [StoredConfiguration],
    writer: Option<&str>,
) -> Result<Option<&'c StoredConfiguration>, Failure> {
    let Some(name) = writer else { return Ok(all.first()) };
    let found = all.iter().find(|one| one.writer == name);
    found.map(Some).ok_or_else(|| {
        let there = all.iter().map(|one| one.writer.as_str()).collect::<Vec<_>>().join(", ");
        let hint = format!("Writers that have one: {}.", if there.is_empty() { "none" } else { &there });
        Failure::usage(format!("no configuration of the writer `{name}` is stored"), hint)
    })
}

/// Writes it for its owner alone; nothing that is there is replaced.
fn write(file: &std::path::Path, chosen: &StoredConfiguration) -> Result<(), Failure> {
    let opened = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    let mut output = match opened {
        Ok(output) => output,
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            let hint = "Name another file: `--into FILE`. Nothing was written.";
            return Err(Failure::usage(format!("`{}` is there already", file.display()), hint));
        }
        Err(e) => return Err(Failure::io("write", file, e)),
    };
    let done = output.write_all(&chosen.text).and_then(|()| output.sync_all());
    done.map_err(|e| Failure::io("write", file, e))
}

fn tell_sources(context: &Context, sources: &[SourceStatus]) -> Result<(), Failure> {
    let ui = context.ui;
    for one in sources {
        let kind = one.kind.as_deref().unwrap_or("-");
        match (one.newest, one.age_ms) {
            (Some(newest), Some(age)) => ui.answer(format!(
                "source         {}  {kind}  {}, {} ago, {}",
                one.source,
                show(newest),
                duration(age as f64 / 1000.0),
                size(one.bytes)
            ))?,
            _ => ui.answer(format!("source         {}  {kind}  NOTHING can be restored", one.source))?,
        }
        ui.answer(format!("               {}", command_of(one)))?;
    }
    Ok(())
}

/// What brings a source back.
fn command_of(one: &SourceStatus) -> String {
    let rest = match one.kind.as_deref() {
        Some("postgres") => "--into DATA_DIRECTORY --start",
        Some("pg_dump") => "--into postgresql://USER@HOST",
        Some("convex") => "--into http://HOST:3210",
        _ => "--into DIRECTORY",
    };
    // Two hosts may have a source of one name: this is the full one.
    format!("lifeboat restore {} --to latest {rest}", one.source)
}
