//! The system queries, over HTTP and over the WebSocket alike.
//!
//! A query is a pure view of the state, but that asking for the newest export is counted (`ExportFault::Polls`).

mod page;
mod system;

use serde_json::Value as Json;

use crate::Inner;
use crate::http::auth::{self, Identity};
use crate::model::State;
use crate::value::Value;

/// What a query is asked with.
pub(crate) struct Call<'a> {
    pub path: &'a str,
    pub args: &'a Json,
    /// The component that it runs in, by path.
    pub component: String,
}

impl Call<'_> {
    fn arg(&self, name: &str) -> Option<&Json> {
        self.args.get(name).filter(|v| !v.is_null())
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.arg(name).and_then(Json::as_str)
    }
}

/// `path:default` and `path.js` are `path`.
fn normal(path: &str) -> String {
    let path = path.strip_suffix(":default").unwrap_or(path);
    path.replacen(".js:", ":", 1)
}

/// Runs a query. The error is the text of a function that failed.
pub(crate) fn run(
    inner: &Inner,
    identity: Identity,
    path: &str,
    args: &Json,
    component: Option<&str>,
) -> Result<Value, String> {
    let path = normal(path);
    // Arguments may come as a list of one.
    let args = args.get(0).filter(|_| args.is_array()).unwrap_or(args);
    if !path.starts_with("_system/") {
        return Err(not_found(&path));
    }
    auth::require(identity, "RunInternalQueries").map_err(|refusal| refusal.message)?;
    if path == "_system/cli/exports:getLatest" || path == "_system/frontend/latestExport" {
        inner.poll(|state| {
            if let Some(export) = state.exports.last_mut() {
                export.looked_at();
            }
        });
    }
    inner.read(|state| {
        let component = component_of(state, args, component)?;
        let call = Call { path: &path, args, component };
        answer(state, &call).unwrap_or_else(|| Err(not_found(&path)))
    })
}

fn not_found(path: &str) -> String {
    format!(
        "Could not find public function for '{path}'. Did you forget to run `npx convex dev` or `npx convex deploy`?"
    )
}

/// `componentId` in the arguments wins over the component of the call.
fn component_of(state: &State, args: &Json, component: Option<&str>) -> Result<String, String> {
    match args.get("componentId").and_then(Json::as_str) {
        Some(id) => state.component_path(id).map(str::to_owned).ok_or_else(|| format!("Component {id} not found")),
        None => Ok(component.unwrap_or_default().to_owned()),
    }
}

/// `None`: no such query.
fn answer(state: &State, call: &Call) -> Option<Result<Value, String>> {
    let rows = || state.rows.get(&(call.path.to_owned(), call.component.clone())).cloned().unwrap_or_default();
    Some(match call.path {
        "_system/cli/exports:getLatest" | "_system/frontend/latestExport" => Ok(system::latest_export(state)),
        "_system/frontend/latestExport:canExportFileStorage" => Ok((state.options.storage_number == 540).into()),
        "_system/cli/queryImport" => system::import(state, call),
        "_system/cli/queryImport:list" => Ok(system::imports(state)),
        "_system/cli/queryEnvironmentVariables" => Ok(system::variables(state)),
        "_system/cli/queryEnvironmentVariables:get" => Ok(system::variable(state, call)),
        "_system/frontend/components:list" => Ok(system::components(state)),
        "_system/frontend/getSchemas" => Ok(system::schemas(state, call)),
        "_system/frontend/deploymentState:deploymentState" => Ok(system::deployment_state(state)),
        "_system/frontend/backendState:backendState" => Ok(system::backend_state(state)),
        "_system/frontend/getTableMapping" => Ok(system::table_mapping(state, call)),
        "_system/frontend/fileStorageV2:fileMetadata" => page::files(state, call),
        "_system/frontend/fileStorageV2:numFiles" => Ok(system::file_count(state, call)),
        "_system/cli/tables" => page::tables(state, call),
        "_system/cli/tableData" => page::table_data(state, call),
        "_system/frontend/paginatedScheduledJobs" => page::of_rows(rows(), call),
        "_system/frontend/paginatedDeploymentEvents" => page::events(state, call),
        "_system/frontend/getVersion" => Ok(rows().into_iter().next().unwrap_or(Value::Null)),
        "_system/frontend/listCronJobs"
        | "_system/frontend/listAuthProviders"
        | "_system/frontend/listConfiguredSinks"
        | "_system/frontend/modules:listForAllComponents"
        | "_system/cli/modules:apiSpec" => Ok(Value::Array(rows())),
        _ => return None,
    })
}
