//! What to do where nothing was forgotten, pinned, pruned or copied.

use crate::ops::copy::CopyError;
use crate::ops::forget::ForgetError;
use crate::ops::prune::PruneError;

pub(super) fn prune_hint(error: &PruneError) -> String {
    match error {
        PruneError::Busy => "It does the same work: let it end. Nothing was changed.".to_owned(),
        PruneError::Running(_) => {
            "Run it again when the backup has ended, or leave `--grace` out: with a day there is time enough. Nothing was changed.".to_owned()
        }
    }
}

pub(super) fn copy_hint(error: &CopyError) -> String {
    match error {
        CopyError::Busy(_) => "Let it end; what came since goes with the next one.".to_owned(),
        CopyError::NoWriter(_) => "`lifeboat key list` names them. Nothing was copied.".to_owned(),
        CopyError::NoSource { .. } => "`lifeboat snapshots` lists what there is. Nothing was copied.".to_owned(),
    }
}

pub(super) fn forget_hint(error: &ForgetError) -> String {
    match error {
        ForgetError::NotOwn { .. } => {
            "A host speaks only of its own snapshots: run this there. Nothing was changed.".to_owned()
        }
        ForgetError::NoSource(_) => "`lifeboat snapshots` lists what there is.".to_owned(),
        ForgetError::KeepsNothing { .. } => {
            "Say what to keep, as `--keep-daily 14 --keep-weekly 8`; without any rule everything is kept. Nothing was changed.".to_owned()
        }
        ForgetError::NoStream(_) => {
            "Sources of kind `postgres` and `convex` have one. Name those alone, or write `window` into the configuration, where it is theirs only."
                .to_owned()
        }
        ForgetError::Zone(_) => "Write it as `Europe/Berlin` or `UTC`.".to_owned(),
        ForgetError::Hole(_) => {
            "A pin may lie in what is missing, so nothing is forgotten. `lifeboat check` says more, `lifeboat repair` closes the hole."
                .to_owned()
        }
        ForgetError::Held { by, .. } => format!(
            "`lifeboat diff {by} latest` and `lifeboat ls` show what is in it. If it is as it should be: `lifeboat accept {by}`. If not, restore what came \
             before it; nothing of that is gone."
        ),
        ForgetError::Pinned(id) => format!("`lifeboat unpin {id}` first, if it may go. Nothing was changed."),
        ForgetError::Newest { source_name, .. } => {
            format!("It stays until there is a newer one: `lifeboat backup {source_name}`. Nothing was changed.")
        }
        ForgetError::Already(_) => "What is forgotten does not come back. `lifeboat snapshots --forgotten` lists it.".to_owned(),
    }
}
