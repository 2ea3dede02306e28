//! Dumps of real PostgreSQL servers, there and back through the binary itself: every format, several databases, what goes
//! wrong with a server or its programs, and what a person is told then.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::common::postgres::{Cluster, bin_dir};

/// A password that must show up nowhere.
const SECRET: &str = "hush-hush-4711";

struct Scene {
    folder: tempfile::TempDir,
    cluster: Cluster,
}

/// A server with two databases, and a repository.
fn scene(major: u32) -> Option<Scene> {
    let cluster = Cluster::start(major)?;
    cluster.psql(&format!("CREATE ROLE keeper LOGIN PASSWORD '{SECRET}'"));
    cluster.psql("CREATE DATABASE app OWNER keeper");
    cluster.psql("CREATE DATABASE \"other one\"");
    cluster.psql_in(
        "app",
        "CREATE SCHEMA audit;
         CREATE TABLE users (id int PRIMARY KEY, name text NOT NULL, note text);
         INSERT INTO users SELECT n, 'user ' || n, md5(n::text) || md5((n * 7)::text) FROM generate_series(1, 30000) n;
         ALTER TABLE users OWNER TO keeper;
         CREATE INDEX ON users (name);
         CREATE TABLE audit.log (at timestamptz, what text);
         INSERT INTO audit.log SELECT now(), 'event ' || n FROM generate_series(1, 500) n;
         CREATE TABLE \"Odd \"\"Name\"\"\" (\"a b\" int);
         INSERT INTO \"Odd \"\"Name\"\"\" VALUES (1), (2);
         CREATE TABLE empty_one (x int);
         CREATE TABLE parts (k int, v text) PARTITION BY RANGE (k);
         CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
         INSERT INTO parts VALUES (1, 'one'), (2, 'two');
         CREATE VIEW named AS SELECT name FROM users;
         SELECT lo_from_bytea(4242, 'large object')",
    );
    cluster.psql_in("other one", "CREATE TABLE things (n int); INSERT INTO things VALUES (1), (2), (3)");
    let scene = Scene { folder: tempfile::tempdir().unwrap(), cluster };
    fs::create_dir(scene.path("tmp")).unwrap();
    scene.expect(0, &["init", "--generate-identity", "id"]);
    Some(scene)
}

impl Scene {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
        command.env_clear().env("HOME", self.folder.path()).env("PATH", std::env::var_os("PATH").unwrap());
        command.env("TMPDIR", self.path("tmp")).env("TZ", "UTC").current_dir(self.folder.path());
        if self.path("id").exists() {
            command.env("LIFEBOAT_IDENTITY_FILE", "id");
        }
        command.args(["--repo", "repo"]).args(args).stdin(Stdio::null());
        command
    }

    fn expect(&self, code: i32, args: &[&str]) -> (String, String) {
        shown(code, args, self.command(args).output().unwrap())
    }

    /// Writes one source `db` into the configuration: further lines beside its connection.
    fn configure(&self, lines: &str) {
        let connection = match lines.contains("connection") {
            true => String::new(),
            false => format!("connection = \"{}\"\n", self.cluster.connection()),
        };
        let bin = match lines.contains("bin_dir") {
            true => String::new(),
            false => format!("bin_dir = \"{}\"\n", self.cluster.bin_dir().display()),
        };
        let text = format!("[sources.db]\nkind = \"pg_dump\"\n{connection}{bin}{lines}\n");
        fs::write(self.path("lifeboat.toml"), text).unwrap();
    }

    fn backup(&self) -> serde_json::Value {
        let (out, _) = self.expect(0, &["--json", "--quiet", "backup", "db"]);
        serde_json::from_str(out.lines().last().unwrap()).unwrap()
    }

    /// A backup that must fail: no snapshot comes of it. Answers what was said.
    fn refused(&self, code: i32) -> String {
        let before = self.snapshots();
        let (_, err) = self.expect(code, &["backup", "db"]);
        assert_eq!(self.snapshots(), before, "a snapshot was made: {err}");
        assert!(!err.contains(SECRET), "{err}");
        err
    }

    fn snapshots(&self) -> usize {
        let (out, _) = self.expect(0, &["--json", "snapshots"]);
        serde_json::from_str::<Vec<serde_json::Value>>(&out).unwrap().len()
    }

    fn restore(&self, code: i32, into: &str, args: &[&str]) -> (String, String) {
        let bin = self.cluster.bin_dir().display().to_string();
        self.expect(code, &[&["restore", "db", "--into", into, "--bin-dir", &bin], args].concat())
    }

    /// A directory of programs in place of the server's: `pg_dump` or another runs `script` with REAL set to its path.
    fn programs(&self, name: &str, script: &str) -> PathBuf {
        let dir = self.path("programs");
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir).unwrap();
        for program in ["psql", "pg_dump", "pg_dumpall", "pg_restore"] {
            let real = self.cluster.bin_dir().join(program);
            if program == name {
                let real = real.display();
                let head = format!("#!/bin/sh\nREAL='{real}'\n[ \"$1\" = --version ] && exec \"$REAL\" --version\n");
                fs::write(dir.join(program), format!("{head}{script}\n")).unwrap();
                fs::set_permissions(dir.join(program), fs::Permissions::from_mode(0o755)).unwrap();
            } else {
                std::os::unix::fs::symlink(&real, dir.join(program)).unwrap();
            }
        }
        dir
    }

    fn nothing_is_left(&self) {
        let left: Vec<_> = fs::read_dir(self.path("tmp")).unwrap().map(|e| e.unwrap().path()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

fn shown(code: i32, args: &[&str], output: Output) -> (String, String) {
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(code), "{args:?}\n{out}\n{err}");
    (out.trim_end().to_owned(), err)
}

/// All that is in a database: each table with a digest of its rows, and what else was made.
fn content(cluster: &Cluster, database: &str) -> String {
    let tables = "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables \
                  WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1";
    let mut all = String::new();
    for table in cluster.psql_in(database, tables).lines() {
        let rows = format!("SELECT count(*), md5(string_agg(t::text, '|' ORDER BY t::text)) FROM {table} t");
        all.push_str(&format!("{table} {}\n", cluster.psql_in(database, &rows)));
    }
    let others = "SELECT relkind, relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace \
                  WHERE relkind IN ('i', 'v', 'p') AND nspname IN ('public', 'audit') ORDER BY 1, 2";
    all.push_str(&cluster.psql_in(database, others));
    all.push_str(&cluster.psql_in(database, "SELECT lo_get(oid) FROM pg_largeobject_metadata"));
    all
}

#[test]
fn every_format_goes_there_and_back() {
    let Some(scene) = scene(15) else { return };
    let expected = content(&scene.cluster, "app");
    for (format, keys, path) in [
        ("custom", "", "app.dump"),
        ("directory", "jobs = 2", "app/toc.dat"),
        ("plain", "globals = \"no-passwords\"", "app.sql"),
    ] {
        scene.configure(&format!("databases = [\"app\"]\nformat = \"{format}\"\n{keys}"));
        let summary = scene.backup();
        assert_eq!(summary["complete"], true, "{summary}");
        // As files.
        let dir = scene.path(&format!("files-{format}"));
        scene.expect(0, &["restore", "db", "--into", dir.to_str().unwrap(), "--verify"]);
        assert!(dir.join(path).is_file() && dir.join("globals.sql").is_file(), "{format}");
        let info: serde_json::Value =
            serde_json::from_slice(&fs::read(dir.join("lifeboat-dump.json")).unwrap()).unwrap();
        let database = &info["databases"][0];
        assert_eq!((&database["name"], &database["encoding"]), (&"app".into(), &"UTF8".into()));
        assert_eq!(info["format"], format);
        assert!(info["server_version"].as_str().unwrap().starts_with("15.") && database["taken"].is_string());
        let tables = database["tables"].as_array().unwrap();
        let counted: Vec<u64> = tables.iter().map(|table| table["rows"].as_u64().unwrap()).collect();
        assert_eq!(counted, [500, 2, 0, 2, 30_000], "{tables:?}");
        let globals = fs::read_to_string(dir.join("globals.sql")).unwrap();
        assert!(globals.contains("CREATE ROLE keeper") && globals.contains("SCRAM-SHA") == (format != "plain"));
        // Into a server.
        let name = format!("back_{format}");
        let flags = if format == "plain" { &[][..] } else { &["--jobs", "2"] };
        let database = format!("app={name}");
        let (out, err) = scene.restore(0, &scene.cluster.url(""), &[&["--database", &database], flags].concat());
        assert_eq!(out, format!("restored  {name}: 5 tables, 30,504 rows, as in the snapshot"), "{err}");
        assert!(err.contains(&format!("database  app as {name}: is made; 5 tables, 30,504 rows")), "{err}");
        assert_eq!(content(&scene.cluster, &name), expected, "{format}");
        scene.nothing_is_left();
    }
}

#[test]
fn all_databases_and_the_roles_come_to_an_empty_server_of_a_newer_version() {
    let Some(scene) = scene(15) else { return };
    let Some(other) = Cluster::start(16) else { return };
    scene.configure("databases = \"all\"");
    scene.backup();
    let (out, _) = scene.expect(0, &["ls", "db"]);
    assert_eq!(out, "./\napp.dump\nglobals.sql\nlifeboat-dump.json\nother one.dump\npostgres.dump");
    let bin = other.bin_dir().display().to_string();
    let restore = |code: i32, args: &[&str]| {
        let url = other.url("");
        let named =
            ["restore", "db", "--into", &url, "--bin-dir", &bin, "--database", "app", "--database", "other one"];
        scene.expect(code, &[&named[..], args].concat())
    };
    // What stands in the way is said before anything is done.
    let (_, err) = restore(1, &[]);
    assert!(err.contains("there is no database `app`") && err.contains("Add `--create`"), "{err}");
    let (out, _) = restore(0, &["--create", "--dry-run"]);
    assert!(out.contains("database  other one: is made; 1 table, 3 rows"), "{out}");
    assert!(out.contains("(PostgreSQL 16.") && out.contains("; dumped from 15.") && !out.contains("roles "), "{out}");
    assert_eq!(other.psql("SELECT count(*) FROM pg_database WHERE NOT datistemplate"), "1", "a dry run made one");
    // Without the roles.
    let (_, err) = restore(1, &["--create"]);
    assert!(err.contains("role \"keeper\" does not exist") && err.contains("`--globals`"), "{err}");
    other.psql("DROP DATABASE IF EXISTS app");
    // With them. The password of a role that is there stays.
    other.psql("ALTER ROLE postgres PASSWORD 'mine'");
    let before = other.psql("SELECT rolpassword FROM pg_authid WHERE rolname = 'postgres'");
    let (out, _) = restore(0, &["--create", "--globals"]);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(
        lines,
        [
            "restored  app: 5 tables, 30,504 rows, as in the snapshot",
            "restored  other one: 1 table, 3 rows, as in the snapshot"
        ]
    );
    let password = "SELECT rolpassword FROM pg_authid WHERE rolname = 'keeper'";
    assert_eq!(other.psql(password), scene.cluster.psql(password));
    assert_eq!(other.psql("SELECT rolpassword FROM pg_authid WHERE rolname = 'postgres'"), before);
    let owner = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'app'";
    assert_eq!(other.psql(owner), "keeper", "a database that pg_restore makes has its owner");
    for database in ["app", "other one"] {
        assert_eq!(content(&other, database), content(&scene.cluster, database));
    }
    // A second time: refused, unless what is there may go.
    other.psql_in("app", "DELETE FROM users WHERE id < 100");
    let (_, err) = restore(2, &["--create"]);
    assert!(err.contains("`app` has tables already (5)") && err.contains("--database app=app_restored"), "{err}");
    assert_eq!(other.psql_in("app", "SELECT count(*) FROM users"), "29901");
    let (_, err) = restore(0, &["--clean"]);
    assert!(err.contains("what the dump holds is dropped first"), "{err}");
    assert_eq!(content(&other, "app"), content(&scene.cluster, "app"));
    scene.nothing_is_left();
}

#[test]
fn a_second_dump_reuses_what_has_not_changed() {
    let Some(scene) = scene(15) else { return };
    scene.cluster.psql_in(
        "app",
        "CREATE TABLE big AS SELECT n, md5(n::text) || md5((n * 3)::text) || md5((n * 5)::text) AS a FROM generate_series(1, 60000) n",
    );
    scene.configure("databases = [\"app\"]");
    let first = scene.backup();
    scene.cluster.psql_in(
        "app",
        "INSERT INTO users VALUES (-1, 'new', 'new'); UPDATE audit.log SET what = 'x' WHERE what = 'event 7'",
    );
    let second = scene.backup();
    let number = |summary: &serde_json::Value, key: &str| summary[key].as_u64().unwrap();
    let (new, reused) = (number(&second, "chunks_new"), number(&second, "chunks_reused"));
    assert!(number(&first, "chunks_new") > 100, "{first}");
    assert!(reused > 8 * new, "{new} chunks are new, {reused} were there");
    assert!(number(&second, "data_added") < number(&first, "data_added") / 5, "{second}");
}

#[test]
fn what_is_wrong_with_a_connection_is_told_with_its_remedy_and_no_password() {
    let Some(scene) = scene(15) else { return };
    let cluster = &scene.cluster;
    cluster.psql("GRANT pg_read_all_data TO keeper");
    fs::write(scene.path("password"), format!("{SECRET}\n")).unwrap();
    let plain = format!("user=keeper dbname=app host={}", cluster.socket_dir().display());
    scene.configure(&format!("connection = \"{plain}\"\npassword_file = \"password\"\nglobals = \"none\""));
    let err = scene.refused(1);
    assert!(err.contains("GRANT SELECT ON LARGE OBJECT 4242 TO \"keeper\""), "{err}");
    cluster.psql_in("app", "GRANT SELECT ON LARGE OBJECT 4242 TO keeper");
    cluster.set_hba("local all postgres trust\nlocal all all scram-sha-256\n");
    let socket = cluster.socket_dir().display().to_string();
    let keeper = format!("connection = \"host={socket} user=keeper\"\ndatabases = [\"app\"]\nglobals = \"none\"");
    fs::write(scene.path("wrong"), "something-else\n").unwrap();
    scene.configure(&keeper);
    let err = scene.refused(1);
    assert!(err.contains("asks for a password, and none was given") && err.contains("password_file = "), "{err}");
    scene.configure(&format!("{keeper}\npassword_file = \"wrong\""));
    let err = scene.refused(1);
    assert!(err.contains("refused the password of `keeper`") && err.contains("psql --dbname 'host="), "{err}");
    assert!(!err.contains("something-else"), "{err}");
    scene.configure(&format!("{keeper}\npassword_file = \"nowhere\""));
    assert!(scene.refused(1).contains("could not read the password file `nowhere`"));
    // The right one, by a file, in the URL and by PGPASSFILE; seen in no argument.
    let bin = scene.programs("pg_dump", "echo \"$@\" >> \"$HOME/arguments\"; exec \"$REAL\" \"$@\"");
    let bin = format!("bin_dir = \"{}\"", bin.display());
    scene.configure(&format!("{keeper}\npassword_file = \"password\"\n{bin}"));
    scene.backup();
    let host = socket.replace('/', "%2F");
    let url = format!("postgresql://keeper:{SECRET}@{host}:5432?sslmode=disable");
    scene.configure(&format!("connection = \"{url}\"\ndatabases = [\"app\"]\nglobals = \"none\"\n{bin}"));
    scene.backup();
    fs::write(scene.path("passfile"), format!("*:*:*:keeper:{SECRET}\n")).unwrap();
    fs::set_permissions(scene.path("passfile"), fs::Permissions::from_mode(0o600)).unwrap();
    scene.configure(&format!("{keeper}\n{bin}"));
    let by_file = scene.command(&["-vv", "backup", "db"]).env("PGPASSFILE", scene.path("passfile")).output().unwrap();
    let (_, err) = shown(0, &["PGPASSFILE"], by_file);
    let arguments = fs::read_to_string(scene.path("arguments")).unwrap();
    assert_eq!((arguments.lines().count(), arguments.contains(SECRET)), (3, false), "{arguments}");
    assert!(arguments.contains("sslmode=disable") && arguments.contains("--snapshot="), "{arguments}");
    let (out, more) = scene.expect(0, &["--json", "snapshots"]);
    assert!(![out, err, more].concat().contains(SECRET));
    // Other mistakes.
    scene.configure("databases = [\"app\", \"nothing\"]");
    let err = scene.refused(1);
    assert!(err.contains("there is no database `nothing`") && err.contains("psql --list --dbname 'host="), "{err}");
    scene.configure("databases = [\"nothing\"]");
    assert!(scene.refused(1).contains("there is no database `nothing`"));
    scene.configure("connection = \"host=/nowhere user=x\"\ndatabases = [\"app\"]");
    let err = scene.refused(1);
    assert!(err.contains("could not connect to `host=/nowhere user=x") && err.contains("pg_isready"), "{err}");
    cluster.psql("REVOKE pg_read_all_data FROM keeper");
    // Roles' passwords are not for everybody.
    scene.configure(
        &keeper.replace("\"none\"", "\"all\"").replace("user=keeper", &format!("user=keeper password={SECRET}")),
    );
    let err = scene.refused(1);
    assert!(
        err.contains("`pg_dumpall` may not read everything") && err.contains("globals = \"no-passwords\""),
        "{err}"
    );
    scene.configure(&format!("{keeper}\npassword_file = \"password\""));
    let err = scene.refused(1);
    assert!(err.contains("permission denied") && err.contains("GRANT pg_read_all_data TO \"keeper\""), "{err}");
}

#[test]
fn programs_that_are_missing_or_too_old_are_named() {
    let Some(scene) = scene(16) else { return };
    fs::create_dir(scene.path("none")).unwrap();
    scene.configure("bin_dir = \"none\"");
    let err = scene.refused(1);
    assert!(err.contains("there is no `psql` in `none`") && err.contains("apt-get install postgresql-client"), "{err}");
    let Some(older) = bin_dir(15) else { return };
    scene.configure(&format!("bin_dir = \"{}\"\ndatabases = [\"app\"]", older.display()));
    let err = scene.refused(1);
    assert!(err.contains("is of PostgreSQL 15, and the server is of 16"), "{err}");
    assert!(err.contains("apt-get install postgresql-client-16"), "{err}");
}

#[test]
fn a_dump_that_is_not_whole_makes_no_snapshot() {
    let Some(scene) = scene(15) else { return };
    let one = |script: &str, format: &str| {
        let bin = scene.programs("pg_dump", script);
        scene.configure(&format!("databases = [\"app\"]\nformat = \"{format}\"\nbin_dir = \"{}\"", bin.display()));
    };
    for (script, says) in [
        ("\"$REAL\" \"$@\" | head -c 1000000; kill -9 $$", "signal: 9"),
        ("\"$REAL\" \"$@\" | head -c 1000000; exit 1", "exit status: 1"),
        ("\"$REAL\" \"$@\"; echo 'pg_dump: error: a table was lost' >&2", "a table was lost"),
        ("exit 0", "it ended well and wrote nothing"),
    ] {
        one(script, "custom");
        let err = scene.refused(1);
        assert!(err.contains(says) && err.contains("No snapshot was made"), "{script}: {err}");
    }
    one("\"$REAL\" \"$@\"; exit 2", "directory");
    assert!(scene.refused(1).contains("exit status: 2"));
    scene.nothing_is_left();
    // The server goes away: the dump has begun and waits.
    one("touch \"$HOME/begun\"; while [ ! -e \"$HOME/gone\" ]; do sleep 0.1; done; exec \"$REAL\" \"$@\"", "custom");
    let before = scene.snapshots();
    let child = scene.command(&["backup", "db"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while !scene.path("begun").exists() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    scene.cluster.crash();
    scene.cluster.begin();
    fs::write(scene.path("gone"), "").unwrap();
    let (_, err) = shown(1, &["crash"], child.wait_with_output().unwrap());
    assert!(err.contains("No snapshot was made") || err.contains("could not connect"), "{err}");
    assert_eq!(scene.snapshots(), before);
    // And the same source as it should be.
    scene.configure("databases = [\"app\"]");
    scene.backup();
}

#[test]
fn an_interrupted_dump_ends_its_programs() {
    let Some(scene) = scene(15) else { return };
    let script = "echo $$ > \"$HOME/pid\"; echo half; exec sleep 600";
    let bin = scene.programs("pg_dump", script);
    scene.configure(&format!("databases = [\"app\"]\nbin_dir = \"{}\"", bin.display()));
    let child = scene.command(&["backup", "db"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while fs::read_to_string(scene.path("pid")).unwrap_or_default().trim().is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let pid = fs::read_to_string(scene.path("pid")).unwrap();
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let (_, err) = shown(130, &["interrupted"], child.wait_with_output().unwrap());
    assert!(err.contains("interrupted"), "{err}");
    assert!(!Path::new(&format!("/proc/{}", pid.trim())).exists(), "pg_dump still runs");
    assert_eq!(scene.snapshots(), 0);
    assert_eq!(scene.cluster.psql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'lifeboat'"), "0");
}

#[test]
fn an_interrupted_restore_ends_its_programs_and_leaves_no_dump_behind() {
    let Some(scene) = scene(15) else { return };
    scene.configure("databases = [\"app\"]");
    scene.backup();
    let script = "[ \"$1\" = --list ] && exec \"$REAL\" \"$@\"\necho $$ > \"$HOME/pid\"; exec sleep 600";
    let bin = scene.programs("pg_restore", script).display().to_string();
    let url = scene.cluster.url("");
    let args = ["restore", "db", "--into", &url, "--bin-dir", &bin, "--database", "app=half"];
    let child = scene.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while fs::read_to_string(scene.path("pid")).unwrap_or_default().trim().is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let pid = fs::read_to_string(scene.path("pid")).unwrap();
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let (out, err) = shown(130, &args, child.wait_with_output().unwrap());
    assert!(err.contains("interrupted") && out.is_empty(), "{out}\n{err}");
    assert!(!Path::new(&format!("/proc/{}", pid.trim())).exists(), "pg_restore still runs");
    scene.nothing_is_left();
    // The same command goes on: the database that it made is there, and empty.
    let (out, _) = scene.restore(0, &url, &["--database", "app=half"]);
    assert_eq!(out, "restored  half: 5 tables, 30,504 rows, as in the snapshot");
}

#[test]
fn an_instance_of_convex_is_dumped_by_its_name() {
    let Some(scene) = scene(15) else { return };
    scene.cluster.psql("CREATE DATABASE convex_self_hosted");
    scene
        .cluster
        .psql_in("convex_self_hosted", "CREATE TABLE documents (id bytea); INSERT INTO documents VALUES ('x')");
    let url = format!("{}?sslmode=disable", scene.cluster.url(""));
    scene.configure(&format!("connection = \"{url}\"\ninstance_name = \"convex-self-hosted\""));
    scene.backup();
    let (out, _) = scene.expect(0, &["ls", "db"]);
    assert_eq!(out, "./\nconvex_self_hosted.dump\nglobals.sql\nlifeboat-dump.json");
    // A database in the URL is the name of the one that was chosen.
    scene.cluster.psql("CREATE DATABASE convex_again");
    let (out, _) = scene.restore(0, &scene.cluster.url("convex_again"), &[]);
    assert_eq!(out, "restored  convex_again: 1 table, 1 row, as in the snapshot");
}

#[test]
fn without_a_configuration_too() {
    let Some(scene) = scene(15) else { return };
    let path = format!("{}:/usr/bin:/bin", scene.cluster.bin_dir().display());
    let run = |code: i32, args: &[&str], variables: &[(&str, &str)]| {
        let mut command = scene.command(args);
        shown(code, args, command.env("PATH", &path).envs(variables.iter().copied()).output().unwrap())
    };
    run(0, &["backup", "--pg-dump", &scene.cluster.url("app"), "--name", "one"], &[]);
    assert!(run(0, &["ls", "one"], &[]).0.contains("app.dump\n"));
    run(0, &["backup", "--pg-dump", &scene.cluster.connection(), "--name", "all"], &[]);
    assert!(run(0, &["ls", "all"], &[]).0.contains("other one.dump"));
    // libpq's own variables do.
    let socket = scene.cluster.socket_dir().display().to_string();
    let variables = [("PGHOST", socket.as_str()), ("PGUSER", "postgres"), ("PGDATABASE", "app")];
    run(0, &["backup", "--pg-dump", "", "--name", "env"], &variables);
    assert!(!run(0, &["ls", "env"], &[]).0.contains("other one.dump"));
    // What does not belong together is refused.
    let url = scene.cluster.url("");
    for (args, says) in [
        (&["backup", "--pg-dump", "host='x", "--name", "x"][..], "no closing quote"),
        (&["backup", "--pg-dump", "x"], "--name"),
        (&["backup", "--pg-dump", "x", "--stdin", "--name", "x"], "cannot be used with"),
        (&["restore", "one", "--into", &url, "--delete"], "`--delete` is for files"),
        (&["restore", "one", "--into", "dir", "--create"], "`--create` is for dumps"),
        (&["restore", "one", "--into", &url, "--database", "nothing"], "no dump of `nothing`; it has app"),
        (&["restore", "all", "--into", &scene.cluster.url("x")], "3 databases"),
    ] {
        let (_, err) = run(2, args, &[]);
        assert!(err.contains(says), "{args:?}: {err}");
    }
    let with_password = format!("postgresql://u:{SECRET}@/app?host={socket}");
    let (_, err) = run(1, &["backup", "--pg-dump", &with_password, "--name", "x"], &[]);
    assert!(err.contains("a password on the command line") && !err.contains(SECRET), "{err}");
    fs::create_dir(scene.path("dir")).unwrap();
    run(0, &["backup", "--path", "dir", "--name", "files"], &[]);
    let (_, err) = run(2, &["restore", "files", "--into", &url], &[]);
    assert!(err.contains("only dumps (`pg_dump`) are restored into a server"), "{err}");
}

#[test]
fn rows_that_differ_are_named_and_end_with_a_code_of_their_own() {
    let Some(scene) = scene(15) else { return };
    scene.configure("databases = [\"app\", \"other one\"]");
    scene.backup();
    let psql = scene.cluster.bin_dir().join("psql").display().to_string();
    let to = format!("{} dbname=changed", scene.cluster.connection());
    let script = format!(
        "\"$REAL\" \"$@\" || exit $?\n[ \"$1\" = --list ] && exit 0\n\
         exec {psql} -X -q -d '{to}' -c 'DELETE FROM users WHERE id <= 10; DROP TABLE audit.log'"
    );
    let bin = scene.programs("pg_restore", &script).display().to_string();
    let url = scene.cluster.url("");
    let args = ["restore", "db", "--into", &url, "--bin-dir", &bin, "--database", "app=changed"];
    let (out, _) = scene.expect(13, &args);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(
        lines,
        [
            "restored  changed: 4 tables, 29,994 rows; 2 tables are NOT as in the snapshot",
            "  differs audit.log: it is not there, 500 in the snapshot",
            "  differs public.users: 29,990 rows, 30,000 in the snapshot",
        ]
    );
    // Without counts there is nothing to compare, and nothing is claimed.
    scene.configure("databases = [\"app\"]\nrow_counts = false");
    scene.backup();
    let (out, _) = scene.restore(0, &url, &["--database", "app=uncounted"]);
    assert_eq!(out, "restored  uncounted: 5 tables; the snapshot has no counts to compare with");
}

#[test]
fn one_table_comes_back_beside_the_others() {
    let Some(scene) = scene(15) else { return };
    scene.configure("databases = [\"app\"]");
    scene.backup();
    let url = scene.cluster.url("app");
    let (_, err) = scene.restore(2, &url, &["--table", "users"]);
    assert!(err.contains("`app` has tables already (1)"), "{err}");
    scene.cluster.psql_in("app", "DROP TABLE users CASCADE; UPDATE audit.log SET what = 'newer'");
    let (out, err) = scene.restore(0, &url, &["--table", "users"]);
    assert_eq!(out, "restored  app: 1 table, 30,000 rows, as in the snapshot");
    assert!(err.contains("is there with 4 other tables that stay"), "{err}");
    assert_eq!(scene.cluster.psql_in("app", "SELECT DISTINCT what FROM audit.log"), "newer");
    let (out, _) = scene.restore(0, &url, &["--table", "audit.log", "--clean"]);
    assert_eq!(out, "restored  app: 1 table, 500 rows, as in the snapshot");
    assert_eq!(scene.cluster.psql_in("app", "SELECT count(*) FROM audit.log WHERE what = 'newer'"), "0");
    let (_, err) = scene.restore(1, &url, &["--table", "no_such_table"]);
    assert!(err.contains("no_such_table"), "{err}");
}

#[test]
fn what_is_left_out_is_not_counted() {
    let Some(scene) = scene(15) else { return };
    scene.cluster.psql_in("app", "DROP VIEW named");
    for (keys, tables) in [
        ("exclude_tables = [\"USERS\", \"parts*\"]", "log, Odd \"Name\", empty_one"),
        ("exclude_tables = ['audit.*', '\"Odd \"\"Name\"\"\"']", "empty_one, parts_1, users"),
        ("schemas = [\"audit\"]", "log"),
        ("extra_args = [\"--exclude-table-data=users\"]", "log, Odd \"Name\", empty_one, parts_1, users"),
    ] {
        scene.configure(&format!("databases = [\"app\"]\n{keys}"));
        scene.backup();
        let (out, _) = scene.expect(0, &["dump", "db", "lifeboat-dump.json"]);
        let info: serde_json::Value = serde_json::from_str(&out).unwrap();
        let counted = info["databases"][0]["tables"].as_array().unwrap().iter();
        let names: Vec<&str> = counted.map(|table| table["table"].as_str().unwrap()).collect();
        assert_eq!(names.join(", "), tables, "{keys}");
        let (out, _) = scene.restore(0, &scene.cluster.url(""), &["--database", "app=part"]);
        assert!(out.contains("as in the snapshot"), "{keys}: {out}");
        scene.cluster.psql("DROP DATABASE part");
    }
}

#[test]
fn every_major_version_goes_there_and_back() {
    for major in [16, 17, 18] {
        let Some(scene) = scene(major) else { continue };
        scene.configure("databases = \"all\"");
        scene.backup();
        let (out, _) = scene.restore(0, &scene.cluster.url(""), &["--database", "app=again", "--no-owner"]);
        assert_eq!(out, "restored  again: 5 tables, 30,504 rows, as in the snapshot", "{major}");
        assert_eq!(content(&scene.cluster, "again"), content(&scene.cluster, "app"), "{major}");
        assert_eq!(
            scene.cluster.psql_in("again", "SELECT tableowner FROM pg_tables WHERE tablename = 'users'"),
            "postgres"
        );
    }
}

#[test]
fn rows_that_come_while_a_dump_runs_are_in_neither_the_dump_nor_its_counts() {
    let Some(scene) = scene(15) else { return };
    let psql = scene.cluster.bin_dir().join("psql").display().to_string();
    let to = format!("{} dbname=app", scene.cluster.connection());
    // The moment is held before pg_dump starts: what it finds then is already too late.
    let script = format!("{psql} -X -q -d '{to}' -c 'INSERT INTO empty_one VALUES (1)'; exec \"$REAL\" \"$@\"");
    let bin = scene.programs("pg_dump", &script);
    scene.configure(&format!("databases = [\"app\"]\nbin_dir = \"{}\"", bin.display()));
    scene.backup();
    assert_eq!(scene.cluster.psql_in("app", "SELECT count(*) FROM empty_one"), "1");
    let (out, _) = scene.restore(0, &scene.cluster.url(""), &["--database", "app=before"]);
    assert_eq!(out, "restored  before: 5 tables, 30,504 rows, as in the snapshot");
    assert_eq!(scene.cluster.psql_in("before", "SELECT count(*) FROM empty_one"), "0");
}

#[test]
fn scratch_clusters_keep_what_they_have() {
    let Some(cluster) = Cluster::start_with(15, &[("wal_level", "logical"), ("work_mem", "5MB")]) else { return };
    assert_eq!((cluster.major(), cluster.psql("SHOW wal_level").as_str()), (15, "logical"));
    cluster.psql("CREATE TABLE kept AS SELECT 7 AS n");
    cluster.configure(&[("work_mem", "6MB")]);
    cluster.restart();
    assert_eq!(cluster.psql("SELECT n FROM kept") + &cluster.psql("SHOW work_mem"), "76MB");
    assert!(cluster.log().contains("CREATE TABLE kept"));
    cluster.stop();
    assert!(!cluster.data_dir().join("postmaster.pid").exists());
}
