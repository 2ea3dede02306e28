//! Restores of real clusters compared with what was committed: many moments of a loaded cluster, across timelines, through base backups
//! during which tables come and go; and what PostgreSQL's own checks say of the result.

use std::collections::BTreeSet;

use crate::common::chance::{Chance, how_often};
use crate::common::oracle::{self, Commit, load_during, moments, rows_at};
use crate::common::postgres::{Cluster, as_server_user};
use crate::common::scene::{Scene, text};
use crate::common::started::Started;

/// The rows that a restored server shows.
fn shown(server: &Started<'_>) -> BTreeSet<String> {
    server.psql("SELECT id FROM rows").lines().map(str::to_owned).collect()
}

fn timeline(scene: &Scene) -> serde_json::Value {
    let said = scene.expect(0, &["--json", "timeline", "db"]);
    let line = said.lines().find(|line| line.contains("\"timeline\"")).unwrap();
    serde_json::from_str(line).unwrap()
}

/// When the base backups ended, in microseconds, oldest first.
fn ends(scene: &Scene) -> Vec<i64> {
    let time = |base: &serde_json::Value| {
        let text = base["stopped"].as_str().unwrap();
        chrono::DateTime::parse_from_rfc3339(text).unwrap().timestamp_micros()
    };
    timeline(scene)["bases"].as_array().unwrap().iter().map(time).collect()
}

/// Restores to a moment and compares the rows, one by one.
fn compare(scene: &Scene, name: &str, moment: i64, all: &[Commit], more: &[&str]) {
    let server = Started::new(scene, name);
    let said = server.restore(0, &[&["--to", &oracle::time(moment)], more].concat());
    let (shown, expected) = (shown(&server), rows_at(all, moment));
    let missing: Vec<_> = expected.difference(&shown).take(5).collect();
    let extra: Vec<_> = shown.difference(&expected).take(5).collect();
    assert!(missing.is_empty() && extra.is_empty(), "at {moment}: missing {missing:?}, beyond {extra:?}\n{said}");
    server.stop("fast");
    // What fetched the log ahead may still be at its folder there: the room is given back as far as it goes.
    let _ = std::fs::remove_dir_all(&server.directory);
}

fn rows_are_those_that_were_committed(major: u32, seed: u64) {
    let Some(scene) = Scene::new(major, &oracle::SETTINGS) else { return };
    let start = scene.cluster.psql("SELECT pg_current_wal_lsn()");
    scene.cluster.psql(oracle::TABLE);
    load_during(&scene.cluster, 1, || scene.expect(0, &["backup", "db"]));
    load_during(&scene.cluster, 2, || scene.archive_all());
    load_during(&scene.cluster, 3, || scene.expect(0, &["backup", "db"]));
    load_during(&scene.cluster, 4, || ());
    scene.archive_all();
    let all = oracle::commits(&scene.cluster, 1, &start);
    let rows = scene.cluster.psql("SELECT count(*) FROM rows");
    assert_eq!(all.iter().filter(|(_, id)| id.is_some()).count().to_string(), rows, "the oracle knows every row");
    let mut chance = Chance::new(seed);
    let ends = ends(&scene);
    let mut asked = moments(&all, ends[0], &mut chance, how_often("LIFEBOAT_TEST_MOMENTS", 3));
    asked.push(ends[1]);
    eprintln!("seed {seed}, {} commits, moments {asked:?}", all.len());
    for (n, moment) in asked.into_iter().enumerate() {
        compare(&scene, &format!("r{n}"), moment, &all, &[]);
    }
    let early = scene.expect(4, &["restore", "db", "--to", &oracle::time(ends[0] - 1), "--into", "early"]);
    assert!(early.contains("its first complete base backup ended at"), "{early}");
}

#[test]
fn at_any_moment_of_a_loaded_15_the_rows_are_those_that_were_committed() {
    rows_are_those_that_were_committed(15, how_often("LIFEBOAT_TEST_SEED", 15));
}

#[test]
fn at_any_moment_of_a_loaded_18_the_rows_are_those_that_were_committed() {
    rows_are_those_that_were_committed(18, how_often("LIFEBOAT_TEST_SEED", 18));
}

fn across_timelines(major: u32) {
    let Some(scene) = Scene::new(major, &oracle::SETTINGS) else { return };
    let start = scene.cluster.psql("SELECT pg_current_wal_lsn()");
    scene.cluster.psql(oracle::TABLE);
    scene.expect(0, &["backup", "db"]);
    load_during(&scene.cluster, 1, || ());
    scene.archive_all();
    load_during(&scene.cluster, 2, || ());
    scene.archive_all();
    let first = oracle::commits(&scene.cluster, 1, &start);
    let times: Vec<i64> = first.iter().map(|(time, _)| *time).collect();
    let fork = times[times.len() / 2];
    scene.cluster.stop();
    // Promoted at the fork; this one archives on, to the same place.
    let into = scene.path("second");
    scene.expect(0, &["restore", "db", "--to", &oracle::time(fork), "--into", &into.display().to_string()]);
    let second = Cluster::adopt(major, &into).unwrap();
    second.try_begin().unwrap();
    for _ in 0..600 {
        if second.psql("SELECT pg_is_in_recovery()") == "f" {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    load_during(&second, 3, || ());
    // A base backup after the promotion, of the new server.
    let connection = second.connection().replace("user=postgres", "user=lifeboat");
    let config = format!("[sources.db]\nkind = \"postgres\"\nconnection = \"{connection}\"\n");
    std::fs::write(scene.path("lifeboat.toml"), config).unwrap();
    scene.expect(0, &["backup", "db"]);
    load_during(&second, 4, || ());
    let last = second.psql("SELECT pg_walfile_name(pg_switch_wal())");
    for _ in 0..600 {
        if second.psql("SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver") >= last {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    // The way of the new timeline: the old one up to the fork, then its own.
    let mut way: Vec<Commit> = first.iter().take_while(|(time, _)| *time <= fork).cloned().collect();
    let left = timeline(&scene)["coverage"]["forks"][0]["at"].as_str().unwrap().to_owned();
    let own = oracle::commits(&second, 2, &left);
    assert!(own.len() > 100, "{}", own.len());
    way.extend(own);
    let times: Vec<i64> = way.iter().map(|(time, _)| *time).collect();
    compare(&scene, "before", times[times.len() / 4], &way, &[]);
    compare(&scene, "fork", fork, &way, &[]);
    compare(&scene, "behind", times[times.len() * 3 / 4], &way, &[]);
    compare(&scene, "latest", times[times.len() - 1] + 1_000_000, &way, &[]);
    let old = first[first.len() * 3 / 4].0;
    compare(&scene, "old", old, &first, &["--target-timeline", "1"]);
    let said = scene.expect(0, &["timeline", "db"]);
    assert!(said.contains("timeline  2 left 1 at ") && (said.contains("Y fork") || said.contains("┳ fork")), "{said}");
}

#[test]
fn across_timelines_of_15_each_branch_has_its_own_rows() {
    across_timelines(15);
}

#[test]
fn across_timelines_of_18_each_branch_has_its_own_rows() {
    across_timelines(18);
}

/// A fingerprint of all tables of a database.
const PRINT: &str = "SELECT string_agg(relname || ' ' || (xpath('/row/c/text()', query_to_xml(format(
        'SELECT count(*) || '':'' || coalesce(md5(string_agg(t::text, '','' ORDER BY t::text)), '''') AS c FROM %I t', relname),
        false, true, '')))[1]::text, E'\\n' ORDER BY relname)
    FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace";

fn tables_come_and_go(major: u32) {
    let Some(scene) = Scene::new(major, &[("allow_in_place_tablespaces", "on")]) else { return };
    if scene.cluster.psql("SHOW data_checksums") == "off" {
        scene.cluster.stop();
        let data = scene.cluster.data_dir();
        let mut enable = as_server_user(scene.cluster.bin_dir().join("pg_checksums"));
        assert!(enable.args(["--enable", "-D"]).arg(data).current_dir("/").output().unwrap().status.success());
        scene.cluster.begin();
    }
    scene.cluster.psql("CREATE EXTENSION amcheck");
    scene.cluster.psql("CREATE TABLE stays AS SELECT n, md5(n::text) pad FROM generate_series(1, 30000) n");
    scene.cluster.psql("CREATE INDEX ON stays (pad)");
    let churn = |n: u32| {
        for sql in [
            format!("CREATE TABLE made_{n} AS SELECT g, md5(g::text) FROM generate_series(1, 3000) g"),
            format!("CREATE UNLOGGED TABLE u_{n} AS SELECT 1 a"),
            "VACUUM FULL stays".to_owned(),
            format!("CREATE TABLESPACE space_{n} LOCATION ''"),
            format!("CREATE TABLE there_{n} TABLESPACE space_{n} AS SELECT g FROM generate_series(1, 2000) g"),
            format!("TRUNCATE made_{}", n.saturating_sub(1).max(1)),
            format!("DROP TABLE u_{n}"),
            "UPDATE stays SET pad = md5(pad) WHERE n % 7 = 0".to_owned(),
            format!("DROP TABLE IF EXISTS there_{}", n.saturating_sub(2)),
            "REINDEX TABLE stays".to_owned(),
        ] {
            scene.cluster.psql(&sql);
        }
    };
    churn(1);
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 2..200 {
                churn(n);
                if over.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
            }
        });
        for _ in 0..3 {
            scene.expect(0, &["backup", "db"]);
        }
        over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let print = scene.cluster.psql(PRINT);
    scene.archive_all();
    for (n, set) in ends_of_bases(&scene).iter().enumerate() {
        let server = Started::new(&scene, &format!("r{n}"));
        server.restore(0, &["--set", set, "--verify"]);
        assert_eq!(server.psql(PRINT), print, "from base backup {n}");
        clean(&scene, &server);
    }
}

/// The ids of the base backups, oldest first.
fn ends_of_bases(scene: &Scene) -> Vec<String> {
    let bases = timeline(scene)["bases"].clone();
    bases.as_array().unwrap().iter().map(|base| base["snapshot"].as_str().unwrap().to_owned()).collect()
}

/// What PostgreSQL's own programs say of a restored cluster: indexes and heaps, then the checksums of all pages.
fn clean(scene: &Scene, server: &Started<'_>) {
    let host = server.directory.display().to_string();
    let run = |program: &str, args: &[&str]| {
        let output =
            as_server_user(scene.cluster.bin_dir().join(program)).current_dir("/").args(args).output().unwrap();
        let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
        assert!(output.status.success() && output.stdout.len() + output.stderr.len() < 10_000, "{program}\n{said}");
        said
    };
    run("pg_amcheck", &["-h", &host, "-U", "postgres", "-d", "postgres", "--heapallindexed"]);
    server.stop("fast");
    let said = run("pg_checksums", &["--check", "-D", &host]);
    assert!(said.contains("Bad checksums:  0"), "{said}");
}

#[test]
fn tables_that_come_and_go_during_a_base_backup_of_15_do_it_no_harm() {
    tables_come_and_go(15);
}

#[test]
fn tables_that_come_and_go_during_a_base_backup_of_18_do_it_no_harm() {
    tables_come_and_go(18);
}

#[test]
fn with_a_gap_what_lies_before_it_and_what_a_later_base_reaches_comes_back() {
    let Some(scene) = Scene::new(18, &oracle::SETTINGS) else { return };
    let start = scene.cluster.psql("SELECT pg_current_wal_lsn()");
    scene.cluster.psql(oracle::TABLE);
    scene.expect(0, &["backup", "db"]);
    load_during(&scene.cluster, 1, || ());
    scene.archive_all();
    load_during(&scene.cluster, 2, || ());
    let lost = scene.cluster.psql("SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
    scene.archive_all();
    load_during(&scene.cluster, 3, || ());
    scene.archive_all();
    scene.expect(0, &["backup", "db"]);
    load_during(&scene.cluster, 4, || ());
    scene.archive_all();
    let all = oracle::commits(&scene.cluster, 1, &start);
    std::fs::remove_file(scene.objects(&lost).pop().unwrap()).unwrap();
    let said = scene.expect(13, &["timeline", "db"]);
    assert!(said.contains(" GAP") && said.contains(&lost), "{said}");
    let gaps = scene.expect(13, &["--json", "timeline", "db"]);
    let line = gaps.lines().find(|line| line.contains("\"timeline\"")).unwrap();
    let gap = serde_json::from_str::<serde_json::Value>(line).unwrap()["coverage"]["gaps"][0].clone();
    assert_eq!(gap["missing"], lost.as_str());
    let micros =
        |what: &str| chrono::DateTime::parse_from_rfc3339(gap[what].as_str().unwrap()).unwrap().timestamp_micros();
    let (after, until) = (micros("after"), micros("until"));
    compare(&scene, "last-before", after, &all, &[]);
    let within: Vec<i64> = all.iter().map(|(time, _)| *time).filter(|time| (after + 1..until).contains(time)).collect();
    assert!(within.len() > 100, "{}", within.len());
    for moment in [within[0], within[within.len() / 2], within[within.len() - 1]] {
        let said = scene.expect(4, &["restore", "db", "--to", &oracle::time(moment), "--into", "none"]);
        assert!(said.contains(&lost), "{said}");
    }
    compare(&scene, "first-behind", until, &all, &[]);
    compare(&scene, "latest", all[all.len() - 1].0 + 1_000_000, &all, &[]);
}

#[test]
fn while_the_store_is_away_and_back_no_commit_is_lost() {
    let Some(scene) = Scene::new(15, &oracle::SETTINGS) else { return };
    let start = scene.cluster.psql("SELECT pg_current_wal_lsn()");
    scene.cluster.psql(oracle::TABLE);
    scene.expect(0, &["backup", "db"]);
    load_during(&scene.cluster, 1, || {
        // A push that is under way would make its directories anew.
        scene.archive_all();
        std::fs::rename(scene.path("repo"), scene.path("aside")).unwrap();
        for _ in 0..3 {
            scene.cluster.psql("SELECT pg_switch_wal(), pg_sleep(0.4)");
        }
        std::fs::rename(scene.path("aside"), scene.path("repo")).unwrap();
    });
    assert_ne!(scene.cluster.psql("SELECT failed_count FROM pg_stat_archiver"), "0", "it was away");
    scene.archive_all();
    let all = oracle::commits(&scene.cluster, 1, &start);
    for (n, at) in [all.len() / 3, all.len() / 2, all.len() - 1].into_iter().enumerate() {
        let from = ends(&scene)[0];
        compare(&scene, &format!("r{n}"), all[at].0.max(from), &all, &[]);
    }
}
