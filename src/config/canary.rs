//! `canary = true`: whether the canary gets into what is stored, and which database has it.

use super::{DatabasesKey, SourceKind, SourceSection};
use crate::client::Connection;

impl SourceSection {
    /// Of a server: the database where the canary is.
    pub fn canary_database(&self) -> String {
        let of_drill = self.drill.as_ref().and_then(|drill| drill.database.clone());
        let connection = || Connection::parse(self.connection.as_deref()?).ok();
        let of_connection = || connection().and_then(|connection| connection.database().map(str::to_owned));
        let first = || match &self.databases {
            Some(DatabasesKey::Names(names)) => names.first().cloned(),
            _ => self.instance_name.as_ref().map(|name| name.replace('-', "_")),
        };
        of_drill.or_else(of_connection).or_else(first).unwrap_or_else(|| "postgres".to_owned())
    }

    /// The one database that is dumped, where it is named and there is no other.
    pub fn only_database(&self) -> Option<String> {
        match &self.databases {
            Some(DatabasesKey::Names(names)) if names.len() == 1 => names.first().cloned(),
            Some(_) => None,
            None => self.instance_name.as_ref().map(|name| name.replace('-', "_")),
        }
    }

    /// Where the canary is written, without secrets: two configurations of a host may call different things by the same name.
    pub fn canary_place(&self) -> String {
        let connection = self.connection.as_deref().and_then(|text| Connection::parse(text).ok());
        let server = connection.map(|connection| connection.with_database(&self.canary_database()).place());
        let path = self.path.as_ref().map(|path| path.display().to_string());
        [path, self.url.clone(), server].into_iter().flatten().collect::<Vec<_>>().join(" ")
    }

    /// What keeps the canary out of the snapshots.
    pub(super) fn check_canary(&self) -> Result<(), String> {
        if !self.canary {
            return Ok(());
        }
        let missing = |list: &[String], name: &str| !list.is_empty() && !list.iter().any(|one| one == name);
        match self.kind {
            SourceKind::Convex if missing(&self.tables, "lifeboat_canary") => {
                Err("`canary` needs its table among `tables`: add \"lifeboat_canary\"".to_owned())
            }
            SourceKind::PgDump if missing(&self.schemas, "lifeboat") => {
                Err("`canary` needs its schema among `schemas`: add \"lifeboat\"".to_owned())
            }
            _ => Ok(()),
        }
    }
}
