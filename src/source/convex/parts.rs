//! What is in no export: environment variables, schemas, components, scheduled functions, the code as it is deployed. Each part is
//! one JSON file, kept as the server answered; `parts.json` says which answered. Nothing of it is ever printed: keys are among it.
//!
//! The queries are those of the dashboard, which may change without notice: each is optional. Not here: putting any of it back.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Error;
use crate::client::convex::{self, Component, Deployment};
use crate::model::convex::{ENVIRONMENT, PARTS};
use crate::progress::{Event, Progress};

/// Scheduled functions that are kept at most.
const JOBS_MAX: usize = 200_000;

type Asked = Result<Value, convex::Error>;

/// Reads every part. Those that the server refuses are named in `parts.json`; one that cannot be reached ends the run.
pub(super) fn read(deployment: &Deployment, progress: &dyn Progress) -> Result<BTreeMap<String, Vec<u8>>, Error> {
    progress.event(Event::Stage("reading the rest"));
    let components = deployment.components()?;
    let mut all = BTreeMap::new();
    let mut answers = Vec::new();
    for (name, asked) in ask(deployment, &components) {
        let answered = match asked {
            Ok(value) => {
                all.insert(name.to_owned(), text_of(&value));
                json!({"file": name, "answered": true})
            }
            Err(
                e @ (convex::Error::Refused { .. } | convex::Error::NotPermitted { .. } | convex::Error::Answer { .. }),
            ) => {
                if name == ENVIRONMENT {
                    progress.event(Event::Warning(
                        "the environment variables could not be read: they are not in this snapshot",
                    ));
                }
                json!({"file": name, "answered": false, "why": e.to_string()})
            }
            Err(e) => return Err(e.into()),
        };
        answers.push(answered);
    }
    all.insert(PARTS.to_owned(), text_of(&json!({"version": 1, "parts": answers})));
    Ok(all)
}

fn text_of(value: &Value) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).unwrap_or_default();
    text.push(b'\n');
    text
}

/// The parts by the names of their files.
fn ask(deployment: &Deployment, components: &[Component]) -> Vec<(&'static str, Asked)> {
    let query = |path: &str| deployment.query(path, json!({}));
    vec![
        (ENVIRONMENT, deployment.environment().map(|all| json!(all))),
        ("canonical_urls.json", deployment.get_part("api/v1/get_canonical_urls")),
        ("log_streams.json", deployment.get_part("api/v1/list_log_streams")),
        ("log_sinks.json", query("_system/frontend/listConfiguredSinks")),
        ("components.json", query("_system/frontend/components:list")),
        (
            "schemas.json",
            of_each(components, |id| deployment.query("_system/frontend/getSchemas", json!({"componentId": id}))),
        ),
        ("indexes.json", of_each(components, |id| indexes(deployment, id))),
        ("auth_providers.json", query("_system/frontend/listAuthProviders")),
        (
            "crons.json",
            of_each(components, |id| deployment.query("_system/frontend/listCronJobs", json!({"componentId": id}))),
        ),
        ("scheduled_functions.json", of_each(components, |id| scheduled(deployment, id))),
        ("code.json", deployment.code("get_config")),
        ("code_hashes.json", deployment.code("get_config_hashes")),
        ("code_version.json", query("_system/frontend/getVersion")),
        ("state.json", query("_system/frontend/deploymentState:deploymentState")),
        ("server.json", server(deployment)),
    ]
}

/// The answer for each component, by its path.
fn of_each(components: &[Component], ask: impl Fn(Option<&str>) -> Asked) -> Asked {
    let mut all = serde_json::Map::new();
    for component in components {
        all.insert(component.path.clone(), ask(component.id.as_deref())?);
    }
    Ok(Value::Object(all))
}

fn indexes(deployment: &Deployment, component: Option<&str>) -> Asked {
    let query = component.map(|id| format!("?componentId={id}")).unwrap_or_default();
    deployment.get_part(&format!("api/get_indexes{query}"))
}

fn scheduled(deployment: &Deployment, component: Option<&str>) -> Asked {
    let args = json!({"componentId": component});
    let (rows, all) = deployment.pages("_system/frontend/paginatedScheduledJobs", args, JOBS_MAX)?;
    Ok(json!({"complete": all, "rows": rows}))
}

fn server(deployment: &Deployment) -> Asked {
    let features = deployment.features()?;
    Ok(json!({
        "instance": deployment.key_of(),
        "version": features.version,
        "streaming_export": features.streaming_export,
        "data_sync": features.data_sync,
        "environment_route": features.environment_route,
        "pause": features.pause,
    }))
}
