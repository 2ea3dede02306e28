//! What to do about a Convex deployment that does not do what was asked of it.

use crate::client::convex::Error;
use crate::ops::documents::StreamError;
use crate::source::convex::ExportError;

/// Where a key is had.
const KEY: &str = "`docker compose exec backend ./generate_admin_key.sh` prints one; put it into a file that only you can read and name \
                   that: `admin_key_file = \"...\"`";

pub(super) fn convex_hint(error: &Error) -> Option<String> {
    Some(match error {
        Error::BadUrl { .. } => {
            "Write it as `url = \"http://127.0.0.1:3210\"`: the API's port, not the dashboard's (6791).".to_owned()
        }
        Error::NoUrl => {
            "Say `url = \"http://127.0.0.1:3210\"` in the configuration, or set CONVEX_SELF_HOSTED_URL.".to_owned()
        }
        Error::NoKey(_) => format!("{KEY}. Or set CONVEX_SELF_HOSTED_ADMIN_KEY."),
        Error::BadKey { .. } | Error::WrongKey { .. } => {
            format!("{KEY}. A new INSTANCE_SECRET makes all keys before it worthless.")
        }
        Error::OtherInstance { .. } => {
            "Name the deployment that the key is of, or make a key for this one. Nothing was asked with it.".to_owned()
        }
        Error::NotPermitted { .. } => {
            "It needs a full admin key; a read-only key asks for no exports and imports nothing.".to_owned()
        }
        Error::Unreachable { .. } => {
            "Is the backend up? `curl URL/instance_name` answers with the instance's name. Nothing was changed."
                .to_owned()
        }
        Error::Refused { code, .. } if code == "Redirect" => {
            "Give the URL that it points to; a key is not sent along redirects.".to_owned()
        }
        Error::Refused { code, .. } if code == "BackendIsNotRunning" => {
            "It is paused. `curl -X POST -H \"Authorization: Convex $KEY\" URL/api/v1/unpause_deployment` ends that."
                .to_owned()
        }
        Error::Answer { .. } => {
            "Is that the API of a Convex backend (port 3210), and nothing between that answers in its place?".to_owned()
        }
        _ => return None,
    })
}

pub(super) fn stream_hint(error: &StreamError) -> Option<String> {
    Some(match error {
        StreamError::Followed => "One `lifeboat follow` for each source is enough: end the other one first.".to_owned(),
        StreamError::NotReached { .. } => "`lifeboat timeline SOURCE` shows which times can be had.".to_owned(),
        StreamError::NoId(_) => {
            "An id has 31 to 37 small letters and digits, as `_id` of a document shows it.".to_owned()
        }
        StreamError::Io { .. } => "Name another place: `--work-dir DIR`. Nothing that was stored is lost.".to_owned(),
        StreamError::Content(_) => {
            "`lifeboat timeline SOURCE` shows what is whole; `lifeboat check` what is damaged.".to_owned()
        }
        StreamError::Conflict { .. } | StreamError::Vanished { .. } => {
            "Run `lifeboat follow SOURCE` again: it begins with a new snapshot where it has to.".to_owned()
        }
    })
}

pub(super) fn export_hint(error: &ExportError) -> Option<String> {
    Some(match error {
        ExportError::Stuck { foreign: true, url, id, .. } => format!(
            "Somebody else asked for it, so it was left alone; no other can run beside it. To end it: \
             `curl -X POST -H \"Authorization: Convex $KEY\" {url}/api/export/cancel/{id}`."
        ),
        ExportError::Stuck { .. } => {
            "It was cancelled. The backend tries for ever and says why in its own log: `docker compose logs backend`. A missing file, a \
             full disk and a store that refuses parts are the usual reasons."
                .to_owned()
        }
        ExportError::NoSpace { .. } => "Name a place with more room: `work_dir = \"DIR\"`.".to_owned(),
        ExportError::Io { .. } => "Name another place: `work_dir = \"DIR\"`. No snapshot was made.".to_owned(),
        ExportError::Ended { .. } => "Run it again; if somebody else ends exports here, find out who.".to_owned(),
        ExportError::Broken { .. } => {
            "A download cannot be resumed. Look at proxies between here and there: `curl URL/version` by the shortest way.".to_owned()
        }
        ExportError::Unfit { .. } => return None,
    })
}

/// The server's words are matched as far as they name what a person can do.
pub(super) fn import_hint(why: &str) -> String {
    let says = |word: &str| why.contains(word);
    if says("TableExists") || says("already exists") || says("not empty") {
        "Documents are there already. `--replace` replaces the tables of the snapshot, `--replace-all` drops all others too; or restore into a \
         fresh deployment. No document was changed."
    } else if says("TableConflict") || says("number") {
        "A table that is there has the number of one of the snapshot: only `--replace-all`, or a fresh deployment, takes it. No document was \
         changed."
    } else if says("schema") || says("Schema") {
        "The schema that is deployed there does not fit the documents. Deploy the code of that time first, or restore into a deployment without \
         code and deploy afterwards. No document was changed."
    } else {
        "An import is one step: no document was changed. `lifeboat restore ... --into FILE.zip` and `npx convex import` show the same in another \
         way."
    }
    .to_owned()
}
