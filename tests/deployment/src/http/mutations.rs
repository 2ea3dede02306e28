//! The system mutations by which the dashboard edits documents.

use serde_json::{Value as Json, json};

use super::Request;
use super::routes::{allow, body_of};
use crate::Inner;
use crate::reply::{Refusal, Reply};

/// `POST /api/mutation`.
pub(super) fn run(inner: &Inner, request: &Request) -> Result<Reply, Refusal> {
    let body = body_of(request)?;
    let path = body.get("path").and_then(Json::as_str).unwrap_or_default();
    let path = path.strip_suffix(":default").unwrap_or(path);
    let args = body.get("args").cloned().unwrap_or_default();
    let done = match path {
        "_system/frontend/addDocument" => allow(inner, request, "WriteData").and_then(|_| add(inner, &args)),
        "_system/frontend/patchDocumentsFields" => allow(inner, request, "WriteData").and_then(|_| patch(inner, &args)),
        _ => {
            let text = format!("Could not find public function for '{path}'");
            return Ok(Reply::json(json!({ "status": "error", "errorMessage": text }).to_string()));
        }
    };
    done?;
    Ok(Reply::json(json!({ "status": "success", "value": { "success": true } }).to_string()))
}

fn value(json: &Json) -> Result<crate::value::Value, Refusal> {
    crate::parse(&json.to_string()).map_err(|e| Refusal::bad("BadConvexFunctionArgs", e.to_string()))
}

fn text<'j>(args: &'j Json, name: &str) -> Result<&'j str, Refusal> {
    let found = args.get(name).and_then(Json::as_str);
    found.ok_or_else(|| Refusal::bad("BadConvexFunctionArgs", format!("ArgumentValidationError: `{name}` is missing")))
}

fn add(inner: &Inner, args: &Json) -> Result<(), Refusal> {
    let table = text(args, "table")?;
    let documents = args.get("documents").and_then(Json::as_array).into_iter().flatten();
    let documents: Vec<_> = documents.map(value).collect::<Result<_, _>>()?;
    inner.transaction(|writes| {
        for document in documents {
            writes.insert(table, document);
        }
    });
    Ok(())
}

/// Without `ids` every document of the table would change: nobody here asks for that.
fn patch(inner: &Inner, args: &Json) -> Result<(), Refusal> {
    text(args, "table")?;
    let fields = value(args.get("fields").unwrap_or(&Json::Null))?;
    let ids: Vec<&str> =
        args.get("ids").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str).collect();
    let found = inner.transaction(|writes| ids.iter().all(|id| writes.patch(id, fields.clone())));
    if found { Ok(()) } else { Err(Refusal::bad("InvalidArguments", "Update on nonexistent document")) }
}
