//! The data directory of a self-hosted Convex backend, recognised by what lies in it. Not here: what its files mean.

use std::path::Path;

use super::is_database;
use crate::model::ConvexFact;

/// The databases and blob directories that the backend makes: in its container, and where it is started by hand.
const LAYOUTS: [(&str, &str); 2] =
    [("db.sqlite3", "storage"), ("convex_local_backend.sqlite3", "convex_local_storage")];
/// What need not be kept: old exports, what was uploaded for imports, temporary files.
const LEFT_OUT: [&str; 2] = ["exports", "snapshot_imports"];

/// Where a backend keeps what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    database: Option<&'static str>,
    storage: &'static str,
    has_tmp: bool,
}

impl Layout {
    /// Looks whether a directory is one: blobs of code (without which no backend runs), and beside them the database, or the
    /// credentials of a backend whose documents are elsewhere.
    pub fn of(root: &Path) -> Option<Self> {
        LAYOUTS.into_iter().find_map(|(database, storage)| {
            if !root.join(storage).join("modules").is_dir() {
                return None;
            }
            let database = is_database(&root.join(database)).unwrap_or(false).then_some(database);
            let credentials = root.join("credentials/instance_name").is_file();
            let has_tmp = credentials && root.join("tmp").is_dir();
            (database.is_some() || credentials).then_some(Self { database, storage, has_tmp })
        })
    }

    /// Patterns of what is left out; the directories themselves stay, so that a backend starts on what is restored.
    pub fn left_out(&self) -> Vec<String> {
        let mut patterns: Vec<String> = LEFT_OUT.map(|name| format!("/{}/{name}/*", self.storage)).to_vec();
        if self.has_tmp {
            patterns.push("/tmp/*".to_owned());
        }
        patterns
    }

    /// What a snapshot says of it.
    pub fn fact(&self) -> ConvexFact {
        let database = self.database.map(str::to_owned);
        ConvexFact { database, storage: self.storage.to_owned(), left_out: self.left_out() }
    }

    /// The directory with the blobs, in which there are no databases.
    pub fn storage(&self) -> &str {
        self.storage
    }
}
