//! What of PostgreSQL and its surroundings this host has: asked of its programs, for the comparison in `plan::environment`.
//!
//! Invariants: what cannot be told is left out, never guessed; nothing is started but programs that print a version or a path.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::client::Programs;
use crate::plan::environment::{Host, Installed};

/// This host, for a cluster of a major version.
pub fn look(major: u32) -> Host {
    let programs = Programs::new(None);
    let servers = programs.all("postgres");
    let own = servers.iter().find(|program| program.major == major);
    let config = own.and_then(|program| Some(program.path.parent()?.join("pg_config")));
    Host {
        architecture: std::env::consts::ARCH.to_owned(),
        glibc: crate::client::programs::glibc(),
        servers: servers.iter().map(|program| program.major).collect(),
        installed: config.and_then(|config| installed(&config)),
    }
}

fn installed(config: &Path) -> Option<Installed> {
    let ask = |flag: &str| {
        let output = Command::new(config).arg(flag).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        (output.status.success() && text.starts_with('/')).then_some(text)
    };
    let (libraries, shared) = (ask("--pkglibdir")?, ask("--sharedir")?);
    Some(Installed {
        libraries: names(Path::new(&libraries), ".so")?,
        extensions: names(&Path::new(&shared).join("extension"), ".control")?,
    })
}

/// Names of a directory that end so, without the end.
fn names(directory: &Path, end: &str) -> Option<BTreeSet<String>> {
    let entries = std::fs::read_dir(directory).ok()?.flatten();
    Some(entries.filter_map(|entry| entry.file_name().to_str()?.strip_suffix(end).map(str::to_owned)).collect())
}
