//! Single documents: a page of a table, one added, fields of one changed, as the dashboard does it.
//!
//! These are ordinary writes: what follows the deployment's changes sees them, and no table is replaced. Not here: imports.
//! Source: the system functions `_system/cli/tableData`, `_system/frontend/addDocument` and `_system/frontend/patchDocumentsFields` of the
//! backend.

use serde_json::{Value, json};

use super::{Deployment, Error, Said};

impl Deployment {
    /// The oldest documents of a table of the root component, `limit` at most; none where there is no such table.
    pub fn first_documents(&self, table: &str, limit: usize) -> Result<Vec<Value>, Error> {
        let options = json!({"numItems": limit, "cursor": null});
        let args = json!({"table": table, "order": "asc", "paginationOpts": options});
        let mut page = self.query("_system/cli/tableData", args)?;
        match page.get_mut("page").map(Value::take) {
            Some(Value::Array(rows)) => Ok(rows),
            _ => Err(self.odd("read a page of a table", "it has no page")),
        }
    }

    /// Adds a document to a table of the root component; the table is made where there is none. It is sent once: of an answer that was lost
    /// nobody knows whether the document is there.
    pub fn add_document(&self, table: &str, document: &Value) -> Result<(), Error> {
        self.mutate("_system/frontend/addDocument", json!({"table": table, "documents": [document]}), false)
    }

    /// Changes fields of a document of the root component.
    pub fn patch_document(&self, table: &str, id: &str, fields: &Value) -> Result<(), Error> {
        let args = json!({"table": table, "ids": [id], "fields": fields});
        self.mutate("_system/frontend/patchDocumentsFields", args, true)
    }

    /// Runs a system mutation. Only one that may be done twice is sent again.
    fn mutate(&self, path: &str, args: Value, again: bool) -> Result<(), Error> {
        let doing = format!("run `{path}`");
        let body = json!({"path": path, "args": args, "format": "convex_encoded_json"});
        let send = || self.post_once(&doing, "api/mutation", &body);
        let answer = if again { self.tries(send)? } else { send()? };
        let failed = |why: &str| Error::Refused {
            doing: doing.clone(),
            url: self.place(),
            status: 200,
            code: "MutationFailed".to_owned(),
            source: Said(why.to_owned()),
        };
        if answer.get("status").and_then(Value::as_str) != Some("success") {
            return Err(failed(answer.get("errorMessage").and_then(Value::as_str).unwrap_or("it failed")));
        }
        // A refusal of the function itself is a value.
        match answer.get("value") {
            Some(value) if value.get("success") == Some(&Value::Bool(false)) => {
                Err(failed(value.get("error").and_then(Value::as_str).unwrap_or("it refused")))
            }
            _ => Ok(()),
        }
    }
}
