//! The replication slot: made, and watched, because a slot that nobody reads fills the server's disk, and one that the server
//! gave up leaves a gap.

use super::{FollowOptions, Heard};
use crate::client::postgres::Session;
use crate::model::lsn::SegmentSize;
use crate::ops::Error;
use crate::ops::wal::{Cluster, WalError};
use crate::source;

/// What the server says of a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotState {
    /// `reserved`, `extended`, `unreserved`, `lost`.
    pub wal_status: String,
    /// Bytes of log that the slot keeps on the server.
    pub kept: u64,
    /// Bytes that may still be written before the slot is given up; `None` where nothing bounds it.
    pub safe: Option<i64>,
}

/// The name of a source's slot: what PostgreSQL allows in one is lower-case letters, digits and underscores.
pub fn slot_name(source: &str) -> String {
    let clean = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    let mut name = format!("lifeboat_{}", source.chars().map(clean).collect::<String>());
    name.truncate(63);
    name
}

/// What is followed.
pub(super) struct Prepared {
    pub cluster: Cluster,
    /// Bytes of its segments.
    pub segment: SegmentSize,
    /// Whether the slot had to be made.
    pub made: bool,
}

/// Asks which cluster it is, and makes the slot where there is none.
pub(super) fn prepare(session: &Session, slot: &str) -> Result<Prepared, Error> {
    let from = |e: crate::client::postgres::Error| Error::from(source::Error::from(e));
    let doing = "ask what it is";
    let [id, version, segment] = session
        .row(
            doing,
            "SELECT system_identifier, current_setting('server_version_num'), w.setting
             FROM pg_control_system(), pg_settings w WHERE w.name = 'wal_segment_size'",
        )
        .map_err(from)?;
    let unfit = |text: &str| from(session.unfit(doing, text));
    let system_id = id.parse().map_err(|_| unfit(&id))?;
    let major = version.parse::<u32>().map_err(|_| unfit(&version))? / 10_000;
    let cluster = Cluster { system_id, major };
    let segment = segment.parse().ok().and_then(SegmentSize::new).ok_or_else(|| unfit(&segment))?;
    let quoted = slot.replace('\'', "''");
    let found = session
        .rows("look at its slots", &format!("SELECT slot_type FROM pg_replication_slots WHERE slot_name = '{quoted}'"))
        .map_err(from)?;
    match found.first().map(Vec::as_slice) {
        Some([Some(kind)]) if kind == "physical" => Ok(Prepared { cluster, segment, made: false }),
        Some(_) => Err(WalError::SlotKind { slot: slot.to_owned() }.into()),
        None => {
            // From now on the server keeps its log, also before we have connected.
            let sql = format!("SELECT lsn FROM pg_create_physical_replication_slot('{quoted}', true)");
            session.rows("make a replication slot", &sql).map_err(WalError::NoReplication)?;
            Ok(Prepared { cluster, segment, made: true })
        }
    }
}

/// Looks at the slot from time to time, over a session of its own that is opened again when it breaks.
pub(super) struct Monitor {
    session: Option<Session>,
    connection: String,
    slot: String,
    said: Option<String>,
}

impl Monitor {
    pub fn new(session: Session, options: &FollowOptions) -> Self {
        let connection = options.connection.clone();
        Self { session: Some(session), connection, slot: options.slot.clone(), said: None }
    }

    /// Tells what is wrong with the slot, once. Returns what `status` shall know: that nothing is wrong, or what; none where the server
    /// was not heard.
    pub fn look(&mut self, hear: &mut dyn FnMut(Heard)) -> Option<Option<String>> {
        if self.session.is_none() {
            self.session = Session::connect(&self.connection).ok();
        }
        let session = self.session.as_ref()?;
        let sql = format!(
            "SELECT coalesce(wal_status, ''), coalesce(pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
                ELSE pg_current_wal_lsn() END, restart_lsn), 0)::bigint, safe_wal_size, current_setting('max_slot_wal_keep_size')
             FROM pg_replication_slots WHERE slot_name = '{}'",
            self.slot.replace('\'', "''")
        );
        let Ok(rows) = session.rows("look at the slot", &sql) else {
            self.session = None;
            return None;
        };
        let mut grows = true;
        let problem = match rows.first().map(Vec::as_slice) {
            Some([Some(status), Some(kept), safe, bound]) => {
                let kept = kept.parse().unwrap_or(0);
                let safe = safe.as_deref().and_then(|safe| safe.parse().ok());
                let bound = bound.as_deref().unwrap_or_default();
                // That nothing bounds it is advice, not a state that gets worse by itself.
                grows = bound != "-1" || matches!(status.as_str(), "lost" | "unreserved");
                problem(&self.slot, &SlotState { wal_status: status.clone(), kept, safe }, bound)
            }
            _ => Some(format!("the slot `{}` is gone: the server may drop log that was not received yet", self.slot)),
        };
        if problem != self.said
            && let Some(problem) = &problem
        {
            hear(Heard::Slot(problem.clone()));
        }
        self.said = problem;
        Some(self.said.clone().filter(|_| grows))
    }
}

/// What a person should know of a slot. Pure.
fn problem(slot: &str, state: &SlotState, bound: &str) -> Option<String> {
    match state.wal_status.as_str() {
        "lost" => Some(format!(
            "the server has given up the slot `{slot}`: log is missing. Drop it (`SELECT pg_drop_replication_slot('{slot}')`), start \
             again, and take a base backup"
        )),
        "unreserved" => Some(format!(
            "the slot `{slot}` has fallen too far behind: the server may drop its log at its next checkpoint"
        )),
        _ if bound == "-1" => Some(format!(
            "`max_slot_wal_keep_size` is not set: while nobody follows, the slot `{slot}` keeps log on the server until its disk is \
             full. `ALTER SYSTEM SET max_slot_wal_keep_size = '20GB'` bounds it"
        )),
        _ if state.safe.is_some_and(|safe| (0..64 << 20).contains(&safe)) => Some(format!(
            "the slot `{slot}` is about to be given up: {} bytes of log are left to it",
            state.safe.unwrap_or(0)
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_named_as_postgresql_allows() {
        assert_eq!(slot_name("app-db.Main"), "lifeboat_app_db_main");
        assert_eq!(slot_name(&"x".repeat(80)).len(), 63);
    }

    #[test]
    fn a_slot_in_danger_is_told() {
        let state = |status: &str, safe| SlotState { wal_status: status.to_owned(), kept: 0, safe };
        assert_eq!(problem("s", &state("reserved", Some(1 << 40)), "20GB"), None);
        for (state, bound, word) in [
            (state("lost", None), "20GB", "given up"),
            (state("unreserved", Some(-5)), "20GB", "too far behind"),
            (state("reserved", None), "-1", "max_slot_wal_keep_size"),
            (state("extended", Some(1000)), "20GB", "about to be given up"),
        ] {
            let said = problem("s", &state, bound).unwrap();
            assert!(said.contains(word), "{said}");
        }
    }
}
