//! A Convex deployment under `check --live`: the key and what it may do, exports and imports that are under way, how far back changes can
//! be read, the two clocks. Nothing is changed and no export is asked for.

use chrono::TimeDelta;

use super::LiveReport;
use crate::client::convex::{Deployment, Error as Refusal, ExportStatus, ImportPhase};
use crate::model::Moment;
use crate::ops::Error;
use crate::source::convex::ConvexSource;

/// Clocks that are further apart make times in plans misleading.
const CLOCKS_APART_MS: i64 = 30_000;
/// An export that runs for longer probably cannot end.
const EXPORT_HOURS: i64 = 6;
/// Ages in hours at which changes are asked for.
const AGES: [i64; 7] = [1, 12, 24, 47, 7 * 24 - 1, 14 * 24 - 1, 30 * 24 - 1];

/// Looks at a deployment. `clock` is this host's.
pub fn check_deployment(source: &ConvexSource, clock: &dyn Fn() -> Moment) -> Result<LiveReport, Error> {
    let deployment = source.deployment();
    let mut report = LiveReport::default();
    let instance = match deployment.check_instance() {
        Err(Refusal::OtherInstance { instance, key_of, .. }) => {
            let hint = "Name the deployment that the key is of, or make a key for this one.";
            report.problem("key", format!("it is of `{key_of}`, and this is `{instance}`"), hint);
            return Ok(report);
        }
        found => found?,
    };
    report.fine("connection", format!("{}: instance `{instance}`", deployment.place()));
    if !key(deployment, clock, &mut report)? {
        return Ok(report);
    }
    let features = deployment.features()?;
    let has = [
        (true, "exports"),
        (features.streaming_export, "document deltas"),
        (features.data_sync, "data sync"),
        (features.environment_route, "environment variables"),
        (features.pause, "pause"),
    ];
    let names: Vec<&str> = has.iter().filter(|(there, _)| *there).map(|(_, name)| *name).collect();
    report.fine("features", format!("{} (version {})", names.join(", "), features.version));
    if features.streaming_export {
        window(deployment, clock(), &mut report)?;
    }
    exports(deployment, clock(), &mut report)?;
    imports(deployment, &mut report)?;
    state(deployment, &mut report)?;
    Ok(report)
}

/// A glance at a deployment: how far back changes can be read.
pub fn glance_deployment(source: &ConvexSource, clock: &dyn Fn() -> Moment) -> Result<LiveReport, Error> {
    let mut report = LiveReport::default();
    if source.deployment().features()?.streaming_export {
        window(source.deployment(), clock(), &mut report)?;
    }
    Ok(report)
}

/// The key, and the clocks. False where nothing more can be asked.
fn key(deployment: &Deployment, clock: &dyn Fn() -> Moment, report: &mut LiveReport) -> Result<bool, Error> {
    let before = clock();
    let (key, theirs) = match deployment.check_key() {
        Err(Refusal::WrongKey { .. }) => {
            let hint = "`docker compose exec backend ./generate_admin_key.sh` prints one.";
            report.problem("key", "the deployment does not accept it", hint);
            return Ok(false);
        }
        found => found?,
    };
    if key.read_only {
        report.problem("key", "it only reads: it may not ask for an export", "Give a full admin key.");
    } else if !key.operations.is_empty() && !key.operations.iter().any(|op| op == "CreateBackups") {
        report.problem("key", "it may not ask for an export (CreateBackups)", "Give a full admin key.");
    } else {
        report.fine("key", "it may ask for exports");
    }
    // The answer's time is of some moment between asking and hearing, and to the second.
    if let Some(theirs) = theirs {
        let middle = before + (clock() - before) / 2;
        let apart = theirs + 500 - middle.timestamp_millis();
        match apart.abs() > CLOCKS_APART_MS {
            true => {
                let found = format!(
                    "the deployment's is {} s {} this host's",
                    apart.abs() / 1000,
                    if apart > 0 { "before" } else { "behind" }
                );
                report.warn("clock", found, "Set both by NTP: plans name times of both.");
            }
            false => report.fine("clock", format!("{:.1} s apart", apart as f64 / 1000.0)),
        }
    }
    Ok(true)
}

/// How far back changes can be read: what a stream may fall behind.
fn window(deployment: &Deployment, now: Moment, report: &mut LiveReport) -> Result<(), Error> {
    let mut reaches = None;
    for hours in AGES {
        let cursor = (now - TimeDelta::hours(hours)).timestamp_nanos_opt().unwrap_or(0);
        match deployment.get_part(&format!("api/document_deltas?cursor={cursor}")) {
            Ok(_) => reaches = Some(hours),
            Err(Refusal::Refused { .. } | Refusal::NotPermitted { .. }) => break,
            Err(e) => return Err(e.into()),
        }
    }
    match reaches {
        Some(hours) => {
            report.reach_hours = u64::try_from(hours).ok();
            report.fine("retention", format!("changes of the last {hours} hours can be read, at least"));
        }
        None => report.warn(
            "retention",
            "changes of the last hour cannot be read",
            "Exports work without; see DOCUMENT_RETENTION_DELAY in the backend's environment.",
        ),
    }
    Ok(())
}

fn exports(deployment: &Deployment, now: Moment, report: &mut LiveReport) -> Result<(), Error> {
    let latest = match deployment.latest_export() {
        Err(e @ Refusal::Refused { .. }) => {
            report.problem("export", e.to_string(), "Without its state no export can be waited for.");
            return Ok(());
        }
        found => found?,
    };
    match latest {
        None => report.fine("export", "there never was one"),
        Some(export) if matches!(export.status, ExportStatus::Requested | ExportStatus::InProgress) => {
            let hours = (now.timestamp_millis() - export.created_ms as i64) / 3_600_000;
            let found = format!("one runs for {hours} h: {}", Said(&export.message));
            if hours >= EXPORT_HOURS {
                let hint = format!(
                    "It may be stuck, and no other can run: `curl -X POST -H \"Authorization: Convex $KEY\" {}/api/export/cancel/{}`.",
                    deployment.place(),
                    export.id
                );
                report.problem("export", found, hint);
            } else {
                report.warn("export", found, "A backup waits until it has ended.");
            }
        }
        Some(_) => report.fine("export", "none is running"),
    }
    Ok(())
}

fn imports(deployment: &Deployment, report: &mut LiveReport) -> Result<(), Error> {
    let all = match deployment.imports() {
        Ok(all) => all,
        Err(Refusal::Refused { .. }) => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    let is_open = |phase: &ImportPhase| !matches!(phase, ImportPhase::Completed { .. } | ImportPhase::Failed { .. });
    match all.iter().filter(|import| is_open(&import.phase)).count() {
        0 => report.fine("import", "none is running"),
        n => {
            let hint = "An export shows the state before it or after it, never between.";
            report.warn("import", format!("{n} not ended"), hint);
        }
    }
    Ok(())
}

fn state(deployment: &Deployment, report: &mut LiveReport) -> Result<(), Error> {
    match deployment.state()?.as_deref() {
        Some("running") | None => report.fine("state", "running"),
        Some(other) => report.problem(
            "state",
            format!("it is {}: its files cannot be fetched", Said(other)),
            format!(
                "`curl -X POST -H \"Authorization: Convex $KEY\" {}/api/v1/unpause_deployment`",
                deployment.place()
            ),
        ),
    }
    Ok(())
}

/// Words of the server, on one line.
struct Said<'s>(&'s str);

impl std::fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        crate::client::convex::Said(self.0.to_owned()).fmt(f)
    }
}
