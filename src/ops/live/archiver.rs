//! A cluster's archiver and its slots: what they count, what they hold, whether the store has it.

use super::{Archived, Asked, LiveReport};
use crate::client::postgres::Session;
use crate::format::wal::ArchiveFile;
use crate::ops::Error;

/// A slot that may keep fewer bytes than these is about to be given up.
const SLOT_NEAR: i64 = 64 << 20;

/// The archiver's numbers, and whether what it counts is there.
pub(super) fn statistics(session: &Session, store: &Archived<'_>, report: &mut LiveReport) -> Result<(), Error> {
    let connect = |e| Error::from(crate::source::Error::from(e));
    let [done, count, failed, last_failed, failing] = session
        .row(
            "ask the archiver",
            "SELECT coalesce(last_archived_wal, ''), archived_count, failed_count, coalesce(last_failed_wal, ''),
                    coalesce(last_failed_time > last_archived_time, last_failed_time IS NOT NULL)
             FROM pg_stat_archiver",
        )
        .map_err(connect)?;
    if failing == "t" {
        let hint = "The server's log has lifeboat's message. PostgreSQL keeps its segments until they are archived: watch its disk.";
        report.problem("archiver", format!("it fails: {last_failed} was tried last, {failed} failures in all"), hint);
    } else {
        report.fine("archiver", format!("{count} archived, {failed} failures, none since the last success"));
    }
    let is_file = ArchiveFile::parse(&done).is_ok();
    if is_file && !store.has(&done)? {
        let hint = "Something else archives, or archived here before. Take a new base backup when `wal push` is all that does.";
        report.problem("archiver", format!("{done} counts as archived, and it is not in the repository"), hint);
    } else if is_file {
        report.fine("archiver", format!("{done}, the last that it archived, is in the repository"));
    }
    // How much waits; for roles of pg_monitor alone.
    let may = "SELECT has_function_privilege('pg_ls_archive_statusdir()', 'EXECUTE')";
    let [may] = session.row("look at the role's rights", may).map_err(connect)?;
    if may != "t" {
        return Ok(());
    }
    let waiting = session.row::<1>(
        "count what waits",
        "SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name ~ '^[0-9A-F]{24}\\.ready$'",
    );
    if let Ok([waiting]) = waiting
        && let Ok(waiting) = waiting.parse::<u64>()
    {
        match waiting {
            0..=2 => report.fine("lag", format!("{waiting} ended segments wait to be archived")),
            _ => report.warn(
                "lag",
                format!("{waiting} ended segments wait to be archived"),
                "Is the store slow, or was it away?",
            ),
        }
    }
    Ok(())
}

/// Who reads its slots, and what they hold.
pub(super) fn slots(session: &Session, report: &mut LiveReport) -> Asked<()> {
    let rows = session.rows(
        "look at its slots",
        "SELECT slot_name, active, coalesce(wal_status, ''), coalesce(pg_wal_lsn_diff(
             CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, restart_lsn), 0)::bigint,
             current_setting('max_slot_wal_keep_size'), safe_wal_size
         FROM pg_replication_slots ORDER BY slot_name",
    )?;
    let mut unbounded = false;
    for row in &rows {
        let text = |at: usize| row.get(at).cloned().flatten().unwrap_or_default();
        let (name, state, held) = (text(0), text(2), text(3).parse::<u64>().unwrap_or(0));
        let held_text = format!("{} MiB of log", held >> 20);
        unbounded |= text(4) == "-1";
        let safe = text(5).parse::<i64>().ok().filter(|safe| *safe < SLOT_NEAR);
        if state == "lost" {
            let hint = format!("It will never go on: `SELECT pg_drop_replication_slot('{name}')`, then make it anew.");
            report.problem("slot", format!("{name} has lost its log"), hint);
        } else if text(1) == "f" {
            let hint =
                format!("Start what reads it; or, if nothing will: `SELECT pg_drop_replication_slot('{name}')`.");
            report.warn("slot", format!("{name} is read by nobody and holds {held_text}"), hint);
        } else if state == "unreserved" || safe.is_some() {
            let hint = "Is the store slow, or was it away? A larger max_slot_wal_keep_size gives it time.";
            report.warn("slot", format!("{name} is about to lose its log: it holds {held_text}"), hint);
        } else {
            report.fine("slot", format!("{name} is read, and holds {held_text}"));
        }
        report.of_slot(&name);
    }
    if unbounded {
        let hint = "In postgresql.conf: `max_slot_wal_keep_size = 64GB`, or what its disk can spare.";
        report.warn("slots", "max_slot_wal_keep_size is -1: a slot that nobody reads fills the server's disk", hint);
    }
    Ok(())
}
