//! The floor plan and other habits, as failing tests.

use std::fs;
use std::path::{Path, PathBuf};

/// Lowest first: each module, and the modules it may name.
const FLOORS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("progress", &["model"]),
    ("words", &[]),
    ("chunk", &["model"]),
    ("format", &["model"]),
    ("seal", &["model"]),
    ("pack", &["model", "seal"]),
    ("plan", &["model"]),
    ("schedule", &["model"]),
    ("notify", &["model"]),
    ("store", &["model"]),
    ("client", &["model", "format"]),
    ("source", &["model", "progress", "format", "client", "store"]),
    ("destination", &["model", "progress"]),
    ("catalog", &["model"]),
    ("repository", &["model", "progress", "chunk", "format", "seal", "pack", "plan", "store", "catalog"]),
    (
        "ops",
        &[
            "model",
            "progress",
            "chunk",
            "format",
            "seal",
            "pack",
            "plan",
            "store",
            "client",
            "source",
            "destination",
            "catalog",
            "repository",
        ],
    ),
    ("config", &["model", "schedule", "notify", "seal", "store", "client", "source", "repository"]),
    ("serve", &["model", "words", "plan", "notify", "ops"]),
    (
        "cli",
        &[
            "model",
            "progress",
            "words",
            "serve",
            "chunk",
            "format",
            "seal",
            "pack",
            "plan",
            "schedule",
            "notify",
            "store",
            "client",
            "source",
            "destination",
            "catalog",
            "repository",
            "ops",
            "config",
        ],
    ),
];

fn rust_files(path: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    let file = path.with_extension("rs");
    if file.is_file() {
        all.push(file);
    }
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                all.extend(rust_files(&path));
            } else if path.extension().is_some_and(|e| e == "rs") && !all.contains(&path) {
                all.push(path);
            }
        }
    }
    all.sort();
    all.dedup();
    all
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

#[test]
fn imports_only_go_down() {
    let mut wrong = Vec::new();
    for (floor, (module, may)) in FLOORS.iter().enumerate() {
        assert!(may.iter().all(|m| FLOORS[..floor].iter().any(|(below, _)| below == m)), "{module}");
        for path in rust_files(&src().join(module)) {
            let text = fs::read_to_string(&path).unwrap();
            for (n, line) in text.lines().enumerate() {
                for tail in line.split("crate::").skip(1) {
                    let named: String = tail.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                    // `use crate::{a, b}` names several.
                    let all: Vec<String> = match tail.strip_prefix('{') {
                        Some(list) => list.split([',', '}', ';']).map(|s| s.trim().to_owned()).collect(),
                        None => vec![named],
                    };
                    for named in all.iter().filter(|n| !n.is_empty()) {
                        let known = FLOORS.iter().any(|(m, _)| m == named);
                        if named != module && known && !may.contains(&named.as_str()) {
                            wrong.push(format!("{}:{}: `{module}` may not name `{named}`", path.display(), n + 1));
                        }
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_module_stands_on_a_floor() {
    let mut found: Vec<String> = fs::read_dir(src())
        .unwrap()
        .map(|e| e.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .filter(|name| !["lib", "main"].contains(&name.as_str()))
        .collect();
    found.sort();
    found.dedup();
    let mut expected: Vec<String> = FLOORS.iter().map(|(m, _)| (*m).to_owned()).collect();
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn every_module_says_its_job_first() {
    for path in rust_files(&src()) {
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("//!"), "{} opens without its job", path.display());
    }
}

#[test]
fn files_and_functions_stay_short() {
    let mut wrong = Vec::new();
    for path in rust_files(&src()) {
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        let lines = code.lines().count();
        if lines > 600 {
            wrong.push(format!("{}: {lines} lines before its tests", path.display()));
        }
        let mut start = None;
        for (n, line) in code.lines().enumerate() {
            let opens = line.trim_start().split("fn ").next().is_some_and(|before| {
                ["", "pub ", "pub(super) ", "pub(crate) "].contains(&before) && line.contains("fn ")
            });
            let indent = line.len() - line.trim_start().len();
            if opens {
                start = Some((n, indent));
            }
            if let Some((from, at)) = start
                && line.len() == at + 1
                && line.ends_with('}')
            {
                if n - from > 90 {
                    wrong.push(format!("{}:{}: a function of {} lines", path.display(), from + 1, n - from));
                }
                start = None;
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_dependency_has_its_reason() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    let mut section = "";
    for line in text.lines() {
        if line.starts_with('[') {
            section = line;
        } else if section.contains("dependencies") && line.contains('=') {
            assert!(line.contains(" # "), "`{line}` has no reason behind it");
        }
    }
}
