//! `canary`: writes the canaries of sources, and remembers them; a backup does the same first.

use std::sync::Arc;

use crate::cli::Outcome;
use crate::cli::args::CanaryArgs;
use crate::cli::context::Context;
use crate::cli::report::Failure;
use crate::cli::telling::around_source;
use crate::client::Connection;
use crate::client::convex::Rights;
use crate::config::{Plan, SourceSection};
use crate::ops::canary::{Marks, Place, Written, write};
use crate::ops::{Error, Kind};
use crate::plan::canary::{Mark, words};
use crate::source::convex::resolve;
use crate::source::postgres::BaseOptions;

/// What a role needs, where the table is not there and it may not make it.
const RIGHTS: &str = "The canary is the table `lifeboat.canary`, which the role makes if it may. Where it may not, somebody who may runs once: \
                      `CREATE SCHEMA lifeboat AUTHORIZATION ROLE`. On a standby nothing is written: run it where the primary is.";

/// Runs it.
pub fn run(context: &Context, args: &CanaryArgs) -> Result<Outcome, Failure> {
    context.refuse_others_state()?;
    let sources = &context.config.sources;
    let with: Vec<&String> = sources.iter().filter(|(_, section)| section.canary).map(|(name, _)| name).collect();
    let hint = "Say `canary = true` in [sources.NAME]; docs/drills.md explains what it is for.";
    let names: Vec<String> = match args.sources.is_empty() {
        true if with.is_empty() => return Err(Failure::usage("no source has a canary", hint)),
        true => with.into_iter().cloned().collect(),
        false => args.sources.clone(),
    };
    if let Some(other) = names.iter().find(|name| !sources.get(*name).is_some_and(|section| section.canary)) {
        let what = if sources.contains_key(other) { "has no canary" } else { "is no source of the configuration" };
        return Err(Failure::usage(format!("`{other}` {what}"), hint));
    }
    let mut failures = Vec::new();
    for name in &names {
        let deed = || {
            let mark = mark(context, name, &sources[name])?;
            if context.ui.json {
                context
                    .ui
                    .json(&serde_json::json!({"message_type": "canary", "source": name, "at": words(mark.at)}))?;
            } else {
                context.ui.story(format!("canary    {name}: {}", words(mark.at)));
            }
            Ok(Outcome::Done)
        };
        match around_source(context, "canary", name, deed) {
            Ok(_) => {}
            Err(failure) if failure.kind() == Kind::Cancelled => return Err(failure),
            // The others sing all the same.
            Err(failure) => failures.push(failure),
        }
    }
    let Some(last) = failures.pop() else { return Ok(Outcome::Done) };
    failures.iter().for_each(|failure| failure.print(&mut std::io::stderr().lock(), context.ui.json));
    Err(last)
}

/// Writes the canary of a source and remembers it.
fn mark(context: &Context, name: &str, section: &SourceSection) -> Result<Mark, Failure> {
    let plan = section.plan(name).map_err(|why| Failure::usage(why, "See the configuration."))?;
    let clock = || context.now();
    let written = match plan {
        Plan::Volume { path, .. } => write(&Place::Tree(path), name, &clock)?,
        Plan::Postgres(options) => to_server(options, name, section, &clock)?,
        Plan::PgDump(options) => {
            let base = BaseOptions {
                source: name.to_owned(),
                connection: options.connection.with_secrets(),
                password_file: options.password_file.clone(),
                data_directory: None,
                fail_on_page_errors: false,
                via: None,
                bin_dir: None,
                work_dir: None,
            };
            to_server(base, name, section, &clock)?
        }
        Plan::Convex(options) => {
            let deployment = resolve(&options, context.now(), Rights::Full, Arc::clone(&context.stop))?;
            write(&Place::Deployment(&deployment), name, &clock)?
        }
        Plan::Sqlite { .. } | Plan::Command { .. } | Plan::Tarball(_) | Plan::Bucket(_) => {
            return Err(Failure::usage(format!("a source like `{name}` has no canary"), "Leave `canary` out."));
        }
    };
    Marks::of(&context.own_state_dir()?, name, &section.canary_place()).add(&written)?;
    Ok(written.mark)
}

fn to_server(
    options: BaseOptions,
    name: &str,
    section: &SourceSection,
    clock: &dyn Fn() -> crate::model::Moment,
) -> Result<Written, Failure> {
    let connection = options.with_password().map_err(Error::from)?.connection;
    let connection = Connection::parse(&connection).map_err(Error::from)?.with_database(&section.canary_database());
    write(&Place::Database(connection.with_secrets()), name, clock).map_err(|e| {
        // Of a server that cannot be reached the hint is another one.
        let refused = matches!(&e, Error::Source(crate::source::Error::Postgres(e)) if e.is_refusal());
        let failure = Failure::from(e);
        if refused { failure.with_hint(RIGHTS) } else { failure }
    })
}

/// The same, before a backup: one that cannot be written keeps nothing from being stored. Whether all is well.
pub(super) fn before_backup(context: &Context, name: &str) -> bool {
    let Some(section) = context.config.sources.get(name).filter(|section| section.canary) else { return true };
    match mark(context, name, section) {
        Ok(_) => true,
        Err(failure) => {
            context.ui.warning(format!("the canary of `{name}` was not written: {}", failure.said()));
            false
        }
    }
}
