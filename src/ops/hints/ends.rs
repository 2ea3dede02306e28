//! What to do about the two ends of a way: the source, and where a restore lands.

use super::convex::{convex_hint, export_hint};
use super::is_full;
use super::postgres::{client_hint, session_hint};
use crate::{destination, source};

pub(super) fn source_hint(error: &source::Error) -> Option<String> {
    match error {
        source::Error::Convex(e) => convex_hint(e),
        source::Error::Export(e) => export_hint(e),
        source::Error::NoArchive(_) => Some(
            "Set `archive_mode = on` and `archive_command = 'lifeboat wal push %p'`, restart the server, and run this again; \
             docs/postgres.md has the five minutes in full."
                .to_owned(),
        ),
        source::Error::BadPages { .. } => Some(
            "No snapshot was made. Without `--fail-on-page-errors` one is made and marked. The disk or the memory is failing: \
             look at the kernel's log, and restore the damaged relation from an older base backup."
                .to_owned(),
        ),
        source::Error::Capture { .. } => {
            Some("No snapshot was made; docs/volumes.md says what helps. What came before is untouched.".to_owned())
        }
        source::Error::Staging { .. } => {
            Some("Name another directory with `work_dir = \"DIR\"` in the source's section.".to_owned())
        }
        source::Error::Postgres(e) => session_hint(e),
        source::Error::Client(e) => client_hint(e, true),
        source::Error::Archive { .. } => {
            Some("No snapshot was made; what came before is untouched. Make the archive anew, or send all of it.".to_owned())
        }
        source::Error::Failed { .. } => {
            Some("Its own message is above. No snapshot was made; what came before is untouched.".to_owned())
        }
        _ => None,
    }
}

pub(super) fn destination_hint(error: &destination::Error) -> Option<String> {
    match error {
        destination::Error::InUse(_) => {
            Some("Wait until it has ended, or choose another directory. Nothing was changed.".to_owned())
        }
        destination::Error::NotEmpty(_) => Some(
            "Choose an empty directory, or say what happens to the files there: `--overwrite if-changed`, `--delta`, \
                 or `--delete`."
                .to_owned(),
        ),
        destination::Error::Interrupted { snapshot, .. } => {
            Some(format!("Go on with it: `--snapshot {snapshot}`. Or choose another directory."))
        }
        destination::Error::BegunOver { flag: Some(flag), .. } => {
            Some(format!("Say again what happens to them: `{flag}`. Or choose another directory."))
        }
        destination::Error::BegunOver { .. } => Some(
            "Say again what happens to them, as `--overwrite never` or `--overwrite if-changed`; if it began in an \
                 empty directory, `--delta` mends what is there."
                .to_owned(),
        ),
        destination::Error::NoSpace { .. } => {
            Some("Restore a part with `--include`, or choose another `--into`.".to_owned())
        }
        destination::Error::Io { source, .. } if is_full(source) => {
            Some("Make room, and run the same command again: what is right already is kept.".to_owned())
        }
        _ => None,
    }
}
