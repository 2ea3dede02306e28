//! Functions that were scheduled when a snapshot was taken, as a module that schedules them again: no API takes them back.

use std::fmt::Write;

use data_encoding::BASE64;
use serde_json::{Value, json};

use super::{facts_of, small_file};
use crate::catalog::SnapshotRow;
use crate::model::convex::PARTS_DIR;
use crate::ops::Error;
use crate::progress::Progress;
use crate::repository::Repository;

/// Functions that one mutation schedules: the server allows 1,000.
const BATCH: usize = 500;

/// A module that schedules functions again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scheduled {
    /// Its text: JavaScript, for the directory `convex/` of the app.
    pub text: String,
    /// Functions in it.
    pub functions: usize,
    /// Those whose arguments the server did not tell, and those of components: they are left out, as comments.
    pub left_out: usize,
}

/// Makes it; none where nothing was scheduled, or that is not known.
pub fn scheduled(
    repository: &Repository,
    snapshot: &SnapshotRow,
    progress: &dyn Progress,
) -> Result<Option<Scheduled>, Error> {
    facts_of(snapshot)?;
    let text = small_file(repository, snapshot, &format!("{PARTS_DIR}/scheduled_functions.json"), progress)?;
    let all: Option<Value> = text.and_then(|text| serde_json::from_slice(&text).ok());
    let id = snapshot.record.id.to_string();
    Ok(all.and_then(|all| module(&all, &id, &snapshot.record.source)))
}

/// A whole number as the server's own encoding has it.
fn integer(value: &Value) -> Option<i64> {
    match value.get("$integer").and_then(Value::as_str) {
        Some(text) => Some(i64::from_le_bytes(BASE64.decode(text.as_bytes()).ok()?.try_into().ok()?)),
        None => value.as_i64(),
    }
}

fn job(row: &Value) -> Option<Value> {
    let path = row.get("udfPath").and_then(Value::as_str)?;
    let at = integer(row.get("nextTs")?)? / 1_000_000;
    let bytes = row.get("udfArgs")?.get("$bytes").and_then(Value::as_str)?;
    let args: Value = serde_json::from_slice(&BASE64.decode(bytes.as_bytes()).ok()?).ok()?;
    let args = args.get(0).cloned().unwrap_or_else(|| json!({}));
    let path = path.replacen(".js:", ":", 1);
    Some(json!({"at": at, "path": path, "args": args}))
}

fn is_pending(row: &Value) -> bool {
    let state = row.get("state").and_then(|state| state.get("type").unwrap_or(state).as_str());
    state.is_none_or(|state| matches!(state, "pending" | "inProgress"))
}

fn module(all: &Value, id: &str, source: &str) -> Option<Scheduled> {
    let (mut jobs, mut left_out) = (Vec::new(), Vec::new());
    for (component, part) in all.as_object()? {
        for row in part.get("rows").and_then(Value::as_array)?.iter().filter(|row| is_pending(row)) {
            match job(row).filter(|_| component.is_empty()) {
                Some(job) => jobs.push(job),
                None => {
                    let path = row.get("udfPath").cloned().unwrap_or_default();
                    left_out.push(format!("{path} of component {}", Value::from(component.as_str())));
                }
            }
        }
    }
    if jobs.is_empty() && left_out.is_empty() {
        return None;
    }
    let batches: Vec<&[Value]> = jobs.chunks(BATCH).collect();
    let mut text = format!(
        "// Made by lifeboat from snapshot {id} of {}: functions that were scheduled.\n// Save it as convex/lifeboatScheduled.js, \
         deploy, run each of these once, and take it away again:\n",
        Value::from(source)
    );
    for n in 1..=batches.len() {
        let _ = writeln!(text, "//   npx convex run lifeboatScheduled:restore{n}");
    }
    for one in &left_out {
        let _ = writeln!(
            text,
            "// Not in it, because its arguments are not known here, or only its component can schedule it: {one}"
        );
    }
    text.push_str(
        "import { makeFunctionReference } from \"convex/server\";\nimport { jsonToConvex } from \"convex/values\";\n\
         import { internalMutation } from \"./_generated/server\";\n\n\
         async function schedule(ctx, jobs) {\n  for (const job of jobs) {\n    \
         const at = Math.max(job.at, Date.now());\n    \
         await ctx.scheduler.runAt(at, makeFunctionReference(job.path), jsonToConvex(job.args));\n  }\n  return jobs.length;\n}\n",
    );
    for (n, batch) in batches.iter().enumerate() {
        let rows: String = batch.iter().map(|job| format!("  {job},\n")).collect();
        let n = n + 1;
        let _ = write!(
            text,
            "\nconst jobs{n} = [\n{rows}];\nexport const restore{n} = internalMutation({{\n  args: {{}},\n  \
             handler: async (ctx) => schedule(ctx, jobs{n}),\n}});\n"
        );
    }
    Some(Scheduled { text, functions: jobs.len(), left_out: left_out.len() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(path: &str, ns: i64, args: &str, state: &str) -> Value {
        json!({
            "udfPath": path, "nextTs": {"$integer": BASE64.encode(&ns.to_le_bytes())}, "state": {"type": state},
            "udfArgs": {"$bytes": BASE64.encode(args.as_bytes())}, "argsId": null,
        })
    }

    #[test]
    fn pending_functions_are_scheduled_in_batches_and_the_rest_is_named() {
        let rows: Vec<Value> =
            (0..600).map(|n| row("mail.js:send", n * 1_000_000, &format!("[{{\"n\":{n}.0}}]"), "pending")).collect();
        let over = row("mail.js:send", 1, "[{}]", "success");
        let unknown =
            json!({"udfPath": "late:run", "nextTs": 7, "udfArgs": null, "argsId": "x", "state": {"type": "pending"}});
        let other = row("inner:run", 1, "[{}]", "pending");
        let rows = [rows, vec![over, unknown]].concat();
        let all = json!({"": {"complete": true, "rows": rows}, "c": {"complete": true, "rows": [other]}});
        let made = module(&all, "01X", "app").unwrap();
        assert_eq!((made.functions, made.left_out), (600, 2));
        assert!(made.text.contains("run lifeboatScheduled:restore2") && !made.text.contains("restore3"));
        assert!(made.text.contains(r#"{"args":{"n":599.0},"at":599,"path":"mail:send"}"#), "{}", &made.text[..500]);
        assert!(
            made.text.contains("\"late:run\" of component \"\"")
                && made.text.contains("\"inner:run\" of component \"c\"")
        );
        assert_eq!(module(&json!({"": {"rows": []}}), "01X", "app"), None);
        assert_eq!(module(&json!([]), "01X", "app"), None);
    }
}
