//! An oracle: rows that many sessions commit at once, and the order and the times of those commits, by the server's own log. For any T the
//! rows that a restore to T must show are known.
//!
//! A restore to T shows all commits before the first one that is later than T, in the order of the log: with several sessions, times are
//! not quite in that order. The order is read by `pg_waldump`, of which lifeboat knows nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};

use super::chance::Chance;
use super::postgres::{Cluster, as_server_user};
use super::scene::text;

/// What a cluster needs for it: the whole log stays in `pg_wal`, beside what is archived.
pub const SETTINGS: [(&str, &str); 2] = [("wal_keep_size", "2GB"), ("max_wal_size", "64MB")];

/// The table: each row knows the transaction that made it.
pub const TABLE: &str =
    "CREATE TABLE rows (id text PRIMARY KEY, pad text, x xid8 NOT NULL DEFAULT pg_current_xact_id())";

/// Sessions that write at once.
const SESSIONS: u32 = 3;

/// A commit: when, by the server's clock, in microseconds; and the row that it made, if any.
pub type Commit = (i64, Option<String>);

/// One session's transactions: rows made, some changed later, some given up.
fn script(session: u32, round: u32) -> String {
    format!(
        "DO $$ BEGIN FOR n IN 1..30 LOOP
           INSERT INTO rows VALUES (format('{session}-{round}-%s', n), repeat(md5(n::text), 20)); COMMIT;
           IF n % 10 = 3 THEN INSERT INTO rows VALUES ('never-{session}', ''); ROLLBACK; END IF;
           IF n % 10 = 6 THEN UPDATE rows SET pad = md5(pad) WHERE id = format('{session}-{round}-%s', n - 3); COMMIT; END IF;
           PERFORM pg_sleep(0.002);
         END LOOP; END $$"
    )
}

/// Writes from several sessions at once while `meanwhile` runs, and a round at least. `part` makes the rows' names differ.
pub fn load_during<T>(cluster: &Cluster, part: u32, meanwhile: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for session in 0..SESSIONS {
            let over = &over;
            scope.spawn(move || {
                for round in 0..1000 {
                    cluster.psql(&script(session, part * 1000 + round));
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                }
            });
        }
        let result = meanwhile();
        over.store(true, Ordering::Relaxed);
        result
    })
}

/// All commits of a timeline in the order of the log, from a place in it on.
pub fn commits(cluster: &Cluster, timeline: u32, start: &str) -> Vec<Commit> {
    let made = cluster.psql("SELECT x || ' ' || id FROM rows");
    let made: BTreeMap<&str, &str> = made.lines().filter_map(|line| line.split_once(' ')).collect();
    let mut command = as_server_user(cluster.bin_dir().join("pg_waldump"));
    command.arg("-p").arg(cluster.data_dir().join("pg_wal")).args(["-r", "Transaction", "-t", &timeline.to_string()]);
    // It ends where the log ends, with a complaint about that.
    let output = command.args(["-s", start]).current_dir("/").output().unwrap();
    let mut all = Vec::new();
    for line in text(&output.stdout).lines() {
        let Some((head, tail)) = line.split_once("desc: COMMIT ") else { continue };
        let xid = head.split_once("tx:").unwrap().1.split(',').next().unwrap().trim();
        let time = tail.split(" UTC").next().unwrap();
        let time = chrono::NaiveDateTime::parse_from_str(time, "%Y-%m-%d %H:%M:%S%.f").unwrap();
        all.push((time.and_utc().timestamp_micros(), made.get(xid).map(|id| (*id).to_owned())));
    }
    all
}

/// The rows that a restore to T shows.
pub fn rows_at(all: &[Commit], moment: i64) -> BTreeSet<String> {
    all.iter().take_while(|(time, _)| *time <= moment).filter_map(|(_, id)| id.clone()).collect()
}

/// Moments to ask for: commits by chance, and the edges. None lies before `from`.
pub fn moments(all: &[Commit], from: i64, chance: &mut Chance, count: u64) -> Vec<i64> {
    let within: Vec<i64> = all.iter().map(|(time, _)| *time).filter(|time| *time >= from).collect();
    let mut chosen: Vec<i64> = (0..count).map(|_| *chance.pick(&within)).collect();
    // The end of the base backup, the first commit behind it, one between two commits, the last, and past the last.
    let last = *within.iter().max().unwrap();
    chosen.extend([from, within[0], within[within.len() / 2] - 1, last, last + 5_000_000]);
    chosen
}

/// As `--to` takes it.
pub fn time(micros: i64) -> String {
    chrono::DateTime::from_timestamp_micros(micros).unwrap().format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}
