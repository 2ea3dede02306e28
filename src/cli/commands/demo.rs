//! `demo`: the main job end to end, with the same commands that a person would type, in a temporary place.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Parser;

use crate::cli::Outcome;
use crate::cli::args::{Cli, DemoArgs, Global};
use crate::cli::output::Ui;
use crate::cli::report::Failure;
use crate::ops::Kind;

/// The demo's place.
struct Stage {
    root: PathBuf,
    ui: Ui,
    stop: Arc<AtomicBool>,
    keep: bool,
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !self.keep {
            let _ = std::fs::remove_dir_all(&self.root);
        }
    }
}

/// Runs it.
pub fn run(args: &DemoArgs, global: Global, stop: Arc<AtomicBool>) -> Result<Outcome, Failure> {
    let root = match &args.keep {
        Some(dir) => dir.clone(),
        None => std::env::temp_dir().join(format!("lifeboat-demo-{}", std::process::id())),
    };
    if root.exists() && std::fs::read_dir(&root).is_ok_and(|mut all| all.next().is_some()) {
        let text = format!("`{}` is not empty", root.display());
        return Err(Failure::usage(text, "The demo wants a directory of its own."));
    }
    std::fs::create_dir_all(&root).map_err(|e| Failure::io("make", &root, e))?;
    let root = std::fs::canonicalize(&root).map_err(|e| Failure::io("find", &root, e))?;
    let ui = Ui { json: false, quiet: global.quiet };
    let stage = Stage { root, ui, stop, keep: args.keep.is_some() };
    play(&stage, args)?;
    Ok(Outcome::Done)
}

fn play(stage: &Stage, args: &DemoArgs) -> Result<(), Failure> {
    let data = stage.root.join("data");
    stage.title("A repository, and a key pair that reads it")?;
    stage.lifeboat(&["init", "--generate-identity", &stage.path("identity.txt")])?;
    stage.title("A first backup, then an unchanged one")?;
    generate(&data)?;
    stage.lifeboat(&["backup", "--path", &stage.path("data"), "--name", "data"])?;
    stage.lifeboat(&["backup", "--path", &stage.path("data"), "--name", "data"])?;
    copy(&data, &stage.root.join("data.before"))?;
    let before = chrono::Utc::now();
    // Times are shown and read to the second: the change comes in another second than the state that is asked for.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    stage.title("Something happens to the data; the next backup adds only what changed")?;
    change(&data)?;
    stage.lifeboat(&["backup", "--path", &stage.path("data"), "--name", "data"])?;
    stage.lifeboat(&["--identity", &stage.path("identity.txt"), "diff", "data"])?;
    if let Some(input) = &args.input {
        stage.title("Real input")?;
        let input = input.display().to_string();
        stage.lifeboat(&[
            "backup",
            "--path",
            &input,
            "--name",
            "real",
            "--exclude",
            "/target",
            "--exclude",
            "/.git",
        ])?;
    }
    stage.title("Back to the time before it happened, byte for byte")?;
    let time = before.to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
    let identity = stage.path("identity.txt");
    stage.lifeboat(&[
        "--identity",
        &identity,
        "restore",
        "data",
        "--to",
        &time,
        "--into",
        &stage.path("back"),
        "--verify",
    ])?;
    let compared = compare(&stage.root.join("data.before"), &stage.root.join("back"))?;
    stage.ui.answer(format!("compared  {compared} files with the originals, byte for byte: equal"))?;
    if args.input.is_some() {
        stage.lifeboat(&["--identity", &identity, "restore", "real", "--into", &stage.path("real"), "--verify"])?;
    }
    stage.title("Every stored byte, read and opened")?;
    stage.lifeboat(&["--identity", &identity, "check", "--read-data"])?;
    stage.lifeboat(&["--identity", &identity, "stats"])?;
    stage.title("Proved")?;
    stage.ui.answer("- an unchanged tree adds nothing but a new list of it")?;
    stage.ui.answer("- a changed tree adds what changed")?;
    stage.ui.answer("- the state before the change came back, every file compared with the original")?;
    stage.ui.answer("- every stored byte matches its digest")?;
    if stage.keep {
        stage.ui.answer(format!("All of it is in {}", stage.root.display()))?;
    }
    Ok(())
}

impl Stage {
    fn path(&self, name: &str) -> String {
        self.root.join(name).display().to_string()
    }

    fn title(&self, text: &str) -> Result<(), Failure> {
        self.ui.answer("")?;
        self.ui.answer(text)
    }

    /// Runs a command line as if it had been typed.
    fn lifeboat(&self, words: &[&str]) -> Result<(), Failure> {
        let (repo, state) = (format!("file://{}", self.path("repository")), self.path("state"));
        let empty = self.path("lifeboat.toml");
        if !Path::new(&empty).exists() {
            std::fs::write(&empty, "").map_err(|e| Failure::io("write", Path::new(&empty), e))?;
        }
        self.ui.answer(format!("$ lifeboat {}", words.join(" ").replace(&self.root.display().to_string(), "$DEMO")))?;
        let global = ["lifeboat", "--config", &empty, "--repo", &repo, "--state-dir", &state];
        let mut cli = Cli::try_parse_from(global.iter().chain(words))
            .map_err(|e| Failure::new(Kind::Failed, e.to_string(), None))?;
        // The demo has keys of its own: what the environment names is somebody's real ones.
        if !words.contains(&"--identity") {
            cli.global.identity.clear();
        }
        cli.global.recipient.clear();
        cli.global.catalog = None;
        match crate::cli::run(cli, Arc::clone(&self.stop))? {
            Outcome::Done => Ok(()),
            other => Err(Failure::new(Kind::Failed, format!("a step of the demo ended as {other:?}"), None)),
        }
    }
}

fn io<T>(doing: &str, path: &Path, result: std::io::Result<T>) -> Result<T, Failure> {
    result.map_err(|e| Failure::io(doing, path, e))
}

/// Documents, a database-like file and something incompressible; the same bytes at each run.
fn generate(data: &Path) -> Result<(), Failure> {
    let docs = data.join("documents");
    io("make", &docs, std::fs::create_dir_all(&docs))?;
    for n in 0..40u64 {
        let lines: String = (0..2000)
            .map(|line| {
                let mark = blake3::hash(&(n * 100_000 + line).to_le_bytes()).to_hex();
                format!("{{\"_id\":\"{}\",\"name\":\"customer {line}\",\"total\":{}}}\n", &mark[..24], line * 17 % 9973)
            })
            .collect();
        let path = docs.join(format!("{n:02}.jsonl"));
        io("write", &path, std::fs::write(&path, lines))?;
    }
    let mut noise = vec![0; 6 << 20];
    blake3::Hasher::new_derive_key("lifeboat demo").finalize_xof().fill(&mut noise);
    let path = data.join("picture.jpg");
    io("write", &path, std::fs::write(&path, noise))?;
    let path = data.join("latest");
    io("link", &path, std::os::unix::fs::symlink("documents/39.jsonl", &path))
}

/// What a bad day does: one file damaged in the middle, one gone, one new.
fn change(data: &Path) -> Result<(), Failure> {
    let path = data.join("documents/07.jsonl");
    let mut text = io("read", &path, std::fs::read_to_string(&path))?;
    text.replace_range(1000..1040, "!!!! a bad migration wrote over this !!!");
    io("write", &path, std::fs::write(&path, text))?;
    let path = data.join("documents/21.jsonl");
    io("remove", &path, std::fs::remove_file(&path))?;
    let path = data.join("documents/40.jsonl");
    io("write", &path, std::fs::write(&path, "{\"_id\":\"new\"}\n"))
}

fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    io("make", to, std::fs::create_dir_all(to))?;
    for entry in io("list", from, std::fs::read_dir(from))? {
        let entry = io("list", from, entry)?;
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        let kind = io("look at", &path, entry.file_type())?;
        if kind.is_dir() {
            copy(&path, &target)?;
        } else if kind.is_symlink() {
            let link = io("read", &path, std::fs::read_link(&path))?;
            io("link", &target, std::os::unix::fs::symlink(link, &target))?;
        } else {
            io("copy", &path, std::fs::copy(&path, &target))?;
        }
    }
    Ok(())
}

/// Compares two trees, names and bytes; returns how many files.
fn compare(one: &Path, other: &Path) -> Result<u64, Failure> {
    let names = |dir: &Path| -> Result<Vec<std::ffi::OsString>, Failure> {
        let all = io("list", dir, std::fs::read_dir(dir))?;
        let mut names: Vec<_> = all.filter_map(|entry| entry.ok().map(|e| e.file_name())).collect();
        names.sort();
        Ok(names)
    };
    let differ = |path: &Path| Failure::new(Kind::Damage, format!("`{}` is not what it was", path.display()), None);
    let (ours, theirs) = (names(one)?, names(other)?);
    if ours != theirs {
        return Err(differ(other));
    }
    let mut files = 0;
    for name in ours {
        let (a, b) = (one.join(&name), other.join(&name));
        let kind = io("look at", &a, std::fs::symlink_metadata(&a))?.file_type();
        if kind.is_dir() {
            files += compare(&a, &b)?;
        } else if kind.is_symlink() {
            if io("read", &a, std::fs::read_link(&a))? != io("read", &b, std::fs::read_link(&b))? {
                return Err(differ(&b));
            }
        } else {
            if io("read", &a, std::fs::read(&a))? != io("read", &b, std::fs::read(&b))? {
                return Err(differ(&b));
            }
            files += 1;
        }
    }
    Ok(files)
}
