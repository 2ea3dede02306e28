//! The binary itself: flags, words, exit codes, in a sealed environment. What people read is compared with
//! `tests/suite/snapshots/`; run with `LIFEBOAT_BLESS=1` to write it anew, and read the difference.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::common::proxy::{Proxy, Rule};
use crate::common::servers::Server;
use crate::common::tree;

pub struct Sealed {
    root: tempfile::TempDir,
}

impl Sealed {
    pub fn new() -> Self {
        let sealed = Self { root: tempfile::tempdir().unwrap() };
        tree::make(&sealed.path("data"), 5);
        tree::age(&sealed.path("data"));
        sealed
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
        command.env_clear().env("HOME", self.root.path()).env("PATH", std::env::var_os("PATH").unwrap());
        command.env("XDG_STATE_HOME", self.path("state")).env("TZ", "UTC").env("COLUMNS", "100");
        command.current_dir(self.root.path()).args(args).stdin(Stdio::null());
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs and asserts the exit code; returns stdout and stderr, with what varies taken out.
    pub fn expect(&self, code: i32, args: &[&str]) -> (String, String) {
        let output = self.run(args);
        let (out, err) = (self.normal(&output.stdout), self.normal(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "lifeboat {args:?}\n{out}\n{err}");
        (out, err)
    }

    fn normal(&self, bytes: &[u8]) -> String {
        let text = String::from_utf8_lossy(bytes).replace(self.root.path().to_str().unwrap(), "$ROOT");
        normalize(&text)
    }

    pub fn init(&self) {
        self.expect(0, &["--repo", "repo", "init", "--generate-identity", "identity.txt"]);
    }

    pub fn backup(&self) {
        self.expect(0, &["--repo", "repo", "backup", "--path", "data", "--name", "data"]);
    }
}

/// Ids, digests, keys, times, names of this machine and sizes of sealed things vary from run to run.
fn normalize(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if is_time(rest) {
            out.push_str("$TIME");
            rest = &rest[20..];
            continue;
        }
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
        if end == 0 {
            out.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        }
        let (word, after) = rest.split_at(end);
        let is_small = word.bytes().any(|b| b.is_ascii_lowercase());
        let digit = word.bytes().any(|b| b.is_ascii_digit());
        // Digits behind a dot are a fraction of a second; elsewhere one digest in a hundred has no letter in it.
        let fraction = out.ends_with('.') && word.bytes().all(|b| b.is_ascii_digit());
        let hex = word.len() >= 10 && word.bytes().all(|b| b.is_ascii_hexdigit()) && digit;
        out.push_str(match word {
            _ if word.starts_with("age1") && word.len() > 50 => "$RECIPIENT",
            _ if word.len() == 26 && word.starts_with("01") => "$ID",
            word if fraction => word,
            // Ids are written large, digests small; of digits alone the word before says which.
            _ if hex && (is_small || out.ends_with("frame ")) => "$HEX",
            _ if word.len() == 10 && word.starts_with("01") => "$SHORT",
            _ if hex => "$HEX",
            word => word,
        });
        rest = after;
    }
    out.lines().map(hide_numbers).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_digest_is_hidden_with_or_without_a_letter() {
    assert_eq!(normalize("frame 0123456789 cannot be opened"), "frame $HEX cannot be opened");
    assert_eq!(normalize("frame 01234567ab"), "frame $HEX");
    assert_eq!(normalize("drill 01M8Z4QK7P of data"), "drill $SHORT of data");
    assert_eq!(normalize("drill 0123456789 of data"), "drill $SHORT of data");
    assert_eq!(normalize("12.0123456789 s"), "12.0123456789 s");
}

/// `2026-11-21T12:00:00Z`
fn is_time(text: &str) -> bool {
    let shape = b"dddd-dd-ddTdd:dd:ddZ";
    let bytes = text.as_bytes();
    bytes.len() >= shape.len()
        && shape.iter().zip(bytes).all(|(s, b)| if *s == b'd' { b.is_ascii_digit() } else { s == b })
}

/// Hides what is measured: free space, durations, sealed sizes; and the names of this host and of who runs the tests.
fn hide_numbers(line: &str) -> String {
    let mut line = line.to_owned();
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let lower = host.to_ascii_lowercase();
    while let Some(at) = line.find(&format!("{lower}-")).filter(|at| line.len() >= at + lower.len() + 7) {
        let end = at + lower.len() + 7;
        line.replace_range(at..end, "$WRITER");
    }
    if let Some(at) = line.find(&format!("of host {host}, since ")) {
        let end = at + format!("of host {host}, since ").len() + 10;
        line.replace_range(at..end, "of host $HOST, since $DAY");
    }
    let user = uzers::get_current_username().unwrap_or_default().to_string_lossy().into_owned();
    let group = uzers::get_current_groupname().unwrap_or_default().to_string_lossy().into_owned();
    line = line.replace(&format!(" {user:>8} {group:>8} "), " $USER $GROUP ");
    for (before, after, shown) in [(" in ", " s", " in $N s"), (", ", " free)", ", $N free)")] {
        if let (Some(start), true) = (line.rfind(before), line.ends_with(after)) {
            line.replace_range(start.., shown);
        }
    }
    for marker in ["stored    ", "fetch     "] {
        if let Some(rest) = line.strip_prefix(marker).or_else(|| line.strip_prefix(&format!("! {marker}"))) {
            let tail = rest.find(" in ").or_else(|| rest.find(" from ")).map_or("", |at| &rest[at..]);
            line = format!("{marker}$SIZE{tail}");
        }
    }
    if line.starts_with("read       ") {
        let (start, end) = (line.find(", ").unwrap_or(0), line.find(';').unwrap_or(0));
        line.replace_range(start..end, ", $SIZE");
    }
    if line.starts_with("$ID  $TIME") {
        // The last size of a line of `snapshots` is of sealed bytes.
        let end = line.rfind("  complete").unwrap_or(line.len());
        let start = line[..end].trim_end_matches(|c: char| c != ' ').trim_end().rfind("  ").unwrap_or(end);
        line.replace_range(start..end, "  $SIZE");
    }
    line
}

fn snapshot(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite/snapshots").join(format!("{name}.txt"));
    let text = format!("{}\n", text.trim_end());
    if std::env::var_os("LIFEBOAT_BLESS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        return;
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, expected, "{} differs; `LIFEBOAT_BLESS=1 ./test` writes it anew", path.display());
}

#[test]
fn help_of_every_command() {
    let sealed = Sealed::new();
    let commands: &[&[&str]] = &[
        &[],
        &["init"],
        &["backup"],
        &["snapshots"],
        &["ls"],
        &["find"],
        &["diff"],
        &["dump"],
        &["stats"],
        &["forget"],
        &["prune"],
        &["pin"],
        &["unpin"],
        &["restore"],
        &["check"],
        &["drill"],
        &["status"],
        &["notify", "test"],
        &["serve"],
        &["agent"],
        &["validate-store"],
        &["catalog"],
        &["catalog", "rebuild"],
        &["key"],
        &["key", "generate"],
        &["key", "list"],
        &["key", "request"],
        &["key", "admit"],
        &["demo"],
        &["completions"],
        &["man"],
    ];
    let mut text = String::new();
    for command in commands {
        let (out, _) = sealed.expect(0, &[*command, &["--help"]].concat());
        text.push_str(&format!("$ lifeboat {} --help\n{out}\n\n", command.join(" ")));
    }
    snapshot("help", &text);
}

#[test]
fn a_person_gets_from_nothing_to_a_restored_directory() {
    let sealed = Sealed::new();
    let mut story = String::new();
    let mut tell = |code: i32, args: &[&str]| {
        let (out, err) = sealed.expect(code, args);
        let err = err.lines().map(|line| format!("! {line}\n")).collect::<String>();
        story.push_str(&format!("$ lifeboat {}\n{out}\n{err}\n", args.join(" ")));
    };
    let with_identity = |args: &[&'static str]| [&["--repo", "repo", "--identity", "identity.txt"], args].concat();
    tell(0, &["--repo", "repo", "init", "--generate-identity", "identity.txt"]);
    tell(0, &["--repo", "repo", "backup", "--path", "data", "--name", "data", "--tag", "first"]);
    fs::write(sealed.path("data/docs/new.txt"), "new").unwrap();
    tree::age(&sealed.path("data"));
    tell(0, &["--repo", "repo", "backup", "--path", "data", "--name", "data"]);
    tell(0, &["--repo", "repo", "snapshots"]);
    tell(0, &with_identity(&["ls", "data", "docs", "--long"]));
    tell(0, &with_identity(&["find", "data", "*.txt", "--snapshot", "latest~1"]));
    tell(0, &with_identity(&["diff", "data"]));
    tell(0, &with_identity(&["dump", "data", "docs/new.txt"]));
    tell(0, &with_identity(&["restore", "data", "--into", "back", "--dry-run"]));
    tell(0, &with_identity(&["restore", "data", "--into", "back", "--verify"]));
    tell(0, &with_identity(&["check", "--read-data"]));
    tell(0, &with_identity(&["catalog", "rebuild"]));
    tell(0, &with_identity(&["key", "list"]));
    assert_eq!(tree::describe(&sealed.path("back")), tree::describe(&sealed.path("data")));
    snapshot("story", &story);
}

#[test]
fn obvious_mistakes_are_told_plainly() {
    let sealed = Sealed::new();
    let mut all = String::new();
    let mut wrong = |code: i32, args: &[&str]| {
        let (out, err) = sealed.expect(code, args);
        assert!(out.is_empty() && err.starts_with("error: "), "{args:?}\n{out}\n{err}");
        all.push_str(&format!("$ lifeboat {}\n{err}\nexit {code}\n\n", args.join(" ")));
    };
    wrong(2, &["snapshots"]);
    wrong(10, &["--repo", "nowhere", "snapshots"]);
    wrong(2, &["--repo", "repo", "init"]);
    wrong(2, &["--repo", "s4://bucket", "snapshots"]);
    wrong(2, &["--repo", "s3://key:secret@bucket", "snapshots"]);
    wrong(2, &["--repo", "repo", "--recipient", "age1nonsense", "init"]);
    sealed.init();
    sealed.backup();
    wrong(2, &["--repo", "repo", "init", "--generate-identity", "other.txt"]);
    wrong(2, &["--repo", "repo", "backup", "nothing"]);
    wrong(2, &["--repo", "repo", "backup"]);
    wrong(1, &["--repo", "repo", "backup", "--path", "nowhere", "--name", "data"]);
    wrong(2, &["--repo", "repo", "backup", "--path", "data", "--name", "a/b"]);
    wrong(12, &["--repo", "repo", "restore", "data", "--into", "back"]);
    wrong(12, &["--repo", "repo", "--identity", "nowhere.txt", "restore", "data", "--into", "back"]);
    sealed.expect(0, &["key", "generate", "--output", "stranger.txt"]);
    wrong(12, &["--repo", "repo", "--identity", "stranger.txt", "restore", "data", "--into", "back"]);
    let identity = ["--repo", "repo", "--identity", "identity.txt"];
    let mut read = |code: i32, args: &[&str]| wrong(code, &[&identity[..], args].concat());
    read(2, &["restore", "data", "--into", "data"]);
    read(4, &["restore", "nothing", "--into", "back"]);
    read(4, &["restore", "data", "--to", "2001-02-03T04:05:06Z", "--into", "back"]);
    read(2, &["restore", "data", "--to", "2026-10-25 02:30 Europe/Berlin", "--into", "back"]);
    read(2, &["restore", "data", "--to", "soon", "--into", "back"]);
    read(2, &["restore", "data", "--to", "2026-01-01", "--into", "back"]);
    read(4, &["restore", "data", "--snapshot", "ZZZ", "--into", "back"]);
    read(1, &["dump", "data", "no/such/file"]);
    read(2, &["check", "--read-data-subset", "9/4"]);
    fs::write(sealed.path("lifeboat.toml"), "[repository]\nurl = \"repo\"\nrecipient = \"age1\"\n").unwrap();
    wrong(2, &["snapshots"]);
    fs::write(sealed.path("lifeboat.toml"), "[sources.x]\nkind = \"volume\"\npaths = \"/\"\n").unwrap();
    wrong(2, &["snapshots"]);
    snapshot("mistakes", &all);
}

#[test]
fn a_configuration_and_the_environment_name_what_flags_do_not() {
    let sealed = Sealed::new();
    sealed.init();
    fs::write(
        sealed.path("lifeboat.toml"),
        "[repository]\nurl = \"repo\"\nidentity_file = \"identity.txt\"\n\
         [sources.files]\nkind = \"volume\"\npath = \"data\"\nexclude = [\"*.bin\"]\n\
         [sources.dump]\nkind = \"command\"\ncommand = [\"seq\", \"1\", \"10\"]\n\
         [groups.nightly]\nsources = [\"dump\"]\n",
    )
    .unwrap();
    sealed.expect(0, &["backup", "--all"]);
    sealed.expect(0, &["backup", "--group", "nightly"]);
    let (out, _) = sealed.expect(0, &["snapshots", "--json"]);
    assert_eq!(serde_json::from_str::<Vec<serde_json::Value>>(&out).unwrap().len(), 3);
    let (out, _) = sealed.expect(0, &["dump", "dump"]);
    assert_eq!(out.lines().count(), 10);
    let (out, _) = sealed.expect(0, &["ls", "files", "-R"]);
    assert!(out.contains("docs/a.jsonl") && !out.contains(".bin"));
    let output = sealed.command(&["snapshots"]).env("LIFEBOAT_REPOSITORY", "elsewhere").output().unwrap();
    assert_eq!(output.status.code(), Some(10), "the environment comes before the file");
}

#[test]
fn json_is_json_and_stdout_holds_nothing_else() {
    let sealed = Sealed::new();
    sealed.init();
    let identity = ["--json", "--repo", "repo", "--identity", "identity.txt"];
    for args in [
        &["backup", "--path", "data", "--name", "data"][..],
        &["snapshots"],
        &["ls", "data", "-R"],
        &["find", "data", "*.txt"],
        &["stats"],
        &["restore", "data", "--into", "back", "--dry-run"],
        &["restore", "data", "--into", "back"],
        &["check", "--read-data"],
        &["catalog", "rebuild"],
        &["key", "list"],
    ] {
        let output = sealed.run(&[&identity[..], args].concat());
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        let out = String::from_utf8(output.stdout).unwrap();
        assert!(!out.is_empty(), "{args:?}");
        for line in out.lines() {
            serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|e| panic!("{args:?}: {e}: {line}"));
        }
    }
    let output = sealed.run(&["--json", "--repo", "nowhere", "snapshots"]);
    let error: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!((error["message_type"].as_str(), error["exit_code"].as_u64()), (Some("error"), Some(10)));
}

#[test]
fn commands_and_streams_are_sources() {
    let sealed = Sealed::new();
    sealed.init();
    sealed.expect(0, &["--repo", "repo", "backup", "--name", "numbers", "--", "seq", "1", "1000"]);
    let (_, err) = sealed.expect(1, &["--repo", "repo", "backup", "--name", "bad", "--", "sh", "-c", "echo x; exit 7"]);
    assert!(err.contains("exit status: 7") && err.contains("No snapshot was made"), "{err}");
    let mut child = sealed.command(&["--repo", "repo", "backup", "--stdin", "--name", "in"]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"from outside").unwrap();
    assert!(child.wait().unwrap().success());
    let (out, _) = sealed.expect(0, &["--repo", "repo", "--identity", "identity.txt", "dump", "in"]);
    assert_eq!(out, "from outside");
    let (out, _) = sealed.expect(0, &["--repo", "repo", "snapshots"]);
    assert!(!out.contains("bad"), "{out}");
}

#[test]
fn ctrl_c_ends_cleanly_and_the_next_run_goes_on() {
    let sealed = Sealed::new();
    sealed.init();
    let args = ["--repo", "repo", "backup", "--name", "slow", "--", "sh", "-c", "seq 1 100000; exec sleep 600"];
    let mut child = sealed.command(&args);
    let child = child.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    // Until it works: the run's own lock is there.
    let waiting = |name: &str| {
        fs::read_dir(sealed.path("state/lifeboat"))
            .is_ok_and(|mut all| all.any(|e| e.is_ok_and(|e| e.path().join(name).exists())))
    };
    while !waiting("manifests/slow.jsonl.tmp") && !waiting("source-slow.lock") {
        std::thread::yield_now();
    }
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{err}");
    assert!(err.contains("error: interrupted") && err.contains("Run the same command again"), "{err}");
    sealed.backup();
    let (out, _) = sealed.expect(0, &["--repo", "repo", "snapshots"]);
    assert!(!out.contains("slow"), "{out}");
}

#[test]
fn a_run_that_was_killed_is_resumed() {
    let sealed = Sealed::new();
    sealed.init();
    fs::write(sealed.path("stream"), tree::noise(90_000_000, 1)).unwrap();
    let args = ["--repo", "repo", "backup", "--name", "big", "--", "sh", "-c", "cat stream; sleep 600"];
    // A group of its own: what the killed run leaves behind is ended with it.
    let mut child = sealed.command(&args).process_group(0).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let packs = || {
        let output = Command::new("find").arg(sealed.path("repo")).args(["-path", "*/packs/*", "-type", "f"]).output();
        let output = output.unwrap();
        // The store's staging files have a `#` in their names.
        String::from_utf8_lossy(&output.stdout).lines().filter(|line| !line.contains('#')).count()
    };
    while packs() < 2 {
        assert!(child.try_wait().unwrap().is_none(), "the run ended by itself");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let group = format!("-{}", child.id());
    assert!(Command::new("kill").args(["-KILL", "--", &group]).status().unwrap().success());
    let (out, _) = sealed.expect(0, &["--repo", "repo", "snapshots", "--json"]);
    assert_eq!(out, "[]", "a killed run leaves no snapshot");
    let again = ["--json", "--quiet", "--repo", "repo", "backup", "--name", "big", "--", "cat", "stream"];
    let (out, _) = sealed.expect(0, &again);
    let summary: serde_json::Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    let added = summary["data_added"].as_u64().unwrap();
    assert!(added < 30_000_000, "{added} of 90,000,000 bytes were stored again");
    let identity = ["--repo", "repo", "--identity", "identity.txt"];
    sealed.expect(0, &[&identity[..], &["dump", "big", "--output", "back"]].concat());
    assert!(fs::read(sealed.path("back")).unwrap() == fs::read(sealed.path("stream")).unwrap());
    sealed.expect(0, &[&identity[..], &["check", "--read-data"]].concat());
}

#[test]
fn ssh_keys_and_passphrases_open_repositories() {
    let sealed = Sealed::new();
    let keys = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/keys");
    let public = fs::read_to_string(keys.join("ssh_ed25519.pub")).unwrap();
    sealed.expect(0, &["--repo", "repo", "--recipient", public.trim(), "init"]);
    sealed.backup();
    let private = keys.join("ssh_ed25519");
    sealed.expect(0, &["--repo", "repo", "--identity", private.to_str().unwrap(), "restore", "data", "--into", "back"]);
    assert_eq!(tree::describe(&sealed.path("back")), tree::describe(&sealed.path("data")));
    // An identity under a passphrase, as `age -p` makes it.
    sealed.expect(0, &["--repo", "other", "init", "--generate-identity", "plain.txt"]);
    sealed.expect(0, &["--repo", "other", "backup", "--path", "data", "--name", "data"]);
    let plain = fs::read(sealed.path("plain.txt")).unwrap();
    let mut recipient = age::scrypt::Recipient::new(age::secrecy::SecretString::from("right horse".to_owned()));
    recipient.set_work_factor(8);
    fs::write(sealed.path("sealed.txt"), age::encrypt(&recipient, &plain).unwrap()).unwrap();
    fs::write(sealed.path("right"), "right horse\n").unwrap();
    fs::write(sealed.path("wrong"), "wrong horse\n").unwrap();
    let dump = |passphrase: &str| {
        let args = ["--repo", "other", "--identity", "sealed.txt", "dump", "data", "docs/a.jsonl"];
        sealed.command(&args).env("LIFEBOAT_PASSPHRASE_FILE", sealed.path(passphrase)).output().unwrap()
    };
    assert!(dump("right").stdout == fs::read(sealed.path("data/docs/a.jsonl")).unwrap());
    let refused = dump("wrong");
    assert_eq!(refused.status.code(), Some(12));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("the passphrase is wrong"));
}

#[test]
fn a_repository_inside_its_source_is_left_out_and_never_restored_over() {
    let sealed = Sealed::new();
    fs::create_dir(sealed.path("outer")).unwrap();
    fs::write(sealed.path("outer/file"), "x").unwrap();
    sealed.expect(0, &["--repo", "outer/repo", "init", "--generate-identity", "identity.txt"]);
    let repo = ["--repo", "outer/repo", "--identity", "identity.txt"];
    let run = |code: i32, args: &[&str]| sealed.expect(code, &[&repo[..], args].concat());
    let (_, err) = run(0, &["backup", "--path", "outer", "--name", "o"]);
    assert!(err.contains("is left out"), "{err}");
    let (out, _) = run(0, &["ls", "o", "-R"]);
    assert_eq!(out, "./\nfile");
    for into in ["outer", "outer/repo", "outer/repo/writers/new"] {
        let (_, err) = run(2, &["restore", "o", "--into", into, "--delta", "--delete"]);
        assert!(err.contains("lie in each other"), "{err}");
    }
    run(2, &["backup", "--path", "outer/repo/keys", "--name", "keys"]);
    run(0, &["restore", "o", "--into", "outer/new"]);
    run(0, &["check", "--read-data"]);
}

#[test]
fn what_a_person_should_know_is_said() {
    let sealed = Sealed::new();
    sealed.init();
    sealed.backup();
    let repo = ["--repo", "repo", "--identity", "identity.txt"];
    let run = |code: i32, args: &[&str]| sealed.expect(code, &[&repo[..], args].concat());
    let (_, err) = run(2, &["restore", "data", "--include", "nosuch", "--into", "part"]);
    assert!(err.contains("nothing in the snapshot matches") && !sealed.path("part").exists(), "{err}");
    let (_, err) = run(0, &["restore", "data", "--to", "2099-01-01T00:00:00Z", "--into", "back", "--dry-run"]);
    assert!(err.contains("has not come yet"), "{err}");
    // An interrupted restore of another snapshot names the way on.
    let id: Vec<serde_json::Value> =
        serde_json::from_slice(&sealed.run(&["--repo", "repo", "--json", "snapshots"]).stdout).unwrap();
    fs::create_dir(sealed.path("half")).unwrap();
    fs::write(sealed.path("half").join(format!(".lifeboat-restore-{}", id[0]["id"].as_str().unwrap())), "").unwrap();
    sealed.backup();
    let (_, err) = run(2, &["restore", "data", "--into", "half"]);
    assert!(err.contains("interrupted restore") && err.contains("--snapshot $ID"), "{err}");
    // A source that is suddenly empty.
    fs::remove_dir_all(sealed.path("data")).unwrap();
    fs::create_dir(sealed.path("data")).unwrap();
    let (_, err) = sealed.expect(0, &["--repo", "repo", "backup", "--path", "data", "--name", "data"]);
    assert!(err.contains("is it mounted?"), "{err}");
    // A request may be written again until somebody answers it.
    let other = |args: &[&str]| sealed.expect(0, &[&["--repo", "repo", "--state-dir", "other"], args].concat());
    other(&["key", "request", "--output", "request.json"]);
    other(&["key", "request", "--output", "again.json"]);
    run(0, &["key", "admit", "again.json"]);
    fs::create_dir(sealed.path("some")).unwrap();
    other(&["backup", "--path", "some", "--name", "some"]);
}

#[test]
fn the_demo_proves_what_it_says() {
    let sealed = Sealed::new();
    let (out, _) = sealed.expect(0, &["demo", "--keep", "demo", "--input", "data"]);
    assert!(out.contains("Proved") && out.contains("byte for byte: equal"), "{out}");
    assert!(sealed.path("demo/repository/recover.py").is_file());
    let (_, err) = sealed.expect(2, &["demo", "--keep", "demo"]);
    assert!(err.contains("not empty"), "{err}");
}

#[test]
fn a_store_is_validated_and_what_follows_is_said() {
    let sealed = Sealed::new();
    let (_, err) = sealed.expect(2, &["validate-store", "disk"]);
    assert!(err.contains("there is no directory `disk`") && err.contains("mkdir"), "{err}");
    fs::create_dir(sealed.path("disk")).unwrap();
    let (_, err) = sealed.expect(2, &["validate-store", "disk", "--large-object", "1G"]);
    assert!(err.contains("no object above 256 MiB"), "{err}");
    let (out, err) = sealed.expect(0, &["validate-store", "disk", "--large-object", "9M"]);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 2 * 14 + 1, "{out}");
    for (finding, follows) in lines.chunks_exact(2).map(|pair| (pair[0], pair[1])) {
        assert!(
            finding[18..].starts_with("  yes  ") && follows.trim_start().starts_with("-> "),
            "{finding}\n{follows}"
        );
    }
    assert!(out.contains("large objects       yes      9 MiB went in one request"), "{out}");
    assert_eq!(lines[28], "result              lifeboat can use this store");
    assert!(err.contains("Trying `disk/validate-"), "{err}");
    assert_eq!(fs::read_dir(sealed.path("disk")).unwrap().count(), 0, "nothing stays behind");
    // The repository's own store, with the repository in it.
    sealed.init();
    let output = sealed.run(&["--repo", "repo", "--json", "validate-store"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let report: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!((report["fit"].as_bool(), report["left"].as_u64()), (Some(true), Some(0)), "{report}");
    let findings = report["findings"].as_array().unwrap();
    assert_eq!(findings.len(), 14);
    for finding in findings {
        assert!(
            finding["held"] == "yes" && finding["follows"].is_string() && finding["needed"].is_boolean(),
            "{finding}"
        );
    }
    sealed.expect(0, &["--repo", "repo", "--identity", "identity.txt", "check", "--read-data"]);
}

#[test]
fn a_server_that_is_not_fit_ends_with_a_code_of_its_own() {
    let Some(server) = Server::seaweedfs() else { return };
    let proxy = Proxy::start(server.port(), Rule::LosesRanges);
    let sealed = Sealed::new();
    let config = format!(
        "[repository]\nurl = \"s3://bucket/prod\"\nendpoint = \"{}\"\nallow_http = true\nskip_signature = true\n",
        proxy.endpoint()
    );
    fs::write(sealed.path("lifeboat.toml"), config).unwrap();
    let (out, err) = sealed.expect(1, &["validate-store", "--large-object", "2M"]);
    assert!(out.contains("ranges              NO       ") && out.contains("-> NEEDED: "), "{out}");
    assert!(out.contains("create if absent    yes  ") && out.ends_with("is not so here"), "{out}");
    assert!(err.contains("Trying `s3://bucket/prod/validate-") && !err.contains("warning"), "{err}");
}

#[test]
fn completions_and_the_manual_page_are_made() {
    let sealed = Sealed::new();
    for shell in ["bash", "zsh", "fish"] {
        assert!(sealed.expect(0, &["completions", shell]).0.contains("snapshots"));
    }
    assert!(sealed.expect(0, &["man"]).0.contains(".TH lifeboat"));
    sealed.expect(0, &["man", "--dir", "pages"]);
    assert!(sealed.path("pages/lifeboat-restore.1").is_file());
}

#[test]
fn prune_says_what_it_frees_and_when_the_rest_goes() {
    let sealed = Sealed::new();
    sealed.init();
    for seed in 0..3 {
        fs::write(sealed.path("data/noise"), tree::noise(4_500_000, seed)).unwrap();
        tree::age(&sealed.path("data"));
        sealed.backup();
    }
    fn here<'a>(args: &[&'a str]) -> Vec<&'a str> {
        [&["--repo", "repo"], args].concat()
    }
    // While all of it is needed nothing is to be done, and what no policy keeps is told to be freed later.
    let (out, _) = sealed.expect(0, &here(&["prune"]));
    assert!(out.contains("nothing was to be done"), "{out}");
    let (out, _) = sealed.expect(0, &here(&["forget", "data", "--keep-last", "1"]));
    assert!(out.contains("forgotten; `lifeboat prune` frees their space"), "{out}");
    let (out, _) = sealed.expect(0, &here(&["prune", "--dry-run"]));
    assert!(out.contains("would be retired") && out.contains("nothing was changed (dry run)"), "{out}");
    let (out, _) = sealed.expect(0, &here(&["forget", "data", "--keep-last", "1", "--prune", "--dry-run"]));
    assert!(out.contains("would be retired") && out.contains("nothing was changed (dry run)"), "{out}");
    let (out, _) = sealed.expect(0, &here(&["prune", "--grace", "0h", "--max-unused", "0%"]));
    assert!(out.contains("before,") && out.contains("freed,"), "{out}");
    let (out, _) = sealed.expect(0, &here(&["--json", "prune", "--dry-run"]));
    let json: serde_json::Value = serde_json::from_str(out.lines().next().unwrap()).unwrap();
    assert_eq!((&json["message_type"], &json["dry_run"]), (&"prune".into(), &true.into()), "{out}");
    assert_eq!(json["plan"]["packs"]["retire"], serde_json::json!([]));
    // With the usual grace it waits, and says until when.
    fs::write(sealed.path("data/noise"), tree::noise(4_500_000, 9)).unwrap();
    tree::age(&sealed.path("data"));
    sealed.backup();
    let (out, _) = sealed.expect(0, &here(&["forget", "data", "--keep-last", "1", "--prune"]));
    assert!(out.contains("waits until") || out.contains("wait until"), "{out}");
    let (out, _) = sealed.expect(0, &here(&["stats"]));
    assert!(out.contains("in packs that the next prunes delete"), "{out}");
    sealed.expect(0, &here(&["check", "--read-data"]));
    sealed.expect(0, &here(&["--identity", "identity.txt", "restore", "data", "--into", "back"]));
    assert_eq!(tree::describe(&sealed.path("back")), tree::describe(&sealed.path("data")));
    for bad in [["--max-unused", "5"], ["--grace", "5m"], ["--max-repack-size", "much"], ["--time-limit", "soon"]] {
        sealed.expect(2, &here(&[&["prune"], &bad[..]].concat()));
    }
}
