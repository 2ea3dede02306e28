//! `runbook`: the page for this source and this moment, with what this host knows filled in.
//!
//! Invariant: it prints something useful whatever is lost: a repository that cannot be opened, or a configuration that is not there, is said, and
//! its values stay to be set. Nothing is changed, no secret is printed.

use std::collections::BTreeMap;
use std::path::Path;

use crate::cli::args::RunbookArgs;
use crate::cli::context::{Context, host_name};
use crate::cli::output::duration;
use crate::cli::report::Failure;
use crate::cli::time::read_time;
use crate::cli::{Outcome, runbook};
use crate::client::{Connection, Programs};
use crate::config::{Plan, SourceSection};
use crate::model::base::BaseBackup;
use crate::ops::Error;
use crate::ops::status::{Limits, SourceStatus, status};
use crate::plan::restore::show;
use crate::repository::Repository;

/// What is known of the source in the repository.
#[derive(Default)]
struct Known {
    status: Option<SourceStatus>,
    writer: Option<String>,
    /// Of a cluster: its newest base backup.
    base: Option<BaseBackup>,
    /// Why nothing is known.
    closed: Option<String>,
}

/// Runs it.
pub fn run(context: &Context, args: &RunbookArgs) -> Result<Outcome, Failure> {
    let case = args.case.as_deref().unwrap_or("database-corrupted");
    let Some(page) = runbook::page(case) else {
        let hint = format!("There are: {}.", runbook::cases().join(", "));
        return Err(Failure::usage(format!("there is no runbook `{case}`"), hint));
    };
    let to = args.to.as_deref().map(|text| read_time(text, context.now())).transpose()?;
    let full = args.source.as_deref();
    let (writer, source) = match full.and_then(|full| full.split_once('/')) {
        Some((writer, source)) => (Some(writer), Some(source)),
        None => (None, full),
    };
    let section = source.and_then(|source| context.config.sources.get(source));
    let known = look(context, full);
    let has_none = known.status.as_ref().is_none_or(|status| status.snapshots == 0);
    if let Some(full) = full.filter(|_| section.is_none() && has_none && known.closed.is_none()) {
        let names = context.config.sources.keys().cloned().collect::<Vec<_>>().join(", ");
        let hint = format!("The configuration has: {names}. `lifeboat snapshots` shows what is stored.");
        return Err(Failure::usage(format!("there is no source `{full}`"), hint));
    }
    let kind = section.map(|section| section.kind.name().to_owned());
    let kind = kind.or_else(|| known.status.as_ref().and_then(|status| status.kind.clone()));
    let mut values = of_host(context, source);
    if let (Some(section), Some(source)) = (section, source) {
        of_section(&mut values, source, section, known.base.as_ref());
    }
    let writer = writer.map(str::to_owned).or_else(|| known.writer.clone());
    values.extend(writer.map(|writer| ("WRITER", writer)));
    // Where the newest state is the one that was hurt, somebody must say which was the last good one.
    let needs_time = matches!(case, "bad-deploy" | "ransomware");
    match &to {
        Some(to) => drop(values.insert("TO", exact(to.moment))),
        None if needs_time => {}
        None => drop(values.insert("TO", "latest".to_owned())),
    }
    if let Some(into) = &args.into {
        values.insert("INTO", into.display().to_string());
    }
    let text = runbook::render(page, kind.as_deref(), &values, &of_flags(context));
    let (title, rest) = text.split_once('\n').unwrap_or((&text, ""));
    let title = full.map_or_else(|| title.to_owned(), |full| format!("{title}: {full}"));
    let made = facts(context, &known, to.as_ref().map(|to| to.shown.as_str()));
    if context.ui.json {
        let values: BTreeMap<_, _> = values.into_iter().collect();
        return context
            .ui
            .json(&serde_json::json!({
                "message_type": "runbook", "case": case, "source": args.source, "kind": kind, "values": values,
                "text": format!("{title}\n\n{made}{rest}"),
            }))
            .map(|()| Outcome::Done);
    }
    context.ui.answer(format!("{title}\n\n{made}{}", rest.trim_end()))?;
    Ok(Outcome::Done)
}

fn exact(moment: crate::model::Moment) -> String {
    moment.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)
}

/// What the repository knows, if it can be opened.
fn look(context: &Context, source: Option<&str>) -> Known {
    let progress = context.progress(false);
    let opened = context.open_silently(&*progress);
    progress.clear();
    let of = |repository: &Repository| -> Result<Known, Error> {
        let writer = repository.host().ok().map(|host| host.name.clone());
        let Some(source) = source else { return Ok(Known { writer, ..Known::default() }) };
        let limits = [(source.to_owned(), Limits::default())];
        let found = status(repository, &limits, context.now())?.into_iter().next();
        let rows = repository.catalog().snapshots_of(source.rsplit('/').next().unwrap_or(source))?;
        let own = rows.iter().filter(|row| row.record.source == source || row.full_name() == source);
        let newest = own.filter(|row| row.record.kind == "postgres").max_by_key(|row| row.record.ended);
        let base = newest.and_then(|row| serde_json::from_value(row.record.facts.clone()).ok());
        Ok(Known { status: found, writer, base, closed: None })
    };
    let found = match opened {
        Ok((repository, _)) => of(&repository).map_err(Failure::from),
        Err(failure) => Err(failure),
    };
    found.unwrap_or_else(|failure| Known { closed: Some(failure.said()), ..Known::default() })
}

/// The lines below the title: what can be had, and how long it took.
fn facts(context: &Context, known: &Known, read_as: Option<&str>) -> String {
    let now = context.now();
    let mut lines = vec![format!("Printed {} on {}.", show(now), host_name(None))];
    lines.extend(read_as.map(|read_as| format!("The moment: {read_as}.")));
    if let Some(status) = &known.status {
        lines.push(match (status.oldest, status.newest, status.age_ms) {
            (Some(oldest), Some(newest), Some(age)) => format!(
                "What can be had: {} to {}; the newest is {} old. Snapshots: {}.",
                show(oldest),
                show(newest),
                duration(age as f64 / 1000.0),
                status.snapshots
            ),
            _ => "NOTHING can be restored of it yet.".to_owned(),
        });
        if let Some(last) = &status.drill {
            let took = last.rto_ms.map_or_else(String::new, |ms| format!(", RTO {}", duration(ms as f64 / 1000.0)));
            lines.push(format!("The last drill: {}{took}.", show(last.began)));
        }
        lines.extend(status.troubles.iter().map(|trouble| format!("WRONG: {}", trouble.words)));
    }
    if let Some(why) = &known.closed {
        lines.push(format!("The repository was not read ({why}): values below that come from it are to be set."));
    }
    lines.iter().map(|line| format!("- {line}\n")).collect()
}

/// What this command was told, and the next ones must be told too.
fn of_flags(context: &Context) -> Vec<(&'static str, String)> {
    let state = context.global.state_dir.as_ref().map(|dir| ("LIFEBOAT_STATE_DIR", absolute(dir)));
    let repository = context.global.repo.as_ref().map(|url| ("LIFEBOAT_REPOSITORY", place(url)));
    state.into_iter().chain(repository).collect()
}

fn absolute(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

/// A repository as it is named from any directory.
fn place(url: &str) -> String {
    if url.contains("://") { url.to_owned() } else { absolute(Path::new(url)) }
}

fn of_host(context: &Context, source: Option<&str>) -> BTreeMap<&'static str, String> {
    let mut values = BTreeMap::new();
    values.extend(source.map(|source| ("SOURCE", source.to_owned())));
    values.extend(context.config_file.as_deref().map(|file| ("LIFEBOAT_CONFIG", absolute(file))));
    values.extend(context.url().ok().map(|url| ("LIFEBOAT_REPOSITORY", place(&url))));
    let identities = context.identity_files();
    values.extend(identities.first().map(|file| ("LIFEBOAT_IDENTITY_FILE", absolute(file))));
    values.extend(context.config.copies.values().next().map(|copy| ("COPY", place(&copy.url))));
    values
}

fn of_section(
    values: &mut BTreeMap<&'static str, String>,
    source: &str,
    section: &SourceSection,
    base: Option<&BaseBackup>,
) {
    match section.plan(source) {
        Ok(Plan::Volume { path, .. } | Plan::Sqlite { path, .. }) => {
            values.insert("DATA", path.display().to_string());
        }
        Ok(Plan::Postgres(options)) => {
            let said = base.and_then(|base| base.settings.get("data_directory").cloned());
            let data = options.data_directory.map(|path| path.display().to_string()).or(said);
            values.extend(data.map(|data| ("PGDATA", data)));
            of_server(values, section, &options.connection, source);
            let programs = Programs::new(options.bin_dir);
            let program = match base {
                Some(base) => programs.of_major("postgres", base.major()),
                None => programs.any("postgres"),
            };
            let folder = program.ok().and_then(|program| Some(program.path.parent()?.to_owned()));
            values.extend(folder.map(|folder| ("BIN", folder.display().to_string())));
        }
        Ok(Plan::PgDump(options)) => of_server(values, section, &options.connection.argument(), source),
        Ok(Plan::Convex(options)) => {
            let url = options.url.or_else(|| std::env::var("CONVEX_SELF_HOSTED_URL").ok());
            values.extend(url.map(|url| ("DEPLOYMENT", url)));
        }
        Ok(Plan::Command { .. } | Plan::Tarball(_) | Plan::Bucket(_)) | Err(_) => {}
    }
}

/// Where the server is, and the database. The role of the backups may not write there: who may is to be set.
fn of_server(values: &mut BTreeMap<&'static str, String>, section: &SourceSection, connection: &str, source: &str) {
    // Of several somebody must say which one is hurt.
    let of_connection =
        Connection::parse(connection).ok().and_then(|connection| connection.database().map(str::to_owned));
    values.extend(section.only_database().or(of_connection).map(|name| ("DATABASE", name)));
    match Connection::parse(connection) {
        Ok(connection) => drop(values.insert("SERVER", connection.url())),
        Err(e) => tracing::info!(source, %e, "the connection is not understood"),
    }
}
