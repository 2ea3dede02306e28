//! docs/deploy: what cannot be run here is at least what its readers would accept: units by systemd's own check, compose files as YAML with the
//! commands of this program, cron lines with commands that it knows.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::common::servers::tool_folder;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/deploy")
}

fn named(ending: &[&str]) -> Vec<PathBuf> {
    let all = fs::read_dir(deploy()).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> =
        all.filter(|path| ending.iter().any(|ending| path.to_string_lossy().ends_with(ending))).collect();
    found.sort();
    assert!(!found.is_empty(), "{ending:?}");
    found
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Whether a command line is one of this program: its flags are known.
fn assert_known(words: &[&str]) {
    let words: Vec<&str> = words.iter().copied().filter(|word| !word.contains('%') && !word.contains('$')).collect();
    let output = Command::new(env!("CARGO_BIN_EXE_lifeboat")).args(&words).arg("--help").output().unwrap();
    assert!(output.status.success() && said(&output).contains("Usage: lifeboat "), "{words:?}: {}", said(&output));
}

#[test]
fn systemd_reads_the_units() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        assert!(
            std::env::var_os("LIFEBOAT_TEST_REQUIRE").is_none(),
            "no systemd-analyze: scripts/install-tools systemd-analyze"
        );
        eprintln!("SKIPPED: systemd-analyze is not installed (scripts/install-tools systemd-analyze)");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let units = named(&[".service", ".timer"]);
    for unit in &units {
        let text = fs::read_to_string(unit).unwrap();
        for line in text.lines().filter_map(|line| line.strip_prefix("ExecStart=")) {
            let words: Vec<&str> =
                line.split_whitespace().skip_while(|word| !word.ends_with("lifeboat")).skip(1).collect();
            assert_known(&words);
        }
        // The check looks whether the program is there.
        let here = text.replace("/usr/local/bin/lifeboat", env!("CARGO_BIN_EXE_lifeboat"));
        fs::write(folder.path().join(unit.file_name().unwrap()), here).unwrap();
    }
    for unit in units {
        let mut command = Command::new("systemd-analyze");
        command.current_dir(folder.path()).arg("verify").arg(folder.path().join(unit.file_name().unwrap()));
        let output = command.output().unwrap();
        assert!(output.status.success() && said(&output).trim().is_empty(), "{}: {}", unit.display(), said(&output));
    }
    // It does refuse what is wrong.
    fs::write(folder.path().join("wrong.service"), "[Service]\nExecStart=nowhere\n").unwrap();
    let output =
        Command::new("systemd-analyze").arg("verify").arg(folder.path().join("wrong.service")).output().unwrap();
    assert!(!output.status.success(), "{}", said(&output));
}

#[test]
fn compose_files_are_yaml_with_our_commands() {
    let Some(tools) = tool_folder("moto", "moto/moto/server.py") else { return };
    let script = "import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1]))))";
    for file in named(&[".yml"]) {
        let mut command = Command::new("python3");
        let output = command.env("PYTHONPATH", &tools).args(["-c", script]).arg(&file).output().unwrap();
        assert!(output.status.success(), "{}: {}", file.display(), said(&output));
        let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let mut ours = 0;
        for (name, service) in value["services"].as_object().unwrap() {
            // What it names is there.
            for secret in service["secrets"].as_array().into_iter().flatten() {
                assert!(value["secrets"][secret.as_str().unwrap()].is_object(), "{name}: {secret}");
            }
            let list = service["command"].as_array().or_else(|| service["entrypoint"].as_array());
            let words: Vec<&str> = list.into_iter().flatten().filter_map(serde_json::Value::as_str).collect();
            let text = words.join(" ");
            // A script for the shell, or the program with its arguments.
            for part in text.split("lifeboat ").skip(1) {
                let ends = ["&&", "||", ";", "|", "sleep"];
                let words: Vec<&str> = part.split_whitespace().take_while(|word| !ends.contains(word)).collect();
                assert_known(&words.iter().map(|word| word.trim_matches([';', '"'])).collect::<Vec<_>>());
                ours += 1;
            }
        }
        assert!(ours > 0, "{}", file.display());
    }
}

#[test]
fn cron_runs_commands_that_there_are() {
    let text = fs::read_to_string(deploy().join("cron.d-lifeboat")).unwrap();
    let mut lines = 0;
    for line in text.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit() || c == '*')) {
        for part in line.split("lifeboat ").skip(1) {
            let words: Vec<&str> =
                part.split_whitespace().take_while(|word| !["&&", "||", ";", "|"].contains(word)).collect();
            assert_known(&words.iter().map(|word| word.trim_matches('\'')).collect::<Vec<_>>());
            lines += 1;
        }
    }
    assert!(lines > 2, "{text}");
}

#[test]
fn the_container_has_what_the_static_build_makes() {
    let text = fs::read_to_string(deploy().join("Dockerfile")).unwrap();
    let script = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/build-static")).unwrap();
    assert!(text.contains("FROM scratch\n") && text.contains("COPY target/static/lifeboat /lifeboat\n"));
    assert!(script.contains("target/static/lifeboat\n"));
    assert_known(&["agent"]);
}
